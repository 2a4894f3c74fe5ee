"""Partitions: made at the first write, one encoder a generation, blue and green, and one owner of the root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput, NotFound, PartitionConflict, WrongEncoder
from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.backends import EmbeddedBackend, MemoryBackend
from deployments.similarity.partitions.catalog import Generation, State
from deployments.similarity.partitions.generations import Spec
from deployments.similarity.partitions.partitions import Partitions
from deployments.similarity.partitions.root_lock import RootLocked
from deployments.similarity.settings import IndexSettings
from deployments.similarity.values import Item
from deployments.similarity.vector_index import VectorIndex

KEY = PartitionKey.parse("posts.hi.video.visual")
OTHER = PartitionKey.parse("posts.bn.video.visual")
OLD, NEW = EncoderId("clip", "1"), EncoderId("clip", "2")


class Crash(BaseException):
    """The process dies here."""


class World:
    """One root directory whose indexes outlive the owner, as files would."""

    def __init__(self, root: Path) -> None:
        self.backend = MemoryBackend()
        self.settings = SimilaritySettings(directory=root, lock_wait_s=0, max_partitions=3)
        self.owner: Partitions | None = None
        self.crash_at: str | None = None

    def open(self) -> Partitions:
        self.owner = Partitions(self.settings, self.backend, step=self._step)
        return self.owner

    def die(self) -> None:
        """What the operating system does of a dead owner."""
        assert self.owner is not None
        self.owner._generations._lock.release()
        self.owner._catalog.close()

    def reopen(self) -> Partitions:
        self.crash_at = None
        self.die()
        return self.open()

    def _step(self, name: str) -> None:
        if name == self.crash_at:
            raise Crash(name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "root")


@pytest.fixture
def partitions(world: World) -> Iterator[Partitions]:
    yield world.open()
    world.die()


def vector(position: int, dimension: int = 8) -> NDArray[np.float32]:
    one: NDArray[np.float32] = np.eye(dimension, dtype=np.float32)[position]
    return one


def item(id: str, position: int = 0, dimension: int = 8) -> Item:
    return Item(id, vector(position, dimension))


def found(partitions: Partitions, encoder: EncoderId, position: int = 0, dimension: int = 8) -> tuple[str, ...]:
    return partitions.search(KEY, encoder, [vector(position, dimension)], 5, threshold=0.9)[0].ids


def states(partitions: Partitions) -> dict[int, State]:
    return {one.generation.number: one.generation.state for one in partitions.info(KEY).generations}


def directories(world: World) -> set[str]:
    return {path.relative_to(world.settings.directory).as_posix() for path in world.settings.directory.glob("*/g*")}


# --- first use ---


def test_the_first_write_makes_the_partition_from_the_settings(world: World, partitions: Partitions) -> None:
    partitions.upsert(KEY, OLD, [item("a")])
    assert found(partitions, OLD) == ("a",)
    info = partitions.info(KEY)
    assert (info.encoder, info.dimension, info.settings, info.damaged) == (OLD, 8, IndexSettings(), None)
    assert info.stats is not None
    assert info.stats.items == 1
    assert info.thresholds == {"protected": 0.95, "duplicate": 0.97}
    assert directories(world) == {"posts.hi.video.visual/g0001"}


def test_an_override_by_pattern_reaches_the_partitions_it_names(tmp_path: Path) -> None:
    settings = SimilaritySettings.model_validate(
        {"overrides": [{"partition": "posts.hi.video.*", "index": {"nprobe": 7}}], "directory": tmp_path}
    )
    owner = Partitions(settings, MemoryBackend())
    for key in (KEY, OTHER):
        owner.upsert(key, OLD, [item("a")])
    given = {str(info.key): info.settings and info.settings.nprobe for info in owner.infos()}
    assert given == {str(KEY): 7, str(OTHER): None}
    owner.close()


def test_a_signature_partition_is_made_of_bits(partitions: Partitions) -> None:
    key = PartitionKey.parse("posts.any.image.pdq")
    partitions.upsert(key, EncoderId("pdq", "1"), [Item("a#0", np.zeros(32, np.uint8))])
    assert partitions.info(key).dimension == 256


@pytest.mark.parametrize("bad", [np.full(8, np.nan, np.float32), np.zeros(8, np.float32), np.zeros((2, 2), np.float32)])
def test_a_refused_write_makes_nothing(world: World, partitions: Partitions, bad: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidInput):
        partitions.upsert(KEY, OLD, [Item("a", bad)])
    assert partitions.keys_of() == []
    assert directories(world) == set()


def test_many_first_writers_make_one_partition(partitions: Partitions) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: partitions.upsert(KEY, OLD, [item(f"p{i}", i % 8)]), range(64)))
    assert states(partitions) == {1: State.ACTIVE}
    assert len(partitions.scan(KEY)) == 64


def test_there_is_an_end_to_new_partitions(partitions: Partitions) -> None:
    for language in ("aa", "bb", "cc"):
        partitions.upsert(PartitionKey("posts", language, "video", "visual"), OLD, [item("a")])
    with pytest.raises(InvalidInput, match="no more"):
        partitions.upsert(KEY, OLD, [item("a")])


def test_what_is_not_there_is_said(partitions: Partitions) -> None:
    for ask in (
        lambda: partitions.delete(KEY, ["a"]),
        lambda: partitions.get(KEY, ["a"]),
        lambda: found(partitions, OLD),
        lambda: partitions.begin(KEY, NEW, 8),
        lambda: partitions.switch(KEY),
    ):
        with pytest.raises(NotFound, match=r"posts\.hi\.video\.visual"):
            ask()


# --- encoders and generations ---


def test_an_encoder_founds_no_partition_with_vectors_of_another_dimension(partitions: Partitions) -> None:
    partitions.upsert(KEY, OLD, [item("a")])
    with pytest.raises(InvalidInput, match="have 8"):
        partitions.upsert(OTHER, OLD, [item("a", dimension=9)])
    assert partitions.keys_of() == [KEY]
    partitions.upsert(OTHER, NEW, [item("a", dimension=9)])


def test_another_encoder_is_refused_for_writes_and_queries(partitions: Partitions) -> None:
    partitions.upsert(KEY, OLD, [item("a")])
    with pytest.raises(WrongEncoder, match="re-embedding"):
        partitions.upsert(KEY, NEW, [item("b")])
    with pytest.raises(WrongEncoder, match="clip@1"):
        found(partitions, NEW)
    assert partitions.scan(KEY) == ["a"]


def test_re_embedding_runs_beside_and_takes_over_at_once(world: World, partitions: Partitions) -> None:
    partitions.upsert(KEY, OLD, [item("a"), item("b", 1)])
    partitions.begin(KEY, NEW, 16)
    assert list(partitions.lacking(KEY)) == ["a", "b"]
    partitions.upsert(KEY, NEW, [item("a", 9, 16)])
    partitions.upsert(KEY, OLD, [item("c", 2)])
    assert found(partitions, OLD) == ("a",)
    assert list(partitions.lacking(KEY)) == ["b", "c"]
    with pytest.raises(WrongEncoder):
        found(partitions, NEW, 9, 16)
    partitions.switch(KEY)
    assert found(partitions, NEW, 9, 16) == ("a",)
    with pytest.raises(WrongEncoder):
        found(partitions, OLD)
    assert states(partitions) == {1: State.PREVIOUS, 2: State.ACTIVE}


def test_a_rollback_loses_nothing_that_the_old_encoder_wrote_and_no_deletion(partitions: Partitions) -> None:
    partitions.upsert(KEY, OLD, [item("a"), item("b", 1)])
    partitions.begin(KEY, NEW, 8)
    partitions.upsert(KEY, NEW, [item("a"), item("b", 1)])
    partitions.switch(KEY)
    partitions.upsert(KEY, OLD, [item("late", 2)])
    assert partitions.delete(KEY, ["b"]) == 1
    partitions.rollback(KEY)
    assert partitions.scan(KEY) == ["a", "late"]
    assert found(partitions, OLD, 2) == ("late",)


def test_a_second_switch_retires_the_oldest_and_removes_its_data(world: World, partitions: Partitions) -> None:
    partitions.upsert(KEY, OLD, [item("a")])
    for _ in range(2):
        partitions.begin(KEY, NEW, 8)
        partitions.switch(KEY)
    assert states(partitions) == {2: State.PREVIOUS, 3: State.ACTIVE}
    assert directories(world) == {f"{KEY}/g0002", f"{KEY}/g0003"}
    assert set(world.backend.indexes) == {f"{KEY}/g0002", f"{KEY}/g0003"}


def test_one_generation_is_built_at_a_time_and_may_be_given_up(world: World, partitions: Partitions) -> None:
    partitions.upsert(KEY, OLD, [item("a")])
    partitions.begin(KEY, NEW, 8)
    with pytest.raises(PartitionConflict, match="being built"):
        partitions.begin(KEY, NEW, 8)
    partitions.retire(KEY, 2)
    assert partitions.begin(KEY, NEW, 8).number == 3
    with pytest.raises(PartitionConflict):
        partitions.retire(KEY, 1)


def test_other_index_settings_are_filled_from_the_live_index_while_writes_go_on(partitions: Partitions) -> None:
    partitions.upsert(KEY, OLD, [item(f"p{i:03}", i % 8) for i in range(100)])
    partitions.begin(KEY, OLD, 8, IndexSettings(index_type="HNSW"))
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            written.append(f"w{len(written)}")
            partitions.upsert(KEY, OLD, [item(written[-1])])
            partitions.delete(KEY, [f"p{len(written) % 10:03}"])

    thread = threading.Thread(target=write)
    thread.start()
    partitions.copy(KEY, batch=7)
    stop.set()
    thread.join()
    assert list(partitions.lacking(KEY)) == []
    assert list(partitions.lacking(KEY, reverse=True)) == []
    partitions.switch(KEY)
    info = partitions.info(KEY)
    assert info.settings is not None
    assert info.settings.index_type == "HNSW"
    assert set(written) <= set(partitions.scan(KEY))


def test_searches_never_fail_while_generations_come_and_go(partitions: Partitions) -> None:
    partitions.upsert(KEY, OLD, [item("a")])
    stop, failures = threading.Event(), list[Exception]()

    def search() -> None:
        while not stop.is_set():
            try:
                assert found(partitions, OLD) == ("a",)
            except Exception as error:  # noqa: BLE001
                failures.append(error)
            time.sleep(0.001)  # or three of them leave the interpreter to nobody else

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        number = partitions.begin(KEY, OLD, 8).number
        partitions.copy(KEY)
        partitions.switch(KEY)
        partitions.retire(KEY, number - 1)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


# --- restarts and crashes ---


def test_everything_is_there_after_a_restart(world: World) -> None:
    partitions = world.open()
    partitions.upsert(KEY, OLD, [item("a")])
    partitions.begin(KEY, NEW, 16)
    partitions.close()
    again = world.open()
    assert found(again, OLD) == ("a",)
    assert states(again) == {1: State.ACTIVE, 2: State.BUILDING}
    again.close()


@pytest.mark.parametrize("step", ["directory made", "index opened"])
def test_a_crash_before_the_row_leaves_no_partition(world: World, step: str) -> None:
    partitions = world.open()
    world.crash_at = step
    with pytest.raises(Crash):
        partitions.upsert(KEY, OLD, [item("a")])
    assert directories(world) == {f"{KEY}/g0001"}
    again = world.reopen()
    assert (again.keys_of(), directories(world)) == ([], set())
    again.upsert(KEY, OLD, [item("a")])
    assert found(again, OLD) == ("a",)


def test_a_crash_after_the_row_leaves_an_empty_partition_that_serves(world: World) -> None:
    partitions = world.open()
    world.crash_at = "row committed"
    with pytest.raises(Crash):
        partitions.upsert(KEY, OLD, [item("a")])
    again = world.reopen()
    assert again.damaged() == {}
    assert found(again, OLD) == ()
    assert found(world.reopen(), OLD) == ()


@pytest.mark.parametrize(
    ("step", "after"),
    [
        ("directory made", {1: State.ACTIVE}),
        ("index opened", {1: State.ACTIVE}),
        ("row committed", {1: State.ACTIVE, 2: State.BUILDING}),
    ],
)
def test_a_crash_while_beginning_never_touches_the_live_generation(
    world: World, step: str, after: dict[int, State]
) -> None:
    partitions = world.open()
    partitions.upsert(KEY, OLD, [item("a")])
    world.crash_at = step
    with pytest.raises(Crash):
        partitions.begin(KEY, NEW, 16)
    again = world.reopen()
    assert states(again) == after
    assert found(again, OLD) == ("a",)


@pytest.mark.parametrize("step", ["change committed", "data removed"])
def test_a_crash_while_switching_leaves_the_new_generation_live_and_the_oldest_removed(world: World, step: str) -> None:
    partitions = world.open()
    partitions.upsert(KEY, OLD, [item("a")])
    partitions.begin(KEY, OLD, 8)
    partitions.switch(KEY)
    partitions.begin(KEY, NEW, 8)
    partitions.upsert(KEY, NEW, [item("n")])
    world.crash_at = step
    with pytest.raises(Crash):
        partitions.switch(KEY)
    again = world.reopen()
    assert states(again) == {2: State.PREVIOUS, 3: State.ACTIVE}
    assert found(again, NEW) == ("n",)
    assert directories(world) == {f"{KEY}/g0002", f"{KEY}/g0003"}


def test_a_lost_catalog_never_costs_the_data(world: World) -> None:
    world.open().upsert(KEY, OLD, [item("a")])
    world.die()
    for path in world.settings.directory.glob("catalog.db*"):
        path.unlink()
    with pytest.raises(IndexDamaged, match="restore the catalog"):
        world.open()
    assert directories(world) == {f"{KEY}/g0001"}


def test_data_that_an_older_catalog_does_not_know_is_kept_and_its_partition_refuses(world: World) -> None:
    partitions = world.open()
    partitions.upsert(OTHER, OLD, [item("a")])
    older = (world.settings.directory / "catalog.db").read_bytes()
    partitions.upsert(KEY, OLD, [item("a")])
    partitions.close()
    (world.settings.directory / "catalog.db").write_bytes(older)
    again = world.open()
    assert list(again.damaged()) == [KEY]
    with pytest.raises(IndexDamaged):
        again.upsert(KEY, OLD, [item("b")])
    assert f"{KEY}/g0001" in directories(world)
    again.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from deployments.similarity.partitions.backends import EmbeddedBackend
from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.generations import Spec
from deployments.similarity.partitions.partitions import Partitions
from deployments.similarity.values import Item

root, at = sys.argv[1:]
seen = []

def step(name):
    seen.append(name)
    if f"{name} {seen.count(name)}" == at:
        os.kill(os.getpid(), signal.SIGKILL)

key = PartitionKey.parse("posts.hi.video.visual")
owner = Partitions(SimilaritySettings(directory=Path(root)), EmbeddedBackend(), step=step)
for version in ("1", "2", "3"):
    if version != "1":
        owner.begin(key, EncoderId("clip", version), 8)
    items = [Item(id, np.ones(8, np.float32)) for id in ("a", version)]
    owner.upsert(key, EncoderId("clip", version), items)
    print(f"written {version}", flush=True)
    if version != "1":
        owner.switch(key)
        print(f"switched {version}", flush=True)
"""


