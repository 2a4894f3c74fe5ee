"""Broker settings that cannot work are refused before anything starts, in words that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from serve_app.events.brokers import open_producer, open_source
from serve_app.events.settings import BrokerSecurity, BrokerSettings, TopicNames


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "kafka"}, "needs `servers`"),
        ({"kind": "nats", "servers": ["nats://localhost:4222"]}, "is not host:port"),
        ({"kind": "nats", "servers": ["user:secret@localhost:4222"]}, "is not host:port"),
        ({"kind": "kafka", "servers": ["localhost"]}, "is not host:port"),
        ({"security": {"mechanism": "PLAIN"}}, "needs `username` and `password_file`"),
        ({"security": {"username": "u"}}, "go together"),
        ({"security": {"ca_file": "ca.pem"}}, "`tls` is off"),
        ({"security": {"tls": True, "key_file": "key.pem"}}, "needs `cert_file`"),
        ({"topics": {"posts": "same", "clips": "same"}}, "same name"),
        ({"topics": {"posts": "with space"}}, "no topic name"),
        ({"topics": {"posts": "a..b"}}, "no topic name"),
        ({"topics": {"posts": "parakh.*"}}, "no topic name"),
        ({"topics": {"dead_letters": ""}}, "no topic name"),
        ({"group": "a.b"}, "pattern"),
        ({"kafka": {"session_timeout": 1}}, "Extra inputs"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        BrokerSettings.model_validate(given)


def test_the_broker_is_off_unless_it_is_set() -> None:
    settings = BrokerSettings()
    assert settings.kind == "off"
    with pytest.raises(ValueError, match="off"):
        open_source(settings, ["t"])
    with pytest.raises(ValueError, match="off"):
        open_producer(settings)


def test_topics_that_are_not_read_have_no_name() -> None:
    assert TopicNames(clips="", views="").incoming == ("parakh.posts",)
    assert TopicNames().incoming == ("parakh.posts", "parakh.clips", "parakh.views")


def test_outgoing_topics_keep_their_name_unless_renamed() -> None:
    topics = TopicNames(renamed={"parakh.verdicts": "ts.verdicts.v1"})
    assert topics.outgoing("parakh.verdicts") == "ts.verdicts.v1"
    assert topics.outgoing("parakh.erasures") == "parakh.erasures"


def test_the_password_is_read_from_its_file_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret with space \n")
    security = BrokerSecurity(username="u", password_file=tmp_path / "password")
    assert security.password() == "s3cret with space "
    assert "s3cret" not in repr(security)


def tables(model: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [f.annotation for f in model.model_fields.values()]
    return [model, *(t for i in inner if isinstance(i, type) and issubclass(i, BaseModel) for t in tables(i))]


@pytest.mark.parametrize("table", tables(BrokerSettings), ids=lambda t: t.__name__)
def test_every_setting_is_described(table: type[BaseModel]) -> None:
    assert [name for name, field in table.model_fields.items() if not field.description] == []
    assert table.model_config.get("frozen")
