"""Where handlers are called: one exercise for all pools, and what only one of them can show.

The broker is the test; it holds every job by a named pipe, so that nothing here waits for time to pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import relet
from relet import AsyncWorker, CurrentJob, Processes, Worker, current_job
from relet.messages import (
    Cancel,
    Complete,
    Error,
    Extend,
    Fail,
    Goodbye,
    HandBack,
    Heartbeat,
    Partial,
    Progress,
    Recall,
    Said,
    WorkerAsk,
    WorkerHello,
)

from . import handlers
from .conftest import WAIT_SECONDS, FakeBroker, Gate, Lines, NativeBroker, Running, until

PLACES = 3


class RunningLoop(Running):
    """An `AsyncWorker` in a loop in a thread."""

    def _work(self) -> None:
        asyncio.run(self.worker.run())  # type: ignore[arg-type]


class Kind:
    """One of the pools: how a worker of it is made and run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.awaits = name in {"loop", "async"}
        self.handler: Any = handlers.act_awaited if self.awaits else handlers.act
        self.places = 1 if name == "inline" else PLACES
        self.concurrency: Any = Processes(PLACES) if name == "processes" else self.places

    def worker(self, workers: str, **options: Any) -> Any:
        """A worker with this pool."""
        maker: Any = AsyncWorker if self.name == "async" else Worker
        return maker(workers, **{"handler": self.handler, "concurrency": self.concurrency, **options})

    def run(self, workers: str, **options: Any) -> Running:
        """The same, running."""
        worker = self.worker(workers, **options)
        return RunningLoop(worker) if self.name == "async" else Running(worker)


