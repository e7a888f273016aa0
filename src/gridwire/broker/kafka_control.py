"""gridwire's own control state on a Kafka cluster: keyed changes in a compacted topic, followed live by every gateway.

A change set is one record batch of `(key, value | null)` records, as in the embedded broker's journal. The cluster
appends a batch whole or not at all and readers get it whole, so a change set is atomic without a transaction; what
compaction later removes are values that newer ones replace. The topic has one partition: there is one order of changes,
and all gateways apply it. Two that change the same key at once: the later in the log wins, everywhere.

    identity/...            policies, users, certificates: `gridwire.broker.identities`
    hub/<topic id>          what Kafka has no topic config for: `HubNote`
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import msgspec
import structlog

from gridwire.broker import kafka_wire as wire
from gridwire.broker.control import Changes, Entries, change_batch
from gridwire.broker.kafka_append import Appender
from gridwire.broker.kafka_client import PAUSE_MOST_S, KafkaClient
from gridwire.broker.kafka_records import fetch_body, part_of, whole_batches
from gridwire.broker.port import Bounds
from gridwire.core.batch import CONTROL, check_produced, decode, iter_headers
from gridwire.core.clock import Clock
from gridwire.core.errors import GridwireError, OffsetOutOfRange, Unavailable
from gridwire.core.limits import MIB

HUB: Final = "hub/"
FOLLOW_S: Final = 10.0
"""How long one poll for changes waits."""

FETCH_BYTES: Final = 4 * MIB
APPLY_S: Final = 30.0
"""How long a change of our own may take to come back to us."""

CONFIGS: Final = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "max.message.bytes": str(8 * MIB)}

log = structlog.get_logger("gridwire.kafka")


class HubNote(msgspec.Struct, frozen=True):
    """What gridwire knows of a hub that Kafka does not."""

    settings: dict[str, str] = msgspec.field(default_factory=dict)
    created_ms: int = 0


class KafkaControl:
    """The topic's dictionary. `on_changed` is called with every change set, this gateway's own included."""

    def __init__(self, client: KafkaClient, appender: Appender, topic: str, clock: Clock) -> None:
        self._client = client
        self._appender = appender
        self._topic = topic
        self._clock = clock
        self._entries = Entries()
        self._offset = 0
        self._moved = asyncio.Condition()
        self._follower: asyncio.Task[None] | None = None
        self.listeners: list[Callable[[Changes], None]] = []
        self.on_followed: Callable[[Changes], Awaitable[None]] | None = None

    async def open(self, bounds: Bounds) -> None:
        """Replay the topic to its end, then follow it. Raises Unavailable."""
        self._offset = bounds.start
        while self._offset < bounds.end:
            await self._client.trying(lambda: self._take(0.0))
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Follow no longer."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower

    def kept(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Entries below a prefix, the rest of the key first."""
        return self._entries.under(prefix)

    def get(self, key: str) -> bytes | None:
        """One entry."""
        return self._entries.entries.get(key)

    async def change(self, changes: Changes) -> None:
        """Write keyed changes; acknowledged by the cluster and applied here when it returns. Raises Unavailable."""
        batch = memoryview(change_batch(changes.items(), self._clock.now_ms()))
        done = await asyncio.shield(self._appender.append(self._topic, 0, batch, check_produced(batch)))
        await self.reach(done.base_offset + 1)

    async def reach(self, offset: int) -> None:
        """Return when everything below an offset is applied here. Raises Unavailable."""
        try:
            async with asyncio.timeout(APPLY_S), self._moved:
                await self._moved.wait_for(lambda: self._offset >= offset)
        except TimeoutError:
            raise Unavailable("the control state is in the cluster, but cannot be read at present") from None

    async def _follow(self) -> None:
        pause_s = 0.1
        while True:
            try:
                await self._take(FOLLOW_S)
                pause_s = 0.1
            except OffsetOutOfRange as error:  # only where somebody deleted records of the topic
                log.error("control state was deleted from", reason=str(error))
                self._offset = max(error.start, 0)
            except GridwireError:
                self._client.doubt()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)

    def _tell(self, changes: Changes) -> None:
        for listener in self.listeners:
            try:
                listener(changes)
            except Exception:  # one part that cannot use a change must not stop the others, nor those to come
                log.exception("a change of the control state was not understood", keys=sorted(changes))

    async def _take(self, wait_s: float) -> None:
        """Fetch and apply what is there, or comes within the time."""
        node = self._client.leader(self._topic, 0)
        body = fetch_body([(self._topic, 0, self._offset)], FETCH_BYTES, wait_s=wait_s)
        async with self._client.polling(node) as connection:
            told = await connection.ask(wire.FETCH, body, wire.ANSWER_S + wait_s)
        part = part_of(told, self._topic, 0)
        data = whole_batches(part["Records"])
        followed: dict[str, bytes | None] = {}
        for position, header in iter_headers(data):
            if header.next_offset > self._offset and not header.attributes & CONTROL:
                changes = {(e.key or b"").decode("utf-8", "replace"): e.value for e in decode(data, position)}
                self._entries.apply(changes)
                followed |= changes
                self._tell(changes)
            self._offset = max(self._offset, header.next_offset)
        if followed and self.on_followed is not None:
            await self.on_followed(followed)
        async with self._moved:
            self._moved.notify_all()
