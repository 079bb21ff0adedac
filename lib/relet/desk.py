"""The desk: where administrators are heard. One message of theirs is one order, and has one answer.

Some are read each turn, however many there are, and long ones go on turn by turn, so that no administrator holds up
the jobs. What cannot be read is answered with a code. An answer leaves when the turn that it speaks of is safe; who
does not read its answers loses them, and the broker waits for nobody.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from relet.bodies import Bodies
from relet.conversation import RouterLike
from relet.core import administration, undertaking
from relet.core.administration import Refusal, Steps, WithBody
from relet.core.effects import AtDesk
from relet.core.job import Reason
from relet.core.machine import Machine
from relet.dialects import native
from relet.events import Event
from relet.messages import BUSY, TOO_LARGE, Body, Error, Said
from relet.orders import BackUp, BackupTold, FromAdmin, Order
from relet.store import BackupRefused, Store

ORDERS_MAX: Final = 20
"""Orders that are read in one turn: each takes up to about a millisecond."""
ORDERS_BYTES_MAX: Final = 1024 * 1024
"""Bytes of them: an order has at most a header of 64 KiB."""
LONG_MAX: Final = 100
"""Orders under way that take several turns; more are refused, because each holds what it looks at."""

VERBS: Final = {**administration.VERBS, **undertaking.VERBS}
OF_STORE: Final = {BackUp}
"""Orders that the machine knows nothing of."""


class Desk:
    """The administrators of one broker."""

    def __init__(self, machine: Machine, port: RouterLike, bodies: Bodies, store: Store | None = None) -> None:
        self._machine = machine
        self._store = store
        self._port = port
        self._bodies = bodies
        self._long: deque[tuple[AtDesk, FromAdmin, Steps]] = deque()

    def turn(self, now: int) -> bool:
        """Hears what was ordered, and goes on with what was before; whether anything is left to do now."""
        old = self._port.receive(ORDERS_MAX, ORDERS_BYTES_MAX)
        self._port.take_lost()
        messages = [message for run in self._port.take_native() for message in native.messages_of(run)]
        for peer, path, version, header, _ in messages:
            to = AtDesk(peer, path)
            try:
                self._carry_out(to, native.from_admin(version, header), now)
            except native.BadMessage as bad:
                self._refuse(to, bad.error)
        for peer, path, _ in old:
            self._refuse(AtDesk(peer, path), native.NOT_NATIVE)
        for refused in self._port.take_refused():
            text = "a message has too many bytes or frames, or comes from one connection too many"
            self._refuse(AtDesk(refused.peer, refused.path or b""), Error(code=TOO_LARGE, text=text))
        if self._long:
            self._go_on(now)
        return bool(self._long) or len(messages) + len(old) >= ORDERS_MAX

    def _carry_out(self, to: AtDesk, order: FromAdmin, now: int) -> None:
        try:
            if isinstance(order, BackUp):
                answer: Said | WithBody | Steps = self._back_up(order)
            else:
                answer = VERBS[type(order)](self._machine, order, now)
            if isinstance(answer, Said):
                self._answer(to, answer)
            elif isinstance(answer, tuple):
                said, body = answer
                frames = self._bodies.read(body)  # now: the dead letter may be gone when this turn is safe
                if frames is None:
                    raise Refusal(Reason.BODY_LOST.value, "the body cannot be read: the store is damaged")
                self._answer(to, said, frames)
            elif len(self._long) >= LONG_MAX:
                raise Refusal(BUSY, f"{LONG_MAX} orders are being carried out that take long: ask again later")
            else:
                self._step(to, order, answer, None)
        except Refusal as refusal:
            self._refused(to, order, refusal)

    def _back_up(self, order: BackUp) -> BackupTold:
        store = self._store
        if store is None:
            raise Refusal("no_store", "this broker keeps its jobs in memory: start it with --store")
        try:
            state = store.back_up(order.path) if order.path else store.backup_state()
        except BackupRefused as refused:
            raise Refusal(refused.code, str(refused)) from None
        return BackupTold(id=order.id) if state is None else BackupTold(id=order.id, **state._asdict())

    def _go_on(self, now: int) -> None:
        """One step of one of the long ones; they take turns."""
        to, order, steps = self._long.popleft()
        try:
            self._step(to, order, steps, now)
        except Refusal as refusal:
            self._refused(to, order, refusal)

    def _step(self, to: AtDesk, order: FromAdmin, steps: Steps, now: int | None) -> None:
        try:
            steps.send(now)  # type: ignore[arg-type]  # None begins it
        except StopIteration as end:
            self._answer(to, end.value)
        else:
            self._long.append((to, order, steps))

    def _answer(self, to: AtDesk, answer: Said, body: Body = ()) -> None:
        self._machine.promised.append((to, answer, body))

    def _refused(self, to: AtDesk, order: Order, refusal: Refusal) -> None:
        word = str(order.__struct_config__.tag)
        self._answer(to, Error(code=refusal.code, text=refusal.text, of=word, id=order.id))

    def _refuse(self, to: AtDesk, error: Error) -> None:
        """A message that is no order."""
        machine = self._machine
        machine.counters.messages_refused += 1
        machine.notices.append((Event.MESSAGE_REFUSED, {"reason": error.code, "count": 1}))
        if to.peer.routing_id:
            machine.said.append((to, error, ()))
