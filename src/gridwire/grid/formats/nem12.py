"""NEM12 and NEM13: meter data files of the Australian market.

    100,NEM12,200301011534,MDP1,Retailer1                                  header
    200,NMI,E1Q1,1,E1,N1,METSER123,kWh,30,20050610                         a data stream: suffix, serial, unit, minutes
    300,20050315,300.0,266.1,...,A,,,20050316014209,                       a day of intervals, and its quality
    400,1,20,E14,,                                                         quality of intervals 1 to 20 where it is V
    250,NMI,...                                                            NEM13: two register readings

Market time is UTC+10 all year, so every day has 24 hours. Quality A is good; E, S and F with their method become CIM
`2.8.sub`, sub being 1000, 2000 or 3000 plus the method; an N interval is no reading. A day whose stream cannot be read
goes to quarantine with its 200 record.

Source: AEMO, Meter Data File Format Specification NEM12 & NEM13, version 2.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from gridwire.grid.formats import units
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Unusable, bad_pieces
from gridwire.grid.formats.rows import LINE_BYTES_MAX, lines
from gridwire.grid.reading import Reading, timestamp_us, value_parts
from gridwire.grid.reading_types import BY_ALIAS, ReadingType

MARKET_OFFSET_US: Final = 10 * 3_600_000_000
"""Australian eastern standard time, without summer time."""

_MINUTE_US = 60_000_000
INTERVALS: Final = (1, 5, 10, 15, 30, 60)
"""Lengths of an interval in minutes."""

SUFFIXES: Final = {"E": "import_kwh", "B": "export_kwh", "Q": "import_kvarh", "K": "export_kvarh"}
"""Reading type by the first letter of the NMI suffix: energy taken, energy fed in, reactive taken and fed in."""

QUALITY_BASES: Final = {"E": 1000, "S": 2000, "F": 3000}
"""Sub-category of CIM quality 2.8 by quality flag; the method is added."""

DETAILS_MAX: Final = 1500
"""Quality records of one day: one for each minute and some."""


class _Stream:
    """A 200 record."""

    def __init__(self, fields: list[str]) -> None:
        if len(fields) < 9:
            raise Unusable("200 record with fewer than 9 fields")
        self.nmi, self.suffix, self.meter, self.unit = (
            fields[1].strip(),
            fields[4].strip(),
            fields[6].strip(),
            fields[7],
        )
        if not self.nmi:
            raise Unusable("200 record without an NMI")
        if not fields[8].strip().isdecimal() or int(fields[8]) not in INTERVALS:
            raise Unusable(f"interval length {fields[8][:10]!r} is none of {INTERVALS} minutes")
        self.minutes = int(fields[8])
        self.type = _type(self.suffix)


def _type(suffix: str) -> ReadingType:
    alias = SUFFIXES.get(suffix[:1].upper())
    if alias is None:
        raise Unusable(f"NMI suffix {suffix[:10]!r} is not supported: {', '.join(SUFFIXES)} and a digit are")
    return BY_ALIAS[alias]


class _File:
    """The state between lines: the stream that days belong to, and the day whose quality may follow."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stream_line = b""
        self._stream: _Stream | None = None
        self._why_none = "300 record before any 200 record"
        self._day: list[tuple[bytes, list[str]]] = []
        self._position = 0

    def take(self, line: bytes, position: int) -> Iterator[Item]:
        """Items that this line completes."""
        try:
            fields = next(csv.reader([line.decode("utf-8-sig")]))
        except (UnicodeDecodeError, csv.Error, StopIteration) as error:
            yield from self.flush()
            yield from bad_pieces(line, f"line not understood: {error}", position)
            return
        kind = fields[0].strip() if fields else ""
        if kind == "400" and self._day and len(self._day) <= DETAILS_MAX:
            self._day.append((line, fields))
            return
        yield from self.flush()
        if kind == "300":
            self._day, self._position = [(line, fields)], position
        elif kind == "200":
            self._open(line, fields)
        elif kind == "250":
            yield from self._accumulated(line, fields, position)
        elif kind not in ("100", "500", "550", "900"):
            yield from bad_pieces(line, f"record {kind[:10]!r} is none of NEM12 or NEM13, or stands where none belongs",
                                  position)  # fmt: skip

    def _open(self, line: bytes, fields: list[str]) -> None:
        self._stream_line, self._stream = line, None
        try:
            self._stream = _Stream(fields)
        except Unusable as error:
            self._why_none = str(error)

    def flush(self) -> Iterator[Item]:
        """The day that is complete now."""
        if not self._day:
            return
        day, self._day = self._day, []
        raw = b"\n".join(line for line, _ in day)
        try:
            if self._stream is None:
                raise Unusable(self._why_none)
            readings = self._readings(self._stream, [fields for _, fields in day])
        except Unusable as error:
            prelude = self._stream_line + b"\n" if self._stream_line else b""
            yield from bad_pieces(raw, str(error), self._position, prelude)
            return
        if readings:
            yield Decoded(readings, self._position)

    def _readings(self, stream: _Stream, day: list[list[str]]) -> tuple[Reading, ...]:
        count = 1440 // stream.minutes
        first = day[0]
        if len(first) < count + 3:
            raise Unusable(f"{max(len(first) - 3, 0)} values for a day of {count} intervals")
        start_us = _date_us(first[1], "%Y%m%d")
        qualities = _qualities(first[count + 2], day[1:], count)
        found = []
        for place, (text, quality) in enumerate(zip(first[2 : count + 2], qualities, strict=True)):
            if quality is None or not text.strip():
                continue
            try:
                value, scale = value_parts(text.strip())
            except ValueError as error:
                raise Unusable(f"interval {place + 1}: {error}"[:80]) from None
            end_us = start_us + (place + 1) * stream.minutes * _MINUTE_US
            found.append(
                units.reading(
                    stream.type, value, scale, stream.unit.strip(), end_us, stream.meter, self._context,
                    stream.minutes * 60, quality, stream.nmi,
                )
            )  # fmt: skip
        return tuple(found)

    def _accumulated(self, line: bytes, fields: list[str], position: int) -> Iterator[Item]:
        """A 250 record: the register before and now."""
        try:
            if len(fields) < 20 or not fields[1].strip():
                raise Unusable("250 record with fewer than 20 fields or without an NMI")
            suffix = fields[4].strip()
            interval = _type(suffix).alias
            type = BY_ALIAS[interval.replace("_", "_register_", 1)]
            found = []
            for value_at in (8, 13):
                if fields[value_at].strip():
                    value, scale = value_parts(fields[value_at].strip())
                    found.append(
                        units.reading(
                            type, value, scale, fields[19].strip() or type.unit,
                            _date_us(fields[value_at + 1], "%Y%m%d%H%M%S"), fields[6].strip(), self._context,
                            quality=_quality(fields[value_at + 2]) or "", usage_point=fields[1].strip(),
                        )
                    )  # fmt: skip
        except (Unusable, ValueError) as error:
            yield from bad_pieces(line, str(error), position)
            return
        if found:
            yield Decoded(tuple(found), position)


