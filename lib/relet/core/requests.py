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
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from relet.core.askers import UNRECEIVED_LOOK, Asker, Askers
from relet.core.job import FINAL, Job, State, Terms
from relet.core.lease import NEVER
from relet.core.outcomes import Outcomes
from relet.core.queue import Queue
from relet.events import Event
from relet.messages import (
    WRONG_ENDPOINT,
    Admitted,
    Body,
    ClientHello,
    Error,
    Inquire,
    JobState,
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

REQUEST_ID_BYTES_MIN: Final = 16
REQUEST_ID_BYTES_MAX: Final = 64
"""Bytes of a request id: so few cannot be met by chance, so many hold any hash that is in use."""
QUEUE_CHARACTERS_MAX: Final = 200
"""Characters of a queue's name."""
BUSY_RETRY_MS: Final = 100
"""When to ask again what was refused because a limit is reached: jobs end all the time ..."""
DRAINING_RETRY_MS: Final = 1_000
"""... and because the broker ends: another one takes a while."""
TRANSIT_NS: Final = 10_000_000_000
"""By how much a request that is asked again may have been longer on its way than the first time: a connection that is
cut and comes back delivers what was sent into it."""
LOOK_NS_MIN: Final = 1_000_000
"""What cannot end yet is looked at again after this long at the earliest."""
TERMS_MAX: Final = 1_000
"""Different terms remembered, so that the jobs of one client share theirs."""
FEATURES: Final = ("follows",)
_STALE_WORTH_REBUILDING: Final = 64
"""Below this a rebuild costs more than the entries it frees."""

BUSY: Final = "busy"
DRAINING: Final = "draining"
TOO_LARGE: Final = "too_large"
BAD_ID: Final = "bad_id"
BAD_REQUEST: Final = "bad_request"
CONFLICT: Final = "conflict"
EXPIRED: Final = "expired"
TOO_MANY_ASKERS: Final = "too_many_askers"

_FOR_CLIENTS: Final = (
    "this is the endpoint for clients, and a client's hello has no incarnation: connect workers to the endpoint for"
    " workers (WORKERS, the second one of broker.py)"
)


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
        self._terms: dict[tuple[int | None, int | None, str, str, int], Terms] = {}
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
        if said.jobs:
            admitted = self._admit_many(asker, said, body, now)
        else:
            admission = self._admit(asker, said, said.id, body, now)
            admitted = [] if admission is None else [admission]
        if said.ack or any(each.code for each in admitted):
            self._machine.promised.append((asker, Submitted(jobs=tuple(admitted)), ()))
        self._accept(now)

    def submit_plain(self, batch: Iterable[PlainSubmitted], now: int) -> list[PlainSubmitted]:
        """The same for what is nearly always submitted: one job on the terms of the broker, of whose acceptance nobody
        wants to hear. Returns the messages of those who have said no hello.

        Receipts are taken last: who asks again for what it has in the same breath joins the job once more.
        """
        machine, limits, receipts = self._machine, self._limits, self._receipts
        known, accepted, queue, terms = self._jobs, self._accepted, machine.queue, machine.terms
        room = 0 if machine.draining else limits.jobs_max - machine.open
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
        self._accept(now)
        for asker in receipts:
            self.received(asker, asker.receipt)
        receipts.clear()
        return strange

    def _accept(self, now: int) -> None:
        """The jobs of a batch are the machine's."""
        accepted = self._accepted
        if accepted:
            self.open += len(accepted)
            self._machine.accept(accepted, self._accepted_bytes, now)
            self._accepted, self._accepted_bytes = [], 0
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
            code, text = BAD_REQUEST, f"at most {limits.ids_per_message_max} jobs in a message (ids_per_message_max)"
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
        plain = said.run_ms is None and said.silence_ms is None and said.late == "any" and not said.keep_ms
        terms = machine.terms if plain and said.gone == "finish" else self._terms_of(said)
        refused = self._refusal(said, name, terms, headers_bytes, now)
        if refused is None and self._is_full(1, held):
            refused = BUSY, self._full()
        if refused is not None or terms is None:
            machine.counters.requests_refused += 1
            code, text = refused or (BAD_REQUEST, "")
            retry_ms = {BUSY: BUSY_RETRY_MS, DRAINING: DRAINING_RETRY_MS}.get(code, 0)
            return Admitted(id=name[:REQUEST_ID_BYTES_MAX], code=code, text=text, retry_ms=retry_ms)
        number = machine.number + len(self._accepted) + 1
        job = Job(number, None, b"", body, now, machine.queues.named(said.queue), terms, key, (), size, headers)
        if said.age_ms:
            job.again = not machine.keeps_records and now - said.age_ms * 1_000_000 < machine.began_ns
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
        return Admitted(id=name, job=job_id, position=self._position(job))

    def _position(self, job: Job) -> int:
        """How many jobs wait before the one that was accepted last."""
        waiting = self._waiting
        for each in self._accepted[self._counted :]:
            waiting[each.queue] = waiting.get(each.queue, 0) + 1
        self._counted = len(self._accepted)
        return len(job.queue) + waiting[job.queue] - 1

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
        self, said: Submit, name: bytes, terms: Terms | None, headers_bytes: int, now: int
    ) -> tuple[str, str] | None:
        """Why a request cannot become a job; None where it can."""
        limits = self._limits
        if not REQUEST_ID_BYTES_MIN <= len(name) <= REQUEST_ID_BYTES_MAX:
            return BAD_ID, f"an id has {REQUEST_ID_BYTES_MIN} to {REQUEST_ID_BYTES_MAX} bytes, not {len(name)}"
        if self._machine.draining:
            return DRAINING, "the broker stops: ask again when it is back"
        if not 1 <= len(said.queue) <= QUEUE_CHARACTERS_MAX:
            return BAD_REQUEST, f"a queue's name has 1 to {QUEUE_CHARACTERS_MAX} characters, not {len(said.queue)}"
        if headers_bytes > limits.headers_bytes_max:
            text = f"the headers have {headers_bytes} bytes: at most {limits.headers_bytes_max} (headers_bytes_max)"
            return BAD_REQUEST, text
        if terms is None:
            run, keep = limits.run_ns_max // 1_000_000, limits.outcome_ns // 1_000_000
            return BAD_REQUEST, f"run_ms is 0 (no limit) to {run}, silence_ms 1 to {run}, keep_ms 0 to {keep}"
        if said.age_ms:
            asked_ns = now - said.age_ms * 1_000_000
            if said.age_ms < 0 or now - asked_ns > limits.outcome_ns or asked_ns <= self._forgotten_ns + TRANSIT_NS:
                return EXPIRED, "this was asked so long ago that its outcome may have been forgotten; ask anew"
        return None

    def _terms_of(self, said: Submit) -> Terms | None:
        """What a request asks for beyond the rule; None where that cannot be."""
        limits = self._limits
        key = (said.run_ms, said.silence_ms, said.late, said.gone, said.keep_ms)
        terms = self._terms.get(key)
        if terms is None:
            run_max_ms = limits.run_ns_max // 1_000_000
            run_ms = 1 if said.run_ms is None else said.run_ms
            silence_ms = 1 if said.silence_ms is None else said.silence_ms
            keeps = 0 <= said.keep_ms <= limits.outcome_ns // 1_000_000
            if not (0 <= run_ms <= run_max_ms and 1 <= silence_ms <= run_max_ms and keeps):
                return None
            run_ns = None if said.run_ms == 0 else run_ms * 1_000_000
            terms = Terms(
                run_ns=self._machine.timeout_ns if said.run_ms is None else run_ns,
                silence_ns=None if said.silence_ms is None else silence_ms * 1_000_000,
                late_any=said.late == "any",
                ends_alone=said.gone == "cancel",
                keep_ns=said.keep_ms * 1_000_000,
            )
            if len(self._terms) >= TERMS_MAX:
                self._terms.clear()
            self._terms[key] = terms
        return terms

    def _join(self, asker: Asker, said: Submit, job: Job, name: bytes, body: Body, now: int) -> Admitted | None:
        """The request is known: who asks again is told the outcome of its job."""
        machine = self._machine
        code = text = ""
        if job.queue.name != said.queue or job.size != body_bytes(body):
            code = CONFLICT
            text = f"this id belongs to a job of {job.size} bytes in queue {job.queue.name!r}: draw another id"
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

    def _attach(self, asker: Asker, job: Job, name: bytes, *, follows: bool) -> bool:
        """Who asks is owed the outcome: now where there is one. False: too many are owed it already."""
        if job.state in FINAL:
            if self.askers.parting:  # one of them may be who comes back here: what it was told it has not received
                self.last_words_heard(list(self.askers.parting))
            self._machine.told.append((asker, name, job))
            job.unreceived += 1
            job.orphans -= job.orphans > 0  # most likely the one who had gone
            return True
        others = [it for it in job.askers if not (it[0] is asker and it[1] == name)]
        gone = next((it for it in others if it[0].gone), None)
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
        principal = asker.peer.principal
        name = said.id or said.job
        if not name:
            text = "an inquiry names a request in `id`, or a job in `job`"
            machine.said.append((asker, Error(code=BAD_REQUEST, text=text, of="inquire"), ()))
            return
        job = self._jobs.get(self._key(asker, said.id)) if said.id else self._by_id.get(said.job)
        if job is not None and (job.request[0] if type(job.request) is tuple else "") != principal:
            job = None
        if job is None:
            # Of an id that nobody can date it is not known whether its outcome was one of those forgotten.
            may_have_been = self._forgotten_ns > -NEVER or self._aged
            state = ("expired" if may_have_been else "unknown") if said.id else self._age_of(said.job, now)
            answer = JobState(id=said.id, job=said.job, state=state)
        else:
            if said.wait and not self._attach(asker, job, name, follows=False):
                text = f"{self._limits.askers_per_job_max} wait for this job already"
                machine.promised.append((asker, Error(code=TOO_MANY_ASKERS, text=text, of="inquire", id=name), ()))
                return
            if said.wait and job.state in FINAL:
                return
            word = State(job.state).name.lower()
            answer = JobState(id=said.id, job=said.job or job.id, state=word, attempts=job.attempts, reason=job.reason)
        machine.promised.append((asker, answer, ()))

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
        told = self._machine.told
        for job in jobs:
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
            if evicted.accepted_ns > self._forgotten_ns:
                self._forgotten_ns = evicted.accepted_ns
                self._machine.evicted(evicted)
            self._forget(evicted)

    def restore_forgotten(self, accepted_ns: int) -> None:
        """An earlier broker has forgotten the outcome of a job that was accepted then."""
        self._forgotten_ns = max(self._forgotten_ns, accepted_ns)

    def restore_outcomes(self, jobs: list[Job]) -> None:
        """Final jobs that came out of a store, the oldest first, whose outcomes are owed."""
        for job in jobs:
            self.restore(job)
        self._keep(jobs)

    def restore(self, job: Job) -> None:
        """A job that came out of a store can be asked about."""
        if job.request is not None:
            self._jobs[job.request] = job
            if job.id:
                self._by_id[job.id] = job
            if job.state not in FINAL:
                self.open += 1

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
        known, by_request_only = self._jobs, not (machine.keeps_records or self._by_id)
        before, count, size = len(unreceived), 0, 0
        while unreceived and unreceived[0][0] <= number:
            job = unreceived.popleft()[1]
            job.unreceived = left = job.unreceived - 1
            if left > 0 or job.orphans:
                continue
            held = job.kept_bytes
            if job.terms.keep_ns:
                self._keep_on(job)
            elif held:
                job.kept_bytes = 0
                job.answer = b""
                size += held
                count += 1
                if by_request_only:
                    del known[job.request]  # type: ignore[arg-type]  # that is how it was told
                else:
                    self._forget(job)
        outcomes.left(count, size)
        machine.counters.outcomes_received += before - len(unreceived)

    def _keep_on(self, job: Job) -> None:
        """It was received, and its client wants it kept for some time."""
        heapq.heappush(self._until, (job.ended_ns + job.terms.keep_ns, job.number, job))
        if len(self._until) > 2 * len(self.outcomes) + _STALE_WORTH_REBUILDING:  # of those that had to go before
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
            alone = job.state not in FINAL and all(
                asker.gone and asker.gone_ns + self._limits.asker_grace_ns <= now for asker, _, _ in job.askers
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
        for job in self.outcomes.take_aged(now, steps_max):
            self._forgets = self._aged = True
            self._forget(job)

    def due(self) -> int:
        """When `expire` next has something to do."""
        due = self.outcomes.due()
        if self._deserted:
            due = min(due, self._deserted[0][0])
        if self._until:
            due = min(due, self._until[0][0])
        return due


_VERSION: Final = tuple(bytes([0x70 | drawn & 0x0F]) for drawn in range(256))
_TWO_BYTES: Final = tuple(count.to_bytes(2, "big") for count in range(1 << 16))
_VARIANT: Final = tuple(bytes([0x80 | drawn & 0x3F]) for drawn in range(256))
