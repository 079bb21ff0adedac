"""What a client's two dialects share: its open requests, without sockets, threads or clock.

A request is open from `submit` until it has ended: answered, refused, expired, or abandoned. It has a table key of its
own, which is what it is called on the wire, but for the few requests of which several may carry one name.

    not sent --outgoing, sent--> sent --received--> ended
        ^                          |
        +---------- lost ----------+      (with `resend`: under the same name, in the order of submission)

Requests that are open are kept in the order in which they came, and those not yet sent in a table of their own: both
are exact, so whatever ends early leaves nothing behind. Deadlines are in a heap that holds no request; entries of
requests that have ended stay until they are half of it, then it is built anew. Deadlines that grow, which is what one
timeout for all gives, enter a heap at its end, for the price of one comparison.

A `Peer` is the seam between the library's thread and a dialect: `peer2010` and `peer_native` derive from it, and the
thread knows no other difference between them. Time is an argument: monotonic nanoseconds.
"""

from __future__ import annotations

import heapq
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from relet.client.errors import BrokerLost, UnexpectedAnswer
from relet.client.terms import Asking, Kind
from relet.client.told import Enqueued, JobStatus, Partial, Progress

STALE_DEADLINES_MIN: Final = 256
"""Below so many a heap is not worth building anew."""
GIVEN_UP_MAX: Final = 100_000
"""Names of requests that were given up and may be answered yet, 0.1 KiB each; the oldest are forgotten first."""

Body: TypeAlias = bytes | tuple[bytes, ...]
"""Opaque frames: the frame itself where there is one, else a tuple of them."""

Outcome: TypeAlias = "bytes | list[bytes] | Enqueued | JobStatus | Exception"
"""How a request ends: by its answer, by what else it asked for, or by an error."""

USUAL: Final = Asking()
"""A job on the usual terms."""


class Request:
    """One thing that a client wants of the broker. Shells derive from it to add who waits for the outcome.

    Args:
        body: the job's frame, or a tuple of frames.
        timeout_ns: how long the caller waits, in nanoseconds from `submit`; None: for ever.
        asking: what is wanted, and on what terms.
        name: the request id, or the job id, where the caller has one; else the peer draws one.
    """

    __slots__ = ("asked_at", "asking", "body", "bytes", "key", "name", "timeout_ns")

    multipart = False
    """Whether the caller takes an answer of any number of frames."""

    def __init__(self, body: Body, timeout_ns: int | None = None, asking: Asking = USUAL, name: bytes = b"") -> None:
        self.body: Body = body
        self.timeout_ns = timeout_ns
        self.asking = asking
        self.name = name
        """What it is called on the wire: in the native dialect its request id, in that of 2010 the correlation."""
        self.key = b""
        """Its place in the peer's tables."""
        self.asked_at = 0
        """When it was first sent, monotonic nanoseconds; 0: never yet."""
        self.bytes = len(body) if isinstance(body, bytes) else sum(map(len, body))

    def learn(self, headers: dict[str, str] | None, again: bool) -> None:
        """The outcome, which follows, came with headers, or from a broker that may have had the job done again."""


R = TypeVar("R", bound=Request)

Message: TypeAlias = tuple[Any, ...]
"""Frames; the pump flattens tuples among them."""


def answer_of(frames: tuple[bytes, ...], *, multipart: bool) -> Outcome:
    """The outcome that an answer of these frames is for who takes several, or one alone."""
    if multipart:
        return list(frames)
    return frames[0] if len(frames) == 1 else UnexpectedAnswer(frames)


