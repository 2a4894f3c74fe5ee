"""`parakh index build` from a file of embeddings: looked at whole, told to the records, then loaded in bulk.

Nothing is written before every row was looked at. The records hear of the ids first, so that reconciliation does not
take the items for ones that it forgot to remove. Every living generation of the encoder is loaded, the live one last.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from deployments.runtime.errors import InvalidInput, WrongEncoder
from deployments.similarity.checks import checked_items
from deployments.similarity.content import ANY, EncoderId, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.partitions.catalog import Generation, State
from deployments.similarity.spaces import Space, space_of
from deployments.similarity.uses.entries import candidate_id
from deployments.similarity.values import Item
from serve_app.config import AppConfig
from serve_app.index.embedding_files import Defaults, EmbeddingFile, FileRow, open_embeddings
from serve_app.index.offline import OfflineIndex, check_encoder, check_partition, opened
from serve_app.records import Records

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how many rows of how many."""

MAX_REFUSED = 100
"""So many bad rows, and looking at the rest would tell nothing more."""

_IDS_AT_ONCE = 5000


class RowsRefused(InvalidInput):
    """Nothing was written."""

    def __init__(self, path: Path, refused: Mapping[int, str]) -> None:
        many = f"{len(refused)} rows are" if len(refused) > 1 else "1 row is"
        least = "at least " if len(refused) >= MAX_REFUSED else ""
        super().__init__(f"{path}: {least}{many} refused, and nothing was written; --skip-refused loads the others.")
        self.refused = refused


@dataclass(frozen=True)
class Built:
    loaded: int
    replaced: int  # of them, those whose id was there
    seconds: float  # of loading and training
    generations: tuple[int, ...]
    refused: Mapping[int, str] = field(default_factory=dict)  # row number -> why
    notes: tuple[str, ...] = ()


