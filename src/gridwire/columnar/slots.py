"""Kernel over a matrix of intervals and channels: what arrived, what it was worth, and what was odd about it.

A cell is one int64 as in `gridwire.columnar.cells`. Beside it lies a byte of marks, which only ever gains bits: it
tells what came, not what holds, and does not depend on the order in which repeats came.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.cells import AMOUNT_BITS, AMOUNT_MASK, GRADE_SHIFT, PARTITION_BITS, VERSION_BITS
from gridwire.columnar.machine import kernel

REPEATED: Final = 1
CONFLICT: Final = 2
REPLACED: Final = 4
NEGATIVE: Final = 8
IMPLAUSIBLE: Final = 16
WRONG_LENGTH: Final = 32
WRONG_UNIT: Final = 64
POWER_FAILURE: Final = 128
"""Marks: came again as it was; came again with another value and the same version; a version changed the value; a
reading below zero, beyond what the place can take, of another length, of a type not expected there; without power."""

ONLY_MARKS: Final = -2
"""Amount of a reading that leaves its marks and no value."""


@kernel
def put_readings(
    cells: NDArray[np.int64],
    marks: NDArray[np.uint8],
    dirty: NDArray[np.uint8],
    area_of: NDArray[np.int32],
    reported: NDArray[np.int32],
    slots: NDArray[np.int64],
    channels: NDArray[np.int32],
    amounts: NDArray[np.int64],
    ranks: NDArray[np.int32],
    bits: NDArray[np.uint8],
    partition: int,
    start: int,
    newest_day: int,
    days: int,
) -> int:
    """Put readings `[start, n)` in, in order, up to the first one of a day after `newest_day`.

    **Shape**: `cells`, `marks` `[rows, channels]`, rows = days x slots of a day, as a ring; `dirty[channels]` is set
    where anything came; `reported[rows, areas]` counts cells that are measured, of channels whose `area_of[channels]`
    is not -1; the reading arrays `[n]`. A reading of a day that has left the ring changes nothing.

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
            continue
        row, channel = slot % rows, channels[i]
        dirty[channel] = 1
        found = marks[row, channel] | bits[i]
        if amounts[i] != ONLY_MARKS:
            old = cells[row, channel]
            rank = (np.int64(ranks[i]) << PARTITION_BITS) | partition
            new = (rank << AMOUNT_BITS) | (amounts[i] + 1)
            grade, old_grade = ranks[i] >> VERSION_BITS, old >> GRADE_SHIFT
            if old_grade == 0 and grade != 0 and area_of[channel] >= 0:
                reported[row, area_of[channel]] += 1
            if old_grade != 0 and grade != 0:
                same = (old & AMOUNT_MASK) == (new & AMOUNT_MASK)
                if old >> (AMOUNT_BITS + PARTITION_BITS) == ranks[i]:
                    found |= REPEATED if same else CONFLICT
                elif not same:
                    found |= REPLACED
            if old == 0 or rank >= old >> AMOUNT_BITS:
                cells[row, channel] = new
        marks[row, channel] = found
    return len(slots)
