"""Batch forms: each element is read and done for itself, and has its own answer or error, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from deployments.runtime.errors import ParakhError, TooLarge
from serve_app.http.errors import error_object, invalid_from
from serve_app.http.search_schemas import ItemError

log = logging.getLogger(__name__)
Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")
AT_ONCE = 8


def check_size(items: Sequence[Any], most: int, param: str) -> None:
    if len(items) > most:
        raise TooLarge(f"{param} has more than {most} elements.", param=param)


async def each(
    items: Sequence[Any], model: type[Model], answer: Callable[[Model], Awaitable[Result]]
) -> list[Result | ItemError]:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one(item: Any) -> Result | ItemError:
        async with at_once:
            return await attempt(lambda: answer(parsed(item, model)))

    return list(await asyncio.gather(*(one(item) for item in items)))


async def attempt(call: Callable[[], Awaitable[Result]]) -> Result | ItemError:
    try:
        return await call()
    except ParakhError as error:
        if error.status >= 500 and error.code == ParakhError.code:
            log.exception("one element of a batch failed")
            error = ParakhError()
        return told(error)
    except Exception:  # the edge of an element: the others have their answers
        log.exception("one element of a batch failed")
        return told(ParakhError())


def told(error: ParakhError) -> ItemError:
    return ItemError.model_validate({"error": error_object(error)})


def parsed(item: Any, model: type[Model]) -> Model:
    """Raises InvalidInput."""
    try:
        return model.model_validate(item)
    except ValidationError as error:
        raise invalid_from(error) from None
