"""Programs that are killed: a client and a worker that write down what they do, and go on where one before them ended.

    python -m relet.testing.tortured client BOOK SEED ENDPOINT
    python -m relet.testing.tortured worker BOOK DIALECT WORKERS ANSWERS

The client does what a program does that must not lose its work. It draws request ids and writes them down before it
asks. When it begins, it reads its book and asks again for what is open, under the ids of then: for the result where it
was told that the job is accepted, otherwise as if for the first time. It asks once more, too, for some outcomes that it
had before: they must be the same. Jobs of `Client.map` have no ids, and are done anew.

Each says when it is ready. From then on SIGTERM ends it in order: the client when all that it has asked for has ended.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from relet.client import Client, Enqueued, JobExpired, JobFailed, JobRefused, JobUnknown, Terms
from relet.testing.account import (
    ACKNOWLEDGED,
    AGAIN,
    ANSWERED,
    ATTEMPTED,
    BEGAN,
    DOOMED,
    ENDED,
    FAILED,
    FINAL,
    FINISHED,
    FLAKY,
    UNKNOWN,
    WELL,
    WRONG,
    Book,
    answer_to,
    body_of,
    read_book,
)
from relet.worker import FailJob, Worker

KEEP_S: Final = 150.0
"""How long after its end the broker is asked to keep an outcome that was received, because a client may be killed
between that and writing it down; brokers that are killed one after the other may make it wait for long before."""
AGAIN_S: Final = 45.0
"""Outcomes of jobs that were first asked for within it are asked for once more: they are kept for longer than that,
whenever the job has ended."""
AGAIN_MAX: Final = 30
BATCH: Final = 20
"""Jobs that are handed over at a time."""
OPEN_MAX: Final = 100
"""Jobs of a lane that are handed over and not asked for yet, or under way in its map."""
LANES: Final = {"enqueue": 6, "call": 12, "map": 2}
"""Threads of a client by the way in which they ask."""

PLANS: Final = {WELL: 96.0, FLAKY: 3.0, DOOMED: 0.5, FINAL: 0.5}
"""What bodies ask for, in percent."""
WORK_MS: Final = {0: 85, 2: 10, 10: 4.5, 60: 0.5}
"""How long runs take, in percent."""
FILL: Final = {0: 50, 100: 45, 2_000: 4, 20_000: 1}
"""Bytes that fill the body, in percent."""

KEPT: Final = Terms(keep=KEEP_S)


class Asked(msgspec.Struct):
    """A job of this client's."""

    name: str
    recipe: str
    request_id: bytes
    since: float
    """When it was written down: seconds of `time.monotonic()`."""
    acknowledged: bool = False

    @property
    def body(self) -> bytes:
        """As it is sent, each time."""
        return body_of(self.name, self.recipe)


class Past(msgspec.Struct):
    """What a lane's predecessors have left."""

    number: int = 0
    """Of the last job."""
    open: dict[str, Asked] = msgspec.field(default_factory=dict)
    finished: list[Asked] = msgspec.field(default_factory=list)
    """In the order of their ends."""


def pasts(path: Path) -> dict[str, Past]:
    """Lane -> what its predecessors have left in the book."""
    found: dict[str, Past] = {}
    for kind, name, *fields in read_book(path):
        lane, _, number = name.rpartition("/")
        past = found.setdefault(lane, Past())
        if kind == ATTEMPTED:
            past.number = max(past.number, int(number))
            past.open.setdefault(name, Asked(name, fields[1], bytes.fromhex(fields[2]), float(fields[3])))
        elif kind == ACKNOWLEDGED and name in past.open:
            past.open[name].acknowledged = True
        elif kind == UNKNOWN:
            past.open.pop(name, None)
        elif kind == FINISHED and name in past.open:
            past.finished.append(past.open.pop(name))
    return found


