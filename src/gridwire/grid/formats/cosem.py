"""COSEM data: A-XDR values, and the readings in the body of a data-notification.

    02 04  09 06 01 00 01 08 00 FF  06 00 00 30 39  0F FF  16 1E     structure of 4: octet-string, uint32, int8, enum

Three layouts are understood, because pushes carry no description of themselves unless they choose to:
a push list (an array of class, logical name, attribute, index) followed by the values in its order; structures of
{logical name, value[, {scaler, unit}]}; and logical names and values in turn. A profile buffer is read when its
capture objects are in the same push. A value of a known quantity without scaler and unit makes the frame unusable:
a guessed power of ten is worse than none. One list is known by heart, that of Vienna's meters.

Source: IEC 62056-5-3 (A-XDR, APDUs), IEC 62056-6-2 (interface classes, units, date_time); Wiener Netze, description of
the customer interface.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from gridwire.grid.formats import units
from gridwire.grid.formats.base import Context, Unusable
from gridwire.grid.reading import Reading, timestamp_us, value_parts
from gridwire.grid.reading_types import Accumulation

DEPTH_MAX: Final = 16
"""Nesting no meter comes near; it keeps a hostile body from exhausting the stack."""

VALUES_MAX: Final = 65_536
"""Values of one body, bounded by the 64 KiB of a message anyway; null data of no bytes would not be."""

_FIXED: Final = {
    3: ">?", 5: ">i", 6: ">I", 15: ">b", 16: ">h", 17: ">B", 18: ">H", 20: ">q", 21: ">Q", 22: ">B", 23: ">f", 24: ">d",
}  # fmt: skip
_CONTAINERS: Final = (1, 2)
_OCTETS, _TEXTS, _TIMES = 9, (10, 12), {25: 12, 26: 5, 27: 4}


@dataclass(frozen=True, slots=True)
class Enum:
    """A value of type enum, which units have and numbers do not."""

    value: int


@dataclass(frozen=True, slots=True)
class Float:
    """A floating-point value and its digits: float32 has 7, float64 has 15."""

    value: float
    digits: int


class Decoder:
    """Reads A-XDR values off the front of some bytes."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position
        self._values = 0

    def take(self, size: int) -> bytes:
        """The next bytes. Raises Unusable when there are fewer."""
        end = self.position + size
        if end > len(self.data):
            raise Unusable("data ends in the middle of a value")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def length(self) -> int:
        """A length in A-XDR: one byte, or 0x80 + n and n bytes."""
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if not 1 <= first & 0x7F <= 4:
            raise Unusable("a length of more than four bytes")
        return int.from_bytes(self.take(first & 0x7F), "big")

    def value(self, depth: int = 0) -> Any:
        """The next value: a list for arrays and structures, bytes for octet strings and times, None for null."""
        self._values += 1
        if depth > DEPTH_MAX or self._values > VALUES_MAX:
            raise Unusable("data is nested too deeply or has too many values")
        tag = self.take(1)[0]
        if tag == 0:
            return None
        if tag in _CONTAINERS:
            return [self.value(depth + 1) for _ in range(self._count())]
        if tag in _FIXED:
            number = struct.unpack(_FIXED[tag], self.take(struct.calcsize(_FIXED[tag])))[0]
            return Enum(number) if tag == 22 else Float(number, 7 if tag == 23 else 15) if tag in (23, 24) else number
        if tag == _OCTETS:
            return self.take(self.length())
        if tag in _TEXTS:
            return self.take(self.length()).decode("utf-8", "replace")
        if tag in _TIMES:
            return self.take(_TIMES[tag])
        if tag == 4:
            return self.take((self.length() + 7) // 8)
        if tag == 13:
            return int.from_bytes(self.take(1), "big", signed=True)
        raise Unusable(f"data type {tag} is not supported")

    def _count(self) -> int:
        count = self.length()
        if count > len(self.data) - self.position:  # every value has at least its tag
            raise Unusable("data ends in the middle of an array")
        return count


def date_time_us(raw: bytes, zone: str) -> int | None:
    """A COSEM date_time as microseconds since the epoch; None when it names no instant.

    The deviation, where there is one, leads from local time to UTC; without one the clock shows time of `zone`.
    """
    if len(raw) != 12:
        return None
    year, month, day, _, hour, minute, second, hundredths, deviation, _ = struct.unpack(">HBBBBBBBhB", raw)
    try:
        local = datetime(
            year, month, day, hour, minute, 0 if second == 255 else second,
            0 if hundredths == 255 else hundredths * 10_000,
        )  # fmt: skip
        if deviation == -0x8000:
            return timestamp_us(local.replace(tzinfo=ZoneInfo(zone)))
        return timestamp_us(local.replace(tzinfo=timezone(timedelta(minutes=-deviation))))
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One attribute: its object's logical name, and the value. `class_id` is 0 where the layout does not say."""

    name: bytes
    value: Any
    scaler_unit: tuple[int, int] | None = None
    class_id: int = 0
    attribute: int = 2

    @property
    def code(self) -> str:
        a, b, c, d, e, _ = self.name
        return f"{a}-{b}:{c}.{d}.{e}"


_CLOCK, _PROFILE = 8, 7
_CLOCK_CODES: Final = ("0-0:1.0.0",)
_METER_CODES: Final = ("0-0:96.1.0", "0-0:96.1.1", "1-0:0.0.0", "0-0:42.0.0", "1-1:0.0.0", "0-0:96.1.2", "0-0:96.1.255")
"""Logical names a meter's id may stand under, the most specific first; the last one is for an id without a name."""

_VIENNA: Final = bytes((0, 6, 25, 9, 0, 255))
_VIENNA_VALUES: Final = (
    ("1-0:1.8.0", 30), ("1-0:2.8.0", 30), ("1-0:3.8.0", 32), ("1-0:4.8.0", 32), ("1-0:1.7.0", 27), ("1-0:2.7.0", 27),
)  # fmt: skip
"""What follows the push's name, the meter's number, a time and a date there: codes with their DLMS units, scaler 0."""

_UNNAMED_METER: Final = bytes((0, 0, 96, 1, 255, 255))


class Body:
    """The body of a notification: who, when, and what was measured."""

    def __init__(self, value: Any, context: Context, fallback_meter: str, sent_us: int | None) -> None:
        self._context = context
        entries = list(_entries(value))
        self._scalers = {e.name: su for e in entries if e.attribute == 3 and (su := _scaler_unit(e.value))}
        self._periods = {e.name: e.value for e in entries if e.class_id == _PROFILE and e.attribute == 4}
        self._columns = {e.name: e.value for e in entries if e.class_id == _PROFILE and e.attribute == 3}
        self._entries = [e for e in entries if e.attribute == 2]
        self.meter = self._meter() or context.meter or fallback_meter
        clock_us = self._clock_us()
        self._ts_us = next((t for t in (clock_us, sent_us, context.received_at_us) if t is not None), None)

    def readings(self) -> tuple[Reading, ...]:
        """All readings. Raises Unusable."""
        if not self.meter:
            raise Unusable("frame names no meter: give its id")
        found: list[Reading] = []
        for entry in self._entries:
            if entry.class_id == _PROFILE and isinstance(entry.value, list):
                found += self._profile(entry)
            else:
                found += self._reading(entry, self._ts_us, 0)
        if not found:
            raise Unusable("frame carries no reading")
        return tuple(found)

    def _meter(self) -> str:
        named = {e.code: text for e in self._entries if (text := _text(e.value))}
        return next((named[code] for code in _METER_CODES if code in named), "")

    def _clock_us(self) -> int | None:
        for entry in self._entries:
            if entry.code in _CLOCK_CODES and isinstance(entry.value, bytes):
                instant = date_time_us(entry.value, self._context.zone)
                if instant is None:
                    raise Unusable(f"the meter's clock shows {entry.value.hex()}, which is no time")
                return instant
        return None

    def _reading(self, entry: _Entry, ts_us: int | None, interval_s: int) -> Iterator[Reading]:
        number = entry.value
        if isinstance(number, bool) or not isinstance(number, int | Float):
            return
        known = entry.scaler_unit or self._scalers.get(entry.name)
        unit = units.DLMS_UNITS.get(known[1], "?") if known else ""
        type = units.type_of_obis(entry.code, "" if unit == "?" else unit)
        if type is None:
            return
        if known is None and type.unit != "1":
            raise Unusable(f"no scaler and unit for {entry.code}: the push must contain attribute 3 of its register")
        if ts_us is None:
            raise Unusable("frame has no clock: give the time of receipt")
        if type.accumulation is Accumulation.INTERVAL and not interval_s:
            raise Unusable(f"the length of the interval of {entry.code} is not in the push")
        value, scale = _parts(number)
        yield units.reading(
            type, value, scale + (known[0] if known else 0), unit, ts_us, self.meter, self._context,
            interval_s if type.accumulation is Accumulation.INTERVAL else 0,
        )  # fmt: skip

    def _profile(self, profile: _Entry) -> Iterator[Reading]:
        columns = [_object(column) for column in self._columns.get(profile.name) or ()]
        if not columns or None in columns:
            raise Unusable("a profile buffer without its capture objects: push attribute 3 of the profile too")
        period = self._periods.get(profile.name)
        interval_s = period if isinstance(period, int) else 0
        ts_us: int | None = None
        for row in profile.value:
            if not isinstance(row, list) or len(row) != len(columns):
                raise Unusable("a profile row does not have the columns of its capture objects")
            clocks = [v for c, v in zip(columns, row, strict=True) if c and c[0] == _CLOCK and isinstance(v, bytes)]
            if clocks:
                ts_us = date_time_us(clocks[0], self._context.zone)
            elif ts_us is not None and interval_s:
                ts_us += interval_s * 1_000_000  # null data: one capture period after the row before
            for column, value in zip(columns, row, strict=True):
                if column is not None and column[0] != _CLOCK and column[2] == 2:
                    yield from self._reading(_Entry(column[1], value, class_id=column[0]), ts_us, interval_s)


def _parts(number: int | Float) -> tuple[int, int]:
    if isinstance(number, int):
        return number, 0
    try:
        return value_parts(Decimal(format(number.value, f".{number.digits}g")))
    except ValueError as error:
        raise Unusable(str(error)) from None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace") if value.isascii() else value.hex()
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return ""
    text = value.strip("\x00 \t\r\n")
    return text if text.isprintable() else text.encode("latin-1", "replace").hex()


def _is_name(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 6 and value[0] <= 15


def _is_identifier(value: Any) -> bool:
    return isinstance(value, bytes) and 8 <= len(value) <= 32 and value.isalnum()


def _object(value: Any) -> tuple[int, bytes, int] | None:
    """(class, logical name, attribute) of an object definition, else None."""
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], int) and _is_name(value[1]):
        return (value[0], value[1], value[2]) if isinstance(value[2], int) else None
    return None


