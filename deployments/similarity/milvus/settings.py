"""How the Milvus backend reaches its server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from deployments.similarity.settings import Frozen

Consistency = Literal["Strong", "Session", "Bounded", "Eventually"]


class MilvusSettings(Frozen):
    """One Milvus server (2.3 or later) or cluster, and how its collections are made."""

    uri: str = Field(
        description="http(s)://HOST:19530, unix:PATH, or a path ending in .db: milvus-lite, in this process, for tests."
    )
    token: SecretStr = Field(SecretStr(""), description="`user:password`, or an API key; empty: no authentication.")
    database: str = Field("", description="Milvus database; empty: its default one.")
    prefix: str = Field(
        "parakh_", pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$", description="Beginning of this system's collection names."
    )
    read_consistency: Consistency = Field(
        "Bounded",
        description="Of searches and reads. A write is acknowledged only once a Strong read has seen it, so that "
        "searches need not wait: Strong makes every search wait for the server's next time tick (200 to 600 ms), "
        "Session those that follow a write.",
    )
    timeout_s: float = Field(10.0, gt=0, description="Of one call, retries included.")
    build_timeout_s: float = Field(600.0, gt=0, description="Of creating, loading and sealing a collection.")
    retries: int = Field(5, ge=0, description="After errors that pass (server busy, rate limit, collection loading).")
    backoff_s: float = Field(0.05, gt=0, description="Wait before the first retry; doubles, with jitter.")
    max_backoff_s: float = Field(2.0, gt=0, description="Longest wait between two retries.")
    replicas: int = Field(
        1,
        ge=1,
        description="In-memory copies of each collection. With more than one, an acknowledged write may reach the "
        "others a time tick later; read_consistency Session or Strong waits for them.",
    )
    shards: int = Field(1, ge=1, le=16, description="Write channels of a new collection.")
    max_request_bytes: int = Field(
        16 << 20, ge=1 << 20, le=60 << 20, description="Larger writes and answers are cut; servers refuse 64 MiB."
    )

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, uri: str) -> str:
        if not uri.startswith(("http://", "https://", "unix:")) and not uri.endswith(".db"):
            raise ValueError("a Milvus uri is http(s)://HOST:PORT, unix:PATH, or a path ending in .db")
        return uri
