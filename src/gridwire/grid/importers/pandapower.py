"""Networks that pandapower saved as JSON (`pandapower.to_json`), read without pandapower.

Buses are nodes; lines in service and closed bus-bus switches join them; an open switch at a line or transformer takes
it out. Loads are usage points that import, static generators such that export. A three-winding transformer counts as
one transformer a low side.

Source: pandapower 3.5's element tables, "Datastructure and elements" of its documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from gridwire.grid.importers.wiring import Tap, Winding, Wiring, unique_names
from gridwire.grid.network import InvalidNetwork, Network

_NEEDED: Final = {
    "bus": ("in_service",),
    "line": ("from_bus", "to_bus", "in_service"),
    "switch": ("bus", "element", "et", "closed"),
    "trafo": ("hv_bus", "lv_bus", "sn_mva", "in_service"),
    "load": ("bus", "in_service"),
}
_OPTIONAL: Final = {
    "trafo3w": ("hv_bus", "mv_bus", "lv_bus", "sn_mv_mva", "sn_lv_mva", "in_service"),
    "sgen": ("bus", "in_service"),
}

_Row = dict[str, Any]


def read(data: bytes, name: str = "") -> Network:
    """The network of a file. Raises InvalidNetwork: it is no such file, or contradicts itself."""
    tables = _Tables(data)
    return _wiring(tables).network(name or tables.name or "pandapower")


class _Tables:
    """The element tables, each row with its `index` and its `name`."""

    def __init__(self, data: bytes) -> None:
        try:
            document = orjson.loads(data)
            content = document["_object"]
            assert document["_class"] == "pandapowerNet"
        except (orjson.JSONDecodeError, KeyError, TypeError, AssertionError):
            raise InvalidNetwork("not a network that pandapower saved as JSON") from None
        self.name = content.get("name") if isinstance(content.get("name"), str) else ""
        self._rows = {table: _rows(content, table, columns) for table, columns in (_NEEDED | _OPTIONAL).items()}

    def live(self, table: str) -> Iterator[_Row]:
        """Rows of a table that are in service."""
        return (row for row in self._rows[table] if row["in_service"])

    def all(self, table: str) -> list[_Row]:
        return self._rows[table]


def _rows(content: _Row, table: str, needed: tuple[str, ...]) -> list[_Row]:
    frame = content.get(table)
    if frame is None and table in _OPTIONAL:
        return []
    try:
        split = frame["_object"]  # type: ignore[index]
        split = orjson.loads(split) if isinstance(split, str) else split
        rows = [
            {"index": index, "name": "", **dict(zip(split["columns"], values, strict=True))}
            for index, values in zip(split["index"], split["data"], strict=True)
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise InvalidNetwork(f"table {table!r} is missing or not as pandapower saves it") from None
    missing = [column for column in needed if rows and column not in rows[0]]
    if missing:
        raise InvalidNetwork(f"table {table!r} has no column {missing[0]!r}")
    for row in rows:
        row["name"] = row["name"] if isinstance(row["name"], str) else ""
    return rows


def _wiring(tables: _Tables) -> Wiring:
    wiring = Wiring()
    buses = {str(row["index"]) for row in tables.live("bus")}
    opened = {(row["et"], row["element"]) for row in tables.all("switch") if row["et"] != "b" and not row["closed"]}
    for row in tables.live("line"):
        edge = str(row["from_bus"]), str(row["to_bus"])
        if ("l", row["index"]) not in opened and buses.issuperset(edge):
            wiring.lines.append(edge)
    for row in tables.all("switch"):
        edge = str(row["bus"]), str(row["element"])
        if row["et"] == "b" and row["closed"] and buses.issuperset(edge):
            wiring.couplings.append(edge)
    wiring.windings += _windings(tables, opened)
    for table, word, expects in (("load", "Load", "import_kwh"), ("sgen", "Generator", "export_kwh")):
        rows = [row for row in tables.live(table) if str(row["bus"]) in buses]
        names = unique_names((f"{word} {row['index']}", row["name"]) for row in rows)
        for row, id in zip(rows, names.values(), strict=True):
            wiring.taps.append(Tap(id, str(row["bus"]), (expects,)))
    return wiring


def _windings(tables: _Tables, opened: set[tuple[str, int]]) -> Iterator[Winding]:
    rows = [row for row in tables.live("trafo") if ("t", row["index"]) not in opened]
    names = unique_names((f"Transformer {row['index']}", row["name"]) for row in rows)
    for row, id in zip(rows, names.values(), strict=True):
        yield Winding(id, str(row["hv_bus"]), str(row["lv_bus"]), _kva(row, "sn_mva") * float(row.get("parallel") or 1))
    rows = [row for row in tables.live("trafo3w") if ("t3", row["index"]) not in opened]
    names = unique_names((f"Transformer3W {row['index']}", row["name"]) for row in rows)
    for row, id in zip(rows, names.values(), strict=True):
        for side in ("mv", "lv"):
            rated = _kva(row, f"sn_{side}_mva")
            yield Winding(f"{id} {side.upper()}", str(row["hv_bus"]), str(row[f"{side}_bus"]), rated)


def _kva(row: _Row, column: str) -> float:
    try:
        return round(float(row[column]) * 1000, 6)
    except (TypeError, ValueError):
        return 0.0
