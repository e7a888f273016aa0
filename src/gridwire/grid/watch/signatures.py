"""Signs of a transformer about to fail, in the voltages of its customers.

    median of its children, less the median of its neighbours' medians      (what the grid above does, falls out)
    less what its own load explains, a + b x load, learnt by least squares  (what its customers do, falls out)
    -> hourly residual -> CUSUM up, down, down at peak

    up                 turns of the high-voltage winding are shorted: the ratio falls, the output rises
    down               the low-voltage side
    down at peak only  saturation

A change is one against the transformer's own past, so a tap position or a long line is none. The past is learnt for
`learn_h` and forgotten over `memory_h`; while a sign stands it is not learnt from.

Source: the three signatures as ComEd published them (2018, half-hourly voltages of meters); CUSUM: E. S. Page,
"Continuous inspection schemes", Biometrika 41, 1954.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.areas import areas
from gridwire.grid.watch.arrays import arrays_of, take_over
from gridwire.grid.watch.base import SeenLoads, SeenReadings
from gridwire.grid.watch.frames import Groups, VoltageFrames, pu_of

NAMES: Final = ("", "hv_turns", "lv_side", "saturation")
"""Signatures by number; 0 is none."""

SETTLE_H: Final = 48
"""Hours in which a transformer's usual place among its neighbours is found."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SignatureSettings:
    """How it is decided.

    Args:
        children_min, neighbours_min: voltages a median needs.
        learn_h: hours before anything is judged. memory_h: how fast the past is forgotten.
        noise_pu: residuals are not taken for more certain than this.
        slack, limit: of the CUSUM, in standard deviations: what is forgiven every hour, and where a sign stands.
        peak: load to the largest one, from which on an hour is one of peak.
        depth: intervals voltages may be late.
    """

    children_min: int = 3
    neighbours_min: int = 4
    learn_h: int = 120
    memory_h: float = 720.0
    noise_pu: float = 0.002
    slack: float = 1.0
    limit: float = 24.0
    peak: float = 0.7
    depth: int = 8


