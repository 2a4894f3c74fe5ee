"""`parakh index build` from a directory of media: each file embedded in this process and indexed under its name.

The partition's name says bank and language; its content type and modality, where they are not `any`, say which files
and which of their vectors. A file that is refused costs itself alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from deployments.policy.policy import default_policy
from deployments.runtime.errors import InvalidInput, ModelError, ParakhError, PartitionConflict, TooLarge
from deployments.runtime.values import ContentType
from deployments.similarity.content import ANY, Bank, Content, IndexedModality, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.uses.entries import check_content, entries_of
from serve_app.config import AppConfig
from serve_app.files import MAX_TEXT_BYTES
from serve_app.index.offline import OfflineIndex, check_partition, opened
from serve_app.local_nodes import LocalNodes
from serve_app.pipeline import Pipeline
from serve_app.posts import MediaSource, Post
from serve_app.records import Records

MAX_CAPTION = 100_000


@dataclass
class MediaBuilt:
    indexed: dict[str, list[str]] = field(default_factory=dict)  # id -> partitions it is in now
    refused: dict[str, str] = field(default_factory=dict)  # file -> why
    seconds: float = 0.0

    @property
    def by_partition(self) -> Mapping[str, int]:
        names = [name for partitions in self.indexed.values() for name in partitions]
        return {name: names.count(name) for name in sorted(set(names))}


def build_from_media(
    config: AppConfig,
    key: PartitionKey,
    directory: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MediaBuilt:
    """Raises ModelError where a model is missing, PartitionConflict where a partition holds another encoder's vectors;
    RootLocked, IndexDamaged, InvalidInput.
    """
    _check_target(config, key)
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and not _hidden(path, directory))
    if not paths:
        raise InvalidInput(f"{directory} holds no files.")
    built = MediaBuilt()
    started = time.monotonic()
    config.data_dir.mkdir(parents=True, exist_ok=True)
    with opened(config.similarity.settings, create=True, maintain=True) as index:
        asyncio.run(_take_all(_Build(config, key, directory, index, built), paths, progress))
    built.seconds = time.monotonic() - started
    return built


async def _take_all(build: _Build, paths: Sequence[Path], progress: Callable[[int, int], None]) -> None:
    nodes = LocalNodes(build.config)
    records = await Records.open(build.config.records_url)
    try:
        pipeline = Pipeline(nodes, default_policy())
        for done, path in enumerate(paths, 1):
            await build.take(path, pipeline, records)
            progress(done, len(paths))
    finally:
        await records.close()
        await nodes.close()


@dataclass
class _Build:
    config: AppConfig
    key: PartitionKey
    directory: Path
    index: OfflineIndex
    built: MediaBuilt

    async def take(self, path: Path, pipeline: Pipeline, records: Records) -> None:
        name = path.relative_to(self.directory).as_posix()
        try:
            check_content(Content(name, ANY))  # before any encoder runs
            post, media, changed_at = self._read(path)
            content = await pipeline.describe(post, media)
            content = dataclasses.replace(content, id=name, created_at=changed_at, attributes={})
            content = _chosen(content, self.key)
            entries = entries_of(content, self.key.bank, self.config.similarity.settings)
            if not entries:
                raise InvalidInput("There is nothing in it to index.")
            await records.external.add(self.key.bank, [name])
            await asyncio.to_thread(self.index.service.contents.index, [content], self.key.bank)
            self.built.indexed[name] = [str(entry.key) for entry in entries]
        except (ModelError, PartitionConflict, IndexDamaged):  # every other file would fail too
            raise
        except OSError as error:
            self.built.refused[name] = f"The file cannot be read: {error.strerror or type(error).__name__}."
        except ParakhError as error:
            self.built.refused[name] = str(error)

    def _read(self, path: Path) -> tuple[Post, MediaSource | None, float]:
        """With when the file was last changed."""
        is_text = path.suffix.lower() == ".txt"
        limit = MAX_TEXT_BYTES if is_text else self.config.media.settings.max_bytes
        status = path.stat()
        if status.st_size > limit:
            raise TooLarge(f"The file is larger than {limit} bytes.")
        data = path.read_bytes()
        post = Post(
            post_id="file",
            author_id="local",
            content_type=ContentType.TEXT if is_text else ContentType.VIDEO,  # what media is, its decoding tells
            created_at=datetime.now(UTC),
            language=None if self.key.language == ANY else self.key.language,
            caption=_text(data) if is_text else None,
        )
        return post, None if is_text else MediaSource(data=data), status.st_mtime


def _check_target(config: AppConfig, key: PartitionKey) -> None:
    """Raises InvalidInput. The modality `any` means all of them."""
    if key.bank == Bank.SHOWN:
        raise InvalidInput("What a feed showed is told by the feed (POST /v1/shown).", param="partition")
    modality = IndexedModality.VISUAL if key.modality == ANY else key.modality
    check_partition(dataclasses.replace(key, modality=str(modality)), config.similarity.settings)


def _chosen(content: Content, key: PartitionKey) -> Content:
    """What of it the partition's name asks for. Raises InvalidInput for a file of another type."""
    if key.content_type not in (ANY, content.content_type):
        raise InvalidInput(f"It is of type {content.content_type}, not {key.content_type}.")
    if key.modality == ANY:
        return content
    vectors = {modality: vector for modality, vector in content.vectors.items() if modality == key.modality}
    signatures = content.signatures if key.modality == IndexedModality.PDQ else None
    return dataclasses.replace(content, vectors=vectors, signatures=signatures)


def _hidden(path: Path, directory: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(directory).parts)


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput("The text file is not UTF-8.") from None
    if len(text) > MAX_CAPTION:
        raise TooLarge(f"The text is longer than {MAX_CAPTION} characters.")
    return text
