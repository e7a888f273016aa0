"""How probable the failure of a transformer is within the next weeks, learnt from failures a utility has had.

    facts of an hour (`grid.health`) -> days of a transformer -> what a week says (`FEATURES`) -> logistic regression

A discrete-time hazard: every day of every transformer is one row; its label is whether the transformer failed within
`HORIZON_DAYS` after it. Days whose horizon lies beyond the end of the data have no label, unless a failure gave them
one; days after a failure, until all of the week is of the new transformer, say nothing and are left out. The same
functions make the week of the training and of the stream.

Rare events are few however many transformers there are: all positive rows are kept, others are sampled and weighted.

Source: discrete-time hazards by logistic regression, P. D. Allison, "Discrete-time methods for the analysis of event
histories", Sociological Methodology 13, 1982.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.models.package import Arrays, InvalidModel

KIND: Final = "transformer_health"
"""Kind of model in the hub."""

HORIZON_DAYS: Final = 30
WINDOW_DAYS: Final = 7
HOURS_MIN: Final = 18
"""Facts a day needs."""

DAYS_MIN: Final = 4
"""Whole days a week needs."""

FAILURES_MIN: Final = 10
"""Failures from which something can be learnt."""

FOLDS: Final = 5
ROWS_MAX: Final = 400_000
"""Rows without a failure that are learnt from."""

RIDGE: Final = 1.0
STEPS_MAX: Final = 50
_CLIP: Final = 6.0

DAILY: Final = ("hours", "load", "hot_spot_c", "ageing", "sign", "risk", "wear")
"""What a day is: facts, largest load factor, hottest spot, then sums over the hours of ageing factor, of a sign of
failure that stood and of the hand-made risk, and hours of life lost per hour watched, as of the day's end."""

FEATURES: Final = ("load", "hot_spot_c", "ageing", "sign", "risk", "wear")
"""What a week says: largest load factor, hottest spot, log10 of the mean ageing factor, share of hours with a sign,
mean risk, log10 of the wear."""

_Floats = NDArray[np.float64]
_LEAST: Final = 1e-4


def week(days: _Floats) -> _Floats:
    """What the last days say. **Shape** `days` `[len(DAILY), d, n]`, `d` up to `WINDOW_DAYS`; result
    `[len(FEATURES), n]`, NaN where fewer than `DAYS_MIN` of them are whole."""
    hours, load, hot, ageing, sign, risk, wear = days
    whole = hours >= HOURS_MIN
    enough = whole.sum(axis=0) >= DAYS_MIN
    total = np.maximum(np.where(whole, hours, 0.0).sum(axis=0), 1.0)

    def mean(sums: _Floats) -> _Floats:
        return np.asarray(np.where(whole, sums, 0.0).sum(axis=0) / total)

    def most(values: _Floats) -> _Floats:
        return np.asarray(np.where(whole, values, -np.inf).max(axis=0))

    found = np.stack([
        most(load), most(hot), np.log10(mean(ageing) + _LEAST), mean(sign), mean(risk),
        np.log10(np.maximum(most(wear), 0.0) + _LEAST),
    ])  # fmt: skip
    return np.where(enough, found, np.nan)


@dataclass(frozen=True, slots=True)
class HealthDays:
    """The past of all transformers. **Shape**: `days` `float64[len(DAILY), n_days, n]`, zeros where nothing was told;
    `failed` `int64[k, 2]`: (position of the transformer, day since `first_day`).

    Args:
        first_day: of row 0, days since the epoch, UTC.
    """

    ids: tuple[str, ...]
    first_day: int
    days: _Floats
    failed: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """**Shape**: `x` `float64[m, len(FEATURES)]`, `y` `bool[m]`, `unit`, `day` `int64[m]`, `weight` `float64[m]`."""

    x: _Floats
    y: NDArray[np.bool_]
    unit: NDArray[np.int64]
    day: NDArray[np.int64]
    weight: _Floats

    def chosen(self, which: NDArray[Any]) -> Rows:
        """Some of them."""
        return Rows(self.x[which], self.y[which], self.unit[which], self.day[which], self.weight[which])


