"""Leases: which running jobs end when.

All leases of one length stand in one lane, in the order of their dispatch, which is the order of their deadlines. A lease
that ends early is deleted exactly, so a lane holds what is running and nothing stale; a heap with lazy deletion would
keep rate x timeout entries. An `OrderedDict` gives the oldest in constant time: a plain dict would walk over all that was
deleted before it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from relet.core.job import Job

NEVER: Final = 1 << 62
"""A moment that does not come (nanoseconds)."""


class Lane:
    """The running jobs of one lease length."""

    __slots__ = ("due", "lease_ns", "running")

    def __init__(self, lease_ns: int) -> None:
        self.lease_ns = lease_ns
        self.running: OrderedDict[int, Job] = OrderedDict()
        """By job number, oldest dispatch first. The machine adds and deletes here itself, for speed."""
        self.due = NEVER
        """No lease of this lane ends before this moment; it may be earlier than the first that does."""

    def take_expired(self, now: int, jobs_max: int) -> list[Job]:
        """Up to `jobs_max` jobs whose time is up, oldest first; they leave the lane. `due` is exact afterwards."""
        expired: list[Job] = []
        running, lease_ns = self.running, self.lease_ns
        self.due = NEVER
        while running:
            job = next(iter(running.values()))
            ends = job.began_ns + lease_ns
            if ends > now or len(expired) == jobs_max:
                self.due = ends
                break
            del running[job.number]
            expired.append(job)
        return expired
