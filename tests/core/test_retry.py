"""Whether and when a job is tried again: budgets by kind of failure, errors that are final, pauses."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relet.core import retry
from relet.core.job import TABLE, Cause, Happened, Job, Reason, State
from relet.core.limits import Limits
from relet.core.queue import Queue
from relet.core.settings import QueueSettings
from relet.core.terms import Backoff, Terms
from relet.messages import BackoffMs, Goodbye
from relet.store.memory import MemoryStore

from .conftest import MS, S, Talk

LONG = 3_600_000


def _fails(it: Talk, cause: Cause) -> None:
    """One attempt of the job `x` ends so, by a worker of its own."""
    name = f"w{next(it.numbers)}"
    worker = it.worker(name, credit=1)
    assert worker.got == [b"x"]
    worker.start(b"x")
    if cause is Cause.FAILED:
        worker.fail(b"x", kind="Oops")
    elif cause is Cause.WORKER_LOST:
        worker.says(Goodbye())
        return
    else:
        it.wait(1 * S)
    worker.says(Goodbye())


TERMS_OF: dict[Cause, dict[str, Any]] = {
    Cause.FAILED: {},
    Cause.EXPIRED: {"run_ms": 1_000},
    Cause.SILENT: {"silence_ms": 1_000},
    Cause.WORKER_LOST: {},
}
BUDGET_OF = {
    Cause.FAILED: "errors_max",
    Cause.EXPIRED: "timeouts_max",
    Cause.SILENT: "timeouts_max",
    Cause.WORKER_LOST: "losses_max",
}


@pytest.mark.parametrize("cause", list(TERMS_OF))
@pytest.mark.parametrize("most", [1, 2])
def test_each_kind_of_failure_has_a_budget_of_its_own(talk: type[Talk], cause: Cause, most: int) -> None:
    """The job ends with the reason that names it, though tries are left; the others' budgets do not count it."""
    it = talk(tries=5)
    client = it.client()
    others = dict.fromkeys({*BUDGET_OF.values()} - {BUDGET_OF[cause]}, 1)
    client.submit(b"x", **TERMS_OF[cause], **{BUDGET_OF[cause]: most}, **others)
    for left in reversed(range(most)):
        _fails(it, cause)
        assert len(client.outcomes) == (left == 0)
    ((outcome, _),) = client.outcomes
    reason = BUDGET_OF[cause].removesuffix("_max") + "_spent"
    assert (outcome.state, outcome.reason, outcome.attempts) == ("discarded", reason, most)
    assert [entry.cause for entry in outcome.ledger] == [cause.value] * most


@pytest.mark.parametrize("cause", list(TERMS_OF))
def test_the_tries_bound_all_kinds_together(talk: type[Talk], cause: Cause) -> None:
    """An error and a loss, and then whichever: three tries are spent, and no kind's budget."""
    it = talk(tries=9)
    client = it.client()
    client.submit(b"x", tries=3, errors_max=3, timeouts_max=3, losses_max=3, **TERMS_OF[cause])
    for each in (Cause.FAILED, Cause.WORKER_LOST, cause):
        assert client.outcomes == []
        _fails(it, each)
    assert client.told() == [(b"x", "tries_spent", ())]


@pytest.mark.parametrize(("tries", "attempts"), [(None, 2), (1, 1), (3, 3), (0, 7)])
def test_tries_of_a_job_take_the_place_of_the_brokers(talk: type[Talk], tries: int | None, attempts: int) -> None:
    """nil is the broker's two, 0 is no limit; the worker is told how many there are."""
    it = talk(tries=2)
    client, worker = it.client(), it.worker(credit=10)
    client.submit(b"x", tries=tries)
    for _ in range(attempts):
        assert client.outcomes == []
        worker.fail(b"x")
    assert worker.jobs[-1][0].tries == (2 if tries is None else tries or None)
    assert [said.reason for said, _ in client.outcomes] == ([] if tries == 0 else ["tries_spent"])


