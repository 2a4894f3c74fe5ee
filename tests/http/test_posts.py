"""POST, GET and DELETE /v1/posts, as a client sees them."""

from __future__ import annotations

import httpx

from tests.http.conftest import text_post


async def test_a_post_gets_its_verdict_and_keeps_it(client: httpx.AsyncClient) -> None:
    sent = await client.post("/v1/posts", json=text_post(caption="violence"))
    assert sent.status_code == 200
    assert sent.json()["decision"]["action"] == "block"
    assert sent.json()["modalities"]["audio"] == {"status": "missing"}
    assert (await client.get("/v1/posts/p1")).json() == sent.json()
