"""A real application over real records (SQLite) and a real media store; only the moderator is a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from serve_app.config import AppConfig
from serve_app.http.app import create_app
from serve_app.http.fakes import FakeModerator
from serve_app.http.services import Services
from tests.http import graph_of_fakes
from tests.http.building import build_services, client_of


@pytest.fixture
def moderator() -> FakeModerator:
    return FakeModerator()


@pytest.fixture
async def services(tmp_path: Path, moderator: FakeModerator) -> AsyncIterator[Services]:
    built = build_services(tmp_path, moderator=moderator)
    await built.records.start()
    yield built
    await built.records.close()


@pytest.fixture
def app(services: Services) -> FastAPI:
    """Without its lifespan: no job worker runs unless a test starts it."""
    return create_app(services)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as opened:
        yield opened


@pytest.fixture
async def graph(fake_config: AppConfig, tmp_path: Path) -> AsyncIterator[graph_of_fakes.Graph]:
    """The whole service with the fake index."""
    async with graph_of_fakes.graph_of(fake_config, tmp_path) as found:
        yield found


@pytest.fixture(params=["fake", "node"])
async def either(
    request: pytest.FixtureRequest, fake_config: AppConfig, tmp_path: Path
) -> AsyncIterator[graph_of_fakes.Graph]:
    """With the fake index, and with the true one."""
    if request.param == "fake":
        async with graph_of_fakes.graph_of(fake_config, tmp_path) as found:
            yield found
        return
    async with (
        graph_of_fakes.true_node(tmp_path) as node,
        graph_of_fakes.graph_of(fake_config, tmp_path, similarity=node) as found,
    ):
        yield found
