"""A store whose disk is slow, settles several turns at once, or never; and that forgets in a crash what was not
safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from relet.core.effects import Notice
from relet.core.lease import NEVER
from relet.messages import Accepted, Body, JobBody, KeptBody, Record, Records
from relet.store import BackupRefused, BackupState, Store, StoreFailed
from relet.store.memory import MemoryStore


def _keys(records: Records) -> list[bytes]:
    return [record.body[0] for record in records if isinstance(record, Accepted) and record.body]


class LateStore:
    """Takes records at once and makes them safe when told to, by `settle`."""

    name = "the simulated store"
    full = False
    durable = False
    seal_key = b"the simulated store has this one"

    def __init__(
        self,
        on_append: Callable[[int], None] = lambda _turn: None,
        *,
        apart_bytes_min: int = NEVER,
        commits_one: bool = False,
    ) -> None:
        """`on_append` hears the number of each turn that brings records; `apart_bytes_min` as for `MemoryStore`;
        `commits_one`: nothing is taken until what was taken before is safe.
        """
        self._commits_one = commits_one
        self._given: set[bytes] = set()
        """By what claims know jobs: the first frames of their bodies."""
        self.apart_bytes_min = apart_bytes_min
        self.safe = MemoryStore(apart_bytes_min=apart_bytes_min)
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
        self._given.update(_keys(records))
        self._on_append(turn)

    def knows(self, key: bytes) -> bool:
        """It was given the acceptance of the job with this body, in this life of the broker or in one before."""
        return key in self._given

    def settle(self, turns: int = 1) -> None:
        """So many of the waiting turns are safe now."""
        for _ in range(min(turns, len(self.pending))):
            turn, records = self.pending.popleft()
            self.safe.append(turn, records)
            self.on_settled(records)

    def crash(self, survives: int = 0) -> None:
        """The process is gone: of the waiting turns only the first `survives` had reached the disk."""
        self.settle(survives)
        for _, records in self.pending:
            self._given.difference_update(_keys(records))
        self.pending.clear()

    def take_notices(self) -> list[Notice]:
        """Nothing ever happens in it."""
        return []

    def busy(self) -> bool:
        """A commit is under way, where there is one at a time; else turns are taken as they come."""
        return self._commits_one and bool(self.pending)

    def settled(self) -> int:
        """The last turn that is safe."""
        if self.fails:
            raise StoreFailed("the simulated disk is broken")
        return self.safe.settled()

    def promoted(self) -> int:
        """The same turn."""
        return self.safe.promoted()

    def bodies(self, numbers: Sequence[int]) -> list[tuple[bytes, ...] | None]:
        """Those that are safe."""
        return self.safe.bodies(numbers)

    def rings(self, ring: Callable[[], None]) -> None:
        """Nothing settles but when it is asked."""

    def take_over(self, epoch: int) -> int:
        """Any epoch: nobody else can have it."""
        return epoch

    def watch(self, free_bytes_min: int) -> None:
        """It has no disk."""

    def back_up(self, path: str) -> BackupState:
        """There is no file."""
        raise BackupRefused("no_store", f"{path} is not made: this broker keeps its jobs in memory")

    def backup_state(self) -> BackupState | None:
        """None was made."""
        return None

    def close(self) -> None:
        """Nothing to do."""


def bodies_of(store: Store) -> Callable[[JobBody], Body]:
    """Finds what a job carries, in memory or in this store. That raises `LookupError` where it is in neither."""

    def frames_of(body: JobBody) -> Body:
        if not isinstance(body, KeptBody):
            return body
        frames = store.bodies([body.number])[0]
        if frames is None:
            raise LookupError(f"the body of job {body.number} is neither in memory nor in the store")
        return frames[0] if len(frames) == 1 else frames

    return frames_of
