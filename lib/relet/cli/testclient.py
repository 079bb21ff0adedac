"""testclient.py: a client that sends numbered jobs, checks every answer and says how it went.

    ./testclient.py [-n THREADS] CLIENTS

Each thread has a connection of its own and sends its jobs in order, at most `--window` of them at a time. On a terminal
one line shows what is going on, and a table ends the run; elsewhere one JSON object on stdout does.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from relet.cli import report
from relet.cli.exits import Exit
from relet.cli.logs import add_logging, configure
from relet.cli.parser import Parser, add_dialect, endpoint, fail, say
from relet.cli.quantities import count, duration, size
from relet.cli.testjobs import answer_to, body_of, label_of

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import FrameType

    from relet import Client

PROGRAM = "testclient.py"
JOBS = 100
BODY_BYTES = 32
REFRESH_SECONDS = 0.1
CLOSE_SECONDS_MAX = 5.0
"""How long threads may take to end after an interruption."""
DESCRIPTION = """\
Sends numbered jobs to a broker from one or more threads and checks every answer: a right one is the word "done", a
blank and the job's body, as testworker.py gives it."""
EXAMPLES = """\
  ./testclient.py 4161
      a hundred jobs, one after the other
  ./testclient.py -n 10 tcp://localhost:4161
      ten threads with a connection and a hundred jobs each
  ./testclient.py --jobs 100000 --window 1000 --body-size 1KiB tcp://localhost:4161
      load: a thousand jobs under way at a time
  ./testclient.py 4161 --timeout 10s --wait 5s | jq .latency_ms
      in a script: ends in any case, with JSON on stdout"""


