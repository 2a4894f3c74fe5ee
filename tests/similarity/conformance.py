"""What a VectorIndex does, whatever stands behind it. `test_conformance.py` runs it on every backend."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput, ParakhError
from deployments.similarity.brute import BruteIndex
from deployments.similarity.checks import MAX_K
from deployments.similarity.settings import IndexSettings
from deployments.similarity.values import MAX_ATTRIBUTES_BYTES, MAX_ID_BYTES, Filter, FrameVectors, Item
from deployments.similarity.vector_index import VectorIndex
from tests.similarity.conftest import OpenIndex

DIMENSION = 8
TOLERANCE = 2e-6  # of scores: float32 sums in another order

STRANGE_IDS = [
    "plain",
    "😀",
    "हिन्दी-पोस्ट",
    "e\N{COMBINING ACUTE ACCENT}",  # two ids, not one:
    "\N{LATIN SMALL LETTER E WITH ACUTE}",
    'double "quotes"',
    "single 'quotes'",
    "back\\slash",
    "ends with\\",
    '\\"',
    "\\n",
    "100%",
    "_",
    "a' or id != 'a",
    '" or id != "',
    "{id}",
    "$1",
    "; DROP TABLE rows; --",
    " ",
    "\N{LINE SEPARATOR}",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "\N{NO-BREAK SPACE}",
    "\N{ZERO WIDTH JOINER}",
    "i" * MAX_ID_BYTES,
    "ह" * (MAX_ID_BYTES // 3),
]


def vectors(n: int, dimension: int = DIMENSION, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)


def clustered(n: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors around a few hundred centres: random ones have no neighbours worth the name."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(200, dimension))
    found = centres[random.integers(0, len(centres), n)] + 0.4 * random.normal(size=(n, dimension))
    unit: NDArray[np.float32] = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


def items(given: Sequence[NDArray[Any]] | NDArray[Any], prefix: str = "i", **fields: Any) -> list[Item]:
    return [Item(f"{prefix}{n:05d}", vector, created_at=float(n), **fields) for n, vector in enumerate(given)]


def of_metric(settings: IndexSettings, n: int, seed: int = 0) -> tuple[int, list[NDArray[Any]]]:
    """(dimension, n vectors as `Item.vector` wants them), near each other in twos."""
    random = np.random.default_rng(seed)
    if settings.metric == "hamming":
        signatures = random.integers(0, 256, (n, 32), dtype=np.uint8)
        signatures[1::2] = signatures[0 : n - n % 2 : 2]
        signatures[1::2, 0] ^= 7
        return 256, list(signatures)
    if settings.metric == "jaccard":
        sets = [np.unique(random.integers(0, 2**63, 60, dtype=np.uint64)) for _ in range(n)]
        for one in range(1, n, 2):
            sets[one] = np.concatenate([sets[one - 1][:50], sets[one][:10]])
        return 1024, list(sets)
    return 32, list(clustered(n, 32, seed))


def same_answers(index: VectorIndex, truth: VectorIndex, queries: Any, k: int, **asked: Any) -> None:
    """Ids may differ among equals only."""
    for found, true in zip(index.search(queries, k, **asked), truth.search(queries, k, **asked), strict=True):
        assert len(found) == len(true)
        np.testing.assert_allclose(found.scores, true.scores, atol=TOLERANCE, rtol=1e-5)
        scored = dict(zip(true.ids, true.scores, strict=True))
        clear = {id_ for id_ in true.ids if abs(scored[id_] - true.scores[-1]) > 10 * TOLERANCE}
        assert clear <= set(found.ids)


class Conformance:
    # --- adding, replacing, deleting ---

    def test_an_added_item_is_found_at_once(self, index: VectorIndex) -> None:
        given = vectors(5)
        index.upsert(items(given))
        answers = index.search(given, 1)
        assert [answer.ids for answer in answers] == [(f"i{n:05d}",) for n in range(5)]
        assert [float(answer.scores[0]) for answer in answers] == pytest.approx([1.0] * 5, abs=1e-3)
        assert all(answer.scores.dtype == np.float32 for answer in answers)

    def test_an_empty_index_finds_nothing(self, index: VectorIndex) -> None:
        assert [len(answer) for answer in index.search(vectors(2), 10)] == [0, 0]
        assert [len(answer) for answer in index.search(vectors(1), 10, exact=True)] == [0]
        assert index.count() == 0
        assert index.scan() == []
        assert index.get(["a"]) == {}
        assert index.delete(["a"]) == 0
        assert index.stats().newest_at is None

    def test_nothing_given_changes_nothing(self, index: VectorIndex) -> None:
        index.upsert([])
        assert index.delete([]) == 0
        assert index.get([]) == {}
        assert index.search(np.empty((0, DIMENSION), np.float32), 3) == []
        assert index.search([], 3) == []
        assert index.count() == 0

    def test_an_upsert_replaces_vector_and_attributes(self, index: VectorIndex) -> None:
        old, new = np.eye(DIMENSION, dtype=np.float32)[:2]
        index.upsert([Item("a", old, 1.0, "hi", "video", {"owner": "x", "n": 1})])
        index.upsert([Item("a", new, 2.0, "ta", "image", {"owner": "y"})])
        assert index.count() == 1
        [found] = index.search([new], 5)
        assert found.ids == ("a",)
        assert found.scores[0] == pytest.approx(1.0, abs=1e-3)
        assert index.search([old], 5, threshold=0.5)[0].ids == ()
        stored = index.get(["a"])["a"]
        assert (stored.created_at, stored.language, stored.content_type) == (2.0, "ta", "image")
        assert dict(stored.attributes) == {"owner": "y"}
        assert index.search([new], 5, filter=Filter(languages=frozenset({"hi"})))[0].ids == ()

    def test_the_last_of_several_items_of_one_id_wins(self, index: VectorIndex) -> None:
        one, other, last = np.eye(DIMENSION, dtype=np.float32)[:3]
        index.upsert([Item("a", one), Item("b", other), Item("a", last)])
        assert index.count() == 2
        [found] = index.search([last], 1)
        assert found.ids == ("a",)
        np.testing.assert_allclose(index.get(["a"])["a"].vector, last)

    def test_a_deleted_item_is_gone_at_once(self, index: VectorIndex) -> None:
        given = vectors(6)
        index.upsert(items(given))
        assert index.delete(["i00000", "i00001"]) == 2
        assert index.count() == 4
        assert not {"i00000", "i00001"} & set(index.search(given[:1], 10)[0].ids)
        assert index.get(["i00000", "i00002"]).keys() == {"i00002"}
        assert index.scan() == ["i00002", "i00003", "i00004", "i00005"]

    def test_deleting_counts_each_item_that_was_there_once(self, index: VectorIndex) -> None:
        index.upsert(items(vectors(3)))
        assert index.delete(["unknown"]) == 0
        assert index.delete(["i00000", "i00000", "unknown"]) == 1
        assert index.delete(["i00000"]) == 0
        assert index.count() == 2

    def test_a_deleted_item_may_be_added_again(self, index: VectorIndex) -> None:
        old, new = np.eye(DIMENSION, dtype=np.float32)[:2]
        index.upsert([Item("a", old)])
        index.delete(["a"])
        index.upsert([Item("a", new)])
        assert index.count() == 1
        assert index.search([new], 1, threshold=0.9)[0].ids == ("a",)
        assert index.delete(["a"]) == 1
        index.upsert([Item("a", old)])
        assert index.search([old], 1, threshold=0.9)[0].ids == ("a",)
        assert index.search([new], 1, threshold=0.9)[0].ids == ()

    # --- searching ---

    def test_neighbours_come_best_first_with_exact_scores(self, index: VectorIndex) -> None:
        truth = BruteIndex(index.settings, DIMENSION)
        for target in (index, truth):
            target.upsert(items(vectors(200)))
        same_answers(index, truth, vectors(10, seed=1), 10)
        same_answers(index, truth, vectors(3, seed=2), 10, exact=True)
        [found] = index.search(vectors(1, seed=3), 50)
        assert np.all(np.diff(found.scores) <= 0)

    def test_fewer_are_given_where_there_are_fewer(self, index: VectorIndex) -> None:
        index.upsert(items(vectors(3)))
        assert len(index.search(vectors(1), 10)[0]) == 3
        assert len(index.search(vectors(1), MAX_K)[0]) == 3
        assert len(index.search(vectors(1), 2)[0]) == 2

    @pytest.mark.parametrize("k", [0, -1, MAX_K + 1, True, False, 1.0, "3", None])
    def test_a_wrong_k_is_refused(self, index: VectorIndex, k: Any) -> None:
        with pytest.raises(InvalidInput):
            index.search(vectors(1), k)

    def test_many_queries_are_answered_in_their_order(self, index: VectorIndex) -> None:
        given = vectors(40)
        index.upsert(items(given))
        queries = given[np.random.default_rng(0).integers(0, 40, 300)]
        found = [answer.ids[0] for answer in index.search(queries, 1)]
        assert found == [f"i{int(np.argmax(given @ q / np.linalg.norm(given, axis=1))):05d}" for q in queries]

    def test_a_similarity_threshold_is_the_least_that_counts(self, index: VectorIndex) -> None:
        index.upsert(items(vectors(100)))
        query = vectors(1, seed=1)
        [everything] = index.search(query, 100)
        edge = float(everything.scores[10])
        [found] = index.search(query, 100, threshold=edge)
        assert found.ids == everything.ids[:11]
        assert (
            index.search(query, 100, threshold=float(np.nextafter(np.float32(edge), np.float32(2))))[0].ids
            == (everything.ids[:10])
        )
        assert index.search(query, 5, threshold=edge)[0].ids == everything.ids[:5]
        assert len(index.search(query, 100, threshold=1.1)[0]) == 0
        assert len(index.search(query, 100, threshold=-1.0)[0]) == 100

    def test_a_distance_threshold_is_the_most_that_counts(self, open_index: OpenIndex) -> None:
        index = open_index(IndexSettings(metric="l2", index_type="FLAT"), DIMENSION)
        index.upsert(items(vectors(100)))
        query = vectors(1, seed=1)
        [everything] = index.search(query, 100)
        assert np.all(np.diff(everything.scores) >= 0)
        edge = float(everything.scores[10])
        assert index.search(query, 100, threshold=edge)[0].ids == everything.ids[:11]
        assert len(index.search(query, 100, threshold=-1.0)[0]) == 0
        assert len(index.search(query, 100, threshold=1e6)[0]) == 100

    @pytest.mark.parametrize("threshold", [float("nan"), float("inf"), float("-inf")])
    def test_a_threshold_that_is_no_number_is_refused(self, index: VectorIndex, threshold: float) -> None:
        with pytest.raises(InvalidInput):
            index.search(vectors(1), 1, threshold=threshold)

    # --- filters ---

    def test_filters_choose_what_counts(self, index: VectorIndex) -> None:
        random = np.random.default_rng(0)
        given = [
            replace(item, language=str(random.choice(["hi", "ta", "en", ""])), content_type=content_type)
            for item in items(vectors(120))
            for content_type in [str(random.choice(["video", "image", ""]))]
        ]
        truth = BruteIndex(index.settings, DIMENSION)
        for target in (index, truth):
            target.upsert(given)
        ids = [item.id for item in given]
        for asked in (
            Filter(),
            Filter(languages=frozenset({"hi"})),
            Filter(languages=frozenset({"hi", "ta", "unheard"})),
            Filter(languages=frozenset({""})),
            Filter(content_types=frozenset({"video"})),
            Filter(created_from=10.0),
            Filter(created_until=10.0),
            Filter(created_from=10.0, created_until=11.0),
            Filter(created_from=-1e300, created_until=1e300),
            Filter(created_from=float("-inf"), created_until=float("inf")),
            Filter(exclude_ids=frozenset(ids[:100])),
            Filter(exclude_ids=frozenset({ids[0], "unknown", 'a"b', "back\\", "line\nbreak", "x" * 600})),
            Filter(frozenset({"hi", "en"}), frozenset({"video"}), 5.0, 100.5, frozenset(ids[::3])),
        ):
            same_answers(index, truth, vectors(2, seed=1), 20, filter=asked)
            same_answers(index, truth, vectors(1, seed=2), MAX_K, filter=asked, exact=True)

    @pytest.mark.parametrize(
        "nothing",
        [
            Filter(languages=frozenset({"xx"})),
            Filter(languages=frozenset({'hi" or language != "'})),
            Filter(languages=frozenset({"हिन्दी", "\ud800", "a\nb"})),
            Filter(content_types=frozenset({"VIDEO"})),
            Filter(created_from=1e9),
            Filter(created_from=float("inf")),
            Filter(created_until=0.0),
            Filter(created_from=3.0, created_until=3.0),
            Filter(created_from=5.0, created_until=3.0),
            Filter(created_from=float("nan")),
            Filter(exclude_ids=frozenset(f"i{n:05d}" for n in range(10))),
            Filter(languages=frozenset({"hi"}), content_types=frozenset({"image"})),
        ],
        ids=lambda f: repr(f)[:40],
    )
    def test_a_filter_that_nothing_passes_finds_nothing(self, index: VectorIndex, nothing: Filter) -> None:
        index.upsert(items(vectors(10), language="hi", content_type="video"))
        assert index.search(vectors(1), 10, filter=nothing)[0].ids == ()

    def test_the_time_window_is_half_open_to_the_last_bit(self, index: VectorIndex) -> None:
        moment = 1_790_000_000.123456
        index.upsert([replace(item, created_at=moment) for item in items(vectors(1))])
        after = float(np.nextafter(moment, np.inf))

        def found(**window: float) -> int:
            return len(index.search(vectors(1), 1, filter=Filter(**window))[0])  # type: ignore[arg-type]

        assert found(created_from=moment) == 1
        assert found(created_from=after) == 0
        assert found(created_until=moment) == 0
        assert found(created_until=after) == 1

    # --- what is refused ---

    @pytest.mark.parametrize(
        "vector",
        [
            np.ones(DIMENSION - 1, np.float32),
            np.ones(DIMENSION + 1, np.float32),
            np.ones((1, DIMENSION), np.float32),
            np.float32(1.0),
            np.empty(0, np.float32),
            np.ones(DIMENSION, np.complex64),
            np.ones(DIMENSION, bool),
            np.array(["1"] * DIMENSION),
            np.array([None] * DIMENSION),
            np.full(DIMENSION, np.nan, np.float32),
            np.array([np.inf] + [0.0] * (DIMENSION - 1)),
            np.array([1e300] + [0.0] * (DIMENSION - 1)),
            np.zeros(DIMENSION, np.float32),
        ],
        ids=lambda v: f"{v.dtype}-{v.shape}-{v.ravel()[:1]}",
    )
    def test_a_vector_that_cannot_be_held_is_refused(self, index: VectorIndex, vector: NDArray[Any]) -> None:
        index.upsert(items(vectors(2)))
        with pytest.raises(InvalidInput):
            index.upsert([Item("good", vectors(1)[0]), Item("bad", vector), Item("i00000", vectors(1, seed=1)[0])])
        with pytest.raises(InvalidInput):
            index.search([vector], 1)
        assert index.scan() == ["i00000", "i00001"]
        assert index.search(vectors(1), 1)[0].scores[0] == pytest.approx(1.0, abs=1e-3)

    def test_a_component_beyond_the_rows_precision_is_refused(self, open_index: OpenIndex) -> None:
        index = open_index(IndexSettings(metric="l2", index_type="FLAT"), DIMENSION)
        index.upsert([Item("a", np.full(DIMENSION, 65_504, np.float32)), Item("zero", np.zeros(DIMENSION, np.float32))])
        with pytest.raises(InvalidInput):
            index.upsert([Item("b", np.full(DIMENSION, 65_536, np.float32))])
        assert index.scan() == ["a", "zero"]
        [found] = index.search([np.full(DIMENSION, 70_000, np.float32)], 1)  # a query is not stored
        assert found.ids == ("a",)

    def test_rows_of_float32_hold_what_float16_cannot(self, open_index: OpenIndex) -> None:
        index = open_index(IndexSettings(metric="l2", index_type="FLAT", row_dtype="float32"), DIMENSION)
        vector = np.linspace(1e5, 1e6, DIMENSION, dtype=np.float32)
        index.upsert([Item("a", vector)])
        stored = index.get(["a"])["a"].vector
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, vector)
        assert index.search([vector], 1)[0].scores[0] == 0.0

    @pytest.mark.parametrize(
        "id_",
        ["", "a\x00b", "line\nbreak", "tab\t", "\x7f", "lone \ud800", "i" * (MAX_ID_BYTES + 1), "ह" * 171, None, 7],
        ids=ascii,
    )
    def test_an_id_that_cannot_name_an_item_is_refused(self, index: VectorIndex, id_: Any) -> None:
        with pytest.raises(InvalidInput):
            index.upsert([*items(vectors(1)), Item(id_, vectors(1)[0])])
        assert index.count() == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {"attributes": {"text": "x" * MAX_ATTRIBUTES_BYTES}},
            {"attributes": {"nan": float("nan")}},
            {"attributes": {"set": {1}}},
            {"attributes": {"text": "\ud800"}},
            {"created_at": float("nan")},
            {"created_at": float("inf")},
            {"language": "x" * 65},
            {"language": "हि"},
            {"language": "a\x00b"},
            {"content_type": None},
            {"frames": FrameVectors(np.ones((2, DIMENSION + 1), np.float16), np.zeros(2, np.float32))},
            {"frames": FrameVectors(np.ones((2, DIMENSION), np.float16), np.zeros(3, np.float32))},
            {"frames": FrameVectors(np.full((1, DIMENSION), np.inf, np.float16), np.zeros(1, np.float32))},
        ],
        ids=lambda f: ascii(f)[:40],
    )
    def test_fields_that_cannot_be_held_are_refused(self, index: VectorIndex, fields: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput):
            index.upsert([*items(vectors(1)), Item("bad", vectors(1)[0], **fields)])
        assert index.count() == 0

    # --- ids, reading, listing ---

    def test_strange_ids_are_kept_to_the_letter(self, index: VectorIndex) -> None:
        given = vectors(len(STRANGE_IDS))
        index.upsert([Item(id_, vector) for id_, vector in zip(STRANGE_IDS, given, strict=True)])
        assert index.count() == len(STRANGE_IDS)
        assert [answer.ids[0] for answer in index.search(given, 1)] == STRANGE_IDS
        assert index.get(STRANGE_IDS).keys() == set(STRANGE_IDS)
        assert index.scan() == sorted(STRANGE_IDS, key=str.encode)
        for at, id_ in enumerate(STRANGE_IDS):
            found = index.search(given[at : at + 1], 1, filter=Filter(exclude_ids=frozenset({id_})))
            assert found[0].ids[0] != id_
        assert index.delete(STRANGE_IDS[::2]) == len(STRANGE_IDS[::2])
        assert index.scan() == sorted(STRANGE_IDS[1::2], key=str.encode)

    def test_scan_pages_in_the_order_of_utf8_bytes(self, index: VectorIndex) -> None:
        ids = ["a", "b", "aa", "Z", "z", "é", "\N{FULLWIDTH LATIN SMALL LETTER A}", "😀", "ह", 'a"', "a\\", "0", "~"]
        index.upsert([Item(id_, vector) for id_, vector in zip(ids, vectors(len(ids)), strict=True)])
        expected = sorted(ids, key=str.encode)
        assert index.scan(limit=1000) == expected
        for size in (1, 2, 5):
            paged: list[str] = []
            while page := index.scan(paged[-1] if paged else "", size):
                assert len(page) <= size
                paged += page
            assert paged == expected
        assert index.scan("aaa") == [id_ for id_ in expected if id_.encode() > b"aaa"]

    def test_an_item_comes_back_as_it_was_stored(self, index: VectorIndex) -> None:
        random = np.random.default_rng(0)
        frames = FrameVectors(
            random.normal(size=(37, DIMENSION)).astype(np.float16), (np.arange(37) / 3).astype(np.float32)
        )
        no_frames = FrameVectors(np.empty((0, DIMENSION), np.float16), np.empty(0, np.float32))
        attributes = {"owner": "ओनर 😀", "list": [1, 2.5, None, True], "quote": '"\\\n', "deep": {"a": {"b": []}}}
        vector = vectors(1)[0]
        index.upsert(
            [
                Item("full", vector, 1_790_000_000.123456, "hi", "video", attributes, frames),
                Item("bare", vector),
                Item("none", vector, frames=no_frames),
                Item("old", vector, -1.5),
            ]
        )
        found = index.get(["full", "bare", "none", "old", "unknown"])
        assert found.keys() == {"full", "bare", "none", "old"}
        full = found["full"]
        assert (full.id, full.created_at, full.language, full.content_type) == (
            "full",
            1_790_000_000.123456,
            "hi",
            "video",
        )
        assert dict(full.attributes) == attributes
        assert full.frames is not None
        np.testing.assert_array_equal(full.frames.vectors, frames.vectors)
        np.testing.assert_array_equal(full.frames.times_s, frames.times_s)
        assert [full.frames.vectors.dtype.name, full.frames.times_s.dtype.name] == ["float16", "float32"]
        assert full.vector.dtype == np.float16
        np.testing.assert_array_equal(full.vector, index.space.row(vector))
        assert (found["bare"].frames, dict(found["bare"].attributes), found["bare"].language) == (None, {}, "")
        assert found["none"].frames is not None
        assert found["none"].frames.vectors.shape == (0, DIMENSION)
        assert found["old"].created_at == -1.5
        index.upsert([Item("full", vector)])
        assert index.get(["full"])["full"].frames is None

    def test_frames_of_many_items_come_back(self, index: VectorIndex) -> None:
        frames = FrameVectors(vectors(600).astype(np.float16), np.arange(600, dtype=np.float32))
        index.upsert([replace(item, frames=frames if n % 2 else None) for n, item in enumerate(items(vectors(40)))])
        found = index.get([f"i{n:05d}" for n in range(40)])
        assert [item.frames is not None for _, item in sorted(found.items())] == [False, True] * 20
        assert all(
            item.frames is None or np.array_equal(item.frames.vectors, frames.vectors) for item in found.values()
        )

    def test_stats_tell_how_many_and_how_new(self, index: VectorIndex) -> None:
        index.upsert(items(vectors(30)))
        index.delete(["i00003", "i00029"])
        stats = index.stats()
        assert stats.items == index.count() == 28
        assert stats.newest_at == 28.0
        index.upsert([Item("late", vectors(1)[0], created_at=1_790_000_000.5)])
        assert index.stats().newest_at == 1_790_000_000.5

    def test_a_closed_index_says_so(self, index: VectorIndex) -> None:
        index.upsert(items(vectors(1)))
        index.close()
        with pytest.raises(ParakhError):
            index.search(vectors(1), 1)
        with pytest.raises(ParakhError):
            index.upsert(items(vectors(1)))

    # --- concurrency ---

    def test_every_acknowledged_write_holds_for_the_searches_after_it(self, index: VectorIndex) -> None:
        rounds, threads = 6, 4
        given = vectors(rounds * threads * 2, seed=5)
        failures: list[str] = []
        barrier = threading.Barrier(threads)

        def work(thread: int) -> None:
            barrier.wait()
            for turn in range(rounds):
                at = 2 * (thread * rounds + turn)
                pair = [Item(f"t{at}", given[at]), Item(f"t{at + 1}", given[at + 1])]
                index.upsert(pair)
                for item in pair:
                    [found] = index.search([item.vector], 1, threshold=0.99)
                    if found.ids != (item.id,):
                        failures.append(f"{item.id} was acknowledged and not found")
                if index.delete([pair[0].id]) != 1:
                    failures.append(f"{pair[0].id} was there and not counted")
                [found] = index.search([pair[0].vector], MAX_K)
                if pair[0].id in found.ids:
                    failures.append(f"{pair[0].id} was deleted and found")
                if pair[1].id not in found.ids:
                    failures.append(f"{pair[1].id} was lost")

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        assert failures == []
        assert index.count() == rounds * threads

    def test_one_threads_bad_items_fail_alone(self, index: VectorIndex) -> None:
        barrier = threading.Barrier(6)

        def work(thread: int) -> str:
            barrier.wait()
            try:
                index.upsert([Item(f"t{thread}", vectors(1, DIMENSION + thread % 2)[0])])
            except InvalidInput:
                return "refused"
            return "taken"

        with ThreadPoolExecutor(6) as pool:
            outcomes = list(pool.map(work, range(6)))
        assert outcomes == ["taken", "refused"] * 3
        assert index.scan() == ["t0", "t2", "t4"]


class EverySetting:
    """Of each metric and index type."""

    def test_it_answers_like_the_exact_reference(self, open_index: OpenIndex, settings: IndexSettings) -> None:
        dimension, given = of_metric(settings, 90)
        index, truth = open_index(settings, dimension), BruteIndex(settings, dimension)
        for target in (index, truth):
            target.upsert(items(given))
            target.delete(["i00001", "i00050"])
            target.upsert([Item("i00002", given[7], language="hi")])
        queries = of_metric(settings, 90)[1][:6]
        k = 5
        for found, true in zip(index.search(queries, k), truth.search(queries, k), strict=True):
            assert found.scores[0] == pytest.approx(true.scores[0], abs=1e-5)
        same_answers(index, truth, queries, k, exact=True)
        same_answers(index, truth, queries[:1], k, filter=Filter(languages=frozenset({"hi"})))
        good = float(truth.search(queries[:1], k)[0].scores[1])
        same_answers(index, truth, queries[:1], MAX_K, exact=True, threshold=good)
        stored, original = index.get(["i00005"])["i00005"], truth.get(["i00005"])["i00005"]
        np.testing.assert_array_equal(stored.vector, original.vector)
        assert stored.vector.dtype == original.vector.dtype


class Restart:
    """Of backends that keep what they were given."""

    def test_everything_acknowledged_is_there_after_a_restart(self, open_index: OpenIndex) -> None:
        index = open_index()
        given = vectors(300)
        frames = FrameVectors(vectors(3).astype(np.float16), np.arange(3, dtype=np.float32))
        index.upsert(items(given))
        index.upsert([Item("i00001", vectors(1, seed=9)[0], 7.0, "hi", "video", {"a": "ü"}, frames)])
        index.delete(["i00000", "i00299"])
        index.delete(["i00002"])
        index.upsert([Item("i00002", vectors(1, seed=8)[0])])
        before = index.search(vectors(5, seed=1), 20)
        index.close()

        again = open_index()
        assert again.count() == 298
        assert not {"i00000", "i00299"} & set(again.scan())
        item = again.get(["i00001"])["i00001"]
        assert (item.created_at, item.language, dict(item.attributes)) == (7.0, "hi", {"a": "ü"})
        assert item.frames is not None
        np.testing.assert_array_equal(item.frames.vectors, frames.vectors)
        for old, new in zip(before, again.search(vectors(5, seed=1), 20), strict=True):
            np.testing.assert_allclose(old.scores, new.scores, atol=TOLERANCE)
            assert old.ids == new.ids
        again.upsert([Item("i00000", given[0])])
        assert again.delete(["i00000", "i00299"]) == 1

    def test_an_empty_index_may_be_opened_again(self, open_index: OpenIndex) -> None:
        open_index().close()
        index = open_index()
        assert index.count() == 0
        index.upsert(items(vectors(1)))
        index.close()
        assert open_index().count() == 1


class Recall:
    """Of every approximate index type, once it is really in use."""

    def test_a_built_index_finds_most_of_the_nearest(
        self, open_index: OpenIndex, settings: IndexSettings, backend: Any
    ) -> None:
        dimension, n, k = 32, 4000, 10
        given = clustered(n, dimension)
        index, truth = open_index(settings, dimension), BruteIndex(settings, dimension)
        for start in range(0, n, 1000):
            index.upsert(items(given)[start : start + 1000])
        truth.upsert(items(given))
        built = backend.built(index)
        assert built in (None, settings.index_type)
        queries = clustered(100, dimension, seed=0) + 0.02 * vectors(100, dimension, seed=3)
        assert _recall(index, truth, queries, k) >= 0.9
        for answer, query in zip(index.search(queries[:10], k), queries, strict=False):
            stored = index.get(answer.ids)
            exact = [float(index.space.query(query) @ stored[id_].vector.astype(np.float32)) for id_ in answer.ids]
            np.testing.assert_allclose(answer.scores, exact, atol=TOLERANCE)
        same_answers(index, truth, queries[:20], k, exact=True)

        half = Filter(created_from=n / 2)
        assert _recall(index, truth, queries, k, filter=half) >= 0.9
        dead = [f"i{at:05d}" for at in range(0, n, 20)]  # IVF_PQ of Milvus 2.3 fails here
        assert index.delete(dead) == truth.delete(dead)
        assert _recall(index, truth, queries, k) >= 0.9


def _recall(index: VectorIndex, truth: VectorIndex, queries: Any, k: int, **asked: Any) -> float:
    pairs = zip(index.search(queries, k, **asked), truth.search(queries, k, **asked), strict=True)
    return float(np.mean([len(set(found.ids) & set(true.ids)) / len(true) for found, true in pairs]))
