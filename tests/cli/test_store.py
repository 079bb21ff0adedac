"""`relet store`: what it says of a file, what it makes of it, and what it leaves alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from tests.cli.conftest import ROOT
from tests.store import example
from tests.store.test_opening import DAMAGES, contents, killed

from relet.cli import admin as program
from relet.cli.exits import Exit
from relet.messages import Accepted, Finished, Gone
from relet.store import lines
from relet.store.sqlite import SqliteStore


class Ran(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str


Relet = Callable[..., Ran]


@pytest.fixture
def relet(capsys: pytest.CaptureFixture[str]) -> Relet:
    """Runs a command line."""

    def run(*words: object) -> Ran:
        capsys.readouterr()
        try:
            code = program.main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with something of everything."""
    path = tmp_path / "jobs.db"
    example.fill(path)
    return path


# --- check


def test_check_counts_what_is_there(relet: Relet, path: Path) -> None:
    """docs/operations.md: "reads all of it and changes nothing"."""
    before = contents(path)
    ran = relet("store", "check", path, "--json")
    assert (ran.code, ran.err) == (Exit.OK, "")
    found = json.loads(ran.out)
    assert found.pop("bytes") == path.stat().st_size
    assert found.pop("free_bytes") % 4_096 == 0
    assert found == {
        "file": str(path),
        "format": 1,
        "epoch": 77,
        "log_bytes": 0,
        "jobs_open": 7,
        "dead_letters": 1,
        "evidence": 1,
        "outcomes": 2,
        "queues": 1,
        "damages": [],
    }
    assert "jobs open     7" in relet("store", "check", path).out
    assert contents(path) == before


def test_check_reads_the_log_of_a_killed_broker(relet: Relet, path: Path) -> None:
    """What was settled counts, wherever it lies; and stays there."""
    killed(path)
    before = contents(path)
    ran = relet("store", "check", path)
    assert ran.code == Exit.OK
    assert "jobs open     8" in ran.out
    assert "its broker was killed" in ran.out
    assert contents(path) == before


@pytest.mark.parametrize("damage", set(DAMAGES) - {"emptied"})
def test_check_finds_damages(relet: Relet, path: Path, damage: str) -> None:
    """It says what they are, and goes on behind them."""
    DAMAGES[damage](path)
    before = contents(path)
    ran = relet("store", "check", path)
    assert ran.code == Exit.STORE_CORRUPT
    assert ran.err
    assert all(line.startswith(f"relet: {path}") for line in ran.err.splitlines())
    assert contents(path) == before


def test_check_names_every_record_that_cannot_be_read(relet: Relet, path: Path) -> None:
    """Not the first one alone."""
    DAMAGES["a record"](path)
    ran = relet("store", "check", path)
    assert len([line for line in ran.err.splitlines() if ": jobs " in line]) > 5


def test_a_store_that_a_broker_has_is_left_alone(relet: Relet, path: Path, tmp_path: Path) -> None:
    """The same lock keeps a second broker out."""
    store = SqliteStore(path, threaded=False)
    for words in (("check", path), ("compact", path), ("export", path)):
        ran = relet("store", *words)
        assert ran.code == Exit.STORE_IN_USE
        assert "is in use by another broker" in ran.err
    store.close()
    for command in ("check", "compact", "export"):
        ran = relet("store", command, tmp_path / "none.db")
        assert (ran.code, ran.err) == (Exit.STORE_UNWRITABLE, f"relet: there is no file {tmp_path}/none.db\n")
    assert not (tmp_path / "none.db").exists()


def test_commands_are_listed_and_guessed(relet: Relet) -> None:
    """As all others."""
    assert "store compact" in relet("--help").out
    assert "did you mean store check?" in relet("store", "chek", "x").err
    assert "needs a word more: store check, store compact, store export, store import" in relet("store").err
    assert "8    it is damaged" in relet("store", "check", "--help").out


# --- compact


