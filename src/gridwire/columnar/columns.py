"""Events as columns: where each event's key and value lie inside one byte buffer.

Nothing is copied until somebody asks for Arrow: an uncompressed segment is read where the operating system mapped it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.core.batch import Event, Headers, headers_at


@dataclass(frozen=True, slots=True)
class EventColumns:
    """n events of one partition.

    **Shape**: every array `[n]`. `starts` index into `data`; a length of -1 is null.

    Args:
        data: `uint8[*]`, the mapped segment or the decompressed batch the spans point into.
        offsets: `int64`. timestamps: `int64`, milliseconds since the epoch.
        header_starts, header_counts: where the record's header list lies in `data` and how many there are.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    key_starts: NDArray[np.int64]
    key_lengths: NDArray[np.int32]
    value_starts: NDArray[np.int64]
    value_lengths: NDArray[np.int32]
    header_starts: NDArray[np.int64]
    header_counts: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets)

    def key(self, row: int) -> bytes | None:
        """Key of one event."""
        return self._bytes(self.key_starts[row], self.key_lengths[row])

    def value(self, row: int) -> bytes | None:
        """Value of one event."""
        return self._bytes(self.value_starts[row], self.value_lengths[row])

    def headers(self, row: int) -> Headers:
        """Headers of one event, in order; names that are not UTF-8 get replacement characters."""
        return self._header_list(row)[0]

    def header_end(self, row: int) -> int:
        """Where in `data` the header list of one event ends, and with it the event."""
        return self._header_list(row)[1]

    def event(self, row: int) -> Event:
        """One event as the slow path sees it."""
        return Event(
            self.value(row), self.key(row), self.headers(row), int(self.timestamps[row]), int(self.offsets[row])
        )

    def events(self) -> Iterator[Event]:
        """All events, one Python object each: for the slow path and for tests."""
        return map(self.event, range(len(self)))

    def slice(self, start: int, stop: int) -> EventColumns:
        """Rows [start, stop) without copying."""
        return self._pick(np.s_[start:stop])

    def take(self, rows: NDArray[Any]) -> EventColumns:
        """Rows by index or boolean mask; the bytes stay where they are."""
        return self._pick(rows)

    def _pick(self, rows: Any) -> EventColumns:
        return EventColumns(
            self.data,
            self.offsets[rows],
            self.timestamps[rows],
            self.key_starts[rows],
            self.key_lengths[rows],
            self.value_starts[rows],
            self.value_lengths[rows],
            self.header_starts[rows],
            self.header_counts[rows],
        )

    def _bytes(self, start: np.int64, length: np.int32) -> bytes | None:
        return None if length < 0 else self.data[start : start + length].tobytes()

    def _header_list(self, row: int) -> tuple[Headers, int]:
        return headers_at(self.data.data, int(self.header_starts[row]), int(self.header_counts[row]))
