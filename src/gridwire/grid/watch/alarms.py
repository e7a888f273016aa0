"""What detectors of many units share: alarms with hysteresis, and intervals that close when the next one begins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Units = NDArray[np.intp]
_MINUTE_US = 60_000_000


class Alarms:
    """An alarm of each of n units: it opens after some bad verdicts in a row and closes after some good ones.

    A verdict that is neither breaks no row of an open alarm and begins no new one. 6 bytes a unit.

    Args:
        open_after, close_after: verdicts in a row, 1 to 255.
    """

    def __init__(self, n: int, open_after: int, close_after: int) -> None:
        self._open_after, self._close_after = open_after, close_after
        self.open = np.zeros(n, np.bool_)
        self._streak = np.zeros(n, np.uint8)
        self._started_min = np.zeros(n, np.int32)

    def started_us(self, unit: int) -> int:
        """When the alarm of a unit began: the first verdict of its row."""
        return int(self._started_min[unit]) * _MINUTE_US

    def update(
        self, units: Units, bad: NDArray[np.bool_], good: NDArray[np.bool_], ts_us: NDArray[np.int64]
    ) -> tuple[Units, Units]:
        """One verdict of each of `units`, each at most once. Returns the units that opened and that closed."""
        open = self.open[units]
        streak = self._streak[units]
        counts = np.where(open, good, bad)
        begins = counts & (streak == 0) & ~open
        streak = np.where(counts, np.minimum(streak, 254) + 1, 0).astype(np.uint8)
        self._started_min[units[begins]] = ts_us[begins] // _MINUTE_US
        opens = ~open & (streak >= self._open_after)
        closes = open & (streak >= self._close_after)
        self._streak[units] = np.where(opens | closes, 0, streak)
        self.open[units] = (open | opens) & ~closes
        return units[opens], units[closes]

    def to_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The state under names that begin with `name`."""
        return {f"{name}_open": self.open, f"{name}_streak": self._streak, f"{name}_started": self._started_min}

    def from_arrays(self, name: str, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        self.open[:] = arrays[f"{name}_open"]
        self._streak[:] = arrays[f"{name}_streak"]
        self._started_min[:] = arrays[f"{name}_started"]


class OpenIntervals:
    """The newest interval of each of n units with its value so far; the first row of a later one closes it.

    What comes for a closed interval is late: it is counted and changes nothing. So the state is a function of the order
    of rows, however they were cut into batches.
    """

    def __init__(self, n: int) -> None:
        self.slots = np.full(n, -1, np.int64)
        self.values = np.zeros(n)
        self.late = 0

    def take(
        self, units: NDArray[np.int32], slots: NDArray[np.int64], values: NDArray[np.float64]
    ) -> list[tuple[Units, NDArray[np.int64], NDArray[np.float64]]]:
        """Take rows; of several rows of one interval the last holds.

        Returns:
            Closed intervals as (units, slots, values) in order of time; a unit is at most once in each.
        """
        order = np.argsort(units, kind="stable")
        u, s, v = units[order].astype(np.intp), slots[order], values[order]
        accepted = s >= self._newest_before(u, s)
        self.late += int(len(s) - accepted.sum())
        # What is open stands before what came, as if it had come now.
        known = np.unique(u)
        known = known[self.slots[known] >= 0]
        u = np.concatenate((known, u[accepted]))
        s = np.concatenate((self.slots[known], s[accepted]))
        v = np.concatenate((self.values[known], v[accepted]))
        order = np.argsort(u, kind="stable")
        u, s, v = u[order], s[order], v[order]
        last = np.ones(len(u), np.bool_)
        last[:-1] = (u[1:] != u[:-1]) | (s[1:] != s[:-1])
        u, s, v = u[last], s[last], v[last]
        newest = np.ones(len(u), np.bool_)
        newest[:-1] = u[1:] != u[:-1]
        self.slots[u[newest]], self.values[u[newest]] = s[newest], v[newest]
        return _rounds(u[~newest], s[~newest], v[~newest])

    def _newest_before(self, units: Units, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Newest slot of the row's unit up to the row; rows are sorted by unit."""
        if not len(units):
            return slots
        group = np.cumsum(np.diff(units, prepend=units[0]) != 0)
        seen = np.maximum(slots, self.slots[units])
        least = int(seen.min())
        span = int(seen.max()) - least + 1
        newest: NDArray[np.int64] = np.maximum.accumulate(seen - least + group * span) - group * span + least
        return newest


def _rounds(
    units: Units, slots: NDArray[np.int64], values: NDArray[np.float64]
) -> list[tuple[Units, NDArray[np.int64], NDArray[np.float64]]]:
    """Rows sorted by unit and slot, cut so that each part has a unit once and parts are in order for each unit."""
    if not len(units):
        return []
    starts = np.flatnonzero(np.diff(units, prepend=-1))
    place = np.arange(len(units)) - np.repeat(starts, np.diff(np.append(starts, len(units))))
    order = np.argsort(place, kind="stable")
    cuts = np.flatnonzero(np.diff(place[order])) + 1
    parts = np.split(order, cuts)
    return [(units[part], slots[part], values[part]) for part in parts]
