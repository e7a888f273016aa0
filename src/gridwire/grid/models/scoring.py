"""The stream's side of a load forecast: facts and weather in, forecasts and findings out, with the newest model.

    facts -> closed hours -> history of four weeks -> model in effect -> an issue every `issue_every_h` hours
                    |                                                        |-> forecast.overload
                    |-> against the band of the issue before -> load.unexpected
                    `-> local days -> weather normalisation in effect -> normalised demand

A new model is used at once: it issues anew from the hours that are there. A model that does not fit is told and passed
over; the one before stays in effect.

`forecast.overload`: the median forecast of a transformer exceeds its rating; the confidence is the probability that the
load does, from the three quantiles. `load.unexpected`: the load has been outside of the widened band for
`band_hours` hours in a row, always on the same side.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.models import forecast, normal
from gridwire.grid.models.forecast import HISTORY_H, HORIZON_H, LEAST_H, ForecastModel, History
from gridwire.grid.models.forecasts import HOUR_US, Issue
from gridwire.grid.models.model_log import ModelLog, Stored
from gridwire.grid.models.normalising import DayDemand, Normaliser
from gridwire.grid.models.package import InvalidModel
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.base import SeenLoads, SeenWeather
from gridwire.grid.watch.demand import below
from gridwire.grid.watch.hours import Hour, LoadHours, StationHours
from gridwire.grid.watch.told import from_json, to_json
from gridwire.grid.watch.weather import Stations

DETECTOR: Final = "forecasts"
"""Who finds what is found here."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ScoringSettings:
    """What can be set.

    Args:
        issue_every_h: hours between two issues, counted in UTC.
        power_factor: of transformers' loads, to compare kW with kVA.
        close_below: an overload that is less probable than this is over.
        band_hours: hours in a row outside of the band that are told. band_widening: of the band, as a share of it on
            each side. inside_hours: hours in a row inside that end it.
    """

    issue_every_h: int = 6
    power_factor: float = 0.95
    close_below: float = 0.3
    band_hours: int = 6
    band_widening: float = 0.5
    inside_hours: int = 3


class _Level:
    """History, model and band of one level's units. Some 5 KB a unit."""

    def __init__(self, level: str, ids: tuple[str, ...], rated_kva: NDArray[np.float64], interval_s: int) -> None:
        n = len(ids)
        self.level, self.ids, self.rated_kva = level, ids, rated_kva
        self.hours = LoadHours(n, interval_s)
        self.ring = np.full((HISTORY_H, n), np.nan, np.float32)
        self.newest = -1
        """The last closed hour."""
        self.known = 0
        """Hours of history since the first one."""
        self.model: ForecastModel | None = None
        self.positions = np.zeros(0, np.int64)
        """Where in the network the model's units are."""
        self.version = ""
        self.issued = -1
        self.due = False
        self.band = np.full((2, HORIZON_H, n), np.nan, np.float32)
        """p10 and p90 of the hours to come; row `hour % HORIZON_H`."""
        self.outside = np.zeros(n, np.int64)
        """Hours in a row outside of the band: positive above, negative below."""
        self.inside = np.zeros(n, np.int64)
        self.deviation = np.zeros(n)

    def use(self, model: ForecastModel | None, version: str) -> None:
        """Take a model that is in effect from now on; one that was in effect when a snapshot was taken is not new."""
        self.due |= version != self.version
        self.model, self.version = model, version
        if model is not None:
            at = {id: position for position, id in enumerate(self.ids)}
            self.positions = np.array([at.get(id, -1) for id in model.ids], np.int64)

    def close(self, hour: Hour) -> None:
        """Put an hour into the history."""
        if self.newest >= 0 and hour.number > self.newest + HISTORY_H:
            self.ring[:] = np.nan
        else:
            for missing in range(self.newest + 1, hour.number):
                self.ring[missing % HISTORY_H] = np.nan
        self.known = 1 if self.newest < 0 else min(self.known + hour.number - self.newest, HISTORY_H)
        self.ring[hour.number % HISTORY_H] = hour.load_kw
        self.newest = hour.number

    def history(self, temperature_c: NDArray[np.float64]) -> History:
        """What the model is given, in the order of its units."""
        rows = np.arange(self.newest - HISTORY_H + 1, self.newest + 1) % HISTORY_H
        found = np.where(self.positions >= 0, self.positions, 0)
        load = np.where(self.positions >= 0, self.ring[rows][:, found], np.nan)
        return History(self.newest, load.astype(np.float32), temperature_c[:, found].astype(np.float32))

    def issue(self, temperature_c: NDArray[np.float64]) -> Issue:
        """Forecast from the newest hour on."""
        assert self.model is not None
        quantiles, weather = self.model.forecast(self.history(temperature_c))
        placed = self.positions >= 0
        whole = np.full((len(self.ids), HORIZON_H, 3), np.nan, np.float32)
        whole[self.positions[placed]] = quantiles[placed]
        with_weather = np.zeros(len(self.ids), bool)
        with_weather[self.positions[placed]] = weather[placed]
        rows = np.arange(self.newest + 1, self.newest + 1 + HORIZON_H) % HORIZON_H
        self.band[:, rows] = whole[:, :, (0, 2)].transpose(2, 1, 0)
        self.issued, self.due = self.newest, False
        return Issue(self.level, self.newest, self.version, whole, with_weather)


