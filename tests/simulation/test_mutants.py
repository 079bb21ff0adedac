"""The simulation must be able to fail: each of these brokers is broken on purpose, and the judge has to notice.

A mutant is the real machine or the real loop with one thing done wrong. It is played in worlds until the judge
objects; a mutant that survives them all shows that the simulation does not see what it is there to see.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from relet.core import job as happened
from relet.core.allowance import allowance
from relet.core.job import COMPLETED, HELD, RUNNING, Cause, Job, Reason
from relet.core.levels import Levels
from relet.core.machine import Machine
from relet.core.reports import Reports
from relet.core.requests import Requests
from relet.core.roster import Session
from relet.core.service import Service
from relet.core.settings import QueueSettings
from relet.dialects import d2010
from relet.messages import (
    Answer,
    Complete,
    Fail,
    HandBack,
    Heartbeat,
    KeyWindow,
    Partial,
    Peer,
    QueueSet,
    Request,
    Submit,
    WorkerHello,
)
from relet.server import Server
from relet.testing import Config, InvariantBroken, Violation, World
from relet.testing.clock import MS
from relet.testing.judge import FALSE_FAILURE, LOST, ORDER, RATE, SECOND_OUTCOME, WRONG
from relet.testing.native_peers import NativeHabits
from relet.testing.policies import Policies
from relet.testing.world import draw

WORLDS = 150

pytestmark = pytest.mark.interpreted


# --- Machines


class ForgetsAJob(Machine):
    """Some job vanishes when another comes back."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        super().attempt_failed(job, cause, now, **said)
        if job.number % 10 == 0:
            self.queue.take(now)


class ForgetsQuietly(Machine):
    """A job vanishes before it ever was in a queue, and all counts are put right."""

    def submit(self, batch: list[Request], now: int) -> None:
        if self.counters.jobs_accepted > 20 and len(batch) == 1:
            self.number += 1
            return
        super().submit(batch, now)


class GivesUpEarly(Machine):
    """One attempt fewer than allowed."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        terms, tries = job.terms, job.terms.tries
        job.terms = msgspec.structs.replace(terms, tries=tries - 1 if tries is not None and tries > 1 else tries)
        super().attempt_failed(job, cause, now, **said)
        job.terms = terms


class NeverGivesUp(Machine):
    """One attempt more than allowed."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        terms, tries = job.terms, job.terms.tries
        job.terms = msgspec.structs.replace(terms, tries=tries + 1 if tries is not None else tries)
        super().attempt_failed(job, cause, now, **said)
        job.terms = terms


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

    def load(self, records: Any, now: int, seal_key: bytes = b"") -> None:
        super().load(records, now, seal_key)
        for job in self.jobs():
            job.peer = Peer(b"\0\0\0\0\1")


class DispatchesTooSoon(Machine):
    """It does not wait until an acceptance is safe."""

    def take_records(self, turn: int) -> Any:
        self.queue.fresh.extend(self._accepted)
        self._accepted = []
        return super().take_records(turn)


# --- Machines that break the rules of native peers


class _OfParts(Machine):
    """A machine with other parts than its own."""

    reports_kind: type[Reports] = Reports
    requests_kind: type[Requests] = Requests

    def __init__(self, *what: Any, **more: Any) -> None:
        super().__init__(*what, **more)
        self.reports = self.reports_kind(self)
        self.requests = self.requests_kind(self)


class IgnoresCredit(Machine):
    """A session is handed one job more than it asked for."""

    def match(self, now: int) -> None:
        for worker in self.roster:
            if isinstance(worker, Session) and not worker.credit and worker.jobs and not worker.away:
                self.roster.grant(worker, worker.granted + 1)
                for place in worker.places:
                    self.stirred[place.queue] = None
        super().match(now)


class CountsHeldJobs(Machine):
    """What was held and not started costs an attempt when its session is lost."""

    def let_again(self, job: Job, cause: Cause, now: int) -> None:
        if job.state == HELD:
            self.start([job], now)
        super().let_again(job, cause, now)


class TakesOldAnswers(Machine):
    """A job that wants its current attempt takes the answer of any."""

    def forget_tokens(self, job: Job) -> None:
        if job.terms.late_any:
            super().forget_tokens(job)

    def renew_token(self, job: Job, *, native: bool) -> None:
        old, terms = job.token, job.terms
        job.terms = self.terms
        super().renew_token(job, native=native)
        job.terms = terms
        self.by_token[old] = job

    def takes_late(self, job: Job, token: bytes) -> bool:
        return True


class SharesTokens(Machine):
    """All hand-overs of a job have one token."""

    def renew_token(self, job: Job, *, native: bool) -> None:
        job.seq = 0


class LosesSessionsEarly(Machine):
    """A session is taken for lost as soon as its connection goes."""

    def lost(self, peer: Peer, now: int) -> None:
        super().lost(peer, now - self.limits.session_grace_ns)


class _DeafReports(Reports):
    def heard(self, session: Session, credit: int, started: int, now: int) -> None:
        before = session.heard_ns
        super().heard(session, credit, started, now)
        session.heard_ns = before


class _ShruggingReports(Reports):
    def _unfit(self, session: Session, said: Complete, job: Job, code: str, text: str, now: int) -> None:
        self.refuse(session, said.n, said.token, code, text)


class LeavesLargeAnswersOpen(_OfParts):
    """An answer that is too large is refused, and its attempt goes on without anybody."""

    reports_kind = _ShruggingReports


