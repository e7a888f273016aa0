"""What the lake knows of the grid at a time: loads, health, a usage point's readings, as the page asks for them.

The hub imports neither DuckDB nor pyarrow, so it has these questions answered by a process of its own that runs this
module (`gridwire.lake_reader`): one JSON object a line in, one out, in the same order.

    {"ask":"loads","kind":"transformer","unit":"T1","until":"2016-06-14T07:45:00Z","limit":192}
    {"answer":{"facts":[...]}}   or   {"missing":"grid.transformers is not in the lake: ..."}   or   {"failed":"..."}

Times are ends of intervals, RFC 3339 in UTC. Whatever is asked about is a literal of the question, never part of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from gridwire.capture.sql import SqlError, query, tables
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import FEEDERS, HEALTH, READINGS, TRANSFORMERS
from gridwire.core.limits import MIB
from gridwire.grid.reading import rfc3339, timestamp_us
from gridwire.grid.reading_types import BY_ALIAS

TIMEOUT_S: Final = 15.0
MEMORY_BYTES: Final = 512 * MIB
UNITS_MAX: Final = 50_000
"""Transformers, and feeders, of one moment: 20 MB of JSON each. Utilities with more ask the lake itself."""

READINGS_MAX: Final = 10_000
"""Readings of one answer: three months of quarter hours, or a month with every version."""

LOOK_BACK: Final = "INTERVAL 1 DAY"
"""A unit whose newest interval is older than this is not shown at a moment; its health, twice."""

_KINDS: Final = {"transformer": TRANSFORMERS, "feeder": FEEDERS}
_FACT: Final = (
    "transformer, feeder, ts_end, interval_s, import_kwh, export_kwh, load_kw, count, expected, max_kw, peak_kw, "
    "peak_at, rated_kva, version, estimated, estimated_kwh"
)
_NEWEST_VERSION: Final = 'version DESC, "offset" DESC'


class NotInLake(GridwireError):
    """A question about a table that is not there; the message says what to do."""


class History:
    """Answers questions over one lake."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._answers: Mapping[str, Callable[..., dict[str, Any]]] = {
            "times": self.times,
            "at": self.at,
            "loads": self.loads,
            "readings": self.readings,
        }

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Raises NotInLake, SqlError."""
        wanted = dict(question)
        return self._answers[wanted.pop("ask")](**wanted)

    def times(self) -> dict[str, Any]:
        """The first and last interval there are loads of; both null while there are none."""
        if not self._has(TRANSFORMERS):
            return {"first": None, "last": None, "interval_s": 900}
        (row,) = self._rows(
            f"SELECT min(ts_end) AS first, max(ts_end) AS last, arg_max(interval_s, ts_end) AS interval_s "
            f'FROM "{TRANSFORMERS}" WHERE transformer IS NOT NULL'
        )
        return {**row, "interval_s": row["interval_s"] or 900}

    def at(self, time: str) -> dict[str, Any]:
        """Every unit's newest interval at a time, and when the grid had come that far by the hub's clock.

        `reached_ms` is null while nothing later has been told.
        """
        self._require(TRANSFORMERS)
        until = _moment(time)
        (reached,) = self._rows(f'SELECT epoch_ms(min("timestamp")) AS at FROM "{TRANSFORMERS}" WHERE ts_end > {until}')
        return {
            "transformers": self._units("transformer", until),
            "feeders": self._units("feeder", until) if self._has(FEEDERS) else [],
            "health": self._health(until) if self._has(HEALTH) else [],
            "reached_ms": reached["at"],
        }

    def loads(self, kind: str, unit: str, until: str, limit: int) -> dict[str, Any]:
        """A unit's last intervals up to a time, oldest first, the highest version of each."""
        hub = _KINDS[kind]
        self._require(hub)
        rows = self._rows(
            f'SELECT {_FACT} FROM "{hub}" WHERE {kind} = {_text(unit)} AND ts_end <= {_moment(until)} '
            f"QUALIFY row_number() OVER (PARTITION BY ts_end ORDER BY {_NEWEST_VERSION}) = 1 "
            f"ORDER BY ts_end DESC LIMIT {int(limit)}"
        )
        return {"facts": rows[::-1]}

    def readings(self, usage_point: str, since: str | None, until: str | None, versions: str) -> dict[str, Any]:
        """A usage point's readings, oldest first: those that hold, or every version with `holds` on those.

        Args:
            since: intervals that end later; None: a day before `until`.
            until: and not after this; None: the newest.
            versions: `current` or `all`.
        """
        self._require(READINGS)
        end = _moment(until) if until else self._newest_reading(usage_point)
        if end is None:
            return {"readings": [], "truncated": False}
        begin = _moment(since) if since else f"{end} - {LOOK_BACK}"
        place = f"usage_point = {_text(usage_point)} AND ts_end > {begin} AND ts_end <= {end}"
        columns = (
            "reading_type, ts_end, interval_s, value, quality, flags, meter, source, version, received_at, "
            '"partition", "offset"'
        )
        holding = f'SELECT "partition", "offset" FROM {READINGS}_current WHERE {place}'
        holds = f'("partition", "offset") IN ({holding})'
        table = READINGS if versions == "all" else f"{READINGS}_current"
        rows = self._rows(
            f"SELECT {columns}, {holds if versions == 'all' else 'true'} AS holds FROM {table} WHERE {place} "
            f'ORDER BY ts_end, reading_type, version, "partition", "offset" LIMIT {READINGS_MAX + 1}'
        )
        return {"readings": [_told(row) for row in rows[:READINGS_MAX]], "truncated": len(rows) > READINGS_MAX}

    def _newest_reading(self, usage_point: str) -> str | None:
        (row,) = self._rows(f"SELECT max(ts_end) AS last FROM {READINGS} WHERE usage_point = {_text(usage_point)}")
        return None if row["last"] is None else _moment(row["last"])

    def _units(self, kind: str, until: str) -> list[dict[str, Any]]:
        return self._rows(
            f'SELECT {_FACT} FROM "{_KINDS[kind]}" WHERE {kind} IS NOT NULL AND ts_end <= {until} '
            f"AND ts_end > {until} - {LOOK_BACK} QUALIFY row_number() OVER "
            f"(PARTITION BY {kind} ORDER BY ts_end DESC, {_NEWEST_VERSION}) = 1 ORDER BY {kind}",
            UNITS_MAX,
        )

    def _health(self, until: str) -> list[dict[str, Any]]:
        return self._rows(
            f'SELECT * EXCLUDE ("partition", "offset", "timestamp", _raw) FROM "{HEALTH}" WHERE ts_end <= {until} '
            f"AND transformer IS NOT NULL AND ts_end > {until} - 2 * {LOOK_BACK} QUALIFY row_number() OVER "
            f'(PARTITION BY transformer ORDER BY ts_end DESC, "offset" DESC) = 1 ORDER BY transformer',
            UNITS_MAX,
        )

    def _rows(self, sql: str, limit: int = READINGS_MAX + 1) -> list[dict[str, Any]]:
        found = query(self._lake, sql, limit_rows=limit, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES)
        return [{name: _plain(value) for name, value in zip(found.columns, row, strict=True)} for row in found.rows]

    def _has(self, hub: str) -> bool:
        return any(table.name == hub for table in tables(self._lake))

    def _require(self, hub: str) -> None:
        if not self._has(hub):
            raise NotInLake(
                f"{hub} is not in the lake: run the hub with workers, with `capture` on for this hub, and send readings"
            )


def quality_text(packed: int) -> str:
    """CIM quality `system.category.sub` of its packed form; "" is good."""
    return f"{packed >> 24}.{packed >> 16 & 255}.{packed & 65_535}" if packed else ""


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "unit": BY_ALIAS[row["reading_type"]].unit, "quality": quality_text(row["quality"])}


def _plain(value: Any) -> Any:
    return rfc3339(timestamp_us(value)) if isinstance(value, datetime) else value


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _moment(text: str) -> str:
    return f"TIMESTAMPTZ {_text(text)}"


def main(lake: Path) -> None:
    """Answer until standard input ends, as it does when the hub does."""
    history = History(lake)
    for line in sys.stdin.buffer:
        try:
            told: dict[str, Any] = {"answer": history.answer(msgspec.json.decode(line))}
        except NotInLake as error:
            told = {"missing": str(error)}
        except SqlError as error:
            told = {"failed": str(error)}
        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
