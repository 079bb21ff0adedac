"""What a scenario is: it measures once a round, and makes figures of all rounds at the end.

Within a round what is compared takes turns (A B C, A B C, ...), and the rounds go over all scenarios, so that whatever
disturbs the machine for a while disturbs all of them alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks import targets
from benchmarks.figures import Figure, Sample


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run is done: the broker's command, whether it should be quick (fewer and smaller), and the command of
    another broker to compare with, or nothing.
    """

    broker: Sequence[str] = targets.BROKER
    quick: bool = False
    against: Sequence[str] = ()

    def scaled(self, number: int, quick: int) -> int:
        """`number`, or `quick` in a quick run."""
        return quick if self.quick else number


class Scenario(Protocol):
    """One thing to measure."""

    @property
    def name(self) -> str:
        """What --only calls it."""

    @property
    def rounds_max(self) -> int:
        """In how many rounds it takes part; the long ones need fewer."""

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Measure every target once."""

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """What all rounds together say."""
