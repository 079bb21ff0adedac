"""The loop: it turns the crank of the machine and carries out what it decides.

One turn: drain the sockets, answers first; apply who has gone, before what was received, of whose last words answers
and receipts still count; let the machine decide; give its records to the store; tell what belongs to turns that are
safe; hand jobs to asks. Everything that could block or fail here is an input to the machine instead: a hand-over that
cannot be sent gives its job back, an outcome that nobody can be told is kept.

`Server` knows no clock and no poll: `Broker` gives it the time, and so does the simulation, with other ports.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from relet.bodies import Bodies
from relet.conversation import Conversation, RouterLike
from relet.core.effects import Notice, Saying, Told
from relet.core.job import Job
from relet.core.lease import NEVER
from relet.core.machine import Machine
from relet.core.reports import HEARTBEATS_PER_LIVENESS
from relet.core.roster import Session
from relet.desk import Desk
from relet.dialects import d2010
from relet.events import Event
from relet.messages import Peer, Request
from relet.store import Store
from relet.transport.outbox import Outbox

COMMIT_BYTES_MAX: Final = 16 << 20
"""Bytes of new jobs that are gathered for one commit while another is under way: what is accepted is in memory until
its turn has left the store's log, and a row of SQLite has less than 1 GB."""
ANSWERS_BEHIND_NS_MAX: Final = 50_000_000
"""How long nothing expires because answers are still being drained. After that a flood of them is no excuse."""

OUTBOX_RETRY_NS_MIN: Final = 1_000_000
OUTBOX_RETRY_NS_MAX: Final = 50_000_000
"""How soon a client that did not read is tried again: soon, because libzmq says EAGAIN also when it has only not looked
yet, then half as often each time, because it tells of no single peer that it can be written to again."""


class Promises(NamedTuple):
    """What may leave the process once a turn is safe."""

    turn: int
    finished: list[Job]
    told: list[Told]
    sayings: list[Saying]
    acks: dict[Session, int]
    notices: list[Notice]


class PullLike(Protocol):
    """What the loop asks of the answers' endpoint (`transport.port.PullPort`)."""

    def receive(self, messages_max: int, bytes_max: int = ...) -> list[tuple[Any, ...]]:
        """Messages as tuples of frames."""


