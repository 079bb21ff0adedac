"""Medians, ratios, bars and the table."""

import pytest
from benchmarks.figures import Figure, Sample

from benchmarks import figures


def samples(**cpu_us: list[float]) -> list[Sample]:
    """One sample a value, in the order of the rounds."""
    return [{"target": target, "cpu_us": value} for target, values in cpu_us.items() for value in values]


@pytest.mark.parametrize(("rank", "expected"), [(0, 1), (50, 5), (51, 6), (90, 9), (99, 10), (100, 10)])
def test_percentile_is_a_measured_value(rank: float, expected: float) -> None:
    """The nearest rank of ten values in any order."""
    assert figures.percentile([10, 2, 9, 4, 5, 6, 7, 8, 3, 1], rank) == expected


@pytest.mark.parametrize(("values", "rank"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_percentile_of_nothing_is_refused(values: list[float], rank: float) -> None:
    """No values, or a rank that does not exist."""
    with pytest.raises(ValueError, match="no percentile"):
        figures.percentile(values, rank)


def test_ratio_is_taken_within_each_round() -> None:
    """A slow round is slow for both sides: the median of the ratios is 2, that of the medians would be 3."""
    measured = samples(relet=[2.0, 60.0, 6.0], proxy=[1.0, 30.0, 2.0])
    assert figures.ratio(measured, "relet", "proxy", "cpu_us") == 2.0
    assert figures.median(measured, "relet", "cpu_us") / figures.median(measured, "proxy", "cpu_us") == 3.0


def test_ratio_wants_the_same_rounds_on_both_sides() -> None:
    """A round that one side has not run is an error, not a figure."""
    with pytest.raises(ValueError, match=r"shorter|longer"):
        figures.ratio(samples(relet=[2.0, 3.0], proxy=[1.0]), "relet", "proxy", "cpu_us")


@pytest.mark.parametrize(
    ("value", "ratio", "bar", "verdict"),
    [
        (9.0, 2.5, 3.0, "ok"), (2.0, 3.5, 3.0, "MISSED"), (9.0, None, 10.0, "ok"),
        (11.0, None, 10.0, "MISSED"), (0, None, 0, "ok"), (1, None, 0, "MISSED"), (1.0, 1.0, None, ""),
    ],
)
def test_bar_bounds_the_ratio_or_else_the_value(
    value: float, ratio: float | None, bar: float | None, verdict: str
) -> None:
    """What is judged, on both sides of the bar, and where there is none."""
    assert Figure(scenario="s", name="n", value=value, unit="us", ratio=ratio, bar=bar).verdict == verdict


@pytest.mark.parametrize(("ratio", "verdict"), [(1.4, "MISSED"), (1.5, "ok"), (9.0, "ok")])
def test_a_floor_bounds_from_below(ratio: float, verdict: str) -> None:
    """More is better: what is judged on both sides of the floor, and how it stands in the table."""
    figure = Figure(scenario="s", name="n", value=10, unit="/s", ratio=ratio, floor=1.5)
    assert figure.verdict == verdict
    assert figures.cells(figure)[4] == ">= 1.5x"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 us"), (0.12345, "0.123 us"), (0.0004, "0.000 us"), (2.0, "2 us"), (2.345, "2.35 us"), (23.45, "23.4 us"),
     (312345.6, "312,346 us"), (-2.5, "-2.50 us")],
)
def test_amounts_have_three_digits_that_matter(value: float, text: str) -> None:
    """Small, large, whole and negative ones."""
    assert figures.amount(value, "us") == text


def test_markdown_has_a_row_for_every_figure() -> None:
    """Header, rule, one row each."""
    made = [Figure(scenario="a", name="cpu", value=4.0, unit="us", ratio=2.0, bar=3.0)]
    assert figures.markdown(made).splitlines()[2] == "| cpu | 4 us |  | 2.00x | <= 3x | ok |  |"


def test_table_names_every_figure_with_its_bar_and_verdict() -> None:
    """One line each, a blank one between scenarios, columns aligned."""
    made = [
        Figure(scenario="a", name="cpu", value=4.81, unit="us", beside=2.0, ratio=2.4, bar=3.0, note="the proxy"),
        Figure(scenario="b", name="memory", value=1500, unit="B", bar=1024),
    ]
    header, _, first, blank, second = figures.table(made).splitlines()
    assert first.split() == ["cpu", "4.81", "us", "2", "us", "2.40x", "<=", "3x", "ok", "the", "proxy"]
    assert blank == ""
    assert second.split() == ["memory", "1,500", "B", "<=", "1,024", "B", "MISSED"]
    assert header.index("bar") == first.index("<=") == second.index("<=")
