"""Taste, enforced: which room may import which, what `core` may know, what things are called, docs in step with code.

Each check reads the source and returns complaints; a complaint says what to do instead. The checks are tried on bad
examples at the end of this file: a check that cannot fail shows nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import relet
from relet.core.job import TABLE
from relet.core.limits import Limits
from relet.events import Event
from relet.log import level_of

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT / "lib" / "relet"
TESTS = ROOT / "tests"
DOCS = ROOT / "docs"

ROOMS = {
    "messages": 0,
    "orders": 0,
    "durations": 0,
    "events": 0,
    "_version": 0,
    "compiled": 0,
    "core": 1,
    "dialects": 2,
    "store": 2,
    "transport": 2,
    "log": 2,
    "bodies": 3,
    "conversation": 3,
    "desk": 3,
    "server": 3,
    "broker": 3,
    "client": 3,
    "worker": 3,
    "devices": 3,
    "sockets": 3,
    "tasks": 4,
    "testing": 4,
    "cli": 4,
    "__init__": 4,
    "__main__": 5,
}
"""Imports go from a higher number to a lower one. Of one number, nobody knows the other, but for `TOGETHER`."""

TOGETHER = {
    ("orders", "messages"),
    ("broker", "server"),
    ("server", "conversation"),
    ("server", "desk"),
    ("server", "bodies"),
    ("desk", "bodies"),
    ("desk", "conversation"),
    ("cli", "tasks"),
}
"""(who, whom): one vocabulary on top of the other, and the program's loop around the loop that the simulation turns as
well, around its halves.
"""

CORE_MAY_IMPORT = {
    "__future__",
    "collections",
    "enum",
    "hashlib",
    "heapq",
    "itertools",
    "functools",
    "operator",
    "typing",
    "bisect",
    "difflib",
    "weakref",
    "abc",
    "msgspec",
    "mypy_extensions",  # for types only: what is said to the compiler
    "relet",
}

FORBIDDEN_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "manager",
    "managers",
    "types",
    "misc",
    "tools",
    "base",
}

PAST = {"lost", "stopped", "spent", "heard", "told", "held", "begun", "gone", "sent", "redriven"}
"""Past tense that does not end with -ed."""
REACHED = {
    "broker_ready": "a state that was reached; `broker_started` would be said before it serves",
    "broker_draining": "a state that was reached, and lasts",
    "broker_deaf_to_deaths": "a state that was found",
    "broker_unreachable": "a state that was found",
    "reply_unroutable": "a state that was found",
    "answered_again": "a past tense, and how",
    "outcome_forgotten": "a past tense that does not end with -ed",
}
"""Event names that are no past tense, each with its reason."""


def sources(folder: Path = LIB) -> Iterator[Path]:
    """The Python files below a folder."""
    return (path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts)


def imports(tree: ast.AST) -> Iterator[str]:
    """The full names of all modules that are imported, wherever in the file, those for types only included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """The room of `relet.X.Y`; None for what is not ours."""
    parts = module.split(".")
    if parts[0] != "relet":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"


def wrong_direction(room: str, text: str) -> list[str]:
    """Imports of a file in `room` that go the wrong way."""
    complaints = []
    for module in imports(ast.parse(text)):
        other = room_of(module)
        if other is None or other == room or (room, other) in TOGETHER:
            continue
        if room == "__init__" or other == "_version":
            continue
        if room == "cli" and other == "__init__":
            continue
        if ROOMS[other] >= ROOMS[room]:
            complaints.append(
                f"{room} imports {module}: imports go cli -> server, worker, client -> dialects, store, transport ->"
                " core -> messages. Move what both need down into the lower room, or pass it in as an argument."
            )
    return complaints


def unknown_to_core(text: str) -> list[str]:
    """Imports that `core` must not have."""
    return [
        f"core imports {module}: it reads no clock, socket, file, random number or environment. Take the value as an"
        " argument (`now`, an iterator of tokens), or let the shell do it."
        for module in imports(ast.parse(text))
        if module.split(".")[0] not in CORE_MAY_IMPORT
    ]


def bad_names(path: Path) -> list[str]:
    """Names of files and folders that say nothing."""
    return [
        f"{path}: `{part}` says nothing about what is in it. Name the file for what it does, or put each piece where it"
        " is used."
        for part in (*path.parts[:-1], path.stem)
        if part in FORBIDDEN_NAMES
    ]


def no_theory(path: Path, text: str) -> list[str]:
    """A file that does not begin with what it is about."""
    if ast.get_docstring(ast.parse(text)):
        return []
    return [f"{path}: a file begins with its theory. Say in plain prose what it is for and what idea it follows."]


