"""Simulated time: a list of appointments, and a clock that jumps from one to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

US: Final = 1_000
MS: Final = 1_000_000
S: Final = 1_000_000_000


class Clock:
    """Nanoseconds since the world began. Appointments of one moment are kept in the order in which they were made."""

    __slots__ = ("_made", "agenda", "now")

    def __init__(self) -> None:
        self.now = 0
        self.agenda: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0

    def at(self, when: int, action: Callable[..., None], *args: Any) -> None:
        """`action(*args)` is done at `when`; at once, if that has passed."""
        self._made += 1
        heapq.heappush(self.agenda, (when, self._made, action, args))

    def after(self, delay: int, action: Callable[..., None], *args: Any) -> None:
        """`action(*args)` is done `delay` nanoseconds from now."""
        self._made += 1
        heapq.heappush(self.agenda, (self.now + delay, self._made, action, args))

    def step(self) -> bool:
        """Jumps to the next appointment and keeps it; False when there is none."""
        if not self.agenda:
            return False
        when, _, action, args = heapq.heappop(self.agenda)
        self.now = max(self.now, when)
        action(*args)
        return True

    def pass_until(self, when: int) -> None:
        """Keeps all appointments up to `when`, and jumps there."""
        agenda, pop = self.agenda, heapq.heappop
        while agenda and agenda[0][0] <= when:
            due, _, action, args = pop(agenda)
            self.now = max(self.now, due)
            action(*args)
        self.now = max(self.now, when)
