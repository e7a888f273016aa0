"""Produce requests and responses, by hand: records stay a view of the received frame, never copied.

    request  = transactional_id:nullable string (v3+)  acks:int16  timeout_ms:int32
               topics[ name:string | id:uuid (v13+)  partitions[ index:int32  records:nullable bytes ] ]
    response = topics[ name | id  partitions[ index:int32  error:int16  base_offset:int64  append_time_ms:int64 (v2+)
               log_start:int64 (v5+)  record_errors[] (v8+)  error_message:nullable string (v8+) ] ]
               throttle_ms:int32 (v1+)

Compact encodings and tagged fields from v9. Versions 0 to 2 carry the retired record formats: they are decoded only so
that they can be answered. Source: Apache Kafka protocol guide, "Produce API".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from gridwire.core.errors import RemoteProtocolError
from gridwire.wire.kafka import primitives as p
from gridwire.wire.kafka.primitives import INT32

FLEXIBLE_FROM: Final = 9
TOPIC_ID_FROM: Final = 13
PARTITIONS_MAX: Final = 65_536
"""Partitions one produce may name; each becomes an append, so a frame of empty entries must not become millions."""

_ACKS = struct.Struct(">hi")
_CLASSIC_STRING = p.string_decoder(p.read_length16, True)
_COMPACT_STRING = p.string_decoder(p.read_compact_length, True)
_WRITE_CLASSIC = p.string_encoder(p.write_length16, True)
_WRITE_COMPACT = p.string_encoder(p.write_compact_length, True)

Part = tuple[int, memoryview | None]
"""(partition, its record batches)."""


class ProduceRequest(msgspec.Struct, frozen=True):
    """A decoded produce; `topics` is (name or id, parts) in the order asked."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: list[tuple[str | UUID, list[Part]]]


class PartResult(msgspec.Struct):
    """Answer for one partition."""

    index: int
    error: int = 0
    base_offset: int = -1
    append_time_ms: int = -1
    log_start: int = -1
    message: str | None = None


def decode_produce(version: int, frame: memoryview, body_at: int) -> ProduceRequest:
    """Decode a produce request whose body starts at `body_at`.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    try:
        return _decode_produce(version, frame, body_at)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"malformed produce request: {error}") from None


def _decode_produce(version: int, frame: memoryview, at: int) -> ProduceRequest:
    flexible = version >= FLEXIBLE_FROM
    read_string = _COMPACT_STRING if flexible else _CLASSIC_STRING
    read_length = p.read_compact_length if flexible else p.read_length32
    transactional_id = None
    if version >= 3:
        transactional_id, at = read_string(frame, at)
    acks, timeout_ms = _ACKS.unpack_from(frame, at)
    count, at = read_length(frame, at + 6)
    p.check_length(count, frame, at, 3)
    topics: list[tuple[str | UUID, list[Part]]] = []
    left = PARTITIONS_MAX
    read_topic: p.Decoder = p.uuid_decoder if version >= TOPIC_ID_FROM else read_string
    for _ in range(count):
        name, at = read_topic(frame, at)
        if name is None:
            raise RemoteProtocolError("topic without a name")
        parts, at = _decode_parts(frame, at, read_length, flexible)
        left -= len(parts) + 1
        if left < 0:
            raise RemoteProtocolError(f"produce request names more than {PARTITIONS_MAX} partitions")
        topics.append((name, parts))
    if flexible:
        at = p.skip_tags(frame, at)
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def _decode_parts(frame: memoryview, at: int, read_length: p.LengthReader, flexible: bool) -> tuple[list[Part], int]:
    count, at = read_length(frame, at)
    p.check_length(count, frame, at, 6 if flexible else 8)
    if count > PARTITIONS_MAX:
        raise RemoteProtocolError(f"produce request names {count} partitions: at most {PARTITIONS_MAX}")
    parts: list[Part] = []
    for _ in range(count):
        index: int = INT32.unpack_from(frame, at)[0]
        size, at = read_length(frame, at + 4)
        p.check_length(size, frame, at)
        if size < 0:
            parts.append((index, None))
        else:
            parts.append((index, frame[at : at + size]))
            at += size
        if flexible:
            at = p.skip_tags(frame, at)
    if flexible:
        at = p.skip_tags(frame, at)
    return parts, at


_PART = struct.Struct(">ihq")
_PREFIX = struct.Struct(">ii")
_TIME = struct.Struct(">q")


def encode_produce_response(
    version: int, correlation_id: int, topics: Sequence[tuple[str | UUID, Sequence[PartResult]]]
) -> bytearray:
    """A whole response frame at any version from 0."""
    flexible = version >= FLEXIBLE_FROM
    write_length = p.write_compact_length if flexible else p.write_length32
    write_string = _WRITE_COMPACT if flexible else _WRITE_CLASSIC
    out = bytearray(9 if flexible else 8)
    write_topic: p.Encoder = p.uuid_encoder if version >= TOPIC_ID_FROM else write_string
    write_length(out, len(topics))
    for name, parts in topics:
        write_topic(out, name)
        write_length(out, len(parts))
        for part in parts:
            _encode_part(out, version, part, write_length, write_string)
        if flexible:
            out.append(0)
    if version >= 1:
        out += b"\0\0\0\0"
    if flexible:
        out.append(0)
    _PREFIX.pack_into(out, 0, len(out) - 4, correlation_id)
    return out


def _encode_part(
    out: bytearray, version: int, part: PartResult, write_length: p.LengthWriter, write_string: p.Encoder
) -> None:
    out += _PART.pack(part.index, part.error, part.base_offset)
    if version >= 2:
        out += _TIME.pack(part.append_time_ms)
    if version >= 5:
        out += _TIME.pack(part.log_start)
    if version >= 8:
        write_length(out, 0)
        write_string(out, part.message)
    if version >= FLEXIBLE_FROM:
        out.append(0)
