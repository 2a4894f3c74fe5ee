"""How many near-duplicates of real photos and videos each stage of the similarity search finds, how many it invents.

`samples` (what is edited) -> `edits` (what people do to it) -> `looked_at` (through the media node and the encoder) ->
`stages` (a distance for every pair) -> `__main__` (recall and false positives).
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: as in the decoding child, whose costs are measured
