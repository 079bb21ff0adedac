"""What the judge holds a broker to, word by word: here the broker's side is spoken by hand."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from relet.core.askers import Asker
from relet.core.job import CANCELLED, Job, Reason
from relet.core.limits import Limits
from relet.core.queue import Queue
from relet.core.settings import QueueSettings
from relet.core.terms import Rules, Terms
from relet.dialects import native
from relet.messages import (
    SIGNATURE,
    VERSION,
    Admitted,
    Body,
    ClientHello,
    Error,
    Heartbeat,
    Inquire,
    Item,
    JobState,
    Outcome,
    Peer,
    Said,
    Submit,
    Submitted,
    Welcome,
)
from relet.testing import Clock, Violation
from relet.testing.claims import ANSWERED, FAILED, RUNS, WAITS
from relet.testing.clock import MS, S
from relet.testing.judge import Judge
from relet.testing.judged_lines import Bucket
from relet.testing.network import Network, Router, Wire

NAME = b"job".ljust(16, b".")
JOB_ID = b"j" * 16
WELCOME = Welcome(epoch=1, heartbeat_ms=1_000, liveness_ms=4_000, limits={})


class Hearing:
    """One client of a broker that says what the test says."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.clock.at(S, int)
        self.clock.step()  # what is asked a moment ago was not asked of another broker
        self.network = Network(self.clock, random.Random(1), delay_ns=1, spread_ns=0)
        self.judge = Judge(tries=1, timeout_ns=None, limits=Limits(**limits), has_store=False)
        self.router = Router(self.network, "clients", self.judge)
        self.network.listen({"clients": self.router})
        wire = self.network.connect("clients", _Deaf(), "DEALER")
        assert wire is not None
        self.wire = wire
        self.says(ClientHello())
        self.tells(WELCOME)

    def says(self, said: Said, body: Body = b"", *, path: bytes = b"", now: bool = False) -> None:
        """The client says something, and the broker reads it in a turn of its own, or `now`, in the last one."""
        if not now:
            self.judge.begin_turn(self.clock.now)
        self.sends(said, body, path=path)
        self.judge.requests.hear()

    def sends(self, said: Said, body: Body = b"", *, path: bytes = b"") -> None:
        """The client says something, which is read, and not heard yet."""
        self.wire.send((path, VERSION, native.encode(said), body))
        while not self.router.ready:
            self.clock.step()
        self.router.receive(100, 1 << 30)
        self.router.take_native()

    def hears(self, said: Submit | Inquire) -> None:
        """The broker hears that it has said this."""
        self.judge.requests.hears(self._peer, b"", said)

    def tells(self, said: Said, body: Any = (), *, path: bytes = b"") -> None:
        """The broker says something to it."""
        self.router.send([(self._peer, path, SIGNATURE, native.encode(said), body)])

    @property
    def _peer(self) -> Peer:
        assert self.wire.peer is not None
        return self.wire.peer

    def accepts(self, key: bytes = b"job", *, path: bytes = b"", job_id: bytes = JOB_ID) -> Job:
        """The broker makes a job of the request that it has read."""
        terms = Terms(run_ns=None, silence_ns=None, late_any=True, ends_alone=False, keep_ns=0)
        name = key.ljust(16, b".")
        askers = ((Asker(self._peer, path, follows=False), name, False),)
        job = Job(1, None, b"", key, self.clock.now, Queue("default"), terms, name, askers, len(key))
        self.judge.accepted([job])
        if job_id:
            self.judge.requests.has_id(self.judge.by_key[key], job_id)
        return job

    def ends(self, key: bytes = b"job") -> None:
        """A worker has answered."""
        claim = self.judge.by_key[key]
        claim.answer, claim.attempts = b"done", 1
        self.judge.ends(claim, ANSWERED)

    def waits(self, duration_ns: int) -> None:
        """Time goes on, from the last turn."""
        until = self.judge.now + duration_ns
        self.clock.at(until, int)
        while self.clock.now < until:
            self.clock.step()

    def verdict(self, *, dropped: int = 0) -> None:
        """What the judge thinks of it in the end."""
        self.judge.verdict(dropped=dropped, reads=lambda _: True)


class _Deaf:
    frozen = False

    def heard(self, wire: Wire, frames: tuple[Any, ...]) -> None:
        """What is told is the judge's affair."""

    def on_closed(self, wire: Wire) -> None:
        """It is not."""


