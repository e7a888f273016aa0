"""Filters on events, the same for browsing, tailing and the command line.

    load_kw > 100 and transformer = T1
    header.reason ~ "CRC" and partition = 2
    key = 'meter-7' and timestamp >= 2026-01-01T00:00:00Z

A condition is a field, one of `= != < <= > >= ~` (`==` is `=`) and a value; all joined by `and` must hold. Fields:
`key`, `partition`, `offset`, `timestamp`, `header.NAME`, `value` (a JSON object's own field of that name, else the
whole as text); anything else is a path into a JSON value (`data.items.0.kw`; `value.key` for a field that is called
like one of these). `~` is: contains, in any case.
Comparing with a number compares numbers, with anything else texts. A field that is not there fulfils `!=` only.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from gridwire.core.batch import Event
from gridwire.wire.http.problems import HttpError

TEXT_MAX: Final = 1_000
"""Longest filter."""

CONDITIONS_MAX: Final = 20
FIELDS_MAX: Final = 50

_CONDITION: Final = re.compile(
    r"\s*(?P<field>[^\s=!<>~'\"]+)\s*(?P<op>!=|<=|>=|==?|<|>|~)\s*"
    r"(?:'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<bare>[^\s'\"]+))\s*"
)
_AND: Final = re.compile(r"and\b", re.IGNORECASE)
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class _Condition:
    field: str
    op: str
    text: str
    number: float | None

    def holds(self, found: Any) -> bool:
        if found is _MISSING:
            return self.op == "!="
        if self.op == "~":
            return self.text.casefold() in text_of(found).casefold()
        known = number_of(found)
        numbers = self.number is not None and known is not None
        if self.op in _ORDER:
            same_kind = (known is None) == (self.number is None)
            order = _ORDER[self.op]
            return same_kind and (order(known, self.number) if numbers else order(text_of(found), self.text))
        same = known == self.number if numbers else text_of(found) == self.text
        return same == (self.op == "=")


class Where:
    """A filter that is ready to be asked."""

    def __init__(self, conditions: Sequence[_Condition]) -> None:
        self._conditions = conditions
        self._reads_value = any(_reads_value(each.field) for each in conditions)

    def matches(self, partition: int, event: Event) -> bool:
        """Whether all conditions hold."""
        document = _document(event.value) if self._reads_value else _MISSING
        return all(each.holds(_field(each.field, partition, event, document)) for each in self._conditions)

    def equalities(self) -> list[tuple[str, str]]:
        """Fields that must be a certain text, for who can find those faster."""
        return [(each.field, each.text) for each in self._conditions if each.op == "=" and each.number is None]


class Fields:
    """Chosen fields of events, named as in a filter: the columns of a table."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._reads_value = any(_reads_value(name) for name in names)

    @classmethod
    def parse(cls, text: str) -> Fields:
        """Names between commas. Raises HttpError 400."""
        names = [name.strip() for name in text.split(",") if name.strip()]
        if len(text) > TEXT_MAX or not 1 <= len(names) <= FIELDS_MAX:
            raise HttpError(400, f"fields are 1 to {FIELDS_MAX} names between commas, such as usage_point,value")
        return cls(list(dict.fromkeys(names)))

    def of(self, partition: int, event: Event) -> Iterator[Any]:
        """The values in order; None for a field that is not there."""
        document = _document(event.value) if self._reads_value else _MISSING
        for name in self.names:
            found = _field(name, partition, event, document)
            yield None if found is _MISSING else found


def parse(text: str) -> Where:
    """A filter. Raises HttpError 400 that says where it cannot be understood."""
    if len(text) > TEXT_MAX:
        raise HttpError(400, f"a filter may have {TEXT_MAX} characters")
    conditions: list[_Condition] = []
    position = 0
    while True:
        match = _CONDITION.match(text, position)
        if match is None:
            unclear = text[position : position + 40]
            raise HttpError(400, f"filter not understood at {unclear!r}: write FIELD OP VALUE, such as load_kw > 5")
        quoted = match["single"] if match["single"] is not None else match["double"]
        value = match["bare"] if quoted is None else quoted
        number = _comparable(match["field"], value) if quoted is None or match["field"] == "timestamp" else None
        conditions.append(_Condition(match["field"], match["op"].replace("==", "="), value, number))
        position = match.end()
        if position == len(text):
            return Where(conditions)
        joined = _AND.match(text, position)
        if joined is None or len(conditions) >= CONDITIONS_MAX:
            raise HttpError(400, f"conditions are joined by `and`, at most {CONDITIONS_MAX}: {text[position:][:40]!r}")
        position = joined.end()


def _comparable(field: str, value: str) -> float | None:
    if field == "timestamp":
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return _number(value)
        if moment.tzinfo is None:
            raise HttpError(400, f"{value!r} has no offset: write 2026-01-01T00:00:00Z")
        return moment.timestamp() * 1000
    return _number(value)


def number_of(found: Any) -> float | None:
    """A found value as a number: itself, or what its text says; None when it is none."""
    return found if isinstance(found, int | float) and not isinstance(found, bool) else _number(found)


def _number(value: Any) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return None if number != number else number


def text_of(found: Any) -> str:
    """A found value as texts are compared."""
    if isinstance(found, str):
        return found
    if isinstance(found, bytes):
        return found.decode("utf-8", "replace")
    return orjson.dumps(found, default=str).decode()


def _reads_value(field: str) -> bool:
    return field not in ("key", "partition", "offset", "timestamp") and not field.startswith("header.")


def _document(value: bytes | None) -> Any:
    try:
        return orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return _MISSING


def _field(field: str, partition: int, event: Event, document: Any) -> Any:
    if field.startswith("header."):
        name = field.removeprefix("header.")
        return next((text_of(value or b"") for known, value in reversed(event.headers) if known == name), _MISSING)
    if field == "partition":
        return partition
    if field in ("offset", "timestamp"):
        return getattr(event, field)
    if field == "key" or (field == "value" and not (isinstance(document, dict) and "value" in document)):
        found = getattr(event, field)
        return _MISSING if found is None else text_of(found)
    return _at(document, field.removeprefix("value.").split("."))


def _at(document: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(document, dict):
            document = document.get(part, _MISSING)
        elif isinstance(document, list) and part.isdecimal() and int(part) < len(document):
            document = document[int(part)]
        else:
            return _MISSING
    return document
