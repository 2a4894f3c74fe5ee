"""`parakh index begin`, `copy`, `switch`, `rollback`, `retire`: a generation beside the live one, then in its place."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from deployments.runtime.errors import InvalidInput, PartitionConflict
from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.catalog import Generation, State
from serve_app.index.offline import OfflineIndex, Share, check_encoder, opened

_SHOWN = 10


def begin(settings: SimilaritySettings, key: PartitionKey, encoder: EncoderId, dimension: int | None) -> Generation:
    """dimension: needed for another encoder than the live one. Raises PartitionConflict, NotFound, InvalidInput."""
    check_encoder(key, encoder)
    with opened(settings) as offline:
        info = offline.partitions.info(key)
        if dimension is None and encoder == info.encoder:
            dimension = info.dimension
        if dimension is None:
            raise InvalidInput(f"Say the --dimension of the vectors of {encoder}.", param="dimension")
        return offline.partitions.begin(key, encoder, dimension)


def copy(settings: SimilaritySettings, key: PartitionKey, progress: Share) -> int:
    """Items copied. Raises PartitionConflict, WrongEncoder, NotFound."""
    with opened(settings, maintain=True) as offline:
        info = offline.partitions.info(key)
        total = max(1, info.stats.items if info.stats else 1)
        copied = offline.partitions.copy(key, progress=lambda done: progress(f"copying {key}", done / total))
        building = offline.state(key, State.BUILDING)
        if offline.embedded and building is not None:
            progress(f"training {key}", 1.0)
            offline.index(building).upkeep.maintain()  # so that it is as quick as the live one when it is switched to
        return copied


@dataclass(frozen=True)
class Switched:
    live: Generation
    lacking: int
    lacking_ids: tuple[str, ...]  # the first of them
    unknown: str | None = None  # why it could not be told what lacks


class StillLacking(PartitionConflict):
    def __init__(self, key: PartitionKey, switched: Switched) -> None:
        what = switched.unknown or f"{switched.lacking} items of the live generation are not in the new one"
        super().__init__(f"{key} was not switched: {what}. Build them in first, or switch with --force.")
        self.switched = switched


def switch(settings: SimilaritySettings, key: PartitionKey, *, force: bool) -> Switched:
    """Raises StillLacking unless forced; PartitionConflict, NotFound."""
    with opened(settings) as offline:
        coming = offline.state(key, State.BUILDING)
        if coming is None:
            raise PartitionConflict(f"{key} has no generation that is being built.")
        switched = _lacking(offline, key, coming)
        if (switched.lacking or switched.unknown) and not force:
            raise StillLacking(key, switched)
        offline.partitions.switch(key)
        return switched


def rollback(settings: SimilaritySettings, key: PartitionKey) -> Switched:
    """What was written since the switch is told, not waited for: it stays in the generation that becomes previous."""
    with opened(settings) as offline:
        coming = offline.state(key, State.PREVIOUS)
        if coming is None:
            raise PartitionConflict(f"{key} has no previous generation to go back to.")
        if offline.state(key, State.BUILDING) is None:
            switched = _lacking(offline, key, coming)
        else:
            switched = Switched(coming, 0, (), "a generation is being built, and compared instead")
        offline.partitions.rollback(key)
        return switched


def retire(settings: SimilaritySettings, key: PartitionKey, number: int | None) -> int:
    """number: may be left out where only one generation is not live. Raises PartitionConflict, NotFound."""
    with opened(settings) as offline:
        if number is None:
            infos = offline.partitions.info(key).generations
            others = [one.generation.number for one in infos if one.generation.state is not State.ACTIVE]
            if len(others) != 1:
                told = ", ".join(map(str, others)) or "none"
                raise PartitionConflict(f"Say which generation of {key} to retire; those that are not live: {told}.")
            number = others[0]
        offline.partitions.retire(key, number)
        return number


def _lacking(offline: OfflineIndex, key: PartitionKey, coming: Generation) -> Switched:
    try:
        ids = offline.partitions.lacking(key)
        first = tuple(islice(ids, _SHOWN))
        return Switched(coming, len(first) + sum(1 for _ in ids), first)
    except IndexDamaged as error:
        return Switched(coming, 0, (), str(error))
