"""A power cut at every write: is all there that was acknowledged, and nothing that never was?

    python -m tests.store.crash_images --images 100000 --seed 1 [--jobs 2] [--sync normal] [--keep FOLDER]

Worlds are played from seeds. In each a process (`workload.py`) keeps turns of records (`history.py`) in a store with a
small log, so that promotion, trimming and checkpoints happen all the time; it closes the store, is killed, or has a
disk on which a write, a sync or a truncation fails once, or from then on; and the next goes on with what it left. What
they do to the disk is followed call by call (`disk.py`). Before each call that changes it the power is cut: some of the
disks that this can leave are opened as a broker opens them. Such a disk must hold exactly what was known after the last
turn that had been acknowledged, or after the one that had been begun, and SQLite must find nothing wrong with it. What
a store holds that was taken over counts as acknowledged, because the broker tells it to whoever asks. One of the disks
is where the world goes on.

An image is `lost` where something acknowledged is missing, `invented` where there is something that no turn left so,
and `corrupt` where it cannot be read. The exit code is 1 when there is any of these.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from relet.messages import Record
from relet.store import StoreUnusable
from relet.store.sqlite import SqliteStore

from . import disk
from .history import History, Known, held, known
from .workload import Plan

WORLD_IMAGES: Final = 5_000
FAULTS: Final = {
    "kill write": 400,
    "kill sync": 50,
    "eio sync": 50,
    "eio write": 400,
    "enospc write": 400,
    "eio truncate": 3,
}
"""Each happens at a call between the first and this one."""
BAD: Final = ("lost", "invented", "corrupt")


class Moment(NamedTuple):
    """What a store must know after a turn."""

    known: Known
    records: list[Record]


class Found(NamedTuple):
    """What an image holds."""

    verdict: str
    """"whole", or one of `BAD`."""
    turn: int
    epoch: int
    why: str


class World:
    """One disk, and all that happens to it."""

    def __init__(self, seed: str, library: Path, folder: Path, *, sync: str = "full", share: float = 1.0) -> None:
        """`share`: of the moments at which the power may be cut, so many are looked at."""
        self.tally: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.bad_images: list[disk.Image] = []
        self._seed, self._library, self._sync, self._share = seed, library, sync, share
        self._chance = random.Random(seed)
        self._live, self._scratch = folder / "live", folder / "scratch"
        for it in (self._live, self._scratch):
            it.mkdir(parents=True)
        self._log, self._plan = folder / "log", folder / "plan"
        self._changed = True
        """What the disk may hold, since the power was last cut."""
        self._begin()

    def _begin(self) -> None:
        """An empty disk."""
        self._disk = disk.Disk({})
        self._turns, self._epochs = [0, 0], [0, 0]
        """What is safe, and what was begun."""
        self._moments = {0: Moment({}, [])}
        self._base = 0
        """The turn that the process found which has the store."""
        self._undone: dict[int, Moment] = {}
        """What later turns had begun that a process before it did not settle and it did not find."""

    def _goes_on(self, left: Found) -> None:
        """The next process finds this; it is safe when that has taken it over. Until then a power cut may bring back
        what the one before had begun and not settled.
        """
        begun = {it: moment for it, moment in self._moments.items() if it <= self._turns[1]} | self._undone
        self._moments = {it: moment for it, moment in begun.items() if self._turns[0] <= it <= left.turn}
        self._undone = {it: moment for it, moment in begun.items() if it > left.turn}
        self._base = self._turns[1] = left.turn
        self._epochs[1] = max(left.epoch, self._epochs[1])

    def play(self, images: int) -> None:
        """Goes on until so many images were looked at."""
        chance = self._chance
        while self.tally["images"] < images:
            for _ in range(chance.randint(1, 3)):
                fault = chance.choice(list(FAULTS)) if chance.random() < 0.4 else ""
                self.process(chance.randint(3, 40), f"{fault} {chance.randint(1, FAULTS[fault])}" if fault else "")
            self.power_cut()

    def power_cut(self) -> None:
        """And the world goes on with what it left."""
        image = self._disk.after_power_cut(self._chance)
        self.tally["power cuts gone on from"] += 1
        left = self._look(image)
        if left.verdict == "whole":
            self._disk = disk.Disk(image)
            self._goes_on(left)
            self._undone = {}
        else:
            self._begin()

    # --- One process

    def process(self, turns: int, fault: str = "", closes: bool | None = None) -> None:
        """One that keeps so many turns; when it has gone, the machine goes on. `closes`: None, as chance has it."""
        self._run(turns, fault, closes)
        self.tally["processes"] += 1
        for event in disk.events(self._log):
            self._happened(event)
        left = self._look(self._disk.now())
        if left.verdict == "whole":
            self._goes_on(left)
        else:
            self._begin()

    def _run(self, count: int, fault: str, closes: bool | None) -> None:
        chance = self._chance
        _fill(self._live, self._disk.now())
        history = History(chance, self._turns[1], self._moments[self._turns[1]].records)
        turns = []
        for _ in range(count):
            turns.append(history.next())
            self._moments[history.turn] = Moment(history.known(), history.records())
        plan = Plan(
            str(self._live / "jobs.db"),
            self._sync,  # type: ignore[arg-type]
            chance.choice((0, 1_000, 4_000, 20_000)),
            chance.choice((4, 12, 50)),
            self._epochs[1] + 1,
            turns,
            closes=chance.random() < 0.4 if closes is None else closes,
        )
        self._plan.write_bytes(msgspec.msgpack.encode(plan))
        self._log.unlink(missing_ok=True)
        command = [sys.executable, str(Path(__file__).with_name("workload.py")), str(self._plan)]
        surroundings = disk.surroundings(self._library, self._live, self._log, fault)
        code = subprocess.run(command, env=surroundings, check=False).returncode
        if code not in (0, -signal.SIGKILL):
            raise AssertionError(f"world {self._seed}: the process that works ended with {code}")

    def _happened(self, event: disk.Event) -> None:
        if event.kind == "M":
            self._mark(event.data.decode())
            return
        self.tally["faults"] += event.kind == "X"
        if self._changed and self._chance.random() < self._share:
            self._cut()
        self._changed = self._disk.follow(event)

    def _mark(self, text: str) -> None:
        match text.split():
            case "turn", "begun", number:
                self._turns[1] = int(number)
            case "turn", "safe", number:
                self._turns[0] = int(number)
            case "epoch", "begun", number:
                self._epochs[1] = int(number)
            case "epoch", "safe", number:
                self._epochs[0] = int(number)
                self._turns[0] = self._base
                self._undone = {}

    def _cut(self) -> None:
        self.tally["moments"] += 1
        for _ in range(2 if self._disk.unsafe() else 1):
            self._look(self._disk.after_power_cut(self._chance))

    # --- One image

    def _look(self, image: disk.Image) -> Found:
        found = self._judged(image)
        self.tally["images"] += 1
        self.tally[found.verdict] += 1
        if found.verdict != "whole":
            self.complaints.append(f"world {self._seed}, image {self.tally['images']}: {found.verdict}: {found.why}")
            self.bad_images.append(image)
        return found

    def _judged(self, image: disk.Image) -> Found:
        _fill(self._scratch, image)
        try:
            store = SqliteStore(self._scratch / "jobs.db", threaded=False)
        except StoreUnusable as error:
            return Found("corrupt", 0, 0, str(error))
        try:
            turn, epoch = store.settled(), store.epoch
            found = known(held(store))
            store.take_over(epoch + 1)
            ((check, *_),) = store._run("pragma integrity_check(1)").fetchall()
        except Exception as error:  # noqa: BLE001 - whatever comes of damage
            return Found("corrupt", 0, 0, repr(error))
        finally:
            store.close()
        verdict, why = "whole", ""
        if check != "ok":
            verdict, why = "corrupt", check
        elif turn < self._turns[0] or epoch < self._epochs[0]:
            verdict, why = "lost", f"it is at turn {turn}, epoch {epoch}; safe were {self._turns[0]}, {self._epochs[0]}"
        elif (meant := self._meant(turn)) is None or epoch > self._epochs[1]:
            verdict, why = "invented", f"turn {turn}, epoch {epoch}; begun were {self._turns[1]}, {self._epochs[1]}"
        elif found != meant:
            missing = sorted(str(it) for it in meant if it not in found)
            more = sorted(str(it) for it in found if it not in meant)
            other = sorted(str(it) for it in meant if it in found and found[it] != meant[it])
            verdict = "lost" if missing or other else "invented"
            why = f"turn {turn}: missing {missing[:5]}, too many {more[:5]}, otherwise {other[:5]}"
        return Found(verdict, turn, epoch, why)

    def _meant(self, turn: int) -> Known | None:
        """What must be known after this turn; None where nobody began it."""
        moment = self._undone.get(turn) or (self._moments.get(turn) if turn <= self._turns[1] else None)
        return None if moment is None else moment.known


def _fill(folder: Path, image: disk.Image) -> None:
    for path in folder.iterdir():
        if path.name not in image:
            path.unlink()
    for name, contents in image.items():
        (folder / name).write_bytes(contents)


def play(
    seed: str, images: int, *, library: Path, keep: Path | None = None, **options: Any
) -> tuple[Counter[str], list[str]]:
    """One world, in memory where there is room for it: its tally and its complaints. `keep`: where bad images go."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        world = World(seed, library, Path(folder), **options)
        world.play(images)
    if keep is not None:
        for number, image in enumerate(world.bad_images):
            place = keep / f"{seed.replace('/', '-')}-{number}"
            place.mkdir(parents=True, exist_ok=True)
            _fill(place, image)
    return world.tally, world.complaints


