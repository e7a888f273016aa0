"""The readings of some channels as a matrix: what every rule is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.slots import POWER_FAILURE
from gridwire.grid.vee.calendar import Calendar

Neighbours = Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]
"""Of channels (places in the window): their neighbours' energy, sum of levels and number. **Shape** each `[n, k]`."""


@dataclass(eq=False)
class Window:
    """k channels of one class and zone over n consecutive intervals.

    **Shape**: `energy`, `marks`, `sibling`, `leftover`, `registers`, `grown`, `derived`, `outage`, `storm` `[n, k]`;
    `active`, `multiplier` `[k]`. Energies and registers are in kWh, NaN where nothing was measured.

    Args:
        judged: first interval that is judged; what lies before is history. due: end of the intervals whose readings
            should be here. since: first interval anything is expected of.
        sibling: the other direction of the same place. leftover: what the place's other channels leave for this one.
        registers: the counter at the end of the interval. grown: by how much it grew since the one before it.
        derived: the energy is the difference of the registers at both ends of the interval.
        outage: known to have been without power. storm: too few report to estimate.
    """

    calendar: Calendar
    judged: int
    due: int
    since: int
    energy: NDArray[np.float64]
    marks: NDArray[np.uint8]
    active: NDArray[np.bool_]
    multiplier: NDArray[np.float64]
    sibling: NDArray[np.float64] | None = None
    leftover: NDArray[np.float64] | None = None
    registers: NDArray[np.float64] | None = None
    grown: NDArray[np.float64] | None = None
    derived: NDArray[np.bool_] | None = None
    outage: NDArray[np.bool_] | None = None
    storm: NDArray[np.bool_] | None = None
    neighbours: Neighbours | None = None

    def only(self, channels: NDArray[np.int64]) -> Window:
        """Some of the channels."""
        cut: dict[str, Any] = {
            each.name: value[..., channels] if isinstance(value := getattr(self, each.name), np.ndarray) else value
            for each in fields(self)
        }
        if (neighbours := self.neighbours) is not None:
            cut["neighbours"] = lambda chosen: neighbours(channels[chosen])
        return Window(**cut)

    @property
    def shape(self) -> tuple[int, int]:
        """Judged intervals, channels."""
        return self.energy.shape[0] - self.judged, self.energy.shape[1]

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """Where there is a value."""
        return ~np.isnan(self.energy)

    @cached_property
    def filled(self) -> NDArray[np.float64]:
        """The energy, 0 where there is none."""
        return np.where(self.measured, self.energy, 0.0)

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Judged intervals that are due and not measured. **Shape** `[judged, k]`."""
        out = ~self.measured[self.judged :]
        out[: max(0, self.since - self.judged)] = False
        out[max(0, self.due - self.judged) :] = False
        return out

    @cached_property
    def trusted(self) -> NDArray[np.bool_]:
        """Measured, and with power all the time: fit to estimate others from."""
        out: NDArray[np.bool_] = self.measured & ((self.marks & POWER_FAILURE) == 0)
        return out

    # -- local days. **Shape** `[d, k]` --------------------------------------------

    @cached_property
    def day_counts(self) -> NDArray[np.int64]:
        """Measured intervals."""
        return self._by_day(np.count_nonzero, self.measured)

    @cached_property
    def day_energy(self) -> NDArray[np.float64]:
        """Measured energy."""
        return self._by_day(np.sum, self.filled)

    @cached_property
    def day_highest(self) -> NDArray[np.float64]:
        """Highest interval, 0 where there is none."""
        return self._by_day(np.max, self.filled)

    def _by_day(self, reduce: Callable[..., Any], values: NDArray[Any]) -> NDArray[Any]:
        """A day at a time, which is faster than `reduceat` along the first axis."""
        bounds = zip(self.calendar.starts.tolist(), (self.calendar.lasts + 1).tolist(), strict=True)
        return np.stack([reduce(values[begin:end], axis=0) for begin, end in bounds])

    @cached_property
    def day_complete(self) -> NDArray[np.bool_]:
        """Every interval of the whole day is measured."""
        calendar = self.calendar
        out: NDArray[np.bool_] = (self.day_counts == calendar.lengths[:, None]) & calendar.whole[:, None]
        return out

    @cached_property
    def closed(self) -> NDArray[np.int64]:
        """Days that are whole, due to their last interval, and end among the judged ones. **Shape** `[c]`."""
        calendar = self.calendar
        return np.flatnonzero(calendar.whole & (calendar.lasts < self.due) & (calendar.lasts >= self.judged))

    def reference_days(self, day: int) -> NDArray[np.int64]:
        """Days before this one that are like it, the nearest first."""
        calendar = self.calendar
        last = calendar.lasts[day]
        found = calendar.references[last][calendar.alike[last]]
        out: NDArray[np.int64] = calendar.day_at[found[found >= 0]]
        return out

    def reference_energy(self, day: int, count: int = 3) -> NDArray[np.float64]:
        """Mean daily energy of the nearest complete days like this one, NaN without any. **Shape** `[k]`."""
        days = self.reference_days(day)
        usable = self.day_complete[days]
        usable &= np.cumsum(usable, axis=0) <= count
        counts = usable.sum(axis=0)
        total = (self.day_energy[days] * usable).sum(axis=0)
        return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)

    def highest_before(self, day: int) -> NDArray[np.float64]:
        """Highest interval of all days before, NaN when fewer than one whole day was measured. **Shape** `[k]`."""
        counts = self.day_counts[:day].sum(axis=0)
        enough = counts >= int(np.median(self.calendar.lengths))
        highest = self.day_highest[:day].max(axis=0, initial=0.0)
        return np.where(enough, highest, np.nan)
