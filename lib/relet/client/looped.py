"""The event loop behind an `AsyncClient`: its turns are callbacks of the loop, and there is no thread.

A turn is due when the sockets may have something, when the peer's or the link's time has come, and when a task wants
something; what tasks want in one pass of the loop goes out together. Everything here runs in the loop's own thread.
What is done in a turn is in `turns`.

Tasks wait for room in the order in which they came.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Sequence
from typing import Final

import zmq

from relet.client.errors import ClientClosed
from relet.client.peer import Peer
from relet.client.turns import CLOSED, CONTEXT_ENDED, FORGOTTEN, NO_ROOM, OF_THE_PARENT, Room, Turns
from relet.client.waiting import Waiter
from relet.transport.endpoints import Endpoint
from relet.transport.link import Context, Link, earliest, look_after, was_terminated
from relet.transport.loops import LoopWatch
from relet.transport.threads import shared_context

TURN_MESSAGES_MAX: Final = 500
"""Messages received, and sent, in one turn: about two milliseconds, for the loop has other things to do."""
TIMER_SECONDS_MAX: Final = 86_400.0
"""One timer of the loop; who waits for longer wakes up early and waits again."""


class LoopEngine:
    """What an `AsyncClient` does in its loop. It knows no client, so that one that was forgotten can be collected."""

    def __init__(self, endpoint: Endpoint, context: Context | None, peer: Peer[Waiter], room: Room) -> None:
        self.peer = peer
        self.turns = Turns(endpoint, peer, TURN_MESSAGES_MAX, self._make_room)
        self._endpoint = endpoint
        self._context = context
        self._room = room
        self._waiting: collections.OrderedDict[asyncio.Future[None], Waiter] = collections.OrderedDict()
        """Who waits for room."""
        self._closed_because: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None
        self._watch: LoopWatch | None = None
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0
        look_after(self)

    # --- What tasks want.

    def begin(self) -> None:
        """Connect, in the loop that runs; the second time nothing. Raises `ClientClosed`, and RuntimeError where
        another loop runs, or none.
        """
        loop = asyncio.get_running_loop()
        if self._closed_because is not None:
            raise ClientClosed(self._closed_because)
        if loop is self._loop:
            return
        if self._loop is not None:
            raise RuntimeError("the client belongs to another event loop: make one for each")
        context, watch = self._context or shared_context(), LoopWatch(loop, self._turn)
        self._link = Link(context, zmq.DEALER, self._endpoint, time.monotonic_ns(), watch.release)
        self._context, self._watch, self._loop = context, watch, loop
        self._turn_soon()

    async def submit(self, request: Waiter) -> None:
        """Open a request; waits while too many are open. Raises as `begin`, and `TimeoutError` where the request's time
        is up before there is room.
        """
        self.begin()
        if self._waiting or not self._room.has(request):
            await self._await_room(request)
        else:
            self._room.take(request)
        self.turns.inbox.append(request)
        self._turn_soon()

    async def submit_all(self, requests: Sequence[Waiter]) -> int:
        """Open many requests, so that they can go in one message; otherwise as `submit`.

        Returns how many were opened: fewer than all where there was no room for the others in time.
        """
        self.begin()
        opened = 0
        with contextlib.suppress(TimeoutError):
            for request in requests:
                await self.submit(request)
                opened += 1
        return opened

    async def _await_room(self, request: Waiter) -> None:
        """Wait until `_make_room` has taken room for this one."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        self._waiting[granted] = request
        began, timeout_ns = time.monotonic_ns(), request.timeout_ns
        timer = None if timeout_ns is None else loop.call_later(timeout_ns / 1e9, self._give_no_room, granted)
        try:
            await granted
        except asyncio.CancelledError:
            is_given = self._waiting.pop(granted, None) is None and granted.done() and not granted.cancelled()
            if is_given and granted.exception() is None:
                self._make_room(1, request.bytes)  # in the same moment
            else:
                self._make_room(0, 0)  # who comes behind may need less
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if timeout_ns is not None:
            request.timeout_ns = max(0, timeout_ns - (time.monotonic_ns() - began))
        if self._closed_because is not None:
            raise ClientClosed(self._closed_because)

    def _give_no_room(self, granted: asyncio.Future[None]) -> None:
        if self._waiting.pop(granted, None) is not None and not granted.done():
            granted.set_exception(TimeoutError(NO_ROOM))
            self._make_room(0, 0)

    def _make_room(self, ended: int, freed: int) -> None:
        room, waiting = self._room, self._waiting
        room.give(ended, freed)
        while waiting:
            granted, request = next(iter(waiting.items()))
            if not granted.done():
                if not room.has(request):
                    break
                room.take(request)
                granted.set_result(None)
            del waiting[granted]

    def abandon(self, requests: Sequence[Waiter], *, withdraw: bool = False) -> None:
        """Nobody wants the outcomes of these any more. `withdraw`: nor that their jobs are done."""
        if self._closed_because is None:  # else they have ended by that
            self.turns.unwanted.append((list(requests), withdraw))
            if self._loop is not None and not self._loop.is_closed():
                self._turn_soon()

    # --- The end.

    def close(self) -> None:
        """As `stop`, for the user. Raises RuntimeError where another loop runs than the client's."""
        loop = self._loop
        if loop is not None and loop.is_closed():
            self.at_exit()
        elif loop is None or loop is asyncio.get_running_loop():
            self.stop()
        else:
            raise RuntimeError("the client belongs to another event loop: close it there")

    def stop(self, why: str = CLOSED, cause: BaseException | None = None) -> None:
        """End what is open with `ClientClosed`, and close the connection."""
        if self._closed_because is not None:
            return
        self._closed_because = why
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        for granted in self._waiting:
            if not granted.done():
                granted.set_exception(_closed(why, cause))
        self._waiting.clear()
        late = list(self.turns.inbox)
        self.turns.inbox.clear()
        link, self._link = self._link, None
        try:
            if link is not None and cause is None:
                with contextlib.suppress(zmq.ZMQError):  # the context was terminated: nobody is told anything
                    self.turns.say_farewell(link)
        finally:
            if link is not None:
                link.close()
            self.turns.end(why, cause, late)

    def forget(self) -> None:
        """The client was collected, in whatever thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            self.at_exit()
        else:
            loop.call_soon_threadsafe(self.stop, FORGOTTEN)

    def at_exit(self) -> None:
        """No loop will turn again: close the connection, and tell nobody, for nobody is there to hear it."""
        self._closed_because = self._closed_because or FORGOTTEN
        link, self._link = self._link, None
        if link is not None and (self._loop is None or not self._loop.is_running()):
            link.before_close = None
            link.close()

    def after_fork(self) -> None:
        """This is the child of a fork: every call but `close` shall say so."""
        self.turns.connected = False
        self._closed_because = OF_THE_PARENT

    # --- Turns.

    def _turn_soon(self) -> None:
        """In the next pass of the loop."""
        if self._soon is None and self._loop is not None:
            self._soon = self._loop.call_soon(self._turn_now)

    def _turn_now(self) -> None:
        self._soon = None
        self._turn()

    def _turn(self) -> None:
        """One turn; the next one comes by itself."""
        link, watch = self._link, self._watch
        if link is None or watch is None or self._soon is not None:
            return
        now = time.monotonic_ns()
        try:
            rests, stuck = self.turns.turn(link, now)
            if not rests or not watch.rest(link.watched(writable=stuck)):
                self._turn_soon()
            self._wake_at(earliest((self.peer.due, link.due)), now)
        except Exception as error:  # noqa: BLE001 - nobody must wait for a client that cannot go on
            if self._context is None or was_terminated(error, self._context):
                self.stop(CONTEXT_ENDED)
            else:
                self.stop(self.turns.fail(error), error)
        except BaseException as error:  # a callback exits the program
            self.stop(self.turns.fail(error), error)
            raise

    def _wake_at(self, due: int | None, now: int) -> None:
        """Turn then, or a little earlier, and look again: most timers are overtaken by what they wait for."""
        timer = self._timer
        if timer is not None and (due is None or due < self._timer_due):
            timer.cancel()
            self._timer = timer = None
        if due is not None and timer is None and self._loop is not None:
            self._timer_due = due
            self._timer = self._loop.call_later(min(max(0, due - now) / 1e9, TIMER_SECONDS_MAX), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._turn()


def _closed(why: str, cause: BaseException | None) -> ClientClosed:
    error = ClientClosed(why)
    error.__cause__ = cause
    return error
