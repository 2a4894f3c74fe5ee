"""Expectations of the demo: facts about an answer that hold whatever the stand-in models score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from serve_app.demo.samples import SamplePost

LOCAL_WEIGHTS = {"clip": "pretrained", "xlmr": "pretrained", "vggish": "trained-here", "fusion": "trained-here"}
NODES = {"visual": "clip", "audio": "vggish", "text": "xlmr"}


@dataclass(frozen=True)
class Check:
    what: str
    passed: bool
    detail: str = ""


def check_post(sample: SamplePost, status_code: int, body: dict[str, Any]) -> list[Check]:
    """All that must be true of one answer."""
    checks = [Check(f"status {sample.status_code}", status_code == sample.status_code, f"got {status_code}")]
    if status_code != 200:
        error = body.get("error", {})
        told = bool(error.get("message")) and bool(error.get("code")) and bool(body.get("request_id"))
        return [*checks, Check("a clear error", told, str(error.get("message")))]
    statuses = {name: report["status"] for name, report in body["modalities"].items()}
    judged = {name for name, status in statuses.items() if status in ("ok", "partial")}
    checks.append(Check("modalities judged", judged == sample.judged, ", ".join(sorted(judged))))
    if sample.frames is not None:
        frames = body["modalities"]["visual"].get("frames")
        checks.append(Check(f"{sample.frames} frames", frames == sample.frames, f"got {frames}"))
    scores = body["category_scores"].values()
    checks.append(Check("seven scores that sum to 1", len(scores) == 7 and abs(sum(scores) - 1) < 1e-3))
    expected = {NODES[name]: LOCAL_WEIGHTS[NODES[name]] for name in sample.judged} | {"fusion": "trained-here"}
    weights = {node: model["weights"] for node, model in body["models"].items()}
    checks.append(Check("weights named", weights == expected, str(weights)))
    if sample.identified is not None:
        language = body.get("language") or {}
        right = language.get("identified") is True and str(language.get("tag")).startswith(sample.identified)
        checks.append(Check(f"language identified as {sample.identified}", right, str(language.get("tag"))))
    return checks


def check_contrast(what: str, near: float, far: float) -> Check:
    return Check(what, near > far, f"{near:.3f} against {far:.3f}")


def cosine(a: list[float], b: list[float]) -> float:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
