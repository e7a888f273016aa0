"""Local days: which interval belongs to which day of a zone, and which days are alike.

Intervals are evenly spaced in UTC; days are not. A local day has 23 or 25 hours where clocks change, so its quarter
hours are 92 or 100, and a daily reading of 82,800 or 90,000 s is right there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

DAY_S: Final = 86_400
DAY_LENGTHS_S: Final = (82_800, 86_400, 90_000)
"""A day of 23, 24 and 25 hours."""

REFERENCE_DAYS: Final = 14
"""How many days before one are looked at for days like it: two weeks hold four days that are no working days."""

_EPOCH = date(1970, 1, 1)
_THURSDAY = 3  # the day of the epoch, Monday being 0
_SATURDAY = 5


def offset_s(zone: str, ts_s: int) -> int:
    """How far a zone's clocks are ahead of UTC at an instant, in seconds."""
    offset = datetime.fromtimestamp(ts_s, UTC).astimezone(ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def offsets_s(zone: str, ts_s: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same for ascending instants, a day at a time: asked one by one only on days when clocks change.

    **Shape**: `ts_s[n]` -> `int64[n]`.
    """
    out = np.empty(len(ts_s), np.int64)
    for begin in range(0, len(ts_s), 96):
        part = ts_s[begin : begin + 96]
        first, last = offset_s(zone, int(part[0])), offset_s(zone, int(part[-1]))
        same = first == last
        out[begin : begin + 96] = first if same else [offset_s(zone, each) for each in part.tolist()]
    return out


def local_day_bounds_s(zone: str, day: int) -> tuple[int, int]:
    """Begin and end of a local day in UTC seconds. `day` counts local dates since 1970-01-01."""
    midnights = []
    for number in (day, day + 1):
        local = datetime.combine(_EPOCH + timedelta(days=number), datetime.min.time(), ZoneInfo(zone))
        midnights.append(int(local.timestamp()))
    return midnights[0], midnights[1]


@dataclass(frozen=True, slots=True, eq=False)
class Calendar:
    """n consecutive intervals of one zone.

    **Shape**: `days`, `clock`, `day_at` `[n]`; `starts`, `whole` `[d]`; `references`, `alike` `[n, REFERENCE_DAYS]`.

    Args:
        days: local date of each interval, as days since the epoch. clock: its start on the local clock, in intervals.
        starts: first interval of each local day. day_at: which of them an interval is in. whole: all of it is here.
        references: the interval of the same clock time 1, 2, ... days before, -1 where there is none.
        alike: that day is a working day as this one is, or neither is.
    """

    first_slot: int
    interval_s: int
    days: NDArray[np.int64]
    clock: NDArray[np.int64]
    starts: NDArray[np.int64]
    day_at: NDArray[np.int64]
    whole: NDArray[np.bool_]
    references: NDArray[np.int64]
    alike: NDArray[np.bool_]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Intervals of each day that are here. **Shape** `[d]`."""
        return np.diff(self.starts, append=len(self.days))

    @property
    def lasts(self) -> NDArray[np.int64]:
        """Last interval of each day. **Shape** `[d]`."""
        return np.append(self.starts[1:], len(self.days)) - 1


@lru_cache(maxsize=64)
def calendar(zone: str, first_slot: int, count: int, interval_s: int, holidays: Collection[str] = ()) -> Calendar:
    """The calendar of `count` intervals from `first_slot` on; a slot is `ts_end` divided by the interval.

    Args:
        holidays: local dates such as 2026-12-25 that are no working days; hashable.
    """
    begins_s = (np.arange(first_slot, first_slot + count, dtype=np.int64) - 1) * interval_s
    local_s = begins_s + offsets_s(zone, begins_s)
    days, clock = local_s // DAY_S, local_s % DAY_S // interval_s
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1))
    bounds = [local_day_bounds_s(zone, day) for day in days[starts].tolist()]
    lengths = np.diff(starts, append=count)
    whole = np.array([(end - begin) // interval_s for begin, end in bounds]) == lengths
    free = {(date.fromisoformat(each) - _EPOCH).days for each in holidays}
    works = np.array([(day + _THURSDAY) % 7 < _SATURDAY and day not in free for day in days[starts].tolist()])
    references = _references(days, clock, DAY_S // interval_s)
    day_at = np.repeat(np.arange(len(starts)), lengths)
    alike = (works[day_at][references] == works[day_at][:, None]) & (references >= 0)
    return Calendar(first_slot, interval_s, days, clock, starts, day_at, whole, references, alike)


def _references(days: NDArray[np.int64], clock: NDArray[np.int64], per_day: int) -> NDArray[np.int64]:
    """Of an hour that comes twice the first one stands for that clock time."""
    first = int(days[0])
    at = np.full((int(days[-1]) - first + 1, per_day), -1, np.int64)
    places = np.arange(len(days))[::-1]
    at[days[places] - first, clock[places]] = places
    before = days[:, None] - np.arange(1, REFERENCE_DAYS + 1) - first
    return np.where(before >= 0, at[np.maximum(before, 0), clock[:, None]], -1)
