"""Inline: a client without a broker, whose jobs are done where they are submitted.

For tests of what a program hands over and what it makes of the answer, and for nothing else: `submit` returns when the
handler has, in the same thread, so nothing is ever late, lost, done twice, out of order or at the same time as
something else. A program that passes here has shown nothing of all that: for that there is `relet.testing.Bench`,
which takes milliseconds, too.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Sequence
from typing import Any, Final

from relet.client import Client, ClientClosed, Enqueued, JobFailed, JobUnknown, Partial, Progress, Terms
from relet.client.door import REQUESTS_OPEN_BYTES_MAX, REQUESTS_OPEN_MAX, USUAL_TERMS, Door
from relet.client.peer import Counters, Outcome, answer_of
from relet.client.terms import REQUEST_ID_BYTES, Kind
from relet.client.turns import CLOSED
from relet.client.waiting import Waiter
from relet.messages import Dispatch, Entry
from relet.testing.asides import UnboundedAsides
from relet.transport.link import BODY_BYTES_MAX, DIALECT_DEFAULT
from relet.worker import Handlers, Hook, Worker
from relet.worker.job import Hand, Job, Note, Piece, leave_hand, take_hand
from relet.worker.outcome import Failure, Silence

_NOBODY: Final = "tcp://127.0.0.1:1"
"""What the libraries are told, and nobody connects to."""


class InlineClient(Client):
    """A `relet.Client` that calls the handler itself, once for each job.

    `call`, `submit`, `map`, `enqueue` and `result` are there, with progress and partial results; of the terms only the
    queue counts. A handler that raises has failed for good: `JobFailed`, after one attempt. `state`, `why` and `cancel`
    raise ValueError: there is no broker to be asked.

    Args:
        handler: as for `relet.Worker`: a function, a coroutine function, or one for each queue; or a class that is
            derived from `relet.Worker`.
        hooks: likewise.
        terms: for all jobs that come without their own.
    """

    def __init__(
        self, handler: Handlers | type[Worker], *, hooks: Sequence[Hook] = (), terms: Terms = USUAL_TERMS
    ) -> None:
        self._door = Door(
            _NOBODY,
            dialect=DIALECT_DEFAULT,
            timeout=None,
            resend=True,
            terms=terms,
            context=None,
            requests_open_max=REQUESTS_OPEN_MAX,
            requests_open_bytes_max=REQUESTS_OPEN_BYTES_MAX,
            body_bytes_max=BODY_BYTES_MAX,
        )
        self._engine: Any = _Engine(_worker(handler, hooks))
        self._collected = weakref.finalize(self, _nothing)

    @property
    def connected(self) -> bool:
        """Whether it was not closed."""
        return not self._engine.closed

    @property
    def counters(self) -> Counters:
        """What has happened so far, as far as it can here."""
        counters: Counters = self._engine.counters
        return counters


def _worker(handler: Any, hooks: Sequence[Hook]) -> Worker:
    if isinstance(handler, type) and issubclass(handler, Worker):
        return handler(_NOBODY, hooks=hooks)
    return Worker(_NOBODY, handler=handler, hooks=hooks)


def _nothing() -> None:
    """There is no thread to be ended when a client was forgotten."""


class _Engine:
    """What `relet.client.engine.Engine` is where there is a broker."""

    def __init__(self, worker: Worker) -> None:
        self.counters = Counters()
        self.closed = False
        self._shift = worker._begin()  # noqa: SLF001 - it is run here
        self._asides = UnboundedAsides(self._shift.line.inbox, time.monotonic_ns, BODY_BYTES_MAX)
        self._outcomes: dict[bytes, tuple[bytes, ...] | Exception] = {}
        """Request or job id -> what came of what was enqueued."""
        self._jobs = 0

    def submit(self, request: Waiter) -> None:
        """Do it, and tell the caller."""
        if self.closed:
            raise ClientClosed(CLOSED)
        kind = request.asking.kind
        if kind not in (Kind.JOB, Kind.ENQUEUE, Kind.RESULT):
            raise ValueError(f"there is no broker here to be asked for {kind.value}: use a relet.testing.Bench")
        request.name = request.name or os.urandom(REQUEST_ID_BYTES)
        self.counters.submitted += 1
        outcome: Outcome
        if kind is Kind.RESULT:
            outcome = self._found(request)
        else:
            self._jobs += 1
            job_id = self._jobs.to_bytes(16, "big")
            came = self._does(request, job_id)
            if kind is Kind.ENQUEUE:
                self._outcomes[request.name] = self._outcomes[job_id] = came
                outcome = Enqueued(request.name, job_id)
            else:
                outcome = _told(came, request)
        self.counters.answered += 1
        self.counters.failed += isinstance(outcome, JobFailed)
        request.settle(outcome)
        channel = getattr(request, "channel", None)
        if channel is not None:
            channel.flush()

    def submit_all(self, requests: Sequence[Waiter]) -> int:
        """One after the other. As many batches of outcomes come as there are requests."""
        for request in requests:
            self.submit(request)
        return len(requests)

    def abandon(self, requests: Sequence[Waiter], *, withdraw: bool = False) -> None:
        """All have ended before."""

    def must_not_wait(self) -> None:
        """Nobody waits here."""

    def stop(self) -> None:
        """The client was closed."""
        self.closed = True

    def _found(self, request: Waiter) -> Outcome:
        came = self._outcomes.get(request.name)
        return JobUnknown(f"nothing was enqueued under {request.name.hex()}") if came is None else _told(came, request)

    def _does(self, request: Waiter, job_id: bytes) -> tuple[bytes, ...] | Exception:
        said = request.asking.submit
        frames = request.body if isinstance(request.body, tuple) else (request.body,)
        header = Dispatch(
            token=job_id, seq=self._jobs, job=job_id, attempt=1, tries=1, queue=said.queue, headers=said.headers
        )
        job = Job(header, frames, session=1)
        shift = self._shift
        hand = Hand(self._asides)
        hand.job = job
        before = take_hand(hand)
        try:
            came = asyncio.run(shift.do_awaited(job)) if shift.calls.awaitable else shift.do(job)
        finally:
            leave_hand(before)
        self._follow(request)
        request.learn(job.answer_headers or said.headers, again=False)
        if isinstance(came, tuple):
            return came
        if came is Silence.UNANSWERED:
            return TimeoutError("the handler has left the job unanswered")
        failure = came if isinstance(came, Failure) else Failure(kind="HandBack")
        entry = Entry(attempt=1, cause="failed", worker="inline", kind=failure.kind, text=failure.text)
        return JobFailed(
            state="discarded",
            reason="failed",
            kind=failure.kind,
            text=failure.text,
            attempts=1,
            ledger=(entry,),
            request_id=request.name,
            job_id=job_id,
        )

    def _follow(self, request: Waiter) -> None:
        """What the handler has said beside its answer."""
        inbox, pieces = self._shift.line.inbox, 0
        while inbox:
            _, aside, _ = inbox.popleft()
            if isinstance(aside, Note):
                request.follow(Progress(1, aside.done, aside.total, aside.text))
            elif isinstance(aside, Piece):
                pieces += 1
                request.follow(Partial(aside.frames, 1, pieces))


def _told(came: tuple[bytes, ...] | Exception, request: Waiter) -> Outcome:
    return came if isinstance(came, Exception) else answer_of(came, multipart=request.multipart)


__all__ = ["InlineClient"]
