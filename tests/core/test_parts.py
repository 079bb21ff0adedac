"""The parts of the machine on their own, and those of the loop that need no socket."""

from __future__ import annotations

import errno
import random
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import example, given

from relet import broker
from relet.broker import LeaseClock
from relet.core.askers import Askers
from relet.core.job import AVAILABLE, COMPLETED, DISCARDED, HELD, RUNNING, Job
from relet.core.kept import Kept
from relet.core.lease import MS, NEVER, Deadlines, Lane
from relet.core.limits import BODY_BYTES_LEAST, FRAMES_LEAST, LimitError, Limits
from relet.core.outcomes import OUTCOME_BYTES, Outcomes
from relet.core.queue import Queue
from relet.core.queues import Queues
from relet.core.roster import Roster, Session
from relet.core.terms import Terms
from relet.dialects import d2010
from relet.events import Event
from relet.log import LINES_MAX, WINDOW_NS, Publisher
from relet.messages import Peer
from relet.transport.outbox import Outbox


def _job(number: int, *, state: int = AVAILABLE, body: bytes = b"", peer: Peer | None = None) -> Job:
    return Job(number, peer, b"", body, 0, Queue(), Terms(), state=state)


# --- Queue


@given(st.lists(st.sampled_from(["fresh", "back", "take", "left"]), max_size=200), st.randoms(use_true_random=False))
def test_a_queue_gives_the_oldest_and_counts_exactly(steps: list[str], rng: random.Random) -> None:
    """Whatever comes, comes back, is taken or ends while it waits: the oldest is next, and the length is right."""
    queue, waiting, taken, number = Queue(), {}, [], 0
    for step in steps:
        if step == "fresh":
            number += 1
            job = waiting[number] = _job(number)
            queue.fresh.append(job)
        elif step == "back" and taken:
            job = taken.pop(rng.randrange(len(taken)))
            waiting[job.number] = job
            queue.came_back(job)
            job.attempts = 1
        elif step == "take":
            job = queue.take(0)
            assert (job.number if job else None) == min(waiting, default=None)
            if job:
                taken.append(waiting.pop(job.number))
        elif step == "left" and waiting:
            job = rng.choice(list(waiting.values()))
            del waiting[job.number]
            job.state = COMPLETED
            queue.left(job)
        assert len(queue) == len(waiting)
        assert {job.number for job in queue} == waiting.keys()


def test_a_queue_forgets_what_has_left_it() -> None:
    """Late answers to thousands of waiting jobs do not leave thousands of entries, and the count stays exact."""
    queue = Queue()
    jobs = [_job(number) for number in range(1_000)]
    for job in jobs:
        queue.came_back(job)
    for job in jobs[:990]:
        job.state = COMPLETED
        queue.left(job)
    assert len(queue) == 10
    assert len(queue.plain._numbers) < 200
    assert [queue.take(0) for _ in range(11)] == [*jobs[990:], None]
    assert len(queue) == 0


# --- Lane


def test_a_lane_ends_leases_in_the_order_of_their_beginning() -> None:
    """Never early, oldest first, so many at a time, and `due` says when to look again."""
    lane = Lane(100)
    jobs = [_job(number, state=RUNNING) for number in range(6)]
    for began, job in enumerate(jobs):
        job.began_ns = began * 10
        lane.begin([job], job.began_ns)
    assert lane.due == 100
    assert lane.take_expired(99, 10) == []
    assert lane.due == 100
    assert lane.take_expired(120, 2) == jobs[:2]
    assert lane.due == 120
    assert lane.take_expired(120, 2) == jobs[2:3]
    assert lane.due == 130
    del lane.running[3]
    assert lane.take_expired(1_000, 10) == jobs[4:]
    assert lane.due == NEVER
    lane.begin(jobs[:1], 1_000)
    assert lane.due == 1_100


# --- Deadlines