def test_jobs_of_2010_have_the_brokers_tries(talk: type[Talk]) -> None:
    """Whatever native jobs ask for beside them."""
    it = talk(tries=2)
    old, worker = it.client_2010(), it.worker(credit=10)
    it.client().submit(b"native", tries=4)
    old.submit(b"old")
    for body in (b"native", b"old", b"native", b"old"):
        worker.fail(body)
    assert old.told == [b""]
    assert it.state(b"native") == "HELD"


@pytest.mark.parametrize(("tries", "most"), [(None, 100), (1, 10), (3, 30)])
def test_lost_hand_overs_are_bounded_by_the_tries_of_the_job(talk: type[Talk], tries: int | None, most: int) -> None:
    """Ten times as many, a hundred where they have no limit; not the broker's."""
    it = talk(tries=7)
    client = it.client()
    client.submit(b"x", tries=tries or 0)
    for count in range(most):
        assert client.outcomes == [], count
        it.worker(f"w{count}", credit=1).says(Goodbye())
    assert client.told() == [(b"x", "handovers_spent", ())]


@pytest.mark.parametrize(("kind", "ends"), [("ValueError", True), ("TypeError", True), ("Value", False), ("", False)])
def test_errors_of_a_final_kind_are_final(talk: type[Talk], kind: str, ends: bool) -> None:
    """As if the worker had said so, and only by their exact name."""
    it = talk()
    client, worker = it.client(), it.worker(credit=2)
    client.submit(b"x", final_kinds=("ValueError", "TypeError"))
    worker.fail(b"x", kind=kind, retry_ms=1)
    assert client.told() == ([(b"x", "failed", ())] if ends else [])


def test_a_final_kind_is_no_matter_of_timeouts_and_losses(talk: type[Talk]) -> None:
    """These have no kind; not even the empty one is final for them."""
    it = talk(timeout_ns=1 * S)
    client = it.client()
    client.submit(b"x", final_kinds=("expired", "worker_lost"))
    _fails(it, Cause.EXPIRED)
    _fails(it, Cause.WORKER_LOST)
    assert client.outcomes == []


def test_an_answer_that_cannot_be_taken_is_an_error_too(talk: type[Talk]) -> None:
    """Its kind can be final, as any."""
    it = talk(limits=Limits(headers_bytes_max=100))
    client, worker = it.client(), it.worker(credit=2)
    client.submit(b"x", final_kinds=("answer_bad_report",))
    worker.complete(b"x", headers={"much": "x" * 100})
    assert client.told() == [(b"x", "failed", ())]


# --- Pauses


def _pauses(it: Talk, attempts: int, **backoff: Any) -> list[int]:
    """What lies between the end of each attempt and the next hand-over, ns."""
    worker = it.worker(credit=attempts + 1)
    it.client().submit(b"x", tries=0, backoff=BackoffMs(**backoff))
    pauses = []
    for count in range(1, attempts + 1):
        assert len(worker.jobs) == count
        worker.fail(b"x")
        began = it.now
        while len(worker.jobs) == count:
            due = it.server.next_deadline()
            assert due is not None
            it.wait(max(due - it.now, 1))
        pauses.append(it.now - began)
    return pauses


@pytest.mark.parametrize(
    ("curve", "pauses"),
    [
        ("fixed", [300, 300, 300, 300, 300]),
        ("linear", [300, 600, 900, 1_000, 1_000]),
        ("exponential", [300, 600, 1_000, 1_000, 1_000]),
    ],
)
def test_pauses_follow_the_curve_up_to_the_cap(talk: type[Talk], curve: str, pauses: list[int]) -> None:
    """To the nanosecond: never early, and no later than the loop turns."""
    found = _pauses(talk(), len(pauses), curve=curve, base_ms=300, cap_ms=1_000)
    assert found == [each * MS for each in pauses]


def test_without_a_cap_the_limit_of_the_broker_is_one(talk: type[Talk]) -> None:
    """`retry_ns_max`, as for what a worker says."""
    it = talk(limits=Limits(retry_ns_max=2 * S))
    assert _pauses(it, 3, curve="exponential", base_ms=1_000) == [1 * S, 2 * S, 2 * S]


