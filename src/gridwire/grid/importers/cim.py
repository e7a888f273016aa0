"""Networks as CIM XML (IEC 61970-501 RDF): distribution models of CIM 17/100 and CGMES equipment files, one or several.

    UsagePoint.Equipments -> EnergyConsumer -> Terminal -> ConnectivityNode -> lines, closed switches -> transformer end

Where a model has no usage points its consumers and generators are the usage points. A regulator, a transformer with the
same voltage on all sides, counts as a line. The feeder is the equipment's container where that is a Feeder, else what
the wires say. A later file may add to what an earlier one said of an element (CGMES: the state of switches).

Rated powers below 1,000 are taken for MVA, as CGMES has them, others for VA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from gridwire.grid.formats.base import CHUNK_BYTES
from gridwire.grid.formats.xmlstream import Element, elements
from gridwire.grid.importers.wiring import Tap, Winding, Wiring, listed, unique_names
from gridwire.grid.network import InvalidNetwork, Network

OBJECTS_MAX: Final = 50_000_000
"""Elements of a model; at some 400 bytes each more than a machine has memory for."""

_SWITCHES: Final = frozenset(
    {"Switch", "Breaker", "Disconnector", "Fuse", "Jumper", "LoadBreakSwitch", "Recloser", "Sectionaliser",
     "DisconnectingCircuitBreaker", "Cut", "ProtectedSwitch"}
)  # fmt: skip
_BRANCHES: Final = frozenset({"ACLineSegment", "SeriesCompensator", "EquivalentBranch", "Clamp"})
_CONSUMERS: Final = frozenset({"EnergyConsumer", "ConformLoad", "NonConformLoad", "StationSupply"})
_GENERATORS: Final = frozenset(
    {"PowerElectronicsConnection", "SynchronousMachine", "AsynchronousMachine", "EquivalentInjection"}
)
_WANTED: Final = (
    _SWITCHES | _BRANCHES | _CONSUMERS | _GENERATORS
    | {"Substation", "VoltageLevel", "Bay", "Feeder", "Terminal", "BaseVoltage", "PowerTransformer",
       "PowerTransformerEnd", "TransformerTank", "TransformerTankEnd", "UsagePoint"}
)  # fmt: skip
_VOLT_AMPERES_FROM: Final = 1_000.0


@dataclass(slots=True)
class _Thing:
    """An element: its class and what it says, by the property's name without its class; references lead to ids."""

    kind: str
    says: dict[str, str] = field(default_factory=dict)
    refers: dict[str, list[str]] = field(default_factory=dict)

    def one(self, name: str) -> str:
        """The element a property refers to, "" when there is none."""
        return self.refers.get(name, [""])[0]


def read(files: Iterable[bytes], name: str = "") -> Network:
    """The network of one or more files. Raises InvalidNetwork."""
    model = _Model()
    for data in files:
        model.learn(data)
    return model.wiring().network(name or model.name or "CIM")


