"""Settings of queues: what can be set, what is refused, and what holds then.

Limits of what is in flight, rates and ageing are in the tests of waiting; tries and pauses between them in those of
retries.
"""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import pytest

import relet
from relet.core import settings as spelling
from relet.core.limits import Limits
from relet.core.queue import Queue
from relet.core.settings import SETTINGS, QueueSettings, SettingsError
from relet.core.terms import Backoff, Terms
from relet.messages import Error, Recall, Submitted
from relet.store.memory import MemoryStore

MS = 1_000_000
S = 1_000 * MS
OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


# --- What may be set


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"run_ns": -1}, "run is -1e-09 s: it must be a time from 0 to ten years"),
        ({"run_ns": "2"}, "run is '2': it must be a time from 0 to ten years"),
        ({"run_ns": True}, "run is True: it must be a time from 0 to ten years"),
        ({"start_ns": 0}, "start is 0 s: it must be a time from more than 0 to ten years"),
        ({"jobs_max": -1}, "jobs_max is -1: it must be a whole number, at least 0"),
        ({"jobs_max": 1.5}, "jobs_max is 1.5: it must be a whole number, at least 0"),
        ({"priority": 1_001}, "priority is 1001: it must be a whole number, at least -1000 and at most 1000"),
        ({"in_flight_max": 0}, "in_flight_max is 0: it must be a whole number, at least 1"),
        ({"rate": 0}, "rate is 0: it must be a number of jobs a second, 0.000001 to 1000000000"),
        ({"rate": float("nan")}, "rate is nan: it must be a number of jobs a second, 0.000001 to 1000000000"),
        ({"rate": float("inf")}, "rate is inf: it must be a number of jobs a second, 0.000001 to 1000000000"),
        ({"rate": 1e-300}, "rate is 1e-300: it must be a number of jobs a second, 0.000001 to 1000000000"),
        ({"key_rate": 5e-324}, "key_rate is 5e-324: it must be a number of jobs a second, 0.000001 to 1000000000"),
        ({"final_kinds": "ValueError"}, "final_kinds is 'ValueError': it must be a list of at most 16 names"),
        ({"final_kinds": ("",)}, "final_kinds is ('',): it must be a list of at most 16 names of 1 to 100 characters"),
        ({"backoff": 2}, "backoff is 2: it must be a Backoff"),
        ({"paused": "intakes"}, "it must be 'intake', 'dispatch' or 'both'; did you mean 'intake'?"),
        ({"paused": "both", "dispatch_by": "x" * 201}, "it must be text of at most 200 characters"),
        ({"burst": 3}, "burst says nothing without rate: set that, too"),
        ({"key_burst": 3}, "key_burst says nothing without key_rate: set that, too"),
        ({"ageing_max": 3}, "ageing_max says nothing without ageing: set that, too"),
        ({"paused": "dispatch", "intake_by": "ada"}, "intake_by says nothing without intake_paused: set that, too"),
        ({"dispatch_by": "ada"}, "dispatch_by says nothing without dispatch_paused: set that, too"),
        ({"tries": 2, "losses_max": 3}, "losses_max is 3 and tries is 2, which bounds all kinds together"),
        ({"start_ns": 3, "total_ns": 2}, "start is later than deadline"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_by_name(fields: dict[str, Any], text: str) -> None:
    """The text names the setting as who has written it, and says what it may be."""
    with pytest.raises(SettingsError) as refused:
        QueueSettings(**fields)
    assert text in str(refused.value)


def test_settings_that_can_be_are_taken() -> None:
    """Also all of them together."""
    QueueSettings(
        priority=-1_000,
        tries=0,
        errors_max=1,
        timeouts_max=1,
        losses_max=1,
        final_kinds=("ValueError",),
        backoff=Backoff("fixed", 1, 1),
        run_ns=0,
        start_ns=1,
        total_ns=1,
        in_flight_max=1,
        rate=0.5,
        burst=1,
        key_in_flight_max=1,
        key_rate=1,
        key_burst=1,
        ageing_ns=1,
        ageing_max=1,
        jobs_max=0,
        kept_ns=0,
        kept_jobs_max=0,
        kept_bytes_max=0,
        paused="both",
        intake_by="ada",
        dispatch_by="eve",
    )


PAUSES = {"curve": "fixed", "base": 1, "cap": 2}
WORDS = {
    "run": 2.5,
    "tries": 3,
    "final_kinds": ["ValueError"],
    "backoff": {"curve": "linear", "base": 0.5, "cap": 10.0, "jitter": True},
    "deadline": 60.0,
    "jobs_max": 7,
    "paused": "intake",
}
WIRE = {
    "run_ms": 2_500,
    "tries": 3,
    "final_kinds": ["ValueError"],
    "backoff": {"curve": "linear", "base_ms": 500, "cap_ms": 10_000, "jitter": True},
    "deadline_ms": 60_000,
    "jobs_max": 7,
    "paused": "intake",
}


def test_people_and_programs_write_the_same_settings_in_their_own_units() -> None:
    """Seconds in files and in Python, milliseconds on the wire; both ways; a pause says by whom it is."""
    settings = spelling.from_words(WORDS)
    assert settings == QueueSettings(
        run_ns=2_500 * MS,
        tries=3,
        final_kinds=("ValueError",),
        backoff=Backoff("linear", 500 * MS, 10 * S, jitter=True),
        total_ns=60 * S,
        jobs_max=7,
        paused="intake",
        intake_by="the configuration",
    )
    assert spelling.to_words(settings) == WORDS
    assert spelling.from_wire(WIRE, by="ada").intake_by == "ada"
    assert spelling.to_wire(spelling.from_wire(WIRE, by="ada")) == WIRE
    assert spelling.to_wire(QueueSettings(run_ns=1)) == {"run_ms": 1}
    assert spelling.to_words(QueueSettings()) == spelling.to_wire(QueueSettings()) == {}


def test_times_may_have_their_unit_and_a_backoff_may_be_one() -> None:
    """As on the command line, and as in `Terms`: what is left out of a backoff is as it is there."""
    settings = spelling.from_words({"run": "1.5m", "kept": "2d", "backoff": relet.Backoff(base=0.5)})
    assert settings == QueueSettings(
        run_ns=90 * S, kept_ns=172_800 * S, backoff=Backoff("exponential", 500 * MS, spelling.CAP_OPEN_NS)
    )
    assert spelling.to_words(settings)["backoff"] == {"curve": "exponential", "base": 0.5, "jitter": False}
    assert spelling.from_wire(spelling.to_wire(settings), by="") == settings
    short = {"base": "500ms", "cap": "1m", "jitter": True}
    assert spelling.from_words({"backoff": short}).backoff == Backoff("exponential", 500 * MS, 60 * S, jitter=True)
    whole = relet.Backoff(base=1, curve="fixed", cap=2, jitter=True)
    assert spelling.from_words({"backoff": whole}).backoff == Backoff("fixed", 1 * S, 2 * S, jitter=True)


def test_a_backoff_without_a_cap_goes_as_far_as_the_broker_allows(talk: Any) -> None:
    """As that of a job does; further it cannot begin."""
    machine = talk(limits=Limits(retry_ns_max=9 * S)).machine
    machine.set_queue("mail", spelling.from_words({"backoff": {"base": 1}}))
    assert machine.queues.named("mail").settings.backoff == Backoff("exponential", 1 * S, 9 * S)
    with pytest.raises(SettingsError, match=r"queue 'mail': base of backoff is 10 s: .* at most 9 s \(--retry-max\)"):
        machine.configure({"mail": spelling.from_words({"backoff": {"base": 10}})})


def test_each_setting_has_one_row() -> None:
    """No field twice, no word twice, and each is a field."""
    assert len({it.field for it in SETTINGS}) == len({it.word for it in SETTINGS}) == len(SETTINGS)
    assert {it.field for it in SETTINGS} <= set(QueueSettings.__struct_fields__)


def test_each_setting_stands_in_the_document() -> None:
    """docs/operations.md: one row each, and no other."""
    rows = re.findall(r"^\| `(\w+)` \| (?:for new jobs|at once) \|", OPERATIONS.read_text(), re.MULTILINE)
    assert rows == [it.word for it in SETTINGS]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"jobs_mx": 3}, "there is no setting 'jobs_mx'; did you mean 'jobs_max'?"),
        ({"zzz": 3}, "there is no setting 'zzz'; there are run, "),
        ({"intake_by": "me"}, "there is no setting 'intake_by'"),
        ({"run": "2x"}, "run: '2x' is no duration; write seconds (2, 0.5), or 500ms, 2s, 1m, 1h"),
        ({"run": float("nan")}, "run is nan: it must be a time from 0 to ten years: a number of seconds"),
        ({"run": -1}, "run is -1: it must be a time from 0 to ten years: a number of seconds (2, 0.5), or text with"),
        ({"ageing": 10**9}, "ageing is 1000000000: it must be a time from 0 to ten years"),
        ({"ageing": 0}, "ageing is 0 s: it must be a time from more than 0 to ten years: a number of seconds"),
        ({"rate": 0}, "a number of jobs a second, 0.000001 to 1000000000; to give out none, pause its dispatch"),
        ({"paused": "no"}, "paused is 'no': it must be 'intake', 'dispatch' or 'both'"),
        ({"paused": ["both"]}, "paused is ('both',): it must be"),
        ({"backoff": 2}, "backoff is 2: give base, and curve, cap and jitter where you want them"),
        ({"backoff": {"curve": "fixed", "cap": 1}}, "give base, and curve, cap and jitter"),
        ({"backoff": {**PAUSES, "capp": 3}}, "backoff has no 'capp'; did you mean 'cap'?"),
        ({"backoff": {**PAUSES, "curve": "fixt"}}, "one of fixed, linear, exponential; did you mean 'fixed'?"),
        ({"backoff": {**PAUSES, "curve": []}}, "the curve of backoff is []"),
        ({"backoff": {**PAUSES, "jitter": 1}}, "the jitter of backoff is 1: it must be true or false"),
        ({"backoff": {**PAUSES, "base": "1x"}}, "base of backoff: '1x' is no duration; write seconds (2, 0.5)"),
        ({"backoff": relet.Backoff(base=0)}, "backoff begins at base 0, above 0"),
        ({"backoff": {**PAUSES, "base": 3}}, "backoff begins at base 3, above 0, and cap is at least that"),
        ({"backoff": {**PAUSES, "base": 0}}, "backoff begins at base 0, above 0"),
    ],
    ids=str,
)
def test_words_that_cannot_be_are_refused(words: dict[str, Any], text: str) -> None:
    """With what may have been meant."""
    with pytest.raises(SettingsError) as refused:
        spelling.from_words(words)
    assert text in str(refused.value)


