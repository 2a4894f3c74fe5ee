"""What the operator may set about an index."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Metric = Literal["cosine", "inner_product", "l2", "hamming", "jaccard"]
IndexType = Literal["FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "IVF_PQ", "IVF_RABITQ"]
BINARY_METRICS = frozenset({"hamming", "jaccard"})


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IndexSettings(Frozen):
    """One index's type and parameters; a partition may have its own."""

    metric: Metric = Field("cosine", description="How two vectors are compared.")
    index_type: IndexType = Field(
        "IVF_SQ8",
        description="FLAT (exact), IVF_FLAT, IVF_SQ8, HNSW (SQ8 codes), IVF_PQ (fast-scan, re-ranked) or IVF_RABITQ "
        "(1-bit codes, re-ranked). FLAT or IVF_FLAT for hamming and jaccard.",
    )
    nlist: int | None = Field(None, ge=1, description="Inverted lists; default: 4 x sqrt(rows) at training time.")
    nprobe: int | None = Field(None, ge=1, le=2048, description="Lists searched; default: tuned to `target_recall`.")
    ef_search: int | None = Field(None, ge=1, le=4096, description="HNSW: candidates kept; default: tuned.")
    hnsw_m: int = Field(16, ge=4, le=64, description="HNSW: links of a node.")
    target_recall: float = Field(0.95, gt=0, lt=1, description="recall@10 that nprobe and ef_search are tuned to.")
    rerank: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Candidates taken from the codes for each neighbour wanted, then scored exactly; default: 10 for "
        "IVF_PQ and IVF_RABITQ, otherwise 4.",
    )
    row_dtype: Literal["float16", "float32"] = Field(
        "float16", description="Precision of the stored rows, which scores and thresholds are computed from."
    )
    train_from: int = Field(
        20_000, ge=256, description="Rows from which on a quantiser is trained; fewer are searched exactly."
    )
    buffer_bytes: int = Field(1 << 20, ge=4096, description="Write buffer, searched exactly; full, it is sealed.")
    seal_rows: int = Field(32_768, ge=64, description="Sealed rows that are gathered in memory before a segment file.")
    max_dead_share: float = Field(0.2, gt=0, le=1, description="Deleted share of a segment at which it is rewritten.")
    retrain_growth: float = Field(
        1.0, gt=0, description="Growth of the rows since training at which the quantiser is trained anew."
    )
    snapshot_s: float = Field(
        300.0, gt=0, description="At most so long until new rows are in a segment file; a restart replays the rest."
    )
    scrub_h: float = Field(
        24.0, ge=0, description="Hours in which all rows and segments are read once and checked; 0 switches it off."
    )
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="cpu, or cuda:N to search large segments there (FLAT, IVF_FLAT and IVF_SQ8).",
    )

    @property
    def candidates_per_neighbour(self) -> int:
        return self.rerank or (10 if self.index_type in ("IVF_PQ", "IVF_RABITQ") else 4)

    @model_validator(mode="after")
    def _device_types(self) -> IndexSettings:
        on_gpu = self.index_type in ("FLAT", "IVF_FLAT", "IVF_SQ8") and self.metric not in BINARY_METRICS
        if self.device != "cpu" and not on_gpu:
            raise ValueError(
                f"index_type {self.index_type} with metric {self.metric} has no form for a GPU: device cpu"
            )
        return self

    @model_validator(mode="after")
    def _binary_types(self) -> IndexSettings:
        if self.metric in BINARY_METRICS and self.index_type not in ("FLAT", "IVF_FLAT"):
            raise ValueError(f"index_type {self.index_type} has no codes for metric {self.metric}: FLAT or IVF_FLAT")
        return self
