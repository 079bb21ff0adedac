"""What native workers say of jobs, rule by rule of docs/protocol.md: starts, limits, failures, returns, and who has the
right to say any of it.

Each test cites the sentence that it shows, or says what was found.
"""

from __future__ import annotations

from typing import Any

import pytest

from relet.conversation import ACK_NS_MAX
from relet.core.limits import Limits
from relet.core.machine import HAND_BACK_NS, HAND_BACK_NS_MAX, TOKENS_MAX
from relet.core.settings import QueueSettings
from relet.dialects import native
from relet.events import Event
from relet.messages import (
    HEADER_BYTES,
    Ack,
    Cancel,
    Complete,
    Error,
    Extend,
    Fail,
    Goodbye,
    HandBack,
    Heartbeat,
    Partial,
    Progress,
    Recall,
    Refused,
    ReportRefused,
    TellPartial,
    TellProgress,
    WorkerAsk,
)
from relet.store.memory import MemoryStore
from relet.testing import LateStore

MS = 1_000_000
S = 1_000 * MS

BARE: tuple[str, ...] = ()
"""The features of a minimal worker."""


# --- Start


def test_a_job_is_held_until_its_worker_says_that_it_starts(talk: Any) -> None:
    """Start: "Only then does its attempt count and its run limit begin"."""
    it = talk(tries=1, timeout_ns=2 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    assert (it.state(b"a"), it.job(b"a").attempts, w.last(b"a").attempt) == ("HELD", 0, 1)
    it.wait(60 * S)
    assert it.state(b"a") == "HELD"
    w.start(b"a")
    assert (it.state(b"a"), it.job(b"a").attempts) == ("RUNNING", 1)
    it.wait(2 * S - 1)
    assert c.told() == []
    it.wait(1)
    assert c.told() == [(b"a", "tries_spent", ())]


def test_started_is_cumulative(talk: Any) -> None:
    """`started`: "all hand-overs up to this number were started, or given back"; repeats and smaller numbers are
    harmless.
    """
    it = talk()
    c, w = it.client(), it.worker(credit=4)
    c.submit_many(b"a", b"b", b"c", b"d")
    w.hand_back(b"b")
    for started in (3, 3, 1, 0):
        w.says(WorkerAsk(started=started))
    assert [it.state(body) for body in (b"a", b"b", b"c", b"d")] == ["RUNNING", "DELAYED", "RUNNING", "HELD"]
    assert it.job(b"c").attempts == 1


@pytest.mark.parametrize(
    "report",
    [
        lambda w: w.partial(b"a", b"piece"),
        lambda w: w.progress(b"a"),
        lambda w: w.extend(b"a", 1_000),
        lambda w: w.fail(b"a"),
        lambda w: w.complete(b"a"),
    ],
    ids=["partial", "progress", "extend", "fail", "complete"],
)
def test_any_report_is_a_start(talk: Any, report: Any) -> None:
    """Start: "by `started` or by any report on it"."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    report(w)
    if it.machine.open:
        assert (it.state(b"a"), it.job(b"a").attempts) == ("RUNNING", 1)
    else:
        ((said, _),) = c.outcomes
        assert said.attempts == 1


def test_a_worker_without_starts_starts_at_once(talk: Any) -> None:
    """`starts`: "A job handed to a worker without it counts as started at once"."""
    it = talk(timeout_ns=2 * S)
    c, w = it.client(), it.worker(credit=1, features=BARE)
    c.submit(b"a")
    assert (it.state(b"a"), it.job(b"a").attempts, w.last(b"a").attempt) == ("RUNNING", 1, 1)
    it.wait(2 * S)
    assert (it.state(b"a"), it.job(b"a").ledger[-1].cause) == ("AVAILABLE", "expired")


def test_what_was_held_by_a_lost_session_goes_back_uncounted(talk: Any) -> None:
    """Start: "What was held when a session was lost goes back uncounted"; to its old place."""
    it = talk(tries=1, limits=Limits(liveness_ns=4 * S))
    c, w = it.client(), it.worker(credit=2)
    w.beats = False
    c.submit_many(b"a", b"b")
    c.submit(b"c")
    it.wait(4 * S)
    other = it.worker("other", credit=3)
    assert other.got == [b"a", b"b", b"c"]
    assert [said.attempt for said, _ in other.jobs] == [1, 1, 1]


def test_hand_overs_that_come_to_nothing_have_a_budget(talk: Any) -> None:
    """`handovers_spent`: "was handed over in vain as often as it may be"."""
    it = talk(tries=1, limits=Limits(handovers_max=3))
    c, w = it.client(), it.worker()
    c.submit(b"a")
    for _ in range(3):
        assert c.told() == []
        w.ask()
        w.connect()
        w.hello()  # which does not claim it
    ((said, _),) = c.outcomes
    assert (said.state, said.reason, said.attempts, said.ledger) == ("discarded", "handovers_spent", 0, ())


def test_a_start_that_was_said_of_hand_overs_to_come_is_good_for_none(talk: Any) -> None:
    """Found by reading: a worker that says a `started` above what it was handed started all that came later, without a
    limit that ever began.
    """
    it = talk(timeout_ns=2 * S)
    c, w = it.client(), it.worker(credit=2)
    w.says(WorkerAsk(started=10**9))
    c.submit_many(b"a", b"b")
    assert it.state(b"a") == "HELD"
    w.says(WorkerAsk(started=1))
    assert (it.state(b"a"), it.state(b"b")) == ("RUNNING", "HELD")


# --- Recall


def _held_beside_idle(talk: Any, **options: Any) -> Any:
    """`busy` runs one job and holds another; `idle` asks."""
    it = talk(limits=Limits(recall_ns=100 * MS, liveness_ns=4 * S), **options)
    c, busy = it.client(), it.worker("busy", credit=2)
    c.submit_many(b"a", b"b")
    busy.start(b"a")
    return it, c, busy, it.worker("idle", credit=1)


def test_a_job_that_is_held_for_long_is_recalled_for_an_idle_worker(talk: Any) -> None:
    """`recall`: "The broker recalls what has been held for long while another worker asks and nothing waits
    that may go".
    """
    it, _, busy, idle = _held_beside_idle(talk)
    it.wait(100 * MS - 1)
    assert busy.take(Recall) == []
    it.wait(100 * MS)
    (recall,) = busy.take(Recall)
    assert recall.tokens == (busy.token(b"b"),)
    assert it.counters.handovers_recalled == 1
    busy.hand_back(b"b")
    assert idle.got == [b"b"]
    assert (it.job(b"b").attempts, it.job(b"b").handovers) == (0, 1)


def test_a_recall_is_asked_for_when_the_idle_worker_comes_later(talk: Any) -> None:
    """What has been held for long already is recalled soon after somebody asks."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    c, busy = it.client(), it.worker("busy", credit=2)
    c.submit_many(b"a", b"b")
    busy.start(b"a")
    it.wait(5 * S)
    assert busy.take(Recall) == []
    it.worker("idle", credit=1)
    it.wait(100 * MS)
    assert len(busy.take(Recall)) == 1


def test_nothing_is_recalled_while_something_waits(talk: Any) -> None:
    """`recall`: "and nothing waits that may go"; also not in the turn in which somebody asks and something waits."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    c, busy = it.client(), it.worker("busy", credit=2)
    c.submit_many(b"a", b"b", b"c")
    busy.start(b"a")
    idle = it.worker("idle")
    it.now += 1 * S
    idle.ask()
    assert (idle.got, busy.take(Recall)) == ([b"c"], [])


LIMITS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"in_flight_max": 2}, {}),
    ({"in_flight_max": 2}, {"priority": 5}),
    ({"key_in_flight_max": 2}, {"fair": "a"}),
    ({"in_flight_max": 2, "rate": 100.0}, {}),
]


@pytest.mark.parametrize(("settings", "terms"), LIMITS)
def test_a_held_job_is_recalled_though_a_limit_keeps_others_waiting(
    talk: Any, settings: dict[str, Any], terms: dict[str, Any]
) -> None:
    """`recall`: "jobs that a limit of the queue or of their fairness key keeps back do not count". Found by use: fifty
    short jobs waited for a long one while three workers had nothing to do.
    """
    it = talk(limits=Limits(recall_ns=100 * MS))
    it.machine.set_queue("default", QueueSettings(**settings))
    c, busy = it.client(), it.worker("busy", credit=3)
    c.submit_many(b"a", b"b", b"c", b"d", **terms)
    assert busy.got == [b"a", b"b"]
    busy.start(b"a")
    idle = it.worker("idle", credit=1)
    it.wait(200 * MS)
    assert [said.tokens for said in busy.take(Recall)] == [(busy.token(b"b"),)]
    busy.hand_back(b"b")
    for name in (b"b", b"c", b"d"):
        assert (idle.got[-1], busy.got) == (name, [b"a", b"b"])
        idle.complete(name, turn=False)
        idle.ask()
    it.wait(10 * S)
    assert busy.take(Recall) == [], "it holds nothing, and what it runs is its own"


def test_what_another_key_holds_is_recalled_too(talk: Any) -> None:
    """Everything that waits is of a key that has as many as it may: what is held goes to who has nothing to do."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    it.machine.set_queue("default", QueueSettings(key_in_flight_max=1))
    c, busy = it.client(), it.worker("busy", credit=3)
    c.submit(b"a", fair="a")
    c.submit(b"free")
    c.submit(b"b", fair="b")
    c.submit(b"a2", fair="a")
    busy.start(busy.got[0])
    held = busy.got[1:]
    assert it.state(b"a2") == "AVAILABLE"
    idle = it.worker("idle", credit=2, capacity=2)
    it.wait(200 * MS)
    assert [said.tokens for said in busy.take(Recall)] == [(busy.token(held[0]),)]
    busy.hand_back(held[0])
    it.wait(200 * MS)
    assert [said.tokens for said in busy.take(Recall)] == [(busy.token(held[1]),)]
    busy.hand_back(held[1])
    assert sorted(idle.got) == sorted(held)
    it.wait(10 * S)
    assert (busy.take(Recall), idle.take(Recall)) == ([], [])


@pytest.mark.parametrize(
    ("settings", "terms"), [({"rate": 0.1, "burst": 2}, {}), ({"key_rate": 0.1, "key_burst": 2}, {"fair": "a"})]
)
def test_nothing_is_recalled_that_would_have_to_wait_for_a_rate(
    talk: Any, settings: dict[str, Any], terms: dict[str, Any]
) -> None:
    """It was counted when it went, and would be once more."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    it.machine.set_queue("default", QueueSettings(**settings))
    c, busy = it.client(), it.worker("busy", credit=2)
    c.submit_many(b"a", b"b", b"c", **terms)
    busy.start(b"a")
    idle = it.worker("idle", credit=1)
    it.wait(9 * S)
    assert (busy.take(Recall), idle.got) == ([], [])
    it.wait(1 * S)
    assert (busy.take(Recall), idle.got) == ([], [b"c"])


def test_jobs_that_a_limit_lets_go_are_shared_among_who_asks(talk: Any) -> None:
    """As many as may be are with workers, one each: each that holds gives to each that has none, and then it rests."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    it.machine.set_queue("default", QueueSettings(in_flight_max=4))
    c, first = it.client(), it.worker("first", credit=4)
    c.submit_many(*(b"%d" % number for number in range(8)))
    first.start(b"0")
    others = [it.worker(f"w{number}", credit=4) for number in range(3)]
    for _ in range(3):
        it.wait(200 * MS)
        for recall in first.take(Recall):
            for token in recall.tokens:
                first.hand_back(token)
    assert (first.got, [w.got for w in others]) == ([b"0", b"1", b"2", b"3"], [[b"1"], [b"2"], [b"3"]])
    recalled = it.counters.handovers_recalled
    it.wait(60 * S)
    assert it.counters.handovers_recalled == recalled == 3


def test_nothing_is_recalled_for_a_worker_that_would_only_hold_it(talk: Any) -> None:
    """A worker that holds as many as it does at a time (`capacity`) has no use for more."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    c, one = it.client(), it.worker("one", credit=2)
    c.submit_many(b"a", b"b")
    one.start(b"a")
    other = it.worker("other", credit=1, capacity=2)
    c.submit_many(b"c", b"d")
    other.ask(5)
    other.start(b"d")
    assert other.got == [b"c", b"d"]
    it.wait(5 * S)
    assert one.take(Recall) == []
    other.complete(b"c")
    it.wait(100 * MS)
    assert [said.tokens for said in one.take(Recall)] == [(one.token(b"b"),)]


def test_nothing_is_recalled_for_who_holds_it(talk: Any) -> None:
    """A worker with credit left is not another worker."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    c, w = it.client(), it.worker(credit=9, capacity=9)
    c.submit_many(b"a", b"b")
    it.wait(5 * S)
    assert w.take(Recall) == []


def test_many_short_jobs_do_not_wait_for_a_long_one_beside_an_idle_worker(talk: Any) -> None:
    """Found by use: one job of a queue was recalled every 100 ms, and 96 of 200 waited for three seconds."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    c, busy = it.client(), it.worker("busy", credit=100)
    c.submit_many(b"long", *(b"%d" % number for number in range(99)))
    busy.start(b"long")
    idle = it.worker("idle")
    done = 0
    it.wait(50 * MS)
    for left in (49, 24, 12, 6, 3, 1, 0):
        idle.ask(100 - left - done)
        it.wait(100 * MS)
        (recall,) = busy.take(Recall)
        for token in recall.tokens:
            busy.hand_back(token)
        assert 99 - len(idle.got) == left, "half of them at a time, the oldest"
        for body in idle.got[done:]:
            idle.complete(body)
        done = len(idle.got)
    assert idle.got == [b"%d" % number for number in range(99)]
    assert {it.job(b"long").handovers, it.counters.jobs_discarded} == {0}


def test_long_jobs_are_shared_with_an_idle_worker(talk: Any) -> None:
    """Half of them stay, however many the idle one asks for: they do not all go to and fro."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    c, busy = it.client(), it.worker("busy", credit=9)
    c.submit_many(*(b"%d" % number for number in range(9)))
    busy.start(b"0")
    idle = it.worker("idle", credit=1_000)
    it.wait(1 * S)
    (recall,) = busy.take(Recall)
    assert recall.tokens == tuple(busy.token(b"%d" % number) for number in (1, 2, 3, 4))
    for number in (1, 2, 3, 4):
        busy.hand_back(b"%d" % number)
    assert idle.got == [b"1", b"2", b"3", b"4"]
    idle.start(b"1")
    it.wait(60 * S)
    assert (busy.take(Recall), idle.take(Recall)) == ([], [])


@pytest.mark.parametrize("how", ["start", "complete", "fail", "hand_back", "expire"])
@pytest.mark.parametrize("queue", ["default", "named"])
def test_one_recall_in_a_queue_is_under_way_at_a_time(talk: Any, how: str, queue: str) -> None:
    """It takes a way there and back: the next one is recalled when this one is back, started or taken back."""
    it = talk(limits=Limits(recall_ns=100 * MS, liveness_ns=4 * S))
    c, busy = it.client(), it.worker("busy", credit=3, queues=(queue,))
    c.submit_many(b"a", b"b", b"c", queue=queue)
    busy.start(b"a")
    it.worker("idle", credit=2, capacity=2, queues=(queue,))
    it.wait(1 * S)
    assert [said.tokens for said in busy.take(Recall)] == [(busy.token(b"b"),)]
    if how == "expire":
        it.wait(4 * S)
    else:
        getattr(busy, how)(b"b", **({"final": True} if how == "fail" else {}))
        it.wait(100 * MS)
    assert [said.tokens for said in busy.take(Recall)] == [(busy.token(b"c"),)]


def test_a_look_that_takes_several_turns_sees_everybody(talk: Any) -> None:
    """Found by reading: where the last of many sessions held nothing, nobody was looked at any more."""
    it = talk(limits=Limits(recall_ns=100 * MS, turn_steps_max=1))
    c, busy = it.client(), it.worker("busy", credit=2)
    others = [it.worker(f"w{number}") for number in range(5)]
    c.submit_many(b"a", b"b")
    busy.start(b"a")
    it.wait(1 * S)
    others[3].ask()
    it.wait(200 * MS)
    assert len(busy.take(Recall)) == 1


def test_a_recall_that_is_ignored_is_taken_back_after_liveness(talk: Any) -> None:
    """A worker that says that it heeds recalls has so long to hand it back or start it."""
    it, c, busy, idle = _held_beside_idle(talk)
    it.wait(200 * MS)
    assert len(busy.take(Recall)) == 1
    it.wait(3_800 * MS - 1)
    assert idle.got == []
    it.wait(100 * MS + 1)
    assert idle.got == [b"b"]
    assert (it.job(b"b").attempts, it.job(b"b").handovers) == (0, 1)
    busy.complete(b"b", b"all the same")
    assert c.told() == [(b"b", "completed", b"all the same")]
    assert [said.reason for said in idle.take(Cancel)] == ["answered"]


def test_a_recalled_job_that_is_started_stays(talk: Any) -> None:
    """`recall`: "the worker hands back those that it has not started; nothing else is said of the others"."""
    it, _, busy, idle = _held_beside_idle(talk)
    it.wait(200 * MS)
    assert len(busy.take(Recall)) == 1
    busy.start(b"b")
    it.wait(60 * S)
    assert idle.got == []
    assert it.state(b"b") == "RUNNING"


def test_a_recall_is_not_said_to_who_does_not_know_it(talk: Any) -> None:
    """`recalls`: "without it, neither is sent": its jobs are not taken back either."""
    it = talk(limits=Limits(recall_ns=100 * MS, liveness_ns=4 * S), timeout_ns=1 * S)
    c, busy = it.client(), it.worker("busy", credit=2, features=("starts",))
    c.submit_many(b"a", b"b")
    busy.start(b"a")
    it.worker("idle", credit=1)
    it.wait(60 * S)
    assert busy.take(Recall) == busy.take(Cancel) == []
    assert it.state(b"b") == "HELD"


def test_a_recalled_job_goes_to_the_worker_that_it_was_recalled_for(talk: Any) -> None:
    """Found by reading: it went to the first in line, busy or not, was recalled again there, and so on: each time a
    place of its budget.
    """
    it = talk(tries=1, limits=Limits(recall_ns=100 * MS))
    c = it.client()
    crowd = [it.worker(f"w{number:02}") for number in range(15)]
    for worker in crowd:
        worker.ask(1)
    c.submit_many(*(b"%02d" % number for number in range(15)))
    for number, worker in enumerate(crowd):
        worker.start(b"%02d" % number)
        worker.ask(1)
    c.submit(b"last")
    (holder,) = [worker for worker in crowd if b"last" in worker.got]
    idle = it.worker("idle", credit=1)
    for _ in range(20):
        it.wait(200 * MS)
        for worker in crowd:
            if worker.take(Recall):
                worker.hand_back(b"last", credit=worker.credit + 1)
    assert c.told() == []
    assert idle.got == [b"last"]
    assert it.job(b"last").handovers == 1
    assert holder.got.count(b"last") == 1


def test_recalls_do_not_spend_the_budget(talk: Any) -> None:
    """Found by reading: a job could be recalled until its budget of hand-overs was spent, and its client told that it
    failed, though nobody had done anything wrong.
    """
    it = talk(tries=1, limits=Limits(recall_ns=100 * MS, handovers_max=4))
    c, one, other = it.client(), it.worker("one"), it.worker("other")
    c.submit(b"a")
    one.ask()
    for number in range(40):
        holder, idle = (one, other) if number % 2 == 0 else (other, one)
        idle.ask()
        it.wait(200 * MS)
        if holder.take(Recall):
            holder.hand_back(b"a")
    assert c.told() == []
    assert it.job(b"a").handovers == 2, "half of the budget is left for what is nobody's choice"


# --- Limits of an attempt


def test_the_run_limit_of_a_job_is_its_own(talk: Any) -> None:
    """`run_ms`: "limit of one attempt, from its start; 0: none"; default: that of the broker."""
    it = talk(timeout_ns=10 * S, tries=9)
    c, w = it.client(), it.worker(credit=9)
    c.submit(b"short", run_ms=1_000)
    c.submit(b"long", run_ms=20_000)
    c.submit(b"none", run_ms=0)
    c.submit(b"usual")
    assert [w.last(body).run_ms for body in (b"short", b"long", b"none", b"usual")] == [1_000, 20_000, None, 10_000]
    it.wait(3 * S)
    w.says(WorkerAsk(started=4))
    ends = []
    for ns in (1 * S - 1, 1, 9 * S - 1, 1, 10 * S - 1, 1, 60 * S):
        it.wait(ns)
        ends.append(it.counters.attempts_expired)
    assert ends == [0, 1, 1, 2, 2, 3, 3]
    assert it.state(b"none") == "RUNNING"


def test_the_run_limit_holds_for_workers_of_2010_as_well(talk: Any) -> None:
    """A job may be done in another dialect than it was submitted in."""
    it = talk(tries=1)
    c, old = it.client(), it.worker_2010()
    c.submit(b"a", run_ms=1_000)
    old.ask()
    it.wait(1 * S - 1)
    assert c.told() == []
    it.wait(1)
    assert c.told() == [(b"a", "tries_spent", ())]


def test_an_attempt_that_extends_gets_so_long_from_now(talk: Any) -> None:
    """`extend`: "the run limit ends so long from now, if that is later than it would"."""
    it = talk(timeout_ns=2 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    it.wait(1 * S)
    w.extend(b"a", 500)
    it.wait(1 * S - 1)
    assert it.state(b"a") == "RUNNING", "shorter than it would: nothing changes"
    w.extend(b"a", 3_000)
    it.wait(3 * S - 1)
    assert it.state(b"a") == "RUNNING"
    it.wait(1)
    assert (it.state(b"a"), it.job(b"a").ledger[-1].cause) == ("AVAILABLE", "expired")


def test_an_extension_has_a_ceiling(talk: Any) -> None:
    """`extend`: "and not above the ceiling (`limits.run_ms` from the start)"; who is refused gets nothing of it."""
    it = talk(timeout_ns=2 * S, limits=Limits(run_ns_max=5 * S))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    it.wait(7 * S)
    w.start(b"a")
    w.extend(b"a", 5_000)
    it.wait(1 * S)
    n = w.extend(b"a", 4_001)
    assert w.refused() == [(n, "ceiling")]
    it.wait(4 * S - 1)
    assert it.state(b"a") == "RUNNING"
    it.wait(1)
    assert it.state(b"a") == "AVAILABLE"


def test_an_extension_by_nothing_cannot_be(talk: Any) -> None:
    """`bad_report`: "says something that cannot be; `text` says what"."""
    it = talk(timeout_ns=2 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    n = w.extend(b"a", 0)
    assert w.refused() == [(n, "bad_report")]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["done", "total"])
def test_progress_is_told_in_finite_numbers(talk: Any, field: str, wrong: float) -> None:
    """`bad_report`: "says something that cannot be"; nobody who follows hears of it, and no silence ends by it."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", follow=True, silence_ms=1_000)
    w.start(b"a")
    it.wait(1 * S - 1)
    n = w.progress(b"a", **{field: wrong})
    (refused,) = w.take(ReportRefused)
    assert (refused.n, refused.code) == (n, "bad_report")
    assert refused.text.startswith(f"{field} is {wrong}")
    assert c.take(TellProgress) == []
    it.wait(1)
    assert it.state(b"a") == "AVAILABLE"


def test_an_extension_of_a_job_without_a_limit_changes_nothing(talk: Any) -> None:
    """There is nothing that could end later."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.extend(b"a", 1_000)
    assert w.refused() == []
    it.wait(60 * S)
    assert it.state(b"a") == "RUNNING"


def test_a_silent_attempt_ends(talk: Any) -> None:
    """`silence_ms`: "an attempt must extend, or report progress or a partial result, at least so often"."""
    it = talk(tries=2)
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a", silence_ms=1_000)
    assert w.last(b"a").silence_ms == 1_000
    it.wait(5 * S)
    w.start(b"a")
    for report in (
        lambda: w.progress(b"a"),
        lambda: w.partial(b"a", b"piece"),
        lambda: w.extend(b"a", 1),
        lambda: w.progress(b"a"),
    ):
        it.wait(1 * S - 1)
        assert it.state(b"a") == "RUNNING"
        report()
    it.wait(1 * S - 1)
    w.says(Heartbeat())
    assert it.job(b"a").ledger == ()
    it.wait(1)
    assert it.job(b"a").ledger[-1].cause == "silent", "a heartbeat is of the session, not of the job"
    assert [said.reason for said in w.take(Cancel)] == ["silent"]
    assert it.counters.attempts_expired == 1


def test_the_run_limit_ends_also_what_is_not_silent(talk: Any) -> None:
    """Both limits hold; the ledger says which it was."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", silence_ms=1_000, run_ms=3_000)
    w.start(b"a")
    for _ in range(5):
        it.wait(600 * MS)
        w.progress(b"a")
    assert it.job(b"a").ledger[-1].cause == "expired"


def test_a_repeated_report_does_not_break_the_silence(talk: Any) -> None:
    """A report whose number is not above the last one "is taken for a repetition": it says nothing new."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", silence_ms=1_000)
    n = w.progress(b"a")
    it.wait(600 * MS)
    w.progress(b"a", n=n)
    it.wait(400 * MS)
    assert it.job(b"a").ledger[-1].cause == "silent"


# --- Fail


def test_a_failed_attempt_is_followed_by_another_at_once(talk: Any) -> None:
    """`fail`: "ends the attempt; another one follows"; the outcome tells the last failure and the ledger of all."""
    it = talk(tries=2)
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a")
    it.wait(1 * S)
    w.start(b"a")
    it.wait(2 * S)
    w.fail(b"a", kind="Oops", text="it broke")
    assert (w.got, w.last(b"a").attempt, it.counters.attempts_failed) == ([b"a", b"a"], 2, 1)
    w.fail(b"a", kind="Again", text="it broke again")
    ((said, body),) = c.outcomes
    assert (said.state, said.reason, said.kind, said.text) == ("discarded", "tries_spent", "Again", "it broke again")
    assert (said.attempts, body) == (2, ())
    assert [(entry.attempt, entry.cause, entry.kind) for entry in said.ledger] == [
        (1, "failed", "Oops"),
        (2, "failed", "Again"),
    ]
    first = said.ledger[0]
    assert first.ended_ms - first.began_ms == 2_000
    assert first.worker


def test_a_failed_attempt_may_ask_for_a_delay(talk: Any) -> None:
    """`retry_ms`: "after `retry_ms` where it is given": DELAYED until then, and never early."""
    it = talk(tries=3)
    c, w = it.client(), it.worker(credit=3)
    c.submit(b"a")
    w.fail(b"a", retry_ms=1_500)
    assert it.state(b"a") == "DELAYED"
    assert c.inquire(id=b"a".ljust(16, b"-")).state == "delayed"
    it.wait(1_500 * MS - 1)
    assert w.got == [b"a"]
    it.wait(1)
    assert w.got == [b"a", b"a"]
    w.fail(b"a", retry_ms=0)
    assert w.got == [b"a", b"a", b"a"]
    w.fail(b"a", retry_ms=1_500)
    assert [reason for _, reason, _ in c.told()] == ["tries_spent"], "no delay before the end"


@pytest.mark.parametrize("retry_ms", [2_000, 2_001, 30 * 86_400_000, 2**63 - 1])
def test_a_delay_has_a_bound(talk: Any, retry_ms: int) -> None:
    """`retry_ms`: "more than `limits.retry_ms` is cut to that". A worker cannot put a job off for ever; one that wants
    to has failed all the same, with all that it said of it.
    """
    it = talk(tries=2, limits=Limits(retry_ns_max=2 * S))
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a")
    n = w.fail(b"a", kind="Later", text="next month", retry_ms=retry_ms)
    assert (w.refused(), it.state(b"a"), w.acked()) == ([], "DELAYED", n)
    (failed,) = it.job(b"a").ledger
    assert (failed.cause, failed.kind, failed.text) == ("failed", "Later", "next month")
    it.wait(2 * S - ACK_NS_MAX - 1)
    assert w.got == [b"a"]
    it.wait(1)
    assert w.got == [b"a", b"a"]


def test_a_delayed_job_comes_back_to_its_old_place(talk: Any) -> None:
    """Age counts, not the moment of coming back."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit_many(b"a", b"b", b"c")
    w.fail(b"a", retry_ms=1_000)
    it.wait(1 * S)
    w.ask(3)
    assert w.got == [b"a", b"a", b"b", b"c"]


def test_a_late_answer_counts_while_a_job_is_delayed(talk: Any) -> None:
    """The first valid answer wins; the moment that was waited for does not come any more."""
    it = talk()
    c, w = it.client(), it.worker(credit=5)
    c.submit(b"a")
    w.fail(b"a", retry_ms=1_000)
    w.complete(b"a", b"after all")
    assert c.told() == [(b"a", "completed", b"after all")]
    it.wait(60 * S)
    assert w.got == [b"a"]


def test_a_final_failure_is_the_end(talk: Any) -> None:
    """`final`: no other attempt; reason `failed`: "failed for good: its worker said `final`"."""
    it = talk()
    c, w = it.client(), it.worker(credit=5)
    c.submit(b"a")
    w.fail(b"a", kind="Bad", text="never", final=True, retry_ms=1_000)
    ((said, _),) = c.outcomes
    assert (said.state, said.reason, said.kind, said.text, said.attempts) == ("discarded", "failed", "Bad", "never", 1)
    it.wait(60 * S)
    assert w.got == [b"a"]
    assert [job.body for job in it.machine.kept] == [b"a"], "a dead letter"


def test_what_a_worker_says_of_a_failure_is_cut(talk: Any) -> None:
    """`error_text_max`: the rest is cut off."""
    it = talk(tries=1, limits=Limits(error_text_max=10))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.fail(b"a", kind="k" * 50, text="t" * 50)
    ((said, _),) = c.outcomes
    assert (said.kind, said.text) == ("k" * 10, "t" * 10)


def test_a_failure_of_a_later_cause_does_not_keep_the_words_of_an_earlier_one(talk: Any) -> None:
    """`kind`, `text`: "of the last failure, as its worker said it": an attempt that expired said nothing."""
    it = talk(tries=2, timeout_ns=1 * S)
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a")
    w.fail(b"a", kind="Oops", text="it broke")
    w.start(b"a")
    it.wait(1 * S)
    ((said, _),) = c.outcomes
    assert (said.kind, said.text) == ("", "")
    assert [entry.kind for entry in said.ledger] == ["Oops", ""]


# --- Hand back


def test_a_job_that_is_handed_back_costs_no_attempt(talk: Any) -> None:
    """`hand_back`: "gives the job back at its old place; costs no attempt, but a place in the budget of hand-overs"."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=2)
    c.submit_many(b"a", b"b", b"c")
    w.start(b"a")
    w.hand_back(b"a")
    w.hand_back(b"b")
    assert [(it.job(body).attempts, it.job(body).handovers) for body in (b"a", b"b")] == [(0, 1), (0, 1)]
    assert it.counters.handovers_returned == 2
    assert [it.state(body) for body in (b"a", b"b")] == ["DELAYED", "DELAYED"], "both wait a little"
    it.wait(HAND_BACK_NS)
    other = it.worker("other", credit=3)
    assert other.got == [b"a", b"b", b"c"]
    assert [said.attempt for said, _ in other.jobs] == [1, 1, 1]


def test_a_worker_that_wants_no_more_does_not_spend_what_waits(talk: Any) -> None:
    """`hand_back`: "of a job that it had not started, only of the first half". Found by use: a worker that stops, and
    does not take back what it asked for, was handed each job as often as it may be handed over, within milliseconds.
    """
    it = talk(tries=3)
    c, w = it.client(), it.worker(credit=1_000)
    c.submit(b"in hand")
    w.start(b"in hand")
    c.submit_many(b"a", b"b")
    for number in range(100):
        w.hand_back(b"a")
        w.hand_back(b"b")
        pause = min(HAND_BACK_NS << min(number, 14), HAND_BACK_NS_MAX)
        it.wait(pause - 1)
        assert (it.state(b"a"), it.state(b"b")) == ("DELAYED", "DELAYED")
        it.wait(1)
        assert (it.state(b"a"), it.state(b"b")) == ("HELD", "HELD")
    assert c.told() == []
    assert it.job(b"a").handovers == 15, "half of the budget is left for what is nobody's choice"
    w.complete(b"in hand")
    w.says(Goodbye())
    other = it.worker("other", credit=2)
    assert other.got == [b"a", b"b"]


def test_a_worker_that_says_hello_again_has_no_credit(talk: Any) -> None:
    """Credit: "a worker that wants no more jobs says hello once more". What it runs stays its own, what it holds goes
    back at once, nothing comes any more.
    """
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=1_000)
    c.submit_many(b"a", b"b")
    w.start(b"a")
    said = w.hello(running=(b"a",))
    assert (said.handed, said.lost) == (2, ())
    c.submit(b"c")
    assert [it.state(body) for body in (b"a", b"b", b"c")] == ["RUNNING", "AVAILABLE", "AVAILABLE"]
    w.complete(b"a", b"done", credit=2)
    assert w.got == [b"a", b"b"]
    assert c.told() == [(b"a", "completed", b"done")]
    other = it.worker("other", credit=2)
    assert other.got == [b"b", b"c"]


