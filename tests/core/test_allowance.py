"""Limits of queues and fairness keys: so many jobs at a time, so many a second, and never an ask spent for nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from relet.core import levels
from relet.core.job import COMPLETED, Job
from relet.core.limits import Limits
from relet.core.queue import Queue
from relet.core.queues import Queues
from relet.core.settings import QueueSettings
from relet.core.terms import Rules, Terms
from relet.messages import Goodbye
from relet.store.memory import MemoryStore
from relet.testing import census

MS = 1_000_000
S = 1_000 * MS


def _limited(**settings: Any) -> Queue:
    return Queues(queues_max=9).set("q", QueueSettings(**settings), None)


def _job(number: int, fair: str = "", priority: int = 0) -> Job:
    rules = Rules(fair=fair) if fair else None
    return Job(number, None, b"", b"", 0, Queue(), Terms(priority=priority), rules=rules)


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "in_flight_max": st.integers(1, 4),
        "key_in_flight_max": st.integers(1, 3),
        "rate": st.sampled_from([0.5, 3, 1000.0]),
        "key_rate": st.sampled_from([0.5, 2.0, 7]),
    },
)


@given(
    LIMITS,
    st.sampled_from([None, 1, 3]),
    st.lists(
        st.tuples(
            st.sampled_from(["fresh", "fresh", "take", "take", "take", "back", "end", "left", "pass"]),
            st.sampled_from(["", "a", "b"]),
            st.sampled_from([0, 0, 5]),
            st.integers(0, 40),
        ),
        max_size=120,
    ),
)
def test_what_may_go_goes_and_nothing_else(
    limits: dict[str, Any], burst: int | None, steps: list[tuple[str, str, int, int]]
) -> None:
    """Against lists and buckets that are walked through: a job is given where one may go, and none where none may."""
    limits |= {"burst": burst} if burst and "rate" in limits else {}
    limits |= {"key_burst": burst} if burst and "key_rate" in limits else {}
    queue, now = _limited(**limits), 0
    waiting: dict[int, Job] = {}
    out: list[Job] = []
    levels: dict[str, float] = {}
    at: dict[str, int] = {}

    def fair(job: Job) -> str:
        return job.rules.fair if job.rules else ""

    def bucket(name: str, rate: float, most: int | None) -> float:
        most = most or max(1, int(rate))
        level = min(float(most), levels.get(name, float(most)) + (now - at.get(name, now)) * rate / 1e9)
        levels[name], at[name] = level, now
        return level

    def may_go(job: Job) -> bool:
        key = fair(job)
        if len(out) >= limits.get("in_flight_max", 1_000):
            return False
        if "rate" in limits and bucket("queue", limits["rate"], limits.get("burst")) < 1 - 1e-6:
            return False
        if not key:
            return True
        if sum(fair(it) == key for it in out) >= limits.get("key_in_flight_max", 1_000):
            return False
        return "key_rate" not in limits or bucket(f"key {key}", limits["key_rate"], limits.get("key_burst")) >= 1 - 1e-6

    for number, (step, key, priority, amount) in enumerate(steps, 1):
        if step == "fresh":
            job = waiting[number] = _job(number, key, priority)
            queue.append(job)
        elif step == "pass":
            now += amount * 50 * MS
        elif step == "take":
            able = [job for job in waiting.values() if may_go(job)]
            taken = queue.take(now)
            assert (taken is None) == (not able)
            if taken is None:
                later = queue.levels.wakes_at(now) if queue.levels is not None else 1 << 62
                assert later > now, "a moment that has come is not waited for"
            else:
                assert taken in able
                assert taken.terms.priority == max(it.terms.priority for it in able)
                assert not [it for it in able if it.number < taken.number and _alike(it, taken)]
                del waiting[taken.number]
                out.append(taken)
                levels["queue"] = levels.get("queue", 0) - 1
                levels[f"key {fair(taken)}"] = levels.get(f"key {fair(taken)}", 0) - 1
        elif step in ("back", "end") and out:
            job = out.pop(amount % len(out))
            if job.flow is not None:
                queue.is_back(job)
            if step == "back":
                waiting[job.number] = job
                queue.came_back(job)
        elif step == "left" and waiting:
            job = waiting.pop(sorted(waiting)[amount % len(waiting)])
            job.state = COMPLETED
            queue.left(job)
        assert len(queue) == len(waiting)


def _alike(one: Job, other: Job) -> bool:
    return one.terms.priority == other.terms.priority and (one.rules or Rules()).fair == (other.rules or Rules()).fair


def test_keys_of_which_the_rate_is_over_leave_nothing_behind() -> None:
    """A thousand keys have their job; when their buckets are full again, none is known any more."""
    queue = _limited(key_rate=1.0, key_in_flight_max=1)
    jobs = [_job(number, f"key {number}") for number in range(1_000)]
    for job in jobs:
        queue.append(job)
    for _ in jobs:
        taken = queue.take(0)
        assert taken is not None
        queue.is_back(taken)
    assert queue.levels is not None
    assert len(queue.levels._keys) == 1_000
    assert queue.take(1 * S) is None
    assert queue.levels._keys == {}
    assert not queue.levels._resting


def test_a_key_that_waits_long_holds_no_other_back() -> None:
    """Each is forgotten when its own bucket is full, whichever came first; one that is used meanwhile later."""
    queue = _limited(key_rate=1.0, key_burst=9)

    def take(now: int, number: int, fair: str) -> None:
        queue.append(_job(number, fair))
        assert queue.take(now) is not None

    for number in range(9):
        take(0, number, "drained")
    take(0, 10, "once")
    take(0, 11, "again")
    assert queue.levels is not None
    take(int(1.5 * S), 12, "again")
    assert queue.levels._keys.keys() == {"drained", "again"}
    assert queue.take(3 * S) is None
    assert queue.levels._keys.keys() == {"drained"}
    assert queue.take(9 * S) is None
    assert (queue.levels._keys, queue.levels._resting) == ({}, [])


def test_so_many_keys_are_remembered_for_their_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nobody takes from the queue any more: those that must wait longest are."""
    monkeypatch.setattr(levels, "KEYS_RESTING_MAX", 5)
    queue = _limited(key_rate=1.0)
    for number in range(9):
        queue.append(_job(number, f"key {number}"))
        assert queue.take(number) is not None
    assert queue.levels is not None
    assert queue.levels._keys.keys() == {f"key {number}" for number in range(4, 9)}
    assert len(queue.levels._resting) == 5


