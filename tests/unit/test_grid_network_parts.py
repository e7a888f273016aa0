"""Large network models in parts: the same model as in one piece, whatever is missing, mixed up or wrong is refused."""

import json

import numpy as np
import pytest

from gridwire.grid import network as net
from gridwire.grid.loads import LoadsPipeline, LoadsSettings
from gridwire.grid.models.stage import ForecastPipeline
from gridwire.grid.network_parts import UNFINISHED_MAX, Assembly, to_events
from gridwire.grid.vee.pipeline import VeePipeline
from gridwire.grid.watch.worker import WatchPipeline

UNITS = 500


def utility(units=UNITS, name="Large"):
    return net.Network(
        name=name,
        transformers=tuple(net.Transformer(id=f"T{i}", rated_kva=100.0 + i, substation="S") for i in range(20)),
        feeders=(*(net.Feeder(id=f"F{i}", transformer=f"T{i}") for i in range(10)), net.Feeder(id="MV")),
        usage_points=tuple(
            net.UsagePoint(
                id=f"Ü{i}", transformer=f"T{i % 20}", feeder=f"F{i % 20}" if i % 20 < 10 else "MV",
                expects=[("import_kwh",), ("import_kwh", "export_kwh"), ()][i % 3],
            )
            for i in range(units)
        ),
    )  # fmt: skip


def parts(network=None, bytes_max=8_000):
    return list(to_events(network or utility(), bytes_max))


def taken(events):
    assembly = Assembly()
    return [assembly.take(event) for event in events]


def test_a_small_model_is_one_event_of_the_old_form():
    assert list(to_events(utility())) == [net.to_json(utility())]
    assert taken([net.to_json(utility())]) == [utility()]


def test_a_large_model_comes_in_parts_and_is_the_same():
    events = parts()
    assert len(events) > 5
    assert max(map(len, events)) <= 8_000
    *none, found = taken(events)
    assert none == [None] * (len(events) - 1)
    assert net.listed(found) == utility()
    assert found.usage_points[-1] == utility().usage_points[-1]
    assert list(found.usage_points[3:6]) == list(utility().usage_points[3:6])


def test_its_arrays_are_those_of_the_whole():
    found, wanted = taken(parts())[-1].index(), utility().index()
    for name in wanted.__slots__:
        left, right = getattr(found, name), getattr(wanted, name)
        if isinstance(right, np.ndarray):
            assert left.dtype == right.dtype, name
            assert left.tolist() == right.tolist(), name
        else:
            assert list(left) == list(right) if name == "unit_ids" else left == right, name


def test_the_digest_is_of_the_model_and_not_of_when_it_was_sent():
    first, again = taken(parts())[-1], taken(parts())[-1]
    assert net.digest(first) == net.digest(again)
    assert net.digest(first) != net.digest(taken(parts(utility(name="Other")))[-1])


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_model_with_a_part_missing_never_becomes_whole(lost):
    events = parts()
    del events[lost]
    assembly, found = Assembly(), []
    for event in events:
        try:
            found.append(assembly.take(event))
        except net.InvalidNetwork as error:
            assert "part" in str(error)
    assert found == [None] * len(found)


@pytest.mark.parametrize("make", [LoadsPipeline, VeePipeline, ForecastPipeline, WatchPipeline])
def test_every_worker_takes_a_model_in_parts(make):
    whole, in_parts = (make(network, LoadsSettings()) for network in (utility(), taken(parts())[-1]))
    assert type(whole.state) is type(in_parts.state)


def test_two_models_that_are_sent_at_once():
    left, right = parts(), parts(utility(name="Right"))
    mixed = [event for pair in zip(left, right, strict=True) for event in pair]
    found = [network.name for network in taken(mixed) if network is not None]
    assert found == ["Large", "Right"]


def test_unfinished_models_do_not_pile_up():
    assembly = Assembly()
    for number in range(UNFINISHED_MAX + 3):
        assembly.take(parts(utility(name=f"N{number}"))[0])
    assert len(assembly._unfinished) == UNFINISHED_MAX


def test_a_model_may_be_sent_again_after_it_broke_off():
    events = parts()
    assert taken([*events[:4], *events])[-1] is not None


def changed(number, change):
    """The parts, with one of them changed."""
    events = parts()
    body = json.loads(events[number])
    change(body)
    events[number] = json.dumps(body).encode()
    return events


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda body: body["usage_points"][0].update(transformer="T99"), "unknown transformer or feeder 'T99'"),
        (lambda body: body["usage_points"][0].update(feeder="X"), "unknown transformer or feeder 'X'"),
        (lambda body: body["usage_points"][0].update(transformer="T1", feeder="F2"), "not under the transformer"),
        (lambda body: body["usage_points"][0].update(expects=["x"]), "reading type 'x'"),
        (lambda body: body["usage_points"][0].update(id=""), "no id"),
        (lambda body: body["usage_points"].append(body["usage_points"][0]), "used twice"),
        (lambda body: body.update(transformers=[{"id": "T77"}]), "before all usage points"),
        (lambda body: body.update(part=-1), "part -1"),
        (lambda body: body.update(parts=10**9), "at most"),
        (lambda body: body.update(model=""), "model ''"),
    ],
)
def test_parts_that_contradict_themselves(change, says):
    with pytest.raises(net.InvalidNetwork, match=says):
        taken(changed(3, change))
