"""The worker's side of the dialect of 2010, without sockets, threads or clock: jobs come in, asks and answers go out.

One ask is one job. The worker keeps `ahead` of them going: asks that were not answered yet, plus jobs that it holds,
which are the one in hand and those that wait behind it. It asks on one connection and answers on another, and asks only
while both are there, because a job that cannot be answered is a lost attempt.

    ask --received--> held --started--> in hand --ended--> answered | unanswered | failed
                        |
                        +---- lost, retired ----> dropped

What becomes of a job that cannot be answered is up to the broker, and the 2010 dialect has one way to tell it at once:
the connection on which the job was given goes. So when a handler has failed the worker retires that connection: it asks
no more, finishes and answers what it holds, then closes and begins afresh. It does so too when the connection for
answers broke, because answers under way in it may be lost. The same loss that comes from outside drops
what was not started - the broker has let it again - but the answer to the job in hand is still sent: a late answer
counts.

A handler that fails every time would reconnect as fast as it fails, so each failure without a success between doubles a
pause before the new connection. The old one is always closed at once.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from itertools import islice
from typing import Final

from relet.dialects.d2010 import DELIMITER
from relet.messages import DEFAULT_QUEUE
from relet.worker.outcome import Counters
from relet.worker.pace import AHEAD_MAX

ASK: Final = (DELIMITER, b"")
"""The 2010 dialect's ask; the broker does not look at what stands behind the delimiter."""
PAUSE_NS: Final = 10_000_000
PAUSE_NS_MAX: Final = 1_000_000_000
"""Pause before the new connection after the second failure in a row, doubled with each one up to the maximum."""

Message = tuple[bytes, tuple[bytes, ...]]
"""Id, answer: the pump flattens the tuple."""


class Job:
    """A job that the worker holds. Whoever does the jobs calls `start` first."""

    __slots__ = ("answered", "connection", "dropped", "frames", "id", "started")

    def __init__(self, id: bytes, frames: tuple[bytes, ...], connection: int) -> None:  # noqa: A002 - the dialect's word
        self.id = id
        self.frames = frames
        self.connection = connection
        """On which of the worker's connections it came: the first is 0."""
        self.answered = False
        """Whether there is an answer; written by the handler's thread."""
        self.started = False
        self.dropped = False

    @property
    def queue(self) -> str:
        """The only one that the dialect serves."""
        return DEFAULT_QUEUE

    def names(self) -> dict[str, str | int]:
        """What it is called in the log: nobody has told."""
        return {}

    def start(self) -> bool:
        """Whether the job is to be done. False: the broker has let it again meanwhile."""
        self.started = True
        return not self.dropped


class Peer2010:
    """All asks, jobs and answers of one worker.

    Args:
        ahead: asks and jobs to keep going together, 1 to `AHEAD_MAX`.
    """

    def __init__(self, ahead: int = 1) -> None:
        if not 1 <= ahead <= AHEAD_MAX:
            raise ValueError(f"ahead must be between 1 and {AHEAD_MAX}, not {ahead}")
        self.counters = Counters()
        self.connected = False
        self.answering = False
        """Whether the connection for answers is there; the shell sets it."""
        self.pause_ns = 0
        """How long to wait before the connection is opened again after it was retired."""
        self._ahead = ahead
        self._asks = 0
        self._held: set[Job] = set()
        self._answers: collections.deque[Message] = collections.deque()
        self._connection = 0
        self._retiring = False
        self._failures_in_row = 0

    @property
    def held(self) -> int:
        """Jobs received on this connection, or in hand, that have not ended."""
        return len(self._held)

    @property
    def answers(self) -> int:
        """Answers that wait to be sent."""
        return len(self._answers)

    def became_connected(self) -> None:
        """The broker is there."""
        self.connected = True

    def lost(self) -> None:
        """The connection went."""
        self.counters.losses += 1
        self._begin_afresh()

    @property
    def retired(self) -> bool:
        """Whether a handler failed, or answers were lost, and nothing is held any more.

        Then close the connection, say `closed`, wait `pause_ns`, open a new one.
        """
        return self._retiring and not self._held

    def closed(self) -> None:
        """The retired connection was closed."""
        self._begin_afresh()

    def _begin_afresh(self) -> None:
        self.connected = False
        self._connection += 1
        self._retiring = False
        self._asks = 0
        unstarted = [job for job in self._held if not job.started]
        for job in unstarted:
            job.dropped = True
        self._held.difference_update(unstarted)
        self.counters.dropped += len(unstarted)

    def asks_due(self) -> int:
        """How many asks to send now. Then say how many were `asked`."""
        if not self.connected or not self.answering or self._retiring:
            return 0
        return self._ahead - self._asks - len(self._held)

    def asked(self, count: int) -> None:
        """So many asks went."""
        self._asks += count

    def received(self, messages: Iterable[tuple[bytes, ...]]) -> list[Job]:
        """The jobs in these messages."""
        jobs: list[Job] = []
        for message in messages:
            if len(message) < 2 or message[0]:  # no reply at all: the ask still stands
                self.counters.frames_refused += 1
            elif not message[1]:  # what cannot be answered has still spent an ask
                self.counters.frames_refused += 1
                self._asks = max(0, self._asks - 1)
            elif not self._asks:
                self.counters.jobs_refused += 1
            else:
                self._asks -= 1
                jobs.append(Job(message[1], message[2:], self._connection))
        self._held.update(jobs)
        self.counters.jobs += len(jobs)
        return jobs

    def answered(self, job: Job, answer: tuple[bytes, ...]) -> None:
        """The job was done."""
        self._held.discard(job)
        self._failures_in_row = 0
        self._answers.append((job.id, answer))
        self.counters.answered += 1

    def unanswered(self, job: Job) -> None:
        """The job was left unanswered on purpose."""
        self._held.discard(job)
        self.counters.unanswered += 1

    def failed(self, job: Job) -> None:
        """The handler raised. The connection is retired, if it is still the one on which this job came."""
        self.counters.failed += 1
        self._retire(job)

    def handed_back(self, job: Job) -> None:
        """The handler wants another worker to do it. The dialect has no word for that: it costs an attempt as well."""
        self.counters.handed_back += 1
        self._retire(job)

    def _retire(self, job: Job) -> None:
        self._retiring |= job.connection == self._connection
        self._held.discard(job)
        self.pause_ns = (
            min(PAUSE_NS << min(self._failures_in_row - 1, 16), PAUSE_NS_MAX) if self._failures_in_row else 0
        )
        self._failures_in_row += 1

    def give_up(self) -> None:
        """Nobody waits for the handlers any more: what they have is not answered."""
        self.counters.handed_back += sum(job.started for job in self._held)
        self._held.clear()

    def answers_lost(self) -> None:
        """The connection for answers went, perhaps with some under way: the other one is retired, if it stands."""
        if self.connected and not self._retiring:
            self._retiring = True
            self.pause_ns = 0

    def stopped(self) -> None:
        """Nothing is started any more, and what was started and has not ended never will."""
        self._begin_afresh()
        self._held.clear()

    def outgoing(self, messages_max: int) -> list[Message]:
        """The next answers to send, at most so many; [] while there is no connection. Then say how many were `sent`."""
        return list(islice(self._answers, messages_max)) if self.answering else []

    def sent(self, count: int) -> None:
        """The first so many of `outgoing` went."""
        for _ in range(count):
            self._answers.popleft()
