"""Compacted hubs read by unmodified clients: empty batches in long stretches, at the end, and batches written anew.

The Java client reads the same hubs in test_kafka_java.py.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiokafka
import confluent_kafka as ck
import pytest

with warnings.catch_warnings():  # kafka-python reads its schemas with a deprecated call
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the clients' own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
DEADLINE_S = 60
HUBS = ("gap", "emptied", "lz4")

Found = tuple[list[tuple[int, str]], int]


@pytest.fixture(scope="module")
def compacted(
    tmp_path_factory: pytest.TempPathFactory, hub_process: Any, write_compacted: Any
) -> Iterator[tuple[str, dict[str, Found]]]:
    """A running hub's address, and what its compacted hubs hold."""
    data: Path = tmp_path_factory.mktemp("compacted") / "data"
    expected = write_compacted(data)
    running = hub_process(data, "--durability", "os", http_port="off")
    yield running.kafka, expected
    running.stop()


def by_confluent(address: str, topic: str, isolation: str = "read_committed") -> Found:
    consumer = ck.Consumer(
        {
            "bootstrap.servers": address, "group.id": "g", "enable.auto.commit": False, "enable.partition.eof": True,
            "isolation.level": isolation, "log_level": 0,
        }
    )  # fmt: skip
    consumer.assign([ck.TopicPartition(topic, 0, 0)])
    found: list[tuple[int, str]] = []
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error() is None:
            found.append((message.offset(), message.value().decode()))
            continue
        assert message.error().code() == ck.KafkaError._PARTITION_EOF, message.error()
        consumer.close()
        return found, message.offset()
    raise AssertionError(f"no end after {len(found)} events")


def by_kafka_python(address: str, topic: str) -> Found:
    consumer = kafka.KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    place = kafka.TopicPartition(topic, 0)
    consumer.assign([place])
    end = consumer.end_offsets([place])[place]
    found: list[tuple[int, str]] = []
    deadline_s = time.monotonic() + DEADLINE_S
    while consumer.position(place) < end and time.monotonic() < deadline_s:
        for records in consumer.poll(timeout_ms=500).values():
            found += [(record.offset, record.value.decode()) for record in records]
    position = consumer.position(place)
    consumer.close()
    return found, position


def by_aiokafka(address: str, topic: str) -> Found:
    async def main() -> Found:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
        place = aiokafka.TopicPartition(topic, 0)
        consumer.assign([place])
        async with consumer:
            end = (await consumer.end_offsets([place]))[place]
            found: list[tuple[int, str]] = []
            deadline_s = time.monotonic() + DEADLINE_S
            while await consumer.position(place) < end and time.monotonic() < deadline_s:
                for records in (await consumer.getmany(place, timeout_ms=500)).values():
                    found += [(record.offset, record.value.decode()) for record in records]
            return found, await consumer.position(place)

    return asyncio.run(main())


@pytest.mark.parametrize("read", [by_confluent, by_kafka_python, by_aiokafka])
@pytest.mark.parametrize("topic", HUBS)
def test_every_client_reads_what_is_left_up_to_the_end(
    compacted: tuple[str, dict[str, Found]], read: Any, topic: str
) -> None:
    address, expected = compacted
    assert read(address, topic) == expected[topic]


def test_readers_of_everything_too(compacted: tuple[str, dict[str, Found]]) -> None:
    address, expected = compacted
    assert by_confluent(address, "gap", "read_uncommitted") == expected["gap"]
