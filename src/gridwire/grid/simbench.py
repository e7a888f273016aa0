"""Networks from SimBench: the grids' own CSV files, read without SimBench's or pandapower's code.

The data set is under the ODbL; it is read where the package `simbench` installed it and nothing of it is copied.

A low-voltage grid is a tree under one transformer; `importers.wiring` says what its feeders are.

Source: S. Meinecke et al., "SimBench - A Benchmark Dataset of Electric Power Systems to Compare Innovative Solutions
based on Power Flow Analysis", Energies 13(12), 2020; the code scheme and file columns are those of its documentation.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from gridwire.core.errors import GridwireError
from gridwire.grid.importers.wiring import feeder_names, natural_key, neighbours, reached
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint, check

DEMO_CODES: Final = tuple(
    f"1-LV-{kind}--0-sw" for kind in ("rural1", "rural2", "rural3", "semiurb4", "semiurb5", "urban6")
)
"""The six low-voltage grids of SimBench, as of today (scenario 0)."""

_SUBNET_OF_KIND: Final = {
    "rural1": "LV1.101", "rural2": "LV2.101", "rural3": "LV3.101",
    "semiurb4": "LV4.101", "semiurb5": "LV5.201", "urban6": "LV6.201",
}  # fmt: skip
_CODE = re.compile(r"1-LV-(?P<kind>[a-z]+\d)--(?P<scenario>[012])-(?:sw|no_sw)\Z")
_SUBNET = re.compile(r"LV\d\.\d{3}\Z")


class SimbenchUnavailable(GridwireError):
    """The SimBench files are not there, or what was asked for is not in them; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a usage point's energy comes from: a profile's column and the power it is scaled with.

    Args:
        profile: name in `LoadProfile.csv` (`<profile>_pload`) or, for a generator, in `RESProfile.csv`.
        power_kw: the profile's value 1 stands for this power.
    """

    profile: str
    power_kw: float
    generator: bool


@dataclass(frozen=True, slots=True)
class SimbenchGrids:
    """An imported network, and for each of its usage points, in order, the source of its energy."""

    network: Network
    sources: tuple[Source, ...]
    folder: Path


def simbench_folder(scenario: int = 0) -> Path:
    """The folder of CSV files inside the installed package.

    Raises:
        SimbenchUnavailable: the package is not installed.
    """
    spec = importlib.util.find_spec("simbench")  # found, not imported: pandas and pandapower take seconds
    if spec is None or spec.origin is None:
        raise SimbenchUnavailable("the package simbench is not installed: pip install 'gridwire[demo]'")
    folder = Path(spec.origin).parent / "networks" / f"1-complete_data-mixed-all-{scenario}-sw"
    if not folder.is_dir():
        raise SimbenchUnavailable(f"the installed simbench has no folder {folder.name}")
    return folder


def import_simbench(
    grids: str | Sequence[str], *, name: str = "SimBench", folder: str | Path | None = None
) -> SimbenchGrids:
    """Read low-voltage grids as one utility.

    Args:
        grids: SimBench codes such as `1-LV-rural1--0-sw`, or subnets such as `LV1.101`; one or several.
        folder: SimBench CSV files elsewhere than in the installed package.

    Raises:
        SimbenchUnavailable: no such files or no such grid.
    """
    wanted = [grids] if isinstance(grids, str) else list(grids)
    subnets, scenario = _subnets(wanted)
    where = Path(folder) if folder is not None else simbench_folder(scenario)
    tables = _Tables(where, subnets)
    transformers: list[Transformer] = []
    feeders: list[Feeder] = []
    units: list[UsagePoint] = []
    sources: list[Source] = []
    for subnet in subnets:
        grid = _grid(subnet, tables)
        transformers += grid.transformers
        feeders += grid.feeders
        units += grid.units
        sources += grid.sources
    network = Network(name=name, transformers=tuple(transformers), feeders=tuple(feeders), usage_points=tuple(units))
    check(network)
    return SimbenchGrids(network, tuple(sources), where)


def _subnets(wanted: Sequence[str]) -> tuple[list[str], int]:
    subnets: list[str] = []
    scenarios: set[int] = set()
    for text in wanted:
        code = _CODE.match(text)
        if code and code["kind"] in _SUBNET_OF_KIND:
            subnets.append(_SUBNET_OF_KIND[code["kind"]])
            scenarios.add(int(code["scenario"]))
        elif _SUBNET.match(text):
            subnets.append(text)
        else:
            raise SimbenchUnavailable(
                f"{text!r} is no low-voltage grid: use a code such as 1-LV-rural1--0-sw or a subnet such as LV1.101"
            )
    if len(scenarios) > 1:
        raise SimbenchUnavailable("grids of different scenarios do not form one utility")
    if len(set(subnets)) != len(subnets):
        raise SimbenchUnavailable("a grid is named twice")
    return subnets, scenarios.pop() if scenarios else 0


class _Tables:
    """The rows of the wanted subnets, by table and subnet."""

    _COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
        "Transformer": ("id", "nodeHV", "nodeLV", "type", "subnet"),
        "Line": ("id", "nodeA", "nodeB", "subnet"),
        "Switch": ("id", "nodeA", "nodeB", "cond", "subnet"),
        "Load": ("id", "node", "profile", "pLoad", "subnet"),
        "RES": ("id", "node", "profile", "pRES", "subnet"),
        "Node": ("id", "coordID", "subnet"),
    }

    def __init__(self, folder: Path, subnets: Sequence[str]) -> None:
        self._rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for table, columns in self._COLUMNS.items():
            rows = read_csv(folder / f"{table}.csv", columns)
            kept = rows.filter(pc.is_in(rows["subnet"], value_set=pa.array(subnets)))
            for row in kept.to_pylist():
                self._rows.setdefault((table, row["subnet"]), []).append(row)
        types = read_csv(folder / "TransformerType.csv", ("id", "sR"))
        places = read_csv(folder / "Coordinates.csv", ("id", "x", "y")).to_pylist()
        self._coordinates = {row["id"]: (float(row["x"]), float(row["y"])) for row in places}
        self.rated_kva = {row["id"]: float(row["sR"]) * 1000 for row in types.to_pylist()}

    def coordinates(self, node: str, subnet: str) -> tuple[float | None, float | None]:
        """Longitude and latitude of a node."""
        of_node = {row["id"]: row["coordID"] for row in self.rows("Node", subnet)}
        return self._coordinates.get(of_node.get(node, ""), (None, None))

    def rows(self, table: str, subnet: str) -> list[dict[str, Any]]:
        return self._rows.get((table, subnet), [])


def read_csv(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read only `columns` of a SimBench file.

    Raises:
        SimbenchUnavailable: the file or a column is missing.
    """
    try:
        return pa_csv.read_csv(
            path,
            parse_options=pa_csv.ParseOptions(delimiter=";"),
            convert_options=pa_csv.ConvertOptions(include_columns=list(columns)),
        )
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise SimbenchUnavailable(f"{path.name} is not a SimBench file: {error}") from None


