"""A disk that fills up: new jobs are refused before it is full, open ones end, and service resumes by itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from relet import Broker, Client, JobRefused, Limits, Worker
from relet.events import Event
from relet.messages import Accepted
from relet.store import StoreFailed, sqlite
from relet.store.room import Room
from relet.store.sqlite import SqliteStore

MIB = 1 << 20
SECONDS_MAX = 20.0
STATVFS = os.statvfs


class Disk:
    """A disk with as much room as a test says."""

    def __init__(self) -> None:
        self.free = 1_000 * MIB
        self.looks = 0

    def statvfs(self, path: Any) -> os.statvfs_result:
        """As `os.statvfs`, but for the room."""
        self.looks += 1
        fields = list(STATVFS(path))
        fields[1], fields[4] = 1, self.free
        return os.statvfs_result(fields)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """In the place of all."""
    disk = Disk()
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    return disk


def test_it_does_not_flap(disk: Disk, tmp_path: Path) -> None:
    """docs/operations.md: "When a quarter more than the bound is free, new jobs are taken again"."""
    room = Room(tmp_path / "jobs.db", 64 * MIB)
    told = []
    for mib in (64, 63, 65, 79, 80, 70, 64, 63, 90):
        disk.free = mib * MIB
        notice = room.look()
        told.append((mib, room.full, notice and notice[0]))
    assert told == [
        (64, False, None),
        (63, True, Event.DISK_FILLED),
        (65, True, None),
        (79, True, None),
        (80, False, Event.DISK_CLEARED),
        (70, False, None),
        (64, False, None),
        (63, True, Event.DISK_FILLED),
        (90, False, Event.DISK_CLEARED),
    ]


def test_nobody_looks_where_there_is_no_bound(disk: Disk, tmp_path: Path) -> None:
    """`--disk-free-bytes-min 0`: "it is not looked at"."""
    disk.free = 0
    room = Room(tmp_path / "jobs.db", 0)
    assert room.look() is None
    assert (room.full, disk.looks) == (False, 0)


def test_a_store_looks_with_each_commit(disk: Disk, tmp_path: Path) -> None:
    """And when it is told to; a disk that cannot be asked changes nothing."""
    store = SqliteStore(tmp_path / "jobs.db", threaded=False)
    store.take_over(1)
    store.append(1, [Accepted(1, (b"a",))])
    assert (disk.looks, store.full) == (0, False)
    disk.free = 10 * MIB
    store.watch(64 * MIB)
    assert store.full
    disk.free = 100 * MIB
    store.append(2, [Accepted(2, (b"a",))])
    assert not store.full
    assert [event for event, _ in store.take_notices()] == [Event.DISK_FILLED, Event.DISK_CLEARED]
    store.close()


class Log:
    """What a broker says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, _level: int, event: str, /, **_fields: Any) -> None:
        """As structlog."""
        self.said.append(event)


def eventually(is_so: Callable[[], bool]) -> None:
    """Waits for the broker's thread."""
    waited = threading.Event()
    for _ in range(int(SECONDS_MAX / 0.02)):
        if is_so():
            return
        waited.wait(0.02)
    raise AssertionError("it never was so")


@pytest.fixture
def log() -> Log:
    """Of the broker."""
    return Log()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path


