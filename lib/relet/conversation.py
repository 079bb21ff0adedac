"""The native half of the loop: what native peers say goes to the machine, and what it decides goes to them.

Messages of one kind that come one after the other are one batch for the machine; most are `complete` and `submit`. What
cannot be read is answered with a code. Nothing is decided here.

To workers everything is sent at once: what they asked for bounds it. To clients everything goes through the outbox,
because they may not read. What promises something - outcomes, acknowledgements - is given to `Conversation` by the loop
only when it is safe.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from relet.core import timing
from relet.core.askers import Asker
from relet.core.effects import AtDesk, Route, Saying, Told
from relet.core.job import COMPLETED, HELD, Job, State
from relet.core.lease import NEVER
from relet.core.machine import Machine
from relet.core.queue import Queue
from relet.core.requests import BAD_REQUEST
from relet.core.roster import Session
from relet.core.terms import Terms
from relet.dialects import native
from relet.dialects.plain_headers import (
    ATTEMPT,
    ATTEMPT_MAX,
    ID_BYTES,
    JOB,
    NUMBER_MAX,
    OUTCOME,
    SEQ,
    N,
    agreed_of,
    pack_dispatch,
    pack_outcome,
)
from relet.events import Event
from relet.messages import (
    NO_SESSION,
    SIGNATURE,
    TOO_LARGE,
    TOO_MANY_PEERS,
    VERSION,
    Ack,
    Admitted,
    Body,
    CancelJob,
    ClientHello,
    Complete,
    Dispatch,
    Entry,
    Error,
    Extend,
    Fail,
    FromClient,
    FromWorker,
    Goodbye,
    HandBack,
    Heartbeat,
    Inquire,
    JobState,
    NativeRun,
    Outcome,
    Partial,
    Path,
    Peer,
    PlainCompleted,
    PlainSubmitted,
    Progress,
    Refused,
    Said,
    Submit,
    Submitted,
    WorkerHello,
    headers_held,
)
from relet.transport.outbox import Outbox

ACK_NS_MAX: Final = 20_000_000
"""How long an acknowledgement waits for a job that carries it: each message of its own wakes a worker up."""
AGREED_MAX: Final = 10_000
"""Queues and terms of which is remembered how headers of their jobs read: about 200 bytes each."""
_About: TypeAlias = "tuple[str, int | None, int | None, int | None]"
"""(name of the queue, tries, run limit, limit of silence; nanoseconds)."""
_ANSWERS: Final = (Submitted, JobState, Error)
"""What a client waits for, beside outcomes."""
_SAY_HELLO: Final = "nobody has said hello on this connection, or was silent for too long since: say hello first"

S = TypeVar("S", FromWorker, FromClient)

Message = tuple[Any, ...]
"""`(peer, path, frame, ...)`, as the pump sends it."""


class RouterLike(Protocol):
    """What the loop asks of the clients' and the workers' endpoint (`transport.port.RouterPort`)."""

    receive: Callable[[int, int], list[tuple[Peer, Path, Body]]]
    send: Callable[[list[tuple[Any, ...]]], list[tuple[int, int]]]
    handshakes_failed: int
    accepts_failed: int

    def take_native(self) -> list[NativeRun]:
        """The native messages that `receive` has read since the last call."""

    def take_refused(self) -> list[Refused]:
        """What was read since the last call and could not be taken."""

    def take_lost(self) -> list[Peer]:
        """The peers that have gone since the last call."""

    def forget(self, peer: Peer) -> None:
        """`peer` turned out to be gone."""


class Conversation:
    """The native sessions of one broker."""

    def __init__(
        self,
        machine: Machine,
        clients: RouterLike,
        workers: RouterLike,
        outbox: Outbox,
        admins: RouterLike | None = None,
    ) -> None:
        self._machine = machine
        self._clients = clients
        self._workers = workers
        self._admins = admins
        self._outbox = outbox
        self.behind: list[NativeRun] = []
        """What clients have said and the next turn goes on with: a message of many jobs is much work."""
        self._acks: dict[Session, None] = {}
        """Sessions to which a safe number is to be told."""
        self._ack_at = NEVER
        """When that must be, though no job carries it."""
        self._agreed: dict[_About, tuple[bytes, bytes]] = {}
        """What headers of jobs have in common (`plain_headers.agreed_of`)."""
        self._unassured: list[Asker] = []
        """Clients that are still to be told that the broker is there."""

    # --- In

    def hear_workers(self, now: int) -> int:
        """What native workers have said; how many messages it was."""
        count = 0
        plain: list[PlainCompleted] = []
        for run in self._workers.take_native():
            if native.is_completed(run):
                plain += run
                count += len(run)
                continue
            count += 1 if type(run) is tuple else len(run)
            for peer, path, said, body in self._read(run, native.from_worker, worker=True):
                if type(said) is Complete and said.headers is None:
                    plain.append((peer, path, said.token, said.n, said.credit, said.started, body))
                    continue
                if plain:
                    self._completed(plain, now)
                    plain = []
                self._hear_worker(peer, path, said, body, now)
        if plain:
            self._completed(plain, now)
        return count

    def _completed(self, batch: list[PlainCompleted], now: int) -> None:
        for peer, path, token, number, credit, started, body in self._machine.reports.completed(batch, now):
            said = Complete(token=token, n=number, credit=credit, started=started)
            self._hear_worker(peer, path, said, body, now)  # who has said no hello

    def _hear_worker(self, peer: Peer, path: Path, said: FromWorker, body: Body, now: int) -> None:
        reports = self._machine.reports
        session = reports.session_on(peer, path)
        if isinstance(said, WorkerHello):
            if peer.routing_id:
                self._answer_hello(Route(peer, path, worker=True), reports.hello(peer, path, said, now))
            return
        if session is None:
            if peer.routing_id:
                self._refuse(Route(peer, path, worker=True), _no_session(said))
            elif isinstance(said, Complete):
                self._last_words(said, body, now)
            return
        if isinstance(said, Goodbye):
            reports.goodbye(session, now)
            return
        match said:
            case Complete():
                reports.completed_with_headers(session, said, body, now)
                return
            case Fail():
                reports.failed(session, said, now)
            case HandBack():
                reports.handed_back(session, said, now)
            case Partial():
                reports.partial(session, said, body, now)
            case Progress():
                reports.progress(session, said, now)
            case Extend():
                reports.extended(session, said, now)
            case Heartbeat():
                self._machine.said.append((session, Heartbeat(), ()))
        reports.heard(session, said.credit, said.started, now)

    def _last_words(self, said: Complete, body: Body, now: int) -> None:
        """An answer of a connection that has gone: who said it is not known any more, what it proves is good."""
        machine = self._machine
        job = machine.by_token.get(said.token) or machine.recollected(said.token)
        if job is not None and headers_held(said.headers) <= machine.limits.headers_bytes_max:
            job.answer_headers = said.headers
        machine.complete([(said.token, body)], now)

    def hear_clients(self, now: int) -> int:
        """What native clients have said; how many messages it was."""
        batch = self.behind or self._clients.take_native()
        if not batch:
            return 0
        count = 0
        plain: list[PlainSubmitted] = []
        jobs_left = self._machine.limits.turn_messages_max
        runs = iter(batch)
        for run in runs:
            if native.is_submitted(run):
                plain += run
                count += len(run)
                continue
            if native.is_formed(run):
                if plain:
                    self._submitted(plain, now)
                    plain = []
                count += len(run)
                strange = self._machine.requests.submit_formed(run, native.form_of, now)
                for message in self._read(strange, native.from_client, worker=False) if strange else ():
                    self._hear_client(*message, now)
                continue
            count += 1 if type(run) is tuple else len(run)
            for peer, path, said, body in self._read(run, native.from_client, worker=False):
                if type(said) is Submit and said == Submit(id=said.id, received=said.received):
                    plain.append((peer, path, said.id, said.received, body))
                    continue
                if plain:
                    self._submitted(plain, now)
                    plain = []
                jobs_left -= self._hear_client(peer, path, said, body, now)
            if jobs_left <= 0:
                break
        if plain:
            self._submitted(plain, now)
        self.behind = list(runs)
        return count

    def _submitted(self, batch: list[PlainSubmitted], now: int) -> None:
        for peer, path, name, received, body in self._machine.requests.submit_plain(batch, now):
            self._hear_client(peer, path, Submit(id=name, received=received), body, now)  # who has said no hello

    def _hear_client(self, peer: Peer, path: Path, said: FromClient, body: Body, now: int) -> int:
        """Returns how many jobs were in a message of many."""
        requests = self._machine.requests
        asker = requests.askers.on(peer, path)
        if isinstance(said, Submit) and asker is not None:
            requests.submit(asker, said, body, now)
            return len(said.jobs)
        if not peer.routing_id:  # who is gone asks for nothing, and has received what it said
            if not isinstance(said, ClientHello) and said.received:
                requests.last_words(peer, path, said.received)
            return 0
        if isinstance(said, ClientHello):
            self._answer_hello(Route(peer, path, worker=False), requests.hello(peer, path, said, now))
        elif asker is None:
            self._refuse(Route(peer, path, worker=False), _no_session(said))
        elif isinstance(said, Inquire):
            requests.inquire(asker, said, now)
        elif isinstance(said, CancelJob):
            requests.cancel(asker, said, now)
        elif isinstance(said, Heartbeat):
            if said.received:
                requests.received(asker, said.received)
            self._machine.said.append((asker, Heartbeat(told=asker.told), ()))
        return 0

    def _read(
        self, run: NativeRun, decode: Callable[[int, bytes], S], *, worker: bool
    ) -> Iterator[tuple[Peer, Path, S, Body]]:
        """What was said, in order; what cannot be read is refused."""
        for peer, path, version, header, body in native.messages_of(run):
            try:
                said = decode(version, header)
            except native.BadMessage as bad:
                self._misread(Route(peer, path, worker=worker), bad)
                continue
            yield peer, path, said, body

    def _answer_hello(self, route: Route, answer: Said) -> None:
        if isinstance(answer, Error):
            self._refuse(route, answer)
        else:
            self._machine.said.append((route, answer, ()))

    def _misread(self, route: Route, bad: native.BadMessage) -> None:
        """It cannot be read as a whole. Who wants jobs done hears which of them will not be, or would wait for ever."""
        if not bad.requests:
            self._refuse(route, bad.error)
            return
        machine = self._machine
        names = bad.requests[: machine.limits.ids_per_message_max]
        machine.counters.requests_refused += len(names)
        if route.peer.routing_id:
            jobs = tuple(Admitted(id=name, code=BAD_REQUEST, text=bad.error.text) for name in names)
            machine.said.append((route, Submitted(jobs=jobs), ()))

    def _refuse(self, route: Route, error: Error) -> None:
        """A message that could not be taken; its sender is told."""
        machine = self._machine
        machine.counters.messages_refused += 1
        machine.notices.append((Event.MESSAGE_REFUSED, {"reason": error.code, "count": 1}))
        if route.peer.routing_id:
            machine.said.append((route, error, ()))

    def refuse(self, refused: Refused, now: int, *, worker: bool) -> None:
        """What the pump has read and could not take, in this dialect."""
        machine = self._machine
        route = Route(refused.peer, refused.path or b"", worker=worker)
        if refused.reason == TOO_MANY_PEERS:
            self._refuse(route, Error(code=TOO_MANY_PEERS, text="there are as many connections as may be"))
            return
        text = f"a message has at most {machine.limits.body_bytes_max} bytes and {machine.limits.frames_max} frames"
        try:
            said = (native.from_worker if worker else native.from_client)(refused.version, refused.header)
        except native.BadMessage:
            self._refuse(route, Error(code=TOO_LARGE, text=text))
            return
        if isinstance(said, Submit):
            names = [item.id for item in said.jobs] or [said.id]
            jobs = tuple(Admitted(id=name, code=TOO_LARGE, text=text) for name in names)
            machine.counters.requests_refused += len(jobs)
            machine.said.append((route, Submitted(jobs=jobs), ()))
            return
        session = machine.reports.session_on(refused.peer, refused.path or b"")
        if session is not None and isinstance(said, Complete | Partial):
            machine.reports.too_large(session, said, text, now)
        else:
            self._refuse(route, Error(code=TOO_LARGE, text=text, of=_word(said)))

    # --- Out

    def tell(self, told: Sequence[Told], now: int) -> None:
        """Outcomes that are safe."""
        messages: list[Message] = []
        subjects: list[Told] = []
        pack = pack_outcome
        for it in told:
            asker, name, job = it
            if asker.gone:
                self._machine.requests.went_without(job)
                continue
            asker.told = number = asker.told + 1
            asker.unreceived.append((number, job))
            if number > asker.look_at:
                self._machine.requests.look_at(asker)
            answer: Body = job.answer
            if job.state != COMPLETED:
                header, answer = native.encode(_failure(job, name, number)), ()
            elif (
                job.attempts == 1
                and job.answer_headers is None
                and job.headers is None
                and not job.again
                and len(name) == ID_BYTES
                and number <= NUMBER_MAX
            ):
                header = pack(OUTCOME, name, N, number)
            else:
                header = native.encode(_success(job, name, number))
            messages.append((asker.peer, asker.path, SIGNATURE, header, answer))
            subjects.append(it)
        sent = self._outbox.say(messages, subjects)
        if sent is None:
            return
        requests, counters = self._machine.requests, self._machine.counters
        self.untold(sent.unroutable)
        for asker, _, _ in sent.unroutable:
            if not asker.gone:
                self._clients.forget(asker.peer)
                requests.lost(asker.peer, now)
        dropped: list[Told] = sent.dropped
        for asker, _, job in reversed(dropped):  # the last one first: it stands last
            requests.not_told(asker, job)
        if dropped:
            jobs = [job.number for _, _, job in dropped[:10]]
            counters.reply_dropped += len(dropped)
            self._machine.notices.append((Event.REPLY_DROPPED, {"count": len(dropped), "jobs": jobs}))

    def untold(self, told: Sequence[Told]) -> None:
        """These outcomes did not get there, because their askers are gone; they stay kept for who asks again."""
        for asker, _, job in reversed(told):  # the last one first: it stands last
            self._machine.counters.replies_unroutable += 1
            self._machine.requests.not_told(asker, job)

    def say(self, sayings: Sequence[Saying]) -> None:
        """Everything else, in order."""
        to_workers: list[Message] = []
        to_clients: list[Message] = []
        to_admins: list[Message] = []
        machine = self._machine
        for to, said, body in sayings:
            message = (to.peer, to.path, SIGNATURE, native.encode(said), body)
            if isinstance(to, Asker):
                if not to.gone:
                    to_clients.append(message)
            elif isinstance(to, AtDesk):
                to_admins.append(message)
            elif isinstance(to, Route):
                (to_workers if to.worker else to_clients).append(message)
            else:
                to_workers.append(message)
        dropped = 0
        if to_workers:  # who cannot be reached is gone, and its connection will say so; who does not read hears no more
            dropped = sum(code == errno.EAGAIN for _, code in self._workers.send(to_workers))
        if to_admins and self._admins is not None:  # who does not read its answers does without them
            dropped += sum(code == errno.EAGAIN for _, code in self._admins.send(to_admins))
        if to_clients:
            lost = self._outbox.refuse(to_clients)
            dropped += len(lost)
            self._skip_numbers(lost)
        if dropped:
            machine.counters.reply_dropped += dropped
            machine.notices.append((Event.REPLY_DROPPED, {"count": dropped, "jobs": []}))

    def reassure(self, clients_max: int) -> bool:
        """Says to clients, some at a time, that the broker is there though it does not read them; whether all were
        told. Who does not read either is told nothing more.
        """
        left = self._unassured or list(self._machine.requests.askers)
        some, self._unassured = left[:clients_max], left[clients_max:]
        self.say([(asker, Heartbeat(told=asker.told), ()) for asker in some if asker.peer not in self._outbox])
        return not self._unassured

    def _skip_numbers(self, lost: Sequence[Message]) -> None:
        """These did not get to their clients. An answer among them becomes a number that no outcome has: who waits for
        it learns that it will not come, and asks again.
        """
        routes = self._machine.requests.askers.routes
        for peer, path, _, header, *_ in lost:
            asker = routes.get(peer, {}).get(path)
            if asker is not None and isinstance(native.to_client(VERSION, header), _ANSWERS):
                asker.told += 1

    def due(self) -> int:
        """When `flush_acks` has something to do."""
        return self._ack_at if self._acks else NEVER

    def acknowledge(self, acks: dict[Session, int], now: int) -> None:
        """Reports up to these numbers are safe; said with the next job, if there is one soon."""
        if not self._acks:
            self._ack_at = now + ACK_NS_MAX
        for session, number in acks.items():
            session.safe = max(session.safe, number)
            self._acks[session] = None

    def hand_over(self, jobs: list[Job], now: int) -> list[tuple[Job, int]]:
        """Sends jobs to their holders; returns those that could not be sent, and why (errno)."""
        messages: list[Message] = []
        machine, acks = self._machine, self._acks
        machine.requests.draw_ids(jobs, now)
        pack, agreed = pack_dispatch, self._agreed
        terms: Terms | None = None
        queue: Queue | None = None
        head = tail = b""
        ends = False
        for job in jobs:
            session = cast("Session", job.holder)
            attempt = job.attempts + 1 if job.state == HELD else job.attempts
            if job.terms is not terms or job.queue is not queue:
                terms, queue = job.terms, job.queue
                about = queue.name, terms.tries, terms.run_ns, terms.silence_ns
                head, tail = agreed.get(about) or self._agree(about)
                ends = terms.total_ns is not None
            if (
                ends
                or job.headers is not None
                or (acks and session in acks)
                or attempt > ATTEMPT_MAX
                or job.seq > NUMBER_MAX
                or len(job.token) != ID_BYTES
            ):
                header = self._dispatch(job, session, attempt, now)
            else:
                header = pack(head, job.token, SEQ, job.seq, JOB, job.id, ATTEMPT, attempt) + tail
            messages.append((session.peer, session.path, SIGNATURE, header, job.body))
        failures = self._workers.send(messages)
        for index, _ in failures:  # the acknowledgement did not get there either
            unsent: Any = jobs[index].holder
            acks[unsent] = None
        return [(jobs[index], code) for index, code in failures]

    def _dispatch(self, job: Job, session: Session, attempt: int, now: int) -> bytes:
        """The header of a job of which more is to be said than of most."""
        ack = 0
        if session in self._acks:
            del self._acks[session]
            ack = session.acked = session.safe
        terms, deadline_ms = job.terms, None
        if terms.total_ns is not None:
            deadline_ms = max(0, timing.ends_at(job) - now) // 1_000_000
        said = Dispatch(
            token=job.token,
            seq=job.seq,
            job=job.id,
            attempt=attempt,
            ack=ack,
            tries=terms.tries,
            queue=job.queue.name,
            run_ms=_ms(terms.run_ns),
            silence_ms=_ms(terms.silence_ns),
            headers=job.headers,
            deadline_ms=deadline_ms,
        )
        return native.encode(said)

    def _agree(self, about: _About) -> tuple[bytes, bytes]:
        """What the headers of jobs of this queue, on these terms, have in common."""
        if len(self._agreed) >= AGREED_MAX:
            self._agreed.clear()
        queue, tries, run_ns, silence_ns = about
        agreed = self._agreed[about] = agreed_of(queue, tries, _ms(run_ns), _ms(silence_ns))
        return agreed

    def flush_acks(self, now: int) -> None:
        """Acknowledgements that no job carried in time."""
        if not self._acks or now < self._ack_at:
            return
        sessions = [session for session in self._acks if not session.away and not session.lost]
        self._acks.clear()
        messages: list[Message] = []
        for session in sessions:
            session.acked = session.safe
            messages.append((session.peer, session.path, SIGNATURE, native.encode(Ack(ack=session.safe))))
        for index, code in self._workers.send(messages) if messages else ():
            if code == errno.EAGAIN:  # it does not read now
                self._acks[sessions[index]] = None
                self._ack_at = min(now, NEVER - ACK_NS_MAX) + ACK_NS_MAX


def _ms(ns: int | None) -> int | None:
    return None if ns is None else ns // 1_000_000


def _no_session(said: Said) -> Error:
    return Error(code=NO_SESSION, text=_SAY_HELLO, of=_word(said))


def _word(said: Any) -> str:
    """What a message calls itself."""
    return str(said.__struct_config__.tag)


def _headers(job: Job) -> dict[str, str] | None:
    """What goes with its outcome: what its worker gave, or else what its client did."""
    return job.headers if job.answer_headers is None else job.answer_headers


def _success(job: Job, name: bytes, number: int) -> Outcome:
    """The outcome of a job that was completed."""
    return Outcome(id=name, n=number, attempts=job.attempts, headers=_headers(job), again=job.again)


def _failure(job: Job, name: bytes, number: int) -> Outcome:
    """The outcome of a job that was not completed."""
    return Outcome(
        id=name,
        n=number,
        state=State(job.state).name.lower(),
        reason=job.reason,
        kind=job.kind,
        text=job.text,
        attempts=job.attempts,
        ledger=tuple(
            Entry(
                attempt=it.attempt,
                cause=it.cause,
                worker=it.worker,
                began_ms=it.began_ms,
                ended_ms=it.ended_ms,
                kind=it.kind,
                text=it.text,
            )
            for it in job.ledger
        ),
        headers=_headers(job),
        again=job.again,
        replaced_by=b"" if job.rules is None else job.rules.replaced_by,
        job=job.id,
    )
