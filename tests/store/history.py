"""Turns of records as a broker makes them, drawn at random: jobs that are accepted, handed out, answered, kept, owed,
forgotten and gone; settings of queues, unique keys, shared jobs; small bodies and large ones.

`History` remembers what must be known after each turn, by the memory store: that is what any other store must know.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from relet.core.job import AVAILABLE, CANCELLED, COMPLETED, DISCARDED, HELD, RUNNING
from relet.messages import (
    Accepted,
    Attempt,
    AttemptEnded,
    Evicted,
    Finished,
    Forgotten,
    Gone,
    KeyWindow,
    Numbered,
    QueueSet,
    Record,
    Shared,
)
from relet.store.memory import MemoryStore
from relet.store.sqlite import SqliteStore

OPEN_MAX: Final = 40
KEPT_MAX: Final = 30
"""Jobs, so that files stay small and are quickly made."""

Known = dict[Any, Any]
"""What is known after a turn, in a form in which two stores that know the same are equal."""


def known(records: Iterable[Record]) -> Known:
    """What these records say."""
    store = MemoryStore()
    store.append(1, list(records))
    return _known(store)


def held(store: SqliteStore) -> list[Record]:
    """All that a store holds, with the bodies that it leaves on the disk when it is loaded."""
    records = list(store.load())
    apart = [it.number for it in records if isinstance(it, Accepted) and it.size >= 0]
    bodies = dict(zip(apart, store.bodies(apart), strict=True))
    return [
        msgspec.structs.replace(it, body=bodies[it.number] or (), size=-1, frames=0)
        if isinstance(it, Accepted) and it.number in bodies
        else it
        for it in records
    ]


def _known(store: MemoryStore) -> Known:
    said: Known = {}
    for record in store.load():
        match record:
            case Accepted(number):
                said[number] = (record,)
            case Attempt(number) | Shared(number):
                said[number] += (record,)
            case Finished(number, state):
                before = said.get(number, ())
                if state == COMPLETED and before:  # nobody needs its body any more
                    before = (msgspec.structs.replace(before[0], body=()), *before[1:])
                said[number] = (*before, record)
            case QueueSet(name):
                said["queue", name] = record
            case KeyWindow(number):
                said["window", number] = record
            case Numbered(last):
                said["last"] = last
            case Evicted(accepted_ms):
                said["evicted"] = accepted_ms
            case _:
                raise AssertionError(f"the memory store says {record}")
    return said


class History:
    """What a broker says to its store, turn by turn, from something that a store knows."""

    def __init__(self, chance: random.Random, turn: int = 0, records: Iterable[Record] = ()) -> None:
        self._chance = chance
        self.turn = turn
        self._store = MemoryStore()
        self._store.append(turn, list(records))
        begun = list(self._store.load())
        finished = {record.number: record for record in begun if isinstance(record, Finished)}
        self._open = [it.number for it in begun if isinstance(it, Accepted) and it.number not in finished]
        self._final = {number: (it.kept, it.owed) for number, it in finished.items()}
        self._last = max([0, *(record.last for record in begun if isinstance(record, Numbered))])
        self._windows = [record.number for record in begun if isinstance(record, KeyWindow)]
        self._gone: list[int] = []
        self._evicted = max([0, *(record.accepted_ms for record in begun if isinstance(record, Evicted))])

    def known(self) -> Known:
        """What must be known now."""
        return _known(self._store)

    def records(self) -> list[Record]:
        """What is known now, as records."""
        return list(self._store.load())

    def next(self) -> tuple[int, list[Record]]:
        """One more turn: its number and its records, in the order in which the journal writes them."""
        chance, first_new = self._chance, self._last + 1
        taken = self._accept()
        shared = {record.number for record in taken if isinstance(record, Shared)}
        ended: list[Record] = []
        gone: list[int] = []
        for number in self._drawn(self._open, 0.5 if len(self._open) > OPEN_MAX else 0.3):
            way = chance.random()
            if way < 0.4:
                taken.append(self._attempt(number))
                continue
            self._open.remove(number)
            if way < 0.7 and number < first_new and number not in shared:
                gone.append(number)
            else:
                ended.append(self._finish(number))
        touched = {record.number for record in ended if isinstance(record, Finished)}
        for number in self._drawn(self._final, 0.5 if len(self._final) > KEPT_MAX else 0.15):
            if number in touched:
                continue
            if all(self._final[number]) and chance.random() < 0.5:
                self._final[number] = kept, owed = chance.choice(((True, False), (False, True)))
                ended.append(Forgotten(number, kept, owed))
            elif number < first_new:
                del self._final[number]
                gone.append(number)
        if self._gone and chance.random() < 0.1:  # it could not be told after all, and is kept
            number = self._gone.pop(chance.randrange(len(self._gone)))
            ended.append(self._finish(number))
        taken += ended
        if gone:
            taken.append(Gone(tuple(gone)))
            self._gone = (self._gone + gone)[-10:]
        taken += self._others()
        self.turn += chance.choice((1, 1, 1, 4))
        self._store.append(self.turn, taken)
        return self.turn, taken

    def _drawn(self, numbers: Iterable[int], share: float) -> list[int]:
        return [number for number in numbers if self._chance.random() < share]

    def _bytes(self, most: int) -> bytes:
        return self._chance.randbytes(self._chance.randint(0, most))

    def _body(self) -> tuple[bytes, ...]:
        way = self._chance.random()
        if way < 0.8:
            return (self._bytes(100),)
        if way < 0.9:
            return (self._bytes(50), b"", self._bytes(3_000))
        return (self._bytes(40_000),) if way > 0.985 else ()

    def _accept(self) -> list[Record]:
        chance = self._chance
        taken: list[Record] = []
        for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
            self._last += 1
            number = self._last
            if chance.random() < 0.1:  # ended within its turn, and nothing remains
                continue
            queue = chance.choice(("default", "mail", "video"))
            request = chance.randbytes(16) if chance.random() < 0.6 else b""
            headers = {"trace": "x" * chance.randint(0, 50)} if chance.random() < 0.2 else None
            at = 1_700_000_000_000 + number
            taken.append(Accepted(number, self._body(), queue, at, None, "", request, request[::-1], headers))
            self._open.append(number)
        numbers = [record.number for record in taken if isinstance(record, Accepted)]
        for number in self._drawn(numbers + self._open[:5], 0.05):
            guests = tuple((chance.randbytes(16), chance.randint(0, 100), False, number) for _ in range(2))
            taken.append(Shared(number, "", guests))
        return taken

    def _ledger(self) -> tuple[AttemptEnded, ...]:
        count = self._chance.choice((0, 0, 1, 5))
        return tuple(AttemptEnded(1, "failed", 5, it, "agent", "Oops", "text " * 10) for it in range(count))

    def _attempt(self, number: int) -> Attempt:
        chance = self._chance
        state = int(chance.choice((AVAILABLE, HELD, RUNNING, RUNNING)))
        return Attempt(number, state, chance.randbytes(16), chance.randint(0, 9), 0, self._ledger())

    def _finish(self, number: int) -> Finished:
        chance = self._chance
        self._final[number] = kept, owed = chance.choice(((True, False), (False, True), (True, True)))
        state = int(chance.choice((COMPLETED, COMPLETED, DISCARDED, CANCELLED)))
        answer = self._body() if state == COMPLETED else ()
        return Finished(number, state, "", 1, kept, self._ledger(), answer, owed, 1_700_000_000_000 + number)

    def _others(self) -> list[Record]:
        chance = self._chance
        others: list[Record] = []
        if chance.random() < 0.05:
            settings = None if chance.random() < 0.3 else {"jobs_max": chance.randint(1, 100)}
            others.append(QueueSet(chance.choice(("default", "mail", "video")), settings))
        if chance.random() < 0.1 and self._last:
            number = chance.randint(1, self._last)
            others.append(KeyWindow(number, "mail", "", "key", b"", b"", 1_800_000_000_000))
            self._windows.append(number)
        if chance.random() < 0.08 and self._windows:
            others.append(KeyWindow(self._windows.pop(0)))
        if chance.random() < 0.03:
            self._evicted += 1
            others.append(Evicted(self._evicted))
        return others
