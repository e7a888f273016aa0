"""What Kafka consumers put into the metadata and assignment bytes of a group of type `consumer`.

The coordinator passes these bytes on unread; they are decoded for status pages and to see whether a subscription
changed. All integers big-endian, strings with an int16 length, arrays with an int32 count:

    subscription  version:int16  [topic:string]  user data ...
    assignment    version:int16  [topic:string [partition:int32]]  user data ...

Source: Apache Kafka, ConsumerProtocolSubscription.json and ConsumerProtocolAssignment.json. Later versions only
append fields.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

CONSUMER: Final = "consumer"
"""The protocol type of consumer groups."""

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")


class _MalformedError(Exception):
    """The bytes are something else, or cut short."""


class _Reader:
    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.position:
            raise _MalformedError
        start = self.position
        self.position += size
        return self.data[start : self.position]

    def int16(self) -> int:
        return int(_INT16.unpack(self.take(2))[0])

    def count(self, item_bytes: int) -> int:
        """Length of an array whose items take at least `item_bytes` each."""
        count = int(_INT32.unpack(self.take(4))[0])
        if not 0 <= count <= (len(self.data) - self.position) // item_bytes:
            raise _MalformedError
        return count

    def text(self) -> str:
        try:
            return self.take(self.int16()).decode()
        except UnicodeDecodeError:
            raise _MalformedError from None


def _versioned(data: bytes) -> _Reader:
    reader = _Reader(data)
    if reader.int16() < 0:
        raise _MalformedError
    return reader


def assigned_partitions(assignment: bytes) -> dict[str, list[int]]:
    """{hub: partitions} of a member's assignment; empty when the bytes are empty or something else."""
    out: dict[str, list[int]] = {}
    try:
        reader = _versioned(assignment)
        for _ in range(reader.count(6)):
            partitions = out.setdefault(reader.text(), [])
            count = reader.count(4)
            partitions += struct.unpack(f">{count}i", reader.take(4 * count))
    except _MalformedError:
        return {}
    return {hub: sorted(partitions) for hub, partitions in out.items()}


def assignment_bytes(places: Iterable[tuple[str, int]]) -> bytes:
    """An assignment as a leader would write it, version 0."""
    by_hub: dict[str, list[int]] = {}
    for hub, partition in sorted(places):
        by_hub.setdefault(hub, []).append(partition)
    out = [_INT16.pack(0), _INT32.pack(len(by_hub))]
    for hub, partitions in by_hub.items():
        name = hub.encode()
        count = len(partitions)
        out += [_INT16.pack(len(name)), name, struct.pack(f">i{count}i", count, *partitions)]
    return b"".join([*out, _INT32.pack(-1)])


def subscribed_hubs(metadata: bytes) -> frozenset[str] | None:
    """The hubs a member's metadata subscribes to; None when the bytes are something else."""
    try:
        reader = _versioned(metadata)
        return frozenset([reader.text() for _ in range(reader.count(2))])
    except _MalformedError:
        return None


def same_subscription(protocol_type: str, before: bytes, after: bytes) -> bool:
    """Whether two metadata of one member ask for the same hubs.

    A restarted consumer says that it owns nothing, so its bytes differ although its wish does not.
    """
    if before == after:
        return True
    hubs = subscribed_hubs(before) if protocol_type == CONSUMER else None
    return hubs is not None and hubs == subscribed_hubs(after)
