"""One suite for every media store: what was put is durable, comes back whole, and no name leaves the store."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from obstore.store import MemoryStore

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
    return ObjectMediaStore(MemoryStore())


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


async def test_every_file_is_listed_with_its_age(store: MediaStore) -> None:
    await store.put(DATA)
    other = await store.put(b"other")
    await store.delete_partial(older_than_s=0)
    found = {digest: age_s async for digest, age_s in store.files()}
    assert set(found) == {DIGEST, other}
    assert all(-1 < age_s < 60 for age_s in found.values())


async def test_what_a_dead_process_left_half_written_goes_when_it_is_old(tmp_path: Path) -> None:
    store = DirectoryMediaStore(tmp_path)
    await store.put(DATA)
    left = tmp_path / DIGEST[:2] / DIGEST[2:4] / ".tmp-abc"
    left.write_bytes(b"half")
    await store.delete_partial(older_than_s=60)
    assert left.exists()
    os.utime(left, (0, 0))
    await store.delete_partial(older_than_s=60)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [DIGEST]


async def test_a_file_put_again_is_young_again(tmp_path: Path) -> None:
    store = DirectoryMediaStore(tmp_path)
    await store.put(DATA)
    os.utime(tmp_path / DIGEST[:2] / DIGEST[2:4] / DIGEST, (0, 0))
    await store.put(DATA)
    assert [age_s < 60 async for _, age_s in store.files()] == [True]


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
