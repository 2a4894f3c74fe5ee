"""What are the review gate's promises worth? The recall it keeps, the reviews it saves, and how fast it decides.

All but the rows `real_` are measured in generated worlds (worlds.py), and describe those.
"""

from __future__ import annotations

from benchmarks.gate import real_labels, recall_bound, replay, trees, volume
from benchmarks.report import options, report


def main() -> None:
    given = options(__doc__ or "")
    table = volume.generated(given.quick)
    calibration = volume.calibrated(table)
    rows = [
        *recall_bound.rows(given.quick),
        *volume.rows(table, calibration, given.quick),
        *trees.tree_rows(table, quick=given.quick),
        *real_labels.rows(given.quick),
        *replay.rows(calibration, given.quick),
    ]
    report("gate: recall kept, reviews saved, decisions a second; generated worlds but for `real_`", rows, given)


if __name__ == "__main__":
    main()
