"""What the VEE stage tells: one JSON object for an interval of a channel, and estimates as readings.

    {"usage_point":"U1","reading_type":"import_kwh","ts_end":"2026-01-01T00:15:00Z","interval_s":900,
     "failed":["missing_quantity"],"quality":"3.6.13","estimated_by":"interpolation","estimate_kwh":0.21,"model":0}

Of several events of a usage point, reading type and `ts_end` the newest holds; an empty `failed` takes earlier verdicts
back. `quality` is the code of the first rule that failed. `value_kwh` is what was measured. A rule about a day stands
on its last interval. `model` counts network models: a newer one judges anew.

The estimate itself is a reading of the hub `readings` with source `gridwire.vee`, the rule's quality code and the flag
`estimated`, keyed as the readings it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.network import NetworkIndex
from gridwire.grid.reading import DERIVED_QUALITY, ESTIMATED_FLAG, TAKEN_BACK, Reading, reading_json, rfc3339
from gridwire.grid.reading_types import BY_ID, Accumulation
from gridwire.grid.vee.rules import ESTIMATION, VALIDATION
from gridwire.grid.vee.state import DERIVED, Changes, Channels

VERDICTS_HUB: Final = hubs.VEE
"""The hub of verdicts."""

SOURCE: Final = "gridwire.vee"
"""Source of readings that this stage makes."""

_WATT_HOUR = -3


class Verdict(msgspec.Struct, kw_only=True, omit_defaults=True):
    """See the module."""

    usage_point: str
    reading_type: str
    ts_end: str
    interval_s: int
    failed: list[str]
    quality: str = ""
    value_kwh: float | None = None
    estimated_by: str = ""
    estimate_kwh: float | None = None
    model: int


class VeeWriter:
    """Writes what changed, for one network."""

    def __init__(self, index: NetworkIndex, channels: Channels, generation: int) -> None:
        self._ids, self._transformers = index.unit_ids, index.transformer_ids
        self._channels = channels
        self._interval_s = index.interval_s
        self._generation = generation
        self._encode = msgspec.json.Encoder().encode
        self._names: dict[int, tuple[list[str], str]] = {}

    def verdicts(self, changes: Changes, now_ms: int) -> Iterator[Event]:
        """One event a change, in their order."""
        known = ~np.isnan(changes.values)
        points = self._channels.points[changes.channels].tolist()
        types = self._channels.types[changes.channels].tolist()
        transformers = self._channels.transformers[changes.channels].tolist()
        for row, (point, type) in enumerate(zip(points, types, strict=True)):
            failed, quality = self._failed(int(changes.failed[row]))
            estimate, method = int(changes.estimates[row]), int(changes.methods[row])
            verdict = Verdict(
                usage_point=self._ids[point], reading_type=BY_ID[type].alias, ts_end=self._ts_end(changes, row),
                interval_s=self._length(type), failed=failed, quality=quality,
                value_kwh=float(changes.values[row]) if known[row] else None,
                estimated_by="" if estimate < 0 else ("registers" if method == DERIVED else ESTIMATION[method].name),
                estimate_kwh=None if estimate < 0 else estimate / 1000, model=self._generation,
            )  # fmt: skip
            yield Event(self._encode(verdict), self._transformers[transformers[row]].encode(), (), now_ms)

    def readings(self, changes: Changes, now_ms: int) -> Iterator[tuple[int, Event]]:
        """(row, reading) of every estimate that is new or taken back."""
        for row in np.flatnonzero(changes.sent | changes.taken_back).tolist():
            channel, method = int(changes.channels[row]), int(changes.methods[row])
            sent = bool(changes.sent[row])
            derived = sent and method == DERIVED
            quality = DERIVED_QUALITY if derived else ESTIMATION[method].quality if sent else TAKEN_BACK
            point, type = int(self._channels.points[channel]), int(self._channels.types[channel])
            reading = Reading(
                ts_end_us=int(changes.slots[row]) * self._interval_s * 1_000_000,
                reading_type=type,
                value=int(changes.estimates[row]) if sent else 0,
                scale=_WATT_HOUR,
                interval_s=self._length(type),
                usage_point=self._ids[point],
                quality=quality,
                source=SOURCE,
                flags=0 if derived else ESTIMATED_FLAG,
            )
            key = self._transformers[int(self._channels.transformers[channel])]
            yield row, Event(reading_json(reading), key.encode(), (), now_ms)

    def _failed(self, mask: int) -> tuple[list[str], str]:
        known = self._names.get(mask)
        if known is None:
            rules = [rule for rule in VALIDATION if mask >> rule.bit & 1]
            known = self._names[mask] = ([rule.name for rule in rules], rules[0].quality if rules else "")
        return known

    def _length(self, type: int) -> int:
        return 0 if BY_ID[type].accumulation is Accumulation.REGISTER else self._interval_s

    def _ts_end(self, changes: Changes, row: int) -> str:
        return rfc3339(int(changes.slots[row]) * self._interval_s * 1_000_000)
