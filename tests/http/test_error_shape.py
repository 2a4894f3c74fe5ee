"""Every error of every route has one shape; a 500 says nothing of its cause, a 429 and a 503 say when to come back."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.runtime.errors import ParakhError
from deployments.runtime.values import ModelCard
from serve_app.http.app import create_app
from serve_app.http.errors import error_object, recorded_error
from serve_app.http.fakes import FakeModerator
from serve_app.http.settings import HttpSettings
from serve_app.records import Records
from tests.http.building import build_services, client_of, text_post

ROUTES = [
    ("POST", "/v1/moderations"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/posts"),
    ("GET", "/v1/posts/p1"),
    ("DELETE", "/v1/posts/p1"),
    ("GET", "/v1/indexes"),
    ("PUT", "/v1/indexes/posts.any.image.visual/items/i1"),
    ("DELETE", "/v1/indexes/posts.any.image.visual/items/i1"),
    ("POST", "/v1/indexes/posts.any.image.visual/items:batch"),
    ("POST", "/v1/search"),
    ("POST", "/v1/search:batch"),
    ("POST", "/v1/references"),
    ("POST", "/v1/references:batch"),
    ("GET", "/v1/references/r1"),
    ("DELETE", "/v1/references/r1"),
    ("POST", "/v1/hash-lists/list-1"),
    ("GET", "/v1/hash-lists/list-1"),
    ("DELETE", "/v1/hash-lists/list-1"),
    ("POST", "/v1/shown"),
    ("POST", "/v1/shown:check"),
]
JUDGING = {"/v1/moderations": {"input": "hi"}, "/v1/posts": text_post()}
SECRET = "/etc/secret is in this text"


def check_shape(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert body["error"]["type"].endswith("_error")
    assert body["error"]["code"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return dict(body["error"])


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v2/posts", "/v1/posts/", "/v1/posts/a/b", "/metrics"])
async def test_404_for_unknown_routes(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert check_shape(answer)["code"] == "not_found"


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/livez"), ("GET", "/readyz")])
async def test_405_for_other_methods(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request("LINK", path)
    assert (answer.status_code, check_shape(answer)["code"]) == (405, "method_not_allowed")
    assert method in answer.headers["allow"]


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "POST"])
async def test_400_for_malformed_bodies(client: httpx.AsyncClient, path: str) -> None:
    for body in (b"", b"{", b"[]", b'{"a": NaN}', b"\xff"):
        answer = await client.post(path, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, check_shape(answer)["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("query", ["revision=x", "revision=-1", "revision=99999999999"])
async def test_400_for_malformed_parameters(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/posts/p1?{query}")
    assert (answer.status_code, check_shape(answer)["param"]) == (400, "revision")


async def test_413_415_422_keep_the_shape(client: httpx.AsyncClient) -> None:
    for path in JUDGING:
        answer = await client.post(path, content=b"x", headers={"content-type": "text/plain"})
        assert (answer.status_code, check_shape(answer)["code"]) == (415, "unsupported_content_type")


def tree(kind: type[ParakhError]) -> list[type[ParakhError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in tree(child))]


@pytest.mark.parametrize("kind", [kind for kind in tree(ParakhError) if kind.status != 500])
@pytest.mark.parametrize("path", JUDGING)
async def test_every_error_class_keeps_the_shape(
    client: httpx.AsyncClient, moderator: FakeModerator, kind: type[ParakhError], path: str
) -> None:
    moderator.errors = [kind()]
    answer = await client.post(path, json=JUDGING[path])
    assert (answer.status_code, check_shape(answer)["code"]) == (kind.status, kind.code)
    if kind.status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("failure", [RuntimeError(SECRET), KeyError(SECRET), ParakhError(SECRET), OSError(SECRET)])
@pytest.mark.parametrize("path", JUDGING)
async def test_500_says_nothing_and_the_log_says_it_all(
    client: httpx.AsyncClient,
    moderator: FakeModerator,
    caplog: pytest.LogCaptureFixture,
    path: str,
    failure: Exception,
) -> None:
    moderator.errors = [failure]
    with caplog.at_level(logging.ERROR):
        answer = await client.post(path, json=JUDGING[path])
    assert (answer.status_code, check_shape(answer)["code"]) == (500, "internal_error")
    assert SECRET not in answer.text
    assert SECRET in caplog.text
    assert answer.headers["x-request-id"] in caplog.text


async def test_500_of_a_post_is_told_by_get_without_its_text(
    client: httpx.AsyncClient, moderator: FakeModerator
) -> None:
    moderator.errors = [RuntimeError(SECRET)]
    await client.post("/v1/posts", json=text_post())
    answer = await client.get("/v1/posts/p1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, "internal_error")
    assert SECRET not in answer.text


async def test_503_when_the_database_is_away(client: httpx.AsyncClient, tmp_path: Path) -> None:
    for file in tmp_path.glob("parakh.db*"):
        file.unlink()
    broken = build_services(tmp_path, records=Records(f"sqlite:///{tmp_path}/none/there/parakh.db"))
    async with client_of(create_app(broken)) as other:
        needing = [(method, path) for method, path in ROUTES if path.startswith(("/v1/posts", "/v1/references/r1"))]
        for method, path in needing:
            answer = await other.request(method, path, json=text_post() if method == "POST" else None)
            assert (answer.status_code, check_shape(answer)["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"]


class TestKeys:
    @pytest.fixture
    async def locked(self, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
        services = build_services(tmp_path, HttpSettings(auth="keys"))
        await services.records.start()
        async with client_of(create_app(services)) as client:
            yield client
        await services.records.close()

    @pytest.mark.parametrize(("method", "path"), ROUTES)
    async def test_401(self, locked: httpx.AsyncClient, method: str, path: str) -> None:
        answer = await locked.request(method, path)
        assert (answer.status_code, check_shape(answer)["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("kind", tree(ParakhError))
def test_a_kept_error_is_the_error_it_was(kind: type[ParakhError]) -> None:
    kept = error_object(kind())
    assert json.loads(json.dumps(kept)) == error_object(recorded_error(kept))
    assert recorded_error(kept).status == kind.status


@pytest.mark.parametrize("given", ["mine-1", "", "with space", "x" * 200, "naïve"])
async def test_a_sane_request_id_is_kept_any_other_replaced(app: FastAPI, given: str) -> None:
    async with client_of(app) as client:
        answer = await client.get("/livez", headers={b"X-Request-Id": given.encode()})
    returned = answer.headers["x-request-id"]
    assert (returned == given) is (given == "mine-1")
    assert returned


def test_model_cards_have_the_fields_readiness_shows() -> None:
    assert {"name", "version", "weights", "note"} <= set(ModelCard.__dataclass_fields__)
