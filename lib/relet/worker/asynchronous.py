"""The worker for programs with an event loop: handlers run in it, the connection in the library's own thread.

A handler that blocks the loop delays the other handlers, and nothing else: the broker hears of the worker all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

from relet.worker.handlers import awaitable_of
from relet.worker.job import current_job
from relet.worker.loop import LoopPool
from relet.worker.shell import Shell


class AsyncWorker(Shell):
    """Asks a broker for jobs and does them in the running loop.

    All is as in `Worker`: options, outcomes, hooks, `stop`. Handlers are coroutine functions; a function runs in a
    thread meanwhile. A derived class has `async def process(data)` or `async def process_multipart(frames)`.

    Either `await worker.run()`, or `async with` it, which works while the block lasts:

        async with AsyncWorker("tcp://localhost:4162", handler=fetch, concurrency=100):
            await asyncio.Event().wait()
    """

    _awaitable = True
    _task: asyncio.Task[None] | None = None

    def _overrides(self) -> tuple[Callable[..., Any] | None, bool]:
        kind = type(self)
        if kind.process_multipart is not AsyncWorker.process_multipart:
            return self.process_multipart, True
        return (None if kind.process is AsyncWorker.process else self.process), False

    async def process(self, data: bytes) -> bytes:
        """Do one job whose body is one frame; override it. The default calls the handler."""
        handler: Any = self._handler
        if not callable(handler):
            handler = handler[current_job().queue]
        return await awaitable_of(handler)(data)  # type: ignore[no-any-return]  # checked by `frames_of`

    async def process_multipart(self, frames: list[bytes]) -> Sequence[bytes]:
        """Do one job; override it where jobs or answers are several frames. The default calls `process`."""
        if len(frames) != 1:
            raise ValueError(f"a job of {len(frames)} frames: override process_multipart")
        return (await self.process(frames[0]),)

    async def run(self) -> None:
        """Work until `stop`, in this loop.

        Cancelled, it gives up what is in hand, which is handed back: the handlers are cancelled as well. What a handler
        raises that is no `Exception` does the same, and goes on to the caller.

        Raises:
            RuntimeError: it is running already.
            EndpointError, QueueUnknown: as `Worker.run` does.
        """
        shift = self._begin()
        engine = None
        pool = LoopPool(shift, self._places)
        try:
            if not self._stopping:
                pool.open()
                engine = self._connect(shift, pool.give, pool.give_up)
                await pool.work()
        finally:
            shift.stopping = True
            if engine is not None:
                await asyncio.to_thread(engine.stop)
            self._end()
        if engine is not None and engine.error is not None:
            raise engine.error

    async def __aenter__(self) -> Self:
        if self._task is not None and not self._task.done():
            raise RuntimeError("this worker is running already; make another one")
        self._task = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        self.stop()
        if task is not None:
            await task
