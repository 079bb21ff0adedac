"""The two headers that nearly every job has on its way out, made in one call each: the job for its worker, and its
outcome for its client.

All of a kind have the same fields in the same places, so one is a few bytes that never change, with ids and numbers in
between. It reads as what `native.encode` makes of the same message, and is made in half of the time. A number has four
bytes here, however small it is, which MessagePack leaves to the writer. What does not fit - headers, a deadline, an
acknowledgement that goes with the job - is left to `native.encode`.
"""

from __future__ import annotations

import struct
from typing import Final

from relet.dialects.native import encode
from relet.messages import Dispatch, Outcome

ID_BYTES: Final = 16
"""Bytes of an id here: of a token, of a job, and of a request as relet's own clients draw it."""
NUMBER_MAX: Final = (1 << 32) - 1
"""The highest number of a hand-over, or of an outcome, here."""
ATTEMPT_MAX: Final = 127
"""The highest number of an attempt here: it has one byte."""

_ID: Final = bytes(ID_BYTES)
_DISPATCH: Final = encode(Dispatch(token=_ID, seq=1, job=_ID, attempt=1))
_DISPATCH_HEAD: Final = _DISPATCH.index(_ID)
_OUTCOME: Final = encode(Outcome(id=_ID, n=1))

SEQ: Final = b"\xa3seq\xce"
JOB: Final = b"\xa3job\xc4" + bytes([ID_BYTES])
ATTEMPT: Final = b"\xa7attempt"
pack_dispatch: Final = struct.Struct(
    f">{_DISPATCH_HEAD}s{ID_BYTES}s{len(SEQ)}sI{len(JOB)}s{ID_BYTES}s{len(ATTEMPT)}sB"
).pack
"""`pack_dispatch(head, token, SEQ, seq, JOB, job id, ATTEMPT, attempt) + tail`, with a head and a tail of
`agreed_of`."""

OUTCOME: Final = _OUTCOME[: _OUTCOME.index(_ID)]
N: Final = b"\xa1n\xce"
pack_outcome: Final = struct.Struct(f">{len(OUTCOME)}s{ID_BYTES}s{len(N)}sI").pack
"""`pack_outcome(OUTCOME, request id, N, n)`: of a job that was completed at the first attempt."""


def agreed_of(queue: str, tries: int | None, run_ms: int | None, silence_ms: int | None) -> tuple[bytes, bytes]:
    """Head and tail of what a worker is told of any job of this queue on these terms."""
    said = Dispatch(
        token=_ID, seq=1, job=_ID, attempt=1, queue=queue, tries=tries, run_ms=run_ms, silence_ms=silence_ms
    )
    whole = encode(said)
    return whole[:_DISPATCH_HEAD], whole[len(_DISPATCH) :]
