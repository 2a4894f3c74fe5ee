"""Thresholds from a table of decisions: per stratum, pooled where thin, refused where nothing can be claimed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.review_gate.artefact import Calibration, CalibrationSettings
from deployments.review_gate.calibration import ThinData, calibrate
from deployments.review_gate.strata import language_of
from deployments.review_gate.table import DecisionTable, from_arrow
from deployments.runtime.errors import InvalidInput
from tests.review_gate.judged import NOW, decisions, overlapping

QUICK = CalibrationSettings(resamples=200)


def table_of(arrow: pa.Table) -> DecisionTable:
    return from_arrow(arrow, now=NOW)


def cells(**counts: int) -> DecisionTable:
    """`hi_video=200`: so many bad posts of that cell, and ten times as many good ones."""
    parts = []
    for seed, (cell, positives) in enumerate(counts.items()):
        language, kind = cell.split("_")
        n = positives * 11
        names = [f"{cell}-{row}" for row in range(n)]
        changed: dict[str, Any] = {"language": [language] * n, "content_type": [kind] * n, "author_id": names}
        parts.append(overlapping(positives, positives * 10, seed, post_id=names, **changed))
    return table_of(pa.concat_tables(parts))


def by_name(calibration: Calibration) -> dict[str, Any]:
    return {stratum.name: stratum for stratum in calibration.strata}


def test_a_stratum_with_enough_bad_posts_has_a_threshold_of_its_own() -> None:
    calibration = calibrate(cells(hi_video=200))
    (stratum,) = calibration.strata

    assert (stratum.name, stratum.method, stratum.positives, stratum.rows) == ("hi/video", "exact", 200, 2200)
    assert stratum.recall_lower is not None
    assert stratum.recall is not None
    assert 0.95 <= stratum.recall_lower < stratum.recall
    assert 0.2 < stratum.saved < 0.95
    assert calibration.lookup("hi-IN", "video", 1000) == ("hi/video", stratum.threshold)


def test_thin_cells_pool_by_type_with_none_that_stands_alone() -> None:
    found = by_name(calibrate(cells(hi_video=200, ta_video=40, te_video=30)))

    assert set(found) == {"hi/video", "*/video"}
    assert found["*/video"].members == ("ta/video", "te/video")
    assert found["*/video"].positives == 70
    assert found["hi/video"].positives == 200
    assert "ta/video: 40 bad posts, 59 needed" in found["*/video"].note


def test_thin_types_pool_together_and_what_is_left_over_is_reviewed() -> None:
    pooled = by_name(calibrate(cells(hi_video=100, ta_video=40, ta_image=30)))
    left = by_name(calibrate(cells(hi_video=100, ta_video=20, ta_image=10)))

    assert pooled["*"].members == ("ta/image", "ta/video")
    assert pooled["*"].threshold is not None
    assert left["*"].threshold is None
    assert left["*"].saved == 0
    assert "no threshold: 30 bad posts, 59 needed" in left["*"].note


def test_data_too_thin_for_any_claim_is_refused_with_what_it_takes() -> None:
    with pytest.raises(ThinData, match=r"at least 59 independent bad posts.* there are 58"):
        calibrate(cells(hi_video=30, ta_video=28))


def test_what_the_calibration_never_saw_is_reviewed() -> None:
    calibration = calibrate(cells(hi_video=100))

    assert calibration.lookup("ml", "video", 1000) == ("ml/video", None)
    assert calibration.lookup("hi", "video", 3000) == ("hi/video", None)


def test_each_milestone_has_thresholds_of_its_own() -> None:
    one = overlapping(100, 500, 0)
    two = overlapping(100, 500, 1, milestone=[2000] * 600)
    calibration = calibrate(table_of(pa.concat_tables([one, two])))

    assert [stratum.milestone for stratum in calibration.strata] == [1000, 2000]
    first, second = (calibration.lookup("hi", "video", milestone)[1] for milestone in (1000, 2000))
    assert first != second


def test_the_method_follows_the_data() -> None:
    repeated = [f"a{row // 3}" for row in range(600)]
    sampled = [1.0] * 200 + [1.0, 20.0] * 200

    assert calibrate(table_of(overlapping(200, 400)), QUICK).strata[0].method == "exact"
    assert calibrate(table_of(overlapping(200, 400, author_id=repeated)), QUICK).strata[0].method == "bootstrap"
    weighted = calibrate(table_of(overlapping(200, 400, weight=sampled[::-1])), QUICK)
    assert weighted.strata[0].method == "bootstrap"


def test_exact_can_be_asked_for_but_not_with_weights() -> None:
    exact = CalibrationSettings(method="exact")
    repeated = [f"a{row // 3}" for row in range(600)]

    assert calibrate(table_of(overlapping(200, 400, author_id=repeated)), exact).strata[0].method == "exact"
    with pytest.raises(InvalidInput, match="weights"):
        calibrate(table_of(overlapping(200, 400, weight=[2.0] * 600)), exact)


def test_few_authors_are_too_thin_however_many_posts_they_have() -> None:
    few = [f"a{row % 20}" for row in range(600)]

    with pytest.raises(ThinData, match="200 bad posts of 20 authors, 50 authors needed"):
        calibrate(table_of(overlapping(200, 400, author_id=few)), QUICK)


def test_reviewed_posts_alone_claim_a_recall_that_the_audit_sample_corrects() -> None:
    """Posts below 0.3 were skipped, one in twenty of them sampled: without its weight the threshold ratchets up."""
    whole = table_of(overlapping(3000, 3000))
    judged = (whole.scores >= 0.3) | (np.random.default_rng(0).random(len(whole)) < 0.05)
    weights = np.where(whole.scores >= 0.3, 1.0, 20.0)
    arrow = overlapping(3000, 3000, weight=list(weights)).filter(pa.array(judged))
    honest = calibrate(table_of(arrow), QUICK).strata[0].threshold
    ratcheted = calibrate(table_of(arrow.drop_columns("weight")), QUICK).strata[0].threshold
    bad = whole.scores[whole.outcomes]

    assert honest is not None
    assert ratcheted is not None
    assert (bad >= honest).mean() >= 0.95 > (bad >= ratcheted).mean()


@given(seed=st.integers(0, 1000), more=st.integers(1, 300))
@settings(max_examples=10, deadline=None)
def test_more_good_posts_change_no_threshold(seed: int, more: int) -> None:
    authors = [f"a{row // 2}" for row in range(500)]
    few = overlapping(200, 300, seed, author_id=authors)
    names = [f"q{row}" for row in range(more)]
    good = decisions([0.5] * more, [False] * more, post_id=names, author_id=["a1"] * more)

    many = calibrate(table_of(pa.concat_tables([few, good])), QUICK)
    assert many.strata[0].threshold == calibrate(table_of(few), QUICK).strata[0].threshold


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_neither_the_order_of_rows_nor_weights_of_one_change_anything(seed: int) -> None:
    authors = [f"a{row // 3}" for row in range(600)]
    arrow = overlapping(250, 350, seed, author_id=authors)
    shuffled = arrow.take(pa.array(np.random.default_rng(seed).permutation(600)))
    weighted = overlapping(250, 350, seed, author_id=authors, weight=[1.0] * 600)

    first, *others = (calibrate(table_of(t), QUICK).strata[0] for t in (arrow, shuffled, weighted))
    for other in others:
        assert other.threshold == first.threshold
        assert other.recall_lower == first.recall_lower


@pytest.mark.parametrize(
    ("tag", "language"),
    [("hi", "hi"), ("hi-IN", "hi"), ("hi-Latn-IN", "hi-latn"), ("HI_latn", "hi-latn"), (None, "und"), ("", "und")],
)
def test_a_language_is_its_tag_without_region(tag: str | None, language: str) -> None:
    assert language_of(tag) == language
