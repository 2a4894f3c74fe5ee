"""The routes of streams over real records; the judge of clips hears with a fake."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.media.windows import SoundCut, cut_windows, sound_window
from deployments.policy.policy import CATEGORIES, default_policy
from deployments.runtime.errors import NodeUnavailable, UndecodableMedia
from deployments.runtime.values import ModelCard, SoundWindow
from deployments.wav2vec2.values import ClipScores
from serve_app.http.app import create_app
from serve_app.streams.judging import ClipJudge
from tests.http.building import build_services, client_of

AT = "2026-11-01T10:00:00Z"
CARD = ModelCard("fake", "1", "random", 0)


class LoudIsHate:
    """ClipNodes: a clip's level is its score of hate. Only 16 kHz PCM is ever given to it."""

    def __init__(self) -> None:
        self.heard = 0
        self.delay_s = 0.0
        self.dies_above = 2.0  # of a clip's level

    async def fetch(self, url: str) -> bytes:
        raise AssertionError(url)

    async def decode_sound(self, data: bytes, cut: SoundCut | None, max_s: float | None = None) -> list[SoundWindow]:
        if not data.startswith(b"RIFF"):
            raise UndecodableMedia
        samples = np.full(16_000, 0.5, np.float32)
        return [sound_window(samples)] if cut is None else cut_windows(samples, cut.window_s, cut.overlap_s)

    async def classify_sound(self, sound: Any, language: str | None) -> ClipScores:
        self.heard += 1
        await asyncio.sleep(self.delay_s)
        hate = float(np.abs(sound).max())
        if hate > self.dies_above:
            raise NodeUnavailable
        probabilities = np.zeros(7, np.float32)
        probabilities[0], probabilities[CATEGORIES.index("hate")] = 1 - hate, hate
        return ClipScores(
            probabilities, {}, language, "und", language is not None, len(sound) / 16_000, 0.0, model=CARD
        )


@pytest.fixture
def nodes() -> LoudIsHate:
    return LoudIsHate()


@pytest.fixture
async def client(tmp_path: Path, nodes: LoudIsHate) -> AsyncIterator[httpx.AsyncClient]:
    services = build_services(tmp_path, clips=ClipJudge(nodes, default_policy(), SoundCut(2.0, 0.5)))
    await services.records.start()
    async with client_of(create_app(services)) as opened:
        yield opened
    await services.records.close()


def pcm(level: float, seconds: float = 1.0) -> bytes:
    return np.full(int(16_000 * seconds), int(level * 32767), "<i2").tobytes()


def wav(level: float, seconds: float = 1.0) -> bytes:
    from serve_app.streams.pcm import Pcm, as_wav

    return as_wav(pcm(level, seconds), Pcm("s16le", 16_000))


async def send(client: httpx.AsyncClient, start_s: float, level: float, stream: str = "s1") -> httpx.Response:
    clip = {"start_s": start_s, "created_at": AT, "language": "hi"}
    files: Any = {"clip": (None, json.dumps(clip)), "media": ("clip.wav", wav(level))}
    return await client.post(f"/v1/streams/{stream}/clips", files=files)


async def test_a_clip_is_judged_and_added_to_its_stream(client: httpx.AsyncClient) -> None:
    answer = await send(client, 20.0, 0.25)
    assert answer.status_code == 200
    clip, stream = answer.json()["clip"], answer.json()["stream"]
    assert clip["category_scores"]["hate"] == pytest.approx(0.25, abs=1e-3)
    assert (clip["start_s"], clip["duration_s"], clip["fallback"], clip["model"]["name"]) == (20.0, 1.0, True, "fake")
    assert (stream["action"], stream["clips"], stream["language"]) == ("allow", 1, "hi")
    assert stream["windows"][0]["start_s"] == 20.0
    assert (await client.get("/v1/streams/s1")).json() == stream


async def test_bad_clips_in_any_order_raise_the_flag_and_quiet_ones_lower_it(client: httpx.AsyncClient) -> None:
    assert (await send(client, 60.0, 0.6)).json()["stream"]["action"] == "allow"
    flagged = (await send(client, 40.0, 0.6)).json()["stream"]
    assert flagged["action"] == "review"
    assert {"category": "hate", "action": "review", "since_s": 40.0} in flagged["flags"]
    for n in range(4, 8):
        last = (await send(client, 20.0 * n, 0.0)).json()["stream"]
    assert last["action"] == "allow"


async def test_the_same_clip_again_is_replayed_and_other_sound_is_refused(
    client: httpx.AsyncClient, nodes: LoudIsHate
) -> None:
    first = await send(client, 0.0, 0.6)
    again = await send(client, 0.0, 0.6)
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert nodes.heard == 1
    other = await send(client, 0.0, 0.3)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "clip_conflict")


