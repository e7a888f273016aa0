"""One segment file and its sparse index.

    00000000000000012345.log             record batches back to back, verbatim
    00000000000000012345.meta            derived: sparse index, producers and transactions as of `size` bytes; rebuilt
                                         from the log if it is missing, damaged or behind
    000...12345-000...23456-7.log        what compaction number 7 kept of the offsets [12345, 23456)

The index has an entry for a batch every `INDEX_INTERVAL_BYTES`: (offset, position, largest timestamp before it), so
one table answers "where is offset o" and "where do timestamps >= t begin".
"""

from __future__ import annotations

import contextlib
import os
from array import array
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Final

import msgspec
from fastcrc import crc32

from gridwire.core.batch import BatchHeader
from gridwire.log import disk

INDEX_INTERVAL_BYTES: Final = 64 * 1024
"""A lookup reads at most this much too much; 24 bytes of memory an entry, 40 MB for 100 GB of log."""

_META_MAGIC: Final = b"GWM2"
_NO_TIME: Final = -(2**62)


class _Meta(msgspec.Struct, array_like=True):
    size: int
    next_offset: int
    max_timestamp: int
    offsets: bytes
    positions: bytes
    times: bytes
    producers: bytes
    transactions: bytes


def covered(path: Path) -> tuple[int, int | None, int]:
    """(base offset, end, compaction) of a segment file by its name; end None and compaction 0 as it was written."""
    base, *rest = path.stem.split("-")
    return (int(base), int(rest[0]), int(rest[1])) if rest else (int(base), None, 0)


def current_files(directory: Path) -> tuple[list[Path], list[Path]]:
    """Segment files in order of offsets, and those that a finished compaction has replaced.

    A compacted file gets its name when it is whole and on disk, so it is right about what it covers.
    """
    files = sorted(directory.glob("*.log"), key=lambda path: -covered(path)[2])
    kept: list[Path] = []
    replaced: list[Path] = []
    ranges: list[tuple[int, int]] = []
    for path in files:
        base, end, _ = covered(path)
        if any(start <= base < stop for start, stop in ranges):
            replaced.append(path)
            continue
        kept.append(path)
        if end is not None:
            ranges.append((base, end))
    return sorted(kept, key=lambda path: covered(path)[0]), replaced


