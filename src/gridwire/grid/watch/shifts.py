"""Change detection over n series of daily numbers: prewhitened two-sided CUSUM as arrays, a few numbers a series.

    z = innovation / sigma        w = (z - rho z') / sqrt(1 - rho^2)      S+ = max(0, S+ + w - k)      S- likewise

Innovations of daily demand follow each other (weather, holidays), which makes a plain CUSUM cry wolf; rho is learnt.
A single odd day counts for at most `CLIP`: a holiday is no change. When S passes the threshold, the change began when S
left zero. While S is high nothing is learnt, for a change must not become the norm before it is found.

**Source**: Page, "Continuous inspection schemes" (1954); prewhitening as in Lu and Reynolds (1999).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.watch.arrays import arrays_of, take_over

CLIP: Final = 3.0
"""Largest step, in standard deviations."""

_RATE: Final = 1 / 30
"""Weight of a new day in sigma and rho, once a month is known."""

CALM_SHARE: Final = 0.3
"""Share of the threshold above which a series is suspicious, for `SUSPICION_STEPS` at most."""

SUSPICION_STEPS: Final = 14
"""A slow drift is no change: after this many steps it is learnt."""

RHO_MAX: Final = 0.6
"""More than this would hide a change in its own correlation."""

_NAMES: Final = (
    "variance",
    "products",
    "last",
    "count",
    "high",
    "low",
    "high_start",
    "low_start",
    "high_sum",
    "low_sum",
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What crossed the threshold. **Shape** `[m]`.

    Args:
        rows: of the series. starts: number of the step in which each change began. steps: how long it has lasted.
        shifts: mean innovation since then. scores: how many standard errors that is.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    steps: NDArray[np.int64]
    shifts: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)


class Cusum:
    """State of n series.

    Args:
        slack: half of the smallest change worth finding, in standard deviations. threshold: of the sum.
        warm: steps learnt from before anything is told.
    """

    def __init__(self, series: int, slack: float = 0.5, threshold: float = 8.0, warm: int = 28) -> None:
        self.slack, self.threshold, self.warm = slack, threshold, warm
        self.variance = np.zeros(series)
        self.products = np.zeros(series)
        self.last = np.full(series, np.nan)
        self.count = np.zeros(series, np.int64)
        self.high, self.low = np.zeros(series), np.zeros(series)
        self.high_start, self.low_start = np.full(series, -1, np.int64), np.full(series, -1, np.int64)
        self.high_sum, self.low_sum = np.zeros(series), np.zeros(series)

    def step(self, innovations: NDArray[np.float64], number: int) -> Changes:
        """Take one innovation a series, NaN where there is none. `number`: of the step, rising."""
        rows = np.flatnonzero(np.isfinite(innovations))
        x = innovations[rows]
        w = self._whitened(rows, x)
        self._learn(rows, x, number)
        watched = self.count[rows] > self.warm
        w = np.where(watched, w, 0.0)
        for sums, starts, totals, sign in (
            (self.high, self.high_start, self.high_sum, 1.0),
            (self.low, self.low_start, self.low_sum, -1.0),
        ):
            grown = np.maximum(0.0, sums[rows] + sign * w - self.slack)
            idle = grown == 0.0
            starts[rows] = np.where(idle, -1, np.where(starts[rows] < 0, number, starts[rows]))
            totals[rows] = np.where(idle, 0.0, totals[rows] + x)
            sums[rows] = grown
        return self._crossed(number)

    def _whitened(self, rows: NDArray[np.int64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        sigma = np.sqrt(np.maximum(self.variance[rows], 1e-12))
        rho = self.rho[rows]
        before = np.nan_to_num(self.last[rows]) / sigma
        w = (np.clip(x / sigma, -CLIP, CLIP) - rho * np.clip(before, -CLIP, CLIP)) / np.sqrt(1 - rho**2)
        return np.asarray(np.clip(w, -CLIP, CLIP))

    @property
    def rho(self) -> NDArray[np.float64]:
        """**Shape** `[n]`: learnt correlation of one day with the next."""
        found: NDArray[np.float64] = np.clip(self.products / np.maximum(self.variance, 1e-12), 0.0, RHO_MAX)
        return found

    @property
    def sigma(self) -> NDArray[np.float64]:
        """**Shape** `[n]`: learnt standard deviation of innovations."""
        return np.sqrt(self.variance)

    def calm(self, number: int) -> NDArray[np.bool_]:
        """**Shape** `[n]`: whether nothing speaks for a change at present."""
        limit = CALM_SHARE * self.threshold
        started = np.where(self.high > self.low, self.high_start, self.low_start)
        quiet: NDArray[np.bool_] = (np.maximum(self.high, self.low) <= limit) | (number - started >= SUSPICION_STEPS)
        return quiet

    def _learn(self, rows: NDArray[np.int64], x: NDArray[np.float64], number: int) -> None:
        calm = self.calm(number)[rows]
        self.last[rows] = np.where(calm, self.last[rows], x)
        rows, x = rows[calm], x[calm]
        self.count[rows] += 1
        rate = np.maximum(_RATE, 1.0 / self.count[rows])
        settled = self.count[rows] > 7
        square = np.where(settled, np.minimum(x**2, CLIP**2 * self.variance[rows]), x**2)
        before = np.where(np.isfinite(self.last[rows]), self.last[rows], 0.0)
        limit = CLIP**2 * np.maximum(self.variance[rows], 1e-12)
        product = np.where(settled, np.clip(x * before, -limit, limit), x * before)
        self.variance[rows] += rate * (square - self.variance[rows])
        self.products[rows] += rate * (product - self.products[rows])
        self.last[rows] = x

    def _crossed(self, number: int) -> Changes:
        rows = np.flatnonzero((self.high > self.threshold) | (self.low > self.threshold))
        up = self.high[rows] >= self.low[rows]
        starts = np.where(up, self.high_start[rows], self.low_start[rows])
        steps = number - starts + 1
        shifts = np.where(up, self.high_sum[rows], self.low_sum[rows]) / steps
        rho = self.rho[rows]
        error = self.sigma[rows] * np.sqrt((1 + rho) / (1 - rho) / steps)
        self.reset(rows)
        return Changes(rows, starts, steps, shifts, np.abs(shifts) / np.maximum(error, 1e-12))

    def reset(self, rows: NDArray[np.int64]) -> None:
        """Begin anew with some series, but keep what was learnt of their noise."""
        self.high[rows] = self.low[rows] = self.high_sum[rows] = self.low_sum[rows] = 0.0
        self.high_start[rows] = self.low_start[rows] = -1
        self.last[rows] = np.nan

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return arrays_of(self, _NAMES)

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises ValueError, KeyError: it does not fit."""
        take_over(self, _NAMES, arrays)
