"""Voltages outside their band: of a usage point, of most customers of a transformer, and over a week.

Every voltage is counted in one of five bands of its usage point and week. A finding opens when a usage point is outside
range A for `open_after` intervals in a row, and closes when it is well within for `close_after`. When most of a
transformer's customers are outside on the same side, that is one finding of the transformer; its customers are not told
one by one while it stands.

    standard      range A       range B             week
    en50160       0.90-1.10     0.85-1.10           at most 5 % of the values outside range A
    ansi_c84_1    0.95-1.05     0.917-1.058         the same rule, which this standard does not have

Source: EN 50160, supply voltage variations (of ten-minute means; here of what meters send); ANSI C84.1 service voltage.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.units import OPENED, judge_voltages
from gridwire.grid import reading_types
from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.areas import place_of
from gridwire.grid.watch.arrays import arrays_of, take_over
from gridwire.grid.watch.base import Detector, SeenReadings
from gridwire.grid.watch.frames import UNIT, Groups, deviations
from gridwire.grid.watch.pending import pack, unpack

TYPES: Final = np.array(
    [reading_types.BY_ALIAS[name].id for name in ("voltage_v", "voltage_l1_v", "voltage_l2_v", "voltage_l3_v")],
    np.int16,
)
"""Types that are judged."""

BANDS: Final = ("below_b", "below_a", "within_a", "above_a", "above_b")
"""Names of the five bands."""

SIDES: Final = ("high", "low")

EDGES_PU: Final = {
    "en50160": (-0.15, -0.10, 0.10, 0.10),
    "ansi_c84_1": (110.0 / 120.0 - 1.0, -0.05, 0.05, 127.0 / 120.0 - 1.0),
}
"""Where the bands of a standard meet, off nominal."""

WEEK_S: Final = 7 * 86_400
_MONDAY_S: Final = 4 * 86_400  # the epoch was a Thursday


@dataclass(frozen=True, slots=True)
class VoltageSettings:
    """When something is found.

    Args:
        open_after, close_after: intervals in a row. margin_pu: how far within range A is well within.
        children_min: open alarms a transformer's finding needs.
        week_share: of values outside range A; week_count_min: values a week needs to be judged.
    """

    open_after: int = 4
    close_after: int = 4
    margin_pu: float = 0.005
    children_min: int = 3
    week_share: float = 0.05
    week_count_min: int = 336


class Voltage(Detector):
    """Findings `voltage.high`, `voltage.low` (usage points, transformers) and `voltage.week`. 36 bytes a usage point.

    **Shape**: `bands` `uint16[5, n_units]`, of the week that goes on.
    """

    name = "voltage"

    def __init__(self, index: NetworkIndex, settings: VoltageSettings | None = None) -> None:
        super().__init__(index)
        self.settings = settings = settings or VoltageSettings()
        n, groups = len(index.unit_ids), len(index.transformer_ids)
        self._interval_us = index.interval_s * 1_000_000
        low_b, low_a, high_a, high_b = EDGES_PU[index.voltage_standard]
        margin = settings.margin_pu
        edges = (low_b, low_a, high_a, high_b, low_a + margin, high_a - margin)
        self._edges = np.rint(np.array(edges) / UNIT).astype(np.int16)
        self._limits = np.array([settings.open_after, settings.close_after, settings.children_min], np.int64)
        self._last, self._seen = np.full(n, -1, np.int32), np.zeros(n, np.uint8)
        self._worst, self._extreme = np.zeros((2, n), np.int16), np.zeros((2, n), np.int16)
        self._streak, self._open, self._told = (np.zeros((2, n), np.uint8) for _ in range(3))
        self._started = np.zeros((2, n), np.int32)
        self.bands = np.zeros((5, n), np.uint16)
        self._known = np.zeros(groups, np.int32)
        self._group_open, self._group_state = np.zeros((2, groups), np.int32), np.zeros((2, groups), np.uint8)
        self._group_started = np.zeros((2, groups), np.int32)
        self._children = Groups(self.index.transformer_of_unit, groups)
        self._week = -1
        self._bad_week = np.full(n, -1, np.int16)
        self.late = 0
        self._changes: list[NDArray[np.int32]] = []
        self._weekly: list[Finding] = []

    def readings(self, seen: SeenReadings) -> None:
        """Voltages."""
        rows, slots, off = deviations(seen, self.index, TYPES)
        if not len(rows):
            return
        weeks = ((slots - 1) * self.index.interval_s - _MONDAY_S) // WEEK_S
        running = np.maximum.accumulate(np.maximum(weeks, self._week))
        cuts = [0, *(np.flatnonzero(np.diff(running)) + 1).tolist(), len(rows)]
        phase_of = np.ones(int(TYPES.max()) + 1, np.uint8)
        phase_of[TYPES] = 1 << np.array([0, 0, 1, 2], np.uint8)
        for begin, end in pairwise(cuts):
            if running[begin] != self._week:
                self._close_week(int(running[begin]))
            part = np.arange(begin, end)[weeks[begin:end] == self._week]
            self.late += end - begin - len(part)
            chosen = rows[part]
            self._judge(seen.points[chosen], slots[part], phase_of[seen.types[chosen]], off[part])

    def _judge(
        self, points: NDArray[np.int32], slots: NDArray[np.int64], phases: NDArray[np.uint8], off: NDArray[np.float64]
    ) -> None:
        told = np.empty((4 * len(points), 4), np.int32)
        count, late = judge_voltages(
            points, slots.astype(np.int32), phases, np.rint(off / UNIT).astype(np.int16),
            self.index.transformer_of_unit, self._last, self._seen, self._worst, self._extreme, self._streak,
            self._open, self._started, self.bands, self._edges, self._known, self._group_open, self._group_state,
            self._limits, told,
        )  # fmt: skip
        self.late += late
        if count:
            self._changes.append(told[:count].copy())

    def _close_week(self, week: int) -> None:
        """Judge the week that ends, and begin the next."""
        if self._week >= 0:
            total = self.bands.sum(axis=0, dtype=np.int64)
            outside = total - self.bands[2]
            judged = total >= self.settings.week_count_min
            bad = judged & (outside > self.settings.week_share * total)
            for unit in np.flatnonzero(bad & (self._bad_week < 0)).tolist():
                self._bad_week[unit] = self._week
                self._weekly.append(self._week_finding(unit, None))
            for unit in np.flatnonzero(judged & ~bad & (self._bad_week >= 0)).tolist():
                self._weekly.append(self._week_finding(unit, _week_us(self._week)))
                self._bad_week[unit] = -1
            self.bands[:] = 0
        self._week = week

    def _week_finding(self, unit: int, ended_us: int | None) -> Finding:
        counts = dict(zip(BANDS, self.bands[:, unit].tolist(), strict=True))
        return Finding(
            kind="voltage.week", subject_kind="usage_point", subject=self.index.unit_ids[unit],
            started_us=_week_us(int(self._bad_week[unit])), severity=Severity.WARNING, confidence=0.95,
            detector=self.name, state=FindingState.OPENED if ended_us is None else FindingState.CLOSED,
            ended_us=ended_us, evidence={**counts, "standard": self.index.voltage_standard},
        )  # fmt: skip

    def findings(self, now_us: int) -> list[Finding]:
        """What opened and closed; customers of a transformer with a finding of its own are left out."""
        found, self._weekly = self._weekly, []
        changes, self._changes = self._changes, []
        for is_group, which, what, slot in (row for part in changes for row in part.tolist()):
            side, opened = what // 2, what % 2 == OPENED
            if is_group:
                found += self._group_changes(which, side, opened, slot)
            elif opened:
                found += self._tell(which, side)
            elif self._told[side, which]:
                self._told[side, which] = 0
                found.append(self._point(which, side, slot))
        return found

    def _tell(self, unit: int, side: int) -> list[Finding]:
        group = self.index.transformer_of_unit[unit]
        if self._told[side, unit] or not self._open[side, unit] or self._group_state[side, group]:
            return []
        self._told[side, unit] = 1
        return [self._point(unit, side, None)]

    def _group_changes(self, group: int, side: int, opened: bool, slot: int) -> list[Finding]:
        if opened:
            self._group_started[side, group] = slot
            return [self._group(group, side, None)]
        members = self._children.members(group)
        left = members[self._open[side, members] > 0]
        return [self._group(group, side, slot), *(one for unit in left.tolist() for one in self._tell(unit, side))]

    def _point(self, unit: int, side: int, slot: int | None) -> Finding:
        extreme_pu = float(self._extreme[side, unit]) * UNIT
        nominal = float(self.index.nominal_v[self.index.transformer_of_unit[unit]])
        evidence = {
            "worst_v": round(nominal * (1.0 + extreme_pu), 1), "worst_pu": round(1.0 + extreme_pu, 4),
            "nominal_v": nominal, "standard": self.index.voltage_standard, **place_of(self.index, unit),
            **{f"week_{name}": int(count) for name, count in zip(BANDS, self.bands[:, unit], strict=True)},
        }  # fmt: skip
        beyond = extreme_pu > self._edges[3] * UNIT if side == 0 else extreme_pu < self._edges[0] * UNIT
        return self._finding(
            "usage_point", self.index.unit_ids[unit], side, int(self._started[side, unit]), slot, beyond, evidence
        )

    def _group(self, group: int, side: int, slot: int | None) -> Finding:
        evidence = {
            "customers_outside": int(self._group_open[side, group]), "customers": int(self._known[group]),
            "standard": self.index.voltage_standard,
        }  # fmt: skip
        started = int(self._group_started[side, group])
        return self._finding("transformer", self.index.transformer_ids[group], side, started, slot, True, evidence)

    def _finding(
        self, kind: str, id: str, side: int, started: int, slot: int | None, critical: bool, evidence: dict[str, Any]
    ) -> Finding:
        return Finding(
            kind=f"voltage.{SIDES[side]}", subject_kind=kind, subject=id,
            started_us=(started - 1) * self._interval_us,
            severity=Severity.CRITICAL if critical else Severity.WARNING, confidence=0.95, detector=self.name,
            state=FindingState.OPENED if slot is None else FindingState.CLOSED,
            ended_us=None if slot is None else slot * self._interval_us, evidence=evidence,
        )  # fmt: skip

    _ARRAYS = ("_last", "_seen", "_worst", "_extreme", "_streak", "_open", "_told", "_started", "bands", "_known",
               "_group_open", "_group_state", "_group_started", "_bad_week")  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        changes = np.concatenate(self._changes) if self._changes else np.empty((0, 4), np.int32)
        return arrays_of(self, self._ARRAYS) | {
            "at": np.array([self._week, self.late]),
            "changes": changes,
            "pending": pack(self._weekly),
        }

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        take_over(self, self._ARRAYS, arrays)
        self._week, self.late = arrays["at"].tolist()
        self._changes, self._weekly = [arrays["changes"]], unpack(arrays["pending"])


def _week_us(week: int) -> int:
    return (week * WEEK_S + _MONDAY_S) * 1_000_000
