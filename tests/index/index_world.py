"""What an operator types, on real directories, and what `parakh index` prints and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.backends import EmbeddedBackend
from deployments.similarity.partitions.partitions import Partitions

NAME = "posts.hi.video.visual"
KEY = PartitionKey.parse(NAME)
CLIP = EncoderId("clip", "1")
DIMENSION = 8


@dataclass
class Told:
    code: int
    out: str
    err: str

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class World:
    directory: Path
    config: Path
    run: Callable[..., Told]

    @property
    def root(self) -> Path:
        return self.directory / "data" / "similarity"

    def parakh(self, *args: str | Path) -> Told:
        return self.run("index", *args, "--config", self.config)

    def build(self, vectors: NDArray[Any], ids: list[str] | None = None, *, encoder: str = "clip@1") -> Told:
        path = self.directory / "vectors.npy"
        np.save(path, vectors)
        if ids is not None:
            (self.directory / "vectors.ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
        told = self.parakh("build", NAME, path, "--encoder", encoder)
        assert told.code == 0, told.err
        return told

    def stats(self) -> dict[str, Any]:
        """Of the only partition."""
        (report,) = self.parakh("stats", "--json").reports
        return report

    def opened(self) -> Partitions:
        return Partitions(SimilaritySettings(directory=self.root, lock_wait_s=0), EmbeddedBackend())


def vectors(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path
