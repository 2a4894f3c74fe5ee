"""Protected works: kept with owner and policy, matched in every post, enabled, disabled, quarantined, deleted."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime.errors import NodeUnavailable
from deployments.similarity.content import Content, MatchAnswer
from serve_app.config import AppConfig
from tests.http.graph_of_fakes import INDEXING, Graph, graph_of, picture


async def refer(graph: Graph, status: int = 201, seed: int = 1, **fields: Any) -> dict[str, Any]:
    body = {"owner": "a studio", "media_base64": base64.b64encode(picture(seed)).decode()} | fields
    answer = await graph.client.post("/v1/references", json={k: v for k, v in body.items() if v is not None})
    assert answer.status_code == status, answer.text
    if status == 201:
        await graph.settle()
    return dict(answer.json())


async def matches(graph: Graph, post_id: str, data: bytes) -> list[tuple[str, str]]:
    verdict = await graph.post(post_id, data)
    await graph.settle()
    return [(match["use"], match["id"]) for match in verdict["matches"]]


async def test_a_protected_work_is_found_with_its_owner_and_acts_as_it_says(either: Graph) -> None:
    await refer(either, reference_id="r1", policy="block", title="the work")
    verdict = await either.post("p1", picture(1, "JPEG", quality=60))
    (match,) = verdict["matches"]
    assert (match["use"], match["id"], match["stage"]) == ("protected", "r1", "pdq")
    assert match["attributes"] == {"owner": "a studio", "policy": "block", "title": "the work"}
    assert (verdict["decision"]["action"], verdict["decision"]["use"]) == ("block", "protected")
    assert (await either.post("p2", picture(2)))["matches"] == []


async def test_a_work_that_may_be_shown_decides_nothing(graph: Graph) -> None:
    plain = await graph.post("p0", picture(1))
    await graph.settle()
    await refer(graph, policy="allow")
    verdict = await graph.post("p1", picture(1), caption=None)
    assert verdict["decision"]["action"] == plain["decision"]["action"]


async def test_past_posts_are_matched_when_a_work_becomes_known(either: Graph) -> None:
    await either.post("p1", picture(1))
    await either.post("p2", picture(2))
    await either.settle()
    answer = await refer(either, reference_id="r1")
    assert [(match["use"], match["id"]) for match in answer["matches"]] == [("protected", "p1")]
    assert answer["similarity"] == {"status": "ok", "reason": None}


async def test_a_reference_stands_where_the_past_could_not_be_searched(graph: Graph) -> None:
    async def away(reference: Content) -> MatchAnswer:
        raise NodeUnavailable("away")

    graph.fake.retroactive = away  # type: ignore[method-assign]
    answer = await refer(graph, reference_id="r1")
    assert (answer["matches"], answer["similarity"]) == ([], {"status": "failed", "reason": "away"})
    assert await matches(graph, "p1", picture(1, "JPEG")) == [("protected", "r1")]


async def test_the_past_is_searched_once_the_index_has_the_work(graph: Graph) -> None:
    """Or a post that comes between the search and the index would meet it neither way."""
    had: list[list[str]] = []
    search = graph.fake.retroactive

    async def look(reference: Content) -> MatchAnswer:
        had.append(await graph.similarity.ids("protected"))
        return await search(reference)

    graph.fake.retroactive = look  # type: ignore[method-assign]
    graph.fake.errors = [NodeUnavailable("away for a moment")]
    answer = await refer(graph, reference_id="r1")
    assert (had, answer["similarity"]["status"]) == ([["r1"]], "ok")


async def test_a_work_that_the_index_does_not_take_in_time_stands(fake_config: AppConfig, tmp_path: Path) -> None:
    indexing = INDEXING.model_copy(update={"match_timeout_s": 0.1})
    async with graph_of(fake_config, tmp_path, indexing=indexing) as graph:
        take_in, graph.fake.index = graph.fake.index, _away  # type: ignore[method-assign,assignment]
        media = base64.b64encode(picture(1)).decode()
        answer = await graph.client.post(
            "/v1/references", json={"owner": "o", "media_base64": media, "reference_id": "r1"}
        )
        assert (answer.status_code, answer.json()["similarity"]["status"]) == (201, "failed")
        graph.fake.index = take_in  # type: ignore[method-assign]
        await asyncio.sleep(0.5)  # its pauses have grown
        await graph.settle()
        assert await graph.similarity.ids("protected") == ["r1"]


async def _away(*_: Any) -> None:
    raise NodeUnavailable


async def test_past_posts_count_for_the_quarantine_and_more_than_are_told_is_said(
    fake_config: AppConfig, tmp_path: Path
) -> None:
    indexing = INDEXING.model_copy(update={"quarantine_posts": 2, "reuse_verdicts": False})
    async with graph_of(fake_config, tmp_path, indexing=indexing) as graph:
        for number in range(3):
            await graph.post(f"p{number}", picture(1))
        await graph.settle()
        search = graph.fake.retroactive

        async def cut(reference: Content) -> MatchAnswer:
            return dataclasses.replace(await search(reference), truncated=True)

        graph.fake.retroactive = cut  # type: ignore[method-assign]
        answer = await refer(graph, reference_id="r1")
        assert (len(answer["matches"]), answer["truncated"]) == (3, True)
        assert "3 posts" in answer["quarantine_reason"]
        assert await graph.similarity.ids("protected") == []


async def test_a_negative_work_is_never_a_match_of_anything(either: Graph) -> None:
    await either.post("p1", picture(1))
    await either.settle()
    await refer(either, kind="negative")
    assert await matches(either, "p2", picture(1, "JPEG", quality=60)) == []


async def test_disabled_and_enabled_again_without_its_media(either: Graph) -> None:
    await refer(either, reference_id="r1")
    for enabled, found in ((False, []), (True, ["r1"])):
        answer = await either.client.patch("/v1/references/r1", json={"enabled": enabled})
        assert answer.json()["enabled"] is enabled
        await either.settle()
        assert await either.similarity.ids("protected") == found


async def test_deleted_it_matches_no_more(either: Graph) -> None:
    await refer(either, reference_id="r1")
    assert (await either.client.delete("/v1/references/r1")).status_code == 204
    await either.settle()
    assert await matches(either, "p1", picture(1)) == []
    assert (await either.client.get("/v1/references/r1")).status_code == 404
    await refer(either, reference_id="r1")


async def test_what_changes_is_in_the_next_match(graph: Graph) -> None:
    await refer(graph, reference_id="r1", policy="block")
    await graph.client.patch("/v1/references/r1", json={"policy": "review", "owner": "another", "title": None})
    await graph.settle()
    verdict = await graph.post("p1", picture(1, "JPEG"))
    assert verdict["matches"][0]["attributes"] == {"owner": "another", "policy": "review"}
    assert verdict["decision"]["action"] == "review"


async def test_a_work_that_matches_too_much_is_quarantined_until_it_is_lifted(
    fake_config: AppConfig, tmp_path: Path
) -> None:
    indexing = INDEXING.model_copy(update={"quarantine_posts": 2, "reuse_verdicts": False})
    async with graph_of(fake_config, tmp_path, indexing=indexing) as graph:
        await refer(graph, reference_id="r1")
        for number in range(3):
            assert ("protected", "r1") in await matches(graph, f"p{number}", picture(1, "JPEG", quality=50 + number))
        assert ("protected", "r1") not in await matches(graph, "p4", picture(1))
        (told,) = (await graph.client.get("/v1/references?quarantined=true")).json()["references"]
        assert told["reference_id"] == "r1"
        assert "3 posts" in told["quarantine_reason"]
        topics = [event.topic for event in await graph.services.records.outbox.pending()]
        assert "parakh.references" in topics
        lifted = await graph.client.patch("/v1/references/r1", json={"quarantined": False})
        assert lifted.json()["quarantined_at"] is None
        await graph.settle()
        assert ("protected", "r1") in await matches(graph, "p5", picture(1))


async def test_edits_of_one_post_count_once(fake_config: AppConfig, tmp_path: Path) -> None:
    indexing = INDEXING.model_copy(update={"quarantine_posts": 1, "reuse_verdicts": False})
    async with graph_of(fake_config, tmp_path, indexing=indexing) as graph:
        await refer(graph, reference_id="r1")
        for revision in range(3):
            await graph.post("p1", picture(1), revision=revision)
        assert (await graph.client.get("/v1/references/r1")).json()["quarantined_at"] is None


async def test_a_work_by_its_vector(either: Graph) -> None:
    embedded = await either.client.post("/v1/embeddings", json={"model": "xlmr", "input": "a poem of mine"})
    vector = embedded.json()["data"][0]["embedding"]
    await refer(either, reference_id="r1", media_base64=None, vector=vector, model="xlmr")
    post = {"post_id": "p1", "author_id": "a", "content_type": "text", "caption": "a poem of mine"}
    answer = await either.client.post("/v1/posts", json=post | {"created_at": "2026-01-01T00:00:00Z"})
    assert [match["id"] for match in answer.json()["matches"]] == ["r1"]


async def test_a_work_by_upload(graph: Graph) -> None:
    reference = json.dumps({"owner": "a studio", "reference_id": "r1"})
    answer = await graph.client.post("/v1/references", data={"reference": reference}, files={"media": picture(1)})
    assert (answer.status_code, answer.json()["reference_id"]) == (201, "r1")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"media_base64": None}, 400, "invalid_request"),
        ({"owner": ""}, 400, "invalid_request"),
        ({"owner": None}, 400, "invalid_request"),
        ({"policy": "delete"}, 400, "invalid_request"),
        ({"kind": "posts"}, 400, "invalid_request"),
        ({"reference_id": "a/b"}, 400, "invalid_request"),
        ({"reference_id": "x" * 129}, 400, "invalid_request"),
        ({"vector": [1.0], "model": "xlmr"}, 400, "invalid_request"),
        ({"media_base64": None, "vector": [0.0] * 3, "model": "xlmr"}, 400, "invalid_request"),
        ({"media_base64": None, "vector": [1.0]}, 400, "invalid_request"),
        ({"media_base64": None, "vector": [1.0] * 3, "model": "clip"}, 400, "invalid_request"),
        ({"media_base64": None, "vector": [1.0], "model": "gpt"}, 404, "model_not_found"),
        ({"content_type": "image"}, 400, "invalid_request"),
        ({"media_base64": "AAAA"}, 415, "unsupported_media"),
        ({"media_base64": base64.b64encode(picture(1)[:60]).decode()}, 422, "undecodable_media"),
        ({"enabled": True}, 400, "invalid_request"),
    ],
)
async def test_a_bad_reference_is_refused_and_nothing_is_kept(
    graph: Graph, fields: dict[str, Any], status: int, code: str
) -> None:
    answer = await refer(graph, status, **fields)
    assert answer["error"]["code"] == code
    assert (await graph.client.get("/v1/references")).json() == {"references": [], "next_after": None}
    assert await graph.services.records.index_jobs.waiting() == (0, None)


async def test_an_id_is_taken_once(graph: Graph) -> None:
    await refer(graph, reference_id="r1")
    answer = await refer(graph, 409, reference_id="r1", owner="another")
    assert answer["error"]["code"] == "reference_exists"
    assert (await graph.client.get("/v1/references/r1")).json()["owner"] == "a studio"


@pytest.mark.parametrize(
    "patch", [{}, {"enabled": None}, {"quarantined": True}, {"owner": None}, {"kind": "negative"}, {"policy": "x"}, []]
)
async def test_a_bad_change_is_refused(graph: Graph, patch: Any) -> None:
    await refer(graph, reference_id="r1")
    before = (await graph.client.get("/v1/references/r1")).json()
    assert (await graph.client.patch("/v1/references/r1", json=patch)).status_code == 400
    assert (await graph.client.get("/v1/references/r1")).json() == before
    assert (await graph.client.patch("/v1/references/r9", json={"enabled": True})).status_code == 404


async def test_references_come_page_by_page(graph: Graph) -> None:
    for id_ in ("b", "a", "c"):
        await refer(graph, reference_id=id_)
    seen, after = [], ""
    while after is not None:
        page = (await graph.client.get("/v1/references", params={"after": after, "limit": 1})).json()
        seen += [reference["reference_id"] for reference in page["references"]]
        after = page["next_after"]
    assert seen == ["a", "b", "c"]


async def test_a_batch_answers_each_for_itself(graph: Graph) -> None:
    media = base64.b64encode(picture(1)).decode()
    good = {"owner": "a", "media_base64": media}
    references = [good | {"reference_id": "r1"}, {"owner": "a"}, good | {"reference_id": "r1"}, "x"]
    answer = await graph.client.post("/v1/references:batch", json={"references": references})
    codes = [result.get("error", {}).get("code") for result in answer.json()["results"]]
    assert codes == [None, "invalid_request", "reference_exists", "invalid_request"] or codes == [
        "reference_exists",
        "invalid_request",
        None,
        "invalid_request",
    ]
