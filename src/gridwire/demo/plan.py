"""Which reading is sent when: most in the interval they belong to, a seeded share some intervals late.

The plan is a pure function of a seed, so a replay that was killed knows what the one before it still owed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LATE_INTERVALS_MAX: Final = 4
"""The latest a reading comes: four intervals after its own."""

Units = NDArray[np.intp]
Due = list[tuple[int, Units]]
"""(interval, units whose readings of it are to be sent), oldest interval first."""
Present = Mapping[int, NDArray[np.bool_]]
"""By interval, **shape** `bool[units]`: whose readings of it are in the hub already."""


@dataclass(frozen=True, slots=True)
class Plan:
    """When n units' readings are sent. `late_share` of them come 1 to LATE_INTERVALS_MAX intervals late; so do those of
    units that are `held` (by interval, for so many intervals), because they have no power."""

    units: int
    late_share: float = 0.01
    seed: int = 2016
    held: Callable[[int], NDArray[np.int64]] | None = None

    def delays(self, interval: int) -> NDArray[np.int64]:
        """**Shape** `[units]`: how many intervals late each unit's reading of `interval` comes."""
        random = np.random.default_rng((self.seed, interval))
        late = random.random(self.units) < self.late_share
        delays = np.where(late, random.integers(1, LATE_INTERVALS_MAX + 1, self.units), 0)
        return delays if self.held is None else np.maximum(delays, self.held(interval))

    def due(self, step: int, first: int, present: Present) -> Due:
        """What is sent at `step` and is not `present` yet, when intervals before `first` were never begun."""
        return self._missing(step, first, present, lambda delays, late: delays == late)

    def owed(self, step: int, present: Present) -> Due:
        """What should have been sent at `step` or before and is not `present`."""
        return self._missing(step, min(present), present, lambda delays, late: delays <= late)

    def _missing(self, step: int, first: int, present: Present, chosen: Callable[[Any, int], Any]) -> Due:
        found = []
        for interval in range(max(step - LATE_INTERVALS_MAX, first), step + 1):
            mask = chosen(self.delays(interval), step - interval)
            units = np.flatnonzero(mask & ~present[interval] if interval in present else mask)
            if len(units):
                found.append((interval, units))
        return found
