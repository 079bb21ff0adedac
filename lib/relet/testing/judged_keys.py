"""The judge's account of unique keys: which job has a key, for how long after its success, and who shares it.

Of a key there is one open job in its queue: a request is a job only where no open job has its key, and where no window
is open. It joins a job only where it asks for that, and takes the place of one only where it asks for that and the job
waits. It is refused as `duplicate` only where the key is taken, and where it could neither join nor replace; then it is
told by which job. All peers of a world are of one principal.

That a job has other requests than before, and that it was replaced, the machine announces when it does it. Whatever it
does not announce, and is no job either, was refused.

A window is known for certain but in three cases: after a restart, which knows it by the wall clock and in milliseconds;
where more windows have begun after it than the broker remembers; and where its key was taken once after that. Then the
broker may know it or not, and what it does is taken for its word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from relet.core.job import Job
from relet.messages import Submit
from relet.testing.claims import ANSWERED, WAITS, WRONG, Claim, Named, Violation

if TYPE_CHECKING:
    from relet.testing.judge import Judge
    from relet.testing.judged_requests import Asked

Held: TypeAlias = tuple[str, str]
"""(queue, key)."""

STORED_NS: Final = 2_000_000
"""By how much a window may be longer that was stored: its end is rounded, and so is the moment of the restart."""
DUPLICATE: Final = "duplicate"


@dataclass(slots=True, eq=False)
class Window:
    """The time after the success of a job, as far as the judge knows it."""

    claim: Claim
    until_ns: int
    """When it ends, by the clock of the life in which it began ..."""
    deaf_ns: int
    """... in which the broker had been deaf for so long then, in all."""
    before: int
    """How many windows had begun before this turn."""
    ends_first: int
    """It is open until then, for certain, ..."""
    ends_last: int
    """... and over from then on."""
    doubtful: bool = False
    """Its key was taken since."""


class Keys:
    """All unique keys of a world."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._live: dict[Held, Claim] = {}
        self._windows: dict[Held, list[Window]] = {}
        self._begun = 0
        """Windows that have begun, and ..."""
        self._turn = (-1, -1)
        self._before = 0
        """... those that had before this turn: which of one turn was the last the loop need not say."""
        self._replaced: dict[bytes, Claim] = {}
        """Jobs that have ended for others that are no jobs yet, by the ids that these are to have."""

    # --- Jobs

    def takes(self, claim: Claim, job_id: bytes, said: Submit | None) -> None:
        """A new job is there, with or without a key: raises where that is taken. `said`: None where it is redriven."""
        replaced = self._replaced.pop(job_id, None) if job_id else None
        if replaced is not None:
            if said is None or said.unique_mode != "replace" or held_by(claim) != held_by(replaced):
                raise Violation(WRONG, f"{claim} has taken the place of {replaced}, and was not to")
            self._judge.requests.has_id(claim, job_id)
            self._judge.count("replaced_in_turn", replaced.accepted_at == claim.accepted_at)
        held = held_by(claim)
        if held is None:
            return
        other = self._live.get(held)
        if other is not None:
            raise Violation(WRONG, f"{claim} was accepted, and {other} has its unique key {held}")
        for window in self._windows_of(held):
            if self._is_sure(window):
                left_ns = window.ends_first - self._judge.now
                raise Violation(WRONG, f"{claim} was accepted, and {held} is taken by {window.claim} for {left_ns} ns")
            window.doubtful = True
        self._live[held] = claim
        self._judge.count("unique_keys")

    def ended(self, claim: Claim) -> None:
        """A job has ended: its key is free, or is so after a while."""
        held = held_by(claim)
        if held is None:
            return
        if self._live.get(held) is claim:
            del self._live[held]
        if claim.state != ANSWERED or not claim.agreed.unique_ns:
            return
        judge = self._judge
        if self._turn != (judge.now, judge.began):
            self._turn, self._before = (judge.now, judge.began), self._begun
        self._begun += 1
        until = judge.now + claim.agreed.unique_ns
        window = Window(claim, until, judge.deaf_ns, self._before, until, until)
        self._windows.setdefault(held, []).append(window)
        judge.count("windows")

    def replaced(self, claim: Claim, job: Job) -> None:
        """The machine has ended a job for another one: raises where it must not."""
        new_id = b"" if job.rules is None else job.rules.replaced_by
        if claim.state != WAITS:
            raise Violation(WRONG, f"{claim} was replaced, and it does not wait")
        if not new_id or not self._judge.requests.wants_to_replace(claim):
            raise Violation(WRONG, f"{claim} was replaced, and nobody has asked for that now")
        claim.replaced_by = new_id
        self._replaced[new_id] = claim

    def settle(self) -> None:
        """A message was heard to its end."""
        if self._replaced:
            ((new_id, claim), *_) = self._replaced.items()
            raise Violation(WRONG, f"{claim} was replaced by {new_id.hex()}, which is no job")

    # --- Those who share one

    def may_join(self, claim: Claim, said: Submit) -> bool:
        """Whether a request with a key of its own may share this job."""
        held = held_by(claim)
        if said.unique_mode != "join" or held != (said.queue, said.unique):
            return False
        if claim.open:
            return self._live.get(held) is claim
        return any(window.claim is claim for window in self._windows_of(held))

    def joins(self, claim: Claim, asked: Asked, said: Submit) -> None:
        """A request shares this job from now on."""
        judge = self._judge
        claim.names[asked.name] = Named(asked.size, said.gone == "finish", asked.at)
        if len(claim.names) > judge.limits.askers_per_job_max:
            raise Violation(WRONG, f"{claim} is the job of {len(claim.names)} requests, which is too many")
        judge.count("shared" if claim.open else "shared_after_end")
        claim.alone = claim.alone and claim.open

    # --- What becomes of a request that is no job

    def refuses(self, asked: Asked, said: Submit) -> None:
        """A request with a key has neither become a job nor joined one: works out what it must, or may, be told."""
        held = (said.queue, said.unique)
        live = self._live.get(held)
        many = asked.among and said.jobs
        room = tuple(code for code in asked.may if code == "expired" or (code == "busy" and many))
        if live is not None:
            if said.unique_mode == "join":
                asked.code, asked.may = "", room  # that needs no room
            elif said.unique_mode == "reject" or live.state != WAITS:
                asked.code, asked.may, asked.there = DUPLICATE, room, live
            return
        windows = self._windows_of(held)
        if not windows:
            return
        window, sure = windows[-1], self._is_sure(windows[-1])
        asked.there = window.claim if sure or len(windows) == 1 else None
        kept = said.unique_mode == "join" and self._judge.requests.is_kept(window.claim)
        if sure:
            asked.code, asked.may = "" if kept else DUPLICATE, room
        elif not kept:
            asked.may = (*asked.may, DUPLICATE)

    def _windows_of(self, held: Held) -> list[Window]:
        """Those that may be open now; the youngest last."""
        now = self._judge.now
        return [window for window in self._windows.get(held, ()) if now < window.ends_last]

    def _is_sure(self, window: Window) -> bool:
        younger = self._begun - window.before
        return (
            not window.doubtful
            and self._judge.now < window.ends_first
            and younger <= self._judge.limits.unique_windows_max
        )

    # --- Restarts

    def crashed(self) -> None:
        """The broker is gone."""
        self._replaced.clear()

    def restarted(self, claims: Iterable[Claim]) -> None:
        """A new broker is there, and these are all jobs that ever were."""
        self._live.clear()
        for claim in claims:
            held = held_by(claim)
            if held is None or not claim.open:
                continue
            if held in self._live:
                raise Violation(WRONG, f"after the restart {claim} and {self._live[held]} have the unique key {held}")
            self._live[held] = claim
        for held, windows in self._windows.items():
            self._windows[held] = [it for it in windows if it.claim.state == ANSWERED and it.claim.safe_end]
            for window in self._windows[held]:
                window.ends_first = window.until_ns + window.deaf_ns - self._judge.deaf_ns
                window.ends_last = window.ends_first + STORED_NS


def held_by(claim: Claim) -> Held | None:
    """What a job has, if it has a key."""
    return (claim.queue, claim.agreed.unique) if claim.agreed.unique else None


def contradiction(said: Submit, unique_ns_max: int) -> bool:
    """Whether a request asks for what cannot be of its key."""
    if not said.unique:
        return said.unique_mode != "reject" or said.unique_ms != 0
    return len(said.unique) > 200 or said.unique_ms * 1_000_000 > unique_ns_max
