"""Programs as users would write them: with relet's libraries, and with what Python itself has in their place.

    python -m benchmarks.users worker FUNCTION WORKERS ANSWERS      serves until killed
    python -m benchmarks.users asyncworker FUNCTION WORKERS ANSWERS the same in an event loop, `AsyncWorker`
    python -m benchmarks.users processes FUNCTION WORKERS ANSWERS   the same with two processes
    python -m benchmarks.users relet FUNCTION CLIENTS               a client of such a worker
    python -m benchmarks.users asyncio FUNCTION CLIENTS             the same in an event loop, `AsyncClient`
    python -m benchmarks.users submit FUNCTION CLIENTS              the same, a future for each job
    python -m benchmarks.users task FUNCTION CLIENTS                the same, a call of a task for each job, for such a
    python -m benchmarks.users taskworker FUNCTION WORKERS ANSWERS  worker
    python -m benchmarks.users pool FUNCTION                        multiprocessing.Pool(1)
    python -m benchmarks.users executor FUNCTION                    concurrent.futures.ProcessPoolExecutor(1)
    python -m benchmarks.users executor2 FUNCTION                   concurrent.futures.ProcessPoolExecutor(2)
    python -m benchmarks.users plain FUNCTION                       a loop, in this process

All but the workers read a number of jobs on standard input, map the function over so many bodies of 32 bytes, and say
as a line of JSON how many seconds that took, from the first body to the last result. Results must be the bodies, in any
order. Everything is as it comes: no option is given to anybody but how many processes it has.
"""

import asyncio
import collections
import contextlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import relet

BODY_BYTES = 32
NAP_S = 0.010
SUBMITTED_MAX = 500
"""Futures that wait at a time."""
CRUNCH_STEPS = 27_000
"""About a millisecond of Python."""

EXECUTORS = {"executor": 1, "executor2": 2}

Mapping = Callable[[Iterable[bytes]], Iterable[bytes]]


def same(data: bytes) -> bytes:
    """A job that is nothing but its way there and back."""
    return data


def nap(data: bytes) -> bytes:
    """A job of 10 ms."""
    time.sleep(NAP_S)
    return data


def crunch(data: bytes) -> bytes:
    """A job of about a millisecond of the processor's time."""
    total = 0
    for step in range(CRUNCH_STEPS):
        total += step * step
    return data


FUNCTIONS = {"same": same, "nap": nap, "crunch": crunch}
TASKS = relet.Tasks()
CALLED = {name: TASKS.task(function) for name, function in FUNCTIONS.items()}


def in_flight(submit: Callable[[bytes], Any], bodies: Iterable[bytes]) -> Iterator[bytes]:
    """The results of what is submitted, in order."""
    futures: collections.deque[Any] = collections.deque()
    for body in bodies:
        futures.append(submit(body))
        if len(futures) >= SUBMITTED_MAX:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


@contextlib.contextmanager
def mapping(kind: str, function: Callable[[bytes], bytes], endpoints: list[str]) -> Iterator[Mapping]:
    """How this kind of program maps the function over many bodies."""
    if kind == "relet":
        with relet.Client(endpoints[0]) as client:
            yield client.map
    elif kind in ("submit", "task"):
        with relet.Client(endpoints[0]) as client:
            submit: Callable[[bytes], Any] = client.submit
            if kind == "task":
                task = CALLED[function.__name__]
                submit = lambda body: task.on(client).submit(body)  # noqa: E731 - as a program would write it
            yield lambda bodies: in_flight(submit, bodies)
    elif kind == "asyncio":
        with asyncio.Runner() as runner:
            loop_client = relet.AsyncClient(endpoints[0])

            async def over(bodies: Iterable[bytes]) -> list[bytes]:
                return [answer async for answer in loop_client.map(bodies)]

            yield lambda bodies: runner.run(over(bodies))
            runner.run(loop_client.close())
    elif kind == "pool":
        with multiprocessing.Pool(1) as pool:
            yield lambda bodies: pool.imap_unordered(function, bodies)
    elif kind in EXECUTORS:
        with ProcessPoolExecutor(EXECUTORS[kind]) as executor:
            yield lambda bodies: executor.map(function, bodies)
    else:
        yield lambda bodies: map(function, bodies)


def obey(kind: str, function: Callable[[bytes], bytes], endpoints: list[str]) -> None:
    """Carry out commands until there are none."""
    with mapping(kind, function, endpoints) as over:
        for line in sys.stdin:
            bodies = [number.to_bytes(BODY_BYTES, "big") for number in range(int(line))]
            begun = time.perf_counter()
            results = list(over(bodies))
            seconds = time.perf_counter() - begun
            if sorted(results) != bodies:
                raise SystemExit(f"{kind}: {len(results)} results of {len(bodies)} jobs, and not the right ones")
            print(json.dumps({"jobs": len(bodies), "seconds": seconds}), flush=True)


def main(kind: str, function: str, *endpoints: str) -> None:
    """Entry point; see the top of this file."""
    if kind == "asyncworker":

        async def handler(data: bytes) -> bytes:
            return FUNCTIONS[function](data)

        asyncio.run(relet.AsyncWorker(*endpoints, handler).run())
    elif kind == "taskworker":
        relet.Worker(*endpoints, handler=TASKS.handler).run()
    elif kind == "worker":
        workers, answers = endpoints
        relet.Worker(workers, answers, FUNCTIONS[function]).run()
    elif kind == "processes":
        workers, answers = endpoints
        relet.Worker(workers, answers, FUNCTIONS[function], concurrency=relet.Processes(2)).run()
    else:
        obey(kind, FUNCTIONS[function], list(endpoints))


if __name__ == "__main__":
    main(*sys.argv[1:])
