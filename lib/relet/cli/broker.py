"""broker.py: the broker as a program.

    ./broker.py [-t N] [-T TIME] CLIENTS WORKERS ANSWERS

The banner on stderr shows what is really bound and the next command to type. The first SIGINT or SIGTERM drains: no new
jobs are taken, and those that are there go on until none is left or the drain time is over. The second one stops at
once. Whoever is owed an answer then is told that the job failed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from relet import compiled
from relet._version import __version__
from relet.cli.exits import Exit
from relet.cli.limits import add_limits, chosen_limits
from relet.cli.logs import add_logging, configure, wants_colour
from relet.cli.parser import Parser, endpoint, fail, say, sibling
from relet.cli.quantities import count, duration_or_zero, timeout, written_duration
from relet.cli.queues import chosen_queues, queues_file

if TYPE_CHECKING:
    from types import FrameType

    from relet import Broker
    from relet.store import Store
    from relet.transport.endpoints import Endpoint

PROGRAM = "broker.py"
ROLES = ("clients", "workers", "answers", "admin")
DRAIN_SECONDS = 10.0
WILDCARDS = {"tcp://0.0.0.0:": "tcp://127.0.0.1:", "tcp://*:": "tcp://127.0.0.1:", "tcp://[::]:": "tcp://[::1]:"}
DESCRIPTION = """\
Takes jobs from clients and lets each to a worker that has asked; lets it again when the worker is late or gone;
tells the client when the tries are spent.

