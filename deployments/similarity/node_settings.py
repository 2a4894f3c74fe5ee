"""What the operator may set about the similarity node: where its partitions lie, what they are, what counts."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from deployments.similarity.content import ANY
from deployments.similarity.milvus.settings import MilvusSettings
from deployments.similarity.settings import Frozen, IndexSettings
from deployments.similarity.uses import settings as uses
from deployments.similarity.uses.settings import UseSettings

MAX_SIGNATURES = 64
"""Frame signatures of one post that an index may hold: a bound on what removing a post looks for."""

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
        IndexSettings(metric="hamming", index_type="FLAT"),
        description="256-bit signatures of frames; FLAT misses none, IVF_FLAT serves past 10 M.",
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


class SimilaritySettings(Frozen):
    """The similarity node's own settings."""

    backend: Literal["embedded", "milvus"] = Field(
        "embedded", description="embedded: FAISS over a durable row store in `directory`; milvus: a Milvus server."
    )
    milvus: MilvusSettings | None = Field(None, description="The Milvus server, for that backend.")
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
    known_bad: UseSettings = Field(default_factory=uses.known_bad, description="Hash lists of known bad content.")
    protected: UseSettings = Field(default_factory=uses.protected, description="Protected works.")
    duplicate: UseSettings = Field(default_factory=uses.duplicate, description="Content that was published before.")
    similar: UseSettings = Field(default_factory=UseSettings, description="More like this; a floor for its scores.")
    pdq_quality: int = Field(50, ge=0, le=100, description="Frames of less detail say nothing and never match.")
    signatures_per_post: int = Field(
        16, ge=1, le=MAX_SIGNATURES, description="Frame signatures indexed of a post, the most different ones."
    )
    query_signatures: int = Field(
        64, ge=1, le=512, description="Frame signatures searched of a post, the most different ones."
    )
    frames_per_post: int = Field(
        64, ge=0, le=512, description="Frame vectors kept of a post to check the order of frames, evenly spaced."
    )
    max_matches: int = Field(20, ge=1, le=200, description="Matches given for one use.")
    shown_retention_h: float = Field(72.0, gt=0, description="How long what was shown is remembered.")
    max_feeds: int = Field(
        64, ge=1, description="Feeds remembered at a time; one whose content is past retention makes room."
    )
    match_threads: int = Field(
        4, ge=1, description="Posts looked up for their verdict at a time; searches never take these threads."
    )
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
        names = ("known_bad", "protected", "duplicate", "similar")
        found = {name: self.use(name).threshold(modality, encoder) for name in names if self.use(name).enabled}
        return {name: threshold for name, threshold in found.items() if threshold is not None}

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

    @model_validator(mode="after")
    def _backend_is_whole(self) -> SimilaritySettings:
        if self.backend == "milvus" and self.milvus is None:
            raise ValueError("backend milvus needs `milvus`, at least its `uri`")
        return self


def primary_subtag(tag: str) -> str:
    """Lower-case primary subtag of a BCP-47 tag (RFC 5646); `any` where it names no language."""
    primary = tag.replace("_", "-").split("-", 1)[0].lower()
    if not (primary.isascii() and primary.isalpha() and 2 <= len(primary) <= 8) or primary in _NO_LANGUAGE:
        return ANY
    return _RENAMED_LANGUAGES.get(primary, primary)
