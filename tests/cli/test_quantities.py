"""Durations, sizes, counts and rates from a command line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relet.cli.quantities import (
    QuantityError,
    count,
    duration,
    duration_or_zero,
    rate,
    size,
    timeout,
    written_duration,
    written_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2),
        ("2s", 2),
        ("0.5", 0.5),
        (".5", 0.5),
        ("2.", 2),
        ("500ms", 0.5),
        ("1m", 60),
        ("1.5min", 90),
        ("2h", 7200),
        ("1d", 86400),
        ("1e1", 10),
        (" 2 s ", 2),
        ("+2", 2),
        ("1ms", 0.001),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """Seconds, or a number with a unit."""
    assert duration(text) == seconds
    assert timeout(text) == seconds
    assert duration_or_zero(text) == seconds


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0", "leave the option away"),
        ("0ms", "leave the option away"),
        ("-0", "leave the option away"),
        ("inf", "leave the option away"),
        ("none", "leave the option away"),
        ("nan", "500ms, 2s or 1m"),
        ("-inf", "500ms, 2s or 1m"),
        ("-2", "does not run backwards"),
        ("0.1ms", "the shortest is 1ms"),
        ("1e-400", "the shortest is 1ms"),
        ("1e400", "no duration|longer than ten years"),
        ("11000d", "longer than ten years"),
        ("2 seconds", "or 500ms, 2s, 1m, 1h"),
        ("2M", "or 500ms, 2s, 1m, 1h"),
        ("", "is no duration"),
        ("s", "is no duration"),
        ("two", "is no duration"),
        ("1,5", "is no duration"),
    ],
)
def test_refuses_timeouts(text: str, hint: str) -> None:
    """What cannot be the time of an attempt is refused, with what to do instead."""
    with pytest.raises(QuantityError, match=hint):
        timeout(text)


def test_a_drain_time_may_be_zero() -> None:
    """`--drain 0` stops at once, and is no mistake."""
    assert duration_or_zero("0") == 0
    with pytest.raises(QuantityError):
        duration("0")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("16KiB", 16384),
        ("64MiB", 1 << 26),
        ("1GiB", 1 << 30),
        ("1kB", 1000),
        ("1.5MB", 1_500_000),
        ("8B", 8),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    """Bytes, or a number with a unit that says which kind it is."""
    assert size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("64M", "did you mean 64MiB"),
        ("64mb", "did you mean 64MiB"),
        ("1k", "did you mean 1KiB"),
        ("-1", "is no size"),
        ("many", "is no size"),
        ("9e99", "is no size"),
        ("99999999999999999999GiB", "larger than any machine"),
    ],
)
def test_refuses_sizes(text: str, hint: str) -> None:
    """A letter alone may mean two things, and is asked back."""
    with pytest.raises(QuantityError, match=hint):
        size(text)


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("1_000", 1000), ("1000000", 1_000_000)])
def test_counts(text: str, number: int) -> None:
    """Whole numbers from 1."""
    assert count(text) == number


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0", "write 1 or more"),
        ("-1", "no whole number"),
        ("1.5", "no whole number"),
        ("2s", "a time is written with -T"),
        ("500ms", "a time is written with -T"),
        ("٣", "no whole number"),
        ("9" * 50, "larger than any machine"),
    ],
)
def test_refuses_counts(text: str, hint: str) -> None:
    """`-t 2s` was meant as `-T 2s`, and the message says so."""
    with pytest.raises(QuantityError, match=hint):
        count(text)


@pytest.mark.parametrize(("text", "share"), [("0", 0), ("0.1", 0.1), ("1", 1), ("10%", 0.1), ("100%", 1), (".5", 0.5)])
def test_rates(text: str, share: float) -> None:
    """A share, or a percentage."""
    assert rate(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10", "did you mean 10%"),
        ("-0.1", "not negative"),
        ("101%", "more than all"),
        ("x", "is no rate"),
        ("nan", "is no rate"),
    ],
)
def test_refuses_rates(text: str, hint: str) -> None:
    """10 is no share, but 10 % may be meant."""
    with pytest.raises(QuantityError, match=hint):
        rate(text)


@given(st.text(max_size=12) | st.from_regex(r"[0-9.e+-]{1,8}(ms|s|%|KiB)?", fullmatch=True))
def test_any_text_is_a_quantity_or_an_error_in_one_line(text: str) -> None:
    """No text makes a parser fail in another way."""
    parsers: list[Callable[[str], float]] = [duration, duration_or_zero, timeout, size, count, rate]
    for parse in parsers:
        try:
            value = parse(text)
        except QuantityError as error:
            value = 0
            message = str(error)
        else:
            message = ""
        assert value >= 0
        assert message.isprintable()


@given(st.integers(1, 10**6))
def test_written_durations_are_read_back(milliseconds: int) -> None:
    """What a program writes of a time is what it takes, up to three digits."""
    seconds = milliseconds / 1000
    assert duration(written_duration(seconds)) == pytest.approx(seconds, rel=0.005)


@given(st.integers(0, 2**40))
def test_written_sizes_are_read_back(size_bytes: int) -> None:
    """What a program writes of a size is what it takes."""
    assert size(written_size(size_bytes)) == size_bytes
