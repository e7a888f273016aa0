"""Temperature around transformers: the newest observation, or a default where nobody observes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.watch.base import SeenWeather

FRESH_US: Final = 6 * 3_600_000_000
"""An observation is held this long; then the default is taken."""


class Ambient:
    """Ambient temperature of all transformers from the first station that was seen.

    Args:
        default_c: where there is no fresh observation.
    """

    def __init__(self, default_c: float) -> None:
        self._default_c = default_c
        self._station = ""
        self._temperature_c, self._ts_us = default_c, -FRESH_US

    def take(self, seen: SeenWeather) -> None:
        """Take observations; older ones than what is known are passed over."""
        for station, ts_us, value in zip(seen.stations, seen.ts_us.tolist(), seen.temperature_c.tolist(), strict=True):
            self._station = self._station or station
            if station == self._station and ts_us >= self._ts_us and np.isfinite(value):
                self._temperature_c, self._ts_us = value, ts_us

    def at(self, units: NDArray[np.intp], ts_us: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Temperature of each unit at a time, and whether it was observed."""
        observed = np.abs(ts_us - self._ts_us) <= FRESH_US
        return np.where(observed, self._temperature_c, self._default_c), observed

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return {
            "station": np.frombuffer(self._station.encode(), np.uint8),
            "ambient": np.array([self._temperature_c]), "ambient_ts": np.array([self._ts_us]),
        }  # fmt: skip

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        self._station = arrays["station"].tobytes().decode()
        self._temperature_c, self._ts_us = float(arrays["ambient"][0]), int(arrays["ambient_ts"][0])
