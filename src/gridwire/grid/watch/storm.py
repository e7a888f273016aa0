"""The detector `storm`: how many customers stand in how much wind, substation by substation.

A finding `weather.storm` opens when the gust at a substation's station reaches `gust_ms`, changes when the storm
grows, and closes after `calm_hours` below `calm_ms`. `exposure` is the sum over hours of customers times the gust's
excess over `gust_ms`. It ranks substations; it forecasts no outages, for the age of lines and trees is not in it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.base import Detector, SeenWeather
from gridwire.grid.watch.hours import HOUR_US
from gridwire.grid.watch.weather import Stations


@dataclass(frozen=True, slots=True)
class StormSettings:
    """What can be set.

    Args:
        gust_ms: metres a second from which twigs and old trees break (Beaufort 8 begins at 17.2). severe_ms: critical
            from here on (Beaufort 10). calm_ms, calm_hours: below this for so long a storm is over.
        step_ms: growth that is told.
    """

    gust_ms: float = 17.2
    severe_ms: float = 24.5
    calm_ms: float = 14.0
    calm_hours: int = 6
    step_ms: float = 2.0


@dataclass(slots=True)
class _Storm:
    """A storm at one substation that goes on. `exposure` in customer hours times m/s."""

    started_us: int
    newest_us: int
    windy_us: int
    gust_ms: float
    told_ms: float
    exposure: float


class StormDetector(Detector):
    """See the module. A few hundred bytes a substation."""

    name = "storm"

    def __init__(self, index: NetworkIndex, settings: StormSettings | None = None) -> None:
        super().__init__(index)
        self.settings = settings or StormSettings()
        self._stations = Stations(index)
        self._places = _places(index)
        self._storms: dict[tuple[str, str, str], _Storm] = {}
        self._news: list[Finding] = []

    def weather(self, seen: SeenWeather) -> None:
        """Follow the gusts."""
        self._stations.numbers(seen.stations)
        for station, ts_us, gust_ms in zip(seen.stations, seen.ts_us.tolist(), seen.wind_gust_ms.tolist(), strict=True):
            if gust_ms == gust_ms:
                self._blow(station, int(ts_us), gust_ms)

    def _blow(self, station: str, ts_us: int, gust_ms: float) -> None:
        first = self._stations.ids[0] if self._stations.ids else ""
        for (kind, subject, named), customers in self._places.items():
            if (named or first) != station:
                continue
            key = (kind, subject, named)
            storm = self._storms.get(key)
            if storm is None and gust_ms >= self.settings.gust_ms:
                self._storms[key] = _Storm(ts_us, ts_us, ts_us, gust_ms, gust_ms, 0.0)
                self._news.append(self._finding(key, customers))
            elif storm is not None and ts_us > storm.newest_us:
                self._grow(key, customers, ts_us, gust_ms)

    def _grow(self, key: tuple[str, str, str], customers: int, ts_us: int, gust_ms: float) -> None:
        storm, rules = self._storms[key], self.settings
        hours = min(1.0, (ts_us - storm.newest_us) / HOUR_US)
        storm.newest_us = ts_us
        storm.gust_ms = max(storm.gust_ms, gust_ms)
        storm.exposure += customers * hours * max(0.0, gust_ms - rules.gust_ms)
        if gust_ms >= rules.calm_ms:
            storm.windy_us = ts_us
        if ts_us - storm.windy_us >= rules.calm_hours * HOUR_US:
            closed = replace(self._finding(key, customers), state=FindingState.CLOSED, ended_us=storm.windy_us)
            self._news.append(closed)
            del self._storms[key]
        elif storm.gust_ms >= storm.told_ms + rules.step_ms:
            storm.told_ms = storm.gust_ms
            self._news.append(replace(self._finding(key, customers), state=FindingState.CHANGED))

    def _finding(self, key: tuple[str, str, str], customers: int) -> Finding:
        storm = self._storms[key]
        severe = storm.gust_ms >= self.settings.severe_ms
        return Finding(
            kind="weather.storm", subject_kind=key[0], subject=key[1], started_us=storm.started_us,
            severity=Severity.CRITICAL if severe else Severity.WARNING, confidence=1.0, detector=self.name,
            evidence={
                "gust_ms": storm.gust_ms, "customers": customers, "exposure": round(storm.exposure, 1),
                "station": key[2] or (self._stations.ids[0] if self._stations.ids else ""),
            },
        )  # fmt: skip

    def findings(self, now_us: int) -> list[Finding]:
        """What is new since the last call."""
        news, self._news = self._news, []
        return news

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        storms = [[*key, s.started_us, s.newest_us, s.windy_us, s.gust_ms, s.told_ms, s.exposure]
                  for key, s in self._storms.items()]  # fmt: skip
        text = json.dumps({"stations": self._stations.ids, "storms": storms}).encode()
        return {"state": np.frombuffer(text, np.uint8)}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        state = json.loads(arrays["state"].tobytes())
        self._stations.numbers(state["stations"])
        for kind, subject, named, *numbers in state["storms"]:
            self._storms[kind, subject, named] = _Storm(*numbers)


def _places(index: NetworkIndex) -> dict[tuple[str, str, str], int]:
    """Customers by (kind, substation, station); of the whole network where the model names no substations."""
    customers: Counter[tuple[str, str, str]] = Counter()
    for transformer in index.transformer_of_unit.tolist():
        substation = index.substation_of_transformer[transformer]
        kind, subject = ("substation", substation) if substation else ("network", "network")
        customers[kind, subject, index.station_of_transformer[transformer]] += 1
    return dict(customers)
