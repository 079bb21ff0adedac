"""The worker for programs with threads: it runs the handler, and leaves the broker to `engine.Engine`.

The handler runs in the thread that called `run`. That thread does nothing but take jobs out of a queue, begin them,
call the handler, and put what became of them into an inbox.
"""

from __future__ import annotations

import difflib
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import zmq

from relet._version import AGENT
from relet.events import Event
from relet.log import Publisher
from relet.messages import DEFAULT_QUEUE, INCARNATION_BYTES, QUEUE_CHARACTERS_MAX, WEIGHT_MAX
from relet.transport.endpoints import Endpoint, check_distinct, check_text, parse_connect
from relet.transport.link import BODY_BYTES_MAX, DIALECT_2010, DIALECT_DEFAULT, DIALECT_NATIVE, Log
from relet.worker.engine import Engine, Held, Line, clock
from relet.worker.job import Hand, as_bytes, take_hand
from relet.worker.line2010 import Line2010
from relet.worker.line_native import NativeLine
from relet.worker.outcome import Counters, FailJob, Failure, HandBack, NoAnswer, Outcome, Silence, failure_of, shown
from relet.worker.peer2010 import Peer2010
from relet.worker.peer_native import NativePeer

QUEUES_MAX: Final = 100
"""Queues that one worker serves."""


