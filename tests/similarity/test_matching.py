"""What matches what, for which use, and how it is explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deployments.runtime.errors import InvalidInput
from deployments.similarity.content import (
    PDQ_ENCODER,
    Bank,
    Content,
    ContentVector,
    EncoderId,
    Match,
    PartitionKey,
    Stage,
    Use,
)
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.partitions.backends import MemoryBackend
from deployments.similarity.partitions.catalog import Generation
from deployments.similarity.service import SimilarityService
from deployments.similarity.values import Item
from deployments.similarity.vector_index import VectorIndex
from tests.similarity.similarity_world import CLIP, direction, film, hashes, image, seen, service, video

ALL = (Use.KNOWN_BAD, Use.PROTECTED, Use.DUPLICATE)
OTHER = EncoderId("other", "1")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SimilarityService]:
    world = service(tmp_path)
    yield world
    world.close()


def matches(world: SimilarityService, content: Content, use: Use = Use.DUPLICATE) -> list[Match]:
    answer = world.matching.match(content, [use])
    assert answer.failed == {}
    return list(answer.matches)


def ids(world: SimilarityService, content: Content, use: Use = Use.DUPLICATE) -> list[str]:
    return [match.id for match in matches(world, content, use)]


# --- signatures ---


def test_a_near_signature_is_a_match_that_explains_itself(world: SimilarityService) -> None:
    world.contents.index([image("a", 1, attributes={"title": "x"})])
    (match,) = matches(world, image("q", 1, flipped=12))
    assert match == Match(
        Use.DUPLICATE, "a", "posts.hi.image.pdq", Stage.PDQ, None, 12.0, 31.0, (), None, {"title": "x"}
    )


@pytest.mark.parametrize(("flipped", "found"), [(31, ["a"]), (32, [])])
def test_the_threshold_is_the_last_distance_that_matches(
    world: SimilarityService, flipped: int, found: list[str]
) -> None:
    world.contents.index([image("a", 1)])
    assert ids(world, image("q", 1, flipped=flipped)) == found


def test_frames_of_little_detail_never_match(world: SimilarityService) -> None:
    world.contents.index([image("flat", 1, quality=49), image("b", 2)])
    assert ids(world, image("q", 1)) == []
    assert ids(world, image("q", 2, quality=49)) == []


def test_content_never_matches_itself(world: SimilarityService) -> None:
    world.contents.index([dataclasses.replace(image("a", 1), vectors=seen("a", 1).vectors)])
    assert ids(world, dataclasses.replace(image("a", 1), vectors=seen("a", 1).vectors)) == []
    assert ids(world, image("b", 1)) == ["a"]


def test_matches_are_looked_for_in_every_language(world: SimilarityService) -> None:
    world.contents.index([image(f"{tag}", 1, language=tag) for tag in ("hi-Latn", "bn", "fr", "und")])
    assert sorted(ids(world, image("q", 1, language="ta"))) == ["bn", "fr", "hi-Latn", "und"]
    assert {str(key) for key in world.partitions.keys_of()} == {
        "posts.hi.image.pdq",
        "posts.bn.image.pdq",
        "posts.any.image.pdq",
    }


def test_the_nearest_comes_first(world: SimilarityService) -> None:
    world.contents.index([image("far", 1, flipped=20), image("near", 1, flipped=2), image("mid", 1, flipped=9)])
    assert ids(world, image("q", 1)) == ["near", "mid", "far"]


# --- videos ---


def test_a_re_encoded_video_is_a_duplicate_with_its_seconds(world: SimilarityService) -> None:
    world.contents.index([video("a", *range(10))])
    (match,) = matches(world, video("q", *range(10), flipped=6))
    (segment,) = match.segments
    assert (match.stage, match.distance, match.duration_s) == (Stage.PDQ, 6, 10)
    assert (segment.start_s, segment.other_start_s) == (0, 0)
    assert segment.end_s == pytest.approx(10, abs=1)


@pytest.mark.parametrize(
    ("seeds", "found"),
    [
        (tuple(range(2, 10)), ["a"]),  # trimmed
        (tuple(reversed(range(10))), []),
        ((6, 0, 9, 3, 7, 1, 4, 8, 2, 5), []),  # shuffled
        ((0, 1, 2, *range(50, 67)), []),  # three seconds of it in twenty
        (tuple(range(50, 60)), []),
    ],
)
def test_a_duplicate_has_most_of_the_frames_in_their_order(
    world: SimilarityService, seeds: tuple[int, ...], found: list[str]
) -> None:
    world.contents.index([video("a", *range(10))])
    assert ids(world, video("q", *seeds)) == found


def test_a_few_seconds_of_a_protected_work_are_found_and_told(world: SimilarityService) -> None:
    world.contents.index([video("work", *range(10), attributes={"owner": "studio"})], Bank.PROTECTED)
    (match,) = matches(world, video("q", *range(100, 110), 3, 4, 5, 6, *range(120, 130)), Use.PROTECTED)
    (segment,) = match.segments
    assert (match.id, match.attributes) == ("work", {"owner": "studio"})
    assert (segment.start_s, segment.other_start_s) == pytest.approx((10, 3), abs=0.01)
    assert segment.end_s == pytest.approx(14, abs=1)


def test_a_still_out_of_a_video_is_a_protected_match_and_no_duplicate(world: SimilarityService) -> None:
    world.contents.index([video("a", *range(10))])
    world.contents.index([video("a", *range(10))], Bank.PROTECTED)
    assert ids(world, image("q", 4)) == []
    (match,) = matches(world, image("q", 4), Use.PROTECTED)
    assert match.segments[0].other_start_s == pytest.approx(4, abs=0.01)


def test_a_gif_meets_both_stills_and_videos(world: SimilarityService) -> None:
    gif = dataclasses.replace(video("gif", *range(4)), content_type="gif")
    world.contents.index([gif, image("still", 2)])
    assert sorted(ids(world, video("q", *range(4)))) == ["gif"]
    assert sorted(ids(world, dataclasses.replace(gif, id="q"))) == ["gif", "still"]


def test_one_known_bad_frame_is_enough_in_any_order(world: SimilarityService) -> None:
    world.contents.index([image("bad", 5, attributes={"list": "l"})], Bank.KNOWN_BAD)
    (match,) = matches(world, video("q", 9, 8, 7, 6, 5, 4), Use.KNOWN_BAD)
    assert (match.id, match.segments[0].start_s) == ("bad", 4)


# --- vectors ---


def test_an_embedding_above_the_threshold_is_a_match(world: SimilarityService) -> None:
    world.contents.index([seen("near", 1, 0.98), seen("far", 1, 0.9)])
    (match,) = matches(world, seen("q", 1))
    assert (match.id, match.stage, match.threshold, match.distance) == ("near", Stage.EMBEDDING, 0.97, None)
    assert match.score == pytest.approx(0.98, abs=2e-3)


def test_thresholds_belong_to_an_encoder(tmp_path: Path) -> None:
    world = service(tmp_path, duplicate={"by_encoder": {"clip": {"visual": 0.8}}, "thresholds": {"visual": 0.99}})
    world.contents.index([seen("a", 1, 0.9)])
    assert ids(world, seen("q", 1)) == ["a"]
    assert [match.threshold for match in matches(world, seen("q", 1))] == [0.8]
    world.close()


def test_partitions_of_another_encoder_are_left_out(world: SimilarityService) -> None:
    world.contents.index([seen("a", 1), seen("b", 1, encoder=OTHER, language="bn")])
    assert ids(world, seen("q", 1)) == ["a"]
    assert ids(world, seen("q", 1, encoder=OTHER)) == ["b"]


def test_the_order_of_frames_is_checked_by_their_vectors(world: SimilarityService) -> None:
    world.contents.index([film("a", *range(10))])
    (match,) = matches(world, film("q", *range(10)))
    assert match.segments[0].end_s == pytest.approx(10, abs=1)
    assert ids(world, film("q", *reversed(range(10)))) == []


def test_durations_must_agree_where_no_frames_are_kept(tmp_path: Path) -> None:
    world = service(tmp_path, frames_per_post=0)
    world.contents.index([film("a", *range(10))])
    assert ids(world, film("q", *range(10))) == ["a"]
    assert ids(world, film("q", *range(10), duration_s=20.0)) == []
    world.close()


def test_a_caption_or_a_song_makes_no_duplicate_of_a_video_but_a_song_has_an_owner(world: SimilarityService) -> None:
    song = film("song", *range(10), modality="audio", content_type="audio")
    clip = film("clip", *range(10), modality="audio")
    caption = Content("said", "video", vectors={"text": ContentVector(CLIP, direction(1))})
    world.contents.index([clip, caption])
    world.contents.index([song], Bank.PROTECTED)
    query = film("q", *range(10), modality="audio", content_type="video")
    query = dataclasses.replace(query, vectors={**query.vectors, **caption.vectors})
    assert ids(world, query) == []
    assert ids(world, query, Use.PROTECTED) == ["song"]


def test_texts_match_texts(world: SimilarityService) -> None:
    world.contents.index([seen("a", 1, content_type="image"), Content("t", "text", vectors=_text(1))])
    assert ids(world, Content("q", "text", vectors=_text(1))) == ["t"]


def _text(seed: int) -> dict[str, ContentVector]:
    return {"text": ContentVector(CLIP, direction(seed))}


# --- several ways to one ---


def test_of_several_ways_to_the_same_content_the_surest_is_told(world: SimilarityService) -> None:
    both = dataclasses.replace(image("a", 1, flipped=3), vectors=seen("a", 1).vectors)
    world.contents.index([both, seen("b", 1, 0.99)])
    found = matches(world, dataclasses.replace(image("q", 1), vectors=seen("q", 1).vectors))
    assert [(match.id, match.stage) for match in found] == [("a", Stage.PDQ), ("b", Stage.EMBEDDING)]


def test_the_same_bytes_are_the_surest(world: SimilarityService) -> None:
    world.contents.index([image("a", 1, sha256="ff"), image("b", 1, sha256="00")])
    found = matches(world, image("q", 1, sha256="ff"))
    assert [(match.id, match.stage, match.distance) for match in found] == [
        ("a", Stage.SHA256, None),
        ("b", Stage.PDQ, 0.0),
    ]


def test_no_more_matches_than_the_settings_say(tmp_path: Path) -> None:
    world = service(tmp_path, max_matches=3)
    world.contents.index([image(f"p{i}", 1, flipped=i) for i in range(20)])
    assert ids(world, image("q", 1)) == ["p0", "p1", "p2"]
    world.close()


# --- references ---


def test_a_reference_that_is_switched_off_never_matches(world: SimilarityService) -> None:
    work = dataclasses.replace(image("work", 1), vectors=seen("work", 1).vectors)
    query = dataclasses.replace(image("q", 1), vectors=seen("q", 1).vectors)
    world.contents.index([dataclasses.replace(work, attributes={"enabled": False})], Bank.PROTECTED)
    assert ids(world, query, Use.PROTECTED) == []
    world.contents.index([dataclasses.replace(work, attributes={"enabled": True})], Bank.PROTECTED)
    assert ids(world, query, Use.PROTECTED) == ["work"]


@pytest.mark.parametrize("negative", [image("n", 1, flipped=2), seen("n", 1, 0.99)])
def test_the_negative_bank_silences_references_and_duplicates_but_no_known_bad(
    world: SimilarityService, negative: Content
) -> None:
    content = dataclasses.replace(
        negative, id="c", signatures=negative.signatures and image("c", 1).signatures, content_type="image"
    )
    for bank in (Bank.POSTS, Bank.PROTECTED, Bank.KNOWN_BAD):
        world.contents.index([content], bank)
    before = {use: ids(world, dataclasses.replace(content, id="q"), use) for use in ALL}
    world.contents.index([negative], Bank.NEGATIVE)
    after = {use: ids(world, dataclasses.replace(content, id="q"), use) for use in ALL}
    assert before[Use.PROTECTED] == before[Use.DUPLICATE] == ["c"]
    assert after == {**before, Use.PROTECTED: [], Use.DUPLICATE: []}


def test_a_negative_frame_leaves_the_others_of_a_video_to_match(world: SimilarityService) -> None:
    world.contents.index([video("work", 0, *range(1, 8))], Bank.PROTECTED)
    world.contents.index([image("black", 0)], Bank.NEGATIVE)
    assert ids(world, video("q", 0, *range(1, 8)), Use.PROTECTED) == ["work"]
    assert ids(world, video("q", 0, *range(20, 28)), Use.PROTECTED) == []


def test_more_past_posts_than_are_told_is_said(world: SimilarityService) -> None:
    posts = [image(f"p{number}", 1) for number in range(6)]
    world.contents.index(posts)
    answers = [world.matching.retroactive(image("work", 1), limit=limit) for limit in (3, 6)]
    assert [(len(answer.matches), answer.truncated) for answer in answers] == [(3, True), (6, False)]
    world.contents.index([seen(f"q{number:02}", 2) for number in range(40)])
    answer = world.matching.retroactive(seen("work", 2), limit=3)
    assert (len(answer.matches), answer.truncated) == (3, True)


def test_a_new_reference_is_held_against_past_posts(world: SimilarityService) -> None:
    world.contents.index([image("p1", 1, flipped=4), image("p2", 1, language="bn"), image("p3", 2)])
    answer = world.matching.retroactive(image("work", 1))
    assert [(match.id, match.use, match.distance) for match in answer.matches] == [
        ("p2", Use.PROTECTED, 0.0),
        ("p1", Use.PROTECTED, 4.0),
    ]


def test_list_entries_put_there_by_hand_are_their_own_content(world: SimilarityService) -> None:
    key = PartitionKey.parse("known-bad.any.any.pdq")
    entries = [Item(f"list#{n}", hashes(n)[0], attributes={"labels": [str(n)]}) for n in range(3)]
    world.partitions.upsert(key, PDQ_ENCODER, entries)
    (match,) = matches(world, image("q", 2), Use.KNOWN_BAD)
    assert (match.id, match.attributes) == ("list#2", {"labels": ["2"]})


# --- what could not be searched ---


class Broken(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()

    def open(self, generation: Generation, directory: Path, *, create: bool) -> VectorIndex:
        if str(generation.partition) in self.broken:
            raise IndexDamaged("torn")
        return super().open(generation, directory, create=create)


def test_a_partition_that_fails_is_named_and_hides_no_match_of_the_others(tmp_path: Path) -> None:
    backend = Broken()
    world = service(tmp_path, backend)
    world.contents.index([image("hi", 1), image("bn", 1, language="bn"), seen("v", 1, language="ta")])
    world.contents.index([image("n", 9)], Bank.NEGATIVE)
    world.close()
    backend.broken = {"posts.bn.image.pdq", "negative.any.image.pdq"}
    again = service(tmp_path, backend)
    query = dataclasses.replace(image("q", 1), vectors=seen("q", 1).vectors)
    answer = again.matching.match(query, ALL)
    assert [match.id for match in answer.matches] == ["hi", "v"]
    assert set(answer.failed) == {"duplicate", "protected"}
    assert "posts.bn.image.pdq" in answer.failed["duplicate"]
    assert answer.failed["protected"].startswith("negative bank")
    again.close()


def test_a_use_that_is_off_finds_nothing(tmp_path: Path) -> None:
    world = service(tmp_path, duplicate={"enabled": False})
    world.contents.index([image("a", 1)])
    assert ids(world, image("q", 1)) == []
    world.close()


@pytest.mark.parametrize(
    "content",
    [
        Content("", "image"),
        Content("a\nb", "image"),
        Content("x" * 510, "image"),
        Content("a", "hologram"),
        Content("a", "image", attributes={"_": 1}),
        Content("a", "image", vectors={"smell": ContentVector(CLIP, np.ones(4, np.float32))}),
    ],
)
def test_content_that_no_index_could_take_is_refused(world: SimilarityService, content: Content) -> None:
    with pytest.raises(InvalidInput):
        world.matching.match(content, ALL)
    with pytest.raises(InvalidInput):
        world.contents.index([image("ok", 1), content])
    assert world.partitions.keys_of() == []


def test_only_the_uses_that_compare_are_asked(world: SimilarityService) -> None:
    with pytest.raises(InvalidInput):
        world.matching.match(image("q", 1), [Use.SIMILAR])
    assert world.matching.match(image("q", 1), ()).matches == ()


def test_content_without_anything_to_compare_matches_nothing(world: SimilarityService) -> None:
    world.contents.index([image("a", 1)])
    assert world.matching.match(Content("q", "image"), ALL).matches == ()
