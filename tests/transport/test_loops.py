"""The sockets of a link in an event loop: no message is slept upon, and no descriptor keeps the loop awake."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator

import pytest
import zmq

from relet.transport.loops import LoopWatch

Socket = zmq.Socket[bytes]


@pytest.fixture
def pair() -> Iterator[tuple[Socket, Socket]]:
    """Two sockets that are connected."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as near, context.socket(zmq.PAIR) as far:
        near.bind("inproc://pair")
        far.connect("inproc://pair")
        yield near, far


def is_readable(socket: Socket) -> bool:
    """Whether the descriptor would wake somebody."""
    return bool(select.select([socket.getsockopt(zmq.FD)], [], [], 0)[0])


def test_nobody_rests_on_messages_whose_signal_was_swallowed(pair: tuple[Socket, Socket]) -> None:
    """Two came with one signal, and receiving the first one takes it: `rest` says that there is more, and when all was
    taken the descriptor sleeps until the next one.
    """
    near, far = pair

    async def test() -> None:
        woken = asyncio.Event()
        watch = LoopWatch(asyncio.get_running_loop(), woken.set)
        assert watch.rest([(near, zmq.POLLIN)])
        assert not is_readable(near)
        far.send(b"1")
        far.send(b"2")
        async with asyncio.timeout(5):
            await woken.wait()
        assert near.recv() == b"1"
        assert not watch.rest([(near, zmq.POLLIN)])
        assert not is_readable(near)  # this is the trap: who sleeps on it now sleeps for ever
        assert near.recv() == b"2"
        assert watch.rest([(near, zmq.POLLIN)])
        woken.clear()
        far.send(b"3")
        async with asyncio.timeout(5):
            await woken.wait()
        watch.release()

    asyncio.run(test())


def test_a_released_socket_wakes_nobody(pair: tuple[Socket, Socket]) -> None:
    """Its descriptor may be closed, and be somebody else's."""
    near, _ = pair

    async def test() -> None:
        loop = asyncio.get_running_loop()
        watch = LoopWatch(loop, lambda: None)
        watch.rest([(near, zmq.POLLIN)])
        watch.release()
        assert not loop.remove_reader(near.getsockopt(zmq.FD))
        assert watch.rest([])

    asyncio.run(test())
