"""The blocking worker in the native dialect, against a broker that does what the test says: silent, gone, back."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import zmq

import relet
from relet import log
from relet.messages import (
    SIGNATURE,
    Ack,
    Cancel,
    Complete,
    Dispatch,
    Error,
    Extend,
    Fail,
    Goodbye,
    HandBack,
    Heartbeat,
    Partial,
    Progress,
    Recall,
    ReportRefused,
    Said,
    Welcome,
    WorkerAsk,
    WorkerHello,
)
from relet.transport.endpoints import EndpointError
from relet.transport.link import Sleeper
from relet.worker import CurrentJob, FailJob, NoAnswer, current_job, line_native, peer_native
from relet.worker import HandBack as GiveBack
from relet.worker.job import PIECES_BYTES_MAX, Asides, Job
from relet.worker.peer_native import NativePeer

from .conftest import WAIT_SECONDS, Gate, Lines, NativeBroker, Running, until

FEW_MS = 300
"""A liveness time that a test can wait for."""


class Worker(relet.Worker):
    """A worker of the native dialect."""

    def __init__(self, workers: str, handler: Any = None, **keywords: Any) -> None:
        super().__init__(workers, None, handler, dialect="native", **keywords)


def echo(data: bytes) -> bytes:
    """The plainest handler."""
    return b"done: " + data


# --- Jobs.


def test_a_worker_says_hello_asks_does_the_job_and_asks_again(native_broker: NativeBroker) -> None:
    """One job, one report, which carries the next credit."""
    broker = native_broker
    with Running(Worker(broker.workers, echo, ahead=1, queues=("fast", "slow"))) as worker:
        assert not worker.connected
        hello = broker.welcome()
        assert hello.queues == ("fast", "slow")
        assert hello.agent.startswith("relet/")
        assert broker.hear(WorkerAsk).credit == 1
        assert worker.connected
        for number in (1, 2, 3):
            broker.give(b"t%d" % number, b"%d" % number)
            said = broker.hear(Complete)
            assert (said.token, said.n, said.credit, said.started) == (b"t%d" % number, number, number + 1, number)
            assert broker.body == [b"done: %d" % number]
    broker.hear(Goodbye)
    assert (worker.counters.jobs, worker.counters.answered, worker.counters.welcomes) == (3, 3, 1)


def test_queues_may_have_weights(native_broker: NativeBroker) -> None:
    """They are said in the hello, one for each queue in its order."""
    with Running(Worker(native_broker.workers, echo, queues={"mail": 3, "reports": 1})):
        hello = native_broker.welcome()
        assert (hello.queues, hello.weights) == (("mail", "reports"), (3, 1))


def test_the_endpoint_for_answers_may_be_named_and_is_not_used(native_broker: NativeBroker) -> None:
    """Programs name all three; nobody listens there, and nobody minds."""
    broker = native_broker
    with Running(relet.Worker(broker.workers, "tcp://127.0.0.1:9", echo, dialect="native")):
        broker.begin()
        broker.give(b"t", b"x")
        broker.hear(Complete)


def test_frames_of_any_content_arrive_as_they_are(native_broker: NativeBroker) -> None:
    """Empty ones, signatures, whole messages of the dialect: nothing behind the header is looked at."""

    class Reverse(Worker):
        def process_multipart(self, frames: list[bytes]) -> Sequence[bytes]:
            return frames[::-1]

    broker = native_broker
    body = [b"", SIGNATURE, b"\x81\xa1t\xa7goodbye", b"", bytes(300_000)]
    with Running(Reverse(broker.workers)):
        broker.begin()
        broker.give(b"t", *body)
        broker.hear(Complete)
        assert broker.body == body[::-1]


def test_many_jobs_are_reported_in_few_messages(native_broker: NativeBroker) -> None:
    """The worker learns that they are short, and asks for up to a thousand ahead."""
    broker = native_broker
    with Running(Worker(broker.workers, echo)) as worker:
        credit, done, asks = broker.begin().credit, 0, 0
        assert credit == 1
        while done < 5_000:
            while broker.seq < credit:
                broker.give(b"%d" % broker.seq, b"x", ack=done)
            said = broker.hear(Complete)
            done, asks = said.n, asks + bool(said.credit)
            credit = max(credit, said.credit)
        assert credit - done > 500
        assert worker.counters.answered >= 5_000


def test_a_large_answer_arrives_whole(native_broker: NativeBroker) -> None:
    """Above the default limit, where both sides allow it."""
    broker = native_broker
    broker.acks = False
    size = 70 * 1024 * 1024
    with Running(Worker(broker.workers, lambda _: bytes(size), answer_bytes_max=size, ahead=2)):
        broker.begin(limits={"body_bytes": size})
        broker.give(b"t", b"x")
        said = broker.hear(Complete)
        assert [len(frame) for frame in broker.body] == [size]
        assert said.credit == 2  # so much waits for the broker that nothing more is asked for
        broker.body.clear()
        broker.say(Ack(ack=1))
        assert broker.hear(WorkerAsk).credit == 3


def test_an_answer_too_large_is_a_failure_of_the_handler(native_broker: NativeBroker, lines: Lines) -> None:
    """By the program's limit or by the broker's; the log and the client are told."""
    broker = native_broker
    with Running(Worker(broker.workers, lambda data: data * 2, answer_bytes_max=10)):
        broker.begin(limits={"body_bytes": 8, "frames": 4})
        broker.give(b"t1", b"123456")
        said = broker.hear(Fail)
        assert (said.token, said.kind) == (b"t1", "ValueError")
        assert "answer_bytes_max" in said.text
        assert "answer_bytes_max" in lines.wait_for("handler_failed")["error"]
        broker.give(b"t2", b"12345")
        assert "the broker takes 8" in broker.hear(Fail).text
        broker.give(b"t3", b"1234")
        broker.hear(Complete)
        assert broker.body == [b"12341234"]


def test_a_long_job_is_told_to_be_started(native_broker: NativeBroker) -> None:
    """Before it has ended, and without the handler's help."""
    broker, gate = native_broker, Gate()
    with Running(Worker(broker.workers, gate, ahead=2)):
        broker.begin()
        broker.give(b"a", b"1")
        broker.give(b"b", b"2")
        assert gate.has() == b"1"
        assert broker.hear(WorkerAsk).started == 1
        gate.leave.put(b"")
        assert broker.hear(Complete).token == b"a"
        gate.leave.put(b"")


