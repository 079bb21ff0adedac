"""A process that keeps turns of records in a store and says, by marks that `disk.c` writes down, how far it is.

    python tests/store/workload.py PLAN

It ends as the plan says: it closes the store, or it is gone from one moment to the next. A store that fails ends it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from relet.messages import Record
from relet.store import StoreFailed, StoreUnusable, sqlite


class Plan(msgspec.Struct):
    """What one process does."""

    path: str
    sync: sqlite.Sync
    log_bytes_max: int
    wal_pages_max: int
    epoch: int
    turns: list[tuple[int, list[Record]]]
    closes: bool


def _work(plan: Plan) -> None:
    sqlite.WAL_PAGES_MAX = plan.wal_pages_max  # type: ignore[misc] - checkpoints, soon and often
    path = Path(plan.path)
    marks = os.open(path.with_name("marks"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        store = sqlite.SqliteStore(path, sync=plan.sync, threaded=False, log_bytes_max=plan.log_bytes_max)
        os.write(marks, b"epoch begun %d" % plan.epoch)
        store.take_over(plan.epoch)
        os.write(marks, b"epoch safe %d" % plan.epoch)
        for turn, records in plan.turns:
            os.write(marks, b"turn begun %d" % turn)
            store.append(turn, records)
            if store.settled() == turn:
                os.write(marks, b"turn safe %d" % turn)
    except (StoreFailed, StoreUnusable):
        os.write(marks, b"failed")
    if plan.closes and "store" in locals():
        store.close()
    os._exit(0)


if __name__ == "__main__":
    _work(msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Plan))
