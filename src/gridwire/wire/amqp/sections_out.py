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
    TRANSPORT,
    TYPES,
    restored,
)
from gridwire.wire.amqp.sections_in import section

HEADERS_BYTES_CACHED: Final = 512
HEADERS_CACHED: Final = 2048
"""Headers remembered with their sections: a device says the same with every event."""

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
    return _sections_cached(headers) if len(headers) <= HEADERS_BYTES_CACHED else _sections(headers)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift <= 63 and position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7
    raise AmqpError(DECODE_ERROR, "a stored event's headers are malformed")


def _read_headers(data: bytes) -> list[tuple[bytes, bytes | None]]:
    count, position = _read_varint(data, 0)
    out: list[tuple[bytes, bytes | None]] = []
    for _ in range(min(count, len(data))):
        size, position = _read_varint(data, position)
        name = data[position : position + max(size, 0)]
        size, position = _read_varint(data, position + max(size, 0))
        out.append((name, None if size < 0 else data[position : position + size]))
        position += max(size, 0)
    if position != len(data):
        raise AmqpError(DECODE_ERROR, "a stored event's headers are malformed")
    return out


_APART: Final = frozenset({TYPES, BODY, FOOTER})


def _sections(data: bytes) -> Sections:
    headers = _read_headers(data)
    apart = {name: value or b"" for name, value in headers if name in _APART}
    rest = [(name, value) for name, value in headers if name not in _APART]
    codes = _codes(apart.get(TYPES), len(rest))
    fields: list[bytes] = [types.NULL] * len(PROPERTIES)
    transport: list[bytes] = []
    has_fields = False
    annotations: list[bytes] = []
    properties: list[tuple[bytes, bytes]] = []
    for index, (name, value) in enumerate(rest):
        code = codes[index] if codes else None
        place = _PLACE.get(name)
        if place is not None:
            fields[place] = restored(PROPERTIES[place][2] if code is None else code, value)
            has_fields = True
        elif (place := _TRANSPORT_PLACE.get(name)) is not None:
            transport = transport or [types.NULL] * len(TRANSPORT)
            transport[place] = restored(TRANSPORT[place][2] if code is None else code, value)
        elif name.startswith(ANNOTATION):
            key = types.symbol(_text(name[len(ANNOTATION) :]))
            annotations += (key, restored(BINARY if code is None else code, value))
        else:
            properties.append(_property(name, code, value))
    before = b""
    if has_fields:
        before += types.described(0x73, types.list_(fields))
    if properties:
        before += types.described(0x74, types.map_(properties))
    body, footer = apart.get(BODY, b""), _footer(apart.get(FOOTER, b""))
    return Sections(tuple(transport), len(annotations), b"".join(annotations), before, body, footer)


def _footer(data: bytes) -> bytes:
    """A stored footer; nothing when it is none, for anybody may write the header over Kafka."""
    try:
        code, at = section(data, 0, len(data))
        value, after = types.decode(data, at)
    except AmqpError:
        return b""
    return data if code == 0x78 and isinstance(value, dict) and after == len(data) else b""


_sections_cached = lru_cache(HEADERS_CACHED)(_sections)


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


def _property(name: bytes, code: int | None, value: bytes | None) -> tuple[bytes, bytes]:
    if name.startswith(CLOUD_HEADER):
        key, usual = CLOUD_IN[0] + _text(name[len(CLOUD_HEADER) :]), STRING
    else:
        key, usual = _text(name[len(PROPERTY) :] if name.startswith(PROPERTY) else name), BINARY
    return types.string(key), restored(usual if code is None else code, value)
