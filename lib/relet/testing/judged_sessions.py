"""The judge's account of native workers: who has a session, what it may get, what it has said, what it was told.

Every message of a worker is heard here in the order in which the machine hears it, and what follows from it alone is
worked out at once: a credit, a start, an answer, a failure, a job that comes back because its worker does not know it
any more. What a session may be lost for is checked when the machine says that it is.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from relet.core.job import Cause
from relet.core.machine import HAND_BACK_NS, HAND_BACK_NS_MAX
from relet.dialects import native
from relet.messages import (
    TOO_LARGE,
    VERSION,
    WEIGHT_MAX,
    Ack,
    Body,
    Cancel,
    Complete,
    Dispatch,
    Error,
    Extend,
    Fail,
    FromWorker,
    Goodbye,
    HandBack,
    Partial,
    Path,
    Peer,
    Progress,
    Recall,
    Refused,
    ReportRefused,
    Welcome,
    WorkerHello,
    headers_held,
)
from relet.testing.claims import HELD, NEVER, RUNS, WAITS, WRONG, Claim, Violation, key_of

if TYPE_CHECKING:
    from relet.testing.judge import Judge

HANDED_BACK: Final = "handed_back"
RETURNED: Final = "returned"
"""The same, of what its worker had not started."""
STOP_TURNS_MAX: Final = 2
"""Turns within which who has a job hears of its end, once that is safe."""
NEVER_BEGUN: Final = "never_begun"
"""What was held comes back, and can be claimed by nobody."""


class Heard(NamedTuple):
    """A message of a native worker, as the broker has read it."""

    peer: Peer
    path: Path
    version: int
    header: bytes
    body: Body
    routable: bool
    """Whether the broker had not heard of the end of its connection when it read this."""


@dataclass(slots=True, eq=False)
class Seat:
    """A session, as the judge sees it."""

    incarnation: bytes
    peer: Peer
    path: Path
    queues: tuple[str, ...]
    confirms: bool
    recalls: bool
    heard: int
    """When something was heard of it."""
    weights: tuple[int, ...] = ()
    """Of its queues; empty: it serves them in strict order."""
    granted: int = 0
    handed: int = 0
    started: int = 0
    reported: int = 0
    acked: int = 0
    away: int | None = None
    """Since when its connection is gone."""
    over: bool = False
    """The session has ended."""
    jobs: dict[int, Claim] = field(default_factory=dict)
    """By number of the hand-over: what it was handed and had not started, or had, when last looked."""
    claims: set[Claim] = field(default_factory=set)
    unsafe: list[tuple[int, Claim, int]] = field(default_factory=list)
    """(number, claim, attempt) of reports that must be safe before they are acknowledged; attempt 0: its end."""

    def __repr__(self) -> str:
        return f"<Seat {self.incarnation[:4].hex()}>"


@dataclass(slots=True, eq=False)
class Stop:
    """Somebody is to hear that a job has ended which it has."""

    seat: Seat
    claim: Claim
    turns: int = 0
    """Turns since that is safe."""


class Sessions:
    """All native workers of a world."""

    def __init__(self, judge: Judge) -> None:
        self.read: list[Heard] = []
        """Messages that were read and not heard yet."""
        self.by_incarnation: dict[bytes, Seat] = {}
        self.unsaid = 0
        """What workers that do not read were not told, but for acknowledgements."""
        self._judge = judge
        self._limits = judge.limits
        self._on: dict[tuple[Peer, Path], Seat] = {}
        self._errors: Counter[tuple[Peer, Path, str]] = Counter()
        """What `error` may be told whom."""
        self._too_much = 0
        """How often a session may be told that its credit is above the bound."""
        self._stops: dict[bytes, Stop] = {}
        """Tokens of jobs that were cancelled: who is to be told."""
        self._unreached: list[Seat] = []
        self._welcomes: dict[tuple[Peer, Path], deque[tuple[Seat, int, tuple[bytes, ...]]]] = {}
        """What a hello there must be answered with: hand-overs, claims that are lost."""
        self._refused: Counter[tuple[bytes, int, str]] = Counter()
        """(token, number, code) of reports that may be refused."""

    def must_stop(self, claim: Claim) -> None:
        """Whoever has it must hear that it has ended."""
        seat = claim.holder
        if isinstance(seat, Seat) and seat.recalls and seat.away is None and not seat.over:
            self._stops[claim.token] = Stop(seat, claim)

    def begin_turn(self) -> None:
        """A turn begins. Who was to be told of an end heard it in the turn in which that was safe, or in the next."""
        if not self._stops:
            return
        for stop in self._stops.values():
            if stop.seat.over or self._judge.stopped:
                continue
            stop.turns += stop.claim.safe_end or not self._judge.has_store
            if stop.turns > STOP_TURNS_MAX:
                raise Violation(WRONG, f"{stop.claim} was cancelled, and {stop.seat}, who had it, was never told")

    # --- Losses

    def lost(self, peer: Peer) -> None:
        """A connection has gone."""
        self._stops = {token: it for token, it in self._stops.items() if it.seat.peer is not peer}
        for key, seat in list(self._on.items()):
            if key[0] is peer:
                del self._on[key]
                seat.away = self._judge.now
                seat.granted = seat.handed

    def crashed(self) -> None:
        """The broker is gone."""
        self.read.clear()
        self._on.clear()
        self._errors.clear()
        self._welcomes.clear()
        self._refused.clear()
        self._stops.clear()
        for seat in self.by_incarnation.values():
            seat.over = True
        self.by_incarnation.clear()

    def ends(self, seat: Seat) -> None:
        """The session is over."""
        seat.over = True
        self.by_incarnation.pop(seat.incarnation, None)
        if self._on.get((seat.peer, seat.path)) is seat:
            del self._on[seat.peer, seat.path]

    def must_be_over(self, seat: Seat) -> None:
        """Raises unless a clock says that the session has ended."""
        judge, limits = self._judge, self._limits
        if judge.now >= seat.heard + limits.liveness_ns:
            judge.count("sessions_silent")
        elif seat.away is not None and judge.now >= seat.away + limits.session_grace_ns:
            judge.count("sessions_away")
        else:
            raise Violation(WRONG, f"{seat} was taken for lost: heard at {seat.heard}, away since {seat.away}")

    def _ended_by(self, seat: Seat, what: str) -> None:
        self._judge.count(f"sessions_{what}")
        self._judge.expect("lost", seat.incarnation)
        self.ends(seat)

    # --- What workers say

    def too_large(self, refused: Refused) -> None:
        """A report came whose body nobody has."""
        path = refused.path or b""
        seat = self._on.get((refused.peer, path))
        self._errors[refused.peer, path, TOO_LARGE] += 1
        try:
            said = native.from_worker(refused.version, refused.header)
        except native.BadMessage:
            return
        if seat is None or not isinstance(said, Complete | Partial):
            return
        seat.heard = self._judge.now
        claim = self._judge.by_token.get(said.token)
        current = claim is not None and claim.open and claim.token == said.token and claim.state != WAITS
        if said.n > seat.reported or current:  # later reports may have been heard before this one
            seat.reported = max(said.n, seat.reported)
            self._judge.count("reports")
            self._reports(seat, said, (), unfit=TOO_LARGE)
        self._numbers(seat, said.credit, said.started)

    def hear(self) -> None:
        """The machine hears what was read."""
        if not self.read:
            return
        read, self.read = self.read, []
        for heard in read:
            try:
                said = native.from_worker(heard.version, heard.header)
            except native.BadMessage as bad:
                self._errors[heard.peer, heard.path, bad.error.code] += 1
                continue
            seat = self._on.get((heard.peer, heard.path))
            if isinstance(said, WorkerHello):
                if heard.routable:
                    self._hello(heard, said)
            elif seat is not None:
                self._says(seat, said, heard.body)
            elif heard.routable:
                self._errors[heard.peer, heard.path, "no_session"] += 1
            elif isinstance(said, Complete):
                self._judge.answered(said.token, heard.body, said.headers)

    def _hello(self, heard: Heard, said: WorkerHello) -> None:
        judge, place = self._judge, (heard.peer, heard.path)
        names = len(said.queues)
        if not said.incarnation:
            self._errors[(*place, "wrong_endpoint")] += 1
            return
        if (
            len(said.incarnation) != 16
            or not 1 <= names <= self._limits.queues_per_worker_max
            or not all(1 <= len(name) <= 200 for name in said.queues)
            or (said.weights and not len(said.weights) == names == len(set(said.queues)))
            or not all(1 <= weight <= WEIGHT_MAX for weight in said.weights)
        ):
            self._errors[(*place, "bad_header")] += 1
            return
        seat = self.by_incarnation.get(said.incarnation)
        there = self._on.get(place)
        if there is not None and there is not seat:
            self._ended_by(there, "replaced")
        if seat is None:
            confirms, recalls = "starts" in said.features, "recalls" in said.features
            seat = Seat(
                said.incarnation, heard.peer, heard.path, said.queues, confirms, recalls, judge.now, said.weights
            )
            seat.weights = said.weights
            self.by_incarnation[said.incarnation] = seat
            judge.count("sessions")
        else:
            if self._on.get((seat.peer, seat.path)) is seat:
                del self._on[seat.peer, seat.path]
            if seat.away is not None:
                judge.count("sessions_resumed")
            seat.peer, seat.path, seat.away, seat.heard = heard.peer, heard.path, None, judge.now
            seat.granted = seat.handed
        self._on[place] = seat
        lost = self._reconcile(seat, said)
        self._welcomes.setdefault(place, deque()).append((seat, seat.handed, lost))

    def _reconcile(self, seat: Seat, said: WorkerHello) -> tuple[bytes, ...]:
        judge = self._judge
        running, held = set(said.running), set(said.held)
        for claim in sorted(self._claims_of(seat), key=_key):
            if claim.token in running:
                if claim.state == HELD:
                    judge.starts(claim)
            elif claim.state == RUNS:
                judge.expect("failed", claim)
                judge.fails(claim, Cause.WORKER_LOST.value)
            elif claim.token not in held:
                judge.expect("given back", claim)
                judge.comes_back(claim, NEVER_BEGUN)
        return tuple(token for token in (*said.running, *said.held) if not self._keeps(seat, token, token in running))

    def _keeps(self, seat: Seat, token: bytes, runs: bool) -> bool:
        """Whether a claim of a worker holds."""
        judge = self._judge
        claim = judge.by_token.get(token)
        if claim is None or not claim.open:
            return False
        if token in claim.forgotten:
            return runs and self._resumes(seat, token, claim)
        if claim.token != token:
            return False
        if claim.holder is seat:
            return True
        if not runs and claim.state == HELD and claim.holder is None:
            # Of an earlier life of the broker: it has not started there, and will not.
            judge.expect("given back", claim)
            judge.comes_back(claim, NEVER_BEGUN)
            return False
        if not runs or not claim.native or claim.holder is not None:
            return False
        if claim.state == WAITS:
            # An attempt that was taken for lost goes on; one that ended otherwise has ended.
            if claim.cause != Cause.WORKER_LOST:
                return False
            claim.state, claim.due = RUNS, 0
            claim.failures["losses"] -= 1
        elif claim.state == HELD:
            judge.starts(claim)
        claim.holder = seat
        seat.claims.add(claim)
        judge.expect("claimed", claim)
        return True

    def _resumes(self, seat: Seat, token: bytes, claim: Claim) -> bool:
        """Whether the session goes on with a job of which the broker has forgotten that it has it."""
        judge = self._judge
        if claim.state != WAITS or claim.agreed.order:
            return False
        judge.count("resumed")
        claim.forgotten -= {token}
        claim.tokens.append(token)
        claim.token, claim.native, claim.due, claim.holder = token, True, 0, seat
        judge.starts(claim)
        seat.claims.add(claim)
        judge.expect("claimed", claim)
        return True

    def _claims_of(self, seat: Seat) -> list[Claim]:
        """What the session holds."""
        seat.claims = {claim for claim in seat.claims if claim.holder is seat}
        return list(seat.claims)

    def _has(self, seat: Seat) -> int:
        """How many jobs the session holds, as far as that matters to the bound: what it has held is sorted out then."""
        limits = self._limits
        if len(seat.claims) + limits.asks_per_worker_max <= limits.jobs_per_worker_max:
            return len(seat.claims)
        return len(self._claims_of(seat))

    def _says(self, seat: Seat, said: FromWorker, body: Body) -> None:
        judge = self._judge
        seat.heard = judge.now
        if isinstance(said, Goodbye):
            self._ended_by(seat, "goodbye")
            return
        if isinstance(said, Complete | Fail | HandBack | Partial | Progress | Extend) and said.n > seat.reported:
            seat.reported = said.n
            judge.count("reports")
            if isinstance(said, Complete):  # what it says of starts was so before its answer
                self._numbers(seat, 0, said.started)
            self._reports(seat, said, body)
        if not isinstance(said, WorkerHello):
            self._numbers(seat, said.credit, said.started)

    def _numbers(self, seat: Seat, credit: int, started: int) -> None:
        started = min(started, seat.handed)
        if started > seat.started:
            for seq in [seq for seq in seat.jobs if seq <= started]:
                claim = seat.jobs.pop(seq)
                if claim.state == HELD and claim.holder is seat and claim.seq == seq:
                    self._judge.starts(claim)
            seat.started = started
        if credit > seat.granted:
            most = min(self._limits.asks_per_worker_max, self._limits.jobs_per_worker_max - self._has(seat))
            if credit - seat.handed > most:
                self._too_much += 1
            seat.granted = max(seat.granted, min(credit, seat.handed + most))

    def _reports(
        self,
        seat: Seat,
        said: Complete | Fail | HandBack | Partial | Progress | Extend,
        body: Body,
        unfit: str = "",
    ) -> None:
        """`unfit`: why it cannot be taken, whatever it is about."""
        judge = self._judge
        if isinstance(said, Complete) and headers_held(said.headers) > self._limits.headers_bytes_max:
            unfit = unfit or "bad_report"
        claim = judge.by_token.get(said.token)
        answers = isinstance(said, Complete) and not unfit
        good = claim is not None and (judge.is_good(claim, said.token) or (answers and said.token in claim.forgotten))
        if claim is None or not claim.open or not good:
            self._refused[said.token[:64], said.n, "not_open"] += 1
            if claim is not None and claim.open:  # an older token of a job that takes its current attempt only
                self._refused[said.token[:64], said.n, "superseded"] += 1
            return
        if answers and isinstance(said, Complete):
            self._completes(seat, said, claim, body)
            return
        if claim.token != said.token or claim.state == WAITS:
            self._refused[said.token[:64], said.n, "superseded"] += 1
            if not claim.late_any:
                self._refused[said.token[:64], said.n, "not_open"] += 1
            return
        if isinstance(said, HandBack):
            judge.count("handed_back")
            judge.expect("given back", claim)
            called_back = claim.recalled is not None
            judge.comes_back(claim, HANDED_BACK if claim.state == RUNS else RETURNED)
            if claim.state == WAITS and not called_back:
                doubled = min(max(claim.handovers - 1, 0), 30)
                judge.waits_until(claim, judge.now + min(HAND_BACK_NS << doubled, HAND_BACK_NS_MAX))
                judge.ends_if_late(claim, claim.due)
            return
        if claim.state == HELD:
            judge.starts(claim)
        if claim.holder is None:  # of an earlier life of the broker: what proves possession is a claim
            claim.holder = seat
            seat.claims.add(claim)
            judge.expect("claimed", claim)
        if unfit:
            self._refused[said.token[:64], said.n, unfit] += 1
        if isinstance(said, Complete):  # its worker has no other answer
            judge.count(f"native_answers_{unfit}")
            self._fails(seat, said.n, claim, f"answer_{unfit}", None)
        elif unfit:
            pass
        elif isinstance(said, Fail):
            retry_ns = None if said.retry_ms is None else min(said.retry_ms * 1_000_000, self._limits.retry_ns_max)
            self._fails(seat, said.n, claim, said.kind, said.text, final=said.final, retry_ns=retry_ns)
        elif isinstance(said, Extend):
            self._extends(said, claim)
        else:
            claim.heard = judge.now

    def _fails(
        self,
        seat: Seat,
        n: int,
        claim: Claim,
        kind: str,
        text: str | None,
        *,
        final: bool = False,
        retry_ns: int | None = None,
    ) -> None:
        judge = self._judge
        seat.unsafe.append((n, claim, claim.attempts))
        judge.expect("failed", claim)
        judge.fails(claim, Cause.FAILED.value, kind=kind, final=final, retry_ns=retry_ns)
        claim.kind, claim.text = kind, text

    def _completes(self, seat: Seat, said: Complete, claim: Claim, body: Body) -> None:
        judge = self._judge
        how = judge.answered(said.token, body, said.headers)
        judge.count(f"native_answers_{how or 'superseded'}")
        if how:
            seat.unsafe.append((said.n, claim, 0))
        else:
            self._refused[said.token[:64], said.n, "superseded"] += 1
            self._refused[said.token[:64], said.n, "not_open"] += 1

    def _extends(self, said: Extend, claim: Claim) -> None:
        now = self._judge.now
        ends = now + said.run_ms * 1_000_000
        if said.run_ms < 1:
            self._refused[said.token[:64], said.n, "bad_report"] += 1
        elif ends > claim.began + self._limits.run_ns_max:
            self._refused[said.token[:64], said.n, "ceiling"] += 1
        else:
            if claim.ends != NEVER:
                claim.ends = max(claim.ends, ends)
            claim.heard = now

    # --- What workers are told

    def sent(self, message: tuple[Any, ...], code: int) -> None:
        """The broker says something to a native worker."""
        peer, path, _, header, *rest = message
        said = native.to_worker(VERSION, header)
        self._judge.saw("says", peer.descriptor, path, header, code)
        seat = self._on.get((peer, path))
        if isinstance(said, Dispatch):
            self._dispatched(seat, said, rest[0], code)
            return
        if isinstance(said, Cancel):
            self._stops.pop(said.token, None)
        if code:
            self.unsaid += code == errno.EAGAIN and not isinstance(said, Ack)
            if isinstance(said, Welcome) and self._welcomes.get((peer, path)):
                self._welcomes[peer, path].popleft()
            if not isinstance(said, Recall):  # of a recall that was not heard, too, the job may be taken back
                return
        match said:
            case Error():
                self._told_error(peer, path, said)
            case Welcome():
                self._welcomed(peer, path, said)
            case Ack():
                self._acked(seat, said.ack)
            case ReportRefused():
                self._told_refused(said)
            case Recall():
                for token in said.tokens:
                    self._recalled(seat, token)
            case Cancel():
                self._cancelled(said)
            case _:
                pass

    def _dispatched(self, seat: Seat | None, said: Dispatch, body: Body, code: int) -> None:
        judge = self._judge
        key = key_of(body)
        judge.saw("dispatched", key, said.token, said.seq, said.attempt, code)
        claim = judge.may_be_dispatched(judge.by_key.get(key), key)
        if seat is None or seat.over:
            raise Violation(WRONG, f"{key!r} was dispatched where nobody has said hello")
        if seat.handed >= seat.granted:
            text = f"{key!r} was dispatched to {seat} beyond its credit: {seat.granted}"
            raise Violation(WRONG, text)
        seat.handed += 1
        if said.seq != seat.handed:
            raise Violation(WRONG, f"hand-over {seat.handed} of {seat} says that it is number {said.seq}")
        if claim.queue not in seat.queues:
            raise Violation(WRONG, f"{key!r} of {claim.queue} was dispatched to {seat}, who serves {seat.queues}")
        if said.token in judge.by_token:
            raise Violation(WRONG, f"{key!r} was dispatched with a token that was given before")
        if said.attempt != claim.attempts + 1:
            raise Violation(WRONG, f"{key!r} was dispatched as attempt {said.attempt} after {claim.attempts}")
        if (said.queue, said.headers, said.tries) != (claim.queue, claim.headers, claim.agreed.tries):
            raise Violation(WRONG, f"{key!r} was dispatched on other terms than it was asked for: {said}")
        if (said.run_ms, said.silence_ms) != (_ms(claim.run_ns), _ms(claim.silence_ns)):
            raise Violation(WRONG, f"{key!r} was dispatched with other limits than it was asked for: {said}")
        left_ms = None if claim.ends_by == NEVER else (claim.ends_by - judge.now) // 1_000_000
        if _differs(left_ms, said.deadline_ms, by=1 if claim.early_ns else 0):
            raise Violation(WRONG, f"{key!r} was dispatched with {said.deadline_ms} ms left, and has {left_ms}")
        judge.requests.has_id(claim, said.job)
        judge.requests.may_run(claim)
        judge.lines.gives(claim, seat)
        judge.gets_token(claim, said.token, native=True)
        claim.holder, claim.recalled, claim.seq = seat, None, said.seq
        seat.claims.add(claim)
        if said.ack and not code:
            self._acked(seat, said.ack)
        judge.count("handed_over")
        if seat.confirms:
            claim.state = HELD
            seat.jobs[said.seq] = claim
        else:
            judge.starts(claim)
        if code:
            judge.count("handovers_failed")
            judge.undelivered(claim)
            self._unreached.append(seat)

    def void(self) -> None:
        """Those who could not be reached have no credit any more, once their batch was tried; the numbers of hand-overs
        that never left are given out again.
        """
        for seat in self._unreached:
            seat.handed -= 1
            seat.granted = seat.handed
        self._unreached.clear()

    def _told_error(self, peer: Peer, path: Path, said: Error) -> None:
        self._judge.count(f"told_{said.code}")
        if said.code == "bad_credit" and self._too_much:
            self._too_much -= 1
            return
        if not self._errors[peer, path, said.code]:
            raise Violation(WRONG, f"a worker was told {said.code} ({said.text}) without a reason")
        self._errors[peer, path, said.code] -= 1

    def _welcomed(self, peer: Peer, path: Path, said: Welcome) -> None:
        owed = self._welcomes.get((peer, path))
        if not owed:
            raise Violation(WRONG, f"somebody at {peer} was welcomed who has not said hello")
        seat, handed, lost = owed.popleft()
        if said.handed != handed:
            raise Violation(WRONG, f"{seat} got {handed} hand-overs, and was told {said.handed}")
        if set(said.lost) != set(lost):
            raise Violation(WRONG, f"{seat} was told of {len(said.lost)} lost claims, {len(lost)} are")
        if said.received or not seat.over:
            self._acked(seat, said.received)

    def _acked(self, seat: Seat | None, number: int) -> None:
        if seat is None:
            raise Violation(WRONG, "somebody's reports were acknowledged who has no session")
        if number > seat.reported:
            raise Violation(WRONG, f"{seat} has reported {seat.reported}, and was acknowledged {number}")
        if number < seat.acked:
            raise Violation(WRONG, f"{seat} was acknowledged {number} after {seat.acked}")
        seat.acked = number
        left = []
        for n, claim, attempt in seat.unsafe:
            if n > number:
                left.append((n, claim, attempt))
            elif self._judge.has_store and not (claim.safe_end or (attempt and claim.failed_safe >= attempt)):
                raise Violation(WRONG, f"report {n} of {seat} on {claim} was acknowledged before it was safe")
        seat.unsafe = left
        self._judge.count("acks")

    def _told_refused(self, said: ReportRefused) -> None:
        if not self._refused[said.token, said.n, said.code]:
            raise Violation(WRONG, f"report {said.n} on {said.token.hex()} was refused ({said.code}) without a reason")
        self._refused[said.token, said.n, said.code] -= 1
        self._judge.count(f"reports_refused_{said.code}")

    def _recalled(self, seat: Seat | None, token: bytes) -> None:
        claim = self._judge.by_token.get(token)
        if seat is None:
            return  # it was lost in the same turn
        if not seat.recalls:
            raise Violation(WRONG, f"{seat} was asked to hand back, and does not heed that")
        if claim in seat.claims and claim.token == token and not claim.open and claim.ended_at == self._judge.now:
            return  # it was called back, and then it ended, in the same turn
        if claim is None or claim.holder is not seat or claim.state != HELD or claim.token != token:
            raise Violation(WRONG, f"{seat} was asked to hand back {claim}, which it does not hold")
        if 2 * (claim.handovers + 1) > self._limits.handovers_of(claim.agreed.tries):
            raise Violation(WRONG, f"{claim} was called back after {claim.handovers} hand-overs in vain: half are left")
        claim.recalled = self._judge.now
        self._judge.count("recalled")

    def _cancelled(self, said: Cancel) -> None:
        claim = self._judge.by_token.get(said.token)
        if claim is None:
            raise Violation(WRONG, "a token was cancelled that nobody was given")
        if claim.open and claim.token == said.token and claim.state != WAITS:
            raise Violation(WRONG, f"{claim} was cancelled ({said.reason}), and its attempt goes on")
        if said.reason in ("answered", "asker_gone", "cancelled", "deadline") and claim.open:
            raise Violation(WRONG, f"{claim} was cancelled as {said.reason}, and is open")
        self._judge.count(f"cancelled_{said.reason}")


def _differs(left_ms: int | None, said_ms: int | None, *, by: int) -> bool:
    """Whether something else was said than is left, by more than so much."""
    if left_ms is None or said_ms is None:
        return left_ms is not said_ms
    return abs(left_ms - said_ms) > by


def _ms(ns: int | None) -> int | None:
    return None if ns is None else ns // 1_000_000


def _key(claim: Claim) -> bytes:
    return claim.key