def test_compact_gives_back_what_holds_nothing(relet: Relet, tmp_path: Path) -> None:
    """The file size per finished and expired job after compaction is 0: the file is as large as one that had none."""
    empty, full = tmp_path / "empty.db", tmp_path / "full.db"
    example.fill(empty)
    example.fill(full)
    store = SqliteStore(full, threaded=False, log_bytes_max=0)
    store.take_over(1)
    turn = store.settled()
    for begin in range(1_000, 6_000, 500):
        turn += 2
        numbers = range(begin, begin + 500)
        store.append(turn, [Accepted(number, (b"x" * 1_500,)) for number in numbers])
        store.append(turn + 1, [Finished(number, 6, "tries_spent", 1, True, ()) for number in numbers])
    store.append(turn + 2, [Gone(tuple(range(1_000, 6_000)))])
    store.close()
    assert full.stat().st_size > 5_000 * 1_500
    persisted = example.persisted_in(empty)
    assert relet("store", "compact", empty).code == Exit.OK
    ran = relet("store", "compact", full, "--json")
    assert ran.code == Exit.OK
    done = json.loads(ran.out)
    assert done["bytes_before"] > 5_000 * 1_500
    assert done["bytes"] == full.stat().st_size == empty.stat().st_size
    assert not Path(f"{full}-wal").exists()
    assert example.persisted_in(full) == persisted
    assert "now" in relet("store", "compact", full).out


# --- export and import


def exported(relet: Relet, path: Path) -> list[bytes]:
    """The lines of a store."""
    out = path.with_suffix(".jsonl")
    assert relet("store", "export", path, "--to", out).code == Exit.OK
    written = out.read_bytes().splitlines(keepends=True)
    out.unlink()
    return written


def test_lines_say_what_they_are(relet: Relet, path: Path) -> None:
    """docs/operations.md: "one record in a line, with its fields by name"."""
    before = contents(path)
    first, *records, last = map(json.loads, exported(relet, path))
    assert (first["relet_store"], first["epoch"]) == (1, 77)
    assert last == {"record": "end", "records": len(records)}
    assert contents(path) == before
    by_kind = {(it["record"], it.get("number")): it for it in records}
    assert by_kind["accepted", 1] == {
        "record": "accepted",
        "number": 1,
        "body": ["b2YgMjAxMA=="],
        "accepted_ms": example.BEGAN_MS,
    }
    assert by_kind["accepted", 3]["terms"] == {
        "run_ns": 5 * example.S,
        "late_any": False,
        "ends_alone": True,
        "keep_ns": 60 * example.S,
        "tries": 3,
    }
    assert by_kind["accepted", 7]["rules"] == {"order": "customer 7"}
    assert by_kind["attempt", 3]["ledger"][0]["kind"] == "Oops"
    assert {it["record"] for it in records} == set(lines.KINDS) - {"forgotten"}


def test_what_is_exported_and_imported_is_the_same(relet: Relet, path: Path, tmp_path: Path) -> None:
    """A machine that loads the one equals a machine that loads the other; and the lines are the same again."""
    (tmp_path / "lines").write_bytes(b"".join(exported(relet, path)))
    other = tmp_path / "other.db"
    ran = relet("store", "import", other, "--from", tmp_path / "lines")
    assert ran.code == Exit.OK
    assert ran.err == f"relet: {other}: {len(exported(relet, path)) - 2} records\n"
    once, again = example.machine_of(path), example.machine_of(other)
    assert example.persisted_in(other) == example.persisted_in(path)
    assert again.number == once.number
    assert {it.name: it.settings for it in again.queues} == {it.name: it.settings for it in once.queues}
    assert again.requests.uniques.windows == once.requests.uniques.windows
    assert exported(relet, other) == exported(relet, path)
    assert sorted(it.name for it in tmp_path.iterdir()) == ["jobs.db", "lines", "other.db"]


def test_one_end_of_a_pipe_to_the_other(path: Path, tmp_path: Path) -> None:
    """As programs, through standard output and input."""
    other = tmp_path / "other.db"
    command = [sys.executable, "-c", "from relet.cli.admin import run; run()", "store"]
    done = subprocess.run([*command, "export", str(path)], capture_output=True, check=True, cwd=ROOT)
    subprocess.run([*command, "import", str(other)], input=done.stdout, check=True, cwd=ROOT, capture_output=True)
    assert example.persisted_in(other) == example.persisted_in(path)


