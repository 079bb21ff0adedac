"""What administrators may do, order by order, and why jobs are where they are (docs/protocol.md, "Administrators")."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from relet import desk
from relet.core import administration
from relet.core.job import DELAYED, RUNNING
from relet.core.limits import Limits
from relet.core.settings import QueueSettings
from relet.messages import SIGNATURE, VERSION, Cancel, Error, Heartbeat, Refused
from relet.orders import (
    CancelAnyJob,
    ListQueues,
    PauseQueue,
    QueueLine,
    QueuesTold,
    QueueTold,
    ResumeQueue,
    SetQueue,
    ShowJob,
    ShowQueue,
    WhyJob,
)
from relet.store.memory import MemoryStore
from relet.testing import LateStore

MS = 1_000_000
S = 1_000 * MS


def name(text: bytes) -> bytes:
    """The request id that `submit` makes of a body."""
    return text.ljust(16, b"-")


# --- Queues


def test_queues_are_listed_with_their_jobs_and_workers(talk: Any) -> None:
    """By name; settings as they were said, the pause beside them, jobs by where they are."""
    it = talk()
    c, a = it.client(), it.admin()
    it.machine.set_queue("mail", QueueSettings(run_ns=1 * S, jobs_max=9, paused="dispatch", dispatch_by="ada"))
    for body in (b"1", b"2", b"3", b"4"):
        c.submit(body, queue="news")
    c.submit(b"5", queue="mail")
    w = it.worker("w", queues=("news",), credit=2)
    w.fail(b"1", retry_ms=1_000)
    it.worker("v", queues=("mail",), credit=3)
    answer = a.orders(ListQueues(id=b"x"))
    assert type(answer) is QueuesTold
    assert (answer.id, answer.more) == (b"x", False)
    mail = QueueLine(
        name="mail",
        settings={"run_ms": 1_000, "jobs_max": 9},
        paused="dispatch",
        dispatch_by="ada",
        jobs=1,
        waiting=1,
        workers=1,
        asks=3,
    )
    news = QueueLine(name="news", jobs=4, waiting=2, delayed=1, in_flight=1)
    assert answer.queues == (QueueLine(name="default"), mail, news)


def test_jobs_behind_their_order_key_are_counted_apart(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are neither waiting nor in flight."""
    monkeypatch.setattr(administration, "ORDERS_COUNTED_MAX", 1)
    it = talk()
    c, a = it.client(), it.admin()
    it.worker(credit=1)
    for number in range(5):
        c.submit(b"%d" % number, order="ab"[number % 2])
    assert a.orders(ListQueues()).queues == (QueueLine(name="default", jobs=5, waiting=1, blocked=3, in_flight=1),)


@pytest.mark.parametrize("looked_max", [3, 10_000])
def test_queues_are_listed_page_by_page(talk: Any, monkeypatch: pytest.MonkeyPatch, looked_max: int) -> None:
    """`after` and `more`: each once, in order, also while others come and go, and in small steps."""
    monkeypatch.setattr(administration, "NAMES_LOOKED_MAX", looked_max)
    it = talk()
    a = it.admin()
    for number in range(25):
        it.machine.set_queue(f"q{number:02}", QueueSettings())
    seen: list[str] = []
    more = True
    while more:
        answer = a.orders(ListQueues(after=seen[-1] if seen else "", count=7))
        seen += [line.name for line in answer.queues]
        more = answer.more
        it.machine.set_queue(seen[-1], None)
        it.machine.set_queue("aaa", QueueSettings())
    assert seen == ["default", *(f"q{number:02}" for number in range(25))]


def test_jobs_that_are_not_safe_yet_wait(talk: Any) -> None:
    """They are not in flight, though no ask may have them."""
    it = talk(store=LateStore())
    c, a = it.client(), it.admin()
    c.submit(b"1", queue="mail")
    a.says(ListQueues(after="default"))
    assert a.heard == []
    it.store.settle(9)
    it.turn()
    (answer,) = a.heard
    assert answer.queues == (QueueLine(name="mail", jobs=1, waiting=1),)


