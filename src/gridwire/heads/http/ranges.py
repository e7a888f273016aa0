"""Ranges of a hub's events: to a file (`format=` of GET .../events), or to another hub, a step a request.

Both keep nothing between two requests. An export is one stream over a range that is bounded before it begins; a copy is
driven by whoever wants it, who so has progress, can stop, and sets the pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from gridwire.broker.port import Broker, HubInfo
from gridwire.core.batch import Event
from gridwire.core.clock import Clock
from gridwire.core.errors import HubExists, UnknownHub, UnknownPartition
from gridwire.core.hubs import NOT_COPIED
from gridwire.core.limits import MIB
from gridwire.heads.http import reading
from gridwire.heads.http.ingest import Ingest, writable
from gridwire.heads.http.request import parse_json, whole_number
from gridwire.wire.http import where
from gridwire.wire.http.cloudevents import time_ms
from gridwire.wire.http.problems import HttpError
from gridwire.wire.http.tables import Rows

EXPORT_EVENTS_MAX: Final = 1_000_000
"""Offsets of one export: some minutes. Programs that want more read over Kafka, or the lake."""

COPY_EVENTS_MAX: Final = 5_000
COPY_BYTES_MAX: Final = 4 * MIB
"""Values of one step of a copy; the first event always fits."""

COPY_SEARCH_MAX: Final = 100_000
"""Events one step searches with a filter: about a second."""


class CopyEvents(msgspec.Struct, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Body of POST /v1/hubs/{hub}/copy.

    Args:
        from_, to: earliest, latest, an offset, -N for the last N, or an RFC 3339 time; `to` itself is not copied.
        before: stop at the first event whose time is not before this one (RFC 3339): the pace of a replay.
        stamp: whether copies keep their time or get that of now.
    """

    to_hub: str
    partition: int
    from_: int | str = "earliest"
    to: int | str = "latest"
    where: str | None = None
    before: str | None = None
    stamp: Literal["kept", "now"] = "kept"


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets [first, end) of one partition."""

    partition: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Export:
    """What one request takes to a file."""

    hub: str
    spans: list[Span]
    chosen: where.Where | None
    rows: Rows


class Ranges:
    """Copies and exports. Results are plain values for JSON, or bytes."""

    def __init__(self, broker: Broker, ingest: Ingest, clock: Clock) -> None:
        self._broker = broker
        self._ingest = ingest
        self._clock = clock

    async def export(self, hub: str, params: Mapping[str, str]) -> Export:
        """What a request asks for. Raises HttpError 400, UnknownHub, UnknownPartition."""
        rows = Rows.parse(params["format"], params.get("fields"))
        chosen = _filter(params.get("where"))
        info = self._broker.hub(hub)
        places = range(info.partitions)
        if "partition" in params:
            places = _one(info, whole_number(params["partition"], "partition"))
        first, end = params.get("offset", "earliest"), params.get("to", "latest")
        spans = [await self._span(hub, partition, first, end) for partition in places]
        count = sum(span.end - span.first for span in spans)
        if count > EXPORT_EVENTS_MAX:
            most = f"an export has at most {EXPORT_EVENTS_MAX}"
            raise HttpError(400, f"the range has {count} events and {most}: narrow offset, to or partition")
        return Export(hub, spans, chosen, rows)

    async def lines(self, wanted: Export) -> AsyncGenerator[bytes, None]:
        """The rows of an export in order, partition by partition, some hundred at once."""
        if wanted.rows.opening:
            yield wanted.rows.opening
        for span in wanted.spans:
            async for events, _ in self._matching(wanted.hub, span, wanted.chosen):
                yield b"".join(wanted.rows.row(span.partition, event) for event in events)
                await asyncio.sleep(0)

    async def _span(self, hub: str, partition: int, first: str, end: str) -> Span:
        reading.check_place(first, "offset")
        reading.check_place(end, "to")
        bounds = await self._broker.bounds(hub, partition)
        begin = max(await reading.place(self._broker, hub, partition, first), bounds.start)
        return Span(partition, begin, max(begin, await reading.place(self._broker, hub, partition, end)))

    async def _matching(
        self, hub: str, span: Span, chosen: where.Where | None
    ) -> AsyncIterator[tuple[list[Event], reading.Block]]:
        """Events of a span that pass the filter, with the block they come from; ends early where readers must wait."""
        offset = span.first
        while offset < span.end:
            stretch = await reading.read(self._broker, hub, span.partition, offset)
            moved = stretch.offset
            for block in stretch.blocks:
                events = [
                    event
                    for event in block.events
                    if event.offset < span.end and (chosen is None or chosen.matches(span.partition, event))
                ]
                moved = block.next_offset
                yield events, block
                if moved >= span.end:
                    return
            if moved <= offset:
                return
            offset = moved

    def wanted(self, hub: str, body: bytes) -> CopyEvents:
        """What a step of a copy is to do. Raises BadBody, HttpError 400, Forbidden, UnknownHub, UnknownPartition."""
        wanted = parse_json(body, CopyEvents)
        if wanted.to_hub == hub:
            raise HttpError(400, "a hub cannot be copied to itself: name another in to_hub")
        if wanted.before is not None and time_ms(wanted.before) is None:
            raise HttpError(400, f"before must be an RFC 3339 time, not {wanted.before[:40]!r}")
        _one(self._broker.hub(hub), wanted.partition)
        _filter(wanted.where)
        return wanted

    def exists(self, hub: str) -> bool:
        """Whether a hub can be copied to as it is. Raises Forbidden, InvalidName."""
        try:
            writable(self._broker, hub)
        except UnknownHub:
            return False
        return True

    async def copy(self, hub: str, wanted: CopyEvents) -> dict[str, Any]:
        """One step: what it copied and where the next one goes on.

        `next_ms` is the time of the event that `before` stopped at. A hub that is not there is made alike. An event
        may come twice when a step is repeated whose answer was lost.
        """
        span = await self._span(hub, wanted.partition, str(wanted.from_), str(wanted.to))
        source, target = self._broker.hub(hub), await self._target(hub, wanted.to_hub)
        events, following, next_ms = await self._step(hub, span, wanted)
        if wanted.stamp == "now":
            now_ms = self._clock.now_ms()
            events = [Event(each.value, each.key, each.headers, now_ms) for each in events]
        if events:
            place = wanted.partition if source.partitions == target.partitions else None
            await self._ingest.store(target, events, place, sum(len(each.value or b"") for each in events))
        return {"copied": len(events), "next": following, "end": span.end, "next_ms": next_ms}

    async def _step(self, hub: str, span: Span, wanted: CopyEvents) -> tuple[list[Event], int, int | None]:
        """Events of a step, the offset after what was looked at, and the time of the event it waits for."""
        before_ms = None if wanted.before is None else time_ms(wanted.before)
        out: list[Event] = []
        size = searched = 0
        following = span.first
        async for events, block in self._matching(hub, span, _filter(wanted.where)):
            for event in events:
                if before_ms is not None and event.timestamp >= before_ms:
                    return out, event.offset, event.timestamp
                size += len(event.value or b"")
                if out and (size > COPY_BYTES_MAX or len(out) == COPY_EVENTS_MAX):
                    return out, event.offset, None
                out.append(event)
            following = min(block.next_offset, span.end)
            searched += len(block.events)
            if searched >= COPY_SEARCH_MAX:
                break
            await asyncio.sleep(0)
        return out, following, None

    async def _target(self, hub: str, name: str) -> HubInfo:
        if self.exists(name):
            return self._broker.hub(name)
        info = self._broker.hub(hub)
        settings = msgspec.to_builtins(info.settings)
        kept = {key: value for key, value in settings.items() if key not in NOT_COPIED}
        try:
            return await self._broker.create_hub(name, info.partitions, kept)
        except HubExists:  # another step was faster
            return self._broker.hub(name)


def _filter(text: str | None) -> where.Where | None:
    return where.parse(text) if text else None


def _one(info: HubInfo, partition: int) -> range:
    if not 0 <= partition < info.partitions:
        raise UnknownPartition(f"hub {info.name!r} has partitions 0 to {info.partitions - 1}, not {partition}")
    return range(partition, partition + 1)
