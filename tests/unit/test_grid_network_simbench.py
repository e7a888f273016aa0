"""SimBench networks and profiles: against a small grid of our own, and against SimBench's own reader."""

from datetime import UTC, datetime
from importlib.util import find_spec
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from gridwire.grid import simbench
from gridwire.grid.profiles import INTERVALS_PER_YEAR, load_profiles
from gridwire.grid.reading import rfc3339
from gridwire.grid.simbench import DEMO_CODES, SimbenchUnavailable, import_simbench

installed = pytest.mark.skipif(find_spec("simbench") is None, reason="needs the extra demo")

#   HV - T - B0 =CB= BB -+-(l2)- A -(l10)- A2        Feeder 1: A, A2, and A3 by a closed switch
#                        |       `=switch= A3        D lies behind an open switch: not fed
#                        +-(l3)- C -(l4)- BB2=BB     a ring back to the busbar is one feeder
#                        +- load on the busbar
TABLES = {
    "Transformer": ["id;nodeHV;nodeLV;type;subnet", "T;MV9 Bus 1;B0;small;LV1.101"],
    "TransformerType": ["id;sR", "small;0.16"],
    "Line": [
        "id;nodeA;nodeB;subnet", "Line 10;A;A2;LV1.101", "Line 2;A;BB;LV1.101", "Line 3;BB;C;LV1.101",
        "Line 4;C;BB2;LV1.101", "Line 1;X;Y;LV2.101",
    ],
    "Switch": [
        "id;nodeA;nodeB;cond;subnet", "s1;B0;BB;1;LV1.101", "s2;A3;A;1;LV1.101", "s3;BB2;BB;1;LV1.101",
        "s4;C;D;0;LV1.101",
    ],
    "Load": [
        "id;node;profile;pLoad;subnet", "Load 10;A2;H0;0.002;LV1.101", "Load 2;BB;H0;0.004;LV1.101",
        "Load 3;A3;H0;0.004;LV1.101",
    ],
    "Node": ["id;coordID;subnet", "B0;c2;LV1.101", "A;c1;LV1.101"],
    "Coordinates": ["id;x;y", "c1;11.4;53.6", "c2;11.5;53.7"],
    "RES": ["id;node;profile;pRES;subnet", "SGen 1;C;PV1;0.01;LV1.101"],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, lines in TABLES.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_feeders_are_what_is_left_without_the_busbar(folder):
    network = import_simbench("LV1.101", folder=folder).network
    assert {unit.id: unit.feeder for unit in network.usage_points} == {
        "Load 2": "T busbar", "Load 3": "LV1.101 Feeder 1", "Load 10": "LV1.101 Feeder 1", "SGen 1": "LV1.101 Feeder 2",
    }  # fmt: skip
    assert [unit.id for unit in network.usage_points] == ["Load 2", "Load 3", "Load 10", "SGen 1"]
    assert [unit.expects for unit in network.usage_points][-1] == ("export_kwh",)
    (transformer,) = network.transformers
    assert (transformer.rated_kva, transformer.substation) == (160.0, "MV9")
    assert (transformer.lon, transformer.lat) == (11.5, 53.7)


def test_a_unit_behind_an_open_switch_is_told(folder):
    with (folder / "Load.csv").open("a") as file:
        file.write("Load 4;D;H0;0.001;LV1.101\n")
    with pytest.raises(SimbenchUnavailable, match="Load 4 is not connected"):
        import_simbench("LV1.101", folder=folder)


@pytest.mark.parametrize(
    ("grids", "says"),
    [
        ("LV2.101", "0 transformers"),
        ("1-MV-rural--0-sw", "no low-voltage grid"),
        ("1-LV-rural9--0-sw", "no low-voltage grid"),
        (["LV1.101", "LV1.101"], "named twice"),
        (["1-LV-rural1--0-sw", "1-LV-rural2--1-sw"], "different scenarios"),
    ],
)
def test_what_is_not_there_is_told(folder, grids, says):
    with pytest.raises(SimbenchUnavailable, match=says):
        import_simbench(grids, folder=folder)


def test_a_missing_file_is_told(folder):
    (folder / "Line.csv").unlink()
    with pytest.raises(SimbenchUnavailable, match=r"Line\.csv"):
        import_simbench("LV1.101", folder=folder)


def profile_files(folder, stamps, values):
    for file, column in (("LoadProfile.csv", "H0_pload"), ("RESProfile.csv", "PV1")):
        lines = [f"time;{column}", *(f"{stamp};{value}" for stamp, value in zip(stamps, values, strict=True))]
        (folder / file).write_text("\n".join(lines) + "\n")


def test_profiles_scale_round_and_start_over(folder):
    values = [0.1] * INTERVALS_PER_YEAR
    values[0], values[1] = 0.123456, 1
    profile_files(folder, ["01.01.2016 00:00"] * INTERVALS_PER_YEAR, values)
    profiles = load_profiles(import_simbench("LV1.101", folder=folder))
    # Load 2, 3: 4 kW; Load 10: 2 kW; SGen 1: 10 kW; a quarter of an hour.
    assert profiles.energy_wh(0).tolist() == [123, 123, 62, 309]
    assert profiles.energy_wh(1).tolist() == [1000, 1000, 500, 2500]
    assert profiles.energy_wh(INTERVALS_PER_YEAR + 1).tolist() == [1000, 1000, 500, 2500]
    assert profiles.energy_wh(0).dtype == np.int64
    assert rfc3339(profiles.ts_end_us(0)) == "2015-12-31T23:15:00Z"
    assert rfc3339(profiles.ts_end_us(INTERVALS_PER_YEAR)) == "2016-12-31T23:15:00Z"
    assert profiles.interval_at(profiles.ts_end_us(777)) == 777


@pytest.mark.parametrize(
    ("stamp", "value", "rows"), [("1 January", 0.1, 0), ("01.01.2016 00:00", -0.1, 0), ("01.01.2016 00:00", 0.1, -1)]
)
def test_profiles_that_are_none(folder, stamp, value, rows):
    count = INTERVALS_PER_YEAR + rows
    profile_files(folder, [stamp] * count, [value] * count)
    with pytest.raises(SimbenchUnavailable):
        load_profiles(import_simbench("LV1.101", folder=folder))


@installed
def test_the_demo_grids():
    grids = import_simbench(DEMO_CODES)
    network = grids.network
    exports = [unit for unit in network.usage_points if unit.expects == ("export_kwh",)]
    assert (len(network.usage_points), len(exports)) == (530, 44)
    assert (len(network.transformers), len(network.feeders)) == (6, 33)
    assert [row.rated_kva for row in network.transformers] == [160, 250, 400, 400, 630, 630]
    assert all(11 < row.lon < 12 and 53 < row.lat < 54 for row in network.transformers)
    assert len(grids.sources) == 530
    profiles = load_profiles(grids)
    assert profiles.energy_wh(14_592).sum() > 0


@installed
def test_stamps_are_the_starts_of_even_utc_quarter_hours():
    """The files' local stamps, gap and repetition included, follow from UTC rows that start on 1 January local time."""
    table = simbench.read_csv(simbench.simbench_folder() / "LoadProfile.csv", ["time"])
    stamps = table["time"].to_pylist()
    first = datetime(2015, 12, 31, 23, tzinfo=UTC).timestamp()
    zone = ZoneInfo("Europe/Berlin")
    expected = [
        datetime.fromtimestamp(first + 900 * row, zone).strftime("%d.%m.%Y %H:%M") for row in range(INTERVALS_PER_YEAR)
    ]
    assert stamps == expected
    assert expected.count("30.10.2016 02:30") == 2
    assert "27.03.2016 02:30" not in expected


@installed
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_against_simbench_itself():
    """Loads, generators, rating and feeders as SimBench's own reader and pandapower's graph see them."""
    sb = pytest.importorskip("simbench")
    topology = pytest.importorskip("pandapower.topology")
    grid = sb.get_simbench_net("1-LV-rural1--0-sw")
    ours = import_simbench("1-LV-rural1--0-sw")
    units = {unit.id: (unit, source) for unit, source in zip(ours.network.usage_points, ours.sources, strict=True)}
    theirs = {row["name"]: row for table in (grid.load, grid.sgen) for _, row in table.iterrows()}
    assert set(units) == set(theirs)
    for id, (_, source) in units.items():
        assert source.power_kw == pytest.approx(theirs[id]["p_mw"] * 1000)
        assert source.profile == theirs[id]["profile"]
    assert ours.network.transformers[0].rated_kva == grid.trafo.sn_mva.iloc[0] * 1000
    graph = topology.create_nxgraph(grid, include_trafos=False)
    graph.remove_node(grid.trafo.lv_bus.iloc[0])
    buses = {id: row["bus"] for id, row in theirs.items()}
    for a, (one, _) in units.items():
        reached = set(topology.connected_component(graph, buses[a])) if buses[a] in graph else set()
        for b, (other, _) in units.items():
            assert (one.feeder == other.feeder) == (buses[b] in reached or buses[a] == buses[b])
