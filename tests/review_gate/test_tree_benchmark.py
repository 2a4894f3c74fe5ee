"""The benchmark of the tree runs on any table of decisions."""

from __future__ import annotations

from benchmarks.gate.trees import tree_rows
from tests.review_gate.decisions import table


def test_the_rows_tell_what_is_saved_and_how_fast_the_gate_decides() -> None:
    rows = {row.metric: row for row in tree_rows(table(12_000), quick=True)}
    saved = rows["review_volume_saved_tree"]
    assert saved.baseline is not None
    assert 1 > saved.value > saved.baseline > 0
    assert rows["review_volume_saved_tree_both_nets"].value <= saved.value
    assert rows["test_recall_tree"].value > 0.9
    assert rows["gate_decision_p99_ms"].value >= rows["gate_decision_p50_ms"].value > 0
    assert rows["gate_decisions_per_s"].value > 0
