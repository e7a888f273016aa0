"""Weather normalisation: what a unit would have used in a normal year, by change-point regression on daily means.

    mean load of a day = base + weekend * W + heating * max(0, Th - T) + cooling * max(0, T - Tc)

Balance points are searched over a grid for each unit by itself; slopes are not negative. Normal weather is the mean of
each day of the year over the years there are, smoothed over `SMOOTH_DAYS`; days of the year
without any weather are unknown.

**Source**: CalTRACK 2.0 section 3 (daily methods, candidate balance points, slopes not below zero).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.models.calendar import WORKDAY, local
from gridwire.grid.models.package import Arrays, InvalidModel

KIND: Final = "weather_normalisation"
"""Kind of model in the hub."""

HEATING_C: Final = (8.0, 10.0, 12.0, 14.0, 16.0, 18.0)
COOLING_C: Final = (16.0, 18.0, 20.0, 22.0, 24.0)
GAP_C: Final = 2.0
"""Between heating and cooling."""

SMOOTH_DAYS: Final = 15
YEAR_DAYS: Final = 366

_PARTS: Final = ("base_kw", "weekend_kw", "heating_kw_per_c", "cooling_kw_per_c", "heating_c", "cooling_c")
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Daily:
    """Daily means of one level. **Shape**: `day` `int64[d]` local days since the epoch, `weekend` `bool[d]`,
    `load_kw` and `temperature_c` `float64[d, n]`, NaN where a day is not whole."""

    day: NDArray[np.int64]
    weekend: NDArray[np.bool_]
    load_kw: _Floats
    temperature_c: _Floats

    def part(self, begin: int, end: int) -> Daily:
        """Days by position."""
        rows = slice(begin, end)
        return Daily(self.day[rows], self.weekend[rows], self.load_kw[rows], self.temperature_c[rows])


def daily(hours: NDArray[np.int64], load_kw: NDArray[np.float32], temperature_c: _Floats, zone: str) -> Daily:
    """Hours to local days; a day needs 22 hours of load and 18 of temperature."""
    _, kind, day = local(hours, zone)
    days, at = np.unique(day, return_inverse=True)
    weekend = np.zeros(len(days), bool)
    weekend[at] = kind != WORKDAY
    return Daily(days, weekend, _means(load_kw, at, len(days), 22), _means(temperature_c, at, len(days), 18))


def _means(values: NDArray[np.floating], at: NDArray[np.int64], days: int, least: int) -> _Floats:
    known = np.isfinite(values)
    total, count = np.zeros((days, values.shape[1])), np.zeros((days, values.shape[1]))
    np.add.at(total, at, np.where(known, values, 0.0))
    np.add.at(count, at, known)
    return np.where(count >= least, total / np.maximum(count, 1), np.nan)


@dataclass(slots=True)
class NormalModel:
    """A fitted model of one level. **Shape**: `parts` `float64[6, n]` in the order of `_PARTS`; `ids` `[n]`;
    `normal_c` `float64[YEAR_DAYS, n]`, NaN unknown; `r2` `[n]`."""

    ids: tuple[str, ...]
    parts: _Floats
    normal_c: _Floats
    r2: _Floats

    def predict(self, temperature_c: _Floats, weekend: NDArray[np.bool_]) -> _Floats:
        """**Shape** `[d, n]`: mean load of days, NaN without temperature."""
        base, extra, heating, cooling, below, above = self.parts
        warm = np.maximum(0.0, temperature_c - above)
        cold = np.maximum(0.0, below - temperature_c)
        return np.asarray(base + extra * weekend[:, None] + heating * cold + cooling * warm)

    def normalised(self, day: Daily) -> _Floats:
        """**Shape** `[d, n]`: what the load of each day would have been in normal weather of its time of the year."""
        normal = self.normal_c[day_of_year(day.day)]
        effect = self.predict(day.temperature_c, day.weekend) - self.predict(normal, day.weekend)
        return np.asarray(day.load_kw - effect)

    def to_arrays(self, prefix: str) -> Arrays:
        """For the package."""
        return {
            f"{prefix}.ids": np.array([id.encode() for id in self.ids]),
            f"{prefix}.parts": self.parts.astype(np.float32),
            f"{prefix}.normal_c": self.normal_c.astype(np.float32),
            f"{prefix}.r2": self.r2.astype(np.float32),
        }

    @staticmethod
    def from_arrays(arrays: Arrays, prefix: str) -> NormalModel | None:
        """Out of a package; None when it has nothing of this level. Raises InvalidModel."""
        if f"{prefix}.ids" not in arrays:
            return None
        try:
            ids = tuple(bytes(id).decode() for id in arrays[f"{prefix}.ids"].tolist())
            parts, normal, r2 = (arrays[f"{prefix}.{name}"].astype(float) for name in ("parts", "normal_c", "r2"))
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidModel(f"the normalisation of {prefix}s lacks a part: {error}") from None
        n = len(ids)
        if (parts.shape, normal.shape, r2.shape) != ((len(_PARTS), n), (YEAR_DAYS, n), (n,)):
            raise InvalidModel(f"the normalisation of {prefix}s is of another version of gridwire")
        return NormalModel(ids, parts, normal, r2)


def day_of_year(day: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 to 365; the 29th of February is 59 in leap years, and so is the 1st of March in others."""
    dates = day.astype("datetime64[D]")
    found: NDArray[np.int64] = (dates - dates.astype("datetime64[Y]")).astype(np.int64)
    return found