def test_who_hands_back_all_the_time_does_not_spend_a_job_in_no_time(talk: Any) -> None:
    """`hand_back`: "waits a little first, 10 ms the first time and twice as long each time, up to a second"."""
    it = talk(tries=3)
    c, w = it.client(), it.worker(credit=100)
    c.submit(b"a")
    for number in range(12):
        w.start(b"a")
        w.hand_back(b"a")
        pause = min(HAND_BACK_NS << number, HAND_BACK_NS_MAX)
        it.wait(pause - 1)
        assert it.state(b"a") == "DELAYED"
        it.wait(1)
        assert it.state(b"a") == "HELD"
    assert len(w.got) == 13


def test_a_job_that_was_handed_back_runs_with_its_whole_limit(talk: Any) -> None:
    """The next attempt has its own time."""
    it = talk(timeout_ns=2 * S)
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a")
    w.start(b"a")
    it.wait(1 * S)
    w.hand_back(b"a")
    it.wait(HAND_BACK_NS)
    w.start(b"a")
    it.wait(2 * S - 1)
    assert it.state(b"a") == "RUNNING"
    it.wait(1)
    assert it.state(b"a") == "AVAILABLE"


# --- Partial results and progress


def test_pieces_and_progress_are_passed_on_to_who_follows(talk: Any) -> None:
    """`partial`: "`seq` (int: 1, 2, 3 ... within the attempt)"; `progress`: done, total, note."""
    it = talk(tries=2)
    c, quiet, w = it.client(), it.client("quiet"), it.worker(credit=2)
    name = c.submit(b"a", follow=True)
    quiet.submit(b"a", name)
    w.partial(b"a", b"one")
    w.partial(b"a", (b"t", b"wo"))
    w.progress(b"a", done=1, total=3.5, note="n" * 2_000)
    assert [(said.id, said.attempt, said.seq) for said in c.take(TellPartial)] == [(name, 1, 1), (name, 1, 2)]
    assert c.pieces == [b"one", (b"t", b"wo")]
    ((progress),) = c.take(TellProgress)
    assert (progress.id, progress.attempt, progress.done, progress.total, len(progress.note)) == (
        name,
        1,
        1,
        3.5,
        1_000,
    )
    assert quiet.heard == []
    w.fail(b"a")
    w.partial(b"a", b"anew")
    assert [(said.attempt, said.seq) for said in c.take(TellPartial)] == [(2, 1)], "a new attempt begins anew"


