"""The simulation must be able to fail: each of these brokers is broken on purpose, and the judge has to notice.

A mutant is the real machine or the real loop with one thing done wrong. It is played in worlds until the judge
objects; a mutant that survives them all shows that the simulation does not see what it is there to see.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from relet.core import job as happened
from relet.core.job import COMPLETED, Job, Reason
from relet.core.machine import Machine
from relet.dialects import d2010
from relet.messages import Answer, Peer, Request
from relet.server import Server
from relet.testing import InvariantBroken, Violation, World
from relet.testing.judge import FALSE_FAILURE, LOST, WRONG

WORLDS = 150


# --- Machines


class ForgetsAJob(Machine):
    """Some job vanishes when another comes back."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        super().attempt_failed(job, cause, now, **said)
        if job.number % 10 == 0:
            self.queue.take()


class ForgetsQuietly(Machine):
    """A job vanishes before it ever was in a queue, and all counts are put right."""

    def submit(self, batch: list[Request], now: int) -> None:
        if self.counters.jobs_accepted > 20 and len(batch) == 1:
            self._number += 1
            return
        super().submit(batch, now)


class GivesUpEarly(Machine):
    """One attempt fewer than allowed."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        tries = self.tries
        self.tries = tries - 1 if tries is not None and tries > 1 else tries
        super().attempt_failed(job, cause, now, **said)
        self.tries = tries


class NeverGivesUp(Machine):
    """One attempt more than allowed."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        tries = self.tries
        self.tries = tries + 1 if tries is not None else tries
        super().attempt_failed(job, cause, now, **said)
        self.tries = tries


class ExpiresEarly(Machine):
    """A millisecond before its time."""

    def expire(self, now: int) -> None:
        super().expire(now + 1_000_000)


class NeverExpires(Machine):
    """Time is never up."""

    def expire(self, now: int) -> None:
        super().expire(-1)


class IgnoresDeaths(Machine):
    """A lost worker keeps its leases."""

    def lost(self, peer: Peer, now: int) -> None:
        for worker in self.roster.lost(peer)[0]:
            self.counters.workers_lost += 1
            worker.jobs.clear()


class NoGrace(Machine):
    """The leases of a lost worker end before the grace is over."""

    def lost(self, peer: Peer, now: int) -> None:
        super().lost(peer, now - self.limits.worker_grace_ns)


class CountsLostHandOvers(Machine):
    """A hand-over that never left costs an attempt all the same."""

    def undelivered(self, jobs: Iterable[Job], now: int) -> None:
        jobs = list(jobs)
        super().undelivered(jobs, now)
        for job in jobs:
            job.attempts += 1


class DispatchesWithoutAnAsk(Machine):
    """A worker is never out of credit."""

    def match(self, now: int) -> None:
        for worker in self.roster:
            if not worker.credit and worker.jobs and len(self.queue):
                self.roster.ask([(worker.peer, worker.path, b"")])
        super().match(now)


class RefusesLateAnswers(Machine):
    """An answer counts only while its job runs."""

    def complete(self, batch: list[Answer], now: int) -> None:
        by_token = self.by_token
        super().complete([it for it in batch if it[0] in by_token and by_token[it[0]].holder is not None], now)


class TakesAnyAnswer(Machine):
    """An answer with a wrong id ends some job."""

    def complete(self, batch: list[Answer], now: int) -> None:
        by_token = self.by_token
        super().complete(
            [it if it[0] in by_token or not by_token else (next(iter(by_token)), it[1]) for it in batch], now
        )


class TellsTwice(Machine):
    """Some outcomes are told two times."""

    def complete(self, batch: list[Answer], now: int) -> None:
        super().complete(batch, now)
        if self.finished and self.finished[-1].number % 7 == 0:
            self.finished.append(self.finished[-1])


class TellsNobody(Machine):
    """Some outcomes are not told."""

    def complete(self, batch: list[Answer], now: int) -> None:
        super().complete(batch, now)
        self.finished = [job for job in self.finished if job.number % 50]


class TellsAnother(Machine):
    """Two outcomes of one turn change places."""

    def complete(self, batch: list[Answer], now: int) -> None:
        super().complete(batch, now)
        if len(self.finished) > 1 and self.finished[-1].state == self.finished[-2].state == COMPLETED:
            one, other = self.finished[-1], self.finished[-2]
            one.answer, other.answer = other.answer, one.answer


class ChangesItsMind(Machine):
    """A job that was answered fails afterwards."""

    def complete(self, batch: list[Answer], now: int) -> None:
        super().complete(batch, now)
        for job in self.finished:
            if job.number % 40 == 0 and job.state == COMPLETED:
                job.state, job.reason = happened.DISCARDED, Reason.TRIES_SPENT.value


class KeepsReturnPaths(Machine):
    """A job that was loaded from a store is told along the routing id of the broker before."""

    def load(self, records: Any, now: int) -> None:
        super().load(records, now)
        for job in self.jobs():
            job.peer = Peer(b"\0\0\0\0\1")


