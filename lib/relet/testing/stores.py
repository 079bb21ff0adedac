"""A store whose disk is slow, settles several turns at once, or never; and that forgets in a crash what was not
safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from relet.core.effects import Notice
from relet.messages import Record, Records
from relet.store import BackupRefused, BackupState, StoreFailed
from relet.store.memory import MemoryStore


class LateStore:
    """Takes records at once and makes them safe when told to, by `settle`."""

    name = "the simulated store"
    durable = False

    def __init__(self, on_append: Callable[[int], None] = lambda _turn: None) -> None:
        """`on_append` hears the number of each turn that brings records."""
        self.safe = MemoryStore()
        """What would be found after a crash."""
        self.pending: deque[tuple[int, Records]] = deque()
        """Turns that are not safe yet."""
        self.on_settled: Callable[[Records], None] = lambda _records: None
        """Hears the records of each turn as it becomes safe."""
        self.fails = False
        self._on_append = on_append

    def load(self) -> Iterable[Record]:
        """What is safe."""
        return self.safe.load()

    def append(self, turn: int, records: Records) -> None:
        """Takes the records of a turn."""
        if self.fails:
            raise StoreFailed("the simulated disk is broken")
        if self.pending and turn <= self.pending[-1][0]:
            raise AssertionError(f"turn {turn} came after turn {self.pending[-1][0]}")
        self.pending.append((turn, list(records)))
        self._on_append(turn)

    def settle(self, turns: int = 1) -> None:
        """So many of the waiting turns are safe now."""
        for _ in range(min(turns, len(self.pending))):
            turn, records = self.pending.popleft()
            self.safe.append(turn, records)
            self.on_settled(records)

    def crash(self, survives: int = 0) -> None:
        """The process is gone: of the waiting turns only the first `survives` had reached the disk."""
        self.settle(survives)
        self.pending.clear()

    def take_notices(self) -> list[Notice]:
        """Nothing ever happens in it."""
        return []

    def busy(self) -> bool:
        """Never: turns are taken as they come."""
        return False

    def settled(self) -> int:
        """The last turn that is safe."""
        if self.fails:
            raise StoreFailed("the simulated disk is broken")
        return self.safe.settled()

    def rings(self, ring: Callable[[], None]) -> None:
        """Nothing settles but when it is asked."""

    def take_over(self, epoch: int) -> int:
        """Any epoch: nobody else can have it."""
        return epoch

    def back_up(self, path: str) -> BackupState:
        """There is no file."""
        raise BackupRefused("no_store", f"{path} is not made: this broker keeps its jobs in memory")

    def backup_state(self) -> BackupState | None:
        """None was made."""
        return None

    def close(self) -> None:
        """Nothing to do."""
