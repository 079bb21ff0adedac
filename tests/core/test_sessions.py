"""Sessions of native workers, rule by rule of docs/protocol.md: who is there, what it holds, and how much it wants.

Each test cites the sentence that it shows. The peers talk to a whole loop (`conftest.Talk`), so that what is tested is
what they hear.
"""

from __future__ import annotations

import errno
from typing import Any

import pytest

from relet.core.limits import Limits
from relet.core.machine import HAND_BACK_NS
from relet.core.settings import QueueSettings
from relet.events import Event
from relet.messages import Cancel, Error, Goodbye, Heartbeat, Welcome, WorkerAsk

MS = 1_000_000
S = 1_000 * MS


# --- Hello and welcome


def test_welcome_says_the_bounds_and_where_the_session_stands(talk: Any) -> None:
    """`welcome`: epoch, liveness and the heartbeats that it takes, `limits` with `credit` and `run_ms` for workers."""
    it = talk(limits=Limits(asks_per_worker_max=7, liveness_ns=8 * S, run_ns_max=60 * S, session_grace_ns=300 * MS))
    said = it.worker(hello=False).hello()
    assert (said.epoch, said.liveness_ms, said.heartbeat_ms) == (1, 8_000, 2_000)
    assert (said.handed, said.received, said.lost) == (0, 0, ())
    assert set(said.features) == {"starts", "recalls"}
    limits = it.machine.limits
    assert said.limits == {
        "body_bytes": limits.body_bytes_max,
        "frames": limits.frames_max,
        "headers_bytes": limits.headers_bytes_max,
        "ids": limits.ids_per_message_max,
        "outcome_ms": limits.outcome_ns // MS,
        "session_grace_ms": 300,
        "credit": 7,
        "jobs": limits.jobs_per_worker_max,
        "run_ms": 60_000,
        "retry_ms": limits.retry_ns_max // MS,
    }
    said = it.client(hello=False).hello()
    assert "credit" not in said.limits
    assert "run_ms" not in said.limits
    assert "retry_ms" not in said.limits
    assert said.features == ("follows", "cancels")


@pytest.mark.parametrize(
    "wrong",
    [
        {"queues": ()},
        {"queues": ("",)},
        {"queues": ("x" * 201,)},
        {"queues": tuple(f"q{number}" for number in range(101))},
        {"queues": ("a", "b"), "weights": (1,)},
        {"queues": ("a", "a"), "weights": (1, 2)},
        {"queues": ("a", "b"), "weights": (1, 0)},
        {"queues": ("a", "b"), "weights": (1, 1_001)},
    ],
    ids=["no queue", "no name", "long name", "too many", "no weight", "twice", "weight 0", "large weight"],
)
def test_a_hello_that_cannot_be_is_answered_with_its_fault(talk: Any, wrong: Any) -> None:
    """`queues`: 1 to 100 names of 1 to 200 characters; `bad_header` "holds a field of the wrong type or value"."""
    it = talk()
    worker = it.worker(hello=False)
    said = worker.hello(**wrong)
    assert (type(said), said.code, said.of) == (Error, "bad_header", "hello")
    assert said.text
    assert it.counters.workers_arrived == 0
    worker.ask()
    assert [error.code for error in worker.take(Error)] == ["no_session"]


def test_queues_with_weights_take_turns(talk: Any) -> None:
    """So many jobs of each a round as its weight, and a queue that has nothing keeps nobody waiting."""
    it = talk()
    c, w = it.client(), it.worker(hello=False, queues=("a", "b", "c"))
    w.hello(weights=(3, 1, 2))
    for number in range(8):
        c.submit(b"a%d" % number, queue="a")
        c.submit(b"b%d" % number, queue="b")
    w.ask(16)
    assert "".join(body.decode()[0] for body in w.got) == "aaabaaabaabbbbbb"
    assert w.got[:4] == [b"a0", b"a1", b"a2", b"b0"]


def test_weights_hold_from_job_to_job(talk: Any) -> None:
    """A worker that asks for one job at a time has as many of each."""
    it = talk()
    c, w = it.client(), it.worker(hello=False, queues=("a", "b"))
    w.hello(weights=(2, 1))
    for number in range(6):
        c.submit(b"a%d" % number, queue="a")
        c.submit(b"b%d" % number, queue="b")
    for _ in range(9):
        w.ask()
        w.complete(w.got[-1])
    assert "".join(body.decode()[0] for body in w.got) == "aabaabaab"