def test_nothing_is_written_over(relet: Relet, path: Path, tmp_path: Path) -> None:
    """Neither a store nor lines; nor what an import has left that was cut short."""
    before = contents(path)
    (tmp_path / "lines").write_bytes(b"".join(exported(relet, path)))
    ran = relet("store", "import", path, "--from", tmp_path / "lines")
    assert (ran.code, contents(path)) == (Exit.STORE_UNWRITABLE, before)
    assert "is there already" in ran.err
    assert relet("store", "export", path, "--to", tmp_path / "lines").code == Exit.JOB_FAILED
    (tmp_path / "new.db.importing").touch()
    assert "cut short" in relet("store", "import", tmp_path / "new.db", "--from", tmp_path / "lines").err
    assert not (tmp_path / "new.db").exists()


def broken(drawn: random.Random, written: list[bytes]) -> list[bytes]:
    """Lines with a mistake."""
    at = drawn.randrange(len(written))
    line = written[at]
    match drawn.randrange(7):
        case 0:
            return written[:at]
        case 1:
            return [*written[:at], line[: drawn.randrange(len(line) - 1)] + b"\n", *written[at + 1 :]]
        case 2:
            spot = drawn.randrange(len(line) - 1)
            return [*written[:at], line[:spot] + bytes([drawn.randrange(256)]) + line[spot + 1 :], *written[at + 1 :]]
        case 3:
            return [*written[:at], line, *written[at:]]
        case 4:
            fields = json.loads(line)
            field = drawn.choice(list(fields))
            fields[field] = drawn.choice([None, -1, 2**70, "x", [], {}, [1], {"a": 1}, 1.5, True, "!", 0])
            return [*written[:at], msgspec.json.encode(fields) + b"\n", *written[at + 1 :]]
        case 5:
            fields = json.loads(line)
            del fields[drawn.choice(list(fields))]
            return [*written[:at], msgspec.json.encode(fields) + b"\n", *written[at + 1 :]]
        case _:
            return [*written[:at], *written[at + 1 :]]


def test_broken_lines_make_no_store(relet: Relet, path: Path, tmp_path: Path) -> None:
    """Whatever is wrong with them, and wherever: the number of the line is said, and nothing is there. Where a mistake
    still makes records, the store is one that a broker can load.
    """
    drawn = random.Random(5)
    written = exported(relet, path)
    other = tmp_path / "other.db"
    refused = 0
    for _ in range(250):
        (tmp_path / "lines").write_bytes(b"".join(broken(drawn, written)))
        ran = relet("store", "import", other, "--from", tmp_path / "lines")
        if ran.code == Exit.OK:
            example.machine_of(other)
            other.unlink()
            continue
        refused += 1
        assert ran.code in (Exit.JOB_FAILED, Exit.STORE_CORRUPT), ran.err
        assert ran.code == Exit.STORE_CORRUPT or ran.err.startswith("relet: line "), ran.err
        assert sorted(it.name for it in tmp_path.iterdir()) == ["jobs.db", "lines"], ran.err
    assert refused > 150


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it[:0], "line 1: "),
        (lambda it: it[1:], "line 1: this is not what `relet store export` writes"),
        (lambda it: [b'{"relet_store":2}\n', *it[1:]], "line 1: these lines have format 2, and this version reads 1"),
        (lambda it: it[:-1], "the end is missing"),
        (lambda it: [*it, b"{}\n"], "something follows the end"),
        (lambda it: [it[0], b"no JSON\n", *it[1:]], "line 2: "),
        (lambda it: [it[0], b'{"record":"accepted","body":[]}\n'], "line 2: `number` is missing"),
        (lambda it: [it[0], b'{"record":"accepted","number":1,"body":["?"]}\n'], "line 2: Invalid base64"),
        (lambda it: [it[0], b'{"record":"attempt","number":1}\n'], "line 2: `state` is missing"),
        (lambda it: [it[0], b'{"record":"apt","number":1}\n'], "line 2: there is no record 'apt'"),
        (lambda it: [it[0], b'{"record":"number","last":1,"least":0}\n'], "line 2: there is no field `least`"),
    ],
)
def test_a_mistake_is_named(
    relet: Relet, path: Path, tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    """By its line, in words."""
    (tmp_path / "lines").write_bytes(b"".join(change(exported(relet, path))))
    ran = relet("store", "import", tmp_path / "other.db", "--from", tmp_path / "lines")
    assert ran.code == Exit.JOB_FAILED
    assert said in ran.err
    assert ran.err.endswith("; no store was made\n")
