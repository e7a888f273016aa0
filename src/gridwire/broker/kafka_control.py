"""gridwire's own control state on a Kafka cluster: keyed changes in a compacted topic, followed live by every gateway.

A change set is one record batch of `(key, value | null)` records, as in the embedded broker's journal. The cluster
appends a batch whole or not at all and readers get it whole, so a change set is atomic without a transaction; what
compaction later removes are values that newer ones replace. The topic has one partition: there is one order of changes,
and all gateways apply it.

Theory of operation of writing. All gateways write with one and the same producer id, and a batch's sequence number
says behind which batch its writer knew the topic. A broker takes of a producer only the batch that continues its
sequence; so of two gateways that decided on the same state one is refused, reads what the other wrote, and decides
anew. What looks acknowledged may be the other's batch, of which ours was taken for a repetition: the mark in it tells
whose it is. Where broker and log disagree on the sequence (records were deleted from the topic), a new epoch begins
with a batch that changes nothing: behind it no batch of an older epoch is taken. See docs/decisions/0029.

    identity/...            policies, users, certificates: `gridwire.broker.identities`
    hub/<topic id>          what Kafka has no topic config for: `HubNote`
    writer                  begins an epoch of writing; means nothing
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import msgspec
import structlog

from gridwire.broker import kafka_wire as wire
from gridwire.broker.control import Changes, Entries, change_batch
from gridwire.broker.kafka_append import Appender
from gridwire.broker.kafka_client import LATEST, PAUSE_MOST_S, KafkaClient
from gridwire.broker.kafka_records import fetch_body, part_of, whole_batches
from gridwire.broker.port import Bounds
from gridwire.core.batch import CONTROL, BatchHeader, check_produced, decode, iter_headers, set_producer
from gridwire.core.clock import Clock
from gridwire.core.errors import (
    DuplicateSequence,
    FencedEpoch,
    GridwireError,
    OffsetOutOfRange,
    OutOfOrderSequence,
    Unavailable,
)
from gridwire.core.limits import MIB

HUB: Final = "hub/"
FOLLOW_S: Final = 10.0
"""How long one poll for changes waits."""

FETCH_BYTES: Final = 4 * MIB
APPLY_S: Final = 30.0
"""How long a change of our own may take to come back to us."""

WRITER: Final = 2**62
"""The producer id of all gateways, in this topic only. Clusters give ids out from 0 on, one at a time."""

MARK: Final = "writer"
"""Header that names who wrote a change set, and key of what begins an epoch."""

MARK_BYTES: Final = 12
ATTEMPTS_MAX: Final = 1000
"""How often a change is decided anew because other gateways wrote; each time one of them did get something done."""

CONFIGS: Final = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "max.message.bytes": str(8 * MIB)}

log = structlog.get_logger("gridwire.kafka")


class HubNote(msgspec.Struct, frozen=True):
    """What gridwire knows of a hub that Kafka does not. `settings`: those that Kafka has no topic config for."""

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
        self._next = (0, 0)
        """Epoch and sequence number that the next change set has to have."""
        self._mark = b""
        self._landed = False
        """Whether the change set with that mark, our newest one, is in the topic."""
        self._updating = asyncio.Lock()
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
        """Write keyed changes whatever is kept; acknowledged and applied here when it returns. Raises Unavailable."""
        await self.update(lambda: changes)

    async def update(self, decide: Callable[[], Changes]) -> bool:
        """See `Journal.update`."""
        task = asyncio.create_task(self._update(decide))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait any more
        return await asyncio.shield(task)  # whose change it is must not be in doubt when the next one is decided

    async def _update(self, decide: Callable[[], Changes]) -> bool:
        async with self._updating:
            self._mark, self._landed = secrets.token_bytes(MARK_BYTES), False
            epoch = 0
            for _ in range(ATTEMPTS_MAX):
                await self.catch_up()
                if self._landed:
                    return True
                changes = decide()
                if not changes:
                    return False
                known = self._next
                await self._write(changes, known, self._mark)
                if self._landed:
                    return True
                if self._next == known:  # refused, although nobody wrote
                    epoch = max(epoch, known[0]) + 1
                    log.warning("control state: a new epoch of writing begins", epoch=epoch)
                    await self._write({MARK: b""}, (epoch, 0), b"")
        raise Unavailable("the other gateways change the control state all the time: try again")

    async def _write(self, changes: Changes, number: tuple[int, int], mark: bytes) -> None:
        """Append a change set and read up to where it is, or to where it would be if it had not been refused."""
        batch = memoryview(change_batch(changes.items(), self._clock.now_ms(), ((MARK, mark),)))
        set_producer(batch, WRITER, *number)
        try:
            done = await self._appender.append(self._topic, 0, batch, check_produced(batch))
        except (OutOfOrderSequence, DuplicateSequence, FencedEpoch):
            await self.catch_up()
        else:
            await self.reach(done.base_offset + 1)

    async def catch_up(self) -> None:
        """Return when everything is applied here that was acknowledged anywhere before. Raises Unavailable."""
        place = (self._topic, 0)

        async def attempt() -> int:
            return (await self._client.list_offsets(self._client.leader(*place), [place], LATEST))[place][0]

        await self.reach(await self._client.trying(attempt))

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

    def _number(self, header: BatchHeader, mark: bytes | None) -> None:
        """What the next change set's number is, after one that lies in the topic; compaction leaves its numbers."""
        if header.producer_id == WRITER:
            sequence = header.base_sequence + header.next_offset - header.base_offset
            self._next = (header.producer_epoch, sequence & 0x7FFFFFFF)
        if mark and mark == self._mark:
            self._landed = True

    def _tell(self, changes: Changes) -> None:
        for listener in self.listeners:
            try:
                listener(changes)
            except GridwireError as error:
                log.error("a change of the control state cannot be used here", reason=str(error), keys=sorted(changes))
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
                events = list(decode(data, position))
                changes = {(event.key or b"").decode("utf-8", "replace"): event.value for event in events}
                self._number(header, dict(events[0].headers).get(MARK) if events else None)
                self._entries.apply(changes)
                followed |= changes
                self._tell(changes)
            self._offset = max(self._offset, header.next_offset)
        if followed and self.on_followed is not None:
            await self.on_followed(followed)
        async with self._moved:
            self._moved.notify_all()