@pytest.mark.parametrize("said", [{"run_ms": 1.5}, {"run_ms": -1}, {"run_ms": 2**63}, {"run": 1}, {"run_ms": "1"}])
def test_what_the_wire_cannot_have_said_is_refused(said: dict[str, Any]) -> None:
    """Times are whole milliseconds there."""
    with pytest.raises(SettingsError):
        spelling.from_wire(said, by="ada")


def test_a_queue_without_defaults_has_the_terms_of_the_broker() -> None:
    """The same object: its jobs stay on the broker's way."""
    terms = Terms(run_ns=5)
    assert QueueSettings(jobs_max=3).terms(terms) is terms
    assert QueueSettings(run_ns=5).terms(terms) is terms
    assert QueueSettings(run_ns=6).terms(terms) == Terms(run_ns=6)
    assert QueueSettings(run_ns=0).terms(terms) == Terms(run_ns=None)


# --- Defaults


def test_a_job_says_what_holds_else_its_queue_else_the_broker(talk: Any) -> None:
    """Settled at acceptance: what is set later holds for new jobs."""
    it = talk(timeout_ns=9 * S)
    c = it.client()
    it.machine.set_queue("mail", QueueSettings(run_ns=4 * S))
    c.submit(b"queue's", queue="mail")
    c.submit(b"own", queue="mail", run_ms=2_000)
    c.submit(b"none", queue="mail", run_ms=0)
    c.submit(b"late", queue="mail", late="current")
    c.submit(b"broker's", queue="other")
    it.machine.set_queue("mail", QueueSettings(run_ns=3 * S))
    c.submit(b"new", queue="mail")
    c.submit(b"new, late", queue="mail", late="current")
    bodies = (b"queue's", b"own", b"none", b"late", b"broker's", b"new", b"new, late")
    assert [it.job(body).terms.run_ns for body in bodies] == [4 * S, 2 * S, None, 4 * S, 9 * S, 3 * S, 3 * S]
    it.machine.set_queue("mail", None)
    assert c.asks(b"last", queue="mail").code == ""
    assert it.job(b"last").terms is it.machine.terms


