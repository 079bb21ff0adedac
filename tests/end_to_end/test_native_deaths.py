"""Native workers that are killed or frozen, as processes: what they had goes elsewhere soon, and counts only if begun.

The workers are the plain ones of `plain_worker.py`, which print what they hear and start. Nothing of ours runs in them.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

import relet

from .conftest import LIMIT_S, BrokerProgram, Place, Program
from .plain_client import Client

WORKER = r"""
import sys
sys.path.insert(0, sys.argv[1])
from plain_worker import Worker

name, endpoint, ahead, answering = sys.argv[2:]

def say(*words):
    sys.stdout.write(" ".join(words) + "\n")  # one write: two threads say lines
    sys.stdout.flush()

def handler(body):
    say("started", body[0].decode())
    if answering == "when told":
        sys.stdin.readline()
    return [name.encode(), *body]

class Said(Worker):
    def take(self, said, body):
        super().take(said, body)
        extra = [said["reason"]] if said["t"] == "cancel" else [said["code"]] if "code" in said else []
        say(said["t"], *[frame.decode() for frame in body], *extra)

worker = Said(endpoint, handler, 1, int(ahead))
while True:
    worker.turn()
"""


def worker(place: Place, broker: BrokerProgram, name: str, *, ahead: int = 0, answering: str = "at once") -> Program:
    """A worker that has its session; it does one job at a time, and holds `ahead` more."""
    folder = str(Path(__file__).parent)
    command = ("-c", WORKER, folder, name, broker.endpoints["workers"], str(ahead), answering)
    program = place.program(*command, reads="stdout")
    program.wait_for(lambda lines: "welcome" in lines)
    return program


def plain_client(place: Place, broker: BrokerProgram) -> Client:
    """A client whose socket ends with the test, however that ends."""
    client = Client(broker.endpoints["clients"])
    place.owns(client.socket)
    return client


def heard(program: Program, line: str, count: int = 1) -> None:
    """Waits until the worker has printed a line so often."""
    program.wait_for(lambda lines: lines.count(line) >= count)


def answered(client: Client, names: list[bytes]) -> None:
    """Waits until these jobs have their outcomes."""
    limit = time.monotonic() + LIMIT_S
    while not set(names) <= set(client.outcomes):
        assert time.monotonic() < limit, f"{len(client.open)} are open"
        client.turn(0.01)


def sent(client: Client, broker: BrokerProgram, *bodies: bytes) -> list[bytes]:
    """Submits, and waits until the broker has taken it all; the request ids."""
    taken = len(broker.events("job_accepted"))
    names = [client.submit(body) for body in bodies]
    limit = time.monotonic() + LIMIT_S
    while len(broker.events("job_accepted")) < taken + len(bodies):
        assert time.monotonic() < limit
        client.turn(0.01)
    return names


def ended(broker: BrokerProgram, client: Client) -> dict[str, int]:
    """Stops the broker; what it counted."""
    client.socket.close(linger=0)
    broker.signal(signal.SIGTERM)
    assert broker.ended() == 0
    return broker.event("broker_stopped")


def test_a_killed_worker_costs_an_attempt_only_of_what_it_had_started(place: Place) -> None:
    """kill -9: its held jobs go back uncounted, the started one counts, and all are done elsewhere within a moment."""
    broker = place.broker("--log-level", "debug", "-t", "3")
    client = plain_client(place, broker)
    holder = worker(place, broker, "holder", ahead=3, answering="when told")
    names = sent(client, broker, b"0", b"1", b"2", b"3")
    heard(holder, "started 0")
    heard(holder, "job 3")
    broker.event("job_started")
    holder.signal(signal.SIGKILL)
    killed = time.monotonic()
    heir = worker(place, broker, "heir")
    answered(client, names)
    assert time.monotonic() - killed < 3  # the bar is that of the session's grace, and the benchmark's to measure
    for number, name in enumerate(names):
        said, body = client.outcomes[name]
        assert (body, said.get("attempts", 1)) == ([b"heir", b"%d" % number], 2 if number == 0 else 1)
    heard(heir, "started 3")
    counted = ended(broker, client)
    assert (counted["attempts_lost"], counted["handovers_returned"]) == (1, 3)


def test_a_frozen_workers_jobs_go_elsewhere_and_its_late_answer_counts_once(place: Place) -> None:
    """SIGSTOP: elsewhere within liveness and a heartbeat. SIGCONT: what it had started may be the outcome, what it
    held it does not start, and nothing is told twice.
    """
    liveness_s, heartbeat_s = 1.0, 0.25
    broker = place.broker("--log-level", "debug", "-t", "5", "--liveness", f"{liveness_s}s")
    client = plain_client(place, broker)
    frozen = worker(place, broker, "frozen", ahead=1, answering="when told")
    names = sent(client, broker, b"started", b"held")
    heard(frozen, "started started")
    heard(frozen, "job held")
    broker.event("job_started")
    frozen.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    heir = worker(place, broker, "heir", ahead=1, answering="when told")
    heard(heir, "job started")
    passed = time.monotonic() - stopped
    assert liveness_s - 2 * heartbeat_s < passed < liveness_s + heartbeat_s + 1
    heard(heir, "job held")
    heard(heir, "started started")
    broker.event("job_started", 2)  # or its attempt has not counted when the answer comes
    assert frozen.process.stdin is not None
    frozen.process.stdin.write(b"now\n")
    frozen.process.stdin.flush()
    frozen.signal(signal.SIGCONT)
    answered(client, names[:1])
    said, body = client.outcomes[names[0]]
    assert (body, said["attempts"]) == ([b"frozen", b"started"], 2)
    heard(heir, "cancel answered")
    assert heir.process.stdin is not None
    heir.process.stdin.write(b"now\nand again\n")
    heir.process.stdin.flush()
    heard(heir, "refused not_open")  # it answers all the same
    answered(client, names)
    said, body = client.outcomes[names[1]]
    assert body == [b"heir", b"held"]
    assert "attempts" not in said  # it was held by a worker that never began it: that counts nothing
    assert "started held" not in frozen.lines
    assert client.received == 2, "an outcome was told twice"
    counted = ended(broker, client)
    assert (counted["answers_late"], counted["jobs_completed"], counted["attempts_lost"]) == (1, 2, 1)


def test_a_frozen_broker_costs_nobody_a_session(place: Place) -> None:
    """SIGSTOP of the broker for longer than the liveness: jobs go on, no attempt is lost, nothing is done twice."""
    broker = place.broker("--log-level", "debug", "-t", "1", "--liveness", "1s")
    client = plain_client(place, broker)
    busy = worker(place, broker, "busy", ahead=1, answering="when told")
    names = sent(client, broker, b"0", b"1")
    heard(busy, "started 0")
    heard(busy, "job 1")
    broker.event("job_started")
    broker.signal(signal.SIGSTOP)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        client.turn(0.05)
    assert busy.process.stdin is not None
    busy.process.stdin.write(b"now\nand again\n")
    busy.process.stdin.flush()
    broker.signal(signal.SIGCONT)
    answered(client, names)
    assert [client.outcomes[name][1] for name in names] == [[b"busy", b"0"], [b"busy", b"1"]]
    assert [client.outcomes[name][0].get("attempts", 1) for name in names] == [1, 1]
    assert [line for line in busy.lines if line.startswith("started")] == ["started 0", "started 1"]
    counted = ended(broker, client)
    assert (counted["jobs_completed"], counted.get("attempts_lost", 0)) == (2, 0)


def test_workers_that_die_in_turn_leave_a_ledger(place: Place) -> None:
    """A job that kills whoever starts it is told as failed, with what became of each attempt."""
    broker = place.broker("--log-level", "debug", "-t", "2")
    client = plain_client(place, broker)
    names = sent(client, broker, b"deadly")
    for attempt in (1, 2):
        victim = worker(place, broker, f"victim {attempt}", answering="when told")
        heard(victim, "started deadly")
        broker.event("job_started", attempt)
        victim.signal(signal.SIGKILL)
    answered(client, names)
    said, body = client.outcomes[names[0]]
    assert (said["state"], said["reason"], said["attempts"], body) == ("discarded", "tries_spent", 2, [])
    assert [(entry["attempt"], entry["cause"]) for entry in said["ledger"]] == [(1, "worker_lost"), (2, "worker_lost")]
    assert len({entry["worker"] for entry in said["ledger"]}) == 2
    counted = ended(broker, client)
    assert (counted["attempts_lost"], counted["jobs_discarded"]) == (2, 1)


SUICIDE = """
import os, sys
import relet

