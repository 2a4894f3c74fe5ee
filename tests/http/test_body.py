"""Base64 and data: URLs undone, whatever their size."""

from __future__ import annotations

import asyncio
import base64
import os

import pytest

from deployments.runtime.errors import InvalidInput, TooLarge
from serve_app.http.body import decode_base64, decode_data_url, off_loop_if_big

CAP = 8 * 2**20
PIECE_BYTES = 3 * 2**18  # what one piece of base64 holds


@pytest.mark.parametrize("size", [1, 2, 3, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 2])
def test_base64_comes_back_whole(size: int) -> None:
    data = os.urandom(size)
    assert decode_base64(base64.b64encode(data).decode(), max_bytes=CAP, param="x") == data


@pytest.mark.parametrize("wrong", ["YQ==YQ==", "YQ=", "Y", "=", "====", "YQ=A", "é" * 4, "YQ==\n", "Y Q=="])
@pytest.mark.parametrize("before", ["", "A" * 2**20])
def test_what_is_not_base64_is_refused(wrong: str, before: str) -> None:
    with pytest.raises(InvalidInput):
        decode_base64(before + wrong, max_bytes=CAP, param="x")


def test_a_short_data_url_may_be_plain() -> None:
    assert decode_data_url("data:text/plain,a%20b", max_bytes=CAP, param="x") == b"a b"
    with pytest.raises(TooLarge, match="must be in base64"):
        decode_data_url("data:text/plain," + "a" * 8193, max_bytes=CAP, param="x")


async def test_the_event_loop_goes_on_while_something_big_is_undone() -> None:
    text = base64.b64encode(bytes(48 * 2**20)).decode()
    turns = 0
    decoding = asyncio.create_task(off_loop_if_big(len(text), decode_base64, text, max_bytes=2**26, param="x"))
    while not decoding.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert len(await decoding) == 48 * 2**20
    assert turns >= 3
