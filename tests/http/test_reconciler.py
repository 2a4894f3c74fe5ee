"""Records and index torn apart by a crash meet again: what is missing is told again, what is too much goes."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.runtime.errors import InvalidInput
from deployments.similarity.content import Content
from serve_app.http.services import Services
from serve_app.index_worker import IndexWorker
from serve_app.posts import MediaSource
from serve_app.reconciler import Reconciliation, differences, keep_reconciled, reconcile
from tests.http.graph_of_fakes import INDEXING, Graph, picture


async def filled(graph: Graph) -> None:
    await graph.post("p1", picture(1), caption="hello")
    await graph.post("p2", picture(2))
    text = {"post_id": "p3", "author_id": "a", "content_type": "text", "caption": "words"}
    await graph.client.post("/v1/posts", json=text | {"created_at": "2026-01-01T00:00:00Z"})
    await graph.settle()


async def test_nothing_differs_after_quiet_work(either: Graph) -> None:
    await filled(either)
    found = await reconcile(either.services)
    assert (found.clean, found.compared) == (True, 3)


async def test_what_the_index_lost_is_embedded_again(either: Graph) -> None:
    await filled(either)
    for post_id in ("p1", "p3"):
        await either.similarity.remove(post_id)
    found = await reconcile(either.services)
    assert found.missing["posts"] == ["p1", "p3"]
    await either.settle()
    assert await either.similarity.ids("posts") == ["p1", "p2", "p3"]
    assert [match["id"] for match in (await either.post("p4", picture(1, "JPEG")))["matches"]] == ["p1"]
    await either.settle()
    assert (await reconcile(either.services)).clean


async def test_what_no_record_knows_is_removed(either: Graph) -> None:
    await filled(either)
    answer = await either.client.get("/v1/posts/p1")
    ghost = await either.services.moderator.describe(*(await _stored(either)))
    assert answer.status_code == 200
    await either.similarity.index([_renamed(ghost, "ghost")])
    found = await reconcile(either.services)
    assert found.extra["posts"] == ["ghost"]
    await either.settle()
    assert await either.similarity.ids("posts") == ["p1", "p2", "p3"]


async def _stored(graph: Graph) -> Any:
    post, sha256 = await graph.services.records.reconciling.stored("p1")
    assert sha256 is not None
    return post, MediaSource(data=await graph.services.media_store.get(sha256))


def _renamed(content: Content, id_: str) -> Content:
    return dataclasses.replace(content, id=id_)


async def test_what_came_from_outside_stays(graph: Graph) -> None:
    await graph.services.records.external.add("posts", ["theirs"])
    await graph.similarity.index([Content(id="theirs", content_type="image")])
    assert (await reconcile(graph.services)).clean
    assert await graph.similarity.ids("posts") == ["theirs"]


async def test_what_a_job_waits_for_is_left_to_the_job(graph: Graph) -> None:
    await graph.post("p1", picture(1))
    assert (await reconcile(graph.services)).clean


async def test_a_post_whose_media_is_gone_is_reported(graph: Graph) -> None:
    await filled(graph)
    sha256 = (await graph.services.records.reconciling.stored("p2"))[1]
    assert sha256 is not None
    await graph.services.media_store.delete(sha256)
    await graph.similarity.remove("p2")
    found = await reconcile(graph.services)
    assert list(found.lost) == ["p2"]
    assert not found.clean


async def test_what_known_bad_content_never_had_is_not_missing(graph: Graph) -> None:
    await graph.client.post("/v1/hash-lists/bad", content=hashlib.md5(picture(1)).hexdigest())
    await graph.post("p1", picture(1))
    assert (await reconcile(graph.services)).clean


async def test_what_the_index_refused_is_not_embedded_again_every_hour(graph: Graph) -> None:
    await graph.post("p1", picture(1))
    graph.fake.errors = [InvalidInput("the index takes no such vector")]
    await graph.settle()
    encoded = graph.nodes.encoded
    assert (await reconcile(graph.services)).clean
    assert (graph.nodes.encoded, graph.fake.errors) == (encoded, [])
    listed = (await graph.client.get("/v1/indexes")).json()
    assert (listed["waiting_jobs"], listed["failed_jobs"]) == (0, 1)


async def test_a_post_erased_while_a_slow_worker_indexes_it_does_not_come_back(graph: Graph) -> None:
    """The worker counts as dead, another takes the post out, and then the first one's write arrives."""
    await graph.post("p1", picture(1))
    arrived, go_on, take_in = asyncio.Event(), asyncio.Event(), graph.fake.index

    async def slow(contents: Sequence[Content], bank: str = "posts") -> None:
        arrived.set()
        await go_on.wait()
        await take_in(contents, bank)

    graph.fake.index = slow  # type: ignore[method-assign]
    impatient = INDEXING.model_copy(update={"busy_s": 0})
    working = asyncio.create_task(IndexWorker(graph.services.records, graph.fake, impatient).run_once())
    await arrived.wait()
    await graph.client.delete("/v1/posts/p1")
    await graph.settle()
    go_on.set()
    await working
    await graph.settle()
    assert await graph.similarity.ids("posts") == []


