"""The judge's account of native clients: who has asked for what, what each is owed, what it was told and has received.

A request is known by its id. Asking again while its job is open, or while its outcome must still be kept, is never a
second job; the judge knows for certain that an outcome is kept as long as nobody has said that he received it, it is
young enough, and no bound can have made the broker forget it. Where it is not certain the broker may do either, and
what it does is taken for its word.

What an asker is owed: one outcome for each request that it asked for with `wait`, or a refusal with a reason that
holds. Outcomes are numbered without a gap, but for those that the broker counts as dropped.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from relet.core.job import Job
from relet.core.requests import TRANSIT_NS
from relet.dialects import native
from relet.messages import (
    TOO_LARGE,
    VERSION,
    Admitted,
    Body,
    CancelJob,
    ClientHello,
    Error,
    FromClient,
    Heartbeat,
    Inquire,
    JobState,
    Key,
    Native,
    Outcome,
    Path,
    Peer,
    Refused,
    Submit,
    Submitted,
    TellPartial,
    TellProgress,
    Welcome,
    body_bytes,
    body_frames,
)
from relet.testing import judged_keys as keys
from relet.testing import judged_terms as terms
from relet.testing.claims import (
    ANSWERED,
    FAILED,
    FALSE_FAILURE,
    GONE,
    HELD,
    LOST,
    RUNS,
    WAITS,
    WRONG,
    Claim,
    Named,
    Violation,
    key_of,
)
from relet.testing.network import Wire

if TYPE_CHECKING:
    from relet.testing.judge import Judge

DESERTED_SLACK_NS: Final = 2_000_000_000
"""How long after its askers' grace a job that was to end with them may still be dispatched."""
_WORDS: Final = {
    WAITS: ("available", "delayed", "blocked"),
    HELD: ("held",),
    RUNS: ("running",),
    ANSWERED: ("completed", "unknown", "expired"),
    FAILED: ("discarded", "cancelled", "unknown", "expired"),
    GONE: ("unknown", "expired"),
}


@dataclass(slots=True, eq=False)
class Told:
    """An asker, as the judge sees it: a return path on a connection, from its hello on."""

    peer: Peer
    path: Path
    wire: Wire
    follows: bool
    number: int = 0
    """Of the last outcome that it was told."""
    gaps: int = 0
    """Outcomes that have a number and were not told."""
    gone: int | None = None
    unreceived: list[tuple[int, bytes, Claim]] = field(default_factory=list, repr=False)
    """(number, by which id it was told, job)."""
    asked: dict[bytes, list[Asked]] = field(default_factory=dict, repr=False)
    """By the id that it asked with: what is not settled."""
    states: dict[bytes, list[tuple[str, ...]]] = field(default_factory=dict)
    """By id: the words that an answer to an inquiry may have."""


@dataclass(slots=True, eq=False)
class Asked:
    """One thing that an asker has asked for."""

    asker: Told
    name: bytes
    said: Submit | Inquire | CancelJob
    size: int
    key: bytes
    at: int
    open_before: int
    """Jobs that were open or asked for when it was heard."""
    among: bool = False
    """It is one of many in a message: where another is refused, all of them are told what became of them."""
    full: bool = False
    """Its queue may have been full then."""
    there: Claim | None = None
    """The job that has its unique key."""
    code: str = ""
    """What it must be refused with."""
    may: tuple[str, ...] = ()
    """What it may be refused with."""
    claim: Claim | None = None
    wait: bool = False
    """An outcome is owed."""
    ack: bool = False
    """A `submitted` is owed."""
    after_end: bool = False
    """It was asked when the job had ended: an outcome of its own is owed."""
    settled: bool = False
    """Whether it became a job, joined one, or must be refused."""
    maybe: bool = False
    """Whether the outcome was still there is not certain."""

    @property
    def pending(self) -> bool:
        """Something may be said."""
        return self.wait or self.ack or self.among or self.code != "" or self.may != ()