HALVES = {"": set(), "intake": {"intake"}, "dispatch": {"dispatch"}, "both": {"intake", "dispatch"}}


def names(line: QueueLine) -> dict[str, str]:
    """Who has paused which half of a queue."""
    return {half: by for half, by in (("intake", line.intake_by), ("dispatch", line.dispatch_by)) if by}


@pytest.mark.parametrize("what", ["intake", "dispatch", "both"])
def test_a_pause_is_made_and_ended(talk: Any, what: str) -> None:
    """And is told to whoever it concerns; nothing else of the settings changes, and what was made for it is gone."""
    it = talk()
    c, a = it.client(), it.admin()
    w = it.worker(queues=("mail",), credit=1)
    c.submit(b"before", queue="mail") if what == "intake" else None
    told = a.orders(PauseQueue(id=b"x", queue="mail", what=what, by="ada"))
    assert (type(told), told.id, told.queue.paused) == (QueueTold, b"x", what)
    assert names(told.queue) == dict.fromkeys(HALVES[what], "ada")
    refused = c.asks(b"1", queue="mail").code
    assert refused == ("" if what == "dispatch" else "queue_paused")
    assert w.got == ([b"before"] if what == "intake" else [])
    told = a.orders(ResumeQueue(queue="mail", what=what))
    assert (told.queue.paused, names(told.queue), told.queue.settings) == ("", {}, None)
    assert it.machine.queues.named("mail").settings is None
    it.turn()
    assert w.got == ([b"before"] if what == "intake" else [b"1"] if what == "dispatch" else [])
    assert c.asks(b"2", queue="mail").code == ""


@pytest.mark.parametrize(("before", "what"), [it for it in itertools.product(HALVES, HALVES) if it[1]])
def test_pauses_add_up_and_are_taken_away(talk: Any, before: str, what: str) -> None:
    """What is paused is a set of two: one more makes it larger, one less smaller. Each has the name of who paused it,
    the last one who did.
    """
    it = talk()
    a = it.admin()
    start = QueueSettings(jobs_max=3).pausing(before, "eve")
    it.machine.set_queue("mail", start)
    paused = a.orders(PauseQueue(queue="mail", what=what, by="ada")).queue
    assert (HALVES[paused.paused], paused.settings) == (HALVES[before] | HALVES[what], {"jobs_max": 3})
    assert names(paused) == dict.fromkeys(HALVES[before], "eve") | dict.fromkeys(HALVES[what], "ada")
    it.machine.set_queue("mail", start)
    resumed = a.orders(ResumeQueue(queue="mail", what=what)).queue
    assert HALVES[resumed.paused] == HALVES[before] - HALVES[what]
    assert names(resumed) == dict.fromkeys(HALVES[resumed.paused], "eve")
    assert it.machine.queues.named("mail").settings.jobs_max == 3


def test_one_queue_is_shown_by_its_name(talk: Any) -> None:
    """As in the list; `unknown_queue` where there is none."""
    it = talk()
    c, a = it.client(), it.admin()
    c.submit(b"1", queue="mail", delay_ms=9_000)
    c.submit(b"2", queue="mail")
    (listed,) = (line for line in a.orders(ListQueues()).queues if line.name == "mail")
    told = a.orders(ShowQueue(id=b"x", queue="mail"))
    assert (type(told), told.id, told.queue) == (QueueTold, b"x", listed)
    assert (listed.jobs, listed.delayed) == (2, 1)
    answer = a.orders(ShowQueue(queue="male"))
    assert (answer.code, answer.of) == ("unknown_queue", "queue")
    assert answer.text == "there is no queue 'male': no job and no worker names it, and it has no settings"


