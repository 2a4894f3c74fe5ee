"""Content in the index: whole, replaced, moved, removed, listed, looked for, and shown by feeds."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.runtime.errors import InvalidInput, NodeUnavailable, NotFound, WrongEncoder
from deployments.similarity.content import PDQ_ENCODER, Bank, Content, EncoderId, PartitionKey, SearchRequest, Use
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.partitions.backends import MemoryBackend
from deployments.similarity.partitions.catalog import Generation
from deployments.similarity.service import SimilarityService
from deployments.similarity.uses.entries import candidate_id, signature_id
from deployments.similarity.values import Filter, Item
from deployments.similarity.vector_index import VectorIndex
from tests.similarity.similarity_world import CLIP, direction, film, hashes, image, seen, service, signatures, video

NEW = EncoderId("clip", "2")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SimilarityService]:
    world = service(tmp_path)
    yield world
    world.close()


def where(world: SimilarityService, bank: str = Bank.POSTS) -> dict[str, list[str]]:
    """Partition -> ids of its items, where there are any."""
    return {str(key): ids for key in world.partitions.keys_of(bank) if (ids := world.partitions.scan(key))}


def whole(id: str, seed: int = 1, **given: object) -> Content:
    """An image with signature and vector."""
    return dataclasses.replace(image(id, seed), vectors=seen(id, seed).vectors, **given)  # type: ignore[arg-type]


# --- in and out ---


def test_every_modality_lies_in_its_own_partition(world: SimilarityService) -> None:
    world.contents.index([whole("a")])
    world.contents.index([video("v", 1, 2, 1, 3)])
    assert where(world) == {
        "posts.hi.image.pdq": ["a#0"],
        "posts.hi.image.visual": ["a"],
        "posts.hi.video.pdq": ["v#0", "v#1", "v#2"],  # a signature that comes twice is kept once
    }


def test_indexing_twice_changes_nothing(world: SimilarityService) -> None:
    world.contents.index([whole("a")])
    before = where(world)
    world.contents.index([whole("a")])
    assert where(world) == before


def test_what_the_new_revision_no_longer_has_is_gone(world: SimilarityService) -> None:
    world.contents.index([video("a", 1, 2, 3), whole("b")])
    world.contents.index([video("a", 4), dataclasses.replace(whole("b"), vectors={})])
    assert where(world) == {"posts.hi.video.pdq": ["a#0"], "posts.hi.image.pdq": ["b#0"]}
    assert world.matching.match(video("q", 1), [Use.DUPLICATE]).matches == ()


def test_another_language_or_content_type_moves_it(world: SimilarityService) -> None:
    world.contents.index([whole("a")])
    world.contents.index([whole("a", language="bn", content_type="gif")])
    assert where(world) == {"posts.bn.gif.pdq": ["a#0"], "posts.bn.gif.visual": ["a"]}


def test_an_older_revision_is_ignored(world: SimilarityService) -> None:
    world.contents.index([whole("a", 1, attributes={"revision": 2})])
    world.contents.index([whole("a", 2, attributes={"revision": 1}), whole("b", 3, attributes={"revision": 1})])
    stored = world.contents.stored("a")
    assert stored is not None
    assert stored.attributes == {"revision": 2}
    world.contents.index([whole("a", 2, attributes={"revision": 2})])
    assert (world.contents.stored("a") or stored).vectors["visual"].vector @ direction(2) == pytest.approx(1, abs=1e-3)
    assert world.contents.ids(Bank.POSTS) == ["a", "b"]


def test_what_was_stored_comes_back_whole(world: SimilarityService) -> None:
    given = dataclasses.replace(
        video("a", 1, 2, 3, sha256="ff", attributes={"by": "x"}), vectors=film("a", 1, 2, 3).vectors
    )
    world.contents.index([given])
    stored = world.contents.stored("a")
    assert stored is not None
    assert dataclasses.replace(stored, vectors={}, signatures=None) == dataclasses.replace(
        given, vectors={}, signatures=None
    )
    assert stored.signatures is not None
    np.testing.assert_array_equal(stored.signatures.hashes, hashes(1, 2, 3))
    np.testing.assert_allclose(stored.signatures.times_s, [0, 1, 2])
    frames = stored.vectors["visual"].frames
    assert frames is not None
    assert frames.vectors.shape == (3, 32)


def test_a_copy_has_the_sources_vectors_and_its_own_id(world: SimilarityService) -> None:
    world.contents.index([whole("a")])
    assert world.contents.copy("a", Content("b", "image", "bn", 200.0))
    assert not world.contents.copy("nobody", Content("c", "image"))
    assert where(world)["posts.bn.image.visual"] == ["b"]
    assert [match.id for match in world.matching.match(whole("q"), [Use.DUPLICATE]).matches] == ["a", "b"]


def test_removing_takes_everything_of_one_content_from_one_bank(world: SimilarityService) -> None:
    world.contents.index([whole("a"), whole("b")])
    world.contents.index([whole("a")], Bank.PROTECTED)
    assert world.contents.remove("a")
    assert not world.contents.remove("a")
    assert where(world) == {"posts.hi.image.pdq": ["b#0"], "posts.hi.image.visual": ["b"]}
    assert where(world, Bank.PROTECTED) == {"protected.any.image.pdq": ["a#0"], "protected.any.image.visual": ["a"]}


def test_removing_reaches_the_generations_that_are_not_live(world: SimilarityService) -> None:
    key = PartitionKey.parse("posts.hi.image.visual")
    world.contents.index([seen("a", 1), seen("b", 2)])
    world.partitions.begin(key, NEW, 32)
    world.contents.index([seen("a", 3, encoder=NEW), seen("c", 4, encoder=NEW)])
    world.contents.remove("c")
    world.contents.remove("a")
    world.partitions.switch(key)
    assert world.partitions.scan(key) == []
    world.partitions.rollback(key)
    assert world.partitions.scan(key) == ["b"]


def test_a_part_that_is_refused_keeps_no_other_part_out(world: SimilarityService) -> None:
    world.contents.index([whole("a")])
    with pytest.raises(WrongEncoder):
        world.contents.index([dataclasses.replace(whole("b"), vectors=seen("b", 1, encoder=NEW).vectors)])
    assert where(world) == {"posts.hi.image.pdq": ["a#0", "b#0"], "posts.hi.image.visual": ["a"]}


def test_one_id_is_written_by_one_thread_at_a_time(world: SimilarityService) -> None:
    def write(seed: int) -> None:
        for _ in range(20):
            world.contents.index([whole("a", seed, language=("hi", "bn", "ta")[seed % 3])])

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(ids) for ids in where(world).values()) == [1, 1]
    assert len({key.split(".")[1] for key in where(world)}) == 1


# --- ids ---


def test_ids_with_a_hash_sign_never_meet_signatures(world: SimilarityService) -> None:
    world.contents.index([video("a", 1, 2), whole("a#0", 3), whole("a#1", 4)])
    assert world.contents.ids(Bank.POSTS) == ["a", "a#0", "a#1"]
    world.contents.remove("a#0")
    assert where(world) == {
        "posts.hi.image.pdq": ["a#1#0"],
        "posts.hi.image.visual": ["a#1"],
        "posts.hi.video.pdq": ["a#0", "a#1"],
    }
    assert [match.id for match in world.matching.match(video("q", 1, 2), [Use.DUPLICATE]).matches] == ["a"]


@given(st.text(min_size=1, max_size=20), st.integers(0, 63))
def test_a_signatures_id_tells_its_content(id: str, n: int) -> None:
    key = PartitionKey.parse("posts.hi.image.pdq")
    assert candidate_id(signature_id(id, n), key) == id


@settings(max_examples=60, deadline=None)
@given(
    ids=st.sets(st.text(alphabet="a! #0z", min_size=1, max_size=4), min_size=1, max_size=25),
    after=st.text(alphabet="a! #0z", max_size=4),
    limit=st.integers(1, 8),
)
def test_listing_gives_the_next_ids_in_order_and_none_twice(ids: set[str], after: str, limit: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        world = service(Path(root))
        contents = [image(id, n) if n % 3 else whole(id, n) for n, id in enumerate(sorted(ids))]
        world.contents.index([dataclasses.replace(c, signatures=signatures(*range(3))) for c in contents])
        expected = sorted((id for id in ids if id > after), key=str.encode)
        assert world.contents.ids(Bank.POSTS, after, limit) == expected[:limit]
        world.close()


# --- search ---


def request(seed: int, near: float = 1.0, **given: object) -> SearchRequest:
    return SearchRequest(CLIP, direction(seed, near), "visual", **given)  # type: ignore[arg-type]


def test_a_search_merges_every_partition_that_fits(world: SimilarityService) -> None:
    world.contents.index(
        [
            seen("a", 1, 0.9),
            seen("b", 1, 0.99, language="bn"),
            seen("c", 1, 0.95, language="xx", attributes={"n": 1}),
            seen("d", 1, content_type="gif"),
        ]
    )
    hits = world.searching.search(request(1, k=3)).hits
    assert [(hit.id, hit.partition) for hit in hits] == [
        ("d", "posts.hi.gif.visual"),
        ("b", "posts.bn.image.visual"),
        ("c", "posts.any.image.visual"),
    ]
    assert (hits[2].attributes, hits[2].language) == ({"n": 1}, "xx")
    some = Filter(languages=frozenset({"bn-IN", "xx"}), content_types=frozenset({"image"}))
    assert [hit.id for hit in world.searching.search(request(1, filter=some)).hits] == ["b", "c"]
    one = request(1, partition="posts.hi.image.visual")
    assert [hit.id for hit in world.searching.search(one).hits] == ["a"]


def test_a_search_that_fits_nothing_finds_nothing_and_a_wrong_one_is_refused(world: SimilarityService) -> None:
    assert world.searching.search(request(1)).hits == []
    world.contents.index([seen("a", 1)])
    with pytest.raises(WrongEncoder):
        world.searching.search(dataclasses.replace(request(1), encoder=NEW))
    with pytest.raises(NotFound):
        world.searching.search(request(1, partition="posts.ta.image.visual"))
    with pytest.raises(InvalidInput):
        world.searching.search(request(1, bank="attic"))
    with pytest.raises(InvalidInput):
        world.searching.search(dataclasses.replace(request(1), vector=np.ones(7, np.float32)))


def test_a_search_by_signature_gives_each_content_once(world: SimilarityService) -> None:
    frames = np.concatenate([hashes(1, flipped=n) for n in range(6)])
    many = dataclasses.replace(video("a", *range(6)), signatures=signatures(*range(6)))
    assert many.signatures is not None
    world.contents.index(
        [dataclasses.replace(many, signatures=dataclasses.replace(many.signatures, hashes=frames)), image("b", 1)]
    )
    hits = world.searching.search(SearchRequest(PDQ_ENCODER, hashes(1)[0], "pdq", k=5)).hits
    assert sorted((hit.id, hit.score) for hit in hits) == [("a", 0.0), ("b", 0.0)]


def test_more_like_this_never_gives_the_thing_itself(world: SimilarityService) -> None:
    world.contents.index([whole("a"), whole("b"), seen("c", 1, 0.8), image("d", 1)])
    assert [hit.id for hit in world.searching.more_like("a").hits] == ["b", "c"]
    assert [hit.id for hit in world.searching.more_like("a", threshold=0.9).hits] == ["b"]
    for id_, modality in (("nobody", None), ("a", "audio"), ("d", None)):
        with pytest.raises(NotFound):
            world.searching.more_like(id_, modality=modality)


class Broken(MemoryBackend):
    def open(self, generation: Generation, directory: Path, *, create: bool) -> VectorIndex:
        if generation.partition.language == "bn" and not create:
            raise IndexDamaged("torn")
        return super().open(generation, directory, create=create)


def test_a_damaged_partition_is_told_beside_the_hits_and_keeps_removal_honest(tmp_path: Path) -> None:
    backend = Broken()
    world = service(tmp_path, backend)
    world.contents.index([seen("a", 1), seen("b", 1, language="bn")])
    world.close()
    again = service(tmp_path, backend)
    answer = again.searching.search(request(1))
    assert [hit.id for hit in answer.hits] == ["a"]
    assert list(answer.failed) == ["posts.bn.image.visual"]
    with pytest.raises(NodeUnavailable):
        again.searching.search(request(1, filter=Filter(languages=frozenset({"bn"}))))
    with pytest.raises(IndexDamaged):
        again.contents.remove("a")
    assert again.searching.search(request(1)).hits == []
    with pytest.raises(IndexDamaged):
        again.contents.ids(Bank.POSTS)
    again.contents.index([seen("c", 1)])
    assert [hit.id for hit in again.searching.search(request(1)).hits] == ["c"]
    again.close()


# --- shown ---


def shown(world: SimilarityService, content: Content, feed: str = "home", within_s: float = 3600.0) -> list[str]:
    answer = world.shown.was(content, feed, time.time() - within_s)
    assert answer.failed == {}
    return [match.id for match in answer.matches]


def test_a_feed_is_told_what_it_showed_under_this_or_another_id(world: SimilarityService) -> None:
    world.contents.index([whole("a")])
    world.shown.mark(Content("a", "image"), "home", time.time() - 60)
    assert shown(world, Content("a", "image")) == ["a"]
    assert shown(world, image("b", 1, flipped=5)) == ["a"]
    assert shown(world, image("c", 2)) == []
    assert shown(world, whole("a"), within_s=30) == []
    assert shown(world, whole("a"), feed="other") == []
    (match,) = world.shown.was(image("b", 1), "home", 0.0).matches
    assert match.use is Use.SIMILAR
    assert match.attributes["shown_at"] == pytest.approx(time.time() - 60, abs=5)


def test_what_is_not_indexed_can_be_shown_with_its_vectors_only(world: SimilarityService) -> None:
    world.shown.mark(whole("a"), "home", time.time())
    assert shown(world, image("b", 1)) == ["a"]
    with pytest.raises(NotFound):
        world.shown.mark(Content("b", "image"), "home", time.time())


def test_feeds_have_plain_names_and_an_end(tmp_path: Path) -> None:
    world = service(tmp_path, max_feeds=2)
    for feed in ("one", "two", "one"):
        world.shown.mark(whole("a"), feed, time.time())
    with pytest.raises(InvalidInput, match="feeds"):
        world.shown.mark(whole("a"), "three", time.time())
    for bad in ("", "Home", "a.b", "x" * 40):
        with pytest.raises(InvalidInput):
            world.shown.mark(whole("a"), bad, time.time())
        with pytest.raises(InvalidInput):
            world.shown.was(whole("a"), bad, time.time())
    world.close()


def test_a_feed_that_showed_nothing_within_the_window_makes_room_for_another(tmp_path: Path) -> None:
    world = service(tmp_path, max_feeds=2, shown_retention_h=1)
    world.shown.mark(whole("a"), "stale", time.time() - 7200)
    world.shown.mark(whole("a"), "lively", time.time() - 1800)
    world.shown.mark(whole("a"), "new", time.time())
    assert {key.language for key in world.partitions.keys_of(Bank.SHOWN)} == {"lively", "new"}
    world.shown.mark(whole("b"), "lively", time.time())
    world.close()


def test_a_freed_feed_is_gone_from_the_disk_and_may_come_back(tmp_path: Path) -> None:
    backend = MemoryBackend()
    world = service(tmp_path, backend)
    world.shown.mark(whole("a"), "home", time.time() - 7200)
    world.shown.expire(time.time() - 3600)
    assert world.partitions.keys_of() == []
    assert backend.indexes == {}
    assert shown(world, whole("a")) == []
    world.shown.mark(whole("a"), "home", time.time())
    assert shown(world, whole("a")) == ["a"]
    world.close()
    again = service(tmp_path, backend)
    assert shown(again, whole("a")) == ["a"]
    again.close()


def test_what_is_shown_while_its_feed_is_freed_is_remembered(world: SimilarityService) -> None:
    done = threading.Event()

    def free() -> None:
        while not done.is_set():
            world.shown.expire(time.time() - 3600)

    freeing = threading.Thread(target=free)
    freeing.start()
    try:
        for _ in range(50):
            world.shown.mark(whole("a"), "home", time.time())
            assert shown(world, whole("a")) == ["a"]
            world.contents.remove("a", Bank.SHOWN)
    finally:
        done.set()
        freeing.join()


def test_what_was_shown_starts_anew_with_a_new_encoder(world: SimilarityService) -> None:
    world.shown.mark(seen("a", 1), "home", time.time())
    world.shown.mark(seen("b", 2, encoder=NEW), "home", time.time())
    assert shown(world, seen("q", 2, encoder=NEW)) == ["b"]
    assert where(world, Bank.SHOWN) == {"shown.home.any.visual": ["b"]}
    (info,) = world.partitions.infos()
    assert len(info.generations) == 1


def test_only_what_is_older_is_forgotten(world: SimilarityService) -> None:
    for n in range(30):
        world.shown.mark(whole(f"p{n:02}", n), ("home", "video")[n % 2], 100.0 + n)
    assert world.shown.expire(before=120.0) == 40
    assert world.contents.ids(Bank.SHOWN) == [f"p{n}" for n in range(20, 30)]


def test_items_put_by_hand_are_found_by_a_search(world: SimilarityService) -> None:
    key = PartitionKey.parse("posts.hi.image.visual")
    world.partitions.upsert(key, CLIP, [Item("hand", direction(1), content_type="image", language="hi")])
    assert [hit.id for hit in world.searching.search(request(1)).hits] == ["hand"]
    assert [match.id for match in world.matching.match(seen("q", 1), [Use.DUPLICATE]).matches] == ["hand"]
