"""The door of both clients: what programs say is checked here, and put into the words of requests.

Nothing below it looks at an argument again, and nothing here waits: how requests reach the broker, and outcomes those
who wait for them, is what the two differ in.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from types import EllipsisType
from typing import Any, Final, TypeAlias

import zmq

from relet._version import __version__
from relet.client.peer import USUAL, Body, Peer
from relet.client.peer2010 import CORRELATION_SECRET_BYTES, Peer2010, correlations
from relet.client.peer_native import NativePeer, request_ids
from relet.client.terms import REQUEST_ID_BYTES, Asking, Kind, Terms
from relet.client.turns import NO_ROOM, Room
from relet.client.waiting import Channel, Mapped, OnPartial, OnProgress, Waiter
from relet.messages import REQUEST_ID_BYTES_MAX, REQUEST_ID_BYTES_MIN
from relet.transport.endpoints import check_text, parse_connect
from relet.transport.link import DIALECT_2010, DIALECT_NATIVE

REQUESTS_OPEN_MAX: Final = 100_000
"""Requests of one client open at a time, because each is kept until its answer comes: 0.3 KiB, 1.8 with a future."""
REQUESTS_OPEN_BYTES_MAX: Final = 1 << 30
"""Bytes of their bodies together, because they are kept to be sent again. One request alone may be larger."""
TERMS_KNOWN_MAX: Final = 100
"""Terms that a client need not spell again; 5 KiB each at most, as a rule 0.5."""
WINDOW_DEFAULT: Final = 1_000
JOB_ID_BYTES: Final = 16

USUAL_TERMS: Final = Terms()

Timeout: TypeAlias = "float | EllipsisType | None"
"""Seconds; None: for ever; `...`: as the client was told."""

Asked: TypeAlias = tuple[int | None, Asking, bytes]
"""What a request is made of beside its body: nanoseconds, what is wanted, and the name, b"" where there is none yet."""


class Door:
    """What one client takes, and how it is asked for. Arguments and errors are those of `Client`."""

    def __init__(
        self,
        clients: str,
        *,
        dialect: str,
        timeout: float | None,
        resend: bool,
        terms: Terms,
        context: zmq.Context[Any] | None,
        requests_open_max: int,
        requests_open_bytes_max: int,
        body_bytes_max: int,
    ) -> None:
        _check_count("requests_open_max", requests_open_max)
        _check_count("requests_open_bytes_max", requests_open_bytes_max)
        _check_count("body_bytes_max", body_bytes_max)
        check_text("clients", clients)
        self.endpoint = parse_connect(clients)
        if self.endpoint.scheme == "inproc" and context is None:
            raise ValueError("inproc:// needs the context of the broker: pass it as context=...")
        self.context = context
        self.room = Room(requests_open_max, requests_open_bytes_max)
        self._resend = resend
        self._is_native = _is_native(dialect)
        self._terms = terms
        self._check_terms(terms)
        self._job = USUAL if terms == USUAL_TERMS else Asking(Kind.JOB, terms)
        self._lately: dict[int, tuple[Terms, Asking]] = {}
        """How jobs on some terms are asked for, by the identity of the terms: programs have few, and use them often."""
        self._timeout_ns = _nanoseconds(timeout)
        self._body_bytes_max = body_bytes_max

    def new_peer(self) -> Peer[Waiter]:
        """What speaks the dialect."""
        url = self.endpoint.url
        if self._is_native:
            return NativePeer(request_ids(), resend=self._resend, agent=f"relet {__version__}", endpoint=url)
        return Peer2010(correlations(os.urandom(CORRELATION_SECRET_BYTES)), resend=self._resend, endpoint=url)

    def job(
        self,
        timeout: Timeout,
        terms: Terms | None,
        headers: Mapping[str, str] | None,
        request_id: bytes | None = None,
    ) -> Asked:
        """A job, and its answer."""
        return self._in_nanoseconds(timeout), self._asking(terms, headers), self._id(request_id)

    def future_job(
        self,
        timeout: Timeout,
        terms: Terms | None,
        headers: Mapping[str, str] | None,
        request_id: bytes | None,
        on_partial: OnPartial | None,
        on_progress: OnProgress | None,
    ) -> Asked:
        """The same, for who gets a future at once: it has its name from the beginning, where the dialect has names."""
        follow = on_partial is not None or on_progress is not None
        if follow:
            self._need_native("on_partial and on_progress")
        asking = self._asking(terms, headers, follow=follow)
        name = self._id(request_id)
        if not name and self._is_native:
            name = os.urandom(REQUEST_ID_BYTES)
        return self._in_nanoseconds(timeout), asking, name

    def question(self, kind: Kind, request_id: bytes | None, job_id: bytes | None, timeout: Timeout) -> Asked:
        """A question about a job."""
        self._need_native(kind.value)
        if (request_id is None) == (job_id is None):
            raise ValueError("say which job: request_id or job_id, and not both")
        if job_id is None:
            return self._in_nanoseconds(timeout), Asking(kind), self._id(request_id)
        name = _as_bytes(job_id, "a job_id")
        if len(name) != JOB_ID_BYTES:
            raise ValueError(f"a job_id has {JOB_ID_BYTES} bytes, not {len(name)}")
        return self._in_nanoseconds(timeout), Asking(kind, by_job=True), name

    def handed_over(
        self,
        datas: Iterable[bytes | Sequence[bytes]],
        timeout: Timeout,
        terms: Terms | None,
        headers: Mapping[str, str] | None,
        request_ids: Sequence[bytes] | None,
        channel: Channel,
    ) -> tuple[list[Any], list[Mapped]]:
        """Jobs that are only handed over: what came of each, as far as that is known before any is sent, and the
        requests, whose outcomes come through `channel`.
        """
        self._need_native("enqueue")
        timeout_ns = self._in_nanoseconds(timeout)
        if terms is not None:
            self._check_terms(terms)
        asking = Asking(Kind.ENQUEUE, self._terms if terms is None else terms, headers)
        items = list(datas)
        names: Sequence[bytes | None] = [None] * len(items) if request_ids is None else request_ids
        if len(names) != len(items):
            raise ValueError(f"{len(items)} jobs need as many request_ids, not {len(names)}")
        outcomes: list[Any] = [TimeoutError(NO_ROOM)] * len(items)
        requests: list[Mapped] = []
        used: set[bytes] = set()
        for index, (data, request_id) in enumerate(zip(items, names, strict=True)):
            try:
                name = self._id(request_id)
                body = self.body(data)
            except (TypeError, ValueError) as error:
                outcomes[index] = error
                continue
            if name in used:
                raise ValueError(f"request_ids has {name.hex()} twice: each job needs an id of its own")
            if name:
                used.add(name)
            requests.append(Mapped(body, timeout_ns, asking, channel, index, name))
        return outcomes, requests

    def frame(self, data: object) -> bytes:
        """A body of one frame; what may change under our hands is copied."""
        frame = data if type(data) is bytes else _as_bytes(data, "a job's body")
        if len(frame) > self._body_bytes_max:
            raise self._too_large(len(frame))
        return frame

    def frames(self, frames: Sequence[bytes]) -> tuple[bytes, ...]:
        """A body of several."""
        if isinstance(frames, bytes | bytearray | memoryview | str):
            raise TypeError("a body of several frames is a sequence of bytes; for one frame use call or submit")
        if not isinstance(frames, Iterable):
            raise TypeError(f"a job's body is bytes, or a sequence of them, not {type(frames).__name__}")
        body = tuple(map(self.frame, frames))
        if not body:
            raise ValueError("a job's body has at least one frame")
        if sum(map(len, body)) > self._body_bytes_max:
            raise self._too_large(sum(map(len, body)))
        return body

    def body(self, data: bytes | Sequence[bytes]) -> Body:
        """A body of one frame or several."""
        return self.frame(data) if isinstance(data, bytes | bytearray | memoryview | str) else self.frames(data)

    def _too_large(self, size: int) -> ValueError:
        return ValueError(
            f"a body of {size:,} bytes is above body_bytes_max ({self._body_bytes_max:,}): "
            "send less, or raise the broker's --body-bytes-max and the client's"
        )

    def _in_nanoseconds(self, timeout: Timeout) -> int | None:
        return self._timeout_ns if timeout is ... else _nanoseconds(timeout)

    def _asking(self, terms: Terms | None, headers: Mapping[str, str] | None, *, follow: bool = False) -> Asking:
        """How a job on these terms is asked for."""
        if not headers and not follow:
            if terms is None:
                return self._job
            known = self._lately.get(id(terms))
            if known is not None:
                return known[1]
            self._check_terms(terms)
            if len(self._lately) >= TERMS_KNOWN_MAX:
                self._lately.clear()
            asking = Asking(Kind.JOB, terms)
            self._lately[id(terms)] = terms, asking
            return asking
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


def check_window(window: int) -> None:
    """Raise ValueError where a `map` could have no job under way."""
    if window < 1:
        raise ValueError("window must be at least 1")


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


def _as_bytes(data: object, what: str) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    encode = ": encode the text" if isinstance(data, str) else ""
    raise TypeError(f"{what} is bytes, not {type(data).__name__}{encode}")


def _nanoseconds(seconds: Any) -> int | None:
    if seconds is None:
        return None
    if not isinstance(seconds, Real):
        raise TypeError(f"timeout is a number of seconds, or None for no limit, not {type(seconds).__name__}")
    if not 0 < float(seconds) * 1e9 < float("inf"):
        raise ValueError(f"timeout must be a number of seconds above 0, or None for no limit; not {seconds!r}")
    return max(1, round(float(seconds) * 1e9))
