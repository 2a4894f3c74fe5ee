"""The similarity directory of a configuration, owned by one command for as long as it runs.

Where a server owns it, the command is refused with the owner's pid. A command does the upkeep itself, unless it asks
for the index's own threads; `at_rest` owns the directory without opening any index in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.runtime.errors import InvalidInput, NodeUnavailable, NotFound
from deployments.runtime.values import ContentType
from deployments.similarity.content import ANY, PDQ_ENCODER, Bank, EncoderId, IndexedModality, PartitionKey
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.backends import Backend, backend_of
from deployments.similarity.partitions.catalog import Catalog, Generation, State
from deployments.similarity.partitions.directories import GenerationDirectories
from deployments.similarity.partitions.listing import GenerationInfo, PartitionInfo
from deployments.similarity.partitions.root_lock import RootLock, RootLocked
from deployments.similarity.service import SimilarityService

Share = Callable[[str, float], None]
"""Told what is being done, and the share of it that is done."""

_WHAT_TO_DO = "Stop it first; `parakh index stats --url URL --key KEY` asks a server that runs."


class CommandBackend:
    """The embedded backend for a command: whoever opened the indexes may reach every one of them, live or not."""

    def __init__(self, maintain: bool) -> None:
        self._maintain = maintain
        self.indexes: dict[tuple[PartitionKey, int], EmbeddedIndex] = {}

    def open(self, generation: Generation, directory: Path, *, create: bool) -> EmbeddedIndex:
        index = EmbeddedIndex(
            directory,
            generation.settings,
            generation.dimension,
            generation.encoder,
            create=create,
            maintain=self._maintain,
        )
        self.indexes[generation.partition, generation.number] = index
        return index

    def drop(self, generation: Generation) -> None:
        self.indexes.pop((generation.partition, generation.number), None)


class OfflineIndex:
    """Every partition, open in this process."""

    def __init__(self, settings: SimilaritySettings, backend: Backend) -> None:
        self.settings = settings
        self.service = SimilarityService(settings, backend=backend)
        self.partitions = self.service.partitions
        self._opened = backend.indexes if isinstance(backend, CommandBackend) else None

    @property
    def embedded(self) -> bool:
        return self._opened is not None

    def infos(self, key: PartitionKey | None) -> list[PartitionInfo]:
        """Of one partition, or of all. Raises NotFound."""
        return self.service.infos() if key is None else [self.partitions.info(key)]

    def index(self, generation: Generation) -> EmbeddedIndex:
        """Raises InvalidInput where the index is not in this process, NotFound where it did not open."""
        if self._opened is None:
            raise InvalidInput("This works on the embedded index; Milvus has tools of its own for it.")
        index = self._opened.get((generation.partition, generation.number))
        if index is None:
            raise NotFound(f"Generation {generation.number} of {generation.partition} is not open.")
        return index

    def generations(self, key: PartitionKey | None) -> list[GenerationInfo]:
        """Living ones, in order."""
        return [generation for info in self.infos(key) for generation in info.generations]

    def state(self, key: PartitionKey, state: State) -> Generation | None:
        infos = self.partitions.info(key).generations
        return next((info.generation for info in infos if info.generation.state is state), None)


@contextmanager
def opened(settings: SimilaritySettings, *, create: bool = False, maintain: bool = False) -> Iterator[OfflineIndex]:
    """create: make the directory where there is none. maintain: run the upkeep's threads.

    Raises RootLocked, IndexDamaged; NotFound where there is no index and `create` is not said.
    """
    root = settings.directory.expanduser()
    if not create:
        _must_exist(root)
    backend: Backend = CommandBackend(maintain) if settings.backend == "embedded" else backend_of(settings)
    with _told(root):
        index = OfflineIndex(settings.model_copy(update={"lock_wait_s": 0.0}), backend)
    try:
        yield index
    finally:
        index.service.close()


@dataclass(frozen=True)
class AtRest:
    """Directories of living generations, none of them open; and those that the catalog does not know."""

    generations: Sequence[tuple[Generation, Path]]
    unknown: Sequence[PartitionKey]


@contextmanager
def at_rest(settings: SimilaritySettings, key: PartitionKey | None) -> Iterator[AtRest]:
    """Raises RootLocked, IndexDamaged (the catalog), NotFound, InvalidInput (Milvus)."""
    if settings.backend != "embedded":
        raise InvalidInput("This works on the embedded index; Milvus has tools of its own for it.")
    root = settings.directory.expanduser()
    _must_exist(root)
    with _told(root):
        lock = RootLock(root / "lock")
    try:
        catalog = Catalog(root / "catalog.db")
        try:
            rows = catalog.generations()
        finally:
            catalog.close()
        directories = GenerationDirectories(root)
        living = [(row, directories.path_of(row)) for row in rows if row.living and key in (None, row.partition)]
        unknown = sorted(found for found in directories.unknown(rows) if key in (None, found))
        if key is not None and not living and not unknown:
            raise NotFound(f"There is no partition {key}.", param="partition")
        yield AtRest(living, unknown)
    finally:
        lock.release()


def encoder_of(text: str) -> EncoderId:
    """`NAME@VERSION`. Raises InvalidInput."""
    name, at, version = text.rpartition("@")
    if not (at and name and version):
        raise InvalidInput(f"An encoder is written NAME@VERSION, for instance clip@1, not {text!r}.", param="encoder")
    return EncoderId(name, version)


def check_partition(key: PartitionKey, settings: SimilaritySettings) -> None:
    """A partition of this name is one that searches look into. Raises InvalidInput."""
    kinds = {ANY, *ContentType}
    if key.bank not in tuple(Bank):
        raise InvalidInput(f"There is no bank {key.bank}: {', '.join(Bank)}.", param="partition")
    if key.content_type not in kinds:
        raise InvalidInput(f"There is no content type {key.content_type}: {', '.join(sorted(kinds))}.")
    if key.modality not in tuple(IndexedModality):
        raise InvalidInput(f"There is no modality {key.modality}: {', '.join(IndexedModality)}.", param="partition")
    language = settings.partition_language(key.language) if key.bank == Bank.POSTS else ANY
    if key.bank != Bank.SHOWN and key.language != language:
        raise InvalidInput(
            f"{key} is searched by nobody: such content is in {key.bank}.{language}.{key.content_type}.{key.modality}.",
            param="partition",
        )


def check_encoder(key: PartitionKey, encoder: EncoderId) -> None:
    """Raises InvalidInput where signatures and vectors are taken for each other."""
    if (key.modality == IndexedModality.PDQ) != (encoder == PDQ_ENCODER):
        raise InvalidInput(f"Signatures of {PDQ_ENCODER}, and nothing else, are in pdq partitions.", param="encoder")


def _must_exist(root: Path) -> None:
    if (root / "catalog.db").exists():
        return
    if root.is_dir() and GenerationDirectories(root).any_data():  # opening a new catalog would hide that it is lost
        raise IndexDamaged(f"{root} holds partitions and no catalog.db; restore the catalog from a backup.")
    raise NotFound(f"There is no similarity index in {root}.")


@contextmanager
def _told(root: Path) -> Iterator[None]:
    try:
        yield
    except RootLocked as error:
        raise RootLocked(f"{error} {_WHAT_TO_DO}") from None
    except OSError as error:
        raise NodeUnavailable(f"{root} cannot be opened: {error.strerror or type(error).__name__}.") from None