@pytest.mark.parametrize(
    "at",
    [
        *(f"{step} {n}" for n in (1, 2, 3) for step in ("directory made", "index opened", "row committed")),
        "change committed 1",
        "change committed 2",
        "data removed 1",
        "never",
    ],
)
def test_an_owner_killed_at_any_step_loses_nothing_it_acknowledged(tmp_path: Path, at: str) -> None:
    child = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), at], capture_output=True, text=True)
    assert child.returncode == (0 if at == "never" else -9), child.stderr
    said = child.stdout.splitlines()
    owner = Partitions(SimilaritySettings(directory=tmp_path, lock_wait_s=0), EmbeddedBackend())
    assert owner.damaged() == {}
    if "written 1" in said:
        live = owner.encoder(KEY).version
        assert live in (said[-1].split()[1], str(int(said[-1].split()[1]) - 1))
        assert f"switched {live}" in said or live == "1" or at.startswith(("change", "data"))
        assert owner.scan(KEY) == sorted({"a", live})
    again = str(int(owner.encoder(KEY).version) + 10) if owner.keys_of() else "1"
    if owner.keys_of() and (building := owner.info(KEY).generations[-1].generation).state is State.BUILDING:
        owner.retire(KEY, building.number)
    if owner.keys_of():
        owner.begin(KEY, EncoderId("clip", again), 8)
    owner.upsert(KEY, EncoderId("clip", again), [item("z")])
    owner.close()
    live_directories = {path.name for path in (tmp_path / str(KEY)).iterdir()}
    rows = Partitions(SimilaritySettings(directory=tmp_path, lock_wait_s=0), EmbeddedBackend())
    assert live_directories == {one.generation.name for one in rows.info(KEY).generations}
    rows.close()