def bad_events(names: dict[str, str]) -> list[str]:
    """Names of events (member -> value) that break the rules."""
    complaints = []
    for member, value in names.items():
        last = value.split("_")[-1]
        if value != member.lower():
            complaints.append(f"{member} is called {value!r}: an event's value is its name in small letters.")
        if not (last.endswith("ed") or last in PAST or value in REACHED):
            complaints.append(
                f"{value}: an event is named for what has happened, in the past tense (`job_discarded`, not"
                " `job_discarding` or `discard_job`). A state that was reached goes into REACHED, with its reason."
            )
    return complaints


def undocumented(text: str, class_name: str) -> list[str]:
    """Members of a class that are not followed by a string that says what they are."""
    complaints = []
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.ClassDef) and node.name == class_name):
            continue
        for declared, following in zip(node.body, [*node.body[1:], None], strict=True):
            target = declared.targets[0] if isinstance(declared, ast.Assign) else getattr(declared, "target", None)
            if not isinstance(target, ast.Name):
                continue
            value = following.value if isinstance(following, ast.Expr) else None
            said = str(value.value) if isinstance(value, ast.Constant) else ""
            if len(said) < len("a job"):
                complaints.append(
                    f"{class_name}.{target.id} is not documented where it is declared: put a string below it that"
                    " says what it means, with units and fields."
                )
    return complaints


def missing_tests(text: str, root: Path) -> list[str]:
    """Tests that a document cites and that are not there."""
    complaints = []
    for file, name in re.findall(r"(tests/[\w/.-]+\.py)(?:::(?:\w+::)?(\w+))?", text):
        path = root / file
        if not path.exists():
            complaints.append(f"cites {file}, which is not there: cite the test that shows the promise, or write it.")
        elif name and not re.search(rf"\b(def|class) {name}\b|^{name} =", path.read_text(), re.MULTILINE):
            complaints.append(f"cites {file}::{name}, which is not there: follow its new name, or write the test.")
    return complaints


def without_a_sentence(path: Path, text: str) -> list[str]:
    """Tests that do not say what they show."""
    return [
        f"{path}::{node.name} has no docstring: say in one sentence what is so, not what the test does."
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]


def dead_links(path: Path, text: str) -> list[str]:
    """Relative links of a document that lead nowhere."""
    return [
        f"{path.name} links to {link}, which is not there: follow the file to its new place, or leave the link out."
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
        if not (path.parent / link).exists() and not link.endswith("guarantees.md")
    ]


def _all(complaints: Iterator[list[str]]) -> str:
    return "\n".join(complaint for some in complaints for complaint in some)


# --- What holds


def test_imports_point_one_way() -> None:
    """No room knows of one above it, nor of its neighbours."""
    rooms = {path: path.relative_to(LIB).parts[0].removesuffix(".py") for path in sources()}
    unknown = set(rooms.values()) - set(ROOMS)
    assert not unknown, f"new rooms {unknown}: add each to ROOMS, with what it may import, or use one that exists"
    assert not (found := _all(wrong_direction(room, path.read_text()) for path, room in rooms.items())), found


def test_core_knows_no_world() -> None:
    """The standard library's containers and msgspec are all that the room that decides may import."""
    assert not (found := _all(unknown_to_core(path.read_text()) for path in sources(LIB / "core"))), found


def test_nothing_is_called_utils() -> None:
    """A name says what is in it."""
    assert not (found := _all(bad_names(path.relative_to(ROOT)) for path in sources())), found


def test_every_file_begins_with_its_theory() -> None:
    """Library and tests alike."""
    files = [*sources(), *sources(TESTS)]
    assert not (found := _all(no_theory(path.relative_to(ROOT), path.read_text()) for path in files)), found


def test_events_are_named_for_what_has_happened() -> None:
    """Constant, in the past tense, the value like the name."""
    assert not (found := "\n".join(bad_events({event.name: event.value for event in Event}))), found


def test_events_are_documented_and_have_a_level() -> None:
    """Each says its fields where it is declared, and stands in the table of docs/operations.md."""
    assert not (found := "\n".join(undocumented((LIB / "events.py").read_text(), "Event"))), found
    table = (DOCS / "operations.md").read_text()
    missing = [event.value for event in Event if f"`{event.value}`" not in table]
    assert not missing, f"docs/operations.md does not list {missing}: who reads logs needs a line for each event"
    for event in Event:
        assert level_of(event) in (10, 20, 30, 40)


def test_bounds_states_and_reasons_are_documented() -> None:
    """A bound has a name, a unit and a reason; a state says what it means and who leaves it."""
    job = (LIB / "core" / "job.py").read_text()
    assert not (found := "\n".join(undocumented((LIB / "core" / "limits.py").read_text(), "Limits"))), found
    found = "\n".join(
        complaint for name in ("State", "Happened", "Cause", "Reason") for complaint in undocumented(job, name)
    )
    assert not found, found


