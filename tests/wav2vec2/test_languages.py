"""Which model judges which clip, which models are in memory, and what languages over one trunk share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.runtime.errors import ModelError, NodeUnavailable
from deployments.wav2vec2.encoder import Wav2Vec2Classifier
from deployments.wav2vec2.routing import Route, Router
from deployments.wav2vec2.values import Clip, ClipScores
from tests.wav2vec2.conftest import Array, loaded, make_tiny, sound, with_other_head

CLIP = sound(6000, 9)


@pytest.mark.parametrize(
    ("language", "model", "fallback"),
    [
        ("hi", "hi", False),
        ("hi-IN", "hi", False),
        ("hi-Latn", "hi", False),
        ("HI-latn-in", "hi", False),
        ("ta-Latn-IN", "ta-Latn", False),
        ("ta", "en", True),  # only the romanised one is there
        ("en-a-bbb-x", "en", False),
        ("hin", "en", True),
        ("", "en", True),
        ("not a tag at all", "en", True),
        (None, "en", True),
    ],
)
def test_the_exact_tag_or_the_next_shorter_one_or_the_default(language: str | None, model: str, fallback: bool) -> None:
    assert Router(["hi", "ta-Latn", "en"], "en")(language) == Route(language, model, fallback)


@given(st.text(max_size=40))
def test_every_language_goes_somewhere(language: str) -> None:
    assert Router(["hi", "en"], "en")(language).model_language in ("hi", "en")


def test_a_result_says_which_language_judged_it(tmp_path: Path) -> None:
    classifier = loaded({"hi": make_tiny(tmp_path / "hi", 1), "ta": make_tiny(tmp_path / "ta", 2)}, default="ta")
    clips = [Clip(CLIP, "hi-IN"), Clip(CLIP, "ta"), Clip(CLIP, "sw"), Clip(CLIP)]
    found = [(s.language, s.model_language, s.fallback) for s in scores(classifier, clips)]
    assert found == [("hi-IN", "hi", False), ("ta", "ta", False), ("sw", "ta", True), (None, "ta", True)]
    by_hi, by_ta, *fell_back = [s.labels for s in scores(classifier, clips)]
    assert by_hi != by_ta
    assert fell_back == [by_ta, by_ta]
    names = [s.model.name for s in scores(classifier, clips) if s.model is not None]
    assert names == ["hi", "ta", "ta", "ta"]


def scores(classifier: Wav2Vec2Classifier, clips: list[Clip]) -> list[ClipScores]:
    found = classifier.encode(clips)
    assert all(isinstance(one, ClipScores) for one in found)
    return [one for one in found if isinstance(one, ClipScores)]


# --- shared trunks ---


@pytest.fixture
def family(tmp_path: Path) -> dict[str, Path]:
    """hi and ta over one trunk, bn (weighted layers, no normalisation) over the same, en over its own."""
    hi = make_tiny(tmp_path / "hi", 1)
    return {
        "hi": hi,
        "ta": with_other_head(hi, tmp_path / "ta", 2),
        "bn": with_other_head(hi, tmp_path / "bn", 3, use_weighted_layer_sum=True, do_normalize=False),
        "en": make_tiny(tmp_path / "en", 4),
    }


def test_languages_over_one_trunk_share_it_in_memory(family: dict[str, Path]) -> None:
    together = loaded(dict(family))
    alone = {tag: loaded({tag: path}).memory().bytes for tag, path in family.items()}
    assert len(together.memory().keys) == 2
    assert together.memory().bytes == alone["hi"] + alone["en"]
    sharing = {model.language: set(model.shares_trunk_with) for model in together.languages()}
    assert sharing == {"hi": {"ta", "bn"}, "ta": {"hi", "bn"}, "bn": {"hi", "ta"}, "en": set()}


def test_a_batch_of_several_languages_runs_their_trunk_once_and_gives_the_same_bits(family: dict[str, Path]) -> None:
    together = loaded(dict(family))
    passes: list[int] = []
    for trunk in together.memory().keys:
        lease = together._trunks.pin(trunk)
        assert lease is not None
        run = lease.model.runtime

        def counted(clips: list[Array], run=run) -> list[Array]:  # type: ignore[no-untyped-def]
            passes.append(len(clips))
            return run(clips)  # type: ignore[no-any-return]

        object.__setattr__(lease.model, "runtime", counted)
        lease.release()
    clips = [Clip(sound(4000 + 700 * at, at), tag) for at, tag in enumerate(["hi", "en", "ta", "bn", "hi"])]
    mixed = scores(together, clips)
    assert sorted(passes) == [1, 4]
    for clip, one in zip(clips, mixed, strict=True):
        assert clip.language is not None
        (alone,) = scores(loaded({clip.language: family[clip.language]}), [clip])
        np.testing.assert_array_equal(one.probabilities, alone.probabilities)


def test_a_trunk_that_differs_in_one_number_is_not_shared(family: dict[str, Path]) -> None:
    from safetensors.torch import load_file, save_file

    path = family["ta"] / "model.safetensors"
    state = load_file(path)
    state["wav2vec2.encoder.layers.1.final_layer_norm.bias"][3] += 1e-6
    save_file(state, path, metadata={"format": "pt"})
    assert len(loaded({"hi": family["hi"], "ta": family["ta"]}).memory().keys) == 2


# --- memory ---


def test_models_are_loaded_while_they_fit_and_come_and_go_after_that(tmp_path: Path) -> None:
    models = {tag: make_tiny(tmp_path / tag, seed) for seed, tag in enumerate(["en", "hi", "ta"])}
    whole = loaded(dict(models)).memory().bytes
    classifier = loaded(dict(models), cache_bytes=round(whole * 0.9))
    assert resident(classifier) == {"en", "hi"}
    assert isinstance(classifier.encode([Clip(CLIP, "ta")])[0], NodeUnavailable)  # nobody holds it
    release = classifier.hold("ta")
    assert resident(classifier) == {"hi", "ta"}  # en was the least recently used
    scores(classifier, [Clip(CLIP, "ta")])
    release()
    assert classifier.hold_resident("en") is None
    assert loaded(dict(models), cache_bytes=round(whole * 0.9), preload="default").memory().keys == (
        classifier._trunk_of("en"),
    )


def resident(classifier: Wav2Vec2Classifier) -> set[str]:
    return {model.language for model in classifier.languages() if model.resident}


def test_the_example_is_of_a_language_that_is_in_memory(tmp_path: Path) -> None:
    models = {tag: make_tiny(tmp_path / tag, seed) for seed, tag in enumerate(["en", "hi"])}
    size = loaded({"en": models["en"]}).memory().bytes
    classifier = loaded(dict(models), cache_bytes=round(size * 1.5))
    assert classifier.example().language == "en"
    classifier.hold("hi")()
    assert classifier.example().language == "hi"
    scores(classifier, [classifier.example()])


def test_a_model_larger_than_the_memory_for_models_is_refused_plainly(tiny: Path) -> None:
    with pytest.raises(ModelError, match="raise cache_bytes"):
        loaded({"hi": tiny}, cache_bytes=20_000)


def test_a_model_that_became_unreadable_fails_its_own_callers_only(tmp_path: Path) -> None:
    models = {tag: make_tiny(tmp_path / tag, seed) for seed, tag in enumerate(["en", "hi"])}
    classifier = loaded(dict(models), preload="default")
    (models["hi"] / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(ModelError, match="hi"):
        classifier.hold("hi")
    assert resident(classifier) == {"en"}
    scores(classifier, [Clip(CLIP, "en")])