def test_a_queue_that_may_give_nothing_loses_its_turn(talk: Any) -> None:
    """A pause or a limit of one leaves the asks to the others."""
    it = talk()
    it.machine.set_queue("a", QueueSettings(in_flight_max=1))
    c, w = it.client(), it.worker(hello=False, queues=("a", "b"))
    w.hello(weights=(9, 1))
    for number in range(3):
        c.submit(b"a%d" % number, queue="a")
        c.submit(b"b%d" % number, queue="b")
    w.ask(6)
    assert sorted(w.got) == [b"a0", b"b0", b"b1", b"b2"]


@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_incarnation_has_sixteen_bytes(talk: Any, size: int) -> None:
    """`incarnation`: 16 random bytes."""
    said = talk().worker(hello=False, incarnation=b"x" * size if size else b"\0").hello()
    assert (said.code, "16" in said.text) == ("bad_header", True)


def test_who_has_not_said_hello_is_told_so(talk: Any) -> None:
    """`no_session`: "is not a hello, and there has been none on this connection"; nothing is taken from it."""
    it = talk()
    worker = it.worker(hello=False)
    worker.ask(3)
    worker.says(Heartbeat())
    assert [(error.code, error.of) for error in worker.take(Error)] == [
        ("no_session", "ask"),
        ("no_session", "heartbeat"),
    ]
    client = it.client()
    client.submit(b"a")
    assert worker.got == []
    client = it.client(hello=False)
    client.submit(b"b")
    assert [error.code for error in client.take(Error)] == ["no_session"]
    assert it.machine.open == 1


def test_sessions_behind_a_proxy_are_told_apart_by_their_paths(talk: Any) -> None:
    """Frames: "The path ... is there for proxies": each return path is a session of its own."""
    it = talk()
    one = it.worker("one", path=b"\0\0\0\1a")
    other = it.worker("other", path=b"\0\0\0\1b", hello=False)
    other.connect(beside=one)
    other.hello()
    one.ask()
    other.ask()
    it.client().submit_many(b"a", b"b")
    assert (one.got, other.got) == ([b"a"], [b"b"])
    one.lose()
    assert it.machine.roster.sessions_on == {}


def test_workers_have_a_bound_and_who_finds_no_room_is_told(talk: Any) -> None:
    """`too_many_peers`: "came from one connection or return path too many"."""
    it = talk(limits=Limits(peers_max=2))
    it.worker("one"), it.worker("two")
    three = it.worker("three", hello=False)
    assert three.hello().code == "too_many_peers"
    it.wait(60 * S)
    assert three.hello().code == "too_many_peers", "who is there is not forgotten for it"
    it = talk(limits=Limits(paths_per_peer_max=1))
    one = it.worker("one", path=b"1")
    two = it.worker("two", path=b"2", hello=False)
    two.connect(beside=one)
    assert two.hello().code == "too_many_peers"
    c = it.client("one", path=b"1")
    c.submit_many(b"a")  # else it would make room
    d = it.client("two", path=b"2", hello=False)
    d.connect(beside=c)
    assert d.hello().code == "too_many_peers"


def test_a_full_roster_makes_room_of_idle_paths_of_2010(talk: Any) -> None:
    """Return paths behind proxies that neither ask nor hold anything go first; sessions never do."""
    it = talk(limits=Limits(peers_max=2))
    old = it.worker_2010()
    old.ask()
    it.client_2010().submit(b"a")
    old.answer(b"a")
    it.worker("one"), it.worker("two")
    assert it.machine.roster.count == 2
    assert it.machine.roster.routes == {}


# --- Incarnations and connections


def test_a_session_goes_on_on_another_connection(talk: Any) -> None:
    """Sessions: "a worker that has lost its connection goes on with its session on another"; numbers go on, too."""
    it = talk()
    c, w = it.client(), it.worker(credit=2)
    c.submit_many(b"a", b"b")
    w.start(b"a")
    w.progress(b"a")
    w.lose()
    w.connect()
    said = w.hello(running=(b"a",), held=(b"b",))
    assert (said.handed, said.received, said.lost) == (2, 1, ())
    assert it.counters.workers_arrived == 1
    assert (it.state(b"a"), it.state(b"b")) == ("RUNNING", "HELD")
    w.ask()
    c.submit(b"c")
    assert w.last(b"c").seq == 3
    for body in (b"a", b"b", b"c"):
        w.complete(body)
    assert [(said.attempts, said.state) for said, _ in c.outcomes] == [(1, "completed")] * 3


