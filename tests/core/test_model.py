"""The machine against a model of it that is slow, small and plain: any sequence of events leads both to the same
place.

The model is a list of jobs and a table of credits. It looks through all of them for everything, knows no queue, no
lanes and no line of workers. Who of several askers gets a job it does not foretell; it checks that whoever got one
had asked, that the oldest waiting job went first, and that nobody got two while another who had asked got none. After
every step a machine that is loaded from what the store has must be the same in all that is persisted.
"""

from __future__ import annotations

import itertools
from collections import Counter as Tally
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relet.core.job import CANCELLED, COMPLETED, DISCARDED, Job
from relet.core.limits import Limits
from relet.core.machine import RECLAIM_NS, Machine
from relet.messages import Answer, Attempt, Peer
from relet.store.memory import MemoryStore
from relet.testing import census

MS = 1_000_000
GRACE = 20 * MS
STEPS = 3
ASKS_PER_WORKER = 4
ASKS = 9


class Told(msgspec.Struct):
    """A job, as the model knows it."""

    number: int
    body: bytes
    turn: int
    state: str = "unsafe"
    attempts: int = 0
    handovers: int = 0
    holder: str = ""
    began: int = 0
    dispatch: int = 0
    token: bytes = b""
    causes: tuple[str, ...] = ()


