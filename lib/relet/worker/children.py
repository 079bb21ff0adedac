"""The places of a `pool.ThreadPool` whose handlers run in processes: a thread for each, which waits for its process.

The thread hands a job over, answers what the handler asks, and waits for the outcome, as long as it may take. A
process that is too late is killed. One that has ended, for whatever reason, is replaced before its place takes another
job; what it had in hand has failed.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import select
import signal
import threading
import time
from multiprocessing.connection import wait
from typing import Any, Final

import msgspec

from relet.dialects import native
from relet.worker.child import Asked, Do, Done, Pipe, Raised, Ready, Told, serve
from relet.worker.engine import Held
from relet.worker.job import CurrentJob, Hand, Job, view_of
from relet.worker.outcome import Failure, Outcome, Silence
from relet.worker.pool import Shift
from relet.worker.processes import PROCESS_DIED, TIME_LIMIT_EXCEEDED, Plan, Processes

END_SECONDS_MAX: Final = 1.0
"""How long a process that has nothing more to do may take to end."""

_SPAWN: Final = multiprocessing.get_context("spawn")
_births: Final = threading.Lock()
"""Starting a process, and hearing of its end, look at those of all threads: one at a time."""


class ProcessPlace:
    """A place of a `ThreadPool`: a process, and another after it.

    Args:
        shift: whose jobs it does.
        plan: what the process calls.
        processes: how long it may take.
    """

    def __init__(self, shift: Shift, plan: Plan, processes: Processes) -> None:
        self._shift = shift
        self._plan = msgspec.msgpack.encode(plan)
        self._time_limit = processes.time_limit
        self._process: Any = None
        self._pipe: Pipe | None = None
        self._given_up = False

    @property
    def ready(self) -> bool:
        """Whether there is a process that can do a job."""
        return self._pipe is not None

    def open(self) -> None:
        """Start a process. Raises RuntimeError where it cannot do jobs."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=serve, args=(theirs, self._plan), name="relet-handler", daemon=False)
        with _births:
            process.start()
            self._process = process
            if self._given_up:
                process.kill()
        theirs.close()
        pipe = Pipe(ours, child=False)
        said: Ready | None = None
        with contextlib.suppress(EOFError, OSError):
            said = pipe.hear()
        if said is not None and not said.wrong and not self._given_up:
            self._pipe = pipe
            return
        pipe.close()
        how = self._ended()
        if self._given_up:
            return
        if said is not None:
            raise RuntimeError(f"a process for handlers cannot import them:\n{said.wrong}")
        raise RuntimeError(
            f"a process for handlers {how} while it began; where the program itself has the handlers, what it does when"
            ' it is run stands behind `if __name__ == "__main__":`'
        )

    def do(self, job: Held) -> Outcome:
        """Hand a job over, and wait for its outcome."""
        pipe, limit = self._pipe, self._time_limit
        if pipe is None:
            return Silence.HANDED_BACK
        header = native.encode(job.header) if isinstance(job, Job) else b""
        deadline = math.inf if limit is None else time.monotonic() + limit
        said: Any = None
        late = False
        try:
            pipe.say(Do(header, job.queue, job.frames))
            while isinstance(said := _hear(pipe, deadline), Asked):
                pipe.say(self._answer(job, said))
        except TimeoutError:
            late = True
            self._process.kill()
        except (EOFError, OSError):
            pass
        if isinstance(said, Done | Raised) and not said.last:
            return self._outcome(job, said)
        self._pipe = None
        pipe.close()
        how = self._ended()
        if isinstance(said, Done | Raised):
            return self._outcome(job, said)
        if self._given_up:
            return Silence.HANDED_BACK
        if late:
            return self._lost(job, TIME_LIMIT_EXCEEDED, f"its process was killed after {limit:g} s")
        return self._lost(job, PROCESS_DIED, f"its process {how}")

    def give_up(self) -> None:
        """Kill the process; in any thread."""
        self._given_up = True
        process = self._process
        if process is not None:
            with _births:
                process.kill()

    def close(self) -> None:
        """The process has nothing more to do."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
            self._ended()

    def _ended(self) -> str:
        """Wait for the end of the process, which is about to; how it ended."""
        process, until = self._process, time.monotonic() + END_SECONDS_MAX
        wait([process.sentinel], END_SECONDS_MAX)
        with _births:
            if time.monotonic() >= until:
                process.kill()
            process.join()
            code = process.exitcode
        if code is not None and code < 0:
            return f"was ended by {signal.strsignal(-code) or 'a signal'} (signal {-code})"
        return f"ended with exit code {code}"

    def _outcome(self, job: Held, said: Done | Raised) -> Outcome:
        if isinstance(said, Raised):
            if said.failure is None:
                return Silence(said.silence)
            fields = {"exception": said.traceback, "error": said.error} if said.traceback else None
            return self._shift.failed(job, said.failure, fields)
        try:
            return self._shift.answered(job, said.frames)
        except ValueError as error:
            return self._shift.raised(job, error)

    def _lost(self, job: Held, kind: str, text: str) -> Outcome:
        return self._shift.failed(job, Failure(kind=kind, text=text), {"error": f"{kind}: {text}"})

    def _answer(self, job: Held, asked: Asked) -> Told:
        """What the handler asks of its job, as the job itself says."""
        hand = Hand(self._shift.line.asides)
        hand.job = job
        try:
            return Told(_said(view_of(hand), asked.what, asked.arguments))
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked
            return Told(wrong=type(error).__name__, text=str(error))


def _said(job: CurrentJob, what: str, arguments: tuple[Any, ...]) -> Any:
    if what == "set_answer_headers":
        job.answer_headers = arguments[0]
        return None
    found = getattr(job, what)
    return found(*arguments) if callable(found) else found


def _hear(pipe: Pipe, deadline: float) -> Any:
    """The next message. Raises TimeoutError, EOFError, OSError."""
    if deadline < math.inf:
        poll = select.poll()
        poll.register(pipe.fileno(), select.POLLIN)
        if not poll.poll(max(0, math.ceil((deadline - time.monotonic()) * 1_000))):
            raise TimeoutError
    return pipe.hear()
