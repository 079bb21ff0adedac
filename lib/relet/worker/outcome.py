"""What a handler may make of a job beside its answer, and what the worker counts.

A handler that returns has an answer. One that raises says something else: that the attempt failed (`FailJob`, or any
other exception), that the job should go to somebody else (`HandBack`), or nothing at all (`NoAnswer`). In the worker's
own threads each of these is a value, because what was raised in one thread is acted upon in another.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

import msgspec

from relet.messages import KIND_CHARACTERS_MAX

TEXT_CHARACTERS_MAX: Final = 1_000
"""Characters of a failure's text: it stands in the ledger of every attempt, which broker and client keep. A
broker takes as many of a text unless its `--error-text-max` says otherwise."""
MS_MAX: Final = 10 * 365 * 24 * 3_600_000
"""Milliseconds of any duration that is sent: ten years, which nobody means, and which every language can count."""


class NoAnswer(Exception):
    """Raised by a handler: nothing shall be said of this job. It stays the worker's until its time is up."""


class HandBack(Exception):
    """Raised by a handler: another worker shall do this job. It costs no attempt, only a place among hand-overs.

    It has no text: nobody would be told. To say why, raise `FailJob`, or log it.
    """

    def __init__(self) -> None:
        super().__init__()


class FailJob(Exception):
    """Raised by a handler: this attempt has failed, and how.

    Args:
        kind: a word for programs, told to the client when the job ends; at most `KIND_CHARACTERS_MAX` characters are.
        text: a sentence for people, likewise; at most `TEXT_CHARACTERS_MAX`, or fewer where the broker's
            `--error-text-max` is lower.
        retry_after: seconds until the next attempt, whatever the job's backoff is. None: as that says, and without one
            as soon as a worker asks. More than the broker's `--retry-max` is cut to that, and logged
            (`retry_shortened`).
        final: whether no other attempt shall be made.

    Raises:
        ValueError: `retry_after` is negative or no number.
    """

    def __init__(self, kind: str, text: str = "", *, retry_after: float | None = None, final: bool = False) -> None:
        super().__init__(kind, text)
        self.failure = Failure(
            kind=bounded(kind, KIND_CHARACTERS_MAX),
            text=bounded(text, TEXT_CHARACTERS_MAX),
            retry_ms=None if retry_after is None else milliseconds(retry_after, "retry_after"),
            final=final,
        )


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that failed, as it is told."""

    kind: str
    text: str = ""
    retry_ms: int | None = None
    final: bool = False


class Silence(Enum):
    """Outcomes that carry nothing."""

    UNANSWERED = "unanswered"
    """The handler raised `NoAnswer`."""
    HANDED_BACK = "handed_back"
    """The handler raised `HandBack`, or was interrupted by the end of `run`."""
    UNSTARTED = "unstarted"
    """The handler was not called: the job had been taken away, or the broker was not heard for too long."""


Answer = tuple[bytes, ...]
Outcome = Answer | Failure | Silence


def failure_of(error: BaseException) -> Failure:
    """What to tell of an exception: its type's name, and what it says of itself."""
    if isinstance(error, FailJob):
        return error.failure
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is still ends its job
        text = ""
    return Failure(kind=bounded(type(error).__name__, KIND_CHARACTERS_MAX), text=bounded(text, TEXT_CHARACTERS_MAX))


def shown(error: BaseException) -> str:
    """An exception for the log."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - one that cannot show itself must not end who says so
        return type(error).__name__


def bounded(text: str, characters_max: int) -> str:
    """Text that may be sent: not too long, and without lone surrogates, which UTF-8 cannot say."""
    return str(text)[:characters_max].encode("utf-8", "replace").decode()


def milliseconds(seconds: float, what: str) -> int:
    """A duration for the wire, rounded up. Raises ValueError."""
    try:
        can_be = 0 <= seconds < math.inf
    except TypeError:
        can_be = False
    if not can_be:
        raise ValueError(f"{what} is a number of seconds, 0 or more, not {seconds!r}")
    return min(math.ceil(seconds * 1_000), MS_MAX)


class Counters(msgspec.Struct):
    """What has happened since the worker was made. Read it from any thread; each number only grows.

    Those below `frames_refused` are of the native dialect, which has the words for them.
    """

    jobs: int = 0
    """Jobs received."""
    answered: int = 0
    """Jobs done whose answers were handed to ZeroMQ or wait for the connection."""
    unanswered: int = 0
    """Jobs that the handler left unanswered on purpose (`NoAnswer`)."""
    failed: int = 0
    """Jobs whose handler raised."""
    handed_back: int = 0
    """Jobs given back: by the handler (`HandBack`), recalled by the broker, or not started when the worker ended."""
    dropped: int = 0
    """Jobs received and never started, which the broker had taken back or let again."""
    losses: int = 0
    """Connections lost."""
    jobs_refused: int = 0
    """Jobs that came without an ask."""
    frames_refused: int = 0
    """Messages that are no jobs, and in the native dialect nothing else that is known."""
    welcomes: int = 0
    """Sessions begun or gone on with."""
    silences: int = 0
    """Connections given up because the broker was silent on them."""
    sleeps: int = 0
    """Times that the worker found itself stopped for longer than the liveness time."""
    cancelled: int = 0
    """Jobs that the broker said to stop, or that turned out to be somebody else's, while the handler had them."""
    extended: int = 0
    """Extensions asked for."""
    partials: int = 0
    """Pieces of results sent."""
    partials_dropped: int = 0
    """Pieces of results that were not sent, because there was no session to send them in."""
    reports_resent: int = 0
    """Reports sent again, because a connection went before they were acknowledged."""
    reports_refused: int = 0
    """Reports that the broker refused: mostly of jobs that had ended meanwhile."""
    reports_late: int = 0
    """Of these, reports of jobs that the broker had said to stop: nothing is wrong with them."""
    errors: int = 0
    """Messages that the broker could not take."""
