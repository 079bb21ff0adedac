"""Native peers that mean no good: wrong shapes, floods, lies. The broker lives, memory is flat, others are served.

Each bad message is answered with a code: nothing is silent. Floods are small here, so memory is judged by the tables
that a flood could fill, and by the resident size where it is libzmq that would keep what nobody reads.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relet import Limits
from relet.core.roster import Session
from relet.dialects import native
from relet.messages import (
    VERSION,
    Ack,
    ClientHello,
    Complete,
    Dispatch,
    Error,
    Extend,
    Fail,
    FromClient,
    FromWorker,
    HandBack,
    Heartbeat,
    Inquire,
    Item,
    Partial,
    Progress,
    ReportRefused,
    Submit,
    Submitted,
    Welcome,
    WorkerAsk,
    WorkerHello,
)

from .conftest import Site
from .native_peers import Client, Native, Worker, name

MS = 1_000_000
MIB = 1 << 20


def resident() -> int:
    """Bytes of this process in memory (proc(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sessions_alive() -> int:
    """Session objects that something still holds."""
    gc.collect()
    return sum(type(it) is Session for it in gc.get_objects())


@contextmanager
def others_are_served(site: Site) -> Iterator[None]:
    """An honest pair that was there before is there after, and does a job."""
    client, worker = Client(site), Worker(site, credit=1, queues=("honest",))
    client.submit(b"before", queue="honest")
    job, _ = worker.job()
    yield
    worker.say(Complete(token=job.token, n=1, credit=2), b"before, done")
    assert client.outcome()[1] == [b"before, done"]
    client.submit(b"after", queue="honest")
    job, _ = worker.job()
    worker.say(Complete(token=job.token, n=2), b"after, done")
    assert client.outcome()[1] == [b"after, done"]


# --- Shapes


WORDS = sorted({str(it.__struct_config__.tag) for it in (*FromWorker.__args__, *FromClient.__args__)})
FIELDS = sorted({field for it in (*FromWorker.__args__, *FromClient.__args__) for field in it.__struct_fields__})
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.integers(0, 5)
    | st.floats()
    | st.binary(max_size=70)
    | st.binary(min_size=16, max_size=16)
    | st.text(max_size=20)
    | st.sampled_from(["any", "current", "finish", "cancel", "default", "starts", "recalls", "follows"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
MAPS = st.builds(
    lambda word, fields: bytes(msgpack.packb({"t": word, **fields})),
    st.sampled_from(WORDS) | st.text(max_size=9),
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), VALUES, max_size=6),
)
HEADERS = (
    MAPS | st.builds(lambda header, end: header[: end % (len(header) + 1)], MAPS, st.integers(0, 200)) | st.binary()
)
DEEP = b"\x82\xa1t\xa9heartbeat\xa1x" + b"\x91" * 60_000 + b"\xc0"


def test_any_header_is_answered_or_taken(site: Site) -> None:
    """Whatever a header holds, at both endpoints: what cannot be read is answered with its code, and in order."""
    site.open(tries=3)
    client, worker = Client(site), Worker(site)

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        HEADERS, st.lists(st.binary(max_size=9), max_size=3), st.sampled_from([VERSION, VERSION, VERSION, 0, 2, 255])
    )
    @example(DEEP, [], VERSION)
    @example(b"\x82\xa1t\xa5hello\xa5agent\xa2\xff\xfe", [], VERSION)
    @example(b"\xa1x" * 40_000, [], VERSION)
    def each(header: bytes, body: list[bytes], version: int) -> None:
        for peer, read in ((client, native.from_client), (worker, native.from_worker)):
            try:
                read(version, header)
                expected = []
            except native.BadMessage as bad:
                expected = [bad.error.code]
            peer.say(header, *body, version=version)
            peer.say({"t": "bye"})  # nobody knows it, so its answer ends what belongs to the header
            codes = []
            while not codes or codes[-1] != ("unknown_command", "bye"):
                said, _ = peer.take(site.hear(peer.socket))
                if isinstance(said, Error):
                    codes.append((said.code, said.of))
            if expected:
                assert [code for code, _ in codes[:-1]] == expected

    with others_are_served(site):
        each()


# --- Floods


def test_a_flood_of_hellos_keeps_nothing(site: Site) -> None:
    """Each hello of a new incarnation ends the session before it; nothing of those that ended stays."""
    site.open()
    before = sessions_alive()
    with others_are_served(site):
        worker, client = Native(site, "workers"), Native(site, "clients")
        queues = tuple(f"queue {i}" for i in range(100))
        for _ in range(20):
            for _ in range(100):
                worker.say(WorkerHello(incarnation=name(), queues=queues))
                client.say(ClientHello(features=("follows",)))
            for _ in range(100):
                worker.hear(Welcome)
                client.hear(Welcome)
        machine = site.broker._machine
        assert len(machine.roster.sessions) == 2
        assert machine.requests.askers.count == 2
        assert sessions_alive() - before < 200
        assert len(machine.queues) < 500


def test_sessions_that_come_and_go_leave_nothing(site: Site) -> None:
    """Five thousand sessions, each with a queue of its own, that are replaced or just go: nothing of them stays."""
    site.open(limits=Limits(session_grace_ns=1 * MS))
    before = sessions_alive()
    with others_are_served(site):
        peer = Native(site, "workers")
        for number in range(4_500):
            path = Native(site, "workers", peer.socket, (b"%d" % (number % 50),))
            path.say(WorkerHello(incarnation=name(), queues=(f"q{number}",)))
            path.say(WorkerAsk(credit=1))
            if number % 50 == 49:
                for _ in range(50):
                    site.hear(peer.socket)
        for number in range(500):
            worker = Worker(site, credit=1, queues=(f"other {number}",))
            worker.socket.close(linger=0)
        site.until(lambda: len(site.broker._machine.roster.sessions) <= 51)
        machine = site.broker._machine
        assert machine.roster.asks == 50
        assert sessions_alive() - before < 250
        assert len(machine.queues) < 300
        assert len(site.broker._workers._pump.peers) < 10


def test_queues_of_ten_thousand_names_are_gone_with_their_jobs(site: Site) -> None:
    """A queue is there as long as a job or a worker names it: ten thousand names leave none behind."""
    site.open()
    with others_are_served(site):
        client, worker = Client(site), Worker(site, credit=1_000)
        for number in range(10_000):
            client.submit(b"", queue=f"queue {number}", gone="cancel")
        site.until(lambda: site.broker.counters.jobs_accepted == 10_001)
        assert len(site.broker._machine.queues) == 10_002
        client.socket.close(linger=0)
        site.until(lambda: site.broker.counters.jobs_cancelled == 10_000)
        worker.say(Heartbeat())
        worker.hear(Heartbeat)
        gc.collect()
        outcomes = site.broker._machine.requests.outcomes
        assert len(site.broker._machine.queues) <= len(outcomes) + 2


def test_bad_messages_are_answered_one_by_one(site: Site) -> None:
    """A flood of what cannot be taken: so many messages, so many answers, in order; logged at a bounded rate."""
    site.open()
    with others_are_served(site):
        for peer in (Client(site), Worker(site)):
            for _ in range(10):
                for _ in range(200):
                    peer.say(b"\xc1")
                    peer.say({"t": "sing"})
                    peer.say({"t": "heartbeat"}, version=2)
                heard = Counter(peer.hear(Error)[0].code for _ in range(600))
                assert heard == {"bad_header": 200, "unknown_command": 200, "bad_version": 200}
        assert site.broker.counters.messages_refused == 12_000
        assert len(site.lines.lines) < 100


@pytest.mark.parametrize("role", ["clients", "workers"])
@pytest.mark.parametrize("said", [b"\xc1", {"t": "heartbeat", "filling": b"x" * 1_000}], ids=["bad", "heartbeats"])
def test_who_floods_and_never_reads_fills_no_memory(site: Site, role: str, said: Any) -> None:
    """Answers to a peer that reads none of them have a bound; what exceeds it is dropped and counted."""
    site.open(limits=Limits(outbox_bytes_max=4 * MIB))
    with others_are_served(site):
        peer: Native = (Client if role == "clients" else Worker)(
            site, socket=site.connect(zmq.DEALER, role, rcvhwm=1, rcvbuf=4_096, sndhwm=10_000)
        )
        site.broker.turn()
        before = resident()
        sent = 0
        while sent < 100_000:
            for _ in range(2_000):
                peer.say(said)
            sent += 2_000
            for _ in range(3):
                site.broker.turn()
        site.until(lambda: not site.broker._server.busy)
        assert resident() - before < 20 * MIB
        if isinstance(said, bytes):  # answers that are longer than what the kernel keeps
            assert site.broker.counters.reply_dropped > 0
        peer.socket.close(linger=0)


def test_ids_and_receipts_of_a_client_that_says_none_fill_nothing(site: Site) -> None:
    """Outcomes that are never received are kept within their bound, and so is what is known of who was told them."""
    site.open(limits=Limits(outcomes_max=100))
    with others_are_served(site):
        client, worker = Client(site), Worker(site, credit=100)
        n = 0
        for _ in range(100):
            for _ in range(100):
                client.submit(b"job")
            for _ in range(100):
                job, _ = worker.job()
                n += 1
                worker.say(Complete(token=job.token, n=n, credit=n + 100), b"x" * 1_000)
            for _ in range(100):
                client.outcome()
        requests = site.broker._machine.requests
        assert len(requests.outcomes) <= 100
        (asker,) = [it for it in requests.askers if it.told > 10]
        assert len(asker.unreceived) <= 200
        client.say(Heartbeat(received=n))
        client.hear(Heartbeat)
        assert not asker.unreceived


def test_outcomes_to_be_kept_that_must_go_leave_nothing(site: Site) -> None:
    """`keep_ms` is within the bounds: what had to go before its time is not kept by its timer either."""
    site.open(limits=Limits(outcomes_max=10))
    with others_are_served(site):
        client, worker = Client(site), Worker(site, credit=100)
        for n in range(1, 501):
            client.submit(b"job", keep_ms=3_600_000, received=n - 1)
            job, _ = worker.job()
            worker.say(Complete(token=job.token, n=n, credit=n + 100), b"x" * 1_000)
            client.outcome()
        assert len(site.broker._machine.requests._until) < 100


def test_clients_behind_a_proxy_come_and_go_for_ever(site: Site) -> None:
    """Nobody tells when a client behind a proxy has gone: those that wait for nothing make room, those that do stay."""
    site.open(limits=Limits(paths_per_peer_max=10))
    reached = site.proxy(site.broker.endpoints["clients"])
    waiting = [Client(site, socket=site.connect_to(zmq.DEALER, reached)) for _ in range(3)]
    for client in waiting:
        client.submit(b"wait", queue="later")
    worker = Worker(site, credit=100)
    for n in range(1, 51):
        client = Client(site, socket=site.connect_to(zmq.DEALER, reached))
        client.submit(b"%d" % n)
        job, body = worker.job()
        worker.say(Complete(token=job.token, n=n), *body)
        assert client.outcome()[1] == [b"%d" % n]  # and it goes without a receipt
        client.socket.close(linger=0)
    later = Worker(site, credit=3, queues=("later",))
    for n, client in enumerate(waiting, 1):
        job, _ = later.job()
        later.say(Complete(token=job.token, n=n), b"done")
        assert client.outcome()[1] == [b"done"]
    for _ in range(10):
        client = Client(site, socket=site.connect_to(zmq.DEALER, reached))
        client.submit(b"wait", queue="later", ack=True)
        client.hear(Submitted)
    waiting[0].say(Heartbeat())
    assert waiting[0].hear(Error)[0].code == "no_session"  # it waited for nothing any more
    full = Native(site, "clients", site.connect_to(zmq.DEALER, reached))
    full.say(ClientHello())
    assert full.hear(Error)[0].code == "too_many_peers"


def test_a_client_that_goes_with_much_unread_holds_nobody_up(site: Site) -> None:
    """What a client leaves unread when it goes is put back in one short turn, however much it is."""
    site.open()
    client, worker = Client(site, socket=site.client(zmq.DEALER, rcvhwm=1, rcvbuf=4_096)), Worker(site, credit=500)
    n = 0
    for _ in range(40):
        for _ in range(500):
            client.submit(b"")
        for _ in range(500):
            job, _ = worker.job()
            n += 1
            worker.say(Complete(token=job.token, n=n, credit=n + 500), b"x" * 1_000)
    site.until(lambda: site.broker.counters.jobs_completed == n)
    assert len(site.broker._server.outbox) > 10_000
    client.socket.close(linger=0)
    slowest = 0.0
    while site.broker._server.outbox:
        began = time.monotonic()
        site.broker.turn(0.001)
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 0.5
    assert site.broker.counters.replies_unroutable > 10_000


def test_one_id_asked_for_again_and_again_is_one_job(site: Site) -> None:
    """A flood of one request id joins one job; the asker is told once."""
    site.open()
    with others_are_served(site):
        client = Client(site)
        request = name()
        for _ in range(20_000):
            client.submit(b"job", id=request, age_ms=1)
        site.until(lambda: site.broker.counters.requests_joined == 19_999)
        worker = Worker(site, credit=5)
        job, _ = worker.job()
        worker.say(Complete(token=job.token, n=1), b"done")
        assert client.outcome()[1] == [b"done"]
        assert site.silent(client.socket)


def test_reports_with_wrong_tokens_are_refused_one_by_one(site: Site) -> None:
    """Possession is proven by the token: guesses, tokens of others' ends and long ones are refused, each by number."""
    site.open()
    with others_are_served(site):
        worker = Worker(site)
        kinds = [Complete, Fail, HandBack, Partial, Progress]
        for n in range(1, 5_001):
            token = os.urandom((0, 1, 15, 16, 17, 200)[n % 6])
            report = Extend(token=token, n=n, run_ms=1) if n % 6 == 5 else kinds[n % 6](token=token, n=n)
            worker.say(report)
        heard = []
        while len(heard) < 5_000:
            said, _ = worker.take(site.hear(worker.socket))
            if isinstance(said, ReportRefused):
                heard.append(said.n)
                assert (said.code, len(said.token) <= 64) == ("not_open", True)
        assert heard == list(range(1, 5_001))
        assert site.broker.counters.reports_refused == 5_000


def test_credit_without_end_is_granted_to_the_bound(site: Site) -> None:
    """Credit of 2^63 - 1, `started` and reports of the same: the bound holds, and the session goes on."""
    site.open(limits=Limits(asks_per_worker_max=10))
    with others_are_served(site):
        worker, client = Worker(site), Client(site)
        largest = (1 << 63) - 1
        worker.say(WorkerAsk(credit=largest, started=largest))
        assert worker.hear(Error)[0].code == "bad_credit"
        names = [client.submit(b"%d" % number) for number in range(20)]
        jobs = [worker.job()[0] for _ in range(10)]
        assert site.silent(worker.socket)
        worker.say(Complete(token=jobs[0].token, n=largest, credit=largest), b"done")
        assert client.outcome()[0].id == names[0]
        worker.say(Complete(token=jobs[1].token, n=largest), b"a repetition, as far as anybody can tell")
        acks = [said.ack for said, _ in worker.hear_all() if isinstance(said, Ack | Dispatch) and said.ack]
        assert set(acks) == {largest}


def test_failures_that_never_say_a_start_fill_nothing(site: Site) -> None:
    """A worker that says `starts` and never says one: what is known of its hand-overs stays bounded."""
    site.open(limits=Limits(asks_per_worker_max=10))
    with others_are_served(site):
        client, worker = Client(site), Worker(site, credit=1)
        client.submit(b"job")
        for n in range(1, 2_001):
            job, _ = worker.job()
            worker.say(Fail(token=job.token, n=n, credit=n + 1))
        (session,) = [
            it for it in site.broker._machine.roster.sessions.values() if it.incarnation == worker.incarnation
        ]
        assert len(session.jobs) <= 30


def test_a_worker_that_takes_everything_and_starts_nothing_costs_no_time(site: Site) -> None:
    """Credit that is spent may be said anew without end; what a report costs does not grow with what is held."""
    site.open(limits=Limits(asks_per_worker_max=100, jobs_per_worker_max=5_000))
    with others_are_served(site):
        client, worker = Client(site), Worker(site, credit=100)
        for number in range(5_000):
            client.submit(b"%d" % number)
        jobs = []
        while len(jobs) < 5_000:
            jobs.append(worker.job()[0])
            if len(jobs) % 100 == 0:
                worker.say(WorkerAsk(credit=len(jobs) + 100))
        for n, job in enumerate(jobs, 1):
            worker.say(Complete(token=job.token, n=n, credit=5_000 + n))
        site.until(lambda: site.broker.counters.jobs_completed == 5_000)


def test_claims_are_bounded_by_the_header(site: Site) -> None:
    """Worker hello: "The header's 64 KiB bound the claims": a hello full of them is answered; a larger one is none."""
    site.open()
    fit = 3_600
    tokens = [name() for _ in range(fit)]
    with others_are_served(site):
        worker = Native(site, "workers")
        hello = {"t": "hello", "incarnation": name(), "running": tokens[: fit // 2], "held": tokens[fit // 2 :]}
        assert native.HEADER_BYTES_MAX - 2_000 < len(msgpack.packb(hello)) <= native.HEADER_BYTES_MAX
        worker.say(hello)
        assert worker.hear(Welcome)[0].lost == tuple(tokens)
        worker.say({**hello, "held": tokens})
        assert worker.hear(Error)[0].code == "bad_header"
        worker.say({**hello, "running": [b""] * 30_000, "held": []})
        assert worker.hear(Welcome)[0].lost == (b"",) * 30_000


def test_questions_about_nothing_are_answered_each(site: Site) -> None:
    """`inquire` with ids of every length, none, and both: `unknown` or `expired`, an error for none or both."""
    site.open()
    with others_are_served(site):
        client = Client(site)
        for size in (0, 1, 15, 16, 17, 64, 65, 60_000):
            client.say(Inquire(id=b"x" * size))
            client.say(Inquire(job=b"\0" * size))
            client.say(Inquire(id=b"x" * size, job=b"\xff" * (size % 1_000), wait=True))
        heard = [client.take(site.hear(client.socket))[0] for _ in range(24)]
        assert [it.code for it in heard if isinstance(it, Error)] == ["bad_request"] * 9
        assert {it.state for it in heard if not isinstance(it, Error)} <= {"unknown", "expired"}


def test_many_of_the_worst(site: Site) -> None:
    """Messages of many jobs at every edge: the most ids, none, frames of nothing, all refused or all taken."""
    site.open()
    with others_are_served(site):
        client = Client(site)
        most = [{"id": b"%016d" % number, "frames": 0} for number in range(1_000)]
        client.say({"t": "submit", "jobs": most, "ack": True})
        admitted = client.hear(Submitted)[0].jobs
        assert all(it.job and not it.code for it in admitted)
        client.say({"t": "submit", "jobs": [{"id": b"%016d" % n, "frames": 0} for n in range(1_500)]})
        assert {it.code for it in client.hear(Submitted)[0].jobs} == {"bad_request"}
        client.say({"t": "submit", "jobs": []})
        assert client.hear(Submitted)[0].jobs[0].code == "bad_id"
        client.say(Submit(id=name(), jobs=()), *[b""] * 990)
        assert client.hear_all() == []
        assert site.broker.jobs_open == 1_002


def test_many_messages_of_many_jobs_take_many_turns(site: Site) -> None:
    """A turn takes in no more jobs than messages: what else was read waits, and everybody is heard between."""
    site.open(limits=Limits(turn_messages_max=100, ids_per_message_max=50))
    with others_are_served(site):
        client, other, worker = Client(site), Client(site), Worker(site)
        for number in range(40):
            client.say(Submit(jobs=tuple(Item(id=b"%08d%08d" % (number, each), frames=0) for each in range(50))))
        client.say(Heartbeat())
        other.submit(b"other", ack=True)
        while not client.socket.poll(0):
            before = site.broker.jobs_open
            site.broker.turn(0.001)
            assert site.broker.jobs_open - before <= 151
            worker.say(Heartbeat())
            worker.hear(Heartbeat)
        client.hear(Heartbeat)
        other.hear(Submitted)
        assert site.broker.jobs_open == 2_002


def test_a_stop_forgets_nothing_that_was_sent_before(tmp_path: Path) -> None:
    """Each job of many messages is told its end, or refused, also where the stop comes before it was looked at."""
    site = Site("inproc", tmp_path, "auto")  # where a message is there as soon as it was sent
    site.open(limits=Limits(turn_messages_max=30, ids_per_message_max=50))
    client = Client(site)
    for number in range(40):
        client.say(Submit(jobs=tuple(Item(id=b"%08d%08d" % (number, each), frames=0) for each in range(50))))
    site.until(lambda: site.broker._server._conversation.behind)
    site.broker.close()
    ends: Counter[str] = Counter()
    while client.socket.poll(100):
        said, _ = client.take(client.socket.recv_multipart())
        ends.update([it.code for it in said.jobs] if isinstance(said, Submitted) else [said.reason])
    assert ends["broker_stopped"] + ends["draining"] == 2_000
    assert min(ends["broker_stopped"], ends["draining"]) > 0
    site.close()


def test_requests_above_the_limit_are_each_told_so(site: Site) -> None:
    """A flood of new ids at a full broker: `busy` for every one of them, and when there is room the next is taken."""
    site.open(limits=Limits(jobs_max=11))
    with others_are_served(site):
        client, worker = Client(site), Worker(site)
        taken = [client.submit(b"job") for _ in range(10)]
        refused = [client.submit(b"job") for _ in range(5_000)]
        codes = [client.hear(Submitted)[0].jobs[0] for _ in range(5_000)]
        assert [it.id for it in codes] == refused
        assert {it.code for it in codes} == {"busy"}
        worker.say(WorkerAsk(credit=1))
        job, _ = worker.job()
        worker.say(Complete(token=job.token, n=1), b"done")
        assert client.outcome()[0].id == taken[0]
        client.submit(b"job", id=refused[0], age_ms=1, ack=True)
        assert not client.hear(Submitted)[0].jobs[0].code
