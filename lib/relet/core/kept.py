"""Final jobs that are kept as evidence: dead letters, and outcomes of 2010 that reached nobody. Bounded by number, by
bytes and by age, and dead letters by the same bounds of their queue besides; the oldest go first.

Each has a place, 1, 2, 3 ... in the order in which they came, by which one walks over them some at a time. They stand
in a line of all, and dead letters in one of their queue besides, so that what is asked of one queue costs nothing for
the others. Those that have left stay in a line until they are more than half of it: keeping one more, dropping one and
finding the oldest cost the same however many there are.

What is over a bound goes at once where one more is kept, and in steps where time passes or a bound is changed. For
that, queues with settings of their own stand in a heap by the moment at which they are to be looked at.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from relet.core.job import DISCARDED, Job
from relet.core.lease import NEVER
from relet.core.limits import STALE_WORTH_REBUILDING
from relet.messages import AttemptEnded, headers_held, held_bytes

if TYPE_CHECKING:
    from relet.core.queue import Queue

_LEDGER_ENTRY_BYTES: Final = 128
"""What an entry of a ledger costs beyond what its worker said."""

def ledger_bytes(ledger: tuple[AttemptEnded, ...]) -> int:
    """What a ledger holds in memory, bytes."""
    return sum(len(it.kind) + len(it.text) + len(it.worker) + _LEDGER_ENTRY_BYTES for it in ledger)


def beyond_frames(job: Job) -> int:
    """What a kept job holds beyond its frames: the ledger, the headers of the answer."""
    return ledger_bytes(job.ledger) + headers_held(job.headers) + headers_held(job.answer_headers)


class Letter(msgspec.Struct, gc=False, eq=False):
    """A kept job, and what is known of it beyond itself.

    `gc=False` as with the job: nothing that it names leads back to it.
    """

    job: Job
    size: int
    """What it counts, bytes."""
    place: int
    redriven_to: bytes = b""
    """Id of the job that was made of it, the last one; b"": none was."""
    here: bool = True
    """It is kept still."""


class Line:
    """Kept jobs in the order of their places. A walk goes on where the line is made anew meanwhile."""

    __slots__ = ("_begin", "_letters", "bytes", "count", "look_at_ns", "queue")

    def __init__(self, queue: Queue | None = None) -> None:
        self.queue = queue
        """Whose dead letters they are; None: the line of all."""
        self.look_at_ns = NEVER
        """When it is to be looked at, because a bound of its queue may then be passed."""
        self._letters: list[Letter] = []
        self._begin = 0
        """None before this index is kept any more."""
        self.count = 0
        self.bytes = 0

    def append(self, letter: Letter) -> None:
        """One more."""
        self._letters.append(letter)
        self.count += 1
        self.bytes += letter.size

    def left(self, letter: Letter) -> None:
        """It is not kept any more, and says so."""
        self.count -= 1
        self.bytes -= letter.size
        if len(self._letters) > 2 * self.count + STALE_WORTH_REBUILDING:
            self._letters = [it for it in self._letters if it.here]
            self._begin = 0

    def oldest(self) -> Letter | None:
        """The first that is kept."""
        letters = self._letters
        for index in range(self._begin, len(letters)):
            if letters[index].here:
                self._begin = index
                return letters[index]
        self._begin = len(letters)
        return None

    def after(self, place: int) -> Iterator[Letter]:
        """Those with a later place."""
        letters = self._letters
        begin = bisect_right(letters, place, lo=self._begin, key=_place_of)
        return (letters[index] for index in range(begin, len(letters)) if letters[index].here)

    def is_over(self, now: int) -> bool:
        """The oldest has to go by the bounds of its queue."""
        settings = None if self.queue is None else self.queue.settings
        if settings is None or not self.count:
            return False
        return (
            (settings.kept_jobs_max is not None and self.count > settings.kept_jobs_max)
            or (settings.kept_bytes_max is not None and self.bytes > settings.kept_bytes_max)
            or self.due() <= now
        )

    def due(self) -> int:
        """When the oldest has been kept for as long as its queue allows."""
        settings = None if self.queue is None else self.queue.settings
        oldest = None if settings is None or settings.kept_ns is None else self.oldest()
        if settings is None or settings.kept_ns is None or oldest is None:
            return NEVER
        return oldest.job.ended_ns + settings.kept_ns


def _place_of(letter: Letter) -> int:
    return letter.place


class Kept:
    """Final jobs by number, oldest first."""

    __slots__ = (
        "_age_ns_max",
        "_by_id",
        "_bytes_max",
        "_jobs_max",
        "_line",
        "_lines",
        "_looks",
        "_looks_made",
        "bytes",
        "entries",
        "last",
    )

    def __init__(self, *, jobs_max: int, bytes_max: int, age_ns_max: int = NEVER) -> None:
        self.entries: dict[int, Letter] = {}
        """By number of the job."""
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._age_ns_max = age_ns_max
        self.bytes = 0
        """Of bodies, answers, ledgers and headers."""
        self.last = 0
        """The place that was given last."""
        self._line = Line()
        self._lines: dict[str, Line] = {}
        """Of dead letters, by queue; of queues that have some."""
        self._by_id: dict[bytes, Letter] = {}
        """Dead letters, by id of the job."""
        self._looks: list[tuple[int, int, Line]] = []
        """A heap (moment, number, line): what is to be looked at then; and some that were put off, or are empty."""
        self._looks_made = 0

    def __len__(self) -> int:
        return self._line.count

    def __iter__(self) -> Iterator[Job]:
        return (letter.job for letter in self._line.after(0))

    def __contains__(self, job: Job) -> bool:
        return job.number in self.entries

    # --- Looking

    def of(self, job_id: bytes) -> Letter | None:
        """The dead letter of the job with this id."""
        return self._by_id.get(job_id)

    def walk(self, queue: str, after: int) -> Iterator[Letter]:
        """Dead letters of a queue whose place comes after this one; "": of all, and whatever else is kept, because each
        that is looked at costs a step.
        """
        line = self._lines.get(queue) if queue else self._line
        return iter(()) if line is None else line.after(after)

    def of_queue(self, queue: str) -> tuple[int, int]:
        """(number, bytes) of the dead letters of a queue."""
        line = self._lines.get(queue)
        return (0, 0) if line is None else (line.count, line.bytes)

    # --- Keeping

    def keep(self, job: Job, redriven_to: bytes = b"") -> list[Job]:
        """Keeps a final job; returns those that had to go for it, which may be the job itself."""
        size = held_bytes(job.answer, b"") + held_bytes(job.body, b"") + beyond_frames(job)
        self.last += 1
        letter = self.entries[job.number] = Letter(job, size, self.last, redriven_to)
        self.bytes += size
        self._line.append(letter)
        if job.state == DISCARDED:
            line = self._lines.get(job.queue.name)
            if line is None:
                line = self._lines[job.queue.name] = Line(job.queue)
            line.append(letter)
            if job.id:
                self._by_id[job.id] = letter
            if job.queue.settings is not None:
                return self._take_excess_of(line, job.ended_ns) + self._take_excess()
        return self._take_excess()

    def _take_excess(self) -> list[Job]:
        """The oldest, as long as there are too many; they are not kept any more."""
        forgotten: list[Job] = []
        line = self._line
        while line.count > self._jobs_max or self.bytes > self._bytes_max:
            self._drop_oldest(line, forgotten)
        return forgotten

    def _take_excess_of(self, line: Line, now: int) -> list[Job]:
        """The same by the bounds of one queue."""
        forgotten: list[Job] = []
        while line.is_over(now):
            self._drop_oldest(line, forgotten)
        self._look_at(line, line.due())
        return forgotten

    def _drop_oldest(self, line: Line, forgotten: list[Job]) -> None:
        oldest = line.oldest()
        if oldest is None:
            raise AssertionError("what is counted as kept is not there")
        self.drop(oldest.job)
        forgotten.append(oldest.job)

    def drop(self, job: Job) -> bool:
        """The job is not kept any more; False where it was not."""
        letter = self.entries.pop(job.number, None)
        if letter is None:
            return False
        letter.here = False
        self.bytes -= letter.size
        self._line.left(letter)
        if job.state == DISCARDED:
            name = job.queue.name
            line = self._lines[name]
            line.left(letter)
            if not line.count:
                del self._lines[name]
            self._by_id.pop(job.id, None)
        return True

    # --- As time passes

    def bounds_changed(self, queue: Queue) -> None:
        """The settings of this queue are others now."""
        line = self._lines.get(queue.name)
        if line is not None:
            self._look_at(line, -NEVER)

    def _look_at(self, line: Line, moment: int) -> None:
        if moment < line.look_at_ns:
            line.look_at_ns = moment
            self._looks_made += 1
            heapq.heappush(self._looks, (moment, self._looks_made, line))
            if len(self._looks) > 2 * len(self._lines) + STALE_WORTH_REBUILDING:
                self._looks = sorted(it for it in self._looks if it[2].count and it[2].look_at_ns == it[0])

    def due(self) -> int:
        """When `take_aged` has something to do; it may be in the past."""
        due = self._looks[0][0] if self._looks else NEVER
        oldest = self._line.oldest() if self._age_ns_max != NEVER else None
        return due if oldest is None else min(due, oldest.job.ended_ns + self._age_ns_max)

    def take_aged(self, now: int, jobs_max: int) -> list[Job]:
        """Up to so many that have been kept for as long as they may, or are too many for their queue; they are not kept
        any more.
        """
        aged: list[Job] = []
        line, looks = self._line, self._looks
        while looks and looks[0][0] <= now and len(aged) < jobs_max:
            moment, _, of_queue = looks[0]
            if of_queue.look_at_ns == moment and of_queue.is_over(now):
                self._drop_oldest(of_queue, aged)
                continue
            heapq.heappop(looks)
            if of_queue.look_at_ns == moment:
                of_queue.look_at_ns = NEVER
                self._look_at(of_queue, of_queue.due())
                looks = self._looks  # it may have been made anew
        while len(aged) < jobs_max:
            oldest = line.oldest() if self._age_ns_max != NEVER else None
            if oldest is None or oldest.job.ended_ns + self._age_ns_max > now:
                break
            self._drop_oldest(line, aged)
        return aged
