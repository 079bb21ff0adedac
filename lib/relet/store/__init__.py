"""Stores keep the records of the machine. `Store` is the seam; every store passes one exercise (`tests/store/`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from relet.core.effects import Notice
from relet.messages import Record, Records

__all__ = ["BackupRefused", "BackupState", "Store", "StoreFailed", "StoreUnusable"]


class StoreFailed(Exception):
    """The store did not keep what it was given: the broker acknowledges nothing more and stops."""


class StoreUnusable(Exception):
    """The store cannot be had; nothing was changed in it.

    `code`: `in_use`; `newer` (written by a later version); `foreign` (it is something else); `corrupt`; `unwritable` (a
    read-only disk, no rights, no space, a disk that does not work).
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class BackupRefused(Exception):
    """The store is not copied. `code`: `exists`, `busy` (another copy is being made), `disk_full`, `no_store`,
    `bad_request`.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class BackupState(NamedTuple):
    """How far a copy is."""

    path: str
    state: Literal["running", "done", "failed"]
    done_bytes: int = 0
    total_bytes: int = 0
    """As the store is now: it may grow meanwhile."""
    text: str = ""
    """Why it failed."""


class Store(Protocol):
    """Keeps records, turn by turn. Nothing here blocks for longer than it takes to hand over."""

    name: str
    """What to call it when it is spoken of: its path, or a word."""
    durable: bool
    """What it keeps outlives the process: a broker that stops leaves its open jobs to the next one."""

    apart_bytes_min: int
    """Bodies from this size on are kept where they can be read one by one (`bodies`), once their turns are `promoted`:
    so memory need not have them."""

    seal_key: bytes
    """32 random bytes that it was made with (`core.seals`); b"": what it keeps does not outlive the process."""

    def take_notices(self) -> list[Notice]:
        """What has happened in the store itself since this was asked last, to be published."""

    def load(self) -> Iterable[Record]:
        """What was kept, as records from which `Machine.load` builds the same jobs again, in the same order. With
        `Numbered`, the highest number that a job was accepted with, which outlives all that is known of the job.
        Bodies that can be read one by one are not among it, but their sizes (`Accepted.apart`).
        """

    def busy(self) -> bool:
        """A commit is under way: what is to be kept gathers until it is over, and is given in one piece."""

    def append(self, turn: int, records: Records) -> None:
        """Takes the records of a turn, or of all turns since the last. Turns only grow. Raises `StoreFailed`."""

    def settled(self) -> int:
        """The last turn that is safe, and all before it; 0 when none is. Raises `StoreFailed`."""

    def promoted(self) -> int:
        """The last turn of which that is so: of the jobs accepted in it, and before it, those that are not completed
        have their bodies, if they are not small, where they can be read.
        """

    def bodies(self, numbers: Sequence[int]) -> list[tuple[bytes, ...] | None]:
        """The frames of the bodies of these jobs, whatever commit is under way; None where there are none, or they
        cannot be read. Raises `StoreFailed` where the disk does not work.
        """

    def rings(self, ring: Callable[[], None]) -> None:
        """Calls this, from any thread, when `settled` may have grown, or fails now."""

    def take_over(self, epoch: int) -> int:
        """The broker that has the store from now on, after it has loaded it; returns its epoch: this number, or the
        next after the last one, whichever is more. What a broker of an earlier epoch appends is refused. Until then a
        store on disk is as it was.
        """

    @property
    def full(self) -> bool:
        """There is no room for new jobs; open ones can end."""

    def watch(self, free_bytes_min: int) -> None:
        """From now on it is `full` while its disk has less room than this."""

    def back_up(self, path: str) -> BackupState:
        """Begins a copy in a new file, which goes on beside the commits and then holds all that was settled before its
        end. Raises `BackupRefused`.
        """

    def backup_state(self) -> BackupState | None:
        """How far the last copy is; None: there was none."""

    def close(self) -> None:
        """Makes safe what can be made safe, and ends."""
