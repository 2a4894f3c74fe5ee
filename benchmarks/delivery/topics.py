"""The broker's side of the reckoning: a topic from its beginning to its end, and how far the group has committed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

READ_S = 60.0
QUIET_MS = 700


async def read_topic(broker: str, topic: str) -> list[ConsumerRecord]:
    """All of it, from the beginning until nothing more comes. Raises TimeoutError where less comes than there is."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = await _partitions(consumer, topic)
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        found: list[ConsumerRecord] = []
        async with asyncio.timeout(READ_S):
            while (more := await consumer.getmany(timeout_ms=QUIET_MS)) or not await _reached(consumer, ends):
                found += [record for records in more.values() for record in records]
        return found
    finally:
        await consumer.stop()


async def behind(broker: str, group: str, topics: Sequence[str]) -> dict[str, int]:
    """`topic/partition` -> messages between the group's committed offset and the end, where there are any."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        found = {}
        for topic in topics:
            partitions = await _partitions(consumer, topic)
            for partition, end in (await consumer.end_offsets(partitions)).items():
                if missing := end - (await consumer.committed(partition) or 0):
                    found[f"{topic}/{partition.partition}"] = missing
        return found
    finally:
        await consumer.stop()


async def _reached(consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> bool:
    return all([await consumer.position(partition) >= end for partition, end in ends.items()])


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    await consumer.topics()  # fetches the metadata
    return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
