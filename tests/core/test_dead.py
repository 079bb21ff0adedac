"""Dead letters: which are found, what becomes of those that are redriven or purged, and how long they are kept."""

from __future__ import annotations

import itertools
import random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from relet.core.dead import SWEEPS_MAX, Selection, Sweep
from relet.core.job import COMPLETED, DISCARDED, Job, Reason
from relet.core.kept import Kept, Letter
from relet.core.limits import Limits
from relet.core.queue import Queue
from relet.core.settings import QueueSettings
from relet.core.terms import Terms
from relet.events import Event
from relet.messages import Fail
from relet.store.memory import MemoryStore
from relet.testing import census

from .conftest import Talk

MS = 1_000_000
S = 1_000 * MS
HOUR = 3_600 * S


def bury(it: Any, *bodies: bytes, queue: str = "default", kind: str = "Oops", **terms: Any) -> None:
    """These jobs fail for good, one after the other."""
    client = it.client("undertaker")
    worker = it.worker(f"w{next(it.numbers)}", queues=(queue,))
    for body in bodies:
        client.submit(body, queue=queue, **terms)
        worker.ask()
        worker.fail(body, kind=kind, text="it broke", final=True)
    client.receive()


def letters(it: Any, after: int = 0, limit: int = 100, **which: Any) -> list[bytes]:
    """The bodies of the dead letters that are so."""
    found, _ = it.machine.dead.page(Selection(**which), after, limit)
    return [letter.job.body for letter in found]


def letter(it: Any, body: bytes) -> Letter:
    """The dead letter with this body."""
    (found,) = [entry for entry in it.machine.kept.walk("", 0) if entry.job.body == body]
    return found


def sweep(it: Any, verb: Any, *, turns: int = 1, limit: int = 1 << 62, **which: Any) -> Sweep:
    """Something is done with all dead letters that are so, to its end unless `turns` is 0."""
    how = {name: which.pop(name) for name in ("dry_run", "force") if name in which}
    begun = Sweep(verb=verb, selection=Selection(**which), limit=limit, **how)
    assert it.machine.dead.begin(begun)
    if turns:
        it.wait(0)
        assert begun.over
    return begun


def told(done: Sweep) -> tuple[int, int, int, str]:
    """What came of it."""
    return done.done, done.skipped, done.refused, done.code


# --- Which are found


def test_dead_letters_are_listed_by_queue_oldest_first(talk: Any) -> None:
    """Those of one queue, or of all, in the order of their ends."""
    it = talk()
    bury(it, b"a1", queue="a")
    bury(it, b"b1", b"b2", queue="b")
    bury(it, b"a2", queue="a")
    assert letters(it, queue="a") == [b"a1", b"a2"]
    assert letters(it, queue="b") == [b"b1", b"b2"]
    assert letters(it) == [b"a1", b"b1", b"b2", b"a2"]
    assert letters(it, queue="c") == []


def test_dead_letters_are_chosen_by_reason_kind_and_age(talk: Any) -> None:
    """All of what is asked must be so; a moment belongs to what comes after it."""
    it = talk(tries=1)
    began = it.now
    bury(it, b"a", kind="Oops")
    it.wait(10 * S)
    bury(it, b"b", kind="Other")
    it.wait(10 * S)
    worker = it.worker("mortal", credit=1)
    it.client().submit(b"c")
    worker.start(b"c")
    worker.lose()
    it.wait(1 * S)
    assert letters(it, reason="failed") == [b"a", b"b"]
    assert letters(it, reason=Reason.TRIES_SPENT.value) == [b"c"]
    assert letters(it, kind="Oops") == [b"a"]
    assert letters(it, kind="") == [b"c"]
    assert letters(it, kind="Oops", reason="tries_spent") == []
    assert letters(it, before_ns=began + 10 * S) == [b"a"]
    assert letters(it, since_ns=began + 10 * S) == [b"b", b"c"]
    assert letters(it, since_ns=began + 10 * S, before_ns=began + 20 * S) == [b"b"]
    assert letters(it, job=letter(it, b"b").job.id) == [b"b"]
    assert letters(it, job=letter(it, b"b").job.id, kind="Oops") == []
    assert letters(it, job=b"?" * 16) == []


