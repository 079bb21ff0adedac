"""How a broker ends: new work is refused at once, open work goes on for a while, and all are told."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import zmq

from relet import Limits
from relet.broker import Broker
from relet.events import Event

from .conftest import LIMIT_S, Site


class Running:
    """A broker that runs in a thread of the test, so that the result of `run` can be seen."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.told = -1
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.told = self.broker.run()

    def ended(self) -> int:
        """Waits for the end; how many clients were told of failure."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return self.told


def receive(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The next message, from a broker that runs by itself."""
    assert socket.poll(LIMIT_S * 1_000)
    return socket.recv_multipart()


def test_an_idle_broker_stops_at_once(site: Site) -> None:
    """Nobody is owed an answer: the first stop ends it, and says so."""
    running = Running(site.open())
    site.broker.stop()
    assert running.ended() == 0
    assert site.lines.of(Event.BROKER_STOPPED)[0]["told_of_failure"] == 0


def test_the_first_stop_drains(site: Site) -> None:
    """After the first stop a new request gets the empty frame at once, and the open one its answer."""
    running = Running(site.open(drain=60))
    client, late, worker, answers = site.client(), site.client(), site.worker(), site.answers()
    client.send(b"job")
    worker.send(b"ask")
    token, _ = receive(worker)
    site.broker.stop()
    late.send(b"too late")
    assert receive(late) == [b""]
    answers.send_multipart([token, b"done"])
    assert receive(client) == [b"done"]
    assert running.ended() == 0
    assert site.broker.counters.requests_refused == 1


def test_waiting_jobs_are_still_let_while_draining(site: Site) -> None:
    """Jobs that wait when the stop comes go on: workers ask and get them."""
    running = Running(site.open(drain=60))
    client, worker, answers = site.client(zmq.DEALER), site.worker(), site.answers()
    for i in range(5):
        client.send_multipart([b"", b"%d" % i])
    worker.send(b"ask")
    job = receive(worker)
    limit = time.monotonic() + LIMIT_S
    while site.broker.counters.jobs_accepted < 5:
        assert time.monotonic() < limit
    site.broker.stop()
    for i in range(5):
        answers.send_multipart(job)
        assert receive(client) == [b"", b"%d" % i]
        if i < 4:
            worker.send(b"ask")
            job = receive(worker)
    assert running.ended() == 0


def test_when_the_drain_time_is_over_everybody_is_told(site: Site) -> None:
    """Open jobs have the drain time and no more; then each client gets one empty frame, running or waiting alike."""
    running = Running(site.open(drain=0.1))
    client, worker = site.client(zmq.DEALER), site.worker()
    worker.send(b"ask")
    for i in range(3):
        client.send_multipart([b"%d" % i, b"", b"job"])
    receive(worker)
    limit = time.monotonic() + LIMIT_S
    while site.broker.counters.jobs_accepted < 3:
        assert time.monotonic() < limit
    site.broker.stop()
    assert sorted(receive(client) for _ in range(3)) == [[b"%d" % i, b"", b""] for i in range(3)]
    assert running.ended() == 3


def test_the_second_stop_ends_it_now(site: Site) -> None:
    """A second stop does not wait for the drain time; every client is told, also thousands of them."""
    running = Running(site.open(drain=3_600))
    client = site.client(zmq.DEALER)
    for i in range(5_000):
        client.send_multipart([b"%d" % i, b"", b"job"])
    limit = time.monotonic() + LIMIT_S
    while site.broker.counters.jobs_accepted < 5_000:
        assert time.monotonic() < limit
    site.broker.stop()
    site.broker.stop()
    told = {receive(client)[0] for _ in range(5_000)}
    assert told == {b"%d" % i for i in range(5_000)}
    assert running.ended() == 5_000


def test_a_request_that_lies_unread_at_the_stop_is_refused(site: Site) -> None:
    """What the broker has not read when it is stopped for good gets the empty frame, too, not silence."""
    site.open(limits=Limits(jobs_max=10), drain=0)
    client, unread = site.client(zmq.DEALER), site.client()
    for _ in range(11):
        client.send_multipart([b"", b"job"])
    site.until(lambda: site.lines.of(Event.INTAKE_PAUSED))
    unread.send(b"unread")
    assert site.silent(unread)
    running = Running(site.broker)
    site.broker.stop()
    assert receive(unread) == [b""]
    assert [receive(client) for _ in range(11)] == [[b"", b""]] * 11
    assert running.ended() == 11


