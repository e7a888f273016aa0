"""The loads worker on an in-memory hub that can fail at every step, against a plain Python model.

The fake hub keeps a list of events per partition. Committing is atomic, as the port promises: positions and outputs
together or not at all. `CRASH` kills the worker (everything in memory is lost), `LOST` loses the connection, before or
after the commit took place.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.core.clock import ManualClock
from gridwire.core.errors import Rebalanced, Unavailable
from gridwire.grid import cell_rows, day_order, network
from gridwire.grid.lane import Stage
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.network_log import NetworkLog
from gridwire.grid.placements import wide_feeders
from gridwire.grid.worker import FEEDERS, LOADS, WorkerSettings, run
from worker_hub import Crash, Hub

HUBS = {"readings": 3, "grid.network": 1, "grid.transformers": 2, "grid.feeders": 2, "quarantine": 2}
GROUPS = {"loads": ("grid.loads", "readings"), "feeders": ("grid.feeder-sums", "grid.feeder-parts")}


def model(moved: str = "T0", interval_s: int = 900) -> network.Network:
    return network.Network(
        name="small",
        interval_s=interval_s,
        transformers=(network.Transformer(id="T0", rated_kva=160.0), network.Transformer(id="T1")),
        feeders=(network.Feeder(id="F0"), network.Feeder(id="F1", transformer="T1")),
        usage_points=tuple(
            network.UsagePoint(id=f"U{i}", transformer=t, feeder="F0" if t == "T0" else "F1")
            for i, t in enumerate(["T0", "T1", moved, "T1"])
        ),
    )


def reading(point: str = "U0", quarter: int = 1, value: str = "0.25", kind: str = "import_kwh", **more: Any) -> bytes:
    fields = {"usage_point": point, "ts_end": quarter_text(quarter), "interval_s": 900, "reading_type": kind} | more
    return json.dumps(fields)[:-1].encode() + b', "value": ' + value.encode() + b"}"


def quarter_text(quarter: int) -> str:
    """Quarters of an hour since 2016-01-01T00:00Z, as text."""
    day, rest = divmod(quarter, 96)
    return f"2016-01-{day + 1:02d}T{rest // 4:02d}:{rest % 4 * 15:02d}:00Z"


def work(
    hub: Hub,
    directory: Path,
    *,
    commit_readings: int = 1_000_000,
    snapshot_s: float = 1e9,
    days: int = 2,
    stage: Stage = LOADS,
) -> str:
    """Run a worker until it has read everything; a `Crash` goes through."""
    stop, clock = threading.Event(), ManualClock()
    metrics: dict[str, int] = {}
    inner = hub.step

    def step(name: str) -> None:
        # The clock moves with every step, so that snapshots fall due.
        clock.advance(0.001)
        if name == "poll" and done(hub, stage):
            stop.set()
        inner(name)

    hub.step = step
    try:
        return run(
            hub.open,
            directory,
            stop,
            WorkerSettings(
                GROUPS[stage.name][0],
                stage,
                commit_readings=commit_readings,
                snapshot_s=snapshot_s,
                loads=LoadsSettings(days=days),
            ),
            clock=clock,
            metrics=metrics,
        )
    finally:
        hub.step = inner


def done(hub: Hub, stage: Stage = LOADS) -> bool:
    """Whether everything has been read and told under the newest model."""
    models, networks = hub.log["grid.network", 0], NetworkLog()
    data = bytes(batch.encode(models, base_offset=0)) if models else b""
    for columns in decode(data, 0, len(data), from_offset=0).columns:
        networks.feed(ColumnBatch("grid.network", 0, columns, len(models)))
    told = None if networks.current is None else str(networks.current.ordinal) + " shared" * hub.shared
    group, read = GROUPS[stage.name]
    return all(
        hub.committed.get((group, place), 0) == len(events) and hub.notes.get((group, place)) == told
        for place, events in hub.log.items()
        if place[0] == read
    )


def newest(hub: Hub, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The fact that holds for every unit and interval; a version told twice must say the same."""
    out: dict[tuple[str, str], dict[str, Any]] = {}
    unit = "transformer" if name == "grid.transformers" else "feeder"
    for fact in hub.values(name):
        key = (fact[unit], fact["ts_end"])
        known = out.get(key)
        assert known is None or fact["version"] >= known["version"], "facts out of order"
        assert known is None or fact["version"] > known["version"] or fact == known, "one version, two facts"
        out[key] = fact
    return out


