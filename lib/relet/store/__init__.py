"""Stores keep the records of the machine. `Store` is the seam; every store passes one exercise (`tests/store/`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from relet.messages import Record, Records

__all__ = ["Store", "StoreFailed"]


class StoreFailed(Exception):
    """The store did not keep what it was given: the broker acknowledges nothing more and stops."""


class Store(Protocol):
    """Keeps records, turn by turn. Nothing here blocks for longer than it takes to hand over."""

    def load(self) -> Iterable[Record]:
        """What was kept, as records from which `Machine.load` builds the same jobs again, in the same order. With
        `Numbered`, the highest number that a job was accepted with, which outlives all that is known of the job.
        """

    def append(self, turn: int, records: Records) -> None:
        """Takes the records of a turn. Turns only grow. Raises `StoreFailed`."""

    def settled(self) -> int:
        """The last turn that is safe, and all before it; 0 when none is. Raises `StoreFailed`."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when `settled` may have grown; -1 when there is nothing to wait for."""

    def close(self) -> None:
        """Makes safe what can be made safe, and ends."""
