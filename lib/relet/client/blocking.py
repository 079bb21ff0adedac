"""The client for programs with threads: a thin shell around a `peer.Peer` and the thread in `engine`."""

from __future__ import annotations

import difflib
import os
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from types import EllipsisType, TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, overload

import zmq

from relet._version import __version__
from relet.client.engine import Engine
from relet.client.peer import USUAL, Body, Counters, Peer
from relet.client.peer2010 import CORRELATION_SECRET_BYTES, Peer2010, correlations
from relet.client.peer_native import NativePeer, request_ids
from relet.client.terms import REQUEST_ID_BYTES, Asking, Kind, Terms
from relet.client.told import Enqueued, JobStatus
from relet.client.waiting import (
    AsTheyCome,
    Call,
    Channel,
    InOrder,
    JobFuture,
    Mapped,
    MultipartCall,
    MultipartSubmitted,
    OnPartial,
    OnProgress,
    Submitted,
    Waiter,
)
from relet.messages import REQUEST_ID_BYTES_MAX, REQUEST_ID_BYTES_MIN
from relet.transport.endpoints import check_text, parse_connect
from relet.transport.link import BODY_BYTES_MAX, DIALECT_2010, DIALECT_DEFAULT, DIALECT_NATIVE

REQUESTS_OPEN_MAX: Final = 100_000
"""Requests of one client open at a time, because each is kept until its answer comes: 0.3 KiB, 1.8 with a future."""
REQUESTS_OPEN_BYTES_MAX: Final = 1 << 30
"""Bytes of their bodies together, because they are kept to be sent again. One request alone may be larger."""
WINDOW_DEFAULT: Final = 1_000
JOB_ID_BYTES: Final = 16

USUAL_TERMS: Final = Terms()

