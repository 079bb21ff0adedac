"""The blocking worker in both dialects with the real broker and the real client: what only all three can show."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

import relet
from relet.worker import FailJob, HandBack, current_job

from .conftest import WAIT_SECONDS, Gate, Lines, Running, until

LOOPBACK = "tcp://127.0.0.1:*"


@pytest.fixture
def endpoints() -> Iterator[dict[str, str]]:
    """A broker's, by role."""
    with relet.Broker(LOOPBACK, LOOPBACK, LOOPBACK) as broker:
        yield dict(broker.endpoints)


def worker_of(endpoints: dict[str, str], handler: Any, dialect: str = "native", **options: Any) -> relet.Worker:
    """A worker of this broker."""
    return relet.Worker(endpoints["workers"], endpoints["answers"], handler, dialect=dialect, **options)


def test_who_is_connected_to_the_endpoint_of_the_others_hears_of_it_soon(endpoints: dict[str, str]) -> None:
    """A client at the workers' endpoint: its calls raise. A worker at the clients': `run` does. Both say what to do."""
    with relet.Client(endpoints["workers"]) as client:
        for _ in range(2):
            with pytest.raises(relet.EndpointError, match="connect clients to the endpoint for clients") as misplaced:
                client.call(b"x", timeout=WAIT_SECONDS)
            assert str(misplaced.value).startswith(endpoints["workers"])
    running = Running(relet.Worker(endpoints["clients"], handler=bytes))
    running.join()
    assert isinstance(running.error, relet.EndpointError)
    assert str(running.error).startswith(endpoints["clients"])
    assert "connect workers to the endpoint for workers" in str(running.error)


def test_a_worker_for_a_queue_that_is_not_configured_ends_and_hears_which_are() -> None:
    """Where only those may be used."""
    queues = {f"q{number}": {} for number in range(12)}
    with relet.Broker(LOOPBACK, LOOPBACK, LOOPBACK, queues=queues, only_these_queues=True) as broker:
        running = Running(worker_of(dict(broker.endpoints), bytes, queues=("q3", "mail", "news")))
        running.join()
        assert isinstance(running.error, relet.QueueUnknown)
        assert running.error.queue == "mail"
        assert str(running.error).endswith(
            "there is no queue 'mail', and only those that are configured may be used: 'q0', 'q1', 'q2', 'q3', 'q4', "
            "'q5', 'q6', 'q7', 'q8', 'q9' and 2 more"
        )


@pytest.mark.parametrize("dialect", ["native", "2010"])
@pytest.mark.parametrize("asks_in", ["native", "2010"])
def test_jobs_cross_between_dialects(endpoints: dict[str, str], dialect: str, asks_in: str) -> None:
    """Asked in one, done in the other, by default settings."""
    with (
        Running(worker_of(endpoints, lambda data: data * 2, dialect)) as worker,
        relet.Client(endpoints["clients"], dialect=asks_in) as client,
    ):
        bodies = [b"%d" % number for number in range(500)]
        assert list(client.map(bodies, timeout=WAIT_SECONDS)) == [body * 2 for body in bodies]
    assert worker.counters.answered == 500
    assert (worker.counters.reports_refused, worker.counters.errors) == (0, 0)


def test_clients_of_one_job_leave_no_outcome_behind() -> None:
    """Each says at its end what it has received, and the broker hears it, though the client has gone by then."""
    with relet.Broker(LOOPBACK, LOOPBACK, LOOPBACK) as broker, Running(worker_of(dict(broker.endpoints), bytes)):
        for number in range(50):
            with relet.Client(broker.endpoints["clients"], timeout=WAIT_SECONDS) as client:
                client.call(b"%d" % number)
        until(lambda: broker.counters.outcomes_received == 50)


def test_a_failure_that_is_final_reaches_the_client_with_its_words(endpoints: dict[str, str]) -> None:
    """At once, whatever the tries."""

    def handler(_: bytes) -> bytes:
        raise FailJob("quota", "come back tomorrow", final=True)

    with (
        Running(worker_of(endpoints, handler)),
        relet.Client(endpoints["clients"], dialect="native") as client,
        pytest.raises(relet.JobFailed, match="come back tomorrow"),
    ):
        client.call(b"x", timeout=WAIT_SECONDS)


