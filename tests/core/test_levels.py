"""Whose turn it is: priorities and fairness keys, the structure against a naive model, and each promise by hand."""

from __future__ import annotations

import gc
import random
import sys
from collections import Counter
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from relet.core.flow import BEFORE_LOOKS_MAX, Flow
from relet.core.job import AVAILABLE, COMPLETED, Job
from relet.core.queue import Queue
from relet.core.settings import QueueSettings
from relet.core.terms import Rules, Terms
from relet.messages import CancelJob, Goodbye

MS = 1_000_000
S = 1_000 * MS

TERMS = {priority: Terms(priority=priority) for priority in (-2, 0, 1, 7)}


def _job(number: int, priority: int = 0, fair: str = "", weight: int = 1) -> Job:
    rules = Rules(fair=fair, weight=weight) if fair else None
    return Job(number, None, b"", b"", 0, Queue(), TERMS[priority], rules=rules)


class Naive:
    """A list of jobs and, for each priority, a list of the keys that have something, the next in turn first."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.turns: dict[int, list[list[Any]]] = {}
        """By priority: [key, jobs that it may still have in this round]."""
        self.weights: dict[str, int] = {}

    def of(self, priority: int, fair: str) -> list[Job]:
        return [it for it in self.jobs if (it.terms.priority, it.rules.fair if it.rules else "") == (priority, fair)]

    def add(self, job: Job, *, fresh: bool) -> None:
        fair, priority = job.rules.fair if job.rules else "", job.terms.priority
        known = any((it.rules.fair if it.rules else "") == fair for it in self.jobs)
        if not known:
            self.weights[fair] = 1 if job.rules is None else job.rules.weight
        if not self.of(priority, fair):
            self.turns.setdefault(priority, []).append([fair, self.weights[fair]])
        if fresh:
            self.weights[fair] = 1 if job.rules is None else job.rules.weight
        self.jobs.append(job)

    def drop(self, job: Job) -> None:
        fair, priority = job.rules.fair if job.rules else "", job.terms.priority
        self.jobs.remove(job)
        if not self.of(priority, fair):
            self.turns[priority] = [turn for turn in self.turns[priority] if turn[0] != fair]

    def take(self) -> int | None:
        if not self.jobs:
            return None
        priority = max(it.terms.priority for it in self.jobs)
        turn = self.turns[priority][0]
        job = min(self.of(priority, turn[0]), key=lambda it: it.number)
        turn[1] -= 1
        if turn[1] <= 0:
            self.turns[priority].append(self.turns[priority].pop(0))
            turn[1] = self.weights[turn[0]]
        self.drop(job)
        return job.number


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fresh", "fresh", "back", "take", "take", "left"]),
        st.sampled_from(sorted(TERMS)),
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 3),
    ),
    max_size=120,
)


@given(STEPS, st.randoms(use_true_random=False))
def test_levels_give_what_a_naive_model_gives(steps: list[tuple[str, int, str, int]], rng: random.Random) -> None:
    """Fresh, back, taken, ended while it waited: the same job is next, whatever priorities, keys and weights."""
    _gives_what_a_naive_model_gives(steps, rng)


FEW_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fresh", "fresh", "fresh", "take", "take", "left", "back"]),
        st.sampled_from([-2, 1, 7]),
        st.sampled_from(["", "", "", *"abcdefgh"]),
        st.just(1),
    ),
    max_size=60,
)


@given(FEW_STEPS, st.randoms(use_true_random=False))
def test_a_few_jobs_have_their_turns_as_many_have(steps: list[tuple[str, int, str, int]], rng: random.Random) -> None:
    """Of different keys, or without any, until there are too many, or two of one key."""
    _gives_what_a_naive_model_gives(steps, rng)


def test_nothing_is_made_for_a_few_jobs() -> None:
    """They stand in the order of their turns; the first that is not as plain makes levels of them."""
    queue, without_key = Queue(), Queue()
    for number, priority in enumerate([1, 7, -2, 7, 1, 0, 7], start=1):
        queue.append(_job(number, priority, f"key {number}"))
        without_key.append(_job(number, priority or 1))
    assert (queue.levels, without_key.levels) == (None, None)
    assert [it.number for it in queue] == [2, 4, 7, 1, 5, 6, 3]
    assert [_before(queue, job) for job in queue] == list(range(7))
    queue.append(_job(8, 7, "key 2"))
    without_key.append(_job(8, 7, "key"))
    assert [queue.take(0).number for _ in range(8)] == [2, 4, 7, 8, 1, 5, 6, 3]
    assert [without_key.take(0).number for _ in range(8)] == [2, 8, 4, 7, 1, 5, 6, 3]


def _gives_what_a_naive_model_gives(steps: list[tuple[str, int, str, int]], rng: random.Random) -> None:
    queue, model, taken, number = Queue(), Naive(), [], 0
    for step, priority, fair, weight in steps:
        if step == "fresh":
            number += 1
            job = _job(number, priority, fair, weight)
            queue.append(job)
            model.add(job, fresh=True)
        elif step == "back" and taken:
            job = taken.pop(rng.randrange(len(taken)))
            queue.came_back(job)
            model.add(job, fresh=False)
        elif step == "take":
            taking = queue.take(0)
            assert (taking.number if taking else None) == model.take()
            if taking:
                taken.append(taking)
        elif step == "left" and model.jobs:
            job = rng.choice(model.jobs)
            job.state = COMPLETED
            queue.left(job)
            model.drop(job)
        assert len(queue) == len(model.jobs)
        assert sorted(it.number for it in queue) == sorted(it.number for it in model.jobs)
    if queue.levels is not None:
        waiting = {it.rules.fair if it.rules else "" for it in model.jobs}
        assert queue.levels._keys.keys() == waiting, "a key is known as long as a job with it waits"
        assert set(queue.levels._by_priority) - {0} == {it.terms.priority for it in model.jobs} - {0}
        assert queue.levels._order == sorted(queue.levels._by_priority)


@given(STEPS, st.randoms(use_true_random=False))
def test_plain_jobs_have_one_turn_among_the_keys(steps: list[tuple[str, int, str, int]], rng: random.Random) -> None:
    """With jobs without a key among them: nobody waits longer than a round, and within a key the oldest is next."""
    queue, waiting, number, since = Queue(), {}, 0, Counter[tuple[int, str]]()
    for step, priority, name, weight in steps:
        fair = "" if name == "c" else name
        if step == "fresh":
            number += 1
            job = waiting[number] = _job(number, priority, fair, weight if fair else 1)
            queue.append(job)
        elif step == "take":
            taken = queue.take(0)
            assert (taken is None) == (not waiting)
            if taken is not None:
                del waiting[taken.number]
                level = taken.terms.priority
                key = level, taken.rules.fair if taken.rules else ""
                others = {(it.terms.priority, it.rules.fair if it.rules else "") for it in waiting.values()}
                assert all(it.terms.priority <= level for it in waiting.values())
                assert all(
                    it.number > taken.number
                    for it in waiting.values()
                    if (it.terms.priority, it.rules.fair if it.rules else "") == key
                )
                since[key] = 0
                for other in others - {key}:
                    since[other] += other[0] == level
                assert all(since[other] <= 3 + 3 for other in others), "two others, three jobs a turn"
        elif step == "left" and waiting:
            job = waiting.pop(rng.choice(list(waiting)))
            job.state = COMPLETED
            queue.left(job)
            since[job.terms.priority, job.rules.fair if job.rules else ""] = 0
    assert len(queue) == len(waiting)


def test_a_key_whose_jobs_wait_one_at_a_time_does_not_keep_plain_jobs_waiting() -> None:
    """Each is the only one of its key when it comes, and another comes before the next turn: still the plain jobs have
    every other turn.
    """
    queue = Queue()
    for number in range(1, 5):
        queue.append(_job(number))
    taken = []
    for number in range(5, 12):
        queue.append(_job(number, fair="a"))
        taken.append(queue.take(0).number)
    assert taken == [1, 5, 2, 6, 3, 7, 4]


@given(st.lists(st.tuples(st.sampled_from(["fresh", "back", "take", "left"]), st.integers(0, 99)), max_size=150))
def test_a_flow_gives_the_oldest_though_a_younger_one_came_back(steps: list[tuple[str, int]]) -> None:
    """A job that waited elsewhere for its moment, and comes back behind older fresh ones, waits behind them."""
    flow, waiting, away, number = Flow(), {}, [], 0
    for step, which in steps:
        if step == "fresh":
            number += 1
            if which % 3:
                job = waiting[number] = _job(number)
                flow.fresh.append(job)
            else:
                away.append(_job(number))
        elif step == "back" and away:
            job = away.pop(which % len(away))
            waiting[job.number] = job
            flow.came_back(job)
        elif step == "take":
            head, job = flow.head(), flow.take()  # type: ignore[assignment]
            assert head is job
            assert (job.number if job else None) == min(waiting, default=None)
            if job:
                away.append(waiting.pop(job.number))
        elif step == "left" and waiting:
            job = waiting.pop(sorted(waiting)[which % len(waiting)])
            job.state = COMPLETED
            flow.left(job)
        assert len(flow) == len(waiting)
        assert {job.number for job in flow} == waiting.keys()


def test_a_fresh_job_that_was_claimed_and_comes_back_waits_once() -> None:
    """A crash had made the broker forget that somebody had it; its place in the FIFO is not left behind."""
    flow = Flow()
    jobs = [_job(number) for number in (1, 2, 3)]
    flow.fresh.extend(jobs)
    flow.left(jobs[1])
    flow.came_back(jobs[1])
    assert len(flow) == len(list(flow)) == 3
    assert [flow.take() for _ in range(4)] == [*jobs, None]


def test_keys_that_nobody_serves_leave_nothing_behind() -> None:
    """Ten thousand jobs of as many keys end while they wait: no flow, no key and no level is left."""
    queue = Queue()
    jobs = [_job(number, 7, f"key {number}") for number in range(1, 10_001)]
    for job in jobs:
        queue.append(job)
    for job in jobs:
        job.state = COMPLETED
        queue.left(job)
    levels = queue.levels
    assert levels is not None
    assert (len(queue), levels._keys, list(levels._by_priority), levels._order) == (0, {}, [0], [0])
    assert queue.take(0) is None
    assert queue.levels is None, "an empty queue is as one that never had a key"


def test_a_take_costs_no_more_for_many_keys_and_jobs() -> None:
    """No walk over flows or jobs: as many steps with ten thousand keys as with ten (counted, not timed)."""

    def steps(keys: int) -> int:
        queue, count = Queue(), 0
        for number in range(keys * 5):
            queue.append(_job(number + 1, 7 if number % 2 else 1, f"key {number % keys}"))

        def tick(*_: Any) -> Any:
            nonlocal count
            count += 1
            return tick

        sys.settrace(tick)
        try:
            for _ in range(20):
                assert queue.take(0) is not None
        finally:
            sys.settrace(None)
        return count

    assert steps(10_000) <= 2 * steps(10)


# --- In the machine


def _names(worker: Any) -> list[str]:
    return [body.decode() for body in worker.got]


def test_higher_priorities_go_first_and_of_the_same_the_oldest(talk: Any) -> None:
    """Whatever was asked for first; jobs that say nothing have 0, and those of 2010 too."""
    it = talk()
    c, old = it.client(), it.client_2010()
    for name, priority in (("low", -1), ("usual", None), ("high", 5), ("zero", 0), ("higher", 6), ("high too", 5)):
        c.submit(name.encode(), priority=priority)
    old.submit(b"2010")
    assert _names(it.worker(credit=9)) == ["higher", "high", "high too", "usual", "zero", "2010", "low"]


def test_a_job_that_comes_back_takes_its_place_by_age_within_its_priority(talk: Any) -> None:
    """A retry goes before the younger ones of its priority and key, and never before a higher priority."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"first", priority=5, fair="a")
    for name in (b"second", b"third"):
        c.submit(name, priority=5, fair="a")
    c.submit(b"top", priority=9)
    w.fail(b"first")
    for _ in range(4):
        w.ask()
    assert _names(w) == ["first", "top", "first", "second", "third"]


