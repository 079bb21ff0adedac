"""What a worker has reported and the broker has not said to be safe.

Reports are numbered in the order in which they are sent. Those that decide about a job are kept until the broker's
acknowledgement covers their number, and sent again, under the same number, when a new welcome says that the broker has
not got so far. What only tells of a job under way - a piece of a result, progress - is sent once or never: it loses its
meaning with the connection.

    add --> unsent --sent--> unacknowledged --acknowledged--> gone
              ^                    |
              +------ again -------+

Numbers of reports that were never sent are left out; they never go back.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

from relet.messages import Complete, Extend, Fail, HandBack, Partial, Progress

STOPPED_MAX: Final = 1_000
"""Jobs remembered that the broker has said to stop."""

Message = Complete | Fail | HandBack | Partial | Progress | Extend
Report = tuple[int, Message, tuple[bytes, ...], int, bool]
"""Number, header, body, bytes of the body, whether the job had been started."""


class Reports:
    """All reports of one worker, unsent and unacknowledged."""

    def __init__(self) -> None:
        self.number = 0
        """The last number that was given out."""
        self.bytes = 0
        """Bytes of the bodies of all reports that are here."""
        self._unsent: collections.deque[Report] = collections.deque()
        self._unacknowledged: collections.deque[Report] = collections.deque()
        self._useless: dict[bytes, None] = {}
        """Tokens of jobs that the broker has said to stop, the oldest first."""

    def __len__(self) -> int:
        return len(self._unsent) + len(self._unacknowledged)

    def next_number(self) -> int:
        """A number for the report that is about to be added, or sent."""
        self.number += 1
        return self.number

    def add(self, message: Message, frames: tuple[bytes, ...] = (), size: int = 0, *, started: bool = True) -> None:
        """A report that waits to be sent; its number is the last one that was given out."""
        self.bytes += size
        self._unsent.append((message.n, message, frames, size, started))

    def unsent(self, count_max: int) -> list[Report]:
        """The next reports to send, at most so many. Then say how many were `sent`."""
        return list(islice(self._unsent, count_max))

    @property
    def waiting(self) -> int:
        """How many are unsent."""
        return len(self._unsent)

    def sent(self, count: int) -> tuple[int, int]:
        """The first so many of `unsent` went; returns how many of them were pieces of results, and their bytes."""
        unsent, pieces, freed = self._unsent, 0, 0
        keep = self._unacknowledged.append
        for _ in range(count):
            report = unsent.popleft()
            if type(report[1]) is Partial:
                pieces += 1
                freed += report[3]
            else:
                keep(report)
        self.bytes -= freed
        return pieces, freed

    def acknowledged(self, number: int) -> None:
        """All reports that were sent, up to this number, are safe."""
        reports = self._unacknowledged
        while reports and reports[0][0] <= number:
            self.bytes -= reports.popleft()[3]

    def lost(self) -> int:
        """The connection went: pieces of results that wait will not be sent. Returns their bytes."""
        kept = [report for report in self._unsent if type(report[1]) is not Partial]
        freed = sum(report[3] for report in self._unsent) - sum(report[3] for report in kept)
        self._unsent = collections.deque(kept)
        self.bytes -= freed
        return freed

    def again(self, received: int, lost: Collection[bytes]) -> int:
        """The broker has those up to `received`: the later ones are unsent again. Returns how many were sent before.

        Args:
            received: a number.
            lost: tokens of jobs that the broker has already: there is no need to give these back.
        """
        self.number = max(self.number, received)
        self.acknowledged(received)
        count = len(self._unacknowledged)
        reports = [*self._unacknowledged, *self._unsent]
        if lost:
            reports = [report for report in reports if type(report[1]) is not HandBack or report[1].token not in lost]
        self._unsent, self._unacknowledged = collections.deque(reports), collections.deque()
        return count

    def useless(self, token: bytes) -> None:
        """The broker has said to stop this job: that it refuses what is said of it will be nothing new."""
        self._useless[token] = None
        if len(self._useless) > STOPPED_MAX:
            del self._useless[next(iter(self._useless))]

    def is_useless(self, token: bytes) -> bool:
        """Whether it has said so."""
        return token in self._useless

    def claims(self) -> Iterator[tuple[bool, bytes]]:
        """(whether it was never started, token) of jobs that these decide about, the latest first."""
        for report in itertools.chain(reversed(self._unsent), reversed(self._unacknowledged)):
            message = report[1]
            if type(message) is not Partial:
                yield not report[4], message.token

    def clear(self) -> None:
        """Nothing will be sent any more."""
        self._unsent.clear()
        self._unacknowledged.clear()
        self.bytes = 0
