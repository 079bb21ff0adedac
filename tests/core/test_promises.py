"""The promises, one conversation each: time is advanced by hand, nothing sleeps, and nothing is sent anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from relet.core.job import CANCELLED, COMPLETED, DISCARDED, Reason
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.events import Event
from relet.messages import Peer

MS = 1_000_000
S = 1_000 * MS


# --- 1. Pull


def test_promise_1_pull_a_job_goes_only_to_a_worker_that_has_asked(play: Any) -> None:
    """Promise 1: one ask, one job; a busy worker gets nothing."""
    it = play()
    it.submit(b"a", b"b")
    assert it.given == []
    it.ask("w")
    assert it.given == [("w", b"a")]
    it.wait(10 * S)
    assert it.given == [("w", b"a")], "its ask is spent"
    it.ask("w")
    assert it.given == [("w", b"a"), ("w", b"b")]


def test_promise_1_pull_an_ask_waits_for_a_job(play: Any) -> None:
    """Promise 1: an ask that finds no job is kept, and served as soon as there is one."""
    it = play()
    it.ask("w")
    it.wait(3600 * S)
    it.submit(b"a")
    assert it.given == [("w", b"a")]


def test_promise_1_pull_a_new_ask_on_a_req_connection_replaces_the_older_one(play: Any) -> None:
    """Promise 1: a REQ peer can wait for one job only, however often it asks."""
    it = play()
    it.ask("w", times=5)
    it.submit(b"a", b"b")
    assert it.given == [("w", b"a")]


def test_promise_1_pull_asks_of_a_dealer_add_up_to_the_bound(play: Any) -> None:
    """Promise 1 and 7: a DEALER may ask ahead, up to `asks_per_worker_max`; more are refused and counted."""
    it = play(limits=Limits(asks_per_worker_max=3))
    it.ask("w", times=5, socket_type="DEALER")
    it.submit(b"a", b"b", b"c", b"d")
    assert [body for _, body in it.given] == [b"a", b"b", b"c"]
    assert it.counters.asks_refused == 2


def test_promise_7_bounded_everything_asks_of_all_workers_have_a_bound(play: Any) -> None:
    """Promise 7: `asks_max` holds for all workers together."""
    it = play(limits=Limits(asks_max=2))
    for name in ("w1", "w2", "w3"):
        it.ask(name)
    assert it.counters.asks_refused == 1
    it.submit(b"a", b"b", b"c")
    assert [name for name, _ in it.given] == ["w1", "w2"]


def test_promise_1_pull_workers_take_turns(play: Any) -> None:
    """Promise 1: who asked for many jobs does not get them before another that asked for one."""
    it = play()
    it.ask("many", times=3, socket_type="DEALER")
    it.ask("one")
    it.ask("other", times=2, socket_type="DEALER")
    it.submit(b"a", b"b", b"c", b"d", b"e", b"f")
    assert [name for name, _ in it.given] == ["many", "one", "other", "many", "other", "many"]


def test_promise_1_pull_each_return_path_behind_a_proxy_is_a_worker(play: Any) -> None:
    """Promise 1: workers behind one connection have each their own credit."""
    it = play()
    it.ask("proxy", path=b"\0\0\0\1a", socket_type="DEALER")
    it.ask("proxy", path=b"\0\0\0\1b", socket_type="DEALER")
    it.submit(b"a", b"b", b"c")
    assert len(it.given) == 2
    assert {worker.path for worker in it.machine.roster} == {b"\0\0\0\1a", b"\0\0\0\1b"}


def test_jobs_are_dispatched_oldest_first(play: Any) -> None:
    """Jobs wait in the order of their acceptance, whoever sent them."""
    it = play()
    it.submit(b"a", client="one")
    it.submit(b"b", client="other")
    it.submit(b"c", client="one")
    it.ask("w", times=3, socket_type="DEALER")
    assert [body for _, body in it.given] == [b"a", b"b", b"c"]


# --- 2. Kept


def test_promise_2_kept_a_job_has_one_outcome_and_it_is_told_once(play: Any) -> None:
    """Promise 2: the first valid answer is the outcome; a second one changes nothing and tells nobody."""
    it = play()
    it.submit(b"a")
    it.ask("w")
    it.answer(b"a", b"first")
    it.answer(b"a", b"second")
    it.wait(3600 * S)
    assert it.told == [("client", b"first")]
    assert it.counters.answers_refused == 1


def test_promise_2_kept_an_outcome_that_reached_nobody_is_kept(play: Any) -> None:
    """Promise 2: the client is gone; the job ended all the same, and its answer can be looked at."""
    it = play()
    it.submit(b"a")
    it.ask("w")
    it.machine.complete([(it.token[b"a"], b"done")], it.now)
    finished, it.machine.finished = it.machine.finished, []
    it.machine.untold(finished)
    assert [(job.state, job.answer) for job in it.machine.kept] == [(COMPLETED, b"done")]
    assert it.counters.replies_unroutable == 1


def test_promise_2_kept_a_job_whose_client_is_gone_runs_and_ends(play: Any) -> None:
    """Promise 2: nobody withdraws a job by going away."""
    it = play(tries=2, timeout_ns=1 * S)
    it.submit(b"a")
    it.ask("w", times=2, socket_type="DEALER")
    it.lose("client")
    it.wait(5 * S)
    assert it.machine.open == 0
    assert it.counters.jobs_discarded == 1


# --- 3. Bounded, 4. Told


@pytest.mark.parametrize("tries", [1, 2, 3, 7])
def test_promise_3_bounded_the_client_is_told_after_n_counted_attempts(play: Any, tries: int) -> None:
    """Promises 3 and 4: N attempts, each its full time, then the failure; not one more and not one less."""
    it = play(tries=tries, timeout_ns=2 * S)
    it.ask("w", times=20, socket_type="DEALER")
    it.submit(b"a")
    it.wait(tries * 2 * S - 1)
    assert it.told == []
    it.wait(1)
    assert it.told == [("client", b"")]
    assert it.given == [("w", b"a")] * tries
    it.wait(3600 * S)
    assert len(it.given) == tries
    assert len(it.told) == 1


def test_promise_4_told_a_failed_job_is_kept_with_its_ledger(play: Any) -> None:
    """Promise 4: the dead letter says when each attempt began and ended, and why."""
    it = play(tries=2, timeout_ns=1 * S, limits=Limits(worker_grace_ns=20 * MS))
    it.submit(b"a")
    it.ask("w1")
    it.wait(1 * S)
    it.ask("w2")
    it.wait(300 * MS)
    it.lose("w2")
    it.wait(1 * S)
    (letter,) = it.machine.kept
    assert (letter.state, letter.reason, letter.body) == (DISCARDED, Reason.TRIES_SPENT, b"a")
    assert [(entry.attempt, entry.cause) for entry in letter.ledger] == [(1, "expired"), (2, "worker_lost")]
    assert letter.ledger[0].ended_ms - letter.ledger[0].began_ms == 1_000
    assert letter.ledger[1].ended_ms - letter.ledger[1].began_ms == 320


def test_promise_7_bounded_everything_the_ledger_keeps_its_last_entries(play: Any) -> None:
    """Promise 7: where tries are unlimited the ledger is not."""
    it = play(timeout_ns=1 * S, limits=Limits(ledger_entries_max=3))
    it.submit(b"a")
    it.ask("w", times=10, socket_type="DEALER")
    it.wait(5 * S)
    (job,) = it.machine.jobs()
    assert [entry.attempt for entry in job.ledger] == [3, 4, 5]


def test_without_tries_a_job_is_let_again_for_ever(play: Any) -> None:
    """Without -t there is no limit: the job goes on until somebody answers."""
    it = play(timeout_ns=1 * S)
    it.submit(b"a")
    it.ask("w", times=500, socket_type="DEALER")
    it.wait(400 * S)
    assert it.told == []
    it.answer(b"a")
    assert it.told == [("client", b"done")]


def test_without_a_timeout_a_job_runs_as_long_as_it_takes(play: Any) -> None:
    """Without -T the broker works (that of 2010 crashed): no attempt expires, and the answer counts after a year."""
    it = play(tries=3)
    it.submit(b"a")
    it.ask("w")
    assert it.machine.next_deadline() is None
    it.wait(365 * 24 * 3600 * S)
    assert it.told == []
    it.answer(b"a")
    assert it.told == [("client", b"done")]


# --- 3. Hand-overs that never left


def test_promise_3_bounded_a_hand_over_that_never_left_costs_no_attempt(play: Any) -> None:
    """Promise 3: a dead worker's ask costs the job neither an attempt nor time, and its old place is kept."""
    it = play(tries=1, timeout_ns=10 * S)
    it.unreachable = {"dead"}
    it.ask("dead")
    it.submit(b"a", b"b")
    it.ask("w")
    assert it.given == [("w", b"a")], "given back to the place it had, before the younger one"
    assert it.counters.handovers_undelivered == 1
    it.answer(b"a")
    assert it.told == [("client", b"done")]


