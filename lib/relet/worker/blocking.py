"""The worker for programs with threads: a thin shell around `peer.WorkerPeer`.

Two threads. The handler runs in the thread that called `run`; a thread of the library owns the sockets and never runs
the handler, so a long job does not keep the connection from being looked after. Jobs cross over in batches through a
`queue.SimpleQueue`, whose `put` is safe in signal handlers; outcomes come back through a deque, with an alarm that
costs a system call only while the library's thread sleeps.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from relet.events import Event
from relet.transport.endpoints import Endpoint, check_distinct, parse_connect
from relet.transport.link import (
    BODY_BYTES_MAX,
    Alarm,
    Context,
    Link,
    Log,
    News,
    Sleeper,
    earliest,
    look_after,
    was_terminated,
)
from relet.worker.peer import ASK, Counters, Job, NoAnswer, WorkerPeer

FLUSH_NS_MAX: Final = 1_000_000_000
"""How long a worker that ends waits for its last answers to leave."""
TURN_MESSAGES_MAX: Final = 1_000
"""Messages received, and sent, in one turn."""
LOG_EVERY_NS: Final = 1_000_000_000
"""Bad frames are logged at most this often, with their count."""

_FAILED: Final = object()
_UNANSWERED: Final = object()

_Ended = tuple[Job, "tuple[bytes, ...] | object"]


class _Engine:
    """The library's thread of one `Worker.run`, and what it shares with the thread that runs the handler."""

    def __init__(
        self,
        peer: WorkerPeer,
        workers: Endpoint,
        answers: Endpoint,
        context: Context | None,
        jobs: queue.SimpleQueue[list[Job] | None],
    ) -> None:
        self.peer = peer
        self.error: Exception | None = None
        self.ended: collections.deque[_Ended] = collections.deque()
        self.alarm = Alarm()
        self._endpoints = workers, answers
        self._context = context
        self._jobs = jobs
        self._stopping = False
        self._answers_unreachable = False
        self._answers_lost = False
        self._refusals_logged = 0
        self._refusals_logged_at = 0
        self._log = Log()
        self._thread = threading.Thread(target=self._run, name="relet-worker", daemon=True)
        look_after(self)
        self._thread.start()

    # --- Called by other threads.

    def stop(self) -> None:
        """Send the last answers, within bounds, and end the thread."""
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
        context = self._context or Context()
        try:
            now = time.monotonic_ns()
            asking = Link(context, zmq.DEALER, self._endpoints[0], now)
            with contextlib.closing(asking):
                answering = Link(context, zmq.PUSH, self._endpoints[1], now)
                with contextlib.closing(answering):
                    self._turns(asking, answering)
                    answering.close(self._flush(answering))
        except Exception as error:  # noqa: BLE001 - told to who called `run`
            if not was_terminated(error, context):
                self.error = error
                self._log.say(logging.ERROR, Event.LIBRARY_FAILED, exc_info=True, endpoint=self._endpoints[0].url)
        self.peer.stopped()
        self._jobs.put(None)
        if self._context is None:
            context.term()  # waits for the last answers, as long as they may linger

    def _turns(self, asking: Link, answering: Link) -> None:
        """Turn until told to stop. What has arrived first, then news of the connections, then outcomes, then asks."""
        peer, sleeper = self.peer, Sleeper(self.alarm)
        while not self._stopping:
            now = time.monotonic_ns()
            received = self._receive(asking, now)
            for news in asking.news(now):
                self._hear(news, asking, now)
            for news in answering.news(now):
                self._hear_answering(news)
            peer.answering = answering.connected
            stuck = self._send_answers(answering)
            if peer.retired:
                peer.closed()
                asking.rebuild(now, peer.pause_ns)
            asks = peer.asks_due()
            asks_stuck = False
            if asks > 0:
                asked = asking.send([ASK] * asks)
                peer.asked(asked)
                asks_stuck = asked < asks
            if received < TURN_MESSAGES_MAX and (stuck or not (peer.answers and peer.answering)):
                watched = asking.watched(writable=asks_stuck) + answering.watched(writable=stuck)
                sleeper.sleep(earliest((asking.due, answering.due)), now, watched, self._idle)

    def _receive(self, asking: Link, now: int) -> int:
        """Hand on the jobs that have arrived; how many messages there were. An idle worker holds none of them."""
        messages = asking.receive(TURN_MESSAGES_MAX)
        if messages:
            jobs = self.peer.received(messages)
            if jobs:
                self._jobs.put(jobs)
            self._log_refusals(now)
        return len(messages)

    def _idle(self) -> bool:
        return not (self.ended or self._stopping)

    def _take_ended(self) -> None:
        peer, ended = self.peer, self.ended
        while ended:
            job, outcome = ended.popleft()
            if isinstance(outcome, tuple):
                peer.answered(job, outcome)
            elif outcome is _FAILED:
                peer.failed(job)
            else:
                peer.unanswered(job)

    def _send_answers(self, answering: Link) -> bool:
        """Send what can be sent; whether more would go if the socket took it."""
        self._take_ended()
        outgoing = self.peer.outgoing(TURN_MESSAGES_MAX)
        if not outgoing:
            return False
        sent = answering.send(outgoing)
        self.peer.sent(sent)
        return sent < len(outgoing)

    def _flush(self, answering: Link) -> int:
        """Hand the last answers to ZeroMQ; returns how long they may linger there, in milliseconds."""
        peer, sleeper = self.peer, Sleeper(Alarm())
        end = time.monotonic_ns() + FLUSH_NS_MAX
        while True:
            now = time.monotonic_ns()
            answering.news(now)
            peer.answering = answering.connected
            stuck = self._send_answers(answering)
            if not peer.answers or now >= end:
                break
            due = earliest((end, answering.due))
            sleeper.sleep(due, now, answering.watched(writable=stuck), lambda: True)
        return max(1, (end - now) // 1_000_000) if answering.connected else 0

    def _hear(self, news: News, asking: Link, now: int) -> None:
        peer, log, endpoint = self.peer, self._log, asking.endpoint.url
        if news is News.CONNECTED:
            peer.became_connected()
            log.say(logging.INFO, Event.BROKER_CONNECTED, endpoint=endpoint)
            self._tell_answers_unreachable()
        elif news is News.LOST:
            peer.lost()
            self._answers_lost = False  # the broker lets again what it still holds of this worker
            asking.rebuild(now)
            log.say(logging.WARNING, Event.BROKER_LOST, endpoint=endpoint)
        else:
            log.say(logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=endpoint)

    def _hear_answering(self, news: News) -> None:
        """The second connection is told of only where the first one stands: else it is the same news twice.

        The same holds for its loss, which retires the first one: not at once, because a broker that ends takes both
        with it, but with the next news, which is that it stands again or that it does not come back.
        """
        if news is News.LOST:
            self._answers_lost = self.peer.connected
        elif self._answers_lost:
            self._answers_lost = False
            self.peer.answers_lost()
        if news is News.UNREACHABLE:
            self._answers_unreachable = True
            self._tell_answers_unreachable()
        elif news is News.CONNECTED:
            self._answers_unreachable = False

    def _tell_answers_unreachable(self) -> None:
        if self._answers_unreachable and self.peer.connected:
            self._log.say(logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=self._endpoints[1].url)

    def _log_refusals(self, now: int) -> None:
        counters = self.peer.counters
        count = counters.jobs_refused + counters.frames_refused
        if count != self._refusals_logged and now - self._refusals_logged_at >= LOG_EVERY_NS:
            endpoint = self._endpoints[0].url
            self._log.say(
                logging.WARNING, Event.REQUEST_REFUSED, count=count - self._refusals_logged, endpoint=endpoint
            )
            self._refusals_logged = count
            self._refusals_logged_at = now


class Worker:
    """Asks a broker for jobs and does them, one at a time.

    Either pass a function, or derive a class with `process(data) -> bytes`, or with `process_multipart(frames)` where
    jobs or answers are several frames.

    A handler that raises `NoAnswer` leaves its job unanswered. One that raises anything else has failed: this is logged
    (`handler_failed`) and counted, the job is not answered, and the worker reconnects, so that the broker lets the job
    again at once, as a counted attempt. The jobs it holds besides are finished and answered before.

    Args:
        workers: the broker's endpoint for workers, for example `tcp://localhost:4162`.
        answers: the broker's endpoint for answers, for example `tcp://localhost:4163`.
        handler: what to do with a job's body; returns the answer.
        ahead: jobs to have asked for or hold at a time, 1 to 1,000. With 1 the worker is idle while its answer goes out
            and the next job comes in. More hide that time, and each is an attempt lost when the worker dies.
        context: where the sockets are made; needed for `inproc://`. None: one of the worker's own. With a context of
            yours, its end waits up to a second for the last answer to leave.
        answer_bytes_max: bytes of one answer. A handler that returns more has failed: the broker's limit, of the same
            default, would refuse the answer, and a far larger one would cost the connection.

    Raises:
        EndpointError: an endpoint cannot be meant, or both are the same.
        ValueError: `ahead` is out of range.
        TypeError: there is nothing to do a job with.
    """

    def __init__(
        self,
        workers: str,
        answers: str,
        handler: Callable[[bytes], bytes] | None = None,
        *,
        ahead: int = 1,
        context: zmq.Context[Any] | None = None,
        answer_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        if handler is not None and not callable(handler):
            raise TypeError(f"a handler is a function of bytes, not {type(handler).__name__}")
        self._answer_bytes_max = answer_bytes_max
        self._endpoints = parse_connect(workers), parse_connect(answers)
        check_distinct({"workers": self._endpoints[0], "answers": self._endpoints[1]})
        if context is None and any(endpoint.scheme == "inproc" for endpoint in self._endpoints):
            raise ValueError("inproc:// needs the context of the broker: Worker(..., context=...)")
        kind = type(self)
        overridden = kind.process is not Worker.process or kind.process_multipart is not Worker.process_multipart
        if handler is None and not overridden:
            raise TypeError("pass a handler, or derive a class with process(data) or process_multipart(frames)")
        self._handler = handler
        self._context = context
        self._peer = WorkerPeer(ahead)
        self._jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._stopping = False
        self._running = False

    @property
    def counters(self) -> Counters:
        """What has happened so far; do not write to it."""
        return self._peer.counters

    @property
    def connected(self) -> bool:
        """Whether the worker's connection to the broker stands now."""
        return self._peer.connected

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

        Ends also with what a handler raises that is no `Exception`, such as KeyboardInterrupt or SystemExit:
        connections are closed, answers flushed, the job in hand stays unanswered, and the exception goes on to the
        caller.

        Raises:
            RuntimeError: it is running already.
        """
        if self._running:
            raise RuntimeError("this worker is running already; make one for each thread")
        self._jobs = queue.SimpleQueue()  # what an earlier run left is stale
        if self._stopping:
            return
        self._running = True
        engine = _Engine(self._peer, *self._endpoints, self._context, self._jobs)
        try:
            self._work(engine)
        finally:
            engine.stop()
            self._running = False
        if engine.error is not None:
            raise engine.error

    def stop(self) -> None:
        """End `run`: the job in hand is finished and answered, jobs that wait behind it are dropped.

        May be called by any thread and by a signal handler. A worker that was stopped stays stopped.
        """
        self._stopping = True
        self._jobs.put(None)

    def _work(self, engine: _Engine) -> None:
        while self._do(engine, self._jobs.get()):
            pass  # no local holds on to the last batch while this thread waits for the next one

    def _do(self, engine: _Engine, batch: list[Job] | None) -> bool:
        """Do these jobs; whether to go on."""
        if batch is None:  # `stop` says so, or the library's thread has ended
            return False
        ended, alarm = engine.ended, engine.alarm
        for job in batch:
            if self._stopping:
                return False
            if job.start():
                ended.append((job, self._done(job)))
                if alarm.asleep:
                    alarm.ring()
        return True

    def _done(self, job: Job) -> tuple[bytes, ...] | object:
        """Run the handler; nothing that it raises as an `Exception` goes further."""
        try:
            answer = self.process_multipart(list(job.frames))
            frames = _frames(answer)
            size = sum(map(len, frames))
            if size > self._answer_bytes_max:
                raise ValueError(f"an answer of {size:,} bytes is above answer_bytes_max ({self._answer_bytes_max:,})")
        except NoAnswer:
            return _UNANSWERED
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its own affair
            Log().say(logging.ERROR, Event.HANDLER_FAILED, exc_info=True, error=repr(error))
            return _FAILED
        return frames


def _frames(answer: Any) -> tuple[bytes, ...]:
    """The frames of an answer as bytes, checked here where the handler can still be blamed."""
    if type(answer) is tuple and len(answer) == 1 and type(answer[0]) is bytes:  # nearly always
        return answer
    if isinstance(answer, bytes | bytearray | memoryview | str):
        raise TypeError("process_multipart returns a sequence of frames, not one frame")
    frames = []
    for frame in answer:
        if not isinstance(frame, bytes | bytearray | memoryview):
            raise TypeError(f"an answer is bytes, not {type(frame).__name__}")
        frames.append(bytes(frame))  # as it is where it is bytes already
    if not frames:
        raise ValueError("an answer has at least one frame")
    return tuple(frames)
