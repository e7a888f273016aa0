"""Local hours of a utility: hours since the epoch to hour of the day and kind of day."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

WORKDAY, SATURDAY, SUNDAY = range(3)
"""Kinds of days. Holidays are not known: a utility's calendar differs from the next one's."""

KINDS: Final = 3


def offsets_h(hours: NDArray[np.int64], zone: str) -> NDArray[np.float64]:
    """**Shape** as `hours`: offset from UTC in hours, daylight saving time and all."""
    days, inverse = np.unique(hours // 24, return_inverse=True)
    where = ZoneInfo(zone)

    def offset(hour: int) -> float:
        moment = datetime.fromtimestamp(hour * 3600, where).utcoffset()
        return moment.total_seconds() / 3600 if moment is not None else 0.0

    first = np.array([offset(day * 24) for day in days.tolist()])
    last = np.array([offset(day * 24 + 23) for day in days.tolist()])
    found: NDArray[np.float64] = first[inverse].astype(np.float64)
    for at in np.flatnonzero((first != last)[inverse]).tolist():  # the two days of the year on which it changes
        found[at] = offset(int(hours[at]))
    return found


def local(hours: NDArray[np.int64], zone: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(hour of the day 0 to 23, kind of day, local day since the epoch) in which each hour lies.

    Args:
        hours: ENDS of hours, in hours since the epoch: hour 13 ends at 13:00 and is hour 12 of its day.
    """
    begins = hours - 1
    shifted = np.floor(begins + offsets_h(begins, zone)).astype(np.int64)
    day = shifted // 24
    weekday = (day + 3) % 7  # the epoch was a Thursday
    kind = np.where(weekday == 5, SATURDAY, np.where(weekday == 6, SUNDAY, WORKDAY))
    return shifted % 24, kind, day