def test_a_base_of_nothing_is_no_pause(talk: type[Talk]) -> None:
    """Whoever wants no pauses says so."""
    it = talk()
    worker = it.worker(credit=2)
    it.client().submit(b"x", backoff=BackoffMs(curve="exponential", base_ms=0))
    worker.fail(b"x")
    assert worker.got == [b"x", b"x"]


@pytest.mark.parametrize("cause", list(TERMS_OF))
def test_pauses_follow_failures_of_each_kind(talk: type[Talk], cause: Cause) -> None:
    """Also a lost worker's: what has killed one is not given to the next at once."""
    it = talk()
    it.client().submit(b"x", backoff=BackoffMs(curve="fixed", base_ms=LONG), **TERMS_OF[cause])
    _fails(it, cause)
    assert it.state(b"x") == "DELAYED"


@pytest.mark.parametrize(("retry_ms", "pause_ns"), [(0, 0), (50, 50 * MS), (None, 300 * MS)])
def test_a_worker_that_says_when_overrides_the_backoff(talk: type[Talk], retry_ms: int | None, pause_ns: int) -> None:
    """0 is at once; who says nothing leaves it to the job."""
    it = talk()
    worker = it.worker(credit=2)
    it.client().submit(b"x", backoff=BackoffMs(curve="fixed", base_ms=300))
    worker.fail(b"x", retry_ms=retry_ms)
    if pause_ns:
        it.wait(pause_ns - 1)
        assert len(worker.jobs) == 1
        it.wait(1)
    assert len(worker.jobs) == 2


def test_the_pauses_of_hand_backs_are_not_those_of_the_backoff(talk: type[Talk]) -> None:
    """A job that was handed back has not failed."""
    it = talk()
    worker = it.worker(credit=2)
    it.client().submit(b"x", backoff=BackoffMs(curve="fixed", base_ms=LONG))
    worker.hand_back(b"x")
    it.wait(10 * MS)
    assert len(worker.jobs) == 2


def test_jitter_is_what_the_document_says(talk: type[Talk]) -> None:
    """Anybody can compute it from the id of the job and the attempt: docs/protocol.md, Pauses."""
    it = talk()
    found = _pauses(it, 4, curve="fixed", base_ms=1_000, jitter=True)
    (job,) = it.machine.jobs()
    drawn = [hashlib.blake2b(job.id + n.to_bytes(8, "big"), digest_size=8).digest() for n in (1, 2, 3, 4)]
    assert found == [1 * S * int.from_bytes(it, "big") >> 64 for it in drawn]
    assert len(set(found)) == 4


def test_jitter_is_the_same_in_the_next_life(talk: type[Talk]) -> None:
    """A broker that was killed before it kept the failure comes to the same moment."""
    pauses = []
    store = MemoryStore()
    it = talk(store=store)
    it.client().submit(b"x", backoff=BackoffMs(curve="fixed", base_ms=1_000, jitter=True), ack=True)
    kept = list(store.load())
    for _ in range(2):
        worker = it.worker(f"w{next(it.numbers)}", credit=2)
        worker.fail(b"x")
        pauses.append(it.job(b"x").due_ns - it.now)
        it.store = MemoryStore()
        it.store.append(1, kept)
        it.begin()
    assert pauses[0] == pauses[1] > 0


BACKOFFS = st.builds(
    Backoff,
    st.sampled_from(["fixed", "linear", "exponential"]),
    st.integers(1, 10**15),
    st.integers(10**15, 10**18),
    st.booleans(),
)


@given(BACKOFFS, st.binary(min_size=16, max_size=16), st.integers(1, 10**6))
def test_no_pause_is_longer_than_its_curve_or_its_cap(backoff: Backoff, job: bytes, attempt: int) -> None:
    """However many attempts there were; with jitter it lies between nothing and what it would be without."""
    pause = retry.pause_ns(backoff, job, attempt)
    factor = {"fixed": 1, "linear": attempt, "exponential": 2 ** (attempt - 1) if attempt < 100 else 1 << 99}
    whole = min(backoff.base_ns * factor[backoff.curve], backoff.cap_ns)
    assert 0 <= pause <= whole
    if not backoff.jitter:
        assert pause == whole


