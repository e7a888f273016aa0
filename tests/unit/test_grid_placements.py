"""Network models in one numbering, and what differs between two of them, against plain dictionaries."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from gridwire.grid import network as net
from gridwire.grid.network_diff import NetworkDiff
from gridwire.grid.network_parts import Assembly, to_events
from gridwire.grid.placements import (
    FIRST_SLOT,
    Era,
    Numbering,
    Timeline,
    first_difference,
    first_slot,
    placement_digest,
)

UNITS, PLACES = 12, 4

placings = st.dictionaries(st.integers(0, UNITS - 1), st.integers(0, PLACES - 1), max_size=UNITS)


def model(placed, rated=100.0):
    """Units by number -> transformer by number; each transformer has a feeder of its own, and MV is above 0 and 1."""
    used = sorted({*placed.values()})
    return net.Network(
        name="x",
        transformers=tuple(net.Transformer(id=f"T{t}", rated_kva=rated + t) for t in reversed(used)),
        feeders=(*(net.Feeder(id=f"F{t}", transformer=f"T{t}") for t in used), net.Feeder(id="MV")),
        usage_points=tuple(
            net.UsagePoint(
                id=f"U{u}", transformer=f"T{t}", feeder="MV" if t < 2 and u % 2 else f"F{t}",
                expects=("import_kwh", "export_kwh") if u % 3 == 0 else ("import_kwh", "voltage_v"),
            )
            for u, t in placed.items()
        ),
    )  # fmt: skip


def places_of(numbering, placement):
    transformer, feeder = numbering.unfolded(placement)
    return {
        numbering.units.text(unit): (numbering.transformer_ids[t], numbering.feeder_ids[f])
        for unit, (t, f) in enumerate(zip(transformer.tolist(), feeder.tolist(), strict=True))
        if t >= 0
    }


@settings(deadline=None)
@given(st.lists(placings, min_size=1, max_size=6))
def test_every_model_keeps_its_places_whatever_comes_later(many):
    numbering = Numbering()
    placed = [numbering.place(model(each)) for each in many]
    for each, placement in zip(many, placed, strict=True):
        wanted = {row.id: (row.transformer, row.feeder) for row in model(each).usage_points}
        assert places_of(numbering, placement) == wanted
        index = model(each).index()
        for number, id in enumerate(index.transformer_ids):
            at = numbering.transformer_ids.index(id)
            assert placement.rated_kva[at] == index.rated_kva[number]
            mine = [row for row in model(each).usage_points if row.transformer == id]
            energy = [len({*row.expects} & {"import_kwh", "export_kwh"}) for row in mine]
            assert placement.expected_of_transformer[at] == sum(energy)
        for row in model(each).feeders:
            at = numbering.feeder_ids.index(row.id)
            above = placement.transformer_of_feeder[at]
            assert (numbering.transformer_ids[above] if above >= 0 else "") == row.transformer
            under = {point.transformer for point in model(each).usage_points if point.feeder == row.id}
            assert placement.wide[at] == (len(under) > 1)


@settings(deadline=None)
@given(placings, placings)
def test_the_digest_is_of_what_hangs_where(before, after):
    same = list(before.items()) == list(after.items())
    assert (placement_digest(model(before)) == placement_digest(model(after))) == same
    assert placement_digest(model(before)) != placement_digest(model(before | {0: 0}, rated=7.0))
    beside = structs.replace(model(before), name="y", valid_from="2026-01-01T00:00:00Z", zone="Europe/Oslo")
    assert placement_digest(model(before)) == placement_digest(beside)


def test_a_small_change_takes_little():
    before = dict.fromkeys(range(UNITS), 0)
    numbering = Numbering()
    first, second = numbering.place(model(before)), numbering.place(model(before | {3: 1}))
    assert len(second.changed) == 1
    assert second.base is first.base


def test_numberings_agree_as_far_as_their_histories_do():
    one, other = Numbering(), Numbering()
    for numbering in (one, other):
        numbering.place(model({0: 0}), b"a")
    one.place(model({1: 0}), b"b")
    other.place(model({2: 0}), b"c")
    assert one.history[0] == other.history[0]
    assert one.history[1] != other.history[1]


def test_an_interval_belongs_to_the_model_in_effect_when_it_begins():
    quarter = 900
    assert first_slot(0, quarter) == 1  # the slot that ends at 00:15
    assert first_slot(1, quarter) == 2
    assert first_slot(-1, quarter) == 1
    numbering = Numbering()
    placement = numbering.place(model({0: 0}))
    timeline = Timeline(numbering, tuple(Era(placement, *each, b"") for each in ((3, FIRST_SLOT), (5, 10), (9, 10))))
    assert [timeline.eras_between(slot, slot)[0] for slot in (-5, 9, 10, 11)] == [0, 0, 2, 2]
    assert timeline.eras_between(8, 12) == range(3)
    assert [timeline.era_at(slot).ordinal for slot in (-5, 9, 10)] == [3, 3, 9]
    assert timeline.ordinals(np.array([9, 10, -5])).tolist() == [3, 9, 3]


def test_where_two_timelines_part() -> None:
    keys = [(FIRST_SLOT, 0, b"a"), (10, 1, b"b"), (20, 2, b"c")]
    assert first_difference(keys, keys) is None
    assert first_difference(keys, keys[:2]) == first_difference(keys[:2], keys) == 20
    assert first_difference(keys, [keys[0], (5, 3, b"d")]) == 5
    assert first_difference(keys, [(FIRST_SLOT, 3, b"d")]) == FIRST_SLOT


@settings(deadline=None)
@given(placings, placings)
def test_a_difference_is_that_of_the_sets(before, after):
    found = NetworkDiff(model(before), model(after, rated=200.0 if 0 in before else 100.0))
    old = {row.id: (row.transformer, row.feeder) for row in model(before).usage_points}
    new = {row.id: (row.transformer, row.feeder) for row in model(after).usage_points}
    assert set(found.added()) == new.keys() - old.keys()
    assert set(found.removed()) == old.keys() - new.keys()
    moves = {each.usage_point: each for each in found.moves()}
    assert moves.keys() == {id for id in old.keys() & new.keys() if old[id] != new[id]}
    for id, each in moves.items():
        assert (each.from_transformer, each.from_feeder) == old[id]
        assert (each.to_transformer, each.to_feeder) == new[id]
    devices = [{f"T{t}" for t in placed.values()} for placed in (before, after)]
    assert set(found.transformers_added) == devices[1] - devices[0]
    assert set(found.transformers_removed) == devices[0] - devices[1]
    assert set(found.transformers_changed) == (devices[0] & devices[1] if 0 in before else set())
    assert found.counts()["usage_points_moved"] == len(moves)


def test_models_in_parts_are_compared_too():
    before = model({unit: unit % PLACES for unit in range(UNITS)})
    assembly = Assembly()
    large = [assembly.take(event) for event in to_events(before, 5_000)][-1]
    assert large is not None
    assert not any(NetworkDiff(before, large).counts().values())