class Counters(msgspec.Struct):
    """What has happened since the client was made. Read it from any thread; each number only grows."""

    submitted: int = 0
    """Requests of every kind."""
    answered: int = 0
    """Requests that ended by what the broker said of them: answers, failures, acknowledgements, refusals."""
    failed: int = 0
    """Of these, the jobs that the broker gave up."""
    expired: int = 0
    """Requests whose time was up before an answer came."""
    abandoned: int = 0
    """Requests that nobody wanted any more: cancelled futures, iterators closed early."""
    withdrawn: int = 0
    """Of these, the jobs that the broker is told to end, unless others wait for them."""
    resent: int = 0
    """Requests sent again after the connection, or the session, was lost."""
    losses: int = 0
    """Connections lost."""
    answers_late: int = 0
    """Answers to requests that were given up here before: expired, abandoned, or ended by a loss."""
    answers_unknown: int = 0
    """Other answers to no open request: double, or not ours."""
    frames_refused: int = 0
    """Messages that are none: no signature, a header that cannot be read."""
    refused: int = 0
    """Of those answered, the requests that the broker refused for good."""
    refused_busy: int = 0
    """Refusals because of a limit, or of a broker that stops; each request is asked again later."""
    answered_again: int = 0
    """Outcomes of jobs that an earlier broker may have had done before."""
    outcomes_missed: int = 0
    """Outcomes that the broker has told and that never came; what was open was asked again."""
    errors: int = 0
    """What the broker could not take of us, and said so, where it is not part of the protocol's course."""
    followed: int = 0
    """Partial results and notes of progress that reached their request."""


class Notice(msgspec.Struct, frozen=True):
    """Something that whoever looks after the program should know: a line of the log."""

    level: int
    event: str
    fields: dict[str, Any] = {}