class HearsNoHeartbeats(_OfParts):
    """Only reports and hellos count as signs of life."""

    reports_kind = _DeafReports


class ForgetsClaims(_OfParts):
    """What a session says to hold still when it comes back is taken for lost."""

    class _Reports(Reports):
        def hello(self, peer: Peer, path: bytes, said: WorkerHello, now: int) -> Any:
            return super().hello(peer, path, msgspec.structs.replace(said, running=(), held=()), now)

    reports_kind = _Reports


class KeepsWhatIsNotClaimed(_OfParts):
    """What a session does not claim when it comes back stays its own for ever."""

    class _Reports(Reports):
        def _reconcile(self, session: Session, said: WorkerHello, now: int) -> tuple[bytes, ...]:
            tokens = tuple(job.token for job in session.jobs)
            return super()._reconcile(session, msgspec.structs.replace(said, held=(*said.held, *tokens)), now)

    reports_kind = _Reports


class AcknowledgesTooMuch(_OfParts):
    """Reports are acknowledged one ahead."""

    class _Reports(Reports):
        def handed_back(self, session: Session, said: HandBack, now: int) -> None:
            super().handed_back(session, said, now)
            self._machine.acks[session] = said.n + 1

    reports_kind = _Reports


class IgnoresFailures(_OfParts):
    """A worker that says that an attempt failed is not heard."""

    class _Reports(Reports):
        def failed(self, session: Session, said: Fail, now: int) -> None:
            self.partial(session, Partial(token=said.token, n=said.n), b"", now)

    reports_kind = _Reports


class RetriesAtOnce(Machine):
    """When the next attempt may be is nobody's wish."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        super().attempt_failed(job, cause, now, **{**said, "retry_ns": None})


class TriesFinalFailuresAgain(Machine):
    """A failure for good is one as any other."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        super().attempt_failed(job, cause, now, **{**said, "final": False})


class CountsHandBacks(Machine):
    """A job that was handed back has had its attempt."""

    def give_back(self, job: Job, now: int, **how: bool) -> None:
        ran = job.state == RUNNING
        super().give_back(job, now, **how)
        job.attempts += ran


class HandsOverAtOnce(Machine):
    """What a worker gives back before it has started it goes to whoever has asked: to the same one, where nobody else
    has.
    """

    def give_back(self, job: Job, now: int, **how: bool) -> None:
        super().give_back(job, now, **({} if job.state == HELD else how))


class SpendsWhatComesBack(Machine):
    """A job that nobody wants to start is discarded."""

    def may_be_spent(self, job: Job) -> bool:
        return True


class RunsTheClockFromTheHandOver(Machine):
    """The run limit begins when a job is handed over."""

    def start(self, jobs: list[Job], now: int) -> None:
        began = {job.number: job.began_ns for job in jobs}
        super().start(jobs, now)
        for job in jobs:
            if job.timer is self.deadlines and job.ends_ns > now:
                job.ends_ns -= now - began[job.number]
                self.deadline(job, now)


class IgnoresExtensions(Machine):
    """Who asks for more time gets none."""

    def extend(self, job: Job, ends_ns: int, now: int) -> None:
        """Nothing."""


class SilentTooSoon(Machine):
    """Progress is no sign of life of an attempt."""

    def heard_of(self, job: Job, now: int) -> None:
        """Nothing."""


class RunsAgain(_OfParts):
    """Who asks again while the job is open gets another one."""

    class _Requests(Requests):
        def _admit(self, asker: Any, said: Submit, name: bytes, body: Any, now: int) -> Any:
            if said.age_ms:
                self._jobs.pop(name, None)
            return super()._admit(asker, said, name, body, now)

    requests_kind = _Requests


class RefusesForNothing(_OfParts):
    """Some requests are refused as expired."""

    class _Requests(Requests):
        def _refusal(self, *what: Any, **more: Any) -> Any:
            return super()._refusal(*what, **more) or (("expired", "so") if len(self._jobs) == 7 else None)

    requests_kind = _Requests


class DesertsTheLiving(_OfParts):
    """Jobs that are to end with their askers end a moment after they were gone, whether somebody is back or not."""

    class _Requests(Requests):
        def _gone(self, asker: Any, now: int) -> None:
            super()._gone(asker, now - self._limits.asker_grace_ns)

    requests_kind = _Requests


class NeverDeserts(Machine):
    """Jobs go on when nobody waits who wanted them to end then."""

    def desert(self, job: Job, now: int) -> bool:
        return True


class HidesThatItIsAgain(Machine):
    """A broker that knows nothing of what was before does not say so."""

    def accept(self, jobs: list[Job], *more: Any, **how: Any) -> None:
        for job in jobs:
            job.again = False
        super().accept(jobs, *more, **how)


class TellsNoJoined(_OfParts):
    """Only the last who asked for a job is told."""

    class _Requests(Requests):
        def _attach(self, asker: Any, job: Job, name: bytes, **how: bool) -> bool:
            job.askers = ()
            return super()._attach(asker, job, name, **how)

    requests_kind = _Requests


class TellsFollowersToAll(_OfParts):
    """Partial results go to whoever waits."""

    class _Reports(Reports):
        def partial(self, session: Session, said: Partial, body: Any, now: int) -> None:
            job = self._machine.by_token.get(said.token)
            if job is not None:
                job.askers = tuple((asker, name, True) for asker, name, _ in job.askers)
            super().partial(session, said, body, now)

    reports_kind = _Reports


