"""Weather: observations as CSV or JSON lines, and EnergyPlus weather files.

CSV needs a header line with `station`, `ts` and any of the values of `gridwire.grid.weather`; a file of one station may
leave `station` out if `--meter` names it. JSON is one observation a line. EPW is a year of hours of one place: its
first line names the place and the offset of its local standard time; a value of all nines is missing.

**Source** of EPW: EnergyPlus Auxiliary Programs, "EnergyPlus Weather File (EPW) Data Dictionary".
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from gridwire.grid.formats.base import Context, Decoded, Format, Item, Piece, Unusable, items
from gridwire.grid.formats.rows import LINE_BYTES_MAX, lines
from gridwire.grid.reading import timestamp_us
from gridwire.grid.weather import RANGES, Observation, check

_EPW_HEADER_LINES: Final = 8
_EPW_COLUMNS: Final = {"temperature_c": (6, 99.9), "humidity_pct": (8, 999.0), "radiation_wm2": (13, 9999.0),
                       "wind_ms": (21, 999.0)}  # fmt: skip
"""Column of each value and what stands there when it is missing."""


def _observation(cells: Mapping[str, Any], context: Context) -> Observation:
    """Raises Unusable, ValueError."""
    moment = datetime.fromisoformat(str(cells.get("ts") or ""))
    if moment.tzinfo is None:
        raise Unusable("ts has no offset: write 2016-06-01T12:00:00Z")
    interval_s = int(cells.get("interval_s") or 0)
    if not 0 <= interval_s <= 86_400:
        raise Unusable("interval_s must be 0 to 86400")
    values = {name: float(cells[name]) for name in RANGES if cells.get(name) not in (None, "")}
    return _believed(
        Observation(str(cells.get("station") or context.meter), timestamp_us(moment), interval_s, **values)
    )


def _believed(observation: Observation) -> Observation:
    if reason := check(observation):
        raise Unusable(reason)
    return observation


class _Csv:
    """A table whose first line names the columns."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._columns: list[str] = []
        self._delimiter = ","
        self.header = b""

    def read(self, line: bytes, position: int) -> Decoded | None:
        text = line.decode("utf-8-sig")
        if not self._columns:
            self._delimiter = ";" if text.count(";") > text.count(",") else ","
            columns = [name.strip().lower() for name in next(csv.reader([text], delimiter=self._delimiter))]
            if "ts" not in columns or not set(columns) & RANGES.keys():
                raise Unusable(f"the header must name ts and one of {', '.join(RANGES)}")
            self._columns, self.header = columns, line + b"\n"
            return None
        values = next(csv.reader([text], delimiter=self._delimiter))
        if len(values) != len(self._columns):
            raise Unusable(f"{len(values)} values for {len(self._columns)} columns")
        cells = dict(zip(self._columns, (value.strip() for value in values), strict=True))
        return Decoded((), position, weather=(_observation(cells, self._context),))


class _Json:
    """One object a line."""

    header = b""

    def __init__(self, context: Context) -> None:
        self._context = context

    def read(self, line: bytes, position: int) -> Decoded | None:
        cells = json.loads(line)
        if not isinstance(cells, dict):
            raise Unusable("line is no JSON object")
        return Decoded((), position, weather=(_observation(cells, self._context),))


class _Epw:
    """Eight lines about the place, then one an hour. Hour 1 is the first of the day and ends at 01:00."""

    def __init__(self, context: Context) -> None:
        self._station = context.meter
        self._offset = timedelta()
        self._line = 0
        self.header = b""

    def read(self, line: bytes, position: int) -> Decoded | None:
        cells = line.decode("latin-1").split(",")
        self._line += 1
        if cells[0].strip().upper() == "LOCATION":
            self._place(cells, line)
            return None
        if not cells[0].strip().isdecimal():
            if self._line > _EPW_HEADER_LINES:
                raise Unusable("an hour begins with its year")
            return None
        if not self._station:
            raise Unusable("no LOCATION line names the place")
        if len(cells) < 22:
            raise Unusable(f"an hour has 35 values, not {len(cells)}")
        year, month, day, hour = (int(cell) for cell in cells[:4])
        end = datetime(year, month, day, tzinfo=UTC) + timedelta(hours=hour) - self._offset
        found = {name: _epw_value(cells[at], missing) for name, (at, missing) in _EPW_COLUMNS.items()}
        return Decoded((), position, weather=(_believed(Observation(self._station, timestamp_us(end), 3600, **found)),))

    def _place(self, cells: list[str], line: bytes) -> None:
        if len(cells) < 9:
            raise Unusable("LOCATION has 10 values")
        hours = float(cells[8])
        if not -14 <= hours <= 14:
            raise Unusable(f"{hours:g} is no offset from UTC")
        self._offset = timedelta(hours=hours)
        self._station = self._station or cells[5].strip() or cells[1].strip()
        self.header = line + b"\n"


def _epw_value(text: str, missing: float) -> float:
    value = float(text)
    return math.nan if value >= missing else value


def _stream(table: Callable[[Context], Any]) -> Callable[[Iterable[bytes], Context], Iterator[Item]]:
    def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
        reader = table(context)

        def read(line: bytes, position: int) -> Decoded | None:
            try:
                found: Decoded | None = reader.read(line, position)
            except (ValueError, OverflowError, RecursionError, csv.Error, StopIteration) as error:
                raise Unusable(f"not an observation: {error}"[:200]) from None
            return found

        return items(_pieces(chunks), read, lambda: reader.header)

    return stream


def _pieces(chunks: Iterable[bytes]) -> Iterator[Piece]:
    for line, position in lines(chunks):
        if line.strip():
            reason = f"line is longer than {LINE_BYTES_MAX} bytes" if len(line) > LINE_BYTES_MAX else ""
            yield line, position, line, reason


CSV: Final = Format(
    "weather-csv", "weather observations as CSV with a header line", ("*weather*.csv",), _stream(_Csv),
    "the open weather schema", "semicolons, columns in any order, empty values", "Python's csv",
)  # fmt: skip
"""CSV as the registry lists it."""

JSON: Final = Format(
    "weather-json", "weather observations as JSON, one object a line", ("*weather*.ndjson", "*weather*.jsonl"),
    _stream(_Json), "the open weather schema",
)  # fmt: skip
"""JSON as the registry lists it."""

EPW: Final = Format(
    "weather-epw", "EnergyPlus weather files: a year of hours", ("*.epw",), _stream(_Epw),
    "EnergyPlus Weather File (EPW) Data Dictionary", "missing values, lines after the last hour",
    "lines of the published dictionary",
)  # fmt: skip
"""EPW as the registry lists it."""
