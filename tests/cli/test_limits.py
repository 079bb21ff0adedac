"""The options for limits are those of `relet.Limits`, no more and no less."""

from __future__ import annotations

import argparse

import pytest

from relet import Limits
from relet.cli.limits import add_limits, chosen_limits, limit_options


def parsed(*arguments: str) -> dict[str, int]:
    """The limits that a command line names."""
    parser = argparse.ArgumentParser()
    add_limits(parser)
    return chosen_limits(parser.parse_args(arguments))


def test_every_limit_has_an_option_with_its_default_and_a_reason() -> None:
    """A limit that is declared appears in --help by itself; what was read from the source is what the class says."""
    options = {option.field: option for option in limit_options()}
    defaults = Limits()
    assert tuple(options) == Limits.__struct_fields__
    for field, option in options.items():
        assert option.default == getattr(defaults, field)
        assert option.reason, f"{field} has no docstring: say why it is bounded"


def test_only_what_was_named_is_chosen() -> None:
    """Defaults stay with the class."""
    assert parsed() == {}


@pytest.mark.parametrize("option", limit_options(), ids=lambda option: option.field)
def test_each_option_reaches_its_field(option: object) -> None:
    """Sizes, times and counts arrive in the unit of their field."""
    assert isinstance(option, tuple)
    text, value = {"SIZE": ("2MiB", 2 << 20), "TIME": ("50ms", 50_000_000), "N": ("7", 7)}[option.metavar]
    assert parsed(option.option, text) == {option.field: value}
    assert getattr(Limits(**{option.field: value}), option.field) == value
