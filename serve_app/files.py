"""`parakh moderate`: local files in, verdicts out, through the same pipeline as the server but without Ray.

A `.txt` file is a text post; anything else is media, whatever its extension says.
"""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from deployments.policy.policy import Policy, default_policy
from deployments.runtime.errors import InvalidInput, ModelError, ParakhError, TooLarge
from deployments.runtime.values import ContentType
from serve_app.config import AppConfig
from serve_app.local_nodes import LocalNodes
from serve_app.pipeline import Pipeline
from serve_app.posts import MediaSource, Post, Verdict

MAX_TEXT_BYTES = 400_000


@dataclass(frozen=True)
class Outcome:
    """One file's verdict, or why there is none."""

    source: str
    verdict: Verdict | None = None
    error: ParakhError | None = None


async def moderate_files(
    config: AppConfig, paths: Sequence[Path], *, caption: str | None = None, language: str | None = None
) -> AsyncIterator[Outcome]:
    """One outcome per path, in order. Raises ModelError where a model cannot be loaded."""
    nodes = LocalNodes(config)
    pipeline = Pipeline(nodes, Policy.load(config.policy) if config.policy else default_policy())
    try:
        for path in paths:
            try:
                post, media = _read(path, caption, language, config.media.settings.max_bytes)
                yield Outcome(str(path), verdict=await pipeline.moderate(post, media))
            except ModelError:
                raise
            except (ParakhError, ValidationError, OSError) as error:
                yield Outcome(str(path), error=_told(error))
    finally:
        await nodes.close()


def _read(path: Path, caption: str | None, language: str | None, max_bytes: int) -> tuple[Post, MediaSource | None]:
    is_text = path.suffix.lower() == ".txt"
    limit = MAX_TEXT_BYTES if is_text else max_bytes
    if path.stat().st_size > limit:
        raise TooLarge(f"The file is larger than {limit} bytes.")
    data = path.read_bytes()
    if is_text:
        caption, media = _decoded_text(data), None
    else:
        media = MediaSource(data=data)
    post = Post(
        post_id="file",
        author_id="local",
        content_type=ContentType.TEXT if is_text else _content_type(path),
        created_at=datetime.now(UTC),
        language=language,
        caption=caption,
    )
    return post, media


def _decoded_text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput("The text file is not UTF-8.") from None


def _content_type(path: Path) -> ContentType:
    """A guess for the record only: what the bytes are is found by decoding them."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    if kind == "image/gif":
        return ContentType.GIF
    return {"image": ContentType.IMAGE, "audio": ContentType.AUDIO}.get(kind.split("/")[0], ContentType.VIDEO)


def _told(error: ParakhError | ValidationError | OSError) -> ParakhError:
    if isinstance(error, ParakhError):
        return error
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return InvalidInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return InvalidInput(f"The file cannot be read: {error.strerror or type(error).__name__}.")
