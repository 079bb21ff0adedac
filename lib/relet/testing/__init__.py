"""Testing: a whole world in which programs, and the broker itself, can be tried without sockets, threads or waiting.

For users: `Bench` is a broker with real clients and workers around it, on a clock that the test moves; `InlineClient`
calls handlers where jobs are submitted; `fixtures` are for pytest, which finds them by itself. docs/testing.md shows
them.

For relet itself: time is simulated, every decision of fate comes from one seed, and a judge that shares no code with
the broker says what is owed. `python -m relet.testing.simulate` plays many worlds; `World` plays one.
`python -m relet.testing.torture` is the other way round: real processes, a real disk, and `kill -9` at random moments.

Names are imported when they are first used: pytest loads this package wherever relet is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from relet.testing.bench import Bench, BenchClient, BenchFuture, BenchWorker, Said
    from relet.testing.census import InvariantBroken
    from relet.testing.clock import Clock
    from relet.testing.inline import InlineClient
    from relet.testing.judge import Violation
    from relet.testing.stores import LateStore
    from relet.testing.world import Config, Outcome, World

__all__ = [
    "Bench",
    "BenchClient",
    "BenchFuture",
    "BenchWorker",
    "Clock",
    "Config",
    "InlineClient",
    "InvariantBroken",
    "LateStore",
    "Outcome",
    "Said",
    "Violation",
    "World",
]

_WHERE: Final = {
    "Bench": "bench",
    "BenchClient": "bench",
    "BenchFuture": "bench",
    "BenchWorker": "bench",
    "Clock": "clock",
    "Config": "world",
    "InlineClient": "inline",
    "InvariantBroken": "census",
    "LateStore": "stores",
    "Outcome": "world",
    "Said": "bench",
    "Violation": "judge",
    "World": "world",
}


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'relet.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"relet.testing.{where}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
