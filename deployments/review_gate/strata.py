"""Which posts share a threshold: language x content type, and wider where that is too thin to say anything.

A fixed hierarchy, from narrow to wide:  hi/video  ->  */video  ->  *
A cell that cannot support the claim joins the pool of its content type, together with the other thin cells of that type
and with no cell that stands alone: so each threshold is calibrated on just the posts it will be held against. A pool
that is still too thin joins the pool of all. What is too thin even there has no threshold, and is reviewed.

Thin depends on how many bad posts a cell has, not on which scores they have, so it does not bend the guarantee.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.review_gate.table import DecisionTable

ALL = "*"
UNKNOWN_LANGUAGE = "und"  # BCP-47: undetermined


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that share a threshold. `members`: the cells they are of."""

    name: str
    members: tuple[str, ...]
    rows: NDArray[np.int64]
    note: str  # why it is no single cell; empty where it is


def language_of(tag: str | None) -> str:
    """Language and script of a BCP-47 tag, in lower case: `hi-Latn-IN` -> hi-latn. Regions share a threshold."""
    subtags = (tag or UNKNOWN_LANGUAGE).lower().replace("_", "-").split("-")
    script = next((s for s in subtags[1:3] if len(s) == 4 and s.isalpha()), None)
    return subtags[0] if script is None else f"{subtags[0]}-{script}"


def cell_of(language: str | None, content_type: str) -> str:
    return f"{language_of(language)}/{content_type}"


def cells(table: DecisionTable) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names of the cells, and which one each row is of."""
    pairs = table.languages.codes * len(table.content_types.names) + table.content_types.codes
    seen, codes = np.unique(pairs, return_inverse=True)
    kinds = len(table.content_types.names)
    named = [cell_of(table.languages.names[p // kinds], table.content_types.names[p % kinds]) for p in seen]
    names, merged = np.unique(np.array(named, dtype=str), return_inverse=True)
    return tuple(str(name) for name in names), merged[codes].astype(np.int64)


def group(table: DecisionTable, too_thin: Callable[[NDArray[np.int64]], str | None]) -> list[Group]:
    """The groups of one milestone's rows, single cells first. `too_thin` gives the reason, or None.

    Only the last, `*`, can be too thin itself: the caller asks again.
    """
    names, codes = cells(table)
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.searchsorted(codes[order], np.arange(1, len(names))))
    rows_of = {name: part.astype(np.int64) for name, part in zip(names, parts, strict=True)}
    alone: list[Group] = []
    thin: dict[str, str] = {}
    for name, rows in rows_of.items():
        if (reason := too_thin(rows)) is None:
            alone.append(Group(name, (name,), rows, ""))
        else:
            thin[name] = reason
    pools: list[Group] = []
    left: list[str] = []
    for kind in sorted({name.split("/", 1)[1] for name in thin}):
        members = tuple(name for name in thin if name.split("/", 1)[1] == kind)
        rows = np.concatenate([rows_of[name] for name in members])
        if (reason := too_thin(rows)) is None:
            pools.append(Group(f"{ALL}/{kind}", members, rows, _why(members, thin)))
        else:
            left += members
            thin.update({name: f"{thin[name]}; {ALL}/{kind}: {reason}" for name in members})
    if left:
        rows = np.concatenate([rows_of[name] for name in left])
        pools.append(Group(ALL, tuple(left), rows, _why(tuple(left), thin)))
    return alone + pools


def _why(members: tuple[str, ...], reasons: dict[str, str]) -> str:
    return "pooled: " + " · ".join(f"{name}: {reasons[name]}" for name in members)
