"""Segments of the log, mapped read-only and decoded where they lie.

The hub says which bytes are durable; nothing after them is ever interpreted. A map stays valid when retention deletes
its file: columns that point into it keep it alive, and the last of them to go unmaps it. On Windows a mapped file
cannot be deleted, so maps of segments that are no longer read should be let go with `keep`.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gridwire.columnar.decode import EVENTS_PER_CALL_MAX, Bytes, Decoded, as_bytes, decode
from gridwire.core.errors import Corruption, OffsetOutOfRange

MAPS_MAX: Final = 128
"""Maps one reader keeps; each may be a gigabyte of address space, and a process has 65,530 maps on Linux."""


@dataclass(frozen=True, slots=True)
class SegmentSpan:
    """Bytes [start, end) of one segment file; a batch starts at `start`, everything before `end` is durable.

    Args:
        path: the segment file. base_offset: its first offset. start, end: positions in bytes.
    """

    path: str
    base_offset: int
    start: int
    end: int


@dataclass(slots=True)
class _Map:
    """A mapped file and the identity of the file it maps."""

    view: Bytes
    identity: tuple[int, int]


class SegmentReader:
    """Reads segments as columns; keeps a bounded number of them mapped.

    Args:
        maps_max: maps kept, least recently used goes first. check_crc: check the CRC-32C of every batch read.
    """

    def __init__(self, *, maps_max: int = MAPS_MAX, check_crc: bool = False) -> None:
        self._maps: OrderedDict[str, _Map] = OrderedDict()
        self._maps_max = max(maps_max, 1)
        self._check_crc = check_crc

    def read(
        self,
        span: SegmentSpan,
        *,
        from_offset: int,
        hub: str = "?",
        partition: int = -1,
        events_max: int | None = None,
        skip_damaged: bool = False,
        skip_malformed: bool = False,
    ) -> Decoded:
        """Decode one span; go on from the result's `next_position` and `next_offset`.

        Raises:
            Corruption: a batch is damaged, or the file is shorter than what was durable.
            OffsetOutOfRange: retention deleted the segment before it was mapped.
        """
        segment = Path(span.path).name
        view = self._view(span, hub, partition, segment)
        return decode(
            view,
            span.start,
            span.end,
            from_offset=from_offset,
            hub=hub,
            partition=partition,
            segment=segment,
            check_crc=self._check_crc,
            events_max=events_max,
            skip_damaged=skip_damaged,
            skip_malformed=skip_malformed,
        )

    def read_all(
        self,
        spans: Sequence[SegmentSpan],
        *,
        from_offset: int,
        hub: str = "?",
        partition: int = -1,
        events_max: int = EVENTS_PER_CALL_MAX,
        skip_malformed: bool = False,
    ) -> Decoded:
        """Decode consecutive spans of one partition until `events_max`, which one batch may exceed.

        `next_position` is a position in the span the walk ended in. Raises as `read` does, but only when there is
        nothing to hand out first.
        """
        whole = Decoded([], from_offset, spans[0].start if spans else 0)
        left = events_max
        for span in spans:
            try:
                part = self.read(
                    span,
                    from_offset=whole.next_offset,
                    hub=hub,
                    partition=partition,
                    events_max=left,
                    skip_malformed=skip_malformed,
                )
            except (Corruption, OffsetOutOfRange):
                if whole.columns or whole.damaged:
                    return whole
                raise
            damaged = [*whole.damaged, *part.damaged]
            whole = Decoded([*whole.columns, *part.columns], part.next_offset, part.next_position, damaged)
            left -= part.events
            if left <= 0 or part.next_position < span.end:
                return whole
        return whole

    def keep(self, paths: Collection[str]) -> None:
        """Let go of the maps of all other files."""
        for path in [path for path in self._maps if path not in paths]:
            del self._maps[path]

    def close(self) -> None:
        """Let go of all maps; columns handed out stay valid."""
        self._maps.clear()

    @property
    def mapped(self) -> int:
        """Files mapped now."""
        return len(self._maps)

    def _view(self, span: SegmentSpan, hub: str, partition: int, segment: str) -> Bytes:
        """The file's bytes, at least up to the end of the span."""
        known = self._maps.get(span.path)
        identity, size = _identity(span.path)
        if known is None or len(known.view) < span.end or identity not in (None, known.identity):
            if identity is None:
                raise OffsetOutOfRange(
                    f"segment {segment} of hub {hub!r} partition {partition} is gone: retention deleted it; "
                    "ask for the spans again"
                )
            known = _map(span.path)
            self._maps[span.path] = known
        if span.end > len(known.view) or (identity is not None and span.end > size):
            raise Corruption(
                f"file of {min(size, len(known.view))} bytes is shorter than the {span.end} bytes that were durable",
                hub=hub,
                partition=partition,
                segment=segment,
                position=min(size, len(known.view)),
            )
        self._maps.move_to_end(span.path)
        while len(self._maps) > self._maps_max:
            self._maps.popitem(last=False)
        return known.view


def _identity(path: str) -> tuple[tuple[int, int] | None, int]:
    """((device, inode), size) of a file; None instead of the pair when it is gone."""
    try:
        stat = Path(path).stat()
    except FileNotFoundError:
        return None, 0
    return (stat.st_dev, stat.st_ino), stat.st_size


def _map(path: str) -> _Map:
    """Map a whole file; the view keeps the map alive."""
    with Path(path).open("rb") as file:
        stat = os.fstat(file.fileno())
        if stat.st_size == 0:
            return _Map(as_bytes(b""), (stat.st_dev, stat.st_ino))
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Map(as_bytes(mapped), (stat.st_dev, stat.st_ino))
