"""What a caller is told beside answers: that a job was taken, where it stands, and how far it is."""

from __future__ import annotations

import msgspec


class Enqueued(msgspec.Struct, frozen=True):
    """The broker has taken a job and will see it to its end, as long as it lives: without a store, it takes its jobs
    with it.
    """

    request_id: bytes
    """What to ask for its outcome under."""
    job_id: bytes
    """16 bytes in the layout of UUIDv7 (RFC 9562), chosen by the broker."""
    position: int = 0
    """How many jobs waited in its queue when it came, whatever their priorities and keys; `why` tells how many are
    before it."""
    joined: bool = False
    """The broker knew the request, or one with its unique key: this is its job, and no new one."""


class JobStatus(msgspec.Struct, frozen=True):
    """Where a job stands."""

    state: str
    """`delayed`, `available`, `held`, `running`, `completed`, `discarded`, `cancelled`, `expired` (it may have been,
    and nothing of it is kept) or `unknown`."""
    attempts: int = 0
    """Counted so far."""
    reason: str = ""
    """Why it is not completed, where it has ended otherwise."""
    code: str = ""
    """Of `Client.why`: why it is where it is, a word for programs (docs/protocol.md) ..."""
    text: str = ""
    """... and a sentence for people."""
    job_id: bytes = b""
    """What the broker calls it, and administrators find it by; b"" where it is not known."""


class Partial(msgspec.Struct, frozen=True):
    """A piece of the result ahead of the rest. Told at most once, and not kept."""

    frames: tuple[bytes, ...]
    attempt: int
    """A new attempt begins anew: what an earlier one has told is void."""
    seq: int
    """1, 2, 3 ... within the attempt; a gap is a piece that was lost."""


class Progress(msgspec.Struct, frozen=True):
    """How far an attempt is. Told at most once, and not kept."""

    attempt: int
    done: float = 0.0
    total: float | None = None
    note: str = ""
