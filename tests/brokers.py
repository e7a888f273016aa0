"""Both brokers under one roof, for tests that hold on each: where a broker's things lie, and how it is opened.

A Kafka broker of a test has a prefix of its own on the cluster that the whole test run shares, so it finds it empty.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.kafka import KafkaBroker
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.port import Journal
from gridwire.core.clock import Clock
from kafka_cluster import KafkaCluster

KINDS = ("embedded", "kafka")


class OpenBroker(Journal, Protocol):
    """A broker that a test opened."""

    async def close(self) -> None: ...


class Store:
    """Where one test's events lie; opening it again finds what is there."""

    kind = ""

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


class KafkaStore(Store):
    """A prefix on a cluster."""

    kind = "kafka"

    def __init__(self, servers: str, **settings: Any) -> None:
        self.address = KafkaAddress.parse(f"kafka://{servers}", prefix=f"t{uuid.uuid4().hex[:12]}.", **settings)

    async def open(self, **options: Any) -> OpenBroker:
        return await KafkaBroker.open(self.address, default_partitions=2, **options)


StoreOf = Callable[[str], Store]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind in turn."""
    if request.param == "embedded":
        return EmbeddedStore(tmp_path)
    cluster: KafkaCluster = request.getfixturevalue("kafka")
    return KafkaStore(cluster.bootstrap)
