"""The benchmarks' native peers against a small broker that plays its part, rightly and wrongly."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import zmq
from benchmarks.peers import Native, PeerError
from benchmarks.scenario import Setting

from benchmarks import deaths, load, targets

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="the load generator is in C: no compiler here")

SIGNATURE = b"\xffrelet/\x01"
PATIENCE_MS = 20_000
HEARTBEAT_MS = 300
LIVENESS_MS = 1200

Header = dict[str, Any]
Said = tuple[Header, list[bytes]]
Alter = Callable[[Header, list[bytes]], "list[Said]"]
encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode


def faithful(header: Header, body: list[bytes]) -> list[Said]:
    """Say what is to be said."""
    return [(header, body)]


def instead(name: str, *said: Header, at: int = 1, body: list[bytes] | None = None) -> Alter:
    """When `name` is said for the `at`-th time: as often as there is `said`, with these fields, and with this body."""
    times = 0

    def alter(header: Header, frames: list[bytes]) -> list[Said]:
        nonlocal times
        if header["t"] != name:
            return [(header, frames)]
        times += 1
        if times != at:
            return [(header, frames)]
        return [({**header, **each}, frames if body is None else body) for each in said]

    return alter


class StandIn(targets.Target):
    """A native broker in a thread of the test: jobs in the order in which they came, to whoever has credit.

    It keeps what it heard: `heard[name]` counts messages, `complaints` names what a peer did against the protocol;
    `hellos` and `submits` are the headers of these.
    """

    def __init__(self, endpoints: list[str]) -> None:
        self.endpoints = endpoints
        self.heard: collections.Counter[str] = collections.Counter()
        self.complaints: list[str] = []
        self.hellos: list[Header] = []
        self.submits: list[Header] = []
        self.heartbeats = threading.Semaphore(0)

    @property
    def pid(self) -> int:
        """The test's own process."""
        return os.getpid()


class Session:
    """What is counted on one connection of a worker."""

    def __init__(self) -> None:
        self.credit = self.handed = self.started = self.reports = 0
        self.holds: dict[bytes, int] = {}
        self.heard_at = time.monotonic()


