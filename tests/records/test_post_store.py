"""Acceptance and conclusion: one verdict for each (post, revision, policy version), whole or not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from deployments.runtime.errors import ParakhError
from serve_app.http.errors import error_object
from serve_app.records import Records
from serve_app.records.engine import RecordsUnavailable
from serve_app.records.errors import (
    IdempotencyConflict,
    IdempotencyInProgress,
    LeaseLost,
    MediaBeingDeleted,
    PostErased,
    PostNotFound,
    RevisionConflict,
)
from serve_app.records.outbox import VERDICTS
from tests.records.conftest import judged, submission, verdict_for


async def execute(records: Records, statement: str) -> None:
    await records._database.write(lambda session: session.execute(text(statement)) and None)


async def nothing(digest: str) -> None:
    """Deletes nothing."""


FAILURE = error_object(ParakhError("did not decode"))


async def test_a_verdict_comes_back_as_it_was_stored(records: Records) -> None:
    verdict = await judged(records, submission())
    state = await records.posts.find("p1")
    assert state.verdict == verdict
    assert state.status == "done"
    assert state.verdict.decided_at.utcoffset() is not None


@pytest.mark.parametrize("caption", ["nul \x00 inside", "नमस्ते 🙏", "a" * 100_000, "'; DROP TABLE posts; --"])
async def test_any_caption_survives(records: Records, caption: str) -> None:
    ticket = await records.posts.accept(submission(caption=caption, fingerprint="f"), lease_s=60)
    assert ticket.lease is not None
    assert ticket.lease.post.caption == caption


async def test_the_same_content_again_is_the_stored_verdict(records: Records) -> None:
    verdict = await judged(records, submission())
    again = await records.posts.accept(submission(), lease_s=60)
    assert (again.state, again.replayed, again.verdict) == ("decided", True, verdict)


async def test_other_content_under_the_same_revision_is_a_conflict(records: Records) -> None:
    await judged(records, submission())
    with pytest.raises(RevisionConflict):
        await records.posts.accept(submission(caption="other"), lease_s=60)
    assert (await records.posts.accept(submission(caption="other", revision=1), lease_s=60)).state == "leased"


async def test_a_failed_post_may_be_replaced_and_tried_again(records: Records) -> None:
    ticket = await records.posts.accept(submission(), lease_s=60)
    assert ticket.lease is not None
    await records.jobs.end_attempt(ticket.lease, FAILURE)
    assert (await records.posts.find("p1")).error == FAILURE
    retried = await records.posts.accept(submission(caption="mended"), lease_s=60)
    assert retried.lease is not None
    assert retried.lease.post.caption == "mended"
    assert (await records.posts.find("p1")).error is None


async def test_another_policy_version_is_another_verdict(records: Records) -> None:
    await judged(records, submission(), "1")
    second = await judged(records, submission(), "2")
    assert (await records.posts.find("p1")).verdict == second
    first = await records.posts.accept(submission(), lease_s=60, policy_version="1")
    assert first.verdict is not None
    assert first.verdict.decision.policy_version == "1"


async def test_find_answers_with_the_newest_revision_unless_told(records: Records) -> None:
    for revision in (0, 2, 1):
        await judged(records, submission(caption=f"r{revision}", revision=revision))
    assert (await records.posts.find("p1")).revision == 2
    assert (await records.posts.find("p1", 1)).revision == 1
    with pytest.raises(PostNotFound):
        await records.posts.find("p1", 3)


async def test_of_twenty_at_once_one_gets_the_lease(records: Records, open_records: Callable[[], Any]) -> None:
    other = await open_records()
    stores = [(records, other)[n % 2].posts for n in range(20)]
    tickets = await asyncio.gather(*(store.accept(submission(), lease_s=60) for store in stores))
    assert sorted(ticket.state for ticket in tickets) == ["leased", *["running"] * 19]


async def test_an_expired_lease_goes_to_the_next_and_the_first_verdict_stands(records: Records) -> None:
    first = await records.posts.accept(submission(), lease_s=0.01)
    await asyncio.sleep(0.05)
    second = await records.posts.accept(submission(), lease_s=60)
    assert first.lease is not None
    assert second.lease is not None
    with pytest.raises(LeaseLost):
        await records.posts.conclude(first.lease, verdict_for(submission()))
    stands = await records.posts.conclude(second.lease, verdict_for(submission()))
    assert await records.posts.conclude(first.lease, verdict_for(submission())) == stands
    assert len(await records.outbox.pending()) == 1


async def test_verdict_event_and_key_are_one_transaction(records: Records) -> None:
    ticket = await records.posts.accept(submission(idempotency_key="k"), lease_s=60)
    assert ticket.lease is not None
    await execute(records, "ALTER TABLE outbox RENAME TO outbox_away")
    with pytest.raises((RecordsUnavailable, ProgrammingError)):
        await records.posts.conclude(ticket.lease, verdict_for(submission()))
    await execute(records, "ALTER TABLE outbox_away RENAME TO outbox")
    state = await records.posts.find("p1")
    assert (state.status, state.verdict) == ("running", None)
    with pytest.raises(IdempotencyInProgress):
        await records.posts.accept(submission(idempotency_key="k"), lease_s=60)


async def test_the_event_refers_to_the_verdict_and_holds_no_evidence(records: Records) -> None:
    verdict = await judged(records, submission(caption="violence"))
    (event,) = await records.outbox.pending()
    assert (event.topic, event.key) == (VERDICTS, "p1")
    assert event.payload["action"] == verdict.decision.action == "block"
    assert not {"category_scores", "segments", "evidence"} & set(event.payload)
    await records.outbox.mark_published([event.id])
    assert await records.outbox.pending() == []


class TestIdempotencyKeys:
    async def test_the_same_request_again_is_a_replay(self, records: Records) -> None:
        verdict = await judged(records, submission(idempotency_key="k"))
        again = await records.posts.accept(submission(idempotency_key="k"), lease_s=60)
        assert (again.verdict, again.replayed) == (verdict, True)

    async def test_another_request_is_a_conflict(self, records: Records) -> None:
        await judged(records, submission(idempotency_key="k"))
        with pytest.raises(IdempotencyConflict):
            await records.posts.accept(submission("p2", idempotency_key="k"), lease_s=60)

    async def test_two_owners_may_use_the_same_key(self, records: Records) -> None:
        await judged(records, submission(idempotency_key="k", owner="one"))
        assert (await records.posts.accept(submission("p2", idempotency_key="k", owner="two"), lease_s=60)).lease

    async def test_while_the_first_runs_the_second_is_told_so(self, records: Records) -> None:
        await records.posts.accept(submission(idempotency_key="k"), lease_s=60)
        with pytest.raises(IdempotencyInProgress):
            await records.posts.accept(submission(idempotency_key="k"), lease_s=60)

    async def test_a_killed_server_does_not_lock_the_key(self, records: Records) -> None:
        await records.posts.accept(submission(idempotency_key="k"), lease_s=0.01)
        await asyncio.sleep(0.05)
        assert (await records.posts.accept(submission(idempotency_key="k"), lease_s=60)).lease is not None

    async def test_a_failed_request_frees_its_key(self, records: Records) -> None:
        ticket = await records.posts.accept(submission(idempotency_key="k"), lease_s=60)
        assert ticket.lease is not None
        await records.jobs.end_attempt(ticket.lease, FAILURE)
        assert (await records.posts.accept(submission("p2", idempotency_key="k"), lease_s=60)).lease is not None

    async def test_an_expired_key_is_forgotten(self, records: Records) -> None:
        ticket = await records.posts.accept(submission(idempotency_key="k"), lease_s=60, key_ttl_s=0.01)
        assert ticket.lease is not None
        await records.posts.conclude(ticket.lease, verdict_for(submission()))
        await asyncio.sleep(0.05)
        assert (await records.posts.accept(submission("p2", idempotency_key="k"), lease_s=60)).lease is not None
        await records.posts.purge_keys()

    async def test_two_posts_racing_for_one_key(self, records: Records, open_records: Callable[[], Any]) -> None:
        other: Records = await open_records()
        outcomes = await asyncio.gather(
            records.posts.accept(submission("p1", idempotency_key="k"), lease_s=60),
            other.posts.accept(submission("p2", idempotency_key="k"), lease_s=60),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["IdempotencyConflict", "Ticket"]


class TestErasure:
    async def test_everything_goes_but_tombstone_event_and_audit(self, records: Records) -> None:
        await judged(records, submission(idempotency_key="k"))
        await judged(records, submission(caption="two", revision=1))
        await records.erasures.erase("p1", "admin-key")
        with pytest.raises(PostNotFound):
            await records.posts.find("p1")
        with pytest.raises(PostErased):
            await records.posts.accept(submission(revision=2), lease_s=60)
        assert [event.topic for event in await records.outbox.pending()] == ["parakh.erasures"]
        (entry,) = await records.audit.entries("p1")
        assert (entry.actor, entry.action, entry.detail) == ("admin-key", "post.erase", {"revisions": [0, 1]})

    async def test_twice_is_once_and_unknown_is_unknown(self, records: Records) -> None:
        await judged(records, submission())
        await records.erasures.erase("p1", "a")
        await records.erasures.erase("p1", "a")
        assert len(await records.audit.entries("p1")) == 1
        with pytest.raises(PostNotFound):
            await records.erasures.erase("p2", "a")

    async def test_a_verdict_that_comes_after_the_erasure_is_dropped(self, records: Records) -> None:
        ticket = await records.posts.accept(submission(), lease_s=60)
        assert ticket.lease is not None
        await records.erasures.erase("p1", "a")
        with pytest.raises(PostErased):
            await records.posts.conclude(ticket.lease, verdict_for(submission()))

    async def test_media_of_two_posts_goes_with_the_second(self, records: Records) -> None:
        deleted: list[str] = []

        async def delete(digest: str) -> None:
            deleted.append(digest)

        shared = "ab" * 32
        for post_id in ("p1", "p2"):
            await records.posts.accept(submission(post_id, media_sha256=shared), lease_s=60)
        await records.erasures.erase("p1", "a")
        await records.garbage.sweep(delete)
        assert deleted == []
        await records.erasures.erase("p2", "a")
        await records.garbage.sweep(delete)
        await records.garbage.sweep(delete)
        assert deleted == [shared]

    async def test_posts_with_one_file_erased_at_once(self, records: Records, open_records: Callable[[], Any]) -> None:
        other: Records = await open_records()
        for n in range(20):
            await records.posts.accept(submission(f"p{n}", media_sha256="ab" * 32), lease_s=60)
        stores = [(records, other)[n % 2].erasures for n in range(20)]
        await asyncio.gather(*(store.erase(f"p{n}", "a") for n, store in enumerate(stores)))
        assert await records.garbage.sweep(nothing) == 1

    async def test_nobody_waits_while_a_file_is_deleted_but_who_brings_the_same_one(
        self, records: Records, open_records: Callable[[], Any]
    ) -> None:
        other: Records = await open_records()
        deleting, deleted = asyncio.Event(), asyncio.Event()

        async def slowly(digest: str) -> None:
            deleting.set()
            await deleted.wait()

        await records.posts.accept(submission(media_sha256="ab" * 32), lease_s=60)
        await records.erasures.erase("p1", "a")
        sweep = asyncio.create_task(records.garbage.sweep(slowly))
        await deleting.wait()
        async with asyncio.timeout(5):
            await other.posts.accept(submission("p2"), lease_s=60)
            with pytest.raises(MediaBeingDeleted):
                await other.posts.accept(submission("p3", media_sha256="ab" * 32), lease_s=60)
            await other.garbage.sweep(nothing)  # leaves the file to the first sweep
        deleted.set()
        await sweep
        assert (await other.posts.accept(submission("p3", media_sha256="ab" * 32), lease_s=60)).lease is not None

    async def test_a_file_that_could_not_be_deleted_is_tried_again(self, records: Records) -> None:
        tries: list[str] = []

        async def refuse_once(digest: str) -> None:
            tries.append(digest)
            if len(tries) == 1:
                raise OSError("the disk is away")

        await records.posts.accept(submission(media_sha256="cd" * 32), lease_s=60)
        await records.erasures.erase("p1", "a")
        with pytest.raises(OSError, match="away"):
            await records.garbage.sweep(refuse_once)
        await records.garbage.sweep(refuse_once)
        assert len(tries) == 2


class TestRetention:
    async def test_media_of_what_is_finished_goes_and_of_what_waits_stays(self, records: Records) -> None:
        await judged(records, submission("done", media_sha256="ab" * 32))
        await records.posts.accept(submission("waiting", media_sha256="cd" * 32), lease_s=None)
        assert await records.garbage.expire(60) == 0
        await asyncio.sleep(0.02)
        assert await records.garbage.expire(0.01) == 1
        assert await records.garbage.expire(0.01) == 0
        deleted: list[str] = []

        async def delete(digest: str) -> None:
            deleted.append(digest)

        await records.garbage.sweep(delete)
        assert deleted == ["ab" * 32]
        assert (await records.posts.find("done")).verdict is not None

    async def test_under_a_new_policy_the_post_brings_its_media_again(self, records: Records) -> None:
        asked = submission(media_sha256="ab" * 32)
        await judged(records, asked)
        assert not await records.posts.needs_media(asked)
        await asyncio.sleep(0.02)
        await records.garbage.expire(0.01)
        assert await records.posts.needs_media(asked)
        ticket = await records.posts.accept(asked, lease_s=60, policy_version="2")
        assert ticket.lease is not None
        assert ticket.lease.media_sha256 == "ab" * 32


async def test_of_many_files_those_without_a_post_are_found(records: Records) -> None:
    await records.posts.accept(submission(media_sha256="ab" * 32), lease_s=60)
    assert await records.garbage.add_unreferenced(["ab" * 32, "cd" * 32, "ef" * 32]) == 2
    assert await records.garbage.add_unreferenced(["cd" * 32]) == 1
    assert await records.garbage.sweep(nothing) == 2


async def test_closed_records_leave_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    opened = await Records.open(f"sqlite:///{tmp_path}/parakh.db")
    await asyncio.gather(*(opened.ping() for _ in range(4)))
    await opened.close()
    left = set(threading.enumerate()) - before
    assert not [thread.name for thread in left if thread.name.startswith("records-")]


async def test_the_audit_cannot_be_changed(records: Records) -> None:
    await records.keys.create_key("k", ["read"])
    for statement in ("UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"):
        with pytest.raises(Exception, match="append-only"):
            await execute(records, statement)
    assert len(await records.audit.entries()) == 1


async def test_a_restart_forgets_nothing(records: Records, open_records: Callable[[], Any]) -> None:
    verdict = await judged(records, submission(idempotency_key="k"))
    await records.posts.accept(submission("p2"), lease_s=None)
    await records.close()
    reopened: Records = await open_records()
    assert (await reopened.posts.accept(submission(idempotency_key="k"), lease_s=60)).verdict == verdict
    assert [lease.post.post_id for lease in await reopened.jobs.claim(60)] == ["p2"]
