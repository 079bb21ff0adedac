"""relet worker: runs the tasks or the handler of a module.

    relet worker shop.jobs:tasks --concurrency 8 --queue mail=3 --queue reports

The worker runs in a thread, and the program's own thread waits: so a handler that never returns cannot keep the program
from ending. SIGTERM and Ctrl-C stop it: it asks for nothing more, finishes what it has until --drain is over, and hands
the rest back, which costs these jobs no attempt. The second signal hands back at once.

With --reload this program is two: one watches the source files and starts the other anew when one of them has changed.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import signal
import socket as sockets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from relet.cli.device import Command
from relet.cli.exits import Exit
from relet.cli.logs import add_logging, configure
from relet.cli.parser import Parser, endpoint, fail, say
from relet.cli.quantities import count, duration, duration_or_zero, size

if TYPE_CHECKING:
    from types import FrameType

    from relet import Processes, Worker

PROGRAM = "relet"
WORKERS = "tcp://127.0.0.1:4162"
DRAIN_SECONDS = 10.0
BURST_QUIET_SECONDS = 1.0
"""A worker that has had nothing to do for so long has nothing left: a broker answers an ask in its next turn."""
BURST_CONNECT_SECONDS = 10.0
"""How long --burst waits for a broker."""
LOOKED_SECONDS = 0.05
"""How often --burst looks whether anything is left."""
LAST_WORDS_SECONDS = 0.5
"""How long a worker may take to end once what it had is handed back; a handler that goes on is left behind then."""
SLEEP_SECONDS_MAX = 3_600.0
"""One sleep; who waits for longer sleeps again."""
RELOAD_LOOKED_SECONDS = 0.3
"""How often --reload looks for changed files."""
RELOAD_SKIPS = ("__pycache__", "node_modules", "site-packages")
"""Folders that --reload does not look into, beside those whose names begin with a dot."""
EXITS = {
    Exit.OK: "stopped by Ctrl-C or SIGTERM; --burst: nothing is left",
    Exit.USAGE: "the command line cannot be meant, or the module cannot be imported",
    Exit.UNREACHABLE: f"--burst: no broker within {BURST_CONNECT_SECONDS:g} s",
}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="MODULE:NAME", help="a Tasks registry, a handler, or a mapping of queues to handlers"
    )
    parser.add_argument(
        "--workers", metavar="ENDPOINT", default=WORKERS, help=f"the broker's endpoint for workers [{WORKERS}]"
    )
    parser.add_argument(
        "--queue",
        dest="queues",
        action="append",
        default=[],
        metavar="NAME[=WEIGHT]",
        help="a queue to serve, the most important first, or with weights in turns; may be repeated [those of the tasks"
        " or the mapping, else default]",
    )
    parser.add_argument(
        "--concurrency", type=count, default=None, metavar="N", help="jobs at a time, in threads or coroutines [1]"
    )
    parser.add_argument("--processes", type=count, metavar="N", help="jobs at a time, in a process each [none]")
    parser.add_argument(
        "--time-limit", type=duration, metavar="TIME", help="--processes: end the process of a job that takes longer"
    )
    parser.add_argument(
        "--jobs-max", type=count, metavar="N", help="--processes: replace a process that has done so many jobs"
    )
    parser.add_argument(
        "--rss-bytes-max", type=size, metavar="SIZE", help="--processes: replace one that has more memory in use"
    )
    parser.add_argument(
        "--drain",
        type=duration_or_zero,
        default=DRAIN_SECONDS,
        metavar="TIME",
        help=f"how long jobs in hand may take after the first signal; then they are handed back [{DRAIN_SECONDS:g}s]",
    )
    parser.add_argument(
        "--burst",
        action="store_true",
        help=f"end when there was nothing to do for {BURST_QUIET_SECONDS:g} s; delayed jobs are not waited for",
    )
    parser.add_argument(
        "--reload", action="store_true", help="while developing: begin anew when a .py file below this folder changes"
    )
    add_logging(parser)


def main(words: Sequence[str], options: Sequence[str]) -> int:
    """Does what a command line says that begins with `worker`; the exit code."""
    name, *arguments = words
    command = COMMANDS[name]
    parser = Parser(
        f"{PROGRAM} {name}",
        usage=command.usage,
        description=command.summary,
        examples=command.examples,
        exits=command.exits,
    )
    command.add(parser)
    values = parser.parse([*options, *arguments])
    if values.reload:
        if values.burst:
            parser.error("--reload begins anew, and --burst ends: leave one out")
        return Reloader([*options, *arguments]).run()
    return command.run(name, values)


def _run(_: str, values: argparse.Namespace) -> Exit:
    configure(values, repeats=False)
    return Run(values).work()


# --- What runs.


def found(what: str) -> Any:
    """What stands at `module:name`. Ends the program where nothing does."""
    from difflib import get_close_matches

    module_name, _, path = what.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module_name) or not re.fullmatch(r"\w+(\.\w+)*", path):
        fail(Exit.USAGE, f"MODULE:NAME: say what to run as shop.jobs:tasks, not {what!r}", program=PROGRAM)
    sys.path.insert(0, os.getcwd())
    try:
        __import__(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports what is not: its traceback says where
        fail(Exit.USAGE, f"MODULE:NAME: there is no module {error.name!r} here or installed", program=PROGRAM)
    it: Any = sys.modules[module_name]
    for name in path.split("."):
        if not hasattr(it, name):
            close = get_close_matches(name, dir(it), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            fail(Exit.USAGE, f"MODULE:NAME: {module_name} has no {name!r}{hint}", program=PROGRAM)
        it = getattr(it, name)
    return it


def queues_of(texts: Sequence[str]) -> tuple[str, ...] | dict[str, int]:
    """`["mail=3", "reports"]` -> `{"mail": 3, "reports": 1}`; without weights the names, in their order. Raises
    ValueError.
    """
    weights: dict[str, int] = {}
    for text in texts:
        name, equals, weight = text.rpartition("=")
        if not equals:
            name, weight = text, "1"
        if not weight.isascii() or not weight.isdecimal():
            raise ValueError(f"--queue {text}: a weight is a whole number, not {weight!r}")
        if name in weights:
            raise ValueError(f"--queue {name}: it is named twice")
        weights[name] = int(weight)
    return weights if any("=" in text for text in texts) else tuple(weights)


def processes_of(values: argparse.Namespace) -> Processes | None:
    """What --processes and its companions say. Raises ValueError."""
    from relet import Processes

    limits = {"time_limit": values.time_limit, "jobs_max": values.jobs_max, "rss_bytes_max": values.rss_bytes_max}
    if values.processes is None:
        for name, value in limits.items():
            if value is not None:
                raise ValueError(f"--{name.replace('_', '-')} is for processes: add --processes N")
        return None
    if values.concurrency is not None:
        raise ValueError("--concurrency and --processes both say how many jobs are done at a time: leave one out")
    return Processes(values.processes, **limits)


class Run:
    """The worker, and the program's own thread, which waits for it."""

    def __init__(self, values: argparse.Namespace) -> None:
        from relet import Tasks, Worker
        from relet.transport.endpoints import parse_connect

        endpoint("workers", values.workers, parse_connect, program=PROGRAM)
        self._values = values
        self._ended = threading.Event()
        self._signals = 0
        self._raised: BaseException | None = None
        it = found(values.what)
        try:
            queues = queues_of(values.queues) or (it.queues if isinstance(it, Tasks) else None)
            self._worker: Worker = Worker(
                values.workers,
                handler=it.handler if isinstance(it, Tasks) else it,
                queues=queues,
                concurrency=processes_of(values) or values.concurrency or 1,
                drain=values.drain,
            )
        except (TypeError, ValueError) as error:
            fail(Exit.USAGE, str(error), program=PROGRAM)
        self._queues = ", ".join(values.queues or queues or ["default"] if not isinstance(it, dict) else it)

    def work(self) -> Exit:
        """Until a signal comes, or nothing is left; the exit code."""
        self._near, self._far = sockets.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        # The system may give a second signal to another thread, and this one would sleep on: so signals write here.
        before = signal.set_wakeup_fd(self._far.fileno(), warn_on_full_buffer=False)
        try:
            return self._work()
        finally:
            signal.set_wakeup_fd(before)

    def _work(self) -> Exit:
        signal.signal(signal.SIGINT, self._signalled)
        signal.signal(signal.SIGTERM, self._signalled)
        values = self._values
        say(f"{PROGRAM} worker: {values.what} asks at {values.workers} for {self._queues}; Ctrl-C ends it")
        threading.Thread(target=self._run, name="relet-run", daemon=True).start()
        if values.burst:
            self._wait_until_quiet()
            self._worker.stop()
        else:
            while not (self._ended.is_set() or self._signals):
                self._wait(SLEEP_SECONDS_MAX)
        self._wait_for_end()
        return self._end()

    def _run(self) -> None:
        try:
            self._worker.run()
        except BaseException as error:  # noqa: BLE001 - it is raised where it can end the program
            self._raised = error
        self._ended.set()
        self._far.send(b"\0")

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._worker.stop()

    def _wait(self, seconds: float) -> None:
        """Until a signal comes, the worker has ended, or so much time has passed."""
        if select.select([self._near], [], [], min(seconds, SLEEP_SECONDS_MAX))[0]:
            self._near.recv(4096)

    def _wait_until_quiet(self) -> None:
        worker, began = self._worker, time.monotonic()
        quiet_since, jobs = began, 0
        was_connected = False
        while not (self._ended.is_set() or self._signals):
            self._wait(LOOKED_SECONDS)
            now = time.monotonic()
            was_connected |= worker.connected
            if not was_connected and now - began >= BURST_CONNECT_SECONDS:
                fail(Exit.UNREACHABLE, f"no broker answers at {self._values.workers}", program=PROGRAM)
            if not worker.idle or worker.counters.jobs != jobs:
                quiet_since, jobs = now, worker.counters.jobs
            elif now - quiet_since >= BURST_QUIET_SECONDS:
                return

    def _wait_for_end(self) -> None:
        """What is in hand may end in its time; the worker's thread hands back what does not."""
        deadline = time.monotonic() + self._values.drain
        while not self._ended.is_set() and self._signals < 2 and (left := deadline - time.monotonic()) > 0:
            self._wait(left)
        self._ended.wait(LAST_WORDS_SECONDS)

    def _end(self) -> Exit:
        from relet import EndpointError, QueueUnknown

        error, counters = self._raised, self._worker.counters
        if isinstance(error, EndpointError | QueueUnknown):
            fail(Exit.USAGE, str(error), program=PROGRAM)
        if error is not None:
            raise error
        say(
            f"{PROGRAM} worker: stopped; {counters.answered} answered, {counters.failed} failed,"
            f" {counters.handed_back} handed back"
        )
        return Exit.OK