def test_the_defaults_of_the_default_queue_hold_for_all_dialects(talk: Any) -> None:
    """Also for plain jobs, and those of 2010 alone: their time is up when it says."""
    it = talk(timeout_ns=9 * S, tries=2)
    it.machine.set_queue("default", QueueSettings(run_ns=2 * S))
    old, worker = it.client_2010(), it.worker_2010()
    old.submit(b"old")
    worker.ask(2)
    it.wait(2 * S - 1)
    assert it.counters.attempts_expired == 0
    it.machine.set_queue("default", None)  # what was agreed holds
    it.wait(1)
    assert it.counters.attempts_expired == 1
    it.wait(2 * S)
    assert old.told == [b""]
    it.machine.set_queue("default", QueueSettings(run_ns=2 * S))
    c = it.client()
    c.submit(b"plain")
    assert it.job(b"plain").terms.run_ns == 2 * S


def test_what_a_queue_says_of_retries_and_deadlines_holds_for_its_jobs(talk: Any) -> None:
    """Unless they say otherwise themselves; in the dialect of 2010 they never do."""
    it = talk(tries=9)
    backoff = Backoff("fixed", 1 * S, 1 * S)
    settings = QueueSettings(tries=2, errors_max=1, final_kinds=("E",), backoff=backoff, start_ns=5 * S, total_ns=9 * S)
    it.machine.set_queue("default", settings)
    it.client_2010().submit(b"old")
    it.client().submit(b"own", tries=3, deadline_ms=20_000)
    old, own = it.job(b"old").terms, it.job(b"own").terms
    assert (old.tries, old.errors_max, old.final_kinds, old.backoff) == (2, 1, ("E",), backoff)
    assert (old.start_ns, old.total_ns) == (5 * S, 9 * S)
    assert (own.tries, own.errors_max, own.backoff, own.start_ns, own.total_ns) == (3, 1, backoff, 5 * S, 20 * S)
    it.machine.set_queue("default", QueueSettings(tries=0))
    it.client("d").submit(b"none")
    assert it.job(b"none").terms.tries is None
    it.wait(5 * S)
    assert it.counters.jobs_discarded == 2


