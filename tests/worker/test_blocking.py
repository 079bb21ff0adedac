"""The blocking worker of 2010 against a broker that is told what to do: rude, gone, back, and gone for good."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import zmq

import relet
from relet import NoAnswer
from relet.transport.endpoints import EndpointError
from relet.transport.link import Sleeper
from relet.worker import HandBack, current_job

from .conftest import WAIT_SECONDS, FakeBroker, Gate, Lines, Running, until


class Worker(relet.Worker):
    """A worker of the dialect of 2010."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, dialect="2010", **keywords)


def echo(data: bytes) -> bytes:
    """The plainest handler."""
    return b"done: " + data


# --- Jobs.


def test_a_worker_asks_does_the_job_answers_and_asks_again(broker: FakeBroker) -> None:
    """One ask, one job, one answer; the next ask is sent when the job has ended."""
    with Running(Worker(broker.workers, broker.answers, echo)) as worker:
        for number in (b"1", b"2", b"3"):
            peer = broker.ask()
            assert broker.nobody_asks()
            broker.give(peer, b"id" + number, number)
            assert broker.answer() == [b"id" + number, b"done: " + number]
        broker.ask()
        assert worker.connected
    assert (worker.counters.jobs, worker.counters.answered) == (3, 3)


def test_a_derived_class_may_take_one_frame_or_several(broker: FakeBroker) -> None:
    """`process` for one frame, `process_multipart` for any number, both ways."""

    class Upper(Worker):
        def process(self, data: bytes) -> bytes:
            return data.upper()

    class Reverse(Worker):
        def process_multipart(self, frames: list[bytes]) -> Sequence[bytes]:
            return frames[::-1]

    with Running(Upper(broker.workers, broker.answers)):
        broker.give(broker.ask(), b"id", b"quiet")
        assert broker.answer() == [b"id", b"QUIET"]
        broker.ask()
    with Running(Reverse(broker.workers, broker.answers)):
        broker.give(broker.ask(), b"id", b"a", b"", b"c")
        assert broker.answer() == [b"id", b"c", b"", b"a"]


def test_large_jobs_reach_the_handler_as_bytes(broker: FakeBroker) -> None:
    """Above the pump's threshold for copying too."""
    types: list[type] = []

    def handler(data: bytes) -> bytes:
        types.append(type(data))
        return data

    with Running(Worker(broker.workers, broker.answers, handler)):
        broker.give(broker.ask(), b"id", bytes(300_000))
        assert broker.answer() == [b"id", bytes(300_000)]
    assert types == [bytes]


def test_asks_ahead_and_jobs_in_order(broker: FakeBroker) -> None:
    """Three ahead: three asks at once; the jobs are done in the order in which they came."""
    with Running(Worker(broker.workers, broker.answers, echo, ahead=3)):
        peers = [broker.ask() for _ in range(3)]
        assert len(set(peers)) == 1
        for number in range(3):
            broker.give(peers[0], b"id%d" % number, b"x")
        assert [broker.answer()[0] for _ in range(3)] == [b"id0", b"id1", b"id2"]
        for _ in range(3):
            broker.ask()


def test_no_answer_leaves_the_job_and_keeps_the_connection(broker: FakeBroker) -> None:
    """The worker asks again on the same connection, and nothing was sent for the job."""

    def handler(data: bytes) -> bytes:
        if data == b"drop":
            raise NoAnswer
        return data

    with Running(Worker(broker.workers, broker.answers, handler)) as worker:
        peer = broker.ask()
        broker.give(peer, b"id1", b"drop")
        assert broker.ask() == peer
        broker.give(peer, b"id2", b"keep")
        assert broker.answer() == [b"id2", b"keep"]
    assert worker.counters.unanswered == 1
    assert worker.counters.failed == 0


# --- Handlers that fail.


