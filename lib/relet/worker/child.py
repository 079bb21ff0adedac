"""What runs in a handler's process: it takes a job from a pipe, calls the handler, and says what became of it.

There is one pipe, and its worker's thread at the other end has nothing else to do meanwhile. So what a handler wants to
know or to say of its job is a question on the same pipe, and is answered at once; the process itself keeps no state.

The process ignores SIGINT and SIGTERM, which a terminal or a supervisor sends to all processes of a program at once:
its worker decides when it ends. It ends at once when its worker has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from relet.dialects import native
from relet.messages import VERSION
from relet.worker.handlers import Calls, Threads, frames_of, outcome_of
from relet.worker.job import CurrentJob, Hand, Job, as_bytes, finite, take_hand
from relet.worker.outcome import FailJob, Failure, shown
from relet.worker.processes import Plan

# --- What is said on the pipe.


class Do(msgspec.Struct, tag=1, array_like=True):
    """To the process: a job. Its native header, b"" in the dialect of 2010; its queue; its body."""

    header: bytes
    queue: str
    frames: tuple[bytes, ...]


class Told(msgspec.Struct, tag=2, array_like=True):
    """To the process: the answer to a question, or the type and text of what it raised."""

    value: Any = None
    wrong: str = ""
    text: str = ""


class Ready(msgspec.Struct, tag=3, array_like=True):
    """From the process: it can do jobs; or why it cannot."""

    wrong: str = ""


class Asked(msgspec.Struct, tag=4, array_like=True):
    """From the process: what of the current job is wanted, or is to be called with these arguments."""

    what: str
    arguments: tuple[Any, ...] = ()


class Done(msgspec.Struct, tag=5, array_like=True):
    """From the process: the answer. `last`: it ends now, because it has done enough."""

    frames: tuple[bytes, ...]
    last: bool


class Raised(msgspec.Struct, tag=6, array_like=True):
    """From the process: a failure, or another outcome by its name; what the log is told of it."""

    failure: Failure | None
    silence: str
    error: str
    traceback: str
    last: bool


_encode: Final = msgspec.msgpack.Encoder().encode
_to_child: Final = msgspec.msgpack.Decoder(Do | Told)
_to_worker: Final = msgspec.msgpack.Decoder(Ready | Asked | Done | Raised)
_WRONG: Final[dict[str, type[Exception]]] = {"TypeError": TypeError, "ValueError": ValueError}


class Pipe:
    """One end of the pipe."""

    def __init__(self, connection: multiprocessing.connection.Connection, *, child: bool) -> None:
        self._connection = connection
        self._decode: Callable[[bytes], Any] = (_to_child if child else _to_worker).decode
        self.fileno = connection.fileno
        self.close = connection.close

    def say(self, message: Any) -> None:
        """Raises OSError where nobody is at the other end."""
        self._connection.send_bytes(_encode(message))

    def hear(self) -> Any:
        """The next message. Raises EOFError or OSError where nobody is at the other end."""
        return self._decode(self._connection.recv_bytes())


# --- The process.


class RemoteJob(CurrentJob):
    """`CurrentJob`, as seen from a handler's process: what changes is asked for, what is said is passed on."""

    def __init__(self, job: Job | None, pipe: Pipe) -> None:
        super().__init__(job, None)
        self._pipe: Pipe | None = pipe
        self._asking = threading.Lock()

    def _ask(self, what: str, *arguments: Any) -> Any:
        with self._asking:
            if self._pipe is None:
                raise RuntimeError("the job has ended")
            self._pipe.say(Asked(what, arguments))
            told = self._pipe.hear()
        if told.wrong:
            raise _WRONG.get(told.wrong, RuntimeError)(told.text)
        return told.value

    def _end(self) -> None:
        with self._asking:
            self._pipe = None

    @property
    def deadline(self) -> float | None:
        """As `CurrentJob.deadline`."""
        return self._ask("deadline")  # type: ignore[no-any-return]

    @property
    def cancelled(self) -> bool:
        """As `CurrentJob.cancelled`."""
        return bool(self._ask("cancelled"))

    def extend(self, seconds: float) -> None:
        """As `CurrentJob.extend`."""
        self._ask("extend", seconds)

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """As `CurrentJob.progress`."""
        self._ask("progress", finite(done, "done"), None if total is None else finite(total, "total"), str(note))

    def partial(self, piece: bytes | Sequence[bytes]) -> None:
        """As `CurrentJob.partial`."""
        frames = (piece,) if isinstance(piece, bytes | bytearray | memoryview) else tuple(piece)
        self._ask("partial", as_bytes(frames))

    @property
    def answer_headers(self) -> dict[str, str] | None:
        """As `CurrentJob.answer_headers`."""
        return self._ask("answer_headers")  # type: ignore[no-any-return]

    @answer_headers.setter
    def answer_headers(self, headers: Mapping[str, str] | None) -> None:
        self._ask("set_answer_headers", None if headers is None else dict(headers))