def test_settings_of_a_queue_with_jobs_stay_where_only_configured_ones_may_be_used(talk: Any) -> None:
    """`queue_not_empty`: no worker could come for them. Elsewhere, and when they have ended, they go."""
    it = talk()
    c, a = it.client(), it.admin()
    it.machine.configure({"mail": QueueSettings(), "news": QueueSettings()}, only_these=True)
    c.submit(b"1", queue="mail")
    answer = a.orders(SetQueue(queue="mail", settings=None))
    assert (answer.code, answer.of) == ("queue_not_empty", "set_queue")
    assert answer.text.startswith("the queue 'mail' has 1 open job, and without settings no worker may come for them")
    assert a.orders(SetQueue(queue="mail", settings={"jobs_max": 0})).queue.settings == {"jobs_max": 0}
    assert a.orders(SetQueue(queue="news", settings=None)).queue.settings is None
    w = it.worker(queues=("mail",), credit=1)
    w.complete(b"1")
    assert a.orders(SetQueue(queue="mail", settings=None)).queue.settings is None
    assert c.asks(b"2", queue="mail").code == "unknown_queue"


def test_a_pause_makes_no_queue_where_only_configured_ones_may_be_used(talk: Any) -> None:
    """It is `unknown_queue`, as the name is mistyped; settings make one."""
    it = talk()
    c, a = it.client(), it.admin()
    it.machine.configure({"mail": QueueSettings()}, only_these=True)
    answer = a.orders(PauseQueue(queue="male"))
    assert (answer.code, answer.of) == ("unknown_queue", "pause")
    assert answer.text.endswith("only those that are configured may be used: 'mail'; `set_queue` adds one")
    assert a.orders(PauseQueue(queue="default")).code == "unknown_queue"
    assert a.orders(PauseQueue(queue="mail", what="intake")).queue.paused == "intake"
    assert a.orders(SetQueue(queue="male", settings={})).queue.settings == {}
    assert c.asks(b"1", queue="male").code == ""


def test_a_queue_that_is_not_there_cannot_be_resumed(talk: Any) -> None:
    """`unknown_queue`; paused it can be: jobs may come."""
    it = talk()
    a = it.admin()
    answer = a.orders(ResumeQueue(id=b"x", queue="mail"))
    assert (type(answer), answer.code, answer.of, answer.id) == (Error, "unknown_queue", "resume", b"x")
    assert a.orders(PauseQueue(queue="mail")).queue.paused == "both"


def test_resuming_what_is_not_paused_changes_nothing(talk: Any) -> None:
    """A configured queue keeps its empty settings, so that it may be used."""
    it = talk()
    a = it.admin()
    it.machine.set_queue("mail", QueueSettings())
    assert a.orders(ResumeQueue(queue="mail")).queue.settings == {}
    assert it.machine.queues.named("mail").settings == QueueSettings()
    it.machine.queues.only_these = True
    a.orders(PauseQueue(queue="mail"))
    a.orders(ResumeQueue(queue="mail"))
    assert it.client().asks(b"1", queue="mail").code == ""


def test_settings_take_the_place_of_those_before(talk: Any) -> None:
    """All of them, but for a pause, which goes on unless something is said of it; nil takes all away."""
    it = talk()
    a = it.admin()
    it.machine.set_queue("mail", QueueSettings(run_ns=1 * S, paused="intake", intake_by="ada"))
    line = a.orders(SetQueue(queue="mail", settings={"jobs_max": 3})).queue
    assert (line.settings, line.paused, names(line)) == ({"jobs_max": 3}, "intake", {"intake": "ada"})
    line = a.orders(SetQueue(queue="mail", settings={"paused": "both"}, by="eve")).queue
    assert (line.settings, line.paused, names(line)) == ({}, "both", {"intake": "eve", "dispatch": "eve"})
    line = a.orders(SetQueue(queue="mail", settings={"paused": ""})).queue
    assert (line.settings, line.paused, names(line)) == ({}, "", {})
    it.machine.set_queue("mail", QueueSettings(paused="intake"))
    line = a.orders(SetQueue(queue="mail", settings=None)).queue
    assert (line.settings, line.paused) == (None, "")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"jobs_mx": 3}, "there is no setting 'jobs_mx'; did you mean 'jobs_max'?"),
        ({"jobs_max": -3}, "jobs_max is -3: it must be a whole number, at least 0"),
        ({"run_ms": 1.5}, "run_ms is 1.5: it must be a whole number of milliseconds"),
        ({"run_ms": 10**10}, "run is 10000000 s: this broker takes at most 604800 s (--run-max)"),
        ({"rate": 1e-300}, "rate is 1e-300: it must be a number of jobs a second, 0.000001 to 1000000000"),
    ],
)
def test_settings_that_cannot_be_are_refused(talk: Any, settings: dict[str, Any], text: str) -> None:
    """`bad_request`, with what to change; what was there stays."""
    it = talk()
    a = it.admin()
    it.machine.set_queue("mail", QueueSettings(jobs_max=5))
    answer = a.orders(SetQueue(id=b"x", queue="mail", settings=settings))
    assert (answer.code, answer.text, answer.of, answer.id) == ("bad_request", text, "set_queue", b"x")
    assert it.machine.queues.named("mail").settings == QueueSettings(jobs_max=5)


