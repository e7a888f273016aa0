"""GET /v1/live: the whole hub once a second, for everybody who watches.

One sampler serves all viewers: it computes a frame a second while there is at least one, and a viewer always gets the
newest frame. A slow viewer therefore misses frames and holds up nobody.

Rates: what came in is the advance of the partitions' ends; what went out is the advance of the groups' committed
positions, so every kind of reader counts, in the moment it vouches for what it read. Bytes going out are the events
times the hub's mean event size on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from gridwire.broker.port import Broker, Place
from gridwire.core.clock import Clock
from gridwire.heads.http.functions import Functions
from gridwire.heads.http.overview import Overview
from gridwire.wire.http import sse

INTERVAL_S: Final = 1.0
STALE_S: Final = 5.0
"""A sample older than this is no base for a rate: nobody watched in between."""

_STATUS_KEYS: Final = ("durability", "ready", "memory_bytes", "disk_free_bytes")

log = structlog.get_logger("gridwire.http")


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything rates are computed from. `at_s` on the monotonic clock."""

    at_s: float
    ends: Mapping[Place, int] = field(default_factory=dict)
    sizes: Mapping[Place, int] = field(default_factory=dict)
    positions: Mapping[tuple[str, Place], int] = field(default_factory=dict)
    mean_bytes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rates:
    """Events and bytes a second, in and out; `hubs`: events coming in, by hub."""

    in_events_s: float
    in_bytes_s: float
    out_events_s: float
    out_bytes_s: float
    hubs: Mapping[str, float]


def rates(before: Sample | None, now: Sample) -> Rates:
    """Rates between two samples; all zero without a recent first one. A place that is new counts from now on."""
    if before is None or not 0 < now.at_s - before.at_s <= STALE_S:
        return Rates(0.0, 0.0, 0.0, 0.0, {})
    seconds = now.at_s - before.at_s
    hubs: dict[str, float] = {}
    for place, more in _advance(before.ends, now.ends).items():
        hubs[place[0]] = hubs.get(place[0], 0.0) + more / seconds
    size = sum(_advance(before.sizes, now.sizes).values())
    read = _advance(before.positions, now.positions)
    out_bytes = sum(more * now.mean_bytes.get(place[0], 0.0) for (_, place), more in read.items())
    return Rates(sum(hubs.values()), size / seconds, sum(read.values()) / seconds, out_bytes / seconds, hubs)


def _advance(before: Mapping[Any, int], now: Mapping[Any, int]) -> dict[Any, int]:
    """How far each value has grown; what shrank (retention, a reset) counts as nothing."""
    return {key: max(0, value - before[key]) for key, value in now.items() if key in before}


class Live:
    """The shared sampler."""

    def __init__(
        self,
        broker: Broker,
        overview: Overview,
        clock: Clock,
        interval_s: float = INTERVAL_S,
        functions: Functions | None = None,
    ) -> None:
        self._broker = broker
        self._overview = overview
        self._functions = functions
        self._clock = clock
        self._interval_s = interval_s
        self._viewers = 0
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[bytes] | None = None
        self._last: Sample | None = None
        self.samples = 0

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Frames for one viewer, the first one at once."""
        self._viewers += 1
        try:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run())
            while True:
                if self._next is None:
                    self._next = asyncio.get_running_loop().create_future()
                yield await asyncio.shield(self._next)
        finally:
            self._viewers -= 1
            if self._viewers == 0 and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        while True:
            try:
                frame = sse.frame(msgspec.json.encode(await self.tick()))
            except Exception:  # one failed sample must not blind the page for good
                log.exception("live sample failed")
            else:
                waiting, self._next = self._next, None
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame)
            await asyncio.sleep(self._interval_s)

    async def tick(self) -> dict[str, Any]:
        """Take a sample and tell what is and what has changed since the last one."""
        self.samples += 1
        hubs = [hub for hub in await self._overview.hubs() if not hub["internal"]]
        groups = await self._overview.groups()
        now = await self._sample(hubs, [group["group"] for group in groups])
        moved = rates(self._last, now)
        self._last = now
        status = self._overview.status()
        return {
            "t": self._clock.now_ms(),
            "rates": {
                "in_events_s": round(moved.in_events_s, 1),
                "in_bytes_s": round(moved.in_bytes_s, 1),
                "out_events_s": round(moved.out_events_s, 1),
                "out_bytes_s": round(moved.out_bytes_s, 1),
            },
            "hubs": [_short(hub, moved.hubs.get(hub["name"], 0.0)) for hub in hubs],
            "groups": groups,
            "workers": self._overview.workers(),
            "functions": [] if self._functions is None else await self._functions.rows(groups),
            "status": {key: status.get(key) for key in _STATUS_KEYS},
        }

    async def _sample(self, hubs: list[dict[str, Any]], groups: list[str]) -> Sample:
        rows = [((hub["name"], row["partition"]), row) for hub in hubs for row in hub["bounds"]]
        positions = {}
        for group in groups:
            for place, position in (await self._broker.positions(group)).items():
                positions[group, place] = position.offset
        return Sample(
            self._clock.monotonic(),
            {place: row["end"] for place, row in rows},
            {place: row["bytes"] for place, row in rows},
            positions,
            {hub["name"]: hub["bytes"] / hub["events"] for hub in hubs if hub["events"]},
        )


def _short(hub: Mapping[str, Any], in_events_s: float) -> dict[str, Any]:
    keys = ("name", "partitions", "events", "bytes", "bounds")
    return {key: hub[key] for key in keys} | {"in_events_s": round(in_events_s, 1)}
