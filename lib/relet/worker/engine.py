"""The library's thread of one run of a worker, and what it shares with who runs the handlers.

Handlers run where their `pool.Pool` lets them; this thread owns the sockets and never runs one, so neither a long job
nor a blocked loop keeps the connection from being looked after. Jobs cross over in batches through the pool's `give`;
what became of them comes back through a deque, with an alarm that costs a system call only while this thread sleeps.

A worker that retires asks for nothing more, and waits for what is in hand until its drain time is over, or until it is
hurried: then it gives up what is in hand, which is handed back, and tells the pool not to wait for it.

Which dialect is spoken, and over how many connections, is the affair of a `Line`: this file turns it.
"""

from __future__ import annotations

import collections
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from relet.events import Event
from relet.transport.endpoints import EndpointError
from relet.transport.link import Alarm, Context, Log, Sleeper, earliest, look_after, was_terminated
from relet.transport.threads import new_context
from relet.worker.errors import QueueUnknown
from relet.worker.job import Asides

FLUSH_NS_MAX: Final = 1_000_000_000
"""How long a worker that ends waits for its last reports to be sent, and natively to be acknowledged."""
LINGER_MS_MIN: Final = 100
"""How long what was sent last may take to leave, at least."""
TURN_MESSAGES_MAX: Final = 1_000
"""Messages received, and sent, in one turn."""
NO_BOUND: Final = 1 << 62
"""Bytes or frames of an answer, where the broker has not said what it takes."""
LOG_EVERY_NS: Final = 1_000_000_000
"""What a broker refused, or said that could not be taken, is logged at most this often, with its count."""

if hasattr(time, "CLOCK_BOOTTIME"):
    clock = functools.partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    """Nanoseconds; it goes on while the machine is suspended, so that a worker notices how long it slept."""
else:
    clock = functools.partial(time.monotonic_ns)


class Held(Protocol):
    """A job that waits for the handler, or is in its hands."""

    frames: tuple[bytes, ...]
    answered: bool
    """Whether the handler has returned an answer; written by its thread, before it begins another job."""

    @property
    def queue(self) -> str:
        """In which queue it waited."""

    def names(self) -> dict[str, str | int]:
        """What it is called in the log: as the broker calls it."""


Inbox = collections.deque[tuple[Any, Any, int]]
"""(job, what the handler made of it or said about it, when): from the handler's thread."""


class Line(Protocol):
    """The connections of one worker and the protocol on them.

    All but `start` and `connected` is for the library's thread.
    """

    url: str
    """For the log."""
    asides: Asides | None
    """Where the handler says something of a job under way; None: the dialect has no words for it."""
    inbox: Inbox
    answer_bytes_max: int
    answer_frames_max: int
    retry_ms_max: int
    """What the broker takes, as far as it has said so."""

    @property
    def connected(self) -> bool:
        """Whether the broker is there; read by any thread."""

    @property
    def idle(self) -> bool:
        """Whether the broker is there, and no job is here, nor anything that it is still to be told of one; read by any
        thread.
        """

    def start(self, job: Any, now: int) -> bool:
        """Whether the handler's thread, which calls this, may begin the job. One call at a time, in the order of their
        arrival.
        """

    def ready(self, places: int) -> None:
        """So many handlers could begin a job at once; less than the concurrency while some are not ready."""

    def open(self, context: Context, now: int) -> None:
        """Make the sockets."""

    def turn(self, now: int, *, ending: bool) -> tuple[list[Held], bool]:
        """Do all that is to be done now; returns jobs for the handler, and whether nothing is left to do.

        Args:
            now: nanoseconds of `clock`.
            ending: whether only what was reported matters any more.
        """

    def due(self, now: int) -> int | None:
        """When to turn again though nothing comes; None: never."""

    @property
    def rest_ns(self) -> int:
        """How long to wait before the next turn, whatever comes; 0: not at all."""

    def watched(self) -> list[tuple[Any, int]]:
        """What to sleep on: `Link.watched` of all links."""

    def retire(self) -> None:
        """The worker is to end: ask for nothing any more. May be called again."""

    def take(self) -> None:
        """Take all that has gathered in the inbox."""

    def give_up(self) -> None:
        """Nobody waits for the handlers any more: what they have goes back, as far as the dialect can say so."""

    @property
    def flushed(self) -> bool:
        """Whether all that was reported has left, as safely as the dialect can know."""

    def close(self, linger_ms: int) -> None:
        """Close the sockets; what was sent may leave within this time."""

    def stopped(self) -> None:
        """Nothing is started or sent any more."""


