"""The demo's storm: seeded, within its limits, and the same truth in meters, messages and files."""

import json
from collections import Counter
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest

from gridwire.demo import storm as subject
from gridwire.demo.plan import LATE_INTERVALS_MAX, Plan
from gridwire.demo.replay import Replay
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.profiles import QuarterHours
from gridwire.grid.reading import timestamp_us

UNITS, FIRST = 120, 92
NETWORK = Network(
    name="Test",
    transformers=(Transformer(id="T0", rated_kva=160.0), Transformer(id="T1", rated_kva=100.0)),
    feeders=tuple(Feeder(id=f"F{n}", transformer=f"T{n % 2}") for n in range(6)),
    usage_points=tuple(
        UsagePoint(
            id=f"U{n}", transformer=f"T{n % 6 % 2}", feeder=f"F{n % 6}",
            expects=("export_kwh",) if n % 10 == 0 else ("import_kwh",),
        )
        for n in range(UNITS)
    ),
)  # fmt: skip
PROFILES = QuarterHours(
    timestamp_us(datetime(2015, 12, 31, 23, 15, tzinfo=UTC)),
    np.random.default_rng(1).random((2000, 4)),
    np.arange(UNITS, dtype=np.int32) % 4,
    np.linspace(0.5, 2, UNITS),
)
STORM = subject.Storm(NETWORK, PROFILES, FIRST)
DAYS = range(FIRST, FIRST + 3 * subject.PER_DAY)


def interruptions():
    return [line for interval in DAYS for line in STORM.begun(interval)]


@cache
def happenings(interval):
    return tuple((hub, json.loads(event.value)) for hub, event in STORM.events(interval))


def told(hub, days=DAYS):
    return [row for interval in days for name, row in happenings(interval) if name == hub]


def test_the_same_seed_gives_the_same_bytes():
    other = subject.Storm(NETWORK, PROFILES, FIRST)
    for interval in (FIRST + 60, FIRST + 3, FIRST + 150):
        assert list(other.events(interval)) == list(STORM.events(interval))
    assert list(other.truth()) == list(STORM.truth())
    different = subject.Storm(NETWORK, PROFILES, FIRST, seed=1)
    assert different.begun(FIRST + 60) != STORM.begun(FIRST + 60) or list(different.events(FIRST + 60)) != list(
        STORM.events(FIRST + 60)
    )


def test_every_day_has_its_interruptions_and_none_is_longer_than_a_reading_may_be_late():
    found = interruptions()
    levels = Counter((line["level"], line["cause"]) for line in found)
    assert levels["transformer", "storm"] == 3
    assert levels["feeder", "storm"] == 6
    assert levels["usage_point", "storm"] == 12
    assert levels["feeder", "momentary"] == 3
    assert len({line["id"] for line in found}) == len(found)
    for line in found:
        length = datetime.fromisoformat(line["end"]) - datetime.fromisoformat(line["start"])
        assert 0 < length.total_seconds() < LATE_INTERVALS_MAX * 900
    assert max(int(STORM.held(interval).max()) for interval in DAYS) <= LATE_INTERVALS_MAX


def test_meters_without_power_measure_nothing_and_send_later():
    plan = Plan(UNITS, late_share=0.0, held=STORM.held)
    hours = subject.stormy(PROFILES, STORM)
    dark = [(interval, np.flatnonzero(STORM.without_power(interval) == 1.0)) for interval in DAYS]
    assert sum(len(units) for _, units in dark) > 50
    for interval, units in dark:
        assert not hours.energy_wh(interval)[units].any()
        back = STORM.without_power(interval + 1)[units] == 0  # may have come back just then
        assert (plan.delays(interval)[units] > 0)[~back].all()
    calm = FIRST + 5
    assert not STORM.held(calm).any()
    assert hours.energy_wh(calm).tolist() == PROFILES.energy_wh(calm).tolist()


