"""The micro-batcher's promises: every item answered once, alone with its own error, and nobody waits for company."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.runtime.batcher import BatchSettings, MicroBatcher
from deployments.runtime.errors import DeadlineExceeded, NodeUnavailable, Overloaded


class Doubler:
    """Doubles ints. A negative one poisons: by raising for the whole batch, or by its own error in the answer."""

    def __init__(self, *, raises: bool = True, delay_s: float = 0.0) -> None:
        self.raises = raises
        self.delay_s = delay_s
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        self.gate.wait(5)
        time.sleep(self.delay_s)
        if self.raises and any(item < 0 for item in items):
            raise ValueError("poison")
        return [ValueError("poison") if item < 0 else item * 2 for item in items]


def batcher(run: Doubler, *, workers: int = 1, **limits: int) -> MicroBatcher[int, int]:
    return MicroBatcher(run, settings=BatchSettings(**limits), workers=workers)


async def until_running(run: Doubler, batches: int = 1) -> None:
    for _ in range(500):
        if len(run.batches) >= batches:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the batch never started")


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.integers(-3, 1000), max_size=40),
    raises=st.booleans(),
    max_batch_weight=st.integers(1, 9),
    workers=st.integers(1, 3),
)
def test_every_item_is_answered_once_with_its_own_result_or_error(
    items: list[int], raises: bool, max_batch_weight: int, workers: int
) -> None:
    run = Doubler(raises=raises)

    async def scenario() -> list[int | BaseException]:
        subject = batcher(run, max_batch_weight=max_batch_weight, workers=workers)
        answers = await asyncio.gather(*(subject.submit(item) for item in items), return_exceptions=True)
        await subject.close()
        return answers

    answers = asyncio.run(scenario())
    for item, answer in zip(items, answers, strict=True):
        assert isinstance(answer, ValueError) if item < 0 else answer == item * 2
    assert all(len(batch) <= max_batch_weight for batch in run.batches)
    good = sorted(item for item in items if item >= 0)
    executed = sorted(item for batch in run.batches if all(i >= 0 for i in batch) for item in batch)
    if not raises:
        assert sorted(i for batch in run.batches for i in batch) == sorted(items)
    elif min(items, default=0) >= 0:
        assert executed == good


@settings(max_examples=40, deadline=None)
@given(callers=st.lists(st.integers(1, 12), min_size=1, max_size=6), max_batch_weight=st.integers(1, 5))
def test_items_of_one_caller_run_in_the_order_they_came(callers: list[int], max_batch_weight: int) -> None:
    run = Doubler()

    async def caller(subject: MicroBatcher[int, int], number: int, count: int) -> None:
        await asyncio.gather(*(subject.submit(number * 1000 + i) for i in range(count)))

    async def scenario() -> None:
        subject = batcher(run, max_batch_weight=max_batch_weight)
        await asyncio.gather(*(caller(subject, number, count) for number, count in enumerate(callers)))
        await subject.close()

    asyncio.run(scenario())
    executed = [item for batch in run.batches for item in batch]
    for number in range(len(callers)):
        mine = [item for item in executed if item // 1000 == number]
        assert mine == sorted(mine)


async def test_batch_of_eight_with_one_poisoned_item_gives_seven_answers_and_one_error() -> None:
    run = Doubler()
    run.gate.clear()
    subject = batcher(run, max_batch_weight=8)
    first = asyncio.create_task(subject.submit(1))
    await until_running(run)
    rest = [asyncio.create_task(subject.submit(item)) for item in (1, 2, 3, -1, 4, 5, 6, 7)]
    await asyncio.sleep(0)
    run.gate.set()
    answers = await asyncio.gather(*rest, return_exceptions=True)
    assert await first == 2
    assert [a for a in answers if not isinstance(a, Exception)] == [2, 4, 6, 8, 10, 12, 14]
    assert isinstance(answers[3], ValueError)
    assert run.batches[1] == [1, 2, 3, -1, 4, 5, 6, 7]
    halves = [[1, 2, 3, -1], [1, 2], [3, -1], [3], [-1], [4, 5, 6, 7]]
    assert run.batches[2:] == halves  # the guilty item ends alone, the innocent run together


async def test_an_idle_worker_starts_at_once() -> None:
    run = Doubler()
    subject = batcher(run, max_batch_weight=32)
    started = time.monotonic()
    assert await subject.submit(21) == 42
    assert run.batches == [[21]]
    assert time.monotonic() - started < 1  # there is no batch window to wait for


async def test_batches_grow_while_the_worker_is_busy() -> None:
    run = Doubler()
    run.gate.clear()
    subject = batcher(run, max_batch_weight=4)
    tasks = [asyncio.create_task(subject.submit(0))]
    await until_running(run)
    tasks += [asyncio.create_task(subject.submit(item)) for item in range(1, 11)]
    await asyncio.sleep(0)
    run.gate.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in run.batches] == [1, 4, 4, 2]


async def test_buckets_never_share_a_batch_and_the_oldest_goes_first() -> None:
    run = Doubler()
    run.gate.clear()
    subject = MicroBatcher(run, settings=BatchSettings(max_batch_weight=8), bucket=lambda item: item % 2)
    tasks = [asyncio.create_task(subject.submit(100))]
    await until_running(run)
    tasks += [asyncio.create_task(subject.submit(item)) for item in (1, 2, 3, 4, 5)]
    await asyncio.sleep(0)
    run.gate.set()
    await asyncio.gather(*tasks)
    assert run.batches == [[100], [1, 3, 5], [2, 4]]


async def test_weight_bounds_a_batch_and_a_heavier_item_runs_alone() -> None:
    run = Doubler()
    run.gate.clear()
    subject = MicroBatcher(run, settings=BatchSettings(max_batch_weight=10), weight=lambda item: item)
    tasks = [asyncio.create_task(subject.submit(1))]
    await until_running(run)
    tasks += [asyncio.create_task(subject.submit(item)) for item in (6, 3, 50, 2, 2)]
    await asyncio.sleep(0)
    run.gate.set()
    await asyncio.gather(*tasks)
    assert run.batches == [[1], [6, 3], [50], [2, 2]]


async def test_cancelled_and_expired_items_are_dropped_before_their_batch() -> None:
    run = Doubler()
    run.gate.clear()
    subject = batcher(run, max_batch_weight=8)
    blocker = asyncio.create_task(subject.submit(1))
    await until_running(run)
    cancelled = asyncio.create_task(subject.submit(2))
    expired = asyncio.create_task(subject.submit(3, timeout_s=0.0))
    kept = asyncio.create_task(subject.submit(4))
    await asyncio.sleep(0)
    cancelled.cancel()
    run.gate.set()
    assert await kept == 8
    assert await blocker == 2
    with pytest.raises(DeadlineExceeded):
        await expired
    assert run.batches == [[1], [4]]


async def test_a_caller_that_goes_away_mid_batch_leaves_the_others_their_answers() -> None:
    run = Doubler()
    run.gate.clear()
    subject = batcher(run, max_batch_weight=8)
    tasks = [asyncio.create_task(subject.submit(item)) for item in (1, 2, 3)]
    await until_running(run)
    tasks[1].cancel()
    run.gate.set()
    assert await tasks[0] == 2
    assert await tasks[2] == 6


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(1), StopIteration(), MemoryError()])
async def test_whatever_the_model_raises_reaches_the_caller_and_the_batcher_lives_on(error: BaseException) -> None:
    def run(items: Sequence[int]) -> list[int | Exception]:
        if 13 in items:
            raise error
        return list(items)

    subject: MicroBatcher[int, int] = MicroBatcher(run, settings=BatchSettings())
    with pytest.raises((RuntimeError, MemoryError)):
        await subject.submit(13)
    assert await subject.submit(1) == 1


async def test_a_run_that_answers_for_fewer_items_than_it_got_fails_them_instead_of_losing_one() -> None:
    subject: MicroBatcher[int, int] = MicroBatcher(lambda items: [1], settings=BatchSettings())
    answers = await asyncio.gather(subject.submit(1), subject.submit(2), return_exceptions=True)
    assert list(answers) == [1, 1]  # asked again one by one, where one answer is the right number


async def test_a_run_that_has_no_answer_for_a_single_item_is_an_error() -> None:
    subject: MicroBatcher[int, int] = MicroBatcher(lambda items: [], settings=BatchSettings())
    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        await asyncio.wait_for(subject.submit(1), timeout=5)
    answers = await asyncio.gather(subject.submit(1), subject.submit(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError]


async def test_an_item_that_waits_is_answered_when_its_time_is_over() -> None:
    run = Doubler()
    run.gate.clear()
    subject = batcher(run)
    blocker = asyncio.create_task(subject.submit(1))
    await until_running(run)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(subject.submit(2, timeout_s=0.05), timeout=2)
    assert subject.queued == 0
    run.gate.set()
    assert await blocker == 2
    assert run.batches == [[1]]


async def test_a_deadline_ends_when_the_batch_starts() -> None:
    run = Doubler()
    run.gate.clear()
    subject = batcher(run)
    running = asyncio.create_task(subject.submit(1, timeout_s=0.05))
    await until_running(run)
    await asyncio.sleep(0.1)
    run.gate.set()
    assert await running == 2


async def test_a_full_queue_of_items_nobody_waits_for_is_not_full() -> None:
    run = Doubler()
    run.gate.clear()
    subject = batcher(run, max_queue_items=3)
    blocker = asyncio.create_task(subject.submit(1))
    await until_running(run)
    gone = [asyncio.create_task(subject.submit(item)) for item in (2, 3)]
    late = asyncio.create_task(subject.submit(4, timeout_s=0.02))
    await asyncio.sleep(0.05)
    for task in gone:
        task.cancel()
    await asyncio.sleep(0)
    kept = [asyncio.create_task(subject.submit(item)) for item in (5, 6, 7)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await subject.submit(8)
    run.gate.set()
    assert await asyncio.gather(*kept) == [10, 12, 14]
    assert await blocker == 2
    with pytest.raises(DeadlineExceeded):
        await late
    assert run.batches == [[1], [5, 6, 7]]


async def test_a_full_queue_refuses_at_once() -> None:
    run = Doubler()
    run.gate.clear()
    subject = batcher(run, max_queue_items=2, max_batch_weight=1)
    tasks = [asyncio.create_task(subject.submit(1))]
    await until_running(run)
    tasks += [asyncio.create_task(subject.submit(item)) for item in (2, 3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await subject.submit(4)
    run.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]


async def test_close_fails_what_waits_and_finishes_what_runs() -> None:
    run = Doubler()
    run.gate.clear()
    subject = batcher(run, max_batch_weight=1)
    running = asyncio.create_task(subject.submit(1))
    await until_running(run)
    waiting = asyncio.create_task(subject.submit(2))
    await asyncio.sleep(0)
    closing = asyncio.create_task(subject.close())
    await asyncio.sleep(0)
    run.gate.set()
    await closing
    assert await running == 2
    with pytest.raises(NodeUnavailable):
        await waiting
    with pytest.raises(NodeUnavailable):
        await subject.submit(3)


async def test_the_age_of_a_stuck_batch_is_told() -> None:
    run = Doubler()
    run.gate.clear()
    now = [0.0]
    subject: MicroBatcher[int, int] = MicroBatcher(run, settings=BatchSettings(), clock=lambda: now[0])
    assert subject.oldest_running_s() == 0
    task = asyncio.create_task(subject.submit(1))
    await until_running(run)
    now[0] = 61.0
    assert subject.oldest_running_s() == 61.0
    run.gate.set()
    await task
    assert subject.oldest_running_s() == 0
