"""Facts to closed hours: what detectors and forecasts of slow things work on.

A fact is told again whenever a late reading changes it, so an hour is used only once it has settled: when most units
are `LATE_HOURS` further. What comes for an hour after that changes nothing here and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.watch.base import SeenLoads

HOUR_US: Final = 3_600_000_000
LATE_HOURS: Final = 2
"""How long an hour stays open after most units have passed it: readings in bursts and their repeats are in by then."""

OPEN_HOURS: Final = 96
"""How far one partition of facts may be behind another: 1.5 KB a unit at quarter hours."""

PASSED_SHARE: Final = 0.9
"""Share of the units with recent facts that must have passed an hour: some meters are always late."""

COMPLETE_SHARE: Final = 0.9
"""Share of the due readings an interval's sum must have to be taken for the unit's load."""

_NONE: Final = np.iinfo(np.int64).min


def in_time(parts: Sequence[SeenLoads]) -> SeenLoads:
    """Facts of one level in the order of their intervals; of one unit and interval the order stays.

    Facts of several partitions come one partition after the other. In a backlog that is days of some units before the
    first hour of others; hours must not close because of that.
    """
    names = [each.name for each in fields(SeenLoads) if each.name != "level"]
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    order = np.argsort(whole["ts_end_us"], kind="stable")
    return SeenLoads(parts[0].level, **{name: array[order] for name, array in whole.items()})


@dataclass(frozen=True, slots=True)
class Hour:
    """A closed hour: `number`, its end in hours since the epoch; `load_kw`, `float64[n_units]`, NaN where unknown."""

    number: int
    load_kw: NDArray[np.float64]


class LoadHours:
    """Loads of n units, from facts in any order to hours in order.

    Args:
        interval_s: of the facts; must divide an hour. Facts of other intervals are passed over.

    Raises:
        ValueError: it does not.
    """

    def __init__(self, units: int, interval_s: int) -> None:
        if interval_s <= 0 or 3600 % interval_s:
            raise ValueError(f"hours cannot be made of intervals of {interval_s} s")
        self.per_hour = 3600 // interval_s
        self.interval_s = interval_s
        self.late = 0
        self._rows = OPEN_HOURS * self.per_hour
        self._ring = np.full((self._rows, units), np.nan, np.float32)
        self._newest = np.full(units, _NONE, np.int64)
        self._closed = _NONE
        """Last slot of the newest closed hour."""
        self._first = _NONE
        self._ready: list[Hour] = []

    def take(self, seen: SeenLoads) -> list[Hour]:
        """Take facts; returns the hours that closed, oldest first."""
        right = (seen.interval_s == self.interval_s) & (seen.units >= 0)
        slots = seen.ts_end_us // (self.interval_s * 1_000_000)
        enough = (seen.counts >= COMPLETE_SHARE * seen.expected) & (seen.counts > 0)
        loads = np.where(enough & np.isfinite(seen.load_kw), seen.load_kw, np.nan)
        self._place(seen.units[right], slots[right], loads[right])
        ready, self._ready = self._ready, []
        return ready

    def _place(self, units: NDArray[np.int32], slots: NDArray[np.int64], loads: NDArray[np.float64]) -> None:
        if not len(slots):
            return
        if self._closed == _NONE:
            self._closed = (int(slots.min()) - 1) // self.per_hour * self.per_hour
            self._first = self._closed
        open_ = slots > self._closed
        self.late += int(len(slots) - open_.sum())
        units, slots, loads = units[open_], slots[open_], loads[open_]
        while len(slots):
            fits = slots <= self._closed + self._rows
            self._ring[slots[fits] % self._rows, units[fits]] = loads[fits]
            np.maximum.at(self._newest, units[fits], slots[fits])
            units, slots, loads = units[~fits], slots[~fits], loads[~fits]
            settled = self._settled()
            if len(slots):  # what is further behind than the ring holds is given up
                settled = max(settled, int(slots.min()) - self._rows)
            self._close(settled)

    def _settled(self) -> int:
        """The last slot of which nothing more is expected."""
        newest = int(self._newest.max())
        # Units not seen yet may be those of a partition that is read later; not for ever, for some have no meters.
        waited = newest - self._first >= self._rows
        active = self._newest[self._newest > newest - self._rows] if waited else self._newest
        behind = int(len(active) * (1 - PASSED_SHARE))
        return max(int(np.partition(active, behind)[behind]), self._first) - LATE_HOURS * self.per_hour

    def _close(self, settled: int) -> None:
        if settled - self._closed > 2 * self._rows:  # a gap longer than the ring: nothing lies in between
            self._emit(self._closed + self._rows)
            self._closed = (settled - self._rows) // self.per_hour * self.per_hour
        self._emit(settled)

    def _emit(self, settled: int) -> None:
        while self._closed + self.per_hour <= settled:
            rows = np.arange(self._closed + 1, self._closed + self.per_hour + 1) % self._rows
            hour = self._ring[rows].astype(np.float64).mean(axis=0)  # NaN when any interval is missing
            self._ring[rows] = np.nan
            self._closed += self.per_hour
            if not np.isnan(hour).all():
                self._ready.append(Hour(self._closed // self.per_hour, hour))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return {"ring": self._ring, "newest": self._newest, "closed": np.array([self._closed, self._first, self.late])}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises ValueError, KeyError: it does not fit."""
        if arrays["ring"].shape != self._ring.shape or arrays["newest"].shape != self._newest.shape:
            raise ValueError("snapshot of another network")
        self._ring, self._newest = arrays["ring"].copy(), arrays["newest"].copy()
        self._closed, self._first, self.late = (int(value) for value in arrays["closed"])


