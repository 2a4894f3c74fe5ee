"""POST /v1/search: by post, vector, text and media; filters, banks, batches, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime.errors import NodeUnavailable
from serve_app.config import AppConfig
from serve_app.http.app import create_app
from serve_app.http.settings import HttpSettings
from tests.http.building import build_services, client_of
from tests.http.graph_of_fakes import Graph, graph_of, image_post, picture, true_node


async def search(graph: Graph, status: int = 200, **asked: Any) -> Any:
    answer = await graph.client.post("/v1/search", json=asked)
    assert answer.status_code == status, answer.text
    return answer.json()["results"] if status == 200 else answer.json()["error"]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def filled(graph: Graph) -> None:
    await graph.post("p1", picture(1), caption="red and green", language="en")
    await graph.post("p2", picture(2), caption="something else", language="hi")
    await graph.settle()


async def test_more_like_a_post_is_without_itself(either: Graph) -> None:
    await filled(either)
    assert [hit["id"] for hit in await search(either, post_id="p1", threshold=-1)] == ["p2"]


async def test_the_media_itself_is_its_own_nearest(either: Graph) -> None:
    await filled(either)
    hits = await search(either, media_base64=encoded(picture(2)))
    assert hits[0]["id"] == "p2"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)
    assert hits[0]["partition"].startswith("posts.")
    files = {"media": picture(1)}
    answer = await either.client.post("/v1/search", data={"search": json.dumps({"k": 1})}, files=files)
    assert [hit["id"] for hit in answer.json()["results"]] == ["p1"]


async def test_a_text_finds_captions(either: Graph) -> None:
    await filled(either)
    hits = await search(either, text="red and green", k=1)
    assert [hit["id"] for hit in hits] == ["p1"]


async def test_a_vector_of_a_model_that_runs(either: Graph) -> None:
    await filled(either)
    embedded = await either.client.post("/v1/embeddings", json={"model": "xlmr", "input": "something else"})
    vector = embedded.json()["data"][0]["embedding"]
    assert [hit["id"] for hit in await search(either, vector=vector, model="xlmr", k=1)] == ["p2"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"languages": ["hi-IN"]}, ["p2"]),
        ({"content_types": ["video"]}, []),
        ({"created_from": "2100-01-01T00:00:00Z"}, []),
        ({"created_until": "2100-01-01T00:00:00Z"}, ["p1", "p2"]),
        ({"threshold": 0.99999}, ["p1"]),
        ({"k": 1}, ["p1"]),
        ({"exact": True}, ["p1", "p2"]),
    ],
)
async def test_filters(either: Graph, filters: dict[str, Any], found: list[str]) -> None:
    await filled(either)
    assert [hit["id"] for hit in await search(either, media_base64=encoded(picture(1)), **filters)] == found


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "post_id"),
        ({"post_id": "p1", "text": "x"}, "text"),
        ({"text": "x", "media_base64": "AAAA"}, "media"),
        ({"text": ""}, "text"),
        ({"text": "  "}, "text"),
        ({"text": "x", "modality": "audio"}, "modality"),
        ({"text": "x", "model": "xlmr"}, "model"),
        ({"vector": [1.0]}, "model"),
        ({"vector": [], "model": "xlmr"}, "vector"),
        ({"vector": [1e300] * 384, "model": "xlmr"}, "vector"),
        ({"vector": ["a"], "model": "xlmr"}, "vector.0"),
        ({"vector": [1.0] * 384, "model": "xlmr", "modality": "visual"}, "modality"),
        ({"text": "x", "k": 0}, "k"),
        ({"text": "x", "k": 1001}, "k"),
        ({"text": "x", "threshold": 2}, "threshold"),
        ({"text": "x", "languages": ["not a tag"]}, "languages.0"),
        ({"text": "x", "content_types": ["film"]}, "content_types.0"),
        ({"text": "x", "created_from": "2026-01-01"}, "created_from"),
        ({"text": "x", "created_from": "2026-01-01T00:00:00"}, "created_from"),
        ({"text": "x", "bank": "none"}, "bank"),
        ({"post_id": "p1", "bank": "protected"}, "bank"),
        ({"post_id": "a b"}, "post_id"),
        ({"media_base64": "?"}, "media_base64"),
        ({"media_url": "ftp://x/y"}, "media_url"),
        ({"text": "x", "unknown": 1}, "unknown"),
    ],
)
async def test_what_is_malformed_is_refused_by_its_name(graph: Graph, asked: dict[str, Any], param: str) -> None:
    error = await search(graph, 400, **asked)
    assert error["param"] == param


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.0] * 384])
async def test_a_vector_that_cannot_be_compared_is_refused(
    fake_config: AppConfig, tmp_path: Path, values: list[float]
) -> None:
    async with true_node(tmp_path) as node, graph_of(fake_config, tmp_path, similarity=node) as graph:
        await filled(graph)
        await search(graph, 400, vector=values, model="xlmr")


async def test_what_is_not_there_is_404(graph: Graph) -> None:
    assert (await search(graph, 404, post_id="p9"))["code"] == "not_found"
    assert (await search(graph, 404, vector=[1.0], model="gpt"))["code"] == "model_not_found"
    assert (await search(graph, 404, text="x", modality="joint"))["code"] == "model_not_found"


async def test_media_that_does_not_decode_is_422(graph: Graph) -> None:
    assert (await search(graph, 422, media_base64=encoded(picture(1)[:50])))["code"] == "undecodable_media"
    assert (await search(graph, 415, media_base64=encoded(b"#!/bin/sh")))["code"] == "unsupported_media"


async def test_a_batch_answers_each_for_itself(either: Graph) -> None:
    await filled(either)
    searches = [{"post_id": "p1", "threshold": -1}, {"k": 3}, {"post_id": "p9"}, 7, {"text": "red and green", "k": 1}]
    answer = await either.client.post("/v1/search:batch", json={"searches": searches})
    found = answer.json()["answers"]
    assert [hit["id"] for hit in found[0]["results"]] == ["p2"]
    assert [found[n]["error"]["code"] for n in (1, 2, 3)] == ["invalid_request", "not_found", "invalid_request"]
    assert [hit["id"] for hit in found[4]["results"]] == ["p1"]


@pytest.mark.parametrize(("searches", "status"), [([], 400), ([{}] * 65, 413), ("x", 400)])
async def test_a_batch_has_limits(graph: Graph, searches: Any, status: int) -> None:
    answer = await graph.client.post("/v1/search:batch", json={"searches": searches})
    assert answer.status_code == status


async def test_an_index_that_is_away_is_503_and_in_a_batch_only_its_element(graph: Graph) -> None:
    await filled(graph)
    graph.fake.errors = [NodeUnavailable()]
    assert (await search(graph, 503, text="x"))["code"] == "unavailable"
    graph.fake.errors = [RuntimeError("a secret")]
    answer = await graph.client.post("/v1/search:batch", json={"searches": [{"text": "x"}]})
    assert answer.json()["answers"][0]["error"]["code"] == "internal_error"
    assert "secret" not in answer.text


async def test_other_banks_and_exact_searches_are_for_admins(tmp_path: Path, graph: Graph) -> None:
    services = build_services(
        tmp_path, HttpSettings(auth="keys"), index=graph.similarity, moderator=graph.services.moderator
    )
    await services.records.start()
    async with client_of(create_app(services)) as client:
        statuses = {}
        for scope in ("read", "admin"):
            _, key = await services.records.keys.create_key(scope, [scope])
            for name, more in (("posts", {}), ("protected", {"bank": "protected"}), ("exact", {"exact": True})):
                asked: dict[str, Any] = {"text": "x"} | more
                answer = await client.post("/v1/search", json=asked, headers={"X-API-Key": key})
                batch = await client.post("/v1/search:batch", json={"searches": [asked]}, headers={"X-API-Key": key})
                code = batch.json()["answers"][0].get("error", {}).get("code")
                statuses[scope, name] = (answer.status_code, code)
    await services.records.close()
    assert statuses == {
        ("read", "posts"): (200, None),
        ("read", "protected"): (403, "insufficient_scope"),
        ("read", "exact"): (403, "insufficient_scope"),
        ("admin", "posts"): (200, None),
        ("admin", "protected"): (200, None),
        ("admin", "exact"): (200, None),
    }


async def test_without_similarity_its_routes_are_404_and_posts_say_off(tmp_path: Path) -> None:
    services = build_services(tmp_path)
    await services.records.start()
    async with client_of(create_app(services)) as client:
        answer = await client.post("/v1/search", json={"text": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "similarity_off")
        verdict = (await client.post("/v1/posts", json=image_post("p1", media_base64="AAAA"))).json()
        assert verdict["similarity"]["status"] == "off"
        assert await services.records.index_jobs.waiting() == (0, None)
    await services.records.close()