@pytest.mark.parametrize(
    ("limits", "settings", "text"),
    [
        ({"ahead_ns_max": 2 * S}, {"start_ns": 3 * S}, "start is 3 s: this broker takes at most 2 s (--ahead-max)"),
        ({"ahead_ns_max": 2 * S}, {"total_ns": 3 * S}, "deadline is 3 s: this broker takes at most 2 s (--ahead-max)"),
        ({"retry_ns_max": 2 * S}, {"backoff": Backoff("fixed", 1, 3 * S)}, "cap of backoff is 3 s: this broker takes"),
    ],
)
def test_times_above_the_broker_s_cannot_be_set(talk: Any, limits: Any, settings: Any, text: str) -> None:
    """As with a run limit."""
    with pytest.raises(SettingsError, match=re.escape(text)):
        talk(limits=Limits(**limits)).machine.set_queue("mail", QueueSettings(**settings))


def test_a_run_limit_above_the_broker_s_cannot_be_set(talk: Any) -> None:
    """A queue may not allow what a job may not ask for."""
    machine = talk(limits=Limits(run_ns_max=10 * S)).machine
    machine.set_queue("mail", QueueSettings(run_ns=10 * S))
    with pytest.raises(SettingsError, match=r"run is 11 s: this broker takes at most 10 s \(--run-max\)"):
        machine.set_queue("mail", QueueSettings(run_ns=11 * S))
    assert machine.queues.named("mail").settings == QueueSettings(run_ns=10 * S)