def _date_us(text: str, layout: str) -> int:
    try:
        return timestamp_us(datetime.strptime(text.strip(), layout).replace(tzinfo=UTC)) - MARKET_OFFSET_US
    except ValueError:
        raise Unusable(f"{text[:20]!r} is no date") from None


def _quality(text: str) -> str | None:
    """CIM quality of a quality method such as A, E14 or F52; None for N. Raises Unusable."""
    flag, method = text.strip()[:1].upper(), text.strip()[1:]
    if flag in ("A", "V", ""):
        return ""
    if flag == "N":
        return None
    if flag not in QUALITY_BASES or (method and not method.isdecimal()) or len(method) > 3:
        raise Unusable(f"quality {text[:10]!r} is none of A, E, F, N, S, V")
    return f"2.8.{QUALITY_BASES[flag] + int(method or 0)}"


def _qualities(text: str, details: list[list[str]], count: int) -> list[str | None]:
    """The quality of each interval of a day."""
    found = [_quality(text)] * count
    for fields in details:
        if len(fields) < 4 or not fields[1].strip().isdecimal() or not fields[2].strip().isdecimal():
            raise Unusable("400 record without its first and last interval")
        first, last = int(fields[1]), int(fields[2])
        if not 1 <= first <= last <= count:
            raise Unusable(f"400 record for intervals {first} to {last} of {count}"[:80])
        found[first - 1 : last] = [_quality(fields[3])] * (last - first + 1)
    return found


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode files of any size; see `base.Format.stream`."""
    file = _File(context)
    for line, position in lines(chunks):
        if not line.strip():
            continue
        if len(line) > LINE_BYTES_MAX:
            yield from file.flush()
            yield from bad_pieces(line, f"line is longer than {LINE_BYTES_MAX} bytes", position)
        else:
            yield from file.take(line, position)
    yield from file.flush()


FORMAT: Final = Format(
    "nem12", "AEMO meter data files NEM12 and NEM13 (Australia)", ("*nem12*", "*nem13*"), stream,
    "AEMO Meter Data File Format NEM12 & NEM13, version 2",
    "a missing header or end, blank values, units of other multiples, bytes before the header, unknown streams between "
    "known ones",
    "nemreader 0.9.2",
)  # fmt: skip
"""The format as the registry lists it."""
