"""Builds and drives the load generator (load.c, with messagepack.h, says what it does and how it is spoken to)."""

import contextlib
import hashlib
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import zmq  # so that the library is in this process, where it can be found

from benchmarks import targets

SOURCE = Path(__file__).with_name("load.c")
BUILD = Path(__file__).with_name("build")

FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")

Dialect = Literal["2010", "native"]
"""What the load speaks to a broker. (A proxy takes anything.)"""


class LoadError(RuntimeError):
    """The load generator cannot be built, or gave up. One line that says why."""


class WrongAnswersError(LoadError):
    """The target answered jobs wrongly, twice, or with a failure."""


def libzmq() -> Path:
    """The libzmq that pyzmq uses in this process, from /proc/self/maps. Raises LoadError if it cannot be told."""
    mapped = {line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    found = sorted(path for path in mapped if Path(path).name.startswith("libzmq"))
    if not found:
        raise LoadError(f"pyzmq {zmq.pyzmq_version()} has no libzmq of its own that the load generator could use")
    return Path(found[0])


def build() -> Path:
    """Compile load.c, unless that has been done. Returns the program; raises LoadError where there is no compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise LoadError("no C compiler (cc, gcc or clang) found: the load generator is in C; install one, or set CC")
    read = [path.read_bytes() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    print_of_source = hashlib.sha256(b"".join([*read, " ".join(FLAGS).encode()])).hexdigest()[:12]
    program = BUILD / f"load-{print_of_source}"
    if not program.exists():
        BUILD.mkdir(exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            [*compiler.split(), *FLAGS, "-o", str(unfinished), str(SOURCE), "-ldl"],
            capture_output=True, text=True, check=False,
        )
        if done.returncode:
            raise LoadError(f"{compiler} cannot compile {SOURCE.name}: {(done.stderr.splitlines() or ['?'])[0]}")
        unfinished.replace(program)
    return program


class Load:
    """A running load generator. Commands return what it reports; see load.c for what they do.

    All raise LoadError when it gave up, WrongAnswersError when an answer was not what it had to be, and
    targets.TargetError when the target ended meanwhile.
    """

    def __init__(self, process: subprocess.Popen[str], target: targets.Target) -> None:
        self.process = process
        self._target = target

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self.process.pid

    def flow(self, jobs: int, window: int) -> dict[str, Any]:
        """`jobs` jobs, `window` under way at any time."""
        return self._command(f"flow {jobs} {window}")

    def fill(self, jobs: int) -> dict[str, Any]:
        """Submit and let wait."""
        return self._command(f"fill {jobs}")

    def hold(self, jobs: int, window: int) -> dict[str, Any]:
        """Submit, take and keep without answering."""
        return self._command(f"hold {jobs} {window}")

    def policy(self, *, queues: int, keys: int, priorities: int, backoff_ms: int) -> None:
        """What is said of each job from now on, drawn at random from so many; 0: nothing."""
        self._command(f"policy {queues} {keys} {priorities} {backoff_ms}")

    def delay(self, jobs: int, spread_ms: int, lead_ms: int) -> dict[str, Any]:
        """Submit delayed jobs, the first due after `lead_ms`, the others evenly over `spread_ms`."""
        return self._command(f"delay {jobs} {spread_ms} {lead_ms}")

    def due(self, window: int) -> dict[str, Any]:
        """Take the delayed jobs when they come, and see how late that is."""
        return self._command(f"due {window}")

    def tenant(self, jobs: int, crowd: int, length_us: int, crowd_queue: int) -> dict[str, Any]:
        """How long each of `jobs` jobs waits, submitted one at a time beside a crowd that keeps all workers busy."""
        return self._command(f"tenant {jobs} {crowd} {length_us} {crowd_queue}")

    def drain(self, window: int) -> dict[str, Any]:
        """Answer all that is held, in random order."""
        return self._command(f"drain {window}")

    def expire(self, jobs: int, spread_ms: int, timeout_ms: int) -> dict[str, Any]:
        """Let every job expire once, and answer at its second attempt."""
        return self._command(f"expire {jobs} {spread_ms} {timeout_ms}")

    def _command(self, line: str) -> dict[str, Any]:
        self.say(line)
        return self.hear(line)

    def say(self, line: str) -> None:
        """Give a command, and do not wait for its report."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def hear(self, line: str) -> dict[str, Any]:
        """The report of the command that was given."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        target_ended = os.pidfd_open(self._target.pid)
        try:
            replied = self.process.stdout.fileno()
            ended_first = replied not in select.select([replied, target_ended], [], [])[0]
        finally:
            os.close(target_ended)
        if ended_first:
            raise targets.TargetError(f"{self._target.name} ended at `{line}`: {self._target.last_words()}")
        reply = self.process.stdout.readline()
        if not reply:
            raise LoadError(self.process.stderr.read().strip() or f"the load generator ended at `{line}`")
        report: dict[str, Any] = json.loads(reply)
        if report["errors"]:
            raise WrongAnswersError(
                f"`{line}`: {report['wrong']} wrong, {report['twice']} twice, {report['failed']} failed answers"
            )
        return report


@contextlib.contextmanager
def load(
    target: targets.Target,
    *,
    body_bytes: int = 32,
    connections: int = 4,
    dialect: Dialect = "2010",
    queues: tuple[int, int] | None = None,
) -> Iterator[Load]:
    """A load generator with `connections` workers, connected to `target`, for the time of a `with`.

    `dialect`: what it speaks, if the target is a broker. `queues`: how many there are, and how many each worker serves;
    natively.
    """
    kind = dialect if len(target.endpoints) == 3 else "proxy"
    endpoints = (*target.endpoints, "-")[:3]
    command = [str(build()), str(libzmq()), kind, *endpoints, str(connections), str(body_bytes)]
    command += map(str, queues or ())
    pipe = subprocess.PIPE
    with targets.running(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        yield Load(process, target)


class Apart(Load):
    """A client and its worker in two processes, as they are in life: neither waits for what the other has to send.

    Its process is the client's.
    """

    def __init__(self, process: subprocess.Popen[str], target: targets.Target, worker: Load) -> None:
        super().__init__(process, target)
        self._worker = worker

    def flow(self, jobs: int, window: int) -> dict[str, Any]:
        """`jobs` jobs, `window` under way at any time; the client's report."""
        serve, call = f"serve {jobs} {window}", f"call {jobs} {window}"
        self._worker.say(serve)
        self.say(call)
        report = self.hear(call)
        self._worker.hear(serve)
        return report


@contextlib.contextmanager
def apart(target: targets.Target, *, body_bytes: int = 32, dialect: Dialect = "2010") -> Iterator[Apart]:
    """A client and one worker, a process each, connected to `target`, for the time of a `with`."""
    with (
        load(target, body_bytes=body_bytes, connections=1, dialect=dialect) as worker,
        load(target, body_bytes=body_bytes, connections=0, dialect=dialect) as client,
    ):
        yield Apart(client.process, target, worker)
