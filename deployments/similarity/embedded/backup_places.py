"""Where backups lie: a directory or an object store. A file appears whole or not at all, and is on the disk then."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from deployments.runtime.errors import InvalidInput, NodeUnavailable
from deployments.similarity.embedded.high_water import flush

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_PARTIAL = ".tmp-"


class BackupPlaceUnavailable(NodeUnavailable):
    code = "backup_place_unavailable"
    message = "The place of the backups does not answer."


class BackupPlace(Protocol):
    """Keys are relative paths with `/`. Every method raises BackupPlaceUnavailable."""

    def put(self, key: str, path: Path) -> None: ...

    def get(self, key: str, to: Path) -> bool:
        """False where there is none."""
        ...

    def size(self, key: str) -> int | None: ...

    def keys(self, prefix: str) -> list[str]:
        """In order."""
        ...

    def delete(self, key: str) -> None:
        """Idempotent."""
        ...


def open_place(url: str) -> BackupPlace:
    """`/a/folder`, `file:///a/folder` or `s3://bucket/prefix` (credentials as AWS's own tools find them).

    Raises InvalidInput for anything else.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc:
        from obstore.store import S3Store

        return ObjectPlace(S3Store.from_url(url))
    if parts.scheme == "":
        return DirectoryPlace(Path(url))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return DirectoryPlace(Path(unquote(parts.path)))
    raise InvalidInput(f"{url!r} is no place for a backup: give a directory, a file:/// URL or an s3:// URL.")


class DirectoryPlace:
    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    def put(self, key: str, path: Path) -> None:
        with _errors():
            target = self._root / key
            self._make(target.parent)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=_PARTIAL)
            try:
                with os.fdopen(handle, "wb") as file, path.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            flush(target.parent)

    def get(self, key: str, to: Path) -> bool:
        with _errors():
            try:
                shutil.copyfile(self._root / key, to)
            except FileNotFoundError:
                return False
            return True

    def size(self, key: str) -> int | None:
        with _errors():
            path = self._root / key
            return path.stat().st_size if path.is_file() else None

    def keys(self, prefix: str) -> list[str]:
        with _errors():
            paths = (self._root / prefix).rglob("*")
            found = [path for path in paths if path.is_file() and not path.name.startswith(_PARTIAL)]
            return sorted(path.relative_to(self._root).as_posix() for path in found)

    def delete(self, key: str) -> None:
        with _errors():
            path = self._root / key
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # an empty one

    def _make(self, directory: Path) -> None:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in missing:
            flush(path.parent)


class ObjectPlace:
    """Through obstore. An object is durable when the store has acknowledged it."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def put(self, key: str, path: Path) -> None:
        with _errors():
            self._store.put(key, path)

    def get(self, key: str, to: Path) -> bool:
        with _errors():
            try:
                found = self._store.get(key)
            except _missing():
                return False
            with to.open("wb") as file:
                for chunk in found.stream():
                    file.write(bytes(chunk))
            return True

    def size(self, key: str) -> int | None:
        with _errors():
            try:
                return int(self._store.head(key)["size"])
            except _missing():
                return None

    def keys(self, prefix: str) -> list[str]:
        with _errors():
            return sorted(str(entry["path"]) for page in self._store.list(prefix) for entry in page)

    def delete(self, key: str) -> None:
        with _errors(), contextlib.suppress(*_missing()):
            self._store.delete(key)


def _missing() -> tuple[type[Exception], ...]:
    from obstore.exceptions import NotFoundError

    return NotFoundError, FileNotFoundError  # which of the two depends on the store


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        raise BackupPlaceUnavailable from error