def test_a_session_moves_while_its_old_connection_still_stands(talk: Any) -> None:
    """The broker may hear of the loss later than of the new connection: that changes nothing."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    before = w.peer
    w.connect()
    assert w.hello(running=(b"a",)).lost == ()
    before.routing_id = b""
    it.workers.gone.append(before)
    it.wait(5 * S)
    assert it.state(b"a") == "RUNNING"
    assert it.counters.workers_lost == 0


def test_what_comes_on_the_old_connection_is_nobodys(talk: Any) -> None:
    """A session is on one connection: on the old one there has been no hello since."""
    it = talk()
    w = it.worker()
    old = it.worker("ghost", hello=False)
    before = w.peer
    w.connect()
    w.hello()
    old.peer = before
    it.workers.ends[before] = {b"": old}
    old.ask()
    assert [error.code for error in old.take(Error)] == ["no_session"]


def test_a_new_incarnation_on_the_same_path_ends_the_session_there(talk: Any) -> None:
    """Sessions: "A new incarnation on the same connection and return path begins at zero and ends the session that was
    there."
    """
    it = talk()
    c, w, other = it.client(), it.worker(credit=2), it.worker("other", credit=0)
    c.submit_many(b"a", b"b")
    w.start(b"a")
    w.incarnation = b"another one.16.."
    said = w.hello()
    assert (said.handed, said.received) == (0, 0)
    assert it.counters.workers_lost == 1
    assert (it.job(b"a").attempts, it.job(b"a").ledger[-1].cause) == (1, "worker_lost")
    assert (it.job(b"b").attempts, it.job(b"b").handovers, it.job(b"b").ledger) == (0, 1, ())
    other.ask(2)
    assert other.got == [b"a", b"b"]


def test_a_new_incarnation_begins_without_credit(talk: Any) -> None:
    """It "begins at zero": the old one's credit is void."""
    it = talk()
    w = it.worker(credit=5)
    w.incarnation = b"another one.16.."
    w.hello()
    c = it.client()
    c.submit(b"a")
    assert w.got == []
    w.ask()
    assert w.got == [b"a"]


def test_the_same_incarnation_of_another_principal_is_another_session(talk: Any) -> None:
    """An incarnation is nobody's secret: with another user it is another worker."""
    it = talk()
    one = it.worker("w", principal="one", credit=1)
    other = it.worker("w", principal="other", credit=1)
    it.client().submit_many(b"a", b"b")
    assert (one.got, other.got) == ([b"a"], [b"b"])


def test_a_hello_voids_credit_and_counts_it_from_handed(talk: Any) -> None:
    """After `welcome` a worker "says its credit, counted from `handed`"."""
    it = talk()
    c, w = it.client(), it.worker(credit=5)
    c.submit(b"a")
    said = w.hello(running=(b"a",))
    assert said.handed == 1
    c.submit(b"b")
    assert w.got == [b"a"]
    w.ask(1)
    assert w.got == [b"a", b"b"]


# --- Claims


def test_what_a_worker_does_not_claim_is_let_again(talk: Any) -> None:
    """`handed`: "If it is higher than the number of the last hand-over it got, those between were lost on their way;
    the broker has them back": held ones uncounted, running ones as attempts that were lost.
    """
    it = talk()
    c, w, other = it.client(), it.worker(credit=3), it.worker("other")
    c.submit_many(b"a", b"b", b"c")
    w.start(b"a")
    w.connect()
    said = w.hello(held=(b"c",))
    assert (said.handed, said.lost) == (3, ())
    assert [it.state(body) for body in (b"a", b"b", b"c")] == ["AVAILABLE", "AVAILABLE", "HELD"]
    assert (it.job(b"a").attempts, it.job(b"a").handovers) == (1, 0)
    assert (it.job(b"b").attempts, it.job(b"b").handovers) == (0, 1)
    other.ask(2)
    assert [(body, said.attempt) for said, body in other.jobs] == [(b"a", 2), (b"b", 1)]


