"""What a calibration is worth to the people who review: a page that stands by itself, and the same in a few lines."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape

from pydantic import BaseModel, ConfigDict, Field

from deployments.review_gate.artefact import Calibration, Stratum
from deployments.review_gate.compare import reviewed
from deployments.review_gate.operating_curve import curve_png, operating_curve
from deployments.review_gate.table import DecisionTable

MONTH_DAYS = 30


class ReviewCost(BaseModel):
    """What one review takes. Without a cost of the hour the report tells hours alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seconds_per_review: float = Field(30.0, gt=0, allow_inf_nan=False)
    cost_per_hour: float | None = Field(None, gt=0, allow_inf_nan=False)
    currency: str = Field("INR", min_length=1, max_length=8)


@dataclass(frozen=True)
class Savings:
    """Of one milestone, per month of 30 days, as far as the data's span is like any other."""

    milestone: int
    posts: float  # that reach it
    saved: float  # of them not reviewed
    hours: float  # not spent
    money: float | None
    recall: float | None  # over all its strata, reviewed ones included; an estimate without a bound
    days: float  # span of the data

    @property
    def share(self) -> float:
        return self.saved / self.posts


def savings(table: DecisionTable, calibration: Calibration, cost: ReviewCost) -> list[Savings]:
    days = max((calibration.data_to - calibration.data_from).total_seconds() / 86_400, 1.0)
    found = []
    for milestone in sorted({stratum.milestone for stratum in calibration.strata}):
        strata = [stratum for stratum in calibration.strata if stratum.milestone == milestone]
        scale = MONTH_DAYS / days
        saved = sum(stratum.weight * stratum.saved for stratum in strata) * scale
        hours = saved * cost.seconds_per_review / 3600
        found.append(
            Savings(
                milestone,
                sum(stratum.weight for stratum in strata) * scale,
                saved,
                hours,
                None if cost.cost_per_hour is None else hours * cost.cost_per_hour,
                _recall(table, calibration, milestone),
                days,
            )
        )
    return found


def _recall(table: DecisionTable, calibration: Calibration, milestone: int) -> float | None:
    bad = table.select((table.milestones == milestone) & table.outcomes)
    if not len(bad):
        return None
    return float(bad.weights[reviewed(bad, calibration)].sum() / bad.weights.sum())


def as_lines(calibration: Calibration, found: list[Savings], cost: ReviewCost) -> list[str]:
    settings = calibration.settings
    lines = [
        f"calibration {calibration.id} of {calibration.model} {calibration.model_version},"
        f" recall {settings.target:g} at {settings.confidence:.4g} confidence, {calibration.rows} rows",
        f"data sha256 {calibration.data_sha256}",
    ]
    for saving in found:
        money = "" if saving.money is None else f", {saving.money:,.0f} {cost.currency}"
        lines.append(
            f"at {saving.milestone} views: {saving.share:.1%} of reviews saved,"
            f" {saving.saved:,.0f} posts a month, {saving.hours:,.0f} hours{money}"
        )
    return lines


def as_html(table: DecisionTable, calibration: Calibration, cost: ReviewCost) -> tuple[str, bytes]:
    """(the page with its picture inside, the picture)."""
    found = savings(table, calibration, cost)
    picture = curve_png(
        [operating_curve(table, saving.milestone, calibration.settings) for saving in found], calibration
    )
    settings = calibration.settings
    facts = {
        "calibration": calibration.id,
        "model": f"{calibration.model} {calibration.model_version}",
        "claim": f"recall of each stratum at least {settings.target:g}, with {settings.confidence:.4g} confidence",
        "data": f"{calibration.rows:,} judged rows, {calibration.data_from:%Y-%m-%d} to {calibration.data_to:%Y-%m-%d}",
        "data sha256": calibration.data_sha256,
        "a review": f"{cost.seconds_per_review:g} s"
        + ("" if cost.cost_per_hour is None else f" at {cost.cost_per_hour:g} {cost.currency} an hour"),
    }
    page = _PAGE.format(
        facts="".join(f"<tr><th>{escape(k)}<td>{escape(v)}" for k, v in facts.items()),
        savings="".join(_saving_row(saving, cost) for saving in found),
        picture=base64.b64encode(picture).decode(),
        strata="".join(_stratum_row(stratum) for stratum in calibration.strata),
        notes="".join(
            f"<li><b>{escape(s.name)}</b> at {s.milestone}: {escape(s.note)}" for s in calibration.strata if s.note
        )
        or "<li>nothing was pooled",
    )
    return page, picture


def _saving_row(saving: Savings, cost: ReviewCost) -> str:
    money = "-" if saving.money is None else f"{saving.money:,.0f} {escape(cost.currency)}"
    recall = "-" if saving.recall is None else f"{saving.recall:.3f}"
    cells = (f"{saving.milestone:,}", f"{saving.posts:,.0f}", f"{saving.saved:,.0f}", f"{saving.share:.1%}")
    return "<tr>" + "".join(f"<td>{cell}" for cell in (*cells, f"{saving.hours:,.0f}", money, recall))


def _stratum_row(stratum: Stratum) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    threshold = "all reviewed" if stratum.threshold is None else f"{stratum.threshold:.4g}"
    cells = (
        f"{stratum.milestone:,}",
        escape(stratum.name),
        threshold,
        number(stratum.recall),
        number(stratum.recall_lower),
        f"{stratum.saved:.1%}",
        f"{stratum.rows:,}",
        f"{stratum.positives:,}",
        f"{stratum.positives_effective:,.0f}",
        f"{stratum.authors:,}",
        stratum.method,
    )
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Review gate: calibration</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }}
th, td {{ border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: right }}
td:first-child, th {{ text-align: left }} thead th {{ border-bottom: 2px solid #888 }}
.facts td {{ text-align: left; word-break: break-all }} img {{ max-width: 100% }} .wide {{ overflow-x: auto }}
</style>
<h1>Review gate: calibration</h1>
<table class="facts">{facts}</table>
<h2>What it saves, per month of 30 days</h2>
<table><thead><tr><th>views<th>posts<th>not reviewed<th>share<th>hours<th>money<th>recall, all strata</thead>
{savings}</table>
<h2>Recall against reviews saved</h2>
<img alt="Operating curve: recall against the share of reviews saved" src="data:image/png;base64,{picture}">
<p>The shaded bound holds at each threshold by itself. A dot is a stratum's chosen threshold; its line ends at the
bound, which is at or above the target.
<h2>Thresholds</h2>
<div class="wide"><table><thead><tr><th>views<th>stratum<th>threshold<th>recall<th>lower bound<th>saved<th>rows
<th>bad posts<th>worth<th>authors<th>method</thead>{strata}</table></div>
<p><i>worth</i>: how many independent bad posts they tell as much as, their authors and weights considered.
<h2>What was pooled, and why</h2>
<ul>{notes}</ul>
</html>
"""