def test_outcomes_that_reached_nobody_are_no_dead_letters(talk: Any) -> None:
    """They are kept beside them, and are neither listed nor redriven nor purged."""
    it = talk()
    client, worker = it.client_2010(), it.worker_2010()
    client.submit(b"a")
    client.peer.routing_id = b""
    worker.ask()
    worker.answer(b"a")
    bury(it, b"b")
    assert [job.state for job in it.machine.kept] == [COMPLETED, DISCARDED]
    assert letters(it) == [b"b"]
    assert told(sweep(it, "redrive")) == (1, 0, 0, "")
    assert told(sweep(it, "purge")) == (1, 0, 0, "")
    assert [job.state for job in it.machine.kept] == [COMPLETED]


def test_pages_follow_each_other(talk: Any) -> None:
    """Each begins behind the last one, also where that is gone meanwhile; the last says that nothing follows."""
    it = talk()
    bury(it, b"1", b"2", b"3", b"4", b"5")
    dead = it.machine.dead
    first, place = dead.page(Selection(), 0, 2)
    assert [each.job.body for each in first] == [b"1", b"2"]
    sweep(it, "purge", job=first[1].job.id)
    second, place = dead.page(Selection(), place, 2)
    assert [each.job.body for each in second] == [b"3", b"4"]
    third, place = dead.page(Selection(), place, 2)
    assert ([each.job.body for each in third], place) == ([b"5"], 0)
    assert dead.page(Selection(), 0, 4)[1] == 0


def test_a_page_is_a_bounded_look(talk: Any) -> None:
    """Where few of many are wanted, a page may be short or empty, and the next goes on behind what was looked at."""
    it = talk(limits=Limits(turn_steps_max=3))
    bury(it, b"1", b"2", b"3", b"4")
    bury(it, b"5", kind="Rare")
    place, pages = 0, []
    while True:
        found, place = it.machine.dead.page(Selection(kind="Rare"), place, 10)
        pages.append([each.job.body for each in found])
        if not place:
            break
    assert pages == [[], [b"5"]]


@given(
    st.lists(st.tuples(st.sampled_from(["keep", "keep", "keep", "drop", "age"]), st.integers(0, 3)), max_size=300),
    st.randoms(use_true_random=False),
)
def test_what_is_kept_is_what_a_plain_list_would_keep(steps: list[tuple[str, int]], rng: random.Random) -> None:
    """Against a list: who goes for whom, by number, bytes and age; who is found where, from any place on."""
    kept = Kept(jobs_max=20, bytes_max=60, age_ns_max=100)
    queues = [Queue(name) for name in ("default", "a", "b", "c")]
    queues[3].settings = QueueSettings(kept_jobs_max=4, kept_bytes_max=12, kept_ns=40)
    plain: list[tuple[int, Job]] = []
    now = 0
    for count, (step, which) in enumerate(steps, start=1):
        now += 1
        if step == "keep":
            state = DISCARDED if rng.random() < 0.8 else COMPLETED
            job = Job(count, None, b"", b"x" * rng.randrange(6), 0, queues[which], Terms(), state=state)
            job.id, job.ended_ns = b"%016d" % count, now
            plain.append((kept.last + 1, job))
            expected = _excess_of_c(plain, now)
            while len(plain) > 20 or sum(len(it.body) for _, it in plain) > 60:
                expected.append(plain.pop(0)[1])
            assert kept.keep(job) == expected
        elif step == "drop" and plain:
            _, job = plain.pop(rng.randrange(len(plain)))
            assert kept.drop(job)
            assert not kept.drop(job)
        elif step == "age":
            now += which * 10
            first = [job.ended_ns + 40 for _, job in plain if _is_in(job, "c")][:1]
            first += [job.ended_ns + 100 for _, job in plain[:1]]
            assert kept.due() <= min(first, default=1 << 62)
            aged = [job for _, job in plain if _is_in(job, "c") and job.ended_ns + 40 <= now]
            aged += [job for _, job in plain if job.ended_ns + 100 <= now and job not in aged]
            assert kept.take_aged(now, which) == aged[:which]
            plain = [entry for entry in plain if entry[1] not in aged[:which]]
            if which > len(aged):
                assert kept.due() > now
        after = rng.randrange(kept.last + 1)
        for name in ("", "default", "a", "b", "c"):
            there = [job for place, job in plain if place > after and _is_in(job, name)]
            assert [it.job for it in kept.walk(name, after)] == there
    assert list(kept) == [job for _, job in plain]
    assert len(kept._line._letters) <= 2 * len(plain) + 64


