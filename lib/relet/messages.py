"""The vocabulary that all rooms share.

What crosses a border between two rooms is named here and nowhere else: who spoke (`Peer`), what was carried (`Frame`,
`Body`), what a peer said (`Request`, `Ask`, `Answer`), and what has to be kept so that a machine can be built again
(`Record`). On the hot path these are plain tuples: building a tuple costs 23 ns, a struct 60 and its attributes more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import msgspec

NO_DESCRIPTOR = -1
"""A connection without a file descriptor that we know of: `inproc`, or a libzmq that does not tell."""


GONE_MAX = 10_000
"""Routing ids of connections that have gone, remembered because their last messages may still lie unread. Those that
libzmq draws do not come back."""


class LargeFrame(Protocol):
    """A frame that stays where libzmq received it: it can be read and sent again, and was never copied."""

    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


Frame: TypeAlias = "bytes | LargeFrame"

Body: TypeAlias = "Frame | tuple[Frame, ...]"
"""Opaque frames: the frame itself where there is one, else a tuple of them. The broker never looks inside."""


class Peer:
    """One connection of a ROUTER socket, for as long as it lasts; compared by identity.

    The routing id is only good for sending: libzmq gives the same ids out again after a restart, so nothing that
    outlives the connection is ever keyed by it. A peer that reconnects is another `Peer`.
    """

    __slots__ = ("asks_one_at_a_time", "descriptor", "routing_id", "socket_type")

    def __init__(self, routing_id: bytes, descriptor: int = NO_DESCRIPTOR, socket_type: str = "") -> None:
        self.routing_id = routing_id
        """b"" once the connection has gone: libzmq has no such peer, so nothing can be sent to it."""
        self.descriptor = descriptor
        """File descriptor of the connection (`ZMQ_SRCFD`), or `NO_DESCRIPTOR`."""
        self.socket_type = socket_type
        """What the peer said it is when it connected: "REQ", "DEALER", "ROUTER" ...; "" where unknown."""
        self.asks_one_at_a_time = socket_type == "REQ"
        """A REQ socket sends nothing more until it is answered: a second ask means that the first was given up."""

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


def body_bytes(body: Body) -> int:
    """The size of a body in bytes, all frames together."""
    if type(body) is tuple:
        return sum(map(len, body))
    return len(body)


FRAME_BYTES = 64
"""What a frame costs beyond its bytes, where there are several: an object, its allocation, its place."""


def held_bytes(body: Body, path: Path) -> int:
    """What a job holds in memory because of what it carries, bytes."""
    if type(body) is tuple:
        return sum(map(len, body)) + FRAME_BYTES * len(body) + len(path)
    return len(body) + len(path)


def body_frames(body: Body) -> tuple[Frame, ...]:
    """The frames of a body, always as a tuple."""
    return body if type(body) is tuple else (body,)  # type: ignore[return-value]  # as above


# --- Records: what a store keeps. Few kinds, each with the whole truth about what it names, so that applying a record
# twice changes nothing. Numbers are acceptance numbers: 1, 2, 3 ... in the order in which jobs were accepted.


class AttemptEnded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A line of the ledger: an attempt that did not lead to the outcome, and why."""

    attempt: int
    cause: str
    """`expired` or `worker_lost` (`core.job.Cause`)."""
    began_ns: int
    """Lease time at the dispatch, nanoseconds."""
    ended_ns: int


class Accepted(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """A job was accepted: from here on its end is owed."""

    number: int
    body: tuple[bytes, ...]


class Attempt(msgspec.Struct, frozen=True, tag=2, array_like=True):
    """What is known of a job that is not final: absolute numbers, so the last record wins."""

    number: int
    running: bool
    """True while a worker may have it, False while it waits."""
    token: bytes
    attempts: int
    handovers: int
    ledger: tuple[AttemptEnded, ...]


class Finished(msgspec.Struct, frozen=True, tag=3, array_like=True):
    """A job reached its one final outcome. `kept` tells whether anything of it remains to be looked at."""

    number: int
    state: int
    reason: str
    attempts: int
    kept: bool
    ledger: tuple[AttemptEnded, ...]
    answer: tuple[bytes, ...] = ()


class Forgotten(msgspec.Struct, frozen=True, tag=4, array_like=True):
    """A final job that was kept has passed its retention."""

    number: int


Record: TypeAlias = Accepted | Attempt | Finished | Forgotten

Records: TypeAlias = Sequence[Record]