def handler(body):
    sys.stdin.readline()
    os.kill(os.getpid(), 11)
    return body

relet.Worker(sys.argv[1], handler=handler).run()
"""


@pytest.mark.parametrize("tries", [1, 3])
def test_a_job_that_kills_its_worker_spends_its_tries(place: Place, tries: int) -> None:
    """The broker hears of the start while the handler runs, not with its answer: so the death counts."""
    broker = place.broker("--log-level", "debug", "-t", str(tries))
    with relet.Client(broker.endpoints["clients"]) as client:
        future = client.submit(b"x", timeout=4 * LIMIT_S)
        for attempt in range(1, tries + 1):
            victim = place.program("-c", SUICIDE, broker.endpoints["workers"], reads="stdout")
            broker.event("job_started", attempt)
            assert victim.process.stdin is not None
            victim.process.stdin.write(b"die\n")
            victim.process.stdin.flush()
            assert victim.process.wait(LIMIT_S) == -signal.SIGSEGV
        with pytest.raises(relet.JobFailed) as failed:
            future.result(LIMIT_S)
    assert failed.value.reason == "tries_spent"
    assert failed.value.attempts == tries


POISONED = """
import os, sys
import relet

def handler(body):
    if body == b"poison":
        sys.stdin.readline()
        os.kill(os.getpid(), 9)
    return body

