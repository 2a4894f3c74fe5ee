"""Dead letters: kept as they came, told once for each death, replayed without being lost or doubled."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from serve_app.events.message import Message
from serve_app.records import Records, dead_letters, outbox
from serve_app.records.errors import DeadLetterNotFound, PostNotFound, StreamNotFound
from serve_app.records.event_tables import DeadLetterRow
from serve_app.records.leases import now
from serve_app.records.values import Conclusion, DeadLetter, EventId, Refusal, Subject
from tests.records.conclusions import AT, REFUSAL, concluded, judged_clip, judged_post, message, told

OTHER = Refusal("wrong_shape", "A field is missing.")


async def bury(records: Records, *conclusions: Conclusion) -> list[DeadLetter]:
    assert set(await records.events.conclude(conclusions)) == {"dead"}
    return await records.dead_letters.list()


def replayed(letter: DeadLetter, offset: int) -> Message:
    """As the replay brings it: elsewhere in its topic, with its own headers and one more."""
    value = b"" if letter.value is None else letter.value
    headers = dead_letters.replay_headers(letter)
    return Message(letter.topic, letter.partition, offset, value, AT, letter.key, headers)


async def test_they_are_found_by_code_topic_time_and_replay(records: Records) -> None:
    await bury(records, Conclusion(message(1), None, REFUSAL), Conclusion(message(2, topic="clips"), None, OTHER))
    store = records.dead_letters
    assert [letter.offset for letter in await store.list(code="not_json")] == [1]
    assert [letter.offset for letter in await store.list(topic="clips")] == [2]
    assert await store.list(since=now() + timedelta(hours=1)) == []
    assert len(await store.list(limit=1)) == 1
    assert await store.waiting() == {"not_json": 1, "wrong_shape": 1}
    await store.mark_replayed(await store.list(code="not_json"))
    assert [letter.offset for letter in await store.list(replayed=True)] == [1]
    assert [letter.offset for letter in await store.list(replayed=False)] == [2]
    assert await store.waiting() == {"wrong_shape": 1}
    with pytest.raises(DeadLetterNotFound):
        await store.get("no such")


async def test_a_replay_that_works_is_an_event_like_any_other(records: Records) -> None:
    (letter,) = await bury(records, Conclusion(message(1), EventId("tests", "e1"), REFUSAL))
    again = Conclusion(replayed(letter, 9), EventId("tests", "e1"), judged_post())
    assert await records.events.conclude([again]) == ["done"]
    assert (await records.dead_letters.get(letter.id)).replayed_at is not None  # even where nobody marked it
    assert await records.events.known([EventId("tests", "e1")]) == {EventId("tests", "e1")}
    assert await records.events.conclude([again]) == ["duplicate"]


async def test_dead_again_it_is_the_same_letter_with_one_attempt_more(records: Records) -> None:
    (letter,) = await bury(records, Conclusion(message(1, headers={"h": b"1"}), None, REFUSAL))
    again = Conclusion(replayed(letter, 9), None, OTHER)
    (after,) = await bury(records, again, again)
    assert (after.id, after.attempts, after.code, after.offset) == (letter.id, 1, "wrong_shape", 1)
    assert after.headers == {"h": b"1"}
    await records.dead_letters.mark_replayed([letter])  # as it was read before it died again
    assert (await records.dead_letters.get(letter.id)).replayed_at is None
    await bury(records, Conclusion(replayed(after, 11), None, REFUSAL), again)
    assert (await records.dead_letters.get(letter.id)).attempts == 2
    deaths = await told(records, outbox.DEAD_LETTERS)
    assert len({event.event_id for event in deaths}) == len(deaths) == 3


@pytest.mark.parametrize("header", [b"", b"nonsense", b"\xff" * 50, b"00000000-0000-0000-0000-000000000000;1"])
async def test_a_header_that_names_no_letter_is_only_a_header(records: Records, header: bytes) -> None:
    forged = message(1, headers={dead_letters.HEADER: header})
    (letter,) = await bury(records, Conclusion(forged, None, REFUSAL))
    assert (letter.offset, letter.attempts) == (1, 0)


async def test_a_topic_made_anew_begins_at_the_same_offsets(records: Records) -> None:
    first, second = message(0, value=b"of the old topic"), message(0, value=b"of the new one")
    letters = await bury(records, Conclusion(first, None, REFUSAL), Conclusion(second, None, REFUSAL))
    assert {letter.value for letter in letters} == {first.value, second.value}


async def test_what_is_too_large_for_a_row_goes_to_the_media_store(records: Records) -> None:
    kept: list[bytes] = []

    async def keep(value: bytes) -> str:
        kept.append(value)
        return hashlib.sha256(value).hexdigest()

    large = b"x" * (dead_letters.MAX_VALUE_BYTES + 1)
    batch = [
        concluded(judged_clip()),
        concluded(judged_clip(sound_sha256="ff" * 32), offset=5, value=large),
        concluded(judged_clip(number=1), offset=6, value=large + b"but good"),
    ]
    assert await records.events.conclude(batch, keep) == ["done", "dead", "done"]
    assert kept == [large]
    (letter,) = await records.dead_letters.list()
    digest = hashlib.sha256(large).hexdigest()
    assert (letter.value, letter.value_sha256, letter.size) == (None, digest, len(large))
    assert await records.garbage.add_unreferenced([digest]) == 0
    await records.garbage.add(digest)
    deleted: list[str] = []

    async def delete(sha256: str) -> None:
        deleted.append(sha256)

    await records.garbage.sweep(delete)
    assert deleted == []
    await records.streams.erase("s1", "a")
    await records.garbage.sweep(delete)
    assert deleted == [digest]


async def test_without_a_media_store_the_row_has_it_all(records: Records) -> None:
    large = b"x" * (dead_letters.MAX_VALUE_BYTES + 1)
    (letter,) = await bury(records, Conclusion(message(1, value=large), None, REFUSAL))
    assert letter.value == large


async def test_erasure_reaches_what_could_not_be_worked_off(records: Records) -> None:
    await records.events.conclude([concluded(judged_post(), "e1")])
    conflict = concluded(judged_post(caption="other"), "e2", offset=1)
    unread = Conclusion(message(2, key=b"p1"), None, REFUSAL)
    of_another = Conclusion(message(3, key=b"p2"), None, REFUSAL)
    await bury(records, conflict, unread, of_another)
    await records.erasures.erase("p1", "a")
    assert [letter.offset for letter in await records.dead_letters.list()] == [3]
    assert [event.topic for event in await told(records)] == [outbox.DEAD_LETTERS, outbox.ERASURES]


async def as_an_older_version_left_it(records: Records, offset: int, subject: str) -> None:
    named = update(DeadLetterRow).where(DeadLetterRow.offset == offset).values(subject=subject)
    await records._database.write(lambda session: session.execute(named) and None)


class TestErasure:
    async def test_a_refused_event_that_could_be_read_is_found_by_what_it_is_about(self, records: Records) -> None:
        await records.events.conclude([concluded(judged_post())])
        failed = concluded(OTHER, "e2", 1, key=b"some author")
        await bury(records, replace(failed, subject=Subject("post", "p1")))
        await records.erasures.erase("p1", "a")
        assert await records.dead_letters.list() == []

    async def test_a_letter_alone_is_enough_to_erase(self, records: Records) -> None:
        post = Conclusion(message(1), None, REFUSAL, Subject("post", "p1"))
        stream = Conclusion(message(2), None, REFUSAL, Subject("stream", "s1"))
        await bury(records, post, stream)
        await records.erasures.erase("p1", "a")
        await records.streams.erase("s1", "a")
        assert await records.dead_letters.list() == []
        assert [event.topic for event in await told(records)] == [outbox.ERASURES] * 2
        assert await records.events.conclude([post, stream]) == ["erased", "erased"]
        with pytest.raises(PostNotFound):
            await records.erasures.erase("p2", "a")
        with pytest.raises(StreamNotFound):
            await records.streams.erase("s2", "a")

    async def test_nothing_is_buried_about_what_is_erased(self, records: Records) -> None:
        await records.events.conclude([concluded(judged_post()), concluded(judged_clip())])
        await records.erasures.erase("p1", "a")
        await records.streams.erase("s1", "a")
        late = [
            concluded(OTHER, "e1", 1, key=b"p1"),
            Conclusion(message(2), None, REFUSAL, Subject("stream", "s1")),
            Conclusion(message(3), None, REFUSAL, Subject("stream", "s2")),
        ]
        assert await records.events.conclude(late) == ["erased", "erased", "dead"]
        assert [letter.offset for letter in await records.dead_letters.list()] == [3]
        assert await records.events.conclude(late[:1]) == ["duplicate"]

    async def test_a_replay_about_what_is_erased_takes_its_letter_along(self, records: Records) -> None:
        await records.events.conclude([concluded(judged_post())])
        await records.erasures.erase("p1", "a")
        (letter,) = await bury(records, Conclusion(message(1), None, REFUSAL))  # nobody could tell what it is about
        again = Conclusion(replayed(letter, 9), None, judged_post())
        assert await records.events.conclude([again]) == ["erased"]
        assert await records.dead_letters.list() == []

    async def test_asked_for_again_it_forgets_letters_that_came_before_they_were_refused(
        self, records: Records
    ) -> None:
        await records.events.conclude([concluded(judged_post()), concluded(judged_clip())])
        await records.erasures.erase("p1", "a")
        await records.streams.erase("s1", "a")
        await bury(records, *(Conclusion(message(n), None, REFUSAL) for n in (1, 2)))
        await as_an_older_version_left_it(records, 1, "post:p1")
        await as_an_older_version_left_it(records, 2, "stream:s1")
        await records.erasures.erase("p1", "a")
        await records.streams.erase("s1", "a")
        assert await records.dead_letters.list() == []

    async def test_a_post_and_a_stream_of_one_name_are_two(self, records: Records) -> None:
        longest = "x" * 128
        await bury(
            records,
            Conclusion(message(1), None, REFUSAL, Subject("post", longest)),
            Conclusion(message(2), None, REFUSAL, Subject("stream", longest)),
        )
        await records.erasures.erase(longest, "a")
        assert [letter.offset for letter in await records.dead_letters.list()] == [2]

    async def test_an_erasure_beside_the_refusal_leaves_no_letter(self, records: Records) -> None:
        await records.events.conclude([concluded(judged_post())])
        refused = [concluded(OTHER, f"e{n}", n, key=b"p1") for n in range(20)]
        burying = [records.events.conclude([each]) for each in refused]
        await asyncio.gather(*burying[:10], records.erasures.erase("p1", "a"), *burying[10:])
        assert await records.dead_letters.list() == []


async def test_text_that_no_database_takes_is_cleaned(records: Records) -> None:
    nasty = EventId("so\x00urce \ud800", "id\x00" + "x" * 10_000)
    refusal = Refusal("code\x00" * 50, "why \x00\udfff")
    (letter,) = await bury(records, Conclusion(message(1, key=b"a\x00b"), nasty, refusal))
    assert letter.event is not None
    assert "\x00" not in letter.code + letter.reason + letter.event.source + letter.event.id
    assert replace(letter.event, id="") == EventId("so\ufffdurce ?", "")
