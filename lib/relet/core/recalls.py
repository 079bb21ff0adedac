"""Which jobs are called back from workers that hold them unstarted, because another worker has nothing to do.

A worker asks ahead to hide the way to the broker, and then a job may wait behind a long one while somebody else is
idle. So, as long as anything is held, the broker looks now and then at the oldest hand-over of each session: where that
has been held for long, and somebody asks in its queue who would do it at once, it is recalled. One at a time in each
queue, because a recall takes a way there and back; and never for a worker that would only hold it, too. Half of a
job's budget of hand-overs is left for what is nobody's choice.

A recalled job that is neither given back nor started in time is taken back: its worker is heard, but does not heed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relet.core.job import Job
from relet.core.lease import NEVER, Lane
from relet.core.roster import Session
from relet.messages import Recall

if TYPE_CHECKING:
    from relet.core.machine import Machine

LOOK_NS_MIN: Final = 1_000_000
"""No two looks come closer than this."""


class Recalls:
    """The held jobs of one machine, seen from time to time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._recall_ns = max(machine.limits.recall_ns, LOOK_NS_MIN)
        self._looks_max = machine.limits.turn_steps_max
        self.lane = Lane(machine.limits.liveness_ns)
        """Jobs that were recalled: by then each must be given back or started."""
        self._look_at = NEVER
        self._left: list[Session] = []
        """Sessions that the look under way has not come to ..."""
        self._held = False
        """... and whether those that it has come to hold anything."""

    def handed_over(self, now: int) -> None:
        """Something is held."""
        if self._look_at == NEVER:
            self._look_at = now + self._recall_ns

    @property
    def due(self) -> int:
        """When `expire` next has something to do."""
        return min(self._look_at, self.lane.due)

    def expire(self, now: int) -> None:
        """Looks, if it is time, and takes back what was recalled in vain."""
        if now >= self._look_at:
            self._look(now)
        if now >= self.lane.due:
            for job in self.lane.take_expired(now, self._looks_max):
                if job.holder is not None:
                    self._machine.reports.cancel(job.holder, job.token, "recalled")
                self._machine.give_back(job, now)

    def forget(self, session: Session) -> None:
        """A session begins on another connection: a recall that went with the one before was not heard."""
        for job in [job for job in self.lane.running.values() if job.holder is session]:
            self._machine.stop_timer(job)

    def _look(self, now: int) -> None:
        """Some sessions at a time; the next look is due while anything is held."""
        if not self._left:
            self._left, self._held = list(self._machine.roster.sessions.values()), False
        sessions, self._left = self._left, self._left[self._looks_max :]
        for session in sessions[: self._looks_max]:
            job = session.oldest_held()
            if job is not None:
                self._held = True
                if job.timer is None and now >= job.began_ns + self._recall_ns:
                    self._recall(session, job, now)
        if self._left:
            self._look_at = now
        else:
            self._look_at = now + self._recall_ns if self._held else NEVER

    def _recall(self, session: Session, job: Job, now: int) -> None:
        queue = job.queue
        if queue.recalls or len(queue) or not session.recalls or session.away or not self._machine.may_be_spent(job):
            return
        if not queue.puts_idle_first(session):
            return
        queue.recalls += 1
        job.began_ns = now
        self.lane.begin((job,), now)
        self._machine.counters.handovers_recalled += 1
        self._machine.said.append((session, Recall(tokens=(job.token,)), ()))
