"""Which frame pump runs, and what is said where the compiled one does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relet.transport import plain, pump

LIB = Path(pump.__file__).parents[2]

WITHOUT = """
import sys
sys.path.insert(0, {lib!r})
sys.modules["relet.transport._pump"] = None  # importing it raises ImportError, as where it was not built
from relet.transport import pump
"""


def run(program: str) -> str:
    """The output of a Python program that finds no compiled pump."""
    command = [sys.executable, "-c", WITHOUT.format(lib=str(LIB)) + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_plain_pump_can_always_be_had() -> None:
    """The name "python" is the plain module, and asking for it says nothing about the other one."""
    assert pump.implementation("python") == ("python", plain)


def test_an_unknown_pump_is_a_usage_error() -> None:
    """A pump that does not exist is named in the error, with those that do."""
    with pytest.raises(ValueError, match=r"no pump 'fast'.*cython.*python.*auto"):
        pump.implementation("fast")


def test_where_it_was_built_the_compiled_pump_runs() -> None:
    """The name "auto" takes the compiled pump where that proves itself, and there is no reason to tell then."""
    try:
        name, module = pump.implementation("cython")
    except pump.PumpUnavailable as error:
        pytest.skip(str(error))
    assert name == "cython"
    assert pump.implementation("auto") == ("cython", module)
    assert pump.WHY_PLAIN == ""


def test_without_the_extension_the_plain_pump_runs_and_why_is_known() -> None:
    """Where the extension is missing, "auto" takes the plain pump and says what to do about it."""
    said = run("print(pump.implementation('auto')[0], pump.WHY_PLAIN)")
    assert said.startswith("python it was not built")
    assert "make setup" in said


def test_a_compiled_pump_that_was_asked_for_and_is_missing_is_an_error() -> None:
    """The name "cython" without the extension is `PumpUnavailable`, which says what to do."""
    said = run("""
try:
    pump.implementation("cython")
except pump.PumpUnavailable as error:
    print(error)
""")
    assert "does not run here" in said
    assert "make setup" in said


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("m._addresses = lambda names: (_ for _ in ()).throw(m.PumpUnavailable('no such name'))", "no such name"),
        ("m._prove = lambda module: (_ for _ in ()).throw(m.PumpUnavailable('the round trip failed'))", "round trip"),
        ("m.zmq.zmq_version_info = lambda: (0, 0, 0)", "not the one"),
    ],
    ids=["unresolved", "round-trip", "another-libzmq"],
)
def test_a_compiled_pump_that_cannot_prove_itself_is_not_used(fault: str, reason: str) -> None:
    """A name that does not resolve, another libzmq, a failed round trip: the plain pump runs, the reason is kept."""
    program = f"""
import sys
sys.path.insert(0, {str(LIB)!r})
from relet.transport import pump as m
{fault}
print(m.implementation("auto")[0], m.WHY_PLAIN)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    if "was not built" in done.stdout:
        pytest.skip("the compiled pump was not built")
    assert done.stdout.startswith("python ")
    assert reason in done.stdout
