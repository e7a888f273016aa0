"""Kernels over the units of a grid: medians of groups, the energy of days, bands of voltages."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.machine import kernel


@kernel
def group_medians(
    values: NDArray[np.float32], order: NDArray[np.int32], starts: NDArray[np.int64], least: int
) -> NDArray[np.float32]:
    """Median of each group's values, NaN where fewer than `least` are known.

    Args:
        values: `[n]`, NaN unknown. order: units sorted by group. starts: `[n_groups + 1]`, where groups begin in it.
    """
    groups = len(starts) - 1
    medians = np.full(groups, np.nan, np.float32)
    widest = 1
    for group in range(groups):
        widest = max(widest, starts[group + 1] - starts[group])
    known = np.empty(widest, np.float32)
    for group in range(groups):
        count = 0
        for place in range(starts[group], starts[group + 1]):
            value = values[order[place]]
            if value == value:
                known[count] = value
                count += 1
        if count >= max(least, 1):
            ordered = np.sort(known[:count])
            middle = count // 2
            medians[group] = ordered[middle] if count % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return medians


HIGH: Final = 0
LOW: Final = 1
OPENED: Final = 1
CLOSED: Final = 0
"""Sides of the band, and what a row of `judge_voltages` tells."""


@kernel
def judge_voltages(
    points: NDArray[np.int32],
    slots: NDArray[np.int32],
    phases: NDArray[np.uint8],
    steps: NDArray[np.int16],
    group: NDArray[np.int32],
    last: NDArray[np.int32],
    seen: NDArray[np.uint8],
    worst: NDArray[np.int16],
    extreme: NDArray[np.int16],
    streak: NDArray[np.uint8],
    open: NDArray[np.uint8],
    started: NDArray[np.int32],
    bands: NDArray[np.uint16],
    edges: NDArray[np.int16],
    known: NDArray[np.int32],
    group_open: NDArray[np.int32],
    group_state: NDArray[np.uint8],
    limits: NDArray[np.int64],
    told: NDArray[np.int32],
) -> tuple[int, int]:
    """Put voltages into bands, and open and close alarms of units and groups.

    An interval of a unit is judged when its next one begins, by its highest and lowest phase.

    Args:
        phases: a bit for each. steps: off nominal. edges: of the five bands, then the two a good voltage is within.
        last, seen: `[units]`, slot and phases of the open interval. worst: `[2, units]` of it; extreme: of the alarm.
        streak, open, started: `[2, units]`. bands: `[5, units]`. known, group_open, group_state: `[groups]` and twice
        `[2, groups]`. limits: verdicts in a row to open and to close, members a group's alarm needs.
        told: `[4 n, 4]`, room for rows (0 unit or 1 group, which, 2 x side + OPENED or CLOSED, slot).

    Returns:
        Rows told, and rows that were too late.
    """
    rows, late = 0, 0
    for row in range(len(points)):
        unit, slot, step = points[row], slots[row], steps[row]
        if slot < last[unit] or (slot == last[unit] and seen[unit] & phases[row]):
            late += 1
            continue
        if slot > last[unit]:
            if last[unit] >= 0:
                for side in range(2):
                    value = worst[side, unit]
                    is_open = open[side, unit]
                    if side == HIGH:
                        bad, good = value > edges[2], value <= edges[5]
                    else:
                        bad, good = value < edges[1], value >= edges[4]
                    if not (good if is_open else bad):
                        streak[side, unit] = 0
                    else:
                        if streak[side, unit] == 0 and not is_open:
                            started[side, unit] = last[unit]
                            extreme[side, unit] = value
                        streak[side, unit] = min(streak[side, unit], 254) + 1
                    if bad and (value > extreme[side, unit] if side == HIGH else value < extreme[side, unit]):
                        extreme[side, unit] = value
                    if streak[side, unit] >= limits[1 if is_open else 0]:
                        streak[side, unit] = 0
                        open[side, unit] = 0 if is_open else 1
                        told[rows, 0], told[rows, 1], told[rows, 3] = 0, unit, last[unit]
                        told[rows, 2] = 2 * side + (CLOSED if is_open else OPENED)
                        rows += 1
                        at = group[unit]
                        group_open[side, at] += -1 if is_open else 1
                        count = group_open[side, at]
                        was = group_state[side, at]
                        now = was
                        if not was and count >= limits[2] and 2 * count > known[at]:
                            now = 1
                        elif was and 4 * count <= known[at]:
                            now = 0
                        if now != was:
                            group_state[side, at] = now
                            told[rows, 0], told[rows, 1], told[rows, 3] = 1, at, last[unit]
                            told[rows, 2] = 2 * side + (OPENED if now else CLOSED)
                            rows += 1
            else:
                known[group[unit]] += 1
            last[unit], seen[unit] = slot, 0
            worst[HIGH, unit], worst[LOW, unit] = step, step
        seen[unit] |= phases[row]
        worst[HIGH, unit] = max(worst[HIGH, unit], step)
        worst[LOW, unit] = min(worst[LOW, unit], step)
        band = 0
        while band < 4 and step > edges[band] - (1 if band < 2 else 0):
            band += 1
        bands[band, unit] = min(bands[band, unit], 65534) + 1
    return rows, late


@kernel
def add_energy(
    points: NDArray[np.int32],
    slots: NDArray[np.int32],
    values: NDArray[np.float64],
    last: NDArray[np.int32],
    energy: NDArray[np.float32],
    counts: NDArray[np.uint16],
    first_slot: int,
    per_day: int,
) -> int:
    """Add the energy of intervals to the two open days of each unit; each interval once, in order.

    Args:
        slots: ends of intervals. last: `[units]`, newest slot. energy, counts: `[2, units]`. first_slot: end of the
        first interval of the first of the two days.

    Returns:
        Rows that were late, twice there, or of a later day.
    """
    passed = 0
    for row in range(len(points)):
        unit, slot = points[row], slots[row]
        day = (slot - first_slot) // per_day
        if slot <= last[unit] or day < 0 or day > 1:
            passed += 1
            continue
        last[unit] = slot
        energy[day, unit] += np.float32(values[row])
        counts[day, unit] += 1
    return passed
