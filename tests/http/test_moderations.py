"""POST /v1/moderations: OpenAI's shape, and more."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from deployments.runtime.errors import Overloaded
from serve_app.http.fakes import CATEGORIES, FakeModerator
from serve_app.records import Records

PICTURE = "data:image/png;base64," + base64.b64encode(b"picture").decode()


async def moderate(client: httpx.AsyncClient, given: Any, **more: Any) -> httpx.Response:
    return await client.post("/v1/moderations", json={"input": given, **more})


async def result(client: httpx.AsyncClient, given: Any) -> dict[str, Any]:
    answer = await moderate(client, given)
    assert answer.status_code == 200, answer.text
    (only,) = answer.json()["results"]
    return dict(only)


async def test_a_text_is_flagged_by_what_it_holds(client: httpx.AsyncClient) -> None:
    found = await result(client, "violence here")
    assert found["flagged"] is True
    assert found["categories"]["violence"] is True
    assert found["decision"]["action"] == "block"
    assert found["severity"]["violence"] == 6


async def test_an_innocent_text_has_no_true_category(client: httpx.AsyncClient) -> None:
    found = await result(client, "good morning")
    assert found["flagged"] is False
    assert not any(found["categories"].values())
    assert found["category_scores"]["safe"] == pytest.approx(0.9)


async def test_names_are_ours_and_openais_true_counterparts(client: httpx.AsyncClient) -> None:
    found = await result(client, "abusive words")
    assert set(found["category_scores"]) == {*CATEGORIES, "harassment", "illicit"}
    assert set(found["categories"]) == set(found["category_applied_input_types"]) == set(found["category_scores"])
    assert found["category_scores"]["harassment"] == found["category_scores"]["abusive"]
    assert found["categories"]["harassment"] is True


async def test_each_text_of_a_list_has_its_own_result(client: httpx.AsyncClient) -> None:
    answer = (await moderate(client, ["good", "hate", "fine"])).json()
    assert [found["flagged"] for found in answer["results"]] == [False, True, False]
    assert answer["model"] == "parakh-local"
    assert answer["id"].startswith("modr-")


@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url"])
async def test_parts_are_one_post(client: httpx.AsyncClient, moderator: FakeModerator, kind: str) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": kind, kind: {"url": PICTURE}}, {"type": "text", "text": "two"}]
    found = await result(client, parts)
    ((post, media),) = moderator.moderated
    assert media is not None
    assert (post.content_type, post.caption, media.data) == (kind.removesuffix("_url"), "one\ntwo", b"picture")
    assert found["modalities"]["audio"] == {"status": "missing"}
    assert "text" in found["category_applied_input_types"]["hate"]


@pytest.mark.parametrize(
    "image_url", ["https://example.org/a.png", {"url": "https://example.org/a.png", "detail": "low"}]
)
async def test_a_url_goes_to_the_guarded_fetch(
    client: httpx.AsyncClient, moderator: FakeModerator, image_url: object
) -> None:
    await result(client, [{"type": "image_url", "image_url": image_url}])
    ((post, media),) = moderator.moderated
    assert media is not None
    assert (post.caption, media.url) == (None, "https://example.org/a.png")


@pytest.mark.parametrize("model", ["omni-moderation-latest", "text-moderation-latest", "parakh-local", None])
async def test_known_models(client: httpx.AsyncClient, model: str | None) -> None:
    assert (await moderate(client, "hi", model=model)).json()["model"] == "parakh-local"


@pytest.mark.parametrize("model", ["gpt-4", "parakh-full", ""])
async def test_unknown_models(client: httpx.AsyncClient, model: str) -> None:
    answer = await moderate(client, "hi", model=model)
    assert answer.status_code == 404
    assert answer.json()["error"] | {"message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("", 400),
        ("   ", 400),
        ([], 400),
        (["a", ""], 400),
        ([1, 2, 3], 400),
        ([[1, 2]], 400),
        (None, 400),
        ({"type": "text", "text": "a"}, 400),
        (["a", {"type": "text", "text": "b"}], 400),
        (["a"] * 33, 400),
        ("x" * 100_001, 413),
        ([{"type": "text"}], 400),
        ([{"type": "poem", "poem": "a"}], 400),
        ([{"type": "image_url", "image_url": {}}], 400),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], 400),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}], 400),
        ([{"type": "image_url", "image_url": {"url": "data:"}}], 400),
        ([{"type": "image_url", "image_url": {"url": PICTURE}}] * 2, 400),
    ],
)
async def test_inputs_that_cannot_be_judged(
    client: httpx.AsyncClient, moderator: FakeModerator, given: object, status: int
) -> None:
    answer = await moderate(client, given)
    assert answer.status_code == status, answer.text
    assert str(answer.json()["error"]["param"]).startswith("input")
    assert moderator.moderated == []


async def test_the_error_points_at_the_part(client: httpx.AsyncClient) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"address": "x"}}]
    assert (await moderate(client, parts)).json()["error"]["param"] == "input.1.image_url.url"


async def test_one_error_is_the_answer_to_the_whole_batch(client: httpx.AsyncClient, moderator: FakeModerator) -> None:
    moderator.errors = [Overloaded()]
    assert (await moderate(client, ["a", "b", "c"])).status_code == 429


async def test_nothing_is_stored(client: httpx.AsyncClient, services: Any) -> None:
    await moderate(client, "violence")
    records: Records = services.records
    assert (await records.jobs.state()).unfinished == 0
    assert await records.outbox.pending() == []
