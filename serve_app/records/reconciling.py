"""What the index should hold, and the jobs that mend it where it does not: each checked again in the transaction that
writes the job, so that nothing erased comes back and no newer word is overwritten.
"""

from __future__ import annotations

from sqlalchemy import Select, exists, select
from sqlalchemy.orm import Session, aliased

from deployments.similarity.content import Bank, Content
from serve_app.posts import Post
from serve_app.records import hash_lists, index_jobs, references
from serve_app.records.engine import Database
from serve_app.records.errors import PostNotFound
from serve_app.records.similarity_tables import ExternalItemRow, HashEntryRow, IndexJobRow, ReferenceRow
from serve_app.records.tables import PostRow, VerdictRow

BANKS = (Bank.POSTS, Bank.PROTECTED, Bank.NEGATIVE, Bank.KNOWN_BAD)
_LOCKS = {Bank.POSTS: "post", Bank.KNOWN_BAD: "hash list"}


class ReconcileStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def expected(self, bank: str, after: str, limit: int) -> list[str]:
        """Ids that the index should have, greater than `after`, in the order of their bytes."""
        if bank == Bank.KNOWN_BAD:
            query = _signatures(after, limit)
            return await self._database.read(
                lambda session: [hash_lists.item_id(name, digest) for name, digest in session.execute(query)]
            )
        ids = _posts(after, limit) if bank == Bank.POSTS else _references(bank, after, limit)
        return await self._database.read(lambda session: list(session.scalars(ids)))

    async def stored(self, post_id: str) -> tuple[Post, str | None]:
        """The newest revision that was judged, and its media's SHA-256. Raises PostNotFound."""

        def work(session: Session) -> tuple[Post, str | None]:
            newest = _newest(session, post_id)
            row = session.get(PostRow, (post_id, newest.revision)) if newest is not None else None
            if row is None:
                raise PostNotFound
            return Post.model_validate_json(row.content), row.media_sha256

        return await self._database.read(work)

    async def tell_again(self, bank: str, id_: str, content: Content | None = None) -> bool:
        """A job for what is missing; `content` for posts, the others are in the records. False where it is not (or no
        longer) expected, or a job is about it already.
        """

        def work(session: Session) -> bool:
            self._lock(session, bank, id_)
            if not index_jobs.may_be_told_again(session.get(IndexJobRow, (bank, id_))):
                return False
            found = _content(session, bank, id_, content)
            if found is not None:
                index_jobs.add(session, "index", bank, id_, content=found)
            return found is not None

        return await self._database.write(work)

    async def may_be_told_again(self, bank: str, id_: str) -> bool:
        """False where a job is about it already: one that waits, or one that the index refused."""
        return await self._database.read(
            lambda session: index_jobs.may_be_told_again(session.get(IndexJobRow, (bank, id_)))
        )

    async def settle(self, bank: str, id_: str) -> None:
        """A worker was overtaken: the index may hold what it wrote in place of what came later. The last word is said
        once more where the records have it; a post's own is left to reconciliation.
        """

        def work(session: Session) -> None:
            self._lock(session, bank, id_)
            if session.get(IndexJobRow, (bank, id_)) is not None:
                return
            if not _is_expected(session, bank, id_):
                if session.get(ExternalItemRow, (bank, id_)) is None:
                    index_jobs.add(session, "remove", bank, id_)
            elif bank != Bank.POSTS:
                index_jobs.add(session, "index", bank, id_, content=_content(session, bank, id_, None))

        await self._database.write(work)

    async def remove(self, bank: str, id_: str) -> bool:
        """A job for what is too much. False where it belongs there, or a job is about it already."""

        def work(session: Session) -> bool:
            self._lock(session, bank, id_)
            spared = session.get(IndexJobRow, (bank, id_)) or session.get(ExternalItemRow, (bank, id_))
            if spared is not None or _is_expected(session, bank, id_):
                return False
            index_jobs.add(session, "remove", bank, id_)
            return True

        return await self._database.write(work)

    def _lock(self, session: Session, bank: str, id_: str) -> None:
        name = hash_lists.split_id(id_)[0] if bank == Bank.KNOWN_BAD else id_
        self._database.lock(session, _LOCKS.get(Bank(bank), "reference"), name)


def _content(session: Session, bank: str, id_: str, content: Content | None) -> Content | None:
    if bank == Bank.POSTS:
        newest = _newest(session, id_)
        revision = content.attributes.get("revision") if content is not None else None
        return content if newest is not None and newest.indexed and newest.revision == revision else None
    if bank == Bank.KNOWN_BAD:
        entry = _entry(session, id_)
        return None if entry is None else hash_lists.signature_content(entry)
    row = _reference(session, bank, id_)
    return None if row is None else references.content_of(row)


def _is_expected(session: Session, bank: str, id_: str) -> bool:
    if bank == Bank.POSTS:
        newest = _newest(session, id_)
        return newest is not None and newest.indexed
    if bank == Bank.KNOWN_BAD:
        return _entry(session, id_) is not None
    return _reference(session, bank, id_) is not None


def _newest(session: Session, post_id: str) -> VerdictRow | None:
    query = (
        select(VerdictRow)
        .where(VerdictRow.post_id == post_id)
        .order_by(VerdictRow.revision.desc(), VerdictRow.decided_at.desc())
        .limit(1)
    )
    return session.scalar(query)


def _entry(session: Session, id_: str) -> HashEntryRow | None:
    name, digest = hash_lists.split_id(id_)
    return session.get(HashEntryRow, (name, "pdq", digest))


def _reference(session: Session, bank: str, id_: str) -> ReferenceRow | None:
    row = session.get(ReferenceRow, id_)
    return row if row is not None and row.kind == bank and row.enabled and row.quarantined_at is None else None


def _posts(after: str, limit: int) -> Select[str]:
    newer = aliased(VerdictRow)
    is_newest = ~exists().where(newer.post_id == VerdictRow.post_id, newer.revision > VerdictRow.revision)
    return (
        select(VerdictRow.post_id)
        .where(VerdictRow.post_id > after, VerdictRow.indexed, is_newest)
        .distinct()
        .order_by(VerdictRow.post_id)
        .limit(limit)
    )


def _references(bank: str, after: str, limit: int) -> Select[str]:
    return (
        select(ReferenceRow.reference_id)
        .where(ReferenceRow.kind == bank, ReferenceRow.reference_id > after)
        .where(ReferenceRow.enabled, ReferenceRow.quarantined_at.is_(None))
        .order_by(ReferenceRow.reference_id)
        .limit(limit)
    )


def _signatures(after: str, limit: int) -> Select[str, str]:
    name, digest = hash_lists.split_id(after)
    later = (HashEntryRow.list_name > name) | ((HashEntryRow.list_name == name) & (HashEntryRow.digest > digest))
    return (
        select(HashEntryRow.list_name, HashEntryRow.digest)
        .where(HashEntryRow.algorithm == "pdq", later)
        .order_by(HashEntryRow.list_name, HashEntryRow.digest)
        .limit(limit)
    )
