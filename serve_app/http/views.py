"""Values to JSON, where it is more than dumping them."""

from __future__ import annotations

from typing import Any

from deployments.similarity.content import Use
from serve_app.http.schemas import ModerationBody, PostStatusBody
from serve_app.posts import Verdict
from serve_app.records.values import PostState


def verdict_json(verdict: Verdict, *, entries: bool) -> dict[str, Any]:
    """`entries`: with the entries of hash lists that matched; else with the lists' names alone."""
    return _shown(verdict.model_dump(mode="json"), entries)


def moderation_json(body: ModerationBody, *, entries: bool) -> dict[str, Any]:
    shown = body.model_dump(mode="json")
    return shown | {"results": [_shown(result, entries) for result in shown["results"]]}


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


def _shown(verdict: dict[str, Any], entries: bool) -> dict[str, Any]:
    shown = _without_empty_reports(verdict)
    return shown if entries else shown | {"matches": [_without_entry(match) for match in shown["matches"]]}


def _without_entry(match: dict[str, Any]) -> dict[str, Any]:
    if match["use"] != Use.KNOWN_BAD:
        return match
    name = match["attributes"].get("list")
    return match | {"id": name or "", "distance": None, "attributes": {"list": name} if name else {}}


def _without_empty_reports(shown: dict[str, Any]) -> dict[str, Any]:
    """A modality's report says only what is known of it."""
    modalities = {
        name: {key: value for key, value in report.items() if value is not None}
        for name, report in shown["modalities"].items()
    }
    return shown | {"modalities": modalities}
