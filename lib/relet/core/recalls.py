"""Which jobs are called back from workers that hold them unstarted, because another worker has nothing to do.

A worker asks ahead to hide the way to the broker, and then a job may wait behind a long one while somebody else is
idle. So, as long as anything is held, the broker looks now and then at the oldest hand-over of each session. Where that
has been held for long, and somebody with nothing to do asks in its queue, half of what the session holds is recalled,
the oldest, as far as that is asked for. The other half is left, so that long jobs do not all go to and fro; short ones
are soon done, and looks come quickly, one after the other, as long as they find something: so many short jobs wait for
a long one no longer than a few ways there and back. Nothing is recalled for a worker that is busy, and would only hold
it, too. Half of a job's budget of hand-overs is left for what is nobody's choice.

Where something waits that may go, whoever asks is given that, and nothing is recalled. Under limits of the queue what
waits may not go: then what is held unstarted takes the places that the idle one could have, and is recalled. Which job
goes in its place is decided when it is back, as ever. A rate is another matter: what is recalled would be counted
again, so nothing is that would then wait for one.

A recalled job that is neither given back nor started in time is taken back: its worker is heard, but does not heed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relet.core import timing
from relet.core.job import HELD, Job
from relet.core.lease import NEVER, Deadlines, Lane
from relet.core.queue import Queue
from relet.core.roster import Session
from relet.messages import Recall

if TYPE_CHECKING:
    from relet.core.machine import Machine

LOOK_NS_MIN: Final = 1_000_000
"""No two looks come closer than this. So soon comes the next one where something was recalled; each that finds nothing
doubles it, up to the usual."""
RECALLED_MAX: Final = 500
"""Jobs that are recalled from one session at a time: half of what one may hold."""


class Recalls:
    """The held jobs of one machine, seen from time to time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._recall_ns = max(machine.limits.recall_ns, LOOK_NS_MIN)
        self._looks_max = machine.limits.turn_steps_max
        self.lane = Lane(machine.limits.liveness_ns, recalled=True)
        """Jobs that were recalled: by then each must be given back or started."""
        self.deadlines = Deadlines(recalled=True)
        """The same for those with a deadline of their own, which may come before."""
        self._look_at = NEVER
        self._left: list[Session] = []
        """Sessions that the look under way has not come to ..."""
        self._held = False
        """... and whether those that it has come to hold anything ..."""
        self._found = False
        """... and whether something was recalled."""
        self._pause_ns = self._recall_ns
        """From the last look to the next."""

    def handed_over(self, now: int) -> None:
        """Something is held."""
        if self._look_at == NEVER:
            self._look_at = now + self._recall_ns

    @property
    def due(self) -> int:
        """When `expire` next has something to do."""
        return min(self._look_at, self.lane.due, self.deadlines.due)

    def expire(self, now: int) -> None:
        """Looks, if it is time, and takes back what was recalled in vain."""
        if now >= self._look_at:
            self._look(now)
        if now >= self.lane.due:
            for job in self.lane.take_expired(now, self._looks_max):
                self._takes_back(job, now)
        if now >= self.deadlines.due:
            for job in self.deadlines.take_expired(now, self._looks_max):
                job.queue.recalls -= 1
                if now < timing.out_until(job):
                    self._takes_back(job, now)
                else:
                    self._machine.missed(job, now)

    def _takes_back(self, job: Job, now: int) -> None:
        """It was recalled in vain."""
        if job.holder is not None:
            self._machine.reports.cancel(job.holder, job.token, "recalled")
        self._machine.give_back(job, now)

    def forget(self, session: Session) -> None:
        """A session begins on another connection: a recall that went with the one before was not heard."""
        for timer in (self.lane, self.deadlines):
            for job in [job for job in timer.running.values() if job.holder is session]:
                self._machine.stop_timer(job)
                self._machine.watch_held(job)

    def _look(self, now: int) -> None:
        """Some sessions at a time; the next look is due while anything is held."""
        if not self._left:
            self._left, self._held, self._found = list(self._machine.roster.sessions.values()), False, False
        sessions, self._left = self._left, self._left[self._looks_max :]
        for session in sessions[: self._looks_max]:
            oldest = session.oldest_held()
            if oldest is not None:
                self._held = True
                if session.recalls and not session.away and now >= oldest.began_ns + self._recall_ns:
                    self._recall(session, now)
        if self._left:
            self._look_at = now
            return
        self._pause_ns = LOOK_NS_MIN if self._found else min(2 * self._pause_ns, self._recall_ns)
        self._look_at = now + self._pause_ns if self._held else NEVER

    def _recall(self, session: Session, now: int) -> None:
        """The oldest half of what it has held for long, as far as somebody else has nothing to do."""
        rooms = {place.queue: _room(place.queue, session, now) for place in session.places}
        if not any(rooms.values()):
            return
        held = [job for job in session.jobs if job.state == HELD and not (job.timer and job.timer.recalled)]
        recalled: list[Job] = []
        for job in held[: min((len(held) + 1) // 2, RECALLED_MAX)]:
            chosen = now >= job.began_ns + self._recall_ns and rooms.get(job.queue) and job.queue.takes_back(job, now)
            if chosen and self._machine.may_be_spent(job):
                rooms[job.queue] -= 1
                job.queue.recalls += 1
                job.began_ns = now
                recalled.append(job)
        if recalled:
            self._found = True
            self._watch(recalled, now)
            self._machine.counters.handovers_recalled += len(recalled)
            self._machine.said.append((session, Recall(tokens=tuple(job.token for job in recalled)), ()))

    def _watch(self, recalled: list[Job], now: int) -> None:
        """By some moment each of these is to be back, or started."""
        plain: list[Job] = []
        for job in recalled:
            self._machine.stop_timer(job)
            until = timing.out_until(job)
            if until == NEVER:
                plain.append(job)
            else:
                self.deadlines.begin(job, min(until, now + self.lane.lease_ns))
        if plain:
            self.lane.begin(plain, now)


def _room(queue: Queue, but: Session, now: int) -> int:
    """Jobs that may be recalled for others than this session: none before the last ones are given back or started."""
    return 0 if queue.recalls or not queue.lacks(now) else queue.idle_credit(but)
