"""Where media lies between acceptance and erasure: content-addressed by SHA-256, so the same file is kept once.

`put` returns only when the bytes are durable. Who still needs a file is the records' knowledge, not the store's;
`files` and `delete_partial` are for the sweep that compares the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from deployments.runtime.errors import NodeUnavailable, NotFound

if TYPE_CHECKING:
    from obstore.store import ObjectStore

P = ParamSpec("P")
Result = TypeVar("Result")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".tmp-"


class MediaMissing(NotFound):
    code = "media_missing"
    message = "The post's media is no longer in the media store."


class MediaStoreUnavailable(NodeUnavailable):
    message = "The media store does not answer."


class MediaStore(Protocol):
    async def put(self, data: bytes) -> str:
        """Make `data` durable; returns its SHA-256 in hexadecimal. Raises MediaStoreUnavailable."""
        ...

    async def get(self, sha256: str) -> bytes:
        """Raises MediaMissing, or MediaStoreUnavailable."""
        ...

    async def exists(self, sha256: str) -> bool: ...

    async def delete(self, sha256: str) -> None:
        """Idempotent: what is not there is deleted."""
        ...

    def files(self) -> AsyncIterator[tuple[str, float]]:
        """SHA-256 of every file, and the seconds since it was put. Raises MediaStoreUnavailable."""
        ...

    async def delete_partial(self, older_than_s: float) -> None:
        """What a put left behind whose process died that long ago."""
        ...


def checked_digest(sha256: str) -> str:
    """The digest itself; ValueError for anything else, so that no name can ever leave the store's folder."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError("not a lower-case hexadecimal SHA-256")
    return sha256


class DirectoryMediaStore:
    """Files below one directory, `ab/cd/abcd...`. All processes that share the records must share the directory."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def put(self, data: bytes) -> str:
        return await _off_loop(self._put, data)

    async def get(self, sha256: str) -> bytes:
        return await _off_loop(self._get, sha256)

    async def exists(self, sha256: str) -> bool:
        return await _off_loop(lambda: self._path(sha256).is_file())

    async def delete(self, sha256: str) -> None:
        await _off_loop(self._delete, sha256)

    async def files(self) -> AsyncIterator[tuple[str, float]]:
        for folder in await _off_loop(lambda: sorted(self._root.iterdir())):
            for found in await _off_loop(lambda folder=folder: list(_aged(folder, "*/*"))):  # type: ignore[misc]
                if _SHA256.fullmatch(found[0].name):
                    yield found[0].name, found[1]

    async def delete_partial(self, older_than_s: float) -> None:
        def delete() -> None:
            for path, age_s in _aged(self._root, f"*/*/{_PARTIAL}*"):
                if age_s > older_than_s:
                    path.unlink(missing_ok=True)

        await _off_loop(delete)

    def _path(self, sha256: str) -> Path:
        digest = checked_digest(sha256)
        return self._root / digest[:2] / digest[2:4] / digest

    def _put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        try:
            os.utime(path)  # put again: young again, for the sweep
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_durably(path, data)
            for folder in (path.parent, path.parent.parent, self._root):
                _sync_directory(folder)
        return digest

    def _get(self, sha256: str) -> bytes:
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError:
            raise MediaMissing from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise MediaStoreUnavailable("The stored media is damaged.")
        return data

    def _delete(self, sha256: str) -> None:
        path = self._path(sha256)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            _sync_directory(path.parent)


class ObjectMediaStore:
    """The same layout in an object store, through obstore; a put is durable when the store has acknowledged it."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put(self, data: bytes) -> str:
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        if not await self.exists(digest):
            with _object_errors():
                await self._store.put_async(_key(digest), data)
        return digest

    async def get(self, sha256: str) -> bytes:
        with _object_errors():
            found = await self._store.get_async(_key(sha256))
            return bytes(await found.bytes_async())

    async def exists(self, sha256: str) -> bool:
        try:
            with _object_errors():
                await self._store.head_async(_key(sha256))
        except MediaMissing:
            return False
        return True

    async def delete(self, sha256: str) -> None:
        with contextlib.suppress(MediaMissing), _object_errors():
            await self._store.delete_async(_key(sha256))

    async def files(self) -> AsyncIterator[tuple[str, float]]:
        with _object_errors():
            async for found in self._store.list():
                for entry in found:
                    name = entry["path"].rpartition("/")[2]
                    if _SHA256.fullmatch(name):
                        yield name, (datetime.now(UTC) - entry["last_modified"]).total_seconds()

    async def delete_partial(self, older_than_s: float) -> None:
        """Nothing: an object appears whole or not at all."""


def open_media_store(url: str) -> MediaStore:
    """`/a/folder`, `file:///a/folder` or `s3://bucket/prefix` (credentials as AWS's own tools find them).

    Raises ValueError for anything else, ModuleNotFoundError where S3 is asked for without the package for it.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc:
        from obstore.store import S3Store

        return ObjectMediaStore(S3Store.from_url(url))
    if parts.scheme == "":
        return DirectoryMediaStore(Path(url))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return DirectoryMediaStore(Path(unquote(parts.path)))
    raise ValueError(f"media store {url!r}: give a directory, a file:/// URL or an s3:// URL")


def _key(sha256: str) -> str:
    digest = checked_digest(sha256)
    return f"{digest[:2]}/{digest[2:4]}/{digest}"


@contextlib.contextmanager
def _object_errors() -> Iterator[None]:
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (NotFoundError, FileNotFoundError):  # which of the two depends on the store
        raise MediaMissing from None
    except (BaseError, OSError) as error:
        raise MediaStoreUnavailable from error


async def _off_loop(call: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
    try:
        return await asyncio.to_thread(call, *args, **kwargs)
    except OSError as error:
        raise MediaStoreUnavailable from error


def _write_durably(path: Path, data: bytes) -> None:
    """Temporary file in the same folder, fsync, rename: a reader sees the whole file or none."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _aged(folder: Path, pattern: str) -> Iterator[tuple[Path, float]]:
    """Files below the folder with their age in seconds; one that goes away meanwhile is left out."""
    now = time.time()
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            yield path, now - path.stat().st_mtime


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
