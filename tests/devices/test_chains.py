"""Chains of devices around a broker: clients and workers know only the next one, in either dialect."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from relet import Broker, Client, FailJob, JobFailed, Worker

from .conftest import LIMIT_S, Run

JOBS = 200


def handler(body: bytes) -> bytes:
    """What is bad fails."""
    if body == b"bad":
        raise FailJob("Bad", "as it was asked to", final=True)
    return body[::-1]


@contextmanager
def working(*endpoints: str, dialect: Any) -> Iterator[None]:
    """A worker in a thread."""
    worker = Worker(*endpoints, handler=handler, dialect=dialect)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(LIMIT_S)


@pytest.mark.parametrize("dialect", ["2010", "native"])
@pytest.mark.parametrize("monitor", [None, ":0"])
@pytest.mark.parametrize(("before", "behind"), [(3, 0), (0, 3), (2, 2)])
def test_jobs_go_through_chains_of_devices(
    run: Run, dialect: Any, monitor: str | None, before: int, behind: int
) -> None:
    """Queues before the broker and between it and its workers, streamers for the answers of 2010; none is lost."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(":0", ":0", ":0", tries=3, timeout=LIMIT_S, drain=0.0))
        reached = dict(broker.endpoints)
        chains = (("clients", "queue", before), ("workers", "queue", behind), ("answers", "streamer", behind))
        for role, kind, hops in chains:
            for _ in range(hops):
                reached[role] = run(kind, ":0", reached[role], connect_back=True, monitor=monitor).endpoints["front"]
        answers = (reached["answers"],) if dialect == "2010" else ()
        for _ in range(2):
            stack.enter_context(working(reached["workers"], *answers, dialect=dialect))
        clients = [
            stack.enter_context(Client(reached["clients"], dialect=dialect, timeout=LIMIT_S)) for _ in range(2)
        ]
        for client in clients:
            bodies = [b"%d" % number for number in range(JOBS)]
            assert list(client.map(bodies)) == [body[::-1] for body in bodies]
            with pytest.raises(JobFailed):
                client.call(b"bad" if dialect == "native" else b"")
        assert broker.counters.jobs_completed == len(clients) * (JOBS + (dialect == "2010"))


@pytest.mark.parametrize("dialect", ["2010", "native"])
def test_jobs_wait_while_a_device_is_paused(run: Run, dialect: Any) -> None:
    """And go on when it resumes."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(":0", ":0", ":0", drain=0.0))
        device = run("queue", ":0", broker.endpoints["clients"], connect_back=True)
        answers = (broker.endpoints["answers"],) if dialect == "2010" else ()
        stack.enter_context(working(broker.endpoints["workers"], *answers, dialect=dialect))
        client = stack.enter_context(Client(device.endpoints["front"], dialect=dialect, timeout=LIMIT_S))
        assert client.call(b"ab") == b"ba"
        device.pause()
        future = client.submit(b"cd")
        with pytest.raises(TimeoutError):
            future.result(0.02)
        device.resume()
        assert future.result(LIMIT_S) == b"dc"