def test_a_claim_as_running_is_a_start(talk: Any) -> None:
    """`running`: "tokens of jobs that it has started": the broker may not have heard so yet."""
    it = talk(timeout_ns=5 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    it.wait(60 * S)
    assert it.state(b"a") == "HELD"
    w.connect()
    w.hello(running=(b"a",))
    assert (it.state(b"a"), it.job(b"a").attempts) == ("RUNNING", 1)
    it.wait(5 * S)
    assert it.state(b"a") == "AVAILABLE"


def test_a_running_job_that_is_claimed_as_held_was_never_started(talk: Any) -> None:
    """A worker that says that it has not started what it had started knows it no more: the attempt is over."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    w.connect()
    assert w.hello(held=(b"a",)).lost == (w.token(b"a"),)
    assert it.state(b"a") == "AVAILABLE"


def test_claims_that_give_no_right_are_told(talk: Any) -> None:
    """`lost`: "tokens of `running` and `held` whose jobs are not the worker's any more"."""
    it = talk()
    c, w, other = it.client(), it.worker(credit=3), it.worker("other", credit=0)
    c.submit_many(b"a", b"b", b"c")
    w.complete(b"a")
    w.hand_back(b"b")
    it.wait(HAND_BACK_NS)
    other.ask()
    assert other.got == [b"b"]
    stale = {body: w.token(body) for body in (b"a", b"b", b"c")}
    w.connect()
    said = w.hello(running=(b"a", b"b", b"c"), held=(b"never given",))
    assert said.lost == (stale[b"a"], stale[b"b"], b"never given")
    assert it.job(b"b").holder is not it.job(b"c").holder
    assert it.state(b"c") == "RUNNING"


def test_a_session_that_was_lost_claims_what_it_had_started(talk: Any) -> None:
    """Sessions: "a worker that has lost its connection goes on": a started job that nobody has had since is its again,
    and the attempt that was taken for lost is not counted twice.
    """
    it = talk(tries=2, limits=Limits(session_grace_ns=100 * MS))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    w.lose()
    it.wait(200 * MS)
    assert (it.state(b"a"), len(it.job(b"a").ledger)) == ("AVAILABLE", 1)
    w.connect()
    said = w.hello(running=(b"a",))
    assert (said.handed, said.received, said.lost) == (0, 0, ())
    assert (it.state(b"a"), it.job(b"a").attempts, it.job(b"a").ledger) == ("RUNNING", 1, ())
    it.worker("other", credit=1)
    it.wait(60 * S)
    w.complete(b"a")
    assert [(said.attempts, said.state) for said, _ in c.outcomes] == [(1, "completed")]


def test_what_another_has_now_cannot_be_claimed(talk: Any) -> None:
    """A claim comes too late when the job was let again."""
    it = talk(limits=Limits(session_grace_ns=100 * MS))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    w.lose()
    it.wait(200 * MS)
    other = it.worker("other", credit=1)
    assert other.got == [b"a"]
    w.connect()
    assert w.hello(running=(b"a",)).lost == (w.token(b"a"),)
    assert it.job(b"a").token == other.token(b"a")
    w.complete(b"a", b"from the first")
    assert c.told() == [(b"a", "completed", b"from the first")], "it may still be completed: the job takes late answers"
    assert [said.reason for said in other.take(Cancel)] == ["answered"]


@pytest.mark.parametrize("how", ["hand_back", "fail", "expire"])
def test_a_job_whose_attempt_is_over_cannot_be_claimed(talk: Any, how: str) -> None:
    """Found by reading: a report that was taken and not acknowledged, and its job still claimed as `running` (which the
    table allows): the broker took it for running again, while the worker dropped the report as `received`.
    """
    it = talk(timeout_ns=5 * S if how == "expire" else None)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    if how == "expire":
        it.wait(5 * S)
    else:
        getattr(w, how)(b"a")
    w.connect()
    said = w.hello(running=(b"a",))
    assert said.received == w.n
    assert said.lost == (w.token(b"a"),)
    it.wait(HAND_BACK_NS)
    assert (it.state(b"a"), it.job(b"a").holder) == ("AVAILABLE", None)
    other = it.worker("other", credit=1)
    assert other.got == [b"a"]


def test_a_job_that_went_back_uncounted_cannot_be_claimed_as_running(talk: Any) -> None:
    """Found by reading: its start was lost with the connection, and the session after it; a claim then made it run with
    no counted attempt. "What was held when a session was lost goes back uncounted."
    """
    it = talk(limits=Limits(session_grace_ns=100 * MS))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.lose()
    it.wait(200 * MS)
    assert (it.state(b"a"), it.job(b"a").handovers) == ("AVAILABLE", 1)
    w.connect()
    assert w.hello(running=(b"a",)).lost == (w.token(b"a"),)
    assert it.state(b"a") == "AVAILABLE"


def test_a_delayed_job_cannot_be_claimed(talk: Any) -> None:
    """Its attempt failed, and its worker said so."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.fail(b"a", retry_ms=1_000)
    w.connect()
    assert w.hello(running=(b"a",)).lost == (w.token(b"a"),)
    assert it.state(b"a") == "DELAYED"


def test_an_unstarted_job_of_a_lost_session_is_lost(talk: Any) -> None:
    """`lost`: what went back cannot be claimed as `held`: others may have it any moment."""
    it = talk(limits=Limits(session_grace_ns=100 * MS))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.lose()
    it.wait(200 * MS)
    w.connect()
    assert w.hello(held=(b"a",)).lost == (w.token(b"a"),)
    w.ask()
    assert w.got == [b"a", b"a"]
    assert w.last(b"a").attempt == 1


def test_the_run_limit_of_a_claimed_attempt_counts_from_its_start(talk: Any) -> None:
    """The attempt goes on, and so does its run limit."""
    it = talk(timeout_ns=5 * S, tries=3, limits=Limits(session_grace_ns=100 * MS))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    it.wait(2 * S)
    w.lose()
    it.wait(1 * S)
    w.connect()
    assert w.hello(running=(b"a",)).lost == ()
    it.wait(2 * S - 1)
    assert it.state(b"a") == "RUNNING"
    it.wait(1)
    assert it.state(b"a") == "AVAILABLE"
    assert [entry.cause for entry in it.job(b"a").ledger] == ["expired"]


# --- Liveness, grace, goodbye


def test_a_worker_that_is_heard_in_time_keeps_its_session(talk: Any) -> None:
    """Liveness: "A worker must be heard every `liveness_ms`: whatever it says counts"."""
    it = talk(limits=Limits(liveness_ns=4 * S))
    c, w = it.client(), it.worker(credit=1)
    w.beats = False
    c.submit(b"a")
    speaks = [
        lambda: w.says(Heartbeat()),
        lambda: w.says(WorkerAsk()),
        lambda: w.progress(b"a"),
        lambda: w.progress(b"never given"),
        lambda: w.progress(b"a", n=1),
    ]
    for speak in speaks:
        it.wait(4 * S - 1)
        speak()
    assert it.counters.workers_lost == 0
    w.complete(b"a")
    it.wait(4 * S - 1)
    assert it.counters.workers_lost == 0
    it.wait(1)
    assert it.counters.workers_lost == 1


def test_a_silent_worker_has_lost_its_session_and_all_it_held(talk: Any) -> None:
    """Liveness: "One that was silent for `liveness_ms` has lost its session and all it held"; never early."""
    it = talk(limits=Limits(liveness_ns=4 * S))
    c, w, other = it.client(), it.worker(credit=2), it.worker("other")
    w.beats = False
    c.submit_many(b"a", b"b")
    w.start(b"a")
    other.ask(2)
    it.wait(4 * S - 1)
    assert other.got == []
    it.wait(1)
    assert [(body, said.attempt) for said, body in other.jobs] == [(b"a", 2), (b"b", 1)]
    assert it.job(b"a").ledger[-1].cause == "worker_lost"
    assert it.job(b"b").ledger == ()
    w.ask()
    assert [error.code for error in w.take(Error)] == ["no_session"]


def test_long_jobs_need_no_liveness_of_their_own(talk: Any) -> None:
    """Two clocks: a session that is heard may run a job without a limit for ever."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    it.wait(600 * S)
    w.complete(b"a")
    assert c.told() == [(b"a", "completed", b"done")]


def test_a_heartbeat_is_answered(talk: Any) -> None:
    """`heartbeat`: "which the broker answers with `heartbeat`", to workers and clients."""
    it = talk()
    heard: list[Any] = []
    for peer in (it.worker(), it.client()):
        peer.noted = lambda said, _: heard.append(type(said))
        peer.says(Heartbeat())
    assert heard == [Heartbeat, Heartbeat]


def test_a_session_without_a_connection_is_kept_for_the_grace(talk: Any) -> None:
    """Liveness: "A worker whose connection goes keeps its session for a short grace. After that it is lost"."""
    it = talk(limits=Limits(session_grace_ns=250 * MS))
    c, w, other = it.client(), it.worker(credit=2), it.worker("other")
    c.submit_many(b"a", b"b")
    w.start(b"a")
    other.ask(3)
    w.lose()
    c.submit(b"c")
    assert other.got == [b"c"], "its credit is void at once"
    it.wait(250 * MS - 1)
    assert other.got == [b"c"]
    it.wait(1)
    assert other.got == [b"c", b"a", b"b"]
    assert (it.counters.workers_lost, it.counters.attempts_lost, it.counters.handovers_returned) == (1, 1, 1)


def test_the_grace_begins_anew_with_each_loss(talk: Any) -> None:
    """A session that was back in between is not ended by the first loss."""
    it = talk(limits=Limits(session_grace_ns=250 * MS))
    w = it.worker()
    w.lose()
    it.wait(200 * MS)
    w.connect()
    w.hello()
    it.wait(20 * MS)
    w.lose()
    it.wait(250 * MS - 1)
    assert it.counters.workers_lost == 0
    it.wait(1)
    assert it.counters.workers_lost == 1


def test_a_grace_of_nothing_is_no_grace(talk: Any) -> None:
    """`session_grace_ns` may be zero."""
    it = talk(limits=Limits(session_grace_ns=0))
    c, w, other = it.client(), it.worker(credit=1), it.worker("other")
    c.submit(b"a")
    other.ask()
    w.lose()
    it.turn()
    assert other.got == [b"a"]


def test_the_last_words_of_a_worker_count(talk: Any) -> None:
    """An answer that was read after its connection had gone proves by its token what it proves."""
    it = talk(limits=Limits(session_grace_ns=100 * MS))
    c, w = it.client(), it.worker(credit=2)
    c.submit_many(b"a", b"b")
    w.start(b"a")
    w.lose()
    w.complete(b"a", b"last")
    w.complete(b"b", b"words")
    assert c.told() == [(b"a", "completed", b"last"), (b"b", "completed", b"words")]
    w.connect()
    assert w.hello().received == 0
    assert it.machine.open == 0


def test_the_last_words_of_a_worker_start_what_it_held(talk: Any) -> None:
    """Found by reading: "any report on it" is a start, so an outcome has an attempt that counted; and nobody is told to
    stop who has just done it, nor is the answer late.
    """
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    it.answers.incoming.append((w.token(b"a"), b"by the other door"))
    it.turn()
    ((said, _),) = c.outcomes
    assert said.attempts == 1
    assert it.counters.answers_late == 0
    assert w.take(Cancel) == []


def test_goodbye_ends_the_session_at_once(talk: Any) -> None:
    """`goodbye`: "what it had not started goes back uncounted, what it had is lost"."""
    it = talk()
    c, w, other = it.client(), it.worker(credit=2), it.worker("other")
    c.submit_many(b"a", b"b")
    w.start(b"a")
    other.ask(2)
    w.says(Goodbye())
    assert [(body, said.attempt) for said, body in other.jobs] == [(b"a", 2), (b"b", 1)]
    assert it.counters.workers_lost == 1
    w.ask()
    assert [error.code for error in w.take(Error)] == ["no_session"]
    assert isinstance(w.hello(), Welcome)


def test_who_arrives_and_who_is_lost_is_said_once(talk: Any) -> None:
    """Events: a session arrives with its first hello and is lost once, whatever its connections do."""
    it = talk(limits=Limits(session_grace_ns=100 * MS))
    w = it.worker(queues=("a", "b"))
    for _ in range(3):
        w.lose()
        w.connect()
        w.hello()
    w.lose()
    it.wait(60 * S)
    events = [event for event, _ in it.notices]
    assert events.count(Event.WORKER_ARRIVED) == events.count(Event.WORKER_LOST) == 1
    assert dict(it.notices)[Event.WORKER_ARRIVED]["queues"] == ["a", "b"]


# --- Credit


def test_credit_is_cumulative_and_the_largest_counts(talk: Any) -> None:
    """`credit`: "how many jobs may have been handed over since the session began. The broker keeps the largest"."""
    it = talk()
    c, w = it.client(), it.worker()
    for credit in (2, 2, 1, 0, 2):
        w.says(WorkerAsk(credit=credit))
    c.submit_many(b"a", b"b", b"c")
    assert w.got == [b"a", b"b"]
    w.says(WorkerAsk(credit=2))
    assert len(w.got) == 2
    w.says(WorkerAsk(credit=3))
    assert w.got == [b"a", b"b", b"c"]
    assert [said.seq for said, _ in w.jobs] == [1, 2, 3]


def test_whatever_a_worker_says_may_carry_credit(talk: Any) -> None:
    """The "numbers that every message of a worker may carry": an answer usually carries the next credit."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit_many(*(b"%d" % number for number in range(8)))
    w.complete(b"0", credit=2)
    w.fail(b"1", credit=3, retry_ms=10**6)
    w.hand_back(b"2", credit=4)
    w.partial(b"3", b"piece", credit=5)
    w.progress(b"3", credit=6)
    w.extend(b"3", 1, credit=7)
    w.says(Heartbeat(credit=8))
    assert w.got == [b"%d" % number for number in range(8)]


def test_credit_above_the_limit_is_granted_in_part_and_told(talk: Any) -> None:
    """`bad_credit`: "carries a credit above what a worker may have open (`limits.credit`); so much was granted"."""
    it = talk(limits=Limits(asks_per_worker_max=3))
    c, w = it.client(), it.worker()
    w.says(WorkerAsk(credit=5))
    assert [error.code for error in w.take(Error)] == ["bad_credit"]
    assert it.counters.asks_refused == 1
    c.submit_many(*(b"%d" % number for number in range(6)))
    assert w.got == [b"0", b"1", b"2"]
    w.says(WorkerAsk(credit=5))
    assert w.got == [b"0", b"1", b"2", b"3", b"4"], "what is above is granted when it is said again"
    assert w.take(Error) == []
    w.says(WorkerAsk(credit=2**62))
    assert [error.code for error in w.take(Error)] == ["bad_credit"]
    assert len(w.got) == 6


def test_a_worker_has_so_many_jobs_at_most_and_credit_above_is_granted_up_to_that(talk: Any) -> None:
    """`jobs_per_worker_max`: what it has counts, started or not; what has ended makes room as credit is said again."""
    it = talk(limits=Limits(asks_per_worker_max=3, jobs_per_worker_max=4))
    c, w = it.client(), it.worker(credit=3)
    c.submit_many(*(b"%d" % number for number in range(9)))
    w.start(b"0")
    assert w.got == [b"0", b"1", b"2"]
    w.ask(3)
    assert w.got == [b"0", b"1", b"2", b"3"]
    (error,) = w.take(Error)
    assert error.code == "bad_credit"
    assert error.text == "a worker may have 4 jobs (--jobs-per-worker-max), and has 3; so much was granted"
    w.ask(0)
    assert (len(w.got), [error.code for error in w.take(Error)]) == (4, ["bad_credit"])
    w.complete(b"0")
    w.hand_back(b"3")
    assert len(w.got) == 4
    w.ask(0)
    assert len(w.got) == 6
    it.worker("v", credit=3)
    assert len(w.got) == 6, "others are not bound by what it has"


def test_claims_are_no_asks_and_may_go_beyond_what_a_worker_may_have(talk: Any) -> None:
    """What it has started is its own; it is given nothing until there is room."""
    it = talk(limits=Limits(jobs_per_worker_max=3))
    c, w = it.client(), it.worker(credit=3)
    c.submit_many(*(b"%d" % number for number in range(5)))
    w.start(b"2")
    it.machine.roster._jobs_per_worker_max = 2  # as a broker that was started anew with a lower limit
    w.hello(running=(b"0", b"1", b"2"))
    w.ask(1)
    assert len(w.got) == 3
    assert [error.code for error in w.take(Error)] == ["bad_credit"]
    w.complete(b"0")
    w.complete(b"1")
    w.ask(0)
    assert w.got[3:] == [b"3"]


def test_all_workers_together_have_a_bound_and_the_rest_is_granted_later(talk: Any) -> None:
    """`asks_max`: what there is no room for now is granted when the worker says its credit again."""
    it = talk(limits=Limits(asks_max=3))
    one, two = it.worker("one", credit=2), it.worker("two", credit=2)
    assert it.machine.roster.asks == 3
    c = it.client()
    c.submit_many(b"a", b"b", b"c", b"d")
    assert (len(one.got), len(two.got)) == (2, 1)
    two.says(Heartbeat(credit=2))
    assert len(two.got) == 2


def test_credit_of_a_worker_that_cannot_be_reached_is_void_until_said_again(talk: Any) -> None:
    """What could not be sent goes back uncounted; the worker is asked no more until it speaks."""
    it = talk()
    c, w = it.client(), it.worker(credit=3)
    it.workers.codes[w.peer] = errno.EAGAIN
    c.submit(b"a")
    assert (it.state(b"a"), it.job(b"a").handovers, it.job(b"a").attempts) == ("AVAILABLE", 1, 0)
    it.workers.codes.clear()
    c.submit(b"b")
    assert w.got == []
    w.says(Heartbeat(credit=3))
    assert w.got == [b"a", b"b"]
    assert [said.seq for said, _ in w.jobs] == [1, 2], "the number of the one that never left is the next one's"


def test_workers_take_turns_across_dialects(talk: Any) -> None:
    """Who asked for many does not get them before another that asked for one, whatever it speaks."""
    it = talk()
    w, old = it.worker(credit=3), it.worker_2010()
    old.ask(2)
    it.client().submit_many(b"a", b"b", b"c", b"d", b"e")
    assert (w.got, [body for _, body in old.jobs]) == ([b"a", b"c", b"e"], [b"b", b"d"])


# --- Queues


def test_jobs_go_to_workers_of_their_queue_only(talk: Any) -> None:
    """`queue` and `queues`: names, "default" where none is given."""
    it = talk()
    c, red, plain = it.client(), it.worker("red", queues=("red",), credit=5), it.worker("plain", credit=5)
    c.submit(b"a", queue="red")
    c.submit(b"b", queue="blue")
    c.submit(b"c")
    assert (red.got, plain.got) == ([b"a"], [b"c"])
    assert red.last(b"a").queue == "red"
    assert it.state(b"b") == "AVAILABLE"
    blue = it.worker("blue", queues=("blue", "red"), credit=5)
    assert blue.got == [b"b"]


@pytest.mark.parametrize("queues", [("urgent", "default"), ("default", "urgent"), ("urgent", "low"), ("low", "urgent")])
def test_a_worker_gets_what_is_most_important_to_it_first(talk: Any, queues: tuple[str, ...]) -> None:
    """`queues`: "what it serves, most important first"."""
    it = talk()
    c = it.client()
    for number in range(3):
        for queue in ("default", "low", "urgent"):
            c.submit(f"{queue}{number}".encode(), queue=queue)
    w = it.worker(queues=queues)
    for number in range(4):
        w.ask()
        assert w.got[-1] == f"{queues[number // 3]}{number % 3}".encode()


def test_workers_with_opposite_preferences_each_get_their_own(talk: Any) -> None:
    """The same, where two ask in one turn."""
    it = talk()
    c = it.client()
    c.submit_many(b"u1", b"u2", queue="up")
    c.submit_many(b"d1", b"d2", queue="down")
    one, other = it.worker("one", queues=("up", "down")), it.worker("other", queues=("down", "up"))
    one.ask(2, turn=False)
    other.ask(2)
    assert (one.got, other.got) == ([b"u1", b"u2"], [b"d1", b"d2"])


def test_one_credit_is_for_all_queues_together(talk: Any) -> None:
    """A worker that serves several queues gets no more than it asked for."""
    it = talk()
    w = it.worker(queues=("a", "b", "default"), credit=2)
    c = it.client()
    for queue in ("b", "a", "default"):
        c.submit(queue.encode(), queue=queue)
    assert w.got == [b"b", b"a"]
    w.ask()
    assert w.got == [b"b", b"a", b"default"]


def test_a_queue_named_twice_is_one(talk: Any) -> None:
    """A worker has one place in the line of each queue."""
    it = talk()
    it.worker(queues=("a", "a", "default"), credit=1)
    (session,) = it.machine.roster.sessions.values()
    assert [place.queue.name for place in session.places] == ["a", "default"]


def test_jobs_of_2010_wait_in_the_default_queue(talk: Any) -> None:
    """Both dialects meet in "default"; a worker of other queues gets nothing of 2010."""
    it = talk()
    red, plain = it.worker("red", queues=("red",), credit=1), it.worker("plain", credit=1)
    it.client_2010().submit(b"a")
    assert (red.got, plain.got) == ([], [b"a"])


# --- Bounds of memory


def test_a_worker_that_never_says_that_it_starts_is_not_remembered_for_ever(talk: Any) -> None:
    """Found by reading: hand-overs that failed one after the other stayed in a list of those not started."""
    it = talk(limits=Limits(asks_per_worker_max=2, ledger_entries_max=1, handovers_max=10**6))
    c, w = it.client(), it.worker()
    c.submit(b"a")
    for _ in range(50):
        w.ask()
        w.hand_back(b"a")
        it.wait(1 * S)
    (session,) = it.machine.roster.sessions.values()
    assert len(w.got) == 50
    assert not session.jobs


def test_the_line_of_a_queue_does_not_fill_with_lost_sessions(talk: Any) -> None:
    """Sessions that come, ask and go leave nothing behind, though nobody ever gets a job."""
    it = talk(limits=Limits(session_grace_ns=0))
    it.worker("stays", queues=("q",))
    for number in range(300):
        it.worker(f"w{number}", queues=("q",), credit=1).lose()
    it.wait(1 * S)
    assert len(it.machine.queues.named("q").line) < 200
    assert (it.machine.roster.asks, it.machine.roster.count) == (0, 1)
