"""One post: signed so that the receiver's own library believes it, and only to addresses that are allowed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from serve_app.events.webhook_client import Answer, SecretUnusable, WebhookClient
from serve_app.events.webhook_settings import WebhookSettings
from tests.events.receivers import Receiver, listening, new_secret, settings_for

BODY = json.dumps({"specversion": "1.0", "id": "ev1", "data": {"caption": "नमस्ते"}}, ensure_ascii=False).encode()


def client_of(settings: WebhookSettings) -> WebhookClient:
    return WebhookClient(settings.endpoints[0], settings.private_networks)


async def post(folder: Path, receiver: Receiver, **changes: object) -> Answer:
    client = client_of(settings_for(folder, receiver, **changes))
    try:
        return await client.post("ev1", BODY)
    finally:
        await client.close()


async def test_the_receivers_library_verifies_the_post(tmp_path: Path) -> None:
    async with listening() as receiver:
        assert await post(tmp_path, receiver) == Answer(None, 204)
    got = receiver.got[0]
    assert got.line == "POST /hook?x=1 HTTP/1.1"
    assert got.headers["content-type"] == "application/cloudevents+json; charset=UTF-8"
    assert got.headers["webhook-id"] == "ev1"
    secret = (tmp_path / "secret0").read_text().strip()
    assert Webhook(secret).verify(got.body, got.headers) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(got.body.replace(b"ev1", b"ev2"), got.headers)


async def test_while_secrets_rotate_old_and_new_receivers_both_verify(tmp_path: Path) -> None:
    old, new, newest = new_secret(), new_secret(), new_secret()
    async with listening() as receiver:
        settings = settings_for(tmp_path, receiver)
        file = settings.endpoints[0].secret_file
        file.write_text(f"{new}\n{old}\n")
        client = client_of(settings)
        await client.post("ev1", BODY)
        file.write_text(f"{newest}\n\n")
        await client.post("ev2", BODY)
        await client.close()
    both, last = receiver.got
    for secret in (old, new):
        Webhook(secret).verify(both.body, both.headers)
    Webhook(newest).verify(last.body, last.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(last.body, last.headers)


async def test_a_secret_is_never_told_and_a_broken_file_leaves_the_last_good_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with listening() as receiver:
        settings = settings_for(tmp_path, receiver)
        file = settings.endpoints[0].secret_file
        good = file.read_text().strip()
        client = client_of(settings)
        client.check()
        for broken in ("hunter2hunter2", "whsec_c2hvcnQ=", "", "whsec_" + "é" * 40):
            file.write_text(broken)
            assert (await client.post("ev1", BODY)).error is None
        file.unlink()
        assert (await client.post("ev1", BODY)).error is None
        await client.close()
    assert "secret0" in caplog.text
    for told in (good, good.removeprefix("whsec_"), "hunter2", "c2hvcnQ"):
        assert told not in caplog.text
    assert len(receiver.got) == 5
    Webhook(good).verify(receiver.got[-1].body, receiver.got[-1].headers)


@pytest.mark.parametrize("text", ["", "\n", "hunter2", "whsec_c2hvcnQ=", "whsec_" + "A" * 200])
def test_a_secret_that_cannot_sign_is_told_at_the_start_by_its_file(tmp_path: Path, text: str) -> None:
    settings = settings_for(tmp_path, Receiver(port=1))
    settings.endpoints[0].secret_file.write_text(text)
    with pytest.raises(SecretUnusable, match="secret0") as caught:
        client_of(settings).check()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "400 Bad", "500 Oops"])
async def test_redirects_and_errors_are_failures(tmp_path: Path, status: str) -> None:
    async with listening() as elsewhere, listening() as receiver:
        receiver.answer = lambda _: f"{status}\r\nLocation: http://127.0.0.1:{elsewhere.port}/"
        answer = await post(tmp_path, receiver)
    assert answer.error is not None
    assert answer.status == int(status[:3])
    assert elsewhere.got == []


@pytest.mark.parametrize(("status", "wait_s"), [("429 Slow", 7.0), ("503 Later", 7.0), ("500 Oops", None)])
async def test_retry_after_is_read_where_it_means_something(tmp_path: Path, status: str, wait_s: float | None) -> None:
    async with listening(answer=lambda _: f"{status}\r\nRetry-After: 7") as receiver:
        assert (await post(tmp_path, receiver)).retry_after_s == wait_s


async def test_retry_after_may_be_a_date_and_nonsense_is_ignored(tmp_path: Path) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    values = [date, "soon", "-1", "9" * 60]
    async with listening(answer=lambda n: f"429 Slow\r\nRetry-After: {values[n]}") as receiver:
        found = [(await post(tmp_path, receiver)).retry_after_s for _ in values]
    assert found[0] == pytest.approx(60, abs=5)
    assert found[1:] == [None, None, 24 * 3600]


async def test_a_private_address_must_be_allowed(tmp_path: Path) -> None:
    async with listening() as receiver:
        answer = await post(tmp_path, receiver, allowed_private=["10.0.0.0/8"])
    assert answer.status is None
    assert "not allowed" in (answer.error or "")
    assert receiver.connections == 0


async def test_one_private_address_among_public_ones_refuses_them_all(tmp_path: Path) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["93.184.216.34", "10.0.0.7"]

    async with listening() as receiver:
        settings = settings_for(tmp_path, receiver)
        client = WebhookClient(settings.endpoints[0], settings.private_networks, resolver=resolve)
        assert "not allowed" in ((await client.post("ev1", BODY)).error or "")


async def test_the_public_internet_needs_https(tmp_path: Path) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["93.184.216.34"]

    settings = settings_for(tmp_path, Receiver(port=80))
    client = WebhookClient(settings.endpoints[0], settings.private_networks, resolver=resolve)
    assert "needs https" in ((await client.post("ev1", BODY)).error or "")


async def test_a_slow_endpoint_ends_at_its_timeout(tmp_path: Path) -> None:
    async with listening(delay_s=30) as receiver:
        started = time.monotonic()
        answer = await post(tmp_path, receiver, e0={"timeout_s": 0.3})
    assert "within 0.3 s" in (answer.error or "")
    assert time.monotonic() - started < 3


async def test_nobody_there(tmp_path: Path) -> None:
    async with listening() as receiver:
        pass
    assert "cannot be reached" in ((await post(tmp_path, receiver)).error or "")


@pytest.mark.parametrize("tail", [b"x" * 2**20, b"x"])
async def test_the_status_is_the_answer_however_long_the_body_goes_on(tmp_path: Path, tail: bytes) -> None:
    async with listening(answer=lambda _: "200 OK", tail=tail) as receiver:  # never says where the body ends
        assert await post(tmp_path, receiver, e0={"timeout_s": 5}) == Answer(None, 200)


async def test_connections_are_kept(tmp_path: Path) -> None:
    async with listening() as receiver:
        client = client_of(settings_for(tmp_path, receiver))
        for number in range(5):
            await client.post(f"ev{number}", BODY)
        await asyncio.gather(*(client.post(f"more{number}", BODY) for number in range(4)))
        await client.close()
    assert len(receiver.got) == 9
    assert receiver.connections <= 4


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "ftp://example.com/"},
        {"url": "https://user:secret@example.com/"},
        {"url": "https://"},
        {"name": "Not A Name"},
        {"types": []},
        {"timeout_s": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings_for(tmp_path, Receiver(port=1), e0=changes)


def test_types_are_globs(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, Receiver(port=1), e0={"types": ["parakh.stream.*", "parakh.post.judged"]})
    wanted = ["parakh.stream.flagged", "parakh.stream.cleared", "parakh.post.judged"]
    assert [one for one in [*wanted, "parakh.post.erased", "x"] if settings.endpoints[0].wants(one)] == wanted
