"""When readings arrive: most at the end of their interval, some late, some never, and after an outage all at once.

A head-end that is down for some hours keeps what its meters sent and hands it over afterwards. All of it is a function
of the scenario, so a step can be made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.simulate.faults import Faults, Outage
from gridwire.grid.simulate.scenario import INTERVAL_US, Scenario
from gridwire.grid.simulate.sky import HOUR_US
from gridwire.grid.simulate.town import Town

LATE_MAX: Final = 8
"""The latest a reading comes by itself: two hours."""

NEVER: Final = 127
HEAD_ENDS: Final = 4
"""Feeders are shared out among so many head-ends."""


@dataclass(frozen=True, slots=True)
class HeadEndOutage:
    """A head-end hands nothing over between two times."""

    head_end: int
    start_us: int
    end_us: int


Due = list[tuple[int, NDArray[np.int64]]]
"""(interval, usage points whose readings of it arrive now), oldest first."""


class Arrivals:
    """What arrives in which step; step k is the end of interval k."""

    def __init__(self, scenario: Scenario, town: Town, faults: Faults) -> None:
        self._scenario, self._faults, self._points = scenario, faults, len(town)
        self._head_end = (town.feeder[town.transformer] % HEAD_ENDS).astype(np.int8)
        self.head_end_outages = _head_ends(scenario)

    def due(self, step: int) -> Due:
        """What arrives at a step."""
        found: Due = []
        for back in self._after_outages(step) + self._after_head_ends(step):
            found.append(back)
        for late in range(min(LATE_MAX, step), 0, -1):
            units = np.flatnonzero(self._sendable(step - late, late))
            if len(units):
                found.append((step - late, units))
        now = self._sendable(step, 0)
        found.append((step, np.flatnonzero(now)))
        random = self._scenario.random("twice", step)
        again = np.flatnonzero(now & (random.random(self._points) < self._scenario.duplicate))
        if len(again):
            found.append((step, again))
        return found

    def delays(self, interval: int) -> NDArray[np.int8]:
        """How many intervals late each reading of an interval would come by itself; NEVER. **Shape** `[n]`."""
        random = self._scenario.random("delays", interval)
        chance = random.random(self._points, dtype=np.float32)
        late = chance < self._scenario.late
        delays = np.where(late, random.integers(1, LATE_MAX + 1, self._points), 0).astype(np.int8)
        delays[chance > 1 - self._scenario.missing] = NEVER
        return delays

    def _sendable(self, interval: int, late: int) -> NDArray[np.bool_]:
        """Whose reading of an interval comes just so late, for they have power and a head-end."""
        end_us = self._end_us(interval)
        arrives_us = self._end_us(interval + late)
        chosen: NDArray[np.bool_] = self.delays(interval) == late
        for outage in self._faults.out_at(end_us):
            chosen[outage.first : outage.last] = False  # sent when power is back
        for down in self.head_end_outages:
            if down.start_us <= arrives_us < down.end_us:
                chosen &= self._head_end != down.head_end
        return chosen

    def _after_outages(self, step: int) -> Due:
        """Readings that meters kept until they had power again."""
        found: Due = []
        for outage in self._faults.outages:
            if self._end_us(step - 1) < outage.end_us <= self._end_us(step):
                others = self._faults.out_at(outage.end_us)
                still = [other for other in others if other.first < outage.last and other.last > outage.first]
                units = _without(np.arange(outage.first, outage.last, dtype=np.int64), still)
                for interval in self._ending_within(outage.covers_from_us, outage.end_us):
                    kept = units[self.delays(interval)[units] != NEVER]
                    if len(kept):
                        found.append((interval, kept))
        return found

    def _after_head_ends(self, step: int) -> Due:
        found: Due = []
        for down in self.head_end_outages:
            if self._end_us(step - 1) < down.end_us <= self._end_us(step):
                for interval in self._ending_within(down.start_us - LATE_MAX * INTERVAL_US, down.end_us):
                    delays = self.delays(interval)
                    arrival_us = self._end_us(interval) + delays.astype(np.int64) * INTERVAL_US
                    held = (delays != NEVER) & (arrival_us >= down.start_us) & (arrival_us < down.end_us)
                    units = np.flatnonzero(held & (self._head_end == down.head_end))
                    units = _without(units, self._faults.out_at(self._end_us(interval)))
                    if len(units):
                        found.append((interval, units))
        return found

    def _ending_within(self, from_us: int, to_us: int) -> range:
        """Intervals whose end lies in [from, to)."""
        first = -(-(from_us - self._scenario.start_us) // INTERVAL_US) - 1
        last = -(-(to_us - self._scenario.start_us) // INTERVAL_US) - 1
        return range(max(first, 0), max(last, 0))

    def _end_us(self, interval: int) -> int:
        return self._scenario.start_us + (interval + 1) * INTERVAL_US


def _without(units: NDArray[np.int64], outages: list[Outage]) -> NDArray[np.int64]:
    for outage in outages:
        units = units[(units < outage.first) | (units >= outage.last)]
    return units


def _head_ends(scenario: Scenario) -> tuple[HeadEndOutage, ...]:
    """One of two hours every third day, by chance."""
    random = scenario.random("head-ends")
    found = []
    for day in range(scenario.days):
        if random.random() < 1 / 3:
            start_us = scenario.start_us + int((day + random.uniform(0.1, 0.8)) * 24 * HOUR_US)
            found.append(HeadEndOutage(int(random.integers(HEAD_ENDS)), start_us, start_us + 2 * HOUR_US))
    return tuple(found)
