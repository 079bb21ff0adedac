"""One option for each limit of `relet.Limits`, taken from the place where the limit is declared.

Names, defaults and reasons are read from the source of `core/limits.py`, not from the class: `--help` shows them all
and must not wait for an import of msgspec, and the reasons are docstrings of fields, which a class does not keep. A
test holds both against each other.
"""

from __future__ import annotations

import argparse
import ast
import os.path
from collections.abc import Callable
from typing import NamedTuple

from relet.cli.quantities import count, duration_or_zero, size, written_duration, written_size

SOURCE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "core", "limits.py")
NS_PER_SECOND = 1_000_000_000


class LimitOption(NamedTuple):
    """The option of one limit."""

    field: str
    """The field of `relet.Limits`."""
    option: str
    """`--body-bytes-max`; a unit that the value itself carries is left away: `worker_grace_ns` is `--worker-grace`."""
    default: int | None
    reason: str
    metavar: str
    parse: Callable[[str], int]
    written_default: str


def limit_options() -> list[LimitOption]:
    """All of them, in the order of their declaration."""
    with open(SOURCE, encoding="utf-8") as source:
        tree = ast.parse(source.read())
    units: dict[str, int] = {}
    fields: list[LimitOption] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            units[node.targets[0].id] = _evaluate(node.value, units) or 0
        elif isinstance(node, ast.ClassDef) and node.name == "Limits":
            for declared, following in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(declared, ast.AnnAssign) and isinstance(declared.target, ast.Name) and declared.value:
                    default = _evaluate(declared.value, units)
                    fields.append(_option(declared.target.id, default, _docstring(following)))
    return fields


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add a group of options, all absent by default."""
    group = parser.add_argument_group(
        "limits", "what exceeds one is refused, pushed back or told, never dropped in silence"
    )
    for option in limit_options():
        group.add_argument(
            option.option,
            dest=f"limit_{option.field}",
            type=option.parse,
            metavar=option.metavar,
            help=f"{option.reason} [{option.written_default}]".replace("%", "%%"),
        )


def chosen_limits(values: argparse.Namespace) -> dict[str, int]:
    """The limits that the command line names: field -> value, for `relet.Limits(**...)`."""
    named = {option.field: getattr(values, f"limit_{option.field}") for option in limit_options()}
    return {field: value for field, value in named.items() if value is not None}


def _option(field: str, default: int | None, reason: str) -> LimitOption:
    dashed = "--" + field.replace("_", "-")
    if field.endswith(("_ns", "_ns_max")):
        written = written_duration((default or 0) / NS_PER_SECOND).replace(" ", "")
        return LimitOption(field, dashed.replace("-ns", ""), default, reason, "TIME", _nanoseconds, written)
    if "_bytes_" in field:
        return LimitOption(field, dashed, default, reason, "SIZE", size, written_size(default or 0))
    written = "derived" if default is None else f"{default:_}"
    return LimitOption(field, dashed, default, reason, "N", count, written)


def _nanoseconds(text: str) -> int:
    return round(duration_or_zero(text) * NS_PER_SECOND)


def _docstring(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _evaluate(node: ast.expr, units: dict[str, int]) -> int | None:
    """The few expressions in which limits are declared: numbers, names of units, products, None."""
    match node:
        case ast.Constant(value=int() | None as value):
            return value
        case ast.Name(id=name):
            return units[name]
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return (_evaluate(left, units) or 0) * (_evaluate(right, units) or 0)
    raise TypeError(f"core/limits.py declares a limit by {ast.unparse(node)!r}; write a product of numbers and units")
