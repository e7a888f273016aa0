"""What goes wrong: interruptions, transformers that fail, theft, demand that shifts, meters that are changed.

Interruptions come by chance, at a rate that rises with the square of gusts above 12 m/s. Half are of one usage point, a
third of a transformer, the rest of a feeder, of which some transformers come back later than the others (nested). A
third last less than a minute. A meter whose voltage is gone for 45 s sends its last gasp, if the network takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.meter_event import KINDS
from gridwire.grid.simulate.scenario import Scenario
from gridwire.grid.simulate.sky import HOUR_US, Sky
from gridwire.grid.simulate.town import Town, feeder_id, point_id, transformer_id

S_US: Final = 1_000_000
GASP_AFTER_S: Final = 45
CALM_MS: Final = 12.0
MOMENTARY_SHARE: Final = 0.33
_LEVELS: Final = ("usage_point", "transformer", "feeder")
_LEVEL_SHARES: Final = (0.5, 0.35, 0.15)
_MEDIAN_S: Final = (3_600.0, 5_400.0, 4_500.0)


@dataclass(frozen=True, slots=True)
class Outage:
    """An interruption of the usage points [first, last).

    Args:
        device: number of the usage point, transformer or feeder. covers_from_us: when the first of the interruptions
            began that this one prolongs.
    """

    number: int
    level: str
    device: int
    first: int
    last: int
    start_us: int
    end_us: int
    cause: str
    covers_from_us: int

    @property
    def momentary(self) -> bool:
        """Too short for a last gasp."""
        return self.end_us - self.start_us < GASP_AFTER_S * S_US

    @property
    def subject(self) -> str:
        """Id in the model."""
        return {"usage_point": point_id, "transformer": transformer_id, "feeder": feeder_id}[self.level](self.device)


@dataclass(frozen=True, slots=True)
class Failing:
    """A transformer whose winding has a fault: its voltage is off by `shift` (of 1), until it fails at `end_us`."""

    transformer: int
    start_us: int
    end_us: int
    shift: float


@dataclass(frozen=True, slots=True)
class Changes:
    """What happens once to some units. **Shape**: `units` ascending, `at_us` when, `factors` what is left (of 1)."""

    units: NDArray[np.int64]
    at_us: NDArray[np.int64]
    factors: NDArray[np.float32]

    def in_effect(self, at_us: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(units, factors) of those that have happened."""
        done = self.at_us <= at_us
        return self.units[done], self.factors[done]


@dataclass(frozen=True, slots=True)
class Happened:
    """n meter events in the order of their arrival. **Shape**: all `[n]`; `kinds` are positions in `KINDS`."""

    units: NDArray[np.int64]
    kinds: NDArray[np.int8]
    ts_us: NDArray[np.int64]
    arrives_us: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Faults:
    """All of a scenario. `shifts` are of transformers, the other changes of usage points."""

    outages: tuple[Outage, ...]
    failing: tuple[Failing, ...]
    theft: Changes
    shifts: Changes
    swaps: Changes
    happened: Happened

    def out_at(self, at_us: int) -> list[Outage]:
        """Interruptions that hold at a time."""
        return [each for each in self.outages if each.start_us <= at_us < each.end_us]

    def within(self, from_us: int, to_us: int) -> list[Outage]:
        """Interruptions of which some lies between two times."""
        return [each for each in self.outages if each.start_us < to_us and each.end_us > from_us]


def build(scenario: Scenario, town: Town, sky: Sky) -> Faults:
    """The faults of a scenario."""
    ranges = _Ranges(town)
    failing = _failing(scenario, town)
    outages = _outages(scenario, town, sky, ranges)
    for each in failing:
        if each.end_us < scenario.end_us:
            span = ranges.transformer(each.transformer)
            end_us = each.end_us + 8 * HOUR_US
            outages.append(
                Outage(0, "transformer", each.transformer, *span, each.end_us, end_us, "equipment", each.end_us)
            )
    outages.sort(key=lambda each: (each.start_us, each.first))
    numbered = tuple(
        Outage(n, o.level, o.device, o.first, o.last, o.start_us, o.end_us, o.cause, o.covers_from_us)
        for n, o in enumerate(outages)
    )
    theft = _changes(scenario, "theft", len(town), scenario.theft, 0.2, 0.7)
    swaps = _changes(scenario, "swaps", len(town), scenario.swaps, 1.0, 1.0)
    return Faults(
        numbered,
        failing,
        theft,
        _changes(scenario, "shifts", town.transformers, scenario.shifting, 1.25, 1.6),
        swaps,
        _happened(scenario, town, numbered, theft, swaps),
    )