# --- Full


def test_a_full_queue_refuses_until_a_job_has_ended(talk: Any) -> None:
    """`queue_full`: waiting, held, running and delayed jobs count, those of other queues do not."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(queues=("mail",))
    it.machine.set_queue("mail", QueueSettings(jobs_max=2))
    assert c.asks(b"elsewhere").code == c.asks(b"a", queue="mail").code == c.asks(b"b", queue="mail").code == ""
    refused = c.asks(b"c", queue="mail")
    assert (refused.code, refused.retry_ms) == ("queue_full", 0)
    assert refused.text == "the queue 'mail' has as many jobs as it may have: 2 (jobs_max)"
    w.ask(1)
    assert c.asks(b"c", queue="mail").code == "queue_full"
    w.complete(b"a")
    assert c.asks(b"c", queue="mail").code == ""
    assert c.asks(b"d", queue="mail").code == "queue_full"
    w.ask(1)
    w.fail(b"b")
    assert c.asks(b"d", queue="mail").code == ""


def test_a_message_of_many_fills_a_queue_to_the_brim(talk: Any) -> None:
    """Each job for itself; a limit that is set later counts those that are there."""
    it = talk()
    c = it.client()
    c.submit(b"before", queue="mail")
    it.machine.set_queue("mail", QueueSettings(jobs_max=3))
    codes = [each.code for each in c.submit_many(b"a", b"b", b"c", queue="mail")]
    assert codes == ["", "", "queue_full"]
    it.machine.set_queue("default", QueueSettings(jobs_max=2))
    codes = [each.code for each in c.submit_many(b"d", b"e", b"f")]
    assert codes == ["", "", "queue_full"]
    assert c.asks(b"g").code == "queue_full"


def test_a_full_default_queue_tells_clients_of_2010_of_failure(talk: Any) -> None:
    """They have no word for a refusal: those that are admitted are done, the others fail at once."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(jobs_max=2))
    old, worker = it.client_2010(), it.worker_2010()
    old.submit(b"a", b"b", b"c")
    assert old.told == [b""]
    assert (it.counters.requests_refused, it.machine.open) == (1, 2)
    assert [dict(fields)["reason"] for _, fields in it.notices if "reason" in fields] == ["queue_full"]
    worker.ask(2)
    worker.answer(b"a", b"done a")
    worker.answer(b"b", b"done b")
    assert old.told == [b"", b"done a", b"done b"]


def test_a_queue_of_none_takes_none(talk: Any) -> None:
    """`jobs_max` 0."""
    it = talk()
    it.machine.set_queue("mail", QueueSettings(jobs_max=0))
    assert it.client().asks(b"a", queue="mail").code == "queue_full"


def test_open_jobs_are_counted_again_after_a_restart(talk: Any) -> None:
    """The census looks after each turn; here the limit shows it."""
    it = talk(store=MemoryStore())
    c = it.client()
    it.machine.set_queue("mail", QueueSettings(jobs_max=2))
    c.submit(b"a", queue="mail")
    c.submit(b"b", queue="mail")
    it.begin()
    c = it.client("again")
    assert c.asks(b"c", queue="mail").code == "queue_full"
    w = it.worker(queues=("mail",), credit=2)
    w.complete(b"a")
    assert c.asks(b"c", queue="mail").code == ""


