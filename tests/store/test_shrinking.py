"""What has gone leaves no trace in the size of a file; and what is kept for a while goes in small steps."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
from tests.store import example

from relet.core.job import COMPLETED, DISCARDED
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.messages import Accepted, Finished, Forgotten, Gone, Record
from relet.store import sqlite
from relet.store.file import PAGE_BYTES
from relet.store.memory import MemoryStore
from relet.store.sqlite import RESTING_PAGES_MAX, SqliteStore
from relet.testing import census
from relet.testing.stores import bodies_of

SECONDS_MAX = 20.0
S = 1_000_000_000


def opened(path: Path, **options: int) -> SqliteStore:
    """Taken over, without a thread."""
    store = SqliteStore(path, threaded=False, **options)
    for _ in store.load():
        pass
    store.take_over(1)
    return store


def buried(first: int, count: int, body: bytes) -> list[Record]:
    """Dead letters of jobs."""
    numbers = range(first, first + count)
    accepted: list[Record] = [Accepted(number, (body,)) for number in numbers]
    return accepted + [Finished(number, DISCARDED, "tries_spent", 3, True, ()) for number in numbers]


def sizes(path: Path) -> tuple[int, int]:
    """Of the file, and of the log beside it."""
    return path.stat().st_size, Path(f"{path}-wal").stat().st_size


@pytest.mark.parametrize("body", [b"small", b"x" * 1_500], ids=["small bodies", "large bodies"])
def test_20000_purged_jobs_leave_nothing(tmp_path: Path, body: bytes) -> None:
    """docs/operations.md: "Of a job that has ended, and whose outcome has expired, nothing is left"."""
    empty = opened(tmp_path / "empty.db")
    empty.append(1, [Gone((1,))])
    empty.rest()
    path = tmp_path / "jobs.db"
    store = opened(path)
    turns = itertools.count(1)
    for first in range(1, 20_000, 500):
        store.append(next(turns), buried(first, 500, body))
    store.rest()
    full, _ = sizes(path)
    assert full > 20_000 * len(body)
    for first in range(1, 20_000, 2_000):
        store.append(next(turns), [Gone(tuple(range(first, first + 2_000)))])
    store.rest()
    left, log = sizes(path)
    assert log == 0
    assert left <= sizes(tmp_path / "empty.db")[0] + (RESTING_PAGES_MAX + 2) * PAGE_BYTES
    store.close()
    empty.close()
    assert example.machine_of(path).number == 20_000


def test_a_busy_store_shrinks_along_with_its_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some pages with each trim of the log, never many at once; it need not rest for that."""
    path = tmp_path / "jobs.db"
    monkeypatch.setattr(sqlite, "SPARE_PAGES_MAX", 100)
    store = opened(path, log_bytes_max=30_000)
    turns = itertools.count(1)
    for first in range(1, 5_001, 500):
        store.append(next(turns), buried(first, 500, b"x" * 1_500))
    store.append(next(turns), [Gone(tuple(range(1, 5_001)))])
    shrunk: list[int] = []
    before = pages = store._run("pragma page_count").fetchone()[0]
    for number in range(30_000, 40_000, 100):
        numbers = range(number, number + 100)
        store.append(next(turns), [Accepted(each, (b"x" * 100,)) for each in numbers])
        store.append(next(turns), [Gone(tuple(numbers))])
        now = store._run("pragma page_count").fetchone()[0]
        shrunk.append(pages - now)
        pages = now
    assert max(shrunk) <= sqlite.SHRINK_PAGES + 8
    assert pages <= 100 + 50
    assert before > 3 * pages
    store.close()


