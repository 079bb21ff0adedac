"""The thread behind a blocking client, and what the callers' threads share with it.

The callers put requests into an inbox; the thread takes all that has gathered there since its last turn, hands it to
the peer, and sends it in one call. It owns the socket, sleeps while nothing happens, and runs no code of the user's but
callbacks. What it does in a turn is in `turns`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

import zmq

from relet.client.errors import ClientClosed
from relet.client.peer import Peer
from relet.client.turns import CLOSED, CONTEXT_ENDED, FORGOTTEN, NO_ROOM, OF_THE_PARENT, Room, Turns
from relet.client.waiting import Waiter
from relet.transport.endpoints import Endpoint
from relet.transport.link import Alarm, Context, Link, Sleeper, earliest, look_after, was_terminated
from relet.transport.threads import new_context

TURN_MESSAGES_MAX: Final = 1_000
"""Messages received, and sent, in one turn."""
CLOSE_SECONDS_MAX: Final = 2.0
"""How long `stop` waits for the thread: only a callback of the user's that does not return can take so long."""


class Engine:
    """The library's thread, and what the callers' threads share with it. It knows no `Client`, so that one that was
    forgotten can be collected.
    """

    def __init__(self, endpoint: Endpoint, context: Context | None, peer: Peer[Waiter], room: Room) -> None:
        self.peer = peer
        self.turns = Turns(endpoint, peer, TURN_MESSAGES_MAX, self._make_room)
        self._room = room
        self._waiting_for_room = 0
        self._lock = threading.RLock()  # reentrant: a signal handler may close the client in the midst of `submit`
        self._room_made = threading.Condition(self._lock)
        self._closed_because: str | None = None
        self._alarm = Alarm()
        self._endpoint = endpoint
        self._context = context
        self._thread = threading.Thread(target=self._run, name="relet-client", daemon=True)
        look_after(self)
        self._thread.start()

    # --- Called by any thread.

    def submit(self, request: Waiter) -> None:
        """Open a request; waits while too many are open. Raises `ClientClosed`, and `TimeoutError` where the request's
        time is up before there is room.
        """
        room = self._room
        with self._lock:
            if not room.has(request):
                self._await_room(request)
            if self._closed_because:
                raise ClientClosed(self._closed_because)
            room.take(request)
            self.turns.inbox.append(request)
        if self._alarm.asleep:
            self._alarm.ring()

    def submit_all(self, requests: Sequence[Waiter]) -> int:
        """Open many requests, so that they can go in one message; otherwise as `submit`.

        Returns how many were opened: fewer than all where there was no room for the others in time.
        """
        opened = 0
        together: list[Waiter] = []
        inbox, room = self.turns.inbox, self._room
        with self._lock:
            try:
                for request in requests:
                    if not room.has(request):
                        inbox.extend(together)
                        together = []
                        self._alarm.ring()
                        self._await_room(request)
                    if self._closed_because:
                        raise ClientClosed(self._closed_because)
                    room.take(request)
                    together.append(request)
                    opened += 1
            except TimeoutError:
                pass
            finally:
                inbox.extend(together)  # at once, because the thread takes what is there
        self._alarm.ring()
        return opened

    def _await_room(self, request: Waiter) -> None:
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("a future's callback must not wait, and too many requests are open to submit another")
        deadline = None if request.timeout_ns is None else time.monotonic_ns() + request.timeout_ns
        self._waiting_for_room += 1
        try:
            while not self._closed_because and not self._room.has(request):
                left = None if deadline is None else (deadline - time.monotonic_ns()) / 1e9
                if left is not None and left <= 0:
                    raise TimeoutError(NO_ROOM)
                self._room_made.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
        finally:
            self._waiting_for_room -= 1
        if deadline is not None:
            request.timeout_ns = max(0, deadline - time.monotonic_ns())

    def abandon(self, requests: Sequence[Waiter], *, withdraw: bool = False) -> None:
        """Nobody wants the outcomes of these any more. `withdraw`: nor that their jobs are done."""
        if self._closed_because is None:  # else they end by that, and nobody takes them from here
            self.turns.unwanted.append((list(requests), withdraw))
            self._alarm.ring()

    def must_not_wait(self) -> None:
        """Raise where waiting for an answer would wait for ever."""
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("a future's callback must not wait for another answer: use submit")

    def stop(self, why: str = CLOSED) -> None:
        """End the thread and wait for it; open requests end with `ClientClosed`."""
        with self._lock:
            if self._closed_because is None:
                self._closed_because = why
            self._room_made.notify_all()
        self._alarm.ring()
        if threading.get_ident() != self._thread.ident:
            self._thread.join(CLOSE_SECONDS_MAX)

    def forget(self) -> None:
        """The client was collected: end the thread, without waiting."""
        self._closed_because = self._closed_because or FORGOTTEN
        self._alarm.ring()

    def at_exit(self) -> None:
        """Somebody forgot to close the client."""
        self.stop("the interpreter ended")

    def after_fork(self) -> None:
        """This is the child of a fork: every call but `close` shall say so."""
        self._lock = threading.RLock()
        self._room_made = threading.Condition(self._lock)
        self._alarm.asleep = False
        self.turns.connected = False
        self._closed_because = OF_THE_PARENT

    # --- The thread.

    def _run(self) -> None:
        context = self._context or new_context()
        why: BaseException | None = None
        try:
            link = Link(context, zmq.DEALER, self._endpoint, time.monotonic_ns())
            try:
                self._turn_until_closed(link)
                self.turns.say_farewell(link)
            finally:
                link.close()
        except BaseException as error:  # noqa: BLE001 - also what a callback raised, after its batch: nobody must wait
            if was_terminated(error, context):
                self._closed_because = CONTEXT_ENDED
            else:
                why = error
                self._closed_because = self.turns.fail(error)
        with self._lock:
            if self._closed_because is None:
                self._closed_because = CLOSED
            late = list(self.turns.inbox)
            self.turns.inbox.clear()
            self._room_made.notify_all()
        try:
            self.turns.end(self._closed_because, why, late)
        finally:
            if self._context is None:
                context.term()

    def _turn_until_closed(self, link: Link) -> None:
        """Turn, and sleep between the turns, where no local holds on to the last one's messages."""
        turns, sleeper = self.turns, Sleeper(self._alarm)
        while self._closed_because is None:
            now = time.monotonic_ns()
            rests, stuck = turns.turn(link, now)
            if rests:
                sleeper.sleep(earliest((self.peer.due, link.due)), now, link.watched(writable=stuck), self._idle)

    def _idle(self) -> bool:
        return not (self.turns.inbox or self.turns.unwanted or self._closed_because)

    def _make_room(self, ended: int, freed: int) -> None:
        with self._lock:
            self._room.give(ended, freed)
            if self._waiting_for_room:
                self._room_made.notify_all()