class ServesAnyQueue(_OfParts):
    """A native worker gets jobs of queues that it does not serve."""

    class _Requests(Requests):
        def _admit(self, asker: Any, said: Submit, name: bytes, body: Any, now: int) -> Any:
            admitted = super()._admit(asker, said, name, body, now)
            job = self._jobs.get(name)
            if job is not None and job in self._accepted:
                job.queue = self._machine.queue
            return admitted

    requests_kind = _Requests


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


class ForgetsOutcomes(Server):
    """Outcomes are forgotten when they were told, received or not."""

    def _keep_promises(self, promises: Any, now: int) -> None:
        super()._keep_promises(promises, now)
        requests = self.machine.requests
        for _, _, job in promises.told:
            if requests.outcomes.drop([job]):
                requests._forget(job)


class SkipsNumbers(Server):
    """Outcomes are numbered by more than one."""

    def _keep_promises(self, promises: Any, now: int) -> None:
        for asker, _, _ in promises.told:
            asker.told += 1
        super()._keep_promises(promises, now)


class HidesWhatWasLost(Server):
    """It answers heartbeats as if nothing had been told."""

    def _say(self) -> None:
        said = self.machine.said
        self.machine.said = [(to, Heartbeat() if type(it) is Heartbeat else it, body) for to, it, body in said]
        super()._say()


class CountsWhatItDoesNotTell(Server):
    """It answers heartbeats as if more had been told."""

    def _say(self) -> None:
        for index, (to, it, body) in enumerate(self.machine.said):
            if type(it) is Heartbeat and it.told:
                self.machine.said[index] = to, Heartbeat(told=it.told + 1), body
        super()._say()


class AcknowledgesBeforeItIsSafe(Server):
    """Reports are acknowledged with the turn, whatever the disk does."""

    def _keep_and_tell(self, now: int) -> None:
        acks, self.machine.acks = self.machine.acks, {}
        self._conversation.acknowledge(acks, now)
        super()._keep_and_tell(now)


class NeverRefuses(Server):
    """A request that can never be a job is not answered."""

    def _refuse(self, now: int) -> None:
        self._clients.take_refused()
        self._workers.take_refused()


# --- Machines that break what was agreed about queues and jobs


class IgnoresPauses(Machine):
    """Jobs are given out from queues that are paused."""

    def restore_queue(self, name: str, settings: QueueSettings | None) -> None:
        super().restore_queue(name, settings)
        self.queues.named(name).paused = False


class FillsQueues(_OfParts):
    """Queues take all jobs, however many they may have, and also when they are paused."""

    class _Requests(Requests):
        def _refused_by(self, queue: Any, **how: Any) -> Any:
            return None

    requests_kind = _Requests


class ClosesQueues(_OfParts):
    """Queues are said to be full that are not."""

    class _Requests(Requests):
        def _refused_by(self, queue: Any, **how: Any) -> Any:
            return super()._refused_by(queue, **how) or (("queue_full", "so") if self._machine.open == 7 else None)

    requests_kind = _Requests


class ForgetsSettings(Machine):
    """Settings do not outlive the broker."""

    def load(self, records: Any, now: int, seal_key: bytes = b"") -> None:
        super().load([it for it in records if not isinstance(it, QueueSet)], now, seal_key)


class KeepsOldDefaults(Machine):
    """What a queue says of run limits holds for no job."""

    def restore_queue(self, name: str, settings: QueueSettings | None) -> None:
        super().restore_queue(name, settings)
        self.queues.named(name).terms = None


class IgnoresKinds(Machine):
    """All attempts in vain are alike: nothing bounds those of a kind, and no error is final."""

    def attempt_failed(self, job: Job, cause: Any, now: int, **said: Any) -> None:
        terms = job.terms
        every = {"errors_max": None, "timeouts_max": None, "losses_max": None, "final_kinds": ()}
        job.terms = msgspec.structs.replace(terms, **every)
        super().attempt_failed(job, cause, now, **said)
        job.terms = terms


class NeverPauses(Machine):
    """Whatever the backoff, the next attempt is made at once."""

    def _pause_ns(self, job: Job, now: int) -> int:
        return 0


class PausesByItsOwnDice(Machine):
    """Jitter is not the one that everybody can compute."""

    def _pause_ns(self, job: Job, now: int) -> int:
        pause = super()._pause_ns(job, now)
        return pause * 9 // 10 if job.terms.backoff is not None and job.terms.backoff.jitter else pause


class PausesLess(Machine):
    """What waits for its moment goes on a millisecond before."""

    def expire(self, now: int) -> None:
        for job in self.deadlines.take_expired(now + 1_000_000, 10):
            if job.state == happened.DELAYED:
                happened.due(job)
                self._waits(job, now)
            else:
                self.deadlines.begin(job, job.due_ns)
        super().expire(now)


class IgnoresPriorities(Machine):
    """All jobs are equally urgent."""

    def accept(self, jobs: list[Job], size: int, now: int, **how: bool) -> None:
        for job in jobs:
            job.terms = msgspec.structs.replace(job.terms, priority=0)
        super().accept(jobs, size, now, **how)


class IgnoresKeys(Machine):
    """Who has many jobs is served as if they were many."""

    def accept(self, jobs: list[Job], size: int, now: int, **how: bool) -> None:
        for job in jobs:
            if job.rules is not None:
                job.rules = msgspec.structs.replace(job.rules, fair="")
        super().accept(jobs, size, now, **how)


