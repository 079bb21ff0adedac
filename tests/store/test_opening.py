"""Files that a broker opens, of every format; and those that it cannot have: a line, a code, and not a byte changed."""

from __future__ import annotations

import gzip
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.cli.conftest import Start, start
from tests.store import example

from relet.broker import Broker
from relet.cli.exits import Exit
from relet.core.seals import KEY_BYTES
from relet.messages import Accepted, Attempt
from relet.store import StoreUnusable, file, schema, sqlite
from relet.store.memory import MemoryStore
from relet.store.sqlite import SqliteStore
from relet.testing import census
from relet.testing.stores import bodies_of

__all__ = ["start"]

BESIDE = ("", "-wal", "-journal")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with something of everything."""
    path = tmp_path / "store" / "jobs.db"
    path.parent.mkdir()
    example.fill(path)
    return path


def contents(path: Path) -> dict[str, bytes]:
    """All that matters of a file: what lies beside it is not counted where it is empty."""
    beside = {it: Path(f"{path}{it}") for it in BESIDE}
    return {it: data for it, there in beside.items() if there.is_file() and (data := there.read_bytes())}


def refused(start: Start, path: Path) -> tuple[int, str]:
    """How `broker.py --store` ends, and its one line; nothing of the file is another than before."""
    before = contents(path)
    program = start("broker.py", "--store", str(path), "0", "0", "0")
    code = program.end()
    assert contents(path) == before
    (line,) = program.err.text.splitlines()
    assert line.startswith("broker.py: ")
    assert str(path) in line
    return code, line


def write(path: Path, *statements: str, **values: object) -> None:
    """What somebody else does to a file."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement, values)
    connection.close()


def killed(path: Path) -> None:
    """Makes of a file one whose broker was killed: its last commits lie in the log beside it alone."""
    store = SqliteStore(path, threaded=False)
    store.take_over(99)
    store.append(50, [Accepted(50, (b"the last",))])
    copies = {it: Path(f"{path}{it}").read_bytes() for it in ("", "-wal")}
    store.close()
    for it, data in copies.items():
        Path(f"{path}{it}").write_bytes(data)


# --- Files that are opened


@pytest.mark.parametrize("kept", sorted(example.FILES.glob("*.db.gz")), ids=lambda it: it.name.removesuffix(".db.gz"))
def test_files_of_every_format_are_opened(kept: Path, tmp_path: Path) -> None:
    """docs/operations.md: "it opens files of every earlier format": and nothing in them is lost."""
    path = tmp_path / "jobs.db"
    path.write_bytes(gzip.decompress(kept.read_bytes()))
    memory = MemoryStore()
    for turn, records in example.TURNS.items():
        memory.append(turn, records)
    before = contents(path)
    store = SqliteStore(path, threaded=False)
    expected = example.loaded(memory)
    assert census.persisted(example.loaded(store), bodies_of(store)) == census.persisted(expected)
    store.close()
    assert contents(path) == before, "who only reads changes nothing"
    store = SqliteStore(path, threaded=False)
    assert store.take_over(1) == 78
    store.append(store.settled() + 1, [Attempt(1, 2, b"token-of-the-1st", 1, 7, ())])
    store.close()
    machine = example.machine_of(path)
    assert {job.number: job.handovers for job in machine.jobs()}[1] == 7
    assert machine.number == expected.number


def test_there_is_a_file_of_this_format() -> None:
    """store/schema.py: "Make a file of the old version with the old code": before the format changes, not after."""
    assert {it.name for it in example.FILES.glob("*.db.gz")} == {
        f"format-{version}.db.gz" for version in range(1, schema.VERSION + 1)
    }


