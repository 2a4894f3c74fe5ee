"""Brokers of the event path: `open_source` and `open_producer` by what the settings say, started by who uses them."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.events.brokers.base import (
    BrokerUnavailable,
    MessageTooLarge,
    OutRecord,
    Producer,
    Source,
    TopicMissing,
)
from serve_app.events.settings import BrokerSettings

__all__ = [
    "BrokerUnavailable",
    "MessageTooLarge",
    "OutRecord",
    "Producer",
    "Source",
    "TopicMissing",
    "ensure_topics",
    "open_producer",
    "open_source",
]


def open_source(settings: BrokerSettings, topics: Sequence[str]) -> Source:
    """A member of the settings' group, not yet started."""
    if settings.kind == "kafka":
        from serve_app.events.brokers.kafka import KafkaSource

        return KafkaSource(settings, topics)
    if settings.kind == "nats":
        from serve_app.events.brokers.nats import NatsSource

        return NatsSource(settings, topics)
    raise ValueError("the broker is off")


def open_producer(settings: BrokerSettings) -> Producer:
    """Not yet started."""
    if settings.kind == "kafka":
        from serve_app.events.brokers.kafka_producer import KafkaProducer

        return KafkaProducer(settings)
    if settings.kind == "nats":
        from serve_app.events.brokers.nats_producer import NatsProducer

        return NatsProducer(settings)
    raise ValueError("the broker is off")


async def ensure_topics(settings: BrokerSettings, topics: Sequence[str]) -> None:
    """Creates those that do not exist and leaves the others as they are. Raises BrokerUnavailable."""
    if settings.kind == "kafka":
        from serve_app.events.brokers import kafka_producer

        await kafka_producer.ensure_topics(settings, topics)
    elif settings.kind == "nats":
        from serve_app.events.brokers import nats_producer

        await nats_producer.ensure_topics(settings, topics)
