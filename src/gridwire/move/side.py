"""One side of a move: whatever speaks Kafka's protocol, be it a cluster or gridwire's embedded hub.

Hubs are topics, positions are Kafka's; so one mover serves both directions. What only gridwire knows of a hub
(`OURS`) is a topic config of the embedded hub and goes over HTTP to a gateway, see `gridwire.cli.move`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.port import Bounds, Place, Position
from gridwire.core.errors import GridwireError, InvalidSetting, NotAllowed, Unavailable
from gridwire.core.settings import HUB_SETTINGS, NOT_KAFKAS

ANSWER_S: Final = 60.0
"""How long a side may take to answer; a cluster that lost a broker elects a new one well within it."""

OURS: Final = {row.kafka: row.name for row in HUB_SETTINGS if row.kafka.startswith(NOT_KAFKAS)}
"""Topic configs that only an embedded hub has, and what they are called as settings."""

INTERNAL_PREFIX: Final = "__"
JOURNAL: Final = "gridwire.move"
"""The hub at the destination that holds how far a move is; not moved itself."""

MESSAGE_BYTES_MAX: Final = 1_000_000_000
"""librdkafka's own limit is switched off: the destination decides what it takes, after compression."""

_CONFIGS: Final = frozenset(row.kafka for row in HUB_SETTINGS)


class LeaderMoved(Unavailable):
    """Another broker leads the partition, or none at present: ask again."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A hub as its side describes it. `id`: another one after it was deleted and made again."""

    id: str
    partitions: int


