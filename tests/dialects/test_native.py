"""The native dialect, byte for byte: what docs/protocol.md shows is what the code says, and the other way round.

The document is read as a machine would read it. Its tables of fields must be the structs of `relet.messages`, its
tables of codes must hold every code in the code, and each of its `frames` blocks must be what the dialect encodes for
the header that is written beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relet.dialects import native
from relet.messages import VERSION, FromClient, FromWorker, Heartbeat

READERS: tuple[Callable[[int, bytes], Any], ...] = (
    native.from_worker,
    native.from_client,
    native.to_worker,
    native.to_client,
)


def code_of(read: Callable[[int, bytes], Any], header: bytes, version: int = VERSION) -> str:
    """The code with which a header is refused; "" where it is read."""
    try:
        read(version, header)
    except native.BadMessage as bad:
        error = bad.error
    else:
        return ""
    assert 0 < len(error.text) <= 600
    assert len(native.encode(error)) < 2_000
    return error.code


# --- What nobody should send


HEARTBEAT = b"\xa1t\xa9heartbeat"
UNREADABLE = {
    "nothing": b"",
    "no-msgpack": b"\xc1",
    "no-map": b"\x91\xa1t",
    "deep-list": b"\x82" + HEARTBEAT + b"\xa1x" + b"\x91" * 60_000 + b"\xc0",
    "deep-map": b"\x82" + HEARTBEAT + b"\xa1x" + b"\x81\xa1a" * 20_000 + b"\xc0",
    "deep-before-its-name": b"\x82\xa1x" + b"\x91" * 60_000 + b"\xc0" + HEARTBEAT,
    "no-utf8": b"\x82\xa1t\xa5hello\xa5agent\xa2\xff\xfe",
    "no-utf8-name": b"\x81\xa1t\xa2\xff\xfe",
    "surrogate": b"\x82\xa1t\xa5hello\xa5agent\xa3\xed\xa0\x80",
    "claims-four-billion": b"\x82\xa1t\xa5hello\xa8features\xdd\xff\xff\xff\xff",
    "map-of-four-billion": b"\xdf\xff\xff\xff\xff",
    "key-no-text": b"\x82" + HEARTBEAT + b"\x01\x02",
    "more-behind": b"\x81" + HEARTBEAT + b"\xc0",
    "name-is-bytes": b"\x81\xa1t\xc4\x05hello",
}


@pytest.mark.parametrize("header", UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_bytes_that_are_no_header_are_refused(read: Callable[[int, bytes], Any], header: bytes) -> None:
    """`bad_header`: whatever msgspec raises for it, also what is no DecodeError: no UTF-8, a nesting too deep."""
    assert code_of(read, header) in ("bad_header", "unknown_command" if b"hello" in header else "bad_header")


@pytest.mark.parametrize(
    ("read", "header"),
    [
        (native.from_worker, {"t": "ask", "credit": -1}),
        (native.from_worker, {"t": "ask", "started": 1 << 63}),
        (native.from_worker, {"t": "ask", "credit": 1.0}),
        (native.from_worker, {"t": "ask", "credit": True}),
        (native.from_worker, {"t": "complete", "token": b"t", "n": 0}),
        (native.from_worker, {"t": "complete", "token": "t", "n": 1}),
        (native.from_worker, {"t": "complete", "token": b"t"}),
        (native.from_worker, {"t": "fail", "token": b"t", "n": 1, "retry_ms": -1}),
        (native.from_worker, {"t": "extend", "token": b"t", "n": 1}),
        (native.from_client, {"t": "submit", "id": b"i" * 16, "age_ms": -1}),
        (native.from_client, {"t": "submit", "id": b"i" * 16, "run_ms": (1 << 64) - 1}),
        (native.from_client, {"t": "submit", "id": b"i" * 16, "late": "never"}),
        (native.from_client, {"t": "submit", "jobs": [{"frames": 1}]}),
        (native.from_client, {"t": "submit", "jobs": [{"id": b"i" * 16, "frames": -1}]}),
        (native.from_client, {"t": "heartbeat", "received": -1}),
    ],
    ids=str,
)
def test_a_field_of_the_wrong_type_or_value_is_refused(
    read: Callable[[int, bytes], Any], header: dict[str, Any]
) -> None:
    """`bad_header`: *int* is 0 or more and below 2^63, what is counted begins at 1, and a default is no excuse."""
    assert code_of(read, msgpack.packb(header)) == "bad_header"


def test_numbers_may_be_as_large_as_the_document_says() -> None:
    """*int* goes up to 2^63 - 1."""
    largest = (1 << 63) - 1
    said = native.from_worker(VERSION, msgpack.packb({"t": "ask", "credit": largest, "started": largest}))
    assert (said.credit, said.started) == (largest, largest)  # type: ignore[union-attr]


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused_whatever_it_says(version: int) -> None:
    """Versions: `bad_version`; there is none but 1."""
    for read in READERS:
        assert code_of(read, native.encode(Heartbeat()), version) == "bad_version"
        assert code_of(read, b"\xc1", version) == "bad_version"


def test_a_header_has_a_largest_size() -> None:
    """Header: at most 64 KiB from a peer; a broker's may be longer, because it lists what it was asked."""
    word: dict[str, Any] = {"t": "heartbeat", "filling": b"x" * 65_000}
    word["filling"] = b"x" * (65_000 + 65_536 - len(msgpack.packb(word)))
    assert [code_of(read, msgpack.packb(word)) for read in READERS] == [""] * 4
    word["filling"] += b"x"
    codes = [code_of(read, msgpack.packb(word)) for read in READERS]
    assert codes == ["bad_header", "bad_header", "", ""]


def test_unknown_keys_are_ignored_and_unknown_names_are_told() -> None:
    """Versions: keys that nobody knows say nothing; a message that nobody knows is `unknown_command`."""
    header = msgpack.packb({"t": "heartbeat", "new": [1, {"x": None}], "even newer": msgpack.ExtType(5, b"x")})
    assert [read(VERSION, header) for read in READERS] == [Heartbeat()] * 4
    assert [code_of(read, msgpack.packb({"t": "sing", "credit": 1})) for read in READERS] == ["unknown_command"] * 4


WORDS = sorted(
    {str(it.__struct_config__.tag) for it in (*FromWorker.__args__, *FromClient.__args__)}  # type: ignore[attr-defined]
)
FIELDS = sorted(
    {name for it in (*FromWorker.__args__, *FromClient.__args__) for name in it.__struct_fields__}  # type: ignore[attr-defined]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=70)
    | st.text(max_size=20)
    | st.sampled_from(["any", "current", "finish", "cancel", "default"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
HEADERS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), VALUES, max_size=6).flatmap(
    lambda fields: st.sampled_from(WORDS).map(lambda word: {"t": word, **fields})
)
"""Maps that are nearly messages."""
BYTES = HEADERS.map(lambda header: bytes(msgpack.packb(header))).flatmap(
    lambda header: st.just(header) | st.integers(0, len(header)).map(lambda end: header[:end]) | st.binary(max_size=300)
)
"""The same in bytes, some cut short, and noise."""


@given(BYTES, st.integers(0, 255) | st.just(VERSION))
@example(b"\x80", 1)
def test_any_bytes_are_read_or_refused(header: bytes, version: int) -> None:
    """Nothing that a peer can send raises anything but `BadMessage`, and what is read can be said again."""
    for read in READERS:
        code = code_of(read, header, version)
        assert code in ("", "bad_version", "bad_header", "unknown_command")
        if not code:
            said = read(version, header)
            assert repr(read(VERSION, native.encode(said))) == repr(said)  # a NaN equals nothing
