"""What one partition knows of transactions: which are open, and which were aborted and where.

A transaction begins in a partition with its first transactional batch and ends with a control batch, the marker, that
says commit or abort. A reader of committed data stops at the first offset of the oldest open transaction (the last
stable offset) and passes over the batches of aborted ones.

Source: Kafka KIP-98.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import msgspec

from gridwire.core.batch import CONTROL, TRANSACTIONAL, BatchHeader, Event, decode, encode
from gridwire.core.errors import InvalidBatch

ABORT: Final = 0
COMMIT: Final = 1

_KEY = struct.Struct(">hh")
_VALUE = struct.Struct(">hi")


class Aborted(msgspec.Struct, frozen=True, array_like=True):
    """An aborted transaction: whose, its first offset, and the offset of its marker."""

    producer_id: int
    first: int
    last: int


class _Saved(msgspec.Struct, array_like=True):
    open: dict[int, int]
    aborted: list[Aborted]


def marker(producer_id: int, epoch: int, *, commit: bool, timestamp_ms: int) -> bytearray:
    """The control batch that ends a producer's transaction in one partition."""
    event = Event(_VALUE.pack(0, 0), _KEY.pack(0, COMMIT if commit else ABORT), timestamp=timestamp_ms)
    return encode([event], producer_id=producer_id, producer_epoch=epoch, attributes=TRANSACTIONAL | CONTROL)


def is_commit(batch: bytes | bytearray | memoryview, position: int = 0) -> bool:
    """Whether a control batch commits.

    Raises:
        InvalidBatch: it is no marker.
    """
    for event in decode(batch, position):
        if event.key is not None and len(event.key) >= _KEY.size:
            return int(_KEY.unpack_from(event.key)[1]) == COMMIT
    raise InvalidBatch("control batch without a marker")


class TransactionTable:
    """Open and aborted transactions of one partition. The writer thread changes it; `undo` takes back a group."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        self.aborted: list[Aborted] = []

    def note(self, header: BatchHeader, *, commit: bool = False) -> None:
        """Take a transactional batch, or a marker, at the offset its header says."""
        if not header.attributes & CONTROL:
            self.open.setdefault(header.producer_id, header.base_offset)
            return
        first = self.open.pop(header.producer_id, None)
        if first is not None and not commit:
            self.aborted.append(Aborted(header.producer_id, first, header.base_offset))

    def stable(self, end: int) -> int:
        """The last stable offset of a log that ends at `end`."""
        return min(self.open.values(), default=end)

    def overlapping(self, start: int, end: int) -> list[Aborted]:
        """Aborted transactions with a batch or the marker in [start, end)."""
        if not self.aborted:
            return []
        first = bisect_left(self.aborted, start, key=lambda each: each.last)
        return [each for each in self.aborted[first:] if each.first < end]

    def forget_before(self, offset: int) -> None:
        """Drop aborted transactions that lie wholly below the log's start."""
        if self.aborted and self.aborted[0].last < offset:
            self.aborted = [each for each in self.aborted if each.last >= offset]

    def keep(self) -> tuple[dict[int, int], int]:
        """What to hand to `undo` should the write fail."""
        return dict(self.open), len(self.aborted)

    def undo(self, kept: tuple[dict[int, int], int]) -> None:
        """Take back what happened since `keep`."""
        self.open = kept[0]
        del self.aborted[kept[1] :]

    def dump(self) -> bytes:
        """The table as bytes, for the sidecar of a segment."""
        return msgspec.msgpack.encode(_Saved(self.open, self.aborted))

    @classmethod
    def load(cls, data: bytes) -> TransactionTable:
        """The inverse of `dump`."""
        table = cls()
        saved = msgspec.msgpack.decode(data, type=_Saved)
        table.open, table.aborted = saved.open, saved.aborted
        return table


def is_aborted(header: BatchHeader, aborted: Sequence[Aborted]) -> bool:
    """Whether a batch belongs to one of the aborted transactions."""
    if not header.attributes & TRANSACTIONAL or header.attributes & CONTROL:
        return False
    return any(
        each.producer_id == header.producer_id and each.first <= header.base_offset < each.last for each in aborted
    )