# --- restore ---


def test_a_backup_becomes_the_live_generation_and_can_be_rolled_back(tmp_path: Path) -> None:
    owner = Partitions(SimilaritySettings(directory=tmp_path / "root", lock_wait_s=0), EmbeddedBackend())
    owner.upsert(KEY, OLD, [item("then")])
    owner.close()
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "root" / str(KEY) / "g0001", kept)
    owner = Partitions(SimilaritySettings(directory=tmp_path / "root", lock_wait_s=0), EmbeddedBackend())
    owner.upsert(KEY, OLD, [item("since")])

    def fill(directory: Path) -> None:
        shutil.copytree(kept, directory, dirs_exist_ok=True)

    def tear(directory: Path) -> None:
        fill(directory)
        (directory / "rows.db").write_bytes(b"torn" * 1000)

    with pytest.raises(IndexDamaged):
        owner.restore(KEY, Spec(OLD, 8, IndexSettings()), tear)
    assert owner.scan(KEY) == ["since", "then"]
    owner.restore(KEY, Spec(OLD, 8, IndexSettings()), fill)
    assert owner.scan(KEY) == ["then"]
    owner.rollback(KEY)
    assert owner.scan(KEY) == ["since", "then"]
    owner.restore(OTHER, Spec(OLD, 8, IndexSettings()), fill)
    with owner.using(OTHER) as index:
        assert index.count() == 1
    owner.close()


