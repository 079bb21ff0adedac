"""testworker.py: a worker that does its jobs, and drops, delays or crashes on some of them on purpose.

    ./testworker.py WORKERS ANSWERS DROP_RATE

The answer to a job is the word `done`, a blank and the job's body, so that testclient.py can check it. What happens to
a job is drawn before it begins, always by the same number of draws: with `--seed` a worker does the same in every run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from relet.cli.exits import Exit
from relet.cli.logs import add_logging, configure
from relet.cli.parser import Parser, add_dialect, endpoint, fail, say
from relet.cli.quantities import count, duration, duration_or_zero, rate, written_duration
from relet.cli.testjobs import answer_to, label_of

if TYPE_CHECKING:
    from types import FrameType

    from relet import Worker

PROGRAM = "testworker.py"
LATE_RATE = 0.1
SEED_BYTES = 4
LAST_ANSWERS_SECONDS_MAX = 3.0
"""How long a stopped worker may take to send its last answer and close its sockets."""
DESCRIPTION = """\
Asks the broker for jobs, one after the other, and answers each with the word "done", a blank and the job's body.
DROP_RATE is the share of jobs that it takes and never answers, from 0 to 1 (0.1 or 10%): the broker lets these again
when their time is up."""
EXAMPLES = """\
  ./testworker.py 4162 4163 0.1
      drops a tenth of its jobs
  ./testworker.py tcp://localhost:4162 tcp://localhost:4163 0 --slow 50ms --workers 4
      four workers, 50 ms for each job
  ./testworker.py 4162 4163 0 --late 3s --late-rate 0.2
      a fifth of the answers comes three seconds late
  ./testworker.py 4162 4163 0 --crash 0.01 --seed 7
      crashes while it holds a job, one time in a hundred, in the same place every time"""


def build_parser() -> Parser:
    """The command line, without reading it."""
    parser = Parser(
        PROGRAM,
        usage="[options] WORKERS ANSWERS DROP_RATE",
        description=DESCRIPTION,
        examples=EXAMPLES,
        exits={
            Exit.OK: "stopped by Ctrl-C or SIGTERM",
            Exit.USAGE: "the command line cannot be meant",
            Exit.CRASHED: "crashed on purpose (--crash)",
        },
    )
    parser.add_argument("workers", metavar="WORKERS", help="the broker's endpoint for workers")
    parser.add_argument("answers", metavar="ANSWERS", help="the broker's endpoint for answers")
    parser.add_argument("drop_rate", metavar="DROP_RATE", type=rate, help="share of jobs that are never answered")
    parser.add_argument(
        "--slow", type=duration_or_zero, default=0.0, metavar="TIME", help="how long each job takes [0]"
    )
    parser.add_argument("--late", type=duration, metavar="TIME", help="hold some answers back for so long [none]")
    parser.add_argument(
        "--late-rate", type=rate, default=LATE_RATE, metavar="RATE", help="share of the answers that --late holds [0.1]"
    )
    parser.add_argument(
        "--crash", type=rate, default=0.0, metavar="RATE", help="share of jobs at which the whole process ends [0]"
    )
    parser.add_argument("--workers", type=count, default=1, dest="crew", metavar="N", help="how many to run [1]")
    parser.add_argument(
        "--ahead", type=count, metavar="N", help="jobs that each asks for at a time [what hides the way; 1 in 2010]"
    )
    add_dialect(parser)
    parser.add_argument("--seed", type=int, metavar="N", help="decide the same in every run [drawn, and shown]")
    parser.add_argument("--quiet", action="store_true", help="no line for each job, only the tally")
    add_logging(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Work until told to stop; the exit code."""
    values = build_parser().parse(arguments)
    check_endpoints(values)
    configure(values, repeats=False)
    if values.seed is None:
        values.seed = int.from_bytes(os.urandom(SEED_BYTES))
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)
    return Crew(values).work()


def check_endpoints(values: argparse.Namespace) -> None:
    """End the program where an endpoint cannot be meant, or both are the same."""
    from relet.transport.endpoints import EndpointError, check_distinct, parse_connect

    pair = {
        role: endpoint(role, getattr(values, role), parse_connect, program=PROGRAM) for role in ("workers", "answers")
    }
    try:
        check_distinct(pair)
    except EndpointError as error:
        fail(Exit.USAGE, str(error), program=PROGRAM)


class Tally:
    """What one worker did; written by its own thread only."""

    def __init__(self) -> None:
        self.taken = self.answered = self.dropped = self.late = 0


