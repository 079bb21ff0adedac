"""What a native client that does not read learns when it reads again, on simulated sockets that hold one message."""

from __future__ import annotations

from typing import Any

import pytest

from relet import Limits
from relet.dialects import native
from relet.messages import (
    VERSION,
    ClientHello,
    Heartbeat,
    Inquire,
    Item,
    Said,
    Submit,
    Welcome,
)
from relet.testing import Config, World


class Ear:
    """A client that says what it is told to, and keeps what it hears."""

    frozen = False

    def __init__(self) -> None:
        config = Config(req_clients=0, dealer_clients=0, req_workers=0, dealer_workers=0)
        config.limits = Limits(outbox_bytes_max=1)
        self.world = World("ear", config)
        wire = self.world.network.connect("clients", self, "DEALER", unread_max=1)
        assert wire is not None
        self.wire = wire
        self.kept: list[Any] = []

    def heard(self, wire: Any, frames: tuple[Any, ...]) -> None:
        """The broker says something."""
        assert wire is self.wire
        self.kept.append(native.to_client(VERSION, frames[2]))

    def on_closed(self, wire: Any) -> None:
        """It does not go."""
        raise AssertionError(wire)

    def says(self, *messages: Said) -> None:
        """Each is read, and answered if it can be, before the next."""
        for said in messages:
            self.wire.send((b"", VERSION, native.encode(said), b""))
            while self.world.clock.step():
                pass

    @property
    def dropped(self) -> int:
        """What the broker could not tell it."""
        return self.world.machine.counters.reply_dropped


@pytest.mark.parametrize(
    "said",
    [
        Submit(id=b"i" * 16, ack=True),
        Submit(id=b"short"),
        Submit(jobs=(Item(id=b"i" * 16), Item(id=b"i" * 16))),
        Inquire(id=b"i" * 16),
    ],
    ids=["accepted", "refused", "many", "inquiry"],
)
def test_an_answer_that_was_dropped_is_a_number_that_is_skipped(said: Said) -> None:
    """Receipts: what the client waits for shows in the numbers where it was dropped, as an outcome does."""
    ear = Ear()
    ear.wire.reading = False
    ear.says(ClientHello(), said)  # its welcome fills the socket
    ear.wire.resume()
    ear.says(Heartbeat())
    assert [type(it) for it in ear.kept] == [Welcome, Heartbeat]
    assert ear.dropped == 1
    assert ear.kept[-1].told == 1


def test_what_nobody_waits_for_takes_no_number_when_it_is_dropped() -> None:
    """Receipts: an answer to a heartbeat need not be asked for again; the next one says the same."""
    ear = Ear()
    ear.wire.reading = False
    ear.says(ClientHello(), Heartbeat(), Heartbeat())
    ear.wire.resume()
    ear.says(Heartbeat())
    assert ear.dropped == 2
    assert ear.kept[-1].told == 0
