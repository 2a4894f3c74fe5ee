"""The benchmark's arithmetic: what a threshold finds and what it invents."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.near_duplicates.stages import Pairs


def test_recall_and_false_positives_are_counted_on_their_own_pairs() -> None:
    same = np.array([[True, False, False], [False, True, False], [True, False, False], [False, False, True]])
    distances = np.array([[3.0, 90, 80], [70, 40, 20], [5, 60, 99], [88, 77, 31]])
    pairs = Pairs(distances, same)
    assert pairs.recall(31) == 0.75
    assert pairs.false_positives(31) == pytest.approx(1 / 8)
    assert pairs.false_positives(pairs.clean) == 0
    assert pairs.recall(pairs.clean) == 0.5
