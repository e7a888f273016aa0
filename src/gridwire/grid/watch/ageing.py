"""Temperature and ageing of distribution transformers: a recursive hot-spot model over all of them at once.

    load, ambient -> top oil (tau_oil) -> hot spot (tau_winding) -> ageing factor -> loss of life

Within a step load and ambient are constant, so its exponential is exact whatever its length: intervals may be
irregular. The ageing factor of a step is averaged by Simpson's rule.

Source: IEC 60076-7, exponential equations of the hot spot and relative ageing rates of both papers; constants of
distribution transformers, ONAN. Life of 180,000 h: IEEE C57.91.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ThermalSettings:
    """Constants of a transformer with natural oil and air flow (ONAN).

    Args:
        tau_oil_min, tau_winding_min: time constants. top_oil_rise_k, gradient_k: at rated load.
        loss_ratio: losses under rated load without load to losses without load.
        indoors_k: what a kiosk adds to the rise of the oil.
        life_h: of insulation at an ageing factor of 1.
    """

    tau_oil_min: float = 180.0
    tau_winding_min: float = 4.0
    top_oil_rise_k: float = 60.0
    gradient_k: float = 23.0
    hot_spot_factor: float = 1.2
    k11: float = 1.0
    k21: float = 1.0
    k22: float = 2.0
    oil_exponent: float = 0.8
    winding_exponent: float = 1.6
    loss_ratio: float = 5.0
    indoors_k: float = 10.0
    life_h: float = 180_000.0


class ThermalModel:
    """Temperatures of n transformers.

    **Shape**: `top_oil_c`, `hot_spot_c`, `loss_of_life_h` `float64[n]`; NaN temperatures before the first step.

    Args:
        indoors, upgraded_paper: `bool[n]`.
    """

    def __init__(
        self, indoors: NDArray[np.bool_], upgraded_paper: NDArray[np.bool_], settings: ThermalSettings | None = None
    ) -> None:
        self.settings = settings or ThermalSettings()
        self._rise_k = self.settings.top_oil_rise_k + self.settings.indoors_k * indoors
        self._upgraded = upgraded_paper
        n = len(indoors)
        self.top_oil_c = np.full(n, np.nan)
        self._winding_k, self._oil_k = np.zeros(n), np.zeros(n)
        self.loss_of_life_h = np.zeros(n)

    @property
    def hot_spot_c(self) -> Floats:
        """Temperature of the hottest spot of the winding."""
        spots: Floats = self.top_oil_c + self._winding_k - self._oil_k
        return spots

    def step(self, units: NDArray[np.intp], load_pu: Floats, ambient_c: Floats, hours: Floats) -> Floats:
        """Let `hours` pass under a constant load; a unit's first step begins in equilibrium.

        Args:
            units: which transformers, each at most once. load_pu: of rated current.

        Returns:
            Mean ageing factor of the step.
        """
        s = self.settings
        losses = (1.0 + s.loss_ratio * load_pu**2) / (1.0 + s.loss_ratio)
        oil_end = ambient_c + self._rise_k[units] * losses**s.oil_exponent
        spot_k = s.hot_spot_factor * s.gradient_k * load_pu**s.winding_exponent
        winding_end, oil_k_end = s.k21 * spot_k, (s.k21 - 1.0) * spot_k
        first = np.isnan(self.top_oil_c[units])
        oil = np.where(first, oil_end, self.top_oil_c[units])
        winding = np.where(first, winding_end, self._winding_k[units])
        oil_k = np.where(first, oil_k_end, self._oil_k[units])
        factors = [ageing_factor(oil + winding - oil_k, self._upgraded[units])]
        half = hours * 30.0
        oil_keep, winding_keep, oil_k_keep = (
            np.exp(-half / minutes)
            for minutes in (s.k11 * s.tau_oil_min, s.k22 * s.tau_winding_min, s.tau_oil_min / s.k22)
        )
        for _ in range(2):
            oil = oil_end + (oil - oil_end) * oil_keep
            winding = winding_end + (winding - winding_end) * winding_keep
            oil_k = oil_k_end + (oil_k - oil_k_end) * oil_k_keep
            factors.append(ageing_factor(oil + winding - oil_k, self._upgraded[units]))
        self.top_oil_c[units], self._winding_k[units], self._oil_k[units] = oil, winding, oil_k
        mean = (factors[0] + 4.0 * factors[1] + factors[2]) / 6.0
        self.loss_of_life_h[units] += mean * hours
        return mean

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return {
            "top_oil_c": self.top_oil_c, "winding_k": self._winding_k, "oil_k": self._oil_k,
            "loss_of_life_h": self.loss_of_life_h,
        }  # fmt: skip

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        self.top_oil_c[:], self._winding_k[:] = arrays["top_oil_c"], arrays["winding_k"]
        self._oil_k[:], self.loss_of_life_h[:] = arrays["oil_k"], arrays["loss_of_life_h"]


def ageing_factor(hot_spot_c: Floats, upgraded_paper: NDArray[np.bool_]) -> Floats:
    """Speed of ageing: 1 at 110 degC for upgraded paper, at 98 degC for normal paper."""
    upgraded = np.exp(15_000.0 / 383.0 - 15_000.0 / (hot_spot_c + 273.0))
    factors: Floats = np.where(upgraded_paper, upgraded, 2.0 ** ((hot_spot_c - 98.0) / 6.0))
    return factors
