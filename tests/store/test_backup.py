"""A running store copies itself: in small steps, with commits in between, whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.store import example

from relet.events import Event
from relet.messages import Accepted
from relet.store import BackupRefused
from relet.store.file import give_name
from relet.store.memory import MemoryStore
from relet.store.sqlite import SqliteStore

SECONDS_MAX = 20.0
BODY = b"x" * 50_000
FREE = os.statvfs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with something of everything, and 20 MB of bodies."""
    path = tmp_path / "jobs.db"
    example.fill(path)
    store = SqliteStore(path, threaded=False, log_bytes_max=0)
    store.take_over(1)
    for turn in range(100, 120):
        store.append(turn, [Accepted(number, (BODY,)) for number in range(turn * 20, turn * 20 + 20)])
    store.close()
    return path


class Running:
    """A store whose commits run beside this thread, as a broker has it."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(path, log_bytes_max=100)
        self.turn = self.store.settled()
        for _ in self.store.load():
            pass
        self.store.take_over(1)
        self._rung = threading.Event()
        self.store.rings(self._rung.set)

    def commit(self) -> None:
        """One job more, and waits until it is safe."""
        self.turn += 1
        self._rung.clear()
        self.store.append(self.turn, [Accepted(100_000 + self.turn, (b"young",))])
        while self.store.settled() < self.turn:
            assert self._rung.wait(SECONDS_MAX)
            self._rung.clear()

    def is_running(self) -> bool:
        """Whether the copy is being made."""
        state = self.store.backup_state()
        return state is not None and state.state == "running"

    def wait(self) -> None:
        """Until it is not."""
        while self.is_running():
            self._rung.wait(0.01)


@pytest.fixture
def running(path: Path) -> Iterator[Running]:
    """Of that file."""
    running = Running(path)
    yield running
    running.store.close()


def test_a_copy_holds_what_was_settled_before_its_end(running: Running, tmp_path: Path) -> None:
    """docs/operations.md: "The copy is a store of its own, and holds all that was settled before its end"."""
    copy = tmp_path / "copy.db"
    state = running.store.back_up(str(copy))
    assert (state.path, state.state) == (str(copy), "running")
    before_end = first = running.turn
    while True:
        running.commit()
        if not running.is_running():
            break
        before_end = running.turn
        assert not copy.exists()
    done = running.store.backup_state()
    assert done is not None
    assert (done.state, done.done_bytes) == ("done", copy.stat().st_size)
    assert before_end > first + 10, "commits went on in between"
    assert sorted(it.name for it in tmp_path.iterdir() if "copy" in it.name) == ["copy.db"]
    assert copy.stat().st_mode & 0o777 == 0o600
    machine = example.machine_of(copy)
    numbers = {job.number for job in machine.jobs()}
    assert numbers >= {100_000 + turn for turn in range(first + 1, before_end + 1)}
    assert {1, 2, 3, 4, 7, 8, 11} < numbers
    assert [event for event, _ in running.store.take_notices()] == [Event.BACKUP_FINISHED]
    running.commit()
    running.store.close()
    copied, original = example.persisted_in(copy), example.persisted_in(running.store.path)
    assert copied[0] == {it: job for it, job in original[0].items() if it in numbers}
    assert copied[1:] == original[1:]


def test_a_broker_that_stops_leaves_no_half_copy(running: Running, tmp_path: Path) -> None:
    """What was begun under another name is gone."""
    running.store.back_up(str(tmp_path / "copy.db"))
    with pytest.raises(BackupRefused) as refused:
        running.store.back_up(str(tmp_path / "another.db"))
    assert refused.value.code == "busy"
    running.store.close()
    assert sorted(it.name for it in tmp_path.iterdir()) == ["jobs.db"]
    state = running.store.backup_state()
    assert state is not None
    assert (state.state, state.text) == ("failed", "the broker stopped before it was done")
    assert [event for event, _ in running.store.take_notices()] == [Event.BACKUP_FAILED]


def test_what_is_there_is_not_written_over(running: Running, tmp_path: Path) -> None:
    """Each reason has its code, and nothing is begun."""
    (tmp_path / "there.db").write_text("precious")
    (tmp_path / "cut.db.making").touch()
    for path, code in (
        (tmp_path / "there.db", "exists"),
        (tmp_path / "jobs.db", "exists"),
        (tmp_path / "cut.db", "exists"),
        (tmp_path / "no" / "copy.db", "bad_request"),
        (Path("copy.db"), "bad_request"),
    ):
        with pytest.raises(BackupRefused) as refused:
            running.store.back_up(str(path))
        assert refused.value.code == code
        assert str(path) in str(refused.value)
    assert running.store.backup_state() is None
    assert (tmp_path / "there.db").read_text() == "precious"
    with pytest.raises(BackupRefused, match="in memory"):
        MemoryStore().back_up("/copy.db")


def test_a_file_system_without_links_will_do(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the copy is renamed, where nobody else has the name."""

    def unlinked(made: object, path: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unlinked)
    running.store.back_up(str(tmp_path / "copy.db"))
    running.wait()
    assert example.machine_of(tmp_path / "copy.db").open == 407
    assert not list(tmp_path.glob("*.making"))
    with pytest.raises(FileExistsError):
        give_name(tmp_path / "jobs.db", tmp_path / "copy.db")


def test_a_copy_that_has_no_room_is_not_begun(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fill the disk of others."""

    def nearly_full(path: object) -> os.statvfs_result:
        there = list(FREE(tmp_path))
        there[4] = 100
        return os.statvfs_result(there)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    with pytest.raises(BackupRefused) as refused:
        running.store.back_up(str(tmp_path / "copy.db"))
    assert refused.value.code == "disk_full"
    assert not list(tmp_path.glob("copy*"))


def test_a_copy_that_fails_costs_the_store_nothing(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the copy is at fault; the broker goes on."""

    def broken(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", broken)
    running.store.back_up(str(tmp_path / "copy.db"))
    running.wait()
    state = running.store.backup_state()
    assert state is not None
    assert state.state == "failed"
    assert "No space left" in state.text
    running.commit()
    monkeypatch.undo()
    running.store.back_up(str(tmp_path / "copy.db"))
    running.wait()
    assert (tmp_path / "copy.db").exists()
