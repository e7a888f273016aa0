"""IEEE 1366 indices, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gridwire.core.errors import GridwireError
from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.reliability import DAY_US, interruptions, major_event_threshold, report
from gridwire.grid.watch.told import to_json

START = 1_767_225_600 * 1_000_000
MINUTE = 60_000_000


def outage(subject: str, day: float, customers: int, minutes: float, sustained: bool = True, **more: object) -> Finding:
    start = START + int(day * DAY_US)
    return Finding(
        kind="outage", subject_kind="transformer", subject=subject, started_us=start, severity=Severity.CRITICAL,
        confidence=0.9, detector="outages", state=FindingState.CLOSED, ended_us=start + int(minutes * MINUTE),
        evidence={"customers": customers, "customer_minutes": customers * minutes, "sustained": sustained, **more},
        version=2,
    )  # fmt: skip


def test_indices_of_a_few_outages() -> None:
    found, going_on = interruptions(
        map(
            to_json,
            [
                replace(outage("T1", 0.5, 10, 60), state=FindingState.OPENED, version=0),
                outage("T1", 0.5, 10, 60),
                outage("T2", 1.5, 40, 90),
                outage("T3", 1.6, 100, 2, sustained=False),
                outage("T4", 1.7, 100, 50, part_of="feeder/F"),
                outage("T5", 1.7, 100, 50, unconfirmed=True),
                replace(outage("T6", 2.0, 3, 0), state=FindingState.CHANGED),
                replace(outage("T7", 2.0, 3, 0), kind="communication.lost"),
            ],
        )
    )
    assert going_on == 1 and len(found) == 3
    told = report(found, 1000, START, START + 10 * DAY_US).all
    assert (told.interruptions, told.momentary) == (2, 1)
    assert told.saidi_min == pytest.approx((600 + 3600) / 1000)
    assert told.saifi == pytest.approx(0.05) and told.maifi == pytest.approx(0.1)
    assert told.caidi_min == pytest.approx(84.0)
    assert told.asai == pytest.approx(1 - 4.2 / (10 * 1440))


def test_nonsense_in_the_hub_is_passed_over() -> None:
    assert interruptions([b"", b"{}", b"nonsense", b"\xff"]) == ([], 0)


def test_the_threshold_is_the_2_5_beta_method() -> None:
    # ln of e, e^2, e^3: mean 2, standard deviation 1.
    assert major_event_threshold([math.e, 0.0, math.e**2, math.e**3]) == pytest.approx(math.exp(4.5))
    assert major_event_threshold([1.0]) is None and major_event_threshold([]) is None


def test_a_major_event_day_is_told_apart() -> None:
    calm = [outage(f"T{day}", day + 0.5, 10, 60 + day) for day in range(60)]
    storm = outage("S", 70.5, 800, 600)
    found, _ = interruptions(map(to_json, [*calm, storm]))
    told = report(found, 1000, START, START + 100 * DAY_US)
    assert told.major_days == (START + 70 * DAY_US,)
    assert told.all.interruptions == 61 and told.without_major.interruptions == 60
    assert told.without_major.saidi_min < told.all.saidi_min / 5 and told.t_med_days == 61
    # What lies before the period makes the threshold, and is not in its indices.
    late = report(found, 1000, START + 70 * DAY_US, START + 71 * DAY_US)
    assert late.all.interruptions == 1 and late.without_major.interruptions == 0
    assert math.isnan(late.without_major.caidi_min)


def test_impossible_questions() -> None:
    with pytest.raises(GridwireError):
        report([], 0, START, START + 1)
    with pytest.raises(GridwireError):
        report([], 1, START, START)
