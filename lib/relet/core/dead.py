"""Dead letters, for who looks after them: to list them, to have them done again, to have them gone.

They are evidence of what went wrong, so nothing that is done with them changes them. To redrive one is to accept
another job like it: the same body, headers, queue and terms, under an id of its own, with all its tries before it.
Nobody is owed its outcome, because who was owed the old one has been told. Each then names the other, and a dead letter
that was redriven is not redriven again unless somebody insists.

What is done with many at once (`Sweep`) is done in steps, a bounded number of jobs a turn, and ends with the dead
letter that was the last when it began: a redriven job that fails at once is a dead letter again, and must not be
redriven by the sweep that it came from. Sweeps wait for each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from relet.core.job import DISCARDED, Job
from relet.core.kept import Letter
from relet.core.lease import NEVER
from relet.core.requests import DISK_FULL, DRAINING, DUPLICATE
from relet.events import Event
from relet.messages import BUSY

if TYPE_CHECKING:
    from relet.core.effects import Notice
    from relet.core.machine import Machine

SWEEPS_MAX: Final = 100
"""Sweeps that may wait for each other: more than people start by hand."""
REDRIVE_STEPS: Final = 4
"""Steps that a new job costs beyond the look at its dead letter: as much as five that are purged."""
NEW_JOBS_TOLD_MAX: Final = 1_000
"""Ids of new jobs that the end of a sweep names, the first ones: its answer is one message."""

NO_LETTER: Final = "there is no such dead letter: see `dead` for those that there are"
UNKNOWN_JOB: Final = "unknown_job"
REDRIVEN: Final = "redriven"


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant: those for which all of this is so."""

    queue: str = ""
    """Of this queue; "": of any."""
    job: bytes = b""
    """The one of the job with this id; b"": of any."""
    reason: str = ""
    """The job ended for this reason (`core.job.Reason`); "": for any."""
    kind: str | None = None
    """What the last failure was called by its worker; None: anything."""
    before_ns: int = NEVER
    """The job ended before this moment ..."""
    since_ns: int = -NEVER
    """... and not before this one; lease time."""

    def takes(self, job: Job) -> bool:
        """Whether a kept job is one of them."""
        return (
            job.state == DISCARDED
            and self.since_ns <= job.ended_ns < self.before_ns
            and (not self.reason or job.reason == self.reason)
            and (self.kind is None or job.kind == self.kind)
            and (not self.queue or job.queue.name == self.queue)
            and (not self.job or job.id == self.job)
        )


class Sweep(msgspec.Struct, kw_only=True):
    """Something to be done with many dead letters, and how far it is."""

    verb: Literal["redrive", "purge"]
    selection: Selection
    limit: int = NEVER
    """At most so many."""
    dry_run: bool = False
    """Only count."""
    force: bool = False
    """Redrive also what was redriven before."""
    done: int = 0
    """Of how many it was done, or would have been."""
    skipped: int = 0
    """How many were redriven before."""
    refused: int = 0
    """Of how many the broker would have no new job."""
    code: str = ""
    """Why something was not done, the last reason; "": all was."""
    text: str = ""
    jobs: list[bytes] = []
    """Ids of new jobs, the first ones."""
    place: int = 0
    """It has come so far."""
    until: int = 0
    """The last place that it goes to."""
    over: bool = False


