"""Both brokers under one roof, for tests that hold on each: where a broker's things lie, and how it is opened.

A Kafka broker of a test has a prefix of its own on the cluster that the whole test run shares, so it finds it empty.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.kafka import KafkaBroker
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.membership import Membership
from gridwire.broker.port import GroupDirectory, Journal
from gridwire.core.clock import Clock, SystemClock
from gridwire.heads.kafka import KafkaHead
from kafka_cluster import KafkaCluster

KINDS = ("embedded", "kafka")


class OpenBroker(Journal, Protocol):
    """A broker that a test opened."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class KafkaSide:
    """Where Kafka's own clients find a broker's hubs, what they call them, and who is in their groups."""

    bootstrap: str
    prefix: str
    groups: GroupDirectory

    def client(self, **settings: Any) -> dict[str, Any]:
        """Configuration of a confluent-kafka client."""
        return {"bootstrap.servers": self.bootstrap, "log_level": 0, "error_cb": lambda _: None, **settings}


class Store:
    """Where one test's events lie; opening it again finds what is there."""

    kind = ""

    def kafka_side(self, broker: OpenBroker) -> AbstractAsyncContextManager[KafkaSide]:
        """The same hubs for Kafka's clients."""
        raise NotImplementedError

    async def keep_house(self, broker: OpenBroker) -> None:
        """Let retention and compaction have a look, or wait a moment where nobody can be told to."""
        raise NotImplementedError

    async def open(self, **options: Any) -> OpenBroker:
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[OpenBroker]:
        broker = await self.open(**options)
        try:
            yield broker
        finally:
            await broker.close()


class EmbeddedStore(Store):
    """A data directory."""

    kind = "embedded"

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.directory = directory
        self.clock = clock

    async def open(self, **options: Any) -> OpenBroker:
        return await EmbeddedBroker.open(self.directory, "fsync", clock=self.clock, default_partitions=2, **options)

    @asynccontextmanager
    async def kafka_side(self, broker: OpenBroker) -> AsyncIterator[KafkaSide]:
        assert isinstance(broker, EmbeddedBroker)
        membership = Membership(SystemClock())
        head = KafkaHead(broker, membership, host="127.0.0.1", port=0, cluster_id=broker.cluster_id)
        await head.start()
        try:
            yield KafkaSide(f"127.0.0.1:{head.port}", "", membership)
        finally:
            await membership.close()
            await head.stop()

    async def keep_house(self, broker: OpenBroker) -> None:
        assert isinstance(broker, EmbeddedBroker)
        await broker.maintain()
        await asyncio.sleep(0.01)


class KafkaStore(Store):
    """A prefix on a cluster."""

    kind = "kafka"

    def __init__(self, servers: str, **settings: Any) -> None:
        self.address = KafkaAddress.parse(f"kafka://{servers}", prefix=f"t{uuid.uuid4().hex[:12]}.", **settings)

    async def open(self, **options: Any) -> OpenBroker:
        return await KafkaBroker.open(self.address, default_partitions=2, **options)

    @asynccontextmanager
    async def kafka_side(self, broker: OpenBroker) -> AsyncIterator[KafkaSide]:
        assert isinstance(broker, KafkaBroker)
        yield KafkaSide(self.address.bootstrap, self.address.prefix, broker.groups)

    async def keep_house(self, broker: OpenBroker) -> None:
        await asyncio.sleep(0.05)


StoreOf = Callable[[str], Store]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind in turn."""
    if request.param == "embedded":
        return EmbeddedStore(tmp_path)
    cluster: KafkaCluster = request.getfixturevalue("kafka")
    return KafkaStore(cluster.bootstrap)
