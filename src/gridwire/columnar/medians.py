"""Kernels over the units of a grid: medians of groups, the energy of days, bands of voltages."""

from __future__ import annotations

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
