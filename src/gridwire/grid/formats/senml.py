"""SenML packs (RFC 8428), JSON and CBOR: one pack a file, a line, or one after the other.

    [{"bn":"urn:dev:meter-7/","bt":1.32e9,"bu":"Wh"},{"n":"1-0:1.8.0","v":1234},{"n":"voltage_l1_v","u":"V","v":230.1}]

A record's full name is base name and name; its last part after `/`, `;` or an underscore is what is measured (alias,
CIM or OBIS code), what stands before is the meter. Base values and sums (`s`) are added and taken as the RFC says;
times below 2**28 are relative to the time of receipt. Records of texts, booleans and data are not
readings and are skipped; a number of an unknown kind makes the pack unusable.

Source: RFC 8428; RFC 8798 for the secondary units kWh, kvarh and others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, Final

from gridwire.grid.formats import units
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Piece, Unusable, items
from gridwire.grid.formats.cbor import Reader
from gridwire.grid.reading import Reading, value_parts
from gridwire.grid.reading_types import Accumulation, ReadingType, find

PACK_BYTES_MAX: Final = 1024 * 1024
"""Longest pack; at 50 bytes a record that is 20,000 readings."""

RELATIVE_BELOW: Final = 2**28
"""Times below this are seconds relative to now."""

_LABELS: Final = {
    -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs", -1: "bver", 0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s",
    6: "t", 7: "ut", 8: "vd",
}  # fmt: skip
_KNOWN: Final = frozenset(_LABELS.values())
_NAME: Final = re.compile(r"(?P<meter>.*?)(?P<kind>[^/;]+)\Z")


def stream_json(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode JSON packs; see `base.Format.stream`."""
    return items(_packs(chunks), lambda raw, position: _decoded(_json(raw), context, position))