class Serving:
    """The stand-in's thread."""

    takes_back = False
    """Whether what a silent worker has is let again."""

    def __init__(self, stand_in: StandIn, clients: zmq.Socket[bytes], workers: zmq.Socket[bytes], alter: Alter) -> None:
        self.stand_in = stand_in
        self.clients, self.workers, self.alter = clients, workers, alter
        self.waiting: collections.deque[tuple[bytes, bytes, list[bytes], int]] = collections.deque()
        self.running: dict[bytes, tuple[bytes, bytes, list[bytes], int]] = {}
        self.sessions: dict[bytes, Session] = {}
        self.outcomes: collections.Counter[bytes] = collections.Counter()
        self.told: collections.Counter[bytes] = collections.Counter()
        self.receipts: dict[bytes, int] = {}
        self.jobs = 0

    def expect(self, true: object, complaint: str) -> None:
        if not true:
            self.stand_in.complaints.append(complaint)

    def say(self, socket: zmq.Socket[bytes], peer: bytes, header: Header, body: list[bytes] | None = None) -> None:
        for altered, frames in self.alter(header, body or []):
            self.told[peer] += altered["t"] == "outcome"
            socket.send_multipart([peer, SIGNATURE, encode(altered), *frames])

    def hear(self, socket: zmq.Socket[bytes]) -> None:
        peer, signature, packed, *body = socket.recv_multipart()
        self.expect(signature == SIGNATURE, "no signature")
        header = decode(packed)
        self.stand_in.heard[header["t"]] += 1
        if header["t"] == "hello":
            welcome = {
                "t": "welcome",
                "epoch": 1,
                "heartbeat_ms": HEARTBEAT_MS,
                "liveness_ms": LIVENESS_MS,
                "limits": {"credit": 1000},
                "features": ["starts"],
                "new in version 7": [None, {"a": -1.5}],
            }
            self.say(socket, peer, welcome)
            self.stand_in.hellos.append(header)
            if socket is self.workers:
                self.expect(len(header["incarnation"]) == 16, "an incarnation has 16 bytes")
                self.sessions[peer] = Session()
        elif socket is self.clients:
            self.hear_client(peer, header, body)
        else:
            self.hear_worker(peer, header, body)

    def hear_client(self, peer: bytes, header: Header, body: list[bytes]) -> None:
        received = header.get("received", 0)
        self.expect(self.receipts.get(peer, 0) <= received <= self.told[peer], "a receipt that cannot be")
        self.receipts[peer] = received
        if header["t"] == "submit":
            self.expect(16 <= len(header["id"]) <= 64, "a request id has 16 to 64 bytes")
            self.stand_in.submits.append(header)
            if header.get("ack"):
                self.say(self.clients, peer, {"t": "submitted", "jobs": [{"id": header["id"], "job": bytes(16)}]})
            self.accept((peer, header["id"], body, 1), header)
        else:
            self.say(self.clients, peer, {"t": "heartbeat"})

    def accept(self, job: tuple[bytes, bytes, list[bytes], int], header: Header) -> None:
        self.waiting.append(job)

    def hear_worker(self, peer: bytes, header: Header, body: list[bytes]) -> None:
        session = self.sessions[peer]
        session.heard_at = time.monotonic()
        self.expect(header["credit"] - session.handed <= 1000, "more credit than may be")
        started = header.get("started", session.started)
        self.expect(session.started <= started <= session.handed, "started what was not handed over")
        session.credit, session.started = max(session.credit, header["credit"]), started
        if header["t"] == "heartbeat":
            self.say(self.workers, peer, {"t": "heartbeat"})
            self.stand_in.heartbeats.release()
        elif header["t"] == "complete":
            self.expect(header["n"] == session.reports + 1, "a report out of order")
            session.reports = header["n"]
            seq = session.holds.pop(header["token"])
            self.expect(seq <= session.started, "completed what it has not started")
            client, request, *_ = self.running.pop(header["token"])
            self.outcomes[client] += 1
            self.say(self.clients, client, {"t": "outcome", "id": request, "n": self.outcomes[client]}, body)
            if session.reports % 10 == 0 and session.handed == session.credit:
                self.say(self.workers, peer, {"t": "ack", "ack": session.reports})

    def hand_over(self) -> None:
        for peer, session in self.sessions.items():
            while self.waiting and session.handed < session.credit:
                client, request, body, attempt = self.waiting.popleft()
                self.jobs += 1
                session.handed += 1
                token = os.urandom(8) + self.jobs.to_bytes(8, "big")
                session.holds[token] = session.handed
                self.running[token] = client, request, body, attempt
                header = {
                    "t": "job",
                    "token": token,
                    "seq": session.handed,
                    "job": bytes(16),
                    "attempt": attempt,
                    "ack": session.reports,
                    "headers": {"trace": "x" * 300},
                }
                self.say(self.workers, peer, header, body)

    def expire(self) -> None:
        """Sessions of workers that were silent for too long end; what they had started counts."""
        silent = time.monotonic() - LIVENESS_MS / 1000
        for peer, session in [*self.sessions.items()] if self.takes_back else []:
            if session.heard_at < silent:
                for token, seq in self.sessions.pop(peer).holds.items():
                    client, request, body, attempt = self.running.pop(token)
                    self.waiting.append((client, request, body, attempt + (seq <= session.started)))


class Mortal(Serving):
    takes_back = True


