"""Whether the disk of a store has room for new jobs. What it keeps free is for the ends of those that are open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from relet.core.effects import Notice
from relet.events import Event

AGAIN_QUARTERS: Final = 5
"""New jobs are taken again when so many quarters of the bound are free: not with each byte that comes and goes."""


class Room:
    """The free bytes of one file system."""

    def __init__(self, path: Path, free_bytes_min: int = 0) -> None:
        """`free_bytes_min`: below it the disk counts as full; 0: never."""
        self.full = False
        self._path = path
        self._folder = path.absolute().parent
        self._min = free_bytes_min

    def look(self) -> Notice | None:
        """Looks again, in about 2 us; what has changed."""
        if not self._min:
            return None
        try:
            there = os.statvfs(self._folder)
        except OSError:
            return None  # then commits fail, too, and say so
        free = there.f_bavail * there.f_frsize
        if self.full == (free < (AGAIN_QUARTERS * self._min // 4 if self.full else self._min)):
            return None
        self.full = not self.full
        event = Event.DISK_FILLED if self.full else Event.DISK_CLEARED
        return event, {"store": str(self._path), "free_bytes": free, "free_bytes_min": self._min}
