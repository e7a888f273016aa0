"""AMQP sections to record headers: the hot loop of events that say more than their body.

    header      durable, priority, ttl            -> amqp.durable ..
    annotations x-opt-partition-key, others       -> the key, amqp.annotation.NAME
    properties  message-id, content-type ..       -> message-id, amqp.subject ..
    application-properties  NAME                  -> NAME, ce_NAME, amqp.property.NAME

Text and bytes are copied as they lie there; numbers become digits. `mapping` says what goes where.

Source: OASIS AMQP 1.0, part 3, section 3.2.
"""

from __future__ import annotations

import struct
from typing import Final

from gridwire.core.batch import varint
from gridwire.wire.amqp import types
from gridwire.wire.amqp.errors import DECODE_ERROR, AmqpError
from gridwire.wire.amqp.known import Known
from gridwire.wire.amqp.mapping import (
    ANNOTATION,
    BINARY,
    CLOUD_HEADER,
    CLOUD_IN,
    KAFKA_KEY,
    OURS,
    PARTITION_KEY,
    PROPERTIES,
    PROPERTY,
    RESERVED,
    STRING,
    SYMBOL,
    TRANSPORT,
    TYPES,
    plain,
)

HEADER, DELIVERY, ANNOTATIONS, FIELDS, APPLICATION, DATA, SEQUENCE, VALUE, FOOTER = range(0x70, 0x79)
"""Descriptors of sections."""

NAMES_KNOWN: Final = 4096
NAME_BYTES_KNOWN: Final = 255
"""Names of properties and lists of types remembered as headers have them: devices use the same few again and again."""

SECTIONS_KNOWN: Final = 2048
SECTION_BYTES_KNOWN: Final = 512
"""The same of whole sections: a device sends the same header and often the same application properties with each event.
Not of properties: a message-id is new every time."""

_TRANSPORT_FIELDS: Final = 5
"""Fields of a header section, those that are not kept included."""

_U32: Final = struct.Struct(">I")
_LENGTHS: Final = [varint(size) for size in range(256)]
_TEXTS: Final = frozenset((BINARY, STRING, SYMBOL))
_NULL: Final = 0x40
_MALFORMED: Final = "a message section runs past its end"
_SECTION_NAMES: Final = {
    "amqp:header:list": 0x70, "amqp:delivery-annotations:map": 0x71, "amqp:message-annotations:map": 0x72,
    "amqp:properties:list": 0x73, "amqp:application-properties:map": 0x74, "amqp:data:binary": 0x75,
    "amqp:amqp-sequence:list": 0x76, "amqp:amqp-value:*": 0x77, "amqp:footer:map": 0x78,
}  # fmt: skip


Head = tuple[int, bytes | None, list[bytes]]
"""What stands before a message's body: where that begins, the key, headers, encoded."""


def _named(name: bytes) -> bytes:
    return varint(len(name)) + name


def header(name: bytes, value: bytes | None) -> bytes:
    """One encoded record header."""
    return _named(name) + (b"\x01" if value is None else varint(len(value)) + value)


_Fields = tuple[tuple[bytes, int], ...]
_PROPERTIES: Final[_Fields] = tuple((_named(name), usual) for _, name, usual in PROPERTIES)
_TRANSPORT: Final[_Fields] = tuple((_named(name), usual) for _, name, usual in TRANSPORT)
_DURABLE: Final = _TRANSPORT[0][0]
_PLACES: Final = frozenset(name for _, name, _ in PROPERTIES)


class _Found:
    """Headers of one event and their types, in the same order, while its sections are read."""

    __slots__ = ("codes", "headers", "key", "typed")

    def __init__(self) -> None:
        self.key: bytes | None = None
        self.headers: list[bytes] = []
        self.codes: list[int] = []
        self.typed = False
        """Whether a code is not the usual one."""

    def add(self, name: bytes, code: int, value: bytes | None, usual: int) -> None:
        """Take a header whose name is encoded already."""
        self.headers.append(name + (b"\x01" if value is None else varint(len(value)) + value))
        self.codes.append(code)
        if code != usual:
            self.typed = True


