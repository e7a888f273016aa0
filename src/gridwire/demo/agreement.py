"""Whether the hub's facts, the lake and an independent calculation say the same."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from gridwire.core.errors import GridwireError
from gridwire.core.hubs import FEEDERS, READINGS, TRANSFORMERS
from gridwire.demo.truth import IntervalTruth, Truth, UnitTruth

GROUPS: Final = ("grid.loads", "lake.capture")
CATCH_UP_S: Final = 240.0
"""Longest wait for the workers; a first start compiles kernels for half a minute."""

_PAGE_EVENTS: Final = 1000
_DIFFERENCES_SHOWN: Final = 5


@dataclass(slots=True)
class Agreement:
    """What was compared. `differences` is empty when everything agrees."""

    readings: int = 0
    sums: int = 0
    lake_rows: int = 0
    intervals: int = 0
    differences: list[str] = field(default_factory=list)


def wait_until_caught_up(client: httpx.Client, catch_up_s: float = CATCH_UP_S) -> None:
    """Wait until the workers have read everything.

    Raises:
        GridwireError: they did not in time.
    """
    deadline = time.monotonic() + catch_up_s
    lags: dict[str, int] = {}
    while time.monotonic() < deadline:
        lags = {group: _unread_events(client, group) for group in GROUPS}
        if not any(lags.values()):
            return
        time.sleep(0.25)
    raise GridwireError(
        f"the workers did not catch up within {catch_up_s:.0f} s (events behind: {lags}): look at the log"
    )


def _unread_events(client: httpx.Client, group: str) -> int:
    """Events a worker has not dealt with, those of partitions it has not committed a position of yet included."""
    answer = client.get(f"/v1/groups/{group}")
    rows = [] if answer.status_code == httpx.codes.NOT_FOUND else answer.raise_for_status().json()["partitions"]
    known = {row["partition"] for row in rows if row["hub"] == READINGS}
    bounds = client.get(f"/v1/hubs/{READINGS}").raise_for_status().json()["bounds"]
    untouched = sum(int(row["end"] - row["start"]) for row in bounds if row["partition"] not in known)
    return untouched + sum(int(row["lag_events"]) for row in rows)


def compare(client: httpx.Client, lake_root: Path, truth: Truth) -> Agreement:
    """Compare facts and lake with the truth, for every interval the truth knows."""
    found = Agreement()
    intervals = [told for number in truth.intervals() if (told := truth.sums(number)) is not None]
    found.intervals = len(intervals)
    facts = _newest_facts(client, {told.ts_end for told in intervals})
    for told in intervals:
        for kind, units in (("transformer", told.transformers), ("feeder", told.feeders)):
            for unit, sums in units.items():
                if sums.count:
                    found.sums += 1
                    _compare_fact(found, facts.get((kind, unit, told.ts_end)), sums, f"{kind} {unit} at {told.ts_end}")
    _compare_lake(found, client, lake_root, intervals)
    return found


def _compare_fact(found: Agreement, fact: dict[str, Any] | None, sums: UnitTruth, what: str) -> None:
    if fact is None:
        found.differences.append(f"{what}: no fact")
        return
    told = (round(fact["import_kwh"] * 1000), round(fact["export_kwh"] * 1000), fact["count"])
    wanted = (sums.import_wh, sums.export_wh, sums.count)
    if told != wanted:
        found.differences.append(f"{what}: fact (import Wh, export Wh, count) {told}, truth {wanted}")


def _newest_facts(client: httpx.Client, wanted: set[str]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The fact with the highest version for every (kind, unit, interval) wanted."""
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for hub, kind in ((TRANSFORMERS, "transformer"), (FEEDERS, "feeder")):
        for fact in _values(client, hub):
            place = (kind, fact[kind], fact["ts_end"])
            known = newest.get(place)
            if fact["ts_end"] in wanted and (known is None or fact["version"] >= known["version"]):
                newest[place] = fact
    return newest


def _values(client: httpx.Client, hub: str) -> Any:
    for partition in client.get(f"/v1/hubs/{hub}").raise_for_status().json()["bounds"]:
        offset = partition["start"]
        while offset < partition["end"]:
            query = {"partition": partition["partition"], "offset": offset, "limit": _PAGE_EVENTS}
            page = client.get(f"/v1/hubs/{hub}/events", params=query).raise_for_status().json()
            for event in page["events"]:
                yield event["value"]
            offset = page["next"]


def _compare_lake(found: Agreement, client: httpx.Client, lake_root: Path, intervals: list[IntervalTruth]) -> None:
    from gridwire.capture.sql import query

    bounds = client.get(f"/v1/hubs/{READINGS}").raise_for_status().json()["bounds"]
    found.readings = sum(row["end"] - row["start"] for row in bounds)
    found.lake_rows = int(query(lake_root, "select count(*) from readings").rows[0][0])
    places = int(
        query(lake_root, 'select count(*) from (select distinct partition, "offset" from readings)').rows[0][0]
    )
    if not found.lake_rows == places == found.readings:
        found.differences.append(f"lake: {found.lake_rows} rows, {places} places, {found.readings} events in the hub")
    sums = query(
        lake_root,
        "select strftime(ts_end at time zone 'UTC', '%Y-%m-%dT%H:%M:%SZ'), cast(round(sum(value) * 1000) as bigint), "
        "count(*) from readings where interval_s = 900 and (quality >> 16 & 255) <> 8 group by 1",  # no estimates
        limit_rows=1_000_000,
    )
    rows = {row[0]: (row[1], row[2]) for row in sums.rows}
    for told in intervals:
        units = told.transformers.values()
        wanted = (sum(u.import_wh + u.export_wh for u in units), sum(u.count for u in units))
        if rows.get(told.ts_end) != wanted:
            found.differences.append(f"lake at {told.ts_end}: (Wh, rows) {rows.get(told.ts_end)}, truth {wanted}")


def differences_text(found: Agreement) -> str:
    """The first differences, one a line."""
    shown = found.differences[:_DIFFERENCES_SHOWN]
    more = len(found.differences) - len(shown)
    return "\n".join([*shown, *([f"and {more} more"] if more else [])])
