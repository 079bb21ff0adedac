"""Figures: a measured value, what stands beside it, and the bar it has to reach.

A figure is made from samples, one or more a round. A ratio is taken within each round, where both sides saw the same
machine, and the median is taken last: a median of ratios is steadier than a ratio of medians.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Sample = dict[str, Any]
"""One measurement of one target: "scenario", "target", "round", and what was read, names ending in their unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table.

    `beside` is the same figure of what the broker is compared with (None: nothing); `ratio` the median of the ratios.
    `bar` bounds the ratio where there is one, else the value; `floor` does so from below, where more is better.
    """

    scenario: str
    name: str
    value: float
    unit: str
    beside: float | None = None
    ratio: float | None = None
    bar: float | None = None
    floor: float | None = None
    note: str = ""

    @property
    def judged(self) -> float:
        """The number that the bar is about."""
        return self.value if self.ratio is None else self.ratio

    @property
    def verdict(self) -> str:
        """"ok" or "MISSED", or nothing where no bar was set."""
        if self.bar is None and self.floor is None:
            return ""
        too_much = self.bar is not None and self.judged > self.bar
        too_little = self.floor is not None and self.judged < self.floor
        return "MISSED" if too_much or too_little else "ok"

    def as_json(self) -> dict[str, Any]:
        """The figure and its verdict, ready for JSON."""
        return {**asdict(self), "verdict": self.verdict}


def percentile(values: Iterable[float], rank: float) -> float:
    """The nearest-rank percentile, `rank` in 0..100: a value that was measured, never one in between.

    Raises ValueError if there are no values or the rank is out of range.
    """
    ordered = sorted(values)
    if not ordered or not 0 <= rank <= 100:
        raise ValueError(f"no percentile {rank} of {len(ordered)} values")
    return ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)]


def values(samples: Iterable[Sample], target: str, key: str) -> list[float]:
    """What the samples of one target say about `key`, in the order of the rounds."""
    return [float(sample[key]) for sample in samples if sample["target"] == target]


def median(samples: Iterable[Sample], target: str, key: str) -> float:
    """The median over the rounds. Raises statistics.StatisticsError if that target has no samples."""
    return statistics.median(values(samples, target, key))


def ratio(samples: Sequence[Sample], target: str, beside: str, key: str) -> float:
    """The median over the rounds of target / beside, both taken from the same round."""
    pairs = zip(values(samples, target, key), values(samples, beside, key), strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def amount(value: float | None, unit: str = "") -> str:
    """A number as it stands in the table: three digits that matter, thousands separated."""
    if value is None:
        return ""
    digits = 0 if value == 0 or abs(value) >= 100 else min(3, 2 - math.floor(math.log10(abs(value))))
    if value == int(value):
        digits = 0
    return f"{value:,.{digits}f} {unit}".rstrip()


HEADER = ("figure", "relet", "beside", "ratio", "bar", "", "")


def cells(figure: Figure) -> tuple[str, ...]:
    """A figure as it stands in a line under HEADER."""
    times = "x" if figure.ratio is not None else f" {figure.unit}"
    bounds = [f"{sign} {bound:,g}{times}".rstrip() for sign, bound in (("<=", figure.bar), (">=", figure.floor))
              if bound is not None]
    return (
        figure.name,
        amount(figure.value, figure.unit),
        amount(figure.beside, figure.unit),
        "" if figure.ratio is None else f"{figure.ratio:.2f}x",
        " ".join(bounds),
        figure.verdict,
        figure.note,
    )


def markdown(figures: Sequence[Figure]) -> str:
    """The table for a document."""
    lines = [HEADER, ("---", "--:", "--:", "--:", "---", "---", "---"), *map(cells, figures)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(figures: Sequence[Figure]) -> str:
    """The table for the terminal, one line a figure, a blank line between scenarios."""
    lines: list[tuple[str, ...]] = [HEADER]
    last = figures[0].scenario if figures else ""
    for figure in figures:
        if figure.scenario != last:
            lines.append(())
            last = figure.scenario
        lines.append(cells(figure))
    widths = [max((len(line[column]) for line in lines if line), default=0) for column in range(len(HEADER))]
    text = []
    for line in lines:
        padded = [
            cell.ljust(width) if column in {0, 4, 5, 6} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        text.append("  ".join(padded).rstrip())
    text.insert(1, "-" * max(len(line) for line in text))
    return "\n".join(text)
