"""Sums across changes of the network model: each interval is under the transformer that was right at its time,
whichever order readings and models arrive in, wherever the worker dies, and without reading again where it can be.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.clock import ManualClock
from gridwire.core.errors import Unavailable
from gridwire.grid import network
from gridwire.grid.lane import Stage
from gridwire.grid.network_log import NetworkLog
from gridwire.grid.parts import PARTS_HUB
from gridwire.grid.worker import FEEDERS, LOADS, WorkerSettings, run
from worker_hub import Crash, Hub

HUBS = {"readings": 3, "grid.network": 1, "grid.transformers": 2, "grid.feeders": 2, "quarantine": 2}
GROUPS = {"loads": ("grid.loads", "readings"), "feeders": ("grid.feeder-sums", "grid.feeder-parts")}
START = datetime(2016, 1, 1, tzinfo=UTC)
POINTS = 4
LAST = 150
ALWAYS = 9
"""A usage point that every model has under the same transformer, and that is read whenever another one is."""


def text_of(quarter: int, minutes: int = 0) -> str:
    """Quarters of an hour since 2016-01-01T00:00Z, and minutes, as text."""
    return (START + timedelta(minutes=15 * quarter + minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Read:
    """A reading of a partition, for an interval that ends so many quarters after the start."""

    partition: int
    point: int
    quarter: int
    value: str


@dataclass(frozen=True)
class Told:
    """A model: the transformer of each usage point, None for one that it does not have; valid from a quarter on."""

    places: tuple[int | None, ...]
    since: int
    minutes: int = 0
    rated: float = 160.0

    def network(self) -> network.Network:
        used = sorted({*(place for place in self.places if place is not None), ALWAYS})
        return network.Network(
            name="moving",
            transformers=tuple(network.Transformer(id=f"T{t}", rated_kva=self.rated) for t in used),
            feeders=(network.Feeder(id="MV"), *(network.Feeder(id=f"F{t}", transformer=f"T{t}") for t in used)),
            usage_points=tuple(
                network.UsagePoint(id=f"U{n}", transformer=f"T{t}", feeder="MV" if n == 0 else f"F{t}")
                for n, t in [*enumerate(self.places), (ALWAYS, ALWAYS)]
                if t is not None
            ),
            valid_from=text_of(self.since, self.minutes),
        )

    def begins(self) -> int:
        """The first quarter whose interval begins at its time or later."""
        return self.since + 1 + (self.minutes > 0)


Op = Read | Told
FIRST = Told((0, 0, 1, None), 0)

reads = st.builds(
    Read, st.integers(0, 2), st.integers(0, POINTS - 1), st.integers(1, LAST), st.sampled_from(["0.1", "0.2", "0.3"])
)
models = st.builds(
    Told,
    st.tuples(*(st.sampled_from([0, 1, 2, None]) for _ in range(POINTS))),
    st.integers(0, LAST),
    st.sampled_from([0, 0, 7]),
    st.sampled_from([160.0, 160.0, 0.0]),
)
histories = st.lists(st.lists(reads | reads | models, max_size=10), min_size=1, max_size=5)


def tell(hub: Hub, ops: list[Op]) -> None:
    for op in ops:
        if isinstance(op, Told):
            hub.append("grid.network", network.to_json(op.network()))
        else:
            for point in (ALWAYS, op.point):  # so the day of the other one is open
                fields = {"usage_point": f"U{point}", "ts_end": text_of(op.quarter), "interval_s": 900}
                value = json.dumps(fields | {"reading_type": "import_kwh"})[:-1] + f', "value": {op.value}}}'
                hub.append("readings", value.encode(), op.partition)


def place_of(models: list[Told], point: int, quarter: int) -> int | None:
    """By the newest published of the models that have begun, else by the first one in effect."""
    if point == ALWAYS:
        return ALWAYS
    begun = [model for model in models if model.begins() <= quarter]
    if begun:
        return begun[-1].places[point]
    first = min(enumerate(models), key=lambda each: (each[1].since, each[1].minutes, -each[0]))[1]
    return first.places[point]


def expected(ops: list[Op]) -> dict[tuple[str, str], tuple[Decimal, int]]:
    """(transformer, ts_end) -> (kWh, count) when everything is known, in plain Python."""
    models = [op for op in ops if isinstance(op, Told)]
    cells: dict[tuple[int, int], Read] = {}
    for op in ops:
        if not isinstance(op, Read):
            continue
        for read in (op, replace(op, point=ALWAYS)):
            known = cells.get((read.point, read.quarter))
            if known is None or read.partition >= known.partition:
                cells[read.point, read.quarter] = read
    cells = {at: read for at, read in cells.items() if place_of(models, *at) is not None}
    sums: dict[tuple[str, str], tuple[Decimal, int]] = {}
    for read in cells.values():
        key = (f"T{place_of(models, read.point, read.quarter)}", text_of(read.quarter))
        total, count = sums.get(key, (Decimal(0), 0))
        sums[key] = (total + Decimal(read.value), count + 1)
    return sums


def newest(hub: Hub, name: str, unit: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The fact that holds for every unit and interval; a version that is told twice must say the same."""
    out: dict[tuple[str, str], dict[str, Any]] = {}
    said: dict[tuple[str, str, int], dict[str, Any]] = {}
    for fact in hub.values(name):
        key = (fact[unit], fact["ts_end"])
        version = said.setdefault((*key, fact["version"]), fact)
        assert version == fact, "one version, two facts"
        if key not in out or fact["version"] > out[key]["version"]:
            out[key] = fact
    return out


