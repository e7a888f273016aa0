"""The broker that is a Kafka cluster: hubs are topics, positions and groups are Kafka's, batches pass verbatim.

A gateway holds nothing: any number of them serve the same cluster, and each may be killed. An acknowledgement means
what `acks=all` means there: every replica in sync has the batch, at least `min.insync.replicas` of them.

| part | where |
| --- | --- |
| connections, leaders, asking again | `kafka_wire`, `kafka_client`, `kafka_errors` |
| appends: order, idempotence, back-pressure | `kafka_append` |
| topics as hubs | `kafka_hubs` |
| groups and positions | `kafka_groups` |
| control state | `kafka_control` |
| workers' side | `kafka_source` |
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from gridwire.broker import kafka_wire as wire
from gridwire.broker.control import Changes
from gridwire.broker.kafka_address import CONTROL_TOPIC, KafkaAddress
from gridwire.broker.kafka_append import APPEND_S, Appender, new_producer_id
from gridwire.broker.kafka_client import (
    EARLIEST,
    LATEST,
    MAX_TIMESTAMP,
    PAUSE_LEAST_S,
    PAUSE_MOST_S,
    KafkaClient,
    Use,
)
from gridwire.broker.kafka_control import CONFIGS, KafkaControl
from gridwire.broker.kafka_errors import Again, failure
from gridwire.broker.kafka_groups import KafkaGroups
from gridwire.broker.kafka_hubs import KafkaHubs
from gridwire.broker.kafka_records import OFFSET_OUT_OF_RANGE, aborted_in, fetch_body, part_of, parts, whole_batches
from gridwire.broker.port import Appended, Bounds, HubInfo, Place, Position, Read
from gridwire.core.batch import check_acceptable, check_produced
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.errors import (
    Corruption,
    GridwireError,
    HubExists,
    InvalidBatch,
    OffsetOutOfRange,
    Unavailable,
    UnknownHub,
    UnknownPartition,
)
from gridwire.wire.kafka.compiler import Struct

POLL_S: Final = 30.0
"""Longest a broker is asked to wait for events before it is asked again."""

HIGH_WATERMARK: Final = -1
"""Offset that asks a broker to delete every record."""


class KafkaBroker:
    """`Broker` over a Kafka cluster. Create with `open`."""

    def __init__(self, address: KafkaAddress, clock: Clock, append_timeout_s: float) -> None:
        self.address = address
        self.clock = clock
        self.client = KafkaClient(address)
        self.appended_events = 0
        self.appended_bytes = 0
        self.on_hubs_changed: Callable[[], None] = lambda: None
        self._appender = Appender(self.client, append_timeout_s)
        self._appender.on_appended = self._count
        self._control = KafkaControl(self.client, self._appender, address.topic(CONTROL_TOPIC), clock)
        self.groups = KafkaGroups(self.client)

    # -- life ---------------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        address: KafkaAddress,
        *,
        clock: Clock | None = None,
        default_partitions: int = 4,
        templates: Mapping[str, Mapping[str, Any]] | None = None,
        single_partition: frozenset[str] = frozenset(),
        append_timeout_s: float = APPEND_S,
    ) -> KafkaBroker:
        """Connect, make the control topic if there is none, replay it.

        Args:
            templates: settings of hubs with a meaning of their own. single_partition: those with one partition.
            append_timeout_s: how long an append is tried.

        Raises:
            Unavailable, NotAuthenticated, NotAllowed, Unsupported: with the next step.
        """
        broker = cls(address, clock or SystemClock(), append_timeout_s)
        broker._hubs = KafkaHubs(
            broker.client, broker._control, broker.clock, default_partitions, templates or {}, single_partition
        )
        broker._hubs.on_changed = lambda: broker.on_hubs_changed()
        try:
            await broker.client.start()
            await broker._open_control()
            broker.client.on_refreshed = broker._hubs.refreshed
            broker._control.on_followed = broker._hubs.noted
            await broker.client.refresh()
        except BaseException:
            await broker.close()
            raise
        return broker

    _hubs: KafkaHubs

    async def _open_control(self) -> None:
        topic = self.address.topic(CONTROL_TOPIC)
        if topic not in self.client.topics:
            with contextlib.suppress(HubExists):
                await self._hubs.make_topic(topic, 1, CONFIGS)

        async def led() -> Bounds:
            await self.client.refresh()
            try:
                return (await self._list_bounds([(topic, 0)]))[topic, 0]
            except UnknownHub:
                raise Again("the brokers do not show the control topic yet") from None

        await self._control.open(await self.client.trying(led))

    async def close(self) -> None:
        """Give up what still waits, let go of the cluster."""
        await self._control.close()
        await self._appender.close()
        await self.client.close()

    def _count(self, events: int, size: int) -> None:
        self.appended_events += events
        self.appended_bytes += size

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def cluster_id(self) -> str:
        """The cluster's own."""
        return self.client.cluster_id

    @property
    def trouble(self) -> str | None:
        """Why the cluster cannot be used at present; None while it answers."""
        return self.client.trouble

    @property
    def durability(self) -> str:
        """What an acknowledgement means for the hub that is kept least safely."""
        told = (str(number) if number > 0 else "as the cluster says" for number in self._least_safety())
        return "acks=all, replication {}, min.insync {}".format(*told)

    def _least_safety(self) -> tuple[int, int]:
        found = [self._hubs.safety(hub.name) for hub in self.hubs() if not hub.internal]
        return min(found, key=min, default=(self.address.replication, self.address.min_insync))

    def durable(self, hub: str) -> bool:
        """Whether what is acknowledged survives the loss of a machine: two at least have it."""
        return min(self._hubs.safety(hub)) >= 2

    def describe(self) -> Mapping[str, Any]:
        """What `/v1/status` says of the cluster."""
        replicas, insync = self._least_safety()
        return {
            "kind": "kafka",
            "address": self.address.url,
            "cluster_id": self.client.cluster_id,
            "brokers": len(self.client.brokers),
            "replication": replicas,
            "min_insync": insync,
            "prefix": self.address.prefix,
            "trouble": self.trouble,
        }

    def counters(self) -> Mapping[str, int]:
        """Running totals since the start."""
        return {
            "appended_events": self.appended_events,
            "appended_bytes": self.appended_bytes,
            "batches": self._appender.batches,
        }

    # -- hubs ---------------------------------------------------------------------------------------------------

    def hubs(self) -> Sequence[HubInfo]:
        """All hubs by name, as the cluster was when last looked at."""
        return self._hubs.list()

    def hub(self, name: str) -> HubInfo:
        """Raises UnknownHub."""
        return self._hubs.get(name)

    async def create_hub(
        self, name: str, partitions: int | None = None, settings: Mapping[str, Any] | None = None
    ) -> HubInfo:
        """In the cluster and shown by it when it returns. Raises HubExists, InvalidName, InvalidSetting."""
        return await self._hubs.create(name, partitions, settings)

    async def delete_hub(self, name: str) -> None:
        """Forget the hub and its data. Raises UnknownHub."""
        await self._hubs.delete(name)
        self._appender.forget(self.address.topic(name))

    async def add_partitions(self, name: str, total: int) -> HubInfo:
        """Grow to `total` partitions. Raises UnknownHub, InvalidSetting."""
        return await self._hubs.add_partitions(name, total)

    async def alter_hub(self, name: str, settings: Mapping[str, Any]) -> HubInfo:
        """Change settings live. Raises UnknownHub, InvalidSetting."""
        return await self._hubs.alter(name, settings)

    def _topic(self, hub: str, partition: int) -> str:
        """The topic of a place that exists. Raises UnknownHub, UnknownPartition."""
        info = self._hubs.get(hub)
        if not 0 <= partition < info.partitions:
            raise UnknownPartition(f"hub {hub!r} has partitions 0 to {info.partitions - 1}, not {partition}")
        return self.address.topic(hub)

    # -- events -------------------------------------------------------------------------------------------------

    def append(self, hub: str, partition: int, batches: bytearray | memoryview) -> asyncio.Future[Appended]:
        """Append whole v2 batches; see `Broker.append`."""
        try:
            topic = self._topic(hub, partition)
            headers = check_produced(batches)
            check_acceptable(headers, hub, self.hub(hub).settings.message_bytes_max)
            view = memoryview(batches)
            return self._appender.append(
                topic, partition, memoryview(bytearray(view)) if view.readonly else view, headers
            )
        except GridwireError as error:
            refused: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    async def bounds(self, hub: str, partition: int) -> Bounds:
        """Raises UnknownHub, UnknownPartition, Unavailable."""
        place = (self._topic(hub, partition), partition)
        return (await self.client.trying(lambda: self._list_bounds([place])))[place]

    async def bounds_of(self, places: Iterable[Place]) -> Mapping[Place, Bounds]:
        """Bounds of many places with few requests; places that are not there are left out. Raises Unavailable."""
        wanted = {}
        for hub, partition in places:
            with contextlib.suppress(UnknownHub, UnknownPartition):
                wanted[self._topic(hub, partition), partition] = (hub, partition)
        if not wanted:
            return {}
        found = await self.client.trying(lambda: self._list_bounds(list(wanted)))
        return {wanted[place]: bounds for place, bounds in found.items()}

    async def _list_bounds(self, places: Sequence[Place]) -> dict[Place, Bounds]:
        by_leader = await self.client.by_leader(places)
        asked = []
        for node, led in by_leader.items():
            for timestamp, isolation in ((EARLIEST, 0), (LATEST, 0), (LATEST, 1)):
                asked.append(self.client.list_offsets(node, led, timestamp, isolation))
        answers = await asyncio.gather(*asked)
        found: dict[Place, Bounds] = {}
        for index in range(0, len(answers), 3):
            starts, ends, stables = answers[index : index + 3]
            for place, (start, _) in starts.items():
                found[place] = Bounds(start, max(start, ends[place][0]), max(start, stables[place][0]))
        return found

    async def offset_at(self, hub: str, partition: int, timestamp_ms: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the first event at or after a time; None if there is none."""
        return await self._by_time(hub, partition, max(0, timestamp_ms))

    async def newest(self, hub: str, partition: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the event with the largest timestamp; None if there is no event."""
        return await self._by_time(hub, partition, MAX_TIMESTAMP)

    async def _by_time(self, hub: str, partition: int, timestamp: int) -> tuple[int, int] | None:
        place = (self._topic(hub, partition), partition)

        async def attempt() -> tuple[int, int]:
            return (await self.client.list_offsets(self.client.leader(*place), [place], timestamp))[place]

        found = await self.client.trying(attempt)
        return None if found[0] < 0 else found

    async def sizes(self, hub: str) -> Sequence[int]:
        """Bytes kept, per partition, at its leader. Raises UnknownHub, Unavailable."""
        info = self._hubs.get(hub)
        topic = self.address.topic(hub)

        async def attempt() -> list[int]:
            leaders = [self.client.leader(topic, number) for number in range(info.partitions)]
            body = {"Topics": [{"Topic": topic, "Partitions": list(range(info.partitions))}]}
            nodes = sorted(set(leaders))
            answers = await asyncio.gather(*(self.client.ask_node(n, wire.DESCRIBE_LOG_DIRS, body) for n in nodes))
            sizes = [0] * info.partitions
            for node, told in zip(nodes, answers, strict=True):
                for number, size in _log_sizes(told, topic):
                    if number < len(sizes) and leaders[number] == node:
                        sizes[number] += size
            return sizes

        return await self.client.trying(attempt)

    async def read(self, hub: str, partition: int, offset: int, bytes_max: int, *, committed: bool = False) -> Read:
        """Whole batches that are there now. Raises OffsetOutOfRange, UnknownHub, Corruption, Unavailable."""
        topic = self._topic(hub, partition)
        body = fetch_body([(topic, partition, offset)], bytes_max, committed=committed)

        async def attempt() -> Struct:
            return part_of(await self.client.ask_leader(topic, partition, wire.FETCH, body, Use.READ), topic, partition)

        try:
            part = await self.client.trying(attempt)
        except OffsetOutOfRange:
            bounds = await self.bounds(hub, partition)
            raise OffsetOutOfRange(
                f"offset {offset} is not in {hub}/{partition}, which has {bounds.start} to {bounds.end}",
                bounds.start,
                bounds.end,
            ) from None
        except InvalidBatch as error:
            raise Corruption(str(error), hub=hub, partition=partition) from None
        data = whole_batches(part["Records"])
        aborted = aborted_in(data, part["AbortedTransactions"]) if committed else ()
        start, end = max(0, part["LogStartOffset"]), part["HighWatermark"]
        return Read(data, start, end, part["LastStableOffset"], aborted)

    async def wait(self, positions: Mapping[Place, int], timeout_s: float, *, committed: bool = False) -> None:
        """Return when an event at or after one of the offsets is readable, or the time is up. By long polls."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        pause_s = PAUSE_LEAST_S
        while (left_s := deadline_s - loop.time()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    if await self._poll(positions, min(left_s, POLL_S), committed):
                        return
                    pause_s = PAUSE_LEAST_S
            except TimeoutError:
                return
            except Unavailable:
                self.client.doubt()
                await asyncio.sleep(min(pause_s, max(0.0, deadline_s - loop.time())))
                pause_s = min(2 * pause_s, PAUSE_MOST_S)

    async def _poll(self, positions: Mapping[Place, int], wait_s: float, committed: bool) -> bool:
        """Ask every leader at once; the first that has something ends it."""
        places = {(self._topic(*place), place[1]): offset for place, offset in positions.items()}
        by_leader = await self.client.by_leader(list(places))
        tasks = [
            asyncio.create_task(self._poll_node(node, [(*p, places[p]) for p in led], wait_s, committed))
            for node, led in by_leader.items()
        ]
        try:
            for finished in asyncio.as_completed(tasks):
                if await finished:
                    return True
            return False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll_node(
        self, node: int, places: Sequence[tuple[str, int, int]], wait_s: float, committed: bool
    ) -> bool:
        body = fetch_body(places, 1, wait_s=wait_s, committed=committed)
        async with self.client.polling(node) as connection:
            told = await connection.ask(wire.FETCH, body, wire.ANSWER_S + wait_s)
        ready = False
        for topic, part in parts(told):
            if part["ErrorCode"] == OFFSET_OUT_OF_RANGE:
                ready |= await self._started_later(topic, part["PartitionIndex"], places)
            elif part["ErrorCode"]:
                raise failure(part["ErrorCode"], f"wait for {topic}/{part['PartitionIndex']}")
            else:
                ready |= bool(part["Records"])
        return ready

    async def _started_later(self, topic: str, partition: int, places: Sequence[tuple[str, int, int]]) -> bool:
        """Whether retention passed the offset, so that there is more behind it; a pause where it is yet to come."""
        offset = next(offset for name, number, offset in places if (name, number) == (topic, partition))
        found = await self.client.list_offsets(self.client.leader(topic, partition), [(topic, partition)], EARLIEST)
        if found[topic, partition][0] > offset:
            return True
        await asyncio.sleep(PAUSE_MOST_S)
        return False

    async def delete_records(self, hub: str, partition: int, before: int | None) -> int:
        """Forget events below an offset (None: all); returns the new start. Raises OffsetOutOfRange."""
        topic = self._topic(hub, partition)
        offset = HIGH_WATERMARK if before is None else before
        rows = [{"Name": topic, "Partitions": [{"PartitionIndex": partition, "Offset": offset}]}]
        body = {"Topics": rows, "TimeoutMs": 30_000}

        async def attempt() -> int:
            told = await self.client.ask_leader(topic, partition, wire.DELETE_RECORDS, body)
            part = told["Topics"][0]["Partitions"][0]
            if part["ErrorCode"] == OFFSET_OUT_OF_RANGE:
                raise OffsetOutOfRange("beyond the end")
            if part["ErrorCode"]:
                raise failure(part["ErrorCode"], f"deletion from {hub}/{partition}")
            return int(part["LowWatermark"])

        try:
            if before is not None and before < 0:
                raise OffsetOutOfRange("below zero")
            return await self.client.trying(attempt)
        except OffsetOutOfRange:
            bounds = await self.bounds(hub, partition)
            raise OffsetOutOfRange(
                f"cannot delete below {offset}: {hub}/{partition} ends at {bounds.end}", bounds.start, bounds.end
            ) from None

    async def new_producer_id(self) -> tuple[int, int]:
        """A (producer id, epoch) nobody else has."""
        return await self.client.trying(lambda: new_producer_id(self.client))

    # -- positions ----------------------------------------------------------------------------------------------

    async def commit(self, group: str, positions: Mapping[Place, Position]) -> None:
        """In the cluster when it returns. Raises UnknownHub, UnknownPartition; FencedEpoch: the group has members."""
        for hub, partition in positions:
            self._topic(hub, partition)
        if positions:
            await self.groups.commit(group, positions)

    async def positions(self, group: str) -> Mapping[Place, Position]:
        """Committed positions of a group; Kafka does not tell when they were committed."""
        return await self.groups.positions(group)

    async def forget_positions(self, group: str, places: Sequence[Place]) -> None:
        """Forget single positions of a group. Raises UnknownHub; FencedEpoch: its members read the hub."""
        for hub, _ in places:
            self._hubs.get(hub)
        if places:
            await self.groups.forget(group, places)

    async def group_names(self) -> Sequence[str]:
        """Groups with members or positions."""
        return await self.groups.names()

    async def delete_group(self, group: str) -> None:
        """Forget the group and its positions. Raises FencedEpoch: it has members."""
        await self.groups.delete(group)

    # -- control state ------------------------------------------------------------------------------------------

    async def change(self, changes: Changes) -> None:
        """Write keyed changes to the control topic; known to this gateway when it returns, to the others at once."""
        await self._control.change(changes)

    async def update(self, decide: Callable[[], Changes]) -> bool:
        """Write what `decide` makes of what is kept, as one step among all gateways; see `Journal.update`."""
        return await self._control.update(decide)

    def kept(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Control state below a prefix, the rest of the key first."""
        return self._control.kept(prefix)

    async def catch_up(self) -> None:
        """Return when every change is known here that was acknowledged anywhere before the call."""
        await self._control.catch_up()

    def on_change(self, listener: Callable[[Changes], None]) -> None:
        """Call `listener` with every change set from now on, whoever made it."""
        self._control.listeners.append(listener)


def _log_sizes(told: Struct, topic: str) -> Iterator[tuple[int, int]]:
    for directory in told["Results"]:
        if directory["ErrorCode"]:
            raise failure(directory["ErrorCode"], f"sizes of {topic}")
        for row in directory["Topics"]:
            if row["Name"] == topic:
                for part in row["Partitions"]:
                    if not part["IsFutureKey"]:
                        yield part["PartitionIndex"], part["PartitionSize"]
