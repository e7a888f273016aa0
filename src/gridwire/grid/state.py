"""What the loads worker knows: every reading of the last days as one matrix, from which every sum is made.

The state is a pure function of the network models in time and of how far each partition of `readings` has been
applied. It does not depend on how the readings were cut into batches or commits, nor on the order in which partitions
took turns, nor on when a model became known:

* a cell keeps the reading with the highest (grade, version, partition), the last in offset order among those (see
  `gridwire.columnar.cells`); sums, counts and maxima are made from the cells, in exact integers;
* cells are of usage points, so they stay when a model places these elsewhere; an interval is summed under the model
  that held when it began;
* the version of a fact is the number of accepted readings of its (unit, interval), repeats included, less one;
* the window moves by whole UTC days with the newest reading. A day is there whole or not at all, so a day's peak is
  never made from a part of it.

Cells are milliwatt-hours. A slot is an interval: `ts_end` divided by the interval; its row is the slot modulo the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar import cells as kernels
from gridwire.core.errors import GridwireError
from gridwire.grid.cell_rows import CellRows
from gridwire.grid.placements import NOWHERE, Timeline, first_difference

DAY_S: Final = 86_400
CHANNELS: Final = 2
"""Import and export."""

TOUCHED_MAX: Final = 10_000
"""Slots remembered for refused readings: three months of quarter hours."""

GENERATION_STEP: Final = 1_000_000
"""Versions of facts start above this for each network model, times its ordinal, so that a newer model's facts win."""


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
    """The units of one kind: what was seen of them, the loads peaks are found in, and their members in each era."""

    def __init__(self, kind: str, count: int, days: int, per_day: int) -> None:
        self.kind = kind
        self.seen = np.zeros((days * per_day, count), np.int32)
        self.changed = np.zeros((days * per_day, count), np.uint8)
        self.loads = np.full((days, count, per_day), kernels.NO_LOAD, np.int64)
        self.place(np.zeros((1, 0), np.int32))

    @property
    def count(self) -> int:
        return self.seen.shape[1]

    def grow(self, count: int) -> None:
        """Room for units that came into the numbering."""
        more = count - self.count
        if more > 0:
            self.seen = np.pad(self.seen, ((0, 0), (0, more)))
            self.changed = np.pad(self.changed, ((0, 0), (0, more)))
            self.loads = np.pad(self.loads, ((0, 0), (0, more), (0, 0)), constant_values=kernels.NO_LOAD)

    def place(self, of_point: NDArray[np.int32]) -> None:
        """Say who is a member where. **Shape** `of_point[eras, points]`."""
        self.of_point = of_point
        self.members = [np.argsort(each, kind="stable").astype(np.int32) for each in of_point]
        sizes = (np.bincount(each - NOWHERE, minlength=self.count + 1) for each in of_point)
        self.starts = [np.cumsum(each, dtype=np.int64) for each in sizes]

    def clear_day(self, place: int, rows: slice) -> None:
        self.seen[rows] = 0
        self.changed[rows] = 0
        self.loads[place] = kernels.NO_LOAD


