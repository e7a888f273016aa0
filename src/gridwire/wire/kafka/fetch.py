"""Fetch responses, by hand: a list of buffers in which the records are the log's own bytes, never copied.

    response = throttle_ms:int32  [error:int16  session_id:int32 (v7+)]
               topics[ name:string | id:uuid (v13+)  partitions[ index:int32  error:int16  high_watermark:int64
               last_stable:int64  log_start:int64 (v5+)  aborted[]  preferred_replica:int32 (v11+)  records:bytes ] ]

Compact encodings and tagged fields from v12. Source: Apache Kafka protocol guide, "Fetch API".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gridwire.wire.kafka import primitives as p

FLEXIBLE_FROM: Final = 12
TOPIC_ID_FROM: Final = 13

_PREFIX = struct.Struct(">ii")
_OFFSETS = struct.Struct(">ihqq")
_INT64 = struct.Struct(">q")
_ABORTED = struct.Struct(">qq")
_SESSION = struct.Struct(">hi")
_WRITE_CLASSIC = p.string_encoder(p.write_length16, False)
_WRITE_COMPACT = p.string_encoder(p.write_compact_length, False)


@dataclass(slots=True)
class PartData:
    """Answer for one partition. `end` is the high watermark; `stable` the last stable offset, -1 for the same.

    `aborted`: (producer id, first offset) of the aborted transactions a reader of committed data passes over.
    """

    index: int
    error: int = 0
    start: int = -1
    end: int = -1
    records: bytes | memoryview = b""
    stable: int = -1
    aborted: Sequence[tuple[int, int]] = ()


Topic = tuple[str | UUID, Sequence[PartData]]


def encode_fetch_response(
    version: int, correlation_id: int, topics: Sequence[Topic], error: int = 0
) -> list[bytes | bytearray | memoryview]:
    """A whole response frame from v4 on, as the buffers to write one after the other."""
    flexible = version >= FLEXIBLE_FROM
    write_length = p.write_compact_length if flexible else p.write_length32
    first = out = bytearray(8)
    buffers: list[bytes | bytearray | memoryview] = [first]
    if flexible:
        out.append(0)
    out += b"\0\0\0\0"
    if version >= 7:
        out += _SESSION.pack(error, 0)
    write_length(out, len(topics))
    for topic, parts in topics:
        _write_topic(out, version, topic)
        write_length(out, len(parts))
        for part in parts:
            _encode_part(out, version, part)
            write_length(out, len(part.records))
            if part.records:
                out = bytearray()
                buffers += (part.records, out)
            if flexible:
                out.append(0)
        if flexible:
            out.append(0)
    if flexible:
        out.append(0)
    _PREFIX.pack_into(first, 0, sum(map(len, buffers)) - 4, correlation_id)
    return buffers


def _write_topic(out: bytearray, version: int, topic: str | UUID) -> None:
    if isinstance(topic, UUID):
        out += topic.bytes
    elif version >= FLEXIBLE_FROM:
        _WRITE_COMPACT(out, topic)
    else:
        _WRITE_CLASSIC(out, topic)


def _encode_part(out: bytearray, version: int, part: PartData) -> None:
    out += _OFFSETS.pack(part.index, part.error, part.end, part.end if part.stable < 0 else part.stable)
    if version >= 5:
        out += _INT64.pack(part.start)
    flexible = version >= FLEXIBLE_FROM
    if not part.aborted:
        out += b"\x01" if flexible else b"\0\0\0\0"
    else:
        (p.write_compact_length if flexible else p.write_length32)(out, len(part.aborted))
        for aborted in part.aborted:
            out += _ABORTED.pack(*aborted)
            if flexible:
                out.append(0)
    if version >= 11:
        out += b"\xff\xff\xff\xff"
