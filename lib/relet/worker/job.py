"""A job in the worker's hands, and what its handler may know of it and say about it.

`Job` is the worker's own record; `CurrentJob` is what `relet.current_job()` shows of it. A handler that never asks
pays nothing for it. What a handler says - that it needs longer, how far it is, a piece of the result - goes into the
inbox of the library's thread and is sent from there, so that nothing here ever waits for the network. One thing is
bounded by waiting: pieces of a result that were not sent yet, because who produces them faster than the network takes
them would else fill the memory. That wait ends also where the broker takes nothing any more: a connection on which it
is silent for too long is given up, and with it the pieces, which are told at most once anyhow.
"""

from __future__ import annotations

import collections
import contextvars
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple

from relet.messages import DEFAULT_QUEUE, HEADER_BYTES, Dispatch, headers_held
from relet.worker.outcome import TEXT_CHARACTERS_MAX, bounded, milliseconds

PIECES_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of pieces of results that wait to be sent, before a handler that says more has to wait; one may be larger."""
PIECE_BYTES: Final = 1_024
"""What a piece counts beside its bytes: its header, and the objects around it."""
NO_JOB: Final = "there is no current job: call current_job() in a worker's handler, in its own thread or coroutine"


class Job:
    """A job that was handed over, natively.

    It does not know whether it was started, dropped or has ended: that is decided in the tables of
    `peer_native.NativePeer`, each at one place.
    """

    began = 0
    """When the handler was called: nanoseconds of the worker's clock; 0 before."""
    answered = False
    """Whether the handler has returned an answer; written by its thread."""
    before: Job | None = None
    """An earlier attempt, which the handler had when this one came: where that is answered, this is not to be done."""
    told = False
    """Whether the broker is told of its start before the handler begins it."""
    cancelled = False
    """The broker waits for this attempt no more."""
    answer_headers: dict[str, str] | None = None
    """To be sent with the answer."""
    view: CurrentJob | None = None

    def __init__(self, header: Dispatch, frames: tuple[bytes, ...], session: int, came: int = 0) -> None:
        self.header = header
        self.came = came
        """When it was handed over: nanoseconds of the worker's clock."""
        self.token = header.token
        self.seq = header.seq
        self.frames = frames
        self.session = session
        """In which of the worker's sessions it came: only there does `seq` mean anything."""

    @property
    def queue(self) -> str:
        """In which queue it waited."""
        return self.header.queue

    def names(self) -> dict[str, str | int]:
        """What it is called in the log: as the broker calls it."""
        header = self.header
        return {"job": header.job.hex(), "queue": header.queue, "attempt": header.attempt}


class Extension(NamedTuple):
    """The handler needs longer."""

    until: int
    """Nanoseconds of the worker's clock."""
    deadline: float
    """The same as `CurrentJob.deadline` says it: seconds of `time.monotonic()`."""


class Note(NamedTuple):
    """How far the handler is."""

    done: float
    total: float | None
    text: str


class Piece(NamedTuple):
    """A piece of the result."""

    frames: tuple[bytes, ...]
    bytes: int


class Asides:
    """What handlers say of jobs under way, on its way to the library's thread.

    Args:
        inbox: of that thread.
        clock: the worker's clock, nanoseconds.
        piece_bytes_max: bytes of one piece of a result.
    """

    def __init__(
        self, inbox: collections.deque[tuple[Any, Any, int]], clock: Callable[[], int], piece_bytes_max: int
    ) -> None:
        self.clock = clock
        self.piece_bytes_max = piece_bytes_max
        self.headers_bytes_max = 0
        """The broker's limit of an answer's headers; 0: not known yet."""
        self.wake: Callable[[], None] = _nobody_sleeps
        """Rings that thread's alarm."""
        self._inbox = inbox
        self._room = threading.Condition(threading.RLock())  # reentrant: a signal handler may say something too
        self._bytes = 0
        self._ended = False

    def put(self, job: Job, aside: Extension | Note | Piece) -> None:
        """Say something of a job that is under way."""
        if not self._ended:
            self._inbox.append((job, aside, 0))
            self.wake()

    def put_piece(self, job: Job, frames: tuple[bytes, ...]) -> None:
        """Say a piece of the result, when there is room for it."""
        size = sum(map(len, frames)) + PIECE_BYTES
        with self._room:
            while self._bytes and self._bytes + size > PIECES_BYTES_MAX and not self._ended:
                self._room.wait()
            self._bytes += size
        self.put(job, Piece(frames, size))

    def freed(self, size: int) -> None:
        """Pieces of this size were sent, or will not be."""
        if size:
            with self._room:
                self._bytes -= size
                self._room.notify_all()

    def end(self) -> None:
        """Nothing is sent any more, and nobody waits for room."""
        with self._room:
            self._ended = True
            self._room.notify_all()


