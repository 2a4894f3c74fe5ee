"""What the operator may set about an index, and about the node: partitions, uses, thresholds."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.similarity.content import ANY

Metric = Literal["cosine", "inner_product", "l2", "hamming", "jaccard"]
IndexType = Literal["FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "IVF_PQ", "IVF_RABITQ"]
BINARY_METRICS = frozenset({"hamming", "jaccard"})
MAX_SIGNATURES = 64
"""Frame signatures of one post that an index may hold: a bound on what removing a post looks for."""


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
    buffer_bytes: int = Field(2 << 20, ge=4096, description="Write buffer, searched exactly; full, it is sealed.")
    seal_rows: int = Field(32_768, ge=64, description="Sealed rows that are gathered in memory before a segment file.")
    max_dead_share: float = Field(0.2, gt=0, le=1, description="Deleted share of a segment at which it is rewritten.")
    retrain_growth: float = Field(
        1.0, gt=0, description="Growth of the rows since training at which the quantiser is trained anew."
    )
    snapshot_s: float = Field(
        300.0, gt=0, description="At most so long until new rows are in a segment file; a restart replays the rest."
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, or cuda:N for large segments.")

    @model_validator(mode="after")
    def _binary_types(self) -> IndexSettings:
        if self.metric in BINARY_METRICS and self.index_type not in ("FLAT", "IVF_FLAT"):
            raise ValueError(f"index_type {self.index_type} has no codes for metric {self.metric}: FLAT or IVF_FLAT")
        return self


_NO_VISUAL_CODES = IndexSettings(metric="hamming", index_type="FLAT")

PLATFORM_LANGUAGES = (
    "as", "bgc", "bho", "bn", "en", "gu", "hi", "kn", "ml", "mr", "or", "pa", "raj", "ta", "te", "ur",
)  # fmt: skip


_NO_LANGUAGE = frozenset({"any", "und", "mul", "zxx", "mis"})  # ISO 639-2: undetermined, several, none, uncoded
_RENAMED_LANGUAGES = {"iw": "he", "in": "id", "ji": "yi"}  # deprecated in the IANA registry


class IndexDefaults(Frozen):
    """What a new partition's index is, by what it holds."""

    visual: IndexSettings = Field(default_factory=IndexSettings, description="Mean frame vectors.")
    joint: IndexSettings = Field(default_factory=IndexSettings, description="Frame vectors in the space of texts.")
    audio: IndexSettings = Field(default_factory=IndexSettings, description="Mean vectors of the sound.")
    text: IndexSettings = Field(default_factory=IndexSettings, description="Vectors of the texts.")
    pdq: IndexSettings = Field(
        _NO_VISUAL_CODES, description="256-bit signatures of frames; FLAT misses none, IVF_FLAT serves past 10 M."
    )


class IndexOverride(Frozen):
    """Other index settings for the partitions whose name matches."""

    partition: str = Field(
        pattern=r"^[a-z0-9*?-]+(\.[a-z0-9*?-]+){3}$",
        description="Shell pattern of bank.language.content_type.modality, for instance `posts.hi.video.*`.",
    )
    index: dict[str, Any] = Field(description="The fields of the index settings that differ from the default.")

    def applied_to(self, base: IndexSettings) -> IndexSettings:
        """Raises ValidationError where the fields do not fit `base`."""
        return IndexSettings.model_validate({**base.model_dump(), **self.index})

    @model_validator(mode="after")
    def _known_fields(self) -> IndexOverride:
        unknown = sorted(set(self.index) - set(IndexSettings.model_fields))
        if unknown:
            raise ValueError(f"unknown index settings: {', '.join(unknown)}")
        return self


class Thresholds(Frozen):
    """The worst score that is a match; none: this use does not compare such vectors."""

    visual: float | None = Field(None, ge=-1, le=1, description="Cosine of mean frame vectors.")
    audio: float | None = Field(None, ge=-1, le=1, description="Cosine of mean sound vectors.")
    text: float | None = Field(None, ge=-1, le=1, description="Cosine of text vectors.")
    joint: float | None = Field(None, ge=-1, le=1, description="Cosine in the space shared with text.")
    pdq: int | None = Field(None, ge=0, le=127, description="Differing bits of 256 between two frames' signatures.")

    def of(self, modality: str) -> float | None:
        value: float | None = getattr(self, modality, None)
        return value


class UseSettings(Frozen):
    """One reason to compare content: what counts as a match."""

    enabled: bool = Field(True, description="Off: the use finds nothing and costs nothing.")
    thresholds: Thresholds = Field(default_factory=Thresholds, description="What counts, for every encoder.")
    by_encoder: dict[str, Thresholds] = Field(
        default_factory=dict,
        description="Thresholds of one encoder, by its name: cosines do not carry over.",
    )
    covered_share: float = Field(
        0.0, ge=0, le=1, description="Share of the shorter video that must match, in order of its frames."
    )
    matched_frames: int = Field(
        1, ge=1, description="Frames of two videos that must match; of a shorter video, all it has."
    )
    duration_tolerance: float = Field(
        0.1, ge=0, le=1, description="How far durations may differ where no frames are kept to compare: a share."
    )

    def threshold(self, modality: str, encoder: str) -> float | None:
        return self.by_encoder.get(encoder, self.thresholds).of(modality)


