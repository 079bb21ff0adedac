"""Times as people write them: `2`, `0.5`, `500ms`, `30s`, `5m`, `1h`, `2d`.

Command lines, files with settings, and programs all take them, so they are read in one place.
"""

from __future__ import annotations

import re
from typing import Final

NUMBER: Final = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
QUANTITY: Final = re.compile(
    rf"(?P<sign>[+-]?)(?P<number>{NUMBER})(?:[eE](?P<power>[+-]?[0-9]{{1,3}}))?\s*(?P<unit>[a-zA-Z%]*)"
)
"""A number with what stands behind it."""
SECONDS: Final = {"": 1.0, "ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
DURATION_SECONDS_MIN: Final = 1e-3
"""A poll waits whole milliseconds, so that a shorter time could not be kept."""
DURATION_SECONDS_MAX: Final = 10 * 365 * 86400.0
"""Ten years: who waits for longer has mistaken the unit."""


class DurationError(ValueError):
    """A text that is no time, or none that can be kept; the message is one line that says what to write instead."""


def seconds_of(text: str) -> float:
    """Seconds, from 0 to `DURATION_SECONDS_MAX`. Raises `DurationError`."""
    found = QUANTITY.fullmatch(text.strip())
    if text.strip().lower().lstrip("+-") in {"nan", "inf", "infinity"}:
        raise DurationError(f"{text!r}: no time at all; write for example 500ms, 2s or 1m")
    if found is None or found["unit"] not in SECONDS:
        raise DurationError(f"{text!r:.100} is no duration; write seconds (2, 0.5), or 500ms, 2s, 1m, 1h")
    seconds = float(found["number"] + (f"e{found['power']}" if found["power"] else "")) * SECONDS[found["unit"]]
    if found["sign"] == "-" and seconds != 0:
        raise DurationError(f"{text!r}: time does not run backwards; write for example 500ms or 2s")
    if 0 < seconds < DURATION_SECONDS_MIN or (seconds == 0 and found["number"].strip("0.")):
        raise DurationError(f"{text!r}: shorter than can be kept; the shortest is 1ms")
    if seconds > DURATION_SECONDS_MAX:
        raise DurationError(f"{text!r:.100}: longer than ten years")
    return seconds
