"""Backups of an index, made while it serves, and back.

    rows/<backup>.db            the rows, of one moment
    segments/<name>/<file>      segment files: immutable, so that a backup sends only those not there yet
    backups/<backup>.json       what belongs to it, with the SHA-256 of every file: written last

What has no manifest is no backup, however much of it is there. Rows are the truth: a backup is made of sound rows that
add up, and refused back where they do not; a damaged segment is left out of what is restored, and built anew from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.runtime.errors import InvalidInput, NotFound
from deployments.similarity.embedded.backup_places import BackupPlace, open_place
from deployments.similarity.embedded.high_water import HighWater, Mark, flush
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.embedded.segment import sha256_of
from deployments.similarity.embedded.store import HIGH_WATER, ROWS, RowStore
from deployments.similarity.errors import IndexDamaged

logger = logging.getLogger(__name__)

FORMAT = 1
_SEGMENTS = "segments"


@dataclass(frozen=True)
class BackupInfo:
    """A whole backup. identity: metric, dimension, row_dtype and encoder of the index."""

    name: str
    created_at: float  # Unix seconds
    items: int
    bytes: int
    identity: Mapping[str, str]
    sent_bytes: int = 0  # of them, those that were not there yet
    skipped: tuple[str, ...] = ()  # segments that are not in it, or were damaged: built anew from the rows


def backup(
    index: EmbeddedIndex,
    destination: str | BackupPlace,
    *,
    keep: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> BackupInfo:
    """Copy the index, as it is at one moment, to a directory or an s3:// URL. One backup at a time to a destination.

    keep: only so many backups stay there. Needs room for a copy of the rows beside the index.

    Raises IndexDamaged where the rows are not sound, BackupPlaceUnavailable, InvalidInput.
    """
    if keep is not None and keep < 1:
        raise InvalidInput("A backup keeps at least one: the one it makes.", param="keep")
    place = open_place(destination) if isinstance(destination, str) else destination
    staging = Path(tempfile.mkdtemp(prefix=".backup-", dir=index.directory / _SEGMENTS))
    try:
        files, mark, skipped = _staged(index, staging)
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{mark.commit:012d}-{uuid.uuid4().hex[:8]}"
        files[f"rows/{name}.db"] = files.pop(ROWS)
        sent = 0
        for done, (key, path) in enumerate(sorted(files.items(), reverse=True)):
            if place.size(key) != path.stat().st_size:
                place.put(key, path)
                sent += path.stat().st_size
            progress((done + 1) / (len(files) + 1))
        manifest = {
            "format": FORMAT,
            "name": name,
            "created_at": time.time(),
            "identity": index.store.identity(),
            "mark": [mark.commit, mark.last_seq, mark.items, mark.digest],
            "files": {key: [sha256_of(path), path.stat().st_size] for key, path in files.items()},
            "skipped": skipped,
        }
        (staging / "manifest").write_text(json.dumps({"sha256": _digest(manifest), **manifest}))
        place.put(f"backups/{name}.json", staging / "manifest")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if keep is not None:
        _forget(place, keep)
    progress(1.0)
    return _info(manifest, sent)


def backups(source: str | BackupPlace) -> list[BackupInfo]:
    """Those that are whole by their manifests, oldest first. Raises BackupPlaceUnavailable."""
    place = open_place(source) if isinstance(source, str) else source
    manifests = (_manifest(place, key) for key in place.keys("backups"))
    return [_info(manifest) for manifest in manifests if manifest is not None]


def restore(
    source: str | BackupPlace,
    directory: Path,
    *,
    name: str | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> BackupInfo:
    """A backup (the newest, if none is named) as the directory of an index that is opened as usual.

    `directory` must be empty or not there; it appears whole or not at all.

    Raises:
        InvalidInput: the directory holds something.
        NotFound: there is no such backup.
        IndexDamaged: its rows, or its manifest, are not what was written.
    """
    place = open_place(source) if isinstance(source, str) else source
    if directory.exists() and any(directory.iterdir()):
        raise InvalidInput(f"{directory} is not empty: a backup is restored into a directory of its own.")
    manifest = _chosen(place, name)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".restoring-", dir=directory.parent))
    try:
        skipped = _fetched(place, manifest, staging, progress)
        _checked(staging, Mark(*manifest["mark"]))
        for path in [*staging.rglob("*"), staging]:
            flush(path)
        if directory.exists():
            directory.rmdir()
        staging.rename(directory)
        flush(directory.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    progress(1.0)
    return _info({**manifest, "skipped": [*manifest["skipped"], *skipped]})


def _staged(index: EmbeddedIndex, staging: Path) -> tuple[dict[str, Path], Mark, list[str]]:
    """(key -> file, the mark of the rows, segments that went away meanwhile). Links hold what upkeep removes."""
    _link(index, {entry.name for entry in index.store.segments()}, staging)
    index.store.copy_to(staging / ROWS)
    with contextlib.closing(sqlite3.connect(staging / ROWS)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")  # one file
    with _at_rest(staging) as store:
        mark = store.mark
        _add_up(store)
        entries = store.segments()
    _link(index, {entry.name for entry in entries}, staging)
    files, skipped = {ROWS: staging / ROWS}, []
    for entry in entries:
        linked = {name: staging / entry.name / name for name in entry.manifest["files"]}
        if all(path.exists() and sha256_of(path) == entry.manifest["files"][name] for name, path in linked.items()):
            files |= {f"{_SEGMENTS}/{entry.name}/{name}": path for name, path in linked.items()}
        else:
            skipped.append(entry.name)
    return files, mark, skipped


def _link(index: EmbeddedIndex, names: set[str], staging: Path) -> None:
    for name in names:
        (staging / name).mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # merged away meanwhile
            for path in (index.directory / _SEGMENTS / name).iterdir():
                with contextlib.suppress(FileExistsError):
                    (staging / name / path.name).hardlink_to(path)


@contextlib.contextmanager
def _at_rest(directory: Path) -> Iterator[RowStore]:
    """A copy's rows, without a mark of its own."""
    store = RowStore(directory, None, create=False, tolerant=True)
    try:
        yield store
    finally:
        store.close()
        (directory / HIGH_WATER).unlink(missing_ok=True)


