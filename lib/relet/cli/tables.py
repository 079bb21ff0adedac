"""What `relet` prints: aligned columns for people, one JSON document for programs.

Names, kinds and texts come from peers, so what is no printable character is shown as its escape: nobody's queue name
moves somebody's cursor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

GAP = "  "
AGES = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Rows below their headings; columns of numbers stand to the right, one that is empty everywhere is left out."""
    cells = [[shown(cell) for cell in row] for row in rows]
    columns = [index for index in range(len(headings)) if any(row[index] for row in cells)]
    right = {index for index in columns if all(_is_number(row[index]) for row in cells)}
    width = {index: max(len(headings[index]), *(len(row[index]) for row in cells)) for index in columns}
    lines = []
    for row in ([*headings], *cells):
        line = [row[it].rjust(width[it]) if it in right else row[it].ljust(width[it]) for it in columns]
        lines.append(GAP.join(line).rstrip())
    return lines


def listing(fields: Mapping[str, object]) -> list[str]:
    """A line for each field that says something, its name before it."""
    said = {name: text for name, value in fields.items() if (text := shown(value))}
    width = max(map(len, said), default=0)
    return [f"{name.ljust(width)}{GAP}{text}" for name, text in said.items()]


def shown(value: object) -> str:
    """A value on one line."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in str(value))


def ago(seconds: float) -> str:
    """How long ago: `3 s`, `2 min`, `5 h`, `4 d`, whole numbers of the largest unit that fits twice."""
    for unit, name in AGES:
        if seconds >= 2 * unit:
            return f"{int(seconds // unit)} {name} ago"
    return "1 s ago" if seconds >= 1 else "now"


def document(value: Any) -> str:
    """The same for programs: ids in hexadecimal, moments in seconds since 1970."""
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    fields = getattr(value, "__struct_fields__", None)
    if fields is not None:
        return {name: _plain(getattr(value, name)) for name in fields}
    return value


def _is_number(text: str) -> bool:
    return text.isdigit() or not text
