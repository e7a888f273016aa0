"""Rules of validation and estimation on small windows, settings, local days and registers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridwire.columnar import slots as marks
from gridwire.grid import network, registers
from gridwire.grid.meter_install import InvalidTable, MeterInstall, problems_of, read_table
from gridwire.grid.vee import config, estimation, rules, validation
from gridwire.grid.vee.calendar import calendar, local_day_bounds_s
from gridwire.grid.vee.storm import storms
from gridwire.grid.vee.window import Window

PER_DAY, HISTORY = 24, 15
DAYS = HISTORY + 2
FIRST_SLOT = 16_861 * PER_DAY + 1  # 2016-03-01, a Tuesday, hours
DEFAULTS = config.parse({}).rules


def window(energy: NDArray[np.float64] | None = None, k: int = 1, zone: str = "UTC", **more: Any) -> Window:
    """Hours of 17 days, of which the last two are judged; 1 kWh at night, 2 by day unless told otherwise."""
    n = DAYS * PER_DAY
    if energy is None:
        energy = np.where((np.arange(n) % PER_DAY >= 8)[:, None], 2.0, 1.0) * np.ones((1, k))
    told: dict[str, Any] = {
        "calendar": calendar(zone, FIRST_SLOT, n, 3600), "judged": HISTORY * PER_DAY, "due": n, "since": 0,
        "energy": energy, "marks": np.zeros(energy.shape, np.uint8), "active": np.ones(energy.shape[1], bool),
        "multiplier": np.ones(energy.shape[1]),
    }  # fmt: skip
    return Window(**(told | more))


def shape(k: int = 1) -> NDArray[np.float64]:
    return window(k=k).energy.copy()


def failing(found: Window, rule: str, **changed: Any) -> list[int]:
    """Judged intervals of channel 0 that fail a rule."""
    settings = rules.BY_NAME[rule].settings(**changed)
    return np.flatnonzero(validation.CHECKS[rule](found, settings)[:, 0]).tolist()


def test_a_quiet_channel_fails_nothing() -> None:
    assert not validation.validate(window(k=3), DEFAULTS).any()


def test_every_rule_of_the_table_is_there() -> None:
    assert len(rules.VALIDATION) == 16
    assert set(validation.CHECKS) == {rule.name for rule in rules.VALIDATION}
    parity = {rule.name for rule in rules.ESTIMATION}
    assert len(parity - {"outage"}) == 11
    assert {name for name, _ in estimation.METHODS} <= parity
    assert len({rule.quality for rule in rules.BY_NAME.values()}) == len(rules.BY_NAME)


def test_gaps() -> None:
    energy = shape()
    energy[HISTORY * PER_DAY + 3 : HISTORY * PER_DAY + 5] = np.nan
    found = window(energy)
    assert failing(found, "missing_quantity") == [3, 4]
    assert failing(found, "consecutive_interval") == [5]
    assert failing(window(energy, due=HISTORY * PER_DAY + 4), "missing_quantity") == [3]
    assert failing(window(energy, since=HISTORY * PER_DAY + 4), "missing_quantity") == [4]


def test_prolonged_estimation() -> None:
    energy = shape()
    energy[HISTORY * PER_DAY : HISTORY * PER_DAY + 10] = np.nan
    assert failing(window(energy), "prolonged_estimation", hours=8) == [7, 8, 9]


@pytest.mark.parametrize(
    ("mark", "rule"),
    [
        (marks.CONFLICT, "duplicate"), (marks.REPLACED, "final_measurement_replacement"),
        (marks.WRONG_LENGTH, "interval_size"), (marks.NEGATIVE, "negative"), (marks.WRONG_UNIT, "uom"),
        (marks.IMPLAUSIBLE, "multiplier"),
    ],
)  # fmt: skip
def test_what_arrival_tells(mark: int, rule: str) -> None:
    found = window()
    found.marks[HISTORY * PER_DAY + 7] = mark
    assert failing(found, rule) == [7]


def test_a_repeat_is_no_failure() -> None:
    found = window()
    found.marks[:] = marks.REPEATED
    assert not validation.validate(found, DEFAULTS).any()


def test_spikes_and_heights() -> None:
    energy = shape()
    energy[HISTORY * PER_DAY + 12] = 5.7
    assert failing(window(energy), "interval_spike") == [12]
    assert failing(window(energy), "interval_spike", ratio=1.9) == []
    assert failing(window(energy), "high_low") == []
    energy[HISTORY * PER_DAY + 12] = 6.1
    assert failing(window(energy), "high_low") == [12]
    assert failing(window(energy), "high_low", low_kwh=1.5) == [*range(8), 12, *range(24, 32)]
    # A height that is usual there is no spike.
    energy[5 * PER_DAY + 12] = 6.1
    assert failing(window(energy), "interval_spike") == []
    assert failing(window(energy), "interval_spike", references=False) == [12]


def test_a_day_that_is_not_whole_is_not_compared() -> None:
    energy = shape()
    energy[HISTORY * PER_DAY : (HISTORY + 1) * PER_DAY] *= 5
    assert failing(window(energy), "dynamic_comparison") == [23]
    energy[HISTORY * PER_DAY + 1] = np.nan
    assert failing(window(energy), "dynamic_comparison") == []
    assert failing(window(shape() * 5), "dynamic_comparison") == []


def test_factors_of_ten_and_of_the_meter() -> None:
    energy = shape()
    energy[HISTORY * PER_DAY : (HISTORY + 1) * PER_DAY] *= 10
    assert failing(window(energy), "multiplier") == [23]
    energy[HISTORY * PER_DAY : (HISTORY + 1) * PER_DAY] /= 400
    assert failing(window(energy), "multiplier") == []
    assert failing(window(energy, multiplier=np.array([40.0])), "multiplier") == [23]


def test_zero_and_inactive() -> None:
    energy = shape()
    energy[HISTORY * PER_DAY : (HISTORY + 1) * PER_DAY] = 0
    assert failing(window(energy), "zero") == [23]
    silent = window(energy, active=np.array([False]))
    assert failing(silent, "zero") == []
    assert failing(silent, "inactive_measurement") == list(range(24, 48))


def test_siblings() -> None:
    other = np.zeros((DAYS * PER_DAY, 1))
    other[HISTORY * PER_DAY + 10] = 1.5
    other[HISTORY * PER_DAY + 11] = 0.5
    assert failing(window(sibling=other), "sibling_channels") == [10]


def with_registers(energy: NDArray[np.float64], every: int = PER_DAY) -> dict[str, Any]:
    """True registers at the end of every so many intervals, of what was really used."""
    counter = np.floor(np.cumsum(shape(energy.shape[1]), axis=0) * 1000).astype(np.int64)
    stored = np.full(counter.shape, registers.NOTHING, np.int64)
    stored[every - 1 :: every] = counter[every - 1 :: every]
    grown = registers.growth(stored, np.arange(len(stored), dtype=np.int64), {})
    return {
        name: np.where(values == registers.NOTHING, np.nan, values / 1000)
        for name, values in (("registers", stored), ("grown", grown))
    }


def test_intervals_and_registers_that_disagree() -> None:
    energy = shape()
    assert failing(window(energy, **with_registers(energy)), "sum_check") == []
    energy[HISTORY * PER_DAY + 3] += 2
    assert failing(window(energy, **with_registers(energy)), "sum_check") == [23]
    assert failing(window(energy, **with_registers(energy)), "sum_check", floor_kwh=3) == []


# --- estimation -----------------------------------------------------------------------


def masked(*spans: tuple[int, int], k: int = 1) -> NDArray[np.float64]:
    energy = shape(k)
    for begin, end in spans:
        energy[HISTORY * PER_DAY + begin : HISTORY * PER_DAY + end, 0] = np.nan
    return energy


def filled(found: Window, **changed: Any) -> dict[int, tuple[str, float]]:
    values, methods = estimation.estimate(found, {**DEFAULTS, **changed})
    rows = np.flatnonzero(~np.isnan(values[:, 0])).tolist()
    return {row: (rules.ESTIMATION[int(methods[row, 0])].name, round(float(values[row, 0]), 6)) for row in rows}


def test_two_hours_are_a_line_and_more_is_an_average() -> None:
    assert filled(window(masked((7, 9)))) == {7: ("interpolation", 1.333333), 8: ("interpolation", 1.666667)}
    assert filled(window(masked((6, 9)))) == {6: ("averaging", 1.0), 7: ("averaging", 1.0), 8: ("averaging", 2.0)}


def test_an_interval_with_a_power_failure_is_no_end_point() -> None:
    found = window(masked((7, 9)))
    found.marks[HISTORY * PER_DAY + 9] = marks.POWER_FAILURE
    assert {row: name for row, (name, _) in filled(found).items()} == {7: "averaging", 8: "averaging"}


def test_reference_days_are_of_the_same_kind() -> None:
    """2016-03-16 is a Wednesday: the weekend before it does not count, the days around it do."""
    energy = masked((0, 24))
    for day in (11, 12):  # Saturday 12 and Sunday 13 March
        energy[day * PER_DAY : (day + 1) * PER_DAY] = 50
    assert filled(window(energy))[3] == ("averaging", 1.0)
    energy[13 * PER_DAY + 3], energy[14 * PER_DAY + 3] = 3.0, 4.0
    assert filled(window(energy))[3] == ("averaging", round(8 / 3, 6))


def test_one_day_stands_in_and_then_the_neighbours() -> None:
    energy = masked((0, 24))
    energy[: 14 * PER_DAY] = np.nan
    assert filled(window(energy))[3] == ("proxy_day", 1.0)
    energy = masked((0, 10), k=5)
    energy[: HISTORY * PER_DAY, 0] = np.nan
    level = np.nanmean(energy[:, 1])

    def neighbours(chosen: NDArray[np.int64]) -> Any:
        others = energy[:, 1:]
        return others.sum(axis=1)[:, None], np.full((len(energy), 1), 4 * level), np.full((len(energy), 1), 4)

    own = np.nanmean(energy[:, 0])
    assert filled(window(energy, neighbours=neighbours))[3] == ("profile", round(own / level, 6))


def test_estimates_are_fitted_to_registers() -> None:
    energy = masked((4, 14))
    registers_of = with_registers(energy)
    found = filled(window(energy, **registers_of))
    assert {name for name, _ in found.values()} == {"adjust_from_scalar"}
    assert sum(value for _, value in found.values()) == pytest.approx(16.0)
    energy = masked((0, 24))
    assert {name for name, _ in filled(window(energy, **registers_of)).values()} == {"scalar_profile"}
    energy[: HISTORY * PER_DAY] = np.nan
    blank = filled(window(energy, **registers_of))
    assert {name for name, _ in blank.values()} == {"proration"}
    assert sum(value for _, value in blank.values()) == pytest.approx(40.0)


def test_what_the_other_channels_leave() -> None:
    energy = masked((3, 5))
    left = np.full(energy.shape, 0.75)
    assert filled(window(energy, leftover=left)) == {
        3: ("subtractive_adjustment", 0.75),
        4: ("subtractive_adjustment", 0.75),
    }


def test_in_a_storm_only_outages_are_filled() -> None:
    energy = masked((3, 5))
    storm = np.ones(energy.shape, bool)
    out = np.zeros(energy.shape, bool)
    out[HISTORY * PER_DAY + 3] = True
    assert filled(window(energy, storm=storm)) == {}
    assert filled(window(energy, storm=storm, outage=out)) == {3: ("outage", 0.0)}


def test_a_rule_that_is_off_leaves_it_to_the_next() -> None:
    off = rules.BY_NAME["interpolation"].settings(enabled=False)
    assert {name for name, _ in filled(window(masked((7, 9))), interpolation=off).values()} == {"averaging"}


def test_missing_registers() -> None:
    energy = shape()
    known = with_registers(energy)["registers"]
    last = (HISTORY + 1) * PER_DAY - 1
    truth = float(known[last, 0])
    known[last] = np.nan
    wanted = np.zeros(known.shape, bool)
    wanted[last] = True
    values, by = estimation.estimate_registers(known, energy, wanted, DEFAULTS, PER_DAY)
    assert (values[last, 0], rules.ESTIMATION[by[last, 0]].name) == (truth, "scalar_from_interval")
    energy[last - 3] = np.nan
    values, by = estimation.estimate_registers(known, energy, wanted, DEFAULTS, PER_DAY)
    assert (values[last, 0], rules.ESTIMATION[by[last, 0]].name) == (truth, "scalar_estimation")


# --- storms, days, settings -----------------------------------------------------------


def test_a_storm_begins_below_the_norm_and_ends_near_it() -> None:
    general = config.General(storm_devices=100)
    reported = np.full((60, 2), 100, np.int32)
    reported[40:50] = 60
    reported[50:52] = 90
    reported[:, 1] //= 2
    found = storms(reported, np.array([100, 50]), general, 24, 0, 60)
    assert np.flatnonzero(found[:, 0]).tolist() == list(range(40, 52))
    assert not found[:, 1].any(), "a small area has no storms"


@pytest.mark.parametrize(("date", "hours"), [("2016-03-27", 23), ("2016-10-30", 25), ("2016-06-01", 24)])
def test_days_of_23_and_25_hours(date: str, hours: int) -> None:
    day = int(np.datetime64(date).astype(np.int64))
    begin, end = local_day_bounds_s("Europe/Berlin", day)
    assert end - begin == hours * 3600
    first = (begin - 20 * 86_400) // 900
    found = calendar("Europe/Berlin", first, 25 * 96, 900)
    at = np.flatnonzero(found.days[found.starts] == day)[0]
    assert found.whole[at]
    assert found.lengths[at] == hours * 4
    assert first + found.starts[at] - 1 == begin // 900


def test_references_keep_the_local_time_over_a_change_of_clocks() -> None:
    """Noon on the Monday after is noon on the Friday before, though they are 71 hours apart and not 72."""
    monday = int(np.datetime64("2016-03-28").astype(np.int64))
    begin, _ = local_day_bounds_s("Europe/Berlin", monday)
    first = (begin - 16 * 86_400) // 900
    found = calendar("Europe/Berlin", first, 18 * 96, 900)
    noon = begin // 900 + 1 - first + 48
    references = found.references[noon][found.alike[noon]]
    assert found.clock[noon] == 48
    assert noon - references[0] == 3 * 96 - 4
    assert (found.clock[references] == 48).all()


def test_all_problems_are_told_at_once() -> None:
    told = {
        "general": {"grace_s": -1, "storm_area": "x"},
        "rules": {"interval_spik": {}, "zero": {"enabled": 1}},
        "classes": {"industrial": {"high_low": {"high_times": "a", "more": 1}}},
    }
    with pytest.raises(config.InvalidVee) as caught:
        config.parse(told)
    assert len(caught.value.problems) == 6
    assert "rules.interval_spik is unknown, did you mean interval_spike?" in caught.value.problems


def test_a_class_changes_what_the_network_says() -> None:
    told = {"rules": {"zero": {"reference_kwh": 2}}, "classes": {"shop": {"zero": {"enabled": False}}}}
    found = config.parse(told)
    assert found.rules_of("")["zero"] == rules.Zero(reference_kwh=2.0)
    assert found.rules_of("shop")["zero"] == rules.Zero(enabled=False, reference_kwh=2.0)
    assert found.rules_of("house") is found.rules


# --- registers ------------------------------------------------------------------------


def install(meter: str, begin: int, end: int | None = None, **more: Any) -> MeterInstall:
    def text(hour: int) -> str:
        return f"2016-03-{1 + hour // 24:02d}T{hour % 24:02d}:00:00Z"

    return MeterInstall(meter=meter, usage_point="U", begin=text(begin), end="" if end is None else text(end), **more)


def grown(values: list[int | None], *rows: MeterInstall) -> list[int]:
    stored = np.array([[registers.NOTHING if v is None else v] for v in values], np.int64)
    first = install("", 0).begin_us
    ends = first + np.arange(len(values), dtype=np.int64) * 3_600_000_000
    return registers.growth(stored, ends, {0: list(rows)} if rows else {})[:, 0].tolist()


def test_differences_rollover_and_multiplier() -> None:
    assert grown([1000, 1500, None, 2500]) == [-1, 500, -1, 1000]
    assert grown([1000, 900]) == [-1, -1], "without dials a register does not roll over"
    row = install("M", 0, dials=3, multiplier=40)
    assert grown([999_000, 500], row) == [-1, 60_000]
    assert grown([500_000, 400_000], row) == [-1, -1], "too much for a rollover"


def test_a_swap_is_bridged_where_its_registers_are_known() -> None:
    old = install("A", 0, 2, end_register="2.5")
    new = install("B", 2, start_register="10", multiplier=2)
    assert grown([1000, 2000, 11_000, 12_000], old, new) == [-1, 1000, 500 + 2000, 2000]
    unknown = install("B", 2)
    assert grown([1000, 2000, 11_000, 12_000], old, unknown) == [-1, 1000, -1, 1000]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 400_000), min_size=2, max_size=30), st.integers(0, 999_999))
def test_a_rolling_register_gives_back_what_was_used(used: list[int], start: int) -> None:
    counter = [(start + sum(used[: i + 1])) % 1_000_000 for i in range(len(used))]
    assert grown([*counter], install("M", 0, dials=3))[1:] == used[1:]


def test_a_table_of_meters() -> None:
    text = b"meter,usage_point,from,to,dials,multiplier\nM1,U,2016-03-01T00:00:00Z,,5,40\n"
    (row,) = read_table(text, json=False)
    assert (row.meter, row.dials, row.multiplier, row.end) == ("M1", 5, 40.0, "")
    with pytest.raises(InvalidTable, match=r"row 1: .*row 2"):
        read_table(b"meter,dials\nM1,5\nM2,x\n", json=False)
    both = [install("A", 0, 5), install("B", 3), MeterInstall(meter="C", usage_point="X", begin="now", dials=40)]
    problems = problems_of(both, {"U"})
    assert len(problems) == 4
    assert "both at 'U'" in problems[-1]


def test_the_model_carries_zones_meters_and_rules() -> None:
    model = network.Network(
        name="n", transformers=(network.Transformer(id="T"),), feeders=(network.Feeder(id="F", transformer="T"),),
        usage_points=(network.UsagePoint(id="U", transformer="T", feeder="F", zone="Asia/Kolkata", category="shop"),),
        zone="Europe/Berlin", meters=(install("M", 0),), vee={"rules": {"zero": {"enabled": False}}},
    )  # fmt: skip
    assert network.from_json(network.to_json(model)) == model
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"zone": "Mars"}, "time zone"),
        ({"meters": (install("M", 5, 1),)}, "ends before"),
        ({"vee": {"x": 1}}, "x is"),
    ]
    for changed, problem in wrong:
        with pytest.raises(network.InvalidNetwork, match=problem):
            network.check(network.msgspec.structs.replace(model, **changed))
