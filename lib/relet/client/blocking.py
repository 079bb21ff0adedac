"""The client for programs with threads: a thin shell around a `peer.Peer` and the thread in `engine`."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import zmq

from relet.client.door import (
    REQUESTS_OPEN_BYTES_MAX,
    REQUESTS_OPEN_MAX,
    USUAL_TERMS,
    WINDOW_DEFAULT,
    Door,
    Timeout,
    check_window,
)
from relet.client.engine import Engine
from relet.client.peer import Counters
from relet.client.terms import Kind, Terms
from relet.client.told import Enqueued, JobStatus
from relet.client.waiting import (
    Call,
    Course,
    JobFuture,
    MultipartCall,
    MultipartSubmitted,
    OnPartial,
    OnProgress,
    Step,
    Submitted,
    ThreadChannel,
)
from relet.transport.link import BODY_BYTES_MAX, DIALECT_DEFAULT

T = TypeVar("T")


class Client:
    """Hands jobs to a broker and waits for their answers. May be used by any number of threads at once.

    At most `requests_open_max` requests (and `requests_open_bytes_max` bytes of bodies) are open at a time; `call` and
    `submit` wait for room, at most as long as their timeout.

    When the connection is lost this is logged (`broker_lost`), the client connects again, and requests that were sent
    are asked again under the same id, so that they join their jobs. Where the broker does not know these any more -
    another one was started, or the dialect is that of 2010 - jobs may be done twice. `resend=False` ends them with
    `BrokerLost` instead. Likewise a broker that stops before a job has ended: natively, the next one is asked for it;
    `resend=False`, or the dialect of 2010, ends it with `JobFailed`.

    Args:
        clients: the broker's endpoint for clients, for example `tcp://localhost:4161`.
        dialect: `"native"`, or `"2010"` for brokers that speak nothing else. That one knows neither terms nor headers,
            request ids, `enqueue`, `result` and `state`, and a failed job has no reason in it.
        timeout: seconds that a call waits, unless it says otherwise; None: for ever.
        resend: whether requests that were under way when the connection was lost are sent again.
        terms: for all jobs that come without their own.
        context: where the socket is made; needed for `inproc://`. None: one of the client's own.
        requests_open_max: requests open at a time.
        requests_open_bytes_max: bytes of their bodies together.
        body_bytes_max: bytes of one body. A larger one is a ValueError here: far above the broker's own limit, of the
            same default, it would cost the connection, and all that is under way on it.

    Raises:
        EndpointError: the endpoint cannot be meant.
        TypeError: an argument is of a wrong type.
        ValueError: a number is out of range, or the dialect cannot say the terms.
    """

    def __init__(
        self,
        clients: str,
        *,
        dialect: str = DIALECT_DEFAULT,
        timeout: float | None = None,
        resend: bool = True,
        terms: Terms = USUAL_TERMS,
        context: zmq.Context[Any] | None = None,
        requests_open_max: int = REQUESTS_OPEN_MAX,
        requests_open_bytes_max: int = REQUESTS_OPEN_BYTES_MAX,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        self._door = door = Door(
            clients,
            dialect=dialect,
            timeout=timeout,
            resend=resend,
            terms=terms,
            context=context,
            requests_open_max=requests_open_max,
            requests_open_bytes_max=requests_open_bytes_max,
            body_bytes_max=body_bytes_max,
        )
        self._engine = Engine(door.endpoint, context, door.new_peer(), door.room)
        self._collected = weakref.finalize(self, self._engine.forget)
        self._collected.atexit = False  # then the engine ends by itself: `at_exit`

    @property
    def connected(self) -> bool:
        """Whether the broker is there now, and has answered in this dialect, as far as that can be known."""
        return self._engine.turns.connected

    @property
    def counters(self) -> Counters:
        """What has happened so far; do not write to it."""
        return self._engine.peer.counters

    # --- Call and wait.

    def call(
        self,
        data: bytes,
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
    ) -> bytes:
        """The answer to one job.

        Args:
            data: the job's body.
            timeout: seconds; None: for ever; not given: the client's.
            terms: not given: the client's.
            headers: travel with the job to the worker.
            request_id: 16 to 64 bytes; who asks under an id that the broker knows, from this process or another, gets
                the outcome of that job, and no new job is made. It knows it until the outcome was received, or for
                longer with `Terms(keep=...)`. None: the library draws one.

        Raises:
            JobFailed: the broker gave the job up, and says why (in the 2010 dialect it does not, and a worker that
                answers with one empty frame looks the same).
            JobRefused: the broker did not take the job, nor would it later. While it is busy, the job waits here and is
                offered again.
            TimeoutError: no answer in time. The job may still be done; `cancel` ends it, by a `request_id` of your own.
            BrokerLost: the connection was lost, and `resend` is off.
            ClientClosed: the client was closed meanwhile.
            UnexpectedAnswer: the answer has not one frame.
            EndpointError: the broker says that this is its endpoint for workers.
            ValueError: an argument that cannot be, or that the dialect cannot say.
            TypeError: an argument of a wrong type.
        """
        door = self._door
        answer: bytes = self._call(Call(door.frame(data), *door.job(timeout, terms, headers, request_id)))
        return answer

    def call_multipart(
        self,
        frames: Sequence[bytes],
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
    ) -> list[bytes]:
        """The answer to one job whose body and answer are several frames; otherwise as `call`."""
        door = self._door
        asked = door.job(timeout, terms, headers, request_id)
        answer: list[bytes] = self._call(MultipartCall(door.frames(frames), *asked))
        return answer

    def _call(self, call: Call) -> Any:
        self._engine.must_not_wait()
        try:
            self._engine.submit(call)
            call.lock.acquire()
        except BaseException:  # a signal handler raised, for example KeyboardInterrupt
            self._engine.abandon([call])
            raise
        return call.result()

    # --- Call and look later, in this process.

    def submit(
        self,
        data: bytes,
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
        on_partial: OnPartial | None = None,
        on_progress: OnProgress | None = None,
    ) -> JobFuture[bytes]:
        """A future for the answer to one job; other parameters and errors as for `call`. Its `request_id` is there at
        once, to log it, or to ask about the job.

        A future that is cancelled frees its place, and the broker ends its job, running or not, unless others wait for
        it. One whose time is up leaves its job alone: ask again under its `request_id`, or `cancel` it. Callbacks run
        in the library's thread: keep them short, and never wait in them. `on_partial` is called with each `Partial`
        that the worker sends ahead of its answer, `on_progress` with each `Progress`; what these two raise is logged.
        """
        asked = self._door.future_job(timeout, terms, headers, request_id, on_partial, on_progress)
        future: JobFuture[bytes] = JobFuture()
        return self._submit(Submitted(self._door.frame(data), asked, future, on_partial, on_progress), future)

    def submit_multipart(
        self,
        frames: Sequence[bytes],
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
        on_partial: OnPartial | None = None,
        on_progress: OnProgress | None = None,
    ) -> JobFuture[list[bytes]]:
        """As `submit`, for bodies and answers of several frames."""
        asked = self._door.future_job(timeout, terms, headers, request_id, on_partial, on_progress)
        future: JobFuture[list[bytes]] = JobFuture()
        request = MultipartSubmitted(self._door.frames(frames), asked, future, on_partial, on_progress)
        return self._submit(request, future)

    def _submit(self, request: Submitted, future: JobFuture[T]) -> JobFuture[T]:
        future.stands_for(request, self._engine)
        try:
            self._engine.submit(request)
        except BaseException:  # as in `_call`: nobody gets the future
            self._engine.abandon([request])
            raise
        return future

    # --- Hand over, and ask later, from anywhere.

    def enqueue(
        self,
        data: bytes | Sequence[bytes],
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
    ) -> Enqueued:
        """Hand a job over, and return when the broker has taken it. Its outcome is there for `result`, from this
        process or another, for as long as the broker keeps outcomes.

        `data` is the job's body, or a sequence of its frames; other parameters as for `call`.

        Raises:
            As `call`, but for what concerns answers. After a TimeoutError or BrokerLost it is not known whether the
            broker has the job; asking again under the same `request_id` is safe.
        """
        (outcome,) = self._enqueue([data], timeout, terms, headers, None if request_id is None else [request_id])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def enqueue_many(
        self,
        datas: Iterable[bytes | Sequence[bytes]],
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_ids: Sequence[bytes] | None = None,
    ) -> list[Enqueued | Exception]:
        """Hand many jobs over in as few messages as the broker's limits allow.

        Each of `datas` is as in `enqueue`; `request_ids` are one for each of them; other parameters as for `call`.

        Returns:
            For each job, in order, what `enqueue` would return, or the exception that it would raise.

        Raises:
            ValueError: a request id stands twice, there are not as many as jobs, or as for `enqueue` what concerns all
                of the jobs.
            TypeError: as for `enqueue`, what concerns all of the jobs.
            ClientClosed: the client was closed before all were handed over.
        """
        return self._enqueue(datas, timeout, terms, headers, request_ids)

    def _enqueue(
        self,
        datas: Iterable[bytes | Sequence[bytes]],
        timeout: Timeout,
        terms: Terms | None,
        headers: Mapping[str, str] | None,
        request_ids: Sequence[bytes] | None,
    ) -> list[Enqueued | Exception]:
        engine, channel = self._engine, ThreadChannel()
        outcomes, requests = self._door.handed_over(datas, timeout, terms, headers, request_ids, channel)
        engine.must_not_wait()
        try:
            left = engine.submit_all(requests)
            while left:
                batch = channel.batches.get()
                left -= len(batch)
                for index, outcome in batch:
                    outcomes[index] = outcome
        except BaseException:  # as in `_call`
            engine.abandon(requests)
            raise
        return outcomes

    def result(self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...) -> bytes:
        """The answer to a job that was handed over before: now where it is there, else when it comes.

        Args:
            request_id: what it was submitted under, or instead
            job_id: what the broker calls it (`Enqueued.job_id`).
            timeout: seconds; None: for ever; not given: the client's.

        Raises:
            JobFailed: it has ended otherwise.
            JobUnknown: nobody has submitted it to this broker, or its outcome is not kept any more.
            JobExpired: there may have been such a job, and nothing of it is kept.
            JobRefused: as many wait for it already as may (`too_many_askers`).
            TimeoutError, ClientClosed, UnexpectedAnswer, ValueError: as `call`.
        """
        answer: bytes = self._call(Call(b"", *self._door.question(Kind.RESULT, request_id, job_id, timeout)))
        return answer

    def result_multipart(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> list[bytes]:
        """As `result`, for answers of several frames."""
        asked = self._door.question(Kind.RESULT, request_id, job_id, timeout)
        answer: list[bytes] = self._call(MultipartCall(b"", *asked))
        return answer

    def state(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> JobStatus:
        """Where a job stands; parameters as for `result`. A job that is not known has a state, too."""
        status: JobStatus = self._call(Call(b"", *self._door.question(Kind.STATE, request_id, job_id, timeout)))
        return status

    def why(self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...) -> JobStatus:
        """Where a job stands, and why there: no worker asks for its queue, somebody has paused it, others are before it
        ... (`code`, `text`). Parameters and errors as for `state`.
        """
        status: JobStatus = self._call(Call(b"", *self._door.question(Kind.WHY, request_id, job_id, timeout)))
        return status

    def cancel(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> JobStatus:
        """This client does not want a job any more: returns what became of it. Parameters and errors as for `state`.

        Where nobody else is there who waits for it, the job ends for good, wherever it stands: `cancelled`. A worker
        that has it is told (`job.cancelled`), and what it answers is refused. Where others wait for it, it goes on for
        them, and the reason is `detached`, or the state that of a job that goes on. A job that has ended before is left
        as it is, and one that is not known is `unknown` or `expired`.

        What waits here for the same job by the same name ends with `JobFailed` (`cancelled` or `detached`). Ask for it
        again, if you must, when this has returned.
        """
        status: JobStatus = self._call(Call(b"", *self._door.question(Kind.CANCEL, request_id, job_id, timeout)))
        return status

    # --- Many.

    @overload
    def map(
        self,
        datas: Iterable[bytes],
        *,
        window: int = ...,
        ordered: bool = ...,
        timeout: Timeout = ...,
        terms: Terms | None = ...,
        headers: Mapping[str, str] | None = ...,
        return_exceptions: Literal[False] = ...,
    ) -> Iterator[bytes]: ...

    @overload
    def map(
        self,
        datas: Iterable[bytes],
        *,
        window: int = ...,
        ordered: bool = ...,
        timeout: Timeout = ...,
        terms: Terms | None = ...,
        headers: Mapping[str, str] | None = ...,
        return_exceptions: bool,
    ) -> Iterator[bytes | Exception]: ...

    def map(
        self,
        datas: Iterable[bytes],
        *,
        window: int = WINDOW_DEFAULT,
        ordered: bool = True,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[bytes] | Iterator[bytes | Exception]:
        """The answers to many jobs, while they come.

        Reads `datas` only as far as the window allows, and nothing before the first answer is asked for. What comes is
        handed on before more is read. Leaving the loop early, also by an error, cancels what is open: nobody else could
        ask for it. A job whose time is up is left alone.

        Args:
            datas: the jobs' bodies; may be endless.
            window: jobs that are under way, or done and not yet handed on, at a time.
            ordered: in the order of `datas`; else as they come.
            timeout: seconds for each job, from when it is read; as in `call`.
            terms: of all of them; as in `call`.
            headers: of all of them; as in `call`.
            return_exceptions: hand errors on in the place of answers, also those of bodies that cannot be sent; else
                the first one is raised and ends it. What `datas` itself raises ends it anyway.

        Raises:
            As `call`; ValueError: `window` is less than 1.
        """
        check_window(window)
        timeout_ns, asking, _ = self._door.job(timeout, terms, headers)
        channel = ThreadChannel()
        course = Course(
            channel, timeout_ns, asking, window=window, ordered=ordered, return_exceptions=return_exceptions
        )
        return self._map(iter(datas), course, channel)

    def _map(self, datas: Iterator[bytes], course: Course, channel: ThreadChannel) -> Generator[Any, None, None]:
        engine, frame, batches = self._engine, self._door.frame, channel.batches
        engine.must_not_wait()
        try:
            while (step := course.step()) is not Step.END:
                if step is Step.READ:
                    try:
                        data = next(datas)
                    except StopIteration:
                        course.more = False
                        continue
                    try:
                        engine.submit(course.request(frame(data)))
                        course.opened()
                    except (TimeoutError, TypeError, ValueError) as error:  # no room, or no body
                        course.refused(error)
                elif step is Step.WAIT:
                    course.take(batches.get())
                else:
                    yield step
                if not batches.empty():
                    course.take(batches.get())
        finally:
            if left := course.open():
                engine.abandon(left, withdraw=True)

    # --- The end.

    def close(self) -> None:
        """End the client; idempotent. What is open ends with `ClientClosed`."""
        self._collected.detach()
        self._engine.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
