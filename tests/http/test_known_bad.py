"""Content on hash lists: decided before anything is decoded, kept as evidence, erased by nobody."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import AppConfig
from serve_app.housekeeping import note_garbage
from serve_app.http.settings import HttpSettings
from serve_app.posts import MediaSource
from serve_app.records.keys import SCOPES, Scope
from tests.http.graph_of_fakes import Graph, graph_of, image_post, picture, true_node

RETENTION_S = 0.1


@pytest.fixture
async def graph(fake_config: AppConfig, tmp_path: Path) -> AsyncIterator[Graph]:
    settings = HttpSettings(auth="off", media_retention_s=RETENTION_S)
    async with graph_of(fake_config, tmp_path, settings=settings) as found:
        yield found


async def upload(graph: Graph, name: str, text: str, status: int = 200, **query: str) -> dict[str, object]:
    answer = await graph.client.post(f"/v1/hash-lists/{name}", content=text, params=query)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
async def test_a_listed_digest_blocks_without_any_encoder(graph: Graph, algorithm: str) -> None:
    digest = hashlib.new(algorithm, picture(1)).hexdigest()
    await upload(graph, "bad", f"{digest}\n", algorithm=algorithm, label="test")
    verdict = await graph.post("p1", picture(1), caption="hello")
    assert graph.nodes.encoded == 0
    decision = verdict["decision"]
    assert (decision["action"], decision["use"], decision["category"]) == ("block", "known_bad", "dangerous")
    assert decision["legal_hold"]
    assert decision["no_preview"]
    (match,) = verdict["matches"]
    assert (match["use"], match["stage"], match["id"]) == ("known_bad", "digest", digest)
    assert match["attributes"] == {"list": "bad", "algorithm": algorithm, "labels": ["test"]}
    assert verdict["models"] == {}
    assert sum(verdict["category_scores"].values()) == 1
    assert verdict["modalities"]["visual"]["reason"].startswith("not judged")
    await graph.settle()
    assert graph.fake.banks["posts"] == {}


async def test_bytes_that_do_not_even_decode_are_known(graph: Graph) -> None:
    await upload(graph, "bad", hashlib.md5(b"no picture").hexdigest())
    assert (await graph.post("p1", b"no picture"))["decision"]["use"] == "known_bad"


async def test_evidence_is_neither_erased_nor_swept(graph: Graph) -> None:
    await upload(graph, "bad", hashlib.md5(picture(1)).hexdigest())
    sha256 = (await graph.post("p1", picture(1)))["media_sha256"]
    refused = await graph.client.delete("/v1/posts/p1")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "legal_hold")
    assert (await graph.client.get("/v1/posts/p1")).status_code == 200
    trail = await graph.services.records.audit.entries("p1")
    assert [entry.action for entry in trail] == ["post.erase_refused", "post.hold"]
    await asyncio.sleep(RETENTION_S + 0.05)
    await note_garbage(graph.services.house)
    await graph.services.records.garbage.add(sha256)
    await graph.services.records.garbage.sweep(graph.services.media_store.delete)
    assert await graph.services.media_store.get(sha256) == picture(1)


async def test_a_released_hold_lets_the_post_be_erased(graph: Graph) -> None:
    await upload(graph, "bad", hashlib.md5(picture(1)).hexdigest())
    await graph.post("p1", picture(1))
    records = graph.services.records
    assert [hold.post_id for hold in await records.holds.list()] == ["p1"]
    assert await records.holds.release("p1", "counsel")
    assert not await records.holds.release("p1", "counsel")
    assert (await graph.client.delete("/v1/posts/p1")).status_code == 204


async def test_a_new_list_is_asked_also_about_what_was_posted_before(graph: Graph) -> None:
    await graph.post("p1", picture(1))
    await upload(graph, "bad", hashlib.md5(picture(1)).hexdigest())
    assert (await graph.post("p2", picture(1)))["decision"]["use"] == "known_bad"


async def test_no_verdict_from_before_a_change_of_lists_is_reused(graph: Graph) -> None:
    await graph.post("p1", picture(1))
    await upload(graph, "bad", hashlib.md5(b"something else").hexdigest())
    assert (await graph.post("p2", picture(1)))["reused_from"] is None


async def test_a_listed_signature_matches_the_picture_in_other_bytes(fake_config: AppConfig, tmp_path: Path) -> None:
    async with true_node(tmp_path) as node, graph_of(fake_config, tmp_path, similarity=node) as graph:
        await graph.post("p1", picture(1))
        await graph.settle()
        media = await graph.nodes.decode(MediaSource(data=picture(1)))
        assert media.media.pdq_hashes is not None
        await upload(graph, "bad", media.media.pdq_hashes[0].tobytes().hex(), algorithm="pdq")
        await graph.settle()
        verdict = await graph.post("p2", picture(1, "JPEG", quality=50))
        assert next((m["use"], m["stage"]) for m in verdict["matches"]) == ("known_bad", "pdq")
        assert (verdict["decision"]["action"], verdict["decision"]["use"]) == ("block", "known_bad")
        assert verdict["matches"][0]["attributes"]["list"] == "bad"
        assert [hold.post_id for hold in await graph.services.records.holds.list()] == ["p2"]
        assert (await graph.client.delete("/v1/hash-lists/bad")).status_code == 204
        await graph.settle()
        assert await node.ids("known-bad") == []


async def test_a_list_is_replaced_whole(graph: Graph) -> None:
    first, second = hashlib.md5(b"1").hexdigest(), hashlib.md5(b"2").hexdigest()
    kept = await upload(graph, "bad", f"{first}\n{second}\n")
    assert kept["entries"] == {"md5": 2}
    kept = await upload(graph, "bad", f"{second}\n")
    assert kept["entries"] == {"md5": 1}
    assert (await graph.post("p1", picture(1)))["decision"]["use"] is None
    listed = (await graph.client.get("/v1/hash-lists")).json()["lists"]
    assert [(one["name"], one["entries"]) for one in listed] == [("bad", {"md5": 1})]
    assert (await graph.client.delete("/v1/hash-lists/bad")).status_code == 204
    assert (await graph.client.get("/v1/hash-lists/bad")).json()["error"]["code"] == "hash_list_not_found"
    assert (await graph.client.delete("/v1/hash-lists/bad")).status_code == 404


@pytest.mark.parametrize("text", ["", "\n", "no digest\n", "{", "[]", "\xff", "<xml/>", "d41d8cd98f00b204\n"])
async def test_a_list_that_is_none_is_refused_and_changes_nothing(graph: Graph, text: str) -> None:
    await upload(graph, "bad", hashlib.md5(picture(1)).hexdigest())
    refused = await upload(graph, "bad", text, 400)
    assert refused["error"]["code"] == "hash_list_refused"  # type: ignore[index]
    assert (await graph.client.get("/v1/hash-lists/bad")).json()["entries"] == {"md5": 1}


async def test_bad_lines_are_told_where_they_are_tolerated(graph: Graph) -> None:
    kept = await upload(graph, "bad", f"{hashlib.md5(b'1').hexdigest()}\nnonsense\n", strict="false")
    assert kept["entries"] == {"md5": 1}
    assert [problem["line"] for problem in kept["problems"]] == [2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["Bad", "a b", "x" * 65, "-", ".."])
async def test_a_lists_name_is_plain(graph: Graph, name: str) -> None:
    answer = await graph.client.post(f"/v1/hash-lists/{name}", content=hashlib.md5(b"1").hexdigest())
    assert answer.status_code in (400, 404, 405)
    assert (await graph.client.get("/v1/hash-lists")).json() == {"lists": []}


async def test_which_entry_matched_is_told_to_moderators_alone(tmp_path: Path, fake_config: AppConfig) -> None:
    settings = HttpSettings(auth="keys")
    async with graph_of(fake_config, tmp_path, settings=settings) as graph:
        keys = {}
        for scope in SCOPES:
            _, keys[scope] = await graph.services.records.keys.create_key(scope, [scope])

        async def ask(scope: Scope, method: str, path: str, **sent: Any) -> dict[str, Any]:
            headers = {"X-API-Key": keys[scope]}
            answer = await graph.client.request(method, path, headers=headers, **sent)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        digest = hashlib.md5(picture(1)).hexdigest()
        await ask("admin", "POST", "/v1/hash-lists/bad?label=l", content=digest)
        media = {"media_base64": base64.b64encode(picture(1)).decode()}
        verdict = await ask("ingest", "POST", "/v1/posts", json=image_post("p1", **media))
        (match,) = verdict["matches"]
        assert (match["id"], match["attributes"], match["distance"]) == ("bad", {"list": "bad"}, None)
        assert (digest in json.dumps(verdict), verdict["decision"]["use"]) == (False, "known_bad")
        assert digest not in json.dumps(await ask("read", "GET", "/v1/posts/p1"))
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{media['media_base64']}"}}
        assert digest not in json.dumps(await ask("ingest", "POST", "/v1/moderations", json={"input": [part]}))
        whole = await ask("admin", "GET", "/v1/posts/p1")
        assert whole["matches"][0]["id"] == digest
        assert whole["matches"][0]["attributes"]["labels"] == ["l"]