workers, answers, dialect = sys.argv[1:]
relet.Worker(workers, answers, handler, dialect=dialect, ahead=4).run()
"""


@pytest.mark.parametrize("dialect", ["native", "2010"])
def test_a_poison_job_and_the_good_ones_behind_it(place: Place, dialect: str) -> None:
    """docs/operations.md: what a native worker holds behind a job that kills it loses nothing; in the dialect of 2010
    each of them has lost an attempt.
    """
    broker = place.broker("--log-level", "debug", "-t", "3")
    client = plain_client(place, broker)
    names = sent(client, broker, b"poison", b"good 1", b"good 2", b"good 3")
    ends = broker.endpoints["workers"], broker.endpoints["answers"]
    for attempt in (1, 2, 3):
        victim = place.program("-c", POISONED, *ends, dialect, reads="stdout")
        broker.event("job_dispatched", 4 * attempt)
        if dialect == "native":
            broker.event("job_started", attempt)
        assert victim.process.stdin is not None
        victim.process.stdin.write(b"die\n")
        victim.process.stdin.flush()
        assert victim.ended() == -signal.SIGKILL
    place.program("-c", POISONED, *ends, dialect, reads="stdout")
    answered(client, names)
    told = [(said.get("state", "completed"), said.get("attempts", 1)) for said, _ in map(client.outcomes.get, names)]
    spent = ("discarded", 3)
    assert told == [spent, *([("completed", 1)] if dialect == "native" else [spent]) * 3]
    counted = ended(broker, client)
    assert counted["attempts_lost"] == (3 if dialect == "native" else 12)
    assert counted.get("handovers_returned", 0) == (9 if dialect == "native" else 0)
