"""`relet device`: proxies as programs, what they obey, how they end, and what is said of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from relet import devices
from relet.cli import admin as program
from relet.cli import device
from relet.cli.exits import Exit

from .conftest import Connect, Program

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 20.0


class Relet(Program):
    """`python -m relet`, as a process."""

    def __init__(self, *words: str) -> None:
        super().__init__("tests/cli/relet_as_program.py", *words)


Start = Callable[..., Relet]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `relet`; whatever still runs when the test is over is ended."""
    started: list[Relet] = []

    def starter(*words: str) -> Relet:
        started.append(Relet(*words))
        return started[-1]

    yield starter
    for each in started:
        each.close()


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """How a command line ended in this process, and what it printed."""
    capsys.readouterr()
    try:
        code = program.main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_device_says_where_it_is_and_ends_with_a_signal(
    start: Start, connect: Connect, number: signal.Signals
) -> None:
    """All that is bound stands in the banner; SIGTERM and Ctrl-C end it with 0."""
    running = start("device", "queue", "0", "0", "--monitor", "0", "--control", "0", "--hwm", "0")
    client = connect(zmq.REQ, running.endpoint("front"))
    server = connect(zmq.REP, running.endpoint("back"))
    tap = connect(zmq.SUB, running.endpoint("monitor"))
    tap.subscribe(b"")
    client.send(b"hello")
    assert server.recv() == b"hello"
    server.send(b"hello")
    assert client.recv() == b"hello"
    assert running.endpoint("control")
    running.signal(number)
    assert running.end() == Exit.OK
    assert running.err.text.endswith("relet: stopped")


def test_what_a_device_obeys(start: Start, connect: Connect, capsys: pytest.CaptureFixture[str]) -> None:
    """Pause, resume, statistics, terminate, from another command line."""
    running = start("device", "streamer", "0", "0", "--control", "0")
    control = running.endpoint("control")
    pusher, puller = connect(zmq.PUSH, running.endpoint("front")), connect(zmq.PULL, running.endpoint("back"))
    pusher.send(b"one")
    assert puller.recv() == b"one"
    assert said(capsys, "device", "pause", control) == (Exit.OK, "", "")
    pusher.send(b"two")
    assert not puller.poll(20)
    code, out, _ = said(capsys, "device", "statistics", control)
    assert code == Exit.OK
    assert ["back", "sent", "1"] in [line.split() for line in out.splitlines()]
    assert said(capsys, "device", "resume", control) == (Exit.OK, "", "")
    assert puller.recv() == b"two"
    _, out, _ = said(capsys, "device", "statistics", "--json", control)
    assert json.loads(out)["front_received_bytes"] == 6
    assert said(capsys, "device", "terminate", control) == (Exit.OK, "", "")
    assert running.end() == Exit.OK
    assert running.err.text.endswith("relet: stopped, as its control endpoint was told")
    code, _, err = said(capsys, "device", "pause", control, "--timeout", "20ms")
    assert (code, err.count("\n")) == (Exit.UNREACHABLE, 1)
    assert "start it with --control" in err


def test_a_device_that_does_not_obey_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever answers there in another way."""
    context = zmq.Context[zmq.Socket[bytes]]()
    other = context.socket(zmq.REP)
    port = other.bind_to_random_port("tcp://127.0.0.1")
    answering = threading.Thread(target=lambda: (other.recv(), other.send(b"\x1bno")))
    answering.start()
    code, _, err = said(capsys, "device", "pause", str(port))
    answering.join(LIMIT_S)
    other.close(linger=0)
    context.term()
    assert (code, err) == (Exit.JOB_FAILED, "relet: \\x1bno\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("device", "'device' needs a word more: device queue, "),
        ("device que 1 2", "there is no command 'device que'; did you mean device queue?"),
        ("device queue 1", "the following arguments are required: BACK"),
        ("device queue 1 2 --hvm 3", "there is no option --hvm; did you mean --hwm?"),
        ("device queue 1 2 --hwm -3", "argument --hwm: "),
        ("device queue 1 2 --hwm x", "argument --hwm: 'x' is no whole number"),
        ("device queue 1 70000", "'70000': there is no port 70000"),
        ("device queue 1 1", "front and back have the same endpoint"),
        ("device queue 1 :0 --connect-back", "port 0 can only be bound"),
        ("device pause nowhere:x", "CONTROL: 'nowhere:x': "),
    ],
)
def test_a_command_line_that_cannot_be_meant(capsys: pytest.CaptureFixture[str], words: str, line: str) -> None:
    """One line that says what to write, and 2."""
    code, out, err = said(capsys, *words.split())
    assert (code, out, err.count("\n")) == (Exit.USAGE, "", 1)
    assert line in err


def test_an_endpoint_that_somebody_has(capsys: pytest.CaptureFixture[str]) -> None:
    """3, and who cannot have what."""
    with devices.Device("queue", ":0", ":0") as running:
        code, _, err = said(capsys, "device", "queue", "0", running.endpoints["front"])
    assert (code, err.count("\n")) == (Exit.UNREACHABLE, 1)
    assert "cannot bind back" in err


def test_every_command_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """And stands in that of the program; the number that help names is the one that holds."""
    _, overview, _ = said(capsys, "--help")
    for name, command in device.COMMANDS.items():
        assert f"  {name}" in overview
        code, text, _ = said(capsys, *name.split(), "--help")
        assert code == Exit.OK
        assert command.summary in " ".join(text.split())
        assert command.examples.split("\n")[0] in text
        assert all(f"\n  {code.value:<4} " in text for code in command.exits)
    assert device.HWM == devices.HWM


def test_help_does_not_load_zeromq() -> None:
    """It is there at once."""
    code = "import sys; from relet.cli import admin\ntry: admin.main(['device', 'queue', '--help'])\n"
    code += "except SystemExit: pass\nassert not {'zmq', 'msgspec', 'structlog'} & set(sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "lib")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)