def test_jitter_is_spread_over_all_of_the_pause() -> None:
    """Of a thousand jobs about a tenth is in each tenth."""
    backoff = Backoff("fixed", 10_000, 10_000, jitter=True)
    found = [retry.pause_ns(backoff, number.to_bytes(16, "big"), 1) for number in range(1_000)]
    tenths = [sum(it * 1_000 <= pause < (it + 1) * 1_000 for pause in found) for it in range(10)]
    assert min(tenths) > 60
    assert sum(tenths) == 1_000


# --- Another worker


def test_a_retry_goes_to_another_worker_while_one_asks(talk: type[Talk]) -> None:
    """Also where it is the turn of the one that has just failed it; what comes next is that one's."""
    it = talk()
    client = it.client()
    first = it.worker("first", credit=3)
    client.submit(b"x")
    other = it.worker("other", capacity=3, credit=3)
    first.fail(b"x", retry_ms=100)
    client.submit(b"y")
    assert (first.got, other.got) == ([b"x"], [b"y"])
    it.wait(100 * MS)
    assert (first.got, other.got) == ([b"x"], [b"y", b"x"])
    client.submit(b"z")
    assert first.got == [b"x", b"z"]
    other.complete(b"x")
    assert client.told() == [(b"x", "completed", b"done")]


def test_another_worker_is_looked_for_in_the_queue_of_the_job(talk: type[Talk]) -> None:
    """The line of another queue, in which the first one stands too, is looked at before."""
    it = talk()
    it.client().submit(b"x", queue="a")
    first = it.worker("first", queues=("default", "a"), credit=3)
    it.worker("elsewhere", credit=1)
    other = it.worker("other", queues=("a",), credit=1)
    first.fail(b"x")
    assert (first.got, other.got) == ([b"x"], [b"x"])


def test_a_retry_goes_back_to_the_only_one_that_asks(talk: type[Talk]) -> None:
    """It is a preference: who asks for nothing, or elsewhere, is no other."""
    it = talk()
    it.client().submit(b"x")
    it.worker("silent")
    it.worker("elsewhere", queues=("q",), credit=1)
    worker = it.worker("first", credit=3)
    worker.fail(b"x")
    worker.fail(b"x")
    assert worker.got == [b"x"] * 3


@pytest.mark.parametrize("cause", list(TERMS_OF))
def test_failures_of_each_kind_are_followed_by_another_worker(talk: type[Talk], cause: Cause) -> None:
    """An error, a timeout, a loss: the worker that is back from it asks first, and comes second."""
    it = talk()
    it.client().submit(b"x", **TERMS_OF[cause])
    first = it.worker("first", credit=1)
    first.start(b"x")
    if cause is Cause.FAILED:
        first.fail(b"x")
    elif cause is Cause.WORKER_LOST:
        first.says(Goodbye())
        first.hello()
    else:
        it.wait(1 * S)
    assert it.state(b"x") == "AVAILABLE"
    other = it.worker("other")
    first.ask(1, turn=False)
    other.ask(1)
    assert other.got == [b"x"]


def test_of_several_others_one_with_nothing_to_do_is_preferred(talk: type[Talk]) -> None:
    """A busy one that asks ahead comes after it, and before the one that has failed the job."""
    it = talk()
    client = it.client()
    busy = it.worker("busy", credit=3)
    client.submit(b"long")
    busy.start(b"long")
    first = it.worker("first", credit=3)
    client.submit(b"x")
    assert first.got == [b"x"]
    idle = it.worker("idle", credit=1)
    first.fail(b"x")
    assert idle.got == [b"x"]
    idle.fail(b"x")
    assert first.got == [b"x", b"x"], "it has nothing to do, and was not the last to fail it"
    first.fail(b"x")
    assert busy.got == [b"long", b"x"]


