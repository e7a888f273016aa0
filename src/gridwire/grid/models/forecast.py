"""The load forecast: every hour of the next two days of every unit, from one ridge regression a unit.

What is fitted is the difference from the same hour last week (seasonal naive), so that a unit of which little is known
is forecast by just that. Of an hour t = s + h, forecast when s was the last hour known:

    y(t) - y(t-168) ~  1, y(t-168), y(t-336), mean of y(t-168) to y(t-672), y(last day's same hour known at s),
                       level = mean of the day before s less that of the same day a week before,
                       r exp(-h/3), r exp(-h/12)                    r = y(s) - y(s-168)
                       three harmonics of the local hour, for workdays, Saturdays and Sundays each
                       heating and cooling degrees of the day before s, and of the day around t-168

Degrees are those known at s: nothing looks ahead, in training neither. One set of coefficients is fitted with them and
one without, for when a station is silent. All units are solved at once. Quantiles are those of the residuals in hours
the regression has not seen, by horizon and part of the day. A unit whose regression did worse than seasonal naive there
is forecast by seasonal naive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.models.calendar import KINDS, local
from gridwire.grid.models.package import Arrays, InvalidModel

KIND: Final = "load_forecast"
"""Kind of model in the hub."""

HORIZON_H: Final = 48
WEEK_H: Final = 168
WEEKS: Final = 4
HISTORY_H: Final = WEEKS * WEEK_H + 24
"""Hours before the issue that features reach back to."""

LEAST_H: Final = 2 * WEEK_H + 24
"""Hours of history a forecast needs; what is missing of the rest is left out of the mean."""

QUANTILES: Final = (0.1, 0.5, 0.9)
BLOCKS_H: Final = (6, 24, 48)
"""Ends of the horizons that share quantiles."""

DAY_PARTS: Final = 4
"""Parts of the local day that share quantiles, six hours each."""

HEATING_C, COOLING_C = 15.0, 20.0
"""Where degrees of heating and cooling begin: lags carry the rest, so one pair does for all."""

RIDGE: Final = 1e-2
"""Penalty per row, on features scaled by the unit's mean load: small beside a feature that matters."""

_HARMONICS: Final = 3
_LAGS, _DEGREES = 8, 4
_CALENDAR: Final = KINDS * (1 + 2 * _HARMONICS) - 1
FEATURES: Final = _LAGS + _CALENDAR + _DEGREES
"""Coefficients a unit."""

_F = np.float32
Floats = NDArray[np.float32]
_DEGREE_C: Final = 10.0


@dataclass(frozen=True, slots=True)
class History:
    """What is known at issue hour `s` of n units.

    **Shape**: `load_kw` `float32[HISTORY_H, n]`, the last row ends at `issued`; `temperature_c` the same shape, NaN
    where unknown.

    Args:
        issued: end of the last known hour, hours since the epoch.
    """

    issued: int
    load_kw: Floats
    temperature_c: Floats


def calendar_features(hours: NDArray[np.int64], zone: str) -> Floats:
    """**Shape** `[len(hours), _CALENDAR]`: harmonics of the local hour by kind of day, and the kind."""
    hour, kind, _ = local(hours, zone)
    angle = 2 * np.pi * (hour + 0.5)[:, None] / 24 * np.arange(1, _HARMONICS + 1)
    waves = np.concatenate([np.ones((len(hours), 1)), np.cos(angle), np.sin(angle)], axis=1)
    blocks = [np.where((kind == each)[:, None], waves, 0.0) for each in range(KINDS)]
    return np.concatenate(blocks, axis=1)[:, 1:].astype(_F)


def lags(history: History) -> tuple[Floats, Floats, Floats, Floats]:
    """(last week's, the week before's, the mean of the weeks', the last known day's) same hours of the horizon.

    **Shape** `[HORIZON_H, n]`. A missing week is replaced by the other one, a missing day by last week; a unit with
    neither week is NaN.
    """
    y, end = history.load_kw, len(history.load_kw)
    h = np.arange(1, HORIZON_H + 1)
    weeks = np.stack([y[end - 1 + h - each * WEEK_H] for each in range(1, WEEKS + 1)])
    day = y[end - 1 + h - np.where(h <= 24, 24, 48)]
    one = np.where(np.isnan(weeks[0]), weeks[1], weeks[0])
    two = np.where(np.isnan(weeks[1]), one, weeks[1])
    known = np.isfinite(weeks)
    total = np.where(known, weeks, 0).sum(axis=0)
    mean = np.where(np.isnan(one), np.nan, total / np.maximum(known.sum(axis=0), 1)).astype(_F)
    return one, two, mean, np.where(np.isnan(day), one, day)


