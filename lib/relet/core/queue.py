"""Where jobs wait: oldest first, and a job that comes back takes its old place.

Jobs are dispatched in the order of their numbers, so whatever comes back is older than whatever was never dispatched.
The queue is therefore two things: a heap of jobs that came back, usually small or empty, and behind it a plain FIFO of
fresh ones. A job that is completed while it waits stays where it is, its body dropped, and is skipped when its turn
comes; when more than half of the heap is like that, it is made anew.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from relet.core.job import AVAILABLE, Job

_STALE_WORTH_REBUILDING = 64
"""Below this a rebuild costs more than the entries it frees."""


class Queue:
    """The waiting jobs. Only jobs that were dispatched before may leave other than by `take`."""

    __slots__ = ("_came_back", "_stale", "fresh")

    def __init__(self) -> None:
        self.fresh: deque[Job] = deque()
        """Never dispatched; the machine appends here itself, a batch at a time."""
        self._came_back: list[tuple[int, Job]] = []
        self._stale = 0

    def __len__(self) -> int:
        return len(self.fresh) + len(self._came_back) - self._stale

    def __iter__(self) -> Iterator[Job]:
        """The waiting jobs, in no order that matters."""
        for _, job in self._came_back:
            if job.state == AVAILABLE:
                yield job
        yield from self.fresh

    def came_back(self, job: Job) -> None:
        """The job waits again, at its old place."""
        heapq.heappush(self._came_back, (job.number, job))

    def left(self) -> None:
        """A job that had come back has ended while it waited. To be called when its state says so."""
        self._stale += 1
        if self._stale > _STALE_WORTH_REBUILDING and self._stale > len(self._came_back) // 2:
            self._came_back = [entry for entry in self._came_back if entry[1].state == AVAILABLE]
            heapq.heapify(self._came_back)
            self._stale = 0

    def take(self) -> Job | None:
        """The oldest waiting job, which leaves the queue; None when there is none."""
        while self._came_back:
            _, job = heapq.heappop(self._came_back)
            if job.state == AVAILABLE:
                return job
            self._stale -= 1
        return self.fresh.popleft() if self.fresh else None
