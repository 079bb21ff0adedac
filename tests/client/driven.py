"""An `AsyncClient` in an event loop of its own, driven from other threads as a `Client` is: one exercise for both."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Iterator
from typing import Any, Self

from relet import AsyncClient
from relet.client.looped import LoopEngine

LOOP_THREAD = "loop-of-the-test"
PATIENCE_S = 30.0
"""No test waits so long."""
_END = object()


class Mirrored(concurrent.futures.Future[Any]):
    """What a future of the loop says, for threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, future: Any) -> None:
        super().__init__()
        self._loop, self._future = loop, future
        loop.call_soon_threadsafe(future.add_done_callback, self._copy)

    def _copy(self, future: Any) -> None:
        if not self.done() and future.cancelled():
            super().cancel()
        if self.set_running_or_notify_cancel():
            if error := future.exception():
                self.set_exception(error)
            else:
                self.set_result(future.result())

    def cancel(self) -> bool:
        """Cancel both."""
        self._loop.call_soon_threadsafe(self._future.cancel)
        return super().cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._future, name)


class Driven:
    """The same calls as a `Client`, carried out in the loop. The loop outlives `close`, for who calls it then."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.client = AsyncClient(*args, **options)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name=LOOP_THREAD, daemon=True)
        self.thread.start()
        self._run(self.client.__aenter__())

    def _run(self, wanted: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await wanted

        return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result(PATIENCE_S)

    def __getattr__(self, name: str) -> Any:
        """Whatever is not below: properties, and coroutines that are waited for."""
        found = getattr(self.client, name)
        return (lambda *args, **options: self._run(found(*args, **options))) if callable(found) else found

    @property
    def _engine(self) -> LoopEngine:
        return self.client._engine

    def submit(self, *args: Any, **options: Any) -> Mirrored:
        """A future for threads."""
        return Mirrored(self.loop, self._run(self.client.submit(*args, **options)))

    def submit_multipart(self, *args: Any, **options: Any) -> Mirrored:
        """The same."""
        return Mirrored(self.loop, self._run(self.client.submit_multipart(*args, **options)))

    def map(self, *args: Any, **options: Any) -> Iterator[Any]:
        """An iterator for threads."""
        return self._over(self.client.map(*args, **options))

    def _over(self, answers: Any) -> Iterator[Any]:
        try:
            while (answer := self._run(anext(answers, _END))) is not _END:
                yield answer
        finally:
            self._run(answers.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def end(self) -> None:
        """After the test: the loop ends, and nothing is left in it."""
        self._run(self.client.close())
        left = self._run(self._left())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE_S)
        self.loop.close()
        assert not left

    async def _left(self) -> list[Any]:
        await self.loop.shutdown_asyncgens()
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
