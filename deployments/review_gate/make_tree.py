"""Judged decisions -> a directory the gate can load: trees, their thresholds, and a card that says what both are worth.

Boost -> thresholds for the tree and for the score alone on the calibration span, by the same rule -> both held against
each other on the test span -> files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.review_gate import tree_artefact
from deployments.review_gate.artefact import Calibration, CalibrationSettings
from deployments.review_gate.calibration import calibrate
from deployments.review_gate.compare import as_lines, compare
from deployments.review_gate.features import Facts, facts_of_table
from deployments.review_gate.quality import area_under_curve, quality, saved_at_recall
from deployments.review_gate.spans import SPANS
from deployments.review_gate.table import DecisionTable
from deployments.review_gate.train import Boosted, TreeSettings, boost
from deployments.review_gate.trees import Trees

ORDER_AT = (0.9, 0.95, 0.98)
EXPLAINED_ROWS = 2000  # of the test span, for the features' mean effect: a tenth of a millisecond each


def make_tree(
    table: DecisionTable,
    output: Path,
    settings: TreeSettings | None = None,
    recall: CalibrationSettings | None = None,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tree_artefact.TreeCard:
    """Raises InvalidInput for an output that is taken, spans without both outcomes or too few positives (ThinData);
    nothing is written then."""
    import lightgbm

    settings, recall = settings or TreeSettings(), recall or CalibrationSettings()
    tree_artefact.check_free(output, replace=replace)
    boosted = boost(table, settings, progress)
    version = tree_artefact.version_of(boosted.text, boosted.levels, boosted.base, boosted.platt)
    trees = Trees(boosted.text, boosted.levels, boosted.base, boosted.platt, name=tree_artefact.TREE, version=version)
    calibration, metrics = judged(table, boosted, trees, recall)
    return tree_artefact.write(
        output,
        boosted.text,
        calibration,
        version=version,
        languages=boosted.levels.languages,
        content_types=boosted.levels.content_types,
        base=asdict(boosted.base),
        platt=asdict(boosted.platt),
        trees=boosted.trees,
        lightgbm=lightgbm.__version__,
        spans=boosted.spans,
        data_sha256=table.sha256,
        settings=settings.model_dump(mode="json"),
        metrics=metrics,
    )


def judged(
    table: DecisionTable, boosted: Boosted, trees: Trees, recall: CalibrationSettings
) -> tuple[Calibration, dict[str, Any]]:
    """The tree's thresholds, and what is known of it on the test span; JSON-ready. Raises ThinData."""
    facts = facts_of_table(table)
    held, test = (np.flatnonzero(boosted.span == SPANS.index(name)) for name in ("calibration", "test"))
    scored = table.with_scores(trees.scores(facts))
    by_tree = calibrate(scored.select(held), recall, trees.name, trees.version)
    by_score = calibrate(table.select(held), recall)
    future, future_scored = table.select(test), scored.select(test)
    comparison = compare((future, by_score), (future_scored, by_tree))
    return by_tree, {
        "test": quality(future_scored.scores, future.outcomes, future.weights),
        "test_auc_score_only": area_under_curve(future.scores, future.outcomes, future.weights),
        "comparison": comparison.as_json(),
        "order_alone": [_order_alone(future, future_scored, share) for share in ORDER_AT],
        "gain_share": trees.gains(),
        "mean_effect": mean_effects(trees, facts, test),
    }


def _order_alone(by_score: DecisionTable, by_tree: DecisionTable, recall: float) -> dict[str, float]:
    """Saved at a recall that is measured, not promised: how well each side orders posts, whatever its strata."""
    sides = {"score_only": by_score, "tree": by_tree}
    return {"recall": recall} | {
        name: saved_at_recall(side.scores, side.outcomes, side.weights, recall) for name, side in sides.items()
    }


def mean_effects(trees: Trees, facts: Facts, rows: NDArray[np.int64]) -> dict[str, float]:
    """Mean size of each reason in log-odds, the largest first, over evenly chosen rows."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(EXPLAINED_ROWS, len(rows))).astype(int)]
    sums: dict[str, float] = {}
    for told in trees.contributions(facts.take(chosen)):
        for one in told:
            sums[one.feature] = sums.get(one.feature, 0.0) + abs(one.log_odds)
    return {name: total / len(chosen) for name, total in sorted(sums.items(), key=lambda item: -item[1])}


def as_text(card: tree_artefact.TreeCard) -> str:
    """What `parakh gate train` prints."""
    test, spans = card.metrics["test"], card.spans
    lines = [f"{card.name} {card.version}: {card.trees} trees, LightGBM {card.lightgbm}", ""]
    lines += [f"{n:<12} {s.first} to {s.last} {s.rows:>9} decisions {s.discarded:>7} bad" for n, s in spans.items()]
    lines += [
        "",
        f"test: AUC {test['auc']:.3f} (score alone {card.metrics['test_auc_score_only']:.3f}), "
        f"log-loss {test['log_loss']:.4f}, calibration error {test['calibration_error']:.4f}",
        "",
        *as_lines(card.metrics["comparison"]),
        "",
        "saved at a recall of "
        + ", ".join(
            f"{r['recall']:g}: {r['tree']:.1%} (score {r['score_only']:.1%})" for r in card.metrics["order_alone"]
        )
        + ", by order alone",
        "mean effect, log-odds: " + ", ".join(f"{n} {v:.2f}" for n, v in list(card.metrics["mean_effect"].items())[:6]),
    ]
    return "\n".join(lines) + "\n"
