"""livez and readyz: not ready only where no verdict can be given; everything less is degraded, with its reason."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest

from deployments.runtime.values import NodeStatus
from serve_app.http.app import create_app
from serve_app.http.fakes import NODES, FakeModerator
from serve_app.http.health import overall
from serve_app.http.settings import HttpSettings
from tests.http.building import build_services, client_of

READY = NodeStatus("records", "ready")
SICK = NodeStatus("records", "sick")


def nodes(*down: str) -> list[NodeStatus]:
    return [NodeStatus(node, "sick" if node in down else "ready") for node in (*NODES, "similarity")]


@pytest.mark.parametrize(
    ("down", "status"),
    [
        ((), "ready"),
        (("media",), "degraded"),
        (("clip",), "degraded"),
        (("clip", "vggish"), "degraded"),
        (("clip", "vggish", "xlmr"), "not_ready"),
        (("fusion",), "not_ready"),
        (("similarity",), "degraded"),
        (("clip", "vggish", "xlmr", "media"), "not_ready"),  # similarity alone gives no verdict
        (NODES, "not_ready"),
    ],
)
def test_what_is_down_decides(down: Iterable[str], status: str) -> None:
    assert overall(nodes(*down), READY, keys_needed=True) == status


def test_without_the_database_keys_cannot_be_checked() -> None:
    assert overall(nodes(), SICK, keys_needed=True) == "not_ready"
    assert overall(nodes(), SICK, keys_needed=False) == "degraded"


async def test_ready(client: httpx.AsyncClient) -> None:
    answer = await client.get("/readyz")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["profile"], body["profile_note"]) == ("ready", "local", "stand-ins")
    fusion = next(node for node in body["nodes"] if node["node"] == "fusion")
    assert fusion == {
        "node": "fusion",
        "state": "ready",
        "reason": None,
        "last_forward_age_s": 0.5,
        "model": {"name": "fake", "version": "1", "weights": "random", "note": ""},
    }


async def test_degraded_is_200_and_says_who_and_why(client: httpx.AsyncClient, moderator: FakeModerator) -> None:
    moderator.sick = {"clip": "its oldest batch runs for 70 s"}
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert "its oldest batch runs for 70 s" in answer.text


async def test_not_ready_is_503(client: httpx.AsyncClient, moderator: FakeModerator) -> None:
    moderator.sick = {"fusion": "loading"}
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
    assert answer.headers["retry-after"]


async def test_many_probes_are_one_look(client: httpx.AsyncClient, moderator: FakeModerator) -> None:
    moderator.delay_s = 0.1
    await asyncio.gather(*(client.get("/readyz") for _ in range(20)))
    await client.get("/readyz")
    assert moderator.status_calls == 1


async def test_a_look_is_not_kept_for_long(tmp_path: Path, moderator: FakeModerator) -> None:
    services = build_services(tmp_path, HttpSettings(auth="off", readiness_ttl_s=0.05), moderator=moderator)
    async with client_of(create_app(services)) as client:
        await client.get("/readyz")
        await asyncio.sleep(0.1)
        await client.get("/readyz")
    assert moderator.status_calls == 2
    await services.records.close()


async def test_a_graph_that_cannot_be_asked_is_not_ready(tmp_path: Path) -> None:
    class Broken(FakeModerator):
        async def status(self) -> list[NodeStatus]:
            raise RuntimeError("secret")

    services = build_services(tmp_path, moderator=Broken())
    async with client_of(create_app(services)) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "secret" not in answer.text
        assert (await client.get("/livez")).json() == {"status": "alive"}
    await services.records.close()


async def test_docs_are_served(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    assert "swagger" in page.lower()
    used = [path for path in re.findall(r'(?:src|href)="([^"]+)"', page) if not path.startswith("data:")]
    assert used
    assert all(path.startswith("/") for path in used)  # nothing from another host: it works without a network
    assert [(await client.get(path)).status_code for path in used] == [200] * len(used)
