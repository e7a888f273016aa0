"""Validation rule by rule, and the exact conversion to milliwatt-hours."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridwire.columnar.cells import AMOUNT_MAX, VERSION_MAX
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.reading_types import BY_ALIAS
from gridwire.grid.validate import Measured, Reason, Rules, Validated, Validator, to_milliwatt_hours

NETWORK = Network(
    name="two",
    transformers=(Transformer(id="rated", rated_kva=100.0), Transformer(id="unrated")),
    feeders=(Feeder(id="F"),),
    usage_points=(
        UsagePoint(id="A", transformer="rated", feeder="F"),
        UsagePoint(id="B", transformer="unrated", feeder="F"),
    ),
)
END_US = int(datetime(2016, 1, 1, 0, 15, tzinfo=UTC).timestamp()) * 1_000_000
NOW_MS = 1_700_000_000_000

GOOD: dict[str, Any] = {
    "reasons": 0, "points": 0, "types": BY_ALIAS["import_kwh"].id, "ts_end_us": END_US, "interval_s": 900,
    "mantissas": 213, "scales": -3, "versions": 0,
}  # fmt: skip
DTYPES = {
    "reasons": np.uint8, "points": np.int32, "types": np.int16, "ts_end_us": np.int64, "interval_s": np.int32,
    "mantissas": np.int64, "scales": np.int8, "versions": np.int64,
}  # fmt: skip


def validate(*rows: dict[str, Any], event_ms: int = NOW_MS, rules: Rules | None = None) -> Validated:
    columns = {name: np.array([(GOOD | row)[name] for row in rows], dtype) for name, dtype in DTYPES.items()}
    return Validator(NETWORK.index(), rules).validate(Measured(**columns), np.full(len(rows), event_ms, np.int64))


def verdict(row: dict[str, Any], **options: Any) -> Reason:
    """The same reading alone and beside a good one must get the same verdict."""
    alone = validate(row, **options).reasons[0]
    assert validate({}, row, **options).reasons[1] == alone
    return Reason(int(alone))


def test_a_good_reading_becomes_a_row_to_be_summed() -> None:
    found = validate({}, {"types": BY_ALIAS["export_kwh"].id, "points": 1})
    assert found.reasons.tolist() == [0, 0]
    assert found.rows.tolist() == [0, 1]
    assert found.slots.tolist() == [END_US // 900_000_000] * 2
    assert found.points.tolist() == [0, 1]
    assert found.channels.tolist() == [0, 1]
    assert found.amounts.tolist() == [213_000, 213_000]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"reasons": Reason.MALFORMED, "points": -1, "scales": -128}, Reason.MALFORMED),
        ({"reasons": Reason.UNKNOWN_READING_TYPE, "types": -1}, Reason.UNKNOWN_READING_TYPE),
        ({"points": -1}, Reason.UNKNOWN_USAGE_POINT),
        ({"points": -1, "mantissas": -1}, Reason.UNKNOWN_USAGE_POINT),
        ({"ts_end_us": 0}, Reason.TIME_OUT_OF_RANGE),
        ({"ts_end_us": 2**62}, Reason.TIME_OUT_OF_RANGE),
        ({"ts_end_us": END_US + 1}, Reason.MISALIGNED),
        ({"ts_end_us": END_US + 300_000_000}, Reason.MISALIGNED),
        ({"ts_end_us": END_US + 300_000_000, "interval_s": 300}, Reason.ACCEPTED),
        ({"ts_end_us": END_US + 1_000_000, "interval_s": 300}, Reason.MISALIGNED),
        ({"interval_s": 82_800, "ts_end_us": END_US + 7_000_000}, Reason.ACCEPTED),
        ({"mantissas": -1}, Reason.NEGATIVE_VALUE),
        ({"mantissas": -1, "types": BY_ALIAS["import_register_kwh"].id, "interval_s": 0}, Reason.NEGATIVE_VALUE),
        ({"mantissas": -1, "types": BY_ALIAS["power_import_kw"].id, "interval_s": 0}, Reason.ACCEPTED),
        # 100 kVA x 10 is 1,000 kW, which is 250 kWh in a quarter of an hour.
        ({"mantissas": 250_000}, Reason.ACCEPTED),
        ({"mantissas": 250_001}, Reason.IMPLAUSIBLE_VALUE),
        ({"mantissas": 250_001, "points": 1}, Reason.ACCEPTED),
        ({"mantissas": 5_000_001, "points": 1}, Reason.IMPLAUSIBLE_VALUE),
        ({"mantissas": 2**63 - 1, "scales": 127}, Reason.IMPLAUSIBLE_VALUE),
        ({"mantissas": 1_001, "scales": 0, "types": BY_ALIAS["power_import_kw"].id, "interval_s": 0},
         Reason.IMPLAUSIBLE_VALUE),
        ({"mantissas": 10**9, "types": BY_ALIAS["import_register_kwh"].id, "interval_s": 0}, Reason.ACCEPTED),
        ({"versions": -1}, Reason.BAD_VERSION),
        ({"versions": VERSION_MAX + 1}, Reason.BAD_VERSION),
        ({"versions": VERSION_MAX}, Reason.ACCEPTED),
    ],
)  # fmt: skip
def test_the_first_rule_that_fails_is_the_reason(row: dict[str, Any], reason: Reason) -> None:
    assert verdict(row) is reason


@pytest.mark.parametrize(
    "row",
    [
        {"types": BY_ALIAS["import_register_kwh"].id, "interval_s": 0},
        {"types": BY_ALIAS["voltage_l1_v"].id, "interval_s": 0},
        {"types": BY_ALIAS["import_kvarh"].id},
        {"interval_s": 3600},
        {"types": BY_ALIAS["import_register_kwh"].id, "interval_s": 0, "points": -1},
    ],
)
def test_other_readings_are_valid_but_not_summed(row: dict[str, Any]) -> None:
    found = validate({}, row | {"ts_end_us": END_US + 2_700_000_000})
    assert found.reasons.tolist() == [0, 0]
    assert found.rows.tolist() == [0]


def test_the_future_is_judged_by_the_event_and_not_by_a_clock() -> None:
    end_ms = END_US // 1000
    assert verdict({}, event_ms=end_ms - 3_600_000) is Reason.ACCEPTED
    assert verdict({}, event_ms=end_ms - 3_600_001) is Reason.FROM_THE_FUTURE
    assert verdict({}, event_ms=end_ms - 2, rules=Rules(future_s=0)) is Reason.FROM_THE_FUTURE
    assert verdict({}, event_ms=0) is Reason.ACCEPTED, "an event without a timestamp cannot be judged"


def test_nothing_at_all() -> None:
    found = validate()
    assert len(found.reasons) == len(found.rows) == len(found.amounts) == 0


@given(st.lists(st.tuples(st.integers(0, AMOUNT_MAX), st.integers(-25, 5)), max_size=8))
def test_milliwatt_hours_are_exact_and_halves_go_up(values: list[tuple[int, int]]) -> None:
    rows = [(m, s) for m, s in values if Decimal(m).scaleb(s + 6) <= AMOUNT_MAX]
    found = to_milliwatt_hours(np.array([m for m, _ in rows], np.int64), np.array([s for _, s in rows], np.int8))
    expected = [int(Decimal(m).scaleb(s + 6).quantize(Decimal(1), ROUND_HALF_UP)) for m, s in rows]
    assert found.tolist() == expected


@pytest.mark.parametrize("scale", [-6, -3, 0, 5])
def test_milliwatt_hours_of_one_scale(scale: int) -> None:
    found = to_milliwatt_hours(np.array([0, 1, 7], np.int64), np.full(3, scale, np.int8))
    assert found.tolist() == [0, 10 ** (scale + 6), 7 * 10 ** (scale + 6)]
