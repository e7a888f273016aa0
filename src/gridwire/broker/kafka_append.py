"""Appends to a Kafka cluster: in order per partition, acknowledged by all replicas in sync, without duplicates.

Theory of operation. Every partition that is written to has a lane: a queue and, while it is not empty, a task that
takes what lies at its front, sends it to the partition's leader, and goes on only when it knows how that ended. So at
most one batch of a partition is on its way, and whatever happens its successors stay behind it. What arrives meanwhile
gathers: small batches of the gateway's own become one (a group commit), and lanes with the same leader share requests.

A batch without a producer id gets the lane's: id, epoch and sequence. Sending it again after a lost connection or to a
new leader is then noticed by the cluster. A batch that carries a producer id passes as it is; its sequence does the
same for its producer.

When an append is given up, nobody knows whether the cluster has it. Its sequence number must not be used again for
something else, or that would be taken for a duplicate and lost: the lane takes a new producer id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from gridwire.broker import kafka_wire as wire
from gridwire.broker.kafka_client import KafkaClient, Use
from gridwire.broker.kafka_errors import Again, failure
from gridwire.broker.port import Appended
from gridwire.core import compression
from gridwire.core.batch import HEADER_BYTES, BatchHeader, merged, read_header, set_producer
from gridwire.core.errors import GridwireError, Unavailable
from gridwire.core.limits import MIB
from gridwire.wire.kafka.compiler import Struct

APPEND_S: Final = 30.0
"""How long an append is tried before it fails; a cluster needs seconds to replace a leader."""

ACKS: Final = -1
"""All replicas in sync, and at least min.insync of them."""

WAITING_BYTES_MAX: Final = 64 * MIB
"""Batches in memory at once, over all partitions; above it appends fail, which heads pass on as "try again"."""

REQUEST_BYTES_MAX: Final = 16 * MIB
"""Batches of several partitions in one request; Kafka takes 100 MiB and answers the sooner the less there is."""

MERGED_BYTES_MAX: Final = MIB - 16 * 1024
"""Small batches become one of at most this: Kafka's own limit, unless told otherwise, is 1 MiB with its header."""

MERGED_EVENTS_MAX: Final = 2000
"""Events put together without letting other requests run: some 5 ms."""

Place = tuple[str, int]


@dataclass(slots=True)
class _Item:
    """One batch that waits."""

    batch: memoryview
    header: BatchHeader
    done: asyncio.Future[Appended]
    deadline_s: float
    alone: bool = False
    """Not to be merged: a merged batch with it was refused."""


@dataclass(slots=True)
class _Lane:
    """What is to be written to one partition, and who it comes from."""

    topic: str
    partition: int
    queue: deque[_Item] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None
    producer: tuple[int, int] | None = None
    sequence: int = 0


