"""A collection for an index: its name, what it says it holds, and how its server indexes it."""

from __future__ import annotations

import math
import re
from typing import Any

from deployments.runtime.errors import InvalidInput, NodeUnavailable, WrongEncoder
from deployments.similarity.content import EncoderId
from deployments.similarity.milvus.connection import MilvusConnection
from deployments.similarity.settings import IndexSettings, IndexType
from deployments.similarity.spaces import Space

_SEGMENT_BYTES = 512 << 20  # Milvus seals a segment there (dataCoord.segment.maxSize)
_EF_CONSTRUCTION = 128
_PREFIX = "parakh."  # of the collection's properties
_SPELLED = {".": "__", "_": "_u", "-": "_h"}
_READ = {spelled: character for character, spelled in _SPELLED.items()}


def collection_name(prefix: str, name: str) -> str:
    """Letters, digits and underscores, as Milvus wants; another for every other `name`. Raises InvalidInput."""
    spelled = prefix + "".join(map(_spelled, name))
    if not name or len(spelled) > 255:
        raise InvalidInput("An index has a name that is not empty and fits into 255 characters.", param="name")
    return spelled


def index_name(prefix: str, collection: str) -> str | None:
    """What `collection_name` made the collection's name of; None: it is not one of these."""
    if not collection.startswith(prefix):
        return None
    spelled = collection.removeprefix(prefix)
    name = re.sub(r"_(?:x([0-9a-f]+)_|[_uh])", lambda m: chr(int(m[1], 16)) if m[1] else _READ[m[0]], spelled)
    return name if name and "".join(map(_spelled, name)) == spelled else None


def _spelled(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    return _SPELLED.get(character) or f"_x{ord(character):x}_"


class IndexPlan:
    """How a server of some version indexes a space. Raises InvalidInput where it cannot.

    milvus-lite takes every index type's name, logs that it could not build what it lacks, and searches exactly: so
    types are allowed by name and version, never by trial.
    """

    def __init__(self, settings: IndexSettings, space: Space, connection: MilvusConnection) -> None:
        self._settings = settings
        self._space = space
        kind, server = settings.index_type, connection.version_text
        if connection.is_lite and space.binary:
            raise InvalidInput(f"milvus-lite has no binary vectors, which metric {settings.metric} needs.")
        if kind not in _allowed(connection):
            raise InvalidInput(f"On this server ({server}) the index type is one of {_listed(connection)}, not {kind}.")

    @property
    def type(self) -> str:
        return f"BIN_{self._settings.index_type}" if self._space.binary else self._settings.index_type

    @property
    def metric(self) -> str:
        """Rows of a cosine space are unit vectors: their inner product is the cosine."""
        return {"l2": "L2", "cosine": "IP", "inner_product": "IP"}.get(self._settings.metric, "HAMMING")

    @property
    def parameters(self) -> dict[str, Any]:
        match self._settings.index_type:
            case "FLAT":
                return {}
            case "HNSW":
                return {"M": self._settings.hnsw_m, "efConstruction": _EF_CONSTRUCTION}
            case "IVF_PQ":
                return {"nlist": self.nlist, "m": _subquantisers(self._space.dimension), "nbits": 8}
            case _:
                return {"nlist": self.nlist}

    @property
    def nlist(self) -> int:
        """Given, or 4 x sqrt(rows) of a full segment; a segment of fewer rows gets fewer lists from the server."""
        row_bytes = self._space.dimension / 8 if self._space.binary else self._space.dimension * 4
        return self._settings.nlist or min(max(round(4 * math.sqrt(_SEGMENT_BYTES / row_bytes)), 16), 65_536)

    @property
    def has_lists(self) -> bool:
        return self._settings.index_type.startswith("IVF")

    @property
    def ranks_exactly(self) -> bool:
        """Whether the server's own order of candidates is that of the exact scores."""
        return self._settings.index_type in ("FLAT", "IVF_FLAT", "HNSW") and self._settings.metric != "jaccard"

    def search_parameters(self, candidates: int, *, every_list: bool) -> dict[str, Any]:
        """Default nprobe 32: 24 reached recall@10 0.95 at this nlist on 1 M x 128."""
        if self.has_lists:
            return {"nprobe": self.nlist if every_list else min(self._settings.nprobe or 32, self.nlist)}
        if self._settings.index_type == "HNSW":
            return {"ef": max(self._settings.ef_search or 64, candidates)}
        return {}


def _allowed(connection: MilvusConnection) -> set[IndexType]:
    """IVF_RABITQ came with 2.6. IVF_PQ is older, but on 2.3.5 its recall@10 of re-ranked candidates fell from 1.00 to
    0.83 (4,000 x 32, clustered) when 5 % of the rows had been deleted; that of IVF_SQ8 stayed at 1.00."""
    allowed: set[IndexType] = {"FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW"}
    return allowed | {"IVF_PQ", "IVF_RABITQ"} if connection.version >= (2, 6) else allowed


def _listed(connection: MilvusConnection) -> str:
    return ", ".join(sorted(_allowed(connection)))


def _subquantisers(dimension: int) -> int:
    """The largest divisor that leaves at least 4 components to each byte."""
    return max(m for m in range(1, max(dimension // 4, 1) + 1) if dimension % m == 0)


def identity(name: str, settings: IndexSettings, dimension: int, encoder: EncoderId, kind: str) -> dict[str, str]:
    """Kept as properties of the collection: what may not change while it lives."""
    held = {
        "index": name,
        "encoder": str(encoder),
        "metric": settings.metric,
        "dimension": str(dimension),
        "rows": settings.row_dtype,
        "type": kind,
    }
    return {_PREFIX + key: value for key, value in held.items()}


def check_identity(properties: dict[str, Any], wanted: dict[str, str]) -> None:
    """Raises WrongEncoder or NodeUnavailable where a collection holds something else."""
    for key, value in wanted.items():
        found = properties.get(key)
        if found == value:
            continue
        told = key.removeprefix(_PREFIX)
        if told == "encoder":
            raise WrongEncoder
        raise NodeUnavailable(
            f"The collection's {told} is {found!r}, not {value!r}: another needs a new generation of the partition."
        )