def _outcome(name: bytes, number: int) -> tuple[Outcome, bytes]:
    return Outcome(id=name, n=number), b"done"


def test_an_outcome_is_owed_once_however_often_it_was_asked_while_the_job_was_open() -> None:
    """One outcome was dropped, and three askings stand: that is one outcome that the broker owes, not three."""
    hearing = Hearing()
    hearing.says(Submit(id=NAME), b"job")
    hearing.accepts()
    for _ in range(2):
        hearing.says(Submit(id=NAME, age_ms=1), b"job")
    hearing.ends()
    with pytest.raises(Violation, match="never answered"):
        hearing.verdict()
    hearing.verdict(dropped=1)


def test_each_asking_after_the_end_is_owed_an_outcome_of_its_own() -> None:
    """Two askings after the end are two outcomes, beside the one that was told before."""
    hearing = Hearing()
    hearing.says(Submit(id=NAME), b"job")
    hearing.accepts()
    hearing.ends()
    hearing.tells(*_outcome(NAME, 1))
    for _ in range(2):
        hearing.says(Submit(id=NAME, age_ms=1), b"job")
    with pytest.raises(Violation, match="never answered"):
        hearing.verdict(dropped=1)
    hearing.tells(*_outcome(NAME, 2))
    hearing.tells(*_outcome(NAME, 3))
    hearing.verdict()


def test_the_acknowledgement_of_a_submission_is_owed_beside_its_outcome() -> None:
    """Where neither was told, two messages are missing."""
    hearing = Hearing()
    hearing.says(Submit(id=NAME, ack=True), b"job")
    hearing.accepts()
    hearing.ends()
    with pytest.raises(Violation, match="never answered"):
        hearing.verdict(dropped=1)
    hearing.verdict(dropped=2)


def test_an_outcome_goes_to_who_asked_for_certain() -> None:
    """An inquiry that was refused, because too many waited, does not take the outcome of one after the end."""
    hearing = Hearing(askers_per_job_max=1)
    hearing.says(Submit(id=NAME), b"job")
    hearing.accepts()
    hearing.says(Inquire(job=JOB_ID, wait=True))
    hearing.tells(Error(code="too_many_askers", of="inquire"))
    hearing.ends()
    hearing.tells(*_outcome(NAME, 1))
    hearing.says(Inquire(job=JOB_ID, wait=True))
    with pytest.raises(Violation, match="never answered"):
        hearing.verdict()
    hearing.tells(*_outcome(JOB_ID, 2))
    hearing.verdict()


def test_of_two_jobs_of_a_request_the_outcome_says_which_is_meant() -> None:
    """The first was answered and is forgotten, the second has failed; an inquiry about the first was told `expired`."""
    hearing = _told_one()
    hearing.says(Inquire(id=NAME, wait=True, received=1))
    hearing.tells(JobState(id=NAME, state="expired"))
    hearing.says(Submit(id=NAME), b"job")
    hearing.accepts(job_id=b"")
    hearing.judge.ends(hearing.judge.by_key[b"job"], FAILED, "failed")
    failed = Outcome(id=NAME, n=2, state="discarded", reason="failed", attempts=0)
    hearing.tells(failed)
    hearing.says(Inquire(id=NAME, wait=True, received=2))
    with pytest.raises(Violation, match="its client was told"):
        hearing.tells(msgspec.structs.replace(failed, n=3, reason="tries_spent"))
    hearing.tells(msgspec.structs.replace(failed, n=4))
    hearing.verdict(dropped=1)


def _told_one() -> Hearing:
    """A client was told the outcome of its request, number 1."""
    hearing = Hearing()
    hearing.says(Submit(id=NAME), b"job")
    hearing.accepts()
    hearing.ends()
    hearing.tells(*_outcome(NAME, 1))
    return hearing


def test_a_heartbeat_names_the_last_outcome_that_was_told() -> None:
    """One number less hides that an outcome was lost; one more says that one was, and nobody has dropped it."""
    hearing = _told_one()
    hearing.tells(Heartbeat(told=1))
    hearing.verdict()
    hearing.tells(Heartbeat(told=2))
    with pytest.raises(Violation, match="1 outcomes were numbered and not told"):
        hearing.verdict()
    hearing.verdict(dropped=1)
    with pytest.raises(Violation, match="1 outcomes were told, after 2"):
        hearing.tells(Heartbeat(told=1))


