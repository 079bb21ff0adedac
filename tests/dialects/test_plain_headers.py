"""Headers that are made in one call say what the message says that they stand for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relet.dialects import native
from relet.dialects.plain_headers import (
    ATTEMPT,
    ATTEMPT_MAX,
    ID_BYTES,
    JOB,
    NUMBER_MAX,
    OUTCOME,
    SEQ,
    N,
    agreed_of,
    pack_dispatch,
    pack_outcome,
)
from relet.messages import VERSION, Dispatch, Outcome

ID = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)
NUMBER = st.integers(1, NUMBER_MAX)
SOME = st.none() | st.integers(0, 2**62)


@given(ID, NUMBER, ID, st.integers(1, ATTEMPT_MAX), st.text(min_size=1), SOME, SOME, SOME)
def test_a_job_for_a_worker(
    token: bytes,
    seq: int,
    job: bytes,
    attempt: int,
    queue: str,
    tries: int | None,
    run_ms: int | None,
    silence_ms: int | None,
) -> None:
    """Whatever is agreed, and whatever the numbers are."""
    head, tail = agreed_of(queue, tries, run_ms, silence_ms)
    header = pack_dispatch(head, token, SEQ, seq, JOB, job, ATTEMPT, attempt) + tail
    said = Dispatch(
        token=token, seq=seq, job=job, attempt=attempt, tries=tries, queue=queue, run_ms=run_ms, silence_ms=silence_ms
    )
    assert native.to_worker(VERSION, header) == said


@given(ID, NUMBER)
def test_an_outcome_for_a_client(name: bytes, number: int) -> None:
    """Of a job that was completed at the first attempt."""
    assert native.to_client(VERSION, pack_outcome(OUTCOME, name, N, number)) == Outcome(id=name, n=number)
