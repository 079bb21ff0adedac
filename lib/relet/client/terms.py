"""On what terms a job is submitted, and how that is said.

`Terms` is what users write: one frozen value, checked where it is made. `Asking` is the same put into the native
dialect's words, once for all jobs on the same terms: the header of a job that is asked for the first time differs from
the next one's in its request id alone, so it is encoded once and cut there.
"""

from __future__ import annotations

import datetime as dt
import difflib
import enum
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from relet.dialects.native import HEADER_BYTES_MAX, encode
from relet.messages import (
    DEFAULT_QUEUE,
    INT_MAX,
    KEY_CHARACTERS_MAX,
    PRIORITY_MAX,
    QUEUE_CHARACTERS_MAX,
    REQUEST_ID_BYTES_MAX,
    WEIGHT_MAX,
    BackoffMs,
    Item,
    Submit,
)

REQUEST_ID_BYTES: Final = 16
"""Bytes of the request ids that the library draws."""
NUMBERS_BYTES_MAX: Final = 64
"""What the numbers that change from message to message add to a header."""

_PLACE: Final = b"\0" * REQUEST_ID_BYTES
_MARK: Final = b"\xc4\x10" + _PLACE  # MessagePack: bin of 16 bytes
_MILLISECONDS_MAX: Final = 1 << 63


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How long a job waits after an attempt that came to nothing, before the next.

    Raises ValueError where a value cannot be; the text says which one and what to change.
    """

    base: float
    """Seconds of the first pause; 0: no pauses, whatever the broker has."""
    curve: Literal["fixed", "linear", "exponential"] = "exponential"
    """How the pauses grow: not at all, by the first one each time, or to the double each time."""
    cap: float | None = None
    """Seconds that no pause exceeds. None: as the broker allows, a week unless it says otherwise."""
    jitter: bool = False
    """Whether a part of each pause is waited for, from nothing to all of it, so that jobs that failed together do not
    come back together. It is derived from the job's id and the attempt, and so the same in every life of the broker."""

    def __post_init__(self) -> None:
        _check_seconds("base", self.base, "0 for no pauses", needed=True)
        _check_word("curve", self.curve, ("fixed", "linear", "exponential"))
        _check_seconds("cap", self.cap, "or None for as long as the broker allows")
        if self.cap is not None and self.cap < self.base:
            raise ValueError(f"cap must be at least base, {self.base!r}, where the pauses begin; not {self.cap!r}")
        if not isinstance(self.jitter, bool):
            raise ValueError(f"jitter must be True or False, not {self.jitter!r}")  # noqa: TRY004 - as all of them

    def in_ms(self) -> BackoffMs:
        """The same in the native dialect's words."""
        base_ms, cap_ms = _milliseconds(self.base) or 0, _milliseconds(self.cap)
        return BackoffMs(curve=self.curve, base_ms=base_ms, cap_ms=cap_ms, jitter=self.jitter)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """On what terms a job is done. What is left out, or None, is as its queue has it (`--queues`,
    `Admin.set_queue`), and what that leaves open as the broker has it.

    Raises ValueError where a value cannot be; the text says which one and what to change.
    """

    queue: str = DEFAULT_QUEUE
    """Where the job waits, and so which workers get it: 1 to 200 characters."""
    run: float | None = None
    """Seconds that one attempt may take, from its start. None: the queue's limit, or the broker's; 0: no limit."""
    silence: float | None = None
    """An attempt must extend, or report progress or a partial result, at least every so many seconds. None: need
    not."""
    late: Literal["any", "current"] = "any"
    """Which attempts may answer: any, and the first answer counts, or the current one only."""
    gone: Literal["finish", "cancel"] = "finish"
    """What becomes of the job when nobody who waits for it is connected any more. Of one that was handed over with
    `enqueue` that says nothing until somebody has waited for its `result`."""
    keep: float = 0.0
    """Seconds that the outcome is kept after the job's end, even when it was received, for whoever asks again."""
    tries: int | None = None
    """Attempts that count, of all kinds together. None: the queue's limit, or the broker's; 0: no limit."""
    errors_max: int | None = None
    """Of them, how many may fail, as their workers say. None: the queue's limit; 0: all."""
    timeouts_max: int | None = None
    """How many may take too long, or be silent for too long. None: the queue's limit; 0: all."""
    losses_max: int | None = None
    """How many may be lost with their worker. None: the queue's limit; 0: all."""
    final_kinds: tuple[str, ...] | None = None
    """Kinds of errors (`FailJob.kind`, or the exact name of the exception) after which no other attempt is made. None:
    the queue's; (): none."""
    backoff: Backoff | None = None
    """The pauses between attempts. None: the queue's, or none; `Backoff(base=0)`: none. A worker that says when to try
    again decides itself."""
    priority: int | None = None
    """Its place in the queue, -1000 to 1000: higher ones go first, and of the same the oldest. None: the queue's, which
    is 0 unless somebody has set it."""
    fair: str = ""
    """Fairness key, such as the name of a customer, at most 200 characters: within a queue and priority jobs of
    different keys take turns, so that who has many does not keep the others waiting. "": none."""
    weight: int = 1
    """Jobs of that key in each round, 1 to 1000; the last one said for a key of a queue holds, from its next
    round on."""
    delay: float = 0.0
    """Seconds before which the job does not start; from when it is first asked for, as the two below."""
    not_before: dt.datetime | float | None = None
    """A moment before which it does not start, by the broker's clock: a datetime with a time zone, or seconds since
    1970 as `time.time()` has them."""
    start: float | None = None
    """Seconds within which it must have started, or it ends. None: as its queue has it; 0: it may wait."""
    deadline: float | None = None
    """Seconds within which it must have ended, or it ends, whatever becomes of it: no attempt is waited for that would
    come later. None: as its queue has it; 0: it may take its time."""
    takes: float = 0.0
    """Seconds that an attempt takes: none is begun when less is left until the deadline."""
    order: str = ""
    """Order key, such as the name of an account, at most 200 characters: of its jobs in a queue at most one is with a
    worker or waits for its next attempt, and they go in the order in which they were accepted. "": none."""
    blocks: bool = False
    """Whether the later jobs of that key stop when this one was discarded, until its dead letter is redriven or purged,
    or a bound of dead letters ends it; else they go on without it."""

    unique: str = ""
    """A key of which there is one live job in the queue at a time; "": none. At most 200 characters."""
    unique_mode: Literal["reject", "join", "replace"] = "reject"
    """What becomes of a job whose key is taken: it is refused (`JobRefused`, `duplicate`), shares the outcome of the
    one that is there, or takes its place, if that is with no worker: then that one ends with `JobFailed`
    (`replaced`)."""
    unique_for: float = 0.0
    """Seconds after a success in which the key is still taken. Who joins then gets the outcome, if it is kept
    (`keep`)."""

    def __post_init__(self) -> None:
        _check_queue(self.queue)
        _check_unique(self)
        _check_seconds("run", self.run, "0 for no limit, or None for the broker's")
        _check_seconds("silence", self.silence, "or None where an attempt may be silent", zero=False)
        _check_seconds("keep", self.keep, "0 for no longer than until it was received", needed=True)
        _check_word("late", self.late, ("any", "current"))
        _check_word("gone", self.gone, ("finish", "cancel"))
        _check_count("tries", self.tries, 0, "0 for no limit, or None for the broker's")
        for name in ("errors_max", "timeouts_max", "losses_max"):
            value = getattr(self, name)
            _check_count(name, value, 0, "0 for as many as there are tries, or None for the queue's")
            if value is not None and self.tries and value > self.tries:
                raise ValueError(f"{name} must be at most tries, {self.tries}, which bounds all together: not {value}")
        self._check_times()
        _check_kinds(self.final_kinds)
        if not (self.backoff is None or isinstance(self.backoff, Backoff)):
            raise ValueError(f"backoff must be a Backoff or None, not {self.backoff!r}")
        if self.priority is not None:
            _check_number("priority", self.priority, -PRIORITY_MAX, PRIORITY_MAX)
        _check_key("fair", self.fair)
        _check_number("weight", self.weight, 1, WEIGHT_MAX)
        _check_key("order", self.order)
        if self.blocks and not self.order:
            raise ValueError("blocks says nothing without order: name the key that is blocked, or leave it out")
        if self.weight != 1 and not self.fair:
            raise ValueError("weight says nothing without fair: name the key that has this weight, or leave it out")

    def _check_times(self) -> None:
        """Delays and deadlines, each for itself and together."""
        _check_seconds("delay", self.delay, "0 for none", needed=True)
        _check_seconds("start", self.start, "0 where the job may wait, or None for the queue's")
        _check_seconds("deadline", self.deadline, "0 where it may take its time, or None for the queue's")
        _check_seconds("takes", self.takes, "0 where that is not known", needed=True)
        _check_moment(self.not_before)
        if self.delay and self.not_before is not None:
            raise ValueError("delay and not_before both say when the job may start: leave one out")
        last = self.deadline or math.inf
        if self.start is not None and self.start > last:
            raise ValueError(f"start must be at most deadline, {last!r}, when the job has ended; not {self.start!r}")
        if self.takes and self.takes >= last:
            raise ValueError(f"takes must be less than deadline, {last!r}, or no attempt begins; not {self.takes!r}")
        last = min(last - self.takes, self.start or math.inf)
        if self.delay and self.delay >= last:
            raise ValueError(f"delay must be less than {last!r} s, when it would be too late; not {self.delay!r}")

    def unusual(self) -> list[str]:
        """The fields that say something else than what they say when left out."""
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(_USUAL, name)]


