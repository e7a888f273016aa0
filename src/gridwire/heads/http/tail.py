"""GET /v1/hubs/{hub}/tail: events as they come, as server-sent events.

Without `max_rate` a client gets every event, at its own speed. With it, a client that wants a picture rather than the
record gets at most that many a second, the newest ones, and is told how many were left out (`event: skipped`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from gridwire.broker.port import Broker, HubInfo
from gridwire.core.errors import OffsetOutOfRange, UnknownHub, UnknownPartition
from gridwire.heads.http import reading
from gridwire.heads.http.options import HttpCounters, HttpLimits
from gridwire.heads.http.request import number_of
from gridwire.wire.http import sse, where
from gridwire.wire.http.rendering import event_json

FRAME_BYTES_TARGET: Final = 64 * 1024
"""Frames sent together."""

RATE_TICK_S: Final = 0.25
"""How often a rate-limited stream looks at the log."""

RATE_MAX: Final = 10_000
"""Largest `max_rate`; more is what Kafka is for."""


@dataclass(frozen=True, slots=True)
class TailRequest:
    """What a client asked for.

    Args:
        since: where to start. seen: offsets of a Last-Event-ID. max_rate: 0 = all. chosen: which events; None: all.
    """

    hub: HubInfo
    partition: int | None
    since: str
    seen: Mapping[int, int]
    max_rate: int
    chosen: where.Where | None = None


def parse(info: HubInfo, params: Mapping[str, str], last_event_id: str) -> TailRequest:
    """Check the query of a tail. Raises HttpError, UnknownPartition."""
    partition = None
    if "partition" in params:
        partition = number_of(params, "partition", 0, 0, 2**31)
        if partition >= info.partitions:
            raise UnknownPartition(f"hub {info.name!r} has partitions 0 to {info.partitions - 1}, not {partition}")
    since = params.get("from", "latest")
    reading.check_place(since, "from")
    return TailRequest(
        info,
        partition,
        since,
        sse.read_id(last_event_id),
        number_of(params, "max_rate", 0, 1, RATE_MAX),
        where.parse(params["where"]) if params.get("where") else None,
    )


class Tail:
    """One client's way through a hub."""

    def __init__(self, broker: Broker, request: TailRequest, limits: HttpLimits, counters: HttpCounters) -> None:
        self._broker = broker
        self._request = request
        self._limits = limits
        self._counters = counters
        self._positions: dict[int, int] = {}
        self._sent: dict[int, int] = {}

    async def start(self) -> None:
        """Fix where every partition is read from, so that nothing appended from now on is missed."""
        for partition in self._partitions():
            position = await self._first(partition)
            self._positions[partition] = position
            self._sent[partition] = position - 1

    def _partitions(self) -> Iterable[int]:
        if self._request.partition is not None:
            return (self._request.partition,)
        return range(self._broker.hub(self._request.hub.name).partitions)

    async def _first(self, partition: int) -> int:
        hub, seen = self._request.hub.name, self._request.seen.get(partition)
        if seen is not None:
            return min(seen + 1, (await self._broker.bounds(hub, partition)).end)
        return await reading.place(self._broker, hub, partition, self._request.since)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Frames for as long as there is a hub. Raises UnknownHub when it is deleted."""
        loop = asyncio.get_running_loop()
        quiet_since = loop.time()
        source = self._limited if self._request.max_rate else self._all
        if len(self._sent) <= sse.ID_PLACES_MAX:
            partition, offset = next(iter(self._sent.items()))
            yield sse.mark(sse.place_id(partition, offset, self._sent))
        while True:
            before = sum(self._positions.values())
            async for out in source():
                quiet_since = loop.time()
                yield out
            await self._follow_hub()
            if sum(self._positions.values()) > before and not self._request.max_rate:
                continue  # there may be more already
            left = quiet_since + self._limits.heartbeat_s - loop.time()
            if left <= 0:
                quiet_since = loop.time()
                yield sse.HEARTBEAT
            else:
                await self._pause(left)

    async def _follow_hub(self) -> None:
        """Notice that the hub was deleted or made anew; read partitions that were added from their start."""
        info = self._broker.hub(self._request.hub.name)
        if info.id != self._request.hub.id:
            raise UnknownHub(f"hub {info.name!r} was deleted and created again: connect anew")
        for partition in self._partitions():
            if partition not in self._positions:
                self._positions[partition] = 0
                self._sent[partition] = -1

    async def _pause(self, left_s: float) -> None:
        if self._request.max_rate:
            await asyncio.sleep(min(left_s, RATE_TICK_S))
            return
        hub = self._request.hub.name
        await self._broker.wait(
            {(hub, partition): at for partition, at in self._positions.items()}, left_s, committed=True
        )

    async def _all(self) -> AsyncIterator[bytes]:
        """One read of each partition in turn."""
        for partition in tuple(self._positions):
            async for out in self._partition(partition, None):
                yield out

    async def _limited(self) -> AsyncIterator[bytes]:
        """One tick's share of each partition: the newest events when there are more."""
        share = max(1, int(self._request.max_rate * RATE_TICK_S / len(self._positions)))
        for partition, position in tuple(self._positions.items()):
            end = (await self._broker.bounds(self._request.hub.name, partition)).end
            if end - position > share:
                self._positions[partition] = end - share
                yield self._skipped(partition, end - share - position)
            async for out in self._partition(partition, share):
                yield out

    async def _partition(self, partition: int, events_max: int | None) -> AsyncIterator[bytes]:
        """What one read of a partition brings, rendered."""
        position = self._positions[partition]
        try:
            stretch = await reading.read(self._broker, self._request.hub.name, partition, position)
        except OffsetOutOfRange as error:  # the hub was made anew behind our back
            raise UnknownHub(f"the hub was replaced: {error}") from None
        if stretch.offset > position:
            yield self._skipped(partition, stretch.offset - position)
        left = events_max
        for block in stretch.blocks:
            events = block.events if left is None else block.events[:left]
            out = bytearray()
            for event in events:
                self._sent[partition] = event.offset
                if self._request.chosen is not None and not self._request.chosen.matches(partition, event):
                    continue
                event_id = sse.place_id(partition, event.offset, self._sent)
                out += sse.frame(event_json(partition, event), event_id=event_id)
                if len(out) >= FRAME_BYTES_TARGET:
                    self._counters.bytes_sent += len(out)
                    yield bytes(out)
                    out.clear()
            self._counters.events_sent += len(events)
            self._counters.bytes_sent += len(out)
            if out:
                yield bytes(out)
            if left is not None and len(events) < len(block.events):
                self._positions[partition] = events[-1].offset + 1 if events else self._positions[partition]
                return
            self._positions[partition] = block.next_offset
            left = None if left is None else left - len(events)
            await asyncio.sleep(0)

    def _skipped(self, partition: int, count: int) -> bytes:
        self._counters.events_skipped += count
        return sse.frame(msgspec.json.encode({"partition": partition, "count": count}), event="skipped")
