"""The account of one job, as the judge keeps it, and what the judge says when something is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from relet.messages import Body, JobBody, KeptBody, Path
from relet.testing.network import Wire

LOST: Final = "lost"
FALSE_FAILURE: Final = "false_failure"
SECOND_OUTCOME: Final = "second_outcome"
ORDER: Final = "order_key"
RATE: Final = "rate"
WRONG: Final = "wrong"


class Violation(AssertionError):
    """The broker did what it must not do. `kind` is `LOST`, `FALSE_FAILURE`, `SECOND_OUTCOME`, `ORDER`, `RATE` or
    `WRONG`.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


def in_memory(body: JobBody) -> Body:
    """The frames of a body that is not kept elsewhere."""
    if isinstance(body, KeptBody):
        raise Violation(WRONG, f"the body of job {body.number} is not in memory")
    return body


def key_of(body: Body) -> bytes:
    """What a job is known by: the first frame of its body."""
    return bytes(body[0] if type(body) is tuple else body)  # type: ignore[arg-type]  # a tuple's items are frames


WAITS, HELD, RUNS, ANSWERED, FAILED, GONE = range(6)
"""Where a claim stands: up to `RUNS` it is open. `GONE`: forgotten by a crash, and nothing is owed any more."""

NEVER: Final = 1 << 62
TOKENS_MAX: Final = 100
"""Of how many earlier hand-overs to sessions the tokens are good for a late answer."""


@dataclass(slots=True, frozen=True)
class Pause:
    """How long a job waits between attempts."""

    curve: str
    base_ns: int
    cap_ns: int
    jitter: bool


@dataclass(slots=True, eq=False)
class Agreed:
    """What was agreed about a job."""

    tries: int | None = None
    bounds: dict[str, int] = field(default_factory=dict)
    """Attempts that may be in vain, by what they are counted as: "errors", "timeouts", "losses"."""
    final_kinds: tuple[str, ...] = ()
    pause: Pause | None = None
    start_ns: int | None = None
    """It must have begun so long after it was first asked for ..."""
    total_ns: int | None = None
    """... and ended so long after that."""
    takes_ns: int = 0
    """No attempt begins when less is left."""
    priority: int = 0
    fair: str = ""
    weight: int = 1
    order: str = ""
    blocks: bool = False
    unique: str = ""
    unique_ns: int = 0
    """How long after its success its key is taken."""


@dataclass(slots=True, frozen=True)
class Named:
    """What is known of one request of a job."""

    size: int
    """Bytes of its body."""
    finishes: bool
    """Whether it wants the job to be done though all who wait for it are gone."""
    asked_at: int


PLAIN: Final = Agreed()