async def test_a_long_piece_is_cut_and_its_clips_can_be_read_again(client: httpx.AsyncClient) -> None:
    query: dict[str, Any] = {"start_s": 10, "created_at": AT, "format": "s16le"}
    answer = await client.post("/v1/streams/s1/audio", params=query, content=pcm(0.6, 5.0))
    assert answer.status_code == 200
    assert [clip["start_s"] for clip in answer.json()["clips"]] == [10.0, 11.5, 13.0]
    assert answer.json()["stream"]["action"] == "review"
    page = (await client.get("/v1/streams/s1/clips", params={"limit": 2})).json()["clips"]
    assert [clip["start_s"] for clip in page] == [13.0, 11.5]
    rest = (await client.get("/v1/streams/s1/clips", params={"before_s": 11.5})).json()["clips"]
    assert [clip["start_s"] for clip in rest] == [10.0]


async def test_a_piece_that_broke_off_goes_on_where_it_was(client: httpx.AsyncClient, nodes: LoudIsHate) -> None:
    query: dict[str, Any] = {"start_s": 0, "created_at": AT, "format": "s16le"}
    nodes.dies_above = 0.15
    body = pcm(0.1, 20.0) + pcm(0.2, 1.0)
    first = await client.post("/v1/streams/s1/audio", params=query, content=body)
    assert first.status_code == 503
    stored = (await client.get("/v1/streams/s1")).json()["clips"]
    assert stored > 5
    nodes.heard, nodes.dies_above = 0, 2.0
    second = await client.post("/v1/streams/s1/audio", params=query, content=body)
    assert second.status_code == 200
    assert len(second.json()["clips"]) == second.json()["stream"]["clips"] == nodes.heard + stored
    nodes.heard = 0
    third = await client.post("/v1/streams/s1/audio", params=query, content=body)
    assert third.headers["Idempotency-Replayed"] == "true"
    assert nodes.heard == 0


@pytest.mark.parametrize(
    ("clip", "status", "param"),
    [
        ({}, 400, "start_s"),
        ({"start_s": -1, "created_at": AT}, 400, "start_s"),
        ({"start_s": "NaN", "created_at": AT}, 400, "start_s"),
        ({"start_s": 0, "created_at": "2026-11-01T10:00:00"}, 400, "created_at"),
        ({"start_s": 0, "created_at": "2126-11-01T10:00:00Z"}, 400, "created_at"),
        ({"start_s": 0, "created_at": AT, "language": "not a tag"}, 400, "language"),
        ({"start_s": 0, "created_at": AT, "extra": 1}, 400, "extra"),
        ({"start_s": 0, "created_at": AT}, 400, "media"),
        ({"start_s": 0, "created_at": AT, "media_base64": "%%%"}, 400, "media_base64"),
        ({"start_s": 0, "created_at": AT, "media_base64": base64.b64encode(b"x").decode()}, 422, None),
        ({"start_s": 0, "created_at": AT, "media_base64": base64.b64encode(wav(0.1, 0)).decode()}, 400, None),
    ],
)
async def test_a_bad_clip_is_refused_with_its_reason(
    client: httpx.AsyncClient, clip: dict[str, Any], status: int, param: str | None
) -> None:
    answer = await client.post("/v1/streams/s1/clips", json=clip)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param
    assert (await client.get("/v1/streams/s1")).status_code == 404


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ({"format": "s16le", "rate": "100"}, pcm(0.1)),
        ({"format": "s16le", "channels": "0"}, pcm(0.1)),
        ({"format": "mp3"}, pcm(0.1)),
        ({"format": "s16le"}, b"\0\0\0"),
        ({"format": "s16le"}, b""),
        ({"format": "f32le"}, np.array([np.nan], "<f4").tobytes()),
        ({"start_s": "-1", "format": "s16le"}, pcm(0.1)),
        ({"created_at": "2126-11-01T10:00:00Z", "format": "s16le"}, pcm(0.1)),
    ],
)
async def test_bad_sound_is_refused(client: httpx.AsyncClient, query: dict[str, str], body: bytes) -> None:
    params = {"start_s": "0", "created_at": AT} | query
    answer = await client.post("/v1/streams/s1/audio", params=params, content=body)
    assert answer.status_code == 400, answer.text


async def test_an_erased_stream_is_gone_and_stays_gone(client: httpx.AsyncClient) -> None:
    await send(client, 0.0, 0.6)
    assert (await client.delete("/v1/streams/s1")).status_code == 204
    assert (await client.get("/v1/streams/s1")).status_code == 404
    assert (await client.get("/v1/streams/s1/clips")).status_code == 404
    again = await send(client, 0.0, 0.6)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "stream_erased")
    assert (await client.delete("/v1/streams/never")).status_code == 404


async def test_without_streams_the_routes_say_so(tmp_path: Path) -> None:
    services = build_services(tmp_path)
    await services.records.start()
    async with client_of(create_app(services)) as client:
        answer = await send(client, 0.0, 0.1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "streams_off")
    await services.records.close()


def test_the_digest_is_that_of_the_samples() -> None:
    samples = np.linspace(-1, 1, 100, dtype=np.float32)
    assert sound_window(samples).sha256 == hashlib.sha256(samples.tobytes()).hexdigest()