def test_an_idle_worker_holds_no_job_and_no_answer(native_broker: NativeBroker) -> None:
    """What the last batch brought belongs to the handler alone, once the broker has the answer."""
    unshared, bodies, answers = [bytes(1_000)], [], [bytes(1_000)]

    def handler(data: bytes) -> bytes:
        bodies.append(data)
        return answers[0]

    with Running(Worker(native_broker.workers, handler)):
        native_broker.begin()
        native_broker.give(b"t", bytes(1_000))
        native_broker.hear(Complete)
        until(lambda: sys.getrefcount(bodies[0]) == sys.getrefcount(unshared[0]))
        until(lambda: sys.getrefcount(answers[0]) == sys.getrefcount(unshared[0]))


# --- What handlers raise.


def test_what_a_handler_raises_is_said_and_the_worker_goes_on(native_broker: NativeBroker, lines: Lines) -> None:
    """Any exception, a failure that is meant, a job handed back, a job left alone."""

    def handler(data: bytes) -> bytes:
        if data == b"raise":
            raise ZeroDivisionError("on purpose")
        if data == b"memory":
            raise MemoryError
        if data == b"recurse":
            return handler(data)
        if data == b"fail":
            raise FailJob("quota", "tomorrow", retry_after=0.25, final=False)
        if data == b"final":
            raise FailJob("broken", final=True)
        if data == b"back":
            raise GiveBack
        if data == b"none":
            raise NoAnswer
        return data

    broker = native_broker
    with Running(Worker(broker.workers, handler, ahead=1)) as worker:
        broker.begin()
        said: list[Any] = []
        for number, body in enumerate((b"raise", b"memory", b"recurse", b"fail", b"final"), 1):
            broker.give(b"%d" % number, body)
            said.append(broker.hear(Fail))
        kinds = [(one.kind, one.retry_ms, one.final) for one in said]
        assert kinds[:3] == [(kind, None, False) for kind in ("ZeroDivisionError", "MemoryError", "RecursionError")]
        assert kinds[3:] == [("quota", 250, False), ("broken", None, True)]
        assert (said[0].text, said[3].text) == ("on purpose", "tomorrow")
        for number in (b"1", b"2", b"3"):
            line = lines.wait_for("handler_failed")
            assert line["level"] == "error"
            assert (line["queue"], line["attempt"]) == ("default", 1)
            assert bytes.fromhex(line["job"]) == number.rjust(16, b"j")
        broker.give(b"6", b"back")
        assert broker.hear(HandBack).token == b"6"
        broker.give(b"7", b"none")
        assert [broker.hear(WorkerAsk).credit for _ in range(2)] == [7, 8]  # it has begun; it has ended
        broker.give(b"8", b"fine")
        assert broker.hear(Complete).started == 8
        counters = worker.counters
        assert (counters.failed, counters.handed_back, counters.unanswered, counters.answered) == (5, 1, 1, 1)
        assert counters.losses == 0