def fit(days: Daily) -> NormalModel:
    """Fit all units; parts of a unit with fewer than 30 whole days are NaN."""
    n = days.load_kw.shape[1]
    best = np.full(n, np.inf)
    parts = np.full((len(_PARTS), n), np.nan)
    known = np.isfinite(days.load_kw) & np.isfinite(days.temperature_c)
    y = np.where(known, days.load_kw, 0.0)
    t = np.where(known, days.temperature_c, 0.0)
    weekend = np.broadcast_to(days.weekend[:, None], y.shape).astype(float)
    enough = known.sum(axis=0) >= 30
    for below, above in product(HEATING_C, COOLING_C):
        if above - below < GAP_C:
            continue
        columns = (np.ones_like(y), weekend, np.maximum(0, below - t), np.maximum(0, t - above))
        x = np.where(known, np.stack(columns), 0.0)
        theta, error = _least_squares(x, y)
        better = enough & (error < best)
        best[better] = error[better]
        parts[:4, better] = theta[:, better]
        parts[4, better], parts[5, better] = below, above
    mean = y.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    total = np.where(known, (y - mean) ** 2, 0.0).sum(axis=0)
    r2 = np.where(enough, 1 - best / np.maximum(total, 1e-9), np.nan)
    return NormalModel((), parts, _normal(days), r2)


def _least_squares(x: _Floats, y: _Floats) -> tuple[_Floats, _Floats]:
    """(theta `[4, n]`, squared error `[n]`) of `x[4, d, n]`, with slopes not below zero: those are left out."""
    gram = np.einsum("fdn,gdn->nfg", x, x) + 1e-6 * np.eye(4)
    moment = np.einsum("fdn,dn->nf", x, y)
    theta = np.linalg.solve(gram, moment[:, :, None])[:, :, 0]
    for _ in range(2):
        negative = (theta < 0) & (np.arange(4) >= 2)
        if not negative.any():
            break
        penalty = np.where(negative, 1e12, 0.0)
        theta = np.linalg.solve(gram + penalty[:, :, None] * np.eye(4), moment[:, :, None])[:, :, 0]
    theta[:, 2:] = np.maximum(theta[:, 2:], 0.0)
    error = (y**2).sum(axis=0) - 2 * (theta * moment).sum(axis=1) + np.einsum("nf,nfg,ng->n", theta, gram, theta)
    return theta.T, error


def _normal(days: Daily) -> _Floats:
    """**Shape** `[YEAR_DAYS, n]`: mean temperature by day of the year, smoothed."""
    at = day_of_year(days.day)
    known = np.isfinite(days.temperature_c)
    total = np.zeros((YEAR_DAYS, days.load_kw.shape[1]))
    count = np.zeros_like(total)
    np.add.at(total, at, np.where(known, days.temperature_c, 0.0))
    np.add.at(count, at, known)
    window = range(-(SMOOTH_DAYS // 2), SMOOTH_DAYS // 2 + 1)
    total = np.sum([np.roll(total, shift, axis=0) for shift in window], axis=0)
    count = np.sum([np.roll(count, shift, axis=0) for shift in window], axis=0)
    return np.where(count >= SMOOTH_DAYS // 2, total / np.maximum(count, 1), np.nan)
