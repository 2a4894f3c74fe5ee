"""The catalog: every change of generations is one durable step, and what is not as it was written is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.runtime.errors import PartitionConflict
from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.partitions.catalog import Catalog, Generation, State
from deployments.similarity.settings import IndexSettings

KEY = PartitionKey.parse("posts.hi.video.visual")
OLD, NEW = EncoderId("clip", "1"), EncoderId("clip", "2")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "catalog.db")


def generation(number: int, state: State, encoder: EncoderId = OLD) -> Generation:
    return Generation(KEY, number, encoder, 8, IndexSettings(nprobe=number), state, 100.0 + number)


def states(catalog: Catalog) -> dict[int, State]:
    return {found.number: found.state for found in catalog.of(KEY)}


def test_what_was_added_is_there_after_a_restart(tmp_path: Path, catalog: Catalog) -> None:
    catalog.add(generation(1, State.ACTIVE))
    catalog.close()
    again = Catalog(tmp_path / "catalog.db")
    assert again.generations() == [generation(1, State.ACTIVE)]
    assert catalog.fresh
    assert not again.fresh


def test_a_switch_moves_every_generation_one_step_on(catalog: Catalog) -> None:
    for number in (1, 2, 3):
        catalog.add(generation(number, State.ACTIVE if number == 1 else State.BUILDING))
        if number > 1:
            catalog.switch(KEY, at=500.0 + number)
    assert states(catalog) == {1: State.RETIRED, 2: State.PREVIOUS, 3: State.ACTIVE}
    assert catalog.of(KEY)[2].switched_at == 503.0


def test_a_rollback_swaps_and_a_second_one_swaps_back(catalog: Catalog) -> None:
    catalog.add(generation(1, State.ACTIVE))
    catalog.add(generation(2, State.BUILDING, NEW))
    catalog.switch(KEY, at=1.0)
    catalog.rollback(KEY, at=2.0)
    assert states(catalog) == {1: State.ACTIVE, 2: State.PREVIOUS}
    catalog.rollback(KEY, at=3.0)
    assert states(catalog) == {1: State.PREVIOUS, 2: State.ACTIVE}


def test_changes_that_the_states_do_not_allow_are_conflicts_and_change_nothing(catalog: Catalog) -> None:
    catalog.add(generation(1, State.ACTIVE))
    changes: list[Callable[[], None]] = [
        lambda: catalog.switch(KEY, at=1.0),
        lambda: catalog.rollback(KEY, at=1.0),
        lambda: catalog.retire(KEY, 1),
        lambda: catalog.retire(KEY, 9),
        lambda: catalog.add(generation(1, State.BUILDING)),
        lambda: catalog.add(generation(2, State.ACTIVE)),
    ]
    for change in changes:
        with pytest.raises(PartitionConflict):
            change()
    assert states(catalog) == {1: State.ACTIVE}


def test_a_generation_that_missed_writes_is_never_made_active(catalog: Catalog) -> None:
    catalog.add(generation(1, State.ACTIVE))
    catalog.add(generation(2, State.BUILDING))
    catalog.mark_incomplete(KEY, 2)
    with pytest.raises(PartitionConflict, match="missed writes"):
        catalog.switch(KEY, at=1.0)
    catalog.retire(KEY, 2)
    assert states(catalog) == {1: State.ACTIVE, 2: State.RETIRED}


def test_a_row_that_was_changed_behind_its_back_is_refused(tmp_path: Path, catalog: Catalog) -> None:
    catalog.add(generation(1, State.ACTIVE))
    catalog.close()
    with sqlite3.connect(tmp_path / "catalog.db") as db:
        db.execute("UPDATE generations SET dimension = 9")
    db.close()
    with pytest.raises(IndexDamaged, match=r"posts\.hi\.video\.visual"):
        Catalog(tmp_path / "catalog.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(IndexDamaged, match="backup"):
        Catalog(tmp_path / "catalog.db")


def test_a_copy_holds_the_same(tmp_path: Path, catalog: Catalog) -> None:
    catalog.add(generation(1, State.ACTIVE))
    catalog.copy_to(tmp_path / "copy.db")
    assert Catalog(tmp_path / "copy.db").generations() == catalog.generations()
