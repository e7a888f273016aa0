"""A Kafka cluster as one thing to ask: who leads what, connections to every broker, and asking again where that helps.

Everything that can pass by itself (a leader that moves, a broker that restarts, a coordinator that loads) is asked
again with growing pauses until the time is up; then it is `Unavailable` with the last reason. While no broker answers
at all, requests fail at once: `trouble` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

import structlog

from gridwire.broker import kafka_wire as wire
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_errors import Again, failure
from gridwire.broker.kafka_wire import Connection
from gridwire.core.errors import GridwireError, NotAuthenticated, Unavailable, UnknownHub, UnknownPartition
from gridwire.wire.kafka.compiler import Struct

ASK_S: Final = 15.0
"""How long one request of ours is tried: a leader that dies is replaced within a few seconds."""

PAUSE_LEAST_S: Final = 0.02
PAUSE_MOST_S: Final = 1.0

REFRESH_S: Final = 10.0
"""How old what is known of the cluster may get, when nothing fails and nobody tells."""

PROBE_S: Final = 0.5
"""How often a cluster that does not answer is tried."""

POLLS_MAX: Final = 256
"""Long polls at one broker at a time; each holds a connection, as a broker answers one request after the other."""

EARLIEST: Final = -2
LATEST: Final = -1
MAX_TIMESTAMP: Final = -3
"""Times with a meaning of their own, of `list_offsets`."""

POLLS_KEPT: Final = 16
"""Connections for long polls that are kept for the next one."""

T = TypeVar("T")
log = structlog.get_logger("gridwire.kafka")


class Use(enum.Enum):
    """What a connection is for. A broker answers one request after the other: what is slow must not hold the rest."""

    ASK = enum.auto()
    READ = enum.auto()
    APPEND = enum.auto()


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as the cluster describes it; `leader` is -1 while there is none."""

    leader: int
    replicas: int
    in_sync: int


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster describes it."""

    name: str
    id: UUID
    internal: bool
    partitions: tuple[Partition, ...]


class KafkaClient:
    """Make it inside the event loop, `start` it, `close` it. `on_refreshed` is called when the picture changed."""

    def __init__(self, address: KafkaAddress) -> None:
        self.address = address
        self.cluster_id = ""
        self.topics: dict[str, Topic] = {}
        self.brokers: dict[int, tuple[str, int]] = {}
        self.trouble: str | None = None
        """Why the cluster cannot be used at present; None while it answers."""
        self.on_refreshed: Callable[[], Awaitable[None]] | None = None
        self._ssl = address.ssl_context() if address.encrypted else None
        self._connections: dict[tuple[int, Use], Connection] = {}
        self._connecting: dict[tuple[int, Use], asyncio.Lock] = {}
        self._polls: dict[int, list[Connection]] = {}
        self._polling: dict[int, asyncio.Semaphore] = {}
        self._coordinators: dict[str, int] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Learn the cluster. Raises Unavailable, NotAuthenticated, Unsupported, with the next step."""
        await self._learn()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Let go of every connection."""
        for task in (self._keeper, self._refreshing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, GridwireError):
                    await task
        for connection in [*self._connections.values(), *(each for polls in self._polls.values() for each in polls)]:
            connection.close()
        self._connections.clear()
        self._polls.clear()

    async def _keep(self) -> None:
        """Look at the cluster now and then, when somebody asks for it, and often while it does not answer."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S if self.trouble is None else PROBE_S):
                    await self._wanted.wait()
            self._wanted.clear()
            with contextlib.suppress(GridwireError):
                await self.refresh()

    def doubt(self) -> None:
        """Something moved: look at the cluster soon."""
        self._wanted.set()

    async def refresh(self) -> None:
        """Look at the cluster now; who comes meanwhile shares the look. Raises Unavailable."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        try:
            await self._learn()
        except GridwireError as error:
            if self.trouble is None:
                log.warning("the cluster does not answer", reason=str(error))
            self.trouble = str(error)
            raise
        if self.trouble is not None:
            log.info("the cluster answers again")
            self.trouble = None
        if self.on_refreshed is not None:
            await self.on_refreshed()

    async def _learn(self) -> None:
        body = await self._ask_anybody(wire.METADATA, {"Topics": None, "AllowAutoTopicCreation": False})
        self.cluster_id = body["ClusterId"] or ""
        self.brokers = {row["NodeId"]: (row["Host"], row["Port"]) for row in body["Brokers"]}
        self.topics = {row["Name"]: _topic(row) for row in body["Topics"] if row["ErrorCode"] == 0}
        for node, use in list(self._connections):
            if node >= 0 and node not in self.brokers:
                self._connections.pop((node, use)).close("the broker left the cluster")

    async def _ask_anybody(self, key: int, body: Struct) -> Struct:
        """Ask brokers one after the other until one answers; those of the address too. Raises Unavailable."""
        known = list(self.brokers)
        random.shuffle(known)
        reason = GridwireError("no broker")
        for node in [*known, *(-1 - index for index in range(len(self.address.servers)))]:
            try:
                connection = await self._connection(node, Use.ASK)
                return await connection.ask(key, body)
            except NotAuthenticated as error:
                raise NotAuthenticated(f"{error}; check --broker-user and --broker-password-file") from None
            except Unavailable as error:
                reason = error
        raise Unavailable(f"the Kafka cluster {self.address.url} cannot be reached: {reason}")

    # -- connections --------------------------------------------------------------------------------------------

    def _where(self, node: int) -> tuple[str, int]:
        """Address of a broker; below zero stand the servers of our own address."""
        if node < 0:
            host, _, port = self.address.servers[-1 - node].rpartition(":")
            return host.strip("[]"), int(port)
        if node not in self.brokers:
            raise Again(f"broker {node} is not known (yet)")
        return self.brokers[node]

    async def _connection(self, node: int, use: Use) -> Connection:
        place = (node, use)
        async with self._connecting.setdefault(place, asyncio.Lock()):
            known = self._connections.get(place)
            if known is not None and known.usable:
                return known
            if known is not None:
                self._retire(known)
            made = self._connections[place] = await Connection.connect(*self._where(node), self.address, self._ssl)
            return made

    @staticmethod
    def _retire(connection: Connection) -> None:
        """Let it answer what it was asked, then close it."""
        if connection.idle:
            connection.close("replaced")
        else:
            asyncio.get_running_loop().call_later(wire.ANSWER_S, connection.close, "replaced")

    @asynccontextmanager
    async def polling(self, node: int) -> AsyncIterator[Connection]:
        """A connection of one's own for as long as a long poll takes."""
        kept = self._polls.setdefault(node, [])
        async with self._polling.setdefault(node, asyncio.Semaphore(POLLS_MAX)):
            while kept and not kept[-1].usable:
                kept.pop().close()
            connection = kept.pop() if kept else await Connection.connect(*self._where(node), self.address, self._ssl)
            try:
                yield connection
            finally:
                if connection.usable and connection.idle and len(kept) < POLLS_KEPT:
                    kept.append(connection)
                else:
                    connection.close("poll given up")

    # -- asking -------------------------------------------------------------------------------------------------

    async def trying(
        self, attempt: Callable[[], Awaitable[T]], timeout_s: float = ASK_S, patient: Callable[[], bool] = lambda: False
    ) -> T:
        """Run an attempt until it succeeds or fails for good.

        Args:
            patient: whether to go on although no broker answers at all: where giving up leaves a doubt.

        Raises:
            Unavailable: the time was up, or no broker answers at all; with the last reason.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        pause_s = PAUSE_LEAST_S
        while True:
            try:
                return await attempt()
            except (Again, Unavailable) as error:
                reason = error
            if self.trouble is not None and not patient():
                raise Unavailable(self.trouble)
            if loop.time() + pause_s > deadline_s:
                raise Unavailable(f"Kafka could not do it within {timeout_s:.0f} s: {reason}")
            self.doubt()
            await asyncio.sleep(pause_s * (0.5 + random.random()))  # many gateways must not ask in step
            pause_s = min(pause_s * 2, PAUSE_MOST_S)

    async def ask_anybody(self, key: int, body: Struct) -> Struct:
        """Ask any broker once. Raises Unavailable."""
        if self.trouble is not None:
            raise Unavailable(self.trouble)
        return await self._ask_anybody(key, body)

    async def ask_node(self, node: int, key: int, body: Struct, use: Use = Use.ASK) -> Struct:
        """Ask one broker once. Raises Again, Unavailable."""
        return await (await self._connection(node, use)).ask(key, body)

    def topic(self, name: str) -> Topic:
        """Raises UnknownHub."""
        topic = self.topics.get(name)
        if topic is None:
            raise UnknownHub(f"no topic {name!r} in the cluster")
        return topic

    def leader(self, topic: str, partition: int) -> int:
        """Who leads a partition. Raises UnknownHub, UnknownPartition; Again: nobody at present."""
        partitions = self.topic(topic).partitions
        if not 0 <= partition < len(partitions):
            raise UnknownPartition(f"topic {topic!r} has partitions 0 to {len(partitions) - 1}, not {partition}")
        leader = partitions[partition].leader
        if leader < 0:
            raise Again(f"partition {partition} of {topic!r} has no leader at present")
        return leader

    async def ask_leader(self, topic: str, partition: int, key: int, body: Struct, use: Use = Use.ASK) -> Struct:
        """Ask the leader of a partition once. Raises Again, Unavailable, UnknownHub, UnknownPartition."""
        return await self.ask_node(self.leader(topic, partition), key, body, use)

    async def coordinator(self, group: str) -> int:
        """The broker that keeps a group; remembered until `forget_coordinator`. Raises Again, Unavailable."""
        known = self._coordinators.get(group)
        if known is None:
            body = await self.ask_anybody(wire.FIND_COORDINATOR, {"Key": group, "KeyType": 0})
            if body["ErrorCode"]:
                raise failure(body["ErrorCode"], f"group {group!r} has no coordinator at present")
            known = self._coordinators[group] = body["NodeId"]
        return known

    def forget_coordinator(self, group: str) -> None:
        """It moved, or may have."""
        self._coordinators.pop(group, None)

    async def ask_coordinator(self, group: str, key: int, body: Struct, check: Callable[[Struct], None]) -> Struct:
        """Ask the coordinator of a group until it answers for good; `check` raises what the answer means."""

        async def attempt() -> Struct:
            try:
                body_back = await self.ask_node(await self.coordinator(group), key, body)
                check(body_back)
            except (Again, Unavailable):
                self.forget_coordinator(group)
                raise
            return body_back

        return await self.trying(attempt)

    async def list_offsets(
        self, node: int, places: Sequence[tuple[str, int]], timestamp: int, isolation: int = 0
    ) -> dict[tuple[str, int], tuple[int, int]]:
        """(offset, timestamp) of each place as one broker answers, asked once. Raises Again and the rest."""
        rows = topics_of(places, lambda _, number: {"PartitionIndex": number, "Timestamp": timestamp})
        told = await self.ask_node(node, wire.LIST_OFFSETS, {"IsolationLevel": isolation, "Topics": rows})
        found = {}
        for topic in told["Topics"]:
            for part in topic["Partitions"]:
                if part["ErrorCode"]:
                    raise failure(part["ErrorCode"], f"bounds of {topic['Name']}/{part['PartitionIndex']}")
                found[topic["Name"], part["PartitionIndex"]] = (part["Offset"], part["Timestamp"])
        return found

    async def by_leader(self, places: Sequence[tuple[str, int]]) -> Mapping[int, list[tuple[str, int]]]:
        """Places by who leads them now; a place without a leader raises Again."""
        found: dict[int, list[tuple[str, int]]] = {}
        for topic, partition in places:
            found.setdefault(self.leader(topic, partition), []).append((topic, partition))
        return found


def _topic(row: Mapping[str, Any]) -> Topic:
    partitions = sorted(row["Partitions"], key=lambda each: each["PartitionIndex"])
    return Topic(
        row["Name"], row["TopicId"], row["IsInternal"],
        tuple(Partition(each["LeaderId"], len(each["ReplicaNodes"]), len(each["IsrNodes"])) for each in partitions),
    )  # fmt: skip


def topics_of(
    places: Sequence[tuple[str, int]], part: Callable[[str, int], Struct], name: str = "Name"
) -> list[Struct]:
    """The `Topics` array that most requests have, with one entry a partition."""
    by_topic: dict[str, list[Struct]] = {}
    for topic, partition in places:
        by_topic.setdefault(topic, []).append(part(topic, partition))
    return [{name: topic, "Partitions": parts} for topic, parts in by_topic.items()]