def _excess_of_c(plain: list[tuple[int, Job]], now: int) -> list[Job]:
    """What must go of the queue with bounds of its own where one more job is kept in it."""
    excess: list[Job] = []
    while plain and _is_in(plain[-1][1], "c"):
        there = [job for _, job in plain if _is_in(job, "c")]
        if len(there) <= 4 and sum(len(it.body) for it in there) <= 12 and there[0].ended_ns + 40 > now:
            break
        excess.append(there[0])
        plain[:] = [entry for entry in plain if entry[1] is not there[0]]
    return excess


def _is_in(job: Job, name: str) -> bool:
    return not name or (job.queue.name == name and job.state == DISCARDED)


# --- Redrive


def test_a_redriven_job_is_a_new_one_like_the_old(talk: Any) -> None:
    """Body, queue, terms and headers are the same; the id and the tries are its own, and each names the other."""
    it = talk(tries=2)
    bury(it, b"a", queue="q", headers={"x": "y"}, run_ms=5_000, silence_ms=1_000, late="current")
    old = letter(it, b"a")
    before = (old.job.state, old.job.reason, old.job.attempts, old.job.ledger, old.job.kind, old.job.text, old.job.id)
    it.wait(3 * S)
    done = sweep(it, "redrive", queue="q")
    assert told(done) == (1, 0, 0, "")
    new = it.job(b"a")
    assert (new.queue, new.terms, new.headers, new.attempts) == (old.job.queue, old.job.terms, {"x": "y"}, 0)
    assert new.number > old.job.number
    assert new.accepted_ns == it.now
    assert (new.rules.redriven_from, old.redriven_to) == (old.job.id, new.id)
    assert done.jobs == [new.id]
    assert before == (
        old.job.state,
        old.job.reason,
        old.job.attempts,
        old.job.ledger,
        old.job.kind,
        old.job.text,
        old.job.id,
    )
    assert old.job.body == b"a"
    assert it.counters.letters_redriven == 1


def test_a_redriven_job_has_the_place_and_the_time_that_the_old_one_had(talk: Any) -> None:
    """Its priority and its fairness key are the same; its deadlines count from now."""
    it = talk()
    bury(it, b"a", priority=5, fair="k", weight=3, deadline_ms=10_000)
    it.wait(60 * S)
    sweep(it, "redrive")
    new = it.job(b"a")
    assert (new.terms.priority, new.rules.fair, new.rules.weight) == (5, "k", 3)
    it.wait(10 * S - 1)
    assert it.state(b"a") == "AVAILABLE"
    it.wait(1)
    assert [each.job.reason for each in it.machine.kept.walk("", 0)] == ["failed", "deadline"]


def test_nobody_is_owed_a_redriven_job_and_whoever_asks_is_told(talk: Any) -> None:
    """Who asked for the old one has been told. The new one can be asked about by its id, while open and when done."""
    it = talk()
    client, worker = it.client(), it.worker()
    client.submit(b"a")
    worker.ask()
    worker.fail(b"a", final=True)
    assert client.told() == [(b"a", "failed", ())]
    client.receive()
    (job_id,) = sweep(it, "redrive").jobs
    assert client.inquire(job=job_id).state == "available"
    worker.ask()
    worker.complete(b"a", b"at last")
    assert client.told() == []
    assert client.inquire(job=job_id).state == "completed"
    assert client.inquire(job=job_id, wait=True) is None
    ((said, body),) = client.outcomes
    assert (said.id, body) == (job_id, b"at last")
    client.receive()
    assert client.inquire(job=job_id).state == "unknown"