# --- Paused


@pytest.mark.parametrize("what", ["intake", "both"])
def test_a_queue_that_takes_nothing_says_by_whom(talk: Any, what: str) -> None:
    """`queue_paused`: final for this asking; what is known is joined, other queues go on."""
    it = talk()
    c = it.client()
    c.submit(b"known", queue="mail")
    it.machine.set_queue("mail", QueueSettings().pausing(what, "ada"))
    refused = c.asks(b"a", queue="mail")
    assert (refused.code, refused.retry_ms) == ("queue_paused", 0)
    assert refused.text == "the queue 'mail' takes no jobs: it was paused by ada"
    assert c.asks(b"known", queue="mail").joined
    assert c.asks(b"b").code == ""


def test_clients_of_2010_fail_where_the_default_queue_takes_nothing(talk: Any) -> None:
    """As while a broker stops."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(paused="intake", intake_by="ada"))
    old = it.client_2010()
    old.submit(b"a")
    assert old.told == [b""]
    c = it.client()
    c.submit(b"plain")
    (refused,) = c.take(Submitted)
    assert [each.code for each in refused.jobs] == ["queue_paused"]
    assert it.machine.open == 0


@pytest.mark.parametrize("queue", ["default", "mail"])
@pytest.mark.parametrize("what", ["dispatch", "both"])
def test_a_queue_that_gives_nothing_out_goes_on_when_it_may(talk: Any, what: str, queue: str) -> None:
    """Jobs wait beside asks, other queues of the same worker go on, and nothing is lost."""
    it = talk()
    c = it.client()
    w = it.worker(queues=("default", "mail", "other"), credit=4)
    it.machine.set_queue(queue, QueueSettings(paused="dispatch", dispatch_by="ada"))
    c.submit(b"a", queue=queue)
    c.submit(b"b", queue="other")
    assert w.got == [b"b"]
    it.machine.set_queue(queue, QueueSettings().pausing(what, "ada"))
    assert (w.got, it.state(b"a")) == ([b"b"], "AVAILABLE")
    it.machine.set_queue(queue, None)
    it.turn()
    assert w.got == [b"b", b"a"]


def test_what_is_out_when_a_queue_is_paused_goes_on(talk: Any) -> None:
    """It is completed; what comes back waits."""
    it = talk()
    c = it.client()
    w = it.worker(credit=3)
    c.submit(b"a")
    c.submit(b"b")
    it.machine.set_queue("default", QueueSettings(paused="dispatch", dispatch_by="ada"))
    w.complete(b"a")
    w.fail(b"b")
    assert (c.told(), it.state(b"b"), w.got) == ([(b"a", "completed", b"done")], "AVAILABLE", [b"a", b"b"])


def test_nothing_is_recalled_for_a_queue_that_gives_nothing_out(talk: Any) -> None:
    """It would only wait."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    c = it.client()
    busy = it.worker("busy", credit=3)
    c.submit(b"a")
    c.submit(b"b")
    busy.start(b"a")
    it.machine.set_queue("default", QueueSettings(paused="dispatch", dispatch_by="ada"))
    it.worker("idle", credit=1)
    it.wait(1 * S)
    assert busy.take(Recall) == []
    it.machine.set_queue("default", None)
    it.wait(1 * S)
    assert len(busy.take(Recall)) == 1


def test_the_end_of_the_broker_ends_jobs_of_paused_queues(talk: Any) -> None:
    """They are told of failure as all others."""
    it = talk()
    c = it.client()
    for queue in ("default", "mail"):
        it.machine.set_queue(queue, QueueSettings(paused="dispatch", dispatch_by="ada"))
        c.submit(queue.encode(), queue=queue)
    it.stop()
    assert sorted(c.told()) == [(b"default", "broker_stopped", ()), (b"mail", "broker_stopped", ())]


