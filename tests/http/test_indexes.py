"""Items that are brought from outside, the list of partitions, and what a feed has shown."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.runtime.values import TextEmbedding
from deployments.similarity.content import Content, EncoderId, FrameSignatures
from deployments.similarity.values import Item
from serve_app.config import AppConfig
from serve_app.reconciler import reconcile
from tests.http.graph_of_fakes import Graph, graph_of, picture, true_node

ITEMS = "/v1/indexes/posts.hi.image.visual/items"
ENCODER = {"name": "theirs", "version": "1"}
VECTOR = [1.0, 0.0, 0.5, 0.0]


@pytest.fixture
async def graph(fake_config: AppConfig, tmp_path: Path) -> AsyncIterator[Graph]:
    async with true_node(tmp_path) as node, graph_of(fake_config, tmp_path, similarity=node) as found:
        yield found


@pytest.fixture
async def theirs(graph: Graph) -> Graph:
    """With a partition of another encoder, as `parakh index build` makes it; empty."""
    partition, encoder = "posts.hi.image.visual", EncoderId(**ENCODER)
    await graph.similarity.upsert_items(partition, encoder, [Item("first", np.array(VECTOR, np.float32))])
    await graph.similarity.delete_items(partition, ["first"])
    return graph


async def put(graph: Graph, id_: str = "i1", **fields: Any) -> httpx.Response:
    body = {"vector": VECTOR, "encoder": ENCODER} | fields
    return await graph.client.put(f"{ITEMS}/{id_}", json={k: v for k, v in body.items() if v is not None})


async def test_an_item_is_put_listed_and_deleted(theirs: Graph) -> None:
    answer = await put(theirs, attributes={"from": "elsewhere"})
    assert answer.json() == {"id": "i1", "partition": "posts.hi.image.visual", "status": "indexed"}
    (listed,) = (await theirs.client.get("/v1/indexes")).json()["partitions"]
    assert (listed["partition"], listed["items"], listed["dimension"]) == ("posts.hi.image.visual", 1, 4)
    assert (listed["encoder"], listed["damaged"]) == (ENCODER, None)
    assert (await theirs.client.get("/v1/indexes/posts.hi.image.visual")).json() == listed
    assert (await theirs.client.delete(f"{ITEMS}/i1")).status_code == 204
    assert (await theirs.client.delete(f"{ITEMS}/i1")).json()["error"]["code"] == "item_not_found"


async def test_an_item_of_the_servers_own_encoder_is_found_by_media(either: Graph) -> None:
    await either.post("p1", picture(1), language="hi")
    await either.settle()
    media = {"media_base64": base64.b64encode(picture(2)).decode()}
    found = (await either.services.moderator.embed_images([picture(2)]))[0]
    vector = [float(value) for value in found.vectors[0]]
    answer = await either.client.put(f"{ITEMS}/i1", json={"vector": vector, "attributes": {"a": 1}})
    assert answer.status_code == 200, answer.text
    hits = (await either.client.post("/v1/search", json=media)).json()["results"]
    assert next((hit["id"], hit["attributes"]) for hit in hits) == ("i1", {"a": 1})


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"vector": None}, 400, "invalid_request"),
        ({"vector": [0.0, 0.0, 0.0, 0.0]}, 400, "invalid_request"),
        ({"vector": [1e300, 0.0, 0.0, 0.0]}, 400, "invalid_request"),
        ({"vector": [1.0, 2.0]}, 400, "invalid_request"),
        ({"vector": ["1"]}, 400, "invalid_request"),
        ({"vector": [1.0] * 8193}, 400, "invalid_request"),
        ({"signature": "00" * 32}, 400, "invalid_request"),
        ({"vector": None, "signature": "f" * 64}, 400, "invalid_request"),
        ({"encoder": {"name": "another", "version": "1"}}, 409, "wrong_encoder"),
        ({"created_at": "yesterday"}, 400, "invalid_request"),
        ({"attributes": {"_": {}}}, 400, "invalid_request"),
        ({"attributes": {"a": "x" * 5000}}, 400, "invalid_request"),
        ({"attributes": 3}, 400, "invalid_request"),
        ({"content_type": "film"}, 400, "invalid_request"),
    ],
)
async def test_a_bad_item_is_refused_and_changes_nothing(
    theirs: Graph, fields: dict[str, Any], status: int, code: str
) -> None:
    await put(theirs, "i0")
    answer = await put(theirs, "i1", **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert (await theirs.client.get("/v1/indexes/posts.hi.image.visual")).json()["items"] == 1


@pytest.mark.parametrize("partition", ["posts", "posts.hi.image", "posts.hi.image.visual.x", "Posts.hi.image.visual"])
async def test_a_partitions_name_is_checked(graph: Graph, partition: str) -> None:
    for method, path in (("GET", ""), ("PUT", "/items/i1"), ("DELETE", "/items/i1"), ("POST", "/items:batch")):
        body = {"items": [{"op": "delete", "id": "x"}]} if method == "POST" else {"vector": VECTOR, "encoder": ENCODER}
        answer = await graph.client.request(method, f"/v1/indexes/{partition}{path}", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "partition")
    assert (await graph.client.get("/v1/indexes")).json()["partitions"] == []


@pytest.mark.parametrize(
    "partition",
    ["post.hi.image.visual", "posts.hi.film.visual", "posts.hi.image.smell", "posts.hi.image.visual%0A"],
)
async def test_no_partition_is_made_that_nothing_searches(graph: Graph, partition: str) -> None:
    answer = await graph.client.put(f"/v1/indexes/{partition}/items/i1", json={"vector": VECTOR, "encoder": ENCODER})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "partition")
    assert (await graph.client.get("/v1/indexes")).json()["partitions"] == []


async def test_a_first_vector_of_a_wrong_dimension_makes_no_partition(graph: Graph) -> None:
    report = graph.services.moderator.models()["clip"]
    for encoder in (None, {"name": report.name, "version": report.version}):
        answer = await put(graph, encoder=encoder)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "vector")
    assert (await graph.client.get("/v1/indexes")).json()["partitions"] == []


async def test_vectors_of_a_foreign_encoder_make_no_partition(graph: Graph) -> None:
    """Or the posts of that language and type would be refused from then on."""
    answer = await put(graph)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "encoder")
    assert "theirs@1" in answer.json()["error"]["message"]
    assert (await graph.client.get("/v1/indexes")).json()["partitions"] == []
    await graph.post("p1", picture(1), language="hi")
    await graph.settle()
    assert await graph.similarity.ids("posts") == ["p1"]


async def test_a_first_vector_of_a_wrong_joint_dimension_makes_no_partition(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def embed(texts: str) -> TextEmbedding:
        return TextEmbedding(np.ones(6, np.float32), 1, truncated=False)

    item = "/v1/indexes/posts.hi.image.joint/items/i1"
    reference = {"owner": "o", "vector": VECTOR, "model": "clip-text"}
    assert (await graph.client.put(item, json={"vector": VECTOR})).json()["error"]["code"] == "model_not_found"
    monkeypatch.setattr(graph.nodes, "encode_joint_text", embed)
    for answer in (
        await graph.client.put(item, json={"vector": VECTOR}),
        await graph.client.post("/v1/references", json=reference),
    ):
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "vector")
        assert "makes 6" in answer.json()["error"]["message"]
    assert (await graph.client.get("/v1/indexes")).json()["partitions"] == []
    assert (await graph.client.put(item, json={"vector": [1.0] * 6})).status_code == 200


async def test_what_is_deleted_the_records_spare_no_more(graph: Graph) -> None:
    items, signature = "/v1/indexes/posts.{}.image.pdq/items/i1", {"signature": "0123456789abcdef" * 4}
    for language in ("hi", "ta"):
        assert (await graph.client.put(items.format(language), json=signature)).status_code == 200
    assert (await graph.client.delete(items.format("hi"))).status_code == 204
    assert (await reconcile(graph.services)).clean  # the other one is spared still
    assert (await graph.client.delete(items.format("ta"))).status_code == 204
    await graph.similarity.index([Content("i1", "image", signatures=_frames())])  # as a restored backup would
    assert (await reconcile(graph.services)).extra["posts"] == ["i1"]


def _frames() -> FrameSignatures:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 256, (1, 32), dtype=np.uint8)
    return FrameSignatures(hashes, np.array([90], np.uint8), np.zeros(1, np.float32))


async def test_an_item_cannot_go_for_a_frames_signature_of_something_else(graph: Graph) -> None:
    items = "/v1/indexes/posts.hi.image.pdq/items"
    signature = "0123456789abcdef" * 4
    answer = await graph.client.put(f"{items}/abc%235", json={"signature": signature})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "id"), answer.text
    assert (await graph.client.get("/v1/indexes")).json()["partitions"] == []
    assert (await graph.client.put(f"{items}/abc%23five", json={"signature": signature})).status_code == 200
    assert (await reconcile(graph.services)).clean
    assert await graph.similarity.ids("posts") == ["abc#five"]


async def test_an_unknown_partition_is_404(graph: Graph) -> None:
    for method, path in (("GET", ""), ("DELETE", "/items/i1")):
        answer = await graph.client.request(method, f"/v1/indexes/posts.ta.video.audio{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "partition_not_found")


async def test_a_batch_changes_each_for_itself_in_order(theirs: Graph) -> None:
    good = {"vector": VECTOR, "encoder": ENCODER}
    items = [
        good | {"id": "a/b"},
        good | {"id": "नमस्ते"},
        {"id": "c", "vector": [0.0] * 4, "encoder": ENCODER},
        {"op": "delete", "id": "a/b"},
        {"op": "delete", "id": "never"},
        {"op": "explode", "id": "x"},
        "x",
    ]
    answer = await theirs.client.post(f"{ITEMS}:batch", json={"items": items})
    results = answer.json()["results"]
    told = [result.get("status") or result["error"]["code"] for result in results]
    refused = "invalid_request"
    assert told == ["indexed", "indexed", refused, "deleted", "not_found", refused, refused]
    assert (await theirs.client.get("/v1/indexes/posts.hi.image.visual")).json()["items"] == 1
    assert (await theirs.client.post(f"{ITEMS}:batch", json={"items": [{}] * 65})).status_code == 413


async def test_what_is_still_to_be_told_and_what_was_saved_is_listed(graph: Graph) -> None:
    await graph.post("p1", picture(1))
    listed = (await graph.client.get("/v1/indexes")).json()
    assert (listed["waiting_jobs"], listed["reused_verdicts"]) == (1, 0)
    assert listed["oldest_waiting"] is not None
    await graph.settle()
    await graph.post("p2", picture(1))
    await graph.settle()
    listed = (await graph.client.get("/v1/indexes")).json()
    assert (listed["waiting_jobs"], listed["oldest_waiting"], listed["reused_verdicts"]) == (0, None, 1)


async def check(graph: Graph, **asked: Any) -> tuple[bool, list[str]]:
    answer = await graph.client.post("/v1/shown:check", json={"feed": "home"} | asked)
    assert answer.status_code == 200, answer.text
    return answer.json()["shown"], [match["id"] for match in answer.json()["matches"]]


async def test_a_feed_that_showed_it_knows_it_again_under_another_id(either: Graph) -> None:
    await either.post("p1", picture(1))
    await either.post("p2", picture(1, "JPEG", quality=60))
    await either.settle()
    assert await check(either, post_id="p1") == (False, [])
    assert (await either.client.post("/v1/shown", json={"feed": "home", "post_id": "p1"})).status_code == 204
    assert await check(either, post_id="p1") == (True, ["p1"])
    assert await check(either, post_id="p2") == (True, ["p1"])
    assert await check(either, media_base64=base64.b64encode(picture(1)).decode()) == (True, ["p1"])
    assert await check(either, media_base64=base64.b64encode(picture(2)).decode()) == (False, [])
    assert await check(either, post_id="p1", feed="other") == (False, [])


async def test_files_that_a_feed_showed_are_told_apart(either: Graph) -> None:
    files = [base64.b64encode(picture(seed)).decode() for seed in (1, 2, 3)]
    for file in files[:2]:
        answer = await either.client.post("/v1/shown", json={"feed": "home", "media_base64": file})
        assert answer.status_code == 204, answer.text
    assert [(await check(either, media_base64=file))[0] for file in files] == [True, True, False]


async def test_what_was_erased_no_feed_remembers(either: Graph) -> None:
    await either.post("p1", picture(1))
    await either.settle()
    await either.client.post("/v1/shown", json={"feed": "home", "post_id": "p1"})
    assert (await either.client.delete("/v1/posts/p1")).status_code == 204
    await either.settle()
    assert await check(either, post_id="p1") == (False, [])
    assert await check(either, media_base64=base64.b64encode(picture(1)).decode()) == (False, [])


async def test_long_ago_does_not_count(either: Graph) -> None:
    await either.post("p1", picture(1))
    await either.settle()
    at = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    await either.client.post("/v1/shown", json={"feed": "home", "post_id": "p1", "shown_at": at})
    assert await check(either, post_id="p1", within_hours=2) == (False, [])
    assert await check(either, post_id="p1", within_hours=4) == (True, ["p1"])


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"feed": "home"}, 400),
        ({"feed": "Home", "post_id": "p1"}, 400),
        ({"feed": "x" * 33, "post_id": "p1"}, 400),
        ({"post_id": "p1"}, 400),
        ({"feed": "home", "post_id": "p1", "media_base64": "AAAA"}, 400),
        ({"feed": "home", "post_id": "p9"}, 404),
        ({"feed": "home", "post_id": "p1", "shown_at": "2100-01-01T00:00:00Z"}, 400),
        ({"feed": "home", "media_base64": "AAAA"}, 415),
        ({"feed": "home", "post_id": "p1", "more": 1}, 400),
    ],
)
async def test_a_bad_mark_is_refused(graph: Graph, asked: dict[str, Any], status: int) -> None:
    assert (await graph.client.post("/v1/shown", json=asked)).status_code == status
    assert (await graph.client.get("/v1/indexes")).json()["partitions"] == []


@pytest.mark.parametrize("hours", [0, -1, "x", 1e9])
async def test_a_bad_window_is_refused(graph: Graph, hours: Any) -> None:
    asked = {"feed": "home", "post_id": "p1", "within_hours": hours}
    assert (await graph.client.post("/v1/shown:check", json=asked)).json()["error"]["param"] == "within_hours"


async def test_more_hours_than_are_remembered_are_refused(graph: Graph) -> None:
    """`shown: false` would say more than is known."""
    await graph.post("p1", picture(1))
    await graph.settle()
    asked = {"feed": "home", "post_id": "p1", "within_hours": 73}
    answer = await graph.client.post("/v1/shown:check", json=asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "beyond_retention", "within_hours")
    assert "72 hours" in error["message"]
