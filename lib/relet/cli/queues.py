"""The file with the settings of queues: TOML.

    only_these = true        # no other queue may be used; left out: any may

    [queue.mail]
    run = "30s"              # times are seconds, or text with a unit
    jobs_max = 10_000

    [queue."tenants/7"]
    paused = "dispatch"

Which settings there are is said in one list, `relet.core.settings.SETTINGS`; what they mean stands in
docs/operations.md.
"""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import Any, NamedTuple

from relet.cli.quantities import QuantityError

ONLY_THESE = "only_these"
QUEUE = "queue"
FILE_BYTES_MAX = 16 * 1024 * 1024
"""A file of this size is no file of settings."""


class QueuesFile(NamedTuple):
    """What a file says."""

    path: str
    queues: dict[str, Any]
    only_these: bool


def queues_file(path: str) -> QueuesFile:
    """What the file says, checked, as far as that goes without the limits of a broker. Raises `QuantityError`, whose
    text names the file.
    """
    try:
        said = _read(path)
        return QueuesFile(path, _queues(said), _only_these(said))
    except QuantityError as wrong:
        raise QuantityError(f"{path}: {wrong}") from None


def chosen_queues(values: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `relet.Broker` that the command line gives."""
    file: QueuesFile | None = values.queues
    return {} if file is None else {"queues": file.queues, "only_these_queues": file.only_these}


def _read(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise QuantityError(error.strerror or str(error)) from None
    if len(text) > FILE_BYTES_MAX:
        raise QuantityError(f"it is larger than {FILE_BYTES_MAX:,} bytes")
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError:
        raise QuantityError("it is no UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise QuantityError(f"it is no TOML: {error}") from None


def _only_these(said: dict[str, Any]) -> bool:
    only_these = said.get(ONLY_THESE, False)
    if not isinstance(only_these, bool):
        raise QuantityError(f"{ONLY_THESE} is {only_these!r}: write true or false")
    return only_these


def _queues(said: dict[str, Any]) -> dict[str, Any]:
    from relet.core.settings import SettingsError, configured

    for word in said:
        if word not in (ONLY_THESE, QUEUE):
            close = get_close_matches(word, (ONLY_THESE, QUEUE), 1) or ["[queue.NAME]"]
            raise QuantityError(f"there is no {word!r} at the top; did you mean {close[0]}?")
    queues = said.get(QUEUE, {})
    if not isinstance(queues, dict):
        raise QuantityError("queues are tables: write [queue.NAME]")
    try:
        configured(queues)
    except SettingsError as wrong:
        raise QuantityError(str(wrong)) from None
    return queues
