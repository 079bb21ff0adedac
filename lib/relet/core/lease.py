"""Leases: which running jobs end when.

All leases of one length stand in one lane, in the order of their dispatch, which is the order of their deadlines. A
lease that ends early is deleted exactly, so a lane holds what is running and nothing stale; a heap with lazy deletion
would keep rate x timeout entries.

A lane is a plain dict. To find its oldest entry it walks over those deleted before, about a nanosecond each, so one
look is one walk, however many leases it ends. An `OrderedDict` finds it at once, and beside a million running jobs
costs each an eighth more for its linked list.

Deadlines that are truly individual - a delay, the moment by which a job must have started or ended, a lease that was
extended, a worker that must not be silent for long - stand in `Deadlines`: lines of job numbers, one for each
millisecond, and a heap of these lines. A heap of the jobs themselves would be a walk over twenty places in memory for
each that comes up, beside a million. A deadline that moves later only changes the job; its entry is put right when it
comes up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final, Protocol

from relet.core.job import Job
from relet.core.limits import STALE_WORTH_REBUILDING

NEVER: Final = 1 << 62
"""A moment that does not come (nanoseconds)."""
MS: Final = 1_000_000
"""Nanoseconds."""


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

    __slots__ = ("_count", "_lines", "_moments", "_near", "_taken", "recalled", "running")

    def __init__(self, *, recalled: bool = False) -> None:
        self.recalled = recalled
        self.running: dict[int, Job] = {}
        """By job number."""
        self._lines: dict[int, list[int]] = {}
        """Numbers of jobs by the millisecond of a moment that is not later than the deadline. Each job stands in one of
        them or in `_near`; it may still stand in others."""
        self._moments: list[int] = []
        """A heap: the milliseconds of the lines."""
        self._near: list[tuple[int, int]] = []
        """A heap (moment, number): what stood in lines that have been looked at, and was not due then."""
        self._count = 0
        """Entries in all of these."""
        self._taken = -1
        """The line that is being taken: it stands there from its end to its beginning."""

    @property
    def due(self) -> int:
        """No deadline comes before this moment; it may be earlier than the first that does."""
        due = self._moments[0] * MS if self._moments else NEVER
        return min(due, self._near[0][0]) if self._near else due

    def begin(self, job: Job, due_ns: int) -> None:
        """The deadline of this job is `due_ns` from now on, whatever it was."""
        fresh = job.timer is not self
        if fresh:
            self.running[job.number] = job
            job.timer = self
        earlier = due_ns < job.due_ns
        job.due_ns = due_ns
        if fresh or earlier:
            self._enter(job)
            if self._count > 2 * len(self.running) + STALE_WORTH_REBUILDING:
                self._lines, self._moments, self._near, self._count, self._taken = {}, [], [], 0, -1
                for each in self.running.values():
                    self._enter(each)

    def _enter(self, job: Job) -> None:
        moment = job.due_ns // MS
        line = self._lines.get(moment)
        if line is None:
            self._lines[moment] = [job.number]
            heapq.heappush(self._moments, moment)
        else:
            line.append(job.number)
        self._count += 1

    def take_expired(self, now: int, jobs_max: int) -> list[Job]:
        """Up to `jobs_max` jobs whose deadline has come, in the order of milliseconds; they stand here no more."""
        expired: list[Job] = []
        moments, near, running = self._moments, self._near, self.running
        looks = jobs_max
        while looks > 0:
            looks -= 1
            begins = moments[0] * MS if moments else NEVER
            if near and near[0][0] <= now and near[0][0] < begins:
                until, number = heapq.heappop(near)
            elif begins <= now:
                until, number = begins + MS - 1, self._next_of(moments[0])
            else:
                break
            self._count -= 1
            job = running.get(number)
            if job is None:
                continue
            if job.due_ns > until:  # it moved later
                self._enter(job)
            elif job.due_ns > now:
                heapq.heappush(near, (job.due_ns, number))
                self._count += 1
            else:
                del running[number]
                job.timer = None
                expired.append(job)
        return expired

    def _next_of(self, moment: int) -> int:
        """Takes the first number out of the first line, which is gone with its last."""
        line = self._lines[moment]
        if self._taken != moment:
            self._taken = moment
            line.reverse()
        number = line.pop()
        if not line:
            del self._lines[moment]
            heapq.heappop(self._moments)
        return number
