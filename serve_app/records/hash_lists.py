"""Lists of known-bad content: digests of files, looked up here, and PDQ signatures, which the index holds.

Uploading a list replaces it whole: an entry that is gone from the list stops acting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from deployments.similarity.content import ANY, Bank, Content, FrameSignatures
from serve_app.records import audit, index_jobs, known, leases
from serve_app.records.engine import Database
from serve_app.records.errors import HashListNotFound
from serve_app.records.similarity_tables import HashEntryRow, HashListRow

ALGORITHMS = ("md5", "sha1", "sha256", "pdq")
CHANGE = "hash_lists"
STEP = 2000
Key = tuple[str, str]  # (algorithm, digest)


@dataclass(frozen=True)
class HashEntry:
    algorithm: str  # one of ALGORITHMS
    digest: str  # hexadecimal, lower case
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class HashList:
    name: str
    created_at: datetime
    changed_at: datetime
    entries: Mapping[str, int] = field(default_factory=dict)  # algorithm -> how many


class HashListStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, name: str, entries: Sequence[HashEntry], actor: str) -> HashList:
        """Make the list, or replace it. Entries that it had already stay as they are, but for their labels.

        In steps of a few hundred entries, so that a long list holds up nobody: what is new acts first, then what is
        gone stops. A put that is broken off is finished by repeating it.
        """
        wanted = {(entry.algorithm, entry.digest): entry for entry in entries}
        there = await self._database.write(lambda session: self._begin(session, name))
        new, gone = sorted(wanted.keys() - there.keys()), sorted(there.keys() - wanted.keys())
        relabelled = sorted(key for key in wanted.keys() & there.keys() if there[key] != _labels(wanted[key]))
        for keys in _steps(new):
            await self._database.write(partial(self._add, name=name, entries=[wanted[key] for key in keys]))
        for keys in _steps(relabelled):
            await self._database.write(partial(self._relabel, name=name, entries=[wanted[key] for key in keys]))
        for keys in _steps(gone):
            await self._database.write(partial(self._remove, name=name, keys=keys))

        def end(session: Session) -> HashList:
            row = _found(session, name)
            row.changed_at = leases.now()
            known.note_change(session, CHANGE)
            audit.add(session, actor, "hash_list.put", name, entries=len(wanted), new=len(new), gone=len(gone))
            return _list(session, row)

        return await self._database.write(end)

    async def find(self, name: str) -> HashList:
        """Raises HashListNotFound."""
        return await self._database.read(lambda session: _list(session, _found(session, name)))

    async def list(self) -> list[HashList]:
        query = select(HashListRow).order_by(HashListRow.name)
        return await self._database.read(lambda session: [_list(session, row) for row in session.scalars(query)])

    async def delete(self, name: str, actor: str) -> None:
        """In steps, as `put`. Raises HashListNotFound."""
        await self.find(name)
        there = await self._database.write(lambda session: self._begin(session, name))
        for keys in _steps(sorted(there)):
            await self._database.write(partial(self._remove, name=name, keys=keys))

        def end(session: Session) -> None:
            self._database.lock(session, "hash list", name)
            session.delete(_found(session, name))
            known.note_change(session, CHANGE)
            audit.add(session, actor, "hash_list.delete", name)

        await self._database.write(end)

    def _begin(self, session: Session, name: str) -> dict[Key, str]:
        """The list's row is there; its entries' labels as JSON."""
        self._database.lock(session, "hash list", name)
        if session.get(HashListRow, name) is None:
            at = leases.now()
            session.add(HashListRow(name=name, created_at=at, changed_at=at))
        columns = select(HashEntryRow.algorithm, HashEntryRow.digest, HashEntryRow.labels)
        rows = session.execute(columns.where(HashEntryRow.list_name == name))
        return {(algorithm, digest): labels for algorithm, digest, labels in rows}

    def _add(self, session: Session, *, name: str, entries: Sequence[HashEntry]) -> None:
        self._database.lock(session, "hash list", name)
        _found(session, name)  # deleted meanwhile
        there = select(HashEntryRow.algorithm, HashEntryRow.digest).where(
            HashEntryRow.list_name == name, HashEntryRow.digest.in_([entry.digest for entry in entries])
        )
        known_already = {(algorithm, digest) for algorithm, digest in session.execute(there)}
        rows = [
            HashEntryRow(list_name=name, algorithm=entry.algorithm, digest=entry.digest, labels=_labels(entry))
            for entry in entries
            if (entry.algorithm, entry.digest) not in known_already
        ]
        session.add_all(rows)
        for row in rows:
            _index(session, "index", row)
        known.note_change(session, CHANGE)

    def _relabel(self, session: Session, *, name: str, entries: Sequence[HashEntry]) -> None:
        self._database.lock(session, "hash list", name)
        for entry in entries:
            row = session.get(HashEntryRow, (name, entry.algorithm, entry.digest))
            if row is not None:
                row.labels = _labels(entry)
                _index(session, "index", row)

    def _remove(self, session: Session, *, name: str, keys: Sequence[Key]) -> None:
        self._database.lock(session, "hash list", name)
        for algorithm, digest in keys:
            row = session.get(HashEntryRow, (name, algorithm, digest))
            if row is not None:
                _index(session, "remove", row)
                session.delete(row)
        known.note_change(session, CHANGE)


SEPARATOR = " "  # below every character that a list's name may have, so that ids sort as (name, digest) do


def item_id(list_name: str, digest: str) -> str:
    """Under which id the index holds an entry."""
    return f"{list_name}{SEPARATOR}{digest}"


def split_id(id_: str) -> tuple[str, str]:
    """(list, digest) of an `item_id`."""
    name, _, digest = id_.partition(SEPARATOR)
    return name, digest


def signature_content(row: HashEntryRow) -> Content:
    """A PDQ entry as the index holds it: one still of full quality."""
    signature = np.frombuffer(bytes.fromhex(row.digest), np.uint8)[None, :]
    return Content(
        id=item_id(row.list_name, row.digest),
        content_type=ANY,
        signatures=FrameSignatures(signature, np.array([100], np.uint8), np.zeros(1, np.float32)),
        attributes={"list": row.list_name, "algorithm": "pdq", "labels": json.loads(row.labels)},
    )


def _index(session: Session, op: str, row: HashEntryRow) -> None:
    if row.algorithm == "pdq":
        content = signature_content(row) if op == "index" else None
        index_jobs.add(session, op, Bank.KNOWN_BAD, item_id(row.list_name, row.digest), content=content)


def _steps(items: Sequence[Key]) -> Iterator[Sequence[Key]]:
    for start in range(0, len(items), STEP):
        yield items[start : start + STEP]


def _labels(entry: HashEntry) -> str:
    return json.dumps(list(entry.labels), ensure_ascii=False)


def _found(session: Session, name: str) -> HashListRow:
    row = session.get(HashListRow, name)
    if row is None:
        raise HashListNotFound
    return row


def _list(session: Session, row: HashListRow) -> HashList:
    counted = (
        select(HashEntryRow.algorithm, func.count())
        .where(HashEntryRow.list_name == row.name)
        .group_by(HashEntryRow.algorithm)
    )
    return HashList(row.name, row.created_at, row.changed_at, dict(pair for pair in session.execute(counted)))