@pytest.mark.parametrize("features", [BARE, ("starts",)])
def test_pieces_are_counted_anew_in_each_attempt(talk: Any, features: tuple[str, ...]) -> None:
    """Found by reading: after a worker without `starts` the count went on. "A new attempt begins anew"."""
    it = talk(tries=3)
    c, w = it.client(), it.worker(credit=3, features=features)
    c.submit(b"a", follow=True)
    for _ in range(2):
        w.partial(b"a", b"one")
        w.partial(b"a", b"two")
        w.fail(b"a")
    assert [(said.attempt, said.seq) for said in c.take(TellPartial)] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_who_does_not_know_of_following_is_not_followed_to(talk: Any) -> None:
    """`follows`: "neither uses what the other has not listed"."""
    it = talk()
    c, w = it.client(hello=False), it.worker(credit=1)
    c.hello(features=())
    c.submit(b"a", follow=True)
    w.partial(b"a", b"one")
    w.progress(b"a")
    assert c.heard == []


def test_pieces_of_what_is_not_the_current_attempt_go_nowhere(talk: Any) -> None:
    """`superseded`: "is of an attempt that is over, and the job takes (for this report) the current one only"."""
    it = talk()
    c, w, other = it.client(), it.worker(credit=1), it.worker("other")
    c.submit(b"a", follow=True)
    old = w.token(b"a")
    w.fail(b"a")
    n = w.partial(old, b"late")
    other.ask()
    m = w.progress(old)
    assert w.refused() == [(n, "superseded"), (m, "superseded")]
    assert c.pieces == []


