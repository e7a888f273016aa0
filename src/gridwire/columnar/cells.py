"""Kernels over a matrix of measured amounts: put readings in, sum the cells of a group, find the peak of a day.

A cell is one int64, so that "which of two readings counts" is one comparison of integers:

    bit 62  61 60     48 47       38 37                 0
    | grade   | version | partition | amount + 1        |        0 = nothing read yet

A reading wins over the one in its cell when (grade, version, partition) is not smaller. So a measured reading wins over
an estimate whichever comes first. Within a partition, a version and a grade that is the log's own order: the last one
counts. Across partitions it does not depend on which was read first, so the matrix is a function of how far each
partition has been read and of nothing else. An estimate that is taken back has the amount -1: its cell holds nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.machine import kernel

AMOUNT_BITS: Final = 38
AMOUNT_MASK: Final = (1 << AMOUNT_BITS) - 1
AMOUNT_MAX: Final = AMOUNT_MASK - 1
"""Largest amount a cell holds; in milliwatt-hours it is 274,877 kWh, a gigawatt over a quarter of an hour."""

PARTITION_BITS: Final = 10
VERSION_BITS: Final = 13
VERSION_MAX: Final = 2**VERSION_BITS - 1
"""Largest version a cell holds."""

ESTIMATED: Final = 0
DERIVED: Final = 1
MEASURED: Final = 2
TAKEN_BACK: Final = 3
"""Grades: what a reading is worth. A difference of registers is derived. `TAKEN_BACK` is an estimate that holds no
more; in a cell it is an estimate of nothing."""

GRADE_SHIFT: Final = AMOUNT_BITS + PARTITION_BITS + VERSION_BITS
"""Where a cell's grade begins."""

NO_LOAD: Final = -(2**63)
"""Marks an interval nobody has reported."""

REPEATS_MAX: Final = 2**16 - 1
"""Repeats counted of one usage point and interval."""

NEW: Final = 0
REPLACED: Final = 1
SAME: Final = 2
SUPERSEDED: Final = 3
TOO_OLD: Final = 4
OUTCOMES: Final = 5
"""What became of a reading: first in its cell, another amount or no estimate any more, the same amount, a newer version
is there, no cell for it any more. `OUTCOMES` is their number."""


def ranks(versions: NDArray[np.int16], grades: NDArray[np.uint8] | None = None) -> NDArray[np.int32]:
    """Grade and version as one number, which orders them. `grades` None: all are measured."""
    worth = np.int32(MEASURED << VERSION_BITS) if grades is None else grades.astype(np.int32) << VERSION_BITS
    out: NDArray[np.int32] = versions.astype(np.int32) + worth
    return out