class IgnoresWeights(Machine):
    """Every key has one job a round."""

    def accept(self, jobs: list[Job], size: int, now: int, **how: bool) -> None:
        for job in jobs:
            if job.rules is not None:
                job.rules = msgspec.structs.replace(job.rules, weight=1)
        super().accept(jobs, size, now, **how)


class _Ageless(Levels):
    __slots__ = ()

    def _aged(self, now: int, ageing_ns: int, ageing_max: int | None) -> Any:
        return self._next(now)


class NeverAges(Machine):
    """Whoever waits, waits."""

    def match(self, now: int) -> None:
        for queue in self.queues:
            if queue.levels is not None:
                queue.levels.__class__ = _Ageless
        super().match(now)


class _Ancient(Levels):
    __slots__ = ()

    def _aged(self, now: int, ageing_ns: int, ageing_max: int | None) -> Any:
        return super()._aged(now, ageing_ns, None)


class AgesForEver(Machine):
    """Nothing bounds what a job gains by waiting."""

    def match(self, now: int) -> None:
        for queue in self.queues:
            if queue.levels is not None:
                queue.levels.__class__ = _Ancient
        super().match(now)


class StartsTooLate(Machine):
    """Nothing must have started by some moment."""

    def accept(self, jobs: list[Job], size: int, now: int, **how: bool) -> None:
        for job in jobs:
            if job.terms.start_ns is not None:
                job.terms = msgspec.structs.replace(job.terms, start_ns=None)
        super().accept(jobs, size, now, **how)


class RunsTooLong(Machine):
    """A running job ends by no deadline."""

    def deadline(self, job: Job, now: int) -> None:
        terms = job.terms
        job.terms = msgspec.structs.replace(terms, total_ns=None)
        super().deadline(job, now)
        job.terms = terms


class EndsTooSoon(Machine):
    """Deadlines count from when a job was first asked for: here, from a moment before."""

    def accept(self, jobs: list[Job], size: int, now: int, **how: bool) -> None:
        for job in jobs:
            if job.terms.total_ns is not None:
                total_ns = job.terms.total_ns - 2_000_000
                job.terms = msgspec.structs.replace(job.terms, total_ns=max(total_ns, job.terms.takes_ns + 1))
        super().accept(jobs, size, now, **how)


class MistakesItsDeadlines(Machine):
    """A job that has not started ends by its deadline, or so it is said."""

    def missed(self, job: Job, now: int) -> None:
        self.leave(job, "deadline")
        happened.deadline_passed(job, Reason.DEADLINE, now)
        self._discarded(job)


class NeverDelays(Machine):
    """Every job may start at once."""

    def accept(self, jobs: list[Job], size: int, now: int, **how: bool) -> None:
        for job in jobs:
            if job.state == happened.DELAYED:
                job.state, job.due_ns = happened.AVAILABLE, 0
        super().accept(jobs, size, now, **how)


class IgnoresOrderKeys(Machine):
    """Jobs of one order key go as all others do."""

    def accept(self, jobs: list[Job], size: int, now: int, **how: bool) -> None:
        for job in jobs:
            if job.rules is not None and job.state != happened.BLOCKED:
                job.rules = msgspec.structs.replace(job.rules, order="")
        super().accept(jobs, size, now, **how)


class TurnsOrdersAround(Machine):
    """Of the jobs behind one of their order key the youngest is the next."""

    def _goes_on(self, job: Job, now: int) -> None:
        order = job.queue.orders.get(job)
        if order is not None and len(order.waiting) and order.first is job:
            last = max(order.waiting, key=lambda it: it.number)
            order.waiting.drop(last)
            order.waiting.put(job)
            order.first = job = last
        super()._goes_on(job, now)


class NeverBlocks(Machine):
    """A dead letter keeps nobody waiting."""

    def _orders_go_on(self, ended: Iterable[Job]) -> None:
        jobs = list(ended)
        for job in jobs:
            job.terms = msgspec.structs.replace(job.terms, skips=True)
        super()._orders_go_on(jobs)


class RedrivesBehind(_OfParts):
    """What is made of a dead letter that blocked its key goes behind all others."""

    class _Requests(Requests):
        def redrive(self, old: Job, now: int) -> Any:
            job = super().redrive(old, now)
            if isinstance(job, Job) and job.rules is not None:
                job.rules = msgspec.structs.replace(job.rules, place=0)
            return job

    requests_kind = _Requests


class _Lenient(Machine):
    """Queues have other limits than their settings say."""

    def lenient(self, settings: QueueSettings) -> dict[str, Any]:
        """What is different."""
        raise NotImplementedError

    def restore_queue(self, name: str, settings: QueueSettings | None) -> None:
        super().restore_queue(name, settings)
        if settings is not None:
            self.queues.named(name).allow(allowance(msgspec.structs.replace(settings, **self.lenient(settings))))


class OverfillsWorkers(_Lenient):
    """One more job of a queue is with workers than may be."""

    def lenient(self, settings: QueueSettings) -> dict[str, Any]:
        """That."""
        return {"in_flight_max": settings.in_flight_max and settings.in_flight_max + 1}


class OverfillsKeys(_Lenient):
    """One more job of a fairness key is with workers than may be."""

    def lenient(self, settings: QueueSettings) -> dict[str, Any]:
        """That."""
        return {"key_in_flight_max": settings.key_in_flight_max and settings.key_in_flight_max + 1}


