"""What a test client has seen: outcomes and latencies, while they come and in the end.

Latencies are counted in bands that are each 2 % wide, so that a run of ten million jobs takes no more memory than one
of a hundred. Each client thread has a tally of its own, written by one thread only; readers add them up.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

BAND_FACTOR = 1.02
_BANDS_PER_LOG = 1 / math.log(BAND_FACTOR)
LATENCY_SECONDS_MIN = 1e-6
EXAMPLES_MAX = 10
"""Jobs that ended badly and are named."""
CHART_CELLS = 32
EIGHTHS = " ▏▎▍▌▋▊▉"
CHART_EDGES_SECONDS = [float(f"{step}e{power}") for power in range(-5, 5) for step in (1, 2, 5)]
PERCENTILES = (50, 90, 99)

ANSWERED = "answered"
FAILED = "failed"
WRONG = "wrong"
UNANSWERED = "unanswered"
OUTCOMES = {
    ANSWERED: "answered, and right",
    FAILED: "failed: the tries were spent",
    WRONG: "wrong answer",
    UNANSWERED: "no answer in time",
}


class Tally:
    """Outcomes and latencies of some jobs."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.bad: list[str] = []
        """The first jobs that ended badly, and how."""
        self.seconds_max = 0.0
        self.bands: Counter[int] = Counter()
        """Jobs by the logarithm of their latency, in bands of 2 %."""
        self.steps = [0] * len(CHART_EDGES_SECONDS)
        """Jobs by the step of the chart that they belong to."""

    def add(self, outcome: str, seconds: float) -> None:
        """Count one job that ended after so long."""
        self.outcomes[outcome] += 1
        self.steps[bisect_left(CHART_EDGES_SECONDS, seconds, 0, len(CHART_EDGES_SECONDS) - 1)] += 1
        self.bands[int(math.log(max(seconds, LATENCY_SECONDS_MIN)) * _BANDS_PER_LOG // 1)] += 1
        self.seconds_max = max(self.seconds_max, seconds)

    def name(self, label: str, how: str) -> None:
        """Remember a job that ended badly; only the first few are."""
        if len(self.bad) < EXAMPLES_MAX:
            self.bad.append(f"{label} ({how})")

    @property
    def ended(self) -> int:
        """Jobs that have ended, however."""
        return sum(self.outcomes.copy().values())

    @property
    def bad_count(self) -> int:
        """Jobs that ended badly."""
        return self.ended - self.outcomes[ANSWERED]

    def percentile(self, percent: float) -> float | None:
        """Seconds within which so many percent of the jobs ended, within 2 %; None before the first one has."""
        bands = self.bands.copy()
        wanted = sum(bands.values()) * percent / 100
        seen = 0
        for band in sorted(bands):
            seen += bands[band]
            if seen >= wanted:
                return min(_upper_edge(band), self.seconds_max)
        return None

    def chart(self) -> list[tuple[float, int]]:
        """(upper edge in seconds, jobs) in steps of 1, 2, 5, 10 ..., without empty ones at either end."""
        rows = list(zip(CHART_EDGES_SECONDS, self.steps, strict=True))
        while rows and not rows[-1][1]:
            rows.pop()
        first = next((index for index, (_, jobs) in enumerate(rows) if jobs), 0)
        return rows[first:]


def together(tallies: Iterable[Tally]) -> Tally:
    """All tallies as one."""
    total = Tally()
    for tally in tallies:
        total.outcomes.update(tally.outcomes.copy())
        total.bands.update(tally.bands.copy())
        total.steps = [one + other for one, other in zip(total.steps, tally.steps, strict=True)]
        total.seconds_max = max(total.seconds_max, tally.seconds_max)
        for bad in tally.bad[: EXAMPLES_MAX - len(total.bad)]:
            total.bad.append(bad)
    return total


def summary(
    tally: Tally, *, jobs: int, seconds: float, interrupted: bool, clients: str, threads: int
) -> dict[str, Any]:
    """The run as one JSON object; times in the unit that the name says."""
    latency = {f"p{percent}": tally.percentile(percent) for percent in PERCENTILES} | {"max": tally.seconds_max or None}
    return {
        "clients": clients,
        "threads": threads,
        "jobs": jobs,
        **{outcome: tally.outcomes[outcome] for outcome in OUTCOMES},
        "open": jobs - tally.ended,
        "seconds": round(seconds, 3),
        "jobs_per_second": round(tally.ended / seconds, 1) if seconds else 0.0,
        "latency_ms": {name: None if value is None else round(value * 1e3, 3) for name, value in latency.items()},
        "bad": tally.bad,
        "interrupted": interrupted,
    }


def print_table(console: Console, found: dict[str, Any], tally: Tally) -> None:
    """The summary for people: outcomes, percentiles and a chart of the latencies."""
    from rich.table import Table

    jobs = found["jobs"]
    console.print(
        f"[bold]{jobs:,} jobs[/bold] to {found['clients']} from {found['threads']} "
        f"{'thread' if found['threads'] == 1 else 'threads'}: {found['seconds']:,.2f} s, "
        f"{found['jobs_per_second']:,.1f} jobs/s" + (" [yellow](interrupted)[/yellow]" if found["interrupted"] else ""),
        highlight=False,
    )
    outcomes = Table(box=None, pad_edge=True)
    outcomes.add_column("outcome", min_width=30)
    outcomes.add_column("jobs", justify="right")
    outcomes.add_column("share", justify="right")
    rows = [(text, found[key], "green" if key == ANSWERED else "red") for key, text in OUTCOMES.items()]
    for text, number, colour in [*rows, ("still open", found["open"], "yellow")]:
        if number or text == OUTCOMES[ANSWERED] or text == OUTCOMES[FAILED]:
            outcomes.add_row(text, f"{number:,}", f"{number / max(jobs, 1):.2%}", style=colour if number else "dim")
    console.print(outcomes)
    if not tally.ended:
        return
    times = "   ".join(f"{name} {written(value / 1e3)}" for name, value in found["latency_ms"].items())
    console.print(f"\n [bold]latency[/bold]  {times}", highlight=False)
    steps = tally.chart()
    most = max(number for _, number in steps)
    for edge, number in steps:
        console.print(f" up to {written(edge):>7}  {bar(number, most):<{CHART_CELLS}} {number:>9,}", highlight=False)
    if tally.bad:
        more = f" and {tally.bad_count - len(tally.bad):,} more" if tally.bad_count > len(tally.bad) else ""
        console.print(f"\n ended badly: {', '.join(tally.bad)}{more}", highlight=False, markup=False)


def bar(number: int, most: int, cells: int = CHART_CELLS) -> str:
    """A bar in eighths of a cell; what is there is seen, however small its share."""
    if not number:
        return ""
    eighths = max(1, round(number / most * cells * 8))
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def written(seconds: float | None) -> str:
    """A time with three digits and its unit, for reading."""
    if seconds is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale * 0.9995 or unit == "us":
            return f"{_three_digits(seconds / scale)} {unit}"
    raise AssertionError


def _three_digits(value: float) -> str:
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _upper_edge(band: int) -> float:
    return math.exp((band + 1) / _BANDS_PER_LOG)
