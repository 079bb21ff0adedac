"""Both clients against a broker that is told what to do: silent, slow, double, rude, gone and back."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

import relet
from relet.client import (
    BrokerLost,
    Client,
    ClientClosed,
    Enqueued,
    JobFailed,
    JobRefused,
    JobUnknown,
    Terms,
    UnexpectedAnswer,
)
from relet.client.engine import Engine
from relet.transport.endpoints import EndpointError

from .conftest import FakeBroker, Library, Lines, settled, until

WAIT_SECONDS = 5.0
LOOPBACK = "tcp://127.0.0.1:0"


def waiting_for_room(client: Any) -> int:
    """How many callers wait for room."""
    engine = client._engine
    return engine._waiting_for_room if isinstance(engine, Engine) else len(engine._waiting)


# --- One job.


def test_submit_sends_a_request_and_gets_its_answer(broker: FakeBroker) -> None:
    """What comes back under the same name is the answer."""
    with broker.client() as client:
        future = client.submit(b"job")
        _, name, delimiter, body = heard = broker.hear()
        assert (delimiter, body) == (b"", b"job")
        assert len(name) == 16
        broker.answer(heard, b"done")
        assert future.result(WAIT_SECONDS) == b"done"
        assert client.connected


def test_call_waits_for_the_answer(broker: FakeBroker) -> None:
    """`call` and `call_multipart` return what the broker says."""
    with broker.client() as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        one = pool.submit(client.call, b"job")
        broker.answer(broker.hear(), b"done")
        assert one.result(WAIT_SECONDS) == b"done"
        several = pool.submit(client.call_multipart, [b"a", b"", b"c"])
        broker.answer(heard := broker.hear(), b"", b"x")
        assert heard[3:] == [b"a", b"", b"c"]
        assert several.result(WAIT_SECONDS) == [b"", b"x"]


def test_large_bodies_come_back_as_bytes(broker: FakeBroker) -> None:
    """Above the pump's threshold for copying, users still get `bytes`."""
    body = bytes(300_000)
    with broker.client() as client:
        future = client.submit(body)
        broker.answer(broker.hear())
        assert type(answer := future.result(WAIT_SECONDS)) is bytes
        assert answer == body


def test_a_job_that_was_given_up_is_a_failed_job(broker: FakeBroker) -> None:
    """For one frame and for several; in the 2010 dialect the empty frame is the whole of it."""
    with broker.client() as client:
        futures: list[concurrent.futures.Future[Any]] = [client.submit(b"a"), client.submit_multipart([b"a", b"b"])]
        for future in futures:
            broker.fail(broker.hear())
            with pytest.raises(JobFailed):
                future.result(WAIT_SECONDS)
        assert client.counters.failed == 2


def test_an_answer_of_several_frames_is_not_cut_down_to_one(broker: FakeBroker) -> None:
    """`submit` says so, and the frames are not lost."""
    with broker.client() as client:
        future = client.submit(b"a")
        broker.answer(broker.hear(), b"x", b"y")
        with pytest.raises(UnexpectedAnswer, match="2 frames") as caught:
            future.result(WAIT_SECONDS)
        assert caught.value.frames == (b"x", b"y")


def test_correlations_of_two_clients_have_nothing_in_common(broker_2010: FakeBroker) -> None:
    """Each client draws its own secret."""
    with broker_2010.client() as one, broker_2010.client() as two:
        one.submit(b"1")
        first = broker_2010.hear()[1]
        two.submit(b"2")
        assert broker_2010.hear()[1][:10] != first[:10]


@pytest.mark.parametrize("wrong", ["text", 1, None])
def test_what_is_not_bytes_is_refused_at_the_door(broker: FakeBroker, wrong: Any) -> None:
    """The caller hears of it, not the library's thread."""
    with broker.client() as client:
        with pytest.raises(TypeError):
            client.submit(wrong)
        with pytest.raises(TypeError):
            client.submit_multipart([b"fine", wrong])
        with pytest.raises(TypeError):
            client.submit_multipart(b"one frame")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="at least one frame"):
            client.submit_multipart([])
        settled(client, broker)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), sys.float_info.max])
