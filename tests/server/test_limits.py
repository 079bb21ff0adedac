"""Bounded everything: what exceeds a limit is refused, pushed back or told, never dropped in silence."""

from __future__ import annotations

import socket
import time

import pytest
import zmq

from relet import Limits
from relet.events import Event
from relet.transport.port import HEARTBEAT_INTERVAL_MS, HEARTBEAT_TIMEOUT_MS

from .conftest import LIMIT_S, Site

BIG = b"x" * 20_000


def reasons(site: Site) -> set[str]:
    """Why requests were refused, as the log says."""
    return {line["reason"] for line in site.lines.of(Event.REQUEST_REFUSED) if "reason" in line}


# --- Intake


def test_at_the_job_limit_clients_are_not_read_while_all_else_goes_on(site: Site) -> None:
    """Promise 7: above the limit and its reserve nothing is read; workers and answers go on; then all is served."""
    site.open(limits=Limits(jobs_max=20))
    client = site.client(zmq.DEALER)
    for i in range(100):
        client.send_multipart([b"", b"%d" % i])
    site.until(lambda: site.lines.of(Event.INTAKE_PAUSED))
    assert site.silent(client)
    assert (site.broker.jobs_open, site.broker.counters.jobs_accepted) == (22, 22)
    assert len(site.lines.of(Event.INTAKE_PAUSED)) == 1
    site.answer_all(100)
    answered = [site.hear(client)[1] for _ in range(100)]
    assert sorted(map(int, answered)) == list(range(100))
    assert site.lines.of(Event.INTAKE_RESUMED)
    assert (site.broker.counters.requests_refused, site.broker.counters.reply_dropped) == (0, 0)


@pytest.mark.parametrize("frames", [[b"x" * 1_000], [b"x" * 10] * 100])
def test_at_the_byte_limit_clients_are_not_read(site: Site, frames: list[bytes]) -> None:
    """Promise 7: the bodies of all open jobs together have a bound, frames charged; work makes room again."""
    site.open(limits=Limits(jobs_bytes_max=20_000))
    client = site.client(zmq.DEALER)
    for _ in range(60):
        client.send_multipart([b"", *frames])
    site.until(lambda: site.lines.of(Event.INTAKE_PAUSED))
    assert site.silent(client)
    assert site.broker.jobs_open <= 24
    site.answer_all(60)
    for _ in range(60):
        assert site.hear(client) == [b"", *frames]
    assert site.broker.counters.reply_dropped == 0


def test_long_return_paths_count_against_the_byte_limit(site: Site) -> None:
    """Promise 7: a return path is kept with its job, so it is charged like a body."""
    site.open(limits=Limits(jobs_bytes_max=50_000))
    client = site.client(zmq.DEALER)
    for _ in range(100):
        client.send_multipart([b"p" * 4_000, b"", b"x"])
    site.until(lambda: site.lines.of(Event.INTAKE_PAUSED))
    assert site.broker.jobs_open <= 15


def test_tcp_pushes_back_while_intake_is_paused(site: Site) -> None:
    """Promise 7: what a paused broker does not read stays with the client, whose own socket fills up."""
    site.open(limits=Limits(jobs_max=10))
    client = site.client(zmq.DEALER, sndhwm=10)
    site.until(lambda: client.poll(0, zmq.POLLOUT))
    limit = time.monotonic() + LIMIT_S
    sent = 0
    while client.poll(100, zmq.POLLOUT):
        assert time.monotonic() < limit, f"{sent} requests went"
        client.send_multipart([b"", BIG])
        sent += 1
        site.broker.turn()
    assert site.broker.jobs_open == 11
    site.answer_all(sent)
    for _ in range(sent):
        assert site.hear(client) == [b"", BIG]


def test_requests_that_can_never_be_accepted_are_answered(site: Site) -> None:
    """Promise 7: too large by bytes, frames or path: answered where the path was seen, counted and logged."""
    site.open(limits=Limits(body_bytes_max=1_000, frames_max=50, path_bytes_max=100))
    client, dealer = site.client(), site.client(zmq.DEALER)
    client.send(b"x" * 1_001)
    assert site.hear(client) == [b""]
    client.send_multipart([b"x"] * 50)
    assert site.hear(client) == [b""]
    dealer.send_multipart([b"correlation", b"", b"x" * 1_001])
    assert site.hear(dealer) == [b"correlation", b"", b""]
    dealer.send_multipart([b"p" * 101, b"", b"x"])
    assert site.silent(dealer)
    assert site.broker.counters.requests_refused == 4
    assert reasons(site) == {"too_large"}
    client.send(b"x" * 999)
    site.answer_all(1)
    assert site.hear(client) == [b"x" * 999]


def test_too_many_clients_are_told(site: Site) -> None:
    """Promise 7: above `peers_max` a connection is refused with the failure; when one has gone there is room."""
    site.open(limits=Limits(peers_max=3))
    early = [site.client() for _ in range(3)]
    for client in early:
        client.send(b"early")
    site.until(lambda: site.broker.counters.jobs_accepted == 3)
    late = site.client()
    late.send(b"late")
    assert site.hear(late) == [b""]
    assert reasons(site) == {"too_many_peers"}
    early.pop().close(linger=0)
    again = site.client()
    site.silent(again)
    again.send(b"again")
    site.answer_all(4)
    assert site.hear(again) == [b"again"]


