"""Unique keys: of a key there is one live job at a time in a queue, and for a while after its success none.

A key belongs to the principal of its request, as request ids do, and dies with its job. What another request with the
same key becomes, `core.requests` decides: it is refused, it joins the job that is there, or it takes its place. Here
stands what must be known for that:

- who holds a key: an open job, or a *window*, the time after a success in which the key is taken though its job has
  ended. Windows are bounded by number; the oldest ends early.
- which requests share a job. One of them is the job's own (`Job.request`), the others are its *guests*. A guest has
  all that a request has - it is asked about, told, received and cancelled under its own id - but no job of its own.

A broker in which nobody uses keys pays a look at empty tables for them, per batch and not per job.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import msgspec

from relet.core.job import Job
from relet.core.lease import NEVER
from relet.core.limits import STALE_WORTH_REBUILDING
from relet.messages import Key

Held: TypeAlias = tuple[str, str, str]
"""(queue, principal, key)."""


class Guest(NamedTuple):
    """What is remembered of a request that shares the job of another."""

    size: int
    """Bytes of its body, to know it again."""
    finishes: bool
    """Whether it wants the job to be done though all who wait for it are gone."""
    asked_ns: int
    """When it was heard first: later than its job was accepted."""


class Window(NamedTuple):
    """The time after a success in which its key is still taken."""

    number: int
    """Of the job."""
    until_ns: int
    job: bytes
    """Id of the job ..."""
    request: Key
    """... and by which request it was known when it ended."""


def held_by(job: Job) -> Held | None:
    """What a job holds, if it has a key."""
    rules, request = job.rules, job.request
    if rules is None or not rules.unique:
        return None
    return job.queue.name, request[0] if type(request) is tuple else "", rules.unique


class Uniques:
    """The keys of one machine, and who shares a job."""

    def __init__(self, *, windows_max: int) -> None:
        self.live: dict[Held, Job] = {}
        """Open jobs by the key that they hold."""
        self.guests: dict[Job, dict[Key, Guest]] = {}
        """Of jobs that are open, or whose outcomes are kept: the requests that share them, beside their own."""
        self.windows: dict[Held, Window] = {}
        """The oldest first."""
        self._windows_max = windows_max
        self._ends: list[tuple[int, Held]] = []
        """A heap: when windows end; and some that were ended before."""

    def requests_of(self, job: Job) -> Iterator[Key]:
        """All requests whose job this is, its own first."""
        if job.request is not None:
            yield job.request
        yield from self.guests.get(job, ())

    def size_of(self, job: Job, key: Key) -> int:
        """Bytes of the body with which this request came."""
        guest = self.guests.get(job, {}).get(key)
        return job.size if guest is None else guest.size

    def asked_last_ns(self, job: Job) -> int:
        """When the youngest request of the job was heard first."""
        return max([job.accepted_ns, *(guest.asked_ns for guest in self.guests.get(job, {}).values())])

    def finishes(self, job: Job) -> bool:
        """Whether a guest wants the job to be done whoever is gone."""
        return any(guest.finishes for guest in self.guests.get(job, {}).values())

    def released(self, job: Job) -> None:
        """The job has ended, and its key is free."""
        held = held_by(job)
        if held is not None and self.live.get(held) is job:
            del self.live[held]

    def left(self, job: Job, keys: list[Key]) -> None:
        """These requests share the job no more; it is known by one of those that remain, and does as that one wants."""
        guests = self.guests.get(job, {})
        for key in keys:
            guests.pop(key, None)
        if job.request in keys:
            job.request = next(iter(guests))
            own = guests.pop(job.request)
            job.size = own.size
            if own.finishes:
                self.will_finish(job)
        if not guests:
            self.guests.pop(job, None)

    def will_finish(self, job: Job) -> None:
        """It goes on when all who asked for it are gone, though it was to end then when it was made."""
        if job.terms.ends_alone:
            job.terms = msgspec.structs.replace(job.terms, ends_alone=False)

    # --- Windows

    def begin(self, held: Held, window: Window) -> list[tuple[Held, Window]]:
        """A window begins; returns those that had to end for it."""
        self.windows.pop(held, None)  # one that is over and stands there yet would give it its place, as the oldest
        self.windows[held] = window
        heapq.heappush(self._ends, (window.until_ns, held))
        cut: list[tuple[Held, Window]] = []
        while len(self.windows) > self._windows_max:
            oldest = next(iter(self.windows))
            cut.append((oldest, self.windows.pop(oldest)))
        if len(self._ends) > 2 * len(self.windows) + STALE_WORTH_REBUILDING:
            self._ends = sorted((it.until_ns, key) for key, it in self.windows.items())
        return cut

    def due(self) -> int:
        """When a window ends, or one that is not there any more would have."""
        return self._ends[0][0] if self._ends else NEVER

    def take_ended(self, now: int, windows_max: int) -> list[tuple[Held, Window]]:
        """Up to so many windows that are over; they are not there any more."""
        ended: list[tuple[Held, Window]] = []
        while self._ends and self._ends[0][0] <= now and windows_max > 0:
            windows_max -= 1
            until_ns, held = heapq.heappop(self._ends)
            window = self.windows.get(held)
            if window is not None and window.until_ns == until_ns:
                ended.append((held, self.windows.pop(held)))
        return ended
