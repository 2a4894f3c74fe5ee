"""Is what lies on the disk what was written? `verify` looks at an index while it serves, or at one at rest.

With `repair` it puts right what another copy proves. Only with `accept_loss` does it give anything up, and then says
what, so that it can be indexed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.embedded.salvage import salvage
from deployments.similarity.embedded.segment import check_file, read_table
from deployments.similarity.embedded.store import RowStore
from deployments.similarity.embedded.stored import SegmentEntry
from deployments.similarity.embedded.table import Codebook, Codebooks, Table
from deployments.similarity.embedded.verification import (
    BATCH,
    SEGMENTS,
    Finding,
    Serving,
    Subject,
    Verification,
    VerifyReport,
)
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.values import Item

__all__ = ["Finding", "VerifyReport", "verify"]


def verify(
    target: EmbeddedIndex | Path,
    *,
    repair: bool = False,
    accept_loss: bool = False,
    rows_per_s: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> VerifyReport:
    """Look at all of an index; see the module. A directory: of an index that nobody has open.

    rows_per_s: at most so fast. progress: told the share that is done. accept_loss implies repair.

    Raises IndexDamaged where the rows cannot be read at all and no loss is accepted.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        if isinstance(target, EmbeddedIndex):
            subject: Subject = Serving(target)
        else:
            subject = stack.enter_context(_AtRest.opened(target, accept_loss))
        verification = Verification(subject, repair=repair or accept_loss, accept_loss=accept_loss)
        for share in verification.steps():
            progress(share)
            if rows_per_s is not None:
                time.sleep(BATCH / rows_per_s)
        report = verification.report()
    return dataclasses.replace(report, seconds=time.monotonic() - started)


@dataclass
class _AtRest:
    """The directory of an index that nobody has open."""

    store: RowStore
    directory: Path
    lost_commits: int = 0
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._books = Codebooks(Codebook(), Codebook())
        self._tables = self._read()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, directory: Path, accept_loss: bool) -> Iterator[_AtRest]:
        findings: list[Finding] = []
        if accept_loss:
            findings = [Finding("pages", what, "lost") for what in salvage(directory)]
        store = RowStore(directory, None, create=False, tolerant=True)
        try:
            yield cls(store, directory, store.fault.missing if store.fault is not None else 0, findings)
        finally:
            store.close()

    def tables(self) -> list[Table]:
        return self._tables

    def names(self, table: Table) -> tuple[list[str], list[str]]:
        return self._books.languages.texts(), self._books.content_types.texts()

    def uncovered(self, seq: int) -> bool:
        return seq > self.store.covered_seq()

    def still(self, work: Callable[[], None]) -> None:
        work()

    def rebuild(self, name: str) -> str:
        """Whoever opens the index has its settings."""
        if name == "" or name in self.store.unsound_segments():
            self.store.forget_segments()
        return "the next opening rebuilds it"

    def discard(self, seqs: Sequence[int]) -> None:
        self.store.discard(seqs)

    def rewrite(self, item: Item) -> None:
        self.store.write([[item]])

    def accept(self) -> None:
        self.store.accept()

    def _read(self) -> list[Table]:
        tables = (self._table(entry) for entry in self.store.segments())
        found = [table for table in tables if table is not None]
        dead = np.array(self.store.tombstones(), np.int64)
        for table in found:
            table.alive[:] = ~np.isin(table.seqs, dead)
        return found

    def _table(self, entry: SegmentEntry) -> Table | None:
        """None where a file that it is read from is damaged."""
        directory = self.directory / SEGMENTS / entry.name
        try:
            for file in entry.manifest["files"]:
                if file.endswith(".npy"):
                    check_file(directory, entry, file)
            return read_table(directory, entry, self._books)
        except (IndexDamaged, OSError, ValueError):
            return None
