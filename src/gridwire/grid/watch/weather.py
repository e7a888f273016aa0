"""Weather for detectors: events of the hub as columns, and which station each unit belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.columns import EventColumns
from gridwire.columnar.json_columns import JsonDecoder, JsonField
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.base import SeenWeather
from gridwire.grid.weather import RANGES, STATION_MAX

_VALUES = ("temperature_c", "wind_gust_ms")


class WeatherDecoder:
    """Events of `weather` to what detectors are given. Values out of range are NaN; `refused` counts bad events."""

    def __init__(self) -> None:
        self.refused = 0
        self._json = JsonDecoder(
            [
                JsonField("station", "text", required=True),
                JsonField("ts", "timestamp_us", required=True),
                *(JsonField(name, "decimal") for name in _VALUES),
            ]
        )

    def decode(self, columns: EventColumns) -> SeenWeather:
        """Observations in the order of the log."""
        json = self._json.decode(columns)
        stations = json.texts("station")
        good = np.array(
            [json.status[row] == 0 and 0 < len(name or "") <= STATION_MAX for row, name in enumerate(stations)], bool
        )
        self.refused += int(len(good) - good.sum())
        rows = np.flatnonzero(good)
        values = {}
        for name in _VALUES:
            mantissa, scale = json.decimal(name)
            number = mantissa * 10.0 ** scale.astype(np.float64)
            least, most = RANGES[name]
            fits = json.valid(name) & (number >= least) & (number <= most)
            values[name] = np.where(fits, number, np.nan)[rows]
        return SeenWeather(
            [str(stations[row]) for row in rows.tolist()],
            json.timestamp_us("ts")[rows],
            values["temperature_c"],
            values["wind_gust_ms"],
            columns.timestamps[rows] * 1000,
        )


class Stations:
    """Stations by number in the order seen, and the station of each unit.

    Limited to `STATIONS_MAX`: a sender that makes up ids must not grow a detector without end; observations of further
    stations are passed over.
    """

    STATIONS_MAX = 4096

    def __init__(self, index: NetworkIndex) -> None:
        self._named = {"transformer": index.station_of_transformer, "feeder": _of_feeders(index)}
        self.ids: list[str] = []
        self._at: dict[str, int] = {}

    def numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The number of each station, -1 for those beyond the limit."""
        return np.array([self._number(id) for id in ids], np.int64)

    def _number(self, id: str) -> int:
        if id not in self._at and len(self.ids) < self.STATIONS_MAX:
            self._at[id] = len(self.ids)
            self.ids.append(id)
        return self._at.get(id, -1)

    def of_units(self, level: str) -> NDArray[np.int64]:
        """**Shape** `[n_units]`: number of each unit's station; -1 where nothing is known of it yet."""
        first = 0 if self.ids else -1
        return np.array([self._at.get(name, -1) if name else first for name in self._named[level]], np.int64)


def _of_feeders(index: NetworkIndex) -> tuple[str, ...]:
    """A feeder's station is its transformer's; above several, that of its first usage point."""
    above = index.transformer_of_feeder.copy()
    places, first = np.unique(index.feeder_of_unit, return_index=True)
    known = np.full(len(above), -1, np.int64)
    known[places] = index.transformer_of_unit[first]
    above = np.where(above >= 0, above, known)
    return tuple(index.station_of_transformer[place] if place >= 0 else "" for place in above.tolist())
