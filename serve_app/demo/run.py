"""The demo itself: prepare models, start the server, post the samples, print what came back, check it."""

from __future__ import annotations

import base64
import json
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve_app.config import AppConfig
from serve_app.demo import samples
from serve_app.demo.checks import Check, check_contrast, check_post, cosine
from serve_app.demo.samples import SamplePost
from serve_app.launch import ServerProcess, write_config
from serve_app.models import prepare

INDEXED_WITHIN_S = 1.0


def run_demo(config_file: Path, config: AppConfig, *, port: int, once: bool, console: Console) -> bool:
    """True where every expectation held. Without `once` the server stays until Ctrl-C."""
    with console.status("Preparing models") as status:
        prepare(config, lambda step, _: status.update(f"Preparing models: {step}"))
    file = write_config(config_file, data_dir=config.data_dir, port=port)
    with ServerProcess(file, port=port, log=config.data_dir / "serve.log") as server:
        started = time.monotonic()
        with console.status("Starting Ray Serve") as status:
            server.wait_ready(
                tick=lambda: status.update(
                    f"Starting Ray Serve ({time.monotonic() - started:.0f} s; log: {server.log})"
                )
            )
        console.print(f"Ready after {_since(started)} at {server.url}")
        passed = show(server.url, console)
        console.print(config.profile_note, style="italic")
        if not once:
            _stay(server.url, console)
        else:
            console.print("Stopping the server")
    return passed


def show(url: str, console: Console) -> bool:
    """Post every sample, print the verdicts and the checks."""
    with httpx.Client(base_url=url, timeout=120) as client:
        answers = [(sample, *_post(client, sample)) for sample in samples.posts()]
        console.print(_verdicts(answers))
        checks = [(sample.name, check) for sample, code, body in answers for check in check_post(sample, code, body)]
        checks += [("embeddings", check) for check in _contrasts(client)]
        checks += [("similarity", check) for check in _recognised(client, console)]
    for name, check in checks:
        mark = "[green]ok  [/]" if check.passed else "[bold red]FAIL[/]"
        detail = f" ({check.detail})" if check.detail else ""
        console.print(mark, Text(f"{name}: {check.what}{detail}"), highlight=False)
    return all(check.passed for _, check in checks)


def _recognised(client: httpx.Client, console: Console) -> list[Check]:
    """Post the photo again, once in other bytes and once in the same."""
    time.sleep(INDEXED_WITHIN_S)
    again = SamplePost(
        "photo, re-encoded", "image", media=samples.re_encoded(samples.photo("chelsea")), filename="a.jpg"
    )
    same = SamplePost("photo, the same file", "image", media=samples.photo("chelsea"), filename="b.png")
    checks = []
    for sample in (again, same):
        _, body = _post(client, sample)
        found = next((match for match in body.get("matches", []) if match["use"] == "duplicate"), None)
        how = f"found by {found['stage']}" if found else "not found"
        reused = ", no encoder ran" if body.get("reused_from") else ""
        checks.append(Check(f"{sample.name}: known as a duplicate", found is not None, how + reused))
    console.print(_matches(body.get("matches", [])))
    return checks


def _matches(matches: list[dict[str, Any]]) -> Table:
    table = Table(title="Matches of the last post")
    for heading in ("use", "id", "found by", "cosine or bits", "threshold"):
        table.add_column(heading)
    for match in matches:
        score = match["cosine"] if match["cosine"] is not None else match["distance"]
        shown = ["" if value is None else f"{value:.3g}" for value in (score, match["threshold"])]
        table.add_row(match["use"], match["id"], match["stage"], *shown)
    return table


def _post(client: httpx.Client, sample: SamplePost) -> tuple[int, dict[str, Any]]:
    post = {
        "post_id": f"demo-{uuid.uuid4().hex[:12]}",
        "author_id": "demo",
        "content_type": sample.content_type,
        "created_at": datetime.now(UTC).isoformat(),
        "caption": sample.caption,
        "language": sample.language,
    }
    if sample.media is None:
        answer = client.post("/v1/posts", json=post)
    else:
        upload = {"media": (sample.filename, sample.media)}
        answer = client.post("/v1/posts", data={"post": json.dumps(post)}, files=upload)
    return answer.status_code, answer.json()


def _contrasts(client: httpx.Client) -> list[Check]:
    near, far = samples.PARAPHRASE, samples.UNRELATED
    english, hindi, unrelated = _embed(client, "xlmr", [*near, far])
    cat, coffee = samples.photo("chelsea"), samples.photo("coffee")
    picture, edited, other = _embed(client, "clip", [_data_url(p) for p in (cat, samples.edited(cat), coffee)])
    return [
        check_contrast(
            "a sentence is nearer to its Hindi translation than to another sentence",
            cosine(english, hindi),
            cosine(english, unrelated),
        ),
        check_contrast(
            "a photo is nearer to its edited copy than to another photo",
            cosine(picture, edited),
            cosine(picture, other),
        ),
    ]


def _embed(client: httpx.Client, model: str, inputs: list[str]) -> list[list[float]]:
    answer = client.post("/v1/embeddings", json={"model": model, "input": inputs})
    answer.raise_for_status()
    return [row["embedding"] for row in answer.json()["data"]]


def _data_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _verdicts(answers: list[tuple[SamplePost, int, dict[str, Any]]]) -> Table:
    table = Table(title="Verdicts", show_lines=True)
    for heading in ("post", "answer", "nsfw", "scores above 5 %", "judged", "language", "age"):
        table.add_column(heading, overflow="fold")
    for sample, code, body in answers:
        if code != 200:
            error = body.get("error", {})
            table.add_row(sample.name, f"{code} {error.get('code')}", "", Text(str(error.get("message"))), "", "", "")
            continue
        scores = sorted(body["category_scores"].items(), key=lambda pair: -pair[1])
        judged = [f"{name} {report['status']}" for name, report in body["modalities"].items()]
        table.add_row(
            sample.name,
            body["decision"]["action"],
            f"{body['nsfw_score']:.3f}",
            "\n".join(f"{name} {score:.2f}" for name, score in scores if score > 0.05),
            "\n".join(line for line in judged if not line.endswith("missing")),
            (body.get("language") or {}).get("tag", ""),
            f"{body['age_s']:.2f} s",
        )
    return table


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.0f} s"


def _stay(url: str, console: Console) -> None:
    example = json.dumps({"input": samples.THREAT_HI}, ensure_ascii=False)
    console.print(f"\nThe server stays up at {url} (Ctrl-C stops it; API description at {url}/docs). Try:\n")
    post = json.dumps(
        {
            "post_id": "my-first",
            "author_id": "me",
            "content_type": "image",
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    for line in (
        f"curl {url}/readyz",
        f"curl {url}/v1/moderations -H 'Content-Type: application/json' -d '{example}'",
        f"curl {url}/v1/posts -F 'post={post};type=application/json' -F media=@photo.jpg",
        f"curl {url}/v1/posts/my-first\n",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("Stopping the server")
