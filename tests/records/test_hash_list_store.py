"""Hash lists: replaced whole, looked up by digest, their signatures told to the index."""

from __future__ import annotations

import pytest

from serve_app.records import Records
from serve_app.records.errors import HashListNotFound
from serve_app.records.hash_lists import STEP, HashEntry
from serve_app.similarity import Digests

MD5, SHA1, SHA256, PDQ = "a" * 32, "b" * 40, "c" * 64, "0f" * 32


async def listed(records: Records, md5: str = "", sha1: str = "", sha256: str = "") -> list[tuple[str, str]]:
    found = await records.known.listed(Digests(md5, sha1, sha256))
    return [(entry.list_name, entry.algorithm) for entry in found]


async def test_each_algorithm_is_looked_up_in_its_own_name(records: Records) -> None:
    entries = [HashEntry("md5", MD5), HashEntry("sha1", SHA1), HashEntry("sha256", SHA256, ("x", "y"))]
    kept = await records.hash_lists.put("one", entries, "me")
    assert kept.entries == {"md5": 1, "sha1": 1, "sha256": 1}
    assert await listed(records, md5=MD5) == [("one", "md5")]
    assert await listed(records, md5=MD5, sha256=SHA256) == [("one", "md5"), ("one", "sha256")]
    assert await listed(records, md5=SHA1, sha1=MD5, sha256=PDQ) == []
    (entry,) = await records.known.listed(Digests("", "", SHA256))
    assert entry.labels == ("x", "y")


async def test_two_lists_may_hold_the_same_digest(records: Records) -> None:
    for name in ("one", "two"):
        await records.hash_lists.put(name, [HashEntry("md5", MD5)], "me")
    assert await listed(records, md5=MD5) == [("one", "md5"), ("two", "md5")]
    await records.hash_lists.delete("one", "me")
    assert await listed(records, md5=MD5) == [("two", "md5")]


async def test_signatures_are_told_to_the_index_and_taken_back(records: Records) -> None:
    await records.hash_lists.put("one", [HashEntry("pdq", PDQ, ("x",)), HashEntry("md5", MD5)], "me")
    (job,) = await records.index_jobs.claim(10, busy_s=60)
    assert (job.bank, job.id, job.op) == ("known-bad", f"one {PDQ}", "index")
    assert job.content is not None
    assert job.content.signatures is not None
    assert job.content.signatures.hashes.tobytes().hex() == PDQ
    assert job.content.attributes == {"list": "one", "algorithm": "pdq", "labels": ["x"]}
    await records.index_jobs.finish([job])
    await records.hash_lists.put("one", [HashEntry("md5", MD5)], "me")
    (job,) = await records.index_jobs.claim(10, busy_s=60)
    assert job.op == "remove"


async def test_a_list_of_several_steps_is_whole(records: Records) -> None:
    entries = [HashEntry("md5", f"{number:032x}") for number in range(STEP + 3)]
    assert (await records.hash_lists.put("one", entries, "me")).entries == {"md5": STEP + 3}
    assert (await records.hash_lists.put("one", entries[:1], "me")).entries == {"md5": 1}
    assert await listed(records, md5=f"{STEP:032x}") == []


async def test_new_labels_replace_the_old_ones(records: Records) -> None:
    for labels in (("x",), ("y",)):
        await records.hash_lists.put("one", [HashEntry("md5", MD5, labels)], "me")
    (entry,) = await records.known.listed(Digests(MD5, "", ""))
    assert entry.labels == ("y",)


async def test_a_list_that_is_not_there_is_said(records: Records) -> None:
    with pytest.raises(HashListNotFound):
        await records.hash_lists.find("none")
    with pytest.raises(HashListNotFound):
        await records.hash_lists.delete("none", "me")
    assert await records.hash_lists.list() == []
