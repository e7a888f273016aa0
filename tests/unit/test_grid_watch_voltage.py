"""Voltages outside their band: alarms of usage points and transformers, phases, weeks."""

from __future__ import annotations

import numpy as np
import pytest

from gridwire.grid import network as net
from gridwire.grid import reading_types
from gridwire.grid.findings import Finding, FindingState
from gridwire.grid.watch.base import SeenReadings
from gridwire.grid.watch.voltage import Voltage

QUARTER_US = 900_000_000
START = 1_704_067_200_000_000 // QUARTER_US  # a Monday
L1, L2 = (reading_types.BY_ALIAS[name].id for name in ("voltage_l1_v", "voltage_l2_v"))
ANY = reading_types.BY_ALIAS["voltage_v"].id


def detector(points: int = 4, standard: str = "en50160", nominal_v: float = 230.0) -> Voltage:
    return Voltage(
        net.Network(
            name="n",
            voltage_standard=standard,  # type: ignore[arg-type]
            transformers=(net.Transformer(id="T", nominal_v=nominal_v),),
            feeders=(net.Feeder(id="F", transformer="T"),),
            usage_points=tuple(net.UsagePoint(id=f"U{i}", transformer="T", feeder="F") for i in range(points)),
        ).index()
    )


def give(found: Voltage, slot: int, volts: list[float], type: int = ANY) -> list[tuple[str, str, FindingState]]:
    n = len(volts)
    ts = np.full(n, (START + 1 + slot) * QUARTER_US)
    found.readings(
        SeenReadings(
            np.arange(n, dtype=np.int32), np.full(n, type, np.int16), ts, np.zeros(n, np.int32), np.array(volts), ts
        )
    )
    return [(one.kind, one.subject, one.state) for one in found.findings(0)]


def test_a_usage_point_opens_after_an_hour_and_closes_when_it_is_well_within() -> None:
    found, told = detector(), []
    for slot in range(20):
        # 252 V is within the band but not well within: it does not close.
        volts = 255.0 if 2 <= slot < 8 else 252.5 if slot < 12 else 230.0
        told += [(slot, *one) for one in give(found, slot, [volts, 230.0, 230.0, 230.0])]
    assert told == [
        (6, "voltage.high", "U0", FindingState.OPENED), (16, "voltage.high", "U0", FindingState.CLOSED),
    ]  # fmt: skip


def test_a_short_dip_is_none() -> None:
    found = detector()
    for slot in range(20):
        assert give(found, slot, [200.0 if slot % 4 else 230.0] * 4) == []


def test_most_customers_are_one_finding_of_the_transformer() -> None:
    found, told = detector(6), []
    for slot in range(14):
        low = 200.0 if slot < 7 else 230.0
        told += give(found, slot, [low] * 4 + [230.0] * 2)
    # One customer more than the rest stays low.
    assert told == [("voltage.low", "T", FindingState.OPENED), ("voltage.low", "T", FindingState.CLOSED)]


def test_who_stays_outside_is_told_when_the_transformer_is_not() -> None:
    found, told = detector(6), []
    for slot in range(14):
        told += give(found, slot, [200.0] + [200.0 if slot < 7 else 230.0] * 3 + [230.0] * 2)
    assert told[1:] == [("voltage.low", "T", FindingState.CLOSED), ("voltage.low", "U0", FindingState.OPENED)]


def test_one_phase_is_enough_and_one_interval_counts_once() -> None:
    found, told = detector(1), []
    for slot in range(8):
        for type, volts in ((L1, 230.0), (L2, 260.0)):
            told += [(slot, *one) for one in give(found, slot, [volts], type)]
            assert give(found, slot, [volts], type) == []  # sent twice
    assert told == [(4, "voltage.high", "U0", FindingState.OPENED)]
    assert found.bands[:, 0].tolist() == [0, 0, 8, 0, 8]
    assert found.late == 16


@pytest.mark.parametrize(("volts", "band"), [(108.0, 0), (112.0, 1), (120.0, 2), (126.5, 3), (128.0, 4)])
def test_bands_of_ansi(volts: float, band: int) -> None:
    found = detector(1, "ansi_c84_1", 120.0)
    give(found, 0, [volts])
    assert found.bands[:, 0].argmax() == band


def test_a_week_with_many_values_outside_is_told_and_closed_by_a_good_one() -> None:
    found = detector(2)
    told: list[Finding] = []
    for slot in range(3 * 672 + 1):
        # Half an hour in every four: no alarm opens, but 12.5 % are outside; the second week is good.
        dip = slot % 16 in (3, 4) and slot < 672
        n = 2
        ts = np.full(n, (START + 1 + slot) * QUARTER_US)
        values = np.array([200.0 if dip else 230.0, 230.0])
        found.readings(
            SeenReadings(np.arange(n, dtype=np.int32), np.full(n, ANY, np.int16), ts, np.zeros(n, np.int32), values, ts)
        )
        told += found.findings(0)
    assert [(one.kind, one.subject, one.state) for one in told] == [
        ("voltage.week", "U0", FindingState.OPENED), ("voltage.week", "U0", FindingState.CLOSED),
    ]  # fmt: skip
    assert told[0].id == told[1].id and told[0].started_us == START * QUARTER_US
    assert told[0].evidence["below_a"] == 84


def test_a_dead_meter_is_no_voltage_of_the_grid() -> None:
    found = detector()
    for slot in range(8):
        assert give(found, slot, [0.0, 1e9, float("nan"), 230.0]) == []
