"""The hot-spot model: against a published library's results, against arithmetic, and over gaps."""

from __future__ import annotations

import numpy as np
import pytest

from gridwire.grid import network as net
from gridwire.grid.findings import FindingState
from gridwire.grid.watch.ageing import ThermalModel, ThermalSettings, ageing_factor
from gridwire.grid.watch.alarms import Alarms, OpenIntervals
from gridwire.grid.watch.base import SeenLoads, SeenWeather
from gridwire.grid.watch.health import Health

HOUR_US = 3_600_000_000
QUARTER_US = 900_000_000
NO = np.zeros(1, np.bool_)


def one(model: ThermalModel, load: float, ambient: float, hours: float) -> float:
    return float(model.step(np.array([0]), np.array([load]), np.array([ambient]), np.array([hours]))[0])


def test_rated_load_ends_at_the_rated_rises() -> None:
    model = ThermalModel(NO, NO)
    one(model, 0.0, 20.0, 1.0)
    one(model, 1.0, 20.0, 100.0)
    assert model.top_oil_c[0] == pytest.approx(80.0)
    assert model.hot_spot_c[0] == pytest.approx(80.0 + 1.2 * 23.0)


def test_a_step_is_the_same_in_one_or_in_many() -> None:
    whole, parts = ThermalModel(NO, NO), ThermalModel(NO, NO)
    for model in (whole, parts):
        one(model, 0.3, 10.0, 1.0)
    one(whole, 1.4, 30.0, 2.0)
    for _ in range(8):
        one(parts, 1.4, 30.0, 0.25)
    assert parts.hot_spot_c[0] == pytest.approx(whole.hot_spot_c[0])
    assert parts.loss_of_life_h[0] == pytest.approx(whole.loss_of_life_h[0], rel=0.5)


def test_ageing_is_one_where_the_papers_say() -> None:
    assert ageing_factor(np.array([98.0]), np.array([False]))[0] == 1.0
    assert ageing_factor(np.array([104.0]), np.array([False]))[0] == 2.0
    assert ageing_factor(np.array([110.0]), np.array([True]))[0] == pytest.approx(1.0)


def test_indoors_is_warmer() -> None:
    model = ThermalModel(np.array([False, True]), np.zeros(2, np.bool_))
    model.step(np.arange(2), np.ones(2), np.full(2, 20.0), np.ones(2))
    assert model.top_oil_c[1] - model.top_oil_c[0] == pytest.approx(10.0)


# Minutes, load, ambient, and what transformer-thermal-model 0.6.0 (another implementation of the standard) makes of it:
# top oil and hot spot. It cannot be installed beside SimBench's pandapower, which needs an older pandas.
MINUTES = [0, 15, 30, 60, 75, 90, 150, 165, 180, 240, 255, 300]
LOAD = [0.4, 0.6, 0.9, 1.2, 1.4, 1.5, 1.1, 0.8, 0.5, 0.2, 0.0, 0.3]
AMBIENT = [20.0, 20.0, 22.0, 24.0, 25.0, 25.0, 23.0, 20.0, 15.0, 5.0, -5.0, -5.0]
TOP_OIL = [20.0, 22.6074, 26.7382, 38.1439, 44.7705, 51.6813, 62.9013, 63.0775, 61.4224, 50.1217, 46.8586, 39.6485]
HOT_SPOT = [20.0, 32.9267, 48.0631, 74.7252, 90.4131, 103.3858, 95.0589, 84.3604, 72.3946, 52.2282, 47.1816, 43.6558]


def test_as_another_implementation_has_it() -> None:
    model = ThermalModel(NO, NO, ThermalSettings(loss_ratio=5.0))
    model.top_oil_c[0] = AMBIENT[0]  # it begins cold
    for at in range(1, len(MINUTES)):
        one(model, LOAD[at], AMBIENT[at], (MINUTES[at] - MINUTES[at - 1]) / 60.0)
        assert model.top_oil_c[0] == pytest.approx(TOP_OIL[at], abs=1e-3)
        assert model.hot_spot_c[0] == pytest.approx(HOT_SPOT[at], abs=1e-3)


def transformers(count: int = 2) -> net.NetworkIndex:
    return net.Network(
        name="n",
        transformers=tuple(net.Transformer(id=f"T{i}", rated_kva=100.0) for i in range(count)),
        feeders=tuple(net.Feeder(id=f"F{i}", transformer=f"T{i}") for i in range(count)),
        usage_points=tuple(net.UsagePoint(id=f"U{i}", transformer=f"T{i}", feeder=f"F{i}") for i in range(count)),
    ).index()