def test_a_held_job_that_is_given_back_keeps_its_place(talk: Any) -> None:
    """A hand-over in vain costs no place either."""
    it = talk()
    c, w = it.client(), it.worker("w", credit=2)
    for number in range(4):
        c.submit(b"%d" % number, priority=1, fair="k")
    w.says(Goodbye())
    other = it.worker("v", credit=4)
    assert _names(w) == ["0", "1"]
    assert _names(other) == ["0", "1", "2", "3"]


def test_keys_take_turns_by_their_weights(talk: Any) -> None:
    """A customer with many jobs does not keep another waiting, and who has weight 3 has three a round."""
    it = talk()
    c = it.client()
    for number in range(8):
        c.submit(b"a%d" % number, fair="a", weight=3)
    for number in range(4):
        c.submit(b"b%d" % number, fair="b")
    for number in range(2):
        c.submit(b"-%d" % number)
    got = "".join(name[0] for name in _names(it.worker(credit=14)))
    assert got.replace("-", "") == "aaabaaabaabb"
    assert sorted(got[:10]) == sorted("aaab-aaab-")


def test_who_always_has_one_job_waiting_with_a_key_takes_turns_with_those_without(talk: Any) -> None:
    """As soon as a job of the key is handed over, its client submits another one."""
    it = talk()
    c = it.client()
    for number in range(4):
        c.submit(b"-%d" % number)
    w = it.worker()
    for number in range(8):
        c.submit(b"a%d" % number, fair="a")
        w.ask(1)
    assert _names(w) == ["-0", "a0", "-1", "a1", "-2", "a2", "-3", "a3"]


