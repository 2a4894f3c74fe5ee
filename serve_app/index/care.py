"""`parakh index stats`, `tune`, `verify` and `snapshot`: what there is, how well it finds, whether it is sound."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from deployments.runtime.errors import InvalidInput, NodeUnavailable, NotFound
from deployments.similarity.content import PartitionKey
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.embedded.verify import VerifyReport, verify
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.catalog import Generation, State
from deployments.similarity.partitions.listing import GenerationInfo, PartitionInfo
from serve_app.index.offline import OfflineIndex, Share, at_rest, opened

MEASURED_QUERIES = 100
_K = 10
_SAMPLING_ERROR = 0.02
_HTTP_TIMEOUT_S = 30.0


# --- stats ---


def reports(settings: SimilaritySettings, key: PartitionKey | None, *, measure: bool = False) -> list[dict[str, Any]]:
    """One JSON object a partition. Raises NotFound, RootLocked, IndexDamaged (the catalog)."""
    if key is None and not settings.directory.expanduser().exists():
        return []
    with opened(settings) as index:
        return [_report(index, info, measure) for info in index.infos(key)]


def reports_of_server(url: str, api_key: str | None, key: PartitionKey | None) -> list[dict[str, Any]]:
    """What a server that runs says of its partitions. Raises NodeUnavailable, InvalidInput, NotFound."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    address = f"{url.rstrip('/')}/v1/indexes" + (f"/{key}" if key is not None else "")
    try:
        answer = httpx.get(address, headers=headers, timeout=_HTTP_TIMEOUT_S)
        body = answer.json()
        if answer.status_code == 200:
            return [body] if key is not None else list(body["partitions"])
        said = str(body["error"]["message"])
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise InvalidInput(f"{url} is no address of a server.", param="url") from None
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise NodeUnavailable(f"{address} does not answer as Parakh does ({type(error).__name__}).") from None
    kind = NotFound if answer.status_code == 404 else NodeUnavailable
    raise kind(f"{address} answers {answer.status_code}: {said}")


def _report(index: OfflineIndex, info: PartitionInfo, measure: bool) -> dict[str, Any]:
    stats, settings = info.stats, info.settings
    details = stats.details if stats else {}
    recall = stats.recall_estimate if stats else None
    active = next((one for one in info.generations if one.generation.state is State.ACTIVE), None)
    if measure and recall is None and active is not None and active.damage is None and index.embedded:
        recall = Measurement.of(index.index(active.generation)).recall()
    return {
        "partition": str(info.key),
        "encoder": {"name": info.encoder.name, "version": info.encoder.version} if info.encoder else None,
        "dimension": info.dimension,
        "index_type": settings.index_type if settings else None,
        "metric": settings.metric if settings else None,
        "effort": details.get("effort"),
        "nlist": details.get("nlist"),
        "items": stats.items if stats else None,
        "memory_bytes": stats.memory_bytes if stats else None,
        "disk_bytes": stats.disk_bytes if stats else None,
        "segments": stats.segments if stats else None,
        "buffered": stats.buffered if stats else None,
        "deleted": stats.deleted if stats else None,
        "trained_rows": stats.trained_rows if stats else None,
        "recall_estimate": recall,
        "newest_at": _iso(stats.newest_at) if stats else None,
        "snapshot_at": _iso(stats.snapshot_at or _newest_segment_at(index, active)) if stats else None,
        "thresholds": dict(info.thresholds),
        "repaired": list(details.get("repaired") or []),
        "generations": [_generation(one) for one in info.generations],
        "damaged": info.damaged,
    }


def _newest_segment_at(index: OfflineIndex, active: GenerationInfo | None) -> float | None:
    """An index that was opened just now has made none itself."""
    if active is None or not index.embedded:
        return None
    segments = (index.index(active.generation).directory / "segments").iterdir()
    return max((path.stat().st_mtime for path in segments), default=None)