class Lane:
    """One thread of a client: asks in its way until it is told to close, and then until nothing is open."""

    def __init__(self, name: str, way: str, seed: str, past: Past, client: Client, book: Book) -> None:
        self.name = name
        self._way = way
        self._seed = seed
        self._past = past
        self._numbers = itertools.count(past.number + 1)
        self._client = client
        self._book = book
        self._closing = threading.Event()
        self.close = self._closing.set

    def run(self) -> None:
        """All of it."""
        if self._way != "map":
            self._ask_again()
        {"enqueue": self._enqueue, "call": self._call, "map": self._map}[self._way]()

    def _new(self, count: int) -> list[Asked]:
        """Jobs that nobody has asked for yet, written down."""
        drawn = []
        for number in itertools.islice(self._numbers, count):
            name = f"{self.name}/{number}"
            fate = random.Random(f"{self._seed}/{name}")  # noqa: S311 - to be had again
            plan, work_ms, fill = (
                fate.choices(list(table), list(table.values()))[0] for table in (PLANS, WORK_MS, FILL)
            )
            drawn.append(Asked(name, f"{plan},{work_ms},{fill}", fate.randbytes(16), time.monotonic()))
        self._book.write(*((ATTEMPTED, it.name, self._way, it.recipe, it.request_id.hex()) for it in drawn))
        return drawn

    def _ask_again(self) -> None:
        """For outcomes that a predecessor had."""
        recent = time.monotonic() - AGAIN_S
        for asked in self._past.finished[-AGAIN_MAX:]:
            if asked.since > recent:
                self._settle(asked, partial(self._client.result, asked.request_id), AGAIN)

    def _enqueue(self) -> None:
        waiting = deque(it for it in self._past.open.values() if it.acknowledged)
        batch = [it for it in self._past.open.values() if not it.acknowledged]
        while batch or waiting or not self._closing.is_set():
            if batch:
                waiting.extend(self._handed_over(batch))
            while waiting and (self._closing.is_set() or len(waiting) > OPEN_MAX):
                asked = waiting.popleft()
                self._settle(asked, partial(self._client.result, asked.request_id))
            batch = [] if self._closing.is_set() else self._new(BATCH)

    def _handed_over(self, batch: list[Asked]) -> Iterator[Asked]:
        """Those of the batch that the broker has taken."""
        bodies, names = [it.body for it in batch], [it.request_id for it in batch]
        for asked, said in zip(batch, self._client.enqueue_many(bodies, terms=KEPT, request_ids=names), strict=True):
            if isinstance(said, Enqueued):
                self._book.write((ACKNOWLEDGED, asked.name))
                yield asked
            elif isinstance(said, JobRefused):
                self._book.write((UNKNOWN, asked.name, said.code))
            else:
                raise said

    def _call(self) -> None:
        batch = list(self._past.open.values())
        while batch or not self._closing.is_set():
            for asked in batch:
                self._settle(
                    asked, partial(self._client.call, asked.body, terms=KEPT, request_id=asked.request_id)
                )
            batch = [] if self._closing.is_set() else self._new(1)

    def _map(self) -> None:
        order: deque[Asked] = deque()

        def bodies() -> Iterator[bytes]:
            again = iter(self._past.open.values())
            while not self._closing.is_set():
                asked = next(again, None) or self._new(1)[0]
                order.append(asked)
                yield asked.body
            for asked in again:
                order.append(asked)
                yield asked.body

        for answer in self._client.map(bodies(), window=OPEN_MAX, return_exceptions=True):
            self._settle(order.popleft(), partial(_raised, answer))

    def _settle(self, asked: Asked, ask: Callable[[], bytes], kind: str = FINISHED) -> None:
        """Ask, and write down what was said."""
        try:
            answer = ask()
        except JobFailed as failure:
            failed = sum(entry.cause == "failed" for entry in failure.ledger)
            self._book.write((kind, asked.name, f"{FAILED}:{failure.reason}:{failure.attempts}:{failed}"))
        except JobUnknown:
            self._book.write((UNKNOWN, asked.name, "unknown"))
        except JobExpired:
            self._book.write((UNKNOWN, asked.name, "expired"))
        except JobRefused as refusal:
            self._book.write((UNKNOWN, asked.name, refusal.code))
        else:
            run = answer.rpartition(b" ")[2].decode("ascii", "replace")
            right = answer == answer_to(asked.body, run)
            self._book.write((kind, asked.name, f"{ANSWERED}:{run}" if right else f"{WRONG}:{answer.hex()}"))


def _raised(answer: bytes | Exception) -> bytes:
    if isinstance(answer, Exception):
        raise answer
    return answer


def client(book: str, seed: str, endpoint: str) -> None:
    """The client's program: until SIGTERM."""
    name = Path(book).stem
    past = pasts(Path(book))
    written = Book(Path(book))
    with Client(endpoint) as shared:
        lanes = []
        for way, count in LANES.items():
            for number in range(count):
                lane = f"{name}/{way}{number}"
                lanes.append(Lane(lane, way, seed, past.get(lane, Past()), shared, written))

        def close(_number: int, _frame: object) -> None:
            for lane in lanes:
                lane.close()

        signal.signal(signal.SIGTERM, close)
        print("client_ready", flush=True)  # noqa: T201 - to who started it
        threads = [threading.Thread(target=_whole, args=(lane.run,), name=lane.name) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _whole(run: Callable[[], None]) -> None:
    """A thread that fails ends its program, which says so by its exit code."""
    try:
        run()
    except BaseException:  # noqa: BLE001 - whatever it is
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def worker(book: str, dialect: str, workers: str, answers: str) -> None:
    """The worker's program: until SIGTERM."""
    written = Book(Path(book))
    life = f"{Path(book).stem}-{os.getpid()}"
    numbers = itertools.count(1)

    def handler(body: bytes) -> bytes:
        name, recipe, _ = body.decode().split(" ", 2)
        plan, work_ms, _ = recipe.split(",")
        run = f"{life}-{next(numbers)}"
        written.write((BEGAN, run, name))
        if work_ms != "0":
            time.sleep(int(work_ms) / 1_000)
        failing = plan in (DOOMED, FINAL) or (plan == FLAKY and random.random() < 0.5)  # noqa: S311 - a run's fate
        written.write((ENDED, run, FAILED if failing else ANSWERED))
        if failing:
            raise FailJob("Meant", plan, final=plan == FINAL)
        return answer_to(body, run)

    doing = Worker(workers, answers, handler, dialect=dialect)
    signal.signal(signal.SIGTERM, lambda *_: doing.stop())
    print("worker_ready", flush=True)  # noqa: T201 - to who started it
    doing.run()


def main(arguments: Sequence[str]) -> int:
    """The program; returns its exit code."""
    if arguments[0] == "client":
        client(*arguments[1:])
    else:
        worker(*arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
