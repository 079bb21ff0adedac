"""Processes that die or freeze: jobs go elsewhere soon, and nobody else suffers."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import zmq

from .conftest import Place, got, hear


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
@pytest.mark.parametrize("kind", ["REQ", "DEALER"])
def test_a_job_of_a_killed_worker_runs_elsewhere_at_once(place: Place, tmp_path: Path, kind: str, scheme: str) -> None:
    """Promise 5: kill -9 of the worker that holds a job lets it to another within moments, without any timeout."""
    at = None if scheme == "tcp" else tuple(f"ipc://{tmp_path}/{role}" for role in "cwa")
    broker = place.broker(at=at)
    client = place.client(broker)
    holder = place.worker(broker, kind, answering="never")
    client.send(b"job")
    got(holder, "job")
    heir = place.worker(broker, kind)
    killed = time.monotonic()
    holder.signal(signal.SIGKILL)
    assert got(heir, "job") - killed < 2  # the bar is 50 ms, and the benchmark's to measure
    assert hear(client) == [b"job"]
    broker.signal(signal.SIGTERM)
    assert broker.ended() == 0
    stopped = broker.event("broker_stopped")
    assert (stopped["attempts_lost"], stopped["jobs_completed"], stopped.get("attempts_expired", 0)) == (1, 1, 0)


def test_a_killed_worker_costs_an_attempt_only_where_it_held_a_job(place: Place) -> None:
    """Promise 3: with one try a job survives a dead worker's ask, and ends with the worker that really held it."""
    broker = place.broker("-t", "1", "-T", "1m")
    client = place.client(broker)
    idle = [place.worker(broker) for _ in range(3)]
    for worker in idle:
        worker.signal(signal.SIGKILL)
        worker.ended()
    holder = place.worker(broker, answering="never")
    client.send(b"job")
    got(holder, "job")
    holder.signal(signal.SIGKILL)
    assert hear(client) == [b""]
    discarded = broker.event("job_discarded")
    assert (discarded["reason"], discarded["attempts"], discarded["causes"]) == ("tries_spent", 1, ["worker_lost"])


def test_a_frozen_worker_is_found(place: Place) -> None:
    """Promise 5: a worker that is stopped, not dead, is found by ZMTP heartbeats, and its job runs elsewhere."""
    broker = place.broker("-t", "3")
    client = place.client(broker)
    frozen = place.worker(broker, answering="never")
    client.send(b"job")
    got(frozen, "job")
    frozen.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    heir = place.worker(broker)
    assert got(heir, "job") - stopped < 8
    assert hear(client) == [b"job"]


def test_a_stop_of_the_broker_costs_nobody_anything(place: Place) -> None:
    """A broker that is frozen for longer than a timeout lasts drops no peer and ends no lease when it goes on."""
    broker = place.broker("-t", "1", "-T", "1s")
    clients = [place.client(broker) for _ in range(10)]
    worker = place.socket(zmq.DEALER, broker.endpoints["workers"])
    answers = place.socket(zmq.PUSH, broker.endpoints["answers"])
    tokens = []
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
        worker.send_multipart([b"", b""])
        tokens.append(hear(worker)[1:])
    broker.signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):  # it stays stopped for so long
        broker.process.wait(2.3)
    for job in tokens[:5]:
        answers.send_multipart(job)
    broker.signal(signal.SIGCONT)
    for job in tokens[5:]:
        answers.send_multipart(job)
    for number, client in enumerate(clients):
        assert hear(client) == [b"%d" % number]
    broker.signal(signal.SIGTERM)
    assert broker.ended() == 0
    stopped = broker.event("broker_stopped")
    assert stopped["jobs_completed"] == 10
    assert {"attempts_expired", "attempts_lost", "workers_lost"}.isdisjoint(stopped)


def test_after_a_restart_nobody_gets_the_answer_of_another(place: Place) -> None:
    """Promise 2: routing ids repeat after kill -9; the one who connects first is not told what another had asked."""
    broker = place.broker()
    asker = place.client(broker)
    asker.send(b"of the first life")
    worker = place.socket(zmq.REQ, broker.endpoints["workers"])
    worker.send(b"ask")
    token, body = hear(worker)
    at = tuple(broker.endpoints[role] for role in ("clients", "workers", "answers"))
    broker.signal(signal.SIGKILL)
    broker.ended()
    asker.close(linger=0)
    broker = place.broker(at=at)
    others = [place.client(broker, zmq.DEALER) for _ in range(5)]
    for number, other in enumerate(others):
        other.send_multipart([b"", b"%d of the second life" % number])
    answers = place.socket(zmq.PUSH, broker.endpoints["answers"])
    answers.send_multipart([token, b"answer of the first life"])
    place.worker(broker)
    for number, other in enumerate(others):
        assert hear(other) == [b"", b"%d of the second life" % number]
    broker.event("answer_refused")
    assert not any(other.poll(50) for other in others)
    assert body == b"of the first life"