def facts(rows: list[tuple[int, int, float]], expected: int = 1, count: int = 1) -> SeenLoads:
    """Rows of (unit, slot, kW)."""
    units, slots, kw = (np.array(column) for column in zip(*rows, strict=True))
    ts_us = slots.astype(np.int64) * QUARTER_US
    n = len(units)
    return SeenLoads(
        "transformer", units.astype(np.int32), ts_us, np.full(n, 900, np.int32), kw.astype(float),
        np.full(n, count, np.int32), np.full(n, expected, np.int32), ts_us,
    )  # fmt: skip


def test_overload_opens_once_turns_critical_and_closes() -> None:
    health = Health(transformers())
    loads = [50.0] * 4 + [125.0] * 6 + [150.0] * 4 + [50.0] * 12
    found = []
    for slot, kw in enumerate(loads, start=4):
        health.loads(facts([(0, slot, kw), (1, slot, 50.0)]))
        found += [(f.kind, f.state, f.severity, f.subject) for f in health.findings(0)]
    overload = [row[1:] for row in found if row[0] == "transformer.overload"]
    assert overload == [
        (FindingState.OPENED, "warning", "T0"), (FindingState.OPENED, "critical", "T0"),
        (FindingState.CLOSED, "critical", "T0"),
    ]  # fmt: skip


def test_a_load_at_the_threshold_does_not_flutter() -> None:
    health = Health(transformers())
    for slot in range(4, 60):
        health.loads(facts([(0, slot, 115.0 if slot % 2 else 108.0)]))  # 1.21 and 1.14 of the rating
    assert not [f for f in health.findings(0) if f.kind == "transformer.overload"]


def test_a_gap_is_held_and_told() -> None:
    health = Health(transformers())
    for slot in (4, 5, 13, 14):
        health.loads(facts([(0, slot, 60.0)]))
    told = [fact.value for fact in health.facts()]
    assert health.loading.held_h[0] == 7 * 0.25
    assert health.loading.watched_h[0] == (3 + 7) * 0.25
    assert b'"load_factor":0.6316' in told[0]


def test_an_interval_with_few_of_its_readings_is_a_gap() -> None:
    health = Health(transformers())
    health.loads(facts([(0, 4, 60.0)], expected=10, count=10))
    health.loads(facts([(0, 5, 6.0)], expected=10, count=1))
    health.loads(facts([(0, 6, 30.0)], expected=10, count=5))
    health.loads(facts([(0, 7, 60.0)], expected=10, count=10))
    assert health.loading.held_h[0] == 0.25
    assert health.loading.load_pu[0] == pytest.approx(60.0 / 0.95 / 100.0)  # five of ten stand for all


def test_weather_warms_and_its_lack_is_told() -> None:
    health = Health(transformers())
    observed = SeenWeather(["S"], np.array([8 * QUARTER_US]), np.array([35.0]), np.array([1.0]), np.array([0]))
    for slot in (4, 5):
        health.loads(facts([(0, slot, 60.0), (1, slot, 60.0)]))
    health.weather(observed)
    for slot in range(6, 12):
        health.loads(facts([(0, slot, 60.0)]))
    values = [fact.value for fact in health.facts()]
    assert b'"ambient":"default"' in values[0] and b'"ambient":"observed"' in values[-1]
    assert health.loading.model.top_oil_c[0] > health.loading.model.top_oil_c[1] + 2.0


def test_alarms_open_and_close_after_verdicts_in_a_row() -> None:
    alarms, unit = Alarms(1, 2, 3), np.array([0])
    bad, good, neither = (True, False), (False, True), (False, False)
    opened = closed = 0
    for at, (is_bad, is_good) in enumerate([bad, good, bad, bad, good, good, neither, good, good, good]):
        a, b = alarms.update(unit, np.array([is_bad]), np.array([is_good]), np.array([at * 60_000_000]))
        opened, closed = opened + len(a), closed + len(b)
        assert bool(alarms.open[0]) == (3 <= at < 9)
    assert (opened, closed) == (1, 1)
    assert alarms.started_us(0) == 2 * 60_000_000


def test_the_last_row_of_an_interval_holds_and_late_ones_are_counted() -> None:
    open = OpenIntervals(2)
    rows = [(0, 5, 1.0), (0, 5, 2.0), (1, 5, 9.0), (0, 6, 3.0), (0, 5, 7.0), (0, 8, 4.0)]
    units, slots, values = (np.array(column) for column in zip(*rows, strict=True))
    closed = open.take(units.astype(np.int32), slots, values)
    assert [(u.tolist(), s.tolist(), v.tolist()) for u, s, v in closed] == [([0], [5], [2.0]), ([0], [6], [3.0])]
    assert open.late == 1
