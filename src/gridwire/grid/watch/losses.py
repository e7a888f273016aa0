"""Energy that is used and not measured: a ranking of usage points, and transformers whose balance is off.

    day of a usage point -> log ratio to its own past, less the median of its transformer's customers -> CUSUM of drops
    day of a transformer with a meter -> (delivered - measured at customers) / delivered, against its past -> excess
    both, and tampering events -> score

The drop alone cannot tell theft from a house that stands empty; the balance can: what is not used is not missing. So a
score is raised where the drop is missing from the transformer's balance and lowered where it is not. Without a meter at
the transformer the balance says nothing.

Weights of the score were set by hand on injected theft of one seed and are measured on others; no labelled theft was
at hand to fit them to.

Source: energy balance and drop detection as in P. Jokar, N. Arianpoo, V. Leung, "Electricity theft detection in AMI
using customers' consumption patterns", IEEE Trans. Smart Grid 7(1), 2016; CUSUM: E. S. Page, Biometrika 41, 1954.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.units import add_energy
from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.meter_event import KINDS
from gridwire.grid.network import NetworkIndex
from gridwire.grid.reading_types import EXPORT_KWH, IMPORT_KWH
from gridwire.grid.watch.arrays import arrays_of, take_over
from gridwire.grid.watch.base import Detector, SeenEvents, SeenReadings
from gridwire.grid.watch.frames import Groups
from gridwire.grid.watch.pending import pack, unpack

DAY_S: Final = 86_400

TAMPERING: Final = tuple(KINDS.index(kind) for kind in ("TAMPER", "COVER_OPEN", "MAGNETIC", "REVERSE_FLOW"))
"""Events that raise a score."""

_SMALL_KWH: Final = 0.3  # what a house draws that stands empty: ratios of less say nothing
_TAMPER_KEEP: Final = 0.5 ** (1 / 30)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How it is decided.

    Args:
        grace_h: how long after its end a UTC day waits for late readings.
        complete_share: of a day's readings that must be there.
        learn_days: before anything is judged; memory_days: of the past.
        slack, cap: of the CUSUM, in standard deviations. noise: least standard deviation of a daily log ratio.
        open_score, close_score: of a usage point's finding. unaccounted: CUSUM that opens a transformer's.
        peers_min: customers with a day that a median needs.
    """

    grace_h: int = 6
    complete_share: float = 0.9
    learn_days: int = 7
    memory_days: float = 28.0
    slack: float = 0.75
    cap: float = 12.0
    noise: float = 0.2
    open_score: float = 0.8
    close_score: float = 0.4
    unaccounted: float = 8.0
    peers_min: int = 4


