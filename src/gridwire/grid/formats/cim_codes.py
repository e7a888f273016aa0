"""CIM ReadingType codes of head-ends to reading types, and times as IEC 61968-9 writes them.

A head-end's code differs from ours in what our table does not tell apart: multiplier, measuring period, macro period.
Multipliers become powers of ten; a period is the length of the interval.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from gridwire.grid.formats.base import Unusable
from gridwire.grid.reading import timestamp_us
from gridwire.grid.reading_types import READING_TYPES, ReadingType, find

PERIODS_S: Final = {1: 600, 2: 900, 3: 60, 4: 86_400, 5: 1_800, 6: 300, 7: 3_600, 10: 120, 14: 180, 31: 1_200}
"""Seconds by measuringPeriod."""

_DAILY = 11  # macroPeriod
_ACCUMULATION: Final = {1: 1, 2: 1, 3: 1, 9: 1, 4: 4, 6: 6, 12: 12, 0: 12}
_COMMODITY: Final = {0: 1, 2: 1}  # primary-voltage and unnamed electricity
_CODE = re.compile(r"\d{1,5}(?:\.\d{1,5}){16}\.\d{1,5}\Z")


def _key(parts: tuple[int, ...]) -> tuple[int, ...]:
    """What tells types apart: accumulation, flow, commodity, kind, tariff, phases, unit."""
    accumulation = _ACCUMULATION.get(parts[3], -1)
    commodity = _COMMODITY.get(parts[5], parts[5])
    phases = 0 if parts[14] == 224 else parts[14]
    return (accumulation, parts[4], commodity, parts[6], parts[11], phases, parts[16])


_TYPES: Final = {
    _key(parts): (row, parts[15]) for row in READING_TYPES for parts in (tuple(map(int, row.cim.split("."))),)
}


@lru_cache(maxsize=4096)
def match(code: str) -> tuple[ReadingType, int, int] | None:
    """(type, power of ten, interval in seconds or 0) of a code, OBIS code or alias; None when it is unknown."""
    if not _CODE.match(code):
        known = find(code)
        return (known, 0, 0) if known is not None else None
    parts = tuple(map(int, code.split(".")))
    found = _TYPES.get(_key(parts))
    if found is None and parts[3] == 0:  # bulk quantity without an accumulation
        found = _TYPES.get(_key((*parts[:3], 1, *parts[4:])))
    if found is None:
        return None
    type, own_multiplier = found
    interval_s = PERIODS_S.get(parts[2], 86_400 if parts[0] == _DAILY else 0)
    return type, parts[15] - own_multiplier, interval_s


def instant_us(text: str, zone: str) -> int:
    """An xsd:dateTime as microseconds since the epoch; without an offset it shows time of `zone`. Raises Unusable."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return timestamp_us(moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone)))
    except (ValueError, OverflowError):
        raise Unusable(f"{text[:40]!r} is no time") from None


_DURATION = re.compile(r"P(?:(\d{1,4})D)?(?:T(?:(\d{1,4})H)?(?:(\d{1,5})M)?(?:(\d{1,7})(?:\.0*)?S)?)?\Z")


def duration_s(text: str) -> int:
    """An xsd:duration of days to seconds, or plain seconds, in seconds; 0 when it is none."""
    text = text.strip()
    if text.isdecimal() and len(text) < 9:
        return int(text)
    found = _DURATION.match(text)
    if found is None:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
