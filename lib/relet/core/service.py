"""What workers serve that serve several queues: these queues, in the order of their importance or in turns by weight.

All workers that name the same queues in the same order share one `Service`, which knows in which of them something may
wait. So a job costs the same whether its worker serves two queues or a hundred: nobody looks at those that are empty.
A queue tells its services when it was stirred - something came to wait there, or what waits may go again. One that had
nothing to give is not looked at until then, or until a worker asks anew: what waits there for a rate, say, may have
become free.

Workers whose queues have weights have rounds of their own (`Rounds`), and pass over what is empty one by one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

from relet.core.job import Job

if TYPE_CHECKING:
    from relet.core.queue import Queue


class Service:
    """Some queues, most important first, and those of them that may have something to give."""

    __slots__ = ("_passed", "_ready", "_stirred", "queues", "sessions")

    def __init__(self, queues: tuple[Queue, ...]) -> None:
        self.queues = queues
        self.sessions = 0
        """How many workers serve them."""
        self._stirred = set(range(len(queues)))
        """Which of them may have something to give; a new worker looks at all."""
        self._ready = sorted(self._stirred)
        """A heap of these, and of some that were found to have nothing since."""
        self._passed: set[int] = set()
        """Jobs wait in these, and could not go when somebody last looked."""
        for index, queue in enumerate(queues):
            queue.services.append((self, index))

    @property
    def service(self) -> Service:
        """Itself; of `Rounds`, what they are of."""
        return self

    def end(self) -> None:
        """Nobody serves them any more."""
        for index, queue in enumerate(self.queues):
            queue.services.remove((self, index))

    def stir(self, index: int) -> None:
        """This one of them may have something to give."""
        if index not in self._stirred:
            self._passed.discard(index)
            self._stirred.add(index)
            if len(self._ready) > 2 * len(self.queues):  # workers with weights take nothing out of it
                self._ready = sorted(self._stirred)
            else:
                heapq.heappush(self._ready, index)

    def ready(self) -> Iterator[Queue]:
        """Where something waits, as far as is known; in no order that matters."""
        return (self.queues[index] for index in (*self._stirred, *self._passed))

    def prefers(self, index: int) -> bool:
        """Whether something waits in a queue that is more important than this one."""
        return any(each < index and len(self.queues[each]) and not self.queues[each].paused for each in self._stirred)

    def take(self, now: int) -> Job | None:
        """The first job of the most important queue that has one to give; None when none of them has."""
        ready, stirred = self._ready, self._stirred
        while ready:
            index = ready[0]
            if index in stirred:
                job = self.take_from(index, now)
                if job is not None:
                    return job
            heapq.heappop(ready)
        return None

    def take_from(self, index: int, now: int) -> Job | None:
        """The first job of this one of them; None when it has none to give."""
        if index not in self._stirred:
            return None
        queue = self.queues[index]
        if queue.levels is None and not queue.paused:
            plain = queue.plain
            job = plain.take()
            if not plain.fresh and not plain.again:  # so the next one need not look
                self._stirred.remove(index)
            return job
        job = queue.take(now)
        if job is None:
            self._stirred.remove(index)
            if len(queue):
                self._passed.add(index)
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

    def ready(self) -> Iterator[Queue]:
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