class HurriesQueues(_Lenient):
    """A tenth more jobs go a second than may go."""

    def lenient(self, settings: QueueSettings) -> dict[str, Any]:
        """That."""
        return {"rate": settings.rate and settings.rate * 1.1}


class HurriesKeys(_Lenient):
    """A tenth more jobs of a key go a second than may go."""

    def lenient(self, settings: QueueSettings) -> dict[str, Any]:
        """That."""
        return {"key_rate": settings.key_rate and settings.key_rate * 1.1}


class ServesQueuesAlike(_OfParts):
    """Whatever a worker said of its queues, they all have a turn each."""

    class _Reports(Reports):
        def hello(self, peer: Peer, path: bytes, said: WorkerHello, now: int) -> Any:
            said = msgspec.structs.replace(said, weights=(1,) * len(said.weights))
            return super().hello(peer, path, said, now)

    reports_kind = _Reports


class CancelsForAll(_OfParts):
    """Who cancels ends the job, whoever else waits for it."""

    class _Requests(Requests):
        def _withdraw(self, asker: Any, job: Job, name: bytes, now: int) -> bool:
            mine = any(it[0] is asker and name in (b"", it[1]) for it in job.askers)
            self._machine.cancel(job, Reason.CANCELLED, now)
            return mine

    requests_kind = _Requests


class CancelsNothing(Machine):
    """A job that was cancelled goes on."""

    def cancel(self, job: Job, reason: Reason, now: int) -> None:
        """Nothing."""


class LetsTheCancelledRun(Machine):
    """Who has a job that was cancelled is not told."""

    def leave(self, job: Job, why: str) -> None:
        super().leave(job, "" if why == "cancelled" else why)


class YoungestFirst(Machine):
    """Who comes last is served first."""

    def match(self, now: int) -> None:
        for queue in self.queues:
            queue.fresh.rotate(1)
        super().match(now)


class TurnsQueuesAround(Machine):
    """A session that serves several queues gets from the last one first."""

    def arrived(self, worker: Any) -> None:
        super().arrived(worker)
        if isinstance(worker.service, Service):
            worker.service.__class__ = LastFirst


class LastFirst(Service):
    """What serves the last queue first."""

    __slots__ = ()

    def take(self, now: int) -> Job | None:
        for queue in reversed(self.queues):
            if (job := queue.take(now)) is not None:
                return job
        return None


class IgnoresUniqueKeys(_OfParts):
    """Every request is a job of its own."""

    class _Requests(Requests):
        def _holder(self, said: Submit, principal: str, now: int) -> Any:
            return None

    requests_kind = _Requests


class SharesKeysBetweenQueues(_OfParts):
    """A key that is taken in one queue is taken in all of them."""

    class _Requests(Requests):
        def _holder(self, said: Submit, principal: str, now: int) -> Any:
            everywhere = [job for (_, _, key), job in self.uniques.live.items() if key == said.unique]
            return super()._holder(said, principal, now) or next(iter(everywhere), None)

    requests_kind = _Requests


class KeysOutliveTheirJobs(_OfParts):
    """The key of a job that has failed is taken for a while, as if it had been done."""

    class _Requests(Requests):
        def _key_is_free(self, job: Job) -> None:
            state, job.state = job.state, COMPLETED
            super()._key_is_free(job)
            job.state = state

    requests_kind = _Requests


class ReplacesWhatRuns(_OfParts):
    """A job that a worker has is replaced, too."""

    class _Requests(Requests):
        def _holder(self, said: Submit, principal: str, now: int) -> Any:
            job = super()._holder(said, principal, now)
            if said.unique_mode == "replace" and isinstance(job, Job) and job.state in (HELD, RUNNING):
                rules: Any = job.rules
                job.rules = msgspec.structs.replace(rules, replaced_by=bytes(16))
                self._machine.cancel(job, Reason.REPLACED, now)
                return None
            return job

    requests_kind = _Requests


class ReplacesQuietly(Machine):
    """Who is replaced hears that its job was cancelled."""

    def cancel(self, job: Job, reason: Reason, now: int) -> None:
        super().cancel(job, Reason.CANCELLED, now)


class ReplacedByNobody(_OfParts):
    """Who is replaced does not hear by which job."""

    class _Requests(Requests):
        def _takes_key(self, job: Job, said: Submit, other: Any, now: int) -> None:
            super()._takes_key(job, said, other, now)
            if isinstance(other, Job) and other.rules is not None:
                other.rules = msgspec.structs.replace(other.rules, replaced_by=b"")

    requests_kind = _Requests


class ReplacesTheJoined(_OfParts):
    """Who asks to join takes the place of what waits."""

    class _Requests(Requests):
        def _admit(self, asker: Any, said: Submit, name: bytes, body: Any, now: int) -> Any:
            if said.unique_mode == "join":
                said = msgspec.structs.replace(said, unique_mode="replace")
            return super()._admit(asker, said, name, body, now)

    requests_kind = _Requests


class ForgetsWhoJoined(_OfParts):
    """Who has joined a job is not told its outcome."""

    class _Requests(Requests):
        def ended(self, jobs: list[Job]) -> None:
            for job in jobs:
                job.askers = tuple(it for it in job.askers if it[1] == job.request)
            super().ended(jobs)

    requests_kind = _Requests