def features(history: History, scale: Floats, zone: str) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """(X, base, weather): `float32[n, HORIZON_H, FEATURES]`, last week's loads over scale `[n, HORIZON_H]`, and which
    units have all their temperatures `[n]`. X of a unit is NaN where lags are, degrees are 0 without temperatures."""
    n = history.load_kw.shape[1]
    one, two, mean, day = (lag / scale for lag in lags(history))
    y = history.load_kw
    level = _mean(y[-24:]) - _mean(y[-24 - WEEK_H : -WEEK_H])
    recent = y[-1] - y[-1 - WEEK_H]
    level, recent = (np.nan_to_num(each / scale, nan=0.0) for each in (level, recent))
    h = np.arange(1, HORIZON_H + 1, dtype=_F)[:, None]
    x = np.empty((HORIZON_H, n, FEATURES), _F)
    x[:, :, 0] = 1.0
    x[:, :, 1], x[:, :, 2], x[:, :, 3], x[:, :, 4] = one, two, mean, day
    x[:, :, 5] = level
    x[:, :, 6], x[:, :, 7] = recent * np.exp(-h / 3), recent * np.exp(-h / 12)
    x[:, :, _LAGS : _LAGS + _CALENDAR] = calendar_features(history.issued + np.arange(1, HORIZON_H + 1), zone)[:, None]
    degrees = _degrees(history)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(degrees).all(axis=(0, 2)))
    x[:, :, -_DEGREES:] = np.where(known[None, :, None], degrees, 0.0)
    return x.transpose(1, 0, 2), one.T.astype(_F), known


