"""What only the blocking client has: a thread of its own, callers' threads, and signals that interrupt them."""

from __future__ import annotations

import concurrent.futures
import gc
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from relet import Client
from relet.client import ClientClosed
from relet.client.engine import Engine
from relet.messages import Heartbeat
from relet.transport.link import Sleeper

from .conftest import FakeBroker, Library, NativeBroker, settled, until

WAIT_SECONDS = 5.0


@pytest.fixture
def library() -> Library:
    """The blocking client alone."""
    return Library()


@pytest.fixture
def pool() -> Any:
    """Threads for callers that wait."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


def engine_of(client: Client) -> Engine:
    """The library's thread behind a client."""
    return client._engine


def test_an_idle_client_sleeps_without_a_timeout(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected and with nothing due it has no reason to wake up, also after requests that had a timeout."""
    slept: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    sleep = Sleeper.sleep

    def spy(self: Sleeper, until: int | None, *args: Any) -> None:
        slept.put(until)
        sleep(self, until, *args)

    monkeypatch.setattr(Sleeper, "sleep", spy)
    with broker.client(timeout=50) as client:
        settled(client, broker)
        deadline = time.monotonic() + WAIT_SECONDS
        while slept.get(timeout=deadline - time.monotonic()) is not None:
            pass


def test_waiting_in_a_callback_is_refused_instead_of_hanging(broker: FakeBroker) -> None:
    """Callbacks run in the thread that the answer would come through."""
    caught: list[BaseException] = []
    told = threading.Event()
    with broker.client() as client:

        def callback(_: concurrent.futures.Future[bytes]) -> None:
            try:
                client.call(b"from the callback")
            except RuntimeError as error:
                caught.append(error)
            told.set()

        client.submit(b"x").add_done_callback(callback)
        broker.answer(broker.hear())
        assert told.wait(WAIT_SECONDS)
        assert "callback must not wait" in str(caught[0])


def test_a_callback_that_exits_keeps_no_other_caller_waiting(broker: FakeBroker) -> None:
    """SystemExit in a callback ends the library's thread, but only when the rest of its batch was told."""

    def leave(_: concurrent.futures.Future[bytes]) -> None:
        raise SystemExit("on purpose")

    with broker.client() as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        entered, go_on = threading.Event(), threading.Event()

        def hold(_: concurrent.futures.Future[bytes]) -> None:
            entered.set()
            go_on.wait(WAIT_SECONDS)

        holding, leaving, other = client.submit(b"hold"), client.submit(b"leave"), client.submit(b"other")
        holding.add_done_callback(hold)
        leaving.add_done_callback(leave)
        heard = [broker.hear() for _ in range(3)]
        mapped = pool.submit(next, client.map([b"mapped"]))
        heard.append(broker.hear())
        unanswered = client.submit(b"unanswered")
        broker.hear()
        broker.answer(heard[0])
        assert entered.wait(WAIT_SECONDS)
        engine = engine_of(client)
        hear, gathered = engine.turns._hear, []

        def hear_together(messages: list[Any], now: int) -> None:
            gathered.extend(messages)
            if len(gathered) == 3:
                hear(gathered, now)

        engine.turns._hear = hear_together  # type: ignore[method-assign]
        for request in heard[1:]:
            broker.answer(request)
        go_on.set()
        assert leaving.result(WAIT_SECONDS) == b"leave"
        assert other.result(WAIT_SECONDS) == b"other"
        assert mapped.result(WAIT_SECONDS) == b"mapped"
        with pytest.raises(ClientClosed, match="on purpose") as caught:
            unanswered.result(WAIT_SECONDS)
        assert isinstance(caught.value.__cause__, SystemExit)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_exits_while_the_client_closes_keeps_nobody_waiting(broker: FakeBroker) -> None:
    """The last batch is told to its end too."""

    def leave(_: concurrent.futures.Future[bytes]) -> None:
        raise SystemExit("on purpose")

    with broker.client() as client:
        futures = [client.submit(b"1"), client.submit(b"2")]
        futures[0].add_done_callback(leave)
    for future in futures:
        with pytest.raises(ClientClosed):
            future.result(WAIT_SECONDS)


def test_a_client_that_nobody_refers_to_ends_its_thread(broker: FakeBroker) -> None:
    """A forgotten close leaks nothing."""
    client = broker.client()
    thread = engine_of(client)._thread
    del client
    gc.collect()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


def test_the_interpreter_ends_though_close_was_forgotten(broker: FakeBroker) -> None:
    """With an open request, a connection and a future that somebody still holds."""
    made = f"Client({broker.endpoint!r}, dialect={broker.dialect!r})"
    program = f"from relet import Client; c = {made}; f = c.submit(b'x'); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, env={"PYTHONPATH": "lib"}) as child:
        broker.hear()
        assert child.stdin
        child.stdin.write(b"\n")
        child.stdin.close()
        assert child.wait(WAIT_SECONDS) == 0


def test_a_forked_child_is_told_to_make_its_own_client(broker: FakeBroker) -> None:
    """It must neither use the parent's socket nor hang; the parent goes on."""
    program = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
from relet import Client, ClientClosed
client = Client({broker.endpoint!r}, dialect={broker.dialect!r})
future = client.submit(b"before")
child = os.fork()
if not child:
    try:
        client.call(b"in the child")
    except ClientClosed as error:
        assert "after the fork" in str(error)
        client.close()
        with Client({broker.endpoint!r}, dialect={broker.dialect!r}) as own:
            assert own.call(b"of the child") == b"of the child"
        sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert future.result(5) == b"before"
assert client.call(b"after") == b"after"
client.close()
"""
    with subprocess.Popen([sys.executable, "-c", program], env={"PYTHONPATH": "lib"}) as child:
        bodies = set()
        for _ in range(3):
            heard = broker.hear()
            bodies.add(heard[3])
            broker.answer(heard)
        assert child.wait(WAIT_SECONDS) == 0
        assert bodies == {b"before", b"of the child", b"after"}


def test_a_signal_that_raises_interrupts_call_and_abandons_the_request(broker: FakeBroker) -> None:
    """Ctrl-C while waiting is KeyboardInterrupt at once, and the client goes on."""
    with broker.client() as client:

        def interrupt() -> None:
            broker.hear()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.call(b"long")
        thread.join(WAIT_SECONDS)
        settled(client, broker)
        assert client.counters.abandoned == 1


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_signal_that_raises_while_a_request_is_submitted_leaks_no_place(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The request is in the inbox already, and nobody will ever wait for it."""
    with broker.client(requests_open_max=1) as client:
        engine = engine_of(client)
        submit = engine.submit

        def interrupted(request: Any) -> None:
            submit(request)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(engine, "submit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                getattr(client, way)(b"unwanted")
        client.submit(b"wanted", timeout=WAIT_SECONDS)
        assert client.counters.abandoned == 1


def test_an_idle_client_says_what_it_received_once_and_sleeps(
    native: NativeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One heartbeat with the receipt; after that no sleep has an end."""
    slept: list[int | None] = []
    sleep = Sleeper.sleep

    def spy(self: Sleeper, until: int | None, *args: Any) -> None:
        slept.append(until)
        sleep(self, until, *args)

    monkeypatch.setattr(Sleeper, "sleep", spy)
    with native.client(timeout=50) as client:
        future = client.submit(b"job")
        native.answer(native.hear())
        future.result(WAIT_SECONDS)
        peer, receipt, _ = native.hear_raw()
        assert receipt == Heartbeat(received=1)
        native.tell(peer, Heartbeat())
        until(lambda: bool(slept) and slept[-1] is None)
        assert native.is_silent(0)


def test_a_signal_that_raises_abandons_what_was_being_handed_over(
    native: NativeBroker, pool: concurrent.futures.Executor
) -> None:
    """Nobody waits for the acknowledgement any more; the client goes on."""
    with native.client() as client:

        def interrupt() -> None:
            native.hear_said()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupted = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.enqueue_many([b"1", b"2"])
        interrupted.result(WAIT_SECONDS)
        future = client.submit(b"next")
        native.answer(native.hear())
        assert future.result(WAIT_SECONDS) == b"next"
        assert client.counters.abandoned == 2
