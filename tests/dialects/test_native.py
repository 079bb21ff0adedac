"""The native dialect, byte for byte: what docs/protocol.md shows is what the code says, and the other way round.

The document is read as a machine would read it. Its tables of fields must be the structs of `relet.messages`, its
tables of codes must hold every code in the code, and each of its `frames` blocks must be what the dialect encodes for
the header that is written beside it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relet import desk, messages
from relet.core import administration, dead, queues, reports, requests
from relet.core.job import TABLE, Cause, Reason, State
from relet.core.why import Why
from relet.dialects import d2010, native
from relet.messages import (
    MAGIC,
    SIGNATURE,
    VERSION,
    Admitted,
    BackoffMs,
    Entry,
    Error,
    FromClient,
    FromWorker,
    Heartbeat,
    Item,
    ToClient,
    ToWorker,
)
from relet.orders import DeadLine, FromAdmin, Order, QueueLine, ToAdmin

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text()
OLD, _, NATIVE = DOCUMENT.partition("# The native dialect")

READERS: tuple[Callable[[int, bytes], Any], ...] = (
    native.from_worker,
    native.from_client,
    native.to_worker,
    native.to_client,
)
ALL_READERS = (*READERS, native.from_admin, native.to_admin)


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
@pytest.mark.parametrize("read", ALL_READERS, ids=lambda read: read.__name__)
def test_bytes_that_are_no_header_are_refused(read: Callable[[int, bytes], Any], header: bytes) -> None:
    """`bad_header`: whatever msgspec raises for it, also what is no DecodeError: no UTF-8, a nesting too deep."""
    unknown = "wrong_endpoint" if read is native.from_admin else "unknown_command"
    assert code_of(read, header) in ("bad_header", unknown if b"hello" in header else "bad_header")


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
        (native.from_client, {"t": "submit", "id": b"i" * 16, "errors_max": -1}),
        (native.from_client, {"t": "submit", "id": b"i" * 16, "backoff": {"curve": "fixed"}}),
        (native.from_client, {"t": "submit", "id": b"i" * 16, "backoff": {"curve": "steep", "base_ms": 1}}),
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
    for read in ALL_READERS:
        code = code_of(read, header, version)
        assert code in ("", "bad_version", "bad_header", "unknown_command", "wrong_endpoint")
        if not code:
            said = read(version, header)
            assert repr(read(VERSION, native.encode(said))) == repr(said)  # a NaN equals nothing


# --- The document: its test vectors


class Vector(NamedTuple):
    """One `frames` block."""

    title: str
    words: str
    """The header in words, where the block has it."""
    frames: list[bytes]


def vectors(text: str) -> list[Vector]:
    """The `frames` blocks of a document."""
    found = []
    for title, block in re.findall(r"```frames ([^\n]*)\n(.*?)```", text, re.DOTALL):
        lines = block.splitlines()
        words = "".join(line[2:] for line in lines if line.startswith("# "))
        frames = [bytes.fromhex(line.replace("(empty)", "")) for line in lines if not line.startswith("#")]
        found.append(Vector(title, words, frames))
    return found


def meant(words: str) -> Any:
    """What a header in words stands for: JSON, with `h'...'` for bytes and `nil`."""
    plain = re.sub(r"h'([0-9a-f]*)'", r'"<bytes>\1"', words)
    return _with_bytes(json.loads(re.sub(r": nil\b", ": null", plain)))


def _with_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_bytes(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_bytes(each) for each in value]
    return bytes.fromhex(value[7:]) if isinstance(value, str) and value.startswith("<bytes>") else value


SPEAKERS: dict[str, tuple[Callable[[int, bytes], Any], Any]] = {
    "worker says": (native.from_worker, FromWorker),
    "client says": (native.from_client, FromClient),
    "broker to worker": (native.to_worker, ToWorker),
    "broker to client": (native.to_client, ToClient),
    "administrator says": (native.from_admin, FromAdmin),
    "broker to administrator": (native.to_admin, ToAdmin),
}
VECTORS = vectors(NATIVE)
GOOD = [it for it in VECTORS if "refused as" not in it.title]
BAD = [it for it in VECTORS if "refused as" in it.title]


def cut(frames: list[bytes]) -> tuple[list[bytes], int, bytes, list[bytes]]:
    """(path, version, header, body), as the pump cuts a native message."""
    at = next(i for i, frame in enumerate(frames) if len(frame) == len(SIGNATURE) and frame.startswith(MAGIC))
    return frames[:at], frames[at][-1], frames[at + 1], frames[at + 2 :]


@pytest.mark.parametrize("vector", GOOD, ids=lambda it: it.title)
def test_a_message_of_the_document_is_read_and_written_so(vector: Vector) -> None:
    """Each `frames` block is what its words say, and the dialect's own encoding of that, and reads back as such."""
    speaker, _, _ = vector.title.partition(": ")
    read, _ = SPEAKERS[speaker]
    _, version, header, _ = cut(vector.frames)
    assert version == VERSION
    words = meant(vector.words)
    assert msgpack.unpackb(header) == words
    said = read(version, header)
    assert said.__struct_config__.tag == words["t"]
    assert read(version, native.encode(said)) == said
    known = {key: value for key, value in words.items() if key == "t" or key in said.__struct_fields__}
    assert msgpack.unpackb(native.encode(said)) == known  # what it says is all there, and no default is spelt out
    if "another time" not in vector.title:
        assert known == words


