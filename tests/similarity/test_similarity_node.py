"""The similarity node: never on the event loop, bounded, ready by real searches, its upkeep in the background."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.runtime import health
from deployments.runtime.errors import NodeUnavailable, NotFound, Overloaded, WrongEncoder
from deployments.similarity.brute import BruteIndex
from deployments.similarity.content import Bank, Content, ContentVector, EncoderId, SearchRequest, Use
from deployments.similarity.errors import IndexClosed, IndexDamaged
from deployments.similarity.node import SimilarityNode
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.backends import Backend, EmbeddedBackend, MemoryBackend
from deployments.similarity.partitions.catalog import Generation, State
from deployments.similarity.partitions.listing import PartitionInfo
from deployments.similarity.partitions.root_lock import RootLocked
from deployments.similarity.partitions.watched import NoObserver
from deployments.similarity.values import Filter, Item, Neighbours
from deployments.similarity.vector_index import VectorIndex

CLIP, NEW = EncoderId("clip", "1"), EncoderId("clip", "2")
PARTITION = "posts.hi.text.text"


class Odd(BruteIndex):
    """An index that may be slow, broken or forgetful, as its backend says."""

    def __init__(self, backend: OddBackend, generation: Generation) -> None:
        super().__init__(generation.settings, generation.dimension)
        self.backend = backend

    def search(
        self,
        queries: NDArray[Any] | Sequence[NDArray[Any]],
        k: int,
        *,
        filter: Filter | None = None,
        threshold: float | None = None,
        exact: bool = False,
    ) -> list[Neighbours]:
        self.backend.threads.add(threading.current_thread().name)
        self.backend.gate.wait(10)
        if self.backend.error is not None:
            raise self.backend.error
        found = super().search(queries, k, filter=filter, threshold=threshold, exact=exact)
        if exact or not self.backend.forgetful:
            return found
        return [Neighbours(one.ids[: len(one) // 2], one.scores[: len(one) // 2]) for one in found]

    def close(self) -> None:
        pass


class OddBackend(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.forgetful = False
        self.threads: set[str] = set()
        self.opened = 0

    def open(self, generation: Generation, directory: Path, *, create: bool) -> VectorIndex:
        self.opened += 1
        name = f"{generation.partition}/{generation.name}"
        return self.indexes.setdefault(name, Odd(self, generation))


class Told(NoObserver):
    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.infos: list[PartitionInfo] = []

    def searched(self, partition: str, use: str, seconds: float, queries: int) -> None:
        self.events.append(("searched", partition, use, queries))

    def written(self, partition: str, use: str, seconds: float, items: int) -> None:
        self.events.append(("written", partition, use, items))

    def failed(self, partition: str, use: str, kind: str) -> None:
        self.events.append(("failed", partition, use, kind))

    def listed(self, infos: Sequence[PartitionInfo]) -> None:
        self.infos = list(infos)


@pytest.fixture
def backend() -> OddBackend:
    return OddBackend()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def node(tmp_path: Path, backend: OddBackend, told: Told) -> AsyncIterator[SimilarityNode]:
    node = made(tmp_path, backend, told)
    yield node
    backend.gate.set()
    node.close()


def made(root: Path, backend: Backend | None, told: Told | None = None, **settings: Any) -> SimilarityNode:
    given = {"directory": root / "root", "lock_wait_s": 0, "maintain_every_s": 3600, **settings}
    return SimilarityNode(SimilaritySettings.model_validate(given), told, backend)


def text(id: str, position: int = 0, language: str = "hi", encoder: EncoderId = CLIP) -> Content:
    vector = np.eye(8, dtype=np.float32)[position]
    return Content(id, "text", language, 100.0, vectors={"text": ContentVector(encoder, vector)})


def request(position: int = 0, encoder: EncoderId = CLIP, **given: Any) -> SearchRequest:
    return SearchRequest(encoder, np.eye(8, dtype=np.float32)[position], "text", threshold=0.5, **given)


async def found(node: SimilarityNode, position: int = 0, **given: Any) -> list[str]:
    return [hit.id for hit in await node.search(request(position, **given))]


# --- calls ---


async def test_what_is_written_is_found_and_what_is_removed_is_gone(node: SimilarityNode) -> None:
    await node.index(text("a"))
    await node.index_many([text("b", language="bn"), text("c", 1)])
    assert sorted(await found(node)) == ["a", "b"]
    assert await found(node, filter=Filter(languages=frozenset({"bn-IN"}))) == ["b"]
    assert await node.ids() == ["a", "b", "c"]
    assert (await node.remove("a"), await node.remove("a")) == (True, False)
    assert await found(node) == ["b"]


async def test_items_of_one_partition(node: SimilarityNode) -> None:
    vector = np.ones(8, np.float32)
    await node.upsert_items(PARTITION, CLIP, [Item("x", vector, attributes={"by": "hand"})])
    assert (await node.get_items(PARTITION, ["x"]))["x"].attributes == {"by": "hand"}
    assert await node.delete_items(PARTITION, ["x", "y"]) == 1
    with pytest.raises(NotFound):
        await node.delete_items("posts.ta.text.text", ["x"])
    with pytest.raises(WrongEncoder):
        await node.upsert_items(PARTITION, NEW, [Item("x", vector)])


async def test_generations_through_the_node(node: SimilarityNode) -> None:
    await node.index(text("a"))
    await node.begin(PARTITION, NEW, 8)
    assert await node.lacking(PARTITION) == ["a"]
    await node.index(text("a", 1, encoder=NEW))
    await node.switch(PARTITION)
    assert await found(node, 1, encoder=NEW) == ["a"]
    await node.rollback(PARTITION)
    assert await found(node) == ["a"]
    (info,) = await node.partitions()
    assert [one.generation.state for one in info.generations] == [State.ACTIVE, State.PREVIOUS]


async def test_work_runs_in_the_nodes_threads_and_the_loop_stays_free(
    node: SimilarityNode, backend: OddBackend
) -> None:
    await node.index(text("a"))
    backend.gate.clear()
    searching = asyncio.create_task(found(node))
    started = time.monotonic()
    await asyncio.sleep(0.05)
    assert time.monotonic() - started < 2
    assert not searching.done()
    backend.gate.set()
    assert await searching == ["a"]
    assert all(name.startswith("similarity-search") for name in backend.threads)


async def test_searches_that_hang_do_not_hold_up_writes(node: SimilarityNode, backend: OddBackend) -> None:
    await node.index(text("a"))
    backend.gate.clear()
    searches = [asyncio.create_task(found(node)) for _ in range(20)]
    await asyncio.wait_for(node.index(text("b", 1)), 5)
    backend.gate.set()
    assert await asyncio.gather(*searches) == [["a"]] * 20


async def test_a_flood_of_searches_does_not_hold_up_a_match(node: SimilarityNode, backend: OddBackend) -> None:
    await node.index(text("a"))
    backend.gate.clear()
    searches = [asyncio.create_task(found(node)) for _ in range(20)]
    await asyncio.sleep(0.05)
    matching = asyncio.create_task(node.match(text("b"), [Use.DUPLICATE]))
    async with asyncio.timeout(5):
        while not any(name.startswith("similarity-match") for name in backend.threads):  # it runs while they all wait
            await asyncio.sleep(0.01)
    backend.gate.set()
    assert [match.id for match in (await matching).matches] == ["a"]
    await asyncio.gather(*searches)


async def test_a_full_queue_refuses_at_once(tmp_path: Path, backend: OddBackend) -> None:
    node = made(tmp_path, backend, search_threads=1, max_queued=2)
    await node.index(text("a"))
    backend.gate.clear()
    waiting = [asyncio.create_task(found(node)) for _ in range(3)]
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded):
        await found(node)
    backend.gate.set()
    assert await asyncio.gather(*waiting) == [["a"]] * 3
    node.close()


async def test_a_closed_node_refuses_and_has_let_go_of_its_directory(tmp_path: Path, backend: OddBackend) -> None:
    node = made(tmp_path, backend)
    with pytest.raises(RootLocked):
        made(tmp_path, backend)
    node.close()
    node.close()
    with pytest.raises(NodeUnavailable):
        await node.ids()
    made(tmp_path, backend).close()


# --- health ---


async def test_an_idle_node_proves_itself_by_a_real_search(
    node: SimilarityNode, backend: OddBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_AFTER_S", 0.0)
    assert (await node.status()).state == "ready"
    await node.index(text("a"))
    backend.threads.clear()
    await node.check_health()
    assert backend.threads


async def test_a_node_whose_searches_fail_becomes_sick(
    node: SimilarityNode, backend: OddBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_AFTER_S", 0.0)
    monkeypatch.setattr(health, "MAX_PASS_AGE_S", 0.0)
    await node.index(text("a"))
    backend.error = OSError("/secret")
    status = await node.status()
    assert (status.state, "/secret" in (status.reason or "")) == ("sick", False)


async def test_a_damaged_partition_is_named_and_the_node_stays_ready(tmp_path: Path, backend: OddBackend) -> None:
    node = made(tmp_path, backend)
    await node.index(text("a"))
    node.close()

    class Broken(OddBackend):
        def open(self, generation: Generation, directory: Path, *, create: bool) -> VectorIndex:
            raise IndexDamaged("row 7 is damaged")

    again = made(tmp_path, Broken())
    status = await again.status()
    assert status.state == "ready"
    assert "row 7" in (status.reason or "")
    (info,) = await again.partitions()
    assert info.damaged == "row 7 is damaged"
    again.close()


async def test_no_client_is_told_where_a_damaged_index_lies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = made(tmp_path, EmbeddedBackend())
    await node.index(text("a"))
    node.close()
    (rows,) = tmp_path.rglob("rows.db")
    rows.write_bytes(b"no database")
    again = made(tmp_path, None)
    (info,) = await again.partitions()
    told = [str(info.damaged), str((await again.status()).reason)]
    with pytest.raises(IndexDamaged) as refused:
        await again.index(text("b"))
    again.close()
    for message in (*told, str(refused.value)):
        assert "rows.db" in message
        assert "/" not in message
    assert str(rows) in caplog.text


# --- upkeep ---


async def test_an_index_whose_disk_failed_is_opened_anew(node: SimilarityNode, backend: OddBackend) -> None:
    await node.index(text("a"))
    backend.error = IndexClosed()
    with pytest.raises(NodeUnavailable):
        await found(node)
    opened = backend.opened
    node._service.maintain()
    assert backend.opened == opened + 1
    backend.error = None
    assert await found(node) == ["a"]


async def test_a_damaged_row_interrupts_its_partition_once_and_the_node_never(
    node: SimilarityNode, backend: OddBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_AFTER_S", 0.0)
    monkeypatch.setattr(health, "MAX_PASS_AGE_S", 0.0)
    await node.index(text("a"))
    backend.error = IndexDamaged("row 7 is damaged")
    opened = backend.opened
    for _ in range(3):
        node._service.maintain()
    assert backend.opened == opened + 1
    await node.check_health()


async def test_more_like_says_which_partitions_were_not_searched(node: SimilarityNode, backend: OddBackend) -> None:
    for language in ("hi", "ta"):
        await node.index(text(f"a-{language}", language=language))
    broken = next(index for name, index in backend.indexes.items() if ".ta." in name)
    monkey = OddBackend()
    monkey.error = IndexDamaged("row 7 is damaged")
    assert isinstance(broken, Odd)
    broken.backend = monkey
    assert list((await node.more_like("a-hi")).failed) == ["posts.ta.text.text"]


async def test_the_recall_estimate_comes_from_real_searches_repeated_exactly(
    node: SimilarityNode, backend: OddBackend, told: Told
) -> None:
    await node.index_many([text(f"p{i}") for i in range(10)])
    await found(node)
    node._service.maintain()
    assert told.infos[0].stats is not None
    assert told.infos[0].stats.recall_estimate == 1.0
    backend.forgetful = True
    for _ in range(3):
        await found(node)
    node._service.maintain()
    (info,) = await node.partitions()
    assert info.stats is not None
    assert info.stats.recall_estimate == pytest.approx((10 + 3 * 5) / 40)


async def test_what_feeds_showed_is_forgotten_after_the_retention(node: SimilarityNode) -> None:
    await node.mark_shown(text("old"), "home", at=time.time() - 100 * 3600)
    await node.mark_shown(text("new", 1), "home")
    node._service.maintain()
    assert await node.ids(Bank.SHOWN) == ["new"]


async def test_calls_are_told_by_partition_and_use(node: SimilarityNode, told: Told) -> None:
    await node.index(text("a"))
    await node.match(text("b"), [Use.DUPLICATE])
    with pytest.raises(WrongEncoder):
        await found(node, encoder=NEW)
    assert ("written", PARTITION, "index", 1) in told.events
    assert ("searched", PARTITION, "duplicate", 1) in told.events
    assert ("failed", PARTITION, "search", "wrong_encoder") in told.events


async def test_upkeep_that_fails_is_tried_again(node: SimilarityNode, told: Told, backend: OddBackend) -> None:
    await node.index(text("a"))
    backend.error = RuntimeError()
    node._service.maintain()
    backend.error = None
    node._service.maintain()
    assert told.infos


# --- the real index ---


async def test_the_embedded_backend_keeps_everything_through_a_restart(tmp_path: Path) -> None:
    node = made(tmp_path, EmbeddedBackend())
    await node.index_many([text(f"p{i:03}", i % 8, ("hi", "bn", "xx")[i % 3]) for i in range(60)])
    await node.remove("p000")
    node.close()
    again = made(tmp_path, None)
    assert await again.ids() == [f"p{i:03}" for i in range(1, 60)]
    assert {hit.id for hit in await again.search(request(3, k=20))} == {f"p{i:03}" for i in range(3, 60, 8)}
    assert {str(info.key) for info in await again.partitions()} == {f"posts.{x}.text.text" for x in ("hi", "bn", "any")}
    assert (await again.more_like("p001", k=3)).hits[0].score == pytest.approx(1.0, abs=1e-3)
    again.close()
