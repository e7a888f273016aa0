"""Positions of groups, from offsets of the source to those of the destination.

A group at source offset P reads on at the first event with an offset of P or more; the position at the destination is
where that very event lies. If there is none, it is after the last event that was copied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from gridwire.broker.port import Bounds, Place
from gridwire.move.journal import Step


def translated(
    steps: Iterable[tuple[Place, Step]], wanted: Mapping[Place, Collection[int]], bounds: Mapping[Place, Bounds]
) -> dict[tuple[Place, int], int]:
    """Offsets at the destination by place and source offset, in one pass over the steps.

    Args:
        bounds: of the destination, for partitions of which nothing was copied.
    """
    waiting = {place: sorted(set(offsets)) for place, offsets in wanted.items()}
    after = {place: bounds[place].start for place in wanted}
    found: dict[tuple[Place, int], int] = {}
    for place, step in steps:
        offsets = waiting.get(place)
        if offsets is None:
            continue
        for source, target, count in step.runs:
            while offsets and offsets[0] < source + count:
                offset = offsets.pop(0)
                found[place, offset] = target + max(0, offset - source)
            after[place] = target + count
    for place, offsets in waiting.items():
        for offset in offsets:
            found[place, offset] = after[place]
    return found


def by_place(positions: Iterable[tuple[Place, int]]) -> dict[Place, set[int]]:
    """Offsets asked for, by place."""
    found: dict[Place, set[int]] = defaultdict(set)
    for place, offset in positions:
        found[place].add(offset)
    return found
