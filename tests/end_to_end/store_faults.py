"""A real broker whose disk fails at the n-th write, sync or truncation of its store; or which is killed there.

    python -m tests.end_to_end.store_faults [--only "eio sync"] [--jobs 2]

n is 1, 2, 3 ... until the broker comes to its end without a fault. Each time a broker is started on a new file under
`tests/store/disk.c`, with clients of both dialects and a worker; when it has ended, another one on the same file,
without faults. What must be so:

- whoever was told that a job was accepted gets its answer, and it is the right one; nobody is told of a failure;
- a job whose outcome was told is not begun again;
- a broker that ends by itself says why in one line, and by its exit code: 9 while it opened the store, 10 after that;
- nothing is left open in the store in the end.

The exit code is 1 where anything of this is not so.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq
from tests.store import disk
from tests.store.crash_images import memory
from tests.store.history import held

import relet
from relet.cli.exits import Exit
from relet.messages import Finished
from relet.store.sqlite import SqliteStore

from .conftest import LIMIT_S, Program

FAULTS: Final = tuple(f"{how} {what}" for what in ("sync", "truncate", "write") for how in ("kill", "eio", "enospc"))
BROKER: Final = Path(__file__).with_name("small_store.py")
BODIES: Final = (b"a", b"b" * 3_000, b"c", b"d" * 20_000)
PATIENCE_S: Final = 4 * LIMIT_S


class Ran(NamedTuple):
    """What came of one fault."""

    happened: bool
    """There were as many calls as that."""
    code: int
    """How the first broker ended."""
    complaints: list[str]


class _Working(relet.Worker):
    """Says what it did, in a thread of its own."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.begun: list[tuple[bytes, float]] = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def process(self, data: bytes) -> bytes:
        self.begun.append((data, time.monotonic()))
        return b"did " + data[:10]