def read_head(data: bytes, position: int, end: int) -> Head:
    """Everything before a message's body. Raises AmqpError."""
    key: bytes | None = None
    headers: list[bytes] = []
    codes: list[int] = []
    typed = False
    try:
        while position < end:
            if data[position] == 0 and data[position + 1] == 0x53:
                code, at = data[position + 2], position + 3
            else:
                code, at = section(data, position, end)
            if code >= DATA:
                break
            if code == FIELDS:
                position, unusual = _fields(headers, codes, data, at, end, _PROPERTIES)
                typed = typed or unusual
                continue
            start = position
            position = at + 2 + data[at + 1] if 0xC0 <= data[at] < 0xD0 else types.skip(data, at, end)
            if position > end:
                raise AmqpError(DECODE_ERROR, _MALFORMED)
            other = _SECTIONS[data[start:position]]
            headers += other.headers
            codes += other.codes
            typed = typed or other.typed
            key = key if other.key is None else other.key
    except (IndexError, struct.error):
        raise AmqpError(DECODE_ERROR, _MALFORMED) from None
    if typed:
        headers.insert(0, _TYPES_HEADERS[bytes(codes)])
    return position, key, headers


def _section(whole: bytes) -> _Found:
    """A section of any kind but properties."""
    code, at = section(whole, 0, len(whole))
    found = _Found()
    if code != DELIVERY:
        _READERS[code](found, whole, at, len(whole))
    return found


_SECTIONS: Final = Known(_section, SECTIONS_KNOWN, SECTION_BYTES_KNOWN)


def read_key(data: bytes, position: int, end: int) -> bytes | None:
    """The key of a message, or of the envelope of a batch; nothing else is looked at. Raises AmqpError."""
    found = _Found()
    try:
        while position < end:
            code, at = section(data, position, end)
            if code >= DATA:
                break
            position = _annotations(found, data, at, end) if code == ANNOTATIONS else types.skip(data, at, end)
    except (IndexError, struct.error):
        raise AmqpError(DECODE_ERROR, _MALFORMED) from None
    return found.key


_TYPES_HEADERS: Final = Known(lambda codes: header(TYPES, codes.hex().encode()), NAMES_KNOWN, NAME_BYTES_KNOWN)


def section(buffer: types.Buffer, position: int, end: int) -> tuple[int, int]:
    """(code, position of the value) of the section at `position`. Raises AmqpError."""
    if end - position >= 4 and buffer[position] == 0 and buffer[position + 1] == 0x53:
        code = buffer[position + 2]
        if HEADER <= code <= FOOTER:
            return code, position + 3
    if position >= end or buffer[position] != 0:
        raise AmqpError(DECODE_ERROR, "a message section has no descriptor")
    descriptor, at = types.decode(buffer, position + 1, end, types.DEPTH_MAX - 1)
    found = _SECTION_NAMES.get(descriptor, -1) if isinstance(descriptor, str) else descriptor
    if not isinstance(found, int) or not HEADER <= found <= FOOTER:
        raise AmqpError(DECODE_ERROR, "a message section with an unknown descriptor")
    return found, at


def _items(data: bytes, at: int, end: int, short: int) -> tuple[int, int, int]:
    """(count, first, end) of the list or map at `at`. `short`: the constructor of its kind with one byte of size."""
    code = data[at]
    if code == short:
        stop = at + 2 + data[at + 1]
        if at + 3 > stop or stop > end:
            raise AmqpError(DECODE_ERROR, _MALFORMED)
        return data[at + 2], at + 3, stop
    if code == 0x45 and short == 0xC0 and at < end:
        return 0, at + 1, at + 1
    if code != short | 0x10:
        raise AmqpError(DECODE_ERROR, "a message section has a value of another type")
    return types.compound_head(code, data, at + 1, end)


def _check_text(code: int, value: bytes) -> None:
    """Raise AmqpError unless it is UTF-8 and, as a symbol, ASCII."""
    try:
        value.decode("ascii" if code == SYMBOL else "utf-8")
    except UnicodeDecodeError:
        raise AmqpError(DECODE_ERROR, "a string is no UTF-8, or a symbol no ASCII") from None


