"""What happens to the demo utility: a heat wave, a storm in every afternoon, interruptions, demand that shifts.

    noon      it gets hot: cooling runs at two usage points of five, and the new chargers under one transformer load it
              beyond its rating until the late evening, where its voltage sags
    14 - 18   the storm: gusts up to 30 m/s, two feeders, a transformer and some usage points without power for at most
              an hour; of a feeder a part comes back later than the rest
    any time  interruptions of seconds, and last gasps of meters that had power all the time

Everything follows from a seed and the number of the interval, so a demo that is started again goes on in the same
weather. Meters without power send nothing until they are back; then they send what is due, late.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from gridwire.core.batch import Event
from gridwire.core.hubs import METER_EVENTS, READINGS, WEATHER
from gridwire.demo.plan import LATE_INTERVALS_MAX
from gridwire.grid.meter_event import MeterEvent, meter_event
from gridwire.grid.network import Network
from gridwire.grid.profiles import INTERVAL_S, QuarterHours
from gridwire.grid.reading import decimal_text, rfc3339

STATION: Final = "Demo weather station"
PER_DAY: Final = 96
STORM: Final = (14 * 3600, 18 * 3600)
NOON: Final = 12 * 3600
LONGEST_S: Final = LATE_INTERVALS_MAX * INTERVAL_S
"""Of an interruption: what a reading is late at most, so that the truth about an interval is known by then."""

GASP_AFTER_S: Final = 45
GASP_SHARE: Final = 0.7
RESTORED_SHARE: Final = 0.95
COOLING_SHARE: Final = 0.4
COOLING_PER_C: Final = 0.05
COMFORT_C: Final = 24.0
OVERLOAD: Final = 1.4
"""The highest load of the transformer that ages, of its rating; cooling comes on top."""

VOLTAGE_EVERY: Final = 5
NOMINAL_V: Final = 230.0
DROP_AT_RATING: Final = 0.06
_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Interruption:
    """Usage points (positions in the model) without power. `start_s`, `end_s`: seconds since the epoch."""

    id: str
    level: str
    subject: str
    units: NDArray[np.intp] = field(repr=False)
    start_s: int
    end_s: int
    cause: str
    within: str = ""

    def truth(self) -> dict[str, Any]:
        """As a line of `outages.jsonl`."""
        told = {name: getattr(self, name) for name in ("id", "level", "subject", "cause", "within")}
        times = {"start": rfc3339(self.start_s * _US), "end": rfc3339(self.end_s * _US)}
        return told | times | {"usage_points": len(self.units)}


class Storm:
    """The events of a demo. `network`, `profiles`: the utility's. `first`: the interval at which a demo begins."""

    def __init__(self, network: Network, profiles: QuarterHours, first: int, seed: int = 2016) -> None:
        self._network, self._profiles, self._first, self._seed = network, profiles, first, seed
        self._index = index = network.index()
        random = np.random.default_rng(seed)
        loads = np.array(["import_kwh" in unit.expects for unit in network.usage_points], bool)
        self._cools = loads & (random.random(len(loads)) < COOLING_SHARE)
        self._measures_voltage = np.arange(len(loads)) % VOLTAGE_EVERY == 0
        self._sign = np.where(loads, 1.0, -1.0)
        self.overloaded = self._fullest()
        self._grown = loads & (index.transformer_of_unit == self.overloaded)
        self.growth = self._growth()
        self._day = lru_cache(4)(self._make_day)

    def truth(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file, line) of what holds from the beginning on."""
        name = self._index.transformer_ids[self.overloaded]
        since = rfc3339((self._day_start_s(0) + NOON) * _US)
        yield "transformers", {"transformer": name, "kind": "overload", "from": since, "rating_share_least": OVERLOAD}
        yield "shifts", {"transformer": name, "kind": "growth", "from": since, "factor": round(self.growth, 3)}
        cooling = [self._network.usage_points[at].id for at in np.flatnonzero(self._cools).tolist()]
        yield "shifts", {"kind": "cooling", "from": since, "per_c": COOLING_PER_C, "usage_points": cooling}

    # -- what it does to meters ---------------------------------------------------------------------------------

    def energy_wh(self, interval: int, plain_wh: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the meters measure where `plain_wh` would have been."""
        factor = self._demand(interval) * (1.0 - self.without_power(interval))
        changed: NDArray[np.int64] = np.rint(plain_wh * factor).astype(np.int64)
        return changed

    def without_power(self, interval: int) -> NDArray[np.float64]:
        """**Shape** `[units]`: share of an interval in which there was no power."""
        end_s = self._end_s(interval)
        share = np.zeros(len(self._sign))
        for each in self._near(interval):
            overlap = min(end_s, each.end_s) - max(end_s - INTERVAL_S, each.start_s)
            if overlap > 0:
                share[each.units] = np.maximum(share[each.units], overlap / INTERVAL_S)
        return share

    def held(self, interval: int) -> NDArray[np.int64]:
        """**Shape** `[units]`: intervals until a meter that has no power at the end of this one can send."""
        end_s = self._end_s(interval)
        waits = np.zeros(len(self._sign), np.int64)
        for each in self._near(interval):
            if each.start_s < end_s < each.end_s and each.end_s - each.start_s >= GASP_AFTER_S:
                waits[each.units] = np.maximum(waits[each.units], -(-(each.end_s - end_s) // INTERVAL_S))
        return waits

    def weather(self, interval: int) -> tuple[float, float]:
        """(degrees Celsius, gust in m/s) at the end of an interval."""
        second = (self._end_s(interval) - self._day_start_s(0)) % 86_400
        noise = np.random.default_rng((self._seed, interval, 1)).normal(0, 1, 2)
        hot = 12.0 if self._end_s(interval) >= self._day_start_s(0) + NOON else 4.0
        warm_c = 15.0 + hot * (0.5 + 0.5 * np.cos((second - 15 * 3600) / 86_400 * 2 * np.pi)) + 8.0 * (hot > 10)
        middle, width = sum(STORM) / 2, (STORM[1] - STORM[0]) / 4
        gust = 5.0 + 22.0 * np.exp(-(((second - middle) / width) ** 2)) + abs(noise[1]) * 1.5
        return round(float(warm_c + 0.3 * noise[0]), 1), round(float(gust), 1)

    def events(self, interval: int) -> Iterator[tuple[str, Event]]:
        """(hub, event) of everything beside energies that is sent in an interval."""
        ts_end = rfc3339(self._profiles.ts_end_us(interval))
        temperature_c, gust_ms = self.weather(interval)
        told = {"station": STATION, "ts_end": ts_end, "temperature_c": temperature_c, "wind_gust_ms": gust_ms}
        yield WEATHER, Event(orjson.dumps(told), STATION.encode())
        for event in sorted(self._meter_events(interval), key=lambda event: (event.ts_us, event.usage_point)):
            yield METER_EVENTS, meter_event(event)
        yield from self._voltages(interval, ts_end)

    def begun(self, interval: int) -> list[dict[str, Any]]:
        """Lines of `outages.jsonl`: interruptions that begin in an interval."""
        end_s = self._end_s(interval)
        return [each.truth() for each in self._near(interval) if end_s - INTERVAL_S < each.start_s <= end_s]

    def _meter_events(self, interval: int) -> Iterator[MeterEvent]:
        end_s = self._end_s(interval)
        points = self._network.usage_points
        random = np.random.default_rng((self._seed, interval, 2))
        near = self._near(interval)
        later = {(each.within, at) for each in near if each.within for at in each.units.tolist()}
        for each in near:
            for at in each.units.tolist():
                chance = np.random.default_rng((self._seed, each.start_s, at)).random(2)
                for kind, second, arrives in _messages(each, chance, (each.id, at) in later):
                    if end_s - INTERVAL_S < second <= end_s and arrives:
                        severity = "high" if kind == "LAST_GASP" else ""
                        yield MeterEvent(second * _US, kind, usage_point=points[at].id, severity=severity)
        if random.random() < 1 / PER_DAY:
            at = int(random.integers(len(points)))
            yield MeterEvent((end_s - 60) * _US, "LAST_GASP", usage_point=points[at].id, severity="high")

    def _voltages(self, interval: int, ts_end: str) -> Iterator[tuple[str, Event]]:
        index = self._index
        energy_wh = self.energy_wh(interval, self._profiles_plain(interval)) * self._sign
        net_kw = np.bincount(index.transformer_of_unit, energy_wh, len(index.transformer_ids)) * 3600 / INTERVAL_S / 1e3
        share = net_kw / np.where(index.rated_kva > 0, index.rated_kva, 400.0)
        noise = np.random.default_rng((self._seed, interval, 3)).normal(0, 0.4, len(energy_wh))
        volts = NOMINAL_V * (1.01 - DROP_AT_RATING * share[index.transformer_of_unit]) + noise
        silent = self.held(interval) > 0
        for at in np.flatnonzero(self._measures_voltage & ~silent).tolist():
            unit = self._network.usage_points[at]
            value = decimal_text(round(float(volts[at]) * 10), -1)
            head = f'{{"usage_point":{orjson.dumps(unit.id).decode()},"ts_end":"{ts_end}","interval_s":0,'
            text = f'{head}"reading_type":"voltage_v","value":{value}}}'
            yield READINGS, Event(text.encode(), unit.transformer.encode())

    # -- the plan of a day --------------------------------------------------------------------------------------

    def _near(self, interval: int) -> list[Interruption]:
        """Interruptions of the days an interval may have to do with."""
        day = (interval - self._first) // PER_DAY
        return [each for number in (day - 1, day) if number >= 0 for each in self._day(number)]

    def _make_day(self, day: int) -> list[Interruption]:
        random = np.random.default_rng((self._seed, day, 4))
        start_s = self._day_start_s(day)
        found: list[Interruption] = []

        def add(
            level: str, at: int, units: NDArray[np.intp], begins_s: int, length_s: int, cause: str, within: str = ""
        ) -> str:
            names = {"feeder": self._index.feeder_ids, "transformer": self._index.transformer_ids}
            subject = names[level][at] if level in names else self._network.usage_points[at].id
            id = f"day {day} number {len(found)}"
            ends_s = begins_s + min(length_s, LONGEST_S - 60)
            found.append(Interruption(id, level, subject, units, begins_s, ends_s, cause, within))
            return id

        begins_s = (start_s + random.integers(*STORM, 8)).tolist()
        for at in random.choice(len(self._index.feeder_ids), 2, replace=False).tolist():
            units = np.flatnonzero(self._index.feeder_of_unit == at)
            when, length_s = begins_s.pop(), int(random.integers(1_200, 2_400))
            id = add("feeder", at, units, when, length_s, "storm")
            later = units[random.random(len(units)) < 0.3]
            if len(later):
                add("feeder", at, later, when, length_s + 900, "nested", id)
        at = int(random.integers(len(self._index.transformer_ids)))
        units = np.flatnonzero(self._index.transformer_of_unit == at)
        add("transformer", at, units, begins_s.pop(), int(random.integers(1_200, 3_000)), "storm")
        for at in random.choice(len(self._sign), 4, replace=False).tolist():
            add("usage_point", at, np.array([at]), begins_s.pop(), int(random.integers(900, 3_500)), "storm")
        at = int(random.integers(len(self._index.feeder_ids)))
        units = np.flatnonzero(self._index.feeder_of_unit == at)
        add("feeder", at, units, start_s + int(random.integers(0, 86_400)), int(random.integers(3, 40)), "momentary")
        return found

    # -- demand -------------------------------------------------------------------------------------------------

    def _demand(self, interval: int) -> NDArray[np.float64]:
        factor = np.ones(len(self._sign))
        second = (self._end_s(interval) - self._day_start_s(0)) % 86_400
        if self._end_s(interval) >= self._day_start_s(0) + NOON:
            degrees = max(0.0, self.weather(interval)[0] - COMFORT_C)
            factor[self._cools] += COOLING_PER_C * degrees
            if second >= NOON and second < 23 * 3600:
                factor[self._grown] *= self.growth
        return factor

    def _profiles_plain(self, interval: int) -> NDArray[np.int64]:
        return QuarterHours.energy_wh(self._profiles, interval)

    def _load_kw(self) -> NDArray[np.float64]:
        """**Shape** `[96, transformers]`: of the first day."""
        index = self._index
        return np.array(
            [
                np.bincount(index.transformer_of_unit, self._profiles_plain(i) * self._sign, len(index.transformer_ids))
                for i in range(self._first, self._first + PER_DAY)
            ]
        ) * (3600 / INTERVAL_S / 1000)

    def _fullest(self) -> int:
        rated = np.where(self._index.rated_kva > 0, self._index.rated_kva, np.inf)
        return int(np.argmax(self._load_kw().max(axis=0) / rated))

    def _growth(self) -> float:
        peak_kw = float(self._load_kw()[:, self.overloaded].max())
        rated_kva = float(self._index.rated_kva[self.overloaded])
        return max(1.0, OVERLOAD * rated_kva / peak_kw) if peak_kw > 0 and rated_kva > 0 else 1.0

    def _end_s(self, interval: int) -> int:
        return self._profiles.ts_end_us(interval) // _US

    def _day_start_s(self, day: int) -> int:
        return self._end_s(self._first + day * PER_DAY) - INTERVAL_S


def _messages(each: Interruption, chance: NDArray[np.float64], stays: bool) -> Iterator[tuple[str, int, bool]]:
    """(kind, second, whether it arrives) of what a meter says of an interruption. `stays`: it comes back later only."""
    if each.end_s - each.start_s < GASP_AFTER_S:
        yield "MOMENTARY", each.end_s + 1, bool(chance[0] < GASP_SHARE)
        return
    if each.cause != "nested":  # the one it prolongs has told already
        yield "LAST_GASP", each.start_s + GASP_AFTER_S, bool(chance[0] < GASP_SHARE)
    if not stays:
        yield "POWER_RESTORED", each.end_s + 2 + round(28 * float(chance[1])), bool(chance[1] < RESTORED_SHARE)


@dataclass(frozen=True, slots=True)
class StormyHours(QuarterHours):
    """Energy of a utility on which a storm works."""

    storm: Storm | None = None

    def energy_wh(self, interval: int) -> NDArray[np.int64]:
        """Whole watt-hours that the meters measure in one interval."""
        plain_wh = QuarterHours.energy_wh(self, interval)
        return plain_wh if self.storm is None else self.storm.energy_wh(interval, plain_wh)


class TruthFiles:
    """What really happened, as lines of JSON: `outages.jsonl`, `transformers.jsonl`, `shifts.jsonl`."""

    def __init__(self, folder: Path, storm: Storm) -> None:
        self._folder, self._storm = folder, storm
        folder.mkdir(parents=True, exist_ok=True)
        lines: dict[str, list[bytes]] = {}
        for name, line in storm.truth():
            lines.setdefault(name, []).append(orjson.dumps(line) + b"\n")
        for name, texts in lines.items():
            self._path(name).write_bytes(b"".join(texts))
        outages = self._path("outages")
        told = outages.read_bytes().splitlines() if outages.exists() else []
        self._known = {orjson.loads(line)["id"] for line in told}

    def add(self, interval: int) -> None:
        """Write down what begins in an interval, unless it is known."""
        new = [line for line in self._storm.begun(interval) if line["id"] not in self._known]
        if new:
            self._known |= {line["id"] for line in new}
            with self._path("outages").open("ab") as file:
                file.write(b"".join(orjson.dumps(line) + b"\n" for line in new))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"


def stormy(profiles: QuarterHours, storm: Storm) -> StormyHours:
    """The profiles of a utility with what a storm does to them."""
    return StormyHours(profiles.first_end_us, profiles.profiles, profiles.profile_of_unit, profiles.power_kw, storm)