def test_the_last_weight_said_holds(talk: Any) -> None:
    """Also for the jobs of that key that wait already."""
    it = talk()
    c = it.client()
    w = it.worker()
    for number in range(6):
        c.submit(b"c%d" % number, fair="c", weight=1)
        c.submit(b"d%d" % number, fair="d", weight=2)
    w.ask(12)
    assert "".join(name[0] for name in _names(w)) == "cddcddcddccc"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"priority": 1_001}, "-1000 to 1000"),
        ({"priority": -1_001}, "-1000 to 1000"),
        ({"fair": "x" * 201}, "at most 200"),
        ({"fair": "x", "weight": 0}, "1 to 1000"),
        ({"fair": "x", "weight": 1_001}, "1 to 1000"),
        ({"weight": 2}, "without fair"),
    ],
)
def test_a_place_that_cannot_be_is_refused(talk: Any, fields: dict[str, Any], text: str) -> None:
    """`bad_request`, and the text says what to change; the job is not there."""
    it = talk()
    admitted = it.client().asks(b"job", **fields)
    assert admitted.code == "bad_request"
    assert text in admitted.text
    assert it.machine.open == 0


def test_the_bounds_themselves_may_be_said(talk: Any) -> None:
    """-1000 and 1000, a key of 200 characters, a weight of 1000; many in a message stand on the same terms."""
    it = talk()
    c = it.client()
    assert not c.asks(b"low", priority=-1_000).code
    assert not c.asks(b"high", priority=1_000, fair="x" * 200, weight=1_000).code
    assert [each.code for each in c.submit_many(b"1", b"2", priority=3, fair="y")] == ["", ""]
    assert _names(it.worker(credit=4)) == ["high", "1", "2", "low"]


