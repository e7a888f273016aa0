"""One event, every protocol: the one table that says where each part of an event lies in each protocol.

The log keeps events as records: key, value, headers, timestamp. What AMQP has beyond that becomes headers anybody can
read: text as UTF-8, numbers as decimal digits. The header `amqp.types` keeps the AMQP types of the other headers, so
that an AMQP reader gets exactly what an AMQP writer sent. A record without it was not written over AMQP: its headers
are binary application properties then, as Event Hubs has it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from gridwire.core.batch import varint
from gridwire.wire.amqp import types
from gridwire.wire.amqp.errors import DECODE_ERROR, AmqpError
from gridwire.wire.amqp.types import Buffer, Symbol

PARTITION_KEY: Final = "x-opt-partition-key"
KAFKA_KEY: Final = "x-opt-kafka-key"
SEQUENCE_NUMBER: Final = "x-opt-sequence-number"
OFFSET: Final = "x-opt-offset"
ENQUEUED_TIME: Final = "x-opt-enqueued-time"
OURS: Final = frozenset(
    {PARTITION_KEY, KAFKA_KEY, SEQUENCE_NUMBER, "x-opt-sequence-number-epoch", OFFSET, ENQUEUED_TIME}
)
"""Annotations only the hub writes; what a sender puts there is the key, or forgotten."""

TYPES: Final = b"amqp.types"
BODY: Final = b"amqp.body"
FOOTER: Final = b"amqp.footer"
ANNOTATION: Final = b"amqp.annotation."
PROPERTY: Final = b"amqp.property."
CLOUD_IN: Final = ("cloudEvents:", "cloudEvents_")
CLOUD_HEADER: Final = b"ce_"

BINARY, STRING, SYMBOL, ENCODED = 0xA0, 0xA1, 0xA3, 0x01
"""Type codes in `amqp.types` are the constructors of the specification; `ENCODED` means the value is kept encoded."""

PROPERTIES: Final[tuple[tuple[str, bytes, int], ...]] = (
    ("message-id", b"message-id", STRING),
    ("user-id", b"amqp.user-id", BINARY),
    ("to", b"amqp.to", STRING),
    ("subject", b"amqp.subject", STRING),
    ("reply-to", b"amqp.reply-to", STRING),
    ("correlation-id", b"correlation-id", STRING),
    ("content-type", b"content-type", SYMBOL),
    ("content-encoding", b"content-encoding", SYMBOL),
    ("absolute-expiry-time", b"amqp.absolute-expiry-time", 0x83),
    ("creation-time", b"amqp.creation-time", 0x83),
    ("group-id", b"amqp.group-id", STRING),
    ("group-sequence", b"amqp.group-sequence", 0x70),
    ("reply-to-group-id", b"amqp.reply-to-group-id", STRING),
)
"""Fields of the properties section in order: name, header, type of a header whose type nobody said."""

TRANSPORT: Final[tuple[tuple[str, bytes, int], ...]] = (
    ("durable", b"amqp.durable", 0x56),
    ("priority", b"amqp.priority", 0x50),
    ("ttl", b"amqp.ttl", 0x70),
)
"""The same of the header section; what follows in it (first-acquirer, delivery-count) is of one delivery, not kept."""

_PLACE: Final = {header: index for index, (_, header, _) in enumerate(PROPERTIES)}
_TRANSPORT_PLACE: Final = {header: index for index, (_, header, _) in enumerate(TRANSPORT)}
_RESERVED: Final = (b"amqp.", CLOUD_HEADER)

HEAD_BYTES_CACHED: Final = 512
HEADS_CACHED: Final = 2048
"""Property sections remembered with their headers, and the other way round: a device says the same with every event."""

MAPPING: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("body", "data section", "value", "body, verbatim"),
    ("body of several data sections", "data sections", "value: joined; header `amqp.body: data:<lengths>`", "as Kafka"),
    ("body that is a string value", "amqp-value", "value: UTF-8; header `amqp.body: value:a1`", "as Kafka"),
    ("body that is a binary value", "amqp-value", "value; header `amqp.body: value:a0`", "as Kafka"),
    ("body that is any other value", "amqp-value", "value: AMQP-encoded; header `amqp.body: value`", "as Kafka"),
    ("body of sequences", "amqp-sequence sections", "value: AMQP-encoded; header `amqp.body: sequence`", "as Kafka"),
    ("no body (tombstone)", "empty data section; amqp-value null if it came so", "null value", "null"),
    ("key, if it is text", "message annotation `x-opt-partition-key`", "key", "`key` parameter or header"),
    ("key, if it is not", "message annotation `x-opt-kafka-key` (binary)", "key", "`key` parameter or header"),
    ("content type", "properties.content-type", "header `content-type`", "`content-type`"),
    ("content encoding", "properties.content-encoding", "header `content-encoding`", "header of the event"),
    ("correlation", "properties.correlation-id", "header `correlation-id`", "header of the event"),
    ("message id", "properties.message-id", "header `message-id`", "header of the event"),
    ("other properties", "properties.NAME", "header `amqp.NAME`", "header of the event"),
    ("durable, priority, ttl", "header section", "header `amqp.durable`, `amqp.priority`, `amqp.ttl`", "as Kafka"),
    ("CloudEvents attribute", "application property `cloudEvents:NAME`", "header `ce_NAME`", "`ce-NAME` or member"),
    ("property that is bytes", "application property (binary)", "header", "header of the event"),
    ("property of another type", "application property", "header: text; type in `amqp.types`", "header of the event"),
    ("property whose name means something here", "application property", "header `amqp.property.NAME`", "as Kafka"),
    ("annotation of the sender", "message annotation", "header `amqp.annotation.NAME`", "header of the event"),
    ("footer", "footer", "header `amqp.footer`, the section AMQP-encoded", "header of the event"),
    ("place", "`x-opt-sequence-number`, `x-opt-offset`", "offset", "`offset`"),
    ("time", "`x-opt-enqueued-time`", "timestamp", "`timestamp`"),
)  # fmt: skip
"""Rows of docs/reference/event-mapping.md: part of the event, AMQP, Kafka, HTTP."""


# -- values <-> header bytes ------------------------------------------------------------------------------------

_WIDE: Final = {0x43: 0x70, 0x52: 0x70, 0x44: 0x80, 0x53: 0x80, 0x54: 0x71, 0x55: 0x81, 0x41: 0x56, 0x42: 0x56}


def plain(buffer: Buffer, position: int, end: int) -> tuple[int, bytes | None, int]:
    """(type code, header bytes, position after) of the value at `position`. Raises AmqpError."""
    value, after = types.decode(buffer, position, end)
    code = buffer[position]
    if value is None:
        return 0x40, None, after
    if isinstance(value, bool):
        return 0x56, b"true" if value else b"false", after
    if isinstance(value, bytes):
        return BINARY, value, after
    if isinstance(value, Symbol):
        return SYMBOL, value.encode(), after
    if isinstance(value, str):
        return (0x73 if code == 0x73 else STRING), value.encode(), after
    if isinstance(value, int):
        return _WIDE.get(code, code), b"%d" % value, after
    if isinstance(value, float):
        return code, repr(value).encode(), after
    if isinstance(value, UUID):
        return 0x98, str(value).encode(), after
    return ENCODED, bytes(buffer[position:after]), after


def _whole(form: Callable[[int], bytes], low: int, high: int) -> Callable[[bytes], bytes]:
    def restore(data: bytes) -> bytes:
        value = int(data)
        if not low <= value <= high:
            raise ValueError
        return form(value)

    return restore


def _char(data: bytes) -> bytes:
    return b"\x73" + ord(data.decode()).to_bytes(4, "big")


def _encoded(data: bytes) -> bytes:
    _, after = types.decode(data)
    if after != len(data):
        raise ValueError
    return data


def _float(data: bytes) -> bytes:
    return b"\x72" + struct.pack(">f", float(data))


_RESTORE: Final[dict[int, Callable[[bytes], bytes]]] = {
    BINARY: types.binary,
    STRING: lambda data: types.string(data.decode()),
    SYMBOL: lambda data: types.symbol(data.decode("ascii")),
    0x56: lambda data: types.boolean({b"true": True, b"false": False}[data]),
    0x50: _whole(types.ubyte, 0, 2**8 - 1), 0x60: _whole(types.ushort, 0, 2**16 - 1),
    0x70: _whole(types.uint, 0, 2**32 - 1), 0x80: _whole(types.ulong, 0, 2**64 - 1),
    0x51: _whole(lambda value: b"\x51" + value.to_bytes(1, "big", signed=True), -(2**7), 2**7 - 1),
    0x61: _whole(lambda value: b"\x61" + value.to_bytes(2, "big", signed=True), -(2**15), 2**15 - 1),
    0x71: _whole(types.int_, -(2**31), 2**31 - 1), 0x81: _whole(types.long, -(2**63), 2**63 - 1),
    0x72: _float, 0x82: lambda data: types.double(float(data)),
    0x83: _whole(types.timestamp, -(2**63), 2**63 - 1),
    0x98: lambda data: types.uuid(UUID(data.decode())),
    0x73: _char, ENCODED: _encoded,
}  # fmt: skip


def restored(code: int, data: bytes | None) -> bytes:
    """The AMQP value of a header; binary where it is not what its type says."""
    if data is None:
        return types.NULL
    try:
        return _RESTORE[code](data)
    except (KeyError, ValueError, TypeError, OverflowError, AmqpError):
        return types.binary(data)


# -- AMQP to record ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a message's body, as record headers: `headers` are `count` encoded ones."""

    key: bytes | None
    count: int
    headers: bytes


