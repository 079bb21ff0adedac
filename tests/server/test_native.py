"""The native dialect on real sockets: every code provoked, any body, any way through proxies, both dialects together.

The peers are raw DEALERs that say one message at a time; docs/protocol.md says what must come back.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import msgpack
import pytest
import zmq

from relet import Limits
from relet.core.limits import BODY_BYTES_LEAST, FRAMES_LEAST
from relet.dialects import native
from relet.dialects.native import HEADER_BYTES_MAX
from relet.events import Event
from relet.messages import (
    SIGNATURE,
    Ack,
    Cancel,
    ClientHello,
    Complete,
    Dispatch,
    Error,
    Extend,
    Fail,
    Goodbye,
    HandBack,
    Heartbeat,
    Inquire,
    Item,
    JobState,
    Outcome,
    Partial,
    Progress,
    ReportRefused,
    Said,
    Submit,
    Submitted,
    TellPartial,
    TellProgress,
    Welcome,
    WorkerAsk,
    WorkerHello,
)

from .conftest import LIMIT_S, Site
from .native_peers import Client, Native, Worker, name

MS = 1_000_000


def refused(client: Client) -> str:
    """The code of the one job that a `submitted` speaks of."""
    said, _ = client.hear(Submitted)
    (admitted,) = said.jobs
    assert admitted.text
    assert not admitted.job
    return admitted.code


def error(peer: Native) -> Error:
    """The next message, which is one, with a sentence for people."""
    said, body = peer.hear(Error)
    assert said.text
    assert not body
    return said


# --- One job, natively


def test_one_job_from_hello_to_receipt(any_site: Site) -> None:
    """Submit, job, complete, outcome, receipt: each says what docs/protocol.md says, on every transport and pump."""
    site = any_site
    site.open(tries=3, timeout=60)
    client, worker = Client(site), Worker(site, credit=1)
    assert client.welcome is not None
    assert worker.welcome is not None
    assert worker.welcome.limits.keys() == {*client.welcome.limits, "credit", "jobs", "run_ms", "retry_ms"}
    assert client.welcome.heartbeat_ms * 4 == client.welcome.liveness_ms == 10_000
    request = client.submit(b"resize", b"", b"x" * 100_000, headers={"a": "b"}, ack=True)
    admitted = client.hear(Submitted)[0].jobs[0]
    assert (admitted.id, len(admitted.job), admitted.position, admitted.joined) == (request, 16, 0, False)
    job, body = worker.job()
    assert body == [b"resize", b"", b"x" * 100_000]
    assert (job.seq, job.job, job.attempt, job.tries, job.queue) == (1, admitted.job, 1, 3, "default")
    assert (job.run_ms, job.silence_ms, job.headers, job.ack) == (60_000, None, {"a": "b"}, 0)
    client.say(Inquire(id=request))
    assert client.hear(JobState)[0].state == "held"
    worker.say(WorkerAsk(credit=1, started=1))
    site.until(lambda: [it.attempts for it in site.broker._machine.jobs()] == [1])  # two sockets keep no order
    client.say(Inquire(job=admitted.job))
    state = client.hear(JobState)[0]
    assert (state.state, state.attempts, state.job) == ("running", 1, admitted.job)
    worker.say(Complete(token=job.token, n=1, credit=2, started=1, headers={"c": "d"}), b"", b"done" * 10_000)
    outcome, result = client.outcome()
    assert result == [b"", b"done" * 10_000]
    assert (outcome.id, outcome.n, outcome.state, outcome.attempts) == (request, 1, "completed", 1)
    assert (outcome.headers, outcome.again, outcome.ledger) == ({"c": "d"}, False, ())
    assert worker.hear(Ack)[0].ack == 1
    client.say(Heartbeat(received=1))
    client.hear(Heartbeat)
    client.say(Inquire(id=request))
    assert client.hear(JobState)[0].state == "unknown"
    assert site.broker.counters.outcomes_received == 1


# --- `error`, every code


@pytest.mark.parametrize("role", ["clients", "workers"])
@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"", "bad_header"),
        (b"\xc1", "bad_header"),
        ([1, 2], "bad_header"),
        ({}, "bad_header"),
        ({"t": 7}, "bad_header"),
        ({"t": "hello", "features": "starts", "incarnation": b"i" * 16}, "bad_header"),
        ({"t": "hello", "agent": 7, "incarnation": b"i" * 16}, "bad_header"),
        ({"t": "heartbeat", "more": "x" * 70_000}, "bad_header"),
        ({"t": "sing"}, "unknown_command"),
        ({"t": "welcome"}, "unknown_command"),
        ({"t": "heartbeat"}, "no_session"),
    ],
    ids=str,
)
def test_a_header_that_cannot_be_taken_is_answered(site: Site, role: str, header: Any, code: str) -> None:
    """Errors: bad_header, unknown_command and no_session, at both endpoints; the peer can go on after them."""
    site.open()
    peer = Native(site, role)
    if isinstance(header, list):
        header = native.encode(header)
    peer.say(header, b"body")
    assert error(peer).code == code
    assert site.broker.counters.messages_refused == 1
    peer.say(ClientHello() if role == "clients" else WorkerHello(incarnation=name()))
    peer.hear(Welcome)


@pytest.mark.parametrize("role", ["clients", "workers"])
@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_answered_in_ours(site: Site, role: str, version: int) -> None:
    """Versions: `bad_version`, in the broker's own signature; nothing is taken."""
    site.open()
    peer = Native(site, role)
    peer.say({"t": "hello", "incarnation": name()}, version=version)
    assert error(peer).code == "bad_version"
    peer.say({"t": "heartbeat"})
    assert error(peer).code == "no_session"