def test_promise_3_bounded_a_worker_that_cannot_be_reached_must_ask_again(play: Any) -> None:
    """Promise 3: all that it asked for before is void; what it asks for now counts."""
    it = play()
    it.unreachable = {"w"}
    it.ask("w", times=5, socket_type="DEALER")
    it.submit(b"a", b"b")
    assert it.given == []
    assert it.counters.handovers_undelivered == 2
    it.unreachable = set()
    it.wait(1 * S)
    assert it.given == []
    it.ask("w", times=1, socket_type="DEALER")
    assert it.given == [("w", b"a")]


def test_promise_3_bounded_lost_hand_overs_have_a_bound_of_their_own(play: Any) -> None:
    """Promise 3: a job that can be handed to nobody is not tried for ever; the failure names the reason."""
    it = play(limits=Limits(handovers_max=3))
    it.unreachable = {"dead"}
    it.submit(b"a")
    for _ in range(3):
        assert it.told == []
        it.ask("dead", socket_type="DEALER")
    assert it.told == [("client", b"")]
    assert next(iter(it.machine.kept)).reason == Reason.HANDOVERS_SPENT
    assert next(iter(it.machine.kept)).attempts == 0


# --- 5. Again, and soon


def test_promise_5_again_a_lost_attempt_is_let_again_when_its_time_is_up_and_never_early(play: Any) -> None:
    """Promise 5: to the nanosecond of lease time."""
    it = play(tries=3, timeout_ns=2 * S)
    it.submit(b"a")
    it.ask("w1")
    it.ask("w2")
    it.wait(2 * S - 1)
    assert it.given == [("w1", b"a")]
    it.wait(1)
    assert it.given == [("w1", b"a"), ("w2", b"a")]


