"""What the operator is told of the partitions: `parakh index stats`, the API, the metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.catalog import Generation, State
from deployments.similarity.partitions.partition import OpenGeneration, Partition
from deployments.similarity.settings import IndexSettings
from deployments.similarity.values import IndexStats

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationInfo:
    """One living generation, as listed."""

    generation: Generation
    stats: IndexStats | None  # None where it is damaged
    damage: str | None = None


@dataclass(frozen=True)
class PartitionInfo:
    """One partition, as listed: `encoder` to `stats` are the active generation's."""

    key: PartitionKey
    encoder: EncoderId | None
    dimension: int | None
    settings: IndexSettings | None
    stats: IndexStats | None
    thresholds: Mapping[str, float]  # use -> worst score or distance that is a match here
    generations: tuple[GenerationInfo, ...]
    damaged: str | None = None  # why it refuses


def info_of(partition: Partition, settings: SimilaritySettings) -> PartitionInfo:
    key = partition.key
    generations = tuple(_generation_info(opened) for opened in partition.generations)
    active = next((info for info in generations if info.generation.state is State.ACTIVE), None)
    if active is None:
        return PartitionInfo(key, None, None, None, None, {}, generations, partition.damage)
    one = active.generation
    thresholds = settings.thresholds_of(key.modality, one.encoder.name)
    return PartitionInfo(
        key, one.encoder, one.dimension, one.settings, active.stats, thresholds, generations, active.damage
    )


def _generation_info(opened: OpenGeneration) -> GenerationInfo:
    if opened.damage is not None:
        return GenerationInfo(opened.generation, None, opened.damage)
    try:
        return GenerationInfo(opened.generation, opened.index.stats())
    except Exception as error:  # a list of all must not fail for one
        logger.exception("similarity: no statistics of %s", opened.generation.partition)
        return GenerationInfo(opened.generation, None, type(error).__name__)
