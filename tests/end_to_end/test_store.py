"""A broker that keeps its jobs in a file, killed and stopped: whoever was promised something gets it from the next."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import zmq

import relet
from relet.messages import Records
from relet.store.sqlite import SqliteStore

from .conftest import LIMIT_S, BrokerProgram, Place, got, hear

ROLES = ("clients", "workers", "answers")


class Kept:
    """One broker after the other, at the same endpoints and on the same file."""

    def __init__(self, place: Place, folder: Path, *arguments: str) -> None:
        self._place = place
        self._arguments = ("--store", str(folder / "jobs.db"), "--log-level", "debug", *arguments)
        self.broker = place.broker(*self._arguments)

    def killed(self) -> BrokerProgram:
        """kill -9, and the next broker."""
        self.broker.signal(signal.SIGKILL)
        return self.next()

    def next(self) -> BrokerProgram:
        """When this one has ended, the next."""
        self.code = self.broker.ended()
        at = tuple(self.broker.endpoints[role] for role in ROLES)
        self.broker = self._place.broker(*self._arguments, at=at)
        return self.broker


@pytest.fixture
def kept(place: Place, tmp_path: Path) -> Kept:
    """A broker with a file."""
    return Kept(place, tmp_path, "-t", "3", "-T", "60")


@pytest.fixture
def client(kept: Kept) -> Iterator[relet.Client]:
    """A client of relet's own."""
    with relet.Client(kept.broker.endpoints["clients"], timeout=LIMIT_S) as client:
        yield client


class Waiting(relet.Worker):
    """Works on each job until it is told to go on, in a thread of its own."""

    def __init__(self, endpoint: str, **options: Any) -> None:
        super().__init__(endpoint, **options)
        self.begun: list[bytes] = []
        self.has_begun = threading.Event()
        self.go_on = threading.Event()
        self._thread = threading.Thread(target=self.run)

    def process(self, data: bytes) -> bytes:
        """Notes the job, and waits."""
        self.begun.append(data)
        self.has_begun.set()
        assert self.go_on.wait(LIMIT_S)
        return b"did " + data

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.stop()
        self._thread.join(LIMIT_S)


def test_a_call_in_flight_returns_across_a_killed_broker(kept: Kept, client: relet.Client) -> None:
    """Promise 2: neither who called nor who works notices; the job is done once."""
    with Waiting(kept.broker.endpoints["workers"]) as worker:
        future = client.submit(b"a")
        assert worker.has_begun.wait(LIMIT_S)
        client.enqueue(b"later")  # with its acceptance the hand-over is safe
        kept.killed()
        worker.go_on.set()
        assert future.result(LIMIT_S) == b"did a"
        assert worker.begun.count(b"a") == 1


def test_what_was_enqueued_is_done_by_the_next_broker(kept: Kept, client: relet.Client) -> None:
    """Promise 2: accepted is accepted. In the order of their acceptance, and the important ones first."""
    tickets = [client.enqueue(b"%d" % number) for number in range(5)]
    urgent = client.enqueue(b"urgent", terms=relet.Terms(priority=5))
    kept.killed()
    with Waiting(kept.broker.endpoints["workers"]) as worker:
        worker.go_on.set()
        assert client.result(urgent.request_id, timeout=LIMIT_S) == b"did urgent"
        answers = [client.result(ticket.request_id, timeout=LIMIT_S) for ticket in tickets]
    assert answers == [b"did %d" % number for number in range(5)]
    assert worker.begun == [b"urgent", *(b"%d" % number for number in range(5))]


def test_an_outcome_that_was_not_received_is_told_by_the_next_broker(kept: Kept, client: relet.Client) -> None:
    """Promise 2: it never changes, and the job is not done again."""
    ticket = client.enqueue(b"a")
    with Waiting(kept.broker.endpoints["workers"]) as worker:
        worker.go_on.set()
        kept.broker.event("job_finished")
    kept.killed()
    assert client.result(ticket.request_id, timeout=LIMIT_S) == b"did a"
    assert worker.begun == [b"a"]


