"""A power cut at every write, in small; `make crashes` plays the large one (`crash_images.py`)."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest

from relet.store.sqlite import SqliteStore

from . import disk
from .crash_images import BAD, World, memory, play
from .history import History, held, known


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim."""
    try:
        return disk.compiled(tmp_path_factory.mktemp("disk"))
    except disk.NoCompiler as error:
        pytest.skip(str(error))


def test_a_power_cut_at_any_write_loses_nothing(library: Path) -> None:
    """Promise 2: on each disk that a power cut can leave is all that was acknowledged, and nothing that never was."""
    tally, complaints = play("short/1", 400, library=library, share=0.1)
    assert complaints == []
    assert tally["whole"] == tally["images"] >= 400


@pytest.mark.parametrize("sync", ["normal", "off"])
def test_without_full_sync_power_cuts_lose_what_was_acknowledged(library: Path, sync: str) -> None:
    """So the documents say; and so the images show that they can show a loss."""
    tally, complaints = play("short/1", 100, library=library, sync=sync, share=0.3)
    assert tally["lost"] > 0
    assert len(complaints) == sum(tally[verdict] for verdict in BAD)


@pytest.mark.parametrize("number", [5, 7, 10, 11, 12, 13, 14])
def test_a_sync_that_failed_once_loses_nothing(library: Path, number: int) -> None:
    """Found by images: the switch to a write-ahead log had failed unnoticed; the log that the next broker read was in
    memory alone; an old log came back beside a newer file.
    """
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        world = World(f"sync/{number}", library, Path(folder))
        world.process(4, f"eio sync {number}", closes=False)
        world.process(4)
    assert world.tally["faults"] == 1
    assert world.complaints == []


def test_any_store_knows_after_a_restart_what_the_memory_store_knows(tmp_path: Path) -> None:
    """Histories of turns at random: what is promoted, trimmed and deleted changes nothing of what is known."""
    for seed in range(20):
        path, log_bytes_max = tmp_path / f"{seed}.db", seed % 3 * 2_000
        history = History(random.Random(seed))
        store = SqliteStore(path, sync="off", threaded=False, log_bytes_max=log_bytes_max)
        store.take_over(1)
        for turn, records in (history.next() for _ in range(60)):
            store.append(turn, records)
        store.close()
        store = SqliteStore(path, sync="off", threaded=False)
        assert known(held(store)) == history.known()
        assert store.settled() == history.turn
        store.close()


# --- The disk itself


def _disk(*events: disk.Event) -> disk.Disk:
    it = disk.Disk({"old": b"o" * 1_024})
    for event in (disk.Event("O", 1, 0, b""), disk.Event("O", 2, 0, b"old"), *events):
        it.follow(event)
    return it


def _left(it: disk.Disk) -> list[disk.Image]:
    return [it.after_power_cut(random.Random(seed)) for seed in range(300)]


def test_what_was_synced_is_there_and_no_more_is_certain() -> None:
    """A write is there after its sync; before it each of its sectors may be there, or not."""
    it = _disk(disk.Event("W", 2, 0, b"n" * 1_024))
    contents = {image["old"] for image in _left(it)}
    assert {b"o" * 1_024, b"n" * 1_024, b"n" * 512 + b"o" * 512, b"o" * 512 + b"n" * 512} <= contents
    it.follow(disk.Event("S", 2, 0, b""))
    assert {image["old"] for image in _left(it)} == {b"n" * 1_024}


def test_a_size_is_as_unsafe_as_what_is_written() -> None:
    """A file that grew may be as short as before, or long and full of zeros or of anything; or not cut yet."""
    it = _disk(disk.Event("W", 2, 1_024, b"n" * 512))
    grown = {image["old"][1_024:] for image in _left(it)}
    assert {b"", b"n" * 512, bytes(512)} <= grown
    assert len(grown) > 3
    it = _disk(disk.Event("T", 2, 512, b""))
    assert {len(image["old"]) for image in _left(it)} == {512, 1_024}


def test_names_are_safe_when_their_folder_was_synced() -> None:
    """Files that were made or removed may be there, or not."""
    it = _disk(disk.Event("O", 3, 0, b"new"), disk.Event("U", 0, 0, b"old"))
    assert {tuple(sorted(image)) for image in _left(it)} == {(), ("new",), ("old",), ("new", "old")}
    it.follow(disk.Event("S", 1, 0, b""))
    assert [set(image) for image in _left(it)] == [{"new"}] * 300


def test_what_a_failed_sync_gave_up_is_safe_only_when_it_is_written_again() -> None:
    """Though the next sync says that all is well."""
    it = _disk(disk.Event("W", 2, 0, b"n" * 512), disk.Event("F", 2, 0, b""), disk.Event("S", 2, 0, b""))
    assert it.now()["old"][:512] == b"n" * 512
    assert {image["old"][:512] for image in _left(it)} == {b"o" * 512, b"n" * 512}
    it.follow(disk.Event("W", 2, 0, b"n" * 512))
    it.follow(disk.Event("S", 2, 0, b""))
    assert {image["old"][:512] for image in _left(it)} == {b"n" * 512}