def sums_told(hub: Hub) -> dict[tuple[str, str], tuple[Decimal, int]]:
    facts = newest(hub, "grid.transformers", "transformer")
    assert all(fact["import_kwh"] == 0 for fact in facts.values() if not fact["count"])
    return {key: (Decimal(repr(f["import_kwh"])), f["count"]) for key, f in facts.items() if f["count"]}


def done(hub: Hub, stage: Stage = LOADS) -> bool:
    """Whether everything has been read and told under the newest model."""
    group, read = GROUPS[stage.name]
    models, networks = hub.log["grid.network", 0], NetworkLog()
    data = bytes(batch.encode(models, base_offset=0))
    for columns in decode(data, 0, len(data), from_offset=0).columns:
        networks.feed(ColumnBatch("grid.network", 0, columns, len(models)))
    assert networks.current is not None
    return all(
        hub.committed.get((group, place), 0) == len(events)
        and hub.notes.get((group, place)) == str(networks.current.ordinal) + " shared" * hub.shared
        for place, events in hub.log.items()
        if place[0] == read
    )


def work(
    hub: Hub, directory: Path, more: Callable[[], bool], fail: Callable[[str], None], metrics: dict[str, int] | None,
    stage: Stage = LOADS,
) -> None:  # fmt: skip
    """Run a worker until it has told everything and there is no more to come; a `Crash` goes through."""
    stop, clock = threading.Event(), ManualClock()

    def step(name: str) -> None:
        clock.advance(0.001)
        if name == "poll" and done(hub, stage) and not more():
            stop.set()
        fail(name)

    hub.step = step
    options = WorkerSettings(GROUPS[stage.name][0], stage, commit_readings=2, snapshot_s=0.0)
    assert run(hub.open, directory, stop, options, clock=clock, metrics=metrics) == "stopped"


def nothing_fails(name: str) -> None:
    """No step fails."""


def failing(plan: list[int], error: type[BaseException]) -> Callable[[str], None]:
    """Fails after the given numbers of steps, one after the other."""
    left, count = list(plan), 0

    def step(name: str) -> None:
        nonlocal count
        count += 1
        if left and count >= left[0]:
            left.pop(0)
            count = 0
            raise error(name)

    return step