def _fields(headers: list[bytes], codes: list[int], data: bytes, at: int, end: int, known: _Fields) -> tuple[int, bool]:
    """Add the fields of a properties or a header section; returns the position after it, and if a type is unusual."""
    count, at, stop = _items(data, at, end, 0xC0)
    if count > (_TRANSPORT_FIELDS if known is _TRANSPORT else len(known)):
        raise AmqpError(DECODE_ERROR, "a message section has too many fields")
    typed = False
    for name, usual in known[:count]:
        code = data[at]
        if code == _NULL:
            at += 1
            continue
        if code in _TEXTS:
            start = at + 2
            at = start + data[start - 1]
            value = data[start:at]
            if code != BINARY and not value.isascii():
                _check_text(code, value)
            headers.append(name + _LENGTHS[at - start] + value)
        else:
            code, number, at = plain(data, at, stop)
            if name is _DURABLE and number == b"false":
                continue
            assert number is not None
            headers.append(name + varint(len(number)) + number)
        codes.append(code)
        if code != usual:
            typed = True
    if at > stop or (count <= len(known) and at != stop):
        raise AmqpError(DECODE_ERROR, _MALFORMED)
    return stop, typed


def _application(found: _Found, data: bytes, at: int, end: int) -> int:
    """Take application properties; returns the position after them."""
    count, at, stop = _items(data, at, end, 0xC1)
    if count & 1:
        raise AmqpError(DECODE_ERROR, "a map has a key without a value")
    headers, codes = found.headers, found.codes
    for _ in range(count >> 1):
        if data[at] == STRING:
            start = at + 2
            at = start + data[start - 1]
            name, usual = _PROPERTY_NAMES[data[start:at]]
        else:
            key, at = types.decode(data, at, stop)
            if not isinstance(key, str):
                raise AmqpError(DECODE_ERROR, "the name of an application property is not text")
            name, usual = _PROPERTY_NAMES[key.encode()]
        code = data[at]
        if code in _TEXTS:
            start = at + 2
            at = start + data[start - 1]
            value = data[start:at]
            if code != BINARY and not value.isascii():
                _check_text(code, value)
            headers.append(name + _LENGTHS[at - start] + value)
        else:
            code, number, at = plain(data, at, stop)
            headers.append(name + (b"\x01" if number is None else varint(len(number)) + number))
        codes.append(code)
        if code != usual:
            found.typed = True
    if at != stop:
        raise AmqpError(DECODE_ERROR, "a map is longer than its items")
    return stop


def _property_name(name: bytes) -> tuple[bytes, int]:
    """(encoded name of the header, type its values have if nobody says so) of an application property."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise AmqpError(DECODE_ERROR, "the name of an application property is no UTF-8") from None
    if text.startswith(CLOUD_IN):
        return _named(CLOUD_HEADER + name[len(CLOUD_IN[0]) :]), STRING
    if name in _PLACES or name.startswith(RESERVED):
        return _named(PROPERTY + name), BINARY
    return _named(name), BINARY


_PROPERTY_NAMES: Final = Known(_property_name, NAMES_KNOWN, NAME_BYTES_KNOWN)


def _annotations(found: _Found, data: bytes, at: int, end: int) -> int:
    """Take message annotations; returns the position after them."""
    count, at, stop = _items(data, at, end, 0xC1)
    if count & 1:
        raise AmqpError(DECODE_ERROR, "a map has a key without a value")
    for _ in range(count >> 1):
        key, at = types.decode(data, at, stop)
        code, value, at = plain(data, at, stop)
        if key == PARTITION_KEY or (key == KAFKA_KEY and found.key is None):
            found.key = value
        elif isinstance(key, str) and key not in OURS:
            found.add(_named(ANNOTATION + key.encode()), code, value, BINARY)
    if at != stop:
        raise AmqpError(DECODE_ERROR, "a map is longer than its items")
    return stop


def _transport(found: _Found, data: bytes, at: int, end: int) -> int:
    """Take a header section; returns the position after it."""
    after, found.typed = _fields(found.headers, found.codes, data, at, end, _TRANSPORT)
    return after


_READERS: Final = {HEADER: _transport, ANNOTATIONS: _annotations, APPLICATION: _application}