class Side:
    """A cluster or embedded hub. Raises Unavailable when it does not answer, NotAllowed when it refuses.

    Raises:
        GridwireError: the Kafka client is not installed.
    """

    def __init__(self, address: KafkaAddress) -> None:
        try:
            import confluent_kafka.admin
        except ImportError:
            raise GridwireError("moving needs the Kafka client: pip install 'gridwire[kafka]'") from None
        self.address = address
        self._api: Any = confluent_kafka.admin
        self._admin = self._api.AdminClient(self._client())
        self.id = str(self._called(lambda: self._admin.list_topics(timeout=ANSWER_S)).cluster_id)

    def __repr__(self) -> str:
        return self.address.url

    def _client(self, **more: Any) -> dict[str, Any]:
        return {**self.address.confluent(), "log_level": 0, "error_cb": lambda _: None, **more}

    def consumer(self) -> Any:
        """A reader of committed events that commits nothing and says where a partition ends."""
        from confluent_kafka import Consumer

        settings = {
            "group.id": self.address.group(JOURNAL), "enable.auto.commit": False, "enable.auto.offset.store": False,
            "isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50, "fetch.message.max.bytes": 8_000_000, "queued.max.messages.kbytes": 64 * 1024,
        }  # fmt: skip
        return Consumer(self._client(**{name.replace("_", "."): value for name, value in settings.items()}))

    def producer(self, name: str) -> Any:
        """A transactional producer; opening it ends whatever an earlier one of that name left open."""
        from confluent_kafka import Producer

        found = Producer(
            self._client(
                **{
                    "transactional.id": self.address.transactional_id(name), "transaction.timeout.ms": 60_000,
                    "message.max.bytes": MESSAGE_BYTES_MAX, "compression.type": "zstd", "linger.ms": 5,
                    "queue.buffering.max.messages": 200_000,
                }
            )
        )  # fmt: skip
        self._called(lambda: found.init_transactions(ANSWER_S))
        return found

    # -- hubs -----------------------------------------------------------------------------------------------------

    def hubs(self) -> dict[str, Shape]:
        """Hubs of users, by name."""
        names = self._called(lambda: self._admin.list_topics(timeout=ANSWER_S)).topics
        ours = {name: hub for name in names if (hub := self.address.hub(name)) is not None and _movable(hub)}
        return self._described(ours)

    def _described(self, topics: Mapping[str, str]) -> dict[str, Shape]:
        from confluent_kafka import TopicCollection

        if not topics:
            return {}
        asked = self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=ANSWER_S)
        found = {}
        for name, future in asked.items():
            told = self._answer(future, unknown_is_none=True)
            if told is not None:
                found[topics[name]] = Shape(str(told.topic_id), len(told.partitions))
        return found

    def shape(self, hub: str) -> Shape | None:
        """One hub, internal or not; None when it is not there."""
        return self._described({self.address.topic(hub): hub}).get(hub)

    def configs(self, hubs: Collection[str]) -> dict[str, dict[str, str]]:
        """Topic configs that gridwire knows, by hub."""
        found = {}
        for hub in hubs:
            resource = self._resource(hub)
            entries = self._answer(self._admin.describe_configs([resource], request_timeout=ANSWER_S)[resource])
            found[hub] = {name: entry.value for name, entry in entries.items() if name in _CONFIGS}
        return found

    def create(self, hub: str, partitions: int, configs: Mapping[str, str]) -> None:
        """Make a hub; returns when every partition has a leader. Raises InvalidSetting."""
        address = self.address
        more = {"min.insync.replicas": str(address.min_insync)} if address.min_insync > 0 else {}
        topic = self._api.NewTopic(
            address.topic(hub), partitions, address.replication, config={**configs, **more}
        )  # fmt: skip
        self._answer(self._admin.create_topics([topic], request_timeout=ANSWER_S)[address.topic(hub)])
        deadline_s = time.monotonic() + ANSWER_S
        while not self._led(hub, partitions):
            if time.monotonic() > deadline_s:
                raise Unavailable(f"hub {hub!r} was made at {self}, but has no leaders yet")
            time.sleep(0.05)

    def _led(self, hub: str, partitions: int) -> bool:
        topic = self.address.topic(hub)
        told = self._called(lambda: self._admin.list_topics(topic, timeout=ANSWER_S)).topics[topic]
        return len(told.partitions) == partitions and all(each.leader >= 0 for each in told.partitions.values())

    def grow(self, hub: str, partitions: int) -> None:
        """Give a hub more partitions."""
        topic = self.address.topic(hub)
        wanted = self._api.NewPartitions(topic, partitions)
        self._answer(self._admin.create_partitions([wanted], request_timeout=ANSWER_S)[topic])
        deadline_s = time.monotonic() + ANSWER_S
        while not self._led(hub, partitions) and time.monotonic() < deadline_s:
            time.sleep(0.05)

    def set_configs(self, hub: str, configs: Mapping[str, str | None]) -> None:
        """Change topic configs; None returns one to its default. Raises InvalidSetting."""
        operations = self._api.AlterConfigOpType
        resource = self._resource(hub)
        for name, value in configs.items():
            operation = operations.DELETE if value is None else operations.SET
            resource.add_incremental_config(
                self._api.ConfigEntry(name, value, incremental_operation=operation)
            )  # fmt: skip
        self._answer(self._admin.incremental_alter_configs([resource], request_timeout=ANSWER_S)[resource])

    def _resource(self, hub: str) -> Any:
        return self._api.ConfigResource(self._api.ResourceType.TOPIC, self.address.topic(hub))

    def bounds(self, places: Iterable[Place]) -> dict[Place, Bounds]:
        """First offset, and where readers of committed events end."""
        asked = list(places)
        starts = self._offsets(asked, self._api.OffsetSpec.earliest())
        ends = self._offsets(asked, self._api.OffsetSpec.latest())
        return {place: Bounds(starts[place], ends[place], ends[place]) for place in asked}

    def wait_decided(self, ends: Mapping[Place, int]) -> None:
        """Return once readers of committed events can read up to these offsets, or there is nothing to wait for.

        A cluster answers a commit before the partitions know of it: until then readers take them for ended.

        Raises:
            Unavailable: a transaction stays open before one of them.
        """
        latest = self._api.OffsetSpec.latest()
        deadline_s = time.monotonic() + ANSWER_S
        while True:
            decided = self._offsets(ends, latest)
            behind = [place for place, end in ends.items() if decided[place] < end]
            written = self._offsets(behind, latest, committed=False)
            waiting = [place for place in behind if written[place] >= ends[place]]
            if not waiting:
                return
            if time.monotonic() > deadline_s:
                hub, partition = waiting[0]
                raise Unavailable(f"a transaction stays open in partition {partition} of hub {hub!r} at {self}")
            time.sleep(0.05)

    def _offsets(self, places: Collection[Place], spec: Any, *, committed: bool = True) -> dict[Place, int]:
        if not places:
            return {}
        deadline_s = time.monotonic() + ANSWER_S
        while True:
            try:
                return self._offsets_now(places, spec, committed)
            except LeaderMoved as moved:  # a new topic's leaders are elected and told to brokers one after the other
                if time.monotonic() > deadline_s:
                    raise Unavailable(str(moved)) from None
            time.sleep(0.1)
            for topic in {self.address.topic(hub) for hub, _ in places}:  # the client goes by what it was told last
                self._called(lambda topic=topic: self._admin.list_topics(topic, timeout=ANSWER_S))

    def _offsets_now(self, places: Collection[Place], spec: Any, committed: bool) -> dict[Place, int]:
        from confluent_kafka import IsolationLevel

        wanted = {self.partition(place): spec for place in places}
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        told = self._admin.list_offsets(wanted, isolation_level=level, request_timeout=ANSWER_S)
        return {self.place(each.topic, each.partition): self._answer(told[each]).offset for each in wanted}

    def partition(self, place: Place, offset: int = -1001) -> Any:
        """A place as the client wants it."""
        from confluent_kafka import TopicPartition

        return TopicPartition(self.address.topic(place[0]), place[1], offset)

    def place(self, topic: str, partition: int) -> Place:
        """A client's partition as a place."""
        return self.address.hub(topic) or "", partition

    # -- positions ------------------------------------------------------------------------------------------------

    def groups(self) -> list[str]:
        """Groups by gridwire's names."""
        told = self._answer(self._admin.list_consumer_groups(request_timeout=ANSWER_S))
        names = (self.address.group_of(each.group_id) for each in told.valid)
        return sorted(name for name in names if name is not None and name != JOURNAL)

    def positions(self, group: str) -> dict[Place, Position]:
        """Committed positions of a group. Waits for those that an open transaction may still move."""
        from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError

        name = self.address.group(group)
        deadline_s = time.monotonic() + ANSWER_S
        while True:
            asked = self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(name)], require_stable=True, request_timeout=ANSWER_S
            )
            rows = self._answer(asked[name]).topic_partitions
            open_now = [row for row in rows if row.error is not None]
            if not open_now:
                break
            if open_now[0].error.code() != KafkaError.UNSTABLE_OFFSET_COMMIT or time.monotonic() > deadline_s:
                raise Unavailable(f"positions of group {group!r} at {self}: {open_now[0].error.str()}")
            time.sleep(0.1)
        return {
            self.place(row.topic, row.partition): Position(row.offset, row.metadata or "")
            for row in rows
            if row.offset >= 0 and self.address.hub(row.topic) is not None
        }

    def commit(self, group: str, positions: Mapping[Place, Position]) -> bool:
        """Set a group's positions; False when it has members here, which only commit themselves."""
        from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

        name = self.address.group(group)
        rows = [
            TopicPartition(self.address.topic(hub), number, each.offset, each.metadata)
            for (hub, number), each in positions.items()
        ]
        wanted = ConsumerGroupTopicPartitions(name, rows)
        try:
            done = self._admin.alter_consumer_group_offsets([wanted], request_timeout=ANSWER_S)[name].result()
            problems = [row.error for row in done.topic_partitions if row.error is not None]
        except KafkaException as error:
            problems = [error.args[0]]
        if not problems:
            return True
        active = (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP, KafkaError.ILLEGAL_GENERATION,
                  KafkaError.REBALANCE_IN_PROGRESS)  # fmt: skip
        if problems[0].code() in active:
            return False
        raise _translated(problems[0], f"positions of group {group!r} at {self}")

    # -- calls ----------------------------------------------------------------------------------------------------

    def _answer(self, future: Future[Any], *, unknown_is_none: bool = False) -> Any:
        from confluent_kafka import KafkaError, KafkaException

        try:
            return future.result(2 * ANSWER_S)
        except KafkaException as error:
            if unknown_is_none and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            raise _translated(error.args[0], str(self)) from None

    def _called(self, call: Any) -> Any:
        from confluent_kafka import KafkaException

        try:
            return call()
        except KafkaException as error:
            raise _translated(error.args[0], str(self)) from None


def arrived(consumer: Any, count: int, timeout_s: float) -> list[Any]:
    """Up to `count` messages as soon as there is one; `consume` alone waits for all of them."""
    first = consumer.poll(timeout_s)
    return [] if first is None else [first, *consumer.consume(count, 0)]


def _movable(hub: str) -> bool:
    return not hub.startswith(INTERNAL_PREFIX) and hub != JOURNAL


def _translated(error: Any, what: str) -> GridwireError:
    from confluent_kafka import KafkaError

    refused = (
        KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,
    )  # fmt: skip
    moved = (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # a broker that has not heard of a new topic yet
        KafkaError._NOENT,
    )  # fmt: skip - the last is librdkafka's "no leaders found"
    if error.code() in moved:
        return LeaderMoved(f"{what}: {error.str()}")
    invalid = (KafkaError.INVALID_CONFIG, KafkaError.INVALID_REPLICATION_FACTOR, KafkaError.POLICY_VIOLATION)
    if error.code() in refused:
        return NotAllowed(f"{what}: {error.str()}")
    return (InvalidSetting if error.code() in invalid else Unavailable)(f"{what}: {error.str()}")
