"""What keeps an embedded index small, trained and on disk, behind its writers' and readers' backs.

Two threads at low priority. The gatherer is quick: full buffers -> gathered rows -> segment files. The compactor takes
its time: trains, merges, rewrites. Both make new parts aside and swap them into the view; what died meanwhile is
carried over at the swap, under the index's lock. `_turn` keeps the two from swapping the same part.

Locks, outermost first: `_compacting` (one compactor at a time), `_gathering` (one gatherer), `_turn`, then the
store's and the index's own. Whoever holds `_turn` may wait for the writing thread, which takes none of the three.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from deployments.similarity.embedded.codes import Template
from deployments.similarity.embedded.gathered import Gathered, capacity
from deployments.similarity.embedded.recovery import rebuilt, segment_name, sound
from deployments.similarity.embedded.segment import Part, Source
from deployments.similarity.embedded.stored import SegmentEntry
from deployments.similarity.embedded.tuning import tuned
from deployments.similarity.embedded.verification import Serving, Verification
from deployments.similarity.embedded.view import Buffer, View
from deployments.similarity.errors import IndexClosed, IndexDamaged
from deployments.similarity.rows import concatenated

if TYPE_CHECKING:
    from deployments.similarity.embedded.index import EmbeddedIndex

logger = logging.getLogger(__name__)

_NICE = 10
_TIER = 4  # so many neighbouring segments of like size become one
_IDLE_S = 0.5
_ERROR_PAUSE_S = 5.0
_REST_S = 0.001
_MAX_DAMAGED = 100  # findings kept for the operator


class Upkeep:
    """Of one index. Every step may also be called by hand: `maintain` does all that is due."""

    def __init__(self, index: EmbeddedIndex, growing: Gathered) -> None:
        self._index = index
        self._growing = growing
        self._turn = threading.RLock()
        self._compacting = threading.RLock()
        self._gathering = threading.RLock()
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._snapshot: SegmentEntry | None = None  # the file that holds what is gathered, so far as it was then
        self.snapshot_at: float | None = None
        self.merge_s = 0.0  # seconds spent training, merging and rewriting
        self.scrubbed_at: float | None = None  # when everything had last been read and checked
        self.recall_estimate: float | None = None
        self.errors: dict[str, str] = {}  # thread -> why its work fails, for as long as it does
        self.damaged: list[str] = []  # what was met that is not as it was written

    @property
    def stuck(self) -> str | None:
        """Why full buffers are not taken on, if they are not."""
        return self.errors.get("gather")

    @property
    def last_gathered_seq(self) -> int:
        """Rows up to here are in the view's parts."""
        return max(self._growing.last_seq, self._index.store.covered_seq())

    @property
    def running(self) -> bool:
        return bool(self._threads)

    @property
    def gathered_bytes(self) -> int:
        return self._growing.nbytes

    def start(self) -> None:
        steps = {"gather": self._gather_step, "compact": self._compact_step}
        if self._index.settings.scrub_h:
            steps["scrub"] = self._scrub_step
        for name, step in steps.items():
            thread = threading.Thread(
                target=self._loop, args=(name, step), name=f"{name}-{self._index.directory.name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stopping.set()
        self._wanted.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def wake(self) -> None:
        self._wanted.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Neither thread works meanwhile; what each was at is finished first."""
        with self._compacting, self._gathering:
            yield

    def maintain(self) -> None:
        """All that is due now."""
        self.gather()
        while self.compact():
            pass

    # --- the gatherer ---

    def gather(self) -> None:
        """Full buffers into the gathered part; that, when it is full, into a segment."""
        while self._index.view.sealed:
            with self._turn:
                waiting = self._index.view.sealed
                self._gather_some(waiting)
                if len(self._growing) >= self._capacity or (waiting and self._growing.room < waiting[0].capacity):
                    self.freeze()

    def freeze(self) -> None:
        """The gathered part becomes a segment."""
        with self._turn:
            part = self._index.view.gathered
            if part is None:
                self._growing = self._fresh(self._growing.template)  # of the room that buffers need
                return
            source = Source.living(part)
            segment = self._persisted(source)

            def change(view: View) -> View:
                if segment is None:
                    return dataclasses.replace(view, gathered=None)
                _carry_deaths(segment, [source])
                return dataclasses.replace(view, segments=(*view.segments, segment), gathered=None)

            self._index.swap(change)
            self._growing = self._fresh(self._growing.template)
            self._snapshot = None

    def snapshot(self) -> None:
        """Everything written before is in segment files on return: a restart has nothing to replay."""
        self._index.seal()
        self.gather()
        with self._turn:
            part = self._index.view.gathered
            if part is not None and (self._snapshot is None or part.last_seq > self._snapshot.last_seq):
                segment = self._persisted(Source.living(part))
                self._snapshot = segment.entry if segment is not None else None
            self.snapshot_at = time.time()
        self._index.store.checkpoint()

    # --- the compactor ---

    def compact(self) -> bool:
        """The most pressing piece of work, if any: train, adopt a new template, rewrite the dead away, merge."""
        started = time.monotonic()
        with self._compacting:
            done = self._train_if_due() or self._adopt() or self._rewrite() or self._merge()
        if done:
            self.merge_s += time.monotonic() - started
            self._index.store.checkpoint()
        return done

    def retrain(self) -> None:
        """Train on what is there now, tune, and rebuild every segment as one."""
        with self._compacting:
            self.gather()
            self.freeze()
            segments = self._index.view.segments
            rows = sum(len(part) - part.dead for part in segments)
            if not rows:
                return
            if not self._index.codes.trains:
                self._replace(segments, None)
            elif self._whole(segments):
                self._replace(segments, self._trained(segments, rows))
                with self._turn:
                    self._regather()

    def rebuild(self, part: Part) -> None:
        """A damaged segment anew from its rows. Raises IndexDamaged where one of those is damaged, too."""
        index, entry = self._index, part.entry
        assert entry is not None
        with self._compacting:
            fresh = rebuilt(index.store, index.files, index.space, index.books, index.settings, entry, part.template)

            def change(view: View) -> View:
                """Between two writes: whoever died since the rows were read has a tombstone."""
                if fresh is not None:
                    for seq in index.store.tombstones():
                        fresh.kill(seq)
                segments = [fresh if one is part else one for one in view.segments]
                return dataclasses.replace(view, segments=tuple(one for one in segments if one is not None))

            with self._turn:
                self._publish(fresh, [entry.name])
                index.between_writes(lambda: index.swap(change))

    def retune(self, target: float | None = None) -> dict[str, int]:
        """Measure nprobe or ef_search anew, to `target` recall@10 or the configured one, and search so from now on.

        Template -> effort. The effort is kept until the next training, which measures by the configured target.
        """
        efforts: dict[str, int] = {}
        with self._compacting, self._turn:
            self.freeze()
            segments = [part for part in self._index.view.segments if part.template is not None]
            for part in sorted(segments, key=len, reverse=True):
                assert part.template is not None
                name = part.template.name
                if name not in efforts:
                    index = self._index
                    efforts[name] = tuned(index.space, index.codes, index.settings, part, self._rest, target)
                part.use_effort(efforts[name])
            entries = [part.entry for part in segments if part.entry is not None]
            store = self._index.store
            store.publish(entries, [], [], store.covered_seq())
            if self._growing.template is not None and self._growing.template.name in efforts:
                effort = efforts[self._growing.template.name]
                self._growing = self._fresh(dataclasses.replace(self._growing.template, effort=effort))
        return efforts

    def index_stored(self) -> None:
        """What a bulk load put into the store, as segments. Nothing else is gathered or buffered meanwhile."""
        store = self._index.store
        with self._turn:
            for batch in store.rows(store.covered_seq(), batch=self._capacity):
                self._growing.add_stored(sound(batch))
                self._index.swap(lambda view: dataclasses.replace(view, gathered=self._growing.part(None)))
                self.freeze()
        self.snapshot_at = time.time()

    def damage(self, what: str) -> IndexDamaged:
        """Remember that `what` was found damaged; the error to tell the caller."""
        if what not in self.damaged and len(self.damaged) < _MAX_DAMAGED:
            self.damaged = [*self.damaged, what]
            logger.error("%s: %s is damaged", self._index.directory, what)
        return IndexDamaged(f"{what} is damaged; `parakh index verify --repair`")

    # --- steps ---

    @property
    def _capacity(self) -> int:
        return capacity(self._index.space, self._index.settings)

    def _fresh(self, template: Template | None) -> Gathered:
        index = self._index
        room = self._capacity + 2 * self._index.view.buffer.capacity
        return Gathered(index.space, index.codes, index.books, template, room)

    def _gather_some(self, sealed: Sequence[Buffer]) -> None:
        """As many full buffers as there is room for."""
        taken: list[Buffer] = []
        room = self._growing.room
        for buffer in sealed:
            if len(buffer) > room:
                break
            room -= len(buffer)
            taken.append(buffer)
        sources = [Source.living(buffer.as_part()) for buffer in taken]
        start = len(self._growing)
        self._growing.add(sources)

        def change(view: View) -> View:
            part = self._growing.part(view.gathered)
            if part is not None:
                alive = np.concatenate([source.alive() for source in sources]) if sources else np.ones(0, bool)
                part.table.alive[start:] &= alive
                part.dead = int((~part.table.alive).sum())
            return dataclasses.replace(view, sealed=view.sealed[len(taken) :], gathered=part)

        self._index.swap(change)

    def _persisted(self, source: Source) -> Part | None:
        """Gathered rows as a segment file that takes the last snapshot's place; None where none lives."""
        index, part = self._index, source.part
        name = segment_name(part.last_seq)
        segment = index.files.build(name, [source], part.template, index.settings.index_type, self._rest)
        self._publish(segment, [self._snapshot.name] if self._snapshot else [], covered=part.last_seq)
        return segment

    def _publish(self, added: Part | None, dropped: Sequence[str], covered: int | None = None) -> None:
        """Name a new segment in the store; forget the old ones and the tombstones no file needs any more."""
        store = self._index.store
        entries = [added.entry] if added is not None and added.entry is not None else []
        covered = store.covered_seq() if covered is None else max(covered, store.covered_seq())
        on_disk = [part for part in self._index.view.segments if part.entry and part.entry.name not in dropped]
        kept = on_disk + ([added] if added is not None else [])
        dead = np.array(store.tombstones(), np.int64)
        dead = dead[dead <= covered]
        needed = np.zeros(len(dead), bool)
        for part in kept:
            needed |= np.isin(dead, part.table.seqs)
        if self._snapshot is not None and self._snapshot.name not in dropped:
            needed |= (dead >= self._snapshot.first_seq) & (dead <= self._snapshot.last_seq)
        try:
            store.publish(entries, dropped, dead[~needed].tolist(), covered)
        except BaseException:
            for entry in entries:  # each try would leave another one on a full disk
                self._index.files.remove(entry.name)
            raise
        for name in dropped:
            self._index.files.remove(name)

    def _train_if_due(self) -> bool:
        settings, view = self._index.settings, self._index.view
        if not self._index.codes.trains:
            return False
        rows = sum(len(part) - part.dead for part in view.parts())
        template = self._template()
        due = settings.train_from if template is None else template.rows * (1 + settings.retrain_growth)
        if rows < due:
            return False
        self.retrain()
        return True

    def _template(self) -> Template | None:
        templates = [part.template for part in self._index.view.parts() if part.template is not None]
        return max(templates, key=lambda template: template.rows, default=self._growing.template)

    def _adopt(self) -> bool:
        """Segments frozen while the template was trained move to it."""
        template = self._template()
        if template is None:
            return False
        for part in self._index.view.segments:
            if part.template is None or part.template.name != template.name:
                self._replace([part], template)
                return True
        return False

    def _rewrite(self) -> bool:
        for part in self._index.view.segments:
            if part.dead > self._index.settings.max_dead_share * len(part):
                self._replace([part], part.template)
                return True
        return False

    def _merge(self) -> bool:
        segments = self._index.view.segments
        for start in range(len(segments) - _TIER + 1):
            run = segments[start : start + _TIER]
            sizes = [len(part) - part.dead for part in run]
            if max(sizes) < _TIER * max(1, min(sizes)):
                self._replace(run, run[0].template)
                return True
        return False

    def _trained(self, segments: Sequence[Part], rows: int) -> Template:
        index = self._index
        wanted = index.codes.training_rows(rows)
        random = np.random.default_rng(rows)
        samples = []
        for part in segments:
            living = np.flatnonzero(part.table.alive)
            share = min(len(living), -(-wanted * len(living) // rows))
            chosen = np.sort(random.choice(living, share, replace=False))
            for start in range(0, len(chosen), 1024):
                samples.append(part.table.rows.take(chosen[start : start + 1024]))
                self._rest()
        sample = index.space.codes_input(concatenated(samples))
        return index.codes.train(segment_name(rows), sample, rows)

    def _replace(self, parts: Sequence[Part], template: Template | None) -> None:
        """One new segment, under `template`, in the place of neighbouring ones."""
        index = self._index
        if not self._whole(parts):
            return
        sources = [Source.living(part) for part in parts]
        name = segment_name(parts[-1].last_seq)
        segment = index.files.build(name, sources, template, index.settings.index_type, self._rest)
        if segment is not None and template is not None and _untuned(template, parts):
            segment.use_effort(tuned(index.space, index.codes, index.settings, segment, self._rest))
        names = [part.entry.name for part in parts if part.entry is not None]
        with self._turn:

            def change(view: View) -> View:
                segments = list(view.segments)
                place = segments.index(parts[0])
                for part in parts:
                    segments.remove(part)
                if segment is not None:
                    _carry_deaths(segment, sources)
                    segments.insert(place, segment)
                return dataclasses.replace(view, segments=tuple(segments))

            self._publish(segment, names)
            index.swap(change)

    def _whole(self, parts: Sequence[Part]) -> bool:
        """Whether the files are what was written: else damage were copied under a good hash. Rebuilds those not."""
        damaged = [part for part in parts if part.entry is not None and not self._index.files.whole(part.entry)]
        for part in damaged:
            assert part.entry is not None
            self.damage(f"segment {part.entry.name}")
            self.rebuild(part)
        return not damaged

    def _regather(self) -> None:
        """What was gathered under the old template, under the new one."""
        part = self._index.view.gathered
        fresh = self._fresh(self._template())
        source = Source.living(part) if part is not None else None
        if source is not None:
            fresh.add([source])

        def change(view: View) -> View:
            new = fresh.part(None)
            if new is not None and source is not None:
                new.table.alive[:] = source.alive()
                new.dead = int((~new.table.alive).sum())
            return dataclasses.replace(view, gathered=new)

        self._index.swap(change)
        self._growing = fresh

    # --- threads ---

    def _gather_step(self) -> None:
        self._wanted.wait(_IDLE_S)
        self._wanted.clear()
        with self._gathering:
            self.gather()
            due = self.snapshot_at is None or time.time() - self.snapshot_at > self._index.settings.snapshot_s
            if due and self._index.view.gathered is not None:
                self.snapshot()

    def _compact_step(self) -> None:
        if not self.compact():
            self._stopping.wait(_IDLE_S)

    def _scrub_step(self) -> None:
        """Read everything once, in small steps spread over `scrub_h`."""
        verification = Verification(Serving(self._index))
        started, told = time.monotonic(), 0
        with contextlib.closing(verification.steps()) as steps:
            for share in steps:
                for finding in verification.findings[told:]:
                    if finding.kind != "orphan":
                        self.damage(finding.what)
                told = len(verification.findings)
                due = started + share * self._index.settings.scrub_h * 3600
                if self._stopping.wait(max(0.0, due - time.monotonic())):
                    return
        self.scrubbed_at = time.time()

    def _loop(self, name: str, step: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, AttributeError):
            thread = threading.get_native_id()  # on Linux a thread has a niceness of its own
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICE))
        while not self._stopping.is_set():
            try:
                step()
                self.errors.pop(name, None)
            except Exception as error:
                if self._stopping.is_set():
                    return
                self.errors[name] = f"{type(error).__name__}: {error}"
                logger.exception("%s: upkeep failed; trying again", self._index.directory)
                self._stopping.wait(_ERROR_PAUSE_S)

    def _rest(self) -> None:
        """Between chunks: leave searches the interpreter and the core for a while; stop when the index closes."""
        if self._stopping.is_set():
            raise IndexClosed
        time.sleep(_REST_S)


def _carry_deaths(segment: Part, sources: Sequence[Source]) -> None:
    """Rows that died while the segment was built."""
    segment.table.alive[:] = np.concatenate([source.alive() for source in sources])
    segment.dead = int((~segment.table.alive).sum())


def _untuned(template: Template, parts: Sequence[Part]) -> bool:
    return all(part.template is None or part.template.name != template.name for part in parts)
