"""Handlers and hooks that every pool can call, because they are found by name: what they do stands in the body.

A handler that waits says so by a piece of its result, and waits until something is written into a named pipe.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from relet import CurrentJob, FailJob, HandBack, NoAnswer, current_job

kept: list[bytearray] = []
"""What makes a process grow."""


def act(data: bytes) -> bytes:
    """Do what the body says."""
    what, _, rest = data.partition(b" ")
    if what == b"wait":
        current_job().partial(b"began")
        with Path(os.fsdecode(rest)).open("rb") as pipe:
            return pipe.read()
    if what == b"watch":
        job = current_job()
        job.partial(b"began")
        while not job.cancelled:
            time.sleep(0)
        return b"seen"
    return plain(what, rest)


async def act_awaited(data: bytes) -> bytes:
    """The same as a coroutine."""
    what, _, rest = data.partition(b" ")
    if what == b"wait":
        current_job().partial(b"began")
        return await read(rest)
    if what == b"watch":
        job = current_job()
        job.partial(b"began")
        while not job.cancelled:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        return b"seen"
    await asyncio.sleep(0)
    return plain(what, rest)


async def read(path: bytes) -> bytes:
    """What somebody writes into a named pipe."""
    loop, found = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        loop.add_reader(descriptor, found.set)
        await found.wait()
        return os.read(descriptor, 1_000)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def plain(what: bytes, rest: bytes) -> bytes:
    """What needs no waiting."""
    if what == b"raise":
        raise ZeroDivisionError("on purpose")
    if what == b"fail":
        raise FailJob("quota", "tomorrow", retry_after=0.25, final=True)
    if what == b"back":
        raise HandBack
    if what == b"none":
        raise NoAnswer
    if what == b"exit":
        raise SystemExit(7)
    if what == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == b"process":
        return b"%d" % os.getpid()
    if what == b"grow":
        kept.append(bytearray(b"x") * int(rest))
        return b"%d" % os.getpid()
    if what == b"wrong":
        return "text"  # type: ignore[return-value]
    if what == b"large":
        return bytes(int(rest))
    if what == b"tell":
        return told()
    return b"done: " + rest


def told() -> bytes:
    """What the current job says of itself, having said something of it."""
    job = current_job()
    assert job is current_job()
    before = job.deadline
    job.partial([b"two", b"frames"])
    job.progress(1, 2, "half")
    job.extend(600)
    job.answer_headers = {"answered": "yes"}
    assert job.answer_headers == {"answered": "yes"}
    wrong = []
    for call in (lambda: job.progress(float("nan")), lambda: job.partial("text"), lambda: job.extend(-1)):  # type: ignore[arg-type]
        try:
            call()
        except (TypeError, ValueError) as error:
            wrong.append(type(error).__name__)
    assert before is not None
    assert job.deadline is not None
    said: dict[str, Any] = {
        "id": job.id.hex() if job.id else None,
        "uuid": job.uuid,
        "attempt": job.attempt,
        "tries": job.tries,
        "queue": job.queue,
        "headers": job.headers,
        "left": before - time.monotonic(),
        "later": job.deadline - before,
        "cancelled": job.cancelled,
        "wrong": wrong,
    }
    return json.dumps(said).encode()


def outer(job: CurrentJob, call: Callable[[], bytes]) -> bytes:
    """A hook that shows where it is, and what it sees."""
    try:
        return b"outer(%s)" % call()
    except ZeroDivisionError as error:
        raise FailJob("hooked", f"attempt {job.attempt}: {error}") from error


def inner(job: CurrentJob, call: Callable[[], bytes]) -> bytes:
    """Another one; it does not let everything pass."""
    if (job.headers or {}).get("stop"):
        raise HandBack
    return b"inner(%s)" % call()


async def outer_awaited(job: CurrentJob, call: Callable[[], Awaitable[bytes]]) -> bytes:
    """As `outer`, around coroutines."""
    try:
        return b"outer(%s)" % await call()
    except ZeroDivisionError as error:
        raise FailJob("hooked", f"attempt {job.attempt}: {error}") from error


async def inner_awaited(job: CurrentJob, call: Callable[[], Awaitable[bytes]]) -> bytes:
    """As `inner`, around coroutines."""
    if (job.headers or {}).get("stop"):
        raise HandBack
    return b"inner(%s)" % await call()


def other(data: bytes) -> bytes:
    """The handler of another queue."""
    return b"other: " + data