class Signatures:
    """Voltages and loads in, signatures out.

    **Shape**: `up`, `down`, `sag` `float64[n_transformers]`, the CUSUMs; `sign` `int8[n_transformers]`, a number of
    `NAMES`.
    """

    def __init__(self, index: NetworkIndex, settings: SignatureSettings) -> None:
        n = len(index.transformer_ids)
        self._index, self._settings = index, settings
        self._interval_us = index.interval_s * 1_000_000
        self._per_hour = max(1, 3600 // index.interval_s)
        self._frames = VoltageFrames(index, settings.depth)
        self._children = Groups(index.transformer_of_unit, n)
        self._area_of, count = areas(index)
        self._areas = Groups(self._area_of, count)
        self._loads = np.full((2 * settings.depth, n), np.nan, np.float32)
        self._load_slots = np.full((2 * settings.depth, n), -1, np.int64)
        self._hour = -1
        self._last = np.full(n, np.nan, np.float32)
        self._sums = np.zeros((3, n))  # of the open hour: count, residual, load
        self._usual, self._settled = np.zeros(n), np.zeros(n, np.int32)
        self._past = np.zeros((6, n))  # count, x, y, xx, xy, yy with x: load, y: residual
        self._largest = np.zeros(n)
        self.up, self.down, self.sag = np.zeros(n), np.zeros(n), np.zeros(n)
        self.sign = np.zeros(n, np.int8)
        self._started_us = np.zeros(n, np.int64)
        self._deviation_pu = np.zeros(n)
        self.found: list[Finding] = []

    def loads(self, seen: SeenLoads) -> None:
        """Loads of transformers, for the voltages of the same intervals."""
        if seen.level != "transformer":
            return
        slots = seen.ts_end_us // self._interval_us
        at = (slots % len(self._loads), seen.units)
        newer = slots >= self._load_slots[at]
        at = (at[0][newer], at[1][newer])
        self._load_slots[at] = slots[newer]
        self._loads[at] = seen.load_kw[newer]

    def readings(self, seen: SeenReadings) -> None:
        """Voltages."""
        for slot, frame in self._frames.take(seen):
            self._interval(slot, pu_of(frame))

    def voltages(self, slot: int) -> NDArray[np.float32]:
        """Median voltage of each transformer's customers, pu, NaN unknown.

        By what came of an interval so far, or of the last one that is closed.
        """
        frame = self._frames.open(slot)
        return 1.0 + (self._last if frame is None else self._children.medians(pu_of(frame), 1))

    def _interval(self, slot: int, off: NDArray[np.float32]) -> None:
        self._last[:] = self._children.medians(off, 1)
        hour = (slot - 1) // self._per_hour
        if hour != self._hour:
            self._close()
            self._hour = hour
        medians = self._children.medians(off, self._settings.children_min)
        # Each by its own usual place: or one that moves would change which of them is the middle one.
        moved = (medians - self._usual).astype(np.float32)
        areas = self._areas.medians(moved, self._settings.neighbours_min)
        everywhere = np.nanmedian(moved) if np.count_nonzero(~np.isnan(moved)) >= 2 else np.nan
        around = np.where(np.isnan(areas), everywhere, areas)[self._area_of]
        residual = (medians - around).astype(np.float64)
        at = slot % len(self._loads)
        load = np.where(self._load_slots[at] == slot, self._loads[at], np.nan).astype(np.float64)
        settling = np.flatnonzero(~np.isnan(residual) & (self._settled < SETTLE_H * self._per_hour))
        self._settled[settling] += 1
        self._usual[settling] += (residual[settling] - self._usual[settling]) / self._settled[settling]
        known = ~np.isnan(residual) & ~np.isnan(load) & (self._settled >= SETTLE_H * self._per_hour)
        self._sums[:, known] += np.vstack((np.ones(len(residual)), residual, load))[:, known]

    def _close(self) -> None:
        """The hour is over: judge it, then learn from it."""
        count = self._sums[0]
        units = np.flatnonzero(count > 0)
        if not len(units):
            return
        y, x = self._sums[1, units] / count[units], self._sums[2, units] / count[units]
        self._sums[:] = 0.0
        s = self._settings
        self._largest[units] = np.maximum(self._largest[units] * 0.5 ** (1 / 336.0), np.abs(x))
        peak = np.abs(x) >= s.peak * self._largest[units]
        error, sigma = self._predict(units, x, y)
        z = np.where(self._past[0, units] >= s.learn_h, np.clip(error / np.maximum(sigma, s.noise_pu), -4.0, 4.0), 0.0)
        cap = 2.0 * s.limit
        self.up[units] = np.clip(self.up[units] + z - s.slack, 0.0, cap)
        self.down[units] = np.where(peak, self.down[units], np.clip(self.down[units] - z - s.slack, 0.0, cap))
        self.sag[units] = np.where(peak, np.clip(self.sag[units] - z - s.slack, 0.0, cap), self.sag[units])
        self._deviation_pu[units] += (error - self._deviation_pu[units]) / 12.0
        self._decide(units)
        quiet = np.maximum.reduce((self.up[units], self.down[units], self.sag[units])) < s.limit / 2
        self._learn(units[quiet], x[quiet], y[quiet])

    def _predict(self, units: NDArray[np.intp], x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """What is left of y beside a + b x of the past, and its usual size."""
        n, sx, sy, sxx, sxy, syy = self._past[:, units]
        n = np.maximum(n, 1.0)
        var_x, cov = sxx / n - (sx / n) ** 2, sxy / n - sx * sy / n**2
        slope = np.where(var_x > 1e-9, cov / np.maximum(var_x, 1e-9), 0.0)
        left = np.maximum(syy / n - (sy / n) ** 2 - slope * cov, 0.0)
        return y - (sy / n + slope * (x - sx / n)), np.sqrt(left)

    def _learn(self, units: NDArray[np.intp], x: Floats, y: Floats) -> None:
        keep = np.exp(-1.0 / self._settings.memory_h)
        self._past[:, units] = self._past[:, units] * keep + np.vstack((np.ones(len(x)), x, y, x * x, x * y, y * y))

    def _decide(self, units: NDArray[np.intp]) -> None:
        limit = self._settings.limit
        up, down, sag = self.up[units], self.down[units], self.sag[units]
        new = np.select(
            [(up >= limit) & (up >= down), down >= limit, (sag >= limit) & (down < limit / 2)], [1, 2, 3], 0
        ).astype(np.int8)
        old = self.sign[units]
        over = np.maximum.reduce((up, down, sag)) < limit / 4
        # A sign stands until all is quiet; what began at peak and is seen all day then is another sign.
        new = np.where((new == 0) & ~over, old, new)
        ts_us = (self._hour + 1) * self._per_hour * self._interval_us
        for unit in units[(old != 0) & (new != old)].tolist():
            self.found.append(self._finding(unit, ts_us))
        changed = units[new != old]
        self.sign[units] = new
        self._started_us[changed] = ts_us
        for unit in changed[self.sign[changed] != 0].tolist():
            self.found.append(self._finding(unit))

    def score(self) -> Floats:
        """How far towards a sign each transformer is, 0 to 1; 0.5 where it stands."""
        most = np.maximum.reduce((self.up, self.down, self.sag))
        scores: Floats = most / (most + self._settings.limit)
        return scores

    def _finding(self, unit: int, ended_us: int | None = None) -> Finding:
        strength = float(max(self.up[unit], self.down[unit], self.sag[unit])) / self._settings.limit
        evidence = {
            "signature": NAMES[self.sign[unit]],
            "deviation_pu": round(float(self._deviation_pu[unit]), 5),
            "cusum_up": round(float(self.up[unit]), 1),
            "cusum_down": round(float(self.down[unit]), 1),
            "cusum_peak": round(float(self.sag[unit]), 1),
            "largest_kw": round(float(self._largest[unit]), 2),
        }
        return Finding(
            kind="transformer.failing", subject_kind="transformer", subject=self._index.transformer_ids[unit],
            started_us=int(self._started_us[unit]), severity=Severity.CRITICAL,
            confidence=min(0.95, 0.5 + 0.25 * strength),
            detector="health", state=FindingState.OPENED if ended_us is None else FindingState.CLOSED,
            ended_us=ended_us, evidence=evidence,
        )  # fmt: skip

    _ARRAYS = ("_usual", "_settled", "_loads", "_load_slots", "_sums", "_past", "_largest", "up", "down",
               "sag", "sign", "_started_us", "_last",
               "_deviation_pu")  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state but for what was found."""
        return arrays_of(self, self._ARRAYS) | self._frames.to_arrays() | {"hour": np.array([self._hour])}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        take_over(self, self._ARRAYS, arrays)
        self._frames.from_arrays(arrays)
        self._hour = int(arrays["hour"][0])
