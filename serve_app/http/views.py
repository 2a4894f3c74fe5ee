"""Values to JSON, where it is more than dumping them."""

from __future__ import annotations

from typing import Any

from serve_app.http.schemas import ModerationBody, PostStatusBody
from serve_app.posts import Verdict
from serve_app.records.values import PostState


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    return _without_empty_reports(verdict.model_dump(mode="json"))


def moderation_json(body: ModerationBody) -> dict[str, Any]:
    shown = body.model_dump(mode="json")
    return shown | {"results": [_without_empty_reports(result) for result in shown["results"]]}


def status_json(state: PostState) -> dict[str, Any]:
    shown = PostStatusBody.model_validate(
        {
            "post_id": state.post_id,
            "revision": state.revision,
            "status": "running" if state.status == "done" else state.status,
            "received_at": state.received_at,
            "attempts": state.attempts,
            "error": state.error,
        }
    )
    return shown.model_dump(mode="json")


def _without_empty_reports(shown: dict[str, Any]) -> dict[str, Any]:
    """A modality's report says only what is known of it."""
    modalities = {
        name: {key: value for key, value in report.items() if value is not None}
        for name, report in shown["modalities"].items()
    }
    return shown | {"modalities": modalities}