NO_HEAD: Final = Head(None, 0, b"")


def header(name: bytes, value: bytes | None) -> bytes:
    """One encoded record header."""
    if value is None:
        return varint(len(name)) + name + b"\x01"
    return varint(len(name)) + name + varint(len(value)) + value


class _Headers:
    """Headers of one event and their types while its sections are read."""

    def __init__(self) -> None:
        self.key: bytes | None = None
        self.parts: list[bytes] = []
        self.codes = bytearray()
        self.typed = False

    def add(self, name: bytes, code: int, value: bytes | None, usual: int) -> None:
        self.parts.append(header(name, value))
        self.codes.append(code)
        self.typed = self.typed or code != usual

    def head(self) -> Head:
        parts = self.parts
        if self.typed:
            parts = [header(TYPES, self.codes.hex().encode()), *parts]
        return Head(self.key, len(parts), b"".join(parts))


def head_of(sections: bytes) -> Head:
    """The record headers of everything before a message's body. Raises AmqpError."""
    return _head_cached(sections) if len(sections) <= HEAD_BYTES_CACHED else _head(sections)


def _head(sections: bytes) -> Head:
    found = _Headers()
    position, end = 0, len(sections)
    while position < end:
        code, at = section(sections, position, end)
        after = types.skip(sections, position, end)
        if code == 0x70:
            _fields(found, sections, at, after, TRANSPORT)
        elif code == 0x72:
            _annotations(found, sections, at, after)
        elif code == 0x73:
            _fields(found, sections, at, after, PROPERTIES)
        elif code == 0x74:
            _application(found, sections, at, after)
        position = after
    return found.head()


