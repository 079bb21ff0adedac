"""What may go out of a queue, beyond whose turn it is: so many jobs at a time, and so many a second.

A rate is a token bucket, kept as one moment: that at which it would be full again, were nothing taken. Each job moves
it on by `interval_ns`, and the next may go as soon as it lies no further ahead than the burst allows. So in any time
no more go than the burst and what the rate gives in it, nothing has to be counted down, and a bucket that is full is
known by its moment being over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from relet.core.settings import QueueSettings


class Pace(msgspec.Struct, frozen=True, gc=False):
    """A rate."""

    interval_ns: int
    """From one job to the next, in the long run; rounded up, so that no rate is exceeded."""
    ahead_ns: int
    """How far ahead the moment may lie at which the bucket is full, and one more may go."""

    def free_at(self, full_at: int) -> int:
        """When one more may go."""
        return full_at - self.ahead_ns

    def spent(self, full_at: int, now: int) -> int:
        """One more goes: when the bucket is full now."""
        return max(full_at, now) + self.interval_ns


class Allowance(msgspec.Struct, frozen=True, gc=False):
    """The limits of one queue."""

    in_flight_max: int | None
    key_in_flight_max: int | None
    pace: Pace | None
    key_pace: Pace | None

    @property
    def counts(self) -> bool:
        """Whether it has to be known how many jobs are with workers."""
        return self.in_flight_max is not None or self.key_in_flight_max is not None


def allowance(settings: QueueSettings | None) -> Allowance | None:
    """The limits that these settings say; None: there are none."""
    if settings is None:
        return None
    pace = _pace(settings.rate, settings.burst)
    key_pace = _pace(settings.key_rate, settings.key_burst)
    allowed = Allowance(settings.in_flight_max, settings.key_in_flight_max, pace, key_pace)
    return allowed if allowed.counts or pace is not None or key_pace is not None else None


def _pace(rate: float | None, burst: int | None) -> Pace | None:
    """`rate` jobs a second, `burst` at once; None: as many as in a second."""
    if rate is None:
        return None
    interval_ns = int(-(-1e9 // rate))
    return Pace(interval_ns, ((burst or max(1, int(rate))) - 1) * interval_ns)
