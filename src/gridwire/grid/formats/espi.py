"""Green Button (ESPI): interval blocks of an Atom feed, and bare ones.

    <entry><link rel="self" href=".../MeterReading/1"/><link rel="related" href=".../ReadingType/7"/>...
    <entry><link rel="up" href=".../UsagePoint/1/MeterReading/1/IntervalBlock"/>
      <content><IntervalBlock><IntervalReading>
        <timePeriod><duration>900</duration><start>1330578000</start></timePeriod><value>282</value>

A block finds its reading type through its meter reading's links; where those are broken it is the one named last in the
feed, and where there is none the value is Wh delivered, which is what senders leave out most. Starts are seconds since
the epoch and may be written as floats. Days of 82,800 and 90,000 s are taken as they are.

Source: NAESB REQ.21 (ESPI), the Green Button schema; codes of flow, kind, unit and quality are those of the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from urllib.parse import unquote

from gridwire.grid.formats import units
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Unusable, bad_pieces
from gridwire.grid.formats.xmlstream import Element, elements, raw_of
from gridwire.grid.reading import INTERVAL_S_MAX, Reading, value_parts
from gridwire.grid.reading_types import BY_ALIAS, Accumulation, ReadingType

_WANTED: Final = ("entry", "IntervalBlock", "ReadingType")
LINKS_MAX: Final = 20_000
"""Links remembered of one feed; the oldest go first. A feed of one customer has some ten."""

UOMS: Final = {
    5: "A", 29: "V", 31: "J", 33: "Hz", 38: "W", 42: "m3", 61: "VA", 63: "var", 71: "VAh", 72: "Wh", 73: "varh",
    119: "ft3", 128: "gal", 134: "l", 23: "C",
}  # fmt: skip
"""Units by ESPI's uom."""

_ENERGIES: Final = {"Wh": "kwh", "varh": "kvarh", "VAh": "kvah"}
_DIRECTIONS: Final = {0: "import", 1: "import", 19: "export", 4: "net"}
_INTERVAL, _REGISTERS = 4, (1, 2, 3, 9)
_GAS, _WATER = 7, 9

QUALITIES: Final = {
    7: "5.7.0", 8: "5.8.0", 9: "5.8.1", 10: "5.10.0", 11: "5.11.0", 12: "5.12.0", 13: "5.10.13", 16: "5.10.16",
}  # fmt: skip
"""CIM quality by ESPI's QualityOfReading; 0, 14 and 17 to 19 are good."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a reading type says; `raw` are its bytes, for quarantine."""

    accumulation: int = _INTERVAL
    commodity: int = 1
    direction: int = 1
    uom: int = 72
    power: int = 0
    interval_s: int = 0
    raw: bytes = b""

    def type(self) -> tuple[ReadingType, str]:
        """(type, unit). Raises Unusable."""
        unit = UOMS.get(self.uom)
        alias = _alias(self, unit) if unit else None
        if unit is None or alias is None or alias not in BY_ALIAS:
            raise Unusable(
                f"unsupported reading type: uom {self.uom}, commodity {self.commodity}, flow {self.direction}, "
                f"accumulation {self.accumulation}"
            )
        return BY_ALIAS[alias], unit


def _alias(kind: _Kind, unit: str) -> str | None:
    direction = _DIRECTIONS.get(kind.direction)
    register = kind.accumulation in _REGISTERS
    if unit in _ENERGIES and direction:
        return f"{direction}_register_{_ENERGIES[unit]}" if register else f"{direction}_{_ENERGIES[unit]}"
    if unit in ("m3", "ft3", "gal", "l"):
        medium = "gas" if kind.commodity == _GAS else "water" if kind.commodity == _WATER else None
        return medium and (f"{medium}_register_m3" if register else f"{medium}_m3")
    if unit == "W":
        return {"import": "power_import_kw", "export": "power_export_kw", "net": "power_kw"}.get(direction or "")
    plain = {
        "VA": "apparent_import_kva",
        "V": "voltage_v",
        "A": "current_a",
        "Hz": "frequency_hz",
        "C": "temperature_c",
    }
    return "reactive_import_kvar" if unit == "var" and direction == "import" else plain.get(unit)


def _whole(text: str, default: int) -> int:
    if not text:
        return default
    try:
        return int(Decimal(text)) if len(text) < 20 else default
    except (ArithmeticError, ValueError):
        raise Unusable(f"{text[:20]!r} is no number") from None


def _kind(element: Element, raw: bytes) -> _Kind:
    return _Kind(
        _whole(element.value("accumulationBehaviour"), _INTERVAL) or _INTERVAL,
        _whole(element.value("commodity"), 1) or 1,
        _whole(element.value("flowDirection"), 1),
        _whole(element.value("uom"), 72) or 72,
        _whole(element.value("powerOfTenMultiplier"), 0),
        _whole(element.value("intervalLength"), 0),
        raw,
    )


_POINT = re.compile(r"(?:RetailCustomer/([^/]+)/)?UsagePoint/([^/]+)")
_METER_READING = re.compile(r".*MeterReading/[^/]+")