# --- damage ---


class Damaged(MemoryBackend):
    """Opens nothing of what `broken` names."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: dict[str, Exception] = {}

    def open(self, generation: Generation, directory: Path, *, create: bool) -> VectorIndex:
        error = self.broken.get(f"{generation.partition}/{generation.name}")
        if error is not None:
            raise error
        return super().open(generation, directory, create=create)


@pytest.mark.parametrize(
    ("error", "said"), [(IndexDamaged("row 7 is not what was written"), "row 7"), (OSError("/secret"), "OSError")]
)
def test_a_damaged_partition_refuses_with_its_reason_and_the_others_serve(
    world: World, error: Exception, said: str
) -> None:
    world.backend = backend = Damaged()
    partitions = world.open()
    for key in (KEY, OTHER):
        partitions.upsert(key, OLD, [item("a")])
    backend.broken[f"{KEY}/g0001"] = error
    again = world.reopen()
    assert said in again.damaged()[KEY]
    assert "/secret" not in str(again.damaged())
    for refused in (
        lambda: found(again, OLD),
        lambda: again.upsert(KEY, OLD, [item("b")]),
        lambda: again.delete(KEY, ["a"]),
        lambda: again.get(KEY, ["a"]),
    ):
        with pytest.raises(IndexDamaged, match=said):
            refused()
    assert again.scan(OTHER) == ["a"]
    info = again.info(KEY)
    assert (info.damaged, info.stats) == (again.damaged()[KEY], None)


def test_a_directory_that_is_gone_is_damage_not_an_empty_partition(world: World) -> None:
    partitions = world.open()
    partitions.upsert(KEY, OLD, [item("a")])
    (world.settings.directory / str(KEY) / "g0001").rmdir()
    assert "gone" in world.reopen().damaged()[KEY]


def test_a_damaged_generation_beside_the_live_one_stops_nothing_and_is_never_made_active(world: World) -> None:
    world.backend = backend = Damaged()
    partitions = world.open()
    partitions.upsert(KEY, OLD, [item("a")])
    partitions.begin(KEY, OLD, 8)
    partitions.copy(KEY)
    partitions.switch(KEY)
    backend.broken[f"{KEY}/g0001"] = OSError()
    again = world.reopen()
    again.upsert(KEY, OLD, [item("b", 1)])
    again.delete(KEY, ["a"])
    with pytest.raises(PartitionConflict, match="damaged"):
        again.rollback(KEY)
    backend.broken.clear()
    mended = world.reopen()
    with pytest.raises(PartitionConflict, match="missed writes"):
        mended.rollback(KEY)
    mended.retire(KEY, 1)
    assert mended.scan(KEY) == ["b"]


# --- one owner ---


def test_a_second_owner_is_told_the_pid_of_the_first(world: World, partitions: Partitions) -> None:
    with pytest.raises(RootLocked, match=f"pid {os.getpid()}"):
        Partitions(world.settings, world.backend)


def test_an_owner_that_was_killed_leaves_no_lock(world: World, tmp_path: Path) -> None:
    root = world.settings.directory
    root.mkdir()
    code = (
        "import sys, time; from pathlib import Path; from deployments.similarity.partitions.root_lock import RootLock;"
        "lock = RootLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(root / "lock")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(RootLocked, match=f"pid {child.pid}"):
        world.open()
    child.kill()
    child.wait()
    child.stdout.close()
    world.open().close()


def test_a_starting_owner_waits_for_the_one_before_it(world: World) -> None:
    first = world.open()
    timer = threading.Timer(0.3, first.close)
    timer.start()
    patient = world.settings.model_copy(update={"lock_wait_s": 5.0})
    Partitions(patient, world.backend).close()
    timer.join()
