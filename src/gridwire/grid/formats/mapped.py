"""CSV and JSON lines of any head-end, read by a mapping file in TOML.

    format = "csv"                 # or "json": one object a line, nested members as a.b
    delimiter = ";"                # default: comma
    decimal = ","                  # default: point
    meter = "serial"               # column of the meter; or usage_point = "..."
    time = "read_at"               # column of the time
    time_format = "%d.%m.%Y %H:%M" # default: RFC 3339; "unix" and "unix_ms" are numbers
    time_is = "end"                # or "start" of the interval
    zone = "Europe/Berlin"         # of times without an offset
    ambiguous = "first"            # the hour that comes twice: "first", "second" or "refuse"
    interval_s = 900               # where a value is energy of an interval

    [[values]]
    column = "kwh"
    reading_type = "import_kwh"    # alias, CIM or OBIS code
    unit = "kWh"                   # default: the type's own

With `type_column` and `value_column` in place of `[[values]]` a line names its own type. A local time that does not
exist, in the hour that is left out in spring, is refused.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from gridwire.core.errors import InvalidSetting
from gridwire.grid import reading_types
from gridwire.grid.formats import units
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Piece, Unusable, items
from gridwire.grid.formats.rows import LINE_BYTES_MAX, lines
from gridwire.grid.reading import INTERVAL_S_MAX, Reading, timestamp_us, value_parts
from gridwire.grid.reading_types import Accumulation, ReadingType


class _Value(msgspec.Struct, forbid_unknown_fields=True):
    column: str
    reading_type: str
    unit: str = ""


class _Mapping(msgspec.Struct, forbid_unknown_fields=True):
    time: str
    format: str = "csv"
    delimiter: str = ","
    decimal: str = "."
    meter: str = ""
    usage_point: str = ""
    quality: str = ""
    time_format: str = ""
    time_is: str = "end"
    zone: str = ""
    ambiguous: str = "refuse"
    interval_s: int = 0
    values: list[_Value] = []
    type_column: str = ""
    value_column: str = ""
    unit_column: str = ""


_CHOICES: Final = {
    "format": ("csv", "json"),
    "time_is": ("end", "start"),
    "ambiguous": ("first", "second", "refuse"),
    "decimal": (".", ","),
}


def mapping_of(text: str) -> _Mapping:
    """The mapping in TOML text. Raises InvalidSetting, which says what to change."""
    if not text.strip():
        raise InvalidSetting("the format mapped needs a mapping file: give --mapping FILE")
    try:
        found = msgspec.convert(tomllib.loads(text), _Mapping)
        ZoneInfo(found.zone or "UTC")
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, KeyError, ValueError, OSError) as error:
        raise InvalidSetting(f"mapping file: {error}") from None
    for name, choices in _CHOICES.items():
        if getattr(found, name) not in choices:
            raise InvalidSetting(f"mapping file: {name} must be one of {', '.join(choices)}")
    if len(found.delimiter) != 1 or not 0 <= found.interval_s <= INTERVAL_S_MAX:
        raise InvalidSetting("mapping file: delimiter is one character, interval_s 0 to a year")
    if bool(found.values) == bool(found.type_column and found.value_column):
        raise InvalidSetting("mapping file: either [[values]], or type_column and value_column")
    for value in found.values:
        if reading_types.find(value.reading_type) is None:
            raise InvalidSetting(f"mapping file: unknown reading type {value.reading_type!r}")
    return found


class _Table:
    """Lines to readings; a CSV file's first line names its columns."""

    def __init__(self, mapping: _Mapping, context: Context) -> None:
        self._mapping = mapping
        self._context = context
        self._zone = ZoneInfo(mapping.zone or context.zone)
        self._columns: list[str] = []
        self.header = b""

    def read(self, line: bytes, position: int) -> Decoded | None:
        """The readings of one line; None for the header."""
        try:
            text = line.decode("utf-8-sig")
            cells = self._json(text) if self._mapping.format == "json" else self._csv(text, line)
        except (UnicodeDecodeError, csv.Error, StopIteration, ValueError, RecursionError) as error:
            raise Unusable(f"line not understood: {error}"[:200]) from None
        if cells is None:
            return None
        found = tuple(self._readings(cells))
        if not found:
            raise Unusable("line carries no value")
        return Decoded(found, position)

    def _csv(self, text: str, line: bytes) -> Mapping[str, str] | None:
        values = next(csv.reader([text], delimiter=self._mapping.delimiter))
        if not self._columns:
            self._columns = [name.strip() for name in values]
            self.header = line + b"\n"
            return None
        if len(values) != len(self._columns):
            raise Unusable(f"{len(values)} values for {len(self._columns)} columns")
        return dict(zip(self._columns, values, strict=True))

    def _json(self, text: str) -> Mapping[str, str]:
        document = json.loads(text, parse_float=str, parse_int=str)
        if not isinstance(document, dict):
            raise Unusable("line is no JSON object")
        return dict(_flat(document, "", 0))

    def _readings(self, cells: Mapping[str, str]) -> Iterator[Reading]:
        m = self._mapping
        meter = cells.get(m.meter, "").strip() if m.meter else self._context.meter
        point = cells.get(m.usage_point, "").strip() if m.usage_point else ""
        if not meter and not point:
            raise Unusable("line names neither meter nor usage point")
        ts_us = self._time_us(cells.get(m.time, "").strip())
        quality = cells.get(m.quality, "").strip() if m.quality else ""
        for type, text, unit in self._values(cells):
            interval_s = m.interval_s if type.accumulation is Accumulation.INTERVAL else 0
            if type.accumulation is Accumulation.INTERVAL and not interval_s:
                raise Unusable("energy of an interval needs interval_s in the mapping file")
            end_us = ts_us + interval_s * 1_000_000 if m.time_is == "start" else ts_us
            try:
                value, scale = value_parts(text.replace(",", ".") if m.decimal == "," else text)
            except ValueError as error:
                raise Unusable(str(error)[:80]) from None
            yield units.reading(type, value, scale, unit, end_us, meter, self._context, interval_s, quality, point)

    def _values(self, cells: Mapping[str, str]) -> Iterator[tuple[ReadingType, str, str]]:
        m = self._mapping
        pairs = [(v.reading_type, cells.get(v.column, "").strip(), v.unit) for v in m.values]
        if not pairs:
            name, unit = cells.get(m.type_column, "").strip(), cells.get(m.unit_column, "").strip()
            pairs = [(name, cells.get(m.value_column, "").strip(), unit)]
        for name, text, unit in pairs:
            type = reading_types.find(name)
            if type is None:
                raise Unusable(f"unknown reading type {name[:80]!r}")
            if text:
                yield type, text, unit

    def _time_us(self, text: str) -> int:
        layout = self._mapping.time_format
        try:
            if layout in ("unix", "unix_ms"):
                ts_us = int(Decimal(text) * (1_000_000 if layout == "unix" else 1000)) if len(text) < 30 else -1
                if not 0 <= ts_us < 2**53:
                    raise Unusable("a time outside of any calendar")
                return ts_us
            moment = datetime.strptime(text, layout) if layout else datetime.fromisoformat(text)
            return timestamp_us(moment) if moment.tzinfo else self._local_us(moment)
        except (ValueError, ArithmeticError):
            raise Unusable(f"{text[:40]!r} is no time of the mapping's format") from None

    def _local_us(self, moment: datetime) -> int:
        first, second = (moment.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        if first.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None) != moment:
            raise Unusable(f"{moment} does not exist in {self._zone.key}")
        if first.utcoffset() == second.utcoffset():
            return timestamp_us(first)
        if self._mapping.ambiguous == "refuse":
            raise Unusable(f"{moment} comes twice in {self._zone.key}: set `ambiguous` to first or second")
        return timestamp_us(first if self._mapping.ambiguous == "first" else second)


def _flat(value: dict[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > 16:
        raise ValueError("nested too deeply")
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{name}.", depth + 1)
        elif isinstance(inner, str):
            yield prefix + name, inner


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode lines; see `base.Format.stream`. Raises InvalidSetting for a mapping file that is none."""
    table = _Table(mapping_of(context.mapping), context)
    return items(_pieces(chunks), table.read, lambda: table.header)


def _pieces(chunks: Iterable[bytes]) -> Iterator[Piece]:
    for line, position in lines(chunks):
        if line.strip():
            reason = f"line is longer than {LINE_BYTES_MAX} bytes" if len(line) > LINE_BYTES_MAX else ""
            yield line, position, line, reason


FORMAT: Final = Format(
    "mapped",
    "CSV or JSON lines of any head-end, by a mapping file",
    (),
    stream,
    "the mapping file in TOML, see `gridwire.grid.formats.mapped`",
    "decimal commas, local times with a rule for the hour that comes twice, interval starts, any unit",
    "the open reading schema",
)
"""The format as the registry lists it."""