class Engine:
    """The thread that turns a line.

    Args:
        line: not opened yet.
        context: where the sockets are made; None: one of the thread's own.
        alarm: what this thread sleeps on; who puts something into the line's inbox rings it.
        give: gets lists of jobs, and None at the end.
        give_up: called where the handlers are waited for no longer.
        drain_ns: how long a worker that retires waits for them; None: until they have done.
    """

    def __init__(
        self,
        line: Line,
        context: Context | None,
        alarm: Alarm,
        give: Callable[[list[Held] | None], None],
        give_up: Callable[[], None],
        drain_ns: int | None = None,
    ) -> None:
        self.error: Exception | None = None
        self.alarm = alarm
        self.line = line
        self._context = context
        self._give = give
        self._give_up = give_up
        self._drain_ns = drain_ns
        self._retiring = False
        self._hurried = False
        self._retired = False
        self._given_up = False
        self._drained_at: int | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="relet-worker", daemon=True)
        if line.asides is not None:
            line.asides.wake = self.alarm.ring
        look_after(self)
        self._thread.start()

    # --- Called by other threads.

    def retire(self, *, hurry: bool = False) -> None:
        """Ask for nothing any more, while the handlers finish what they have; in a hurry that is given up.

        Signal handlers may call it.
        """
        self._hurried |= hurry
        self._retiring = True
        self.alarm.ring()

    def stop(self) -> None:
        """Give up what is still in hand, send the last reports, within bounds, and end the thread."""
        self._stopping = True
        self.alarm.ring()
        self._thread.join(3 * FLUSH_NS_MAX / 1e9)

    def at_exit(self) -> None:
        """The interpreter ends while `run` is still on in a daemon thread."""
        self.stop()

    def after_fork(self) -> None:
        """`run` goes on in the parent; the child has none of it."""
        self.alarm.asleep = False

    # --- The thread.

    def _run(self) -> None:
        context, line = self._context or new_context(), self.line
        linger_ms = 0
        try:
            try:
                line.open(context, clock())
                self._turns()
                linger_ms = self._flush()
            finally:
                line.close(linger_ms)
        except EndpointError as error:  # told to who called `run`
            self.error = error
            Log().say(logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=line.url, text=str(error))
        except QueueUnknown as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - likewise
            if not was_terminated(error, context):
                self.error = error
                Log().say(logging.ERROR, Event.LIBRARY_FAILED, exc_info=True, endpoint=line.url)
        line.stopped()
        if line.asides is not None:
            line.asides.end()
        self._give(None)
        if self._context is None:
            context.term()  # waits for the last reports, as long as they may linger

    def _turns(self) -> None:
        """Turn until told to stop."""
        line, sleeper = self.line, Sleeper(self.alarm)
        while not self._stopping:
            now = clock()
            if self._retiring and not self._given_up:
                self._retire(now)
            if self._turn(now, ending=False):
                rest_ns = line.rest_ns
                if rest_ns and not self._retiring:
                    time.sleep(rest_ns / 1e9)  # nobody rings meanwhile, either
                    continue
                due = line.due(now) if self._given_up else earliest((line.due(now), self._drained_at))
                sleeper.sleep(due, now, line.watched(), self._idle)

    def _retire(self, now: int) -> None:
        line = self.line
        if not self._retired:
            self._retired = True
            line.retire()
            if self._drain_ns is not None:
                self._drained_at = now + self._drain_ns
        if self._hurried or (self._drained_at is not None and now >= self._drained_at):
            self._given_up = True
            line.give_up()
            self._give_up()

    def _turn(self, now: int, *, ending: bool) -> bool:
        """An idle worker holds none of the jobs that it has handed on."""
        jobs, rests = self.line.turn(now, ending=ending)
        if jobs:
            self._give(jobs)
        return rests

    def _idle(self) -> bool:
        told = (self._retiring and not self._retired) or (self._hurried and not self._given_up)
        return not (self.line.inbox or self._stopping or told)

    def _flush(self) -> int:
        """Hand the last reports to ZeroMQ; returns how long they may linger there, in milliseconds."""
        line, sleeper = self.line, Sleeper(Alarm())
        line.retire()
        line.take()
        line.give_up()
        end = clock() + FLUSH_NS_MAX
        while True:
            now = clock()
            rests = self._turn(now, ending=True)
            if line.flushed or now >= end:
                return max(LINGER_MS_MIN, (end - now) // 1_000_000)
            if rests:
                sleeper.sleep(earliest((end, line.due(now))), now, line.watched(), lambda: True)
