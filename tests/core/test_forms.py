"""Requests of one form, which the pump hands over half read: whatever they say, they are treated as those that the
dialect reads as a whole.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relet.core import forms
from relet.core.settings import QueueSettings
from relet.dialects import native
from relet.messages import VERSION, BackoffMs, FormedSubmitted, Native, Submit, Submitted

from .conftest import Limits, Port, S, Talk

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "queue": st.sampled_from(["default", "named", "of its own", "", "q" * 201]),
    "fair": st.sampled_from(["", "key", "k" * 201]),
    "weight": st.sampled_from([1, 3, 0, 1001]),
    "priority": st.sampled_from([None, 0, 7, -7, 1001]),
    "backoff": st.sampled_from(
        [None, BackoffMs(curve="fixed", base_ms=100), BackoffMs(curve="linear", base_ms=200, cap_ms=100)]
    ),
    "follow": st.booleans(),
    "run_ms": st.sampled_from([None, 0, 1000, 1 << 50]),
    "silence_ms": st.sampled_from([None, 1, 1 << 50]),
    "late": st.sampled_from(["any", "current"]),
    "gone": st.sampled_from(["finish", "cancel"]),
    "keep_ms": st.sampled_from([0, 1000, 1 << 50]),
    "tries": st.sampled_from([None, 0, 3]),
    "errors_max": st.sampled_from([None, 2]),
    "timeouts_max": st.sampled_from([None, 2]),
    "losses_max": st.sampled_from([None, 2]),
    "final_kinds": st.sampled_from([(), ("ValueError",)]),
    "ack": st.sampled_from([False] * 5 + [True]),
    "wait": st.sampled_from([True] * 5 + [False]),
    "age_ms": st.sampled_from([0] * 5 + [1000]),
    "headers": st.sampled_from([None] * 5 + [{"trace": "7"}]),
    "received": st.sampled_from([0, 1]),
    "unique": st.sampled_from(["k", "k", "l", "k" * 201]),
    "unique_mode": st.sampled_from(["reject", "join", "replace"]),
    "unique_ms": st.sampled_from([0, 1000, 1 << 50]),
}
SOME = st.sampled_from(sorted(FIELDS)).flatmap(lambda field: st.tuples(st.just(field), FIELDS[field]))
USUAL = st.fixed_dictionaries(
    {"queue": st.sampled_from(["default", "named", "of its own"]), "fair": st.sampled_from(["", "key"])}
)
REQUEST = st.builds(lambda usual, some: {**usual, **dict(some)}, USUAL, st.lists(SOME, max_size=2))
STEP = st.tuples(
    st.sampled_from(["a", "b", "stranger"]),
    st.sampled_from([b"%d" % number for number in range(6)] + [b"short"]),
    REQUEST,
    st.booleans(),
)


def formed(message: Native) -> FormedSubmitted:
    """What the pump would make of a request, were it never to hand one on unread."""
    peer, path, _, header, body = message
    said = msgspec.msgpack.decode(header)
    left_out = {"id": b"", "received": 0, "queue": "default", "fair": ""}
    read = [said.pop(field, usual) for field, usual in left_out.items()]
    packed = bytes([0x80 | len(said)]) + b"".join(native.encode(part) for pair in said.items() for part in pair)
    return (peer, path, *read, packed, body)  # type: ignore[return-value]


class Reading(Port):
    """A port whose pump reads requests."""

    def take_native(self) -> list[Any]:
        """Each a run of its own, or one with the request before."""
        runs: list[Any] = []
        for message in super().take_native():
            if b"submit" not in message[3]:
                runs.append(message)
            elif runs and isinstance(runs[-1], list):
                runs[-1].append(formed(message))
            else:
                runs.append([formed(message)])
        return runs


def played(steps: list[Any], *, reading: bool, limits: Limits) -> list[Any]:
    """What is there before anybody works, and what everybody has heard in the end."""
    it = Talk(limits=limits, tries=3)
    it.machine.set_queue("of its own", QueueSettings(priority=3, jobs_max=2))
    if reading:
        it.clients.__class__ = Reading
    clients = {"a": it.client("a"), "b": it.client("b"), "stranger": it.client("stranger", hello=False)}
    for who, body, fields, turn in steps:
        clients[who].says(Submit(id=body if body == b"short" else body.ljust(16, b"-"), **fields), body, turn=turn)
    it.turn()
    jobs = [
        (job.number, job.body, job.queue.name, job.terms, job.rules, job.request, job.headers, job.size,
         [(asker.peer.routing_id, *rest) for asker, *rest in job.askers])
        for job in it.machine.jobs()
    ]  # fmt: skip
    worker = it.worker(queues=("default", "named", "of its own"), credit=20)
    it.wait(2 * S)
    for _, body in list(worker.jobs):
        worker.complete(body)
    clients["a"].lose()
    return [jobs, worker.jobs, it.counters, *([client.heard, client.told()] for client in clients.values())]


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEP, max_size=12), jobs_max=st.sampled_from([3, 1000]))
def test_a_request_of_a_form_is_treated_as_any_other(steps: list[Any], jobs_max: int) -> None:
    """Accepted, joined, refused, said by a stranger: the same jobs, in the same order, and the same words."""
    limits = Limits(jobs_max=jobs_max)
    assert played(steps, reading=True, limits=limits) == played(steps, reading=False, limits=limits)


def test_what_a_form_cannot_say_is_refused_as_ever() -> None:
    """A field that is not what it has to be: the dialect says so, whoever has read the rest."""
    heard = []
    for reading in (False, True):
        it = Talk()
        if reading:
            it.clients.__class__ = Reading
        client = it.client()
        header = native.encode({"t": "submit", "id": b"i" * 16, "queue": "named", "run_ms": "long"})
        it.clients.native.append((client.peer, b"", VERSION, header, b"body"))
        it.turn()
        heard.append(client.heard)
    assert heard[0] == heard[1]
    assert [job.code for said in heard[0] for job in said.jobs] == ["bad_request"]


@pytest.mark.interpreted
def test_forms_are_remembered_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that can be said again, up to a bound; what is different in each request is not."""
    monkeypatch.setattr(forms, "TERMS_MAX", 3)
    it = Talk()
    it.clients.__class__ = Reading
    client = it.client()
    sizes = []
    for number in range(8):
        client.submit(b"%d" % number, priority=1 + number // 2)
        client.submit(b"a%d" % number, headers={"trace": str(number)})
        sizes.append(len(it.machine.requests._forms.known))
    assert sizes == [1, 1, 2, 2, 3, 3, 1, 1]
    assert it.machine.open == 16


def test_a_form_says_what_many_requests_may_share() -> None:
    """A new field of a request is not part of a form, unless somebody says so here and there."""
    one = {"t", "id", "jobs", "queue", "received", "age_ms", "ack", "wait", "headers", "fair"}
    one |= {"unique", "unique_mode", "unique_ms"}
    known = {field for field in Submit.__struct_fields__ if field in FIELDS} | {"jobs", "id"}
    assert set(forms._FORM) == known - one


@pytest.mark.parametrize("mode", ["join", "replace"])
def test_a_unique_key_amid_a_batch_loses_nothing_of_it(mode: str) -> None:
    """The batch so far has to begin for it, and what comes behind it is another one: all are done, and the limit of
    jobs holds.
    """
    it = Talk(limits=Limits(jobs_max=6))
    it.clients.__class__ = Reading
    client = it.client()
    bodies = [b"a", b"b", b"key", b"c", b"same key", b"d", b"e", b"too many"]
    for body in bodies:
        unique = {"unique": "k", "unique_mode": mode} if b"key" in body else {}
        client.submit(body, priority=1, turn=False, **unique)
    it.turn()
    assert [job.number for job in it.machine.jobs()] == sorted({job.number for job in it.machine.jobs()})
    assert it.machine.open == 6
    worker = it.worker(credit=20)
    for body in list(worker.got):
        worker.complete(body)
    first = "completed" if mode == "join" else "replaced"
    assert {body: state for body, state, _ in client.told()} == {
        **dict.fromkeys(bodies[:-1], "completed"),
        b"key": first,
    }
    (said,) = client.take(Submitted)
    assert [each.code for each in said.jobs] == ["busy"]
