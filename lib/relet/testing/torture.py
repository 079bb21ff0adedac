"""`python -m relet.testing.torture --minutes M --seed S`: real processes under load, killed at random, and an account.

A broker with a store, workers of both dialects and clients run as processes of their own. At random moments one of
them, or one of each kind, is ended by `kill -9`, and at once started again: the broker on the same store and endpoints,
the clients with the books of their predecessors (`tortured`). Nobody waits for anybody to be ready, so a process may be
killed while it starts. When the kills are over, all that is open must end within the patience, and the account is made
(`account`). The exit code is 1 when a job was lost, an answer was wrong, a failure false, an outcome contradicted, or a
process ended by itself.

The seed draws the jobs, the moments and the victims. What these moments hit is decided by the machine: the same seed
does not play the same run again. The folder of a run that found something is left, with books, logs and store.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from relet.testing.account import Account, Life

TRIES: Final = 5
TIMEOUT_S: Final = 2
"""Of an attempt. What a worker of 2010 answers to a broker that was just killed is gone, and waits for this."""
LIVENESS_S: Final = 2
"""Of a worker: what one had that was killed together with the broker is let again only when the next broker has waited
for it so long, and a broker may not live for the usual ten seconds."""
PACE_S: Final = 1.0
"""From one kill to the next, in the mean."""
PATIENCE_S: Final = 90.0
"""How long after the last kill what is open may take to end."""
READY_S: Final = 30.0
"""How long a process may take to begin."""
STOP_S: Final = 20.0
"""How long a process may take to end in order that has nothing to do any more."""
OUTCOMES_MAX: Final = 1_000_000
"""Of the broker: above what clients ask it to keep in a run."""
BODIES_MEMORY_BYTES_MAX: Final = 64 * 1024
"""Likewise: little, so that bodies are read from the disk, too."""
PROGRESS_S: Final = 10.0
ALL_AT_ONCE: Final = 0.1
"""How often one of each kind is killed at a time."""
VICTIMS: Final = {"broker": 40, "worker": 30, "client": 30}
"""Else how often, in percent."""
SPARED: Final = 0.75
"""How often a broker is spared that does not serve yet: to kill one while it starts is worth a try, and one after
the other would do nothing else."""
PORTS: Final = range(20_000, 32_768)
"""Below those that systems give to connections of their own accord: a peer that keeps connecting to one of these while
the broker is away may connect to itself."""
SHOWN_MAX: Final = 10
LINES_MAX: Final = 15


class Program:
    """A process that is killed and started again, by its id; what it says goes into a file.

    Args:
        name: of its log.
        command: the arguments of the interpreter.
        folder: where the log is.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.lives: list[Life] = []
        """Those that were killed, or have ended."""
        self._command = (sys.executable, "-m", *command)
        self._ready: float | None = None
        self.serves = threading.Event()
        """Whether this life has said that it is ready."""
        self.start()

    def start(self) -> None:
        """Begin a life."""
        self._ready = None
        self.serves.clear()
        self._process = subprocess.Popen(  # noqa: S603 - our own programs
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches who started them, and he ends them in order
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        with process.stdout, self.log.open("ab") as log:
            for line in process.stdout:
                if b"_ready" in line and self._ready is None:
                    self._ready = time.monotonic()
                    self.serves.set()
                log.write(line)

    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def kill(self) -> bool:
        """End its life, wherever it is; False where it had ended by itself."""
        if self._process.poll() is not None:
            return False
        moment = time.monotonic()
        self._process.kill()
        self.ended(moment)
        return True

    def ended(self, moment: float) -> None:
        """Its life is over since then, or will be in a moment."""
        self._process.wait()
        self._reader.join()
        self.lives.append(Life(self._ready, moment))

    def ask_to_end(self) -> None:
        """SIGTERM, when it is ready for that."""
        self.serves.wait(READY_S)
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> int | None:
        """Its exit code, when it has ended; None: it has not, in this time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(max(0.0, seconds))
        return None

    def last_lines(self) -> str:
        """The end of what it has said."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LINES_MAX:])


class Torture:
    """One run.

    Args:
        folder: for the store, the books and the logs; empty.
        seed: any text.
        endpoints: of clients, workers and answers, where the broker can be bound again and again.
        workers: native ones.
        old_workers: those of the dialect of 2010.
        clients: all native.
        pace_s: seconds between kills, in the mean.
        patience_s: seconds for what is open when the kills are over.
        before_broker: called before each broker but the first one, when the one before is dead.
    """

    def __init__(
        self,
        folder: Path,
        seed: str,
        endpoints: tuple[str, str, str],
        *,
        workers: int = 4,
        old_workers: int = 2,
        clients: int = 3,
        pace_s: float = PACE_S,
        patience_s: float = PATIENCE_S,
        before_broker: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.store = folder / "jobs.db"
        self.kills: Counter[str] = Counter()
        self.odd: list[str] = []
        """What became of processes that nobody had killed."""
        self.seconds = 0.0
        self._fate = random.Random(seed)  # noqa: S311 - to be drawn again
        self._seed = seed
        self._endpoints = endpoints
        self._pace_s = pace_s
        self._patience_s = patience_s
        self._before_broker = before_broker
        self._counts = {"worker": workers, "old": old_workers, "client": clients}
        self._programs: dict[str, list[Program]] = {"broker": [], "worker": [], "client": []}

    def run(self, *, seconds: float | None = None, kills: int | None = None, progress: bool = False) -> Account:
        """Kill for so long, or so often, then let all end; the account.

        Raises:
            RuntimeError: the first broker does not serve.
        """
        began = time.monotonic()
        with contextlib.ExitStack() as started:
            started.callback(self._end_all)
            self._start()
            self._kill(seconds, kills, progress=progress)
            self._drain()
        self.seconds = time.monotonic() - began
        clients, workers = (
            [program.log.with_suffix(".book") for program in self._programs[kind]] for kind in ("client", "worker")
        )
        return Account(clients, workers, tries=TRIES)

    @property
    def lives(self) -> list[Life]:
        """Of the broker, one after the other."""
        return self._programs["broker"][0].lives

    def _start(self) -> None:
        clients, workers, answers = self._endpoints
        broker = ("relet.cli.broker", "--store", str(self.store), "-t", f"{TRIES}", "-T", f"{TIMEOUT_S}")
        limits = {"outcomes-max": OUTCOMES_MAX, "bodies-memory-bytes-max": BODIES_MEMORY_BYTES_MAX}
        limits["liveness"] = LIVENESS_S
        chosen = [word for name, value in limits.items() for word in (f"--{name}", f"{value}")]
        self._begin("broker", "broker", *broker, *chosen, "--log-format", "json", *self._endpoints)
        if not self._programs["broker"][0].serves.wait(READY_S):
            raise RuntimeError(f"no broker: {self._programs['broker'][0].last_lines()}")
        for kind, dialect in (("worker", "native"), ("old", "2010")):
            for number in range(self._counts[kind]):
                name = f"{kind}{number}"
                book = str(self.folder / f"{name}.book")
                self._begin("worker", name, "relet.testing.tortured", "worker", book, dialect, workers, answers)
        for number in range(self._counts["client"]):
            book = str(self.folder / f"client{number}.book")
            self._begin("client", f"client{number}", "relet.testing.tortured", "client", book, self._seed, clients)
        for program in (*self._programs["worker"], *self._programs["client"]):
            program.serves.wait(READY_S)

    def _begin(self, kind: str, name: str, *command: str) -> None:
        self._programs[kind].append(Program(name, command, self.folder))

    def _kill(self, seconds: float | None, kills: int | None, *, progress: bool) -> None:
        began = said = time.monotonic()
        due = began
        while (kills is None or self.kills.total() < kills) and (
            seconds is None or time.monotonic() - began < seconds
        ):
            due += self._fate.expovariate(1 / self._pace_s)
            time.sleep(max(0.0, due - time.monotonic()))  # the schedule of kills; nothing is waited for
            self._look_after()
            kinds = list(VICTIMS)
            if self._fate.random() >= ALL_AT_ONCE:
                kinds = self._fate.choices(kinds, list(VICTIMS.values()))
            if self._fate.random() < SPARED and not self._programs["broker"][0].serves.is_set():
                kinds = [kind for kind in kinds if kind != "broker"]
            victims = [(kind, self._fate.choice(self._programs[kind])) for kind in kinds]
            killed = [(kind, program) for kind, program in victims if program.kill()]
            for kind, program in killed:
                self.kills[kind] += 1
                self._start_again(kind, program)
            if progress and time.monotonic() - said >= PROGRESS_S:
                said = time.monotonic()
                sys.stderr.write(f"{said - began:.0f} s, {self.kills.total()} kills\n")

    def _look_after(self) -> None:
        """Starts again what has ended by itself, and takes it down."""
        for kind, programs in self._programs.items():
            for program in programs:
                code = program.code()
                if code is not None:
                    self.odd.append(f"{program.name} ended by itself with {code}:\n{program.last_lines()}")
                    program.ended(time.monotonic())
                    self._start_again(kind, program)

    def _start_again(self, kind: str, program: Program) -> None:
        if kind == "broker":
            self._before_broker()
        program.start()

    def _drain(self) -> None:
        """Clients end when nothing of theirs is open; then workers, then the broker."""
        self._look_after()
        for kind, patience_s in (("client", self._patience_s), ("worker", STOP_S), ("broker", STOP_S)):
            programs = self._programs[kind]
            for program in programs:
                program.ask_to_end()
            until = time.monotonic() + patience_s
            for program in programs:
                code = program.wait(until - time.monotonic())
                if code != 0:
                    said = "did not end" if code is None else f"ended with {code}"
                    self.odd.append(f"{program.name} {said} when it was asked to:\n{program.last_lines()}")
            self._stopped_by_itself(kind)
        (broker,) = self._programs["broker"]
        if not broker.kill():
            broker.ended(time.monotonic())

    def _stopped_by_itself(self, kind: str) -> None:
        """While clients and workers end, the broker must not."""
        (broker,) = self._programs["broker"]
        if kind != "broker" and (code := broker.code()) is not None:
            self.odd.append(f"broker ended by itself with {code}:\n{broker.last_lines()}")

    def _end_all(self) -> None:
        """Whatever happened, nothing that was started here outlives it."""
        for programs in self._programs.values():
            for program in programs:
                program.kill()


def summary(torture: Torture, account: Account) -> str:
    """All of it, for people."""
    jobs, runs = account.repeated
    killed = torture.kills
    lives = torture.lives
    downtimes = account.downtimes(lives)
    unready = sum(life.ready is None for life in lives)
    failed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(account.failed.items())) or "none"
    refused = ", ".join(f"{code} {count:,}" for code, count in sorted(account.refused.items())) or "none"
    rows = {
        "kills": f"{killed.total():,}: broker {killed['broker']:,} ({unready:,} of these before it served), "
        f"worker {killed['worker']:,}, client {killed['client']:,}",
        "attempted": f"{len(account.jobs):,}",
        "acknowledged": f"{account.acknowledged:,}",
        "finished": f"{account.finished:,}; asked for once more: {account.asked_again:,}",
        "failed": f"{failed}; attempts beyond the tries: {account.attempts_beyond:,}",
        "refused": refused,
        "duplicated": f"{jobs:,} jobs, {runs:,} runs beyond the first that no failure accounts for",
        **{kind: f"{len(names):,}" for kind, names in account.complaints().items()},
        "ended oddly": f"{len(torture.odd):,}",
        "downtime": _figures(downtimes),
        "seconds": f"{torture.seconds:.1f}",
    }
    lines = [f"{name:<16}{row}" for name, row in rows.items()]
    for kind, names in account.complaints().items():
        lines += ["", f"{kind}:", *(f"  {account.evidence(name)}" for name in names[:SHOWN_MAX])] if names else []
        lines += ["  too: " + " ".join(names[SHOWN_MAX:])] if len(names) > SHOWN_MAX else []
    lines += [f"\n{odd}" for odd in torture.odd[:SHOWN_MAX]]
    return "\n".join(lines)


def _figures(seconds: Sequence[float]) -> str:
    """Median and 99th percentile, that of so many."""
    if len(seconds) < 2:
        return f"{len(seconds)} outages"
    p99 = statistics.quantiles(seconds, n=100, method="inclusive")[98]
    return f"p50 {statistics.median(seconds):.2f} s, p99 {p99:.2f} s, of {len(seconds)} outages, kill to outcome"


def tcp_endpoints() -> tuple[str, str, str]:
    """Three ports on this machine that are free now and that the system gives to nobody else."""
    found: list[int] = []
    candidates = random.Random(os.getpid())  # noqa: S311 - where to look first
    while len(found) < 3:
        port = candidates.choice(PORTS)
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    clients, workers, answers = (f"tcp://127.0.0.1:{port}" for port in found)
    return clients, workers, answers


def ipc_endpoints(folder: Path) -> tuple[str, str, str]:
    """Three sockets in a folder, whose name must be short."""
    return f"ipc://{folder}/c", f"ipc://{folder}/w", f"ipc://{folder}/a"


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m relet.testing.torture",
        description="Kill broker, workers and clients at random under load, and account for every job.",
    )
    parser.add_argument("--seed", default="1", help="any text; draws jobs, moments and victims (default: 1)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="how long to kill (default: 4)")
    length.add_argument("--kills", type=int, help="how often, instead")
    parser.add_argument("--pace", type=float, default=PACE_S, help=f"seconds between kills, in the mean ({PACE_S:g})")
    parser.add_argument("--workers", type=int, default=4, help="native workers (default: 4)")
    parser.add_argument("--old-workers", type=int, default=2, help="workers of the dialect of 2010 (default: 2)")
    parser.add_argument("--clients", type=int, default=3, help="client processes (default: 3)")
    parser.add_argument("--ipc", action="store_true", help="endpoints in the folder instead of TCP ports")
    parser.add_argument("--keep", action="store_true", help="leave the folder also when nothing was found")
    options = parser.parse_args(arguments)
    minutes = 4.0 if options.minutes is None and options.kills is None else options.minutes
    signal.signal(signal.SIGTERM, _as_interrupt)
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    torture = Torture(
        folder,
        options.seed,
        ipc_endpoints(folder) if options.ipc else tcp_endpoints(),
        workers=options.workers,
        old_workers=options.old_workers,
        clients=options.clients,
        pace_s=options.pace,
    )
    sys.stderr.write(f"seed {options.seed}, in {folder}\n")
    seconds = None if minutes is None else minutes * 60
    try:
        account = torture.run(seconds=seconds, kills=options.kills, progress=True)
    except KeyboardInterrupt:
        sys.stderr.write(f"ended before its time; books, logs and store: {folder}\n")
        return 130
    sys.stdout.write(summary(torture, account) + "\n")
    bad = bool(torture.odd) or any(account.complaints().values())
    if bad or options.keep:
        sys.stdout.write(f"\nbooks, logs and store: {folder}\n")
    else:
        shutil.rmtree(folder)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
