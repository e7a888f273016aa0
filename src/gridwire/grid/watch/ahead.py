"""Lone voltages from the future are kept out: a meter whose clock runs ahead, or a recording that is replayed.

Voltages are compared interval by interval, and the newest one moves all detectors on: one reading of next week would
make everybody's readings until then too late. So an interval further ahead than `REACH_S` is believed once several
usage points say that it is there; who said it before is passed over. A utility of a few meters believes each of them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid import reading_types
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.base import SeenReadings

REACH_S: Final = 2 * 3600
QUORUM_MAX: Final = 8
QUORUM_SHARE: Final = 50
"""One of so many usage points, but `QUORUM_MAX` at most, make a quorum."""

BLOCK: Final = 4096
"""Rows looked at together: the newest interval may move with each of them."""

SUSPECTS_MAX: Final = 1024
"""Intervals that somebody has spoken of ahead of time; the oldest are forgotten."""

TYPES: Final = np.array(
    [reading_types.BY_ALIAS[name].id for name in ("voltage_v", "voltage_l1_v", "voltage_l2_v", "voltage_l3_v")],
    np.int16,
)
"""Types that are looked at; all others pass."""


class Ahead:
    """A function of the readings it was given, in their order.

    Args:
        index: its usage points and interval.
    """

    def __init__(self, index: NetworkIndex) -> None:
        self.quorum = int(np.clip(len(index.unit_ids) // QUORUM_SHARE, 1, QUORUM_MAX))
        self.newest = -1
        self.passed_over = 0
        self._reach = max(1, REACH_S // index.interval_s)
        self._interval_us = index.interval_s * 1_000_000
        self._suspects: dict[int, set[int]] = {}

    def only(self, seen: SeenReadings) -> SeenReadings:
        """The readings that are believed."""
        rows = np.flatnonzero(np.isin(seen.types, TYPES))
        if self.quorum == 1 or not len(rows):
            return seen
        good = self._believed(seen.ts_end_us[rows] // self._interval_us, seen.points[rows])
        if good.all():
            return seen
        self.passed_over += int(np.count_nonzero(~good))
        kept = np.ones(len(seen), np.bool_)
        kept[rows] = good
        return SeenReadings(
            seen.points[kept], seen.types[kept], seen.ts_end_us[kept], seen.interval_s[kept], seen.values[kept],
            seen.received_us[kept],
        )  # fmt: skip

    def _believed(self, slots: NDArray[np.int64], points: NDArray[np.int32]) -> NDArray[np.bool_]:
        good = np.ones(len(slots), np.bool_)
        for first in range(0, len(slots), BLOCK):
            part = slice(first, first + BLOCK)
            block, marks, who = slots[part], good[part], points[part]
            begin: int | None = 0
            while begin is not None:
                far = np.flatnonzero(block[begin:] > self.newest + self._reach) + begin
                begin = self._judge(block, who, far, marks, begin)
        return good

    def _judge(
        self, slots: NDArray[np.int64], points: NDArray[np.int32], far: NDArray[np.int64], good: NDArray[np.bool_],
        begin: int,
    ) -> int | None:  # fmt: skip
        """Mark those that are too far ahead, up to the first one that moves the newest interval: its row."""
        row: int
        for row in far.tolist():
            near = slots[begin:row][good[begin:row]]
            if len(near):
                self.newest = max(self.newest, int(near.max()))
            begin = row
            slot = int(slots[row])
            if slot <= self.newest + self._reach or self._suspected(slot, int(points[row])) >= self.quorum:
                self.newest = max(self.newest, slot)
                self._suspects = {each: known for each, known in self._suspects.items() if each > self.newest}
                return row + 1
            good[row] = False
        near = slots[begin:][good[begin:]]
        if len(near):
            self.newest = max(self.newest, int(near.max()))
        return None

    def _suspected(self, slot: int, point: int) -> int:
        """How many usage points have spoken of an interval, this one included."""
        known = self._suspects.pop(slot, set()) | {point}
        self._suspects[slot] = known
        if len(self._suspects) > SUSPECTS_MAX:
            del self._suspects[next(iter(self._suspects))]
        return len(known)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        pairs = [(slot, point) for slot, points in self._suspects.items() for point in sorted(points)]
        suspects = np.array(pairs, np.int64).reshape(-1, 2)
        return {"at": np.array([self.newest, self.passed_over], np.int64), "suspects": suspects}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises ValueError or KeyError when it does not fit."""
        self.newest, self.passed_over = arrays["at"].tolist()
        self._suspects = {}
        for slot, point in arrays["suspects"].tolist():
            self._suspects.setdefault(slot, set()).add(point)