@pytest.mark.parametrize(("role", "advice"), [("clients", "WORKERS"), ("workers", "CLIENTS")])
def test_who_comes_to_the_endpoint_of_the_others_is_told_where_to_go(site: Site, role: str, advice: str) -> None:
    """`wrong_endpoint`: "is the hello of a client at WORKERS, or of a worker at CLIENTS"; there is no session then."""
    site.open()
    peer = Native(site, role)
    peer.say(WorkerHello(incarnation=name()) if role == "clients" else ClientHello(features=("follows",)))
    said = error(peer)
    assert (said.code, said.of) == ("wrong_endpoint", "hello")
    assert advice in said.text
    peer.say({"t": "heartbeat"})
    assert error(peer).code == "no_session"
    peer.say(ClientHello() if role == "clients" else WorkerHello(incarnation=name()))
    peer.hear(Welcome)


@pytest.mark.parametrize(
    "wrong", [{"incarnation": b"short"}, {"queues": []}, {"queues": [""]}, {"queues": ["q" * 201]}]
)
def test_a_hello_that_cannot_be_is_told_what_to_change(site: Site, wrong: dict[str, Any]) -> None:
    """`hello` of a worker: an incarnation of 16 bytes, 1 to 100 queues with names of 1 to 200 characters."""
    site.open()
    peer = Native(site, "workers")
    peer.say({"t": "hello", "incarnation": name(), **wrong})
    said = error(peer)
    assert (said.code, said.of) == ("bad_header", "hello")


def test_a_session_that_was_never_begun_is_told_so_for_every_message(site: Site) -> None:
    """Errors: `no_session` answers whatever is no hello, and names it."""
    site.open()
    worker, client = Native(site, "workers"), Native(site, "clients")
    report = {"token": b"t", "n": 1}
    for said in (
        WorkerAsk(credit=1),
        Complete(**report),
        Fail(**report),
        HandBack(**report),
        Partial(**report),
        Progress(**report),
        Extend(**report, run_ms=1),
        Heartbeat(),
        Goodbye(),
    ):
        worker.say(said)
        said_back = error(worker)
        assert (said_back.code, said_back.of) == ("no_session", said.__struct_config__.tag)
    for asked in (Submit(id=name()), Inquire(id=name()), Heartbeat()):
        client.say(asked)
        said_back = error(client)
        assert (said_back.code, said_back.of) == ("no_session", asked.__struct_config__.tag)


def test_too_many_connections_and_paths_are_told(site: Site) -> None:
    """Errors: `too_many_peers` for one connection too many and for one return path too many, at both endpoints."""
    site.open(limits=Limits(peers_max=2, paths_per_peer_max=1))
    for role, kind in (("clients", Client), ("workers", Worker)):
        first, _ = kind(site), kind(site)
        if isinstance(first, Client):
            first.submit(b"job")  # one that waits for nothing would make room
        hello = WorkerHello(incarnation=name()) if role == "workers" else ClientHello()
        third = Native(site, role)
        third.say(hello)
        assert error(third).code == "too_many_peers"
        path = Native(site, role, first.socket, (b"other",))
        path.say(hello)
        assert error(path).code == "too_many_peers"


def test_credit_above_the_limit_is_granted_in_part_and_told(site: Site) -> None:
    """Errors: `bad_credit`; `limits.credit` jobs come, and no more."""
    site.open(limits=Limits(asks_per_worker_max=3))
    client, worker = Client(site), Worker(site)
    assert worker.welcome is not None
    assert worker.welcome.limits["credit"] == 3
    worker.say(WorkerAsk(credit=5))
    assert error(worker).code == "bad_credit"
    for _ in range(5):
        client.submit(b"job")
    heard = [said for said, _ in worker.hear_all()]
    assert [said.seq for said in heard] == [1, 2, 3]


@pytest.mark.parametrize("frames", [[b"x" * 1_001], [b"x"] * 60], ids=["bytes", "frames"])
def test_what_is_too_large_is_refused_where_it_belongs(site: Site, frames: list[bytes]) -> None:
    """`too_large`: in `submitted` with the request's id, in `refused` with the report's token, or in `error`."""
    site.open(limits=Limits(body_bytes_max=1_000, frames_max=50))
    client, worker = Client(site), Worker(site, credit=1)
    request = client.submit(*frames)
    (admitted,) = client.hear(Submitted)[0].jobs
    assert (admitted.id, admitted.code, admitted.job) == (request, "too_large", b"")
    client.say(Submit(jobs=(Item(id=b"1" * 16), Item(id=b"2" * 16))), *frames)
    many = client.hear(Submitted)[0].jobs
    assert [(it.id, it.code) for it in many] == [(b"1" * 16, "too_large"), (b"2" * 16, "too_large")]
    client.say(Heartbeat(), *frames)
    assert (error(client).code, site.broker.jobs_open) == ("too_large", 0)
    client.submit(b"job")
    job, _ = worker.job()
    for n, report in enumerate((Partial(token=job.token, n=1), Complete(token=job.token, n=2)), 1):
        worker.say(report, *frames)
        said, _ = worker.hear(ReportRefused)
        assert (said.n, said.token, said.code) == (n, job.token, "too_large")
        assert worker.hear(Ack)[0].ack == n
    worker.say(Heartbeat(), *frames)
    assert error(worker).code == "too_large"
    worker.say(WorkerAsk(credit=2))
    again, _ = worker.job()
    assert (again.job, again.attempt) == (job.job, 2)  # who cannot send its answer has failed
    worker.say(Complete(token=again.token, n=3), b"fits")
    assert client.outcome()[1] == [b"fits"]


def test_native_peers_can_speak_at_the_lowest_limits(site: Site) -> None:
    """`FRAMES_LEAST`, `BODY_BYTES_LEAST`: below them every hello would be too large."""
    site.open(limits=Limits(frames_max=FRAMES_LEAST, body_bytes_max=BODY_BYTES_LEAST))
    client, worker = Client(site), Worker(site, credit=1, queues=("a queue", "another"), agent="somebody/1.2.3")
    client.submit(b"job", queue="another", run_ms=60_000, keep_ms=60_000, late="current", gone="cancel")
    job, body = worker.job()
    assert body == [b"job"]
    worker.say(Fail(token=job.token, n=1, kind="ValueError", text="a sentence for people", retry_ms=0, credit=2))
    job, _ = worker.job()
    worker.say(Complete(token=job.token, n=2, started=2), b"done")
    assert client.outcome()[1] == [b"done"]


