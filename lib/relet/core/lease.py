"""Leases: which running jobs end when.

All leases of one length stand in one lane, in the order of their dispatch, which is the order of their deadlines. A
lease that ends early is deleted exactly, so a lane holds what is running and nothing stale; a heap with lazy deletion
would keep rate x timeout entries.

A lane is a plain dict. To find its oldest entry it walks over those deleted before, about a nanosecond each, so one
look is one walk, however many leases it ends. An `OrderedDict` finds it at once, and beside a million running jobs
costs each an eighth more for its linked list.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from relet.core.job import Job

NEVER: Final = 1 << 62
"""A moment that does not come (nanoseconds)."""


class Lane:
    """The running jobs of one lease length."""

    __slots__ = ("due", "lease_ns", "running")

    def __init__(self, lease_ns: int) -> None:
        self.lease_ns = lease_ns
        self.running: dict[int, Job] = {}
        """By job number, oldest dispatch first. The machine deletes here what ends early."""
        self.due = NEVER
        """No lease of this lane ends before this moment; it may be earlier than the first that does."""

    def begin(self, jobs: Iterable[Job], now: int) -> None:
        """The leases of these jobs begin now."""
        running = self.running
        for job in jobs:
            running[job.number] = job
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
