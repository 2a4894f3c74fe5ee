"""Which offset of each partition may be committed: taken -> done, in any order -> the first that is not done.

An offset is committed when everything taken before it is done. Offsets that were never given (compacted away, or
markers of transactions) are no holes: only what was taken counts. Taking an offset at or below one taken before means
that the partition was rewound; its window then begins anew. `done` of an offset that is not in the window (given away
in a rebalance and not taken again) changes nothing; one that was taken again is done all the same, because done means
stored, whoever stored it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Partition = tuple[str, int]
"""Topic and number."""


@dataclass
class _Window:
    top: int = -1  # highest offset taken
    open: deque[int] = field(default_factory=deque)  # taken, from the first that is not done on, ascending
    done: set[int] = field(default_factory=set)  # those of `open` that are done
    committed: int | None = None

    @property
    def next(self) -> int:
        return self.open[0] if self.open else self.top + 1


class ContiguousOffsets:
    def __init__(self) -> None:
        self._windows: dict[Partition, _Window] = {}

    def taken(self, partition: Partition, offset: int) -> None:
        window = self._windows.get(partition)
        if window is None or offset <= window.top:
            window = self._windows[partition] = _Window(committed=offset)
        window.top = offset
        window.open.append(offset)

    def done(self, partition: Partition, offset: int) -> None:
        window = self._windows.get(partition)
        if window is None or not window.open or not window.open[0] <= offset <= window.top:
            return
        window.done.add(offset)
        while window.open and window.open[0] in window.done:
            window.done.discard(window.open.popleft())

    def next(self, partition: Partition) -> int | None:
        """The first offset that is not done; None where nothing was taken."""
        window = self._windows.get(partition)
        return None if window is None else window.next

    def committable(self) -> dict[Partition, int]:
        """Partition -> the offset to read next, for those where it is higher than what was committed."""
        return {
            partition: window.next
            for partition, window in self._windows.items()
            if window.committed is None or window.next > window.committed
        }

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """The broker has them. Those of partitions that went or were rewound meanwhile count no more."""
        for partition, offset in offsets.items():
            window = self._windows.get(partition)
            if window is not None and offset <= window.next:
                window.committed = max(offset, window.committed or 0)

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Given away: nothing of them is committed any more."""
        for partition in partitions:
            self._windows.pop(partition, None)

    def clear(self) -> None:
        self._windows.clear()
