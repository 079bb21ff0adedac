"""What requests ask for that ask for the same: their terms, and their forms.

Most jobs of a client are asked for alike. So what a request says of its terms is judged once, and all that say the same
share one value; and of what the dialect hands over half read (`FormedSubmitted`), the unread part is a *form*, which is
read once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from relet.core import retry, timing
from relet.core.limits import Limits
from relet.core.placing import wrong_with
from relet.core.terms import Backoff, Terms
from relet.messages import Submit

TERMS_MAX: Final = 1_000
"""Different terms remembered, so that the jobs of one client share theirs."""

TermsKey: TypeAlias = "tuple[Any, ...]"
"""What requests have in common that ask for the same terms."""


def _terms_key(said: Submit) -> TermsKey:
    """The fields of a request that are its job's terms."""
    return (
        said.run_ms,
        said.silence_ms,
        said.late,
        said.gone,
        said.keep_ms,
        said.tries,
        said.errors_max,
        said.timeouts_max,
        said.losses_max,
        said.final_kinds,
        said.backoff,
        said.priority,
        said.start_ms,
        said.deadline_ms,
        said.takes_ms,
        said.blocks,
    )


_USUAL: Final = _terms_key(Submit())


_FORM: Final = (
    "follow",
    "run_ms",
    "silence_ms",
    "late",
    "gone",
    "keep_ms",
    "tries",
    "errors_max",
    "timeouts_max",
    "losses_max",
    "final_kinds",
    "backoff",
    "priority",
    "weight",
)
"""What a form may say (`Form`)."""


class AskedTerms:
    """The terms that requests have asked for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._terms: dict[tuple[Terms, TermsKey], Terms] = {}

    def terms(self, said: Submit, default: Terms) -> Terms | str:
        """What a request asks for beyond the rule of its queue, shared by all that ask for the same; a text, what is
        wrong, where that cannot be.
        """
        asked = _terms_key(said)
        if asked == _USUAL:
            return default
        key = default, asked
        terms = self._terms.get(key)
        if terms is None:
            wrong = self._wrong_with(said) or retry.wrong_with(said, self._limits)
            wrong = wrong or timing.wrong_with(said, self._limits)
            if wrong:
                return wrong
            if len(self._terms) >= TERMS_MAX:
                self._terms.clear()
            terms = self._made(said, default)
            self._terms[key] = terms = default if terms == default else terms
        return terms

    def _wrong_with(self, said: Submit) -> str:
        """What of a request's limits cannot be; "" where nothing is wrong."""
        run_max_ms, keep_max_ms = self._limits.run_ns_max // 1_000_000, self._limits.outcome_ns // 1_000_000
        if said.run_ms is not None and said.run_ms > run_max_ms:
            return f"run_ms is {said.run_ms}: at most {run_max_ms} (--run-max), or 0 for no limit"
        if said.silence_ms is not None and not 1 <= said.silence_ms <= run_max_ms:
            return f"silence_ms is {said.silence_ms}: 1 to {run_max_ms} (--run-max), or nil where it may be silent"
        if said.keep_ms > keep_max_ms:
            return f"keep_ms is {said.keep_ms}: at most {keep_max_ms} (--outcome)"
        return ""

    def _made(self, said: Submit, default: Terms) -> Terms:
        """What a request asks for; what it leaves open is as its queue or the broker has it."""
        backoff = default.backoff if said.backoff is None else None
        if said.backoff is not None and said.backoff.base_ms:
            cap_ns = self._limits.retry_ns_max if said.backoff.cap_ms is None else said.backoff.cap_ms * 1_000_000
            backoff = Backoff(said.backoff.curve, said.backoff.base_ms * 1_000_000, cap_ns, said.backoff.jitter)
        return Terms(
            run_ns=default.run_ns if said.run_ms is None else said.run_ms * 1_000_000 or None,
            silence_ns=None if said.silence_ms is None else said.silence_ms * 1_000_000,
            late_any=said.late == "any",
            ends_alone=said.gone == "cancel",
            keep_ns=said.keep_ms * 1_000_000,
            tries=default.tries if said.tries is None else said.tries or None,
            errors_max=default.errors_max if said.errors_max is None else said.errors_max or None,
            timeouts_max=default.timeouts_max if said.timeouts_max is None else said.timeouts_max or None,
            losses_max=default.losses_max if said.losses_max is None else said.losses_max or None,
            final_kinds=default.final_kinds if said.final_kinds is None else said.final_kinds,
            backoff=backoff,
            priority=default.priority if said.priority is None else said.priority,
            start_ns=default.start_ns if said.start_ms is None else said.start_ms * 1_000_000 or None,
            total_ns=default.total_ns if said.deadline_ms is None else said.deadline_ms * 1_000_000 or None,
            takes_ns=said.takes_ms * 1_000_000,
            skips=not said.blocks,
        )


class Form(NamedTuple):
    """What many requests say, apart from their id, receipt, queue and fairness key: it is looked at once."""

    said: Submit
    terms: Terms | None
    """In a queue without settings; None: what cannot be, or is not the same for each request."""
    plain: bool = False
    """Whether jobs of this form are, where they have no fairness key."""
    weight: int = 1
    follow: bool = False
    ends_alone: bool = False


class Forms:
    """The forms of requests that were said."""

    def __init__(self, asked: AskedTerms, usual: Terms) -> None:
        self._asked = asked
        self._usual = usual
        """The terms of the broker."""
        self.known: dict[bytes, Form] = {}
        """By what the dialect calls them."""

    def learn(self, packed: bytes, read: Callable[[bytes], Submit | None]) -> Form | None:
        """What there is to know of a form; None where it cannot be read. Only what is said again is remembered."""
        said = read(packed)
        if said is None:
            return None
        if said != Submit(**{name: getattr(said, name) for name in _FORM}):
            return Form(said, None)
        terms = self._asked.terms(said, self._usual)
        if isinstance(terms, str) or wrong_with(msgspec.structs.replace(said, fair="-")):
            return Form(said, None)
        if len(self.known) >= TERMS_MAX:
            self.known.clear()
        form = Form(said, terms, not terms.priority, said.weight, said.follow, terms.ends_alone)
        self.known[packed] = form
        return form