EXPIRED = Submitted(jobs=(Admitted(id=NAME, code="expired", text="asked too long ago"),))


def test_the_one_of_two_askings_that_became_the_job_is_the_one_whose_asker_is_told() -> None:
    """Of two that are read in one turn the first may be refused for its age, and the second be the job."""
    hearing = Hearing(outcomes_max=1)
    for number, key in enumerate((b"one", b"two"), 1):
        name = key.ljust(16, b".")
        hearing.says(Submit(id=name), key)
        hearing.accepts(key, job_id=name)
        hearing.ends(key)
        hearing.tells(*_outcome(name, number))
    hearing.says(ClientHello(), path=b"other")
    hearing.tells(WELCOME, path=b"other")
    hearing.says(Submit(id=NAME, age_ms=1), b"job")
    hearing.says(Submit(id=NAME), b"job", path=b"other", now=True)
    hearing.accepts(path=b"other")
    hearing.tells(EXPIRED)
    with pytest.raises(Violation, match="without a reason"):
        hearing.tells(EXPIRED, path=b"other")
    hearing.ends()
    hearing.tells(*_outcome(NAME, 1), path=b"other")
    hearing.verdict()


def test_many_are_accepted_or_refused_as_a_whole() -> None:
    """There is no room for the two jobs of a message; one is asked for again in the same turn, and is accepted."""
    hearing = Hearing(jobs_max=1)
    hearing.says(Submit(jobs=(Item(id=NAME), Item(id=JOB_ID))), (b"job", b"other"))
    hearing.says(Submit(id=NAME, age_ms=1, ack=True), b"job", now=True)
    hearing.accepts()
    hearing.tells(Submitted(jobs=(Admitted(id=NAME, job=JOB_ID),)))
    hearing.tells(Submitted(jobs=tuple(Admitted(id=name, code="busy") for name in (NAME, JOB_ID))))
    hearing.ends()
    with pytest.raises(Violation, match="never answered"):
        hearing.verdict()
    hearing.tells(*_outcome(NAME, 1))
    hearing.verdict()


def test_acknowledgements_come_in_the_order_of_what_was_asked() -> None:
    """The first that names the job is of the first asking, and the refusal after it of the one after the end."""
    hearing = Hearing(outcomes_max=1)
    hearing.says(Submit(id=NAME, ack=True), b"job")
    hearing.accepts(job_id=b"")
    hearing.ends()
    hearing.says(Submit(id=b"two".ljust(16, b".")), b"two")
    hearing.accepts(b"two", job_id=b"t" * 16)
    hearing.ends(b"two")
    hearing.says(Submit(id=NAME, ack=True, age_ms=1), b"job")
    hearing.tells(Submitted(jobs=(Admitted(id=NAME, job=JOB_ID),)))
    hearing.tells(EXPIRED)
    hearing.tells(*_outcome(NAME, 1))
    hearing.tells(*_outcome(b"two".ljust(16, b"."), 2))
    hearing.verdict()


def test_a_refusal_is_of_the_session_that_it_fits_where_a_welcome_was_dropped() -> None:
    """The client has asked the same in two sessions, and was refused in the second, of whose welcome it never heard."""
    hearing = Hearing()
    hearing.says(Submit(id=NAME), b"job")
    hearing.accepts()
    hearing.says(ClientHello())
    hearing.says(Submit(id=NAME, age_ms=1 << 40), b"more")
    with pytest.raises(Violation, match="without a reason"):
        hearing.tells(EXPIRED)
    conflict = Submitted(jobs=(Admitted(id=NAME, code="conflict", text="another body"),))
    hearing.tells(conflict)
    hearing.ends()
    hearing.verdict()


def test_numbers_begin_again_where_a_welcome_was_dropped() -> None:
    """An outcome with a number that is known is of the next session, if there is one."""
    hearing = _told_one()
    hearing.says(Submit(id=NAME, age_ms=1), b"job")
    with pytest.raises(Violation, match="outcome 1 was told after outcome 1"):
        hearing.tells(*_outcome(NAME, 1))
    hearing.says(ClientHello())
    hearing.says(Submit(id=NAME, age_ms=1), b"job")
    hearing.tells(*_outcome(NAME, 1))
    hearing.verdict()


