"""The compiled core and its sources: the same decisions, and nobody runs a core that is older than its sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relet import compiled
from relet.transport import pump

ROOT = Path(__file__).parent.parent
LIB = ROOT / "lib"
SECONDS_MAX = 900
WORLDS = {"2010": 4, "native": 12, "policies": 12}
PLAY = """
import sys
from relet import compiled
from relet.testing import World
assert compiled.core == sys.argv[1], compiled.why
for kind, worlds in {worlds!r}.items():
    for number in range(worlds):
        print(kind, number, World(f"compiled/{{number}}", kinds=(kind,), watch=True).play().digest)
"""
"""Plays worlds of each kind and prints what was said in them, all of it, as a digest."""

built = pytest.mark.skipif(
    compiled.core != compiled.COMPILED, reason=f"the core runs as Python: {compiled.why or 'as wanted'}"
)


def run(*words: str, core: str = "", lib: Path = LIB) -> subprocess.CompletedProcess[str]:
    """Runs this Python with that core."""
    # Python draws other hashes of texts in each process, which must not matter, and is not the question here.
    environment = {**os.environ, "PYTHONPATH": str(lib), "PYTHONHASHSEED": "0"}
    environment.pop(compiled.VARIABLE, None)
    if core:
        environment[compiled.VARIABLE] = core
    command = [sys.executable, *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, env=environment, cwd=ROOT
    )


@built
def test_both_say_the_same() -> None:
    """Message for message, in worlds of every kind, with faults."""
    play = PLAY.format(worlds=WORLDS)
    played = {core: run("-c", play, core, core=core) for core in (compiled.COMPILED, compiled.PYTHON)}
    for done in played.values():
        assert done.returncode == 0, done.stderr
    one, other = (done.stdout.splitlines() for done in played.values())
    assert one == other
    assert len(set(one)) == sum(WORLDS.values())


@built
def test_with_the_sources() -> None:
    """What puts something of its own into the core - broken brokers that must be found out - needs the sources."""
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "interpreted", "tests", core=compiled.PYTHON)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-1_000:]
    assert " skipped" not in done.stdout.splitlines()[-1]


@built
def test_a_core_that_is_older_than_its_sources_does_not_run(tmp_path: Path) -> None:
    """Whoever changes a source runs the sources, and is told so; so is who takes the compiled files away."""
    lib = tmp_path / "lib"
    shutil.copytree(LIB / "relet", lib / "relet", ignore=shutil.ignore_patterns("__pycache__"))
    says = "from relet import compiled as it; from relet.core import job; print(it.core, it.why, job.__file__)"
    assert run("-c", says, lib=lib).stdout.startswith(f"compiled  {lib}")
    assert run("-c", says, lib=lib, core=compiled.PYTHON).stdout == f"python  {lib}/relet/core/job.py\n"
    with (lib / "relet" / "core" / "limits.py").open("a") as source:
        source.write("\n")
    assert run("-c", says, lib=lib).stdout.startswith("python its sources have changed since it was built")
    shutil.rmtree(lib / "relet" / "_compiled")
    assert run("-c", says, lib=lib).stdout.startswith("python it was not built")


def test_who_could_compile_the_pump_has_compiled_the_core() -> None:
    """Set-up goes on where that fails, for the sake of machines without a compiler; here it must not."""
    if pump.implementation()[0] != pump.CYTHON:
        pytest.skip("nothing was compiled here")
    assert (compiled.FOLDER / compiled.STAMP).exists(), "python -m pip install -v --no-deps -e . says why not"


def test_the_programs_say_which_core_runs() -> None:
    """`--version` names it."""
    done = run(str(ROOT / "broker.py"), "--version", core=compiled.PYTHON)
    assert "core python" in done.stdout