@kernel
def apply_readings(
    cells: NDArray[np.int64],
    used: NDArray[np.uint8],
    dirty: NDArray[np.uint8],
    seen_a: NDArray[np.int32],
    seen_b: NDArray[np.int32],
    changed_a: NDArray[np.uint8],
    changed_b: NDArray[np.uint8],
    group_a: NDArray[np.int32],
    group_b: NDArray[np.int32],
    era_of_row: NDArray[np.int64],
    repeats: NDArray[np.uint16],
    repeated: NDArray[np.uint8],
    slots: NDArray[np.int64],
    points: NDArray[np.int32],
    channels: NDArray[np.int8],
    amounts: NDArray[np.int64],
    ranks: NDArray[np.int32],
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
    partition: int,
    start: int,
    newest_day: int,
    days: int,
) -> int:
    """Apply readings `[start, n)` in order, up to the first one of a day after `newest_day`.

    **Shape**: `cells[rows, 2, points]`, `used[rows, 2]`, `dirty[rows]` (set where a cell is written), `seen_*`,
    `changed_*` `[rows, groups]`, rows = days x slots of a day, as a ring; `group_*[eras, points]` for each of the
    models that rows may be of, `era_of_row[rows]`; `repeats[rows, points]` and `repeated[rows]`: how many readings were
    more than the cells in use, and whether there are any; the reading arrays `[n]`; `counts[OUTCOMES]` is added to.
    `ranks`: see `ranks`.

    Returns:
        The number of readings dealt with; when it is below n, that reading opens a new day.
    """
    rows = cells.shape[0]
    per_day = rows // days
    for i in range(start, len(slots)):
        slot = slots[i]
        day = slot // per_day
        if day > newest_day:
            return i
        if day <= newest_day - days:
            outcomes[i] = TOO_OLD
            counts[TOO_OLD] += 1
            continue
        row, point, channel = slot % rows, points[i], channels[i]
        era = era_of_row[row]
        a, b = group_a[era, point], group_b[era, point]
        seen_a[row, a] += 1
        seen_b[row, b] += 1
        old = cells[row, channel, point]
        rank = (np.int64(ranks[i]) << PARTITION_BITS) | partition
        new = (rank << AMOUNT_BITS) | (amounts[i] + 1)
        if old == 0:
            outcome = NEW
        elif rank < old >> AMOUNT_BITS:
            outcome = SUPERSEDED
        elif (old & AMOUNT_MASK) == (new & AMOUNT_MASK) and (old >> GRADE_SHIFT == 0) == (new >> GRADE_SHIFT == 0):
            outcome = SAME
        else:
            outcome = REPLACED
        outcomes[i] = outcome
        counts[outcome] += 1
        kept = old if outcome == SUPERSEDED else new
        again = 1 + (old != 0) - (kept != 0)
        if again:
            repeats[row, point] = min(np.int64(repeats[row, point]) + again, REPEATS_MAX)
            repeated[row] = 1
        if outcome == SUPERSEDED:
            continue
        cells[row, channel, point] = new
        dirty[row] = 1
        if outcome != SAME:
            used[row, channel] = 1
            changed_a[row, a] = 1
            changed_b[row, b] = 1
    return len(slots)


@kernel
def sum_groups(
    cells: NDArray[np.int64],
    rows: NDArray[np.int64],
    groups: NDArray[np.int64],
    starts: NDArray[np.int64],
    members: NDArray[np.int32],
    sums: NDArray[np.int64],
    largest: NDArray[np.int64],
    counts: NDArray[np.int32],
    estimated: NDArray[np.int64],
    estimates: NDArray[np.int32],
) -> None:
    """Sum, largest and number of the cells of k (row, group) pairs, exactly.

    **Shape**: `rows`, `groups`, `largest`, `counts` `[k]`; `sums[2, k]`, one row a channel; `largest` is of channel 0.
    `estimated[k]` is what of both sums is estimated and `estimates[k]` the number of those cells, which `counts` leaves
    out. The points of group g are `members[starts[g]:starts[g + 1]]`.
    """
    for k in range(len(rows)):
        row = rows[k]
        group = groups[k]
        count = 0
        guesses = 0
        guessed = 0
        top = 0
        for channel in range(2):
            total = 0
            for at in range(starts[group], starts[group + 1]):
                cell = cells[row, channel, members[at]]
                amount = cell & AMOUNT_MASK
                if amount != 0:
                    total += amount - 1
                    if cell >> GRADE_SHIFT:
                        count += 1
                    else:
                        guesses += 1
                        guessed += amount - 1
                    if channel == 0 and amount - 1 > top:
                        top = amount - 1
            sums[channel, k] = total
        largest[k] = top
        counts[k] = count
        estimated[k] = guessed
        estimates[k] = guesses


@kernel
def day_peaks(
    loads: NDArray[np.int64],
    days: NDArray[np.int64],
    groups: NDArray[np.int64],
    peaks: NDArray[np.int64],
    places: NDArray[np.int64],
) -> None:
    """Highest load of k (day, group) pairs and the first slot of the day that has it.

    **Shape**: `loads[days, groups, slots of a day]`; the others `[k]`.
    """
    for k in range(len(days)):
        best = loads[days[k], groups[k], 0]
        place = 0
        for at in range(1, loads.shape[2]):
            if loads[days[k], groups[k], at] > best:
                best = loads[days[k], groups[k], at]
                place = at
        peaks[k] = best
        places[k] = place