def test_promise_5_again_a_lost_workers_leases_end_after_the_grace(play: Any) -> None:
    """Promise 5: its last answer may be under way, so the job is let again only when the grace is over."""
    it = play(tries=3, timeout_ns=3600 * S, limits=Limits(worker_grace_ns=20 * MS))
    it.submit(b"a", b"b")
    it.ask("w", times=2, socket_type="DEALER")
    it.ask("other", times=2, socket_type="DEALER")
    it.given.clear()
    it.lose("w")
    it.wait(20 * MS - 1)
    assert it.given == []
    it.wait(1)
    assert it.given == [("other", b"a"), ("other", b"b")]
    assert it.counters.attempts_lost == 2


def test_promise_5_again_the_last_answer_of_a_lost_worker_counts_within_the_grace(play: Any) -> None:
    """Promise 5 and 6: the answer that was under way when its worker died ends the job at its first attempt."""
    it = play(tries=1, limits=Limits(worker_grace_ns=20 * MS))
    it.submit(b"a")
    it.ask("w")
    it.lose("w")
    it.wait(10 * MS)
    it.answer(b"a")
    it.wait(1 * S)
    assert it.told == [("client", b"done")]
    assert it.counters.attempts_lost == 0


def test_promise_5_again_a_lost_workers_asks_are_void_at_once(play: Any) -> None:
    """Promise 5: no job goes to a worker that is known to be gone."""
    it = play()
    it.ask("w", times=3, socket_type="DEALER")
    it.lose("w")
    it.submit(b"a")
    assert it.given == []
    it.ask("w")
    assert it.given == [("w", b"a")], "who comes back is somebody else"


