"""History that is loaded one meter after the other, into a hub that is killed meanwhile: every sum comes out right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gridwire.capture import sql

DAYS, POINTS = 12, 6
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
DEADLINE_S = 180.0


def model() -> dict[str, Any]:
    return {
        "name": "town",
        "interval_s": 3600,
        "transformers": [{"id": f"T{n}", "rated_kva": 100} for n in range(2)],
        "feeders": [{"id": "F0"}],
        "usage_points": [{"id": f"U{n}", "transformer": f"T{n % 2}", "feeder": "F0"} for n in range(POINTS)],
    }


def readings(point: int) -> str:
    """Two weeks of one meter, its every hour the same: 0.1 kWh and its own number of watt-hours."""
    return "".join(
        json.dumps({
            "usage_point": f"U{point}", "interval_s": 3600, "reading_type": "import_kwh",
            "ts_end": (BEGIN + timedelta(hours=hour + 1)).strftime("%Y-%m-%dT%H:%M:%SZ"), "value": 0.1 + point / 1000,
        }) + "\n"
        for hour in range(24 * DAYS)
    )  # fmt: skip


def facts(data: Path) -> list[tuple[str, int, int, float]]:
    """Unit, readings, intervals that have every reading, and energy, by the highest version of each interval."""
    try:
        rows = sql.query(
            data / "lake",
            """
            SELECT unit, sum(count), count(*) FILTER (count = expected), sum(import_kwh) FROM (
              FROM (SELECT transformer AS unit, * FROM "grid.transformers"
                    UNION ALL BY NAME SELECT feeder AS unit, * FROM "grid.feeders")
              QUALIFY row_number() OVER (PARTITION BY unit, ts_end ORDER BY version DESC) = 1)
            GROUP BY unit ORDER BY unit
            """,
        ).rows
    except sql.SqlError:
        return []  # not yet a table
    return [(unit, int(count), whole, round(energy, 3)) for unit, count, whole, energy in rows]


def expected(points: int) -> list[tuple[str, int, int, float]]:
    """The facts when the first so many meters have told everything."""
    hours = 24 * DAYS
    units = [("F0", range(POINTS)), ("T0", range(0, POINTS, 2)), ("T1", range(1, POINTS, 2))]
    heard = [(unit, [point for point in of if point < points], len(of)) for unit, of in units]
    return [
        (unit, hours * len(of), hours * (len(of) == every), round(hours * sum(0.1 + point / 1000 for point in of), 3))
        for unit, of, every in heard
    ]


def wait_for_facts(data: Path, points: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (found := facts(data)) != expected(points):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_history_that_comes_meter_after_meter_is_summed(start_hub: Callable[..., Any], tmp_path: Path) -> None:
    data = tmp_path / "data"
    hub = start_hub("--amqp-port", "off", "--lake-flush", "1", data=data)
    (tmp_path / "network.json").write_text(json.dumps(model()))
    hub.cli("network", "import", "json", str(tmp_path / "network.json"))
    for point in range(POINTS):
        if point == POINTS - 1:
            wait_for_facts(data, point)  # the window is at its end: what the last meter has is late for certain
        (tmp_path / f"{point}.ndjson").write_text(readings(point))
        hub.cli("ingest", "json", str(tmp_path / f"{point}.ndjson"))
        if point == POINTS // 2:
            hub.kill()
            hub = start_hub("--amqp-port", "off", "--lake-flush", "1", data=data)
    wait_for_facts(data, POINTS)
    names = {each["name"]: each["events"] for each in hub.get("/v1/hubs")["hubs"]}
    assert names["grid.late"] > 0
    assert names["quarantine"] == 0
