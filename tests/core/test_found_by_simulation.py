"""Faults that the simulation has found, each as the shortest conversation that shows it."""

from __future__ import annotations

import itertools

import pytest

from relet.core.machine import Machine
from relet.messages import Body, ClientHello, Peer, Submit, Submitted

NAME = b"a request".ljust(16, b".")


@pytest.fixture
def machine() -> Machine:
    """A machine without a store."""
    return Machine(number.to_bytes(16, "big") for number in itertools.count(1))


def _submit(machine: Machine, peer: Peer, said: Submit, body: Body, now: int = 0) -> list[Submitted]:
    """What is said to a client that submits."""
    if machine.requests.askers.on(peer, b"") is None:
        machine.requests.hello(peer, b"", ClientHello(), now)
    asker = machine.requests.askers.on(peer, b"")
    assert asker is not None
    machine.requests.submit([(asker, said, body)], now)
    told = [said for _, said, _ in machine.promised if isinstance(said, Submitted)]
    machine.promised.clear()
    return told


def test_a_request_of_several_frames_can_be_asked_for_again(machine: Machine) -> None:
    """Asking again with the same id and the same body joins the job, of however many frames the body is."""
    body = (b"one", b"", b"three")
    _submit(machine, Peer(b"\0one"), Submit(id=NAME), body)
    (said,) = _submit(machine, Peer(b"\0two"), Submit(id=NAME, age_ms=1, ack=True), body)
    assert (said.jobs[0].code, said.jobs[0].joined) == ("", True)