def _check_queue(value: object) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= QUEUE_CHARACTERS_MAX:
        raise ValueError(f"queue must be a name of 1 to {QUEUE_CHARACTERS_MAX} characters, not {value!r}")


def _check_unique(terms: Terms) -> None:
    key: object = terms.unique
    if not isinstance(key, str) or len(key) > KEY_CHARACTERS_MAX:
        raise ValueError(f"unique must be a key of at most {KEY_CHARACTERS_MAX} characters, not {key!r}")
    _check_word("unique_mode", terms.unique_mode, ("reject", "join", "replace"))
    _check_seconds("unique_for", terms.unique_for, "0 for no longer than the job is open", needed=True)
    for name, value in (("unique_mode", terms.unique_mode != "reject"), ("unique_for", terms.unique_for)):
        if value and not key:
            raise ValueError(f"{name} says nothing without unique: name a key, or leave it out")


def _check_count(name: str, value: object, least: int, otherwise: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= INT_MAX:
        raise ValueError(f"{name} must be a whole number of at least {least}, {otherwise}; not {value!r}")


def _check_moment(value: object) -> None:
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            raise ValueError(f"not_before must have a time zone, as datetime.now().astimezone() has; not {value!r}")
        value = value.timestamp()
    if value is not None:
        _check_seconds("not_before", value, "since 1970, a datetime, or None for at once")


def _check_kinds(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, tuple) or not all(isinstance(kind, str) and kind for kind in value):
        raise ValueError(f"final_kinds must be a tuple of names of errors, not {value!r}")


def _check_seconds(name: str, value: object, otherwise: str, *, zero: bool = True, needed: bool = False) -> None:
    if value is None and not needed:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value * 1000 < _MILLISECONDS_MAX
        or (value == 0 and not zero)
    ):
        bound = "of at least 0" if zero else "above 0"
        raise ValueError(f"{name} must be a number of seconds {bound}, {otherwise}; not {value!r}")


