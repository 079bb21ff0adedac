"""What is called for a job: the handler of its queue, with the hooks around it.

A handler is a function or a coroutine function, and so is a hook. A coroutine can wait for a function, which runs in a
thread meanwhile; a function cannot wait for a coroutine. So what stands around a coroutine is a coroutine, and that is
checked when the worker is made, as is that every queue has a handler.

Whatever handlers and hooks raise is an outcome; `outcome_of` says which.
"""

from __future__ import annotations

import asyncio
import contextvars
import difflib
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, Final

from relet.worker.job import CurrentJob, as_bytes, current_job, hand_of_this_context
from relet.worker.outcome import Failure, HandBack, NoAnswer, Silence, failure_of

Handler = Callable[[bytes], bytes] | Callable[[bytes], Awaitable[bytes]]
"""Does a job whose body is one frame; returns the answer."""
Handlers = Handler | Mapping[str, Handler]
"""One for all queues, or one for each."""
Hook = Callable[[CurrentJob, Callable[[], Any]], Any]
"""Called as `hook(job, call)` around each job: `call()` goes on to the next hook, the last one to the handler, and
returns the answer; a coroutine awaits it. What a hook returns is the answer."""
Call = Callable[[tuple[bytes, ...]], Any]
"""Does a job, some frames; returns the frames of the answer, or an awaitable of them."""

SHOWN_MAX: Final = 5
"""Names of queues that an error lists."""


class Calls:
    """What is called for the jobs of each queue.

    Args:
        only: for the jobs of all queues; or
        of: for those of each.
        awaitable: whether each shall be a coroutine function, because they are called in a loop.
    """

    def __init__(
        self, only: Call | None = None, of: Mapping[str, Call] | None = None, *, awaitable: bool = False
    ) -> None:
        self.only = only
        self._of = of or {}
        everything = (*self._of.values(), *(() if only is None else (only,)))
        self.awaitable = awaitable or any(map(waits, everything))
        """Whether they are coroutine functions, so that they need a loop: all are, as soon as one is."""
        if self.awaitable:
            self.only = None if only is None else awaitable_of(only)
            self._of = {name: awaitable_of(call) for name, call in self._of.items()}

    def of(self, name: str) -> Call:
        """For a job of this queue."""
        return self.only or self._of[name]


def calls_of(
    base: Callable[..., Any] | Mapping[str, Handler],
    *,
    several: bool,
    queues: Iterable[str],
    hooks: Sequence[Hook],
    awaitable: bool = False,
) -> Calls:
    """Check handlers and hooks, and put them together.

    Args:
        base: what does the jobs of all queues, or a handler for each.
        several: whether it takes and returns frames, not one body.
        queues: those that are served.
        hooks: to be put around, the first one outermost.
        awaitable: whether they are called in a loop anyhow.

    Raises:
        TypeError: one of them cannot be called, or a function would have to wait for a coroutine.
        ValueError: a queue has no handler.
    """
    for hook in hooks:
        if not callable(hook):
            raise TypeError(f"a hook is a function of the job and of what it is put around, not {type(hook).__name__}")
    if not isinstance(base, Mapping):
        return Calls(_around(base, hooks, several=several), awaitable=awaitable)
    for name in queues:
        if name not in base:
            close = difflib.get_close_matches(name, map(str, base), n=1)
            known = ", ".join(repr(other) for other in list(base)[:SHOWN_MAX])
            hint = f"did you mean {close[0]!r}?" if close else f"there are handlers for {known or 'none'}"
            raise ValueError(f"no handler for queue {name!r}: {hint}")
    of = {name: _around(base[name], hooks, several=False) for name in queues}
    return Calls(of=of, awaitable=awaitable)


def check_handler(handler: object) -> None:
    """Raises TypeError where it is none."""
    if isinstance(handler, Mapping):
        for name, one in handler.items():
            if not callable(one):
                raise TypeError(f"the handler of queue {name!r} is a function of bytes, not {type(one).__name__}")
    elif not callable(handler):
        raise TypeError(
            f"a handler is a function of bytes, or a mapping of queues to such functions, not {type(handler).__name__}"
        )


