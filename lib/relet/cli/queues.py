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
from typing import Any

from relet.cli.quantities import QuantityError, duration_or_zero

ONLY_THESE = "only_these"
QUEUE = "queue"
FILE_BYTES_MAX = 16 * 1024 * 1024
"""A file of this size is no file of settings."""


def queues_file(path: str) -> dict[str, Any]:
    """What the file says, checked: `queues` and `only_these_queues` of `relet.Broker`. Raises `QuantityError`, whose
    text names the file.
    """
    try:
        said = _read(path)
        return {"queues": _queues(said), "only_these_queues": _only_these(said)}
    except QuantityError as wrong:
        raise QuantityError(f"{path}: {wrong}") from None


def chosen_queues(values: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `relet.Broker` that the command line gives."""
    return values.queues or {}


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
    from relet.core.settings import SETTINGS, SettingsError, configured

    for word in said:
        if word not in (ONLY_THESE, QUEUE):
            close = get_close_matches(word, (ONLY_THESE, QUEUE), 1) or ["[queue.NAME]"]
            raise QuantityError(f"there is no {word!r} at the top; did you mean {close[0]}?")
    queues = said.get(QUEUE, {})
    if not isinstance(queues, dict):
        raise QuantityError("queues are tables: write [queue.NAME]")
    times = {setting.word for setting in SETTINGS if setting.is_time}
    try:
        written = {name: _in_seconds(name, words, times) for name, words in queues.items()}
        configured(written)
    except SettingsError as wrong:
        raise QuantityError(str(wrong)) from None
    return written


def _in_seconds(name: str, words: Any, times: set[str]) -> Any:
    """The settings of a queue, times that are written with their unit as seconds."""
    if not isinstance(words, dict):
        return words
    seconds = dict(words)
    for word in times & words.keys():
        seconds[word] = _as_seconds(name, word, words[word])
    backoff = words.get("backoff")
    if isinstance(backoff, dict):
        times = backoff.keys() & {"base", "cap"}
        seconds["backoff"] = backoff | {word: _as_seconds(name, f"backoff.{word}", backoff[word]) for word in times}
    return seconds


def _as_seconds(name: str, word: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return duration_or_zero(value)
    except QuantityError as wrong:
        raise QuantityError(f"queue {name!r}: {word}: {wrong}") from None
