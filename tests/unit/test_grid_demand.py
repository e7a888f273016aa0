"""Demand changes, storms and the hours they are made of."""

from __future__ import annotations

import numpy as np
import pytest

from grid_series import DAY_US, START_US, Utility, facts, network, weather
from gridwire.grid.findings import FindingState
from gridwire.grid.watch.base import SeenWeather
from gridwire.grid.watch.demand import DemandDetector
from gridwire.grid.watch.hours import LATE_HOURS, LoadHours, StationHours
from gridwire.grid.watch.response import ResponseModel
from gridwire.grid.watch.shifts import Cusum
from gridwire.grid.watch.storm import StormDetector

DAYS, UNITS, CHANGE = 130, 12, 80


def watched(detector, utility, days, scale=lambda day: 1.0, roll_h=lambda day: 0, begin=0):
    found = []
    for day in range(begin, days):
        detector.loads(facts(day, utility.day(day, scale(day), roll_h(day))))
        found += [(day, finding) for finding in detector.findings(0)]
    return found


def raised(share):
    up = np.ones(UNITS)
    up[:4] += share
    return lambda day: up if day >= CHANGE else 1.0


@pytest.fixture
def detector():
    return DemandDetector(network(UNITS).index())


def test_a_lasting_change_is_found_where_it_is_and_nowhere_else(detector):
    utility = Utility(UNITS, DAYS)
    detector.weather(weather(utility.temperature_c))
    found = watched(detector, utility, DAYS, raised(0.25))
    opened = [(day, f) for day, f in found if f.kind == "demand.shift" and f.state is FindingState.OPENED]
    assert {f.subject for _, f in opened} == {"T0", "T1", "T2", "T3"}
    for day, finding in opened:
        assert CHANGE <= day <= CHANGE + 15
        assert finding.evidence["direction"] == "up"
        assert 10 < finding.evidence["shift_pct"] < 45
        assert finding.confidence > 0.9
        assert abs(finding.started_us - START_US - CHANGE * DAY_US) <= 4 * DAY_US
    closed = {f.subject: f for _, f in found if f.kind == "demand.shift" and f.state is FindingState.CLOSED}
    assert set(closed) == {"T0", "T1", "T2", "T3"}
    assert {f.id for f in closed.values()} == {f.id for _, f in opened}


def test_nothing_is_found_without_a_change(detector):
    utility = Utility(UNITS, DAYS)
    detector.weather(weather(utility.temperature_c))
    assert watched(detector, utility, DAYS) == []


def test_a_peak_that_moves_is_found(detector):
    utility = Utility(UNITS, DAYS)
    detector.weather(weather(utility.temperature_c))
    late = np.array([-4] * 3 + [0] * (UNITS - 3))
    found = watched(detector, utility, DAYS, roll_h=lambda day: late if day >= CHANGE else 0)
    moved = {f.subject: f.evidence for _, f in found if f.kind == "demand.peak_time"}
    assert set(moved) == {"T0", "T1", "T2"}
    assert all(-5 <= evidence["moved_hours"] <= -2 for evidence in moved.values())


def test_a_snapshot_goes_on_as_if_nothing_had_been(detector):
    whole, part = Utility(UNITS, DAYS), Utility(UNITS, DAYS)
    detector.weather(weather(whole.temperature_c))
    expected = watched(detector, whole, DAYS, raised(0.25))
    first = DemandDetector(network(UNITS).index())
    first.weather(weather(part.temperature_c))
    found = watched(first, part, 88, raised(0.25))
    second = DemandDetector(network(UNITS).index())
    second.from_arrays({name: array.copy() for name, array in first.to_arrays().items()})
    found += watched(second, part, DAYS, raised(0.25), begin=88)
    assert [(day, f.id, f.state, f.evidence) for day, f in found] == [
        (day, f.id, f.state, f.evidence) for day, f in expected
    ]
    with pytest.raises(ValueError, match="another network"):
        DemandDetector(network(3).index()).from_arrays(first.to_arrays())


def test_a_silent_station_is_told_and_its_days_are_not_learnt_from(detector):
    utility = Utility(UNITS, 60)
    detector.weather(weather(utility.temperature_c[: 40 * 24]))
    found = watched(detector, utility, 50)
    (finding,) = [f for _, f in found if f.kind == "weather.missing"]
    assert finding.subject == "S1"
    assert detector.units.skipped == 9 * UNITS  # the last day is still open
    detector.weather(weather(utility.temperature_c))
    found = watched(detector, utility, 55, begin=50)
    assert [f.state for _, f in found if f.kind == "weather.missing"] == [FindingState.CLOSED]


def test_the_streaming_regression_finds_base_and_slope():
    rng = np.random.default_rng(3)
    model = ResponseModel(3)
    slopes, bases = np.array([0.0, 1.0, 2.5]), np.array([30.0, 20.0, 50.0])
    for day in range(250):
        t = 10 + 10 * np.sin(2 * np.pi * day / 365) + rng.normal(0, 4)
        y = bases + slopes * max(0.0, 14 - t) + rng.normal(0, 0.5, 3)
        model.learn(y[:, None], np.full(3, t), weekend=day % 7 >= 5)
    found = model.response()
    assert np.allclose(found.base_kw, bases, atol=1.5)
    assert np.allclose(found.heating_kw_per_c, slopes, atol=0.2)
    assert found.heating_balance_c[2] == 14.0
    silent = ResponseModel(1)
    silent.learn(np.array([[5.0]]), np.array([np.nan]), weekend=False)
    assert np.isnan(silent.response().heating_kw_per_c).all()


