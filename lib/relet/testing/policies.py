"""What clients and administrators of a simulated world want beyond the plain: drawn at random, within what may be.

What is drawn is asked for on the wire, or set in the broker; the judge knows of it only what everybody can know.
"""

from __future__ import annotations

import random
from typing import Any, Final, Literal

import msgspec

from relet.core.settings import QueueSettings
from relet.core.terms import Backoff
from relet.messages import BackoffMs, Submit
from relet.testing.clock import MS, S
from relet.testing.judge import WALL_NS

ADMINISTRATOR: Final = "the simulation"


class Policies(msgspec.Struct, frozen=True, kw_only=True):
    """What is used in one world, and how often. Shares are from 0 to 1, rates per simulated second."""

    settings: dict[str, tuple[QueueSettings, ...]] = {}
    """By queue: what its settings may be, the first ones from the beginning."""
    changes: float = 0.0
    """How often an administrator sets others, or, of so many of these times, does something with dead letters."""
    redrives: float = 0.0
    weights: tuple[int, ...] = ()
    """Of queues, for workers that serve several; empty: these serve them in strict order."""
    priorities: tuple[int | None, ...] = ()
    """Of jobs."""
    orders: tuple[str, ...] = ()
    """Order keys of jobs; "": none."""
    blocks: float = 0.0
    """Of those that have one, how many block it when they are discarded."""
    fair: dict[str, int] = {}
    """Fairness keys of jobs, and their weights; "": none. The first one is used as often as all others."""
    uniques: tuple[str, ...] = ()
    """Unique keys of jobs; "": none ..."""
    modes: tuple[Literal["reject", "join", "replace"], ...] = ("reject",)
    """... what becomes of who comes second ..."""
    windows_ms: tuple[int, ...] = (0,)
    """... and how long they are taken after a success."""
    cancels: float = 0.0
    """Of requests, how many their clients cancel."""
    retries: float = 0.0
    """Of requests, how many have limits of their own of attempts, and pauses between them ..."""
    timed: float = 0.0
    """... how many have delays and deadlines ..."""
    contradicts: float = 0.0
    """... and how many ask for what cannot be."""

    def asked(self, rng: random.Random, said: Submit, now: int) -> Submit:
        """A request with what its client wants beyond the plain; `now` is simulated time."""
        fields: dict[str, Any] = {}
        if self.priorities:
            fields["priority"] = rng.choice(self.priorities)
        if self.orders:
            fields["order"] = rng.choice(self.orders)
            fields["blocks"] = fields["order"] != "" and rng.random() < self.blocks
        if self.fair:
            keys = list(self.fair)
            key = keys[0] if rng.random() < 0.5 else rng.choice(keys)
            if key:
                fields |= {"fair": key, "weight": self.fair[key]}
        if self.uniques and (unique := rng.choice(self.uniques)):
            mode, window_ms = rng.choice(self.modes), rng.choice(self.windows_ms)
            fields |= {"unique": unique, "unique_mode": mode, "unique_ms": window_ms}
        if rng.random() < self.retries:
            fields |= _retries(rng)
        if rng.random() < self.timed:
            fields |= _timing(rng, now)
        if rng.random() < self.contradicts:
            fields |= rng.choice(CONTRADICTIONS)
        return msgspec.structs.replace(said, **fields) if fields else said


def _timing(rng: random.Random, now: int) -> dict[str, Any]:
    """A delay, deadlines, and what an attempt takes."""
    pick = rng.choice
    fields: dict[str, Any] = {}
    match rng.randrange(4):
        case 0:
            fields["delay_ms"] = pick((1, 20, 200))
        case 1:
            fields["not_before_ms"] = (WALL_NS + now) // MS + pick((-5, 5, 100))
    if rng.random() < 0.5:
        fields["start_ms"] = pick((1, 30, 300, 3_000))
    if rng.random() < 0.5:
        fields |= {"deadline_ms": pick((20, 300, 3_000)), "takes_ms": pick((0, 0, 5, 50))}
    return fields


CONTRADICTIONS: Final[tuple[dict[str, Any], ...]] = (
    {"tries": 2, "losses_max": 3},
    {"fair": "", "weight": 2},
    {"order": "", "blocks": True},
    {"start_ms": 200, "deadline_ms": 100, "takes_ms": 0},
    {"delay_ms": 5, "not_before_ms": 5},
    {"backoff": BackoffMs(curve="fixed", base_ms=20, cap_ms=10)},
    {"unique": "", "unique_mode": "replace"},
    {"unique": "", "unique_ms": 5},
    {"unique": "k", "unique_ms": 1 << 40},
)
"""What cannot be asked for together."""


