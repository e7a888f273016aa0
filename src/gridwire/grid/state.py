"""What the loads worker knows: every reading of the last days as one matrix, from which every sum is made.

The state is a pure function of the network model and of how far each partition of `readings` has been applied. It does
not depend on how the readings were cut into batches or commits, nor on the order in which partitions took turns:

* a cell keeps the reading with the highest (grade, version, partition), the last in offset order among those (see
  `gridwire.columnar.cells`); sums, counts and maxima are made from the cells, in exact integers;
* the version of a fact is the number of accepted readings of its (unit, interval), repeats included, less one;
* the window moves by whole UTC days with the newest reading. A day is there whole or not at all, so a day's peak is
  never made from a part of it.

Cells are milliwatt-hours. A slot is an interval: `ts_end` divided by the interval; its row is the slot modulo the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar import cells as kernels
from gridwire.core.errors import GridwireError
from gridwire.grid.network import NetworkIndex

DAY_S: Final = 86_400
CHANNELS: Final = 2
"""Import and export."""

GENERATION_STEP: Final = 1_000_000
"""Versions of facts restart above this for every change of the network model, so that a newer model's facts win."""


class UnsupportedInterval(GridwireError):
    """The network model's interval does not divide a day."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Sums of n (unit, interval) pairs of one kind, `transformer` or `feeder`.

    **Shape**: every array `[n]`. Energy in milliwatt-hours. `peaks` is the highest net energy of an interval of the
    same unit and UTC day so far, `peak_slots` the interval it was in. `counts` are measured readings, `estimates` the
    others; `estimated` is the energy of those, imported and exported.
    """

    kind: str
    groups: NDArray[np.int64]
    slots: NDArray[np.int64]
    imported: NDArray[np.int64]
    exported: NDArray[np.int64]
    counts: NDArray[np.int32]
    largest: NDArray[np.int64]
    peaks: NDArray[np.int64]
    peak_slots: NDArray[np.int64]
    versions: NDArray[np.int64]
    estimated: NDArray[np.int64]
    estimates: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.groups)

    def only(self, chosen: NDArray[np.bool_]) -> Facts:
        """Some of them. **Shape**: `chosen[n]`."""
        columns = (getattr(self, each.name)[chosen] for each in fields(self) if each.name != "kind")
        return Facts(self.kind, *columns)


class _Groups:
    """The units of one kind: their members, what was seen of them, and the loads peaks are found in."""

    def __init__(self, kind: str, group_of_point: NDArray[np.int32], count: int, days: int, per_day: int) -> None:
        self.kind = kind
        self.of_point = np.ascontiguousarray(group_of_point, np.int32)
        self.members = np.argsort(self.of_point, kind="stable").astype(np.int32)
        self.starts = np.zeros(count + 1, np.int64)
        np.cumsum(np.bincount(self.of_point, minlength=count), out=self.starts[1:])
        self.seen = np.zeros((days * per_day, count), np.int32)
        self.changed = np.zeros((days * per_day, count), np.uint8)
        self.loads = np.full((days, count, per_day), kernels.NO_LOAD, np.int64)

    def clear_day(self, place: int, rows: slice) -> None:
        self.seen[rows] = 0
        self.changed[rows] = 0
        self.loads[place] = kernels.NO_LOAD