def test_a_store_rests_when_nothing_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own thread, after a while; and a commit that comes meanwhile is made."""
    monkeypatch.setattr(sqlite, "IDLE_S", 0.02)
    path = tmp_path / "jobs.db"
    store = SqliteStore(path)
    store.take_over(1)
    rung = threading.Event()
    store.rings(rung.set)
    waited = threading.Event()
    turn = 0
    for round_ in range(3):
        for first in range(1, 5):
            turn += 1
            rung.clear()
            store.append(turn, buried(1_000 * round_ + 10 * first, 5, b"x" * 2_000))
            while store.settled() < turn:
                assert rung.wait(SECONDS_MAX)
                rung.clear()
        for _ in range(int(SECONDS_MAX / 0.01)):
            if store.promoted() == turn and sizes(path)[1] == 0:
                break
            waited.wait(0.01)
        assert (store.promoted(), sizes(path)[1]) == (turn, 0)
    store.close()
    assert len(example.machine_of(path).kept.entries) == 60


def test_rest_changes_nothing_that_is_kept(tmp_path: Path) -> None:
    """After each turn, or never: a machine that loads it is the same."""
    memory = MemoryStore()
    often = opened(tmp_path / "often.db")
    more: dict[int, list[Record]] = {
        20: [Accepted(30, (b"a",)), Accepted(31, (b"b" * 3_000,))],
        21: [Gone((30,))],
        22: [Finished(30, COMPLETED, "", 1, True, (), (b"nobody was told",)), Gone((6,))],
        23: [Finished(31, COMPLETED, "", 1, True, (), (b"x",), True)],
        24: [Forgotten(31, owed=True)],
    }
    for turn, records in (example.TURNS | more).items():
        memory.append(turn, records)
        often.append(turn, records)
        often.rest()
        assert not often._log
        assert not often._gone
        assert not often._skipped
    often.close()
    expected = census.persisted(example.loaded(memory), bodies_of(memory))
    assert example.persisted_in(tmp_path / "often.db") == expected


def test_a_full_disk_only_keeps_it_from_shrinking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To give back needs a little room; where there is none, the file stays as it is."""
    store = opened(tmp_path / "jobs.db")
    store.append(1, buried(1, 1_000, b"x" * 1_500))
    store.rest()
    store.append(2, [Gone(tuple(range(1, 1_001)))])
    while store._log:
        store._tidy()

    class Full(sqlite.sqlite3.OperationalError):
        sqlite_errorcode = sqlite.sqlite3.SQLITE_FULL

    run = store._run

    tries = 0

    def fails(statement: str, *values: object) -> object:
        nonlocal tries
        if "incremental_vacuum" in statement:
            tries += 1
            raise Full("database or disk is full")
        return run(statement, *values)

    monkeypatch.setattr(store, "_run", fails)
    store.rest()
    assert tries == 1
    monkeypatch.undo()
    store.append(3, [Accepted(2_000, (b"a",))])
    assert store.settled() == 3
    store.close()


# --- Retention, with a store


class Life:
    """A machine and its store, until the next one."""

    def __init__(self, path: Path, now: int, **limits: int) -> None:
        self.store = SqliteStore(path, threaded=False, log_bytes_max=10_000)
        tokens = (b"%016d" % number for number in itertools.count(1))
        self.machine = Machine(tokens, keeps_records=True, began_ns=now, limits=Limits(**limits))
        self.machine.wall_ns = 1_000_000 * S
        self.machine.load(self.store.load(), now)
        self.store.take_over(1)
        self.turn = self.store.settled()

    def settle(self) -> int:
        """Keeps what has happened; how many jobs that let go."""
        self.turn += 1
        records = self.machine.take_records(self.turn)
        self.store.append(self.turn, records)
        self.machine.settled(self.turn)
        return sum(len(record.numbers) for record in records if isinstance(record, Gone))


def test_what_is_too_old_goes_in_small_steps_across_restarts(tmp_path: Path) -> None:
    """docs/operations.md: "their age is counted across restarts"; a turn forgets at most `turn_steps_max`."""
    path = tmp_path / "jobs.db"
    store = opened(path)
    ended_ms = 1_000_000_000 + 1_000_000
    letters = [Finished(number, DISCARDED, "tries_spent", 3, True, (), ended_ms=ended_ms) for number in range(1, 2_001)]
    store.append(1, [*(Accepted(number, (b"x" * 1_100,)) for number in range(1, 2_001)), *letters])
    store.close()
    now, left = 1_000 * S, 2_000
    life = Life(path, now + 99 * S, kept_ns=100 * S, turn_steps_max=100)
    life.machine.expire(now + 99 * S)
    assert life.settle() == 0
    now += 101 * S
    while left:
        assert len(life.machine.kept.entries) == left
        for _ in range(3):  # turns of one life
            life.machine.expire(now)
            gone = life.settle()
            assert gone == min(100, left)
            left -= gone
        life.store.close()
        life = Life(path, now, kept_ns=100 * S, turn_steps_max=100)
    assert not life.machine.kept.entries
    life.store.rest()
    assert life.store._run("select count(*) from jobs").fetchone() == (0,)
    assert life.store._run("select count(*) from bodies").fetchone() == (0,)
    life.store.close()


@pytest.mark.parametrize("bound", [{"kept_jobs_max": 150}, {"kept_bytes_max": 150 * 1_100}])
def test_bounds_that_have_become_smaller_hold_after_a_restart(tmp_path: Path, bound: dict[str, int]) -> None:
    """By number and by bytes; the oldest go, from the file, too."""
    path = tmp_path / "jobs.db"
    store = opened(path)
    store.append(1, buried(1, 500, b"x" * 1_100))
    store.close()
    life = Life(path, 1_000 * S, **bound)
    kept = sorted(life.machine.kept.entries)
    assert 100 < len(kept) <= 150
    assert kept[-1] == 500
    life.settle()
    life.store.rest()
    assert life.store._run("select count(*) from bodies").fetchone() == (len(kept),)
    life.store.close()
    again = Life(path, 1_000 * S)
    assert sorted(again.machine.kept.entries) == kept
    again.store.close()
