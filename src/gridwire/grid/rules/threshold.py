"""A threshold on a hub: events in, findings out.

    beyond `value` `for_count` times in a row  -> open
    not beyond `closes_at` any more            -> closed
    nothing heard for `quiet_s`                -> closed, at the time at which it had been quiet for so long

Time is what the hub has stamped on the events, but never later than now; it goes on by itself only as far as everything
has been read. So a worker that was away finds what it would have found.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.broker.alert_rules import Held, ThresholdRule
from gridwire.columnar.columns import EventColumns
from gridwire.columnar.json_columns import JsonColumns, JsonDecoder, JsonField, Status
from gridwire.core.batch import Event
from gridwire.grid.rules.subjects import SUBJECT_CHARS_MAX, Subjects, short
from gridwire.wire.http import where

_US: Final = 1_000_000
_NOT_MEMBERS: Final = frozenset({"key", "partition", "offset", "timestamp"})
_NEAR: Final = 1e-9
"""Relative distance at which the columns' numbers need not be exact: such a row is looked at by itself."""

_HARMLESS: Final = (Status.NO_VALUE, Status.MALFORMED)
"""Rows that have no fields for anybody."""

_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip


class Threshold:
    """One rule over one hub."""

    def __init__(self, rule: ThresholdRule, subjects: Subjects) -> None:
        self.rule, self.subjects = rule, subjects
        self._beyond = _OPERATORS[rule.op]
        self._closes_at = rule.value if rule.closes_at is None else rule.closes_at
        self._where = where.parse(rule.where) if rule.where else None
        self._fields = where.Fields([rule.field, rule.subject] if rule.subject else [rule.field])
        self._quiet_us = None if rule.quiet_s is None else rule.quiet_s * _US
        self._sieve = Sieve.of(rule)

    def take(self, partition: int, columns: EventColumns, now_ms: int) -> None:
        """Take events of one partition in their order. `now_ms`: no event counts as later."""
        state = self.subjects.state
        state.events += len(columns)
        if not len(columns):
            return
        state.last_ms = max(state.last_ms, min(int(columns.timestamps.max()), now_ms))
        rows: Sequence[int] = range(len(columns))
        if self._sieve is not None:
            rows, skipped = self._sieve.rows(columns, self.subjects.active)
            state.skipped += skipped
        for row in rows:
            self._event(partition, columns.event(row), now_ms)

    def _event(self, partition: int, event: Event, now_ms: int) -> None:
        if self._where is not None and not self._where.matches(partition, event):
            return
        found = list(self._fields.of(partition, event))
        value = self._value(found[0])
        subject = self._subject(found)
        if value is None or subject is None:
            self.subjects.state.skipped += 1
            return
        at_us = (min(event.timestamp, now_ms) if event.timestamp >= 0 else now_ms) * 1000
        held = self._quieted(subject, at_us)
        if held is None:
            if self._beyond(value, self.rule.value):
                held = self.subjects.begin(subject, at_us)
                if held is not None:
                    self._count(subject, held, value, at_us)
            return
        held.heard_us = max(held.heard_us, at_us)
        if self._quiet_us is not None:
            self.subjects.changed.add(subject)
        if held.open:
            self._of_open(subject, held, value, at_us)
        elif self._beyond(value, self.rule.value):
            self._count(subject, held, value, at_us)
        else:
            self.subjects.forget(subject)

    def _value(self, found: Any) -> float | str | None:
        if isinstance(self.rule.value, str):
            return None if found is None else where.text_of(found)
        return where.number_of(found)

    def _subject(self, found: list[Any]) -> str | None:
        if len(found) == 1:
            return ""
        if found[1] is None or isinstance(found[1], dict | list):
            return None
        text = where.text_of(found[1])
        return text if 0 < len(text) <= SUBJECT_CHARS_MAX else None

    def _quieted(self, subject: str, at_us: int) -> Held | None:
        """What is in mind of a subject when something is heard again: nothing, if it was quiet for long enough."""
        held = self.subjects.held.get(subject)
        if held is None or not (held.open or held.count):
            return None
        if self._quiet_us is not None and at_us - held.heard_us >= self._quiet_us:
            self._close_quiet(subject, held, at_us)
            return None
        return held

    def _count(self, subject: str, held: Held, value: float | str, at_us: int) -> None:
        held.count += 1
        self.subjects.changed.add(subject)
        if held.count >= self.rule.for_count and not self.subjects.open(subject, self._evidence(value), at_us):
            self.subjects.forget(subject)

    def _of_open(self, subject: str, held: Held, value: float | str, at_us: int) -> None:
        if not self._beyond(value, self._closes_at):
            self.subjects.close(subject, at_us, at_us, closed_by=short(value))
        elif self._worse(value, held.evidence.get("worst")):
            held.evidence = {**held.evidence, "worst": short(value)}
            self.subjects.changed.add(subject)

    def _worse(self, value: float | str, worst: Any) -> bool:
        """Told with the next version; that it gets worse is no news each time."""
        if isinstance(value, str) or not isinstance(worst, int | float) or self.rule.op in ("=", "!="):
            return False
        return value > worst if self.rule.op in (">", ">=") else value < worst

    def _evidence(self, value: float | str) -> dict[str, Any]:
        rule = self.rule
        found: dict[str, Any] = {"hub": rule.hub, "field": rule.field, "value": short(value), "op": rule.op,
                                 "limit": short(rule.value)}  # fmt: skip
        if not isinstance(value, str) and rule.op not in ("=", "!="):
            found["worst"] = value
        if rule.for_count > 1:
            found["in_a_row"] = rule.for_count
        if rule.text:
            found["text"] = rule.text
        return found

    # -- silence ------------------------------------------------------------------------------------------------

    def pass_time(self, until_us: int) -> None:
        """Everything that was said up to a time has been taken."""
        if self._quiet_us is None:
            return
        for subject in list(self.subjects.active):
            held = self.subjects.held[subject]
            if until_us - held.heard_us >= self._quiet_us:
                self._close_quiet(subject, held, until_us)

    def _close_quiet(self, subject: str, held: Held, at_us: int) -> None:
        assert self._quiet_us is not None
        if held.open:
            self.subjects.close(subject, held.heard_us + self._quiet_us, at_us, quiet_s=self.rule.quiet_s)
        else:
            self.subjects.forget(subject)


