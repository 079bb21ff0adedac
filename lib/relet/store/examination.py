"""Looks through a store that no broker has open, and makes it small. To look changes nothing."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from relet.core.job import DISCARDED
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.core.rebuilding import BadRecords
from relet.messages import INT_MAX, Record
from relet.store import StoreUnusable
from relet.store.file import DAMAGES, RESTORE, lock, reader_of, size_of, unusable, version_of
from relet.store.schema import TAGS
from relet.store.sqlite import SqliteStore

DAMAGES_MAX: Final = 20
"""Damages that are told, in one list; where there is one there may be thousands."""


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a store."""

    file: str
    format: int
    epoch: int = 0
    """Of the broker that had it last."""
    bytes: int
    """Of the file ..."""
    log_bytes: int
    """... and of the log that a killed broker has left beside it."""
    free_bytes: int = 0
    """Of the file, those that hold nothing."""
    jobs_open: int = 0
    dead_letters: int = 0
    evidence: int = 0
    """Outcomes that reached nobody, kept to be looked at."""
    outcomes: int = 0
    """Outcomes that may be asked for again; some are of dead letters."""
    queues: int = 0
    """Those with settings."""
    damages: tuple[str, ...] = ()
    """What is not as it was written; then nothing was counted."""


class Compacted(msgspec.Struct, frozen=True, kw_only=True):
    """What a store took, and takes."""

    file: str
    bytes_before: int
    """With the log beside it."""
    bytes: int


def examine(path: Path) -> Examined:
    """All that can be said of a file. Raises `StoreUnusable` where it is not ours to look at."""
    descriptor = lock(path, make=False)
    try:
        reader = reader_of(path)
        if reader is None:
            raise StoreUnusable("foreign", f"{path} is empty: no broker has used it yet")
        try:
            examined = _look_through(path, reader)
        finally:
            reader.close()
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    finally:
        os.close(descriptor)
    return examined if examined.damages else _count(path, examined)


def _look_through(path: Path, reader: sqlite3.Connection) -> Examined:
    version = version_of(path, reader)
    damages: list[str] = []
    for damage in _damages(reader):
        damages.append(damage)
        if len(damages) == DAMAGES_MAX:
            break
    return Examined(
        file=str(path),
        format=version,
        bytes=size_of(path),
        log_bytes=size_of(path, "-wal"),
        free_bytes=0 if damages else _free_bytes(reader),
        damages=tuple(damages),
    )


def _free_bytes(reader: sqlite3.Connection) -> int:
    (pages,) = reader.execute("pragma freelist_count").fetchone()
    (page_bytes,) = reader.execute("pragma page_size").fetchone()
    return int(pages * page_bytes)


def _damages(reader: sqlite3.Connection) -> Iterator[str]:
    try:
        for (line,) in reader.execute(f"pragma integrity_check({DAMAGES_MAX})"):
            if line != "ok":
                yield " ".join(line.split())
    except sqlite3.Error as error:
        yield str(error)
    turns = msgspec.msgpack.Decoder(list[Record]).decode
    one = msgspec.msgpack.Decoder(Record).decode
    frames = msgspec.msgpack.Decoder(tuple[bytes, ...]).decode
    for table, statement, decode in (
        ("turns", "select turn, records from turns order by turn", turns),
        ("jobs", "select key, record from jobs order by key", one),
        ("bodies", "select number, frames from bodies order by number", frames),
        ("queues", "select name, record from queues", one),
        ("windows", "select number, record from windows", one),
    ):
        name: Any = None
        try:
            for name, packed in reader.execute(statement):
                try:
                    record: Any = decode(packed)
                except DAMAGES as error:
                    yield f"{table} {name}: {error}"
                    continue
                if table == "jobs" and name != record.number * TAGS + record.__struct_config__.tag:
                    yield f"{table} {name}: it is a record of job {record.number}"
        except sqlite3.Error as error:
            yield f"{table} after {name}: {error}" if name is not None else f"{table}: {error}"


def _count(path: Path, examined: Examined) -> Examined:
    """What a broker would have, did it open the file."""
    store = SqliteStore(path, threaded=False, make=False)
    try:
        machine = Machine(iter(lambda: os.urandom(16), b""), limits=_everything(), began_ns=time.monotonic_ns())
        machine.wall_ns = time.time_ns() - time.monotonic_ns()
        machine.load(store.load(), time.monotonic_ns())
        kept = [letter.job for letter in machine.kept.entries.values()]
        dead = sum(job.state == DISCARDED for job in kept)
        return msgspec.structs.replace(
            examined,
            epoch=store.epoch,
            jobs_open=machine.open,
            dead_letters=dead,
            evidence=len(kept) - dead,
            outcomes=len(machine.requests.outcomes),
            queues=sum(queue.settings is not None for queue in machine.queues),
        )
    except BadRecords as error:
        return msgspec.structs.replace(examined, damages=(str(error),))
    except StoreUnusable as error:
        if error.code != "corrupt":
            raise
        return msgspec.structs.replace(examined, damages=(str(error),))
    finally:
        store.close()


def _everything() -> Limits:
    """Bounds that forget nothing of what is kept."""
    bounds = ("kept_jobs_max", "kept_bytes_max", "outcomes_max", "outcomes_bytes_max", "unique_windows_max")
    return Limits(**dict.fromkeys(bounds, INT_MAX))


def compact(path: Path) -> Compacted:
    """Gives back all that holds nothing. Raises `StoreUnusable`; then all is as it was."""
    store = SqliteStore(path, threaded=False, make=False)
    try:
        before = size_of(path) + size_of(path, "-wal")
        for _ in store.load():
            pass  # whoever writes to a file has read it before
        store.take_over(0)
        store.compact()
    finally:
        store.close()
    return Compacted(file=str(path), bytes_before=before, bytes=size_of(path) + size_of(path, "-wal"))


def check_restorable(path: Path) -> None:
    """Whether a broker could open it. Raises `StoreUnusable`."""
    examined = examine(path)
    if examined.damages:
        raise StoreUnusable("corrupt", f"{path} is damaged ({examined.damages[0]}): {RESTORE}")