# --- Silence


def test_native_clients_hear_of_a_broker_that_does_not_read_them(site: Site) -> None:
    """Liveness: a broker that clients of 2010 have filled up "says `heartbeat` by itself", and outcomes."""
    site.open(limits=Limits(jobs_max=10, liveness_ns=400 * MS))
    client = Client(site)
    request = client.submit(b"native", queue="slow")
    site.until(lambda: site.broker.jobs_open == 1)
    flood = site.client(zmq.DEALER)
    for _ in range(20):
        flood.send_multipart([b"", b"old"])
    site.until(lambda: site.lines.of(Event.INTAKE_PAUSED))
    for _ in range(3):
        assert client.hear(Heartbeat)[0].told == 0
    worker = Worker(site, credit=1, queues=("slow",))
    worker.say(Complete(token=worker.job()[0].token, n=1), b"done")
    heard: list[Any] = []
    while not heard or not isinstance(heard[-1], Heartbeat) or heard[-1].told == 0:
        heard.append(client.hear(Said)[0])
    assert [it.id for it in heard if isinstance(it, Outcome)] == [request]
    assert isinstance(heard[-2], Outcome), "a heartbeat tells of outcomes that came before it"


def test_a_draining_broker_hears_and_answers_everybody(site: Site) -> None:
    """Liveness: "A broker that drains hears and answers everybody as before, but for new requests"."""
    site.open()
    client, worker = Client(site), Worker(site, credit=1)
    client.submit(b"job")
    job, _ = worker.job()
    site.broker.stop()
    site.broker.turn()
    client.say(Heartbeat())
    client.hear(Heartbeat)
    worker.say(Heartbeat())
    worker.hear(Heartbeat)
    client.submit(b"late")
    assert refused(client) == "draining"
    Client(site)
    Worker(site)
    worker.say(Complete(token=job.token, n=1), b"done")
    assert client.outcome()[1] == [b"done"]


def test_who_does_not_read_gets_no_heartbeats_on_top(site: Site) -> None:
    """What waits for a client that does not read needs no proof of life behind it; its outbox is for outcomes."""
    site.open(limits=Limits(jobs_max=10, liveness_ns=8 * MS))
    clients = [Client(site) for _ in range(3)]
    flood = site.client(zmq.DEALER)
    for _ in range(20):
        flood.send_multipart([b"", b"old"])
    site.until(lambda: site.lines.of(Event.INTAKE_PAUSED))
    outbox = site.broker._server.outbox
    deaf = next(iter(site.broker._machine.requests.askers))
    assert outbox._wait((deaf.peer, deaf.path, b"an outcome"), None)
    outbox.retry = list  # type: ignore[method-assign]  # it goes on not to read
    for _ in range(3):
        for client in clients[1:]:
            client.hear(Heartbeat)
    assert len(outbox) == 1


# --- `submitted`, every code


def test_busy_is_told_before_the_broker_stops_reading(site: Site) -> None:
    """`busy` with `retry_ms`: a native request above the limit is refused; many are as a whole."""
    site.open(limits=Limits(jobs_max=10))
    client = Client(site)
    client.say(Submit(jobs=tuple(Item(id=b"%016d" % i) for i in range(8))), *[b"x"] * 8)
    client.say(Submit(jobs=tuple(Item(id=b"%017d" % i) for i in range(3))), *[b"x"] * 3)
    many = client.hear(Submitted)[0].jobs
    assert [(it.code, it.retry_ms > 0) for it in many] == [("busy", True)] * 3
    client.submit(b"9")
    client.submit(b"10")
    client.submit(b"11")
    (one,) = client.hear(Submitted)[0].jobs
    assert (one.code, one.retry_ms > 0) == ("busy", True)
    assert site.broker.jobs_open == 10


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"id": b"i" * 15}, "bad_id"),
        ({"id": b"i" * 65}, "bad_id"),
        ({}, "bad_id"),
        ({"id": b"i" * 16, "queue": ""}, "bad_request"),
        ({"id": b"i" * 16, "queue": "q" * 201}, "bad_request"),
        ({"id": b"i" * 16, "headers": {"h": "x" * 9_000}}, "bad_request"),
        ({"id": b"i" * 16, "run_ms": 1 << 62}, "bad_request"),
        ({"id": b"i" * 16, "silence_ms": 0}, "bad_request"),
        ({"id": b"i" * 16, "keep_ms": 1 << 62}, "bad_request"),
        ({"id": b"i" * 16, "errors_max": -1}, "bad_request"),
        ({"id": b"i" * 16, "tries": -1}, "bad_request"),
        ({"id": b"i" * 16, "start_ms": -1}, "bad_request"),
        ({"id": b"i" * 16, "late": "never"}, "bad_request"),
        ({"id": b"i" * 16, "headers": "none"}, "bad_request"),
        ({"jobs": [{"id": b"i" * 16, "frames": -1}]}, "bad_request"),
        ({"id": b"i" * 16, "age_ms": 1 << 62}, "expired"),
        ({"id": b"i" * 16, "age_ms": 3_600_001}, "expired"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value)[:50],
)
def test_a_request_that_cannot_be_a_job_is_told_why(site: Site, fields: dict[str, Any], code: str) -> None:
    """`bad_id`, `bad_request` and `expired`, each in a `submitted`, asked for or not; none takes room."""
    site.open()
    client = Client(site)
    client.say({"t": "submit", **fields}, b"job")
    assert refused(client) == code
    assert (site.broker.jobs_open, site.broker.counters.requests_refused) == (0, 1)


def test_many_that_cannot_be_read_are_refused_one_by_one(site: Site) -> None:
    """`submitted` where it concerns requests for jobs whose ids can be read; an `error` has the id of an inquiry."""
    site.open()
    client = Client(site)
    names = [b"%016d" % number for number in range(3)]
    client.say({"t": "submit", "tries": "many", "jobs": [{"id": each} for each in names]}, b"1", b"2", b"3")
    said = client.hear(Submitted)[0]
    assert [(job.id, job.code) for job in said.jobs] == [(each, "bad_request") for each in names]
    assert "tries" in said.jobs[0].text
    client.say({"t": "submit", "id": b"short", "tries": -1}, b"1")
    assert (error(client).code, site.broker.counters.requests_refused) == ("bad_header", 3)
    client.say({"t": "inquire", "id": names[0], "wait": "yes"})
    answer = error(client)
    assert (answer.code, answer.of, answer.id) == ("bad_header", "inquire", names[0])