class LoadState:
    """Readings of the last `days` UTC days. Memory: 8 bytes a usage point, interval and direction, and nothing for what
    was never read; 2 bytes a usage point and interval where readings are repeated.

    Raises:
        UnsupportedInterval: the models' interval does not divide a day.
    """

    def __init__(self, timeline: Timeline, days: int = 2, directory: Path | None = None) -> None:
        interval_s = timeline.interval_s
        if DAY_S % interval_s:
            raise UnsupportedInterval(f"the network's interval_s {interval_s} does not divide a day of {DAY_S} s")
        self.interval_s = interval_s
        self.days = days
        self.per_day = DAY_S // interval_s
        self.newest_day = -1
        self.counts = np.zeros(kernels.OUTCOMES, np.int64)
        self._timeline = timeline
        rows, points = days * self.per_day, _room(len(timeline.numbering.units))
        self._directory = directory
        self._keep_cells(CellRows((rows, CHANNELS, points), directory))
        self._used = np.zeros((rows, CHANNELS), np.uint8)
        self._dirty = np.zeros(rows, np.uint8)
        """Rows whose cells are others than those that were saved last."""
        self._repeats = np.zeros((rows, points), np.uint16)
        self._repeated = np.zeros(rows, np.uint8)
        self._touched: set[int] = set()
        """Slots of readings that the models do not let pass: others may have, and something been told of it."""
        self._transformers = _Groups("transformer", len(timeline.numbering.transformer_ids), days, self.per_day)
        self._feeders = _Groups("feeder", len(timeline.numbering.feeder_ids), days, self.per_day)
        self._eras = range(0)
        """Numbers of the eras that the window has intervals of."""
        self._era_of_row = np.zeros(rows, np.int64)
        """The place of each row's era among those."""
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
            points: each must be somewhere in the model of its slot.
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
                self._cells, self._used, self._dirty, a.seen, b.seen, a.changed, b.changed, a.of_point, b.of_point,
                self._era_of_row, self._repeats, self._repeated,
                slots, points, channels, amounts, ranks, outcomes, self.counts,
                partition, done, self.newest_day, self.days,
            )  # fmt: skip
            if done == len(slots):
                return outcomes
            self.open_day(int(slots[done]) // self.per_day)

    def follow(self, timeline: Timeline) -> None:
        """Go on under other models, in the same numbering; nothing is told of what they change until it is marked.

        What is to be told of the old ones must have been collected.
        """
        since = first_difference(self._timeline.key, timeline.key)
        self._timeline = timeline
        self._make_room()
        self._enter_eras()
        if since is not None:
            for row in self.rows_since(since):
                self._sum_again(row)
                self.mark(row)
            self.forget_changes()

    def rows_since(self, slot: int) -> list[int]:
        """Rows of this slot and later ones that hold a reading, or had one that the models do not let pass."""
        touched = np.zeros(len(self._used), np.bool_)
        touched[[each % len(touched) for each in self._touched if each // self.per_day <= self.newest_day]] = True
        rows = np.flatnonzero(self._used.any(axis=1) | touched)
        return list(rows[self.slot_of_row(rows) >= slot].tolist())

    def amounts_of(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(points, amounts in mWh) of a row, the higher one of both directions."""
        cells = np.maximum(*(self._cells[row, channel] & kernels.AMOUNT_MASK for channel in range(CHANNELS)))
        points = np.flatnonzero(cells)
        return points, cells[points] - 1

    def _make_room(self) -> None:
        numbering = self._timeline.numbering
        self._transformers.grow(len(numbering.transformer_ids))
        self._feeders.grow(len(numbering.feeder_ids))
        before = self._repeats.shape[1]
        if len(numbering.units) <= before:
            return
        points = _room(len(numbering.units))
        rows = len(self._cells)
        cells = self._cells
        self._keep_cells(CellRows((rows, CHANNELS, points), self._directory))
        repeats, self._repeats = self._repeats, np.zeros((rows, points), np.uint16)
        # Only what is in use is copied: the rest takes no memory.
        for row, channel in np.argwhere(self._used).tolist():
            self._cells[row, channel, :before] = cells[row, channel]
        for row in np.flatnonzero(self._repeated).tolist():
            self._repeats[row, :before] = repeats[row]

    def _enter_eras(self) -> None:
        """Have the members of the models that the window has intervals of, and say which row is of which."""
        if self.newest_day < 0:
            return
        first = (self.newest_day - self.days + 1) * self.per_day
        self._eras = self._timeline.eras_between(first, first + self.days * self.per_day - 1)
        numbering, points = self._timeline.numbering, self._repeats.shape[1]
        columns = [numbering.unfolded(self._timeline.eras[number].placement) for number in self._eras]
        for groups, column in ((self._transformers, 0), (self._feeders, 1)):
            of_point = np.full((len(columns), points), NOWHERE, np.int32)
            for at, each in enumerate(columns):
                of_point[at, : len(each[column])] = each[column][:points]
            groups.place(of_point)
        rows = np.arange(len(self._era_of_row), dtype=np.int64)
        self._era_of_row = self._timeline.era_of(self.slot_of_row(rows)) - self._eras.start

    def _sum_again(self, row: int) -> None:
        """Count what was seen of each unit of a row anew. Readings of usage points that are not there now stay: another
        model may have them again."""
        era = int(self._era_of_row[row])
        place, within = divmod(row, self.per_day)
        seen = self._repeats[row].astype(np.int64)
        for channel in np.flatnonzero(self._used[row]):
            seen += self._cells[row, channel] != 0
        points = np.flatnonzero((seen != 0) & (self._transformers.of_point[era] != NOWHERE))
        for groups in (self._transformers, self._feeders):
            found = np.bincount(groups.of_point[era, points], weights=seen[points], minlength=groups.count)
            groups.seen[row] = found
            groups.changed[row] = 0
            groups.loads[place, :, within] = kernels.NO_LOAD

    def touch(self, slots: NDArray[np.int64]) -> None:
        """Remember that there were readings of these slots which the models do not let pass."""
        self._touched.update(np.unique(slots).tolist())
        self._forget_touched()

    def _forget_touched(self) -> None:
        """Of slots before the window, and of those furthest ahead when there are too many."""
        first = (self.newest_day - self.days + 1) * self.per_day
        self._touched = {slot for slot in self._touched if slot >= first}
        if len(self._touched) > TOUCHED_MAX:
            self._touched = set(sorted(self._touched)[:TOUCHED_MAX])

    def collect(self) -> list[Facts]:
        """Facts of every (unit, interval) whose sum changed since the last call."""
        out, self._leaving = self._leaving, []
        changed_rows = np.flatnonzero(self._transformers.changed.any(axis=1) | self._feeders.changed.any(axis=1))
        out += self._collect(changed_rows)
        self._rows_of_cells.use(changed_rows.tolist())
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

    def mark_units(self, slots: NDArray[np.int64], points: NDArray[np.int32]) -> None:
        """Let the next `collect` tell the units that these usage points are in in these slots of the window."""
        rows = slots % len(self._used)
        for groups in (self._transformers, self._feeders):
            of_point = groups.of_point[self._era_of_row[rows], points]
            somewhere = of_point != NOWHERE
            groups.changed[rows[somewhere], of_point[somewhere]] = 1

    def mark_feeders(self, slots: range, feeders: Collection[int]) -> None:
        """Let the next `collect` tell these feeders, where they have readings in these slots of the window."""
        rows = np.arange(slots.start, slots.stop) % len(self._used)
        for feeder in feeders:
            self._feeders.changed[rows, feeder] |= self._feeders.seen[rows, feeder] != 0

    def let_go_of_cells(self) -> None:
        """Forget readings of which nothing will be asked again; what they sum up to stays for `peaks_of`."""
        self._keep_cells(CellRows(self._cells.shape, self._directory))
        self._repeats = np.zeros_like(self._repeats)
        self._used[:], self._repeated[:] = 0, 0

    def peaks_of(self, facts: Facts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Peaks and their slots of facts of the window, as all that is known by now has them. **Shape** `[n]` each."""
        groups = self._transformers if facts.kind == self._transformers.kind else self._feeders
        rows = facts.slots % len(self._used)
        return self._peaks(groups, rows, facts.groups)

    def mark_changed(self, row: int, before: Timeline) -> None:
        """As `mark`; and let units be told that a usage point has left since `before`: nothing may be left of them."""
        self.mark(row)
        slot = int(self.slot_of_row(np.array([row], np.int64))[0])
        for groups, left in zip((self._transformers, self._feeders), self._timeline.left(before, slot), strict=True):
            groups.changed[row, left] = 1

    def slot_of_row(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which interval a row holds, given the newest day."""
        place = rows // self.per_day
        return (self.newest_day - (self.newest_day - place) % self.days) * self.per_day + rows % self.per_day

    def open_day(self, day: int) -> None:
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
        self._forget_touched()
        first = (day - self.days + 1) * self.per_day
        if self._timeline.eras_between(first, first + self.days * self.per_day - 1) != self._eras:
            self._enter_eras()
        elif len(self._eras) > 1:
            rows = np.arange(len(self._era_of_row), dtype=np.int64)
            self._era_of_row = self._timeline.era_of(self.slot_of_row(rows)) - self._eras.start

    def _clear_day(self, place: int) -> None:
        rows = slice(place * self.per_day, (place + 1) * self.per_day)
        for row in range(rows.start, rows.stop):
            for channel in np.flatnonzero(self._used[row]):
                self._cells[row, channel] = 0
            self._rows_of_cells.use([row])
            if self._repeated[row]:
                self._repeats[row] = 0
        self._used[rows] = 0
        self._repeated[rows] = 0
        self._transformers.clear_day(place, rows)
        self._feeders.clear_day(place, rows)

    def _collect(self, rows: NDArray[np.int64]) -> list[Facts]:
        """Facts in the order of time, whichever way the ring of days lies."""
        rows = rows[np.argsort(self.slot_of_row(rows))]
        eras = self._era_of_row[rows]
        found = [
            self._facts(groups, rows[eras == era], era)
            for era in np.unique(eras).tolist()
            for groups in (self._transformers, self._feeders)
        ]
        return [facts for facts in found if len(facts)]

    def _facts(self, groups: _Groups, candidates: NDArray[np.int64], era: int) -> Facts:
        at, group = np.nonzero(groups.changed[candidates])
        rows = candidates[at]
        n = len(rows)
        sums, largest, counts = np.empty((CHANNELS, n), np.int64), np.empty(n, np.int64), np.empty(n, np.int32)
        estimated, estimates = np.empty(n, np.int64), np.empty(n, np.int32)
        kernels.sum_groups(
            self._cells,
            rows,
            group,
            groups.starts[era],
            groups.members[era],
            sums,
            largest,
            counts,
            estimated,
            estimates,
        )
        place, within = rows // self.per_day, rows % self.per_day
        seen = groups.seen[rows, group].astype(np.int64)
        groups.loads[place, group, within] = np.where(seen > 0, sums[0] - sums[1], kernels.NO_LOAD)
        groups.changed[rows, group] = 0
        peaks, peak_slots = self._peaks(groups, rows, group)
        slots = self.slot_of_row(rows)
        generation = self._timeline.eras[self._eras[era]].ordinal
        versions = generation * GENERATION_STEP + seen - 1
        return Facts(
            groups.kind, group, slots, sums[0], sums[1], counts, largest, peaks, peak_slots, versions, estimated,
            estimates,
        )  # fmt: skip

    def _peaks(
        self, groups: _Groups, rows: NDArray[np.int64], group: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The highest load of each unit on the day of each row, and its slot."""
        place, within = rows // self.per_day, rows % self.per_day
        peaks, peak_at = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        kernels.day_peaks(groups.loads, place, group, peaks, peak_at)
        never = peaks == kernels.NO_LOAD
        peaks[never], peak_at[never] = 0, within[never]
        return peaks, self.slot_of_row(rows) - within + peak_at

    def _keep_cells(self, rows: CellRows) -> None:
        self._rows_of_cells, self._cells = rows, rows.array

    def pieces(self) -> dict[str, NDArray[Any]]:
        """Cells in use, by name, as they lie here, where they are large: what a snapshot keeps beside `to_arrays`."""
        return self._named_cells() if self._rows_of_cells.is_large else {}

    def _named_cells(self) -> dict[str, NDArray[Any]]:
        points = len(self._timeline.numbering.units)
        used = np.argwhere(self._used).tolist()
        return {_piece(row, channel): self._cells[row, channel, :points] for row, channel in used}

    def changed_pieces(self) -> set[str]:
        """Names of those that changed since `pieces_are_saved`."""
        return {_piece(row, channel) for row in np.flatnonzero(self._dirty).tolist() for channel in range(CHANNELS)}

    def pieces_are_saved(self) -> None:
        """All pieces are kept as they are now."""
        self._dirty[:] = 0

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What a snapshot keeps: cells in use, if these are no pieces, and what was repeated; the rest follows."""
        points = len(self._timeline.numbering.units)
        repeated = np.flatnonzero(self._repeated)
        row, point = np.nonzero(self._repeats[repeated, :points])
        out: dict[str, NDArray[Any]] = {
            "window": np.array([self.newest_day, self.days, self.per_day], np.int64),
            "counts": self.counts,
            "used": self._used,
            "touched": np.array(sorted(self._touched), np.int64),
            "repeated": np.array([repeated[row], point], np.int64),
            "repeats": self._repeats[repeated[row], point],
        }
        return out if self._rows_of_cells.is_large else out | self._named_cells()

    def from_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `to_arrays` and `pieces` of a state in the same numbering gave, under these models or others.

        Raises:
            ValueError, KeyError: another window, or shapes that do not fit.
        """
        newest, days, per_day = (int(number) for number in arrays["window"])
        if (days, per_day) != (self.days, self.per_day):
            raise ValueError("snapshot of another window")
        self.newest_day = newest
        self.counts[:] = arrays["counts"]
        self._used[:] = arrays["used"]
        self._touched = set(arrays["touched"].tolist())
        row, point = arrays["repeated"]
        self._repeats[row, point] = arrays["repeats"]
        self._repeated[row] = 1
        self._enter_eras()
        for row in self.used_rows():
            for channel in np.flatnonzero(self._used[row]).tolist():
                cells = arrays[_piece(row, channel)]
                self._cells[row, channel, : len(cells)] = cells
            self._sum_again(row)
            self.mark(row)
            self._collect(np.array([row]))
            self._rows_of_cells.use([row])
        self.pieces_are_saved()


def _piece(row: int, channel: int) -> str:
    return f"cells-{row}-{channel}"


def _room(points: int) -> int:
    """Columns for so many usage points, and for those that come later: what is not used takes no memory."""
    return points + points // 16 + 64