class Worker:
    """Asks a broker for jobs and does them, one at a time.

    Either pass a function, or derive a class with `process(data) -> bytes`, or with `process_multipart(frames)` where
    jobs or answers are several frames.

    In the handler, `current_job()` tells more of the job, and takes progress, pieces of the result and extensions of
    its time. What a handler raises is an outcome too:

    - `FailJob`: this attempt has failed, and how, and when or whether to try again.
    - `HandBack`: another worker shall do it. In the dialect of 2010, which has no word for it, like a failure.
    - `NoAnswer`: nothing is said. The job stays this worker's until its time is up; the worker goes on.
    - any other exception: the attempt has failed with the exception's type and text. This is logged
      (`handler_failed`) with the traceback, at most five times a second; the rest are counted (`held_back`). The
      dialect of 2010 cannot say it: there the worker finishes and answers the other jobs that it holds and reconnects,
      so that the broker lets the job again at once, as a counted attempt.
    - what is no `Exception`, such as KeyboardInterrupt or SystemExit: it ends `run` and goes on to its caller. The job
      in hand is handed back, because who ends a program says nothing of the job; one that ends every program that
      touches it is given up by the broker's bound on hand-overs.

    Args:
        workers: the broker's endpoint for workers, for example `tcp://localhost:4162`.
        answers: the broker's endpoint for answers, for example `tcp://localhost:4163`. The native dialect does without:
            it may be None there, and is not connected to.
        handler: what to do with a job's body; returns the answer.
        dialect: "native", or "2010" for a broker that speaks no other.
        queues: names of the queues to serve, the most important first: 1 to 100 of 1 to 200 characters. With weights
            from 1 to 1,000, as {"mail": 3, "reports": 1}, they take turns instead: so many jobs of each a round, as far
            as it has any. The dialect of 2010 serves "default" only.
        ahead: jobs to have asked for or hold at a time, 1 to 1,000. With 1 the worker is idle while its answer goes out
            and the next job comes in. More hide that time; a job that lies here could meanwhile be done elsewhere, and
            in the dialect of 2010 it is an attempt lost when the worker dies. None: 1 in the dialect of 2010, natively
            about 15 ms worth of jobs, learnt from those that have ended, and 1 where they take a second.
        context: where the sockets are made; needed for `inproc://`. None: one of the worker's own. With a context of
            yours, its end waits up to a second for the last answer to leave.
        answer_bytes_max: bytes of one answer, at least 1. A handler that returns more has failed: the broker's limit,
            of the same default, would refuse the answer, and a far larger one would cost the connection.

    Raises:
        EndpointError: an endpoint cannot be meant, or both are the same.
        ValueError: `dialect`, `queues`, `ahead` or `answer_bytes_max` is none of those above; `answers` is missing in
            the dialect of 2010.
        TypeError: there is nothing to do a job with.
    """

    def __init__(
        self,
        workers: str,
        answers: str | None = None,
        handler: Callable[[bytes], bytes] | None = None,
        *,
        dialect: str = DIALECT_DEFAULT,
        queues: Sequence[str] | Mapping[str, int] = (DEFAULT_QUEUE,),
        ahead: int | None = None,
        context: zmq.Context[Any] | None = None,
        answer_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        if handler is not None and not callable(handler):
            raise TypeError(f"a handler is a function of bytes, not {type(handler).__name__}")
        if type(answer_bytes_max) is not int or answer_bytes_max < 1:
            raise ValueError(f"answer_bytes_max is a number of bytes, at least 1, not {answer_bytes_max!r}")
        self._answer_bytes_max = answer_bytes_max
        endpoints = _endpoints_of(workers, answers)
        if context is None and any(endpoint.scheme == "inproc" for endpoint in endpoints):
            raise ValueError("inproc:// needs the context of the broker: Worker(..., context=...)")
        kind = type(self)
        overridden = kind.process is not Worker.process or kind.process_multipart is not Worker.process_multipart
        if handler is None and not overridden:
            raise TypeError("pass a handler, or derive a class with process(data) or process_multipart(frames)")
        self._handler = handler
        self._context = context
        self._counters = Counters()
        self._make_line = self._line_maker(dialect, endpoints, _queues_of(queues), _weights_of(queues), ahead)
        self._line: Line = self._make_line()
        self._publish = Publisher(Log(), time.monotonic_ns)
        self._engine: Engine | None = None
        self._jobs: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._stopping = False
        self._running = False

    def _line_maker(
        self,
        dialect: str,
        endpoints: list[Endpoint],
        queues: tuple[str, ...],
        weights: tuple[int, ...],
        ahead: int | None,
    ) -> Callable[[], Line]:
        """What makes the line of a run. Of the dialect of 2010 it is the same one, which may still owe answers."""
        if dialect == DIALECT_NATIVE:
            native = (endpoints[0], queues, weights, ahead)
            _native_line(*native, self._counters, self._answer_bytes_max)  # whatever is wrong is said now
            return lambda: _native_line(*native, self._counters, self._answer_bytes_max)
        if dialect != DIALECT_2010:
            raise ValueError(_no_dialect(dialect))
        if len(endpoints) < 2:
            raise ValueError("the dialect of 2010 answers at an endpoint of its own: Worker(workers, answers, ...)")
        if queues != (DEFAULT_QUEUE,):
            raise ValueError("the dialect of 2010 serves the default queue only: use dialect='native'")
        peer = Peer2010(1 if ahead is None else ahead)
        peer.counters = self._counters
        line = Line2010(peer, endpoints[0], endpoints[1])
        return lambda: line

    @property
    def counters(self) -> Counters:
        """What has happened so far; do not write to it."""
        return self._counters

    @property
    def connected(self) -> bool:
        """Whether the broker is there now: natively, whether it has welcomed this worker."""
        return self._line.connected

    def process(self, data: bytes) -> bytes:
        """Do one job whose body is one frame; override it. The default calls the handler."""
        handler: Any = self._handler
        return handler(data)  # type: ignore[no-any-return]  # checked by `_frames`

    def process_multipart(self, frames: list[bytes]) -> Sequence[bytes]:
        """Do one job; override it where jobs or answers are several frames. The default calls `process`."""
        if len(frames) != 1:
            raise ValueError(f"a job of {len(frames)} frames: override process_multipart")
        return (self.process(frames[0]),)

    def run(self) -> None:
        """Work until `stop`, in this thread.

        Ends also with what a handler raises that is no `Exception`, such as KeyboardInterrupt or SystemExit: the job in
        hand is handed back (in the dialect of 2010 it stays unanswered), answers are flushed, connections are closed,
        and the exception goes on to the caller.

        Raises:
            RuntimeError: it is running already.
            EndpointError: the broker says that this is its endpoint for clients.
            QueueUnknown: the broker has settings for some queues, lets no others be used, and one of `queues` is none
                of those. Only until the first welcome: who was taken once goes on to try, and logs it
                (`request_refused`), because settings that were changed may be changed back.
        """
        if self._running:
            raise RuntimeError("this worker is running already; make one for each thread")
        self._jobs = queue.SimpleQueue()  # what an earlier run left is stale
        if self._stopping:
            return
        self._running = True
        self._line = line = self._make_line()
        self._publish = Publisher(Log(), time.monotonic_ns)
        self._engine = engine = Engine(line, self._context, self._jobs)
        hand = Hand(line.asides)
        before = take_hand(hand)
        try:
            self._work(engine, hand)
        finally:
            take_hand(before)
            if hand.job is not None:
                line.inbox.append((hand.job, Silence.HANDED_BACK, clock()))
            engine.stop()
            self._engine = None
            self._running = False
            self._publish.flush(all_of_it=True)
        if engine.error is not None:
            raise engine.error

    def stop(self) -> None:
        """End `run`: the job in hand is finished and answered, jobs that wait behind it are not started.

        Natively they are handed back at once. May be called by any thread and by a signal handler. A worker that was
        stopped stays stopped.
        """
        self._stopping = True
        engine = self._engine
        if engine is not None:
            engine.retire()
        self._jobs.put(None)

    def _work(self, engine: Engine, hand: Hand) -> None:
        while self._do(engine, hand, self._jobs.get()):
            pass  # no local holds on to the last batch while this thread waits for the next one

    def _do(self, engine: Engine, hand: Hand, batch: list[Any] | None) -> bool:
        """Do these jobs; whether to go on."""
        if batch is None:  # `stop` says so, or the library's thread has ended
            return False
        put, start, alarm = engine.line.inbox.append, engine.line.start, engine.alarm
        now = clock()
        for job in batch:
            if self._stopping:
                return False
            hand.job = job
            if start(job, now):
                outcome = self._done(job)
                now = clock()
                put((job, outcome, now))
            else:
                put((job, Silence.UNSTARTED, now))
            hand.job = None
            if alarm.asleep:
                alarm.ring()
        return True

    def _done(self, job: Held) -> Outcome:
        """Run the handler; nothing that it raises as an `Exception` goes further."""
        try:
            frames = _frames(self.process_multipart(list(job.frames)))
            size = len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
            if size > self._answer_bytes_max:
                raise ValueError(f"an answer of {size:,} bytes is above answer_bytes_max ({self._answer_bytes_max:,})")
            line = self._line
            if size > line.answer_bytes_max or len(frames) > line.answer_frames_max:
                raise ValueError(
                    f"an answer of {size:,} bytes in {len(frames):,} frames: the broker takes {line.answer_bytes_max:,}"
                    f" in {line.answer_frames_max:,}; send less, or raise its limits"
                )
        except NoAnswer:
            return Silence.UNANSWERED
        except HandBack:
            return Silence.HANDED_BACK
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its own affair
            failure = failure_of(error)
            if not isinstance(error, FailJob):  # which is meant, and told to the client
                fields = {"exc_info": True, "error": shown(error), **job.names()}
                self._publish((Event.HANDLER_FAILED, fields))
            self._warn_of_cut(failure)
            return failure
        job.answered = True
        return frames

    def _warn_of_cut(self, failure: Failure) -> None:
        """The broker cuts a pause that is too long for it; whoever asked for it should know."""
        asked_ms, given_ms = failure.retry_ms, self._line.retry_ms_max
        if asked_ms is not None and asked_ms > given_ms:
            self._publish((Event.RETRY_SHORTENED, {"asked_s": asked_ms / 1_000, "given_s": given_ms / 1_000}))


def _frames(answer: Any) -> tuple[bytes, ...]:
    """The frames of an answer as bytes, checked here where the handler can still be blamed."""
    if type(answer) is tuple and len(answer) == 1 and type(answer[0]) is bytes:  # nearly always
        return answer
    if isinstance(answer, bytes | bytearray | memoryview | str):
        raise TypeError("process_multipart returns a sequence of frames, not one frame")
    frames = as_bytes(tuple(answer))
    if not frames:
        raise ValueError("an answer has at least one frame")
    return frames


def _endpoints_of(workers: str, answers: str | None) -> list[Endpoint]:
    """Both endpoints, or the first one where there is no second."""
    for name, text in (("workers", workers), ("answers", answers)):
        if text is not None or name == "workers":
            if callable(text):
                raise TypeError(
                    f"{name} is an endpoint, not a function: pass that by name, as in Worker(workers, handler=...)"
                )
            check_text(name, text)
    if answers is None:
        return [parse_connect(workers)]
    endpoints = {"workers": parse_connect(workers), "answers": parse_connect(answers)}
    check_distinct(endpoints)
    return list(endpoints.values())


def _queues_of(queues: Sequence[str] | Mapping[str, int]) -> tuple[str, ...]:
    """Names of queues, checked."""
    if isinstance(queues, str):
        raise TypeError(f"queues are several names: queues=({queues!r},)")
    names = tuple(queues)
    if not 1 <= len(names) <= QUEUES_MAX or len(set(names)) != len(names):
        raise ValueError(f"a worker serves 1 to {QUEUES_MAX} queues, each named once, not {len(names)}")
    for name in names:
        if type(name) is not str or not 1 <= len(name) <= QUEUE_CHARACTERS_MAX:
            raise ValueError(f"a queue has a name of 1 to {QUEUE_CHARACTERS_MAX} characters, not {name!r:.250}")
        name.encode()  # lone surrogates cannot be sent: a UnicodeEncodeError is a ValueError
    return names


def _weights_of(queues: Sequence[str] | Mapping[str, int]) -> tuple[int, ...]:
    """Their weights, checked; () where they have none."""
    if not isinstance(queues, Mapping):
        return ()
    for name, weight in queues.items():
        if type(weight) is not int or not 1 <= weight <= WEIGHT_MAX:
            raise ValueError(
                f"the weight of queue {name!r:.250} is a whole number from 1 to {WEIGHT_MAX}: not {weight!r}"
            )
    return tuple(queues.values())


def _no_dialect(dialect: object) -> str:
    close = difflib.get_close_matches(str(dialect), (DIALECT_NATIVE, DIALECT_2010), n=1, cutoff=0.3)
    hint = f": did you mean {close[0]!r}?" if close else f": use {DIALECT_NATIVE!r} or {DIALECT_2010!r}"
    return f"there is no dialect {dialect!r}{hint}"


def _native_line(
    workers: Endpoint,
    queues: tuple[str, ...],
    weights: tuple[int, ...],
    ahead: int | None,
    counters: Counters,
    answer_bytes_max: int,
) -> Line:
    """The line of one run: its end says goodbye, so the next run is another incarnation."""
    peer = NativePeer(os.urandom(INCARNATION_BYTES), queues, ahead, AGENT, weights=weights)
    peer.counters = counters
    return NativeLine(peer, workers, answer_bytes_max)