@pytest.mark.parametrize(
    ("items", "frames", "code"),
    [
        ([{"id": b"1" * 16, "frames": 2}], 1, "bad_request"),
        ([{"id": b"1" * 16}], 2, "bad_request"),
        ([{"id": b"1" * 16, "frames": 1 << 62}], 1, "bad_request"),
        ([{"id": b"1" * 16}, {"id": b"1" * 16}], 2, "bad_id"),
        ([{"id": b"1" * 16}, {"id": b"2" * 16}, {"id": b"3" * 16}], 3, "bad_request"),
    ],
    ids=["frames-missing", "frames-left", "frames-huge", "id-twice", "too-many"],
)
def test_a_message_of_many_that_does_not_come_out_even(
    site: Site, items: list[dict[str, Any]], frames: int, code: str
) -> None:
    """Many jobs in one message: refused as a whole where the message itself is wrong."""
    site.open(limits=Limits(ids_per_message_max=2))
    client = Client(site)
    client.say({"t": "submit", "jobs": items}, *[b"x"] * frames)
    assert {it.code for it in client.hear(Submitted)[0].jobs} == {code}
    assert site.broker.jobs_open == 0


def test_many_jobs_in_one_message_are_each_its_own(site: Site) -> None:
    """Many jobs on the same terms: frames go to each in order, also none; one that is bad is refused for itself."""
    site.open()
    client, worker = Client(site), Worker(site, credit=10)
    items = (Item(id=b"1" * 16, frames=2), Item(id=b"2" * 16, frames=0), Item(id=b"short"), Item(id=b"3" * 16))
    client.say(Submit(jobs=items, ack=True), b"a", b"", b"refused", b"c")
    admitted = client.hear(Submitted)[0].jobs
    assert [(it.id, it.code, it.position) for it in admitted] == [
        (b"1" * 16, "", 0),
        (b"2" * 16, "", 1),
        (b"short", "bad_id", 0),
        (b"3" * 16, "", 2),
    ]
    assert [worker.job()[1] for _ in range(3)] == [[b"a", b""], [], [b"c"]]


def test_conflict_and_too_many_askers(site: Site) -> None:
    """`conflict`: a known id with another queue or size. `too_many_askers`: also to an inquiry, in `error`."""
    site.open(limits=Limits(askers_per_job_max=1))
    client, other = Client(site), Client(site)
    request = client.submit(b"job")
    client.submit(b"jobs", id=request)
    assert refused(client) == "conflict"
    client.submit(b"job", id=request, queue="other")
    assert refused(client) == "conflict"
    other.submit(b"job", id=request)
    assert refused(other) == "too_many_askers"
    other.say(Inquire(id=request, wait=True))
    said = error(other)
    assert (said.code, said.of, said.id) == ("too_many_askers", "inquire", request)


# --- `refused`, every code


def test_reports_that_have_no_effect_are_refused_and_acknowledged(site: Site) -> None:
    """`not_open`, `superseded`, `ceiling` and `bad_report`, each with the report's number and token, then `ack`."""
    site.open(limits=Limits(run_ns_max=1_000 * MS))
    client, first, second = Client(site), Worker(site, credit=1), Worker(site)
    client.submit(b"job")
    job, _ = first.job()

    def told(worker: Worker, report: Any, code: str) -> None:
        worker.say(report, *([b"body"] if isinstance(report, Complete) else []))
        said, _ = worker.hear(ReportRefused)
        assert (said.n, said.token, said.code) == (report.n, report.token, code)
        assert said.text
        assert worker.hear(Ack)[0].ack == report.n

    token = job.token
    told(first, Complete(token=b"never given", n=1), "not_open")
    told(first, Extend(token=token, n=2, run_ms=0), "bad_report")
    told(first, Extend(token=token, n=3, run_ms=1_001), "ceiling")
    told(first, Progress(token=token, n=4, done=float("nan")), "bad_report")
    told(first, Complete(token=token, n=5, headers={"h": "x" * 9_000}), "bad_report")  # which ends the attempt
    told(first, Fail(token=token, n=6, kind="Broken", text="it broke"), "superseded")
    for n, kind in enumerate((Fail, HandBack, Partial, Progress), 7):  # the job waits ...
        told(first, kind(token=token, n=n), "superseded")
    second.say(WorkerAsk(credit=1))
    again, _ = second.job()
    assert again.attempt == 2
    for n, kind in enumerate((Fail, HandBack, Partial, Progress), 11):  # ... and is with another
        told(first, kind(token=token, n=n), "superseded")
    second.say(Complete(token=again.token, n=1), b"done")
    assert client.outcome()[1] == [b"done"]
    for n, kind in enumerate((Complete, Fail, HandBack, Partial, Progress), 20):
        told(first, kind(token=token, n=n), "not_open")
    assert site.broker.counters.reports_refused == 19


def test_a_refused_report_leaves_nothing_behind(site: Site) -> None:
    """`superseded`: the headers of an answer that was refused are not those of the outcome."""
    site.open()
    client, first, second = Client(site), Worker(site, credit=1), Worker(site)
    client.submit(b"job", late="current")
    job, _ = first.job()
    first.say(Fail(token=job.token, n=1))
    assert first.hear(Ack)[0].ack == 1
    late = {"headers": {"whose": "the first one's"}}
    first.say(Complete(token=job.token, n=2, **late), b"late")
    assert first.hear(ReportRefused)[0].code == "superseded"
    first.hear(Ack)
    second.say(WorkerAsk(credit=1))
    again, _ = second.job()
    first.say(Complete(token=job.token, n=3, **late), b"later")
    assert first.hear(ReportRefused)[0].code == "not_open"  # the token went with the attempt
    second.say(Complete(token=again.token, n=1), b"done")
    outcome, result = client.outcome()
    assert (result, outcome.headers) == ([b"done"], None)