def serve(connection: multiprocessing.connection.Connection, plan: bytes) -> None:
    """Do jobs until there is no worker, or enough was done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _nothing)  # not SIG_IGN, which programs started by handlers would inherit
    threading.Thread(target=_watch, name="relet-watch", daemon=True).start()
    pipe = Pipe(connection, child=True)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            plan_: Plan = msgspec.msgpack.decode(plan, type=Plan)
            calls = plan_.calls()
        except Exception:  # noqa: BLE001 - whatever an import raises
            pipe.say(Ready(traceback.format_exc()))
            return
        pipe.say(Ready())
        hand = Hand(None, Threads(1))
        take_hand(hand)  # before there is a loop, which takes a copy of this context
        with asyncio.Runner() if calls.awaitable else contextlib.nullcontext() as runner:
            _Handler(pipe, plan_, calls, runner, hand).work()


def _nothing(_number: int, _frame: object) -> None:
    """A signal that is for the worker."""


def _watch() -> None:
    """End with the worker, also in a handler that never ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Handler:
    def __init__(self, pipe: Pipe, plan: Plan, calls: Calls, runner: asyncio.Runner | None, hand: Hand) -> None:
        self._pipe = pipe
        self._plan = plan
        self._calls = calls
        self._runner = runner
        self._hand = hand
        self._count = 0

    def work(self) -> None:
        while self._do(self._pipe.hear()):
            pass  # no local holds on to the last job while this process waits for the next one

    def _do(self, job: Do) -> bool:
        hand = self._hand
        header: Any = native.to_worker(VERSION, job.header) if job.header else None
        view = RemoteJob(None if header is None else Job(header, (), 0), self._pipe)
        hand.job, hand.view = job, view
        said: Done | Raised
        try:
            answer = self._calls.of(job.queue)(job.frames)
            if self._runner is not None:
                answer = self._runner.run(answer)
            said = Done(frames_of(answer), last=False)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever a handler raises
            said = _raised(error)
        hand.job = hand.view = None
        view._end()  # noqa: SLF001 - not for handlers
        self._count += 1
        said.last = self._has_done_enough()
        self._pipe.say(said)
        return not said.last

    def _has_done_enough(self) -> bool:
        plan = self._plan
        if plan.jobs_max is not None and self._count >= plan.jobs_max:
            return True
        return plan.rss_bytes_max is not None and resident_bytes() > plan.rss_bytes_max


def _raised(error: BaseException) -> Raised:
    outcome = outcome_of(error)
    if not isinstance(outcome, Failure):
        return Raised(None, outcome.value, "", "", last=False)
    if isinstance(error, FailJob):  # which is meant: nothing for the log
        return Raised(outcome, "", "", "", last=False)
    return Raised(outcome, "", shown(error), "".join(traceback.format_exception(error)), last=False)


def resident_bytes() -> int:
    """Memory of this process that is in use, as proc(5) says; elsewhere the most that it ever was (getrusage(2))."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a Path costs as much as the reading
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1_024