def run_through(hub: Hub, history: list[list[Op]], live: bool, fail: Callable[[str], None]) -> None:
    """Tell a history, all pieces to one worker while it runs, or each one while there is none."""
    left = list(history)

    def more() -> bool:
        if not live or not left:
            return False
        tell(hub, left.pop(0))
        return True

    with TemporaryDirectory() as directory:
        for _ in range(60):
            try:
                work(hub, Path(directory), more, fail, None)
            except Crash:
                continue
            if not left:
                return
            tell(hub, left.pop(0))
    raise AssertionError("the worker never came through")


@settings(max_examples=150, deadline=None)
@given(histories, st.lists(st.integers(1, 12), max_size=5), st.booleans(), st.booleans(), st.integers(1, 6))
def test_each_interval_is_under_the_transformer_that_was_right(
    history: list[list[Op]], plan: list[int], live: bool, lose: bool, chunk: int
) -> None:
    hub = Hub(HUBS)
    hub.poll_events_max = chunk
    tell(hub, [FIRST])
    run_through(hub, history, live, failing(plan, Unavailable if lose else Crash))
    assert sums_told(hub) == expected([FIRST, *(op for piece in history for op in piece)])


@settings(max_examples=60, deadline=None)
@given(histories, st.randoms(use_true_random=False))
def test_readings_and_models_may_arrive_in_any_order(history: list[list[Op]], random: Any) -> None:
    """Of models and of each partition's readings the order stays: those are what the result depends on."""
    ops = [op for piece in history for op in piece]
    streams: dict[int, list[Op]] = {}
    for op in ops:
        streams.setdefault(-1 if isinstance(op, Told) else op.partition, []).append(op)
    mixed: list[list[Op]] = []
    while waiting := [stream for stream in streams.values() if stream]:
        mixed.append([random.choice(waiting).pop(0)])
    told = []
    for pieces in (history, mixed):
        hub = Hub(HUBS)
        tell(hub, [FIRST])
        run_through(hub, pieces, True, nothing_fails)
        told.append(sums_told(hub))
    assert told[0] == told[1] == expected([FIRST, *ops])


def test_a_model_from_now_on_makes_nobody_read_again(tmp_path: Path) -> None:
    hub, metrics = Hub(HUBS), dict[str, int]()
    tell(hub, [FIRST, *(Read(p, p, quarter, "0.2") for quarter in range(1, 101) for p in range(3))])
    later: list[list[Op]] = [
        [Told((1, 0, 1, 2), 100)],
        [Read(0, 0, 100, "0.3"), *(Read(p % 3, p, 101, "0.2") for p in range(4))],
        [Told((1, 1, 1, 1), 101)],
        [Read(0, 0, 102, "0.1"), Read(0, 0, 99, "0.4")],
    ]
    ops = [FIRST, *(Read(p, p, quarter, "0.2") for quarter in range(1, 101) for p in range(3))]
    ops += [op for piece in later for op in piece]
    seen: list[int] = []

    def more() -> bool:
        seen.append(len(hub.events("grid.transformers")))
        if not later:
            return False
        tell(hub, later.pop(0))
        return True

    work(hub, tmp_path, more, nothing_fails, metrics)
    assert sums_told(hub) == expected(ops)
    assert (metrics["followed"], metrics["rebuilds"], metrics["rebuilt_readings"]) == (2, 1, 0)
    # The first change is of intervals that nobody has read yet, the second one too: neither told anything again.
    assert seen[1] == seen[0]
    assert seen[3] == seen[2]


def test_a_model_of_yesterday_is_told_without_reading_again(tmp_path: Path) -> None:
    hub, metrics = Hub(HUBS), dict[str, int]()
    readings: list[Op] = [Read(p, p, quarter, "0.2") for quarter in range(1, 131) for p in range(3)]
    tell(hub, [FIRST, *readings])
    change = Told((2, 0, 1, None), 120)
    later: list[list[Op]] = [[change]]

    def more() -> bool:
        return bool(later) and (tell(hub, later.pop(0)), True)[1]

    work(hub, tmp_path, more, nothing_fails, metrics)
    assert sums_told(hub) == expected([FIRST, *readings, change])
    assert (metrics["followed"], metrics["rebuilt_readings"]) == (1, 0)
    again = [fact for fact in hub.values("grid.transformers") if fact["version"] >= 999_999]
    assert {fact["ts_end"] for fact in again} == {text_of(quarter) for quarter in range(121, 131)}