class _Asking:
    """A client that enqueues and calls, and one of 2010, each in a thread of its own; what they were told."""

    def __init__(self, endpoint: str) -> None:
        self.complaints: list[str] = []
        self.told: dict[bytes, float] = {}
        self._endpoint = endpoint
        self._threads = [threading.Thread(target=it) for it in (self._native, self._plain)]
        for thread in self._threads:
            thread.start()

    def done(self) -> bool:
        """All were told all."""
        return not any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Waits for that."""
        for thread in self._threads:
            thread.join()

    def _heard(self, body: bytes, answer: bytes) -> None:
        self.told[body] = time.monotonic()
        if answer != b"did " + body[:10]:
            self.complaints.append(f"{body[:10]!r} was answered {answer[:20]!r}")

    def _native(self) -> None:
        try:
            with relet.Client(self._endpoint, timeout=PATIENCE_S) as client:
                tickets = [client.enqueue(b"enqueued " + body) for body in BODIES]
                for body in BODIES:
                    self._heard(b"called " + body, client.call(b"called " + body))
                for body, ticket in zip(BODIES, tickets, strict=True):
                    self._heard(b"enqueued " + body, client.result(ticket.request_id))
        except Exception as error:  # noqa: BLE001 - whatever comes is a complaint
            self.complaints.append(f"a client was told {error!r}")

    def _plain(self) -> None:
        """It asks anew when nothing came, as such a client must."""
        context: zmq.Context[Any] = zmq.Context()
        end = time.monotonic() + PATIENCE_S
        for body in BODIES[:2]:
            for again in itertools.count():
                request = b"%d plain " % again + body
                with context.socket(zmq.REQ) as socket:
                    socket.linger = 0
                    socket.connect(self._endpoint)
                    socket.send(request)
                    if socket.poll(500):
                        self._heard(request, socket.recv())
                        break
                if time.monotonic() > end:
                    self.complaints.append("a client of 2010 was told nothing")
                    break
        context.term()


def run(fault: str, library: Path) -> Ran:
    """One broker with this fault ("eio sync 3"), and one after it."""
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        folder = Path(name)
        (folder / "kept").mkdir()
        at = [f"ipc://{folder}/{role}" for role in ("clients", "workers", "answers")]
        store = folder / "kept" / "jobs.db"
        command = [sys.executable, str(BROKER), "--log-format", "json", "-t", "3", "-T", "60"]
        command += ["--store", str(store), *at]
        watched = disk.surroundings(library, folder / "kept", folder / "log", fault)
        asking, working = _Asking(at[0]), _Working(at[1])
        brokers = []
        try:
            brokers.append(Program(*command, reads="stderr", surroundings=watched))
            ended = _until(lambda: brokers[0].process.poll() is not None or asking.done())
            if brokers[0].process.poll() is None:
                brokers[0].signal(signal.SIGTERM)
            code = brokers[0].ended()
            complaints = _how_it_ended(code, brokers[0].lines, by_itself=ended and not asking.done())
            brokers.append(Program(*command, reads="stderr"))
            asking.join()
            brokers[1].wait_for(lambda lines: any("broker_ready" in line for line in lines))
            brokers[1].signal(signal.SIGTERM)
            if (last := brokers[1].ended()) != Exit.OK:
                complaints.append(f"the broker after it ended with {last}: {brokers[1].lines[-1:]}")
        finally:
            for broker in brokers:
                broker.close()
            asking.join()
            working.stop()
            working.thread.join()
        complaints += asking.complaints
        complaints += [
            f"{body[:10]!r} was begun after its outcome had been told"
            for body, begun in working.begun
            if begun > asking.told.get(body, begun)
        ]
        complaints += _left(store)
        happened = any(event.kind == "X" for event in disk.events(folder / "log"))
    return Ran(happened, code, [f"{fault}: {it}" for it in complaints])


def _until(is_so: Any) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not is_so() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(is_so())


def _how_it_ended(code: int, lines: list[str], *, by_itself: bool) -> list[str]:
    said = [line for line in lines if not line.startswith("{")]
    if code == -signal.SIGKILL or (code == Exit.OK and not by_itself):
        return [f"it said {said}"] if said else []
    if code == -signal.SIGTERM and not by_itself and len(said) == 1:
        return []  # it was told to stop when it had given its reason and was about to end
    was_ready = any("broker_ready" in line for line in lines)
    if code != (Exit.STORE_FAILED if was_ready else Exit.STORE_UNWRITABLE):
        return [f"it ended with {code}, {'after' if was_ready else 'before'} it was ready: {said[-3:]}"]
    return [] if len(said) == 1 else [f"it said {said[-3:]}"]


def _left(path: Path) -> list[str]:
    store = SqliteStore(path, threaded=False)
    try:
        records = held(store)
        store.take_over(1_000)
        ((check, *_),) = store._run("pragma integrity_check").fetchall()
    finally:
        store.close()
    final = {record.number for record in records if isinstance(record, Finished)}
    is_open = {number for it in records if (number := getattr(it, "number", 0))} - final
    complaints = [f"these jobs are open in the store: {sorted(is_open)}"] if is_open else []
    return complaints if check == "ok" else [*complaints, check]


def sweep(kind: str, library: Path, *, at_once: int = 1, step: int = 1) -> Iterator[tuple[str, Ran]]:
    """One kind of fault at the first, second, third ... call, until one does not happen. `step`: at each so-manieth."""
    with ThreadPoolExecutor(at_once) as pool:
        for begin in itertools.count(1, at_once * step):
            faults = [f"{kind} {number}" for number in range(begin, begin + at_once * step, step)]
            results = list(zip(faults, pool.map(lambda fault: run(fault, library), faults), strict=True))
            yield from results
            if not all(ran.happened for _, ran in results):
                return


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="store_faults", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", choices=FAULTS, action="append", help="these faults [all]")
    parser.add_argument("--jobs", type=int, default=1, help="brokers at once")
    parser.add_argument("--step", type=int, default=1, help="only every so-manieth call")
    values = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            library = disk.compiled(Path(folder))
        except disk.NoCompiler as error:
            print(f"store_faults: {error}", file=sys.stderr)
            return 2
        for kind in values.only or FAULTS:
            began, happened, codes = time.monotonic(), 0, set()
            for _, ran in sweep(kind, library, at_once=values.jobs, step=values.step):
                happened += ran.happened
                codes.add(ran.code)
                bad += bool(ran.complaints)
                for complaint in ran.complaints:
                    print(complaint, flush=True)
            took = time.monotonic() - began
            print(f"{kind}: {happened} faults; exit codes {sorted(codes)}; {took:.0f} s", flush=True)
    print(f"{bad} faults were not survived")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
