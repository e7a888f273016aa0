"""One JSON row read slowly and exactly: for rows the kernel calls irregular.

Also the definition of what the kernel has to find: tests hold the two against each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from gridwire.columnar import json_kernel as k

_NUMBER: Final = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
_TIMESTAMP: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_EXPONENT_DIGITS_MAX: Final = 6
_DIGITS_MAX: Final = 19
_TOO_MANY_DIGITS: Final = "1" * 21
"""Stands for any mantissa that does not fit: a number of a million digits must not cost a million digits."""


class _Number(str):
    """A number as written: Python's own types would round it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What one row holds: `values[field]` is None or (64-bit part or text, 32-bit part)."""

    status: int
    field: int
    values: list[tuple[int | bytes, int] | None]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def parse(raw: bytes, names: Sequence[str], kinds: Sequence[int], required: Sequence[bool]) -> Row:
    """Read one row; the first field, as declared, that is not as it should be decides the status."""
    try:
        found = json.loads(raw.decode(), parse_float=_Number, parse_int=_Number, parse_constant=_refuse)
    except RecursionError:
        return Row(k.NESTED_TOO_DEEP, -1, [])
    except ValueError:
        return Row(k.MALFORMED, -1, [])
    if not isinstance(found, dict):
        return Row(k.NOT_OBJECT, -1, [])
    values: list[tuple[int | bytes, int] | None] = []
    for field, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        value = found.get(name)
        status, cell = (k.MISSING if required[field] else k.OK, None) if value is None else _CELLS[kind](value)
        if status != k.OK:
            return Row(status, field, [])
        values.append(cell)
    return Row(k.OK, -1, values)


_Cell = tuple[int, tuple[int | bytes, int] | None]


def _text(value: Any) -> _Cell:
    if not isinstance(value, str) or isinstance(value, _Number):
        return k.WRONG_TYPE, None
    try:
        text = value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return k.BAD_TEXT, None
    return k.OK, (text, len(text))


def _parts(value: Any) -> tuple[int, int] | None:
    """(mantissa, scale) of a number: digits as written, but without zeros at the end if they are too many to fit."""
    match = _NUMBER.fullmatch(value) if isinstance(value, _Number) else None
    if match is None:
        return None
    sign, whole, fraction, exponent = match.groups()
    digits = (whole + (fraction or "")).lstrip("0") or "0"
    scale = -len(fraction or "")
    if exponent is not None:
        short = exponent.lstrip("+-").lstrip("0")[:_EXPONENT_DIGITS_MAX] or "0"
        scale += -int(short) if exponent.startswith("-") else int(short)
    if len(digits) > _DIGITS_MAX:
        kept = digits.rstrip("0")
        scale += len(digits) - len(kept)
        digits = kept if len(kept) <= _DIGITS_MAX else _TOO_MANY_DIGITS
    return int(sign + digits), scale


def _fits(mantissa: int, scale: int) -> bool:
    return _INT64_MIN <= mantissa <= _INT64_MAX and -128 <= scale <= 127


def _decimal(value: Any) -> _Cell:
    parts = _parts(value)
    if parts is None:
        return k.WRONG_TYPE, None
    mantissa, scale = parts
    if mantissa == 0 and not _fits(0, scale):
        scale = 0
    while not _fits(mantissa, scale) and mantissa % 10 == 0 and scale < 127:
        mantissa //= 10
        scale += 1
    return (k.OK, (mantissa, scale)) if _fits(mantissa, scale) else (k.OUT_OF_RANGE, None)


def _int64(value: Any) -> _Cell:
    parts = _parts(value)
    if parts is None:
        return k.WRONG_TYPE, None
    mantissa, scale = parts
    if scale > 0 and mantissa != 0:
        mantissa = mantissa * 10**scale if scale <= 20 else _INT64_MAX + 1
    elif scale < 0 and mantissa != 0:
        if scale < -40 or mantissa % 10**-scale:
            return k.WRONG_TYPE, None
        mantissa //= 10**-scale
    return (k.OK, (mantissa, 0)) if _fits(mantissa, 0) else (k.OUT_OF_RANGE, None)


def _bool(value: Any) -> _Cell:
    return (k.OK, (int(value), 0)) if isinstance(value, bool) else (k.WRONG_TYPE, None)


def _timestamp(value: Any) -> _Cell:
    if not isinstance(value, str) or isinstance(value, _Number):
        return k.WRONG_TYPE, None
    micros = timestamp_us(value)
    return (k.BAD_TIMESTAMP, None) if micros is None else (k.OK, (micros, 0))


def timestamp_us(text: str) -> int | None:
    """Microseconds since the epoch of an RFC 3339 date-time; None when it is none.

    Digits after the microseconds are dropped. A leap second is counted as POSIX does, as the second after it; it has
    to be the last one of June or December, UTC.
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, zone_hours, zone_minutes = match.groups()[6:]
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    ahead_s = 0
    if sign is not None:
        if int(zone_hours) > 23 or int(zone_minutes) > 59:
            return None
        ahead_s = (int(zone_hours) * 3600 + int(zone_minutes) * 60) * (-1 if sign == "-" else 1)
    if hour > 23 or minute > 59 or second > 60:
        return None
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second - ahead_s
    if second == 60 and not _ends_half_year(seconds):
        return None
    return seconds * 1_000_000 + int((fraction or "0")[:6].ljust(6, "0"))


def _ends_half_year(seconds: int) -> bool:
    """Whether this is the first second of a January or July."""
    days, rest = divmod(seconds, 86_400)
    try:
        first = date.fromordinal(days + _EPOCH_DAY)
    except ValueError:
        return False
    return rest == 0 and first.day == 1 and first.month in (1, 7)


_CELLS: Final = {k.TEXT: _text, k.DECIMAL: _decimal, k.INT64: _int64, k.TIMESTAMP_US: _timestamp, k.BOOL: _bool}
