"""Losses and mapping on cases that are told apart by hand; and facts on their way through the worker's pipeline."""

from __future__ import annotations

import numpy as np

from gridwire.grid import network as net
from gridwire.grid.findings import FindingState
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.meter_event import KINDS
from gridwire.grid.reading_types import IMPORT_KWH
from gridwire.grid.watch.base import Detector, SeenEvents, SeenReadings, UnitFact
from gridwire.grid.watch.losses import Losses
from gridwire.grid.watch.mapping import analyse
from gridwire.grid.watch.worker import WatchPipeline

QUARTER_US = 900_000_000
START = 1_704_067_200_000_000 // QUARTER_US
CUSTOMERS = 8


def model(metered: bool) -> net.NetworkIndex:
    return net.Network(
        name="n",
        transformers=(net.Transformer(id="T", meter="M" if metered else ""), net.Transformer(id="S")),
        feeders=(net.Feeder(id="F", transformer="T"), net.Feeder(id="MV", transformer="S")),
        usage_points=(
            *(net.UsagePoint(id=f"U{i}", transformer="T", feeder="F") for i in range(CUSTOMERS)),
            net.UsagePoint(id="M", transformer="S", feeder="MV"),
        ),
    ).index()


def days(
    found: Losses, count: int, measured: float, used: float, first: int = 0
) -> list[tuple[str, str, FindingState]]:
    """U0 measures and uses such shares of its usual energy; everybody's energy varies a little."""
    told = []
    for day in range(first, first + count):
        random = np.random.default_rng(day)
        usual = 0.25 * random.lognormal(0.0, 0.05, CUSTOMERS)
        energy = np.append(usual, usual.sum() * 1.03)
        energy[-1] += usual[0] * (used - 1.0)
        energy[0] *= measured
        for slot in range(day * 96 + 1, day * 96 + 97):
            ts = np.full(len(energy), (START + slot) * QUARTER_US)
            points = np.arange(len(energy), dtype=np.int32)
            types = np.full(len(energy), IMPORT_KWH, np.int16)
            found.readings(SeenReadings(points, types, ts, np.full(len(energy), 900, np.int32), energy, ts))
            told += [(one.kind, one.subject, one.state) for one in found.findings(0)]
    return told


def test_theft_is_what_drops_and_is_missing() -> None:
    found = Losses(model(metered=True))
    assert days(found, 12, 1.0, 1.0) == []
    told = days(found, 12, 0.2, 1.0, first=12)
    assert ("loss.theft", "U0", FindingState.OPENED) in told
    assert ("loss.unaccounted", "T", FindingState.OPENED) in told
    assert {subject for _, subject, _ in told} == {"U0", "T"}
    assert found.ranking(1)[0][0] == "U0"


def test_an_empty_house_is_no_theft_where_the_balance_is_known() -> None:
    found = Losses(model(metered=True))
    days(found, 12, 1.0, 1.0)
    assert days(found, 20, 0.1, 0.1, first=12) == []


def test_without_a_meter_of_the_transformer_only_tampering_makes_it_sure() -> None:
    found, told_of = Losses(model(metered=False)), Losses(model(metered=False))
    for each in (found, told_of):
        days(each, 12, 1.0, 1.0)
    at = np.array([(START + 12 * 96) * QUARTER_US])
    kind = np.array([KINDS.index("COVER_OPEN")], np.int8)
    told_of.events(SeenEvents(np.array([0], np.int32), kind, at, at))
    assert days(found, 10, 0.2, 1.0, first=12) == []
    assert ("loss.theft", "U0", FindingState.OPENED) in days(told_of, 10, 0.2, 1.0, first=12)


def test_what_is_right_again_is_closed() -> None:
    found = Losses(model(metered=True))
    days(found, 12, 1.0, 1.0)
    days(found, 10, 0.2, 1.0, first=12)
    told = days(found, 25, 1.0, 1.0, first=22)
    assert ("loss.theft", "U0", FindingState.CLOSED) in told
    assert ("loss.unaccounted", "T", FindingState.CLOSED) in told


def test_voltages_that_follow_nobody_are_not_moved() -> None:
    random = np.random.default_rng(4)
    together = np.cumsum(random.normal(0, 0.004, (300, 1)), axis=0)
    wires = together + np.cumsum(random.normal(0, 0.002, (300, 3)), axis=0)
    transformer = np.repeat(np.arange(3, dtype=np.int32), 6)
    off = (wires[:, transformer] + random.normal(0, 0.0005, (300, 18))).astype(np.float32)
    off[:, 7] = random.normal(0, 0.01, 300)  # noise
    off[:, 3] = wires[:, 2] + random.normal(0, 0.0005, 300)  # of another transformer
    off[:, 11] = np.nan  # nothing known
    found = analyse(off, transformer, np.zeros(18, np.int8))
    assert [(one.unit, one.transformer) for one in found] == [(3, 2)]


class Clockwork(Detector):
    """Tells one fact."""

    name = "clockwork"
    hubs = ("grid.health",)

    def facts(self) -> list[UnitFact]:
        return [UnitFact("grid.health", "T", b"{}")]


def test_facts_go_to_their_hub_by_their_unit_and_not_twice_after_a_rebuild() -> None:
    network = net.Network(name="n", transformers=(net.Transformer(id="T"),), feeders=(), usage_points=())
    asked: list[bool] = []

    class Once(Clockwork):
        def facts(self) -> list[UnitFact]:
            asked.append(True)
            return super().facts() if len(asked) > 1 else []

    pipeline = WatchPipeline(network, LoadsSettings(), detectors=lambda index: [Once(index)])
    pipeline.take([], publish=False)
    assert asked == [True]  # what a rebuild would tell is thrown away
    outputs = pipeline.outputs(0, lambda hub: 4)
    assert [(out.hub, [event.value for event in out.events]) for out in outputs] == [("grid.health", [b"{}"])]
