"""Voltages whose time lies far ahead of everybody's are believed when several say so."""

from __future__ import annotations

import numpy as np
import pytest

from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.reading_types import BY_ALIAS
from gridwire.grid.watch.ahead import QUORUM_MAX, SUSPECTS_MAX, Ahead
from gridwire.grid.watch.base import SeenReadings

INTERVAL_US = 900_000_000
NOW = 1_630_000
YEARS = 175_000
VOLTS, ENERGY = BY_ALIAS["voltage_l1_v"].id, BY_ALIAS["import_kwh"].id


def guard(units=530):
    points = tuple(UsagePoint(id=f"U{n}", transformer="T", feeder="F") for n in range(units))
    network = Network(name="n", transformers=(Transformer(id="T"),), feeders=(Feeder(id="F"),), usage_points=points)
    return Ahead(network.index())


def seen(*slots, type=VOLTS, points=None):
    n = len(slots)
    who = np.arange(n, dtype=np.int32) if points is None else np.array(points, np.int32)
    return SeenReadings(
        who, np.full(n, type, np.int16), np.array(slots, np.int64) * INTERVAL_US, np.zeros(n, np.int32),
        np.full(n, 230.0), np.zeros(n, np.int64),
    )  # fmt: skip


def kept(ahead, *slots, **more):
    return (ahead.only(seen(*slots, **more)).ts_end_us // INTERVAL_US).tolist()


def started():
    ahead = guard()
    kept(ahead, *[NOW] * QUORUM_MAX)
    assert ahead.newest == NOW
    return ahead


def test_one_from_the_future_moves_nobody():
    ahead = started()
    assert kept(ahead, NOW + 1, NOW + YEARS, NOW + 1, NOW + 2) == [NOW + 1, NOW + 1, NOW + 2]
    assert ahead.newest == NOW + 2
    assert ahead.passed_over == QUORUM_MAX - 1 + 1  # those that were first at the start, and the lone one
    assert kept(ahead, NOW + YEARS) == []
    assert kept(ahead, NOW + 3) == [NOW + 3]


def test_one_that_says_it_again_and_again_is_still_one():
    ahead = started()
    for _ in range(3 * QUORUM_MAX):
        assert kept(ahead, NOW + YEARS, points=[7]) == []
    assert kept(ahead, NOW + 1) == [NOW + 1]


def test_a_gap_of_everybody_ends_when_several_are_back():
    ahead = started()
    later = [NOW + 500] * (QUORUM_MAX + 3)
    assert kept(ahead, *later) == later[: 3 + 1]
    assert kept(ahead, NOW + 501) == [NOW + 501]


def test_within_reach_everything_passes_and_so_does_what_is_late():
    ahead = started()
    assert kept(ahead, NOW + 8, NOW + 16, NOW - YEARS, NOW + 24) == [NOW + 8, NOW + 16, NOW - YEARS, NOW + 24]


def test_energies_are_not_asked():
    ahead = started()
    assert kept(ahead, NOW + YEARS, type=ENERGY) == [NOW + YEARS]
    assert ahead.newest == NOW


def test_few_meters_are_each_believed():
    assert kept(guard(units=60), NOW, NOW + YEARS, NOW + 1) == [NOW, NOW + YEARS, NOW + 1]


@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
def test_how_readings_are_cut_into_batches_changes_nothing(cut):
    random = np.random.default_rng(cut)
    slots = (NOW + np.arange(600) // 5 + random.choice([0, 0, 0, YEARS, 9, 700], 600)).tolist()
    whole, parts = guard(), guard()
    expected = kept(whole, *slots)
    found = [
        slot
        for at in range(0, 600, cut)
        for slot in kept(parts, *slots[at : at + cut], points=[*range(600)][at : at + cut])
    ]
    assert found == expected
    assert parts.newest == whole.newest
    again = guard()
    again.from_arrays(parts.to_arrays())
    assert kept(again, NOW + 5000, NOW + 130) == kept(whole, NOW + 5000, NOW + 130)


def test_what_is_remembered_of_strangers_is_bounded():
    ahead = started()
    assert kept(ahead, *range(NOW + 1000, NOW + 1000 + 3 * SUSPECTS_MAX)) == []
    assert len(ahead.to_arrays()["suspects"]) == SUSPECTS_MAX
