"""Caps and deadlines: a body is refused while it streams, a slow answer is a 504, and neither is buffered first."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from serve_app.http.app import create_app
from serve_app.http.fakes import FakeModerator
from serve_app.http.settings import HttpSettings
from tests.http.building import build_services, client_of, text_post

SMALL = HttpSettings(
    auth="off", max_request_bytes=4096, max_media_bytes=1024, max_json_bytes=1024, request_timeout_s=0.6
)


@pytest.fixture
async def small(tmp_path: Path, moderator: FakeModerator) -> AsyncIterator[httpx.AsyncClient]:
    services = build_services(tmp_path, SMALL, moderator=moderator)
    await services.records.start()
    async with client_of(create_app(services)) as client:
        yield client
    await services.records.close()


@pytest.mark.parametrize("path", ["/v1/posts", "/v1/moderations", "/v1/embeddings"])
async def test_an_announced_body_is_refused_unread(small: httpx.AsyncClient, path: str) -> None:
    answer = await small.post(path, content=b"x" * 5000, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
async def test_a_streamed_body_is_cut_off(small: httpx.AsyncClient, kind: str) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="media"\r\n\r\n'
        while sent < 1_000_000:
            sent += 512
            yield b"x" * 512

    answer = await small.post("/v1/posts", content=body(), headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert sent <= 8192


@pytest.mark.parametrize("size", [1024, 1025])
async def test_media_has_its_own_cap(small: httpx.AsyncClient, size: int) -> None:
    post = text_post(f"p{size}", content_type="image", media_base64=base64.b64encode(b"x" * size).decode())
    answer = await small.post("/v1/posts", json=post)
    assert answer.status_code == (200 if size <= 1024 else 413)


async def test_a_slow_judgement_is_a_504_in_time(small: httpx.AsyncClient, moderator: FakeModerator) -> None:
    moderator.delay_s = 30
    started = asyncio.get_running_loop().time()
    for path, body in (("/v1/posts", text_post()), ("/v1/moderations", {"input": "hi"})):
        answer = await small.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert asyncio.get_running_loop().time() - started < 5


async def test_after_a_504_the_post_can_be_sent_again(small: httpx.AsyncClient, moderator: FakeModerator) -> None:
    moderator.delay_s = 30
    headers = {"Idempotency-Key": "k"}
    assert (await small.post("/v1/posts", json=text_post(), headers=headers)).status_code == 504
    moderator.delay_s = 0
    assert (await small.post("/v1/posts", json=text_post(), headers=headers)).status_code == 200


async def test_a_body_that_never_ends_is_a_504(small: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    answer = await small.post("/v1/posts", content=body(), headers={"content-type": "application/json"})
    assert answer.status_code == 504


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="no such file could be uploaded"):
        HttpSettings(max_media_bytes=10_000_000, max_request_bytes=1_000_000)


def test_every_setting_is_described() -> None:
    for name, field in HttpSettings.model_fields.items():
        assert field.description, name
