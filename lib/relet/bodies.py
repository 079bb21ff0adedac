"""Bodies that are not in memory: they are read back from the store when somebody is to be sent one.

A job whose body the store alone has goes on having it there: it is in memory while the hand-over is sent, and no
longer. What cannot be read ends its job (`Machine.body_lost`) and nothing else: the others are as good as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from relet.core.effects import Notice
from relet.core.job import Job
from relet.core.machine import Machine
from relet.events import Event
from relet.messages import Body, JobBody, KeptBody, body_bytes
from relet.store import Store

READ_BYTES_MAX: Final = 4 << 20
"""Bytes of bodies that are read at a time, or one body: what is read is in memory once more, as messages to be sent."""


class Bodies:
    """The bodies of a machine's jobs, wherever they are."""

    def __init__(self, machine: Machine, store: Store | None, publish: Callable[[Notice], None]) -> None:
        self._machine = machine
        self._store = store
        self._publish = publish

    def lent(self, jobs: list[Job], now: int) -> Iterator[list[Job]]:
        """These jobs are about to be handed over: all of them, some at a time, with their bodies in memory until the
        next are asked for. Those whose bodies cannot be read end meanwhile. Raises `StoreFailed`.
        """
        if not self._machine.away_bytes:
            yield jobs
            return
        begin = 0
        for end in _cuts(jobs):
            ready: list[Job] = []
            kept: list[tuple[Job, KeptBody]] = []
            some = jobs[begin:end]
            for job, body in zip(some, self._read_all([job.body for job in some]), strict=True):
                if body is None:
                    self._machine.body_lost(job, jobs[begin:], now)
                    continue
                ready.append(job)
                if type(job.body) is KeptBody:
                    kept.append((job, job.body))
                    job.body = body
            yield ready
            for job, its in kept:
                job.body = its
            begin = end

    def fetch_borrowed(self, now: int) -> None:
        """Jobs that were made with the bodies of others have bodies of their own. Raises `StoreFailed`."""
        borrowed, self._machine.borrowed = self._machine.borrowed, []
        for job in borrowed:
            self._machine.fetched(job, self.read(job.body), now)

    def read(self, body: JobBody) -> Body | None:
        """The frames; None where they cannot be read. Raises `StoreFailed`."""
        return self._read_all([body])[0]

    def _read_all(self, bodies: Sequence[JobBody]) -> list[Body | None]:
        wanted = [body for body in bodies if type(body) is KeptBody]
        if not wanted:
            return list(bodies)  # type: ignore[arg-type]  # none of them is kept
        if self._store is None:
            raise AssertionError("a body is kept, and there is no store")
        found = dict(zip(wanted, self._store.bodies([body.number for body in wanted]), strict=True))
        return [self._checked(body, found[body]) if type(body) is KeptBody else body for body in bodies]

    def _checked(self, kept: KeptBody, frames: tuple[bytes, ...] | None) -> Body | None:
        if frames is not None and len(frames) == kept.frames and body_bytes(frames) == kept.size:
            return frames[0] if len(frames) == 1 else frames
        self._publish((Event.BODY_LOST, {"job": kept.number, "bytes": kept.size}))
        return None


def _cuts(jobs: list[Job]) -> Iterator[int]:
    """Where the next `READ_BYTES_MAX` begin; last the end."""
    size = 0
    for index, job in enumerate(jobs):
        if type(job.body) is KeptBody:
            size += job.body.size
            if size > READ_BYTES_MAX and size > job.body.size:
                yield index
                size = job.body.size
    yield len(jobs)
