"""Testing: a whole world in which a broker can be tried, without sockets, threads or waiting.

Time is simulated, every decision of fate comes from one seed, and a judge that shares no code with the broker says
what is owed. `python -m relet.testing.simulate` plays many worlds; `World` plays one. The parts can be used alone:
the clock, the network, the stores that settle late, the census of a machine's invariants.

`python -m relet.testing.torture` is the other way round: real processes, a real disk, and `kill -9` at random moments.
"""

from relet.testing.census import InvariantBroken
from relet.testing.clock import Clock
from relet.testing.judge import Violation
from relet.testing.stores import LateStore
from relet.testing.world import Config, Outcome, World

__all__ = ["Clock", "Config", "InvariantBroken", "LateStore", "Outcome", "Violation", "World"]
