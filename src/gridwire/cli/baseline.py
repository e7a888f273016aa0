"""`gridwire baseline`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from gridwire.cli.output import Common, print_json, print_table
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import FEEDERS, READINGS, TRANSFORMERS

if TYPE_CHECKING:
    from gridwire.grid.baselines import Method

FILE_ROWS_MAX: Final = 100_000
"""Events of one file: a year of daily events of some hundred units."""


@dataclass(frozen=True)
class _Event:
    kind: str
    unit: str
    start: datetime
    end: datetime


def baseline(
    events: Path,
    *,
    method: str = "caiso-10-of-10",
    data: Path = Path("gridwire-data"),
    zone: str = "UTC",
    common: Common = Common(),  # noqa: B008
) -> int:
    """What demand response events delivered, by a baseline of days like theirs.

    Args:
        events: CSV with the columns kind (transformer, feeder or usage_point), unit, start and end.
        method: caiso-10-of-10 or ercot-middle-8-of-10.
        data: the data directory whose lake is asked.
        zone: time zone of the utility, whose days are compared.
    """
    from gridwire.grid.baselines import METHODS

    if method not in METHODS:
        raise GridwireError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    where = _zone(zone)
    told = _read(events, where)
    rows = [_judged(each, told, METHODS[method], data / "lake", where) for each in told]
    if common.json:
        print_json(rows)
        return 0
    columns = ("kind", "unit", "start", "end", "delivered_kwh", "baseline_kwh", "load_kwh", "adjustment", "problem")
    print_table(columns, [tuple(row.get(name) for name in columns) for row in rows], columns[4:8])
    return 0


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise GridwireError(f"--zone must be a time zone such as Europe/Berlin, not {name!r}") from None


def _read(path: Path, zone: ZoneInfo) -> list[_Event]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for _, row in zip(range(FILE_ROWS_MAX), csv.DictReader(file), strict=False)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GridwireError(f"cannot read {path}: {error}") from None
    return [_event(row, f"{path.name}, event {number}", zone) for number, row in enumerate(rows, 1)]


def _event(row: Mapping[str, str | None], place: str, zone: ZoneInfo) -> _Event:
    try:
        kind, unit = str(row["kind"]), str(row["unit"])
        start, end = (_moment(str(row[name]), zone) for name in ("start", "end"))
    except (KeyError, ValueError) as error:
        raise GridwireError(f"{place}: kind, unit, start and end are needed ({error})") from None
    if kind not in _TABLES:
        raise GridwireError(f"{place}: kind must be one of {', '.join(_TABLES)}, not {kind!r}")
    if not start < end or (end - timedelta(microseconds=1)).astimezone(zone).date() != start.astimezone(zone).date():
        raise GridwireError(f"{place}: an event ends after it starts, on the same day")
    return _Event(kind, unit, start, end)


def _moment(text: str, zone: ZoneInfo) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


_TABLES: Final = {"transformer": TRANSFORMERS, "feeder": FEEDERS, "usage_point": READINGS}


def _judged(event: _Event, told: list[_Event], method: Method, lake: Path, zone: ZoneInfo) -> dict[str, Any]:
    import numpy as np

    from gridwire.grid.baselines import DAYS_BACK_MAX, NoBaseline, deliver

    on = event.start.astimezone(zone).date()
    first = on - timedelta(days=DAYS_BACK_MAX)
    found: dict[str, Any] = {
        "kind": event.kind, "unit": event.unit, "start": event.start.isoformat(), "end": event.end.isoformat(),
        "method": method.name,
    }  # fmt: skip
    loads, per_hour = _loads(event, first, on, lake, zone)
    if loads is None:
        return found | {"problem": "no loads are known"}
    start, stop = (_interval(moment, on, zone, per_hour) for moment in (event.start, event.end))
    others = [e.start.astimezone(zone).date() for e in told if (e.kind, e.unit) == (event.kind, event.unit)]
    try:
        judged = deliver(loads, first, on, start, stop, method, [day for day in others if day != on])
    except NoBaseline as error:
        return found | {"problem": str(error)}
    return found | {
        "delivered_kwh": round(judged.delivered_kwh, 3),
        "baseline_kwh": round(float(np.sum(judged.baseline_kw)) / per_hour, 3),
        "load_kwh": round(float(np.sum(judged.load_kw)) / per_hour, 3),
        "adjustment": round(judged.adjustment, 4),
        "days": [day.isoformat() for day in judged.days],
    }


def _interval(moment: datetime, on: date, zone: ZoneInfo, per_hour: int) -> int:
    """The interval of its local day that begins at a time; by the clock on the wall, so days have 24 hours."""
    local = moment.astimezone(zone)
    hours = 24.0 * (local.date() - on).days + local.hour + local.minute / 60
    return round(hours * per_hour)


def _loads(event: _Event, first: date, on: date, lake: Path, zone: ZoneInfo) -> tuple[Any, int]:
    """(loads of the unit by local day `[days, intervals]`, NaN for gaps, intervals an hour); None if there are none.

    The hour that is left out in spring is a gap; of the hour that comes twice in autumn the second holds.
    """
    import numpy as np

    from gridwire.capture import sql

    begin = datetime.combine(first, datetime.min.time(), zone).astimezone(UTC)
    until = datetime.combine(on + timedelta(days=1), datetime.min.time(), zone).astimezone(UTC)
    table = sql.arrow(lake, _question(event, begin, until))
    if not len(table):
        return None, 0
    interval_s = min(table["interval_s"].to_pylist())
    if interval_s <= 0 or 3600 % interval_s:
        raise GridwireError(f"baselines are made of intervals that divide an hour, not of {interval_s} s")
    per_hour = 3600 // interval_s
    loads = np.full(((on - first).days + 1, 24 * per_hour), np.nan)
    for ts_us, kw in zip(table["ts_us"].to_pylist(), table["kw"].to_pylist(), strict=True):
        local = datetime.fromtimestamp(ts_us / 1e6 - interval_s, zone)
        day, at = (local.date() - first).days, (local.hour * 3600 + local.minute * 60 + local.second) // interval_s
        if 0 <= day < len(loads):
            loads[day, at] = kw
    return loads, per_hour


def _question(event: _Event, begin: datetime, until: datetime) -> str:
    unit = event.unit.replace("'", "''")
    when = f"ts_end > TIMESTAMPTZ '{begin.isoformat()}' AND ts_end <= TIMESTAMPTZ '{until.isoformat()}'"
    if event.kind == "usage_point":
        kw = "arg_max(CASE reading_type WHEN 'export_kwh' THEN -kwh ELSE kwh END, version) * 3600 / max(interval_s)"
        return (
            f"SELECT epoch_us(ts_end) AS ts_us, max(interval_s) AS interval_s, CAST(sum(kw) AS DOUBLE) AS kw FROM ("
            f"SELECT ts_end, max(interval_s) AS interval_s, {kw} AS kw FROM {READINGS} WHERE usage_point = '{unit}' "
            f"AND reading_type IN ('import_kwh', 'export_kwh') AND interval_s > 0 AND {when} "
            "GROUP BY ts_end, reading_type) GROUP BY ts_end ORDER BY ts_us"
        )
    return (
        "SELECT epoch_us(ts_end) AS ts_us, max(interval_s) AS interval_s, arg_max(load_kw, version) AS kw "
        f"FROM \"{_TABLES[event.kind]}\" WHERE {event.kind} = '{unit}' AND interval_s > 0 AND {when} "
        "GROUP BY ts_end ORDER BY ts_us"
    )
