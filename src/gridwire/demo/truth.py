"""What the grid's sums must be: computed from the profiles alone, by other code than the platform's.

The replay tells which readings the hub has acknowledged; from these and the profiles follow the exact sum and count of
every transformer and feeder, in whole watt-hours.
"""

from __future__ import annotations

import threading
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gridwire.grid.network import Network
from gridwire.grid.profiles import INTERVAL_S, QuarterHours
from gridwire.grid.reading import rfc3339

KEEP_INTERVALS: Final = 2 * 96
"""Intervals whose readings are remembered: two days."""


class UnitTruth(msgspec.Struct, frozen=True):
    """Exact sums of one transformer or feeder in one interval, over the readings the hub has."""

    import_wh: int
    export_wh: int
    count: int

    @property
    def load_kw(self) -> float:
        """Mean power of the interval, import minus export."""
        return (self.import_wh - self.export_wh) * 3600 / INTERVAL_S / 1000


class IntervalTruth(msgspec.Struct, frozen=True):
    """The sums of one interval by id. `complete`: every reading of it has been sent."""

    ts_end: str
    complete: bool
    transformers: dict[str, UnitTruth]
    feeders: dict[str, UnitTruth]


class Truth:
    """Collects what was acknowledged and answers what the sums must be. May be asked from another thread."""

    def __init__(self, network: Network, profiles: QuarterHours) -> None:
        self._index = network.index()
        self._profiles = profiles
        self._exports = np.array(["export_kwh" in unit.expects for unit in network.usage_points], bool)
        self._sent: dict[int, NDArray[np.bool_]] = {}
        self._lock = threading.Lock()

    def add(self, interval: int, units: NDArray[np.integer]) -> None:
        """The hub has these units' readings of an interval."""
        with self._lock:
            mask = self._sent.setdefault(interval, np.zeros(len(self._exports), bool))
            mask[units] = True
            for old in sorted(self._sent)[:-KEEP_INTERVALS]:
                del self._sent[old]

    def intervals(self) -> list[int]:
        """Intervals that can be asked for, ascending."""
        with self._lock:
            return sorted(self._sent)

    def sums(self, interval: int) -> IntervalTruth | None:
        """The sums of one interval as of now; None when nothing of it was sent or it is forgotten."""
        with self._lock:
            mask = self._sent.get(interval)
            mask = None if mask is None else mask.copy()
        if mask is None:
            return None
        index = self._index
        return IntervalTruth(
            rfc3339(self._profiles.ts_end_us(interval)),
            bool(mask.all()),
            self._grouped(interval, mask, index.transformer_ids, index.transformer_of_unit),
            self._grouped(interval, mask, index.feeder_ids, index.feeder_of_unit),
        )

    def _grouped(
        self, interval: int, mask: NDArray[np.bool_], ids: tuple[str, ...], group_of_unit: NDArray[np.int32]
    ) -> dict[str, UnitTruth]:
        energy_wh = self._profiles.energy_wh(interval)
        # Plain integers, one unit after the other: slow, and nothing like the kernels it is to judge.
        sums = [[0, 0, 0] for _ in ids]
        for unit in np.flatnonzero(mask).tolist():
            group = sums[group_of_unit[unit]]
            group[1 if self._exports[unit] else 0] += int(energy_wh[unit])
            group[2] += 1
        return {id: UnitTruth(*group) for id, group in zip(ids, sums, strict=True)}
