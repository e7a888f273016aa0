"""One partition on its way through a function: what waits, what is being worked on, how far it is done.

    buffer -> block -> groups (one, or one per share of the keys) -> pieces, each group in order
                                                                  -> outputs are held until the position may pass them

A block's groups run side by side; the next block begins when all are done. So events of one key stay in order, and the
position is contiguous: everything before it is done or is a dead letter.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from gridwire.broker.port import ColumnBatch, Place
from gridwire.functions.batches import Buffer, Piece
from gridwire.functions.model import Function, Published

LANE_BYTES_MAX = 8 * 1024 * 1024
"""What is read of one partition ahead of the function, if its batches are not larger; above it nothing is read on."""


@dataclass(slots=True)
class Group:
    """Pieces that follow each other."""

    pieces: deque[Piece]
    busy: bool = False
    not_before: float = 0.0


@dataclass(slots=True)
class Lane:
    """See the module. `position`: what may be committed. `read_to`: where the buffer ends."""

    place: Place
    function: Function
    position: int
    read_to: int
    buffer: Buffer = field(default_factory=Buffer)
    groups: list[Group] = field(default_factory=list)
    block_end: int = -1
    block_oldest_ms: int = 0
    waiting_since: float = 0.0
    flushed: Counter[str] = field(default_factory=Counter)
    _held: list[Published] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether enough is read ahead."""
        batching = self.function.batching
        return (
            self.buffer.size_bytes >= max(LANE_BYTES_MAX, batching.bytes_max)
            or self.buffer.events >= 4 * batching.events_max + 65536
        )

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being worked on."""
        return not self.groups and not self.buffer.events

    @property
    def oldest_ms(self) -> int | None:
        """Timestamp of the first event that is not done."""
        if self.groups:
            return self.block_oldest_ms
        return self.buffer.oldest_ms if self.buffer.events else None

    def add(self, batch: ColumnBatch, now: float) -> None:
        """Take what was read; what overlaps the buffer or leaves a gap was read by mistake and is not taken."""
        if not self.buffer.events:
            self.waiting_since = now
        if len(batch.columns):
            self.buffer.add(batch)
        elif self.idle:
            self.position = batch.next_offset
        self.read_to = batch.next_offset

    def next_due(self, now: float) -> float | None:
        """When something can be given to the function: now or before, later, or None when it depends on others."""
        times = [group.not_before for group in self.groups if not group.busy]
        if not self.groups and self.buffer.events:
            times.append(now if self._reason(now) else self.waiting_since + self.function.batching.wait_s)
        return min(times, default=None)

    def next(self, now: float) -> tuple[Group, Piece] | None:
        """The next piece to be worked on, if there is one."""
        if not self.groups and self.buffer.events and (reason := self._reason(now)):
            self.flushed[reason] += 1
            self._begin(now)
        for group in self.groups:
            if not group.busy and group.not_before <= now:
                group.busy = True
                return group, group.pieces[0]
        return None

    def _reason(self, now: float) -> str:
        """Why a batch is given to the function now; empty when it should wait for more."""
        batching = self.function.batching
        if self.buffer.events >= batching.events_max:
            return "size"
        if self.buffer.size_bytes >= batching.bytes_max:
            return "bytes"
        if self.buffer.events >= batching.events_min:
            return "idle"
        return "wait" if now - self.waiting_since >= batching.wait_s else ""

    def _begin(self, now: float) -> None:
        batching, shares = self.function.batching, self.function.parallel
        self.block_oldest_ms = self.buffer.oldest_ms
        block = self.buffer.take(batching.events_max * shares, batching.bytes_max * shares)
        self.block_end = block.next_offset
        pieces = [block] if shares == 1 else _by_key(block, shares)
        self.groups = [Group(deque(_chunks(piece, batching.events_max))) for piece in pieces]
        self.waiting_since = now

    def done(self, group: Group, published: list[Published]) -> list[Published] | None:
        """The group's piece is dealt with.

        Returns:
            Outputs that may be committed now, together with `position`; None when they have to wait for other groups.
        """
        group.busy = False
        piece = group.pieces.popleft()
        self._held += published
        if not group.pieces:
            self.groups = [each for each in self.groups if each is not group]
        if self.function.parallel == 1:
            self.position = piece.next_offset
        elif not self.groups:
            self.position = self.block_end
        else:
            return None
        released, self._held = self._held, []
        return released

    def again(self, group: Group, at: float) -> None:
        """The group's piece is tried again at some time."""
        group.busy = False
        group.not_before = at

    def replace(self, group: Group, *pieces: Piece) -> None:
        """The group's first piece becomes these."""
        group.busy = False
        group.not_before = 0.0
        group.pieces.popleft()
        group.pieces.extendleft(reversed(pieces))


def _by_key(block: Piece, shares: int) -> list[Piece]:
    """A block's events by share of the keys; an event without a key belongs to the first share."""
    found: list[list[np.ndarray]] = []
    for part in block.parts:
        hashes = np.fromiter(
            (zlib.crc32(part.key(row) or b"") % shares for row in range(len(part))), np.int64, len(part)
        )
        found.append([np.flatnonzero(hashes == share) for share in range(shares)])
    pieces = []
    for share in range(shares):
        parts = [part.take(rows[share]) for part, rows in zip(block.parts, found, strict=True) if len(rows[share])]
        if parts:
            pieces.append(Piece(parts, block.next_offset))
    return pieces


def _chunks(piece: Piece, events_max: int) -> list[Piece]:
    """Pieces of at most so many events."""
    chunks = []
    while len(piece) > events_max:
        first, piece = piece.split(events_max)
        chunks.append(first)
        first.whole = piece.whole = True
    return [*chunks, piece]
