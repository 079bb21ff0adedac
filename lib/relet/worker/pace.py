"""How many jobs to ask for ahead of the one in hand.

A worker that asks only when it is idle waits for the way to the broker and back with every job. Jobs asked for ahead
hide that way, but each lies with this worker while another might do it, and is lost for a while when this worker dies.
So the worker asks ahead for a fixed time's worth of work, longer than the way takes and shorter than anybody notices:
thousands of tiny jobs, two of ten milliseconds, and none where a job takes a second, of which the way is nothing.
A worker that does several at a time asks for one for each place, always, and ahead for that time's worth of all places.

Who has that much ahead need not tell of the end of each job at once, either. A report that goes alone wakes the broker
and the client, and what comes back for it wakes the worker, for a job that may be shorter than all of that. So, while
several jobs end in the time of a *rest* and there is work for longer than that, the worker speaks once a rest.

How long a job takes is learnt from those that have ended, the latest ones most. A worker that knows little asks for
little: never more ahead than it has done already.
"""

from __future__ import annotations

from typing import Final

AHEAD_MAX: Final = 1_000
"""Jobs that one worker may ask for or hold, because brokers bound them too."""
WORK_NS: Final = 15_000_000
"""How much work to have ahead: several times the way to a broker, also on a busy machine."""
ALONE_NS: Final = 1_000_000_000
"""From this long on, a job is fetched when the one before has ended: the way is a thousandth of it."""
REST_NS: Final = WORK_NS // 5
"""From one turn to the next while there is plenty to do, and the most that a report then waits."""
RESTED_MIN: Final = 2
"""Jobs that have to end in a rest, or it is of no use."""
MEMORY: Final = 0.875
"""What the mean of the past weighs when one more job has ended: about eight jobs are remembered."""


class Pace:
    """What the past says about how far ahead to ask.

    Args:
        fixed: always so many, `places` to `AHEAD_MAX`; None: learn it.
        places: jobs that are done at a time, 1 to `AHEAD_MAX`.
    """

    def __init__(self, fixed: int | None = None, places: int = 1) -> None:
        if not 1 <= places <= AHEAD_MAX:
            raise ValueError(f"concurrency must be between 1 and {AHEAD_MAX}, not {places}")
        if fixed is not None and not 1 <= fixed <= AHEAD_MAX:
            raise ValueError(f"ahead must be between 1 and {AHEAD_MAX}, not {fixed}")
        if fixed is not None and fixed < places:
            raise ValueError(f"ahead counts the jobs in hand, too: with concurrency {places} not {fixed}, but {places}")
        self.ahead = places if fixed is None else fixed
        """Jobs to have asked for or hold, those in hand among them."""
        self.places = places
        self.mean_ns = 0.0
        """How long a job takes; 0 while nothing is known."""
        self._fixed = fixed is not None
        self._ended = 0

    def ended(self, count: int, busy_ns: int) -> None:
        """So many jobs have ended, after so many nanoseconds in the handler's hands, all together."""
        if self._fixed or count <= 0:
            return
        mean = busy_ns / count
        past = MEMORY**count if self._ended else 0.0
        self._ended += count
        self.mean_ns = past * self.mean_ns + (1 - past) * mean
        places = self.places
        if self.mean_ns >= ALONE_NS:
            self.ahead = places
        else:
            work_ns = places * WORK_NS
            wanted = AHEAD_MAX if self.mean_ns * AHEAD_MAX <= work_ns else -int(-work_ns // self.mean_ns)
            self.ahead = min(AHEAD_MAX, places + max(1, min(wanted, self._ended) - 1))

    def rest_ns(self, held: int) -> int:
        """How long the worker may keep to itself what has ended, while so many jobs wait that were not begun."""
        each = self.mean_ns / self.places
        return REST_NS if each * RESTED_MIN <= REST_NS and each * held >= 2 * REST_NS else 0
