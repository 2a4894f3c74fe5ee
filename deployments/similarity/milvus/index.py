"""VectorIndex on a Milvus server: one collection an index, through pymilvus' MilvusClient alone.

write:  checks -> rows (`milvus_rows`) -> gathered requests, acknowledged once findable (`milvus_writes`)
search: checks -> filter expression (`milvus_filter`) -> candidates with their stored rows -> exact scores in numpy

What the server's index answers only picks candidates; scores and thresholds are computed here, from the stored rows.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient

from deployments.runtime.errors import NodeUnavailable
from deployments.similarity.checks import checked_items, checked_search
from deployments.similarity.content import EncoderId
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.milvus.collection import (
    IndexPlan,
    check_identity,
    collection_name,
    identity,
    index_name,
)
from deployments.similarity.milvus.connection import MilvusConnection
from deployments.similarity.milvus.filter import both, expression_of, id_chunks, ids_after, one_of, valid_ids
from deployments.similarity.milvus.rows import RowFormat
from deployments.similarity.milvus.settings import MilvusSettings
from deployments.similarity.milvus.writes import Writes
from deployments.similarity.partitions.catalog import Generation
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space, space_of
from deployments.similarity.values import Filter, IndexStats, Item, Neighbours
from deployments.similarity.vector_index import VectorIndex

MAX_CANDIDATES = 16_384  # Milvus' limit of topk, of nq and of the rows of a query
_INDEXED_FROM = 1024  # rows of a segment: smaller ones are searched exactly (indexCoord.segment)
_POLL_S = 0.2
_SWITCH_S = 60.0  # at most, for query nodes to take up an index
_NEWEST_KEPT_S = 60.0
_LARGEST = sys.float_info.max


class MilvusIndex:
    """VectorIndex on one collection. Made by `open`."""

    @classmethod
    def open(
        cls, milvus: MilvusSettings, name: str, settings: IndexSettings, dimension: int, encoder: EncoderId
    ) -> MilvusIndex:
        """The index `name` of the server, created where it is not there.

        Raises:
            InvalidInput: the server has no such index type or metric.
            WrongEncoder: the collection holds vectors of another encoder.
            NodeUnavailable: no server, or a collection of another metric, dimension or index type.
        """
        connection = MilvusConnection(milvus)
        try:
            return cls(connection, name, settings, dimension, encoder)
        except BaseException:
            connection.close()
            raise

    def __init__(
        self, connection: MilvusConnection, name: str, settings: IndexSettings, dimension: int, encoder: EncoderId
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._space = space_of(settings, dimension)
        self._format = RowFormat(self._space)
        self._plan = IndexPlan(settings, self._space, connection)
        self._collection = collection_name(connection.settings.prefix, name)
        held = identity(name, settings, self._space.dimension, encoder, self._plan.type)
        if not connection.has(self._collection):
            self._create(held)
        check_identity(connection.call("describe_collection", self._collection).get("properties") or {}, held)
        self._build_call("load_collection", replica_number=connection.settings.replicas)
        self._writes = Writes(connection, self._collection)
        self._newest: _Newest | None = None

    @property
    def space(self) -> Space:
        return self._space

    @property
    def settings(self) -> IndexSettings:
        return self._settings

    def upsert(self, items: Sequence[Item]) -> None:
        """All or none up to `max_request_bytes`; a larger batch that fails with NodeUnavailable may be there in part,
        and is whole after it has been sent again."""
        self._writes.upsert([self._format.row(item) for item in checked_items(self._space, items)])

    def delete(self, ids: Sequence[str]) -> int:
        return self._writes.delete(ids)

    def get(self, ids: Sequence[str]) -> dict[str, Item]:
        rows: dict[str, dict[str, Any]] = {}
        for some in id_chunks(list(valid_ids(ids)), self._rows_a_page()):
            rows |= {row["id"]: row for row in self._query(one_of("id", some), self._format.light_fields)}
        for some in self._with_frames(rows):
            rows |= {row["id"]: row for row in self._query(one_of("id", some), self._format.all_fields)}
        return {id_: self._format.item(row) for id_, row in rows.items()}

    def search(
        self,
        queries: NDArray[Any] | Sequence[NDArray[Any]],
        k: int,
        *,
        filter: Filter | None = None,
        threshold: float | None = None,
        exact: bool = False,
    ) -> list[Neighbours]:
        """exact: by the server where the index is FLAT; otherwise by reading every row that passes, which is slow: a
        server has no other way around its index, and may use one of its own while it builds."""
        checked = checked_search(self._space, queries, k, threshold)
        expression = expression_of(filter)
        if expression is None:
            return [self._ranked(query, {}, k, threshold) for query in checked]
        if exact and not (self._settings.index_type == "FLAT" and self._plan.ranks_exactly):
            found = self._best_of_all(checked, k, expression)
        else:
            found = self._nearest(checked, k, expression)
        return [self._ranked(query, rows, k, threshold) for query, rows in zip(checked, found, strict=True)]

    def count(self) -> int:
        rows = self._query("", ["count(*)"])
        return int(rows[0]["count(*)"])

    def scan(self, after: str = "", limit: int = 1000) -> list[str]:
        found: list[str] = []
        while len(found) < limit and (
            page := self._page(found[-1] if found else after, min(limit - len(found), MAX_CANDIDATES), ["id"])
        ):
            found += [row["id"] for row in page]
        return found

    def seal(self) -> None:
        """After a bulk load: what was written so far is flushed, indexed, and searched by its index from now on.

        Without it the server does the same in its own time; until then new rows are searched exactly, and slowly.
        """
        self._build_call("flush")
        deadline = time.monotonic() + self._connection.settings.build_timeout_s
        while (state := self._described())["pending_index_rows"] or state["indexed_rows"] < state["total_rows"]:
            if time.monotonic() > deadline:
                raise NodeUnavailable("The vector database did not build its index in time.")
            time.sleep(_POLL_S)
        if self._connection.is_lite:
            return
        self._build_call("refresh_load")  # else query nodes keep what they hold, unindexed, for many seconds (2.3.5)
        switch = min(deadline, time.monotonic() + _SWITCH_S)
        while self._rows_searched_by_index() < state["indexed_rows"] and time.monotonic() < switch:
            time.sleep(_POLL_S)

    def stats(self) -> IndexStats:
        """memory_bytes and disk_bytes are estimates: the server tells of none by collection."""
        items, described = self.count(), self._described()
        stored = int(self._connection.call("get_collection_stats", self._collection).get("row_count", 0))
        indexed = int(described["indexed_rows"])
        row_bytes = self._format.scored_bytes
        coded = row_bytes // 4 if self._settings.index_type in ("IVF_SQ8", "IVF_PQ", "IVF_RABITQ") else row_bytes
        return IndexStats(
            items=items,
            memory_bytes=min(indexed, items) * coded + max(items - indexed, 0) * row_bytes,
            disk_bytes=max(stored, items) * row_bytes,
            buffered=max(items - indexed, 0),
            deleted=max(stored - items, 0),
            segments=0,
            trained_rows=indexed,
            newest_at=self._newest_at(),
            snapshot_at=None,
            details={
                "server": self._connection.version_text,
                "collection": self._collection,
                "index_type": described["index_type"],
                "index_state": described.get("state", ""),
                "pending_index_rows": int(described["pending_index_rows"]),
                "read_consistency": self._connection.settings.read_consistency,
                "bytes_estimated": True,
            },
        )

    def close(self) -> None:
        self._connection.close()

    def _create(self, held: dict[str, str]) -> None:
        index = MilvusClient.prepare_index_params()
        index.add_index(
            "vector", index_type=self._plan.type, metric_type=self._plan.metric, params=self._plan.parameters
        )
        self._build_call(
            "create_collection",
            schema=self._format.schema(json.dumps(held)),
            index_params=index,
            num_shards=self._connection.settings.shards,
            consistency_level=self._connection.settings.read_consistency,
            properties=held,
        )

    def _build_call(self, method: str, **kwargs: Any) -> None:
        self._connection.call(method, self._collection, timeout_s=self._connection.settings.build_timeout_s, **kwargs)

    def _described(self) -> Mapping[str, Any]:
        described: Mapping[str, Any] = self._connection.call("describe_index", self._collection, "vector")
        return described

    def _rows_searched_by_index(self) -> int:
        """Of segments that query nodes hold with their index, or that are too small for one."""
        loaded = self._connection.call("list_loaded_segments", self._collection)
        flat = self._settings.index_type == "FLAT"
        return sum(
            segment.num_rows
            for segment in loaded
            if segment.state.name == "Sealed" and (flat or segment.index_name or segment.num_rows < _INDEXED_FROM)
        )

    def _query(self, expression: str, fields: list[str], **kwargs: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._connection.call(
            "query",
            self._collection,
            filter=expression,
            output_fields=fields,
            consistency_level=self._connection.settings.read_consistency,
            **kwargs,
        )
        return rows

    def _page(self, after: str, size: int, fields: list[str], expression: str = "") -> list[dict[str, Any]]:
        """The `size` rows of the smallest ids above `after`, by id.

        The two options are what pymilvus' own iterator sets to have rows by key; it is not used because it pastes the
        last key into its expression unquoted. The server may give more rows than asked for, or fewer: only an empty
        page is the end.
        """
        rows = self._query(
            both(ids_after(after), expression), fields, limit=size, reduce_stop_for_best=True, iterator="True"
        )
        return list(rows)[:size]

    def _rows_a_page(self) -> int:
        """Rows with vectors that fit into one answer."""
        return max(1, min(self._connection.settings.max_request_bytes // (self._format.scored_bytes + 1024), 4096))

    def _with_frames(self, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
        """Ids of items with frames, in groups whose frames fit into one answer."""
        some: list[str] = []
        size = 0
        for id_, row in rows.items():
            frames_bytes = int(row["frames_bytes"])
            if some and size + frames_bytes > self._connection.settings.max_request_bytes:
                yield some
                some, size = [], 0
            if frames_bytes:
                some.append(id_)
                size += frames_bytes
        if some:
            yield some

    def _nearest(self, queries: Sequence[NDArray[Any]], k: int, expression: str) -> list[dict[str, NDArray[Any]]]:
        """Candidates of each query: id -> stored row."""
        wanted = self._candidates(k)
        found = self._candidates_of(queries, wanted, expression, every_list=False)
        if self._plan.has_lists:
            # The lists that were looked at held too few that pass the filter: the others may hold more.
            short = [at for at, rows in enumerate(found) if len(rows) < k]
            again = self._candidates_of([queries[at] for at in short], wanted, expression, every_list=True)
            for at, rows in zip(short, again, strict=True):
                found[at] = rows
        return found

    def _candidates(self, k: int) -> int:
        """How many to take for `k`: as many as fit into an answer where codes rank them, `k` where scores do."""
        if self._plan.ranks_exactly:
            return k
        fitting = self._connection.settings.max_request_bytes // self._format.scored_bytes
        return min(k * self._settings.candidates_per_neighbour, max(k, fitting), MAX_CANDIDATES)

    def _candidates_of(
        self, queries: Sequence[NDArray[Any]], wanted: int, expression: str, *, every_list: bool
    ) -> list[dict[str, NDArray[Any]]]:
        found: list[dict[str, NDArray[Any]]] = []
        fitting = self._connection.settings.max_request_bytes // (wanted * self._format.scored_bytes)
        at_once = max(1, min(fitting, MAX_CANDIDATES))
        for start in range(0, len(queries), at_once):
            answers = self._connection.call(
                "search",
                self._collection,
                data=self._format.queries(queries[start : start + at_once]),
                anns_field="vector",
                filter=expression,
                limit=wanted,
                output_fields=[self._format.scored_field],
                search_params={"params": self._plan.search_parameters(wanted, every_list=every_list)},
                consistency_level=self._connection.settings.read_consistency,
            )
            found += [{hit["id"]: self._format.scored(hit["entity"]) for hit in answer} for answer in answers]
        return found

    def _best_of_all(self, queries: Sequence[NDArray[Any]], k: int, expression: str) -> list[dict[str, NDArray[Any]]]:
        """By reading every row that passes: for the truth, not for speed."""
        best: list[dict[str, NDArray[Any]]] = [{} for _ in queries]
        after, size = "", self._rows_a_page()
        while page := self._page(after, size, ["id", self._format.scored_field], expression):
            rows = {row["id"]: self._format.scored(row) for row in page}
            for at, query in enumerate(queries):
                both_pages = best[at] | rows
                best[at] = {id_: both_pages[id_] for id_ in self._ranked(query, both_pages, k, None).ids}
            after = page[-1]["id"]
        return best

    def _ranked(
        self, query: NDArray[Any], rows: Mapping[str, NDArray[Any]], k: int, threshold: float | None
    ) -> Neighbours:
        if not rows:
            return Neighbours((), np.empty(0, np.float32))
        ids = list(rows)
        scores = self._space.scores(query, self._space.pack(list(rows.values())))
        order = self._space.order(scores)[:k]
        if threshold is not None:
            order = order[self._space.better(scores[order], threshold)]
        return Neighbours(tuple(ids[at] for at in order), scores[order])

    def _newest_at(self) -> float | None:
        """By halving between floats, as a maximum cannot be asked for: at most 65 queries of one row, kept a while."""
        writes, now = self._writes.sent, time.monotonic()
        if self._newest is None or self._newest.writes != writes or now - self._newest.at > _NEWEST_KEPT_S:
            self._newest = _Newest(self._sought_newest(), writes, now)
        return self._newest.created_at

    def _sought_newest(self) -> float | None:
        if (found := self._created_from(-_LARGEST)) is None:
            return None
        low, high = _ordinal(found), _ordinal(_LARGEST)
        while low < high:
            middle = (low + high + 1) // 2
            found = self._created_from(_number(middle))
            low, high = (low, middle - 1) if found is None else (_ordinal(found), high)
        return _number(low)

    def _created_from(self, least: float) -> float | None:
        rows = self._query(f"created_at >= {least!r}", ["created_at"], limit=1)
        return float(rows[0]["created_at"]) if rows else None


@dataclass(frozen=True)
class _Newest:
    created_at: float | None
    writes: int  # of this index when it was sought
    at: float  # time.monotonic()


def _ordinal(number: float) -> int:
    """Finite floats in their order as integers without gaps (IEEE 754: sign and magnitude)."""
    bits: int = struct.unpack("<q", struct.pack("<d", number))[0]
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


def _number(ordinal: int) -> float:
    number: float = struct.unpack("<d", struct.pack("<q", abs(ordinal)))[0]
    return number if ordinal >= 0 else -number


class MilvusBackend:
    """A collection for each generation of a partition. The directory holds nothing."""

    def __init__(self, settings: MilvusSettings) -> None:
        self._settings = settings

    def open(self, generation: Generation, directory: Path, *, create: bool) -> VectorIndex:
        name = _name_of(generation)
        if create:
            drop(self._settings, name)  # what a crash in the middle of making it left
        elif name not in names(self._settings):
            raise IndexDamaged("Its collection is gone from the Milvus server.")
        return MilvusIndex.open(self._settings, name, generation.settings, generation.dimension, generation.encoder)

    def drop(self, generation: Generation) -> None:
        drop(self._settings, _name_of(generation))


def names(milvus: MilvusSettings) -> list[str]:
    """Of all indexes on the server that are this system's."""
    with closing(MilvusConnection(milvus)) as connection:
        collections = connection.call("list_collections")
    found = (index_name(milvus.prefix, collection) for collection in collections)
    return sorted(name for name in found if name is not None)


def drop(milvus: MilvusSettings, name: str) -> None:
    """Removes an index, if it is there."""
    with closing(MilvusConnection(milvus)) as connection:
        connection.call("drop_collection", collection_name(milvus.prefix, name))


def _name_of(generation: Generation) -> str:
    return f"{generation.partition}.{generation.name}"
