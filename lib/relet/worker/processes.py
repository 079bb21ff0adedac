"""Handlers in processes of their own: what may be asked for, and how a handler is found there.

A process is started afresh (*spawn*), not forked: it shares nothing with its worker, not even a lock that another
thread held in that moment. So it has to import what it runs, and what it runs has to have a name: a function at the top
level of a module. Nothing is pickled but that name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from relet.worker.handlers import Calls, Handlers, Hook, calls_of, named

TIME_LIMIT_EXCEEDED: Final = "TimeLimitExceeded"
"""The kind of failure of an attempt whose process was ended because it took too long."""
PROCESS_DIED: Final = "ProcessDied"
"""The kind of failure of an attempt whose process ended under it."""
SECONDS_MAX: Final = (1 << 31) / 1_000
"""So long poll(2) can wait: milliseconds in a C int."""


class Processes(msgspec.Struct, frozen=True):
    """`Worker(concurrency=Processes(4, time_limit=30))`: handlers run in processes, each does one job at a time.

    A process that ends while it has a job, because it crashed or was killed, is an attempt that failed, with the kind
    `ProcessDied`; another takes its place.

    Handlers and hooks must be importable by name, there and here: functions at the top level of a module. Where that is
    the program itself, what it does when it is run must stand behind `if __name__ == "__main__":`. A coroutine function
    is run in a loop of its process.

    Raises:
        ValueError: one of these is none of what it may be.
    """

    count: int
    """How many, 1 to 1,000."""
    time_limit: float | None = None
    """Seconds that an attempt may take, above 0. Then its process is killed - not what that may have started - and the
    attempt has failed with the kind `TimeLimitExceeded`. Extensions do not move it. None: no limit."""
    jobs_max: int | None = None
    """A process that has done so many jobs is replaced, at least 1."""
    rss_bytes_max: int | None = None
    """A process that has more bytes of memory in use (resident set) when a job has ended is replaced, at least 1."""

    def __post_init__(self) -> None:
        for name in ("count", "jobs_max", "rss_bytes_max"):
            value = getattr(self, name)
            if name != "count" and value is None:
                continue
            if type(value) is not int or value < 1:
                raise ValueError(f"Processes({name}=...) is a whole number, at least 1, not {value!r}")
        try:
            can_be = self.time_limit is None or 0 < self.time_limit < SECONDS_MAX
        except TypeError:
            can_be = False
        if not can_be:
            raise ValueError(f"Processes(time_limit=...) is a number of seconds above 0, not {self.time_limit!r}")


class Plan(msgspec.Struct, frozen=True):
    """What a process calls, by name: this goes there."""

    handlers: str | dict[str, str]
    hooks: tuple[str, ...]
    queues: tuple[str, ...]
    jobs_max: int | None
    rss_bytes_max: int | None

    def calls(self) -> Calls:
        """Import it all. Raises what an import may raise."""
        handlers = self.handlers
        base: Any = found(handlers) if isinstance(handlers, str) else {q: found(it) for q, it in handlers.items()}
        return calls_of(base, several=False, queues=self.queues, hooks=[found(hook) for hook in self.hooks])


def plan_of(handlers: Handlers, hooks: Sequence[Hook], queues: tuple[str, ...], processes: Processes) -> Plan:
    """Raises TypeError where something has no name by which it could be imported."""
    return Plan(
        {queue: name_of(handlers[queue]) for queue in queues} if isinstance(handlers, Mapping) else name_of(handlers),
        tuple(map(name_of, hooks)),
        queues,
        processes.jobs_max,
        processes.rss_bytes_max,
    )


def name_of(function: object) -> str:
    """`module:name`. Raises TypeError where it is found under none."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    wrong = f"processes import what they run, and {named(function)} cannot be imported by name: "
    if not module or not name or "<" in name:
        raise TypeError(wrong + "take a function that stands at the top level of a module")
    main = sys.modules["__main__"]
    if module == "__main__" and not (getattr(main, "__file__", None) or getattr(main, "__spec__", None)):
        raise TypeError(wrong + "it was typed in; put it into a file")
    try:
        same = found(f"{module}:{name}") is function
    except (ImportError, AttributeError):
        same = False
    if not same:
        raise TypeError(wrong + f"{module}.{name} is something else; take a function at the top level of a module")
    return f"{module}:{name}"


def found(name: str) -> Callable[..., Any]:
    """What has this name. Raises ImportError or AttributeError."""
    module, _, path = name.partition(":")
    it: Any = importlib.import_module(module)
    for part in path.split("."):
        it = getattr(it, part)
    return it  # type: ignore[no-any-return]
