"""IEC 61968-9 MeterReadings and EndDeviceEvents, as XML and as the same structure in JSON.

    <MeterReading>
      <Meter><mRID>M1</mRID></Meter> <UsagePoint><mRID>U1</mRID></UsagePoint>
      <Readings><timeStamp>...</timeStamp><value>1.5</value><ReadingType ref="0.0.0.1.1.1.12..."/></Readings>
      <IntervalBlocks><IntervalReadings>...</IntervalReadings><ReadingType ref="..."/></IntervalBlocks>
    </MeterReading>

XML is read element by element, so a file may be of any size; entities are refused. A time is the end of its interval.
A reading of a type we do not know, or one that cannot be read, goes to quarantine alone; its neighbours do not.

Source: IEC 61968-9 (interface), IEC 61968-100 (envelopes, which are skipped over). The code tables are our own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final
from xml.sax.saxutils import escape

from gridwire.grid.formats import cim_codes, units
from gridwire.grid.formats.base import BadFrame, Context, Decoded, Format, Item, Unusable, bad_pieces
from gridwire.grid.formats.xmlstream import Element, elements, raw_of
from gridwire.grid.meter_event import MeterEvent, kind_of
from gridwire.grid.reading import Reading, value_parts
from gridwire.grid.reading_types import Accumulation

JSON_BYTES_MAX: Final = 32 * 1024 * 1024
"""Largest JSON document; unlike XML it is read as a whole. Larger files come as XML or as one document a line."""

_WANTED: Final = ("MeterReading", "EndDeviceEvent")
_MINUTE_S: Final = 60


def stream_xml(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode XML; see `base.Format.stream`."""
    for (raw, position, opening, reason), element in elements(chunks, _WANTED, context.fragment):
        if element is None:
            yield from bad_pieces(raw, reason, position)
            continue
        yield from _items(element, raw, position, opening, context)


def _items(
    element: Element, raw: bytes, position: int, opening: bytes, context: Context, whole: bool = False
) -> Iterator[Item]:
    """The good and the bad out of one MeterReading or EndDeviceEvent; `whole`: nothing of it without the rest."""
    try:
        if element.name == "EndDeviceEvent":
            yield Decoded((), position, events=(_event(element, context),))
            return
        reading = _MeterReading(element, context)
    except Unusable as error:
        yield from bad_pieces(raw, str(error), position, opening)
        return
    good: list[Reading] = []
    bad: list[BadFrame] = []
    for part, read in reading.parts():
        try:
            good += read()
        except Unusable as error:
            if whole:
                yield from bad_pieces(raw, str(error), position, opening)
                return
            bad += bad_pieces(raw_of(part, element, raw), str(error), part.start, opening + reading.prelude())
    if good:
        yield Decoded(tuple(good), position)
    elif not bad:
        yield from bad_pieces(raw, "meter reading carries no value", position, opening)
    yield from bad


def _name(element: Element | None) -> str:
    if element is None:
        return ""
    return element.value("mRID") or element.value("Names", "name") or element.value("name")


