"""Walk a segment file batch by batch: what is whole, what is damaged, where the torn tail begins.

Crash model: after SIGKILL the file ends anywhere inside the last group write; after a power cut any byte that was not
synced may be missing or zero. Bytes that were acknowledged are synced, so everything that follows the last whole
batch is unacknowledged and may go. So may a damaged batch and what follows it where all of that was one write: nothing
of a write is acknowledged before all of it is on the disk (`settled`, docs/decisions/0039). A damaged batch before a
later write is no torn tail but damage: it stays where it is, is reported, and only reading that very batch fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gridwire.core.batch import (
    CONTINUES,
    HEADER_BYTES,
    LENGTH_END,
    STORED_EPOCHS,
    BatchHeader,
    crc_matches,
    read_header,
    whole_size,
)
from gridwire.core.errors import GridwireError
from gridwire.core.limits import BATCH_BYTES_MAX
from gridwire.log import disk

_WINDOW_BYTES: Final = 8 * 1024 * 1024
_MAGIC_POSITION: Final = 16


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes `[start, end)` of a segment that are not a whole batch although whole batches follow."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """A whole batch with a matching CRC at `position`."""

    position: int
    header: BatchHeader


def scan(descriptor: int, start: int, next_offset: int) -> Iterator[Found | Damage]:
    """Yield whole batches and damage from byte `start` on; stops where the torn tail begins."""
    position = start
    while True:
        found = _batch_at(descriptor, position, next_offset)
        if found is not None and found.header.base_offset != next_offset:
            found = None  # the base offset lies outside the CRC; offsets are dense, so this one is damaged
        if found is None:
            found = _after(descriptor, position, next_offset) or _next_whole(descriptor, position + 1, next_offset)
            if found is None:
                return
            yield Damage(position, found.position)
        yield found
        position = found.position + found.header.size
        next_offset = found.header.next_offset


def settled(pieces: Iterable[Found | Damage]) -> Iterator[Found | Damage]:
    """What `scan` yields, up to the first damage in the last write: from there on nothing was acknowledged."""
    held: list[Found | Damage] = []
    for piece in pieces:
        if isinstance(piece, Damage) or (held and piece.header.leader_epoch == CONTINUES):
            held.append(piece)
            continue
        yield from held  # a later write follows: what came before it was on the disk
        held = []
        yield piece


def _batch_at(descriptor: int, position: int, next_offset: int) -> Found | None:
    prefix = disk.read_at(descriptor, LENGTH_END, position)
    try:
        size = whole_size(prefix)
        if size is None:
            return None
        data = _read_whole(descriptor, size, position)
        header = read_header(data)
    except GridwireError:
        return None
    if header.base_offset < next_offset or header.leader_epoch not in STORED_EPOCHS or not crc_matches(data, header):
        return None
    return Found(position, header)


def _after(descriptor: int, position: int, next_offset: int) -> Found | None:
    """The batch behind a damaged one whose length is intact: no need to look for it inside what events carry."""
    try:
        size = whole_size(disk.read_at(descriptor, LENGTH_END, position))
    except GridwireError:
        return None
    return None if size is None else _batch_at(descriptor, position + size, next_offset)


def _read_whole(descriptor: int, size: int, position: int) -> bytes:
    """The operating system may answer a large read in parts."""
    data = disk.read_at(descriptor, size, position)
    while len(data) < size:
        more = disk.read_at(descriptor, size - len(data), position + len(data))
        if not more:
            break
        data += more
    return data


def _next_whole(descriptor: int, position: int, next_offset: int) -> Found | None:
    """The first whole batch at or after `position`: found by its format byte, believed by its CRC."""
    while True:
        window = disk.read_at(descriptor, _WINDOW_BYTES, position)
        if len(window) < HEADER_BYTES:
            return None
        at = window.find(b"\x02", _MAGIC_POSITION)
        while at >= 0:
            start = at - _MAGIC_POSITION
            if _plausible(window, start, next_offset):
                found = _batch_at(descriptor, position + start, next_offset)
                if found is not None:
                    return found
            at = window.find(b"\x02", at + 1)
        if len(window) < _WINDOW_BYTES:
            return None
        position += len(window) - HEADER_BYTES


def _plausible(window: bytes, start: int, next_offset: int) -> bool:
    """Cheap look before the CRC is computed: the offset moves on a little, the length is possible."""
    offset = int.from_bytes(window[start : start + 8], "big")
    length = int.from_bytes(window[start + 8 : start + 12], "big")
    return next_offset <= offset < next_offset + 2**31 and HEADER_BYTES - LENGTH_END <= length <= BATCH_BYTES_MAX
