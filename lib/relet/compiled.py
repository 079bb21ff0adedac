"""Chooses the core of this process: compiled, where that was made of these very sources, or the sources themselves.

The build (setup.py) compiles these `modules` with mypyc, from the sources as they are, into the folder `_compiled`, and
writes down there of which sources. The modules are the same, and so are their names: the folder only goes before that
of the sources in the path of their packages. Whoever changes a source runs the sources, until they are compiled anew
(`make compile`). `RELET_CORE=python` in the environment runs the sources in any case.

This file is imported before all others, and by the build, so it imports nothing of relet.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import MutableSequence
from pathlib import Path
from typing import Final

VARIABLE: Final = "RELET_CORE"
PYTHON: Final = "python"
COMPILED: Final = "compiled"

ROOM: Final = Path(__file__).parent
FOLDER: Final = ROOM / "_compiled"
LIBRARY: Final = "relet_core__mypyc"
"""The one library that holds all of them; what stands in their places only refers to it."""
STAMP: Final = "SOURCES"
"""File in the folder: digest of the sources that it was made of."""

INTERPRETED: Final = frozenset(
    {
        "administration",  # most of these define Structs of msgspec, of whose options the compiler knows nothing, ...
        "allowance",
        "dead",
        "effects",
        "kept",
        "limits",
        "settings",
        "terms",
        "undertaking",
        "queues",  # ... what weak references refer to cannot be compiled ...
        "compiling",  # ... and what is said to the compiler is not for it
    }
)
"""Modules of the core that are not compiled."""
BESIDE: Final = ("conversation",)
"""Modules beside the core that are."""
READ: Final = (
    "dialects/native.py",
    "dialects/plain_headers.py",
    "events.py",
    "messages.py",
    "orders.py",
    "transport/outbox.py",
)
"""Sources of which the compiled modules know constants and types."""

core = PYTHON
"""What runs: "compiled" or "python"."""
why = ""
"""Why it is not the compiled one; "" where it is, or where that was wanted."""


def modules() -> list[str]:
    """The names of the modules that are compiled, within `relet`."""
    names = sorted(path.stem for path in (ROOM / "core").glob("*.py"))
    return [f"core.{name}" for name in names if name not in INTERPRETED and name != "__init__"] + list(BESIDE)


def digest() -> str:
    """Of the sources: they are compiled anew when one of them is another."""
    found = hashlib.blake2b(digest_size=16)
    beside = (f"{name}.py" for name in BESIDE)
    for path in (*sorted((ROOM / "core").glob("*.py")), *map(ROOM.joinpath, (*beside, *READ))):
        found.update(path.read_bytes())
        found.update(b"\0")
    return found.hexdigest()


def choose(path: MutableSequence[str]) -> None:
    """Chooses for this process; `path` is that of the package `relet`."""
    global core, why  # noqa: PLW0603 - chosen once, before anything of the core is imported
    if os.environ.get(VARIABLE) == PYTHON:
        return
    why = _why_not()
    if why:
        return
    spec = importlib.util.spec_from_file_location(LIBRARY, library())
    if spec is None:
        why = "its library cannot be loaded"
        return
    try:
        sys.modules[LIBRARY] = importlib.util.module_from_spec(spec)
    except ImportError as error:
        why = str(error)
        return
    path.insert(0, str(FOLDER))
    core = COMPILED


def extend(path: MutableSequence[str]) -> None:
    """The same for the package `relet.core`."""
    if core == COMPILED:
        path.insert(0, str(FOLDER / "core"))


def library() -> Path:
    """Where the library is, for this Python."""
    return FOLDER / f"{LIBRARY}{importlib.machinery.EXTENSION_SUFFIXES[0]}"


def _why_not() -> str:
    """Why the compiled core cannot run here; "" where it can."""
    try:
        made_of = (FOLDER / STAMP).read_text()
    except OSError:
        return "it was not built: make compile"
    if not library().exists():
        return "it was built for another Python"
    return "" if made_of == digest() else "its sources have changed since it was built: make compile"