def test_one_queue_too_many_cannot_be_made(talk: Any) -> None:
    """`too_many_queues`; one that is there can be set."""
    it = talk(limits=Limits(queues_max=2))
    a = it.admin()
    a.orders(PauseQueue(queue="a"))
    assert a.orders(PauseQueue(queue="b")).code == "too_many_queues"
    assert a.orders(SetQueue(queue="b", settings={})).code == "too_many_queues"
    assert a.orders(SetQueue(queue="a", settings={"jobs_max": 1})).queue.settings == {"jobs_max": 1}


def test_an_answer_leaves_when_what_it_says_is_safe(talk: Any) -> None:
    """Decide, write down, then speak: and after a restart the pause is there."""
    it = talk(store=LateStore())
    a = it.admin()
    a.says(PauseQueue(queue="mail", by="ada"))
    assert a.heard == []
    it.store.settle(9)
    it.turn()
    (answer,) = a.heard
    assert answer.queue.paused == "both"


# --- Jobs


def test_a_job_is_shown_by_its_id_and_by_its_request(talk: Any) -> None:
    """Whoever was told it: a client, a worker, or nobody but the request's own."""
    it = talk(tries=3)
    c, a = it.client(), it.admin()
    told = c.asks(b"told", queue="mail", headers={"a": "b"})
    c.submit(b"plain")
    w = it.worker(queues=("default", "mail"), credit=2)
    w.start(b"told")
    w.fail(b"told", kind="Oops", text="it broke", retry_ms=5_000)
    shown = a.orders(ShowJob(id=b"x", job=told.job))
    assert (shown.id, shown.job, shown.request, shown.number) == (b"x", told.job, name(b"told"), 1)
    assert (shown.queue, shown.state, shown.attempts, shown.tries) == ("mail", "delayed", 1, 3)
    assert (shown.kind, shown.text, shown.headers) == ("Oops", "it broke", {"a": "b"})
    assert (shown.body_bytes, shown.askers) == (4, 1)
    assert [(entry.attempt, entry.cause, entry.worker) for entry in shown.ledger] == [
        (1, "failed", shown.ledger[0].worker)
    ]
    assert shown.due_ms - shown.ledger[0].ended_ms == 5_000
    assert shown.accepted_ms == it.machine.wall_ms(it.now)
    plain = a.orders(ShowJob(job=w.last(b"plain").job))
    assert (plain.request, plain.state, plain.worker) == (name(b"plain"), "running", w_name(it))
    assert plain.began_ms == plain.accepted_ms
    assert a.orders(ShowJob(request=name(b"plain"))) == plain
    w.complete(b"plain")
    ended = a.orders(ShowJob(request=name(b"plain")))
    assert (ended.state, ended.worker, ended.began_ms, ended.ended_ms) == ("completed", "", 0, plain.accepted_ms)