class DropsWhatOneReceived(_OfParts):
    """The outcome of a job that several share is forgotten when one of them has it."""

    class _Requests(Requests):
        def received(self, asker: Any, number: int) -> None:
            for told, job in asker.unreceived:
                if told <= number:
                    job.unreceived, job.orphans = 1, 0
            super().received(asker, number)

    requests_kind = _Requests


class CutsWindows(_OfParts):
    """A key is free a millisecond too soon."""

    class _Requests(Requests):
        def _holder(self, said: Submit, principal: str, now: int) -> Any:
            return super()._holder(said, principal, now) if self._is_live(said) else None

        def _is_live(self, said: Submit) -> bool:
            held = said.queue, "", said.unique
            window = self.uniques.windows.get(held)
            return held in self.uniques.live or (window is not None and window.until_ns > self._later)

        def submit(self, asker: Any, said: Submit, body: Any, now: int) -> None:
            self._later = now + 1_000_000
            super().submit(asker, said, body, now)

    requests_kind = _Requests


class ExtendsWindows(_OfParts):
    """A key is taken for a millisecond too long."""

    class _Requests(Requests):
        def _key_is_free(self, job: Job) -> None:
            rules = job.rules
            if rules is not None and rules.unique_ns:
                job.rules = msgspec.structs.replace(rules, unique_ns=rules.unique_ns + 1_000_000)
            super()._key_is_free(job)
            job.rules = rules

    requests_kind = _Requests


class ForgetsKeysAtItsEnd(_OfParts):
    """What is loaded from a store has no key."""

    class _Requests(Requests):
        def restore(self, job: Job) -> None:
            super().restore(job)
            self.uniques.live.clear()

    requests_kind = _Requests


class ForgetsWindowsAtItsEnd(Machine):
    """Windows do not outlive the broker."""

    def load(self, records: Any, now: int, seal_key: bytes = b"") -> None:
        super().load([it for it in records if not isinstance(it, KeyWindow)], now, seal_key)