def test_gone_followers_are_told_nothing(talk: Any) -> None:
    """A piece is told at most once, to who is there."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", follow=True)
    c.lose()
    w.partial(b"a", b"one")
    w.progress(b"a")
    assert w.refused() == []


# --- Cancel


@pytest.mark.parametrize("state", ["HELD", "RUNNING"])
def test_a_present_holder_hears_that_a_late_answer_was_first(talk: Any, state: str) -> None:
    """`cancel`: "Nobody waits for this attempt any more"; reason `answered`."""
    it = talk(timeout_ns=1 * S)
    c, w, other = it.client(), it.worker(credit=1), it.worker("other")
    c.submit(b"a")
    w.start(b"a")
    it.wait(1 * S)
    assert [said.reason for said in w.take(Cancel)] == ["expired"]
    other.ask()
    if state == "RUNNING":
        other.start(b"a")
    w.complete(b"a", b"late")
    assert c.told() == [(b"a", "completed", b"late")]
    (cancel,) = other.take(Cancel)
    assert (cancel.token, cancel.reason) == (other.token(b"a"), "answered")
    assert w.take(Cancel) == []
    assert it.counters.answers_late == 1
    n = other.complete(b"a", b"second")
    assert other.refused() == [(n, "not_open")]


def test_a_holder_hears_that_its_askers_are_gone(talk: Any) -> None:
    """`cancel`: reason `asker_gone`."""
    it = talk(limits=Limits(asker_grace_ns=1 * S))
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a", gone="cancel")
    c.submit(b"b", gone="cancel")
    w.start(b"a")
    c.lose()
    it.wait(1 * S)
    assert sorted((said.token, said.reason) for said in w.take(Cancel)) == [
        (w.token(b"a"), "asker_gone"),
        (w.token(b"b"), "asker_gone"),
    ]
    assert it.machine.open == 0


def test_who_is_away_is_told_nothing(talk: Any) -> None:
    """A session without a connection cannot hear a cancel; it learns from its next welcome."""
    it = talk(timeout_ns=1 * S, limits=Limits(session_grace_ns=5 * S))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    it.wait(900 * MS)
    w.lose()
    it.wait(1 * S)
    w.connect()
    assert w.hello(running=(b"a",)).lost == (w.token(b"a"),)
    assert w.take(Cancel) == []


# --- Reports: numbers


def test_a_report_that_comes_twice_does_nothing_the_second_time(talk: Any) -> None:
    """Reports: "a report whose number is not above the last one is taken for a repetition, and acknowledged again"."""
    it = talk()
    c, w = it.client(), it.worker(credit=5)
    c.submit(b"a", follow=True)
    n = w.partial(b"a", b"piece")
    w.partial(b"a", b"piece", n=n)
    w.partial(b"a", b"piece", n=n - 1)
    w.partial(b"a", b"piece", n=0)
    assert c.pieces == [b"piece"]
    n = w.fail(b"a")
    for kind in (w.fail, w.hand_back, w.progress, w.complete):
        kind(b"a", n=n)
    assert w.refused() == []
    assert (it.job(b"a").attempts, it.counters.attempts_failed) == (1, 1)
    assert w.acked() == n


def test_numbers_may_be_left_out(talk: Any) -> None:
    """Reports: "Numbers may be left out"."""
    it = talk()
    c, w = it.client(), it.worker(credit=2)
    c.submit_many(b"a", b"b")
    w.complete(b"a", n=7)
    assert w.acked() == 7
    w.complete(b"b", n=1_000)
    assert w.acked() == 1_000
    assert len(c.told()) == 2


def test_acks_ride_on_jobs(talk: Any) -> None:
    """`ack`: "in a message of that name or in a `job`"."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit_many(b"a", b"b")
    w.complete(b"a", credit=2)
    assert (w.last(b"b").ack, w.take(Ack)) == (1, [])
    w.complete(b"b")
    assert w.take(Ack) == []
    it.wait(ACK_NS_MAX)
    assert [said.ack for said in w.take(Ack)] == [2]


