"""Who waits for an outcome, and how it reaches them.

That is part of the request, because what is cheap differs. In a program with threads `call` waits on a plain lock;
`submit` gives a `concurrent.futures.Future`, which costs 2 us; `map`, made for many small jobs, gets its outcomes by
the batch through a `queue.SimpleQueue`, so that a whole batch costs one wake-up. In an event loop all three wait on
futures of asyncio, a `map` on one for a whole batch.
"""

from __future__ import annotations

import asyncio
import collections
import enum
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


class Awaited(Waiter):
    """One task waits in `AsyncClient.call`."""

    __slots__ = ("future",)

    def __init__(self, body: Body, timeout_ns: int | None, asking: Asking = USUAL, name: bytes = b"") -> None:
        super().__init__(body, timeout_ns, asking, name)
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: Outcome) -> None:
        """Wake the task, unless it was cancelled."""
        _settle(self.future, outcome)


class MultipartAwaited(Awaited):
    """The same, for several frames."""

    __slots__ = ()
    multipart = True


class StandsForRequest:
    """What the futures of both clients have beside the answer."""

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

    def _withdraw(self) -> None:
        engine, request = self._engine, self._request
        if engine is not None and request is not None:
            engine.abandon([request], withdraw=True)


class JobFuture(StandsForRequest, Future[T]):
    """What `submit` returns: a `concurrent.futures.Future`, and what came beside the answer.

    Cancelling it gives up the request and frees its place, and the broker ends the job, unless others wait for it.
    """

    def cancel(self) -> bool:
        """As in the base class: nobody waits for the outcome any more, and the job is not wanted.

        The broker is told so, and ends it wherever it stands, unless others wait for it; the worker that has it is told
        in turn (`job.cancelled`). The dialect of 2010 has no word for that: there the job is done all the same.
        """
        cancelled = super().cancel()
        if cancelled:
            self._withdraw()
        return cancelled


