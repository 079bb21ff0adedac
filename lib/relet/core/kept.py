"""Final jobs that are kept: as evidence - dead letters, and outcomes that reached nobody - or because their outcome is
owed to somebody who may ask again. Bounded by number, by bytes and by age; the oldest go first.

An ordered dict, because most outcomes leave again at once, in any order, and the oldest must be found without walking
over where they were.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from relet.core.job import Job
from relet.core.lease import NEVER
from relet.messages import AttemptEnded, headers_held, held_bytes

_LEDGER_ENTRY_BYTES: Final = 128
"""What an entry of a ledger costs beyond what its worker said."""


def ledger_bytes(ledger: tuple[AttemptEnded, ...]) -> int:
    """What a ledger holds in memory, bytes."""
    return sum(len(it.kind) + len(it.text) + len(it.worker) + _LEDGER_ENTRY_BYTES for it in ledger)


def beyond_frames(job: Job) -> int:
    """What a kept job holds beyond its frames: the ledger, the headers of the answer."""
    return ledger_bytes(job.ledger) + headers_held(job.headers) + headers_held(job.answer_headers)


class Kept:
    """Final jobs by number, oldest first."""

    __slots__ = ("_age_ns_max", "_bytes_max", "_entry_bytes", "_jobs_max", "bytes", "entries")

    def __init__(self, *, jobs_max: int, bytes_max: int, age_ns_max: int = NEVER, entry_bytes: int = 0) -> None:
        """`entry_bytes`: what each counts beyond its frames."""
        self._entry_bytes = entry_bytes
        self.entries: OrderedDict[int, tuple[Job, int]] = OrderedDict()
        """(job, what it counts) by number."""
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._age_ns_max = age_ns_max
        self.bytes = 0
        """Of bodies, answers and entries."""

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Job]:
        return (job for job, _ in self.entries.values())

    def __contains__(self, job: Job) -> bool:
        return job.number in self.entries

    def keep(self, job: Job) -> list[Job]:
        """Keeps a final job; returns those that had to go for it, which may be the job itself."""
        answer = job.answer
        size = (len(answer) if type(answer) is bytes else held_bytes(answer, b"")) + self._entry_bytes
        if job.ledger or job.headers or job.answer_headers:
            size += beyond_frames(job)
        if job.body:
            size += held_bytes(job.body, b"")
        self.entries[job.number] = job, size
        self.bytes += size
        return self.take_excess()

    def keep_all(self, jobs: list[Job]) -> list[Job]:
        """The same for many whose bodies are gone, as those of completed jobs are."""
        entries, size = self.entries, 0
        for job in jobs:
            answer = job.answer
            held = (len(answer) if type(answer) is bytes else held_bytes(answer, b"")) + self._entry_bytes
            if job.ledger or job.headers or job.answer_headers:
                held += beyond_frames(job)
            entries[job.number] = job, held
            size += held
        self.bytes += size
        return self.take_excess()

    def take_excess(self) -> list[Job]:
        """The oldest, as long as there are too many; they are not kept any more."""
        forgotten: list[Job] = []
        while len(self.entries) > self._jobs_max or self.bytes > self._bytes_max:
            forgotten.append(self._drop_oldest())
        return forgotten

    def _drop_oldest(self) -> Job:
        _, (job, size) = self.entries.popitem(last=False)
        self.bytes -= size
        return job

    def drop(self, job: Job) -> bool:
        """The job is not kept any more; False where it was not."""
        entry = self.entries.pop(job.number, None)
        if entry is None:
            return False
        self.bytes -= entry[1]
        return True

    def due(self) -> int:
        """When the oldest has been kept for as long as it may."""
        if not self.entries or self._age_ns_max == NEVER:
            return NEVER
        job, _ = next(iter(self.entries.values()))
        return job.ended_ns + self._age_ns_max

    def take_aged(self, now: int, jobs_max: int) -> list[Job]:
        """Up to so many that have been kept for as long as they may; they are not any more."""
        aged: list[Job] = []
        while len(aged) < jobs_max and self.due() <= now:
            aged.append(self._drop_oldest())
        return aged
