"""The account of one job, as the judge keeps it, and what the judge says when something is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from relet.messages import Body, Path
from relet.testing.network import Wire

LOST: Final = "lost"
FALSE_FAILURE: Final = "false_failure"
WRONG: Final = "wrong"


class Violation(AssertionError):
    """The broker did what it must not do. `kind` is `LOST`, `FALSE_FAILURE` or `WRONG`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


def key_of(body: Body) -> bytes:
    """What a job is known by: the first frame of its body."""
    return bytes(body[0] if type(body) is tuple else body)  # type: ignore[arg-type]  # a tuple's items are frames


WAITS, HELD, RUNS, ANSWERED, FAILED, GONE = range(6)
"""Where a claim stands: up to `RUNS` it is open. `GONE`: forgotten by a crash, and nothing is owed any more."""

NEVER: Final = 1 << 62
TOKENS_MAX: Final = 100
"""Of how many earlier hand-overs to sessions the tokens are good for a late answer."""


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
    """Request id; None: it came in the dialect of 2010."""
    size: int = 0
    again: bool = False
    """It was first asked before this broker began, and nothing remembers."""
    accepted_at: int = 0

    state: int = WAITS
    attempts: int = 0
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
    recalled: int | None = None
    cause: str = ""
    """Why the last attempt or hand-over ended."""
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
    receipted: bool = False
    """Some asker has said that it received the outcome."""
    job_id: bytes = b""
    askers: list[Any] = field(default_factory=list)
    """Who is owed the outcome natively (`judged_requests.Asked`)."""

    def __repr__(self) -> str:
        return f"<Claim {self.key!r}>"

    @property
    def open(self) -> bool:
        """It has not ended."""
        return self.state <= RUNS