@pytest.mark.parametrize("vector", BAD, ids=lambda it: it.title)
def test_a_message_of_the_document_is_refused_so(vector: Vector) -> None:
    """Blocks of what must not be sent are refused with the code in their title."""
    speaker, _, title = vector.title.partition(": ")
    _, version, header, _ = cut(vector.frames)
    assert msgpack.unpackb(header) == meant(vector.words)
    assert code_of(SPEAKERS[speaker][0], header, version) == title.removeprefix("refused as ").split(",")[0]


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_every_message_has_a_vector(speaker: str) -> None:
    """Each struct of `messages.FromWorker` ... is shown in hex at least once, by whoever says it."""
    shown = {meant(it.words)["t"] for it in GOOD if it.title.startswith(speaker)}
    structs = {str(it.__struct_config__.tag) for it in SPEAKERS[speaker][1].__args__}
    if speaker == "broker to client":
        structs.discard("heartbeat")  # the same frame as to a worker
    if speaker in ("broker to worker", "broker to administrator"):
        for each in (shown, structs):
            each.discard("error")  # the same frame as to a client
    assert shown == structs


def test_the_vectors_of_2010_are_messages_of_2010() -> None:
    """What is shown of the dialect of 2010 has its delimiter where the document says, and none of ours before it."""
    shown = {it.title: it.frames for it in vectors(OLD)}
    assert len(shown) == 7
    for title, frames in shown.items():
        if title == "answer":
            assert d2010.answers([tuple(frames)], frames_max=10, bytes_max=100) == ([(frames[0], b"done")], 0)
            assert len(frames[0]) == 16
        else:
            path = frames[: frames.index(b"")]
            assert path == ([b"\7"] if "correlation" in title else [])
    assert shown["failure of the request with correlation"][1:] == [b"", b""]


# --- The document: its tables


