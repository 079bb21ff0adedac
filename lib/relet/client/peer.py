"""The client's side of the wire, without sockets, threads or clock: requests go in, messages and outcomes come out.

A request is open from `submit` until it was answered, has expired, or was abandoned. Each gets a correlation frame that
stands before the delimiter; it is part of the return path, so every broker brings it back. It begins with bytes that
only this client knows and ends with a count, so an answer that names an open request is the answer to that request, and
anything else - a second answer, one that came too late, nonsense - is counted and dropped.

    not sent --outgoing, sent--> sent --received--> answered
        ^                          |
        +---------- lost ----------+      (with `resend`: same correlation, in the order of submission)

Requests that are open are kept in the order in which they came, and those not yet sent a second time in a table of
their own: both are exact, so whatever ends early leaves nothing behind. Deadlines are in a heap that holds no request;
entries of requests that have ended stay until they are half of it, then it is built anew. Deadlines that grow, which is
what one timeout for all gives, enter a heap at its end, for the price of one comparison.

Time is an argument: monotonic nanoseconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import islice
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

CORRELATION_SECRET_BYTES: Final = 10
CORRELATION_COUNT_BYTES: Final = 6
STALE_DEADLINES_MIN: Final = 256
"""Below so many a heap is not worth building anew."""

DELIMITER: Final = b""
FAILURE: Final = (b"",)
"""The 2010 dialect's way to say that the job was given up: an answer of one empty frame."""


Body: TypeAlias = bytes | tuple[bytes, ...]
"""Opaque frames: the frame itself where there is one, else a tuple of them."""


class Request:
    """One job that a client wants done. Shells derive from it to add who waits for the outcome.

    Args:
        body: the job's frame, or a tuple of frames.
        timeout_ns: how long the caller waits, in nanoseconds from `submit`; None: for ever.
    """

    __slots__ = ("body", "bytes", "correlation", "timeout_ns")

    def __init__(self, body: Body, timeout_ns: int | None = None) -> None:
        self.body: Body = body
        self.timeout_ns = timeout_ns
        self.correlation = b""
        self.bytes = len(body) if isinstance(body, bytes) else sum(map(len, body))


R = TypeVar("R", bound=Request)

Message: TypeAlias = tuple[bytes, bytes, Body]
"""Correlation, delimiter, body: the pump flattens a tuple."""


class Counters(msgspec.Struct):
    """What has happened since the client was made. Read it from any thread; each number only grows."""

    submitted: int = 0
    answered: int = 0
    """Outcomes that reached their request, failures included."""
    failed: int = 0
    """Of these, the jobs that the broker gave up."""
    expired: int = 0
    """Requests whose time was up before an answer came."""
    abandoned: int = 0
    """Requests that nobody wanted any more: cancelled futures, iterators closed early."""
    resent: int = 0
    """Requests sent again after the connection was lost."""
    losses: int = 0
    """Connections lost."""
    answers_unknown: int = 0
    """Answers to no open request: late, double, or not ours."""
    frames_refused: int = 0
    """Messages that are no answers at all."""


class ClientPeer(Generic[R]):
    """All open requests of one client.

    Args:
        secret: `CORRELATION_SECRET_BYTES` random bytes, drawn anew for every client.
        resend: whether requests that were sent are sent again when the connection was lost.
    """

    def __init__(self, secret: bytes, *, resend: bool = True) -> None:
        if len(secret) != CORRELATION_SECRET_BYTES:
            msg = f"secret must have {CORRELATION_SECRET_BYTES} bytes"
            raise ValueError(msg)
        self.counters = Counters()
        self.connected = False
        self._secret = secret
        self._resend = resend
        self._count = 0
        self._open: dict[bytes, R] = {}
        self._unsent: dict[bytes, R] = {}
        self._deadlines: list[tuple[int, bytes]] = []
        self._timed = 0  # open requests that have a deadline

    def __len__(self) -> int:
        return len(self._open)

    @property
    def unsent(self) -> int:
        """How many open requests wait to be sent."""
        return len(self._unsent)

    def submit(self, requests: Iterable[R], now: int) -> None:
        """Open these requests, in order; their timeouts begin `now`."""
        secret, count, opened, unsent = self._secret, self._count, self._open, self._unsent
        for request in requests:
            count += 1
            request.correlation = correlation = secret + count.to_bytes(CORRELATION_COUNT_BYTES, "big")
            opened[correlation] = unsent[correlation] = request
            if request.timeout_ns is not None:
                self._timed += 1
                heapq.heappush(self._deadlines, (now + request.timeout_ns, correlation))
        self.counters.submitted += count - self._count
        self._count = count

    def became_connected(self) -> None:
        """The broker is there: whatever waits may be sent."""
        self.connected = True

    def lost(self) -> list[R]:
        """The connection went. Returns the requests that end by this: with `resend` none, else all that were sent."""
        self.connected = False
        self.counters.losses += 1
        sent = len(self._open) - len(self._unsent)
        if self._resend:
            self.counters.resent += sent
            self._unsent = dict(self._open)
            return []
        unsent = self._unsent
        ended = [request for correlation, request in self._open.items() if correlation not in unsent]
        for request in ended:
            self._forget(request)
        return ended

    def outgoing(self, messages_max: int) -> list[Message]:
        """The next messages to send, at most so many; [] while there is no connection. Then say how many were
        `sent`.
        """
        if not self.connected or not self._unsent:
            return []
        return [(c, DELIMITER, r.body) for c, r in islice(self._unsent.items(), messages_max)]

    def sent(self, count: int) -> None:
        """The first so many of `outgoing` went."""
        unsent = self._unsent
        if count == len(unsent):
            self._unsent = {}
        else:
            for correlation in list(islice(unsent, count)):
                del unsent[correlation]

    def received(self, messages: Iterable[tuple[bytes, ...]]) -> list[tuple[R, tuple[bytes, ...]]]:
        """The requests that these messages answer, each with the frames of its answer."""
        answered: list[tuple[R, tuple[bytes, ...]]] = []
        pop, unsent = self._open.pop, self._unsent
        unknown = 0
        for message in messages:
            if len(message) < 2 or message[1]:
                self.counters.frames_refused += 1
                continue
            request = pop(message[0], None)
            if request is None:
                unknown += 1
                continue
            if request.timeout_ns is not None:
                self._timed -= 1
            if unsent:
                unsent.pop(message[0], None)
            answered.append((request, message[2:]))
        self.counters.answered += len(answered)
        self.counters.answers_unknown += unknown
        return answered

    def abandon(self, requests: Iterable[R]) -> list[R]:
        """Nobody wants these any more. Returns those that were open; their answers will be unknown."""
        ended = [request for request in requests if self._open.get(request.correlation) is request]
        for request in ended:
            self._forget(request)
        self.counters.abandoned += len(ended)
        return ended

    def expire(self, now: int) -> list[R]:
        """End the requests whose time is up, and return them."""
        deadlines, ended = self._deadlines, []
        while deadlines and deadlines[0][0] <= now:
            request = self._open.get(heapq.heappop(deadlines)[1])
            if request is not None:
                self._forget(request)
                ended.append(request)
        self.counters.expired += len(ended)
        return ended

    @property
    def due(self) -> int | None:
        """When the next request expires; None where none does."""
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
        del self._open[request.correlation]
        self._unsent.pop(request.correlation, None)
        if request.timeout_ns is not None:
            self._timed -= 1
