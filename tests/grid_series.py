"""Small utilities with invented loads, as facts and weather the way detectors and models are given them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.watch.base import SeenLoads, SeenWeather

START_US = 1_451_606_400_000_000
"""2016-01-01, a Friday."""

DAY_US = 86_400_000_000


def network(units: int, interval_s: int = 900, rated_kva: float = 100.0) -> Network:
    """Transformers T0, T1, ... with one usage point each, all on feeder F."""
    return Network(
        name="test",
        interval_s=interval_s,
        transformers=tuple(Transformer(id=f"T{i}", rated_kva=rated_kva, substation="S") for i in range(units)),
        feeders=(Feeder(id="F"),),
        usage_points=tuple(UsagePoint(id=f"U{i}", transformer=f"T{i}", feeder="F") for i in range(units)),
    )


def temperatures(rng: np.random.Generator, days: int) -> NDArray[np.float64]:
    """Hours of a year that begins in January: seasons, days and fronts that last for days."""
    hour = np.arange(days * 24)
    fronts = np.convolve(rng.normal(0, 3, days + 4), np.ones(3) / 2, "same")[:days]
    return (
        10
        + 10 * np.sin(2 * np.pi * (hour / 24 - 100) / 365)
        + 4 * np.sin(2 * np.pi * hour / 24)
        + np.repeat(fronts, 24)
    )


def weather(temperature_c: NDArray[np.float64], gust_ms: float = 5.0, station: str = "S1") -> SeenWeather:
    """Hourly observations of one station from `START_US` on."""
    ends = START_US + (np.arange(len(temperature_c)) + 1) * 3_600_000_000
    return SeenWeather([station] * len(ends), ends, temperature_c, np.full(len(ends), gust_ms), ends)


def facts(day: int, load_kw: NDArray[np.float64], level: str = "transformer", interval_s: int = 900) -> SeenLoads:
    """One day of facts. **Shape** `load_kw[intervals, units]`."""
    intervals, units = load_kw.shape
    ends = START_US + day * DAY_US + np.arange(1, intervals + 1) * interval_s * 1_000_000
    n = intervals * units
    return SeenLoads(
        level,
        np.tile(np.arange(units, dtype=np.int32), intervals),
        np.repeat(ends, units),
        np.full(n, interval_s, np.int32),
        load_kw.ravel(),
        np.ones(n, np.int32),
        np.ones(n, np.int32),
        np.repeat(ends, units),
    )


class Utility:
    """Loads of `units` that follow hour, weekday and temperature, with noise; day by day, seeded."""

    def __init__(self, units: int, days: int, seed: int = 1, noise: float = 0.05, intervals: int = 96) -> None:
        rng = np.random.default_rng(seed)
        self.rng, self.units, self.noise, self.intervals = rng, units, noise, intervals
        self.temperature_c = temperatures(rng, days)
        self.base_kw = rng.uniform(20, 60, units)
        self.heating_kw_per_c = rng.uniform(0.5, 2, units)
        at = (np.arange(intervals) + 0.5) / intervals
        self.shape = 1 + 0.5 * np.exp(-(((at - 0.78) / 0.06) ** 2)) + 0.2 * np.exp(-(((at - 0.33) / 0.08) ** 2)) - 0.15

    def day(self, day: int, scale: Any = 1.0, roll_h: Any = 0) -> NDArray[np.float64]:
        """**Shape** `[intervals, units]`, kW. `scale`, `roll_h`: of units; hours a profile is late."""
        weekend = (day + 4) % 7 >= 5
        mean_c = self.temperature_c[day * 24 : day * 24 + 24].mean()
        level = self.base_kw * (0.8 if weekend else 1.0) + self.heating_kw_per_c * max(0.0, 14.0 - mean_c)
        level = level * (1 + self.rng.normal(0, self.noise, self.units)) * scale
        late = np.broadcast_to(np.asarray(roll_h) * self.intervals // 24, self.units)
        shape = np.stack([np.roll(self.shape, each) for each in late.tolist()], axis=1)
        return level * shape * (1 + self.rng.normal(0, self.noise, (self.intervals, self.units)))
