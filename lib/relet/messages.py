"""The vocabulary that all rooms share.

What crosses a border between two rooms is named here and nowhere else: who spoke (`Peer`), what was carried (`Frame`,
`Body`), what a peer said (`Request`, `Ask`, `Answer`), and what has to be kept so that a machine can be built again
(`Record`). On the hot path these are plain tuples: building a tuple costs 23 ns, a struct 60 and its attributes more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Protocol, TypeAlias, final

import msgspec

DEFAULT_QUEUE: Final = "default"
"""The queue of all jobs and workers that name none, those of the 2010 dialect among them."""

PRIORITY_MAX: Final = 1_000
"""Priorities are from minus this to this: a look at the levels of a queue costs as much as there are."""
WEIGHT_MAX: Final = 1_000
"""Jobs of one fairness key a round, so that the others are not kept waiting for longer."""
KEY_CHARACTERS_MAX: Final = 200
"""Characters of a fairness key."""
QUEUE_CHARACTERS_MAX: Final = 200
"""Characters of a queue's name."""
KIND_CHARACTERS_MAX: Final = 100
"""Characters of the kind of a failure, because it stands in the ledger of every attempt, and each failure is compared
with the kinds that its job calls final."""
REQUEST_ID_BYTES_MIN: Final = 16
REQUEST_ID_BYTES_MAX: Final = 64
"""Bytes of a request id: so few cannot be met by chance, so many hold any hash that is in use."""
INCARNATION_BYTES: Final = 16
"""Random bytes by which a worker is known."""

NO_DESCRIPTOR = -1
"""A connection without a file descriptor that we know of: `inproc`, or a libzmq that does not tell."""


GONE_MAX = 10_000
"""Connections that have gone, remembered by routing id because their last messages may still lie unread: these are
theirs, and are answered by nobody. The ids that libzmq draws do not come back."""


class LargeFrame(Protocol):
    """A frame that stays where libzmq received it: it can be read and sent again, and was never copied."""

    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


Frame: TypeAlias = "bytes | LargeFrame"

Body: TypeAlias = "Frame | tuple[Frame, ...]"
"""Opaque frames: the frame itself where there is one, else a tuple of them. The broker never looks inside."""


@final
class KeptBody(msgspec.Struct, frozen=True, gc=False):
    """The body of a job that a store holds and memory does not; it is read back when it is to be sent."""

    number: int
    """Of the job that was accepted with it."""
    size: int
    """Bytes, all frames together."""
    frames: int
    """How many there are."""

    def __len__(self) -> int:
        return self.size


JobBody: TypeAlias = "Body | KeptBody"
"""What a job carries, in memory or not: who only counts need not know."""


class Peer:
    """One connection of a ROUTER socket, for as long as it lasts; compared by identity.

    The routing id is only good for sending: libzmq gives the same ids out again after a restart, so nothing that
    outlives the connection is ever keyed by it. A peer that reconnects is another `Peer`.
    """

    __slots__ = ("asks_one_at_a_time", "descriptor", "direct", "principal", "routing_id", "socket_type")

    def __init__(
        self, routing_id: bytes, descriptor: int = NO_DESCRIPTOR, socket_type: str = "", principal: str = ""
    ) -> None:
        self.routing_id = routing_id
        """b"" once the connection has gone: libzmq has no such peer, so nothing can be sent to it."""
        self.descriptor = descriptor
        """File descriptor of the connection (`ZMQ_SRCFD`), or `NO_DESCRIPTOR`."""
        self.socket_type = socket_type
        """What the peer said it is when it connected: "REQ", "DEALER", "ROUTER" ...; "" where unknown."""
        self.principal = principal
        """Who it has proven to be; "" where nobody had to prove anything. Requests are looked up within it."""
        self.asks_one_at_a_time = socket_type == "REQ"
        """A REQ socket sends nothing more until it is answered: a second ask means that the first was given up."""
        self.direct: Any = None
        """The session or the asker that speaks on it without a return path: to be found at once, as most are."""

    def __repr__(self) -> str:
        return f"<Peer {self.routing_id.hex()} {self.socket_type or '?'} fd={self.descriptor}>"