def expected_sums(readings: list[tuple[int, str, int, str]]) -> dict[tuple[str, str], tuple[Decimal, int]]:
    """(transformer, ts_end) -> (kWh, count) by the rules, in plain Python."""
    cells: dict[tuple[str, int], tuple[int, str]] = {}
    for partition, point, quarter, value in readings:
        known = cells.get((point, quarter))
        if known is None or partition >= known[0]:
            cells[point, quarter] = (partition, value)
    sums: dict[tuple[str, str], tuple[Decimal, int]] = {}
    for (point, quarter), (_, value) in cells.items():
        key = ("T0" if point in ("U0", "U2") else "T1", quarter_text(quarter))
        total, count = sums.get(key, (Decimal(0), 0))
        sums[key] = (total + Decimal(value), count + 1)
    return sums


def sums_told(hub: Hub) -> dict[tuple[str, str], tuple[Decimal, int]]:
    facts = newest(hub, "grid.transformers")
    return {key: (Decimal(repr(fact["import_kwh"])), fact["count"]) for key, fact in facts.items()}


readings_strategy = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["U0", "U1", "U2", "U3"]),
        st.integers(1, 150),
        st.sampled_from(["0.1", "0.2", "0.3"]),
    ),
    max_size=25,
)


def fill(hub: Hub, readings: list[tuple[int, str, int, str]]) -> None:
    for partition, point, quarter, value in readings:
        hub.append("readings", reading(point, quarter, value), partition)


def crashing(plan: list[int], error: Callable[[str], BaseException]) -> Callable[[str], None]:
    """A step that fails after the given numbers of steps, one after the other."""
    left = list(plan)
    count = 0

    def step(name: str) -> None:
        nonlocal count
        count += 1
        if left and count >= left[0]:
            left.pop(0)
            count = 0
            raise error(name)

    return step


def run_through_crashes(hub: Hub, directory: Path, **options: Any) -> None:
    for _ in range(50):
        try:
            assert work(hub, directory, **options) == "stopped"
        except Crash:
            continue
        if done(hub, options.get("stage", LOADS)):
            return
    raise AssertionError("the worker never came through")


@pytest.mark.parametrize("in_memory_bytes", [cell_rows.IN_MEMORY_BYTES, 0])
@settings(max_examples=60, deadline=None)
@given(readings_strategy, st.lists(st.integers(1, 9), max_size=6), st.integers(1, 6), st.booleans(), st.booleans())
def test_no_reading_is_lost_or_counted_twice(
    in_memory_bytes: int, readings: list[tuple[int, str, int, str]], plan: list[int], chunk: int, snapshots: bool,
    lose: bool,
) -> None:  # fmt: skip
    hub = Hub(HUBS)
    hub.poll_events_max = chunk
    hub.append("grid.network", network.to_json(model()))
    fill(hub, readings)
    hub.step = crashing(plan, Unavailable if lose else Crash)
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_rows, "IN_MEMORY_BYTES", in_memory_bytes)
        run_through_crashes(hub, Path(directory), commit_readings=chunk, snapshot_s=0.0 if snapshots else 1e9)
    assert sums_told(hub) == expected_sums(readings)
    assert hub.values("quarantine") == []


def test_negative_control_a_commit_in_two_halves_is_noticed() -> None:
    """The test above must be able to fail: with outputs and positions apart, a crash in between publishes twice."""
    hub = Hub(HUBS)
    hub.split_commit = True
    hub.append("grid.network", network.to_json(model()))
    hub.append("readings", b"not a reading")
    crashes = iter([True])

    def step(name: str) -> None:
        if name == "between outputs and positions" and hub.events("quarantine") and next(crashes, False):
            raise Crash

    hub.step = step
    with TemporaryDirectory() as directory:
        run_through_crashes(hub, Path(directory))
    assert len(hub.events("quarantine")) == 2