class Losses(Detector):
    """Findings `loss.theft` (usage points) and `loss.unaccounted` (transformers). 54 bytes a usage point.

    **Shape**: `score`, `base_kwh`, `drop` `float32[n_units]`: suspicion, usual day, log ratio of late to it.
    `excess_kwh` `float64[n_transformers]`: a day's energy that is missing beyond the usual, NaN without a meter.
    """

    name = "losses"

    def __init__(self, index: NetworkIndex, settings: LossSettings | None = None) -> None:
        super().__init__(index)
        self.settings = settings or LossSettings()
        n, transformers = len(index.unit_ids), len(index.transformer_ids)
        self.per_day = DAY_S // index.interval_s
        self._children = Groups(index.transformer_of_unit, transformers)
        self._day = -1
        self._last = np.full((2, n), -1, np.int32)
        self._energy, self._counts = np.zeros((2, 2, n), np.float32), np.zeros((2, 2, n), np.uint16)
        self.base_kwh, self.drop, self.score = (np.zeros(n, np.float32) for _ in range(3))
        self._variance = np.full(n, 0.09, np.float32)
        self._cusum, self._tamper = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self._days, self._since = np.zeros(n, np.uint16), np.full(n, -1, np.int16)
        self._open = np.zeros(n, np.bool_)
        self.share = np.full(transformers, np.nan)
        self.excess_kwh = np.full(transformers, np.nan)
        self._balance = np.zeros((4, transformers))  # days, usual share, variance, CUSUM
        self._unaccounted_since = np.full(transformers, -1, np.int32)
        self.passed = 0
        self.found: list[Finding] = []

    # -- taking -------------------------------------------------------------------------------------------------

    def readings(self, seen: SeenReadings) -> None:
        """Energy of the model's interval."""
        energy = (seen.types == IMPORT_KWH) | (seen.types == EXPORT_KWH)
        rows = np.flatnonzero(energy & (seen.interval_s == self.index.interval_s))
        if not len(rows):
            return
        slots = seen.ts_end_us[rows] // (self.index.interval_s * 1_000_000)
        grace = self.settings.grace_h * 3600 // self.index.interval_s
        due = (slots - 1 - grace) // self.per_day
        running = np.maximum.accumulate(np.maximum(due, self._day))
        cuts = [0, *(np.flatnonzero(np.diff(running)) + 1).tolist(), len(rows)]
        for begin, end in pairwise(cuts):
            self._move(int(running[begin]))
            for channel, type in enumerate((IMPORT_KWH, EXPORT_KWH)):
                own = np.arange(begin, end)[seen.types[rows[begin:end]] == type]
                self.passed += add_energy(
                    seen.points[rows[own]], slots[own].astype(np.int32), seen.values[rows[own]], self._last[channel],
                    self._energy[channel], self._counts[channel], self._day * self.per_day + 1, self.per_day,
                )  # fmt: skip

    def events(self, seen: SeenEvents) -> None:
        """Tampering."""
        points = seen.points[np.isin(seen.kinds, TAMPERING)]
        np.add.at(self._tamper, points, np.float32(1.0))
        self._tamper[points] = np.minimum(self._tamper[points], 2.0)

    def _move(self, day: int) -> None:
        if day == self._day:
            return
        if self._day >= 0:
            for _ in range(min(day - self._day, 2)):
                if self._counts[0, 0].any():
                    self._close()
                self._energy[:, 0], self._counts[:, 0] = self._energy[:, 1], self._counts[:, 1]
                self._energy[:, 1], self._counts[:, 1] = 0.0, 0
                self._day += 1
        self._day = day

    # -- a day that closes --------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Judge the first open day of all units."""
        s, counts = self.settings, self._counts[0, 0]
        whole = counts >= s.complete_share * self.per_day
        day_kwh = np.where(whole, self._energy[0, 0] * (self.per_day / np.maximum(counts, 1)), np.nan)
        day_kwh = day_kwh.astype(np.float32)
        known = self._days >= s.learn_days
        ratio = np.log((day_kwh + _SMALL_KWH) / (self.base_kwh + _SMALL_KWH))
        judged = np.where(known, ratio, np.float32(np.nan))
        peers = self._children.medians(judged, s.peers_min)
        everybody = np.float32(np.nanmedian(judged)) if known.any() and not np.isnan(judged).all() else np.float32(0.0)
        usual = np.where(np.isnan(peers), everybody, peers)[self.index.transformer_of_unit]
        moved = judged - usual
        seen = np.flatnonzero(~np.isnan(moved))
        self._drops(seen, moved[seen])
        self._balances(day_kwh)
        self._scores(usual)
        self._learn(day_kwh, usual, moved)
        self._tamper *= np.float32(_TAMPER_KEEP)

    def _drops(self, units: NDArray[np.intp], moved: Floats) -> None:
        s = self.settings
        z = np.clip(-moved / np.maximum(np.sqrt(self._variance[units]), s.noise), -3.0, 3.0)
        before = self._cusum[units]
        self._cusum[units] = np.clip(before + z - s.slack, 0.0, s.cap)
        begins = (before == 0) & (self._cusum[units] > 0)
        self._since[units[begins]] = self._day
        # A new drop is not averaged with the time before it.
        self.drop[units] = np.where(begins, moved, self.drop[units] + (moved - self.drop[units]) / 5.0)

    def _learn(self, day_kwh: Floats, usual: Floats, moved: Floats) -> None:
        s = self.settings
        quiet = np.flatnonzero(~np.isnan(day_kwh) & (self._cusum < s.cap / 3))
        days = np.minimum(self._days[quiet] + 1, s.memory_days).astype(np.float32)
        self.base_kwh[quiet] += (day_kwh[quiet] - self.base_kwh[quiet]) / days
        sure = quiet[~np.isnan(moved[quiet])]
        weight = 1.0 / np.minimum(self._days[sure] + 1, s.memory_days).astype(np.float32)
        self._variance[sure] += (np.minimum(moved[sure] ** 2, 1.0) - self._variance[sure]) * weight
        # What is suspected still follows its neighbours: the season is no theft.
        held = np.flatnonzero(self._cusum >= s.cap / 3)
        self.base_kwh[held] *= np.exp(np.clip(usual[held], -0.5, 0.5) / np.float32(s.memory_days))
        self._days += np.where(~np.isnan(day_kwh) & (self._days < 65_000), 1, 0).astype(np.uint16)

    def _balances(self, day_kwh: Floats) -> None:
        """Delivered less measured, of transformers with a meter whose day is whole."""
        index, s = self.index, self.settings
        net = (day_kwh - self._energy[1, 0]).astype(np.float32)
        filled = np.where(np.isnan(day_kwh), np.where(self._days >= s.learn_days, self.base_kwh, np.nan), net)
        n = len(index.transformer_ids)
        measured = np.bincount(index.transformer_of_unit, filled, n)
        metered = np.flatnonzero(index.meter_of_transformer >= 0)
        delivered = net[index.meter_of_transformer[metered]].astype(np.float64)
        good = (delivered > 1.0) & ~np.isnan(measured[metered])
        units, delivered = metered[good], delivered[good]
        share = 1.0 - measured[units] / delivered
        self.share[:], self.share[units] = np.nan, share
        days, usual, variance, cusum = self._balance[:, units]
        known = days >= s.learn_days
        z = np.clip((share - usual) / np.maximum(np.sqrt(variance), 0.01), -3.0, 3.0)
        before, cusum = cusum, np.where(known, np.clip(cusum + z - s.slack, 0.0, 2 * s.unaccounted), 0.0)
        missing = np.where(known, (share - usual) * delivered, 0.0)
        old = self.excess_kwh[units]
        self.excess_kwh[units] = np.where(np.isnan(old), missing, old + (missing - old) / 3.0)
        weight = np.where(cusum < s.unaccounted / 3, 1.0 / np.minimum(days + 1, s.memory_days), 0.0)
        off = share - usual
        variance = variance + weight * (np.where(known, off**2, 2e-4) - variance)
        self._balance[:, units] = days + 1, usual + weight * off, variance, cusum
        self._since_balance(units, before, cusum)

    def _since_balance(self, units: NDArray[np.intp], before: NDArray[Any], cusum: NDArray[Any]) -> None:
        limit = self.settings.unaccounted
        for unit in units[(before < limit) & (cusum >= limit) & (self._unaccounted_since[units] < 0)].tolist():
            self._unaccounted_since[unit] = self._day
            self.found.append(self._transformer(unit))
        for unit in units[(cusum < limit / 4) & (self._unaccounted_since[units] >= 0)].tolist():
            self.found.append(self._transformer(unit, ended=True))
            self._unaccounted_since[unit] = -1

    def _lost_kwh(self, units: NDArray[np.intp], usual: Floats) -> NDArray[Any]:
        lost: NDArray[Any] = self.base_kwh[units] * np.exp(usual) * (1.0 - np.exp(np.minimum(self.drop[units], 0.0)))
        return lost

    def _scores(self, usual: Floats) -> None:
        units = np.flatnonzero((self._cusum > 0) | (self.score > 0) | (self._tamper > 0.1))
        lost = self._lost_kwh(units, usual[units])
        excess = self.excess_kwh[self.index.transformer_of_unit[units]]
        match = np.where(np.isnan(excess), 0.5, np.clip(excess / np.maximum(lost, 0.5), 0.0, 1.0))
        dropped = 1.0 - np.exp(np.minimum(self.drop[units], 0.0))
        logit = -6.0 + 0.4 * self._cusum[units] + 2.0 * self._tamper[units] + 5.0 * (match - 0.5) + 1.5 * dropped
        # A meter of a transformer is no customer.
        logit[np.isin(units, self.index.meter_of_transformer)] = -20.0
        self.score[units] = 1.0 / (1.0 + np.exp(-logit))
        score, open = self.score[units], self._open[units]
        for unit in units[~open & (score >= self.settings.open_score) & (self._since[units] >= 0)].tolist():
            self._open[unit] = True
            self.found.append(self._point(unit))
        for unit in units[open & (score < self.settings.close_score)].tolist():
            self.found.append(self._point(unit, ended=True))
            self._open[unit] = False

    # -- telling ------------------------------------------------------------------------------------------------

    def ranking(self, count: int) -> list[tuple[str, float]]:
        """The most suspect usage points with their scores, most suspect first."""
        order = np.lexsort((np.arange(len(self.score)), -self.score))[:count]
        return [(self.index.unit_ids[unit], float(self.score[unit])) for unit in order.tolist()]

    def findings(self, now_us: int) -> list[Finding]:
        """What days that closed since the last call showed."""
        found, self.found = self.found, []
        return found

    def _point(self, unit: int, ended: bool = False) -> Finding:
        excess = float(self.excess_kwh[self.index.transformer_of_unit[unit]])
        evidence = {
            "usual_kwh_per_day": round(float(self.base_kwh[unit]), 2),
            "drop_share": round(1.0 - float(np.exp(min(self.drop[unit], 0.0))), 3),
            "cusum": round(float(self._cusum[unit]), 1),
            "tampering": round(float(self._tamper[unit]), 2),
            "transformer": self.index.transformer_ids[self.index.transformer_of_unit[unit]],
            "unaccounted_kwh_per_day": None if np.isnan(excess) else round(excess, 2),
            "score": round(float(self.score[unit]), 4),
        }
        return self._finding(
            "loss.theft", "usage_point", self.index.unit_ids[unit], int(self._since[unit]), float(self.score[unit]),
            ended, evidence,
        )  # fmt: skip

    def _transformer(self, unit: int, ended: bool = False) -> Finding:
        _, usual, variance, cusum = self._balance[:, unit].tolist()
        evidence = {
            "unaccounted_share": round(float(self.share[unit]), 4), "usual_share": round(usual, 4),
            "usual_deviation": round(float(np.sqrt(variance)), 4), "cusum": round(cusum, 1),
            "unaccounted_kwh_per_day": round(float(self.excess_kwh[unit]), 2),
        }  # fmt: skip
        confidence = min(0.95, 0.5 + 0.25 * cusum / self.settings.unaccounted)
        since = int(self._unaccounted_since[unit])
        id = self.index.transformer_ids[unit]
        return self._finding("loss.unaccounted", "transformer", id, since, confidence, ended, evidence)

    def _finding(
        self,
        kind: str,
        subject_kind: str,
        id: str,
        since: int,
        confidence: float,
        ended: bool,
        evidence: dict[str, Any],
    ) -> Finding:
        return Finding(
            kind=kind, subject_kind=subject_kind, subject=id, started_us=since * DAY_S * 1_000_000,
            severity=Severity.WARNING, confidence=confidence, detector=self.name,
            state=FindingState.CLOSED if ended else FindingState.OPENED,
            ended_us=(self._day + 1) * DAY_S * 1_000_000 if ended else None, evidence=evidence,
        )  # fmt: skip

    _ARRAYS = ("_last", "_energy", "_counts", "base_kwh", "drop", "score", "_variance", "_cusum", "_tamper", "_days",
               "_since", "_open", "share", "excess_kwh", "_balance", "_unaccounted_since")  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        return arrays_of(self, self._ARRAYS) | {"at": np.array([self._day, self.passed]), "pending": pack(self.found)}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        take_over(self, self._ARRAYS, arrays)
        self._day, self.passed = arrays["at"].tolist()
        self.found = unpack(arrays["pending"])