class LoadState:
    """Readings of the last `days` UTC days of one network. Memory: 8 bytes a usage point, interval and direction, and
    nothing for what was never read.

    Raises:
        UnsupportedInterval: the model's interval does not divide a day.
    """

    def __init__(self, index: NetworkIndex, days: int = 2, generation: int = 0) -> None:
        if DAY_S % index.interval_s:
            raise UnsupportedInterval(f"the network's interval_s {index.interval_s} does not divide a day of {DAY_S} s")
        self.interval_s = index.interval_s
        self.days = days
        self.generation = generation
        self.per_day = DAY_S // index.interval_s
        self.newest_day = -1
        self.counts = np.zeros(kernels.OUTCOMES, np.int64)
        points = len(index.unit_ids)
        self._cells = np.zeros((days * self.per_day, CHANNELS, points), np.int64)
        self._used = np.zeros((days * self.per_day, CHANNELS), np.uint8)
        self._transformers = _Groups(
            "transformer", index.transformer_of_unit, len(index.transformer_ids), days, self.per_day
        )
        self._feeders = _Groups("feeder", index.feeder_of_unit, len(index.feeder_ids), days, self.per_day)
        self._leaving: list[Facts] = []
        self.silent = False
        """While set, nothing is told of days that leave the window: a rebuild repeats what was published before."""

    def apply(
        self,
        partition: int,
        slots: NDArray[np.int64],
        points: NDArray[np.int32],
        channels: NDArray[np.int8],
        amounts: NDArray[np.int64],
        versions: NDArray[np.int16],
        grades: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Apply readings of one partition in offset order.

        Args:
            slots: `ts_end` / interval. channels: 0 import, 1 export. amounts: mWh, 0 to `cells.AMOUNT_MAX`; -1 takes
                an estimate back. grades: None, all are measured.

        Returns:
            `uint8[n]`, what became of each: `cells.NEW`, `REPLACED`, `SAME`, `SUPERSEDED` or `TOO_OLD`.
        """
        outcomes = np.zeros(len(slots), np.uint8)
        done = 0
        a, b = self._transformers, self._feeders
        ranks = kernels.ranks(versions, grades)
        while True:
            done = kernels.apply_readings(
                self._cells, self._used, a.seen, b.seen, a.changed, b.changed, a.of_point, b.of_point,
                slots, points, channels, amounts, ranks, outcomes, self.counts,
                partition, done, self.newest_day, self.days,
            )  # fmt: skip
            if done == len(slots):
                return outcomes
            self._open_day(int(slots[done]) // self.per_day)

    def collect(self) -> list[Facts]:
        """Facts of every (unit, interval) whose sum changed since the last call."""
        out, self._leaving = self._leaving, []
        changed_rows = np.flatnonzero(self._transformers.changed.any(axis=1) | self._feeders.changed.any(axis=1))
        out += self._collect(changed_rows)
        return out

    def forget_changes(self) -> None:
        """Bring the loads up to date without telling: what changed was published before."""
        self.collect()

    def used_rows(self) -> list[int]:
        """Rows that hold a reading."""
        return list(np.flatnonzero(self._used.any(axis=1)).tolist())

    def mark(self, row: int) -> None:
        """Let the next `collect` tell every unit that has a reading in this row."""
        for groups in (self._transformers, self._feeders):
            groups.changed[row] = groups.seen[row] != 0

    def slot_of_row(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which interval a row holds, given the newest day."""
        place = rows // self.per_day
        return (self.newest_day - (self.newest_day - place) % self.days) * self.per_day + rows % self.per_day

    def _open_day(self, day: int) -> None:
        """Move the window on; the days that leave tell what changed in them first."""
        gone = range(max(self.newest_day + 1, day - self.days + 1), day + 1)
        places = [new % self.days for new in gone]
        if self.newest_day >= 0:
            rows = np.concatenate([np.arange(p * self.per_day, (p + 1) * self.per_day) for p in sorted(places)])
            if not self.silent:
                self._leaving += self._collect(rows)
            for place in places:
                self._clear_day(place)
        self.newest_day = day

    def _clear_day(self, place: int) -> None:
        rows = slice(place * self.per_day, (place + 1) * self.per_day)
        for row in range(rows.start, rows.stop):
            for channel in np.flatnonzero(self._used[row]):
                self._cells[row, channel] = 0
        self._used[rows] = 0
        self._transformers.clear_day(place, rows)
        self._feeders.clear_day(place, rows)

    def _collect(self, rows: NDArray[np.int64]) -> list[Facts]:
        """Facts in the order of time, whichever way the ring of days lies."""
        rows = rows[np.argsort(self.slot_of_row(rows))]
        found = [self._facts(groups, rows) for groups in (self._transformers, self._feeders)]
        return [facts for facts in found if len(facts)]

    def _facts(self, groups: _Groups, candidates: NDArray[np.int64]) -> Facts:
        at, group = np.nonzero(groups.changed[candidates])
        rows = candidates[at]
        n = len(rows)
        sums, largest, counts = np.empty((CHANNELS, n), np.int64), np.empty(n, np.int64), np.empty(n, np.int32)
        estimated, estimates = np.empty(n, np.int64), np.empty(n, np.int32)
        kernels.sum_groups(
            self._cells, rows, group, groups.starts, groups.members, sums, largest, counts, estimated, estimates
        )
        place, within = rows // self.per_day, rows % self.per_day
        groups.loads[place, group, within] = sums[0] - sums[1]
        groups.changed[rows, group] = 0
        peaks, peak_at = np.empty(n, np.int64), np.empty(n, np.int64)
        kernels.day_peaks(groups.loads, place, group, peaks, peak_at)
        slots = self.slot_of_row(rows)
        versions = self.generation * GENERATION_STEP + groups.seen[rows, group].astype(np.int64) - 1
        return Facts(
            groups.kind, group, slots, sums[0], sums[1], counts, largest, peaks, slots - within + peak_at, versions,
            estimated, estimates,
        )  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What a snapshot keeps: the cells in use and what was seen; loads and peaks are made anew."""
        out: dict[str, NDArray[Any]] = {
            "window": np.array([self.newest_day, self.days, self.per_day, self.generation], np.int64),
            "counts": self.counts,
            "used": self._used,
            "seen_transformers": self._transformers.seen,
            "seen_feeders": self._feeders.seen,
        }
        for channel in range(CHANNELS):
            out[f"cells_{channel}"] = self._cells[np.flatnonzero(self._used[:, channel]), channel]
        return out

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `to_arrays` of a state of the same network gave.

        Raises:
            ValueError: another window, or shapes that do not fit.
        """
        newest, days, per_day, generation = (int(number) for number in arrays["window"])
        if (days, per_day, generation) != (self.days, self.per_day, self.generation):
            raise ValueError("snapshot of another window")
        self.newest_day = newest
        self.counts[:] = arrays["counts"]
        self._used[:] = arrays["used"]
        self._transformers.seen[:] = arrays["seen_transformers"]
        self._feeders.seen[:] = arrays["seen_feeders"]
        for channel in range(CHANNELS):
            self._cells[np.flatnonzero(self._used[:, channel]), channel] = arrays[f"cells_{channel}"]
        for row in self.used_rows():
            self.mark(row)
        self.forget_changes()
