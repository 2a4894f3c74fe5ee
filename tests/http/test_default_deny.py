"""Closed unless said otherwise: every route asks for a key with the right scope, but the ones listed here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from serve_app.fake_similarity import FakeSimilarity
from serve_app.http.app import create_app
from serve_app.http.services import Services
from serve_app.http.settings import HttpSettings
from serve_app.records.keys import SCOPES, Scope
from tests.http.building import build_services, client_of

OPEN = {"/livez", "/readyz", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/static-offline-docs"}
NEEDS: dict[tuple[str, str], Scope] = {
    ("POST", "/v1/moderations"): "ingest",
    ("POST", "/v1/embeddings"): "ingest",
    ("POST", "/v1/posts"): "ingest",
    ("GET", "/v1/posts/{post_id}"): "read",
    ("DELETE", "/v1/posts/{post_id}"): "admin",
    ("POST", "/v1/streams/{stream_id}/clips"): "ingest",
    ("POST", "/v1/streams/{stream_id}/audio"): "ingest",
    ("GET", "/v1/streams/{stream_id}"): "read",
    ("GET", "/v1/streams/{stream_id}/clips"): "read",
    ("DELETE", "/v1/streams/{stream_id}"): "admin",
    ("POST", "/v1/gate"): "ingest",
    ("POST", "/v1/reviews:claim"): "review",
    ("GET", "/v1/reviews/{review_id}"): "review",
    ("POST", "/v1/reviews/{review_id}/decision"): "review",
    ("POST", "/v1/reviews/{review_id}/undo"): "review",
    ("POST", "/v1/search"): "read",
    ("POST", "/v1/search:batch"): "read",
    ("GET", "/v1/indexes"): "read",
    ("GET", "/v1/indexes/{partition}"): "read",
    ("POST", "/v1/indexes:reconcile"): "admin",
    ("PUT", "/v1/indexes/{partition}/items/{item_id}"): "admin",
    ("DELETE", "/v1/indexes/{partition}/items/{item_id}"): "admin",
    ("POST", "/v1/indexes/{partition}/items:batch"): "admin",
    ("POST", "/v1/references"): "admin",
    ("POST", "/v1/references:batch"): "admin",
    ("GET", "/v1/references"): "read",
    ("GET", "/v1/references/{reference_id}"): "read",
    ("PATCH", "/v1/references/{reference_id}"): "admin",
    ("DELETE", "/v1/references/{reference_id}"): "admin",
    ("GET", "/v1/hash-lists"): "admin",
    ("POST", "/v1/hash-lists/{name}"): "admin",
    ("GET", "/v1/hash-lists/{name}"): "admin",
    ("DELETE", "/v1/hash-lists/{name}"): "admin",
    ("POST", "/v1/shown"): "ingest",
    ("POST", "/v1/shown:check"): "read",
}
IDS = {
    "post_id": "p1",
    "partition": "posts.any.image.visual",
    "item_id": "i1",
    "reference_id": "r1",
    "name": "list-1",
    "stream_id": "s1",
    "review_id": "v1",
}


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    built = build_services(tmp_path, HttpSettings(auth="keys"), index=FakeSimilarity())
    await built.records.start()
    yield built
    await built.records.close()


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(services)) as opened:
        yield opened


def operations(services: Services) -> set[tuple[str, str]]:
    described = create_app(services).openapi()["paths"]
    return {(method.upper(), path) for path, found in described.items() for method in found}


def test_every_route_is_known_here(services: Services) -> None:
    closed = {(method, path) for method, path in operations(services) if path not in OPEN}
    assert closed == set(NEEDS)


def test_no_route_hides_from_the_description(services: Services) -> None:
    described = {path for _, path in operations(services)}
    paths = set(every_path(create_app(services).routes))
    assert paths - OPEN <= described
    assert len(paths) >= len(described)


def every_path(routes: Sequence[object]) -> list[str]:
    found = []
    for route in routes:
        if isinstance(route, Route) or hasattr(route, "path"):
            found.append(str(route.path))
        included = getattr(route, "original_router", route)  # how this FastAPI holds an included router
        found.extend(every_path(getattr(included, "routes", None) or []))
    return [path for path in found if path]


@pytest.mark.parametrize(("method", "path"), NEEDS)
async def test_without_a_key_it_is_401(client: httpx.AsyncClient, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer pk_a_b"}, {"Authorization": "Basic eDp5"}, {"X-API-Key": "x"}):
        assert (await client.request(method, path.format(**IDS), headers=headers)).status_code == 401


@pytest.mark.parametrize(("method", "path"), NEEDS)
async def test_every_other_scope_is_403(client: httpx.AsyncClient, services: Services, method: str, path: str) -> None:
    needed = NEEDS[method, path]
    for scope in SCOPES:
        _, key = await services.records.keys.create_key(scope, [scope])
        answer = await client.request(method, path.format(**IDS), headers={"X-API-Key": key})
        allowed = scope in (needed, "admin")
        assert (answer.status_code != 403) is allowed, (scope, answer.status_code)
        assert answer.status_code != 401


@pytest.mark.parametrize("path", sorted(OPEN - {"/docs/oauth2-redirect", "/static-offline-docs"}))
async def test_the_open_ones_are_open(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


async def test_both_headers_are_taken_and_a_revoked_key_is_not(client: httpx.AsyncClient, services: Services) -> None:
    key, shown = await services.records.keys.create_key("k", ["ingest"])
    for headers in ({"Authorization": f"Bearer {shown}"}, {"authorization": f"bearer {shown}"}, {"X-API-Key": shown}):
        assert (await client.post("/v1/moderations", json={"input": "hi"}, headers=headers)).status_code == 200
    await services.records.keys.revoke_key(key.key_id)
    refused = await client.post("/v1/moderations", json={"input": "hi"}, headers={"X-API-Key": shown})
    assert refused.status_code == 401


async def test_two_clients_may_use_the_same_idempotency_key(client: httpx.AsyncClient, services: Services) -> None:
    post = {"author_id": "a", "content_type": "text", "caption": "hi", "created_at": "2026-11-01T10:00:00Z"}
    for name in ("one", "two"):
        _, shown = await services.records.keys.create_key(name, ["ingest"])
        headers = {"X-API-Key": shown, "Idempotency-Key": "1"}
        answer = await client.post("/v1/posts", json=post | {"post_id": name}, headers=headers)
        assert answer.status_code == 200


async def test_a_body_is_not_read_before_the_key(client: httpx.AsyncClient) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1024

    answer = await client.post("/v1/posts", content=body(), headers={"content-type": "application/json"})
    assert (answer.status_code, read) == (401, 0)
