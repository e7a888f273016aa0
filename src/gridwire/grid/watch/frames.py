"""Voltages of all usage points side by side, interval by interval: what medians and correlations are made of.

    rows in any order -> ring of open intervals, int16 a unit -> one frame of all units when an interval leaves it

The newest interval moves the ring, so what is more than `depth` intervals late is passed over. (No reading is accepted
that ends much later than its event, so no clock moves the ring far ahead.) Of a three-phase meter phase 1 speaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.units import group_medians
from gridwire.grid import reading_types
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.base import SeenReadings

UNIT: Final = 1e-4
"""What one step of a frame's int16 stands for, in pu off nominal."""

MISSING: Final = np.int16(-32768)

TYPES: Final = np.array([reading_types.BY_ALIAS[name].id for name in ("voltage_l1_v", "voltage_v")], np.int16)
"""Types that are taken."""

PLAUSIBLE: Final = 0.5
"""Voltages further off nominal are of a dead or miswired meter, not of the grid."""


class Groups:
    """Units sorted by the group they are in.

    Args:
        group_of: `int32[n]`, -1 none. groups: their number.
    """

    def __init__(self, group_of: NDArray[np.int32], groups: int) -> None:
        self._order = np.argsort(group_of, kind="stable").astype(np.int32)
        self._starts = np.searchsorted(group_of[self._order], np.arange(groups + 1)).astype(np.int64)

    def medians(self, values: NDArray[np.float32], least: int) -> NDArray[np.float32]:
        """`[groups]`, NaN where fewer than `least` values are known."""
        return group_medians(values, self._order, self._starts, least)

    def members(self, group: int) -> NDArray[np.int32]:
        """Units of one group."""
        return self._order[self._starts[group] : self._starts[group + 1]]


def deviations(seen: SeenReadings, index: NetworkIndex, types: NDArray[np.int16]) -> tuple[Any, Any, Any]:
    """Plausible voltages of some types: (rows, slots, pu off nominal)."""
    rows = np.flatnonzero(np.isin(seen.types, types))
    nominal = index.nominal_v[index.transformer_of_unit[seen.points[rows]]]
    off = seen.values[rows] / nominal - 1.0
    near = np.abs(off) <= PLAUSIBLE
    rows = rows[near]
    return rows, seen.ts_end_us[rows] // (index.interval_s * 1_000_000), off[near]


class VoltageFrames:
    """The ring. 2 bytes a unit and open interval.

    Args:
        depth: open intervals; 8 are two hours of quarter hours.
    """

    def __init__(self, index: NetworkIndex, depth: int = 8) -> None:
        self._index, self._depth = index, depth
        self._ring = np.full((depth, len(index.unit_ids)), MISSING, np.int16)
        self._used = np.zeros(depth, np.bool_)
        self.newest = -1
        self.late = 0

    def take(self, seen: SeenReadings) -> Iterator[tuple[int, NDArray[np.int16]]]:
        """Take readings; yields (slot, frame) of intervals that closed, in order. A frame is valid until the next."""
        rows, slots, off = deviations(seen, self._index, TYPES)
        if not len(rows):
            return
        points = seen.points[rows]
        steps = np.rint(off / UNIT).astype(np.int16)
        running = np.maximum.accumulate(np.maximum(slots, self.newest))
        cuts = [0, *(np.flatnonzero(np.diff(running)) + 1).tolist(), len(rows)]
        for begin, end in pairwise(cuts):
            yield from self._move(int(running[begin]))
            open = slots[begin:end] > self.newest - self._depth
            self.late += int(end - begin - open.sum())
            at = slots[begin:end][open] % self._depth
            self._ring[at, points[begin:end][open]] = steps[begin:end][open]
            self._used[at] = True

    def open(self, slot: int) -> NDArray[np.int16] | None:
        """What came so far of an interval that is still open; None when it is not, or nothing came."""
        at = slot % self._depth
        return self._ring[at] if self.newest - self._depth < slot <= self.newest and self._used[at] else None

    def _move(self, newest: int) -> Iterator[tuple[int, NDArray[np.int16]]]:
        if newest == self.newest:
            return
        first, self.newest = self.newest - self._depth + 1, newest
        for slot in range(max(first, 0), min(first + self._depth, newest - self._depth + 1)):
            at = slot % self._depth
            if self._used[at]:
                yield slot, self._ring[at]
                self._ring[at], self._used[at] = MISSING, False

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return {"ring": self._ring, "ring_used": self._used, "ring_at": np.array([self.newest, self.late])}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises ValueError when it has another shape."""
        self._ring[:], self._used[:] = arrays["ring"], arrays["ring_used"]
        self.newest, self.late = arrays["ring_at"].tolist()


def pu_of(frame: NDArray[np.int16]) -> NDArray[np.float32]:
    """A frame in pu off nominal, NaN unknown."""
    off: NDArray[np.float32] = np.where(frame == MISSING, np.nan, frame * np.float32(UNIT)).astype(np.float32)
    return off
