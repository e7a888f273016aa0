"""Readings of the lake as files other systems take: NEM12, IEC 61968-9 MeterReadings and Green Button.

Of a reading that came in several versions the newest is written. Values are written as exact decimals. What a format
has no word for is not in the file: each exporter names the reading types it can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Final
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5
from xml.sax.saxutils import escape

from gridwire.capture import sql
from gridwire.core.errors import Unsupported
from gridwire.grid.formats import cim_codes, espi
from gridwire.grid.formats.nem12 import INTERVALS, MARKET_OFFSET_US, SUFFIXES
from gridwire.grid.reading import TAKEN_BACK, Reading, pack_quality, rfc3339, timestamp_us
from gridwire.grid.reading_types import BY_ALIAS, BY_ID, READING_TYPES, ReadingType

_OWN_ESTIMATE: Final = "(coalesce(quality, 0) >> 16 = 776)"
"""Quality 3.8.x: 3 x 256 + 8."""

ROWS_MAX: Final = 1_000_000
"""Readings of one file: they are held in memory, some 300 bytes each."""

TIMEOUT_S: Final = 300.0
"""A file of a million readings may take longer than a question."""

_DAY_US: Final = 86_400_000_000
_NMI_CHARACTERS: Final = 10


@dataclass(frozen=True, slots=True)
class Exporter:
    """A format to write. `types`: aliases of the reading types it can tell; `write`: sorted readings to text."""

    name: str
    types: frozenset[str]
    write: Callable[[Iterable[Reading]], Iterator[str]]


def read(
    lake_root: Path, types: Iterable[str], start: datetime, end: datetime, usage_points: Iterable[str] = ()
) -> list[Reading]:
    """The newest version of each reading whose interval ends after `start` and not after `end`, by usage point,
    meter, type, interval and time; an estimate of ours only where nothing was measured.

    Raises:
        SqlError: there are no readings in the lake, or it cannot be read.
        Unsupported: there are more than `ROWS_MAX`.
    """
    points = ", ".join(map(_literal, usage_points))
    identity = "usage_point, coalesce(meter, ''), CAST(reading_type AS VARCHAR), interval_s, ts_end"
    question = f"""
        SELECT usage_point, meter, CAST(reading_type AS VARCHAR), interval_s, epoch_us(ts_end), value, scale,
            quality, version
        FROM readings_raw
        WHERE ts_end > make_timestamptz({timestamp_us(start)}) AND ts_end <= make_timestamptz({timestamp_us(end)})
            AND reading_type IN ({", ".join(map(_literal, sorted(types)))})
            {f"AND usage_point IN ({points})" if points else ""}
        QUALIFY row_number() OVER (PARTITION BY {identity}
            ORDER BY (quality >> 16 & 255) IN (8, 12), version DESC, received_at DESC, "partition", "offset" DESC) = 1
            AND quality IS DISTINCT FROM {pack_quality(TAKEN_BACK)}
            AND (NOT {_OWN_ESTIMATE} OR NOT bool_or(NOT {_OWN_ESTIMATE})
                OVER (PARTITION BY usage_point, CAST(reading_type AS VARCHAR), interval_s, ts_end))
        ORDER BY {identity}"""
    found = sql.query(lake_root, question, limit_rows=ROWS_MAX, timeout_s=TIMEOUT_S)
    if found.truncated:
        raise Unsupported(f"more than {ROWS_MAX} readings for one file: choose a shorter time or fewer usage points")
    return [
        Reading(ts, BY_ALIAS[alias].id, value, scale, interval_s or 0, point, meter or "", _quality(quality or 0),
                version=version or 0)
        for point, meter, alias, interval_s, ts, value, scale, quality, version in found.rows
    ]  # fmt: skip


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quality(packed: int) -> str:
    """The CIM code of a packed quality; "" for good."""
    return f"{packed >> 24}.{packed >> 16 & 255}.{packed & 65_535}" if packed else ""


def _plain(reading: Reading) -> str:
    """The value as a decimal without an exponent, which none of the formats has."""
    digits = str(abs(reading.value)) + "0" * max(reading.scale, 0)
    if reading.scale < 0:
        digits = digits.rjust(1 - reading.scale, "0")
        digits = f"{digits[: reading.scale]}.{digits[reading.scale :]}"
    return f"-{digits}" if reading.value < 0 else digits


# -- NEM12 --------------------------------------------------------------------------------------------------------

_SUFFIX_OF: Final = {alias: f"{letter}1" for letter, alias in SUFFIXES.items()}


def _nem12(readings: Iterable[Reading]) -> Iterator[str]:
    """Raises Unsupported for a usage point that is no NMI and for intervals the market does not have."""
    yield f"100,NEM12,{_market(timestamp_us(datetime.now(UTC)), '%Y%m%d%H%M')},GRIDWIRE,GRIDWIRE\r\n"
    for (nmi, meter, type_id, interval_s), group in groupby(readings, _stream_of):
        if len(nmi) != _NMI_CHARACTERS or not nmi.isalnum():
            raise Unsupported(f"usage point {nmi[:40]!r} is no NMI, which has {_NMI_CHARACTERS} letters and digits")
        if interval_s % 60 or interval_s // 60 not in INTERVALS:
            raise Unsupported(f"intervals of {interval_s} s of {nmi}: NEM12 has {INTERVALS} minutes")
        type = BY_ID[type_id]
        suffix, serial = _SUFFIX_OF[type.alias], meter.translate({ord(mark): " " for mark in ',"\r\n'})
        yield f"200,{nmi},{suffix},1,{suffix},,{serial},{type.unit},{interval_s // 60},\r\n"
        for day, found in groupby(group, lambda r: (r.ts_end_us + MARKET_OFFSET_US - 1) // _DAY_US):
            yield from _nem12_day(day, interval_s, list(found))
    yield "900\r\n"


def _stream_of(reading: Reading) -> tuple[str, str, int, int]:
    return reading.usage_point, reading.meter, reading.reading_type, reading.interval_s


def _nem12_day(day: int, interval_s: int, readings: list[Reading]) -> Iterator[str]:
    """A 300 record and, when qualities differ, its 400 records. Intervals without a reading are zeros of quality N."""
    count = 86_400 // interval_s
    values, qualities = ["0"] * count, ["N"] * count
    for reading in readings:
        place, rest = divmod(reading.ts_end_us + MARKET_OFFSET_US - day * _DAY_US, interval_s * 1_000_000)
        if rest:
            raise Unsupported(f"{reading.usage_point}: {rfc3339(reading.ts_end_us)} is no end of a market interval")
        values[place - 1], qualities[place - 1] = _plain(reading), _nem12_quality(reading.quality)
    mixed = len(set(qualities)) > 1
    date = _market(day * _DAY_US - MARKET_OFFSET_US, "%Y%m%d")
    yield f"300,{date},{','.join(values)},{'V' if mixed else qualities[0]},,,,\r\n"
    first = 1
    for quality, run in groupby(qualities if mixed else ()):
        last = first + len(list(run)) - 1
        yield f"400,{first},{last},{quality},,\r\n"
        first = last + 1


def _nem12_quality(code: str) -> str:
    """A for good, E, S or F with its method for what came out of NEM12, E without a method for any other doubt."""
    if not code or code.split(".")[1:] == ["0", "0"]:
        return "A"
    family, _, sub = code.rpartition(".")
    flag = {1: "E", 2: "S", 3: "F"}.get(int(sub) // 1000) if family == "2.8" else None
    if flag is None:
        return "E"
    return flag + (f"{int(sub) % 1000:02d}" if int(sub) % 1000 else "")


def _market(ts_us: int, layout: str) -> str:
    return datetime.fromtimestamp((ts_us + MARKET_OFFSET_US) // 1_000_000, UTC).strftime(layout)


# -- CIM ----------------------------------------------------------------------------------------------------------

_PERIODS: Final = {seconds: period for period, seconds in cim_codes.PERIODS_S.items()}


def _cim(readings: Iterable[Reading]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<MeterReadings xmlns="http://iec.ch/TC57/2011/MeterReadings#">\n'
    for (point, meter), group in groupby(readings, lambda r: (r.usage_point, r.meter)):
        yield "<MeterReading>"
        for name, value in (("Meter", meter), ("UsagePoint", point)):
            yield f"<{name}><mRID>{escape(value)}</mRID></{name}>" if value else ""
        yield "\n"
        for reading in group:
            yield _cim_reading(reading)
        yield "</MeterReading>\n"
    yield "</MeterReadings>\n"


def _cim_reading(reading: Reading) -> str:
    end, period, quality = rfc3339(reading.ts_end_us), "", ""
    if reading.interval_s:
        start = rfc3339(reading.ts_end_us - reading.interval_s * 1_000_000)
        period = f"<timePeriod><end>{end}</end><start>{start}</start></timePeriod>"
    if reading.quality:
        quality = f'<ReadingQualities><ReadingQualityType ref="{reading.quality}"/></ReadingQualities>'
    code = _cim_code(BY_ID[reading.reading_type], reading.interval_s)
    return (
        f"<Readings><timeStamp>{end}</timeStamp><value>{_plain(reading)}</value>{quality}{period}"
        f'<ReadingType ref="{code}"/></Readings>\n'
    )


def _cim_code(type: ReadingType, interval_s: int) -> str:
    """The code with the measuring period of this interval; 0 where the standard has none."""
    parts = type.cim.split(".")
    if interval_s:
        parts[2] = str(_PERIODS.get(interval_s, 0))
    return ".".join(parts)


def _told_by_cim() -> frozenset[str]:
    """Types whose code is read as the same type again."""
    pairs = ((row, cim_codes.match(row.cim)) for row in READING_TYPES)
    return frozenset(row.alias for row, found in pairs if found is not None and found[0] is row and not found[1])


NEM12: Final = Exporter("nem12", frozenset(SUFFIXES.values()), _nem12)
"""AEMO NEM12: interval energies of Australian usage points."""

CIM: Final = Exporter("cim", _told_by_cim(), _cim)
"""IEC 61968-9 MeterReadings as XML."""

# -- Green Button -------------------------------------------------------------------------------------------------

_ESPI_TYPES: Final = {"import_kwh": (1, 72), "export_kwh": (19, 72), "import_kvarh": (1, 73), "export_kvarh": (19, 73)}
"""Flow direction and uom by alias."""

_POWERS: Final = (9, 6, 3, 2, 1, 0, -1, -2, -3, -6, -9, -12)
"""Multipliers of the schema, largest first."""

_INT48_MAX: Final = 2**47 - 1
_KILO_POWER: Final = 3
_ESPI_QUALITIES: Final = {code: number for number, code in espi.QUALITIES.items()}
_ESPI_OTHER: Final = 16


def _espi(readings: Iterable[Reading]) -> Iterator[str]:
    """Raises Unsupported for a value that is no Int48 and a time between seconds. Meters have no place in it."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">\n'
    found = list(readings)
    updated = rfc3339(max((r.ts_end_us for r in found), default=0) // 1_000_000 * 1_000_000)
    yield _atom_head("urn:gridwire:readings", "Green Button usage feed", updated)
    for point, streams in groupby(groupby(found, _stream_of), lambda stream: stream[0][0]):
        own = f"UsagePoint/{quote(point, safe='')}"
        yield _entry(
            "UsagePoint",
            point,
            updated,
            {"self": own, "up": "UsagePoint", "related": f"{own}/MeterReading"},
            "<ServiceCategory><kind>0</kind></ServiceCategory>",
        )
        for number, (stream, group) in enumerate(streams):
            yield from _espi_stream(own, number, stream, list(group), updated)
    yield "</feed>\n"


def _espi_stream(
    point: str, number: int, stream: tuple[str, str, int, int], readings: list[Reading], updated: str
) -> Iterator[str]:
    """A meter reading, its reading type and its block: three entries that name each other by their links."""
    power = max((p for p in _POWERS if p <= min(r.scale for r in readings) + _KILO_POWER), default=_POWERS[-1])
    type, interval_s = BY_ID[stream[2]], stream[3]
    flow, uom = _ESPI_TYPES[type.alias]
    own = f"{point}/MeterReading/{number}"
    # ReadingType stands under the usage point: the numbers of two usage points must not meet.
    kind, blocks = f"{point}/ReadingType/{number}", f"{own}/IntervalBlock"
    title = f"{type.alias}, {interval_s} s"
    yield _entry(
        "ReadingType",
        title,
        updated,
        {"self": kind, "up": f"{point}/ReadingType"},
        f"<accumulationBehaviour>4</accumulationBehaviour><commodity>1</commodity><flowDirection>{flow}"
        f"</flowDirection><intervalLength>{interval_s}</intervalLength><kind>12</kind><powerOfTenMultiplier>{power}"
        f"</powerOfTenMultiplier><uom>{uom}</uom>",
    )
    links = {"self": own, "up": f"{point}/MeterReading"}
    yield _entry("MeterReading", title, updated, links, "", related=(kind, blocks))
    start_us = min(r.ts_end_us for r in readings) - interval_s * 1_000_000
    duration_s = (max(r.ts_end_us for r in readings) - start_us) // 1_000_000
    span = f"<interval><duration>{duration_s}</duration><start>{start_us // 1_000_000}</start></interval>\n"
    content = span + "\n".join(_espi_reading(reading, power) for reading in readings)
    yield _entry("IntervalBlock", title, updated, {"self": f"{blocks}/0", "up": blocks}, content)


def _atom_head(id: str, title: str, updated: str) -> str:
    return f"<id>{escape(id)}</id><title>{escape(title)}</title><updated>{updated}</updated>"


def _entry(
    name: str, title: str, updated: str, links: Mapping[str, str], content: str, related: Iterable[str] = ()
) -> str:
    """An Atom entry; its id is made of its own address, so that the same readings give the same file."""
    told = "".join(
        f'<link rel="{rel}" href="{href}"/>' for rel, href in [*links.items(), *(("related", r) for r in related)]
    )
    head = _atom_head(f"urn:uuid:{uuid5(NAMESPACE_URL, links['self'])}", title, updated)
    return f'<entry>{head}{told}<content><{name} xmlns="http://naesb.org/espi">{content}</{name}></content></entry>\n'


def _espi_reading(reading: Reading, power: int) -> str:
    start, fraction = divmod(reading.ts_end_us - reading.interval_s * 1_000_000, 1_000_000)
    shift = reading.scale + _KILO_POWER - power
    value = reading.value * 10 ** max(shift, 0)
    if fraction or shift < 0 or abs(value) > _INT48_MAX:
        raise Unsupported(
            f"{reading.usage_point}: {rfc3339(reading.ts_end_us)} is no reading that ESPI can tell exactly"
        )
    number = _ESPI_QUALITIES.get(reading.quality, _ESPI_OTHER) if reading.quality else 0
    quality = f"<ReadingQuality><quality>{number}</quality></ReadingQuality>" if number else ""
    return (
        f"<IntervalReading>{quality}<timePeriod><duration>{reading.interval_s}</duration><start>{start}</start>"
        f"</timePeriod><value>{value}</value></IntervalReading>"
    )


ESPI: Final = Exporter("espi", frozenset(_ESPI_TYPES), _espi)
"""Green Button XML: interval energies."""

EXPORTERS: Final = {each.name: each for each in (NEM12, CIM, ESPI)}
"""All of them by name."""