class _Model:
    """All elements of a model by id."""

    def __init__(self) -> None:
        self._things: dict[str, _Thing] = {}
        self.name = ""

    def learn(self, data: bytes) -> None:
        """Add a file. Raises InvalidNetwork: it is not well-formed, or declares entities."""
        pieces = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
        for (_, position, _, reason), element in elements(pieces, _WANTED):
            if element is None:
                raise InvalidNetwork(f"byte {position}: {reason}")
            id = _reference(element, "ID", "about")
            if not id:
                raise InvalidNetwork(f"byte {position}: a {element.name} without an id")
            if len(self._things) > OBJECTS_MAX:
                raise InvalidNetwork(f"more than {OBJECTS_MAX} elements")
            self._add(id, element)

    def _add(self, id: str, element: Element) -> None:
        thing = self._things.setdefault(id, _Thing(element.name))
        for child in element.children:
            name = child.name.rpartition(".")[2]
            target = _reference(child, "resource")
            if target:
                thing.refers.setdefault(name, []).append(target)
            elif child.text.strip():
                thing.says[name] = child.text.strip()
        if element.name == "Feeder" and not self.name:
            self.name = thing.says.get("name", "")

    def _of(self, *kinds: str) -> Iterator[tuple[str, _Thing]]:
        return ((id, thing) for id, thing in self._things.items() if thing.kind in kinds)

    # -- wires --------------------------------------------------------------------------------------------------

    def wiring(self) -> Wiring:
        """What is joined to what. Raises InvalidNetwork: it has no terminals, or equipment without a node."""
        nodes = self._nodes()
        wiring = Wiring()
        for id, thing in self._things.items():
            at = list(dict.fromkeys(nodes.get(id, ())))
            if thing.kind in _BRANCHES:
                wiring.lines += pairwise(at)
            elif thing.kind in _SWITCHES and not _opened(thing):
                wiring.couplings += pairwise(at)
        self._add_transformers(wiring)
        wiring.taps += self._taps(nodes)
        return wiring

    def _nodes(self) -> dict[str, list[str]]:
        """The nodes of each piece of equipment, in the order of its terminals."""
        terminals: dict[str, list[tuple[int, str]]] = {}
        for id, thing in self._of("Terminal"):
            node = self._node(id)
            if node:
                number = _whole(thing.says.get("sequenceNumber", ""))
                terminals.setdefault(thing.one("ConductingEquipment"), []).append((number, node))
        if not terminals:
            raise InvalidNetwork("the model has no terminals at connectivity or topological nodes")
        return {id: [node for _, node in sorted(found)] for id, found in terminals.items()}

    def _node(self, terminal: str) -> str:
        thing = self._things.get(terminal)
        return "" if thing is None else thing.one("ConnectivityNode") or thing.one("TopologicalNode")

    def _add_transformers(self, wiring: Wiring) -> None:
        sides: dict[str, list[_Thing]] = {}
        for _, end in self._of("PowerTransformerEnd", "TransformerTankEnd"):
            tank = self._things.get(end.one("TransformerTank"))
            owner = end.one("PowerTransformer") or (tank.one("PowerTransformer") if tank else "")
            sides.setdefault(owner, []).append(end)
        names = unique_names((id, thing.says.get("name", "")) for id, thing in self._of("PowerTransformer"))
        for id, thing in self._of("PowerTransformer"):
            ends = sorted(sides.get(id, ()), key=lambda end: _whole(end.says.get("endNumber", "")))
            placed = [(self._volts(end), self._node(end.one("Terminal")), end) for end in ends]
            placed = [side for side in placed if side[1]]
            if len({node for _, node, _ in placed}) < 2:
                continue
            high = max(volts for volts, _, _ in placed)
            top = next(node for volts, node, _ in placed if volts == high)
            low = list(dict.fromkeys(node for volts, node, _ in placed if volts < high))
            if not low:
                wiring.lines += ((top, node) for node in dict.fromkeys(node for _, node, _ in placed) if node != top)
            for number, node in enumerate(low):
                side = names[id] if number == 0 else f"{names[id]} ({number + 1})"
                wiring.windings.append(Winding(side, top, node, _rated(ends), self._substation(thing)))

    def _volts(self, end: _Thing) -> float:
        base = self._things.get(end.one("BaseVoltage"))
        return _float(base.says.get("nominalVoltage", "") if base else "") or _float(end.says.get("ratedU", ""))

    # -- places -------------------------------------------------------------------------------------------------

    def _containers(self, thing: _Thing) -> Iterator[tuple[str, _Thing]]:
        """What contains it, from the inside out."""
        for _ in range(8):
            links = ("EquipmentContainer", "VoltageLevel", "Substation", "NormalEnergizingSubstation")
            id = next((thing.one(link) for link in links if thing.one(link)), "")
            if id not in self._things:
                return
            thing = self._things[id]
            yield id, thing

    def _substation(self, thing: _Thing) -> str:
        found = ((id, place) for id, place in self._containers(thing) if place.kind == "Substation")
        return next((place.says.get("name", id) for id, place in found), "")

    def _feeder(self, thing: _Thing, names: dict[str, str]) -> str:
        return next((names[id] for id, place in self._containers(thing) if place.kind == "Feeder"), "")

    def _taps(self, nodes: dict[str, list[str]]) -> Iterator[Tap]:
        metered = {id: thing.refers.get("Equipments", []) for id, thing in self._of("UsagePoint")}
        if not metered:
            ends = [id for id, _ in self._of(*_CONSUMERS, *_GENERATORS)]
            names = unique_names((id, self._things[id].says.get("name", "")) for id in ends)
            metered = {names[id]: [id] for id in ends}
        feeders = unique_names((id, thing.says.get("name", "")) for id, thing in self._of("Feeder"))
        lost: list[str] = []
        for point, equipment in metered.items():
            known = [id for id in equipment if id in self._things and nodes.get(id)]
            if not known:
                lost.append(point)
                continue
            kinds = {self._things[id].kind for id in known}
            expects = (*["import_kwh"] * bool(kinds - _GENERATORS), *["export_kwh"] * bool(kinds & _GENERATORS))
            yield Tap(point, nodes[known[0]][0], expects, self._feeder(self._things[known[0]], feeders))
        if lost:
            raise InvalidNetwork(f"no equipment with a node belongs to {listed(lost)}")


def _reference(element: Element, *names: str) -> str:
    """An rdf attribute without what writers put in front of an id."""
    for name, value in element.attributes.items():
        if name.rpartition(":")[2] in names:
            return value.removeprefix("#").removeprefix("urn:uuid:").removeprefix("_")
    return ""


def _opened(thing: _Thing) -> bool:
    return thing.says.get("open", thing.says.get("normalOpen", "")).lower() == "true"


def _rated(ends: Iterable[_Thing]) -> float:
    """Rated power in kVA, 0 when no end says it."""
    power = max((_float(end.says.get("ratedS", "")) for end in ends), default=0.0)
    return round(power / 1000 if power >= _VOLT_AMPERES_FROM else power * 1000, 6)


def _float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0 <= number < float("inf") else 0.0


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