@settings(max_examples=40, deadline=None)
@given(readings_strategy, st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_rejected_readings_reach_the_quarantine_once(
    readings: list[tuple[int, str, int, str]], plan: list[int]
) -> None:
    hub = Hub(HUBS)
    hub.poll_events_max = 2
    hub.append("grid.network", network.to_json(model()))
    for at, (partition, point, quarter, value) in enumerate(readings):
        bad = at % 2
        hub.append("readings", reading("nobody" if bad else point, quarter, value), partition)
    hub.step = crashing(plan, Crash)
    with TemporaryDirectory() as directory:
        run_through_crashes(hub, Path(directory), commit_readings=2)
    told = [dict(event.headers)["source"] for event in hub.events("quarantine")]
    assert len(told) == len(set(told)) == len(readings) // 2


def test_recovery_from_a_snapshot_or_from_the_log_continues_alike() -> None:
    """After a stop, the next facts are the same bytes with a snapshot, without one, and without any stop."""
    before = [(p % 3, f"U{p % 4}", q, "0.2") for q in range(1, 130) for p in range(4)]
    after = [(0, "U0", 5, "0.9"), (1, "U1", 97, "0.4"), (2, "U2", 129, "0.1"), (0, "U0", 1, "0.7")]
    results = []
    for case in ("snapshot", "log", "never stopped"):
        hub = Hub(HUBS)
        hub.append("grid.network", network.to_json(model()))
        with TemporaryDirectory() as name:
            directory = Path(name)
            fill(hub, before)
            if case == "never stopped":
                fed = False

                def feed(step: str, hub: Hub = hub) -> None:
                    nonlocal fed
                    if step == "poll" and not fed and done(hub):
                        fed = True
                        fill(hub, after)

                hub.step = feed
                work(hub, directory)
            else:
                work(hub, directory)
                if case == "log":
                    for file in directory.iterdir():
                        file.unlink()
                else:
                    assert len(list(directory.iterdir())) == 1
                fill(hub, after)
                work(hub, directory)
        results.append({place: [e.value for e in es] for place, es in hub.log.items() if place[0].startswith("grid")})
    assert results[0] == results[1] == results[2]
    # T0 had two readings in the interval of the correction: versions 0 and 1.
    assert any(value.endswith(b'"version":2}') for value in results[0]["grid.transformers", 0])


def test_a_snapshot_ahead_of_the_committed_positions_is_passed_over(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    fill(hub, [(0, "U0", 1, "0.2"), (0, "U0", 2, "0.3")])
    work(hub, tmp_path)
    told = len(hub.events("grid.transformers"))
    hub.committed["grid.loads", ("readings", 0)] = 1
    work(hub, tmp_path)
    again = hub.events("grid.transformers")[told:]
    assert [json.loads(e.value or b"")["import_kwh"] for e in again] == [0.3]
    assert [json.loads(e.value or b"")["version"] for e in again] == [0]


def stopping(hub: Hub, when: Callable[[], bool], directory: Path) -> str:
    """Run a worker until a condition holds at a poll."""
    stop = threading.Event()

    def step(name: str) -> None:
        if name == "poll" and when():
            stop.set()

    hub.step = step
    return run(hub.open, directory, stop, clock=ManualClock())


def test_it_waits_for_a_network_model(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    fill(hub, [(0, "U0", 1, "0.2")])
    hub.append("grid.network", b"no model")
    polls = 0

    def step(name: str) -> None:
        nonlocal polls
        polls += name == "poll"
        if polls == 3 and name == "poll":
            assert hub.events("grid.transformers") == []
            hub.append("grid.network", network.to_json(model(interval_s=7_000)))
        if polls == 5 and name == "poll":
            hub.append("grid.network", network.to_json(model()))

    hub.step = step
    assert work(hub, tmp_path) == "stopped"
    assert sums_told(hub) == {("T0", quarter_text(1)): (Decimal("0.2"), 1)}


def test_stopping_before_there_is_a_model(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    assert stopping(hub, lambda: True, tmp_path) == "stopped"
    assert hub.committed == {}


READINGS = [(p, f"U{p}", q, "0.2") for q in (1, 2, 100) for p in range(3)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=4), st.booleans(), st.booleans())
def test_a_new_network_model_is_told_for_the_whole_window(plan: list[int], lose: bool, running: bool) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model("T0")))
    fill(hub, READINGS)
    with TemporaryDirectory() as name:
        directory = Path(name)
        crash = crashing(plan, Unavailable if lose else Crash)
        changed = False

        def step(name: str) -> None:
            nonlocal changed
            if running and not changed and name == "poll" and done(hub):
                changed = True
                hub.append("grid.network", network.to_json(model("T1")))
            if changed:
                crash(name)

        if not running:
            work(hub, directory)
            changed = True
            hub.append("grid.network", network.to_json(model("T1")))
        hub.step = step
        run_through_crashes(hub, directory)
        if not changed:  # the worker was done before the step could see it
            hub.append("grid.network", network.to_json(model("T1")))
            run_through_crashes(hub, directory)
    facts = newest(hub, "grid.transformers")
    assert {(key[0], fact["count"]) for key, fact in facts.items()} == {("T0", 1), ("T1", 2)}
    assert {fact["version"] for fact in facts.values()} == {1_000_000, 1_000_001}


def test_the_same_network_model_again_changes_nothing(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    fill(hub, READINGS)
    work(hub, tmp_path)
    told = hub.values("grid.transformers")
    hub.append("grid.network", b"  " + network.to_json(model()))
    hub.append("grid.network", b"not a model")
    work(hub, tmp_path)
    assert hub.values("grid.transformers") == told
    fill(hub, [(0, "U0", 1, "0.7")])
    work(hub, tmp_path)
    changed = newest(hub, "grid.transformers")["T0", quarter_text(1)]
    assert (changed["import_kwh"], changed["version"]) == (0.9, 2)


def test_a_model_that_changes_no_sum_tells_nothing_again(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    fill(hub, READINGS)
    work(hub, tmp_path)
    told, note = hub.values("grid.transformers"), dict(hub.notes)
    renamed = structs.replace(model(), name="renamed", vee={"general": {"grace_s": 60}})
    hub.append("grid.network", network.to_json(renamed))
    assert stopping(hub, lambda: True, tmp_path) == "stopped"
    assert (hub.values("grid.transformers"), hub.notes) == (told, note)


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
def test_a_commit_without_an_answer_is_repeated_only_if_it_failed(moment: str, tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    hub.append("readings", b"not a reading")
    failures = iter([False, True])  # the first commit is that of the network model

    def step(name: str) -> None:
        if name == moment and next(failures, False):
            raise Unavailable("the hub went away")

    hub.step = step
    assert work(hub, tmp_path) == "stopped"
    assert len(hub.events("quarantine")) == 1


def test_a_worker_that_was_taken_over_ends(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    fill(hub, READINGS)
    hub.step = lambda name: hub.open("grid.loads", ["readings"], []) and None if name == "before commit" else None
    assert work(hub, tmp_path) == "fenced"
    assert hub.events("grid.transformers") == []


def test_it_waits_for_the_hubs_it_writes(tmp_path: Path) -> None:
    hub = Hub({name: count for name, count in HUBS.items() if name != "quarantine"})
    hub.append("grid.network", network.to_json(model()))
    fill(hub, READINGS)
    opened = 0

    def step(name: str) -> None:
        nonlocal opened
        opened += name == "open"
        if opened == 4:
            hub.log.setdefault(("quarantine", 0), [])

    hub.step = step
    assert work(hub, tmp_path) == "stopped"
    assert opened == 4
    assert len(sums_told(hub)) == 6


def test_a_hub_that_begins_anew_makes_the_state_anew(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    fill(hub, [(0, "U0", quarter, "0.2") for quarter in (1, 2, 3)])
    work(hub, tmp_path)
    hub.log["readings", 0].clear()
    del hub.committed["grid.loads", ("readings", 0)]
    fill(hub, [(0, "U1", 1, "0.3")])
    work(hub, tmp_path)
    assert sums_told(hub)["T1", quarter_text(1)] == (Decimal("0.3"), 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=3), st.integers(1, 7), st.integers(1, 3))
def test_no_reading_of_a_backlog_is_too_old_because_of_another_partition(
    sizes: list[int], chunk: int, days: int
) -> None:
    hub = Hub(HUBS)
    hub.poll_events_max = chunk
    hub.append("grid.network", network.to_json(model()))
    readings = [(p, f"U{p}", 96 * day + q, "0.1") for day in range(9) for p, n in enumerate(sizes) for q in range(n)]
    fill(hub, readings)
    with TemporaryDirectory() as name:
        assert work(hub, Path(name), days=days) == "stopped"
    assert hub.events("quarantine") == []
    assert sums_told(hub) == expected_sums(readings)


@pytest.mark.parametrize("patient", [True, False])
def test_history_that_arrives_partition_after_partition_is_summed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    """A sender's pieces of one time reach one partition before another, while the worker reads."""
    if not patient:
        monkeypatch.setattr(day_order, "PATIENCE_S", 0.0)
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    readings = [(p, f"U{p}", 96 * day + 1, "0.1") for day in range(9) for p in range(3)]
    polls = 0

    def step(name: str) -> None:
        nonlocal polls
        polls += name == "poll"
        if name == "poll" and polls in (3, 10, 20):
            fill(hub, [each for each in readings if each[0] == (3, 10, 20).index(polls)])

    monkeypatch.setitem(globals(), "done", lambda hub, stage: polls > 40)
    hub.step = step
    assert work(hub, tmp_path) == "stopped"
    too_old = hub.events("quarantine")
    assert len(too_old) == (0 if patient else 14), "without patience all but two days of two partitions are lost"
    if patient:
        assert sums_told(hub) == expected_sums(readings)


# -- feeders above several transformers -----------------------------------------------------------------------------


def wide_model(rated: float = 100.0) -> network.Network:
    """Feeder F lies above three transformers, whose readings are in three partitions; F2 hangs under one of them."""
    return network.Network(
        name="wide",
        transformers=tuple(network.Transformer(id=f"T{n}", rated_kva=rated) for n in range(3)),
        feeders=(network.Feeder(id="F"), network.Feeder(id="F2", transformer="T0"), network.Feeder(id="unused")),
        usage_points=tuple(
            network.UsagePoint(id=f"U{n}{m}", transformer=f"T{n}", feeder="F2" if (n, m) == (0, 2) else "F")
            for n in range(3)
            for m in range(3)
        ),
    )


wide_readings = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(1, 150),
        st.sampled_from(["import_kwh", "export_kwh"]),
        st.integers(1, 500),
    ),
    max_size=30,
    unique_by=lambda each: each[:4],  # a repeat counts in the version, how often is up to the order of partitions
)
WideReading = tuple[int, int, int, str, int]


def fill_wide(hub: Hub, readings: list[WideReading]) -> None:
    for n, m, quarter, kind, amount in readings:
        hub.append("readings", reading(f"U{n}{m}", quarter, f"{amount / 1000}", kind), n)


def one_owner(readings: list[WideReading]) -> dict[tuple[str, str], dict[str, Any]]:
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(wide_model()))
    fill_wide(hub, readings)
    with TemporaryDirectory() as name:
        work(hub, Path(name))
    return newest(hub, "grid.feeders")


def without_peaks(facts: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """A peak is that of the day so far, whatever came first; all else is the same in any order."""
    return {key: {n: v for n, v in fact.items() if not n.startswith("peak")} for key, fact in facts.items()}


@settings(max_examples=15, deadline=None)
@given(
    wide_readings, st.lists(st.integers(1, 9), max_size=6), st.lists(st.integers(1, 9), max_size=6),
    st.integers(1, 6), st.booleans(), st.booleans(),
)  # fmt: skip
def test_wide_feeders_of_shared_partitions_are_those_of_one_owner(
    readings: list[WideReading], plan: list[int], later: list[int], chunk: int, snapshots: bool, lose: bool
) -> None:
    hub = Hub(HUBS)
    hub.shared = True
    hub.poll_events_max = chunk
    hub.append("grid.network", network.to_json(wide_model()))
    options: dict[str, Any] = {"commit_readings": chunk, "snapshot_s": 0.0 if snapshots else 1e9}
    with TemporaryDirectory() as name:
        for part in (readings[::2], readings[1::2]):
            fill_wide(hub, part)
            hub.step = crashing(plan, Unavailable if lose else Crash)
            run_through_crashes(hub, Path(name), **options)
            hub.step = crashing(later, Unavailable if lose else Crash)
            run_through_crashes(hub, Path(name), stage=FEEDERS, **options)
    found = newest(hub, "grid.feeders")
    assert without_peaks(found) == without_peaks(one_owner(readings))
    for (feeder, _), fact in found.items():
        day = [each["load_kw"] for (id, at), each in found.items() if (id, at[:10]) == (feeder, fact["ts_end"][:10])]
        assert fact["load_kw"] <= fact["peak_kw"] or fact["load_kw"] <= max(day)
    assert hub.events("quarantine") == []


def test_wide_feeders_told_in_one_go_have_the_same_peaks(tmp_path: Path) -> None:
    readings = [
        (n, m, quarter, "import_kwh", (quarter * 7 + n * m) % 40 + 1)
        for n in range(3) for m in range(3) for quarter in range(1, 97)
    ]  # fmt: skip
    hub = Hub(HUBS)
    hub.shared = True
    hub.append("grid.network", network.to_json(wide_model()))
    fill_wide(hub, readings)
    work(hub, tmp_path)
    work(hub, tmp_path, stage=FEEDERS)
    assert newest(hub, "grid.feeders") == one_owner(readings)


def test_negative_control_a_part_that_is_passed_over_is_noticed(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.shared = True
    hub.append("grid.network", network.to_json(wide_model()))
    readings = [(n, 0, 1, "import_kwh", 5) for n in range(3)]
    fill_wide(hub, readings)
    work(hub, tmp_path)
    for place, events in hub.log.items():
        if place[0] == "grid.feeder-parts" and events:
            value = json.loads(events[-1].value or b"")
            events[-1] = Event(json.dumps(value | {"model": 99}).encode(), None, (), 0, len(events) - 1)
    work(hub, tmp_path, stage=FEEDERS)
    assert without_peaks(newest(hub, "grid.feeders")) != without_peaks(one_owner(readings))


def test_a_new_model_is_told_for_wide_feeders_too(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    hub.shared = True
    hub.append("grid.network", network.to_json(wide_model()))
    readings = [(n, m, quarter, "import_kwh", 5) for n in range(3) for m in range(3) for quarter in (1, 2)]
    fill_wide(hub, readings)
    for _ in range(2):  # before the second stage knows of the new model, and after
        work(hub, tmp_path)
        hub.append("grid.network", network.to_json(wide_model(120.0)))
        work(hub, tmp_path)
        work(hub, tmp_path, stage=FEEDERS)
        hub.append("grid.network", network.to_json(wide_model()))
        work(hub, tmp_path, stage=FEEDERS)
        work(hub, tmp_path)
        work(hub, tmp_path, stage=FEEDERS)
    found = newest(hub, "grid.feeders")
    known = one_owner(readings)
    assert {key: fact["version"] % 1_000_000 for key, fact in found.items()} == {
        key: fact["version"] for key, fact in known.items()
    }
    assert {key: fact["import_kwh"] for key, fact in found.items()} == {
        key: fact["import_kwh"] for key, fact in known.items()
    }


def test_partitions_that_are_shared_from_now_on_tell_all_their_parts(tmp_path: Path) -> None:
    """One owner told the facts; its successors share, and the second stage must know what came before."""
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(wide_model()))
    before = [(n, 0, 1, "import_kwh", 5) for n in range(3)]
    fill_wide(hub, before)
    work(hub, tmp_path)
    hub.shared = True
    after: list[WideReading] = [(1, 1, 1, "import_kwh", 7)]
    fill_wide(hub, after)
    work(hub, tmp_path)
    work(hub, tmp_path, stage=FEEDERS)
    assert without_peaks(newest(hub, "grid.feeders")) == without_peaks(one_owner(before + after))


def test_nonsense_and_late_parts_are_counted_and_passed_over() -> None:
    state = FEEDERS.make(wide_model(), LoadsSettings(), 0, None)
    at = dict.fromkeys(("part", "model", "imported", "exported", "count", "largest"), 0)
    values = [
        b"nonsense", b'{"feeder":"F"}', json.dumps(at | {"feeder": "F", "slot": -1, "seen": 1}).encode(),
        json.dumps(at | {"feeder": "nobody", "slot": 9600, "seen": 1}).encode(),
        *(json.dumps(at | {"feeder": "F", "slot": slot, "seen": 1}).encode() for slot in (9600, 9600 - 96 * 8)),
    ]  # fmt: skip
    data = bytes(batch.encode([Event(value, None, (), 0, n) for n, value in enumerate(values)], base_offset=0))
    [columns] = decode(data, 0, len(data), from_offset=0).columns
    assert state.take([ColumnBatch("grid.feeder-parts", 0, columns, len(values))]) == {("grid.feeder-parts", 0): 6}
    counted = state.counters()
    assert (counted["parts_unreadable"], counted["parts_passed_over"], counted["parts_too_old"]) == (3, 1, 1)


def test_which_feeders_are_wide() -> None:
    assert wide_feeders(wide_model().index()).tolist() == [True, False, False]
    assert wide_feeders(model().index()).tolist() == [False, False]


def test_a_first_commit_that_is_refused_is_tried_again_after_a_poll(tmp_path: Path) -> None:
    """Whoever joins a group while others do hears only in a poll that its assignment is of an older generation."""
    hub = Hub(HUBS)
    hub.append("grid.network", network.to_json(model()))
    fill(hub, [(0, "U0", 1, "0.2")])
    heard, refused = False, 0

    def step(name: str) -> None:
        nonlocal heard, refused
        heard = name == "poll" or (heard and name != "open")
        if name == "before commit" and not heard:
            refused += 1
            assert refused < 5, "it never polls"
            raise Rebalanced("an older generation")

    hub.step = step
    assert work(hub, tmp_path) == "stopped"
    assert refused == 1 and sums_told(hub) == {("T0", quarter_text(1)): (Decimal("0.2"), 1)}