# --- In the machine


def test_no_more_jobs_of_a_queue_are_with_workers_than_may(talk: Any) -> None:
    """The asks stay: the next goes when one is done, failed, given back or lost with its worker."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(in_flight_max=2))
    c, w = it.client(), it.worker("w", credit=9)
    for number in range(7):
        c.submit(b"%d" % number)
    assert w.got == [b"0", b"1"]
    w.complete(b"0")
    assert w.got == [b"0", b"1", b"2"]
    w.fail(b"1", final=True)
    assert w.got[3:] == [b"3"]
    w.fail(b"2", retry_ms=60_000)
    assert w.got[4:] == [b"4"]
    v = it.worker("v", credit=9)
    assert v.got == []
    w.says(Goodbye())
    assert len(v.got) == 2


def test_each_key_has_a_limit_of_its_own(talk: Any) -> None:
    """Who has as many as it may keeps nobody else waiting, and what has no key has no limit."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(key_in_flight_max=1))
    c, w = it.client(), it.worker(credit=20)
    for name, fair in ((b"a1", "a"), (b"a2", "a"), (b"b1", "b"), (b"b2", "b"), (b"-1", ""), (b"-2", "")):
        c.submit(name, fair=fair)
    c.submit(b"a high", fair="a", priority=5)
    assert sorted(w.got) == [b"-1", b"-2", b"a1", b"b1"]
    w.complete(b"a1")
    assert w.got[4:] == [b"a high"], "the limit is that of the key, at all priorities"
    w.complete(b"b1")
    assert w.got[5:] == [b"b2"]


def test_a_rate_is_never_exceeded_and_kept_up_with(talk: Any) -> None:
    """The burst at once, then one every interval, not a nanosecond early, without anything else that happens."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(rate=10.0, burst=3))
    c, w = it.client(), it.worker(credit=20)
    for number in range(8):
        c.submit(b"%d" % number)
    assert len(w.got) == 3
    for count in (4, 5, 6):
        it.wait(100 * MS - 1)
        assert len(w.got) == count - 1
        it.wait(1)
        assert len(w.got) == count
    it.wait(10 * S)
    assert len(w.got) == 8
    assert it.machine.next_deadline() is None or it.machine.next_deadline() > it.now


def test_a_rate_of_each_key(talk: Any) -> None:
    """Keys do not take each other's."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(key_rate=1.0))
    c, w = it.client(), it.worker(credit=20)
    for number in range(4):
        c.submit(b"%d" % number, fair="ab"[number % 2])
    assert w.got == [b"0", b"1"]
    it.wait(1 * S)
    assert w.got == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("settings", [{"rate": 1.0}, {"key_rate": 1.0}, {"in_flight_max": 1}, {"key_in_flight_max": 1}])
