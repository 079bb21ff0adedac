"""Final jobs that are kept as evidence: dead letters, and outcomes of 2010 that reached nobody. Bounded by number and
by bytes; the oldest go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from relet.core.job import Job
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

    __slots__ = ("_bytes_max", "_jobs_max", "bytes", "entries")

    def __init__(self, *, jobs_max: int, bytes_max: int) -> None:
        self.entries: OrderedDict[int, tuple[Job, int]] = OrderedDict()
        """(job, what it counts) by number."""
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
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
        size = held_bytes(job.answer, b"") + held_bytes(job.body, b"") + beyond_frames(job)
        self.entries[job.number] = job, size
        self.bytes += size
        return self._take_excess()

    def _take_excess(self) -> list[Job]:
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
