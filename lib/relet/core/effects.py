"""What the machine says to the shell beyond jobs: what it has counted, what is to be published, what is to be said to
native peers.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from relet.core.askers import Asker
from relet.core.job import Job
from relet.core.roster import Worker
from relet.events import Event
from relet.messages import Body, Peer, Said


class Counters(msgspec.Struct):
    """What has happened since the broker began. Every number only grows."""

    jobs_accepted: int = 0
    jobs_completed: int = 0
    jobs_discarded: int = 0
    jobs_cancelled: int = 0
    dispatches: int = 0
    attempts_expired: int = 0
    """Attempts whose time was up, or whose worker was silent for longer than the job allows."""
    attempts_failed: int = 0
    """Attempts that their workers gave up."""
    attempts_lost: int = 0
    """Attempts that ended with the connection of their worker."""
    handovers_undelivered: int = 0
    """Hand-overs that provably never left and cost no attempt."""
    handovers_returned: int = 0
    """Hand-overs that left and were given back: by their workers, or because they were not started when those were
    lost."""
    handovers_recalled: int = 0
    """Hand-overs that were called back, because another worker had nothing to do."""
    answers_late: int = 0
    """Answers to a job that was waiting for its next attempt or was with another worker; they count."""
    answers_refused: int = 0
    """Answers to no open job."""
    reports_refused: int = 0
    """What native workers said of jobs that are not theirs, or not any more."""
    asks_refused: int = 0
    requests_refused: int = 0
    """Messages of clients that could never become a job."""
    requests_joined: int = 0
    """Requests that were known: asked again, or of a unique key whose job they share."""
    jobs_replaced: int = 0
    """Of those cancelled, jobs whose place another with the same unique key took."""
    windows_cut: int = 0
    """Unique keys that were free before their time after a success was over, because there were too many."""
    messages_refused: int = 0
    """Native messages that could not be taken."""
    replies_unroutable: int = 0
    """Outcomes whose client was gone."""
    reply_dropped: int = 0
    """Outcomes whose client did not read while its outbox was full."""
    outcomes_received: int = 0
    """Outcomes that native clients have said to have received."""
    letters_redriven: int = 0
    """Jobs that were made of dead letters; they are among the accepted."""
    letters_purged: int = 0
    """Dead letters that somebody wanted gone."""
    outcomes_forgotten: int = 0
    """Outcomes that a bound of number or bytes made the broker forget before they were received."""
    workers_arrived: int = 0
    workers_lost: int = 0


Notice: TypeAlias = tuple[Event, dict[str, Any]]

Told: TypeAlias = tuple[Asker, bytes, Job]
"""An outcome for a native client, by the id that it knows the job by."""


class Route:
    """Where an answer goes to somebody who has no session."""

    __slots__ = ("path", "peer", "worker")

    def __init__(self, peer: Peer, path: bytes, *, worker: bool) -> None:
        self.peer = peer
        self.path = path
        self.worker = worker
        """Whether it is somebody at the workers' endpoint."""


class AtDesk(Route):
    """Where an administrator is answered."""

    __slots__ = ()

    def __init__(self, peer: Peer, path: bytes) -> None:
        super().__init__(peer, path, worker=False)


Saying: TypeAlias = "tuple[Asker | Worker | Route, Said, Body]"
"""(to whom, what, body)."""
