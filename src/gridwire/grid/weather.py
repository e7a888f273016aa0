"""The open weather observation: what one station measured in one interval, one JSON object of the hub `weather`.

    {"station":"10384","ts":"2016-06-01T12:00:00Z","interval_s":3600,"temperature_c":21.4,"wind_ms":3.1,
     "wind_gust_ms":8.2,"humidity_pct":55,"radiation_wm2":640}

`ts` is the END of the interval, RFC 3339 with any offset. `station` and `ts` are required, and at least one value;
values are numbers, absent where the station does not measure them: nothing is made up for what is missing. Unknown
fields are ignored. Of several observations of a station and time the last one holds. Keyed by station.

Which station a transformer belongs to is the field `station` of the network model's transformers; those without one
belong to the station that was seen first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import orjson

from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.reading import rfc3339

WEATHER_HUB: Final = hubs.WEATHER
"""The hub of observations."""

STATION_MAX: Final = 120
"""Longest id of a station, in characters: ids are names of places at most."""

RANGES: Final = {
    "temperature_c": (-90.0, 60.0),
    "wind_ms": (0.0, 115.0),
    "wind_gust_ms": (0.0, 150.0),
    "humidity_pct": (0.0, 100.0),
    "radiation_wm2": (0.0, 2000.0),
}
"""Values and what is believed of each. Records of the World Meteorological Organization are -89.2 and 56.7 degrees and
a gust of 113 m/s; tornadoes are faster."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one station measured. `ts_us`: end of the interval, microseconds since the epoch. NaN: not measured."""

    station: str
    ts_us: int
    interval_s: int = 0
    temperature_c: float = math.nan
    wind_ms: float = math.nan
    wind_gust_ms: float = math.nan
    humidity_pct: float = math.nan
    radiation_wm2: float = math.nan


def check(observation: Observation) -> str:
    """Why an observation is not believed; "" if it is."""
    if not observation.station or len(observation.station) > STATION_MAX:
        return f"station must have 1 to {STATION_MAX} characters"
    values = {name: getattr(observation, name) for name in RANGES}
    if all(math.isnan(value) for value in values.values()):
        return f"no value: give one of {', '.join(RANGES)}"
    for name, (least, most) in RANGES.items():
        if not math.isnan(values[name]) and not least <= values[name] <= most:
            return f"{name} must lie between {least:g} and {most:g}, not {values[name]:g}"
    return ""


def weather_json(observation: Observation) -> bytes:
    """The observation as the value of one event."""
    values = {name: getattr(observation, name) for name in RANGES}
    return orjson.dumps(
        {
            "station": observation.station,
            "ts": rfc3339(observation.ts_us),
            **({"interval_s": observation.interval_s} if observation.interval_s else {}),
            **{name: value for name, value in values.items() if not math.isnan(value)},
        }
    )


def weather_event(observation: Observation) -> Event:
    """The observation keyed by its station."""
    return Event(weather_json(observation), observation.station.encode())
