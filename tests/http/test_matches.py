"""A post comes in, is indexed, and is found again when somebody posts the same picture."""

from __future__ import annotations

import asyncio
import time

import pytest

from deployments.runtime.errors import NodeUnavailable
from tests.http.graph_of_fakes import Graph, picture


async def test_the_same_picture_encoded_anew_is_a_duplicate(either: Graph) -> None:
    first = await either.post("p1", picture(1))
    assert (first["matches"], first["similarity"]) == ([], {"status": "ok", "reason": None})
    await either.settle()
    verdict = await either.post("p2", picture(1, "JPEG", quality=40))
    (match,) = verdict["matches"]
    assert (match["use"], match["id"], match["stage"]) == ("duplicate", "p1", "pdq")
    assert match["distance"] <= match["threshold"]
    assert (await either.post("p3", picture(2)))["matches"] == []


async def test_an_exact_re_upload_skips_the_encoders_and_says_whose_verdict_it_has(either: Graph) -> None:
    first = await either.post("p1", picture(1), caption="hello")
    await either.settle()
    asked = either.nodes.encoded
    again = await either.post("p2", picture(1), caption="hello")
    assert either.nodes.encoded == asked
    assert again["reused_from"] == {"post_id": "p1", "revision": 0}
    assert again["category_scores"] == first["category_scores"]
    assert [(match["id"], match["stage"]) for match in again["matches"]] == [("p1", "sha256")]
    assert await either.services.records.posts.reused() == 1
    await either.settle()
    assert await either.similarity.ids("posts") == ["p1", "p2"]
    third = await either.post("p3", picture(1), caption="hello")
    assert third["reused_from"]["post_id"] == "p1"


@pytest.mark.parametrize("change", [{"caption": "other words"}, {"language": "hi"}, {"content_type": "gif"}])
async def test_the_same_bytes_with_anything_else_are_judged_anew(graph: Graph, change: dict[str, str]) -> None:
    await graph.post("p1", picture(1), caption="hello")
    await graph.settle()
    again = await graph.post("p2", picture(1), 200, **({"caption": "hello"} | change))
    assert again["reused_from"] is None
    assert [(match["id"], match["stage"]) for match in again["matches"]] == [("p1", "sha256")]


async def test_an_erased_post_is_found_no_more(either: Graph) -> None:
    await either.post("p1", picture(1))
    await either.settle()
    assert (await either.client.delete("/v1/posts/p1")).status_code == 204
    await either.settle()
    assert await either.similarity.ids("posts") == []
    verdict = await either.post("p2", picture(1))
    assert (verdict["matches"], verdict["reused_from"]) == ([], None)


async def test_erasure_overtakes_indexing(either: Graph) -> None:
    await either.post("p1", picture(1))
    await either.client.delete("/v1/posts/p1")
    await either.settle()
    assert await either.similarity.ids("posts") == []


async def test_a_failed_search_costs_no_verdict_and_is_said(graph: Graph) -> None:
    graph.fake.errors = [NodeUnavailable("the index is away")]
    verdict = await graph.post("p1", picture(1))
    assert verdict["similarity"] == {"status": "failed", "reason": "the index is away"}
    graph.fake.failed = {"protected": "one partition is damaged"}
    verdict = await graph.post("p2", picture(2))
    assert verdict["similarity"] == {"status": "failed", "reason": "protected: one partition is damaged"}


async def test_a_strange_failure_of_the_search_keeps_its_secret(graph: Graph) -> None:
    graph.fake.errors = [RuntimeError("a secret")]
    verdict = await graph.post("p1", picture(1))
    assert verdict["similarity"]["status"] == "failed"
    assert "secret" not in verdict["similarity"]["reason"]


async def test_an_edit_replaces_the_posts_entry(either: Graph) -> None:
    await either.post("p1", picture(1))
    await either.post("p1", picture(2), revision=1)
    await either.settle()
    assert (await either.post("p2", picture(1, "JPEG")))["matches"] == []
    assert [match["id"] for match in (await either.post("p3", picture(2, "JPEG")))["matches"]] == ["p1"]


async def test_an_edit_of_the_same_picture_is_no_duplicate_of_itself(either: Graph) -> None:
    await either.post("p1", picture(1))
    await either.settle()
    assert (await either.post("p1", picture(1), revision=1, caption="better words"))["matches"] == []


async def test_the_worker_tells_the_index_well_within_a_second(graph: Graph) -> None:
    worker = graph.app.state.index_worker
    worker.start()
    await graph.post("p1", picture(1))
    committed = time.monotonic()
    while "p1" not in graph.fake.banks["posts"]:
        await asyncio.sleep(0.005)
    assert time.monotonic() - committed < 1
    await worker.stop()


async def test_a_job_that_fails_is_tried_again_until_it_is_done(graph: Graph) -> None:
    await graph.post("p1", picture(1))
    graph.fake.errors = [NodeUnavailable(), RuntimeError("boom"), NodeUnavailable()]
    worker = graph.app.state.index_worker
    worker.start()
    async with asyncio.timeout(5):
        while "p1" not in graph.fake.banks["posts"]:
            await asyncio.sleep(0.01)
    await worker.stop()
    assert await graph.services.records.index_jobs.waiting() == (0, None)
