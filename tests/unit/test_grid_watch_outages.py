"""Outages: where, who, since when; momentary and nested ones; silence; and what must not be taken for one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridwire.grid import network
from gridwire.grid.findings import Finding, FindingState
from gridwire.grid.meter_event import KINDS
from gridwire.grid.reading_types import IMPORT_KWH
from gridwire.grid.watch.base import SeenEvents, SeenReadings, SeenWeather
from gridwire.grid.watch.outages import Outages, OutageSettings
from gridwire.grid.watch.tree import Tree

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import accuracy_outages

US = 1_000_000
T0 = 1_767_225_600  # 2026-01-01T00:00Z, the end of an interval


def model(transformers: int = 4, points: int = 10) -> network.Network:
    """A feeder over some transformers, two of them with feeders below."""
    return network.Network(
        name="small",
        transformers=tuple(network.Transformer(id=f"T{t}", substation="S") for t in range(transformers + 1)),
        feeders=(
            network.Feeder(id="F"),
            network.Feeder(id="L0", transformer=f"T{transformers}"),
            network.Feeder(id="L1", transformer=f"T{transformers}"),
        ),
        usage_points=(
            *(
                network.UsagePoint(id=f"U{t}.{i}", transformer=f"T{t}", feeder="F")
                for t in range(transformers)
                for i in range(points)
            ),
            *(
                network.UsagePoint(id=f"L{f}.{i}", transformer=f"T{transformers}", feeder=f"L{f}")
                for f in range(2)
                for i in range(points)
            ),
        ),
    )


class Grid:
    """Drives a detector by ids and seconds after `T0`."""

    def __init__(self, settings: OutageSettings | None = None, **more: int) -> None:
        self.index = model(**more).index()
        self.detector = Outages(self.index, settings)
        self.at = {id: number for number, id in enumerate(self.index.unit_ids)}
        self.told: list[Finding] = []

    def say(self, kind: str, ids: list[str], second: float, late: float = 1.0) -> None:
        n = len(ids)
        self.detector.events(
            SeenEvents(
                np.array([self.at[id] for id in ids], np.int32), np.full(n, KINDS.index(kind), np.int8),
                np.full(n, int((T0 + second) * US)), np.full(n, int((T0 + second + late) * US)),
            )
        )  # fmt: skip

    def read(self, ids: list[str], end: float, value: float = 0.2) -> None:
        n = len(ids)
        self.detector.readings(
            SeenReadings(
                np.array([self.at[id] for id in ids], np.int32), np.full(n, IMPORT_KWH, np.int16),
                np.full(n, int((T0 + end) * US)), np.full(n, 900, np.int32), np.full(n, value),
                np.full(n, int((T0 + end + 30) * US)),
            )
        )  # fmt: skip

    def ask(self, second: float) -> list[tuple[str, str, str]]:
        found = self.detector.findings(int((T0 + second) * US))
        self.told += found
        return [(each.state.value, each.subject, each.kind) for each in found]

    def all(self, prefix: str = "") -> list[str]:
        return [id for id in self.at if id.startswith(prefix)]

    def last(self) -> Finding:
        return self.told[-1]


def test_last_gasps_of_a_transformer_are_one_outage_of_it() -> None:
    grid = Grid()
    grid.say("LAST_GASP", [f"U1.{i}" for i in range(4)], 10)
    assert grid.ask(11) == [("opened", "T1", "outage")]
    found = grid.last()
    assert found.subject_kind == "transformer" and found.started_us == (T0 + 10) * US
    assert found.evidence["customers"] == 10 and found.evidence["customers_confirmed"] == 4
    assert found.evidence["confirmed"] is False and 0.5 < found.confidence <= 0.99
    grid.say("LAST_GASP", [f"U1.{i}" for i in range(4, 8)], 11)
    assert grid.ask(12) == []  # not again at once
    assert grid.ask(20) == [("changed", "T1", "outage")]
    assert grid.last().evidence["confirmed"] is True


def test_the_common_ancestor_is_told_and_what_it_explains_ends() -> None:
    grid = Grid()
    grid.say("LAST_GASP", ["U1.0", "U1.1", "U1.2"], 10)
    assert grid.ask(11) == [("opened", "T1", "outage")]
    first = grid.last().id
    for t in range(4):
        grid.say("LAST_GASP", [f"U{t}.{i}" for i in range(3, 9)], 11)
    assert grid.ask(13) == [("closed", "T1", "outage"), ("opened", "F", "outage")]
    assert grid.told[-2].id == first and grid.told[-2].evidence["part_of"] == "feeder/F"
    assert grid.last().evidence["customers"] == 40


def test_a_transformer_that_is_mute_does_not_hide_the_feeder() -> None:
    """What collects its last gasps has no supply either. Half of the feeder is another matter."""
    grid = Grid(points=40)
    grid.say("LAST_GASP", [f"U{t}.{i}" for t in range(3) for i in range(36)], 10)
    grid.ask(11)
    grid.ask(60)
    assert [(f.state.value, f.subject) for f in grid.told] == [("opened", "F")]
    half = Grid(points=40)
    half.say("LAST_GASP", [f"U{t}.{i}" for t in range(2) for i in range(36)], 10)
    half.ask(60)
    assert sorted(f.subject for f in half.told if "part_of" not in f.evidence) == ["T0", "T1"]


def test_a_feeder_below_a_transformer_is_a_device_of_its_own() -> None:
    grid = Grid()
    grid.say("LAST_GASP", [f"L0.{i}" for i in range(8)], 10)
    grid.ask(11)
    grid.ask(40)
    assert [(f.state.value, f.subject) for f in grid.told][:1] == [("opened", "L0")]


def test_a_lone_last_gasp_waits_for_a_second_sign() -> None:
    grid = Grid()
    grid.read(grid.all(), 0)
    grid.say("LAST_GASP", ["U1.0"], 10)
    assert grid.ask(11) == [] and grid.ask(300) == []
    grid.read([id for id in grid.all() if id != "U1.0"], 900)
    grid.ask(940)
    assert grid.ask(1100) == [("opened", "U1.0", "outage")]
    assert grid.last().started_us == (T0 + 10) * US
    assert grid.last().evidence["transformer"] == "T1"
    unit = next(each for each in model().usage_points if each.id == "U1.0")
    assert grid.last().evidence["feeder"] == unit.feeder


def test_a_false_last_gasp_opens_nothing() -> None:
    grid = Grid()
    grid.read(grid.all(), 0)
    grid.say("LAST_GASP", ["U1.0"], 10)
    grid.read(grid.all(), 900)
    assert grid.ask(940) == [] and grid.ask(1100) == []


def test_one_may_wait_for_a_while_only() -> None:
    grid = Grid(OutageSettings(single_wait_s=60))
    grid.say("LAST_GASP", ["U1.0"], 10)
    assert grid.ask(30) == []
    assert grid.ask(75) == [("opened", "U1.0", "outage")]


def test_the_silence_of_a_bellwether_speaks_against_an_outage() -> None:
    """Two gasps of ten: an outage of the transformer, unless those who did not gasp nearly always do."""
    grid = Grid()
    grid.say("LAST_GASP", ["U1.0", "U1.1"], 10)
    assert grid.ask(13) == [("opened", "T1", "outage")]
    sure = Grid(OutageSettings(bellwethers=tuple(f"U1.{i}" for i in range(2, 10))))
    sure.say("LAST_GASP", ["U1.0", "U1.1"], 10)
    assert sure.ask(40) == []


def test_a_momentary_outage_is_told_as_such() -> None:
    grid = Grid()
    grid.say("LAST_GASP", [f"U1.{i}" for i in range(9)], 10)
    grid.ask(11)
    grid.say("POWER_RESTORED", [f"U1.{i}" for i in range(6)], 130)
    grid.ask(132)
    assert [state for state, _, _ in grid.ask(165)] == ["closed"]
    closed = grid.last()
    assert closed.evidence["sustained"] is False and closed.ended_us == (T0 + 130) * US
    assert closed.evidence["customer_minutes"] == pytest.approx(20.0)


def test_an_outage_that_is_over_when_it_is_heard_of_is_told_once() -> None:
    grid = Grid()
    grid.say("LAST_GASP", [f"U1.{i}" for i in range(10)], 10, late=500)
    grid.say("POWER_RESTORED", [f"U1.{i}" for i in range(10)], 400, late=110)
    assert grid.ask(511) == [("closed", "T1", "outage")]
    assert grid.last().evidence["sustained"] is True and grid.ask(600) == []


def test_who_is_not_back_is_still_out_below() -> None:
    grid = Grid()
    for t in range(4):
        grid.say("LAST_GASP", [f"U{t}.{i}" for i in range(9)], 10)
    grid.ask(11)
    parent = grid.last().id
    grid.say("POWER_RESTORED", [f"U{t}.{i}" for t in range(3) for i in range(8)], 3600)
    grid.ask(3601)
    told = grid.ask(3640)
    assert ("closed", "F", "outage") in told and ("opened", "T3", "outage") in told
    nested = grid.last()
    assert nested.evidence["nested_in"] == parent and nested.started_us == (T0 + 10) * US
    closed = next(f for f in grid.told if f.id == parent and f.state is FindingState.CLOSED)
    assert closed.evidence["customers"] == 30 and closed.evidence["still_out_customers"] == 10
    grid.say("POWER_RESTORED", [f"U3.{i}" for i in range(8)], 7200)
    grid.ask(7201)
    assert ("closed", "T3", "outage") in grid.ask(7240)


def test_a_single_customer_that_stays_out_is_found_by_its_silence() -> None:
    grid = Grid()
    grid.read(grid.all(), 0)
    grid.say("LAST_GASP", [f"U1.{i}" for i in range(10)], 10)
    grid.ask(11)
    grid.say("POWER_RESTORED", [f"U1.{i}" for i in range(9)], 800)
    grid.ask(801)
    grid.ask(840)
    others = [id for id in grid.all() if id != "U1.9"]
    for end in (900, 1800):
        grid.read(others, end)
        grid.ask(end + 30)
        found = grid.ask(end + 160)
    assert ("opened", "U1.9", "outage") in found
    nested, parent = grid.last(), grid.told[-2]
    assert nested.evidence["nested_in"] == parent.id and parent.subject == "T1"
    # The customer is counted once.
    assert parent.state is FindingState.CLOSED and parent.evidence["customers"] == 9
    assert parent.evidence["still_out_customers"] == 1
    assert parent.evidence["customer_minutes"] == pytest.approx(9 * 790 / 60, abs=0.1)


def test_readings_of_most_contradict_an_estimate() -> None:
    grid = Grid()
    grid.read(grid.all(), 0)
    grid.say("LAST_GASP", ["U1.0", "U1.1"], 100)
    assert grid.ask(101) == [("opened", "T1", "outage")]
    grid.read([f"U1.{i}" for i in range(10)], 900)
    grid.ask(940)
    grid.ask(980)
    closed = grid.last()
    assert closed.state is FindingState.CLOSED and closed.evidence["customers"] <= 2


def test_silence_of_a_transformer_is_an_outage_of_it() -> None:
    grid = Grid(transformers=30)
    grid.read(grid.all(), 0)
    grid.read([id for id in grid.all() if not id.startswith("U1.")], 900)
    assert grid.ask(930) == []
    assert grid.ask(1100) == [("opened", "T1", "outage")]
    assert grid.last().evidence["by_silence"] is True and grid.last().started_us == (T0 + 1) * US
    grid.read(grid.all("U1."), 1800)
    assert ("closed", "T1", "outage") in grid.ask(1900)


def test_in_a_storm_silence_alone_opens_nothing() -> None:
    grid = Grid(transformers=30)
    grid.read(grid.all(), 0)
    gust = np.array([30.0])
    grid.detector.weather(SeenWeather(["W"], np.array([T0 * US]), np.array([1.0]), gust, np.array([T0 * US])))
    grid.read([id for id in grid.all() if not id.startswith("U1.")], 900)
    assert grid.ask(930) == [] and grid.ask(1100) == []


def test_many_silent_at_once_are_a_failure_of_the_communication() -> None:
    grid = Grid(transformers=30)
    grid.read(grid.all(), 0)
    heard = [id for id in grid.all() if not id.startswith(("U1.", "U2", "U3."))]
    grid.read(heard, 900)
    grid.ask(930)
    assert grid.ask(1100) == [("opened", "network", "communication.lost")]
    grid.read(grid.all(), 1800)
    grid.ask(1830)
    assert ("closed", "network", "communication.lost") in grid.ask(2000)


def test_messages_of_a_known_outage_open_nothing() -> None:
    grid = Grid()
    grid.say("LAST_GASP", [f"U1.{i}" for i in range(5)], 10)
    grid.ask(11)
    grid.ask(200)
    grid.say("LAST_GASP", ["U1.7"], 10, late=400)
    grid.ask(411)
    grid.ask(500)
    assert {f.subject for f in grid.told} == {"T1"}
    assert grid.last().evidence["last_gasps"] == 6


def test_a_last_gasp_that_comes_after_the_restoration_opens_nothing() -> None:
    grid = Grid()
    grid.say("POWER_RESTORED", [f"U1.{i}" for i in range(5)], 60)
    grid.say("LAST_GASP", [f"U1.{i}" for i in range(5)], 10, late=90)
    assert grid.ask(101) == []


def test_a_snapshot_goes_on_where_it_was_taken() -> None:
    """At every moment of a story: the same findings follow from a snapshot as without one."""

    def story(grid: Grid) -> list[Any]:
        return [
            lambda: grid.read(grid.all(), 0),
            lambda: grid.say("LAST_GASP", [f"U{t}.{i}" for t in range(4) for i in range(7)], 10),
            lambda: grid.ask(12),
            lambda: grid.say("LAST_GASP", ["L1.0"], 12),
            lambda: grid.ask(100),
            lambda: grid.say("POWER_RESTORED", [f"U{t}.{i}" for t in range(3) for i in range(8)], 700),
            lambda: grid.ask(701),
            lambda: grid.ask(740),
            lambda: grid.read([id for id in grid.all() if not id.startswith(("U3", "L1.0", "U1.9"))], 900),
            lambda: grid.ask(1100),
            lambda: grid.read([id for id in grid.all() if id not in ("L1.0", "U1.9")], 1800),
            lambda: grid.ask(2000),
        ]

    whole = Grid()
    for step in story(whole):
        step()
    assert len(whole.told) > 5
    for cut in range(12):
        grid = Grid()
        steps = story(grid)
        for step in steps[:cut]:
            step()
        arrays = {name: array.copy() for name, array in grid.detector.to_arrays().items()}
        grid.detector = Outages(grid.index)
        grid.detector.from_arrays(arrays)
        for step in steps[cut:]:
            step()
        assert grid.told == whole.told


def test_the_tree_knows_paths_and_leaves_out_what_is_no_device() -> None:
    tree = Tree(model().index())
    path = []
    node = 0
    while node >= 0:
        path.append((tree.kind(node), tree.id(node)))
        node = int(tree.parent[node])
    assert path == [("usage_point", "U0.0"), ("transformer", "T0"), ("feeder", "F"), ("substation", "S")]
    assert tree.kind(int(tree.parent[len(model().usage_points) - 1])) == "feeder"
    assert sorted(tree.below(tree.node("transformer", "T4")).tolist()) == list(range(40, 60))
    crossed = network.Network(
        name="crossed",
        transformers=(network.Transformer(id="T0"), network.Transformer(id="T1")),
        feeders=(network.Feeder(id="A"), network.Feeder(id="B")),
        usage_points=tuple(
            network.UsagePoint(id=f"U{i}", transformer=f"T{i % 2}", feeder="AB"[i // 2 % 2]) for i in range(8)
        ),
    )
    assert Tree(crossed.index()).node("feeder", "A") == -1


FLOORS = {
    # case: (precision, recall of devices, exact device) at least, (customers error) at most
    "0 % of messages lost": (0.9, 0.95, 0.9, 0.05),
    "60 % lost": (0.85, 0.85, 0.75, 0.15),
    "40 % lost, head-end outage": (0.9, 0.9, 0.8, 0.1),
    # In so small a network a feeder is a third of all, and its silence a failure of the communication.
    "no last gasps, silence alone": (0.8, 0.6, 0.7, 0.1),
}


def test_accuracy_on_injected_outages() -> None:
    index = accuracy_outages.synthetic(4_000).index()
    tree = Tree(index)
    for case in accuracy_outages.CASES:
        if case.name in FLOORS:
            score = accuracy_outages.judge(tree, *accuracy_outages.run(index, case, 5.0, 11))
            precision, recall, exact, customers = FLOORS[case.name]
            assert score.truths > 20 and score.precision >= precision and score.recall_devices >= recall, (case, score)
            assert score.exact >= exact and score.customers <= customers, (case, score)


def test_a_detector_that_knows_nothing_of_the_tree_misses_the_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the accuracy."""
    monkeypatch.setattr(Tree, "spans", lambda self, units, share: units.tolist())
    index = accuracy_outages.synthetic(400).index()
    case = accuracy_outages.Case("small", 0.0, outages=5)
    score = accuracy_outages.judge(Tree(index), *accuracy_outages.run(index, case, 2.0, 11))
    assert score.exact < FLOORS["0 % of messages lost"][2]
