"""`parakh index backup`, `backups` and `restore`: a live generation into a backup, and out of one."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import ValidationError

from deployments.runtime.errors import InvalidInput, NotFound
from deployments.similarity.content import PartitionKey
from deployments.similarity.embedded.backup import BackupInfo
from deployments.similarity.embedded.backup import backup as back_up
from deployments.similarity.embedded.backup import backups as list_backups
from deployments.similarity.embedded.backup import restore as fetch_backup
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.catalog import Generation
from deployments.similarity.partitions.generations import Spec
from deployments.similarity.settings import IndexSettings
from serve_app.index.offline import OfflineIndex, Share, check_encoder, check_partition, encoder_of, opened


def backup(
    settings: SimilaritySettings, key: PartitionKey, destination: str, keep: int | None, progress: Share
) -> BackupInfo:
    """The live generation, to a directory or an s3:// URL."""
    with opened(settings) as offline, offline.partitions.using(key) as index:
        if not isinstance(index, EmbeddedIndex):
            raise InvalidInput("Milvus has backups of its own: milvus-backup.")
        return back_up(index, destination, keep=keep, progress=lambda share: progress(f"backing up {key}", share))


def restore(
    settings: SimilaritySettings, key: PartitionKey, source: str, name: str | None, progress: Share
) -> tuple[Generation, BackupInfo]:
    """The live generation is that of the backup on return; what was live is kept as previous."""
    if settings.backend != "embedded":
        raise InvalidInput("Milvus has backups of its own: milvus-backup.")
    there = [info for info in list_backups(source) if name in (None, info.name)]
    if not there:
        raise NotFound(f"There is no backup{f' {name}' if name else ''} in {source}.")
    info = there[-1]
    with opened(settings, create=True) as offline:
        if key not in offline.partitions.keys_of():
            check_partition(key, settings)
        fetched: list[BackupInfo] = []

        def fill(directory: Path) -> None:
            inner = directory / "restored"  # swept with the directory, should this process die
            fetched.append(
                fetch_backup(source, inner, name=info.name, progress=lambda share: progress(f"restoring {key}", share))
            )
            for path in inner.iterdir():
                shutil.move(path, directory / path.name)
            inner.rmdir()

        generation = offline.partitions.restore(key, _spec(offline, key, info), fill)
        return generation, fetched[0]


def _spec(offline: OfflineIndex, key: PartitionKey, info: BackupInfo) -> Spec:
    """What the backup says that it is, and otherwise the partition's own settings. Raises InvalidInput."""
    encoder = encoder_of(info.identity["encoder"])
    check_encoder(key, encoder)
    known = offline.partitions.info(key).settings if key in offline.partitions.keys_of() else None
    base = known or offline.settings.index_of(str(key), key.modality)
    fixed = {"metric": info.identity["metric"], "row_dtype": _row_dtype(info.identity["row_dtype"], base)}
    try:
        settings = IndexSettings.model_validate({**base.model_dump(), **fixed})
    except ValidationError:
        raise InvalidInput(
            f"The backup {info.name} is of metric {info.identity['metric']}, which {base.index_type}, the index type "
            f"of {key}, does not have."
        ) from None
    return Spec(encoder, int(info.identity["dimension"]), settings)


def _row_dtype(stored: str, base: IndexSettings) -> str:
    """Binary rows are neither."""
    return stored if stored in ("float16", "float32") else base.row_dtype