def build_parser() -> Parser:
    """The command line, without reading it."""
    parser = Parser(
        PROGRAM,
        usage="[-n THREADS] [options] CLIENTS",
        description=DESCRIPTION,
        examples=EXAMPLES,
        exits={
            Exit.OK: "every answer came and was right",
            Exit.JOB_FAILED: "a job failed, an answer was wrong, or none came in time",
            Exit.USAGE: "the command line cannot be meant",
            Exit.UNREACHABLE: "no broker answered within --wait",
            Exit.INTERRUPTED: "ended by Ctrl-C, after the summary so far",
        },
    )
    parser.add_argument("clients", metavar="CLIENTS", help="the broker's endpoint for clients")
    parser.add_argument("-n", "--threads", type=count, default=1, metavar="THREADS", help="threads, each a client [1]")
    parser.add_argument("--jobs", type=count, default=JOBS, metavar="N", help=f"jobs of each thread [{JOBS}]")
    parser.add_argument(
        "--window", type=count, default=1, metavar="N", help="jobs that a thread has under way at a time [1]"
    )
    parser.add_argument(
        "--body-size", type=size, default=BODY_BYTES, metavar="SIZE", help=f"bytes of a job's body [{BODY_BYTES}]"
    )
    parser.add_argument("--timeout", type=duration, metavar="TIME", help="how long to wait for an answer [for ever]")
    parser.add_argument("--wait", type=duration, metavar="TIME", help="how long to wait for a broker [for ever]")
    add_dialect(parser)
    parser.add_argument("--json", action="store_true", help="the JSON summary, on a terminal too")
    add_logging(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Send the jobs and report; the exit code."""
    values = build_parser().parse(arguments)
    from relet.transport.endpoints import parse_connect

    endpoint("clients", values.clients, parse_connect, program=PROGRAM)
    configure(values, repeats=False)
    run = Run(values)
    signal.signal(signal.SIGINT, run.interrupt)
    signal.signal(signal.SIGTERM, run.interrupt)
    live = sys.stdout.isatty() and not values.json and has_rich()
    with run, live_line(run) if live else no_line() as show:
        reached = run.watch(show)
    if run.misplaced:
        fail(Exit.USAGE, run.misplaced, program=PROGRAM)
    if not reached:
        fail(Exit.UNREACHABLE, f"no broker answered at {values.clients} within {values.wait:g} s", program=PROGRAM)
    tell_summary(run, table=live)
    return run.exit_code()


class Run:
    """All threads of a run; leaving it as a context ends those that are still there.

    Args:
        values: the command line.
    """

    def __init__(self, values: argparse.Namespace) -> None:
        self.values = values
        self.jobs = values.threads * values.jobs
        self.interrupted = False
        self.misplaced = ""
        self.tallies = [report.Tally() for _ in range(values.threads)]
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._took: float | None = None
        self._clients: list[Client] = []
        self._threads: list[threading.Thread] = []
        self._running = values.threads
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        from relet import Client

        values = self.values
        self._clients = [
            Client(values.clients, timeout=values.timeout, dialect=values.dialect) for _ in range(values.threads)
        ]
        self._threads = [
            threading.Thread(target=self._send, args=(index, client), daemon=True)
            for index, client in enumerate(self._clients, 1)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._took = self.seconds
        for client in self._clients:
            client.close()
        until = time.monotonic() + CLOSE_SECONDS_MAX
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """What a signal does: the run ends, and the summary so far is told."""
        self.interrupted = True
        self._stopped.set()
        self._ended.set()

    def _end_misplaced(self, why: str) -> None:
        """The broker says that this is no endpoint for clients."""
        self.misplaced = why
        self._stopped.set()
        self._ended.set()

    @property
    def seconds(self) -> float:
        """How long it has taken so far, or took."""
        return time.monotonic() - self._began if self._took is None else self._took

    @property
    def connected(self) -> bool:
        """Whether every client has its broker."""
        return all(client.connected for client in self._clients)

    def watch(self, show: Callable[[], None]) -> bool:
        """Wait for the end and show what goes on meanwhile; False when no broker came within `--wait`."""
        wait: float | None = self.values.wait
        while not self._ended.wait(REFRESH_SECONDS):
            show()
            if wait is not None:
                if any(client.connected for client in self._clients):
                    wait = None
                elif self.seconds > wait:
                    return False
        show()
        return True

    def exit_code(self) -> Exit:
        """What the run says by ending."""
        if self.interrupted:
            return Exit.INTERRUPTED
        total = report.together(self.tallies)
        return Exit.OK if total.outcomes[report.ANSWERED] == self.jobs else Exit.JOB_FAILED

    def summary(self) -> tuple[dict[str, Any], report.Tally]:
        """The run as a JSON object, and the tally behind it."""
        total = report.together(self.tallies)
        values = self.values
        found = report.summary(
            total,
            jobs=self.jobs,
            seconds=self.seconds,
            interrupted=self.interrupted,
            clients=values.clients,
            threads=values.threads,
        )
        return found, total

    def _send(self, index: int, client: Client) -> None:
        """One thread: its jobs in order, a window of them at a time."""
        from relet import ClientError

        values, tally = self.values, self.tallies[index - 1]
        # A place in the window is a token in a queue, which is several times as fast as a semaphore.
        window: SimpleQueue[None] = SimpleQueue()
        for _ in range(values.window):
            window.put(None)
        try:
            for number in range(1, values.jobs + 1):
                window.get()
                if self._stopped.is_set():
                    break
                body = body_of(index, number, values.body_size)
                settle = _settling(body, tally, window, self._end_misplaced)
                client.submit(body).add_done_callback(settle)
            else:
                for _ in range(values.window):
                    window.get()
        except ClientError:
            if not self._stopped.is_set():
                raise
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._ended.set()


def _settling(
    body: bytes, tally: report.Tally, window: SimpleQueue[None], misplaced: Callable[[str], None]
) -> Callable[[Future[bytes]], None]:
    from relet import ClientClosed, EndpointError, JobFailed

    sent = time.monotonic()

    def settle(future: Future[bytes]) -> None:
        seconds = time.monotonic() - sent
        error = future.exception()
        if error is None:
            if future.result() == answer_to(body):
                tally.add(report.ANSWERED, seconds)
            else:
                tally.add(report.WRONG, seconds)
                tally.name(label_of(body), f"wrong answer: {future.result()[:40]!r}")
        elif isinstance(error, JobFailed):
            tally.add(report.FAILED, seconds)
            tally.name(label_of(body), "failed")
        elif isinstance(error, TimeoutError):
            tally.add(report.UNANSWERED, seconds)
            tally.name(label_of(body), "no answer")
        elif isinstance(error, EndpointError):
            misplaced(str(error))
        elif not isinstance(error, ClientClosed):  # closed: the run was ended, and the job counts as open
            tally.add(report.WRONG, seconds)
            tally.name(label_of(body), str(error))
        window.put(None)

    return settle


def has_rich() -> bool:
    """Whether rich is there; says so where it is not."""
    from importlib.util import find_spec

    if find_spec("rich") is not None:
        return True
    say(f"{PROGRAM}: rich is not installed, so there is no live line and no table; type: pip install 'relet[cli]'")
    return False


@contextlib.contextmanager
def no_line() -> Iterator[Callable[[], None]]:
    """Nothing to see while it runs."""
    yield lambda: None


@contextlib.contextmanager
def live_line(run: Run) -> Iterator[Callable[[], None]]:
    """The live line; gives the function that draws it again."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[found]}"),
    )
    with Progress(*columns, console=Console(), auto_refresh=False, transient=True) as progress:
        task = progress.add_task("jobs", total=run.jobs, found="")

        def show() -> None:
            total = report.together(run.tallies)
            ended, bad = total.ended, total.bad_count
            lost = f"[yellow]no broker at {run.values.clients} yet[/yellow]  " if not run.connected else ""
            p50, p99 = (report.written(total.percentile(percent)) for percent in (50, 99))
            failures = f"[red]{bad:,} bad[/red]" if bad else "0 bad"
            found = f"{ended / max(run.seconds, 1e-9):,.0f}/s  {failures}  p50 {p50}  p99 {p99}"
            progress.update(task, completed=ended, found=lost + found if ended or not lost else lost, refresh=True)

        show()
        yield show


def tell_summary(run: Run, *, table: bool) -> None:
    """The table, or the JSON object, on stdout."""
    found, total = run.summary()
    try:
        if table:
            from rich.console import Console

            report.print_table(Console(), found, total)
        else:
            import json

            print(json.dumps(found), flush=True)
    except BrokenPipeError:
        say(f"{PROGRAM}: nobody reads the summary")
    except OSError as error:
        fail(Exit.JOB_FAILED, f"the summary cannot be written: {error.strerror}", program=PROGRAM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
