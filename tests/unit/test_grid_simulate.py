"""The simulated utility: every reading arrives once, the truth agrees with the events, a seed gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from datetime import date

import numpy as np
import pyarrow.parquet as pq
import pytest

from gridwire.columnar.render import Rows
from gridwire.core.batch import decode, iter_headers
from gridwire.core.errors import GridwireError, InvalidSetting
from gridwire.core.hubs import METER_EVENTS, READINGS, WEATHER
from gridwire.grid.network import check
from gridwire.grid.reading import rfc3339
from gridwire.grid.simulate.arrivals import LATE_MAX, NEVER
from gridwire.grid.simulate.run import Simulation, Stream
from gridwire.grid.simulate.scenario import Scenario
from gridwire.grid.simulate.town import point_id
from gridwire.grid.simulate.truth import Truth

STORMY = Scenario(meters=300, days=1, storm=True, outages=2.0, misplaced=0.05, theft=0.02, failing=0.3, shifting=0.3)


class Kept:
    """A sink that keeps everything."""

    def __init__(self):
        self.batches = []

    def partitions(self, hub):
        return 3

    def send(self, hub, partition, batch):
        self.batches.append((hub, partition, bytes(batch)))

    def flush(self):
        pass

    def events(self, hub):
        for name, partition, data in self.batches:
            if name == hub:
                for position, _ in iter_headers(data):
                    for event in decode(data, position):
                        yield partition, event

    def digest(self):
        """Of keys and values: batches carry the time they were made."""
        hashed = hashlib.sha256()
        for hub in (READINGS, METER_EVENTS, WEATHER):
            for partition, event in self.events(hub):
                hashed.update(b"%d %b %b" % (partition, event.key, event.value))
        return hashed.hexdigest()


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    simulation, kept = Simulation(STORMY), Kept()
    directory = tmp_path_factory.mktemp("truth")
    truth = Truth(directory, STORMY, simulation.town)
    assert truth.begin(simulation.faults, simulation.arrivals.head_end_outages) == 0
    Stream(simulation, kept, truth).run()
    return simulation, kept, directory


def readings(kept, alias):
    for _, event in kept.events(READINGS):
        value = json.loads(event.value)
        if value["reading_type"] == alias:
            yield event.key.decode(), value


def test_rows_are_rendered_as_python_writes_them():
    rows = Rows([b'{"a":"x"', b'{"a":"longer"'])
    units = np.array([1, 0, 1, 0], np.int64)
    for digits in (0, 1, 3):
        amounts = np.array([0, 7, -1234567, 10**15], np.int64)
        data, starts, lengths = rows.render(units, b',"v":', amounts, b"}", digits)
        texts = [bytes(data[s : s + n]) for s, n in zip(starts, lengths, strict=True)]
        for unit, amount, text in zip(units, amounts.tolist(), texts, strict=True):
            whole, rest = divmod(abs(amount), 10**digits)
            number = f"{'-' if amount < 0 else ''}{whole}" + (f".{rest:0{digits}d}" if digits else "")
            assert text == (b'{"a":"x"', b'{"a":"longer"')[unit] + f',"v":{number}}}'.encode()


def test_every_reading_arrives_once(streamed):
    simulation, kept, _ = streamed
    found = Counter((value["usage_point"], value["ts_end"]) for _, value in readings(kept, "import_kwh"))
    steps = STORMY.intervals
    down_us = [each.end_us for each in simulation.arrivals.head_end_outages]
    end_us = simulation.loads.ts_end_us(steps - 1)
    for interval in range(steps - LATE_MAX):
        ts_us = simulation.loads.ts_end_us(interval)
        if any(at >= end_us for at in down_us):
            continue
        delays = simulation.arrivals.delays(interval)
        for unit in range(len(simulation.town)):
            count = found[point_id(unit), rfc3339(ts_us)]
            later = [o for o in simulation.faults.outages if o.first <= unit < o.last and o.end_us > end_us - 1]
            if delays[unit] == NEVER:
                assert count == 0
            elif not later:
                assert 1 <= count <= 2, (interval, unit, count)
    assert sum(count - 1 for count in found.values()) < 0.01 * sum(found.values())


def test_the_truth_agrees_with_what_was_sent(streamed):
    simulation, kept, directory = streamed
    newest, sums, counts = {}, defaultdict(int), Counter()
    for transformer, value in readings(kept, "import_kwh"):
        newest[value["usage_point"], value["ts_end"]] = transformer, round(value["value"] * 1000)
    for (_, ts_end), (transformer, wh) in newest.items():
        sums[transformer, ts_end] += wh
        counts[transformer, ts_end] += 1
    checked = 0
    for path in sorted((directory / "sums").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            place = row["transformer"], row["ts_end"].strftime("%Y-%m-%dT%H:%M:%SZ")
            if counts[place] == row["count"]:  # all of it has arrived by the end
                assert sums[place] == row["import_wh"]
                checked += row["count"] > 0
            assert counts[place] <= row["count"]
    assert checked > 0.5 * STORMY.intervals * simulation.town.transformers  # a feeder is out at the end of the day


def test_outages_are_told_by_meters_and_felt_in_readings(streamed):
    simulation, kept, directory = streamed
    outages = [json.loads(line) for line in (directory / "outages.jsonl").read_text().splitlines()]
    assert {each["level"] for each in outages} == {"usage_point", "transformer", "feeder"}
    kinds = Counter(json.loads(event.value)["kind"] for _, event in kept.events(METER_EVENTS))
    assert kinds["LAST_GASP"] > 20
    assert kinds["POWER_RESTORED"] > 20
    assert {"MOMENTARY", "TAMPER"} <= kinds.keys()
    long = next(o for o in simulation.faults.outages if o.end_us - o.start_us > 3 * 900_000_000)
    inside = (long.start_us - STORMY.start_us) // 900_000_000 + 1
    assert simulation.measured(inside).imported[long.first : long.last].sum() == 0
    gasps = [json.loads(e.value)["usage_point"] for _, e in kept.events(METER_EVENTS) if b"LAST_GASP" in e.value]
    assert all(gasps)


def test_meters_of_a_transformer_share_a_partition(streamed):
    _, kept, _ = streamed
    partitions = defaultdict(set)
    for partition, event in kept.events(READINGS):
        partitions[event.key].add(partition)
    assert {len(found) for found in partitions.values()} == {1}


def test_the_model_is_valid_and_wrong_where_the_truth_says_so(streamed):
    simulation, _, directory = streamed
    network = simulation.network()
    check(network)
    wrong = [json.loads(line) for line in (directory / "mapping.jsonl").read_text().splitlines()]
    assert wrong
    believed = {point.id: point.transformer for point in network.usage_points}
    assert all(believed[row["usage_point"]] == row["believed"] != row["real"] for row in wrong)


def test_the_same_scenario_gives_the_same_events():
    digests = []
    for seed in (5, 5, 6):
        kept = Kept()
        Stream(Simulation(Scenario(meters=60, days=1, seed=seed, storm=True, outages=3.0)), kept).run(first=70)
        digests.append(kept.digest())
    assert digests[0] == digests[1] != digests[2]


def test_a_killed_simulation_goes_on(tmp_path):
    scenario = Scenario(meters=50, days=1)
    simulation = Simulation(scenario)
    whole = Kept()
    Stream(simulation, whole).run()

    class Dies(Kept):
        def flush(self):
            if len(list(self.events(READINGS))) > 1_000:
                raise GridwireError("gone")

    truth = Truth(tmp_path, scenario, simulation.town)
    first = Dies()
    with pytest.raises(GridwireError, match="gone"):
        Stream(Simulation(scenario), first, truth).run(first=truth.begin(simulation.faults, ()))
    again = Truth(tmp_path, scenario, simulation.town)
    step = again.begin(simulation.faults, ())
    assert 0 < step < scenario.intervals
    second = Kept()
    Stream(Simulation(scenario), second, again).run(first=step)
    sent = {e.value for kept in (first, second) for _, e in kept.events(READINGS)}
    assert sent == {e.value for _, e in whole.events(READINGS)}
    with pytest.raises(GridwireError, match="another simulation"):
        Truth(tmp_path, Scenario(meters=51, days=1), simulation.town).begin(simulation.faults, ())


@pytest.mark.parametrize(("day", "intervals"), [("2026-03-29", 92), ("2026-10-25", 100), ("2026-01-05", 96)])
def test_days_of_a_clock_change(day, intervals):
    assert Scenario(start=date.fromisoformat(day), days=1).intervals == intervals


def test_voltages_show_a_failing_transformer():
    scenario = Scenario(meters=400, days=2, failing=0.4, voltages=1.0, outages=0.0, last_gasps=0.0, seed=3)
    simulation = Simulation(scenario)
    each = next(f for f in simulation.faults.failing if abs(f.shift) >= 0.05)
    units = np.flatnonzero(simulation.town.transformer == each.transformer)
    step = (each.start_us - scenario.start_us) // 900_000_000
    before = simulation.loads.voltages(simulation.measured(step - 2), units).mean()
    after = simulation.loads.voltages(simulation.measured(step + 2), units).mean()
    assert np.sign(after - before) == np.sign(each.shift)
    assert abs(after - before) > 60  # tenths of a volt


def test_what_cannot_be_simulated_is_said_at_once():
    with pytest.raises(InvalidSetting) as told:
        Scenario(meters=0, days=0, zone="Mars/Base", late=2)
    for words in ("meters must", "days must", "no IANA time zone", "late must"):
        assert words in str(told.value)
