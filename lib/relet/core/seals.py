"""Tokens that say themselves whose they are, for a broker that has a store.

The record of a hand-over rides with the next commit, so a crash can forget it. What its worker answers then has a
token that the next broker does not know. That is a late answer all the same, and counts where the job takes any. So
such a token names its job, and a seal under a key that only the store has shows that a broker of this store drew it:

    number of the job, 5 bytes | count, 3 | seal, 8: keyed BLAKE2b of these and of the job's id

The id is in the seal because numbers come again: a store that was restored from a backup, or whose last commits the
power has taken (`--sync off`), counts on from where it was, and gives them to other jobs. The count makes each token
different from all others of its job. It is as long as any other, so a worker can claim as many jobs as ever.

Nothing is kept for a job that waits, and nothing written down: a token is drawn at the hand-over. Only a loaded job can
have been handed over unknown to us; while it is open it is found here by its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

from relet.core.job import FINAL, Job

KEY_BYTES: Final = 32
HEAD_BYTES: Final = 8
SEAL_BYTES: Final = 8
"""So many bits a worker would have to guess, one message a guess."""
_COUNTS: Final = 1 << 24
_NUMBERS: Final = 1 << 40
"""Of a job whose number is larger, the rest is taken: the seal tells it from others."""


class Seals:
    """Draws the tokens of one machine, and knows those that brokers before it have drawn."""

    def __init__(self, key: bytes, loaded: Iterable[Job], drawn: Iterator[bytes]) -> None:
        """`key`: the `KEY_BYTES` that the store was made with. `loaded`: the open jobs in it. `drawn`: tokens that say
        nothing, 16 bytes each.
        """
        self._keyed = blake2b(key=key, digest_size=SEAL_BYTES).copy
        self._drawn = drawn
        self._count = int.from_bytes(next(drawn)[-3:], "big")  # not where the broker before began
        self._loaded = {job.number % _NUMBERS: job for job in loaded if job.terms.late_any and job.id}

    def token_of(self, job: Job) -> bytes:
        """For another hand-over of this job. One that takes its current attempt only has a token that says nothing."""
        if not job.terms.late_any or not job.id:
            return next(self._drawn)
        self._count = count = (self._count + 1) % _COUNTS
        head = (job.number % _NUMBERS * _COUNTS + count).to_bytes(8, "big")
        keyed = self._keyed()
        keyed.update(head + job.id)
        return head + keyed.digest()

    def job_of(self, token: bytes) -> Job | None:
        """The open job that was loaded, and for which this token was drawn, by whatever broker of this store."""
        head = token[:HEAD_BYTES]
        job = self._loaded.get(int.from_bytes(head, "big") // _COUNTS)
        if job is None or job.state in FINAL:
            return None
        keyed = self._keyed()
        keyed.update(head + job.id)
        return job if token[HEAD_BYTES:] == keyed.digest() else None

    def ended(self, jobs: Iterable[Job]) -> None:
        """These are final, and are not to be found any more."""
        if self._loaded:
            for job in jobs:
                self._loaded.pop(job.number % _NUMBERS, None)