def test_what_only_waits_behind_a_long_job_goes_back_after_all(talk: type[Talk]) -> None:
    """It is recalled from the busy one, and then goes to whoever asks: once, and not to and fro."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    client = it.client()
    busy = it.worker("busy", credit=2)
    client.submit(b"long")
    busy.start(b"long")
    first = it.worker("first", credit=3)
    client.submit(b"x")
    first.fail(b"x")
    assert busy.got == [b"long", b"x"]
    it.wait(200 * MS)
    busy.hand_back(b"x")
    busy.ask()
    assert first.got == [b"x", b"x"]
    first.complete(b"x")
    assert client.told() == [(b"x", "completed", b"done")]


def test_a_worker_of_2010_that_was_late_is_not_the_next_one(talk: type[Talk]) -> None:
    """Nor does it keep what a native worker has failed: both ways each is another."""
    it = talk(timeout_ns=1 * S)
    client, late = it.client(), it.worker_2010()
    late.ask(2)
    client.submit(b"x")
    native = it.worker("w", credit=3, capacity=2)
    it.wait(1 * S)
    assert (len(late.jobs), native.got) == (1, [b"x"])
    native.fail(b"x")
    assert len(late.jobs) == 2
    late.answer(b"x")
    assert client.told() == [(b"x", "completed", b"done")]


def test_the_preference_survives_a_restart(talk: type[Talk]) -> None:
    """The ledger says who has failed it."""
    it = talk(store=MemoryStore())
    it.client().submit(b"x")
    first = it.worker("first", credit=1)
    first.fail(b"x")
    it.begin()
    again = it.worker("first", hello=False, incarnation=first.incarnation)
    again.hello()
    other = it.worker("other")
    again.ask(1, turn=False)
    other.ask()
    assert (again.got, other.got) == ([], [b"x"])


# --- Claims


def test_a_session_that_is_back_claims_a_job_that_waits_for_its_pause(talk: type[Talk]) -> None:
    """The loss is struck out, from the ledger and from its budget: the attempt goes on."""
    it = talk()
    client = it.client()
    worker = it.worker(credit=1)
    client.submit(b"x", losses_max=2, backoff=BackoffMs(curve="fixed", base_ms=LONG))
    worker.start(b"x")
    for _ in range(3):
        worker.beats = False
        it.wait(10 * S)
        assert (it.state(b"x"), it.job(b"x").failures) == ("DELAYED", (0, 0, 1))
        worker.beats = True
        assert worker.hello(running=(b"x",)).lost == ()
        job = it.job(b"x")
        assert (job.state, job.failures, job.ledger, job.timer) == (State.RUNNING, (0, 0, 0), (), None)
    worker.complete(b"x")
    assert client.told() == [(b"x", "completed", b"done")]


def test_what_a_worker_has_given_up_it_cannot_claim_from_a_pause(talk: type[Talk]) -> None:
    """Failed, or handed back: another attempt is due, and not before its moment."""
    for verb in ("fail", "hand_back"):
        it = talk()
        worker = it.worker(credit=1)
        it.client().submit(b"x", backoff=BackoffMs(curve="fixed", base_ms=LONG))
        worker.start(b"x")
        getattr(worker, verb)(b"x")
        token = worker.token(b"x")
        assert worker.hello(running=(b"x",)).lost == (token,)
        assert it.state(b"x") == "DELAYED"


def test_the_row_of_the_claim_is_in_the_table() -> None:
    """DELAYED, claimed, RUNNING."""
    assert [row.to for row in TABLE if (row.state, row.happened) == (State.DELAYED, Happened.CLAIMED)] == [
        State.RUNNING
    ]


# --- What is refused, and says what to change


WRONG: dict[str, dict[str, Any]] = {
    "errors_max is 4": {"tries": 3, "errors_max": 4},
    "timeouts_max is 4": {"tries": 3, "timeouts_max": 4},
    "losses_max is 2": {"tries": 1, "losses_max": 2},
    "at most 16 names": {"final_kinds": ("x",) * 17},
    "of 1 to 100 characters": {"final_kinds": ("x" * 101,)},
    "of 1 to 100": {"final_kinds": ("",)},
    "cap_ms is at least that, not 4": {"backoff": BackoffMs(curve="linear", base_ms=5, cap_ms=4)},
    "at most 604800000": {"backoff": BackoffMs(curve="linear", base_ms=604_800_001)},
    "(--retry-max)": {"backoff": BackoffMs(curve="linear", base_ms=5, cap_ms=604_800_001)},
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_is_refused_by_name(talk: type[Talk], text: str) -> None:
    """`bad_request`, with what to change; nothing is accepted."""
    it = talk()
    admitted = it.client().asks(b"x", **WRONG[text])
    assert (admitted.code, admitted.job) == ("bad_request", b"")
    assert text in admitted.text
    assert it.machine.open == 0


def test_what_is_at_its_bound_is_taken(talk: type[Talk]) -> None:
    """The largest of each; and budgets of kinds where the tries have no limit."""
    it = talk()
    client = it.client()
    most = BackoffMs(curve="linear", base_ms=604_800_000, cap_ms=604_800_000)
    client.asks(b"x", tries=3, errors_max=3, final_kinds=("x" * 100,) * 16, backoff=most)
    client.asks(b"y", tries=0, errors_max=10**9)
    assert it.machine.open == 2


def test_what_a_job_leaves_open_its_queue_may_say(talk: type[Talk]) -> None:
    """The job goes before its queue, and that before the broker; each field for itself."""
    it = talk(tries=2)
    pauses, own = Backoff("fixed", 1 * S, 1 * S), BackoffMs(curve="linear", base_ms=5, cap_ms=5)
    ruled = QueueSettings(tries=5, errors_max=4, timeouts_max=3, losses_max=2, final_kinds=("Q",), backoff=pauses)
    it.machine.set_queue("q", ruled)
    client = it.client()
    client.submit(b"plain", queue="q")
    client.submit(b"run", queue="q", run_ms=5)
    client.submit(b"most", queue="q", errors_max=1, final_kinds=("J",), backoff=own)
    client.submit(b"none", queue="q", tries=0, backoff=BackoffMs(curve="fixed", base_ms=0))
    client.submit(b"free", queue="q", errors_max=0, timeouts_max=0, losses_max=0, final_kinds=())
    queue = Terms(None, None, True, False, 0, 5, 4, 3, 2, ("Q",), pauses)
    assert it.job(b"free").terms == msgspec.structs.replace(
        queue, errors_max=None, timeouts_max=None, losses_max=None, final_kinds=()
    )
    assert it.job(b"plain").terms == queue
    assert it.job(b"run").terms == msgspec.structs.replace(queue, run_ns=5 * MS)
    assert it.job(b"most").terms == msgspec.structs.replace(
        queue, errors_max=1, final_kinds=("J",), backoff=Backoff("linear", 5 * MS, 5 * MS)
    )
    assert it.job(b"none").terms == msgspec.structs.replace(queue, tries=None, backoff=None)


def test_jobs_on_the_same_terms_share_them(talk: type[Talk]) -> None:
    """A million jobs with one backoff have one; and who says what the broker says anyhow has its terms."""
    it = talk(tries=3)
    client = it.client()
    for body in (b"a", b"b"):
        client.submit(body, tries=5, final_kinds=("E",), backoff=BackoffMs(curve="fixed", base_ms=5))
    client.submit(b"c")
    assert it.job(b"a").terms is it.job(b"b").terms
    assert it.job(b"c").terms is it.machine.terms
    assert it.machine.terms.tries == 3


def test_every_budget_has_its_reason() -> None:
    """The table of budgets and causes, exhaustively: which reason follows how many of which failures."""
    job = Job(1, None, b"", b"", 0, Queue(), Terms(tries=6, errors_max=3, timeouts_max=2, losses_max=1))
    for errors in range(4):
        for timeouts in range(3):
            for losses in range(2):
                job.failures, job.attempts = (errors, timeouts, losses), errors + timeouts + losses
                expected = (
                    Reason.TRIES_SPENT
                    if job.attempts == 6
                    else Reason.ERRORS_SPENT
                    if errors == 3
                    else Reason.TIMEOUTS_SPENT
                    if timeouts == 2
                    else Reason.LOSSES_SPENT
                    if losses == 1
                    else None
                )
                assert retry.spent(job) is expected
