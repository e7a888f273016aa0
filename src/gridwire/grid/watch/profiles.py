"""Profiles of workdays, fast against slow: by how many hours the day of a unit has moved.

The hour of the maximum alone says little: of two peaks now this, now that one is a little higher. A profile has moved
when it is much more like its old self moved by some hours than like its old self as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.watch.arrays import arrays_of, take_over
from gridwire.grid.watch.peers import without_common

_FAST, _SLOW = 1 / 5, 1 / 45
"""Weights of a new workday in the two profiles."""

_NAMES: Final = ("fast", "slow", "moved", "workdays")
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moves:
    """**Shape** `[m]`: units whose profile has moved for some days now.

    Args:
        hours: by which it moved. before, now: hours of the peak. peak_kw: its height now. likeness: correlation with
            the old profile moved by `hours`. unmoved: with the old profile as it was.
    """

    rows: NDArray[np.int64]
    hours: NDArray[np.int64]
    before: NDArray[np.int64]
    now: NDArray[np.int64]
    peak_kw: _Floats
    likeness: _Floats
    unmoved: _Floats


class Profiles:
    """State of n units.

    Args:
        learn_days: workdays learnt from before anything is told. hours_least, gain_least: smallest move, and by how
            much more a profile must be like its moved old self. days: workdays in a row it must have moved.
    """

    def __init__(self, units: int, learn_days: int, hours_least: int, gain_least: float, days: int) -> None:
        self.fast, self.slow = np.full((24, units), np.nan), np.full((24, units), np.nan)
        self.moved = np.zeros(units, np.int64)
        self.workdays = np.zeros(units, np.int64)
        self._rules = learn_days, hours_least, gain_least, days

    def learn(self, profile: _Floats, whole: NDArray[np.bool_]) -> Moves:
        """Take a workday `[24, n]` of the units whose day is `whole`; a unit that has moved begins anew from there."""
        learn_days, hours_least, gain_least, days = self._rules
        known = np.isfinite(profile) & whole
        for kept, weight in ((self.fast, _FAST), (self.slow, _SLOW)):
            fresh = known & np.isnan(kept)
            kept[fresh] = profile[fresh]
            kept[known] += weight * (profile[known] - kept[known])
        self.workdays += whole
        ready = np.flatnonzero(whole & np.isfinite(self.slow).all(axis=0) & (self.workdays >= learn_days))
        found = _compared(ready, self.fast[:, ready], self.slow[:, ready], gain_least)
        moved = np.abs(found.hours) >= hours_least
        self.moved[ready] = np.where(moved, self.moved[ready] + 1, 0)
        at = np.flatnonzero(self.moved[ready] == days)
        self.slow[:, ready[at]] = self.fast[:, ready[at]]
        return Moves(*(getattr(found, name)[at] for name in Moves.__slots__))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return arrays_of(self, _NAMES)

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises ValueError, KeyError: it does not fit."""
        take_over(self, _NAMES, arrays)


def _smooth(profile: _Floats) -> _Floats:
    return (np.roll(profile, 1, axis=0) + profile + np.roll(profile, -1, axis=0)) / 3.0


def _compared(rows: NDArray[np.int64], fast: _Floats, slow: _Floats, gain_least: float) -> Moves:
    """By how many hours each profile moved; 0 if no shift makes it `gain_least` more like the old one."""
    slow = _smooth(slow)
    own = without_common(_smooth(fast), slow)
    a, b = own - own.mean(axis=0), slow - slow.mean(axis=0)
    size = np.maximum(np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)), 1e-12)
    lags = np.arange(-11, 13)
    likeness = np.stack([(a * np.roll(b, lag, axis=0)).sum(axis=0) / size for lag in lags])
    best, at = likeness.argmax(axis=0), np.arange(len(rows))
    unmoved = likeness[11]
    hours = np.where(likeness[best, at] - unmoved >= gain_least, lags[best], 0)
    peaks = fast.max(axis=0, initial=-np.inf)
    return Moves(rows, hours, slow.argmax(axis=0), own.argmax(axis=0), peaks, likeness[best, at], unmoved)
