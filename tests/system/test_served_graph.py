"""The whole application as a user runs it: real processes, real sockets, real media, real deaths."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from openai import OpenAI
from rich.console import Console

from benchmarks.posts import make_video
from serve_app.demo.checks import cosine
from serve_app.demo.run import show
from serve_app.demo.samples import PARAPHRASE, THREAT_HI, UNRELATED, photo, re_encoded
from tests.system.conftest import ROOT, Server

PROMISED_FORWARD_AGE_S = 30


def new_post(post_id: str, content_type: str = "text", caption: str | None = "hello there") -> dict[str, Any]:
    return {
        "post_id": post_id,
        "author_id": "system-test",
        "content_type": content_type,
        "created_at": datetime.now(UTC).isoformat(),
        "caption": caption,
    }


@pytest.fixture
def http(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=120)


def test_the_demo_holds_every_expectation(server: Server) -> None:
    assert show(server.url, Console(width=140))


def test_a_real_video_gets_a_verdict_from_eyes_ears_and_words(http: httpx.Client) -> None:
    post = json.dumps(new_post("video-1", "video", "a test picture that moves"))
    answer = http.post("/v1/posts", data={"post": post}, files={"media": ("clip.mp4", make_video(seconds=6))})
    verdict = answer.raise_for_status().json()
    assert {name: report["status"] for name, report in verdict["modalities"].items()} == {
        "visual": "ok",
        "audio": "ok",
        "text": "ok",
    }
    assert verdict["modalities"]["visual"]["frames"] == 6
    assert http.get("/v1/posts/video-1").json() == verdict


def upload(http: httpx.Client, post_id: str, picture: bytes) -> dict[str, Any]:
    post = json.dumps(new_post(post_id, "image", None))
    answer = http.post("/v1/posts", data={"post": post}, files={"media": ("photo", picture)})
    verdict: dict[str, Any] = answer.raise_for_status().json()
    return verdict


def test_a_re_upload_is_recognised_until_its_original_is_erased(http: httpx.Client) -> None:
    original = photo("coffee")
    first = upload(http, "coffee-1", original)
    assert first["similarity"]["status"] == "ok"
    time.sleep(1)  # an acknowledged post is findable within a second
    second = upload(http, "coffee-2", re_encoded(original))
    assert [(match["use"], match["id"], match["stage"]) for match in second["matches"]] == [
        ("duplicate", "coffee-1", "pdq")
    ]
    exact = upload(http, "coffee-3", original)
    assert exact["reused_from"] == {"post_id": "coffee-1", "revision": 0}
    time.sleep(1)
    hits = http.post("/v1/search", json={"post_id": "coffee-1"}).raise_for_status().json()["results"]
    assert {"coffee-2", "coffee-3"} <= {hit["id"] for hit in hits}
    for post_id in ("coffee-1", "coffee-2", "coffee-3"):
        assert http.delete(f"/v1/posts/{post_id}").status_code == 204
    time.sleep(1)  # and an erased one is gone within a second
    assert upload(http, "coffee-4", original)["matches"] == []


def test_the_unmodified_openai_client_is_served(server: Server) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none needed")
    result = client.moderations.create(input=THREAT_HI).results[0]
    assert set(result.categories.model_dump()) == set(result.category_scores.model_dump())
    near, translation, far = client.embeddings.create(model="xlmr", input=[*PARAPHRASE, UNRELATED]).data
    assert cosine(near.embedding, translation.embedding) > cosine(near.embedding, far.embedding)


def test_the_readmes_python_runs_as_printed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    exec(compile(code.replace("http://127.0.0.1:8000", server.url), "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith(("True ", "False "))


def test_a_base64_picture_is_judged(http: httpx.Client) -> None:
    pixel = base64.b64encode(bytes.fromhex(PNG_1X1)).decode()
    body = new_post("pixel", "image", None) | {"media_base64": pixel}
    assert http.post("/v1/posts", json=body).json()["modalities"]["visual"] == {"status": "ok", "frames": 1}


PNG_1X1 = (
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f00050001ff"
    "89993d1d0000000049454e44ae426082"
)


def test_a_livestream_is_heard_clip_by_clip_and_its_state_survives(http: httpx.Client, wav: bytes) -> None:
    for start_s in (20, 0):
        clip = json.dumps({"start_s": start_s, "created_at": datetime.now(UTC).isoformat(), "language": "hi"})
        answer = http.post("/v1/streams/live-1/clips", data={"clip": clip}, files={"media": ("clip.wav", wav)})
        told = answer.raise_for_status().json()
        assert told["clip"]["model"]["weights"] == "trained-here"
        assert told["clip"]["fallback"] is True
    assert told["stream"]["clips"] == 2
    assert [window["start_s"] for window in told["stream"]["windows"]] == [0, 20]
    piece: dict[str, Any] = {
        "start_s": 40,
        "created_at": datetime.now(UTC).isoformat(),
        "format": "s16le",
        "rate": 8000,
    }
    answer = http.post("/v1/streams/live-1/audio", params=piece, content=bytes(2 * 8000 * 25))  # resampled, in 2 clips
    assert [clip["start_s"] for clip in answer.raise_for_status().json()["clips"]] == [40, 60]
    assert http.get("/v1/streams/live-1").json()["clips"] == 4


def test_every_node_made_a_real_pass_lately(http: httpx.Client) -> None:
    time.sleep(PROMISED_FORWARD_AGE_S + 5)  # with no traffic at all, the nodes must have tried themselves
    body = http.get("/readyz").raise_for_status().json()
    ages = {
        node["node"]: node["last_forward_age_s"] for node in body["nodes"] if node["last_forward_age_s"] is not None
    }
    assert set(ages) == {"media", "clip", "vggish", "xlmr", "fusion", "similarity", "wav2vec2"}
    assert all(age <= PROMISED_FORWARD_AGE_S for age in ages.values()), ages


def test_kill_9_of_an_encoder_under_load_gives_no_wrong_answer(server: Server, http: httpx.Client) -> None:
    """One replica of the text node, killed while six clients ask: every answer comes, and is the right one."""
    texts = [f"message number {n}: नमस्ते दुनिया" for n in range(8)]
    expected = {text: _scores(http, text) for text in texts}
    (victim,) = server.replica_pids("xlmr")

    async def ask_all() -> Counter[str]:
        outcomes: Counter[str] = Counter()
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:

            async def ask(number: int) -> None:
                for i in range(30):
                    text = texts[(number + i) % len(texts)]
                    answer = await client.post("/v1/moderations", json={"input": text})
                    outcomes[_outcome(answer, expected[text])] += 1

            async def kill() -> None:
                await asyncio.sleep(0.5)
                os.kill(victim, signal.SIGKILL)

            await asyncio.gather(kill(), *(ask(number) for number in range(6)))
        return outcomes

    assert asyncio.run(ask_all()) == {"right": 180}
    assert server.replica_pids("xlmr") != [victim]


def _scores(http: httpx.Client, text: str) -> dict[str, float]:
    result = http.post("/v1/moderations", json={"input": text}).raise_for_status().json()["results"][0]
    scores: dict[str, float] = result["category_scores"]
    return scores


def _outcome(answer: httpx.Response, expected: dict[str, float]) -> str:
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    result = answer.json()["results"][0]
    if result["modalities"]["text"]["status"] != "ok":
        return "modality failed"
    close = all(abs(result["category_scores"][name] - score) < 0.02 for name, score in expected.items())
    return "right" if close else "wrong"


def test_a_stuck_encoder_degrades_and_does_not_unready(server: Server, http: httpx.Client) -> None:
    (pid,) = server.replica_pids("vggish")
    os.kill(pid, signal.SIGSTOP)
    try:
        body = _until(http, lambda body: body["status"] == "degraded", timeout_s=30)
        assert next(node for node in body["nodes"] if node["node"] == "vggish")["state"] != "ready"
        assert http.post("/v1/posts", json=new_post("while-degraded")).status_code == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    _until(http, lambda body: body["status"] == "ready", timeout_s=120)


def _until(http: httpx.Client, condition: Any, timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    body: dict[str, Any] = {}
    while time.monotonic() < deadline:
        body = http.get("/readyz").json()
        if condition(body):
            return body
        time.sleep(1)
    raise AssertionError(f"not within {timeout_s} s: {body}")


def test_a_killed_server_forgets_nothing_that_it_accepted(server: Server, http: httpx.Client) -> None:
    """Posts accepted with 202, then kill -9 of everything, then a restart: each has exactly one verdict."""
    answered = http.post("/v1/posts", json=new_post("answered")).raise_for_status().json()
    accepted = [f"accepted-{n}" for n in range(20)]
    for post_id in accepted:
        answer = http.post("/v1/posts", json=new_post(post_id), headers={"Prefer": "respond-async"})
        assert answer.status_code == 202
    server.process.kill()
    server.start()
    assert http.get("/v1/posts/answered").json() == answered
    for post_id in accepted:
        verdict = _verdict(http, post_id)
        assert verdict["post_id"] == post_id
        assert http.post("/v1/posts", json=new_post(post_id) | {"created_at": verdict["created_at"]}).json() == verdict


def _verdict(http: httpx.Client, post_id: str, timeout_s: float = 90) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = http.get(f"/v1/posts/{post_id}")
        if answer.status_code == 200:
            body: dict[str, Any] = answer.json()
            return body
        assert answer.status_code == 202, answer.text
        time.sleep(0.5)
    raise AssertionError(f"no verdict of {post_id} within {timeout_s} s")
