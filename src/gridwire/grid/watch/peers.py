"""What units have in common: taken out of each one's innovations, so that only its own change is left.

Holidays, seasons and weather that nobody measured move everybody, and the sun moves those with panels most. Two factors
are known of a day: the score of the median unit, and that of the median unit with less load at noon than else. How much
of each a unit follows is learnt. A change of one unit is in neither.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.watch.arrays import arrays_of, take_over

PEERS_MIN: Final = 8
"""Units from which on their median says what all have in common."""

SOLAR_MIN: Final = 5
"""The same for those with panels."""

FACTOR_FADE: Final = 1 - 1 / 60
"""How fast what units have in common is forgotten."""

PRIOR_DAYS: Final = 10.0
"""Days for which it is believed that a unit does as the median unit does."""

_NAMES: Final = ("spread", "factors", "loadings")
_Floats = NDArray[np.float64]


class Peers:
    """State of n units and `targets` numbers of each.

    **Shape**: `spread` `[n, targets]`, mean size of innovations; `factors` `[targets, 2, 2]` and `loadings`
    `[n, targets, 2]`, discounted sums of products.
    """

    def __init__(self, units: int, targets: int) -> None:
        self.spread = np.zeros((units, targets))
        self.factors = np.zeros((targets, 2, 2))
        self.loadings = np.zeros((units, targets, 2))

    def beside(self, innovations: _Floats, profile: _Floats) -> _Floats:
        """What is left of innovations `[n, targets]`. `profile[24, n]`: usual load by hour of the day."""
        rows = np.flatnonzero(np.isfinite(innovations).all(axis=1))
        if len(rows) < PEERS_MIN:
            return innovations
        fresh = self.spread[rows] == 0.0
        size = np.abs(innovations[rows])
        limited = np.where(fresh, size, np.minimum(size, 4.0 * self.spread[rows]))
        self.spread[rows] = np.where(fresh, size, self.spread[rows] + 0.05 * (limited - self.spread[rows]))
        score = np.clip(innovations[rows] / np.maximum(self.spread[rows], 1e-9), -4.0, 4.0)
        factors = np.stack([np.median(score, axis=0), _solar(profile[:, rows], score)])
        found = innovations.copy()
        for target, f in enumerate(factors.T):
            # Without anything learnt a unit follows the median unit as it is.
            prior = np.array([PRIOR_DAYS, 0.0])
            gram = self.factors[target] + PRIOR_DAYS * np.eye(2)
            own = np.linalg.solve(gram, (self.loadings[rows, target] + prior).T).T
            found[rows, target] -= own @ f * self.spread[rows, target]
            self.factors[target] = FACTOR_FADE * self.factors[target] + np.outer(f, f)
            self.loadings[rows, target] = FACTOR_FADE * self.loadings[rows, target] + score[:, target, None] * f
        return found

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return arrays_of(self, _NAMES)

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises ValueError, KeyError: it does not fit."""
        take_over(self, _NAMES, arrays)


def _solar(profile: _Floats, score: _Floats) -> _Floats:
    """**Shape** `[targets]`: score of the median unit with less load at noon than else, 0 if there are too few."""
    with np.errstate(invalid="ignore"):
        solar = profile[10:15].mean(axis=0) < 0.7 * profile.mean(axis=0)
    return np.median(score[solar], axis=0) if solar.sum() >= SOLAR_MIN else np.zeros(score.shape[1])


def without_common(fast: _Floats, slow: _Floats) -> _Floats:
    """Profiles without what changed for everybody: a season moves the peaks of all. **Shape** `[24, n]`."""
    if fast.shape[1] < PEERS_MIN:
        return fast
    size = np.maximum(np.abs(slow).mean(axis=0), 1e-9)
    found: _Floats = fast - np.median((fast - slow) / size, axis=1)[:, None] * size
    return found