class _MeterReading:
    """The readings of one meter, and who it is."""

    def __init__(self, element: Element, context: Context) -> None:
        self._element = element
        self._context = context
        meter, point = element.find("Meter"), element.find("UsagePoint")
        self.meter = _name(meter) or ("" if _name(point) else context.meter)
        self.usage_point = _name(point)
        if not self.meter and not self.usage_point:
            raise Unusable("reading names neither meter nor usage point")

    def prelude(self) -> bytes:
        """The opening of a MeterReading in which one of its parts can stand alone."""
        text = "<MeterReading>"
        for name, value in (("Meter", self.meter), ("UsagePoint", self.usage_point)):
            text += f"<{name}><mRID>{escape(value)}</mRID></{name}>" if value else ""
        return text.encode()

    def parts(self) -> Iterator[tuple[Element, Callable[[], list[Reading]]]]:
        """Each of its parts, and how to read it. What is called may raise Unusable."""
        for part in self._element.all("Readings"):
            yield part, partial(self._single, part)
        for block in self._element.all("IntervalBlocks"):
            yield block, partial(self._block, block)

    def _single(self, part: Element) -> list[Reading]:
        return [self._reading(part, _type_code(part), 0)]

    def _block(self, block: Element) -> list[Reading]:
        code = _type_code(block)
        parts = list(block.all("IntervalReadings"))
        known = cim_codes.match(code) if code else None
        interval_s = cim_codes.duration_s(block.value("intervalLength"))
        if known is not None and not known[2] and not interval_s and known[0].accumulation is Accumulation.INTERVAL:
            interval_s = self._spacing_s(parts)
        return [self._reading(part, _type_code(part) or code, interval_s) for part in parts]

    def _spacing_s(self, parts: list[Element]) -> int:
        """The distance of the first two times, where neither type nor block tells the interval's length."""
        ends = [cim_codes.instant_us(part.value("timeStamp"), self._context.zone) for part in parts[:2]]
        return (ends[1] - ends[0]) // 1_000_000 if len(ends) == 2 else 0

    def _reading(self, part: Element, code: str, interval_s: int) -> Reading:
        known = cim_codes.match(code)
        if known is None:
            raise Unusable(f"unknown reading type {code[:80]!r}")
        type, power, period_s = known
        value, scale = _number(part.value("value"))
        start, end = part.value("timePeriod", "start"), part.value("timePeriod", "end") or part.value("timeStamp")
        ts_us = cim_codes.instant_us(end, self._context.zone)
        length_s = 0
        if type.accumulation is Accumulation.INTERVAL:
            length_s = period_s or interval_s
            if start:
                length_s = (ts_us - cim_codes.instant_us(start, self._context.zone)) // 1_000_000
            if length_s <= 0:
                raise Unusable("the length of the interval is nowhere told")
        return units.reading(
            type, value, scale + power, "", ts_us, self.meter, self._context, length_s, _quality(part),
            self.usage_point,
        )  # fmt: skip


def _number(text: str) -> tuple[int, int]:
    try:
        return value_parts(text)
    except ValueError as error:
        raise Unusable(str(error)[:80]) from None


def _type_code(element: Element) -> str:
    found = element.find("ReadingType")
    if found is None:
        return ""
    return found.attributes.get("ref") or found.value("mRID") or found.value("Names", "name") or found.text.strip()


def _quality(part: Element) -> str:
    """The worst quality: the first that is not plainly valid, by category."""
    codes = []
    for entry in part.all("ReadingQualities"):
        found = entry.find("ReadingQualityType")
        code = (found.attributes.get("ref") or found.text.strip()) if found is not None else entry.attributes.get("ref")
        if code and code.count(".") == 2 and all(piece.isdecimal() for piece in code.split(".")):
            codes.append(code)
    bad = [code for code in codes if code.split(".")[1:] != ["0", "0"]]
    return max(bad, key=lambda code: int(code.split(".")[1]), default="")


_EVENT_DETAILS: Final = ("issuerID", "issuerTrackingID", "reason", "userID")


def _event(element: Element, context: Context) -> MeterEvent:
    assets = element.find("Assets") or element.find("Meter") or element.find("EndDevice")
    kind = element.find("EndDeviceEventType")
    code = (kind.attributes.get("ref") or kind.text.strip()) if kind is not None else ""
    details = [(d.value("name"), d.value("value")) for d in element.all("EndDeviceEventDetails") if d.value("name")]
    details += [(name, element.value(name)) for name in _EVENT_DETAILS if element.value(name)]
    meter, point = _name(assets) or context.meter, _name(element.find("UsagePoint"))
    if not meter and not point:
        raise Unusable("event names neither meter nor usage point")
    if not code:
        raise Unusable("event has no EndDeviceEventType")
    return MeterEvent(
        cim_codes.instant_us(element.value("createdDateTime"), context.zone), kind_of(code), meter, point, code,
        severity=element.value("severity"), event_id=element.value("mRID"), source=context.source,
        details=tuple(details),
    )  # fmt: skip