OF_2010: list[tuple[type[Machine], type[Server], tuple[str, ...]]] = [
    (ForgetsAJob, Server, (WRONG, LOST)),
    (ForgetsQuietly, Server, (LOST, WRONG)),
    (GivesUpEarly, Server, (FALSE_FAILURE,)),
    (NeverGivesUp, Server, (WRONG,)),
    (ExpiresEarly, Server, (WRONG, FALSE_FAILURE)),
    (NeverExpires, Server, (LOST, WRONG)),
    (IgnoresDeaths, Server, (LOST, WRONG)),
    (NoGrace, Server, (WRONG, FALSE_FAILURE)),
    (CountsLostHandOvers, Server, (WRONG, FALSE_FAILURE)),
    (DispatchesWithoutAnAsk, Server, (WRONG,)),
    (RefusesLateAnswers, Server, (WRONG, FALSE_FAILURE)),
    (TakesAnyAnswer, Server, (WRONG, FALSE_FAILURE)),  # garbage may be an empty frame, which means failure
    (TellsTwice, Server, (SECOND_OUTCOME,)),
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
"""Played in worlds of 2010."""
OF_NATIVE: list[tuple[type[Machine], type[Server], tuple[str, ...]]] = [
    (IgnoresCredit, Server, (WRONG,)),
    (CountsHeldJobs, Server, (WRONG, FALSE_FAILURE)),
    (TakesOldAnswers, Server, (WRONG,)),
    (SharesTokens, Server, (WRONG,)),
    (LosesSessionsEarly, Server, (WRONG,)),
    (HearsNoHeartbeats, Server, (WRONG,)),
    (ForgetsClaims, Server, (WRONG, FALSE_FAILURE)),
    (KeepsWhatIsNotClaimed, Server, (WRONG, LOST)),
    (AcknowledgesTooMuch, Server, (WRONG,)),
    (IgnoresFailures, Server, (WRONG,)),
    (RetriesAtOnce, Server, (WRONG,)),
    (TriesFinalFailuresAgain, Server, (WRONG,)),
    (CountsHandBacks, Server, (WRONG, FALSE_FAILURE)),
    (HandsOverAtOnce, Server, (WRONG, FALSE_FAILURE)),
    (SpendsWhatComesBack, Server, (FALSE_FAILURE, WRONG)),
    (RunsTheClockFromTheHandOver, Server, (WRONG, FALSE_FAILURE)),
    (LeavesLargeAnswersOpen, Server, (WRONG,)),
    (SilentTooSoon, Server, (WRONG, FALSE_FAILURE)),
    (RunsAgain, Server, (WRONG,)),
    (RefusesForNothing, Server, (WRONG,)),
    (DesertsTheLiving, Server, (FALSE_FAILURE,)),
    (NeverDeserts, Server, (WRONG,)),
    (HidesThatItIsAgain, Server, (WRONG,)),
    (TellsNoJoined, Server, (LOST, WRONG)),
    (TellsFollowersToAll, Server, (WRONG,)),
    (ServesAnyQueue, Server, (WRONG,)),
    (Machine, ForgetsOutcomes, (WRONG,)),
    (Machine, SkipsNumbers, (LOST,)),
    (Machine, HidesWhatWasLost, (WRONG,)),
    (Machine, CountsWhatItDoesNotTell, (LOST, WRONG)),
    (Machine, AcknowledgesBeforeItIsSafe, (WRONG,)),
]
"""Played in worlds with native peers."""
OF_POLICIES: list[tuple[type[Machine], type[Server], tuple[str, ...]]] = [
    (IgnoresPauses, Server, (WRONG,)),
    (FillsQueues, Server, (WRONG,)),
    (ClosesQueues, Server, (WRONG,)),
    (ForgetsSettings, Server, (WRONG,)),
    (KeepsOldDefaults, Server, (WRONG, FALSE_FAILURE)),
    (IgnoresKinds, Server, (WRONG,)),
    (NeverPauses, Server, (WRONG,)),
    (PausesByItsOwnDice, Server, (WRONG,)),
    (PausesLess, Server, (WRONG,)),
    (IgnoresPriorities, Server, (WRONG,)),
    (IgnoresKeys, Server, (WRONG, RATE)),
    (IgnoresWeights, Server, (WRONG,)),
    (NeverAges, Server, (WRONG,)),
    (AgesForEver, Server, (WRONG,)),
    (IgnoresOrderKeys, Server, (ORDER,)),
    (TurnsOrdersAround, Server, (ORDER, WRONG)),
    (NeverBlocks, Server, (ORDER,)),
    (RedrivesBehind, Server, (ORDER, WRONG)),
    (OverfillsWorkers, Server, (RATE,)),
    (OverfillsKeys, Server, (RATE,)),
    (HurriesQueues, Server, (RATE,)),
    (HurriesKeys, Server, (RATE,)),
    (StartsTooLate, Server, (WRONG, LOST)),
    (RunsTooLong, Server, (WRONG,)),
    (EndsTooSoon, Server, (WRONG, FALSE_FAILURE)),
    (MistakesItsDeadlines, Server, (FALSE_FAILURE,)),
    (NeverDelays, Server, (WRONG,)),
    (CancelsForAll, Server, (WRONG, FALSE_FAILURE)),
    (CancelsNothing, Server, (WRONG, LOST)),
    (LetsTheCancelledRun, Server, (WRONG,)),
    (YoungestFirst, Server, (WRONG,)),
    (TurnsQueuesAround, Server, (WRONG,)),
    (IgnoresUniqueKeys, Server, (WRONG,)),
    (SharesKeysBetweenQueues, Server, (WRONG,)),
    (KeysOutliveTheirJobs, Server, (WRONG,)),
    (ReplacesWhatRuns, Server, (WRONG,)),
    (ReplacesQuietly, Server, (WRONG, FALSE_FAILURE)),
    (ReplacedByNobody, Server, (WRONG,)),
    (ReplacesTheJoined, Server, (WRONG,)),
    (ForgetsWhoJoined, Server, (LOST, WRONG)),
    (DropsWhatOneReceived, Server, (WRONG,)),
    (CutsWindows, Server, (WRONG,)),
    (ExtendsWindows, Server, (WRONG,)),
    (ForgetsKeysAtItsEnd, Server, (WRONG,)),
    (ForgetsWindowsAtItsEnd, Server, (WRONG,)),
]
"""Played in worlds with policies."""
MUTANTS = [*OF_2010, *OF_NATIVE, *OF_POLICIES]

SEEN_IN: dict[type[Machine | Server], int] = {
    KeepsReturnPaths: 38,
    AcknowledgesTooMuch: 2,
    IgnoresFailures: 5,
    RetriesAtOnce: 10,
    TriesFinalFailuresAgain: 5,
    CountsHandBacks: 5,
    CountsLostHandOvers: 4,
    LeavesLargeAnswersOpen: 25,
    SilentTooSoon: 54,
    DesertsTheLiving: 94,
    NeverDeserts: 60,
    HidesThatItIsAgain: 7,
    TellsNoJoined: 90,
    SpendsWhatComesBack: 21,
    TellsFollowersToAll: 8,
    ServesAnyQueue: 12,
    NeverReadsAgain: 1,
    SkipsNumbers: 14,
    StaysPaused: 344,
    ClosesQueues: 15,
    ForgetsSettings: 37,
    NeverPauses: 12,
    PausesByItsOwnDice: 12,
    PausesLess: 4,
    IgnoresPriorities: 15,
    IgnoresKeys: 20,
    IgnoresWeights: 1130,
    NeverAges: 78,
    AgesForEver: 48,
    TurnsOrdersAround: 8,
    RedrivesBehind: 438,
    NeverBlocks: 7,
    OverfillsWorkers: 7,
    OverfillsKeys: 24,
    HurriesKeys: 68,
    CancelsForAll: 4,
    CancelsNothing: 4,
    LetsTheCancelledRun: 4,
    TurnsQueuesAround: 54,
    HandsOverAtOnce: 5,
    IgnoresOrderKeys: 7,
    StartsTooLate: 7,
    MistakesItsDeadlines: 5,
    IgnoresUniqueKeys: 4,
    SharesKeysBetweenQueues: 20,
    KeysOutliveTheirJobs: 4,
    ReplacesWhatRuns: 10,
    ReplacesQuietly: 20,
    ReplacedByNobody: 20,
    ReplacesTheJoined: 4,
    ForgetsWhoJoined: 4,
    DropsWhatOneReceived: 4,
    CutsWindows: 4,
    ExtendsWindows: 4,
    ForgetsKeysAtItsEnd: 27,
    ForgetsWindowsAtItsEnd: 129,
}
"""What is not seen in the first worlds, or slowly, is looked for from this world on, where it was seen. A world is
another one whenever the simulation draws otherwise: the search then goes on to where the mutant is seen now, says where
that is (`pytest -rP`), and is as long as it is."""


@pytest.mark.parametrize(
    ("machine", "server", "kinds"), MUTANTS, ids=[(m if m is not Machine else s).__name__ for m, s, _ in MUTANTS]
)
def test_a_broken_broker_is_noticed(machine: type[Machine], server: type[Server], kinds: tuple[str, ...]) -> None:
    """Each mutant is caught by the judge or the census within some worlds, and for what it did."""
    first = SEEN_IN.get(server if machine is Machine else machine, 0)
    for index in range(first, first + WORLDS):
        caught = _plays(_world(index, machine, server))
        if caught is not None:
            print(f"seen in world {index}")
            assert caught.startswith(kinds), f"caught in world {index}, but not for what it did: {caught}"
            return
    pytest.fail(f"{WORLDS} worlds passed with a broken broker: the simulation cannot see this")


def _world(index: int, machine: type[Machine], server: type[Server]) -> World:
    """A world in which the mutant has something to do wrong."""
    seed = f"mutants/{index}"
    kinds: tuple[str, ...] = ("2010",)
    for mutants, theirs in ((OF_NATIVE, ("native", "both")), (OF_POLICIES, ("policies",))):
        if any((machine, server) == (it, other) for it, other, _ in mutants):
            kinds = theirs
    return World(seed, draw(random.Random(seed), *kinds), machine=machine, server=server)


def _plays(world: World) -> str | None:
    """What the judge or the census said; None when they saw nothing."""
    try:
        world.play()
    except Violation as violation:
        return str(violation)
    except (InvariantBroken, happened.IllegalTransition) as error:
        return f"{WRONG}: {error}"
    return None


def test_a_worker_that_is_served_by_other_weights_is_noticed() -> None:
    """Where it serves two queues that both have something all the time; in other worlds that is rare."""
    config = Config(
        jobs=400,
        req_clients=0,
        dealer_clients=0,
        req_workers=0,
        dealer_workers=0,
        native_clients=4,
        native_window=15,
        native_workers=3,
        native_ahead=0,
        think_ns=0,
        queues=("default", "mail"),
        policies=Policies(weights=(1, 10)),
    )
    for index in range(5):
        assert _plays(World(f"weights/{index}", msgspec.structs.replace(config))) is None
    caught = [
        _plays(World(f"weights/{index}", msgspec.structs.replace(config), machine=ServesQueuesAlike))
        for index in range(5)
    ]
    assert any(text is not None and "weight" in text for text in caught), caught


class PlainJobsWait(Machine):
    """Who comes with a fairness key when nobody else has one goes before those who wait without."""

    def match(self, now: int) -> None:
        for queue in self.queues:
            if queue.levels is not None and queue.levels.count == 1:
                queue.levels._zero.line.pop(queue.plain, None)
        super().match(now)


def test_plain_jobs_that_have_no_turns_are_noticed() -> None:
    """Where most jobs have one key, and few wait at a time."""
    config = Config(
        jobs=100,
        req_clients=0,
        dealer_clients=0,
        req_workers=0,
        dealer_workers=0,
        native_clients=3,
        native_window=1,
        native_workers=1,
        native_ahead=0,
        think_ns=0,
        policies=Policies(fair={"a": 1, "": 1}),
    )
    assert _plays(World("plain jobs", msgspec.structs.replace(config))) is None
    caught = _plays(World("plain jobs", config, machine=PlainJobsWait))
    assert caught is not None
    assert "while '' waited" in caught


def test_a_worker_that_gets_no_more_time_is_noticed() -> None:
    """Where work takes about as long as it may; in other worlds an extension is rarely what saves an attempt."""
    config = Config(
        jobs=200,
        tries=None,
        timeout_ns=30 * MS,
        req_clients=0,
        dealer_clients=0,
        req_workers=0,
        dealer_workers=0,
        native_clients=2,
        native_workers=4,
        native_habits=NativeHabits(extends=0.5, work_ns=40 * MS),
    )
    assert _plays(World("extensions", msgspec.structs.replace(config))) is None
    caught = _plays(World("extensions", config, machine=IgnoresExtensions))
    assert caught is not None
    assert "ended by expired before it was over" in caught


class BoundsNoWorker(Machine):
    """A worker may have as many jobs as it likes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.roster._jobs_per_worker_max = 1_000_000


def test_a_worker_that_has_more_jobs_than_it_may_is_noticed() -> None:
    """Where that are two; in other worlds nobody comes near the bound."""

    def played(index: int, machine: type[Machine]) -> str | None:
        seed = f"jobs of a worker/{index}"
        config = draw(random.Random(seed), "native")
        config.limits = msgspec.structs.replace(config.limits, jobs_per_worker_max=2)
        return _plays(World(seed, config, machine=machine))

    assert [played(index, Machine) for index in range(5)] == [None] * 5
    caught = [played(index, BoundsNoWorker) for index in range(5)]
    assert any(text is not None and "beyond its credit" in text for text in caught), caught


def test_the_census_alone_is_not_what_notices() -> None:
    """A job that vanishes with all counts put right is found by its client, who was never told, or because jobs go
    before it that came after it.
    """
    caught = [_plays(_world(index, ForgetsQuietly, Server)) for index in range(20)]
    assert any(text is not None and text.startswith(LOST) for text in caught)
    assert all(text is None or text.startswith(LOST) or "waited, which is older" in text for text in caught)
