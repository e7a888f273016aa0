"""Record headers to AMQP sections, the other way of `sections_in`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gridwire.wire.amqp import types
from gridwire.wire.amqp.errors import DECODE_ERROR, AmqpError
from gridwire.wire.amqp.mapping import (
    ANNOTATION,
    BINARY,
    BODY,
    CLOUD_HEADER,
    CLOUD_IN,
    FOOTER,
    PROPERTIES,
    PROPERTY,
    STRING,
    SYMBOL,
    TRANSPORT,
    TYPES,
    restored,
)
from gridwire.wire.amqp.sections_in import section

HEADERS_BYTES_CACHED: Final = 512
HEADERS_CACHED: Final = 2048
"""Headers remembered with their sections: many devices say the same with every event."""

NAMES_CACHED: Final = 4096
"""The same of names of headers, and of lists of types."""

_PLACE: Final = {header: index for index, (_, header, _) in enumerate(PROPERTIES)}
_TRANSPORT_PLACE: Final = {header: index for index, (_, header, _) in enumerate(TRANSPORT)}


@dataclass(frozen=True, slots=True)
class Sections:
    """What headers are in AMQP: encoded entries of message-annotations, whole sections, how to put the body."""

    transport: tuple[bytes, ...]
    """Encoded fields of the header section; empty when there are none."""
    annotations: int
    """Keys and values of `annotation_bytes`, counted together."""
    annotation_bytes: bytes
    before: bytes
    body: bytes
    footer: bytes


NO_SECTIONS: Final = Sections((), 0, b"", b"", b"", b"")


def sections_of(headers: bytes) -> Sections:
    """The sections of a record's headers, count and all. Raises AmqpError when they are malformed."""
    found = _KNOWN.get(headers)
    if found is None:
        found = _sections(headers)
        if len(headers) <= HEADERS_BYTES_CACHED:
            if len(_KNOWN) >= HEADERS_CACHED:
                _KNOWN.clear()
            _KNOWN[headers] = found
    return found


_KNOWN: Final[dict[bytes, Sections]] = {}


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift <= 63 and position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7
    raise AmqpError(DECODE_ERROR, _MALFORMED)


def _read_headers(data: bytes) -> list[tuple[bytes, bytes | None]]:
    end = len(data)
    count, at = _read_varint(data, 0)
    out: list[tuple[bytes, bytes | None]] = []
    for _ in range(min(count, end)):
        size = data[at] if at < end else 0x80
        size, at = (size >> 1, at + 1) if size < 0x80 and not size & 1 else _read_varint(data, at)
        start, at = at, at + max(size, 0)
        name = data[start:at]
        size = data[at] if at < end else 0x80
        size, at = (size >> 1, at + 1) if size < 0x80 and not size & 1 else _read_varint(data, at)
        start, at = at, at + max(size, 0)
        out.append((name, None if size < 0 else data[start:at]))
    if at != end:
        raise AmqpError(DECODE_ERROR, _MALFORMED)
    return out


_MALFORMED: Final = "a stored event's headers are malformed"
_APART: Final = frozenset({TYPES, BODY, FOOTER})
_FIELD, _TRANSPORT, _ANNOTATION, _APPLICATION = range(4)

_Place = tuple[int, int, bytes, int]
"""Where a header goes: what it is part of, its place there or its key, encoded, and its type if nobody says so."""


@lru_cache(NAMES_CACHED)
def _place_of(name: bytes) -> _Place:
    place = _PLACE.get(name)
    if place is not None:
        return _FIELD, place, b"", PROPERTIES[place][2]
    place = _TRANSPORT_PLACE.get(name)
    if place is not None:
        return _TRANSPORT, place, b"", TRANSPORT[place][2]
    if name.startswith(ANNOTATION):
        return _ANNOTATION, 0, types.symbol(_text(name[len(ANNOTATION) :])), BINARY
    if name.startswith(CLOUD_HEADER):
        return _APPLICATION, 0, types.string(CLOUD_IN[0] + _text(name[len(CLOUD_HEADER) :])), STRING
    return _APPLICATION, 0, types.string(_text(name[len(PROPERTY) :] if name.startswith(PROPERTY) else name)), BINARY


def _sections(data: bytes) -> Sections:
    headers = _read_headers(data)
    apart = {name: value or b"" for name, value in headers if name in _APART}
    rest = [each for each in headers if each[0] not in _APART] if apart else headers
    codes = _codes(apart.get(TYPES), len(rest))
    fields: list[bytes] = []
    transport: list[bytes] = []
    annotations: list[bytes] = []
    properties: list[bytes] = []
    for index, (name, value) in enumerate(rest):
        part, place, key, usual = _place_of(name)
        encoded = _value(usual if codes is None else codes[index], value)
        if part == _APPLICATION:
            properties += (key, encoded)
        elif part == _FIELD:
            fields = fields or [types.NULL] * len(PROPERTIES)
            fields[place] = encoded
        elif part == _TRANSPORT:
            transport = transport or [types.NULL] * len(TRANSPORT)
            transport[place] = encoded
        else:
            annotations += (key, encoded)
    before = types.described(0x73, types.list_(fields)) if fields else b""
    if properties:
        before += types.described(0x74, types.map_items(properties))
    body, footer = apart.get(BODY, b""), _footer(apart.get(FOOTER, b""))
    return Sections(tuple(transport), len(annotations), b"".join(annotations), before, body, footer)


_HEADS8: Final = {code: [bytes((code, size)) for size in range(256)] for code in (BINARY, STRING, SYMBOL)}
"""How values of up to 255 bytes begin."""


def _value(code: int, value: bytes | None) -> bytes:
    """The AMQP value of a header. Text that is ASCII lies in both as it is."""
    if value is not None and len(value) < 256 and code in _HEADS8 and (code == BINARY or value.isascii()):
        return _HEADS8[code][len(value)] + value
    return restored(code, value)


def _footer(data: bytes) -> bytes:
    """A stored footer; nothing when it is none, for anybody may write the header over Kafka."""
    try:
        code, at = section(data, 0, len(data))
        value, after = types.decode(data, at)
    except AmqpError:
        return b""
    return data if code == 0x78 and isinstance(value, dict) and after == len(data) else b""


@lru_cache(NAMES_CACHED)
def _codes(text: bytes | None, count: int) -> bytes | None:
    """Types of the other headers; None where there are none, or somebody changed the headers since."""
    if text is None:
        return None
    try:
        codes = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return None
    return codes if len(codes) == count else None


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