def test_docs_name_only_bounds_and_events_that_exist() -> None:
    """A name in a document that the code does not know any more misleads whoever looks for it."""
    known = {*Limits.__struct_fields__, *(event.value for event in Event)}
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))):
        if not path.exists():
            continue
        named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*_(?:max|ns))`", path.read_text()))
        gone = {name for name in named - known if not re.search(rf"\b{name}\b", _code())}
        assert not gone, f"{path.name} names {sorted(gone)}: say what it is called now"


def _code() -> str:
    return "\n".join(path.read_text() for path in sources())


def test_promises_cite_tests_that_exist() -> None:
    """Every test that docs/guarantees.md and README cite is there, under that name."""
    for path in (DOCS / "guarantees.md", ROOT / "README.md"):
        text = path.read_text() if path.exists() else ""
        assert not (found := "\n".join(f"{path.name} {it}" for it in missing_tests(text, ROOT))), found


def test_links_between_documents_lead_somewhere() -> None:
    """Whoever follows a link finds a file."""
    documents = [path for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if path.exists()]
    assert not (found := _all(dead_links(path, path.read_text()) for path in documents)), found


def test_every_test_says_what_it_shows() -> None:
    """One sentence each."""
    found = _all(without_a_sentence(path.relative_to(ROOT), path.read_text()) for path in sources(TESTS))
    assert not found, found


def test_public_names_are_one_list() -> None:
    """What `relet` promises can be imported, and the list is in order."""
    assert relet.__all__ == sorted(relet.__all__), "sort relet.__all__"
    for name in relet.__all__:
        assert getattr(relet, name) is not None


# --- The checks can fail


def test_the_checks_notice_imports_that_go_up_or_sideways() -> None:
    """From every room to one above, to a neighbour, for types only and inside functions."""
    assert wrong_direction("core", "from relet.server import Server")
    assert wrong_direction("core", "if TYPE_CHECKING:\n    from relet.store import Store")
    assert wrong_direction("store", "def f():\n    import relet.transport.port")
    assert wrong_direction("client", "from relet.worker import Worker")
    assert wrong_direction("transport", "from relet import Broker")
    assert wrong_direction("server", "from relet.broker import Broker")
    assert wrong_direction("client", "from relet.sockets import SocketManager")
    assert not wrong_direction("sockets", "from relet.transport import attach")
    assert not wrong_direction("cli", "from relet import Broker\nfrom relet.server import Server")
    assert not wrong_direction("core", "from relet.messages import Peer\nfrom relet.core.job import Job")
    assert unknown_to_core("import time")
    assert unknown_to_core("def f():\n    from os import urandom")
    assert not unknown_to_core("from collections import deque\nimport msgspec")


def test_the_checks_notice_bad_names() -> None:
    """Of files and of events."""
    assert bad_names(Path("lib/relet/utils.py"))
    assert bad_names(Path("lib/relet/common/queue.py"))
    assert not bad_names(Path("lib/relet/core/queue.py"))
    assert bad_events({"DISCARD_JOB": "discard_job"})
    assert bad_events({"JOB_DISCARDED": "job_dropped"})
    assert not bad_events({"JOB_LOST": "job_lost"})


def test_the_checks_notice_what_is_not_written_down() -> None:
    """Members, files, tests, promises and links."""
    assert undocumented('class Event:\n    A = "a"\n    """What."""\n    B = "b"\n', "Event")
    assert not undocumented('class Event:\n    A = "a"\n    """What it is."""\n', "Event")
    assert no_theory(Path("x.py"), "import os")
    assert without_a_sentence(Path("x.py"), "def test_x(): pass")
    assert missing_tests("see tests/test_taste.py::test_that_is_not_there", ROOT)
    assert missing_tests("see tests/nowhere/test_x.py", ROOT)
    assert not missing_tests("see tests/test_taste.py::test_imports_point_one_way", ROOT)
    assert dead_links(ROOT / "README.md", "[x](docs/nowhere.md)")
    assert not dead_links(ROOT / "README.md", "[x](LICENSE) [y](https://example.org)")


def test_the_table_of_states_in_the_documents_is_the_one_in_the_code() -> None:
    """docs/guarantees.md shows every row of core/job.py, and no other."""
    shown = (ROOT / "docs" / "guarantees.md").read_text().partition("## States")[2]
    rows = [line for line in shown.splitlines() if line.startswith("| ") and not line.startswith("| from")]
    expected = [f"| {row.state.name} | {row.happened.value} | {row.to.name} | {row.also} |" for row in TABLE]
    assert rows == expected, "copy the rows of core/job.TABLE into docs/guarantees.md, section States"
