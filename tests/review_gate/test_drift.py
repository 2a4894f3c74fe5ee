"""Have the scores moved since the calibration: PSI by language and category, and when there is too little to say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.review_gate.calibration import calibrate
from deployments.review_gate.drift import as_metrics, compare, drift, histogram, psi
from deployments.review_gate.table import from_arrow
from tests.review_gate.judged import NOW, overlapping


def scores(mean: float, n: int, seed: int) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.random.default_rng(seed).normal(mean, 1, n))))


def test_psi_is_the_published_formula() -> None:
    expected, actual = np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.3, 0.6])

    assert psi(expected, actual) == pytest.approx(-0.1 * np.log(0.5) + 0.1 * np.log(1.2))
    assert psi(expected, expected) == 0
    assert psi(expected, actual) == pytest.approx(psi(actual, expected))


@pytest.mark.parametrize(("mean", "reading"), [(0.0, "stable"), (0.38, "moved"), (1.0, "shifted")])
def test_it_is_read_as_usual(mean: float, reading: str) -> None:
    reference = histogram("hi", "score", scores(0.0, 20_000, 0), np.ones(20_000))

    assert compare(reference, scores(mean, 20_000, 1)).reading == reading


def test_few_scores_say_nothing_however_far_they_seem() -> None:
    reference = histogram("hi", "score", scores(0.0, 20_000, 0), np.ones(20_000))
    found = compare(reference, scores(3.0, 40, 1))

    assert found.psi > 0.25
    assert found.reading == "too few"
    assert as_metrics([found]) == {}


def test_without_drift_psi_stays_below_its_noise_in_about_95_of_100_samples() -> None:
    reference = histogram("hi", "score", scores(0.0, 50_000, 0), np.ones(50_000))
    found = [compare(reference, scores(0.0, 2000, seed)) for seed in range(1, 301)]

    assert np.mean([d.psi < d.noise for d in found]) == pytest.approx(0.95, abs=0.03)


def test_every_language_and_category_of_the_calibration_is_compared() -> None:
    languages = (["hi", "ta"] * 500)[:1000]
    nudity = list(scores(0, 1000, 5))
    calibration = calibrate(from_arrow(overlapping(200, 800, language=languages, nudity=nudity), now=NOW))
    moved = from_arrow(overlapping(200, 800, 7, language=languages, nudity=list(scores(2, 1000, 6))), now=NOW)
    found = {(d.language, d.category): d.reading for d in drift(calibration.histograms, moved)}

    assert set(found) == {(tag, name) for tag in ("*", "hi", "ta") for name in ("score", "nudity")}
    assert {found[tag, "nudity"] for tag in ("*", "hi", "ta")} == {"shifted"}
    assert found["*", "score"] == "stable"


@given(values=st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), min_size=1, max_size=200))
@settings(max_examples=50)
def test_equal_scores_make_fewer_bins_and_never_an_infinity(values: list[float]) -> None:
    reference = histogram("hi", "score", np.array(values), np.ones(len(values)))

    assert np.isfinite(compare(reference, np.array([0.0, 0.3, 1.0])).psi)
