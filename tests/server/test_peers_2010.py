"""Unmodified peers of 2010, on plain pyzmq: they work directly, and through chains of proxies, with any bodies."""

from __future__ import annotations

import pytest
import zmq

from relet import Limits

from .conftest import Site

BODIES = [
    [b"body"],
    [b""],
    [b"a", b"b", b"c"],
    [b"", b""],
    [b"a", b"", b"", b"d"],
    [b"large" * 50_000, b"", b"small"],
    [b"%d" % i for i in range(500)],
]


@pytest.mark.parametrize("worker_kind", [zmq.REQ, zmq.DEALER], ids=["REQ-worker", "DEALER-worker"])
@pytest.mark.parametrize("client_kind", [zmq.REQ, zmq.DEALER], ids=["REQ-client", "DEALER-client"])
def test_clients_and_workers_of_every_kind(any_site: Site, client_kind: int, worker_kind: int) -> None:
    """Promise 1: a job goes to a worker that has asked, and its answer to the client, whatever their sockets are."""
    site = any_site
    site.open()
    client, worker, answers = site.client(client_kind), site.worker(worker_kind), site.answers()
    before = [] if client_kind == zmq.REQ else [b""]
    for body in BODIES:
        client.send_multipart([*before, *body])
        worker.send_multipart([b"ready"] if worker_kind == zmq.REQ else [b"", b"ready", b"indeed"])
        heard = site.hear(worker)
        if worker_kind == zmq.DEALER:
            assert heard.pop(0) == b""
        token, *job = heard
        assert len(token) == 16
        assert job == body
        answers.send_multipart([token, *reversed(body)])
        assert site.hear(client) == [*before, *reversed(body)]
    assert site.broker.counters.jobs_completed == len(BODIES)
    assert site.broker.counters.reply_dropped == 0


def test_frames_before_the_delimiter_come_back(any_site: Site) -> None:
    """A DEALER's own frames before the delimiter come back with the answer to that request."""
    site = any_site
    site.open()
    client = site.client(zmq.DEALER)
    for i in range(20):
        client.send_multipart([b"correlation %d" % i, b"more", b"", b"%d" % i])
    site.answer_all(20, think=lambda body: [body[0] + b"!"])
    heard = sorted(site.hear(client) for _ in range(20))
    assert heard == sorted([b"correlation %d" % i, b"more", b"", b"%d!" % i] for i in range(20))


def test_nothing_goes_to_a_worker_that_has_not_asked(any_site: Site) -> None:
    """Promise 1: one ask, one job; a busy worker and one that only connected get nothing."""
    site = any_site
    site.open()
    asks, silent, client = site.worker(zmq.DEALER), site.worker(zmq.DEALER), site.client(zmq.DEALER)
    for i in range(5):
        client.send_multipart([b"", b"%d" % i])
    for _ in range(2):
        asks.send_multipart([b"", b"ask"])
    assert [site.hear(asks)[-1], site.hear(asks)[-1]] == [b"0", b"1"]
    assert site.silent(asks, silent)
    asks.send_multipart([b"", b"ask"])
    assert site.hear(asks)[-1] == b"2"


def test_a_new_ask_on_a_req_connection_replaces_the_older_one(site: Site) -> None:
    """A REQ that gave up waiting and asks again has one ask, not two; a DEALER's add up."""
    site.open()
    impatient, client = site.worker(zmq.REQ, req_relaxed=1), site.client(zmq.DEALER)
    for _ in range(3):
        impatient.send(b"ask")
    site.until(lambda: site.broker.counters.workers_arrived)
    assert site.silent(impatient)
    for i in range(2):
        client.send_multipart([b"", b"%d" % i])
    assert site.hear(impatient)[-1] == b"0"
    assert site.silent(impatient)
    assert site.broker.counters.dispatches == 1


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("side", ["clients", "workers", "both"])
def test_through_chains_of_proxies(site: Site, hops: int, side: str) -> None:
    """Requests and asks that crossed ROUTER/DEALER proxies find their way back, many peers behind one connection."""
    site.open()
    reached = dict(site.broker.endpoints)
    for role in ("clients", "workers"):
        for _ in range(hops if side in (role, "both") else 0):
            reached[role] = site.proxy(reached[role])
    clients = [site.connect_to(zmq.REQ, reached["clients"]) for _ in range(4)]
    workers = [site.connect_to(zmq.REQ, reached["workers"]) for _ in range(3)]
    answers = site.answers()
    for number, worker in enumerate(workers):
        worker.send(b"ready %d" % number)
    for round_ in range(3):
        for number, client in enumerate(clients):
            client.send_multipart([b"%d" % number, b"", b"round %d" % round_])
        done = 0
        while done < len(clients):
            site.until(lambda: any(worker.poll(0) for worker in workers))
            for worker in workers:
                if worker.poll(0):
                    token, *body = worker.recv_multipart()
                    answers.send_multipart([token, *body, b"done"])
                    worker.send(b"again")
                    done += 1
        for number, client in enumerate(clients):
            assert site.hear(client) == [b"%d" % number, b"", b"round %d" % round_, b"done"]


def test_workers_behind_a_proxy_come_and_go_for_ever(site: Site) -> None:
    """Nobody tells when a worker behind a proxy has gone: idle ones make room, so that new ones are always heard."""
    site.open(limits=Limits(peers_max=10))
    reached = site.proxy(site.broker.endpoints["workers"])
    client, answers = site.client(), site.answers()
    for i in range(50):
        worker = site.connect_to(zmq.REQ, reached)
        client.send(b"%d" % i)
        worker.send(b"ask")
        token, body = site.hear(worker)
        answers.send_multipart([token, body])
        assert site.hear(client) == [b"%d" % i]
        worker.close()
    assert site.broker.counters.asks_refused == 0


@pytest.mark.parametrize("role", ["clients", "workers"])
def test_inproc_peers_come_and_go_for_ever(any_site: Site, role: str) -> None:
    """Connections come and go far beyond `peers_max`, also where no monitor tells of it: new ones are heard."""
    site = any_site
    site.open(limits=Limits(peers_max=10))
    fixed_client, fixed_worker, answers = site.client(), site.worker(), site.answers()
    for i in range(40):
        client = site.client() if role == "clients" else fixed_client
        worker = site.worker() if role == "workers" else fixed_worker
        client.send(b"%d" % i)
        worker.send(b"ask")
        token, body = site.hear(worker)
        answers.send_multipart([token, body])
        assert site.hear(client) == [b"%d" % i]
        if role == "clients":
            client.close()
        else:
            worker.close()
    assert (site.broker.counters.asks_refused, site.broker.counters.requests_refused) == (0, 0)