Path: TypeAlias = bytes
"""The rest of a return path, after the routing id: its frames packed by the pump, b"" for a direct connection."""

Request: TypeAlias = "tuple[Peer, Path, Body]"
"""A client wants this job done; the outcome goes back along (peer, path)."""

Ask: TypeAlias = "tuple[Peer, Path, Body]"
"""A worker asks for one job, to be sent along (peer, path). The body says nothing in the 2010 dialect."""

Answer: TypeAlias = "tuple[bytes, Body]"
"""(token, result): what a worker sends when it has done a job."""


MAGIC: Final = b"\xffrelet/"
VERSION: Final = 1
SIGNATURE: Final = MAGIC + bytes([VERSION])
"""What stands in the delimiter's place in the native dialect: seven bytes that name it, one for its version."""

Native: TypeAlias = "tuple[Peer, Path, int, bytes, Body]"
"""(peer, path, version, header, body): a message of the native dialect, its header not yet decoded; b"" where there is
none."""

PlainCompleted: TypeAlias = "tuple[Peer, Path, bytes, int, int, int, Body]"
"""(peer, path, token, n, credit, started, body): `Complete` without headers of its own, decoded."""

PlainSubmitted: TypeAlias = "tuple[Peer, Path, bytes, int, Body]"
"""(peer, path, id, received, body): `Submit` with nothing else in it, decoded."""

FormedSubmitted: TypeAlias = "tuple[Peer, Path, bytes, int, str, str, bytes, Body]"
"""(peer, path, id, received, queue, fair, form, body): `Submit` that says more. These fields of it are decoded; the
*form* is the header without them, not decoded: the requests of a client say the same there again and again."""

NativeRun: TypeAlias = "Native | list[PlainCompleted] | list[PlainSubmitted] | list[FormedSubmitted]"
"""A message, or a run of messages of one of the three kinds that nearly all are of: the pump may read those itself."""

WRONG_ENDPOINT: Final = "wrong_endpoint"
"""Code of the error that answers the hello of a client at the workers' endpoint, or of a worker at the clients'."""

NO_SESSION: Final = "no_session"
"""Code of the error that answers who has not said hello, or not since it was forgotten."""
UNKNOWN_QUEUE: Final = "unknown_queue"
"""Code where a queue may not be used, because only configured ones may; or is not there."""
BUSY: Final = "busy"
"""Code where a bound of the broker is reached: later it may be taken."""
TOO_LARGE = "too_large"
TOO_MANY_PEERS = "too_many_peers"
UNDELIMITED = "undelimited"


class Refused(msgspec.Struct, frozen=True):
    """A message that the pump read and could not take; its body is already gone."""

    peer: Peer
    path: Path | None
    """Where an answer would go; None where no empty delimiter was found, so that nothing can be answered."""
    reason: str
    """`TOO_LARGE` (bytes or frames), `TOO_MANY_PEERS` or `UNDELIMITED` (no empty delimiter)."""
    version: int = 0
    """0 in the dialect of 2010; else the last byte of the native signature that stood there."""
    header: bytes = b""
    """The native header, where it had been read."""


def body_bytes(body: JobBody) -> int:
    """The size of a body in bytes, all frames together."""
    if type(body) is tuple:
        return sum(map(len, body))
    return len(body)


FRAME_BYTES = 64
"""What a frame costs beyond its bytes, where there are several: an object, its allocation, its place."""


def held_bytes(body: JobBody, path: Path) -> int:
    """What a job holds because of what it carries, bytes: in memory, or would hold if its body were there."""
    if type(body) is tuple:
        return sum(map(len, body)) + FRAME_BYTES * len(body) + len(path)
    if type(body) is KeptBody and body.frames != 1:
        return body.size + FRAME_BYTES * body.frames + len(path)
    return len(body) + len(path)


def kept_body(number: int, body: Body, known: int = 0) -> KeptBody:
    """What remains in memory of a body that the store has by this number. `known`: a size that it may be, which is then
    the same object: a million are 32 MB.
    """
    size = body_bytes(body)
    return KeptBody(number, known if known == size else size, len(body) if type(body) is tuple else 1)


