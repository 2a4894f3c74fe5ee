"""What the operator may set about the event path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIB = 1024 * 1024


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSecurity(Frozen):
    """How the broker knows this side, and how this side knows the broker."""

    tls: bool = Field(False, description="Encrypt, and check the broker's certificate and host name.")
    ca_file: Path | None = Field(
        None, description="PEM file of the authorities that sign the broker; unset: the system's."
    )
    cert_file: Path | None = Field(None, description="PEM file of this side's own certificate, where one is asked for.")
    key_file: Path | None = Field(None, description="PEM file of its key.")
    mechanism: Literal["none", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "none", description="SASL mechanism of Kafka. NATS takes user name and password whatever stands here."
    )
    username: str | None = Field(None, description="User name.")
    password_file: Path | None = Field(None, description="File that holds the password, and nothing else.")

    def password(self) -> str | None:
        """Raises OSError where the file cannot be read."""
        return None if self.password_file is None else self.password_file.read_text(encoding="utf-8").strip("\r\n")

    @model_validator(mode="after")
    def _whole(self) -> BrokerSecurity:
        if self.mechanism != "none" and (self.username is None or self.password_file is None):
            raise ValueError(f"mechanism {self.mechanism} needs `username` and `password_file`")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("`username` and `password_file` go together")
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError("certificates are given, but `tls` is off")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("`key_file` needs `cert_file`")
        return self


class TopicNames(Frozen):
    """Where events come from and where they go."""

    posts: str = Field("parakh.posts", description="Posts that were created; empty: not read.")
    clips: str = Field("parakh.clips", description="Clips of livestreams; empty: not read.")
    views: str = Field("parakh.views", description="View counts of posts; empty: not read.")
    dead_letters: str = Field(
        "parakh.dead-letters", description="Messages that can never be worked off, with the reason."
    )
    renamed: dict[str, str] = Field(
        {}, description="Outgoing topic, for instance `parakh.verdicts` -> its name at the broker, where that differs."
    )

    @property
    def incoming(self) -> tuple[str, ...]:
        return tuple(name for name in (self.posts, self.clips, self.views) if name)

    def outgoing(self, topic: str) -> str:
        """The broker's name of one of the outbox's topics."""
        return self.renamed.get(topic, topic)

    @model_validator(mode="after")
    def _apart(self) -> TopicNames:
        named = (*self.incoming, self.dead_letters, *self.renamed.values())
        if len(set(named)) != len(named):
            raise ValueError("two topics have the same name")
        for name in named:  # what both brokers take: Kafka's legal characters, no empty token for NATS
            if not name or len(name) > 200 or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name):
                raise ValueError(f"`{name}` is no topic name: ASCII letters, digits, `.`, `_` and `-`, at most 200")
            if "" in name.split("."):
                raise ValueError(f"`{name}` is no topic name: a dot stands between two words")
        return self


class KafkaSettings(Frozen):
    """What only Kafka asks."""

    session_timeout_s: float = Field(
        15.0, gt=0, description="A member that gives no sign of life for so long loses its partitions."
    )
    max_poll_interval_s: float = Field(
        120.0, gt=0, description="A consumer that neither takes nor keeps messages for so long is stuck and leaves."
    )
    partition_fetch_bytes: int = Field(
        4 * MIB, ge=1024, description="Fetched ahead of one partition; a single larger message is still fetched whole."
    )
    fetch_bytes: int = Field(64 * MIB, ge=1024, description="Fetched at once from one broker, all partitions together.")
    idempotent: bool = Field(
        True, description="No duplicates from the producer's own retries; off for brokers that lack InitProducerId."
    )
    max_message_bytes: int = Field(
        MIB, ge=1024, description="Largest record that is sent; not above the topics' `max.message.bytes`."
    )
    partitions: int = Field(12, ge=1, description="Partitions of a topic that is created; bounds the group's members.")
    replication_factor: int | None = Field(
        None, ge=1, description="Replicas of a topic that is created; unset: the broker's default."
    )


class NatsSettings(Frozen):
    """What only NATS JetStream asks. Streams bear the topic's name, with `_` for dots."""

    ack_wait_s: float = Field(
        30.0, gt=0, description="A message in work for which no sign of life came for so long goes to another member."
    )
    max_ack_pending: int = Field(1024, ge=1, description="Messages of a topic that the group has in work at most.")
    dedupe_window_s: float = Field(
        120.0, gt=0, description="A record sent twice within it is stored once; of streams that are created."
    )
    max_age_s: float = Field(
        7 * 86_400.0, ge=0, description="How long messages stay; of streams that are created. 0: for ever."
    )
    replicas: int = Field(1, ge=1, le=5, description="Replicas of a stream that is created; odd, 3 in a cluster.")


class BrokerSettings(Frozen):
    """The message broker: where events come from and where they go."""

    kind: Literal["off", "kafka", "nats"] = Field(
        "off", description="off: no events; kafka: any broker that speaks Kafka's protocol; nats: NATS JetStream."
    )
    servers: tuple[str, ...] = Field((), description="host:port of some of the cluster, for instance kafka:9092.")
    group: str = Field(
        "parakh", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Consumer group: its members share the messages."
    )
    client_id: str = Field("parakh", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Name in the broker's own logs.")
    connect_timeout_s: float = Field(10.0, gt=0, description="How long a connection may take.")
    request_timeout_s: float = Field(15.0, gt=0, description="How long the broker may take to answer.")
    create_topics: bool = Field(True, description="Create topics that do not exist.")
    security: BrokerSecurity = Field(default_factory=BrokerSecurity, description="TLS and passwords.")
    topics: TopicNames = Field(default_factory=TopicNames, description="Names of topics.")
    kafka: KafkaSettings = Field(default_factory=KafkaSettings, description="Only for kind kafka.")
    nats: NatsSettings = Field(default_factory=NatsSettings, description="Only for kind nats.")

    @model_validator(mode="after")
    def _whole(self) -> BrokerSettings:
        if self.kind != "off" and not self.servers:
            raise ValueError(f"broker {self.kind} needs `servers`, for instance ['{self.kind}:{_PORTS[self.kind]}']")
        for server in self.servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdigit() or "/" in server or "@" in server:
                raise ValueError(f"`{server}` is not host:port (security is set in `security`)")
        return self


_PORTS = {"kafka": 9092, "nats": 4222}