def test_a_job_that_is_handed_back_is_done_elsewhere(endpoints: dict[str, str]) -> None:
    """At the first attempt, because the one before did not count."""
    attempts: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def once(data: bytes) -> bytes:
        attempts.put(current_job().attempt)
        if attempts.qsize() == 1:
            raise HandBack
        return data

    with Running(worker_of(endpoints, once)), relet.Client(endpoints["clients"], dialect="native") as client:
        assert client.call(b"x", timeout=WAIT_SECONDS) == b"x"
    assert [attempts.get(timeout=0), attempts.get(timeout=0)] == [1, 1]


def test_a_stopped_worker_leaves_its_jobs_to_another(endpoints: dict[str, str]) -> None:
    """The job in hand is finished, those behind it go on elsewhere, none is lost and no attempt is."""
    gate = Gate()
    with relet.Client(endpoints["clients"], dialect="native") as client:
        running = Running(worker_of(endpoints, gate, ahead=3))
        futures = [client.submit(b"%d" % number, timeout=WAIT_SECONDS) for number in range(3)]
        assert gate.has() == b"0"
        attempts: list[int | None] = []

        def other(data: bytes) -> bytes:
            attempts.append(current_job().attempt)
            return b"other " + data

        with Running(worker_of(endpoints, other)):
            running.worker.stop()
            assert [future.result(WAIT_SECONDS) for future in futures[1:]] == [b"other 1", b"other 2"]
            gate.leave.put(b"last words")
            assert futures[0].result(WAIT_SECONDS) == b"last words"
        running.join()
    assert attempts == [1, 1]
    assert running.worker.counters.dropped == 2


def test_a_worker_goes_on_with_a_broker_that_was_started_anew() -> None:
    """In a job of the old one's; what it reports of that disturbs nobody."""
    gate = Gate()
    first = relet.Broker(LOOPBACK, LOOPBACK, LOOPBACK).start()
    endpoints = dict(first.endpoints)
    with Running(worker_of(endpoints, gate)), relet.Client(endpoints["clients"], dialect="native") as client:
        client.submit(b"1", timeout=WAIT_SECONDS)
        assert gate.has() == b"1"
        first.close()
        with relet.Broker(*(endpoints[role] for role in ("clients", "workers", "answers"))):
            gate.leave.put(b"late")
            future = client.submit(b"2", timeout=WAIT_SECONDS)
            while (body := gate.has()) != b"2":  # the client may have asked for the first one again
                gate.leave.put(b"again " + body)
            gate.leave.put(b"fine")
            assert future.result(WAIT_SECONDS) == b"fine"


def test_what_lies_with_a_busy_worker_is_recalled_for_one_that_has_nothing_to_do(endpoints: dict[str, str]) -> None:
    """Four jobs asked for ahead are done elsewhere while the first one takes its time."""
    gate = Gate()
    with (
        relet.Client(endpoints["clients"], dialect="native") as client,
        Running(worker_of(endpoints, gate, ahead=5)) as busy,
    ):
        futures = [client.submit(b"%d" % number, timeout=2 * WAIT_SECONDS) for number in range(5)]
        assert gate.has() == b"0"
        until(lambda: busy.counters.jobs == 5)
        with Running(worker_of(endpoints, lambda data: b"other " + data, ahead=1)):
            assert {future.result(WAIT_SECONDS) for future in futures[1:]} == {b"other %d" % n for n in range(1, 5)}
            gate.leave.put(b"0")
            assert futures[0].result(WAIT_SECONDS) == b"0"
    assert busy.counters.handed_back == 4


