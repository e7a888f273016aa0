"""The detector `demand`: when the demand of a transformer or feeder is not what it used to be.

    facts -> closed hours -> local days -> what weekday and weather explain is removed -> CUSUM -> demand.shift
                                   |           (gridwire.grid.watch.response)   `-> of the day's peak -> demand.peak
                                   `-> profile of workdays, fast against slow -> demand.peak_time

`demand.shift` is a lasting change of the daily mean, `demand.peak` of the height of the daily peak, `demand.peak_time`
of its hour. A finding opens when the change is sure and closes after `SETTLE_DAYS`, when the new level has been learnt
and the shift is known better. Where no weather is known, demand that follows it looks like change: the evidence says
`weather: false`, and `weather.missing` opens for the network when a station falls silent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, time
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.network import NetworkIndex
from gridwire.grid.reading import timestamp_us
from gridwire.grid.watch.base import Detector, SeenLoads, SeenWeather
from gridwire.grid.watch.hours import HOUR_US, Hour, LoadHours, StationHours, in_time
from gridwire.grid.watch.response import Response, ResponseModel
from gridwire.grid.watch.shifts import Changes, Cusum
from gridwire.grid.watch.told import from_json, to_json
from gridwire.grid.watch.weather import Stations

MEAN, PEAK = 0, 1
_KINDS: Final = ("demand.shift", "demand.peak", "demand.peak_time")
PEAK_TIME: Final = 2

SETTLE_DAYS: Final = 14
"""How long a finding stays open: two weeks of the new level."""

NETWORK: Final = -1
"""Row of the network as a whole."""

PEERS_MIN: Final = 8
"""Units from which on their median says what all have in common."""

SOLAR_MIN: Final = 5
"""The same for those with panels."""

FACTOR_FADE: Final = 1 - 1 / 60
"""How fast what units have in common is forgotten."""

PRIOR_DAYS: Final = 10.0
"""Days for which it is believed that a unit does as the median unit does."""

WAITING_MAX: Final = 1_000_000
"""Facts that wait to be looked at: 40 MB."""

UNSURE_DAYS: Final = 10
"""Days after which predictions are better than nothing."""

DAY_HOURS_MIN: Final = 22
"""Complete hours a day must have: one more may be missing than in spring, when a day has 23."""

_FAST, _SLOW = 1 / 5, 1 / 45
"""Weights of a new workday in the two profiles."""


@dataclass(frozen=True, slots=True)
class DemandSettings:
    """What can be set.

    Args:
        zone: of the utility: its days and weekends.
        learn_days: days learnt from before anything is told.
        slack, threshold: of the CUSUM, in standard deviations of a day.
        share_least: smallest change told, as a share of the unit's mean load.
        peak_hours_least: smallest move of the profile told. peak_gain_least: by how much more it must be like the
            old profile when that is moved. peak_days: workdays in a row it must have moved.
        missing_hours: hours without temperature after which that is told.
    """

    zone: str = "UTC"
    learn_days: int = 28
    slack: float = 1.0
    threshold: float = 6.5
    share_least: float = 0.1
    peak_hours_least: int = 2
    peak_gain_least: float = 0.15
    peak_days: int = 4
    missing_hours: int = 24


@dataclass(slots=True)
class _Open:
    """A finding that is open."""

    finding: Finding
    until: int
    innovations: list[float] = field(default_factory=list)


class _Day:
    """Hours of one local day of n units, gathered."""

    def __init__(self, units: int) -> None:
        self.total = np.zeros(units)
        self.hours = np.zeros(units, np.int64)
        self.peak = np.full(units, -np.inf)
        self.profile = np.full((24, units), np.nan)
        self.numbers: list[int] = []

    def take(self, hour: Hour, local_hour: int) -> None:
        known = np.isfinite(hour.load_kw)
        self.total += np.where(known, hour.load_kw, 0.0)
        self.hours += known
        self.peak = np.maximum(self.peak, np.where(known, hour.load_kw, -np.inf))
        self.profile[local_hour] = hour.load_kw
        self.numbers.append(hour.number)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "total": self.total, "known": self.hours, "peak": self.peak, "profile": self.profile,
            "numbers": np.array(self.numbers, np.int64),
        }  # fmt: skip

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.total, self.hours = arrays["total"].copy(), arrays["known"].copy()
        self.peak, self.profile = arrays["peak"].copy(), arrays["profile"].copy()
        self.numbers = arrays["numbers"].tolist()

    def values(self) -> NDArray[np.float64]:
        """**Shape** `[n, 2]`: mean and peak of the day, NaN where too many hours are missing."""
        whole = self.hours >= DAY_HOURS_MIN
        mean = np.where(whole, self.total / np.maximum(self.hours, 1), np.nan)
        return np.stack([mean, np.where(whole, self.peak, np.nan)], axis=1)


class Units:
    """Everything known of transformers and feeders, in this order: what is common to them is seen in all of them."""

    def __init__(self, index: NetworkIndex, settings: DemandSettings) -> None:
        self.ids = (*index.transformer_ids, *index.feeder_ids)
        units, interval_s = len(self.ids), index.interval_s
        self.first_feeder, self.settings = len(index.transformer_ids), settings
        self.hours = LoadHours(units, interval_s)
        self.model = ResponseModel(units, targets=2)
        self.cusums = [Cusum(units, settings.slack, settings.threshold, settings.learn_days) for _ in range(2)]
        self.network = Cusum(1, settings.slack, settings.threshold, settings.learn_days)
        self.scale = np.zeros(units)
        self.spread = np.zeros((units, 2))
        self.factors = np.zeros((2, 2, 2))
        self.loadings = np.zeros((units, 2, 2))
        self.fast, self.slow = np.full((24, units), np.nan), np.full((24, units), np.nan)
        self.moved = np.zeros(units, np.int64)
        self.workdays = np.zeros(units, np.int64)
        self.skipped = 0
        self.open: dict[tuple[int, int], _Open] = {}
        self.day: _Day | None = None
        self.date = date.min

    def gathered(self, hour: Hour, zone: ZoneInfo) -> tuple[date, _Day] | None:
        """Take an hour; returns the day that it ended, if it did."""
        local = datetime.fromtimestamp((hour.number - 1) * 3600, zone)
        ended = None
        if self.day is None or local.date() != self.date:
            ended = None if self.day is None else (self.date, self.day)
            self.day, self.date = _Day(len(self.ids)), local.date()
        self.day.take(hour, local.hour)
        return ended

    def learn(self, on: date, day: _Day, temperature_c: NDArray[np.float64]) -> Iterator[Finding]:
        """Take a whole day: what it says of changes, then learn from it. `temperature_c[n]`: mean of the day."""
        values, weekend = day.values(), on.weekday() >= 5
        # A unit that has known weather before is not told that a cold day was a normal one.
        lacking = (self.model.weather_days > 1.0) & ~np.isfinite(temperature_c)
        values[lacking] = np.nan
        self.skipped += int(lacking.sum())
        innovations = values - self.model.predict(temperature_c, weekend)
        known = np.isfinite(values[:, MEAN])
        self.scale[known] += 0.05 * (np.abs(values[known, MEAN]) - self.scale[known])
        days = self.model.days
        first = known & (days < 0.5)
        self.scale[first] = np.abs(values[first, MEAN])
        innovations[days < UNSURE_DAYS] = np.nan
        yield from self._common(on, innovations)
        innovations = self._beside_peers(innovations)
        yield from self._settle(on, innovations)
        for target in (MEAN, PEAK):
            changes = self.cusums[target].step(innovations[:, target], on.toordinal())
            yield from self._tell(target, changes, values[:, target])
        calm = self.cusums[MEAN].calm(on.toordinal()) & self.cusums[PEAK].calm(on.toordinal())
        self.model.learn(np.where(calm[:, None], values, np.nan), temperature_c, weekend)
        if not weekend:
            yield from self._peak_time(on, day)

    def _beside_peers(self, innovations: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is left of innovations when what is common to all units is taken out.

        Holidays, seasons and weather that nobody measured move everybody, and the sun moves those with panels most. Two
        factors are known of a day: the score of the median unit, and that of the median unit with less load at noon
        than else. How much of each a unit follows is learnt. A change of one unit is in neither.
        """
        rows = np.flatnonzero(np.isfinite(innovations).all(axis=1))
        if len(rows) < PEERS_MIN:
            return innovations
        fresh = self.spread[rows] == 0.0
        size = np.abs(innovations[rows])
        limited = np.where(fresh, size, np.minimum(size, 4.0 * self.spread[rows]))
        self.spread[rows] = np.where(fresh, size, self.spread[rows] + 0.05 * (limited - self.spread[rows]))
        score = np.clip(innovations[rows] / np.maximum(self.spread[rows], 1e-9), -4.0, 4.0)
        factors = np.stack([np.median(score, axis=0), self._solar(rows, score)])
        found = innovations.copy()
        for target in (MEAN, PEAK):
            f = factors[:, target]
            # Without anything learnt a unit follows the median unit as it is.
            prior = np.array([PRIOR_DAYS, 0.0])
            gram = self.factors[target] + PRIOR_DAYS * np.eye(2)
            own = np.linalg.solve(gram, (self.loadings[rows, target] + prior).T).T
            found[rows, target] -= own @ f * self.spread[rows, target]
            self.factors[target] = FACTOR_FADE * self.factors[target] + np.outer(f, f)
            self.loadings[rows, target] = FACTOR_FADE * self.loadings[rows, target] + score[:, target, None] * f
        return found

    def _solar(self, rows: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.float64]:
        """**Shape** `[2]`: score of the median unit with less load at noon than else, 0 if there are too few."""
        profile = self.slow[:, rows]
        with np.errstate(invalid="ignore"):
            solar = profile[10:15].mean(axis=0) < 0.7 * profile.mean(axis=0)
        return np.median(score[solar], axis=0) if solar.sum() >= SOLAR_MIN else np.zeros(2)

    def _common(self, on: date, innovations: NDArray[np.float64]) -> Iterator[Finding]:
        """A change of the median unit: of the whole network."""
        known = np.isfinite(innovations[:, MEAN]) & (self.scale > 0)
        if known.sum() < PEERS_MIN:
            return
        share = float(np.median(innovations[known, MEAN] / self.scale[known]))
        changes = self.network.step(np.array([share]), on.toordinal())
        if len(changes) and abs(changes.shifts[0]) >= self.settings.share_least:
            shift = float(changes.shifts[0])
            evidence = {
                "direction": "up" if shift > 0 else "down", "shift_pct": round(100 * shift, 1),
                "units": int(known.sum()), "days": int(changes.steps[0]),
                "weather": bool((self.model.weather_days > 1.0).any()),
            }  # fmt: skip
            yield self._opened(MEAN, NETWORK, int(changes.starts[0]), _confidence(changes.scores[0]), evidence)

    def _tell(self, target: int, changes: Changes, values: NDArray[np.float64]) -> Iterator[Finding]:
        if not len(changes):
            return
        rows = changes.rows
        self.model.shift(rows, changes.shifts, target)
        weather = self.model.weather_days > 1.0
        for at, row in enumerate(rows.tolist()):
            shift = float(changes.shifts[at])
            share = shift / max(float(self.scale[row]), 1e-9)
            if abs(share) < self.settings.share_least:
                continue
            evidence = {
                "direction": "up" if shift > 0 else "down",
                "shift_kw": round(shift, 3),
                "shift_pct": round(100 * share, 1),
                "before_kw": round(float(values[row]) - shift, 3),
                "after_kw": round(float(values[row]), 3),
                "days": int(changes.steps[at]),
                "standard_errors": round(float(changes.scores[at]), 2),
                "weather": bool(weather[row]),
            }
            yield self._opened(target, row, int(changes.starts[at]), _confidence(changes.scores[at]), evidence)

    def _opened(self, kind: int, row: int, start: int, confidence: float, evidence: dict[str, Any]) -> Finding:
        begun = datetime.combine(date.fromordinal(start), time(), ZoneInfo(self.settings.zone)).astimezone(UTC)
        finding = Finding(
            kind=_KINDS[kind], subject_kind=self._kind(row),
            subject="network" if row == NETWORK else self.ids[row], started_us=timestamp_us(begun),
            severity=Severity.WARNING if abs(evidence.get("shift_pct", 0.0)) >= 50 else Severity.INFO,
            confidence=confidence, detector="demand", evidence=evidence,
        )  # fmt: skip
        self.open[kind, row] = _Open(finding, self.date.toordinal() + SETTLE_DAYS)
        return finding

    def _kind(self, row: int) -> str:
        return "network" if row == NETWORK else "feeder" if row >= self.first_feeder else "transformer"

    def _settle(self, on: date, innovations: NDArray[np.float64]) -> Iterator[Finding]:
        """Close what has been open long enough, with what was learnt since."""
        for (kind, row), open_ in list(self.open.items()):
            if kind != PEAK_TIME and row != NETWORK and np.isfinite(innovations[row, kind]):
                open_.innovations.append(float(innovations[row, kind]))
            if on.toordinal() < open_.until:
                continue
            del self.open[kind, row]
            evidence = dict(open_.finding.evidence)
            if open_.innovations:
                evidence["shift_kw"] = round(evidence["shift_kw"] + float(np.mean(open_.innovations)), 3)
                evidence["shift_pct"] = round(100 * evidence["shift_kw"] / max(float(self.scale[row]), 1e-9), 1)
            ended = datetime.combine(on, time(), ZoneInfo(self.settings.zone)).astimezone(UTC)
            yield _changed(open_.finding, FindingState.CLOSED, evidence, timestamp_us(ended))

    def _peak_time(self, on: date, day: _Day) -> Iterator[Finding]:
        whole = day.hours >= DAY_HOURS_MIN
        known = np.isfinite(day.profile) & whole
        for profile, weight in ((self.fast, _FAST), (self.slow, _SLOW)):
            fresh = known & np.isnan(profile)
            profile[fresh] = day.profile[fresh]
            profile[known] += weight * (day.profile[known] - profile[known])
        self.workdays += whole
        ready = np.flatnonzero(whole & np.isfinite(self.slow).all(axis=0) & (self.workdays >= self.settings.learn_days))
        fast, slow = _beside_others(_smooth(self.fast[:, ready]), _smooth(self.slow[:, ready]))
        found = _moves(fast, slow, self.settings.peak_gain_least)
        moved = np.abs(found.hours) >= self.settings.peak_hours_least
        self.moved[ready] = np.where(moved, self.moved[ready] + 1, 0)
        for each in np.flatnonzero(self.moved[ready] == self.settings.peak_days).tolist():
            row = int(ready[each])
            evidence = {
                "hour_before": int(found.before[each]), "hour_after": int(found.now[each]),
                "moved_hours": int(found.hours[each]), "peak_kw": round(float(self.fast[:, row].max()), 3),
                "likeness_pct": round(100 * float(found.likeness[each]), 1),
                "likeness_unmoved_pct": round(100 * float(found.unmoved[each]), 1), "days": self.settings.peak_days,
            }  # fmt: skip
            confidence = min(0.99, 0.5 + float(found.likeness[each] - found.unmoved[each]))
            self.slow[:, row] = self.fast[:, row]
            if (PEAK_TIME, row) not in self.open:
                yield self._opened(PEAK_TIME, row, on.toordinal() - self.settings.peak_days, confidence, evidence)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        notes = {
            "date": self.date.isoformat(), "skipped": self.skipped,
            "open": [[*key, to_json(o.finding).decode(), o.until, o.innovations] for key, o in self.open.items()],
        }  # fmt: skip
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["notes"] = np.frombuffer(json.dumps(notes).encode(), np.uint8)
        for prefix, part in self._parts():
            arrays |= {f"{prefix}.{name}": array for name, array in part.to_arrays().items()}
        return arrays

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        for name in _ARRAYS:
            if arrays[name].shape != getattr(self, name).shape:
                raise ValueError("snapshot of another network")
            setattr(self, name, arrays[name].copy())
        notes = json.loads(arrays["notes"].tobytes())
        self.date, self.skipped = date.fromisoformat(notes["date"]), notes["skipped"]
        self.open = {
            (kind, row): _Open(from_json(finding.encode()), until, innovations)
            for kind, row, finding, until, innovations in notes["open"]
        }
        self.day = _Day(len(self.ids)) if "day.total" in arrays else None
        for prefix, part in self._parts():
            part.from_arrays(below(arrays, f"{prefix}."))

    def _parts(self) -> list[tuple[str, Any]]:
        parts = [("hours", self.hours), ("model", self.model), ("mean", self.cusums[MEAN]), ("peak", self.cusums[PEAK])]
        parts.append(("network", self.network))
        return [*parts, ("day", self.day)] if self.day is not None else [*parts]


