"""Every store that ships, for the exercise that each must pass as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from relet.core.effects import Notice
from relet.messages import Record, Records
from relet.store import BackupState, Store
from relet.store.memory import MemoryStore
from relet.store.sqlite import SqliteStore


class Restarted:
    """A store in a file, which each `load` opens anew, as a broker does that starts again. What is appended is safe
    when `append` returns.
    """

    name = "the store"
    full = False
    durable = True
    apart_bytes_min = SqliteStore.apart_bytes_min

    def __init__(self, path: Path, *, log_bytes_max: int) -> None:
        self._path, self._log_bytes_max = path, log_bytes_max
        self._epoch = 0
        self._open()

    def _open(self) -> None:
        self._epoch += 1
        self.store = SqliteStore(self._path, threaded=False, log_bytes_max=self._log_bytes_max)
        self.store.take_over(self._epoch)
        self.seal_key = self.store.seal_key

    def load(self) -> Iterable[Record]:
        """What the file holds."""
        self.store.close()
        self._open()
        return self.store.load()

    def take_notices(self) -> list[Notice]:
        """As the store."""
        return self.store.take_notices()

    def busy(self) -> bool:
        """As the store."""
        return self.store.busy()

    def append(self, turn: int, records: Records) -> None:
        """As the store."""
        self.store.append(turn, records)

    def settled(self) -> int:
        """As the store."""
        return self.store.settled()

    def promoted(self) -> int:
        """As the store."""
        return self.store.promoted()

    def bodies(self, numbers: Sequence[int]) -> list[tuple[bytes, ...] | None]:
        """As the store."""
        return self.store.bodies(numbers)

    def rings(self, ring: Callable[[], None]) -> None:
        """As the store."""
        self.store.rings(ring)

    def take_over(self, epoch: int) -> int:
        """As the store."""
        return self.store.take_over(epoch)

    def watch(self, free_bytes_min: int) -> None:
        """As the store."""
        self.store.watch(free_bytes_min)

    def back_up(self, path: str) -> BackupState:
        """As the store."""
        return self.store.back_up(path)

    def backup_state(self) -> BackupState | None:
        """As the store."""
        return self.store.backup_state()

    def close(self) -> None:
        """As the store."""
        self.store.close()


STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "memory, bodies apart": lambda _: MemoryStore(apart_bytes_min=1_000),
    "sqlite": lambda path: Restarted(path / "jobs.db", log_bytes_max=1 << 20),
    "sqlite without a log": lambda path: Restarted(path / "jobs.db", log_bytes_max=0),
}
"""A new one is added here. "Without a log": each commit promotes what the one before it brought."""


@pytest.fixture(params=STORES.values(), ids=STORES.keys())
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """One store after the other."""
    store: Store = request.param(tmp_path)
    yield store
    store.close()
