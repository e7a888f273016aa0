"""Record headers to AMQP sections, the other way of `sections_in`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gridwire.core.batch import varint_at
from gridwire.core.errors import InvalidBatch
from gridwire.wire.amqp import types
from gridwire.wire.amqp.errors import DECODE_ERROR, AmqpError
from gridwire.wire.amqp.known import Known
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
from gridwire.wire.amqp.sections_in import NAME_BYTES_KNOWN, NAMES_KNOWN, section

HEADERS_KNOWN: Final = 2048
HEADERS_BYTES_KNOWN: Final = 512
"""Headers remembered with their sections: many devices say the same with every event."""

_PLACE: Final = {header: index for index, (_, header, _) in enumerate(PROPERTIES)}
_TRANSPORT_PLACE: Final = {header: index for index, (_, header, _) in enumerate(TRANSPORT)}


class Sections(msgspec.Struct, frozen=True, gc=False):
    """What headers are in AMQP: encoded entries of message-annotations, whole sections, how to put the body."""

    transport: Sequence[bytes]
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
    return _SECTIONS[headers]


_MALFORMED: Final = "a stored event's headers are malformed"
_PROPERTIES_SECTION: Final = b"\x00\x53\x73"
_APPLICATION_SECTION: Final = b"\x00\x53\x74"
_FIELD, _TRANSPORT, _ANNOTATION, _APPLICATION, _APART = range(5)

_Place = tuple[int, int, bytes, int]
"""Where a header goes: what it is part of, its place there or its key, encoded, and its type if nobody says so."""


def _place_of(name: bytes) -> _Place:
    if name in (TYPES, BODY, FOOTER):
        return _APART, 0, name, 0
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


_PLACES: Final = Known(_place_of, NAMES_KNOWN, NAME_BYTES_KNOWN)


def _read_headers(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[_Place, bytes | None]]]:
    """(headers that say how others are meant, by name; others with their places)."""
    apart: dict[bytes, bytes] = {}
    rest: list[tuple[_Place, bytes | None]] = []
    try:
        count, at = varint_at(data, 0)
        for _ in range(count):
            size = data[at]
            if size & 0x81:  # two bytes or more, or negative
                size, at = _read_size(data, at)
            else:
                size >>= 1
                at += 1
            place = _PLACES[data[at : at + size]]
            at += size
            size = data[at]
            if size == 1:
                at += 1
                value = None
            else:
                if size & 0x81:
                    size, at = _read_size(data, at)
                else:
                    size >>= 1
                    at += 1
                value = data[at : at + size]
                at += size
            if place[0] == _APART:
                apart[place[2]] = value or b""
            else:
                rest.append((place, value))
    except (IndexError, InvalidBatch):
        raise AmqpError(DECODE_ERROR, _MALFORMED) from None
    if at != len(data):
        raise AmqpError(DECODE_ERROR, _MALFORMED)
    return apart, rest


def _read_size(data: bytes, position: int) -> tuple[int, int]:
    size, after = varint_at(data, position)
    if size < 0:
        raise AmqpError(DECODE_ERROR, _MALFORMED)
    return size, after


def _sections(data: bytes) -> Sections:
    apart, rest = _read_headers(data)
    codes: Sequence[int] = _CODES[apart[TYPES]] if TYPES in apart else b""
    if len(codes) != len(rest):  # nobody said, or somebody changed the headers since
        codes = [usual for (_, _, _, usual), _ in rest]
    fields: list[bytes] = []
    transport: list[bytes] = []
    annotations: list[bytes] = []
    properties: list[bytes] = []
    for ((part, place, key, _), value), code in zip(rest, codes, strict=True):
        # text that is ASCII lies in both as it is, and bytes do
        if value is not None and len(value) < 256 and (code == BINARY or (code in _HEADS8 and value.isascii())):
            encoded = _HEADS8[code][len(value)] + value
        else:
            encoded = restored(code, value)
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
    before = _PROPERTIES_SECTION + types.list_(fields) if fields else b""
    if properties:
        before += _APPLICATION_SECTION + types.map_items(properties)
    footer = _footer(apart[FOOTER]) if FOOTER in apart else b""
    return Sections(transport, len(annotations), b"".join(annotations), before, apart.get(BODY, b""), footer)


_SECTIONS: Final = Known(_sections, HEADERS_KNOWN, HEADERS_BYTES_KNOWN)

_HEADS8: Final = {code: [bytes((code, size)) for size in range(256)] for code in (BINARY, STRING, SYMBOL)}
"""How values of up to 255 bytes begin."""


def _footer(data: bytes) -> bytes:
    """A stored footer; nothing when it is none, for anybody may write the header over Kafka."""
    try:
        code, at = section(data, 0, len(data))
        value, after = types.decode(data, at)
    except AmqpError:
        return b""
    return data if code == 0x78 and isinstance(value, dict) and after == len(data) else b""


def _codes(text: bytes) -> bytes:
    """Types of headers; none where it is no list of them."""
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return b""


_CODES: Final = Known(_codes, NAMES_KNOWN, NAME_BYTES_KNOWN)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
