"""The judge: what the broker owes, worked out from what passed its endpoints, and whether it was paid.

The judge reads along at the borders of the loop - every request, ask and answer as the broker reads it, every message
as it sends it, every loss as it hears of it - and keeps its own small account of each job. It shares no code with the
machine. A job is known by the first frame of its body, which is different for every submission.

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
  and the grace is over. An attempt counts when the hand-over was sent; one whose send failed does not;
- as many hand-overs failed to leave as `Limits.handovers_max` allows;
- the broker had been stopped; or it was draining, or the request was too large to be a job, when the request was
  read.

**Wrong** is everything else that must never happen; each is said by name where it is found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from relet.core.job import DISCARDED, RUNNING, Job, Reason
from relet.core.limits import Limits
from relet.core.machine import RECLAIM_NS
from relet.events import Event
from relet.messages import Accepted, Body, Finished, Path, Peer, Records, Refused
from relet.testing.network import Wire

LOST: Final = "lost"
FALSE_FAILURE: Final = "false_failure"
WRONG: Final = "wrong"


class Violation(AssertionError):
    """The broker did what it must not do. `kind` is `LOST`, `FALSE_FAILURE` or `WRONG`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


def key_of(body: Body) -> bytes:
    """What a job is known by: the first frame of its body."""
    return bytes(body[0] if type(body) is tuple else body)  # type: ignore[arg-type]  # a tuple's items are frames


WAITS, RUNS, ANSWERED, FAILED, GONE = range(5)


class Claim:
    """What is owed for one request."""

    __slots__ = (
        "answer",
        "attempts",
        "began",
        "excused",
        "forgiven",
        "handovers",
        "holder",
        "key",
        "path",
        "state",
        "token",
        "told",
        "wire",
    )

    def __init__(self, key: bytes, wire: Wire | None, path: Path) -> None:
        self.key = key
        self.wire = wire
        """The connection on which it came; None once nobody is to be told."""
        self.path = path
        self.state = WAITS
        self.attempts = 0
        self.forgiven = 0
        """Attempts that a crash of the broker may have made it forget."""
        self.handovers = 0
        self.began = 0
        self.holder: Peer | None = None
        self.token = b""
        self.answer: Body = b""
        self.told = False
        self.excused = False