_head_cached = lru_cache(HEADS_CACHED)(_head)


def section(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """(code, position of the value) of the section at `position`. Raises AmqpError."""
    if end - position >= 4 and buffer[position] == 0 and buffer[position + 1] == 0x53:
        return buffer[position + 2], position + 3
    if position >= end or buffer[position] != 0:
        raise AmqpError(DECODE_ERROR, "a message section has no descriptor")
    descriptor, at = types.decode(buffer, position + 1, end, types.DEPTH_MAX - 1)
    code = _SECTION_NAMES.get(descriptor, -1) if isinstance(descriptor, str) else descriptor
    if not isinstance(code, int) or not 0x70 <= code <= 0x78:
        raise AmqpError(DECODE_ERROR, "a message section with an unknown descriptor")
    return code, at


_SECTION_NAMES: Final = {
    "amqp:header:list": 0x70, "amqp:delivery-annotations:map": 0x71, "amqp:message-annotations:map": 0x72,
    "amqp:properties:list": 0x73, "amqp:application-properties:map": 0x74, "amqp:data:binary": 0x75,
    "amqp:amqp-sequence:list": 0x76, "amqp:amqp-value:*": 0x77, "amqp:footer:map": 0x78,
}  # fmt: skip


def _items(buffer: bytes, position: int, end: int, kinds: tuple[int, ...]) -> tuple[int, int, int]:
    """(count, first, end) of the list or map at `position`."""
    code = buffer[position] if position < end else 0
    if code == 0x45 and 0xC0 in kinds:
        return 0, position + 1, position + 1
    if code not in kinds:
        raise AmqpError(DECODE_ERROR, "a message section has a value of another type")
    return types.compound_head(code, buffer, position + 1, end)


def _pairs(buffer: bytes, position: int, end: int) -> list[tuple[Any, int, bytes | None]]:
    """(key, type code, header bytes) of each entry of a map."""
    count, position, stop = _items(buffer, position, end, (0xC1, 0xD1))
    if count % 2:
        raise AmqpError(DECODE_ERROR, "a map has a key without a value")
    out = []
    for _ in range(count // 2):
        key, position = types.decode(buffer, position, stop)
        code, value, position = plain(buffer, position, stop)
        out.append((key, code, value))
    if position != stop:
        raise AmqpError(DECODE_ERROR, "a map is longer than its items")
    return out


def _annotations(found: _Headers, buffer: bytes, position: int, end: int) -> None:
    for key, code, value in _pairs(buffer, position, end):
        if key == PARTITION_KEY or (key == KAFKA_KEY and found.key is None):
            found.key = value
        elif isinstance(key, str) and key not in OURS:
            found.add(ANNOTATION + key.encode(), code, value, BINARY)


def _fields(found: _Headers, buffer: bytes, position: int, end: int, known: tuple[tuple[str, bytes, int], ...]) -> None:
    """The fields of a properties or a header section."""
    count, position, stop = _items(buffer, position, end, (0xC0, 0xD0))
    if count > (5 if known is TRANSPORT else len(known)):
        raise AmqpError(DECODE_ERROR, "a message section has too many fields")
    for _, name, usual in known[:count]:
        code, value, position = plain(buffer, position, stop)
        if value is not None and not (name == _DURABLE and value == b"false"):
            found.add(name, code, value, usual)


_DURABLE: Final = TRANSPORT[0][1]


def _application(found: _Headers, buffer: bytes, position: int, end: int) -> None:
    for key, code, value in _pairs(buffer, position, end):
        if not isinstance(key, str):
            raise AmqpError(DECODE_ERROR, "the name of an application property is not text")
        if key.startswith(CLOUD_IN):
            found.add(CLOUD_HEADER + key[len(CLOUD_IN[0]) :].encode(), code, value, STRING)
            continue
        name = key.encode()
        if name in _PLACE or name.startswith(_RESERVED):
            name = PROPERTY + name
        found.add(name, code, value, BINARY)


# -- record to AMQP ---------------------------------------------------------------------------------------------


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
    return _sections_cached(headers) if len(headers) <= HEAD_BYTES_CACHED else _sections(headers)


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


_sections_cached = lru_cache(HEADS_CACHED)(_sections)


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
