"""What holds for one queue, beyond what holds for all: defaults of its jobs, its limits, its pause.

Defaults are settled when a job is accepted: what the job says goes before what its queue says, and that before what the
broker says; so a setting that is changed holds for new jobs. Limits and pauses are looked up when they are needed: they
hold at once.

`QueueSettings` has a field for everything that can be set; the durations are nanoseconds. How people and programs write
them is in one list, `SETTINGS`: in files and in Python a time is a number of seconds under its word, or text with its
unit (`relet.durations`); on the wire and in records it is a number of milliseconds, or nanoseconds, under its own name.
What is not in the list cannot be set yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

import msgspec

from relet.core.terms import FINAL_KINDS, Backoff, Terms, are_final_kinds
from relet.durations import DURATION_SECONDS_MAX, DurationError, seconds_of
from relet.messages import PRIORITY_MAX, QUEUE_CHARACTERS_MAX
from relet.orders import BY_CHARACTERS_MAX

PAUSES: Final = ("", "intake", "dispatch", "both")
"""What of a queue may be paused: nothing, that it takes jobs, that it gives them out, or both."""
CURVES: Final = ("fixed", "linear", "exponential")
"""How the pause between attempts may grow; the last one, where nothing is said of it."""
CAP_OPEN_NS: Final = 0
"""Instead of a longest pause: as long as the broker allows, which puts its limit there."""
FROM_CONFIGURATION: Final = "the configuration"
"""Who has paused a queue that is paused where it is configured."""


class SettingsError(ValueError):
    """Settings that cannot be; the text names the setting and says what it may be."""


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one queue. None: as the broker has it, or no limit.

    Raises `SettingsError` where a value cannot be, or two contradict each other.
    """

    priority: int | None = None
    """Default: -1000 to 1000; higher ones go first."""
    tries: int | None = None
    """Default: the limit on counted attempts of all kinds; 0: none."""
    errors_max: int | None = None
    """Default: attempts that may fail ..."""
    timeouts_max: int | None = None
    """... whose time may be up ..."""
    losses_max: int | None = None
    """... and whose worker may be lost."""
    final_kinds: tuple[str, ...] | None = None
    """Default: kinds of failures after which no other attempt is made."""
    backoff: Backoff | None = None
    """Default: how long a failed attempt is followed by none."""
    run_ns: int | None = None
    """Default: the limit of one attempt; 0: none."""
    start_ns: int | None = None
    """Default: by then after its acceptance a job must have started."""
    total_ns: int | None = None
    """Default: by then after its acceptance it must have ended."""

    in_flight_max: int | None = None
    """Jobs that may be with workers at a time."""
    rate: float | None = None
    """Jobs a second that may be given out ..."""
    burst: int | None = None
    """... and how many at once, after a rest; None: as many as in a second."""
    key_in_flight_max: int | None = None
    """The same for each fairness key."""
    key_rate: float | None = None
    key_burst: int | None = None
    ageing_ns: int | None = None
    """A waiting job gains one priority every so long ..."""
    ageing_max: int | None = None
    """... but no more than so many."""
    jobs_max: int | None = None
    """Jobs that are not final; more are refused."""

    kept_ns: int | None = None
    """How long its dead letters are kept ..."""
    kept_jobs_max: int | None = None
    """... how many ..."""
    kept_bytes_max: int | None = None
    """... and how many bytes of them."""

    paused: str = ""
    """Of `PAUSES`."""
    intake_by: str = ""
    """Who has paused that it takes jobs ..."""
    dispatch_by: str = ""
    """... and who that it gives them out."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            wrong = "" if value is None and field not in _TEXTS else _wrong_with(field, value)
            if wrong:
                raise SettingsError(f"{written(field)} is {_shown(field, value)}: {wrong}")
        for field, needed in _NEEDS:
            if getattr(self, field) and not getattr(self, needed):
                raise SettingsError(f"{written(field)} says nothing without {written(needed)}: set that, too")
        if self.start_ns is not None and self.total_ns is not None and self.start_ns > self.total_ns:
            raise SettingsError(
                f"{written('start_ns')} is later than {written('total_ns')}: a job that may start so late has ended"
            )
        for field in ("errors_max", "timeouts_max", "losses_max") if self.tries else ():
            most = getattr(self, field)
            if most is not None and most > (self.tries or most):
                raise SettingsError(
                    f"{written(field)} is {most} and tries is {self.tries}, which bounds all kinds together"
                )

    @property
    def intake_paused(self) -> bool:
        """No new jobs."""
        return self.paused in ("intake", "both")

    @property
    def dispatch_paused(self) -> bool:
        """No job is given out."""
        return self.paused in ("dispatch", "both")

    def pausing(self, what: str, by: str) -> QueueSettings:
        """The same, and `by` has paused this (of `PAUSES`), beside what is paused already."""
        intake, dispatch = what in ("intake", "both"), what in ("dispatch", "both")
        return msgspec.structs.replace(
            self,
            paused=_pause(intake=intake or self.intake_paused, dispatch=dispatch or self.dispatch_paused),
            intake_by=by if intake else self.intake_by,
            dispatch_by=by if dispatch else self.dispatch_by,
        )

    def resuming(self, what: str) -> QueueSettings:
        """The same, and this (of `PAUSES`) is not paused."""
        intake = self.intake_paused and what not in ("intake", "both")
        dispatch = self.dispatch_paused and what not in ("dispatch", "both")
        return msgspec.structs.replace(
            self,
            paused=_pause(intake=intake, dispatch=dispatch),
            intake_by=self.intake_by if intake else "",
            dispatch_by=self.dispatch_by if dispatch else "",
        )

    def paused_like(self, other: QueueSettings, *, but: str | None = None) -> QueueSettings:
        """The same, beside what is paused already with all that is paused in `other`, by whom it is there; leaving out
        what is paused there by the name `but`.
        """
        both = self
        if other.intake_paused and other.intake_by != but:
            both = both.pausing("intake", other.intake_by)
        if other.dispatch_paused and other.dispatch_by != but:
            both = both.pausing("dispatch", other.dispatch_by)
        return both

    def terms(self, broker: Terms) -> Terms:
        """What holds for a job here that says nothing else; `broker` itself where that is the same."""
        changes = {
            field: (value or None) if field in _ZERO_IS_NONE else value
            for field in DEFAULTS
            if (value := getattr(self, field)) is not None
        }
        terms = msgspec.structs.replace(broker, **changes) if changes else broker
        return broker if terms == broker else terms


def _pause(*, intake: bool, dispatch: bool) -> str:
    """The word of `PAUSES`."""
    return ("both" if dispatch else "intake") if intake else "dispatch" if dispatch else ""


_ZERO_IS_NONE: Final = frozenset({"run_ns", "tries"})
"""Defaults of which 0 says that there is no limit, whatever the broker has."""
DEFAULTS: Final = tuple(field for field in QueueSettings.__struct_fields__ if field in Terms.__struct_fields__)
"""The settings that are defaults of jobs, of those that jobs can have."""

_LEAST: Final = {
    **dict.fromkeys(("errors_max", "timeouts_max", "losses_max", "start_ns", "total_ns"), 1),
    **dict.fromkeys(("in_flight_max", "burst", "key_in_flight_max", "key_burst", "ageing_ns", "ageing_max"), 1),
    **dict.fromkeys(("jobs_max", "kept_ns", "kept_bytes_max", "tries", "run_ns", "kept_jobs_max"), 0),
    "priority": -PRIORITY_MAX,
}
"""The least that a whole number may be."""
_RATES: Final = frozenset({"rate", "key_rate"})
RATE_MIN: Final = 1e-6
RATE_MAX: Final = 1e9
"""Jobs a second: one in eleven days, because a moment that never comes is no rate but a pause, and one a nanosecond."""
_TEXTS: Final = frozenset({"paused", "intake_by", "dispatch_by"})
"""Settings of which "" says that there is none, and None nothing."""
_NEEDS: Final = (
    ("burst", "rate"),
    ("key_burst", "key_rate"),
    ("ageing_max", "ageing_ns"),
    ("intake_by", "intake_paused"),
    ("dispatch_by", "dispatch_paused"),
)
"""(a setting, the one without which it says nothing)."""
_INT_MAX: Final = 2**62
_A_TIME: Final = "a time from {} to ten years: a number of seconds (2, 0.5), or text with its unit ('500ms', '5m')"


def _wrong_with(field: str, value: Any) -> str:
    """What a value may be, where it is not that; "" where it is."""
    if field in _LEAST:
        return _wrong_number(field, value)
    if field in _RATES:
        right = isinstance(value, int | float) and type(value) is not bool and RATE_MIN <= value <= RATE_MAX
        pause = "; to give out none, pause its dispatch" if value == 0 else ""
        return "" if right else f"it must be a number of jobs a second, {RATE_MIN:f} to {RATE_MAX:.0f}{pause}"
    if field == "paused":
        return "" if value in PAUSES else f"it must be 'intake', 'dispatch' or 'both'{_did_you_mean(value, PAUSES)}"
    if field in ("intake_by", "dispatch_by"):
        right = isinstance(value, str) and len(value) <= BY_CHARACTERS_MAX
        return "" if right else f"it must be text of at most {BY_CHARACTERS_MAX} characters"
    if field == "final_kinds":
        right = isinstance(value, tuple) and are_final_kinds(value)
        return "" if right else f"it must be a list of {FINAL_KINDS}"
    return "" if isinstance(value, Backoff) else "it must be a Backoff"


def _wrong_number(field: str, value: Any) -> str:
    least = _LEAST[field]
    most = PRIORITY_MAX if field == "priority" else _INT_MAX
    if type(value) is int and least <= value <= most:
        return ""
    if field.endswith("_ns"):
        return f"it must be {_A_TIME.format('more than 0' if least else '0')}"
    return f"it must be a whole number, at least {least}" + (f" and at most {most}" if most < _INT_MAX else "")


# --- How settings are written


class Setting(NamedTuple):
    """A setting that can be set, and how it is called where that is done."""

    field: str
    """Of `QueueSettings`."""
    word: str
    """In files and in Python. On the wire the same, but for a time, which has `_ms` behind it."""

    @property
    def is_time(self) -> bool:
        """Whether it is a duration."""
        return self.field.endswith("_ns")

    @property
    def wire(self) -> str:
        """Its name on the wire."""
        return f"{self.word}_ms" if self.is_time else self.word


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("run_ns", "run"),
    Setting("tries", "tries"),
    Setting("errors_max", "errors_max"),
    Setting("timeouts_max", "timeouts_max"),
    Setting("losses_max", "losses_max"),
    Setting("final_kinds", "final_kinds"),
    Setting("backoff", "backoff"),
    Setting("start_ns", "start"),
    Setting("total_ns", "deadline"),
    Setting("priority", "priority"),
    Setting("ageing_ns", "ageing"),
    Setting("ageing_max", "ageing_max"),
    Setting("in_flight_max", "in_flight_max"),
    Setting("rate", "rate"),
    Setting("burst", "burst"),
    Setting("key_in_flight_max", "key_in_flight_max"),
    Setting("key_rate", "key_rate"),
    Setting("key_burst", "key_burst"),
    Setting("jobs_max", "jobs_max"),
    Setting("kept_ns", "kept"),
    Setting("kept_jobs_max", "kept_jobs_max"),
    Setting("kept_bytes_max", "kept_bytes_max"),
    Setting("paused", "paused"),
)
"""All that can be set from outside, in the order in which it is shown. Who paused a queue is not set, but known."""

_BY_WORD: Final = {setting.word: setting for setting in SETTINGS}
_BY_WIRE: Final = {setting.wire: setting for setting in SETTINGS}
_BY_FIELD: Final = {setting.field: setting for setting in SETTINGS}


def written(field: str) -> str:
    """What people call a field."""
    setting = _BY_FIELD.get(field)
    return field if setting is None else setting.word


def _shown(field: str, value: Any) -> str:
    """A value as people have written it."""
    is_time = field.endswith("_ns") and isinstance(value, int) and type(value) is not bool
    return f"{value / 1e9:g} s" if is_time else repr(value)[:100]


def from_words(words: Mapping[str, Any], *, by: str = FROM_CONFIGURATION) -> QueueSettings:
    """Settings as people write them: times in seconds, or as text with a unit. Raises `SettingsError`; `by` is who
    pauses what is paused.
    """
    if not isinstance(words, Mapping):
        raise SettingsError(f"settings are given as a mapping of words to values, not {words!r:.100}")
    fields: dict[str, Any] = {}
    for word, value in words.items():
        setting = _named(word, _BY_WORD)
        fields[setting.field] = _read(setting, word, value, _from_seconds)
    return _made(fields, by)


def to_words(settings: QueueSettings) -> dict[str, Any]:
    """The same the other way; what says nothing is left out."""
    return {
        setting.word: _written_as(setting, value, "", lambda ns: ns / 1e9)
        for setting in SETTINGS
        if (value := getattr(settings, setting.field)) not in (None, "")
    }


def from_wire(said: Mapping[str, Any], *, by: str) -> QueueSettings:
    """Settings as the wire has them: times in milliseconds. Raises `SettingsError`."""
    fields: dict[str, Any] = {}
    for name, value in said.items():
        setting = _named(name, _BY_WIRE)
        fields[setting.field] = _read(setting, name, value, _from_milliseconds)
    return _made(fields, by)


def to_wire(settings: QueueSettings) -> dict[str, Any]:
    """The same the other way; what says nothing is left out. A time is rounded up."""
    return {
        setting.wire: _written_as(setting, value, "_ms", lambda ns: -(-ns // 1_000_000))
        for setting in SETTINGS
        if (value := getattr(settings, setting.field)) not in (None, "")
    }


def _read(setting: Setting, name: str, value: Any, in_ns: Callable[[str, Any], int]) -> Any:
    """A value as somebody has written it, who writes times so; None says of every setting that it is not set."""
    if value is None:
        return "" if setting.field in _TEXTS else None
    if setting.is_time:
        return in_ns(name, value)
    if setting.field == "backoff":
        return _read_backoff(name, value, in_ns)
    return tuple(value) if isinstance(value, list) else value


def _read_backoff(name: str, value: Any, in_ns: Callable[[str, Any], int]) -> Backoff:
    """Of a mapping, or of a `relet.Backoff`, which has fields of the same names."""
    behind = "_ms" if in_ns is _from_milliseconds else ""
    base, cap = f"base{behind}", f"cap{behind}"
    words = ("curve", base, cap, "jitter")
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if not isinstance(value, Mapping) or base not in value:
        raise SettingsError(f"{name} is {value!r:.100}: give {base}, and curve, {cap} and jitter where you want them")
    for word in value:
        if word not in words:
            raise SettingsError(f"{name} has no {word!r}{_did_you_mean(word, words) or f'; it has {words}'}")
    curve, jitter = value.get("curve", CURVES[-1]), value.get("jitter", False)
    if curve not in CURVES:
        hint = _did_you_mean(curve, CURVES)
        raise SettingsError(f"the curve of {name} is {curve!r:.100}: it must be one of {', '.join(CURVES)}{hint}")
    if type(jitter) is not bool:
        raise SettingsError(f"the jitter of {name} is {jitter!r:.100}: it must be true or false")
    first, said = in_ns(f"{base} of {name}", value[base]), value.get(cap)
    longest = CAP_OPEN_NS if said is None else in_ns(f"{cap} of {name}", said)
    if not first or (said is not None and longest < first):
        raise SettingsError(f"{name} begins at {base} {value[base]!r}, above 0, and {cap} is at least that")
    return Backoff(curve, first, longest, jitter)


def _written_as(setting: Setting, value: Any, behind: str, of_ns: Callable[[int], Any]) -> Any:
    if setting.is_time:
        return of_ns(value)
    if isinstance(value, Backoff):
        times = {f"base{behind}": of_ns(value.base_ns), f"cap{behind}": of_ns(value.cap_ns)}
        if value.cap_ns == CAP_OPEN_NS:
            del times[f"cap{behind}"]
        return {"curve": value.curve, **times, "jitter": value.jitter}
    return list(value) if isinstance(value, tuple) else value


def configured(queues: Mapping[str, Mapping[str, Any] | QueueSettings]) -> dict[str, QueueSettings]:
    """The settings of queues by name, as a program or a file gives them. Raises `SettingsError`, which names the
    queue.
    """
    if not isinstance(queues, Mapping):
        raise SettingsError(f"queues are given as a mapping of names to settings, not {queues!r:.100}")
    settings: dict[str, QueueSettings] = {}
    for name, words in queues.items():
        if type(name) is not str or not 1 <= len(name) <= QUEUE_CHARACTERS_MAX:
            raise SettingsError(f"queue {name!r:.100}: a name has 1 to {QUEUE_CHARACTERS_MAX} characters")
        if isinstance(words, QueueSettings):
            settings[name] = words
            continue
        try:
            settings[name] = from_words(words)
        except SettingsError as wrong:
            raise SettingsError(f"queue {name!r}: {wrong}") from None
    return settings


def _named(name: str, names: Mapping[str, Setting]) -> Setting:
    setting = names.get(name)
    if setting is None:
        hint = _did_you_mean(name, names) or f"; there are {', '.join(names)}"
        raise SettingsError(f"there is no setting {name!r}{hint}")
    return setting


def _made(fields: dict[str, Any], by: str) -> QueueSettings:
    settings = QueueSettings(**fields)
    return settings.pausing(settings.paused, by)


def _from_seconds(word: str, value: Any) -> int:
    if isinstance(value, str):
        try:
            return round(seconds_of(value) * 1e9)
        except DurationError as wrong:
            raise SettingsError(f"{word}: {wrong}") from None
    if not isinstance(value, int | float) or type(value) is bool or not 0 <= value <= DURATION_SECONDS_MAX:
        raise SettingsError(f"{word} is {value!r:.100}: it must be {_A_TIME.format('0')}")
    return round(value * 1e9)


def _from_milliseconds(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _INT_MAX // 1_000_000:
        raise SettingsError(f"{name} is {value!r:.100}: it must be a whole number of milliseconds")
    return int(value) * 1_000_000


def _did_you_mean(name: object, names: Mapping[str, Any] | tuple[str, ...]) -> str:
    close = get_close_matches(str(name).lower(), [it for it in names if it], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
