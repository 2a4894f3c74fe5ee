"""Every broker as a `world`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.events.brokers.fake import FakeBroker
from tests.events.brokers.worlds import World, settings_for


@pytest.fixture(params=["fake", "kafka", "nats"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    name: str = request.param
    if name == "fake":
        made = World(name, fake=FakeBroker())
    else:
        made = World(name, settings=settings_for(name, request.getfixturevalue(f"{name}_server")))
    yield made
    await made.close()
