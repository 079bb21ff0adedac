"""The native dialect, as a client speaks it: sessions, request ids, receipts, refusals (docs/protocol.md).

    AWAY --connected--> GREETING --welcome--> READY
                          ^                     |
                          +-- no_session, gap --+

On each connection the client says hello, and nothing else before it is welcome. Each request then goes out under its
request id; whatever happens to the connection, the session or the broker, the way back is always the same: begin a new
session and ask again, under the same id, for everything that is open, saying how long ago it was first asked. Asking
twice is harmless in this dialect, so the peer never needs to know how much of what it sent has arrived.

**Names.** A plain job is found by its request id. What else has a name - a submission that is only to be acknowledged,
a question, a second request under an id that is open already - is a *guest* of that name: it has a key of its own, and
an index from the name leads to it. What the broker says of a name concerns its job and all its guests.

**Receipts.** Outcomes are numbered; what was received is said with the first job of each batch, and by itself when much
has gathered, when nothing has come for a while, and at the end, so that the broker need not hold it. A number that is
missing means that an outcome was lost on its way: a new session tells it again. Where the last ones were lost, no later
number shows it, but the broker's answer to a heartbeat does: so heartbeats are said while neither is heard. They were
lost because there were too many of them, so what is open is asked for again in parts, and a heartbeat behind each: its
answer comes behind the outcomes of the part that were there, and then the next part goes.

**What is not wanted any more** and was sent, is withdrawn: the broker is told `cancel` until it has answered, on each
connection anew. What is cancelled by its name is likewise not submitted again.

**Refusals** that will pass (`busy`, `draining`, `disk_full`) hold back all jobs for as long as the broker says: to send
others in the meantime would only have them refused as well. A job that was ended only because its broker stopped
(`broker_stopped`) is held back likewise: it is asked for again at the next broker, as if this one had been killed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import count, islice
from typing import Final, Generic, TypeAlias, cast

from relet.client.errors import JobExpired, JobFailed, JobRefused, JobUnknown
from relet.client.peer import GIVEN_UP_MAX, Message, Outcome, Peer, R, Request, answer_of
from relet.client.terms import REQUEST_ID_BYTES, Kind
from relet.client.told import Enqueued, JobStatus, Partial, Progress
from relet.dialects import native as dialect
from relet.events import Event
from relet.messages import (
    NO_SESSION,
    SIGNATURE,
    TOO_LARGE,
    VERSION,
    WRONG_ENDPOINT,
    Admitted,
    CancelJob,
    ClientHello,
    Error,
    Heartbeat,
    Inquire,
    Item,
    JobState,
    Submitted,
    TellPartial,
    TellProgress,
    ToClient,
    Welcome,
)
from relet.messages import Outcome as Told
from relet.transport.endpoints import EndpointError

MILLISECOND: Final = 1_000_000
"""In nanoseconds."""
GREETING_NS: Final = 3_000 * MILLISECOND
"""A hello that nobody has answered for so long is said again, and that is logged: a broker answers in its next turn."""
MISPLACED_NS: Final = 100 * MILLISECOND
"""Where the broker has said that this is not its endpoint for clients, it is asked anew after so long, for who comes
later."""
RECEIPTS_MAX: Final = 1_000
"""Outcomes received and not receipted, as the protocol wants it."""
RECEIPT_BYTES_MAX: Final = 1 << 20
"""Bytes of such outcomes: the broker keeps each until it is receipted, and large ones fill its store soon."""
RECEIPT_QUIET_NS: Final = 50 * MILLISECOND
"""So long after the last outcome the receipt is said by itself: longer than between the calls of a busy caller."""
AGAIN_MAX: Final = 200
"""After outcomes were lost, so many requests are asked again at a time."""
HOLD_NS_MAX: Final = 60_000 * MILLISECOND
"""A broker that wants us to come back later than this is asked earlier."""
STOPPED_NS: Final = 1_000 * MILLISECOND
"""A broker that has stopped says so and goes. Should the connection stay, behind a proxy, we say hello to who is there
after this long: as long as one that drains wants to be left alone."""
IDS_BYTES_MAX: Final = dialect.HEADER_BYTES_MAX // 2
"""Bytes of the ids in one header, which may hold headers of the jobs, too."""
ROOM_BYTES: Final = dialect.HEADER_BYTES_MAX + 8 * 1024
"""What header and path may add to the bodies of one message, at most: a broker counts all of it."""
ITEM_BYTES: Final = 24
"""What one id costs in a header beside its own bytes, at most: names, lengths and the number of frames."""
IDS_PER_BLOCK: Final = 1_024
"""Request ids drawn from the system at a time, because a system call costs as much as ten of them."""
FEATURES: Final = ("follows",)

BUSY_OVER_NS: Final = 1_000 * MILLISECOND
"""A broker that has refused nothing for so long after the end of a hold is not busy any more."""
ERRORS_TOLD_EVERY_NS: Final = 1_000 * MILLISECOND
"""Errors are logged at most this often."""
TEXT_MAX: Final = 500
"""Characters of what a broker says that are logged."""

COMPLETED: Final = "completed"
UNKNOWN: Final = "unknown"
EXPIRED: Final = "expired"
BROKER_STOPPED: Final = "broker_stopped"
CANCELLED: Final = "cancelled"
CANCELS: Final = "cancels"
"""What a broker lists that knows `cancel`."""


def request_ids() -> Iterator[bytes]:
    """Random request ids."""
    while True:
        block = os.urandom(REQUEST_ID_BYTES * IDS_PER_BLOCK)
        yield from (block[at : at + REQUEST_ID_BYTES] for at in range(0, len(block), REQUEST_ID_BYTES))


class _Phase(Enum):
    AWAY = "away"
    """No connection."""
    GREETING = "greeting"
    """There is one, and no session yet."""
    READY = "ready"
    """We are welcome: requests may be sent."""


class _Control(Enum):
    HELLO = "hello"
    HEARTBEAT = "heartbeat"


class _Withdrawal:
    """A cancel for whose answer nobody waits."""

    __slots__ = ("name",)

    def __init__(self, name: bytes) -> None:
        self.name = name


class _Group(Generic[R]):
    """Submissions that go in one message.

    Args:
        first: the one that is always in it.
        ids_max, bytes_max, frames_max: of one message.
    """

    def __init__(self, first: R, ids_max: int, bytes_max: int, frames_max: int) -> None:
        self.requests = [first]
        self._ids_left = ids_max - 1
        self._bytes_left = bytes_max - first.bytes
        self._frames_left = frames_max - _frames(first)
        self._header_left = IDS_BYTES_MAX - len(first.name) - ITEM_BYTES
        self._names = {first.name}

    def add(self, request: R) -> bool:
        """Take one more, if it is on the same terms and there is room."""
        first, frames, header = self.requests[0], _frames(request), len(request.name) + ITEM_BYTES
        if (
            first.asking is not request.asking
            or bool(first.asked_at) != bool(request.asked_at)
            or self._ids_left < 1
            or self._bytes_left < request.bytes
            or self._frames_left < frames
            or self._header_left < header
            or request.name in self._names
        ):
            return False
        self.requests.append(request)
        self._ids_left -= 1
        self._bytes_left -= request.bytes
        self._frames_left -= frames
        self._header_left -= header
        self._names.add(request.name)
        return True


_Offer: TypeAlias = "R | _Group[R] | _Control | _Withdrawal"


class NativePeer(Peer[R]):
    """All open requests of one client, and what it says and hears in the native dialect.

    Args:
        names: request ids of 16 random bytes.
        resend: whether jobs that were sent are sent again when the connection or the session was lost. Questions are
            always asked again.
        agent: name and version of the program, for who looks at the broker.
        endpoint: where the broker is to be, for the texts of errors.
    """

    _cancels = True
    """Whether the broker knows `cancel`, as far as is known."""

    def __init__(self, names: Iterator[bytes], *, resend: bool = True, agent: str = "", endpoint: str = "") -> None:
        super().__init__(names, resend=resend, endpoint=endpoint)
        self._hello: Final = dialect.encode(ClientHello(features=FEATURES, agent=agent))
        self._guests: dict[bytes, list[R]] = {}
        self._guest_keys: Final = (b"%d" % number for number in count())  # never as long as a request id
        self._questions: dict[bytes, R] = {}
        """Questions that are open and not sent."""
        self._refused: dict[bytes, R] = {}
        """Jobs that the broker refused for now, or ended by its own end: open, and held back together with those not
        sent."""
        self._ended: list[tuple[R, Outcome]] = []
        """What has ended between two calls that could tell so."""
        self._withdrawn: dict[bytes, None] = {}
        """Names of jobs that the broker is to end, as far as it has not answered yet, the oldest first; and ..."""
        self._withdrawals: dict[bytes, None] = {}
        """... those of them that are not sent."""
        self._offered: list[_Offer[R]] = []
        self._offered_only_jobs = False
        self._offered_receipt = (0, 0)  # how many of these must go for `received` to have been said, and what
        # The session.
        self._phase = _Phase.AWAY
        self._hello_due = False
        self._greeted_at = 0
        self._greeting_told = False
        self._session_lost = False
        self._welcomed_at = 0
        self._epoch: int | None = None
        self._heartbeat_ns = 2_500 * MILLISECOND
        self._liveness_ns = 10_000 * MILLISECOND
        self._group_limits = (1, 0, 0)
        """Jobs, bytes and frames of one message, as the broker allows them."""
        self._ids_now = 1
        """Jobs of one message for now: fewer after one was refused as a whole, so that what would never fit does."""
        # Who was heard when.
        self._counted_at = 0  # when an outcome came last, or how many there are
        self._beat_due = False
        self._first_beat_at: int | None = None  # since anything was heard
        self._last_beat_at = 0
        # Receipts.
        self._received = 0
        self._receipted = 0
        self._gathered_bytes = 0
        self._outcome_at = 0
        self._receipt_due = False
        self._highest = 0  # number of an outcome, above `_received` where some were missed
        self._gap_due: int | None = None
        self._gap_repaired_at: int | None = None
        self._again_left: int | None = None
        """Requests that may be sent before the next answer to a heartbeat; None: any number."""
        # Refusals.
        self._held_until: int | None = None
        self._stopped = False
        """The broker has ended jobs because it stops: at the end of the hold another session begins."""
        self._busy_until = 0
        self._error_told_at = -ERRORS_TOLD_EVERY_NS

    # --- What callers want.

    def submit(self, requests: Iterable[R], now: int) -> None:
        """As in the base class."""
        if not self._open:
            self._counted_at = now  # nothing was to be heard before
            self._first_beat_at = None
        super().submit(requests, now)

    def _open_named(self, request: R) -> None:
        kind = request.asking.kind
        if not request.name:
            request.name = next(self._names)
        name = request.name
        first = self._open.get(name)
        if kind is Kind.JOB and first is None:
            request.key = name
            self._open[name] = self._unsent[name] = request
            return
        request.key = key = next(self._guest_keys)
        self._open[key] = request
        self._guests.setdefault(name, []).append(request)
        if kind is Kind.JOB and first is not None and _differ(first, request):
            text = "this client has an open request with this id, for another body or on another queue"
            self._ended.append((request, JobRefused("conflict", text)))
        elif request.asking.submits:
            self._unsent[key] = request
        else:
            self._questions[key] = request
            if kind is Kind.CANCEL:
                self._is_cancelled(request)

    def _is_cancelled(self, request: R) -> None:
        """What is not with the broker now is not submitted any more; whether it ever was the broker will say."""
        if not self._cancels:
            self._ended.append((request, JobRefused("unknown_command", "this broker does not know `cancel`")))
            return
        for each in self._named(request.name):
            if each.asking.submits and (each.key in self._unsent or each.key in self._refused):
                self._ended.append((each, JobFailed(state=CANCELLED, reason=CANCELLED, request_id=each.name)))

    def withdraw(self, requests: Iterable[R]) -> list[R]:
        """As in the base class. A name that somebody else here still asks for is not withdrawn."""
        ended = self.abandon(requests)
        if self._cancels:
            for request in ended:
                if request.asking.kind is Kind.JOB and request.asked_at and not self._named(request.name):
                    self.counters.withdrawn += 1
                    self._withdrawn[request.name] = self._withdrawals[request.name] = None
                    if len(self._withdrawn) > GIVEN_UP_MAX:
                        self._end_withdrawal(next(iter(self._withdrawn)))
        return ended

    def _end_withdrawal(self, name: bytes) -> None:
        del self._withdrawn[name]
        self._withdrawals.pop(name, None)

    @property
    def unsent(self) -> int:
        """As in the base class."""
        return len(self._unsent) + len(self._questions) + len(self._refused)

    def farewell(self) -> list[Message]:
        """As in the base class: what is not wanted, and the last receipt, for the broker keeps outcomes without one."""
        if self._phase is not _Phase.READY:
            return []
        said: list[Message] = [(SIGNATURE, _cancel(name)) for name in self._withdrawals]
        if self._received != self._receipted:
            said.append((SIGNATURE, dialect.encode(Heartbeat(received=self._received))))
        return said

    def close(self) -> list[R]:
        """As in the base class."""
        self._guests.clear()
        self._questions = {}
        self._refused = {}
        self._ended = []
        return super().close()

    def _forget(self, request: R) -> None:
        super()._forget(request)
        self._questions.pop(request.key, None)
        self._refused.pop(request.key, None)
        if request.key != request.name:
            guests = self._guests[request.name]
            guests.remove(request)
            if not guests:
                del self._guests[request.name]
        if self._guests and request.asking.submits:
            # The broker may have said that it does not know the job, which was not believed while this was open.
            for guest in self._guests.get(request.name, ()):
                if guest.asking.kind is Kind.RESULT:
                    self._questions[guest.key] = guest

    # --- Connections and sessions.

    def became_connected(self, now: int) -> None:
        """As in the base class."""
        self._greet(now)

    def _greet(self, now: int) -> None:
        self.ready = False
        self._phase = _Phase.GREETING
        self._hello_due = True
        self._greeted_at = now
        self._greeting_told = False
        self._session_lost = False

    def lost(self, why: str) -> list[tuple[R, Outcome]]:
        """As in the base class."""
        self._phase = _Phase.AWAY
        self._hello_due = False
        return super().lost(why)

    def _begin_again(self, why: str) -> list[tuple[R, Outcome]]:
        # What was refused is known not to have been taken: it waits, like questions and jobs that were never sent.
        self._unsent |= self._questions | self._refused
        ended = super()._begin_again(why)
        self._questions = {key: r for key, r in self._unsent.items() if not r.asking.submits}
        for key in self._questions:
            del self._unsent[key]
        self._refused = {}
        self._withdrawals = dict(self._withdrawn)
        for request in self._questions.values():
            if request.asking.kind is Kind.CANCEL:
                self._is_cancelled(request)
        self._offered = []
        self._held_until = self._gap_due = self._again_left = None
        self._stopped = False
        return ended

    def _new_session(self, now: int, why: str) -> list[tuple[R, Outcome]]:
        """On the same connection; otherwise as `lost`."""
        ended = self._begin_again(why)
        self._greet(now)
        return ended

    def _welcomed(self, welcome: Welcome, now: int) -> None:
        """We are welcome, and outcomes are numbered anew.

        A second welcome answers a hello that was said twice. Both hellos went before anything else, so nothing of what
        was sent since belongs to an earlier session.
        """
        self._received = self._receipted = self._highest = self._gathered_bytes = 0
        self._receipt_due = self._beat_due = False
        self._welcomed_at = self._counted_at = now
        self._heartbeat_ns = max(welcome.heartbeat_ms * MILLISECOND, dialect.HEARTBEAT_NS_MIN)
        self._liveness_ns = max(welcome.liveness_ms * MILLISECOND, 2 * self._heartbeat_ns)
        self._may_cancel(welcome.features)
        limits = welcome.limits
        # Half of the frames: signature, header and a return path are frames, too. They have bytes as well.
        bytes_max = limits.get("body_bytes", 0)
        bytes_max -= min(ROOM_BYTES, bytes_max // 2)
        self._group_limits = (limits.get("ids", 1), bytes_max, limits.get("frames", 0) // 2)
        self._ids_now = self._group_limits[0]
        if self._phase is _Phase.GREETING:
            self._phase = _Phase.READY
            self._hello_due = False
            self.ready = self.reached = True
            anew = self._epoch is not None and self._epoch != welcome.epoch
            self._say(
                logging.INFO, Event.BROKER_CONNECTED, epoch=welcome.epoch, agent=welcome.agent[:200], restarted=anew
            )
        self._epoch = welcome.epoch

    def _may_cancel(self, features: tuple[str, ...]) -> None:
        self._cancels = CANCELS in features
        if not self._cancels:
            self._withdrawn, self._withdrawals = {}, {}
            for request in self._questions.values():
                if request.asking.kind is Kind.CANCEL:
                    self._is_cancelled(request)

    # --- Time.

    def expire(self, now: int) -> list[tuple[R, Outcome]]:
        """As in the base class."""
        ended: list[tuple[R, Outcome]] = []
        for request, outcome in self._ended:
            if self._open.get(request.key) is request:
                self._forget(request)
                ended.append((request, outcome))
        self._ended = []
        ended += super().expire(now)
        if self._phase is _Phase.GREETING and not self._hello_due and now >= self._greeted_at + GREETING_NS:
            self._greet_again(now)
        elif self._phase is _Phase.READY:
            if self._gap_due is not None and now >= self._gap_due:
                ended += self._repair_gap(now)
            elif self._stopped and self._held_until is not None and now >= self._held_until:
                ended += self._new_session(now, "the broker has stopped")
            else:
                self._keep_in_touch(now)
        return ended

    def _greet_again(self, now: int) -> None:
        if not self._greeting_told:
            self._greeting_told = True
            self._warn(
                Event.BROKER_UNREACHABLE,
                text="connected, but the broker does not answer in the native dialect: it has no room to read more; or,"
                ' if it is older than that, or not relet, say dialect="2010"',
            )
        if self._open:
            self._hello_due = True
            self._greeted_at = now

    def _keep_in_touch(self, now: int) -> None:
        """Receipts, heartbeats, silence, and what was held back."""
        if self._held_until is not None and now >= self._held_until:
            self._held_until = None
            self._unsent = self._refused | self._unsent
            self._refused = {}
        if self._received > self._receipted and now >= self._outcome_at + RECEIPT_QUIET_NS:
            self._receipt_due = True
        if not self._open:
            return
        if self._first_beat_at is not None and now >= self._first_beat_at + self._liveness_ns - self._heartbeat_ns:
            self.deaf = True
        elif now >= self._next_beat_at:
            self._beat_due = True

    @property
    def _next_beat_at(self) -> int:
        """Outcomes put it off, unless others wait for what the broker says to it."""
        last = self._last_beat_at if self._again_left == 0 else max(self._last_beat_at, self._counted_at)
        return last + self._heartbeat_ns

    @property
    def due(self) -> int | None:
        """As in the base class."""
        due = super().due
        if self._ended:
            return 0
        if self._phase is _Phase.AWAY:
            return due
        times = [] if due is None else [due]
        if self._phase is _Phase.GREETING:
            if not self._hello_due and (self._open or not self._greeting_told):
                times.append(self._greeted_at + GREETING_NS)
        else:
            if self._held_until is not None:
                times.append(self._held_until)
            if self._gap_due is not None:
                times.append(self._gap_due)
            if self._received > self._receipted and not self._receipt_due:
                times.append(self._outcome_at + RECEIPT_QUIET_NS)
            if self._open and not self._beat_due:
                times.append(self._next_beat_at)
                if self._first_beat_at is not None:
                    times.append(self._first_beat_at + self._liveness_ns - self._heartbeat_ns)
        return min(times, default=None)

    # --- Sending.

    @property
    def wants_to_send(self) -> bool:
        """As in the base class."""
        if self._phase is _Phase.READY:
            may_submit = bool(self._unsent) and self._held_until is None
            may_ask = (may_submit or bool(self._questions)) and self._again_left != 0
            return may_ask or self._beat_due or self._receipt_due or bool(self._withdrawals)
        return self._hello_due

    def outgoing(self, messages_max: int, now: int) -> list[Message]:
        """As in the base class: what keeps the session alive first, then questions, then jobs."""
        offered: list[_Offer[R]] = []
        messages: list[Message] = []
        self._offered = offered
        self._offered_only_jobs = False
        self._offered_receipt = (0, 0)
        if self._hello_due:
            offered.append(_Control.HELLO)
            return [(SIGNATURE, self._hello)]
        if self._phase is not _Phase.READY:
            return []
        may_submit = bool(self._unsent) and self._held_until is None and self._again_left != 0
        if self._beat_due or (self._receipt_due and not may_submit):
            offered.append(_Control.HEARTBEAT)
            messages.append((SIGNATURE, dialect.encode(Heartbeat(received=self._received))))
            self._offered_receipt = (1, self._received)
        for name in islice(self._withdrawals, messages_max - len(messages)):
            offered.append(_Withdrawal(name))
            messages.append((SIGNATURE, _cancel(name)))
        if self._again_left is not None:
            messages_max = min(messages_max, len(messages) + self._again_left)
        for request in islice(self._questions.values(), messages_max - len(messages)):
            offered.append(request)
            messages.append((SIGNATURE, _question(request)))
        if may_submit:
            self._offered_only_jobs = not messages  # until a group is offered
            self._offer_jobs(messages, messages_max, now)
        return messages

    def _offer_jobs(self, messages: list[Message], messages_max: int, now: int) -> None:
        offered = self._offered
        received = self._received if self._received > max(self._receipted, self._offered_receipt[1]) else 0
        group: _Group[R] | None = None
        for request in islice(self._unsent.values(), messages_max - len(messages)):
            asking = request.asking
            if asking.kind is Kind.ENQUEUE:
                if group is None or not group.add(request):
                    received = self._offer_group(group, messages, received, now)
                    _, bytes_max, frames_max = self._group_limits
                    group = _Group(request, self._ids_now, bytes_max, frames_max)
                continue
            if group is not None:
                received = self._offer_group(group, messages, received, now)
                group = None
            name = request.name
            if received or request.asked_at or len(name) != REQUEST_ID_BYTES:
                header = asking.header(name, _age_ms(request, now), received)
                if received:
                    self._offered_receipt = (len(messages) + 1, received)
                    received = 0
            else:  # nearly always
                header = asking.head + name + asking.tail
            offered.append(request)
            messages.append((SIGNATURE, header, request.body))
        self._offer_group(group, messages, received, now)

    def _offer_group(self, group: _Group[R] | None, messages: list[Message], received: int, now: int) -> int:
        """Offer submissions in one message; returns what is still to be receipted."""
        if group is None:
            return received
        requests = group.requests
        first = requests[0]
        age_ms = max(_age_ms(request, now) for request in requests)
        if len(requests) == 1:
            header = first.asking.header(first.name, age_ms, received)
        else:
            items = tuple(Item(id=r.name, frames=_frames(r)) for r in requests)
            header = first.asking.header(b"", age_ms, received, items)
        self._offered.append(group)
        self._offered_only_jobs = False
        messages.append((SIGNATURE, header, *(r.body for r in requests)))
        if received:
            self._offered_receipt = (len(messages), received)
        return 0

    def sent(self, count: int, now: int) -> None:
        """As in the base class."""
        at = now or 1
        offered = self._offered[:count]
        self._offered = []
        if self._again_left is not None:
            self._went_again(offered)
        if self._offered_only_jobs:
            self._jobs_went(cast("list[R]", offered), at)
        else:
            for item in offered:
                if item is _Control.HELLO:
                    self._hello_due = False
                    self._greeted_at = now
                elif item is _Control.HEARTBEAT:
                    self._heartbeat_went(now)
                elif isinstance(item, _Group):
                    self._jobs_went(item.requests, at)
                elif isinstance(item, _Withdrawal):
                    self._withdrawals.pop(item.name, None)
                elif isinstance(item, Request):
                    if item.asking.submits:
                        self._jobs_went([item], at)
                    else:
                        del self._questions[item.key]
        needed, received = self._offered_receipt
        if needed and count >= needed:
            self._receipted = received
            self._gathered_bytes = 0
            self._receipt_due = False

    def _went_again(self, offered: list[_Offer[R]]) -> None:
        """These go now, of what is asked for in parts."""
        went = sum(len(item.requests) if isinstance(item, _Group) else isinstance(item, Request) for item in offered)
        self._again_left = max(0, (self._again_left or 0) - went)
        if went == len(self._unsent) + len(self._questions):
            self._again_left = None
        elif went and not self._again_left:
            self._beat_due = True

    def _jobs_went(self, requests: list[R], at: int) -> None:
        for request in requests:
            if not request.asked_at:
                request.asked_at = at
        unsent = self._unsent
        if len(requests) == len(unsent):
            self._unsent = {}
        else:
            for request in requests:
                del unsent[request.key]

    def _heartbeat_went(self, now: int) -> None:
        if self._beat_due:
            self._beat_due = False
            self._last_beat_at = now
            if self._first_beat_at is None:
                self._first_beat_at = now

    # --- Hearing.

    def received(self, messages: Iterable[tuple[bytes, ...]], now: int) -> list[tuple[R, Outcome]]:
        """As in the base class."""
        self._first_beat_at = None
        ended: list[tuple[R, Outcome]] = []
        opened, counters, decode, guests = self._open, self.counters, dialect.to_client, self._guests
        outcomes = 0
        for message in messages:
            try:
                if message[0] != SIGNATURE:
                    raise IndexError
                told = decode(VERSION, message[1])
            except (IndexError, dialect.BadMessage, RecursionError):  # msgspec raises the last at maps in maps in maps
                counters.frames_refused += 1
                continue
            if type(told) is not Told:
                self._hear(told, message[2:], ended, now)
                continue
            outcomes += 1
            frames = message[2:]
            number, name = told.n, told.id
            if number == self._received + 1:
                self._received = number
                self._gathered_bytes += len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
            else:
                self._misnumbered(number, now)
            if (told.reason == BROKER_STOPPED and self._resend and self._is_asked_again(name, now)) or (
                self._withdrawn and self._answers_a_withdrawal(told)
            ):
                continue
            if guests and name in guests:
                self._outcome_for_guests(told, frames, ended)
            elif name not in opened:
                self._answered_late(name)
            request = opened.pop(name, None)
            if request is not None:
                if request.timeout_ns is not None:
                    self._timed -= 1
                if self._unsent:
                    self._unsent.pop(name, None)
                if self._refused:
                    self._refused.pop(name, None)
                ended.append((request, self._outcome(told, frames, request)))
        counters.answered += len(ended)
        if outcomes:
            self._outcome_at = self._counted_at = now
            if self._again_left != 0:
                self._beat_due = False
            self._highest = max(self._highest, self._received)
            if self._received - self._receipted >= RECEIPTS_MAX or self._gathered_bytes >= RECEIPT_BYTES_MAX:
                self._receipt_due = True
        if self._session_lost:
            ended += self._new_session(now, "the broker has forgotten the session")
        elif self._gap_due is not None and now >= self._gap_due:
            ended += self._repair_gap(now)
        return ended

    def _outcome(self, told: Told, frames: tuple[bytes, ...], request: R) -> Outcome:
        if told.headers or told.again:
            if told.again:
                self._answered_again()
            request.learn(told.headers, told.again)
        if told.state == COMPLETED:
            if len(frames) == 1 and not request.multipart:  # nearly always
                return frames[0]
            return answer_of(frames, multipart=request.multipart)
        self.counters.failed += 1
        return JobFailed(
            state=told.state,
            reason=told.reason,
            kind=told.kind,
            text=told.text,
            attempts=told.attempts,
            ledger=told.ledger,
            request_id=request.name if not request.asking.by_job else b"",
            replaced_by=told.replaced_by,
            job_id=told.job,
        )

    def _is_asked_again(self, name: bytes, now: int) -> bool:
        """The job ended with its broker. Where it was submitted here, the next broker is asked for it; who only asked
        for its result has that.
        """
        stopped = [it for it in self._named(name) if it.asking.kind is Kind.JOB]
        held = [it for it in stopped if it.key not in self._unsent and it.key not in self._refused]
        if held:
            self.counters.refused_busy += len(held)
            self._refused |= {request.key: request for request in held}
            self._stopped = True
            self._hold(BROKER_STOPPED, "the broker has stopped: the next one is asked", STOPPED_NS, now)
        return bool(stopped)

    def _answers_a_withdrawal(self, told: Told) -> bool:
        """Whether this is the answer to a cancel, and to nothing that was asked since; it may have been on its way."""
        name = told.id
        if name not in self._withdrawn:
            return False
        sent = name not in self._withdrawals
        self._end_withdrawal(name)
        if told.state != CANCELLED or not sent:
            return False
        self._given_up.pop(name, None)
        return True

    def _outcome_for_guests(self, told: Told, frames: tuple[bytes, ...], ended: list[tuple[R, Outcome]]) -> None:
        for request in list(self._guests[told.id]):
            kind = request.asking.kind
            if kind in (Kind.JOB, Kind.RESULT):
                self._forget(request)
                ended.append((request, self._outcome(told, frames, request)))
            elif kind is Kind.CANCEL and request.key not in self._questions:
                self._forget(request)
                status = JobStatus(told.state, attempts=told.attempts, reason=told.reason, job_id=told.job)
                ended.append((request, status))

    def _answered_again(self) -> None:
        if not self.counters.answered_again:
            self._warn(
                Event.ANSWERED_AGAIN, text="the broker is younger than the request: its job may have been done twice"
            )
        self.counters.answered_again += 1

    def _misnumbered(self, number: int, now: int) -> None:
        """A repetition, or outcomes were lost before this one.

        Those of the session before, which may come while we greet, have numbers of their own.
        """
        if self._phase is not _Phase.READY or number <= self._received:
            return
        self._missed(number - 1 - max(self._highest, self._received), now)
        self._highest = max(self._highest, number)

    def _so_many_were_told(self, told: Heartbeat, now: int) -> None:
        """Outcomes and answers to heartbeats come in order: what was told before and is not here was lost."""
        if self._phase is not _Phase.READY:  # as above
            return
        self._counted_at = now
        self._beat_due = False
        missed = told.told - max(self._highest, self._received)
        if missed > 0:
            self._missed(missed, now)
            self._highest = told.told
        elif self._again_left is not None:
            self._again_left = AGAIN_MAX

    def _missed(self, missed: int, now: int) -> None:
        """So many that were not known to be missing, or none: there is a gap."""
        if missed > 0:
            self.counters.outcomes_missed += missed
            if self._gap_due is None:
                self._warn(Event.OUTCOMES_MISSED, count=missed)
        if self._gap_due is None:
            repaired = self._gap_repaired_at
            self._gap_due = now if repaired is None else max(now, repaired + self._heartbeat_ns)

    def _repair_gap(self, now: int) -> list[tuple[R, Outcome]]:
        """Ask again for all that is open: what was lost is among it, and which it was nobody can say."""
        self._gap_repaired_at = now
        ended = self._new_session(now, "an answer of the broker was lost on its way")
        self._again_left = AGAIN_MAX
        return ended

    def _hear(self, told: ToClient, frames: tuple[bytes, ...], ended: list[tuple[R, Outcome]], now: int) -> None:
        """Everything but outcomes."""
        if isinstance(told, Submitted):
            self._submitted(told.jobs, ended, now)
        elif isinstance(told, Welcome):
            self._welcomed(told, now)
        elif isinstance(told, JobState):
            self._stands(told, ended)
        elif isinstance(told, TellPartial):
            self._follow(told.id, Partial(frames=frames, attempt=told.attempt, seq=told.seq))
        elif isinstance(told, TellProgress):
            self._follow(told.id, Progress(attempt=told.attempt, done=told.done, total=told.total, note=told.note))
        elif isinstance(told, Heartbeat):
            self._so_many_were_told(told, now)
        elif isinstance(told, Error):
            self._erred(told, ended, now)

    def _named(self, name: bytes) -> list[R]:
        """All open requests of a name."""
        first = self._open.get(name)
        guests = self._guests.get(name, [])
        return [*guests] if first is None else [first, *guests]

    def _submitted(self, items: tuple[Admitted, ...], ended: list[tuple[R, Outcome]], now: int) -> None:
        if len(items) > 1 and all(item.code == TOO_LARGE for item in items):
            self._split(items)
            return
        for item in items:
            if item.code:
                self._was_refused(item, ended, now)
            else:
                self._was_taken(item, ended)
        if len(items) > 1 and all(item.retry_ms > 0 for item in items):
            self._ids_now = len(items) // 2
        elif self._ids_now < self._group_limits[0]:
            self._ids_now = min(max(self._ids_now, 2 * len(items)), self._group_limits[0])

    def _split(self, items: tuple[Admitted, ...]) -> None:
        """Together they are too large: ask again in messages of half the size, until the session ends."""
        requests = {
            request.key: request
            for item in items
            for request in self._named(item.id)
            if request.asking.submits and request.key not in self._unsent and request.key not in self._refused
        }
        ids_max, bytes_max, frames_max = self._group_limits
        bytes_max = min(bytes_max, sum(request.bytes for request in requests.values()) // 2)
        frames_max = min(frames_max, sum(map(_frames, requests.values())) // 2)
        self._group_limits = (ids_max, bytes_max, frames_max)
        for request in requests.values():
            self._was_not_asked(request)
        self._unsent = requests | self._unsent

    def _was_not_asked(self, request: R) -> None:
        """The broker took nothing of it: where this was its first asking, the next one is."""
        if request.asked_at >= self._welcomed_at:
            request.asked_at = 0

    def _was_taken(self, item: Admitted, ended: list[tuple[R, Outcome]]) -> None:
        for request in self._named(item.id):
            if request.asking.kind is Kind.ENQUEUE:
                self._forget(request)
                enqueued = Enqueued(item.id, job_id=item.job, position=item.position, joined=item.joined)
                ended.append((request, enqueued))

    def _was_refused(self, item: Admitted, ended: list[tuple[R, Outcome]], now: int) -> None:
        for request in self._named(item.id):
            if not request.asking.submits or request.key in self._unsent or request.key in self._refused:
                continue
            if item.retry_ms > 0:
                self.counters.refused_busy += 1
                self._was_not_asked(request)
                self._refused[request.key] = request
                self._hold(item.code, item.text, item.retry_ms * MILLISECOND, now)
            else:
                self.counters.refused += 1
                self._forget(request)
                ended.append((request, JobRefused(item.code, item.text, item.job)))

    def _hold(self, code: str, text: str, hold_ns: int, now: int) -> None:
        """Send no jobs for as long as the broker says."""
        retry_ms, hold_ns = hold_ns // MILLISECOND, min(hold_ns, HOLD_NS_MAX)
        if now >= self._busy_until:
            self._warn(Event.REQUEST_REFUSED, reason=code, text=text[:TEXT_MAX], retry_ms=retry_ms)
        self._held_until = max(self._held_until or 0, now + hold_ns)
        self._busy_until = self._held_until + max(hold_ns, BUSY_OVER_NS)

    def _stands(self, told: JobState, ended: list[tuple[R, Outcome]]) -> None:
        name = told.id or told.job
        if name in self._withdrawn:
            self._end_withdrawal(name)
        requests = self._named(name)
        is_asked = any(request.asking.submits for request in requests)
        others = any(request.asking.kind in (Kind.STATE, Kind.CANCEL) for request in requests)
        for request in requests:
            outcome: Outcome
            kind = request.asking.kind
            if kind is Kind.WHY and not told.code and told.state not in (UNKNOWN, EXPIRED) and others:
                continue  # this answers one of those
            if kind in (Kind.STATE, Kind.WHY, Kind.CANCEL):
                job_id = b"" if told.state in (UNKNOWN, EXPIRED) else told.job
                outcome = JobStatus(told.state, told.attempts, told.reason, told.code, told.text, job_id)
            elif request.asking.kind is not Kind.RESULT or is_asked:  # what is asked for here will come
                continue
            elif told.state == UNKNOWN:
                outcome = JobUnknown(f"the broker knows no job under {name.hex()}")
            elif told.state == EXPIRED:
                outcome = JobExpired(f"nothing is kept of the job under {name.hex()}, if there was one")
            else:
                continue
            self._forget(request)
            ended.append((request, outcome))

    def _misplaced(self, error: Error, ended: list[tuple[R, Outcome]], now: int) -> None:
        """Nobody will be welcome at this endpoint: what is open ends; what is submitted later tries anew."""
        if not self._greeting_told:
            self._greeting_told = True
            self._warn(Event.BROKER_UNREACHABLE, reason=error.code, text=error.text[:TEXT_MAX])
        self._greeted_at = now - GREETING_NS + MISPLACED_NS
        for request in list(self._open.values()):
            self._forget(request)
            ended.append((request, EndpointError(f"{self._endpoint}: {error.text or error.code}")))

    def _is_not_answered(self, error: Error, ended: list[tuple[R, Outcome]]) -> None:
        """A question was refused; what is asked for here as well will come all the same."""
        requests = self._named(error.id)
        if any(request.asking.submits for request in requests):
            return
        for request in requests:
            if request.asking.kind is Kind.RESULT and request.key not in self._questions:
                self.counters.refused += 1
                self._forget(request)
                ended.append((request, JobRefused(error.code, error.text)))

    def _follow(self, name: bytes, told: Partial | Progress) -> None:
        for request in self._named(name):
            if request.asking.submit.follow:
                self.counters.followed += 1
                self.followed.append((request, told))

    def _erred(self, error: Error, ended: list[tuple[R, Outcome]], now: int) -> None:
        if error.code == NO_SESSION:
            self._session_lost = self._phase is _Phase.READY  # else we are saying hello already
            return
        if error.code == WRONG_ENDPOINT and self._phase is _Phase.GREETING:
            self._misplaced(error, ended, now)
            return
        if error.id:
            self._is_not_answered(error, ended)
            return
        self.counters.errors += 1
        if now >= self._error_told_at + ERRORS_TOLD_EVERY_NS:
            self._error_told_at = now
            self._warn(Event.REQUEST_REFUSED, reason=error.code, text=error.text[:TEXT_MAX], of=error.of[:TEXT_MAX])


def _differ(one: Request, other: Request) -> bool:
    """Whether two requests under one id cannot be for one job."""
    return one.body != other.body or one.asking.submit.queue != other.asking.submit.queue


def _frames(request: Request) -> int:
    return len(request.body) if isinstance(request.body, tuple) else 1


def _age_ms(request: Request, now: int) -> int:
    """How long ago it was first asked; 0: never yet."""
    return max(1, (now - request.asked_at) // MILLISECOND) if request.asked_at else 0


def _cancel(name: bytes) -> bytes:
    return dialect.encode(CancelJob(id=name))


def _question(request: Request) -> bytes:
    if request.asking.kind is Kind.CANCEL:
        named = CancelJob(job=request.name) if request.asking.by_job else CancelJob(id=request.name)
        return dialect.encode(named)
    wait, why = request.asking.kind is Kind.RESULT, request.asking.kind is Kind.WHY
    if request.asking.by_job:
        return dialect.encode(Inquire(job=request.name, wait=wait, why=why))
    return dialect.encode(Inquire(id=request.name, wait=wait, why=why))