@dataclass(slots=True)
class _Grid:
    transformers: list[Transformer]
    feeders: list[Feeder]
    units: list[UsagePoint]
    sources: list[Source]


def _grid(subnet: str, tables: _Tables) -> _Grid:
    transformers = tables.rows("Transformer", subnet)
    if len(transformers) != 1:
        raise SimbenchUnavailable(f"subnet {subnet} has {len(transformers)} transformers, one is supported")
    row = transformers[0]
    lon, lat = tables.coordinates(row["nodeLV"], subnet)
    transformer = Transformer(
        id=row["id"],
        rated_kva=tables.rated_kva[row["type"]],
        substation=str(row["nodeHV"]).split(" ")[0],
        lon=lon,
        lat=lat,
    )
    feeder_of_node = _feeders(subnet, transformer.id, row["nodeLV"], tables)
    grid = _Grid([transformer], [], [], [])
    for table, power, expects in (("Load", "pLoad", "import_kwh"), ("RES", "pRES", "export_kwh")):
        for unit in sorted(tables.rows(table, subnet), key=lambda unit: natural_key(unit["id"])):
            feeder = feeder_of_node.get(unit["node"])
            if feeder is None:
                raise SimbenchUnavailable(f"{unit['id']} is not connected to transformer {transformer.id}")
            grid.units.append(UsagePoint(id=unit["id"], transformer=transformer.id, feeder=feeder, expects=(expects,)))
            grid.sources.append(Source(unit["profile"], float(unit[power]) * 1000, table == "RES"))
    used = {unit.feeder for unit in grid.units}
    grid.feeders = [Feeder(id=id, transformer=transformer.id) for id in sorted(used, key=natural_key)]
    return grid


def _feeders(subnet: str, transformer: str, low_side: str, tables: _Tables) -> dict[str, str]:
    """The feeder of every node the transformer feeds; names stay when nothing changes."""
    switches = [(row["nodeA"], row["nodeB"]) for row in tables.rows("Switch", subnet) if row["cond"] == 1]
    lines = sorted(tables.rows("Line", subnet), key=lambda row: natural_key(row["id"]))
    edges = [(row["nodeA"], row["nodeB"]) for row in lines]
    busbar = reached([low_side], neighbours(switches))
    return feeder_names(subnet, busbar, edges, neighbours([*switches, *edges]), busbar_id=transformer)