class _Ranges:
    """Usage points below a transformer or feeder: they are numbered so that each has a stretch of its own."""

    def __init__(self, town: Town) -> None:
        self._of_transformer = np.searchsorted(town.transformer, np.arange(town.transformers + 1))
        self._of_feeder = np.searchsorted(town.feeder, np.arange(len(town.substation) + 1))

    def transformer(self, number: int) -> tuple[int, int]:
        return int(self._of_transformer[number]), int(self._of_transformer[number + 1])

    def feeder(self, number: int) -> tuple[int, int]:
        first, last = self.transformers(number)
        return int(self._of_transformer[first]), int(self._of_transformer[last])

    def transformers(self, feeder: int) -> tuple[int, int]:
        return int(self._of_feeder[feeder]), int(self._of_feeder[feeder + 1])


def _outages(scenario: Scenario, town: Town, sky: Sky, ranges: _Ranges) -> list[Outage]:
    random = scenario.random("outages")
    found: list[Outage] = []
    feeders_of = np.bincount(town.substation)
    for hour in range(len(sky.gust_ms) - 1):
        blown = np.maximum(sky.gust_ms[hour] - CALM_MS, 0.0).astype(np.float64) ** 2
        rate = scenario.outages / 24 * scenario.meters / 1000 * (1.0 + (blown * feeders_of).sum() / feeders_of.sum())
        weights = ((1.0 + blown) * feeders_of)[town.substation] / feeders_of[town.substation]
        for _ in range(int(random.poisson(rate))):
            start_us = scenario.start_us + hour * HOUR_US + int(random.integers(HOUR_US))
            feeder = int(random.choice(len(weights), p=weights / weights.sum()))
            cause = "storm" if blown[town.substation[feeder]] > 0 else "fault"
            found += _outage(random, ranges, town, feeder, start_us, cause)
    return [each for each in found if each.first < each.last]


def _outage(
    random: np.random.Generator, ranges: _Ranges, town: Town, feeder: int, start_us: int, cause: str
) -> list[Outage]:
    level = int(random.choice(3, p=_LEVEL_SHARES))
    duration_s = float(random.lognormal(np.log(_MEDIAN_S[level]), 0.6)) * (2.0 if cause == "storm" else 1.0)
    if random.random() < MOMENTARY_SHARE:
        duration_s = float(random.uniform(2, 40))
    end_us = start_us + max(1, int(duration_s)) * S_US
    first, last = ranges.transformers(feeder)
    if level == 2:
        whole = Outage(0, "feeder", feeder, *ranges.feeder(feeder), start_us, end_us, cause, start_us)
        return [whole, *_nested(random, ranges, whole, range(first, last))]
    transformer = int(random.integers(first, last))
    below = ranges.transformer(transformer)
    if level == 1:
        return [Outage(0, "transformer", transformer, *below, start_us, end_us, cause, start_us)]
    unit = int(random.integers(*below)) if below[0] < below[1] else below[0]
    return [Outage(0, "usage_point", unit, unit, min(unit + 1, below[1]), start_us, end_us, cause, start_us)]


def _nested(random: np.random.Generator, ranges: _Ranges, whole: Outage, transformers: range) -> list[Outage]:
    """Transformers that stay out when their feeder is back."""
    if whole.momentary or random.random() < 0.6:
        return []
    chosen = random.choice(len(transformers), min(2, len(transformers)), replace=False)
    found = []
    for place in sorted(chosen.tolist()):
        end_us = whole.end_us + int(random.lognormal(np.log(3_600), 0.5)) * S_US
        number = transformers[place]
        span = ranges.transformer(number)
        found.append(Outage(0, "transformer", number, *span, whole.end_us, end_us, "nested", whole.start_us))
    return found