# --- Asks


def test_asks_above_a_limit_are_refused_and_said(site: Site) -> None:
    """Promise 7: asks per worker and in all are bounded; what is refused is counted and logged, the rest holds."""
    site.open(limits=Limits(asks_per_worker_max=5, asks_max=8))
    greedy, other, client = site.worker(zmq.DEALER), site.worker(zmq.DEALER), site.client(zmq.DEALER)
    for _ in range(10):
        greedy.send_multipart([b"", b""])
    site.until(lambda: site.broker.counters.asks_refused == 5)
    for _ in range(10):
        other.send_multipart([b"", b""])
    site.until(lambda: site.broker.counters.asks_refused == 12)
    assert {line["reason"] for line in site.lines.of(Event.ASK_REFUSED)} == {"too_many_asks"}
    for i in range(20):
        client.send_multipart([b"", b"%d" % i])
    site.until(lambda: site.broker.counters.dispatches == 8)
    assert site.silent()
    assert site.broker.counters.dispatches == 8


# --- Clients that do not read


def slow_client(site: Site, jobs: int = 1_500) -> zmq.Socket[bytes]:
    """A client that has sent `jobs` requests with large bodies and reads no answer yet."""
    slow = site.client(zmq.DEALER, rcvhwm=1, rcvbuf=4_096)
    goal = site.broker.counters.jobs_accepted + jobs
    for i in range(jobs):
        slow.send_multipart([b"", b"%d" % i, BIG])
        site.broker.turn()
    site.until(lambda: site.broker.counters.jobs_accepted == goal)
    return slow


def test_a_client_that_does_not_read_holds_nobody_up(site: Site) -> None:
    """No send blocks the loop: answers wait for a slow client, in order, and everybody else is served meanwhile."""
    site.open()
    slow = slow_client(site, 1_500)
    site.answer_all(1_500)
    site.until(lambda: site.broker._server.outbox)
    quick, worker, answers = site.client(), site.worker(), site.answers()
    slowest = 0.0
    for i in range(50):
        began = time.monotonic()
        quick.send(b"%d" % i)
        worker.send(b"ask")
        token, body = site.hear(worker)
        answers.send_multipart([token, body])
        assert site.hear(quick) == [b"%d" % i]
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1
    for i in range(1_500):
        assert site.hear(slow) == [b"", b"%d" % i, BIG]
    site.until(lambda: not site.broker._server.outbox)
    assert site.broker.counters.reply_dropped == 0


def test_a_full_outbox_takes_no_more_and_says_so(site: Site) -> None:
    """Promise 7: a reply dropped for a full outbox is counted and logged; what fitted in still arrives, in order."""
    site.open(limits=Limits(outbox_bytes_max=1_000_000))
    slow = slow_client(site, 1_500)
    site.answer_all(1_500)
    site.until(lambda: site.broker.counters.reply_dropped)
    dropped = site.broker.counters.reply_dropped
    assert site.lines.of(Event.REPLY_DROPPED)
    assert site.broker._server.outbox.bytes <= 1_000_000
    heard = [int(site.hear(slow)[1]) for _ in range(1_500 - dropped)]
    assert heard == sorted(heard)
    assert len(set(heard)) == 1_500 - dropped
    assert site.silent(slow)


def test_all_outboxes_together_have_a_bound(site: Site) -> None:
    """Promise 7: several clients that do not read cannot have more than the bound for all of them."""
    site.open(limits=Limits(outboxes_bytes_max=2_000_000))
    for _ in range(2):
        slow_client(site, 1_300)
    site.answer_all(2_600)
    site.until(lambda: site.broker.counters.reply_dropped)
    assert site.broker._server.outbox.bytes <= 2_000_000


def test_a_client_that_does_not_read_for_long_loses_nothing(site: Site) -> None:
    """A client that reads nothing for longer than a frozen worker may be silent still gets every answer."""
    site.open()
    slow = slow_client(site, 1_500)
    site.answer_all(1_500)
    waits = time.monotonic() + (HEARTBEAT_INTERVAL_MS + HEARTBEAT_TIMEOUT_MS) / 1_000 + 0.5
    site.until(lambda: time.monotonic() > waits)
    for i in range(1_500):
        assert site.hear(slow) == [b"", b"%d" % i, BIG]
    assert (site.broker.counters.reply_dropped, site.broker.counters.replies_unroutable) == (0, 0)


def test_a_client_that_goes_with_a_full_outbox_leaves_nothing(site: Site) -> None:
    """The outcomes of a client that has gone are counted as unroutable and kept, and its outbox is closed."""
    site.open()
    slow = slow_client(site, 1_500)
    site.answer_all(1_500)
    site.until(lambda: site.broker._server.outbox)
    waiting = len(site.broker._server.outbox)
    slow.close(linger=0)
    site.until(lambda: not site.broker._server.outbox)
    assert site.broker._server.outbox.bytes == 0
    assert site.broker.counters.replies_unroutable >= waiting
    assert site.broker.counters.reply_dropped == 0
    assert len(site.broker.kept) > 0