def stream_cbor(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode CBOR packs that follow each other; see `base.Format.stream`."""
    data = bytearray()
    position = 0
    for chunk in chunks:
        data += chunk
        yield from items(_cbor_packs(data, position, False), lambda raw, at: _decoded(Reader(raw).item(), context, at))
        position += _consumed(data)
    yield from items(_cbor_packs(data, position, True), lambda raw, at: _decoded(Reader(raw).item(), context, at))


def _consumed(data: bytearray) -> int:
    """How many bytes of the packs at the front are done; they are removed."""
    size = 0
    while size < len(data) and (end := _end_of_cbor(data, size)):
        size = end
    if size == 0 and len(data) > PACK_BYTES_MAX:
        size = len(data)
    del data[:size]
    return size


def _end_of_cbor(data: bytearray, start: int) -> int:
    """Where the item at `start` ends, 0 when it does not."""
    reader = Reader(bytes(data[start:]))
    try:
        reader.item()
    except Unusable:
        return 0
    return start + reader.position


def _cbor_packs(data: bytearray, position: int, ended: bool) -> Iterator[Piece]:
    start = 0
    while start < len(data) and (end := _end_of_cbor(data, start)):
        raw = bytes(data[start:end])
        yield raw, position + start, raw, ""
        start = end
    rest = bytes(data[start:])
    if rest and (ended or (start == 0 and len(data) > PACK_BYTES_MAX)):
        yield rest, position + start, b"", "no CBOR item, or it ends early"


def _packs(chunks: Iterable[bytes]) -> Iterator[Piece]:
    """JSON arrays by their brackets, whatever stands between them."""
    buffer = bytearray()
    position = 0
    for chunk in _with_end(chunks):
        buffer += chunk or b""
        while buffer:
            size, reason = _next_pack(buffer, chunk is None)
            if size == 0:
                break
            raw = bytes(buffer[:size])
            if not reason or raw.strip(b" \t\r\n,"):
                yield raw, position, raw, reason
            del buffer[:size]
            position += size


def _with_end(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    yield from chunks
    yield None


_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]]|"', re.DOTALL)


def _next_pack(buffer: bytearray, ended: bool) -> tuple[int, str]:
    """(size, reason) of the piece at the front; size 0 when more bytes are needed."""
    if buffer[0] != ord("["):
        start = buffer.find(b"[")
        return (start if start > 0 else len(buffer)), "bytes outside any pack"
    depth = 0
    for token in _TOKEN.finditer(buffer):
        text = token[0]
        if text == b"[":
            depth += 1
        elif text == b"]":
            depth -= 1
            if depth == 0:
                return token.end(), ""
        elif text == b'"':
            break
    if len(buffer) > PACK_BYTES_MAX:
        return len(buffer), f"no end of the pack within {PACK_BYTES_MAX} bytes"
    return (len(buffer), "pack ends early") if ended else (0, "")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw, parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise Unusable(f"not JSON: {error}"[:120]) from None


def _decoded(pack: Any, context: Context, position: int) -> Decoded:
    if not isinstance(pack, list) or not pack or not all(isinstance(record, dict) for record in pack):
        raise Unusable("a pack must be an array of records")
    base: dict[str, Any] = {}
    found: list[Reading] = []
    for record in pack:
        named = {_LABELS.get(key, str(key)) if isinstance(key, int) else str(key): record[key] for key in record}
        unknown = [key for key in named if key.endswith("_") and key not in _KNOWN]
        if unknown:
            raise Unusable(f"field {unknown[0][:20]!r} must be understood and is not")
        base.update({key: named[key] for key in ("bn", "bt", "bu", "bv", "bs") if key in named})
        if "v" in named or "s" in named:
            found.append(_reading(named, base, context))
    if not found:
        raise Unusable("pack carries no reading")
    return Decoded(tuple(found), position)


def _reading(record: dict[str, Any], base: dict[str, Any], context: Context) -> Reading:
    meter, type = _kind(str(base.get("bn", "")) + str(record.get("n", "")), context)
    unit = str(record.get("u", base.get("bu", "")))
    sums = "v" not in record
    number = _number(record["s" if sums else "v"]) + _number(base.get("bs" if sums else "bv", 0))
    ts_us = _time_us(_number(record.get("t", 0)) + _number(base.get("bt", 0)), context)
    interval_s = int(_number(record.get("ut", 0))) if type.accumulation is Accumulation.INTERVAL else 0
    if type.accumulation is Accumulation.INTERVAL and interval_s <= 0:
        raise Unusable("energy of an interval without its length (`ut`)")
    try:
        value, scale = value_parts(number)
    except ValueError as error:
        raise Unusable(str(error)[:80]) from None
    return units.reading(type, value, scale, "" if unit == "/" else unit, ts_us, meter, context, interval_s)


def _kind(name: str, context: Context) -> tuple[str, ReadingType]:
    """(meter, type) of a full name."""
    match = _NAME.match(name[:512])
    candidates = [(match["meter"], match["kind"])] if match else []
    candidates += [
        (name[:at], name[at + 1 :]) for at in (i for i, c in enumerate(name[:512]) if c in "_:") if at + 1 < len(name)
    ]
    for meter, kind in candidates:
        type = find(kind)
        if type is not None:
            known = meter.rstrip("/;_:") or context.meter
            if not known:
                raise Unusable("record names no meter: give its id")
            return known, type
    raise Unusable(f"{name[-60:]!r} names no known reading type")


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise Unusable(f"{str(value)[:20]!r} is no number")
    number = Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > 60:
        raise Unusable("a number that is not finite or out of range")
    return number


def _time_us(seconds: Decimal, context: Context) -> int:
    if abs(seconds) < RELATIVE_BELOW:
        if context.received_at_us is None:
            raise Unusable("record has a relative time or none: give the time of receipt")
        return context.received_at_us + int(seconds * 1_000_000)
    if not 0 <= seconds < 2**33:
        raise Unusable("a time outside of any calendar")
    return int(seconds * 1_000_000)


JSON: Final = Format(
    "senml", "SenML packs as JSON (RFC 8428)", ("*.senml", "*.senml.json"), stream_json,
    "RFC 8428, RFC 8798 (units)", "packs one after the other or one a line, base fields anywhere, relative times, sums",
    "the examples of RFC 8428",
)  # fmt: skip
"""The JSON format as the registry lists it."""

CBOR: Final = Format(
    "senml-cbor", "SenML packs as CBOR (RFC 8428)", ("*.senmlc",), stream_cbor,
    "RFC 8428, RFC 8949", "indefinite lengths, decimal fractions, half floats, text labels in place of numbers",
    "cbor2 (encodes what is decoded), and the JSON format on the same content",
)  # fmt: skip
"""The CBOR format as the registry lists it."""
