"""A post as multipart: two parts, each once, each under its cap."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serve_app.http.fakes import FakeModerator
from tests.http.building import text_post

POST = json.dumps(text_post(content_type="video", caption=None))
FILE = ("clip.mp4", b"moving picture", "video/mp4")
BOUNDARY = "boundary"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def raw(*parts: bytes, end: bytes = b"--boundary--\r\n") -> bytes:
    return b"".join(b"--boundary\r\n" + part + b"\r\n" for part in parts) + end


def part(name: str, value: bytes, extra: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name.encode() + b'"\r\n' + extra + b"\r\n" + value


async def test_an_upload_reaches_the_moderator_whole(client: httpx.AsyncClient, moderator: FakeModerator) -> None:
    data = bytes(range(256)) * 4096
    sent = await client.post("/v1/posts", data={"post": POST}, files={"media": ("a.mp4", data, "video/mp4")})
    assert sent.status_code == 200, sent.text
    ((_, media),) = moderator.moderated
    assert media is not None
    assert media.data == data


async def test_the_post_may_be_sent_as_a_file(client: httpx.AsyncClient) -> None:
    files: Any = {"post": ("post.json", POST, "application/json"), "media": FILE}
    assert (await client.post("/v1/posts", files=files)).status_code == 200


async def test_the_media_may_be_a_url_in_the_post(client: httpx.AsyncClient) -> None:
    post = json.dumps(text_post(content_type="video", media_url="https://example.org/a.mp4"))
    assert (await client.post("/v1/posts", files={"post": (None, post)})).status_code == 200
    twice = await client.post("/v1/posts", files={"post": (None, post), "media": FILE})
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "media")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_request"),
        (raw(part("media", b"x")), "invalid_request"),
        (raw(part("post", POST.encode())), "media_required"),
        (raw(part("post", POST.encode()), part("media", b"")), "invalid_request"),
        (raw(part("post", POST.encode()), part("media", b"x"), part("media", b"y")), "invalid_request"),
        (raw(part("post", POST.encode()), part("post", POST.encode()), part("media", b"y")), "invalid_request"),
        (raw(part("post", POST.encode()), part("other", b"x")), "invalid_request"),
        (raw(part("post", b"{not json"), part("media", b"x")), "invalid_request"),
        (raw(part("post", b"\xff\xfe"), part("media", b"x")), "invalid_request"),
        (raw(part("post", POST.encode("utf-16")), part("media", b"x")), "invalid_request"),
        (
            raw(
                part("post", POST.encode(), b"Content-Type: application/json; charset=utf-16\r\n"), part("media", b"x")
            ),
            "invalid_request",
        ),
        (raw(part("post", POST.encode()), part("media", b"x"), end=b""), "invalid_request"),
        (raw(part("post", b"x" * 3 * 1024 * 1024), part("media", b"x")), "too_large"),
        (raw(b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n"), "invalid_request"),
        (raw(b"\r\nno header at all"), "invalid_request"),
        (b"no boundary anywhere in this body", "invalid_request"),
        (raw(part("post", b"[" * 10_000), part("media", b"x")), "invalid_request"),
    ],
)
async def test_broken_bodies(client: httpx.AsyncClient, moderator: FakeModerator, body: bytes, code: str) -> None:
    refused = await client.post("/v1/posts", content=body, headers=MULTIPART)
    assert refused.status_code == (413 if code == "too_large" else 400), refused.text
    assert refused.json()["error"]["code"] == code
    assert moderator.moderated == []


@pytest.mark.parametrize(
    "header", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=b"]
)
async def test_broken_headers(client: httpx.AsyncClient, header: str) -> None:
    refused = await client.post("/v1/posts", content=raw(part("post", b"{}")), headers={"content-type": header})
    assert refused.status_code in (400, 415)
