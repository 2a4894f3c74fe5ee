"""Milvus' boolean expressions, built from values that callers chose: each is quoted, none is pasted.

https://milvus.io/docs/boolean.md. Values that no item can have are left out, so nothing strange reaches the server.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from deployments.runtime.errors import InvalidInput
from deployments.similarity.checks import check_id
from deployments.similarity.values import Filter

_EXPRESSION_BYTES = 1 << 20


def quoted(text: str) -> str:
    """A string literal. `text` has no control characters, as no stored text has."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def one_of(field: str, values: Iterable[str]) -> str:
    return f"{field} in [{', '.join(map(quoted, values))}]"


def ids_after(after: str) -> str:
    """Which ids are greater, by bytes. `after` is cut before a control character: no id has one, all sort before."""
    end = next((at for at, character in enumerate(after) if character < " "), len(after))
    return f"id > {quoted(after[:end])}"


def expression_of(filter: Filter | None) -> str | None:
    """An empty string lets everything pass; None: nothing can."""
    if filter is None or filter.empty:
        return ""
    parts = []
    for field, wanted in (("language", filter.languages), ("content_type", filter.content_types)):
        if wanted:
            possible = sorted(value for value in wanted if value.isascii() and value.isprintable())
            if not possible:
                return None
            parts.append(one_of(field, possible))
    for operator, bound, all_pass in (
        (">=", filter.created_from, -math.inf),
        ("<", filter.created_until, math.inf),
    ):
        if bound is None or bound == all_pass:
            continue
        if not math.isfinite(bound):
            return None
        parts.append(f"created_at {operator} {float(bound)!r}")
    excluded = sorted(valid_ids(filter.exclude_ids))
    if excluded:
        parts.append(f"not ({one_of('id', excluded)})")
    return " and ".join(parts)


def both(one: str, other: str) -> str:
    return f"({one}) and ({other})" if one and other else one or other


def valid_ids(ids: Iterable[str]) -> Iterator[str]:
    """Those that an item may have, each once."""
    for value in dict.fromkeys(ids):
        try:
            yield check_id(value)
        except InvalidInput:
            continue


def id_chunks(ids: Sequence[str], at_most: int) -> Iterator[list[str]]:
    """`ids` in pieces of at most `at_most` ids and about a megabyte of expression."""
    chunk: list[str] = []
    size = 0
    for value in ids:
        if chunk and (len(chunk) >= at_most or size >= _EXPRESSION_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(value)
        size += len(quoted(value).encode()) + 2
    if chunk:
        yield chunk