def _failing(scenario: Scenario, town: Town) -> tuple[Failing, ...]:
    random = scenario.random("failing")
    chosen = np.flatnonzero(random.random(town.transformers) < scenario.failing)
    length_us = scenario.end_us - scenario.start_us
    found = []
    for transformer in chosen.tolist():
        start_us = scenario.start_us + int(random.uniform(0.1, 0.6) * length_us)
        end_us = start_us + int(random.uniform(0.2, 0.8) * length_us)
        shift = float(random.choice([0.04, 0.05, -0.05, -0.06]))
        found.append(Failing(transformer, start_us, end_us, shift))
    return tuple(found)


def _changes(scenario: Scenario, what: str, count: int, share: float, low: float, high: float) -> Changes:
    random = scenario.random(what)
    units = np.flatnonzero(random.random(count) < share)
    length_us = scenario.end_us - scenario.start_us
    at_us = scenario.start_us + (random.uniform(0.2, 0.8, len(units)) * length_us).astype(np.int64)
    return Changes(units, at_us, random.uniform(low, high, len(units)).astype(np.float32))


def _happened(scenario: Scenario, town: Town, outages: tuple[Outage, ...], theft: Changes, swaps: Changes) -> Happened:
    rows = [_of_outage(scenario, outage) for outage in outages]
    random = scenario.random("false gasps")
    days = (scenario.end_us - scenario.start_us) / (24 * HOUR_US)
    count = int(random.poisson(scenario.false_gasps * days * len(town) / 1000))
    at_us = scenario.start_us + (random.random(count) * (scenario.end_us - scenario.start_us)).astype(np.int64)
    rows.append(_rows(random.integers(0, len(town), count), "LAST_GASP", at_us, _delay_us(random, count)))
    noticed = random.random(len(theft.units)) < 0.3
    tampered = theft.units[noticed]
    rows.append(_rows(tampered, "TAMPER", theft.at_us[noticed], _delay_us(random, len(tampered))))
    rows.append(_rows(swaps.units, "METER_SWAP", swaps.at_us, _delay_us(random, len(swaps.units))))
    joined = [np.concatenate([row[column] for row in rows]) for column in range(4)]
    order = np.argsort(joined[3], kind="stable")
    units, kinds, ts_us, arrives_us = (column[order] for column in joined)
    return Happened(units, kinds.astype(np.int8), ts_us, arrives_us)


_Rows = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _of_outage(scenario: Scenario, outage: Outage) -> _Rows:
    """Last gasps and power restored of one interruption; a momentary one is told afterwards."""
    random = scenario.random("gasps", outage.number)
    units = np.arange(outage.first, outage.last, dtype=np.int64)
    back = units[random.random(len(units)) < 0.9]
    back_us = outage.end_us + (random.uniform(0, 30, len(back)) * S_US).astype(np.int64)
    if outage.momentary:
        return _rows(back, "MOMENTARY", np.full(len(back), outage.start_us), back_us - outage.start_us)
    gasping = units if outage.cause != "nested" else units[:0]  # who was out already has nothing to say
    gasping = gasping[random.random(len(gasping)) < scenario.last_gasps]
    gasp_us = outage.start_us + GASP_AFTER_S * S_US + (random.normal(0, 1, len(gasping)) * S_US).astype(np.int64)
    gasps = _rows(gasping, "LAST_GASP", gasp_us, _delay_us(random, len(gasping)))
    restored = _rows(back, "POWER_RESTORED", back_us, _delay_us(random, len(back)))
    return tuple(np.concatenate(pair) for pair in zip(gasps, restored, strict=True))  # type: ignore[return-value]


def _rows(units: NDArray[np.int64], kind: str, ts_us: NDArray[np.int64], delay_us: NDArray[np.int64]) -> _Rows:
    return units, np.full(len(units), KINDS.index(kind), np.int64), ts_us, ts_us + delay_us


def _delay_us(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Of a message through the meters' network: some seconds, sometimes a minute."""
    return (random.lognormal(np.log(4), 0.8, count) * S_US).astype(np.int64)
