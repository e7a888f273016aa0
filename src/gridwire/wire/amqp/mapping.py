"""One event, every protocol: the one table that says where each part of an event lies in each protocol.

The log keeps events as records: key, value, headers, timestamp. What AMQP has beyond that becomes headers anybody can
read: text as UTF-8, numbers as decimal digits. The header `amqp.types` keeps the AMQP types of the other headers, so
that an AMQP reader gets exactly what an AMQP writer sent. A record without it was not written over AMQP: its headers
are binary application properties then, as Event Hubs has it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final
from uuid import UUID

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

RESERVED: Final = (b"amqp.", CLOUD_HEADER)
"""How names begin that mean something here; a property of such a name gets `PROPERTY` before it."""

MAPPING: Final[tuple[tuple[str, str, str, str, str], ...]] = (
    ("body", "data section", "value", "body, verbatim", "body; `Body`"),
    ("body of several data sections", "data sections", "value: joined; header `amqp.body: data:<lengths>`", "as Kafka",
     "-"),
    ("body that is a string value", "amqp-value", "value: UTF-8; header `amqp.body: value:a1`", "as Kafka", "-"),
    ("body that is a binary value", "amqp-value", "value; header `amqp.body: value:a0`", "as Kafka", "-"),
    ("body that is any other value", "amqp-value", "value: AMQP-encoded; header `amqp.body: value`", "as Kafka", "-"),
    ("body of sequences", "amqp-sequence sections", "value: AMQP-encoded; header `amqp.body: sequence`", "as Kafka",
     "-"),
    ("no body (tombstone)", "empty data section; amqp-value null if it came so", "null value", "null", "-"),
    ("key, if it is text", "message annotation `x-opt-partition-key`", "key", "`key` parameter or header",
     "`BrokerProperties.PartitionKey`; the publisher's name"),
    ("key, if it is not", "message annotation `x-opt-kafka-key` (binary)", "key", "`key` parameter or header", "-"),
    ("content type", "properties.content-type", "header `content-type`", "`content-type`",
     "`content-type`; `BrokerProperties.ContentType`"),
    ("content encoding", "properties.content-encoding", "header `content-encoding`", "header of the event", "-"),
    ("correlation", "properties.correlation-id", "header `correlation-id`", "header of the event",
     "`BrokerProperties.CorrelationId`"),
    ("message id", "properties.message-id", "header `message-id`", "header of the event",
     "`BrokerProperties.MessageId`"),
    ("other properties", "properties.NAME", "header `amqp.NAME`", "header of the event", "-"),
    ("durable, priority, ttl", "header section", "header `amqp.durable`, `amqp.priority`, `amqp.ttl`", "as Kafka",
     "-"),
    ("CloudEvents attribute", "application property `cloudEvents:NAME`", "header `ce_NAME`",
     "`ce-NAME`, or member of `application/cloudevents+json`", "-"),
    ("CloudEvent as JSON", "data section, content-type `application/cloudevents+json`",
     "value, header `content-type`", "is taken apart: see the row above", "body, `content-type`"),
    ("property that is bytes", "application property (binary)", "header", "header of the event",
     "header of the request; `UserProperties`"),
    ("property of another type", "application property", "header: text; type in `amqp.types`", "header of the event",
     "as bytes of its text"),
    ("property whose name means something here", "application property", "header `amqp.property.NAME`", "as Kafka",
     "-"),
    ("annotation of the sender", "message annotation", "header `amqp.annotation.NAME`", "header of the event", "-"),
    ("footer", "footer", "header `amqp.footer`, the section AMQP-encoded", "header of the event", "-"),
    ("place", "`x-opt-sequence-number`, `x-opt-offset`", "offset", "`offset`", "-"),
    ("time", "`x-opt-enqueued-time`", "timestamp", "`timestamp`", "-"),
)  # fmt: skip
"""Rows of docs/reference/event-mapping.md: part of the event, AMQP, Kafka, HTTP, Event Hubs' send API (in only)."""


# -- values <-> header bytes ------------------------------------------------------------------------------------

_NUMBERS: Final[dict[int, tuple[int, int, struct.Struct]]] = {
    0x50: (0x50, 2, struct.Struct(">B")), 0x51: (0x51, 2, struct.Struct(">b")),
    0x52: (0x70, 2, struct.Struct(">B")), 0x53: (0x80, 2, struct.Struct(">B")),
    0x54: (0x71, 2, struct.Struct(">b")), 0x55: (0x81, 2, struct.Struct(">b")),
    0x60: (0x60, 3, struct.Struct(">H")), 0x61: (0x61, 3, struct.Struct(">h")),
    0x70: (0x70, 5, struct.Struct(">I")), 0x71: (0x71, 5, struct.Struct(">i")),
    0x80: (0x80, 9, struct.Struct(">Q")), 0x81: (0x81, 9, struct.Struct(">q")), 0x83: (0x83, 9, struct.Struct(">q")),
}  # fmt: skip
"""Constructors of whole numbers: the widest of the type, bytes with the constructor, form."""
_CONSTANTS: Final[dict[int, tuple[int, bytes | None]]] = {
    0x40: (0x40, None), 0x41: (0x56, b"true"), 0x42: (0x56, b"false"), 0x43: (0x70, b"0"), 0x44: (0x80, b"0"),
}  # fmt: skip


def plain(buffer: Buffer, position: int, end: int) -> tuple[int, bytes | None, int]:
    """(type code, header bytes, position after) of the value at `position`. Raises AmqpError."""
    code = buffer[position] if position < end else 0
    number = _NUMBERS.get(code)
    if number is not None:
        wide, size, form = number
        if size > end - position:
            raise AmqpError(DECODE_ERROR, "a value runs past its end")
        return wide, b"%d" % form.unpack_from(buffer, position + 1)[0], position + size
    constant = _CONSTANTS.get(code)
    if constant is not None:
        return *constant, position + 1
    return _rare(buffer, position, end)


def _rare(buffer: Buffer, position: int, end: int) -> tuple[int, bytes | None, int]:
    value, after = types.decode(buffer, position, end)
    code = buffer[position]
    if isinstance(value, bool):
        return 0x56, b"true" if value else b"false", after
    if isinstance(value, bytes):
        return BINARY, value, after
    if isinstance(value, Symbol):
        return SYMBOL, value.encode(), after
    if isinstance(value, str):
        return (0x73 if code == 0x73 else STRING), value.encode(), after
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
