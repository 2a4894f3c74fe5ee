"""What became of messages: everything of a batch in one transaction, and nothing twice."""

from __future__ import annotations

import pytest

from serve_app.records import Records, outbox
from serve_app.records.errors import PostNotFound, StreamNotFound
from serve_app.records.values import Conclusion, EventId
from tests.records.conclusions import (
    REFUSAL,
    concluded,
    judged_clip,
    judged_post,
    message,
    told,
    views,
)
from tests.records.conftest import judged, submission, verdict_for


class TestPosts:
    async def test_a_judged_post_is_stored_with_its_job_verdict_and_event(self, records: Records) -> None:
        work = judged_post()
        assert await records.events.conclude([concluded(work)]) == ["done"]
        state = await records.posts.find("p1")
        assert (state.status, state.attempts, state.verdict) == ("done", 1, work.verdict)
        (event,) = await told(records)
        assert (event.topic, event.type, event.key) == (outbox.VERDICTS, outbox.POST_JUDGED, "p1")

    async def test_it_is_what_the_http_door_would_have_stored(self, records: Records) -> None:
        await judged(records, submission("http"))
        await records.events.conclude([concluded(judged_post("event"))])
        again = await records.posts.accept(submission("event"), lease_s=60)
        assert (again.state, again.replayed) == ("decided", True)
        http, event = await told(records)
        own = {name: http.payload[name] for name in ("post_id", "decided_at")}
        assert {**event.payload, **own} == http.payload

    async def test_the_same_event_again_changes_nothing(self, records: Records) -> None:
        first = concluded(judged_post(), "e1")
        assert await records.events.conclude([first]) == ["done"]
        assert await records.events.conclude([first, first]) == ["duplicate", "duplicate"]
        assert await records.events.known([EventId("tests", "e1"), EventId("tests", "e2")]) == {EventId("tests", "e1")}
        assert len(await told(records)) == 1

    async def test_the_same_post_under_two_events_has_one_verdict(self, records: Records) -> None:
        twice = [concluded(judged_post(), "e1"), concluded(judged_post(), "e2")]
        assert await records.events.conclude(twice) == ["done", "duplicate"]
        assert await records.events.conclude([concluded(judged_post(), "e3")]) == ["duplicate"]
        assert len(await told(records)) == 1

    async def test_other_content_under_the_same_revision_is_a_dead_letter(self, records: Records) -> None:
        other = concluded(judged_post(caption="other"), "e2", offset=7)
        outcomes = await records.events.conclude([concluded(judged_post(), "e1"), other])
        assert outcomes == ["done", "dead"]
        (letter,) = await records.dead_letters.list()
        assert (letter.code, letter.offset, letter.value) == ("revision_conflict", 7, other.message.value)
        assert (await records.posts.find("p1")).verdict == judged_post().verdict
        assert await records.events.known([EventId("tests", "e2")]) == set()

    async def test_an_erased_post_stays_erased(self, records: Records) -> None:
        await records.events.conclude([concluded(judged_post(), "e1")])
        await records.erasures.erase("p1", "a")
        assert await records.events.conclude([concluded(judged_post(), "e2")]) == ["erased"]
        with pytest.raises(PostNotFound):
            await records.posts.find("p1")

    async def test_a_job_that_runs_elsewhere_is_done_and_its_worker_finds_the_verdict(self, records: Records) -> None:
        ticket = await records.posts.accept(submission(idempotency_key="k"), lease_s=60, policy_version="1")
        assert ticket.lease is not None
        work = judged_post(caption="good morning")
        assert await records.events.conclude([concluded(work)]) == ["done"]
        assert await records.posts.conclude(ticket.lease, verdict_for(submission())) == work.verdict
        assert (await records.posts.accept(submission(idempotency_key="k"), lease_s=60)).verdict == work.verdict
        assert len(await told(records)) == 1