def test_the_same_report_twice_is_acknowledged_twice_and_done_once(site: Site) -> None:
    """A report whose number is not above the last one is a repetition: acknowledged again, without effect."""
    site.open()
    client, worker = Client(site), Worker(site, credit=2)
    for body in (b"1", b"2"):
        client.submit(body)
    jobs = [worker.job()[0] for _ in range(2)]
    worker.say(Complete(token=jobs[0].token, n=7), b"one")
    assert worker.hear(Ack)[0].ack == 7
    worker.say(Complete(token=jobs[0].token, n=7), b"one")
    assert worker.hear(Ack)[0].ack == 7
    worker.say(Complete(token=jobs[1].token, n=3), b"two")  # numbers do not go back
    assert worker.hear(Ack)[0].ack == 7
    assert client.outcome()[1] == [b"one"]
    assert site.silent(client.socket)
    assert site.broker.jobs_open == 1
    assert site.broker.counters.reports_refused == 0


# --- Bodies


def disguised() -> list[list[bytes]]:
    """Bodies that look like messages."""
    complete = [SIGNATURE, native.encode(Complete(token=b"t" * 16, n=1)), b"body"]
    hello = [SIGNATURE, native.encode(WorkerHello(incarnation=b"i" * 16))]
    submit = [b"\0abcd", SIGNATURE, native.encode(Submit(id=b"i" * 16)), b"", b"body"]
    return [
        complete,
        [b"".join(complete)],
        hello,
        [b"".join(hello)],
        submit,
        [SIGNATURE],
        [b""],
        [b"", b""],
        [b"", SIGNATURE, b"", b""],
        [SIGNATURE[:-1] + b"\2", b"\xc1"],
        [b"", *complete],
        [b"x" * 50_000, b"", *complete, b"y" * 50_000],
    ]


@pytest.mark.parametrize("correlation", [(), (b"\7",), (b"a", b"b")], ids=["direct", "one", "two"])
def test_a_body_is_never_taken_for_a_message(any_site: Site, correlation: tuple[bytes, ...]) -> None:
    """Frames: nothing behind the first delimiter or signature is looked at: whole messages pass as bodies."""
    site = any_site
    site.open()
    old_client, old_worker, answers = site.client(zmq.DEALER), site.worker(zmq.DEALER), site.answers()
    client, worker = Client(site), Worker(site)
    credit = 0
    for body in disguised():
        old_worker.send_multipart([*correlation, b"", *body])  # an ask, whatever stands behind
        old_client.send_multipart([*correlation, b"", *body])
        *path, delimiter, token = site.hear(old_worker)[: len(correlation) + 2]
        assert (tuple(path), delimiter, len(token)) == (correlation, b"", 16)
        answers.send_multipart([token, *body])
        assert site.hear(old_client) == [*correlation, b"", *body]

        credit += 1
        worker.say(WorkerAsk(credit=credit))
        old_client.send_multipart([*correlation, b"", *body])
        job, got = worker.job()
        assert got == body
        worker.say(Complete(token=job.token, n=job.seq), *body)
        assert site.hear(old_client) == [*correlation, b"", *body]
        worker.hear(Ack)

        request = client.submit(*body)
        old_worker.send_multipart([*correlation, b"", b"ask"])
        *_, token = (frames := site.hear(old_worker))[: len(correlation) + 2]
        assert frames[len(correlation) + 2 :] == body
        answers.send_multipart([token, *body])
        outcome, result = client.outcome()
        assert (outcome.id, result) == (request, body)

        credit += 1
        worker.say(WorkerAsk(credit=credit))
        request = client.submit(*body)
        job, got = worker.job()
        assert got == body
        worker.say(Complete(token=job.token, n=job.seq), *body)
        outcome, result = client.outcome()
        assert (outcome.id, result) == (request, body)
        worker.hear(Ack)
    counters = site.broker.counters
    assert counters.jobs_completed == 4 * len(disguised())
    assert (counters.messages_refused, counters.requests_refused, counters.reports_refused) == (0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [[], [b"\0" * 15_000], [b"\0" * 70_000], [b"%d" % i for i in range(997)], [b""] * 997],
    ids=["none", "below-copy", "above-copy", "many", "many-empty"],
)
def test_bodies_of_any_shape_go_through(any_site: Site, body: list[bytes]) -> None:
    """Body: any number of opaque frames, none included, up to the bound, in both directions."""
    site = any_site
    site.open()
    client, worker = Client(site), Worker(site, credit=1)
    client.submit(*body)
    job, got = worker.job()
    assert got == body
    worker.say(Complete(token=job.token, n=1), *body)
    outcome, result = client.outcome()
    assert (outcome.state, result) == ("completed", body)


def test_frames_where_a_message_has_no_body_are_ignored(site: Site) -> None:
    """Body: messages whose table says nothing of one have none; frames that stand there all the same are ignored."""
    site.open()
    client, worker = Client(site), Worker(site)
    worker.say(WorkerAsk(credit=1), b"body", b"")
    client.say(Heartbeat(), b"body")
    client.hear(Heartbeat)
    client.submit(b"job")
    assert worker.job()[1] == [b"job"]


def test_headers_as_large_as_may_be(any_site: Site) -> None:
    """Header: at most 64 KiB, keys that nobody knows ignored; one byte more is `bad_header`."""
    site = any_site
    site.open()
    client = Client(site)
    word = {"t": "heartbeat", "unknown": {"deep": [1, {"x": b"y"}]}, "filling": "x" * 65_000}
    word["filling"] = "x" * (65_000 + HEADER_BYTES_MAX - len(msgpack.packb(word)))
    assert len(msgpack.packb(word)) == HEADER_BYTES_MAX
    client.say(word)
    client.hear(Heartbeat)
    client.say({**word, "filling": f"{word['filling']}x"})
    assert error(client).code == "bad_header"


# --- Proxies, paths, sessions