def test_who_has_received_more_than_it_was_told_has_received_what_is_on_its_way() -> None:
    """Its numbers are of a session before this one; for the broker they are of this one."""
    for number in (1, 2):
        hearing = Hearing()
        for key in (b"job", b"on its way"):
            hearing.says(Submit(id=key.ljust(16, b".")), key)
            hearing.accepts(key, job_id=key.ljust(16, b"i"))
            hearing.ends(key)
        hearing.tells(*_outcome(NAME, 1))
        hearing.says(Heartbeat(received=number))
        claim = hearing.judge.by_key[b"on its way"]
        assert hearing.judge.requests.is_kept(claim) == (number == 1)


def test_what_was_read_in_one_turn_is_judged_one_after_the_other() -> None:
    """A request is asked for twice in a turn; the first time its queue is full, and then a job has ended."""
    hearing = Hearing()
    hearing.says(Submit(id=b"other".ljust(16, b".")), b"other")
    hearing.accepts(b"other", job_id=b"o" * 16)
    hearing.judge.queue_set("default", QueueSettings(jobs_max=1))
    first, second = Submit(id=NAME), Submit(id=NAME, age_ms=1)
    for said in (first, second):
        hearing.sends(said, b"job")
    hearing.hears(first)
    hearing.judge.requests.settle()
    hearing.ends(b"other")
    hearing.hears(second)
    hearing.accepts()
    full = Submitted(jobs=(Admitted(id=NAME, code="queue_full", text="full"),))
    hearing.tells(full)
    with pytest.raises(Violation, match="queue_full"):
        hearing.tells(full)
    hearing.ends()
    hearing.tells(*_outcome(b"other".ljust(16, b"."), 1))
    hearing.tells(*_outcome(NAME, 2))
    hearing.verdict()


def test_the_broker_hears_what_was_said_in_that_order() -> None:
    """And nothing that nobody has said."""
    hearing = Hearing()
    first, second = Inquire(id=NAME), Inquire(job=JOB_ID)
    hearing.sends(first)
    hearing.sends(second)
    hearing.hears(second)
    with pytest.raises(Violation, match="what nobody has said"):
        hearing.hears(first)


def test_a_hand_over_that_was_put_back_is_counted_by_one_broker_and_not_by_another() -> None:
    """Until the bucket is full: the judge takes neither for wrong."""
    bucket = Bucket(30.0, 30, 0)
    for _ in range(30):
        assert bucket.take(0)
    for _ in range(14):
        bucket.put_back()
    for number in range(1, 50):
        now = number * 33_333_334
        assert bucket.take(now)
        assert not bucket.had_one(now)
    assert bucket.had_one(now + S)


# --- Unique keys

OTHER = b"other".ljust(16, b".")


def _duplicate(name: bytes = OTHER, job: bytes = JOB_ID) -> Submitted:
    return Submitted(jobs=(Admitted(id=name, job=job, code="duplicate", text="taken"),))


def _keyed(**terms: Any) -> Hearing:
    """A client whose request has a key, and is a job."""
    hearing = Hearing()
    hearing.says(Submit(id=NAME, unique="k", **terms), b"job")
    hearing.accepts()
    return hearing


def test_a_refusal_names_any_job_that_may_have_stood_in_its_way() -> None:
    """Of two refusals for two jobs the first was dropped: the id is not taken for that of the first job."""
    hearing = Hearing()
    for key in (b"one", b"two"):
        hearing.says(Submit(id=key.ljust(16, b"."), unique="k"), key)
        hearing.accepts(key, job_id=b"")
        hearing.says(Submit(id=OTHER, unique="k"), b"other")
        hearing.judge.requests.settle()
        if key == b"one":
            hearing.ends(key)
    hearing.tells(_duplicate())
    hearing.judge.requests.has_id(hearing.judge.by_key[b"two"], JOB_ID)


@pytest.mark.parametrize("mode", ["reject", "join", "replace"])
def test_a_key_has_one_open_job(mode: Any) -> None:
    """Whatever the second request wants, it is no job beside the first; one with another key is."""
    hearing = _keyed()
    hearing.says(Submit(id=b"third".ljust(16, b"."), unique="l", unique_mode=mode), b"third")
    hearing.accepts(b"third", job_id=b"")
    hearing.says(Submit(id=OTHER, unique="k", unique_mode=mode), b"other")
    with pytest.raises(Violation, match="has its unique key"):
        hearing.accepts(b"other", job_id=b"")


