"""POST /v1/gate and the moderators' queue over HTTP, over real records; the gate is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from fastapi import FastAPI

from deployments.runtime.errors import NodeUnavailable, Overloaded
from serve_app.gating import FakeGate
from serve_app.http.app import create_app
from serve_app.http.services import Services
from serve_app.http.settings import HttpSettings
from tests.http.building import build_services, client_of, text_post

DISCARD = {"outcome": "discard", "category": "hate"}


@pytest.fixture
def gate() -> FakeGate:
    return FakeGate()


@pytest.fixture
async def services(tmp_path: Path, gate: FakeGate) -> AsyncIterator[Services]:
    built = build_services(tmp_path, HttpSettings(auth="keys"), gate=gate)
    await built.records.start()
    yield built
    await built.records.close()


@pytest.fixture
def app(services: Services) -> FastAPI:
    return create_app(services)


@pytest.fixture
async def people(app: FastAPI, services: Services) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """Clients with keys of their own, and one post of each kind."""
    opened: dict[str, httpx.AsyncClient] = {}
    for name, scope in (("app", "ingest"), ("one", "review"), ("two", "review"), ("admin", "admin")):
        _, shown = await services.records.keys.create_key(name, [scope])
        opened[name] = client_of(app, **{"X-API-Key": shown})
    for post in (text_post("good"), text_post("bad", caption="hate", author_id="a2")):
        assert (await opened["app"].post("/v1/posts", json=post)).status_code == 200
    yield opened
    for client in opened.values():
        await client.aclose()


async def gated(people: dict[str, httpx.AsyncClient], **asked: Any) -> httpx.Response:
    return await people["app"].post("/v1/gate", json=asked)


async def claimed(people: dict[str, httpx.AsyncClient], who: str = "one", **asked: Any) -> list[dict[str, Any]]:
    answer = await people[who].post("/v1/reviews:claim", json=asked)
    assert answer.status_code == 200
    reviews: list[dict[str, Any]] = answer.json()["reviews"]
    return reviews


class TestGate:
    async def test_it_decides_and_answers_the_same_ever_after(
        self, people: dict[str, httpx.AsyncClient], gate: FakeGate
    ) -> None:
        first = await gated(people, post_id="bad", views=1204)
        assert first.status_code == 200
        body = first.json()
        assert (body["action"], body["milestone"], body["threshold"], body["audit"]) == ("review", 1000, 0.5, False)
        assert body["history"] == {"status": "missing", "posts": None, "discards": None, "window_days": 180}
        assert (await gated(people, post_id="bad", views=1900, milestone=1000)).json() == body
        assert len(gate.asked) == 1
        assert (await gated(people, post_id="bad", views=2000)).json()["milestone"] == 2000

    @pytest.mark.parametrize(
        ("asked", "status", "param"),
        [
            ({"post_id": "good", "views": -1}, 400, "views"),
            ({"post_id": "good", "views": 999}, 400, "views"),
            ({"post_id": "good", "views": 2**63}, 400, "views"),
            ({"post_id": "good", "views": "1000"}, 400, "views"),
            ({"post_id": "good", "views": 1000.5}, 400, "views"),
            ({"post_id": "good", "views": 1500, "milestone": 2000}, 400, "views"),
            ({"post_id": "good", "views": 1500, "milestone": 1500}, 400, "milestone"),
            ({"post_id": "good", "views": 1000, "at": "2026-11-01T10:00:00"}, 400, "at"),
            ({"post_id": "good", "views": 1000, "extra": 1}, 400, "extra"),
            ({"post_id": "a/b", "views": 1000}, 400, "post_id"),
            ({"post_id": "good"}, 400, "views"),
            ({"post_id": "nobody", "views": 1000}, 404, None),
        ],
    )
    async def test_bad_input_is_told_and_changes_nothing(
        self,
        people: dict[str, httpx.AsyncClient],
        services: Services,
        asked: dict[str, Any],
        status: int,
        param: str | None,
    ) -> None:
        answer = await gated(people, **asked)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
        assert await services.records.gate.waiting() == (0, None)

    async def test_the_future_is_refused(self, people: dict[str, httpx.AsyncClient]) -> None:
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        answer = await gated(people, post_id="good", views=1000, at=soon)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "at")

    async def test_a_time_of_any_zone(self, people: dict[str, httpx.AsyncClient]) -> None:
        at = datetime.now(UTC) - timedelta(minutes=5)
        local = at.astimezone(ZoneInfo("Asia/Kolkata")).isoformat()
        answer = await gated(people, post_id="good", views=1000, at=local)
        assert datetime.fromisoformat(answer.json()["reached_at"]) == at

    async def test_a_post_that_waits_for_its_verdict(self, people: dict[str, httpx.AsyncClient]) -> None:
        waits = await people["app"].post("/v1/posts", json=text_post("later"), headers={"Prefer": "respond-async"})
        assert waits.status_code == 202
        answer = await gated(people, post_id="later", views=1000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_judged")

    @pytest.mark.parametrize(("error", "status"), [(NodeUnavailable(), 503), (Overloaded(), 429)])
    async def test_a_gate_that_cannot_answer(
        self, people: dict[str, httpx.AsyncClient], gate: FakeGate, app: FastAPI, error: Exception, status: int
    ) -> None:
        gate.errors = [error]
        assert (await gated(people, post_id="good", views=1000)).status_code == status
        assert await app.state.gating.run_once() == 1  # it was not forgotten
        assert (await gated(people, post_id="good", views=1000)).json()["action"] == "skip"

    async def test_the_worker_beside_the_server_decides_what_events_bring(
        self, people: dict[str, httpx.AsyncClient], app: FastAPI, services: Services
    ) -> None:
        from tests.records.conclusions import concluded, views

        await services.records.events.conclude([concluded(views(1000, "bad"))])
        app.state.gate_worker.start()
        async with asyncio.timeout(10):
            while not await services.records.gate.decisions("bad"):
                await asyncio.sleep(0.02)
        await app.state.gate_worker.stop()
        assert [review["post_id"] for review in await claimed(people)] == ["bad"]


class TestReviews:
    async def test_claim_decide_undo_decide(self, people: dict[str, httpx.AsyncClient], services: Services) -> None:
        await gated(people, post_id="bad", views=1000)
        (review,) = await claimed(people, n=10)
        assert (review["status"], review["sources"], review["milestone"]) == ("claimed", ["gate"], 1000)
        place = f"/v1/reviews/{review['review_id']}"
        assert await claimed(people, "two", n=10) == []
        assert (await people["two"].post(f"{place}/decision", json=DISCARD)).json()["error"][
            "code"
        ] == "review_not_held"
        decided = await people["one"].post(f"{place}/decision", json=DISCARD | {"note": "second 12"})
        assert (decided.status_code, decided.json()["status"], decided.json()["note"]) == (200, "decided", "second 12")
        again = await people["one"].post(f"{place}/decision", json=DISCARD | {"note": "second 12"})
        assert again.json() == decided.json()
        other = await people["one"].post(f"{place}/decision", json={"outcome": "ok"})
        assert (other.status_code, other.json()["error"]["code"]) == (409, "review_decided")
        assert (await people["two"].post(f"{place}/undo")).status_code == 409
        undone = await people["one"].post(f"{place}/undo")
        assert (undone.status_code, undone.json()["status"], undone.json()["outcome"]) == (200, "claimed", None)
        assert (await people["one"].post(f"{place}/undo")).status_code == 200
        assert (await people["one"].post(f"{place}/decision", json={"outcome": "ok"})).json()["outcome"] == "ok"
        assert (await people["admin"].post(f"{place}/undo")).json()["status"] == "claimed"
        actions = [entry.action for entry in await services.records.audit.entries("bad")]
        assert actions == ["review.undo", "review.decide", "review.undo", "review.decide", "review.claim"]

    @pytest.mark.parametrize(
        "body",
        [
            {"outcome": "maybe"},
            {"outcome": "discard"},
            {"outcome": "ok", "category": "hate"},
            {"outcome": "discard", "category": "safe"},
            {"outcome": "ok", "note": "a\u0000b"},
            {"outcome": "ok", "note": "x" * 2001},
            {},
        ],
    )
    async def test_a_malformed_decision(self, people: dict[str, httpx.AsyncClient], body: dict[str, Any]) -> None:
        await gated(people, post_id="bad", views=1000)
        (review,) = await claimed(people)
        answer = await people["one"].post(f"/v1/reviews/{review['review_id']}/decision", json=body)
        assert answer.status_code == 400
        assert (await people["one"].get(f"/v1/reviews/{review['review_id']}")).json()["status"] == "claimed"

    @pytest.mark.parametrize("body", [{"n": 0}, {"n": 101}, {"n": "2"}, {"languages": []}, {"languages": ["??"]}])
    async def test_a_malformed_claim(self, people: dict[str, httpx.AsyncClient], body: dict[str, Any]) -> None:
        assert (await people["one"].post("/v1/reviews:claim", json=body)).status_code == 400

    async def test_what_is_not_there(self, people: dict[str, httpx.AsyncClient]) -> None:
        for method, path in (("GET", ""), ("POST", "/decision"), ("POST", "/undo")):
            body = DISCARD if path == "/decision" else None
            answer = await people["one"].request(method, f"/v1/reviews/nothing{path}", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "review_not_found")

    async def test_an_erased_post_leaves_the_queue(self, people: dict[str, httpx.AsyncClient]) -> None:
        await gated(people, post_id="bad", views=1000)
        (review,) = await claimed(people)
        assert (await people["admin"].delete("/v1/posts/bad")).status_code == 204
        answer = await people["one"].post(f"/v1/reviews/{review['review_id']}/decision", json=DISCARD)
        assert answer.status_code == 404
