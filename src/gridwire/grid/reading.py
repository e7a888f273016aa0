"""The open reading: one measured value of one usage point, as a JSON event, as columns, and as Arrow.

The event, one JSON object, keyed by transformer (or usage point) so that a transformer's readings share a partition:

    {"usage_point":"LV1.101 Load 1","ts_end":"2016-01-01T00:15:00Z","interval_s":900,
     "reading_type":"import_kwh","value":0.213}

`ts_end` is the END of the interval, RFC 3339 with any offset; `interval_s` is 0 or absent for registers and momentary
values; `reading_type` is an alias, CIM code or OBIS code of `reading_types`; `value` is a decimal number and stays
exact (0.213 is 213 x 10^-3). Optional: `meter`, `quality` (CIM `system.category.sub`), `flags`, `source`, `version`,
`received_at` (else the event's timestamp). Unknown fields are ignored.

This module works on single readings; `readings` is its vectorised side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import orjson

from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid import reading_types

READINGS_HUB: Final = hubs.READINGS
"""The hub readings are sent to."""

QUARANTINE_HUB: Final = hubs.QUARANTINE
"""The hub that keeps, verbatim, what could not be understood."""

INTERVAL_S_MAX: Final = 366 * 86_400
"""Longest interval believed: a yearly reading. Anything longer is a unit mixed up."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_US = 1_000_000
ESTIMATED_FLAG: Final = 4
EDITED_FLAG: Final = 8
"""Bits of `flags`."""

DERIVED_QUALITY: Final = "3.11.1"
"""Quality of energy that is the difference of two registers."""

EDITED_QUALITY: Final = "3.7.1"
"""Quality of a value that somebody put in."""

TAKEN_BACK: Final = "3.8.65535"
"""Quality of what is no estimate any more: there is none for this interval, the value means nothing."""

_ESTIMATED, _DERIVED, _MEASURED, _TAKEN_BACK = 0, 1, 2, 3  # as in columnar.cells, not imported here: it needs numpy
_GRADE_OF_CATEGORY = {8: _ESTIMATED, 12: _ESTIMATED, 11: _DERIVED}
_QUALITY = re.compile(r"(\d{1,2})\.(\d{1,3})\.(\d{1,5})\Z")


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading. A decoder names the `meter`; who hangs where is decided later, so `usage_point` may be "".

    Args:
        ts_end_us: end of the interval, microseconds since the epoch, UTC.
        reading_type: id in `reading_types`.
        value, scale: `value * 10**scale` in the unit of the reading type.
        interval_s: 0 for a register or a momentary value.
        source: head-end, file or feed it came from. flags: bits, see `ESTIMATED_FLAG`.
    """

    ts_end_us: int
    reading_type: int
    value: int
    scale: int
    interval_s: int = 0
    usage_point: str = ""
    meter: str = ""
    quality: str = ""
    source: str = ""
    version: int = 0
    flags: int = 0


def reading_json(reading: Reading) -> bytes:
    """The reading as the value of one event."""
    kind = reading_types.BY_ID[reading.reading_type]
    text = (
        f'{{"usage_point":{_quoted(reading.usage_point)},"ts_end":"{rfc3339(reading.ts_end_us)}",'
        f'"interval_s":{reading.interval_s},"reading_type":"{kind.alias}",'
        f'"value":{decimal_text(reading.value, reading.scale)}'
    )
    for name in ("meter", "quality", "source"):
        value = getattr(reading, name)
        if value:
            text += f',"{name}":{_quoted(value)}'
    if reading.flags:
        text += f',"flags":{reading.flags}'
    if reading.version:
        text += f',"version":{reading.version}'
    return (text + "}").encode()


def reading_event(reading: Reading, key: str = "") -> Event:
    """The reading as one event; the key is the usage point unless the caller knows its transformer."""
    return Event(reading_json(reading), (key or reading.usage_point).encode())


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def rfc3339(ts_us: int) -> str:
    """Microseconds since the epoch as RFC 3339 in UTC, with a fraction only when there is one."""
    text = (_EPOCH + timedelta(microseconds=ts_us)).isoformat().removesuffix("+00:00")
    return text + "Z"


def timestamp_us(moment: datetime) -> int:
    """An aware datetime as microseconds since the epoch, exactly.

    Raises:
        ValueError: the datetime does not know its offset.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without an offset is no instant")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * _SECOND_US + delta.microseconds


def value_parts(number: Decimal | int | str) -> tuple[int, int]:
    """(value, scale) of a decimal, exactly; trailing zeros are kept because they tell the resolution.

    Raises:
        ValueError: not a finite number, or more digits than int64 or an exponent than int8 holds.
    """
    try:
        sign, digits, exponent = Decimal(number).as_tuple()
    except ArithmeticError:
        raise ValueError(f"{number!r} is not a number") from None
    if not isinstance(exponent, int):
        raise ValueError(f"{number!r} is not a finite number")
    value = int("".join(map(str, digits)) or "0")
    if value >= 2**63 or not -128 <= exponent <= 127:
        raise ValueError(f"{number!r} has too many digits")
    return (-value if sign else value), exponent


def decimal_text(value: int, scale: int) -> str:
    """`value * 10**scale` as a JSON number without rounding."""
    if scale >= 0:
        plain = scale <= 3 and abs(value) < 2**52
        return str(value * 10**scale) if plain or scale == 0 else f"{value}e{scale}"
    digits = str(abs(value)).rjust(1 - scale, "0")
    if len(digits) > 40:
        return f"{value}e{scale}"
    return f"{'-' if value < 0 else ''}{digits[:scale]}.{digits[scale:]}"


def grade_of(quality: str) -> int:
    """What a reading of this quality is worth against another of the same interval: `cells.ESTIMATED` and so on.

    Whoever says estimated or projected, a head-end or ours, is believed; anything else is measured.
    """
    if quality == TAKEN_BACK:
        return _TAKEN_BACK
    packed = pack_quality(quality)
    return _GRADE_OF_CATEGORY.get(packed >> 16 & 255, _MEASURED) if packed > 0 else _MEASURED


def pack_quality(text: str) -> int:
    """CIM quality `system.category.sub` as `uint32`: 4, 8 and 16 bits. 0 is good; what is no quality code is -1."""
    match = _QUALITY.match(text)
    if match is None:
        return -1 if text else 0
    system, category, sub = (int(part) for part in match.groups())
    if system > 15 or category > 255 or sub > 65_535:
        return -1
    return system << 24 | category << 16 | sub