@pytest.mark.parametrize("wrong", ["text", None, [b"several"]])
def test_a_failed_handler_is_logged_and_reconnects(broker: FakeBroker, lines: Lines, wrong: Any) -> None:
    """Raising, or returning what is no answer: nothing is answered, and a new connection asks."""

    def handler(data: bytes) -> bytes:
        if data == b"raise":
            raise ZeroDivisionError("on purpose")
        return wrong if data == b"wrong" else data

    with Running(Worker(broker.workers, broker.answers, handler)) as worker:
        first = broker.ask()
        broker.give(first, b"id1", b"raise")
        second = broker.ask()
        assert second != first
        line = lines.wait_for("handler_failed")
        assert (line["level"], line["error"]) == ("error", "ZeroDivisionError('on purpose')")
        broker.give(second, b"id2", b"wrong")
        third = broker.ask()
        assert third not in {first, second}
        assert "TypeError" in lines.wait_for("handler_failed")["error"]
        broker.give(third, b"id3", b"fine")
        assert broker.answer() == [b"id3", b"fine"]
    assert worker.counters.failed == 2
    assert worker.counters.losses == 0


def test_a_job_of_several_frames_fails_where_one_is_expected(broker: FakeBroker, lines: Lines) -> None:
    """The log says what to change."""
    with Running(Worker(broker.workers, broker.answers, echo)):
        broker.give(broker.ask(), b"id", b"a", b"b")
        assert "override process_multipart" in lines.wait_for("handler_failed")["error"]
        broker.ask()


def test_a_job_of_no_frames_is_a_job(broker: FakeBroker, lines: Lines) -> None:
    """It fails where one frame is expected, and is done where any number is; either way the worker asks again."""

    class Count(Worker):
        def process_multipart(self, frames: list[bytes]) -> Sequence[bytes]:
            return (b"%d" % len(frames),)

    with Running(Worker(broker.workers, broker.answers, echo)):
        broker.give(broker.ask(), b"id")
        assert "a job of 0 frames" in lines.wait_for("handler_failed")["error"]
        broker.ask()
    with Running(Count(broker.workers, broker.answers)):
        broker.give(broker.ask(), b"id")
        assert broker.answer() == [b"id", b"0"]
        broker.ask()


def test_jobs_held_beside_the_failed_one_are_answered_before_the_worker_reconnects(broker: FakeBroker) -> None:
    """With `ahead` above 1 a failure costs no other job an attempt."""

    def handler(data: bytes) -> bytes:
        if data == b"fail":
            raise ValueError
        return data

    gate = threading.Event()

    def gated(data: bytes) -> bytes:
        assert gate.wait(WAIT_SECONDS)
        return handler(data)

    with Running(Worker(broker.workers, broker.answers, gated, ahead=3)) as worker:
        peer = broker.ask()
        broker.ask()
        broker.ask()
        for id_, body in ((b"1", b"fail"), (b"2", b"x"), (b"3", b"y")):
            broker.give(peer, id_, body)
        until(lambda: worker.counters.jobs == 3)
        gate.set()
        assert [broker.answer()[0], broker.answer()[0]] == [b"2", b"3"]
        assert broker.ask() != peer


def test_a_handler_that_hands_back_makes_the_worker_reconnect(broker: FakeBroker) -> None:
    """The dialect has no word for it; so the broker lets the job again at once."""

    def handler(data: bytes) -> bytes:
        if data == b"not mine":
            raise HandBack
        return data

    with Running(Worker(broker.workers, broker.answers, handler)) as worker:
        first = broker.ask()
        broker.give(first, b"id1", b"not mine")
        assert broker.ask() != first
        assert (worker.counters.handed_back, worker.counters.failed) == (1, 0)


