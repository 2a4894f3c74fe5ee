"""What every request passes before a route sees it: an id, a last resort for errors, a deadline, a cap on its body.

    RequestId -> Deadline (504) -> BodyCap (413, counted while the body streams in) -> routes

Plain ASGI, so that nothing is buffered on the way.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.runtime.errors import DeadlineExceeded, ParakhError, TooLarge
from serve_app.http.errors import render

log = logging.getLogger(__name__)
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """Takes a sane X-Request-Id or makes one, sends it back, and answers what nobody else caught with a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("request %s: the client left before its body was read", request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if started:
                raise
            await render(ParakhError(), request_id)(scope, receive, send_with_id)


class Deadline:
    """Cancels a request at its deadline; `time_left_s` tells a route how long it has."""

    def __init__(self, app: ASGIApp, *, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["state"]["deadline"] = asyncio.get_running_loop().time() + self._timeout_s
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self._timeout_s) as timeout:
                await self._app(scope, receive, send_noting_start)
        except TimeoutError:
            if started or not timeout.expired():
                raise
            await render(DeadlineExceeded(), scope["state"]["request_id"])(scope, receive, send)


def time_left_s(request: Request) -> float:
    """Seconds until the request's deadline, never below zero."""
    return max(0.0, float(request.state.deadline) - asyncio.get_running_loop().time())


class BodyCap:
    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._max_bytes:
            error = TooLarge(f"The request is larger than {self._max_bytes} bytes.")
            await render(error, scope["state"]["request_id"])(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise TooLarge(f"The request is larger than {self._max_bytes} bytes.")
            return message

        await self._app(scope, counted, send)