def test_a_flood_of_failures_becomes_a_few_lines_and_a_count(
    native_broker: NativeBroker, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every one is told to the broker; the log has some with their tracebacks, and says how many more there were."""

    class Unspeakable(Exception):
        def __repr__(self) -> str:
            raise RuntimeError("it cannot even be shown")

    def handler(data: bytes) -> bytes:
        raise Unspeakable(data)

    monkeypatch.setattr(log, "WINDOW_NS", 1 << 62)
    broker = native_broker
    with Running(Worker(broker.workers, handler, ahead=1)):
        broker.begin()
        for number in range(12):
            broker.give(b"%d" % number, b"x")
            assert broker.hear(Fail).kind == "Unspeakable"
    said = [lines.wait_for("handler_failed") for _ in range(log.LINES_MAX)]
    assert [(line["error"], line["exc_info"]) for line in said] == [("Unspeakable", True)] * log.LINES_MAX
    assert lines.wait_for("handler_failed")["held_back"] == 12 - log.LINES_MAX


def test_a_pause_that_the_broker_will_cut_is_warned_of(native_broker: NativeBroker, lines: Lines) -> None:
    """Where its limit is known; what the handler wants is sent as it is."""

    def handler(data: bytes) -> bytes:
        raise FailJob("Later", retry_after=float(data))

    broker = native_broker
    with Running(Worker(broker.workers, handler, ahead=1)):
        broker.begin(limits={"retry_ms": 2_000})
        broker.give(b"1", b"2")
        assert broker.hear(Fail).retry_ms == 2_000
        broker.give(b"2", b"2.5")
        assert broker.hear(Fail).retry_ms == 2_500
        line = lines.wait_for("retry_shortened")
        assert (line["level"], line["asked_s"], line["given_s"]) == ("warning", 2.5, 2.0)


@pytest.mark.parametrize("wrong", ["text", None, [b"several"], 3])
def test_what_is_no_answer_is_a_failure(native_broker: NativeBroker, wrong: Any) -> None:
    """The client is told the type of the mistake."""
    broker = native_broker
    with Running(Worker(broker.workers, lambda _: wrong)):
        broker.begin()
        broker.give(b"t", b"x")
        assert broker.hear(Fail).kind == "TypeError"


# --- The current job.


def test_a_handler_sees_its_job_and_says_how_far_it_is(native_broker: NativeBroker) -> None:
    """From its own thread, which ends with the job; everything arrives in order, before the answer."""
    seen: list[CurrentJob] = []

    def handler(data: bytes) -> bytes:
        job = current_job()
        assert job is current_job()
        assert (job.id, job.attempt, job.tries, job.queue) == (b"t".rjust(16, b"j"), 2, 3, "default")
        assert job.headers == {"trace": "1"}
        assert job.deadline is not None
        assert 0 < job.deadline - time.monotonic() <= 30
        job.partial(b"piece")
        job.progress(1, 2, "half")
        job.extend(60)
        assert job.deadline - time.monotonic() > 55
        job.answer_headers = {"trace": "2"}
        seen.append(job)
        return data

    broker = native_broker
    with Running(Worker(broker.workers, handler)) as worker:
        broker.begin()
        broker.give(b"t", b"x", attempt=2, tries=3, headers={"trace": "1"}, run_ms=30_000)
        said = broker.hear(Partial)
        assert (said.token, broker.body) == (b"t", [b"piece"])
        answer: Any = None
        while answer is None:  # what waits when the answer is there is not sent any more
            message = broker.hear(Said)
            answer = message if isinstance(message, Complete) else None
            assert isinstance(message, Complete | Progress | Extend | WorkerAsk)
        assert answer.headers == {"trace": "2"}
        seen[0].progress(5)
        seen[0].partial(b"too late")
        seen[0].extend(1)
        broker.give(b"u", b"x", attempt=2, tries=3, headers={"trace": "1"}, run_ms=30_000, job=b"t".rjust(16, b"j"))
        assert broker.hear(Partial).token == b"u"
        until(lambda: worker.counters.answered == 2)


def test_progress_and_extensions_arrive_while_the_job_runs(native_broker: NativeBroker) -> None:
    """The library's thread wakes up for them."""
    gate, jobs = Gate(), queue.SimpleQueue[CurrentJob]()

    def handler(data: bytes) -> bytes:
        jobs.put(current_job())
        return gate(data)

    broker = native_broker
    with Running(Worker(broker.workers, handler, ahead=1)) as worker:
        broker.begin()
        broker.give(b"t", b"x", run_ms=30_000)
        job = jobs.get(timeout=WAIT_SECONDS)
        assert broker.hear(WorkerAsk).started == 1
        job.progress(1, 2, "half")
        said = broker.hear(Progress)
        assert (said.token, said.done, said.total, said.note) == (b"t", 1, 2, "half")
        broker.acks = False  # a refusal comes first
        job.extend(60)
        extension = broker.hear(Extend)
        assert 59_000 < extension.run_ms <= 60_000
        deadline = job.deadline
        broker.say(ReportRefused(n=extension.n, token=b"t", code="ceiling", text="no"))
        until(lambda: job.deadline != deadline)
        broker.acks = True
        broker.say(Cancel(token=b"t", reason="asker_gone"))
        until(lambda: job.cancelled)
        gate.leave.put(b"")
        broker.hear(Complete)
        assert (worker.counters.extended, worker.counters.cancelled, worker.counters.reports_refused) == (1, 1, 1)


def test_there_is_no_current_job_outside_a_handler(native_broker: NativeBroker) -> None:
    """Nor in another thread; a worker that a handler runs puts its own job back."""
    with pytest.raises(RuntimeError, match="no current job"):
        current_job()
    wrong: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def other() -> None:
        try:
            current_job()
        except RuntimeError as error:
            wrong.put(error)

    class Nested(Worker):
        def process(self, data: bytes) -> bytes:
            before = current_job().id
            inner = Worker(broker.workers, echo)
            inner.stop()
            inner.run()
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(WAIT_SECONDS)
            assert current_job().id == before
            return data

    broker = native_broker
    with Running(Nested(broker.workers)):
        broker.begin()
        broker.give(b"t", b"x")
        broker.hear(Complete)
    assert isinstance(wrong.get(timeout=0), RuntimeError)


def test_who_says_more_than_the_network_takes_has_to_wait() -> None:
    """Until there is room, or nobody sends any more; a single piece always fits."""
    inbox: Any = collections.deque()
    asides = Asides(inbox, lambda: 0, 1)
    large = bytes(PIECES_BYTES_MAX)
    token: Any = None
    asides.put_piece(token, (large,))
    returned: queue.SimpleQueue[int] = queue.SimpleQueue()

    def say(count: int) -> None:
        for number in range(count):
            asides.put_piece(token, (b"x",))
            returned.put(number)

    thread = threading.Thread(target=say, args=(2,))
    thread.start()
    with pytest.raises(queue.Empty):
        returned.get(timeout=0.05)
    asides.freed(inbox[0][1].bytes)
    assert returned.get(timeout=WAIT_SECONDS) == 0
    assert returned.get(timeout=WAIT_SECONDS) == 1
    thread.join(WAIT_SECONDS)
    asides.freed(asides._bytes)
    asides.put_piece(token, (large,))
    thread = threading.Thread(target=say, args=(1,))
    thread.start()
    with pytest.raises(queue.Empty):
        returned.get(timeout=0.05)
    asides.end()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


# --- Recall and cancel.


def test_a_recalled_job_goes_back_unless_the_handler_has_it(native_broker: NativeBroker) -> None:
    """Nothing is said of the one in hand."""
    broker, gate = native_broker, Gate()
    with Running(Worker(broker.workers, gate, ahead=3)) as worker:
        broker.begin()
        for token in (b"a", b"b", b"c"):
            broker.give(token, token)
        assert gate.has() == b"a"
        assert broker.hear(WorkerAsk).started == 1
        broker.say(Recall(tokens=(b"a", b"b")))
        assert broker.hear(HandBack).token == b"b"
        gate.leave.put(b"")
        assert broker.hear(Complete).token == b"a"
        assert gate.has() == b"c"
        gate.leave.put(b"")
        assert broker.hear(Complete).token == b"c"
        assert worker.counters.handed_back == 1


def test_a_cancelled_job_is_never_begun(native_broker: NativeBroker) -> None:
    """Its place is free at once."""
    broker, gate = native_broker, Gate()
    with Running(Worker(broker.workers, gate, ahead=2)) as worker:
        broker.begin()
        broker.give(b"a", b"a")
        broker.give(b"b", b"b")
        assert gate.has() == b"a"
        assert broker.hear(WorkerAsk).started == 1
        broker.say(Cancel(token=b"b", reason="answered"))
        assert broker.hear(WorkerAsk).credit == 3
        gate.leave.put(b"")
        broker.hear(Complete)
        broker.give(b"c", b"c")
        assert gate.has() == b"c"
        gate.leave.put(b"")
        broker.hear(Complete)
        assert worker.counters.dropped == 1


def test_a_job_is_either_begun_or_taken_away() -> None:
    """Two threads, one decision: none has both, none has neither, however often they are interrupted."""
    peer = NativePeer(b"i" * 16, ahead=1_000)
    peer.startable_until = 1 << 62
    begun, taken = [], []
    rounds = 20_000
    jobs = [Job(Dispatch(token=b"%d" % n, seq=n, job=b"", attempt=1), (), 0) for n in range(rounds)]
    for one in jobs:
        peer._held[one.token] = peer._open[one.token] = one
    go = threading.Barrier(2)

    def begin() -> None:
        go.wait()
        begun.extend(one.token for one in jobs if peer.start(one, 0))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=begin)
        thread.start()
        go.wait()
        taken = [one.token for one in reversed(jobs) if peer._take_held(one.token) is not None]
        thread.join(WAIT_SECONDS)
    finally:
        sys.setswitchinterval(before)
    assert len(begun) + len(taken) == rounds
    assert not set(begun) & set(taken)
    assert set(peer._open) == set(begun)


