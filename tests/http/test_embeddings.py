"""POST /v1/embeddings: OpenAI's shape over our encoders."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.runtime.errors import UrlRefused
from serve_app.http.app import create_app
from serve_app.http.fakes import FakeModerator
from tests.http.building import build_services, client_of

PICTURE = "data:image/png;base64," + base64.b64encode(b"picture").decode()


async def embed(client: httpx.AsyncClient, given: Any, model: str = "xlmr", **more: Any) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"input": given, "model": model, **more})


async def test_texts_become_unit_vectors_in_order(client: httpx.AsyncClient) -> None:
    answer = (await embed(client, ["one word", "another"])).json()
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert np.linalg.norm(answer["data"][0]["embedding"]) == pytest.approx(1.0)
    assert answer["usage"] == {"prompt_tokens": 4 + 3, "total_tokens": 7}
    assert (answer["object"], answer["model"], answer["data"][0]["object"]) == ("list", "xlmr", "embedding")


async def test_base64_holds_the_same_floats(client: httpx.AsyncClient) -> None:
    plain = (await embed(client, "text")).json()["data"][0]["embedding"]
    packed = (await embed(client, "text", encoding_format="base64")).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), dtype="<f4").tolist() == pytest.approx(plain)


async def test_images_by_data_url(client: httpx.AsyncClient) -> None:
    answer = (await embed(client, [PICTURE], model="clip")).json()
    assert len(answer["data"][0]["embedding"]) == 8
    assert answer["usage"]["prompt_tokens"] == 0


async def test_images_by_url_go_through_the_guarded_fetch(tmp_path: Path) -> None:
    async def fetch(url: str) -> bytes:
        if "10.0.0.1" in url:
            raise UrlRefused
        return b"picture"

    async with client_of(create_app(build_services(tmp_path, fetch_media=fetch))) as client:
        fetched = await embed(client, "https://example.org/a.png", model="clip")
        assert fetched.json()["data"] == (await embed(client, PICTURE, model="clip")).json()["data"]
        refused = await embed(client, "http://10.0.0.1/", model="clip")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "url_refused")


async def test_a_profile_without_joint_space_has_no_clip_text(
    client: httpx.AsyncClient, moderator: FakeModerator
) -> None:
    assert (await embed(client, "a cat", model="clip-text")).status_code == 200
    moderator.joint_space = False
    answer = await embed(client, "a cat", model="clip-text")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_dimensions_are_what_they_are(client: httpx.AsyncClient) -> None:
    assert (await embed(client, "a", dimensions=8)).status_code == 200
    refused = await embed(client, "a", dimensions=4)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "dimensions")


@pytest.mark.parametrize(
    ("given", "model", "status"),
    [
        ("", "xlmr", 400),
        ([], "xlmr", 400),
        (["a", " "], "xlmr", 400),
        ([1, 2, 3], "xlmr", 400),
        ([[1], [2]], "xlmr", 400),
        (["a"] * 33, "xlmr", 400),
        ("x" * 100_001, "xlmr", 413),
        ("a", "text-embedding-3-small", 404),
        ("not a url", "clip", 400),
        ("https://example.org/a.png", "clip", 400),  # these services were given no fetch
        ("data:image/png;base64,@", "clip", 400),
    ],
)
async def test_what_cannot_be_embedded(client: httpx.AsyncClient, given: object, model: str, status: int) -> None:
    answer = await embed(client, given, model)
    assert answer.status_code == status, answer.text


async def test_token_arrays_are_refused_in_plain_words(client: httpx.AsyncClient) -> None:
    answer = await embed(client, [15339, 1917])
    assert answer.json()["error"]["param"] == "input"
    assert "token" in answer.json()["error"]["message"]
