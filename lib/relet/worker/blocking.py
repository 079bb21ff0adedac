"""The worker for programs with threads: `run` waits in the thread that calls it, or runs the handler there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from relet.worker.job import current_job
from relet.worker.loop import LoopThread
from relet.worker.pool import InlinePool, Pool, Shift, ThreadPlace, ThreadPool
from relet.worker.shell import Shell


class Worker(Shell):
    """Asks a broker for jobs and does them, one at a time or several.

    Either pass a function, or one for each queue, or derive a class with `process(data) -> bytes`, or with
    `process_multipart(frames)` where jobs or answers are several frames. A coroutine function will do as well: these
    run in one loop, in a thread of the worker's; functions beside them run in threads.

    In the handler, `current_job()` tells more of the job, and takes progress, pieces of the result and extensions of
    its time. What a handler raises is an outcome too:

    - `FailJob`: this attempt has failed, and how, and when or whether to try again.
    - `HandBack`: another worker shall do it. In the dialect of 2010, which has no word for it, like a failure.
    - `NoAnswer`: nothing is said. The job stays this worker's until its time is up; the worker goes on.
    - any other exception: the attempt has failed with the exception's type and text. This is logged
      (`handler_failed`) with the traceback, at most five times a second; the rest are counted (`held_back`). The
      dialect of 2010 cannot say it: there the worker finishes and answers the other jobs that it holds and reconnects,
      so that the broker lets the job again at once, as a counted attempt.
    - what is no `Exception`, such as KeyboardInterrupt or SystemExit: it ends `run` and goes on to its caller. What is
      in hand is handed back, because who ends a program says nothing of the job; one that ends every program that
      touches it is given up by the broker's bound on hand-overs.

    Args:
        workers: the broker's endpoint for workers, for example `tcp://localhost:4162`.
        answers: the broker's endpoint for answers, for example `tcp://localhost:4163`. The native dialect does without:
            it may be None there, and is not connected to.
        handler: what to do with a job's body; returns the answer. Or a mapping of queues to such functions, where each
            queue that is served has one.
        dialect: "native", or "2010" for a broker that speaks no other.
        queues: names of the queues to serve, the most important first: 1 to 100 of 1 to 200 characters. With weights
            from 1 to 1,000, as {"mail": 3, "reports": 1}, they take turns instead: so many jobs of each a round, as far
            as it has any. None: those that `handler` maps, else "default". The dialect of 2010 serves "default" only.
        ahead: jobs to have asked for or hold at a time, `concurrency` to 1,000. With as many as are done at a time the
            worker is idle while its answer goes out and the next job comes in. More hide that time; a job that lies
            here could meanwhile be done elsewhere, and in the dialect of 2010 it is an attempt lost when the worker
            dies. None: in the dialect of 2010 as many as `concurrency`, natively so many and about 15 ms worth of jobs,
            learnt from those that have ended, and none of these where they take a second.
        concurrency: jobs that are done at a time, 1 to 1,000: in as many threads, or coroutines. With 1 a function runs
            in the thread that called `run`. `Processes(...)`: in processes. A broker may grant less (`--credit-max`).
            In the dialect of 2010 a handler that fails makes its worker finish all that it has and reconnect before it
            goes on, and what was handed over in that moment has lost an attempt.
        hooks: functions that are put around every job, the first one outermost. Each is called as `hook(job, call)`,
            where `job` is `current_job()`, and `call()` goes on to the next and at last to the handler; it returns the
            answer, and so does the hook. What a hook raises is an outcome as if the handler had raised it. Around a
            coroutine hooks are coroutine functions, which await `call()`.
        drain: seconds that jobs in hand may take to end once the worker was told to stop; what has not ended then is
            handed back, uncounted. None: as long as they take. A function goes on all the same, and what it returns
            counts no more; coroutines are cancelled, processes killed.
        context: where the sockets are made; needed for `inproc://`. None: one of the worker's own. With a context of
            yours, its end waits up to a second for the last answer to leave.
        answer_bytes_max: bytes of one answer, at least 1. A handler that returns more has failed: the broker's limit,
            of the same default, would refuse the answer, and a far larger one would cost the connection.

    Raises:
        EndpointError: an endpoint cannot be meant, or both are the same.
        ValueError: `dialect`, `queues`, `ahead`, `concurrency`, `drain` or `answer_bytes_max` is none of those above;
            `answers` is missing in the dialect of 2010; a queue has no handler.
        TypeError: there is nothing to do a job with, or a function would have to wait for a coroutine, or a process
            could not import it.
    """

    def _overrides(self) -> tuple[Callable[..., Any] | None, bool]:
        kind = type(self)
        if kind.process_multipart is not Worker.process_multipart:
            return self.process_multipart, True
        return (None if kind.process is Worker.process else self.process), False

    def process(self, data: bytes) -> bytes:
        """Do one job whose body is one frame; override it. The default calls the handler."""
        handler: Any = self._handler
        if not callable(handler):
            handler = handler[current_job().queue]
        return handler(data)  # type: ignore[no-any-return]  # checked by `frames_of`

    def process_multipart(self, frames: list[bytes]) -> Sequence[bytes]:
        """Do one job; override it where jobs or answers are several frames. The default calls `process`."""
        if len(frames) != 1:
            raise ValueError(f"a job of {len(frames)} frames: override process_multipart")
        return (self.process(frames[0]),)

    def run(self) -> None:
        """Work until `stop`; with `concurrency` 1 a function is called in this thread.

        Ends also with what a handler raises that is no `Exception`, such as KeyboardInterrupt or SystemExit: what is in
        hand is handed back (in the dialect of 2010 it stays unanswered), answers are flushed, connections are closed,
        and the exception goes on to the caller. So it does where a signal's handler raises it in this thread.

        Raises:
            RuntimeError: it is running already.
            EndpointError: the broker says that this is its endpoint for clients.
            RuntimeError: a process for handlers cannot begin.
            QueueUnknown: the broker has settings for some queues, lets no others be used, and one of `queues` is none
                of those. Only until the first welcome: who was taken once goes on to try, and logs it
                (`request_refused`), because settings that were changed may be changed back.
        """
        shift = self._begin()
        engine = None
        pool = self._pool(shift)
        try:
            if not self._stopping:
                pool.open()
                engine = self._connect(shift, pool.give, pool.give_up)
                pool.work()
        finally:
            shift.stopping = True
            if engine is not None:
                engine.stop()
            pool.close()  # after what it has in hand was given up: how that ends is nobody's business
            self._end()
        if engine is not None and engine.error is not None:
            raise engine.error

    def _pool(self, shift: Shift) -> Pool:
        if self._plan is not None and self._processes is not None:
            from relet.worker.children import ProcessPlace  # noqa: PLC0415 - and multiprocessing with it

            plan, processes = self._plan, self._processes
            return ThreadPool(shift, [ProcessPlace(shift, plan, processes) for _ in range(self._places)])
        if self._calls.awaitable:
            return LoopThread(shift, self._places)
        if self._places == 1:
            return InlinePool(shift)
        return ThreadPool(shift, [ThreadPlace(shift) for _ in range(self._places)])
