"""One suite for every media store: what was put is durable, comes back whole, and no name leaves the store."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from serve_app.media_store import (
    DirectoryMediaStore,
    MediaMissing,
    MediaStore,
    MediaStoreUnavailable,
    ObjectMediaStore,
    open_media_store,
)

DATA = b"moving picture" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(params=["directory", "object"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MediaStore:
    if request.param == "directory":
        return open_media_store(f"file://{tmp_path}/media")
    memory: Any = pytest.importorskip("obstore.store", reason="the package for S3 is not installed").MemoryStore()
    return ObjectMediaStore(memory)


async def test_what_was_put_comes_back(store: MediaStore) -> None:
    assert await store.put(DATA) == DIGEST
    assert await store.put(DATA) == DIGEST
    assert await store.get(DIGEST) == DATA
    assert await store.exists(DIGEST)


async def test_what_was_deleted_is_missing(store: MediaStore) -> None:
    await store.put(DATA)
    await store.delete(DIGEST)
    await store.delete(DIGEST)
    assert not await store.exists(DIGEST)
    with pytest.raises(MediaMissing):
        await store.get(DIGEST)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", "AB" * 32, "ab" * 31 + "a/", f"{DIGEST}\n"])
async def test_no_name_leaves_the_store(store: MediaStore, name: str) -> None:
    for call in (store.get, store.exists, store.delete):
        with pytest.raises(ValueError, match="not a lower-case hexadecimal SHA-256"):
            await call(name)


async def test_the_same_file_from_many_at_once_is_kept_once(tmp_path: Path) -> None:
    store = DirectoryMediaStore(tmp_path)
    await asyncio.gather(*(store.put(DATA) for _ in range(10)))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [DIGEST]


async def test_a_damaged_file_is_not_handed_out(tmp_path: Path) -> None:
    store = DirectoryMediaStore(tmp_path)
    await store.put(DATA)
    (tmp_path / DIGEST[:2] / DIGEST[2:4] / DIGEST).write_bytes(b"something else")
    with pytest.raises(MediaStoreUnavailable):
        await store.get(DIGEST)


async def test_a_store_that_cannot_write_says_so(tmp_path: Path) -> None:
    store = DirectoryMediaStore(tmp_path / "media")
    (tmp_path / "media").rmdir()
    (tmp_path / "media").write_text("a file where the folder was")
    with pytest.raises(MediaStoreUnavailable):
        await store.put(DATA)


@pytest.mark.parametrize("url", ["ftp://host/media", "http://host/", "file://otherhost/media", "s3://"])
def test_unknown_places_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="give a directory"):
        open_media_store(url)