_ARRAYS: Final = ("scale", "spread", "factors", "loadings", "fast", "slow", "moved", "workdays")


def below(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _smooth(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.roll(profile, 1, axis=0) + profile + np.roll(profile, -1, axis=0)) / 3.0


def _beside_others(
    fast: NDArray[np.float64], slow: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(fast without what changed for everybody, slow): a season moves the peaks of all. **Shape** `[24, n]`."""
    if fast.shape[1] < PEERS_MIN:
        return fast, slow
    size = np.maximum(np.abs(slow).mean(axis=0), 1e-9)
    return fast - np.median((fast - slow) / size, axis=1)[:, None] * size, slow


@dataclass(frozen=True, slots=True)
class _Moves:
    """**Shape** `[n]`. `hours`: by which a profile moved, 0 if it did not. `before`, `now`: hours of its peak.
    `likeness`: correlation with the old profile moved by `hours`. `unmoved`: with the old profile as it was."""

    hours: NDArray[np.int64]
    before: NDArray[np.int64]
    now: NDArray[np.int64]
    likeness: NDArray[np.float64]
    unmoved: NDArray[np.float64]


def _moves(fast: NDArray[np.float64], slow: NDArray[np.float64], gain_least: float) -> _Moves:
    """By how many hours each profile moved: that shift at which it is most like the old one, if that says enough.

    The hour of the maximum alone says little: of two peaks now this, now that one is a little higher.
    """
    a, b = fast - fast.mean(axis=0), slow - slow.mean(axis=0)
    size = np.maximum(np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)), 1e-12)
    lags = np.arange(-11, 13)
    likeness = np.stack([(a * np.roll(b, lag, axis=0)).sum(axis=0) / size for lag in lags])
    best = likeness.argmax(axis=0)
    at = np.arange(fast.shape[1])
    unmoved = likeness[11]
    sure = likeness[best, at] - unmoved >= gain_least
    return _Moves(np.where(sure, lags[best], 0), slow.argmax(axis=0), fast.argmax(axis=0), likeness[best, at], unmoved)


def _confidence(standard_errors: float) -> float:
    """How sure a shift is, given that a year has 365 days on which one could have been seen by chance."""
    return float(min(0.9999, max(0.5, 1.0 - 365.0 * math.erfc(float(standard_errors) / math.sqrt(2.0)))))


def _changed(finding: Finding, state: FindingState, evidence: dict[str, Any], ended_us: int | None) -> Finding:
    return Finding(
        kind=finding.kind, subject_kind=finding.subject_kind, subject=finding.subject, started_us=finding.started_us,
        severity=finding.severity, confidence=finding.confidence, detector=finding.detector, state=state,
        ended_us=ended_us, version=finding.version + 1, evidence=evidence,
    )  # fmt: skip


class DemandDetector(Detector):
    """See the module. State: some 5 KB a unit, of which 1.5 KB are open hours."""

    name = "demand"

    def __init__(self, index: NetworkIndex, settings: DemandSettings | None = None) -> None:
        super().__init__(index)
        self.settings = settings or DemandSettings()
        self._zone = ZoneInfo(self.settings.zone)
        self._stations = Stations(index)
        self._weather = StationHours()
        self._news: list[Finding] = []
        self._silent: dict[int, Finding] = {}
        self._newest_weather: dict[int, int] = {}
        self._waiting: list[SeenLoads] = []
        # Hours cannot be made of longer intervals: nothing is found then.
        self.units = Units(index, self.settings) if 3600 % index.interval_s == 0 else None

    def weather(self, seen: SeenWeather) -> None:
        """Keep temperatures."""
        stations = self._stations.numbers(seen.stations)
        self._weather.take(stations, seen.ts_us, seen.temperature_c)
        measured = np.isfinite(seen.temperature_c) & (stations >= 0)
        for station, ts_us in zip(stations[measured].tolist(), seen.ts_us[measured].tolist(), strict=True):
            self._newest_weather[station] = max(self._newest_weather.get(station, 0), ts_us // HOUR_US)

    def loads(self, seen: SeenLoads) -> None:
        """Take facts; they are looked at when all hubs are at the same time, see `in_time`."""
        if self.units is not None:
            moved = seen.units + np.int32(self.units.first_feeder if seen.level == "feeder" else 0)
            self._waiting.append(replace(seen, units=moved))
            if sum(map(len, self._waiting)) >= WAITING_MAX:
                self._judge()

    def _judge(self) -> None:
        """Look at the days that the facts end."""
        waiting, self._waiting = self._waiting, []
        if self.units is None or not waiting:
            return
        for hour in self.units.hours.take(in_time(waiting)):
            ended = self.units.gathered(hour, self._zone)
            if ended is not None:
                on, day = ended
                self._news += self.units.learn(on, day, self._temperature(day.numbers))
                self._news += self._missing(day.numbers[-1])

    def _temperature(self, hours: list[int]) -> NDArray[np.float64]:
        """**Shape** `[n_units]`: mean over some hours at each unit's station."""
        stations = np.concatenate([self._stations.of_units("transformer"), self._stations.of_units("feeder")])
        means = np.append(self._weather.mean(np.array(hours, np.int64)), np.nan)  # the last one is nobody's
        found: NDArray[np.float64] = means[np.where((stations < 0) | (stations >= len(means) - 1), -1, stations)]
        return found

    def _missing(self, hour: int) -> Iterator[Finding]:
        """Tell which stations have fallen silent, and which are back."""
        for station, newest in self._newest_weather.items():
            silent = hour - newest >= self.settings.missing_hours
            if silent and station not in self._silent:
                self._silent[station] = Finding(
                    kind="weather.missing", subject_kind="network", subject=self._stations.ids[station],
                    started_us=newest * HOUR_US, severity=Severity.WARNING, confidence=1.0, detector="demand",
                    evidence={"station": self._stations.ids[station], "hours": hour - newest},
                )  # fmt: skip
                yield self._silent[station]
            elif not silent and station in self._silent:
                finding = self._silent.pop(station)
                yield _changed(finding, FindingState.CLOSED, dict(finding.evidence), newest * HOUR_US)

    def findings(self, now_us: int) -> list[Finding]:
        """What is new since the last call."""
        self._judge()
        news, self._news = self._news, []
        return news

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        self._judge()
        notes = {
            "stations": self._stations.ids,
            "silent": [[station, to_json(finding).decode()] for station, finding in self._silent.items()],
            "newest": list(self._newest_weather.items()),
            "news": [to_json(finding).decode() for finding in self._news],
        }
        arrays: dict[str, NDArray[Any]] = {"notes": np.frombuffer(json.dumps(notes).encode(), np.uint8)}
        arrays |= {f"weather.{name}": array for name, array in self._weather.to_arrays().items()}
        if self.units is not None:
            arrays |= {f"units.{name}": array for name, array in self.units.to_arrays().items()}
        return arrays

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        notes = json.loads(arrays["notes"].tobytes())
        self._stations.numbers(notes["stations"])
        self._silent = {station: from_json(finding.encode()) for station, finding in notes["silent"]}
        self._newest_weather = dict(notes["newest"])
        self._news = [from_json(finding.encode()) for finding in notes["news"]]
        self._weather.from_arrays(below(arrays, "weather."))
        if self.units is not None:
            self.units.from_arrays(below(arrays, "units."))

    def responses(self, level: str) -> Response:
        """How the mean load of each transformer or feeder responds to weekend and temperature.

        Raises:
            ValueError: the network's intervals are longer than an hour.
        """
        if self.units is None:
            raise ValueError("hours cannot be made of the network's intervals")
        whole, first = self.units.model.response(), self.units.first_feeder
        rows = slice(0, first) if level == "transformer" else slice(first, None)
        return Response(*(getattr(whole, each.name)[rows] for each in fields(Response)))
