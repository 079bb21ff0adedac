"""A client and a worker that know nothing of relet but docs/protocol.md, on zmq and msgpack alone.

They are what somebody would write in another language: short, and good enough to use. Here they go through what a
machine room does to programs: a broker that is restarted, a worker that is killed, peers of another age beside them.
"""

from __future__ import annotations

import ast
import signal
import sys
import time
from pathlib import Path

import pytest
import zmq

from .conftest import LIMIT_S, BrokerProgram, Place, Program
from .plain_client import Client

FOLDER = Path(__file__).parent
PLAIN = (FOLDER / "plain_client.py", FOLDER / "plain_worker.py")
LINES_OVER = 100


def imported(text: str) -> set[str]:
    """The names of the packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "relet").split(".")[0])
    return found


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.stem)
def test_plain_peers_are_short_and_know_only_zmq_and_msgpack(path: Path) -> None:
    """docs/protocol.md is enough: under 100 lines, words about them included, and nothing of ours is imported."""
    text = path.read_text()
    assert len(text.splitlines()) < LINES_OVER
    assert imported(text) - set(sys.stdlib_module_names) == {"zmq", "msgpack"}


def test_a_hidden_import_is_found() -> None:
    """Of a package, of ours, of a part of one: wherever in the file."""
    assert imported("def f():\n    from relet.dialects import native\n    import zmq.green") == {"relet", "zmq"}


def plain_worker(place: Place, broker: BrokerProgram, *options: str) -> Program:
    """The plain worker as a process."""
    return place.program(str(PLAIN[1]), broker.endpoints["workers"], *options, reads="stderr")


class Old:
    """A client and a worker of 2010, turned by hand."""

    def __init__(self, place: Place, broker: BrokerProgram) -> None:
        self._place, self.wanted, self.heard, self.did = place, 0, dict[int, bytes](), dict[bytes, int]()
        self.connect(broker)

    def connect(self, broker: BrokerProgram) -> None:
        """Peers of 2010 do not notice a restart: somebody starts them anew."""
        self.client = self._place.socket(zmq.DEALER, broker.endpoints["clients"])
        self.worker = self._place.socket(zmq.REQ, broker.endpoints["workers"])
        self.answers = self._place.socket(zmq.PUSH, broker.endpoints["answers"])
        self.worker.send(b"ask")
        for number in set(range(self.wanted)) - set(self.heard):
            self.ask(number)

    def ask(self, number: int) -> None:
        """One request, its number in the return path."""
        self.wanted = max(self.wanted, number + 1)
        self.client.send_multipart([b"%d" % number, b"", b"old %d" % number])

    def turn(self) -> None:
        """Takes what has come."""
        while self.client.poll(0):
            number, _, answer = self.client.recv_multipart()
            self.heard[int(number)] = answer
        while self.worker.poll(0):
            token, *body = self.worker.recv_multipart()
            self.did[body[0][:3]] = self.did.get(body[0][:3], 0) + 1
            self.answers.send_multipart([token, *body])
            self.worker.send(b"ask")


def test_a_thousand_jobs_by_plain_peers_through_a_restart_and_a_death(place: Place) -> None:
    """The broker is killed and comes back, a worker is killed, peers of 2010 work beside: nothing is lost."""
    options = ("--liveness", "2s", "--session-grace", "100ms")
    broker = place.broker(*options)
    first, second = (plain_worker(place, broker, "4", "8") for _ in range(2))
    client = Client(broker.endpoints["clients"])
    names = [client.submit(b"new", b"", b"%d" % number) for number in range(1_000)]
    old = Old(place, broker)
    for number in range(200):
        old.ask(number)
    limit = time.monotonic() + 2 * LIMIT_S
    acts = [200, 500]
    while client.open or len(old.heard) < 200:
        assert time.monotonic() < limit, f"{len(client.open)} open, {len(old.heard)} old; {broker.lines[-10:]}"
        client.turn(0.01)
        old.turn()
        if acts and len(client.outcomes) >= acts[0]:
            if acts.pop(0) == 200:
                first.signal(signal.SIGKILL)
            else:
                broker.signal(signal.SIGKILL)
                broker.ended()
                broker = place.broker(
                    *options, at=tuple(broker.endpoints[it] for it in ("clients", "workers", "answers"))
                )
                old.connect(broker)
    assert not acts
    for number, name in enumerate(names):
        said, body = client.outcomes[name]
        assert (said.get("state", "completed"), body) == ("completed", [b"new", b"", b"%d" % number])
    assert old.heard == {number: b"old %d" % number for number in range(200)}
    assert 0 < old.did[b"new"] < 800  # both ways: the worker of 2010 did some of the new ones ...
    assert old.did.get(b"old", 0) < 200  # ... and the plain workers some of the old ones
    second.signal(signal.SIGTERM)
    client.socket.close(linger=0)
    broker.signal(signal.SIGTERM)
    assert broker.ended() == 0
    stopped = broker.event("broker_stopped")
    assert stopped["jobs_completed"] >= 400
    assert "jobs_discarded" not in stopped
    assert any(said.get("again") for said, _ in client.outcomes.values())


def test_a_plain_client_on_terms_that_cannot_be_does_not_wait_for_ever(place: Place) -> None:
    """Whatever field it is: the refusal names the request."""
    broker = place.broker()
    for terms in ({"priority": 5_000}, {"errors_max": -1}, {"tries": -1}, {"late": "never"}):
        client = Client(broker.endpoints["clients"], **terms)
        name = client.submit(b"job")
        limit = time.monotonic() + LIMIT_S
        while client.open:
            assert time.monotonic() < limit, terms
            client.turn(0.01)
        said, body = client.outcomes[name]
        assert (said["state"], said["reason"], body) == ("refused", "bad_request", [])
        client.socket.close(linger=0)


def test_plain_programs_speak_to_each_other(place: Place) -> None:
    """`plain_client.py` reads jobs and prints outcomes, `plain_worker.py` does them."""
    broker = place.broker()
    plain_worker(place, broker)
    client = place.program(str(PLAIN[0]), broker.endpoints["clients"], reads="stdout")
    assert client.process.stdin is not None
    client.process.stdin.write(b"one\ntwo\n\n")
    client.process.stdin.close()
    assert client.ended() == 0
    assert client.lines == ["completed  b'one'", "completed  b'two'", "completed  b''"]
