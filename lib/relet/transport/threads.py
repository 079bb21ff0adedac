"""libzmq's I/O threads, and how the system schedules them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import zmq

_shared: tuple[int, zmq.Context[zmq.Socket[bytes]]] | None = None
_shared_lock = threading.Lock()


def shared_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The one context of all clients in event loops of this process, made when it is first asked for.

    It is never terminated, because that waits for the last words of every socket, and a loop must wait for nobody.
    """
    global _shared  # noqa: PLW0603 - one for the process; another one for its child
    with _shared_lock:
        if _shared is None or _shared[0] != os.getpid():
            _shared = os.getpid(), new_context()
        return _shared[1]


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context of our own, whose I/O thread runs when it must and not earlier: `SCHED_BATCH` (sched(7)).

    libzmq wakes its I/O thread with the first message of a batch. Where processors are scarce, that thread takes the
    place of the one that writes the batch, sends one message, sleeps, and is woken by the next: two switches and a
    system call for each message. Under this policy it waits for its turn, and finds the whole batch. Where a processor
    is idle, it runs at once, as ever. `docs/decisions/0011-io-threads-in-batches.md` has the figures.
    """
    context = zmq.Context()
    with _batch_scheduling():
        context.socket(zmq.PAIR).close()  # the first socket starts the thread, which inherits what we have now
    return context


@contextlib.contextmanager
def _batch_scheduling() -> Iterator[None]:
    """This thread and those that it starts are scheduled so, where the system knows it and nobody has chosen else."""
    try:
        ours, parameters = os.sched_getscheduler(0), os.sched_getparam(0)  # 0: this thread
        if ours != os.SCHED_OTHER:
            raise PermissionError  # somebody wants it otherwise
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except (AttributeError, OSError):  # not Linux; or forbidden
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, ours, parameters)