@pytest.mark.parametrize("hops", [1, 2])
def test_native_peers_behind_proxies(site: Site, hops: int) -> None:
    """Frames: the path comes back with every message, jobs and outcomes find their way through one and two proxies."""
    site.open()
    reached = dict(site.broker.endpoints)
    for _ in range(hops):
        reached = {role: site.proxy(reached[role]) for role in ("clients", "workers")}
    clients = [Client(site, socket=site.connect_to(zmq.DEALER, reached["clients"])) for _ in range(3)]
    # Nothing is recalled from these, however long this machine takes to turn from one to the next: they would not heed.
    at_workers = [site.connect_to(zmq.DEALER, reached["workers"]) for _ in range(3)]
    workers = [Worker(site, 1, socket=socket, features=("starts",)) for socket in at_workers]
    for round_ in range(1, 4):
        names = [client.submit(b"%d" % number, b"") for number, client in enumerate(clients)]
        for worker in workers:
            job, body = worker.job()
            worker.say(Complete(token=job.token, n=round_, credit=round_ + 1), *body)
            if round_ == 3:
                worker.hear(Ack)
        for number, client in enumerate(clients):
            outcome, result = client.outcome()
            assert (outcome.id, outcome.n, result) == (names[number], round_, [b"%d" % number, b""])


def test_two_paths_on_one_connection_are_two_sessions(site: Site) -> None:
    """Sessions: a connection and return path is one; numbers, credit and ends of one are nothing to the other."""
    site.open()
    clients = [Client(site)]
    clients.append(Client(site, socket=clients[0].socket, path=(b"x",)))
    workers = [Worker(site, credit=1)]
    workers.append(Worker(site, credit=1, socket=workers[0].socket, path=(b"y", b"z")))
    names = [client.submit(b"%d" % number) for number, client in enumerate(clients)]
    jobs = {}
    for _ in range(2):
        frames = site.hear(workers[0].socket)
        worker = workers[frames[0] != SIGNATURE]
        said, body = worker.take(frames)
        jobs[worker] = (said, body)
    assert len(jobs) == 2
    workers[0].say(Goodbye())
    workers[0].say(Heartbeat())
    assert error(workers[0]).code == "no_session"
    job, body = jobs[workers[1]]
    workers[1].say(Complete(token=job.token, n=1, credit=2), *body)
    job, body = workers[1].job()
    assert (job.ack, job.seq) == (1, 2)
    workers[1].say(Complete(token=job.token, n=2), *body)
    workers[1].hear(Ack)
    for _ in range(2):
        frames = site.hear(clients[0].socket)
        client = clients[frames[0] != SIGNATURE]
        outcome, result = client.take(frames)
        number = clients.index(client)
        assert (outcome.id, outcome.n, result) == (names[number], 1, [b"%d" % number])


def test_a_peer_may_speak_both_dialects_on_one_connection(any_site: Site) -> None:
    """Dialects are told apart message by message: a DEALER speaks both, and each gets its own answers."""
    site = any_site
    site.open()
    client, worker, answers = Client(site), Worker(site), site.answers()
    for round_ in range(1, 4):
        client.socket.send_multipart([b"", b"old"])
        request = client.submit(b"new")
        worker.socket.send_multipart([b"", b"ask"])
        worker.say(WorkerAsk(credit=round_))
        for _ in range(2):
            frames = site.hear(worker.socket)
            if frames[0] == b"":
                answers.send_multipart([frames[1], frames[2] + b", by the old one"])
            else:
                job, body = worker.take(frames)
                assert isinstance(job, Dispatch)
                worker.say(Complete(token=job.token, n=round_), body[0] + b", by the new one")
                worker.hear(Ack) if not worker.socket.poll(0) else None
        heard = [site.hear(client.socket) for _ in range(2)]
        (old,) = [frames for frames in heard if frames[0] == b""]
        (new,) = [frames for frames in heard if frames[0] != b""]
        outcome, result = client.take(new)
        assert outcome.id == request
        assert old[1].startswith(b"old, by")
        assert result[0].startswith(b"new, by")
        worker.hear_all()


# --- Acknowledgements, heartbeats, liveness


def test_acknowledgements_ride_on_jobs_and_are_one_a_turn(site: Site) -> None:
    """Reports: one cumulative number a turn, in the job where there is one, else in one `ack`."""
    site.open()
    client, worker = Client(site), Worker(site, credit=10)
    for number in range(20):
        client.submit(b"%d" % number)
    jobs = [worker.job()[0] for _ in range(10)]
    for n, job in enumerate(jobs[:9], 1):
        worker.say(Complete(token=job.token, n=n), b"")
    worker.say(Complete(token=jobs[9].token, n=10, credit=11), b"")
    site.until(lambda: len(site.broker._workers._pump.native) == 0 and worker.socket.poll(10))
    heard = worker.hear_all()
    assert [type(said) for said, _ in heard if not isinstance(said, Ack)] == [Dispatch]
    numbers = [said.ack for said, _ in heard if said.ack]
    assert numbers == sorted(set(numbers))  # each told once, in order
    assert numbers[-1] == 10
    assert len(numbers) <= 3  # one a turn: ten messages may lie in several


def test_heartbeats_are_answered(any_site: Site) -> None:
    """`heartbeat`, both ways, at both endpoints; numbers in it count."""
    site = any_site
    site.open()
    client, worker = Client(site), Worker(site)
    client.submit(b"job")
    worker.say(Heartbeat(credit=1))
    heard = [worker.take(site.hear(worker.socket))[0] for _ in range(2)]
    assert {type(said) for said in heard} == {Heartbeat, Dispatch}
    client.say(Heartbeat())
    client.hear(Heartbeat)