class DeadLetters:
    """The dead letters of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._sweeps: deque[Sweep] = deque()
        """The first one is under way."""

    def page(self, selection: Selection, after: int, limit: int) -> tuple[list[Letter], int]:
        """Up to `limit` dead letters behind a place, oldest first; and the place behind which there may be more, 0
        where there is nothing more. One look goes over a bounded number of them, so a page may have less, or nothing.
        """
        found: list[Letter] = []
        looks, place = self._machine.limits.turn_steps_max, after
        for letter in self._candidates(selection, after):
            taken = selection.takes(letter.job)
            if not looks or (taken and len(found) == limit):
                return found, place
            looks -= 1
            place = letter.place
            if taken:
                found.append(letter)
        return found, 0

    def _candidates(self, selection: Selection, after: int) -> Iterable[Letter]:
        kept = self._machine.kept
        if selection.job:
            letter = kept.of(selection.job)
            return [letter] if letter is not None and letter.place > after else []
        return kept.walk(selection.queue, after)

    def begin(self, sweep: Sweep) -> bool:
        """Does this, from the next step on, until it is `over`. False: too much is being done already."""
        if len(self._sweeps) >= SWEEPS_MAX:
            sweep.code = BUSY
            sweep.text = f"{SWEEPS_MAX} redrives and purges wait for their turn already: ask again when some are done"
            return False
        sweep.until = self._machine.kept.last
        self._sweeps.append(sweep)
        return True

    def due(self) -> int:
        """When `expire` next has something to do."""
        return -NEVER if self._sweeps else self._machine.kept.due()

    def expire(self, now: int) -> None:
        """Goes on with what is to be done, and forgets what was kept for long enough; some at a time."""
        machine = self._machine
        steps = machine.limits.turn_steps_max
        while self._sweeps and steps > 0:
            sweep = self._sweeps[0]
            steps -= self._step(sweep, steps, now)
            if sweep.over:
                self._sweeps.popleft()
                if not sweep.dry_run:
                    machine.notices.append(_notice(sweep))
        for job in machine.kept.take_aged(now, steps):
            machine.forgotten(job)

    def _step(self, sweep: Sweep, steps: int, now: int) -> int:
        """Looks at up to so many dead letters and does what is to be done with them; returns the steps that took."""
        chosen: list[Letter] = []
        spent, each = 0, 0 if sweep.dry_run or sweep.verb == "purge" else REDRIVE_STEPS
        sweep.over = True
        for letter in self._candidates(sweep.selection, sweep.place):
            if letter.place > sweep.until or sweep.done + len(chosen) == sweep.limit:
                break
            if spent >= steps:
                sweep.over = False
                break
            spent += 1
            sweep.place = letter.place
            if sweep.selection.takes(letter.job):
                if sweep.verb == "redrive" and letter.redriven_to and not sweep.force:
                    sweep.skipped += 1
                else:
                    chosen.append(letter)
                    spent += each
        if sweep.dry_run:
            sweep.done += len(chosen)
        elif sweep.verb == "purge":
            self._purge(sweep, chosen)
        else:
            self._redrive(sweep, chosen, now)
        if sweep.over and sweep.selection.job and not sweep.code:
            self._explain(sweep)
        return max(1, spent)

    def _purge(self, sweep: Sweep, letters: list[Letter]) -> None:
        machine = self._machine
        for letter in letters:
            machine.kept.drop(letter.job)
            machine.forgotten(letter.job, purged=True)
        sweep.done += len(letters)
        machine.counters.letters_purged += len(letters)

    def _redrive(self, sweep: Sweep, letters: list[Letter], now: int) -> None:
        machine = self._machine
        redriven: list[Letter] = []
        for letter in letters:
            made = machine.requests.redrive(letter.job, now)
            if isinstance(made, Job):
                letter.redriven_to = made.id
                redriven.append(letter)
                if len(sweep.jobs) < NEW_JOBS_TOLD_MAX:
                    sweep.jobs.append(made.id)
                continue
            sweep.refused += 1
            sweep.code, sweep.text = made
            others_too = sweep.code in (BUSY, DRAINING, DISK_FULL) or bool(sweep.selection.queue)
            if others_too and sweep.code != DUPLICATE:
                sweep.over = True
                break
        machine.requests.accept(now)
        for letter in redriven:
            machine.redriven(letter.job)
        sweep.done += len(redriven)
        machine.counters.letters_redriven += len(redriven)

    def _explain(self, sweep: Sweep) -> None:
        """Who names one dead letter hears why nothing was done with it."""
        letter = self._machine.kept.of(sweep.selection.job)
        if sweep.skipped and letter is not None:
            sweep.code = REDRIVEN
            sweep.text = f"it was redriven before, as job {letter.redriven_to.hex()}: say `force` to do that again"
        elif not sweep.done:
            sweep.code = UNKNOWN_JOB
            sweep.text = NO_LETTER


def _notice(sweep: Sweep) -> Notice:
    fields: dict[str, Any] = {"queue": sweep.selection.queue, "count": sweep.done}
    if sweep.verb == "purge":
        return Event.DEAD_LETTERS_PURGED, fields
    fields |= {"skipped": sweep.skipped, "refused": sweep.refused, "reason": sweep.code}
    return Event.DEAD_LETTERS_REDRIVEN, fields