def test_promise_5_again_a_job_that_comes_back_takes_its_old_place(play: Any) -> None:
    """Promise 5: age counts, not the moment of coming back."""
    it = play(timeout_ns=1 * S)
    it.submit(b"a", b"b")
    it.ask("w1")
    it.ask("w2")
    it.submit(b"c", b"d")
    it.wait(1 * S)
    it.given.clear()
    it.ask("w3", times=4, socket_type="DEALER")
    assert [body for _, body in it.given] == [b"a", b"b", b"c", b"d"]


# --- 6. At least once


def test_promise_6_at_least_once_a_late_answer_counts_while_the_job_waits(play: Any) -> None:
    """Promise 6: an answer after the attempt ended, before the next one, is the outcome (2010 threw it away)."""
    it = play(tries=3, timeout_ns=1 * S)
    it.submit(b"a")
    it.ask("w")
    it.wait(2 * S)
    it.answer(b"a", b"late")
    assert it.told == [("client", b"late")]
    assert it.counters.answers_late == 1
    it.ask("w2")
    assert it.given == [("w", b"a")], "it is not run again"


def test_promise_6_at_least_once_a_late_answer_counts_while_the_job_runs_elsewhere(play: Any) -> None:
    """Promise 6: the id is the same for every attempt, so whoever answers first wins; the other is refused."""
    it = play(tries=3, timeout_ns=1 * S)
    it.submit(b"a")
    it.ask("w1")
    first = it.token[b"a"]
    it.wait(1 * S)
    it.ask("w2")
    assert it.token[b"a"] == first
    it.answer(b"a", b"from w1")
    it.answer(b"a", b"from w2")
    assert it.told == [("client", b"from w1")]
    assert it.counters.answers_refused == 1


def test_promise_6_at_least_once_an_answer_after_the_failure_changes_nothing(play: Any) -> None:
    """Promise 6: what has been told stays so."""
    it = play(tries=1, timeout_ns=1 * S)
    it.submit(b"a")
    it.ask("w")
    it.wait(1 * S)
    it.answer(b"a", b"too late")
    assert it.told == [("client", b"")]
    assert it.counters.answers_refused == 1


def test_promise_6_at_least_once_an_answer_with_an_id_of_nobody_is_refused(play: Any) -> None:
    """Promise 6 and 7: guessing does not help, and it is counted and told."""
    it = play()
    it.submit(b"a")
    it.ask("w")
    it.machine.complete([(b"", b"x"), (b"token-0000000002", b"x"), (b"token-0000000001 ", b"x")], it.now)
    assert it.machine.open == 1
    assert it.counters.answers_refused == 3
    assert (Event.ANSWER_REFUSED, {"count": 3}) in it.machine.notices


def test_promise_6_at_least_once_of_two_answers_in_one_batch_the_first_wins(play: Any) -> None:
    """Promise 6: order counts within a batch, too."""
    it = play()
    it.submit(b"a")
    it.ask("w")
    token = it.token[b"a"]
    it.machine.complete([(token, b"first"), (token, b"second")], it.now)
    assert [job.answer for job in it.machine.finished] == [b"first"]


def test_an_empty_answer_is_an_answer(play: Any) -> None:
    """The machine knows no empty frame that means failure: that is a spelling of the 2010 dialect."""
    it = play()
    it.submit(b"a")
    it.ask("w")
    it.machine.complete([(it.token[b"a"], b"")], it.now)
    assert [job.state for job in it.machine.finished] == [COMPLETED]


# --- 7. Bounded everything


def test_promise_7_bounded_everything_room_counts_jobs_and_bytes_with_a_reserve_of_a_tenth(play: Any) -> None:
    """Promise 7: above the limit lies a reserve; when it is full the shell reads no clients."""
    it = play(limits=Limits(jobs_max=10, jobs_bytes_max=1_000))
    assert it.machine.room() == (11, 1_100)
    it.submit(*[b"12345"] * 4)
    jobs, size = it.machine.room()
    assert (jobs, size) == (7, 1_100 - it.machine.open_bytes)
    it.submit(*[b"12345"] * 7)
    assert it.machine.room()[0] == 0
    it.ask("w")
    it.machine.complete([(it.token[b"12345"], b"")], it.now)
    assert it.machine.room()[0] == 1


