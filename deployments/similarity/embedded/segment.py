"""A part of an index that is searched as one: its table, its codes, and, on disk, the files that hold both.

A segment's files are written to a temporary directory, flushed, renamed, and only then named in the store. Each file's
SHA-256 is in the store's manifest and checked when the segment is opened, so that a damaged one is never searched.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.similarity import rows as row_files
from deployments.similarity.embedded import codes as faiss_codes
from deployments.similarity.embedded.codes import Codes, Template
from deployments.similarity.embedded.exact import chunk_rows
from deployments.similarity.embedded.gpu import Gpu, GpuPart
from deployments.similarity.embedded.high_water import flush
from deployments.similarity.embedded.stored import SegmentEntry
from deployments.similarity.embedded.table import Codebooks, Table
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.rows import FixedRows, concatenated
from deployments.similarity.spaces import Space

_INDEX = "codes.faiss"
_COLUMNS = ("seqs", "created_at", "languages", "content_types", "checksums")
_IDS_CHUNK = 1024


@dataclass(eq=False)
class Part:
    """One searchable part. `dead` counts rows killed since it was made; its owner changes it under a lock."""

    table: Table
    index: Any  # FAISS
    template: Template | None  # None: untrained, exact
    lists: NDArray[np.int32]  # (n,) inverted list of each row under the template
    entry: SegmentEntry | None = None  # where it is on disk
    dead: int = 0
    gpu: GpuPart | None = None  # the same codes on the device

    def __len__(self) -> int:
        return len(self.table)

    @property
    def first_seq(self) -> int:
        return int(self.table.seqs[0])

    @property
    def last_seq(self) -> int:
        return int(self.table.seqs[-1])

    def use_effort(self, effort: int) -> None:
        """Search so far from now on; before the part is published, so that its manifest says so, too."""
        assert self.template is not None
        assert self.entry is not None
        self.template = dataclasses.replace(self.template, effort=effort)
        described = {**self.entry.manifest["template"], "effort": effort}
        self.entry = dataclasses.replace(self.entry, manifest={**self.entry.manifest, "template": described})

    def kill(self, seq: int) -> bool:
        """Whether `seq` is here, and lived."""
        position = self.table.position(seq)
        if position is None or not self.table.alive[position]:
            return False
        self.table.alive[position] = False
        self.dead += 1
        return True


@dataclass(frozen=True)
class Source:
    """Rows of a part that go into a new segment."""

    part: Part
    positions: NDArray[np.intp]

    @classmethod
    def living(cls, part: Part) -> Source:
        return cls(part, np.flatnonzero(part.table.alive))

    def is_whole_under(self, template: Template | None) -> bool:
        """Every row of an indexed part, under the template it has."""
        part = self.part
        same = part.template is template or (
            part.template is not None and template is not None and part.template.name == template.name
        )
        return part.index is not None and same and 0 < len(self.positions) == len(part)

    def alive(self) -> NDArray[np.bool_]:
        """Of the rows taken, those that still live."""
        return np.asarray(self.part.table.alive[self.positions])


class SegmentFiles:
    """The directory of an index's segments."""

    def __init__(self, directory: Path, space: Space, codes: Codes, books: Codebooks, gpu: Gpu | None = None) -> None:
        self._directory = directory
        self._space = space
        self._codes = codes
        self._books = books
        self._gpu = gpu
        self._chunk = max(64, chunk_rows(space) // 4)
        if not directory.exists():
            directory.mkdir()
            flush(directory.parent)

    def build(
        self,
        name: str,
        sources: Sequence[Source],
        template: Template | None,
        index_type: str,
        rest: Callable[[], None] = lambda: None,
    ) -> Part | None:
        """A segment of all rows of `sources`, in order of seq, on disk and opened; None where there are none.

        Rows of a part of the same template keep their lists, others are assigned. `rest` is called between chunks.
        """
        if len(sources) == 1 and sources[0].is_whole_under(template):  # its codes are there already
            part = sources[0].part
            return self._write(name, sources, part.index, part.lists, template, index_type, rest)
        index = self._codes.empty(template)
        lists = []
        for source in sources:
            for positions in _chunks(source.positions, self._chunk):
                vectors = self._space.codes_input(source.part.table.rows.take(positions))
                if template is None:
                    assigned = np.zeros(len(positions), np.int32)
                elif source.part.template is not None and source.part.template.name == template.name:
                    assigned = source.part.lists[positions]
                else:
                    assigned = self._codes.assign(template, vectors)
                self._codes.add(index, vectors, assigned)
                lists.append(assigned)
                rest()
        if not lists:
            return None
        return self._write(name, sources, index, np.concatenate(lists), template, index_type, rest)

    def open(self, entry: SegmentEntry, templates: Mapping[str, Template]) -> Part:
        """Raises IndexDamaged where a file is missing or not what was written. All rows alive."""
        directory = self._directory / entry.name
        for file in entry.manifest["files"]:
            check_file(directory, entry, file)
        index = faiss_codes.read(str(directory / _INDEX), self._space.binary)
        return self._opened(entry, index, self._template(index, entry.manifest["template"], templates))

    def whole(self, entry: SegmentEntry) -> bool:
        """Whether every file on the disk is what was written; the codes in memory were read once and are not asked."""
        try:
            for file in entry.manifest["files"]:
                if file != _INDEX:
                    check_file(self._directory / entry.name, entry, file)
        except (IndexDamaged, OSError):
            return False
        return True

    def remove(self, name: str) -> None:
        shutil.rmtree(self._directory / name, ignore_errors=True)

    def sweep(self, named: set[str]) -> None:
        """Remove what a crash left: directories that the store does not name."""
        for path in self._directory.iterdir():
            if path.name not in named:
                shutil.rmtree(path, ignore_errors=True)

    def size_bytes(self, entries: Sequence[SegmentEntry]) -> int:
        paths = (path for entry in entries for path in (self._directory / entry.name).iterdir())
        return sum(path.stat().st_size for path in paths)

    def path(self, name: str) -> Path:
        return self._directory / name

    def _opened(self, entry: SegmentEntry, index: Any, template: Template | None) -> Part:
        table = read_table(self._directory / entry.name, entry, self._books)
        if index.ntotal != len(table):
            raise IndexDamaged(f"segment {entry.name}: its parts do not belong together")
        lists = row_files.mapped(self._directory / entry.name / "lists.npy")
        gpu = None if self._gpu is None else self._gpu.part(index)
        return Part(table, index, template, lists, entry, gpu=gpu)

    def _template(
        self, index: Any, described: Mapping[str, Any] | None, templates: Mapping[str, Template]
    ) -> Template | None:
        if described is None:
            return None
        if described["name"] in templates:
            return templates[described["name"]]
        empty = self._codes.copy(index)
        empty.reset()
        return Template(described["name"], empty, described["rows"], described["effort"])

    def _write(
        self,
        name: str,
        sources: Sequence[Source],
        index: Any,
        lists: NDArray[np.int32],
        template: Template | None,
        index_type: str,
        rest: Callable[[], None],
    ) -> Part:
        temporary, final = self._directory / f".{name}", self._directory / name
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            files = self._write_files(temporary, sources, index, lists, rest)
            temporary.rename(final)
        except BaseException:  # on a full disk, what was written of it is in the way of what comes
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush(self._directory)
        seqs = np.load(final / "seqs.npy")
        manifest = {
            "files": files,
            "rows": len(seqs),
            "index_type": index_type,
            "template": template and {"name": template.name, "rows": template.rows, "effort": template.effort},
            "languages": self._books.languages.texts(),
            "content_types": self._books.content_types.texts(),
        }
        entry = SegmentEntry(name, int(seqs[0]), int(seqs[-1]), manifest)
        return self._opened(entry, index, template)

    def _write_files(
        self,
        directory: Path,
        sources: Sequence[Source],
        index: Any,
        lists: NDArray[np.int32],
        rest: Callable[[], None],
    ) -> dict[str, str]:
        """File -> SHA-256; all of them on the disk on return."""
        directory.mkdir()
        faiss_codes.write(index, str(directory / _INDEX), self._space.binary)
        for column in ("seqs", "created_at", "languages", "content_types", "checksums"):
            parts = [getattr(source.part.table, column)[source.positions] for source in sources]
            np.save(directory / f"{column}.npy", np.concatenate(parts), allow_pickle=False)
        np.save(directory / "lists.npy", lists, allow_pickle=False)
        self._write_rows(directory, sources, rest)
        _write_ids(directory, sources, rest)
        for path in [*directory.iterdir(), directory]:
            flush(path)
        return {path.name: sha256_of(path) for path in sorted(directory.iterdir())}

    def _write_rows(self, directory: Path, sources: Sequence[Source], rest: Callable[[], None]) -> None:
        tables = (
            source.part.table.rows.take(positions)
            for source in sources
            for positions in _chunks(source.positions, self._chunk)
        )
        if self._space.row_width is None:
            row_files.save(concatenated(list(tables)), directory)
            return
        shape = (sum(len(source.positions) for source in sources), self._space.row_width)
        dtype = np.lib.format.dtype_to_descr(self._space.row_dtype)
        with (directory / "rows.npy").open("wb") as file:  # a memory map's flush would keep the interpreter
            np.lib.format.write_array_header_2_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
            for table in tables:
                assert isinstance(table, FixedRows)
                file.write(table.matrix.data)
                rest()


class _IdFile:
    """Ids end to end in one file, read where they lie."""

    def __init__(self, directory: Path) -> None:
        self._bytes = memoryview(row_files.mapped(directory / "ids.npy"))  # type: ignore[arg-type]
        self._ends = memoryview(row_files.mapped(directory / "id_ends.npy"))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> str:
        start = self._ends[position - 1] if position else 0
        return str(self._bytes[start : self._ends[position]], "utf-8")


def check_file(directory: Path, entry: SegmentEntry, file: str) -> None:
    """Raises IndexDamaged where it is not what was written."""
    path = directory / file
    if not path.exists() or sha256_of(path) != entry.manifest["files"][file]:
        raise IndexDamaged(f"segment {entry.name}: {file} is missing or damaged")


def read_table(directory: Path, entry: SegmentEntry, books: Codebooks) -> Table:
    """The columns of a segment; all rows alive."""
    arrays = {name: row_files.mapped(directory / f"{name}.npy") for name in _COLUMNS}
    return Table(
        seqs=arrays["seqs"],
        ids=_IdFile(directory),
        created_at=arrays["created_at"],
        languages=_recoded(arrays["languages"], entry.manifest["languages"], books.languages.code),
        content_types=_recoded(arrays["content_types"], entry.manifest["content_types"], books.content_types.code),
        checksums=arrays["checksums"],
        rows=row_files.load(directory),
        alive=np.ones(len(arrays["seqs"]), np.bool_),
    )


def _recoded(codes: NDArray[np.uint16], texts: Sequence[str], code_of: Callable[[str], int]) -> NDArray[np.uint16]:
    new = np.array([code_of(text) for text in texts], np.uint16)
    return codes if np.array_equal(new, np.arange(len(new))) else new[codes]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chunks(positions: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    return (positions[start : start + size] for start in range(0, len(positions), size))


def _write_ids(directory: Path, sources: Sequence[Source], rest: Callable[[], None]) -> None:
    encoded: list[bytes] = []
    for source in sources:
        ids = source.part.table.ids
        for positions in _chunks(source.positions, _IDS_CHUNK):
            encoded += [ids[position].encode() for position in positions.tolist()]
            rest()
    np.save(directory / "ids.npy", np.frombuffer(b"".join(encoded), np.uint8), allow_pickle=False)
    np.save(directory / "id_ends.npy", np.cumsum([len(id_) for id_ in encoded], dtype=np.int64), allow_pickle=False)
