"""A copy of a store, made while its broker runs: SQLite's online backup, a few pages a step, commits in between.

The copy is made by the connection that commits, so what is committed meanwhile goes into both, and nothing begins anew
(https://sqlite.org/backup.html). It is written under another name, and has its own when all of it is on the disk.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from relet.core.effects import Notice
from relet.events import Event
from relet.store import BackupRefused, BackupState
from relet.store.file import give_name

STEP_PAGES: Final = 64
"""Pages of one step: of 4 KiB, 256 KiB, less than a millisecond."""
SYNC_STEPS: Final = 32
"""Steps after which the copy is synced: 8 MiB, so that its end is not one long sync in which nothing is committed."""


class Backup:
    """One copy. What it says of itself may be read from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises `BackupRefused` where the copy cannot be begun."""
        if not path.is_absolute():
            text = f"{path} is said from where the broker is, not from where you are: begin it with /"
            raise BackupRefused("bad_request", text)
        self._path = path
        self._made = path.with_name(f"{path.name}.making")
        self._descriptor = -1
        self._steps = 0
        self.state = BackupState(path=str(path), state="running")
        if path.exists():
            raise BackupRefused("exists", f"{path} is there already: name a new file, nothing is written over")
        try:
            self._descriptor = os.open(self._made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            text = f"{self._made} is in the way: a backup that was cut short has left it; remove it"
            raise BackupRefused("exists", text) from None
        except OSError as error:
            text = f"{path} cannot be made: {os.strerror(error.errno or 0)}"
            raise BackupRefused("bad_request", text) from error

    def check_room(self, needed_bytes: int, spare_bytes: int) -> None:
        """Raises `BackupRefused` where the disk would be fuller than it may be."""
        there = os.statvfs(self._made)
        free_bytes = there.f_bavail * there.f_frsize
        if free_bytes < needed_bytes + spare_bytes:
            self.give_up("there was no room")
            text = f"the copy takes {needed_bytes:,} bytes, and {free_bytes:,} are free where it was to be"
            raise BackupRefused("disk_full", f"{text}, of which {spare_bytes:,} are to stay so")

    def give_up(self, why: str) -> None:
        """What is there of it goes."""
        self.state = BackupState(path=str(self._path), state="failed", text=why)
        self._let_go()

    def run(self, source: sqlite3.Connection, between: Callable[[], None]) -> Notice:
        """Makes the copy; what came of it. `between` is called after each step, and may raise to end it."""
        began = time.monotonic()
        try:
            self._copy(source, between)
        except Exception as error:  # noqa: BLE001 - whatever it is, the copy is at fault and not the store
            self.give_up(str(error) or type(error).__name__)
            return Event.BACKUP_FAILED, {"path": str(self._path), "error": self.state.text}
        finally:
            self._let_go()
        took = round(time.monotonic() - began, 3)
        size = self._path.stat().st_size
        self.state = BackupState(path=str(self._path), state="done", done_bytes=size, total_bytes=size)
        return Event.BACKUP_FINISHED, {"path": str(self._path), "bytes": size, "took_s": took}

    def _copy(self, source: sqlite3.Connection, between: Callable[[], None]) -> None:
        (page_bytes,) = source.execute("pragma page_size").fetchone()

        def stepped(_status: int, remaining: int, total: int) -> None:
            self._steps += 1
            done_bytes, total_bytes = (total - remaining) * page_bytes, total * page_bytes
            self.state = BackupState(str(self._path), "running", done_bytes, total_bytes)
            if self._steps % SYNC_STEPS == 0:
                os.fdatasync(self._descriptor)
            if remaining:
                between()

        with contextlib.closing(sqlite3.connect(self._made, isolation_level=None)) as copy:
            source.backup(copy, pages=STEP_PAGES, progress=stepped, sleep=0.001)
        os.fsync(self._descriptor)
        give_name(self._made, self._path)

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            for suffix in ("", "-journal"):
                with contextlib.suppress(OSError):
                    Path(f"{self._made}{suffix}").unlink()