def test_a_redriven_job_belongs_to_the_principal_of_the_old(talk: Any) -> None:
    """Others cannot ask about it, as they could not about the old one."""
    it = talk()
    alice, bob = it.client("a", principal="alice"), it.client("b", principal="bob")
    worker = it.worker(credit=1)
    alice.submit(b"a")
    worker.fail(b"a", final=True)
    (job_id,) = sweep(it, "redrive").jobs
    assert (alice.inquire(job=job_id).state, bob.inquire(job=job_id).state) == ("available", "unknown")


def test_a_dead_letter_of_2010_is_redriven_too(talk: Any) -> None:
    """It has an id like all, and the new job is done by whoever asks; the old client hears nothing more."""
    it = talk(tries=1, timeout_ns=1 * S)
    client, worker = it.client_2010(), it.worker_2010()
    client.submit(b"a")
    worker.ask()
    it.wait(1 * S)
    assert client.told == [b""]
    (job_id,) = sweep(it, "redrive", job=letter(it, b"a").job.id).jobs
    worker.ask()
    worker.answer(b"a", b"done")
    assert client.told == [b""]
    asker = it.client()
    asker.inquire(job=job_id, wait=True)
    assert [body for _, body in asker.outcomes] == [b"done"]


def test_a_dead_letter_is_not_redriven_twice_unless_forced(talk: Any) -> None:
    """The second time it is skipped; who names it is told as which job it lives on."""
    it = talk()
    bury(it, b"a", b"b")
    (first,) = sweep(it, "redrive", limit=1).jobs
    again = sweep(it, "redrive", job=letter(it, b"a").job.id)
    assert told(again) == (0, 1, 0, "redriven")
    assert first.hex() in again.text
    assert told(sweep(it, "redrive")) == (1, 1, 0, "")
    forced = sweep(it, "redrive", force=True)
    assert told(forced) == (2, 0, 0, "")
    assert [letter(it, b"a").redriven_to, letter(it, b"b").redriven_to] == forced.jobs


def test_a_redriven_job_that_fails_is_another_dead_letter(talk: Any) -> None:
    """It names where it came from, may be redriven in its turn, and the sweep that it came from leaves it alone."""
    it = talk(limits=Limits(turn_steps_max=1))
    bury(it, b"a", b"b")
    worker = it.worker("another", credit=1)
    begun = sweep(it, "redrive", turns=0)
    it.server.turn(it.now, it.now + 5_000 * S)
    assert (begun.done, worker.got) == (1, [b"a"])
    worker.reports(Fail, b"a", (), {"final": True}, turn=False)
    it.turn()
    assert told(begun) == (2, 0, 0, "")
    found, _ = it.machine.dead.page(Selection(), 2, 10)
    assert [each.job.body for each in found] == [b"a"]
    assert found[0].job.rules is not None
    assert found[0].job.rules.redriven_from == it.machine.kept.entries[1].job.id
    assert told(sweep(it, "redrive")) == (1, 2, 0, "")


@pytest.mark.parametrize("verb", ["redrive", "purge"])
def test_a_limit_and_a_dry_run(talk: Any, verb: str) -> None:
    """At most so many, the oldest; and a dry run counts the same and changes nothing."""
    it = talk()
    bury(it, b"1", b"2", b"3")
    assert told(sweep(it, verb, dry_run=True)) == (3, 0, 0, "")
    assert told(sweep(it, verb, dry_run=True, limit=2)) == (2, 0, 0, "")
    assert (it.machine.open, len(it.machine.kept)) == (0, 3)
    assert told(sweep(it, verb, limit=2)) == (2, 0, 0, "")
    if verb == "redrive":
        assert [bool(each.redriven_to) for each in it.machine.kept.walk("", 0)] == [True, True, False]
    else:
        assert letters(it) == [b"3"]


def test_a_full_broker_refuses_to_redrive(talk: Any) -> None:
    """What fits is redriven, the rest stays as it is, and the reason is told."""
    it = talk(limits=Limits(jobs_max=2))
    bury(it, b"1", b"2", b"3", b"4")
    done = sweep(it, "redrive")
    assert told(done) == (2, 0, 1, "busy")
    assert "2" in done.text
    assert [bool(each.redriven_to) for each in it.machine.kept.walk("", 0)] == [True, True, False, False]
    it.worker(credit=2).complete(b"1")
    assert told(sweep(it, "redrive")) == (1, 2, 1, "busy")