class DispatchesTooSoon(Machine):
    """It does not wait until an acceptance is safe."""

    def take_records(self, turn: int) -> Any:
        self.queue.fresh.extend(self._accepted)
        self._accepted = []
        return super().take_records(turn)


# --- Loops


class ForgetsUndelivered(Server):
    """What could not be sent is taken for sent."""

    def _hand_over(self, now: int) -> None:
        jobs, self.machine.dispatched = self.machine.dispatched, []
        self._workers.send(d2010.dispatches(jobs))


class TellsBeforeItIsSafe(Server):
    """Outcomes leave with the turn, whatever the disk does."""

    def _keep_and_tell(self, now: int) -> None:
        finished, self.machine.finished = self.machine.finished, []
        self._tell(finished)
        super()._keep_and_tell(now)


class StaysPaused(Server):
    """Once its intake was paused, nothing wakes it for new jobs but other news."""

    def turn(self, now: int, wall: int = 0) -> None:
        super().turn(now, wall)
        self.busy = self.busy and not self.paused


class NeverReadsAgain(Server):
    """Once its intake was paused, it stays so."""

    def _receive_requests(self) -> Any:
        if self.paused:
            return []
        return super()._receive_requests()


class ForgetsOutboxes(Server):
    """What a client did not take at once is thrown away."""

    def turn(self, now: int, wall: int = 0) -> None:
        super().turn(now, wall)
        for peer in list(self.outbox._boxes):
            self.outbox.drop(peer)


class NeverRefuses(Server):
    """A request that can never be a job is not answered."""

    def _refuse(self) -> None:
        self._clients.take_refused()
        self._workers.take_refused()


MUTANTS: list[tuple[type[Machine], type[Server], tuple[str, ...]]] = [
    (ForgetsAJob, Server, (WRONG, LOST)),
    (ForgetsQuietly, Server, (LOST,)),
    (GivesUpEarly, Server, (FALSE_FAILURE,)),
    (NeverGivesUp, Server, (WRONG,)),
    (ExpiresEarly, Server, (WRONG, FALSE_FAILURE)),
    (NeverExpires, Server, (LOST, WRONG)),
    (IgnoresDeaths, Server, (LOST, WRONG)),
    (NoGrace, Server, (WRONG, FALSE_FAILURE)),
    (CountsLostHandOvers, Server, (WRONG, FALSE_FAILURE)),
    (DispatchesWithoutAnAsk, Server, (WRONG,)),
    (RefusesLateAnswers, Server, (WRONG, FALSE_FAILURE)),
    (TakesAnyAnswer, Server, (WRONG,)),
    (TellsTwice, Server, (WRONG,)),
    (TellsNobody, Server, (LOST,)),
    (TellsAnother, Server, (WRONG,)),
    (ChangesItsMind, Server, (FALSE_FAILURE, WRONG)),
    (KeepsReturnPaths, Server, (WRONG,)),
    (DispatchesTooSoon, Server, (WRONG,)),
    (Machine, ForgetsUndelivered, (LOST, WRONG)),
    (Machine, TellsBeforeItIsSafe, (WRONG,)),
    (Machine, StaysPaused, (LOST,)),
    (Machine, NeverReadsAgain, (LOST, WRONG)),
    (Machine, ForgetsOutboxes, (LOST,)),
    (Machine, NeverRefuses, (LOST,)),
]


@pytest.mark.parametrize(
    ("machine", "server", "kinds"), MUTANTS, ids=[(m if m is not Machine else s).__name__ for m, s, _ in MUTANTS]
)
def test_a_broken_broker_is_noticed(machine: type[Machine], server: type[Server], kinds: tuple[str, ...]) -> None:
    """Each mutant is caught by the judge or the census within some worlds, and for what it did."""
    for index in range(WORLDS):
        world = World(f"mutants/{index}", machine=machine, server=server)
        caught = _plays(world)
        if caught is not None:
            assert caught.startswith(kinds), f"caught in world {index}, but not for what it did: {caught}"
            return
    pytest.fail(f"{WORLDS} worlds passed with a broken broker: the simulation cannot see this")


def _plays(world: World) -> str | None:
    """What the judge or the census said; None when they saw nothing."""
    try:
        world.play()
    except Violation as violation:
        return str(violation)
    except (InvariantBroken, happened.IllegalTransition) as error:
        return f"{WRONG}: {error}"
    return None


def test_the_census_alone_is_not_what_notices() -> None:
    """A job that vanishes with all counts put right is found by its client, who was never told."""
    caught = [_plays(World(f"mutants/{index}", machine=ForgetsQuietly)) for index in range(20)]
    assert any(text is not None and text.startswith(LOST) for text in caught)
    assert not any(text is not None and text.startswith(WRONG) for text in caught)
