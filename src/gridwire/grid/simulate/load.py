"""What every meter measures in every quarter hour: energy in whole watt-hours, voltages in tenths of a volt.

A usage point's load is its mean times the shape of its kind over the local day and week, plus heating and cooling by
the temperature at its substation, times log-normal noise of its own. A generator has a clear-sky bell over the day with
clouds of a whole substation. What the generator makes beyond the load is exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.simulate.faults import Faults
from gridwire.grid.simulate.scenario import INTERVAL_S, INTERVAL_US, Scenario
from gridwire.grid.simulate.sky import Sky
from gridwire.grid.simulate.town import Town

SLOTS: Final = 96
HEAT_BELOW_C: Final = 15.0
COOL_ABOVE_C: Final = 22.0
NOMINAL_V: Final = 230.0
DROP_AT_RATING: Final = 0.035
"""Of the nominal voltage, in the transformer and its lines, at rated load."""

_WH_A_KW: Final = 1000 * INTERVAL_S / 3600


@dataclass(frozen=True, slots=True)
class Measured:
    """One interval. **Shape**: `imported`, `exported` `int64[n]` Wh; `load_kw` `float64[m]` by transformer."""

    interval: int
    ts_end_us: int
    imported: NDArray[np.int64]
    exported: NDArray[np.int64]
    load_kw: NDArray[np.float64]


class Loads:
    """Measures any interval of a scenario, in any order."""

    def __init__(self, scenario: Scenario, town: Town, sky: Sky, faults: Faults) -> None:
        self._scenario, self._town, self._sky, self._faults = scenario, town, sky, faults
        self._zone = ZoneInfo(scenario.zone)
        self._substation_of_unit = town.substation[town.feeder[town.transformer]]
        self._shapes = _shapes()
        random = scenario.random("voltages")
        self._distance = random.uniform(0.2, 1.0, len(town)).astype(np.float32)

    def ts_end_us(self, interval: int) -> int:
        """End of an interval, microseconds since the epoch."""
        return self._scenario.start_us + (interval + 1) * INTERVAL_US

    def measure(self, interval: int) -> Measured:
        """What the meters have of an interval."""
        town, end_us = self._town, self.ts_end_us(interval)
        load_kw = self._demand_kw(interval, end_us)
        made_kw = self._made_kw(interval, end_us)
        on = self._powered(end_us)
        load_kw *= on
        made_kw *= on
        units, left = self._faults.theft.in_effect(end_us)
        metered_kw = load_kw.copy()
        metered_kw[units] *= left
        net_wh = np.rint((metered_kw - made_kw) * _WH_A_KW).astype(np.int64)
        real_kw = (load_kw - made_kw).astype(np.float64)
        supplied = np.bincount(town.transformer, real_kw, minlength=town.transformers).astype(np.float64)
        return Measured(interval, end_us, np.maximum(net_wh, 0), np.maximum(-net_wh, 0), supplied)

    def voltages(self, measured: Measured, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """What meters with voltages show at the end of an interval, in tenths of a volt. **Shape** as `units`."""
        town = self._town
        random = self._scenario.random("volts", measured.interval)
        relative = 1.0 + 0.004 * np.sin(measured.interval / 7.0 + town.feeder * 1.7)
        relative -= DROP_AT_RATING * measured.load_kw / np.maximum(town.rated_kva, 1.0)
        for each in self._faults.failing:
            if each.start_us <= measured.ts_end_us < each.end_us:
                relative[each.transformer] += each.shift
        drop = self._distance[units] * measured.imported[units] / _WH_A_KW * 0.002
        volts = NOMINAL_V * (relative[town.transformer[units]] - drop) + random.normal(0, 0.35, len(units))
        found: NDArray[np.int64] = np.rint(volts * 10).astype(np.int64)
        return found

    def _demand_kw(self, interval: int, end_us: int) -> NDArray[np.float32]:
        town = self._town
        random = self._scenario.random("load", interval)
        local = datetime.fromtimestamp(end_us / 1e6 - INTERVAL_S / 2, UTC).astimezone(self._zone)
        slot = (local.hour * 60 + local.minute) * SLOTS // 1440
        weekend = 1 if local.weekday() >= 5 else 0
        temperature = self._sky.temperature_at(end_us - INTERVAL_US // 2)
        cold = np.maximum(HEAT_BELOW_C - temperature, 0).astype(np.float32)[self._substation_of_unit]
        warm = np.maximum(temperature - COOL_ABOVE_C, 0).astype(np.float32)[self._substation_of_unit]
        shape = self._shapes[weekend, :, slot].astype(np.float32)[town.kind]
        noise = np.exp(random.standard_normal(len(town), dtype=np.float32) * np.float32(0.35) - np.float32(0.06))
        load_kw = (town.scale * shape + town.heating * cold + town.cooling * warm) * noise
        units, factors = self._faults.shifts.in_effect(end_us)
        if len(units):
            by_transformer = np.ones(town.transformers, np.float32)
            by_transformer[units] = factors
            load_kw *= by_transformer[town.transformer]
        found: NDArray[np.float32] = load_kw
        return found

    def _made_kw(self, interval: int, end_us: int) -> NDArray[np.float32]:
        random = self._scenario.random("sun", interval // 4)
        local = datetime.fromtimestamp(end_us / 1e6 - INTERVAL_S / 2, UTC).astimezone(self._zone)
        hour = local.hour + local.minute / 60
        season = 0.55 - 0.45 * np.cos((local.timetuple().tm_yday - 1) / 365.25 * 2 * np.pi)
        half_day = 4.0 + 4.0 * season
        height = max(0.0, np.cos((hour - 13) / half_day * np.pi / 2)) if abs(hour - 13) < half_day else 0.0
        clear = random.beta(2.5, 1.5, len(np.unique(self._town.substation))).astype(np.float32)
        found: NDArray[np.float32] = (
            self._town.generation * np.float32(height * (0.4 + 0.6 * season)) * clear[self._substation_of_unit]
        )
        return found

    def _powered(self, end_us: int) -> NDArray[np.float32]:
        """Share of the interval in which each usage point had power."""
        on = np.ones(len(self._town), np.float32)
        begin_us = end_us - INTERVAL_US
        for outage in self._faults.within(begin_us, end_us):
            off_us = min(outage.end_us, end_us) - max(outage.start_us, begin_us)
            on[outage.first : outage.last] -= np.float32(off_us / INTERVAL_US)
        return np.maximum(on, 0)


def _shapes() -> NDArray[np.float64]:
    """Relative load by (weekday or weekend, kind, slot of the local day); the mean over a week is 1.

    Drawn from what such customers are known for: households peak at breakfast and in the evening, businesses work from
    8 to 18, farms milk twice.
    """
    hours = np.arange(SLOTS) / 4 + 0.125

    def bump(at: float, width: float) -> NDArray[np.float64]:
        away = (hours - at + 12) % 24 - 12
        found: NDArray[np.float64] = np.exp(-0.5 * (away / width) ** 2)
        return found

    open_hours = 1 / (1 + np.exp(-(hours - 7.5) * 2)) / (1 + np.exp((hours - 18) * 2))
    shapes = np.array(
        [
            [0.35 + 0.8 * bump(7.3, 1.0) + 0.35 * bump(12.5, 1.5) + 1.5 * bump(19.3, 2.0), 0.25 + 1.6 * open_hours,
             0.5 + 1.4 * bump(6.5, 1.2) + 1.3 * bump(17.5, 1.3)],
            [0.35 + 0.7 * bump(9.5, 1.6) + 0.7 * bump(13.0, 1.8) + 1.4 * bump(19.0, 2.2), 0.22 + 0.25 * open_hours,
             0.5 + 1.4 * bump(6.8, 1.2) + 1.3 * bump(17.5, 1.3)],
        ]
    )  # fmt: skip
    mean = (5 * shapes[0].mean(axis=1) + 2 * shapes[1].mean(axis=1)) / 7
    found: NDArray[np.float64] = shapes / mean[None, :, None]
    return found