def _generation(info: GenerationInfo) -> dict[str, Any]:
    one = info.generation
    return {
        "number": one.number,
        "state": str(one.state),
        "encoder": str(one.encoder),
        "index_type": one.settings.index_type,
        "items": info.stats.items if info.stats else None,
        "incomplete": one.incomplete,
        "damaged": info.damage,
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# --- tune ---


@dataclass(frozen=True)
class Measurement:
    """Searches of stored items for their neighbours, with what an exact search finds. Of two runs the same sample."""

    index: EmbeddedIndex
    queries: list[Any]
    own: list[str]  # whose vector each query is: never its own neighbour
    truth: list[set[str]]

    @classmethod
    def of(cls, index: EmbeddedIndex, queries: int = MEASURED_QUERIES) -> Measurement:
        vectors, own = _sample(index, queries)
        found = index.search(vectors, _K + 1, exact=True) if vectors else []
        truth = [set(_others(near.ids, id_)) for near, id_ in zip(found, own, strict=True)]
        return cls(index, vectors, own, truth)

    def recall(self) -> float | None:
        """recall@10; None of an empty index."""
        found = self.index.search(self.queries, _K + 1) if self.queries else []
        shares = [
            len(truth & set(_others(near.ids, id_))) / len(truth)
            for near, id_, truth in zip(found, self.own, self.truth, strict=True)
            if truth
        ]
        return float(np.mean(shares)) if shares else None

    def queries_per_s(self) -> float | None:
        """Of one thread, one query at a time."""
        if not self.queries:
            return None
        started = time.perf_counter()
        for query in self.queries:
            self.index.search([query], _K)
        return len(self.queries) / (time.perf_counter() - started)


@dataclass(frozen=True)
class Tuned:
    """One generation: (before, after) of each. Efforts are None where nothing is trained: then all is searched."""

    partition: str
    effort: tuple[int | None, int | None]
    recall: tuple[float | None, float | None]
    queries_per_s: tuple[float | None, float | None]

    def missed(self, target: float) -> bool:
        """By more than the sample may be wrong."""
        return self.recall[1] is not None and self.recall[1] < target - _SAMPLING_ERROR


def tune(settings: SimilaritySettings, key: PartitionKey | None, target: float, progress: Share) -> Iterator[Tuned]:
    """Live generations, one after the other. Raises InvalidInput, NotFound, RootLocked, IndexDamaged."""
    if not 0 < target < 1:
        raise InvalidInput("The recall to reach lies between 0 and 1.", param="recall")
    with opened(settings) as offline:
        keys = offline.partitions.keys_of() if key is None else [key]
        for done, one in enumerate(keys):
            progress(f"tuning {one}", done / len(keys))
            with offline.partitions.using(one) as held:
                if not isinstance(held, EmbeddedIndex):
                    raise InvalidInput("Milvus is tuned by `nprobe` or `ef_search` in the index's settings.")
                yield _tuned(one, held, target)


def _tuned(key: PartitionKey, index: EmbeddedIndex, target: float) -> Tuned:
    measured = Measurement.of(index)
    before = _effort(index), measured.recall(), measured.queries_per_s()
    index.upkeep.retune(target)
    after = _effort(index), measured.recall(), measured.queries_per_s()
    return Tuned(str(key), *zip(before, after, strict=True))  # type: ignore[arg-type]  # three pairs


def _effort(index: EmbeddedIndex) -> int | None:
    effort: int | None = index.stats().details["effort"]
    return effort


def _sample(index: EmbeddedIndex, wanted: int) -> tuple[list[Any], list[str]]:
    """Living rows at random, from every part and buffer in proportion."""
    view = index.view
    tables = [part.table for part in view.parts()] + [buffer.view()[0] for buffer in view.buffers()]
    living = [np.flatnonzero(np.asarray(table.alive)) for table in tables]
    total = sum(map(len, living))
    random = np.random.default_rng(total)
    chosen = np.sort(random.choice(total, min(wanted, total), replace=False)) if total else np.zeros(0, np.intp)
    vectors, ids, start = [], [], 0
    for table, positions in zip(tables, living, strict=True):
        here = positions[chosen[(chosen >= start) & (chosen < start + len(positions))] - start]
        rows = table.rows.take(here)
        vectors += [np.array(rows[i]) for i in range(len(rows))]
        ids += [table.ids[int(position)] for position in here]
        start += len(positions)
    return vectors, ids


def _others(ids: tuple[str, ...], own: str) -> list[str]:
    return [id_ for id_ in ids if id_ != own][:_K]


# --- verify, snapshot ---


@dataclass(frozen=True)
class Verified:
    """One generation; `refused`: it could not even be read."""

    partition: str
    number: int | None
    state: str
    report: VerifyReport | None
    refused: str | None = None

    @property
    def ok(self) -> bool:
        return self.report is not None and self.report.ok


def verify_all(
    settings: SimilaritySettings, key: PartitionKey | None, *, repair: bool, accept_loss: bool, progress: Share
) -> Iterator[Verified]:
    """Every living generation, as it lies on the disk. Raises NotFound, RootLocked, IndexDamaged (the catalog)."""
    with at_rest(settings, key) as root:
        for unknown in root.unknown:
            yield Verified(str(unknown), None, "unknown", None, "the catalog does not know its directories")
        for one, directory in root.generations:
            yield _verified(one, directory, repair, accept_loss, progress)


def _verified(one: Generation, directory: Path, repair: bool, accept_loss: bool, progress: Share) -> Verified:
    named = (str(one.partition), one.number, str(one.state))
    if not directory.is_dir():
        return Verified(*named, None, "its directory is gone; restore it from a backup")
    title = f"verifying {one.partition} {one.name}"
    try:
        report = verify(
            directory, repair=repair, accept_loss=accept_loss, progress=lambda share: progress(title, share)
        )
    except IndexDamaged as error:
        return Verified(*named, None, str(error))
    return Verified(*named, report)


def snapshot(settings: SimilaritySettings, key: PartitionKey | None, progress: Share) -> Iterator[tuple[str, int, int]]:
    """(partition, generation, items) of each that is in segment files now. A damaged one raises at the end."""
    with opened(settings) as offline:
        damaged = []
        generations = offline.generations(key)
        for done, info in enumerate(generations):
            one = info.generation
            progress(f"writing {one.partition} {one.name}", done / len(generations))
            if info.damage is not None:
                damaged.append(f"generation {one.number} of {one.partition} is damaged: {info.damage}")
                continue
            index = offline.index(one)
            index.upkeep.snapshot()
            yield str(one.partition), one.number, index.count()
    if damaged:
        raise IndexDamaged("; ".join(damaged))
