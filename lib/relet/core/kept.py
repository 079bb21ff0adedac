"""Final jobs that are kept as evidence: dead letters, and outcomes that reached nobody. Bounded, the oldest go
first.
"""

from __future__ import annotations

from collections.abc import Iterator

from relet.core.job import Job
from relet.messages import held_bytes


class Kept:
    """Final jobs by number, oldest first."""

    __slots__ = ("_bytes_max", "_jobs", "_jobs_max", "bytes")

    def __init__(self, *, jobs_max: int, bytes_max: int) -> None:
        self._jobs: dict[int, Job] = {}
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self.bytes = 0
        """Of bodies and answers."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def keep(self, job: Job) -> list[Job]:
        """Keeps a final job; returns those that had to go for it, which may be the job itself."""
        self._jobs[job.number] = job
        self.bytes += _size(job)
        forgotten: list[Job] = []
        while len(self._jobs) > self._jobs_max or self.bytes > self._bytes_max:
            number = next(iter(self._jobs))
            oldest = self._jobs.pop(number)
            self.bytes -= _size(oldest)
            forgotten.append(oldest)
        return forgotten


def _size(job: Job) -> int:
    return held_bytes(job.body, b"") + held_bytes(job.answer, b"")