class Scorer:
    """All levels of one network; a function of what it was given, in the order it was given."""

    def __init__(self, index: NetworkIndex, settings: ScoringSettings | None = None) -> None:
        self.settings = settings or ScoringSettings()
        self._stations = Stations(index)
        self._weather = StationHours()
        self._levels: dict[str, _Level] = {}
        if 3600 % index.interval_s == 0:
            transformers, feeders = index.transformer_ids, index.feeder_ids
            nothing = np.zeros(len(feeders))
            self._levels = {
                "transformer": _Level("transformer", transformers, index.rated_kva, index.interval_s),
                "feeder": _Level("feeder", feeders, nothing, index.interval_s),
            }
        self._open: dict[tuple[str, str], Finding] = {}
        self._issues: list[Issue] = []
        self._news: list[Finding] = []
        self._days: list[DayDemand] = []
        self._normaliser = Normaliser({name: level.ids for name, level in self._levels.items()})
        self._version = self._normal_version = ""
        self.models_used = self.models_refused = 0

    # -- what comes in ----------------------------------------------------------------------------------------

    def use(self, models: ModelLog) -> None:
        """The models in effect; nothing happens while they are those that are used already."""
        self._use_forecast(models.current(forecast.KIND))
        stored = models.current(normal.KIND)
        if stored is not None and stored.manifest.version != self._normal_version:
            self._normal_version = stored.manifest.version
            try:
                self._normaliser.use(stored)
                self.models_used += 1
            except InvalidModel as error:
                self._refuse(stored, error)

    def _refuse(self, stored: Stored, error: InvalidModel) -> None:
        self.models_refused += 1
        version = stored.manifest.version
        log.warning("model does not fit, the one before stays in effect", model=version, reason=str(error))

    def _use_forecast(self, stored: Stored | None) -> None:
        version = stored.manifest.version if stored else ""
        if stored is None or version == self._version:
            return
        self._version = version
        try:
            zone = str(stored.manifest.settings.get("zone", "UTC"))
            arrays = stored.arrays()
            models = {level: ForecastModel.from_arrays(arrays, level, zone) for level in self._levels}
        except InvalidModel as error:
            self._refuse(stored, error)
            return
        self.models_used += 1
        log.info("model in effect", model=version)
        for level, model in models.items():
            self._levels[level].use(model, version)
            self._issue_if_due(self._levels[level])

    def weather(self, seen: SeenWeather) -> None:
        """Keep temperatures."""
        self._weather.take(self._stations.numbers(seen.stations), seen.ts_us, seen.temperature_c)

    def loads(self, seen: SeenLoads) -> None:
        """Take facts; hours that they close are compared with what was forecast, and may be time for an issue."""
        level = self._levels.get(seen.level)
        if level is None:
            return
        hours = level.hours.take(seen)
        for hour in hours:
            self._compare(level, hour)
            before = level.newest
            level.close(hour)
            self._normalise(level, before)
            every = self.settings.issue_every_h
            level.due |= before >= 0 and hour.number // every > before // every
        if hours:
            self._issue_if_due(level)  # of several hours at once only the last is news

    def _normalise(self, level: _Level, before: int) -> None:
        """When an hour is the first of its local day, the day before is over."""
        hours = self._normaliser.ended(before, level.newest)
        if hours is None or level.newest - hours[0] >= HISTORY_H:
            return
        load = level.ring[hours % HISTORY_H].astype(np.float64)
        load[hours > level.newest] = np.nan  # rows of hours to come hold those of four weeks ago
        means = np.append(self._weather.mean(hours), np.nan)
        stations = self._stations.of_units(level.level)
        temperature = means[np.where((stations < 0) | (stations >= len(means) - 1), -1, stations)]
        found = self._normaliser.day(level.level, hours, load, temperature)
        if found is not None:
            self._days.append(found)

    def _issue_if_due(self, level: _Level) -> None:
        if level.model is None or not level.due or level.known < LEAST_H:
            return
        hours = np.arange(level.newest - HISTORY_H + 1, level.newest + 1)
        stations = self._stations.of_units(level.level)
        by_station = self._weather.at(hours)
        padded = np.vstack([by_station, np.full((1, HISTORY_H), np.nan)])
        temperature = padded[np.where((stations < 0) | (stations >= len(by_station)), len(by_station), stations)].T
        issue = level.issue(temperature)
        self._issues.append(issue)
        if level.level == "transformer":
            self._overloads(level, issue)

    # -- what is found ----------------------------------------------------------------------------------------

    def _overloads(self, level: _Level, issue: Issue) -> None:
        limit = level.rated_kva * self.settings.power_factor
        low, middle, high = np.abs(issue.quantiles_kw).transpose(2, 0, 1)
        spread = np.maximum((np.maximum(high, low) - middle) / 1.2816, 1e-3)
        sure = np.where(np.isfinite(middle), (middle - limit[:, None]) / spread, -np.inf)
        sure[limit <= 0] = -np.inf
        best = sure.max(axis=1)
        opened = {subject for kind, subject in self._open if kind == "forecast.overload"}
        known = [row for row, id in enumerate(level.ids) if id in opened]
        for row in sorted({*np.flatnonzero(best >= 0).tolist(), *known}):
            probability = 0.5 * math.erfc(-float(best[row]) / math.sqrt(2)) if np.isfinite(best[row]) else 0.0
            hours = np.flatnonzero(sure[row] >= 0)
            self._overload(level, issue, row, probability, hours, middle[row])

    def _overload(
        self, level: _Level, issue: Issue, row: int, probability: float, hours: NDArray[np.int64],
        load_kw: NDArray[np.float32],
    ) -> None:  # fmt: skip
        key = ("forecast.overload", level.ids[row])
        finding = self._open.get(key)
        if finding is not None and probability < self.settings.close_below:
            self._close(key, issue.issued * HOUR_US)
            return
        if not len(hours):
            return
        peak = int(np.argmax(load_kw))
        evidence = {
            "peak_kw": round(float(load_kw[peak]), 2), "rated_kva": float(level.rated_kva[row]),
            "power_factor": self.settings.power_factor, "hours": len(hours), "peak_in_h": peak + 1,
            "first_in_h": int(hours[0]) + 1, "model": issue.model,
        }  # fmt: skip
        if finding is None:
            started = (issue.issued + int(hours[0]) + 1) * HOUR_US
            finding = self._finding(key[0], level, row, started, probability, Severity.WARNING, evidence)
            self._tell(key, finding)
        else:
            changed = replace(finding, confidence=probability, evidence=evidence, state=FindingState.CHANGED)
            self._tell(key, replace(changed, version=finding.version + 1))

    def _compare(self, level: _Level, hour: Hour) -> None:
        """Against the band of the newest issue before this hour."""
        if not level.issued < hour.number <= level.issued + HORIZON_H or level.issued < 0:
            return
        low, high = level.band[:, hour.number % HORIZON_H].astype(np.float64)
        margin = self.settings.band_widening * (high - low)
        load = hour.load_kw
        with np.errstate(invalid="ignore"):
            side = np.where(load > high + margin, 1, np.where(load < low - margin, -1, 0))
        known = np.isfinite(load) & np.isfinite(low)
        away = np.where(load > high, load - high, load - low)
        same = known & (side != 0) & (np.sign(level.outside) == side)
        fresh = known & (side != 0) & ~same
        within = known & (side == 0)
        level.outside = np.where(same, level.outside + side, np.where(fresh, side, level.outside))
        level.deviation = np.where(same, level.deviation + away, np.where(fresh, away, level.deviation))
        level.inside = np.where(within, level.inside + 1, np.where(known, 0, level.inside))
        for row in np.flatnonzero(known & (np.abs(level.outside) >= self.settings.band_hours) & (side != 0)).tolist():
            self._unexpected(level, hour, row)
        back = within & (level.inside >= self.settings.inside_hours)
        for row in np.flatnonzero(back & (level.outside != 0)).tolist():
            self._close(("load.unexpected", f"{level.level}/{level.ids[row]}"), hour.number * HOUR_US)
        level.outside[within & (level.inside >= self.settings.inside_hours)] = 0

    def _unexpected(self, level: _Level, hour: Hour, row: int) -> None:
        key = ("load.unexpected", f"{level.level}/{level.ids[row]}")
        hours = int(abs(level.outside[row]))
        if key in self._open and hours % self.settings.band_hours:
            return
        evidence = {
            "direction": "above" if level.outside[row] > 0 else "below", "hours": hours,
            "outside_kw": round(float(level.deviation[row]) / hours, 3), "load_kw": round(float(hour.load_kw[row]), 3),
            "model": level.version,
        }  # fmt: skip
        confidence = 1 - 0.5 ** (hours / 2)
        finding = self._open.get(key)
        if finding is None:
            started = (hour.number - hours) * HOUR_US
            finding = self._finding(key[0], level, row, started, confidence, Severity.INFO, evidence)
        else:
            finding = replace(
                finding,
                confidence=confidence,
                evidence=evidence,
                state=FindingState.CHANGED,
                version=finding.version + 1,
            )
        self._tell(key, finding)

    def _finding(
        self, kind: str, level: _Level, row: int, started_us: int, confidence: float, severity: Severity,
        evidence: dict[str, Any],
    ) -> Finding:  # fmt: skip
        return Finding(
            kind=kind, subject_kind=level.level, subject=level.ids[row], started_us=started_us, severity=severity,
            confidence=confidence, detector=DETECTOR, evidence=evidence,
        )  # fmt: skip

    def _tell(self, key: tuple[str, str], finding: Finding) -> None:
        self._open[key] = finding
        self._news.append(finding)

    def _close(self, key: tuple[str, str], ended_us: int) -> None:
        finding = self._open.pop(key, None)
        if finding is not None:
            ended_us = max(ended_us, finding.started_us)
            self._news.append(
                replace(finding, state=FindingState.CLOSED, ended_us=ended_us, version=finding.version + 1)
            )

    # -- what goes out ----------------------------------------------------------------------------------------

    def issues(self) -> list[Issue]:
        """Issues since the last call."""
        found, self._issues = self._issues, []
        return found

    def days(self) -> list[DayDemand]:
        """Normalised demand of the days that ended since the last call."""
        found, self._days = self._days, []
        return found

    def findings(self) -> list[Finding]:
        """Findings that are new or changed since the last call."""
        found, self._news = self._news, []
        return found

    @property
    def open(self) -> set[str]:
        """Ids of the findings that are open."""
        return {finding.id for finding in self._open.values()}

    def forget_due(self) -> None:
        """What was due in a past that is only made again has been told."""
        for level in self._levels.values():
            level.due = False

    # -- snapshots ----------------------------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state but for the model, which is in its hub."""
        notes = {"stations": self._stations.ids, "open": [[*key, to_json(f).decode()] for key, f in self._open.items()]}
        arrays = {"notes": np.frombuffer(json.dumps(notes).encode(), np.uint8)}
        arrays |= {f"weather.{name}": array for name, array in self._weather.to_arrays().items()}
        for name, level in self._levels.items():
            arrays |= {f"{name}.hours.{each}": array for each, array in level.hours.to_arrays().items()}
            arrays |= {f"{name}.{each}": getattr(level, each) for each in _ARRAYS}
            arrays[f"{name}.numbers"] = np.array([level.newest, level.known, level.issued, level.due])
            arrays[f"{name}.version"] = np.frombuffer(level.version.encode(), np.uint8)
        return arrays

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        notes = json.loads(arrays["notes"].tobytes())
        self._stations.numbers(notes["stations"])
        self._open = {(kind, subject): from_json(note.encode()) for kind, subject, note in notes["open"]}
        self._weather.from_arrays(below(arrays, "weather."))
        for name, level in self._levels.items():
            level.hours.from_arrays(below(arrays, f"{name}.hours."))
            for each in _ARRAYS:
                if arrays[f"{name}.{each}"].shape != getattr(level, each).shape:
                    raise ValueError("snapshot of another network")
                setattr(level, each, arrays[f"{name}.{each}"].copy())
            level.newest, level.known, level.issued, due = (int(value) for value in arrays[f"{name}.numbers"])
            level.version, level.due = arrays[f"{name}.version"].tobytes().decode(), bool(due)


_ARRAYS: Final = ("ring", "band", "outside", "inside", "deviation")
