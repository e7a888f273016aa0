"""The VEE stage beside the loads stage on one in-memory hub: gaps, estimates, late readings, crashes at every step."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.clock import ManualClock
from gridwire.core.errors import Rebalanced, Unavailable
from gridwire.grid import network
from gridwire.grid.lane import Stage
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.meter_install import MeterInstall
from gridwire.grid.vee.pipeline import VeePipeline
from gridwire.grid.vee.stage import VEE, VEE_WHOLE
from gridwire.grid.worker import LOADS, WorkerSettings, run
from worker_hub import Crash, Hub

HUBS = {"readings": 2, "grid.network": 1, "grid.transformers": 2, "grid.feeders": 2, "quarantine": 1, "grid.vee": 1}
GROUPS = {"loads": "grid.loads", "vee": "grid.vee", "vee-whole": "grid.vee"}
POINTS = ("U0", "U1", "U2")


def model(**more: Any) -> network.Network:
    return network.Network(
        name="small",
        transformers=(network.Transformer(id="T0"),),
        feeders=(network.Feeder(id="F0", transformer="T0"),),
        usage_points=tuple(network.UsagePoint(id=id, transformer="T0", feeder="F0") for id in POINTS),
        **more,
    )


def two_transformers() -> network.Network:
    """U2 hangs on a transformer of its own, whose readings are in partition 1."""
    first = model()
    return network.Network(
        name="two",
        transformers=(network.Transformer(id="T0"), network.Transformer(id="T1")),
        feeders=(network.Feeder(id="F0"),),
        usage_points=tuple(
            network.UsagePoint(id=unit.id, transformer="T1" if unit.id == "U2" else "T0", feeder="F0")
            for unit in first.usage_points
        ),
    )


def quarter_text(quarter: int) -> str:
    day, rest = divmod(quarter, 96)
    return f"2016-03-{day + 1:02d}T{rest // 4:02d}:{rest % 4 * 15:02d}:00Z"


def reading(point: str, quarter: int, value: float, **more: Any) -> bytes:
    fields = {"usage_point": point, "ts_end": quarter_text(quarter), "interval_s": 900, "reading_type": "import_kwh"}
    return json.dumps(fields | {"value": value} | more).encode()


def work(hub: Hub, directory: Path, stage: Stage, *, commit_readings: int = 1_000_000, snapshot_s: float = 1e9) -> None:
    """Run one stage until it has read everything that is there; what it wrote itself included."""
    stop, clock = threading.Event(), ManualClock()
    inner = hub.step

    def step(name: str) -> None:
        clock.advance(0.001)
        if name == "poll" and done(hub, stage):
            stop.set()
        inner(name)

    hub.step = step
    try:
        options = WorkerSettings(
            GROUPS[stage.name], stage, commit_readings=commit_readings, snapshot_s=snapshot_s,
            loads=LoadsSettings(days=2),
        )  # fmt: skip
        assert run(hub.open, directory / stage.name, stop, options, clock=clock) == "stopped"
    finally:
        hub.step = inner


def done(hub: Hub, stage: Stage) -> bool:
    group = GROUPS[stage.name]
    read = {place: len(events) for place, events in hub.log.items() if place[0] in stage.hubs}
    return all(hub.committed.get((group, place), 0) == count for place, count in read.items())


def stage_of(hub: Hub) -> Stage:
    return VEE_WHOLE if ("meter.events", 0) in hub.log else VEE


def run_both(hub: Hub, directory: Path, **options: Any) -> None:
    work(hub, directory, stage_of(hub), **options)
    work(hub, directory, LOADS, **options)


def facts(hub: Hub) -> dict[str, dict[str, Any]]:
    """The fact of T0 that holds of each interval."""
    return {ts_end: fact for (transformer, ts_end), fact in all_facts(hub).items() if transformer == "T0"}


def all_facts(hub: Hub) -> dict[tuple[str, str], dict[str, Any]]:
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for fact in hub.values("grid.transformers"):
        key = (fact["transformer"], fact["ts_end"])
        if key not in newest or fact["version"] >= newest[key]["version"]:
            newest[key] = fact
    return newest


def verdicts(hub: Hub) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest verdict of every interval; the partition's order is the order of time."""
    return {(row["usage_point"], row["ts_end"]): row for row in hub.values("grid.vee")}


def estimates(hub: Hub) -> dict[tuple[str, str], dict[str, Any]]:
    rows = [row for row in hub.values("readings") if row.get("source") == "gridwire.vee"]
    return {(row["usage_point"], row["ts_end"]): row for row in rows}