def _add_up(store: RowStore) -> None:
    """Raises IndexDamaged."""
    for batch in store.rows(0, batch=512):
        for row in batch:
            if not row.sound:
                raise IndexDamaged(f"row {row.seq} is damaged; `parakh index verify --repair` before a backup")
    if store.counted() != store.mark:
        raise IndexDamaged("the rows do not add up to what was acknowledged; `parakh index verify` before a backup")


def _fetched(
    place: BackupPlace, manifest: Mapping[str, Any], staging: Path, progress: Callable[[float], None]
) -> list[str]:
    """Every file into its place; names of segments that are left out. Raises IndexDamaged for the rows."""
    (staging / _SEGMENTS).mkdir()
    skipped: set[str] = set()
    for done, (key, (digest, size)) in enumerate(sorted(manifest["files"].items())):
        path = staging / (ROWS if key.startswith("rows/") else key)
        path.parent.mkdir(exist_ok=True)
        whole = place.get(key, path) and path.stat().st_size == size and sha256_of(path) == digest
        if not whole and path.name == ROWS:
            raise IndexDamaged(f"backup {manifest['name']}: {key} is missing or not what was written; take another")
        if not whole:
            logger.error("backup %s: %s is missing or damaged: built anew from the rows", manifest["name"], key)
            skipped.add(path.parent.name)
        progress((done + 1) / (len(manifest["files"]) + 1))
    for name in skipped:
        shutil.rmtree(staging / _SEGMENTS / name, ignore_errors=True)
    return sorted(skipped)


def _checked(directory: Path, mark: Mark) -> None:
    """The rows are the manifest's, and the mark is made. Raises IndexDamaged."""
    with _at_rest(directory) as store:
        _add_up(store)
        if store.mark != mark:
            raise IndexDamaged("the rows of the backup are not those of its manifest")
    marks = HighWater(directory / HIGH_WATER)
    marks.write(mark)
    marks.close()


def _chosen(place: BackupPlace, name: str | None) -> dict[str, Any]:
    keys = place.keys("backups")
    wanted = [key for key in keys if name is None or key == f"backups/{name}.json"]
    if not wanted:
        raise NotFound("There is no such backup." if name else "There are no backups.", param="name")
    manifest = _manifest(place, wanted[-1])
    if manifest is None:
        raise IndexDamaged(f"the manifest {wanted[-1]} is damaged; take another backup")
    return manifest


def _manifest(place: BackupPlace, key: str) -> dict[str, Any] | None:
    """None where it is not what was written."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "manifest"
        if not place.get(key, path):
            return None
        try:
            manifest = json.loads(path.read_bytes())
            digest = manifest.pop("sha256")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if digest != _digest(manifest):
            return None
        if manifest["format"] != FORMAT:
            raise InvalidInput(f"{key} has format {manifest['format']}, and this version reads {FORMAT}.")
        return dict(manifest)


def _forget(place: BackupPlace, keep: int) -> None:
    """Manifests go first: a removal that is cut short leaves files, and never half a backup."""
    keys = place.keys("backups")
    for key in keys[:-keep]:
        place.delete(key)
    manifests = [_manifest(place, key) for key in keys[-keep:]]
    if any(manifest is None for manifest in manifests):
        logger.error("a backup's manifest is damaged: no files are removed, for some may be its own")
        return
    needed = {key for manifest in manifests if manifest is not None for key in manifest["files"]}
    for key in [*place.keys("rows"), *place.keys(_SEGMENTS)]:
        if key not in needed:
            place.delete(key)


def _info(manifest: Mapping[str, Any], sent_bytes: int = 0) -> BackupInfo:
    size = sum(size for _, size in manifest["files"].values())
    return BackupInfo(
        manifest["name"],
        manifest["created_at"],
        manifest["mark"][2],
        size,
        manifest["identity"],
        sent_bytes,
        tuple(manifest["skipped"]),
    )


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
