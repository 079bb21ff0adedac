"""The launchers: run by whatever python3 is first on the path, they find the environment or say what to type."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import ROOT, SECONDS_MAX

from relet.cli import launch

LAUNCHERS = ("broker.py", "testworker.py", "testclient.py")
BARE = (str(Path(sys.base_prefix) / "bin" / "python3"), "-S")
"""An interpreter without any installed package, as on a machine where nothing is set up."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, not set up."""
    for name in LAUNCHERS:
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def launched(project: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A launcher of the copy, started by an interpreter that has nothing."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    command = [*BARE, str(project / name), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, env=environment, cwd="/"
    )


def make_interpreter(project: Path, script: str) -> None:
    """Put a program in the place of the environment's interpreter."""
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(script)
    python.chmod(0o755)


def assert_told_what_to_type(done: subprocess.CompletedProcess[str], name: str) -> None:
    """One line, no traceback, exit 2."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{name}: ")
    assert done.stderr.endswith("type: make setup\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", LAUNCHERS)
def test_without_an_environment(project: Path, name: str) -> None:
    """Nothing is set up: one line says what to type."""
    done = launched(project, name, "--version")
    assert_told_what_to_type(done, name)
    assert "pyzmq and structlog and msgspec are not installed" in done.stderr


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_needs_no_environment(project: Path, name: str) -> None:
    """Whoever has just cloned the project can read what it does."""
    done = launched(project, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name} ")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_environment_is_found(project: Path, name: str) -> None:
    """Any python3 will do: the launcher goes on with the environment's."""
    (project / ".venv").symlink_to(sys.prefix)
    done = launched(project, name, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pyzmq" in done.stdout


def test_a_launcher_may_be_a_link(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Linked into a folder on the path it still finds its project."""
    (project / ".venv").symlink_to(sys.prefix)
    link = tmp_path_factory.mktemp("bin") / "broker.py"
    link.symlink_to(project / "broker.py")
    assert "pyzmq" in launched(link.parent, "broker.py", "--version").stdout


def test_an_interpreter_that_is_gone(project: Path) -> None:
    """The system's Python was upgraded and the environment points to nothing."""
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to(project / "gone")
    assert_told_what_to_type(launched(project, "broker.py", "--version"), "broker.py")


def test_an_interpreter_that_is_none(project: Path) -> None:
    """What lies there cannot be executed."""
    make_interpreter(project, "\x7fELF, but not quite")
    assert_told_what_to_type(launched(project, "broker.py", "--version"), "broker.py")


def test_an_environment_without_its_packages(project: Path) -> None:
    """A set-up that was interrupted: the second start finds nothing either, and there is no third."""
    make_interpreter(project, f'#!/bin/sh\nexec {BARE[0]} -S "$@"\n')
    assert_told_what_to_type(launched(project, "broker.py", "--version"), "broker.py")


def test_a_package_that_does_not_import(project: Path) -> None:
    """Half of pyzmq is there."""
    (project / ".venv").symlink_to(sys.prefix)
    (project / "lib" / "zmq.py").write_text("raise ImportError('libzmq.so.5: cannot open', name='zmq')")
    done = launched(project, "broker.py", "--version")
    assert_told_what_to_type(done, "broker.py")
    assert "libzmq.so.5" in done.stderr


def test_a_python_that_is_too_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an environment an old interpreter says which one is needed."""
    monkeypatch.setattr(launch, "PYTHON_MIN", (9, 9))
    monkeypatch.setattr(sys, "argv", ["/somewhere/broker.py", "--help"])
    monkeypatch.setattr(sys, "path", ["first", "second", "third"])
    with pytest.raises(SystemExit) as ended:
        launch.launch(str(tmp_path / "broker.py"), "broker")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("broker.py: Python 9.9 is needed, and this is 3.")
    assert sys.path == [str(tmp_path / "lib"), "third"]


@pytest.mark.parametrize("name", [*LAUNCHERS, "lib/relet/cli/launch.py", "tools/environment.py"])
def test_old_interpreters_can_read_it(name: str) -> None:
    """What has to tell the owner of an old Python so must parse there."""
    ast.parse((ROOT / name).read_text(), feature_version=(3, 6))