def test_attempts_are_counted_across_brokers(place: Place, tmp_path: Path) -> None:
    """Promise 3: the third one is the last, in whosever life the first two were."""
    kept = Kept(place, tmp_path, "-t", "3")
    with relet.Client(kept.broker.endpoints["clients"], timeout=LIMIT_S) as client:
        ticket = client.enqueue(b"a")
        for life in range(3):
            worker = place.worker(kept.broker, answering="never")
            got(worker, "a")
            worker.signal(signal.SIGKILL)
            kept.broker.event("worker_lost")
            kept.broker.event("attempt_ended")
            if life < 2:
                client.enqueue(b"later")  # with its acceptance the end of the attempt is safe
                kept.killed()
        with pytest.raises(relet.JobFailed) as failed:
            client.result(ticket.request_id, timeout=LIMIT_S)
    assert (failed.value.attempts, [it.cause for it in failed.value.ledger]) == (3, ["worker_lost"] * 3)


def test_nobody_gets_the_answer_of_another_after_a_restart(kept: Kept, place: Place) -> None:
    """Promise 2: a return path is never stored. Others connect first, with the routing ids of those before; the job of
    the first life ends, and nobody is told.
    """
    asker = place.client(kept.broker)
    asker.send(b"of the first life")
    worker = place.socket(zmq.REQ, kept.broker.endpoints["workers"])
    worker.send(b"ask")
    token, body = hear(worker)
    assert body == b"of the first life"
    with relet.Client(kept.broker.endpoints["clients"], timeout=LIMIT_S) as witness:
        witness.enqueue(b"later", terms=relet.Terms(queue="other"))  # with its acceptance the hand-over is safe
    asker.close(linger=0)
    broker = kept.killed()
    others = [place.client(broker, zmq.DEALER) for _ in range(5)]
    for number, other in enumerate(others):
        other.send_multipart([b"", b"%d of the second life" % number])
    answers = place.socket(zmq.PUSH, broker.endpoints["answers"])
    answers.send_multipart([token, b"answer of the first life"])
    broker.event("job_finished")
    place.worker(broker)
    for number, other in enumerate(others):
        assert hear(other) == [b"", b"%d of the second life" % number]
    assert not any(other.poll(50) for other in others)


def test_a_stop_leaves_open_jobs_to_the_next_broker(kept: Kept, client: relet.Client) -> None:
    """An upgrade in place: stop the old one, start the new one. Nobody is told of failure; what a worker has in hand is
    waited for.
    """
    with Waiting(kept.broker.endpoints["workers"]) as worker:
        future = client.submit(b"a")
        assert worker.has_begun.wait(LIMIT_S)
        tickets = [client.enqueue(b"%d" % number) for number in range(3)]
        kept.broker.signal(signal.SIGTERM)
        kept.broker.event("broker_draining")
        worker.go_on.set()
        assert future.result(LIMIT_S) == b"did a"
        assert kept.broker.event("broker_stopped")["jobs_left"] == 3
        kept.next()
        assert kept.code == 0
        answers = [client.result(ticket.request_id, timeout=LIMIT_S) for ticket in tickets]
    assert answers == [b"did 0", b"did 1", b"did 2"]


def test_a_paused_queue_is_paused_in_the_next_broker(place: Place, tmp_path: Path) -> None:
    """Until somebody lets it go on."""
    kept = Kept(place, tmp_path, "--admin", f"ipc://{tmp_path}/admin")
    with relet.Client(kept.broker.endpoints["clients"], timeout=LIMIT_S) as client:
        ticket = client.enqueue(b"a", terms=relet.Terms(queue="mail"))
        with relet.Admin(f"ipc://{tmp_path}/admin") as admin:
            admin.pause("mail")
        kept.killed()
        with relet.Admin(f"ipc://{tmp_path}/admin") as admin:
            (mail,) = [queue for queue in admin.queues() if queue.name == "mail"]
            assert (mail.paused, mail.waiting) == ("both", 1)
            admin.resume("mail")
        with Waiting(kept.broker.endpoints["workers"], queues=["mail"]) as worker:
            worker.go_on.set()
            assert client.result(ticket.request_id, timeout=LIMIT_S) == b"did a"