def test_a_broker_that_ends_redrives_nothing(talk: Any) -> None:
    """It takes no new jobs."""
    it = talk()
    bury(it, b"1")
    it.draining = True
    it.turn()
    assert told(sweep(it, "redrive")) == (0, 0, 1, "draining")
    assert letter(it, b"1").redriven_to == b""


def test_a_broker_whose_disk_is_full_redrives_nothing(talk: Any) -> None:
    """It takes no new jobs, and those that it has made already are new ones."""
    it = talk()
    bury(it, b"1")
    bury(it, b"2")
    it.machine.disk_full = True
    it.turn()
    assert told(sweep(it, "redrive")) == (0, 0, 1, "disk_full")
    it.machine.disk_full = False
    assert told(sweep(it, "redrive")) == (2, 0, 0, "")


@pytest.mark.parametrize(
    ("settings", "done", "code"),
    [
        (QueueSettings(paused="intake", intake_by="ada"), 0, "queue_paused"),
        (QueueSettings(paused="both"), 0, "queue_paused"),
        (QueueSettings(paused="dispatch"), 3, ""),
        (QueueSettings(jobs_max=2), 2, "queue_full"),
    ],
)
def test_a_queue_that_takes_no_jobs_takes_no_redriven_ones(
    talk: Any, settings: QueueSettings, done: int, code: str
) -> None:
    """It stops there, and says by whom it is paused; of several queues the others are redriven none the less."""
    it = talk()
    bury(it, b"a1", b"a2", b"a3", queue="a")
    bury(it, b"b1", queue="b")
    it.machine.set_queue("a", settings)
    of_one = sweep(it, "redrive", queue="a")
    assert told(of_one) == (done, 0, 1 if code else 0, code)
    assert ("ada" in of_one.text) == (settings.intake_by == "ada")
    of_all = sweep(it, "redrive")
    assert told(of_all) == (1, done, 3 - done, code)
    assert letter(it, b"b1").redriven_to


# --- Purge


def test_purge_takes_what_is_named_and_nothing_else(talk: Any) -> None:
    """By queue and kind; bodies and places in memory are gone with it."""
    it = talk()
    bury(it, b"a1", queue="a")
    bury(it, b"a2", queue="a", kind="Other")
    bury(it, b"b1", queue="b")
    assert told(sweep(it, "purge", queue="a", kind="Oops")) == (1, 0, 0, "")
    assert letters(it) == [b"a2", b"b1"]
    assert it.machine.kept.of_queue("a")[0] == 1
    assert told(sweep(it, "purge")) == (2, 0, 0, "")
    assert (len(it.machine.kept), it.machine.kept.bytes, it.machine.kept.of_queue("a")) == (0, 0, (0, 0))
    assert it.counters.letters_purged == 3


@pytest.mark.parametrize("verb", ["redrive", "purge"])
def test_a_dead_letter_that_is_not_there_is_said_to_be_unknown(talk: Any, verb: str) -> None:
    """Who names one is told so; a selection that is empty is none the worse."""
    it = talk()
    bury(it, b"a")
    assert told(sweep(it, verb, job=b"?" * 16)) == (0, 0, 0, "unknown_job")
    assert told(sweep(it, verb, queue="nobody's")) == (0, 0, 0, "")
    assert told(sweep(it, verb, job=letter(it, b"a").job.id, queue="other")) == (0, 0, 0, "unknown_job")


# --- Small steps


@pytest.mark.parametrize("verb", ["redrive", "purge"])
def test_many_are_handled_in_small_steps(talk: Any, verb: str) -> None:
    """At most `turn_steps_max` a turn, fewer new jobs, because each is more work; and the loop does not wait between
    them.
    """
    it = talk(limits=Limits(turn_steps_max=10))
    bury(it, *[b"%d" % number for number in range(25)])
    begun = sweep(it, verb, turns=0)
    counts = []
    while not begun.over:
        assert it.machine.next_deadline() <= it.now
        it.machine.expire(it.now)
        counts.append(begun.done)
    assert counts == ([10, 20, 25] if verb == "purge" else [*range(2, 25, 2), 25])
    census.check(it.machine)


