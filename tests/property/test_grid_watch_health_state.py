"""States of the health detectors are functions of the order of rows, not of batches; snapshots are exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.grid import network as net
from gridwire.grid import reading_types
from gridwire.grid.meter_event import KINDS
from gridwire.grid.watch.base import Detector, SeenEvents, SeenLoads, SeenReadings
from gridwire.grid.watch.health import Health
from gridwire.grid.watch.losses import Losses
from gridwire.grid.watch.mapping import Mapping, MappingSettings
from gridwire.grid.watch.seen import give, part_of
from gridwire.grid.watch.voltage import Voltage

POINTS, TRANSFORMERS = 24, 4
QUARTER_US = 900_000_000
DAYS = 14
TYPES = [reading_types.BY_ALIAS[name].id for name in ("voltage_v", "voltage_l1_v", "voltage_l2_v", "import_kwh")]
MAKERS: list[Callable[[net.NetworkIndex], Detector]] = [
    Health, Voltage, Losses, lambda index: Mapping(index, MappingSettings(slots=96), cells_max=96 * 15)
]  # fmt: skip


def index() -> net.NetworkIndex:
    return net.Network(
        name="n",
        transformers=tuple(
            net.Transformer(id=f"T{i}", rated_kva=50.0, substation="S", meter="U23" if i == 0 else "")
            for i in range(TRANSFORMERS)
        ),
        feeders=tuple(net.Feeder(id=f"F{i}", transformer=f"T{i}") for i in range(TRANSFORMERS)),
        usage_points=tuple(
            net.UsagePoint(id=f"U{i}", transformer=f"T{i % TRANSFORMERS}", feeder=f"F{i % TRANSFORMERS}")
            for i in range(POINTS)
        ),
    ).index()


def stream(seed: int) -> list[Any]:
    """Days of readings, repeated, late and in disorder, with loads and events between them."""
    random = np.random.default_rng(seed)
    start = 1_704_067_200_000_000 // QUARTER_US
    parts: list[Any] = []
    # Transformers move each in its own way; U5 moves with another one's, and is high for days; U9 uses less one day.
    wires = np.cumsum(random.normal(0, 0.004, (DAYS * 96 + 100, TRANSFORMERS)), axis=0) * 0.2
    above = np.arange(POINTS) % TRANSFORMERS
    above[5] = 2
    for slot in range(start, start + DAYS * 96, 6):
        n = 240
        slots = slot + random.integers(0, 6, n) - np.where(random.random(n) < 0.05, random.integers(0, 60, n), 0)
        types = random.choice(TYPES[:3], n)
        points = random.integers(0, POINTS, n)
        off = wires[np.maximum(slots - start, 0), above[points]] + random.normal(0, 0.001, n)
        off += np.where((points == 7) & (slots > start + 300) & (slots < start + 600), 0.13, 0.0)
        values = 230.0 * (1.0 + off)
        ts = slots * QUARTER_US
        parts.append(
            SeenReadings(
                points.astype(np.int32), types.astype(np.int16), ts,
                np.full(n, 900, np.int32), values, ts,
            )
        )  # fmt: skip
        whole = np.full(POINTS, slot * QUARTER_US)  # energy of everybody, or no day would be whole
        for step in range(6):
            at = whole + step * QUARTER_US
            energy = random.exponential(0.2, POINTS)
            energy[9] *= 1.0 if slot < start + 8 * 96 else 0.02
            parts.append(
                SeenReadings(
                    np.arange(POINTS, dtype=np.int32), np.full(POINTS, TYPES[3], np.int16), at,
                    np.full(POINTS, 900, np.int32), energy, at,
                )
            )  # fmt: skip
            if random.random() < 0.1:
                parts.append(parts[-1])
        m = 9
        at = (slot + random.integers(-2, 3, m)) * QUARTER_US
        counts = random.integers(0, 7, m).astype(np.int32)
        parts.append(
            SeenLoads(
                "transformer", random.integers(0, TRANSFORMERS, m).astype(np.int32), at, np.full(m, 900, np.int32),
                random.uniform(0, 80, m), counts, np.full(m, 6, np.int32), at,
            )
        )  # fmt: skip
        if random.random() < 0.1:
            at = np.array([slot * QUARTER_US])
            kind = np.array([KINDS.index("TAMPER")], np.int8)
            parts.append(SeenEvents(np.array([9 if slot > start + 8 * 96 else 3], np.int32), kind, at, at))
    return parts


STREAM = stream(1)


def drain(detector: Detector) -> list[tuple[str, str, str]]:
    """What it found, whatever the order of those found at the same time."""
    found = [one for _ in range(8) for one in detector.findings(0)]
    return sorted((one.id, one.state, str(sorted(one.evidence.items(), key=str))) for one in found)


def same(one: Detector, other: Detector) -> None:
    a, b = one.to_arrays(), other.to_arrays()
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Whole:
    """A detector that was given the stream as it is, and what it found."""

    def __init__(self, make: Callable[[net.NetworkIndex], Detector]) -> None:
        self.make, self.detector = make, make(index())
        self.found: list[Any] = []
        for part in STREAM:
            give([self.detector], part)
            self.found += drain(self.detector)
        self.facts = self.detector.facts()


@pytest.fixture(scope="module", params=range(len(MAKERS)), ids=["health", "voltage", "losses", "mapping"])
def whole(request: pytest.FixtureRequest) -> Whole:
    return Whole(MAKERS[request.param])


@given(seed=st.integers(0, 2**32))
@settings(max_examples=3, deadline=None)
def test_cuts_make_no_difference(whole: Whole, seed: int) -> None:
    random = np.random.default_rng(seed)
    detector, mine = whole.make(index()), []
    for part in STREAM:
        cuts = sorted({0, len(part), *random.integers(0, len(part) + 1, 3).tolist()})
        for begin, end in itertools.pairwise(cuts):
            give([detector], part_of(part, begin, end))
        mine += drain(detector)
    same(detector, whole.detector)
    assert mine == whole.found
    assert sorted(detector.facts(), key=str) == sorted(whole.facts, key=str)


def test_something_was_found(whole: Whole) -> None:
    assert whole.found


def test_a_snapshot_goes_on_where_it_was_taken(whole: Whole) -> None:
    detector, mine = whole.make(index()), []
    for number, part in enumerate(STREAM):
        give([detector], part)
        if number % 97 == 0:  # before it was asked what it found
            arrays = {name: array.copy() for name, array in detector.to_arrays().items()}
            detector = whole.make(index())
            detector.from_arrays(arrays)
        mine += drain(detector)
    same(detector, whole.detector)
    assert mine == whole.found


def test_a_snapshot_of_another_model_is_refused(whole: Whole) -> None:
    other = net.Network(name="n", transformers=(), feeders=(), usage_points=()).index()
    with pytest.raises((ValueError, KeyError, IndexError)):
        whole.make(other).from_arrays(whole.detector.to_arrays())
