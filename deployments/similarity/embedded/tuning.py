"""How far to search: the smallest nprobe or ef_search whose recall@10, measured on the partition's rows, suffices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from deployments.similarity.embedded.codes import Codes
from deployments.similarity.embedded.exact import nearest_positions
from deployments.similarity.embedded.segment import Part
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space

_K = 10
_QUERIES = 200
_MARGIN = 0.01  # the sample's own error, and rows of the index are easier queries than new ones


def tuned(
    space: Space,
    codes: Codes,
    settings: IndexSettings,
    part: Part,
    rest: Callable[[], None] = lambda: None,
    target: float | None = None,
) -> int:
    """nprobe or ef_search for `part`, whose template has none of its own yet. A given setting wins over measuring."""
    given = settings.ef_search if settings.index_type == "HNSW" else settings.nprobe
    if target is None and given is not None:
        return given
    living = np.flatnonzero(part.table.alive)
    chosen = np.sort(np.random.default_rng(len(living)).choice(living, min(_QUERIES, len(living)), replace=False))
    rows = part.table.rows.take(chosen)
    queries = [space.query(rows[i]) for i in range(len(rows))]
    rest()
    truth = [set(found.tolist()) for found in nearest_positions(space, queries, part.table, living, _K + 1)]
    assert part.template is not None
    vectors = space.codes_input(rows)
    per_neighbour = settings.candidates_per_neighbour
    want = max(_K * per_neighbour, _K + 16)
    reach = part.template.index.nlist if part.template.inverted else 4096
    effort = 1
    for effort in _ladder(reach):
        rest()
        _, positions = codes.search(part.index, codes.probe(part.template, vectors, effort), want)
        found = [len(near & set(row)) / len(near) for near, row in zip(truth, positions.tolist(), strict=True)]
        if float(np.mean(found)) >= min(1.0, (target or settings.target_recall) + _MARGIN):
            break
    return effort


def _ladder(reach: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to and including `reach`."""
    step = 1
    while step < reach:
        yield step
        if step >= 2 and step * 3 // 2 < reach:
            yield step * 3 // 2
        step *= 2
    yield reach