def test_sweeps_wait_for_each_other_and_have_a_bound(talk: Any) -> None:
    """The second begins when the first is over: what was purged is not redriven. More than so many are refused."""
    it = talk()
    bury(it, b"a", b"b")
    first = sweep(it, "purge", turns=0, limit=1)
    second = sweep(it, "redrive", turns=0)
    for _ in range(SWEEPS_MAX - 2):
        assert it.machine.dead.begin(Sweep(verb="purge", selection=Selection(queue="none")))
    refused = Sweep(verb="purge", selection=Selection())
    assert not it.machine.dead.begin(refused)
    assert refused.code == "busy"
    it.wait(0)
    assert (told(first), told(second)) == ((1, 0, 0, ""), (1, 0, 0, ""))


def test_a_sweep_is_said_in_the_log(talk: Any) -> None:
    """Somebody did this: how many, of which queue, and what was refused. A dry run did nothing."""
    it = talk(limits=Limits(jobs_max=1))
    bury(it, b"a", b"b", queue="q")
    it.notices.clear()
    sweep(it, "redrive", queue="q", dry_run=True)
    assert it.notices == []
    sweep(it, "redrive", queue="q")
    sweep(it, "purge", queue="q")
    assert [(event, fields) for event, fields in it.notices if event.startswith("dead_letters")] == [
        (Event.DEAD_LETTERS_REDRIVEN, {"queue": "q", "count": 1, "skipped": 0, "refused": 1, "reason": "busy"}),
        (Event.DEAD_LETTERS_PURGED, {"queue": "q", "count": 2}),
    ]


# --- How long they are kept


def test_dead_letters_are_forgotten_by_age(talk: Any) -> None:
    """`kept_ns` from the end of the job, not earlier; the store forgets them, too."""
    store = MemoryStore()
    it = talk(store=store, limits=Limits(kept_ns=2 * HOUR))
    bury(it, b"a")
    it.wait(HOUR)
    bury(it, b"b")
    it.wait(HOUR - 1)
    assert letters(it) == [b"a", b"b"]
    it.wait(1)
    assert letters(it) == [b"b"]
    it.begin()
    it.wait(HOUR)
    assert letters(it) == []
    assert [record for record in store.load() if hasattr(record, "number")] == []


def test_what_ages_in_one_moment_goes_in_small_steps(talk: Any) -> None:
    """As all that is much."""
    it = talk(limits=Limits(kept_ns=HOUR, turn_steps_max=2, outcome_ns=1))
    bury(it, b"1", b"2", b"3")
    it.now += HOUR
    it.machine.expire(it.now)
    assert len(it.machine.kept) == 1
    assert it.machine.next_deadline() <= it.now
    it.machine.expire(it.now)
    assert len(it.machine.kept) == 0


def test_a_queue_may_keep_fewer_dead_letters(talk: Any) -> None:
    """By number and by bytes; the oldest of that queue go, and none of another."""
    it = talk()
    it.machine.set_queue("few", QueueSettings(kept_jobs_max=2))
    it.machine.set_queue("small", QueueSettings(kept_bytes_max=1_000))
    bury(it, b"other")
    bury(it, b"1", b"2", b"3", queue="few")
    bury(it, b"x" * 300, b"y" * 300, b"z" * 300, queue="small")
    bury(it, b"w" * 1_001, queue="small")
    assert letters(it) == [b"other", b"2", b"3"]
    it.machine.set_queue("few", QueueSettings(kept_jobs_max=0))
    bury(it, b"4", queue="few")
    assert letters(it, queue="few") == []


