"""Forecasts as events: one JSON object for a unit, an issue and an hour, in the hub `grid.forecasts`.

    {"kind":"transformer","unit":"T1","issued_at":"2016-06-01T10:00:00Z","ts_end":"2016-06-01T12:00:00Z",
     "interval_s":3600,"p10_kw":31.2,"p50_kw":38.0,"p90_kw":45.1,"rated_kva":160.0,
     "model":"20160601T000000Z-1a2b3c4d","weather":true}

`issued_at` is the end of the last hour whose load was known, `ts_end` the end of the hour forecast; loads are means of
the hour, import less export. Of several forecasts of a unit and hour the one issued last is the best. `weather` tells
whether temperatures were known. Keyed by unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.reading import rfc3339

FORECASTS_HUB: Final = hubs.FORECASTS
"""The hub of forecasts."""

HOUR_US: Final = 3_600_000_000


class ForecastEvent(msgspec.Struct, kw_only=True):
    """See the module."""

    kind: str
    unit: str
    issued_at: str
    ts_end: str
    interval_s: int
    p10_kw: float
    p50_kw: float
    p90_kw: float
    rated_kva: float
    model: str
    weather: bool


@dataclass(frozen=True, slots=True)
class Issue:
    """Forecasts of one level issued at once.

    **Shape**: `quantiles_kw` `float32[n, horizon, 3]`, NaN where there is none; `weather` `bool[n]`.

    Args:
        issued: end of the last known hour, hours since the epoch.
    """

    level: str
    issued: int
    model: str
    quantiles_kw: NDArray[np.float32]
    weather: NDArray[np.bool_]


class ForecastWriter:
    """Writes issues of one level of a network."""

    def __init__(self, ids: Sequence[str], rated_kva: NDArray[np.float64]) -> None:
        self._ids, self._rated = ids, rated_kva.tolist()
        self._keys = [id.encode() for id in ids]
        self._encode = msgspec.json.Encoder().encode

    def events(self, issue: Issue, now_ms: int) -> Iterator[tuple[int, Event]]:
        """(position of the unit, event), hour by hour of each unit that has a forecast."""
        issued_at = rfc3339(issue.issued * HOUR_US)
        horizon = issue.quantiles_kw.shape[1]
        times = [rfc3339((issue.issued + h) * HOUR_US) for h in range(1, horizon + 1)]
        known = np.asarray(np.isfinite(issue.quantiles_kw).all(axis=2))
        rounded = np.round(issue.quantiles_kw.astype(np.float64), 3)
        for unit in np.flatnonzero(known.any(axis=1)).tolist():
            weather = bool(issue.weather[unit])
            for h in np.flatnonzero(known[unit]).tolist():
                low, middle, high = rounded[unit, h].tolist()
                event = ForecastEvent(
                    kind=issue.level, unit=self._ids[unit], issued_at=issued_at, ts_end=times[h], interval_s=3600,
                    p10_kw=low, p50_kw=middle, p90_kw=high, rated_kva=self._rated[unit], model=issue.model,
                    weather=weather,
                )  # fmt: skip
                yield unit, Event(self._encode(event), self._keys[unit], (), now_ms)