class Segment:
    """A segment: its file, what of it is written and readable, and its index in memory.

    The writer thread appends; any thread reads below `readable`, which only ever grows.
    """

    __slots__ = (
        "_descriptor",
        "_indexed_to",
        "base_offset",
        "checked",
        "created_ms",
        "max_timestamp",
        "next_offset",
        "offsets",
        "path",
        "positions",
        "readable",
        "size",
        "times",
        "written_from",
    )  # fmt: skip

    def __init__(self, directory: Path, base_offset: int, created_ms: int, name: str | None = None) -> None:
        self.path = directory / (name or f"{base_offset:020d}.log")
        self.base_offset = base_offset
        self.next_offset = base_offset
        self.size = 0
        self.readable = 0
        self.max_timestamp = _NO_TIME
        self.created_ms = created_ms
        self._descriptor = -1
        self.written_from = 0
        self.checked = (0, 0)
        self._clear_index()

    def _clear_index(self) -> None:
        self.offsets = array("q")
        self.positions = array("q")
        self.times = array("q")
        self._indexed_to = -INDEX_INTERVAL_BYTES

    @property
    def meta_path(self) -> Path:
        """The derived sidecar file."""
        return self.path.with_suffix(".meta")

    @property
    def descriptor(self) -> int:
        """The open file; opened on first use."""
        if self._descriptor < 0:
            self._descriptor = disk.open_existing(self.path)
        return self._descriptor

    def create(self) -> None:
        """Make the file."""
        self._descriptor = disk.open_file(self.path)

    def close(self) -> None:
        """Close the file, when nobody else can be reading; what is read after it reopens is checked again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self.distrust()

    def distrust(self) -> None:
        """Take nothing on the disk for sound that was not looked at since now."""
        self.written_from, self.checked = self.size, (0, 0)

    def is_known(self, start: int, end: int) -> bool:
        """Whether this process wrote these bytes, or checked them since the file was opened."""
        return start >= self.written_from or (self.checked[0] <= start and end <= self.checked[1])

    def learn(self, start: int, end: int) -> None:
        """Remember that these bytes were found sound: one stretch, that of a reader who goes on."""
        low, high = self.checked
        self.checked = (min(start, low), max(end, high)) if start <= high and end >= low else (start, end)

    def note(self, header: BatchHeader, position: int) -> None:
        """Take a batch that lies (or is about to lie) at `position` into the index."""
        if position - self._indexed_to >= INDEX_INTERVAL_BYTES:
            self._indexed_to = position
            self.positions.append(position)
            self.times.append(self.max_timestamp)
            self.offsets.append(header.base_offset)
        self.max_timestamp = max(self.max_timestamp, header.max_timestamp)
        self.next_offset = header.next_offset
        self.size = position + header.size

    def rewind(self, size: int, next_offset: int, max_timestamp: int) -> None:
        """Forget everything from byte `size` on: the write that carried it failed."""
        while self.positions and self.positions[-1] >= size:
            self.offsets.pop()
            self.positions.pop()
            self.times.pop()
        self._indexed_to = self.positions[-1] if self.positions else -INDEX_INTERVAL_BYTES
        self.size, self.next_offset, self.max_timestamp = size, next_offset, max_timestamp

    def indexed_offset(self, position: int) -> int | None:
        """Base offset of the batch at an indexed position."""
        row = bisect_left(self.positions, position)
        if row < len(self.positions) and self.positions[row] == position:
            return self.offsets[row]
        return self.base_offset if position == 0 else None

    def offset_before(self, position: int) -> int:
        """An offset at or below that of the batch at `position`."""
        row = bisect_right(self.positions, position) - 1
        return self.offsets[row] if row >= 0 else self.base_offset

    def position_before(self, offset: int) -> int:
        """Position of an indexed batch at or before `offset`."""
        row = bisect_right(self.offsets, offset) - 1
        return self.positions[row] if row >= 0 else 0

    def position_before_time(self, timestamp_ms: int) -> int:
        """Position from which the first event at or after `timestamp_ms` is found by going forward."""
        row = bisect_left(self.times, timestamp_ms) - 1
        return self.positions[row] if row >= 0 else 0

    def boundary(self, position: int) -> int:
        """The largest indexed batch start at or before `position`, or the end of what is readable."""
        if position >= self.readable:
            return self.readable
        row = bisect_right(self.positions, position) - 1
        return self.positions[row] if row >= 0 else 0

    def save_meta(self, producers: bytes, transactions: bytes, *, sync: bool) -> None:
        """Write the sidecar as of the present size."""
        body = msgspec.msgpack.encode(
            _Meta(
                self.size,
                self.next_offset,
                self.max_timestamp,
                self.offsets.tobytes(),
                self.positions.tobytes(),
                self.times.tobytes(),
                producers,
                transactions,
            )
        )
        disk.write_atomic(self.meta_path, _META_MAGIC + crc32.iscsi(body).to_bytes(4, "big") + body, sync=sync)

    def saved_tables(self) -> tuple[bytes, bytes] | None:
        """Producers and transactions in the sidecar, if it is whole."""
        meta = self._read_meta()
        return None if meta is None else (meta.producers, meta.transactions)

    def _read_meta(self) -> _Meta | None:
        try:
            data = self.meta_path.read_bytes()
            file_size = self.path.stat().st_size
        except OSError:
            return None
        body = data[8:]
        if data[:4] != _META_MAGIC or crc32.iscsi(body) != int.from_bytes(data[4:8], "big"):
            return None
        meta = msgspec.msgpack.decode(body, type=_Meta)
        return None if meta.size > file_size else meta

    def load_meta(self) -> tuple[bytes, bytes] | None:
        """Take over the sidecar if it is whole and not ahead of the file; returns producers and transactions in it."""
        meta = self._read_meta()
        if meta is None:
            return None
        self._clear_index()
        self.offsets.frombytes(meta.offsets)
        self.positions.frombytes(meta.positions)
        self.times.frombytes(meta.times)
        self._indexed_to = self.positions[-1] if self.positions else -INDEX_INTERVAL_BYTES
        self.size, self.next_offset, self.max_timestamp = meta.size, meta.next_offset, meta.max_timestamp
        return meta.producers, meta.transactions

    def retire(self) -> None:
        """Remove the files while others may be about to read them; maps of them stay valid too.

        The descriptor goes with the last who holds this object: closing it here could hand its number to another file
        under a reader in another thread.
        """
        with contextlib.suppress(OSError):
            _ = self.descriptor
        if os.name == "nt":  # an open file cannot be removed there
            self.close()
        for path in (self.meta_path, self.path):
            path.unlink(missing_ok=True)

    def __del__(self) -> None:
        self.close()
