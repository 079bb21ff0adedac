"""What administrators say at their endpoint, and what they are told: the vocabulary of a third kind of peer.

It is the native dialect: the same signature, headers that are MessagePack maps, fields named as on the wire. Each
message asks for one thing and is answered by one message, which repeats its `id`; nobody says hello. Whoever reaches
the endpoint rules the broker.

A verb is one class here, in `FromAdmin`, and one row in `core.administration.VERBS`. Its answer is one class of
`ToAdmin`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from relet.messages import INT_MAX, QUEUE_CHARACTERS_MAX, Count, Entry, Error, Said

BY_CHARACTERS_MAX: Final = 200
"""Characters of the name of who wants something, or has paused a queue."""

OrderId: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=64)]
"""What an administrator calls an order; it is repeated in the answer."""
QueueName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=QUEUE_CHARACTERS_MAX)]
By: TypeAlias = Annotated[str, msgspec.Meta(max_length=BY_CHARACTERS_MAX)]
"""Who wants it, for others to read."""


class Order(Said, frozen=True, kw_only=True):
    """What an administrator wants."""

    id: OrderId = b""


class ListQueues(Order, frozen=True, kw_only=True, tag="queues"):
    """Which queues there are, by name."""

    after: str = ""
    """Those whose names come behind this one."""
    count: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    """So many at most."""


class ShowQueue(Order, frozen=True, kw_only=True, tag="queue"):
    """What is known of one queue."""

    queue: QueueName


class PauseQueue(Order, frozen=True, kw_only=True, tag="pause"):
    """A queue takes no jobs, gives none out, or both."""

    queue: QueueName
    what: Literal["intake", "dispatch", "both"] = "both"
    by: By = ""


class ResumeQueue(Order, frozen=True, kw_only=True, tag="resume"):
    """It does again."""

    queue: QueueName
    what: Literal["intake", "dispatch", "both"] = "both"


class SetQueue(Order, frozen=True, kw_only=True, tag="set_queue"):
    """A queue has these settings, in the place of those it had; its pause goes on unless they say otherwise."""

    queue: QueueName
    settings: dict[str, Any] | None
    """None: it has none of its own, and no pause."""
    by: By = ""


class OfJob(Order, frozen=True, kw_only=True):
    """Something about one job: by its id, or by that of its request."""

    job: bytes = b""
    request: bytes = b""
    principal: str = ""
    """Whose request."""


class ShowJob(OfJob, frozen=True, kw_only=True, tag="job"):
    """What is known of a job."""


class WhyJob(OfJob, frozen=True, kw_only=True, tag="why"):
    """Why a job is where it is."""


class CancelAnyJob(OfJob, frozen=True, kw_only=True, tag="cancel"):
    """A job shall end, whoever waits for it."""


class OfDead(Order, frozen=True, kw_only=True):
    """Something about dead letters: those of which all that is said here is so."""

    queue: Annotated[str, msgspec.Meta(max_length=QUEUE_CHARACTERS_MAX)] = ""
    """Of this queue; "": of any."""
    job: bytes = b""
    """That of this job."""
    reason: str = ""
    """Why it ended (`core.job.Reason`); "": any."""
    kind: str | None = None
    """What its worker called the last failure; None: anything."""
    older_ms: Count = 0
    """It ended at least so long ago."""
    newer_ms: Count = 0
    """It ended less long ago than that; 0: at any time."""


class ListDead(OfDead, frozen=True, kw_only=True, tag="dead"):
    """Which dead letters there are, oldest first."""

    after: Count = 0
    """Those behind this place: what `next` was in the answer before."""
    count: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    """So many at most."""


class ShowDead(Order, frozen=True, kw_only=True, tag="dead_job"):
    """What is known of one."""

    job: bytes
    body: bool = False
    """Whether to give its body, too."""


class RedriveDead(OfDead, frozen=True, kw_only=True, tag="redrive"):
    """They shall be done again: another job is made of each."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=INT_MAX)] | None = None
    """Of so many at most, the oldest."""
    dry_run: bool = False
    """Only say of how many."""
    force: bool = False
    """Also of those that were redriven before."""


