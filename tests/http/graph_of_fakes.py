"""The whole service in one process: true pipeline, media node, records and routes; fake encoders, and an index that is
the fake one or the true node.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from PIL import Image, ImageFilter

from deployments.policy.policy import Policy, default_policy
from deployments.similarity.node import SimilarityNode
from deployments.similarity.node_settings import SimilaritySettings
from serve_app.config import AppConfig
from serve_app.fake_similarity import FakeSimilarity
from serve_app.http.app import create_app
from serve_app.http.services import Services
from serve_app.local_nodes import LocalNodes
from serve_app.lookup import Lookup
from serve_app.pipeline import Pipeline
from serve_app.records import Records
from serve_app.records.references import FloodLimit
from serve_app.similarity import Similarity
from serve_app.similarity_calls import SimilarityCalls
from serve_app.similarity_settings import IndexingSettings
from tests.databases import sqlite_url
from tests.http.building import build_services, client_of

INDEXING = IndexingSettings(poll_s=0.02, retry_base_s=0.02)


class CountingNodes(LocalNodes):
    """Local nodes that count what the encoders are asked."""

    def __init__(self, config: AppConfig) -> None:
        super().__init__(config)
        self.encoded = 0

    async def encode_frames(self, frames: Any) -> Any:
        self.encoded += 1
        return await super().encode_frames(frames)

    async def encode_text(self, text: str) -> Any:
        self.encoded += 1
        return await super().encode_text(text)


@dataclass
class Graph:
    nodes: CountingNodes
    similarity: Similarity
    services: Services
    app: FastAPI
    client: httpx.AsyncClient

    async def post(self, post_id: str, picture: bytes, status: int = 200, **fields: Any) -> dict[str, Any]:
        return await self.send(image_post(post_id, **fields), picture, status)

    async def send(self, post: dict[str, Any], picture: bytes, status: int = 200) -> dict[str, Any]:
        answer = await self.client.post("/v1/posts", data={"post": json.dumps(post)}, files={"media": picture})
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    @property
    def fake(self) -> FakeSimilarity:
        assert isinstance(self.similarity, FakeSimilarity)
        return self.similarity

    async def settle(self) -> None:
        """Until every index job is done."""
        while await self.app.state.index_worker.run_once():
            pass


@asynccontextmanager
async def graph_of(
    config: AppConfig,
    folder: Path,
    *,
    policy: Policy | None = None,
    indexing: IndexingSettings = INDEXING,
    similarity: Similarity | None = None,
    **changes: Any,
) -> AsyncIterator[Graph]:
    policy = policy or default_policy()
    nodes, similarity = CountingNodes(config), similarity or FakeSimilarity()
    flood = FloodLimit(indexing.quarantine_posts, indexing.quarantine_window_s)
    records = Records(sqlite_url(folder, "graph.db"), flood)
    lookup = Lookup(similarity, records.known, reuse=indexing.reuse_verdicts)
    services = build_services(
        folder,
        moderator=Pipeline(nodes, policy, lookup),
        records=records,
        index=similarity,
        indexing=indexing,
        policy_version=policy.version,
        **changes,
    )
    await records.start()
    await services.moderator.status()
    app = create_app(services)
    async with client_of(app) as client:
        yield Graph(nodes, similarity, services, app, client)
    await records.close()
    await nodes.close()


@asynccontextmanager
async def true_node(folder: Path) -> AsyncIterator[Similarity]:
    """The similarity node itself, FAISS and all, in this process."""
    unlike = {"thresholds": {"visual": 0.9999, "text": 0.9999, "pdq": 31}}  # mean colours resemble each other always
    settings = {"directory": folder / "similarity", "duplicate": unlike, "protected": unlike}
    node = SimilarityNode(SimilaritySettings.model_validate(settings))

    async def ask(method: str, *arguments: Any, **named: Any) -> Any:
        return await getattr(node, method)(*arguments, **named)

    try:
        yield SimilarityCalls(ask)
    finally:
        await asyncio.to_thread(node.close)


def image_post(post_id: str, **fields: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {"post_id": post_id, "author_id": "a1", "content_type": "image", "created_at": now} | fields


def picture(seed: int = 0, kind: str = "PNG", **options: Any) -> bytes:
    """Smooth enough to be re-encoded without becoming another picture, detailed enough for PDQ."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
