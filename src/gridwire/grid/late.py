"""Readings that come after their day has left the window of live sums: told as notes, and summed again by another.

A note says where they lie and of which days they are. It is committed with the position of the reader that found them,
so each late reading is in exactly one note; `gridwire.grid.late_worker` makes the facts of those days again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import Output
from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.state import DAY_S

LATE_HUB: Final = hubs.LATE


class LateReadings(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Late readings between two offsets of a partition of `readings`, both included.

    Args:
        first_day: UTC day of the earliest one; a reading that ends at midnight is of the day that begins then.
        before_day: first day of the window. Readings between the offsets that are of earlier days are late, all others
            were in time.
        feeder: of which parts were late, not readings: all of its intervals between the days are to be told again.
        models_before: no reading was late, but the network models of the days are others than these, given by the
            ordinal of the newest: all units are to be told again. -1: not so.
    """

    partition: int
    first_offset: int
    last_offset: int
    first_day: str
    before_day: str
    count: int
    feeder: str = ""
    models_before: int = -1

    @property
    def is_of_readings(self) -> bool:
        """Whether readings were late."""
        return not self.feeder and self.models_before < 0


class LateNotes:
    """Notes, one for each partition, place of the window, and feeder or change of models."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str, str, int], LateReadings] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[LateReadings]:
        return (note for _, note in sorted(self._found.items()))

    def add(self, note: LateReadings) -> None:
        """One more. The window only moves on, so what lies between two notes of one place of it is like them."""
        key = (note.partition, note.before_day, note.feeder, note.models_before)
        before = self._found.get(key)
        self._found[key] = note if before is None else _both(before, note)

    def drain(self, now_ms: int) -> list[Output]:
        """The notes since the last call, as what a commit publishes."""
        events = [Event(msgspec.json.encode(note), None, (), now_ms) for note in self]
        self._found = {}
        return [Output(LATE_HUB, 0, events)] if events else []


def note_of(partition: int, offsets: NDArray[np.int64], days: NDArray[np.int64], window_day: int) -> LateReadings:
    """A note of late readings. `days`: since 1970; `window_day`: the window's first. **Shape**: `[n]`, n > 0."""
    return LateReadings(
        partition=partition, first_offset=int(offsets[0]), last_offset=int(offsets[-1]),
        first_day=day_text(int(days.min())), before_day=day_text(window_day), count=len(offsets),
    )  # fmt: skip


def note_of_part(partition: int, until: int, feeder: str, day: int) -> LateReadings:
    """A note of a late part of a feeder. `until`: offset of the partition's first reading that is not in it."""
    return LateReadings(
        partition=partition, first_offset=max(0, until - 1), last_offset=max(0, until) - 1, first_day=day_text(day),
        before_day=day_text(day + 1), count=1, feeder=feeder,
    )  # fmt: skip


def note_of_models(partition: int, ordinal: int, first_day: int, window_day: int) -> LateReadings:
    """A note of days before the window that other network models hold for than when they were summed."""
    return LateReadings(
        partition=partition, first_offset=0, last_offset=-1, first_day=day_text(first_day),
        before_day=day_text(window_day), count=0, models_before=ordinal,
    )  # fmt: skip


def _both(one: LateReadings, other: LateReadings) -> LateReadings:
    return msgspec.structs.replace(
        one,
        first_offset=min(one.first_offset, other.first_offset),
        last_offset=max(one.last_offset, other.last_offset),
        first_day=min(one.first_day, other.first_day),
        count=one.count + other.count,
    )


def day_text(day: int) -> str:
    """`YYYY-MM-DD` of a day since 1970."""
    return datetime.fromtimestamp(day * DAY_S, UTC).strftime("%Y-%m-%d")


def day_number(text: str) -> int:
    """The day since 1970 of `YYYY-MM-DD`. Raises ValueError."""
    return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) // DAY_S