def fill(hub: Hub, quarters: range, skip: Callable[[str, int], bool]) -> None:
    for quarter in quarters:
        for place, point in enumerate(POINTS):
            if not skip(point, quarter):
                hub.append("readings", reading(point, quarter, 0.1 * (place + 1)), timestamp=0)


def test_a_gap_is_estimated_told_and_corrected_by_the_late_reading(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    gap = (20, 21, 22)
    fill(hub, range(1, 41), lambda point, quarter: point == "U1" and quarter in gap)
    run_both(hub, tmp_path)
    missing = {("U1", quarter_text(quarter)) for quarter in gap}
    told = estimates(hub)
    assert told.keys() == missing
    assert {(row["value"], row["quality"], row["flags"]) for row in told.values()} == {(0.2, "3.8.2", 4)}
    assert {key for key, row in verdicts(hub).items() if "missing_quantity" in row["failed"]} == missing
    fact = facts(hub)[quarter_text(21)]
    assert (fact["import_kwh"], fact["count"], fact["estimated"], fact["estimated_kwh"]) == (0.6, 2, 1, 0.2)
    assert "estimated" not in facts(hub)[quarter_text(23)]

    hub.append("readings", reading("U1", 21, 0.5))
    run_both(hub, tmp_path)
    fact = facts(hub)[quarter_text(21)]
    assert (fact["import_kwh"], fact["count"], "estimated" in fact) == (0.9, 3, False)
    assert verdicts(hub)["U1", quarter_text(21)]["failed"] == ["consecutive_interval"]
    # Its neighbours are estimated anew from it, and the sums follow.
    assert [estimates(hub)["U1", quarter_text(q)]["value"] for q in (20, 22)] == [0.35, 0.35]
    assert facts(hub)[quarter_text(20)]["import_kwh"] == 0.75
    assert hub.values("quarantine") == []


def test_the_window_is_counted(tmp_path: Path) -> None:
    pipeline = VeePipeline(model())
    hub = Hub(HUBS)
    fill(hub, range(1, 41), lambda point, quarter: point == "U1" and quarter in (20, 30))
    data = bytes(batch.encode(hub.log["readings", 0], base_offset=0))
    (columns,) = decode(data, 0, len(data), from_offset=0).columns
    pipeline.take([ColumnBatch("readings", 0, columns, len(columns))])
    pipeline.outputs(0, lambda hub: 1)
    counts = pipeline.counters()
    assert [counts[f"vee_window_{name}"] for name in ("due", "missing", "estimated")] == [3 * 35, 2, 2]


def test_a_late_reading_of_the_estimated_value_is_told_as_measured(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    fill(hub, range(1, 41), lambda point, quarter: point == "U1" and quarter == 20)
    run_both(hub, tmp_path)
    assert facts(hub)[quarter_text(20)]["estimated"] == 1
    hub.append("readings", reading("U1", 20, 0.2))
    run_both(hub, tmp_path)
    fact = facts(hub)[quarter_text(20)]
    assert (fact["count"], "estimated" in fact) == (3, False)


def missing(hub: Hub) -> set[str]:
    return {at for (_, at), row in verdicts(hub).items() if "missing_quantity" in row["failed"]}


def long_gap(directory: Path, hub: Hub) -> list[bytes]:
    """Five days of which a meter told nothing of most of the second one; what comes of it at last."""
    hub.append("grid.network", network.to_json(two_transformers()))
    gap = range(100, 190)
    fill(hub, range(1, 5 * 96), lambda point, quarter: point == "U1" and quarter in gap)
    run_both(hub, directory)
    assert missing(hub) == {quarter_text(q) for q in gap}
    return [reading("U1", quarter, 0.2 if quarter % 2 else -0.2) for quarter in range(100, 150)]


def test_readings_that_come_days_later_take_back_that_they_were_missing(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    late = long_gap(tmp_path, hub)
    told = len(hub.values("grid.vee"))
    for value in [*late, *late]:
        hub.append("readings", value)
    run_both(hub, tmp_path)
    rows = hub.values("grid.vee")[told:]
    assert {row["ts_end"]: (row["failed"], row["value_kwh"]) for row in rows} == {
        quarter_text(quarter): ([], 0.2) for quarter in range(101, 150, 2)
    }, "negative ones have no value and are missing as before"
    for value in (reading("U1", 160, 0.4), reading("U1", 160, 0.5), reading("U1", 161, 0.6, quality="3.8.2")):
        hub.append("readings", value)
    run_both(hub, tmp_path)
    (row,) = hub.values("grid.vee")[told + len(rows) :]
    assert (row["ts_end"], row["failed"], row["value_kwh"]) == (quarter_text(160), ["duplicate"], 0.5)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=4), st.integers(5, 60), st.booleans(), st.booleans())
def test_crashes_change_nothing_of_what_comes_days_later(
    plan: list[int], chunk: int, snapshots: bool, lose: bool
) -> None:
    with TemporaryDirectory() as directory:
        hub = Hub(HUBS)
        for value in long_gap(Path(directory), hub):
            hub.append("readings", value)
        hub.poll_events_max = chunk
        hub.step = crashing(plan, Unavailable if lose else Crash)
        through_crashes(
            hub, Path(directory), VEE, commit_readings=chunk, snapshot_s=0.0 if snapshots else 1e9
        )  # fmt: skip
    assert missing(hub) == {quarter_text(q) for q in range(100, 190) if q >= 150 or q % 2 == 0}
    assert not repeated(hub)


def test_an_estimate_that_comes_after_the_reading_changes_nothing(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    hub.append("readings", reading("U0", 5, 0.3))
    hub.append("readings", reading("U0", 5, 9.9, quality="3.8.2", version=7))
    work(hub, tmp_path, LOADS)
    fact = facts(hub)[quarter_text(5)]
    assert (fact["import_kwh"], fact["count"], "estimated" in fact) == (0.3, 1, False)


def crashing(plan: list[int], error: Callable[[str], BaseException]) -> Callable[[str], None]:
    """A step that fails after the given numbers of steps, one after the other."""
    left, count = list(plan), 0

    def step(name: str) -> None:
        nonlocal count
        count += 1
        if left and count >= left[0]:
            left.pop(0)
            count = 0
            raise error(name)

    return step


def through_crashes(hub: Hub, directory: Path, stage: Stage, **options: Any) -> None:
    for _ in range(50):
        try:
            work(hub, directory, stage, **options)
        except Crash:
            continue
        return
    raise AssertionError("the worker never came through")


def tables(hub: Hub) -> tuple[Any, ...]:
    """What holds in the end, however it came about."""
    told = {key: row for key, row in verdicts(hub).items() if row["failed"] or row.get("estimated_by")}
    guesses = {key: row["value"] for key, row in estimates(hub).items() if "estimated_by" in told.get(key, {})}
    sums = {at: (fact["import_kwh"], fact["count"], fact.get("estimated", 0)) for at, fact in all_facts(hub).items()}
    return told, guesses, sums


def repeated(hub: Hub) -> list[Any]:
    """What was told twice in a row of the same interval."""
    last: dict[Any, Any] = {}
    out = []
    for hub_name in ("grid.vee", "readings"):
        for row in hub.values(hub_name):
            if hub_name == "readings" and row.get("source") != "gridwire.vee":
                continue
            key = (hub_name, row["usage_point"], row["ts_end"])
            out += [row] if last.get(key) == row else []
            last[key] = row
    return out


def stream(source: random.Random, quarters: int = 120) -> list[bytes]:
    """Three meters over days, with gaps, spikes, corrections, repeats, faults and late readings."""
    rows: list[tuple[float, bytes]] = []
    for quarter in range(1, quarters):
        for place, point in enumerate(POINTS):
            chance = source.random()
            value = round(0.1 * (place + 1) + source.random() / 10, 3)
            late = quarter + source.choice((0, 0, 0, 0, 0, 0, 0, 6, 40)) + source.random() / 2
            if chance < 0.06:
                continue
            if chance < 0.08:
                rows.append((late, reading(point, quarter, -1.0)))
            elif chance < 0.10:
                rows.append((late, reading(point, quarter, 5.0)))
            else:
                rows.append((late, reading(point, quarter, value)))
            if chance > 0.95:
                rows.append((late + 3, reading(point, quarter, value + 0.5, version=1)))
            elif chance > 0.9:
                rows.append((late + source.random(), rows[-1][1]))
    return [value for _, value in sorted(rows)]


def new_hub(shared: bool) -> Hub:
    """Where a worker has whole hubs, it reads what meters tell of their power as well."""
    hub = Hub({**HUBS, "grid.feeder-parts": 1} if shared else {**HUBS, "meter.events": 1})
    hub.shared = shared
    for quarter, kind in () if shared else ((11, "POWER_RESTORED"), (3, "LAST_GASP"), (60, "LAST_GASP")):
        event = {"usage_point": "U1", "ts_event": quarter_text(quarter), "kind": kind}
        hub.append("meter.events", json.dumps(event).encode())
    hub.append("grid.network", network.to_json(two_transformers()))
    return hub


def send(hub: Hub, values: list[bytes]) -> None:
    for value in values:
        hub.append("readings", value, int(b'"U2"' in value))


def whole_run(values: list[bytes], directory: Path, shared: bool = False) -> tuple[Any, ...]:
    hub = new_hub(shared)
    send(hub, values)
    run_both(hub, directory)
    assert not repeated(hub)
    return tables(hub)


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 99),
    st.lists(st.integers(1, 9), max_size=6),
    st.integers(30, 200),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_crashes_change_nothing(
    seed: int, plan: list[int], chunk: int, snapshots: bool, lose: bool, shared: bool
) -> None:
    """Whole hubs, as on the embedded broker, and a lane a partition, as on a cluster."""
    values = stream(random.Random(seed))
    with TemporaryDirectory() as directory:
        expected = whole_run(values, Path(directory) / "whole", shared)
        hub = new_hub(shared)
        hub.poll_events_max = chunk
        options = {"commit_readings": chunk, "snapshot_s": 0.0 if snapshots else 1e9}
        hub.step = crashing(plan, Unavailable if lose else Crash)
        for part in (values[: len(values) // 2], values[len(values) // 2 :]):
            send(hub, part)
            through_crashes(hub, Path(directory), stage_of(hub), **options)
            through_crashes(hub, Path(directory), LOADS, **options)
        through_crashes(hub, Path(directory), stage_of(hub), **options)
        through_crashes(hub, Path(directory), LOADS, **options)
    assert tables(hub) == expected
    assert not repeated(hub)


def test_a_first_commit_that_is_refused_waits_for_a_poll(tmp_path: Path) -> None:
    """On a cluster a member learns of a new assignment in a poll only; a lane commits what it tells anew before any."""
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    fill(hub, range(1, 31), lambda point, quarter: point == "U1" and quarter == 20)
    refused, polled = 0, False

    def step(name: str) -> None:
        nonlocal refused, polled
        polled |= name == "poll" and refused > 0
        if name == "before commit" and not polled:
            refused += 1
            if refused > 20:
                raise Crash
            raise Rebalanced("places move")

    hub.step = step
    work(hub, tmp_path, VEE)
    assert refused == 1
    assert estimates(hub).keys() == {("U1", quarter_text(20))}


def test_negative_control_a_commit_in_two_halves_tells_twice(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.split_commit = True
    hub.append("grid.network", network.to_json(model()))
    for value in stream(random.Random(3), 60):
        hub.append("readings", value)
    crashes = iter([True])

    def step(name: str) -> None:
        if name == "between outputs and positions" and hub.events("grid.vee") and next(crashes, False):
            raise Crash

    hub.step = step
    through_crashes(hub, tmp_path, VEE)
    assert repeated(hub)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 99), st.randoms(use_true_random=False))
def test_a_shuffled_stream_with_repeats_gives_the_same_tables(seed: int, order: random.Random) -> None:
    """As long as the window lasts: shuffled within a day, so that nothing is too old."""
    values = stream(random.Random(seed), 90)
    values += [reading(point, quarter, 0.1) for point in POINTS for quarter in (90, 91)]
    shuffled = [*values, *order.sample(values, len(values) // 5)]
    order.shuffle(shuffled)
    with TemporaryDirectory() as directory:
        expected = whole_run(values, Path(directory) / "one")
        found = whole_run(shuffled, Path(directory) / "two")
    assert found == expected


def test_known_outages_are_flagged_zeros(tmp_path: Path) -> None:
    hub = Hub({**HUBS, "meter.events": 1})
    hub.append("grid.network", network.to_json(model()))
    fill(hub, range(1, 41), lambda point, quarter: point == "U2" and 10 <= quarter <= 25)
    for quarter, kind in ((9, "LAST_GASP"), (22, "POWER_RESTORED")):
        event = {"usage_point": "U2", "ts_event": quarter_text(quarter), "kind": kind}
        hub.append("meter.events", json.dumps(event).encode())
    work(hub, tmp_path, VEE_WHOLE)
    told = {key[1]: (row["value"], row["quality"]) for key, row in estimates(hub).items()}
    out = {quarter_text(q): (0.0, "3.8.12") for q in range(10, 23)}
    assert {at: row for at, row in told.items() if row[1] == "3.8.12"} == out
    # What is left of the long gap has no days to be estimated from, and is told as missing.
    assert verdicts(hub)["U2", quarter_text(24)]["failed"] == ["missing_quantity"]
    assert quarter_text(24) not in told


def register(point: str, quarter: int, value: float) -> bytes:
    fields = {"usage_point": point, "ts_end": quarter_text(quarter), "reading_type": "import_register_kwh"}
    return json.dumps(fields | {"value": value}).encode()


def test_registers_give_intervals_over_rollover_and_swap_and_are_estimated_themselves(tmp_path: Path) -> None:
    """U0 sends registers only; its register passes 100,000 and its meter is swapped for one with a ratio of 40."""
    old = MeterInstall(
        meter="A", usage_point="U0", begin=quarter_text(0), end=quarter_text(20), dials=5, end_register="9.5"
    )
    new = MeterInstall(meter="B", usage_point="U0", begin=quarter_text(20), start_register="7", multiplier=40)
    first = model(meters=(old, new))
    points = tuple(
        network.UsagePoint(id=unit.id, transformer="T0", feeder="F0", expects=("import_kwh", "import_register_kwh"))
        if unit.id == "U0"
        else unit
        for unit in first.usage_points
    )
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(network.msgspec.structs.replace(first, usage_points=points)))
    for quarter in range(1, 203):
        value = (99_990 + quarter) % 100_000 if quarter < 20 else 7 + (quarter - 19) * 0.025
        if quarter not in (192, 193):
            hub.append("readings", register("U0", quarter, value))
        hub.append("readings", reading("U1", quarter, 0.5))
        hub.append("readings", reading("U2", quarter, 0.5))
    run_both(hub, tmp_path)
    told = [row for row in hub.values("readings") if row.get("source") == "gridwire.vee"]
    derived = {row["ts_end"]: row["value"] for row in told if row["quality"] == "3.11.1"}
    assert {derived[quarter_text(q)] for q in range(2, 192) if q != 20} == {1.0}
    assert derived[quarter_text(20)] == 1.5  # 0.5 by the old meter, 0.025 x 40 by the new one
    fact = facts(hub)[quarter_text(150)]
    assert (fact["import_kwh"], fact["count"], "estimated" in fact) == (2.0, 3, False)
    (guess,) = [row for row in told if row["reading_type"] == "import_register_kwh"]
    assert (guess["ts_end"], guess["interval_s"], guess["quality"]) == (quarter_text(192), 0, "3.8.9")
    assert guess["value"] == pytest.approx(7 + 173 * 0.025, abs=0.05)


def test_in_a_storm_nothing_is_estimated_until_enough_report(tmp_path: Path) -> None:
    """110 meters each hour; from hour 30 to 33 half of them are silent, then they are back and catch up."""
    names = [f"M{n}" for n in range(110)]
    hub = Hub(HUBS)
    large = network.Network(
        name="large", interval_s=3600, transformers=(network.Transformer(id="T0"),),
        feeders=(network.Feeder(id="F0", transformer="T0"),),
        usage_points=tuple(network.UsagePoint(id=name, transformer="T0", feeder="F0") for name in names),
    )  # fmt: skip
    hub.append("grid.network", network.to_json(large))

    def send_hours(hours: range, wanted: Callable[[int, int], bool]) -> None:
        for hour in hours:
            for number, name in enumerate(names):
                if wanted(number, hour):
                    ts_end = quarter_text(4 * hour)
                    hub.append("readings", reading(name, 4 * hour, 1.0, interval_s=3600, ts_end=ts_end))

    storm = range(30, 34)
    lost = {(0, 20), (1, 30)}
    send_hours(range(1, 37), lambda number, hour: (number, hour) not in lost and (hour not in storm or number % 2 == 0))
    work(hub, tmp_path, VEE)
    assert {key: row["value"] for key, row in estimates(hub).items()} == {("M0", quarter_text(80)): 1.0}
    held = {key[1] for key, row in verdicts(hub).items() if row.get("storm")}
    assert held == {quarter_text(4 * hour) for hour in storm}
    send_hours(storm, lambda number, hour: number % 2 == 1 and (number, hour) not in lost)
    work(hub, tmp_path, VEE)
    assert estimates(hub).keys() == {("M0", quarter_text(80)), ("M1", quarter_text(120))}
    assert not any(row.get("storm") for row in verdicts(hub).values())
