"""What one partition of readings knows of a feeder that lies above several transformers.

Where several workers share the partitions, none of them sees all readings of such a feeder. Each tells its part, exact
and whole as of now, and `gridwire.grid.feeder_sums` makes the feeder's facts of the parts:

    {"feeder":"MV7","part":3,"model":12,"slot":1612801,"imported":93100000,"exported":0,"count":13,
     "largest":4200000,"seen":14}

`part` is the partition, `slot` the interval, energies are milliwatt-hours. `estimated` and `estimates` are there where
some of it is estimated. Of several events of a part and slot the one that has seen most readings holds. All parts of a
feeder are in one partition of their hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import Output
from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.placements import Timeline
from gridwire.grid.state import GENERATION_STEP, Facts

PARTS_HUB: Final = hubs.FEEDER_PARTS
"""The hub of parts."""

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**50)]  # a thousand of them still fit into int64


class Part(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """See the module.

    Args:
        model: ordinal of that of its interval. seen: readings accepted, repeats included.
        until: offset of the partition's first reading that it does not know of.
    """

    feeder: str
    part: _Number
    model: _Number
    slot: _Number
    imported: _Number
    exported: _Number
    count: _Number
    largest: _Number
    seen: _Number
    estimated: _Number = 0
    estimates: _Number = 0
    until: _Number = 0


class PartWriter:
    """Writes one partition's parts."""

    def __init__(self, timeline: Timeline, part: int) -> None:
        self._timeline, self._part = timeline, part
        self._ids = timeline.numbering.feeder_ids
        self._encode = msgspec.json.Encoder().encode

    def wide(self, facts: Facts) -> NDArray[np.bool_]:
        """**Shape** `[n]`: whether the feeder of each fact lies above several transformers in the model of its time."""
        found: NDArray[np.bool_] = self._timeline.pick("wide", facts.slots, facts.groups)
        return found

    def outputs(self, facts: Facts, now_ms: int, partitions: int, until: int = 0) -> Iterator[Output]:
        """Parts out of what is known of wide feeders."""
        by_partition: list[list[Event]] = [[] for _ in range(partitions)]
        for group, part in zip(facts.groups.tolist(), self._parts(facts, until), strict=True):
            by_partition[group % partitions].append(Event(self._encode(part), part.feeder.encode(), (), now_ms))
        for partition, events in enumerate(by_partition):
            if events:
                yield Output(PARTS_HUB, partition, events)

    def _parts(self, facts: Facts, until: int) -> Iterator[Part]:
        models = self._timeline.ordinals(facts.slots)
        seen = facts.versions - models * GENERATION_STEP + 1
        columns = (
            facts.groups, models, facts.slots, facts.imported, facts.exported, facts.counts, facts.largest, seen,
            facts.estimated, facts.estimates,
        )  # fmt: skip
        for group, model, slot, imported, exported, count, largest, times, guessed, guesses in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            yield Part(
                feeder=self._ids[group], part=self._part, model=model, slot=slot, imported=imported,
                exported=exported, count=count, largest=largest, seen=times, estimated=guessed, estimates=guesses,
                until=until,
            )  # fmt: skip
