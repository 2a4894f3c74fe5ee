"""What goes with age and what stays; and streams as the HTTP door meets them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from serve_app.records import Records, outbox, retention
from serve_app.records.errors import ClipConflict, ClipNotFound, StreamErased, StreamNotFound
from serve_app.records.settings import RetentionSettings
from serve_app.records.values import Conclusion
from tests.records.conclusions import AT, REFUSAL, clip, concluded, judged_clip, judged_post, message, told

AT_ONCE = RetentionSettings(
    clips_s=0.01, consumed_events_s=0.01, dead_letters_s=0.01, published_events_s=0.01, deliveries_s=0.01
)
FOR_EVER = RetentionSettings(
    clips_s=None, consumed_events_s=None, dead_letters_s=None, published_events_s=None, deliveries_s=None
)


async def counts(records: Records) -> dict[str, int]:
    tables = ("clips", "streams", "consumed_events", "dead_letters", "webhook_deliveries", "outbox")
    return {
        name: await records._database.read(
            lambda session, name=name: session.scalar(text(f"SELECT count(*) FROM {name}"))  # type: ignore[misc]
        )
        for name in tables
    }


class TestRetention:
    async def test_everything_that_is_done_with_goes(self, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "BATCH", 2)
        dead = Conclusion(message(1), None, REFUSAL)
        await records.events.conclude([*(concluded(judged_clip(number=n)) for n in range(5)), dead])
        ids = [event.id for event in await told(records)]
        (clip_event, *_) = await told(records, outbox.CLIPS)
        await records.outbox.mark_published(ids, [(clip_event.event_id, "one")])
        await records.webhooks.delivered(clip_event.event_id, "one", 200)
        await records.dead_letters.mark_replayed(await records.dead_letters.list())
        before = await counts(records) | {"outbox": 5}  # the dead letter takes its own along
        assert await records.retention.sweep(FOR_EVER) == dict.fromkeys(before, 0)
        await asyncio.sleep(0.05)
        assert await records.retention.sweep(AT_ONCE) == before
        assert set((await counts(records)).values()) == {0}

    async def test_what_may_still_be_needed_stays(self, records: Records) -> None:
        dead = Conclusion(message(1), None, REFUSAL)
        await records.events.conclude([concluded(judged_post()), dead])
        (post,) = await told(records, outbox.VERDICTS)
        await records.outbox.mark_published([post.id], [(post.event_id, "one")])
        await asyncio.sleep(0.05)
        await records.retention.sweep(AT_ONCE)
        left = await counts(records)
        assert (left["outbox"], left["webhook_deliveries"], left["dead_letters"]) == (2, 1, 1)
        await records.dead_letters.mark_replayed(await records.dead_letters.list())
        await asyncio.sleep(0.05)
        await records.retention.sweep(AT_ONCE)
        assert (await told(records))[0].dead_letter is not None  # its message was not published yet

    async def test_a_stream_stays_with_its_clips(self, records: Records) -> None:
        await records.streams.add(clip(decided_at=AT + timedelta(days=10_000)))
        await asyncio.sleep(0.05)
        await records.retention.sweep(AT_ONCE)
        assert (await records.streams.state("s1")).clips == 1


class TestStreams:
    async def test_a_clip_from_the_http_door(self, records: Records) -> None:
        stored, state, replayed = await records.streams.add(clip())
        assert (stored, state.clips, replayed) == (clip(), 1, False)
        again = await records.streams.add(clip(decided_at=AT + timedelta(hours=1)))
        assert again == (clip(), state, True)
        with pytest.raises(ClipConflict):
            await records.streams.add(clip(sound_sha256="ff" * 32))
        assert await records.streams.find_clip("s1", 0) == clip()
        assert len(await told(records, outbox.CLIPS)) == 1

    async def test_both_doors_know_of_each_other(self, records: Records) -> None:
        await records.streams.add(clip())
        assert await records.events.conclude([concluded(judged_clip())]) == ["duplicate"]
        await records.events.conclude([concluded(judged_clip(number=1))])
        _, state, replayed = await records.streams.add(clip(number=1))
        assert (state.clips, replayed) == (2, True)

    async def test_what_is_not_there(self, records: Records) -> None:
        for asked in (records.streams.state("s1"), records.streams.erase("s1", "a")):
            with pytest.raises(StreamNotFound):
                await asked
        with pytest.raises(ClipNotFound):
            await records.streams.find_clip("s1", 0)
        assert await records.streams.clips("s1") == []

    async def test_pages_and_the_highest_scores(self, records: Records) -> None:
        for n, score in enumerate((0.2, 0.9, 0.1, 0.5)):
            await records.streams.add(clip(number=n, score=score))
        await records.streams.add(clip(number=4, score=0.0, nsfw_score=None, category_scores=None, skipped="no_speech"))
        assert [found.start_ms for found in await records.streams.clips("s1", 2, 60_000)] == [40_000, 20_000]
        assert [found.nsfw_score for found in await records.streams.highest(AT, 2)] == [0.9, 0.5]
        assert await records.streams.highest(AT + timedelta(days=1)) == []

    async def test_streams_by_their_action(self, records: Records) -> None:
        for n in range(5):
            await records.streams.add(clip("bad", n, 0.99))
            await records.streams.add(clip("good", n, 0.01))
        assert [state.stream_id for state in await records.streams.with_action(["review", "block"])] == ["bad"]

    async def test_erasure_leaves_tombstone_and_audit(self, records: Records) -> None:
        await records.streams.add(clip())
        await records.streams.erase("s1", "admin-key")
        await records.streams.erase("s1", "admin-key")
        with pytest.raises(StreamErased):
            await records.streams.add(clip(number=1))
        assert [entry.action for entry in await records.audit.entries("s1")] == ["stream.erase"]
        assert [event.type for event in await told(records)] == [outbox.STREAM_ERASED]
