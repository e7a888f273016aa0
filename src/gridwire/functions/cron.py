"""When a timer fires: NCRONTAB with six fields (five without seconds), or a time span.

    {second} {minute} {hour} {day} {month} {day of week}      0 = Sunday; names as JAN, MON; `*`, `a-b`, `a,b`, `*/n`

A time must fit the day of the month and the day of the week both, unlike in Unix cron, where either will do.
Source: the NCRONTAB project's description, and Azure's reference of the timer trigger.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gridwire.functions.settings import Invalid, seconds

YEARS_AHEAD: Final = 30
"""A schedule that does not fit any day that far ahead (30 February) never fires. 29 February needs up to 8 years."""

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS: Final = (
    ("second", 0, 59, ()), ("minute", 0, 59, ()), ("hour", 0, 23, ()),
    ("day", 1, 31, ()), ("month", 1, 12, _MONTHS), ("day of week", 0, 6, _DAYS),
)  # fmt: skip
_PART = re.compile(r"(\*|[A-Za-z0-9]+)(?:-([A-Za-z0-9]+))?(?:/(\d+))?\Z")


@dataclass(frozen=True, slots=True)
class Every:
    """A time span between two calls."""

    span: timedelta

    def after(self, moment: datetime) -> datetime | None:
        """The next time after a moment."""
        return moment + self.span


@dataclass(frozen=True, slots=True)
class Cron:
    """Values each field may have, ascending."""

    second: tuple[int, ...]
    minute: tuple[int, ...]
    hour: tuple[int, ...]
    day: tuple[int, ...]
    month: tuple[int, ...]
    weekday: tuple[int, ...]

    def after(self, moment: datetime) -> datetime | None:
        """The next time after a moment; None if there is none for decades."""
        at = moment.replace(microsecond=0) + timedelta(seconds=1)
        day = at.date()
        first = True
        while day.year <= moment.year + YEARS_AHEAD:
            if day.month in self.month and day.day in self.day and (day.weekday() + 1) % 7 in self.weekday:
                time = self._time((at.hour, at.minute, at.second) if first else (0, 0, 0))
                if time is not None:
                    return datetime(day.year, day.month, day.day, *time, tzinfo=moment.tzinfo)
            day += timedelta(days=1)
            first = False
        return None

    def _time(self, least: tuple[int, int, int]) -> tuple[int, int, int] | None:
        """The first time of a day that is not before `least`."""
        for hour in self.hour:
            if hour < least[0]:
                continue
            for minute in self.minute:
                if (hour, minute) < least[:2]:
                    continue
                for second in self.second:
                    if (hour, minute, second) >= least:
                        return hour, minute, second
        return None


def parse(text: str) -> Cron | Every:
    """Read a schedule. Raises Invalid: says which field and why."""
    fields = text.split()
    if len(fields) == 1 and ":" in text:
        span_s = seconds(text, "the schedule")
        if not 0 < span_s < float("inf"):
            raise Invalid(f"the schedule {text!r} never fires")
        return Every(timedelta(seconds=span_s))
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise Invalid(f"the schedule {text!r} must have six fields: second minute hour day month day-of-week")
    return Cron(*(_values(field, *row) for field, row in zip(fields, _FIELDS, strict=True)))


def _values(field: str, name: str, least: int, most: int, names: tuple[str, ...]) -> tuple[int, ...]:
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.match(part)
        if match is None:
            raise Invalid(f"the schedule's {name} {part!r} is not understood")
        first, last, step = match.groups()
        if first == "*":
            low, high = least, most
        else:
            low = _number(first, name, least, most, names)
            high = _number(last, name, least, most, names) if last else most if step else low
        if low > high or step == "0":
            raise Invalid(f"the schedule's {name} {part!r} is empty")
        found.update(range(low, high + 1, int(step or 1)))
    return tuple(sorted(found))


def _number(text: str, name: str, least: int, most: int, names: tuple[str, ...]) -> int:
    if text[:3].upper() in names:
        return names.index(text[:3].upper()) + least
    number = int(text) if text.isdigit() else -1
    if name == "day of week" and number == 7:
        number = 0
    if not least <= number <= most:
        raise Invalid(f"the schedule's {name} must be {least} to {most}, not {text!r}")
    return number
