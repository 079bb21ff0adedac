"""The fixtures, in a run of pytest of their own; and what loading them loads."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "relet.testing.fixtures"
LIMIT_S = 120
RESIZE = """
def resize(data):
    return data[::-1]
"""
TESTS = """
import pytest

def test_simulated(relet_bench):
    relet_bench.worker(bytes.upper)
    assert relet_bench.client().call(b"a") == b"A"

@pytest.mark.relet(tries=1, timeout=2.0)
def test_with_options(relet_bench):
    import relet
    relet_bench.worker(bytes.upper, takes=3.0)
    with pytest.raises(relet.JobFailed, match="tries_spent"):
        relet_bench.client().call(b"a", terms=relet.Terms(late="current"))

@pytest.mark.relet(tries=5)
def test_real(relet_broker, relet_client):
    assert relet_broker.tries == 5
    enqueued = relet_client.enqueue(b"a")
    assert relet_client.state(enqueued.request_id).state == "available"

@pytest.mark.relet(3)
@pytest.mark.xfail(raises=TypeError, strict=True)
def test_options_have_names(relet_bench):
    pass
"""


def ran(file: Path) -> tuple[int, str]:
    """How a run of pytest with the fixtures, and no other plugin, ended, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-q", "-W", "error", "--strict-markers", str(file)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=LIMIT_S, env=environment, cwd=file.parent
    )
    return done.returncode, done.stdout + done.stderr


def test_fixtures_and_their_options(tmp_path: Path) -> None:
    """A bench, a broker and a client of it; the mark says with what options."""
    file = tmp_path / "test_them.py"
    file.write_text(TESTS)
    code, said = ran(file)
    assert code == 0, said
    assert "3 passed, 1 xfailed" in said


@pytest.mark.parametrize("document", ["docs/testing.md", "README.md"])
def test_what_the_documents_show_passes(tmp_path: Path, document: str) -> None:
    """Every test in docs/testing.md, and the one in README, as they stand there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    file = tmp_path / "test_documents.py"
    file.write_text("\n\n".join([RESIZE, *(block for block in blocks if "def test_" in block)]))
    code, said = ran(file)
    assert code == 0, said
    assert f"{len(re.findall('^def test_', file.read_text(), re.MULTILINE))} passed" in said


def test_pytest_finds_them() -> None:
    """By the entry point, which names a module that is there."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert points == {"relet": PLUGIN}
    assert hasattr(importlib.import_module(PLUGIN), "relet_bench")


def test_loading_loads_little() -> None:
    """The plugin loads nothing of relet, and the bench neither pytest nor hypothesis."""
    code = (
        "import sys; import relet.testing.fixtures\n"
        "assert not {'zmq', 'msgspec', 'structlog', 'relet.testing.bench'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT / "lib")})
    code = (
        "import sys; from relet.testing import Bench, InlineClient\n"
        "assert not {'pytest', '_pytest', 'hypothesis'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT / "lib")})