def test_what_a_worker_missed_while_it_was_away_is_followed_from_its_snapshot(tmp_path: Path) -> None:
    hub, metrics = Hub(HUBS), dict[str, int]()
    readings: list[Op] = [Read(p, p, quarter, "0.2") for quarter in range(1, 131) for p in range(3)]
    tell(hub, [FIRST, *readings])
    work(hub, tmp_path, lambda: False, nothing_fails, None)
    change = Told((0, 1, 1, 2), 128)
    tell(hub, [change])
    work(hub, tmp_path, lambda: False, nothing_fails, metrics)
    assert metrics["rebuilt_readings"] == 0
    assert sums_told(hub) == expected([FIRST, *readings, change])


def test_readings_that_were_refused_are_read_again_by_a_model_that_has_a_place_for_them(tmp_path: Path) -> None:
    hub, metrics = Hub(HUBS), dict[str, int]()
    readings: list[Op] = [Read(0, 3, 50, "0.2"), Read(0, 0, 50, "0.1")]
    tell(hub, [FIRST, *readings])
    change = Told((0, 0, 1, 2), 10)
    later: list[list[Op]] = [[change]]
    work(hub, tmp_path, lambda: bool(later) and (tell(hub, later.pop(0)), True)[1], nothing_fails, metrics)
    assert metrics["rebuilt_readings"] == 4
    assert sums_told(hub) == expected([FIRST, *readings, change])
    assert len(hub.events("quarantine")) == 1


def test_a_transformer_that_lost_its_usage_points_is_told_to_have_nothing(tmp_path: Path) -> None:
    hub = Hub(HUBS)
    readings: list[Op] = [Read(0, 2, 50, "0.2"), Read(0, 2, 60, "0.2")]
    later: list[list[Op]] = [[Told((0, 0, 0, None), 55)]]
    tell(hub, [FIRST, *readings])
    work(hub, tmp_path, lambda: bool(later) and (tell(hub, later.pop(0)), True)[1], nothing_fails, None)
    facts = newest(hub, "grid.transformers", "transformer")
    counts = {key: (fact["count"], fact["import_kwh"]) for key, fact in facts.items()}
    assert counts["T1", text_of(60)] == (0, 0)
    assert counts["T1", text_of(50)] == (1, 0.2)
    assert counts["T0", text_of(60)] == (1, 0.2)
    feeders = newest(hub, "grid.feeders", "feeder")
    assert feeders["F1", text_of(60)]["count"] == 0


