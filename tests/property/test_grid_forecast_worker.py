"""The worker that forecasts, on an in-memory hub: killed anywhere, it tells every forecast once and the same ones."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from grid_series import START_US, Utility, network
from gridwire.core.batch import Event
from gridwire.core.clock import ManualClock
from gridwire.core.errors import Unavailable
from gridwire.grid.models import package, train
from gridwire.grid.models.dataset import Dataset, Loads
from gridwire.grid.models.stage import ForecastPipeline, forecast_stage
from gridwire.grid.network import to_json
from gridwire.grid.reading import rfc3339
from gridwire.grid.worker import WorkerSettings, run
from worker_hub import Crash, Hub

UNITS, DAYS, MORE = 2, 50, 4
HUBS = {
    "grid.transformers": 2, "grid.feeders": 1, "weather": 1, "models": 1, "grid.network": 1, "grid.forecasts": 2,
    "grid.demand": 1, "grid.alerts": 2,
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
            if place[0] in ("grid.transformers", "models")
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
