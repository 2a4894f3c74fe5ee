"""The Milvus backend on milvus-lite, and what only a real server shows: indexes that are built, lost connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.runtime.errors import InvalidInput, NodeUnavailable, TooLarge, WrongEncoder
from deployments.similarity.brute import BruteIndex
from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.milvus.index import MilvusBackend, MilvusIndex, drop, names
from deployments.similarity.milvus.settings import MilvusSettings
from deployments.similarity.partitions.catalog import Generation, State
from deployments.similarity.settings import IndexSettings
from deployments.similarity.values import Filter, FrameVectors, Item
from tests.similarity.backends import ENCODER
from tests.similarity.conformance import clustered, items, same_answers, vectors

FLAT = IndexSettings(index_type="FLAT")
real_server = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(params=["milvus-lite", pytest.param("milvus-server", marks=real_server)])
def milvus(request: pytest.FixtureRequest, tmp_path: Path) -> MilvusSettings:
    if request.param == "milvus-server":
        return MilvusSettings(uri=request.getfixturevalue("milvus_server"), prefix=f"t{abs(hash(tmp_path)):x}_")
    return MilvusSettings(uri=f"{tmp_path}/milvus.db")


@pytest.fixture
def server(milvus_server: str, tmp_path: Path) -> MilvusSettings:
    return MilvusSettings(uri=milvus_server, prefix=f"t{abs(hash(tmp_path)):x}_")


# --- collections ---


def test_a_collection_holds_what_it_was_made_for(milvus: MilvusSettings) -> None:
    MilvusIndex.open(milvus, "posts.hi.video.visual.g0001", FLAT, 8, ENCODER).close()
    assert names(milvus) == ["posts.hi.video.visual.g0001"]
    with pytest.raises(WrongEncoder):
        MilvusIndex.open(milvus, "posts.hi.video.visual.g0001", FLAT, 8, EncoderId(ENCODER.name, "2"))
    for settings, dimension in [
        (FLAT, 16),
        (FLAT.model_copy(update={"metric": "l2"}), 8),
        (FLAT.model_copy(update={"index_type": "HNSW"}), 8),
        (FLAT.model_copy(update={"row_dtype": "float32"}), 8),
    ]:
        with pytest.raises(NodeUnavailable, match="new generation"):
            MilvusIndex.open(milvus, "posts.hi.video.visual.g0001", settings, dimension, ENCODER)
    drop(milvus, "posts.hi.video.visual.g0001")
    drop(milvus, "posts.hi.video.visual.g0001")
    assert names(milvus) == []


def test_a_generation_has_a_collection_of_its_own(milvus: MilvusSettings, tmp_path: Path) -> None:
    backend = MilvusBackend(milvus)
    key = PartitionKey("posts", "hi", "video", "visual")
    first = Generation(key, 1, ENCODER, 8, FLAT, State.ACTIVE, 0.0)
    second = replace(first, number=2, encoder=EncoderId("other", "1"), dimension=16)
    with pytest.raises(IndexDamaged):
        backend.open(first, tmp_path, create=False)
    for generation in (first, second):
        with contextlib.closing(backend.open(generation, tmp_path, create=True)) as index:
            index.upsert(items(vectors(3, generation.dimension)))
    with contextlib.closing(backend.open(first, tmp_path, create=False)) as index:
        assert index.count() == 3
    with contextlib.closing(backend.open(first, tmp_path, create=True)) as index:
        assert index.count() == 0  # what a crash left of making it is not taken over
    backend.drop(first)
    assert names(milvus) == ["posts.hi.video.visual.g0002"]
    backend.drop(second)


def test_what_one_process_wrote_another_finds_at_once(milvus: MilvusSettings) -> None:
    with (
        contextlib.closing(MilvusIndex.open(milvus, "shared", FLAT, 8, ENCODER)) as one,
        contextlib.closing(MilvusIndex.open(milvus, "shared", FLAT, 8, ENCODER)) as other,
    ):
        for n, vector in enumerate(vectors(8)):
            one.upsert([Item(f"i{n}", vector)])
            assert other.search([vector], 1)[0].ids == (f"i{n}",)
            other.upsert([Item(f"i{n}", -vector)])
            assert one.search([-vector], 1)[0].ids == (f"i{n}",)
            assert one.delete([f"i{n}"]) == 1
            assert other.search([-vector], 1)[0].ids == ()
    drop(milvus, "shared")


# --- limits of a request ---


def test_batches_and_answers_beyond_a_request_are_cut(milvus: MilvusSettings) -> None:
    small = milvus.model_copy(update={"max_request_bytes": 1 << 20})
    given = clustered(1500, 256)
    with contextlib.closing(MilvusIndex.open(small, "large", FLAT, 256, ENCODER)) as index:
        truth = BruteIndex(FLAT, 256)
        for target in (index, truth):
            target.upsert(items(given))
        assert index.count() == 1500
        same_answers(index, truth, given[:30], 200)
        assert index.get(index.scan(limit=1500)).keys() == set(truth.scan(limit=1500))
        assert index.delete(index.scan(limit=2000)) == 1500
    drop(milvus, "large")


def test_frames_that_no_row_can_hold_are_refused_and_change_nothing(milvus: MilvusSettings) -> None:
    frames = FrameVectors(np.zeros((200_000, 8), np.float16), np.zeros(200_000, np.float32))
    with contextlib.closing(MilvusIndex.open(milvus, "frames", FLAT, 8, ENCODER)) as index:
        with pytest.raises(TooLarge):
            index.upsert([*items(vectors(2)), Item("a", vectors(1)[0], frames=frames)])
        assert index.count() == 0
    drop(milvus, "frames")


# --- the real server ---


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.parametrize("index_type", ["IVF_FLAT", "IVF_SQ8", "HNSW"])
def test_the_index_that_was_asked_for_is_built_and_searched(server: MilvusSettings, index_type: str) -> None:
    """A server that quietly looked at every row would find everything however little it is told to look at."""
    n, dimension = 6000, 64
    given = vectors(n, dimension)  # without clusters: few neighbours share a list
    truth = BruteIndex(FLAT, dimension)
    truth.upsert(items(given))
    queries = vectors(200, dimension, seed=3)
    true = truth.search(queries, 10)

    def recall(**parameters: int) -> float:
        settings = IndexSettings.model_validate({"index_type": index_type, "nlist": 100} | parameters)
        with contextlib.closing(MilvusIndex.open(server, "built", settings, dimension, ENCODER)) as index:
            if index.count() == 0:
                for start in range(0, n, 2000):
                    index.upsert(items(given)[start : start + 2000])
                index.seal()
                server_tells = index.stats().details
                assert server_tells["index_type"] == index_type
                assert index.stats().buffered == 0
            found = index.search(queries, 10)
        return float(np.mean([len(set(f.ids) & set(t.ids)) / 10 for f, t in zip(found, true, strict=True)]))

    little = recall(nprobe=1, ef_search=10, rerank=1)
    much = recall(nprobe=100, ef_search=400, rerank=20)
    drop(server, "built")
    assert little < 0.8
    assert much > 0.95


@pytest.mark.system
@pytest.mark.slow
def test_few_items_behind_a_filter_are_found_in_lists_that_are_not_searched(server: MilvusSettings) -> None:
    n, dimension = 4000, 32
    given = clustered(n, dimension)
    settings = IndexSettings(index_type="IVF_FLAT", nlist=64, nprobe=1)
    with contextlib.closing(MilvusIndex.open(server, "few", settings, dimension, ENCODER)) as index:
        index.upsert([replace(item, language="hi" if at % 500 == 0 else "en") for at, item in enumerate(items(given))])
        index.seal()
        found = index.search(given[:20], 20, filter=Filter(languages=frozenset({"hi"})))
        assert [len(answer) for answer in found] == [8] * 20
    drop(server, "few")


@pytest.mark.parametrize("index_type", ["IVF_PQ", "IVF_RABITQ"])
def test_index_types_for_newer_servers_are_refused_by_name(milvus: MilvusSettings, index_type: str) -> None:
    settings = IndexSettings.model_validate({"index_type": index_type})
    with pytest.raises(InvalidInput, match=rf"one of FLAT, HNSW, IVF_FLAT, IVF_SQ8, not {index_type}"):
        MilvusIndex.open(milvus, "newer", settings, 32, ENCODER)
    assert names(milvus) == []


@pytest.mark.system
@pytest.mark.slow
def test_updates_of_rows_in_sealed_segments_leave_no_second_version(server: MilvusSettings) -> None:
    with contextlib.closing(MilvusIndex.open(server, "sealed", FLAT, 8, ENCODER)) as index:
        given = vectors(2000)
        index.upsert(items(given))
        index.seal()
        index.upsert(items(-given[:1500]))
        assert index.delete([f"i{n:05d}" for n in range(100)]) == 100
        assert index.count() == 1900
        assert len(index.scan(limit=5000)) == 1900
        truth = BruteIndex(FLAT, 8)
        truth.upsert([*items(given), *items(-given[:1500])])
        truth.delete([f"i{n:05d}" for n in range(100)])
        same_answers(index, truth, vectors(10, seed=4), 100)
    drop(server, "sealed")


@pytest.mark.system
@pytest.mark.slow
def test_a_lost_connection_is_unavailable_in_time_and_comes_back(server: MilvusSettings, tmp_path: Path) -> None:
    with Cable(server.uri.removeprefix("unix:"), str(tmp_path / "c.sock")) as cable:
        settings = server.model_copy(update={"uri": f"unix:{cable.path}", "timeout_s": 2.0})
        index = MilvusIndex.open(settings, "cut", FLAT, 8, ENCODER)
        index.upsert(items(vectors(3)))
        cable.cut()
        start = time.monotonic()
        with ThreadPoolExecutor(12) as pool:
            calls: list[Future[Any]] = [
                *(pool.submit(index.search, vectors(1), 1) for _ in range(10)),
                pool.submit(index.upsert, items(vectors(4))),
            ]
            for call in calls:
                with pytest.raises(NodeUnavailable):
                    call.result(timeout=20)
        assert time.monotonic() - start < 5
        cable.mend()
        index.upsert(items(vectors(5)))
        assert len(index.search(vectors(1), 10)[0]) == index.count() == 5
        index.close()
    drop(server, "cut")


class Cable:
    """Between a client and a Unix socket; can be cut and mended."""

    def __init__(self, there: str, path: str) -> None:
        self.path = path
        self._there = there
        self._whole = True
        self._ends: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        self._whole = False
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def mend(self) -> None:
        self._whole = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                if not self._whole:
                    here.close()
                    continue
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._there)
                self._ends += [here, there]
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
