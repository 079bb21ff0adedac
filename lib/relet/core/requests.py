"""What native clients say: requests that have an identity, receipts, and questions.

A request id is chosen by the client and looked up within its principal. Asking again joins the job or gets its outcome;
so a client that has lost its connection, or does not know what became of its message, simply says it again.

What makes that safe is what is *not* known. A request whose outcome was forgotten would run again, so one that is asked
again says how long ago it was first asked, and is refused where an outcome of that age may have been forgotten: because
that is longer than outcomes are kept, or because a bound made us forget one that was accepted later. And a broker that
began after the request was asked says so in the outcome, unless a store remembers for it.

An outcome is kept until all who were told it have said that they received it, or for as long as its client asked, and
in any case no longer than the bounds allow.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from relet.core import timing
from relet.core.askers import UNRECEIVED_LOOK, Asker, Askers
from relet.core.compiling import mypyc_attr
from relet.core.forms import AskedTerms, Forms
from relet.core.job import COMPLETED, DELAYED, FINAL, HELD, RUNNING, Asked, Job, Reason, State, detached
from relet.core.lease import NEVER
from relet.core.limits import STALE_WORTH_REBUILDING
from relet.core.outcomes import Outcomes
from relet.core.placing import rules_of, wrong_with
from relet.core.queue import Queue, is_plain
from relet.core.settings import QueueSettings
from relet.core.terms import Rules, Terms
from relet.core.unique import Guest, Uniques, Window, held_by
from relet.core.why import why
from relet.events import Event
from relet.messages import (
    BUSY,
    KEY_CHARACTERS_MAX,
    QUEUE_CHARACTERS_MAX,
    REQUEST_ID_BYTES_MAX,
    REQUEST_ID_BYTES_MIN,
    WRONG_ENDPOINT,
    Admitted,
    Body,
    CancelJob,
    ClientHello,
    Error,
    FormedSubmitted,
    Inquire,
    JobState,
    KeptBody,
    Key,
    Path,
    Peer,
    PlainSubmitted,
    Submit,
    Submitted,
    Welcome,
    body_bytes,
    body_frames,
    headers_held,
    held_bytes,
)

if TYPE_CHECKING:
    from relet.core.machine import Machine

BUSY_RETRY_MS: Final = 100
"""When to ask again what was refused because a limit is reached: jobs end all the time ..."""
DRAINING_RETRY_MS: Final = 1_000
"""... and because the broker ends: another one takes a while."""
DISK_RETRY_MS: Final = 1_000
"""... and because the disk is nearly full, which is looked at as often."""
TRANSIT_NS: Final = 10_000_000_000
"""By how much a request that is asked again may have been longer on its way than the first time: a connection that is
cut and comes back delivers what was sent into it."""
LOOK_NS_MIN: Final = 1_000_000
"""What cannot end yet is looked at again after this long at the earliest."""
FEATURES: Final = ("follows", "cancels")
DRAINING: Final = "draining"
DISK_FULL: Final = "disk_full"
BAD_ID: Final = "bad_id"
BAD_REQUEST: Final = "bad_request"
CONFLICT: Final = "conflict"
EXPIRED: Final = "expired"
TOO_MANY_ASKERS: Final = "too_many_askers"
DUPLICATE: Final = "duplicate"
RETRIES_MS: Final = {BUSY: BUSY_RETRY_MS, DRAINING: DRAINING_RETRY_MS, DISK_FULL: DISK_RETRY_MS}
"""Refusals that will pass."""
QUEUE_PAUSED: Final = "queue_paused"
QUEUE_FULL: Final = "queue_full"

_FOR_CLIENTS: Final = (
    "this is the endpoint for clients, and a client's hello has no incarnation: connect workers to the endpoint for"
    " workers (WORKERS, the second one of broker.py)"
)


@mypyc_attr(allow_interpreted_subclasses=True)  # the simulation listens
class Requests:
    """The native clients of one machine, the requests that they can ask about, and the outcomes kept for them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._limits = limits = machine.limits
        self.askers = Askers(paths_max=limits.paths_per_peer_max)
        self.outcomes = Outcomes(
            jobs_max=limits.outcomes_max, bytes_max=limits.outcomes_bytes_max, age_ns_max=limits.outcome_ns
        )
        """Final jobs whose outcomes may be asked for again."""
        self.open = 0
        """Open jobs that came natively."""
        self._jobs: dict[Key, Job] = {}
        """By request: open jobs, and final ones whose outcomes are kept."""
        self._by_id: dict[bytes, Job] = {}
        """The same by the id of the job, where a client was told that."""
        self.uniques = Uniques(windows_max=limits.unique_windows_max)
        """Unique keys, and who shares a job."""
        self._asked = AskedTerms(limits)
        self._forms = Forms(self._asked, machine.terms)
        self._forgotten_ns = -NEVER
        """When the youngest job was accepted whose outcome a bound made us forget before it was received."""
        self._barren = 0
        """Hellos to refuse before looking for room again."""
        self._forgets = False
        """Outcomes have been forgotten that somebody was told and had not received."""
        self._aged = False
        """Outcomes have been forgotten because they had been kept for long enough."""
        self._until: list[tuple[int, int, Job]] = []
        """A heap (moment, number, job): outcomes that were received and are to be kept until then."""
        self._deserted: list[tuple[int, int, Job]] = []
        """A heap (moment, number, job): open jobs that end then, if nobody waits for them."""
        self._drawn_ns = -1
        self._drawn_at = b""
        """What ids of that turn begin with: the moment, and bits that were drawn."""
        self._drawn = 0
        """How many there are."""
        self._accepted: list[Job] = []
        """Of the batch in hand."""
        self._accepted_bytes = 0
        self._accepted_plain = True
        """Whether all of them are (`queue.is_plain`)."""
        self._accepted_waits = False
        """Whether one of them waits for more than its turn: for a moment, or for others of its order key."""
        self._counted = 0
        self._waiting: dict[Queue, int] = {}
        """Of each queue, how many of the first `_counted` of them."""
        self._receipts: dict[Asker, None] = {}
        """Who has said to have received more, in the batch in hand."""

    # --- The doors

    def hello(self, peer: Peer, path: Path, said: ClientHello, now: int) -> Welcome | Error:
        """A client announces itself; what to answer."""
        if said.incarnation:
            return Error(code=WRONG_ENDPOINT, text=_FOR_CLIENTS, of="hello")
        asker, before = self.askers.arrive(peer, path, follows="follows" in said.features)
        if before is not None:
            self._gone(before, now)
        if asker is None and self._make_room(peer, now):
            asker, _ = self.askers.arrive(peer, path, follows="follows" in said.features)
        if asker is None:
            return Error(code="too_many_peers", text="there are as many clients on this connection as may be")
        return self._machine.reports.welcome(self.limits(), FEATURES)

    def _make_room(self, peer: Peer, now: int) -> bool:
        """Forgets clients behind one connection that wait for no job, half of them: nobody says when one behind a proxy
        has gone. One that is still there is told `no_session` when it next speaks, and says hello anew.

        A look that found few is not repeated for every hello: it walks over all jobs.
        """
        if self._barren > 0:
            self._barren -= 1
            return False
        waiting = {asker for job in self._jobs.values() for asker, _, _ in job.askers}
        idle = [asker for asker in self.askers.behind(peer) if asker not in waiting]
        for asker in idle[: len(idle) // 2 + 1]:
            self.askers.leave(asker)
            self._gone(asker, now)
        if len(idle) < self._limits.paths_per_peer_max // 16:
            self._barren = self._limits.paths_per_peer_max // 16
        return bool(idle)

    def limits(self) -> dict[str, int]:
        """What a welcome says of our bounds."""
        limits = self._limits
        return {
            "body_bytes": limits.body_bytes_max,
            "frames": limits.frames_max,
            "headers_bytes": limits.headers_bytes_max,
            "ids": limits.ids_per_message_max,
            "outcome_ms": limits.outcome_ns // 1_000_000,
            "session_grace_ms": limits.session_grace_ns // 1_000_000,
        }

    def submit(self, asker: Asker, said: Submit, body: Body, now: int) -> None:
        """A client wants this job done, or these."""
        self.received(asker, said.received)
        self._submit(asker, said, body, now)
        self.accept(now)

    def _submit(self, asker: Asker, said: Submit, body: Body, now: int) -> None:
        if said.jobs:
            admitted = self._admit_many(asker, said, body, now)
        else:
            admission = self._admit(asker, said, said.id, body, now)
            admitted = [] if admission is None else [admission]
        if said.ack or any(each.code for each in admitted):
            self._machine.promised.append((asker, Submitted(jobs=tuple(admitted)), ()))

    def submit_plain(self, batch: Iterable[PlainSubmitted], now: int) -> list[PlainSubmitted]:
        """The same for what is nearly always submitted: one job on the terms of the broker, of whose acceptance nobody
        wants to hear. Returns the messages of those who have said no hello.

        Receipts are taken last: who asks again for what it has in the same breath joins the job once more.
        """
        machine, limits, receipts = self._machine, self._limits, self._receipts
        known, accepted, queue, terms = self._jobs, self._accepted, machine.queue, machine.terms
        closes = machine.draining or machine.disk_full or queue.settings is not None or machine.queues.only_these
        room = 0 if closes else limits.jobs_max - machine.open
        room_bytes = limits.jobs_bytes_max - machine.open_bytes - limits.body_bytes_max
        size, number = 0, machine.number
        strange: list[PlainSubmitted] = []
        for message in batch:
            peer, path, name, received, body = message
            asker: Asker | None = self.askers.on(peer, path) if path else peer.direct
            if asker is None:
                strange.append(message)
                continue
            if received > asker.receipt:
                asker.receipt = received
                receipts[asker] = None
            if (
                type(body) is bytes
                and name not in known
                and REQUEST_ID_BYTES_MIN <= len(name) <= REQUEST_ID_BYTES_MAX
                and len(accepted) < room
                and size < room_bytes
                and not peer.principal
            ):
                body_size = len(body)
                size += body_size
                number += 1
                known[name] = job = Job(
                    number, None, b"", body, now, queue, terms, name, ((asker, name, False),), body_size
                )
                accepted.append(job)
                continue
            self._accepted_bytes = size
            admission = self._admit(asker, Submit(id=name), name, body, now)
            if admission is not None:
                machine.promised.append((asker, Submitted(jobs=(admission,)), ()))
            size, number = self._accepted_bytes, machine.number + len(accepted)
        self._accepted_bytes = size
        self.accept(now)
        for asker in receipts:
            self.received(asker, asker.receipt)
        receipts.clear()
        return strange

    def redrive(self, old: Job, now: int) -> Job | tuple[str, str]:
        """Another job like this dead letter, in the batch that `accept` ends; or a code and a text that say why not.

        Nobody is owed its outcome, which is kept like all. Its request is its own id: so it can be asked about, by
        whoever could ask about the old one.
        """
        machine = self._machine
        held = held_bytes(old.body, b"") + headers_held(old.headers)
        if machine.draining:
            return DRAINING, "the broker stops: redrive when it is back"
        if machine.disk_full:
            return DISK_FULL, "the disk of the broker's store is nearly full: redrive when there is room"
        if self._is_full(1, held):
            return BUSY, self._full()
        refused = self._refused_by(old.queue)
        if refused is not None:
            return refused
        number = machine.number + len(self._accepted) + 1
        job = Job(number, None, b"", old.body, now, old.queue, old.terms, headers=old.headers)
        job.size = body_bytes(old.body)
        orders = old.queue.orders
        job.rules = rules = msgspec.structs.replace(
            old.rules or Rules(), redriven_from=old.id, age_ns=0, place=orders.place_kept(old)
        )
        job_id = self.id_of(job, now)
        principal = old.request[0] if type(old.request) is tuple else ""
        job.request = key = (principal, job_id) if principal else job_id
        if not self._may_hold(job, now):
            return DUPLICATE, f"the unique key {rules.unique!r} is taken by another job: redrive when it has ended"
        self._jobs[key] = self._by_id[job_id] = job
        self._accepted_plain, self._accepted_waits = False, True
        self._holds(job)
        self._accepted.append(job)
        self._accepted_bytes += held
        if type(old.body) is KeptBody:
            machine.borrows(job)
        if rules.place:
            orders.handed_on(old, job)
        return job

    def submit_formed(
        self, batch: Iterable[FormedSubmitted], read: Callable[[bytes], Submit | None], now: int
    ) -> list[FormedSubmitted]:
        """The same for what is submitted on terms that are said again and again. `read` is how the dialect reads a
        form; what it cannot read is returned, with the messages of those who have said no hello.
        """
        machine, limits, receipts = self._machine, self._limits, self._receipts
        known, accepted, queues, known_forms = self._jobs, self._accepted, machine.queues.by_name, self._forms.known
        closes = machine.draining or machine.disk_full or machine.queues.only_these
        room = 0 if closes else limits.jobs_max - machine.open
        room_bytes = limits.jobs_bytes_max - machine.open_bytes - limits.body_bytes_max
        size, number, plainly = 0, machine.number, True
        strange: list[FormedSubmitted] = []
        for message in batch:
            peer, path, name, received, queue_name, fair, packed, body = message
            asker: Asker | None = self.askers.on(peer, path) if path else peer.direct
            form = known_forms.get(packed) or self._forms.learn(packed, read)
            if asker is None or form is None:
                strange.append(message)
                continue
            if received > asker.receipt:
                asker.receipt = received
                receipts[asker] = None
            said, terms, plain, weight, follow, ends_alone = form
            reference = queues.get(queue_name)
            queue = None if reference is None else reference()
            if (
                queue is not None
                and terms is not None
                and queue.settings is None
                and type(body) is bytes
                and name not in known
                and REQUEST_ID_BYTES_MIN <= len(name) <= REQUEST_ID_BYTES_MAX
                and len(accepted) < room
                and size < room_bytes
                and not peer.principal
                and (len(fair) <= KEY_CHARACTERS_MAX if fair else weight == 1)
            ):
                body_size = len(body)
                size += body_size
                number += 1
                asked = ((asker, name, follow and asker.follows),)
                known[name] = job = Job(number, None, b"", body, now, queue, terms, name, asked, body_size)
                if fair:
                    job.rules = Rules(b"", fair, weight)
                    plainly = False
                elif not plain:
                    plainly = False
                if ends_alone:
                    asker.watched.add(job)
                accepted.append(job)
                continue
            said = msgspec.structs.replace(said, id=name, received=received, queue=queue_name, fair=fair)
            self._accepted_bytes = size
            self._accepted_plain &= plainly
            self._submit(asker, said, body, now)
            if accepted is not self._accepted:  # what was there had to be the machine's, for a unique key
                accepted = self._accepted
                room = min(room, limits.jobs_max - machine.open)
                room_bytes = limits.jobs_bytes_max - machine.open_bytes - limits.body_bytes_max
            size, number = self._accepted_bytes, machine.number + len(accepted)
        self._accepted_bytes = size
        self._accepted_plain &= plainly
        self.accept(now)
        for asker in receipts:
            self.received(asker, asker.receipt)
        receipts.clear()
        return strange

    def accept(self, now: int) -> None:
        """The jobs of a batch are the machine's."""
        accepted = self._accepted
        if accepted:
            self.open += len(accepted)
            plain, waits = self._accepted_plain, self._accepted_waits
            self._machine.accept(accepted, self._accepted_bytes, now, plain=plain, waits=waits)
            self._accepted, self._accepted_bytes, self._accepted_plain, self._accepted_waits = [], 0, True, False
        self._waiting, self._counted = {}, 0

    def _admit_many(self, asker: Asker, said: Submit, body: Body, now: int) -> list[Admitted]:
        """The jobs of one message: as a whole where a bound or the message itself is at stake, else each for itself."""
        machine, limits = self._machine, self._limits
        frames = body_frames(body)
        begin, items, fresh, size = 0, [], 0, 0
        headers_bytes = sum(len(each) + len(value) for each, value in (said.headers or {}).items())
        code = text = ""
        for item in said.jobs:
            end = begin + item.frames
            one = frames[begin] if item.frames == 1 and begin < len(frames) else frames[begin:end]
            items.append((item.id, one))
            begin = end
            if self._key(asker, item.id) not in self._jobs:
                fresh += 1
                size += held_bytes(one, b"") + headers_bytes
        if said.id or begin != len(frames) or any(item.frames < 0 for item in said.jobs):
            code, text = (
                BAD_REQUEST,
                f"the jobs have {begin} frames, the message has {len(frames)}, and no id of its own",
            )
        elif len(items) > limits.ids_per_message_max:
            code, text = BAD_REQUEST, f"at most {limits.ids_per_message_max} jobs in a message (--ids-per-message-max)"
        elif len({name for name, _ in items}) != len(items):
            code, text = BAD_ID, "an id stands twice in the message"
        elif self._is_full(fresh, size):
            code, text = BUSY, self._full()
        if code:
            machine.counters.requests_refused += len(items)
            retry_ms = BUSY_RETRY_MS if code == BUSY else 0
            items = items[: limits.ids_per_message_max]
            return [
                Admitted(id=name[:REQUEST_ID_BYTES_MAX], code=code, text=text, retry_ms=retry_ms) for name, _ in items
            ]
        return [self._admit(asker, said, name, one, now) or Admitted(id=name) for name, one in items]

    def _key(self, asker: Asker, name: bytes) -> Key:
        principal = asker.peer.principal
        return (principal, name) if principal else name

    def _admit(self, asker: Asker, said: Submit, name: bytes, body: Body, now: int) -> Admitted | None:
        """One job: joined, refused, or accepted. None: accepted, and nobody asked to be told."""
        machine = self._machine
        principal = asker.peer.principal
        key = (principal, name) if principal else name
        known = self._jobs.get(key)
        if known is not None:
            return self._join(asker, said, known, name, body, now)
        size, held = body_bytes(body), held_bytes(body, b"")
        headers, headers_bytes = said.headers, 0
        if headers is not None:
            headers_bytes = headers_held(headers)
            held += headers_bytes
        queue = machine.queues.get(said.queue)
        terms = self._asked.terms(said, machine.terms if queue is None or queue.terms is None else queue.terms)
        refused = self._refusal(said, name, terms, headers_bytes, now)
        other: Job | Window | None = None
        if refused is None and said.unique:
            other = self._holder(said, principal, now)
            if other is not None and not (said.unique_mode == "replace" and _waits(other)):
                return self._meets(asker, said, name, size, other, now)
        if refused is None and queue is None:
            refused = machine.queues.refusal(said.queue)
        elif refused is None and queue is not None and (queue.settings is not None or machine.queues.only_these):
            refused = self._refused_by(queue, fewer=int(other is not None))  # which makes room
        if refused is None and self._is_full(int(other is None), held):
            refused = BUSY, self._full()
        if refused is not None or isinstance(terms, str):
            machine.counters.requests_refused += 1
            code, text = refused or (BAD_REQUEST, "")
            retry_ms = RETRIES_MS.get(code, 0)
            return Admitted(id=name[:REQUEST_ID_BYTES_MAX], code=code, text=text, retry_ms=retry_ms)
        if other is not None:
            self.accept(now)  # it may be of this batch, and what ends must have begun
        number = machine.number + len(self._accepted) + 1
        queue, rules = machine.queues.named(said.queue), rules_of(said)
        job = Job(number, None, b"", body, now, queue, terms, key, (), size, headers, rules=rules)
        self._accepted_plain &= is_plain(job)
        if said.unique:
            self._takes_key(job, said, other, now)
        if said.age_ms:
            job.again = not machine.keeps_records and now - said.age_ms * 1_000_000 < machine.began_ns
        if said.order or said.delay_ms or said.not_before_ms or timing.has_deadline(terms):
            self._times(job, said, now)
        if said.wait:
            job.askers = ((asker, name, said.follow and asker.follows),)
            if terms.ends_alone:
                asker.watched.add(job)
        self._jobs[key] = job
        self._accepted.append(job)
        self._accepted_bytes += held
        if not said.ack:
            return None
        job_id = self.id_of(job, now)
        self._by_id[job_id] = job
        return Admitted(id=name, job=job_id, position=len(job.queue) + self._accepted_in(job.queue) - 1)

    def _times(self, job: Job, said: Submit, now: int) -> None:
        """The job waits for others, or for a moment, or has a deadline."""
        self._accepted_waits = True
        due_ns = timing.due_ns(said, max(now, self._machine.heard_ns), self._machine.wall_ns)
        if due_ns:
            job.state, job.due_ns = DELAYED, due_ns
        if said.age_ms and timing.has_deadline(job.terms):
            job.rules = msgspec.structs.replace(job.rules or Rules(), age_ns=said.age_ms * 1_000_000)

    # --- Unique keys

    def _holder(self, said: Submit, principal: str, now: int) -> Job | Window | None:
        """What holds the key that a request comes with: an open job, or one that has ended well not long ago."""
        held = said.queue, principal, said.unique
        job = self.uniques.live.get(held)
        if job is not None:
            return job
        window = self.uniques.windows.get(held)
        return window if window is not None and window.until_ns > now else None

    def _meets(
        self, asker: Asker, said: Submit, name: bytes, size: int, other: Job | Window, now: int
    ) -> Admitted | None:
        """The key of a request is taken: it shares that job, or its kept outcome, or is refused."""
        job = other if isinstance(other, Job) else self._kept_of(other)
        code, text = DUPLICATE, f"a job with the unique key {said.unique!r} is in this queue already"
        if isinstance(other, Window):
            text = f"a job with the unique key {said.unique!r} has ended well not long ago"
        elif said.unique_mode == "replace":
            text += ", and with a worker: it cannot be replaced any more"
        if said.unique_mode == "join" and job is not None:
            guests = self.uniques.guests.get(job, {})
            if len(guests) + 1 < self._limits.askers_per_job_max and (
                not said.wait or self._attach(asker, job, name, follows=said.follow, shares=True)
            ):
                return self._shares(asker, said, name, size, job, now)
            code, text = TOO_MANY_ASKERS, f"{self._limits.askers_per_job_max} wait for this job already"
        self._machine.counters.requests_refused += 1
        there = other.job if isinstance(other, Window) else self.id_of(other, now)
        if job is not None:
            self._by_id[there] = job
        return Admitted(id=name, job=there if code == DUPLICATE else b"", code=code, text=text)

    def _kept_of(self, window: Window) -> Job | None:
        """The job of which only the key is taken, if its outcome is kept."""
        job = self._jobs.get(window.request)
        return None if job is None or job.id != window.job else job

    def _shares(self, asker: Asker, said: Submit, name: bytes, size: int, job: Job, now: int) -> Admitted | None:
        """A request has no job of its own: it is known as one of those whose this is."""
        self.accept(now)  # that may be of this batch
        key = self._key(asker, name)
        self._jobs[key] = job
        guests = self.uniques.guests.setdefault(job, {})
        guests[key] = Guest(size, said.gone == "finish", now)
        if job.state in FINAL and not said.wait:
            job.orphans += 1  # it is kept for whom nobody has told
        self._machine.counters.requests_joined += 1
        self._machine.shared(job)
        if not said.ack:
            return None
        job_id = self.id_of(job, now)
        self._by_id[job_id] = job
        return Admitted(id=name, job=job_id, joined=True)

    def _takes_key(self, job: Job, said: Submit, other: Job | Window | None, now: int) -> None:
        """A new job has the key now; one that had it, and waits, ends for it."""
        job.rules = msgspec.structs.replace(
            job.rules or Rules(), unique=said.unique, unique_ns=said.unique_ms * 1_000_000
        )
        if isinstance(other, Job):
            other.rules = msgspec.structs.replace(other.rules or Rules(), replaced_by=self.id_of(job, now))
            self._machine.counters.jobs_replaced += 1
            self._machine.cancel(other, Reason.REPLACED, now)
        self._holds(job)

    def _may_hold(self, job: Job, now: int) -> bool:
        """Whether the key of a new job, where it has one, is free."""
        held = held_by(job)
        if held is None:
            return True
        window = self.uniques.windows.get(held)
        return held not in self.uniques.live and (window is None or window.until_ns <= now)

    def _holds(self, job: Job) -> None:
        """An open job has its key, where it has one."""
        held = held_by(job)
        if held is not None:
            self.uniques.live[held] = job

    def _key_is_free(self, job: Job) -> None:
        """A job with rules of its own has ended: its key is free, or is so after a while."""
        uniques, rules = self.uniques, job.rules
        uniques.released(job)
        held = held_by(job)
        if held is not None and rules is not None and rules.unique_ns and job.state == COMPLETED and job.request:
            window = Window(job.number, job.ended_ns + rules.unique_ns, self.id_of(job, job.ended_ns), job.request)
            self._by_id[window.job] = job
            self._machine.window_changed(held, window)
            for oldest, cut in uniques.begin(held, window):
                self._machine.window_cut(oldest, cut)
        if job in uniques.guests or (held in uniques.windows and not job.askers):
            # Who has not asked to be told may ask for it yet, whoever of the others receives it.
            told = {name for _, name, _ in job.askers}
            job.orphans += sum(_name_of(key) not in told for key in uniques.requests_of(job))

    # --- Whether there is room

    def _accepted_in(self, queue: Queue) -> int:
        """How many jobs of the batch in hand are in this queue."""
        waiting = self._waiting
        for each in self._accepted[self._counted :]:
            waiting[each.queue] = waiting.get(each.queue, 0) + 1
        self._counted = len(self._accepted)
        return waiting.get(queue, 0)

    def _refused_by(self, queue: Queue, *, fewer: int = 0) -> tuple[str, str] | None:
        """Why a queue takes no job more; None where it does."""
        settings = queue.settings
        if settings is None:
            return self._machine.queues.refusal(queue.name)
        return closed(queue.name, settings, self._machine.open_in(queue) + self._accepted_in(queue) - fewer)

    def _is_full(self, jobs: int, size: int) -> bool:
        machine, limits = self._machine, self._limits
        open_jobs = machine.open + len(self._accepted) + jobs
        return open_jobs > limits.jobs_max or (
            machine.open_bytes + self._accepted_bytes + size > limits.jobs_bytes_max and open_jobs > 1
        )

    def _full(self) -> str:
        limits = self._limits
        return f"the broker has as many jobs as it may have: {limits.jobs_max} or {limits.jobs_bytes_max} bytes"

    def _refusal(
        self, said: Submit, name: bytes, terms: Terms | str, headers_bytes: int, now: int
    ) -> tuple[str, str] | None:
        """Why a request cannot become a job; None where it can."""
        limits = self._limits
        if not REQUEST_ID_BYTES_MIN <= len(name) <= REQUEST_ID_BYTES_MAX:
            return BAD_ID, f"an id has {REQUEST_ID_BYTES_MIN} to {REQUEST_ID_BYTES_MAX} bytes, not {len(name)}"
        if self._machine.draining:
            return DRAINING, "the broker stops: ask again when it is back"
        if self._machine.disk_full:
            return DISK_FULL, "the disk of the broker's store is nearly full: ask again when there is room"
        if not 1 <= len(said.queue) <= QUEUE_CHARACTERS_MAX:
            return BAD_REQUEST, f"a queue's name has 1 to {QUEUE_CHARACTERS_MAX} characters, not {len(said.queue)}"
        if headers_bytes > limits.headers_bytes_max:
            text = f"the headers have {headers_bytes} bytes: at most {limits.headers_bytes_max} (--headers-bytes-max)"
            return BAD_REQUEST, text
        if isinstance(terms, str):
            return BAD_REQUEST, terms
        wrong = wrong_with(said) or self._wrong_with_key(said)
        wrong = wrong or timing.wrong_beside(said, terms, now, self._machine.wall_ns, limits)
        if wrong:
            return BAD_REQUEST, wrong
        if said.age_ms:
            asked_ns = now - said.age_ms * 1_000_000
            if said.age_ms < 0 or now - asked_ns > limits.outcome_ns or asked_ns <= self._forgotten_ns + TRANSIT_NS:
                return EXPIRED, "this was asked so long ago that its outcome may have been forgotten; ask anew"
        return None

    def _wrong_with_key(self, said: Submit) -> str:
        """What of a request's unique key cannot be; "" where nothing is wrong."""
        max_ms = self._limits.unique_ns_max // 1_000_000
        if not said.unique:
            if said.unique_mode == "reject" and not said.unique_ms:
                return ""
            return "unique_mode and unique_ms say nothing without unique: name a key, or leave them out"
        if len(said.unique) > KEY_CHARACTERS_MAX:
            return f"unique has {len(said.unique)} characters: a key has at most {KEY_CHARACTERS_MAX}"
        if said.unique_ms > max_ms:
            return f"unique_ms is {said.unique_ms}: at most {max_ms} (--unique-max)"
        return ""

    def _join(self, asker: Asker, said: Submit, job: Job, name: bytes, body: Body, now: int) -> Admitted | None:
        """The request is known: who asks again is told the outcome of its job."""
        machine = self._machine
        code = text = ""
        size = job.size if job.rules is None else self.uniques.size_of(job, self._key(asker, name))
        if job.queue.name != said.queue or size != body_bytes(body):
            code = CONFLICT
            text = f"this id belongs to a job of {size} bytes in queue {job.queue.name!r}: draw another id"
        elif said.wait and not self._attach(asker, job, name, follows=said.follow):
            code, text = TOO_MANY_ASKERS, f"{self._limits.askers_per_job_max} wait for this job already"
        if code:
            machine.counters.requests_refused += 1
            return Admitted(id=name, code=code, text=text)
        machine.counters.requests_joined += 1
        if not said.ack:
            return None
        job_id = self.id_of(job, now)
        self._by_id[job_id] = job
        return Admitted(id=name, job=job_id, joined=True)

    def _attach(self, asker: Asker, job: Job, name: bytes, *, follows: bool, shares: bool = False) -> bool:
        """Who asks is owed the outcome: now where there is one. False: too many are owed it already.

        `shares`: by this name nobody has asked before.
        """
        if job.state in FINAL:
            if self.askers.parting:  # one of them may be who comes back here: what it was told it has not received
                self.last_words_heard(list(self.askers.parting))
            self._machine.told.append((asker, name, job))
            job.unreceived += 1
            if job.orphans and not shares and job not in self.uniques.guests:  # else it may be somebody else's
                job.orphans -= 1  # most likely the one who had gone
            return True
        others = [it for it in job.askers if not (it[0] is asker and it[1] == name)]
        gone = next((it for it in others if it[0].gone and (it[1] == name or job.rules is None)), None)
        if gone is not None:  # likewise
            others.remove(gone)
        if len(others) >= self._limits.askers_per_job_max:
            others = [it for it in others if not it[0].gone]
        if len(others) >= self._limits.askers_per_job_max:
            return False
        job.askers = (*others, (asker, name, follows and asker.follows))
        if job.terms.ends_alone:
            asker.watched.add(job)
        return True

    def inquire(self, asker: Asker, said: Inquire, now: int) -> None:
        """A client wants to know what became of a job."""
        self.received(asker, said.received)
        machine = self._machine
        name = said.id or said.job
        if bool(said.id) == bool(said.job):
            text = "an inquiry names a request in `id`, or a job in `job`, and not both"
            machine.said.append((asker, Error(code=BAD_REQUEST, text=text, of="inquire", id=name), ()))
            return
        job = self._named(asker, said)
        if job is not None and said.wait:
            if not self._attach(asker, job, name, follows=False):
                text = f"{self._limits.askers_per_job_max} wait for this job already"
                machine.promised.append((asker, Error(code=TOO_MANY_ASKERS, text=text, of="inquire", id=name), ()))
                return
            if job.state in FINAL:
                return
        machine.promised.append((asker, self._state_of(job, said, now), ()))

    def _named(self, asker: Asker, said: Inquire | CancelJob) -> Job | None:
        """The job that is meant, where its asker may know of it."""
        principal = asker.peer.principal
        job = self._jobs.get(self._key(asker, said.id)) if said.id else self._by_id.get(said.job)
        if job is not None and (job.request[0] if type(job.request) is tuple else "") != principal:
            return None
        return job

    def known(self, job_id: bytes, request: bytes, principal: str) -> Job | None:
        """The job of this id, as far as a client was told it, or of this request."""
        if job_id:
            return self._by_id.get(job_id)
        return self._jobs.get((principal, request) if principal else request)

    def all(self) -> list[Job]:
        """All jobs that came natively: open ones, and final ones whose outcomes are kept."""
        return list(self._jobs.values())

    def _state_of(self, job: Job | None, said: Inquire | CancelJob, now: int) -> JobState:
        """Where the job stands; None: it is not known."""
        if job is None:
            # Of an id that nobody can date it is not known whether its outcome was one of those forgotten.
            may_have_been = self._forgotten_ns > -NEVER or self._aged
            state = ("expired" if may_have_been else "unknown") if said.id else self._age_of(said.job, now)
            return JobState(id=said.id, job=said.job, state=state)
        word = State(job.state).name.lower()
        job_id = said.job or self.shown_id(job, now)
        told = JobState(id=said.id, job=job_id, state=word, attempts=job.attempts, reason=job.reason)
        if isinstance(said, Inquire) and said.why:
            code, text = why(self._machine, job, now)
            return msgspec.structs.replace(told, code=code, text=text)
        return told

    def cancel(self, asker: Asker, said: CancelJob, now: int) -> None:
        """A client does not want this job any more. It is answered with the outcome of what it waits for, by that name,
        or with where the job stands.
        """
        self.received(asker, said.received)
        machine = self._machine
        if bool(said.id) == bool(said.job):
            text = "a cancel names a request in `id`, or a job in `job`, and not both"
            machine.said.append((asker, Error(code=BAD_REQUEST, text=text, of="cancel", id=said.id), ()))
            return
        job = self._named(asker, said)
        if job is not None and job.state not in FINAL and self._withdraw(asker, job, said.id, now):
            return
        machine.promised.append((asker, self._state_of(job, said, now), ()))

    def _withdraw(self, asker: Asker, job: Job, name: bytes, now: int) -> bool:
        """Who asked by this name, or, where it is b"", by any, wants the job no more. It ends with the last request and
        the last who is there and waits for it. Returns whether its asker is told an outcome.
        """
        mine = [it for it in job.askers if it[0] is asker and name in (b"", it[1])]
        others = [it for it in job.askers if it not in mine]
        wanted = {it[1] for it in others if not it[0].gone}
        requests = list(self.uniques.requests_of(job))
        names = {name} if name else {it[1] for it in mine}
        if not name and len(requests) == 1:
            names.add(_name_of(requests[0]))
        given_up = [key for key in requests if _name_of(key) in names - wanted]
        # Who is away and asked by the same name has no say: it hears of the end when it asks again.
        others = [it for it in others if not (it[0].gone and it[1] in names)]
        if len(given_up) == len(requests) and not wanted:
            job.askers = tuple(mine)
            self._machine.cancel(job, Reason.CANCELLED, now)
        else:
            job.askers = tuple(others)
            self._share_no_more(job, given_up[1:] if len(given_up) == len(requests) else given_up)
            self._detach(asker, job, mine, now)
        return bool(mine)

    def _share_no_more(self, job: Job, keys: list[Key]) -> None:
        """A job goes on, and is known by these requests no more."""
        if keys:
            for key in keys:
                del self._jobs[key]
            self.uniques.left(job, keys)
            self._machine.shared(job)

    def _detach(self, asker: Asker, job: Job, mine: list[Asked], now: int) -> None:
        """The job goes on for others. Whoever asks for it again is taken for somebody new."""
        for _, name, _ in mine:
            end = detached(job, now)
            end.unreceived = 1
            self._machine.told.append((asker, name, end))
        if all(it[0] is not asker for it in job.askers):
            asker.watched.discard(job)

    def _age_of(self, job_id: bytes, now: int) -> str:
        """Of a job that is not known: whether it is so old that it may have been."""
        if len(job_id) != 16:
            return "unknown"
        accepted_ms = int.from_bytes(job_id[:6], "big")
        machine = self._machine
        forgotten_ms = machine.wall_ms(self._forgotten_ns) if self._forgotten_ns > -NEVER else -1
        kept_ms = self._limits.outcome_ns // 1_000_000
        return "expired" if accepted_ms <= max(forgotten_ms, machine.wall_ms(now) - kept_ms) else "unknown"

    def id_of(self, job: Job, now: int) -> bytes:
        """The job's id, drawn when somebody first wants to know it."""
        if not job.id:
            self.draw_ids([job], now)
        return job.id

    def shown_id(self, job: Job, now: int) -> bytes:
        """The same for somebody who has looked at the job, and may ask for it by its id next."""
        job_id = self.id_of(job, now)
        if job.request is not None and self._jobs.get(job.request) is job:  # else nobody would take it out again
            self._by_id[job_id] = job
        return job_id

    def draw_ids(self, jobs: Iterable[Job], now: int) -> None:
        """Gives an id to each of these jobs that has none: UUIDv7, RFC 9562 section 5.7.

        Ids of one turn share 58 drawn bits and differ in a counter (section 6.2, method 1): an id is no secret.
        """
        if now != self._drawn_ns:
            self._drawn_ns, self._drawn = now, len(_TWO_BYTES)
        drawn, begin = self._drawn, self._drawn_at
        for job in jobs:
            if not job.id:
                if drawn == len(_TWO_BYTES):
                    bits = next(self._machine.tokens)
                    moment = self._machine.wall_ms(now).to_bytes(6, "big")
                    begin = self._drawn_at = moment + _VERSION[bits[0]] + bits[1:2] + _VARIANT[bits[2]] + bits[3:8]
                    drawn = 0
                job.id = begin + _TWO_BYTES[drawn]
                drawn += 1
        self._drawn = drawn

    # --- Outcomes

    def ended(self, jobs: list[Job]) -> None:
        """Jobs that came natively are final: their askers are to be told, and the outcomes are kept for them."""
        self.open -= len(jobs)
        told, keys = self._machine.told, bool(self.uniques.live)
        for job in jobs:
            if keys and job.rules is not None:
                self._key_is_free(job)
            for asker, name, _ in job.askers:
                if asker.gone:
                    job.orphans += 1
                else:
                    told.append((asker, name, job))
                    job.unreceived += 1
                if asker.watched:
                    asker.watched.discard(job)
            job.askers = ()
        self._keep(jobs)

    def _keep(self, jobs: list[Job]) -> None:
        forgotten = self.outcomes.keep(jobs)
        if forgotten:
            self._machine.counters.outcomes_forgotten += len(forgotten)
            self._machine.notices.append((Event.OUTCOME_FORGOTTEN, {"count": len(forgotten)}))
        for evicted in forgotten:
            self._forgets = True
            self._forgotten_of(evicted)
            self._forget(evicted)

    def _forgotten_of(self, job: Job) -> None:
        """The outcome of this job had to go: what was asked until then may have been it."""
        asked_ns = self.uniques.asked_last_ns(job)
        if asked_ns > self._forgotten_ns:
            self._forgotten_ns = asked_ns
            self._machine.evicted(asked_ns)

    def restore_forgotten(self, accepted_ns: int) -> None:
        """An earlier broker has forgotten the outcome of a job that was accepted then."""
        self._forgotten_ns = max(self._forgotten_ns, accepted_ns)

    def restore_outcomes(self, jobs: list[Job]) -> None:
        """Final jobs that came out of a store, the oldest first, whose outcomes are owed."""
        for job in jobs:
            self.restore(job)
        self._keep(jobs)

    def restore_all(self, jobs: list[Job]) -> None:
        """The same for open jobs without rules of their own."""
        if self.uniques.guests:
            for job in jobs:
                self.restore(job)
            return
        known, by_id = self._jobs, self._by_id
        for job in jobs:
            if job.request is not None:
                known[job.request] = job
            if job.id:
                by_id[job.id] = job
        self.open += len(jobs)

    def restore(self, job: Job) -> None:
        """A job that came out of a store can be asked about."""
        if job.request is not None:
            for key in self.uniques.requests_of(job):
                self._jobs[key] = job
            if job.state in FINAL and (job in self.uniques.guests or held_by(job) in self.uniques.windows):
                job.orphans += 1  # who of them has received it is not known any more
            if job.id:
                self._by_id[job.id] = job
            if job.state not in FINAL:
                self.open += 1
                self._holds(job)

    def not_told(self, asker: Asker, job: Job) -> None:
        """It did not get there, and never will: no receipt counts for it. The outcome stays kept."""
        unreceived = asker.unreceived
        for index in range(len(unreceived) - 1, -1, -1):  # from the end, where those stand that did not get there
            if unreceived[index][1] is job:  # else its asker has gone meanwhile, and it is settled
                del unreceived[index]
                self.went_without(job)
                break

    def went_without(self, job: Job) -> None:
        """Somebody who was to be told has not received it: it is kept, whoever else receives it, for who asks again."""
        job.unreceived -= 1
        job.orphans += 1

    def look_at(self, asker: Asker) -> None:
        """A client that is told much and receives nothing: what was forgotten of it needs no receipt, and what it may
        yet receive has a bound, above which the oldest outcomes are kept without waiting for it.
        """
        if self._forgets:
            live: deque[tuple[int, Job]] = deque()
            for entry in asker.unreceived:
                if entry[1] in self.outcomes:
                    live.append(entry)
                else:
                    entry[1].unreceived -= 1
            asker.unreceived = live
        while len(asker.unreceived) > self._limits.outcomes_max:
            self.went_without(asker.unreceived.popleft()[1])
        asker.look_at = asker.told + max(UNRECEIVED_LOOK, len(asker.unreceived) if self._forgets else 0)

    def received(self, asker: Asker, number: int) -> None:
        """A client says that it has all outcomes up to this number."""
        if number <= asker.received:
            return
        asker.received = asker.receipt = number
        unreceived, outcomes, machine = asker.unreceived, self.outcomes, self._machine
        known, by_request_only, usual = self._jobs, not (self._by_id or self.uniques.guests), machine.terms
        before, count, size = len(unreceived), 0, 0
        while unreceived and unreceived[0][0] <= number:
            job = unreceived.popleft()[1]
            job.unreceived = left = job.unreceived - 1
            if left > 0 or job.orphans:
                continue
            held = job.kept_bytes
            if job.terms is not usual and job.terms.keep_ns:
                self._keep_on(job)
            elif held:
                job.kept_bytes = 0
                job.answer = b""
                size += held
                count += 1
                if not by_request_only:
                    self._forget(job)
                    continue
                del known[job.request]  # type: ignore[arg-type]  # that is how it was told
                if machine.keeps_records:
                    machine.forgotten(job)
        outcomes.left(count, size)
        machine.counters.outcomes_received += before - len(unreceived)

    def _keep_on(self, job: Job) -> None:
        """It was received, and its client wants it kept for some time."""
        heapq.heappush(self._until, (job.ended_ns + job.terms.keep_ns, job.number, job))
        if len(self._until) > 2 * len(self.outcomes) + STALE_WORTH_REBUILDING:  # of those that had to go before
            kept = {it[1]: it for it in self._until if it[2] in self.outcomes}
            self._until = sorted(kept.values())

    def _received(self, job: Job) -> None:
        if self.outcomes.drop((job,)):
            self._forget(job)

    def _forget(self, job: Job) -> None:
        """The outcome is not kept any more."""
        if job.request is not None:
            self._jobs.pop(job.request, None)
        if self._by_id and job.id:
            self._by_id.pop(job.id, None)
        for key in self.uniques.guests.pop(job, ()) if self.uniques.guests else ():
            self._jobs.pop(key, None)
        if self._machine.keeps_records:
            self._machine.forgotten(job)

    # --- Those who go

    def lost(self, peer: Peer, now: int) -> None:
        """A connection of clients has gone. What they said before it went may still lie unread: they ask for nothing
        by it any more, but a receipt in it counts, until it is known that all has been heard.
        """
        for asker in self.askers.lost(peer):
            self._leaves(asker, now)

    def last_words(self, peer: Peer, path: Path, number: int) -> None:
        """Somebody said this, and then the connection went."""
        asker = self.askers.parting.get(peer, {}).get(path)
        if asker is not None:
            self.received(asker, number)

    def last_words_heard(self, peers: Iterable[Peer]) -> None:
        """All that these connections have brought has been heard: what they have not receipted they have not received,
        as far as anybody will ever know.
        """
        for peer in peers:
            for asker in self.askers.parted(peer):
                self._went_without_all(asker)

    def _gone(self, asker: Asker, now: int) -> None:
        """Nobody will speak there any more, and all that was said has been heard."""
        self._leaves(asker, now)
        self._went_without_all(asker)

    def _went_without_all(self, asker: Asker) -> None:
        for _, job in asker.unreceived:
            self.went_without(job)
        asker.unreceived.clear()

    def _leaves(self, asker: Asker, now: int) -> None:
        asker.gone, asker.gone_ns = True, now
        for job in asker.watched:
            heapq.heappush(self._deserted, (now + self._limits.asker_grace_ns, job.number, job))
        asker.watched.clear()

    def expire(self, now: int) -> None:
        """Ends what nobody waits for, and forgets outcomes that were kept for long enough; some at a time."""
        steps_max = self._limits.turn_steps_max
        again: list[Job] = []
        while self._deserted and self._deserted[0][0] <= now and steps_max > 0:
            steps_max -= 1
            _, _, job = heapq.heappop(self._deserted)
            alone = (
                job.state not in FINAL
                and all(asker.gone and asker.gone_ns + self._limits.asker_grace_ns <= now for asker, _, _ in job.askers)
                and job.terms.ends_alone
                and not self.uniques.finishes(job)
            )
            if alone and not self._machine.desert(job, now):
                again.append(job)
        for job in again:
            heapq.heappush(self._deserted, (now + max(self._limits.asker_grace_ns, LOOK_NS_MIN), job.number, job))
        while self._until and self._until[0][0] <= now and steps_max > 0:
            steps_max -= 1
            _, _, job = heapq.heappop(self._until)
            if job.unreceived <= 0 and not job.orphans:
                self._received(job)
        for held, window in self.uniques.take_ended(now, steps_max):
            self._machine.window_changed(held, window._replace(until_ns=0))
        for job in self.outcomes.take_aged(now, steps_max):
            self._forgets = self._aged = True
            if job in self.uniques.guests and self.uniques.asked_last_ns(job) > job.ended_ns:
                self._forgotten_of(job)  # who joined after its end may be too young for its age to show it
            self._forget(job)

    def due(self) -> int:
        """When `expire` next has something to do."""
        due = min(self.outcomes.due(), self.uniques.due())
        if self._deserted:
            due = min(due, self._deserted[0][0])
        if self._until:
            due = min(due, self._until[0][0])
        return due


def closed(name: str, settings: QueueSettings, open_jobs: int) -> tuple[str, str] | None:
    """Why a queue with these settings and so many open jobs takes no more, as (code, text); None where it does."""
    if settings.intake_paused:
        return QUEUE_PAUSED, f"the queue {name!r} takes no jobs: it was paused by {settings.intake_by or 'somebody'}"
    if settings.jobs_max is not None and open_jobs >= settings.jobs_max:
        return QUEUE_FULL, f"the queue {name!r} has as many jobs as it may have: {settings.jobs_max} (jobs_max)"
    return None


def _waits(other: Job | Window) -> bool:
    """Whether it is a job that no worker has."""
    return isinstance(other, Job) and other.state not in (HELD, RUNNING)


def _name_of(key: Key) -> bytes:
    """What its client calls a request."""
    return key if isinstance(key, bytes) else key[1]


_VERSION: Final = tuple(bytes([0x70 | drawn & 0x0F]) for drawn in range(256))
_TWO_BYTES: Final = tuple(count.to_bytes(2, "big") for count in range(1 << 16))
_VARIANT: Final = tuple(bytes([0x80 | drawn & 0x3F]) for drawn in range(256))
