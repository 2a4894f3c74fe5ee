"""The offset that is committed, against a model that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serve_app.events.brokers.offsets import ContiguousOffsets

P = ("posts", 0)
Q = ("posts", 1)


def taken(*offsets: int) -> ContiguousOffsets:
    found = ContiguousOffsets()
    for offset in offsets:
        found.taken(P, offset)
    return found


def test_nothing_is_committed_before_the_first_is_done() -> None:
    window = taken(5, 6, 7)
    window.done(P, 6)
    window.done(P, 7)
    assert window.committable() == {}
    window.done(P, 5)
    assert window.committable() == {P: 8}


def test_offsets_that_were_never_given_are_no_holes() -> None:
    window = taken(5, 9, 20)
    window.done(P, 5)
    assert window.committable() == {P: 9}
    window.done(P, 20)
    window.done(P, 9)
    assert window.committable() == {P: 21}


def test_what_was_committed_is_not_offered_again() -> None:
    window = taken(0, 1)
    window.done(P, 0)
    window.committed(window.committable())
    assert window.committable() == {}
    window.done(P, 1)
    assert window.committable() == {P: 2}


def test_a_commit_that_failed_is_offered_again() -> None:
    window = taken(0)
    window.done(P, 0)
    assert window.committable() == window.committable() == {P: 1}


def test_partitions_stand_each_alone() -> None:
    window = taken(0, 1)
    window.taken(Q, 100)
    window.done(Q, 100)
    assert window.committable() == {Q: 101}


def test_what_is_done_after_its_partition_went_changes_nothing() -> None:
    window = taken(0, 1)
    window.drop([P])
    window.done(P, 0)
    assert window.committable() == {}


def test_a_partition_that_comes_back_begins_where_it_is_taken() -> None:
    window = taken(0, 1, 2)
    window.done(P, 0)
    window.drop([P])
    window.taken(P, 1)
    window.done(P, 2)  # by the old one; here it is not taken again yet
    assert window.committable() == {}
    window.done(P, 1)
    assert window.committable() == {P: 2}


def test_a_partition_that_is_rewound_begins_anew() -> None:
    window = taken(10, 11)
    window.done(P, 10)
    window.committed(window.committable())
    window.taken(P, 3)  # the broker lost its log, or an operator moved the group
    assert window.next(P) == 3
    window.done(P, 11)
    assert window.committable() == {}
    window.done(P, 3)
    assert window.committable() == {P: 4}


def test_a_commit_that_is_answered_after_a_rewind_does_not_count() -> None:
    window = taken(10)
    window.done(P, 10)
    late = window.committable()
    window.taken(P, 3)
    window.committed(late)
    window.done(P, 3)
    assert window.committable() == {P: 4}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_in_whatever_order_all_done_means_the_end(gaps: list[int], random: object) -> None:
    offsets = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    window = taken(*offsets)
    for offset in random.sample(offsets, len(offsets)):  # type: ignore[attr-defined]
        window.done(P, offset)
    assert window.committable() == {P: offsets[-1] + 1}


class AgainstTheModel(RuleBasedStateMachine):
    """The model: per partition all offsets taken since it came, and those of them that are done."""

    def __init__(self) -> None:
        super().__init__()
        self.window = ContiguousOffsets()
        self.all: dict[tuple[str, int], list[int]] = {}
        self.stored: dict[tuple[str, int], set[int]] = {}
        self.floor: dict[tuple[str, int], int] = {}

    @rule(partition=st.sampled_from([P, Q]), gap=st.integers(1, 4))
    def take(self, partition: tuple[str, int], gap: int) -> None:
        before = self.all.get(partition)
        offset = before[-1] + gap if before else gap
        self.window.taken(partition, offset)
        if not before:
            self.all[partition], self.stored[partition], self.floor[partition] = [], set(), offset
        self.all[partition].append(offset)

    @rule(partition=st.sampled_from([P, Q]), which=st.integers(0, 60))
    def finish(self, partition: tuple[str, int], which: int) -> None:
        """Any number: taken or not, done before or not."""
        self.window.done(partition, which)
        if which in self.all.get(partition, []):
            self.stored[partition].add(which)

    @rule(partition=st.sampled_from([P, Q]))
    def lose(self, partition: tuple[str, int]) -> None:
        self.window.drop([partition])
        for table in (self.all, self.stored, self.floor):
            table.pop(partition, None)

    @rule(partition=st.sampled_from([P, Q]), back=st.integers(0, 10))
    def rewind(self, partition: tuple[str, int], back: int) -> None:
        if partition in self.all:
            offset = max(0, self.all[partition][-1] - back)
            self.window.taken(partition, offset)
            self.all[partition], self.stored[partition], self.floor[partition] = [offset], set(), offset

    @rule()
    def commit(self) -> None:
        offsets = self.window.committable()
        self.window.committed(offsets)
        self.floor |= offsets

    @invariant()
    def agrees(self) -> None:
        expected = {}
        for partition, offsets in self.all.items():
            missing = [offset for offset in offsets if offset not in self.stored[partition]]
            reached = missing[0] if missing else offsets[-1] + 1
            assert self.window.next(partition) == reached
            if reached > self.floor[partition]:
                expected[partition] = reached
        assert self.window.committable() == expected


TestAgainstTheModel = AgainstTheModel.TestCase


def test_a_partition_of_which_nothing_was_taken_has_no_next() -> None:
    assert ContiguousOffsets().next(P) is None


@pytest.mark.parametrize("stray", [4, 6, 100])
def test_what_was_not_taken_cannot_be_done(stray: int) -> None:
    window = taken(5, 7)
    window.done(P, stray)
    window.done(P, 5)
    assert window.committable() == {P: 7}