def test_a_key_is_free_when_its_job_has_ended() -> None:
    """Until then another is refused, and told by which job; from then on there is no reason."""
    hearing = _keyed()
    hearing.says(Submit(id=OTHER, unique="k"), b"other")
    with pytest.raises(Violation, match="did not have its key"):
        hearing.tells(_duplicate(job=b"x" * 16))
    hearing = _keyed()
    hearing.says(Submit(id=OTHER, unique="k"), b"other")
    hearing.tells(_duplicate())
    hearing.ends()
    hearing.says(Submit(id=OTHER, unique="k"), b"other")
    with pytest.raises(Violation, match="nor is there a reason to refuse it"):
        hearing.tells(_duplicate())


@pytest.mark.parametrize("left_ns", [1, 0])
def test_a_window_is_neither_longer_nor_shorter(left_ns: int) -> None:
    """To the nanosecond, in one life of the broker."""
    for accepted in (True, False):
        hearing = _keyed(unique_ms=5)
        hearing.ends()
        hearing.waits(5 * MS - left_ns)
        hearing.says(Submit(id=OTHER, unique="k", unique_mode="replace"), b"other")
        if accepted and left_ns:
            with pytest.raises(Violation, match="is taken by"):
                hearing.accepts(b"other", job_id=b"")
        elif accepted:
            hearing.accepts(b"other", job_id=b"")
        elif left_ns:
            hearing.tells(_duplicate())
        else:
            with pytest.raises(Violation, match="nor is there a reason to refuse it"):
                hearing.tells(_duplicate())


def test_who_joins_is_owed_the_outcome_under_its_own_id() -> None:
    """Beside the one whose job it is; it is nothing but a join, and needs no room and no reason."""
    hearing = _keyed()
    hearing.says(Submit(id=OTHER, unique="k", unique_mode="join"), b"other")
    hearing.judge.shared([NAME, OTHER])
    hearing.ends()
    hearing.tells(*_outcome(NAME, 1))
    with pytest.raises(Violation, match="never answered"):
        hearing.verdict()
    hearing.tells(*_outcome(OTHER, 2))
    hearing.verdict()
    hearing.says(Heartbeat(received=1))
    assert hearing.judge.requests.is_kept(hearing.judge.by_key[b"job"])
    hearing.says(Heartbeat(received=2))
    assert not hearing.judge.requests.is_kept(hearing.judge.by_key[b"job"])


@pytest.mark.parametrize(("mode", "key"), [("reject", "k"), ("join", "l")])
def test_nobody_joins_unasked(mode: Any, key: str) -> None:
    """Neither who wants to be refused, nor with another key."""
    hearing = _keyed()
    hearing.says(Submit(id=OTHER, unique=key, unique_mode=mode), b"other")
    with pytest.raises(Violation, match="and was not to"):
        hearing.judge.shared([NAME, OTHER])


def test_who_may_join_is_not_refused() -> None:
    """Also where the broker is full, or the queue is paused."""
    hearing = _keyed()
    hearing.judge.queue_set("default", QueueSettings(jobs_max=1, paused="intake"))
    hearing.says(Submit(id=OTHER, unique="k", unique_mode="join"), b"other")
    with pytest.raises(Violation, match="nor is there a reason to refuse it"):
        hearing.judge.requests.settle()


def test_only_what_waits_is_replaced_and_by_a_job() -> None:
    """By one that was to take its place, and is there when the message was heard."""
    for state, mode, wrong in ((RUNS, "replace", "does not wait"), (WAITS, "reject", "nobody has asked for that")):
        hearing = Hearing()
        hearing.says(Submit(id=NAME, unique="k"), b"job")
        job = hearing.accepts()
        hearing.judge.by_key[b"job"].state = state
        hearing.says(Submit(id=OTHER, unique="k", unique_mode=mode), b"other")  # type: ignore[arg-type]
        job.state, job.reason, job.rules = CANCELLED, Reason.REPLACED, Rules(unique="k", replaced_by=b"r" * 16)
        with pytest.raises(Violation, match=wrong):
            hearing.judge.ended_badly(job)
    hearing.judge.by_key[b"job"].state = WAITS
    hearing.says(Submit(id=OTHER, unique="k", unique_mode="replace"), b"other", now=True)
    hearing.judge.ended_badly(job)
    with pytest.raises(Violation, match="which is no job"):
        hearing.judge.requests.settle()