class Punctual(Serving):
    """Heeds delays."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.due: list[tuple[float, tuple[bytes, bytes, list[bytes], int]]] = []

    def accept(self, job: tuple[bytes, bytes, list[bytes], int], header: Header) -> None:
        self.due.append((time.monotonic() + header.get("delay_ms", 0) / 1000, job))

    def hand_over(self) -> None:
        now = time.monotonic()
        self.waiting += [job for moment, job in self.due if moment <= now]
        self.due = [(moment, job) for moment, job in self.due if moment > now]
        super().hand_over()


@contextmanager
def broker(alter: Alter = faithful, kind: type[Serving] = Serving) -> Iterator[StandIn]:
    """A stand-in for the time of a `with`; what its peers did wrong fails the test."""
    with zmq.Context() as context:
        clients, workers = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        ends, end = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        for socket in (clients, workers, ends, end):
            socket.linger = 0
            socket.set_hwm(0)
        ends.bind("inproc://end")
        end.connect("inproc://end")
        ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (clients, workers)]
        stand_in = StandIn([*(f"tcp://127.0.0.1:{port}" for port in ports), "-"])
        serving = kind(stand_in, clients, workers, alter)

        def serve() -> None:
            poller = zmq.Poller()
            for socket in (clients, workers, ends):
                poller.register(socket, zmq.POLLIN)
            while True:
                for socket, _ in poller.poll(HEARTBEAT_MS / 2):
                    if socket is ends:
                        return
                    serving.hear(socket)
                serving.expire()
                serving.hand_over()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield stand_in
        finally:
            end.send(b"")
            thread.join(PATIENCE_MS / 1000)
            for socket in (clients, workers, ends, end):
                socket.close()
    assert stand_in.complaints == []


def test_an_answer_is_also_the_next_ask() -> None:
    """Five hundred jobs and one: as many requests and answers; else a word to begin with, and a receipt at the end."""
    with broker() as target, load.load(target, dialect="native") as peers:
        assert peers.flow(500, 50)["answered"] == 500
        peers.flow(1, 1)  # once its answer is there, all before it has been heard
        assert target.heard.pop("heartbeat") in {1, 2}
        assert target.heard == {"hello": 5, "ask": 8, "submit": 501, "complete": 501}


def test_bodies_of_all_sizes_come_back_whole() -> None:
    """The smallest, the usual, one that libzmq does not copy."""
    for body_bytes in (16, 32, 65_536):
        with broker() as target, load.load(target, body_bytes=body_bytes, dialect="native") as peers:
            latency = peers.flow(100, 20)["latency_ms"]
        assert 0 < latency["min"] <= latency["p50"] <= latency["max"]


def test_a_client_and_a_worker_in_two_processes() -> None:
    """One job at a time, each on a connection of its own."""
    with broker() as target, load.apart(target, dialect="native") as peers:
        assert peers.flow(50, 1)["answered"] == 50


def test_held_jobs_are_answered_in_the_end() -> None:
    """Two hundred held, a flow past them, all of them drained, each by the worker that has it."""
    with broker() as target, load.load(target, dialect="native") as peers:
        assert peers.hold(200, 50)["held"] == 200
        assert peers.flow(100, 10)["held"] == 200
        assert peers.drain(50)["answered"] == 200


def test_jobs_flow_past_others_that_wait() -> None:
    """The flow ends although a hundred jobs more were submitted than asked for."""
    with broker() as target, load.load(target, dialect="native") as peers:
        peers.fill(100)
        assert peers.flow(300, 10)["answered"] == 300


def test_who_drains_tells_what_was_received() -> None:
    """No request carries the receipt: a message of its own does, every thousand outcomes."""
    with broker() as target, load.load(target, dialect="native") as peers:
        peers.hold(2500, 100)
        peers.drain(100)
        peers.flow(1, 1)  # once its answer is there, all before it has been heard
        assert target.heard["heartbeat"] >= 3


def test_workers_are_heard_between_two_commands() -> None:
    """Heartbeats come while the load waits for a command; the next flow goes on in the same sessions."""
    with broker() as target, load.load(target, dialect="native") as peers:
        peers.flow(100, 10)
        for _ in range(8):
            assert target.heartbeats.acquire(timeout=PATIENCE_MS / 1000)
        assert peers.flow(100, 10)["answered"] == 100
        assert target.heard["hello"] == 5


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (
            instead("outcome", {"state": "discarded", "reason": "tries_spent", "kind": "Oops", "text": "no luck"}),
            r"not completed but discarded \(tries_spent\): Oops: no luck",
        ),
        (
            instead("outcome", {"t": "submitted", "jobs": [{"id": b"x" * 16, "code": "busy", "text": "too much"}]}),
            r"a job was refused: busy: too much",
        ),
        (
            instead("outcome", {"t": "error", "code": "no_session", "text": "who are you?"}),
            r"the client: the broker says error: no_session: who are you\?",
        ),
        (instead("outcome", {"n": 7}), r"an outcome is number 7 of this session, not 1"),
        (instead("outcome", {"id": b"x" * 16}), r"an id that was not asked for"),
        (
            instead("job", {"t": "refused", "code": "not_open", "text": "has ended"}),
            r"a worker: the broker says refused: not_open: has ended",
        ),
        (instead("job", {"t": "cancel", "reason": "expired"}), r"a worker: the broker says cancel"),
        (instead("job", {"seq": 2}), r"handed job 2 after 0"),
        (instead("job", {}, {}), r"handed job 1 after 1"),
        (instead("job", {"ack": 9}), r"report 9 was acknowledged before it was made"),
        (instead("job", {"token": "text"}), r"a job without a token"),
        (instead("job", {}, body=[b"a", b"b"]), r"more frames than were submitted"),
        (instead("welcome", {"handed": 3}), r"a session that is not new"),
    ],
)
def test_what_goes_wrong_ends_the_load_with_the_reason(alter: Alter, complaint: str) -> None:
    """Outcomes that are no answers, refusals, errors, numbers that do not follow: said in the broker's own words."""
    with (
        broker(alter) as target,
        load.load(target, dialect="native") as peers,
        pytest.raises(load.LoadError, match=complaint),
    ):
        peers.flow(100, 10)


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (instead("outcome", {}, body=[]), "1 wrong"),
        (instead("outcome", {}, body=[b"\0" * 32]), "1 wrong"),
        (instead("outcome", {}, body=[b"", b""]), "1 wrong"),
    ],
)
def test_an_answer_that_is_wrong_is_said(alter: Alter, complaint: str) -> None:
    """No body, another body, a frame too many."""
    with (
        broker(alter) as target,
        load.load(target, dialect="native") as peers,
        pytest.raises(load.WrongAnswersError, match=complaint),
    ):
        peers.flow(100, 10)


