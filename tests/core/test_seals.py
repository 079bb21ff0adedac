"""Tokens that say whose they are: known again by their job, whoever asks, and by nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from relet.core.job import CANCELLED, Job
from relet.core.queues import Queues
from relet.core.seals import KEY_BYTES, Seals
from relet.core.terms import Terms

KEY = bytes(range(KEY_BYTES))
QUEUE = Queues(queues_max=1).default


def drawn() -> Iterator[bytes]:
    """Tokens that say nothing."""
    return (number.to_bytes(16, "big") for number in itertools.count(1))


def job(number: int, *, late_any: bool = True) -> Job:
    """A job whose id no other has."""
    it = Job(number, None, b"", b"body", 0, QUEUE, Terms(late_any=late_any))
    it.id = b"id of %13d" % number
    return it


@pytest.mark.parametrize("number", [1, 77, 1 << 39, (1 << 40) + 5, 1 << 60])
def test_the_next_broker_knows_each_token_of_a_job(number: int) -> None:
    """Each is another one, 16 bytes long, and stays good for as long as the job is open."""
    it = job(number)
    before = Seals(KEY, (), drawn())
    tokens = [before.token_of(it) for _ in range(1_000)]
    assert len(set(tokens)) == 1_000
    assert {len(token) for token in tokens} == {16}
    after = Seals(KEY, (it, job(number + 1)), drawn())
    assert all(after.job_of(token) is it for token in tokens)
    it.state = CANCELLED
    assert after.job_of(tokens[0]) is None


def test_a_token_is_good_for_its_job_under_its_key_alone() -> None:
    """Nobody makes one of another one; a number that was given again is not enough."""
    it = job(7)
    token = Seals(KEY, (), drawn()).token_of(it)
    after = Seals(KEY, (it, job(8)), drawn())
    forged = [bytes([*token[:at], token[at] ^ 1, *token[at + 1 :]]) for at in range(16)]
    eighth = (int.from_bytes(token[:8], "big") + (1 << 24)).to_bytes(8, "big") + token[8:]
    for other in (*forged, eighth, token[:-1], token + b"x", token[:8], b"", bytes(16)):
        assert after.job_of(other) is None
    assert after.job_of(token) is it
    assert Seals(KEY[::-1], (it,), drawn()).job_of(token) is None
    it.id = b"another job's id"
    assert Seals(KEY, (it,), drawn()).job_of(token) is None


def test_a_job_that_has_ended_is_not_kept_for_its_tokens() -> None:
    """What is loaded is let go when it ends."""
    it = job(7)
    token = Seals(KEY, (), drawn()).token_of(it)
    after = Seals(KEY, (it,), drawn())
    after.ended((it, job(9)))
    assert after.job_of(token) is None


def test_a_job_that_takes_its_current_attempt_only_has_tokens_that_say_nothing() -> None:
    """They are drawn, like all in a broker without a store."""
    it = job(7, late_any=False)
    seals = Seals(KEY, (it,), drawn())
    assert seals.token_of(it) == (2).to_bytes(16, "big")
    assert seals.job_of((2).to_bytes(16, "big")) is None
