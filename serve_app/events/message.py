"""A message as a broker gave it, before anybody looked inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Message:
    topic: str
    partition: int
    offset: int  # with topic and partition: where it lies for ever (NATS: the stream's sequence, partition 0)
    value: bytes
    timestamp: datetime  # when the broker had it, aware
    key: bytes | None = None
    headers: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, int, int]:
        return self.topic, self.partition, self.offset
