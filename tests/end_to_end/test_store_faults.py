"""A real broker whose disk fails, or which is killed there, at some calls; `make faults` goes through all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.store import disk

from relet.cli.exits import Exit

from .store_faults import run


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim."""
    try:
        return disk.compiled(tmp_path_factory.mktemp("disk"))
    except disk.NoCompiler as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        ("kill write 40", {-9}),
        ("kill sync 25", {-9}),
        ("eio sync 3", {Exit.STORE_UNWRITABLE}),
        ("eio sync 14", {Exit.STORE_FAILED, Exit.OK}),  # OK: it was the sync of a checkpoint, which is done once more
        ("enospc write 60", {Exit.STORE_FAILED}),
    ],
)
def test_a_fault_of_the_disk_loses_nothing_that_was_told(library: Path, fault: str, codes: set[int]) -> None:
    """Promise 2: the broker says why it ends, by a line and its exit code; the next one keeps what it had promised."""
    ran = run(fault, library)
    assert ran.happened
    assert ran.complaints == []
    assert ran.code in codes
