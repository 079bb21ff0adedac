"""make demo: a broker, two workers that drop a tenth of their jobs, and a client, with everything on one screen.

The broker and the workers are the programs themselves, as processes of their own; what they say is shown behind their
names, above the client's live line. The broker takes ports of the system's choice and its banner tells which. Whatever
happens, Ctrl-C included, nothing that was started here outlives it: each process is ended by its own id.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

from relet.cli import report, testclient
from relet.cli.exits import Exit
from relet.cli.logs import configure
from relet.cli.parser import Parser, fail, say
from relet.cli.quantities import count

if TYPE_CHECKING:
    from types import FrameType

PROGRAM = "demo"
TRIES = 3
TIMEOUT_SECONDS = 2
WORKERS = 2
DROP_RATE = 0.1
THREADS = 4
JOBS = 100
WINDOW = 6
SLOW = "10ms"
DRAIN = "500ms"
READY_SECONDS_MAX = 15.0
END_SECONDS_MAX = 5.0
LINE_SECONDS = 1.0
"""How often progress is told where there is no terminal."""
ENDPOINT = re.compile(r"^  (clients|workers|answers) +(\S+)$")
NEXT_COMMAND = re.compile(r"/test(worker|client)\.py ")
DESCRIPTION = f"""\
Starts a broker (-t {TRIES} -T {TIMEOUT_SECONDS}) and {WORKERS} workers that drop {DROP_RATE:.0%} of their jobs,
sends jobs and shows what happens."""
EXAMPLES = """\
  make demo
  make demo ARGS='--jobs 1000'"""


class Process:
    """A program of this project that was started here."""

    def __init__(self, name: str, module: str, *arguments: str) -> None:
        self.name = name
        # A session of its own: Ctrl-C reaches the demonstration alone, which ends the others in order.
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", f"relet.cli.{module}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._readers: list[threading.Thread] = []

    def follow(self, tell: Callable[[str, str], None]) -> None:
        """Tell each line of the program's output, by (name, line), from a thread."""
        reader = threading.Thread(target=self._read, args=(tell,), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _read(self, tell: Callable[[str, str], None]) -> None:
        output = self._process.stdout
        if output is not None:
            for line in output:
                tell(self.name, line.rstrip())

    def end(self) -> None:
        """Ask it to end, and make it."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_SECONDS_MAX / 2)
        for reader in self._readers:
            reader.join(END_SECONDS_MAX)
        output: IO[str] | None = self._process.stdout
        if output is not None:
            output.close()


class Endpoints:
    """What the broker's banner says."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._all = threading.Event()

    def look(self, line: str) -> None:
        """Take note of a line of the banner."""
        found = ENDPOINT.match(line)
        if found:
            self._found[found[1]] = found[2]
            if len(self._found) == 3:
                self._all.set()

    def wait(self) -> dict[str, str]:
        """Role -> endpoint, when the broker is bound."""
        if not self._all.wait(READY_SECONDS_MAX):
            fail(Exit.UNREACHABLE, f"the broker was not ready within {READY_SECONDS_MAX:g} s", program=PROGRAM)
        return self._found


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration; the exit code."""
    parser = Parser(
        PROGRAM,
        usage="[--jobs N] [--seed N]",
        description=DESCRIPTION,
        examples=EXAMPLES,
        exits={Exit.OK: "every job had an honest end", Exit.JOB_FAILED: "one had not", Exit.INTERRUPTED: "Ctrl-C"},
    )
    parser.add_argument("--jobs", type=count, default=JOBS, metavar="N", help=f"jobs of each client thread [{JOBS}]")
    parser.add_argument("--seed", type=int, metavar="N", help="the workers drop the same in every run [drawn]")
    values = parser.parse(arguments)
    signal.signal(signal.SIGTERM, _as_interrupt)
    signal.signal(signal.SIGHUP, _as_interrupt)
    try:
        with contextlib.ExitStack() as started:
            return demonstrate(values, started)
    except KeyboardInterrupt:
        say(f"{PROGRAM}: ended before it began")
        return Exit.INTERRUPTED


def demonstrate(values: argparse.Namespace, started: contextlib.ExitStack) -> int:
    """The whole play; every process that it starts is ended by `started`."""
    endpoints = Endpoints()

    def start(name: str, module: str, *arguments: str) -> Process:
        process = Process(name, module, *arguments)
        started.callback(process.end)
        return process

    def tell(name: str, line: str) -> None:
        if name == "broker":
            endpoints.look(line)
        if (name == "broker" and not NEXT_COMMAND.search(line)) or "on purpose" in line or "tally" in line:
            # Through sys.stdout, whatever that is now: the live line moves out of the way.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.write(f"{name:<8} | {line}\n")
                sys.stdout.flush()

    broker = start(
        "broker",
        "broker",
        *("-t", f"{TRIES}", "-T", f"{TIMEOUT_SECONDS}", "--drain", DRAIN, "--log-format", "console", "0", "0", "0"),
    )
    broker.follow(tell)
    bound = endpoints.wait()
    for number in range(1, WORKERS + 1):
        seed = [] if values.seed is None else ["--seed", f"{values.seed + number}"]
        places = (bound["workers"], bound["answers"])
        worker = start(f"worker {number}", "testworker", *places, f"{DROP_RATE}", "--slow", SLOW, *seed)
        worker.follow(tell)
    client = testclient.build_parser().parse(
        ["-n", f"{THREADS}", "--jobs", f"{values.jobs}", "--window", f"{WINDOW}", "--wait", "10s", bound["clients"]]
    )
    configure(client, repeats=False)
    run = testclient.Run(client)
    signal.signal(signal.SIGINT, run.interrupt)
    signal.signal(signal.SIGTERM, run.interrupt)
    with run, testclient.live_line(run) if sys.stdout.isatty() else plain_lines(run) as show:
        reached = run.watch(show)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rest is short, and has to happen
    started.close()
    if not reached:
        fail(Exit.UNREACHABLE, "the client found no broker", program=PROGRAM)
    print(flush=True)
    testclient.tell_summary(run, table=True)
    if run.interrupted:
        return Exit.INTERRUPTED
    explain(run)
    # A job that failed after three drops is what the broker promises; a wrong or missing answer is not.
    _, total = run.summary()
    honest = total.outcomes[report.ANSWERED] + total.outcomes[report.FAILED]
    return Exit.OK if honest == run.jobs else Exit.JOB_FAILED


def explain(run: testclient.Run) -> None:
    """What the figures mean."""
    failed = run.summary()[1].outcomes[report.FAILED]
    print(
        f"\nEach worker dropped a tenth of its jobs. The broker let these again after {TIMEOUT_SECONDS} s,\n"
        f"at most {TRIES} times in all: that is the chart's second hill.\n"
        + (
            f"{failed} {'job was' if failed == 1 else 'jobs were'} dropped {TRIES} times, and the client was told."
            if failed
            else "No job was lost."
        ),
        flush=True,
    )


@contextlib.contextmanager
def plain_lines(run: testclient.Run) -> Iterator[Callable[[], None]]:
    """Progress where there is no terminal: a line a second."""
    last = time.monotonic()

    def show() -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            total = run.summary()[1]
            print(f"client   | {total.ended} of {run.jobs} jobs ended, {total.bad_count} badly", flush=True)

    yield show


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