def _scaler_unit(value: Any) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], int) and isinstance(value[1], Enum):
        return value[0], value[1].value
    return None


def _entries(value: Any) -> Iterator[_Entry]:
    if not isinstance(value, list):
        return
    known = _described(value) or _vienna(value)
    if known is not None:
        yield from known
        return
    position = 0
    while position < len(value):
        item = value[position]
        position += 1
        if isinstance(item, list):
            yield from _structure(item)
        elif _is_name(item) and position < len(value):
            after = _scaler_unit(value[position + 1]) if position + 1 < len(value) else None
            yield _Entry(item, value[position], after)
            position += 2 if after else 1
        elif position == len(value) > 1 and _is_identifier(item):  # after names and values: Austrian meters
            yield _Entry(_UNNAMED_METER, item)


def _described(value: list[Any]) -> list[_Entry] | None:
    """The entries of a body that begins with its push list, else None."""
    for place, item in enumerate(value[:4]):
        objects = [_object(entry) for entry in item] if isinstance(item, list) and item else [None]
        if None in objects:
            continue
        for first in (0, place, place + 1):  # the list may count what stands before it, itself, or neither
            values = value[first:]
            if len(values) == len(objects):
                return [
                    _Entry(o[1], v, None, o[0], o[2]) for o, v in zip(objects, values, strict=True) if o is not None
                ]
        raise Unusable(f"the push list names {len(objects)} objects, which is not the number of values")
    return None


