"""The native worker's protocol against a small model of the broker, over a connection that loses what is under way.

The model keeps what docs/protocol.md says that a broker keeps of a session, and no more: hand-overs, credit, starts,
the last report. Whatever the two of them went through, in the end nothing is owed: the broker believes that the worker
has exactly what it has, every job that ended was reported, and the worker is asked for as much as it has room for.
"""

from __future__ import annotations

import collections
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relet.dialects import native
from relet.messages import (
    SIGNATURE,
    VERSION,
    Ack,
    Cancel,
    Complete,
    Dispatch,
    Error,
    Fail,
    Goodbye,
    HandBack,
    Heartbeat,
    Recall,
    Said,
    Welcome,
    WorkerHello,
)
from relet.worker.job import Job
from relet.worker.outcome import Failure, Silence
from relet.worker.peer_native import NativePeer

MS = 1_000_000
HEARTBEAT_MS, LIVENESS_MS, GRACE_MS = 1_000, 4_000, 500


class Session:
    """What a broker knows of a worker."""

    def __init__(self) -> None:
        self.handed = self.granted = self.started = self.reported = 0
        self.held: dict[bytes, int] = {}
        self.running: set[bytes] = set()


class Model(RuleBasedStateMachine):
    """The worker's peer and its handler, two directions of a connection, and a broker."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10_000 * MS
        self.epoch = 1
        self.session: Session | None = None
        self.to_worker: collections.deque[Said] = collections.deque()
        self.to_broker: collections.deque[tuple[bytes, ...]] = collections.deque()
        self.inbox: Any = collections.deque()
        self.queue: collections.deque[Job] = collections.deque()
        self.in_hand: list[Job] = []
        self.tokens = 0
        self.begun: set[bytes] = set()
        self.told: set[bytes] = set()
        """Tokens of jobs that are said to be started before the handler has them."""
        self.decided: set[bytes] = set()
        """Tokens of jobs that the handler answered or failed."""
        self.reported: set[bytes] = set()
        self.returned: set[bytes] = set()
        """Tokens of jobs that were handed back."""

    @initialize(ahead=st.sampled_from([0, 1, 4, None]), places=st.sampled_from([1, 1, 2, 3]))
    def begin(self, ahead: int | None, places: int) -> None:
        """A worker that is welcome, and has something to do."""
        self.ahead = None if ahead is None else places + ahead
        self.places = places
        self.peer = NativePeer(b"i" * 16, ahead=self.ahead, places=places)
        self.peer.became_connected(self.now)
        self.exchange(3)
        while self.session and self.session.handed < self.session.granted:
            self.hand_over()

    @rule(times=st.integers(1, 3))
    def exchange(self, times: int) -> None:
        """All that is under way arrives, so often both ways."""
        for _ in range(times):
            self.now += MS
            self.hear(100, 1_000)
            self.arrive(100)

    # --- The worker.

    def turn(self, arrived: list[Said], room: int = 1_000) -> None:
        """A turn of the library's thread."""
        peer = self.peer
        peer.woke(self.now)
        messages = [(SIGNATURE, native.encode(one), b"body") for one in arrived]
        self.queue += peer.heard(messages, self.now) if messages else []
        peer.take(self.inbox)
        if peer.tick(self.now) is not None:
            self.lose()
        outgoing = peer.outgoing(3, self.now)
        held = [job for job in self.queue if job.token in peer._held]
        for job in held:
            if job.told and job.token not in self.told:
                idle = self.places - len(self.in_hand)
                assert job in held[:idle], "told while the handlers have others, or out of turn"
                self.told.add(job.token)
        self.to_broker += outgoing[:room]
        peer.sent(len(outgoing[:room]), self.now)

    @rule(count=st.integers(0, 5), room=st.sampled_from([0, 1, 2, 1_000]))
    def hear(self, count: int, room: int) -> None:
        """Some of what is under way arrives at the worker."""
        self.turn([self.to_worker.popleft() for _ in range(min(count, len(self.to_worker)))], room)

    @rule(ms=st.sampled_from([1, 5, 5, 5, 100, 600, HEARTBEAT_MS, LIVENESS_MS + 1]))
    def wait(self, ms: int) -> None:
        """Time passes without a turn; the longest of them is a sleep."""
        self.now += ms * MS

    @precondition(lambda self: self.queue and len(self.in_hand) < self.places)
    @rule()
    def start(self) -> None:
        """A handler's thread takes the next job."""
        job = self.queue.popleft()
        if self.peer.start(job, self.now):
            assert job.token not in self.begun, "begun twice"
            assert job.token not in self.returned, "begun after it was given back"
            self.begun.add(job.token)
            self.in_hand.append(job)
        else:
            self.inbox.append((job, Silence.UNSTARTED, self.now))

    @precondition(lambda self: self.in_hand)
    @rule(
        outcome=st.sampled_from([(b"x",), Failure(kind="x"), Silence.HANDED_BACK, Silence.UNANSWERED]),
        which=st.integers(0, 2),
    )
    def end(self, outcome: Any, which: int) -> None:
        """A handler is done, not always the one that began first."""
        job = self.in_hand.pop(which % len(self.in_hand))
        self.inbox.append((job, outcome, self.now))
        if not isinstance(outcome, Silence):
            self.decided.add(job.token)

    # --- The connection.

    @precondition(lambda self: not self.peer.connected)
    @rule()
    def connect(self) -> None:
        """It stands again."""
        self.peer.became_connected(self.now)

    @precondition(lambda self: self.peer.connected)
    @rule()
    def blink(self) -> None:
        """It goes, and stands again at once."""
        self.lose()
        self.connect()

    @precondition(lambda self: self.peer.connected)
    @rule()
    def lose(self) -> None:
        """What is under way is lost, both ways."""
        self.to_worker.clear()
        self.to_broker.clear()
        self.peer.lost(self.now)

    # --- The broker.

    @rule(count=st.integers(1, 5))
    def arrive(self, count: int) -> None:
        """Some of what is under way arrives at the broker."""
        for _ in range(min(count, len(self.to_broker))):
            said = native.from_worker(VERSION, self.to_broker.popleft()[1])
            if isinstance(said, WorkerHello):
                self.greet(said)
            elif self.session is None:
                self.to_worker.append(Error(code="no_session"))
            elif not isinstance(said, Goodbye):
                self.listen(self.session, said)

    def greet(self, said: WorkerHello) -> None:
        """Reconcile what the worker claims with what is known of it."""
        session = self.session = self.session or Session()
        running, held = set(said.running), set(said.held)
        for token in list(session.held):
            if token in running:
                del session.held[token]
                session.running.add(token)
            elif token not in held:
                del session.held[token]
        session.running &= running
        lost = tuple(token for token in (*said.running, *said.held) if token not in {*session.held, *session.running})
        session.granted = session.handed
        self.to_worker.append(
            Welcome(
                epoch=self.epoch,
                heartbeat_ms=HEARTBEAT_MS,
                liveness_ms=LIVENESS_MS,
                limits={"session_grace_ms": GRACE_MS, "credit": 1_000},
                handed=session.handed,
                received=session.reported,
                lost=lost,
            )
        )

    def listen(self, session: Session, said: Any) -> None:
        """A message of a session."""
        assert said.credit - session.handed <= (self.ahead or 1_000)
        assert said.started <= session.handed
        session.granted = max(session.granted, said.credit)
        session.started = max(session.started, said.started)
        for token in [token for token, seq in session.held.items() if seq <= said.started]:
            del session.held[token]
            session.running.add(token)
            given_back = self.returned | ({said.token} if isinstance(said, HandBack) else set())
            assert token in self.begun | given_back | self.told, "said to be started, and it was not"
        if isinstance(said, Heartbeat):
            self.to_worker.append(Heartbeat())
        if isinstance(said, Complete | Fail | HandBack):
            if said.n > session.reported:
                session.reported = said.n
                session.held.pop(said.token, None)
                session.running.discard(said.token)
                (self.returned if isinstance(said, HandBack) else self.reported).add(said.token)
            self.to_worker.append(Ack(ack=session.reported))

    @precondition(lambda self: self.session is not None and self.session.handed < self.session.granted)
    @rule()
    def hand_over(self) -> None:
        """A job for the worker."""
        assert self.session is not None
        self.tokens += 1
        self.session.handed += 1
        token = b"%d" % self.tokens
        self.session.held[token] = self.session.handed
        self.to_worker.append(Dispatch(token=token, seq=self.session.handed, job=b"%d" % self.tokens, attempt=1))

    @precondition(lambda self: self.session is not None and self.session.held)
    @rule(which=st.integers(0, 9))
    def recall(self, which: int) -> None:
        """Another worker has nothing to do."""
        assert self.session is not None
        tokens = list(self.session.held)
        self.to_worker.append(Recall(tokens=(tokens[which % len(tokens)],)))

    @precondition(lambda self: self.session is not None and (self.session.held or self.session.running))
    @rule(which=st.integers(0, 9))
    def cancel(self, which: int) -> None:
        """Nobody waits for it any more."""
        assert self.session is not None
        tokens = [*self.session.held, *self.session.running]
        token = tokens[which % len(tokens)]
        self.session.held.pop(token, None)
        self.session.running.discard(token)
        self.to_worker.append(Cancel(token=token))

    @precondition(lambda self: self.session is not None)
    @rule(restarts=st.booleans())
    def forget(self, restarts: bool) -> None:
        """The broker has lost the session, or is another one behind a proxy."""
        self.session = None
        self.epoch += restarts
        self.arrive(1)  # so that the worker hears of it

    # --- What holds.

    @invariant()
    def the_tables_agree(self) -> None:
        """What is held is open, and nothing is open that nobody has."""
        if hasattr(self, "peer"):
            held, opened = self.peer._held, self.peer._open
            waiting = {job.token for job in self.queue} | {job.token for job, *_ in self.inbox}
            assert set(held) <= set(opened)
            assert set(opened) <= waiting | {job.token for job in self.in_hand}

    def teardown(self) -> None:
        """All that is under way arrives, everything held is done: nobody waits for anything any more."""
        if not hasattr(self, "peer"):
            return
        for _ in range(1_000):
            self.now += 200 * MS
            if not self.peer.connected:
                self.connect()
            while self.queue and len(self.in_hand) < self.places:
                self.start()
            while self.in_hand:
                self.end((b"done",), 0)
            self.hear(100, 1_000)
            self.arrive(100)
            quiet = not (self.to_worker or self.to_broker or self.queue or self.inbox or self.peer._reports)
            if quiet and self.peer.welcomed and self.session is not None and not self.in_hand:
                break
        else:
            raise AssertionError("it did not come to rest")
        self.turn([])
        self.arrive(100)
        session = self.session
        assert session is not None
        assert self.peer._open == {}
        assert session.held == {}, "the broker waits for a job that the worker does not have"
        assert session.running <= self.begun, "the broker believes that a job runs, and it was never begun"
        assert self.decided <= self.reported, "an outcome was lost"
        assert session.granted - session.handed == (self.ahead or self.peer._pace.ahead), "nobody asks any more"


Model.TestCase.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class TestModel(Model.TestCase):  # type: ignore[misc]  # hypothesis makes it at run time
    """Whatever happens, in the end nothing is owed."""
