"""Writes to a collection: gathered into large requests, acknowledged once they can be found.

    upsert, delete -> [one request at a time; what comes meanwhile is the next] -> [a Strong read] -> acknowledged

Milvus makes a write searchable with its next time tick, about 200 ms after it took it. Either every search waits for
that tick (consistency Strong), or the write does; here the write does, once for all writes that wait together, and
searches need no waiting. There is no flush: the server's log is what makes a write durable.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from deployments.runtime.errors import InvalidInput, ParakhError
from deployments.similarity.milvus.connection import MilvusConnection
from deployments.similarity.milvus.filter import id_chunks, one_of, quoted, valid_ids
from deployments.similarity.milvus.gather import Gather
from deployments.similarity.milvus.rows import Row, request_bytes

_ROWS = 16_384


@dataclass(frozen=True)
class _Upsert:
    rows: dict[str, Row]


@dataclass(frozen=True)
class _Delete:
    ids: tuple[str, ...]


_Outcome = int | Exception


class Writes:
    """Every method may be called from any thread; writes of one id take effect in the order of their calls."""

    def __init__(self, connection: MilvusConnection, collection: str) -> None:
        self._connection = connection
        self._collection = collection
        self._send: Gather[_Upsert | _Delete, int] = Gather(self._sent)
        self._settle: Gather[None, None] = Gather(self._settled)
        self._lock = threading.Lock()
        self.sent = 0  # runs of writes
        self._unsettled: dict[str, tuple[int, bool]] = {}  # id -> the run that wrote it, whether it is there since

    def upsert(self, rows: Sequence[Row]) -> None:
        """Raises InvalidInput or NodeUnavailable; after the latter the rows may or may not have been taken."""
        if rows:
            self._send(_Upsert({row["id"]: row for row in rows}))
            self._settle(None)

    def delete(self, ids: Iterable[str]) -> int:
        """How many of them were there."""
        possible = tuple(valid_ids(ids))
        if not possible:
            return 0
        count = self._send(_Delete(possible))
        self._settle(None)
        return count

    def _sent(self, writes: list[_Upsert | _Delete]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        for _, group in groupby(writes, type):
            run = list(group)
            self.sent += 1
            upserts = [write for write in run if isinstance(write, _Upsert)]
            deletes = [write for write in run if isinstance(write, _Delete)]
            outcomes += self._upserted(upserts) if upserts else self._deleted(deletes)
        return outcomes

    def _upserted(self, run: list[_Upsert]) -> list[_Outcome]:
        rows: dict[str, Row] = {}
        for write in run:
            rows |= write.rows
        try:
            for some in _requests(rows.values(), self._connection.settings.max_request_bytes):
                self._connection.call("upsert", self._collection, some)
        except ParakhError as error:
            self._forget(rows)
            if isinstance(error, InvalidInput) and len(run) > 1:  # one of them: the others shall not suffer
                return [self._upserted([write])[0] for write in run]
            return [error] * len(run)
        self._remember(rows, there=True)
        return [0] * len(run)

    def _deleted(self, run: list[_Delete]) -> list[_Outcome]:
        ids = list(dict.fromkeys(id_ for write in run for id_ in write.ids))
        try:
            present = self._present(ids)
            for some in id_chunks(ids, _ROWS):
                self._connection.call("delete", self._collection, filter=one_of("id", some))
        except ParakhError as error:
            self._forget(ids)
            return [error] * len(run)
        self._remember(ids, there=False)
        counts: list[_Outcome] = []
        for write in run:
            counts.append(len(present.intersection(write.ids)))
            present.difference_update(write.ids)
        return counts

    def _present(self, ids: list[str]) -> set[str]:
        """The server counts what it was asked to delete, not what was there; and what it took last it shows late."""
        with self._lock:
            known = {id_: self._unsettled[id_][1] for id_ in ids if id_ in self._unsettled}
        present = {id_ for id_, there in known.items() if there}
        for some in id_chunks([id_ for id_ in ids if id_ not in known], _ROWS):
            rows = self._connection.call(
                "query",
                self._collection,
                filter=one_of("id", some),
                output_fields=["id"],
                consistency_level=self._connection.settings.read_consistency,
            )
            present.update(row["id"] for row in rows)
        return present

    def _settled(self, waiting: list[None]) -> list[None]:
        """Everything sent before now can be found: a Strong read waits for it on every shard."""
        sent = self.sent
        self._connection.call(
            "query",
            self._collection,
            filter=f"id == {quoted('-')}",
            output_fields=["id"],
            limit=1,
            consistency_level="Strong",
        )
        with self._lock:
            self._unsettled = {id_: state for id_, state in self._unsettled.items() if state[0] > sent}
        return waiting

    def _remember(self, ids: Iterable[str], *, there: bool) -> None:
        with self._lock:
            self._unsettled |= dict.fromkeys(ids, (self.sent, there))

    def _forget(self, ids: Iterable[str]) -> None:
        with self._lock:
            for id_ in ids:
                self._unsettled.pop(id_, None)


def _requests(rows: Iterable[Row], max_bytes: int) -> Iterator[list[Row]]:
    some: list[Row] = []
    size = 0
    for row in rows:
        row_bytes = request_bytes(row)
        if some and (size + row_bytes > max_bytes or len(some) == _ROWS):
            yield some
            some, size = [], 0
        some.append(row)
        size += row_bytes
    if some:
        yield some
