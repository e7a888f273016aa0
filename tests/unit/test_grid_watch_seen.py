"""What detectors are given: columns of what the hubs say of known units, everything else counted and passed over."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.grid import network
from gridwire.grid.meter_event import KINDS, MeterEvent, event_json
from gridwire.grid.reading_types import BY_ALIAS
from gridwire.grid.watch.base import SeenEvents, SeenLoads, SeenReadings, SeenWeather
from gridwire.grid.watch.seen import Decoders, Seen, part_of

TIME_MS = 1_767_226_500_000  # 2026-01-01T00:15Z
QUARTER = "2026-01-01T00:15:00Z"
QUARTER_US = 1_767_226_500_000_000
RECEIVED_US = QUARTER_US + 7


def decoders() -> Decoders:
    model = network.Network(
        name="small",
        transformers=(network.Transformer(id="T0", rated_kva=100.0),),
        feeders=(network.Feeder(id="F0", transformer="T0"),),
        usage_points=tuple(network.UsagePoint(id=f"U{i}", transformer="T0", feeder="F0") for i in range(3)),
    )
    return Decoders(model.index())


def given(made: Decoders, hub: str, *values: bytes | dict[str, Any]) -> tuple[Seen, list[int]]:
    events = [Event(v if isinstance(v, bytes) else json.dumps(v).encode(), b"k", (), TIME_MS) for v in values]
    data = bytes(batch.encode(events, base_offset=0))
    (columns,) = decode(data, 0, len(data), from_offset=0).columns
    received = np.arange(len(values), dtype=np.int64) + RECEIVED_US
    seen, rows = made.decode(ColumnBatch(hub, 0, columns, len(values)), received)
    return seen, rows.tolist()


def reading(point: str = "U1", kind: str = "import_kwh", value: float = 0.25, **more: Any) -> dict[str, Any]:
    return {
        "usage_point": point, "ts_end": QUARTER, "interval_s": 900, "reading_type": kind, "value": value, **more
    }  # fmt: skip


def test_only_accepted_readings_of_known_usage_points() -> None:
    made = decoders()
    seen, rows = given(
        made, "readings", reading(), reading("somebody"), b"nonsense", reading("U2", "voltage_v", 231.5, interval_s=0),
        reading(value=-1.0), reading(value=10_000.0), reading("U0", "no such type"), reading("U0", ts_end="2026-01-01"),
    )  # fmt: skip
    assert isinstance(seen, SeenReadings) and rows == [0, 3]
    assert seen.points.tolist() == [1, 2] and seen.values.tolist() == [0.25, 231.5]
    assert seen.types.tolist() == [BY_ALIAS["import_kwh"].id, BY_ALIAS["voltage_v"].id]
    assert seen.ts_end_us.tolist() == [QUARTER_US] * 2 and seen.interval_s.tolist() == [900, 0]
    assert seen.received_us.tolist() == [RECEIVED_US, RECEIVED_US + 3]
    assert made.counts == {"seen_readings": 2, "passed_over_readings": 6}


def test_meter_events_by_usage_point_or_meter() -> None:
    at = QUARTER_US + 1
    seen, rows = given(
        decoders(), "meter.events",
        event_json(MeterEvent(at, "LAST_GASP", usage_point="U2")),
        event_json(MeterEvent(at, "POWER_RESTORED", meter="U0")),
        event_json(MeterEvent(at, "TAMPER", meter="M-7", usage_point="U1")),
        event_json(MeterEvent(at, "LAST_GASP", meter="M-7")),
        {"usage_point": "U1", "kind": "A_NEW_ONE", "ts_event": QUARTER},
        {"usage_point": "U1", "kind": "LAST_GASP"},
        event_json(MeterEvent(at + 3_600_000_100, "LAST_GASP", usage_point="U2")),
        {"usage_point": "U1", "kind": "LAST_GASP", "ts_event": "1999-12-31T23:59:59Z"},
        {"usage_point": 7, "kind": "LAST_GASP", "ts_event": QUARTER},
        b"",
    )  # fmt: skip
    assert isinstance(seen, SeenEvents) and rows == [0, 1, 2, 4]
    assert seen.points.tolist() == [2, 0, 1, 1]
    assert [KINDS[kind] for kind in seen.kinds.tolist()] == ["LAST_GASP", "POWER_RESTORED", "TAMPER", "OTHER"]
    assert seen.ts_us.tolist() == [at, at, at, QUARTER_US]


@pytest.mark.parametrize(
    ("hub", "unit", "id"), [("grid.transformers", "transformer", "T0"), ("grid.feeders", "feeder", "F0")]
)
def test_sums(hub: str, unit: str, id: str) -> None:
    fact = {unit: id, "ts_end": QUARTER, "interval_s": 900, "load_kw": 10.8, "count": 2, "expected": 3, "peak_kw": 1}
    seen, rows = given(decoders(), hub, {**fact, unit: "X"}, fact, {**fact, "load_kw": "x"}, {**fact, "load_kw": -1})
    assert isinstance(seen, SeenLoads) and rows == [1, 3] and seen.level == unit
    assert seen.units.tolist() == [0, 0] and seen.load_kw.tolist() == [10.8, -1.0]
    assert seen.counts.tolist() == [2, 2] and seen.expected.tolist() == [3, 3] and seen.interval_s.tolist() == [900] * 2


def test_weather_with_what_a_station_measures() -> None:
    whole = {"station": "S1", "ts_end": QUARTER, "temperature_c": -3.5, "wind_gust_ms": 17}
    seen, rows = given(decoders(), "weather", whole, {"station": "Ö", "ts_end": QUARTER}, {"station": "S1"})
    assert isinstance(seen, SeenWeather) and rows == [0, 1]
    assert list(seen.stations) == ["S1", "Ö"] and seen.ts_us.tolist() == [QUARTER_US] * 2
    assert seen.temperature_c[0] == -3.5 and seen.wind_gust_ms[0] == 17.0
    assert np.isnan([seen.temperature_c[1], seen.wind_gust_ms[1]]).all()
    part = part_of(seen, 1, 2)
    assert (
        isinstance(part, SeenWeather)
        and list(part.stations) == ["Ö"]
        and part.received_us.tolist() == [RECEIVED_US + 1]
    )