def test_a_job_has_an_id_for_whoever_looks_at_it(talk: Any) -> None:
    """Drawn then, where nobody had wanted one; it is found by it from then on, and forgotten with the job."""
    it = talk()
    c, a = it.client(), it.admin()
    c.submit(b"plain")
    explained = a.orders(WhyJob(request=name(b"plain")))
    assert len(explained.job) == 16
    assert a.orders(ShowJob(request=name(b"plain"))).job == explained.job
    assert a.orders(WhyJob(job=explained.job)) == explained
    assert c.inquire(job=explained.job).state == "available"
    c.submit(b"other")
    told = c.inquire(id=name(b"other")).job
    assert len(told) == 16
    assert told != explained.job
    w = it.worker(credit=2)
    assert {w.last(b"plain").job, w.last(b"other").job} == {explained.job, told}
    w.complete(b"plain")
    w.complete(b"other")
    c.receive()
    assert a.orders(ShowJob(job=told)).code == "unknown_job"
    assert it.machine.requests._by_id == {}


def w_name(it: Any) -> str:
    """What logs call the only worker."""
    (session,) = it.machine.roster.sessions.values()
    return str(session.name)


@pytest.mark.parametrize("kind", [ShowJob, WhyJob, CancelAnyJob])
def test_a_job_that_is_not_known_and_one_that_is_not_named(talk: Any, kind: Any) -> None:
    """`unknown_job`, `bad_request`; a request belongs to its principal."""
    it = talk()
    a = it.admin()
    it.client(principal="p").submit(b"theirs")
    for which in ({"job": b"j" * 16}, {"request": b"r" * 16}, {"request": name(b"theirs")}):
        assert a.orders(kind(**which)).code == "unknown_job"
    for which in ({}, {"job": b"j", "request": b"r"}):
        assert a.orders(kind(**which)).code == "bad_request"
    answer = a.orders(kind(request=name(b"theirs"), principal="p"))
    assert answer.state == ("cancelled" if kind is CancelAnyJob else "available")


def test_a_job_of_2010_is_found_by_the_id_that_its_worker_was_told(talk: Any) -> None:
    """Nobody else knows one."""
    it = talk()
    a = it.admin()
    it.client_2010().submit(b"old")
    w = it.worker(credit=1)
    shown = a.orders(ShowJob(job=w.last(b"old").job))
    assert (shown.request, shown.queue, shown.state, shown.askers) == (b"", "default", "held", 0)


