"""Leases: which running jobs end when.

All leases of one length stand in one lane, in the order of their dispatch, which is the order of their deadlines. A
lease that ends early is deleted exactly, so a lane holds what is running and nothing stale; a heap with lazy deletion
would keep rate x timeout entries.

A lane is a plain dict. To find its oldest entry it walks over those deleted before, about a nanosecond each, so one
look is one walk, however many leases it ends. An `OrderedDict` finds it at once, and beside a million running jobs
costs each an eighth more for its linked list.

Deadlines that are truly individual - a delay, the moment by which a job must have started or ended, a lease that was
extended, a worker that must not be silent for long - stand in `Deadlines`: a heap of (moment, number) that never holds
a job. A deadline that moves later only changes the job; its entry is put right when it comes up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final, Protocol

from relet.core.job import Job
from relet.core.limits import STALE_WORTH_REBUILDING

NEVER: Final = 1 << 62
"""A moment that does not come (nanoseconds)."""



class Timer(Protocol):
    """Where deadlines stand. The machine deletes there what ends early."""

    running: dict[int, Job]
    recalled: bool
    """Whether those are jobs that were recalled."""


class Lane:
    """The running jobs of one lease length."""

    __slots__ = ("due", "lease_ns", "recalled", "running")

    def __init__(self, lease_ns: int, *, recalled: bool = False) -> None:
        self.lease_ns = lease_ns
        self.recalled = recalled
        self.running: dict[int, Job] = {}
        """By job number, oldest dispatch first. The machine deletes here what ends early."""
        self.due = NEVER
        """No lease of this lane ends before this moment; it may be earlier than the first that does."""

    def begin(self, jobs: Iterable[Job], now: int) -> None:
        """The leases of these jobs begin now."""
        running = self.running
        for job in jobs:
            running[job.number] = job
            job.timer = self
        if self.due == NEVER:
            self.due = now + self.lease_ns

    def take_expired(self, now: int, jobs_max: int) -> list[Job]:
        """Up to `jobs_max` jobs whose time is up, oldest first; they leave the lane. `due` is exact afterwards."""
        expired: list[Job] = []
        running, lease_ns = self.running, self.lease_ns
        self.due = NEVER
        for job in running.values():
            ends = job.began_ns + lease_ns
            if ends > now or len(expired) == jobs_max:
                self.due = ends
                break
            expired.append(job)
        for job in expired:
            del running[job.number]
        return expired


class Deadlines:
    """Jobs with a deadline of their own, `due_ns`."""

    __slots__ = ("_heap", "recalled", "running")

    def __init__(self, *, recalled: bool = False) -> None:
        self.recalled = recalled
        self.running: dict[int, Job] = {}
        """By job number."""
        self._heap: list[tuple[int, int]] = []
        """(moment, number): for each job one entry that is not later than its deadline, and stale ones."""

    @property
    def due(self) -> int:
        """No deadline comes before this moment; it may be earlier than the first that does."""
        return self._heap[0][0] if self._heap else NEVER

    def begin(self, job: Job, due_ns: int) -> None:
        """The deadline of this job is `due_ns` from now on, whatever it was."""
        fresh = job.timer is not self
        if fresh:
            self.running[job.number] = job
            job.timer = self
        if fresh or due_ns < job.due_ns:
            heapq.heappush(self._heap, (due_ns, job.number))
            if len(self._heap) > 2 * len(self.running) + STALE_WORTH_REBUILDING:
                job.due_ns = due_ns
                self._heap = sorted((each.due_ns, number) for number, each in self.running.items())
        job.due_ns = due_ns

    def take_expired(self, now: int, jobs_max: int) -> list[Job]:
        """Up to `jobs_max` jobs whose deadline has come, in that order; they stand here no more."""
        expired: list[Job] = []
        heap = self._heap
        looks = jobs_max
        while heap and heap[0][0] <= now and looks > 0:
            looks -= 1
            moment, number = heapq.heappop(heap)
            job = self.running.get(number)
            if job is None:
                continue
            if job.due_ns > moment:
                heapq.heappush(heap, (job.due_ns, number))
            else:
                del self.running[number]
                job.timer = None
                expired.append(job)
        return expired
