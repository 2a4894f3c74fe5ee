"""OpenAI's moderation shape on both sides of our own: inputs become posts, verdicts become results.

Names: our seven categories, and OpenAI's where one of ours truly means the same (`harassment` is `abusive`, `illicit`
is `dangerous`; `hate`, `sexual` and `violence` are shared). OpenAI's other names are left out rather than answered
with an invented zero.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.runtime.errors import InvalidInput, TooLarge
from deployments.runtime.values import ContentType, Modality
from serve_app.http.body import decode_data_url, is_data_url, is_http_url
from serve_app.http.schemas import AudioPart, ImagePart, ModerationResult, Part, TextPart, UrlObject
from serve_app.http.settings import HttpSettings
from serve_app.posts import MediaSource, Post, Verdict

OPENAI_NAMES = {"harassment": "abusive", "illicit": "dangerous"}


@dataclass(frozen=True)
class Question:
    """One result's worth of input."""

    post: Post
    media: MediaSource | None


def questions(given: str | Sequence[str] | Sequence[Part], settings: HttpSettings) -> list[Question]:
    """Raises InvalidInput, TooLarge."""
    if isinstance(given, str):
        return [_text_question(given, "input", settings)]
    if not given:
        raise InvalidInput("input is empty.", param="input")
    if len(given) > settings.max_inputs:
        raise InvalidInput(f"input has more than {settings.max_inputs} items.", param="input")
    texts = [item for item in given if isinstance(item, str)]
    if texts:
        return [_text_question(text, f"input.{index}", settings) for index, text in enumerate(texts)]
    return [_parts_question([part for part in given if not isinstance(part, str)], settings)]


def _text_question(text: str, param: str, settings: HttpSettings) -> Question:
    _check_text(text, param, settings)
    return Question(_post(ContentType.TEXT, text), None)


def _check_text(text: str, param: str, settings: HttpSettings) -> None:
    if not text.strip():
        raise InvalidInput(f"{param} is empty.", param=param)
    if len(text) > settings.max_caption_chars:
        raise TooLarge(f"{param} is longer than {settings.max_caption_chars} characters.", param=param)


def _parts_question(parts: Sequence[Part], settings: HttpSettings) -> Question:
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    media = [(index, part) for index, part in enumerate(parts) if not isinstance(part, TextPart)]
    if len(media) > 1:
        raise InvalidInput("Send at most one image, video or sound in one request.", param=f"input.{media[1][0]}")
    caption = "\n".join(texts)
    if texts:
        _check_text(caption, "input", settings)
    if not media:
        return Question(_post(ContentType.TEXT, caption), None)
    index, part = media[0]
    content_type, url = _media_of(part)
    return Question(_post(content_type, caption or None), _source(url, f"input.{index}.{part.type}", settings))


def _media_of(part: Part) -> tuple[ContentType, str]:
    assert not isinstance(part, TextPart)
    if isinstance(part, ImagePart):
        return ContentType.IMAGE, _url(part.image_url)
    if isinstance(part, AudioPart):
        return ContentType.AUDIO, _url(part.audio_url)
    return ContentType.VIDEO, _url(part.video_url)


def _url(given: UrlObject | str) -> str:
    return given if isinstance(given, str) else given.url


def _source(url: str, param: str, settings: HttpSettings) -> MediaSource:
    if is_data_url(url):
        return MediaSource(data=decode_data_url(url, max_bytes=settings.max_media_bytes, param=param))
    if is_http_url(url):
        return MediaSource(url=url)
    raise InvalidInput(f"{param} must be an http, https or data: URL.", param=param)


def _post(content_type: ContentType, caption: str | None) -> Post:
    return Post(
        post_id=f"modr-{uuid.uuid4().hex}",
        author_id="moderations",
        content_type=content_type,
        created_at=datetime.now(UTC),
        caption=caption,
    )


def result_of(question: Question, verdict: Verdict) -> ModerationResult:
    scores = dict(verdict.category_scores)
    flagged = verdict.decision.action != "allow"
    heard = _input_types(question.post.content_type, verdict)
    names = {name: name for name in scores} | {theirs: ours for theirs, ours in OPENAI_NAMES.items() if ours in scores}
    return ModerationResult(
        flagged=flagged,
        categories={name: flagged and _is_hit(ours, verdict) for name, ours in names.items()},
        category_scores={name: scores[ours] for name, ours in names.items()},
        category_applied_input_types=dict.fromkeys(names, heard),
        severity={name: verdict.severity[ours] for name, ours in names.items() if ours != "safe"},
        nsfw_score=verdict.nsfw_score,
        decision=verdict.decision,
        modalities=verdict.modalities,
        segments=verdict.segments,
        evidence=verdict.evidence,
        matches=verdict.matches,
        similarity=verdict.similarity,
        models=verdict.models,
        language=verdict.language,
    )


def _is_hit(category: str, verdict: Verdict) -> bool:
    """The category that decided, and any other that holds more than half of the probability; never `safe`."""
    if category == "safe":
        return False
    return category == verdict.decision.category or verdict.category_scores[category] > 0.5


def _input_types(content_type: ContentType, verdict: Verdict) -> list[str]:
    visual = "image" if content_type in (ContentType.IMAGE, ContentType.GIF) else "video"
    names = {Modality.TEXT: "text", Modality.VISUAL: visual, Modality.AUDIO: "audio"}
    used = {kind for kind, report in verdict.modalities.items() if report.status in ("ok", "partial")}
    return [name for kind, name in names.items() if kind in used]
