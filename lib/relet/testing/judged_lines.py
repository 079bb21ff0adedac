"""The judge's account of queues: what waits in each, what is out, whose turn it is, and what may not go at all.

What may never happen is looked at with each hand-over: more jobs out than a limit allows, more in some time than a rate
allows, an order key with two jobs out or with a younger one before an older, a hand-over from a queue that is paused.

Whose turn it was is looked at when the turn of the loop is over. What was given out in it is compared with what still
waits *and could have gone all the time*: it waited before the turn began, its acceptance was safe then, its moment had
come some time ago, nothing holds its key. So little is claimed to be certain that nothing within a turn - which of its
messages the broker heard first, what was given back in between - makes a difference; and a broker that does it wrong
does it again and again, so that it is seen all the same.

- Nothing is given out while a job of higher priority waits, ageing counted.
- Of jobs of one priority and fairness key, the one that was accepted earlier goes first.
- Of two fairness keys of one priority of which both wait all the time, one gets as much for its weight as the other,
  but for two rounds.
- A session that serves queues in strict order gets nothing from one while something waits in one before it; one with
  weights gets from two queues that both have something all the time as much for their weights, but for two rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from relet.core.settings import QueueSettings
from relet.testing.claims import ORDER, RATE, RUNS, WAITS, WRONG, Claim, Violation
from relet.testing.clock import MS, S

if TYPE_CHECKING:
    from relet.testing.judge import Judge

Given: TypeAlias = "list[tuple[Claim, Any]]"
"""(job, the session or the peer of 2010 that got it)."""

LATE_NS: Final = S
"""How long after its moment, and after it is safe, a delayed job may be where it was: steps are bounded, and come with
the next turn ..."""
STIRRED_NS: Final = 50 * MS
"""... and so long after there was something in it again may a bucket be left alone."""
LOOKS_SHARE: Final = 200
"""Waiting jobs that may be looked at in each turn, on average."""
ROUNDS: Final = 2
"""Rounds by which two that take turns may be apart."""
ALMOST: Final = 1e-6
"""Of a token: what is lost in sums of fractions."""
PLAIN_SETTINGS: Final = QueueSettings()


class Bucket:
    """A token bucket: `rate` a second, and `burst` after a rest. It is full when it begins."""

    def __init__(self, rate: float, burst: int, now: int) -> None:
        self.rate, self.burst = rate, burst
        self.level = float(burst)
        self._least = float(burst)
        """What is there for whoever puts nothing back."""
        self._at = now

    def fill(self, now: int) -> None:
        """Time has passed."""
        more = (now - self._at) * self.rate / 1e9
        self.level, self._least = (min(float(self.burst), it + more) for it in (self.level, self._least))
        self._at = now

    def take(self, now: int) -> bool:
        """One is taken; False: it was not there."""
        self.fill(now)
        self.level -= 1
        self._least -= 1
        return self.level >= -ALMOST

    def put_back(self) -> None:
        """One was not needed after all; whoever counts it all the same comes to less, until the bucket is full."""
        self.level += 1

    def had_one(self, now: int) -> bool:
        """One has been there for some time."""
        self.fill(now)
        return self._least - min(STIRRED_NS * self.rate / 1e9, self.burst - 1 + ALMOST) >= 1


class Shares:
    """How much each of some that take turns has got, since it began to wait for more without a pause."""

    def __init__(self) -> None:
        self.weights: dict[Any, int] = {}
        self._got: Counter[Any] = Counter()
        """All that each was given ..."""
        self._kept: Counter[Any] = Counter()
        """... and what of that has not come back."""
        self._bases: dict[Any, tuple[int, dict[Any, int]]] = {}
        """Of each that waits: what it had got when it began to, and what the others had."""

    def gives(self, which: Any, weight: int) -> None:
        """One more for this one. What was counted with another weight says nothing any more."""
        if self.weights.setdefault(which, weight) != weight:
            self.weights[which] = weight
            self._bases.clear()
        self._got[which] += 1
        self._kept[which] += 1

    def came_back(self, which: Any) -> None:
        """It was in vain."""
        self._kept[which] -= 1

    def waited(self, waiting: set[Any]) -> str:
        """These wait, and have waited since the last time, where they did then; the others do not. Returns who got too
        little, and who too much; "" where it was fair.
        """
        for which in self._bases.keys() - waiting:
            del self._bases[which]
        unfair = self._unfair()
        for which in sorted(waiting - self._bases.keys(), key=str):
            self._bases[which] = self._got[which], dict(self._kept)
        return unfair

    def _unfair(self) -> str:
        for poor, (got, others) in self._bases.items():
            rounds = (self._got[poor] - got) // self.weights.get(poor, 1) + ROUNDS
            for rich, kept in self._kept.items():
                if rich != poor and kept - others.get(rich, 0) > rounds * self.weights.get(rich, 1):
                    gets = f"{rich!r} got {kept - others.get(rich, 0)} (weight {self.weights.get(rich, 1)})"
                    return f"{gets} while {poor!r} waited and got {self._got[poor] - got}"
        return ""


class Line:
    """One queue."""

    def __init__(self, lines: Lines, name: str) -> None:
        self.name = name
        self.settings = self.safe = PLAIN_SETTINGS
        """What holds, and what is safe of that."""
        self.open = 0
        """What has not ended."""
        self.waiting: dict[Claim, int] = {}
        """What waits, and since which turn."""
        self.out: Counter[str] = Counter()
        """What is with workers, by fairness key."""
        self.out_all = 0
        self.orders: dict[str, dict[Claim, None]] = {}
        """What is open, by order key, in the order of acceptance."""
        self.heads: dict[str, int] = {}
        """Of an order key: in which turn its first job became the first."""
        self.blocked: dict[str, dict[Claim, None]] = {}
        """By order key, the jobs that were discarded, and block what is younger."""
        self.given: Given = []
        """What was given out in this turn, and to whom ..."""
        self.came_back = False
        """... and whether some of it could not be sent."""
        self.bucket: Bucket | None = None
        self.buckets: dict[str, Bucket] = {}
        self.shares: dict[int, Shares] = {}
        """By priority."""
        self.weights: dict[str, int] = {}
        """Of each fairness key."""
        self._lines = lines

    def __repr__(self) -> str:
        return f"<Line {self.name}>"

    def set(self, settings: QueueSettings, now: int) -> None:
        """These hold from now on. A bucket that is changed begins full."""
        before, self.settings = self.settings, settings
        if (settings.rate, settings.burst) != (before.rate, before.burst):
            self.bucket = None if settings.rate is None else Bucket(settings.rate, _burst(settings), now)
        if (settings.key_rate, settings.key_burst) != (before.key_rate, before.key_burst):
            self.buckets.clear()
        self.shares.clear()

    def begins(self, settings: QueueSettings, now: int) -> None:
        """A broker begins with these: nothing has gone out yet."""
        self.settings = PLAIN_SETTINGS
        self.bucket = None
        self.buckets.clear()
        self.set(settings, now)

    def is_safe(self, settings: Mapping[str, Any] | None) -> None:
        """A store has made these settings safe."""
        self.safe = msgspec.convert(settings or {}, QueueSettings)

    def run_ns(self, usual: int | None) -> int | None:
        """The run limit of a job that says nothing about it."""
        run_ns = self.settings.run_ns
        return usual if run_ns is None else run_ns or None

    def may_refuse(self, more: int = 0) -> bool:
        """Whether it is paused, or full, where so `many` were asked for, too."""
        return self.settings.intake_paused or self.may_be_full(more)

    def may_be_full(self, more: int = 0) -> bool:
        """Whether one may find it full, where so many were asked for, too."""
        return self.settings.jobs_max is not None and self.open + more >= self.settings.jobs_max

    def enters(self, claim: Claim) -> None:
        """A job is accepted: raises where it may not be."""
        if self.may_refuse():
            raise Violation(WRONG, f"{claim} was accepted in {self.name}, which is paused or full: {self.open} jobs")
        claim.line, claim.turn = self, self._lines.turn
        if claim.agreed.fair:
            self.weights[claim.agreed.fair] = claim.agreed.weight
        self.waiting[claim] = claim.turn
        self._begins(claim)

    def _begins(self, claim: Claim) -> None:
        self.open += 1
        order = claim.agreed.order
        if order:
            several = {**self.orders.get(order, {}), claim: None}
            self.orders[order] = dict.fromkeys(sorted(several, key=_place_of))
            self.heads[order] = self._lines.turn

    def moved(self, claim: Claim, was: int, to: int) -> None:
        """A job has gone from one state to another."""
        if was in (WAITS, to):
            if was == to:
                return
            self.waiting.pop(claim, None)
        if WAITS < was <= RUNS and not WAITS < to <= RUNS:
            self.out[claim.agreed.fair] -= 1
            self.out_all -= 1
        elif WAITS < to <= RUNS and not WAITS < was <= RUNS:
            self.out[claim.agreed.fair] += 1
            self.out_all += 1
        if to == WAITS:
            self.waiting[claim] = self._lines.turn
        if was > RUNS and to <= RUNS:  # its end was not safe, and is forgotten
            self._begins(claim)
        elif to > RUNS and was <= RUNS:
            self.open -= 1
            if claim.agreed.order:
                self._ended(claim)

    def _ended(self, claim: Claim) -> None:
        order = claim.agreed.order
        behind = self.orders[order]
        if next(iter(behind)) is claim:
            self.heads[order] = self._lines.turn
        del behind[claim]
        if not behind:
            del self.orders[order]
            del self.heads[order]

    def discarded(self, claim: Claim) -> None:
        """A job has become a dead letter."""
        if claim.agreed.blocks:
            self.blocked.setdefault(claim.agreed.order, {})[claim] = None
            self._lines.judge.count("keys_blocked")

    def letter_gone(self, claim: Claim) -> None:
        """A dead letter is kept no more."""
        order = claim.agreed.order
        if self.blocked.get(order, {}).pop(claim, self) is None and order in self.heads:
            self.heads[order] = self._lines.turn  # what was behind it may go from now on

    def gives(self, claim: Claim, whom: Any, now: int) -> None:
        """A job is handed over: raises where it may not be."""
        agreed, settings = claim.agreed, self.settings
        if self._lines.judge.stopped:  # what waits is ended, by way of the lines: nothing holds it there any more
            return
        self.given.append((claim, whom))
        if settings.dispatch_paused:
            raise Violation(WRONG, f"{claim} was dispatched from {self.name}, which is paused")
        if agreed.order:
            self._in_order(claim)
        if settings.in_flight_max is not None and self.out_all >= settings.in_flight_max:
            raise Violation(RATE, f"{claim} was dispatched, and {self.out_all} jobs of {self.name} are out already")
        key_max = settings.key_in_flight_max
        if agreed.fair and key_max is not None and self.out[agreed.fair] >= key_max:
            raise Violation(RATE, f"{claim} was dispatched, and {key_max} jobs of its key are out already")
        for bucket in self._buckets(claim, now):
            if not bucket.take(now):
                raise Violation(RATE, f"{claim} was dispatched from {self.name} above {bucket.rate} a second")

    def _in_order(self, claim: Claim) -> None:
        order = claim.agreed.order
        self._lines.judge.count("in_order", len(self.orders[order]) > 1)
        first = next(iter(self.orders[order]))
        if first is not claim:
            raise Violation(ORDER, f"{claim} was dispatched before {first}, which has the same order key")
        letters = [it for it in self.blocked.get(order, {}) if it.place < claim.place and it.blocks]
        if letters:
            raise Violation(ORDER, f"{claim} was dispatched, and {letters} block its order key")

    def _buckets(self, claim: Claim, now: int) -> list[Bucket]:
        buckets = [] if self.bucket is None else [self.bucket]
        rate, fair = self.settings.key_rate, claim.agreed.fair
        if rate is not None and fair:
            bucket = self.buckets.get(fair)
            if bucket is None:
                bucket = self.buckets[fair] = Bucket(rate, _key_burst(self.settings), now)
            buckets.append(bucket)
        return buckets

    def undelivered(self, claim: Claim, now: int) -> None:
        """A hand-over could not be sent."""
        self.came_back = True
        for bucket in self._buckets(claim, now):
            bucket.put_back()

    def in_vain(self, claim: Claim) -> None:
        """A hand-over came to nothing."""
        shares = self.shares.get(claim.agreed.priority)
        if shares is not None:
            shares.came_back(claim.agreed.fair)

    # --- Whose turn it was

    def could_go(self, claim: Claim, since: int) -> bool:
        """For certain, and at any moment of this turn."""
        lines, agreed = self._lines, claim.agreed
        now, turn = lines.now, lines.turn
        if since >= turn or (lines.has_store and not 0 < claim.safe_turn < turn):
            return False
        if (claim.due and now < max(claim.due, claim.safe_at) + LATE_NS) or now >= claim.goes_by - claim.early_ns:
            return False
        order, fair, settings = agreed.order, agreed.fair, self.settings
        if order and (
            next(iter(self.orders[order])) is not claim or self.heads[order] >= turn or self.blocked.get(order)
        ):
            return False
        if not fair:
            return True
        if settings.key_in_flight_max is not None and self.out[fair] >= settings.key_in_flight_max:
            return False
        bucket = self.buckets.get(fair)
        return bucket is None or bucket.had_one(now)

    def must_give(self, whom: Any) -> Claim | None:
        """Something that could have gone to this worker at any moment of this turn."""
        lines, settings = self._lines, self.settings
        full = settings.in_flight_max is not None and self.out_all >= settings.in_flight_max
        empty = self.bucket is not None and not self.bucket.had_one(lines.now)
        if full or empty or settings.dispatch_paused or self.came_back or not lines.may_look(len(self.waiting)):
            return None
        waiting = (it for it, since in self.waiting.items() if it.avoids is not whom and self.could_go(it, since))
        return next(waiting, None)

    def rank(self, claim: Claim, now: int) -> int:
        """Its priority, ageing counted."""
        settings = self.settings
        if not settings.ageing_ns:
            return claim.agreed.priority
        aged = (now - claim.accepted_at) // settings.ageing_ns
        return claim.agreed.priority + min(aged, settings.ageing_max or aged)

    def check(self) -> None:
        """The turn is over: whose turn it was."""
        given, self.given = self.given, []
        if self.settings.ageing_ns:  # what comes from another life of the broker is as old as the wall clock says
            began = self._lines.judge.began
            given = [(claim, whom) for claim, whom in given if claim.accepted_at >= began]
        came_back, self.came_back = self.came_back, False
        if came_back or not self._lines.may_look(len(self.waiting)):
            self.shares.clear()
            return
        whom = {it for _, it in given}
        waiting = [
            claim for claim, since in self.waiting.items() if claim.avoids not in whom and self.could_go(claim, since)
        ]
        self._check_shares(given, waiting)
        if not waiting:
            return
        now = self._lines.now
        oldest: dict[tuple[int, str], Claim] = {}
        for claim in waiting:
            kind = claim.agreed.priority, claim.agreed.fair
            known = oldest.get(kind)
            if known is None or claim.turn < known.turn:
                oldest[kind] = claim
        firsts = self._certain(oldest, given)
        self._lines.judge.count("keys_compared", len(oldest) > 1)
        highest = max(firsts, key=lambda it: self.rank(it, now), default=None)
        for claim, _ in given:
            if highest is not None and self.rank(highest, now) > self.rank(claim, now):
                ranks = f"{self.rank(claim, now)}, {self.rank(highest, now)}"
                raise Violation(WRONG, f"{claim} was dispatched while {highest} waited, which comes before it: {ranks}")
            elder = oldest.get((claim.agreed.priority, claim.agreed.fair))
            if elder is not None and elder.turn < claim.turn:
                raise Violation(WRONG, f"{claim} was dispatched while {elder} waited, which is older")
        self._lines.judge.count("turns_compared", len(given))

    def _certain(self, oldest: Mapping[tuple[int, str], Claim], given: Given) -> list[Claim]:
        """Those that are next at their priority. Which key's turn it is nobody says: with ageing, where the jobs of one
        priority are not alike, that is all the difference.
        """
        if not self.settings.ageing_ns:
            return list(oldest.values())
        alike: dict[int, set[str]] = {}
        for claim in (*self.waiting, *(claim for claim, _ in given)):
            alike.setdefault(claim.agreed.priority, set()).add(claim.agreed.fair)
        began = self._lines.judge.began
        return [it for (priority, _), it in oldest.items() if len(alike[priority]) == 1 and it.accepted_at >= began]

    def _check_shares(self, given: Given, waiting: list[Claim]) -> None:
        if self.settings.ageing_ns:
            return
        for claim, _ in given:
            agreed = claim.agreed
            if agreed.fair or agreed.priority in self.shares:
                self.shares.setdefault(agreed.priority, Shares()).gives(agreed.fair, self.weights.get(agreed.fair, 1))
        for priority, shares in self.shares.items():
            unfair = shares.waited({claim.agreed.fair for claim in waiting if claim.agreed.priority == priority})
            if unfair:
                raise Violation(WRONG, f"in {self.name}, at priority {priority}, {unfair}")


class Lines:
    """All queues of a world."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.has_store = judge.has_store
        self.turn = 0
        self._credit = 0
        self._by_name: dict[str, Line] = {}
        self.became_safe: list[Claim] = []
        """What is to wait for a moment, and is safe since the last turn."""
        self.of_seats: dict[Any, Shares] = {}
        """By session with weights: what it got from its queues."""
        self._seats: Given = []
        """What was given out in this turn to sessions that serve several queues."""

    @property
    def now(self) -> int:
        """Lease time of the running turn."""
        return self.judge.now

    def named(self, name: str) -> Line:
        """The queue of that name."""
        line = self._by_name.get(name)
        if line is None:
            line = self._by_name[name] = Line(self, name)
        return line

    def __iter__(self) -> Iterator[Line]:
        return iter(self._by_name.values())

    def may_look(self, count: int) -> bool:
        """Whether so many may be looked at."""
        if count > self._credit:
            return False
        self._credit -= count
        return True

    def begin_turn(self, now: int) -> None:
        """The last turn is over, and another one begins."""
        self.check()
        self.turn += 1
        for claim in self.became_safe:
            claim.safe_at = now
        self.became_safe.clear()
        self._credit = min(self._credit + LOOKS_SHARE, 10 * LOOKS_SHARE)

    def check(self) -> None:
        """What was given out in this turn."""
        if self._seats:
            seats, self._seats = self._seats, []
            self._check_seats(seats)
        for line in self._by_name.values():
            if line.given:
                line.check()

    def _check_seats(self, given: Given) -> None:
        """Who serves several queues got something from the right one."""
        weighted: dict[Any, None] = {}
        for claim, seat in given:
            if seat.weights:
                shares = self.of_seats.setdefault(seat, Shares())
                shares.gives(claim.queue, seat.weights[seat.queues.index(claim.queue)])
                weighted[seat] = None
                continue
            for name in seat.queues[: seat.queues.index(claim.queue)]:
                better = self.named(name).must_give(seat)
                if better is not None:
                    raise Violation(WRONG, f"{seat} serves {seat.queues} and was given {claim} while {better} waited")
        for seat in weighted:
            for name, weight in zip(seat.queues, seat.weights, strict=True):
                self.of_seats[seat].weights[name] = weight
            unfair = self.of_seats[seat].waited({it for it in seat.queues if self.named(it).must_give(seat)})
            if unfair:
                raise Violation(WRONG, f"{seat} serves {seat.queues}, and of these {unfair}")
        self.judge.count("seats_compared", len(weighted))

    def gives(self, claim: Claim, whom: Any) -> None:
        """A job is handed over: raises where it may not be."""
        claim.line.gives(claim, whom, self.now)
        if len(getattr(whom, "queues", ())) > 1:
            self._seats.append((claim, whom))

    def crashed(self) -> None:
        """The broker is gone, and with it all that it counted."""
        for line in self._by_name.values():
            line.given.clear()
            line.came_back = False
            line.shares.clear()
        self._seats.clear()
        self.of_seats.clear()

    def restarted(self, settings: Mapping[str, QueueSettings]) -> None:
        """A new broker is there, with these settings."""
        for line in self._by_name.values():
            known = settings.get(line.name, PLAIN_SETTINGS)
            if known != line.safe:
                raise Violation(WRONG, f"{line.name} has the settings {known} after the restart, safe were {line.safe}")
            line.begins(known, self.now)
            for order, letters in line.blocked.items():  # what was not safe is open again, or was never there
                safe = [it for it in letters if self.has_store and it.safe_end and not it.open]
                line.blocked[order] = dict.fromkeys(safe)


def _place_of(claim: Claim) -> int:
    return claim.place


def _burst(settings: QueueSettings) -> int:
    """How many at once; where nothing is said, what goes in a second, and at least one."""
    return settings.burst or max(1, int(settings.rate or 0))


def _key_burst(settings: QueueSettings) -> int:
    return settings.key_burst or max(1, int(settings.key_rate or 0))
