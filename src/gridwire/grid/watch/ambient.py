"""Temperature around transformers: the newest observation of their station, or a default where nobody observes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from gridwire.grid.watch.base import SeenWeather

FRESH_US: Final = 6 * 3_600_000_000
"""An observation is held this long; then the default is taken."""

STATIONS_MAX: Final = 4096
"""Stations that are followed: a sender that makes up ids must not grow a detector without end."""

_NEVER_US: Final = -(2**62)


class Ambient:
    """Ambient temperature of all transformers.

    Args:
        stations: of each transformer; "" is the first station that was seen.
        default_c: where there is no fresh observation.
    """

    def __init__(self, stations: Sequence[str], default_c: float) -> None:
        self._default_c = default_c
        self._names: dict[str, int] = {}
        self._wanted: dict[str, list[int]] = {}
        for unit, name in enumerate(stations):
            self._wanted.setdefault(name, []).append(unit)
        self._of_unit = np.full(len(stations), STATIONS_MAX, np.int32)  # the last place: never observed
        self._temperature_c = np.full(STATIONS_MAX + 1, default_c)
        self._ts_us = np.full(STATIONS_MAX + 1, _NEVER_US, np.int64)

    def take(self, seen: SeenWeather) -> None:
        """Take observations; older ones than what is known are passed over."""
        for station, ts_us, value in zip(seen.stations, seen.ts_us.tolist(), seen.temperature_c.tolist(), strict=True):
            number = self._number(station)
            if number < STATIONS_MAX and ts_us >= self._ts_us[number] and np.isfinite(value):
                self._temperature_c[number], self._ts_us[number] = value, ts_us

    def _number(self, station: str) -> int:
        if station not in self._names and len(self._names) < STATIONS_MAX:
            number = self._names[station] = len(self._names)
            for name in ("", station) if number == 0 else (station,):
                self._of_unit[self._wanted.get(name, [])] = number
        return self._names.get(station, STATIONS_MAX)

    def at(self, units: NDArray[np.intp], ts_us: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Temperature of each unit at a time, and whether it was observed."""
        number = self._of_unit[units]
        known_us = self._ts_us[number]
        observed = (known_us >= ts_us - FRESH_US) & (known_us <= ts_us + FRESH_US)
        return np.where(observed, self._temperature_c[number], self._default_c), observed

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        names = np.frombuffer(orjson.dumps(list(self._names)), np.uint8)
        return {"stations": names, "ambient_c": self._temperature_c, "ambient_ts": self._ts_us}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        self._names.clear()
        self._of_unit[:] = STATIONS_MAX
        for name in orjson.loads(arrays["stations"].tobytes()):
            self._number(name)
        self._temperature_c[:], self._ts_us[:] = arrays["ambient_c"], arrays["ambient_ts"]
