"""A store in memory: as true as any other while the process lives. It shows that the records are enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from relet.core.effects import Notice
from relet.core.job import COMPLETED
from relet.core.lease import NEVER
from relet.messages import (
    Accepted,
    Attempt,
    Evicted,
    Finished,
    Forgotten,
    Gone,
    KeyWindow,
    Numbered,
    QueueSet,
    Record,
    Records,
    Shared,
)
from relet.store import BackupRefused, BackupState


class _Row(msgspec.Struct):
    """The latest that is known of one job."""

    accepted: Accepted | None = None
    """None for an outcome that was kept after the job had been forgotten: its body was not kept."""
    attempt: Attempt | None = None
    shared: Shared | None = None
    finished: Finished | None = None


class MemoryStore:
    """Keeps one row for each job that is open or kept. Every turn is safe at once."""

    name = "the store"
    full = False
    durable = False
    seal_key = b""

    def __init__(self, *, apart_bytes_min: int = NEVER) -> None:
        """`apart_bytes_min`: bodies from this size on are asked for one by one; none, where nothing is said, because
        they are in memory either way.
        """
        self.apart_bytes_min = apart_bytes_min
        self._rows: dict[int, _Row] = {}
        self._evicted: Evicted | None = None
        self._queues: dict[str, QueueSet] = {}
        self._windows: dict[int, KeyWindow] = {}
        self._last = 0
        """The highest number of a job."""
        self._turn = 0

    def load(self) -> Iterator[Record]:
        """The settings of queues and what else is of no job, then the rows as records, by job number."""
        if self._last:
            yield Numbered(self._last)
        yield from self._queues.values()
        if self._evicted is not None:
            yield self._evicted
        yield from self._windows.values()
        for number in sorted(self._rows):
            row = self._rows[number]
            accepted = row.accepted
            if accepted is not None and sum(map(len, accepted.body)) >= self.apart_bytes_min:
                size, frames = sum(map(len, accepted.body)), len(accepted.body)
                accepted = msgspec.structs.replace(accepted, body=(), size=size, frames=frames)
            for record in (accepted, row.attempt, row.finished, row.shared):
                if record is not None:
                    yield record

    def append(self, turn: int, records: Records) -> None:
        """Applies the records; the last one about a job wins."""
        rows = self._rows
        for record in records:
            match record:
                case QueueSet(name, settings):
                    if settings is None:
                        self._queues.pop(name, None)
                    else:
                        self._queues[name] = record
                case Evicted():
                    self._evicted = record
                case KeyWindow(number, until_ms=until_ms):
                    if until_ms:
                        self._windows[number] = record
                    else:
                        self._windows.pop(number, None)
                case Shared(number):
                    if number in rows:
                        rows[number].shared = record
                case Accepted(number):
                    rows[number] = _Row(record)
                    self._last = max(self._last, number)
                case Numbered(last):
                    self._last = max(self._last, last)
                case Attempt(number):
                    rows[number].attempt = record
                case Finished(number, kept=kept, owed=owed):
                    if kept or owed:
                        rows.setdefault(number, _Row()).finished = record
                    else:
                        rows.pop(number, None)
                case Gone(numbers):
                    for number in numbers:
                        rows.pop(number, None)
                case Forgotten(number, kept, owed):
                    finished = rows[number].finished if number in rows else None
                    if finished is None:
                        continue
                    if kept or owed:
                        rows[number].finished = msgspec.structs.replace(finished, kept=kept, owed=owed)
                    else:
                        del rows[number]
        self._turn = turn

    def take_notices(self) -> list[Notice]:
        """Nothing ever happens in it."""
        return []

    def busy(self) -> bool:
        """Never: turns are taken as they come."""
        return False

    def settled(self) -> int:
        """The last turn."""
        return self._turn

    def promoted(self) -> int:
        """The last turn."""
        return self._turn

    def bodies(self, numbers: Sequence[int]) -> list[tuple[bytes, ...] | None]:
        """As they were accepted; that of a completed job is gone."""
        return [self._body(self._rows.get(number)) for number in numbers]

    def _body(self, row: _Row | None) -> tuple[bytes, ...] | None:
        if row is None or row.accepted is None or (row.finished is not None and row.finished.state == COMPLETED):
            return None
        return row.accepted.body

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