@dataclass(slots=True, eq=False)
class Claim:
    """What is owed for one job."""

    key: bytes
    wire: Wire | None
    """The connection on which it came in the dialect of 2010; None once nobody is to be told."""
    path: Path
    run_ns: int | None
    silence_ns: int | None = None
    late_any: bool = True
    ends_alone: bool = False
    keep_ns: int = 0
    queue: str = "default"
    headers: dict[str, str] | None = None
    request: bytes | None = None
    """Id of the request that made it; None: it came in the dialect of 2010."""
    names: dict[bytes, Named] = field(default_factory=dict)
    """All requests whose job it is, by id; with a unique key there may be several, and it is known by the first ..."""
    safe_names: dict[bytes, Named] = field(default_factory=dict)
    """... and those of them that are safe."""
    alone: bool = True
    """When it ended it was the job of one request, and it still is."""
    replaced_by: bytes = b""
    """Id of the job that took its place."""
    again: bool = False
    """It was first asked before this broker began, and nothing remembers."""
    accepted_at: int = 0
    asked_at: int = 0
    """When it was first asked for."""
    asked_deaf_ns: int = 0
    """How long the broker had been deaf when that was said, in all."""
    early_ns: int = 0
    """By how much its deadlines may be early, or late: a store keeps milliseconds."""

    _state: int = WAITS
    line: Any = None
    """Where it waits, or from where it was dispatched (`judged_lines.Line`)."""
    agreed: Agreed = PLAIN
    number: int = 0
    """Of its acceptance; 0: it came in the dialect of 2010, and has not been told."""
    made_of: Claim | None = None
    """The dead letter that was redriven as this job ..."""
    redriven_as: Claim | None = None
    """... and, of a dead letter, that job."""
    instead_of: Claim | None = None
    """Of a job that was made so: the one that was known by its body until then."""
    turn: int = 0
    """In which it was accepted."""
    safe_turn: int = 0
    """After which its acceptance was safe ..."""
    safe_at: int = 0
    """... and when the broker heard of that, where it was to wait for a moment: it can be done no sooner."""
    attempts: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Of these, those that were in vain, by what they are counted as."""
    forgiven: int = 0
    """Attempts that a crash of the broker may have made it forget."""
    handovers: int = 0
    began: int = 0
    ends: int = NEVER
    """When the run limit of the running attempt ends."""
    heard: int = 0
    """When the running attempt was reported on."""
    due: int = 0
    """Not to be dispatched before."""
    due_deaf_ns: int = 0
    """How long the broker had been deaf when that was said, in all."""
    due_after: tuple[int, int] = (0, 0)
    """After how many attempts and hand-overs in vain it was said."""
    retry_ns: int | None = None
    """What its worker wanted when it failed last; None: nothing."""
    holder: Any = None
    """The `Peer` of 2010 or the session that has it."""
    seq: int = 0
    """Number of the hand-over in the holder's session."""
    token: bytes = b""
    """Of the last hand-over."""
    native: bool = False
    """Whether that was to a session."""
    shared: bytes = b""
    """The token of all hand-overs to workers of 2010."""
    tokens: list[bytes] = field(default_factory=list)
    """All that are good for a late answer."""
    forgotten: frozenset[bytes] = frozenset()
    """Those of hand-overs of which the broker has known nothing since a crash: good for an answer, and for nothing
    else."""
    recalled: int | None = None
    avoids: Any = ()
    """The worker that has failed it last; (): none."""
    cause: str = ""
    """Why the last attempt or hand-over ended."""
    ended_try: int = -1
    """When the last attempt ended."""
    failed_safe: int = 0
    """The failure of attempts up to this one is safe."""
    safe: bool = False
    """Its acceptance is safe ..."""
    safe_end: bool = False
    """... and so is its end."""

    answer: Body = b""
    answer_headers: dict[str, str] | None = None
    reason: str = ""
    kind: str = ""
    text: str | None = ""
    """What its client is told of the last failure; None: what the broker says of it itself."""
    told: bool = False
    ended_at: int = 0
    ended_deaf_ns: int = 0
    """How long the broker had been deaf then, in all."""
    ended_serial: int = 0
    receipts: set[bytes] = field(default_factory=set)
    """By which ids askers were told the outcome who have said that they received it."""
    job_id: bytes = b""
    askers: list[Any] = field(default_factory=list)
    """Who is owed the outcome natively (`judged_requests.Asked`)."""

    def __repr__(self) -> str:
        return f"<Claim {self.key!r}>"

    @property
    def state(self) -> int:
        """Where it stands."""
        return self._state

    @state.setter
    def state(self, to: int) -> None:
        was, self._state = self._state, to
        if self.line is not None:
            self.line.moved(self, was, to)

    @property
    def place(self) -> int:
        """Its place in its order key: that of the dead letter that it was made of, where that blocked the key."""
        made_of = self.made_of
        return self.number if made_of is None or not made_of.agreed.blocks else made_of.place

    @property
    def blocks(self) -> bool:
        """Whether it blocks its order key as a dead letter: until another job is made of it."""
        heir = self.redriven_as
        return heir is None or heir.state == GONE

    @property
    def ends_by(self) -> int:
        """When it must have ended."""
        total_ns = self.agreed.total_ns
        return NEVER if total_ns is None else self.asked_at + total_ns

    @property
    def starts_by(self) -> int:
        """When its first attempt must have begun."""
        start_ns = self.agreed.start_ns
        return NEVER if start_ns is None or self.attempts else self.asked_at + start_ns

    @property
    def goes_by(self) -> int:
        """When it must have been handed over."""
        return min(self.starts_by, self.ends_by - self.agreed.takes_ns)

    @property
    def open(self) -> bool:
        """It has not ended."""
        return self._state <= RUNS