def _of_format_two(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (*schema.STEPS, ("create table another (name text primary key)", "insert into another values ('x')"))
    monkeypatch.setattr(sqlite, "STEPS", steps)
    for module in (sqlite, file):
        monkeypatch.setattr(module, "VERSION", len(steps))


def test_an_upgrade_says_what_it_took(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of all later formats are done at once, in one transaction, and the broker says so."""
    _of_format_two(monkeypatch)
    said: list[tuple[str, object]] = []

    class Log:
        def log(self, _level: int, event: str, /, **fields: object) -> None:
            said.append((event, fields))

    broker = Broker(":0", ":0", ":0", store=path, log=Log())
    try:
        assert broker.jobs_open == 7
        assert broker.upgraded is not None
        assert (broker.upgraded["version_before"], broker.upgraded["version"]) == (1, 2)
        assert 0 <= broker.upgraded["took_s"] < 5
        assert ("store_upgraded", broker.upgraded) in said
    finally:
        broker.close()
    assert sqlite3.connect(path).execute("pragma user_version").fetchone() == (2,)
    broker = Broker(":0", ":0", ":0", store=path, log=Log())
    assert broker.upgraded is None
    broker.close()


def test_an_upgrade_that_fails_has_changed_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last statement, too, is in the same transaction; so is what follows until the file is taken over."""
    before = contents(path)
    _of_format_two(monkeypatch)
    SqliteStore(path, threaded=False).close()
    assert contents(path) == before
    monkeypatch.setattr(sqlite, "STEPS", (*sqlite.STEPS[:-1], (*sqlite.STEPS[-1], "this is no statement")))
    with pytest.raises(StoreUnusable):
        SqliteStore(path, threaded=False)
    assert contents(path) == before


def test_what_a_killed_broker_left_is_read_and_left(path: Path) -> None:
    """The log beside the file is read; whoever does not take the file over leaves it there."""
    killed(path)
    before = contents(path)
    machine = example.machine_of(path)
    assert 50 in {job.number for job in machine.jobs()}
    assert before["-wal"]
    assert contents(path) == before


def test_a_file_whose_making_was_cut_short_is_made(tmp_path: Path) -> None:
    """A crash in the first moment leaves an empty file, or one that SQLite makes empty again: nobody has used it."""
    path = tmp_path / "jobs.db"
    path.touch()
    SqliteStore(path).close()
    assert contents(path)[""][:15] == b"SQLite format 3"
    store = SqliteStore(path)
    store.take_over(1)
    store.close()


# --- Files that cannot be had


def test_a_file_in_use(start: Start, path: Path) -> None:
    """Of two brokers the second one ends; and the first one goes on."""
    first = start("broker.py", "--store", str(path), "0", "0", "0")
    first.endpoint("clients")
    second = start("broker.py", "--store", str(path), "0", "0", "0")
    assert second.end() == Exit.STORE_IN_USE
    assert second.err.text == (
        f"broker.py: {path} is in use by another broker, or by `relet store`: stop that one, or name another file"
    )
    assert first.process.poll() is None


def test_a_file_that_another_program_reads_and_writes(start: Start, path: Path) -> None:
    """SQLite's own locks are minded as well."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    code, line = refused(start, path)
    other.close()
    assert code == Exit.STORE_IN_USE
    assert "in use by another program" in line


@pytest.mark.parametrize("left", ["closed", "killed"])
def test_a_file_of_a_later_version(start: Start, path: Path, left: str) -> None:
    """It is left alone, also with the log beside it that its broker left when it was killed."""
    write(path, f"pragma user_version = {schema.VERSION + 1}")
    if left == "killed":
        wal = Path(f"{path}-wal")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("create table of_the_future (name)")
        log = wal.read_bytes()
        other.execute("begin")
        data = path.read_bytes()
        other.close()
        path.write_bytes(data)
        wal.write_bytes(log)
    code, line = refused(start, path)
    assert code == Exit.STORE_NEWER
    assert f"later version of relet (format {schema.VERSION + 1}, this one knows {schema.VERSION})" in line
    assert "start that version" in line


@pytest.mark.parametrize("what", ["another's", "another's that is open", "text", "short text", "empty, another's"])
def test_a_file_of_something_else(start: Start, tmp_path: Path, what: str) -> None:
    """Some other program's database, and no database at all."""
    path = tmp_path / "other.db"
    other: sqlite3.Connection | None = None
    if what == "empty, another's":
        write(path, "pragma application_id = 252006674")
    elif what.startswith("another's"):
        write(path, "create table accounts (name)", "insert into accounts values ('ada')")
    else:
        path.write_text("dear diary\n" * (1 if what.startswith("short") else 1_000))
    if what.endswith("open"):
        write(path, "pragma journal_mode = wal")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("insert into accounts values ('bob')")
    code, line = refused(start, path)
    assert code == Exit.STORE_FOREIGN
    assert line.endswith("name another file")
    if other is not None:
        other.close()


def test_what_is_no_file(start: Start, tmp_path: Path) -> None:
    """A folder, a file in no folder, a device."""
    for path, code, hint in (
        (tmp_path, Exit.STORE_UNWRITABLE, "it is a folder; name a file in it"),
        (tmp_path / "no" / "jobs.db", Exit.STORE_UNWRITABLE, f"there is no folder {tmp_path}/no; make it first"),
        (Path("/dev/null"), Exit.STORE_FOREIGN, "is no file that can hold a store"),
    ):
        program = start("broker.py", "--store", str(path), "0", "0", "0")
        assert program.end() == code
        assert hint in program.err.text
    assert not list(tmp_path.iterdir())


@pytest.fixture
def immutable() -> Iterator[list[Path]]:
    """What is put into this cannot be changed, not by root either; skipped where there is no such thing."""
    if shutil.which("chattr") is None:
        pytest.skip("there is no chattr here, and no permission stops root")
    paths: list[Path] = []

    class Held(list[Path]):
        def append(self, path: Path) -> None:
            done = subprocess.run(["chattr", "+i", str(path)], check=False, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"this file system, or user, has no immutable files: {done.stderr.strip()}")
            paths.append(path)

    yield Held()
    for path in paths:
        subprocess.run(["chattr", "-i", str(path)], check=True)


@pytest.mark.parametrize("what", ["file", "folder", "folder of a new file"])
def test_what_cannot_be_written(start: Start, path: Path, immutable: list[Path], what: str) -> None:
    """A file, or the folder in which SQLite needs others beside it."""
    immutable.append(path if what == "file" else path.parent)
    code, line = refused(start, path if what in ("file", "folder") else path.parent / "new.db")
    assert code == Exit.STORE_UNWRITABLE
    assert "name another file" in line


def truncated(path: Path) -> None:
    """Its second half is gone."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def emptied(path: Path) -> None:
    """All of it is gone, but for the log beside it."""
    killed(path)
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    """Of every page but the first, the middle."""
    data = bytearray(path.read_bytes())
    for begin in range(4096, len(data), 4096):
        data[begin : begin + 2048] = b"\xff" * 2048
    path.write_bytes(data)


def undone(path: Path, table: str) -> None:
    """One blob is cut short: as SQLite sees it, all is well."""
    column = {"turns": "records"}.get(table, "record")
    write(path, f"update {table} set {column} = substr({column}, 1, 3)")  # noqa: S608 - our names


def mistaken(path: Path) -> None:
    """A record that is one, but of a job of which nothing else is known."""
    record = msgspec.msgpack.encode(Attempt(40, 2, b"token", 1, 0, ()))
    write(path, "insert into jobs values (:key, :record)", key=40 * schema.TAGS + 2, record=record)


def ill_agreed(path: Path) -> None:
    """A job with terms that are none."""
    record = msgspec.msgpack.encode(Accepted(40, (b"",), terms=("soon",)))
    write(path, "insert into jobs values (:key, :record)", key=40 * schema.TAGS + 1, record=record)


DAMAGES = {
    "truncated": truncated,
    "emptied": emptied,
    "overwritten": overwritten,
    "a turn in the log": lambda path: undone(path, "turns"),
    "a record": lambda path: undone(path, "jobs"),
    "a queue": lambda path: undone(path, "queues"),
    "a window": lambda path: undone(path, "windows"),
    "a record of no job": mistaken,
    "terms that are none": ill_agreed,
    "not a blob": lambda path: write(path, "update jobs set record = 17"),
    "a table": lambda path: write(path, "drop table queues"),
    "the epoch": lambda path: write(path, "delete from about where name = 'epoch'"),
    "an epoch that is none": lambda path: write(path, "update about set value = 'x' where name = 'epoch'"),
    "a key of tokens that is none": lambda path: write(path, "update about set value = 'x' where name = 'seal'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file(start: Start, path: Path, damage: str) -> None:
    """Whatever it is that cannot be read: nothing is mended in silence, nothing is thrown away."""
    DAMAGES[damage](path)
    code, line = refused(start, path)
    assert code == Exit.STORE_CORRUPT
    assert re.search("restore it from a backup, or name another file", line)


def test_a_file_has_its_key_of_tokens_from_when_it_is_first_taken_over(path: Path) -> None:
    """One of an earlier version has none; who only looks leaves none there."""
    write(path, "delete from about where name = 'seal'")
    keys = []
    for takes_over in (False, True, False, True):
        store = SqliteStore(path, threaded=False)
        keys.append(store.seal_key)
        if takes_over:
            store.take_over(0)
        store.close()
    assert [len(key) for key in keys] == [KEY_BYTES] * 4
    assert keys[0] != keys[1] == keys[2] == keys[3]


def test_a_store_that_nobody_took_over_keeps_nothing(path: Path) -> None:
    """Whoever writes has said so before."""
    store = SqliteStore(path, threaded=False)
    with pytest.raises(AssertionError, match="take_over"):
        store.append(100, [])
    store.close()
