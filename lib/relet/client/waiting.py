"""Who waits for an outcome, and how it reaches them.

That is part of the request, because what is cheap differs: `call` waits on a plain lock; `submit` gives a
`concurrent.futures.Future`, which costs 2 us; `map`, made for many small jobs, gets its outcomes by the batch through a
`queue.SimpleQueue`, so that a whole batch costs one wake-up.
"""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeAlias, TypeVar

from relet.client.peer import Body, Request

Outcome: TypeAlias = "bytes | list[bytes] | Exception"

T = TypeVar("T")


class Waiter(Request):
    """A request whose caller is told of its outcome. The three kinds differ in how."""

    __slots__ = ()

    multipart = False
    """Whether the caller takes an answer of any number of frames."""

    def settle(self, outcome: Outcome) -> None:
        """Tell the caller. Called once at most, by the library's thread."""
        raise NotImplementedError

    def dropped(self) -> None:
        """The caller does not want it any more, and it was open until now."""


class Call(Waiter):
    """One caller waits in `call`."""

    __slots__ = ("lock", "outcome")

    def __init__(self, body: Body, timeout_ns: int | None) -> None:
        super().__init__(body, timeout_ns)
        self.lock = threading.Lock()
        self.lock.acquire()
        self.outcome: Outcome = b""

    def settle(self, outcome: Outcome) -> None:
        """Wake the caller."""
        self.outcome = outcome
        self.lock.release()

    def result(self) -> bytes | list[bytes]:
        """The answer, once `lock` could be acquired; raises where there is none."""
        outcome, self.outcome = self.outcome, b""
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # its traceback would hold the frame that holds it
        return outcome


class MultipartCall(Call):
    """The same, for several frames."""

    __slots__ = ()
    multipart = True


class Abandons(Protocol):
    """What a cancelled future needs of the engine."""

    def abandon(self, requests: Sequence[Waiter]) -> None:
        """Nobody wants the outcomes of these any more."""


class Submitted(Waiter):
    """A future stands for the outcome."""

    __slots__ = ("_future",)

    def __init__(self, body: Body, timeout_ns: int | None, future: CancellableFuture[Any]) -> None:
        super().__init__(body, timeout_ns)
        self._future = future

    def settle(self, outcome: Outcome) -> None:
        """Settle the future, unless it was cancelled."""
        future = self._future
        future.request = None  # ends the cycle too
        if future.set_running_or_notify_cancel():
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def dropped(self) -> None:
        """The future was cancelled."""
        self._future.request = None
        self._future.set_running_or_notify_cancel()  # for who waits for a set of futures


class MultipartSubmitted(Submitted):
    """The same, for several frames."""

    __slots__ = ()
    multipart = True


class CancellableFuture(Future[T]):
    """A future that gives up its request when it is cancelled; the job itself cannot be called back in this dialect."""

    engine: Abandons | None = None
    request: Submitted | None = None
    """What to give up; None where it has ended."""

    def cancel(self) -> bool:
        """As in the base class."""
        cancelled = super().cancel()
        engine, request = self.engine, self.request
        if cancelled and engine is not None and request is not None:
            engine.abandon([request])
        return cancelled


class Mapped(Waiter):
    """One of the jobs of a `map`."""

    __slots__ = ("channel", "index")

    def __init__(self, data: bytes, timeout_ns: int | None, channel: Channel, index: int) -> None:
        # Not through the base class: a call costs as much as all the assignments together.
        self.body = data
        self.timeout_ns = timeout_ns
        self.correlation = b""
        self.bytes = len(data)
        self.channel = channel
        self.index = index

    def settle(self, outcome: Outcome) -> None:
        """Gather the outcome; the channel is flushed at the end of the batch."""
        self.channel.gathered.append((self.index, outcome))


class Channel:
    """How the outcomes of one `map` reach the thread that iterates over it: by the batch."""

    __slots__ = ("batches", "gathered")

    def __init__(self) -> None:
        self.gathered: list[tuple[int, Outcome]] = []
        self.batches: queue.SimpleQueue[list[tuple[int, Outcome]]] = queue.SimpleQueue()

    def flush(self) -> None:
        """Hand on what was gathered."""
        self.batches.put(self.gathered)
        self.gathered = []


class AsTheyCome:
    """Outcomes of a `map` in the order of their arrival."""

    held = 0

    def __init__(self) -> None:
        self.ready: collections.deque[Outcome] = collections.deque()

    def take(self, batch: list[tuple[int, Outcome]], requests: dict[int, Mapped]) -> None:
        """These have ended."""
        for index, outcome in batch:
            del requests[index]
            self.ready.append(outcome)


class InOrder:
    """Outcomes of a `map` in the order of their jobs: what comes too early is held."""

    def __init__(self) -> None:
        self.ready: collections.deque[Outcome] = collections.deque()
        self._early: dict[int, Outcome] = {}
        self._next = 0

    @property
    def held(self) -> int:
        """Outcomes that wait for an earlier one."""
        return len(self._early)

    def take(self, batch: list[tuple[int, Outcome]], requests: dict[int, Mapped]) -> None:
        """These have ended."""
        early, following = self._early, self._next
        for index, outcome in batch:
            del requests[index]
            if index == following:
                self.ready.append(outcome)
                following += 1
                while following in early:
                    self.ready.append(early.pop(following))
                    following += 1
            else:
                early[index] = outcome
        self._next = following
