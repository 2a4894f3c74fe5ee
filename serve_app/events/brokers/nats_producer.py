"""Records -> JetStream, each acknowledged once it is in the stream's file.

A record's id goes as Nats-Msg-Id: sent twice within the stream's window, it is stored once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nats.aio.client import Client
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from deployments.runtime.errors import ParakhError
from serve_app.events.brokers.base import (
    BrokerUnavailable,
    MessageTooLarge,
    OutRecord,
    TopicMissing,
    publish_in_order,
)
from serve_app.events.brokers.nats_client import FAILURES, closed, connect, create_stream, to_headers
from serve_app.events.settings import BrokerSettings

log = logging.getLogger(__name__)

_TOO_LARGE = 10054  # JetStream's own code: above the stream's max_msg_size
_HEADER_LINE = len("NATS/1.0\r\n\r\n")


class NatsProducer:
    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._client: Client | None = None

    async def start(self) -> None:
        await self.close()
        self._client = await connect(self._settings)

    async def publish(self, records: Sequence[OutRecord]) -> list[ParakhError | None]:
        try:
            if self._client is None or self._client.is_closed:  # some errors of the server close it for good
                await self.start()
        except BrokerUnavailable as error:
            return [error] * len(records)
        assert self._client is not None
        jetstream = self._client.jetstream(timeout=self._settings.request_timeout_s)
        return await publish_in_order(records, lambda record: self._send(jetstream, record))

    async def _send(self, jetstream: JetStreamContext, record: OutRecord) -> ParakhError | None:
        assert self._client is not None
        if not self._client.is_connected:
            return BrokerUnavailable()  # nats-py would put it aside, and nobody would know until when
        headers = to_headers(record.key, record.headers)
        if record.id:
            headers[Header.MSG_ID] = record.id
        # the server counts headers too, and hangs up on who sends more than it takes
        size = len(record.value) + _HEADER_LINE + sum(len(name) + len(value) + 4 for name, value in headers.items())
        if size > self._client.max_payload:
            return MessageTooLarge()
        try:
            await jetstream.publish(record.topic, record.value, headers=headers or None)
        except MaxPayloadError:
            return MessageTooLarge()
        except NoStreamResponseError:
            return TopicMissing()
        except APIError as error:
            log.warning("nats: not stored in %s: %r", record.topic, error)
            return MessageTooLarge() if error.err_code == _TOO_LARGE else BrokerUnavailable()
        except FAILURES as error:
            log.warning("nats: not sent to %s: %r", record.topic, error)
            return BrokerUnavailable()
        return None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await closed(client)


async def ensure_topics(settings: BrokerSettings, topics: Sequence[str]) -> None:
    """Raises BrokerUnavailable."""
    client = await connect(settings)
    try:
        jetstream = client.jetstream(timeout=settings.request_timeout_s)
        for topic in topics:
            try:
                await jetstream.find_stream_name_by_subject(topic)
            except NotFoundError:
                await create_stream(jetstream, settings, topic)
    except FAILURES as error:
        log.warning("nats: topics not created: %r", error)
        raise BrokerUnavailable from error
    finally:
        await closed(client)