def build_from_file(
    config: AppConfig,
    key: PartitionKey,
    source: Path,
    encoder: EncoderId,
    *,
    ids: Path | None = None,
    skip_refused: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> Built:
    """Raises InvalidInput (RowsRefused) and WrongEncoder before anything is written; RootLocked, IndexDamaged."""
    settings = config.similarity.settings
    check_partition(key, settings)
    check_encoder(key, encoder)
    file = open_embeddings(source, ids)
    defaults = Defaults(time.time(), "" if key.language == ANY else key.language, _unless_any(key.content_type))
    with opened(settings, create=True, maintain=False) as index:
        targets = _targets(index, key, encoder)
        space = _space(index, key, file, targets)
        refused = _looked_at(file, defaults, space, skip_refused, progress)
        load = _Load(file, defaults, refused, progress)
        asyncio.run(_told_records(config, key, load))
        started = time.monotonic()
        before = _count(index, targets)
        if not targets:
            first = next(items for batch in load.batches("") for items in batch)
            index.partitions.upsert(key, encoder, [first])
            targets = _targets(index, key, encoder)
        loaded = _loaded(index, key, encoder, targets, load)
        seconds = time.monotonic() - started
        after = _count(index, targets)
        numbers = tuple(target.number for target in targets)
    return Built(loaded, loaded - (after - before), seconds, numbers, refused, tuple(file.notes))


def _unless_any(part: str) -> str:
    return "" if part == ANY else part


def _targets(index: OfflineIndex, key: PartitionKey, encoder: EncoderId) -> list[Generation]:
    """Living generations of the encoder, the live one last; none where there is no partition yet."""
    if key not in index.partitions.keys_of():
        return []
    info = index.partitions.info(key)
    fitting = [one for one in info.generations if one.generation.encoder == encoder]
    if not fitting:
        held = ", ".join(sorted({str(one.generation.encoder) for one in info.generations})) or "none"
        raise WrongEncoder(
            f"{key} holds vectors of {held}, none of {encoder}: `parakh index begin {key} --encoder {encoder} "
            "--dimension N` builds a generation for them beside the live one."
        )
    for one in fitting:
        if one.damage is not None:
            raise IndexDamaged(f"Generation {one.generation.number} of {key} is damaged: {one.damage}")
    return sorted((one.generation for one in fitting), key=lambda one: one.state is State.ACTIVE)


def _space(index: OfflineIndex, key: PartitionKey, file: EmbeddingFile, targets: list[Generation]) -> Space:
    """Raises InvalidInput where the file's vectors are of another dimension."""
    settings = targets[-1].settings if targets else index.settings.index_of(str(key), key.modality)
    per_entry = 8 if settings.metric == "hamming" else 1
    if settings.metric == "jaccard":
        raise InvalidInput(f"{key} compares sets of tokens, which neither .npy nor Parquet files hold.")
    width = file.width if file.width is not None else _first_width(file)
    for target in targets:
        if target.dimension != width * per_entry:
            raise InvalidInput(
                f"{file.path} holds vectors of {width * per_entry} dimensions; generation {target.number} of {key} "
                f"holds {target.dimension}.",
                param="vector",
            )
    return space_of(settings, width * per_entry)


def _first_width(file: EmbeddingFile) -> int:
    for batch in file.rows(Defaults(0.0, "", "")):
        for row in batch:
            if row.item is not None and len(row.item.vector):
                return len(row.item.vector)
    raise InvalidInput(f"{file.path} holds no vector.")


def _looked_at(
    file: EmbeddingFile, defaults: Defaults, space: Space, skip_refused: bool, progress: Progress
) -> dict[int, str]:
    """Row number -> why it is refused. Raises RowsRefused, unless they are to be skipped."""
    refused: dict[int, str] = {}
    numbers, hashes = array("q"), array("q")  # 16 bytes a row: the ids themselves might not fit
    for batch in file.rows(defaults):
        for row in batch:
            reason = row.refused if row.item is None else _reason(space, row.item)
            if reason:
                refused[row.number] = reason
            elif row.item is not None:
                numbers.append(row.number)
                hashes.append(hash(row.item.id))
        progress("looking", batch[-1].number, file.count)
        if len(refused) >= MAX_REFUSED and not skip_refused:
            raise RowsRefused(file.path, dict(islice(refused.items(), MAX_REFUSED)))
    refused |= _repeated(file, defaults, numbers, hashes)
    if refused and not skip_refused:
        raise RowsRefused(file.path, refused)
    if len(refused) == file.count:
        raise InvalidInput(f"{file.path}: every row is refused; the first: {refused[min(refused)]}")
    return dict(sorted(refused.items()))


def _reason(space: Space, item: Item) -> str:
    try:
        checked_items(space, [item])
    except InvalidInput as error:
        return str(error)
    return ""


def _repeated(file: EmbeddingFile, defaults: Defaults, numbers: array[int], hashes: array[int]) -> dict[int, str]:
    """Rows whose id an earlier good row has."""
    known = np.frombuffer(hashes, np.int64)
    values, counts = np.unique(known, return_counts=True)
    if not (counts > 1).any():
        return {}
    suspects = set(np.frombuffer(numbers, np.int64)[np.isin(known, values[counts > 1])].tolist())
    first: dict[str, int] = {}
    repeated: dict[int, str] = {}
    for batch in file.rows(defaults):
        for row in batch:
            if row.number in suspects and row.item is not None:
                earlier = first.setdefault(row.item.id, row.number)
                if earlier != row.number:
                    repeated[row.number] = f"The id {row.item.id!r} is that of row {earlier}."
    return repeated


@dataclass
class _Load:
    """The rows that are not refused, as often as they are needed."""

    file: EmbeddingFile
    defaults: Defaults
    refused: Mapping[int, str]
    progress: Progress

    def batches(self, step: str) -> Iterator[list[Item]]:
        for batch in self.file.rows(self.defaults):
            yield [row.item for row in batch if self._good(row) and row.item is not None]
            if step:
                self.progress(step, batch[-1].number, self.file.count)
        if step == "loading":
            self.progress("training", self.file.count, self.file.count)

    def _good(self, row: FileRow) -> bool:
        return row.number not in self.refused


async def _told_records(config: AppConfig, key: PartitionKey, load: _Load) -> None:
    config.data_dir.mkdir(parents=True, exist_ok=True)
    records = await Records.open(config.records_url)
    try:
        for batch in load.batches("telling the records"):
            ids = list(dict.fromkeys(candidate_id(item.id, key) for item in batch))
            for start in range(0, len(ids), _IDS_AT_ONCE):
                await records.external.add(key.bank, ids[start : start + _IDS_AT_ONCE])
    finally:
        await records.close()


def _loaded(index: OfflineIndex, key: PartitionKey, encoder: EncoderId, targets: list[Generation], load: _Load) -> int:
    """By the bulk load where the index is in this process; else batch by batch."""
    loaded = 0
    if index.embedded:
        for target in targets:
            loaded = index.index(target).load(load.batches("loading"))
        return loaded
    for items in load.batches("loading"):
        index.partitions.upsert(key, encoder, items)
        loaded += len(items)
    return loaded


def _count(index: OfflineIndex, targets: list[Generation]) -> int:
    """Items of the generation that is loaded last."""
    if not targets:
        return 0
    infos = index.generations(targets[-1].partition)
    stats: Any = next((one.stats for one in infos if one.generation.number == targets[-1].number), None)
    return int(stats.items) if stats is not None else 0
