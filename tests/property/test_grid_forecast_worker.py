"""The worker that forecasts, on an in-memory hub: killed anywhere, it tells every forecast once and the same ones."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from grid_series import START_US, Utility, network
from gridwire.core.batch import Event
from gridwire.core.clock import ManualClock
from gridwire.core.errors import Unavailable
from gridwire.grid.models import hazard, package, train
from gridwire.grid.models.dataset import Dataset, Loads
from gridwire.grid.models.stage import ForecastPipeline, forecast_stage
from gridwire.grid.network import to_json
from gridwire.grid.reading import rfc3339
from gridwire.grid.worker import WorkerSettings, run
from worker_hub import Crash, Hub, Source

UNITS, DAYS, MORE = 2, 50, 4
HUBS = {
    "grid.transformers": 2, "grid.feeders": 1, "weather": 1, "models": 1, "grid.network": 1, "grid.forecasts": 2,
    "grid.demand": 1, "grid.alerts": 2, "grid.health": 2, "grid.risk": 2,
}  # fmt: skip
GROUP = "grid.forecast"
START_MS = 1_700_000_000_000
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def days():
    utility = Utility(UNITS, DAYS + MORE, intervals=24)
    return [utility.day(day) for day in range(DAYS + MORE)]


@pytest.fixture(scope="module")
def models(days):
    """Events of two models, trained on another number of days each."""
    found = []
    for count in (DAYS, DAYS - 5):
        load = np.concatenate(days[:count]).astype(np.float32)
        loads = Loads("transformer", tuple(f"T{i}" for i in range(UNITS)), START_US // HOUR_US + 1, load,
                      np.full(UNITS, -1), np.zeros(UNITS))  # fmt: skip
        data = Dataset({"transformer": loads}, (), {"transformer": np.zeros((len(load), 0))})
        trained = train.train("load_forecast", data, "UTC", datetime(2026, 1, 1, tzinfo=UTC))
        found.append((trained.manifest.version, package.events(trained.manifest, trained.data)))
    return found


def new_hub():
    hub = Hub(HUBS)
    hub.append("grid.network", to_json(network(UNITS, 3600, rated_kva=60.0)))
    return hub


def facts(hub, days, begin, end):
    for day in range(begin, end):
        for hour in range(24):
            for unit in range(UNITS):
                value = {
                    "transformer": f"T{unit}", "interval_s": 3600, "load_kw": round(float(days[day][hour, unit]), 6),
                    "ts_end": rfc3339(START_US + (day * 24 + hour + 1) * HOUR_US), "count": 1, "expected": 1,
                }  # fmt: skip
                hub.append("grid.transformers", json.dumps(value).encode(), unit % 2, START_MS)


def publish(hub, events):
    log = hub.log["models", 0]
    for event in events:
        log.append(Event(event.value, event.key, event.headers, START_MS, len(log)))


def work(hub, directory, *, snapshot_s=1e9):
    """Run a worker until everything is read and committed."""
    stop, clock = threading.Event(), ManualClock(START_MS)
    inner, quiet = hub.step, 0

    def step(name):
        nonlocal quiet
        clock.advance(0.01)
        inner(name)
        if name in ("before commit", "open"):
            quiet = 0
        elif name == "poll" and all(
            hub.committed.get((GROUP, place), 0) == len(log)
            for place, log in hub.log.items()
            if place[0] in ("grid.transformers", "grid.health", "models")
        ):
            quiet += 1
            if quiet > 4:
                stop.set()

    hub.step = step
    try:
        run(hub.open, directory, stop, WorkerSettings(GROUP, forecast_stage(), snapshot_s=snapshot_s), clock=clock)
    finally:
        hub.step = inner


def told(hub):
    """(model, unit, issued, hour) of every forecast."""
    return [(e["model"], e["unit"], e["issued_at"], e["ts_end"]) for e in hub.values("grid.forecasts")]


def test_each_model_forecasts_from_its_event_on(days, models, tmp_path: Path):
    hub = new_hub()
    facts(hub, days, 0, DAYS)
    publish(hub, models[0][1])
    work(hub, tmp_path)
    assert {model for model, *_ in told(hub)} == {models[0][0]}
    publish(hub, models[1][1])
    work(hub, tmp_path)
    assert {model for model, *_ in told(hub)} == {models[0][0], models[1][0]}
    assert len(told(hub)) == len(set(told(hub)))
    assert sum(model == models[1][0] for model, *_ in told(hub)) == UNITS * 48
    overloads = [value for value in hub.values("grid.alerts") if value["kind"] == "forecast.overload"]
    assert overloads and all(value["detector"] == "forecasts" for value in overloads)


def steps_of(days, models, directory):
    hub, names = new_hub(), []
    hub.step = names.append
    facts(hub, days, 0, DAYS)
    publish(hub, models[0][1])
    work(hub, directory)
    return len(names)


@pytest.mark.parametrize("snapshot_s", [1e9, 0.0])
def test_killed_anywhere_it_tells_every_forecast_once(days, models, tmp_path: Path, snapshot_s):
    expected = new_hub()
    facts(expected, days, 0, DAYS)
    publish(expected, models[0][1])
    work(expected, tmp_path / "expected")
    whole = [json.dumps(value, sort_keys=True) for value in expected.values("grid.forecasts")]
    for number, at in enumerate(range(1, steps_of(days, models, tmp_path / "count") + 1, 7)):
        hub, count = new_hub(), 0
        facts(hub, days, 0, DAYS)
        publish(hub, models[0][1])

        def step(name, at=at):
            nonlocal count
            count += 1
            if count == at:
                raise Crash if at % 2 else Unavailable("the hub is away")

        hub.step = step
        for _ in range(3):
            try:
                work(hub, tmp_path / str(number), snapshot_s=snapshot_s)
                break
            except Crash:
                continue
        found = [json.dumps(value, sort_keys=True) for value in hub.values("grid.forecasts")]
        assert sorted(found) == sorted(whole)


@pytest.fixture(scope="module")
def failures_model():
    """Events of a model of failures, of which load is the cause."""
    random = np.random.default_rng(3)
    told = np.zeros((len(hazard.DAILY), 80, 60))
    told[0], told[1] = 24, 0.5 + 0.1 * random.random((80, 60))
    failed = np.array([(unit, 40 + unit) for unit in range(0, 40, 2)])
    for unit, day in failed.tolist():
        told[1, day - 28 : day, unit] += 0.6
    past = hazard.HealthDays(tuple(map(str, range(60))), 0, told, failed)
    trained = train.train(
        "transformer_health", Dataset({}, (), {}, health=past), "UTC", datetime(2026, 1, 1, tzinfo=UTC)
    )
    return package.events(trained.manifest, trained.data)


def health_facts(hub, begin, end):
    for hour in range(begin * 24, end * 24):
        for unit in range(UNITS):
            hot = unit == 1 and hour // 24 in range(6, 9)
            value = {
                "transformer": f"T{unit}", "ts_end": rfc3339(START_US + (hour + 1) * HOUR_US), "risk": 0.0,
                "load_factor": 1.2 if hot else 0.5, "hot_spot_c": 0.0, "ageing_factor": 0.0, "signature": "",
                "loss_of_life_h": 0.0, "watched_h": 1.0,
            }  # fmt: skip
            hub.append("grid.health", json.dumps(value).encode(), unit % 2, START_MS)


def risks(hub):
    """Every fact, and what holds of every finding; how many versions it took depends on who was killed when."""
    findings = {value["id"]: value | {"version": 0} for value in hub.values("grid.alerts")}
    return sorted(json.dumps(each, sort_keys=True) for each in [*hub.values("grid.risk"), *findings.values()])


@pytest.mark.parametrize("snapshot_s", [1e9, 0.0])
def test_killed_anywhere_it_tells_every_risk_once(failures_model, tmp_path: Path, snapshot_s):
    def filled(step=None):
        hub = new_hub()
        publish(hub, failures_model)
        health_facts(hub, 0, 20)
        hub.poll_events_max = 150
        hub.step = step or (lambda name: None)
        return hub

    names = []
    expected = filled(names.append)
    work(expected, tmp_path / "expected")
    whole = risks(expected)
    days = {(row["transformer"], row["day"]) for row in expected.values("grid.risk")}
    assert len(days) == len(expected.values("grid.risk")) == 16 * UNITS
    assert [value["kind"] for value in expected.values("grid.alerts") if value["state"] == "closed"] == [
        "transformer.at_risk"
    ]
    for number, at in enumerate(range(1, len(names) + 1, 5)):
        count = 0

        def step(name, at=at):
            nonlocal count
            count += 1
            if count == at:
                raise Crash if at % 2 else Unavailable("the hub is away")

        hub = filled(step)
        for _ in range(3):
            try:
                work(hub, tmp_path / str(number), snapshot_s=snapshot_s)
                break
            except Crash:
                continue
        assert risks(hub) == whole


def test_a_restart_issues_nothing_and_goes_on(days, models, tmp_path: Path):
    hub = new_hub()
    facts(hub, days, 0, DAYS)
    publish(hub, models[0][1])
    work(hub, tmp_path, snapshot_s=0.0)
    before = told(hub)
    for _ in range(2):
        work(hub, tmp_path, snapshot_s=0.0)
        assert told(hub) == before
    facts(hub, days, DAYS, DAYS + 1)
    work(hub, tmp_path)
    assert len(told(hub)) > len(before) and len(set(told(hub))) == len(told(hub))


def test_a_worker_that_forgets_what_was_due_would_tell_twice(days, models, tmp_path: Path, monkeypatch):
    """Negative control: without the rule that a rebuilt past is silent, the test above is red."""
    hub = new_hub()
    facts(hub, days, 0, DAYS)
    publish(hub, models[0][1])
    work(hub, tmp_path / "first")
    before = told(hub)
    take = ForecastPipeline.take
    monkeypatch.setattr(ForecastPipeline, "take", lambda self, batches, publish=True, behind=(): take(self, batches))
    work(hub, tmp_path / "second")
    assert len(told(hub)) > len(before)


@pytest.mark.parametrize("rule", [True, False])
def test_a_broker_that_hands_out_one_partition_after_the_other(days, models, tmp_path: Path, monkeypatch, rule):
    """All units are forecast; without the rule that no place may be far ahead (negative control) one is not."""
    hub = new_hub()
    hub.poll_events_max = 10_000
    facts(hub, days, 0, DAYS)
    publish(hub, models[0][1])
    poll, turn = Source.poll, [0]

    def one_place(self, timeout_s, bytes_max=0):
        before = dict(self._at)
        found = poll(self, timeout_s, bytes_max)
        turn[0] += 1
        chosen = found[turn[0] % len(found)] if found else None
        for batch in found:
            if batch is not chosen:
                self._at[batch.hub, batch.partition] = before[batch.hub, batch.partition]
        return [] if chosen is None else [chosen]

    monkeypatch.setattr(Source, "poll", one_place)
    if not rule:
        monkeypatch.setattr("gridwire.grid.models.stage.AHEAD_US", 10**18)
    work(hub, tmp_path)
    assert len({unit for _, unit, *_ in told(hub)}) == (2 if rule else 1)


def test_an_issue_of_many_units_is_told_in_several_commits(days, models, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gridwire.grid.models.stage.EVENTS_A_COMMIT", 7)
    hub, sizes = new_hub(), []
    facts(hub, days, 0, DAYS)
    publish(hub, models[0][1])
    hub.step = lambda name: sizes.append(len(hub.events("grid.forecasts"))) if name == "after commit" else None
    work(hub, tmp_path)
    assert len(told(hub)) == len(set(told(hub))) and len(told(hub)) % (UNITS * 48) == 0
    assert max(after - before for before, after in pairwise([0, *sizes])) == 7
