"""What a request may say of the place of its job among others: its priority, and the keys by which jobs take
turns, or go one after the other.
"""

from __future__ import annotations

from relet.core.terms import Rules
from relet.messages import KEY_CHARACTERS_MAX, PRIORITY_MAX, WEIGHT_MAX, Submit


def wrong_with(said: Submit) -> str:
    """What cannot be, and what to change; "" where nothing is wrong."""
    if said.priority is not None and not -PRIORITY_MAX <= said.priority <= PRIORITY_MAX:
        return f"priority is {said.priority}: it is -{PRIORITY_MAX} to {PRIORITY_MAX}"
    if len(said.fair) > KEY_CHARACTERS_MAX:
        return f"fair has {len(said.fair)} characters: a key has at most {KEY_CHARACTERS_MAX}"
    if not 1 <= said.weight <= WEIGHT_MAX:
        return f"weight is {said.weight}: it is 1 to {WEIGHT_MAX}"
    if len(said.order) > KEY_CHARACTERS_MAX:
        return f"order has {len(said.order)} characters: a key has at most {KEY_CHARACTERS_MAX}"
    if said.blocks and not said.order:
        return "blocks says nothing without order: name the key that a discarded job blocks, or leave it out"
    if said.weight != 1 and not said.fair:
        return "weight says nothing without fair: name the key that has this weight, or leave it out"
    return ""


def rules_of(said: Submit) -> Rules | None:
    """What a request agrees about its job alone; None: nothing."""
    return Rules(fair=said.fair, weight=said.weight, order=said.order) if said.fair or said.order else None
