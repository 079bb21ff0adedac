"""What a worker is, whether its program has threads or a loop: its options, its line, its pool, and its end.

Here everything is checked that can be wrong when a worker is made. A run is then a `Shift`, a pool and an
`engine.Engine`; each run has its own.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import zmq

from relet._version import AGENT
from relet.messages import DEFAULT_QUEUE, INCARNATION_BYTES, QUEUE_CHARACTERS_MAX, WEIGHT_MAX
from relet.transport.endpoints import Endpoint, check_distinct, check_text, parse_connect
from relet.transport.link import BODY_BYTES_MAX, DIALECT_2010, DIALECT_DEFAULT, DIALECT_NATIVE
from relet.worker.engine import Engine, Line
from relet.worker.handlers import Calls, Handlers, Hook, calls_of, check_handler
from relet.worker.line2010 import Line2010
from relet.worker.line_native import NativeLine
from relet.worker.outcome import Counters, milliseconds
from relet.worker.pace import Pace
from relet.worker.peer2010 import Peer2010
from relet.worker.peer_native import NativePeer
from relet.worker.pool import Batch, Shift
from relet.worker.processes import Plan, Processes, plan_of

QUEUES_MAX: Final = 100
"""Queues that one worker serves."""


class Shell:
    """The options of a worker, checked, and what is the same in each of its runs.

    The arguments are those of `Worker`.
    """

    _awaitable = False
    """Whether handlers are called in a loop, whatever they are."""

    def __init__(
        self,
        workers: str,
        answers: str | None = None,
        handler: Handlers | None = None,
        *,
        dialect: str = DIALECT_DEFAULT,
        queues: Sequence[str] | Mapping[str, int] | None = None,
        ahead: int | None = None,
        concurrency: int | Processes = 1,
        hooks: Sequence[Hook] = (),
        drain: float | None = None,
        context: zmq.Context[Any] | None = None,
        answer_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        if handler is not None:
            check_handler(handler)
        if type(answer_bytes_max) is not int or answer_bytes_max < 1:
            raise ValueError(f"answer_bytes_max is a number of bytes, at least 1, not {answer_bytes_max!r}")
        self._processes = concurrency if isinstance(concurrency, Processes) else None
        self._places = concurrency.count if isinstance(concurrency, Processes) else concurrency
        if type(self._places) is not int:
            raise TypeError(f"concurrency is a number of jobs, or Processes(...), not {concurrency!r}")
        if queues is None:
            queues = tuple(handler) if isinstance(handler, Mapping) else (DEFAULT_QUEUE,)
        self._answer_bytes_max = answer_bytes_max
        endpoints = _endpoints_of(workers, answers)
        if context is None and any(endpoint.scheme == "inproc" for endpoint in endpoints):
            raise ValueError("inproc:// needs the context of the broker: Worker(..., context=...)")
        self._handler = handler
        self._context = context
        self._drain_ns = None if drain is None else milliseconds(drain, "drain") * 1_000_000
        self._counters = Counters()
        names = _queues_of(queues)
        self._make_line = self._line_maker(dialect, endpoints, names, _weights_of(queues), ahead)
        self._line: Line = self._make_line()
        self._calls = self._calls_for(names, hooks)
        self._plan = None if self._processes is None else self._plan_for(names, hooks, self._processes)
        self._shift: Shift | None = None
        self._give: Callable[[Batch], None] = _nobody
        self._engine: Engine | None = None
        self._stopping = False
        self._running = False

    def _overrides(self) -> tuple[Callable[..., Any] | None, bool]:
        """What a derived class has in place of a handler, and whether that takes frames."""
        raise NotImplementedError

    def _calls_for(self, queues: tuple[str, ...], hooks: Sequence[Hook]) -> Calls:
        base: Any
        base, several = self._overrides()
        if base is None and self._handler is None:
            raise TypeError("pass a handler, or derive a class with process(data) or process_multipart(frames)")
        if base is None:
            base = self._handler
        return calls_of(base, several=several, queues=queues, hooks=tuple(hooks), awaitable=self._awaitable)

    def _plan_for(self, queues: tuple[str, ...], hooks: Sequence[Hook], processes: Processes) -> Plan:
        if self._awaitable:
            raise TypeError("the handlers of an AsyncWorker run in its loop: for processes take a Worker")
        if self._handler is None or self._overrides()[0] is not None:
            raise TypeError("processes run functions that they can import: pass a handler, do not derive a class")
        return plan_of(self._handler, hooks, queues, processes)

    def _line_maker(
        self,
        dialect: str,
        endpoints: list[Endpoint],
        queues: tuple[str, ...],
        weights: tuple[int, ...],
        ahead: int | None,
    ) -> Callable[[], Line]:
        """What makes the line of a run. Of the dialect of 2010 it is the same one, which may still owe answers."""
        if dialect == DIALECT_NATIVE:
            native = (endpoints[0], queues, weights, ahead, self._places)
            _native_line(*native, self._counters, self._answer_bytes_max)  # whatever is wrong is said now
            return lambda: _native_line(*native, self._counters, self._answer_bytes_max)
        if dialect != DIALECT_2010:
            raise ValueError(_no_dialect(dialect))
        if len(endpoints) < 2:
            raise ValueError("the dialect of 2010 answers at an endpoint of its own: Worker(workers, answers, ...)")
        if queues != (DEFAULT_QUEUE,):
            raise ValueError("the dialect of 2010 serves the default queue only: use dialect='native'")
        peer = Peer2010(Pace(ahead, self._places).ahead)
        peer.counters = self._counters
        line = Line2010(peer, endpoints[0], endpoints[1])
        return lambda: line

    @property
    def counters(self) -> Counters:
        """What has happened so far; do not write to it."""
        return self._counters

    @property
    def connected(self) -> bool:
        """Whether the broker is there now: natively, whether it has welcomed this worker."""
        return self._line.connected

    @property
    def idle(self) -> bool:
        """Whether the broker is there now, and this worker has no job, nor anything left to tell of one."""
        return self._line.idle

    def stop(self) -> None:
        """End `run`: jobs in hand are finished and answered, jobs that wait behind them are not started.

        Natively these are handed back at once, and what is still in hand when the drain time is over is handed back
        then, uncounted. Called once more it does not wait for that: whatever is in hand is given up now.

        May be called by any thread and by a signal handler. A worker that was stopped stays stopped.
        """
        again, self._stopping = self._stopping, True
        shift, engine = self._shift, self._engine
        if shift is not None:
            shift.stopping = True
        if engine is not None:
            engine.retire(hurry=again)
        self._give(None)

    # --- A run.

    def _begin(self) -> Shift:
        """A run begins. Raises RuntimeError where one is under way."""
        if self._running:
            raise RuntimeError("this worker is running already; make one for each thread")
        self._running = True
        self._line = self._make_line()
        self._shift = shift = Shift(self._line, self._calls, self._answer_bytes_max)
        shift.stopping = self._stopping
        return shift

    def _connect(self, shift: Shift, give: Callable[[Batch], None], give_up: Callable[[], None]) -> Engine:
        """The pool is ready: ask for jobs."""
        self._give = give
        self._engine = engine = Engine(shift.line, self._context, shift.alarm, give, give_up, self._drain_ns)
        if self._stopping:  # meanwhile
            engine.retire()
            give(None)
        return engine

    def _end(self) -> None:
        """A run has ended."""
        if self._shift is not None:
            self._shift.ended()
        self._engine = None
        self._give = _nobody
        self._running = False


def _nobody(_: object) -> None:
    """Takes what is given while nothing runs."""


def _endpoints_of(workers: str, answers: str | None) -> list[Endpoint]:
    """Both endpoints, or the first one where there is no second."""
    for name, text in (("workers", workers), ("answers", answers)):
        if text is not None or name == "workers":
            if callable(text):
                raise TypeError(
                    f"{name} is an endpoint, not a function: pass that by name, as in Worker(workers, handler=...)"
                )
            check_text(name, text)
    if answers is None:
        return [parse_connect(workers)]
    endpoints = {"workers": parse_connect(workers), "answers": parse_connect(answers)}
    check_distinct(endpoints)
    return list(endpoints.values())


def _queues_of(queues: Sequence[str] | Mapping[str, int]) -> tuple[str, ...]:
    """Names of queues, checked."""
    if isinstance(queues, str):
        raise TypeError(f"queues are several names: queues=({queues!r},)")
    names = tuple(queues)
    if not 1 <= len(names) <= QUEUES_MAX or len(set(names)) != len(names):
        raise ValueError(f"a worker serves 1 to {QUEUES_MAX} queues, each named once, not {len(names)}")
    for name in names:
        if type(name) is not str or not 1 <= len(name) <= QUEUE_CHARACTERS_MAX:
            raise ValueError(f"a queue has a name of 1 to {QUEUE_CHARACTERS_MAX} characters, not {name!r:.250}")
        name.encode()  # lone surrogates cannot be sent: a UnicodeEncodeError is a ValueError
    return names


def _weights_of(queues: Sequence[str] | Mapping[str, int]) -> tuple[int, ...]:
    """Their weights, checked; () where they have none."""
    if not isinstance(queues, Mapping):
        return ()
    for name, weight in queues.items():
        if type(weight) is not int or not 1 <= weight <= WEIGHT_MAX:
            raise ValueError(
                f"the weight of queue {name!r:.250} is a whole number from 1 to {WEIGHT_MAX}: not {weight!r}"
            )
    return tuple(queues.values())


def _no_dialect(dialect: object) -> str:
    close = difflib.get_close_matches(str(dialect), (DIALECT_NATIVE, DIALECT_2010), n=1, cutoff=0.3)
    hint = f": did you mean {close[0]!r}?" if close else f": use {DIALECT_NATIVE!r} or {DIALECT_2010!r}"
    return f"there is no dialect {dialect!r}{hint}"


def _native_line(
    workers: Endpoint,
    queues: tuple[str, ...],
    weights: tuple[int, ...],
    ahead: int | None,
    places: int,
    counters: Counters,
    answer_bytes_max: int,
) -> Line:
    """The line of one run: its end says goodbye, so the next run is another incarnation."""
    peer = NativePeer(os.urandom(INCARNATION_BYTES), queues, ahead, AGENT, weights=weights, places=places)
    peer.counters = counters
    return NativeLine(peer, workers, answer_bytes_max)