class AgainstTheModel(RuleBasedStateMachine):
    """Everything that can be done to a machine, in any order."""

    kind = Machine
    drawn = 1

    @initialize(
        tries=st.sampled_from([None, 1, 2, 3]),
        timeout=st.sampled_from([None, 10 * MS, 100 * MS]),
        keeps=st.booleans(),
        handovers=st.sampled_from([2, 5]),
    )
    def begin(self, tries: int | None, timeout: int | None, keeps: bool, handovers: int) -> None:
        self.tries, self.timeout, self.keeps, self.handovers_max = tries, timeout, keeps, handovers
        self.limits = Limits(
            turn_steps_max=STEPS,
            worker_grace_ns=GRACE,
            asks_per_worker_max=ASKS_PER_WORKER,
            asks_max=ASKS,
            handovers_max=handovers,
            kept_jobs_max=5,
        )
        self.machine = self.make(keeps=keeps)
        self.store = MemoryStore()
        self.now = 1_000 * MS
        self.turn = 0
        self.settled = 0
        self.loaded = 0
        self.names = itertools.count(1)
        self.peers: dict[str, Peer] = {}
        self.credit: dict[str, int] = {}
        self.lost: list[tuple[str, int]] = []
        self.jobs: dict[int, Told] = {}
        self.youngest = 0
        self.dispatches = itertools.count(1)
        self.ended: list[tuple[int, int, int]] = []
        self.expected: list[tuple[int, int, int]] = []

    def make(self, *, keeps: bool) -> Machine:
        # The digits that differ come first: an id takes the first half of what is drawn for it.
        drawn = ((b"%016d" % number)[::-1] for number in itertools.count(self.drawn))
        return self.kind(drawn, tries=self.tries, timeout_ns=self.timeout, limits=self.limits, keeps_records=keeps)

    # --- What the model knows

    def open(self, *states: str) -> list[Told]:
        return sorted((job for job in self.jobs.values() if job.state in states), key=lambda job: job.number)

    def ends(self, job: Told, state: int) -> None:
        job.state, job.holder = "final", ""
        self.expected.append((job.number, state, job.attempts))

    def fails(self, job: Told, cause: str) -> None:
        job.causes = (*job.causes, cause)
        job.holder = ""
        if self.tries is not None and job.attempts >= self.tries:
            self.ends(job, DISCARDED)
        else:
            job.state = "waits"

    # --- What is done

    @rule(count=st.integers(1, 4), size=st.integers(0, 3))
    def submit(self, count: int, size: int) -> None:
        before = self.youngest
        bodies = [b"x" * size + b"%d" % (before + index) for index in range(count)]
        self.machine.submit([(Peer(b"client"), b"", body) for body in bodies], self.now)
        for index, body in enumerate(bodies, start=before + 1):
            self.youngest = index
            self.jobs[index] = Told(index, body, self.turn + 1, state="unsafe" if self.keeps else "waits")

    @rule(kind=st.sampled_from(["REQ", "DEALER"]))
    def arrive(self, kind: str) -> None:
        name = f"{kind}{next(self.names)}"
        self.peers[name] = Peer(name.encode(), socket_type=kind)
        self.credit[name] = 0
        self.asks(name, 1)

    @precondition(lambda self: self.peers)
    @rule(data=st.data(), times=st.integers(1, 6))
    def ask(self, data: st.DataObject, times: int) -> None:
        self.asks(data.draw(st.sampled_from(sorted(self.peers))), times)

    def asks(self, name: str, times: int) -> None:
        self.machine.ask([(self.peers[name], b"", b"")] * times, self.now)
        for _ in range(times):
            bound = 1 if name.startswith("REQ") else ASKS_PER_WORKER
            if self.credit[name] < bound and sum(self.credit.values()) < ASKS:
                self.credit[name] += 1

    @precondition(lambda self: self.peers)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.peers)))
        self.machine.lost(self.peers.pop(name), self.now)
        del self.credit[name]
        self.lost.append((name, self.now))

    @rule(data=st.data())
    def match(self, data: st.DataObject) -> None:
        waiting = self.open("waits")
        before = dict(self.credit)
        self.machine.match(self.now)
        jobs, self.machine.dispatched = self.machine.dispatched, []
        got = Tally(self.check_dispatch(job) for job in jobs)
        assert [job.number for job in jobs] == [job.number for job in waiting[: len(jobs)]], "the oldest go first"
        assert len(jobs) == min(len(waiting), sum(before.values())), "no job waits beside an ask"
        for name in before:
            assert got[name] >= max(got.values(), default=0) - 1 or not self.credit[name], f"{name} was passed over"
        failed = [job for job in jobs if data.draw(st.integers(0, 5)) == 0]
        self.machine.undelivered(failed, self.now)
        for job in reversed(failed):  # as the machine does: the oldest comes back to the front last
            self.given_back(self.jobs[job.number])

    def check_dispatch(self, real: Any) -> str:
        name: str = real.holder.peer.routing_id.decode()
        assert self.credit[name] > 0, "no dispatch without an ask"
        self.credit[name] -= 1
        job = self.jobs[real.number]
        assert not job.token or job.token == real.token, "the same id for every attempt"
        assert real.token not in {other.token for other in self.jobs.values() if other is not job}
        job.token, job.state, job.holder, job.began = real.token, "runs", name, self.now
        job.attempts += 1
        job.dispatch = next(self.dispatches)
        assert self.tries is None or job.attempts <= self.tries
        return name

    def given_back(self, job: Told) -> None:
        self.credit[job.holder] = 0
        job.attempts -= 1
        job.handovers += 1
        job.holder, job.state = "", "waits"
        if job.handovers >= self.handovers_max:
            self.ends(job, DISCARDED)

    @rule(data=st.data(), times=st.integers(1, 3), told=st.booleans())
    def answer(self, data: st.DataObject, times: int, told: bool) -> None:
        known = sorted(job.number for job in self.jobs.values() if job.token)
        numbers = data.draw(st.lists(st.sampled_from(known), max_size=times)) if known else []
        refused = self.machine.counters.answers_refused
        garbage = [(b"", b"?"), (b"nobody's", b"?")][: times - 1]
        self.machine.complete([(self.jobs[number].token, b"of %d" % number) for number in numbers] + garbage, self.now)
        valid = 0
        for number in numbers:
            if self.jobs[number].state != "final":
                valid += 1
                self.ends(self.jobs[number], COMPLETED)
        assert self.machine.counters.answers_refused - refused == len(numbers) + len(garbage) - valid
        if not told:
            self.machine.untold(self.machine.finished)
            kept = {job.number: job.answer for job in self.machine.kept}
            assert all(kept[job.number] == job.answer for job in self.machine.finished[-5:])

    @rule(passes=st.sampled_from([0, 1, 5 * MS, 10 * MS, GRACE, 100 * MS, RECLAIM_NS]))
    def expire(self, passes: int) -> None:
        self.now += passes
        due = self.due()
        deadline = self.machine.next_deadline()
        assert not due or (deadline is not None and deadline <= self.now), "a deadline is never late"
        self.machine.expire(self.now)
        for job, cause in due[:STEPS]:
            self.fails(job, cause)

    def due(self) -> list[tuple[Told, str]]:
        running = self.open("runs")
        due = [
            (job, "worker_lost")
            for name, when in self.lost
            if when + GRACE <= self.now
            for job in running
            if job.holder == name
        ]
        lost = {job.number for job, _ in due}
        for job in sorted(running, key=lambda job: job.dispatch):
            lease = self.timeout if self.timeout is not None else RECLAIM_NS if not job.holder else None
            if job.number not in lost and lease is not None and job.began + lease <= self.now:
                due.append((job, "expired"))
        return due

    @precondition(lambda self: self.keeps)
    @rule(turns=st.integers(0, 3))
    def settle(self, turns: int) -> None:
        self.settled = min(self.turn, self.settled + turns)
        self.machine.settled(self.settled)
        for job in self.open("unsafe"):
            if job.turn <= self.settled:
                job.state = "waits"

    @rule(jobs=st.integers(1, 3), sure=st.integers(0, 9))
    def stop(self, jobs: int, sure: int) -> None:
        if sure:
            return
        before = self.machine.open
        assert self.machine.stop(self.now, jobs) == max(0, before - jobs)
        stopped = self.machine.finished[len(self.machine.finished) - min(jobs, before) :] if before else []
        for real in stopped:
            assert real.state == CANCELLED
            self.ends(self.jobs[real.number], CANCELLED)

    @precondition(lambda self: self.keeps)
    @rule(sure=st.integers(0, 5))
    def restart(self, sure: int) -> None:
        """The broker crashes after its last turn was safe; a new one loads what was kept. All peers are gone."""
        if sure:
            return
        self.keep()
        self.seen_finished()
        self.drawn += 1_000_000
        self.machine = self.make(keeps=True)
        self.machine.load(self.store.load(), self.now)
        self.loaded = self.machine.open
        self.youngest = self.machine.number  # what a store has forgotten it cannot count: such numbers come again
        self.jobs = {number: job for number, job in self.jobs.items() if number <= self.youngest}
        self.peers.clear()
        self.credit.clear()
        self.lost.clear()
        for job in self.jobs.values():
            if job.state == "runs":
                job.holder, job.began, job.dispatch = "", self.now, job.number - 1_000_000
            elif job.state == "unsafe":
                job.state = "waits"

    # --- What must be true

    def keep(self) -> None:
        self.turn += 1
        records = self.machine.take_records(self.turn)
        if self.keeps:
            self.store.append(self.turn, records)
        else:
            assert records == []

    def seen_finished(self) -> None:
        for job in self.machine.finished:
            self.ended.append((job.number, job.state, job.attempts))
        self.machine.finished.clear()

    @invariant()
    def the_machine_agrees(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.seen_finished()
        assert self.ended == self.expected, "the same outcomes in the same order, each once"
        real = {job.number: job for job in self.machine.jobs()}
        assert real.keys() == {job.number for job in self.jobs.values() if job.state != "final"}
        for number, job in real.items():
            told = self.jobs[number]
            assert (job.attempts, job.handovers, job.token) == (told.attempts, told.handovers, told.token)
            assert (job.state == 4) == (told.state == "runs")
            assert tuple(entry.cause for entry in job.ledger) == told.causes
        assert self.machine.roster.asks == sum(self.credit.values())
        census.check(self.machine, loaded=self.loaded)

    @invariant()
    def a_loaded_machine_is_the_same(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.keep()
        if self.keeps:
            again = Machine(iter(()), tries=self.tries, timeout_ns=self.timeout, limits=self.limits, keeps_records=True)
            again.load(self.store.load(), self.now)
            assert census.persisted(again) == census.persisted(self.machine)
            census.check(again, loaded=again.open)


AgainstTheModel.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestAgainstTheModel = AgainstTheModel.TestCase


# --- The model must be able to disagree


class GivesUpEarly(Machine):
    """One attempt fewer than allowed."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        terms, tries = job.terms, job.terms.tries
        job.terms = msgspec.structs.replace(terms, tries=tries - 1 if tries is not None and tries > 1 else tries)
        super().attempt_failed(job, cause, now, **said)
        job.terms = terms


class TellsOutOfOrder(Machine):
    """Outcomes of one batch are told backwards."""

    def complete(self, batch: list[Answer], now: int) -> None:
        super().complete(batch[::-1], now)


class ForgetsTokens(Machine):
    """An attempt gets a new id each time."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        super().attempt_failed(job, cause, now, **said)
        self.by_token.pop(job.token, None)
        job.token = b""


class KeepsNoAttempts(Machine):
    """Attempts are not written down."""

    def take_records(self, turn: int) -> Any:
        return [it for it in super().take_records(turn) if not isinstance(it, Attempt)]


class YoungestFirst(Machine):
    """Fresh jobs are dispatched from the wrong end."""

    def match(self, now: int) -> None:
        self.queue.fresh.reverse()
        super().match(now)


class ExpiresALittleEarly(Machine):
    """A nanosecond before its time."""

    def expire(self, now: int) -> None:
        super().expire(now + 5 * MS)


@pytest.mark.parametrize(
    "kind", [GivesUpEarly, TellsOutOfOrder, ForgetsTokens, KeepsNoAttempts, YoungestFirst, ExpiresALittleEarly]
)
def test_the_model_disagrees_with_a_broken_machine(kind: type[Machine]) -> None:
    """A machine with one thing done wrong is found out; a model that agrees with everything shows nothing."""
    broken = type("Broken", (AgainstTheModel,), {"kind": kind})
    few = settings(
        max_examples=1_500,
        stateful_step_count=50,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        report_multiple_bugs=False,  # else it goes on looking for others
    )
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(broken, settings=few)
