"""A data directory with 100 GB of log in it that takes a few hundred megabytes of disk and a few seconds to make.

The batches are real: one event of nearly 64 KB each, right CRCs, dense offsets. The events are zeros, which a sparse
file does not store, and partitions share their sealed segments as hard links; every partition has an active segment of
its own. The indexes are what the hub itself writes when it seals a segment: an entry for each batch, the most there can
be.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from gridwire.core.batch import Event, encode
from gridwire.core.batch import read_header as header_of
from gridwire.log.producers import ProducerTable
from gridwire.log.segment import INDEX_INTERVAL_BYTES, Segment
from gridwire.log.transactions import TransactionTable

SEGMENT_BYTES: Final = 1024**3
"""As large as a hub makes them by itself."""

_OVERHEAD_BYTES: Final = 80
_BASE_OFFSET = struct.Struct(">q")
_START_MS: Final = 1_700_000_000_000


def fill(partitions: list[Path], segments: int, segment_bytes: int = SEGMENT_BYTES) -> int:
    """Put so many sealed segments in front of each partition's empty log; the hub is not running.

    Args:
        partitions: directories of partitions that never had an event.

    Returns:
        The offset the next event of each will have.
    """
    first, *others = partitions
    offset = 0
    for number in range(segments):
        segment = _write(first, offset, segment_bytes, _START_MS + number)
        for other in others:
            for path in (segment.path, segment.meta_path):
                _replace(other / path.name, path)
        offset = segment.next_offset
    for directory in partitions:
        (directory / f"{offset:020d}.log").touch()
    return offset


def _write(directory: Path, base_offset: int, size: int, time_ms: int) -> Segment:
    """A sealed segment from `base_offset` on, sparse, with its sidecar."""
    batch = encode([Event(bytes(INDEX_INTERVAL_BYTES - _OVERHEAD_BYTES), timestamp=time_ms)])
    segment = Segment(directory, base_offset, time_ms)
    head = bytearray(batch[:_OVERHEAD_BYTES])  # all behind it is zero
    with segment.path.open("wb") as file:
        for position in range(0, size - len(batch) + 1, len(batch)):
            _BASE_OFFSET.pack_into(head, 0, segment.next_offset)
            os.pwrite(file.fileno(), head, position)
            _BASE_OFFSET.pack_into(batch, 0, segment.next_offset)
            segment.note(header_of(batch), position)
        file.truncate(segment.size)
    segment.save_meta(ProducerTable().dump(), TransactionTable().dump(), sync=False)
    return segment


def _replace(name: Path, target: Path) -> None:
    name.unlink(missing_ok=True)
    os.link(target, name)


def directories(data: Path, partitions: int) -> list[Path]:
    """Those of the only hub in a data directory that has so many partitions."""
    found = [path for path in (data / "hubs").iterdir() if len(list(path.iterdir())) == partitions]
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} hubs with {partitions} partitions in {data}")
    return sorted(found[0].iterdir(), key=lambda path: int(path.name))
