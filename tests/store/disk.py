"""A disk as it may be after a power cut, built from what a program did to the files of one folder.

`disk.c`, which is compiled here and loaded before libc, writes down each write, truncation, sync, unlink and rename.
`Disk` follows that and knows, for each file, what is safe - all that was there at its last sync - and what has been
done since. After a power cut any part of that may be there: whole writes in any order, single sectors of 512 bytes of a
write, a file longer or shorter than what was written to it, a name that was made or not, removed or not. What was never
written in a file that has grown holds zeros, or anything.

A write that came back from a sync that failed may never reach the disk, though reading shows it, unless it is written
again: so does Linux (https://wiki.postgresql.org/wiki/Fsync_Errors).
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = Path(__file__).with_name("disk.c")
SECTOR: Final = 512
MARKS: Final = "marks"
"""The file by which a program says how far it is."""
_EVENT: Final = struct.Struct("<c3xIQQ")

Image = dict[str, bytes]
"""Names and contents of the files in a folder."""


class NoCompiler(Exception):
    """There is nothing here that compiles C."""


def compiled(folder: Path) -> Path:
    """The library of `disk.c`, made in this folder. Raises `NoCompiler`."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler or not Path("/proc/self").exists():
        raise NoCompiler("disk.c, which watches what is done to a disk, needs Linux and a C compiler (cc, gcc, clang)")
    library = folder / "disk.so"
    flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    command = [*compiler.split(), *flags, "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoCompiler(f"{compiler} does not compile disk.c: {done.stderr[:500]}")
    return library


def surroundings(library: Path, folder: Path, log: Path, fault: str = "") -> dict[str, str]:
    """The environment of a program that is watched, or to which a fault happens: "HOW WHAT N" (`disk.c`)."""
    watched = {"LD_PRELOAD": str(library), "RELET_DISK_FOLDER": str(folder), "RELET_DISK_LOG": str(log)}
    return {**os.environ, **watched, "RELET_DISK_FAULT": fault}


class Event(NamedTuple):
    """One thing that was done. `kind` is a letter of `disk.c`."""

    kind: str
    handle: int
    at: int
    data: bytes


def events(log: Path) -> Iterator[Event]:
    """What a log says, in order."""
    text = log.read_bytes()
    position = 0
    while position < len(text):
        kind, handle, at, count = _EVENT.unpack_from(text, position)
        position += _EVENT.size
        yield Event(kind.decode(), handle, at, text[position : position + count])
        position += count


class _Change:
    """Something that was done to a file and may not have reached the disk."""

    __slots__ = ("doomed", "file", "order", "pieces", "size")

    def __init__(self, order: int, file: _File, pieces: dict[int, bytes], size: int) -> None:
        self.order, self.file, self.pieces, self.size = order, file, pieces, size
        """The sectors as they were after it, by offset; and the size of the file."""
        self.doomed = False
        """A sync of it failed: no later one makes it safe."""


class _File:
    """An inode."""

    def __init__(self, contents: bytes = b"") -> None:
        self.current, self.durable = bytearray(contents), bytearray(contents)
        self.changes: list[_Change] = []

    def synced(self) -> None:
        """All is safe but what an earlier sync gave up."""
        doomed: list[_Change] = []
        for change in self.changes:
            if change.doomed:
                doomed.append(change)
                continue
            _apply(self.durable, change, change.pieces)
            for other in doomed:
                cut = () if change.pieces else [at for at in other.pieces if at >= change.size]
                for at in (*change.pieces, *cut):
                    other.pieces.pop(at, None)
        _resize(self.durable, len(self.current))
        self.changes = [change for change in doomed if change.pieces]


class _Naming(NamedTuple):
    """A name that was made (`file`), or removed (None)."""

    order: int
    names: tuple[tuple[str, _File | None], ...]


def _apply(contents: bytearray, change: _Change, pieces: dict[int, bytes]) -> None:
    if not change.pieces and change.size < len(contents):
        del contents[change.size :]
    for at, piece in pieces.items():
        if at > len(contents):
            contents += bytes(at - len(contents))
        contents[at : at + len(piece)] = piece


def _resize(contents: bytearray, size: int) -> None:
    del contents[size:]
    contents += bytes(size - len(contents))


class Disk:
    """The files of one folder, as the program sees them and as they may be after a power cut."""

    def __init__(self, image: Image) -> None:
        self._names = {name: _File(contents) for name, contents in image.items()}
        self._durable_names = dict(self._names)
        self._namings: list[_Naming] = []
        self._handles: dict[int, _File] = {}
        self._folders: set[int] = set()
        self._order = 0

    def now(self) -> Image:
        """What the program sees."""
        return {name: bytes(file.current) for name, file in self._names.items()}

    def unsafe(self) -> bool:
        """Whether a power cut can leave more than one thing here."""
        files = (*self._names.values(), *self._durable_names.values())
        return bool(self._namings) or any(file.changes for file in files)

    # --- What is done

    def follow(self, event: Event) -> bool:
        """The same again. Whether it changed what the disk may hold."""
        self._order += 1
        match event.kind:
            case "P":
                self._handles, self._folders = {}, set()
            case "O":
                return self._opened(event)
            case "W":
                file = self._handles[event.handle]
                self._written(file, event.at, event.data)
            case "T":
                file = self._handles[event.handle]
                if event.at == len(file.current):
                    return False
                if event.at > len(file.current):
                    self._written(file, len(file.current), bytes(event.at - len(file.current)))
                else:
                    del file.current[event.at :]
                    file.changes.append(_Change(self._order, file, {}, event.at))
            case "S" if event.handle in self._folders:
                self._namings, self._durable_names = [], dict(self._names)
            case "S":
                self._handles[event.handle].synced()
            case "F":
                if event.handle not in self._folders:
                    for change in self._handles[event.handle].changes:
                        change.doomed = True
            case "U":
                self._name((event.data.decode(), None))
            case "R":
                old, new = event.data.decode().split("/")
                self._name((old, None), (new, self._names[old]))
            case _:
                return False
        return event.kind != "P"

    def _opened(self, event: Event) -> bool:
        name = event.data.decode()
        if not name:
            self._folders.add(event.handle)
            return False
        made = name not in self._names
        if made:
            self._name((name, _File()))
        self._handles[event.handle] = file = self._names[name]
        if event.at and file.current:
            file.current.clear()
            file.changes.append(_Change(self._order, file, {}, 0))
        return made

    def _written(self, file: _File, at: int, data: bytes) -> None:
        current, end = file.current, at + len(data)
        begin = min(at, len(current)) // SECTOR * SECTOR
        if at > len(current):
            current += bytes(at - len(current))
        current[at:end] = data
        pieces = {place: bytes(current[place : place + SECTOR]) for place in range(begin, end, SECTOR)}
        file.changes.append(_Change(self._order, file, pieces, len(current)))

    def _name(self, *names: tuple[str, _File | None]) -> None:
        self._namings.append(_Naming(self._order, names))
        for name, file in names:
            if file is None:
                del self._names[name]
            else:
                self._names[name] = file

    # --- After a power cut

    def after_power_cut(self, chance: random.Random) -> Image:
        """What may be there, as chance has it."""
        way = chance.choice((_Ordered, _Ordered, _Sectors, _Sectors, _Changes))(chance, self._order)
        names = dict(self._durable_names)
        for naming in self._namings:
            if way.takes(naming.order):
                for name, file in naming.names:
                    if file is None:
                        names.pop(name, None)
                    else:
                        names[name] = file
        return {name: self._contents(file, way, chance) for name, file in names.items()}

    def _contents(self, file: _File, way: _Way, chance: random.Random) -> bytes:
        if not file.changes:
            return bytes(file.durable)
        contents = bytearray(file.durable)
        written: set[int] = set()
        for change in file.changes:
            if not change.pieces:
                if way.takes(change.order):
                    _apply(contents, change, {})
                continue
            pieces = way.pieces(change)
            written |= pieces.keys()
            _apply(contents, change, pieces)
        if chance.random() < way.odd_sizes:
            size = chance.choice([len(file.durable), *(change.size for change in file.changes)])
            grown = range(len(contents), size, SECTOR)
            _resize(contents, size)
            if chance.random() < 0.5:
                for at in grown:
                    contents[at : at + SECTOR] = chance.randbytes(min(SECTOR, size - at))
        if chance.random() < way.odd_sizes:  # sectors that no write reached, though the file has grown beyond them
            first = -(-len(file.durable) // SECTOR) * SECTOR
            for at in range(first, len(contents), SECTOR):
                if at not in written:
                    contents[at : at + SECTOR] = chance.randbytes(min(SECTOR, len(contents) - at))
        return bytes(contents)


class _Way:
    """Which of the changes reached the disk."""

    odd_sizes = 0.0

    def __init__(self, chance: random.Random, last: int) -> None:
        self._chance = chance

    def takes(self, order: int) -> bool:
        """This one did, as a whole."""
        raise NotImplementedError

    def pieces(self, change: _Change) -> dict[int, bytes]:
        """These sectors of it did."""
        return change.pieces if self.takes(change.order) else {}


class _Ordered(_Way):
    """In the order in which they were made, up to some moment, in the middle of a write."""

    def __init__(self, chance: random.Random, last: int) -> None:
        super().__init__(chance, last)
        self._last = last - int(chance.expovariate(0.2)) if chance.random() < 0.8 else -1
        self.torn = chance.random() < 0.7

    def takes(self, order: int) -> bool:
        return order <= self._last

    def pieces(self, change: _Change) -> dict[int, bytes]:
        if change.order == self._last and self.torn:
            count = self._chance.randint(0, len(change.pieces))
            return dict(list(change.pieces.items())[:count])
        return super().pieces(change)


class _Changes(_Way):
    """Some of them, each as a whole, whatever their order."""

    odd_sizes = 0.2

    def __init__(self, chance: random.Random, last: int) -> None:
        super().__init__(chance, last)
        self._share = chance.choice((0.1, 0.5, 0.5, 0.9, 0.98))

    def takes(self, order: int) -> bool:
        return self._chance.random() < self._share


class _Sectors(_Changes):
    """Some sectors of each."""

    def pieces(self, change: _Change) -> dict[int, bytes]:
        chance, share = self._chance, self._share
        return {at: piece for at, piece in change.pieces.items() if chance.random() < share}
