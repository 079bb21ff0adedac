"""Durations, sizes, rates and counts as people write them on a command line.

Each function takes the text and returns the value, or raises `QuantityError` with a line that says what to write
instead; argparse shows it behind the option's name.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

from relet.durations import QUANTITY, DurationError, seconds_of

BYTES = {
    "": 1,
    "B": 1,
    **{f"{letter}iB": 1024 ** (power + 1) for power, letter in enumerate("KMGT")},
    **{f"{letter}B": 1000 ** (power + 1) for power, letter in enumerate("kMGT")},
}
COUNT_MAX = 2**62
"""Larger numbers do not fit the machine integers of the frame pump."""


class QuantityError(ArgumentTypeError, ValueError):
    """A quantity that cannot be meant; the message is one line."""


def duration(text: str) -> float:
    """Seconds, more than none: `2`, `0.5`, `500ms`, `2s`, `1m`, `1h`."""
    seconds = duration_or_zero(text)
    if seconds == 0:
        raise QuantityError(f"{text!r}: a time of 0 would be over before it began; write for example 500ms")
    return seconds


def timeout(text: str) -> float:
    """The time of an attempt in seconds; refusals say how to have none."""
    lowered = text.strip().lower()
    if lowered in {"inf", "+inf", "infinity", "none", "never"}:
        raise QuantityError(f"{text!r}: for no timeout, leave the option away")
    if duration_or_zero(text) == 0:
        raise QuantityError(
            f"{text!r}: every attempt would expire at once; write for example 500ms, or leave the option away "
            "for no timeout"
        )
    return duration(text)


def duration_or_zero(text: str) -> float:
    """Seconds, from 0: `0`, `500ms`, `2s`, `1m`."""
    try:
        return seconds_of(text)
    except DurationError as wrong:
        raise QuantityError(str(wrong)) from None


def size(text: str) -> int:
    """Bytes: `4096`, `16KiB`, `64MiB`, `1GB`."""
    found = QUANTITY.fullmatch(text.strip())
    if found is None or found["sign"] == "-" or found["power"]:
        raise QuantityError(f"{text!r} is no size; write bytes (4096), or 16KiB, 64MiB, 1GiB")
    unit = found["unit"]
    if unit not in BYTES:
        letter = unit[:1].upper()
        hint = f"{found['number']}{letter}iB" if letter in {"K", "M", "G", "T"} else "16KiB, 64MiB or 1GiB"
        raise QuantityError(f"{text!r}: {unit!r} is no unit of size; did you mean {hint}?")
    return _bounded(text, round(float(found["number"]) * BYTES[unit]))


def count(text: str) -> int:
    """A whole number from 1; underscores may group its digits."""
    digits = text.strip().replace("_", "")
    if re.fullmatch(r"[0-9]+", digits) is None:
        number = QUANTITY.fullmatch(text.strip())
        swapped = number is not None and number["unit"] in {"ms", "s", "sec", "m", "min", "h"}
        raise QuantityError(
            f"{text!r} is no whole number from 1"
            + ("; a time is written with -T" if swapped else "; write for example 3")
        )
    value = _bounded(text, int(digits[:40]))
    if value == 0:
        raise QuantityError(f"{text!r}: nothing would ever happen; write 1 or more")
    return value


def rate(text: str) -> float:
    """A share from 0 to 1: `0.1`, `10%`."""
    found = QUANTITY.fullmatch(text.strip())
    if found is None or found["unit"] not in {"", "%"} or found["power"]:
        raise QuantityError(f"{text!r} is no rate; write a share from 0 to 1 (0.1) or a percentage (10%)")
    share = float(found["number"]) / (100 if found["unit"] else 1)
    if found["sign"] == "-" and share:
        raise QuantityError(f"{text!r}: a rate is not negative; write 0.1 or 10%")
    if share > 1:
        hint = f"did you mean {found['number']}%?" if share <= 100 and not found["unit"] else "write 0.1 or 10%"
        raise QuantityError(f"{text!r}: more than all; {hint}")
    return share


def written_duration(seconds: float) -> str:
    """Seconds for reading: `500 ms`, `2 s`, `1.5 s`, `2 min`."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def written_size(size_bytes: int) -> str:
    """Bytes as the options take them: `64MiB`, `1000`."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size_bytes and size_bytes % 1024**power == 0:
            return f"{size_bytes // 1024**power}{unit}"
    return str(size_bytes)


def _bounded(text: str, value: int) -> int:
    if value > COUNT_MAX:
        raise QuantityError(f"{text!r}: larger than any machine can hold")
    return value