def test_an_outcome_that_comes_twice_is_said() -> None:
    """The second outcome of a job, with the number that follows."""
    shift = 0

    def alter(header: Header, body: list[bytes]) -> list[Said]:
        nonlocal shift
        if header["t"] != "outcome":
            return [(header, body)]
        said = [({**header, "n": header["n"] + shift}, body)]
        if header["n"] == 5:
            shift = 1
            said.append(({**header, "n": 6}, body))
        return said

    with (
        broker(alter) as target,
        load.load(target, dialect="native") as peers,
        pytest.raises(load.WrongAnswersError, match="1 twice"),
    ):
        peers.flow(99, 10)


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_header_that_is_cut_is_said(cut: int) -> None:
    """Nothing behind its end is looked at, wherever that is."""
    whole = encode({"t": "outcome", "id": b"x" * 16, "n": 1, "more": [1, -1, 2.5, {"a": None}, "x" * 40, 1 << 40]})

    class Cut(Serving):
        def say(self, socket: zmq.Socket[bytes], peer: bytes, header: Header, body: list[bytes] | None = None) -> None:
            if header["t"] == "outcome":
                socket.send_multipart([peer, SIGNATURE, whole[:-cut], *(body or [])])
            else:
                super().say(socket, peer, header, body)

    with (
        broker(kind=Cut) as target,
        load.load(target, dialect="native") as peers,
        pytest.raises(load.LoadError, match="no MessagePack map"),
    ):
        peers.flow(10, 1)


def test_a_policy_is_said_of_every_job_that_follows() -> None:
    """Queue, key and priority are drawn, each from as many as were said; the backoff is always the same."""
    with broker() as target, load.load(target, connections=3, dialect="native", queues=(12, 4)) as peers:
        peers.policy(queues=12, keys=30, priorities=3, backoff_ms=500)
        peers.flow(600, 30)
        peers.policy(queues=0, keys=0, priorities=0, backoff_ms=0)
        peers.flow(10, 1)
        drawn, plain = target.submits[:600], target.submits[600:]
        assert [hello["queues"] for hello in target.hellos if "queues" in hello] == [
            [f"q{n}" for n in range(first, first + 4)] for first in (0, 4, 8)
        ]
    assert {header["queue"] for header in drawn} == {f"q{n}" for n in range(12)}
    assert {header["fair"] for header in drawn} == {f"key-{n}" for n in range(30)}
    assert {header["priority"] for header in drawn} == {0, 1, 2}
    backoff = {"curve": "exponential", "base_ms": 500, "cap_ms": 30_000, "jitter": True}
    assert all(header["backoff"] == backoff for header in drawn)
    assert {key for header in plain for key in header} == {"t", "id", "received"}


def test_workers_of_some_queues_keep_their_share_of_the_asks() -> None:
    """Who is given all the jobs asks again after each; the others' asks are unspent, also when the flow has ended."""
    with broker() as target, load.load(target, connections=2, dialect="native", queues=(4, 2)) as peers:
        for _ in range(3):
            assert peers.flow(200, 20)["answered"] == 200
        assert target.heard["ask"] == 6


def test_queues_that_nobody_would_serve_are_refused() -> None:
    """Three workers with two queues each cannot serve seven."""
    with (
        broker() as target,
        load.load(target, connections=3, dialect="native", queues=(7, 2)) as peers,
        pytest.raises(load.LoadError, match="so many that each queue is served"),
    ):
        peers.flow(1, 1)