class Peer(ABC, Generic[R]):
    """All open requests of one client.

    Args:
        names: names for requests, unguessable, and never one twice.
        resend: whether requests that were sent are sent again when the connection was lost.
        endpoint: where the broker is to be, for the texts of errors.
    """

    def __init__(self, names: Iterator[bytes], *, resend: bool = True, endpoint: str = "") -> None:
        self.counters = Counters()
        self.reached = False
        """Whether a broker was ever there."""
        self.ready = False
        """Whether the broker is there, and jobs may be sent."""
        self.deaf = False
        """Whether the broker has been silent for too long, though it was asked: the connection should be given up."""
        self.notices: list[Notice] = []
        """What is to be logged; whoever logs it clears it."""
        self.followed: list[tuple[R, Partial | Progress]] = []
        """What followers are to be told, before the outcomes of the same `received`; whoever tells it clears it."""
        self._names = names
        self._resend = resend
        self._endpoint = endpoint
        self._open: dict[bytes, R] = {}
        self._unsent: dict[bytes, R] = {}
        self._deadlines: list[tuple[int, bytes]] = []
        self._timed = 0  # open requests that have a deadline
        self._given_up: dict[bytes, None] = {}
        """Names of requests that were sent and ended here, the oldest first."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def unsent(self) -> int:
        """How many open requests wait to be sent."""
        return len(self._unsent)

    @property
    @abstractmethod
    def wants_to_send(self) -> bool:
        """Whether `outgoing` would give something."""

    def submit(self, requests: Iterable[R], now: int) -> None:
        """Open these requests, in order; their timeouts begin `now`."""
        names, opened, unsent = self._names, self._open, self._unsent
        submitted = 0
        for request in requests:
            submitted += 1
            if request.name or request.asking.kind is not Kind.JOB:
                self._open_named(request)
            else:
                request.name = request.key = name = next(names)
                opened[name] = unsent[name] = request
            if request.timeout_ns is not None:
                self._timed += 1
                heapq.heappush(self._deadlines, (now + request.timeout_ns, request.key))
        self.counters.submitted += submitted

    @abstractmethod
    def _open_named(self, request: R) -> None:
        """Open a request that came with a name, or that is no plain job."""

    @abstractmethod
    def became_connected(self, now: int) -> None:
        """The connection stands."""

    def lost(self, why: str) -> list[tuple[R, Outcome]]:
        """The connection went. Returns the requests that end by this: with `resend` none, else all jobs that were
        sent.
        """
        self.ready = self.deaf = False
        self.counters.losses += 1
        return self._begin_again(why)

    def _begin_again(self, why: str) -> list[tuple[R, Outcome]]:
        """Nothing that was sent is known to have arrived: all of it waits to be sent again, or ends."""
        unsent = self._unsent
        sent = len(self._open) - len(unsent)
        if not self._resend:
            ended = [r for key, r in self._open.items() if key not in unsent and r.asking.submits]
            for request in ended:
                self._give_up(request)
            sent -= len(ended)
        else:
            ended = []
        self.counters.resent += sent
        self._unsent = dict(self._open)
        return [(request, BrokerLost(why)) for request in ended]

    @abstractmethod
    def outgoing(self, messages_max: int, now: int) -> list[Message]:
        """The next messages to send, at most so many; [] while nothing can be said. Then say how many were `sent`."""

    @abstractmethod
    def sent(self, count: int, now: int) -> None:
        """The first so many of `outgoing` went."""

    @abstractmethod
    def received(self, messages: Iterable[tuple[bytes, ...]], now: int) -> list[tuple[R, Outcome]]:
        """The requests that end by these messages. Nothing that a broker says raises an error."""

    def farewell(self) -> list[Message]:
        """What to say at the very end, where it can be said: nothing more will be heard."""
        return []

    def abandon(self, requests: Iterable[R]) -> list[R]:
        """Nobody wants these any more. Returns those that were open; their answers will be late."""
        ended = [request for request in requests if self._open.get(request.key) is request]
        for request in ended:
            self._give_up(request)
        self.counters.abandoned += len(ended)
        return ended

    def withdraw(self, requests: Iterable[R]) -> list[R]:
        """As `abandon`; and their jobs are to end, which the broker is told where the dialect has a word for it."""
        return self.abandon(requests)

    def expire(self, now: int) -> list[tuple[R, Outcome]]:
        """Do what is due, and end the requests whose time is up."""
        deadlines, ended = self._deadlines, []
        while deadlines and deadlines[0][0] <= now:
            request = self._open.get(heapq.heappop(deadlines)[1])
            if request is not None:
                self._give_up(request)
                ended.append(request)
        self.counters.expired += len(ended)
        why = "" if self.reached else f": no broker has answered at {self._endpoint}"
        return [(r, TimeoutError(f"no answer within {(r.timeout_ns or 0) / 1e9:g} s{why}")) for r in ended]

    @property
    def due(self) -> int | None:
        """When `expire` has something to do; None where never."""
        deadlines, opened = self._deadlines, self._open
        while deadlines and deadlines[0][1] not in opened:
            heapq.heappop(deadlines)
        if len(deadlines) > STALE_DEADLINES_MIN and len(deadlines) > 2 * self._timed:
            self._deadlines = deadlines = [entry for entry in deadlines if entry[1] in opened]
            heapq.heapify(deadlines)
        return deadlines[0][0] if deadlines else None

    def close(self) -> list[R]:
        """End all that is open, and return it."""
        ended = list(self._open.values())
        self._open.clear()
        self._unsent = {}
        self._deadlines = []
        self._timed = 0
        return ended

    def _forget(self, request: R) -> None:
        del self._open[request.key]
        self._unsent.pop(request.key, None)
        if request.timeout_ns is not None:
            self._timed -= 1

    def _give_up(self, request: R) -> None:
        """Nobody waits for it any more, but who was asked may answer."""
        if request.asked_at or request.key not in self._unsent:
            given_up = self._given_up
            given_up.pop(request.name, None)
            given_up[request.name] = None
            if len(given_up) > GIVEN_UP_MAX:
                del given_up[next(iter(given_up))]
        self._forget(request)

    def _answered_late(self, name: bytes) -> None:
        """An answer under this name came, and no such request is open."""
        if name in self._given_up:
            del self._given_up[name]
            self.counters.answers_late += 1
        else:
            self.counters.answers_unknown += 1

    def _say(self, level: int, event: str, **fields: Any) -> None:
        self.notices.append(Notice(level, event, fields))

    def _warn(self, event: str, **fields: Any) -> None:
        self._say(logging.WARNING, event, **fields)