def test_a_timeout_is_a_number_of_seconds_above_zero(broker: FakeBroker, timeout: float) -> None:
    """Anything else is refused, when the client is made and at each call."""
    with pytest.raises(ValueError, match="above 0"):
        broker.client(timeout=timeout)
    with broker.client() as client, pytest.raises(ValueError, match="above 0"):
        client.call(b"x", timeout=timeout)


def test_a_bad_endpoint_is_refused_with_what_to_change(library: Library) -> None:
    """Before any socket exists."""
    with pytest.raises(EndpointError):
        library("tcp://127.0.0.1:70000")
    with pytest.raises(ValueError, match="needs the context"):
        library("inproc://here")


# --- Time.


def test_no_answer_in_time_is_a_timeout_never_early_and_the_late_answer_is_counted(broker: FakeBroker) -> None:
    """The client's timeout holds where a call names none; the answer that comes after it finds no request."""
    with broker.client(timeout=0.05) as client:
        first = client.submit(b"first", timeout=None)
        broker.answer(broker.hear())
        assert first.result(WAIT_SECONDS) == b"first"
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"0\.05 s"):
            client.call(b"job")
        assert time.monotonic() - began >= 0.05
        broker.answer(broker.hear(), b"late")
        future = client.submit(b"next", timeout=None)
        broker.answer(broker.hear(), b"in time")
        assert future.result(WAIT_SECONDS) == b"in time"
        assert client.counters.expired == 1
        assert client.counters.answers_late == 1