# --- --reload


class Reloader:
    """Starts the worker as a process of its own, and anew when a source file has changed."""

    def __init__(self, arguments: Sequence[str]) -> None:
        rest = [argument for argument in arguments if argument != "--reload"]
        self._command = [sys.executable, "-m", "relet", "worker", *rest]
        self._signals = 0
        self._told = 0  # signals that the process was sent
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Until a signal comes; the exit code of the last worker."""
        signal.signal(signal.SIGINT, self._signalled)
        signal.signal(signal.SIGTERM, self._signalled)
        while True:
            seen = dict(source_files(os.getcwd()))
            process = self._start()
            changed = self._changed(seen)
            if not self._told:
                self._tell(process)
            code = process.wait()
            if self._signals:
                return code
            say(f"{PROGRAM} worker: {changed} has changed; the worker begins anew")

    def _start(self) -> subprocess.Popen[bytes]:
        library = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = [library, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        # In a process group of its own, so that Ctrl-C reaches it once, by way of us.
        self._told = 0
        self._process = subprocess.Popen(self._command, env=environment, process_group=0)  # noqa: S603 - this very program
        return self._process

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._process is not None:
            self._tell(self._process)

    def _tell(self, process: subprocess.Popen[bytes]) -> None:
        """To end; the second time, to end now."""
        self._told += 1
        process.send_signal(signal.SIGTERM)

    def _changed(self, seen: dict[str, int]) -> str:
        """The file that has changed; "" where a signal came before."""
        while not self._signals:
            now = dict(source_files(os.getcwd()))
            for path in sorted(now.keys() | seen.keys()):
                if now.get(path) != seen.get(path):
                    return os.path.relpath(path)
            time.sleep(RELOAD_LOOKED_SECONDS)
        return ""


def source_files(folder: str) -> Iterator[tuple[str, int]]:
    """All .py files below a folder, with the times of their last change in nanoseconds."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in RELOAD_SKIPS]
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(root, name)
                try:
                    yield path, os.stat(path).st_mtime_ns
                except OSError:  # it was there a moment ago
                    continue


COMMANDS: dict[str, Command] = {
    "worker": Command(
        "runs the tasks or the handler of a module",
        "[options] MODULE:NAME",
        "  relet worker shop.jobs:tasks --concurrency 8\n"
        "      the tasks of a registry, eight at a time\n"
        "  relet worker shop.jobs:resize --processes 4 --time-limit 30s --queue images\n"
        "      a handler, in processes, for one queue\n"
        "  relet worker shop.jobs:tasks --queue mail=3 --queue reports=1\n"
        "      two queues that take turns\n"
        "  relet worker shop.jobs:tasks --burst\n"
        "      do what there is, and end",
        _options,
        EXITS,
        _run,
    ),
}
"""All that can be done."""
