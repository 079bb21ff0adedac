"""The blocking worker in both dialects with the real broker and the real client: what only all three can show."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

import relet
from relet.worker import FailJob, HandBack, current_job

from .conftest import WAIT_SECONDS, Gate, Running, until

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
    assert running.worker.counters.handed_back == 2


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