# -- JSON ---------------------------------------------------------------------------------------------------------


def stream_json(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode one JSON document, or one a line; see `base.Format.stream`."""
    for raw, position in _documents(chunks):
        if len(raw) > JSON_BYTES_MAX:
            yield from bad_pieces(raw, f"document is longer than {JSON_BYTES_MAX} bytes", position)
            continue
        try:
            document = json.loads(raw, parse_float=str, parse_int=str)
            found = list(_wanted(document, 0))
        except (ValueError, RecursionError) as error:
            yield from bad_pieces(raw, f"not JSON: {error}"[:200], position)
            continue
        if not found:
            yield from bad_pieces(raw, "document has neither MeterReading nor EndDeviceEvent", position)
        for name, content in found:
            piece = json.dumps({name: content}).encode()
            # Parts have no bytes of their own here, so the whole element is what is kept.
            for item in _items(_element(name, content, 0), piece, position, b"", context, whole=True):
                yield replace(item, position=position)


def _documents(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """Whole lines where each is a document, else everything."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        if len(buffer) > JSON_BYTES_MAX + 65_536:
            break
    position = 0
    lines = bytes(buffer).split(b"\n")
    if sum(line.startswith(b"{") and line.rstrip().endswith(b"}") for line in lines[:2]) == min(len(lines), 2) > 1:
        for line in lines:
            if line.strip():
                yield line, position
            position += len(line) + 1
    elif buffer.strip():
        yield bytes(buffer), 0
    for chunk in chunks:  # pieces of what is beyond the limit
        position += len(buffer)
        buffer = bytearray(chunk)
        yield chunk + b" " * (JSON_BYTES_MAX + 1 - len(chunk)), position


def _wanted(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > 16:
        raise ValueError("nested too deeply")
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict):
            continue
        for name, content in entry.items():
            local = name.rpartition(":")[2]
            if local in _WANTED:
                yield from ((local, one) for one in (content if isinstance(content, list) else [content]))
            else:
                yield from _wanted(content, depth + 1)


def _element(name: str, value: Any, depth: int) -> Element:
    """JSON as the element it stands for: members are children, `ref`, `@ref` and text members attributes too."""
    element = Element(name.rpartition(":")[2].lstrip("@"), {})
    if depth > 16:
        return element
    if isinstance(value, dict):
        for key, content in value.items():
            if key.lstrip("@") == "ref" and isinstance(content, str):
                element.attributes["ref"] = content
            elif key in ("#text", "$", "value") and not isinstance(content, dict | list) and key != "value":
                element.text = str(content)
            else:
                entries = content if isinstance(content, list) else [content]
                element.children += [_element(key, entry, depth + 1) for entry in entries]
    elif value is not None and not isinstance(value, list):
        element.text = str(value)
    return element


XML: Final = Format(
    "cim", "IEC 61968-9 MeterReadings and EndDeviceEvents as XML", ("*.cim.xml", "*meterreadings*.xml"), stream_xml,
    "IEC 61968-9 (MeterReadings, EndDeviceEvents)",
    "any or no namespaces, envelopes, type given by reference or name, any multiplier and period in the code, broken "
    "elements between good ones, times without offset (zone)",
    "the schema's structure; no open decoder was found",
)  # fmt: skip
"""The XML format as the registry lists it."""

JSON: Final = Format(
    "cim-json", "IEC 61968-9 MeterReadings and EndDeviceEvents as JSON", ("*.cim.json",), stream_json,
    "the structure of IEC 61968-9 as JSON members",
    "one document, an array or one a line; single values for lists; `ref`, `@ref` or names for types",
    "the XML format, on the same content",
)  # fmt: skip
"""The JSON format as the registry lists it."""
