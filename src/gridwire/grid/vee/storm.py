"""Storm mode: where far fewer meters report than usual, silence says something about the grid and is not filled.

A storm of an area begins with the interval whose read rate is more than `storm_drop` below the mean of the days before,
and ends with the one that is within `storm_resume` of it. Late readings raise the rate of their interval, so the end of
a storm is also an end of the silence about it: its intervals are estimated once enough has come.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.vee.config import General


def storms(
    reported: NDArray[np.int32], expected: NDArray[np.int64], general: General, per_day: int, since: int, due: int
) -> NDArray[np.bool_]:
    """Which intervals of which areas lie in a storm.

    Args:
        reported: measured channels. expected: channels of the area. since, due: intervals that count.

    **Shape**: `reported[n, areas]`, `expected[areas]` -> `bool[n, areas]`.
    """
    n = len(reported)
    rate = reported / np.maximum(expected, 1)
    usual = np.zeros((n + 1, rate.shape[1]))  # cumulative; a storm counts as its norm, or it would lower it
    out = np.zeros(rate.shape, bool)
    storm = np.zeros(rate.shape[1], bool)
    large = expected >= general.storm_devices
    since = max(since, 0)
    for at in range(since, min(max(due, 0), n)):
        begin = max(since, at - general.storm_norm_days * per_day)
        norm = (usual[at] - usual[begin]) / max(at - begin, 1)
        if at >= since + per_day:
            falls = rate[at] < (1 - general.storm_drop) * norm
            back = rate[at] >= (1 - general.storm_resume) * norm
            storm = large & np.where(storm, ~back, falls)
            out[at] = storm
        usual[at + 1] = usual[at] + np.where(storm, norm, rate[at])
    return out
