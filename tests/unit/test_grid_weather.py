"""Weather in: formats, what is believed, and which station a unit belongs to."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import meter_frames
from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BadFrame, Context
from gridwire.grid.ingest import ingest
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.watch.seen import Decoders
from gridwire.grid.watch.weather import Stations
from gridwire.grid.weather import Observation, check, weather_event

NOON_US = 1_451_649_600_000_000


def read(name, text, **context):
    return list(registry.get(name).decode(text.encode(), context=Context(**context)))


def observations(items):
    return [each for item in items for each in item.weather]


def test_csv_in_any_order_with_gaps():
    items = read(
        "weather-csv",
        "ts;wind_gust_ms;station;temperature_c;colour\n"
        "2016-01-01T13:00:00+01:00;12.5;S1;-3.5;red\n"
        "2016-01-01T13:00:00Z;;S2;4;blue\n",
    )
    first, second = observations(items)
    assert (first.ts_us, first.temperature_c, first.wind_gust_ms) == (NOON_US, -3.5, 12.5)
    assert (second.temperature_c, math.isnan(second.wind_gust_ms)) == (4.0, True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("S1,2016-01-01T13:00:00,1", "no offset"),
        ("S1,yesterday,1", "not an observation"),
        (",2016-01-01T13:00:00Z,1", "station"),
        ("S1,2016-01-01T13:00:00Z,", "no value"),
        ("S1,2016-01-01T13:00:00Z,warm", "not an observation"),
        ("S1,2016-01-01T13:00:00Z,61", "between -90 and 60"),
        ("S1,2016-01-01T13:00:00Z,inf", "between -90 and 60"),
        ("S1,2016-01-01T13:00:00Z", "2 values for 3 columns"),
    ],
)
def test_what_is_not_believed_is_told(line, reason):
    (bad,) = read("weather-csv", f"station,ts,temperature_c\n{line}\n")
    assert isinstance(bad, BadFrame)
    assert reason in bad.reason
    (again,) = read("weather-csv", (bad.prelude + bad.raw).decode())  # as a replay from quarantine does
    assert reason in again.reason


def test_json_lines():
    good, bad = read("weather-json", '{"station":"S1","ts":"2016-01-01T12:00:00Z","humidity_pct":55}\n[1]\n')
    assert good.weather[0].humidity_pct == 55.0
    assert bad.reason == "line is no JSON object"


def test_epw_hours_end_in_utc_and_nines_are_missing():
    items = list(registry.get("weather-epw").decode(meter_frames.EPW))
    first, second = observations(items[:2])
    assert (first.station, first.ts_us, first.temperature_c) == ("103840", NOON_US - 12 * 3_600_000_000, -0.5)
    assert (second.ts_us, second.radiation_wm2, second.wind_ms) == (NOON_US, 120.0, 4.1)
    assert math.isnan(items[2].weather[0].temperature_c)


class Sender:
    def __init__(self):
        self.sent = {}

    def send_events(self, hub, events):
        self.sent.setdefault(hub, []).extend(events)


def test_files_go_to_the_hub_and_bad_lines_to_quarantine(tmp_path):
    path = tmp_path / "weather.csv"
    path.write_text("ts,temperature_c\n2016-01-01T12:00:00Z,1.5\n2016-01-01T13:00:00Z,99\n")
    sender = Sender()
    report = ingest("weather-csv", [path], sender, context=Context(meter="S9"))
    assert (report.weather, report.quarantined) == (1, 1)
    (event,) = sender.sent["weather"]
    assert (event.key, json.loads(event.value)) == (
        b"S9", {"station": "S9", "ts": "2016-01-01T12:00:00Z", "temperature_c": 1.5},
    )  # fmt: skip
    assert registry.by_file(path).name == "weather-csv"


def columns(events):
    data = bytes(batch.encode(events))
    return ColumnBatch("weather", 0, decode(data, 0, len(data), from_offset=0).columns[0], len(events))


def network(stations):
    return Network(
        name="n",
        transformers=tuple(Transformer(id=f"T{i}", station=s) for i, s in enumerate(stations)),
        feeders=(Feeder(id="F0", transformer="T0"), Feeder(id="F1")),
        usage_points=(
            UsagePoint(id="U0", transformer="T0", feeder="F0"),
            UsagePoint(id="U1", transformer="T1", feeder="F1"),
        ),
    )


def test_detectors_see_what_is_believed():
    events = [
        weather_event(Observation("S1", NOON_US, 3600, temperature_c=-3.5, wind_gust_ms=17.2)),
        Event(b'{"station":"S1","ts":"2016-01-01T12:00:00Z","temperature_c":1e30}'),
        Event(b'{"station":"","ts":"2016-01-01T12:00:00Z","temperature_c":1}'),
        Event(b'{"ts":"2016-01-01T12:00:00Z"}'),
        Event(b"not JSON"),
    ]
    found = columns(events)
    seen, rows = Decoders(network(["", ""]).index()).decode(found, np.arange(5))
    assert rows.tolist() == [0, 1]
    assert (seen.temperature_c[0], seen.wind_gust_ms[0], seen.ts_us[0]) == (-3.5, 17.2, NOON_US)
    assert np.isnan(seen.temperature_c[1])


def test_a_unit_belongs_to_the_station_of_its_transformer_else_to_the_first_one_seen():
    stations = Stations(network(["S2", ""]).index())
    assert stations.of_units("transformer").tolist() == [-1, -1]
    assert stations.numbers(["S1", "S2", "S1"]).tolist() == [0, 1, 0]
    assert stations.of_units("transformer").tolist() == [1, 0]
    assert stations.of_units("feeder").tolist() == [1, 0]


def test_stations_are_limited():
    stations = Stations(network(["", ""]).index())
    found = stations.numbers([f"S{n}" for n in range(Stations.STATIONS_MAX + 3)])
    assert found[-3:].tolist() == [-1, -1, -1]


def test_an_observation_without_a_station_is_refused():
    assert "station" in check(Observation("", 0, temperature_c=1.0))
    assert check(Observation("S", 0, temperature_c=1.0)) == ""