def _retries(rng: random.Random) -> dict[str, Any]:
    """Limits of attempts, and pauses."""
    pick = rng.choice
    fields: dict[str, Any] = {"tries": pick((None, 0, 3, 4)), "final_kinds": pick(((), ("Other",), ("Other", "Sim")))}
    fields[pick(("errors_max", "timeouts_max", "losses_max"))] = pick((1, 2, 3))
    if rng.random() < 0.6:
        fields["backoff"] = BackoffMs(
            curve=pick(("fixed", "linear", "exponential")),
            base_ms=pick((0, 1, 20, 300)),
            cap_ms=pick((None, 500, 1_000)),
            jitter=rng.random() < 0.5,
        )
    return fields


def draw(rng: random.Random, queues: tuple[str, ...], run_ns_max: int) -> Policies:
    """Policies of a world with these queues."""
    pick = rng.choice
    return Policies(
        settings={name: _settings(rng, run_ns_max) for name in queues if rng.random() < 0.7},
        changes=pick((0.0, 1.0, 10.0)),
        priorities=pick(((), (), (None, 0, 7), (-1_000, -1, 0, 0, 1, 1_000))),
        weights=pick(((), (1, 10))),
        redrives=pick((0.0, 0.3)),
        orders=pick(((), (), ("x", "y", ""), tuple("abcdefgh"))),
        blocks=pick((0.0, 0.1)),
        fair=pick(({}, {}, {"a": 1, "b": 1}, {"a": 1, "": 1, "b": 3, "c": 10})),
        uniques=pick(((), (), ("k", "l", "", ""), tuple("abcdefghijklmnop"))),
        modes=pick((("reject", "join", "replace"), ("reject", "join", "replace"), ("join",), ("replace", "reject"))),
        windows_ms=pick(((0,), (0, 5, 100, 1_000))),
        cancels=pick((0.0, 0.1, 0.3)),
        retries=pick((0.0, 0.2, 1.0)),
        timed=pick((0.0, 0.2, 1.0)),
        contradicts=pick((0.0, 0.01)),
    )


def _settings(rng: random.Random, run_ns_max: int) -> tuple[QueueSettings, ...]:
    """Some that take turns, unpaused at first."""
    pick, some = rng.choice, rng.random
    backoff = Backoff(pick(("fixed", "linear", "exponential")), 10 * MS, 200 * MS, some() < 0.5)
    rate, key_rate = pick((None, None, 30.0, 1_000.0)), pick((None, None, 20.0, 500.0))
    ageing_ns = pick((None, 5 * MS, 20 * MS))
    usual = QueueSettings(
        tries=pick((None, None, None, 0, 2, 4)),
        errors_max=pick((None, None, 1, 2)),
        timeouts_max=pick((None, None, 1, 2)),
        losses_max=pick((None, None, 1, 2)),
        start_ns=pick((None, None, None, 50 * MS)),
        total_ns=pick((None, None, None, 100 * MS, 2 * S)),
        final_kinds=pick((None, None, ("Sim",))),
        backoff=pick((None, None, backoff)),
        run_ns=min(run_ns_max, pick((50 * MS, 2 * S))) if some() < 0.3 else None,
        jobs_max=pick((None, None, None, 2, 20)),
        in_flight_max=pick((None, None, 1, 4)),
        rate=rate,
        burst=pick((None, 1, 3)) if rate else None,
        key_in_flight_max=pick((None, None, 1, 2)),
        key_rate=key_rate,
        key_burst=pick((None, 1, 3)) if key_rate else None,
        priority=pick((None, None, 3)),
        ageing_ns=ageing_ns,
        ageing_max=pick((None, 1, 2)) if ageing_ns else None,
    )
    others = [usual.pausing(pick(("intake", "dispatch", "both")), ADMINISTRATOR) for _ in range(2)]
    if some() < 0.5:
        others.append(QueueSettings())
    return (usual, *others, usual)


def unpaused(settings: QueueSettings) -> QueueSettings:
    """The same of a queue that is not paused."""
    return settings.resuming("both")
