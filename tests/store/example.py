"""A store with something of everything, for tests of whole files.

    python tests/store/example.py

makes `tests/store/files/format-N.db.gz` of the format that this code writes. It is run once, before the format changes;
the file is then never made again.
"""

from __future__ import annotations

import gzip
import itertools
import tempfile
from pathlib import Path
from typing import Any, Final

from relet.core.job import BLOCKED, COMPLETED, DELAYED, DISCARDED, RUNNING
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.messages import (
    Accepted,
    Attempt,
    AttemptEnded,
    Evicted,
    Finished,
    Gone,
    KeyWindow,
    QueueSet,
    Record,
    Shared,
)
from relet.store import Store
from relet.store.schema import VERSION
from relet.store.sqlite import SqliteStore
from relet.testing import census
from relet.testing.stores import bodies_of

FILES: Final = Path(__file__).parent / "files"
S = 1_000_000_000
DAY_MS = 86_400_000
BEGAN_MS = 1_700_000_000_000
NOW, WALL = 1_000 * S, (BEGAN_MS + DAY_MS) * 1_000_000 - 1_000 * S
"""The example is loaded a day after it was written, whenever that is."""

ID = b"job-id-%09d"
FAILED = AttemptEnded(1, "failed", BEGAN_MS, BEGAN_MS + 5, "agent/00ff", "Oops", "it broke")
LARGE = (b"large", b"", bytes(range(256)) * 20)
TERMS = (5 * S, None, False, True, 60 * S, 3)
KEEPS = (None, None, True, False, 7 * DAY_MS * 1_000_000)
STAYS = (None, None, True, False, 0, 1, None, None, None, (), None, 0, None, None, 0, False)
ORDERED = (b"", "", 1, 0, "", 0, b"", "customer 7")


def _native(number: int, *body: bytes, **known: Any) -> Accepted:
    named = {"accepted_ms": BEGAN_MS + number, "principal": "ada", "request": b"request %d" % number}
    return Accepted(number, body, **{"queue": "mail", "id": ID % number, **named, **known})


TURNS: Final[dict[int, list[Record]]] = {
    3: [
        QueueSet("mail", {"run_ns": 30 * S, "jobs_max": 1_000}),
        QueueSet("was there", {"priority": 3}),
        Accepted(1, (b"of 2010",), accepted_ms=BEGAN_MS),
        Accepted(2, LARGE, accepted_ms=BEGAN_MS),
        _native(3, b"three", terms=TERMS, headers={"a": "b"}, again=True),
        _native(4, b"four", due_ms=BEGAN_MS + 30 * DAY_MS),
        _native(5, b"x" * 2_000),
    ],
    8: [
        Attempt(3, RUNNING, b"token-of-the-3rd", 2, 1, (FAILED,), (), b"shared", session=True, failures=(1, 0, 0)),
        Attempt(2, DELAYED, b"token-of-the-2nd", 1, 0, (FAILED,), due_ms=BEGAN_MS + 20 * DAY_MS, pause_ms=30 * DAY_MS),
        Finished(5, COMPLETED, "", 1, False, (), (b"answer", b""), True, BEGAN_MS + 9, headers={"x": "y"}),
        _native(6, b"six" * 1_000, terms=STAYS, rules=ORDERED),
        _native(7, b"seven", rules=ORDERED),
        Finished(6, DISCARDED, "failed", 1, True, (FAILED,), (), True, BEGAN_MS + 10, "Oops", "it broke"),
        Attempt(7, BLOCKED, b"", 0, 0, ()),
        _native(8, b"eight"),
        Shared(8, "ada", ((b"request 8", 5, False, BEGAN_MS + 8), (b"another", 5, True, BEGAN_MS + 9))),
        QueueSet("was there", None),
    ],
    11: [
        Accepted(9, (b"nobody was told",), accepted_ms=BEGAN_MS),
        Finished(9, COMPLETED, "", 1, True, (), (b"", b"evidence"), ended_ms=BEGAN_MS + 11),
        _native(10, b"gone"),
        KeyWindow(10, "mail", "ada", "the key", ID % 10, b"request 10", BEGAN_MS + 300 * DAY_MS),
        Gone((10,)),
        Evicted(BEGAN_MS - 1),
    ],
    12: [_native(11, b"young", terms=KEEPS), Attempt(1, RUNNING, b"token-of-the-1st", 1, 0, ())],
}
"""Jobs 1 to 4, 7, 8 and 11 are open, 6 is a dead letter, 9 is evidence; the outcomes of 5 and 6 are owed."""


def fill(path: Path, *, log_bytes_max: int = 0) -> None:
    """A file as a broker leaves it: the last turn lies in the log, what was before has rows."""
    store = SqliteStore(path, threaded=False, log_bytes_max=log_bytes_max)
    store.take_over(77)
    for turn, records in TURNS.items():
        store.append(turn, records)
    store.close()


def machine_of(path: Path) -> Machine:
    """What a broker makes of a file."""
    store = SqliteStore(path, threaded=False)
    try:
        return loaded(store)
    finally:
        store.close()


def persisted_in(path: Path) -> Any:
    """All that it makes of a file, bodies that are read one by one among it."""
    store = SqliteStore(path, threaded=False)
    try:
        return census.persisted(loaded(store), bodies_of(store))
    finally:
        store.close()


def loaded(store: Store) -> Machine:
    """The same, of a store that is open."""
    tokens = (b"%016d" % number for number in itertools.count(1))
    machine = Machine(tokens, keeps_records=True, began_ns=NOW, limits=Limits())
    machine.wall_ns = WALL
    machine.load(store.load(), NOW)
    census.check(machine, loaded=machine.open)
    return machine


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "jobs.db"
        fill(made)
        kept = FILES / f"format-{VERSION}.db.gz"
        kept.write_bytes(gzip.compress(made.read_bytes(), mtime=0))
        print(f"{kept}: {kept.stat().st_size:,} bytes")
