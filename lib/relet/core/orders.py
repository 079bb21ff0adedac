"""Jobs that must go one after the other: of an order key at most one is on its way, and when that has ended the next.

Each job has a place in its key: the number of its acceptance, or, where it was made of a dead letter that blocked the
key, the place of that. Of the open jobs the one with the lowest place goes where all jobs go; those behind it are
BLOCKED. When it ends, however it does, the next takes its place by age in the queue. One that was discarded may block
its key instead, if that was agreed: then nothing behind it goes on until its dead letter is redriven - what was made of
it has its place, then - or is kept no more. What is before it goes on: it was accepted first.

So who is on its way follows from what is open and what blocks, and not from the order in which that came about. Only a
job that was with a worker stays on its way, whatever is found beside it when a broker begins.

An order is there as long as one of its jobs is open, or its key is blocked.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator
from heapq import heappop, heappush

from relet.core.job import BLOCKED, Job
from relet.core.limits import STALE_WORTH_REBUILDING


def order_of(job: Job) -> str:
    """The order key of a job; "" where it has none."""
    return "" if job.rules is None else job.rules.order


def place_of(job: Job) -> int:
    """The place of a job in its order key."""
    return job.number if job.rules is None else job.rules.place or job.number


class Line:
    """Jobs by their places. Any of them may leave at once; its entry in the heap goes when it comes up."""

    __slots__ = ("_heap", "_jobs")

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __contains__(self, job: Job) -> bool:
        return job.number in self._jobs

    def put(self, job: Job) -> None:
        """One more."""
        self._jobs[job.number] = job
        heappush(self._heap, (place_of(job), job.number))

    def drop(self, job: Job) -> bool:
        """It leaves; False: it was not there."""
        if self._jobs.pop(job.number, None) is None:
            return False
        if len(self._heap) > 2 * len(self._jobs) + STALE_WORTH_REBUILDING:
            self._heap = sorted((place_of(it), it.number) for it in self._jobs.values())
        return True

    def first(self) -> Job | None:
        """The one with the lowest place."""
        heap = self._heap
        while heap:
            job = self._jobs.get(heap[0][1])
            if job is not None:
                return job
            heappop(heap)
        return None

    def has_before(self, job: Job) -> bool:
        """Whether one of them has a lower place than this job."""
        first = self.first()
        return first is not None and place_of(first) < place_of(job)


class Order:
    """The jobs of one order key in one queue."""

    __slots__ = ("blockers", "first", "waiting")

    def __init__(self) -> None:
        self.first: Job | None = None
        """The one that is on its way: available, delayed, or with a worker."""
        self.blockers = Line()
        """The dead letters that block the key; and jobs that were made of such, until their acceptance is safe."""
        self.waiting = Line()
        """The blocked ones."""

    def enter(self, job: Job) -> bool:
        """A job is there. True: it is the first; False: it waits. Saying so twice changes nothing."""
        self.blockers.drop(job)
        if self.first is job:
            return True
        if self.first is None and (job.token or not (self.waiting.has_before(job) or self.blockers.has_before(job))):
            self.first = job
            return True
        if job not in self.waiting:
            self.waiting.put(job)
        return False

    def blockers_of(self, job: Job) -> list[Job]:
        """What blocks this job, the first one first."""
        place = place_of(job)
        return sorted((it for it in self.blockers if place_of(it) < place), key=place_of)

    def next(self) -> Job | None:
        """The job that is the first now and was not."""
        job = None if self.first is not None else self.waiting.first()
        if job is None or self.blockers.has_before(job):
            return None
        self.waiting.drop(job)
        self.first = job
        return job


class Orders:
    """The order keys of one queue."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[str, Order] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Order]:
        return iter(self._by_key.values())

    def items(self) -> ItemsView[str, Order]:
        """The orders by their keys."""
        return self._by_key.items()

    def get(self, job: Job) -> Order | None:
        """The order of the key of this job, if it is there."""
        return self._by_key.get(order_of(job))

    def __contains__(self, job: Job) -> bool:
        """Whether the job is the first of its key, or waits for it."""
        order = self.get(job)
        return order is not None and (order.first is job or job in order.waiting)

    def knows(self, job: Job) -> bool:
        """Whether the job is open in its key, or blocks it."""
        order = self.get(job)
        return order is not None and (order.first is job or job in order.waiting or job in order.blockers)

    def enter(self, job: Job) -> bool:
        """A job was accepted, and that is safe. True: it is the first of its key; False: it is blocked."""
        order = self._by_key.get(order_of(job))
        if order is None:
            order = self._by_key[order_of(job)] = Order()
        return order.enter(job)

    def is_first(self, job: Job) -> bool:
        """Whether no other job of its key goes before it, and none blocks it."""
        order = self.get(job)
        return order is not None and order.first is job

    def block(self, letter: Job) -> None:
        """This dead letter blocks its key."""
        self._by_key.setdefault(order_of(letter), Order()).blockers.put(letter)

    def place_kept(self, letter: Job) -> int:
        """The place that this dead letter keeps for what is made of it, because it blocks its key; 0: it does not."""
        order = self.get(letter)
        return place_of(letter) if order is not None and letter in order.blockers else 0

    def handed_on(self, letter: Job, job: Job) -> None:
        """Of a dead letter that blocks its key this job was made: it blocks in its stead until it enters."""
        order = self.get(letter)
        if order is not None and order.blockers.drop(letter):
            order.blockers.put(job)

    def lift(self, letter: Job) -> Job | None:
        """This dead letter is kept no more, or what was made of it will not enter: what is behind it is free. Returns
        the job that is the first now, if another is.
        """
        order = self.get(letter)
        if order is None or not order.blockers.drop(letter):
            return None
        return self._next(order_of(letter), order)

    def ended(self, job: Job, *, blocks: bool) -> Job | None:
        """A job has ended, and blocks its key or does not. Returns the job that is the first now, if another is."""
        key = order_of(job)
        order = self._by_key[key]
        if order.first is job:
            order.first = None
        else:
            order.waiting.drop(job)
        if blocks:
            order.blockers.put(job)
        return self._next(key, order)

    def _next(self, key: str, order: Order) -> Job | None:
        """The job that is the first of this key now and was not; an order without jobs is gone."""
        job = order.next()
        if order.first is None and not order.waiting and not order.blockers:
            del self._by_key[key]
        return job

    def blocked(self) -> Iterator[Job]:
        """Those that wait for others, or have not gone on yet."""
        for order in self._by_key.values():
            if order.first is not None and order.first.state == BLOCKED:
                yield order.first
            yield from order.waiting
