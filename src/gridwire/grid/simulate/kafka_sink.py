"""Record batches to any Kafka endpoint, gridwire's own among them, made whole and acknowledged.

Batches are written as they were encoded: no client library copies a reading once more. The appender keeps the order in
each partition, finds a new leader, and sends again without a duplicate.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_append import Appender
from gridwire.broker.kafka_client import KafkaClient
from gridwire.core.batch import iter_headers
from gridwire.core.errors import Unavailable, UnknownHub
from gridwire.core.limits import MIB

IN_FLIGHT_BYTES: Final = 32 * MIB
"""Batches on their way; beyond it `send` waits."""

APPEND_S: Final = 120.0
"""How long a hub may be away."""

T = TypeVar("T")


class KafkaSink:
    """See `gridwire.grid.simulate.run.Sink`. Raises Unavailable when there is nobody.

    Args:
        address: where, and how one signs in.
    """

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulate", daemon=True)
        self._thread.start()
        self._room = threading.Condition()
        self._in_flight = 0
        self._failed: BaseException | None = None
        self._client, self._appender = self._call(self._open())

    async def _open(self) -> tuple[KafkaClient, Appender]:
        client = KafkaClient(self._address)
        await client.start()
        return client, Appender(client, APPEND_S, 2 * IN_FLIGHT_BYTES)

    def partitions(self, hub: str) -> int:
        """Number of partitions. Raises UnknownHub."""
        topic = self._client.topics.get(self._address.topic(hub))
        if topic is None:
            raise UnknownHub(f"no hub {hub!r}")
        return len(topic.partitions)

    def send(self, hub: str, partition: int, batch: bytearray) -> None:
        """Queue one batch; waits while too much is on its way. Raises Unavailable."""
        with self._room:
            self._room.wait_for(lambda: self._in_flight < IN_FLIGHT_BYTES or self._failed is not None)
            self._check()
            self._in_flight += len(batch)
        self._loop.call_soon_threadsafe(self._append, self._address.topic(hub), partition, batch)

    def _append(self, topic: str, partition: int, batch: bytearray) -> None:
        headers = [header for _, header in iter_headers(batch)]
        appended = self._appender.append(topic, partition, memoryview(batch), headers)
        appended.add_done_callback(lambda done: self._appended(len(batch), done.exception()))

    def _appended(self, size: int, error: BaseException | None) -> None:
        with self._room:
            self._in_flight -= size
            self._failed = self._failed or error
            self._room.notify_all()

    def flush(self) -> None:
        """Wait until everything is acknowledged. Raises Unavailable."""
        with self._room:
            self._room.wait_for(lambda: self._in_flight == 0 or self._failed is not None)
            self._check()

    def _check(self) -> None:
        if self._failed is not None:
            raise Unavailable(f"the hub does not take the simulation: {self._failed}")

    def close(self) -> None:
        """Let go of the hub."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        await self._appender.close()
        await self._client.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
