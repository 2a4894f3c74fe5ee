"""OpenAI's embedding shape: which model a request means, and vectors to lists or base64, of unit length."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput, NotFound, TooLarge
from serve_app.http.body import decode_data_url, is_data_url, is_http_url, off_loop_if_big
from serve_app.http.errors import ModelNotFound
from serve_app.http.schemas import EmbeddingBody, EmbeddingItem, EmbeddingRequest, Usage
from serve_app.http.services import Services

TEXT_MODELS = ("xlmr", "clip-text")
IMAGE_MODEL = "clip"
Vector = NDArray[np.float32]


async def embed(services: Services, asked: EmbeddingRequest) -> EmbeddingBody:
    """Raises ModelNotFound, InvalidInput, TooLarge, or what the moderator raised."""
    inputs = [asked.input] if isinstance(asked.input, str) else asked.input
    _check_inputs(inputs, services.settings.max_inputs, services.settings.max_caption_chars, asked.model)
    try:
        if asked.model in TEXT_MODELS:
            vectors, tokens = await _texts(services, asked.model, inputs)
        elif asked.model == IMAGE_MODEL:
            vectors, tokens = await _images(services, inputs), 0
        else:
            raise NotFound
    except NotFound as error:
        raise ModelNotFound(f"The model `{asked.model}` does not exist in this profile.", param="model") from error
    dimension = len(vectors[0])
    if asked.dimensions not in (None, dimension):
        raise InvalidInput(f"`{asked.model}` has {dimension} dimensions and no others.", param="dimensions")
    items = [EmbeddingItem(index=i, embedding=_encoded(v, asked.encoding_format)) for i, v in enumerate(vectors)]
    return EmbeddingBody(data=items, model=asked.model, usage=Usage(prompt_tokens=tokens, total_tokens=tokens))


def _check_inputs(inputs: Sequence[str], max_inputs: int, max_chars: int, model: str) -> None:
    if not inputs:
        raise InvalidInput("input is empty.", param="input")
    if len(inputs) > max_inputs:
        raise InvalidInput(f"input has more than {max_inputs} items.", param="input")
    for index, item in enumerate(inputs):
        if not item.strip():
            raise InvalidInput(f"input.{index} is empty.", param=f"input.{index}")
        if model != IMAGE_MODEL and len(item) > max_chars:
            raise TooLarge(f"input.{index} is longer than {max_chars} characters.", param=f"input.{index}")


async def _texts(services: Services, model: str, texts: list[str]) -> tuple[list[Vector], int]:
    found = await services.moderator.embed_texts(model, texts)
    return [unit(text.vector) for text in found], sum(text.tokens for text in found)


async def _images(services: Services, urls: list[str]) -> list[Vector]:
    images = [await _image(services, url, f"input.{index}") for index, url in enumerate(urls)]
    return [unit(image.vectors.mean(axis=0)) for image in await services.moderator.embed_images(images)]


async def _image(services: Services, url: str, param: str) -> bytes:
    if is_data_url(url):
        cap = services.settings.max_media_bytes
        return await off_loop_if_big(len(url), decode_data_url, url, max_bytes=cap, param=param)
    if is_http_url(url) and services.fetch_media is not None:
        return await services.fetch_media(url)
    accepted = "a data:, http or https URL" if services.fetch_media is not None else "a data: URL"
    raise InvalidInput(f"For the model `{IMAGE_MODEL}` every input is {accepted} of an image.", param=param)


def unit(vector: Vector) -> Vector:
    """Divided by its length, so that a dot product is a cosine; a zero vector stays zero."""
    length = float(np.linalg.norm(vector))
    return (vector / length if length > 0 else vector).astype(np.float32)


def _encoded(vector: Vector, encoding_format: str) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]