@pytest.mark.parametrize("by", ["future", "map", "request_id", "job_id"])
def test_a_cancelled_job_ends_in_the_hands_of_its_worker(endpoints: dict[str, str], by: str, lines: Lines) -> None:
    """The handler sees `job.cancelled`; what it answers all the same is refused, and nobody logs that."""
    begun: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def handler(data: bytes) -> bytes:
        if data == b"long":
            job = current_job()
            begun.put(data)
            until(lambda: job.cancelled)
        return data

    with (
        Running(worker_of(endpoints, handler)) as worker,
        relet.Client(endpoints["clients"], timeout=WAIT_SECONDS) as client,
    ):
        if by == "future":
            future = client.submit(b"long")
            begun.get(timeout=WAIT_SECONDS)
            assert future.cancel()
            assert future.cancelled()
        elif by == "map":
            for answer in client.map([b"short", b"long", b"long"]):
                assert answer == b"short"
                begun.get(timeout=WAIT_SECONDS)
                break
        else:
            ticket = client.enqueue(b"long")
            begun.get(timeout=WAIT_SECONDS)
            name: Any = {by: getattr(ticket, by)}
            until(lambda: client.state(**name).state == "running")  # the broker has heard of its start
            status = client.cancel(**name)
            assert (status.state, status.attempts, status.reason) == ("cancelled", 1, "cancelled")
            assert client.cancel(**name).reason == "cancelled", "saying it twice is harmless"
            with pytest.raises(relet.JobFailed, match="cancelled"):
                client.result(**name)
        assert client.call(b"next") == b"next"
        until(lambda: worker.counters.reports_refused == 1)
        assert (worker.counters.cancelled, worker.counters.reports_late) == (1, 1)
    assert begun.empty()
    assert "answer_refused" not in lines.events()


def test_a_job_that_others_wait_for_outlives_a_cancel(endpoints: dict[str, str]) -> None:
    """One of two clients wants it no more: the other has its answer. What waits in the first one ends."""
    gate = Gate()
    clients = endpoints["clients"]
    with (
        Running(worker_of(endpoints, gate)) as worker,
        relet.Client(clients, timeout=WAIT_SECONDS) as one,
        relet.Client(clients, timeout=WAIT_SECONDS) as two,
    ):
        name = b"of both of them."
        futures = [client.submit(b"x", request_id=name) for client in (one, two)]
        assert gate.has() == b"x"
        assert [client.state(name).state for client in (one, two)] == ["running", "running"]
        assert one.cancel(name).reason == "detached"
        with pytest.raises(relet.JobFailed, match="detached"):
            futures[0].result(WAIT_SECONDS)
        gate.leave.put(b"done")
        assert futures[1].result(WAIT_SECONDS) == b"done"
        assert worker.counters.cancelled == 0


def test_unique_jobs_are_one_at_a_time(endpoints: dict[str, str]) -> None:
    """Joined they share an answer; one that waits is replaced, one in hand is not; for a while after it the key is
    taken.
    """
    gate = Gate()
    clients = endpoints["clients"]

    def terms(mode: str, key: str = "k", **more: Any) -> relet.Terms:
        return relet.Terms(unique=key, unique_mode=mode, **more)  # type: ignore[arg-type]

    with (
        Running(worker_of(endpoints, gate, ahead=1)),
        relet.Client(clients, timeout=WAIT_SECONDS) as one,
        relet.Client(clients, timeout=WAIT_SECONDS) as two,
    ):
        first = one.submit(b"first", terms=terms("join", unique_for=600, keep=600))
        assert gate.has() == b"first"
        ticket = two.enqueue(b"second", terms=terms("join"))
        assert ticket.joined
        for mode in ("reject", "replace"):
            with pytest.raises(relet.JobRefused) as refused:
                two.call(b"other", terms=terms(mode))
            assert (refused.value.code, refused.value.job_id) == ("duplicate", ticket.job_id)
        waiting = one.submit(b"waiting", terms=terms("reject", "l"))
        assert one.state(job_id=ticket.job_id).state == "running"
        instead = two.enqueue(b"instead", terms=terms("replace", "l"))
        with pytest.raises(relet.JobFailed, match="replaced") as replaced:
            waiting.result(WAIT_SECONDS)
        assert replaced.value.replaced_by == instead.job_id
        gate.leave.put(b"of both")
        assert (first.result(WAIT_SECONDS), two.result(ticket.request_id)) == (b"of both", b"of both")
        assert two.call(b"third", terms=terms("join")) == b"of both"
        assert gate.has() == b"instead"
        gate.leave.put(b"done")
        assert two.result(instead.request_id) == b"done"