def _mean(values: Floats) -> Floats:
    """Mean over the hours known, of units of which half are; NaN else."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0, dtype=np.float64)
    return np.where(2 * count >= len(values), total / np.maximum(count, 1), np.nan).astype(_F)


def _degrees(history: History) -> Floats:
    """**Shape** `[HORIZON_H, n, 4]`, in tens of degrees."""
    t, end = history.temperature_c, len(history.temperature_c)
    now = _mean(t[-24:])
    known = np.isfinite(t)
    total = np.vstack([np.zeros((1, t.shape[1])), np.cumsum(np.where(known, t, 0.0), axis=0)])
    count = np.vstack([np.zeros((1, t.shape[1]), np.int64), np.cumsum(known, axis=0)])
    middle = end - 1 + np.arange(1, HORIZON_H + 1) - WEEK_H
    first, last = middle - 11, middle + 13
    counted = count[last] - count[first]
    then = np.where(counted >= 12, (total[last] - total[first]) / np.maximum(counted, 1), np.nan)
    whole = np.broadcast_to(now, then.shape)
    found = [whole - COOLING_C, HEATING_C - whole, then - COOLING_C, HEATING_C - then]
    return np.stack([np.maximum(each, 0.0) for each in found], axis=2).astype(_F) / _F(_DEGREE_C)


@dataclass(slots=True)
class ForecastModel:
    """A fitted model of one level.

    **Shape**: `ids` `[n]`; `scale` `float32[n]`; `coefficients` `float32[2, n, FEATURES]`, without weather and with;
    `naive` `bool[n]`; `quantiles` `float32[n, blocks, DAY_PARTS, 3]`, of residuals in scale.
    """

    ids: tuple[str, ...]
    scale: Floats
    coefficients: Floats
    naive: NDArray[np.bool_]
    quantiles: Floats
    zone: str

    def points(self, history: History) -> tuple[Floats, NDArray[np.bool_]]:
        """(forecasts without their residuals' median `[n, HORIZON_H]` in kW, which units used weather `[n]`)."""
        x, base, weather = features(history, self.scale, self.zone)
        weather = weather & self.coefficients[1, :, -_DEGREES:].any(axis=1)
        chosen = np.where(weather[:, None], self.coefficients[1], self.coefficients[0])
        change = np.einsum("nhf,nf->nh", x, chosen)
        change = np.where(self.naive[:, None], 0.0, change)
        return ((base + change) * self.scale[:, None]).astype(_F), weather

    def forecast(self, history: History) -> tuple[Floats, NDArray[np.bool_]]:
        """(`float32[n, HORIZON_H, 3]` p10, p50 and p90 in kW, NaN without lags; which units used weather `[n]`)."""
        points, weather = self.points(history)
        spread = self.spread(history.issued)
        return points[:, :, None] + spread * self.scale[:, None, None], weather

    def spread(self, issued: int) -> Floats:
        """**Shape** `[n, HORIZON_H, 3]`: quantiles of the residuals of each horizon, in scale."""
        block, part = buckets(issued, self.zone)
        return self.quantiles[:, block, part]

    def to_arrays(self, prefix: str) -> Arrays:
        """For the package."""
        return {
            f"{prefix}.ids": np.array([id.encode() for id in self.ids]),
            f"{prefix}.scale": self.scale,
            f"{prefix}.coefficients": self.coefficients,
            f"{prefix}.naive": self.naive,
            f"{prefix}.quantiles": self.quantiles,
        }

    @staticmethod
    def from_arrays(arrays: Arrays, prefix: str, zone: str) -> ForecastModel | None:
        """Out of a package; None when it has nothing of this level. Raises InvalidModel."""
        if f"{prefix}.ids" not in arrays:
            return None
        try:
            ids = tuple(bytes(id).decode() for id in arrays[f"{prefix}.ids"].tolist())
            parts = [arrays[f"{prefix}.{name}"] for name in ("scale", "coefficients", "naive", "quantiles")]
        except (KeyError, UnicodeDecodeError, TypeError) as error:
            raise InvalidModel(f"the forecast model of {prefix}s lacks a part: {error}") from None
        n = len(ids)
        shapes = [(n,), (2, n, FEATURES), (n,), (n, len(BLOCKS_H), DAY_PARTS, len(QUANTILES))]
        if [part.shape for part in parts] != shapes or any(part.dtype.kind not in "fb" for part in parts):
            raise InvalidModel(
                f"the forecast model of {prefix}s has {FEATURES} features in another version of gridwire"
            )
        scale, coefficients, naive, quantiles = parts
        return ForecastModel(
            ids, scale.astype(_F), coefficients.astype(_F), naive.astype(bool), quantiles.astype(_F), zone
        )


def buckets(issued: int, zone: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(block of the horizon, part of the day) of each hour of a forecast; which quantiles it has."""
    hour, _, _ = local(issued + np.arange(1, HORIZON_H + 1), zone)
    block = np.searchsorted(BLOCKS_H, np.arange(1, HORIZON_H + 1))
    return block, hour * DAY_PARTS // 24


# -- fitting ------------------------------------------------------------------------------------------------------


class Sample:
    """Histories and outcomes of one level at many issue hours.

    **Shape** `load_kw`, `temperature_c` `float32[n_hours, n_units]`. `first_hour`: end of row 0.
    """

    def __init__(self, first_hour: int, load_kw: Floats, temperature_c: Floats, zone: str) -> None:
        self.first_hour, self.load_kw, self.temperature_c, self.zone = first_hour, load_kw, temperature_c, zone

    def history(self, row: int) -> History:
        """What was known when `row` was the last hour known."""
        rows = slice(max(0, row + 1 - HISTORY_H), row + 1)
        missing = ((max(0, HISTORY_H - row - 1), 0), (0, 0))
        known = (np.pad(each[rows], missing, constant_values=np.nan) for each in (self.load_kw, self.temperature_c))
        return History(self.first_hour + row, *known)

    def outcome(self, row: int) -> Floats:
        """**Shape** `[n, HORIZON_H]`: what came; NaN beyond the end."""
        found = self.load_kw[row + 1 : row + 1 + HORIZON_H]
        missing = HORIZON_H - len(found)
        return np.pad(found, ((0, missing), (0, 0)), constant_values=np.nan).T

    def issues(self, begin: int, end: int, step: int) -> range:
        """Rows at which forecasts are issued whose hours all lie in `[begin, end)`."""
        return range(max(begin - 1, LEAST_H - 1), end - HORIZON_H, step)


def fit(sample: Sample, begin: int, end: int, step: int = 13) -> ForecastModel:
    """Fit to the hours `[begin, end)`; quantiles are 0 and no unit is naive until `calibrate`.

    Args:
        step: hours from one issue to the next; one that has no factor in common with 24 meets every hour of the day.
    """
    n = sample.load_kw.shape[1]
    scale = _scale(sample.load_kw[begin:end])
    gram = np.zeros((n, FEATURES, FEATURES))
    moment = np.zeros((n, FEATURES))
    rows = np.zeros(n)
    with_weather = np.zeros(n)
    for row in sample.issues(begin, end, step):
        x, base, weather = features(sample.history(row), scale, sample.zone)
        target = sample.outcome(row) / scale[:, None] - base
        good = np.isfinite(target) & np.isfinite(x).all(axis=2)
        x = np.where(good[:, :, None], x, _F(0))
        target = np.where(good, target, _F(0))
        gram += np.matmul(x.transpose(0, 2, 1), x)
        moment += np.einsum("nhf,nh->nf", x, target)
        rows += good.sum(axis=1)
        with_weather += weather * good.sum(axis=1)
    coefficients = _solve(gram, moment, rows, with_weather)
    quantiles = np.zeros((n, len(BLOCKS_H), DAY_PARTS, len(QUANTILES)), _F)
    return ForecastModel((), scale, coefficients, np.zeros(n, bool), quantiles, sample.zone)


def _scale(load_kw: Floats) -> Floats:
    known = np.isfinite(load_kw)
    mean = np.where(known, np.abs(load_kw), 0).sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)
    return np.asarray(np.maximum(mean, 1e-6), _F)


def _solve(
    gram: NDArray[np.float64], moment: NDArray[np.float64], rows: NDArray[np.float64], weather: NDArray[np.float64]
) -> Floats:
    penalty = np.maximum(RIDGE * rows, 1e-6)[:, None] * np.ones(FEATURES)
    penalty[:, 0] *= 0.01
    found = np.zeros((2, len(rows), FEATURES))
    own = FEATURES - _DEGREES
    eye = np.eye(FEATURES)
    plain = gram[:, :own, :own] + penalty[:, :own, None] * eye[:own, :own]
    found[0, :, :own] = np.linalg.solve(plain, moment[:, :own, None])[:, :, 0]
    found[1] = np.linalg.solve(gram + penalty[:, :, None] * eye, moment[:, :, None])[:, :, 0]
    found[1, weather < 0.5 * rows] = 0.0  # too little weather to say what it does
    return found.astype(_F)


def residuals(model: ForecastModel, sample: Sample, issues: Sequence[int]) -> Iterator[tuple[int, Floats, Floats]]:
    """(issued hour, residuals of the model, residuals of seasonal naive), both `[n, HORIZON_H]` in scale."""
    scale = model.scale[:, None]
    for row in issues:
        history = sample.history(row)
        outcome = sample.outcome(row)
        points, _ = model.points(history)
        naive = lags(history)[0].T
        yield history.issued, (outcome - points) / scale, (outcome - naive) / scale


def calibrate(model: ForecastModel, sample: Sample, begin: int, end: int, step: int = 7) -> ForecastModel:
    """Quantiles, and which units are forecast by seasonal naive, from the hours `[begin, end)` it was not fitted to."""
    n = len(model.scale)
    own: dict[tuple[int, int], list[Floats]] = {}
    naive: dict[tuple[int, int], list[Floats]] = {}
    errors, naive_errors = np.zeros(n), np.zeros(n)
    for issued, found, plain in residuals(model, sample, sample.issues(begin, end, step)):
        both = np.isfinite(found) & np.isfinite(plain)
        errors += np.where(both, np.abs(found), 0).sum(axis=1)
        naive_errors += np.where(both, np.abs(plain), 0).sum(axis=1)
        block, part = buckets(issued, model.zone)
        for bucket in set(zip(block.tolist(), part.tolist(), strict=True)):
            columns = (block == bucket[0]) & (part == bucket[1])
            own.setdefault(bucket, []).append(found[:, columns])
            naive.setdefault(bucket, []).append(plain[:, columns])
    worse = errors >= naive_errors
    quantiles = np.zeros_like(model.quantiles)
    for (block_, part_), pieces in own.items():
        taken = np.where(worse[:, None], np.hstack(naive[block_, part_]), np.hstack(pieces))
        quantiles[:, block_, part_] = _quantiles(taken)
    return ForecastModel(model.ids, model.scale, model.coefficients, worse, quantiles, model.zone)


def _quantiles(values: Floats) -> Floats:
    """**Shape** `[n, len(QUANTILES)]`; 0 where nothing is known."""
    known = np.isfinite(values).any(axis=1)
    found = np.zeros((len(values), len(QUANTILES)), _F)
    if known.any():
        found[known] = np.nanquantile(values[known], QUANTILES, axis=1).T
    return found