def test_last_gasps_come_from_meters_that_are_out_with_some_loss():
    gasps = Counter(row["usage_point"] for row in told("meter.events") if row["kind"] == "LAST_GASP")
    storms = {each.id: each for interval in DAYS for each in STORM._near(interval) if each.cause == "storm"}
    out = Counter(NETWORK.usage_points[at].id for each in storms.values() for at in each.units.tolist())
    assert 0.5 * out.total() < gasps.total() < 0.9 * out.total()
    assert sum((gasps - out).values()) <= 6, "false gasps are rare"


def test_who_stays_out_longer_is_restored_once():
    restored = Counter(
        (row["usage_point"], row["ts_event"]) for row in told("meter.events") if row["kind"] == "POWER_RESTORED"
    )
    assert set(restored.values()) == {1}
    nested = [line for line in interruptions() if line["within"]]
    assert nested
    parents = {line["id"]: line for line in interruptions()}
    for line in nested:
        assert parents[line["within"]]["end"] < line["end"]


def test_it_gets_hot_at_noon_and_demand_follows():
    weather = told("weather")
    assert weather[10]["temperature_c"] < 24 < max(row["temperature_c"] for row in weather[48:60])
    assert max(row["wind_gust_ms"] for row in weather) > 25 > max(row["wind_gust_ms"] for row in weather[:40])
    before, after = STORM._demand(FIRST + 30), STORM._demand(FIRST + 60)
    assert (before == 1).all()
    assert after.max() > 1.3
    exports = [at for at, unit in enumerate(NETWORK.usage_points) if "export_kwh" in unit.expects]
    assert (after[exports] == 1).all()


def test_the_transformer_that_grows_is_loaded_beyond_its_rating_and_sags():
    name, line = next(iter(STORM.truth()))
    assert (name, line["kind"]) == ("transformers", "overload")
    under = {unit.id for unit in NETWORK.usage_points if unit.transformer == f"T{STORM.overloaded}"}

    def volts(days):
        return np.mean([row["value"] for row in told("readings", days) if row["usage_point"] in under])

    assert STORM.growth > 1.2
    assert volts(range(FIRST + 50, FIRST + 90)) < volts(range(FIRST, FIRST + 40)) - 1


class Log:
    def __init__(self):
        self.events = []

    def send(self, hub, key, value, headers=None):
        self.events.append((hub, key, value))


def test_a_replay_sends_it_and_every_reading_still_comes_once():
    hours = subject.stormy(PROFILES, STORM)
    replay = Replay(NETWORK, hours, Plan(UNITS, 0.05, held=STORM.held), meters={}, storm=STORM)
    log, last = Log(), FIRST + subject.PER_DAY
    for step in range(FIRST, last + 1):
        due = replay.due(step)
        replay.send_happenings(step, log)
        replay.send(due, log)
        replay.acknowledged(step, due)
    rows = [json.loads(value) for hub, _, value in log.events if hub == "readings"]
    energies = Counter((row["usage_point"], row["ts_end"]) for row in rows if row["interval_s"] == 900)
    assert set(energies.values()) == {1}
    assert replay.truth.sums(last - LATE_INTERVALS_MAX).complete
    assert {hub for hub, _, _ in log.events} == {"readings", "meter.events", "weather"}


def test_the_files_of_the_truth_know_each_interruption_once(tmp_path):
    for _ in range(2):  # a demo that is started again
        files = subject.TruthFiles(tmp_path, STORM)
        for interval in DAYS:
            files.add(interval)
    lines = [json.loads(line) for line in (tmp_path / "outages.jsonl").read_text().splitlines()]
    assert lines == interruptions()
    assert len((tmp_path / "shifts.jsonl").read_text().splitlines()) == 2
    assert len((tmp_path / "transformers.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("interval", [FIRST, FIRST + 58, FIRST + 200])
def test_what_it_says_is_what_the_hub_takes(interval):
    from gridwire.grid.meter_event import KINDS

    for hub, event in STORM.events(interval):
        row = json.loads(event.value)
        assert event.key
        if hub == "meter.events":
            assert row["kind"] in KINDS
        if hub == "readings":
            assert (row["reading_type"], row["interval_s"]) == ("voltage_v", 0)
