"""The network as one tree, and which of its devices best explain what single usage points say.

    usage point -> feeder below a transformer -> transformer -> feeder above transformers -> substation

A level that a model does not have is left out of a path. A feeder that shares a transformer with another feeder is no
device of its own: opening it would not darken all that hangs under the transformer.

**Method**: every usage point has a log likelihood ratio, out against supplied. A device out explains all below it for
one prior; the devices chosen are those of the most likely explanation, found from the leaves up (maximum a posteriori
over a tree, max-product of independent leaves).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.network import NetworkIndex

LEVELS: Final = ("usage_point", "feeder", "transformer", "feeder", "substation")
"""Kinds of devices from the leaves up; the first feeder lies below a transformer, the second above several."""

UNIT, LOW_FEEDER, TRANSFORMER, HIGH_FEEDER, SUBSTATION = range(5)
NONE: Final = -1

_Nodes = NDArray[np.int32]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Device:
    """A chosen device. `score`: log likelihood ratio of everything below it, its prior included."""

    node: int
    score: float


class Tree:
    """Nodes are numbered usage points first (as in the model), then level by level.

    **Shape**: `parent` `int32[n_nodes]`, -1 at the top; `level` `int8[n_nodes]`.
    """

    def __init__(self, index: NetworkIndex) -> None:
        n = len(index.unit_ids)
        paths, ids = _paths(index)
        counts = [n, *(len(names) for names in ids)]
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self.units = n
        self.level = np.repeat(np.arange(len(LEVELS)), counts).astype(np.int8)
        self._ids = (index.unit_ids, *ids)
        self._first = first.tolist()
        self.parent = np.full(int(first[-1]), NONE, np.int32)
        below: _Nodes = np.arange(n, dtype=np.int32)
        for level, path in enumerate(paths, start=1):
            has = path >= 0
            nodes = (path[has] + first[level]).astype(np.int32)
            self.parent[below[has]] = nodes
            below = below.copy()
            below[has] = nodes
        self._order = np.lexsort(paths).astype(np.int32)
        self._bounds = self._ranges(paths, first)

    def _ranges(self, paths: list[_Nodes], first: NDArray[np.int32]) -> NDArray[np.int32]:
        """Where the usage points of each node lie in `_order`. **Shape**: `int32[n_nodes, 2]`."""
        bounds = np.zeros((len(self.level), 2), np.int32)
        at = np.empty(self.units, np.int32)
        at[self._order] = np.arange(self.units, dtype=np.int32)
        bounds[: self.units, 0], bounds[: self.units, 1] = at, at + 1
        for level, path in enumerate(paths, start=1):
            has = path >= 0
            nodes = path[has] + first[level]
            bounds[first[level] : first[level + 1], 0] = self.units
            np.minimum.at(bounds[:, 0], nodes, at[has])
            np.maximum.at(bounds[:, 1], nodes, at[has] + 1)
        return bounds

    def below(self, node: int) -> _Nodes:
        """Usage points under a node."""
        begin, end = self._bounds[node].tolist()
        return self._order[begin:end]

    def count(self, node: int) -> int:
        """Number of usage points under a node."""
        begin, end = self._bounds[node].tolist()
        return int(end - begin)

    def contains(self, node: int, other: int) -> bool:
        """Whether `other` is the node or lies below it."""
        while other != NONE and other != node:
            other = int(self.parent[other])
        return other == node

    def kind(self, node: int) -> str:
        """What a node is, as a finding names it."""
        return LEVELS[int(self.level[node])]

    def id(self, node: int) -> str:
        """Its id in the model."""
        level = int(self.level[node])
        found: str = self._ids[level][node - self._first[level]]
        return found

    def node(self, kind: str, id: str) -> int:
        """The node of a kind and id, -1 when there is none. Slow."""
        for level, name in enumerate(LEVELS):
            if name == kind and id in self._ids[level]:
                return int(self._first[level]) + self._ids[level].index(id)
        return NONE

    def spans(self, units: _Nodes, share: float) -> list[int]:
        """Separate parts of the network to look for devices in: what these usage points are close together in.

        Of each its highest ancestor of which at least two, and at least a `share` of all below it, are among them;
        where there is none, the usage point itself.
        """
        tops, at = units.copy(), units
        rows = np.arange(len(units))
        while len(rows):
            at = self.parent[at]
            rows, at = rows[at >= 0], at[at >= 0]
            nodes, inverse, counts = np.unique(at, return_inverse=True, return_counts=True)
            sizes = self._bounds[nodes, 1] - self._bounds[nodes, 0]
            dense = ((counts >= 2) & (counts >= share * sizes))[inverse]
            tops[rows[dense]] = at[dense]
        found: list[int] = []
        end = 0
        nodes = np.unique(tops)
        for node in nodes[np.lexsort((-self._bounds[nodes, 1], self._bounds[nodes, 0]))].tolist():
            if self._bounds[node, 1] > end:
                found.append(node)
                end = int(self._bounds[node, 1])
        return found

    def explain(self, node: int, llr: _Floats, priors: _Floats, bonus: Mapping[int, float]) -> list[Device]:
        """The devices under `node` (itself included) that best explain the evidence.

        Args:
            llr: `[n]`, of each usage point of `below(node)`. priors: of each level, log odds of a device being out.
            bonus: what is added to the prior of single nodes.
        """
        units = self.below(node)
        waiting: list[list[tuple[_Nodes, _Floats, _Floats]]] = [[] for _ in LEVELS]
        waiting[UNIT].append((units, llr, np.zeros(len(units))))
        chosen: dict[int, float] = {}
        for level, parts in enumerate(waiting):
            if not parts:
                continue
            nodes, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
            sums = np.bincount(inverse, np.concatenate([part[1] for part in parts]))
            below = np.bincount(inverse, np.concatenate([part[2] for part in parts]))
            own = sums + priors[level]
            for known, more in bonus.items():
                place = int(np.searchsorted(nodes, known))
                if place < len(nodes) and nodes[place] == known:
                    own[place] += more
            pick = own > np.maximum(below, 0.0)
            chosen |= dict(zip(nodes[pick].tolist(), own[pick].tolist(), strict=True))
            best = np.where(pick, own, below)
            up = np.where(nodes == node, NONE, self.parent[nodes])
            for above in np.unique(self.level[up[up >= 0]]).tolist():
                rows = (up >= 0) & (self.level[up] == above)
                waiting[above].append((up[rows], sums[rows], best[rows]))
        return [Device(each, score) for each, score in chosen.items() if not self._covered(each, node, chosen)]

    def _covered(self, node: int, top: int, chosen: Mapping[int, float]) -> bool:
        while node != top:
            node = int(self.parent[node])
            if node == NONE:
                return False
            if node in chosen:
                return True
        return False


def _paths(index: NetworkIndex) -> tuple[list[_Nodes], list[tuple[str, ...]]]:
    """Of each usage point its position in every level above it (-1: none), and the ids of the levels."""
    low = index.transformer_of_feeder >= 0
    low_number = np.where(low, np.cumsum(low) - 1, NONE).astype(np.int32)
    transformers = len(index.transformer_ids)
    above = _feeder_above(index, low, transformers)
    used = np.unique(above[above >= 0])
    high_number = np.full(len(index.feeder_ids) + 1, NONE, np.int32)
    high_number[used] = np.arange(len(used))
    substations = sorted({name for name in index.substation_of_transformer if name})
    number = {name: place for place, name in enumerate(substations)}
    of_transformer = np.array([number.get(name, NONE) for name in index.substation_of_transformer], np.int32)
    of_transformer = _one_substation(above, of_transformer)
    t = index.transformer_of_unit
    paths = [low_number[index.feeder_of_unit], t.astype(np.int32), high_number[above[t]], of_transformer[t]]
    low_ids = tuple(id for id, is_low in zip(index.feeder_ids, low.tolist(), strict=True) if is_low)
    return paths, [
        low_ids,
        index.transformer_ids,
        tuple(index.feeder_ids[f] for f in used.tolist()),
        tuple(substations),
    ]


def _feeder_above(index: NetworkIndex, low: NDArray[np.bool_], transformers: int) -> _Nodes:
    """The one feeder above each transformer, -1 when there is none or several."""
    high = ~low[index.feeder_of_unit]
    pairs = np.unique(np.stack([index.transformer_of_unit[high], index.feeder_of_unit[high]], axis=1), axis=0).astype(
        np.int32
    )
    counts = np.bincount(pairs[:, 0], minlength=transformers)
    shared = np.unique(pairs[counts[pairs[:, 0]] > 1, 1])
    clean = pairs[~np.isin(pairs[:, 1], shared)]
    above = np.full(transformers, NONE, np.int32)
    above[clean[:, 0]] = clean[:, 1]
    return above


def _one_substation(above: _Nodes, of_transformer: _Nodes) -> _Nodes:
    """A feeder whose transformers lie under several substations hangs under none of them."""
    out = of_transformer.copy()
    for feeder in np.unique(above[above >= 0]).tolist():
        mine = above == feeder
        if len(np.unique(of_transformer[mine])) > 1:
            out[mine] = NONE
    return out
