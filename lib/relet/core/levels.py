"""The waiting jobs of a queue that are not all alike: by priority, and within one priority by fairness key.

The jobs of one priority are a *level*, those of one fairness key in it a *flow*. The highest level with something to
give is next, and in it the flow whose turn it is: the flows take turns, each for as many jobs as the weight of its key
says, so that who has more jobs waits longer, not the others. Jobs without a key are one flow of weight 1. A key has one
weight in a queue, at all levels: the last one that was said.

With ageing a waiting job gains one priority every so often, counted from its acceptance, and no more than so many. What
is compared is the job that each level would give next, and of equals the oldest goes. So nobody starves: the one whose
turn it is goes on ageing until it is the first of all, and then the next one's turn has come.

A level, a flow and a key are there as long as a job waits in them. Whatever happens costs the same however many jobs,
keys and queues there are; a look at the levels costs as much as there are different priorities waiting, at most 2,001.

Where the queue has limits (`allowance`), none goes that may not. A flow whose key has as many jobs with workers as it
may have, or must wait for its rate, is set aside when its turn comes, until one of these jobs is back or the moment has
come: it is not looked at before. The moments stand in a heap.

The jobs of priority 0 without a key stand in the queue's plain flow, which is filled without a word to anybody, because
nearly all jobs do; it is given its turns when somebody takes.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from relet.core.allowance import Allowance
from relet.core.flow import BEFORE_LOOKS_MAX, Flow
from relet.core.job import Job
from relet.core.lease import NEVER
from relet.core.limits import KEYS_RESTING_MAX

if TYPE_CHECKING:
    from relet.core.settings import QueueSettings


class FairKey:
    """A fairness key in one queue."""

    __slots__ = ("aside", "flows", "full_at", "in_flight", "name", "rests", "wakes_at", "weight")

    def __init__(self, name: str, weight: int) -> None:
        self.name = name
        self.weight = weight
        """Jobs that it may have dispatched a round."""
        self.flows = 0
        """Levels in which jobs with it wait."""
        self.in_flight = 0
        """Its jobs with workers, where they are counted."""
        self.full_at = 0
        """When the bucket of its rate is full."""
        self.aside: dict[KeyedFlow, Level] = {}
        """Its flows that may give nothing now."""
        self.wakes_at = 0
        """When that is looked at again; 0: at no moment."""
        self.rests = False
        """It is known for nothing but its rate."""


class KeyedFlow(Flow):
    """The waiting jobs of one key, or of none, at one level."""

    __slots__ = ("key", "turns")

    def __init__(self, key: FairKey) -> None:
        super().__init__()
        self.key = key
        self.turns = key.weight
        """Jobs that it may still have dispatched in this round."""


class Level:
    """The waiting jobs of one priority."""

    __slots__ = ("flows", "line", "priority")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.flows: dict[str, KeyedFlow] = {}
        """By the name of their key; "" without."""
        self.line: OrderedDict[Flow, None] = OrderedDict()
        """Those with something to give, in the order of their turns. It forgets any of them at once."""


def fair_of(job: Job) -> str:
    """The fairness key of a job; "" where it has none."""
    return "" if job.rules is None else job.rules.fair


class Levels:
    """What waits in a queue beside its plain jobs, and whose turn it is among all of them."""

    __slots__ = (
        "_by_priority",
        "_full_at",
        "_keys",
        "_nobody",
        "_order",
        "_plain",
        "_resting",
        "_wakes",
        "_zero",
        "allowed",
        "count",
        "in_flight",
    )

    def __init__(self, plain: Flow) -> None:
        self._plain = plain
        self._zero = Level(0)
        """Where the plain jobs have their turns; it is always there."""
        if len(plain):  # they wait already: else who comes alone, again and again, were always before them
            self._zero.line[plain] = None
        self._by_priority = {0: self._zero}
        self._order = [0]
        """The priorities, lowest first."""
        self._keys: dict[str, FairKey] = {}
        self.count = 0
        """Waiting jobs, the plain ones left out."""
        self.allowed: Allowance | None = None
        """The limits of the queue."""
        self.in_flight = 0
        """Jobs with workers, where they are counted."""
        self._full_at = 0
        """When the bucket of the queue's rate is full."""
        self._nobody = FairKey("", 1)
        """Whose the plain jobs are."""
        self._wakes: list[tuple[int, str]] = []
        """A heap (moment, name of a key)."""
        self._resting: list[tuple[int, str]] = []
        """A heap (moment, name): keys that are known for their rates alone, or were, and when they need not be."""

    def __iter__(self) -> Iterator[Job]:
        """The waiting jobs, the plain ones left out, in no order that matters."""
        for level in self._by_priority.values():
            for flow in level.flows.values():
                yield from flow

    def append(self, job: Job) -> None:
        """A fresh job waits. What it says of the weight of its key holds from now on."""
        flow = self._flow_of(job)
        if job.rules is not None:
            flow.key.weight = job.rules.weight
        flow.fresh.append(job)
        self.count += 1

    def came_back(self, job: Job) -> None:
        """A job waits again, at its place by age."""
        self._flow_of(job).came_back(job)
        self.count += 1

    def left(self, job: Job) -> None:
        """A job leaves while it waits."""
        level = self._by_priority[job.terms.priority]
        flow = level.flows[fair_of(job)]
        flow.left(job)
        self.count -= 1
        if not len(flow):
            self._emptied(level, flow)

    def before(self, job: Job, *, plain: bool) -> tuple[int, bool]:
        """(about how many jobs wait that are given out before this one, whether there may be more that were not
        counted): all at higher levels, the older ones of its flow, and of each other flow at its level as many as have
        their turn in so many rounds. Ageing is left out.
        """
        level = self._by_priority[job.terms.priority]
        flow: Flow = self._plain if plain else level.flows[fair_of(job)]
        older, cut = flow.before(job)
        rounds = older // (flow.key.weight if isinstance(flow, KeyedFlow) else 1)
        count = older
        if job.terms.priority < 0:
            count += len(self._plain)
        elif job.terms.priority == 0 and not plain:
            count += min(len(self._plain), rounds)
        looks = BEFORE_LOOKS_MAX
        for priority in islice(reversed(self._order), BEFORE_LOOKS_MAX):
            if priority < level.priority:
                return count, cut
            flows = self._by_priority[priority].flows
            for other in islice(flows.values(), looks):
                if priority > level.priority:
                    count += len(other)
                elif other is not flow:
                    count += min(len(other), rounds * other.key.weight)
            if len(flows) > looks:
                return count, True
            looks -= len(flows)
        return count, cut or len(self._order) > BEFORE_LOOKS_MAX

    def take(self, now: int, settings: QueueSettings | None) -> Job | None:
        """The job whose turn it is, which leaves; None when none may go."""
        plain, line = self._plain, self._zero.line
        if len(plain):
            line.setdefault(plain)
        else:
            line.pop(plain, None)
        if self.allowed is not None and not self._may_go(self.allowed, now):
            return None
        level = self._next(now)
        if settings is not None and settings.ageing_ns and level is not None:
            level = self._aged(now, settings.ageing_ns, settings.ageing_max)
        if level is None:
            return None
        flow = next(iter(level.line))
        job = flow.take()
        if self.allowed is not None and job is not None:
            self._goes(job, flow.key if isinstance(flow, KeyedFlow) else self._nobody, self.allowed, now)
        if isinstance(flow, KeyedFlow):
            self.count -= 1
            flow.turns -= 1
            if not len(flow):
                self._emptied(level, flow)
            elif flow.turns <= 0:
                flow.turns = flow.key.weight
                level.line.move_to_end(flow)
        else:
            line.move_to_end(flow)
        return job

    def _next(self, now: int) -> Level | None:
        """The level whose turn it is."""
        for priority in reversed(self._order):
            level = self._by_priority[priority]
            if level.line and (self.allowed is None or self._gives(level, self.allowed, now)):
                return level
        return None

    def _aged(self, now: int, ageing_ns: int, ageing_max: int | None) -> Level:
        """The same where jobs age."""

        def rank(level: Level) -> tuple[int, int]:
            job = next(iter(level.line)).head()
            if job is None:  # it would not stand in line
                return -NEVER, 0
            gained = (now - job.accepted_ns) // ageing_ns
            return level.priority + (gained if ageing_max is None else min(gained, ageing_max)), -job.number

        allowed = self.allowed
        levels = [level for level in self._by_priority.values() if level.line]
        if allowed is not None:
            levels = [level for level in levels if self._gives(level, allowed, now)]
        return max(levels, key=rank)

    def _flow_of(self, job: Job) -> KeyedFlow:
        """Where this job waits; made where it is not there."""
        priority, name = job.terms.priority, fair_of(job)
        level = self._by_priority.get(priority)
        if level is None:
            level = self._by_priority[priority] = Level(priority)
            insort(self._order, priority)
        flow = level.flows.get(name)
        if flow is None:
            key = self._keys.get(name)
            if key is None:
                key = self._keys[name] = FairKey(name, 1 if job.rules is None else job.rules.weight)
            key.flows += 1
            flow = level.flows[name] = KeyedFlow(key)
            level.line[flow] = None
        return flow

    def _emptied(self, level: Level, flow: KeyedFlow) -> None:
        """Nothing waits there any more."""
        key = flow.key
        del level.flows[key.name]
        level.line.pop(flow, None)
        key.aside.pop(flow, None)
        if not level.flows and level is not self._zero:
            del self._by_priority[level.priority]
            del self._order[bisect_left(self._order, level.priority)]
        key.flows -= 1
        self._forget(key)

    # --- Limits

    def allow(self, allowed: Allowance | None) -> None:
        """These are the limits from now on. A rate that is another begins with its burst."""
        before, self.allowed = self.allowed, allowed
        if before is None or allowed is None or before.pace != allowed.pace:
            self._full_at = 0
        other = before is None or allowed is None or before.key_pace != allowed.key_pace
        self._wakes.clear()
        self._resting.clear()
        for key in list(self._keys.values()):
            key.rests = False
            key.full_at = 0 if other else key.full_at
            self._set_free(key)
            self._forget(key)

    @property
    def idle(self) -> bool:
        """Nothing has to be known here but what waits."""
        return self.allowed is None and not self.in_flight

    def wakes_at(self, now: int) -> int:
        """When a job may go that waits for nothing but a rate."""
        if self.allowed is None or not (self.count or len(self._plain)):
            return NEVER
        pace = self.allowed.pace
        if pace is not None and pace.free_at(self._full_at) > now:
            return pace.free_at(self._full_at)
        return self._wakes[0][0] if self._wakes else NEVER

    def bar(self, job: Job, now: int) -> tuple[str, int]:
        """Which limit keeps a waiting job from going now, as the setting is called, and until when; 0: until another
        job is back. ("", 0): none does.
        """
        allowed = self.allowed
        if allowed is None:
            return "", 0
        if allowed.in_flight_max is not None and self.in_flight >= allowed.in_flight_max:
            return "in_flight_max", 0
        if allowed.pace is not None and allowed.pace.free_at(self._full_at) > now:
            return "rate", allowed.pace.free_at(self._full_at)
        key = self._keys.get(fair_of(job), self._nobody)
        if not key.name:
            return "", 0
        if allowed.key_in_flight_max is not None and key.in_flight >= allowed.key_in_flight_max:
            return "key_in_flight_max", 0
        if allowed.key_pace is not None and allowed.key_pace.free_at(key.full_at) > now:
            return "key_rate", allowed.key_pace.free_at(key.full_at)
        return "", 0

    def lack(self, now: int) -> bool:
        """Nothing that waits may go now, if anything does; but what came back might: it leaves a place, and no rate is
        in the way.
        """
        allowed, plain = self.allowed, self._plain
        if allowed is None:
            return not (self.count or len(plain))
        if allowed.pace is not None and allowed.pace.free_at(self._full_at) > now:
            return False
        if not self._may_go(allowed, now):
            return True
        if len(plain):
            return False
        self._zero.line.pop(plain, None)
        return self._next(now) is None

    def take_back(self, job: Job, now: int) -> bool:
        """Whether the rate of its key lets this job, which is with a worker, go once more."""
        pace = None if self.allowed is None else self.allowed.key_pace
        key = self._keys.get(fair_of(job), self._nobody)
        return pace is None or not key.name or pace.free_at(key.full_at) <= now

    def went(self, job: Job) -> None:
        """A job is with a worker that was not taken from here, or before that was counted."""
        if self.allowed is not None and self.allowed.counts and job.flow is None:
            name = fair_of(job)
            key = self._keys.get(name)
            if key is None:
                key = self._keys[name] = FairKey(name, 1 if job.rules is None else job.rules.weight)
            self._counts(job, key)

    def is_back(self, job: Job) -> None:
        """A job that was counted is with no worker any more."""
        key = job.flow
        if key is None:
            return
        job.flow = None
        self.in_flight -= 1
        key.in_flight -= 1
        self._set_free(key)
        self._forget(key)

    def _may_go(self, allowed: Allowance, now: int) -> bool:
        """Whether the limits of the queue let one more go; keys whose moment has come have their turns again."""
        while self._wakes and self._wakes[0][0] <= now:
            key = self._keys.get(heapq.heappop(self._wakes)[1])
            if key is not None:
                self._set_free(key)
        while self._resting and self._resting[0][0] <= now:
            name = heapq.heappop(self._resting)[1]
            key = self._keys.get(name)
            if key is not None and key.full_at > now:  # it was used again meanwhile
                heapq.heappush(self._resting, (key.full_at, name))
            elif key is not None:
                key.rests, key.full_at = False, 0
                self._forget(key)
        if allowed.in_flight_max is not None and self.in_flight >= allowed.in_flight_max:
            return False
        return allowed.pace is None or allowed.pace.free_at(self._full_at) <= now

    def _gives(self, level: Level, allowed: Allowance, now: int) -> bool:
        """Whether the flow whose turn it is may give something; those that may not are set aside."""
        line = level.line
        while line:
            flow = next(iter(line))
            if not isinstance(flow, KeyedFlow) or not self._is_barred(flow.key, allowed, now):
                return True
            del line[flow]
            flow.key.aside[flow] = level
        return False

    def _is_barred(self, key: FairKey, allowed: Allowance, now: int) -> bool:
        if not key.name:
            return False
        if allowed.key_in_flight_max is not None and key.in_flight >= allowed.key_in_flight_max:
            return True
        free_at = 0 if allowed.key_pace is None else allowed.key_pace.free_at(key.full_at)
        if free_at <= now:
            return False
        if free_at != key.wakes_at:
            key.wakes_at = free_at
            heapq.heappush(self._wakes, (free_at, key.name))
        return True

    def _set_free(self, key: FairKey) -> None:
        """Its flows have their turns again."""
        key.wakes_at = 0
        for flow, level in key.aside.items():
            level.line[flow] = None
        key.aside.clear()

    def _goes(self, job: Job, key: FairKey, allowed: Allowance, now: int) -> None:
        """A job goes out, and is counted where that is needed."""
        if allowed.pace is not None:
            self._full_at = allowed.pace.spent(self._full_at, now)
        if allowed.key_pace is not None and key.name:
            key.full_at = allowed.key_pace.spent(key.full_at, now)
        if allowed.counts:
            self._counts(job, key)

    def goes_nowhere(self, job: Job) -> None:
        """A job that was to go out does not: it is not counted, and what it took of the rates is there again."""
        allowed = self.allowed
        if allowed is None:
            return
        if allowed.pace is not None:
            self._full_at -= allowed.pace.interval_ns
        key = self._keys.get(fair_of(job))
        if allowed.key_pace is not None and key is not None and key.name:
            key.full_at -= allowed.key_pace.interval_ns
            self._set_free(key)
        self.is_back(job)

    def _counts(self, job: Job, key: FairKey) -> None:
        self.in_flight += 1
        key.in_flight += 1
        job.flow = key

    def _forget(self, key: FairKey) -> None:
        """Nothing is known of a key that nobody needs; its rate is needed for as long as its bucket is not full."""
        if key.flows or key.in_flight or self._keys.get(key.name) is not key:
            return
        if not key.full_at:
            del self._keys[key.name]
        elif not key.rests:
            key.rests = True
            heapq.heappush(self._resting, (key.full_at, key.name))
            if len(self._resting) > KEYS_RESTING_MAX:
                self._forget_soonest()

    def _forget_soonest(self) -> None:
        """The key whose bucket would be full soonest is known for its rate no more, if it is known for nothing else."""
        soonest = self._keys.get(heapq.heappop(self._resting)[1])
        if soonest is not None:
            soonest.rests = False
            if not (soonest.flows or soonest.in_flight):
                soonest.full_at = 0
                self._forget(soonest)