def test_a_client_that_does_not_read_does_not_hold_up_the_end(site: Site) -> None:
    """Replies that nobody reads are given up about a second after the stop, and the number is said."""
    running = Running(site.open(drain=0))
    slow = site.client(zmq.DEALER, rcvhwm=1, rcvbuf=4_096)
    path = [b"p" * 250] * 30
    for _ in range(4_000):
        slow.send_multipart([*path, b"", b"job"])
    limit = time.monotonic() + LIMIT_S
    while site.broker.counters.jobs_accepted < 4_000:
        assert time.monotonic() < limit
    began = time.monotonic()
    site.broker.stop()
    assert running.ended() == 4_000
    assert time.monotonic() - began < 5
    assert site.lines.of(Event.BROKER_STOPPED)[0]["replies_unread"] > 0


@pytest.mark.parametrize("scheme", ["tcp", "inproc"])
def test_a_broker_in_a_thread_ends_with_its_block(site: Site, scheme: str) -> None:
    """`with Broker(...)` serves in a thread; at the end its clients are told, its thread is gone, its port is free."""
    endpoints = ("tcp://127.0.0.1:0",) * 3 if scheme == "tcp" else ("inproc://c", "inproc://w", "inproc://a")
    context = site.context if scheme == "inproc" else None
    with Broker(*endpoints, context=context, log=site.lines) as broker:
        client = site.connect_to(zmq.REQ, broker.endpoints["clients"])
        client.send(b"job")
        limit = time.monotonic() + LIMIT_S
        while not broker.counters.jobs_accepted:
            assert time.monotonic() < limit
    assert receive(client) == [b""]
    assert not [thread for thread in threading.enumerate() if thread.name == "relet-broker"]
    if scheme == "tcp":
        Broker(*broker.endpoints.values(), log=site.lines).close()
    broker.close()  # again: nothing happens
    with pytest.raises(RuntimeError, match="make another"):
        broker.start()


def test_a_broker_that_never_ran_can_be_closed(site: Site) -> None:
    """`close` without `start` tells the clients that turns have brought in, and frees the endpoints."""
    broker = site.open()
    client = site.client()
    client.send(b"job")
    site.until(lambda: broker.counters.jobs_accepted)
    broker.close()
    assert receive(client) == [b""]


def test_closing_tells_everybody_however_soon_it_comes(site: Site) -> None:
    """A second stop that comes while the broker is telling its clients does not make it leave some out."""
    jobs = 20_000
    broker = site.open(drain=0.0)
    client = site.client(zmq.DEALER, rcvhwm=0, sndhwm=0)
    for _ in range(jobs):
        client.send_multipart([b"", b"job"])
    site.until(lambda: broker.jobs_open == jobs)
    running = Running(broker)
    broker.stop()
    broker.close()
    assert running.ended() == jobs
    assert [receive(client) for _ in range(jobs)] == [[b"", b""]] * jobs
    assert broker.jobs_open == 0


def test_who_has_gone_is_owed_nothing(site: Site) -> None:
    """The stop counts the clients that it told, not those that had left."""
    broker = site.open(drain=0.0)
    gone, here = site.client(zmq.DEALER), site.client(zmq.DEALER)
    for client in (gone, here):
        client.send_multipart([b"", b"job"])
    site.until(lambda: broker.jobs_open == 2)
    gone.close(linger=0)
    site.until(lambda: len(broker._clients._pump.peers) == 1)
    running = Running(broker)
    broker.stop()
    assert running.ended() == 1


def test_a_stop_that_rings_just_before_the_poll_is_heard(site: Site) -> None:
    """An alarm that was rung and not heard would make every later poll return at once."""
    broker = site.open()
    broker._alarm.asleep = True  # as it is between the alarm's setting and the poll
    broker.stop()
    broker.turn()
    broker.turn()
    assert broker._alarm.fileno() not in dict(broker._poller.poll(0))


def test_a_broker_that_says_it_is_ready_hears_signals(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found under load: connections that came at once took the descriptors that it wanted for that, and it ended."""
    heard: list[int] = []
    broker = site.open()
    log = site.lines.log

    def said(level: int, event: str, /, **fields: object) -> None:
        log(level, event, **fields)
        if event == Event.BROKER_READY.value:
            descriptor = signal.set_wakeup_fd(-1)
            heard.append(descriptor)
            signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
            broker.stop()

    monkeypatch.setattr(site.lines, "log", said)
    assert broker.run() == 0
    assert len(heard) == 1
    assert heard[0] >= 0
    assert signal.set_wakeup_fd(-1) == -1