def test_refusals_wait_for_a_slow_client_too(site: Site) -> None:
    """Promise 7: the failure of a refused request is a reply like others: it waits, none is dropped in silence."""
    site.open(limits=Limits(body_bytes_max=1_000))
    client = site.client(zmq.DEALER, rcvhwm=1, rcvbuf=4_096)
    path = [b"p" * 250] * 30
    for _ in range(3_000):
        client.send_multipart([*path, b"", b"x" * 1_001])
        site.broker.turn()
    site.until(lambda: site.broker.counters.requests_refused == 3_000)
    for _ in range(3_000):
        assert site.hear(client) == [*path, b"", b""]
    assert site.broker.counters.reply_dropped == 0


# --- Descriptors that are given out again


def test_a_backlog_of_a_dead_client_cuts_nobody_off(site: Site) -> None:
    """A client dies with unread requests; the next one gets its descriptor, is read in between, and is answered."""
    site.open(limits=Limits(turn_messages_max=2))
    for round_ in range(20):
        dead = site.client(zmq.DEALER)
        for i in range(6):
            dead.send_multipart([b"", b"dead %d" % i])
        dead.close(linger=int(LIMIT_S * 1_000))
        client = site.client()
        client.send(b"%d" % round_)
        site.answer_all(7)
        assert site.hear(client) == [b"%d" % round_]
        client.close(linger=0)


def test_a_backlog_of_a_dead_worker_cuts_nobody_off(site: Site) -> None:
    """A worker dies with unread asks; the next one gets its descriptor, is read in between, and gets its job."""
    site.open(tries=2, limits=Limits(turn_messages_max=2))  # one attempt may be lost with the dying connection
    client, answers = site.client(), site.answers()
    for round_ in range(20):
        dead = site.worker(zmq.DEALER)
        for _ in range(30):
            dead.send_multipart([b"", b"ask"])
        dead.close(linger=int(LIMIT_S * 1_000))
        worker = site.worker()
        worker.send(b"ask")
        client.send(b"%d" % round_)
        token, body = site.hear(worker)
        answers.send_multipart([token, body])
        assert site.hear(client) == [b"%d" % round_]
        worker.close(linger=0)
    assert site.broker.counters.jobs_discarded == 0


def test_a_failure_of_a_slow_client_holds_no_body(site: Site) -> None:
    """Promise 7: what waits in an outbox is a failure without its body, also when the dead letter was forgotten."""
    site.open(tries=1, timeout=0.01, limits=Limits(kept_jobs_max=1))
    slow = site.client(zmq.DEALER)
    worker = site.worker(zmq.DEALER)
    for i in range(10):
        slow.send_multipart([b"", b"%d" % i])
        worker.send_multipart([b"", b""])
    site.until(lambda: site.broker.counters.dispatches == 10)
    held = list(site.broker._machine.jobs())
    site.until(lambda: site.broker.counters.jobs_discarded == 10)
    assert sum(job.body != b"" for job in held) == 1


def test_a_worker_of_old_zmtp_that_dies_is_found_by_the_timeout(site: Site) -> None:
    """A peer of libzmq 2 (ZMTP 1.0) cannot be traced, which is said; its job goes to another when its time is up."""
    site.open(timeout=0.2)
    port = int(site.broker.endpoints["workers"].rpartition(":")[2])
    client, worker, answers = site.client(), site.worker(), site.answers()
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as old:
        old.sendall(b"\1\0" + b"\1\1" + b"\1\0")  # anonymous; an ask of two empty frames (rfc.zeromq.org/spec/13)
        site.until(lambda: site.broker.counters.workers_arrived or site.broker.counters.asks_refused)
        client.send(b"job")
        site.until(lambda: site.broker.counters.jobs_accepted)
        site.silent()
    assert site.lines.of(Event.WORKER_ARRIVED)[0]["traced"] is False
    worker.send(b"ask")
    answers.send_multipart(site.hear(worker))
    assert site.hear(client) == [b"job"]


def test_the_longest_timeout_is_one_that_the_poll_can_wait_for(site: Site) -> None:
    """A timeout of years is split into waits that fit libzmq's poll, which counts milliseconds in a C int."""
    broker = site.open(timeout=10.0**9)
    client, worker, answers = site.client(), site.worker(), site.answers()
    worker.send(b"ask")
    client.send(b"job")
    token, body = site.hear(worker)
    assert 0 < broker._wait_ms(None) <= 1_000
    answers.send_multipart([token, body])
    assert site.hear(client) == [b"job"]


def test_a_flood_of_events_that_is_not_drained_yet_is_not_slept_on(site: Site) -> None:
    """What a monitor still holds is read in the next turn, though no descriptor says so any more."""
    broker = site.open()
    broker.turn()
    assert broker._wait_ms(5.0) == 5_000
    broker._workers.monitor.ready = True
    assert broker._wait_ms(5.0) == 0
