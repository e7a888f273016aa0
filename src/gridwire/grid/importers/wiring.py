"""From wires to a network model: which transformer feeds a usage point, and over which feeder.

A usage point hangs on the transformer whose low side its node is joined to without passing another transformer; of
several in parallel it is the nearest. The feeders of a transformer are what is left in one piece when its busbar, all
nodes that closed switches join to its low side, is taken away:

    transformer -- busbar -+- line - node - line - node ...    Feeder 1
                           +- line - node                      Feeder 2
                           +- load                             busbar

A source that names feeders itself (CIM) keeps its names; such a feeder may feed several transformers.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gridwire.grid.network import Feeder, InvalidNetwork, Network, Transformer, UsagePoint, check

PROBLEMS_SHOWN: Final = 20
"""Elements an error names before it counts the rest."""

Edge = tuple[str, str]
"""Two nodes that are joined."""


@dataclass(frozen=True, slots=True)
class Winding:
    """A transformer between two nodes. `substation`: "" means that of whatever feeds its high side."""

    id: str
    high: str
    low: str
    rated_kva: float = 0.0
    substation: str = ""


@dataclass(frozen=True, slots=True)
class Tap:
    """A usage point at a node. `feeder`: the source's own name of it, "" when the wires say."""

    id: str
    node: str
    expects: tuple[str, ...] = ("import_kwh",)
    feeder: str = ""


@dataclass(slots=True)
class Wiring:
    """Nodes and what joins them. `couplings`: closed switches; `lines`: everything else that conducts."""

    lines: list[Edge] = field(default_factory=list)
    couplings: list[Edge] = field(default_factory=list)
    windings: list[Winding] = field(default_factory=list)
    taps: list[Tap] = field(default_factory=list)

    def network(self, name: str, interval_s: int = 900) -> Network:
        """The network model. Raises InvalidNetwork: usage points that nothing feeds, or ids that come twice."""
        model = _Fed(self).network(name, interval_s)
        check(model)
        return model


class _Fed:
    """Who is fed by whom."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._graph = neighbours([*wiring.lines, *wiring.couplings])
        self._switched = neighbours(wiring.couplings)
        self._windings = sorted(wiring.windings, key=lambda winding: natural_key(winding.id))
        self._winding_of = self._nearest()
        self._feeders: dict[str, dict[str, str]] = {}

    def _nearest(self) -> dict[str, Winding]:
        """The nearest winding of every node that one feeds: all low sides spread at the same speed."""
        found: dict[str, Winding] = {}
        waiting: deque[str] = deque()
        for winding in self._windings:
            if winding.low not in found:
                found[winding.low] = winding
                waiting.append(winding.low)
        while waiting:
            node = waiting.popleft()
            for other in self._graph.get(node, ()):
                if other not in found:
                    found[other] = found[node]
                    waiting.append(other)
        return found

    def network(self, name: str, interval_s: int) -> Network:
        taps = sorted(self._wiring.taps, key=lambda tap: natural_key(tap.id))
        lost = [tap.id for tap in taps if tap.node not in self._winding_of]
        if lost:
            raise InvalidNetwork(f"no transformer feeds {listed(lost)}")
        points = [self._point(tap) for tap in taps]
        used = {point.transformer for point in points}
        own = {tap.feeder for tap in taps if tap.feeder}
        above = {point.feeder: point.transformer for point in points if point.feeder not in own}
        feeders = [Feeder(id=id) for id in own] + [Feeder(id=id, transformer=over) for id, over in above.items()]
        return Network(
            name=name,
            interval_s=interval_s,
            transformers=tuple(
                Transformer(id=winding.id, rated_kva=winding.rated_kva, substation=self._substation(winding))
                for winding in self._windings
                if winding.id in used
            ),
            feeders=tuple(sorted(feeders, key=lambda feeder: natural_key(feeder.id))),
            usage_points=tuple(points),
        )

    def _point(self, tap: Tap) -> UsagePoint:
        winding = self._winding_of[tap.node]
        feeder = tap.feeder or self._feeders_of(winding)[tap.node]
        return UsagePoint(id=tap.id, transformer=winding.id, feeder=feeder, expects=tap.expects)

    def _substation(self, winding: Winding) -> str:
        """Its own; else the one its high side hangs on, which is named after its transformer when it has no name."""
        if winding.substation:
            return winding.substation
        above = self._winding_of.get(winding.high)
        return "" if above is None or above.id == winding.id else above.substation or above.id

    def _feeders_of(self, winding: Winding) -> dict[str, str]:
        if winding.id not in self._feeders:
            lines = ((a, b) for a, b in self._wiring.lines if self._winding_of.get(a) == winding)
            self._feeders[winding.id] = feeder_names(
                winding.id, reached([winding.low], self._switched), lines, self._graph, busbar_id=winding.id
            )
        return self._feeders[winding.id]


def feeder_names(
    prefix: str, busbar: Iterable[str], lines: Iterable[Edge], graph: Mapping[str, Sequence[str]], *, busbar_id: str
) -> dict[str, str]:
    """The feeder of every node: `<prefix> Feeder <n>` in the order of the lines, on the busbar `<busbar_id> busbar`."""
    inside = frozenset(busbar)
    found = dict.fromkeys(inside, f"{busbar_id} busbar")
    number = 0
    for a, b in lines:
        for inner, outer in ((a, b), (b, a)):
            if inner in inside and outer not in found:
                number += 1
                found |= dict.fromkeys(reached([outer], graph, inside), f"{prefix} Feeder {number}")
    return found


def neighbours(edges: Iterable[Edge]) -> dict[str, list[str]]:
    """The nodes next to each node."""
    graph: dict[str, list[str]] = {}
    for a, b in edges:
        graph.setdefault(a, []).append(b)
        graph.setdefault(b, []).append(a)
    return graph


def reached(start: Sequence[str], graph: Mapping[str, Sequence[str]], without: Iterable[str] = ()) -> frozenset[str]:
    """All nodes that a way leads to from `start` past those of `without`."""
    blocked = frozenset(without)
    seen = set(start)
    waiting = list(start)
    while waiting:
        for node in graph.get(waiting.pop(), ()):
            if node not in seen and node not in blocked:
                seen.add(node)
                waiting.append(node)
    return frozenset(seen)


def unique_names(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Ids for (key, name) pairs: the name where it is there and its own, else the name with its key."""
    found = list(pairs)
    uses = Counter(name for _, name in found)
    return {key: name if name and uses[name] == 1 else f"{name} {key}".strip() for key, name in found}


def listed(ids: Sequence[str]) -> str:
    """Ids for an error: the first of them, and how many more there are."""
    shown = ", ".join(repr(id) for id in ids[:PROBLEMS_SHOWN])
    return shown if len(ids) <= PROBLEMS_SHOWN else f"{shown} and {len(ids) - PROBLEMS_SHOWN} more"


def natural_key(text: str) -> tuple[Any, ...]:
    """Sort key under which `Load 2` comes before `Load 10`."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text))