class Judge:
    """Witness of one world (`network.Witness`); raises `Violation`. Times are lease time of the running turn."""

    def __init__(self, *, tries: int | None, timeout_ns: int | None, limits: Limits, has_store: bool) -> None:
        self.now = 0
        self.draining = False
        self.stopped = False
        self.by_key: dict[bytes, Claim] = {}
        self.counts: dict[str, int] = {}
        self.seen = 0
        """How much has happened."""
        self.trace: Any = None
        """A hash that takes in everything, or None."""
        self._tries = tries
        self._timeout_ns = timeout_ns
        self._limits = limits
        self._handovers_max = limits.handovers_of(tries)
        self._has_store = has_store
        self._by_token: dict[bytes, Claim] = {}
        self._by_route: dict[tuple[Wire, Path], Claim] = {}
        self._refusals: dict[tuple[Wire, Path], int] = {}
        self._credit: dict[Peer, dict[Path, int]] = {}
        self._asked: list[tuple[Peer, Path]] = []
        self._voided: list[tuple[Peer, Path]] = []
        self._lost_at: dict[Peer, int] = {}
        self._safe: set[bytes] = set()
        self._safe_ends: set[bytes] = set()
        self._keys: dict[int, bytes] = {}

    def watch(self) -> None:
        """Takes in everything from here on, for `digest`."""
        self.trace = hashlib.blake2b(digest_size=16)

    def digest(self) -> str:
        """What happened, as one value: the same for the same seed."""
        return str(self.trace.hexdigest())

    def _saw(self, *what: object) -> None:
        self.seen += 1
        if self.trace is not None:
            self.trace.update(repr((self.now, what)).encode())

    def count(self, what: str, number: int = 1) -> None:
        """Counts for the summary."""
        self.counts[what] = self.counts.get(what, 0) + number

    # --- What the broker reads

    def request(self, wire: Wire, path: Path, body: Body) -> None:
        """A request was read: from here on it is owed an outcome."""
        key = key_of(body)
        self._saw("request", key)
        if self.draining:
            self._expect_refusal(wire, path)
            return
        if key in self.by_key:
            raise Violation(WRONG, f"request {key!r} was read twice")
        claim = self.by_key[key] = self._by_route[wire, path] = Claim(key, wire, path)
        if wire.gone:
            claim.wire = None

    def refused(self, wire: Wire, refused: Refused) -> None:
        """Something was read that cannot be taken; where it has a return path, a failure is owed."""
        self._saw("refused", refused.reason)
        self.count("messages_refused")
        if wire.endpoint.role == "clients" and refused.path is not None:
            self._expect_refusal(wire, refused.path)

    def _expect_refusal(self, wire: Wire, path: Path) -> None:
        self._refusals[wire, path] = self._refusals.get((wire, path), 0) + 1

    def ask(self, peer: Peer, path: Path) -> None:
        """An ask was read. It counts when the losses of the turn are known: the dead ask for nothing."""
        self._saw("ask", peer.descriptor, path)
        self._asked.append((peer, path))

    def lost(self, role: str, peers: Sequence[Peer]) -> None:
        """Connections have gone."""
        if role == "workers":
            for peer, path in self._voided:  # the rest of its batch was tried; from here on it must ask again
                self._credit.get(peer, {})[path] = 0
            self._voided.clear()
            for peer in peers:
                self._saw("lost", peer.descriptor)
                self._lost_at.setdefault(peer, self.now)
                self._credit.pop(peer, None)
        if role == "workers" and self._asked:
            asked, self._asked = self._asked, []
            for peer, path in asked:
                self._grant(peer, path)

    def _grant(self, peer: Peer, path: Path) -> None:
        if peer in self._lost_at:
            return
        paths = self._credit.setdefault(peer, {})
        credit = paths.get(path, 0)
        if credit and (peer.asks_one_at_a_time or credit >= self._limits.asks_per_worker_max):
            return
        paths[path] = credit + 1

    def answer(self, frames: tuple[Any, ...]) -> None:
        """An answer was read: the first to an open job is its outcome, whichever attempt it belongs to."""
        self._saw("answer", frames)
        claim = self._by_token.get(frames[0])
        if claim is None or claim.state > RUNS:
            self.count("answers_refused")
            return
        claim.state = ANSWERED
        claim.holder = None
        claim.answer = frames[1] if len(frames) == 2 else frames[1:] if len(frames) > 2 else b""

    # --- What the broker sends

    def sent(self, role: str, wire: Wire | None, message: tuple[Any, ...], code: int) -> None:
        """A message was sent, or could not be."""
        if role == "workers":
            self._dispatched(message, code)
        elif code == 0 and wire is not None:
            self._told(wire, message)

    def _dispatched(self, message: tuple[Any, ...], code: int) -> None:
        peer, path, _, token, body = message
        key = key_of(body)
        self._saw("dispatched", key, token, peer.descriptor, path, code)
        claim = self.by_key.get(key)
        if claim is None:
            raise Violation(WRONG, f"{key!r} was dispatched and never accepted")
        if claim.state > RUNS:
            raise Violation(WRONG, f"{key!r} was dispatched after its end")
        if claim.state == RUNS and not self._is_over(claim):
            raise Violation(
                WRONG, f"{key!r} was dispatched again before its attempt was over: it is let to two, or early"
            )
        if self._has_store and key not in self._safe:
            raise Violation(WRONG, f"{key!r} was dispatched before its acceptance was safe")
        if claim.token and claim.token != token:
            raise Violation(WRONG, f"{key!r} has changed its id: a late answer would not count")
        if self._by_token.setdefault(token, claim) is not claim:
            raise Violation(WRONG, f"{key!r} has the id of another job")
        claim.token = token
        paths = self._credit.get(peer, {})
        if paths.get(path, 0) < 1:
            raise Violation(WRONG, f"{key!r} was dispatched to a worker without an unspent ask")
        if code:
            self.count("handovers_failed")
            claim.state, claim.holder = WAITS, None
            claim.handovers += 1
            paths[path] -= 1
            self._voided.append((peer, path))
            return
        paths[path] -= 1
        claim.attempts += 1
        claim.state, claim.holder, claim.began = RUNS, peer, self.now
        self.count("attempts")
        if self._tries is not None and claim.attempts > self._tries + claim.forgiven:
            raise Violation(WRONG, f"{key!r} was dispatched {claim.attempts} times, {self._tries} are allowed")

    def _is_over(self, claim: Claim) -> bool:
        """The running attempt has ended by rule: its time was up, or its worker was lost and the grace is over."""
        if self._timeout_ns is not None and self.now >= claim.began + self._timeout_ns:
            return True
        if claim.holder is None:
            return self._timeout_ns is None and self.now >= claim.began + RECLAIM_NS
        lost_at = self._lost_at.get(claim.holder)
        return lost_at is not None and self.now >= lost_at + self._limits.worker_grace_ns

    def _told(self, wire: Wire, message: tuple[Any, ...]) -> None:
        _, path, _, outcome = message
        self._saw("told", wire.routing_id, path, outcome)
        claim = self._by_route.get((wire, path))
        if claim is None or claim.state <= RUNS or claim.told:
            refusals = self._refusals.get((wire, path), 0)
            if outcome == b"" and refusals:
                self._refusals[wire, path] = refusals - 1
                self.count("refused")
                return
            if claim is None:
                raise Violation(WRONG, f"a client was told {outcome!r} and had asked nothing there")
            if claim.told:
                raise Violation(WRONG, f"{claim.key!r} was told twice")
            if outcome == b"":
                raise Violation(FALSE_FAILURE, f"{claim.key!r} is open, and its client was told that it failed")
            raise Violation(WRONG, f"{claim.key!r} is open, and its client was told {outcome!r}")
        if claim.state == ANSWERED and outcome == b"":
            raise Violation(FALSE_FAILURE, f"{claim.key!r} was answered, and its client was told that it failed")
        if claim.state == ANSWERED and outcome != claim.answer:
            raise Violation(WRONG, f"{claim.key!r} was answered {claim.answer!r}, and its client was told {outcome!r}")
        if claim.state == FAILED and outcome != b"":
            raise Violation(WRONG, f"{claim.key!r} has failed, and its client was told {outcome!r}")
        if self._has_store and claim.key not in self._safe_ends:
            raise Violation(WRONG, f"the outcome of {claim.key!r} was told before it was safe")
        claim.told = True
        self.count("told_failure" if outcome == b"" else "told_answer")

    # --- What the broker decides and says

    def ended_badly(self, job: Job) -> None:
        """The machine has discarded or cancelled a job."""
        key = key_of(job.body)
        self._saw("ended_badly", key, job.reason)
        claim = self.by_key.get(key)
        if claim is None:
            raise Violation(WRONG, f"{key!r} has failed and was never accepted")
        if claim.state > RUNS:
            kind = FALSE_FAILURE if claim.state == ANSWERED else WRONG
            raise Violation(kind, f"{key!r} has failed after its end")
        self.count(job.reason)
        if job.state == DISCARDED and job.reason == Reason.TRIES_SPENT:
            spent = self._tries is not None and claim.attempts >= self._tries
            if not spent or claim.state != RUNS or not self._is_over(claim):
                text = f"{key!r} has failed after {claim.attempts} attempts of {self._tries}"
                raise Violation(FALSE_FAILURE, f"{text}, the last of which is not over" if spent else text)
        elif job.state == DISCARDED and job.reason == Reason.HANDOVERS_SPENT:
            if claim.handovers < self._handovers_max:
                raise Violation(FALSE_FAILURE, f"{key!r} has failed after {claim.handovers} failed hand-overs")
        elif not self.stopped:
            raise Violation(FALSE_FAILURE, f"{key!r} was ended by a broker that was not stopped")
        claim.state, claim.holder = FAILED, None

    def publish(self, notice: tuple[Event, dict[str, Any]]) -> None:
        """What the broker says of itself."""
        self._saw("notice", notice[0].value, sorted(notice[1].items(), key=str))

    def settled(self, records: Records) -> None:
        """The store has made these safe."""
        for record in records:
            if isinstance(record, Accepted):
                key = self._keys[record.number] = key_of(record.body)
                self._safe.add(key)
            elif isinstance(record, Finished) and record.number in self._keys:
                self._safe_ends.add(self._keys[record.number])

    def crashed(self) -> None:
        """The broker is gone: asks, routes and peers with it."""
        self._saw("crashed")
        self.count("broker_crashes")
        self._credit.clear()
        self._asked.clear()
        self._by_route.clear()
        self._refusals.clear()
        for claim in self.by_key.values():
            claim.wire = None

    def restarted(self, jobs: list[Job], lease_now: int) -> None:
        """A new broker has loaded these jobs; the others were never safe, or have ended."""
        self.now = lease_now
        found = {key_of(job.body): job for job in jobs}
        self._by_token.clear()
        for key in found.keys() - self.by_key.keys():
            raise Violation(WRONG, f"{key!r} came out of the store and was never accepted")
        for key, claim in self.by_key.items():
            job = found.get(key)
            if job is not None:
                self._goes_on(claim, job)
            elif claim.state <= RUNS:
                if key in self._safe:
                    raise Violation(LOST, f"{key!r} was safe and is gone after the restart")
                claim.state = GONE
                self.count("gone_with_the_broker")

    def _goes_on(self, claim: Claim, job: Job) -> None:
        if claim.key in self._safe_ends:
            raise Violation(WRONG, f"{claim.key!r} had ended, and is open again after the restart")
        claim.forgiven = max(claim.forgiven, claim.attempts - job.attempts)
        claim.state, claim.holder, claim.began = (RUNS if job.state == RUNNING else WAITS), None, self.now
        claim.token = job.token
        if job.token:
            self._by_token[job.token] = claim

    # --- The verdict

    def overdue(self, slack_ns: int) -> Claim | None:
        """A job whose attempt should have ended long ago; None when all is in time."""
        for claim in self.by_key.values():
            if claim.state == RUNS:
                ends = claim.began + (self._timeout_ns if self._timeout_ns is not None else 1 << 60)
                lost_at = self._lost_at.get(claim.holder) if claim.holder is not None else None
                if lost_at is not None:
                    ends = min(ends, max(lost_at, claim.began) + self._limits.worker_grace_ns)
                if self.now > ends + slack_ns:
                    return claim
        return None

    def verdict(self, *, dropped: int, reads: Callable[[Wire], bool]) -> None:
        """The world is over. `dropped`: what the broker counted as `reply_dropped`. `reads`: does this client read?"""
        untold = 0
        for claim in self.by_key.values():
            if claim.state <= RUNS:
                state = "waits" if claim.state == WAITS else f"runs since {claim.began}"
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
