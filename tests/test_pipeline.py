"""What happens to a post: the true pipeline over in-process nodes, faults put in by subclassing a node handle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deployments.policy.policy import default_policy
from deployments.runtime.errors import (
    DeadlineExceeded,
    InvalidInput,
    NodeUnavailable,
    NotFound,
    Overloaded,
    TooLarge,
    UndecodableMedia,
    UnsupportedMedia,
    WrongWeights,
)
from deployments.runtime.values import ContentType, Embeddings, Modality, Status, TextEmbedding
from serve_app.config import AppConfig
from serve_app.local_nodes import LocalNodes
from serve_app.pipeline import Pipeline
from serve_app.posts import MediaSource, Post


class FaultyNodes(LocalNodes):
    """Local nodes that fail where told: `faults[method]` lists the exceptions of its next calls."""

    def __init__(self, config: AppConfig, **faults: list[Exception | None]) -> None:
        super().__init__(config)
        self.faults = faults
        self.calls: dict[str, int] = {}

    def _maybe_fail(self, method: str) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1
        planned = self.faults.get(method)
        if planned:
            error = planned.pop(0)
            if error is not None:
                raise error

    async def encode_frames(self, frames: Any) -> Embeddings:
        self._maybe_fail("encode_frames")
        return await super().encode_frames(frames)

    async def encode_text(self, text: str) -> TextEmbedding:
        self._maybe_fail("encode_text")
        return await super().encode_text(text)


def post(caption: str | None = None, content_type: str = "video", **fields: Any) -> Post:
    created_at = fields.pop("created_at", datetime.now(UTC))
    return Post(
        post_id="p1",
        author_id="a1",
        content_type=ContentType(content_type),
        created_at=created_at,
        caption=caption,
        **fields,
    )


@pytest.fixture
async def nodes(fake_config: AppConfig) -> AsyncIterator[FaultyNodes]:
    subject = FaultyNodes(fake_config)
    yield subject
    await subject.close()


@pytest.fixture
def pipeline(nodes: FaultyNodes) -> Pipeline:
    return Pipeline(nodes, default_policy())


async def test_a_picture_with_a_caption_is_judged_by_eye_and_word(pipeline: Pipeline, png: bytes) -> None:
    verdict = await pipeline.moderate(post("a small picture", "image", language="en-IN"), MediaSource(data=png))
    assert {m: r.status for m, r in verdict.modalities.items()} == {
        Modality.VISUAL: Status.OK,
        Modality.AUDIO: Status.MISSING,
        Modality.TEXT: Status.OK,
    }
    assert verdict.modalities[Modality.VISUAL].frames == 1
    assert sum(verdict.category_scores.values()) == pytest.approx(1)
    assert verdict.nsfw_score == pytest.approx(1 - verdict.category_scores["safe"])
    assert set(verdict.models) == {"clip", "xlmr", "fusion"}
    assert {model.weights for model in verdict.models.values()} == {"random"}
    assert verdict.decision.policy_version == default_policy().version
    assert verdict.language is not None
    assert (verdict.language.tag, verdict.language.identified) == ("en-IN", False)


async def test_sound_alone_is_judged_by_ear(pipeline: Pipeline, wav: bytes) -> None:
    verdict = await pipeline.moderate(post(None, "audio"), MediaSource(data=wav))
    assert verdict.modalities[Modality.AUDIO].status is Status.OK
    assert verdict.modalities[Modality.AUDIO].seconds == pytest.approx(2)
    assert verdict.modalities[Modality.VISUAL].status is Status.MISSING


async def test_a_missing_language_is_identified_and_marked(pipeline: Pipeline) -> None:
    verdict = await pipeline.moderate(post("आज मौसम बहुत सुहावना है और बच्चे खेल रहे हैं।", "text"), None)
    assert verdict.language is not None
    assert (verdict.language.tag, verdict.language.identified) == ("hi", True)


async def test_the_age_is_counted_from_creation(pipeline: Pipeline) -> None:
    verdict = await pipeline.moderate(post("hello", "text", created_at=datetime.now(UTC) - timedelta(minutes=4)), None)
    assert verdict.age_s == pytest.approx(240, abs=5)


async def test_a_failed_encoder_costs_its_modality_and_asks_for_review(
    nodes: FaultyNodes, pipeline: Pipeline, png: bytes
) -> None:
    nodes.faults["encode_frames"] = [ValueError("a secret of the model")]
    verdict = await pipeline.moderate(post("a caption", "image"), MediaSource(data=png))
    assert verdict.modalities[Modality.VISUAL].status is Status.FAILED
    assert "secret" not in str(verdict.modalities[Modality.VISUAL].reason)
    assert verdict.decision.action in ("review", "block")
    assert "clip" not in verdict.models


async def test_a_call_that_died_with_its_replica_is_asked_once_more(nodes: FaultyNodes, pipeline: Pipeline) -> None:
    nodes.faults["encode_text"] = [NodeUnavailable()]
    verdict = await pipeline.moderate(post("hello", "text"), None)
    assert verdict.modalities[Modality.TEXT].status is Status.OK
    assert nodes.calls["encode_text"] == 2


async def test_the_second_death_is_final(nodes: FaultyNodes, pipeline: Pipeline, png: bytes) -> None:
    nodes.faults["encode_text"] = [NodeUnavailable(), NodeUnavailable()]
    verdict = await pipeline.moderate(post("hello", "image"), MediaSource(data=png))
    assert verdict.modalities[Modality.TEXT].status is Status.FAILED
    assert nodes.calls["encode_text"] == 2


async def test_a_post_of_which_nothing_can_be_judged_is_unavailable_not_allowed(
    nodes: FaultyNodes, pipeline: Pipeline
) -> None:
    nodes.faults["encode_text"] = [NodeUnavailable(), NodeUnavailable()]
    with pytest.raises(NodeUnavailable):
        await pipeline.moderate(post("hello", "text"), None)


async def test_broken_media_without_text_is_refused(pipeline: Pipeline, png: bytes) -> None:
    with pytest.raises(UndecodableMedia):
        await pipeline.moderate(post(None, "image"), MediaSource(data=png[:60]))


async def test_broken_media_with_text_is_judged_by_the_text_and_reviewed(pipeline: Pipeline, png: bytes) -> None:
    verdict = await pipeline.moderate(post("a caption", "image"), MediaSource(data=png[:60]))
    assert verdict.modalities[Modality.VISUAL].status is Status.FAILED
    assert verdict.modalities[Modality.TEXT].status is Status.OK
    assert verdict.decision.action in ("review", "block")


async def test_a_full_queue_is_told_as_such_and_not_stored_as_a_verdict(
    nodes: FaultyNodes, pipeline: Pipeline, png: bytes
) -> None:
    nodes.faults["encode_text"] = [Overloaded(retry_after_s=7)]
    with pytest.raises(Overloaded) as told:
        await pipeline.moderate(post("hello", "image"), MediaSource(data=png))
    assert told.value.retry_after_s == 7


async def test_a_poisoned_text_is_the_posts_own_fault(nodes: FaultyNodes, pipeline: Pipeline) -> None:
    nodes.faults["encode_text"] = [ValueError("boom")]
    with pytest.raises(UndecodableMedia):
        await pipeline.moderate(post("hello", "text"), None)
    nodes.faults["encode_text"] = [InvalidInput("no words in it")]
    with pytest.raises(InvalidInput, match="no words in it"):
        await pipeline.moderate(post("hello", "text"), None)


async def test_who_can_wait_gets_no_verdict_without_a_node_that_is_down(
    nodes: FaultyNodes, pipeline: Pipeline, png: bytes
) -> None:
    nodes.faults["encode_frames"] = [NodeUnavailable(), NodeUnavailable()] * 2
    with pytest.raises(NodeUnavailable):
        await pipeline.moderate(post("hello", "image"), MediaSource(data=png), wait_for_nodes=True)
    verdict = await pipeline.moderate(post("hello", "image"), MediaSource(data=png))
    assert verdict.modalities[Modality.VISUAL].status is Status.FAILED


async def test_a_head_never_runs_over_an_encoder_it_was_not_trained_on(fake_config: AppConfig, png: bytes) -> None:
    card = fake_config.fusion.head.artefact / "card.json"
    details = json.loads(card.read_text())
    details["encoders"] = {"visual": {"name": "another", "version": "1", "dimension": 48}}
    card.write_text(json.dumps(details))
    nodes = LocalNodes(fake_config)
    with pytest.raises(WrongWeights, match="another"):
        await Pipeline(nodes, default_policy()).moderate(post(None, "image"), MediaSource(data=png))
    await nodes.close()


@pytest.mark.parametrize("caption", [None, "with a caption"])
async def test_a_refused_container_is_refused_whatever_the_caption(pipeline: Pipeline, caption: str | None) -> None:
    with pytest.raises(UnsupportedMedia):
        await pipeline.moderate(post(caption), MediaSource(data=b"#EXTM3U\nhttp://127.0.0.1/x.ts\n"))


async def test_a_cap_exceeded_is_refused_whatever_the_caption(fake_config: AppConfig, png: bytes) -> None:
    small = fake_config.media.settings.model_copy(update={"max_pixels": 100})
    media = fake_config.media.model_copy(update={"settings": small})
    nodes = LocalNodes(fake_config.model_copy(update={"media": media}))
    with pytest.raises(TooLarge):
        await Pipeline(nodes, default_policy()).moderate(post("caption", "image"), MediaSource(data=png))
    await nodes.close()


@pytest.mark.parametrize("caption", [None, "", "   \n\t "])
async def test_a_post_of_nothing_is_refused(pipeline: Pipeline, caption: str | None) -> None:
    with pytest.raises(InvalidInput):
        await pipeline.moderate(post(caption, "text"), None)


async def test_a_passed_deadline_is_said(nodes: FaultyNodes, fake_config: AppConfig) -> None:
    class Slow(FaultyNodes):
        async def encode_text(self, text: str) -> TextEmbedding:
            await asyncio.sleep(30)
            raise AssertionError

    with pytest.raises(DeadlineExceeded):
        await Pipeline(Slow(fake_config), default_policy()).moderate(post("hi", "text"), None, deadline_s=0.05)


async def test_texts_are_embedded_in_order_and_an_unknown_model_is_not_found(pipeline: Pipeline) -> None:
    first, second, again = await pipeline.embed_texts("xlmr", ["one", "two", "one"])
    assert first.vector.tolist() == again.vector.tolist() != second.vector.tolist()
    with pytest.raises(NotFound):
        await pipeline.embed_texts("clip-text", ["one"])
    with pytest.raises(NotFound):
        await pipeline.embed_texts("gpt", ["one"])


async def test_pictures_are_embedded_and_a_sound_is_not_a_picture(pipeline: Pipeline, png: bytes, wav: bytes) -> None:
    (embedding,) = await pipeline.embed_images([png])
    assert embedding.vectors.shape == (1, 48)
    with pytest.raises(UndecodableMedia):
        await pipeline.embed_images([wav])


async def test_every_node_tells_its_state(pipeline: Pipeline) -> None:
    statuses = await pipeline.status()
    assert [status.node for status in statuses] == ["media", "clip", "vggish", "xlmr", "fusion", "wav2vec2"]
    assert {status.state for status in statuses} == {"ready"}