endpoints: tcp://127.0.0.1:4161 or shorter 4161 (this machine only), tcp://*:4161 (all interfaces; quote the * for
the shell), port 0 (the system's choice), ipc://PATH"""
EXAMPLES = """\
  ./broker.py 4161 4162 4163
      on this machine only; any number of tries, no timeout
  ./broker.py -t 3 -T 2 'tcp://*:4161' 'tcp://*:4162' 'tcp://*:4163'
      for everybody who can reach this machine; three tries of two seconds each
  ./broker.py -t 3 -T 1m ipc:///run/relet/clients ipc:///run/relet/workers ipc:///run/relet/answers
      sockets in the file system, guarded by its permissions"""


def build_parser() -> Parser:
    """The command line, without reading it."""
    parser = Parser(
        PROGRAM,
        usage="[-t N] [-T TIME] [options] CLIENTS WORKERS ANSWERS",
        description=DESCRIPTION,
        examples=EXAMPLES,
        exits={
            Exit.OK: "stopped, and nobody was owed an answer",
            Exit.USAGE: "the command line cannot be meant",
            Exit.UNREACHABLE: "an endpoint cannot be bound",
            Exit.STORE_IN_USE: "another process has the store",
            Exit.STORE_NEWER: "the store was written by a later version",
            Exit.STORE_FOREIGN: "the file is no store",
            Exit.STORE_CORRUPT: "the store is damaged",
            Exit.STORE_UNWRITABLE: "the store cannot be opened, read or written",
            Exit.STORE_FAILED: "the store did not keep something; nothing of that was acknowledged",
            Exit.OWED: "stopped while answers were owed; each of these clients was told that its job failed",
        },
    )
    parser.add_argument("clients", metavar="CLIENTS", help="where clients submit (REQ or DEALER connects)")
    parser.add_argument("workers", metavar="WORKERS", help="where workers ask for jobs (REQ or DEALER connects)")
    parser.add_argument("answers", metavar="ANSWERS", help="where workers send their answers (PUSH connects)")
    parser.add_argument("-t", "--tries", type=count, metavar="N", help="attempts per job [no limit]")
    parser.add_argument(
        "-T", "--timeout", type=timeout, metavar="TIME", help="time per attempt: 2, 500ms, 2s, 1m [none]"
    )
    parser.add_argument(
        "--admin",
        metavar="ENDPOINT",
        help="where administrators list, pause and set queues, show and cancel jobs; who reaches it rules the broker:"
        " take 4164 or ipc://PATH [none]",
    )
    parser.add_argument(
        "--queues",
        type=queues_file,
        metavar="FILE",
        help="settings of queues, a TOML file: [queue.NAME] tables, and only_these = true at the top where no other"
        " queue may be used [none]",
    )
    parser.add_argument(
        "--store",
        metavar="FILE",
        help="keep jobs, outcomes and dead letters in this file, made where there is none, across stops, crashes and"
        " power cuts [none: jobs end with the broker]",
    )
    parser.add_argument(
        "--sync",
        choices=("full", "normal", "off"),
        help="when the store makes sure that the disk has it: with each commit; normal may lose the last seconds when"
        " the power goes, and off may lose the file [full]",
    )
    parser.add_argument(
        "--drain",
        type=duration_or_zero,
        default=DRAIN_SECONDS,
        metavar="TIME",
        help="how long open jobs may go on after the first Ctrl-C or SIGTERM [10s]",
    )
    parser.add_argument(
        "--pump",
        choices=("auto", "cython", "python"),
        default="auto",
        help="which frame pump moves the messages [auto: the compiled one where it was built]",
    )
    add_logging(parser)
    add_limits(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the broker until it is told to stop; the exit code."""
    parser = build_parser()
    values = parser.parse(arguments)
    if values.sync and not values.store:
        fail(Exit.USAGE, "--sync is for a store: name one with --store FILE", program=PROGRAM)
    checked_endpoints(values)
    configure(values)
    from relet.store import StoreFailed

    raise_descriptor_limit()
    broker = opened_broker(values)
    for_people = values.log_format != "json"  # where JSON was asked for, stderr carries nothing else
    stopping = Stopping(broker, values.drain, speaks=for_people, keeps=bool(values.store))
    stopping.install()
    if for_people:
        say(
            banner(
                broker.endpoints,
                tries=values.tries,
                timeout=values.timeout,
                pump=broker.pump,
                public=broker.open_to_others,
                hears_deaths=broker.hears_deaths,
                store=store_row(values, broker),
            )
        )
    mind_the_collector()
    try:
        told = broker.run()
    except StoreFailed as error:
        fail(Exit.STORE_FAILED, str(error), program=PROGRAM)
    if for_people and told:
        say(f"{PROGRAM}: stopped; {told} owed {'answer was' if told == 1 else 'answers were'} given as failures")
    elif for_people and values.store and broker.jobs_open:
        say(f"{PROGRAM}: stopped; {broker.jobs_open} open {'job' if broker.jobs_open == 1 else 'jobs'} kept")
    elif for_people:
        say(f"{PROGRAM}: stopped; nobody was owed an answer")
    return Exit.OWED if told else Exit.OK


def raise_descriptor_limit() -> None:
    """As many connections as the system lets this process have: a worker needs two, and each a descriptor."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def mind_the_collector() -> None:
    """Young objects are looked through as ever, old ones hardly ever again.

    A broker makes no cycles, and may hold a million jobs: a full collection then stops it for 0.1 s and finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 1_000_000)


def checked_endpoints(values: argparse.Namespace) -> None:
    """Looks at the endpoints; ends the program where one cannot be meant."""
    from relet.transport.endpoints import EndpointError, check_distinct, parse_bind

    endpoints: dict[str, Endpoint] = {
        role: endpoint(role, getattr(values, role), parse_bind, program=PROGRAM)
        for role in ROLES
        if getattr(values, role) is not None
    }
    try:
        check_distinct(endpoints)
    except EndpointError as error:
        fail(Exit.USAGE, str(error), program=PROGRAM)


def opened_broker(values: argparse.Namespace) -> Broker:
    """A broker that is bound; ends the program where that is not possible."""
    from relet import BindError, Broker, Limits, SettingsError
    from relet.store import StoreFailed, StoreUnusable
    from relet.transport.pump import PumpUnavailable

    try:
        return Broker(
            values.clients,
            values.workers,
            values.answers,
            tries=values.tries,
            timeout=values.timeout,
            limits=Limits(**chosen_limits(values)),
            **chosen_queues(values),
            drain=values.drain,
            pump=values.pump,
            trace=values.log_level == "debug",
            admin=values.admin,
            store=opened_store(values),
        )
    except StoreUnusable as error:
        fail(Exit[f"STORE_{error.code.upper()}"], str(error), program=PROGRAM)
    except StoreFailed as error:
        fail(Exit.STORE_FAILED, str(error), program=PROGRAM)
    except BindError as error:
        fail(Exit.UNREACHABLE, error.strerror or str(error), program=PROGRAM)
    except SettingsError as error:
        fail(Exit.USAGE, f"--queues {values.queues.path}: {error}", program=PROGRAM)
    except (PumpUnavailable, ValueError) as error:
        fail(Exit.USAGE, str(error), program=PROGRAM)


def opened_store(values: argparse.Namespace) -> Store | None:
    """The store that was named. Raises `StoreUnusable` where it cannot be had."""
    if not values.store:
        return None
    from relet.store.sqlite import SqliteStore

    return SqliteStore(values.store, sync=values.sync or "full")


class Stopping:
    """What SIGINT and SIGTERM do: the first drains, every further one stops at once."""

    def __init__(self, broker: Broker, drain_seconds: float, *, speaks: bool, keeps: bool = False) -> None:
        self.signals = 0
        self._broker = broker
        self._drain_seconds = drain_seconds
        self._speaks = speaks
        self._keeps = keeps
        """Open jobs are left to the next broker."""

    def install(self) -> None:
        """Take the two signals over."""
        signal.signal(signal.SIGINT, self._signalled)
        signal.signal(signal.SIGTERM, self._signalled)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        # Between two bytecodes of the loop: say it past the buffers that the loop may be writing to, and set the flag.
        self.signals += 1
        open_jobs = self._broker.jobs_open
        if self._keeps and open_jobs:
            are = f"{open_jobs} open {'job is' if open_jobs == 1 else 'jobs are'} kept for the next broker"
            until = f"; those with workers have up to {written_duration(self._drain_seconds)}; again to stop now"
            line = f"stopping: {are}{until if self.signals == 1 else ''}"
        elif self.signals == 1 and open_jobs:
            line = (
                f"draining: {open_jobs} open {'job goes' if open_jobs == 1 else 'jobs go'} on for up to "
                f"{written_duration(self._drain_seconds)}, no new ones are taken; again to stop now"
            )
        elif self.signals == 1:
            line = "stopping: no job is open"
        else:
            line = f"stopping now: {open_jobs} open {'job is' if open_jobs == 1 else 'jobs are'} told of failure"
        if self._speaks:
            with contextlib.suppress(OSError):
                os.write(2, f"{PROGRAM}: {line}\n".encode())
        self._broker.stop()


def store_row(values: argparse.Namespace, broker: Broker) -> str:
    """What the banner says of the store; "" where there is none."""
    if not values.store:
        return ""
    jobs = broker.jobs_open
    sync = "" if values.sync in (None, "full") else f", sync {values.sync}: a power cut may lose what was acknowledged"
    loaded = f"{jobs:,} open {'job' if jobs == 1 else 'jobs'} loaded in {broker.load_seconds:.2f} s"
    done = broker.upgraded
    upgraded = f"format {done['version_before']} made {done['version']} in {done['took_s']:.2f} s, " if done else ""
    return f"{values.store} ({upgraded}{loaded}{sync})"


def banner(
    endpoints: Mapping[str, str],
    *,
    tries: int | None,
    timeout: float | None,
    pump: str,
    public: Sequence[str],
    hears_deaths: bool,
    store: str = "",
) -> str:
    """What a broker says when it is bound: roles, rules, warnings, and the next command to type."""
    bold, yellow, plain = ("\x1b[1m", "\x1b[33m", "\x1b[0m") if wants_colour() else ("", "", "")
    rows = [(role, endpoints[role]) for role in ROLES if role in endpoints]
    rows += [
        ("tries", "no limit" if tries is None else f"{tries}, then the client is told that its job failed"),
        (
            "timeout",
            "none" if timeout is None else f"{written_duration(timeout)} per attempt, then the job is let again",
        ),
        ("pump", pump if pump == "cython" else f"{pump} (the compiled one takes a quarter of the CPU per job)"),
        ("core", f"{compiled.core} ({compiled.why})" if compiled.why else compiled.core),
        *([("store", store)] if store else []),
        ("pid", str(os.getpid())),
    ]
    lines = [f"{bold}relet {__version__}{plain}", *(f"  {name:<8} {value}" for name, value in rows)]
    working = [role for role in public if role != "admin"]
    if working:
        lines.append(
            f"  {yellow}warning{plain}  {' and '.join(working)}: open to other machines; "
            "anyone who reaches it may submit and work"
        )
    if "admin" in public:
        lines.append(
            f"  {yellow}warning{plain}  admin: open to other machines; anyone who reaches it RULES THIS BROKER: "
            "take a loopback address or ipc"
        )
    if not hears_deaths:
        lines.append(
            f"  {yellow}warning{plain}  this libzmq does not tell whose connection has gone: "
            "the jobs of dead workers wait for their timeout"
        )
    worker, client = (shlex.quote(sibling(name)) for name in ("testworker.py", "testclient.py"))
    reached = {role: shlex.quote(reachable(url)) for role, url in endpoints.items()}
    lines += [
        f"  next     {worker} {reached['workers']} {reached['answers']} 0.1",
        f"           {client} {reached['clients']}",
    ]
    return "\n".join(lines)


def reachable(url: str) -> str:
    """An endpoint to connect to on this machine, for one that was bound: wildcards become the loopback address."""
    for wildcard, address in WILDCARDS.items():
        if url.startswith(wildcard):
            return address + url.removeprefix(wildcard)
    return url


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