def test_promise_7_bounded_everything_kept_jobs_are_bounded_by_number(play: Any) -> None:
    """Promise 7: the oldest evidence goes first."""
    it = play(tries=1, timeout_ns=1 * S, limits=Limits(kept_jobs_max=2))
    it.submit(b"a", b"b", b"c")
    it.ask("w", times=3, socket_type="DEALER")
    it.wait(1 * S)
    assert [job.body for job in it.machine.kept] == [b"b", b"c"]


def test_promise_7_bounded_everything_kept_jobs_are_bounded_by_bytes(play: Any) -> None:
    """Promise 7: one dead letter that is too large for the bound is not kept, and nothing else suffers for long."""
    it = play(tries=1, timeout_ns=1 * S, limits=Limits(kept_bytes_max=300))
    it.submit(b"123456", b"1234", b"x" * 301)
    it.ask("w", times=2, socket_type="DEALER")
    it.wait(1 * S)
    assert [job.body for job in it.machine.kept] == [b"123456", b"1234"]
    it.ask("w", socket_type="DEALER")
    it.wait(1 * S)
    assert list(it.machine.kept) == []
    assert it.counters.jobs_discarded == 3


def test_promise_7_bounded_everything_workers_have_a_bound(play: Any) -> None:
    """Promise 7: above `peers_max` a new worker's ask is refused; who is there is served."""
    it = play(limits=Limits(peers_max=2))
    for name in ("w1", "w2", "w3"):
        it.ask(name)
    assert it.counters.asks_refused == 1
    it.lose("w1")
    it.ask("w3")
    it.submit(b"a", b"b", b"c")
    assert [name for name, _ in it.given] == ["w2", "w3"]


def test_promise_7_bounded_everything_many_that_expire_at_one_instant_are_let_again_in_steps(play: Any) -> None:
    """Promise 7: one turn does so much and no more; the deadline stays due until all is done."""
    it = play(timeout_ns=1 * S, limits=Limits(turn_steps_max=10))
    it.submit(*[b"%d" % number for number in range(25)])
    it.ask("w", times=25, socket_type="DEALER")
    machine, now = it.machine, it.now + 1 * S
    for expected in (10, 20, 25):
        due = machine.next_deadline()
        assert due is not None
        assert due <= now
        machine.expire(now)
        assert it.counters.attempts_expired == expected
    assert machine.next_deadline() is None
    assert len(machine.queue) == 25


def test_promise_7_bounded_everything_many_that_a_lost_worker_held_are_let_again_in_steps(play: Any) -> None:
    """Promise 7: the same for the death of a worker that held much, and oldest first."""
    it = play(tries=1, limits=Limits(turn_steps_max=10, worker_grace_ns=0))
    it.submit(*[b"%d" % number for number in range(25)])
    it.ask("w", times=25, socket_type="DEALER")
    it.machine.lost(it.peer("w"), it.now)
    order: list[int] = []
    for expected in (10, 20, 25):
        it.machine.expire(it.now)
        order += [job.number for job in it.machine.finished]
        it.machine.finished.clear()
        assert it.counters.attempts_lost == expected
    assert order == list(range(1, 26))
    assert it.machine.next_deadline() == it.now + it.machine.limits.kept_ns


def test_the_stop_ends_everything_in_steps(play: Any) -> None:
    """Waiting, running and returned jobs all end as CANCELLED, some at a time, and every client is told."""
    it = play(timeout_ns=1 * S)
    it.submit(*[b"%d" % number for number in range(10)])
    it.ask("w", times=3, socket_type="DEALER")
    it.wait(1 * S)
    it.ask("w", times=1, socket_type="DEALER")
    assert it.stop(jobs_max=4) == 6
    assert it.stop(jobs_max=4) == 2
    assert it.stop(jobs_max=4) == 0
    assert it.told == [("client", b"")] * 10
    assert it.counters.jobs_cancelled == 10
    assert it.machine.next_deadline() is None or it.machine.open == 0


def test_a_stopped_job_says_why(play: Any) -> None:
    """A client that is told of failure by the stop is not told that tries were spent."""
    it = play()
    it.submit(b"a")
    it.machine.stop(it.now, 10)
    assert [(job.state, job.reason) for job in it.machine.finished] == [(CANCELLED, Reason.BROKER_STOPPED)]


