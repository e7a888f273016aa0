"""POST /{hub}/messages and its relatives: Event Hubs' send API over the ingest path of our own.

A hub that does not exist is not created by it: Event Hubs answers 404, and so do we.
"""

from __future__ import annotations

from typing import Final

from gridwire.broker.port import Broker
from gridwire.core.clock import Clock
from gridwire.core.limits import check_name
from gridwire.heads.http.ingest import Ingest, writable
from gridwire.heads.http.options import HttpLimits
from gridwire.heads.http.request import BodyMemory, header, read_body, whole_number
from gridwire.heads.http.routes import Answer, Call
from gridwire.wire.http import eventhubs
from gridwire.wire.http.problems import BadBody

CREATED: Final = Answer(201, b"", [(b"content-type", eventhubs.ERROR_TYPE.encode())])


class EventHubsSend:
    """Takes events in as Event Hubs' REST API does."""

    def __init__(self, broker: Broker, ingest: Ingest, clock: Clock, limits: HttpLimits, memory: BodyMemory) -> None:
        self._broker = broker
        self._ingest = ingest
        self._clock = clock
        self._limits = limits
        self._memory = memory

    async def to_hub(self, call: Call) -> Answer:
        """POST /{hub}/messages."""
        return await self._send(call)

    async def to_partition(self, call: Call) -> Answer:
        """POST /{hub}/partitions/{partition}/messages."""
        return await self._send(call, partition=whole_number(call.names[1], "the partition"))

    async def as_publisher(self, call: Call) -> Answer:
        """POST /{hub}/publishers/{publisher}/messages."""
        return await self._send(call, publisher=check_name(call.names[1], "publisher"))

    async def _send(self, call: Call, partition: int | None = None, publisher: str | None = None) -> Answer:
        info = writable(self._broker, call.name)
        scope = call.scope
        body = await read_body(scope, call.receive, self._limits, self._limits.body_bytes_max, self._memory)
        try:
            content_type = header(scope, b"content-type").decode("latin-1")
            events = eventhubs.parse(content_type, scope["headers"], body, self._clock.now_ms(), publisher)
            if partition is not None and any(event.key is not None for event in events):
                raise BadBody("an event for a partition has no PartitionKey: leave one of them out")
            await self._ingest.store(info, events, partition, len(body))
        finally:
            self._memory.give(len(body))
        return CREATED
