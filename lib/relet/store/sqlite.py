"""A store in one SQLite file: what it has settled survives the process, the machine and the power.

One commit is under way at most; the broker gathers what happens meanwhile (`busy`). A commit is one row: the records
of its turns as one MessagePack array, because what costs in SQLite is the step of a statement, not the bytes. So young
jobs live in a log of turns, and most of them end there. When the log has `LOG_BYTES_MAX`, its oldest turns are trimmed:
what they say of jobs that have not ended since is promoted to rows of `jobs`, in the same transaction. A store that is
opened promotes all that the log holds, whether the broker before it ended well or not: there is one way, and every
start goes it.

To open a file changes nothing in it: all that a start writes, a newer format among it, is one transaction, which
`take_over` ends when what is in the file has been read. A file that is refused is left as it was, byte for byte.

The commits run in a thread of their own, because the time that a disk takes must not be the broker's: heartbeats go on
and leases are not eaten while a disk is slow (docs/decisions/0013-kept-on-disk.md). Nobody but that thread touches the
connection while it runs. The statements are few and large for another reason: each step takes the interpreter's lock
anew.

Bodies that have rows of their own are read back by the broker's thread, over a second connection that only reads: what
is under way in the keeper's does not hold it up, because the log of SQLite (WAL) lets readers see what was committed.
It neither writes nor checkpoints, and is closed first, because the last connection to close a file checkpoints it.

SQLite's own settings, and why: `journal_mode=WAL` (a commit is one append and one sync), `synchronous=FULL` (NORMAL
does not sync at commit, and a power cut loses what was acknowledged), `auto_vacuum=INCREMENTAL` (the file can shrink a
little at a time). See https://sqlite.org/pragma.html.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from relet.core.effects import Notice
from relet.core.job import COMPLETED
from relet.core.seals import KEY_BYTES
from relet.events import Event
from relet.messages import (
    Accepted,
    Attempt,
    Evicted,
    Finished,
    Forgotten,
    Gone,
    KeyWindow,
    Numbered,
    QueueSet,
    Record,
    Records,
    Shared,
)
from relet.store import BackupRefused, BackupState, StoreFailed, StoreUnusable
from relet.store.backup import Backup
from relet.store.file import (
    BUSY_MS,
    DAMAGES,
    ELSEWHERE,
    PAGE_BYTES,
    RESTORE,
    code_of,
    failed,
    lock,
    reader_of,
    size_of,
    sync_folder,
    unusable,
    version_of,
    write_again,
)
from relet.store.room import Room
from relet.store.schema import APPLICATION_ID, STEPS, TAGS, VERSION

Sync: TypeAlias = Literal["full", "normal", "off"]

LOG_BYTES_MAX: Final = 8 << 20
"""The log is trimmed when it is larger: of 100,000 short jobs a second it holds half a second, and a start that finds
it full has promoted it within another half."""
TRIM_BYTES: Final = 256 << 10
"""So much of it is trimmed with one commit, at least: less would be a transaction more often, more would be felt."""
BODY_APART_BYTES_MIN: Final = 1024
"""Promoted bodies from this size on have a row of their own, so that a start need not read them."""
ROWS_A_STATEMENT: Final = 250
"""Rows that one statement writes: their parameters lie below the 999 that any build of SQLite allows."""
WAL_PAGES_MAX: Final = 2_000
"""Pages in the write-ahead log after which they are copied into the file. The log then begins again, in space that it
has on the disk already: a commit is synced there in half the time."""

LOOK_S: Final = 1.0
"""How often a full disk is looked at, when there is nothing to commit."""
IDLE_S: Final = 1.0
"""How long nothing is to be committed before the file is tidied up."""
RESTING_PAGES_MAX: Final = 64
"""Pages that hold nothing and stay in a file that rests: 256 KiB."""
SPARE_PAGES_MAX: Final = 2_048
"""Those that stay in one that does not, 8 MiB: as many come and go with the log."""
SHRINK_PAGES: Final = 128
"""Pages that are given back in one step, 512 KiB: less than ten milliseconds."""
GONE_BYTES: Final = 128
"""A job that has gone counts as much, when the log is trimmed in steps."""
BACKUP_PAUSE_S: Final = 0.001
"""Between two steps of a copy, so that it leaves most of the disk to others."""

_TAGS: Final[dict[type[Record], int]] = {Accepted: 1, Attempt: 2, Finished: 3, Forgotten: 4, Shared: 7}
"""Records of one job, in the order in which they are loaded."""
_OF_A_JOB: Final = (Attempt, Finished, Forgotten, Shared)
"""What is known of a job that was accepted."""
_SYNCS: Final = {"full": "FULL", "normal": "NORMAL", "off": "OFF"}
_COMMIT: Final = "insert into turns select ?, ? where (select value from about where name = 'epoch') = ?"


class _Turn(NamedTuple):
    """A turn in the log."""

    number: int
    records: Records
    size: int
    fresh: int
    """So many records at the beginning are of jobs that were accepted."""


class SqliteStore:
    """Keeps what a broker must not forget in the file at `path`, which is made where there is none.

    It is opened to be read; from `take_over` on it may be written. `sync`: "full" loses nothing that was settled;
    "normal" may lose the last commits when the power goes, and nothing when only the process does; "off" may lose more,
    and may leave a file that cannot be read. Raises `StoreUnusable` where the file cannot be had, is not a store, is
    broken, or was made by a later version.
    """

    durable = True
    apart_bytes_min = BODY_APART_BYTES_MIN
    seal_key = b""
    """Made with the file, or when it is first opened by a version that has such keys."""
    _restless = False
    """Since it was tidied up last, something was committed."""
    _rests = False
    """It is being tidied up, because nothing was to be committed for a while."""
    _free_bytes_min = 0
    _backup: Backup | None = None
    """The last one."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sync: Sync = "full",
        threaded: bool = True,
        log_bytes_max: int = LOG_BYTES_MAX,
        make: bool = True,
    ) -> None:
        """`threaded`: whether commits run beside the broker; False is for measurements, tests and `relet store`, which
        opens no file that is not there (`make`).
        """
        if sync not in _SYNCS:
            raise ValueError(f"sync is {sync!r}: it must be one of {', '.join(_SYNCS)}")
        self.path = Path(path)
        self.name = str(self.path)
        self._descriptor = lock(self.path, make=make)
        self._log_bytes_max = log_bytes_max
        self._trim_bytes = min(TRIM_BYTES, log_bytes_max)
        self._log: deque[_Turn] = deque()
        self._log_bytes = 0
        self._gone: set[int] = set()
        """Jobs of which nothing remains; their last word is in the log."""
        self._skipped: set[int] = set()
        """Those of them whose acceptance was trimmed and not promoted."""
        self.epoch = self._settled = self._promoted = self._last = 0
        self._opening = True
        """Nobody has taken the file over yet."""
        self._upgraded = (0, 0.0)
        """Which version it had when it was opened, where that was an older one; and what the steps took, seconds."""
        self._busy = False
        self._error: StoreFailed | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._ring: Callable[[], None] = _nobody
        self._reader: sqlite3.Connection | None = None
        """Reads bodies; opened when the first one is asked for."""
        self._work: queue.SimpleQueue[tuple[int, Records] | Backup | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._notices: list[Notice] = []
        self._room = Room(self.path)
        self._guard: sqlite3.Connection | None = None
        self._connection: sqlite3.Connection | None = None
        self._run: Callable[..., sqlite3.Cursor]
        try:
            version = self._inspect()
            self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._run = self._connection.execute
            self._open(version, _SYNCS[sync])
        except (*DAMAGES, OSError) as error:
            self._abandon()
            raise unusable(self.path, error) from error
        except BaseException:
            self._abandon()
            raise
        if threaded:
            self._thread = threading.Thread(target=self._keep, name="relet-store", daemon=True)
            self._thread.start()

    # --- Opening

    def _inspect(self) -> int:
        """The version of the file. Where there is a log beside it, the reader stays until the file is taken over: the
        last one to close a file copies its log into it, and this one cannot.
        """
        reader = reader_of(self.path)
        if reader is None:
            return 0
        try:
            version = version_of(self.path, reader)
        except BaseException:
            reader.close()
            raise
        if size_of(self.path, "-wal"):
            self._guard = reader
        else:
            reader.close()
        return version

    def _open(self, version: int, sync: str) -> None:
        write_again(self.path)
        run = self._run
        run(f"pragma busy_timeout = {BUSY_MS}")
        if version == 0:  # before there is anything in the file; later it would be a write
            run(f"pragma page_size = {PAGE_BYTES}")
            run("pragma auto_vacuum = incremental")
        (mode,) = run("pragma journal_mode = wal").fetchone()
        if mode != "wal":  # SQLite does not call that an error, and a power cut could then undo the last commit
            text = f"{self.path} can have no write-ahead log (SQLite says: {mode}): {ELSEWHERE}"
            raise StoreUnusable("unwritable", text)
        run(f"pragma synchronous = {sync}")
        run(f"pragma wal_autocheckpoint = {WAL_PAGES_MAX}")
        run(f"pragma journal_size_limit = {2 * WAL_PAGES_MAX * PAGE_BYTES}")
        run("pragma cell_size_check = on")
        run("begin immediate")
        sync_folder(self.path)  # before anything is written: there is a log now
        if version < VERSION:
            self._upgrade(version)
        run("insert or ignore into about values ('seal', ?)", (os.urandom(KEY_BYTES),))
        about = dict(run("select name, value from about where name in ('turn', 'last', 'epoch', 'seal')"))
        self.seal_key = about.pop("seal")
        if type(self.seal_key) is not bytes or len(self.seal_key) != KEY_BYTES:
            raise StoreUnusable("corrupt", f"{self.path} is damaged: its key of tokens is none; {RESTORE}")
        if not all(type(value) is int for value in about.values()) or "epoch" not in about:
            raise StoreUnusable("corrupt", f"{self.path} is damaged: it has no epoch; {RESTORE}")
        self._settled, self._last, self.epoch = about.get("turn", 0), about.get("last", 0), about["epoch"]
        self._promote_all()

    def _upgrade(self, version: int) -> None:
        began = time.monotonic()
        for step in STEPS[version:]:
            for statement in step:
                self._run(statement)
        self._run(f"pragma application_id = {APPLICATION_ID}")
        self._run(f"pragma user_version = {VERSION}")
        self._upgraded = (version, time.monotonic() - began)

    def _promote_all(self) -> None:
        """What the log of the broker before holds goes into rows; then the log is empty."""
        decode = msgspec.msgpack.Decoder(list[Record]).decode
        log = self._run("select turn, records from turns order by turn")
        turns = [_turn(turn, decode(packed), len(packed)) for turn, packed in log]
        if turns:
            for turn in turns:
                self._note_gone(turn)
            self._promote(turns)
            self._settled = turns[-1].number
        self._promoted = self._settled

    def load(self) -> Iterator[Record]:
        """Settings of queues and what else is of no job, then what is known of each job, by job number."""
        run = self._run
        decode = msgspec.msgpack.Decoder(Record).decode
        try:
            if self._last:
                yield Numbered(self._last)
            for (packed,) in run("select record from queues"):
                yield decode(packed)
            for (accepted_ms,) in run("select value from about where name = 'evicted'"):
                yield Evicted(accepted_ms)
            for (packed,) in run("select record from windows order by number"):
                yield decode(packed)
            yield from map(decode, map(itemgetter(0), run("select record from jobs order by key")))
        except DAMAGES as error:
            raise unusable(self.path, error) from error

    def take_over(self, epoch: int) -> int:
        """The broker that has the file from now on; returns its epoch: this number, or the next after the last one,
        whichever is more. Commits of earlier epochs are refused. Raises `StoreUnusable`.
        """
        self.epoch = max(epoch, self.epoch + 1)
        try:
            self._run("insert or replace into about values ('epoch', ?)", (self.epoch,))
            if self._opening:
                self._end_opening()
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error
        return self.epoch

    def _end_opening(self) -> None:
        began = time.monotonic()
        self._run("commit")
        self._opening = False
        self._let_guard_go()
        before, took = self._upgraded
        if before:
            took = round(took + time.monotonic() - began, 3)
            fields = {"store": str(self.path), "version_before": before, "version": VERSION, "took_s": took}
            self._notices.append((Event.STORE_UPGRADED, fields))

    def _let_guard_go(self) -> None:
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def compact(self) -> None:
        """Writes the file anew, with nothing in it that holds nothing. It needs the room for that once more. Raises
        `StoreUnusable`; then all is as it was.
        """
        try:
            self._run("vacuum")
            self._run("pragma wal_checkpoint(truncate)")
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error

    # --- The broker's side

    def rings(self, ring: Callable[[], None]) -> None:
        """Calls this, from another thread, when a commit is over."""
        self._ring = ring

    @property
    def full(self) -> bool:
        """There is no room for new jobs; open ones can end."""
        return self._room.full

    def watch(self, free_bytes_min: int) -> None:
        """From now on it is `full` while its disk has less room than this. It is looked at now, with each commit, and
        every second while it is full.
        """
        self._free_bytes_min = free_bytes_min
        self._room = Room(self.path, free_bytes_min)
        self._look()

    def take_notices(self) -> list[Notice]:
        """What has happened in the store."""
        if not self._notices:
            return []
        notices = self._notices[:]
        del self._notices[: len(notices)]  # the other thread may add to it meanwhile
        return notices

    def busy(self) -> bool:
        """A commit is under way."""
        return self._busy

    def append(self, turn: int, records: Records) -> None:
        """Begins the commit of these records. Raises `StoreFailed` where an earlier one came to nothing."""
        self._raise()
        if self._busy:
            raise AssertionError("a commit is under way: ask `busy` first")
        if self._opening:
            raise AssertionError("nobody has this store yet: `take_over` first")
        self._busy = True
        if self._thread is not None:
            self._work.put((turn, records))
        else:
            self._commit(turn, records)
            self._raise()

    def settled(self) -> int:
        """The last turn that is safe. Raises `StoreFailed`."""
        if self._error is not None:
            self._raise()
        return self._settled

    def promoted(self) -> int:
        """The last turn that has left the log, and is safe."""
        return self._promoted

    def bodies(self, numbers: Sequence[int]) -> list[tuple[bytes, ...] | None]:
        """The frames of the bodies of these jobs; None where there are none, or they are damaged. Raises `StoreFailed`
        where the file cannot be read for another reason.
        """
        rows: dict[int, bytes] = {}
        for some in _batches(list(numbers), 2 * ROWS_A_STATEMENT):
            rows.update(self._read(some))
        return [_frames(rows.get(number)) for number in numbers]

    def _read(self, numbers: list[int]) -> list[tuple[int, bytes]]:
        marks = _marks("?", len(numbers))
        query = f"select number, frames from bodies where number in ({marks})"  # noqa: S608 - our names
        try:
            if self._opening:  # what it has promoted nobody else sees yet
                return self._run(query, numbers).fetchall()
            if self._reader is None:
                self._reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
                self._reader.execute("pragma query_only = on")
                self._reader.execute("pragma wal_autocheckpoint = 0")
            return self._reader.execute(query, numbers).fetchall()
        except sqlite3.Error as error:
            if code_of(error) != sqlite3.SQLITE_CORRUPT:
                raise StoreFailed(f"{self.path} cannot be read: {error}") from error
        if len(numbers) == 1:
            return []
        return [row for number in numbers for row in self._read([number])]  # the others are not to suffer for one

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def back_up(self, path: str) -> BackupState:
        """Begins a copy in a new file. Raises `BackupRefused`."""
        if self._backup is not None and self._backup.state.state == "running":
            raise BackupRefused("busy", f"{self._backup.state.path} is being written: wait until that is done")
        backup = Backup(Path(path))
        backup.check_room(size_of(self.path) + size_of(self.path, "-wal"), self._free_bytes_min)
        self._backup = backup
        if self._thread is not None:
            self._work.put(backup)
        else:
            self._copy(backup)
        return backup.state

    def backup_state(self) -> BackupState | None:
        """How far the last copy is; None: there was none."""
        return None if self._backup is None else self._backup.state

    def close(self) -> None:
        """Waits for the commit that is under way, and lets go of the file."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
            self._thread = None
        self._abandon()

    def _abandon(self) -> None:
        try:
            if self._reader is not None:
                self._reader.close()
            if self._connection is not None:
                self._connection.close()
            self._let_guard_go()
        except sqlite3.Error:
            pass  # what is safe is safe, and the next to open the file finds it
        finally:
            if self._descriptor >= 0:  # only now: to close it lets go of SQLite's own locks on the file, too
                os.close(self._descriptor)
                self._descriptor = -1

    # --- The keeper's side

    def _keep(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=self._pause_s())
            except queue.Empty:
                self._idle()
                continue
            if work is None:
                return
            if isinstance(work, Backup):
                self._copy(work)
            else:
                self._commit(*work)
            self._ring()

    def _pause_s(self) -> float | None:
        """How long to wait for a commit before there is something else to do; None: there is nothing else."""
        if self._rests:
            return 0.0
        if self._restless:
            return IDLE_S
        return LOOK_S if self.full else None

    def _idle(self) -> None:
        """There is nothing to commit: a step of tidying up, so small that a commit can wait for it."""
        self._rests = self._restless
        changed = self._look()
        if self._restless:
            try:
                self._restless = self._rests = self._tidy()
            except sqlite3.Error as error:
                self._error = failed(self.path, error)
                self._restless = self._rests = False
                changed = True
        if changed:
            self._ring()

    def rest(self) -> None:
        """Does at once what is done in small steps when there is nothing to commit; for stores without a thread."""
        while self._tidy():
            pass

    def _tidy(self) -> bool:
        """One step towards the smallest file: the log goes into rows, and what has gone leaves room, which is given
        back. False: nothing is left to do.
        """
        if self._log:
            turns: list[_Turn] = []
            weight = 0
            while self._log and weight < self._trim_bytes:
                turns.append(self._log.popleft())
                self._log_bytes -= turns[-1].size
                weight += _weight(turns[-1])
            self._run("begin immediate")
            self._promote(turns)
            self._run("commit")
            self._promoted = turns[-1].number
            return True
        try:
            self._run("begin immediate")
            left = self._shrink(RESTING_PAGES_MAX)
            self._run("commit")
            if not left:
                self._run("pragma wal_checkpoint(truncate)").fetchall()
        except sqlite3.Error as error:
            if code_of(error) != sqlite3.SQLITE_FULL:
                raise
            with contextlib.suppress(sqlite3.Error):
                self._run("rollback")  # it stays as large as it is
            return False
        return left

    def _shrink(self, spare_pages: int) -> bool:
        """Gives pages back that hold nothing, where there are more than this; some at a time."""
        (free,) = self._run("pragma freelist_count").fetchone()
        for _ in range(min(free - spare_pages, SHRINK_PAGES)):
            self._run("pragma incremental_vacuum(1)")  # Python takes one step of it, and a step is one page
        return bool(free > spare_pages)

    def _look(self) -> bool:
        """Whether there is room; True where that has changed."""
        notice = self._room.look()
        if notice is not None:
            self._notices.append(notice)
        return notice is not None

    def _copy(self, backup: Backup) -> None:
        if self._connection is not None:
            self._notices.append(backup.run(self._connection, self._between_steps))

    def _between_steps(self) -> None:
        """What there is to commit comes before the rest of the copy."""
        with contextlib.suppress(queue.Empty):
            work = self._work.get(timeout=BACKUP_PAUSE_S)
            if work is None:
                self._work.put(None)
                raise BackupRefused("stopping", "the broker stopped before it was done")
            if not isinstance(work, Backup):
                self._commit(*work)
                self._ring()
        if self._error is not None:
            raise self._error

    def _commit(self, turn: int, records: Records) -> None:
        try:
            self._write(turn, records)
        except (sqlite3.Error, StoreFailed) as error:
            self._error = error if isinstance(error, StoreFailed) else failed(self.path, error)
        else:
            self._settled = turn
        self._restless, self._rests = True, False
        self._look()
        self._busy = False

    def _write(self, number: int, records: Records) -> None:
        run = self._run
        packed = self._encoder.encode(records)
        turn = _turn(number, records, len(packed))
        self._note_gone(turn)
        self._log.append(turn)
        self._log_bytes += turn.size
        trimmed = self._take_old()
        if trimmed:
            run("begin immediate")
        if run(_COMMIT, (number, packed, self.epoch)).rowcount != 1:
            raise StoreFailed(f"{self.path}: another broker has this store now")
        if trimmed:
            self._promote(trimmed)
            self._shrink(SPARE_PAGES_MAX)
            run("commit")
            self._promoted = trimmed[-1].number

    def _take_old(self) -> list[_Turn]:
        """The turns that leave the log with this commit."""
        trimmed: list[_Turn] = []
        if self._log_bytes > self._log_bytes_max + self._trim_bytes:
            while self._log_bytes > self._log_bytes_max and len(self._log) > 1:
                trimmed.append(self._log.popleft())
                self._log_bytes -= trimmed[-1].size
        return trimmed

    def _note_gone(self, turn: _Turn) -> None:
        gone, records = self._gone, turn.records
        for index in range(turn.fresh, len(records)):
            record = records[index]
            if type(record) is Gone:
                gone.update(record.numbers)
            elif type(record) is Finished:
                if record.kept or record.owed:
                    gone.discard(record.number)  # it comes back: its outcome reached nobody
                else:
                    gone.add(record.number)

    def _promote(self, turns: list[_Turn]) -> None:
        """These turns leave the log: what they say of jobs that have not gone since goes into rows. Within a
        transaction.
        """
        gone = self._gone
        change = _Change()
        for turn in turns:
            records = turn.records
            for index in range(self._skip_fresh(turn), len(records)):
                record = records[index]
                if isinstance(record, _OF_A_JOB) and (type(record) is not Finished or record.kept or record.owed):
                    if record.number not in gone:
                        change.put(record)
                elif isinstance(record, Accepted):
                    self._last = max(self._last, record.number)
                    if record.number in gone:
                        self._skipped.add(record.number)
                    else:
                        change.accepted(record)
                elif isinstance(record, Gone):
                    change.end(self._went(record.numbers))
                elif isinstance(record, Finished):
                    change.end(self._went((record.number,)))
                else:
                    change.others.append(record)
        self._apply(change)
        run = self._run
        run("delete from turns where turn <= ?", (turns[-1].number,))
        run("insert or replace into about values ('turn', ?), ('last', ?)", (turns[-1].number, self._last))

    def _skip_fresh(self, turn: _Turn) -> int:
        """Passes the jobs that the turn accepted, where all of them have gone since, which is usual; returns the index
        of the first record that is to be looked at.
        """
        if not turn.fresh:
            return 0
        numbers = {record.number for record in turn.records[: turn.fresh] if isinstance(record, Accepted)}
        if not numbers <= self._gone:
            return 0
        self._skipped |= numbers
        self._last = max(self._last, *numbers)
        return turn.fresh

    def _went(self, numbers: tuple[int, ...]) -> Iterable[int]:
        """Of jobs that went in a turn that leaves the log, those that may have rows."""
        went = set(numbers)
        young = went & self._skipped
        self._gone -= went
        self._skipped -= young
        return went - young

    def _apply(self, change: _Change) -> None:
        run, encode = self._run, self._encoder.encode
        keys = [number * TAGS + tag for number in change.ended for tag in _TAGS.values()]
        self._delete("jobs", "key", keys + change.stale)
        self._delete("bodies", "number", change.ended + change.bodiless)
        self._insert("jobs", [(key, encode(record)) for key, record in change.rows.items()])
        self._insert("bodies", [(number, encode(frames)) for number, frames in change.bodies.items()])
        for record in change.others:
            match record:
                case QueueSet(name, None):
                    run("delete from queues where name = ?", (name,))
                case QueueSet(name):
                    run("insert or replace into queues values (?, ?)", (name, encode(record)))
                case KeyWindow(number, until_ms=0):
                    run("delete from windows where number = ?", (number,))
                case KeyWindow(number):
                    run("insert or replace into windows values (?, ?)", (number, encode(record)))
                case Evicted(accepted_ms):
                    run("insert or replace into about values ('evicted', ?)", (accepted_ms,))
                case Numbered(last):
                    self._last = max(self._last, last)
                case _:
                    raise AssertionError(f"a record that no row holds: {record}")

    def _delete(self, table: str, column: str, values: list[int]) -> None:
        for some in _batches(values, 2 * ROWS_A_STATEMENT):
            marks = _marks("?", len(some))
            self._run(f"delete from {table} where {column} in ({marks})", some)  # noqa: S608 - our names

    def _insert(self, table: str, rows: list[tuple[int, bytes]]) -> None:
        for some in _batches(rows, ROWS_A_STATEMENT):
            values = [value for row in some for value in row]
            marks = _marks("(?, ?)", len(some))
            self._run(f"insert or replace into {table} values {marks}", values)  # noqa: S608 - our names


def _turn(number: int, records: Records, size: int) -> _Turn:
    fresh = 0
    for record in records:  # a journal writes them first
        if type(record) is not Accepted:
            break
        fresh += 1
    return _Turn(number, records, size, fresh)


class _Change:
    """What a promotion does to the rows; first what leaves, then what comes."""

    def __init__(self) -> None:
        self.rows: dict[int, Record] = {}
        self.bodies: dict[int, tuple[bytes, ...]] = {}
        self.ended: list[int] = []
        """Jobs of which nothing remains."""
        self.stale: list[int] = []
        """Keys of single rows that say what is not so any more."""
        self.bodiless: list[int] = []
        """Jobs whose bodies nobody needs any more."""
        self.others: list[Record] = []

    def accepted(self, record: Accepted) -> None:
        """A job of which something remains."""
        size = sum(map(len, record.body))
        if size >= BODY_APART_BYTES_MIN:
            self.bodies[record.number] = record.body
            record = msgspec.structs.replace(record, body=(), size=size, frames=len(record.body))
        self.rows[record.number * TAGS + 1] = record

    def end(self, numbers: Iterable[int]) -> None:
        """Jobs that may have rows, and of which nothing remains."""
        for number in numbers:
            self.ended.append(number)
            self.bodies.pop(number, None)
            for tag in _TAGS.values():
                self.rows.pop(number * TAGS + tag, None)

    def put(self, record: Attempt | Finished | Forgotten | Shared) -> None:
        """What is known of it from here on."""
        number = record.number
        if type(record) is Finished:
            forgotten = number * TAGS + _TAGS[Forgotten]
            self.rows.pop(forgotten, None)
            self.stale.append(forgotten)
            if record.state == COMPLETED:
                self.bodies.pop(number, None)
                self.bodiless.append(number)
        self.rows[number * TAGS + _TAGS[type(record)]] = record


def _weight(turn: _Turn) -> int:
    """What it costs that a turn leaves the log, in bytes of others: to delete a row takes as long as to write one."""
    return turn.size + sum(GONE_BYTES * len(record.numbers) for record in turn.records if type(record) is Gone)


def _nobody() -> None:
    """Nobody waits for commits."""


def _batches(values: list[Any], most: int) -> Iterator[list[Any]]:
    return (values[begin : begin + most] for begin in range(0, len(values), most))


@functools.cache
def _marks(mark: str, count: int) -> str:
    return ", ".join([mark] * count)


def _frames(packed: bytes | None) -> tuple[bytes, ...] | None:
    """A body; None where it is not there, or damaged."""
    if packed is None:
        return None
    try:
        return msgspec.msgpack.decode(packed, type=tuple[bytes, ...])
    except msgspec.MsgspecError:
        return None
