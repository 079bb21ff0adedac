"""Where handlers are called: in the thread that called `run`, in threads, in a loop, in processes.

A pool has a number of places, each of which does one job at a time. The library's thread gives it jobs in batches; a
place takes the next one, *begins* it, does it, and says what became of it. Jobs are begun in the order in which they
came and one after the other, whatever the pool: `NativePeer` counts on it. All that a pool needs to know of its worker
is a `Shift`.

What a handler raises that is no `Exception` ends the pool's work and goes on to who called `run`; whatever else is in
hand then is handed back, as it is when a worker's drain time is over. Threads cannot be interrupted: they are left
behind, and what they say later counts no more.
"""

from __future__ import annotations

import atexit
import collections
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

from relet.events import Event
from relet.log import Publisher
from relet.transport.link import Alarm, Log
from relet.worker.engine import Held, Line, clock
from relet.worker.handlers import Calls, frames_of, outcome_of
from relet.worker.job import Hand, leave_hand, take_hand
from relet.worker.outcome import FailJob, Failure, Outcome, Silence, shown

Batch = list[Held] | None
"""Jobs in the order in which they came; None: there will be no more."""
_GIVEN_UP: Final = object()


class Pool(Protocol):
    """What calls the handlers of one run."""

    def open(self) -> None:
        """Be ready to work. Raises what keeps it from that."""

    def give(self, jobs: Batch) -> None:
        """Take jobs, in any thread; and in signal handlers None."""

    def give_up(self) -> None:
        """What is in hand was handed back: end it where that can be done, and do not wait for it. For any thread."""

    def work(self) -> None:
        """Do jobs until None was given, and what was begun has ended or was given up.

        Raises what a handler raised that is no `Exception`.
        """

    def close(self) -> None:
        """What is still in hand now goes nowhere: `work` was left, by an error or by itself."""


class Shift:
    """One run of a worker, as its pool sees it.

    Args:
        line: where the jobs come from.
        calls: what is called for them.
        answer_bytes_max: bytes of one answer.
    """

    def __init__(self, line: Line, calls: Calls, answer_bytes_max: int) -> None:
        self.line = line
        self.alarm = Alarm()
        self.calls = calls
        self.stopping = False
        """Whether no job is begun any more."""
        self._only = calls.only
        self._answer_bytes_max = answer_bytes_max
        self._publisher = Publisher(Log(), time.monotonic_ns)
        self._publishing = threading.Lock()

    def say(self, job: Held, outcome: Any, now: int) -> None:
        """What became of a job, or what its handler says of it."""
        self.line.inbox.append((job, outcome, now))
        if self.alarm.asleep:
            self.alarm.ring()

    def do(self, job: Held) -> Outcome:
        """Call the handler; nothing that it raises as an `Exception` goes further."""
        try:
            call = self._only or self.calls.of(job.queue)
            return self.answered(job, call(job.frames))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its own affair
            return self.raised(job, error)

    async def do_awaited(self, job: Held) -> Outcome:
        """The same where handlers are coroutines."""
        try:
            call = self._only or self.calls.of(job.queue)
            return self.answered(job, await call(job.frames))
        except Exception as error:  # noqa: BLE001 - as above
            return self.raised(job, error)

    def answered(self, job: Held, answer: Any) -> Outcome:
        """What a handler has returned, checked. Raises what is wrong with it."""
        frames: tuple[bytes, ...]
        if type(answer) is tuple and len(answer) == 1 and type(answer[0]) is bytes:  # nearly always
            frames, size = answer, len(answer[0])
        else:
            frames = frames_of(answer)
            size = sum(map(len, frames))
        line = self.line
        if size > self._answer_bytes_max:
            raise ValueError(f"an answer of {size:,} bytes is above answer_bytes_max ({self._answer_bytes_max:,})")
        if size > line.answer_bytes_max or len(frames) > line.answer_frames_max:
            raise ValueError(
                f"an answer of {size:,} bytes in {len(frames):,} frames: the broker takes {line.answer_bytes_max:,}"
                f" in {line.answer_frames_max:,}; send less, or raise its limits"
            )
        job.answered = True
        return frames

    def raised(self, job: Held, error: BaseException) -> Outcome:
        """What a handler has raised, which is being handled."""
        outcome = outcome_of(error)
        if not isinstance(outcome, Failure):
            return outcome
        meant = isinstance(error, FailJob)  # and told to the client
        return self.failed(job, outcome, None if meant else {"exc_info": True, "error": shown(error)})

    def failed(self, job: Held, failure: Failure, fields: dict[str, Any] | None) -> Failure:
        """An attempt failed; with `fields` the log is told."""
        if fields is not None:
            self.publish(Event.HANDLER_FAILED, {**fields, **job.names()})
        asked_ms, given_ms = failure.retry_ms, self.line.retry_ms_max
        if asked_ms is not None and asked_ms > given_ms:  # it will be cut; whoever asked for it should know
            self.publish(Event.RETRY_SHORTENED, {"asked_s": asked_ms / 1_000, "given_s": given_ms / 1_000})
        return failure

    def publish(self, event: Event, fields: dict[str, Any]) -> None:
        """A line for the log, at a bounded rate."""
        with self._publishing:
            self._publisher((event, fields))

    def ended(self) -> None:
        """Say what was held back."""
        with self._publishing:
            self._publisher.flush(all_of_it=True)