def test_the_priority_of_a_queue_is_that_of_jobs_that_say_none(talk: Any) -> None:
    """Natively and in the dialect of 2010; what a job says itself goes before it, 0 too."""
    it = talk()
    c, old = it.client(), it.client_2010()
    c.submit(b"before")
    it.machine.set_queue("default", QueueSettings(priority=5))
    for name, priority in ((b"silent", None), (b"zero", 0), (b"high", 6)):
        c.submit(name, priority=priority)
    old.submit(b"2010")
    assert _names(it.worker(credit=5)) == ["high", "silent", "2010", "before", "zero"]


def test_a_waiting_job_ages_and_no_further_than_the_bound(talk: Any) -> None:
    """One priority a second, three at most: then a low job is before a young high one, but never before a higher."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(ageing_ns=1 * S, ageing_max=3))
    c = it.client()
    c.submit(b"old low")
    it.wait(2 * S - 1)
    c.submit(b"young 2", priority=2)
    w = it.worker(credit=1)
    assert w.got == [b"young 2"], "never early"
    it.wait(1)
    c.submit(b"also young 2", priority=2)
    w.ask()
    assert w.got[1:] == [b"old low"], "equals: the oldest"
    c.submit(b"ancient low", priority=-2)
    it.wait(60 * S)
    for name, priority in ((b"young 1", 1), (b"young 3", 3)):
        c.submit(name, priority=priority)
    w.ask(4)
    assert w.got[2:] == [b"also young 2", b"young 3", b"ancient low", b"young 1"]


def test_ageing_holds_for_what_waits_already(talk: Any) -> None:
    """A setting that is changed holds at once."""
    it = talk()
    c = it.client()
    c.submit(b"low")
    it.wait(10 * S)
    c.submit(b"high", priority=5)
    it.machine.set_queue("default", QueueSettings(ageing_ns=1 * S))
    assert it.worker(credit=2).got == [b"low", b"high"]


def test_an_answer_while_it_waits_takes_a_job_out_of_its_flow(talk: Any) -> None:
    """A late answer counts wherever the job waits, and the next one of its key is next."""
    it = talk(timeout_ns=100 * MS)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"one", priority=2, fair="k")
    c.submit(b"two", priority=2, fair="k")
    w.start(b"one")
    it.wait(100 * MS)
    assert it.job(b"one").state == AVAILABLE
    w.complete(b"one")
    w.ask()
    assert _names(w) == ["one", "two"]
    assert c.told() == [(b"one", "completed", b"done")]


def test_a_broker_that_stops_ends_jobs_of_all_priorities_and_keys(talk: Any) -> None:
    """None is forgotten."""
    it = talk()
    c = it.client()
    for number in range(6):
        c.submit(b"%d" % number, priority=number % 3 - 1, fair="k" if number % 2 else "")
    it.stop()
    assert sorted(c.told()) == [(b"%d" % number, "broker_stopped", ()) for number in range(6)]
    assert it.machine.open == 0


def test_a_queue_with_keys_is_gone_when_nobody_uses_it(talk: Any) -> None:
    """The levels of a queue hold nothing that holds the queue."""
    it = talk()
    c, w = it.client(), it.worker(queues=("other",))
    for number in range(3):
        c.submit(b"%d" % number, queue="other", priority=number, fair="k")
    w.ask(3)
    for number in range(3):
        w.complete(b"%d" % number)
    c.receive()
    w.says(Goodbye())
    it.wait(20 * S)  # the last look whether the worker is still heard
    gc.collect()  # a worker and its places know each other
    assert (it.machine.open, it.machine.queues.get("other")) == (0, None)


# --- How many are before


def _before(queue: Any, job: Any) -> int:
    count, cut = queue.before(job)
    assert not cut
    return int(count)


def test_how_many_jobs_are_before_one(talk: Any) -> None:
    """Of plain jobs exactly; else all at higher levels, the older ones of its flow, and of each other flow at its
    level as many as have their turn meanwhile.
    """
    it = talk()
    c = it.client()
    for number in range(6):
        c.submit(b"plain%d" % number)
    before = partial(_before, it.machine.queue)
    assert [before(it.job(b"plain%d" % number)) for number in range(6)] == [0, 1, 2, 3, 4, 5]
    c.says(CancelJob(id=b"plain0".ljust(16, b"-")))
    assert before(it.job(b"plain5")) == 4
    for number in range(3):
        c.submit(b"high%d" % number, priority=5)
        c.submit(b"low%d" % number, priority=-5)
        c.submit(b"key%d" % number, fair="k", weight=2)
    assert [before(it.job(b"high%d" % number)) for number in range(3)] == [0, 1, 2]
    assert [before(it.job(b"plain%d" % number)) for number in (1, 2, 5)] == [3, 3 + 1 + 2, 3 + 4 + 3]
    assert [before(it.job(b"key%d" % number)) for number in range(3)] == [3, 3 + 1, 3 + 2 + 1]
    assert [before(it.job(b"low%d" % number)) for number in range(3)] == [11, 12, 13]
    w = it.worker(credit=3)
    w.hand_back(b"high0")
    it.wait(10 * MS)
    assert before(it.job(b"high0")) == 0


def test_where_many_are_before_one_not_all_are_counted(talk: Any) -> None:
    """Who asks why a job waits waits for a bounded look: of what came back, of keys and of priorities."""
    it = talk()
    c = it.client()
    due = [b"due%d" % number for number in range(BEFORE_LOOKS_MAX + 2)]
    for body in due:
        c.submit(body, delay_ms=1, turn=False)
    it.turn()
    it.wait(10 * MS)
    c.submit(b"fresh")
    queue, before = it.machine.queue, partial(_before, it.machine.queue)
    assert [before(it.job(due[number])) for number in (0, 1, BEFORE_LOOKS_MAX)] == [0, 1, BEFORE_LOOKS_MAX]
    assert queue.before(it.job(due[-1])) == (BEFORE_LOOKS_MAX, True)
    assert queue.before(it.job(b"fresh")) == (BEFORE_LOOKS_MAX, True)
    answer = c.inquire(id=b"fresh".ljust(16, b"-"), why=True)
    assert answer.text.endswith(f"; at least {BEFORE_LOOKS_MAX} jobs are before it")
    for number in range(BEFORE_LOOKS_MAX + 1):
        c.submit(b"key%d" % number, fair=f"k{number}", queue="keys", turn=False)
    c.submit(b"low", priority=-1, queue="keys")
    c.submit(b"high", priority=1, queue="keys")
    keys = it.machine.queues.named("keys")
    assert keys.before(it.job(b"low")) == (BEFORE_LOOKS_MAX, True)
    assert keys.before(it.job(b"high")) == (0, False)
    for number in range(BEFORE_LOOKS_MAX + 1):
        c.submit(b"level%d" % number, priority=number + 1, queue="levels", turn=False)
    c.submit(b"last", priority=-1, queue="levels")
    assert it.machine.queues.named("levels").before(it.job(b"last")) == (BEFORE_LOOKS_MAX, True)


def test_a_weight_holds_from_the_next_round_on(talk: Any) -> None:
    """What the text says: "a round that has begun is ended as it was"."""
    it = talk()
    c = it.client()
    for number in range(8):
        c.submit(b"a%d" % number, fair="a", weight=5)
    for number in range(3):
        c.submit(b"b%d" % number, fair="b")
    c.submit(b"a8", fair="a", weight=1)
    w = it.worker(credit=12)
    assert [body[:1] for body in w.got] == [b"a"] * 5 + [b"b", b"a"] * 3 + [b"a"]


def test_a_position_is_how_many_waited(talk: Any) -> None:
    """What the text says: "those that go after it are counted, too"."""
    it = talk()
    c = it.client()
    c.submit(b"1")
    c.submit(b"2")
    assert c.asks(b"first of all", priority=9).position == 2
