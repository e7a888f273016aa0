"""Which settings hold: the rules' defaults, what the network model changes, and what it changes for a class of places.

It is the network model's `vee`, or a TOML file of the same shape that `gridwire vee configure` puts there:

    [general]
    grace_s = 3600
    [rules.interval_spike]
    ratio = 2.5
    [classes.industrial.high_low]
    enabled = false

A usage point's class is its `category` in the model. Numbers are checked, all problems are told at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, dataclass, fields, replace
from datetime import date
from typing import Any, Final

from gridwire.core.errors import GridwireError
from gridwire.grid.vee.rules import BY_NAME, Settings, setting

AREAS: Final = ("feeder", "transformer", "substation", "network")
"""What a storm is declared for."""


class InvalidVee(GridwireError):
    """Settings that cannot hold; the message lists every problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("VEE settings: " + "; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class General:
    """What concerns all rules."""

    grace_s: int = setting(3600, "how much older than the newest interval one is when its reading counts as missing", 0)
    storm_area: str = setting("substation", "what a storm is declared for: " + ", ".join(AREAS))
    storm_devices: int = setting(100, "an area with fewer expected channels never has a storm", 1)
    storm_drop: float = setting(0.30, "share by which the read rate falls below its norm when a storm begins", 0)
    storm_resume: float = setting(0.05, "share below the norm within which it is over", 0)
    storm_norm_days: int = setting(7, "days whose mean read rate is the norm", 1)
    slo: float = setting(0.98, "completeness that a feeder or feed should reach in a day", 0)
    holidays: tuple[str, ...] = setting((), "local dates such as 2026-12-25 that are no working days")


@dataclass(frozen=True, slots=True)
class VeeConfig:
    """`rules_of(category)` are the settings by rule."""

    general: General
    rules: Mapping[str, Settings]
    classes: Mapping[str, Mapping[str, Settings]]

    def rules_of(self, category: str) -> Mapping[str, Settings]:
        """Settings of a class of usage points, by rule; the network's own where there is no such class."""
        return self.classes.get(category, self.rules)


def parse(told: Mapping[str, Any]) -> VeeConfig:
    """Read what a model or file says.

    Raises:
        InvalidVee: with every problem there is.
    """
    problems: list[str] = []
    _unknown(problems, "", told, ("general", "rules", "classes"))
    general = _changed(problems, "general", General(), _table(problems, "general", told))
    _check_general(problems, general)
    rules = _rules(problems, "rules", {name: rule.settings() for name, rule in BY_NAME.items()}, told)
    classes = _table(problems, "classes", told)
    found = {name: _rules(problems, name, rules, classes, f"classes.{name}") for name in classes}
    if problems:
        raise InvalidVee(problems)
    return VeeConfig(general, rules, found)


def _rules(
    problems: list[str], key: str, base: Mapping[str, Settings], told: Mapping[str, Any], path: str = ""
) -> dict[str, Settings]:  # fmt: skip
    table = _table(problems, key, told, path)
    _unknown(problems, path or key, table, BY_NAME)
    return {
        name: _changed(
            problems, f"{path or key}.{name}", settings, _table(problems, name, table, f"{path or key}.{name}")
        )
        for name, settings in base.items()
    }


def _table(problems: list[str], key: str, told: Mapping[str, Any], path: str = "") -> Mapping[str, Any]:
    table = told.get(key, {})
    if isinstance(table, Mapping):
        return table
    problems.append(f"{path or key} must be a table, not {table!r}")
    return {}


def _changed(problems: list[str], path: str, settings: Any, told: Mapping[str, Any]) -> Any:
    known = {field.name: field for field in fields(settings)}
    _unknown(problems, path, told, known)
    values = {}
    for name, value in told.items():
        if name in known:
            fault, value = _value(known[name], getattr(type(settings)(), name), value)
            if fault:
                problems.append(f"{path}.{name} {fault}")
            else:
                values[name] = value
    return replace(settings, **values)


def _value(field: Field[Any], default: Any, value: Any) -> tuple[str, Any]:
    """What is wrong with a value, and the value."""
    if isinstance(default, bool):
        return ("" if isinstance(value, bool) else f"must be true or false, not {value!r}"), value
    if isinstance(default, str):
        return ("" if isinstance(value, str) else f"must be a text, not {value!r}"), value
    if isinstance(default, tuple):
        good = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
        return ("" if good else f"must be a list of texts, not {value!r}"), tuple(value) if good else ()
    wanted = (int,) if isinstance(default, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or value != value or abs(value) == float("inf"):
        return f"must be a {'whole ' if isinstance(default, int) else ''}number, not {value!r}", default
    least = field.metadata["least"]
    if least is not None and value < least:
        return f"must be at least {least}, not {value!r}", default
    return "", type(default)(value)


def _check_general(problems: list[str], general: General) -> None:
    if general.storm_area not in AREAS:
        problems.append(f"general.storm_area must be one of {', '.join(AREAS)}, not {general.storm_area!r}")
    shares = {name: getattr(general, name) for name in ("storm_drop", "storm_resume", "slo")}
    problems += [f"general.{name} is a share, at most 1, not {value}" for name, value in shares.items() if value > 1]
    for each in general.holidays:
        try:
            date.fromisoformat(each)
        except ValueError:
            problems.append(f"general.holidays: {each!r} is no date such as 2026-12-25")


def _unknown(problems: list[str], path: str, told: Collection[str], known: Collection[str]) -> None:
    for name in told:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), 1)
            where = f"{path}.{name}" if path else name
            problems.append(f"{where} is unknown" + (f", did you mean {near[0]}?" if near else ""))


def effective(config: VeeConfig) -> Iterator[tuple[str, str, str, Any]]:
    """(class, rule, setting, value) of everything; class "" is the network."""
    for category, rules in (("", config.rules), *config.classes.items()):
        for name, settings in rules.items():
            for field in fields(settings):
                yield category, name, field.name, getattr(settings, field.name)