def _check_number(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def _check_key(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > KEY_CHARACTERS_MAX:
        raise ValueError(f"{name} must be text of at most {KEY_CHARACTERS_MAX} characters, not {value!r}")


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
    WHY = "why"
    """Tell me where it stands, and why there."""
    CANCEL = "cancel"
    """I do not want it any more; tell me where it stands then."""


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
            tries=terms.tries,
            errors_max=terms.errors_max,
            timeouts_max=terms.timeouts_max,
            losses_max=terms.losses_max,
            final_kinds=terms.final_kinds,
            backoff=None if terms.backoff is None else terms.backoff.in_ms(),
            priority=terms.priority,
            fair=terms.fair,
            weight=terms.weight,
            delay_ms=_milliseconds(terms.delay) or 0,
            not_before_ms=_milliseconds(_since_1970(terms.not_before)) or 0,
            start_ms=_milliseconds(terms.start),
            deadline_ms=_milliseconds(terms.deadline),
            takes_ms=_milliseconds(terms.takes) or 0,
            unique=terms.unique,
            unique_mode=terms.unique_mode,
            unique_ms=_milliseconds(terms.unique_for) or 0,
            order=terms.order,
            blocks=terms.blocks,
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


def _since_1970(moment: dt.datetime | float | None) -> float | None:
    return moment.timestamp() if isinstance(moment, dt.datetime) else moment


def _milliseconds(seconds: float | None) -> int | None:
    """Rounded up, so that what is above 0 does not become 0, which means something else."""
    return None if seconds is None else int(-(-seconds * 1000 // 1))