class InlinePool:
    """One place: the thread that called `run`."""

    def __init__(self, shift: Shift) -> None:
        self._shift = shift
        self._jobs: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self.give = self._jobs.put

    def open(self) -> None:
        """The thread is there."""

    def give_up(self) -> None:
        """A function that runs in the caller's own thread cannot be left behind."""

    def close(self) -> None:
        """Nothing is in hand."""

    def work(self) -> None:
        """See `Pool`. This thread does nothing but take jobs, begin them, do them, and say what became of them."""
        hand = Hand(self._shift.line.asides)
        before = take_hand(hand)
        try:
            while self._do(hand, self._jobs.get()):
                pass  # no local holds on to the last batch while this thread waits for the next one
        finally:
            leave_hand(before)

    def _do(self, hand: Hand, batch: Batch) -> bool:
        """Do these jobs; whether to go on."""
        if batch is None:  # `stop` says so, or the library's thread has ended
            return False
        shift = self._shift
        put, start, do, alarm = shift.line.inbox.append, shift.line.start, shift.do, shift.alarm
        now = clock()
        for job in batch:
            if shift.stopping:
                return False
            if start(job, now):
                hand.job = job
                outcome = do(job)
                now = clock()
                put((job, outcome, now))
                hand.job = None
            else:
                put((job, Silence.UNSTARTED, now))
            if alarm.asleep:
                alarm.ring()
        return True


class Place(Protocol):
    """Where one job at a time is done, in a thread of a `ThreadPool`."""

    @property
    def ready(self) -> bool:
        """Whether a job can be done; else `open` it first."""

    def open(self) -> None:
        """Be ready. Raises what keeps it from that."""

    def do(self, job: Held) -> Outcome:
        """Do a job that was begun. What it raises ends the pool's work."""

    def give_up(self) -> None:
        """End what is in hand, where that can be done. For any thread."""

    def close(self) -> None:
        """No more jobs will come."""


class ThreadPlace:
    """Handlers are called in the thread itself."""

    def __init__(self, shift: Shift) -> None:
        self._do = shift.do
        self._hand = Hand(shift.line.asides)
        self.ready = False

    def open(self) -> None:
        """This is the thread."""
        self.ready = True
        take_hand(self._hand)

    def do(self, job: Held) -> Outcome:
        """Call its handler."""
        self._hand.job = job
        try:
            return self._do(job)
        finally:
            self._hand.job = None

    def give_up(self) -> None:
        """A thread cannot be ended: it is left behind."""

    def close(self) -> None:
        """The thread ends by itself."""


class ThreadPool:
    """A place in each of several threads.

    The threads take turns at taking jobs: the one whose turn it is waits for the next, begins it, and lets another
    wait while it does it.

    Args:
        shift: whose jobs they do.
        places: one for each thread.
    """

    def __init__(self, shift: Shift, places: Sequence[Place]) -> None:
        self._shift = shift
        self._places = places
        self._jobs: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self.give = self._jobs.put
        self._opened: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._left: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._batch: collections.deque[Held] = collections.deque()
        self._counting = threading.Lock()
        self._ready = 0

    def open(self) -> None:
        """Start the threads. They are daemons: one that hangs must not keep the program from ending."""
        atexit.register(self.close)
        for number, place in enumerate(self._places):
            name = f"relet-handler-{number}"
            threading.Thread(target=self._run, args=(place,), name=name, daemon=True).start()
        for _ in self._places:
            error = self._opened.get()
            if error is not None:
                raise error

    def give_up(self) -> None:
        """See `Pool`. Threads are left behind."""
        self._left.put(_GIVEN_UP)
        for place in self._places:
            place.give_up()

    def close(self) -> None:
        """Whoever is still in a job begins no other."""
        atexit.unregister(self.close)
        self.give(None)
        for place in self._places:
            place.give_up()

    def work(self) -> None:
        """See `Pool`. Waits for the threads, in a way that lets signals be handled."""
        for _ in self._places:
            left = self._left.get()
            if left is _GIVEN_UP:
                return
            if isinstance(left, BaseException):
                raise left

    def _run(self, place: Place) -> None:
        """A thread, from its first job to its last."""
        left: object = None
        try:
            self._open(place)
            self._opened.put(None)
            while self._do_next(place):
                pass  # no local holds on to the last job while this thread waits for the next one
            place.close()
        except BaseException as error:  # noqa: BLE001 - it is raised where `run` was called
            left = error
            self._opened.put(error)
        self._left.put(left)

    def _open(self, place: Place) -> None:
        place.open()
        self._count_ready(place.ready)

    def _count_ready(self, more: int) -> None:
        with self._counting:
            self._ready += more
            self._shift.line.ready(self._ready)

    def _do_next(self, place: Place) -> bool:
        """Do the next job; whether there was one."""
        if not place.ready:
            if self._shift.stopping:
                return False
            self._open(place)
        job = self._next()
        if job is None:
            return False
        outcome = place.do(job)
        if not place.ready:
            self._count_ready(-1)
        self._shift.say(job, outcome, clock())
        return True

    def _next(self) -> Held | None:
        """The next job, begun; None: there is none any more."""
        shift, batch = self._shift, self._batch
        with self._turn:
            while True:
                while not batch:
                    given = self._jobs.get()
                    if given is None:
                        self.give(None)  # for the others
                        return None
                    batch.extend(given)
                if shift.stopping:
                    return None
                job, now = batch.popleft(), clock()
                if shift.line.start(job, now):
                    return job
                shift.say(job, Silence.UNSTARTED, now)
                del job