def rows_of(past: HealthDays, seed: int = 0) -> Rows:
    """Days with a label."""
    _, count, n = past.days.shape
    parts: list[Rows] = []
    for day in range(count):
        found = week(past.days[:, max(0, day + 1 - WINDOW_DAYS) : day + 1])
        label, known = _labels(past, day, count, n)
        units = np.flatnonzero(known & np.isfinite(found).all(axis=0))
        parts.append(Rows(found[:, units].T, label[units], units, np.full(len(units), day), np.ones(len(units))))
    if not parts:
        return Rows(np.zeros((0, len(FEATURES))), *(np.zeros(0, kind) for kind in (bool, np.int64, np.int64, float)))
    together = Rows(
        np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]),
        np.concatenate([part.unit for part in parts]), np.concatenate([part.day for part in parts]),
        np.concatenate([part.weight for part in parts]),
    )  # fmt: skip
    return _sampled(together, seed)


def _labels(past: HealthDays, day: int, count: int, n: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(whether each fails within the horizon, whether that is known and the week is of one transformer)."""
    label = np.zeros(n, np.bool_)
    known = np.full(n, day + HORIZON_DAYS < count)
    unit, failed = past.failed.T if len(past.failed) else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    soon = unit[(failed > day) & (failed <= day + HORIZON_DAYS)]
    label[soon] = known[soon] = True
    known[unit[(failed <= day) & (failed > day - WINDOW_DAYS)]] = False
    return label, known


def _sampled(rows: Rows, seed: int) -> Rows:
    quiet = np.flatnonzero(~rows.y)
    if len(quiet) <= ROWS_MAX:
        return rows
    kept = np.sort(np.random.default_rng(seed).choice(quiet, ROWS_MAX, replace=False))
    rows.weight[kept] = len(quiet) / ROWS_MAX
    return rows.chosen(np.sort(np.concatenate([kept, np.flatnonzero(rows.y)])))


@dataclass(frozen=True, slots=True)
class HazardModel:
    """One regression for all transformers.

    **Shape**: `middle`, `scale` `float64[len(FEATURES)]`; `coefficients` `float64[len(FEATURES) + 1]`, the last one is
    the intercept.

    Args:
        alert: probability from which a transformer is worth a visit: where the back-test's F1 was best.
    """

    middle: _Floats
    scale: _Floats
    coefficients: _Floats
    alert: float = 0.5

    def parts(self, features: _Floats) -> _Floats:
        """Log odds of each feature beside those of a usual transformer. **Shape** `[len(FEATURES), n]`, both."""
        scaled = np.clip((features - self.middle[:, None]) / self.scale[:, None], -_CLIP, _CLIP)
        return np.asarray(scaled * self.coefficients[:-1, None])

    def probability(self, features: _Floats) -> _Floats:
        """Of failing within the horizon. **Shape** `[n]`, NaN where a week is not known."""
        return np.asarray(1.0 / (1.0 + np.exp(-(self.parts(features).sum(axis=0) + self.coefficients[-1]))))

    def to_arrays(self) -> Arrays:
        """For the package."""
        return {
            "middle": self.middle, "scale": self.scale, "coefficients": self.coefficients,
            "alert": np.array([self.alert]), "features": np.array([name.encode() for name in FEATURES]),
        }  # fmt: skip

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> HazardModel:
        """Out of a package. Raises InvalidModel."""
        try:
            names = tuple(bytes(name).decode() for name in arrays["features"].tolist())
            middle, scale, coefficients, alert = (
                arrays[name].astype(float) for name in ("middle", "scale", "coefficients", "alert")
            )
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidModel(f"the model of failures lacks a part: {error}") from None
        shapes = (middle.shape, scale.shape, coefficients.shape, alert.shape)
        n = len(FEATURES)
        if names != FEATURES or shapes != ((n,), (n,), (n + 1,), (1,)):
            raise InvalidModel("the model of failures is of another version of gridwire")
        if not all(np.isfinite(each).all() for each in (middle, scale, coefficients, alert)) or (scale <= 0).any():
            raise InvalidModel("the model of failures has numbers that are none")
        return HazardModel(middle, scale, coefficients, float(alert[0]))


def fit(rows: Rows) -> HazardModel:
    """Ridge regression by Newton's method. The intercept is not shrunk."""
    total = rows.weight.sum()
    middle = (rows.x * rows.weight[:, None]).sum(axis=0) / total
    spread = np.sqrt((rows.weight[:, None] * (rows.x - middle) ** 2).sum(axis=0) / total)
    scale = np.where(spread > 1e-9, spread, 1.0)
    z = np.column_stack([np.clip((rows.x - middle) / scale, -_CLIP, _CLIP), np.ones(len(rows.x))])
    shrink = np.diag([RIDGE] * len(FEATURES) + [1e-6])
    share = float(np.clip((rows.y * rows.weight).sum() / total, 1e-9, 1 - 1e-9))
    theta = np.append(np.zeros(len(FEATURES)), np.log(share / (1.0 - share)))
    for _ in range(STEPS_MAX):
        p = 1.0 / (1.0 + np.exp(-np.clip(z @ theta, -30, 30)))
        slope = z.T @ (rows.weight * (rows.y - p)) - shrink @ theta
        curve = (z * (rows.weight * np.maximum(p * (1 - p), 1e-9))[:, None]).T @ z + shrink
        step = np.linalg.solve(curve, slope)
        theta = theta + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return HazardModel(middle, scale, theta)


def back_test(rows: Rows, units: int, seed: int = 0) -> _Floats:
    """Probabilities of models that have not seen a day of the transformer they judge. **Shape** `[m]`."""
    fold = np.random.default_rng(seed).permutation(units) % FOLDS
    found = np.full(len(rows.y), np.nan)
    for number in range(FOLDS):
        held = fold[rows.unit] == number
        if held.any() and rows.y[~held].any():
            found[held] = fit(rows.chosen(~held)).probability(rows.x[held].T)
    return found


def metrics(rows: Rows, probability: _Floats, alert: float | None = None) -> dict[str, Any]:
    """How good the back-test was, beside the hand-made `risk` of `grid.health` and the mean rate.

    `auc` over days; `skill` by Brier score against the mean rate; `calibration` is predicted over observed failures;
    `found` and `visits_per_failure` are of transformers with a day at or above `alert`, by default where F1 is best.
    """
    known = np.isfinite(probability)
    rows, p = rows.chosen(known), probability[known]
    rate = (rows.y * rows.weight).sum() / rows.weight.sum()
    brier = (rows.weight * (p - rows.y) ** 2).sum()
    best, f1 = best_threshold(rows, p)
    alert = best if alert is None else alert
    visited, failed = set(rows.unit[p >= alert].tolist()), set(rows.unit[rows.y].tolist())
    right = len(visited & failed)
    return {
        "auc": round(auc(p, rows.y, rows.weight), 4),
        "risk_auc": round(auc(rows.x[:, FEATURES.index("risk")], rows.y, rows.weight), 4),
        "skill": round(1.0 - float(brier / (rows.weight * (rate - rows.y) ** 2).sum()), 4),
        "calibration": round(float((p * rows.weight).sum() / (rows.y * rows.weight).sum()), 3),
        "f1": round(f1, 4), "alert": round(alert, 6), "found": round(right / max(len(failed), 1), 4),
        "visits_per_failure": round(len(visited) / max(right, 1), 2), "rows": len(rows.y), "failures": len(failed),
    }  # fmt: skip


def best_threshold(rows: Rows, p: _Floats) -> tuple[float, float]:
    """(probability, F1 of the days at or above it)."""
    order = np.argsort(-p, kind="stable")
    weight, hit = rows.weight[order], (rows.weight * rows.y)[order]
    right, told = np.cumsum(hit), np.cumsum(weight)
    f1 = 2 * right / np.maximum(told + hit.sum(), 1e-12)
    last = np.append(np.diff(p[order]) != 0, True)  # equal ones are told together
    best = int(np.argmax(np.where(last, f1, -1.0)))
    return float(p[order][best]), float(f1[best])


def auc(scores: _Floats, truth: NDArray[np.bool_], weight: _Floats) -> float:
    """Area under the curve of weighted rows; ties count half."""
    values, place = np.unique(scores, return_inverse=True)
    yes = np.bincount(place, weight * truth, len(values))
    no = np.bincount(place, weight * ~truth, len(values))
    below = np.cumsum(no) - no
    total = yes.sum() * no.sum()
    return float((yes * (below + 0.5 * no)).sum() / total) if total else 0.5