class Sieve:
    """Which rows of a batch a rule must look at one by one, found with the columns' kernels.

    It lets through every row whose value is beyond the limit or near it, and every row of a subject that is in mind or
    has such a value: more than are needed, never less. What the kernels cannot read goes through with its whole batch.
    """

    def __init__(self, rule: ThresholdRule, field: str, subject: str | None, equal: Sequence[tuple[str, str]]) -> None:
        assert not isinstance(rule.value, str)
        self._op, self._limit = rule.op, float(rule.value)
        self._field, self._subject, self._equal = field, subject, equal
        texts = dict.fromkeys([name for name, _ in equal] + ([] if subject is None else [subject]))
        self._decoder = JsonDecoder([JsonField(field, "decimal"), *(JsonField(name, "text") for name in texts)])

    @classmethod
    def of(cls, rule: ThresholdRule) -> Sieve | None:
        """That of a rule, where it can have one: for a number that is a member of the value's object."""
        field = _member(rule.field)
        subject = _member(rule.subject) if rule.subject else None
        if isinstance(rule.value, str) or field is None or rule.op == "!=" or (rule.subject and subject is None):
            return None
        said = where.parse(rule.where).equalities() if rule.where else ()
        equal = [(name, text) for path, text in said if (name := _member(path)) is not None]
        try:
            return cls(rule, field, subject, equal)
        except ValueError:
            return None

    def rows(self, columns: EventColumns, active: set[str]) -> tuple[Sequence[int], int]:
        """Rows to look at, in order, and how many others lack the field or the subject."""
        found = self._decoder.decode(columns)
        readable = found.status == Status.OK
        if not (readable | np.isin(found.status, _HARMLESS)).all():
            return range(len(columns)), 0
        meant = readable.copy()
        for name, text in self._equal:
            meant &= _is_text(found, name, text.encode())
        whole = meant & found.valid(self._field)
        if self._subject is not None:
            whole &= found.text(self._subject)[1] > 0
        rows = self._of_interest(found, whole, active)
        return rows, int((meant & ~whole).sum() + (0 if self._equal else (~readable).sum()))

    def _of_interest(self, found: JsonColumns, whole: NDArray[np.bool_], active: set[str]) -> list[int]:
        beyond = whole & self._beyond(found)
        if not beyond.any() and not active:
            return []
        if self._subject is not None:
            certain = np.flatnonzero(beyond)
            subjects = active | {text for text in found.texts(self._subject, certain) if text is not None}
            others = np.flatnonzero(whole & ~beyond)
            texts = found.texts(self._subject, others)
            beyond[[row for row, text in zip(others.tolist(), texts, strict=True) if text in subjects]] = True
            whole = beyond
        rows: list[int] = np.flatnonzero(whole).tolist()
        return rows

    def _beyond(self, found: JsonColumns) -> NDArray[np.bool_]:
        mantissa, scale = found.decimal(self._field)
        values = mantissa.astype(np.float64) * np.power(10.0, scale.astype(np.float64))
        room = _NEAR * np.maximum(np.abs(values), abs(self._limit))
        near: NDArray[np.bool_]
        if self._op in (">", ">="):
            near = values >= self._limit - room
        elif self._op in ("<", "<="):
            near = values <= self._limit + room
        else:
            near = np.abs(values - self._limit) <= room
        return near


def _is_text(found: JsonColumns, name: str, text: bytes) -> NDArray[np.bool_]:
    starts, lengths = found.text(name)
    same: NDArray[np.bool_] = lengths == len(text)
    for place, byte in enumerate(text):
        rows = np.flatnonzero(same)
        same[rows] = found.data[starts[rows] + place] == byte
    return same


def _member(path: str) -> str | None:
    """The name of a member of the value's object that a field means; None for anything deeper or beside it."""
    if path in _NOT_MEMBERS or path.startswith("header."):
        return None
    name = path.removeprefix("value.")
    return None if "." in name or not name or name.isdecimal() else name
