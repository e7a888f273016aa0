"""POST /v1/hubs/{hub}/events: the hot path, a plain ASGI function.

Everything of a request is parsed before anything of it is appended, so a malformed line costs nobody a duplicate. A
large request becomes several batches; other requests run between any two of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from gridwire.broker.port import Appended, Broker, HubInfo
from gridwire.core import batch
from gridwire.core.batch import Event, Headers
from gridwire.core.clock import Clock
from gridwire.core.errors import HubExists, UnknownHub, UnknownPartition
from gridwire.core.limits import MIB, check_name
from gridwire.heads.http.options import HttpCounters, HttpLimits
from gridwire.heads.http.request import BodyMemory, header, query, read_body, respond, whole_number
from gridwire.wire.http import bodies
from gridwire.wire.http.partitioner import partition_of
from gridwire.wire.http.problems import BadBody, Forbidden

BATCH_EVENTS_MAX: Final = 2000
"""Events encoded without letting other requests run: some 4 ms."""

BATCH_BYTES_TARGET: Final = MIB
"""Size at which a batch is closed."""

RECORD_OVERHEAD_BYTES: Final = 40
"""Most a record adds to its key, value and headers."""

HEADER_OVERHEAD_BYTES: Final = 10
"""Most a record header adds to its name and value."""

_HEADER: Final = "header."


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive offsets of one partition that a request's events got."""

    partition: int
    offset: int
    count: int