HEADER_BYTES = 64
"""What a header costs beyond its bytes: two objects and their place."""


def headers_held(headers: dict[str, str] | None) -> int:
    """What headers hold in memory, bytes: names and values, and what each pair costs beyond them."""
    if not headers:
        return 0
    return sum(len(name.encode()) + len(value.encode()) + HEADER_BYTES for name, value in headers.items())


def body_frames(body: Body) -> tuple[Frame, ...]:
    """The frames of a body, always as a tuple."""
    return body if type(body) is tuple else (body,)  # type: ignore[return-value]  # as above


# --- The native dialect's messages: what its headers say. The names of the fields are those of the wire, so that a
# header is decoded, checked and built by one C call (`dialects.native`); what each means is in docs/protocol.md.


INT_MAX: Final = 2**63 - 1

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]
"""A number that a peer says. Decoding checks the range, which costs a nanosecond or two."""

Ordinal: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=INT_MAX)]
"""The same where counting begins at 1."""


class Said(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True, gc=False, kw_only=True):
    """A header. `t` names the message; fields that are left out have their defaults."""


class WorkerHello(Said, frozen=True, kw_only=True, tag="hello"):
    """A worker announces itself: on every new connection, before anything else."""

    incarnation: bytes = b""
    """16 random bytes, drawn when the worker began; b"": it is no worker."""
    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    """What it serves, the most important first."""
    weights: tuple[int, ...] = ()
    """Jobs of each of these queues a round, where they take turns; (): the most important that has something."""
    capacity: Count = 1
    """How many jobs it does at a time; for who looks at the workers."""
    running: tuple[bytes, ...] = ()
    """Tokens of the jobs it has started and not reported, or whose report is not acknowledged."""
    held: tuple[bytes, ...] = ()
    """Tokens of the jobs it has and has not started."""
    features: tuple[str, ...] = ()
    agent: str = ""


class WorkerAsk(Said, frozen=True, kw_only=True, tag="ask"):
    """Nothing but the cumulative numbers, which every message of a worker may carry."""

    credit: Count = 0
    """How many jobs may have been handed over since the session began."""
    started: Count = 0
    """All hand-overs up to this number were started, or given back."""


class Complete(Said, frozen=True, kw_only=True, tag="complete"):
    """A job is done; its result is the body."""

    token: bytes
    n: Ordinal
    """Number of this report in its session: 1, 2, 3 ..."""
    credit: Count = 0
    started: Count = 0
    headers: dict[str, str] | None = None


class Fail(Said, frozen=True, kw_only=True, tag="fail"):
    """An attempt has failed."""

    token: bytes
    n: Ordinal
    kind: str = ""
    """A word for programs: the name of the error."""
    text: str = ""
    """A sentence for people."""
    retry_ms: Count | None = None
    """The next attempt not before this long; None: as the job's terms say."""
    final: bool = False
    """No other attempt shall be made."""
    credit: Count = 0
    started: Count = 0


class HandBack(Said, frozen=True, kw_only=True, tag="hand_back"):
    """The worker does not want this job any more; it costs no attempt."""

    token: bytes
    n: Ordinal
    credit: Count = 0
    started: Count = 0


class Partial(Said, frozen=True, kw_only=True, tag="partial"):
    """A piece of the result ahead of the rest, in the body."""

    token: bytes
    n: Ordinal
    credit: Count = 0
    started: Count = 0


class Progress(Said, frozen=True, kw_only=True, tag="progress"):
    """How far an attempt is."""

    token: bytes
    n: Ordinal
    done: float = 0.0
    total: float | None = None
    note: str = ""
    credit: Count = 0
    started: Count = 0


class Extend(Said, frozen=True, kw_only=True, tag="extend"):
    """The attempt needs longer: its run limit shall end this long from now."""

    token: bytes
    n: Ordinal
    run_ms: Count
    credit: Count = 0
    started: Count = 0


