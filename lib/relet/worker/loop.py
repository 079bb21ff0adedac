"""The pool whose places are coroutines of one event loop: the program's own, or one in a thread.

Each place is a task that takes a job, awaits its handler, and takes the next. A handler that never waits for anything
would keep the loop for as long as there are jobs, so a place lets others have their turn about once a millisecond.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import queue
import threading
from typing import Final

from relet.worker.engine import Held, clock
from relet.worker.handlers import Threads
from relet.worker.job import Hand, take_hand
from relet.worker.outcome import Outcome, Silence
from relet.worker.pool import Batch, Shift

TURN_NS: Final = 1_000_000
"""How long places may go on without a turn of the loop, where their handlers do not wait."""
CANCEL_SECONDS_MAX: Final = 1.0
"""How long coroutines that were cancelled are waited for."""


class LoopPool:
    """Places in the running loop.

    Args:
        shift: whose jobs they do.
        places: how many.
    """

    def __init__(self, shift: Shift, places: int) -> None:
        self._shift = shift
        self._places = places
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: collections.deque[Held] = collections.deque()
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._tasks: set[asyncio.Task[BaseException | None]] = set()
        self._closed = False
        self._cancelled = False
        self._yielded_at = 0

    # --- Called by any thread.

    def give(self, jobs: Batch) -> None:
        """See `Pool`."""
        self._call(self._take, jobs)

    def give_up(self) -> None:
        """The coroutines are cancelled."""
        self._call(self._cancel)

    def _call(self, *what: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(*what)  # type: ignore[arg-type]

    # --- In the loop.

    def open(self) -> None:
        """Be ready to be given jobs, in the running loop."""
        self._loop = asyncio.get_running_loop()

    async def work(self) -> None:
        """See `Pool.work`. Cancelled, it gives up what is in hand."""
        threads = Threads(self._places)
        try:
            left = self._tasks = {asyncio.create_task(self._place(threads)) for _ in range(self._places)}
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = None if task.cancelled() else task.result()
                    if error is not None:
                        raise error
        finally:
            self._cancel()
            threads.shutdown()
            running = [task for task in self._tasks if not task.done()]
            if running:
                await asyncio.wait(running, timeout=CANCEL_SECONDS_MAX)

    def _take(self, jobs: Batch) -> None:
        if jobs is None:
            self._closed = True
        else:
            self._ready.extend(jobs)
        for _ in range(len(self._waiting) if jobs is None else min(len(self._waiting), len(jobs))):
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)

    def _cancel(self) -> None:
        self._closed = self._cancelled = True
        self._ready.clear()
        for task in self._tasks:
            task.cancel()

    async def _place(self, threads: Threads) -> BaseException | None:
        """Do jobs; returns what a handler raised that ends all."""
        hand = Hand(self._shift.line.asides, threads)
        take_hand(hand)
        try:
            while await self._do_next(hand):
                pass  # no local holds on to the last job while this place waits for the next one
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised where `run` was called
            return error
        return None

    async def _do_next(self, hand: Hand) -> bool:
        shift, ready = self._shift, self._ready
        while not ready:
            if self._closed:
                return False
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        if shift.stopping:
            return False
        job, now = ready.popleft(), clock()
        if shift.line.start(job, now):
            hand.job = job
            try:
                outcome = await self._do(job)
            finally:
                hand.job = None
            now = clock()
            shift.say(job, outcome, now)
        else:
            shift.say(job, Silence.UNSTARTED, now)
        if now - self._yielded_at > TURN_NS:
            self._yielded_at = now
            del job
            await asyncio.sleep(0)
        return True

    async def _do(self, job: Held) -> Outcome:
        try:
            return await self._shift.do_awaited(job)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._cancelled or task is None:
                raise
            if task.cancelling():  # by somebody: that says nothing of the job
                task.uncancel()
                return Silence.HANDED_BACK
            return self._shift.raised(job, error)  # something that it waited for was cancelled


class LoopThread:
    """A `LoopPool` in a loop of its own, in a thread.

    Args:
        shift: whose jobs it does.
        places: how many at a time.
    """

    def __init__(self, shift: Shift, places: int) -> None:
        self._pool = LoopPool(shift, places)
        self.give = self._pool.give
        self.give_up = self._pool.give_up
        self._said: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def open(self) -> None:
        """Start the loop."""
        threading.Thread(target=self._run, name="relet-loop", daemon=True).start()
        error = self._said.get()
        if error is not None:
            raise error

    def work(self) -> None:
        """See `Pool`. Waits for the loop, in a way that lets signals be handled."""
        error = self._said.get()
        if error is not None:
            raise error

    def close(self) -> None:
        """Coroutines that are still there are cancelled."""
        self._pool.give_up()

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:  # noqa: BLE001 - it is raised where `run` was called
            self._said.put(error)

    async def _work(self) -> None:
        """Says that it is open, then how it ended: who waits for that does not wait for what else is in the loop."""
        self._pool.open()
        self._said.put(None)
        try:
            await self._pool.work()
        except BaseException as error:  # noqa: BLE001 - as above
            self._said.put(error)
        else:
            self._said.put(None)
