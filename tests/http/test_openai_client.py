"""The unmodified `openai` client against a real server on a real socket, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import uvicorn
from openai.types import ModerationImageURLInputParam, ModerationTextInputParam

from serve_app.http.app import create_app
from serve_app.http.settings import HttpSettings
from serve_app.records import Records
from tests.http.building import build_services

PICTURE = "data:image/png;base64," + base64.b64encode(b"picture").decode()


async def _new_key(url: str) -> str:
    records = await Records.open(url)
    _, shown = await records.keys.create_key("client", ["ingest"])
    await records.close()
    return shown


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(base URL, API key)"""
    folder: Path = tmp_path_factory.mktemp("server")
    key = asyncio.run(_new_key(f"sqlite:///{folder}/parakh.db"))
    app = create_app(build_services(folder, HttpSettings(auth="keys", request_timeout_s=10)))
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1", key
    running.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def client(server: tuple[str, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=server[0], api_key=server[1], max_retries=0)


@pytest.fixture
def async_client(server: tuple[str, str]) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server[0], api_key=server[1], max_retries=0)


def test_a_string(client: openai.OpenAI) -> None:
    answer = client.moderations.create(input="violence", model="omni-moderation-latest")
    (result,) = answer.results
    assert result.flagged
    assert result.categories.violence
    assert result.category_scores.violence > result.category_scores.hate
    assert result.categories.harassment is False
    assert result.category_applied_input_types.violence == ["text"]
    assert answer._request_id is not None


def test_a_list(client: openai.OpenAI) -> None:
    assert [result.flagged for result in client.moderations.create(input=["good", "hate"]).results] == [False, True]


async def test_parts(async_client: openai.AsyncOpenAI) -> None:
    text: ModerationTextInputParam = {"type": "text", "text": "sexual"}
    picture: ModerationImageURLInputParam = {"type": "image_url", "image_url": {"url": PICTURE}}
    parts: list[ModerationImageURLInputParam | ModerationTextInputParam] = [text, picture]
    answer = await async_client.moderations.create(input=parts)
    (result,) = answer.results
    assert result.categories.sexual
    assert result.category_applied_input_types.sexual == ["text", "image"]


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="xlmr", input=["one", "two words"])
    assert len(answer.data[1].embedding) == 8  # the client asks for base64 and unpacks it
    assert answer.usage.prompt_tokens == 3 + 4


async def test_embeddings_as_floats(async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.embeddings.create(model="clip", input=PICTURE, encoding_format="float")
    assert sum(value**2 for value in answer.data[0].embedding) == pytest.approx(1.0)


def test_errors_are_the_clients_own_classes(client: openai.OpenAI, server: tuple[str, str]) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.moderations.create(input="hi", model="nobody")
    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="xlmr", input=[[1, 2]])
    stranger = openai.OpenAI(base_url=server[0], api_key="pk_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.moderations.create(input="hi")