@pytest.mark.parametrize("timeout", [30 * 86_400, sys.float_info.max / 1e9])
def test_a_timeout_may_be_as_long_as_one_likes(broker: FakeBroker, timeout: float) -> None:
    """Thirty days, and the largest that is accepted: waiting for the answer and for room."""
    with (
        broker.client(timeout=timeout, requests_open_max=1) as client,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        first = client.submit(b"1")
        heard = broker.hear()
        second = pool.submit(client.call, b"2")
        until(lambda: waiting_for_room(client) == 1 or second.done())
        broker.answer(heard)
        assert first.result(WAIT_SECONDS) == b"1"
        broker.answer(broker.hear())
        assert second.result(WAIT_SECONDS) == b"2"


def test_an_idle_client_holds_no_body_and_no_answer(broker: FakeBroker) -> None:
    """What the last batch brought belongs to the caller alone."""
    with broker.client() as client:
        unshared, body = [bytes(1_000)], [bytes(1_000)]
        future = client.submit(body[0])
        broker.answer(broker.hear())
        answer = [future.result(WAIT_SECONDS)]
        del future
        until(lambda: sys.getrefcount(body[0]) == sys.getrefcount(unshared[0]))
        until(lambda: sys.getrefcount(answer[0]) == sys.getrefcount(unshared[0]))


# --- Rude brokers.


def test_double_answers_and_garbage_disturb_nobody(broker_2010: FakeBroker, lines: Lines) -> None:
    """They are counted and logged, and the next job is done as if nothing had been."""
    with broker_2010.client() as client:
        future = client.submit(b"one")
        heard = broker_2010.hear()
        peer = heard[0]
        for frames in ([b""], [b"x"], [b"", b"", b""], [b"y"] * 50, [heard[1]], [heard[1], b"not empty", b"x"]):
            broker_2010.say(peer, *frames)
        broker_2010.answer(heard, b"first")
        broker_2010.answer(heard, b"second")
        assert future.result(WAIT_SECONDS) == b"first"
        settled(client, broker_2010)
        assert client.counters.answers_unknown == 2
        assert client.counters.frames_refused == 5
        assert lines.wait_for("answer_refused")["count"] >= 1


# --- Lost brokers.


def test_a_broker_that_never_answers_is_told_once_within_a_second(lines: Lines, broker: FakeBroker) -> None:
    """`broker_unreachable` comes though nothing is asked; when the broker comes, `broker_connected`."""
    broker.close()
    began = time.monotonic()
    with broker.client() as client:
        assert lines.wait_for("broker_unreachable")["endpoint"] == broker.endpoint
        assert time.monotonic() - began < 2  # a second, and what a busy machine adds
        future = client.submit(b"early")
        broker.open()
        broker.answer(broker.hear(), b"done")
        lines.wait_for("broker_connected")
        assert future.result(WAIT_SECONDS) == b"done"
        assert lines.rest() == []


def test_a_lost_broker_is_told_once_and_open_requests_are_sent_again(lines: Lines, broker: FakeBroker) -> None:
    """Same correlation, same body; the client is connected again when the broker is back on its port."""
    with broker.client() as client:
        answered, opened = client.submit(b"answered"), client.submit(b"open")
        broker.answer(broker.hear())
        before = broker.hear()
        assert answered.result(WAIT_SECONDS) == b"answered"
        broker.close()
        assert lines.wait_for("broker_lost")["requests_open"] == 1
        assert not client.connected
        broker.open()
        again = broker.hear()
        assert again[1:] == before[1:]
        broker.answer(again, b"done")
        assert opened.result(WAIT_SECONDS) == b"done"
        assert [line["event"] for line in lines.rest()] == ["broker_connected"]
        assert client.counters.resent == 1


def test_without_resend_what_was_sent_is_lost_with_the_broker(lines: Lines, broker: FakeBroker) -> None:
    """The caller learns that nobody knows whether the job was done; new requests wait for the broker."""
    with broker.client(resend=False) as client:
        future = client.submit(b"open")
        broker.hear()
        broker.close()
        with pytest.raises(BrokerLost):
            future.result(WAIT_SECONDS)
        later = client.submit(b"later")
        broker.open()
        heard = broker.hear()
        assert heard[3] == b"later"
        broker.answer(heard)
        assert later.result(WAIT_SECONDS) == b"later"


def test_a_broker_that_comes_and_goes_is_not_stormed(lines: Lines, broker: FakeBroker) -> None:
    """Four losses in a row end no request, and each broker hears it."""
    with broker.client() as client:
        future = client.submit(b"patient")
        for _ in range(4):
            heard = broker.hear()
            broker.close()
            lines.wait_for("broker_lost")
            broker.open()
        broker.answer(broker.hear())
        assert future.result(WAIT_SECONDS) == b"patient"
        assert heard[3] == b"patient"
        assert client.counters.losses == 4


# --- Bounds.


def test_submit_waits_for_room_at_most_as_long_as_its_timeout(broker: FakeBroker) -> None:
    """The third of two open requests gets no room, then an answer makes some."""
    with broker.client(requests_open_max=2) as client:
        first = client.submit(b"1")
        client.submit(b"2")
        with pytest.raises(TimeoutError, match="too many requests"):
            client.submit(b"3", timeout=0.02)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            third = pool.submit(client.call, b"3")
            broker.answer(broker.hear())
            assert first.result(WAIT_SECONDS) == b"1"
            assert broker.hear()[3] == b"2"
            broker.answer(broker.hear())
            assert third.result(WAIT_SECONDS) == b"3"


def test_bytes_are_bounded_too_but_one_large_request_always_goes(broker: FakeBroker) -> None:
    """The bound is on all bodies together."""
    with broker.client(requests_open_bytes_max=100) as client:
        large = client.submit(bytes(1_000))
        with pytest.raises(TimeoutError, match="too many requests"):
            client.submit(b"small", timeout=0.02)
        broker.answer(broker.hear(), b"ok")
        assert large.result(WAIT_SECONDS) == b"ok"
        settled(client, broker)


def test_a_cancelled_future_frees_its_place_and_wakes_who_waits_for_it(broker: FakeBroker) -> None:
    """Its answer, if one comes, is late."""
    with broker.client(requests_open_max=1) as client:
        unwanted = client.submit(b"unwanted")
        heard = broker.hear()
        assert unwanted.cancel()
        assert concurrent.futures.wait([unwanted], WAIT_SECONDS).done == {unwanted}
        wanted = client.submit(b"wanted", timeout=WAIT_SECONDS)
        broker.answer(heard, b"too late")
        broker.answer(broker.hear())
        assert wanted.result(WAIT_SECONDS) == b"wanted"
        assert client.counters.abandoned == 1
        assert client.counters.answers_late == 1


# --- The end.


def test_close_ends_what_is_open(broker: FakeBroker) -> None:
    """Futures, waiting calls and iterators alike, at once; closing again is nothing, using it again an error."""
    client = broker.client(requests_open_max=3)
    future = client.submit(b"1")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        call = pool.submit(client.call, b"2")
        iteration = pool.submit(list, client.map([b"3"]))
        for _ in range(3):
            broker.hear()
        blocked = pool.submit(client.submit, b"4")
        client.close()
        for ended in (future, call, iteration, blocked):
            with pytest.raises(ClientClosed):
                ended.result(WAIT_SECONDS)
    client.close()
    with pytest.raises(ClientClosed):
        client.call(b"5")
    if isinstance(client, Client):
        assert not client._engine._thread.is_alive()


def test_a_closed_client_gathers_nothing(broker: FakeBroker) -> None:
    """Who calls it again and again is refused, and leaves nothing behind."""
    client = broker.client()
    client.close()
    for _ in range(3):
        with pytest.raises(ClientClosed):
            client.call(b"late")
    assert not client._engine.turns.unwanted


def test_a_context_that_was_terminated_ends_the_client(context: Any, broker: FakeBroker) -> None:
    """Its requests end; nothing hangs."""
    with broker.client(context=context) as client:
        future = client.submit(b"x")
        broker.hear()
        broker.close()
        context.term()
        with pytest.raises(ClientClosed, match="context"):
            future.result(WAIT_SECONDS)


# --- Many.


class Echo:
    """A real broker with one worker that echoes, all in one dialect."""

    def __init__(self, dialect: str, library: Library) -> None:
        self.dialect = dialect
        self._library = library
        self.broker = relet.Broker(LOOPBACK, LOOPBACK, LOOPBACK)
        self.broker.start()
        self.endpoints = dict(self.broker.endpoints)
        answers = self.endpoints["answers"] if dialect == "2010" else None
        self.worker = relet.Worker(self.endpoints["workers"], answers, lambda data: data, ahead=100, dialect=dialect)
        self._thread = threading.Thread(target=self.worker.run)
        self._thread.start()

    def client(self, **options: Any) -> Any:
        """A client of this broker."""
        return self._library(self.endpoints["clients"], dialect=self.dialect, **options)

    def restart(self) -> None:
        """Another broker at the same endpoints."""
        self.broker.close()
        self.broker = relet.Broker(*(self.endpoints[role] for role in ("clients", "workers", "answers")))
        self.broker.start()

    def close(self) -> None:
        """Everything ends."""
        self.worker.stop()
        self._thread.join(WAIT_SECONDS)
        self.broker.close()
        assert not self._thread.is_alive()


@pytest.fixture(params=["2010", "native"])
def echo(request: pytest.FixtureRequest, library: Library) -> Iterator[Echo]:
    """Broker and worker in either dialect."""
    echo = Echo(request.param, library)
    yield echo
    echo.close()


def test_many_threads_share_one_client(echo: Echo) -> None:
    """Each gets its own answers."""
    with echo.client(timeout=30) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:

        def talk(number: int) -> bool:
            return all(client.call(b"%d/%d" % (number, i)) == b"%d/%d" % (number, i) for i in range(50))

        assert all(pool.map(talk, range(8)))
        assert client.counters.answered == 400


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("window", [1, 7, 1000])
def test_map_answers_every_job_once(echo: Echo, ordered: bool, window: int) -> None:
    """In the order of the jobs, or all of them in some order."""
    jobs = [b"%d" % i for i in range(500)]
    with echo.client(timeout=30) as client:
        answers = list(client.map(iter(jobs), ordered=ordered, window=window))
    assert answers == jobs if ordered else sorted(answers) == sorted(jobs)


def test_map_reads_no_further_than_its_window_and_nothing_before_it_is_asked(broker: FakeBroker) -> None:
    """Endless input is fine: one is read for one that is handed on."""
    taken = itertools.count()
    read: list[int] = []

    def endless() -> Iterator[bytes]:
        for number in taken:
            read.append(number)
            yield b"%d" % number

    with broker.client() as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        answers = client.map(endless(), window=3)
        assert read == []
        first = pool.submit(next, answers)
        heard = [broker.hear() for _ in range(3)]
        broker.answer(heard[1], b"second")
        settled_by = client.submit(b"marker")
        marker = broker.hear()
        broker.answer(marker)
        settled_by.result(WAIT_SECONDS)
        assert read == [0, 1, 2]  # the second is held for its turn, and keeps its place in the window
        assert not first.done()
        broker.answer(heard[0], b"first")
        assert first.result(WAIT_SECONDS) == b"first"
        assert next(answers) == b"second"
        assert read == [0, 1, 2, 3]
        answers.close()  # type: ignore[attr-defined]  # it is a generator


def test_map_as_they_come_hands_on_what_is_there(broker: FakeBroker) -> None:
    """The second answer first, where order does not matter."""
    with broker.client() as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        answers = client.map([b"1", b"2"], ordered=False)
        first = pool.submit(next, answers)
        one, two = broker.hear(), broker.hear()
        broker.answer(two)
        assert first.result(WAIT_SECONDS) == b"2"
        broker.answer(one)
        assert list(answers) == [b"1"]


def test_an_abandoned_map_leaves_nothing_open(broker: FakeBroker) -> None:
    """Leaving the loop early frees every place in the client."""
    with broker.client() as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        answers = client.map((b"%d" % i for i in range(100)), window=10)
        first = pool.submit(next, answers)
        heard = [broker.hear() for _ in range(10)]
        broker.answer(heard[0])
        first.result(WAIT_SECONDS)
        del answers, first
        gc.collect()
        settled(client, broker)
        assert client.counters.abandoned == 9
        assert len(client._engine.peer) == 0


def test_map_raises_the_first_error_in_its_place_or_hands_errors_on(broker: FakeBroker) -> None:
    """With `return_exceptions` a failed job is a value like others."""

    def serve() -> None:
        for _ in range(3):
            heard = broker.hear()
            if heard[3] == b"bad":
                broker.fail(heard)
            else:
                broker.answer(heard)

    jobs = [b"a", b"bad", b"c"]
    with broker.client() as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        a, bad, c = client.map(jobs, return_exceptions=True)
        assert (a, c) == (b"a", b"c")
        assert isinstance(bad, JobFailed)
        serving.result(WAIT_SECONDS)
        serving = pool.submit(serve)
        got = []
        with pytest.raises(JobFailed):  # noqa: PT012 - what came before the error matters
            for answer in client.map(jobs):
                got.append(answer)  # noqa: PERF402
        assert got == [b"a"]
        serving.result(WAIT_SECONDS)


@pytest.mark.parametrize("ordered", [True, False])
def test_map_hands_on_what_is_wrong_with_one_body(broker: FakeBroker, ordered: bool) -> None:
    """With `return_exceptions`, too large or of a wrong type: the others are done, and an error of `datas` ends it."""

    def datas() -> Iterator[Any]:
        yield b"a"
        yield bytes(101)
        yield "text"
        yield b"b"

    def serve() -> None:
        broker.answer(broker.hear())
        broker.answer(broker.hear())

    with broker.client(body_bytes_max=100) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        outcomes = list(client.map(datas(), ordered=ordered, return_exceptions=True))
        serving.result(WAIT_SECONDS)
        kinds = [type(outcome) for outcome in outcomes]
        if ordered:
            assert kinds == [bytes, ValueError, TypeError, bytes]
        assert sorted(map(str, kinds)) == sorted(map(str, [bytes, bytes, ValueError, TypeError]))
        with pytest.raises(ZeroDivisionError):
            list(client.map((b"%d" % (1 // n) for n in (0,)), return_exceptions=True))


def test_map_times_out_job_by_job(broker: FakeBroker) -> None:
    """A silent broker costs the timeout, not for ever."""
    with broker.client() as client:
        outcomes = list(client.map([b"a", b"b"], timeout=0.02, return_exceptions=True))
        assert [type(outcome) for outcome in outcomes] == [TimeoutError, TimeoutError]


def test_map_refuses_an_empty_window_and_bad_bodies(broker: FakeBroker) -> None:
    """At once where it can, else when the body is read; what was open then is abandoned."""
    with broker.client() as client:
        with pytest.raises(ValueError, match="window"):
            client.map([], window=0)
        with pytest.raises(TypeError, match="bytes"):
            list(client.map([b"fine", "text"]))  # type: ignore[list-item]
        settled(client, broker)
        assert len(client._engine.peer) == 0


def test_map_of_nothing_is_nothing(broker: FakeBroker) -> None:
    """No job, no answer, no wait."""
    with broker.client() as client:
        assert list(client.map([])) == []


@pytest.mark.parametrize("dialect", ["2010", "native"])
def test_everything_in_one_process_over_inproc(dialect: str, library: Library) -> None:
    """Broker, worker and client that share a context need no network."""
    with (
        zmq.Context() as context,
        relet.Broker("inproc://clients", "inproc://workers", "inproc://answers", context=context),
    ):
        answers = "inproc://answers" if dialect == "2010" else None
        worker = relet.Worker("inproc://workers", answers, bytes.upper, context=context, dialect=dialect)
        thread = threading.Thread(target=worker.run)
        thread.start()
        with library("inproc://clients", context=context, timeout=WAIT_SECONDS, dialect=dialect) as client:
            assert list(client.map([b"a", b"b", b"c"])) == [b"A", b"B", b"C"]
        worker.stop()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def test_map_survives_restarts_of_a_real_broker(echo: Echo) -> None:
    """Clients send again, workers ask again: every job is answered though the broker came and went three times. In the
    dialect of 2010 a broker that stops says only that its jobs have failed.
    """
    answers = []
    with echo.client(timeout=30) as client:
        for answer in client.map((b"%d" % i for i in range(4_000)), window=50, return_exceptions=True):
            answers.append(answer)
            if len(answers) % 1_000 == 0 and len(answers) < 4_000:
                echo.restart()
        assert client.counters.losses == 3
    told = [i for i, answer in enumerate(answers) if isinstance(answer, JobFailed)]  # when the broker was stopped
    assert all(answers[i] == b"%d" % i for i in range(4_000) if i not in told)
    assert len(told) <= (3 * 50 if echo.dialect == "2010" else 0)


def test_jobs_are_handed_over_and_fetched_from_a_real_broker(library: Library) -> None:
    """By another client, after the first one has gone; what is fetched and not kept is gone then."""
    echo = Echo("native", library)
    try:
        with echo.client(timeout=30) as client:
            handed = [
                one for one in client.enqueue_many([b"%d" % i for i in range(1_500)]) if isinstance(one, Enqueued)
            ]
            kept = client.enqueue(b"kept", terms=Terms(keep=60))
        assert len({one.job_id for one in handed}) == 1_500
        with echo.client(timeout=30) as client:
            assert [client.result(one.request_id) for one in handed[:50]] == [b"%d" % i for i in range(50)]
            assert [client.result(job_id=one.job_id) for one in handed[-50:]] == [
                b"%d" % i for i in range(1_450, 1_500)
            ]
            assert client.call(b"kept", request_id=kept.request_id) == b"kept"
            assert client.state(kept.request_id).state == "completed"
            assert client.result_multipart(job_id=kept.job_id) == [b"kept"]
            with pytest.raises(JobRefused, match="conflict"):
                client.call(b"of another size", request_id=kept.request_id)
            with pytest.raises(JobUnknown):
                client.result(b"nobody asked for")
    finally:
        echo.close()


def test_a_body_too_large_is_refused_here_and_harms_no_other(broker: FakeBroker) -> None:
    """A body that would cost the connection is a ValueError at the call; what is under way beside it goes on."""
    with broker.client(body_bytes_max=1_000) as client:
        beside = client.submit(b"beside")
        with pytest.raises(ValueError, match="body_bytes_max"):
            client.call(b"x" * 1_001)
        with pytest.raises(ValueError, match="body_bytes_max"):
            client.submit_multipart([b"x" * 600, b"x" * 600])
        broker.answer(broker.hear(), b"done")
        assert beside.result(WAIT_SECONDS) == b"done"
