"""What the store is told of a message in work."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from deployments.runtime.values import ContentType
from serve_app.events.incoming import ClipRecorded, Incoming, PostCreated, PostViewed, Refused
from serve_app.events.message import Message
from serve_app.events.window import item_of
from serve_app.posts import MediaSource, Post
from serve_app.records.values import EventId, Refusal, Subject, ViewCount
from serve_app.streams.values import Clip

AT = datetime(2026, 11, 21, tzinfo=UTC)
EVENT = EventId("/app", "e1")
POST = Post(post_id="p1", author_id="a1", content_type=ContentType.TEXT, created_at=AT, caption="x")
CLIP = Clip(stream_id="s1", start_s=0.0, created_at=AT)
REFUSAL = Refusal("fetch_failed", "The media cannot be fetched.")


@pytest.mark.parametrize(
    ("event", "subject"),
    [
        (PostCreated(EVENT, POST, None), Subject("post", "p1")),
        (ClipRecorded(EVENT, CLIP, MediaSource(data=b"x")), Subject("stream", "s1")),
        (PostViewed(EVENT, ViewCount("p1", 1, AT)), Subject("post", "p1")),
        (Refused(None, REFUSAL, Subject("stream", "s1")), Subject("stream", "s1")),
        (Refused(None, REFUSAL), None),
    ],
)
def test_a_refusal_says_what_its_event_was_about(event: Incoming, subject: Subject | None) -> None:
    item = item_of(Message("posts", 0, 1, b"{}", AT), event, known=False)
    item.work = REFUSAL
    assert item.conclusion().subject == subject
