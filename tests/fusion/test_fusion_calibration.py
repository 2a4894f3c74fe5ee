"""One temperature brings confidence down to accuracy and changes no decision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deployments.fusion.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    probabilities,
)
from deployments.fusion.mlp import softmax


def sampled(true_temperature: float, n: int = 4000, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Logits that are `true_temperature` times too large, and labels drawn from what they should have said."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, 7)) * 2
    labels = np.array([rng.choice(7, p=p) for p in softmax(logits)])
    return logits * true_temperature, labels


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_is_found(true_temperature: float) -> None:
    assert fit_temperature(*sampled(true_temperature)) == pytest.approx(true_temperature, rel=0.06)


def test_scaling_lowers_log_loss_and_calibration_error_and_keeps_the_argmax() -> None:
    logits, labels = sampled(4.0)
    fitted = fit_temperature(logits, labels)
    before, after = probabilities(logits, 1.0), probabilities(logits, fitted)
    assert negative_log_likelihood(logits, labels, fitted) < negative_log_likelihood(logits, labels)
    assert expected_calibration_error(after, labels) < 0.03 < 0.15 < expected_calibration_error(before, labels)
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_no_temperature_near_by_is_better(seed: int, true_temperature: float) -> None:
    logits, labels = sampled(true_temperature, n=100, seed=seed)
    fitted, smoothing = fit_temperature(logits, labels), 1 / 102
    best = negative_log_likelihood(logits, labels, fitted, smoothing)
    for other in (fitted * 0.9, fitted * 1.1, 1.0):
        assert best <= negative_log_likelihood(logits, labels, other, smoothing) + 1e-9


def test_a_head_that_was_always_right_is_not_made_certain() -> None:
    labels = np.arange(70) % 7
    confident = probabilities(np.eye(7)[labels] * 8.0, fit_temperature(np.eye(7)[labels] * 8.0, labels)).max(axis=1)
    assert 0.97 < confident.max() < 0.999


def test_calibration_error_of_known_cases() -> None:
    always_sure = np.tile([1.0, 0, 0, 0, 0, 0, 0], (10, 1))
    assert expected_calibration_error(always_sure, np.zeros(10, int)) == 0.0
    assert expected_calibration_error(always_sure, np.array([0, 1] * 5)) == pytest.approx(0.5)


def test_log_loss_of_a_uniform_guess_is_the_log_of_seven() -> None:
    assert negative_log_likelihood(np.zeros((5, 7)), np.arange(5)) == pytest.approx(np.log(7))
