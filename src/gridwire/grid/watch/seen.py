"""From batches of hubs to what detectors are given: columns of known units, without an object per event.

    readings           only what the rules of `gridwire.grid.validate` accept, and no estimates
    meter.events       of usage points the model knows, by `usage_point`, else by `meter` where meters are named so;
                       not from the future, by the rule readings have
    grid.transformers, grid.feeders
    weather            what `gridwire.grid.weather` describes; a value that is not believed is NaN

Everything else in these hubs is counted and passed over: the loads worker quarantines readings, the lake keeps all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch
from gridwire.columnar import cells
from gridwire.columnar.json_columns import JsonColumns, JsonDecoder, JsonField
from gridwire.columnar.text_index import TextIndex
from gridwire.core.hubs import FEEDERS, METER_EVENTS, READINGS, TRANSFORMERS, WEATHER
from gridwire.grid.loads import measure
from gridwire.grid.meter_event import KINDS
from gridwire.grid.network import NetworkIndex
from gridwire.grid.readings import decode_readings
from gridwire.grid.validate import EARLIEST_US, Reason, Rules, Validator
from gridwire.grid.watch.base import Detector, SeenEvents, SeenLoads, SeenReadings, SeenWeather
from gridwire.grid.weather import RANGES, STATION_MAX

Seen = SeenReadings | SeenEvents | SeenLoads | SeenWeather

_Received = NDArray[np.int64]
_Rows = NDArray[np.int64]

HUBS: Final = (READINGS, METER_EVENTS, TRANSFORMERS, FEEDERS, WEATHER)
"""What is watched."""

_OTHER: Final = KINDS.index("OTHER")
_TEN_TO: Final = 10.0 ** np.arange(-128, 128)

_EVENT: Final = (
    JsonField("ts_event", "timestamp_us", required=True),
    JsonField("kind", "text", required=True),
    JsonField("usage_point", "text"),
    JsonField("meter", "text"),
)
_WEATHER: Final = (
    JsonField("station", "text", required=True),
    JsonField("ts", "timestamp_us"),
    JsonField("ts_end", "timestamp_us"),
    JsonField("temperature_c", "decimal"),
    JsonField("wind_gust_ms", "decimal"),
)


def _load_fields(unit: str) -> tuple[JsonField, ...]:
    return (
        JsonField(unit, "text", required=True),
        JsonField("ts_end", "timestamp_us", required=True),
        JsonField("interval_s", "int64", required=True),
        JsonField("load_kw", "decimal", required=True),
        JsonField("count", "int64", required=True),
        JsonField("expected", "int64", required=True),
    )


class Decoders:
    """Decodes every hub of `HUBS` for one network model."""

    def __init__(self, index: NetworkIndex, rules: Rules | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._points = index.points()
        self._kinds = TextIndex(KINDS)
        self._validator = Validator(index, rules)
        self._event_json, self._weather_json = JsonDecoder(_EVENT), JsonDecoder(_WEATHER)
        self._load_json = {unit: JsonDecoder(_load_fields(unit)) for unit in ("transformer", "feeder")}
        self._units = {"transformer": TextIndex(index.transformer_ids), "feeder": TextIndex(index.feeder_ids)}
        self._by_hub: dict[str, Callable[[ColumnBatch, _Received], tuple[Seen, _Rows]]] = {
            READINGS: self._readings,
            METER_EVENTS: self._events,
            TRANSFORMERS: lambda batch, received: self._loads("transformer", batch, received),
            FEEDERS: lambda batch, received: self._loads("feeder", batch, received),
            WEATHER: self._weather,
        }

    def decode(self, batch: ColumnBatch, received_us: _Received) -> tuple[Seen, _Rows]:
        """What a batch says, and the row of the batch each entry of it comes from.

        Args:
            received_us: `[n]`, when the hub took each event.
        """
        seen, rows = self._by_hub[batch.hub](batch, received_us)
        name = batch.hub.replace(".", "_")
        self.counts[f"seen_{name}"] += len(rows)
        self.counts[f"passed_over_{name}"] += len(received_us) - len(rows)
        return seen, rows

    def _readings(self, batch: ColumnBatch, received_us: _Received) -> tuple[SeenReadings, _Rows]:
        decoded = decode_readings(batch.columns)
        measured = measure(decoded, self._points)
        found = self._validator.validate(measured, batch.columns.timestamps)
        believed = (found.reasons == Reason.ACCEPTED) & (measured.points >= 0)
        if measured.grades is not None:  # an estimate is no news of anything
            believed &= (measured.grades == cells.MEASURED) | (measured.grades == cells.DERIVED)
        rows = np.flatnonzero(believed)
        seen = SeenReadings(
            points=measured.points[rows],
            types=measured.types[rows],
            ts_end_us=measured.ts_end_us[rows],
            interval_s=measured.interval_s[rows],
            values=measured.mantissas[rows] * _TEN_TO[measured.scales[rows].astype(np.intp) + 128],
            received_us=received_us[rows],
        )
        return seen, rows

    def _events(self, batch: ColumnBatch, received_us: _Received) -> tuple[SeenEvents, _Rows]:
        json = self._event_json.decode(batch.columns)
        points = ids_of(json, "usage_point", self._points)
        points = np.where(points >= 0, points, ids_of(json, "meter", self._points))
        kinds = ids_of(json, "kind", self._kinds)
        times = json.timestamp_us("ts_event")
        latest_us = received_us + self._validator.rules.future_s * 1_000_000
        believed = (times >= EARLIEST_US) & ((times <= latest_us) | (received_us <= 0))
        rows = np.flatnonzero((json.status == 0) & (points >= 0) & believed)
        seen = SeenEvents(
            points=points[rows],
            kinds=np.where(kinds < 0, _OTHER, kinds)[rows].astype(np.int8),
            ts_us=times[rows],
            received_us=received_us[rows],
        )
        return seen, rows

    def _loads(self, unit: str, batch: ColumnBatch, received_us: _Received) -> tuple[SeenLoads, _Rows]:
        json = self._load_json[unit].decode(batch.columns)
        units = ids_of(json, unit, self._units[unit])
        rows = np.flatnonzero((json.status == 0) & (units >= 0))
        seen = SeenLoads(
            level=unit,
            units=units[rows],
            ts_end_us=json.timestamp_us("ts_end")[rows],
            interval_s=json.int64("interval_s")[rows].astype(np.int32),
            load_kw=floats(json, "load_kw")[rows],
            counts=json.int64("count")[rows].astype(np.int32),
            expected=json.int64("expected")[rows].astype(np.int32),
            received_us=received_us[rows],
        )
        return seen, rows

    def _weather(self, batch: ColumnBatch, received_us: _Received) -> tuple[SeenWeather, _Rows]:
        json = self._weather_json.decode(batch.columns)
        lengths = json.text("station")[1]
        told = json.valid("ts")
        ts_us = np.where(told, json.timestamp_us("ts"), json.timestamp_us("ts_end"))
        good = (json.status == 0) & (told | json.valid("ts_end")) & (lengths > 0) & (lengths <= STATION_MAX)
        rows = np.flatnonzero(good)
        seen = SeenWeather(
            stations=[text or "" for text in json.texts("station", rows)],
            ts_us=ts_us[rows],
            temperature_c=_believed(json, "temperature_c")[rows],
            wind_gust_ms=_believed(json, "wind_gust_ms")[rows],
            received_us=received_us[rows],
        )
        return seen, rows


def ids_of(json: JsonColumns, name: str, index: TextIndex) -> NDArray[np.int32]:
    """Positions of a text field in an index, -1 where it is absent or unknown."""
    starts, lengths = json.text(name)
    return index.lookup(json.data, starts, np.where(json.valid(name), lengths, np.int32(-1)).astype(np.int32))


def floats(json: JsonColumns, name: str) -> NDArray[np.float64]:
    """A decimal field; NaN where it is absent."""
    mantissas, scales = json.decimal(name)
    values = mantissas * _TEN_TO[scales.astype(np.intp) + 128]
    return np.where(json.valid(name), values, np.nan)


def _believed(json: JsonColumns, name: str) -> NDArray[np.float64]:
    least, most = RANGES[name]
    values = floats(json, name)
    return np.where((values >= least) & (values <= most), values, np.nan)


def part_of(seen: Seen, begin: int, end: int) -> Seen:
    """Entries `[begin, end)`."""
    if begin == 0 and end == len(seen):
        return seen
    cut: dict[str, Any] = {each.name: getattr(seen, each.name) for each in fields(seen)}
    return type(seen)(**{name: part if name == "level" else part[begin:end] for name, part in cut.items()})


def give(detectors: Sequence[Detector], seen: Seen) -> None:
    """Hand entries of one hub to every detector."""
    for detector in detectors:
        if isinstance(seen, SeenReadings):
            detector.readings(seen)
        elif isinstance(seen, SeenEvents):
            detector.events(seen)
        elif isinstance(seen, SeenLoads):
            detector.loads(seen)
        else:
            detector.weather(seen)
