"""The weather over the utility: temperature and gusts at every substation, hour by hour.

Temperature is a yearly and a daily wave with a disturbance that lasts a few days; a heat wave adds ten degrees. A storm
is a front that crosses the substations one after the other, with gusts that damage lines.

The load's answer to temperature is that of a degree-day model with balance points 15 and 22 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.simulate.scenario import Scenario

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
HEAT_C: Final = 10.0
STORM_HOURS: Final = 2.0
"""Width of the front."""

FRONT_HOURS: Final = 6.0
"""How long it takes across the whole utility."""


@dataclass(frozen=True, slots=True)
class Sky:
    """**Shape**: `temperature_c`, `gust_ms` `float32[hours + 1, substations]`, at the full hours from the start on."""

    start_us: int
    temperature_c: NDArray[np.float32]
    gust_ms: NDArray[np.float32]

    def temperature_at(self, at_us: int) -> NDArray[np.float32]:
        """Between the hours. **Shape** `[substations]`."""
        hours = (at_us - self.start_us) / HOUR_US
        before = min(int(hours), len(self.temperature_c) - 2)
        share = np.float32(hours - before)
        found: NDArray[np.float32] = self.temperature_c[before] * (1 - share) + self.temperature_c[before + 1] * share
        return found


def build(scenario: Scenario, substations: int) -> Sky:
    """The weather of a scenario."""
    random = scenario.random("sky")
    hours = (scenario.end_us - scenario.start_us) // HOUR_US + 1
    at_us = scenario.start_us + np.arange(hours + 1) * HOUR_US
    day_of_year = (at_us / DAY_US) % 365.25
    wave = (
        10.0
        - 9.5 * np.cos((day_of_year - 20) / 365.25 * 2 * np.pi)
        - 4.0 * np.cos(((at_us % DAY_US) / DAY_US - 0.1) * 2 * np.pi)
    )
    drift = np.zeros(hours + 1)
    for hour in range(1, hours + 1):  # a disturbance that forgets within two days
        drift[hour] = 0.98 * drift[hour - 1] + random.normal(0, 0.5)
    if scenario.heat:
        first = hours // 2
        drift[first:] += HEAT_C * np.minimum(1.0, np.arange(hours + 1 - first) / 24)
    local = random.normal(0, 0.8, substations)
    temperature = wave[:, None] + drift[:, None] + local[None, :]
    gusts = random.gamma(3.0, 1.5, (hours + 1, substations))
    if scenario.storm:
        gusts += _front(scenario, hours, substations)
    return Sky(scenario.start_us, temperature.astype(np.float32), gusts.astype(np.float32))


def _front(scenario: Scenario, hours: int, substations: int) -> NDArray[np.float64]:
    """Gusts of the front: 15:00 of the second day at the first substation, hours later at the last."""
    begin = 15 + (24 if scenario.days > 1 else 0)
    passes = begin + FRONT_HOURS * np.arange(substations) / max(substations - 1, 1)
    away = (np.arange(hours + 1)[:, None] - passes[None, :]) / STORM_HOURS
    found: NDArray[np.float64] = 30.0 * np.exp(-0.5 * away**2)
    return found