def _nobody_sleeps() -> None:
    """What rings nothing."""


class CurrentJob:
    """The job that the calling handler has; `relet.current_job()` returns it.

    It may be handed to other threads of the handler's. What is said after the handler has returned goes nowhere. In the
    dialect of 2010 a job has none of all this: `id`, `attempt` and `deadline` are None, and what would have to be said
    raises RuntimeError.
    """

    def __init__(self, job: Job | None, asides: Asides | None) -> None:
        self._job = job
        self._asides = asides
        self._granted: float | None = None  # written by the library's thread alone
        self._asked: list[float] = []  # later deadlines that the broker may yet refuse
        self._ends: float | None = None  # the job's own deadline, which nothing moves
        if job is None or asides is None:
            return
        offset = time.monotonic() - asides.clock() / 1e9
        if job.header.run_ms:
            self._granted = offset + job.began / 1e9 + job.header.run_ms / 1_000
        if job.header.deadline_ms is not None:
            self._ends = offset + job.came / 1e9 + job.header.deadline_ms / 1_000

    def _said(self) -> tuple[Job, Asides]:
        if self._job is None or self._asides is None:
            raise RuntimeError("the dialect of 2010 has no word for it: use Worker(..., dialect='native')")
        return self._job, self._asides

    @property
    def id(self) -> bytes | None:
        """The id of the job, 16 bytes, the same at every attempt."""
        return self._job.header.job if self._job else None

    @property
    def uuid(self) -> str | None:
        """The id in the usual spelling of a UUID."""
        return str(uuid.UUID(bytes=self._job.header.job)) if self._job and len(self._job.header.job) == 16 else None

    @property
    def attempt(self) -> int | None:
        """Which attempt this is: 1, 2, 3 ..."""
        return self._job.header.attempt if self._job else None

    @property
    def tries(self) -> int | None:
        """How many attempts there can be; None: as many as it takes, or not known."""
        return self._job.header.tries if self._job else None

    @property
    def queue(self) -> str:
        """The queue in which the job waited."""
        return self._job.header.queue if self._job else DEFAULT_QUEUE

    @property
    def headers(self) -> dict[str, str]:
        """The job's headers; a copy."""
        return dict(self._job.header.headers or {}) if self._job else {}

    @property
    def deadline(self) -> float | None:
        """When the attempt's time is up, or the job's, in seconds of `time.monotonic()`; None: never, or not known.

        The job's own deadline (`Terms(deadline=...)`) cannot be extended. Nothing stops a handler that goes on; the
        broker takes its result no more, and says so: `cancelled`.
        """
        asked = list(self._asked)  # first: what is granted meanwhile is found in one of both
        ends = [] if self._ends is None else [self._ends]
        if self._granted is not None:
            ends.append(max([self._granted, *asked]))
        return min(ends, default=None)

    @property
    def cancelled(self) -> bool:
        """Whether the broker waits for this attempt no more: it has an answer, or the job is somebody else's by now.

        A result that is returned all the same still counts where the job takes late ones (`late="any"`) and has no
        other yet. To stop without an answer raise `NoAnswer`.
        """
        return self._job.cancelled if self._job else False

    def extend(self, seconds: float) -> None:
        """Ask that the attempt's time be up so long from now, if that is later than it would be.

        The broker has a ceiling, and refuses what is above it: then `deadline` falls back to what it was.
        """
        job, asides = self._said()
        run_ms = milliseconds(seconds, "an extension")
        deadline = time.monotonic() + run_ms / 1_000
        if self._granted is not None:
            self._asked.append(deadline)
        asides.put(job, Extension(asides.clock() + run_ms * 1_000_000, deadline))

    def _decided(self, extension: Extension, *, granted: bool) -> None:
        """The broker has taken an extension, or it counts no more: refused, or never sent for the sake of a longer."""
        if self._granted is None:
            return
        if granted:
            self._granted = max(self._granted, extension.deadline)
        self._asked.remove(extension.deadline)

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell who follows the job how far it is. Of several that wait to be sent only the latest is.

        Raises:
            ValueError: `done` or `total` is not finite.
        """
        job, asides = self._said()
        done, total = finite(done, "done"), None if total is None else finite(total, "total")
        asides.put(job, Note(done, total, bounded(note, TEXT_CHARACTERS_MAX)))

    def partial(self, piece: bytes | Sequence[bytes]) -> None:
        """Send a piece of the result ahead of the rest, one frame or several, to who follows the job.

        It arrives at most once, and belongs to this attempt. Waits while `PIECES_BYTES_MAX` wait to be sent, until the
        broker takes them or its connection is given up.

        Raises:
            TypeError: it is not bytes, nor a sequence of them.
            ValueError: it has more bytes than an answer may have.
        """
        job, asides = self._said()
        frames = (piece,) if isinstance(piece, bytes | bytearray | memoryview) else tuple(piece)
        frames = as_bytes(frames)
        if sum(map(len, frames)) > asides.piece_bytes_max:
            raise ValueError(f"a piece of a result has at most {asides.piece_bytes_max:,} bytes: send several")
        asides.put_piece(job, frames)

    @property
    def answer_headers(self) -> dict[str, str] | None:
        """Headers to be sent with the answer, text to text; None: the job's own go back with it."""
        return self._job.answer_headers if self._job else None

    @answer_headers.setter
    def answer_headers(self, headers: Mapping[str, str] | None) -> None:
        job, asides = self._said()
        if headers is not None:
            headers = dict(headers)
            if not all(isinstance(text, str) for pair in headers.items() for text in pair):
                raise TypeError("headers are a mapping of text to text")
            size = headers_held(headers)
            if asides.headers_bytes_max and size > asides.headers_bytes_max:
                raise ValueError(
                    f"the broker takes {asides.headers_bytes_max:,} bytes of headers, where each counts {HEADER_BYTES}"
                    f" more than its name and value, not {size:,}"
                )
        job.answer_headers = headers