def test_a_pause_outlives_the_broker(talk: Any) -> None:
    """With a store, until somebody lifts it."""
    it = talk(store=MemoryStore())
    it.machine.set_queue("mail", QueueSettings(paused="both", intake_by="ada", dispatch_by="ada"))
    it.turn()
    it.begin()
    assert it.client().asks(b"a", queue="mail").code == "queue_paused"


# --- Which queues there are


def test_a_queue_with_settings_stays(talk: Any) -> None:
    """Without them it is gone when no job and no worker names it."""
    it = talk()
    it.machine.set_queue("mail", QueueSettings())
    gc.collect()
    assert [queue.name for queue in it.machine.queues] == ["default", "mail"]
    it.machine.set_queue("mail", None)
    gc.collect()
    it.turn()  # which forgets that the queue was stirred
    gc.collect()
    assert [queue.name for queue in it.machine.queues] == ["default"]


def test_only_configured_queues_may_be_used_where_that_was_said(talk: Any) -> None:
    """`unknown_queue`, for jobs and for workers; what is known is joined all the same."""
    it = talk()
    c = it.client()
    c.submit(b"before", queue="old")
    it.machine.queues.only_these = True
    it.machine.set_queue("mail", QueueSettings())
    assert c.asks(b"a", queue="mail").code == ""
    refused = c.asks(b"b", queue="male")
    assert (refused.code, refused.retry_ms) == ("unknown_queue", 0)
    assert refused.text == "there is no queue 'male', and only those that are configured may be used"
    assert c.asks(b"c").code == "unknown_queue"  # the default one has no settings
    assert c.asks(b"before", queue="old").joined
    assert c.asks(b"d", queue="old").code == "unknown_queue"
    answer = it.worker("w", queues=("mail", "male"), hello=False).hello()
    assert (type(answer), answer.code, answer.of) == (Error, "unknown_queue", "hello")
    it.worker("w2", queues=("mail",))
    it.machine.set_queue("default", QueueSettings())
    assert c.asks(b"c").code == ""


def test_the_default_queue_is_no_exception_where_only_configured_ones_may_be_used(talk: Any) -> None:
    """Neither for a request that says nothing but its body, nor for one of 2010, which fails at once."""
    it = talk()
    it.machine.configure({"mail": QueueSettings()}, only_these=True)
    c, old = it.client(), it.client_2010()
    c.submit(b"plain")
    c.submit(b"terms", priority=1)
    assert [each.code for said in c.take(Submitted) for each in said.jobs] == ["unknown_queue"] * 2
    assert [each.code for each in c.submit_many(b"one", b"two")] == ["unknown_queue"] * 2
    old.submit(b"old")
    assert (old.told, it.machine.open) == ([b""], 0)
    assert [dict(fields)["reason"] for _, fields in it.notices if "reason" in fields] == ["unknown_queue"]
    it.machine.set_queue("default", QueueSettings())
    c.submit(b"plain")
    old.submit(b"old")
    assert it.machine.open == 2


def test_there_is_a_largest_number_of_queues(talk: Any) -> None:
    """`too_many_queues`, for jobs and for workers; those that are there may be used."""
    it = talk(limits=Limits(queues_max=3))
    c = it.client()
    assert [c.asks(b"%d" % number, queue=f"q{number}").code for number in range(3)] == ["", "", "too_many_queues"]
    assert c.asks(b"again", queue="q1").code == ""
    answer = it.worker("w", queues=("q0", "q1", "q7"), hello=False).hello()
    assert (type(answer), answer.code) == (Error, "too_many_queues")
    it.worker("w2", queues=("q0", "q1"))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.word)
def test_a_setting_that_is_nil_is_not_set(setting: Any) -> None:
    """Whichever it is, however it is written; there is no other pause than those that have a word."""
    assert spelling.from_wire({setting.wire: None}, by="ada") == QueueSettings()
    assert spelling.from_words({setting.word: None}) == QueueSettings()


def test_a_pause_has_a_word() -> None:
    """None is none: nobody could read it."""
    with pytest.raises(SettingsError, match="paused is None"):
        QueueSettings(paused=None)  # type: ignore[arg-type]