def _vienna(value: list[Any]) -> list[_Entry] | None:
    """The entries of the push of Vienna's meters, else None."""
    texts, numbers = value[:4], value[4 : 4 + len(_VIENNA_VALUES)]
    if value[:1] != [_VIENNA] or [len(text) if isinstance(text, bytes) else 0 for text in texts[2:]] != [4, 5]:
        return None
    if [type(number) for number in numbers] != [int] * len(_VIENNA_VALUES):
        return None
    named = zip(_VIENNA_VALUES, numbers, strict=True)
    return [_Entry(_UNNAMED_METER, value[1]), *(_Entry(_name(code), n, (0, unit)) for (code, unit), n in named)]


def _name(code: str) -> bytes:
    """The logical name of a code such as 1-0:1.8.0."""
    return bytes((*map(int, code.replace("-", ".").replace(":", ".").split(".")), 255))


def _structure(item: list[Any]) -> Iterator[_Entry]:
    """{name, value[, {scaler, unit}]}, {class, name, attribute, value}, or something that contains such."""
    if len(item) in (2, 3, 4) and _is_name(item[0]) and not _is_name(item[1]):
        after = _scaler_unit(item[2]) if len(item) > 2 else None
        if len(item) == 4 and isinstance(item[2], int) and isinstance(item[3], Enum):
            after = (item[2], item[3].value)  # scaler and unit without a structure of their own
        if len(item) < 4 or after is not None:
            yield _Entry(item[0], item[1], after)
            return
    found = _object(item)
    if found is not None and len(item) == 4:
        yield _Entry(found[1], item[3], None, found[0], found[2])
        return
    yield from _entries(item)