class Heartbeat(Said, frozen=True, kw_only=True, tag="heartbeat"):
    """Here I am. Whoever is told by a peer tells it back."""

    credit: Count = 0
    started: Count = 0
    received: Count = 0
    told: Count = 0
    """The broker's to a client: number of the last outcome of this session, or of an answer that was dropped after it.
    What of them has not come was dropped."""


class Goodbye(Said, frozen=True, kw_only=True, tag="goodbye"):
    """The session ends: nothing more will be asked or reported in it."""


FromWorker: TypeAlias = (
    WorkerHello | WorkerAsk | Complete | Fail | HandBack | Partial | Progress | Extend | Heartbeat | Goodbye
)


class Welcome(Said, frozen=True, kw_only=True, tag="welcome"):
    """The broker's answer to a hello."""

    epoch: int
    """A number that grows with each start of the broker."""
    heartbeat_ms: int
    liveness_ms: int
    limits: dict[str, int]
    features: tuple[str, ...] = ()
    agent: str = ""
    handed: int = 0
    """Workers: hand-overs made in this session so far. Credit counts from there."""
    received: int = 0
    """Workers: the last report that is known; later ones are to be sent again."""
    lost: tuple[bytes, ...] = ()
    """Workers: the claimed tokens that give no right any more."""


class Dispatch(Said, frozen=True, kw_only=True, tag="job"):
    """A job for a worker; its body is the job's."""

    token: bytes
    seq: int
    """Number of this hand-over in its session: 1, 2, 3 ..."""
    job: bytes
    """Id of the job, the same at every attempt."""
    attempt: int
    ack: int = 0
    """All reports up to this number are safe, or were refused."""
    tries: int | None = None
    queue: str = DEFAULT_QUEUE
    run_ms: int | None = None
    silence_ms: int | None = None
    headers: dict[str, str] | None = None
    deadline_ms: int | None = None
    """What is left of the job's time; None: it has no deadline."""


class Ack(Said, frozen=True, kw_only=True, tag="ack"):
    """All reports up to this number are safe, or were refused."""

    ack: int


class ReportRefused(Said, frozen=True, kw_only=True, tag="refused"):
    """A report had no effect."""

    n: int
    token: bytes
    code: str
    text: str = ""


class Recall(Said, frozen=True, kw_only=True, tag="recall"):
    """Hand these back, if you have not started them."""

    tokens: tuple[bytes, ...]


class Cancel(Said, frozen=True, kw_only=True, tag="cancel"):
    """Stop working on this job: nobody waits for this attempt any more."""

    token: bytes
    reason: str = ""


class Error(Said, frozen=True, kw_only=True, tag="error"):
    """The message could not be taken."""

    code: str
    text: str = ""
    of: str = ""
    """What the message called itself, where it could be read."""
    id: bytes = b""
    """Of an `inquire`: the id of the request, or of the job, by which it asked."""
    queue: str = ""
    """Of a worker's hello: the queue that may not be used."""


ToWorker: TypeAlias = Welcome | Dispatch | Ack | ReportRefused | Recall | Cancel | Heartbeat | Error


class ClientHello(Said, frozen=True, kw_only=True, tag="hello"):
    """A client announces itself: on every new connection, before anything else."""

    features: tuple[str, ...] = ()
    agent: str = ""
    incarnation: bytes = b""
    """A client has none: who has one is a worker at the wrong endpoint."""


