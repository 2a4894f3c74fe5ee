"""What the review gate's thresholds, trees and replays are worth.

`worlds` (generated decision histories) -> `recall_bound` (does the guarantee hold?) · `volume` (what is saved) ·
`real_labels` (the same tools on data that nobody here made) · `replay` (rows a second) -> `__main__`.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: figures are of one core