def test_an_acknowledgement_waits_until_the_report_is_safe(talk: Any) -> None:
    """Reports: "A report is acknowledged when it is safe"; a resumed session is told the number that is."""
    store = LateStore()
    it = talk(store=store)
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a")
    c.submit(b"b")
    for _ in range(3):
        store.settle(100)
        it.turn()
    w.complete(b"a")
    w.complete(b"b")
    assert w.acked() == 0
    store.settle(1)
    it.turn()
    assert w.acked() == 1
    w.connect()
    assert w.hello().received == 1
    w.complete(w.token(b"b"), n=2)
    assert w.acked() == 1
    store.settle(100)
    it.turn()
    assert w.acked() == 2
    assert len(c.told()) == 2


def test_a_refused_report_is_acknowledged(talk: Any) -> None:
    """`ack`: "all up to that number are safe, or were refused"."""
    it = talk()
    w = it.worker()
    n = w.complete(b"never given")
    assert (w.refused(), w.acked()) == ([(n, "not_open")], n)


# --- Possession


REPORTS = {
    "complete": lambda w, token: w.complete(token),
    "fail": lambda w, token: w.fail(token),
    "hand_back": lambda w, token: w.hand_back(token),
    "partial": lambda w, token: w.partial(token, b"piece"),
    "progress": lambda w, token: w.progress(token),
    "extend": lambda w, token: w.extend(token, 1_000),
}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS.keys())
def test_every_report_needs_the_token_of_an_open_job(talk: Any, report: Any) -> None:
    """`not_open`: "names no open job: it has ended, or the token was never given"."""
    it = talk()
    c, w = it.client(), it.worker(credit=2)
    c.submit_many(b"a", b"b")
    w.complete(b"a")
    before = it.counters.reports_refused
    numbers = [report(w, token) for token in (w.token(b"a"), b"never given", b"", b"x" * 500)]
    assert w.refused() == [(number, "not_open") for number in numbers]
    assert it.counters.reports_refused - before == 4
    assert (it.machine.open, it.state(b"b")) == (1, "HELD")


