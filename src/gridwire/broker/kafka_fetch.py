"""Record batches straight from the leaders of a Kafka cluster, as the bytes that lie in its log.

One fetch request is in flight to each leader at a time. It waits there until there is something (a long poll), and the
next one is sent before the last one's events are worked on, so that broker and worker are busy at the same time.

    ask(positions)   one request to every leader that has none in flight
    answers(timeout) what arrived by then; what was asked for another position than the caller's is dropped there

A partition whose leader moved is left out until the cluster names the new one. Source: Kafka protocol guide, "Fetch
API"; reading committed data: KIP-98.
"""

from __future__ import annotations

import selectors
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog

from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_connection import LIST_OFFSETS, METADATA, KafkaConnection
from gridwire.broker.port import Place
from gridwire.core.errors import NotAllowed, RemoteProtocolError, Unavailable
from gridwire.core.limits import MIB
from gridwire.log.transactions import Aborted
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.errors import ErrorCode

WAIT_MS: Final = 500
"""How long a leader holds a request when there is nothing; a partition that is new here waits as long at most."""

FETCH_BYTES: Final = 8 * MIB
"""Bytes of one answer (one batch may exceed it): small enough that its buffer is taken from memory already in use."""

REFRESH_S: Final = 0.1
"""Pause between two looks for a new leader."""

EARLIEST: Final = -2
LATEST: Final = -1
_COMMITTED: Final = 1

_MOVED: Final = frozenset(
    {
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.LEADER_NOT_AVAILABLE, 6, 7, 8, 9,  # not leader, time, replicas
        ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.FENCED_LEADER_EPOCH, ErrorCode.UNKNOWN_LEADER_EPOCH,
        78, ErrorCode.UNKNOWN_TOPIC_ID, 103,  # offset not available yet, inconsistent topic id
    }
)  # fmt: skip
"""Answers that mean: ask the cluster again who leads."""

log = structlog.get_logger("gridwire.source")


@dataclass(frozen=True, slots=True)
class Topic:
    """A hub as the cluster describes it. `leaders`: broker by partition, -1 where there is none now."""

    id: UUID
    leaders: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Fetched:
    """Answer for one partition. `stable`: where readers of committed data end. `out_of_range`: nothing lies there."""

    place: Place
    asked: int
    start: int
    stable: int
    records: memoryview
    aborted: Sequence[Aborted]
    out_of_range: bool = False


