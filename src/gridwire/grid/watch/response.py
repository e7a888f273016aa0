"""How demand follows the temperature: a streaming degree-day regression for every unit at once.

    demand = base + weekend * W + heating * max(0, Th - T) + cooling * max(0, T - Tc)

T is the mean temperature of the day. Recursive least squares in information form: of every unit and pair of balance
points (Th, Tc) the discounted sums of products are kept, 24 numbers, and solved when a day ends. Old days fade with a
time constant of `MEMORY_DAYS`, so slopes follow the equipment and the base follows the season. The pair with the
smallest discounted error of prediction holds.

**Source**: the change-point models of ASHRAE Guideline 14 and CalTRACK 2.0 (section 3), here fitted recursively.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MEMORY_DAYS: Final = 60.0
"""Time constant of forgetting: a season is about 90 days."""

BALANCE_C: Final = np.array([[10.0, 16.0], [12.0, 18.0], [14.0, 20.0], [16.0, 22.0], [18.0, 24.0]])
"""Pairs of heating and cooling balance points, degrees Celsius."""

_RIDGE: Final = np.diag([1e-3, 0.5, 20.0, 20.0])
"""Shrinks what the data says nothing about: slopes in a season without heating or cooling."""

FEATURES: Final = 4


@dataclass(frozen=True, slots=True)
class Response:
    """How n units respond. **Shape** `[n]`: kW, kW per degree, degrees Celsius; `days`: days learnt from, discounted.

    Slopes and balance points are NaN where no weather was known.
    """

    base_kw: NDArray[np.float64]
    weekend_kw: NDArray[np.float64]
    heating_kw_per_c: NDArray[np.float64]
    cooling_kw_per_c: NDArray[np.float64]
    heating_balance_c: NDArray[np.float64]
    cooling_balance_c: NDArray[np.float64]
    days: NDArray[np.float64]


def degree_days(temperature_c: NDArray[np.float64], weekend: bool) -> NDArray[np.float64]:
    """**Shape** `[n, pairs, FEATURES]`: regressors of one day; without a temperature the degrees are 0."""
    known = np.isfinite(temperature_c)[:, None]
    t = np.where(known, temperature_c[:, None], 0.0)
    heating = np.where(known, np.maximum(0.0, BALANCE_C[:, 0] - t), 0.0)
    cooling = np.where(known, np.maximum(0.0, t - BALANCE_C[:, 1]), 0.0)
    ones = np.ones_like(heating)
    return np.stack([ones, np.full_like(heating, float(weekend)), heating, cooling], axis=2)


class ResponseModel:
    """The regression of `targets` numbers of each of n units, such as mean and peak load, on the same weather."""

    def __init__(self, units: int, targets: int = 1) -> None:
        pairs = len(BALANCE_C)
        self._fade = float(np.exp(-1.0 / MEMORY_DAYS))
        self._products = np.zeros((units, pairs, FEATURES, FEATURES))
        self._sums = np.zeros((units, pairs, FEATURES, targets))
        self._errors = np.zeros((units, pairs))
        self._theta = np.zeros((units, pairs, FEATURES, targets))
        self.weather_days = np.zeros(units)

    @property
    def days(self) -> NDArray[np.float64]:
        """**Shape** `[n]`: days learnt from, discounted."""
        days: NDArray[np.float64] = self._products[:, 0, 0, 0]
        return days

    @property
    def best(self) -> NDArray[np.int64]:
        """**Shape** `[n]`: the pair of balance points that predicts best."""
        best: NDArray[np.int64] = np.argmin(self._errors, axis=1)
        return best

    def predict(self, temperature_c: NDArray[np.float64], weekend: bool) -> NDArray[np.float64]:
        """**Shape** `[n, targets]`: what the days before say of a day."""
        x = np.take_along_axis(degree_days(temperature_c, weekend), self.best[:, None, None], axis=1)[:, 0]
        theta = np.take_along_axis(self._theta, self.best[:, None, None, None], axis=1)[:, 0]
        predicted: NDArray[np.float64] = np.einsum("nf,nft->nt", x, theta)
        return predicted

    def learn(self, values: NDArray[np.float64], temperature_c: NDArray[np.float64], weekend: bool) -> None:
        """Take one day of the units whose values are all known. **Shape** `values[n, targets]`."""
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        x, y = degree_days(temperature_c[rows], weekend), values[rows]
        error = y[:, None, 0] - np.einsum("npf,npf->np", x, self._theta[rows, :, :, 0])
        self._errors[rows] = self._fade * self._errors[rows] + error**2
        self._products[rows] = self._fade * self._products[rows] + x[..., :, None] * x[..., None, :]
        self._sums[rows] = self._fade * self._sums[rows] + x[..., :, None] * y[:, None, None, :]
        self._theta[rows] = np.linalg.solve(self._products[rows] + _RIDGE, self._sums[rows])
        self.weather_days[rows] = self._fade * self.weather_days[rows] + np.isfinite(temperature_c[rows])

    def shift(self, rows: NDArray[np.int64], by: NDArray[np.float64], target: int = 0) -> None:
        """Let the base of some units be another one from now on, as if it had always been so."""
        self._sums[rows, :, :, target] += self._products[rows, :, :, 0] * by[:, None, None]
        self._theta[rows] = np.linalg.solve(self._products[rows] + _RIDGE, self._sums[rows])

    def response(self, target: int = 0) -> Response:
        """What was learnt so far."""
        best = self.best
        theta = np.take_along_axis(self._theta, best[:, None, None, None], axis=1)[:, 0, :, target]
        pair = BALANCE_C[best]
        known = self.weather_days > 1.0
        return Response(
            base_kw=theta[:, 0],
            weekend_kw=theta[:, 1],
            heating_kw_per_c=np.where(known, theta[:, 2], np.nan),
            cooling_kw_per_c=np.where(known, theta[:, 3], np.nan),
            heating_balance_c=np.where(known, pair[:, 0], np.nan),
            cooling_balance_c=np.where(known, pair[:, 1], np.nan),
            days=self.days.copy(),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return {"products": self._products, "sums": self._sums, "errors": self._errors, "weather": self.weather_days}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises ValueError, KeyError: it does not fit."""
        for name, own in self.to_arrays().items():
            if arrays[name].shape != own.shape:
                raise ValueError("snapshot of another network")
        self._products, self._sums = arrays["products"].copy(), arrays["sums"].copy()
        self._errors, self.weather_days = arrays["errors"].copy(), arrays["weather"].copy()
        self._theta[:] = np.linalg.solve(self._products + _RIDGE, self._sums)