def finite(number: float, what: str) -> float:
    """A number that can be told. Raises ValueError."""
    try:
        found = float(number)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{what} is a finite number, not {found}")
    return found


def as_bytes(frames: Sequence[Any]) -> tuple[bytes, ...]:
    """Frames that can be sent. Raises TypeError."""
    for frame in frames:
        if not isinstance(frame, bytes | bytearray | memoryview):
            raise TypeError(f"a frame is bytes, not {type(frame).__name__}")
    return tuple(bytes(frame) for frame in frames)


class Hand:
    """What one of the places has in hand at which a worker does jobs: a thread's, a coroutine's, a process'."""

    __slots__ = ("asides", "job", "threads", "view")

    def __init__(self, asides: Asides | None = None, threads: Executor | None = None) -> None:
        self.asides = asides
        """None in the dialect of 2010."""
        self.threads = threads
        """Where functions run that a coroutine waits for."""
        self.job: object | None = None
        self.view: CurrentJob | None = None
        """What is shown of it, where that is made elsewhere."""


_hand: Final[contextvars.ContextVar[Hand | None]] = contextvars.ContextVar("relet-hand", default=None)


def take_hand(hand: Hand) -> contextvars.Token[Hand | None]:
    """This context's hand from now on; the token is for `leave_hand`: a handler may run a worker."""
    return _hand.set(hand)


def leave_hand(token: contextvars.Token[Hand | None]) -> None:
    """The hand before is this context's again."""
    _hand.reset(token)


def hand_of_this_context() -> Hand:
    """Raises RuntimeError where there is none."""
    hand = _hand.get()
    if hand is None:
        raise RuntimeError(NO_JOB)
    return hand


def current_job() -> CurrentJob:
    """The job that the handler has which calls this.

    It is known in the handler's thread or coroutine, and in what takes their context along, such as
    `asyncio.to_thread`.

    Raises:
        RuntimeError: there is none here.
    """
    hand = _hand.get()
    if hand is None or hand.job is None:
        raise RuntimeError(NO_JOB)
    return view_of(hand)


def view_of(hand: Hand) -> CurrentJob:
    """What is shown of the job in hand."""
    job = hand.job
    if hand.view is not None:
        return hand.view
    if hand.asides is None or not isinstance(job, Job):
        return CurrentJob(None, None)
    if job.view is None:
        job.view = CurrentJob(job, hand.asides)
    return job.view
