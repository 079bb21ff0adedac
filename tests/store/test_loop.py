"""The loop with a store that settles late, out of step, and never: what speaks of a turn leaves after it is safe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relet.broker import Broker
from relet.core.job import BLOCKED, RUNNING
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.dialects.native import encode, to_client, to_worker
from relet.events import Event
from relet.messages import (
    TOO_LARGE,
    VERSION,
    ClientHello,
    Complete,
    Dispatch,
    Fail,
    Native,
    Peer,
    Record,
    Refused,
    Submit,
    WorkerAsk,
    WorkerHello,
)
from relet.server import Server
from relet.store import StoreFailed
from relet.store.memory import MemoryStore
from relet.testing import LateStore, census

MS = 1_000_000


def test_nobody_can_connect_before_the_store_is_loaded(tmp_path: Path) -> None:
    """Liveness: "One that loads its store listens when that is done": nobody finds a silent broker."""
    sockets = [tmp_path / role for role in ("clients", "workers", "answers")]

    class Slow(MemoryStore):
        def load(self) -> Iterator[Record]:
            bound.extend(it.exists() for it in sockets)
            return super().load()

    bound: list[bool] = []
    broker = Broker(*(f"ipc://{it}" for it in sockets), store=Slow())
    try:
        assert bound == [False] * 3
        assert all(it.exists() for it in sockets)
    finally:
        broker.close()


def test_a_store_that_cannot_be_loaded_leaves_nothing_behind(tmp_path: Path) -> None:
    """The next broker can have the same endpoints."""
    endpoints = [f"ipc://{tmp_path}/{role}" for role in "cwa"]

    class Broken(MemoryStore):
        def load(self) -> Iterator[Record]:
            raise StoreFailed("unreadable")

    with pytest.raises(StoreFailed, match="unreadable"):
        Broker(*endpoints, store=Broken())
    Broker(*endpoints).close()


class Port:
    """An endpoint that a test writes to and reads from."""

    handshakes_failed = 0
    accepts_failed = 0

    def __init__(self) -> None:
        self.incoming: list[Any] = []
        self.refused: list[Refused] = []
        self.native: list[Native] = []
        self.lost: list[Peer] = []
        self.sent: list[tuple[Any, ...]] = []
        self.codes: dict[Peer, int] = {}

    def receive(self, messages_max: int, bytes_max: int = 1 << 62) -> list[Any]:
        """As a socket: so many, in order."""
        taken, self.incoming = self.incoming[:messages_max], self.incoming[messages_max:]
        return taken

    def send(self, messages: list[tuple[Any, ...]]) -> list[tuple[int, int]]:
        """Takes all but those to peers that have a code."""
        failures = [(index, self.codes[it[0]]) for index, it in enumerate(messages) if it[0] in self.codes]
        self.sent += [it for it in messages if it[0] not in self.codes]
        return failures

    def take_native(self) -> list[Native]:
        """As a port."""
        native, self.native = self.native, []
        return native

    def take_refused(self) -> list[Refused]:
        """As a port."""
        refused, self.refused = self.refused, []
        return refused

    def take_lost(self) -> list[Peer]:
        """As a port."""
        lost, self.lost = self.lost, []
        return lost

    def forget(self, peer: Peer) -> None:
        """As a port."""
        peer.routing_id = b""


class Loop:
    """A server between three ports and a store."""

    def __init__(self, store: LateStore | None, **options: Any) -> None:
        self.store = store
        self.clients, self.workers, self.answers = Port(), Port(), Port()
        self.machine = Machine(
            (b"%016d" % number for number in itertools.count(1)), keeps_records=store is not None, **options
        )
        if store is not None:
            self.machine.load(store.load(), 0, store.seal_key)
        self.loaded = self.machine.open
        self.said: list[Any] = []
        self.server = Server(self.machine, self.clients, self.workers, self.answers, self.said.append, store)
        self.now = 0
        self.client, self.worker = Peer(b"client", socket_type="DEALER"), Peer(b"worker", socket_type="DEALER")

    def turn(self) -> None:
        """One turn, and a look at everything after it."""
        self.now += MS
        self.server.turn(self.now)
        census.check(self.machine, loaded=self.loaded)

    def submit(self, *bodies: bytes) -> None:
        """Requests; each body is its own return path."""
        self.clients.incoming += [(self.client, body, body) for body in bodies]
        self.turn()

    def ask(self, times: int = 1) -> None:
        """Asks of the one worker."""
        self.workers.incoming += [(self.worker, b"", b"")] * times
        self.turn()

    def answer(self, *bodies: bytes) -> None:
        """Answers to jobs that were handed over."""
        tokens = {body: token for _, _, _, token, body in self.workers.sent}
        self.answers.incoming += [(tokens[body], b"did " + body) for body in bodies]
        self.turn()

    @property
    def given(self) -> list[bytes]:
        """The bodies of what was handed over, in order."""
        return [message[4] for message in self.workers.sent]

    @property
    def told(self) -> list[tuple[bytes, bytes]]:
        """(return path, outcome), in order."""
        return [(message[1], message[3]) for message in self.clients.sent]


def test_without_a_store_everything_happens_in_one_turn() -> None:
    """A job that finds an ask is handed over, and an answer is told, in the turn that read them."""
    loop = Loop(None)
    loop.ask(2)
    loop.submit(b"a")
    assert loop.given == [b"a"]
    loop.answer(b"a")
    assert loop.told == [(b"a", b"did a")]


def test_nothing_is_dispatched_before_its_acceptance_is_safe() -> None:
    """The disk is late: jobs wait, turn after turn, and leave when the turn that accepted them is safe."""
    loop = Loop(LateStore())
    loop.ask(3)
    loop.submit(b"a")
    loop.submit(b"b")
    for _ in range(5):
        loop.turn()
    assert loop.given == []
    loop.store.settle(1)
    loop.turn()
    assert loop.given == [b"a"]
    loop.store.settle(100)
    loop.turn()
    assert loop.given == [b"a", b"b"]


def test_nothing_is_told_before_its_outcome_is_safe() -> None:
    """An answer and a failure are told when the record that justifies them is safe, not when they are known."""
    loop = Loop(LateStore(), tries=1, timeout_ns=50 * MS)
    loop.submit(b"a", b"b")
    loop.store.settle(100)
    loop.ask(2)
    loop.answer(b"a")
    loop.now += 50 * MS
    loop.turn()
    assert loop.machine.open == 0
    for _ in range(5):
        loop.turn()
    assert loop.told == []
    loop.store.settle(100)
    loop.turn()
    assert loop.told == [(b"a", b"did a"), (b"b", b"")]


def test_replies_keep_their_order_when_turns_settle_out_of_step() -> None:
    """Several turns become safe at once, or half of them: what is told is told in the order in which it happened."""
    loop = Loop(LateStore())
    bodies = [b"%d" % number for number in range(8)]
    loop.submit(*bodies)
    loop.store.settle(100)
    loop.ask(8)
    for body in reversed(bodies):
        loop.answer(body)
    for turns in (0, 2, 3, 0, 100):
        loop.store.settle(turns)
        loop.turn()
    assert [path for path, _ in loop.told] == bodies[::-1]


def test_a_store_that_never_settles_tells_nobody_anything() -> None:
    """No promise leaves the broker; it goes on reading and refusing all the same."""
    loop = Loop(LateStore())
    loop.ask(5)
    for number in range(20):
        loop.submit(b"%d" % number)
    loop.clients.refused.append(Refused(loop.client, b"too large", TOO_LARGE))
    loop.turn()
    assert loop.given == []
    assert loop.told == [(b"too large", b"")], "a refusal promises nothing, so it waits for nothing"
    assert loop.machine.open == 20


def test_notices_wait_with_what_they_speak_of() -> None:
    """The log does not say that a job was discarded before that is so for good."""
    loop = Loop(LateStore(), tries=1, timeout_ns=10 * MS)
    loop.submit(b"a")
    loop.store.settle(100)
    loop.ask()
    loop.now += 10 * MS
    loop.turn()
    assert Event.JOB_DISCARDED not in [event for event, _ in loop.said]
    loop.store.settle(100)
    loop.turn()
    assert Event.JOB_DISCARDED in [event for event, _ in loop.said]


def test_a_turn_without_records_is_safe_with_the_one_before() -> None:
    """Turns that brought nothing to keep need no commit of their own."""
    loop = Loop(LateStore())
    loop.submit(b"a")
    loop.turn()
    assert len(loop.store.pending) == 1
    loop.store.settle(1)
    loop.ask()
    assert loop.given == [b"a"]


def test_a_store_that_fails_stops_the_loop() -> None:
    """What was not kept is not acknowledged: the failure passes through, and nothing was told."""
    loop = Loop(LateStore())
    loop.store.fails = True
    with pytest.raises(StoreFailed):
        loop.submit(b"a")
    assert loop.told == []


def test_turns_go_on_counting_where_the_store_left_off() -> None:
    """Found by simulation (world 1/29): a new broker began at turn 1 and took all its turns for safe at once."""
    store = LateStore()
    first = Loop(store)
    for number in range(5):
        first.submit(b"%d" % number)
    store.settle(100)
    second = Loop(store)
    second.ask(20)
    second.submit(b"new")
    assert b"new" not in second.given
    store.settle(100)
    second.turn()
    assert b"new" in second.given


def test_a_loaded_job_that_ends_is_told_nobody_and_kept() -> None:
    """Whoever asked for it is not connected any more; the outcome can be looked at, also after another restart."""
    store = LateStore()
    loop = Loop(store)
    loop.submit(b"a")
    store.settle(100)
    loop = Loop(store)
    loop.ask()
    loop.answer(b"a")
    store.settle(100)
    loop.turn()
    loop.turn()
    store.settle(100)
    assert loop.told == []
    assert [job.answer for job in loop.machine.kept] == [b"did a"]
    again = Loop(store)
    assert [job.answer for job in again.machine.kept] == [b"did a"]


def test_the_answer_to_a_hand_over_that_a_crash_forgot_counts() -> None:
    """Promise 2, and decision 13: the record of a hand-over rides with the next commit; what its worker answers to the
    next broker is a late answer, and the job is not done again.
    """
    store = LateStore()
    loop = Loop(store)
    loop.submit(b"a", b"b")
    store.settle(100)
    loop.ask()
    assert loop.given == [b"a"]
    (_, _, _, token, _) = loop.workers.sent[0]
    store.crash()
    loop = Loop(store)
    assert [job.attempts for job in loop.machine.jobs()] == [0, 0], "the hand-over is forgotten"
    loop.answers.incoming += [(token, b"did a"), (token, b"again"), (token[:-1] + b"?", b"forged")]
    loop.turn()
    loop.ask(5)
    assert loop.given == [b"b"]
    assert (loop.machine.counters.answers_late, loop.machine.counters.answers_refused) == (1, 2)
    assert [job.state for job in loop.machine.jobs()] == [RUNNING]


def native(loop: Loop, role: Port, peer: Peer, said: Any, body: Any = ()) -> list[Any]:
    """A native message, a turn, and what has been answered on that endpoint since the last call."""
    role.native.append((peer, b"", VERSION, encode(said), body))
    loop.turn()
    read = to_worker if role is loop.workers else to_client
    sent, role.sent = role.sent, []
    return [read(VERSION, message[3]) for message in sent]


HELLO = WorkerHello(incarnation=b"w" * 16, features=("starts",))
REQUEST = Submit(id=b"request of a client")


def forgotten(store: LateStore, *, times: int = 1, **terms: Any) -> list[bytes]:
    """A client asks for a job, and a native worker has it, for the so manieth time; the broker crashes and has
    forgotten the last hand-over. The tokens.
    """
    loop = Loop(store)
    native(loop, loop.clients, loop.client, ClientHello())
    native(loop, loop.clients, loop.client, msgspec.structs.replace(REQUEST, **terms), b"a")
    store.settle(100)
    native(loop, loop.workers, loop.worker, HELLO)
    said = native(loop, loop.workers, loop.worker, WorkerAsk(credit=1))
    for number in range(1, times):
        failed = Fail(token=said[-1].token, n=number, retry_ms=0, credit=number + 1)
        said += native(loop, loop.workers, loop.worker, failed)
        store.settle(1)
    store.crash()
    return [it.token for it in said if isinstance(it, Dispatch)]


@pytest.mark.parametrize("times", [1, 2])
def test_a_native_worker_completes_what_a_crash_forgot_that_it_has(times: int) -> None:
    """The same natively, with headers, be it the first hand-over or the second: the answer counts, and its client, who
    asks again, is told it.
    """
    store = LateStore()
    *_, token = forgotten(store, times=times)
    loop = Loop(store)
    assert [(it.attempts, it.token == token) for it in loop.machine.jobs()] == [(times - 1, False)]
    native(loop, loop.workers, loop.worker, HELLO)
    native(loop, loop.workers, loop.worker, Complete(token=token, n=times, headers={"x": "y"}, credit=5), b"did a")
    assert loop.machine.counters.dispatches == 0
    native(loop, loop.clients, loop.client, ClientHello())
    native(loop, loop.clients, loop.client, msgspec.structs.replace(REQUEST, age_ms=1), b"a")
    store.settle(100)
    loop.turn()
    (outcome,) = [to_client(VERSION, message[3]) for message in loop.clients.sent]
    assert (outcome.state, outcome.headers, loop.clients.sent[0][4]) == ("completed", {"x": "y"}, b"did a")


def test_a_native_worker_goes_on_with_what_a_crash_forgot_that_it_has() -> None:
    """Sessions: its claim holds, the job goes to nobody else meanwhile, and that attempt counts."""
    store = LateStore()
    (token,) = forgotten(store)
    loop = Loop(store)
    loop.ask()
    assert [message[4] for message in loop.workers.sent] == [b"a"]
    loop.workers.sent.clear()
    (welcome,) = native(loop, loop.workers, loop.worker, msgspec.structs.replace(HELLO, running=(token,)))
    assert welcome.lost == (token,), "somebody else has it by now"
    loop = Loop(store)
    (welcome,) = native(loop, loop.workers, loop.worker, msgspec.structs.replace(HELLO, running=(token,)))
    assert welcome.lost == ()
    loop.ask(3)
    native(loop, loop.workers, loop.worker, WorkerAsk(credit=3))
    assert (loop.machine.counters.dispatches, [job.attempts for job in loop.machine.jobs()]) == (0, [1])
    native(loop, loop.workers, loop.worker, Complete(token=token, n=1), b"did a")
    assert (loop.machine.open, loop.machine.counters.answers_late) == (0, 0)


def test_what_has_not_been_started_is_let_to_others_after_a_crash_that_forgot_it() -> None:
    """Its worker may claim it as held: it drops it, and nothing is counted."""
    store = LateStore()
    (token,) = forgotten(store)
    loop = Loop(store)
    (welcome,) = native(loop, loop.workers, loop.worker, msgspec.structs.replace(HELLO, held=(token,)))
    assert welcome.lost == (token,)
    (job,) = native(loop, loop.workers, loop.worker, WorkerAsk(credit=1))
    assert job.attempt == 1


def test_of_two_answers_in_one_turn_one_counts_though_a_crash_forgot_the_hand_over_of_the_other() -> None:
    """Found by simulation (world keep/66): the second ended a job that had its answer already."""
    store = LateStore()
    tokens = forgotten(store, times=2)
    loop = Loop(store)
    loop.answers.incoming += [(token, b"did a") for token in tokens]
    loop.turn()
    assert (loop.machine.counters.jobs_completed, loop.machine.counters.answers_refused) == (1, 1)


def test_the_answer_to_a_forgotten_hand_over_is_refused_where_the_job_takes_its_current_attempt_only() -> None:
    """`late: current`: what a crash forgot is done again, and only that counts."""
    store = LateStore()
    (token,) = forgotten(store, late="current")
    loop = Loop(store)
    native(loop, loop.workers, loop.worker, HELLO)
    (refused,) = native(loop, loop.workers, loop.worker, Complete(token=token, n=1), b"did a")
    assert (refused.code, loop.machine.open) == ("not_open", 1)
    loop.ask()
    assert loop.given == [b"a"]


def test_a_job_that_waits_for_another_again_may_be_answered_all_the_same() -> None:
    """A crash forgot the end of the first of an order key, and that the second was handed over after it."""
    store = LateStore()
    loop = Loop(store)
    native(loop, loop.clients, loop.client, ClientHello())
    for number in (1, 2):
        said = Submit(id=b"request of a client, %d" % number, order="k")
        native(loop, loop.clients, loop.client, said, b"%d" % number)
    store.settle(100)
    loop.ask(2)
    loop.turn()
    store.settle(100)
    loop.answer(b"1")
    assert loop.given == [b"1", b"2"]
    tokens = {message[4]: message[3] for message in loop.workers.sent}
    store.crash()
    loop = Loop(store)
    assert sorted(job.state for job in loop.machine.jobs()) == [RUNNING, BLOCKED]
    loop.answers.incoming += [(tokens[b"2"], b"did 2")]
    loop.turn()
    assert [job.body for job in loop.machine.jobs()] == [b"1"]
    loop.answers.incoming += [(tokens[b"1"], b"did 1")]
    loop.turn()
    assert loop.machine.open == 0


def test_the_token_of_a_job_is_not_that_of_one_with_the_same_number() -> None:
    """A store that was restored from a backup gives numbers again: an answer to another job must not count."""
    store, copy = LateStore(), LateStore()
    assert store.seal_key == copy.seal_key
    loop = Loop(store)
    loop.submit(b"a")
    store.settle(100)
    loop.ask()
    (_, _, _, token, _) = loop.workers.sent[0]
    loop = Loop(copy)
    loop.machine.tokens = itertools.repeat(b"drawn otherwise!")
    loop.submit(b"something else")
    copy.settle(100)
    copy.crash()
    loop = Loop(copy)
    assert [job.number for job in loop.machine.jobs()] == [1]
    loop.answers.incoming += [(token, b"did a")]
    loop.turn()
    assert (loop.machine.counters.answers_refused, loop.machine.open) == (1, 1)


def test_the_loop_wakes_for_clients_when_there_is_room_again() -> None:
    """Found by reading: all open jobs end in the turn that still saw no room; nothing else would wake the poll."""
    loop = Loop(None, limits=Limits(jobs_max=1))
    loop.ask(2)
    loop.submit(b"a")
    loop.submit(b"b")
    assert loop.server.paused
    assert loop.clients.incoming
    assert not loop.server.busy
    loop.answer(b"a")
    assert loop.server.busy, "there is room, and the clients' socket is not polled"
    loop.turn()
    assert loop.given == [b"a", b"b"]


def test_a_refusal_waits_for_a_client_that_does_not_read() -> None:
    """Found by reading: a refusal that could not be sent at once was never sent."""
    loop = Loop(None)
    loop.clients.codes[loop.client] = 11  # EAGAIN
    loop.clients.refused.append(Refused(loop.client, b"large", TOO_LARGE))
    loop.turn()
    assert loop.told == []
    loop.clients.codes.clear()
    loop.now += 100 * MS
    loop.turn()
    assert loop.told == [(b"large", b"")]


def test_of_two_answers_in_one_turn_the_first_wins_whatever_its_frames() -> None:
    """Found by simulation (world 1/0): an answer of two frames overtook one of three."""
    loop = Loop(None)
    loop.ask()
    loop.submit(b"a")
    token = loop.workers.sent[0][3]
    loop.answers.incoming += [(token, b"first", b"of several"), (token, b"second")]
    loop.turn()
    assert loop.told == [(b"a", (b"first", b"of several"))]


def test_a_stop_answers_what_is_too_large_as_well() -> None:
    """Found by simulation (world 1/255): what was read during the stop and could not be taken was not answered."""
    loop = Loop(None)
    loop.server.draining = True
    loop.clients.refused.append(Refused(loop.client, b"large", TOO_LARGE))
    loop.clients.incoming.append((loop.client, b"small", b"body"))
    while not loop.server.stop(loop.now):
        pass
    assert sorted(path for path, _ in loop.told) == [b"large", b"small"]


def test_the_stop_waits_for_the_store() -> None:
    """What the stop ends is told when that is safe, and the stop is over when all is told."""
    loop = Loop(LateStore())
    loop.submit(b"a", b"b")
    loop.server.draining = True
    assert [loop.server.stop(loop.now) for _ in range(3)] == [False] * 3
    assert loop.told == []
    loop.store.settle(100)
    assert loop.server.stop(loop.now)
    assert sorted(loop.told) == [(b"a", b""), (b"b", b"")]


def test_a_slow_disk_gathers_no_more_than_a_commit_may_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a commit is under way, clients are not read beyond that; what is open, is heard of all the same."""
    monkeypatch.setattr("relet.server.COMMIT_BYTES_MAX", 1_000)

    class Busy(LateStore):
        under_way = False

        def busy(self) -> bool:
            return self.under_way

    loop = Loop(store := Busy())
    loop.submit(b"a")
    store.settle()
    store.under_way = True
    loop.submit(b"b" * 400)
    loop.submit(b"c" * 400)
    assert loop.machine.open == 3
    loop.submit(b"d")
    assert (loop.machine.open, loop.server.hears_clients) == (3, False)
    loop.ask()
    assert loop.given == [b"a"]
    assert (len(store.pending), loop.server.busy) == (0, False)
    store.under_way = False
    loop.turn()
    assert len(store.pending) == 1
    assert (loop.machine.open, loop.server.hears_clients) == (4, True)