# --- With a store


def test_promise_2_kept_what_is_not_safe_is_not_dispatched(play: Any) -> None:
    """Promise 2: with a store, a job waits until its acceptance is safe, whoever has asked."""
    it = play(keeps_records=True)
    it.ask("w", times=3, socket_type="DEALER")
    it.submit(b"a", b"b")
    assert it.given == []
    it.machine.take_records(1)
    it.submit(b"c")
    it.machine.take_records(2)
    it.machine.settled(0)
    it.wait(0)
    assert it.given == []
    it.machine.settled(1)
    it.wait(0)
    assert it.given == [("w", b"a"), ("w", b"b")]
    it.machine.settled(7)
    it.wait(0)
    assert it.given[2:] == [("w", b"c")]


def test_the_stop_ends_jobs_that_are_not_safe(play: Any) -> None:
    """Also what no store has kept yet is told of the end."""
    it = play(keeps_records=True)
    it.submit(b"a", b"b")
    it.machine.take_records(1)
    it.submit(b"c")
    assert it.stop() == 0
    assert len(it.told) == 3


def test_no_records_are_built_without_a_store(play: Any) -> None:
    """Nothing is paid for what nobody keeps."""
    it = play(tries=1, timeout_ns=1 * S)
    it.submit(b"a")
    it.ask("w")
    it.wait(1 * S)
    assert it.machine.take_records(1) == []


# --- What is said


def test_steps_are_said_only_on_request(play: Any) -> None:
    """With `trace` each step of a job is a notice; without, only what ends badly and who comes and goes."""
    silent, loud = play(tries=2, timeout_ns=1 * S), play(tries=2, timeout_ns=1 * S, trace=True)
    for it in (silent, loud):
        it.submit(b"a")
        it.ask("w", times=2, socket_type="DEALER")
        it.wait(3 * S)
    assert [event for event, _ in silent.machine.notices] == [Event.WORKER_ARRIVED, Event.JOB_DISCARDED]
    assert [event for event, _ in loud.machine.notices] == [
        Event.JOB_ACCEPTED,
        Event.WORKER_ARRIVED,
        Event.JOB_DISPATCHED,
        Event.ATTEMPT_ENDED,
        Event.JOB_DISPATCHED,
        Event.ATTEMPT_ENDED,
        Event.JOB_DISCARDED,
        Event.JOB_FINISHED,
    ]
    fields = dict(loud.machine.notices)[Event.JOB_FINISHED]
    assert fields["outcome"] == "discarded"
    assert fields["attempts"] == 2
    assert fields["run_s"] == 1.0


def test_what_speaks_twice_of_an_undelivered_job_changes_nothing(play: Any) -> None:
    """A hand-over that failed and was given back before is not given back again."""
    it = play()
    it.submit(b"a")
    it.ask("w")
    (job,) = it.machine.jobs()
    it.machine.undelivered([job], it.now)
    it.machine.undelivered([job], it.now)
    assert (job.attempts, job.handovers) == (0, 1)


def test_a_peer_that_is_lost_twice_is_lost_once(play: Any) -> None:
    """A send and the monitor may both say that a worker is gone; and of a client the roster knows nothing."""
    it = play()
    it.submit(b"a")
    it.ask("w")
    peer = it.peer("w")
    it.machine.lost(peer, it.now)
    it.machine.lost(peer, it.now)
    it.machine.lost(Peer(b"nobody"), it.now)
    assert it.counters.workers_lost == 1


def test_promise_4_told_a_stop_ends_many_running_jobs_without_walking_over_the_ended() -> None:
    """Promise 4: each step of a stop costs what it ends, however many have ended before."""
    machine = Machine(iter(b"%016d" % i for i in range(10**6)), limits=Limits(asks_per_worker_max=50_000))
    client, worker = Peer(b"\0c"), Peer(b"\0w", 7, "DEALER")
    machine.submit([(client, b"", b"x")] * 20_000, 0)
    machine.ask([(worker, b"", b"")] * 20_000, 0)
    machine.match(0)
    left = [machine.stop(1, 2_000) for _ in range(10)]
    assert left == list(range(18_000, -1, -2_000))
    assert len(machine.finished) == machine.counters.jobs_cancelled == 20_000