def memory() -> str | None:
    """A folder that is no disk, where there is one: images are made by the thousand."""
    return "/dev/shm" if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free > 1 << 30 else None


def _worlds(values: argparse.Namespace, library: Path) -> Iterator[tuple[Counter[str], list[str]]]:
    count = -(-values.images // WORLD_IMAGES)
    options: dict[str, Any] = {"library": library, "sync": values.sync, "keep": values.keep}
    with ProcessPoolExecutor(values.jobs) as pool:
        asked = [
            pool.submit(play, f"{values.seed}/{number}", -(-values.images // count), **options)
            for number in range(count)
        ]
        for it in asked:
            yield it.result()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="crash_images", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes that play worlds")
    parser.add_argument("--sync", choices=("full", "normal", "off"), default="full")
    parser.add_argument("--keep", type=Path, help="a folder for images that are bad")
    values = parser.parse_args()
    began, total = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            library = disk.compiled(Path(folder))
        except disk.NoCompiler as error:
            print(f"crash_images: {error}", file=sys.stderr)
            return 2
        for tally, complaints in _worlds(values, library):
            total += tally
            for complaint in complaints[:5]:
                print(complaint)
    took = time.monotonic() - began
    found = ", ".join(f"{total[verdict]:,} {verdict}" for verdict in BAD)
    print(
        f"{total['images']:,} images at {total['moments']:,} moments: {found} (sync {values.sync}, seed {values.seed};"
        f" {total['processes']:,} processes, {total['faults']:,} faults, {total['power cuts gone on from']:,} power"
        f" cuts gone on from; {took:.0f} s, {total['images'] / took:.0f} images/s)"
    )
    return int(any(total[verdict] for verdict in BAD))


if __name__ == "__main__":
    sys.exit(main())
