"""What the lake and the command line say of versions, completeness and rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from gridwire.broker.port import ColumnBatch
from gridwire.capture import decoders
from gridwire.capture.delta import TableWriter
from gridwire.capture.sql import query
from gridwire.cli import vee
from gridwire.cli.main import app
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.grid import lake as grid_lake
from gridwire.grid.readings import to_arrow


def columns(values: list[dict[str, Any]], hub: str) -> ColumnBatch:
    data = bytes(batch.encode([Event(json.dumps(value).encode(), None, (), 1) for value in values], base_offset=0))
    (found,) = decode(data, 0, len(data), from_offset=0).columns
    return ColumnBatch(hub, 0, found, len(values))


def put(lake: Path, hub: str, values: list[dict[str, Any]], decoder: Any) -> None:
    writer = TableWriter(lake, hub, UUID(int=1))
    writer.append([decoder(columns(values, hub))], {0: len(values)})
    writer.close()


def reading(value: float, at: str, **more: Any) -> dict[str, Any]:
    place = {"usage_point": "U", "ts_end": "2026-01-01T00:15:00Z", "interval_s": 900, "reading_type": "import_kwh"}
    return place | {"value": value, "received_at": f"2026-01-01T{at}:00Z", "source": "h"} | more


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    rows = [
        reading(9.0, "02:00", quality="3.8.2", source="gridwire.vee"),
        reading(1.0, "03:00"),
        reading(8.0, "04:00", quality="3.8.2", source="gridwire.vee", version=3),
        reading(2.0, "05:00", version=1, quality="3.7.1"),
        reading(7.0, "06:00", usage_point="V", quality="3.8.2", source="gridwire.vee"),
        reading(0.0, "07:00", usage_point="V", quality="3.8.65535", source="gridwire.vee"),
        reading(1.0, "07:00", usage_point="V", ts_end="2026-01-01T00:30:00Z"),
    ]
    put(data / "lake", "readings", rows, to_arrow)
    fact = {"feeder": "F", "interval_s": 900, "expected": 2}
    facts = [
        fact | {"ts_end": "2026-01-01T00:15:00Z", "count": 1, "version": 0},
        fact | {"ts_end": "2026-01-01T00:15:00Z", "count": 2, "version": 1},
        fact | {"ts_end": "2026-01-01T00:30:00Z", "count": 1, "estimated": 1, "estimated_kwh": 0.1, "version": 0},
    ]
    put(data / "lake", "grid.feeders", facts, decoders.json_decoder(grid_lake.LOADS))
    verdict = {"usage_point": "U", "reading_type": "import_kwh", "interval_s": 900, "model": 0}
    verdicts = [
        verdict | {"ts_end": "2026-01-01T00:15:00Z", "failed": ["zero", "duplicate"]},
        verdict | {"ts_end": "2026-01-01T00:15:00Z", "failed": ["zero"]},
        verdict | {"ts_end": "2026-01-01T00:30:00Z", "failed": []},
    ]
    put(data / "lake", "grid.vee", verdicts, decoders.events)
    return data


@pytest.mark.parametrize(
    ("moment", "value"), [("02:30", 9.0), ("03:30", 1.0), ("04:30", 1.0), ("05:30", 2.0), ("01:00", None)]
)
def test_readings_as_they_were_known(data: Path, moment: str, value: float | None) -> None:
    question = f"select value from readings_as_of(timestamptz '2026-01-01 {moment}:00Z') where usage_point = 'U'"
    assert query(data / "lake", question).rows == ([] if value is None else [(value,)])


def test_readings_as_they_hold(data: Path) -> None:
    rows = query(data / "lake", "select usage_point, value, kwh::double from readings_current order by 1, 2").rows
    assert rows == [("U", 2.0, 2.0), ("V", 1.0, 1.0)]


def test_a_report_of_the_lake(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = app(["vee", "check", "--data", str(data), "--slo", "0.8", "-o", "json"], result_action="return_value")
    told = json.loads(capsys.readouterr().out)
    assert [(row["rule"], row["intervals"]) for row in told["failed"]] == [("zero", 1)]
    found = {
        row["kind"]: (row["expected"], row["measured"], row["estimated"], row["slo_met"])
        for row in told["completeness"]
    }
    assert found["feeder"] == (4, 3, 1, False)
    assert code == 1


def test_rules_are_shown_without_a_hub(capsys: pytest.CaptureFixture[str]) -> None:
    app(["vee", "rules", "--defaults", "-o", "json"], result_action="return_value")
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 28
    assert {row["settings"]["enabled"] for row in rows} == {True}
    app(["vee", "rules", "--defaults"], result_action="return_value")
    assert "interval_spike" in capsys.readouterr().out


def test_the_history_of_a_reading(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["U", "2026-01-01T01:15:00+01:00", "--data", str(data), "-o", "json"]
    app(["readings", "history", *place], result_action="return_value")
    rows = json.loads(capsys.readouterr().out)
    assert [(row["version"], row["value"], row["quality"]) for row in rows] == [
        (0, 9.0, "3.8.2"), (0, 1.0, "0.0.0"), (1, 2.0, "3.7.1"), (3, 8.0, "3.8.2"),
    ]  # fmt: skip


def test_quotes_in_a_name_stay_in_it(data: Path) -> None:
    assert vee._versions(data, "U' or '1'='1", 0, "import_kwh") == []
