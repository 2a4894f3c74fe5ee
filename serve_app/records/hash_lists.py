"""Lists of known-bad content: digests of files, looked up here, and PDQ signatures, which the index holds.

Uploading a list replaces it whole, in one transaction: an entry that is gone from the list stops acting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from deployments.similarity.content import ANY, Bank, Content, FrameSignatures
from serve_app.records import audit, index_jobs, known, leases
from serve_app.records.engine import Database
from serve_app.records.errors import HashListNotFound
from serve_app.records.similarity_tables import HashEntryRow, HashListRow

ALGORITHMS = ("md5", "sha1", "sha256", "pdq")
CHANGE = "hash_lists"


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
        """Make the list, or replace it. Entries that it had already are left alone."""
        wanted = {(entry.algorithm, entry.digest): entry for entry in entries}

        def work(session: Session) -> HashList:
            self._database.lock(session, "hash list", name)
            at = leases.now()
            row = session.get(HashListRow, name)
            if row is None:
                row = HashListRow(name=name, created_at=at, changed_at=at)
                session.add(row)
                session.flush()
            row.changed_at = at
            there = {(entry.algorithm, entry.digest): entry for entry in session.scalars(_entries(name))}
            for key in there.keys() - wanted.keys():
                session.delete(there[key])
                _index(session, "remove", name, *key)
            for key in wanted.keys() & there.keys():
                there[key].labels = _labels(wanted[key])
            for key in sorted(wanted.keys() - there.keys()):
                session.add(HashEntryRow(list_name=name, algorithm=key[0], digest=key[1], labels=_labels(wanted[key])))
                _index(session, "index", name, *key, labels=wanted[key].labels)
            known.note_change(session, CHANGE)
            audit.add(session, actor, "hash_list.put", name, entries=len(wanted))
            session.flush()
            return _list(session, row)

        return await self._database.write(work)

    async def find(self, name: str) -> HashList:
        """Raises HashListNotFound."""
        return await self._database.read(lambda session: _list(session, _found(session, name)))

    async def list(self) -> list[HashList]:
        query = select(HashListRow).order_by(HashListRow.name)
        return await self._database.read(lambda session: [_list(session, row) for row in session.scalars(query)])

    async def delete(self, name: str, actor: str) -> None:
        """Raises HashListNotFound."""

        def work(session: Session) -> None:
            self._database.lock(session, "hash list", name)
            row = _found(session, name)
            for entry in session.scalars(_entries(name)):
                _index(session, "remove", name, entry.algorithm, entry.digest)
            session.execute(delete(HashEntryRow).where(HashEntryRow.list_name == name))
            session.delete(row)
            known.note_change(session, CHANGE)
            audit.add(session, actor, "hash_list.delete", name)

        await self._database.write(work)

    async def signatures(self, after: str, limit: int) -> Sequence[str]:
        """Index ids of all PDQ entries greater than `after`, in order: for reconciliation."""
        name, _, digest = after.partition(SEPARATOR)
        later = (HashEntryRow.list_name > name) | ((HashEntryRow.list_name == name) & (HashEntryRow.digest > digest))
        query = (
            select(HashEntryRow.list_name, HashEntryRow.digest)
            .where(HashEntryRow.algorithm == "pdq", later)
            .order_by(HashEntryRow.list_name, HashEntryRow.digest)
            .limit(limit)
        )
        return await self._database.read(
            lambda session: [item_id(list_name, digest) for list_name, digest in session.execute(query)]
        )


SEPARATOR = " "  # below every character that a list's name may have, so that ids sort as (name, digest) do


def item_id(list_name: str, digest: str) -> str:
    """Under which id the index holds an entry."""
    return f"{list_name}{SEPARATOR}{digest}"


def signature_content(list_name: str, digest: str, labels: Sequence[str] = ()) -> Content:
    signature = np.frombuffer(bytes.fromhex(digest), np.uint8)[None, :]
    return Content(
        id=item_id(list_name, digest),
        content_type=ANY,
        signatures=FrameSignatures(signature, np.array([100], np.uint8), np.zeros(1, np.float32)),
        attributes={"list": list_name, "algorithm": "pdq", "labels": list(labels)},
    )


def _index(session: Session, op: str, name: str, algorithm: str, digest: str, labels: Sequence[str] = ()) -> None:
    if algorithm == "pdq":
        content = signature_content(name, digest, labels) if op == "index" else None
        index_jobs.add(session, op, Bank.KNOWN_BAD, item_id(name, digest), content=content)


def _entries(name: str) -> Select[HashEntryRow]:
    return select(HashEntryRow).where(HashEntryRow.list_name == name)


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