class Server:
    """A machine between three endpoints, and optionally a store, and a fourth endpoint for administrators."""

    def __init__(
        self,
        machine: Machine,
        clients: RouterLike,
        workers: RouterLike,
        answers: PullLike,
        publish: Callable[[Notice], None],
        store: Store | None = None,
        admins: RouterLike | None = None,
    ) -> None:
        self.machine = machine
        self.limits = limits = machine.limits
        self.draining = False
        """No new jobs: requests are answered with failure."""
        self.paused = False
        """A limit and its reserve are full: clients are not read."""
        self.gathers = False
        """As much as one commit may bring waits for the one before it: clients are not read meanwhile."""
        self.busy = False
        """Something is left to do now: the poll must not wait."""
        self.outbox = Outbox(
            clients.send, d2010.replies, bytes_max=limits.outbox_bytes_max, bytes_total_max=limits.outboxes_bytes_max
        )
        self._conversation = Conversation(machine, clients, workers, self.outbox, admins)
        self._bodies = Bodies(machine, store, publish)
        self._desk = None if admins is None else Desk(machine, admins, self._bodies, store)
        self._clients = clients
        self._workers = workers
        self._answers = answers
        self._publish = publish
        self._store = store
        self.leaves_jobs = store is not None and store.durable
        """Open jobs are there for the next broker when this one stops."""
        self._turn = 0 if store is None else store.settled()
        """Turns only grow, also from one life of the broker to the next: a store answers with their numbers."""
        self._appended = self._turn
        """The last turn that gave records to the store."""
        self._promoted = 0
        """The last turn whose bodies the machine knows to be readable."""
        if store is not None:
            machine.apart_bytes_min = store.apart_bytes_min
        self._was_busy = False
        """A commit was under way when the last turn looked."""
        self._unsettled: deque[Promises] = deque()
        """What speaks of turns that are not safe yet."""
        self._answers_behind_since: int | None = None
        self._requests_read_max = 0
        """How many messages of clients this turn would have read, had there been so many; 0: it read none."""
        self._retry_at = 0
        self._retry_ns = OUTBOX_RETRY_NS_MIN
        self._reassure_at = 0
        """When native clients are told next that the broker is there, should it not read them then."""

    def turn(self, now: int, wall: int = 0, clock: Callable[[], int] | None = None) -> None:
        """One turn at `now`, nanoseconds of lease time, which is `wall` nanoseconds since 1970 (UTC). `clock` is asked
        once more when all has been read: what came after `now` is younger than that, and no delay of it is early.
        """
        machine, limits, conversation = self.machine, self.limits, self._conversation
        self._turn += 1
        self.busy = False
        machine.wall_ns = wall - now
        machine.draining = self.draining
        if self._store is not None:
            machine.disk_full = self._store.full
        messages = self._answers.receive(limits.turn_messages_max)
        asks = self._workers.receive(limits.turn_messages_max, limits.jobs_bytes_max)
        parting = list(machine.requests.askers.parting)
        requests = self._receive_requests()
        machine.heard_ns = now if clock is None else clock()
        heard = conversation.hear_workers(now)  # the last words of those who are gone are good; their asks end below
        self._apply_losses(now)
        if messages:
            answers, refused = d2010.answers(messages, frames_max=limits.frames_max, bytes_max=limits.body_bytes_max)
            machine.complete(answers, now)
            if refused:
                machine.answers_refused(refused)
        heard_clients = len(requests)
        if requests and (machine.disk_full or machine.queue.settings is not None or machine.queues.only_these):
            requests = self._admitted(requests)
        if requests:
            machine.submit(requests, now)
        self._hear_clients(heard_clients, parting, now)
        if asks:
            machine.ask(asks, now)
        self._refuse(now)
        if self._desk is not None and self._desk.turn(now):
            self.busy = True
        if self._heard_all_answers(max(len(messages), len(asks) + heard), now):
            machine.expire(now)
        self._keep_and_tell(now)
        if not (self.draining and self.leaves_jobs):
            machine.match(now)
        if machine.dispatched or machine.handed:
            self._hand_over(now)
        conversation.flush_acks(now)
        if machine.said:  # what the match recalls
            self._say()
        if self.outbox and now >= self._retry_at:
            self._retry(now)
        if not self.hears_clients and now >= self._reassure_at:
            self._reassure(now)
        if self.paused and min(machine.room()) > 0:  # what ended in this turn made room: come back for the clients
            self.busy = True
        self._after_the_telling()

    def _after_the_telling(self) -> None:
        """What hand-overs have brought, those that were lost too often among them, is told in the next turn."""
        machine, store = self.machine, self._store
        if store is None:
            self.busy |= bool(machine.finished or machine.told)
            if machine.notices:
                self._publish_all(machine.notices)
                machine.notices = []
        elif (machine.journal.urgent or self._owes()) and not store.busy():
            self.busy = True

    @property
    def hears_clients(self) -> bool:
        """What they say is read as it comes."""
        return not (self.paused or self.gathers)

    def next_deadline(self) -> int | None:
        """When the next turn must come though nothing arrives; None when nothing is waited for."""
        due = self.machine.next_deadline()
        if self.outbox:
            due = self._retry_at if due is None else min(due, self._retry_at)
        if not self.hears_clients and self.machine.requests.askers.count:
            due = self._reassure_at if due is None else min(due, self._reassure_at)
        if self._store is not None and self.machine.journal.due_ns != NEVER and not self._store.busy():
            due = self.machine.journal.due_ns if due is None else min(due, self.machine.journal.due_ns)
        acks = self._conversation.due()
        if acks != NEVER:
            due = acks if due is None else min(due, acks)
        return due

    def has_settled(self) -> bool:
        """A commit is over that no turn has heard of."""
        return self._store is not None and self._was_busy and not self._store.busy()

    def may_end(self) -> bool:
        """While it drains: nothing is to be waited for. Jobs that are left to the next broker need not even begin."""
        machine = self.machine
        return not (any(worker.jobs for worker in machine.roster) if self.leaves_jobs else machine.open)

    def stop(self, now: int) -> bool:
        """Ends open jobs, some at a time, and tells their clients; or leaves them in the store. True when that is done,
        and no request unread.
        """
        machine = self.machine
        machine.draining = True
        left = self._refuse_new()
        if self.leaves_jobs:
            machine.journal.urgent |= bool(machine.journal)  # also what waits for others to go with
        else:
            left += machine.stop(now, self.limits.turn_steps_max)
        left += self._conversation.hear_clients(now)
        self._refuse(now)
        self._turn += 1
        self._keep_and_tell(now)
        self._conversation.flush_acks(NEVER)
        self._untold(self.outbox.retry())
        if self._store is not None and (machine.journal or self._unsettled or self._owes() or self._store.busy()):
            return False
        return left == 0 and not self._conversation.behind

    # --- In

    def _receive_requests(self) -> list[Request]:
        machine, limits = self.machine, self.limits
        self._requests_read_max = 0
        if self.draining:
            self._refuse_new()
            return []
        if self._conversation.behind:  # what was read before comes first
            return []
        jobs, size = machine.room()
        if jobs <= 0 or size <= 0:
            if not self.paused:
                self.paused = True
                self._notice_intake(Event.INTAKE_PAUSED)
            return []
        if self.paused:
            self.paused = False
            self._notice_intake(Event.INTAKE_RESUMED)
        size = min(size, COMMIT_BYTES_MAX - machine.untaken_bytes)
        self.gathers = size <= 0 and self._store is not None and self._store.busy()
        if self.gathers:
            return []
        self._requests_read_max = min(jobs, limits.turn_messages_max)
        return self._clients.receive(self._requests_read_max, max(1, size))

    def _hear_clients(self, heard: int, parting: list[Peer], now: int) -> None:
        """What native clients have said in this turn, in which `heard` messages of 2010 were read from the same
        endpoint. `parting`: whose connections went before all this was read.
        """
        heard += self._conversation.hear_clients(now)
        if self._conversation.behind:
            self.busy = True
        elif parting and heard < self._requests_read_max:
            self.machine.requests.last_words_heard(parting)

    def _admitted(self, requests: list[Request]) -> list[Request]:
        """Of requests of 2010 those that the disk and the settings of their queue admit; the others are answered with
        failure.
        """
        room, reason = self.machine.room_2010()
        admitted, refused = requests[:room], requests[room:]
        if refused:
            self._reply_dropped(len(self.outbox.refuse(d2010.refusals((peer, path) for peer, path, _ in refused))))
            self._refused_requests(len(refused), reason)
        return admitted

    def _refuse_new(self) -> int:
        """While the broker drains, requests are answered with failure at once. Returns how many there were."""
        self.paused = False
        self._requests_read_max = self.limits.turn_messages_max
        requests = self._clients.receive(self._requests_read_max, self.limits.jobs_bytes_max)
        if requests:
            self._reply_dropped(len(self.outbox.refuse(d2010.refusals((peer, path) for peer, path, _ in requests))))
            self._refused_requests(len(requests), "broker_draining")
        return len(requests)

    def _notice_intake(self, event: Event) -> None:
        machine = self.machine
        machine.notices.append((event, {"jobs_open": machine.open, "bytes_open": machine.open_bytes}))

    def _apply_losses(self, now: int) -> None:
        """The news of the monitors. What was asked for by those who have gone is void, whenever it is read."""
        for peer in self._workers.take_lost():
            self.machine.lost(peer, now)
        for peer in self._clients.take_lost():
            subjects = self.outbox.drop(peer)
            if subjects:
                self._untold(subjects)
            self.machine.requests.lost(peer, now)

    def _refuse(self, now: int) -> None:
        """What was read and could not be taken: answered where that can be, counted, told."""
        refused = self._clients.take_refused()
        for it in refused:
            if it.version:
                self._conversation.refuse(it, now, worker=False)
        refused = [it for it in refused if not it.version]
        if refused:
            answerable = [(it.peer, it.path) for it in refused if it.path is not None]
            self._reply_dropped(len(self.outbox.refuse(d2010.refusals(answerable))))
            for reason in dict.fromkeys(it.reason for it in refused):
                self._refused_requests(sum(it.reason == reason for it in refused), reason)
        refused = self._workers.take_refused()
        for it in refused:
            if it.version:
                self._conversation.refuse(it, now, worker=True)
        refused = [it for it in refused if not it.version]
        if refused:
            for reason in dict.fromkeys(it.reason for it in refused):
                self.machine.asks_refused(sum(it.reason == reason for it in refused), reason)

    def _refused_requests(self, count: int, reason: str) -> None:
        self.machine.counters.requests_refused += count
        self.machine.notices.append((Event.REQUEST_REFUSED, {"reason": reason, "count": count}))

    def _heard_all_answers(self, received: int, now: int) -> bool:
        """Nothing expires while the answer to it may lie unread, within `ANSWERS_BEHIND_NS_MAX`."""
        if received < self.limits.turn_messages_max:
            self._answers_behind_since = None
            return True
        self.busy = True
        if self._answers_behind_since is None:
            self._answers_behind_since = now
        return now - self._answers_behind_since > ANSWERS_BEHIND_NS_MAX

    # --- Out

    def _say(self) -> None:
        """What promises nothing, and waits for nothing."""
        said, self.machine.said = self.machine.said, []
        self._conversation.say(said)

    def _keep_and_tell(self, now: int) -> None:
        """Records to the store; then whatever speaks of safe turns leaves, in order."""
        machine, store = self.machine, self._store
        if machine.said:
            self._say()
        if store is None:
            if machine.finished:
                finished, machine.finished = machine.finished, []
                self._tell(finished)
            if machine.told or machine.promised or machine.acks:
                self._keep_promises(self._promises([]), now)
            return
        journal = machine.journal
        if not store.busy():  # else what happens meanwhile goes with the next commit
            if journal.urgent or now >= journal.due_ns:
                if machine.borrowed:
                    self._bodies.fetch_borrowed(now)
                store.append(self._turn, machine.take_records(self._turn))
                self._appended = self._turn
            notices, machine.notices = machine.notices, []
            if machine.finished or machine.told or machine.promised or machine.acks or notices:
                self._unsettled.append(self._promises(notices))
        for notice in store.take_notices():
            self._publish(notice)
        self._was_busy = store.busy()
        settled = store.settled()
        if settled >= self._appended:
            settled = self._turn
        machine.settled(settled)
        promoted = store.promoted()
        if promoted != self._promoted:
            self._promoted = promoted
            machine.promoted(promoted)
        while self._unsettled and self._unsettled[0].turn <= settled:
            promises = self._unsettled.popleft()
            self._keep_promises(promises, now)
            self._publish_all(promises.notices)

    def _owes(self) -> bool:
        """Something is to be told that no turn's promises hold yet."""
        machine = self.machine
        return bool(machine.finished or machine.told or machine.promised or machine.acks or machine.notices)

    def _promises(self, notices: list[Notice]) -> Promises:
        """Takes from the machine what speaks of this turn."""
        machine = self.machine
        promises = Promises(self._turn, machine.finished, machine.told, machine.promised, machine.acks, notices)
        machine.finished, machine.told, machine.promised, machine.acks = [], [], [], {}
        return promises

    def _keep_promises(self, promises: Promises, now: int) -> None:
        """The turn is safe."""
        conversation = self._conversation
        if promises.finished:
            self._tell(promises.finished)
        if promises.acks:
            conversation.acknowledge(promises.acks, now)
        if promises.sayings:
            conversation.say(promises.sayings)
        if promises.told:
            conversation.tell(promises.told, now)

    def _tell(self, finished: list[Job]) -> None:
        if self._store is not None:
            loaded = [job for job in finished if job.peer is None]
            if loaded:  # they come from an earlier life of the broker: nobody who asked is connected
                self.machine.untold(loaded)
                finished = [job for job in finished if job.peer is not None]
        sent = self.outbox.tell(finished)
        if sent is None:
            return
        if sent.unroutable:
            self.machine.untold(sent.unroutable)
            for job in sent.unroutable:
                if job.peer is not None:
                    self._clients.forget(job.peer)
        self.machine.dropped(sent.dropped)
        self._reply_dropped(len(sent.dropped), [job.number for job in sent.dropped[:10]])

    def _untold(self, subjects: list[Any]) -> None:
        """What waited in the outbox of somebody who has gone: jobs of 2010, and native outcomes."""
        self.machine.untold([it for it in subjects if isinstance(it, Job)])
        self._conversation.untold([it for it in subjects if not isinstance(it, Job)])

    def _reply_dropped(self, count: int, jobs: Sequence[int] = ()) -> None:
        if count:
            self.machine.counters.reply_dropped += count
            self.machine.notices.append((Event.REPLY_DROPPED, {"count": count, "jobs": list(jobs)}))

    def _hand_over(self, now: int) -> None:
        """Sends dispatched jobs. What cannot be sent goes back, its worker is asked no more, and others are tried."""
        machine, workers = self.machine, self._workers
        while machine.dispatched or machine.handed:
            failed: list[tuple[Job, int]] = []
            lent = self._bodies.lent
            if machine.dispatched:
                dispatched, machine.dispatched = machine.dispatched, []
                for jobs in lent(dispatched, now):
                    failed += [(jobs[index], code) for index, code in workers.send(d2010.dispatches(jobs))]
            if machine.handed:
                handed, machine.handed = machine.handed, []
                for jobs in lent(handed, now):
                    failed += self._conversation.hand_over(jobs, now)
            if not failed:
                if not machine.stirred:  # else the asks for jobs that had to end are there still
                    return
                machine.match(now)
                continue
            gone = [job.holder.peer for job, code in failed if code == errno.EHOSTUNREACH and job.holder]
            machine.undelivered([job for job, _ in failed], now)
            for peer in gone:
                workers.forget(peer)
            for peer in (*gone, *workers.take_lost()):
                machine.lost(peer, now)
            machine.match(now)

    def _reassure(self, now: int) -> None:
        """Heartbeats of clients lie unread: they are told so often as they would ask, lest they connect anew, and miss
        the outcomes of their jobs until they are read again.
        """
        if self._conversation.reassure(self.limits.turn_steps_max):
            self._reassure_at = now + self.limits.liveness_ns // HEARTBEATS_PER_LIVENESS
        else:
            self.busy = True

    def _retry(self, now: int) -> None:
        before = self.outbox.bytes
        self._untold(self.outbox.retry())
        stuck = self.outbox.bytes == before
        self._retry_ns = min(2 * self._retry_ns, OUTBOX_RETRY_NS_MAX) if stuck else OUTBOX_RETRY_NS_MIN
        self._retry_at = now + self._retry_ns

    def _publish_all(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self._publish(notice)
