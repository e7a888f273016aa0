"""The demo's replay: late readings, exact truth, and a restart after any event that neither repeats nor owes."""

import json
import threading
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from gridwire.core.errors import Unavailable
from gridwire.demo.plan import LATE_INTERVALS_MAX, Plan
from gridwire.demo.replay import Replay, _steps
from gridwire.demo.truth import KEEP_INTERVALS, Truth
from gridwire.demo.utility import METERS, frame_files
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BadFrame
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.profiles import QuarterHours
from gridwire.grid.reading import rfc3339, timestamp_us

UNITS = 40
FIRST = 1000
NETWORK = Network(
    name="Test",
    transformers=(Transformer(id="T0"), Transformer(id="T1")),
    feeders=(Feeder(id="F0", transformer="T0"), Feeder(id="F1", transformer="T1"), Feeder(id="F2", transformer="T1")),
    usage_points=tuple(
        UsagePoint(
            id=f"U{n}", transformer=f"T{min(n % 3, 1)}", feeder=f"F{n % 3}",
            expects=("export_kwh",) if n % 5 == 0 else ("import_kwh",),
        )
        for n in range(UNITS)
    ),
)  # fmt: skip
PROFILES = QuarterHours(
    timestamp_us(datetime(2015, 12, 31, 23, 15, tzinfo=UTC)),
    np.random.default_rng(1).random((2000, 4)),
    np.arange(UNITS, dtype=np.int32) % 4,
    np.linspace(0.5, 20, UNITS),
)
PLAN = Plan(UNITS, late_share=0.2)


class Log:
    """A sink that keeps everything, and can fail at a given event."""

    def __init__(self, fail_at=None):
        self.events = []
        self.fail_at = fail_at

    def send(self, hub, key, value, headers=None):
        if len(self.events) == self.fail_at:
            self.fail_at = None
            raise Unavailable("killed")
        self.events.append((hub, key, value, dict(headers or [])))

    def flush(self, stop):
        return True

    def values(self, hub="readings"):
        return [value for name, _, value, _ in self.events if name == hub]


def replay(plan=PLAN):
    return Replay(NETWORK, PROFILES, plan, meters={})


def run(log, last, found=None, meters_frames=False):
    """Step up to `last`, after reading the end of the log; the progress of every step."""
    subject = replay()
    begun = subject.resume(found if found is not None else log.values())
    reports = []
    if begun is not None:
        due = subject.owed(begun)
        subject.send(due, log)
        reports.append(subject.acknowledged(begun, due))
    for step in range(FIRST if begun is None else begun + 1, last + 1):
        due = subject.due(step)
        subject.send(due, log)
        if meters_frames:
            subject.send_frames(step, 0, log)
        reports.append(subject.acknowledged(step, due))
    return subject, reports


def expected(last):
    """(usage point, ts_end) of everything that is due up to a step, by brute force."""
    return {
        (f"U{unit}", rfc3339(PROFILES.ts_end_us(interval)))
        for interval in range(FIRST, last + 1)
        for unit, delay in enumerate(PLAN.delays(interval))
        if interval + delay <= last
    }


def identities(log):
    rows = [json.loads(value) for value in log.values()]
    return Counter((row["usage_point"], row["ts_end"]) for row in rows)


def test_a_share_is_late_and_everything_comes_once():
    log = Log()
    _, reports = run(log, FIRST + 30)
    assert identities(log) == dict.fromkeys(expected(FIRST + 30), 1)
    late = reports[-1].late_total / reports[-1].sent_total
    assert 0.1 < late < 0.3
    assert sum(report.sent for report in reports) == len(log.events) == reports[-1].sent_total


def test_without_late_readings_everything_is_on_time():
    punctual = replay(Plan(UNITS, late_share=0.0))
    assert [(interval, len(units)) for interval, units in punctual.due(FIRST)] == [(FIRST, UNITS)]


def test_events_are_readings_keyed_by_transformer():
    log = Log()
    run(log, FIRST)
    hub, key, value, _ = log.events[0]
    row = json.loads(value)
    unit = next(unit for unit in NETWORK.usage_points if unit.id == row["usage_point"])
    assert (hub, key) == ("readings", unit.transformer.encode())
    assert row["reading_type"] == unit.expects[0]
    assert row["interval_s"] == 900
    (decoded,) = registry.get("json").decode(value)
    reading = decoded.readings[0]
    energy_wh = PROFILES.energy_wh(FIRST)[NETWORK.usage_points.index(unit)]
    assert (reading.value, reading.scale) == (energy_wh, -3)