def _known_bad() -> UseSettings:
    return UseSettings(thresholds=Thresholds(pdq=31))


def _protected() -> UseSettings:
    return UseSettings(thresholds=Thresholds(visual=0.95, audio=0.97, text=0.98, pdq=31), matched_frames=2)


def _duplicate() -> UseSettings:
    return UseSettings(
        thresholds=Thresholds(visual=0.97, audio=0.98, text=0.98, pdq=31), covered_share=0.5, matched_frames=3
    )


def primary_subtag(tag: str) -> str:
    """Lower-case primary subtag of a BCP-47 tag (RFC 5646); `any` where it names no language."""
    primary = tag.replace("_", "-").split("-", 1)[0].lower()
    if not (primary.isascii() and primary.isalpha() and 2 <= len(primary) <= 8) or primary in _NO_LANGUAGE:
        return ANY
    return _RENAMED_LANGUAGES.get(primary, primary)


class SimilaritySettings(Frozen):
    """The similarity node: where its partitions lie, what they are, and what counts as a match."""

    backend: Literal["embedded", "milvus"] = Field(
        "embedded", description="embedded: FAISS over a durable row store in `directory`; milvus: a Milvus server."
    )
    directory: Path = Field(
        Path("~/.parakh/similarity"), description="Root of all partitions, on a local disk; one process owns it."
    )
    lock_wait_s: float = Field(
        30.0, ge=0, description="How long a starting node waits for the one before it to let go of the directory."
    )
    indexes: IndexDefaults = Field(default_factory=IndexDefaults, description="New partitions, by modality.")
    overrides: tuple[IndexOverride, ...] = Field((), description="New partitions, by name; later ones win.")
    languages: tuple[str, ...] = Field(
        PLATFORM_LANGUAGES, description="Languages (primary subtags) with partitions of their own; the rest is `any`."
    )
    max_partitions: int = Field(1024, ge=1, description="No more are created.")
    known_bad: UseSettings = Field(default_factory=_known_bad, description="Hash lists of known bad content.")
    protected: UseSettings = Field(default_factory=_protected, description="Protected works.")
    duplicate: UseSettings = Field(default_factory=_duplicate, description="Content that was published before.")
    similar: UseSettings = Field(default_factory=UseSettings, description="More like this; a floor for its scores.")
    pdq_quality: int = Field(50, ge=0, le=100, description="Frames of less detail say nothing and never match.")
    signatures_per_post: int = Field(
        16, ge=1, le=MAX_SIGNATURES, description="Distinct frame signatures indexed of a post, evenly spaced."
    )
    query_signatures: int = Field(64, ge=1, le=512, description="Distinct frame signatures searched for a post.")
    frames_per_post: int = Field(
        64, ge=0, le=512, description="Frame vectors kept of a post to check the order of frames, evenly spaced."
    )
    max_matches: int = Field(20, ge=1, le=200, description="Matches given for one use.")
    shown_retention_h: float = Field(72.0, gt=0, description="How long what was shown is remembered.")
    max_feeds: int = Field(64, ge=1, description="Feeds whose shown content is remembered, each in partitions.")
    search_threads: int = Field(4, ge=1, description="Searches that run at a time.")
    write_threads: int = Field(4, ge=1, description="Writes that run at a time; they share commits.")
    max_queued: int = Field(256, ge=1, description="Calls waiting for a thread; one more is refused with 429.")
    stuck_after_s: float = Field(
        60.0, gt=0, description="A search or write running longer than this makes the node sick, and Serve replaces it."
    )
    maintain_every_s: float = Field(10.0, gt=0, description="How often metrics, expiry and the recall sample run.")
    recall_samples: int = Field(8, ge=0, description="Recent searches repeated exactly each time; 0 switches it off.")

    def index_of(self, partition: str, modality: str) -> IndexSettings:
        """What a new partition's index is."""
        settings: IndexSettings = getattr(self.indexes, modality, self.indexes.visual)
        for override in self.overrides:
            if fnmatchcase(partition, override.partition):
                settings = override.applied_to(settings)
        return settings

    def use(self, use: str) -> UseSettings:
        """Of a `Use`."""
        settings: UseSettings = getattr(self, use)
        return settings

    def thresholds_of(self, modality: str, encoder: str) -> dict[str, float]:
        """Use -> threshold, for the uses that are on and compare such vectors."""
        uses = ("known_bad", "protected", "duplicate", "similar")
        found = {use: self.use(use).threshold(modality, encoder) for use in uses if self.use(use).enabled}
        return {use: threshold for use, threshold in found.items() if threshold is not None}

    def partition_language(self, tag: str) -> str:
        """The language of the partition that a post of this language belongs to."""
        language = primary_subtag(tag)
        return language if language in self.languages else ANY

    @model_validator(mode="after")
    def _overrides_fit(self) -> SimilaritySettings:
        for override in self.overrides:
            pattern = override.partition.rsplit(".", 1)[1]
            for modality in IndexDefaults.model_fields:
                if fnmatchcase(modality, pattern):
                    override.applied_to(getattr(self.indexes, modality))
        return self
