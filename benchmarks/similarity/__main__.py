"""Is similarity search fast, exact about its recall, and calm under writes? Against plain FAISS and its rivals.

Full: far longer, up to 1 M rows. Metrics with a bar: recall_at_10_tuned >= 0.95, mixed_p99_over_read_p99
<= 2, sq8_bytes_over_flat <= 0.33, qps_over_plain_faiss_batch1 >= 0.8 and _batch32 >= 0.95, recovery_s_1m <= 3.
"""

from __future__ import annotations

import sys

from benchmarks.report import Row, options, report
from benchmarks.similarity import kinds, mixed, overhead, recovery


def main() -> None:
    given = options(__doc__ or "")
    rows: list[Row] = []
    if given.quick:
        rows += mixed.rows(60_000, 128, runs=1, seconds=3)
        rows += overhead.rows(20_000, 1024, rounds=3)
        rows += recovery.rows(60_000, 128, "recovery_s_60k")
        rows += kinds.rows(20_000, 128, 300, ("FLAT", "IVF_SQ8"), peers=False)
    else:
        rows += mixed.rows(500_000, 128, runs=5, seconds=9)
        rows += overhead.rows(200_000, 1024, rounds=7)
        rows += recovery.rows(1_000_000, 128, "recovery_s_1m")
        rows += kinds.rows(100_000, 128, 1000)
        rows += kinds.rows(30_000, 1024, 1000)
        rows += kinds.rows(20_000, 2048, 500, ("FLAT", "IVF_FLAT", "IVF_SQ8", "IVF_PQ"))
        rows += kinds.nlist_rows(500_000, 128, 500)
    report("similarity: recall, speed, bytes, tails under writes, recovery", rows, given)


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)  # as the similarity node does: the interpreter is handed on ten times as often
    main()
