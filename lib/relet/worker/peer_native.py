"""The worker's side of the native dialect, without sockets, threads or clock. docs/protocol.md has the contract.

    disconnected --became_connected--> greeting --welcome--> welcomed
         ^                                ^  |                  | |
         |                                +--+--- no_session ---+ |
         +------------------- lost, silent, never welcomed -------+

A job is *held* from its arrival until the handler's thread starts it, and *open* until its outcome is known. Both are
tables, and one step decides what happens to a held job: whoever takes it out of `_held` - `start` in the handler's
thread, or this thread when the job is recalled, cancelled, lost, or handed back - has it, and the other does not find
it. `dict.pop` with a key of bytes runs no Python code, so it is one step for all threads, with or without the
interpreter lock. Handlers begin jobs in the order in which they came, one after the other, also where several threads
have one each: so the number of the last one that was begun tells of all before it.

Nothing may be started once the broker may believe that this worker is gone. So a job is started only until
`startable_until`: as long after the broker was heard last as a worker may be silent, and after a loss only as long as
the broker keeps the session. The handler's thread checks that itself, with its own reading of the clock, because after
a stop of the whole process it may be the first to go on.

Credit is one growing number: hand-overs so far, as `welcome` says, plus places that are free. A worker that wants less
grants no more. One that retires takes back what it has granted, by another hello, which leaves none: else the broker
would go on to hand it what nobody else asks for. Nor does a busy one grant more for the places of jobs that were
recalled from it, before it has done another: the same jobs would come back. Credit rides, like the number of what was
started, on the last message of a batch, and goes alone only where there is no other.

The broker counts an attempt when it is told of the start, and a handler may end the process with its first step, or
keep the interpreter lock. So where a handler is idle, the job that it is about to begin is told to be started before
it is handed to the handler's thread: `told`. Behind busy ones starts go with the reports, soon after.

Every `now` is nanoseconds of one clock that also runs while the machine is suspended.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

import msgspec

from relet.dialects import native
from relet.messages import (
    NO_SESSION,
    SIGNATURE,
    VERSION,
    Ack,
    Cancel,
    Complete,
    Dispatch,
    Error,
    Extend,
    Fail,
    Goodbye,
    HandBack,
    Heartbeat,
    Progress,
    Recall,
    ReportRefused,
    Welcome,
    WorkerAsk,
    WorkerHello,
)
from relet.messages import Partial as PartialResult
from relet.worker.job import Extension, Job, Note, Piece
from relet.worker.outcome import MS_MAX, Answer, Counters, Failure, Silence
from relet.worker.pace import AHEAD_MAX, Pace
from relet.worker.reports import Reports

FEATURES: Final = ("starts", "recalls")
NOT_TAKEN: Final = frozenset(("bad_version", "too_many_peers"))
"""Codes of errors that answer a hello, whatever message they name: the broker does not take this worker, perhaps not
yet. Other errors may answer what was said before it."""
WELCOME_NS_MAX: Final = 5_000_000_000
"""A broker that has not answered a hello for so long does not speak this dialect, or has lost it: say it once more."""
HELLO_PAUSE_NS: Final = 100_000_000
"""From one hello to the next on one connection, at least, where the broker does not keep the session it has begun."""
START_TOLD_NS: Final = 1_000_000
"""A job that follows another and runs for longer than this is told to be started; a shorter one's report says so."""
LIVENESS_NS: Final = 10_000_000_000
GRACE_NS: Final = 1_000_000_000
"""What holds until the broker has said how long it waits for a silent worker, and for one whose connection went."""
UNACKNOWLEDGED_MAX: Final = 2_000
UNACKNOWLEDGED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Reports and their bytes that wait for the broker: above these the worker asks for no more jobs. One more answer per
job that was asked for before may come on top."""
CLAIM_BYTES: Final = 3
"""What MessagePack adds to a token in a list."""
NAMES_BYTES_MAX: Final = native.HEADER_BYTES_MAX // 4
"""Bytes of all names of queues and the rest of a hello, so that the claims fit into its header too."""
NUMBER_MAX: Final = (1 << 62) - 1
"""Of what is counted; a broker that says more is not believed, because arithmetic would go beyond what can be sent."""

Ended = tuple[Job, "Answer | Failure | Silence | Extension | Note | Piece", int]
"""(job, what the handler made of it or said about it, when)."""


class Trouble(Enum):
    """Why a connection is to be given up."""

    SILENT = "silent"
    """Nothing was heard for the liveness time, though this worker spoke."""
    UNWELCOMED = "unwelcomed"
    """The hello was not answered."""


class NativePeer:
    """All jobs and reports of one worker, and its session with the broker.

    Args:
        incarnation: 16 random bytes.
        queues: what to serve, the most important first.
        ahead: jobs to have asked for or hold, `places` to `AHEAD_MAX`; None: as many as the pace asks for.
        agent: name and version of the program, for people.
        weights: jobs of each queue a round, or () for strict order.
        places: jobs that are done at a time, 1 to `AHEAD_MAX`.
    """

    def __init__(  # noqa: PLR0915 - all that there is
        self,
        incarnation: bytes,
        queues: tuple[str, ...] = ("default",),
        ahead: int | None = None,
        agent: str = "",
        *,
        weights: tuple[int, ...] = (),
        places: int = 1,
    ) -> None:
        self.counters = Counters()
        self.connected = False
        self.welcomed = False
        """Whether there is a session on this connection: jobs come, reports go."""
        self.startable_until = 0
        """Until when the handler's thread may start a held job."""
        self.limits: dict[str, int] = {}
        """As the last welcome said."""
        self.last_refusal: ReportRefused | None = None
        self.last_error: Error | None = None
        """The last ones that the broker said, for the log."""
        self.pieces_freed = 0
        """Bytes of pieces of results that were sent or given up; the shell passes them on and sets it to 0."""
        self.retiring = False
        """Whether no more jobs are asked for, what was asked for is taken back, and those that arrive all the same are
        handed back."""
        self.gone = False
        """Whether goodbye was said on this connection."""
        self.idle_max = places
        """Handlers that could begin a job at once if all were idle: `places`, but for those that are not ready."""
        self._hello = WorkerHello(
            incarnation=incarnation, queues=queues, weights=weights, capacity=places, features=FEATURES, agent=agent
        )
        if len(native.encode(self._hello)) > NAMES_BYTES_MAX:
            raise ValueError(
                f"the names of all queues have at most {NAMES_BYTES_MAX:,} bytes: serve fewer, or name them shorter"
            )
        self._pace = Pace(ahead, places)
        self._reports = Reports()
        self._held: dict[bytes, Job] = {}
        self._open: dict[bytes, Job] = {}
        self._extending: dict[bytes, Extension] = {}
        self._extended: dict[bytes, list[tuple[int, Extension]]] = {}  # sent and not decided, with their numbers
        self._notes: dict[bytes, Note] = {}
        self._session = 0
        self._epoch: int | None = None
        self._seq = 0  # the last hand-over of this session that is known
        self._begun: Job | None = None  # the last one; written by who begins the next, and that is one at a time
        self._again: dict[bytes, Job] = {}  # token of a job in hand -> a later attempt of it, which came meanwhile
        self._started = self._started_said = 0
        self._credit = self._credit_said = 0
        self._ended = 0  # jobs that were answered, as the last turn has heard
        self._withheld = 0  # places of jobs that were recalled since the last one ended
        self._liveness_ns = LIVENESS_NS
        self._heartbeat_ns = LIVENESS_NS // 4
        self._grace_ns = GRACE_NS
        self._turned_at: int | None = None
        self._heard_at = self._said_at = self._beaten_at = 0
        self._hello_due: int | None = None
        self._hello_at = 0
        self._hellos = 0  # said on this connection and not answered
        self._hello_refused = False  # the last one was answered with an error, and none was said since
        self._start_due: int | None = None
        self._outgoing: list[Any] = []  # the extras of the last batch: what `sent` has to settle
        self._outgoing_reports = 0
        self._outgoing_numbers = (0, 0)
        self._stuck = False

    @property
    def was_welcomed(self) -> bool:
        """Whether a broker has ever welcomed it."""
        return self._epoch is not None

    # --- The handler's thread.

    def start(self, job: Job, now: int) -> bool:
        """Whether the job is to be done now. If not, put it into the inbox as `UNSTARTED`."""
        if now >= self.startable_until or (job.before is not None and job.before.answered):
            return False
        job.began = now
        if self._held.pop(job.token, None) is not job:
            return False
        self._begun = job
        return True

    # --- The connection.

    def became_connected(self, now: int) -> None:
        """The broker is there; it knows nothing of us."""
        self.connected = True
        self._hello_due = now
        self._hellos = 0
        self._heard_at = self._hello_at = now

    def lost(self, now: int) -> None:
        """The connection went, or was given up."""
        self.counters.losses += 1
        self.connected = self._stuck = False
        self._hello_due = None
        self._hellos = 0
        self._hello_refused = False
        self._end_session(now)

    def _end_session(self, now: int) -> None:
        """Until the next welcome: the broker keeps what this worker holds for a short grace."""
        self.welcomed = False
        self._start_due = None
        self.startable_until = min(self.startable_until, now + self._grace_ns)
        self.pieces_freed += self._reports.lost()
        self._notes.clear()

    # --- Time.

    def woke(self, now: int) -> None:
        """A turn begins; call it before anything else of that turn. Finds out that the process was stopped."""
        before, self._turned_at = self._turned_at, now
        if before is None or now - before <= self._liveness_ns or not self.connected:
            return
        if not self.welcomed and not self._held:
            return
        self.counters.sleeps += 1
        self._drop_held()
        self.startable_until = now
        self._end_session(now)
        self._heard_at = now
        self._hello_due = now
        self._hello_refused = False

    def tick(self, now: int) -> Trouble | None:
        """Do what time demands; what is wrong with the connection, if anything is: then give it up and say `lost`."""
        if not self.welcomed:
            if self._held and now >= self.startable_until:
                if self._hellos or self._hello_refused:  # it was claimed: the broker believes that it is here
                    self._end_held()
                else:
                    self._drop_held()
            if self._hellos and now - self._hello_at >= WELCOME_NS_MAX:
                return Trouble.UNWELCOMED
        elif now - self._heard_at >= self._liveness_ns:
            self.counters.silences += 1
            return Trouble.SILENT
        return None

    def due(self, now: int) -> int | None:  # noqa: ARG002 - as in every line
        """When to turn again though nothing comes; None: never. Call it at the end of a turn."""
        if not self.welcomed:
            welcome_due = self._hello_at + WELCOME_NS_MAX if self._hellos else None
            held_due = self.startable_until if self._held else None
            dues = (welcome_due, held_due, None if self._stuck else self._hello_due)
            return min((due for due in dues if due is not None), default=None)
        due = self._heard_at + self._liveness_ns
        if self._stuck:  # nothing can be said
            return due
        self._watch_start()
        due = min(due, self._heartbeat_due)
        return due if self._start_due is None else min(due, self._start_due)

    @property
    def rest_ns(self) -> int:
        """How long to wait before the next turn, whatever comes: there is plenty to do."""
        return self._pace.rest_ns(len(self._held)) if self._ended and self._held and not self.retiring else 0

    @property
    def _heartbeat_due(self) -> int:
        """When nothing was said for long, or nothing was heard and that was not asked about."""
        return min(self._said_at, max(self._heard_at, self._beaten_at)) + self._heartbeat_ns

    def _watch_start(self) -> None:
        """A job that was begun and not told of is told of in time; the handler's thread does not wake this one for it.

        Where that thread is idle, what it begins next was told. Where it is not, its end will be heard of.
        """
        self._count_started()
        begun = self._begun
        if begun is not None and self._started > self._started_said:
            self._start_due = begun.began + START_TOLD_NS
        else:
            self._start_due = None

    def _count_started(self) -> None:
        """Jobs are begun in the order of their numbers, so the last one tells of all before it."""
        begun = self._begun
        if begun is not None and begun.session == self._session:
            self._started = max(self._started, begun.seq)

    def _tell_first(self, now: int) -> None:
        """Handlers are idle, and have or get something to do: that counts as started before it is.

        A copy of the table is one moment of it: of what is open and was not in it, all had been begun then, and what is
        in it is begun in this order.
        """
        if not self._held or len(self._open) - len(self._held) >= self.idle_max:
            return
        held = list(self._held.values())
        idle = self.idle_max - (len(self._open) - len(held))
        for job in held[: max(0, idle)]:
            if not job.told:
                job.told = True
                self._started = max(self._started, job.seq)
                self._start_due = now

    # --- What the broker says.

    def heard(self, messages: Iterable[tuple[bytes, ...]], now: int) -> list[Job]:
        """Take what arrived; returns the jobs for the handler, in order."""
        jobs: list[Job] = []
        known = False
        in_hand = self._in_hand()
        for message in messages:
            try:
                said = native.to_worker(VERSION if message[0] == SIGNATURE else 0, message[1])
            except (IndexError, native.BadMessage):
                self.counters.frames_refused += 1
                continue
            known = True
            if type(said) is Dispatch:
                if self._takes(said):
                    job = Job(said, message[2:], self._session, now)
                    if in_hand and said.job in in_hand:
                        job.before = before = in_hand[said.job]
                        self._again[before.token] = job
                    self._held[said.token] = self._open[said.token] = job
                    jobs.append(job)
            else:
                self._heed(said, now)
        self.counters.jobs += len(jobs)
        if known:
            self._heard_at = now
            if self.welcomed:
                self.startable_until = now + self._liveness_ns
        if self.retiring:
            self._end_held()
            return []
        return jobs

    def _in_hand(self) -> dict[bytes, Job]:
        """Jobs in the handlers' hands, by id. They are begun in order of arrival: one that is held ends it."""
        found: dict[bytes, Job] = {}
        held = self._held
        for token, job in self._open.items():
            if token in held:
                break
            found[job.header.job] = job
        return found

    def _takes(self, said: Dispatch) -> bool:
        """Whether this hand-over is ours to take."""
        if not self.welcomed:  # not claimed by the hello that is under way, so the broker takes it back by itself
            self.counters.dropped += 1
            return False
        if not self._seq < said.seq <= NUMBER_MAX or said.token in self._open or not said.token:
            self.counters.jobs_refused += 1
            return False
        self._seq = said.seq
        if said.ack:
            self._acknowledged(said.ack)
        if said.seq > self._credit:
            self.counters.jobs_refused += 1
            self._hand_back(said.token)
            return False
        return True

    def _heed(self, said: Any, now: int) -> None:
        kind = type(said)
        if kind is Ack:
            self._acknowledged(said.ack)
        elif kind is Welcome:
            self._hear_welcome(said, now)
        elif kind is Recall:
            for token in said.tokens:
                job = self._take_held(token)
                if job is not None:
                    self._hand_back(token, started=job.told)
                    self._withheld += 1
        elif kind is Cancel:
            self._cancel(said.token)
            self._reports.useless(said.token)
        elif kind is ReportRefused:
            self._hear_refused(said)
        elif kind is Error:
            self.counters.errors += 1
            if said.code == NO_SESSION:
                self._hear_no_session(now)
                return
            self.last_error = said
            if self._hellos and (said.of == "hello" or said.code in NOT_TAKEN):
                self._hellos -= 1
                if not self._hellos and self._hello_due is None:  # else another one is about to be said
                    self._hello_refused = True
                    self._hello_due = now + WELCOME_NS_MAX

    def _acknowledged(self, number: int) -> None:
        """Refusals come before the acknowledgement, so an extension that is safe was granted."""
        self._reports.acknowledged(number)
        if self._extended:
            for token, sent in list(self._extended.items()):
                while sent and sent[0][0] <= number:
                    self._decide(token, sent[0], granted=True)

    def _decide(self, token: bytes, sent: tuple[int, Extension], *, granted: bool) -> None:
        """What became of an extension that was sent."""
        undecided = self._extended[token]
        undecided.remove(sent)
        if not undecided:
            del self._extended[token]
        self._tell(token, sent[1], granted=granted)

    def _tell(self, token: bytes, extension: Extension, *, granted: bool) -> None:
        job = self._open.get(token)
        if job is not None and job.view is not None:
            job.view._decided(extension, granted=granted)  # noqa: SLF001 - not for handlers

    def _hear_welcome(self, said: Welcome, now: int) -> None:
        limits = said.limits
        numbers = (said.handed, said.received, said.epoch, said.heartbeat_ms, said.liveness_ms, *limits.values())
        if not (self._hellos or self._hello_refused) or min(numbers) < 0 or max(numbers) > NUMBER_MAX:
            self.counters.frames_refused += 1
            return
        if self._hello_refused:  # by an error that was meant for something else
            self._hello_refused = False
            self._hello_due = None
        else:
            self._hellos -= 1
        if self._hellos or self._hello_due is not None:  # another hello is under way: its answer counts
            return
        begins = said.epoch != self._epoch or said.handed < self._seq
        self.counters.welcomes += 1
        self.welcomed = True
        self.limits = limits
        self._epoch = said.epoch
        self._seq = self._credit = said.handed
        self._credit_said = self._started_said = 0
        self._liveness_ns = max(said.liveness_ms * 1_000_000, 2 * native.HEARTBEAT_NS_MIN)
        self._heartbeat_ns = min(max(said.heartbeat_ms * 1_000_000, native.HEARTBEAT_NS_MIN), self._liveness_ns // 2)
        self._grace_ns = min(limits.get("session_grace_ms", 0) * 1_000_000 or GRACE_NS, self._liveness_ns)
        self.startable_until = now + self._liveness_ns
        for token in said.lost:
            self._cancel(token)
        if begins:  # what is still held has no number here by which its start could be told
            self._session += 1
            self._started = said.handed
            self._end_held()
        extended, self._extended = self._extended, {}
        for token, sent in extended.items():  # perhaps it did not arrive, or its refusal did not
            for _, extension in sent:  # a report of its own, because it says another time
                self._extend(token, extension)
        self.counters.reports_resent += self._reports.again(said.received, frozenset(said.lost))

    def _hear_no_session(self, now: int) -> None:
        """Only the first of many counts: all that was said before the hello is answered like this."""
        if not self._hellos and self._hello_due is None:
            self._end_session(now)
            self._hello_due = max(now, self._hello_at + HELLO_PAUSE_NS)

    def _hear_refused(self, said: ReportRefused) -> None:
        self.counters.reports_refused += 1
        if self._reports.is_useless(said.token):
            self.counters.reports_late += 1
        else:
            self.last_refusal = said
        job = self._open.get(said.token)
        for sent in self._extended.get(said.token, ()):
            if sent[0] == said.n:
                self._decide(said.token, sent, granted=False)
                break
        if job is not None and said.code in {"not_open", "superseded"}:
            self._cancel(said.token)

    def _cancel(self, token: bytes) -> None:
        """The job is not this worker's any more: never started, or told to stop."""
        if self._take_held(token) is not None:
            self.counters.dropped += 1
            return
        job = self._open.get(token)
        if job is not None and not job.cancelled:
            job.cancelled = True
            self.counters.cancelled += 1

    # --- Held jobs.

    def _take_held(self, token: bytes) -> Job | None:
        """The job, if the handler's thread has not begun it, and from now on never will."""
        job = self._held.pop(token, None)
        if job is not None:
            del self._open[token]
        return job

    def _drop_held(self) -> None:
        """Nothing that waits is started any more, and the broker takes it back by itself, uncounted.

        One that it was told of would count: that is handed back.
        """
        for token in list(self._held):
            job = self._take_held(token)
            if job is None:
                continue
            if job.told:
                self._hand_back(token, started=True)
            else:
                self.counters.dropped += 1

    def _end_held(self) -> None:
        """Nothing that waits is started any more: it is handed back."""
        for token in list(self._held):
            job = self._take_held(token)
            if job is not None:
                self._hand_back(token, started=job.told)

    def _hand_back(self, token: bytes, *, started: bool = False) -> None:
        self.counters.handed_back += 1
        number = self._reports.next_number()
        self._reports.add(HandBack(token=token, n=number), started=started)

    # --- What the handler's thread says.

    def take(self, inbox: collections.deque[Ended]) -> None:
        """Take all that has gathered in the inbox."""
        reports, opened, counters = self._reports, self._open, self.counters
        count = busy = 0
        outcome: Any
        while inbox:
            job, outcome, at = inbox.popleft()
            if type(outcome) is tuple:  # nearly always; tuples with a name are other types
                if opened.pop(job.token, None) is not job:
                    continue
                job.frames = ()  # the last job that was begun is remembered, its body is not
                count += 1
                busy += at - job.began
                counters.answered += 1
                size = len(outcome[0]) if len(outcome) == 1 else sum(map(len, outcome))
                number = reports.next_number()
                reports.add(Complete(token=job.token, n=number, headers=job.answer_headers), outcome, size)
                if self._again:
                    again = self._again.pop(job.token, None)
                    if again is not None and self._take_held(again.token) is not None:
                        self._hand_back(again.token, started=again.told)
            elif opened.get(job.token) is not job:
                self.pieces_freed += outcome.bytes if isinstance(outcome, Piece) else 0
            elif isinstance(outcome, Extension | Note | Piece):
                self._take_aside(job, outcome)
            else:
                self._take_ended(job, outcome, at)
        self._ended = count
        if count:
            self._pace.ended(count, busy)
            self._withheld = 0
        self._forget_asides()

    def _take_ended(self, job: Job, outcome: Any, at: int) -> None:
        """An outcome that is no answer."""
        token = job.token
        if outcome is Silence.UNSTARTED:
            if self._take_held(token) is not None:
                self._hand_back(token, started=job.told)
            return
        unstarted = self._held.pop(token, None) is job  # `run` was interrupted before the handler was called
        del self._open[token]
        self._again.pop(token, None)
        job.frames = ()
        self._pace.ended(1, at - job.began)
        self._withheld = 0
        if outcome is Silence.UNANSWERED:
            self.counters.unanswered += 1
        elif outcome is Silence.HANDED_BACK:
            self._hand_back(token, started=job.told or not unstarted)
        else:
            self.counters.failed += 1
            failure: Failure = outcome
            number = self._reports.next_number()
            self._reports.add(
                Fail(
                    token=token,
                    n=number,
                    kind=failure.kind,
                    text=failure.text,
                    retry_ms=failure.retry_ms,
                    final=failure.final,
                )
            )

    def _take_aside(self, job: Job, aside: Extension | Note | Piece) -> None:
        token = job.token
        if isinstance(aside, Extension):
            self._extend(token, aside)
        elif not (self.welcomed or self.retiring):  # who follows would get it late or never
            if isinstance(aside, Piece):
                self.counters.partials_dropped += 1
                self.pieces_freed += aside.bytes
        elif isinstance(aside, Note):
            self._notes[token] = aside
        else:
            number = self._reports.next_number()
            self._reports.add(PartialResult(token=token, n=number), aside.frames, aside.bytes)

    def _extend(self, token: bytes, extension: Extension) -> None:
        """Of several extensions that wait to be sent the longest is."""
        other = self._extending.get(token)
        if other is not None:
            extension, shorter = (extension, other) if extension.until > other.until else (other, extension)
            self._tell(token, shorter, granted=False)
        self._extending[token] = extension

    def _forget_asides(self) -> None:
        """What was said of jobs that have ended meanwhile is not sent: the outcome says more."""
        tables: tuple[dict[bytes, Any], ...] = (self._extending, self._extended, self._notes)
        for table in tables:
            if table:
                for token in [token for token in table if token not in self._open]:
                    del table[token]

    # --- The end.

    def retire(self, now: int) -> None:
        """Ask for nothing any more, take back what was asked for, and give up what was not started.

        All of it by one hello on the same connection: it voids the credit, and what it does not claim goes back. Where
        nothing is in hand, goodbye is about to do the same.
        """
        self.retiring = True
        if not self.welcomed:  # no credit was said, and the hello that is under way may have claimed what is held
            self._end_held()
        elif not self.finished and (self._held or self._credit > self._seq):
            self._drop_held()
            self.welcomed = False
            self._start_due = None
            self._hello_due = now

    def give_up(self) -> None:
        """Nobody waits for the handlers any more: what they have is handed back, and what they say of it is late."""
        self._end_held()
        for token, job in list(self._open.items()):
            del self._open[token]
            job.cancelled = True
            self._hand_back(token, started=True)
        self._again.clear()
        self._forget_asides()

    @property
    def finished(self) -> bool:
        """Whether all that was reported is safe, and nothing is left to report."""
        return not self._open and not self._reports

    def stopped(self) -> None:
        """Nothing is said or started any more."""
        self.connected = self.welcomed = False
        self.startable_until = 0
        self._drop_held()
        self._open.clear()
        self._reports.clear()

    # --- What goes out.

    def outgoing(self, messages_max: int, now: int, *, goodbye: bool = False) -> list[tuple[Any, ...]]:
        """The next messages to send, at most so many and two; then say how many were `sent`.

        Args:
            messages_max: reports in one batch.
            now: nanoseconds.
            goodbye: whether goodbye shall be the last of them.
        """
        self._outgoing.clear()
        self._outgoing_reports = 0
        if not self.connected or self.gone:
            return []
        if self._hello_due is not None:
            if now < self._hello_due:
                return []
            said: list[Any] = [self._announcement()]
            self._outgoing.append(said[0])
        elif self.welcomed:
            said = self._batch(messages_max, now)
        else:
            said = []
        if goodbye and (self.welcomed or self._hellos):
            said.append(Goodbye())
            self._outgoing.append(said[-1])
        encode, reports = native.encode, self._outgoing_reports
        bodies = [report[2] for report in self._reports.unsent(reports)] if reports else []
        bodies.extend([()] * (len(said) - reports))
        return [(SIGNATURE, encode(header), body) for header, body in zip(said, bodies, strict=True)]

    def farewell(self) -> list[tuple[Any, ...]]:
        """Goodbye, whatever is still missing; nothing where it was said, or where there is nobody to say it to."""
        if not self.connected or self.gone or not (self.welcomed or self._hellos):
            return []
        self.gone = True
        return [(SIGNATURE, native.encode(Goodbye()))]

    def _batch(self, messages_max: int, now: int) -> list[Any]:
        """Reports, then what is said of jobs under way, with the numbers on the last one."""
        reports = self._reports
        said: list[Any] = [report[1] for report in reports.unsent(messages_max)]
        self._outgoing_reports = len(said)
        if (self._extending or self._notes) and len(said) == reports.waiting:
            self._outgoing.extend(self._asides(now))
            said += self._outgoing
        self._count_started()
        self._tell_first(now)
        self._grant()
        credit, started = self._outgoing_numbers = self._credit, self._started
        start_due = self._start_due is not None and now >= self._start_due and started > self._started_said
        if now >= self._heartbeat_due:
            said.append(Heartbeat(credit=credit, started=started))
            self._outgoing.append(said[-1])
        elif said:
            said[-1] = msgspec.structs.replace(said[-1], credit=credit, started=started)
        elif credit > self._credit_said or start_due:
            said.append(WorkerAsk(credit=credit, started=started))
            self._outgoing.append(said[-1])
        return said

    def _grant(self) -> None:
        """Credit for the places that are free, unless too much waits for the broker already."""
        reports = self._reports
        if self.retiring or len(reports) > UNACKNOWLEDGED_MAX or reports.bytes > UNACKNOWLEDGED_BYTES_MAX:
            return
        if not self._open:
            self._withheld = 0
        ahead = min(self._pace.ahead, self.limits.get("credit") or AHEAD_MAX)
        self._credit = max(self._credit, self._seq + ahead - len(self._open) - self._withheld)

    def _announcement(self) -> WorkerHello:
        """The hello, with a claim on every job that is open or whose report is not acknowledged."""
        room = native.HEADER_BYTES_MAX - NAMES_BYTES_MAX
        claims: tuple[list[bytes], list[bytes]] = [], []
        held = {token for token, job in list(self._held.items()) if not job.told}
        claimed = [(token in held, token) for token in self._open]
        claimed.sort()  # what has been started first
        claimed += self._reports.claims()
        for is_held, token in claimed:
            room -= len(token) + CLAIM_BYTES
            if room >= 0:
                claims[is_held].append(token)
            elif token in held and self._take_held(token) is not None:  # not claimed, so the broker takes it back
                self.counters.dropped += 1
        return msgspec.structs.replace(self._hello, running=tuple(claims[0]), held=tuple(claims[1]))

    def _asides(self, now: int) -> list[Any]:
        said: list[Any] = []
        for token, extension in self._extending.items():
            run_ms = min(max(1, -((now - extension.until) // 1_000_000)), MS_MAX)
            said.append(Extend(token=token, n=self._reports.next_number(), run_ms=run_ms))
        for token, note in self._notes.items():
            number = self._reports.next_number()
            said.append(Progress(token=token, n=number, done=note.done, total=note.total, note=note.text))
        return said

    def sent(self, count: int, now: int) -> None:
        """The first so many of `outgoing` went."""
        self._stuck = count < self._outgoing_reports + len(self._outgoing)
        if not count:
            return
        self._said_at = now
        reports = min(count, self._outgoing_reports)
        if reports:
            pieces, freed = self._reports.sent(reports)
            self.counters.partials += pieces
            self.pieces_freed += freed
        if not self._stuck and self.welcomed:
            self._credit_said, self._started_said = self._outgoing_numbers
        for message in self._outgoing[: count - reports]:
            self._settle(message, now)

    def _settle(self, message: Any, now: int) -> None:
        kind = type(message)
        if kind is Extend:
            sent = message.n, self._extending.pop(message.token)
            self._extended.setdefault(message.token, []).append(sent)
            self.counters.extended += 1
        elif kind is Progress:
            del self._notes[message.token]
        elif kind is Heartbeat:
            self._beaten_at = now
        elif kind is WorkerHello:
            self._hello_due = None
            self._hello_at = now
            self._hello_refused = False
            self._hellos += 1
            self._beaten_at = now
        elif kind is Goodbye:
            self.gone = True