STATION_HOURS: Final = 366 * 24
"""Hours of weather kept a station: weather may be loaded long before or after the loads it belongs to."""


class StationHours:
    """Hourly temperatures of stations, for whichever hours of the last year they are asked."""

    def __init__(self) -> None:
        self._values = np.empty((0, STATION_HOURS), np.float32)
        self._hours = np.empty((0, STATION_HOURS), np.int32)

    def take(self, stations: NDArray[np.int64], ts_us: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Take observations; `stations` are numbers, those below 0 are passed over. Of one hour the last holds."""
        good = (stations >= 0) & np.isfinite(values)
        if not good.any():
            return
        stations, values = stations[good], values[good]
        hours = -(-ts_us[good] // HOUR_US)
        more = int(stations.max()) + 1 - len(self._values)
        if more > 0:
            self._values = np.vstack([self._values, np.full((more, STATION_HOURS), np.nan, np.float32)])
            self._hours = np.vstack([self._hours, np.zeros((more, STATION_HOURS), np.int32)])
        newer = self._hours[stations, hours % STATION_HOURS] <= hours
        at = stations[newer], (hours % STATION_HOURS)[newer]
        self._values[at], self._hours[at] = values[newer], hours[newer]

    def at(self, hours: NDArray[np.int64]) -> NDArray[np.float64]:
        """**Shape** `[n_stations, n_hours]`: temperature in hours that end at `hours`, NaN where none is known."""
        known = self._hours[:, hours % STATION_HOURS] == hours
        found: NDArray[np.float64] = np.where(known, self._values[:, hours % STATION_HOURS], np.nan).astype(np.float64)
        return found

    def mean(self, hours: NDArray[np.int64], share: float = 0.75) -> NDArray[np.float64]:
        """**Shape** `[n_stations]`: mean over hours; NaN where less than `share` of them are known."""
        values = self.at(hours)
        known = np.isfinite(values)
        count = known.sum(axis=1)
        total = np.where(known, values, 0.0).sum(axis=1)
        enough = count >= max(1.0, share * len(hours))
        return np.where(enough, total / np.maximum(count, 1), np.nan)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return {"values": self._values, "hours": self._hours}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises ValueError, KeyError: it does not fit."""
        if arrays["values"].shape != arrays["hours"].shape or arrays["hours"].shape[1:] != (STATION_HOURS,):
            raise ValueError("snapshot of another shape")
        self._values, self._hours = arrays["values"].copy(), arrays["hours"].copy()
