"""Readings that are readings already: newline-delimited JSON, and CSV with a header line.

JSON lines are checked and passed on verbatim, so fields gridwire does not know survive. CSV needs the columns
`usage_point`, `ts_end`, `reading_type` and `value`; `interval_s`, `meter`, `quality` and `version` may follow.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Final

import msgspec

from gridwire.grid import reading_types
from gridwire.grid.formats.base import BadFrame, Context, Decoded, Format, Item, bad_pieces
from gridwire.grid.reading import INTERVAL_S_MAX, Reading, timestamp_us, value_parts
from gridwire.grid.reading_types import Accumulation

LINE_BYTES_MAX: Final = 64 * 1024
"""Longest line believed to be a reading."""

_COLUMNS = ("usage_point", "ts_end", "reading_type", "value", "interval_s", "meter", "quality", "version")
_NEEDED = frozenset(_COLUMNS[:4])


class _Row(msgspec.Struct, frozen=True):
    usage_point: str
    ts_end: datetime
    reading_type: str
    value: Decimal
    interval_s: int = 0
    meter: str = ""
    quality: str = ""
    version: int = 0


_JSON: Final = msgspec.json.Decoder(_Row)


def _reading(row: _Row, context: Context) -> Reading:
    """Raises ValueError with the reason."""
    kind = reading_types.find(row.reading_type)
    if kind is None:
        raise ValueError("unknown reading type")
    if not row.usage_point:
        raise ValueError("usage_point is empty")
    needs = kind.accumulation is Accumulation.INTERVAL
    if not (1 if needs else 0) <= row.interval_s <= INTERVAL_S_MAX:
        raise ValueError("interval_s is missing, negative or longer than a year")
    value, scale = value_parts(row.value)
    return Reading(
        timestamp_us(row.ts_end), kind.id, value, scale, row.interval_s, row.usage_point, row.meter, row.quality,
        context.source, row.version,
    )  # fmt: skip


def lines(chunks: Iterable[bytes], line_bytes_max: int = LINE_BYTES_MAX) -> Iterator[tuple[bytes, int]]:
    """Yield (line without its end, position); a line that is too long comes in pieces one byte above the limit."""
    buffer = bytearray()
    position = 0
    for chunk in chunks:
        buffer += chunk
        start = 0
        while (end := buffer.find(b"\n", start)) >= 0 or len(buffer) - start > line_bytes_max:
            if end < 0 or end - start > line_bytes_max:
                end = start + line_bytes_max
                yield bytes(buffer[start : end + 1]), position + start
            else:
                yield bytes(buffer[start:end]).removesuffix(b"\r"), position + start
            start = end + 1
        del buffer[:start]
        position += start
    if buffer:
        yield bytes(buffer), position


def _decoded(found: Iterable[tuple[bytes, int]], read: Callable[[bytes], Decoded | None]) -> Iterator[Item]:
    for line, position in found:
        if not line.strip():
            continue
        if len(line) > LINE_BYTES_MAX:
            yield from bad_pieces(line, f"line is longer than {LINE_BYTES_MAX} bytes", position)
            continue
        try:
            decoded = read(line)
        except (ValueError, msgspec.MsgspecError, csv.Error) as error:
            yield BadFrame(line, f"not a reading: {error}", position)
            continue
        if decoded is not None:
            yield Decoded(decoded.readings, position, decoded.verbatim)


def stream_json(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Check readings, one JSON object a line; see `base.Format.stream`."""

    def read(line: bytes) -> Decoded:
        return Decoded((_reading(_JSON.decode(line), context),), 0, line)

    return _decoded(lines(chunks), read)


def stream_csv(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Read readings out of comma- or semicolon-separated lines; see `base.Format.stream`."""
    return _decoded(lines(chunks), partial(_Table(context).read))


class _Table:
    """A CSV table: its first line names the columns."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._columns: list[str] = []
        self._delimiter = ","

    def read(self, line: bytes) -> Decoded | None:
        text = line.decode("utf-8-sig")
        if not self._columns:
            self._delimiter = ";" if text.count(";") > text.count(",") else ","
            columns = [name.strip().lower() for name in next(csv.reader([text], delimiter=self._delimiter))]
            if not columns or not set(columns) >= _NEEDED:
                raise ValueError(f"the header must name {', '.join(_COLUMNS[:4])}")
            self._columns = columns
            return None
        values = next(csv.reader([text], delimiter=self._delimiter))
        if len(values) != len(self._columns):
            raise ValueError(f"{len(values)} values for {len(self._columns)} columns")
        cells = {name: value for name, value in zip(self._columns, values, strict=True) if value and name in _COLUMNS}
        return Decoded((_reading(msgspec.convert(cells, _Row, strict=False), self._context),), 0)


JSON: Final = Format(
    "json",
    "readings as JSON, one object a line",
    ("*.ndjson", "*.jsonl", "*.json"),
    stream_json,
    "the open reading schema",
)
"""The JSON format as the registry lists it."""

CSV: Final = Format("csv", "readings as CSV with a header line", ("*.csv",), stream_csv, "the open reading schema")
"""The CSV format as the registry lists it."""
