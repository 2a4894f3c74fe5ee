"""Records -> Kafka, acknowledged by all in-sync replicas; topics that do not exist -> created.

The producer is idempotent where the broker can do it: its own retries then neither double nor reorder. After a failure
it is thrown away and made anew, because a sequence of numbers with a hole in it is refused from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NoError, TopicAlreadyExistsError, for_code

from deployments.runtime.errors import ParakhError
from serve_app.events.brokers.base import BrokerUnavailable, OutRecord, publish_in_order
from serve_app.events.brokers.kafka_client import FAILURES, connection, meaning
from serve_app.events.settings import BrokerSettings, KafkaSettings

log = logging.getLogger(__name__)

_HINT = "; where this is an UnknownError, the broker may lack InitProducerId: set kafka.idempotent to false"
BATCH_BYTES = 256 * 1024


class KafkaProducer:
    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        await self.close()
        settings = self._settings
        producer = AIOKafkaProducer(
            **connection(settings),
            acks="all",
            enable_idempotence=settings.kafka.idempotent,
            max_request_size=settings.kafka.max_message_bytes,
            max_batch_size=min(BATCH_BYTES, settings.kafka.max_message_bytes),
        )
        try:
            await asyncio.wait_for(producer.start(), settings.connect_timeout_s)
        except FAILURES as error:
            hint = (
                " (without InitProducerId a broker needs kafka.idempotent: false)" if settings.kafka.idempotent else ""
            )
            log.warning("kafka: no connection: %r%s", error, hint)
            await _stopped(producer)
            raise BrokerUnavailable from error
        except BaseException:
            await _stopped(producer)
            raise
        self._producer = producer

    async def publish(self, records: Sequence[OutRecord]) -> list[ParakhError | None]:
        try:
            if self._producer is None:
                await self.start()
        except BrokerUnavailable as error:
            return [error] * len(records)
        results = await publish_in_order(records, self._send)
        if any(type(error) is BrokerUnavailable for error in results):
            await self.close()
        return results

    async def _send(self, record: OutRecord) -> ParakhError | None:
        assert self._producer is not None
        try:
            await self._producer.send_and_wait(
                record.topic, record.value, key=record.key, headers=list(record.headers.items())
            )
        except FAILURES as error:
            log.warning("kafka: not sent to %s: %r", record.topic, error)
            return meaning(error)
        return None

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stopped(producer, self._settings.request_timeout_s)


async def ensure_topics(settings: BrokerSettings, topics: Sequence[str]) -> None:
    """Raises BrokerUnavailable."""
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        async with asyncio.timeout(settings.connect_timeout_s + settings.request_timeout_s):
            await admin.start()
            missing = sorted(set(topics) - set(await admin.list_topics()))
            if missing:
                wanted = [_new(name, settings.kafka) for name in missing]
                for name, code, *_ in (await admin.create_topics(wanted)).topic_errors:
                    if (kind := for_code(code)) not in (NoError, TopicAlreadyExistsError):
                        raise BrokerUnavailable(f"The message broker refuses to create the topic {name}.") from kind()
    except FAILURES as error:
        log.warning("kafka: topics not created: %r", error)
        raise BrokerUnavailable from error
    finally:
        await admin.close()


def _new(name: str, settings: KafkaSettings) -> NewTopic:
    if settings.replication_factor is None:  # aiokafka wants an assignment beside the -1 that means the default
        return NewTopic(name, settings.partitions, -1, {})
    return NewTopic(name, settings.partitions, settings.replication_factor)


async def _stopped(producer: AIOKafkaProducer, wait_s: float = 5.0) -> None:
    try:
        await asyncio.wait_for(producer.stop(), wait_s)
    except FAILURES as error:
        log.info("kafka: producer closed without a farewell: %r", error)
