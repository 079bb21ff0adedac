"""What the sources of the core say to the compiler, which needs to be told little; without it, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_: Any) -> Any:
        """Leaves the class as it is."""
        return lambda it: it


__all__ = ["mypyc_attr"]
