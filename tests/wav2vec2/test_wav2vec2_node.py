"""The node as others see it: clips of many callers and languages in, scores or clear reasons out."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import (
    DeadlineExceeded,
    InvalidInput,
    LanguageModelUnavailable,
    MissingWeights,
    ParakhError,
)
from deployments.runtime.node import NodeSettings
from deployments.wav2vec2.node import Wav2Vec2Node
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.values import Clip, ClipScores
from tests.wav2vec2.conftest import Array, make_tiny, sound

PLAIN: dict[str, Any] = {"runtime": "torch", "precision": "fp32"}


def node_of(models: dict[str, Path], **changes: Any) -> Wav2Vec2Node:
    given = {"models": {tag: str(path) for tag, path in models.items()}, "default": next(iter(models))}
    return Wav2Vec2Node(Wav2Vec2Settings(**PLAIN | given | changes), NodeSettings(max_batch_weight=8))


def fake_node(**changes: Any) -> Wav2Vec2Node:
    return Wav2Vec2Node(Wav2Vec2Settings(variant="fake", **changes), NodeSettings())


def poisoned(value: float) -> Array:
    samples = sound(4000)
    samples[100] = value
    return samples


BAD: dict[str, tuple[object, str]] = {
    "0 s": (Clip(np.zeros(0, np.float32)), "0 s long"),
    "30 s": (Clip(np.zeros(480_000, np.float32)), r"30\.0 s long; at most 20\.5 s"),
    "nan": (Clip(poisoned(float("nan"))), "not finite"),
    "inf": (Clip(poisoned(float("inf"))), "not finite"),
    "float64": (Clip(np.zeros(4000)), "float32"),  # type: ignore[arg-type]
    "int16": (Clip(np.zeros(4000, np.int16)), "float32"),
    "stereo": (Clip(np.zeros((2, 4000), np.float32)), "one channel"),
    "a list": (Clip([0.0] * 4000), "as samples"),  # type: ignore[arg-type]
    "8 kHz": (Clip(np.zeros(4000, np.float32), sample_rate_hz=8000), "16000 Hz"),
    "a number for a language": (Clip(np.zeros(4000, np.float32), 7), "BCP-47"),  # type: ignore[arg-type]
    "no clip at all": (b"sound", "as samples"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("variant", ["real", "fake"])
async def test_bad_input_is_refused_with_its_reason_and_disturbs_nobody(tiny: Path, kind: str, variant: str) -> None:
    node = node_of({"hi": tiny}) if variant == "real" else fake_node()
    bad, reason = BAD[kind]
    good = [Clip(sound(4000, seed), "hi") for seed in range(3)]
    alone = [await node.classify(clip) for clip in good]
    first, error, *rest = await asyncio.gather(
        node.classify(good[0]),
        node.classify(bad),  # type: ignore[arg-type]
        *(node.classify(clip) for clip in good[1:]),
        return_exceptions=True,
    )
    assert isinstance(error, InvalidInput)
    with pytest.raises(InvalidInput, match=reason):
        raise error
    for mixed, single in zip([first, *rest], alone, strict=True):
        assert isinstance(mixed, ClipScores)
        np.testing.assert_array_equal(mixed.probabilities, single.probabilities)
    assert (await node.status()).state == "ready"
    await node.close()


async def test_a_clip_too_short_for_two_frames_is_refused(tiny: Path) -> None:
    node = node_of({"hi": tiny})
    assert (await node.classify(Clip(sound(325), "hi"))).probabilities is not None
    with pytest.raises(InvalidInput, match="324 samples, at least 325"):
        await node.classify(Clip(sound(324), "hi"))
    await node.close()


async def test_sound_so_loud_that_it_overflows_is_its_senders_fault(tiny: Path) -> None:
    node = node_of({"hi": tiny})
    with pytest.raises(InvalidInput, match=r"far outside -1\.\.1"):
        await node.classify(Clip(sound(4000) * np.float32(3e38), "hi"))
    await node.close()


async def test_scores_name_all_that_a_verdict_needs(tiny: Path) -> None:
    node = node_of({"hi": tiny})
    scores = await node.classify(Clip(sound(8000), "hi-IN"))
    assert scores.probabilities is not None
    assert scores.probabilities.dtype == np.float32
    assert scores.probabilities.shape == (7,)
    assert scores.probabilities.sum() == pytest.approx(1.0, abs=1e-6)
    assert scores.category_scores is not None
    assert tuple(scores.category_scores) == CATEGORIES
    assert (scores.sound_s, scores.skipped, scores.speech_s, scores.segments) == (0.5, None, None, ())
    assert scores.duration_s > 0
    assert scores.model is not None
    assert (scores.model.name, scores.model.weights) == (tiny.name, "pretrained")
    status = await node.status()
    assert (status.node, status.state, status.model) == ("wav2vec2", "ready", scores.model)
    await node.close()


def test_a_missing_default_model_stops_the_node_from_starting(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights):
        node_of({"hi": tmp_path / "nowhere"})


async def test_more_languages_than_fit_are_all_served(tmp_path: Path) -> None:
    models = {tag: make_tiny(tmp_path / tag, seed) for seed, tag in enumerate(["en", "hi", "ta", "bn"])}
    roomy = node_of(models)
    tight = node_of(models, cache_bytes=roomy._classifier.memory().bytes // 2)  # type: ignore[attr-defined]
    clips = [Clip(sound(2000, seed), tag) for seed in range(6) for tag in models]
    found = await asyncio.gather(*(tight.classify(clip) for clip in clips))
    for clip, scores in zip(clips, found, strict=True):
        expected = await roomy.classify(clip)
        assert scores.model_language == clip.language
        np.testing.assert_array_equal(scores.probabilities, expected.probabilities)
    state = tight._classifier.memory()  # type: ignore[attr-defined]
    assert state.bytes <= state.budget_bytes
    assert state.pinned == ()
    await roomy.close()
    await tight.close()


async def test_a_model_that_cannot_be_loaded_fails_its_own_clips_only(tmp_path: Path) -> None:
    models = {tag: make_tiny(tmp_path / tag, seed) for seed, tag in enumerate(["en", "hi"])}
    node = node_of(models, preload="default")
    (models["hi"] / "model.safetensors").write_bytes(b"gone")
    clips = [Clip(sound(2000), tag) for tag in ["en", "hi", "en", "hi"]]
    found = await asyncio.gather(*(node.classify(clip) for clip in clips), return_exceptions=True)
    assert [isinstance(one, ClipScores) for one in found] == [True, False, True, False]
    assert isinstance(found[1], LanguageModelUnavailable)
    assert "hi" in str(found[1])
    assert (await node.status()).state == "ready"
    await node.close()


async def test_a_load_that_failed_is_not_tried_again_for_a_while_and_costs_good_models_nothing(tmp_path: Path) -> None:
    models = {tag: make_tiny(tmp_path / tag, seed) for seed, tag in enumerate(["en", "hi"])}
    roomy = node_of({"en": models["en"]})
    room = round(roomy._classifier.memory().bytes * 1.5)  # type: ignore[attr-defined]
    node = node_of(models, cache_bytes=room, retry_load_after_s=0.5)
    good = (models["hi"] / "model.safetensors").read_bytes()
    (models["hi"] / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(LanguageModelUnavailable):
        await node.classify(Clip(sound(2000), "hi"))
    await node.classify(Clip(sound(2000), "en"))  # the broken one's load had made room: loaded again
    (models["hi"] / "model.safetensors").write_bytes(good)
    with pytest.raises(LanguageModelUnavailable):
        await node.classify(Clip(sound(2000), "hi"))
    assert [model.language for model in await node.languages() if model.resident] == ["en"]
    await asyncio.sleep(0.5)
    assert (await node.classify(Clip(sound(2000), "hi"))).model_language == "hi"
    await roomy.close()
    await node.close()


async def test_a_clip_for_which_the_model_gives_no_number_fails_alone(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_of({"hi": tiny})
    plain = node._classifier._ready()["hi"]  # type: ignore[attr-defined]
    poison = np.float32(np.nan)
    monkeypatch.setitem(node._classifier._languages, "hi", plain._replace(head=lambda rows: plain.head(rows) + poison))  # type: ignore[attr-defined]
    with pytest.raises(ParakhError, match="not finite") as raised:
        await node.classify(Clip(sound(4000), "hi"))
    assert type(raised.value) is ParakhError  # tried a few times; NodeUnavailable would be waited for
    monkeypatch.setitem(node._classifier._languages, "hi", plain)  # type: ignore[attr-defined]
    assert (await node.classify(Clip(sound(4000), "hi"))).probabilities is not None
    await node.close()


async def test_a_caller_that_goes_away_while_its_model_loads_leaves_nothing_held(tmp_path: Path) -> None:
    models = {tag: make_tiny(tmp_path / tag, seed) for seed, tag in enumerate(["en", "hi"])}
    node = node_of(models, preload="default")
    tasks = [asyncio.ensure_future(node.classify(Clip(sound(2000), "hi"))) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    deadline = time.monotonic() + 10
    while node._classifier.memory().pinned or len(node._classifier.memory().keys) < 2:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert (await node.classify(Clip(sound(2000), "hi"))).model_language == "hi"
    await node.close()


async def test_a_deadline_that_passes_while_the_model_loads_is_told(tmp_path: Path) -> None:
    models = {tag: make_tiny(tmp_path / tag, seed) for seed, tag in enumerate(["en", "hi"])}
    node = node_of(models, preload="default")
    with pytest.raises(DeadlineExceeded):
        await node.classify(Clip(sound(2000), "hi"), timeout_s=0.001)
    await node.close()


async def test_the_probe_runs_a_language_that_is_in_memory(tmp_path: Path) -> None:
    models = {tag: make_tiny(tmp_path / tag, seed) for seed, tag in enumerate(["en", "hi"])}
    roomy = node_of({"en": models["en"]})
    node = node_of(models, cache_bytes=round(roomy._classifier.memory().bytes * 1.5))  # type: ignore[attr-defined]
    await node.classify(Clip(sound(2000), "hi"))
    scores = await node._probe()
    assert scores.model_language == "hi"
    assert [model.language for model in await node.languages() if model.resident] == ["hi"]
    await roomy.close()
    await node.close()


async def test_the_fake_tells_loud_from_quiet_and_routes_like_the_real_one() -> None:
    node = fake_node(models={"en": "x", "hi": "y"}, default="en")
    quiet, loud = [await node.classify(Clip(sound(4000) * np.float32(gain), "hi-IN")) for gain in (0.01, 5)]
    assert quiet.nsfw_score is not None
    assert loud.nsfw_score is not None
    assert quiet.nsfw_score < loud.nsfw_score
    assert (loud.model_language, loud.fallback) == ("hi", False)
    assert (await node.classify(Clip(sound(4000), "xx"))).fallback
    assert [model.language for model in await node.languages()] == ["en", "hi"]
    await node.close()
