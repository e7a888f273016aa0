"""Events out of the log one at a time: for people who browse and tail. Programs read batches over Kafka."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gridwire.broker.port import Broker
from gridwire.core import batch, compression
from gridwire.core.batch import BatchHeader, Event
from gridwire.core.errors import Corruption, InvalidBatch, MessageTooLarge, OffsetOutOfRange
from gridwire.core.limits import MIB
from gridwire.log.transactions import Aborted, is_aborted
from gridwire.wire.http.cloudevents import time_ms
from gridwire.wire.http.problems import HttpError

READ_BYTES: Final = MIB
"""Asked of the log at once; a larger batch comes whole."""

BLOCK_EVENTS: Final = 256
"""Events decoded before other requests get their turn: about a millisecond."""

BLOCK_BYTES: Final = 256 * 1024
"""Values decoded before that, if they are large."""


@dataclass(frozen=True, slots=True)
class Block:
    """A few events in order. `next_offset`: where to read on once they are dealt with."""

    events: list[Event]
    next_offset: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one read of a partition brought; iterate `blocks` once."""

    blocks: Iterator[Block]
    offset: int
    start: int
    end: int


async def read(broker: Broker, hub: str, partition: int, offset: int) -> Stretch:
    """Read from `offset` on; where retention has been faster, from the start of what is left.

    Raises:
        OffsetOutOfRange: beyond the end. UnknownHub, UnknownPartition, Corruption.
    """
    bounds = await broker.bounds(hub, partition)
    if offset > bounds.end:
        raise OffsetOutOfRange(
            f"offset {offset} is beyond the end {bounds.end} of partition {partition}", bounds.start, bounds.end
        )
    if offset >= bounds.stable:  # the end, or a transaction that is not decided
        return Stretch(iter(()), offset, bounds.start, bounds.end)
    offset = max(offset, bounds.start)
    try:
        found = await broker.read(hub, partition, offset, READ_BYTES, committed=True)
    except OffsetOutOfRange as error:  # retention moved the start in between
        offset = max(offset, error.start)
        found = await broker.read(hub, partition, offset, READ_BYTES, committed=True)
    return Stretch(blocks(found.data, offset, hub, partition, found.aborted), offset, found.start, found.end)


def blocks(
    data: bytes | memoryview, offset: int, hub: str = "?", partition: int = -1, aborted: Sequence[Aborted] = ()
) -> Iterator[Block]:
    """Decode whole batches lazily, from `offset` on, without aborted ones. Raises Corruption while iterating."""
    try:
        for position, header in batch.iter_headers(data):
            if header.next_offset <= offset:
                continue
            if not header.attributes & batch.CONTROL and not is_aborted(header, aborted):
                yield from _batch_blocks(data, position, header, offset)
            yield Block([], header.next_offset)
    except (InvalidBatch, MessageTooLarge) as error:
        raise Corruption(str(error), hub=hub, partition=partition) from error


def _batch_blocks(data: bytes | memoryview, position: int, header: BatchHeader, offset: int) -> Iterator[Block]:
    view = memoryview(data)[position : position + header.size]
    skip = offset - header.base_offset
    events: list[Event] = []
    size = 0
    for event in batch.decode(_without_first(view, header, skip) if skip > BLOCK_EVENTS else view):
        if event.offset < offset:
            continue
        events.append(event)
        size += len(event.value or b"")
        if len(events) >= BLOCK_EVENTS or size >= BLOCK_BYTES:
            yield Block(events, event.offset + 1)
            events, size = [], 0
    if events:
        yield Block(events, events[-1].offset + 1)


def _without_first(view: memoryview, header: BatchHeader, skip: int) -> bytes | bytearray | memoryview:
    """The batch without its first `skip` records, at five times the speed of decoding them.

    Only where records and offsets are dense; the records keep their own offset deltas, so the base stays.
    """
    if header.record_count != header.last_offset_delta + 1:
        return view
    section = compression.decompress(header.codec, view[batch.HEADER_BYTES :])
    position = 0
    for _ in range(skip):
        position = _after_record(section, position)
    return batch.assemble(
        memoryview(section)[position:],
        record_count=header.record_count - skip,
        base_timestamp=header.base_timestamp,
        max_timestamp=header.max_timestamp,
        base_offset=header.base_offset,
        attributes=header.attributes & ~batch.CODEC_MASK,
    )


def _after_record(section: bytes | memoryview, position: int) -> int:
    """Position after the record at `position`: its length is a zigzag varint."""
    size = shift = 0
    while position < len(section) and shift <= 28:
        byte = section[position]
        position += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            if size & 1 or position + (size >> 1) > len(section):
                break
            return position + (size >> 1)
        shift += 7
    raise InvalidBatch("record runs past the end of its batch")


def check_place(text: str, name: str) -> None:
    """Raise HttpError 400 unless a text says where to begin, see `place`."""
    if resolve(text, 0, 0) is None and time_ms(text) is None:
        raise HttpError(400, f"{name} must be earliest, latest, N, -N or an RFC 3339 time, not {text[:40]!r}")


async def place(broker: Broker, hub: str, partition: int, text: str) -> int:
    """Offset meant by what `resolve` knows, or by a time: the first event not before it. At most the end."""
    bounds = await broker.bounds(hub, partition)
    moment = time_ms(text)
    if moment is not None:
        found = await broker.offset_at(hub, partition, moment)
        return bounds.end if found is None else found[0]
    wanted = resolve(text, bounds.start, bounds.end)
    return bounds.end if wanted is None else min(wanted, bounds.end)


def resolve(text: str, start: int, end: int) -> int | None:
    """Offset meant by `earliest`, `latest`, `N`, or `-N` (the last N); None when it is none of these."""
    if text == "earliest":
        return start
    if text == "latest":
        return end
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        return None
    return int(digits) if digits == text else max(start, end - int(digits))