def sections(text: str) -> Iterator[tuple[str, str]]:
    """(heading, what stands below it until the next heading)."""
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def rows(text: str, head: str) -> list[list[str]]:
    """The rows of the first table whose head begins so, cell by cell."""
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith(head)), None)
    if begin is None:
        return []
    found = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def words_in(cell: str) -> list[str]:
    """What stands in code marks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def fields_of(text: str) -> dict[str, tuple[str, str]]:
    """Field -> (type, default) in a section; fields of maps in a list are called `list.field`."""
    found, within = {}, ""
    for names, kind, default, *_ in rows(text, "| field |"):
        for name in words_in(names):
            if not name.startswith("."):
                within = name
            found[within + name if name.startswith(".") else name] = kind, default
    return found


SHARED = ("credit", "started")
NESTED: dict[tuple[str, str], Any] = {
    ("submit", "jobs"): Item,
    ("submit", "backoff"): BackoffMs,
    ("submitted", "jobs"): Admitted,
    ("outcome", "ledger"): Entry,
    ("job", "ledger"): Entry,
    ("queues", "queues"): QueueLine,
    ("queue", "queue"): QueueLine,
    ("dead", "letters"): DeadLine,
    ("dead_job", "letter"): DeadLine,
    ("dead_job", "ledger"): Entry,
}
DIRECTIONS = {"worker": (FromWorker,), "client": (FromClient,), "broker": (ToWorker, ToClient)} | {
    "administrator": (FromAdmin,),
    "broker to administrator": (ToAdmin,),
}
BY_HEADING: dict[tuple[str, str], Any] = {
    (str(it.__struct_config__.tag), direction): it
    for direction, unions in DIRECTIONS.items()
    for union in unions
    for it in union.__args__
    if it is not Heartbeat and (it is not Error or direction == "broker")
} | {("heartbeat", "both ways"): Heartbeat}
SECTIONS = dict(sections(NATIVE))


def expected_fields(struct: Any) -> dict[str, Any]:
    """Field -> its default (`msgspec.NODEFAULT`: none) of a struct, and of the structs in its lists."""
    found = {}
    for field in msgspec.structs.fields(struct):
        if field.name in SHARED and struct is not Heartbeat:
            continue
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        found[field.encode_name] = default
        inner = NESTED.get((str(struct.__struct_config__.tag), field.name))
        if inner is not None and not issubclass(struct, Order):  # which names a queue, where its answer shows it
            found.update({f"{field.name}.{name}": each for name, each in expected_fields(inner).items()})
    return found


def default_in(cell: str) -> Any:
    """The value that a default cell stands for."""
    return {"": msgspec.NODEFAULT, "none": (), "empty": b"", "nil": None, "true": True, "false": False}.get(
        cell, json.loads(cell.strip("`")) if re.match(r"[`\d]", cell) else cell
    )


@pytest.mark.parametrize("word", BY_HEADING, ids="-".join)
def test_every_message_has_its_table(word: tuple[str, str]) -> None:
    """A section for each struct, with exactly its fields, and their defaults; what has none is required."""
    heading = f"Message: `{word[0]}` ({word[1]})"
    assert heading in SECTIONS, f"docs/protocol.md has no section {heading!r}"
    shown = {name: default_in(default) for name, (_, default) in fields_of(SECTIONS[heading]).items()}
    expected = expected_fields(BY_HEADING[word])
    assert set(shown) == set(expected)
    for name, default in expected.items():
        said = tuple(shown[name]) if isinstance(shown[name], list) else shown[name]
        assert said == default, f"{heading}: the default of {name} is {default!r}"


def test_no_message_is_shown_that_is_not_there() -> None:
    """Each section that describes a message is of a struct in the code."""
    shown = {heading for heading in SECTIONS if heading.startswith("Message:")}
    assert shown == {f"Message: `{word}` ({direction})" for word, direction in BY_HEADING}


def test_the_numbers_of_a_worker_are_in_all_that_may_carry_them() -> None:
    """`credit` and `started` stand in a table of their own, for all that workers say but `hello` and `goodbye`."""
    shared = fields_of(SECTIONS["Numbers that every message of a worker may carry"])
    assert tuple(shared) == SHARED
    without = {
        str(it.__struct_config__.tag) for it in FromWorker.__args__ if not set(SHARED) <= set(it.__struct_fields__)
    }
    assert without == {"hello", "goodbye"}


# --- The document: its words


def codes_in_the_code() -> set[str]:
    """Every code: what is given as `code=`, and the constants that are named for one where codes are given."""
    found: set[str] = set()
    lib = ROOT / "lib" / "relet"
    for path in (lib / "core" / "requests.py", lib / "core" / "reports.py", lib / "conversation.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                found.add(str(node.value.value))
    for name in ("messages", "dialects/native", "core/queues", "core/requests", "core/reports"):
        for line in (lib / f"{name}.py").read_text().splitlines():
            constant = re.match(r'([A-Z_]+): Final = "([a-z_]+)"$', line)
            if constant and constant[1].lower() == constant[2]:
                found.add(constant[2])
    return found | {"no_store", "exists"} | {administration.UNKNOWN_JOB, dead.REDRIVEN, "too_many_peers", "too_large"}


def test_every_code_stands_in_a_table() -> None:
    """`error`, `submitted` and `refused`: a code that a peer may meet is explained, and no other."""
    tables = {
        kind: {words_in(row[0])[0] for row in rows(NATIVE, f"| `{kind}` code |")}
        for kind in ("error", "submitted", "refused")
    }
    assert all(tables.values())
    assert set().union(*tables.values()) == codes_in_the_code()
    assert tables["refused"] == {reports.NOT_OPEN, reports.SUPERSEDED, reports.CEILING, reports.BAD_REPORT, "too_large"}
    submitted = (messages.BUSY, requests.DRAINING, messages.TOO_LARGE, requests.BAD_ID, requests.BAD_REQUEST)
    of_queues = (messages.UNKNOWN_QUEUE, queues.TOO_MANY_QUEUES, requests.QUEUE_PAUSED, requests.QUEUE_FULL)
    others = (requests.CONFLICT, requests.EXPIRED, requests.DUPLICATE, requests.TOO_MANY_ASKERS)
    assert tables["submitted"] == {*submitted, *of_queues, *others, requests.DISK_FULL}


def test_every_order_is_a_verb_and_has_an_id() -> None:
    """What administrators may say is what the table of verbs carries out; the id is the same in all."""
    assert {*desk.VERBS, *desk.OF_STORE} == set(FromAdmin.__args__)
    assert all(issubclass(it, Order) for it in desk.VERBS)
    assert all("id" in it.__struct_fields__ for it in ToAdmin.__args__)


def test_every_why_is_explained() -> None:
    """In the order in which they are looked at."""
    assert [words_in(row[0])[0] for row in rows(NATIVE, "| why code |")] == [it.value for it in Why]


def test_every_reason_cause_state_and_feature_is_named() -> None:
    """What an outcome, a ledger, a `state` and a `cancel` may say, and the features, as the code has them."""
    assert {words_in(row[0])[0] for row in rows(NATIVE, "| reason |")} == {it.value for it in Reason}
    causes = next(row[3] for row in rows(SECTIONS["Message: `outcome` (broker)"], "| field |") if row[0] == "`.cause`")
    assert set(words_in(causes)) == {it.value for it in Cause}
    states = next(row[3] for row in rows(SECTIONS["Message: `state` (broker)"], "| field |") if row[0] == "`state`")
    assert set(words_in(states)) == {it.name.lower() for it in State} | {"expired", "unknown"}
    features = {words_in(row[0])[0] for row in rows(NATIVE, "| feature |")}
    assert features == {*reports.FEATURES, *requests.FEATURES}
    cancels = next(row[3] for row in rows(SECTIONS["Message: `cancel` (broker)"], "| field |") if row[0] == "`reason`")
    machine = (ROOT / "lib" / "relet" / "core" / "machine.py").read_text()
    said = set(re.findall(r'self\.leave\(job, "(\w+)"\)', machine))
    said |= {Cause.EXPIRED.value, Cause.SILENT.value, Cause.DEADLINE.value}
    recalls = (ROOT / "lib" / "relet" / "core" / "recalls.py").read_text()
    said |= set(re.findall(r'reports\.cancel\(job\.holder, job\.token, "(\w+)"\)', recalls))
    assert set(words_in(cancels)) == said


def test_limits_and_numbers_of_the_document_are_those_of_the_code() -> None:
    """The bounds that the page names in figures, and what `limits` of a welcome holds."""
    assert f"`{SIGNATURE.hex(' ')}`" in NATIVE
    assert (native.HEADER_BYTES_MAX, messages.INCARNATION_BYTES) == (64 * 1024, 16)
    assert (messages.REQUEST_ID_BYTES_MIN, messages.REQUEST_ID_BYTES_MAX) == (16, 64)
    assert (messages.QUEUE_CHARACTERS_MAX, messages.KEY_CHARACTERS_MAX, messages.KIND_CHARACTERS_MAX) == (200, 200, 100)
    limits = next(row for row in rows(SECTIONS["Message: `welcome` (broker)"], "| field |") if row[0] == "`limits`")
    shown = {
        meant(it.words)["t"]: meant(it.words)["limits"] for it in GOOD if it.title.startswith("broker to worker: wel")
    }
    assert set(words_in(limits[3])) == set(shown["welcome"])


def test_the_picture_of_a_job_names_every_state() -> None:
    """The life of a job, natively: each state of the table is in the picture."""
    picture = SECTIONS["The life of a job, natively"]
    assert {row.state.name for row in TABLE} | {row.to.name for row in TABLE} == set(re.findall(r"[A-Z]{4,}", picture))
