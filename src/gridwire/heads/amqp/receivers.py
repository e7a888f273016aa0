"""A link on which a peer receives: events of one partition, or of all of a hub, as credit and windows allow.

A receiver of one partition sends settled, as the service does: its reader keeps its own position. A receiver of a
whole hub shares the partitions with the others of its group, waits for outcomes, and commits the group's positions:
accepted and rejected events are done, released and modified ones are sent again. One that asks for a copy (a browser, a
topic's subscriber) gets everything, and commits nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import structlog

from gridwire.broker.port import HubInfo, Place, Position, Read
from gridwire.core import batch
from gridwire.core.batch import BatchHeader
from gridwire.core.errors import Corruption, GridwireError, InvalidBatch, MessageTooLarge, OffsetOutOfRange
from gridwire.heads.amqp.context import CONNECTION_UNSETTLED_MAX, HELD_BYTES_MAX, READ_BYTES, UNSETTLED_MAX
from gridwire.log.transactions import is_aborted
from gridwire.wire.amqp import types
from gridwire.wire.amqp.addresses import Start
from gridwire.wire.amqp.deliveries import EventWriter, RecordCursor, open_batch
from gridwire.wire.amqp.errors import AmqpError, condition_of
from gridwire.wire.amqp.link import Link
from gridwire.wire.amqp.performatives import Accepted, Modified, Released

if TYPE_CHECKING:
    from gridwire.heads.amqp.connection import Connection

log = structlog.get_logger(__name__)

WAIT_S = 60.0
"""A wait for events is renewed after so long."""

THREAD_BYTES = 256 * 1024
"""Larger compressed batches are decompressed outside the loop."""


class Lane:
    """One partition on its way to one link."""

    def __init__(self, place: Place, offset: int) -> None:
        self.place = place
        self.offset = offset
        """Next to send."""
        self.again: deque[int] = deque()
        """Offsets to send again."""
        self.open: dict[int, int] = {}
        """Offsets sent whose outcome is not known, in order, and how many deliveries of each have failed."""
        self.committed = offset
        self._batches: Iterator[tuple[int, BatchHeader]] | None = None
        self._read: Read | None = None
        self.cursor: RecordCursor | None = None
        self.held = 0

    def position(self) -> int:
        """Where whoever takes over has to begin."""
        return min(self.open) if self.open else self.offset

    def forget(self) -> int:
        """Drop what was read ahead; returns its bytes."""
        held, self.held = self.held, 0
        self._batches = self._read = self.cursor = None
        return held

    async def fill(self, receiver: Receiver) -> bool:
        """Have a cursor at the next event to send; False when there is none yet."""
        if self.cursor is not None and self.cursor.left:
            return True
        self.cursor = None
        while True:
            if self._batches is None and not await self._fetch(receiver):
                return False
            assert self._batches is not None
            assert self._read is not None
            for position, header in self._batches:
                if header.next_offset <= self.offset:
                    continue
                if header.attributes & batch.CONTROL or is_aborted(header, self._read.aborted):
                    self.offset = header.next_offset
                    continue
                self.cursor = await opened(self._read.data, position, header)
                return True
            receiver.context.held_bytes -= self.forget()

    async def _fetch(self, receiver: Receiver) -> bool:
        context = receiver.context
        hub, partition = self.place
        bounds = await context.broker.bounds(hub, partition)
        self.offset = max(self.offset, bounds.start)
        if self.offset >= bounds.stable:
            return False
        try:
            read = await context.broker.read(hub, partition, self.offset, READ_BYTES, committed=True)
        except OffsetOutOfRange as error:  # retention moved the start in between
            self.offset = max(self.offset, error.start)
            return False
        if not len(read.data):
            return False
        self._read, self._batches = read, batch.iter_headers(read.data)
        self.held = len(read.data)
        context.held_bytes += self.held
        if receiver.metric:
            receiver.writer.lead = await runtime_metric(receiver, hub, partition, read.end)
        return True


async def opened(data: bytes | memoryview, position: int, header: BatchHeader) -> RecordCursor:
    """The records of a stored batch."""
    if header.codec and header.size > THREAD_BYTES:
        return await asyncio.to_thread(open_batch, data, position, header)
    return open_batch(data, position, header)


async def runtime_metric(receiver: Receiver, hub: str, partition: int, end: int) -> bytes:
    """Delivery annotations that tell where the partition ends."""
    newest = await receiver.context.broker.newest(hub, partition)
    pairs = [
        (types.symbol("last_enqueued_sequence_number"), types.long(end - 1)),
        (types.symbol("last_enqueued_offset"), types.string(str(end - 1))),
        (types.symbol("last_enqueued_time_utc"), types.timestamp(newest[1] if newest else 0)),
        (types.symbol("runtime_info_retrieval_time_utc"), types.timestamp(receiver.context.clock.now_ms())),
    ]
    return types.described(0x71, types.map_(pairs))


class Receiver:
    """See the module. `partition` -1: of the whole hub."""

    def __init__(
        self, connection: Connection, link: Link, hub: HubInfo, partition: int, group: str, start: Start | None,
        *, metric: bool = False, commits: bool = False, shares: bool = True,
    ) -> None:  # fmt: skip
        self._connection = connection
        self.context = connection.context
        self._link = link
        self.hub = hub
        self._partition = partition
        self.group = group
        self._start = start
        self.metric = metric
        self._commits = commits
        self.shares = shares
        """Of a whole hub: whether others of the group get other partitions."""
        self.lanes: dict[int, Lane] = {}
        self._unsettled: dict[int, tuple[Lane, int]] = {}
        self._counted = 0
        self._share: tuple[int, int] | None = None if shares else (0, 1)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Task[None] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._answers: list[tuple[int, Any]] = []
        self.writer: EventWriter
        self.ended = False

    # -- from the connection

    @property
    def one_partition(self) -> bool:
        """Whether it reads one partition, and not a share of its hub."""
        return self._partition >= 0

    def start(self) -> None:
        """Send from now on."""
        self.writer = EventWriter(self._connection.engine, self._link)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def credited(self) -> None:
        """Credit, window or room in the socket's buffer changed."""
        self._wake.set()
        if self._waiter is not None and self._link.drain:
            self._waiter.cancel()

    def take_share(self, index: int, count: int) -> None:
        """Read every `count`-th partition from `index` on."""
        self._share = (index, count)
        self._wake.set()
        if self._waiter is not None:
            self._waiter.cancel()

    def settle(self, first: int, last: int, state: Any, settled: bool) -> None:
        """The peer says what became of deliveries."""
        if not self._unsettled:
            return
        span = (last - first) & 0xFFFFFFFF
        if span < len(self._unsettled):
            ids = [(first + step) & 0xFFFFFFFF for step in range(span + 1)]
        else:
            ids = [each for each in self._unsettled if (each - first) & 0xFFFFFFFF <= span]
        for delivery_id in ids:
            found = self._unsettled.pop(delivery_id, None)
            if found is None:
                continue
            lane, offset = found
            if isinstance(state, Released) or (isinstance(state, Modified) and not state.undeliverable_here):
                lane.again.append(offset)
                if isinstance(state, Modified) and state.delivery_failed:
                    lane.open[offset] += 1
            elif state is not None or settled:
                lane.open.pop(offset, None)
            else:
                self._unsettled[delivery_id] = found
                continue
            if not settled:
                self._answers.append((delivery_id, state or Accepted()))
        self._count_unsettled()
        self._commit_soon()
        self._wake.set()

    def end(self, condition: str, description: str) -> None:
        """Detach the link."""
        self._connection.engine.detach(self._link, condition, description)
        self._connection.flush_soon()

    def allowed(self) -> bool:
        """Whether the peer may still use it."""
        return self._connection.may_receive(self.hub.name, self.group)

    def close(self) -> None:
        """The link is gone."""
        self.ended = True
        self._unsettled.clear()
        self._count_unsettled()
        if self._partition >= 0:
            self.context.readers.leave_partition((self.hub.name, self.group, self._partition), self)
        elif not self.shares:
            pass
        elif self._committing is not None and not self._committing.done():
            self._committing.add_done_callback(self._leave_hub)  # whoever takes over begins at what it commits
        else:
            self._leave_hub()
        for lane in self.lanes.values():
            self.context.held_bytes -= lane.forget()
        for task in (self._task, self._waiter):
            if task is not None:
                task.cancel()

    def _leave_hub(self, _: object = None) -> None:
        self.context.readers.leave_hub(self.hub.name, self.group, self)

    # -- sending

    async def _run(self) -> None:
        try:
            if self._partition >= 0:
                offset = await self._first(self._partition)
                self.lanes[self._partition] = Lane((self.hub.name, self._partition), offset)
            while not self.ended:
                self._wake.clear()
                if self._share is not None:
                    await self._reshare()
                if not await self._pump() and not self.ended:
                    await self._idle()
        except asyncio.CancelledError:
            raise
        except GridwireError as error:
            self.end(*condition_of(error))
        except Exception:
            log.exception("amqp_receiver_failed", hub=self.hub.name)
            self.end("amqp:internal-error", "reading failed; the hub's log says more")

    async def _first(self, partition: int) -> int:
        """Offset to begin at."""
        name, start, broker = self.hub.name, self._start, self.context.broker
        bounds = await broker.bounds(name, partition)
        if start is None:
            return bounds.start
        if start.kind == "latest":
            return bounds.end
        if start.kind == "time":
            found = await broker.offset_at(name, partition, start.value)
            return bounds.end if found is None else found[0]
        if start.kind == "committed":
            position = (await broker.positions(self.group)).get((name, partition))
            return bounds.start if position is None else position.offset
        return start.value

    async def _reshare(self) -> None:
        """Have a lane for each partition that is ours, and none for others."""
        assert self._share is not None
        (index, count), self._share = self._share, None
        self.hub = self.context.broker.hub(self.hub.name)
        mine = {partition for partition in range(self.hub.partitions) if partition % count == index}
        for partition in list(self.lanes):
            if partition not in mine:
                lane = self.lanes.pop(partition)
                self.context.held_bytes -= lane.forget()
                self._unsettled = {key: each for key, each in self._unsettled.items() if each[0] is not lane}
                self._count_unsettled()
        for partition in mine - self.lanes.keys():
            self.lanes[partition] = Lane((self.hub.name, partition), await self._first(partition))

    def _room(self) -> int:
        """Events that may be sent now."""
        link = self._link
        if not link.alive or self._connection.writing_paused:
            return 0
        room = min(link.credit, link.session.room)
        if link.settled:
            return room
        left = CONNECTION_UNSETTLED_MAX - self._connection.unsettled
        return min(room, left, UNSETTLED_MAX - len(self._unsettled))

    def _count_unsettled(self) -> None:
        """Keep the connection's count; other links wait for it, too."""
        connection, change = self._connection, len(self._unsettled) - self._counted
        waited = connection.unsettled >= CONNECTION_UNSETTLED_MAX and change < 0
        connection.unsettled += change
        self._counted = len(self._unsettled)
        if waited:
            connection.wake_receivers()

    async def _pump(self) -> bool:
        """Send what there is, a turn for each lane; False when nothing could be sent."""
        sent = False
        for lane in list(self.lanes.values()):
            if self._room() <= 0 or self.ended:
                return sent
            sent = await self._send_again(lane) or sent
            if self._room() > 0 and await lane.fill(self) and self._room() > 0 and not self.ended:
                assert lane.cursor is not None
                sent = self._write(lane, lane.cursor, lane.offset, self._room(), again=False) or sent
                if self.context.held_bytes > HELD_BYTES_MAX:
                    self.context.held_bytes -= lane.forget()
        if sent:
            await asyncio.sleep(0)
        return sent

    def _write(self, lane: Lane, cursor: RecordCursor, first: int, room: int, *, again: bool) -> bool:
        session = self._link.session
        delivery_id = session.next_delivery_id
        offsets: list[int] = []
        try:
            count = self.writer.write(cursor, first, room, offsets, lane.open.get(first, 0) if again else 0)
        except (InvalidBatch, MessageTooLarge, AmqpError) as error:
            raise Corruption(str(error), hub=lane.place[0], partition=lane.place[1]) from error
        if not self._link.settled:
            for step, offset in enumerate(offsets):
                self._unsettled[(delivery_id + step) & 0xFFFFFFFF] = (lane, offset)
                lane.open.setdefault(offset, 0)
            self._count_unsettled()
        if offsets and not again:
            lane.offset = offsets[-1] + 1
            if self._commits and self._link.settled:
                self._commit_soon()
        if not cursor.left and not again:
            lane.offset = max(lane.offset, cursor.next_offset)
        self.context.counters.events_out += count
        if count:
            self._connection.flush()
        return count > 0

    async def _send_again(self, lane: Lane) -> bool:
        """Send released events once more, each read anew."""
        sent = False
        while lane.again and self._room() > 0:
            offset = lane.again.popleft()
            try:
                read = await self.context.broker.read(*lane.place, offset, 1, committed=True)
            except OffsetOutOfRange:  # retention was faster
                lane.open.pop(offset, None)
                continue
            for position, header in batch.iter_headers(read.data):
                if header.next_offset > offset:
                    cursor = await opened(read.data, position, header)
                    sent = self._write(lane, cursor, offset, 1, again=True) or sent
                    break
        return sent

    async def _idle(self) -> None:
        """Wait for events, or for the peer."""
        if self._room() > 0 and not any(lane.again for lane in self.lanes.values()):
            if self._link.drain:
                self._connection.engine.drained(self._link)
                self._connection.flush()
                return
            if self.lanes and self._share is None:
                await self._wait()
                return
        if not self._wake.is_set():
            await self._wake.wait()

    async def _wait(self) -> None:
        positions = {lane.place: lane.offset for lane in self.lanes.values()}
        self._waiter = asyncio.ensure_future(self.context.broker.wait(positions, WAIT_S, committed=True))
        try:
            await self._waiter
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                self._waiter.cancel()
                raise
        finally:
            self._waiter = None

    # -- positions

    def _commit_soon(self) -> None:
        if self._commits and (self._committing is None or self._committing.done()):
            self._committing = asyncio.get_running_loop().create_task(self._commit())
        elif not self._commits:
            answers, self._answers = self._answers, []
            self._answer(answers)

    async def _commit(self) -> None:
        """Commit until nothing is left to commit; outcomes are confirmed once they are durable."""
        await asyncio.sleep(0)
        while True:
            answers, self._answers = self._answers, []
            moved = {lane: lane.position() for lane in self.lanes.values() if lane.position() > lane.committed}
            if not moved and not answers:
                return
            if moved:
                now_ms = self.context.clock.now_ms()
                positions = {lane.place: Position(offset, "", now_ms) for lane, offset in moved.items()}
                try:
                    await self.context.broker.commit(self.group, positions)
                except GridwireError as error:
                    self.end(*condition_of(error))
                    return
                for lane, offset in moved.items():
                    lane.committed = offset
            self._answer(answers)

    def _answer(self, answers: list[tuple[int, Any]]) -> None:
        if not self.ended:
            for delivery_id, state in answers:
                self._connection.engine.settled(self._link.session, delivery_id, delivery_id, state)
        self._connection.flush_soon()