@pytest.mark.parametrize("late", ["any", "current"])
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("verb", REPORTS)
def test_the_token_of_an_attempt_that_is_over(talk: Any, verb: str, elsewhere: bool, late: str) -> None:
    """`late`: "any, and the first valid answer wins, or the current one only"; all other reports the current one."""
    it = talk(timeout_ns=1 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", late=late)
    w.start(b"a")
    it.wait(1 * S)
    other = it.worker("other", credit=1 if elsewhere else 0)
    if elsewhere:
        other.start(b"a")
    before = (it.job(b"a").state, it.job(b"a").attempts, it.job(b"a").handovers)
    n = REPORTS[verb](w, w.token(b"a"))
    if verb == "complete" and late == "any":
        assert c.told() == [(b"a", "completed", b"done")]
        assert w.refused() == []
    else:
        ((number, code),) = w.refused()
        assert number == n
        assert code == ("not_open" if late == "current" and elsewhere else "superseded")
        assert (it.job(b"a").state, it.job(b"a").attempts, it.job(b"a").handovers) == before


@pytest.mark.parametrize("late", ["any", "current"])
def test_the_current_attempt_may_always_answer(talk: Any, late: str) -> None:
    """Whatever was before."""
    it = talk(timeout_ns=1 * S)
    c, w = it.client(), it.worker(credit=5)
    c.submit(b"a", late=late)
    for _ in range(3):
        w.start(b"a")
        it.wait(1 * S)
    w.complete(b"a")
    assert c.told() == [(b"a", "completed", b"done")]
    assert it.machine.by_token == {}


def test_every_hand_over_has_a_token_of_its_own(talk: Any) -> None:
    """`token`: "the right to report on this hand-over: unguessable"; `job` is the same at every attempt."""
    it = talk(limits=Limits(handovers_max=1_000))
    c, w = it.client(), it.worker(credit=30)
    c.submit(b"a")
    for number in range(29):
        (w.fail if number % 2 else w.hand_back)(b"a")
        it.wait(HAND_BACK_NS_MAX)
    assert len({said.token for said, _ in w.jobs}) == 30
    assert len({said.job for said, _ in w.jobs}) == 1


def test_tokens_of_many_hand_overs_are_bounded(talk: Any) -> None:
    """`TOKENS_MAX`: the oldest go first; that of 2010 stays, because all attempts of 2010 share it."""
    it = talk(limits=Limits(handovers_max=10**6))
    c, old, w = it.client(), it.worker_2010(), it.worker()
    c.submit(b"a")
    old.ask()
    old.lose()
    it.wait(1 * S)
    for _ in range(TOKENS_MAX + 20):
        w.ask()
        w.hand_back(b"a")
        it.wait(HAND_BACK_NS_MAX)
    w.ask()
    assert len(it.job(b"a").tokens) == TOKENS_MAX
    assert len(it.machine.by_token) == TOKENS_MAX + 1
    n = w.complete(w.jobs[0][0].token)
    assert w.refused() == [(n, "not_open")]
    old.answer(b"a", b"after all")
    assert c.told() == [(b"a", "completed", b"after all")]
    assert it.machine.by_token == {}


def test_the_token_of_another_is_as_good(talk: Any) -> None:
    """Possession is proven by the token, and nothing else: a job may be answered by who got it from its holder."""
    it = talk()
    c, w, friend = it.client(), it.worker(credit=1), it.worker("friend")
    c.submit(b"a")
    friend.complete(w.token(b"a"))
    assert c.told() == [(b"a", "completed", b"done")]
    assert not it.machine.roster.sessions[w.principal, w.incarnation].jobs


# --- Both dialects


def test_the_id_of_2010_is_a_token_for_any_attempt_of_2010(talk: Any) -> None:
    """2010, Job: the id is "the same at every attempt of one job, so that a late answer counts": also after native
    attempts in between.
    """
    it = talk(timeout_ns=1 * S, tries=9)
    c, old, w = it.client_2010(), it.worker_2010(), it.worker()
    c.submit(b"a")
    old.ask()
    it.wait(1 * S)
    w.ask()
    w.start(b"a")
    it.wait(1 * S)
    old.ask()
    (first, _), (second, _) = old.jobs
    assert first == second != w.token(b"a")
    it.wait(1 * S)
    w.ask()
    w.start(b"a")
    old.answer(b"a", b"old")
    assert c.told == [b"old"]
    assert [said.reason for said in w.take(Cancel)] == ["expired", "answered"]
    assert it.machine.by_token == {}


def test_a_job_that_takes_its_current_attempt_only_gets_a_new_id_in_2010_as_well(talk: Any) -> None:
    """`late`: "current" fences workers of 2010 by a new id each time."""
    it = talk(timeout_ns=1 * S, tries=9)
    c, old = it.client(), it.worker_2010()
    c.submit(b"a", late="current")
    old.ask(2)
    it.wait(1 * S)
    (first, _), (second, _) = old.jobs
    assert first != second
    it.answers.incoming.append((first, b"late"))
    it.turn()
    assert c.told() == []
    old.answer(b"a", b"current")
    assert c.told() == [(b"a", "completed", b"current")]


def test_a_job_that_takes_its_current_attempt_only_refuses_a_late_answer_of_2010(talk: Any) -> None:
    """The same, while it waits: nobody has it."""
    it = talk(timeout_ns=1 * S, tries=9)
    c, old = it.client(), it.worker_2010()
    c.submit(b"a", late="current")
    old.ask()
    it.wait(1 * S)
    old.answer(b"a", b"late")
    assert (c.told(), it.counters.answers_refused) == ([], 1)


def test_jobs_cross_from_2010_to_native_workers(talk: Any) -> None:
    """The native dialect: "A job may be submitted in one dialect and done in the other": failures, too."""
    it = talk(tries=1)
    c, w = it.client_2010(), it.worker(credit=9)
    c.submit(b"a", (b"b", b"", b"c"), b"d", b"e")
    assert w.got == [b"a", (b"b", b"", b"c"), b"d", b"e"]
    w.complete(b"a", (b"1", b"", b"2"))
    w.complete((b"b", b"", b"c"), b"")
    w.fail(b"d")
    w.hand_back(b"e")
    w.complete(b"e", ())
    assert c.told[:3] == [(b"1", b"", b"2"), b"", b""]
    assert it.machine.open == 0


def test_jobs_cross_from_native_clients_to_2010(talk: Any) -> None:
    """The same the other way round; natively an empty answer is no failure."""
    it = talk(tries=1, timeout_ns=1 * S)
    c, old = it.client(), it.worker_2010()
    c.submit_many(b"a", b"b", b"c")
    old.ask(3)
    old.answer(b"a", b"")
    old.answer(b"b", (b"x", b""))
    it.wait(1 * S)
    assert c.told() == [(b"a", "completed", b""), (b"b", "completed", (b"x", b"")), (b"c", "tries_spent", ())]


# --- What is logged


def test_lines_of_a_native_job_name_its_request(talk: Any) -> None:
    """`request`, in hexadecimal: by the number alone nobody finds the job of a client that complains."""
    it = talk(tries=1, trace=True)
    c, w, old = it.client(), it.worker(), it.client_2010()
    c.submit(b"a", b"\x00\xff" * 8)
    old.submit(b"b")
    w.ask(2)
    w.fail(b"a")
    w.fail(b"b")
    lines = [(event, fields.get("request")) for event, fields in it.notices]
    for event in (Event.JOB_ACCEPTED, Event.JOB_DISCARDED, Event.JOB_FINISHED):
        assert sorted((it for it in lines if it[0] == event), key=str) == [(event, "00ff" * 8), (event, None)]


# --- Headers and sizes


def test_headers_travel_with_the_job_and_its_answer(talk: Any) -> None:
    """`headers`: "travel with the job and its answer"; outcome: "the worker's where it gave any, else the job's"."""
    it = talk()
    c, w = it.client(), it.worker(credit=3)
    c.submit(b"a", headers={"trace": "1"})
    c.submit(b"b", headers={"trace": "2"})
    c.submit(b"c")
    assert [said.headers for said, _ in w.jobs] == [{"trace": "1"}, {"trace": "2"}, None]
    w.complete(b"a", headers={"kind": "x"})
    w.complete(b"b")
    w.complete(b"c", headers={})
    assert [said.headers for said, _ in c.outcomes] == [{"kind": "x"}, {"trace": "2"}, {}]


def test_headers_of_an_answer_have_a_bound(talk: Any) -> None:
    """`complete`: with larger headers "the attempt has failed, with the kind `answer_` and that code"."""
    it = talk(tries=2, limits=Limits(headers_bytes_max=10 + HEADER_BYTES))
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a")
    n = w.complete(b"a", headers={"12345": "123456"})
    assert (w.refused(), w.acked(), w.got) == ([(n, "bad_report")], n, [b"a", b"a"])
    (failed,) = it.job(b"a").ledger
    assert (failed.attempt, failed.cause, failed.kind) == (1, "failed", "answer_bad_report")
    assert "74 (--headers-bytes-max)" in failed.text
    w.complete(b"a", headers={"12345": "12345"})
    assert c.told() == [(b"a", "completed", b"done")]


def _too_large(talk: Any, worker: Any, report: Any) -> None:
    """The broker reads a report whose body the pump has thrown away, beside what else lies there."""
    talk.workers.refused.append(Refused(worker.peer, b"", "too_large", 1, native.encode(report)))
    talk.turn()


@pytest.mark.parametrize("started", [0, 1])
def test_an_answer_that_is_too_large_ends_its_attempt(talk: Any, started: int) -> None:
    """`complete`: "the attempt has failed": who cannot send its answer has no other. Without a limit of time the job
    stayed with its worker for ever, and with one as well where its start had not been said.
    """
    it = talk(tries=2)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    _too_large(it, w, Complete(token=w.token(b"a"), n=1, credit=2, started=started))
    assert (w.refused(), w.acked()) == ([(1, "too_large")], 1)
    assert w.got == [b"a", b"a"], "the credit that came with it counts"
    (failed,) = it.job(b"a").ledger
    assert (failed.attempt, failed.cause, failed.kind) == (1, "failed", "answer_too_large")
    assert "67108864 bytes" in failed.text
    _too_large(it, w, Complete(token=w.token(b"a"), n=2, credit=2, started=2))
    ((said, _),) = c.outcomes
    assert (said.state, said.reason, said.kind, said.attempts) == ("discarded", "tries_spent", "answer_too_large", 2)
    w.fail(w.jobs[0][0].token, n=3, kind="answer_too_large")  # as a worker may say on top: it changes nothing
    assert [code for _, code in w.refused()] == ["too_large", "not_open"]


def test_an_answer_that_is_too_large_says_that_its_worker_is_there_and_what_it_has_started(talk: Any) -> None:
    """Liveness: "whatever it says counts"; `started` counts on every message of a worker."""
    it = talk(limits=Limits(liveness_ns=4 * S))
    c, w = it.client(), it.worker(credit=3)
    w.beats = False
    c.submit_many(b"a", b"b", b"c")
    it.wait(3 * S)
    _too_large(it, w, Complete(token=w.token(b"a"), n=1, started=2))
    assert [it.state(body) for body in (b"a", b"b", b"c")] == ["AVAILABLE", "RUNNING", "HELD"]
    it.wait(4 * S - 1)
    assert [it.state(body) for body in (b"b", b"c")] == ["RUNNING", "HELD"]
    it.wait(1)
    assert [it.state(body) for body in (b"b", b"c")] == ["AVAILABLE", "AVAILABLE"]


def test_an_answer_that_is_too_large_counts_though_later_reports_are_heard_first(talk: Any) -> None:
    """What is too large is read apart from the rest: its number has been overtaken then, its token has not."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=2)
    c.submit_many(b"a", b"b")
    w.complete(b"b", n=2, turn=False)
    _too_large(it, w, Complete(token=w.token(b"a"), n=1))
    assert c.told() == [(b"b", "completed", b"done"), (b"a", "tries_spent", ())]
    assert (w.refused(), w.acked()) == ([(1, "too_large")], 2)
    _too_large(it, w, Complete(token=w.token(b"a"), n=1))  # word for word again
    assert (w.refused(), w.acked()) == ([], 2)


@pytest.mark.parametrize("late", ["any", "current"])
def test_an_answer_that_is_too_large_and_late_changes_nothing(talk: Any, late: str) -> None:
    """`superseded`: its attempt is over already, and the next one goes on."""
    it = talk(timeout_ns=1 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", late=late)
    w.start(b"a")
    it.wait(1 * S)
    _too_large(it, w, Complete(token=w.token(b"a"), n=1))
    assert (w.refused(), it.state(b"a"), len(it.job(b"a").ledger)) == ([(1, "superseded")], "AVAILABLE", 1)


def test_headers_of_a_refused_answer_are_not_kept(talk: Any) -> None:
    """Found by reading: an answer that came too late for a job of the current attempt left its headers behind."""
    it = talk(timeout_ns=1 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", late="current", headers={"of": "the job"})
    w.start(b"a")
    it.wait(1 * S)
    w.complete(b"a", headers={"of": "nobody"})
    assert [code for _, code in w.refused()] == ["superseded"]
    old = it.worker_2010()
    old.ask()
    old.answer(b"a")
    ((said, _),) = c.outcomes
    assert said.headers == {"of": "the job"}


@pytest.mark.parametrize("kind", [Complete, Partial, Fail, Progress, Extend, HandBack])
def test_a_report_that_is_too_large_is_refused(talk: Any, kind: Any) -> None:
    """`too_large`: "has more bytes or frames than a result may have": the pump has thrown its body away."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    fields = {"run_ms": 1} if kind is Extend else {}
    _too_large(it, w, kind(token=w.token(b"a"), n=1, **fields))
    if kind in (Complete, Partial):
        assert (w.refused(), w.acked()) == ([(1, "too_large")], 1)
    else:
        assert [error.code for error in w.take(Error)] == ["too_large"]
    assert it.machine.open == 1


# --- After a restart, with a store


def test_sessions_claim_what_they_had_started_after_a_restart(talk: Any) -> None:
    """`running`: who has it and comes back in time goes on with it; the attempt is not counted again."""
    it = talk(store=MemoryStore(), tries=1)
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a")
    c.submit(b"b")
    w.start(b"a")
    it.begin()
    assert (it.state(b"a"), it.state(b"b")) == ("RUNNING", "HELD")
    w.connect()
    said = w.hello(running=(b"a", b"b"))
    assert (said.epoch, said.handed, said.received, said.lost) == (2, 0, 0, ())
    assert (it.state(b"a"), it.state(b"b")) == ("RUNNING", "RUNNING")
    assert (it.job(b"a").attempts, it.job(b"b").attempts) == (1, 1)
    it.wait(60 * S)
    c.connect()
    c.hello()
    c.submit(b"a", age_ms=100)
    w.complete(b"a")
    assert c.told() == [(b"a", "completed", b"done")]


def test_what_is_claimed_as_held_after_a_restart_goes_back_at_once(talk: Any) -> None:
    """It was not started, and will not be: nobody has to wait for its liveness. A token of an earlier hand-over says
    nothing of it (found by reading: it was given back while another worker still had it).
    """
    it = talk(store=MemoryStore())
    c, w, other = it.client(), it.worker(credit=2), it.worker("other")
    c.submit_many(b"a", b"b")
    w.hand_back(b"b")
    it.wait(HAND_BACK_NS)
    other.ask()
    assert other.got == [b"b"]
    it.begin()
    w.connect()
    assert w.hello(held=(b"a", b"b")).lost == (w.token(b"a"), w.token(b"b"))
    assert (it.state(b"a"), it.state(b"b")) == ("AVAILABLE", "HELD")
    other.connect()
    assert other.hello(running=(b"b",)).lost == ()
    assert it.state(b"b") == "RUNNING"


def test_what_nobody_claims_after_a_restart_is_let_again(talk: Any) -> None:
    """A session that is not heard within its liveness is lost, also one of an earlier life of the broker."""
    it = talk(store=MemoryStore(), limits=Limits(liveness_ns=4 * S))
    c, w = it.client(), it.worker(credit=3)
    c.submit_many(b"a", b"b")
    c.submit(b"c")
    w.start(b"a")
    it.begin()
    other = it.worker("other", credit=5)
    it.wait(4 * S - 1)
    assert other.got == []
    it.wait(1)
    assert [(body, said.attempt) for said, body in other.jobs] == [(b"a", 2), (b"b", 1), (b"c", 1)]
    assert it.job(b"a").ledger[-1].cause == "worker_lost"


def test_the_lease_of_a_claimed_job_stands_in_the_order_of_all_leases(talk: Any) -> None:
    """Found by reading: a job that was claimed after a restart stood behind younger leases, and was seen too late."""
    it = talk(store=MemoryStore(), timeout_ns=6 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    it.begin()
    it.wait(2 * S)
    w.connect()
    other = it.worker("other", credit=1)
    c.connect()
    c.hello()
    c.submit(b"b")
    other.start(b"b")
    it.wait(1 * S)
    w.hello(running=(b"a",))
    it.wait(3 * S - 1)
    assert it.state(b"a") == "RUNNING"
    it.wait(1)
    assert (it.state(b"a"), it.state(b"b")) == ("AVAILABLE", "RUNNING")


def test_a_lease_that_was_extended_is_not_over_early_after_a_restart(talk: Any) -> None:
    """Found by the model, when it was told of extensions: the moment was written down as the millisecond before it."""
    it = talk(store=MemoryStore(), timeout_ns=1 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    it.wait(MS - 1)
    w.extend(b"a", 5_000)
    it.wait(1)
    it.begin()
    w.connect()
    assert w.hello(running=(b"a",)).lost == ()
    it.wait(5 * S - 2)
    assert it.state(b"a") == "RUNNING"
    it.wait(MS)
    assert it.state(b"a") == "AVAILABLE"


@pytest.mark.parametrize("restarts", [False, True])
def test_an_extension_is_of_one_attempt(talk: Any, restarts: bool) -> None:
    """Found when the model was told of extensions: an attempt that was given back has no number any more, and the next
    one, which has the same, had its extension when it was claimed.
    """
    it = talk(store=MemoryStore(), timeout_ns=1 * S)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    w.extend(b"a", 5_000)
    w.hand_back(b"a")
    it.wait(HAND_BACK_NS)
    w.ask()
    w.start(b"a")
    assert it.job(b"a").attempts == 1
    if restarts:
        it.begin()
    else:
        w.lose()
        it.wait(it.machine.limits.session_grace_ns)
        assert it.state(b"a") == "AVAILABLE"
    w.connect()
    assert w.hello(running=(b"a",)).lost == ()
    it.wait(1 * S - 1)
    assert it.state(b"a") == ("RUNNING" if restarts else "AVAILABLE")
    it.wait(1)
    assert it.state(b"a") == "AVAILABLE"


@pytest.mark.parametrize("verb", ["partial", "progress", "extend"])
@pytest.mark.parametrize("state", ["HELD", "RUNNING"])
def test_a_report_on_a_job_of_an_earlier_life_claims_it(talk: Any, state: str, verb: str) -> None:
    """Found by reading: a report on a job that nobody had claimed after a restart left it running with nobody, and
    nothing would ever end it.
    """
    it = talk(store=MemoryStore(), limits=Limits(liveness_ns=4 * S))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    if state == "RUNNING":
        w.start(b"a")
    it.begin()
    w.connect()
    w.hello()
    REPORTS[verb](w, w.token(b"a"))
    assert it.state(b"a") == "RUNNING"
    assert it.job(b"a").holder is not None
    it.wait(60 * S)
    assert it.state(b"a") == "RUNNING"
    w.beats = False
    it.wait(60 * S)
    assert it.state(b"a") == "AVAILABLE"


@pytest.mark.parametrize("verb", ["complete", "fail", "hand_back"])
@pytest.mark.parametrize("state", ["HELD", "RUNNING"])
def test_an_outcome_of_an_earlier_life_counts_without_a_claim(talk: Any, state: str, verb: str) -> None:
    """The token proves possession; an answer has an attempt that counted."""
    it = talk(store=MemoryStore(), tries=1)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    if state == "RUNNING":
        w.start(b"a")
    it.begin()
    w.connect()
    w.hello()
    c.connect()
    c.hello()
    c.submit(b"a", age_ms=1_000)
    REPORTS[verb](w, w.token(b"a"))
    assert w.refused() == []
    if verb == "hand_back":
        it.wait(HAND_BACK_NS)
        assert (it.state(b"a"), it.job(b"a").attempts) == ("AVAILABLE", 0)
    else:
        ((said, _),) = c.outcomes
        assert (said.attempts, said.reason) == (1, "" if verb == "complete" else "tries_spent")
        assert it.counters.answers_late == 0