class Item(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """One of many jobs in a message."""

    id: bytes
    frames: Count = 1
    """How many of the body's frames are this job's."""


class BackoffMs(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """How long a job waits after an attempt that came to nothing."""

    curve: Literal["fixed", "linear", "exponential"]
    base_ms: Count
    """The first pause; 0: none at all."""
    cap_ms: Count | None = None
    """No pause is longer. None: than the broker allows."""
    jitter: bool = False
    """Whether a part of it is waited for, drawn from nothing to all of it."""


class Submit(Said, frozen=True, kw_only=True, tag="submit"):
    """A client wants this job done, or these: the body is the job's, or theirs, one after the other."""

    id: bytes = b""
    """Request id, 16-64 bytes, chosen by the client."""
    jobs: tuple[Item, ...] = ()
    """Many jobs on the same terms; then `id` is left out."""
    queue: str = DEFAULT_QUEUE
    received: Count = 0
    """Outcomes up to this number have been received on this connection."""
    age_ms: Count = 0
    """How long ago the same was first asked; 0: never before."""
    ack: bool = False
    """Whether to answer with `submitted`."""
    wait: bool = True
    """Whether to tell the outcome when it is there."""
    follow: bool = False
    """Whether to tell partial results and progress."""
    headers: dict[str, str] | None = None
    run_ms: Count | None = None
    """Limit of one attempt, from its start. None: the broker's; 0: none."""
    silence_ms: Count | None = None
    """An attempt must extend, or report progress or a partial result, at least so often. None: need not."""
    late: Literal["any", "current"] = "any"
    """Which attempts may complete the job: the first valid answer of any, or the current one only."""
    gone: Literal["finish", "cancel"] = "finish"
    """What becomes of the job when its last asker is gone."""
    keep_ms: Count = 0
    """How long to keep the outcome after the end, also when it was received."""
    tries: Count | None = None
    """Counted attempts. None: the broker's limit; 0: none."""
    errors_max: Count | None = None
    """Attempts that may fail, of the tries. None: the queue's limit; 0: all of them."""
    timeouts_max: Count | None = None
    """The same of attempts that take too long or are silent for too long."""
    losses_max: Count | None = None
    """The same of attempts that are lost with their worker."""
    final_kinds: tuple[str, ...] | None = None
    """Errors of these kinds are final. None: the queue's."""
    backoff: BackoffMs | None = None
    """How long the job waits after an attempt that came to nothing. None: as its queue says, or not at all."""
    priority: int | None = None
    """Its place in the queue: higher ones go first. None: the queue's, which is 0 unless somebody has set it."""
    fair: str = ""
    """Fairness key: jobs of different keys take turns. "": none."""
    weight: Count = 1
    """Jobs of that key a round, from now on."""
    delay_ms: Count = 0
    """Not to start before so long after the first asking."""
    not_before_ms: Count = 0
    """Not to start before this moment, milliseconds since 1970 (UTC)."""
    start_ms: Count | None = None
    """To have started so long after the first asking. None: as its queue says; 0: whenever."""
    deadline_ms: Count | None = None
    """To have ended so long after the first asking. None: as its queue says; 0: whenever."""
    takes_ms: Count = 0
    """Not to be started when less is left than this."""
    unique: str = ""
    """Key of which there is one live job in its queue; "": none."""
    unique_mode: Literal["reject", "join", "replace"] = "reject"
    """What becomes of this request where there is one: it is refused, shares its outcome, or takes its place."""
    unique_ms: Count = 0
    """How long after its success the key is taken."""
    order: str = ""
    """Order key: of its jobs in the queue at most one is on its way, in the order of their acceptance. "": none."""
    blocks: bool = False
    """Whether the key is blocked when this job was discarded, for as long as its dead letter is kept."""


class Inquire(Said, frozen=True, kw_only=True, tag="inquire"):
    """What became of a job, by the id of its request or by its own."""

    id: bytes = b""
    job: bytes = b""
    wait: bool = False
    """Whether to tell the outcome: now where there is one, else when it is there."""
    why: bool = False
    """Whether to say why it stands there."""
    received: Count = 0


class CancelJob(Said, frozen=True, kw_only=True, tag="cancel"):
    """A client does not want this job any more: by the id of its request or by its own."""

    id: bytes = b""
    job: bytes = b""
    received: Count = 0


FromClient: TypeAlias = ClientHello | Submit | Inquire | CancelJob | Heartbeat


class Admitted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """What became of one request."""

    id: bytes
    job: bytes = b""
    """Id of the job, or of that which is there in its stead; b"" where there is none, and `code` says why."""
    position: int = 0
    """How many jobs waited before it."""
    joined: bool = False
    """The request was known: this is its job."""
    code: str = ""
    text: str = ""
    retry_ms: int = 0
    """Ask again after so long; 0: not at all."""


class Submitted(Said, frozen=True, kw_only=True, tag="submitted"):
    """What became of the requests of one message, in their order."""

    jobs: tuple[Admitted, ...]


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """A line of the ledger, as told: an attempt that did not lead to the outcome."""

    attempt: int
    cause: str
    worker: str = ""
    began_ms: int = 0
    """Milliseconds since 1970 (UTC), by the broker's clock."""
    ended_ms: int = 0
    kind: str = ""
    text: str = ""


class Outcome(Said, frozen=True, kw_only=True, tag="outcome"):
    """How a job ended; its result is the body."""

    id: bytes
    n: int
    """Number of this outcome on this connection: 1, 2, 3 ... What `received` counts."""
    state: str = "completed"
    reason: str = ""
    """Why it is not `completed`."""
    kind: str = ""
    text: str = ""
    attempts: int = 1
    ledger: tuple[Entry, ...] = ()
    headers: dict[str, str] | None = None
    again: bool = False
    """The broker is younger than the request: an earlier one may have had the job done before."""
    replaced_by: bytes = b""
    """Id of the job that took its place."""
    job: bytes = b""
    """Id of the job, where it is not `completed`."""


class JobState(Said, frozen=True, kw_only=True, tag="state"):
    """Where a job stands."""

    id: bytes = b""
    job: bytes = b""
    state: str
    attempts: int = 0
    reason: str = ""
    code: str = ""
    """Why it stands there, where that was asked for ..."""
    text: str = ""
    """... and in a sentence."""


class TellPartial(Said, frozen=True, kw_only=True, tag="partial"):
    """A piece of the result, in the body."""

    id: bytes
    attempt: int
    seq: int
    """1, 2, 3 ... within the attempt."""


class TellProgress(Said, frozen=True, kw_only=True, tag="progress"):
    """How far the attempt is."""

    id: bytes
    attempt: int
    done: float = 0.0
    total: float | None = None
    note: str = ""


ToClient: TypeAlias = Welcome | Submitted | Outcome | JobState | TellPartial | TellProgress | Heartbeat | Error


# --- Records: what a store keeps. Few kinds, each with the whole truth about what it names, so that applying a record
# twice changes nothing. Numbers are acceptance numbers: 1, 2, 3 ... in the order in which jobs were accepted.


class AttemptEnded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A line of the ledger: an attempt that did not lead to the outcome, and why."""

    attempt: int
    cause: str
    """`expired`, `silent`, `failed`, `worker_lost` or `deadline` (`core.job.Cause`)."""
    began_ms: int
    """Milliseconds since 1970 (UTC)."""
    ended_ms: int
    worker: str = ""
    kind: str = ""
    """What its worker called the failure ..."""
    text: str = ""
    """... and said of it."""


Key: TypeAlias = "bytes | tuple[str, bytes]"
"""What a request is found by: its id where its principal is "", else (principal, id)."""


class Accepted(msgspec.Struct, frozen=True, tag=1, array_like=True, gc=False):
    """A job was accepted: from here on its end is owed."""

    number: int
    body: tuple[bytes, ...]
    queue: str = DEFAULT_QUEUE
    accepted_ms: int = 0
    """Milliseconds since 1970 (UTC)."""
    terms: tuple[Any, ...] | None = None
    """`core.terms.Terms`, field by field; None: those of the broker."""
    principal: str = ""
    request: bytes = b""
    """Request id; b"" where nobody can ask."""
    id: bytes = b""
    """Of the job, where its client was told."""
    headers: dict[str, str] | None = None
    again: bool = False
    rules: tuple[Any, ...] | None = None
    """`core.terms.Rules`, field by field; None: nothing was agreed about it alone."""
    due_ms: int = 0
    """When its delay is over, milliseconds since 1970 (UTC); 0: it has none."""
    size: int = -1
    """Bytes of the body, where a store has it elsewhere or not any more, and `body` is empty; -1: it is here."""
    frames: int = 0
    """And how many frames that has."""


class Attempt(msgspec.Struct, frozen=True, tag=2, array_like=True, gc=False):
    """What is known of a job that is not final: absolute numbers, so the last record wins."""

    number: int
    state: int
    """`core.job.State`."""
    token: bytes
    attempts: int
    handovers: int
    ledger: tuple[AttemptEnded, ...]
    tokens: tuple[bytes, ...] = ()
    shared: bytes = b""
    session: bool = False
    """Whether the last hand-over was to a session."""
    due_ms: int = 0
    """When a delay, or the run limit of an attempt that was extended, is over: milliseconds since 1970 (UTC); 0 where
    there is none."""
    kind: str = ""
    text: str = ""
    claimable: bool = True
    """Whether that session can claim it: it was not given back since."""
    failures: tuple[int, int, int] = (0, 0, 0)
    """Attempts that came to nothing: errors, timeouts, losses."""
    pause_ms: int = INT_MAX
    """How long the delay was when it began: no wall clock makes it longer."""


class Finished(msgspec.Struct, frozen=True, tag=3, array_like=True, gc=False):
    """A job reached its one final outcome. Nothing remains of it unless one of `kept` and `owed` says so."""

    number: int
    state: int
    reason: str
    attempts: int
    kept: bool
    """It is kept as evidence."""
    ledger: tuple[AttemptEnded, ...]
    answer: tuple[bytes, ...] = ()
    owed: bool = False
    """Its outcome may be asked for again."""
    ended_ms: int = 0
    """Milliseconds since 1970 (UTC)."""
    kind: str = ""
    text: str = ""
    headers: dict[str, str] | None = None
    redriven_to: bytes = b""
    """Id of the job that was made of it; b"": none was. Then the record comes again, with the id."""
    replaced_by: bytes = b""
    """Id of the job that took its place."""


class Forgotten(msgspec.Struct, frozen=True, tag=4, array_like=True, gc=False):
    """Less is kept of a final job than before; `Gone` says that nothing is. Said of a job that is open it says nothing:
    that ends by `Finished` or by `Gone`.
    """

    number: int
    kept: bool = False
    """Whether it goes on being evidence ..."""
    owed: bool = False
    """... or being owed."""


class Evicted(msgspec.Struct, frozen=True, tag=5, array_like=True, gc=False):
    """A bound made the broker forget an outcome that nobody had received: that of a job that was accepted then, and no
    younger one.
    """

    accepted_ms: int
    """Milliseconds since 1970 (UTC)."""


class QueueSet(msgspec.Struct, frozen=True, tag=6, array_like=True, gc=False):
    """A queue has these settings from here on."""

    name: str
    settings: dict[str, Any] | None = None
    """`core.settings.QueueSettings`, those of its fields that say something, by name; None: it has none of its own."""


class Shared(msgspec.Struct, frozen=True, tag=7, array_like=True, gc=False):
    """Which requests share a job, where it is not that alone with which it was accepted."""

    number: int
    principal: str
    requests: tuple[tuple[bytes, int, bool, int], ...]
    """(request id, bytes of its body, whether it wants the job to be done though nobody waits, when it was heard: ms
    since 1970); first the job's own."""


class KeyWindow(msgspec.Struct, frozen=True, tag=8, array_like=True, gc=False):
    """A job that held a unique key has ended well, and the key is taken until then."""

    number: int
    queue: str = DEFAULT_QUEUE
    principal: str = ""
    key: str = ""
    job: bytes = b""
    request: bytes = b""
    until_ms: int = 0
    """Milliseconds since 1970 (UTC); 0: no longer."""


class Gone(msgspec.Struct, frozen=True, tag=10, array_like=True, gc=False):
    """These jobs have ended, and nothing remains of them. Windows of their unique keys do."""

    numbers: tuple[int, ...]


class Numbered(msgspec.Struct, frozen=True, tag=9, array_like=True, gc=False):
    """Jobs with numbers up to this one were accepted, whether anything is known of them or not. Only stores say it: no
    number is given a second time, because what is kept by number may outlive its job.
    """

    last: int


Record: TypeAlias = (
    Accepted | Attempt | Finished | Forgotten | Evicted | QueueSet | Shared | KeyWindow | Numbered | Gone
)

Records: TypeAlias = Sequence[Record]
