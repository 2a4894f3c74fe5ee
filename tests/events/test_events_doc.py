"""docs/events.md: its examples are read, its types and codes are all there, its snippet verifies."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from serve_app.events import cloud_events, incoming
from serve_app.events.incoming import EventReader, Refused
from serve_app.events.message import Message
from serve_app.events.settings import TopicNames
from serve_app.records import outbox

TEXT = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json (parakh\.\w+)\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize(("topic", "example"), EXAMPLES)
def test_every_incoming_example_is_read(topic: str, example: str) -> None:
    found = EventReader().read_now(Message(topic, 0, 0, example.encode(), datetime.now(UTC)))
    assert not isinstance(found, Refused), found


def test_there_is_an_example_of_every_topic() -> None:
    assert tuple(topic for topic, _ in EXAMPLES) == TopicNames().incoming


def test_every_topic_and_type_that_leaves_is_told() -> None:
    names = {value for name, value in vars(outbox).items() if name.isupper() and isinstance(value, str)}
    assert len(names) > 10
    assert {name for name in names if f"`{name}`" not in TEXT} == set()


def test_every_code_of_the_readers_own_is_told() -> None:
    sources = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (cloud_events, incoming)]
    codes = {code for source in sources for code in re.findall(r'EventRefused\(\s*"(\w+)"', source)}
    assert len(codes) > 10
    assert {code for code in codes if f"`{code}`" not in TEXT} == set()


def test_the_snippet_verifies() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    (secret,) = re.findall(r'"(whsec_\w+)"', snippet)
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "ev1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("ev1", now, example),
    }
    namespace = {"body": example.encode(), "headers": headers}
    exec(snippet, namespace)
    assert namespace["event"] == json.loads(example)
