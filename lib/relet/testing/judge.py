"""The judge: what the broker owes, worked out from what passed its endpoints, and whether it was paid.

The judge reads along at the borders of the loop - every request, ask and answer as the broker reads it, every message
as it sends it, every loss as it hears of it - and keeps its own small account of each job. It shares no code with the
machine. A job is known by the first frame of its body, which is different for every request.

Native peers are judged in `judged_sessions` (workers) and `judged_requests` (clients), on the same account of jobs.
The loop reads everything first and lets the machine hear it in a fixed order; so does the judge: workers, then who has
gone, then answers, then clients, message by message, each when the machine announces that it hears it. What follows
from a message alone, the judge works out itself and *expects*; what a clock ends, the machine announces when it does
it - an attempt that failed, a hand-over that was given back, a session that was lost - and the judge checks that a rule
holds. What is not announced has not happened: the job is still where it was.

**Lost** is a job for which one of these is true when the world is over, its faults having stopped and simulated time
gone on until nothing more happened or the limit of the world was reached:

- the broker has read its request and it has no outcome;
- it has an outcome, its client's connection has lasted from the request to the end, the client reads, and it was not
  told;
- its request was sent on a connection that lasted to the end, and nothing was heard of it (read or not).

Not lost: a request that went with its connection before the broker read it; a job whose client's connection has gone
(nobody else may be told, but it must still end); a reply dropped from a full outbox, if the broker counted it as
`reply_dropped`; in a broker without a store, whatever was open when it crashed; with a store, what was not safe then.

**A false failure** is a failure, decided by the machine or told to a client, where none of these rules holds:

- as many attempts were counted as there are tries, and the last one is over: its time was up, or its worker was lost
  and the grace is over. An attempt counts when the hand-over was sent, or, of a worker that says when it starts, from
  there; one whose send failed does not;
- as many hand-overs came to nothing as `Limits.handovers_max` allows; of those that a living worker gave back before it
  had started, recalled or not, half as many count at most, and none comes again at once that was not recalled;
- its worker said that it has failed for good;
- it was to end with its askers, and all of them have been away for the grace;
- the broker had been stopped; or it was draining, or the request was too large to be a job, when the request was
  read.

**Wrong** is everything else that must never happen; each is said by name where it is found.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from relet.core.job import DELAYED, DISCARDED, Cause, Job, Reason
from relet.core.job import HELD as JOB_HELD
from relet.core.job import RUNNING as JOB_RUNNING
from relet.core.limits import Limits
from relet.core.machine import RECLAIM_NS
from relet.core.roster import Session, Worker
from relet.core.settings import QueueSettings
from relet.events import Event
from relet.messages import (
    SIGNATURE,
    Accepted,
    Attempt,
    Body,
    Finished,
    Gone,
    JobBody,
    Native,
    Path,
    Peer,
    QueueSet,
    Records,
    Refused,
    Shared,
    body_bytes,
)
from relet.testing import judged_terms as terms
from relet.testing.claims import (
    ANSWERED,
    FAILED,
    FALSE_FAILURE,
    GONE,
    HELD,
    LOST,
    NEVER,
    ORDER,
    RATE,
    RUNS,
    SECOND_OUTCOME,
    TOKENS_MAX,
    WAITS,
    WRONG,
    Claim,
    Named,
    Violation,
    in_memory,
    key_of,
)
from relet.testing.judged_keys import Keys
from relet.testing.judged_lines import Lines
from relet.testing.judged_requests import Requests
from relet.testing.judged_sessions import NEVER_BEGUN, RETURNED, Heard, Sessions
from relet.testing.network import Wire

__all__ = ["FALSE_FAILURE", "LOST", "ORDER", "RATE", "SECOND_OUTCOME", "WRONG", "Judge", "Violation"]

DEADLINE_SLACK_NS: Final = 2_000_000_000
"""How long after its deadline a job may be open: steps are bounded, and nothing ends while answers lie unread."""
WALL_NS: Final = 1_000_000_000_000_000_000
"""When every world begins, nanoseconds since 1970."""
WALL_STEP_NS: Final = 1_000_000
"""A store keeps moments in milliseconds."""


class Judge:
    """Witness of one world (`network.Witness`); raises `Violation`. Times are lease time of the running turn."""

    def __init__(self, *, tries: int | None, timeout_ns: int | None, limits: Limits, has_store: bool) -> None:
        self.now = 0
        self.deaf_ns = 0
        """How long the broker could not hear, in all: by so much `now` is behind the wall clock."""
        self.draining = False
        self.stopped = False
        self.stopped_at = NEVER
        """What is asked after that may lie unread when the sockets close."""
        self.by_key: dict[bytes, Claim] = {}
        self.by_token: dict[bytes, Claim] = {}
        self.counts: dict[str, int] = {}
        self.seen = 0
        """How much has happened."""
        self.open = 0
        """Jobs that have not ended."""
        self.trace: Any = None
        """A hash that takes in everything, or None."""
        self.tries = tries
        self.timeout_ns = timeout_ns
        self.limits = limits
        self.has_store = has_store
        self.is_recorded: Callable[[bytes], bool] = lambda _key: True
        """Whether the store was given the job with this key: one that ends before, and leaves nothing, never is."""
        self.frames_of: Callable[[JobBody], Body] = in_memory
        """Finds what a job carries."""
        self.began = 0
        """When this broker began."""
        self.lines = Lines(self)
        self.keys = Keys(self)
        self.sessions = Sessions(self)
        self.requests = Requests(self)
        self._expected: list[tuple[str, Any]] = []
        """What must be announced before this turn is over."""
        self._by_route: dict[tuple[Wire, Path], Claim] = {}
        self._refusals: dict[tuple[Wire, Path], int] = {}
        self._credit: dict[Peer, dict[Path, int]] = {}
        self._asked: list[tuple[Peer, Path]] = []
        self._voided: list[tuple[Peer, Path]] = []
        self._answers: list[tuple[Any, ...]] = []
        self._lost_at: dict[Peer, int] = {}
        self._by_number: dict[int, Claim] = {}
        self._letters: dict[int, Claim] = {}
        """Dead letters, by the numbers of their jobs."""
        self.of_2010: list[Claim] = []
        """What was read in this turn, and may become jobs ..."""
        self._may_refuse = False
        """... unless their queue does not take them."""

    @property
    def wall_ns(self) -> int:
        """How much later than lease time it is on the wall."""
        return WALL_NS + self.deaf_ns

    def watch(self) -> None:
        """Takes in everything from here on, for `digest`."""
        self.trace = hashlib.blake2b(digest_size=16)

    def digest(self) -> str:
        """What happened, as one value: the same for the same seed."""
        return str(self.trace.hexdigest())

    def saw(self, *what: object) -> None:
        """Something happened."""
        self.seen += 1
        if self.trace is not None:
            self.trace.update(repr((self.now, what)).encode())

    def count(self, what: str, number: int = 1) -> None:
        """Counts for the summary."""
        self.counts[what] = self.counts.get(what, 0) + number

    # --- What must follow

    def begin_turn(self, now: int) -> None:
        """A turn begins; what the one before owed must have been done."""
        self.check_expected()
        self.sessions.begin_turn()
        self.lines.begin_turn(now)
        self.now = now

    def check_expected(self) -> None:
        """Raises where something that follows from what was read did not happen."""
        if self.of_2010:
            self.submitted(())
        if self._expected:
            what, whom = self._expected[0]
            raise Violation(WRONG, f"{whom} should have been {what}, and was not")
        self.requests.settle()

    def expect(self, what: str, whom: Any) -> None:
        """The machine must announce this."""
        self._expected.append((what, whom))

    def _was_expected(self, what: str, whom: Any) -> bool:
        self.sessions.hear()
        try:
            self._expected.remove((what, whom))
        except ValueError:
            return False
        return True

    # --- What the broker reads

    def request(self, wire: Wire, path: Path, body: Body) -> None:
        """A request was read: from here on it is owed an outcome."""
        key = key_of(body)
        self.saw("request", key)
        if self.draining:
            self._expect_refusal(wire, path)
            return
        if key in self.by_key:
            raise Violation(WRONG, f"request {key!r} was read twice")
        claim = self.by_key[key] = self._by_route[wire, path] = Claim(key, wire, path, None)
        claim.accepted_at = claim.asked_at = self.now
        claim.asked_deaf_ns = self.deaf_ns
        self.of_2010.append(claim)
        self.open += 1
        if wire.gone:
            claim.wire = None

    def native(self, wire: Wire, message: Native) -> None:
        """A native message was read. It is heard in the order in which the loop lets the machine hear it."""
        peer, path, version, header, body = message
        assert type(header) is bytes  # noqa: S101 - for mypy: the simulated endpoints read no headers
        self.saw("native", wire.endpoint.role, wire.routing_id, path, version, header)
        if wire.endpoint.role == "workers":
            self.sessions.read.append(Heard(peer, path, version, header, body, bool(peer.routing_id)))
        else:
            self.requests.read.append((wire, message))

    def refused(self, wire: Wire, refused: Refused) -> None:
        """Something was read that cannot be taken; where it has a return path, a failure is owed."""
        self.saw("refused", refused.reason)
        self.count("messages_refused")
        if refused.version:
            if wire.endpoint.role == "clients":
                self.requests.too_large(refused)
        elif wire.endpoint.role == "clients" and refused.path is not None:
            self._expect_refusal(wire, refused.path)

    def heeded(self, role: str, refused: Sequence[Refused]) -> None:
        """What workers said and the broker cannot take: it hears that when it has heard all else of the turn."""
        if role == "workers":
            self.sessions.hear()
            for it in refused:
                if it.version:
                    self.sessions.too_large(it)

    def _expect_refusal(self, wire: Wire, path: Path) -> None:
        self._refusals[wire, path] = self._refusals.get((wire, path), 0) + 1

    def ask(self, peer: Peer, path: Path) -> None:
        """An ask was read. It counts when the losses of the turn are known: the dead ask for nothing."""
        self.saw("ask", peer.descriptor, path)
        self._asked.append((peer, path))

    def lost(self, role: str, peers: Sequence[Peer]) -> None:
        """Connections have gone."""
        if role == "clients":
            for peer in peers:
                self.requests.lost(peer)
            self._hear_answers()
            if self.of_2010:
                self._may_refuse = self.lines.named(self.of_2010[0].queue).may_refuse(len(self.of_2010))
            return
        self.sessions.hear()
        for peer, path in self._voided:  # the rest of its batch was tried; from here on it must ask again
            self._credit.get(peer, {})[path] = 0
        self._voided.clear()
        self.sessions.void()
        for peer in peers:
            self.saw("lost", peer.descriptor)
            self._lost_at.setdefault(peer, self.now)
            self._credit.pop(peer, None)
            self.sessions.lost(peer)
        if self._asked:
            asked, self._asked = self._asked, []
            for peer, path in asked:
                self._grant(peer, path)

    def _grant(self, peer: Peer, path: Path) -> None:
        if peer in self._lost_at:
            return
        paths = self._credit.setdefault(peer, {})
        credit = paths.get(path, 0)
        if credit and (peer.asks_one_at_a_time or credit >= self.limits.asks_per_worker_max):
            return
        paths[path] = credit + 1

    def answer(self, frames: tuple[Any, ...]) -> None:
        """An answer was read."""
        self.saw("answer", frames)
        self._answers.append(frames)

    def _hear_answers(self) -> None:
        """The first answer to an open job is its outcome, whichever attempt it belongs to; unless it wants the current
        one only.
        """
        if not self._answers:
            return
        answers, self._answers = self._answers, []
        for frames in answers:
            body = frames[1] if len(frames) == 2 else frames[1:] if len(frames) > 2 else b""
            if not self.answered(frames[0], body):
                self.count("answers_refused")

    # --- What becomes of a claim

    def answered(self, token: bytes, body: Body, headers: dict[str, str] | None = None) -> str:
        """A worker has the answer to the job with this token. What it is: "" (nothing), "late" or "current"."""
        claim = self.by_token.get(token)
        if claim is None or not claim.open:
            return ""
        if self.now > claim.ends_by + DEADLINE_SLACK_NS:
            raise Violation(WRONG, f"{claim} is open {self.now - claim.ends_by} ns after its deadline")
        current = claim.token == token and claim.state in (HELD, RUNS)
        if not current and not (claim.late_any and (self.is_good(claim, token) or token in claim.forgotten)):
            return ""
        self.count("answers_to_forgotten", token in claim.forgotten)
        if current and claim.state == HELD:
            self.starts(claim)
        claim.answer, claim.answer_headers = body, headers
        self.ends(claim, ANSWERED)
        return "current" if current else "late"

    def is_good(self, claim: Claim, token: bytes) -> bool:
        """The token is one by which a late answer is known."""
        return token in (claim.token, claim.shared) or token in claim.tokens

    def ends(self, claim: Claim, state: int, reason: str = "") -> None:
        """The claim has its outcome."""
        claim.state, claim.holder, claim.reason = state, None, reason
        claim.ended_at, claim.ended_deaf_ns = self.now, self.deaf_ns
        self.open -= 1
        if claim.request is not None:
            self.requests.ended(claim)
            self.keys.ended(claim)

    def starts(self, claim: Claim) -> None:
        """The attempt begins, and with it its limits."""
        claim.state, claim.recalled = RUNS, None
        claim.attempts += 1
        self.count("attempts")
        tries = claim.agreed.tries
        if tries is not None and claim.attempts > tries + claim.forgiven:
            text = f"{claim.key!r} has begun {claim.attempts} attempts, {tries} are allowed"
            raise Violation(WRONG, text)
        self.begins(claim)

    def begins(self, claim: Claim) -> None:
        """The limits of the running attempt begin."""
        claim.began = claim.heard = self.now
        claim.ends = NEVER if claim.run_ns is None else self.now + claim.run_ns

    def fails(
        self, claim: Claim, cause: str, *, kind: str = "", final: bool = False, retry_ns: int | None = None
    ) -> None:
        """The attempt is over; with the last one goes the job. `retry_ns`: how long its worker wants it to wait."""
        claim.cause, claim.retry_ns, claim.ended_try = cause, retry_ns, self.now
        claim.failures[terms.KIND_OF[cause]] += 1
        claim.state, claim.holder = WAITS, None
        reason = terms.end_of(claim, kind, final=final)
        if reason is not None:
            self.count("failed_by_kind", reason is Reason.FAILED and not final)
            self._must_end(claim, reason)
        elif claim.job_id or retry_ns is not None or claim.agreed.pause is None:
            self.ends_if_late(claim, self._goes_on_at(claim, claim.job_id) or self.now)

    def ends_if_late(self, claim: Claim, due: int) -> None:
        """It waits until then: where that is too late for its deadlines, it ends at once."""
        if claim.state == WAITS and due >= claim.goes_by + claim.early_ns:
            self._must_end(claim, terms.too_late(claim))

    def comes_back(self, claim: Claim, cause: str) -> None:
        """The hand-over came to nothing."""
        if claim.state == RUNS:
            claim.attempts -= 1
            self.count("attempts", -1)
        claim.cause = cause
        claim.state, claim.holder, claim.recalled = WAITS, None, None
        claim.line.in_vain(claim)
        handovers_max = self.limits.handovers_of(claim.agreed.tries)
        if cause != RETURNED or 2 * (claim.handovers + 1) <= handovers_max:
            claim.handovers += 1
        if claim.handovers >= handovers_max:
            self._must_end(claim, Reason.HANDOVERS_SPENT)
        self.ends_if_late(claim, self.now)

    def cancelled(self, claim: Claim) -> None:
        """Nobody wants it any more: it must end, and who has it must hear that."""
        self.sessions.must_stop(claim)
        self._must_end(claim, Reason.CANCELLED)

    def _must_end(self, claim: Claim, reason: Reason) -> None:
        self.ends(claim, FAILED, reason.value)
        self.expect("ended", claim)

    # --- What the broker decides and says

    def claim_of(self, job: Job) -> Claim:
        """The account of a job of the machine."""
        key = key_of(self.frames_of(job.body))
        claim = self.by_key.get(key)
        if claim is None:
            raise Violation(WRONG, f"{key!r} was never accepted")
        return claim

    def submitted(self, bodies: Sequence[Body]) -> None:
        """The machine takes these jobs of clients of 2010; all others that were read in this turn are refused."""
        keys = set(map(key_of, bodies))
        claims, self.of_2010 = self.of_2010, []
        for claim in claims:
            if claim.key in keys:
                line = self.lines.named(claim.queue)
                claim.run_ns = line.run_ns(self.timeout_ns)
                claim.agreed = terms.agreed(terms.NOTHING_SAID, line.settings, self.tries, self.limits)
                line.enters(claim)
            else:
                self._refused_2010(claim)

    def _refused_2010(self, claim: Claim) -> None:
        """A request of 2010 was refused: raises where its queue has no reason for that."""
        if not self._may_refuse:
            raise Violation(FALSE_FAILURE, f"{claim} was refused, and its queue is neither paused nor full")
        self.count("refused_2010")
        claim.state = GONE
        self.open -= 1
        if claim.wire is not None:
            self._expect_refusal(claim.wire, claim.path)

    def accepted(self, jobs: Sequence[Job]) -> None:
        """The machine has accepted these jobs of native clients."""
        names = {job.request for job in jobs}
        for job in jobs:
            if job.rules is not None and job.rules.redriven_from:
                self.redriven(job)
                continue
            self.requests.accepted(job, names)

    def shared(self, names: Sequence[bytes]) -> None:
        """The machine has changed by which requests a job is known: by these."""
        self.requests.shared(list(names), was_expected=self._was_expected)

    def enters(self, claim: Claim, number: int) -> None:
        """A request of a native client is a job."""
        self.by_key[claim.key] = self._by_number[number] = claim
        claim.number = number
        self.lines.named(claim.queue).enters(claim)
        self.open += 1

    def attempt_failed(self, job: Job, cause: Cause) -> None:
        """The machine ends an attempt that came to nothing."""
        claim = self.claim_of(job)
        self.saw("attempt_failed", claim.key, cause.value)
        self.count(f"attempt_{cause.value}")
        if self._was_expected("failed", claim):
            if claim.cause != cause:
                raise Violation(WRONG, f"an attempt of {claim} ended by {claim.cause}, and the broker says {cause}")
            return
        if claim.state != RUNS:
            raise Violation(WRONG, f"an attempt of {claim} has failed that did not run")
        if cause is Cause.EXPIRED:
            over = self.now >= claim.ends or self._is_over(claim)
        elif cause is Cause.SILENT:
            over = claim.silence_ns is not None and self.now >= claim.heard + claim.silence_ns
        elif cause is Cause.WORKER_LOST:
            over = self._holder_is_gone(claim)
        else:
            over = cause is Cause.DEADLINE and self.now >= claim.ends_by - claim.early_ns
        if not over:
            raise Violation(WRONG, f"an attempt of {claim} ended by {cause.value} before it was over")
        self.fails(claim, cause.value)

    def waits(self, job: Job) -> None:
        """The machine has ended an attempt: where there is another, it waits for as long as was agreed."""
        claim = self.claim_of(job)
        if claim.state != WAITS:
            return
        if claim.retry_ns is None and claim.agreed.pause is not None:
            self.requests.has_id(claim, job.id)
            self.count("paused_with_jitter" if claim.agreed.pause.jitter else "paused")
        self.waits_until(claim, self._goes_on_at(claim, job.id))
        if claim.due != (job.due_ns if job.state == DELAYED else 0):
            raise Violation(WRONG, f"{claim} waits until {job.due_ns}, and was to wait until {claim.due}")

    def waits_until(self, claim: Claim, due: int) -> None:
        """It must not go on before then."""
        claim.due, claim.due_deaf_ns = due, self.deaf_ns
        claim.due_after = claim.attempts, claim.handovers

    def given_back(self, job: Job) -> None:
        """The machine takes back a hand-over, uncounted."""
        claim = self.claim_of(job)
        self.saw("given_back", claim.key)
        self.count("given_back")
        if self._was_expected("given back", claim):
            return
        recalled = claim.recalled is not None and self.now >= claim.recalled + self.limits.liveness_ns
        if claim.state != HELD or not (recalled or self._holder_is_gone(claim)):
            raise Violation(WRONG, f"{claim} was taken back from a worker that is alive and has it")
        self.comes_back(claim, "recalled" if recalled else NEVER_BEGUN)

    def claimed(self, job: Job, session: Session) -> None:
        """The machine lets a session go on with a job that it had."""
        claim = self.claim_of(job)
        self.saw("claimed", claim.key)
        self.count("claimed")
        if not self._was_expected("claimed", claim):
            raise Violation(WRONG, f"{claim} was claimed by {session}, whose it is not: {claim.cause}")

    def session_lost(self, worker: Worker) -> None:
        """The machine takes a worker for lost."""
        if not isinstance(worker, Session):
            return
        self.saw("session_lost", worker.incarnation)
        session = self.sessions.by_incarnation.get(worker.incarnation)
        if self._was_expected("lost", worker.incarnation):
            return
        if session is None:
            raise Violation(WRONG, f"{worker} was lost and never said hello")
        self.sessions.must_be_over(session)
        self.sessions.ends(session)

    def ended_badly(self, job: Job) -> None:
        """The machine has discarded or cancelled a job."""
        claim = self.claim_of(job)
        self.saw("ended_badly", claim.key, job.reason)
        self.count(job.reason)
        if job.state == DISCARDED:
            self._letters[job.number] = claim
            claim.line.discarded(claim)
        if self._was_expected("ended", claim):
            if claim.reason != job.reason:
                raise Violation(WRONG, f"{claim} has failed because of {claim.reason}, not {job.reason}")
            return
        if not claim.open:
            kind = FALSE_FAILURE if claim.state == ANSWERED else SECOND_OUTCOME
            raise Violation(kind, f"{claim.key!r} has failed after its end")
        if job.reason == Reason.ASKER_GONE:
            self.requests.must_be_deserted(claim)
        elif job.reason in (Reason.START_DEADLINE, Reason.DEADLINE):
            self._must_be_late(claim, job)
        elif job.reason == Reason.REPLACED:
            self.keys.replaced(claim, job)
        elif job.state == DISCARDED:
            text = f"{claim.key!r} was discarded ({job.reason}) after {claim.attempts} attempts of {claim.agreed.tries}"
            raise Violation(FALSE_FAILURE, f"{text} and {claim.handovers} hand-overs in vain")
        elif not self.stopped:
            raise Violation(FALSE_FAILURE, f"{claim.key!r} was ended by a broker that was not stopped")
        self.ends(claim, FAILED, job.reason)

    def letter_gone(self, job: Job) -> None:
        """The machine keeps a dead letter no more."""
        claim = self._letters.pop(job.number, None)
        if claim is not None:
            claim.line.letter_gone(claim)

    def has_letter(self, job: Job) -> None:
        """The machine keeps a job that was discarded: it is known by its id from now on, if it was not before."""
        self.requests.has_id(self._letters[job.number], job.id)

    def redriven(self, job: Job) -> None:
        """The machine has made another job of a dead letter: it is like the one that had ended, which need not be the
        last with that body.
        """
        last = self.claim_of(job)
        old = self.requests.of_job(b"" if job.rules is None else job.rules.redriven_from)
        if old is None or old.key != last.key:
            raise Violation(WRONG, f"{last} was redriven, and not from its dead letter")
        if last.open or old.state != FAILED:
            raise Violation(SECOND_OUTCOME, f"{old} was redriven, and has not failed")
        new = Claim(old.key, None, b"", old.run_ns, old.silence_ns, old.late_any, old.ends_alone, old.keep_ns)
        new.queue, new.headers, new.agreed = old.queue, old.headers, old.agreed
        new.names = {job.id: Named(body_bytes(job.body), True, self.now)}
        new.request, new.accepted_at, new.asked_at, new.asked_deaf_ns = job.id, self.now, self.now, self.deaf_ns
        new.made_of, old.redriven_as, new.instead_of = old, new, last
        self.count("redriven")
        self.count("redriven_in_place", old.agreed.blocks)
        self.requests.redriven(new, job.id)
        self.keys.takes(new, job.id, None)
        self.enters(new, job.number)

    def _must_be_late(self, claim: Claim, job: Job) -> None:
        """Raises unless a job that waits or is held has missed its deadline, this one, or would have to wait for it."""
        reason = terms.too_late(claim)
        if job.reason != reason:
            raise Violation(FALSE_FAILURE, f"{claim} has ended by {job.reason}, and by {reason} it should have")
        by = claim.ends_by - claim.agreed.takes_ns if claim.state == HELD else claim.goes_by
        waits = claim.state == WAITS and self._goes_on_at(claim, job.id) >= by
        if claim.state == RUNS or not (waits or self.now >= by - claim.early_ns):
            raise Violation(FALSE_FAILURE, f"{claim} has ended by {reason} {by - self.now} ns before that")

    def _goes_on_at(self, claim: Claim, job_id: bytes) -> int:
        """When the next attempt may be."""
        if claim.ended_try != self.now:
            return claim.due
        pause_ns = claim.retry_ns
        if pause_ns is None:
            pause_ns = terms.pause_ns(claim.agreed.pause, job_id, claim.attempts)
        return self.now + pause_ns if pause_ns else 0

    def publish(self, notice: tuple[Event, dict[str, Any]]) -> None:
        """What the broker says of itself."""
        self.saw("notice", notice[0].value, sorted(notice[1].items(), key=str))

    # --- What the broker sends

    def sent(self, role: str, wire: Wire | None, message: tuple[Any, ...], code: int) -> None:
        """A message was sent, or could not be."""
        native = message[2] == SIGNATURE
        if role == "workers":
            if native:
                self.sessions.sent(message, code)
            else:
                self._dispatched(message, code)
        elif native:
            self.requests.hear_unannounced()
            self.requests.settle()
            if code == 0 and wire is not None:
                self.requests.told(wire, message)
        elif code == 0 and wire is not None:
            self._told(wire, message)

    def may_be_dispatched(self, claim: Claim | None, key: bytes) -> Claim:
        """Raises unless a job may go to any worker at all."""
        if claim is None:
            raise Violation(WRONG, f"{key!r} was dispatched and never accepted")
        if not claim.open:
            raise Violation(WRONG, f"{key!r} was dispatched after its end")
        if claim.state != WAITS and not self._is_over(claim):
            raise Violation(
                WRONG, f"{key!r} was dispatched again before its attempt was over: it is let to two, or early"
            )
        if self.has_store and not claim.safe:
            raise Violation(WRONG, f"{key!r} was dispatched before its acceptance was safe")
        if self.now >= claim.goes_by + claim.early_ns:
            raise Violation(WRONG, f"{key!r} was dispatched {self.now - claim.goes_by} ns too late for its deadlines")
        if self.now < claim.due:
            raise Violation(WRONG, f"{key!r} was dispatched {claim.due - self.now} ns before its worker wanted it")
        return claim

    def _dispatched(self, message: tuple[Any, ...], code: int) -> None:
        peer, path, _, token, body = message
        key = key_of(body)
        self.saw("dispatched", key, token, peer.descriptor, path, code)
        claim = self.may_be_dispatched(self.by_key.get(key), key)
        if claim.queue != "default":
            raise Violation(WRONG, f"{key!r} of {claim.queue} was dispatched to a worker of 2010")
        if claim.late_any and claim.shared and claim.shared != token:
            raise Violation(WRONG, f"{key!r} has changed its id: a late answer would not count")
        if token != claim.shared and token in self.by_token:
            raise Violation(WRONG, f"{key!r} has the id of another job, or of an attempt that is over")
        self.lines.gives(claim, peer)
        self.gets_token(claim, token, native=False)
        paths = self._credit.get(peer, {})
        if paths.get(path, 0) < 1:
            raise Violation(WRONG, f"{key!r} was dispatched to a worker without an unspent ask")
        paths[path] -= 1
        claim.holder = peer
        self.starts(claim)
        if code:
            self.count("handovers_failed")
            self._voided.append((peer, path))
            self.undelivered(claim)

    def undelivered(self, claim: Claim) -> None:
        """A hand-over could not be sent: it must be given back."""
        claim.line.undelivered(claim, self.now)
        self.comes_back(claim, "undelivered")
        self._expected.insert(0, ("given back", claim))

    def gets_token(self, claim: Claim, token: bytes, *, native: bool) -> None:
        """Another hand-over, another right to answer."""
        self.by_token[token] = claim
        claim.token, claim.native = token, native
        if not native:
            claim.shared = token
            return
        claim.tokens.append(token)
        while len(claim.tokens) > TOKENS_MAX + 1:
            claim.tokens.pop(0)

    def _is_over(self, claim: Claim) -> bool:
        """The running attempt has ended by rule: its time was up, or its worker was lost and the grace is over."""
        if claim.state == RUNS and self.now >= claim.ends:
            return True
        if claim.state == RUNS and claim.silence_ns is not None and self.now >= claim.heard + claim.silence_ns:
            return True
        if claim.holder is None and claim.state == RUNS and not claim.native and claim.run_ns is None:
            return self.now >= claim.began + RECLAIM_NS
        return self._holder_is_gone(claim)

    def _holder_is_gone(self, claim: Claim) -> bool:
        holder = claim.holder
        if holder is None:  # from an earlier life of the broker: a session must claim it
            return claim.native and self.now >= claim.began + self.limits.liveness_ns
        if isinstance(holder, Peer):
            lost_at = self._lost_at.get(holder)
            return lost_at is not None and self.now >= lost_at + self.limits.worker_grace_ns
        return bool(holder.over)

    def _told(self, wire: Wire, message: tuple[Any, ...]) -> None:
        _, path, _, outcome = message
        self.saw("told", wire.routing_id, path, outcome)
        claim = self._by_route.get((wire, path))
        if claim in self.of_2010 and outcome == b"":
            self.of_2010.remove(claim)
            self._refused_2010(claim)
        if claim is None or claim.open or claim.told or claim.state == GONE:
            refusals = self._refusals.get((wire, path), 0)
            if outcome == b"" and refusals:
                self._refusals[wire, path] = refusals - 1
                self.count("refused")
                return
            if claim is None or claim.state == GONE:
                raise Violation(WRONG, f"a client was told {outcome!r} and had asked nothing there")
            if claim.told:
                raise Violation(SECOND_OUTCOME, f"{claim.key!r} was told twice")
            if outcome == b"":
                raise Violation(FALSE_FAILURE, f"{claim.key!r} is open, and its client was told that it failed")
            raise Violation(WRONG, f"{claim.key!r} is open, and its client was told {outcome!r}")
        if claim.state == ANSWERED and outcome == b"":
            raise Violation(FALSE_FAILURE, f"{claim.key!r} was answered, and its client was told that it failed")
        if claim.state == ANSWERED and outcome != claim.answer:
            raise Violation(WRONG, f"{claim.key!r} was answered {claim.answer!r}, and its client was told {outcome!r}")
        if claim.state == FAILED and outcome != b"":
            raise Violation(WRONG, f"{claim.key!r} has failed, and its client was told {outcome!r}")
        if self.has_store and not claim.safe_end and self.is_recorded(claim.key):
            raise Violation(WRONG, f"the outcome of {claim.key!r} was told before it was safe")
        claim.told = True
        self.count("told_failure" if outcome == b"" else "told_answer")

    # --- What is safe

    def settled(self, records: Records) -> None:
        """The store has made these safe."""
        for record in records:
            if isinstance(record, Accepted):
                claim = self._by_number.get(record.number)
                if claim is None:
                    claim = self._by_number[record.number] = self.by_key[key_of(record.body)]
                claim.safe, claim.safe_turn = True, self.lines.turn
                if claim.due:
                    self.lines.became_safe.append(claim)
                if claim.request is not None:
                    self.requests.is_safe(claim, (claim.request,))
            elif isinstance(record, Shared):
                claim = self._by_number.get(record.number)
                if claim is not None:
                    self.requests.is_safe(claim, [name for name, *_ in record.requests])
            elif isinstance(record, QueueSet):
                self.lines.named(record.name).is_safe(record.settings)
            elif isinstance(record, Attempt):
                claim = self._by_number.get(record.number)
                if claim is not None and record.ledger:
                    claim.failed_safe = max(claim.failed_safe, record.ledger[-1].attempt)
            elif isinstance(record, Finished | Gone):
                for number in record.numbers if isinstance(record, Gone) else (record.number,):
                    claim = self._by_number.get(number)
                    if claim is not None:
                        claim.safe_end = True

    def crashed(self) -> None:
        """The broker is gone: asks, routes and peers with it."""
        self.saw("crashed")
        self.count("broker_crashes")
        self._credit.clear()
        self._asked.clear()
        self._answers.clear()
        self._by_route.clear()
        self._refusals.clear()
        self._expected.clear()
        self.of_2010.clear()
        self.sessions.crashed()
        self.requests.crashed()
        self.keys.crashed()
        self.lines.crashed()
        for claim in self.by_key.values():
            claim.wire = None

    def queue_set(self, name: str, settings: QueueSettings) -> None:
        """An administrator has set this, after the last turn."""
        self.saw("queue_set", name, settings)
        self.lines.check()  # what was given out before was so on the settings before
        self.lines.named(name).set(settings, self.now)

    def restarted(self, jobs: list[Job], settings: Mapping[str, QueueSettings], lease_now: int) -> None:
        """A new broker has loaded these jobs; the others were never safe, or have ended. `settings`: of its queues."""
        self.now = self.began = lease_now
        found = {key_of(self.frames_of(job.body)): job for job in jobs}
        self._forget_redriven()
        self._by_number = {claim.number: claim for claim in self._by_number.values() if claim.safe_end}
        if not self.has_store:
            self._letters.clear()
        for key in found.keys() - self.by_key.keys():
            raise Violation(WRONG, f"{key!r} came out of the store and was never accepted")
        for key, claim in self.by_key.items():
            job = found.get(key)
            if job is not None:
                self._goes_on(claim, job)
            elif claim.open:
                if claim.safe:
                    raise Violation(LOST, f"{key!r} was safe and is gone after the restart")
                claim.state = GONE
                self.count("gone_with_the_broker")
            elif not claim.safe_end:
                claim.state = GONE
            else:  # how old the end is, a store tells by the wall clock, which does not stop while the broker is deaf
                claim.ended_at -= self.deaf_ns - claim.ended_deaf_ns + WALL_STEP_NS
                claim.ended_deaf_ns = self.deaf_ns
        self.open = len(jobs)
        self.requests.restarted()
        self.keys.restarted(self.by_key.values())
        self.lines.restarted(settings)

    def _forget_redriven(self) -> None:
        """What was made of a dead letter, and was not safe, is gone; what was there before is what there is."""
        for key in self.by_key:
            while (before := self.by_key[key].instead_of) is not None and not self.by_key[key].safe:
                self.by_key[key].state = GONE
                self.by_key[key] = before

    def _goes_on(self, claim: Claim, job: Job) -> None:
        if claim.safe_end:
            raise Violation(WRONG, f"{claim.key!r} had ended, and is open again after the restart")
        claim.forgiven = max(claim.forgiven, claim.attempts - job.attempts)
        waited = claim.state == WAITS and (claim.attempts, claim.handovers) == (job.attempts, job.handovers)
        claim.attempts, claim.handovers, claim.replaced_by = job.attempts, job.handovers, b""
        claim.state = RUNS if job.state == JOB_RUNNING else HELD if job.state == JOB_HELD else WAITS
        given = {*claim.forgotten, *claim.tokens, claim.token, claim.shared}
        claim.holder, claim.token, claim.native, claim.recalled = None, job.token, job.seq != 0, None
        claim.tokens, claim.shared = list(job.tokens), job.shared
        if claim.native:
            claim.tokens.append(job.token)
        elif job.token:
            claim.shared = job.token
        claim.forgotten = frozenset(given - {*claim.tokens, claim.shared, b""}) if claim.late_any else frozenset()
        claim.asked_at += claim.asked_deaf_ns - self.deaf_ns
        claim.asked_deaf_ns, claim.early_ns = self.deaf_ns, WALL_STEP_NS
        if job.state == DELAYED:  # a moment is stored by the wall clock, which does not stop while the broker is deaf
            same = claim.due_after == (job.attempts, job.handovers)
            claim.due = max(self.now, claim.due + claim.due_deaf_ns - self.deaf_ns) if same else self.now
        else:
            claim.due = 0
        claim.failures = Counter(dict(zip(("errors", "timeouts", "losses"), job.failures, strict=True)))
        last = job.ledger[-1] if job.ledger else None
        if not waited:  # else the last hand-over may have come to nothing after the last attempt
            claim.cause = last.cause if last is not None and last.attempt == job.attempts else ""
        self.begins(claim)
        self._by_number[job.number] = claim
        self.requests.goes_on(claim, job.id)

    # --- The verdict

    def overdue(self, slack_ns: int) -> Claim | None:
        """A job whose attempt should have ended long ago; None when all is in time."""
        for claim in self.by_key.values():
            if claim.state == RUNS:
                ends = claim.ends
                lost_at = self._lost_at.get(claim.holder) if isinstance(claim.holder, Peer) else None
                if lost_at is not None:
                    ends = min(ends, max(lost_at, claim.began) + self.limits.worker_grace_ns)
                if self.now > ends + slack_ns:
                    return claim
        return None

    def at_rest(self, *, dropped: int) -> bool:
        """Nothing is open, and no native client is owed anything but what was dropped."""
        return self.open == 0 and self.requests.at_rest(dropped)

    def verdict(self, *, dropped: int, reads: Callable[[Wire], bool]) -> None:
        """The world is over. `dropped`: what the broker counted as `reply_dropped`. `reads`: does this client read?"""
        self.requests.hear()
        self.check_expected()
        self.lines.check()
        untold = 0
        for claim in self.by_key.values():
            if claim.open:
                state = "waits" if claim.state == WAITS else f"is with {claim.holder} since {claim.began}"
                raise Violation(LOST, f"{claim.key!r} has no outcome: it {state} after {claim.attempts} attempts")
            wire = claim.wire
            if (
                wire is not None
                and wire.up
                and not wire.gone
                and reads(wire)
                and not claim.told
                and claim.state != GONE
            ):
                untold += 1
                if untold > dropped:
                    raise Violation(LOST, f"{claim.key!r} has ended, its client is there, and was not told")
        for (wire, _), owed in self._refusals.items():
            if owed and wire.up and not wire.gone and reads(wire):
                untold += owed
        if untold > dropped:
            raise Violation(LOST, "a refused request was never answered, and its client is there")
        self.requests.verdict(dropped=dropped - untold, reads=reads)