def waits(function: object) -> bool:
    """Whether it is a coroutine function, or an object that is called like one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _around(function: Callable[..., Any], hooks: Sequence[Hook], *, several: bool) -> Call:
    """The hooks around what does a job."""
    inner: Callable[[Any], Any] = function
    for hook in reversed(hooks):
        if waits(hook):
            inner = _awaited(hook, awaitable_of(inner))
        elif waits(inner):
            raise TypeError(
                f"{named(hook)} is a function, and cannot wait for {named(function)} or a hook within it, which are"
                " coroutines: make it `async def`, and `await call()`"
            )
        else:
            inner = _called(hook, inner)
    return _several(inner) if several else _single(inner)


def _called(hook: Hook, inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(body: Any) -> Any:
        return hook(current_job(), lambda: inner(body))

    return call


def _awaited(hook: Hook, inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def call(body: Any) -> Any:
        return await hook(current_job(), lambda: inner(body))

    return call


def _single(function: Callable[[Any], Any]) -> Call:
    """Of frames, what takes one body and returns one."""
    if waits(function):

        async def call_awaited(frames: tuple[bytes, ...]) -> Sequence[bytes]:
            if len(frames) != 1:
                raise _not_one(frames)
            return (await function(frames[0]),)

        return call_awaited

    def call(frames: tuple[bytes, ...]) -> Sequence[bytes]:
        if len(frames) != 1:
            raise _not_one(frames)
        return (function(frames[0]),)

    return call


def _several(function: Callable[[Any], Any]) -> Call:
    """Of frames, what takes a list of them."""
    if waits(function):

        async def call_awaited(frames: tuple[bytes, ...]) -> Any:
            return await function(list(frames))

        return call_awaited

    return lambda frames: function(list(frames))


def _not_one(frames: tuple[bytes, ...]) -> ValueError:
    return ValueError(f"a job of {len(frames)} frames: override process_multipart")


def awaitable_of(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same to be awaited: a function runs in a thread meanwhile, in this very context."""
    if waits(function):
        return function

    async def call(body: Any) -> Any:
        context = contextvars.copy_context()
        threads = hand_of_this_context().threads
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, context.run, _without_stops, function, body)

    return call


def _without_stops(function: Callable[[Any], Any], body: Any) -> Any:
    """No coroutine can be told of a StopIteration (PEP 479)."""
    try:
        return function(body)
    except StopIteration as error:
        raise RuntimeError(f"{named(function)} raised {error!r}") from error


def named(function: object) -> str:
    """A function or a class by its name."""
    return getattr(function, "__qualname__", "") or repr(function)


def frames_of(answer: Any) -> tuple[bytes, ...]:
    """The frames of an answer as bytes, checked here where the handler can still be blamed."""
    if isinstance(answer, bytes | bytearray | memoryview | str):
        raise TypeError("process_multipart returns a sequence of frames, not one frame")
    frames = as_bytes(tuple(answer))
    if not frames:
        raise ValueError("an answer has at least one frame")
    return frames


def outcome_of(error: BaseException) -> Failure | Silence:
    """What an exception of a handler makes of its job."""
    if isinstance(error, NoAnswer):
        return Silence.UNANSWERED
    if isinstance(error, HandBack):
        return Silence.HANDED_BACK
    return failure_of(error)


class Threads(Executor):
    """Daemon threads that run what is submitted: a handler that hangs must not keep its program from ending.

    Args:
        count_max: how many there may be; each is started when it is first needed.
    """

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._count = 0
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def submit(self, function: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        """Run it in a thread."""
        future: Future[Any] = Future()
        self._work.put((future, lambda: function(*args, **keywords)))
        if not self._idle.acquire(blocking=False):
            with self._lock:
                if self._count < self._count_max:
                    self._count += 1
                    threading.Thread(target=self._run, name="relet-handler", daemon=True).start()
        return future

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, call = work
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                    future.set_exception(error)
            del work, future, call
            self._idle.release()
        self._work.put(None)  # for the next one

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """No thread takes anything else; none is waited for."""
        self._work.put(None)