class _Feed:
    """What the entries so far have said."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kinds: dict[str, _Kind] = {}
        self._related: dict[str, list[str]] = {}
        self._last: _Kind | None = None

    def items(self, element: Element, raw: bytes, position: int) -> Iterator[Item]:
        """The good and the bad of one entry or bare element."""
        links = [(link.attributes.get("rel", ""), link.attributes.get("href", "")) for link in element.all("link")]
        own = next((href for rel, href in links if rel == "self"), "")
        content = element.find("content") if element.name == "entry" else None
        parts = [element] if element.name != "entry" else content.children if content is not None else []
        for part in parts:
            if part.name == "ReadingType":
                try:
                    self._learn(own, _kind(part, raw_of(part, element, raw)))
                except Unusable as error:
                    yield from bad_pieces(raw, str(error), position)
            elif part.name == "MeterReading":
                self._remember(self._related, own, [href for rel, href in links if rel == "related"])
            elif part.name == "IntervalBlock":
                up = next((href for rel, href in links if rel == "up"), own)
                yield from self._block(part, element, raw, up)

    def _learn(self, href: str, kind: _Kind) -> None:
        self._last = kind
        if href:
            self._remember(self._kinds, href, kind)

    @staticmethod
    def _remember(table: dict, key: str, value: object) -> None:  # type: ignore[type-arg]
        if len(table) >= LINKS_MAX:
            del table[next(iter(table))]
        table[key] = value

    def _kind_of(self, up: str) -> _Kind:
        reading = _METER_READING.match(up)
        for href in self._related.get(reading[0], ()) if reading else ():
            if href in self._kinds:
                return self._kinds[href]
        return self._last or _Kind()

    def _block(self, block: Element, entry: Element, raw: bytes, up: str) -> Iterator[Item]:
        kind = self._kind_of(up)
        found = _POINT.search(up)
        point = "" if self._context.meter or not found else "/".join(unquote(part) for part in found.groups() if part)
        opening = b"<feed>" + kind.raw + f'<entry><link rel="up" href="{_attribute(up)}"/><content>'.encode()
        good: list[Reading] = []
        bad: list[Item] = []
        for part in block.all("IntervalReading"):
            try:
                if not point and not self._context.meter:
                    raise Unusable("block names no usage point: give the meter's id")
                good.append(self._reading(part, kind, point))
            except Unusable as error:
                bad += bad_pieces(raw_of(part, entry, raw), str(error), part.start, opening + b"<IntervalBlock>")
        if good:
            yield Decoded(tuple(good), block.start)
        elif not bad:
            yield from bad_pieces(raw_of(block, entry, raw), "interval block without a reading", block.start, opening)
        yield from bad

    def _reading(self, part: Element, kind: _Kind, point: str) -> Reading:
        type, unit = kind.type()
        start_us = _seconds_us(part.value("timePeriod", "start"))
        interval_s = _whole(part.value("timePeriod", "duration"), 0) or kind.interval_s
        interval = type.accumulation is Accumulation.INTERVAL
        if interval and not 0 < interval_s <= INTERVAL_S_MAX:
            raise Unusable("the length of the interval is nowhere told, or it is longer than a year")
        try:
            value, scale = value_parts(part.value("value"))
        except ValueError as error:
            raise Unusable(str(error)[:80]) from None
        quality = max((_whole(q.value("quality"), 0) for q in part.all("ReadingQuality")), default=0)
        end_us = start_us + interval_s * 1_000_000 if interval or interval_s <= INTERVAL_S_MAX else start_us
        if not 0 <= end_us < 2**53:
            raise Unusable("a time outside of any calendar")
        return units.reading(
            type, value, scale + kind.power, unit, end_us, self._context.meter, self._context,
            interval_s if interval else 0, QUALITIES.get(quality, ""), point,
        )  # fmt: skip


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _seconds_us(text: str) -> int:
    """Seconds since the epoch, whole or as a float, as microseconds."""
    try:
        return int(Decimal(text) * 1_000_000) if len(text) < 40 else -1
    except (ArithmeticError, ValueError):
        raise Unusable(f"{text[:40]!r} is no start in seconds") from None


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode feeds of any size; see `base.Format.stream`."""
    feed = _Feed(context)
    for (raw, position, _, reason), element in elements(chunks, _WANTED, context.fragment):
        if element is None:
            yield from bad_pieces(raw, reason, position)
        else:
            yield from feed.items(element, raw, position)


FORMAT: Final = Format(
    "espi", "Green Button (ESPI) XML", ("*.espi.xml", "*greenbutton*.xml", "*green_button*.xml"), stream,
    "NAESB REQ.21 ESPI",
    "float starts, a missing reading type (Wh delivered) or one of broken links, days of 82,800 and 90,000 s, missing "
    "durations (length of the type), decimal values, blocks without an Atom feed",
    "greenbutton-objects 2024.7",
)  # fmt: skip
"""The format as the registry lists it."""
