"""Who waits for an outcome, and how it reaches them.

That is part of the request, because what is cheap differs: `call` waits on a plain lock; `submit` gives a
`concurrent.futures.Future`, which costs 2 us; `map`, made for many small jobs, gets its outcomes by the batch through a
`queue.SimpleQueue`, so that a whole batch costs one wake-up.
"""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, TypeVar

from relet.client.peer import USUAL, Body, Outcome, Request
from relet.client.terms import Asking
from relet.client.told import Partial, Progress

T = TypeVar("T")

OnPartial: TypeAlias = "Callable[[Partial], object]"
OnProgress: TypeAlias = "Callable[[Progress], object]"


class Waiter(Request):
    """A request whose caller is told of its outcome. The kinds differ in how."""

    __slots__ = ()

    def settle(self, outcome: Outcome) -> None:
        """Tell the caller. Called once at most, by the library's thread."""
        raise NotImplementedError

    def dropped(self) -> None:
        """The caller does not want it any more, and it was open until now."""

    def follow(self, told: Partial | Progress) -> None:
        """Tell the caller how far it is. What the user's code raises is raised."""


class Call(Waiter):
    """One caller waits in `call`."""

    __slots__ = ("lock", "outcome")

    def __init__(self, body: Body, timeout_ns: int | None, asking: Asking = USUAL, name: bytes = b"") -> None:
        super().__init__(body, timeout_ns, asking, name)
        self.lock = threading.Lock()
        self.lock.acquire()
        self.outcome: Outcome = b""

    def settle(self, outcome: Outcome) -> None:
        """Wake the caller."""
        self.outcome = outcome
        self.lock.release()

    def result(self) -> Any:
        """The outcome, once `lock` could be acquired; raises where there is none."""
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

    def abandon(self, requests: Sequence[Waiter], *, withdraw: bool = False) -> None:
        """Nobody wants the outcomes of these any more; `withdraw`: nor that their jobs are done."""


class Submitted(Waiter):
    """A future stands for the outcome."""

    __slots__ = ("_future", "_on_partial", "_on_progress")

    def __init__(
        self,
        body: Body,
        timeout_ns: int | None,
        asking: Asking,
        name: bytes,
        future: JobFuture[Any],
        on_partial: OnPartial | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        super().__init__(body, timeout_ns, asking, name)
        self._future = future
        self._on_partial = on_partial
        self._on_progress = on_progress

    def learn(self, headers: dict[str, str] | None, again: bool) -> None:
        """Put it where the caller finds it."""
        self._future.headers = headers or {}
        self._future.again = again

    def follow(self, told: Partial | Progress) -> None:
        """Call back."""
        if isinstance(told, Partial):
            if self._on_partial is not None:
                self._on_partial(told)
        elif self._on_progress is not None:
            self._on_progress(told)

    def settle(self, outcome: Outcome) -> None:
        """Settle the future, unless it was cancelled."""
        future = self._future
        future.stands_for(None)  # ends the cycle too
        if future.set_running_or_notify_cancel():
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def dropped(self) -> None:
        """The future was cancelled."""
        self._future.stands_for(None)
        self._future.set_running_or_notify_cancel()  # for who waits for a set of futures


class MultipartSubmitted(Submitted):
    """The same, for several frames."""

    __slots__ = ()
    multipart = True


class JobFuture(Future[T]):
    """What `submit` returns: a `concurrent.futures.Future`, and what came beside the answer.

    Cancelling it gives up the request and frees its place, and the broker ends the job, unless others wait for it.
    """

    headers: Mapping[str, str] = MappingProxyType({})
    """Once it is done: the headers of the answer, which are the worker's where it gave any, else the job's."""
    again: bool = False
    """Once it is done: an earlier broker, which this one knows nothing of, may have had the job done before."""
    request_id: bytes = b""
    """What the job was asked for under: other processes, `Client.state`, `why` and `cancel`, and who administrates the
    broker, find it by this. b"" in the dialect of 2010."""
    _engine: Abandons | None = None
    _request: Submitted | None = None

    def stands_for(self, request: Submitted | None, engine: Abandons | None = None) -> None:
        """For the library: what to give up when this is cancelled; None where it has ended."""
        self._request = request
        if request is not None:
            self._engine, self.request_id = engine, request.name

    def cancel(self) -> bool:
        """As in the base class: nobody waits for the outcome any more, and the job is not wanted.

        The broker is told so, and ends it wherever it stands, unless others wait for it; the worker that has it is told
        in turn (`job.cancelled`). The dialect of 2010 has no word for that: there the job is done all the same.
        """
        cancelled = super().cancel()
        engine, request = self._engine, self._request
        if cancelled and engine is not None and request is not None:
            engine.abandon([request], withdraw=True)
        return cancelled


class Mapped(Waiter):
    """One of the jobs of a `map`, or one that is enqueued together with others."""

    __slots__ = ("channel", "index")

    def __init__(
        self, body: Body, timeout_ns: int | None, asking: Asking, channel: Channel, index: int, name: bytes = b""
    ) -> None:
        # Not through the base class: a call costs as much as all the assignments together.
        self.body = body
        self.timeout_ns = timeout_ns
        self.asking = asking
        self.name = name
        self.key = b""
        self.asked_at = 0
        self.bytes = len(body) if isinstance(body, bytes) else sum(map(len, body))
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
            requests.pop(index, None)  # a body that was no body made none
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
            requests.pop(index, None)  # a body that was no body made none
            if index == following:
                self.ready.append(outcome)
                following += 1
                while following in early:
                    self.ready.append(early.pop(following))
                    following += 1
            else:
                early[index] = outcome
        self._next = following
