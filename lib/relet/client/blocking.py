"""The client for programs with threads: a thin shell around `peer.ClientPeer` and the thread in `engine`."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from types import EllipsisType, TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, overload

import zmq

from relet.client.engine import Engine
from relet.client.peer import Body, Counters
from relet.client.waiting import (
    AsTheyCome,
    Call,
    CancellableFuture,
    Channel,
    InOrder,
    Mapped,
    MultipartCall,
    MultipartSubmitted,
    Submitted,
)
from relet.transport.endpoints import parse_connect
from relet.transport.link import BODY_BYTES_MAX

REQUESTS_OPEN_MAX: Final = 100_000
"""Requests of one client open at a time, because each is kept until its answer comes: 0.3 KiB, 1.8 with a future."""
REQUESTS_OPEN_BYTES_MAX: Final = 1 << 30
"""Bytes of their bodies together, because they are kept to be sent again. One request alone may be larger."""
WINDOW_DEFAULT: Final = 1_000

Timeout: TypeAlias = "float | EllipsisType | None"
"""Seconds; None: for ever; `...`: as the client was told."""


class Client:
    """Hands jobs to a broker and waits for their answers. May be used by any number of threads at once.

    At most `requests_open_max` requests (and `requests_open_bytes_max` bytes of bodies) are open at a time; `call` and
    `submit` wait for room, at most as long as their timeout.

    When the connection is lost this is logged (`broker_lost`), the client connects again, and requests that were sent
    are sent again: their jobs may then be done twice. `resend=False` ends them with `BrokerLost` instead.

    Args:
        clients: the broker's endpoint for clients, for example `tcp://localhost:4161`.
        timeout: seconds that a call waits, unless it says otherwise; None: for ever.
        resend: whether requests that were under way when the connection was lost are sent again.
        context: where the socket is made; needed for `inproc://`. None: one of the client's own.
        requests_open_max: requests open at a time.
        requests_open_bytes_max: bytes of their bodies together.
        body_bytes_max: bytes of one body. A larger one is a ValueError here: far above the broker's own limit, of the
            same default, it would cost the connection, and all that is under way on it.

    Raises:
        EndpointError: the endpoint cannot be meant.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        clients: str,
        *,
        timeout: float | None = None,
        resend: bool = True,
        context: zmq.Context[Any] | None = None,
        requests_open_max: int = REQUESTS_OPEN_MAX,
        requests_open_bytes_max: int = REQUESTS_OPEN_BYTES_MAX,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        if min(requests_open_max, requests_open_bytes_max, body_bytes_max) < 1:
            raise ValueError("requests_open_max, requests_open_bytes_max and body_bytes_max must be at least 1")
        endpoint = parse_connect(clients)
        if endpoint.scheme == "inproc" and context is None:
            raise ValueError("inproc:// needs the context of the broker: Client(..., context=...)")
        self._timeout_ns = _nanoseconds(timeout)
        self._engine = Engine(
            endpoint,
            context,
            resend=resend,
            open_max=requests_open_max,
            open_bytes_max=requests_open_bytes_max,
            body_bytes_max=body_bytes_max,
        )
        self._collected = weakref.finalize(self, self._engine.forget)
        self._collected.atexit = False  # then the engine ends by itself: `at_exit`

    @property
    def connected(self) -> bool:
        """Whether the broker is there now."""
        return self._engine.connected

    @property
    def counters(self) -> Counters:
        """What has happened so far; do not write to it."""
        return self._engine.peer.counters

    def call(self, data: bytes, *, timeout: Timeout = ...) -> bytes:
        """The answer to one job.

        Args:
            data: the job's body.
            timeout: seconds; None: for ever; not given: the client's.

        Raises:
            JobFailed: the broker gave the job up (or a worker answered with one empty frame).
            TimeoutError: no answer in time. The job may still be done.
            BrokerLost: the connection was lost, and `resend` is off.
            ClientClosed: the client was closed meanwhile.
            UnexpectedAnswer: the answer has not one frame.
        """
        answer: bytes = self._call(Call(_frame(data), self._in_nanoseconds(timeout)))
        return answer

    def call_multipart(self, frames: Sequence[bytes], *, timeout: Timeout = ...) -> list[bytes]:
        """The answer to one job whose body and answer are several frames; otherwise as `call`."""
        answer: list[bytes] = self._call(MultipartCall(_frames(frames), self._in_nanoseconds(timeout)))
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

    def submit(self, data: bytes, *, timeout: Timeout = ...) -> Future[bytes]:
        """A future for the answer to one job; parameters and errors as for `call`.

        A future that is cancelled frees its place; its job may still be done. Callbacks run in the library's thread:
        keep them short, and never wait in them.
        """
        return self._submit(Submitted, _frame(data), timeout)

    def submit_multipart(self, frames: Sequence[bytes], *, timeout: Timeout = ...) -> Future[list[bytes]]:
        """As `submit`, for bodies and answers of several frames."""
        return self._submit(MultipartSubmitted, _frames(frames), timeout)

    def _submit(self, kind: type[Submitted], body: Body, timeout: Timeout) -> Future[Any]:
        future: CancellableFuture[Any] = CancellableFuture()
        request = kind(body, self._in_nanoseconds(timeout), future)
        future.engine, future.request = self._engine, request
        try:
            self._engine.submit(request)
        except BaseException:  # as in `_call`: nobody gets the future
            self._engine.abandon([request])
            raise
        return future

    @overload
    def map(
        self,
        datas: Iterable[bytes],
        *,
        window: int = ...,
        ordered: bool = ...,
        timeout: Timeout = ...,
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
        return_exceptions: bool,
    ) -> Iterator[bytes | Exception]: ...

    def map(
        self,
        datas: Iterable[bytes],
        *,
        window: int = WINDOW_DEFAULT,
        ordered: bool = True,
        timeout: Timeout = ...,
        return_exceptions: bool = False,
    ) -> Iterator[bytes] | Iterator[bytes | Exception]:
        """The answers to many jobs, while they come.

        Reads `datas` only as far as the window allows, and nothing before the first answer is asked for. What comes is
        handed on before more is read. Leaving the loop early abandons what is open.

        Args:
            datas: the jobs' bodies; may be endless.
            window: jobs that are under way, or done and not yet handed on, at a time.
            ordered: in the order of `datas`; else as they come.
            timeout: seconds for each job, from when it is read; as in `call`.
            return_exceptions: hand errors on in the place of answers; else the first one is raised and ends it.

        Raises:
            As `call`; ValueError: `window` is less than 1.
        """
        if window < 1:
            raise ValueError("window must be at least 1")
        return self._map(iter(datas), window, self._in_nanoseconds(timeout), ordered, return_exceptions)

    def _map(
        self, datas: Iterator[bytes], window: int, timeout_ns: int | None, ordered: bool, return_exceptions: bool
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
                    requests[index] = request = Mapped(_frame(data), timeout_ns, channel, index)
                    try:
                        submit(request)
                    except TimeoutError as error:  # there was no room
                        take([(index, error)], requests)
                    index += 1
                elif not ready:
                    if not requests:
                        return
                    take(batches.get(), requests)
        finally:
            if requests:
                engine.abandon(list(requests.values()))

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


def _frame(data: object) -> bytes:
    """One frame as bytes; what may change under our hands is copied."""
    if type(data) is bytes:
        return data
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a job's body is bytes, not {type(data).__name__}")


def _frames(frames: Sequence[bytes]) -> tuple[bytes, ...]:
    if isinstance(frames, bytes | bytearray | memoryview | str):
        raise TypeError("a body of several frames is a sequence of bytes; for one frame use call or submit")
    body = tuple(map(_frame, frames))
    if not body:
        raise ValueError("a job's body has at least one frame")
    return body


def _nanoseconds(seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if not 0 < seconds * 1e9 < float("inf"):
        raise ValueError(f"timeout must be a number of seconds above 0, or None for no limit; not {seconds!r}")
    return max(1, round(seconds * 1e9))