def test_a_queue_may_keep_them_for_a_shorter_time(talk: Any) -> None:
    """From the end of each, to the nanosecond; what the broker says holds for all."""
    it = talk(limits=Limits(kept_ns=10 * HOUR, outcome_ns=1))
    it.machine.set_queue("short", QueueSettings(kept_ns=HOUR))
    it.machine.set_queue("long", QueueSettings(kept_ns=100 * HOUR))
    bury(it, b"s1", queue="short")
    bury(it, b"l1", queue="long")
    bury(it, b"other")
    began = it.now
    it.wait(1 * S)
    bury(it, b"s2", queue="short")
    it.wait(HOUR - 1 * S - 1)
    assert letters(it, queue="short") == [b"s1", b"s2"]
    assert it.machine.next_deadline() == began + HOUR
    it.wait(1)
    assert letters(it, queue="short") == [b"s2"]
    it.wait(1 * S)
    assert letters(it) == [b"l1", b"other"]
    it.wait(9 * HOUR)
    assert letters(it) == []


def test_smaller_bounds_of_a_queue_hold_at_once_in_small_steps(talk: Any) -> None:
    """At most `turn_steps_max` go in a turn; and larger ones bring nothing back."""
    it = talk(limits=Limits(turn_steps_max=2))
    bury(it, b"1", b"2", b"3", b"4", b"5", b"6", queue="q")
    it.machine.set_queue("q", QueueSettings(kept_jobs_max=1))
    assert it.machine.next_deadline() <= it.now
    it.machine.expire(it.now)
    assert letters(it, limit=2)[0] == b"3"
    it.machine.expire(it.now)
    it.machine.expire(it.now)
    assert it.machine.kept.of_queue("q")[0] == 1
    it.machine.set_queue("q", None)
    it.wait(0)
    assert letters(it) == [b"6"]
    it.machine.set_queue("q", QueueSettings(kept_ns=HOUR))
    it.wait(HOUR)
    assert letters(it) == []


def test_bounds_of_a_queue_hold_for_what_comes_out_of_a_store(talk: Any) -> None:
    """They are kept with it, and so is what had to go."""
    it = talk(store=MemoryStore())
    bury(it, b"1", b"2", b"3", queue="q")
    it.machine.set_queue("q", QueueSettings(kept_jobs_max=2))
    it.turn()
    it.begin()
    assert letters(it) == [b"2", b"3"]
    it.machine.set_queue("q", QueueSettings(kept_jobs_max=1))
    it.wait(0)
    it.begin()
    assert letters(it) == [b"3"]


# --- With a store


def test_a_store_knows_who_was_redriven_and_as_what(talk: Any) -> None:
    """After a restart each still names the other, the new one is known by its id, and none is redriven twice."""
    it = talk(store=MemoryStore())
    bury(it, b"a", queue="q", headers={"x": "y"}, run_ms=5_000)
    it.wait(1 * S)
    (job_id,) = sweep(it, "redrive").jobs
    before = census.persisted(it.machine)
    it.begin()
    assert census.persisted(it.machine) == before
    old, new = letter(it, b"a"), it.job(b"a")
    assert (new.id, old.redriven_to, new.rules.redriven_from) == (job_id, job_id, old.job.id)
    assert (old.job.headers, old.job.queue.name, old.job.kind) == ({"x": "y"}, "q", "Oops")
    assert told(sweep(it, "redrive")) == (0, 1, 0, "")
    asker = it.client("asker")
    assert asker.inquire(job=job_id).state == "available"
    it.worker("another", queues=("q",), credit=1).complete(b"a", b"at last")
    asker.inquire(job=job_id, wait=True)
    assert [body for _, body in asker.outcomes] == [b"at last"]


@pytest.mark.parametrize(
    "settings", [{"kept_jobs_max": 0}, {"kept_ns": 0}, {"kept_bytes_max": 2}], ids=lambda it: next(iter(it))
)
def test_an_outcome_is_owed_though_its_queue_keeps_no_dead_letter(talk: Any, settings: dict[str, int]) -> None:
    """Who asks again after a restart is told of the failure, and the job does not run once more."""
    it = talk(store=MemoryStore(), tries=1, timeout_ns=100 * S)
    it.machine.set_queue("q", QueueSettings(**settings))
    client, worker = it.client(), it.worker(queues=("q",), credit=1)
    client.submit(b"job", queue="q")
    worker.fail(b"job")
    before = census.persisted(it.machine)
    it.begin()
    assert census.persisted(it.machine) == before
    client, worker = it.client(), it.worker(queues=("q",), credit=1)
    client.submit(b"job", queue="q", age_ms=10)
    assert (client.told(), worker.got) == ([(b"job", "tries_spent", ())], [])