def test_the_answer_to_a_hand_over_that_a_killed_broker_forgot_counts(tmp_path: Path) -> None:
    """Promise 2, and decision 13: the next broker has the file as it was before the hand-over; the worker goes on with
    its job, which is done once.
    """
    path, before = tmp_path / "jobs.db", tmp_path / "before.db"
    with relet.Broker(*("tcp://127.0.0.1:0",) * 3, store=path) as broker:
        at = [broker.endpoints[role] for role in ROLES]
        with relet.Client(at[0], timeout=LIMIT_S) as client:
            ticket = client.enqueue(b"a")
    before.write_bytes(path.read_bytes())
    with Waiting(at[1]) as worker:
        with relet.Broker(*at, store=path):
            assert worker.has_begun.wait(LIMIT_S)
        with relet.Broker(*at, store=before) as broker, relet.Client(at[0], timeout=LIMIT_S) as client:
            until = time.monotonic() + LIMIT_S
            while broker.counters.workers_arrived == 0:
                assert time.monotonic() < until
                threading.Event().wait(0.01)
            worker.go_on.set()
            assert client.result(ticket.request_id, timeout=LIMIT_S) == b"did a"
            assert (broker.counters.jobs_completed, broker.counters.dispatches) == (1, 0)
    assert worker.begun == [b"a"]


class SlowDisk(SqliteStore):
    """A store whose next commits take as long as the test wants."""

    def __init__(self, path: Path) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.waits = threading.Event()
        super().__init__(path)

    def _write(self, number: int, records: Records) -> None:
        if not self.goes_on.is_set():
            self.waits.set()
            assert self.goes_on.wait(LIMIT_S)
        super()._write(number, records)


def test_a_slow_disk_slows_replies_and_not_heartbeats(tmp_path: Path) -> None:
    """Workers hear the broker and are heard, for several times the liveness time; no lease ends; then all goes on."""
    liveness_s = 0.4
    store = SlowDisk(tmp_path / "jobs.db")
    limits = relet.Limits(liveness_ns=round(liveness_s * 1e9))
    endpoints = ("tcp://127.0.0.1:0",) * 3
    with relet.Broker(*endpoints, store=store, limits=limits, tries=1, timeout=60) as broker:
        beats: list[Any] = []
        with (
            relet.Client(broker.endpoints["clients"], timeout=LIMIT_S) as client,
            Waiting(broker.endpoints["workers"]) as worker,
        ):
            first = client.submit(b"a")
            assert worker.has_begun.wait(LIMIT_S)
            store.goes_on.clear()
            second = client.submit(b"b")
            assert store.waits.wait(LIMIT_S)
            stuck = time.monotonic()
            worker.go_on.set()
            while time.monotonic() - stuck < 4 * liveness_s:
                beats.append(broker.counters.workers_lost)
                assert not first.done()
                assert not second.done()
                threading.Event().wait(0.05)
            store.goes_on.set()
            assert (first.result(LIMIT_S), second.result(LIMIT_S)) == (b"did a", b"did b")
        assert set(beats) == {0}
        assert (broker.counters.workers_arrived, broker.counters.attempts_lost) == (1, 0)
    assert worker.begun == [b"a", b"b"]


def test_the_file_can_be_looked_at_while_nobody_has_it(kept: Kept, client: relet.Client, tmp_path: Path) -> None:
    """What the broker before left is there to be read, without relet."""
    client.enqueue(b"a")
    kept.broker.signal(signal.SIGTERM)
    assert kept.broker.ended() == 0
    assert json.loads(kept.broker.lines[-1])["jobs_left"] == 1
    store = SqliteStore(tmp_path / "jobs.db")
    try:
        assert [type(record).__name__ for record in store.load()] == ["Numbered", "Accepted"]
    finally:
        store.close()