class Requests:
    """All native clients of a world."""

    def __init__(self, judge: Judge) -> None:
        self.read: deque[tuple[Wire, Native]] = deque()
        """Messages that were read and not heard yet."""
        self.by_id: dict[bytes, Claim] = {}
        self.askers: dict[tuple[Peer, Path], Told] = {}
        self._parted: dict[tuple[Peer, Path], Told] = {}
        """Whose connections have gone: what they said before may be heard yet."""
        self._welcomes: dict[tuple[Peer, Path], list[Told]] = {}
        """Who has said hello there and was not welcomed."""
        self._listening: dict[tuple[Peer, Path], Told] = {}
        """Who was welcomed there last: what is told is told him."""
        self._judge = judge
        self._limits = judge.limits
        self._errors: Counter[tuple[Peer, Path, str]] = Counter()
        self._proposed: dict[bytes, list[Asked]] = {}
        self._ended_in = (-1, -1)
        self._first_ended = 0
        """The turn in which outcomes came last, and the first of them."""
        self._ended: list[int] = []
        """Of outcomes in the order of their ends, when the youngest of them and those before was accepted."""
        self._by_job_id: dict[bytes, Claim] = {}
        self._joined_late: dict[Claim, int] = {}
        """Jobs that were joined after their ends, and when that was last."""

    # --- What clients say

    def too_large(self, refused: Refused) -> None:
        """A request came whose body nobody has."""
        place = refused.peer, refused.path or b""
        self._errors[(*place, TOO_LARGE)] += 1

    def hear(self) -> None:
        """The machine hears all that was read."""
        while self.read:
            self._hear_next()

    def hears(self, peer: Peer, path: Path, said: FromClient) -> None:
        """The machine announces that it hears this now; and it has heard what was read before."""
        while self.read:
            if self._hear_next() == (peer, path, said):
                return
        raise Violation(WRONG, f"the broker heard from {peer} what nobody has said: {said}")

    def hear_unannounced(self) -> None:
        """The machine has heard what was read, up to what it must announce."""
        while self.read:
            peer, path, version, header, _ = self.read[0][1]
            try:
                said = native.from_client(version, header)
            except native.BadMessage:
                said = Heartbeat()
            known = (peer, path) in self.askers
            if isinstance(said, ClientHello) and peer.routing_id:
                return
            if known and not isinstance(said, ClientHello | Heartbeat):
                return
            self._hear_next()

    def _hear_next(self) -> tuple[Peer, Path, Any]:
        wire, (peer, path, version, header, body) = self.read.popleft()
        try:
            said = native.from_client(version, header)
        except native.BadMessage as bad:
            self._errors[peer, path, bad.error.code] += 1
            return peer, path, bad
        asker = self.askers.get((peer, path))
        if asker is None and not peer.routing_id:
            self._last_words(peer, path, said)
        elif isinstance(said, ClientHello):
            if peer.routing_id:
                self._hello(wire, peer, path, said)
        elif asker is None:
            self._errors[peer, path, "no_session"] += 1
        else:
            self._heard(asker, said, body)
        return peer, path, said

    def _hello(self, wire: Wire, peer: Peer, path: Path, said: ClientHello) -> None:
        before = self.askers.get((peer, path))
        if before is not None:
            before.gone = self._judge.now
        asker = self.askers[peer, path] = Told(peer, path, wire, "follows" in said.features)
        self._welcomes.setdefault((peer, path), []).append(asker)
        self._judge.count("client_sessions")

    def _heard(self, asker: Told, said: Any, body: Body) -> None:
        if isinstance(said, Submit | Inquire | CancelJob | Heartbeat):
            self._received(asker, said.received)
        if isinstance(said, Submit):
            self._submits(asker, said, body)
        elif isinstance(said, CancelJob):
            self._cancels(asker, said)
        elif isinstance(said, Inquire):
            self._inquires(asker, said)

    def _last_words(self, peer: Peer, path: Path, said: Any) -> None:
        """The connection has gone: what was received before counts, and nothing else."""
        asker = self._parted.get((peer, path))
        if asker is not None and isinstance(said, Submit | Inquire | CancelJob | Heartbeat):
            self._received(asker, said.received)

    def _received(self, asker: Told, number: int) -> None:
        unreceived = asker.unreceived
        while unreceived and unreceived[0][0] <= number:
            _, name, claim = unreceived.pop(0)
            claim.receipts.add(name)
            self._judge.count("receipts")
        if number > asker.number:  # of a session before this one: for the broker it has what is on its way to it, too
            for name, several in asker.asked.items():
                for it in several:
                    if it.wait and it.claim is not None and not it.claim.open:
                        it.claim.receipts.add(name)

    def _submits(self, asker: Told, said: Submit, body: Body) -> None:
        frames = body_frames(body)
        items: list[tuple[bytes, Body]] = [(said.id, body)]
        code, proposed = "", sum(map(len, self._proposed.values()))
        before = self._judge.open + proposed
        if said.jobs:
            items, begin = [], 0
            for item in said.jobs:
                part = frames[begin : begin + item.frames]
                items.append((item.id, part[0] if len(part) == 1 else part))
                begin += item.frames
            if said.id or begin != len(frames) or len(items) > self._limits.ids_per_message_max:
                code = "bad_request"
            elif len({name for name, _ in items}) != len(items):
                code = "bad_id"
        for name, one in items:
            key = key_of(one) if one != () else b""
            asked = Asked(asker, name, said, body_bytes(one), key, self._judge.now, before + len(items), ack=said.ack)
            asked.wait, asked.among = said.wait, len(items) > 1
            asker.asked.setdefault(name[:64], []).append(asked)
            if code:
                asked.code, asked.settled = code, True
            else:
                self._asks(asked, said)

    def _asks(self, asked: Asked, said: Submit) -> None:
        claim = self.by_id.get(asked.name)
        if claim is not None and claim.open:
            self._joins(asked, claim)
        else:
            asked.claim = claim
            asked.code = self._fault_of(asked, said)
            more = sum(map(len, self._proposed.values())) + len(self._judge.of_2010)
            asked.full = self._judge.lines.named(said.queue).may_be_full(more)
            self._proposed.setdefault(asked.name, []).append(asked)

    def _joins(self, asked: Asked, claim: Claim) -> None:
        """The request is known, and its job is open."""
        asked.settled, asked.claim, asked.code = True, claim, ""
        said = asked.said
        if isinstance(said, Submit) and (said.queue != claim.queue or asked.size != claim.names[asked.name].size):
            asked.code, asked.wait = "conflict", False
            return
        self._judge.count("joined")
        if not asked.wait:
            return
        others = {(id(it.asker), it.name) for it in claim.askers if it.asker.gone is None}
        if len(others - {(id(asked.asker), asked.name)}) >= self._limits.askers_per_job_max:
            asked.may = ("too_many_askers",)
        claim.askers.append(asked)

    def _fault_of(self, asked: Asked, said: Submit) -> str:
        """What is wrong with a request for a job that is not open."""
        limits = self._limits
        if not 16 <= len(asked.name) <= 64:
            return "bad_id"
        if self._judge.draining or self._judge.stopped:
            return "draining"
        headers = sum(len(name) + len(value) for name, value in (said.headers or {}).items())
        run_max, keep_max = limits.run_ns_max // 1_000_000, limits.outcome_ns // 1_000_000
        silence = said.silence_ms is None or 1 <= said.silence_ms <= run_max
        run = said.run_ms is None or 0 <= said.run_ms <= run_max
        queue = 1 <= len(said.queue) <= 200
        usual = terms.agreed(terms.NOTHING_SAID, self._judge.lines.named(said.queue).settings, None, limits)
        if terms.contradiction(said, usual, asked.at, self._judge.wall_ns) or keys.contradiction(
            said, limits.unique_ns_max
        ):
            return "bad_request"
        if headers > limits.headers_bytes_max or not (run and silence and queue and 0 <= said.keep_ms <= keep_max):
            return "bad_request"
        if said.age_ms * 1_000_000 > limits.outcome_ns:
            return "expired"
        if self._judge.lines.named(said.queue).settings.intake_paused:
            return "queue_paused"
        return ""

    def _may_be_forgotten(self, asked: Asked, said: Submit) -> bool:
        """An outcome of its age may have been forgotten, because of a bound."""
        over, asked_at = len(self._ended) - self._limits.outcomes_max, asked.at - said.age_ms * 1_000_000
        if any(at + TRANSIT_NS >= asked_at and asked.at >= claim.ended_at + self._limits.outcome_ns
               for claim, at in self._joined_late.items()):  # fmt: skip
            return True
        return over > 0 and self._ended[over - 1] + TRANSIT_NS >= asked_at

    def accepted(self, job: Job, names: Collection[Key | None]) -> None:
        """The machine has made a job of a request; of all those in `names` at once."""
        judge, name = self._judge, job.request
        key = key_of(judge.frames_of(job.body))
        if not isinstance(name, bytes):
            raise Violation(WRONG, f"{key!r} was accepted with the id {name!r}")
        proposed = self._proposed.get(name, [])
        before = self.by_id.get(name)
        while proposed and (
            proposed[0].key != key
            or proposed[0].code
            or not _may_be_of(proposed[0], job)
            or not self._whole(proposed[0].said, names)
        ):
            self._is_refused(proposed.pop(0))
        if not proposed:
            what = "is open" if before is not None and before.open else "nobody has asked for it now"
            raise Violation(WRONG, f"{key!r} was accepted as a job, and {what}")
        asked = proposed.pop(0)
        said: Any = asked.said
        if before is not None:
            self._must_be_forgotten(before, asked, said)
        usual_ns = judge.lines.named(said.queue).run_ns(judge.timeout_ns)
        run_ns = usual_ns if said.run_ms is None else said.run_ms * 1_000_000 or None
        claim = Claim(key, None, b"", run_ns, request=name, queue=said.queue, headers=said.headers)
        claim.names[name] = Named(asked.size, said.gone == "finish", asked.at)
        claim.agreed = terms.agreed(said, judge.lines.named(said.queue).settings, judge.tries, judge.limits)
        claim.silence_ns = None if said.silence_ms is None else said.silence_ms * 1_000_000
        claim.late_any, claim.ends_alone = said.late == "any", said.gone == "cancel"
        claim.keep_ns, claim.accepted_at = said.keep_ms * 1_000_000, asked.at
        claim.asked_at, claim.asked_deaf_ns = asked.at - said.age_ms * 1_000_000, judge.deaf_ns
        judge.waits_until(claim, terms.due_of(said, asked.at, judge.wall_ns))
        judge.count("delayed", claim.due > 0)
        claim.again = said.age_ms > 0 and not judge.has_store and asked.at - said.age_ms * 1_000_000 < judge.began
        judge.count("accepted_again" if claim.again else "accepted_natively")
        asked.claim, asked.settled = claim, True
        if asked.wait:
            claim.askers.append(asked)
        self.by_id[name] = claim
        judge.keys.takes(claim, job.id, said)
        judge.enters(claim, job.number)
        self._proposed.pop(name, None)
        self._follow(proposed, claim)

    def _follow(self, proposed: list[Asked], claim: Claim) -> None:
        """What was said of a request after that which has become a job, or has joined one."""
        for other in proposed:
            other.claim = claim
            if isinstance(other.said, CancelJob):
                other.settled = True
                self._cancels(other.asker, other.said)
            elif claim.open:
                self._joins(other, claim)
            else:
                other.code = ""
                self._is_refused(other)

    def _whole(self, said: Submit | Inquire | CancelJob, names: Collection[Key | None]) -> bool:
        """Whether all new jobs of a message were accepted: where there is no room for all, there is for none. In
        a queue there may be room for some.
        """
        if not isinstance(said, Submit) or self._judge.lines.named(said.queue).settings.jobs_max is not None:
            return True
        if said.unique:
            return True
        return all(
            item.id in names
            or not any(it.said is said and it.claim is None and not it.code for it in self._proposed.get(item.id, ()))
            for item in said.jobs
        )

    def _must_be_forgotten(self, claim: Claim, asked: Asked, said: Submit) -> None:
        """A request may be a job again only when its outcome is not kept any more."""
        if claim.open:
            raise Violation(WRONG, f"{claim} was accepted a second time, and is open")
        if self.is_kept(claim):
            raise Violation(WRONG, f"{claim} was accepted a second time, and its outcome is kept")
        if claim.state == GONE or not said.age_ms or (claim.receipts if claim.alone else asked.name in claim.receipts):
            return
        aged = self._judge.now >= claim.ended_at + self._limits.outcome_ns
        known = claim.names.get(asked.name)
        known_at = claim.accepted_at if known is None else known.asked_at
        if asked.at - said.age_ms * 1_000_000 <= known_at + (0 if aged else TRANSIT_NS):
            raise Violation(WRONG, f"{claim} was accepted a second time: it was asked before its outcome was forgotten")
        self._judge.count("ran_again_unawares")  # its way was so long that its age did not show

    def is_kept(self, claim: Claim) -> bool:
        """Whether the outcome must still be there."""
        if claim.state not in (ANSWERED, FAILED):
            return False
        now, limits = self._judge.now, self._limits
        if now >= claim.ended_at + limits.outcome_ns or len(self._ended) - claim.ended_serial >= limits.outcomes_max:
            return False
        if claim.alone:
            return not claim.receipts or now < claim.ended_at + claim.keep_ns
        return not claim.receipts.issuperset(claim.names) or now < claim.ended_at + claim.keep_ns

    def settle(self) -> None:
        """The machine has heard all requests: what did not become a job is answered otherwise."""
        self._judge.keys.settle()
        if not self._proposed:
            return
        for several in self._proposed.values():
            for asked in several:
                self._is_refused(asked)
        self._proposed.clear()

    def _is_refused(self, asked: Asked) -> None:
        """It is no job: refused, or told the outcome that is still kept."""
        asked.settled = True
        claim, said, limits = asked.claim, asked.said, self._limits
        if isinstance(said, CancelJob):
            asked.asker.states.setdefault(asked.name, []).append(self._words_of(claim))
            return
        if isinstance(said, Inquire):
            asked.maybe = asked.after_end = True
            asked.wait = claim is not None
            return
        kept = claim is not None and self.is_kept(claim)
        may = []
        if not kept:
            if asked.open_before > limits.jobs_max:
                may.append("busy")
            if asked.full:
                may.append("queue_full")
            if said.age_ms and self._may_be_forgotten(asked, said):
                may.append("expired")
            if said.unique and asked.code in ("", "queue_paused"):
                asked.may = tuple(may)
                self._judge.keys.refuses(asked, said)
                may = list(asked.may)
        if claim is not None and claim.state in (ANSWERED, FAILED):
            if said.queue == claim.queue and asked.size == claim.names[asked.name].size:
                asked.after_end = True
                asked.maybe = not kept
                if kept:
                    asked.code = ""
                elif asked.code:
                    may.append(asked.code)
                    asked.code = ""
            elif kept:
                asked.code = "conflict"
            else:
                may.append("conflict")
        if asked.code or not asked.after_end:
            asked.wait = False
        asked.may = tuple(may)
        if not asked.code and not may and not asked.after_end:
            raise Violation(WRONG, f"request {asked.key!r} was neither accepted nor is there a reason to refuse it")

    def _words_of(self, claim: Claim | None) -> tuple[str, ...]:
        """What may be said of its state."""
        if claim is not None and (claim.open or self.is_kept(claim)):
            return tuple(word for word in _WORDS[claim.state] if word not in ("unknown", "expired"))
        return ("unknown", "expired", *(() if claim is None else _WORDS[claim.state]))

    def _cancels(self, asker: Told, said: CancelJob) -> None:
        """Somebody does not want a job any more."""
        name = said.id or said.job
        claim = self.by_id.get(said.id) if said.id else self._by_job_id.get(said.job)
        proposed = self._proposed.get(said.id) if said.id else None
        if proposed:  # it may become a job first
            proposed.append(Asked(asker, name, said, 0, b"", self._judge.now, self._judge.open, claim=claim))
        elif claim is not None and claim.open:
            self._cancel(asker, said, claim)
        else:
            asker.states.setdefault(name, []).append(self._words_of(claim))

    def _cancel(self, asker: Told, said: CancelJob, claim: Claim) -> None:
        """Whose job it was ends it, unless somebody else is there who waits for it."""
        judge = self._judge
        mine = [it for it in claim.askers if it.asker is asker and said.id in (b"", it.name)]
        others = [it for it in claim.askers if it not in mine]
        there = {it.name for it in others if it.asker.gone is None}
        names = {said.id} if said.id else {it.name for it in mine}
        if not said.id and len(claim.names) == 1:
            names |= claim.names.keys()
        leaving = [name for name in claim.names if name in names - there]
        if there or len(leaving) < len(claim.names):
            claim.askers = [it for it in others if it.asker.gone is None or it.name not in names]
            self._leave(claim, leaving if len(leaving) < len(claim.names) else leaving[1:])
            judge.count("detached", bool(mine))
            for it in mine:  # one outcome for each name: of its own, and kept nowhere
                end = next((one.claim for one in mine if one.name == it.name and one.claim is not claim), None)
                it.claim = end or _detached(claim)
        else:
            claim.askers = mine
            judge.count(f"cancelled_{('waiting', 'held', 'running')[claim.state]}")
            judge.cancelled(claim)
        if not mine:
            asker.states.setdefault(said.id or said.job, []).append(self._words_of(claim))

    def _inquires(self, asker: Told, said: Inquire) -> None:
        judge = self._judge
        name = said.id or said.job
        claim = self.by_id.get(said.id) if said.id else self._by_job_id.get(said.job)
        judge.count("inquired")
        words = list(self._words_of(claim))
        proposed = self._proposed.get(said.id) if said.id else None
        if proposed:  # it may become a job first
            words += _WORDS[WAITS]
            if said.wait:
                asked = Asked(asker, name, said, 0, b"", judge.now, judge.open, claim=claim, wait=True)
                proposed.append(asked)
                asker.asked.setdefault(name, []).append(asked)
        asker.states.setdefault(name, []).append(tuple(words))
        if not said.wait or claim is None or proposed:
            return
        asked = Asked(asker, name, said, 0, claim.key, judge.now, judge.open, claim=claim, settled=True)
        if claim.open:
            asked.wait = True
            if len(claim.askers) >= self._limits.askers_per_job_max:
                asked.maybe = True
                self._errors[asker.peer, asker.path, "too_many_askers"] += 1
            claim.askers.append(asked)
        else:
            asked.wait = asked.after_end = claim.state != GONE
            asked.maybe = not self.is_kept(claim)
            if not asked.maybe:
                asker.states[name].pop()
        asker.asked.setdefault(name, []).append(asked)

    # --- Jobs of several requests

    def shared(self, names: list[bytes], *, was_expected: Callable[[str, Any], bool]) -> None:
        """A job is known by these requests now, and was by others."""
        claim = self.by_id.get(names[0])
        if claim is None:
            raise Violation(WRONG, f"{names} share a job, and nobody knows the first of them")
        for name in names:
            if name not in claim.names:
                self._shares(claim, name)
                self._judge.expect("shared", claim)
        if not was_expected("shared", claim) or list(claim.names) != names:
            raise Violation(WRONG, f"{claim} is the job of {list(claim.names)}, and the broker says: of {names}")

    def _shares(self, claim: Claim, name: bytes) -> None:
        """A request has joined the job of another: raises where it was not to."""
        proposed = self._proposed.pop(name, [])
        asked = proposed.pop(0) if proposed else None
        if asked is None or not isinstance(asked.said, Submit) or asked.code not in ("", "queue_paused"):
            raise Violation(WRONG, f"{name!r} has joined {claim}, and nobody has asked for it now")
        said = asked.said
        if not self._judge.keys.may_join(claim, said):
            raise Violation(WRONG, f"{name!r} ({said.unique_mode} {said.unique!r}) has joined {claim}, and was not to")
        if asked.claim is not None:
            self._must_be_forgotten(asked.claim, asked, said)
        self._judge.keys.joins(claim, asked, said)
        self.by_id[name] = claim
        asked.claim, asked.settled, asked.code, asked.after_end = claim, True, "", not claim.open
        if not claim.open:
            self._joined_late[claim] = asked.at
            self._ended[claim.ended_serial :] = [max(it, asked.at) for it in self._ended[claim.ended_serial :]]
        elif asked.wait:
            claim.askers.append(asked)
        self._follow(proposed, claim)

    def _leave(self, claim: Claim, names: list[bytes]) -> None:
        """These requests have this job no more: their ids are free."""
        for name in names:
            del claim.names[name]
            del self.by_id[name]
        if names:
            self._judge.expect("shared", claim)
            self._judge.count("left", len(names))

    def wants_to_replace(self, claim: Claim) -> bool:
        """Whether a request that is heard now asks for the place of this job."""
        held = keys.held_by(claim)
        return any(
            isinstance(it.said, Submit)
            and it.said.unique_mode == "replace"
            and not it.code
            and (it.said.queue, it.said.unique) == held
            for several in self._proposed.values()
            for it in several
        )

    def is_safe(self, claim: Claim, names: Collection[bytes]) -> None:
        """A store knows by which requests this job is known: by these."""
        known = {**claim.safe_names, **claim.names}
        claim.safe_names = {name: known.get(name) or Named(0, False, claim.accepted_at) for name in names}

    def restarted(self) -> None:
        """A new broker has begun: it knows jobs by what was safe."""
        claims = [it for it in dict.fromkeys((*self.by_id.values(), *self._judge.by_key.values())) if it.safe_names]
        for claim in claims:
            for name in claim.names:
                if name not in claim.safe_names and self.by_id.get(name) is claim:
                    del self.by_id[name]
            claim.names, claim.alone = dict(claim.safe_names), len(claim.safe_names) == 1
        for claim in claims:
            for name in claim.names:
                known = self.by_id.get(name)
                if known is None or known.state == GONE:
                    self.by_id[name] = claim

    # --- What becomes of claims and askers

    def ended(self, claim: Claim) -> None:
        """A native job has its outcome."""
        claim.alone = len(claim.names) == 1
        asked_at = max(claim.accepted_at, *(it.asked_at for it in claim.names.values()))
        self._ended.append(max(asked_at, self._ended[-1] if self._ended else -1))
        if self._ended_in != (self._judge.now, self._judge.began):
            self._ended_in, self._first_ended = (self._judge.now, self._judge.began), len(self._ended) - 1
        claim.ended_serial = self._first_ended  # which of one turn was the last the loop need not say

    def lost(self, peer: Peer) -> None:
        """A connection has gone."""
        for key in [key for key in self.askers if key[0] is peer]:
            self._parted[key] = asker = self.askers.pop(key)
            asker.gone = self._judge.now

    def crashed(self) -> None:
        """The broker is gone."""
        self.read.clear()
        self._proposed.clear()
        self._errors.clear()
        for asker in self.askers.values():
            asker.gone = self._judge.now
        self.askers.clear()
        self._parted.clear()
        self._welcomes.clear()
        self._listening.clear()
        if not self._judge.has_store:
            self._ended.clear()
            for claim in self.by_id.values():
                if not claim.open:
                    claim.state = GONE

    def goes_on(self, claim: Claim, job_id: bytes) -> None:
        """A job has come out of the store: nobody who asked is connected."""
        claim.askers.clear()
        claim.job_id = job_id

    def redriven(self, claim: Claim, job_id: bytes) -> None:
        """A job was made of a dead letter: it is known by its own id."""
        self.by_id[job_id] = claim
        self.has_id(claim, job_id)

    def must_be_deserted(self, claim: Claim) -> None:
        """Raises unless all who asked for the job are gone for the grace, and it was to end then."""
        if not claim.ends_alone or not claim.askers or _finishes(claim):
            raise Violation(FALSE_FAILURE, f"{claim} has failed as deserted, and was not to end with its askers")
        since = self._deserted_since([asked for asked in claim.askers if not asked.may])  # others may be refused yet
        if since is None or self._judge.now < since + self._limits.asker_grace_ns:
            raise Violation(FALSE_FAILURE, f"{claim} has failed as deserted, and its asker may come back: {since}")

    def _deserted_since(self, askers: list[Asked]) -> int | None:
        """When the last of them went; None while one is there."""
        since = -1
        for asked in askers:
            if asked.asker.gone is None:
                return None
            since = max(since, asked.asker.gone)
        return since

    def may_run(self, claim: Claim) -> None:
        """Raises where a job is dispatched that should have ended with its askers."""
        if claim.ends_alone and claim.askers and not _finishes(claim):
            since = self._deserted_since(claim.askers)
            late = self._limits.asker_grace_ns + DESERTED_SLACK_NS
            if since is not None and self._judge.now > since + late:
                raise Violation(WRONG, f"{claim} was dispatched, and all who asked for it are gone since {since}")

    def of_job(self, job_id: bytes) -> Claim | None:
        """What is known by this job id."""
        return self._by_job_id.get(job_id)

    def has_id(self, claim: Claim, job_id: bytes) -> None:
        """The job is known by this id."""
        if claim.job_id and claim.job_id != job_id:
            raise Violation(WRONG, f"{claim} has changed its job id")
        if self._by_job_id.setdefault(job_id, claim) is not claim:
            raise Violation(WRONG, f"{claim} has the job id of {self._by_job_id[job_id]}")
        claim.job_id = job_id

    # --- What clients are told

    def told(self, wire: Wire, message: tuple[Any, ...]) -> None:
        """The broker says something to a native client."""
        peer, path, _, header, *rest = message
        said = native.to_client(VERSION, header)
        self._judge.saw("tells", wire.routing_id, path, header)
        asker = self._listening.get((peer, path))
        while self._welcomes.get((peer, path)) and not _fits(asker, said):  # its welcome was dropped from a full outbox
            asker = self._listening[peer, path] = self._welcomes[peer, path].pop(0)
        match said:
            case Error():
                if not self._errors[peer, path, said.code]:
                    raise Violation(WRONG, f"a client was told {said.code} ({said.text}) without a reason")
                self._errors[peer, path, said.code] -= 1
                self._judge.count(f"told_{said.code}")
            case Heartbeat():
                self._told_so_many(asker, said)
            case Welcome():
                if not self._welcomes.get((peer, path)):
                    raise Violation(WRONG, f"a client at {peer} was welcomed that has not said hello")
                self._listening[peer, path] = self._welcomes[peer, path].pop(0)
            case Submitted():
                self._told_submitted(asker, said, self._errors[peer, path, TOO_LARGE] > 0)
            case Outcome():
                self._told_outcome(asker, said, rest[0])
            case JobState():
                self._told_state(asker, said)
            case TellPartial() | TellProgress():
                self._told_more(asker, said)

    def _told_so_many(self, asker: Told | None, said: Heartbeat) -> None:
        """Heartbeats and outcomes come in order: what of these has not come was dropped."""
        if asker is None:
            raise Violation(WRONG, "somebody was told how many outcomes were told who has no session")
        if said.told < asker.number:
            raise Violation(WRONG, f"a client hears that {said.told} outcomes were told, after {asker.number}")
        asker.gaps += said.told - asker.number
        asker.number = said.told

    def _told_submitted(self, asker: Told | None, said: Submitted, too_large: bool) -> None:
        for each in said.jobs:
            if too_large and each.code == TOO_LARGE:
                continue
            if asker is None:
                raise Violation(WRONG, f"somebody was told of {each.id!r} who has no session")
            pending = asker.asked.get(each.id, [])
            due = [it for it in pending if _is_due(it, each)]
            if not due:
                raise Violation(WRONG, f"a client was told of {each.id!r} ({each.code}), without a reason: {pending}")
            due.sort(key=lambda it: (not it.ack, _differs(it, each.job)))
            asked = due[0]
            if not each.code:  # where the request was a job twice, what was said of the first may have been dropped
                claims = [it.claim for it in due]
                named = next((it for it in claims if it is not None and it.job_id == each.job), claims[-1])
                asked = due[claims.index(named)]
            if each.code == keys.DUPLICATE:
                self._stood_in_the_way(due, each.job)
            wants_id = asked.ack or each.job
            asked.ack = asked.among = False
            asked.may = ()
            if each.code:
                asked.wait, asked.code = False, ""
                if asked.claim is not None:
                    asked.claim.askers = [it for it in asked.claim.askers if it is not asked]
                self._judge.count(f"refused_{each.code}")
            elif asked.claim is not None and wants_id and asked.claim.reason != "detached":
                self.has_id(asked.claim, each.job)
            self._clear(asker, each.id)

    def _stood_in_the_way(self, due: list[Asked], job_id: bytes) -> None:
        """A request was refused for the job with this id. It may have been asked more than once, and other jobs have
        stood in its way: which of them is meant shows only where one of their ids is known, or there is but one.
        """
        may_be = {it.there for it in due if it.there is None or it.there.job_id in (b"", job_id)}
        if not may_be:
            raise Violation(WRONG, f"{due[0].name!r} was refused for {job_id.hex()}, and that did not have its key")
        only = next(iter(may_be)) if len(may_be) == 1 else None
        if only is not None:
            self.has_id(only, job_id)

    def _told_outcome(self, asker: Told | None, said: Outcome, body: Body) -> None:
        judge = self._judge
        if asker is None:
            raise Violation(WRONG, f"somebody was told the outcome of {said.id!r} who has no session")
        if said.n <= asker.number:
            raise Violation(WRONG, f"outcome {said.n} was told after outcome {asker.number}")
        asker.gaps += said.n - asker.number - 1
        asker.number = said.n
        pending = [it for it in asker.asked.get(said.id, []) if it.wait]
        ended = [it for it in pending if it.claim is not None and not it.claim.open]
        # Where the request was a job twice, and what was said of the first was dropped, this is of the second. And what
        # is owed for certain comes before what may have been refused.
        asked = min(ended, key=lambda it: (not _may_end(it.claim, said, body), it.maybe), default=None)
        if asked is None or asked.claim is None:
            kind = FALSE_FAILURE if pending and said.state != "completed" else WRONG
            open_ = "is open" if pending else "it was told before, or never asked"
            raise Violation(kind, f"a client was told the outcome of {said.id!r}, and {open_}")
        claim = asked.claim
        self._must_be(claim, said, body)
        if judge.has_store and not claim.safe_end and judge.is_recorded(claim.key):
            raise Violation(WRONG, f"the outcome of {claim} was told before it was safe")
        for it in pending:
            if it is asked or (it.claim is claim and not it.after_end and not asked.after_end):
                it.wait, it.may = False, ()
        asker.unreceived.append((said.n, said.id, claim))
        judge.count("told_answer" if said.state == "completed" else "told_failure")
        self._clear(asker, said.id)

    def _must_be(self, claim: Claim, said: Outcome, body: Body) -> None:
        """Raises unless this is the outcome of the claim."""
        if claim.state == ANSWERED:
            if said.state != "completed":
                raise Violation(FALSE_FAILURE, f"{claim} was answered, and its client was told {said.state}")
            if body != claim.answer:
                raise Violation(WRONG, f"{claim} was answered {claim.answer!r}, and its client was told {body!r}")
            headers = claim.headers if claim.answer_headers is None else claim.answer_headers
            if said.headers != headers:
                raise Violation(WRONG, f"the answer to {claim} has the headers {headers}, told were {said.headers}")
        elif claim.state == FAILED:
            if said.state == "completed" or said.reason != claim.reason:
                raise Violation(WRONG, f"{claim} failed ({claim.reason}), and its client was told {said}")
            text = said.text if claim.text is None else claim.text
            if said.replaced_by != claim.replaced_by:
                raise Violation(WRONG, f"{claim} was replaced by {claim.replaced_by!r}, told was {said.replaced_by!r}")
            if claim.cause == "failed" and (said.kind, said.text) != (claim.kind, text):
                raise Violation(WRONG, f"{claim} failed with {claim.kind}, and its client was told {said.kind}")
        else:
            raise Violation(WRONG, f"{claim} is forgotten, and its client was told {said}")
        if said.attempts != claim.attempts:
            raise Violation(WRONG, f"{claim} had {claim.attempts} attempts, and its client was told {said.attempts}")
        if said.again != claim.again:
            raise Violation(WRONG, f"{claim} was told with again={said.again}, which is not so")

    def _told_state(self, asker: Told | None, said: JobState) -> None:
        name = said.id or said.job
        if asker is None or not asker.states.get(name):
            raise Violation(WRONG, f"somebody was told the state of {name!r} who has not asked")
        words = next((words for words in asker.states[name] if said.state in words), None)
        if words is None:
            text = f"the state of {name!r} is one of {asker.states[name]}, and a client was told {said.state}"
            raise Violation(WRONG, text)
        asker.states[name].remove(words)
        self._judge.count("told_state")

    def _told_more(self, asker: Told | None, said: TellPartial | TellProgress) -> None:
        claim = self.by_id.get(said.id)
        follows = claim is not None and any(
            it.asker is asker and isinstance(it.said, Submit) and it.said.follow for it in claim.askers
        )
        if asker is None or claim is None or not follows:
            raise Violation(WRONG, f"somebody heard of {said.id!r} on its way who does not follow it")
        if said.attempt > claim.attempts:
            raise Violation(WRONG, f"{claim} had {claim.attempts} attempts, a follower heard of {said.attempt}")
        self._judge.count("told_on_the_way")

    def _clear(self, asker: Told, name: bytes) -> None:
        left = [it for it in asker.asked.get(name, []) if it.pending]
        if left:
            asker.asked[name] = left
        else:
            asker.asked.pop(name, None)

    # --- The verdict

    def at_rest(self, dropped: int) -> bool:
        """No more is owed to those who are there than was dropped."""
        untold: set[tuple[int, bytes]] = set()
        for asker in self.askers.values():
            for name, several in asker.asked.items():
                untold |= self._untold(name, several)
                if len(untold) > dropped:
                    return False
        return True

    def _untold(self, name: bytes, several: list[Asked]) -> set[tuple[int, bytes]]:
        """The messages in which somebody should have been told about this."""
        untold = set()
        for it in several:
            if it.at >= self._judge.stopped_at:
                continue
            if it.wait and not it.maybe:  # one outcome for however often it was asked while the job was open
                untold.add((id(it.said if it.after_end else it.claim), name))
            if it.ack or (it.settled and it.code):  # one message for all that were asked for in one
                untold.add((id(it.said), b""))
        return untold

    def verdict(self, *, dropped: int, reads: Callable[[Wire], bool]) -> None:
        """The world is over."""
        untold: set[tuple[int, bytes]] = set()
        for asker in self.askers.values():
            if not asker.wire.up or asker.wire.gone or not reads(asker.wire):
                continue
            for name, several in asker.asked.items():
                untold |= self._untold(name, several)
                if len(untold) > dropped:
                    raise Violation(LOST, f"an asker is there and was never answered about {name!r}: {several}")
        gaps = sum(asker.gaps for asker in self.askers.values())
        if gaps > dropped:
            raise Violation(LOST, f"{gaps} outcomes were numbered and not told, {dropped} were dropped")


