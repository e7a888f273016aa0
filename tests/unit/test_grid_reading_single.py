"""Single readings: exact decimals, exact times, the JSON event."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gridwire.grid import reading as rd

TS = rd.timestamp_us(datetime(2016, 1, 1, 0, 15, tzinfo=UTC))


def test_the_event_of_the_documentation():
    reading = rd.Reading(TS, 1, 213, -3, 900, "LV1.101 Load 1")
    assert json.loads(rd.reading_json(reading)) == {
        "usage_point": "LV1.101 Load 1",
        "ts_end": "2016-01-01T00:15:00Z",
        "interval_s": 900,
        "reading_type": "import_kwh",
        "value": 0.213,
    }
    assert b'"value":0.213}' in rd.reading_json(reading)


def test_optional_fields_and_odd_names():
    reading = rd.Reading(TS, 10, 5, 0, 0, 'Z"ü\n', "m", "5.4.260", "file", 2)
    event = json.loads(rd.reading_json(reading))
    assert (event["usage_point"], event["meter"], event["quality"], event["source"], event["version"]) == (
        'Z"ü\n', "m", "5.4.260", "file", 2,
    )  # fmt: skip


def test_events_are_keyed_by_transformer_else_usage_point():
    reading = rd.Reading(TS, 1, 1, 0, 900, "U")
    assert rd.reading_event(reading).key == b"U"
    assert rd.reading_event(reading, "T").key == b"T"


@example(2**63 - 1, 1)
@example(-(2**63) + 1, -128)
@given(st.integers(-(2**63) + 1, 2**63 - 1), st.integers(-128, 127))
def test_decimals_survive_json_exactly(value, scale):
    text = rd.decimal_text(value, scale)
    assert Decimal(text) == Decimal(value).scaleb(scale)
    json.loads(text)
    back = rd.value_parts(text)
    assert Decimal(back[0]).scaleb(back[1]) == Decimal(text)


@given(st.integers(0, 2**62), st.integers(-20, 0))
def test_digits_are_kept_as_written(value, scale):
    text = rd.decimal_text(value, scale)
    assert rd.value_parts(text) == (value, scale)


@pytest.mark.parametrize("text", ["nan", "inf", "x", "", "1e200", str(2**63), "1e-129"])
def test_numbers_that_cannot_be_kept(text):
    with pytest.raises(ValueError, match=r"number|digits"):
        rd.value_parts(text)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)), st.integers(-840, 840))
def test_times_are_exact(naive, offset_min):
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    us = rd.timestamp_us(moment)
    assert datetime.fromisoformat(rd.rfc3339(us)) == moment


def test_a_time_without_offset_is_no_instant():
    with pytest.raises(ValueError, match="offset"):
        rd.timestamp_us(datetime(2016, 1, 1))


@pytest.mark.parametrize(
    ("text", "packed"),
    [("", 0), ("1.0.0", 1 << 24), ("5.4.260", 5 << 24 | 4 << 16 | 260), ("16.0.0", -1), ("1.2", -1), ("good", -1)],
)
def test_quality_codes(text, packed):
    assert rd.pack_quality(text) == packed
