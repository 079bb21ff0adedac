"""The file of a store: whose it is, whether it is one, and why it cannot be had."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from relet.store import StoreFailed, StoreUnusable
from relet.store.schema import APPLICATION_ID, VERSION

BUSY_MS: Final = 0
"""Nobody else may have the file, so there is nobody to wait for."""
PAGE_BYTES: Final = 4096
"""Of a new file. Of 8 KiB a busy commit would be a twentieth cheaper, and a body of 4 KiB would fill two of these."""
RESTORE: Final = "restore it from a backup, or name another file"
ELSEWHERE: Final = "look after its disk, or name a file on another one"
DAMAGES: Final = (sqlite3.Error, msgspec.MsgspecError, TypeError, ValueError, LookupError)
"""What comes of reading a file in which something is not as it was written."""


def lock(path: Path, *, make: bool) -> int:
    """A descriptor of the file, which is ours alone until it is closed. `make`: make one where there is none. Raises
    `StoreUnusable`.
    """
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            if not make:
                raise StoreUnusable("unwritable", f"there is no file {path}") from None
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUnusable("unwritable", f"{path} cannot be {_why_not(path, error)}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreUnusable("foreign", f"{path} is no file that can hold a store: name another one")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise StoreUnusable("unwritable", f"{path} cannot be locked: {os.strerror(error.errno or 0)}") from error
        text = f"{path} is in use by another broker, or by `relet store`: stop that one, or name another file"
        raise StoreUnusable("in_use", text) from error
    return descriptor


def _why_not(path: Path, error: OSError) -> str:
    why = os.strerror(error.errno or 0)
    if not path.parent.exists():
        return f"made: there is no folder {path.parent}; make it first"
    if path.is_dir():
        return "a store: it is a folder; name a file in it"
    if path.exists():
        return f"opened to write ({why}): mend that, or name another file"
    return f"made in its folder ({why}): mend that, or name another file"


def reader_of(path: Path) -> sqlite3.Connection | None:
    """A connection that cannot write, because others tidy up behind a program that was killed, in whose file ever. None
    where nothing is to be read: the file is empty, or its making was cut short, and SQLite makes it so again. Raises
    `StoreUnusable` where the file must not be empty.
    """
    size, log_size = size_of(path), size_of(path, "-wal")
    if size == 0 and log_size:
        raise StoreUnusable("corrupt", f"{path} is empty, but there is a log beside it: {RESTORE}")
    if size == 0 or (size <= PAGE_BYTES and size_of(path, "-journal")):
        return None
    how = "mode=ro" if log_size else "immutable=1"
    reader = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True, isolation_level=None)
    reader.execute(f"pragma busy_timeout = {BUSY_MS}")
    return reader


def version_of(path: Path, reader: sqlite3.Connection) -> int:
    """The version of a store; 0: there is nothing in it. Raises `StoreUnusable` where it is not ours to open."""
    read = reader.execute
    (application,), (version,) = read("pragma application_id").fetchone(), read("pragma user_version").fetchone()
    (tables,) = read("select count(*) from sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreUnusable("foreign", f"{path} is a database of some other program: name another file")
    if version > VERSION:
        raise StoreUnusable(
            "newer",
            f"{path} was written by a later version of relet (format {version}, this one knows {VERSION}):"
            " start that version, or name another file",
        )
    return int(version)


def size_of(path: Path, suffix: str = "") -> int:
    """Bytes of the file, or of one beside it; 0 where there is none."""
    try:
        return Path(f"{path}{suffix}").stat().st_size
    except FileNotFoundError:
        return 0


def code_of(error: Exception) -> int:
    """What SQLite calls the error, without the details; 0: it is none of SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def write_again(path: Path) -> None:
    """Writes the log that a process left beside the file once more, as it is. After a sync that failed some of it may
    stand in the system's memory alone: we would read it, and no later sync would bring it to the disk, for Linux takes
    for clean what it could not write (https://wiki.postgresql.org/wiki/Fsync_Errors). Raises `OSError`.
    """
    try:
        log = os.open(f"{path.resolve()}-wal", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        at = 0
        while piece := os.pread(log, 1 << 20, at):
            at += os.pwrite(log, piece, at)
        os.fsync(log)
    finally:
        os.close(log)


def give_name(made: Path, path: Path) -> None:
    """Calls a new file by its name for good, and takes nobody's place. Raises `FileExistsError` where there is one."""
    try:
        os.link(made, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if path.exists():  # a file system without links: a moment remains in which somebody else may make it
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        made.rename(path)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Makes safe the names of the file and of the log beside it. Else a power cut may leave one of them without the
    other, or bring back a log that the process before has removed. SQLite does that, too, and does not look whether it
    succeeds. Raises `OSError`.
    """
    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def unusable(path: Path, error: Exception) -> StoreUnusable:
    """What an error says of a file that was to be opened."""
    if isinstance(error, OSError):
        text = f"{path} cannot be read, written or made safe ({os.strerror(error.errno or 0)}): {ELSEWHERE}"
        return StoreUnusable("unwritable", text)
    code = code_of(error)
    if code == sqlite3.SQLITE_FULL:
        return StoreUnusable("unwritable", f"{path} cannot be written: there is no room left on its disk")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        text = f"{path} cannot be written, or no files made beside it ({error}): mend that, or name another file"
        return StoreUnusable("unwritable", text)
    if code == sqlite3.SQLITE_IOERR:
        return StoreUnusable("unwritable", f"{path} cannot be read or written ({error}): look after its disk")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        text = f"{path} is in use by another program, which is no broker: end that one, or name another file"
        return StoreUnusable("in_use", text)
    if code == sqlite3.SQLITE_NOTADB:
        return StoreUnusable("foreign", f"{path} is not a store, nor any SQLite file: name another file")
    what = str(error) if isinstance(error, sqlite3.Error | msgspec.MsgspecError) else repr(error)
    text = f"{path} is damaged ({what}): {RESTORE}; `relet store check` says more"
    return StoreUnusable("corrupt", text)


def failed(path: Path, error: sqlite3.Error) -> StoreFailed:
    """What an error says of a commit."""
    return StoreFailed(f"{path} did not take what it was given: {error}")