def _finishes(claim: Claim) -> bool:
    """Whether a request that has joined the job wants it to be done, whoever is gone."""
    return any(it.finishes for name, it in claim.names.items() if name != claim.request)


def _detached(claim: Claim) -> Claim:
    """What is told to one who wants a job no more that goes on for others."""
    end = Claim(claim.key, None, b"", None, request=claim.request, headers=claim.headers)
    end.state, end.reason, end.attempts, end.safe_end = FAILED, "detached", claim.attempts, True
    return end


def _may_be_of(asked: Asked, job: Job) -> bool:
    """Whether the job may have been made of this: who asks and waits is among those who are told."""
    asker = asked.asker
    return not asked.wait or any(it.peer is asker.peer and it.path == asker.path for it, _, _ in job.askers)


def _fits(asker: Told | None, said: Any) -> bool:
    """Whether something may be said to this asker, or it may be anybody."""
    match said:
        case Outcome():
            return (
                asker is not None
                and said.n > asker.number
                and any(it.wait and it.claim is not None and not it.claim.open for it in asker.asked.get(said.id, []))
            )
        case Submitted():
            ours = [each for each in said.jobs if each.code != TOO_LARGE]
            return not ours or (
                asker is not None
                and all(any(_is_due(it, each) for it in asker.asked.get(each.id, [])) for each in ours)
            )
        case JobState():
            return asker is not None and bool(asker.states.get(said.id or said.job))
        case Heartbeat():
            return asker is not None and said.told >= asker.number
        case _:
            return True


def _differs(asked: Asked, job_id: bytes) -> int:
    """How far the job that stood in the way of a request is from one with this id: what was said of another request may
    have been dropped, and then the one is meant of which nothing was said yet.
    """
    if asked.there is not None and asked.there.job_id == job_id:
        return 0
    return 1 if asked.there is None or not asked.there.job_id else 2


def _may_end(claim: Claim | None, said: Outcome, body: Body) -> bool:
    """Whether this can be the outcome of that job, as far as it shows at a glance."""
    if claim is None or (said.state == "completed") is not (claim.state == ANSWERED):
        return False
    return claim.answer == body if claim.state == ANSWERED else claim.reason == said.reason


def _is_due(asked: Asked, each: Admitted) -> bool:
    """Whether this is the answer to that."""
    if not asked.settled or not isinstance(asked.said, Submit) or not asked.pending:
        return False
    if each.code:
        return each.code == asked.code or each.code in asked.may
    return (asked.ack or asked.among) and not asked.code and asked.claim is not None
