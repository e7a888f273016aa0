"""A small utility with injected faults, for measuring what finds them: measured load shapes, a simple voltage model.

    kW of each usage point      SimBench's household and business profiles, each shifted by days, scaled and roughened
    voltage of each usage point medium voltage of its substation (day shape, slow noise, tap steps)
                                - drop of its transformer's wire (its phase) - drops along its feeder, shared with others
                                + noise of the meter, rounded to 0.1 V

Everything is a function of the seed. Without SimBench's package the shapes are two bumps a day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gridwire.grid import network as net
from gridwire.grid import reading_types
from gridwire.grid.watch.base import Detector, SeenLoads, SeenReadings

PER_DAY = 96
INTERVAL_S = 900
INTERVAL_US = INTERVAL_S * 1_000_000
FIRST_SLOT = 1_704_067_200 // INTERVAL_S  # Monday 2024-01-01T00:00Z
NOMINAL_V = 230.0
PER_SUBSTATION = 8
VOLTAGE = reading_types.BY_ALIAS["voltage_v"].id
IMPORT = reading_types.IMPORT_KWH

Floats = NDArray[np.float64]


@dataclass
class Grid:
    """**Shape**: `kw`, `volts` `[slots, units]`, as they are; the arrays of the model as in `NetworkIndex`."""

    network: net.Network
    index: net.NetworkIndex
    kw: Floats
    volts: Floats
    rated_kva: Floats

    @property
    def slots(self) -> int:
        return len(self.kw)


@cache
def shapes() -> Floats:
    """Profiles of a year, mean 1, `[35,136, n]`."""
    try:
        from gridwire.grid.profiles import load_profiles
        from gridwire.grid.simbench import DEMO_CODES, SimbenchUnavailable, import_simbench

        grids = import_simbench(DEMO_CODES, name="accuracy")
        names = {source.profile: i for i, source in enumerate(grids.sources) if not source.generator}
        profiles = load_profiles(grids)
        wanted = [profiles.profile_of_unit[i] for name, i in sorted(names.items()) if name.startswith(("H0", "G"))]
        found = profiles.profiles[:, wanted]
    except (ImportError, SimbenchUnavailable):
        hours = np.arange(35_136) / 4.0 % 24.0
        bumps = [np.exp(-((hours - at) ** 2) / 8.0) for at in (8.0, 19.0, 12.0)]
        found = np.column_stack([0.2 + bumps[0] + bumps[1], 0.2 + bumps[2], 0.3 + bumps[1]])
    return found / found.mean(axis=0)


def make_grid(seed: int, transformers: int, days: int, units_each: int = 20) -> Grid:
    """Substations of eight transformers, each with some `units_each` usage points on three feeders."""
    random = np.random.default_rng(seed)
    counts = random.integers(units_each * 3 // 4, units_each * 5 // 4 + 1, transformers)
    above = np.repeat(np.arange(transformers), counts)
    n, slots = len(above), days * PER_DAY
    phase = np.where(random.random(n) < 0.85, random.integers(1, 4, n), 0)
    kw = _loads(random, n, slots)
    sums = np.zeros((slots, transformers))
    for each in range(transformers):
        sums[:, each] = kw[:, above == each].sum(axis=1)
    rated = sums.max(axis=0) / 0.95 / random.uniform(0.6, 0.9, transformers)
    volts = _voltages(random, kw, above, phase, rated)
    feeder = random.integers(0, 3, n)
    network = net.Network(
        name="accuracy",
        transformers=tuple(
            net.Transformer(id=f"T{i}", rated_kva=round(float(rated[i]), 1), substation=f"S{i // PER_SUBSTATION}")
            for i in range(transformers)
        ),
        feeders=tuple(net.Feeder(id=f"T{i} F{k}", transformer=f"T{i}") for i in range(transformers) for k in range(3)),
        usage_points=tuple(
            net.UsagePoint(id=f"U{i}", transformer=f"T{t}", feeder=f"T{t} F{feeder[i]}", phase=int(phase[i]))
            for i, t in enumerate(above.tolist())
        ),
    )
    return Grid(network, network.index(), kw, volts, rated)


def _loads(random: np.random.Generator, n: int, slots: int) -> Floats:
    profiles = shapes()
    mean_kw = random.lognormal(-0.9, 0.45, n)
    kw = np.empty((slots, n))
    at = np.arange(slots)
    for unit in range(n):
        # Whole days apart, so that it is evening everywhere at the same time, but not the same evening.
        one, two = random.integers(0, profiles.shape[1], 2)
        shift = random.integers(0, 20, 2) * 7 * PER_DAY + random.integers(-2, 3, 2)
        mix = (
            0.6 * profiles[(at + shift[0]) % len(profiles), one] + 0.4 * profiles[(at + shift[1]) % len(profiles), two]
        )
        daily = np.repeat(random.lognormal(-0.01, 0.15, slots // PER_DAY), PER_DAY)
        kw[:, unit] = mean_kw[unit] * mix * daily * random.lognormal(-0.1, 0.45, slots)
    return np.round(kw * 250.0) / 250.0  # whole watt-hours


def _voltages(random: np.random.Generator, kw: Floats, above: Floats, phase: Floats, rated: Floats) -> Floats:
    slots, n = kw.shape
    hours = np.arange(slots) / 4.0
    pu = np.empty((slots, n))
    sources = []
    for _ in range(-(-len(rated) // PER_SUBSTATION)):
        noise = np.convolve(random.normal(0, 0.0012, slots + 15), np.ones(16) / 4.0, "valid")
        taps = np.cumsum(np.where(random.random(slots) < 0.004, random.choice([-1, 1], slots), 0)).clip(-1, 1) * 0.0125
        sources.append(1.015 - 0.006 * np.sin(hours / 24.0 * 2 * np.pi - 1.0) + noise + taps)
    for each in range(len(rated)):
        mine = np.flatnonzero(above == each)
        base = sources[each // PER_SUBSTATION] + random.normal(0, 0.006)
        feeder, distance = random.integers(0, 3, len(mine)), random.uniform(0.1, 1.0, len(mine))
        wires = np.array([[1 / 3] * 3 if p == 0 else [float(p == q) for q in (1, 2, 3)] for p in phase[mine]])
        seen = np.array([[1.0, 0, 0] if p == 0 else [float(p == q) for q in (1, 2, 3)] for p in phase[mine]])
        shared = np.minimum(distance[:, None], distance[None, :]) * (feeder[:, None] == feeder[None, :])
        line = 0.06 / rated[each] * shared * (seen @ wires.T)
        trafo = 0.075 / rated[each] * (seen @ wires.T)  # 2.5 % where all phases carry a third of the rating
        pu[:, mine] = base[:, None] - kw[:, mine] @ (line + trafo).T
    return pu * NOMINAL_V


# -- feeding ------------------------------------------------------------------------------------------------------


def measured(grid: Grid, volts: Floats, seed: int) -> Floats:
    """Voltages as meters send them."""
    random = np.random.default_rng(seed + 1)
    return np.round(volts + random.normal(0, 0.0005 * NOMINAL_V, volts.shape), 1)


def readings(index: net.NetworkIndex, slot: int, type: int, values: Floats, points: NDArray[np.int32] | None = None) -> SeenReadings:  # fmt: skip
    """One interval of all usage points, or of some."""
    points = np.arange(len(index.unit_ids), dtype=np.int32) if points is None else points
    n = len(points)
    ts_us = (FIRST_SLOT + slot + 1) * INTERVAL_US
    return SeenReadings(
        points, np.full(n, type, np.int16), np.full(n, ts_us), np.full(n, INTERVAL_S, np.int32), values,
        np.full(n, ts_us + 60_000_000),
    )  # fmt: skip


def loads(index: net.NetworkIndex, slot: int, load_kw: Floats, known: NDArray[np.bool_] | None = None) -> SeenLoads:
    """One interval of all transformers, or of those that are known."""
    units = np.arange(len(load_kw), dtype=np.int32) if known is None else np.flatnonzero(known).astype(np.int32)
    n = len(units)
    ts_us = (FIRST_SLOT + slot + 1) * INTERVAL_US
    ones = np.ones(n, np.int32)
    return SeenLoads(
        "transformer", units, np.full(n, ts_us), np.full(n, INTERVAL_S, np.int32), load_kw[units],
        ones, ones, np.full(n, ts_us + 61_000_000),
    )  # fmt: skip


def transformer_kw(grid: Grid) -> Floats:
    """`[slots, transformers]`."""
    n = len(grid.index.transformer_ids)
    above = grid.index.transformer_of_unit
    return np.column_stack([grid.kw[:, above == i].sum(axis=1) for i in range(n)])


def run(detector: Detector, slots: int, feed: Callable[[Detector, int], None]) -> Iterator[tuple[int, list]]:
    """Feed interval after interval; yields (slot, findings) where something was found."""
    for slot in range(slots):
        feed(detector, slot)
        found = detector.findings((FIRST_SLOT + slot + 1) * INTERVAL_US + 60_000_000)
        if found:
            yield slot, found
