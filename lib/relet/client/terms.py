"""On what terms a job is submitted, and how that is said.

`Terms` is what users write: one frozen value, checked where it is made. `Asking` is the same put into the native
dialect's words, once for all jobs on the same terms: the header of a job that is asked for the first time differs from
the next one's in its request id alone, so it is encoded once and cut there.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from relet.dialects.native import HEADER_BYTES_MAX, QUEUE_CHARACTERS_MAX, REQUEST_ID_BYTES_MAX, encode
from relet.messages import DEFAULT_QUEUE, Item, Submit

REQUEST_ID_BYTES: Final = 16
"""Bytes of the request ids that the library draws."""
NUMBERS_BYTES_MAX: Final = 64
"""What the numbers that change from message to message add to a header."""

_PLACE: Final = b"\0" * REQUEST_ID_BYTES
_MARK: Final = b"\xc4\x10" + _PLACE  # MessagePack: bin of 16 bytes
_MILLISECONDS_MAX: Final = 1 << 63


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """On what terms a job is done. What is left out is as the broker has it.

    Raises ValueError where a value cannot be; the text says which one and what to change.
    """

    queue: str = DEFAULT_QUEUE
    """Where the job waits, and so which workers get it: 1 to 200 characters."""
    run: float | None = None
    """Seconds that one attempt may take, from its start. None: the broker's limit; 0: no limit."""
    silence: float | None = None
    """An attempt must extend, or report progress or a partial result, at least every so many seconds. None: need
    not."""
    late: Literal["any", "current"] = "any"
    """Which attempts may answer: any, and the first answer counts, or the current one only."""
    gone: Literal["finish", "cancel"] = "finish"
    """What becomes of the job when nobody who asked for it is connected any more. While its client stays connected, no
    single job is ended: not by the cancelling of its future, nor by a timeout."""
    keep: float = 0.0
    """Seconds that the outcome is kept after the job's end, even when it was received, for whoever asks again."""

    def __post_init__(self) -> None:
        _check_queue(self.queue)
        _check_seconds("run", self.run, "0 for no limit, or None for the broker's")
        _check_seconds("silence", self.silence, "or None where an attempt may be silent", zero=False)
        _check_seconds("keep", self.keep, "0 for no longer than until it was received")
        _check_word("late", self.late, ("any", "current"))
        _check_word("gone", self.gone, ("finish", "cancel"))

    def unusual(self) -> list[str]:
        """The fields that say something else than what they say when left out."""
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(_USUAL, name)]


def _check_queue(value: object) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= QUEUE_CHARACTERS_MAX:
        raise ValueError(f"queue must be a name of 1 to {QUEUE_CHARACTERS_MAX} characters, not {value!r}")


def _check_seconds(name: str, value: object, otherwise: str, *, zero: bool = True) -> None:
    if value is None and name != "keep":
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value * 1000 < _MILLISECONDS_MAX
        or (value == 0 and not zero)
    ):
        bound = "of at least 0" if zero else "above 0"
        raise ValueError(f"{name} must be a number of seconds {bound}, {otherwise}; not {value!r}")


def _check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        near = difflib.get_close_matches(str(value), words, 1)
        did_you_mean = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be {' or '.join(map(repr, words))}, not {value!r}{did_you_mean}")


_USUAL: Final = Terms()


class Kind(enum.Enum):
    """What a request asks for."""

    JOB = "job"
    """Do this, and tell me the outcome."""
    ENQUEUE = "enqueue"
    """Do this, and tell me that you will."""
    RESULT = "result"
    """Tell me the outcome of what was submitted, when it is there."""
    STATE = "state"
    """Tell me where it stands."""


class Asking:
    """How a request is said in the native dialect; shared by all requests on the same terms.

    Args:
        kind: what is asked for.
        terms: for jobs.
        headers: for jobs; travel with it.
        follow: whether partial results and progress are wanted.
        by_job: for questions: they name the job, not the request.

    Raises:
        TypeError: `headers` is no mapping of text to text.
        ValueError: the headers are too large for any message.
    """

    __slots__ = ("by_job", "head", "kind", "submit", "submits", "tail")

    def __init__(
        self,
        kind: Kind = Kind.JOB,
        terms: Terms = _USUAL,
        headers: Mapping[str, str] | None = None,
        *,
        follow: bool = False,
        by_job: bool = False,
    ) -> None:
        self.kind = kind
        self.submits = kind is Kind.JOB or kind is Kind.ENQUEUE
        """Whether it brings a job, rather than a question about one."""
        self.by_job = by_job
        self.submit: Final = Submit(
            id=_PLACE,
            queue=terms.queue,
            ack=kind is Kind.ENQUEUE,
            wait=kind is not Kind.ENQUEUE,
            follow=follow,
            headers=_headers(headers),
            run_ms=_milliseconds(terms.run),
            silence_ms=_milliseconds(terms.silence),
            late=terms.late,
            gone=terms.gone,
            keep_ms=_milliseconds(terms.keep) or 0,
        )
        """The message; the id is a place holder."""
        head, mark, tail = encode(self.submit).partition(_MARK)
        self.head: Final = head + mark[:2]
        """A header of a job that is asked for the first time: `head`, 16 bytes of request id, `tail`."""
        self.tail: Final = tail
        if len(head) + len(tail) + REQUEST_ID_BYTES_MAX + NUMBERS_BYTES_MAX > HEADER_BYTES_MAX:
            raise ValueError(
                f"the headers of a job may have {HEADER_BYTES_MAX:,} bytes together with its terms, and these have"
                f" {len(head) + len(tail):,}: send what is long in the body"
            )

    def header(self, request_id: bytes, age_ms: int, received: int, jobs: tuple[Item, ...] = ()) -> bytes:
        """The header of one job, or of many where the id is b"", with all that may stand in it."""
        message = self.submit
        return encode(msgspec.structs.replace(message, id=request_id, jobs=jobs, age_ms=age_ms, received=received))


def _headers(headers: object) -> dict[str, str] | None:
    if not headers:
        return None
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers are a mapping of text to text, not {type(headers).__name__}")
    items: Mapping[Any, Any] = headers
    for name, value in items.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers are text, names and values alike; {name!r} is {value!r}")
    return dict(items)


def _milliseconds(seconds: float | None) -> int | None:
    """Rounded up, so that what is above 0 does not become 0, which means something else."""
    return None if seconds is None else int(-(-seconds * 1000 // 1))