def test_delayed_jobs_are_due_evenly_and_none_is_early() -> None:
    """A broker that heeds delays is a little late with each; their moments are those that were asked for."""
    with broker(kind=Punctual) as target, load.load(target, dialect="native") as peers:
        assert peers.delay(500, 400, 600)["answered"] == 0
        report = peers.due(50)
        delays = sorted(header["delay_ms"] for header in target.submits)
        acks = sum("ack" in header for header in target.submits)
    assert report["early"] == 0
    assert report["late_ms"]["min"] >= 0
    assert report["answered"] == 500
    assert acks == 10
    assert 0 < delays[0] <= 600
    assert 700 < delays[-1] <= 1000


def test_a_broker_that_does_not_heed_delays_is_early() -> None:
    """With each of the jobs."""
    with broker() as target, load.load(target, dialect="native") as peers:
        peers.delay(300, 1000, 60_000)
        report = peers.due(50)
    assert report["early"] == 300
    assert report["late_ms"]["max"] < 0


def test_a_lead_that_is_too_short_is_said() -> None:
    """No figure is better than a wrong one."""
    with (
        broker(kind=Punctual) as target,
        load.load(target, dialect="native") as peers,
        pytest.raises(load.LoadError, match=r"of 1000000 jobs were submitted within 20 ms: give it a longer lead"),
    ):
        peers.delay(1_000_000, 1000, 20)


def test_a_tenant_waits_behind_the_crowd_where_nobody_is_fair() -> None:
    """One queue, first come, first served: behind 5 jobs, and behind 50; the workers are busy all the time."""
    medians = []
    for crowd in (5, 50):
        with broker() as target, load.load(target, connections=2, dialect="native", queues=(2, 2)) as peers:
            for _ in range(2):
                report = peers.tenant(5, crowd, 2_000, 0)
                assert len(report["waits_ms"]) == 5
                assert 0 < report["busy"] <= 1
            medians.append(sorted(report["waits_ms"])[2])
            said = [(header["fair"], header["queue"]) for header in target.submits]
            assert said.count(("one", "q0")) == 10
            assert set(said) == {("one", "q0"), ("crowd", "q0")}
    assert medians[1] > medians[0]


def test_the_crowd_may_wait_in_a_queue_of_its_own() -> None:
    """All workers serve both queues, the tenant's first."""
    with broker() as target, load.load(target, connections=2, dialect="native", queues=(2, 2)) as peers:
        peers.tenant(3, 5, 2_000, 1)
        assert {(header["fair"], header["queue"]) for header in target.submits} == {("one", "q0"), ("crowd", "q1")}
        assert [hello["queues"] for hello in target.hellos if "queues" in hello] == [["q0", "q1"]] * 2


def test_jobs_of_frozen_workers_start_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before the liveness time is over, and only what had started is counted."""
    with broker(kind=Mortal) as target:
        monkeypatch.setattr(targets, "broker", lambda *_, **__: contextlib.nullcontext(target))
        scenario = deaths.Frozen(workers=1, unstarted=2)
        samples = [*scenario.measure(Setting())]
    (sample,) = samples
    assert sample["miscounted"] == 0
    assert len(sample["started_s"]) == 1
    assert len(sample["not started_s"]) == 2
    assert all(LIVENESS_MS / 1000 * 0.8 < delay < PATIENCE_MS / 1000 for delay in sample["started_s"])
    assert [figure.bar for figure in scenario.figures(samples)] == [1.5, 1.5, 0]


def test_attempts_that_are_counted_wrongly_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that counts nothing: the one job that had started is one too few."""

    def alter(header: Header, body: list[bytes]) -> list[Said]:
        return [({**header, "attempt": 1} if header["t"] == "job" else header, body)]

    with broker(alter, kind=Mortal) as target:
        monkeypatch.setattr(targets, "broker", lambda *_, **__: contextlib.nullcontext(target))
        (sample,) = deaths.Frozen(workers=1, unstarted=1).measure(Setting())
    assert sample["miscounted"] == 1


def test_a_peer_that_is_told_something_else_says_what() -> None:
    """Not what was waited for, but the broker's own words."""
    error = instead("welcome", {"t": "error", "code": "too_many_peers", "text": "full"})
    with broker(error) as target, zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.rcvtimeo = PATIENCE_MS
        socket.linger = 0
        socket.connect(target.endpoints[1])
        with pytest.raises(PeerError, match="too_many_peers"):
            Native.worker(socket)
