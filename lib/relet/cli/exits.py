"""The exit codes of the programs, in one place; each program's --help lists its own."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a program says by ending."""

    OK = 0
    """All went well; also after a signal, where nobody was owed an answer."""
    JOB_FAILED = 1
    """testclient: a job failed, an answer was wrong, or none came in time. relet: what was asked was not done, or not
    all of it."""
    USAGE = 2
    """The command line cannot be meant, or the project is not set up; one line says what to type."""
    UNREACHABLE = 3
    """broker: an endpoint cannot be bound. testclient, relet: no broker answered within `--wait`, or `--timeout`."""
    OWED = 4
    """broker: it stopped while clients were owed answers, and told each of them that its job failed."""
    STORE_IN_USE = 5
    """broker, relet store: another process has the store."""
    STORE_NEWER = 6
    """The store was written by a later version."""
    STORE_FOREIGN = 7
    """The file is no store of relet."""
    STORE_CORRUPT = 8
    """The store is damaged."""
    STORE_UNWRITABLE = 9
    """The store cannot be opened, read or written: no rights, a read-only disk, no space."""
    STORE_FAILED = 10
    """broker: the store did not keep something while the broker ran; nothing of that was acknowledged."""
    CRASHED = 70
    """testworker: it crashed on purpose (`--crash`)."""
    INTERRUPTED = 130
    """testclient, demo: ended by Ctrl-C, after the summary so far. relet: what was asked may have been done."""