class TestClips:
    async def test_each_new_clip_is_stored_told_and_counted(self, records: Records) -> None:
        works = [concluded(judged_clip(number=n)) for n in range(3)]
        assert await records.events.conclude(works) == ["done"] * 3
        assert (await records.streams.state("s1")).clips == 3
        assert [found.start_s for found in await records.streams.clips("s1")] == [40.0, 20.0, 0.0]
        events = await told(records, outbox.CLIPS)
        assert [(event.type, event.key, event.payload["start_s"]) for event in events] == [
            (outbox.CLIP_JUDGED, "s1", 20.0 * n) for n in range(3)
        ]

    async def test_what_consecutive_clips_add_up_to_is_told_with_its_evidence(self, records: Records) -> None:
        scores = [0.99] * 5 + [0.01] * 12
        for n, score in enumerate(scores):
            await records.events.conclude([concluded(judged_clip(number=n, score=score))])
        flagged, cleared = await told(records, outbox.STREAMS)
        assert (flagged.type, cleared.type) == (outbox.STREAM_FLAGGED, outbox.STREAM_CLEARED)
        assert flagged.payload["windows"]
        assert (await records.streams.state("s1")).action == "allow"

    async def test_other_sound_in_the_same_place_is_a_dead_letter(self, records: Records) -> None:
        first, same = concluded(judged_clip(), "e1"), concluded(judged_clip(), "e2")
        other = concluded(judged_clip(sound_sha256="ff" * 32), "e3", offset=3)
        assert await records.events.conclude([first, same, other]) == ["done", "duplicate", "dead"]
        assert [letter.code for letter in await records.dead_letters.list()] == ["clip_conflict"]
        assert (await records.streams.state("s1")).clips == 1

    async def test_an_erased_stream_stays_erased(self, records: Records) -> None:
        await records.events.conclude([concluded(judged_clip())])
        await records.streams.erase("s1", "a")
        assert await records.events.conclude([concluded(judged_clip(number=1))]) == ["erased"]
        with pytest.raises(StreamNotFound):
            await records.streams.state("s1")
        assert [event.topic for event in await told(records)] == [outbox.ERASURES]


class TestViews:
    async def test_each_milestone_is_told_once(self, records: Records) -> None:
        for n, count in enumerate((10, 999, 1000, 1500, 1200, 1999, 2000, 90_000)):
            assert await records.events.conclude([concluded(views(count, minutes=n))]) == ["done"]
        milestones = [event.payload["milestone"] for event in await told(records, outbox.MILESTONES)]
        assert milestones == [1000, 2000]

    async def test_a_jump_passes_them_all(self, records: Records) -> None:
        await records.events.conclude([concluded(views(5000)), concluded(views(6000))])
        assert [event.payload["milestone"] for event in await told(records)] == [1000, 2000]


class TestRefusals:
    async def test_a_message_that_cannot_be_read_is_kept_as_it_came(self, records: Records) -> None:
        raw = message(5, value=b"\x00\xff not json", key=b"\xfe", headers={"h": b"\x00"})
        assert await records.events.conclude([Conclusion(raw, None, REFUSAL)]) == ["dead"]
        (letter,) = await records.dead_letters.list()
        assert (letter.value, letter.key, letter.headers, letter.event) == (raw.value, raw.key, raw.headers, None)
        (event,) = await told(records)
        assert (event.topic, event.type, event.dead_letter) == (outbox.DEAD_LETTERS, outbox.MESSAGE_DEAD, letter)

    async def test_delivered_again_it_is_the_same_one(self, records: Records) -> None:
        dead = Conclusion(message(5), None, REFUSAL)
        assert await records.events.conclude([dead, dead]) == ["dead", "dead"]
        assert await records.events.conclude([dead]) == ["dead"]
        assert len(await records.dead_letters.list()) == len(await told(records)) == 1

    async def test_one_that_the_database_cannot_hold_takes_none_of_its_batch_along(self, records: Records) -> None:
        bad = concluded(judged_post("bad", fingerprint="half of a pair: \ud800"), "e-bad", offset=4)
        batch = [concluded(judged_post("p1")), bad, concluded(judged_clip()), concluded(views(2**70, "p3"), offset=9)]
        assert await records.events.conclude(batch) == ["done", "dead", "done", "dead"]
        assert {letter.code for letter in await records.dead_letters.list()} == {"unstorable"}
        assert (await records.posts.find("p1")).status == "done"
        assert (await records.streams.state("s1")).clips == 1

    @pytest.mark.parametrize("post_id", ["nul\x00inside", "x" * 200])
    async def test_what_only_one_database_can_hold(self, records: Records, post_id: str) -> None:
        """SQLite takes any text; PostgreSQL neither NUL nor more than the column's length."""
        outcomes = await records.events.conclude([concluded(views(1000, post_id)), concluded(judged_post())])
        expected = "done" if records._database.url.drivername == "sqlite" else "dead"
        assert outcomes == [expected, "done"]
