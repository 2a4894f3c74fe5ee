"""One server, called with a deadline: transient errors are tried again, all others become errors of this system.

pymilvus itself repeats a call whose connection broke, until the call's timeout; repeated here is what it gives up on
although the server says that it passes. Every call made is idempotent (upsert, delete, reads, create if absent).
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from typing import Any

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException, ParamError

from deployments.runtime.errors import InvalidInput, NodeUnavailable, ParakhError
from deployments.similarity.errors import IndexClosed
from deployments.similarity.milvus.settings import MilvusSettings

logger = logging.getLogger(__name__)

OLDEST = (2, 3)

# Codes of Milvus' pkg/util/merr/errors.go that name a passing state: service not ready, unavailable, out of memory or
# of requests, rate limit; collection not (fully) loaded; replica, channel, segment or node not (yet) there.
_TRANSIENT = frozenset({1, 2, 3, 4, 8, 101, 103, 400, 401, 500, 501, 503, 600, 601, 602, 901, 902, 903, 904, 905})
_CALLERS_FAULT = frozenset({1100, 1101})  # parameter invalid, missing
_COLLECTION_NOT_FOUND = 100

_CHANNEL = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 500,
    "grpc.max_reconnect_backoff_ms": 2_000,  # gRPC's own is two minutes: so long after an outage it would not look
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_permit_without_calls": 0,  # servers answer pings of idle clients with "too many pings"
}


class ServerTooOld(NodeUnavailable):
    message = "The Milvus server is too old."


class MilvusConnection:
    """Every method may be called from any thread. Raises NodeUnavailable where there is no server."""

    def __init__(self, settings: MilvusSettings, client: Callable[..., Any] = MilvusClient) -> None:
        self.settings = settings
        self._new_client = client
        self._client: Any = self._connected()
        version = str(self.call("get_server_version"))
        self.is_lite = version.startswith("milvus_lite")
        numbers = re.match(r"v?(\d+)\.(\d+)", version)
        self.version_text = version
        self.version = OLDEST if self.is_lite or numbers is None else (int(numbers[1]), int(numbers[2]))
        if self.version < OLDEST:
            raise ServerTooOld(f"Milvus {version} is too old: {OLDEST[0]}.{OLDEST[1]} or later is needed.")

    def call(self, method: str, *args: Any, timeout_s: float | None = None, **kwargs: Any) -> Any:
        """A method of MilvusClient, in at most `timeout_s` (default: the settings') with all retries.

        Raises:
            NodeUnavailable: no connection, no answer in time, or a server that cannot.
            InvalidInput: the server refuses what was sent.
            IndexClosed: after `close`.
        """
        deadline = time.monotonic() + (timeout_s or self.settings.timeout_s)
        attempt = 0
        while True:
            client = self._client
            if client is None:
                raise IndexClosed
            try:
                remaining = max(deadline - time.monotonic(), 0.001)
                return getattr(client, method)(*args, timeout=remaining, **kwargs)
            except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
                wait = self._wait_s(attempt)
                if attempt == self.settings.retries or not _passes(error) or time.monotonic() + wait > deadline:
                    raise _translated(method, error) from error
            time.sleep(wait)
            attempt += 1

    def has(self, collection: str) -> bool:
        return bool(self.call("has_collection", collection))

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Any:
        try:
            client = self._new_client(
                uri=self.settings.uri,
                token=self.settings.token.get_secret_value(),
                db_name=self.settings.database,
                timeout=self.settings.timeout_s,
                grpc_options=_CHANNEL,
            )
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise _translated("connect", error) from error
        if isinstance(client, MilvusClient):
            # pymilvus 3.0 opens a new channel when one fails, under one lock of the process: of n threads that lose a
            # server the last waits n connection timeouts, however short its own. gRPC's channel reconnects by itself.
            client._get_connection()._on_rpc_error = _left_to_grpc
        return client

    def _wait_s(self, attempt: int) -> float:
        longest: float = min(self.settings.backoff_s * 2**attempt, self.settings.max_backoff_s)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


def _left_to_grpc(error: Exception) -> bool:
    return False


def _passes(error: Exception) -> bool:
    return isinstance(error, MilvusException) and (error.code in _TRANSIENT or error.retriable)


def _translated(method: str, error: Exception) -> ParakhError:
    """The server's own words go to the log, not to the client."""
    logger.warning("Milvus refused %s: %s", method, error)
    if isinstance(error, MilvusException):
        if error.is_input_error or error.code in _CALLERS_FAULT or isinstance(error, ParamError):
            return InvalidInput("The vector database refuses what the request holds.")
        if error.code == _COLLECTION_NOT_FOUND:
            return NodeUnavailable("A collection of the vector database is not there.")
    return NodeUnavailable("The vector database does not answer this request now.")