def test_a_handler_knows_nothing_of_its_job_that_the_dialect_does_not_say(broker: FakeBroker) -> None:
    """What cannot be known is None, what cannot be said raises, and the message says what to change."""
    wrong: list[str] = []

    def handler(data: bytes) -> bytes:
        job = current_job()
        assert (job.id, job.uuid, job.attempt, job.tries, job.deadline) == (None,) * 5
        assert (job.queue, job.headers, job.cancelled, job.answer_headers) == ("default", {}, False, None)
        for say in (lambda: job.extend(1), lambda: job.progress(1), lambda: job.partial(b"")):
            with pytest.raises(RuntimeError, match="dialect='native'") as raised:
                say()
            wrong.append(str(raised.value))
        return data

    with Running(Worker(broker.workers, broker.answers, handler)):
        broker.give(broker.ask(), b"id", b"x")
        assert broker.answer() == [b"id", b"x"]
    assert len(wrong) == 3


# --- Rude brokers, lost brokers.


def test_garbage_and_jobs_that_nobody_asked_for_disturb_nothing(broker: FakeBroker, lines: Lines) -> None:
    """They are counted and logged; the ask stays good."""
    gate = Gate()
    with Running(Worker(broker.workers, broker.answers, gate)) as worker:
        peer = broker.ask()
        for frames in ([b""], [b"x", b"id"], [b"x", b"id", b"body"], [b"y"], [b"y"] * 50):
            broker.say(peer, *frames)
        broker.give(peer, b"id1", b"x")
        assert gate.has() == b"x"
        broker.give(peer, b"id2", b"unasked")
        until(lambda: worker.counters.jobs_refused == 1)
        gate.leave.put(b"done")
        assert broker.answer() == [b"id1", b"done"]
        broker.ask()
        assert lines.wait_for("request_refused")["count"] >= 1
    assert worker.counters.frames_refused == 5
    assert worker.counters.jobs == 1


def test_a_worker_asks_afresh_when_the_broker_is_back(broker: FakeBroker, lines: Lines) -> None:
    """Idle when it is lost: told once, and as many asks as before."""
    with Running(Worker(broker.workers, broker.answers, echo, ahead=2)) as worker:
        broker.ask()
        broker.ask()
        broker.close()
        assert lines.wait_for("broker_lost")["endpoint"] == broker.workers
        broker.open()
        peer = broker.ask()
        broker.ask()
        broker.give(peer, b"id", b"x")
        assert broker.answer() == [b"id", b"done: x"]
        assert worker.counters.losses == 1


def test_a_loss_drops_what_waits_and_answers_what_is_in_hand(broker: FakeBroker, lines: Lines) -> None:
    """The late answer goes to the broker that is there then; the job that was not started is never started."""
    gate = Gate()
    with Running(Worker(broker.workers, broker.answers, gate, ahead=2)) as worker:
        peer = broker.ask()
        broker.ask()
        broker.give(peer, b"in hand", b"1")
        broker.give(peer, b"waits", b"2")
        assert gate.has() == b"1"
        until(lambda: worker.counters.jobs == 2)
        broker.close()
        lines.wait_for("broker_lost")
        broker.open()
        peer = broker.ask()
        gate.leave.put(b"late")
        assert broker.answer() == [b"in hand", b"late"]
        broker.ask()
        broker.give(peer, b"new", b"3")
        assert gate.has() == b"3"
        gate.leave.put(b"fine")
        assert broker.answer() == [b"new", b"fine"]
        assert worker.counters.dropped == 1


def test_a_worker_that_lost_the_way_for_answers_asks_on_a_new_connection(broker: FakeBroker) -> None:
    """Answers under way may be lost, so the broker is shown that the worker has gone; the job in hand is answered."""
    gate = Gate()
    with Running(Worker(broker.workers, broker.answers, gate)) as worker:
        peer = broker.ask()
        broker.give(peer, b"id", b"1")
        assert gate.has() == b"1"
        broker.close_answers()
        until(lambda: not worker._line.peer.answering)
        broker.open_answers()
        gate.leave.put(b"late")
        assert broker.answer() == [b"id", b"late"]
        other = broker.ask()
        assert other != peer
        broker.close_answers()  # idle this time
        broker.open_answers()
        assert broker.ask() != other
        assert worker.counters.losses == 0