def test_a_search_is_made_in_steps(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other orders are carried out meanwhile, and so many searches at a time."""
    monkeypatch.setattr(administration, "LOOKS_MAX", 1)
    monkeypatch.setattr(desk, "LONG_MAX", 2)
    it = talk()
    c, a, b = it.client(), it.admin(), it.admin("b")
    w = it.worker(credit=10)
    for number in range(9):
        c.submit(b"%d" % number)
    wanted = w.last(b"8").job
    for number in range(3):
        a.says(ShowJob(id=b"%d" % number, job=wanted), turn=False)
    b.says(PauseQueue(id=b"p", queue="mail"), turn=False)
    it.turn()
    assert [(each.id, getattr(each, "code", "")) for each in a.heard] == [(b"2", "busy"), (b"0", ""), (b"1", "")]
    assert [each.id for each in b.heard] == [b"p"]


def test_a_cancelled_job_ends_whoever_waits_for_it(talk: Any) -> None:
    """All askers are told, its worker too; one that has ended stays as it is."""
    it = talk()
    c, d, a = it.client("c"), it.client("d"), it.admin()
    w = it.worker(credit=1)
    for each in (c, d):
        each.submit(b"1")
    w.start(b"1")
    answer = a.orders(CancelAnyJob(id=b"x", request=name(b"1")))
    assert (answer.id, answer.state, answer.reason, answer.attempts) == (b"x", "cancelled", "cancelled", 1)
    assert c.told() == d.told() == [(b"1", "cancelled", ())]
    assert [said.token for said in w.take(Cancel)] == [w.token(b"1")]
    assert a.orders(CancelAnyJob(request=name(b"1"))).reason == "cancelled"
    old = it.client_2010()
    old.submit(b"2")
    w.ask()
    a.orders(CancelAnyJob(job=w.last(b"2").job))
    assert old.told == [b""]
    c.submit(b"3")
    w.ask()
    w.complete(b"3")
    assert a.orders(CancelAnyJob(request=name(b"3"))).state == "completed"


def test_a_job_is_cancelled_whose_acceptance_is_not_safe_yet(talk: Any) -> None:
    """It never begins."""
    it = talk(store=LateStore())
    c, a = it.client(), it.admin()
    w = it.worker(credit=1)
    c.submit(b"1")
    a.says(CancelAnyJob(request=name(b"1")))
    it.store.settle(9)
    it.turn()
    assert (a.heard[0].state, c.told(), w.got) == ("cancelled", [(b"1", "cancelled", ())], [])


# --- Why


def whys(it: Any, body: bytes) -> tuple[str, str]:
    """(code, text)."""
    answer = it.admin().orders(WhyJob(id=b"x", request=name(body)))
    assert answer.id == b"x"
    return answer.code, answer.text


def test_why_a_job_waits(talk: Any) -> None:
    """Each reason as long as it holds, from the first to the last."""
    it = talk()
    c = it.client()
    for body in (b"1", b"2", b"3"):
        c.submit(body, queue="mail")
    assert whys(it, b"1") == ("no_worker", "no worker asks for a job of the queue 'mail'; 0 jobs are before it")
    assert whys(it, b"3") == ("no_worker", "no worker asks for a job of the queue 'mail'; 2 jobs are before it")
    it.machine.set_queue("mail", QueueSettings(paused="dispatch", dispatch_by="ada"))
    it.worker(queues=("mail",), credit=1)
    assert whys(it, b"2") == ("paused", "the queue 'mail' gives nothing out: it was paused by ada")
    it.machine.set_queue("mail", QueueSettings(paused="both"))
    assert whys(it, b"2")[1].endswith("it was paused by somebody")


def test_why_a_job_waits_beside_a_worker_that_asks(talk: Any) -> None:
    """Between two turns of the match; after it one of both is spent."""
    it = talk()
    c = it.client()
    for body in (b"1", b"2", b"3"):
        c.submit(body)
    it.worker(credit=1)
    it.machine.give_back(it.job(b"1"), it.now)
    session = next(iter(it.machine.roster.sessions.values()))
    it.machine.roster.grant(session, 2)
    texts = [administration.why(it.machine, it.job(body), it.now) for body in (b"1", b"2", b"3")]
    assert texts == [
        ("next", "it is the next one of the queue 'default'"),
        ("behind", "1 job is before it in the queue 'default'"),
        ("behind", "2 jobs are before it in the queue 'default'"),
    ]


KEY = "its fairness key in the queue 'mail'"


@pytest.mark.parametrize(
    ("settings", "code", "text"),
    [
        (
            {"in_flight_max": 1},
            "in_flight",
            "the queue 'mail' has as many jobs with workers as it may have (in_flight_max 1): one has to end first",
        ),
        (
            {"key_in_flight_max": 1},
            "in_flight",
            f"{KEY} has as many jobs with workers as it may have (key_in_flight_max 1): one has to end first",
        ),
        (
            {"rate": 0.5},
            "rate",
            "the queue 'mail' has given out as many jobs as it may (rate 0.5 a second): the next one in 2 s",
        ),
        (
            {"key_rate": 4.0, "key_burst": 1},
            "rate",
            f"{KEY} has given out as many jobs as it may (key_rate 4 a second): the next one in 0.25 s",
        ),
    ],
)
def test_why_a_job_waits_for_a_limit(talk: Any, settings: dict[str, Any], code: str, text: str) -> None:
    """Though a worker asks, and though none would: more workers change nothing. A job of another key is not kept by
    the limit of this one.
    """
    it = talk()
    it.machine.set_queue("mail", QueueSettings(**settings))
    c = it.client()
    it.worker(queues=("mail",), credit=1)
    for body in (b"1", b"2"):
        c.submit(body, queue="mail", fair="ada")
    assert whys(it, b"1")[0] == "held"
    assert whys(it, b"2") == (code, text)
    c.submit(b"3", queue="mail", fair="eve")
    assert (whys(it, b"3")[0] == code) is (not next(iter(settings)).startswith("key_"))


def test_why_a_job_is_with_a_worker_or_waits_for_its_moment(talk: Any) -> None:
    """Who has it and since when, when the next attempt may begin, how it ended."""
    it = talk(tries=2)
    c = it.client()
    w = it.worker(credit=2)
    c.submit(b"1")
    it.wait(2_500 * MS)
    worker = w_name(it)
    assert whys(it, b"1") == ("held", f"worker {worker} has it for 2.5 s and has not said that it began")
    w.start(b"1")
    it.wait(4 * S)
    assert whys(it, b"1") == ("running", f"worker {worker} does it for 4 s; attempt 1")
    w.fail(b"1", kind="Oops", text="it broke", retry_ms=180_000)
    it.wait(60 * S)
    assert whys(it, b"1") == ("retry", "its last attempt came to nothing; the next one may begin in 2 min")
    it.wait(120 * S)
    w.fail(b"1", kind="Oops", text="it broke")
    it.wait(1 * S)
    assert whys(it, b"1") == ("ended", "it was discarded (tries_spent) 1 s ago, after 2 attempts: Oops: it broke")


def test_why_a_job_of_an_earlier_broker_is_out(talk: Any) -> None:
    """Its worker may still come back with it."""
    it = talk(store=MemoryStore())
    c = it.client()
    w = it.worker(credit=1)
    c.submit(b"1")
    w.start(b"1")
    it.begin()
    assert whys(it, b"1")[0] == "lost"


def test_why_a_job_waits_for_the_store(talk: Any) -> None:
    """Asked within the broker: an answer would wait, too."""
    it = talk(store=LateStore())
    it.client().submit(b"1")
    (job,) = it.machine.jobs()
    assert administration.why(it.machine, job, it.now)[0] == "unsafe"


def test_why_a_job_with_a_deadline_is_where_it_is(talk: Any) -> None:
    """When it ends if nothing happens; and that what it waits for comes too late."""
    it = talk(tries=5)
    c = it.client()
    c.submit(b"1", deadline_ms=60_000, takes_ms=10_000, queue="mail")
    no_worker = "no worker asks for a job of the queue 'mail'; 0 jobs are before it"
    assert whys(it, b"1") == ("no_worker", f"{no_worker}; it ends in 50 s if it has not begun")
    w = it.worker(queues=("mail",), credit=1)
    assert whys(it, b"1")[1].endswith("has not said that it began; it ends in 50 s if it has not begun")
    w.start(b"1")
    assert whys(it, b"1")[1].endswith("for 0.001 s; attempt 1; it ends in 60 s if it has not ended")
    w.fail(b"1", retry_ms=5_000)
    assert whys(it, b"1")[1].endswith("may begin in 5 s; it ends in 50 s if it has not begun")
    it.wait(5 * S)
    w.ask()
    w.start(b"1")
    it.job(b"1").state = DELAYED  # as a store may have it, from a life in which nothing was too late yet
    it.job(b"1").due_ns = it.now + 45 * S
    assert whys(it, b"1") == ("deadline", "what it waits for comes after its deadline: it ends in 45 s")
    it.job(b"1").state = RUNNING
    w.fail(b"1", retry_ms=500_000)
    assert whys(it, b"1")[1] == "it was discarded (deadline) 0.001 s ago, after 2 attempts"


def test_why_a_job_is_not_due(talk: Any) -> None:
    """Its client wants it later."""
    it = talk()
    it.client().submit(b"1", delay_ms=7_200_000)
    assert whys(it, b"1") == ("due", "it is due in 2 h")


def test_a_client_is_told_why_where_it_asks(talk: Any) -> None:
    """`inquire` with `why`: in the state of a job that is known, as administrators are told."""
    it = talk()
    c = it.client()
    c.submit(b"1")
    plain = c.inquire(id=name(b"1"))
    assert (plain.state, plain.code, plain.text) == ("available", "", "")
    told = c.inquire(id=name(b"1"), why=True)
    assert (told.state, told.code, told.text) == ("available", *whys(it, b"1"))
    unknown = c.inquire(id=name(b"2"), why=True)
    assert (unknown.state, unknown.code) == ("unknown", "")
    assert it.client("d", principal="p").inquire(id=name(b"1"), why=True).code == ""


# --- The desk


def test_what_is_no_order_is_told_a_code(talk: Any) -> None:
    """With the id of the order where that can be read; nothing of it counts as a peer's, or stops anything."""
    it = talk()
    a = it.admin()
    said: list[tuple[bytes, int, bytes, str]] = [
        (b"\x82\xa1t\xa6queues\xa2id\xc4\x01x", VERSION, b"x", ""),
        (b"\x83\xa1t\xa5pause\xa2id\xc4\x01x\xa5queue\xa0", VERSION, b"x", "bad_header"),
        (b"\x82\xa1t\xa5pause\xa2id\xc4\x01x", VERSION, b"x", "bad_header"),
        (b"\x82\xa1t\xa5pouse\xa2id\xc4\x01x", VERSION, b"x", "unknown_command"),
        (b"\x82\xa1t\xa6queues\xa2id\xa1x", VERSION, b"", "bad_header"),
        (b"\xc1", VERSION, b"", "bad_header"),
        (b"", VERSION, b"", "bad_header"),
        (b"\x80", 7, b"", "bad_version"),
    ]
    for header, version, order_id, code in said:
        it.admins.native.append((a.peer, b"", version, header, ()))
        it.turn()
        (answer,) = a.heard
        a.heard = []
        assert (answer.id, getattr(answer, "code", "")) == (order_id, code), header
    a.says(Heartbeat())
    assert a.heard.pop().code == "unknown_command"
    it.admins.incoming.append((a.peer, b"", b"2010"))
    it.admins.refused.append(Refused(a.peer, b"", "too_large"))
    it.turn()
    assert [each.code for each in a.heard] == ["bad_header", "too_large"]
    assert it.counters.messages_refused == len(said) + 2


def test_orders_are_read_some_a_turn(talk: Any) -> None:
    """So an administrator that floods holds nobody up, and all of its orders are carried out."""
    it = talk()
    asked: list[int] = []
    receive = it.admins.receive
    it.admins.receive = lambda *bounds: asked.append(bounds[0]) or receive(*bounds)
    it.turn()
    assert set(asked) == {desk.ORDERS_MAX}
    a = it.admin()
    for number in range(desk.ORDERS_MAX):
        a.says(ListQueues(id=b"%d" % number), turn=False)
    it.server.turn(it.now, it.now)
    assert it.server.busy
    assert len(a.heard) == desk.ORDERS_MAX
    it.turn()
    assert not it.server.busy


def test_who_does_not_read_its_answers_does_without_them(talk: Any) -> None:
    """They are dropped and counted; nothing waits for it."""
    it = talk()
    a = it.admin()
    it.admins.codes[a.peer] = 11
    a.says(ListQueues())
    assert (a.heard, it.counters.reply_dropped) == ([], 1)
    it.admins.codes.clear()
    a.says(ListQueues(id=b"x"), turn=False)
    a.lose(turn=False)
    it.turn()
    assert (a.heard, it.counters.reply_dropped) == ([], 1)


def test_an_answer_goes_back_along_its_path(talk: Any) -> None:
    """Administrators behind a proxy; no client and no worker hears of it."""
    it = talk()
    a = it.admin("a")
    b = it.admin("b", path=b"\x01b")
    b.connect(beside=a)
    c = it.client()
    b.says(ListQueues(id=b"x"))
    assert (a.heard, [each.id for each in b.heard], c.heard) == ([], [b"x"], [])
    assert SIGNATURE


def test_no_client_is_told_of_orders(talk: Any) -> None:
    """`cancel` of an administrator is no message of a client: there it means its own asking."""
    it = talk()
    c, d = it.client("c"), it.client("d")
    c.submit(b"1")
    d.says(CancelAnyJob(request=name(b"1")))
    assert [type(each) for each in d.heard] == [Error]
    stands = c.inquire(id=name(b"1"))
    assert (stands.state, stands.attempts) == ("available", 0)
