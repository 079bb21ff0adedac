"""What several messages come to that are read in one turn, on simulated sockets and simulated time."""

from __future__ import annotations

from typing import Any

from relet import Limits
from relet.dialects import native
from relet.messages import (
    VERSION,
    Body,
    Cancel,
    ClientHello,
    Complete,
    Dispatch,
    Heartbeat,
    Outcome,
    Recall,
    Said,
    Submit,
    WorkerAsk,
    WorkerHello,
)
from relet.testing import Config, World
from relet.testing.clock import MS


class Peer:
    """A client or a worker that says what it is told to, and keeps what it hears."""

    frozen = False

    def __init__(self, world: World, role: str) -> None:
        self.world = world
        wire = world.network.connect(role, self, "DEALER")
        assert wire is not None
        self.wire = wire
        self.decode = native.to_client if role == "clients" else native.to_worker
        self.kept: list[Any] = []

    def heard(self, wire: Any, frames: tuple[Any, ...]) -> None:
        """The broker says something."""
        assert wire is self.wire
        self.kept.append(self.decode(VERSION, frames[2]))

    def ends(self, *messages: Said) -> None:
        """All of them at once, and it closes its connection."""
        for said in messages:
            self.wire.send((b"", VERSION, native.encode(said), ()))
        self.wire.close(reset=False)

    def on_closed(self, wire: Any) -> None:
        """It does not go."""
        raise AssertionError(wire)

    def says(self, *messages: tuple[Said, Body]) -> None:
        """All of them at once; then time goes on until they must have been answered."""
        for said, body in messages:
            self.wire.send((b"", VERSION, native.encode(said), body))
        goes_on(self.world, MS)

    def last(self, kind: type) -> Any:
        """What it heard last of this kind."""
        return [it for it in self.kept if type(it) is kind][-1]


def goes_on(world: World, duration_ns: int) -> None:
    """Time passes."""
    until = world.clock.now + duration_ns
    world.clock.at(until, int)
    while world.clock.now < until:
        world.clock.step()


def test_a_job_that_is_called_back_may_end_in_the_same_turn() -> None:
    """Recalls: the worker is asked to hand back, and then told that nobody waits for the job any more."""
    config = Config(req_clients=0, dealer_clients=0, req_workers=0, dealer_workers=0, delay_ns=1, spread_ns=1)
    config.limits = Limits(recall_ns=100 * MS, asker_grace_ns=30 * MS)
    world = World("turns", config)
    client, busy, idle = Peer(world, "clients"), Peer(world, "workers"), Peer(world, "workers")
    busy.says((WorkerHello(incarnation=b"b" * 16, features=("starts", "recalls")), b""), (WorkerAsk(credit=2), b""))
    client.says((ClientHello(), b""), (Submit(id=b"1" * 16), b"job 1"))
    client.says((Submit(id=b"2" * 16, gone="cancel"), b"job 2"))
    busy.says((WorkerAsk(credit=2, started=1), b""))
    idle.says((WorkerHello(incarnation=b"i" * 16, features=("starts",)), b""), (WorkerAsk(credit=1), b""))
    client.wire.close(reset=False)
    goes_on(world, 5 * MS)
    world._busy_until = world.clock.now + 300 * MS
    goes_on(world, 350 * MS)
    assert [type(it) for it in busy.kept[-2:]] == [Recall, Cancel]
    assert busy.kept[-1].reason == "asker_gone"


def test_a_start_that_was_said_before_a_late_answer_counts_though_both_are_read_in_one_turn() -> None:
    """Promise 3: an attempt counts from its start, however many messages the broker reads at a time."""
    config = Config(req_clients=0, dealer_clients=0, req_workers=0, dealer_workers=0)
    config.timeout_ns, config.delay_ns, config.spread_ns = 30 * MS, 1, 1
    world = World("turns", config)
    client, worker = Peer(world, "clients"), Peer(world, "workers")
    client.says((ClientHello(), b""), (Submit(id=b"i" * 16), b"job"))
    worker.says((WorkerHello(incarnation=b"w" * 16, features=("starts",)), b""), (WorkerAsk(credit=2), b""))
    first = worker.last(Dispatch)
    worker.says((WorkerAsk(credit=2, started=1), b""))
    goes_on(world, 40 * MS)
    assert worker.last(Dispatch).attempt == 2
    worker.says(
        (Complete(token=b"?" * 16, n=1, started=2), b""),
        (Complete(token=first.token, n=2, started=2), b"late"),
    )
    assert client.last(Outcome).state == "completed"
    assert client.last(Outcome).attempts == 2


def short_client(limits: Limits) -> tuple[World, Peer]:
    """A world in which a client has been told the outcome of its one job, and the broker is busy for a while."""
    config = Config(req_clients=0, dealer_clients=0, req_workers=0, dealer_workers=0, delay_ns=1, spread_ns=1)
    config.limits = limits
    world = World("turns", config)
    client, worker = Peer(world, "clients"), Peer(world, "workers")
    client.says((ClientHello(), b""), (Submit(id=b"i" * 16), b"job"))
    worker.says((WorkerHello(incarnation=b"w" * 16, features=("starts",)), b""), (WorkerAsk(credit=1), b""))
    worker.says((Complete(token=worker.last(Dispatch).token, n=1), b"done"))
    assert client.last(Outcome).n == 1
    world._busy_until = world.clock.now + 5 * MS
    return world, client


def test_a_receipt_counts_though_the_end_of_its_connection_is_read_with_it() -> None:
    """A client, in order: "At the end: a last `heartbeat` with `received`, and close", and the broker knows of both."""
    world, client = short_client(Limits())
    client.ends(Heartbeat(received=1))
    goes_on(world, 10 * MS)
    assert world.machine.counters.outcomes_received == 1
    assert not world.machine.requests.outcomes


def test_a_receipt_counts_though_the_end_of_its_connection_is_read_before_it() -> None:
    """A turn reads so many messages and no more: what a connection has brought may lie there when it is known to be
    gone.
    """
    world, client = short_client(Limits(turn_messages_max=2))
    client.ends(*[Heartbeat()] * 4, Heartbeat(received=1))
    goes_on(world, 10 * MS)
    assert world.machine.counters.outcomes_received == 1
    assert not world.machine.requests.outcomes


def test_what_is_not_receipted_at_the_end_stays_kept() -> None:
    """The client was told, and died, for all that anybody knows, before it read it: it may ask again."""
    world, client = short_client(Limits(turn_messages_max=2))
    client.ends(*[Heartbeat()] * 5)
    goes_on(world, 10 * MS)
    assert len(world.machine.requests.outcomes) == 1
    back = Peer(world, "clients")
    back.says((ClientHello(), b""), (Submit(id=b"i" * 16, age_ms=1), b"job"))
    assert back.last(Outcome).n == 1
    back.says((Heartbeat(received=1), b""))
    assert not world.machine.requests.outcomes
    assert not world.machine.requests.askers.parting
