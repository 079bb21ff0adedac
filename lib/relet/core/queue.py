"""Where jobs wait: oldest first, and a job that comes back takes its old place.

Jobs are dispatched in the order of their numbers, so whatever comes back is older than whatever was never dispatched.
The queue is therefore two things: the jobs that came back, by number, with a heap of these numbers, usually small or
empty; and behind them a plain FIFO of fresh ones. A job that is completed while it waits leaves its number in the heap,
where it is skipped when its turn comes; when more than half of the heap is like that, it is made anew.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from relet.core.job import Job

_STALE_WORTH_REBUILDING = 64
"""Below this a rebuild costs more than the entries it frees."""


class Queue:
    """The waiting jobs. Only jobs that were dispatched before may leave other than by `take`."""

    __slots__ = ("_came_back", "_numbers", "fresh")

    def __init__(self) -> None:
        self.fresh: deque[Job] = deque()
        """Never dispatched; the machine appends here itself, a batch at a time."""
        self._came_back: dict[int, Job] = {}
        self._numbers: list[int] = []
        """A heap: the numbers of those that came back, and of some that have left since."""

    def __len__(self) -> int:
        return len(self.fresh) + len(self._came_back)

    def __iter__(self) -> Iterator[Job]:
        """The waiting jobs, in no order that matters."""
        yield from self._came_back.values()
        yield from self.fresh

    def came_back(self, job: Job) -> None:
        """The job waits again, at its old place."""
        self._came_back[job.number] = job
        heapq.heappush(self._numbers, job.number)

    def left(self, job: Job) -> None:
        """A job that had come back has ended while it waited."""
        del self._came_back[job.number]
        if len(self._numbers) > 2 * len(self._came_back) + _STALE_WORTH_REBUILDING:
            self._numbers = sorted(self._came_back)

    def take(self) -> Job | None:
        """The oldest waiting job, which leaves the queue; None when there is none."""
        while self._numbers:
            job = self._came_back.pop(heapq.heappop(self._numbers), None)
            if job is not None:
                return job
        return self.fresh.popleft() if self.fresh else None