def test_a_dead_letter_keeps_its_body_though_its_outcome_is_not_kept(talk: Any) -> None:
    """Also in the store: the two have bounds of their own."""
    it = talk(store=MemoryStore(), tries=1, limits=Limits(outcomes_bytes_max=1))
    bury(it, b"job")
    assert [job.body for job in it.machine.kept] == [b"job"]
    it.begin()
    assert [job.body for job in it.machine.kept] == [b"job"]


def test_a_purged_dead_letter_does_not_come_back(talk: Any) -> None:
    """The store forgets it; its outcome is owed as long as it would be."""
    it = talk(store=MemoryStore())
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"a")
    worker.fail(b"a", final=True)
    sweep(it, "purge")
    it.begin()
    assert letters(it) == []
    assert it.client().inquire(id=b"a".ljust(16, b"-")).state == "discarded"


def test_a_redriven_job_is_dispatched_when_it_is_safe(talk: Any) -> None:
    """As every job: what a crash would forget is not handed to anybody."""
    it = talk(store=MemoryStore())
    bury(it, b"a")
    begun = sweep(it, "redrive", turns=0)
    worker = it.worker("another", credit=1)
    assert begun.over
    assert worker.got == [b"a"]
    census.check(it.machine)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["bury", "bury", "redrive", "redrive", "purge", "do", "bound", "wait", "restart"]),
        st.sampled_from(["a", "b", ""]),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=25)
@given(STEPS)
def test_whatever_is_done_with_them_a_restart_finds_the_same(steps: list[tuple[str, str, int, bool]]) -> None:
    """Against a plain list of what is kept and of what was redriven as what: also after restarts, with bounds that
    change; no dead letter is redriven twice unless forced, and each new job says where it came from.
    """
    it = Talk(store=MemoryStore(), limits=Limits(kept_jobs_max=6, turn_steps_max=7, outcome_ns=1_000 * HOUR))
    kept: list[bytes] = []
    sent: dict[bytes, bytes] = {}
    bodies = itertools.count()
    for step, queue, number, flag in steps:
        if step == "bury":
            bury(it, *[b"%d" % next(bodies) for _ in range(number)], queue=queue or "c")
        elif step == "redrive":
            chosen = [each for each in it.machine.kept.walk(queue, 0) if flag or not each.redriven_to][: number + 1]
            done = sweep(it, "redrive", queue=queue, force=flag, limit=number + 1)
            assert len(done.jobs) == done.done == len(chosen)
            assert [each.redriven_to for each in chosen] == done.jobs
            sent.update({each.job.id: each.redriven_to for each in chosen})
        elif step == "purge":
            before = [each.job.id for each in it.machine.kept.walk(queue, 0)]
            done = sweep(it, "purge", queue=queue, limit=number + 1)
            assert done.done == len(before[: number + 1])
            assert not {each.job.id for each in it.machine.kept.walk("", 0)} & set(before[: number + 1])
        elif step == "do":
            worker = it.worker(f"v{next(it.numbers)}", queues=("a", "b", "c"), credit=number)
            for said, _ in list(worker.jobs):
                (worker.complete if flag else worker.fail)(said.token, **({} if flag else {"final": True}))
            worker.lose()
            it.wait(1 * S)
        elif step == "bound" and queue:
            it.machine.set_queue(queue, QueueSettings(kept_jobs_max=number) if flag else None)
            it.turn()
        elif step == "wait":
            it.wait(number * HOUR)
        elif step == "restart":
            it.turn()
            now = census.persisted(it.machine)
            it.begin()
            assert census.persisted(it.machine) == now
        kept = [each.job.id for each in it.machine.kept.walk("", 0)]
        assert len(kept) == len(set(kept)) <= 6
        for each in it.machine.kept.walk("", 0):
            assert each.redriven_to == sent.get(each.job.id, b"")
        made = [job for job in it.machine.jobs() if job.rules is not None and job.rules.redriven_from]
        assert all(job.id in sent.values() or job.rules.redriven_from in sent for job in made)