class PurgeDead(OfDead, frozen=True, kw_only=True, tag="purge"):
    """They shall not be kept any more."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=INT_MAX)] | None = None
    dry_run: bool = False


class BackUp(Order, frozen=True, kw_only=True, tag="backup"):
    """The store shall be copied into a new file where the broker is; or how far is that?"""

    path: Annotated[str, msgspec.Meta(max_length=4_096)] = ""
    """Of the new file; "": only say how far the last one is."""


FromAdmin: TypeAlias = (
    ListQueues
    | ShowQueue
    | PauseQueue
    | ResumeQueue
    | SetQueue
    | ShowJob
    | WhyJob
    | CancelAnyJob
    | ListDead
    | ShowDead
    | RedriveDead
    | PurgeDead
    | BackUp
)


class QueueLine(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """A queue, as it is shown."""

    name: str
    settings: dict[str, Any] | None = None
    """Those that say something, as `set_queue` takes them; None: it has none."""
    paused: str = ""
    """`intake`, `dispatch`, `both`, or "": it is not."""
    intake_by: str = ""
    """Who has paused that it takes jobs ..."""
    dispatch_by: str = ""
    """... and who that it gives them out."""
    jobs: int = 0
    """That are not final ..."""
    waiting: int = 0
    """... of them waiting for a worker, or to be safe ..."""
    delayed: int = 0
    """... waiting for a moment ..."""
    blocked: int = 0
    """... waiting for another one of their order key ..."""
    in_flight: int = 0
    """... and with workers."""
    workers: int = 0
    """That ask for a job now; counted up to a thousand."""
    asks: int = 0
    """Jobs that these ask for."""
    dead: int = 0
    """Dead letters."""


class QueuesTold(Said, frozen=True, kw_only=True, tag="queues"):
    """Answer to `queues`."""

    id: bytes = b""
    queues: tuple[QueueLine, ...] = ()
    more: bool = False
    """There are others behind the last one."""


class QueueTold(Said, frozen=True, kw_only=True, tag="queue"):
    """Answer to `queue`, `pause`, `resume` and `set_queue`: the queue as it is now."""

    id: bytes = b""
    queue: QueueLine


class JobTold(Said, frozen=True, kw_only=True, tag="job"):
    """Answer to `job` and `cancel`: the job as it is now."""

    id: bytes = b""
    job: bytes = b""
    """Its id, drawn now where nobody had been told one."""
    number: Count = 0
    """How the log calls it: 1, 2, 3 ... in the order of acceptance."""
    request: bytes = b""
    principal: str = ""
    queue: str
    state: str
    reason: str = ""
    attempts: int = 0
    tries: int | None = None
    """As many as may count; None: any number."""
    worker: str = ""
    """Who has it."""
    accepted_ms: int = 0
    """Milliseconds since 1970 (UTC), as those that follow; 0: not yet."""
    began_ms: int = 0
    """When its worker began, or got it."""
    due_ms: int = 0
    """When its delay is over."""
    ended_ms: int = 0
    body_bytes: int = 0
    """As long as the body is kept."""
    askers: int = 0
    """Connections that wait for it."""
    kind: str = ""
    text: str = ""
    ledger: tuple[Entry, ...] = ()
    headers: dict[str, str] | None = None


class WhyTold(Said, frozen=True, kw_only=True, tag="why"):
    """Answer to `why`."""

    id: bytes = b""
    job: bytes = b""
    state: str
    code: str
    text: str


class DeadLine(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """A dead letter, as it is listed."""

    job: bytes
    number: Count
    """How the log calls it."""
    queue: str
    reason: str
    kind: str = ""
    """What its worker called the last failure."""
    attempts: int = 0
    accepted_ms: int = 0
    """Milliseconds since 1970 (UTC)."""
    ended_ms: int = 0
    body_bytes: int = 0
    redriven_from: bytes = b""
    """Id of the dead letter that the job was made of."""
    redriven_to: bytes = b""
    """Id of the job that was made of it, the last one."""


class DeadTold(Said, frozen=True, kw_only=True, tag="dead"):
    """Answer to `dead`."""

    id: bytes = b""
    letters: tuple[DeadLine, ...] = ()
    next: int = 0
    """There may be more behind this place; 0: there is nothing more."""


class DeadJobTold(Said, frozen=True, kw_only=True, tag="dead_job"):
    """Answer to `dead_job`; its body is that of the job where that was asked for."""

    id: bytes = b""
    letter: DeadLine
    text: str = ""
    """What its worker said of the last failure."""
    request: bytes = b""
    principal: str = ""
    handovers: int = 0
    """That came to nothing and cost no attempt."""
    ledger: tuple[Entry, ...] = ()
    headers: dict[str, str] | None = None


class SweptTold(Said, frozen=True, kw_only=True, tag="swept"):
    """Answer to `redrive` and `purge`."""

    id: bytes = b""
    count: int = 0
    """Of how many it was done, or would have been."""
    skipped: int = 0
    """How many were redriven before."""
    refused: int = 0
    """Of how many the broker took no new job."""
    code: str = ""
    """Why not, the last reason ..."""
    text: str = ""
    """... and what to change."""
    jobs: tuple[bytes, ...] = ()
    """Ids of the new jobs, the first thousand."""


class BackupTold(Said, frozen=True, kw_only=True, tag="backup"):
    """Answer to `backup`: how far the last copy is."""

    id: bytes = b""
    path: str = ""
    """"": there was none."""
    state: str = ""
    """`running`, `done`, `failed`; "": there was none."""
    done_bytes: int = 0
    total_bytes: int = 0
    """As the store is now."""
    text: str = ""
    """Why it failed."""


ToAdmin: TypeAlias = (
    QueuesTold | QueueTold | JobTold | WhyTold | DeadTold | DeadJobTold | SweptTold | BackupTold | Error
)