Timeout: TypeAlias = "float | EllipsisType | None"
"""Seconds; None: for ever; `...`: as the client was told."""


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
        _check_count("requests_open_max", requests_open_max)
        _check_count("requests_open_bytes_max", requests_open_bytes_max)
        _check_count("body_bytes_max", body_bytes_max)
        check_text("clients", clients)
        endpoint = parse_connect(clients)
        if endpoint.scheme == "inproc" and context is None:
            raise ValueError("inproc:// needs the context of the broker: Client(..., context=...)")
        self._is_native = _is_native(dialect)
        self._terms = terms
        self._check_terms(terms)
        self._job = USUAL if terms == USUAL_TERMS else Asking(Kind.JOB, terms)
        self._timeout_ns = _nanoseconds(timeout)
        peer: Peer[Waiter]
        if self._is_native:
            peer = NativePeer(request_ids(), resend=resend, agent=f"relet {__version__}", endpoint=endpoint.url)
        else:
            peer = Peer2010(correlations(os.urandom(CORRELATION_SECRET_BYTES)), resend=resend, endpoint=endpoint.url)
        self._engine = Engine(
            endpoint,
            context,
            peer,
            open_max=requests_open_max,
            open_bytes_max=requests_open_bytes_max,
            body_bytes_max=body_bytes_max,
        )
        self._collected = weakref.finalize(self, self._engine.forget)
        self._collected.atexit = False  # then the engine ends by itself: `at_exit`

    @property
    def connected(self) -> bool:
        """Whether the broker is there now, and has answered in this dialect, as far as that can be known."""
        return self._engine.connected

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
        asking = self._asking(terms, headers)
        answer: bytes = self._call(Call(_frame(data), self._in_nanoseconds(timeout), asking, self._id(request_id)))
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
        asking = self._asking(terms, headers)
        timeout_ns = self._in_nanoseconds(timeout)
        answer: list[bytes] = self._call(MultipartCall(_frames(frames), timeout_ns, asking, self._id(request_id)))
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
        return self._submit(Submitted, _frame(data), timeout, terms, headers, request_id, on_partial, on_progress)

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
        return self._submit(
            MultipartSubmitted, _frames(frames), timeout, terms, headers, request_id, on_partial, on_progress
        )

    def _submit(
        self,
        kind: type[Submitted],
        body: Body,
        timeout: Timeout,
        terms: Terms | None,
        headers: Mapping[str, str] | None,
        request_id: bytes | None,
        on_partial: OnPartial | None,
        on_progress: OnProgress | None,
    ) -> JobFuture[Any]:
        follow = on_partial is not None or on_progress is not None
        if follow:
            self._need_native("on_partial and on_progress")
        asking = self._asking(terms, headers, follow=follow)
        name = self._id(request_id)
        if not name and self._is_native:  # else the library's thread draws one later: the caller shall have it now
            name = os.urandom(REQUEST_ID_BYTES)
        future: JobFuture[Any] = JobFuture()
        request = kind(body, self._in_nanoseconds(timeout), asking, name, future, on_partial, on_progress)
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
        self._need_native("enqueue")
        engine, channel, timeout_ns = self._engine, Channel(), self._in_nanoseconds(timeout)
        engine.must_not_wait()
        if terms is not None:
            self._check_terms(terms)
        asking = Asking(Kind.ENQUEUE, self._terms if terms is None else terms, headers)
        items = list(datas)
        names: Sequence[bytes | None] = [None] * len(items) if request_ids is None else request_ids
        if len(names) != len(items):
            raise ValueError(f"{len(items)} jobs need as many request_ids, not {len(names)}")
        no_room = TimeoutError("too many requests were open all the time")
        outcomes: list[Any] = [no_room] * len(items)
        requests: list[Mapped] = []
        used: set[bytes] = set()
        for index, (data, request_id) in enumerate(zip(items, names, strict=True)):
            try:
                name = self._id(request_id)
                request = Mapped(_body(data), timeout_ns, asking, channel, index, name)
                engine.check(request)
            except (TypeError, ValueError) as error:
                outcomes[index] = error
                continue
            if name in used:
                raise ValueError(f"request_ids has {name.hex()} twice: each job needs an id of its own")
            if name:
                used.add(name)
            requests.append(request)
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
        answer: bytes = self._call(self._question(Call, Kind.RESULT, request_id, job_id, timeout))
        return answer

    def result_multipart(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> list[bytes]:
        """As `result`, for answers of several frames."""
        answer: list[bytes] = self._call(self._question(MultipartCall, Kind.RESULT, request_id, job_id, timeout))
        return answer

    def state(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> JobStatus:
        """Where a job stands; parameters as for `result`. A job that is not known has a state, too."""
        status: JobStatus = self._call(self._question(Call, Kind.STATE, request_id, job_id, timeout))
        return status

    def why(self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...) -> JobStatus:
        """Where a job stands, and why there: no worker asks for its queue, somebody has paused it, others are before it
        ... (`code`, `text`). Parameters and errors as for `state`.
        """
        status: JobStatus = self._call(self._question(Call, Kind.WHY, request_id, job_id, timeout))
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
        status: JobStatus = self._call(self._question(Call, Kind.CANCEL, request_id, job_id, timeout))
        return status

    def _question(
        self, call: type[Call], kind: Kind, request_id: bytes | None, job_id: bytes | None, timeout: Timeout
    ) -> Call:
        self._need_native(kind.value)
        if (request_id is None) == (job_id is None):
            raise ValueError("say which job: request_id or job_id, and not both")
        if job_id is None:
            return call(b"", self._in_nanoseconds(timeout), Asking(kind), self._id(request_id))
        name = _as_bytes(job_id, "a job_id")
        if len(name) != JOB_ID_BYTES:
            raise ValueError(f"a job_id has {JOB_ID_BYTES} bytes, not {len(name)}")
        return call(b"", self._in_nanoseconds(timeout), Asking(kind, by_job=True), name)

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
        if window < 1:
            raise ValueError("window must be at least 1")
        asking = self._asking(terms, headers)
        return self._map(iter(datas), window, self._in_nanoseconds(timeout), asking, ordered, return_exceptions)

    def _map(
        self,
        datas: Iterator[bytes],
        window: int,
        timeout_ns: int | None,
        asking: Asking,
        ordered: bool,
        return_exceptions: bool,
    ) -> Generator[Any, None, None]:
        engine, channel = self._engine, Channel()
        submit, batches = engine.submit, channel.batches
        engine.must_not_wait()
        course: InOrder | AsTheyCome = InOrder() if ordered else AsTheyCome()
        ready, take = course.ready, course.take
        requests: dict[int, Mapped] = {}
        index = 0
        more = True
        try:
            while True:
                while ready:
                    outcome = ready.popleft()
                    if isinstance(outcome, Exception) and not return_exceptions:
                        raise outcome
                    yield outcome
                    if more:
                        break  # one in for one out: workers do not run dry while a slow loop consumes
                if not batches.empty():
                    take(batches.get(), requests)
                if more and len(requests) + len(ready) + course.held < window:
                    try:
                        data = next(datas)
                    except StopIteration:
                        more = False
                        continue
                    try:
                        requests[index] = request = Mapped(_frame(data), timeout_ns, asking, channel, index)
                        submit(request)
                    except TimeoutError as error:  # there was no room
                        take([(index, error)], requests)
                    except (TypeError, ValueError) as error:  # of this body
                        if not return_exceptions:
                            raise
                        take([(index, error)], requests)
                    index += 1
                elif not ready:
                    if not requests:
                        return
                    take(batches.get(), requests)
        finally:
            if requests:
                engine.abandon(list(requests.values()), withdraw=True)

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

    def _in_nanoseconds(self, timeout: Timeout) -> int | None:
        return self._timeout_ns if timeout is ... else _nanoseconds(timeout)

    def _asking(self, terms: Terms | None, headers: Mapping[str, str] | None, *, follow: bool = False) -> Asking:
        """How a job on these terms is asked for."""
        if terms is None and not headers and not follow:
            return self._job
        if headers:
            self._need_native("headers")
        if terms is not None:
            self._check_terms(terms)
        return Asking(Kind.JOB, self._terms if terms is None else terms, headers, follow=follow)

    def _check_terms(self, terms: object) -> None:
        if not isinstance(terms, Terms):
            raise TypeError(f"terms are a relet.Terms, such as Terms(queue='images'), not {type(terms).__name__}")
        if not self._is_native and (unusual := terms.unusual()):
            raise ValueError(
                f"the 2010 dialect cannot say {', '.join(unusual)}: leave that out of the terms, or use"
                ' dialect="native"'
            )

    def _need_native(self, what: str) -> None:
        if not self._is_native:
            raise ValueError(f'the 2010 dialect has no {what}: use dialect="native"')

    def _id(self, request_id: bytes | None) -> bytes:
        """A request id of the caller's as the peer wants it, which draws one where it is b""."""
        if request_id is None:
            return b""
        self._need_native("request_id")
        name = _as_bytes(request_id, "a request_id")
        if not REQUEST_ID_BYTES_MIN <= len(name) <= REQUEST_ID_BYTES_MAX:
            raise ValueError(
                f"a request_id has {REQUEST_ID_BYTES_MIN} to {REQUEST_ID_BYTES_MAX} bytes, not {len(name)}: take"
                " 16 random ones, or the SHA-256 of what makes the request the same"
            )
        return name


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is a whole number of at least 1, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _is_native(dialect: str) -> bool:
    if dialect in (DIALECT_NATIVE, DIALECT_2010):
        return dialect == DIALECT_NATIVE
    near = difflib.get_close_matches(str(dialect), (DIALECT_NATIVE, DIALECT_2010), 1)
    did_you_mean = f": did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"dialect must be {DIALECT_NATIVE!r} or {DIALECT_2010!r}, not {dialect!r}{did_you_mean}")


def _body(data: bytes | Sequence[bytes]) -> Body:
    return _frame(data) if isinstance(data, bytes | bytearray | memoryview | str) else _frames(data)


def _frame(data: object) -> bytes:
    """One frame as bytes; what may change under our hands is copied."""
    return data if type(data) is bytes else _as_bytes(data, "a job's body")


def _as_bytes(data: object, what: str) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    encode = ": encode the text" if isinstance(data, str) else ""
    raise TypeError(f"{what} is bytes, not {type(data).__name__}{encode}")


def _frames(frames: Sequence[bytes]) -> tuple[bytes, ...]:
    if isinstance(frames, bytes | bytearray | memoryview | str):
        raise TypeError("a body of several frames is a sequence of bytes; for one frame use call or submit")
    if not isinstance(frames, Iterable):
        raise TypeError(f"a job's body is bytes, or a sequence of them, not {type(frames).__name__}")
    body = tuple(map(_frame, frames))
    if not body:
        raise ValueError("a job's body has at least one frame")
    return body


def _nanoseconds(seconds: Any) -> int | None:
    if seconds is None:
        return None
    if not isinstance(seconds, Real):
        raise TypeError(f"timeout is a number of seconds, or None for no limit, not {type(seconds).__name__}")
    if not 0 < float(seconds) * 1e9 < float("inf"):
        raise ValueError(f"timeout must be a number of seconds above 0, or None for no limit; not {seconds!r}")
    return max(1, round(float(seconds) * 1e9))
