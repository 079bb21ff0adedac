"""Bodies in a file: read beside commits, by a connection that only reads, and row by row where the file is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relet.messages import Accepted
from relet.store import StoreFailed, StoreUnusable
from relet.store.file import PAGE_BYTES
from relet.store.sqlite import SqliteStore

A, B, C = (letter * 10_000 for letter in (b"a", b"b", b"c"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a store with three bodies that have rows of their own, the last job in the log beside them."""
    path = tmp_path / "jobs.db"
    store = SqliteStore(path, threaded=False, log_bytes_max=0)
    store.take_over(1)
    for number, body in enumerate((A, B, C, b"last"), start=1):
        store.append(number, [Accepted(number, (body,))])
    store.close()
    return path


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """It has been taken over."""
    store = SqliteStore(path, threaded=False, log_bytes_max=0)
    store.take_over(2)
    yield store
    store.close()


def test_a_read_waits_for_no_commit(store: SqliteStore) -> None:
    """The keeper's connection is in the middle of a transaction; what that does is not seen."""
    store._run("begin immediate")
    store._run("delete from bodies")
    assert store.bodies([1, 2, 3]) == [(A,), (B,), (C,)]
    store._run("commit")
    assert store.bodies([1, 2, 3]) == [None] * 3


def test_many_are_read_at_once(store: SqliteStore) -> None:
    """More than one statement takes, in the order in which they were asked for."""
    numbers = [*range(2_000, 0, -1)]
    found = store.bodies(numbers)
    assert len(found) == 2_000
    assert found[-3:] == [(C,), (B,), (A,)]
    assert not any(found[:-3])


def test_the_reader_cannot_write_and_does_not_checkpoint(store: SqliteStore) -> None:
    """docs/decisions/0013-kept-on-disk.md: "nothing but the keeper does": it is told so, and heeds it."""
    store.bodies([1])
    reader = store._reader
    assert reader is not None
    with pytest.raises(Exception, match="readonly"):
        reader.execute("delete from bodies")
    assert reader.execute("pragma wal_autocheckpoint").fetchone() == (0,)


def test_the_file_is_ours_until_the_end(path: Path) -> None:
    """To close a descriptor lets go of all locks that a process has on its file: the reader's is closed in time."""
    store = SqliteStore(path, threaded=False)
    store.take_over(2)
    assert store.bodies([1]) == [(A,)]
    with pytest.raises(StoreUnusable, match="in use"):
        SqliteStore(path)
    assert store.bodies([2]) == [(B,)]
    store.append(9, [Accepted(9, (b"late",))])
    store.close()
    assert not Path(f"{path}-wal").exists(), "the last one to close a file tidies up, and may write"


def test_one_damaged_row_takes_no_other_with_it(path: Path) -> None:
    """Its page cannot be read; the others are."""
    data = bytearray(path.read_bytes())
    for begin in range(0, len(data), PAGE_BYTES):
        if data[begin + 4 : begin + 2_000] == B[: 2_000 - 4]:  # it goes on there, behind the number of the next page
            data[begin : begin + 64] = b"\xff" * 64
    path.write_bytes(data)
    store = SqliteStore(path, threaded=False)
    assert len(list(store.load())) == 5, "a start does not look at bodies"
    store.take_over(2)
    assert store.bodies([1, 2, 3]) == [(A,), None, (C,)]
    store.close()


def test_a_body_that_was_cut_short_is_none(store: SqliteStore) -> None:
    """As SQLite sees it, all is well."""
    store._run("update bodies set frames = substr(frames, 1, 100) where number = 2")
    assert store.bodies([1, 2, 3]) == [(A,), None, (C,)]


def test_a_file_that_cannot_be_read_at_all(store: SqliteStore) -> None:
    """That is no damage of one body: whoever asked must stop."""
    store._run("drop table bodies")
    with pytest.raises(StoreFailed, match="cannot be read"):
        store.bodies([1])