def test_what_ends_when_its_turn_comes_takes_nothing_of_a_limit(talk: Any, settings: Any) -> None:
    """More jobs miss their deadline in one turn than it can end: those that are found too late in the line, and not
    handed over, keep nobody from going.
    """
    it = talk(limits=Limits(turn_steps_max=1))
    it.machine.set_queue("default", QueueSettings(**settings))
    c, w = it.client(), it.worker()
    for name in (b"a", b"b", b"c"):
        c.submit(name, fair="k", start_ms=10)
    c.submit(b"d", fair="k")
    it.now += 10 * MS
    w.ask()
    assert w.got == [b"d"]
    assert it.counters.jobs_discarded == 3


def test_a_worker_that_waits_for_a_limited_queue_gets_jobs_of_another(talk: Any) -> None:
    """No ask is spent on what may not go."""
    it = talk()
    it.machine.set_queue("slow", QueueSettings(rate=1.0))
    c, w = it.client(), it.worker(queues=("slow", "default"), credit=3)
    c.submit(b"s1", queue="slow")
    c.submit(b"s2", queue="slow")
    c.submit(b"d1")
    assert w.got == [b"s1", b"d1"]
    it.wait(1 * S)
    assert w.got == [b"s1", b"d1", b"s2"]


def test_limits_hold_at_once_also_for_what_is_out(talk: Any) -> None:
    """What is with workers when a limit is set counts; when it is taken away, all may go."""
    it = talk()
    c, w = it.client(), it.worker(credit=2)
    for number in range(5):
        c.submit(b"%d" % number)
    w.ask(3)
    it.machine.set_queue("default", QueueSettings(in_flight_max=1))
    for number in range(5, 8):
        c.submit(b"%d" % number)
    w.ask(3)
    assert len(w.got) == 5
    for number in range(4):
        w.complete(b"%d" % number)
    assert len(w.got) == 5
    w.complete(b"4")
    assert len(w.got) == 6
    it.machine.set_queue("default", None)
    it.turn()
    assert len(w.got) == 8
    for number in range(5, 8):
        w.complete(b"%d" % number)
    assert it.machine.queue.levels is None or it.machine.queue.levels.in_flight == 0


def test_jobs_of_2010_count_as_all_others(talk: Any) -> None:
    """Asked for and done in the old dialect."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(in_flight_max=1))
    c, w = it.client_2010(), it.worker_2010()
    c.submit(b"1", b"2")
    w.ask(2)
    assert [body for _, body in w.jobs] == [b"1"]
    w.answer(b"1")
    assert [body for _, body in w.jobs] == [b"1", b"2"]


def test_a_late_answer_frees_the_place_of_its_holder(talk: Any) -> None:
    """The job is with another worker meanwhile, which is told to stop."""
    it = talk(timeout_ns=100 * MS)
    it.machine.set_queue("default", QueueSettings(in_flight_max=1))
    c, w = it.client(), it.worker("w", credit=1)
    c.submit(b"1")
    c.submit(b"2")
    w.start(b"1")
    v = it.worker("v", credit=2)
    it.wait(100 * MS)
    v.start(b"1")
    w.complete(b"1")
    assert v.got == [b"1", b"2"]


@pytest.mark.parametrize("claims", [True, False])
def test_what_is_out_counts_through_a_restart(talk: Any, claims: bool) -> None:
    """A worker that is back with it, or not: no more are out than may."""
    it = talk(store=MemoryStore())
    it.machine.set_queue("default", QueueSettings(in_flight_max=1))
    c, w = it.client(), it.worker("w", credit=1)
    c.submit(b"1")
    c.submit(b"2")
    w.start(b"1")
    it.begin()
    v = it.worker("v", credit=9)
    if claims:
        w.connect()
        w.hello(running=(b"1",))
    assert v.got == []
    if claims:
        w.complete(b"1")
    else:
        it.wait(60 * S)
        assert v.got == [b"1"]
        v.complete(b"1")
    assert v.got[-1:] == [b"2"]


def test_what_a_limit_kept_waiting_is_given_to_nobody_while_the_broker_ends(talk: Any) -> None:
    """The limit is lifted to end it, some at a time; the census does not take that for a job that should have gone."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(in_flight_max=1))
    c = it.client()
    for number in range(3):
        c.submit(b"%d" % number)
    w = it.worker(credit=2)
    assert w.got == [b"0"]
    assert it.machine.stop(it.now, 2) == 1
    census.check(it.machine)
    census.check_matched(it.machine)


def test_a_broker_that_stops_ends_what_a_limit_keeps_waiting(talk: Any) -> None:
    """No limit outlives the broker."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(in_flight_max=1, rate=0.5))
    c = it.client()
    it.worker(credit=9)
    for number in range(4):
        c.submit(b"%d" % number, fair="k" if number % 2 else "")
    it.stop()
    assert Counter(reason for _, reason, _ in c.told()) == {"broker_stopped": 4}
    assert it.machine.open == 0