class AsyncJobFuture(StandsForRequest, asyncio.Future[T]):
    """What `AsyncClient.submit` returns: an `asyncio.Future`, and what came beside the answer.

    Cancelling it ends the job at the broker, as with `JobFuture`; so does cancelling a task that awaits it, because
    that cancels what it awaits. `asyncio.shield` keeps it.
    """

    def cancel(self, msg: Any | None = None) -> bool:
        """As in the base class, and as `JobFuture.cancel`."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._withdraw()
        return cancelled


class Submitted(Waiter):
    """A future stands for the outcome. How it is settled differs between the two kinds of futures."""

    __slots__ = ("_future", "_on_partial", "_on_progress")

    def __init__(
        self,
        body: Body,
        asked: tuple[int | None, Asking, bytes],
        future: JobFuture[Any] | AsyncJobFuture[Any],
        on_partial: OnPartial | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        super().__init__(body, *asked)
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
        if isinstance(future, asyncio.Future):
            _settle(future, outcome)
        elif future.set_running_or_notify_cancel():
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def dropped(self) -> None:
        """The future was cancelled."""
        self._future.stands_for(None)
        if isinstance(self._future, Future):
            self._future.set_running_or_notify_cancel()  # for who waits for a set of futures


class MultipartSubmitted(Submitted):
    """The same, for several frames."""

    __slots__ = ()
    multipart = True


def _settle(future: asyncio.Future[Any], outcome: Outcome) -> None:
    if not future.done():
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


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
    """How the outcomes of one `map` reach who iterates over it: by the batch."""

    __slots__ = ("gathered",)

    def __init__(self) -> None:
        self.gathered: list[tuple[int, Outcome]] = []

    def flush(self) -> None:
        """Hand on what was gathered."""
        raise NotImplementedError


class ThreadChannel(Channel):
    """To a thread."""

    __slots__ = ("batches",)

    def __init__(self) -> None:
        super().__init__()
        self.batches: queue.SimpleQueue[list[tuple[int, Outcome]]] = queue.SimpleQueue()

    def flush(self) -> None:
        """As in the base class."""
        self.batches.put(self.gathered)
        self.gathered = []


class LoopChannel(Channel):
    """To a task of the loop in which outcomes are heard."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        super().__init__()
        self._waiting: asyncio.Future[None] | None = None

    def flush(self) -> None:
        """As in the base class."""
        self.wake()

    def wake(self, _done: object = None) -> None:
        """There is something for who waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def take(self) -> list[tuple[int, Outcome]]:
        """What is there."""
        gathered, self.gathered = self.gathered, []
        return gathered

    async def wait(self) -> None:
        """Wait until `wake` is called; whoever calls this has seen that nothing is there."""
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting


class Step(enum.Enum):
    """What a `map` is to do next, where it has nothing to hand on."""

    READ = "read"
    """Read one more body, and open its request."""
    WAIT = "wait"
    """Wait for outcomes."""
    END = "end"


class Course:
    """The course of one `map`: what to do next, and in which order outcomes are handed on. It reads nothing, sends
    nothing and waits for nothing.

    Args:
        channel: where outcomes come from.
        timeout_ns: of each job.
        asking: how each is asked for.
        window: jobs that are under way, or done and not yet handed on, at a time.
        ordered: in the order of the jobs; else as they come.
        return_exceptions: hand errors on in the place of answers.
    """

    def __init__(
        self,
        channel: Channel,
        timeout_ns: int | None,
        asking: Asking,
        *,
        window: int,
        ordered: bool,
        return_exceptions: bool,
    ) -> None:
        self.more = True
        """Whether there may be another body to read."""
        self._channel = channel
        self._timeout_ns = timeout_ns
        self._asking = asking
        self._window = window
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._requests: dict[int, Mapped] = {}
        self._ready: collections.deque[Outcome] = collections.deque()
        self._early: dict[int, Outcome] = {}
        """Outcomes that wait for an earlier one."""
        self._next = 0
        self._index = 0
        self._handed_on = False

    def step(self, *, reading: bool = False) -> Outcome | Step:
        """What to do next, or to hand on; raises an outcome that is to end it.

        One in for one out, as far as the window allows: workers do not run dry while a slow loop consumes. `reading`: a
        body is being read, and is not there yet.
        """
        ready, requests = self._ready, self._requests
        may_read = self.more and not reading and len(requests) + len(ready) + len(self._early) < self._window
        if ready and not (may_read and self._handed_on):
            self._handed_on = True
            outcome = ready.popleft()
            if isinstance(outcome, Exception) and not self._return_exceptions:
                raise outcome
            return outcome
        self._handed_on = False
        if may_read:
            return Step.READ
        return Step.WAIT if requests or reading else Step.END

    def request(self, body: Body) -> Mapped:
        """The request for a body that was read. Where it cannot be opened, say so with `refused`."""
        request = Mapped(body, self._timeout_ns, self._asking, self._channel, self._index)
        self._requests[self._index] = request
        return request

    def opened(self) -> None:
        """It was opened."""
        self._index += 1

    def refused(self, error: Exception) -> None:
        """There is no request for the body that was read, or no room for it. Raises what is to end all."""
        if not (self._return_exceptions or isinstance(error, TimeoutError)):
            raise error
        self.take([(self._index, error)])
        self._index += 1

    def take(self, batch: list[tuple[int, Outcome]]) -> None:
        """These have ended."""
        ready, requests = self._ready, self._requests
        if not self._ordered:
            for index, outcome in batch:
                requests.pop(index, None)  # a body that was no body made none
                ready.append(outcome)
            return
        early, following = self._early, self._next
        for index, outcome in batch:
            requests.pop(index, None)
            if index == following:
                ready.append(outcome)
                following += 1
                while following in early:
                    ready.append(early.pop(following))
                    following += 1
            else:
                early[index] = outcome
        self._next = following

    def open(self) -> list[Mapped]:
        """What has not ended."""
        return list(self._requests.values())