# --- Configuration


def test_a_pause_of_somebody_outlives_the_configuration_which_else_holds(talk: Any) -> None:
    """A broker that begins has what its configuration says; but what somebody has paused stays paused, by that name,
    whatever the configuration says. What the configuration itself had paused is not paused when it says so no more.
    """
    it = talk(store=MemoryStore())
    it.machine.configure({"mail": spelling.from_words({"paused": "both"}), "news": QueueSettings(jobs_max=1)})
    it.machine.set_queue("news", QueueSettings(jobs_max=2, paused="dispatch", dispatch_by="ada"))
    it.machine.set_queue("other", QueueSettings(jobs_max=5))
    it.turn()
    it.begin()
    assert it.machine.queues.named("mail").settings.paused == "both"
    it.machine.configure({"mail": QueueSettings(), "news": QueueSettings(jobs_max=1)}, only_these=True)
    assert {queue.name: queue.settings for queue in it.machine.queues} == {
        "default": None,
        "mail": QueueSettings(),
        "news": QueueSettings(jobs_max=1, paused="dispatch", dispatch_by="ada"),
        "other": QueueSettings(jobs_max=5),
    }
    it.turn()
    it.begin()
    it.machine.configure({"news": QueueSettings(jobs_max=1)})
    assert not it.machine.journal  # nothing has changed
    it.machine.configure({"news": spelling.from_words({"paused": "both"})})
    news = it.machine.queues.named("news").settings
    assert (news.paused, news.intake_by, news.dispatch_by) == ("both", "the configuration", "ada")
    it.turn()
    it.begin()
    it.machine.configure({"news": QueueSettings()})
    assert it.machine.queues.named("news").settings == QueueSettings(paused="dispatch", dispatch_by="ada")


def test_more_queues_than_may_be_cannot_be_configured(talk: Any) -> None:
    """Named as the limit."""
    machine = talk(limits=Limits(queues_max=2)).machine
    with pytest.raises(SettingsError, match="more queues than may be: 2"):
        machine.configure({"a": QueueSettings(), "b": QueueSettings()})


class _Walked(dict[Any, Any]):
    """Counts the walks over what is in it."""

    walks = 0

    def values(self) -> Any:
        self.walks += 1
        return super().values()


def test_a_pause_walks_over_no_jobs_that_are_out(talk: Any) -> None:
    """Those with workers are looked through when a queue begins to count them, and at no other change of any queue."""
    it = talk()
    it.client().submit(b"a", queue="mail")
    it.worker(queues=("mail",), credit=1)
    it.machine.by_token = walked = _Walked(it.machine.by_token)
    machine = it.machine
    machine.set_queue("mail", QueueSettings(in_flight_max=1))
    assert walked.walks == 1
    for settings in (
        QueueSettings(in_flight_max=2),
        QueueSettings(in_flight_max=2, paused="both"),
        QueueSettings(key_in_flight_max=2),
        None,
    ):
        machine.set_queue("mail", settings)
        machine.set_queue("other", QueueSettings(paused="both"))
        machine.set_queue("other", None)
    assert walked.walks == 1
    it.turn()


def test_a_broker_that_stops_looks_at_empty_queues_once(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it ends its jobs in many steps."""
    it = talk()
    c = it.client()
    for number in range(30):
        it.machine.set_queue(f"q{number}", QueueSettings(paused="both"))
        c.submit(b"%d" % number, queue="last" if number % 2 else "default", order="k", delay_ms=number % 3, turn=False)
    it.turn()
    looks: list[str] = []
    allow = Queue.allow
    monkeypatch.setattr(Queue, "allow", lambda queue, allowed: (looks.append(queue.name), allow(queue, allowed))[1])
    left = [it.machine.stop(it.now, 3) for _ in range(10)]
    assert left == list(range(27, -1, -3))
    assert max(looks.count(f"q{number}") for number in range(30)) <= 2