def test_cusum_finds_what_adwin_finds():
    """The oracle, where it is installed: both find a shift of one sigma, CUSUM no later than ADWIN by more than 30."""
    drift = pytest.importorskip("river.drift")
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, 600)
    x[300:] += 1.0
    ours, adwin, theirs = [], drift.ADWIN(), []
    cusum = Cusum(1)
    for number, value in enumerate(x):
        if len(cusum.step(np.array([value]), number)):
            ours.append(number)
        adwin.update(float(value))
        if adwin.drift_detected:
            theirs.append(number)
    assert theirs and 300 <= ours[0] <= theirs[0] + 30


def test_cusum_is_quiet_without_a_change_and_deaf_to_one_odd_day():
    rng = np.random.default_rng(6)
    cusum = Cusum(200, threshold=9.0)
    alarms = 0
    for number in range(365):
        x = rng.normal(0, 1, 200)
        if number == 200:
            x += 20.0
        alarms += len(cusum.step(x, number))
    assert alarms <= 4  # of 73,000


def test_hours_wait_for_late_facts_and_take_the_newest_version():
    hours = LoadHours(2, 900)
    day = np.full((96, 2), 10.0)
    first = hours.take(facts(0, day[:40]))
    assert [hour.number for hour in first] == [START_US // 3_600_000_000 + n for n in range(1, 11 - LATE_HOURS)]
    corrected = facts(0, np.full((40, 2), 20.0))
    corrected.ts_end_us[:] = START_US + 40 * 900_000_000  # only the last interval, again and again
    hours.take(corrected)
    later = hours.take(facts(0, day))
    assert later[0].load_kw.tolist() == [10.0, 10.0]
    assert later[1].load_kw.tolist() == [10.0, 10.0]
    hours.take(facts(0, day[:4]))
    assert hours.late == 8 + 2 * 32  # eight hours of two units were closed before the day was told again


def test_an_hour_with_a_gap_is_unknown():
    hours = LoadHours(1, 900)
    seen = facts(0, np.full((96, 1), 10.0))
    seen.counts[5] = 0
    found = hours.take(seen)
    assert [bool(np.isnan(hour.load_kw[0])) for hour in found[:3]] == [False, False, False]
    assert len(found) == 24 - LATE_HOURS - 1  # the hour in which nobody is known is left out


def test_partitions_that_are_days_apart_give_the_same_hours():
    rng = np.random.default_rng(2)
    days = [rng.uniform(1, 5, (96, 4)) for _ in range(6)]
    together, apart = LoadHours(4, 900), LoadHours(4, 900)
    expected = [hour for day, load in enumerate(days) for hour in together.take(facts(day, load))]
    found = []
    for half in (slice(0, 3), slice(3, 6)):
        for units in ((0, 1), (2, 3)):  # one partition has read three days before the other begins
            for day in range(6)[half]:
                seen = facts(day, days[day])
                mine = np.isin(seen.units, units)
                part = type(seen)(
                    seen.level, *(getattr(seen, name)[mine] for name in seen.__slots__ if name != "level")
                )
                found += apart.take(part)
    assert [hour.number for hour in found] == [hour.number for hour in expected]
    assert all(np.array_equal(a.load_kw, b.load_kw) for a, b in zip(found, expected, strict=True))
    assert apart.late == 0


def test_station_hours_keep_a_year_and_the_newest():
    kept = StationHours()
    hours = np.arange(100, 100 + 9000)
    kept.take(np.zeros(9000, np.int64), hours * 3_600_000_000, hours.astype(float) / 100)
    assert np.isnan(kept.at(np.array([100]))).all()
    assert kept.at(np.array([9000]))[0, 0] == pytest.approx(90.0)
    kept.take(np.zeros(1, np.int64), np.array([100 * 3_600_000_000]), np.array([1.0]))  # older than the window
    assert np.isnan(kept.at(np.array([100]))).all()


def gusts(values, begin=0):
    ends = START_US + (np.arange(len(values)) + 1 + begin) * 3_600_000_000
    return SeenWeather(["S1"] * len(values), ends, np.full(len(values), np.nan), np.array(values, float), ends)


def test_a_storm_opens_grows_and_closes():
    storm = StormDetector(network(5).index())
    storm.weather(gusts([10, 18, 22, 30, np.nan, 12, 12]))
    told = storm.findings(0)
    assert [f.state for f in told] == [FindingState.OPENED, FindingState.CHANGED, FindingState.CHANGED]
    assert told[-1].subject == "S" and told[-1].evidence["customers"] == 5 and told[-1].severity == "critical"
    assert told[-1].evidence["exposure"] == pytest.approx(5 * (22 - 17.2) + 5 * (30 - 17.2))
    again = StormDetector(network(5).index())
    again.from_arrays(storm.to_arrays())
    for detector in (storm, again):
        detector.weather(gusts([12] * 8, begin=7))
        (closed,) = detector.findings(0)
        assert closed.state is FindingState.CLOSED
        assert closed.ended_us == START_US + 4 * 3_600_000_000