@pytest.fixture(params=["inline", "threads", "loop", "async", "processes"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the pools."""
    return Kind(request.param)


class Pipes:
    """Named pipes that hold jobs, by number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: set[int] = set()

    def body(self, number: int) -> bytes:
        """The body of a job that waits until it is let go."""
        path = self._folder / str(number)
        os.mkfifo(path)
        self._held.add(number)
        return b"wait %s" % os.fsencode(path)

    def let_go(self, number: int) -> None:
        """Its answer is its number. Fails where nobody comes to read it."""
        self._held.discard(number)
        opened: list[int] = []

        def is_read() -> bool:
            with contextlib.suppress(OSError):
                opened.append(os.open(self._folder / str(number), os.O_WRONLY | os.O_NONBLOCK))
            return bool(opened)

        until(is_read)
        os.write(opened[0], b"%d" % number)
        os.close(opened[0])

    def abandon(self) -> None:
        """Nobody shall wait for ever."""
        for number in self._held:
            with contextlib.suppress(OSError), (self._folder / str(number)).open("rb+", buffering=0) as pipe:
                pipe.write(b"abandoned")


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Pipes]:
    """To hold jobs with."""
    pipes = Pipes(tmp_path)
    yield pipes
    pipes.abandon()


def hold(broker: NativeBroker, pipes: Pipes, count: int) -> list[bytes]:
    """Let so many handlers have a job in hand each; their tokens."""
    tokens = [b"%d" % number for number in range(count)]
    for number, token in enumerate(tokens):
        broker.give(token, pipes.body(number))
    assert {broker.hear(Partial).token for _ in tokens} == set(tokens)
    return tokens


# --- The exercise.


def test_as_many_jobs_are_done_at_a_time_as_there_are_places(
    kind: Kind, native_broker: NativeBroker, pipes: Pipes
) -> None:
    """So many are asked for at first, all are begun and said to be, and answered in the order in which they end."""
    broker = native_broker
    with kind.run(broker.workers) as worker:
        hello = broker.welcome()
        assert hello.capacity == kind.places
        assert broker.hear(WorkerAsk).credit == kind.places
        tokens = hold(broker, pipes, kind.places)
        for number in reversed(range(kind.places)):
            pipes.let_go(number)
            said = broker.hear(Complete)
            assert (said.token, broker.body) == (tokens[number], [b"%d" % number])
        broker.give(b"next", b"echo x")
        assert broker.hear(Complete).started == kind.places + 1
        assert broker.body == [b"done: x"]
    broker.hear(Goodbye)
    assert worker.counters.answered == kind.places + 1


def test_many_jobs_go_through(kind: Kind, native_broker: NativeBroker) -> None:
    """Each is answered once; more and more are asked for ahead."""
    broker = native_broker
    with kind.run(broker.workers) as worker:
        credit, done = broker.begin().credit, 0
        answered: set[bytes] = set()
        while done < 2_000:
            while broker.seq < credit:
                broker.give(b"%d" % broker.seq, b"echo %d" % broker.seq, ack=done)
            said = broker.hear(Complete)
            assert broker.body == [b"done: " + said.token]
            answered.add(said.token)
            done, credit = said.n, max(credit, said.credit)
        assert len(answered) == done
        assert credit - done > kind.places
        until(lambda: worker.counters.answered >= done)


def test_what_a_handler_raises_is_an_outcome(kind: Kind, native_broker: NativeBroker, lines: Lines) -> None:
    """Failures with their words, jobs that are handed back or left alone, answers that are none."""
    broker = native_broker
    with kind.run(broker.workers, answer_bytes_max=100) as worker:
        broker.begin()
        broker.give(b"1", b"raise")
        said = broker.hear(Fail)
        assert (said.kind, said.text, said.final) == ("ZeroDivisionError", "on purpose", False)
        line = lines.wait_for("handler_failed")
        assert (line["error"], line["attempt"]) == ("ZeroDivisionError('on purpose')", 1)
        assert "exc_info" in line or "ZeroDivisionError" in line["exception"]
        broker.give(b"2", b"fail")
        said = broker.hear(Fail)
        assert (said.kind, said.text, said.retry_ms, said.final) == ("quota", "tomorrow", 250, True)
        broker.give(b"3", b"back")
        assert broker.hear(HandBack).token == b"3"
        broker.give(b"4", b"none")
        until(lambda: worker.counters.unanswered == 1)
        broker.give(b"5", b"wrong")
        assert broker.hear(Fail).kind == "TypeError"
        broker.give(b"6", b"large 101")
        assert "answer_bytes_max" in broker.hear(Fail).text
        broker.give(b"7", b"echo", b"two frames")
        assert "override process_multipart" in broker.hear(Fail).text
        broker.give(b"8", b"large 100")
        broker.hear(Complete)
        assert (worker.counters.failed, worker.counters.handed_back) == (5, 1)


def test_a_handler_knows_its_job_and_says_something_of_it(kind: Kind, native_broker: NativeBroker) -> None:
    """Who it is, how far it is, a piece of the result, that it needs longer; wrong words are refused at once."""
    broker = native_broker
    with kind.run(broker.workers):
        broker.begin()
        broker.give(b"t", b"tell", attempt=2, tries=3, headers={"trace": "1"}, run_ms=30_000, queue="default")
        broker.hear(Partial)
        assert broker.body == [b"two", b"frames"]
        answer: Any = None
        while answer is None:  # what waits when the answer is there is not sent any more
            message = broker.hear(Said)
            answer = message if isinstance(message, Complete) else None
            assert isinstance(message, Complete | Progress | Extend | WorkerAsk)
        assert answer.headers == {"answered": "yes"}
        said = json.loads(broker.body[0])
        assert 0 < said.pop("left") <= 30
        assert 560 < said.pop("later") <= 600
        token = b"t".rjust(16, b"j")
        assert said == {
            "id": token.hex(),
            "uuid": "6a6a6a6a-6a6a-6a6a-6a6a-6a6a6a6a6a74",
            "attempt": 2,
            "tries": 3,
            "queue": "default",
            "headers": {"trace": "1"},
            "cancelled": False,
            "wrong": ["ValueError", "TypeError", "ValueError"],
        }


def test_a_handler_sees_that_its_job_is_cancelled(kind: Kind, native_broker: NativeBroker) -> None:
    """While it runs, and the others go on."""
    broker = native_broker
    with kind.run(broker.workers):
        broker.begin()
        broker.give(b"t", b"watch")
        broker.hear(Partial)
        if kind.places > 1:
            broker.give(b"u", b"echo x")
            assert broker.hear(Complete).token == b"u"
        broker.say(Cancel(token=b"t", reason="cancelled"))
        assert broker.hear(Complete).token == b"t"
        assert broker.body == [b"seen"]


def test_hooks_are_around_every_job_in_their_order(kind: Kind, native_broker: NativeBroker) -> None:
    """They may change the answer, see what is raised, and raise themselves."""
    broker = native_broker
    hooks = (
        (handlers.outer_awaited, handlers.inner_awaited) if kind.awaits else (handlers.outer, handlers.inner)
    )
    with kind.run(broker.workers, hooks=hooks):
        broker.begin()
        broker.give(b"1", b"echo x")
        broker.hear(Complete)
        assert broker.body == [b"outer(inner(done: x))"]
        broker.give(b"2", b"raise", attempt=7)
        said = broker.hear(Fail)
        assert (said.kind, said.text) == ("hooked", "attempt 7: on purpose")
        broker.give(b"3", b"echo x", headers={"stop": "1"})
        assert broker.hear(HandBack).token == b"3"


def test_each_queue_has_its_handler(kind: Kind, native_broker: NativeBroker) -> None:
    """The queues that are served are those that have one."""
    broker = native_broker
    with kind.run(broker.workers, handler={"default": kind.handler, "mail": handlers.other}):
        assert broker.welcome().queues == ("default", "mail")
        broker.hear(WorkerAsk)
        broker.give(b"1", b"echo x", queue="default")
        broker.hear(Complete)
        assert broker.body == [b"done: x"]
        broker.give(b"2", b"echo x", queue="mail")
        broker.hear(Complete)
        assert broker.body == [b"other: echo x"]


# --- The end.


def test_what_is_in_hand_is_finished_when_the_worker_is_told_to_stop(
    kind: Kind, native_broker: NativeBroker, pipes: Pipes
) -> None:
    """All of it, and what waits behind goes back at once; then `run` returns."""
    broker = native_broker
    running = kind.run(broker.workers, ahead=kind.places + 1, drain=600)
    broker.begin()
    tokens = hold(broker, pipes, kind.places)
    broker.give(b"waits", b"echo x")
    until(lambda: running.worker.counters.jobs == kind.places + 1)
    running.worker.stop()
    hello = broker.welcome(handed=kind.places + 1)
    assert (set(hello.running), hello.held) == (set(tokens), ())
    for number in range(kind.places):
        pipes.let_go(number)
        assert broker.hear(Complete).token == tokens[number]
    broker.hear(Goodbye)
    running.join()
    assert running.error is None
    assert running.worker.counters.dropped == 1


@pytest.mark.parametrize("how", ["drained", "again"])
def test_what_does_not_end_is_handed_back(
    kind: Kind, native_broker: NativeBroker, pipes: Pipes, how: str
) -> None:
    """When the drain time is over, or at the second word. What a function says later is not heard any more."""
    broker = native_broker
    running = kind.run(broker.workers, drain=0.01 if how == "drained" else None)
    broker.begin()
    tokens = hold(broker, pipes, kind.places)
    running.worker.stop()
    if how == "again":
        running.worker.stop()
    assert {broker.hear(HandBack).token for _ in tokens} == set(tokens)
    if kind.name in {"inline", "threads"}:  # these cannot be ended
        for number in range(kind.places):
            pipes.let_go(number)
    broker.hear(Goodbye)
    running.join()
    assert running.error is None
    assert (running.worker.counters.handed_back, running.worker.counters.answered) == (kind.places, 0)


def test_what_is_no_exception_ends_the_worker(kind: Kind, native_broker: NativeBroker, pipes: Pipes) -> None:
    """It goes on to who called `run`, and everything in hand is handed back. In a process it ends that alone."""
    broker = native_broker
    running = kind.run(broker.workers)
    broker.begin()
    tokens = hold(broker, pipes, kind.places - 1)
    broker.give(b"end", b"exit")
    if kind.name == "processes":
        said = broker.hear(Fail)
        assert (said.token, said.kind, said.text) == (b"end", "ProcessDied", "its process ended with exit code 7")
        for number, token in enumerate(tokens):
            pipes.let_go(number)
            assert broker.hear(Complete).token == token
        broker.give(b"next", b"echo x")
        assert broker.hear(Complete).token == b"next"
        running.worker.stop()
        running.join()
        return
    assert {broker.hear(HandBack).token for _ in range(kind.places)} == {*tokens, b"end"}
    broker.hear(Goodbye)
    running.join()
    assert isinstance(running.error, SystemExit)


def test_a_broker_of_2010_is_served_by_every_pool(kind: Kind, broker: FakeBroker) -> None:
    """As many asks as there are places; answers as they come; where a handler fails, what else is there is answered."""
    with kind.run(broker.workers, answers=broker.answers, dialect="2010"):
        peers = [broker.ask() for _ in range(kind.places)]
        assert broker.nobody_asks()
        for number, peer in enumerate(peers):
            broker.give(peer, b"id%d" % number, b"echo x")
        assert {broker.answer()[0] for _ in peers} == {b"id%d" % number for number in range(kind.places)}
        peers = [broker.ask() for _ in range(kind.places)]
        for number, peer in reversed(list(enumerate(peers))):
            broker.give(peer, b"id%d" % number, b"raise" if number == 0 else b"echo x")
        assert {broker.answer()[0] for _ in peers[1:]} == {b"id%d" % number for number in range(1, kind.places)}
        while broker.ask() in peers:
            pass  # what ended before the failure had been asked for anew


def test_a_worker_that_has_given_up_sleeps(native_broker: NativeBroker) -> None:
    """The library's thread has nothing to do while a function goes on that nobody waits for."""
    broker, gate = native_broker, Gate()
    running = Running(Worker(broker.workers, handler=gate, drain=0.01))
    broker.begin()
    broker.give(b"t", b"x")
    assert gate.has() == b"x"
    running.worker.stop()
    assert broker.hear(HandBack).token == b"t"
    engine = running.worker._engine
    assert engine is not None
    until(engine._idle)
    gate.leave.put(b"")
    broker.hear(Goodbye)
    running.join()


# --- Threads.


def test_an_idle_thread_takes_what_comes_while_others_are_busy(native_broker: NativeBroker) -> None:
    """And a job that a busy worker has not begun is called back as ever."""
    broker, gate = native_broker, Gate()
    with Running(Worker(broker.workers, handler=gate, concurrency=2, ahead=4)) as worker:
        assert broker.begin().credit == 4
        for token in (b"a", b"b", b"c", b"d"):
            broker.give(token, token)
        assert {gate.has(), gate.has()} == {b"a", b"b"}
        broker.say(Recall(tokens=(b"c",)))
        assert broker.hear(HandBack).token == b"c"
        for _ in range(3):
            gate.leave.put(b"")
        assert gate.has() == b"d"
        until(lambda: worker.counters.answered == 3)


def test_a_later_attempt_is_not_begun_where_the_earlier_one_is_answered(native_broker: NativeBroker) -> None:
    """Whichever of several it is that the earlier one belongs to."""
    broker, gates = native_broker, {b"first": Gate(), b"second": Gate()}
    with Running(Worker(broker.workers, handler=lambda body: gates[body](body), concurrency=2, ahead=4)) as worker:
        broker.begin()
        broker.give(b"1", b"first", job=b"same")
        broker.give(b"2", b"second", job=b"also")
        for body, gate in gates.items():
            assert gate.has() == body
        broker.give(b"3", b"again", job=b"same", attempt=2)
        until(lambda: worker.counters.jobs == 3)
        gates[b"first"].leave.put(b"done")
        assert broker.hear(Complete).token == b"1"
        assert broker.hear(HandBack).token == b"3"
        gates[b"second"].leave.put(b"done")
        assert broker.hear(Complete).token == b"2"


PROGRAM = """
import queue, signal, sys
from relet import Worker
signalled = queue.SimpleQueue()
def handler(data):
    print("in hand", flush=True)
    return signalled.get()
async def awaited(data):
    import asyncio
    print("in hand", flush=True)
    await asyncio.Event().wait()
worker = Worker(sys.argv[1], handler=handler if sys.argv[2] == "threads" else awaited, concurrency=2, drain=0.01)
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
try:
    worker.run()
except KeyboardInterrupt:
    print("interrupted", flush=True)
print("ended", worker.counters.handed_back, flush=True)
"""


@pytest.mark.parametrize("pool", ["threads", "loop"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_thread_that_waits_for_the_pool(
    native_broker: NativeBroker, pool: str, number: signal.Signals
) -> None:
    """And a handler that never ends does not keep the program from ending."""
    broker = native_broker
    arguments = [sys.executable, "-c", PROGRAM, broker.workers, pool]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env={"PYTHONPATH": "lib"}) as child:
        try:
            assert child.stdout
            broker.begin()
            broker.give(b"t", b"x")
            assert child.stdout.readline() == b"in hand\n"
            child.send_signal(number)
            assert broker.hear(HandBack).token == b"t"
            broker.hear(Goodbye)
            assert child.wait(WAIT_SECONDS) == 0
            assert child.stdout.read() == (b"interrupted\n" if number == signal.SIGINT else b"") + b"ended 1\n"
        finally:
            child.kill()


# --- The loop.


def test_a_blocked_loop_does_not_stop_the_heartbeats(native_broker: NativeBroker) -> None:
    """The socket is not the loop's."""
    broker, gate = native_broker, Gate()

    async def block(data: bytes) -> bytes:
        return gate(data)

    with RunningLoop(AsyncWorker(broker.workers, handler=block)):  # type: ignore[arg-type]
        broker.begin(heartbeat_ms=50, liveness_ms=300)
        broker.give(b"t", b"x")
        assert gate.has() == b"x"
        for _ in range(10):
            broker.hear(Heartbeat)
            broker.say(Heartbeat())
        gate.leave.put(b"")
        broker.hear(Complete)


def test_a_function_beside_coroutines_runs_in_a_thread(native_broker: NativeBroker) -> None:
    """It does not block the loop, knows its job there, and coroutines may be put around it."""
    broker, gate = native_broker, Gate()
    seen: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()

    def function(data: bytes) -> bytes:
        seen.put((threading.current_thread().name, current_job().id))
        return gate(data)

    async def hook(job: CurrentJob, call: Callable[[], Any]) -> bytes:
        seen.put((threading.current_thread().name, job.id))
        return b"hooked " + await call()

    def quick(data: bytes) -> bytes:
        raise StopIteration

    mapped: Any = {"default": function, "mail": handlers.act_awaited, "stop": quick}
    with Running(Worker(broker.workers, handler=mapped, hooks=(hook,), concurrency=2)):
        broker.begin()
        broker.give(b"1", b"x")
        assert gate.has() == b"x"
        id_ = b"1".rjust(16, b"j")
        assert [seen.get(timeout=0), seen.get(timeout=0)] == [("relet-loop", id_), ("relet-handler", id_)]
        broker.give(b"2", b"echo x", queue="mail")
        broker.hear(Complete)
        assert broker.body == [b"hooked done: x"]
        gate.leave.put(b"done")
        broker.hear(Complete)
        assert broker.body == [b"hooked done"]
        broker.give(b"3", b"", queue="stop")
        assert broker.hear(Fail).kind == "RuntimeError"


def test_coroutines_have_a_current_job_each(native_broker: NativeBroker, pipes: Pipes) -> None:
    """Also in tasks and threads that they start, and no longer than the job lasts."""
    broker = native_broker
    ids: queue.SimpleQueue[object] = queue.SimpleQueue()
    late: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    async def handler(data: bytes) -> bytes:
        context = contextvars.copy_context()
        late.put(lambda: context.run(current_job))
        await handlers.act_awaited(data)
        in_thread = await asyncio.to_thread(lambda: current_job().id)
        ids.put({current_job().id, await asyncio.create_task(also()), in_thread})
        return b""

    async def also() -> object:
        return current_job().id

    with Running(Worker(broker.workers, handler=handler, concurrency=2)) as worker:
        broker.begin()
        tokens = hold(broker, pipes, 2)
        for number in (1, 0):
            pipes.let_go(number)
            assert broker.hear(Complete).token == tokens[number]
            assert ids.get(timeout=0) == {tokens[number].rjust(16, b"j")}
        until(lambda: worker.counters.answered == 2)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no current job"):
                late.get(timeout=0)()


def test_a_coroutine_that_is_cancelled_has_failed_or_is_handed_back(native_broker: NativeBroker, lines: Lines) -> None:
    """Failed where what it waited for was cancelled; where somebody cancelled it, that says nothing of the job. Its
    place goes on.
    """
    broker = native_broker

    async def handler(data: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        if data == b"future":
            future = loop.create_future()
            loop.call_soon(future.cancel)
            await future
        task = asyncio.current_task()
        if data == b"task" and task is not None:
            loop.call_soon(task.cancel)
            await asyncio.Event().wait()
        return data

    with Running(Worker(broker.workers, handler=handler)):
        broker.begin()
        broker.give(b"1", b"future")
        assert broker.hear(Fail).kind == "CancelledError"
        lines.wait_for("handler_failed")
        broker.give(b"2", b"task")
        assert broker.hear(HandBack).token == b"2"
        broker.give(b"3", b"x")
        broker.hear(Complete)


def test_coroutines_that_never_wait_leave_room_for_others(native_broker: NativeBroker) -> None:
    """The program's own tasks have their turn while there are jobs."""
    broker, turns = native_broker, itertools.count()

    async def handler(data: bytes) -> bytes:
        return data

    async def program() -> None:
        async with AsyncWorker(broker.workers, handler=handler) as worker:
            while worker.counters.answered < 5_000:
                next(turns)
                await asyncio.sleep(0)

    thread = threading.Thread(target=asyncio.run, args=(program(),))
    thread.start()
    credit, done = broker.begin().credit, 0
    while done < 5_000:
        while broker.seq < credit:
            broker.give(b"%d" % broker.seq, b"x", ack=done)
        said = broker.hear(Complete)
        done, credit = said.n, max(credit, said.credit)
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert next(turns) > 5


def test_async_with_works_while_the_block_lasts(native_broker: NativeBroker) -> None:
    """Its end is a stop: what is in hand is finished. A derived class has coroutines instead of a handler."""

    class Upper(AsyncWorker):
        async def process(self, data: bytes) -> bytes:
            await asyncio.sleep(0)
            return data.upper()

    class Reverse(AsyncWorker):
        async def process_multipart(self, frames: list[bytes]) -> list[bytes]:
            await asyncio.sleep(0)
            return frames[::-1]

    class Twice(AsyncWorker):
        async def process(self, data: bytes) -> bytes:
            return 2 * await super().process(data)

    async def program(worker: AsyncWorker, done: asyncio.Event) -> None:
        async with worker as same:
            assert same is worker
            with pytest.raises(RuntimeError, match="running already"):
                await worker.__aenter__()
            await done.wait()

    broker = native_broker
    workers: list[tuple[AsyncWorker, list[bytes]]] = [
        (Upper(broker.workers), [b"A"]),
        (Reverse(broker.workers), [b"a"]),
        (Twice(broker.workers, handler=bytes), [b"aa"]),
        (Twice(broker.workers, handler={"default": bytes}), [b"aa"]),
    ]
    for worker, answer in workers:
        loop = asyncio.new_event_loop()
        done = asyncio.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=(program(worker, done),))
        thread.start()
        broker.begin()
        broker.give(b"t", b"a")
        broker.hear(Complete)
        assert broker.body == answer
        loop.call_soon_threadsafe(done.set)
        broker.hear(Goodbye)
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_a_run_that_is_cancelled_hands_everything_back(native_broker: NativeBroker, pipes: Pipes) -> None:
    """The handlers are cancelled with it, and clean up."""
    broker, cleaned = native_broker, threading.Event()

    async def handler(data: bytes) -> bytes:
        try:
            return await handlers.act_awaited(data)
        finally:
            cleaned.set()

    async def program() -> None:
        task = asyncio.create_task(AsyncWorker(broker.workers, handler=handler).run())
        await handlers.read(pipes.body(99).removeprefix(b"wait "))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=asyncio.run, args=(program(),))
    thread.start()
    broker.begin()
    hold(broker, pipes, 1)
    pipes.let_go(99)
    assert broker.hear(HandBack).token == b"0"
    broker.hear(Goodbye)
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert cleaned.is_set()


def test_what_ends_a_worker_ends_an_asynchronous_one(native_broker: NativeBroker) -> None:
    """A queue that may not be used is told to who awaits `run`."""
    broker = native_broker
    running = RunningLoop(AsyncWorker(broker.workers, handler=bytes, queues=("male",)))  # type: ignore[arg-type]
    broker.hear(WorkerHello)
    broker.say(Error(code="unknown_queue", of="hello", queue="male"))
    running.join()
    assert isinstance(running.error, relet.QueueUnknown)


# --- At the door.


def test_what_cannot_be_is_refused_when_the_worker_is_made() -> None:
    """With a sentence that says what to change."""
    workers = "tcp://127.0.0.1:4162"
    for concurrency in (0, 1_001, -1):
        with pytest.raises(ValueError, match="concurrency must be between 1 and 1000"):
            Worker(workers, handler=bytes, concurrency=concurrency)
    with pytest.raises(TypeError, match="concurrency is a number of jobs"):
        Worker(workers, handler=bytes, concurrency="many")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="with concurrency 3 not 2, but 3"):
        Worker(workers, handler=bytes, concurrency=3, ahead=2)
    with pytest.raises(ValueError, match="drain is a number of seconds"):
        Worker(workers, handler=bytes, drain=-1)
    mapped: dict[str, Any] = {"mail": bytes, "reports": bytes}
    with pytest.raises(ValueError, match="no handler for queue 'male': did you mean 'mail'"):
        Worker(workers, handler=mapped, queues=("male",))
    with pytest.raises(ValueError, match="no handler for queue 'x': there are handlers for 'mail', 'reports'"):
        Worker(workers, handler=mapped, queues={"mail": 2, "x": 1})
    with pytest.raises(TypeError, match="the handler of queue 'x' is a function of bytes, not int"):
        Worker(workers, handler={"x": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="1 to 100 queues"):
        Worker(workers, handler={})
    with pytest.raises(TypeError, match="a hook is a function"):
        Worker(workers, handler=bytes, hooks=(3,))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="outer is a function, and cannot wait for act_awaited"):
        Worker(workers, handler=handlers.act_awaited, hooks=(handlers.outer,))
    with pytest.raises(TypeError, match="outer is a function, and cannot wait"):
        AsyncWorker(workers, handler=bytes, hooks=(handlers.outer, handlers.outer_awaited))
    with pytest.raises(TypeError, match="pass a handler"):
        AsyncWorker(workers)
    AsyncWorker(workers, handler=bytes, hooks=(handlers.outer_awaited, handlers.outer))