def test_a_broker_that_never_answers_is_told_within_a_second(broker: FakeBroker, lines: Lines) -> None:
    """And asked when it comes."""
    broker.close()
    began = time.monotonic()
    with Running(Worker(broker.workers, broker.answers, echo)):
        assert lines.wait_for("broker_unreachable")["endpoint"] == broker.workers
        assert time.monotonic() - began < 2  # a second, and what a busy machine adds
        broker.open()
        broker.ask()


def test_a_worker_whose_answers_have_nowhere_to_go_says_so_and_asks_for_nothing(
    broker: FakeBroker, lines: Lines
) -> None:
    """A wrong second endpoint must not burn attempts."""
    broker.close_answers()
    with Running(Worker(broker.workers, broker.answers, echo)):
        assert lines.wait_for("broker_unreachable")["endpoint"] == broker.answers
        assert broker.nobody_asks()
        broker.open_answers()
        broker.give(broker.ask(), b"id", b"x")
        assert broker.answer() == [b"id", b"done: x"]


def test_an_idle_worker_sleeps_without_a_timeout(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Having asked it has no reason to wake up before the job comes."""
    slept: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    sleep = Sleeper.sleep

    def spy(self: Sleeper, until: int | None, *args: Any) -> None:
        slept.put(until)
        sleep(self, until, *args)

    monkeypatch.setattr(Sleeper, "sleep", spy)
    with Running(Worker(broker.workers, broker.answers, echo)):
        broker.ask()
        deadline = time.monotonic() + WAIT_SECONDS
        while slept.get(timeout=deadline - time.monotonic()) is not None:
            pass


def test_an_idle_worker_holds_no_job_and_no_answer(broker: FakeBroker) -> None:
    """What the last batch brought belongs to the handler alone."""
    unshared, bodies, answers = [bytes(1_000)], [], [bytes(1_000)]

    def handler(data: bytes) -> bytes:
        bodies.append(data)
        return answers[0]

    with Running(Worker(broker.workers, broker.answers, handler)):
        broker.give(broker.ask(), b"id", bytes(1_000))
        broker.answer()
        broker.ask()
        until(lambda: sys.getrefcount(bodies[0]) == sys.getrefcount(unshared[0]))
        until(lambda: sys.getrefcount(answers[0]) == sys.getrefcount(unshared[0]))


# --- The end.


def test_stop_finishes_and_answers_the_job_in_hand_and_drops_the_rest(broker: FakeBroker) -> None:
    """The answer has left when `run` returns."""
    gate = Gate()
    running = Running(Worker(broker.workers, broker.answers, gate, ahead=2))
    peer = broker.ask()
    broker.give(peer, b"in hand", b"1")
    broker.give(peer, b"waits", b"2")
    assert gate.has() == b"1"
    running.worker.stop()
    gate.leave.put(b"last words")
    running.join()
    assert running.error is None
    assert broker.answer() == [b"in hand", b"last words"]
    assert gate.entered.empty()
    assert broker.nothing_answered()


def test_stop_before_run_and_run_twice(broker: FakeBroker) -> None:
    """A worker that was stopped stays stopped; one that runs cannot be run by a second thread."""
    worker = Worker(broker.workers, broker.answers, echo)
    with Running(worker):
        broker.ask()
        with pytest.raises(RuntimeError, match="running already"):
            worker.run()
    worker.run()
    assert broker.nobody_asks()


def test_stop_returns_though_the_broker_is_gone_and_an_answer_is_owed(broker: FakeBroker, lines: Lines) -> None:
    """The last answer gets a second, not for ever."""
    gate = Gate()
    running = Running(Worker(broker.workers, broker.answers, gate))
    broker.give(broker.ask(), b"id", b"1")
    gate.has()
    broker.close()
    lines.wait_for("broker_lost")
    running.worker.stop()
    gate.leave.put(b"to nobody")
    running.join()


PROGRAM = """
import signal, sys
from relet import Worker
def handler(data):
    if data == b"hang":
        print("in hand", flush=True)
        signal.pause()
    return data
worker = Worker(sys.argv[1], sys.argv[2], handler, dialect="2010")
if sys.argv[3] == "stop":
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
try:
    worker.run()
except KeyboardInterrupt:
    print("interrupted", worker.counters.answered, flush=True)
else:
    print("stopped", worker.counters.answered, flush=True)
"""


def program(broker: FakeBroker, how: str) -> subprocess.Popen[bytes]:
    """A worker in a process of its own."""
    arguments = [sys.executable, "-c", PROGRAM, broker.workers, broker.answers, how]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, env={"PYTHONPATH": "lib"})


def test_stop_in_a_signal_handler_ends_an_idle_worker_at_once(broker: FakeBroker) -> None:
    """The main thread waits for a job, and the signal's handler runs in that very thread."""
    with program(broker, "stop") as child:
        peer = broker.ask()
        broker.give(peer, b"id", b"x")
        broker.answer()
        broker.ask()
        child.send_signal(signal.SIGTERM)
        assert child.wait(WAIT_SECONDS) == 0
        assert child.stdout
        assert child.stdout.read() == b"stopped 1\n"


@pytest.mark.parametrize("body", [b"hang", None])
def test_ctrl_c_closes_and_goes_on_to_the_caller(broker: FakeBroker, body: bytes | None) -> None:
    """In a handler or between jobs: answers given before are flushed, the job in hand stays unanswered."""
    with program(broker, "raise") as child:
        assert child.stdout
        broker.give(broker.ask(), b"id1", b"x")
        assert broker.answer() == [b"id1", b"x"]
        peer = broker.ask()
        if body is not None:
            broker.give(peer, b"id2", body)
            assert child.stdout.readline() == b"in hand\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(WAIT_SECONDS) == 0
        assert child.stdout.read() == b"interrupted 1\n"
        assert broker.nothing_answered()


def test_a_terminated_context_ends_run(broker: FakeBroker, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Nothing hangs where the program's own context ends first."""
    running = Running(Worker(broker.workers, broker.answers, echo, context=context))
    broker.ask()
    broker.close()
    context.term()
    running.join()
    assert running.error is None


# --- At the door.


def test_what_cannot_be_is_refused_when_the_worker_is_made() -> None:
    """Endpoints, a missing handler, `ahead` out of bounds, `inproc` without a context."""
    workers, answers = "tcp://127.0.0.1:4162", "tcp://127.0.0.1:4163"
    with pytest.raises(EndpointError):
        Worker("tcp://*:4162", answers, echo)
    with pytest.raises(EndpointError):
        Worker(workers, workers, echo)
    with pytest.raises(TypeError, match="pass a handler"):
        Worker(workers, answers)
    with pytest.raises(ValueError, match="ahead"):
        Worker(workers, answers, echo, ahead=0)
    for wrong in (-5, 0, 1.5, "64MiB", None, True):
        with pytest.raises(ValueError, match="answer_bytes_max is a number of bytes, at least 1"):
            Worker(workers, answers, echo, answer_bytes_max=wrong)
    with pytest.raises(ValueError, match="context"):
        Worker("inproc://workers", answers, echo)


def test_an_answer_too_large_is_a_failure_of_the_handler(broker: FakeBroker, lines: Lines) -> None:
    """It would be refused, or cost the connection: the log says so, and the worker asks again."""
    with Running(Worker(broker.workers, broker.answers, lambda data: data * 2, answer_bytes_max=10)):
        broker.give(broker.ask(), b"id1", b"123456")
        assert "answer_bytes_max" in lines.wait_for("handler_failed")["error"]
        broker.give(broker.ask(), b"id2", b"12345")
        assert broker.answer() == [b"id2", b"1234512345"]


def test_a_handler_must_be_callable(broker: FakeBroker) -> None:
    """What can never do a job is refused where it is given."""
    with pytest.raises(TypeError, match="a handler is a function"):
        Worker(broker.workers, broker.answers, 3)  # type: ignore[arg-type]  # the mistake under test
