"""Floors of what bench/accuracy_demand.py measures, on half a year of SimBench."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("simbench", reason="SimBench's profiles are not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import accuracy_demand as bench


@pytest.fixture(scope="module")
def year():
    return bench.read_year(190)


def test_level_changes_are_found(year):
    loads, truth = bench.changed(year, np.random.default_rng(0), "level")
    tallies = {level: bench.Tally() for level in bench.LEVELS}
    bench.tally(year, bench.watch(year, loads, weather=False)[1], "demand.shift", truth, tallies)
    whole = [sum(getattr(tallies[level], name) for level in bench.LEVELS) for name in ("injected", "hits", "false")]
    injected, hits, false = whole
    assert hits >= 0.2 * injected
    assert false <= 0.4 * sum(tally.units for tally in tallies.values())


def test_forecasts_beat_seasonal_naive_at_every_level(year):
    data = bench.dataset(year, year.loads, weather=False)
    metrics = bench.train.train("load_forecast", data, bench.ZONE, bench.datetime(2026, 1, 1, tzinfo=bench.UTC))
    for level in bench.LEVELS:
        found = metrics.manifest.metrics[level]
        assert found["skill"] > 0.08
        assert found["rcrps"] < found["naive_rcrps"]


def test_baselines_are_not_biased(year):
    for row in bench.responses(year, events=10):
        assert float(row[3].split()[0]) < 25.0  # median error, in % of the load
        assert abs(float(row[5].split()[0])) < 12.0
