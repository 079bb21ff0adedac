"""Jobs that wait for the same turn: the oldest is next, and a job that comes back takes its old place.

The jobs of a flow are two things: those that came back, by number, with a heap of these numbers, usually small or
empty; and a plain FIFO of fresh ones, which come in the order of their numbers. A job that ends while it waits leaves
its number in the heap, or its place in the FIFO, where it is skipped when its turn comes; when more than half is like
that, it is made anew. So whatever happens costs O(log n) at most, and plain FIFO nearly nothing.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import Final

from relet.core.job import AVAILABLE, Job
from relet.core.limits import STALE_WORTH_REBUILDING

_NO_JOBS: Final[dict[int, Job]] = {}
_NO_NUMBERS: Final[list[int]] = []
"""What a flow has to which nothing came back. They stay empty: all share them, because a queue is to be small, and what
it has of its own must be fetched from memory where there are a thousand."""
BEFORE_LOOKS_MAX: Final = 200
"""Jobs that came back, and flows, that are looked at to say how many jobs are before one: who asks that of many jobs in
one turn must not hold it up."""


class Flow:
    """Waiting jobs, oldest first."""

    __slots__ = ("_absent", "_numbers", "again", "fresh")

    def __init__(self) -> None:
        self.fresh: deque[Job] = deque()
        """Never dispatched, in the order of their numbers."""
        self._absent = 0
        """Fresh jobs that have ended while they waited."""
        self.again: dict[int, Job] = _NO_JOBS
        """Those that came back, by number."""
        self._numbers: list[int] = _NO_NUMBERS
        """A heap: the numbers of those that came back, and of some that have left since."""

    def __len__(self) -> int:
        return len(self.fresh) - self._absent + len(self.again)

    def is_all_fresh(self) -> bool:
        """Whether `fresh` is all there is: nothing came back, or has ended while it waited."""
        return not self._numbers and not self._absent

    def __iter__(self) -> Iterator[Job]:
        """The waiting jobs, in no order that matters."""
        yield from self.again.values()
        yield from (job for job in self.fresh if job.state == AVAILABLE)

    def clear(self) -> None:
        """Nothing waits here."""
        self.fresh.clear()
        self._absent = 0
        self.again, self._numbers = _NO_JOBS, _NO_NUMBERS

    def came_back(self, job: Job) -> None:
        """The job waits again, at its old place."""
        if self._absent:
            self._drop_fresh(job)
        if self._numbers is _NO_NUMBERS:
            self.again, self._numbers = {}, []
        self.again[job.number] = job
        heapq.heappush(self._numbers, job.number)

    def _drop_fresh(self, job: Job) -> None:
        """One that was claimed though nobody was known to have had it, because a crash had made the broker forget that,
        has left its place in the FIFO behind, where it would wait a second time.
        """
        fresh, low = self.fresh, bisect_left(self.fresh, job.number, key=_number_of)
        if low < len(fresh) and fresh[low] is job:
            del fresh[low]
            self._absent -= 1

    def left(self, job: Job) -> None:
        """A job leaves while it waits: because it ends, or, if it had come back, because it is claimed."""
        if self.again.pop(job.number, None) is None:
            self._absent += 1
            absent, count = self._absent, len(self.fresh)
            if absent == count or (absent > STALE_WORTH_REBUILDING and absent > count // 2):
                # A queue that nobody serves must not keep what has ended, nor be kept by it.
                self.fresh = deque(it for it in self.fresh if it.state == AVAILABLE and it is not job)
                self._absent = 0
        elif len(self._numbers) > 2 * len(self.again) + STALE_WORTH_REBUILDING:
            self._numbers = sorted(self.again)

    def head(self) -> Job | None:
        """The oldest waiting job, which stays; None when there is none."""
        fresh, came_back = self.fresh, self.again
        while self._numbers and self._numbers[0] not in came_back:
            heapq.heappop(self._numbers)
        while self._absent and fresh[0].state != AVAILABLE:
            fresh.popleft()
            self._absent -= 1
        if self._numbers and not (fresh and fresh[0].number < self._numbers[0]):
            return came_back[self._numbers[0]]
        return fresh[0] if fresh else None

    def before(self, job: Job) -> tuple[int, bool]:
        """(how many older jobs than this one wait, whether there may be more of them, that were not counted); of those
        that have ended in the FIFO it is not known where they stand.
        """
        fresh, number = self.fresh, job.number
        low, high = 0, len(fresh)
        while low < high:
            middle = (low + high) // 2
            if fresh[middle].number < number:
                low = middle + 1
            else:
                high = middle
        again, cut = self._again_before(number)
        return max(0, low - self._absent) + again, cut

    def _again_before(self, number: int) -> tuple[int, bool]:
        """The same of those that came back: in a heap whatever stands below one that is younger is younger, too."""
        numbers, looks = self._numbers, 0
        found: set[int] = set()
        look_at = [0] if numbers else []
        while look_at:
            index = look_at.pop()
            if index >= len(numbers) or numbers[index] >= number:
                continue
            if looks == BEFORE_LOOKS_MAX:
                return len(found), True
            looks += 1
            if numbers[index] in self.again:
                found.add(numbers[index])
            look_at += (2 * index + 1, 2 * index + 2)
        return len(found), False

    def take(self) -> Job | None:
        """The oldest waiting job, which leaves; None when there is none."""
        if self._numbers or self._absent:
            job = self.head()
            if job is None:
                return None
            if self.again.pop(job.number, None) is not None:
                heapq.heappop(self._numbers)
                return job
        return self.fresh.popleft() if self.fresh else None


def _number_of(job: Job) -> int:
    return job.number
