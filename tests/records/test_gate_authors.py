"""An author's history: a half-open window, late events, revisions, undo and erasure."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import update

from deployments.review_gate.values import AuthorHistory
from serve_app.gate_settings import GatingSettings
from serve_app.gating import LastKnown
from serve_app.records import Records
from serve_app.records.gate_tables import OutcomeRow
from serve_app.records.gate_values import HistoryAsk
from tests.records.gating import add_posts, days, post_of, reviewed

AS_OF = datetime(2026, 6, 30, 12, tzinfo=UTC)
JUST = timedelta(microseconds=1)
BEFORE = AS_OF - days(1)


async def history(records: Records, as_of: datetime = AS_OF, author: str = "a1", post: str = "own") -> AuthorHistory:
    (found,) = await records.authors.histories([HistoryAsk(author, post, as_of)])
    return found


async def discard(records: Records, *post_ids: str, at: datetime = BEFORE) -> None:
    """Discarded at that time."""
    for post_id in post_ids:
        await reviewed(records, post_id)
        moved = update(OutcomeRow).where(OutcomeRow.post_id == post_id).values(decided_at=at)
        await records._database.write(lambda session, moved=moved: session.execute(moved) and None)  # type: ignore[misc]


def counts(found: AuthorHistory) -> tuple[str, int | None, int | None]:
    return found.status, found.posts, found.discards


@pytest.mark.parametrize(
    ("created", "counted"),
    [
        (AS_OF - days(180) - JUST, 0),
        (AS_OF - days(180), 1),
        (AS_OF - JUST, 1),
        (AS_OF, 0),
    ],
)
async def test_the_window_is_half_open(records: Records, created: datetime, counted: int) -> None:
    await add_posts(records, post_of("p1", created_at=created))
    assert counts(await history(records)) == ("ok", counted, 0)


@pytest.mark.parametrize(
    "zone", [ZoneInfo("Asia/Kolkata"), ZoneInfo("America/St_Johns"), timezone(timedelta(hours=14))]
)
async def test_a_moment_is_the_same_in_every_zone(records: Records, zone: Any) -> None:
    await add_posts(records, post_of("in", created_at=(AS_OF - days(180)).astimezone(zone)))
    await add_posts(records, post_of("out", created_at=(AS_OF - days(180) - JUST).astimezone(zone)))
    assert counts(await history(records, AS_OF.astimezone(zone))) == ("ok", 1, 0)


async def test_the_window_is_of_hours_not_of_calendar_days_where_clocks_change(records: Records) -> None:
    berlin = ZoneInfo("Europe/Berlin")  # 30 June is summer time, 180 days before is not
    as_of = datetime(2026, 6, 30, 0, 30, tzinfo=berlin)
    edge = as_of.astimezone(UTC) - days(180)
    await add_posts(records, post_of("in", created_at=edge), post_of("out", created_at=edge - JUST))
    assert counts(await history(records, as_of)) == ("ok", 1, 0)


async def test_discards_count_for_their_post_and_only_once_they_were_decided(records: Records) -> None:
    old = AS_OF - days(181)
    posts = [post_of(f"p{n}", action="review", created_at=AS_OF - days(n + 1)) for n in range(4)]
    await add_posts(records, *posts, post_of("old", action="review", created_at=old))
    await discard(records, "p0", at=AS_OF - JUST)
    await discard(records, "p1", at=AS_OF)
    await discard(records, "old")
    await reviewed(records, "p2", "ok")
    assert counts(await history(records)) == ("ok", 4, 1)
    assert counts(await history(records, AS_OF + JUST)) == ("ok", 4, 2)


async def test_a_late_event_sees_what_it_would_have_seen_in_time(records: Records) -> None:
    await add_posts(records, post_of("p1", action="review", created_at=AS_OF - days(2)))
    in_time = await history(records)
    await add_posts(records, post_of("p2", created_at=AS_OF + days(1)))
    await discard(records, "p1", at=AS_OF + days(1))
    assert await history(records) == in_time


async def test_the_post_itself_and_other_authors_do_not_count(records: Records) -> None:
    own, other = AS_OF - days(1), AS_OF - days(2)
    await add_posts(records, post_of("own", created_at=own, action="review"), post_of("p2", created_at=other))
    await add_posts(records, post_of("x", author_id="a2", created_at=own))
    await discard(records, "own")
    assert counts(await history(records)) == ("ok", 1, 0)


async def test_revisions_are_one_post(records: Records) -> None:
    await add_posts(records, *(post_of("p1", created_at=BEFORE, revision=n, action="review") for n in range(3)))
    await discard(records, "p1")
    await add_posts(records, post_of("p1", created_at=BEFORE, revision=3, action="review"))
    await discard(records, "p1")
    assert counts(await history(records)) == ("ok", 1, 1)


async def test_unknown_is_missing_and_not_zero(records: Records) -> None:
    assert counts(await history(records)) == ("missing", None, None)
    await add_posts(records, post_of("own", created_at=AS_OF - days(1)))
    assert counts(await history(records)) == ("missing", None, None)
    await add_posts(records, post_of("ago", created_at=AS_OF - days(900)))
    assert counts(await history(records)) == ("ok", 0, 0)  # known, and none in the window


async def test_erased_posts_count_no_more_and_an_erased_author_is_missing(records: Records) -> None:
    await add_posts(records, *(post_of(f"p{n}", created_at=AS_OF - days(1), action="review") for n in range(2)))
    await discard(records, "p0")
    assert counts(await history(records)) == ("ok", 2, 1)
    await records.erasures.erase("p0", "a")
    assert counts(await history(records)) == ("ok", 1, 0)
    await records.erasures.erase("p1", "a")
    assert counts(await history(records)) == ("missing", None, None)


async def test_undo_takes_the_discard_back(records: Records) -> None:
    await add_posts(records, post_of("p1", created_at=datetime.now(UTC) - days(1), action="review"))
    review = await reviewed(records, "p1")
    after = datetime.now(UTC) + JUST
    assert counts(await history(records, after)) == ("ok", 1, 1)
    await records.reviews.undo(review.review_id, "m1")
    assert counts(await history(records, after)) == ("ok", 1, 0)


class Slow:
    def __init__(self) -> None:
        self.delay_s = 0.0

    async def histories(self, asked: Any) -> list[AuthorHistory]:
        await asyncio.sleep(self.delay_s)
        return [AuthorHistory("ok", 7, 2, 180, ask.as_of) for ask in asked]


async def test_a_history_that_takes_too_long_is_stale_or_missing_but_said_so() -> None:
    authors = Slow()
    known = LastKnown(authors, GatingSettings(history_timeout_s=0.02, history_stale_s=60))
    ask = HistoryAsk("a1", "p1", AS_OF)
    assert counts((await known.read([ask]))[0]) == ("ok", 7, 2)
    authors.delay_s = 1.0
    soon, late = HistoryAsk("a1", "p2", AS_OF + timedelta(seconds=60)), HistoryAsk("a1", "p3", AS_OF + days(1))
    before, other = HistoryAsk("a1", "p4", AS_OF - JUST), HistoryAsk("a2", "p5", AS_OF)
    found = await known.read([soon, late, before, other])
    assert [counts(each) for each in found] == [("stale", 7, 2), *[("missing", None, None)] * 3]