# --- Silent, forgetful, lost brokers.


def test_a_silent_broker_is_left_and_greeted_anew(native_broker: NativeBroker, lines: Lines) -> None:
    """It was asked by heartbeats before; the job in hand is claimed, and completed in the same session."""
    broker, gate = native_broker, Gate()
    with Running(Worker(broker.workers, gate, ahead=1)) as worker:
        broker.begin(heartbeat_ms=FEW_MS // 3, liveness_ms=FEW_MS)
        broker.give(b"t", b"x")
        assert gate.has() == b"x"
        first = broker.peer
        assert broker.hear(WorkerAsk).started == 1
        broker.hear(Heartbeat)
        hello = broker.welcome(handed=1)
        assert broker.peer != first
        assert (hello.running, hello.held) == ((b"t",), ())
        assert lines.wait_for("broker_lost")["reason"] == "silent"
        assert broker.hear(WorkerAsk).started == 1
        gate.leave.put(b"late")
        assert broker.hear(Complete).token == b"t"
        assert worker.counters.silences == 1


def test_heartbeats_keep_an_idle_worker_and_a_busy_one(native_broker: NativeBroker) -> None:
    """As long as the broker answers them nothing else is said."""
    broker, gate = native_broker, Gate()
    with Running(Worker(broker.workers, gate, ahead=1)) as worker:
        broker.begin(heartbeat_ms=FEW_MS // 6, liveness_ms=FEW_MS)
        for _ in range(10):
            broker.hear(Heartbeat)
            broker.say(Heartbeat())
        broker.give(b"t", b"x")
        gate.has()
        assert broker.hear(WorkerAsk).started == 1
        for _ in range(10):
            broker.hear(Heartbeat)
            broker.say(Heartbeat())
        gate.leave.put(b"")
        broker.hear(Complete)
        assert (worker.counters.losses, worker.counters.silences) == (0, 0)


def test_an_idle_worker_wakes_up_for_heartbeats_only(
    native_broker: NativeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Having asked it sleeps until the next one is due."""
    slept: queue.SimpleQueue[float] = queue.SimpleQueue()
    sleep = Sleeper.sleep

    def spy(self: Sleeper, until: int | None, now: int, *args: Any) -> None:
        slept.put(float("inf") if until is None else (until - now) / 1e6)
        sleep(self, until, now, *args)

    monkeypatch.setattr(Sleeper, "sleep", spy)
    with Running(Worker(native_broker.workers, echo)):
        native_broker.begin()
        deadline = time.monotonic() + WAIT_SECONDS
        while slept.get(timeout=deadline - time.monotonic()) < 59_000:
            pass
        native_broker.give(b"t", b"x")
        native_broker.hear(Complete)
        while slept.get(timeout=deadline - time.monotonic()) < 59_000:
            pass


def test_a_broker_that_answers_no_hello_is_told_of_and_greeted_again(
    native_broker: NativeBroker, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It speaks the dialect of 2010 only, or the hello was lost; the log says what to change, once."""
    monkeypatch.setattr(peer_native, "WELCOME_NS_MAX", FEW_MS * 1_000_000)
    broker = native_broker
    with Running(Worker(broker.workers, echo)):
        broker.hear(WorkerHello)
        first = broker.peer
        broker.hear(WorkerHello)
        assert broker.peer != first
        line = lines.wait_for("broker_unreachable")
        assert line["reason"] == "unwelcomed"
        assert "dialect='2010'" in line["advice"]
        broker.begin()
        broker.give(b"t", b"x")
        broker.hear(Complete)


def test_a_worker_for_a_queue_that_may_not_be_used_ends(native_broker: NativeBroker) -> None:
    """`QueueUnknown` out of `run`, with the name and what the broker says, and as it is after pickling; not a silent
    worker that asks for ever.
    """
    broker = native_broker
    running = Running(Worker(broker.workers, echo, queues=("mail", "male")))
    broker.hear(WorkerHello)
    broker.say(Error(code="unknown_queue", of="hello", text="there is no queue 'male': 'mail'", queue="male"))
    running.join()
    error = running.error
    assert isinstance(error, relet.QueueUnknown)
    for it in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - of our own
        assert (it.queue, str(it)) == ("male", f"{broker.workers}: there is no queue 'male': 'mail'")
    assert "no queue 'male'" in str(relet.QueueUnknown("male"))


def test_a_worker_that_was_welcome_once_goes_on_trying(
    native_broker: NativeBroker, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue lost its settings while it was away: that may be undone. The log says what is refused."""
    monkeypatch.setattr(peer_native, "WELCOME_NS_MAX", FEW_MS * 1_000_000)
    monkeypatch.setattr(line_native, "LOG_EVERY_NS", 0)
    broker = native_broker
    with Running(Worker(broker.workers, echo, queues=("mail",))) as worker:
        broker.begin()
        broker.say(Error(code="no_session"))
        for _ in range(2):
            broker.hear(WorkerHello)
            broker.say(Error(code="unknown_queue", of="hello", text="there is no queue 'mail'", queue="mail"))
            while lines.wait_for("request_refused").get("code") != "unknown_queue":
                pass  # that it was forgotten
            assert not worker.connected
        broker.begin()
        broker.give(b"t", b"x")
        broker.hear(Complete)


def test_a_broker_that_has_forgotten_the_worker_is_greeted_on_the_same_connection(native_broker: NativeBroker) -> None:
    """It was silent for too long, or the broker was started anew behind a proxy."""
    broker, gate = native_broker, Gate()
    with Running(Worker(broker.workers, gate, ahead=2)) as worker:
        broker.begin()
        first = broker.peer
        broker.give(b"a", b"1")
        broker.give(b"b", b"2")
        assert gate.has() == b"1"
        assert broker.hear(WorkerAsk).started == 1
        for _ in range(3):
            broker.say(Error(code="no_session"))
        hello = broker.welcome(epoch=2, lost=(b"a", b"b"))
        assert broker.peer == first
        assert (hello.running, hello.held) == ((b"a",), (b"b",))
        assert broker.hear(WorkerAsk).credit == 1
        gate.leave.put(b"late")
        assert broker.hear(Complete).token == b"a"
        broker.say(ReportRefused(n=1, token=b"a", code="not_open"))
        broker.give(b"c", b"3")
        assert gate.has() == b"3"
        gate.leave.put(b"")
        assert broker.hear(Complete).started == 1
        assert (worker.counters.dropped, worker.counters.cancelled, worker.counters.losses) == (1, 1, 0)


def test_reports_survive_a_broker_that_is_started_anew(native_broker: NativeBroker, lines: Lines) -> None:
    """What was not acknowledged is sent to the next one, and the worker works for it."""
    broker = native_broker
    broker.acks = False
    with Running(Worker(broker.workers, echo, ahead=2)) as worker:
        first = broker.welcome()
        broker.hear(WorkerAsk)
        broker.give(b"a", b"1")
        broker.give(b"b", b"2")
        tokens = [broker.hear(Complete).token for _ in range(2)]
        assert tokens == [b"a", b"b"]
        broker.say(Ack(ack=1))
        until(lambda: len(worker._line.peer._reports) == 1)  # type: ignore[attr-defined]
        broker.close()
        lines.wait_for("broker_lost")
        broker.open()
        hello = broker.welcome(epoch=2)
        assert (hello.incarnation, hello.running, hello.held) == (first.incarnation, (b"b",), ())
        said = broker.hear(Complete)
        assert (said.token, said.n, said.credit) == (b"b", 2, 2)
        assert broker.body == [b"done: 2"]
        broker.give(b"c", b"3", ack=2)
        assert broker.hear(Complete).n == 3
        assert worker.counters.reports_resent == 1


def test_duplicates_garbage_and_unknown_words_disturb_nothing(native_broker: NativeBroker, lines: Lines) -> None:
    """They are counted and logged; the credit stays good."""
    broker = native_broker
    with Running(Worker(broker.workers, echo, ahead=1)) as worker:
        broker.begin()
        broker.say(Welcome(epoch=9, heartbeat_ms=1, liveness_ms=1, limits={}))
        for frames in ([b""], [b"x"], [SIGNATURE], [SIGNATURE, b"\xc1"], [b"", b"id", b"body"], [b"y"] * 50):
            broker.send(*frames)
        broker.send(SIGNATURE[:7] + b"\7", b"\x81\xa1t\xa3ack")
        broker.say(Error(code="bad_header", text="what?", of="ask"))
        broker.give(b"t", b"x")
        broker.hear(Complete)
        broker.seq = 0
        broker.give(b"t", b"x")
        broker.give(b"u", b"x")
        assert broker.hear(Complete).token == b"u"
        assert lines.wait_for("request_refused")["count"] >= 1
        counters = worker.counters
        assert (counters.frames_refused, counters.errors, counters.jobs_refused) == (8, 1, 1)


def test_a_broker_that_never_answers_is_told_within_a_second(native_broker: NativeBroker, lines: Lines) -> None:
    """And greeted when it comes."""
    broker = native_broker
    broker.close()
    with Running(Worker(broker.workers, echo)) as worker:
        assert lines.wait_for("broker_unreachable")["endpoint"] == broker.workers
        assert not worker.connected
        broker.open()
        broker.begin()


# --- The end.


def test_stop_takes_back_what_was_asked_for_finishes_and_leaves_with_a_word(native_broker: NativeBroker) -> None:
    """The job in hand is finished though the worker was told to stop; what waits goes back at once, and
    nothing more is asked for.
    """
    broker, gate = native_broker, Gate()
    broker.acks = False
    running = Running(Worker(broker.workers, gate, ahead=4))
    broker.begin()
    for token in (b"a", b"b", b"c"):
        broker.give(token, token)
    assert gate.has() == b"a"
    assert broker.hear(WorkerAsk).started == 1
    running.worker.stop()
    broker.give(b"d", b"d")  # was on its way
    hello = broker.welcome(handed=4)
    assert (hello.running, hello.held) == ((b"a",), ())
    gate.leave.put(b"last words")
    said = broker.hear(Complete)
    assert (said.token, broker.body, said.credit) == (b"a", [b"last words"], 4)
    assert broker.hears_nothing()  # goodbye waits until the report is safe
    broker.say(Ack(ack=said.n))
    broker.hear(Goodbye)
    running.join()
    assert running.error is None
    assert gate.entered.empty()
    assert (running.worker.counters.handed_back, running.worker.counters.dropped) == (0, 3)


def test_stop_waits_for_an_acknowledgement_for_a_second_only(native_broker: NativeBroker) -> None:
    """Then goodbye is said all the same, behind the report."""
    broker = native_broker
    broker.acks = False
    running = Running(Worker(broker.workers, echo))
    broker.begin()
    broker.give(b"t", b"x")
    broker.hear(Complete)
    running.worker.stop()
    broker.hear(WorkerHello)
    broker.hear(Goodbye)
    running.join()


@pytest.mark.parametrize("phase", ["unmade", "away", "greeting", "welcomed", "lost"])
def test_stop_ends_a_worker_in_every_phase(
    native_broker: NativeBroker, lines: Lines, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it runs, without a broker, before the welcome, idle, and while the broker is away with a report owed."""
    broker = native_broker
    worker = Worker(broker.workers, echo)
    if phase == "unmade":
        worker.stop()
        worker.run()
        assert broker.hears_nothing()
        return
    if phase == "away":
        broker.close()
    running = Running(worker)
    if phase == "away":
        lines.wait_for("broker_unreachable")
    elif phase == "greeting":
        broker.hear(WorkerHello)
    else:
        broker.begin()
    broker.acks = False
    if phase == "lost":
        broker.give(b"t", b"x")
        broker.hear(Complete)
        broker.close()
        lines.wait_for("broker_lost")
    began = time.monotonic()
    worker.stop()
    running.join()
    assert running.error is None
    assert time.monotonic() - began < 3
    if phase in {"greeting", "welcomed"}:
        broker.hear(Goodbye)


def test_a_worker_that_ran_may_run_again_as_another_incarnation(native_broker: NativeBroker) -> None:
    """Where it was not stopped: an exception ended it."""

    class Ended(BaseException):
        pass

    def handler(data: bytes) -> bytes:
        if data == b"end":
            raise Ended
        return data

    broker = native_broker
    worker = Worker(broker.workers, handler, ahead=1)
    running = Running(worker)
    first = broker.welcome()
    broker.hear(WorkerAsk)
    broker.give(b"t", b"end")
    assert broker.hear(HandBack).token == b"t"
    broker.hear(Goodbye)
    running.join()
    assert isinstance(running.error, Ended)
    with Running(worker):
        assert broker.welcome().incarnation != first.incarnation
        broker.hear(WorkerAsk)
        broker.give(b"u", b"x")
        broker.hear(Complete)
    assert worker.counters.jobs == 2


def test_a_terminated_context_ends_run(native_broker: NativeBroker, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Nothing hangs where the program's own context ends first."""
    running = Running(Worker(native_broker.workers, echo, context=context))
    native_broker.begin()
    native_broker.close()
    context.term()
    running.join()
    assert running.error is None


def test_a_fault_of_the_library_ends_run(
    native_broker: NativeBroker, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is told to who called it, and to the log."""

    def fault(*_: object) -> list[Job]:
        raise ArithmeticError("ours")

    monkeypatch.setattr(NativePeer, "heard", fault)
    running = Running(Worker(native_broker.workers, echo))
    native_broker.welcome()
    running.join()
    assert isinstance(running.error, ArithmeticError)
    assert lines.wait_for("library_failed")["level"] == "error"


PROGRAM = """
import queue, signal, sys
from relet import Worker
signalled = queue.SimpleQueue()  # unlike `signal.pause` it misses no signal that comes early
def handler(data):
    if data == b"hang":
        print("in hand", flush=True)
        signalled.get()
    return data
worker = Worker(sys.argv[1], None, handler, dialect="native", ahead=3)
if sys.argv[2] == "stop":
    signal.signal(signal.SIGTERM, lambda *_: (worker.stop(), signalled.put(None)))
try:
    worker.run()
except KeyboardInterrupt:
    print("interrupted", worker.counters.answered, flush=True)
else:
    print("stopped", worker.counters.answered, flush=True)
"""


@contextlib.contextmanager
def program(broker: NativeBroker, how: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, which does not outlive the test."""
    arguments = [sys.executable, "-c", PROGRAM, broker.workers, how]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env={"PYTHONPATH": "lib"}) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("body", [b"hang", None])
def test_stop_in_a_signal_handler_ends_the_worker(native_broker: NativeBroker, body: bytes | None) -> None:
    """The main thread waits for a job, or is in the handler, and the signal's handler runs in that very thread."""
    broker = native_broker
    with program(broker, "stop") as child:
        assert child.stdout
        broker.begin()
        if body is not None:
            broker.give(b"t", body)
            assert child.stdout.readline() == b"in hand\n"
            broker.hear(WorkerAsk)
        child.send_signal(signal.SIGTERM)
        if body is not None:
            broker.hear(Complete)
        broker.hear(Goodbye)
        assert child.wait(WAIT_SECONDS) == 0
        assert child.stdout.read() == b"stopped %d\n" % (body is not None)


@pytest.mark.parametrize("body", [b"hang", None])
def test_ctrl_c_hands_back_closes_and_goes_on_to_the_caller(native_broker: NativeBroker, body: bytes | None) -> None:
    """Who ends a program says nothing of the job it had."""
    broker = native_broker
    with program(broker, "raise") as child:
        assert child.stdout
        broker.begin()
        if body is not None:
            broker.give(b"t", body)
            assert child.stdout.readline() == b"in hand\n"
            broker.hear(WorkerAsk)
        child.send_signal(signal.SIGINT)
        if body is not None:
            assert broker.hear(HandBack).token == b"t"
        broker.hear(Goodbye)
        assert child.wait(WAIT_SECONDS) == 0
        assert child.stdout.read() == b"interrupted 0\n"


def test_a_worker_that_was_stopped_starts_nothing_of_what_it_held(native_broker: NativeBroker) -> None:
    """After SIGSTOP for longer than the liveness time: what arrived before and meanwhile is dropped."""
    broker = native_broker
    with program(broker, "stop") as child:
        assert child.stdout
        broker.begin(heartbeat_ms=FEW_MS // 3, liveness_ms=FEW_MS)
        broker.give(b"a", b"x")
        assert broker.hear(Complete).token == b"a"
        broker.hear(Heartbeat)
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        while not broker.hears_nothing(FEW_MS + 100):  # what it had said before
            broker._socket.recv_multipart()
        broker.give(b"b", b"x")
        os.kill(child.pid, signal.SIGCONT)
        hello = broker.welcome(handed=2, received=1, heartbeat_ms=60_000, liveness_ms=600_000)
        assert (hello.running, hello.held) == ((), ())
        assert broker.hear(WorkerAsk).credit == 5
        broker.give(b"c", b"x")
        assert broker.hear(Complete).token == b"c"


# --- At the door.


def test_an_attempt_is_not_begun_in_the_instant_an_earlier_one_is_answered(native_broker: NativeBroker) -> None:
    """The handler's thread goes from one job to the next without waiting for the other thread."""
    broker, gate = native_broker, Gate()
    with Running(Worker(broker.workers, gate, ahead=3)) as worker:
        broker.begin()
        broker.give(b"1", b"first", job=b"same")
        assert gate.has() == b"first"
        broker.give(b"2", b"second", job=b"same", attempt=2)
        broker.give(b"3", b"other")
        until(lambda: worker.counters.jobs == 3)
        gate.leave.put(b"done")
        assert gate.has() == b"other"
        gate.leave.put(b"done")
        assert broker.hear(Complete).token == b"1"
        assert broker.hear(HandBack).token == b"2"
        assert broker.hear(Complete).token == b"3"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tcp://127.0.0.1:1", len), "handler="),
        ((len,), "handler="),
        ((4162,), r"workers is .* 'tcp://localhost:4162', not 4162 \(int\)"),
        (("4162", b"4163"), r"answers is .* not b'4163' \(bytes\)"),
    ],
)
@pytest.mark.parametrize("dialect", ["native", "2010"])
def test_an_endpoint_is_text(arguments: tuple[Any, ...], says: str, dialect: str) -> None:
    """The error says what to pass instead."""
    with pytest.raises(TypeError, match=says):
        relet.Worker(*arguments, handler=len if len not in arguments else None, dialect=dialect)  # type: ignore[arg-type]


def test_handing_back_has_no_text() -> None:
    """Nobody would read it."""
    with pytest.raises(TypeError):
        relet.HandBack("I would rather not")  # type: ignore[call-arg]


def test_what_cannot_be_is_refused_when_the_worker_is_made() -> None:
    """With a sentence that says what to change."""
    workers, answers = "tcp://127.0.0.1:4162", "tcp://127.0.0.1:4163"
    with pytest.raises(ValueError, match="did you mean 'native'"):
        relet.Worker(workers, answers, echo, dialect="nativ")
    with pytest.raises(ValueError, match="did you mean '2010'"):
        relet.Worker(workers, answers, echo, dialect="201")
    with pytest.raises(ValueError, match="use 'native' or '2010'"):
        relet.Worker(workers, answers, echo, dialect="zzz")
    with pytest.raises(ValueError, match="answers at an endpoint of its own"):
        relet.Worker(workers, None, echo, dialect="2010")
    with pytest.raises(ValueError, match="default queue only"):
        relet.Worker(workers, answers, echo, dialect="2010", queues=("fast",))
    with pytest.raises(EndpointError):
        relet.Worker(workers, "tcp://localhost", echo, dialect="native")
    with pytest.raises(EndpointError):
        relet.Worker(workers, workers, echo, dialect="native")
    with pytest.raises(TypeError, match="pass a handler"):
        Worker(workers)
    with pytest.raises(TypeError, match=r"queues=\('fast',\)"):
        Worker(workers, echo, queues="fast")
    for queues in ((), ("",), ("x" * 201,), ("a", "a"), (3,), ("\udcff",), tuple(map(str, range(101)))):
        with pytest.raises(ValueError, match=r"queue|surrogates"):
            Worker(workers, echo, queues=queues)
    for weight in (0, 1_001, 1.5, True, "2"):
        with pytest.raises(ValueError, match="weight of queue 'a' is a whole number from 1 to 1000"):
            Worker(workers, echo, queues={"a": weight})
    for ahead in (0, 1_001):
        with pytest.raises(ValueError, match="ahead"):
            Worker(workers, echo, ahead=ahead)
    with pytest.raises(ValueError, match="context"):
        Worker("inproc://workers", echo)


def test_inproc_works_with_the_context_of_the_broker(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """No handshake tells that the broker is there; the welcome does."""
    broker = NativeBroker(context, "inproc://workers")
    with Running(Worker(broker.workers, echo, context=context)):
        broker.begin()
        broker.give(b"t", b"x")
        broker.hear(Complete)
    broker.close()


def test_log_lines_are_not_needed(native_broker: NativeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written does not end the library's thread."""

    def fault(*_: object, **__: object) -> None:
        raise OSError

    with Running(Worker(native_broker.workers, echo)) as worker:
        line: line_native.NativeLine = worker._line  # type: ignore[assignment]
        monkeypatch.setattr(line._log, "_log", fault)
        native_broker.begin()
        native_broker.say(Error(code="bad_header"))
        native_broker.give(b"t", b"x")
        native_broker.hear(Complete)
