"""Two brokers for the tests of a worker's source: each makes hubs, appends and reads them, and opens sources."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_source import KafkaSource
from gridwire.broker.local import LocalSource
from gridwire.broker.local_server import LocalServer
from gridwire.core.batch import Event, decode, encode, iter_headers

WAIT_S = 60.0
SESSION_S = 1.5


class EmbeddedHubs:
    """The embedded broker with its local server on a loop in a thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.call(self._open())

    async def _open(self) -> None:
        self.broker = await EmbeddedBroker.open(self.directory, default_partitions=2)
        self.server = LocalServer(self.broker)
        await self.server.start()

    async def _close(self) -> None:
        await self.server.stop()
        await self.broker.close()

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_S)

    def create(self, hub: str, partitions: int = 2) -> None:
        self.call(self.broker.create_hub(hub, partitions))

    def delete(self, hub: str) -> None:
        self.call(self.broker.delete_hub(hub))

    def grow(self, hub: str, partitions: int) -> None:
        self.call(self.broker.add_partitions(hub, partitions))

    def append(self, hub: str, partition: int, *values: bytes, timestamp_ms: int = 1000) -> None:
        async def scenario() -> None:
            data = encode([Event(value, b"k", (("h", b"v"),), timestamp_ms) for value in values])
            await self.broker.append(hub, partition, data)

        self.call(scenario())

    def values(self, hub: str, partition: int) -> list[bytes | None]:
        async def scenario() -> list[bytes | None]:
            read = await self.broker.read(hub, partition, 0, 20_000_000)
            return [event.value for position, _ in iter_headers(read.data) for event in decode(read.data, position)]

        found: list[bytes | None] = self.call(scenario())
        return found

    def forget_before(self, hub: str, partition: int, offset: int) -> None:
        self.call(self.broker.delete_records(hub, partition, offset))

    def open(self, group: str, hubs: Sequence[str], **options: Any) -> LocalSource:
        return LocalSource(self.directory, group, hubs, **options)

    def close(self) -> None:
        self.call(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)
        self.loop.close()


class KafkaHubs:
    """A real Apache Kafka; a prefix keeps each test to itself."""

    def __init__(self, url: str) -> None:
        self.address = KafkaAddress.parse(url, prefix=f"t{uuid.uuid4().hex[:8]}.")
        self._quiet = {"bootstrap.servers": self.address.bootstrap, "error_cb": lambda _: None, "log_level": 0}
        self._admin = AdminClient(self._quiet)

    def _settled(self, futures: dict[str, Any]) -> None:
        for future in futures.values():
            future.result(WAIT_S)

    def create(self, hub: str, partitions: int = 2, **config: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while True:  # a topic that is being deleted is in the way for a moment
            try:
                self._settled(self._admin.create_topics([NewTopic(self.address.topic(hub), partitions, config=config)]))
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def delete(self, hub: str) -> None:
        self._settled(self._admin.delete_topics([self.address.topic(hub)]))

    def grow(self, hub: str, partitions: int) -> None:
        self._settled(self._admin.create_partitions([NewPartitions(self.address.topic(hub), partitions)]))

    def append(self, hub: str, partition: int, *values: bytes, timestamp_ms: int = 0) -> None:
        """`timestamp_ms` 0 is now."""
        told: list[Any] = []
        producer = Producer(self._quiet)  # a new one knows of partitions that are new
        for value in values:
            producer.produce(
                self.address.topic(hub), value, b"k", partition=partition, headers=[("h", b"v")],
                timestamp=timestamp_ms, on_delivery=lambda error, _: told.append(error),
            )  # fmt: skip
        assert producer.flush(WAIT_S) == 0
        assert told == [None] * len(values)

    def values(self, hub: str, partition: int) -> list[bytes | None]:
        return committed_values(self.address.bootstrap, self.address.topic(hub), partition)

    def forget_before(self, hub: str, partition: int, offset: int) -> None:
        self._settled(self._admin.delete_records([TopicPartition(self.address.topic(hub), partition, offset)]))

    def open(self, group: str, hubs: Sequence[str], **options: Any) -> KafkaSource:
        return KafkaSource(self.address, group, hubs, **{"session_s": SESSION_S, "topics_s": 0.3, **options})

    def close(self) -> None:
        """Nothing to let go of."""


def committed_values(bootstrap: str, topic: str, partition: int) -> list[bytes | None]:
    """What a reader of committed data finds in a partition, read by an unmodified client."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "isolation.level": "read_committed",
            "enable.partition.eof": True, "enable.auto.commit": False, "error_cb": lambda _: None, "log_level": 0,
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, 0)])
    found: list[bytes | None] = []
    deadline = time.monotonic() + WAIT_S
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is not None and message.error() is None:
                found.append(message.value())
            elif message is not None and message.error().name() == "_PARTITION_EOF":
                return found
    finally:
        consumer.close()
    raise AssertionError(f"{topic}/{partition} could not be read to its end")