async def test_of_several_replicas_one_reconciles_and_another_takes_over(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[str] = []

    async def note(_: Services) -> Reconciliation:
        task = asyncio.current_task()
        assert task is not None
        rounds.append(task.get_name())
        return Reconciliation()

    monkeypatch.setattr("serve_app.reconciler.reconcile", note)
    services = dataclasses.replace(graph.services, indexing=INDEXING.model_copy(update={"reconcile_every_s": 0.1}))
    replicas = {name: asyncio.create_task(keep_reconciled(services), name=name) for name in ("a", "b")}
    while len(rounds) < 3:
        await asyncio.sleep(0.01)
    (first,) = set(rounds)
    replicas[first].cancel()
    while len(set(rounds)) == 1:
        await asyncio.sleep(0.01)
    for replica in replicas.values():
        replica.cancel()
    await asyncio.gather(*replicas.values(), return_exceptions=True)


async def test_references_and_list_entries_are_told_again_from_the_records(graph: Graph) -> None:
    files = {"media": picture(1)}
    reference = '{"owner": "a", "reference_id": "r1"}'
    await graph.client.post("/v1/references", data={"reference": reference}, files=files)
    signature = "0123456789abcdef" * 4
    await graph.client.post("/v1/hash-lists/bad?algorithm=pdq", content=signature)
    await graph.settle()
    await graph.similarity.remove("r1", "protected")
    await graph.similarity.remove(f"bad {signature}", "known-bad")
    await graph.similarity.index([Content(id="ghost", content_type="any")], "known-bad")
    answer = await graph.client.post("/v1/indexes:reconcile")
    assert answer.json()["told_again"] == {
        "posts": [],
        "protected": ["r1"],
        "negative": [],
        "known-bad": [f"bad {signature}"],
    }
    assert answer.json()["removed"]["known-bad"] == ["ghost"]
    await graph.settle()
    assert await graph.similarity.ids("protected") == ["r1"]
    assert await graph.similarity.ids("known-bad") == [f"bad {signature}"]


async def test_an_erased_post_does_not_come_back(graph: Graph) -> None:
    await filled(graph)
    post, media = await _stored(graph)
    content = await graph.services.moderator.describe(post, media)
    await graph.client.delete("/v1/posts/p1")
    await graph.settle()
    assert not await graph.services.records.reconciling.tell_again("posts", "p1", content)
    assert await graph.similarity.ids("posts") == ["p2", "p3"]


async def test_an_erased_post_goes_from_a_restored_index_also_where_its_vector_came_from_outside(graph: Graph) -> None:
    await filled(graph)
    content = await graph.services.moderator.describe(*(await _stored(graph)))
    await graph.services.records.external.add("posts", ["p1"])  # as a re-embedding with `parakh index build` does
    await graph.client.delete("/v1/posts/p1")
    await graph.settle()
    await graph.similarity.index([content])
    assert (await reconcile(graph.services)).extra["posts"] == ["p1"]


async def test_an_older_revision_is_not_told_again(graph: Graph) -> None:
    await filled(graph)
    post, media = await _stored(graph)
    content = await graph.services.moderator.describe(post, media)
    await graph.post("p1", picture(3), revision=1)
    await graph.settle()
    assert not await graph.services.records.reconciling.tell_again("posts", "p1", content)


@given(st.sets(st.text(min_size=1, max_size=4)), st.sets(st.text(min_size=1, max_size=4)), st.integers(1, 3))
async def test_every_difference_is_found_page_by_page(ours: set[str], theirs: set[str], page: int) -> None:
    def pages(ids: set[str]) -> Any:
        ordered = sorted((id_ for id_ in ids if _encodes(id_)), key=str.encode)

        async def read(after: str, limit: int) -> list[str]:
            return [id_ for id_ in ordered if id_.encode() > after.encode()][: min(page, limit)]

        return read

    found = {(id_, side) async for id_, side in differences(pages(ours), pages(theirs))}
    ours, theirs = ({id_ for id_ in ids if _encodes(id_)} for ids in (ours, theirs))
    expected = {(id_, "both") for id_ in ours & theirs} | {(id_, "missing") for id_ in ours - theirs}
    assert found == expected | {(id_, "extra") for id_ in theirs - ours}


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
