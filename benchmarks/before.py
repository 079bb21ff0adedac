"""The same flows through two brokers: this one, and another that has the same command line (`--against COMMAND`), such
as the broker of an older checkout. That is how a change is seen that must cost nothing.

In each dialect both stand ready together and take turns. One process of the same program can be a few percent dearer
than the next (how its memory happens to lie): a round has fresh ones, and it takes some rounds to tell a few percent.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks import figures, targets
from benchmarks.figures import Figure, Sample
from benchmarks.flows import FLOW_WINDOW, NATIVE, TURNS, Standing, take_turns
from benchmarks.load import Dialect, load
from benchmarks.scenario import Setting

DIALECTS: tuple[Dialect, ...] = ("2010", "native")
LABELS = {"2010": "relet", "native": NATIVE}


@dataclass(frozen=True, slots=True)
class Before:
    """Plain jobs, now and before."""

    name: str = "before"
    window: int = FLOW_WINDOW
    jobs: int = 200_000
    bar: float = 1.05
    body_bytes: int = 32
    rounds_max: int = 100

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Both brokers in both dialects, in turns."""
        jobs = setting.scaled(self.jobs, self.jobs // 3) // TURNS
        for dialect in DIALECTS:
            with contextlib.ExitStack() as stack:

                def stand_by(
                    label: str, command: Sequence[str], stack: contextlib.ExitStack = stack, dialect: Dialect = dialect
                ) -> Standing:
                    target = stack.enter_context(targets.broker(command))
                    opened = load(target, body_bytes=self.body_bytes, dialect=dialect)
                    return Standing(label, target, stack.enter_context(opened), jobs)

                now = stand_by(LABELS[dialect], setting.broker)
                before = stand_by(f"{LABELS[dialect]}-before", setting.against)
                yield from take_turns((now, before), self.window)

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU per job and rate, beside those before."""
        return [
            Figure(
                scenario=self.name,
                name=f"{self.window} in flight, 32 B: {name}, {dialect} dialect",
                value=figures.median(samples, LABELS[dialect], key),
                unit=unit,
                beside=figures.median(samples, f"{LABELS[dialect]}-before", key),
                ratio=figures.ratio(samples, LABELS[dialect], f"{LABELS[dialect]}-before", key),
                bar=bar,
                note="beside: the broker before",
            )
            for dialect in DIALECTS
            for name, key, unit, bar in (
                ("CPU per job", "cpu_us", "us", self.bar), ("jobs per second", "jobs_per_s", "/s", None),
            )
        ]
