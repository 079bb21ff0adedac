"""relet device: a proxy in the middle, and what can be said to one that runs.

    relet device queue 5559 tcp://broker.example:4161 --connect-back --control 5560
    relet device statistics tcp://localhost:5560

A device runs until SIGTERM, Ctrl-C or its control endpoint says that it shall end, and ends with 0 then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from relet.cli.exits import Exit
from relet.cli.parser import Parser, fail, say
from relet.cli.quantities import count, duration
from relet.cli.tables import document, listing, shown

PROGRAM = "relet"
HWM = 1_000
"""`relet.devices.HWM`; a test holds both against each other, because --help does not load ZeroMQ."""
TIMEOUT_SECONDS = 5.0
ROLES = {
    "queue": ("clients connect here (REQ, DEALER)", "servers connect here (REP, ROUTER)"),
    "forwarder": ("publishers connect here (PUB)", "subscribers connect here (SUB)"),
    "streamer": ("who pushes connects here (PUSH)", "who pulls connects here (PULL)"),
}
RUNS = {
    Exit.OK: "terminated, by a signal or at its control endpoint",
    Exit.USAGE: "the command line cannot be meant",
    Exit.UNREACHABLE: "an endpoint cannot be bound",
    Exit.JOB_FAILED: "libzmq ended it; one line on stderr says why",
}
SAYS = {
    Exit.OK: "it did",
    Exit.JOB_FAILED: "it did not; one line on stderr says why",
    Exit.USAGE: "the command line cannot be meant",
    Exit.UNREACHABLE: "no device answered within --timeout",
    Exit.INTERRUPTED: "ended by Ctrl-C; what was asked may have been done",
}


class Command(NamedTuple):
    """Something that can be done."""

    summary: str
    usage: str
    """Its arguments in short."""
    examples: str
    add: Callable[[argparse.ArgumentParser], None]
    """Its own arguments."""
    exits: Mapping[Exit, str]
    run: Callable[[str, argparse.Namespace], Exit]


def main(words: Sequence[str], options: Sequence[str]) -> int:
    """Does what a command line says that begins with `device` and a word of `COMMANDS`; the exit code."""
    name = " ".join(words[:2])
    command = COMMANDS[name]
    parser = Parser(
        f"{PROGRAM} {name}",
        usage=command.usage,
        description=command.summary,
        examples=command.examples,
        exits=command.exits,
    )
    command.add(parser)
    values = parser.parse([*options, *words[2:]])
    return command.run(words[1], values)


def _messages(text: str) -> int:
    """A number of messages, 0 for no bound."""
    return 0 if text.strip() == "0" else count(text)


def _ends(kind: str) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        front, back = ROLES[kind]
        parser.add_argument("front", metavar="FRONT", help=front)
        parser.add_argument("back", metavar="BACK", help=back)
        parser.add_argument(
            "--connect-front", action="store_true", help="connect to FRONT, where somebody else has bound it"
        )
        parser.add_argument(
            "--connect-back", action="store_true", help="connect to BACK, such as the endpoint of a broker"
        )
        parser.add_argument(
            "--monitor", metavar="ENDPOINT", help="publish every message here (SUB connects), behind a frame in or out"
        )
        parser.add_argument(
            "--control",
            metavar="ENDPOINT",
            help="obey PAUSE, RESUME, TERMINATE and STATISTICS here (REQ connects): who reaches it rules the device",
        )
        parser.add_argument(
            "--hwm",
            type=_messages,
            default=HWM,
            metavar="N",
            help=f"messages that wait for one connection in each direction, 0 for no bound [{HWM}]",
        )

    return add


def _control(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("control", metavar="CONTROL", help="the endpoint that the device has for --control")
    parser.add_argument(
        "--timeout",
        type=duration,
        default=TIMEOUT_SECONDS,
        metavar="TIME",
        help=f"how long to wait for the device [{TIMEOUT_SECONDS:g}s]",
    )


def _statistics(parser: argparse.ArgumentParser) -> None:
    _control(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document in place of lines")


def _run(kind: str, values: argparse.Namespace) -> Exit:
    """Forwards until it is told to end."""
    from relet.devices import Device, DeviceFailed
    from relet.transport.attach import BindError

    asked: list[bool] = []
    try:
        device = Device(
            kind,  # type: ignore[arg-type]  # one of COMMANDS
            values.front,
            values.back,
            monitor=values.monitor,
            control=values.control,
            hwm=values.hwm,
            connect_front=values.connect_front,
            connect_back=values.connect_back,
        )
    except BindError as error:
        fail(Exit.UNREACHABLE, error.strerror or str(error), program=PROGRAM)
    except ValueError as error:
        fail(Exit.USAGE, str(error), program=PROGRAM)

    def end(*_: object) -> None:
        asked.append(True)
        device.terminate()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    say(banner(kind, device.endpoints))
    try:
        device.run()
    except DeviceFailed as error:
        fail(Exit.JOB_FAILED, str(error), program=PROGRAM)
    say(f"{PROGRAM}: stopped" + ("" if asked else ", as its control endpoint was told"))
    return Exit.OK


def banner(kind: str, endpoints: Mapping[str, str]) -> str:
    """What a device says when it is bound."""
    rows = {**endpoints, "pid": str(os.getpid())}
    return "\n".join([f"relet device {kind}", *(f"  {name:<8} {value}" for name, value in rows.items())])


def _said(word: str, values: argparse.Namespace) -> Exit:
    """One command to a device that runs."""
    from relet.devices import Control, DeviceFailed

    try:
        with Control(values.control, timeout=values.timeout) as control:
            found: Any = getattr(control, word)()
    except DeviceFailed as error:
        fail(Exit.JOB_FAILED, shown(str(error)), program=PROGRAM)
    except TimeoutError as error:
        fail(Exit.UNREACHABLE, f"{error}; start it with --control", program=PROGRAM)
    except ValueError as error:
        fail(Exit.USAGE, f"CONTROL: {shown(str(error))}", program=PROGRAM)
    except KeyboardInterrupt:
        fail(Exit.INTERRUPTED, "ended; what was asked may have been done", program=PROGRAM)
    if found is not None:
        with contextlib.suppress(BrokenPipeError):
            fields = {name.replace("_", " "): getattr(found, name) for name in found.__struct_fields__}
            for line in [document(found)] if values.json else listing(fields):
                print(line)
            sys.stdout.flush()
    return Exit.OK


_RUN_USAGE = "[options] FRONT BACK"
COMMANDS: dict[str, Command] = {
    "device queue": Command(
        "a proxy for requests and replies: before a broker, behind it, or between clients and servers",
        _RUN_USAGE,
        "  relet device queue 'tcp://*:5559' tcp://localhost:4161 --connect-back\n"
        "      clients elsewhere reach a broker on this machine\n"
        "  relet device queue 5559 5560 --monitor 5561\n"
        "      servers connect, too; all that goes through can be watched",
        _ends("queue"),
        RUNS,
        _run,
    ),
    "device forwarder": Command(
        "a proxy from publishers to subscribers, both of which connect to it",
        _RUN_USAGE,
        "  relet device forwarder 5559 5560",
        _ends("forwarder"),
        RUNS,
        _run,
    ),
    "device streamer": Command(
        "a proxy from those that push to those that pull, shared out evenly",
        _RUN_USAGE,
        "  relet device streamer 5559 tcp://localhost:4163 --connect-back\n"
        "      workers of 2010 elsewhere answer a broker on this machine",
        _ends("streamer"),
        RUNS,
        _run,
    ),
    "device pause": Command(
        "nothing goes through a device from now on",
        "[--timeout TIME] CONTROL",
        "  relet device pause 5562",
        _control,
        SAYS,
        _said,
    ),
    "device resume": Command(
        "it does again",
        "[--timeout TIME] CONTROL",
        "  relet device resume 5562",
        _control,
        SAYS,
        _said,
    ),
    "device statistics": Command(
        "what went through a device so far",
        "[--json] [--timeout TIME] CONTROL",
        "  relet device statistics 5562",
        _statistics,
        SAYS,
        _said,
    ),
    "device terminate": Command(
        "a device ends",
        "[--timeout TIME] CONTROL",
        "  relet device terminate 5562",
        _control,
        SAYS,
        _said,
    ),
}
"""All that can be done, in the order in which --help shows it."""