class _Courier:
    """Carries batches to one broker: what is ready at the same time goes in one request."""

    def __init__(self, client: KafkaClient, node: int, timeout_s: float) -> None:
        self._client = client
        self._node = node
        self._timeout_ms = int(timeout_s * 1000)
        """How long the broker may wait for its followers."""
        self._ready: deque[tuple[Place, memoryview, asyncio.Future[Struct]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def carry(self, place: Place, batch: memoryview) -> Struct:
        """The broker's answer for the partition. Raises Again, Unavailable."""
        answer: asyncio.Future[Struct] = asyncio.get_running_loop().create_future()
        self._ready.append((place, batch, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        await asyncio.sleep(0)  # let lanes that are ready in the same turn of the loop come along
        while self._ready:
            load = self._load()
            try:
                answers = await self._send(load)
            except BaseException as error:
                for _, _, answer in load:
                    if not answer.done():
                        answer.set_exception(error if isinstance(error, GridwireError) else Unavailable(str(error)))
                if not isinstance(error, GridwireError):
                    raise
                continue
            for place, _, answer in load:
                if not answer.done():
                    told = answers.get(place)
                    if told is None:
                        answer.set_exception(Unavailable("the broker's answer leaves the partition out"))
                    else:
                        answer.set_result(told)

    def _load(self) -> list[tuple[Place, memoryview, asyncio.Future[Struct]]]:
        load = [self._ready.popleft()]
        size = len(load[0][1])
        while self._ready and size + len(self._ready[0][1]) <= REQUEST_BYTES_MAX:
            load.append(self._ready.popleft())
            size += len(load[-1][1])
        return load

    async def _send(self, load: Sequence[tuple[Place, memoryview, asyncio.Future[Struct]]]) -> dict[Place, Struct]:
        topics: dict[str, list[Struct]] = {}
        for (topic, partition), batch, _ in load:
            topics.setdefault(topic, []).append({"Index": partition, "Records": batch})
        rows = [{"Name": topic, "PartitionData": parts} for topic, parts in topics.items()]
        body = {"TransactionalId": None, "Acks": ACKS, "TimeoutMs": self._timeout_ms, "TopicData": rows}
        told = await self._client.ask_node(self._node, wire.PRODUCE, body, Use.APPEND)
        return {
            (topic["Name"], part["Index"]): part for topic in told["Responses"] for part in topic["PartitionResponses"]
        }

    async def close(self) -> None:
        """Stop; who waits is told."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Unavailable):
                await self._task


class Appender:
    """All lanes of a gateway. `timeout_s`: how long an append is tried."""

    def __init__(self, client: KafkaClient, timeout_s: float = APPEND_S, waiting_bytes_max: int = WAITING_BYTES_MAX):
        self._client = client
        self._timeout_s = timeout_s
        self._waiting_bytes_max = waiting_bytes_max
        self._lanes: dict[Place, _Lane] = {}
        self._couriers: dict[int, _Courier] = {}
        self._waiting_bytes = 0
        self._closed = False
        self.batches = 0
        """Batches sent, merged ones counted once."""
        self.on_appended: Callable[[int, int], None] = lambda events, size: None
        """Called with events and bytes that were acknowledged."""

    def append(
        self, topic: str, partition: int, batch: memoryview, headers: Iterable[BatchHeader]
    ) -> asyncio.Future[Appended]:
        """Queue checked batches; the future is done when all of them are acknowledged, with the first one's offset.

        Raises (through the future): what the cluster says, and Unavailable.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Appended] = loop.create_future()
        trouble = "the gateway is stopping" if self._closed else self._client.trouble
        if trouble is None and self._waiting_bytes + len(batch) > self._waiting_bytes_max and self._waiting_bytes:
            trouble = f"{self._waiting_bytes >> 20} MiB wait for the cluster already: send slower"
        if trouble is not None:
            result.set_exception(Unavailable(trouble))
            return result
        lane = self._lanes.setdefault((topic, partition), _Lane(topic, partition))
        deadline_s = loop.time() + self._timeout_s
        parts = []
        at = 0
        for header in headers:
            done: asyncio.Future[Appended] = loop.create_future()
            lane.queue.append(_Item(batch[at : at + header.size], header, done, deadline_s))
            self._waiting_bytes += header.size
            parts.append(done)
            at += header.size
        if lane.task is None:
            lane.task = asyncio.create_task(self._run(lane))
        if len(parts) == 1:
            return parts[0]
        gathered = asyncio.gather(*parts, return_exceptions=True)
        gathered.add_done_callback(lambda done: _settle(result, done))
        return result

    async def close(self) -> None:
        """Give up what still waits."""
        self._closed = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for courier in self._couriers.values():
            await courier.close()
        for lane in self._lanes.values():
            self._fail(lane, list(lane.queue), Unavailable("the gateway is stopping"))

    async def drain(self) -> None:
        """Wait until nothing waits any more; appends that come meanwhile count too."""
        while tasks := [lane.task for lane in self._lanes.values() if lane.task is not None]:
            await asyncio.wait(tasks)

    def forget(self, topic: str) -> None:
        """The topic is gone: its idle lanes go too."""
        for place in [place for place, lane in self._lanes.items() if place[0] == topic and lane.task is None]:
            del self._lanes[place]

    # -- a lane ---------------------------------------------------------------------------------------------------

    async def _run(self, lane: _Lane) -> None:
        try:
            while lane.queue:
                items = self._next(lane)
                try:
                    await self._check(items)
                    await self._deliver(lane, items)
                except GridwireError as error:
                    if len(items) > 1 and not isinstance(error, Unavailable):
                        for item in items:  # one of them is to blame: the others must not suffer
                            item.alone = True
                    else:
                        self._fail(lane, items, error)
        finally:
            lane.task = None

    @staticmethod
    def _next(lane: _Lane) -> list[_Item]:
        """What goes next: the first item, with those behind it that may be merged with it. They stay in the queue."""
        items = [lane.queue[0]]
        if not _mergeable(items[0]):
            return items
        size, events = items[0].header.size, items[0].header.record_count
        for item in islice(lane.queue, 1, MERGED_EVENTS_MAX):
            size += item.header.size
            events += item.header.record_count
            if not _mergeable(item) or size > MERGED_BYTES_MAX or events > MERGED_EVENTS_MAX:
                break
            items.append(item)
        return items

    @staticmethod
    async def _check(items: Sequence[_Item]) -> None:
        """Refuse what does not decompress, or to more than any reader would take."""
        header, batch = items[0].header, items[0].batch
        if header.codec:
            await asyncio.to_thread(compression.decompress, header.codec, batch[HEADER_BYTES:])

    async def _deliver(self, lane: _Lane, items: Sequence[_Item]) -> None:
        """Send until the cluster has it or it is given up."""
        own = items[0].header.producer_id < 0
        batch = items[0].batch if len(items) == 1 else memoryview(merged([item.batch for item in items]))
        header = items[0].header if len(items) == 1 else read_header(batch)
        stamped: tuple[int, int] | None = None
        tried = False

        async def attempt() -> Struct:
            nonlocal stamped, tried
            node = self._client.leader(lane.topic, lane.partition)
            if own:
                if lane.producer is None:
                    lane.producer, lane.sequence = await new_producer_id(self._client), 0
                if stamped != lane.producer:
                    set_producer(batch, *lane.producer, lane.sequence)
                    stamped = lane.producer
            tried = True
            told = await self._courier(node).carry((lane.topic, lane.partition), batch)
            code = told["ErrorCode"]
            if own and code in _LOST_PRODUCER:  # certainly not appended: the cluster forgot us
                lane.producer = None
                raise Again("the cluster forgot this gateway's producer id")
            if code:
                raise failure(code, f"hub {lane.topic}/{lane.partition}", told.get("ErrorMessage"))
            return told

        left_s = items[0].deadline_s - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise Unavailable(f"Kafka took nothing for hub {lane.topic}/{lane.partition} for {self._timeout_s:.0f} s")
        try:
            told = await self._client.trying(attempt, left_s, patient=lambda: tried)
        except (Unavailable, asyncio.CancelledError):
            if tried:  # it may be there: its sequence number is spent
                lane.producer = None
            raise
        self.batches += 1
        if own:
            lane.sequence = (lane.sequence + header.record_count) & 0x7FFFFFFF
        self._succeed(lane, items, told)

    def _courier(self, node: int) -> _Courier:
        found = self._couriers.get(node)
        if found is None:
            found = self._couriers[node] = _Courier(self._client, node, self._timeout_s)
        return found

    def _succeed(self, lane: _Lane, items: Sequence[_Item], told: Struct) -> None:
        offset, time_ms, start = told["BaseOffset"], told["LogAppendTimeMs"], max(0, told["LogStartOffset"])
        for item in items:
            self._leave(lane, item)
            self.on_appended(item.header.record_count, item.header.size)
            if not item.done.done():
                item.done.set_result(Appended(offset, time_ms, start))
            offset += item.header.record_count

    def _fail(self, lane: _Lane, items: Sequence[_Item], error: GridwireError) -> None:
        for item in items:
            self._leave(lane, item)
            if not item.done.done():
                item.done.set_exception(error)

    def _leave(self, lane: _Lane, item: _Item) -> None:
        lane.queue.popleft()
        self._waiting_bytes -= item.header.size


_LOST_PRODUCER: Final = frozenset({45, 47, 59})
"""Answers to a batch of the gateway's own that mean: the cluster does not know the producer as it should."""


def _mergeable(item: _Item) -> bool:
    header = item.header
    return header.producer_id < 0 and header.attributes == 0 and not item.alone and header.size <= MERGED_BYTES_MAX


def _settle(result: asyncio.Future[Appended], done: asyncio.Future[list[Appended | BaseException]]) -> None:
    if result.done():
        return
    if done.cancelled():
        result.cancel()
        return
    for each in done.result():
        if isinstance(each, BaseException):
            result.set_exception(each)
            return
    first = done.result()[0]
    assert isinstance(first, Appended)
    result.set_result(first)


async def new_producer_id(client: KafkaClient) -> tuple[int, int]:
    """A (producer id, epoch) that nobody else has. Raises Again, Unavailable."""
    body = {"TransactionalId": None, "TransactionTimeoutMs": 60_000, "ProducerId": -1, "ProducerEpoch": -1}
    told = await client.ask_anybody(wire.INIT_PRODUCER_ID, body)
    if told["ErrorCode"]:
        raise failure(told["ErrorCode"], "a producer id")
    return told["ProducerId"], told["ProducerEpoch"]
