"""Network models from tables, pandapower and CIM: who feeds whom, and what is wrong with a file."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from gridwire.grid.importers import cim, pandapower, table
from gridwire.grid.network import InvalidNetwork

TABLE = """usage_point;transformer;feeder;substation;rated_kva;expects
U1;T1;F1;S1;160;import_kwh
U2;T1;F1;;;import_kwh export_kwh
U3;T2;F1;;;
U4;T3;;;400,5;
""".encode("utf-8-sig")


def test_a_table():
    found = table.read(TABLE, "town")
    assert [(t.id, t.rated_kva, t.substation) for t in found.transformers] == [
        ("T1", 160.0, "S1"), ("T2", 0.0, ""), ("T3", 400.5, ""),
    ]  # fmt: skip
    assert {f.id: f.transformer for f in found.feeders} == {"F1": "", "T3 feeder": "T3"}
    assert found.usage_points[1].expects == ("import_kwh", "export_kwh")
    assert found.usage_points[3].feeder == "T3 feeder"


def test_a_table_tells_all_that_is_wrong():
    data = b"usage_point,transformer,rated_kva,expects\nU,T,1,\nU,T,,\n,T,,\nV,T,2,\nW,T,,what\nX,Y,much,\nZ,T\n"
    with pytest.raises(InvalidNetwork) as told:
        table.read(data)
    for words in ("6 lines are wrong", "line 3: usage point 'U' comes twice", "line 4:", "differs from '1'",
                  "unknown reading type 'what'", "no number of kVA", "2 values for 4 columns"):  # fmt: skip
        assert words in str(told.value)


@pytest.mark.parametrize("data", [b"", b"usage_point,feeder\n", b"\xff", b'usage_point,transformer\n"U,T\n'])
def test_what_is_no_table(data):
    with pytest.raises(InvalidNetwork):
        table.read(data)


# -- pandapower ---------------------------------------------------------------------------------------------------


def frame(columns, rows):
    content = {"columns": columns, "index": list(range(len(rows))), "data": rows}
    return {"_module": "pandas.core.frame", "_class": "DataFrame", "_object": json.dumps(content)}


def saved(*, switch_closed=True, load_bus=3):
    """MV source 0 -> T -> busbar 1 = 2 (switch), 1 - 3 (line), 2 - 4 (line)."""
    tables = {
        "bus": frame(["name", "in_service"], [["b", True]] * 6),
        "line": frame(["name", "from_bus", "to_bus", "in_service"], [["a", 1, 3, True], ["b", 2, 4, True]]),
        "switch": frame(["bus", "element", "et", "closed"], [[1, 2, "b", switch_closed], [1, 0, "l", True]]),
        "trafo": frame(["name", "hv_bus", "lv_bus", "sn_mva", "in_service"], [["T", 0, 1, 0.25, True]]),
        "load": frame(["name", "bus", "in_service"], [["L", load_bus, True], ["L", 1, True], [None, 4, True]]),
        "sgen": frame(["name", "bus", "in_service"], [["PV", 4, True], ["off", 4, False]]),
    }
    return json.dumps({"_module": "pandapower.auxiliary", "_class": "pandapowerNet", "_object": tables}).encode()


def test_a_pandapower_network():
    found = pandapower.read(saved(), "town")
    assert [(t.id, t.rated_kva) for t in found.transformers] == [("T", 250.0)]
    assert {u.id: (u.feeder, u.expects) for u in found.usage_points} == {
        "L Load 0": ("T Feeder 1", ("import_kwh",)),
        "L Load 1": ("T busbar", ("import_kwh",)),
        "Load 2": ("T Feeder 2", ("import_kwh",)),
        "PV": ("T Feeder 2", ("export_kwh",)),
    }


def test_what_nothing_feeds_is_named():
    with pytest.raises(InvalidNetwork, match="no transformer feeds 'Load 2', 'PV'"):
        pandapower.read(saved(switch_closed=False))
    with pytest.raises(InvalidNetwork, match="no transformer feeds 'L Load 0'"):
        pandapower.read(saved(load_bus=5))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"_class":"pandapowerNet","_object":{"bus":{"_object":"x"}}}'])
def test_what_is_no_pandapower_network(data):
    with pytest.raises(InvalidNetwork):
        pandapower.read(data)


def test_networks_that_come_with_pandapower():
    spec = importlib.util.find_spec("pandapower")
    if spec is None or spec.origin is None:
        pytest.skip("pandapower is not installed: it comes with gridwire[demo]")
    folder = Path(spec.origin).parent / "networks"
    # Counted with pandapower's own topology: components without transformers, and whose low side lies in them.
    town = pandapower.read((folder / "lv_schutterwald.json").read_bytes())
    over = Counter(unit.transformer.removeprefix("T_idx_") for unit in town.usage_points)
    assert over == {"35": 330, "43": 236, "45": 58, "47": 109, "71": 198, "73": 291, "77": 224, "78": 316, "80": 263,
                    "81": 274, "117": 176, "118": 104, "119": 151, "ZUSATZ": 27}  # fmt: skip
    country = pandapower.read((folder / "mv_oberrhein.json").read_bytes())
    loads = Counter(unit.transformer[-1] for unit in country.usage_points if unit.expects == ("import_kwh",))
    assert loads == {"0": 61, "1": 86}
    assert len(country.usage_points) == 147 + 153


# -- CIM ----------------------------------------------------------------------------------------------------------


class Rdf:
    """A CIM document as writers of distribution models lay it out."""

    def __init__(self):
        self.things = []

    def add(self, kind, id, name="", **properties):
        rows = [f"<cim:IdentifiedObject.name>{name}</cim:IdentifiedObject.name>"] if name else []
        for key, value in properties.items():
            owner, _, what = key.partition("__")
            for each in value if isinstance(value, list) else [value]:
                inner = f' rdf:resource="#_{each[1:]}"/>' if each.startswith("@") else f">{each}</cim:{owner}.{what}>"
                rows.append(f"<cim:{owner}.{what}{inner}")
        self.things.append(f'<cim:{kind} rdf:ID="_{id}">{"".join(rows)}</cim:{kind}>')
        return self

    def equipment(self, kind, id, nodes, name="", **properties):
        self.add(kind, id, name, **properties)
        for number, node in enumerate(nodes, 1):
            self.add("Terminal", f"{id}.{number}", Terminal__ConductingEquipment=f"@{id}",
                     Terminal__ConnectivityNode=f"@{node}", ACDCTerminal__sequenceNumber=str(number))  # fmt: skip
        return self

    def transformer(self, id, name, volts, nodes, rated_s, container):
        self.equipment("PowerTransformer", id, nodes, name, Equipment__EquipmentContainer=f"@{container}")
        for number, base in enumerate(volts, 1):
            self.add("PowerTransformerEnd", f"{id}.e{number}", PowerTransformerEnd__PowerTransformer=f"@{id}",
                     TransformerEnd__Terminal=f"@{id}.{number}", TransformerEnd__endNumber=str(number),
                     TransformerEnd__BaseVoltage=f"@v{base}", PowerTransformerEnd__ratedS=rated_s)  # fmt: skip
        return self

    def encode(self):
        return (
            '<?xml version="1.0"?><rdf:RDF xmlns:cim="http://iec.ch/TC57/CIM100#" '
            f'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{"".join(self.things)}</rdf:RDF>'
        ).encode()


def town(points=True):
    """115 kV -> S1 -> regulator -> line -> two service transformers in one CIM feeder."""
    rdf = Rdf()
    for volts in (115000, 12470, 240):
        rdf.add("BaseVoltage", f"v{volts}", BaseVoltage__nominalVoltage=str(volts))
    rdf.add("Substation", "s", "North").add("Feeder", "f", "North 7", Feeder__NormalEnergizingSubstation="@s")
    rdf.transformer("t0", "S1", (115000, 12470), ("n0", "n1"), "5000000", "s")
    rdf.transformer("reg", "Reg", (12470, 12470), ("n1", "n2"), "5000000", "f")
    rdf.equipment("ACLineSegment", "l1", ("n2", "n3")).equipment("ACLineSegment", "l2", ("n5", "n6"))
    rdf.equipment("Breaker", "b1", ("n3", "n4"), Switch__open="false")
    rdf.equipment("Recloser", "b2", ("n6", "n8"), Switch__normalOpen="true")
    rdf.transformer("t1", "Pole 1", (12470, 240, 240), ("n4", "n5", "n5"), "25000", "f")
    rdf.transformer("t2", "Pole 2", (12470, 240), ("n4", "n7"), "0.05", "f")
    for id, node in (("c1", "n6"), ("c2", "n7"), ("c3", "n2")):
        rdf.equipment("EnergyConsumer", id, (node,), f"House {id}", Equipment__EquipmentContainer="@f")
    rdf.equipment("PowerElectronicsConnection", "pv", ("n6",), "Roof", Equipment__EquipmentContainer="@f")
    if points:
        rdf.add("UsagePoint", "u1", "1 Main St", UsagePoint__Equipments=["@c1", "@pv"])
        rdf.add("UsagePoint", "u2", "2 Main St", UsagePoint__Equipments="@c2")
    return rdf


def test_a_cim_network():
    found = cim.read([town().encode()])
    assert found.name == "North 7"
    assert [(t.id, t.rated_kva, t.substation) for t in found.transformers] == [
        ("Pole 1", 25.0, "North"), ("Pole 2", 50.0, "North"),
    ]  # fmt: skip
    assert {u.id: (u.transformer, u.feeder, u.expects) for u in found.usage_points} == {
        "u1": ("Pole 1", "North 7", ("import_kwh", "export_kwh")),
        "u2": ("Pole 2", "North 7", ("import_kwh",)),
    }


def test_consumers_are_usage_points_where_there_are_none():
    found = cim.read([town(points=False).encode()])
    assert {u.id: u.transformer for u in found.usage_points} == {
        "House c1": "Pole 1", "House c2": "Pole 2", "House c3": "S1", "Roof": "Pole 1",
    }  # fmt: skip


def test_a_second_file_says_which_switch_is_open():
    state = (
        Rdf().add("Breaker", "b1", Switch__open="true").encode().replace(b"rdf:ID", b"rdf:about").replace(b'"_', b'"#_')
    )
    base = town().encode().replace(b"<cim:Switch.open>false</cim:Switch.open>", b"")
    assert len(cim.read([base]).usage_points) == 2
    # The service transformers have no source now, but they still feed the houses below them.
    assert len(cim.read([base, state]).transformers) == 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no terminals"),
        (b"<a><cim:Terminal/></a>", "without an id"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><a/>', "entities are refused"),
        (b'<a><Terminal rdf:ID="_1"', "well-formed"),
    ],
)
def test_what_is_no_cim_network(data, says):
    with pytest.raises(InvalidNetwork, match=says):
        cim.read([data])


def test_a_usage_point_without_equipment_is_named():
    rdf = town().add("UsagePoint", "u3", UsagePoint__Equipments="@nothing")
    with pytest.raises(InvalidNetwork, match="no equipment with a node belongs to 'u3'"):
        cim.read([rdf.encode()])


def test_a_table_may_say_phases_voltages_and_meters() -> None:
    text = "usage_point,transformer,phase,nominal_v,meter,lon,lat\nU1,T1,2,120,M,11.5,-3\nU2,T1,,,,,\nM,S,0,,,,\n"
    network = table.read(text.encode())
    assert [point.phase for point in network.usage_points] == [2, 0, 0]
    assert (network.transformers[0].nominal_v, network.transformers[0].meter) == (120.0, "M")
    assert network.transformers[1].nominal_v == 230.0
    assert [(row.lon, row.lat) for row in network.transformers] == [(11.5, -3.0), (None, None)]
    for column, value in (("phase", "4"), ("lon", "east"), ("lat", "91"), ("nominal_v", "none"), ("nominal_v", "0")):
        with pytest.raises(InvalidNetwork, match=column):
            table.read(f"usage_point,transformer,{column}\nU1,T1,{value}\n".encode())