def wide_model(feeder: str, since: int) -> network.Network:
    """MV lies above three transformers, each with its partition; U02 hangs on the feeder that is said."""
    return network.Network(
        name="wide",
        transformers=tuple(network.Transformer(id=f"T{n}", rated_kva=100.0) for n in range(3)),
        feeders=(network.Feeder(id="MV"), network.Feeder(id="F0", transformer="T0")),
        usage_points=tuple(
            network.UsagePoint(id=f"U{n}{m}", transformer=f"T{n}", feeder=feeder if (n, m) == (0, 2) else "MV")
            for n in range(3)
            for m in range(3)
        ),
        valid_from=text_of(since),
    )


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, LAST)), max_size=20, unique=True),
    st.integers(0, LAST), st.integers(0, 2), st.lists(st.integers(1, 9), max_size=4),
)  # fmt: skip
def test_feeders_of_shared_partitions_follow_the_models_as_those_of_one_owner(
    rows: list[tuple[int, int, int]], since: int, piece: int, plan: list[int]
) -> None:
    found = []
    for shared in (False, True):
        hub, fail = Hub(HUBS), failing(plan, Crash)
        hub.shared = shared
        hub.append("grid.network", network.to_json(wide_model("F0", 0)))
        with TemporaryDirectory() as directory:
            for part in range(3):
                if part == piece:
                    hub.append("grid.network", network.to_json(wide_model("MV", since)))
                for n, m, quarter in rows[part::3]:
                    fields = {"usage_point": f"U{n}{m}", "ts_end": text_of(quarter), "interval_s": 900}
                    more = {"reading_type": "import_kwh", "value": (n * 3 + m + 1) / 10}
                    hub.append("readings", json.dumps(fields | more).encode(), n)
                for stage in (LOADS, FEEDERS)[: 1 + shared]:
                    for _ in range(20):
                        try:
                            work(hub, Path(directory), lambda: False, fail, None, stage)
                            break
                        except Crash:
                            continue
        facts = newest(hub, "grid.feeders", "feeder")
        found.append({key: (f["import_kwh"], f["count"], f["expected"]) for key, f in facts.items() if f["count"]})
    assert found[0] == found[1]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, LAST)), min_size=1, max_size=15),
    st.integers(0, LAST), st.integers(0, 15), st.integers(0, 30), st.integers(1, 4),
)  # fmt: skip
def test_the_second_stage_follows_a_model_that_comes_before_or_after_its_parts(
    rows: list[tuple[int, int, int]], since: int, told_at: int, known_at: int, chunk: int
) -> None:
    first, second = (network.to_json(wide_model(*each)) for each in (("F0", 0), ("MV", since)))
    whole, metrics = Hub(HUBS), dict[str, int]()
    whole.shared = True
    whole.append("grid.network", first)
    with TemporaryDirectory() as name:
        for number, (n, m, quarter) in enumerate([*rows, *rows[:1]]):
            if number in (told_at, len(rows)) and len(whole.log["grid.network", 0]) == 1:
                whole.append("grid.network", second)
            fields = {"usage_point": f"U{n}{m}", "ts_end": text_of(quarter), "interval_s": 900}
            more = {"reading_type": "import_kwh", "value": (n * 3 + m + 1 + number) / 10}
            whole.append("readings", json.dumps(fields | more).encode(), n)
            work(whole, Path(name), lambda: False, nothing_fails, None)
        work(whole, Path(name), lambda: False, nothing_fails, None, FEEDERS)
    parts = [(place, event) for place, events in whole.log.items() if place[0] == PARTS_HUB for event in events]
    piecewise = Hub(HUBS)
    piecewise.shared = True
    piecewise.log |= {place: [] for place in whole.log if place[0] == PARTS_HUB}
    piecewise.append("grid.network", first)
    steps: list[tuple[str, bytes, int]] = [(PARTS_HUB, event.value or b"", place[1]) for place, event in parts]
    steps.insert(min(known_at, len(steps)), ("grid.network", second, 0))

    def feed() -> bool:
        some, steps[:] = steps[:chunk], steps[chunk:]
        for hub_name, value, partition in some:
            piecewise.append(hub_name, value, partition)
        return bool(some)

    with TemporaryDirectory() as name:
        work(piecewise, Path(name), feed, nothing_fails, metrics, FEEDERS)
    assert metrics["rebuilt_readings"] == 0
    assert metrics["followed"] == sum(place[0] == PARTS_HUB for place in piecewise.log)  # a lane each
    told = []
    for hub in (whole, piecewise):
        found = newest(hub, "grid.feeders", "feeder")
        told.append({key: (f["import_kwh"], f["count"]) for key, f in found.items() if key[0] == "MV" and f["count"]})
    assert told[0] == told[1]


def test_negative_control_a_model_that_is_followed_without_summing_again_is_noticed(
    tmp_path: Path, monkeypatch: Any
) -> None:
    from gridwire.grid.state import LoadState

    monkeypatch.setattr(LoadState, "rows_since", lambda self, slot: [])
    hub = Hub(HUBS)
    readings: list[Op] = [Read(0, 2, 50, "0.2")]
    change = Told((0, 0, 0, None), 10)
    later: list[list[Op]] = [[change]]
    tell(hub, [FIRST, *readings])
    work(hub, tmp_path, lambda: bool(later) and (tell(hub, later.pop(0)), True)[1], nothing_fails, None)
    assert sums_told(hub) != expected([FIRST, *readings, change])
