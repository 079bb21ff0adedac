"""How the broker's process ends: exit code 0 where nobody was owed an answer, else 4, and all are told."""

from __future__ import annotations

import signal

import pytest
import zmq

from .conftest import Place, hear


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_broker_with_0(place: Place, number: int) -> None:
    """SIGTERM or Ctrl-C with no job open: exit code 0, at once."""
    broker = place.broker()
    broker.signal(number)
    assert broker.ended() == 0
    assert broker.event("broker_stopped")["told_of_failure"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_now_with_4(place: Place, number: int) -> None:
    """With a job open the first signal drains; the second stops, the client is told, the exit code is 4."""
    broker = place.broker("--drain", "1h")
    client, late = place.client(broker), place.client(broker)
    worker = place.worker(broker, answering="never")
    client.send(b"job")
    worker.wait_for(lambda lines: "got job" in lines)
    broker.signal(number)
    assert broker.event("broker_draining")["jobs_open"] == 1
    late.send(b"late")
    assert hear(late) == [b""]
    broker.signal(number)
    assert hear(client) == [b""]
    assert broker.ended() == 4
    assert broker.event("broker_stopped")["told_of_failure"] == 1


def test_the_end_of_the_drain_time_ends_it_with_4(place: Place) -> None:
    """Where jobs are still open when the drain time is over, their clients are told and the exit code is 4."""
    broker = place.broker("--drain", "200ms")
    client = place.client(broker)
    worker = place.worker(broker, answering="never")
    client.send(b"job")
    worker.wait_for(lambda lines: "got job" in lines)
    broker.signal(signal.SIGTERM)
    assert hear(client) == [b""]
    assert broker.ended() == 4


def test_jobs_that_end_while_draining_end_it_with_0(place: Place) -> None:
    """Waiting jobs are still let while it drains; when none is left it ends with 0."""
    broker = place.broker("--drain", "1h")
    client = place.client(broker)
    holder = place.worker(broker, answering="never")
    client.send(b"job")
    holder.wait_for(lambda lines: "got job" in lines)
    broker.signal(signal.SIGTERM)
    broker.event("broker_draining")
    place.worker(broker)
    holder.signal(signal.SIGKILL)
    assert hear(client) == [b"job"]
    assert broker.ended() == 0


def test_no_signal_is_lost_on_the_way_to_sleep(place: Place) -> None:
    """A signal that comes just as the broker falls asleep, after its last answer, still ends it."""
    for _ in range(12):
        broker = place.broker()
        client, worker = place.client(broker), place.socket(zmq.REQ, broker.endpoints["workers"])
        answers = place.socket(zmq.PUSH, broker.endpoints["answers"])
        client.send(b"job")
        worker.send(b"ask")
        answers.send_multipart(hear(worker))
        hear(client)
        broker.signal(signal.SIGTERM)
        assert broker.ended() == 0
