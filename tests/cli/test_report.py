"""What testclient.py says about a run."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from relet.cli import report
from relet.cli.testjobs import answer_to, body_of, label_of


def tally_of(*seconds: float) -> report.Tally:
    """A tally of jobs that were all answered."""
    tally = report.Tally()
    for latency in seconds:
        tally.add(report.ANSWERED, latency)
    return tally


@given(st.lists(st.floats(1e-5, 1000), min_size=1, max_size=200), st.sampled_from([1, 50, 90, 99, 100]))
def test_percentiles_are_within_two_percent(latencies: list[float], percent: int) -> None:
    """Bands of 2 % are as good as all the figures, for reading."""
    ordered = sorted(latencies)
    exact = ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
    found = tally_of(*latencies).percentile(percent)
    assert found is not None
    assert exact * 0.999 <= found <= exact * 1.021


def test_nothing_has_no_percentile_and_no_chart() -> None:
    """Before the first answer there is nothing to say."""
    assert report.Tally().percentile(50) is None
    assert report.Tally().chart() == []


@given(st.lists(st.floats(1e-7, 1e5), max_size=50), st.lists(st.floats(1e-7, 1e5), max_size=50))
def test_tallies_add_up(one: list[float], other: list[float]) -> None:
    """The tallies of two threads together are the tally of all their jobs."""
    both, total = report.together([tally_of(*one), tally_of(*other)]), tally_of(*one, *other)
    assert both.ended == total.ended == sum(jobs for _, jobs in total.chart())
    assert both.chart() == total.chart()
    assert both.percentile(90) == total.percentile(90)


def test_the_chart_begins_and_ends_where_jobs_are() -> None:
    """Steps of 1, 2, 5; empty ones only between."""
    assert tally_of(0.0009, 0.0011, 0.0042).chart() == [(0.001, 1), (0.002, 1), (0.005, 1)]
    assert tally_of(0.002, 0.0201).chart() == [(0.002, 1), (0.005, 0), (0.01, 0), (0.02, 0), (0.05, 1)]


@pytest.mark.parametrize(("number", "bar"), [(0, ""), (1, "▏"), (500, "████"), (1000, "████████"), (563, "████▌")])
def test_bars(number: int, bar: str) -> None:
    """A bar's length is its share; what is there is seen."""
    assert report.bar(number, 1000, 8) == bar


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0000042, "4.2 us"),
        (0.001, "1 ms"),
        (0.0123, "12.3 ms"),
        (0.123, "123 ms"),
        (2.004, "2 s"),
        (75.0, "75 s"),
    ],
)
def test_times_for_reading(seconds: float | None, text: str) -> None:
    """Three digits and a unit."""
    assert report.written(seconds) == text


def test_the_table_names_what_ended_badly() -> None:
    """Outcomes, percentiles, chart and the jobs to look for, also without a terminal."""
    tally = tally_of(0.001, 0.002)
    tally.add(report.FAILED, 6.0)
    tally.name("1.3", "failed")
    found = report.summary(tally, jobs=4, seconds=7.0, interrupted=True, clients="4161", threads=1)
    assert (found["answered"], found["failed"], found["open"], found["jobs_per_second"]) == (2, 1, 1, 0.4)
    screen = io.StringIO()
    report.print_table(Console(file=screen, width=80), found, tally)
    for text in (
        "4 jobs",
        "(interrupted)",
        "answered, and right",
        "50.00%",
        "still open",
        "p50",
        "up to",
        "1.3 (failed)",
    ):
        assert text in screen.getvalue()


@given(st.integers(1, 10**6), st.integers(1, 10**9), st.integers(0, 2000))
def test_bodies_carry_their_label_and_have_their_size(thread: int, number: int, size: int) -> None:
    """Every job differs, is as large as was asked for, and can be named."""
    body = body_of(thread, number, size)
    assert label_of(body) == f"{thread}.{number}"
    assert len(body) == max(size, len(f"{thread}.{number}"))
    assert answer_to(body) == b"done " + body


@pytest.mark.parametrize("body", [b"", b"...", b"\xff\x00", b"a\nb", "ü".encode()])
def test_any_body_can_be_named_in_one_line(body: bytes) -> None:
    """A worker may get jobs from anybody."""
    assert label_of(body).isprintable()
