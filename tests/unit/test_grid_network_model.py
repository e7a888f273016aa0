"""The network model: round trip, checks, and its arrays."""

import msgspec
import numpy as np
import pytest

from gridwire.grid import network as net

SMALL = net.Network(
    name="Small",
    transformers=(
        net.Transformer(id="T1", rated_kva=160.0, substation="S"),
        net.Transformer(id="T2"),
    ),
    feeders=(net.Feeder(id="F1", transformer="T1"), net.Feeder(id="MV")),
    usage_points=(
        net.UsagePoint(id="U1", transformer="T1", feeder="F1"),
        net.UsagePoint(id="U2", transformer="T2", feeder="MV", expects=("import_kwh", "export_kwh")),
        net.UsagePoint(id="U3", transformer="T1", feeder="MV", expects=()),
    ),
)


def test_round_trip():
    assert net.from_json(net.to_json(SMALL)) == SMALL


def test_newer_models_stay_readable():
    plain = msgspec.json.decode(net.to_json(SMALL)) | {"colour": "blue"}
    plain["transformers"][0]["taps"] = 5
    assert net.from_json(msgspec.json.encode(plain)) == SMALL


def test_arrays():
    index = SMALL.index()
    assert index.unit_ids == ("U1", "U2", "U3")
    assert index.transformer_of_unit.tolist() == [0, 1, 0]
    assert index.feeder_of_unit.tolist() == [0, 1, 1]
    assert index.rated_kva.tolist() == [160.0, 0.0]
    assert index.transformer_of_feeder.tolist() == [0, -1]
    assert index.substation_of_transformer == ("S", "")
    assert list(zip(index.channel_unit.tolist(), index.channel_type.tolist(), strict=True)) == [(0, 1), (1, 1), (1, 2)]
    assert index.expected_of_transformer.tolist() == [1, 2]
    assert index.expected_of_feeder.tolist() == [1, 2]
    assert index.interval_s == 900
    assert index.transformer_of_unit.dtype == np.int32


def test_an_empty_network_is_legal():
    empty = net.Network(name="", transformers=(), feeders=(), usage_points=())
    assert net.from_json(net.to_json(empty)) == empty
    assert empty.index().expected_of_transformer.tolist() == []


def changed(**fields):
    return net.to_json(msgspec.structs.replace(SMALL, **fields))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a network model"),
        (b"\xff", "not a network model"),
        (b"[]", "not a network model"),
        (b"{}", "not a network model"),
        (changed(interval_s=0), "interval_s"),
        (changed(transformers=SMALL.transformers[:1]), "unknown transformer 'T2'"),
        (changed(feeders=SMALL.feeders[:1]), "feeder 'MV'"),
        (changed(feeders=(*SMALL.feeders, net.Feeder(id="F3", transformer="T9"))), "unknown transformer 'T9'"),
        (changed(usage_points=(*SMALL.usage_points, SMALL.usage_points[0])), "'U1' is empty or used twice"),
        (changed(transformers=(*SMALL.transformers, net.Transformer(id=""))), "'' is empty"),
        (changed(transformers=(*SMALL.transformers, net.Transformer(id="T3", rated_kva=-1.0))), "rated -1.0"),
        (changed(usage_points=(net.UsagePoint(id="U", transformer="T2", feeder="F1"),)), "not under the transformer"),
        (changed(usage_points=(net.UsagePoint(id="U", transformer="T1", feeder="F1", expects=("x",)),)), "type 'x'"),
    ],
)
def test_models_that_contradict_themselves(data, says):
    with pytest.raises(net.InvalidNetwork, match=says):
        net.from_json(data)


def test_a_transformers_meter_lies_elsewhere() -> None:
    def network(of: str) -> net.Network:
        return net.Network(
            name="n",
            transformers=(net.Transformer(id="S"), net.Transformer(id="T", meter="M")),
            feeders=(net.Feeder(id="F"),),
            usage_points=(
                net.UsagePoint(id="U", transformer="T", feeder="F", phase=2),
                net.UsagePoint(id="M", transformer=of, feeder="F"),
            ),
        )

    net.check(network("S"))
    assert network("S").index().meter_of_transformer.tolist() == [-1, 1]
    assert network("S").index().phase_of_unit.tolist() == [2, 0]
    with pytest.raises(net.InvalidNetwork, match="under another transformer"):
        net.check(network("T"))
