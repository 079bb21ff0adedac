"""What the README shows, run as it stands there."""

from __future__ import annotations

import re
import signal
from concurrent.futures import Future
from pathlib import Path

import pytest

import relet

from .conftest import LIMIT_S, BrokerProgram, Place, Program

README = (Path(__file__).parents[2] / "README.md").read_text()
DRAINS = re.compile(r"^signal\.signal\(.*\n", re.MULTILINE)
RESIZE = """
import sys

def resize(data):
    print("resizing", flush=True)
    sys.stdin.readline()
    return data[::-1]

"""


def resizer() -> str:
    """The program of a worker."""
    (program,) = (it for it in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Resizer" in it)
    assert len(DRAINS.findall(program)) == 1
    return str(program)


def start(place: Place, broker: BrokerProgram, program: str) -> Program:
    """It as a process, which resizes a picture for each line on stdin."""
    assert program.count("tcp://localhost:4162") == 1
    text = RESIZE + program.replace("tcp://localhost:4162", broker.endpoints["workers"])
    return place.program("-c", text, reads="stdout")


def resize(worker: Program) -> None:
    """What it has in hand."""
    assert worker.process.stdin is not None
    worker.process.stdin.write(b"now\n")
    worker.process.stdin.flush()


def stopped_with_two_jobs(
    place: Place, broker: BrokerProgram, client: relet.Client, program: str
) -> list[Future[bytes]]:
    """A worker that gets SIGTERM while it has a job in hand, and may then go on with it; it has ended."""
    futures: list[Future[bytes]] = [client.submit(body, timeout=4 * LIMIT_S) for body in (b"one", b"two")]
    worker = start(place, broker, program)
    worker.wait_for(lambda lines: "resizing" in lines)
    broker.event("job_started")
    worker.signal(signal.SIGTERM)
    if program == resizer():
        resize(worker)
        assert worker.ended() == 0
        assert worker.lines == ["resizing"]
    else:
        assert worker.ended() == -signal.SIGTERM
    return futures


@pytest.mark.parametrize("drains", [True, False])
def test_a_worker_finishes_what_it_has_in_hand_at_sigterm(place: Place, drains: bool) -> None:
    """README: "the job in hand is finished, those behind it go back"; without the handler one attempt is lost."""
    broker = place.broker("--log-level", "debug")
    with relet.Client(broker.endpoints["clients"]) as client:
        program = resizer() if drains else DRAINS.sub("", resizer())
        first, second = stopped_with_two_jobs(place, broker, client, program)
        if drains:
            assert first.result(LIMIT_S) == b"eno"
        assert not second.done()
        other = start(place, broker, resizer())
        for _ in range(1 if drains else 2):
            resize(other)
        assert (first.result(LIMIT_S), second.result(LIMIT_S)) == (b"eno", b"owt")
    broker.signal(signal.SIGTERM)
    assert broker.ended() == 0
    assert broker.event("broker_stopped").get("attempts_lost", 0) == (0 if drains else 1)