@pytest.fixture
def broker(folder: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """With a store, which looks after a full disk more often than every second."""
    monkeypatch.setattr(sqlite, "LOOK_S", 0.05)
    limits = Limits(disk_free_bytes_min=2 * MIB)
    with Broker(":0", ":0", ":0", store=folder / "jobs.db", limits=limits, log=log, drain=0.0) as broker:
        yield broker


def ask_2010(broker: Broker, body: bytes) -> bytes:
    """A client of 2010 and its answer."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger, socket.rcvtimeo = 0, int(SECONDS_MAX * 1_000)
        socket.connect(broker.endpoints["clients"])
        socket.send(body)
        return socket.recv()


def test_open_jobs_end_on_a_full_disk_and_new_ones_wait(disk: Disk, broker: Broker, log: Log) -> None:
    """docs/operations.md: "they go on, and their ends are kept"; a `Client` waits and asks again by itself."""
    worker = Worker(broker.endpoints["workers"], handler=lambda body: b"did " + body)
    thread = threading.Thread(target=worker.run)
    try:
        with Client(broker.endpoints["clients"], timeout=SECONDS_MAX) as client:
            first = client.submit(b"first")
            eventually(lambda: broker.jobs_open == 1)
            disk.free = MIB
            second = client.submit(b"second")  # its commit finds the disk full, or that of the first has
            eventually(lambda: "disk_filled" in log.said)
            third = client.submit(b"third")
            eventually(lambda: broker.counters.requests_refused > 0)
            assert ask_2010(broker, b"of 2010") == b""
            assert broker.jobs_open <= 2
            thread.start()
            assert first.result(SECONDS_MAX) == b"did first"
            assert not third.done()
            disk.free = 100 * MIB
            assert second.result(SECONDS_MAX) == b"did second"
            assert third.result(SECONDS_MAX) == b"did third"
            assert ask_2010(broker, b"of 2010") == b"did of 2010"
    finally:
        worker.stop()
        thread.join(SECONDS_MAX)
    assert [it for it in log.said if it.startswith("disk_")] == ["disk_filled", "disk_cleared"]


def test_a_broker_that_starts_on_a_full_disk_says_so(disk: Disk, folder: Path, log: Log) -> None:
    """The first job is refused already."""
    disk.free = MIB
    limits = Limits(disk_free_bytes_min=2 * MIB)
    with Broker(":0", ":0", ":0", store=folder / "jobs.db", limits=limits, log=log, drain=0.0) as broker:
        assert "disk_filled" in log.said
        assert ask_2010(broker, b"a") == b""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; skipped where none may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestARealDisk:
    """The same on a file system that is really full."""

    @pytest.fixture
    def folder(self, small: Path) -> Path:
        """Of 8 MiB."""
        return small

    def test_it_fills_and_clears(self, broker: Broker, log: Log, folder: Path) -> None:
        """Jobs are taken until 2 MiB are left; all of them end; then there is room, because somebody makes it."""
        ballast = folder / "of somebody else"
        ballast.write_bytes(b"x" * 2 * MIB)
        with Client(broker.endpoints["clients"], timeout=SECONDS_MAX) as client:
            futures = []
            while "disk_filled" not in log.said:
                futures.append(client.submit(b"x" * 100_000))
                eventually(lambda: "disk_filled" in log.said or broker.counters.jobs_accepted == len(futures))
            assert len(futures) > 10
            late = client.submit(b"late")
            worker = Worker(broker.endpoints["workers"], handler=lambda body: b"%d" % len(body))
            thread = threading.Thread(target=worker.run)
            thread.start()
            try:
                for future in futures[: broker.counters.jobs_accepted]:
                    assert future.result(SECONDS_MAX) == b"100000"
                ballast.unlink()
                assert late.result(SECONDS_MAX) == b"4"
            finally:
                worker.stop()
                thread.join(SECONDS_MAX)
        assert log.said.count("disk_cleared") >= 1

    def test_a_commit_that_fails_all_the_same_is_a_failed_commit(self, folder: Path) -> None:
        """To the last byte: `StoreFailed`, nothing of it settles, and what was settled is there when there is room."""
        store = SqliteStore(folder / "jobs.db", threaded=False)
        store.take_over(1)
        store.append(1, [Accepted(1, (b"safe",))])
        ballast = folder / "of somebody else"
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while os.write(file.fileno(), b"x" * 4_096):
                pass
        with pytest.raises(StoreFailed, match="full"):
            store.append(2, [Accepted(2, (b"x" * MIB,))])
        with pytest.raises(StoreFailed):
            store.settled()
        store.close()
        ballast.unlink()
        store = SqliteStore(folder / "jobs.db", threaded=False)
        assert store.settled() == 1
        assert [it.number for it in store.load() if isinstance(it, Accepted)] == [1]
        store.close()


def test_a_client_that_would_not_wait_is_told(disk: Disk, folder: Path, log: Log) -> None:
    """Within its timeout."""
    disk.free = MIB
    limits = Limits(disk_free_bytes_min=2 * MIB)
    with (
        Broker(":0", ":0", ":0", store=folder / "jobs.db", limits=limits, log=log, drain=0.0) as broker,
        Client(broker.endpoints["clients"], timeout=0.3) as client,
        pytest.raises((JobRefused, TimeoutError)),
    ):
        client.call(b"a")