@example(steps=[("begin", 0, 1), ("begin", 0, 4), ("begin", 1, 1), ("expire", 0, 4)])  # what moved later went first
@given(
    st.lists(
        st.tuples(st.sampled_from(["begin", "begin", "leave", "expire"]), st.integers(0, 5), st.integers(1, 60)),
        max_size=200,
    )
)
def test_deadlines_come_in_their_order_and_never_early(steps: list[tuple[str, int, int]]) -> None:
    """Whatever moves earlier, later, leaves or comes again: what is due comes, once, millisecond after millisecond, and
    `due` is never too late.
    """
    deadlines, now, due = Deadlines(), 0, {}
    jobs = {number: _job(number, state=RUNNING) for number in range(6)}
    for step, number, amount in steps:
        job = jobs[number]
        if step == "begin":
            due[number] = now + amount * MS // 4
            deadlines.begin(job, due[number])
        elif step == "leave" and number in due:
            del due[number]
            del deadlines.running[number]
            job.timer = None
        elif step == "expire":
            now += amount * MS // 4
            came: list[int] = []
            while deadlines.due <= now:
                came += [it.number for it in deadlines.take_expired(now, 2)]
            expected = sorted((moment, each) for each, moment in due.items() if moment <= now)
            assert sorted(came) == sorted(each for _, each in expected)
            assert [due[each] // MS for each in came] == sorted(due[each] // MS for each in came)
            for each in came:
                assert jobs[each].timer is None
                del due[each]
        assert deadlines.running.keys() == due.keys()
        assert deadlines.due <= min(due.values(), default=NEVER)


def test_deadlines_that_move_leave_no_heap_of_stale_entries() -> None:
    """A job that moves its deadline a million times costs a few entries."""
    deadlines, job = Deadlines(), _job(1, state=RUNNING)
    for moment in range(10_000, 0, -1):
        deadlines.begin(job, moment * MS)
        assert deadlines._count < 200
    for moment in range(1_000):
        deadlines.begin(job, (10_000 + moment) * MS)
        deadlines.running.pop(1)
        job.timer = None
    assert deadlines._count < 200


def test_deadlines_take_so_many_at_a_time() -> None:
    """Also where what comes up is stale: one look costs so much and no more."""
    deadlines = Deadlines()
    jobs = [_job(number, state=RUNNING) for number in range(10)]
    for job in jobs:
        deadlines.begin(job, 5)
    for job in jobs[::2]:
        del deadlines.running[job.number]
    taken = [len(deadlines.take_expired(5, 3)) for _ in range(4)]
    assert sum(taken) == 5
    assert max(taken) <= 3
    assert deadlines.due == NEVER


# --- Queues


def test_a_queue_of_a_name_is_one_and_the_default_is_always_there() -> None:
    """`named` makes, `get` looks; who holds one holds it for all."""
    queues = Queues(queues_max=10)
    assert queues.named("default") is queues.get("default") is queues.default
    assert queues.get("q") is None
    queue = queues.named("q")
    assert queues.named("q") is queues.get("q") is queue
    assert {it.name for it in queues} == {"default", "q"}
    del queue
    assert queues.get("q") is None
    assert len(queues) == 1


# --- Roster


def _session(roster: Roster, *queues: Queue, peer: Peer | None = None, name: bytes = b"one") -> Session:
    session = Session(peer or Peer(name), b"", queues, name, ("starts", "recalls"), 0)
    assert roster.arrive(session)
    return session


def test_credit_of_a_session_is_one_for_all_its_queues() -> None:
    """It stands in each line while it has credit, once; what is above a bound is not granted."""
    one, two = Queue("one"), Queue("two")
    roster = _roster(one, asks_per_worker_max=3, asks_max=5)
    session = _session(roster, one, two)
    assert roster.grant(session, 2)
    assert (session.credit, roster.asks, len(one.line), len(two.line)) == (2, 2, 1, 1)
    assert not roster.grant(session, 9)
    assert (session.credit, session.granted, roster.asks, len(one.line)) == (3, 3, 3, 1)
    other = _session(roster, two, name=b"other")
    assert not roster.grant(other, 3)
    assert (other.credit, roster.asks) == (2, 5)
    roster.void(session)
    assert (session.credit, session.granted, roster.asks) == (0, 0, 2)
    assert roster.grant(other, 3)


def test_a_session_is_on_one_connection_or_away_or_over() -> None:
    """It moves, goes away with its connection and comes back; `end` ends it wherever it is."""
    queue = Queue()
    roster = _roster(queue)
    first, second = Peer(b"1"), Peer(b"2")
    session = _session(roster, queue, peer=first)
    roster.grant(session, 2)
    roster.moved(session, second, b"p")
    assert roster.sessions_on == {second: {b"p": session}}
    assert roster.lost(first) == ([], [])
    assert roster.lost(second) == ([], [session])
    assert (session.away, session.credit, roster.sessions_on, roster.count) == (True, 0, {}, 1)
    roster.moved(session, first, b"")
    assert (session.away, roster.sessions_on) == (False, {first: {b"": session}})
    roster.grant(session, 1)
    roster.end(session)
    assert (session.lost, roster.sessions, roster.sessions_on, roster.count, roster.asks) == (True, {}, {}, 0, 0)
    assert queue.gone == len(queue.line) == 0


def test_the_oldest_held_job_is_the_one_that_is_still_held() -> None:
    """What was started is passed over; what is handed over again is the youngest."""
    queue = Queue()
    session = _session(_roster(queue), queue)
    jobs = [_job(number, state=HELD) for number in range(4)]
    for job in jobs:
        session.take(job)
    assert session.oldest_held() is jobs[0]
    jobs[0].state = RUNNING
    session.drop(jobs[1])
    session.take(jobs[1])
    assert session.oldest_held() is jobs[2]
    jobs[2].state = jobs[3].state = RUNNING
    assert session.oldest_held() is jobs[1]
    session.drop(jobs[1])
    assert session.oldest_held() is None


# --- Askers


def test_askers_are_return_paths_that_begin_anew_with_each_hello() -> None:
    """Who says hello again is somebody else; a connection that goes takes all of them."""
    askers = Askers(paths_max=2)
    peer, other = Peer(b"1"), Peer(b"2")
    first, before = askers.arrive(peer, b"a", follows=True)
    assert before is None
    second, before = askers.arrive(peer, b"a", follows=False)
    assert before is first
    assert askers.on(peer, b"a") is second
    third, _ = askers.arrive(peer, b"b", follows=False)
    assert askers.arrive(peer, b"c", follows=False) == (None, None)
    askers.arrive(other, b"c", follows=False)
    assert (askers.count, len(list(askers))) == (3, 3)
    assert askers.lost(peer) == [second, third]
    assert askers.lost(peer) == []
    assert (askers.count, askers.on(peer, b"a")) == (1, None)


def _roster(queue: Queue | None = None, **bounds: int) -> Roster:
    queue = Queue() if queue is None else queue
    usual = {"asks_max": 1_000, "asks_per_worker_max": 100, "workers_max": 100, "paths_max": 100}
    usual |= {"jobs_per_worker_max": 1_000}
    return Roster(queue, **{**usual, **bounds})


def test_a_voided_worker_that_asks_again_keeps_its_place_and_stands_in_line_once() -> None:
    """Credit that was void is given anew; the line never holds anybody twice."""
    queue = Queue()
    roster = _roster(queue)
    one, other = Peer(b"1"), Peer(b"2")
    roster.ask([(one, b"", b""), (other, b"", b"")])
    (worker,) = roster.routes[one].values()
    roster.void(worker)
    assert roster.asks == 1
    roster.ask([(one, b"", b"")] * 2)
    assert roster.asks == 3
    assert [it.worker.peer for it in queue.line] == [one, other]


def test_the_line_does_not_fill_with_the_dead() -> None:
    """Workers that come, ask and die leave nothing behind, though nobody ever gets a job."""
    queue = Queue()
    roster = _roster(queue, workers_max=10_000, asks_max=10_000)
    for number in range(5_000):
        peer = Peer(b"%d" % number)
        roster.ask([(peer, b"", b"")])
        roster.lost(peer)
    assert len(queue.line) < 200
    assert (roster.asks, roster.count) == (0, 0)


def test_an_ask_of_somebody_who_has_gone_is_not_taken() -> None:
    """It was read after its connection had gone: there is nobody to send to."""
    roster = _roster()
    assert roster.ask([(Peer(b""), b"", b"")]) == ([], 0)
    assert roster.count == 0


def test_return_paths_that_want_nothing_make_room_for_others() -> None:
    """Workers behind a proxy never say goodbye: when the roster is full the idle ones are forgotten."""
    roster = _roster(workers_max=3)
    proxy = Peer(b"p", socket_type="DEALER")
    roster.ask([(proxy, b"%d" % number, b"") for number in range(3)])
    first, second, third = roster.routes[proxy].values()
    roster.void(first)
    roster.void(second)
    second.jobs.add(_job(1))
    assert roster.ask([(proxy, b"new", b""), (proxy, b"newer", b"")])[1] == 1
    assert set(roster.routes[proxy]) == {second.path, third.path, b"new"}


# --- Kept, Limits


def test_kept_forgets_the_oldest_first_and_counts_bytes() -> None:
    """Both bounds hold after every step; what goes is returned."""
    kept = Kept(jobs_max=3, bytes_max=10)
    assert kept.keep(_job(1, state=DISCARDED, body=b"1234")) == []
    assert kept.keep(_job(2, state=DISCARDED, body=b"1234")) == []
    assert [job.number for job in kept.keep(_job(3, state=DISCARDED, body=b"1234"))] == [1]
    assert kept.bytes == 8
    assert [job.number for job in kept.keep(_job(4, state=DISCARDED, body=b"x" * 11))] == [2, 3, 4]
    assert (len(kept), kept.bytes) == (0, 0)


def _ended(count: int) -> list[Job]:
    jobs = [_answered(number, Peer(b"c"), b"12345") for number in range(count)]
    for ended, job in enumerate(jobs):
        job.ended_ns = ended * 10
    return jobs


def test_outcomes_are_forgotten_by_age_and_count_more_than_their_frames() -> None:
    """The oldest end goes first, never early, so many at a time."""
    one = 5 + OUTCOME_BYTES
    outcomes, jobs = Outcomes(jobs_max=100, bytes_max=100 * one, age_ns_max=100), _ended(6)
    assert outcomes.keep(jobs) == []
    assert (outcomes.bytes, outcomes.due()) == (6 * one, 100)
    assert outcomes.take_aged(99, 9) == []
    assert outcomes.drop([jobs[1]]) == [jobs[1]]
    assert outcomes.drop([jobs[1]]) == []
    assert outcomes.take_aged(130, 2) == [jobs[0], jobs[2]]
    assert (outcomes.due(), outcomes.take_aged(130, 9), outcomes.bytes) == (130, [jobs[3]], 2 * one)
    assert jobs[4] in outcomes
    assert jobs[3] not in outcomes
    assert list(outcomes) == jobs[4:]


def test_outcomes_are_bounded_by_number_and_bytes() -> None:
    """The oldest go, also where they have come in the same breath."""
    one = 5 + OUTCOME_BYTES
    few = Outcomes(jobs_max=2, bytes_max=100 * one, age_ns_max=NEVER)
    jobs = _ended(6)
    assert few.keep(jobs) == jobs[:4]
    small = Outcomes(jobs_max=100, bytes_max=3 * one, age_ns_max=NEVER)
    jobs = _ended(6)
    assert small.keep(jobs[:2]) == []
    assert small.keep(jobs[2:]) == jobs[:3]
    assert (len(small), small.bytes, small.due()) == (3, 3 * one, NEVER)


def test_outcomes_that_have_left_are_not_remembered() -> None:
    """Most leave at once, behind one that stays: the line does not grow with them."""
    outcomes = Outcomes(jobs_max=10**6, bytes_max=10**12, age_ns_max=100)
    (stays,) = first = _ended(1)
    outcomes.keep(first)
    for _ in range(100):
        jobs = _ended(100)
        outcomes.keep(jobs)
        outcomes.drop(jobs)
    assert list(outcomes) == first
    assert outcomes.due() == stays.ended_ns + 100
    assert len(outcomes._line) <= 100


@pytest.mark.parametrize("field", Limits.__struct_fields__)
def test_a_limit_that_cannot_be_is_refused_by_name(field: str) -> None:
    """Zero, negative, fractional or missing: the text names the limit and says what it may be."""
    for value in (-1, 1.5, "many", True, None if field != "handovers_max" else -2):
        with pytest.raises(LimitError, match=f"{field} is .*must be a whole number, at least"):
            Limits(**{field: value})
    least = {"frames_max": FRAMES_LEAST, "body_bytes_max": BODY_BYTES_LEAST}.get(field, 1)
    Limits(**{field: least})
    if least > 1:  # a broker that no native peer could speak to, and would not know why
        with pytest.raises(LimitError, match=f"{field} is {least - 1}: .*; set {least} or more"):
            Limits(**{field: least - 1})


def test_a_limit_is_one_frozen_value() -> None:
    """Nobody changes a bound while it holds, and a misspelt one is an error."""
    with pytest.raises(AttributeError):
        Limits().jobs_max = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(jobs_maximum=5)  # type: ignore[call-arg]
    assert msgspec.structs.replace(Limits(), jobs_max=5).jobs_max == 5
    assert [Limits().handovers_of(tries) for tries in (None, 1, 3)] == [100, 10, 30]
    assert Limits(handovers_max=7).handovers_of(3) == 7


# --- Outbox


class Clients:
    """Clients that read as far as the test lets them."""

    def __init__(self) -> None:
        self.sent: list[tuple[Peer, bytes]] = []
        self.codes: dict[Peer, int] = {}

    def send(self, messages: list[tuple[Any, ...]]) -> list[tuple[int, int]]:
        """As the pump."""
        failures = []
        for index, (peer, _, _, body) in enumerate(messages):
            if peer in self.codes:
                failures.append((index, self.codes[peer]))
            else:
                self.sent.append((peer, body))
        return failures


def _answered(number: int, peer: Peer, answer: bytes = b"") -> Job:
    job = _job(number, state=COMPLETED, peer=peer)
    job.answer = answer or b"%d" % number
    return job


def _outbox(clients: Clients, bytes_max: int = 10_000, bytes_total_max: int = 100_000) -> Outbox:
    return Outbox(clients.send, d2010.replies, bytes_max=bytes_max, bytes_total_max=bytes_total_max)


def test_an_outbox_keeps_the_order_of_one_client_and_holds_up_nobody_else() -> None:
    """What a slow client cannot take waits, and what comes later waits behind it; everybody else is served at once."""
    clients, slow, quick = Clients(), Peer(b"slow"), Peer(b"quick")
    outbox = _outbox(clients)
    clients.codes[slow] = errno.EAGAIN
    assert outbox.tell([_answered(1, slow), _answered(2, quick)]) is None
    del clients.codes[slow]
    assert outbox.tell([_answered(3, slow), _answered(4, quick)]) is None
    assert clients.sent == [(quick, b"2"), (quick, b"4")]
    assert len(outbox) == 2
    assert outbox.retry() == []
    assert clients.sent[2:] == [(slow, b"1"), (slow, b"3")]
    assert not outbox
    assert outbox.bytes == 0


def test_a_full_outbox_takes_no_more_and_says_what_it_dropped() -> None:
    """Per client and for all together; what was taken before is not lost for it."""
    clients, slow, other = Clients(), Peer(b"slow"), Peer(b"other")
    outbox = _outbox(clients, bytes_max=1_000, bytes_total_max=1_500)
    clients.codes = {slow: errno.EAGAIN, other: errno.EAGAIN}
    jobs = [_answered(number, slow, b"x" * 100) for number in range(5)]
    sent = outbox.tell(jobs)
    assert sent is not None
    assert (sent.dropped, sent.unroutable) == (jobs[2:], [])
    others = [_answered(number, other, b"x" * 100) for number in range(3)]
    sent = outbox.tell(others)
    assert sent is not None
    assert sent.dropped == others[2:]
    clients.codes.clear()
    outbox.retry()
    assert len(clients.sent) == 4


def test_an_outbox_gives_back_what_nobody_can_be_told() -> None:
    """A client that is gone, at once or while its replies wait, or that the monitor reports."""
    clients, gone, slow = Clients(), Peer(b"gone"), Peer(b"slow")
    outbox = _outbox(clients)
    clients.codes = {gone: errno.EHOSTUNREACH, slow: errno.EAGAIN}
    jobs = [_answered(1, gone), _answered(2, slow), _answered(3, slow)]
    sent = outbox.tell(jobs)
    assert sent is not None
    assert sent.unroutable == jobs[:1]
    clients.codes[slow] = errno.EHOSTUNREACH
    assert outbox.retry() == jobs[1:]
    assert (len(outbox), outbox.bytes, bool(outbox)) == (0, 0, False)
    clients.codes[slow] = errno.EAGAIN
    outbox.tell([_answered(4, slow)])
    assert [job.number for job in outbox.drop(slow)] == [4]
    assert outbox.drop(slow) == []


# --- Publisher


class Log:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def log(self, level: int, event: str, /, **fields: Any) -> None:
        """As structlog."""
        self.lines.append((event, fields))


def test_a_flood_of_one_event_becomes_a_few_lines_and_a_count() -> None:
    """What is held back is counted; the count goes with the next line, or is said when its window is over."""
    log, now = Log(), [0]
    publisher = Publisher(log, lambda: now[0])
    for _ in range(LINES_MAX + 100):
        publisher((Event.ANSWER_REFUSED, {"count": 1}))
    publisher((Event.WORKER_LOST, {}))
    assert len(log.lines) == LINES_MAX + 1, "other events are not held back for it"
    assert publisher.due() == WINDOW_NS
    publisher.flush()
    assert len(log.lines) == LINES_MAX + 1
    now[0] = WINDOW_NS
    publisher.flush()
    assert log.lines[-1] == ("answer_refused", {"held_back": 100})
    assert publisher.due() is None


def test_the_next_line_of_an_event_says_what_was_held_back() -> None:
    """A new window begins with the count of the last one."""
    log, now = Log(), [0]
    publisher = Publisher(log, lambda: now[0])
    for _ in range(LINES_MAX + 3):
        publisher((Event.JOB_DISCARDED, {"job": 1}))
    now[0] = WINDOW_NS
    publisher((Event.JOB_DISCARDED, {"job": 2}))
    assert log.lines[-1] == ("job_discarded", {"job": 2, "held_back": 3})


def test_steps_and_the_brokers_own_life_are_never_held_back() -> None:
    """Debug lines are asked for, and the broker begins and ends once."""
    log = Log()
    publisher = Publisher(log, lambda: 0)
    for _ in range(1_000):
        publisher((Event.JOB_FINISHED, {}))
    assert len(log.lines) == 1_000


# --- Lease time


def test_lease_time_leaves_out_what_the_broker_could_not_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall is taken out of it, but for the part that ordinary scheduling takes; a short delay is not a stall."""
    real = [1_000]
    monkeypatch.setattr(broker.time, "monotonic_ns", lambda: real[0])
    clock = LeaseClock()
    assert clock.now() == 1_000
    real[0] += broker.STALL_NS
    assert clock.deaf(broker.STALL_NS) is False
    assert clock.now() == 1_000 + broker.STALL_NS
    before = clock.now()
    real[0] += 60 * 10**9
    assert clock.deaf(60 * 10**9) is True
    assert before <= clock.now() <= before + broker.STALL_NS


def test_one_connection_cannot_fill_the_roster() -> None:
    """Return paths behind one connection have a bound of their own; others still find a place."""
    roster = _roster(paths_max=10)
    liar, honest = Peer(b"\0liar"), Peer(b"\0honest", socket_type="REQ")
    arrived, refused = roster.ask([(liar, b"%d" % i, b"") for i in range(50)])
    assert (len(arrived), refused) == (10, 40)
    arrived, refused = roster.ask([(honest, b"", b"")])
    assert (len(arrived), refused) == (1, 0)


def test_a_fruitless_look_for_room_is_not_repeated_for_every_ask() -> None:
    """Refusing an ask of a full roster does not cost a walk over all workers."""
    roster = _roster(workers_max=64, paths_max=1_000)
    peer = Peer(b"\0peer")
    roster.ask([(peer, b"%d" % i, b"") for i in range(64)])
    looks = 0
    routes = roster.routes

    class Counting(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            nonlocal looks
            looks += 1
            return super().items()

    roster.routes = Counting(routes)
    _, refused = roster.ask([(peer, b"new %d" % i, b"") for i in range(10)])
    assert refused == 10
    assert looks <= 3