def test_a_silent_worker_loses_its_session_and_all_it_held(site: Site) -> None:
    """Liveness: nothing heard for `liveness_ms`: what was started counts, what was held does not; then `no_session`."""
    site.open(tries=2, limits=Limits(liveness_ns=80 * MS))
    client, silent = Client(site), Worker(site, credit=2)
    for body in (b"started", b"held"):
        client.submit(body)
    jobs = [silent.job()[0] for _ in range(2)]
    silent.say(WorkerAsk(started=1))
    site.until(lambda: site.broker.counters.attempts_lost)
    heir = Worker(site, credit=2)
    heard = {body[0]: said for said, body in (heir.job(), heir.job())}
    assert {body: said.attempt for body, said in heard.items()} == {b"started": 2, b"held": 1}
    silent.say(Heartbeat())
    assert error(silent).code == "no_session"
    silent.say(WorkerHello(incarnation=silent.incarnation, held=(jobs[1].token,), features=("starts",)))
    welcome, _ = silent.hear(Welcome)
    assert (welcome.handed, welcome.received, welcome.lost) == (0, 0, (jobs[1].token,))
    silent.say(Complete(token=jobs[0].token, n=1), b"late, and first")
    assert client.outcome()[1] == [b"late, and first"]
    assert heir.hear(Cancel)[0].reason == "answered"


def test_a_client_needs_to_say_nothing(site: Site) -> None:
    """Liveness: clients are gone when their connections are; one that is silent for long still gets its outcome."""
    site.open(limits=Limits(liveness_ns=30 * MS))
    client = Client(site)
    client.submit(b"job")
    site.silent(seconds=0.1)
    worker = Worker(site, credit=1)
    job, _ = worker.job()
    worker.say(Complete(token=job.token, n=1), b"done")
    assert client.outcome()[1] == [b"done"]


def test_clients_of_one_job_leave_no_outcome_behind(any_site: Site) -> None:
    """A client, in order: "At the end: a last `heartbeat` with `received`, and close": what was received is dropped,
    though the broker hears of both at once.
    """
    site, clients = any_site, 20
    site.open()
    worker = Worker(site, credit=clients)
    for number in range(1, clients + 1):
        client = Client(site)
        client.submit(b"job")
        worker.say(Complete(token=worker.job()[0].token, n=number), b"done")
        client.say(Heartbeat(received=client.outcome()[0].n))
        client.socket.close(linger=1_000)
    site.until(lambda: site.broker.counters.outcomes_received == clients)
    assert not site.broker._machine.requests.outcomes


def test_a_worker_takes_its_session_to_another_connection(site: Site) -> None:
    """Sessions: the same incarnation on another connection goes on: its job and its numbers."""
    site.open()
    client, worker = Client(site), Worker(site, credit=1)
    client.submit(b"job")
    job, _ = worker.job()
    worker.socket.close(linger=0)
    moved = Worker(site, hello=False, incarnation=worker.incarnation)
    moved.say(WorkerHello(incarnation=worker.incarnation, running=(job.token,), features=("starts",)))
    welcome, _ = moved.hear(Welcome)
    assert (welcome.handed, welcome.received, welcome.lost) == (1, 0, ())
    moved.say(Complete(token=job.token, n=1, credit=2), b"done")
    assert client.outcome()[1] == [b"done"]
    assert site.broker.counters.workers_lost == 0


# --- Clients that do not read


BIG = b"x" * 20_000


def test_a_client_that_never_reads_holds_nobody_up_and_can_ask_again(site: Site) -> None:
    """Promise 7, natively: the outbox has its bound; what it drops stays kept for who asks again."""
    site.open(limits=Limits(outbox_bytes_max=1_000_000))
    frozen = Client(site, socket=site.client(zmq.DEALER, rcvhwm=1, rcvbuf=4_096))
    names = [b"%016d" % number for number in range(1_400)]
    for request in names:
        frozen.submit(b"job", id=request)
    worker, quick = Worker(site, credit=50), Client(site)
    for n in range(1, len(names) + 1):
        job, _ = worker.job()
        worker.say(Complete(token=job.token, n=n, credit=50 + n), BIG)
    site.until(lambda: site.broker.counters.jobs_completed == len(names))
    assert site.broker.counters.reply_dropped > 0
    assert site.broker._server.outbox.bytes <= 1_000_000
    quick.submit(b"quick")
    job, _ = worker.job()
    worker.say(Complete(token=job.token, n=len(names) + 1), b"quick")
    assert quick.outcome()[1] == [b"quick"]
    heard = {}
    numbers = []
    while frozen.socket.poll(1) or not site.silent(frozen.socket):
        outcome, result = frozen.take(frozen.socket.recv_multipart())
        numbers.append(outcome.n)
        heard[outcome.id] = result
        site.broker.turn()
    assert len(heard) < len(names)
    assert numbers == sorted(set(numbers))
    missing = set(names) - set(heard)
    again = Client(site)
    for request in missing:
        again.submit(b"job", id=request, age_ms=1)
    for _ in missing:
        outcome, result = again.outcome()
        heard[outcome.id] = result
    assert set(heard) == set(names)
    assert all(result == [BIG] for result in heard.values())
    assert site.broker.counters.jobs_completed == len(names) + 1  # none was run again


def test_receipts_free_what_was_told(site: Site) -> None:
    """Receipts are cumulative; what was received is dropped, the rest is kept and told again to who asks."""
    site.open()
    client, worker = Client(site), Worker(site, credit=5)
    names = [client.submit(b"%d" % number) for number in range(5)]
    for n in range(1, 6):
        job, body = worker.job()
        worker.say(Complete(token=job.token, n=n), *body)
    assert [client.outcome()[0].n for _ in names] == [1, 2, 3, 4, 5]
    client.say(Heartbeat(received=3))
    client.hear(Heartbeat)
    for request in names:
        client.say(Inquire(id=request))
    assert [client.hear(JobState)[0].state for _ in names] == ["unknown"] * 3 + ["completed"] * 2
    client.say(Inquire(id=names[4], wait=True))
    outcome, result = client.outcome()
    assert (outcome.n, result) == (6, [b"4"])


# --- The end of a broker


