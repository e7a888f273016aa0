"""Overload, hot spot and ageing of every transformer, live from its load and the weather.

An interval counts when at least half of its readings are there, scaled to all of them; less is a gap. Over a gap the
load before it is held, and the hours are told as held. Thresholds are the limits of IEC 60076-7 for distribution
transformers above nameplate: normal cyclic loading up to 1.5 of rated current and 120 degC, long-time emergency up to
140 degC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.ageing import ThermalModel, ThermalSettings
from gridwire.grid.watch.alarms import Alarms, OpenIntervals, Units
from gridwire.grid.watch.ambient import Ambient
from gridwire.grid.watch.arrays import arrays_of, take_over
from gridwire.grid.watch.base import SeenLoads

HOLD_H: Final = 168.0
"""A load is held for at most a week; what is longer unknown is not counted as life."""

LOAD_MAX: Final = 10.0
"""Largest load to rating that is taken for one: more is an error of a rating or a meter."""

_AVERAGE_H: Final = 168.0
_WARM_UP_H: Final = 24.0
_HOUR_US: Final = 3_600_000_000


@dataclass(frozen=True, slots=True)
class LoadingSettings:
    """When something is found: alarms open at `_open`, are critical at `_critical`, close below `_close`.

    Args:
        overload: load to rating. hot_spot_c. rate: ageing factor averaged over a week: 2 is a life used up in half.
        power_factor: of loads, since facts are active power.
        ambient_c: where there is no weather: the yearly weighted ambient of IEC 60076-2.
        complete_share: readings an interval must have.
    """

    overload_open: float = 1.2
    overload_close: float = 1.05
    overload_critical: float = 1.5
    hot_spot_open_c: float = 120.0
    hot_spot_close_c: float = 110.0
    hot_spot_critical_c: float = 140.0
    rate_open: float = 2.0
    rate_close: float = 1.5
    rate_critical: float = 8.0
    power_factor: float = 0.95
    ambient_c: float = 20.0
    complete_share: float = 0.5


class Loading:
    """Loads of transformers in, temperatures and findings out.

    **Shape**: every array `[n_transformers]`. `load_pu`: of the last closed interval. `rate`: ageing factor averaged
    over a week. `peak_pu`: largest load, falling by half in two weeks.
    """

    def __init__(self, index: NetworkIndex, settings: LoadingSettings, thermal: ThermalSettings | None = None) -> None:
        n = len(index.transformer_ids)
        self._index, self._settings = index, settings
        self._interval_h = index.interval_s / 3600.0
        self._interval_us = index.interval_s * 1_000_000
        self.model = ThermalModel(index.indoors, index.upgraded_paper, thermal)
        self.ambient = Ambient(index.station_of_transformer, settings.ambient_c)
        self._open = OpenIntervals(n)
        self.slots = np.full(n, -1, np.int64)
        self.load_pu, self.rate, self.peak_pu = np.zeros(n), np.zeros(n), np.zeros(n)
        self.factor, self.watched_h, self.held_h = np.zeros(n), np.zeros(n), np.zeros(n)
        self.observed = np.zeros(n, np.bool_)
        self._alarms = {"overload": Alarms(n, 2, 2), "hot_spot": Alarms(n, 1, 2), "ageing": Alarms(n, 1, 2)}
        self._worst = {name: np.zeros(n) for name in self._alarms}
        self._critical = {name: np.zeros(n, np.bool_) for name in self._alarms}
        self.found: list[Finding] = []

    def loads(self, seen: SeenLoads) -> Iterator[tuple[Units, NDArray[np.int64]]]:
        """Take facts. Yields units and slots of intervals that closed, while the state is that of their end."""
        if seen.level != "transformer":
            return
        rated = self._index.rated_kva[seen.units]
        whole = seen.counts >= self._settings.complete_share * seen.expected
        rows = np.flatnonzero(whole & (seen.counts > 0) & (rated > 0) & np.isfinite(seen.load_kw))
        scale = np.maximum(seen.expected[rows] / seen.counts[rows], 1.0)
        apparent = np.abs(seen.load_kw[rows]) * scale / self._settings.power_factor
        closed = self._open.take(
            seen.units[rows], seen.ts_end_us[rows] // self._interval_us, np.minimum(apparent / rated[rows], LOAD_MAX)
        )
        for units, slots, load_pu in closed:
            self._close(units, slots, load_pu)
            yield units, slots

    def _close(self, units: Units, slots: NDArray[np.int64], load_pu: NDArray[np.float64]) -> None:
        ts_us = slots * self._interval_us
        ambient_c, self.observed[units] = self.ambient.at(units, ts_us)
        gap_h = np.where(self.slots[units] >= 0, slots - self.slots[units] - 1, 0) * self._interval_h
        held_h = np.minimum(gap_h, HOLD_H)
        gaps = np.flatnonzero(held_h > 0)
        if len(gaps):
            held = units[gaps]
            factor = self.model.step(held, self.load_pu[held], ambient_c[gaps], held_h[gaps])
            self._count(held, factor, held_h[gaps])
            self.held_h[held] += held_h[gaps]
        hours = np.full(len(units), self._interval_h)
        self.factor[units] = self.model.step(units, load_pu, ambient_c, hours)
        self._count(units, self.factor[units], hours)
        self.slots[units], self.load_pu[units] = slots, load_pu
        self.peak_pu[units] = np.maximum(self.peak_pu[units] * 0.5 ** ((hours + gap_h) / 336.0), load_pu)
        self._judge(units, ts_us)

    def _count(self, units: Units, factor: NDArray[np.float64], hours: NDArray[np.float64]) -> None:
        """Watched hours and the average of the ageing factor: of all hours at first, then of about a week."""
        self.watched_h[units] += hours
        weight = hours / np.minimum(self.watched_h[units], _AVERAGE_H)
        self.rate[units] += np.minimum(weight, 1.0) * (factor - self.rate[units])

    def _judge(self, units: Units, ts_us: NDArray[np.int64]) -> None:
        s = self._settings
        spot = self.model.hot_spot_c[units]
        # The end of the interval less its length: an alarm began with what it is about.
        begins_us = ts_us - self._interval_us
        rate = np.where(self.watched_h[units] >= _WARM_UP_H, self.rate[units], 0.0)
        for name, value, open, close, critical in (
            ("overload", self.load_pu[units], s.overload_open, s.overload_close, s.overload_critical),
            ("hot_spot", spot, s.hot_spot_open_c, s.hot_spot_close_c, s.hot_spot_critical_c),
            ("ageing", rate, s.rate_open, s.rate_close, s.rate_critical),
        ):
            alarms, worst = self._alarms[name], self._worst[name]
            opened, closed = alarms.update(units, value >= open, value < close, begins_us)
            worst[opened] = 0.0
            self._critical[name][opened] = False
            live = alarms.open[units]
            worst[units[live]] = np.maximum(worst[units[live]], value[live])
            turns = units[live & (value >= critical) & ~self._critical[name][units]]
            self._critical[name][turns] = True
            ended_us = dict(zip(units.tolist(), ts_us.tolist(), strict=True)) if len(closed) else {}
            for unit in np.union1d(opened, turns).tolist():
                self.found.append(self._finding(name, unit))
            for unit in closed.tolist():
                self.found.append(self._finding(name, unit, ended_us[unit]))

    def _finding(self, name: str, unit: int, ended_us: int | None = None) -> Finding:
        watched_h = float(self.watched_h[unit])
        known = 1.0 - 0.5 * float(self.held_h[unit]) / max(watched_h, 1e-9)
        evidence = {
            "load_factor": round(float(self.load_pu[unit]), 3),
            "hot_spot_c": round(float(self.model.hot_spot_c[unit]), 1),
            "ageing_factor": round(float(self.factor[unit]), 3),
            "weekly_rate": round(float(self.rate[unit]), 3),
            "loss_of_life_h": round(float(self.model.loss_of_life_h[unit]), 2),
            "watched_h": round(watched_h, 2),
            "held_h": round(float(self.held_h[unit]), 2),
            "worst": round(float(self._worst[name][unit]), 3),
            "rated_kva": float(self._index.rated_kva[unit]),
            "ambient": "observed" if self.observed[unit] else "default",
        }
        return Finding(
            kind=f"transformer.{name}", subject_kind="transformer", subject=self._index.transformer_ids[unit],
            started_us=self._alarms[name].started_us(unit),
            severity=Severity.CRITICAL if self._critical[name][unit] else Severity.WARNING,
            # Temperatures come from a model with typical constants and, without weather, from a typical ambient.
            confidence=known * (0.95 if name == "overload" else 0.8 if self.observed[unit] else 0.6),
            detector="health", state=FindingState.OPENED if ended_us is None else FindingState.CLOSED,
            ended_us=ended_us, evidence=evidence,
        )  # fmt: skip

    _ARRAYS = ("slots", "load_pu", "rate", "peak_pu", "factor", "watched_h", "held_h", "observed")

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state but for what was found."""
        arrays = arrays_of(self, self._ARRAYS) | self.model.to_arrays() | self.ambient.to_arrays()
        arrays |= {"open_slots": self._open.slots, "open_values": self._open.values}
        arrays["late"] = np.array([self._open.late])
        for name, alarms in self._alarms.items():
            arrays |= alarms.to_arrays(name)
            arrays |= {f"{name}_worst": self._worst[name], f"{name}_critical": self._critical[name]}
        return arrays

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        take_over(self, self._ARRAYS, arrays)
        self.model.from_arrays(arrays)
        self.ambient.from_arrays(arrays)
        self._open.slots[:], self._open.values[:] = arrays["open_slots"], arrays["open_values"]
        self._open.late = int(arrays["late"][0])
        for name, alarms in self._alarms.items():
            alarms.from_arrays(name, arrays)
            self._worst[name][:], self._critical[name][:] = arrays[f"{name}_worst"], arrays[f"{name}_critical"]
