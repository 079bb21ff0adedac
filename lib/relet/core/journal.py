"""What has happened to jobs since the last records were taken, for a broker that has a store.

It notes which jobs are touched, and writes their records when they are taken: each as it stands then. So a job that was
dispatched and answered between two commits leaves one number behind and not three records, and the slower the disk is,
the fewer records a job costs.

A hand-over alone is no reason for a commit (`urgent`): its record goes with the next one, or after `RIDE_NS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relet.core import records
from relet.core.job import FINAL, Job
from relet.core.lease import NEVER
from relet.messages import Forgotten, Gone, Record

if TYPE_CHECKING:
    from relet.core.machine import Machine

RIDE_NS: Final = 5_000_000
"""How long the record of a hand-over waits for others to go with. If a crash forgets it, the job may be done once more,
unless its worker answers first (`core.seals`); a commit of its own would cost a job that is alone a third of its time.
"""


class Journal:
    """Jobs that are to be written down, in the order in which they were touched first."""

    __slots__ = ("_accepted", "_forgotten", "_machine", "_others", "_shared", "_touched", "due_ns", "urgent")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._accepted: list[Job] = []
        self._touched: dict[Job, int] = {}
        """With the pause that they make from now on, nanoseconds."""
        self._shared: dict[Job, None] = {}
        self._forgotten: dict[Job, None] = {}
        self._others: list[Record] = []
        """Records of no job."""
        self.urgent = False
        """Somebody waits for something of this to be safe."""
        self.due_ns = NEVER
        """When what waits for nobody is to be written all the same, lease time."""

    def __bool__(self) -> bool:
        return self.urgent or bool(self._touched)

    # --- Noting

    def accepted(self, jobs: list[Job]) -> None:
        """These are new."""
        self._accepted += jobs
        self.urgent = True

    def handed_over(self, jobs: list[Job], now: int) -> None:
        """These are with workers now, or were started by them."""
        touched = self._touched
        for job in jobs:
            touched[job] = 0
        self.due_ns = min(self.due_ns, now + RIDE_NS)

    def changed(self, job: Job, pause_ns: int = 0) -> None:
        """This open job stands elsewhere, or is known by more. `pause_ns`: how long it waits where it is DELAYED."""
        self._touched[job] = pause_ns
        self.urgent = True

    def ended(self, jobs: list[Job]) -> None:
        """These are final; or what is kept of them is more than it was."""
        touched = self._touched
        for job in jobs:
            touched[job] = 0
        self.urgent = True

    def forgotten(self, job: Job) -> None:
        """Less is kept of this final job than before."""
        self._forgotten[job] = None
        self.urgent = True

    def shared(self, job: Job) -> None:
        """Other requests have this job than before."""
        self._shared[job] = None
        self.urgent = True

    def other(self, record: Record) -> None:
        """Something that is of no job."""
        self._others.append(record)
        self.urgent = True

    # --- Taking

    def take(self) -> list[Record]:
        """All of it, as it stands now; nothing is left."""
        machine, accepted, shared, kept = self._machine, self._accepted, self._shared, self._machine.kept.entries
        first_new = accepted[0].number if accepted else NEVER
        final = [job for job in accepted if job.state in FINAL]
        if final:  # those that leave nothing nobody has heard of; the others have no body any more, by whose size ...
            accepted = [job for job in accepted if job.state not in FINAL or job.kept_bytes or job.number in kept]
            shared |= dict.fromkeys(job for job in final if job.kept_bytes)  # ... their requests would be known again
        taken: list[Record] = [*records.accepted(machine, accepted)]
        taken += [records.shared(machine, job) for job in shared if job.kept_bytes or job.state not in FINAL]
        ended: list[Record] = []
        gone: list[int] = []
        for job, pause_ns in self._touched.items():
            if job.state not in FINAL:
                taken.append(records.attempt(machine, job, pause_ns))
            elif job.kept_bytes or job.number in kept:
                ended.append(records.finished(machine, job))
            elif job.number < first_new:
                gone.append(job.number)
        for job in self._forgotten:
            if job in self._touched or job.state not in FINAL:
                continue
            if job.kept_bytes or job.number in kept:
                ended.append(Forgotten(job.number, job.number in kept, job.kept_bytes > 0))
            elif job.number < first_new:
                gone.append(job.number)
        taken += ended
        if gone:
            taken.append(Gone(tuple(gone)))
        taken += self._others
        self._accepted, self._touched, self._shared, self._forgotten, self._others = [], {}, {}, {}, []
        self.urgent, self.due_ns = False, NEVER
        return taken
