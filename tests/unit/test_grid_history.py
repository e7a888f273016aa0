"""What the lake knows of the grid at a time, over real tables."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from msgspec import convert

from gridwire.capture.delta import TableWriter
from gridwire.grid import history, lake
from gridwire.grid.history import History, NotInLake, quality_text
from gridwire.grid.reading import pack_quality
from gridwire.grid.readings import LAKE_READING
from gridwire.heads.http.api import shapes

T0 = datetime(2016, 6, 14, tzinfo=UTC)


def at(interval: int) -> datetime:
    return T0 + timedelta(minutes=15 * interval)


def text(interval: int) -> str:
    return at(interval).isoformat().replace("+00:00", "Z")


def fill(root: Path, hub: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    placed = [{"partition": 0, "offset": offset} | row for offset, row in enumerate(rows)]
    writer = TableWriter(root, hub, UUID(int=1))
    writer.append([pa.RecordBatch.from_pylist(placed, schema)], {0: len(rows)})
    writer.close()


def captured(fields: pa.Schema) -> pa.Schema:
    """As `capture.decoders.json_decoder` makes a table of these fields."""
    before = [("partition", pa.int32()), ("offset", pa.int64()), ("timestamp", pa.timestamp("ms", "UTC"))]
    return pa.schema([*before, *fields, ("_raw", pa.binary())])


def load(unit: str, interval: int, load_kw: float, version: int = 0, **more: Any) -> dict[str, Any]:
    told = at(interval) + timedelta(days=3650, seconds=version)
    return {"transformer": unit, "ts_end": at(interval), "interval_s": 900, "load_kw": load_kw, "version": version,
            "timestamp": told, **more}  # fmt: skip


def reading(interval: int, value: int, version: int = 0, quality: str = "", point: str = "U'1") -> dict[str, Any]:
    return {
        "usage_point": point, "reading_type": "import_kwh", "ts_end": at(interval), "interval_s": 900, "value": value,
        "scale": -3, "quality": max(0, pack_quality(quality)), "flags": 0, "version": version, "received_at": at(0),
    }  # fmt: skip


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> History:
    root = tmp_path_factory.mktemp("lake")
    loads = [load("T1", n, 10.0 + n) for n in range(1, 9)] + [load("T1", 4, 99.0, 1), load("T2", 2, 5.0)]
    fill(root, "grid.transformers", [*loads, {"_raw": b"nonsense", "timestamp": at(0)}], captured(lake.LOADS))
    fill(root, "grid.feeders", [load("T1", 3, 7.0, feeder="F1")], captured(lake.LOADS))
    health = [{"transformer": "T1", "ts_end": at(n), "hot_spot_c": 50.0 + n, "timestamp": at(0)} for n in (0, 4, 8)]
    fill(root, "grid.health", health, captured(lake.HEALTH))
    readings = [reading(1, 100), reading(2, 200), reading(2, 250, 1), reading(3, 5, quality="3.8.4")]
    fill(root, "readings", [*readings, reading(1, 7, point="U2")], LAKE_READING)
    return History(root)


def test_answers_are_what_the_document_of_the_api_says(past: History) -> None:
    times, loads = past.answer({"ask": "times"}), {"ask": "loads", "kind": "transformer", "unit": "T1"}
    convert(times, shapes.LakeTimes)
    convert(past.answer({**loads, "until": text(8), "limit": 3}), shapes.Loads)
    for versions in ("current", "all"):
        asked = {"ask": "readings", "usage_point": "U'1", "since": None, "until": None, "versions": versions}
        convert({"usage_point": "U'1", **past.answer(asked)}, shapes.PointReadings)
    found = past.answer({"ask": "at", "time": text(4)})
    convert({"time": text(4), **found, "alerts": [], "offsets": []}, shapes.GridAt)


def test_times_are_those_of_loads(past: History) -> None:
    assert past.answer({"ask": "times"}) == {"first": text(1), "last": text(8), "interval_s": 900}


def test_a_moment_is_the_newest_interval_of_each_unit_with_its_highest_version(past: History) -> None:
    found = past.answer({"ask": "at", "time": text(4)})
    assert [(row["transformer"], row["ts_end"], row["load_kw"]) for row in found["transformers"]] == [
        ("T1", text(4), 99.0), ("T2", text(2), 5.0)
    ]  # fmt: skip
    assert [(row["feeder"], row["load_kw"]) for row in found["feeders"]] == [("F1", 7.0)]
    assert [row["hot_spot_c"] for row in found["health"]] == [54.0]
    assert found["reached_ms"] == round((at(5) + timedelta(days=3650)).timestamp() * 1000)
    assert past.answer({"ask": "at", "time": text(8)})["reached_ms"] is None
    assert past.answer({"ask": "at", "time": text(200)})["transformers"] == []


def test_loads_of_a_unit_end_at_a_time(past: History) -> None:
    found = past.answer({"ask": "loads", "kind": "transformer", "unit": "T1", "until": text(5), "limit": 3})
    assert [(row["ts_end"], row["load_kw"]) for row in found["facts"]] == [
        (text(3), 13.0), (text(4), 99.0), (text(5), 15.0)
    ]  # fmt: skip


def test_readings_with_quality_and_every_version_on_demand(past: History) -> None:
    wanted = {"ask": "readings", "usage_point": "U'1", "since": None, "until": None}
    held = past.answer({**wanted, "versions": "current"})
    told = [(row["ts_end"], row["value"], row["unit"], row["quality"], row["holds"]) for row in held["readings"]]
    assert told == [
        (text(1), 0.1, "kWh", "", True), (text(2), 0.25, "kWh", "", True), (text(3), 0.005, "kWh", "3.8.4", True)
    ]  # fmt: skip
    every = past.answer({**wanted, "versions": "all", "since": text(1), "until": text(2)})
    assert [(row["version"], row["holds"]) for row in every["readings"]] == [(0, False), (1, True)]
    assert past.answer({**wanted, "versions": "all", "usage_point": "' OR 1=1 --"}) == {
        "readings": [], "truncated": False
    }  # fmt: skip


def test_more_readings_than_may_be_are_cut(past: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "READINGS_MAX", 2)
    found = past.readings("U'1", text(0), text(9), "all")
    assert len(found["readings"]) == 2 and found["truncated"]


def test_an_empty_lake_has_no_times_and_says_what_to_do(tmp_path: Path) -> None:
    empty = History(tmp_path)
    assert empty.times() == {"first": None, "last": None, "interval_s": 900}
    with pytest.raises(NotInLake, match="`capture` on"):
        empty.at(text(1))


def test_the_process_answers_a_line_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b'{"ask":"times"}\n{"ask":"loads","kind":"feeder","unit":"F","until":"2016-01-01T00:00:00Z","limit":1}\n'
    out = io.BytesIO()
    monkeypatch.setattr(history, "sys", SimpleNamespace(
        stdin=SimpleNamespace(buffer=io.BytesIO(lines)), stdout=SimpleNamespace(buffer=out)))  # fmt: skip
    history.main(tmp_path)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert told[0] == {"answer": {"first": None, "last": None, "interval_s": 900}}
    assert "not in the lake" in told[1]["missing"]


@pytest.mark.parametrize("quality", ["3.8.4", "1.5.257", "15.255.65535"])
def test_a_packed_quality_is_read_back(quality: str) -> None:
    assert quality_text(pack_quality(quality)) == quality
    assert quality_text(0) == ""