class Running:
    """A broker that runs in a thread of the test."""

    def __init__(self, site: Site) -> None:
        self._thread = threading.Thread(target=site.broker.run)
        self._thread.start()

    def ended(self) -> None:
        """Waits for the end."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


def receive(peer: Native) -> Any:
    """The next message, from a broker that runs by itself."""
    assert peer.socket.poll(LIMIT_S * 1_000)
    return peer.take(peer.socket.recv_multipart())


def test_draining_is_told_and_open_jobs_go_on(site: Site) -> None:
    """`draining`, with `retry_ms`: new requests are refused at once while the open one is finished and told."""
    site.open(drain=60)
    client, worker = Client(site), Worker(site, credit=2)
    client.submit(b"job")
    job, _ = worker.job()
    running = Running(site)
    site.broker.stop()
    limit = time.monotonic() + LIMIT_S
    while not site.lines.of(Event.BROKER_DRAINING):
        assert time.monotonic() < limit
    client.submit(b"late")
    said, _ = receive(client)
    assert [(it.code, it.retry_ms) for it in said.jobs] == [("draining", 1_000)]
    other = Client(site, hello=False)
    other.say(ClientHello())
    assert isinstance(receive(other)[0], Welcome)
    worker.say(Complete(token=job.token, n=1), b"done")
    outcome, result = receive(client)
    assert (outcome.state, result) == ("completed", [b"done"])
    running.ended()


def test_a_stop_tells_everybody_what_became_of_their_jobs(site: Site) -> None:
    """`broker_stopped`: what is waiting, held or running at the end of the drain time is cancelled, and told so."""
    site.open(drain=0.0)
    client, worker = Client(site), Worker(site, credit=2)
    names = [client.submit(b"%d" % number) for number in range(3)]
    jobs = [worker.job()[0] for _ in range(2)]
    worker.say(WorkerAsk(started=1))
    site.until(lambda: sum(it.attempts for it in site.broker._machine.jobs()) == 1)  # two sockets keep no order
    client.say(Inquire(id=names[0]))
    assert client.hear(JobState)[0].state == "running"
    running = Running(site)
    site.broker.stop()
    told = [receive(client)[0] for _ in names]
    assert {(it.id, it.state, it.reason) for it in told} == {(it, "cancelled", "broker_stopped") for it in names}
    assert sorted(it.attempts for it in told) == [0, 0, 1]
    assert len(jobs) == 2
    running.ended()


# --- Crossing dialects


def test_jobs_of_2010_done_natively_and_the_other_way_round(any_site: Site) -> None:
    """A job may be submitted in one dialect and done in the other; an empty answer is none of failure natively."""
    site = any_site
    site.open()
    old_client, client = site.client(), Client(site)
    old_worker, answers = site.worker(), site.answers()
    worker = Worker(site)
    for answer in ([b"done"], [b""], [b"a", b""]):
        request = client.submit(b"new")
        old_worker.send(b"ask")
        token, body = site.hear(old_worker)
        assert body == b"new"
        answers.send_multipart([token, *answer])
        outcome, result = client.outcome()
        assert (outcome.id, outcome.state, result) == (request, "completed", answer)
    old_client.send(b"old")
    worker.say(WorkerAsk(credit=1))
    job, body = worker.job()
    assert body == [b"old"]
    worker.say(Complete(token=job.token, n=1, headers={"a": "b"}), b"done", b"")
    assert site.hear(old_client) == [b"done", b""]


def test_failures_cross_both_ways(site: Site) -> None:
    """A native failure is told to a client of 2010 as an empty frame; one of a job of 2010 natively in full."""
    site.open(tries=2, timeout=0.05)
    old_client, client = site.client(), Client(site)
    worker, old_worker = Worker(site, credit=1), site.worker(zmq.DEALER)
    old_client.send(b"old")
    job, _ = worker.job()
    worker.say(Fail(token=job.token, n=1, kind="Broken", text="for good", final=True))
    assert site.hear(old_client) == [b""]
    worker.hear(Ack)
    for _ in range(2):
        old_worker.send_multipart([b"", b"ask"])
    client.submit(b"new")
    for _ in range(2):
        assert site.hear(old_worker)[2] == b"new"
    outcome, result = client.outcome()
    assert (outcome.state, outcome.reason, outcome.attempts, result) == ("discarded", "tries_spent", 2, [])
    assert [(entry.attempt, entry.cause) for entry in outcome.ledger] == [(1, "expired"), (2, "expired")]
    assert all(entry.began_ms <= entry.ended_ms for entry in outcome.ledger)
    worker.say(WorkerAsk(credit=2))
    client.submit(b"newer")
    job, _ = worker.job()
    worker.say(Fail(token=job.token, n=2, kind="Broken", text="for good", final=True))
    outcome, _ = client.outcome()
    assert (outcome.state, outcome.reason, outcome.kind, outcome.text) == ("discarded", "failed", "Broken", "for good")


# --- Partial results and progress


def test_followers_hear_of_pieces_and_progress(site: Site) -> None:
    """`partial` and `progress` go to askers that follow, numbered within the attempt; others hear the outcome only."""
    site.open()
    follower, other, worker = Client(site, features=("follows",)), Client(site), Worker(site, credit=2)
    request = follower.submit(b"job", follow=True)
    other.submit(b"job", id=request)
    job, _ = worker.job()
    worker.say(Partial(token=job.token, n=1), b"piece", b"")
    worker.say(Progress(token=job.token, n=2, done=0.5, total=2, note="half"))
    worker.say(Partial(token=job.token, n=3))
    piece, body = follower.hear(TellPartial)
    assert (piece.id, piece.attempt, piece.seq, body) == (request, 1, 1, [b"piece", b""])
    progress, _ = follower.hear(TellProgress)
    assert (progress.id, progress.done, progress.total, progress.note) == (request, 0.5, 2.0, "half")
    assert follower.hear(TellPartial)[0].seq == 2
    worker.say(Fail(token=job.token, n=4))
    again = next(said for said, _ in worker.hear_all() if isinstance(said, Dispatch))
    worker.say(Partial(token=again.token, n=5), b"anew")
    piece, _ = follower.hear(TellPartial)
    assert (piece.attempt, piece.seq) == (2, 1)
    worker.say(Complete(token=again.token, n=6), b"done")
    assert follower.outcome()[1] == other.outcome()[1] == [b"done"]