class Ingest:
    """Takes events in over HTTP."""

    def __init__(
        self, broker: Broker, clock: Clock, limits: HttpLimits, counters: HttpCounters, memory: BodyMemory, *,
        auto_create: bool,
    ) -> None:  # fmt: skip
        self._broker = broker
        self._clock = clock
        self._limits = limits
        self._counters = counters
        self._auto_create = auto_create
        self._memory = memory
        self._turn = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send, hub: str) -> None:
        """Answer one request. Raises what `gridwire.wire.http.problems` has an answer for."""
        self._check_hub(hub)
        body = await read_body(scope, receive, self._limits, self._limits.body_bytes_max, self._memory)
        try:
            answer = await self._take(scope, hub, body)
        finally:
            self._memory.give(len(body))
        await respond(send, 200, answer)

    def _check_hub(self, hub: str) -> None:
        """Refuse before the body is read what can be refused without it."""
        try:
            writable(self._broker, hub)
        except UnknownHub:
            if not self._auto_create:
                raise

    async def _take(self, scope: Scope, hub: str, body: bytes) -> bytes:
        params = query(scope)
        now_ms = self._clock.now_ms()
        content_type = header(scope, b"content-type").decode("latin-1")
        key = _request_key(scope, params)
        parsed = bodies.parse(content_type, scope["headers"], body, now_ms, key, params.get("key_field"))
        events: list[Event] = []
        for block in parsed.blocks:
            events.extend(block)
            if len(block) == bodies.BLOCK_EVENTS:
                await asyncio.sleep(0)
        extra = _request_headers(params)
        if extra:
            events = [Event(each.value, each.key, (*each.headers, *extra), each.timestamp) for each in events]
        wanted = whole_number(params["partition"], "partition") if "partition" in params else None
        runs = await self.store(await self._hub(hub), events, wanted, len(body))
        return self._answer(hub, runs, parsed.several)

    async def store(self, info: HubInfo, events: list[Event], partition: int | None, size: int) -> list[Run]:
        """Put the events of one request of `size` bytes into a hub; durable as promised when it returns.

        Raises:
            UnknownPartition, and what an append raises: then part of the events may be stored.
        """
        if partition is not None and not 0 <= partition < info.partitions:
            raise UnknownPartition(f"hub {info.name!r} has partitions 0 to {info.partitions - 1}, not {partition}")
        runs = await self._append(info, events, partition)
        self._counters.events_received += len(events)
        self._counters.bytes_received += size
        return runs

    async def _hub(self, name: str) -> HubInfo:
        try:
            return self._broker.hub(name)
        except UnknownHub:
            if not self._auto_create:
                raise
        try:
            return await self._broker.create_hub(name)
        except HubExists:  # somebody was faster
            return self._broker.hub(name)

    async def _append(self, info: HubInfo, events: list[Event], partition: int | None) -> list[Run]:
        """Append and wait until everything is as durable as promised."""
        started = time.perf_counter()
        bytes_max = min(info.settings.message_bytes_max, BATCH_BYTES_TARGET)
        appends: list[tuple[int, int, asyncio.Future[Appended]]] = []
        for place, group in self._by_partition(events, info.partitions, partition):
            for chunk in chunks(group, bytes_max):
                if appends:
                    await asyncio.sleep(0)
                future = self._broker.append(info.name, place, batch.encode(chunk))
                appends.append((place, len(chunk), future))
        results = await asyncio.gather(*(future for _, _, future in appends), return_exceptions=True)
        runs = []
        for (place, count, _), result in zip(appends, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            runs.append(Run(place, result.base_offset, count))
        self._counters.batches_appended += len(runs)
        self._counters.appended(time.perf_counter() - started)
        return runs

    def _by_partition(
        self, events: list[Event], partitions: int, partition: int | None
    ) -> Iterable[tuple[int, Sequence[Event]]]:
        if partition is not None:
            return [(partition, events)]
        groups: dict[int, list[Event]] = {}
        for event in events:
            key = event.key
            place = self._turn % partitions if key is None else partition_of(key, partitions)
            group = groups.get(place)
            if group is None:
                groups[place] = [event]
            else:
                group.append(event)
        self._turn += 1
        return groups.items()

    def _answer(self, hub: str, runs: list[Run], several: bool) -> bytes:
        durable = b"true" if self._broker.durable(hub) else b"false"
        first = b'{"partition":%d,"offset":%d,"durable":%b' % (runs[0].partition, runs[0].offset, durable)
        if not several:
            return first + b"}"
        count = sum(run.count for run in runs)
        return first + b',"count":%d,"results":%b}' % (count, msgspec.json.encode(joined(runs)))


def writable(broker: Broker, hub: str) -> HubInfo:
    """A hub that clients may write to. Raises InvalidName, Forbidden, UnknownHub."""
    check_name(hub)
    if hub.startswith("__") or broker.hub(hub).internal:
        raise Forbidden(f"hub {hub!r} is the platform's own: clients may read it, not write it")
    return broker.hub(hub)


def _request_key(scope: Scope, params: Mapping[str, str]) -> bytes | None:
    """Key of the whole request: query parameter before header; an empty one is none."""
    if params.get("key"):
        return params["key"].encode("utf-8", "surrogateescape")
    return header(scope, b"x-gridwire-key") or None


def _request_headers(params: Mapping[str, str]) -> Headers:
    """Headers for every event of a request: `header.NAME=VALUE` in the query. Raises BadBody."""
    found = [(name.removeprefix(_HEADER), value) for name, value in params.items() if name.startswith(_HEADER)]
    if not all(name and name.isprintable() for name, _ in found):
        raise BadBody("the name of a header is printable text: write header.unit=kW")
    return tuple((name, value.encode("utf-8", "surrogateescape")) for name, value in found)


def record_bytes(event: Event) -> int:
    """At least what the event takes in a batch."""
    size = RECORD_OVERHEAD_BYTES + len(event.value or b"") + len(event.key or b"")
    for name, value in event.headers:
        size += HEADER_OVERHEAD_BYTES + 4 * len(name) + len(value or b"")
    return size


def chunks(events: Sequence[Event], bytes_max: int) -> Iterator[Sequence[Event]]:
    """Cut events into batches of at most `bytes_max`; an event that is larger alone is a batch of its own."""
    start, size = 0, batch.HEADER_BYTES
    for index, event in enumerate(events):
        more = record_bytes(event)
        if index > start and (size + more > bytes_max or index - start == BATCH_EVENTS_MAX):
            yield events[start:index]
            start, size = index, batch.HEADER_BYTES
        size += more
    yield events[start:]


def joined(runs: Iterable[Run]) -> list[Run]:
    """Runs with neighbours joined where offsets follow one another."""
    out: list[Run] = []
    for run in runs:
        last = out[-1] if out else None
        if last and last.partition == run.partition and last.offset + last.count == run.offset:
            out[-1] = Run(run.partition, last.offset, last.count + run.count)
        else:
            out.append(run)
    return out