class LeaderFetcher:
    """Connections to the brokers that lead the partitions read. Not shared between threads.

    Raises:
        Unavailable: no broker of the cluster answers.
    """

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._brokers: dict[int, tuple[str, int]] = {}
        self._connections: dict[int, KafkaConnection] = {}
        self._in_flight: dict[int, dict[Place, int]] = {}
        self._selector = selectors.DefaultSelector()
        self._names: set[str] = set()
        self._stale = True
        self._refreshed_s = 0.0
        self.topics: dict[str, Topic] = {}
        """Hubs asked about that exist, as last told."""

    def look_up(self, hubs: Collection[str]) -> None:
        """Ask the cluster about these hubs, which it is asked about from now on. Raises Unavailable, NotAllowed."""
        self._names |= set(hubs)
        self._refresh()

    def _refresh(self) -> None:
        answer = self._ask_anybody(
            METADATA,
            {
                "Topics": [{"TopicId": UUID(int=0), "Name": self._address.topic(name)} for name in sorted(self._names)],
                "AllowAutoTopicCreation": False,
            },
        )
        self._brokers = {each["NodeId"]: (each["Host"], each["Port"]) for each in answer["Brokers"]}
        self.topics = {}
        for topic in answer["Topics"]:
            hub = self._address.hub(topic["Name"] or "")
            if topic["ErrorCode"] == ErrorCode.TOPIC_AUTHORIZATION_FAILED:
                raise NotAllowed(f"the cluster does not let us describe topic {topic['Name']!r}", "hub")
            if hub and not topic["ErrorCode"]:
                leaders = {each["PartitionIndex"]: each["LeaderId"] for each in topic["Partitions"]}
                self.topics[hub] = Topic(topic["TopicId"], leaders)
        self._stale = False
        self._refreshed_s = time.monotonic()

    def _ask_anybody(self, key: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask over any connection that is free, or a new one."""
        problem: Exception = Unavailable("no server is named")
        known = [f"{host}:{port}" for host, port in self._brokers.values()]
        for server in dict.fromkeys([*known, *self._address.servers]):
            host, _, port = server.rpartition(":")
            try:
                connection = KafkaConnection(host.strip("[]"), int(port), self._address)
            except Unavailable as error:
                problem = error
                continue
            try:
                return connection.call(key, body)
            except (Unavailable, RemoteProtocolError) as error:
                problem = error
            finally:
                connection.close()
        raise Unavailable(f"no broker of {self._address.url} answers: {problem}")

    def offsets(self, places: Collection[Place], when: int) -> dict[Place, int]:
        """First offset (`EARLIEST`) or end of committed data (`LATEST`) of places; or, when a time in ms is given, the
        first offset of that time or later, -1 where there is none. Raises Unavailable."""
        found: dict[Place, int] = {}
        deadline = time.monotonic() + 60.0
        while missing := set(places) - found.keys():
            for node, some in self._by_leader(missing).items():
                found |= self._offsets_of(node, some, when)
            if set(places) - found.keys():
                if time.monotonic() > deadline:
                    raise Unavailable(f"no leader tells the offsets of {sorted(missing)[:3]}")
                time.sleep(REFRESH_S)
                self._refresh()
        return found

    def _offsets_of(self, node: int, places: Collection[Place], when: int) -> dict[Place, int]:
        topics: dict[str, list[dict[str, int]]] = defaultdict(list)
        for hub, number in places:
            topics[self._address.topic(hub)].append({"PartitionIndex": number, "Timestamp": when})
        body = {
            "IsolationLevel": _COMMITTED,
            "Topics": [{"Name": name, "Partitions": each} for name, each in topics.items()],
        }
        host, port = self._brokers[node]
        try:
            connection = KafkaConnection(host, port, self._address)
        except Unavailable:
            return {}
        try:
            answer = connection.call(LIST_OFFSETS, body)
        except Unavailable:
            return {}
        finally:
            connection.close()
        return {
            (self._address.hub(topic["Name"]) or "", each["PartitionIndex"]): each["Offset"]
            for topic in answer["Topics"]
            for each in topic["Partitions"]
            if not each["ErrorCode"]
        }

    def _by_leader(self, places: Collection[Place]) -> dict[int, list[Place]]:
        led: dict[int, list[Place]] = defaultdict(list)
        for place in places:
            topic = self.topics.get(place[0])
            node = -1 if topic is None else topic.leaders.get(place[1], -1)
            if node in self._brokers:
                led[node].append(place)
            else:
                self._stale = True
        return led

    def ask(self, positions: Mapping[Place, int]) -> None:
        """Send one request to every leader that has none in flight. Raises Unavailable when nobody can be reached."""
        if self._stale and time.monotonic() - self._refreshed_s >= REFRESH_S:
            self._refresh()
        for node, places in self._by_leader(positions.keys()).items():
            if node not in self._in_flight:
                self._ask(node, {place: positions[place] for place in places})

    def _ask(self, node: int, asked: dict[Place, int]) -> None:
        topics: dict[UUID, list[dict[str, int]]] = defaultdict(list)
        for (hub, number), offset in asked.items():
            topics[self.topics[hub].id].append(
                {"Partition": number, "FetchOffset": offset, "PartitionMaxBytes": FETCH_BYTES}
            )
        body = {
            "MaxWaitMs": WAIT_MS,
            "MinBytes": 1,
            "MaxBytes": FETCH_BYTES,
            "IsolationLevel": _COMMITTED,
            "Topics": [{"TopicId": topic, "Partitions": each} for topic, each in topics.items()],
        }
        try:
            self._connection(node).send(codec.FETCH, body)
        except Unavailable as error:
            self._drop(node, error)
            return
        self._in_flight[node] = asked

    def _connection(self, node: int) -> KafkaConnection:
        if node not in self._connections:
            host, port = self._brokers[node]
            self._connections[node] = KafkaConnection(host, port, self._address)
            self._selector.register(self._connections[node], selectors.EVENT_READ, node)
        return self._connections[node]

    def _drop(self, node: int, reason: Exception) -> None:
        """Forget a connection that is of no use any more."""
        log.info("leader cannot be read from", node=node, reason=str(reason))
        connection = self._connections.pop(node, None)
        self._in_flight.pop(node, None)
        if connection is not None:
            self._forget(connection)
        self._stale = True

    def _forget(self, connection: KafkaConnection) -> None:
        for key in list(self._selector.get_map().values()):
            if key.fileobj is connection:
                self._selector.unregister(connection)
        connection.close()

    def answers(self, timeout_s: float) -> list[Fetched]:
        """What arrives within the time; returns with the first answers. Raises NotAllowed, RemoteProtocolError."""
        ready = [node for node in self._in_flight if self._connections[node].buffered]
        if not ready:
            ready = [key.data for key, _ in self._selector.select(max(0.0, timeout_s))]
        found: list[Fetched] = []
        for node in ready:
            asked = self._in_flight.pop(node, None)
            if asked is None:  # readable without a question: it was closed
                self._drop(node, ConnectionError("closed by the broker"))
                continue
            try:
                answer = self._connections[node].receive(codec.FETCH)
            except Unavailable as error:
                self._drop(node, error)
                continue
            found += self._read(answer, asked)
        return found

    def _read(self, answer: Mapping[str, Any], asked: Mapping[Place, int]) -> list[Fetched]:
        if answer["ErrorCode"]:
            self._check(answer["ErrorCode"], "fetch")
        names = {topic.id: name for name, topic in self.topics.items()}
        found = []
        for topic in answer["Responses"]:
            hub = names.get(topic["TopicId"])
            for part in topic["Partitions"]:
                place = (hub or "", part["PartitionIndex"])
                if place not in asked:
                    self._stale = True
                    continue
                code = part["ErrorCode"]
                if code and code != ErrorCode.OFFSET_OUT_OF_RANGE:
                    self._check(code, f"{place[0]}/{place[1]}")
                    continue
                found.append(
                    Fetched(
                        place, asked[place], part["LogStartOffset"], part["LastStableOffset"],
                        part["Records"] or memoryview(b""), _aborted(part["AbortedTransactions"] or ()), code != 0,
                    )
                )  # fmt: skip
        return found

    def _check(self, code: int, what: str) -> None:
        if code in _MOVED:
            self._stale = True
        elif code in (ErrorCode.TOPIC_AUTHORIZATION_FAILED, ErrorCode.CLUSTER_AUTHORIZATION_FAILED):
            raise NotAllowed(f"the cluster does not let us read {what}", "hub")
        else:
            raise Unavailable(f"the cluster answers error {code} for {what}")

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections.values():
            self._forget(connection)
        self._connections.clear()
        self._selector.close()


def _aborted(told: Sequence[Mapping[str, int]]) -> list[Aborted]:
    """Aborted transactions as told: whose and from where; each ends with the next marker of its producer."""
    return [Aborted(each["ProducerId"], each["FirstOffset"], -1) for each in told]