class Hand:
    """One worker's handler: draws what goes wrong with each job, does it, and says so.

    Args:
        index: the worker's number, from 1.
        values: the command line.
        stopped: set when the program ends, so that nobody waits for a slow job.
    """

    def __init__(self, index: int, values: argparse.Namespace, stopped: threading.Event) -> None:
        import random

        from relet import NoAnswer

        self.tally = Tally()
        self._no_answer = NoAnswer
        self._name = f"worker {index}: " if values.crew > 1 else ""
        self._values = values
        self._stopped = stopped
        self._random = random.Random(f"{values.seed}/{index}")  # noqa: S311 - it decides what fails, not what is secret

    def __call__(self, body: bytes) -> bytes:
        """Do one job; raises `relet.NoAnswer` where it is dropped."""
        values, tally = self._values, self.tally
        draw = self._random.random
        crashes, drops, delays = draw() < values.crash, draw() < values.drop_rate, draw() < values.late_rate
        began = time.monotonic()
        tally.taken += 1
        if crashes:
            self._say(body, f"crashing on purpose while it is in hand (rate {values.crash:g})", always=True)
            os._exit(Exit.CRASHED)
        if drops:
            tally.dropped += 1
            self._say(body, f"dropped on purpose (rate {values.drop_rate:g}); it is let again when its time is up")
            raise self._no_answer
        if values.late is not None and delays:
            tally.late += 1
            held = f"{written_duration(values.late)} on purpose (rate {values.late_rate:g})"
            self._say(body, f"its answer is held back for {held}")
            self._stopped.wait(values.late)
        if values.slow:
            self._stopped.wait(values.slow)
        tally.answered += 1
        if not values.quiet:
            self._say(body, f"answered after {written_duration(time.monotonic() - began)}")
        return answer_to(body)

    def _say(self, body: bytes, what: str, *, always: bool = False) -> None:
        if always or not self._values.quiet:
            tell(f"{self._name}job {label_of(body)}, {len(body)} B: {what}")


class Crew:
    """The workers of this process, one thread each."""

    def __init__(self, values: argparse.Namespace) -> None:
        from relet import Worker

        self._values = values
        self._stopped = threading.Event()
        self._hands = [Hand(index, values, self._stopped) for index in range(1, values.crew + 1)]
        self._workers = [
            Worker(values.workers, values.answers, hand, dialect=values.dialect, ahead=values.ahead)
            for hand in self._hands
        ]
        self._began = time.monotonic()
        self._unwanted = ""

    def work(self) -> int:
        """Run until a signal comes; the exit code."""
        signal.signal(signal.SIGINT, self._signalled)
        signal.signal(signal.SIGTERM, self._signalled)
        values = self._values
        say(
            f"{PROGRAM}: asking at {values.workers}, answering to {values.answers}; drops {values.drop_rate:.3g}, "
            f"seed {values.seed}; Ctrl-C ends it"
        )
        threads = [threading.Thread(target=self._run, args=(worker,), daemon=True) for worker in self._workers]
        for thread in threads:
            thread.start()
        self._stopped.wait()
        for thread in threads:
            thread.join(LAST_ANSWERS_SECONDS_MAX)
        if self._unwanted:
            fail(Exit.USAGE, self._unwanted, program=PROGRAM)
        tell(self.summary())
        return Exit.OK

    def _run(self, worker: Worker) -> None:
        from relet import EndpointError, QueueUnknown

        try:
            worker.run()
        except (EndpointError, QueueUnknown) as error:
            self._unwanted = str(error)
            self._stop()

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopped.is_set():
            os._exit(Exit.INTERRUPTED)
        self._stop()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._stopped.set()

    def summary(self) -> str:
        """The tally of all workers in one line."""
        tallies = [hand.tally for hand in self._hands]
        taken, answered, dropped, late = (
            sum(getattr(tally, name) for tally in tallies) for name in ("taken", "answered", "dropped", "late")
        )
        seconds = time.monotonic() - self._began
        return (
            f"tally: {taken} {'job' if taken == 1 else 'jobs'} taken, {answered} answered"
            + (f" ({late} of them late)" if self._values.late is not None else "")
            + f", {dropped} dropped on purpose; {seconds:.1f} s, {taken / max(seconds, 1e-9):.1f} jobs/s"
        )


def tell(text: str) -> None:
    """A line on stdout; when nobody reads it any more, work goes on."""
    try:
        sys.stdout.write(text + "\n")  # in one piece: print() would write the line's end apart, and threads mix
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