@pytest.mark.parametrize("fail_at", [0, 1, 17, 39, 40, 41, *range(95, 120), 163, 305, 400])
def test_a_restart_after_any_event_owes_nothing_and_repeats_nothing(fail_at):
    log = Log(fail_at)
    with pytest.raises(Unavailable):
        run(log, FIRST + 12)
    _, reports = run(log, FIRST + 12)
    assert identities(log) == dict.fromkeys(expected(FIRST + 12), 1)
    assert reports[-1].truth.complete


def test_a_restart_reads_past_what_is_not_its_own():
    log = Log()
    run(log, FIRST + 5)
    foreign = [
        None, b"", b"{", b"[]", b'{"interval_s":900}', b"\xff",
        b'{"usage_point":"U1","ts_end":"2030-01-01T00:07:00Z","interval_s":900}',
        b'{"usage_point":"U1","ts_end":"nonsense","interval_s":900}',
        b'{"usage_point":"U1","ts_end":"2030-01-01T00:15:00Z","interval_s":0}',
        b'{"usage_point":"stranger","ts_end":"2030-01-01T00:15:00Z","interval_s":900}',
    ]  # fmt: skip
    assert replay().resume([*foreign, *log.values()]) == FIRST + 5
    assert replay().resume(foreign) is None


def sums_of(log, step_ts):
    """Sums over what is in the log, from its JSON alone."""
    by_id = {unit.id: unit for unit in NETWORK.usage_points}
    sums = {}
    for value in log.values():
        row = json.loads(value)
        if row["ts_end"] != step_ts:
            continue
        unit = by_id[row["usage_point"]]
        for group in (unit.transformer, unit.feeder):
            entry = sums.setdefault(group, [0, 0, 0])
            entry[0 if row["reading_type"] == "import_kwh" else 1] += round(row["value"] * 1000)
            entry[2] += 1
    return sums


@pytest.mark.parametrize("back", [0, 1, LATE_INTERVALS_MAX])
def test_the_truth_is_what_is_in_the_log(back):
    log = Log()
    subject, _ = run(log, FIRST + 20)
    truth = subject.truth.sums(FIRST + 20 - back)
    units = truth.transformers | truth.feeders
    got = {id: [unit.import_wh, unit.export_wh, unit.count] for id, unit in units.items()}
    assert got == sums_of(log, truth.ts_end)
    assert truth.complete is (back == LATE_INTERVALS_MAX)


def test_the_truth_survives_a_restart():
    log = Log()
    first, _ = run(log, FIRST + 20)
    second, _ = run(log, FIRST + 20)
    for interval in range(FIRST + 16, FIRST + 21):
        assert second.truth.sums(interval) == first.truth.sums(interval)


def test_the_truth_forgets_after_two_days():
    truth = Truth(NETWORK, PROFILES)
    for interval in range(KEEP_INTERVALS + 10):
        truth.add(interval, np.arange(UNITS))
    assert len(truth.intervals()) == KEEP_INTERVALS
    assert truth.sums(0) is None
    assert truth.sums(9) is None
    assert truth.sums(10).complete


def test_power_of_a_unit():
    truth = Truth(NETWORK, PROFILES)
    truth.add(5, np.arange(UNITS))
    unit = truth.sums(5).transformers["T0"]
    assert unit.load_kw == pytest.approx((unit.import_wh - unit.export_wh) * 4 / 1000)


def test_frames_of_real_meters_come_by_and_damaged_ones_go_to_quarantine():
    log = Log()
    _, reports = run(log, FIRST + 40, meters_frames=True)
    bad = [(value, headers) for hub, _, value, headers in log.events if hub == "quarantine"]
    damaged = {file.data for file in frame_files() if file.name == "dsmr-damaged.txt"}
    assert damaged <= {value for value, _ in bad}
    assert {headers["format"] for _, headers in bad} == {b"dsmr", b"han"}
    assert all(headers["reason"] and headers["source"] for _, headers in bad)
    last = reports[-1]
    assert last.quarantined_total == len(bad)
    assert last.frame_readings_total > 50
    assert len(log.values()) == last.sent_total + last.frame_readings_total


def test_every_meter_of_the_frames_is_installed_somewhere():
    meters = set()
    for file in frame_files():
        for item in registry.get(file.format).decode(file.data):
            meters |= set() if isinstance(item, BadFrame) else {reading.meter for reading in item.readings}
    assert meters <= set(METERS)


def test_steps_end_when_stopped():
    log, stop, seen = Log(), threading.Event(), []

    def report(progress):
        seen.append(progress.step)
        if len(seen) == 3:
            stop.set()

    _steps(replay(), FIRST, log, 0.0, None, stop, report)
    assert seen == [FIRST, FIRST + 1, FIRST + 2]
