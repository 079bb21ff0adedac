"""Final jobs whose outcomes are owed to somebody who may ask again. Bounded by number, by bytes and by age; the oldest
go first.

Most outcomes leave again at once, in any order. So a job that is kept says so itself (`Job.kept_bytes`), and the line
in which the oldest is found holds also some that have left: when they are more than half of it, it is made anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from relet.core.job import Job
from relet.core.kept import beyond_frames
from relet.core.lease import NEVER
from relet.core.limits import STALE_WORTH_REBUILDING
from relet.messages import held_bytes

OUTCOME_BYTES: Final = 1_024
"""What a kept outcome costs beyond its frames: the object, its tables, its ids."""

class Outcomes:
    """Final jobs, oldest first. What was given with the job - body, dead letter - is not counted here."""

    __slots__ = ("_age_ns_max", "_bytes_max", "_count", "_jobs_max", "_line", "bytes")

    def __init__(self, *, jobs_max: int, bytes_max: int, age_ns_max: int) -> None:
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._age_ns_max = age_ns_max
        self._line: deque[Job] = deque()
        """All that are kept, in the order of their ends, and some that were."""
        self._count = 0
        self.bytes = 0
        """Of answers, ledgers and headers, and `OUTCOME_BYTES` each."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job]:
        return (job for job in self._line if job.kept_bytes)

    def __contains__(self, job: Job) -> bool:
        return job.kept_bytes > 0

    def keep(self, jobs: list[Job]) -> list[Job]:
        """Keeps final jobs, the oldest first; returns those that had to go for them, which may be of them."""
        size = 0
        for job in jobs:
            answer = job.answer
            held = (len(answer) if type(answer) is bytes else held_bytes(answer, b"")) + OUTCOME_BYTES
            if job.ledger or job.headers or job.answer_headers:
                held += beyond_frames(job)
            job.kept_bytes = held
            size += held
        self.bytes += size
        self._line += jobs
        self._count += len(jobs)
        forgotten: list[Job] = []
        while self._count > self._jobs_max or self.bytes > self._bytes_max:
            oldest = self._oldest()
            self.drop([oldest])
            forgotten.append(oldest)
        return forgotten

    def drop(self, jobs: Iterable[Job]) -> list[Job]:
        """These jobs are not kept any more; returns those of them that were."""
        dropped: list[Job] = []
        size = 0
        for job in jobs:
            held = job.kept_bytes
            if held:
                job.kept_bytes = 0
                size += held
                dropped.append(job)
        self.left(len(dropped), size)
        return dropped

    def left(self, count: int, size: int) -> None:
        """So many that counted so much are not kept any more, and say so themselves."""
        self.bytes -= size
        self._count -= count
        if not self._count:
            self._line.clear()
        elif len(self._line) > 2 * self._count + STALE_WORTH_REBUILDING:
            self._line = deque([job for job in self._line if job.kept_bytes])

    def _oldest(self) -> Job:
        line = self._line
        while not line[0].kept_bytes:
            line.popleft()
        return line[0]

    def due(self) -> int:
        """When the oldest has been kept for as long as it may."""
        if not self._count or self._age_ns_max == NEVER:
            return NEVER
        return self._oldest().ended_ns + self._age_ns_max

    def take_aged(self, now: int, jobs_max: int) -> list[Job]:
        """Up to so many that have been kept for as long as they may; they are not any more."""
        aged: list[Job] = []
        while len(aged) < jobs_max and self.due() <= now:
            oldest = self._oldest()
            self.drop([oldest])
            aged.append(oldest)
        return aged
