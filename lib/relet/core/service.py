"""What workers serve that serve several queues: these queues, in the order of their importance or in turns by weight.

All workers that name the same queues in the same order share one `Service`, which knows in which of them something may
wait. So a job costs the same whether its worker serves two queues or a hundred: nobody looks at those that are empty.
A queue tells its services when it was stirred - something came to wait there, or what waits may go again. One that had
nothing to give is not looked at until then, or until a worker asks anew: what waits there for a rate, say, may have
become free.

Workers whose queues have weights have rounds of their own (`Rounds`), and pass over what is empty one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relet.core.job import Job

if TYPE_CHECKING:
    from relet.core.queue import Queue


class Service:
    """Some queues, most important first, and those of them that may have something to give.

    A queue is a bit, the most important one the lowest: so to find that, and to say that one was stirred, costs the
    same however many there are.
    """

    __slots__ = ("passed", "queues", "sessions", "stirred")

    def __init__(self, queues: tuple[Queue, ...]) -> None:
        self.queues = queues
        self.sessions = 0
        """How many workers serve them."""
        self.stirred = (1 << len(queues)) - 1
        """Which of them may have something to give; a new worker looks at all. Who stirs a queue sets its bit here."""
        self.passed = 0
        """Jobs wait in these, and could not go when somebody last looked; some of them were stirred since."""
        for index, queue in enumerate(queues):
            queue.services += ((self, 1 << index),)

    @property
    def service(self) -> Service:
        """Itself; of `Rounds`, what they are of."""
        return self

    def end(self) -> None:
        """Nobody serves them any more."""
        for queue in self.queues:
            queue.services = tuple(it for it in queue.services if it[0] is not self)

    def ready(self) -> list[Queue]:
        """Where something waits, as far as is known; the most important first."""
        return self._queues(self.stirred | self.passed)

    def prefers(self, bit: int) -> bool:
        """Whether something waits in a queue that is more important than the one with this bit."""
        return any(len(queue) and not queue.paused for queue in self._queues(self.stirred & (bit - 1)))

    def _queues(self, bits: int) -> list[Queue]:
        found: list[Queue] = []
        while bits:
            bit = bits & -bits
            found.append(self.queues[bit.bit_length() - 1])
            bits ^= bit
        return found

    def take(self, now: int) -> Job | None:
        """The first job of the most important queue that has one to give; None when none of them has."""
        while stirred := self.stirred:
            bit = stirred & -stirred
            queue = self.queues[bit.bit_length() - 1]
            if queue.levels is None and not queue.paused:
                plain = queue.plain
                job = plain.take()
                if not plain.fresh and not plain.again:  # so the next one need not look
                    self.stirred = stirred ^ bit
                    if self.passed:
                        self.passed &= ~bit
            else:
                job = self._take_from(queue, bit, now)
            if job is not None:
                return job
        return None

    def take_from(self, index: int, now: int) -> Job | None:
        """The first job of this one of them; None when it has none to give."""
        bit = 1 << index
        return self._take_from(self.queues[index], bit, now) if self.stirred & bit else None

    def _take_from(self, queue: Queue, bit: int, now: int) -> Job | None:
        job = queue.take(now)
        if job is None or queue.is_bare():
            self.stirred &= ~bit
            self.passed &= ~bit
            if len(queue):
                self.passed |= bit
        return job


class Rounds:
    """The same queues for one worker that takes as many jobs of each a round as its weight says. One that has nothing
    to give loses its turn.
    """

    __slots__ = ("_left", "_turn", "_weights", "service")

    def __init__(self, service: Service, weights: tuple[int, ...]) -> None:
        self.service = service
        self._weights = weights
        self._turn = -1
        """The queue whose turn it is ..."""
        self._left = 0
        """... and how many jobs of it there may still be in this round."""

    def ready(self) -> list[Queue]:
        """Where something waits, as far as is known."""
        return self.service.ready()

    def take(self, now: int) -> Job | None:
        """The first job of the queue whose turn it is; None when none of them has one to give."""
        weights = self._weights
        for _ in weights:
            if self._left <= 0:
                self._turn = (self._turn + 1) % len(weights)
                self._left = weights[self._turn]
            job = self.service.take_from(self._turn, now)
            if job is not None:
                self._left -= 1
                return job
            self._left = 0
        return None
