"""Transactions by unmodified clients: confluent-kafka, aiokafka and kafka-python."""

from __future__ import annotations

import asyncio
import time
import uuid
import warnings
from typing import Any

import aiokafka
import confluent_kafka as ck
import pytest
from confluent_kafka import admin as ck_admin

with warnings.catch_warnings():  # kafka-python reads its schemas with a deprecated call
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the clients' own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
DEADLINE_S = 20


@pytest.fixture
def address(start_hub: Any) -> str:
    return str(start_hub("--durability", "os", http_port="off").kafka)


@pytest.fixture
def topic(address: str) -> str:
    return make_topic(address)


def make_topic(address: str, **config: str) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    topic = ck_admin.NewTopic(name, 1, 1, config={key.replace("_", "."): value for key, value in config.items()})
    admin = ck_admin.AdminClient({"bootstrap.servers": address})
    admin.create_topics([topic])[name].result(DEADLINE_S)
    return name


def ck_producer(address: str, name: str, **config: Any) -> ck.Producer:
    producer = ck.Producer({"bootstrap.servers": address, "transactional.id": name, "log_level": 0, **config})
    producer.init_transactions(DEADLINE_S)
    return producer


def ck_read(address: str, topic: str, count: int, isolation: str = "read_committed") -> list[bytes | None]:
    """`count` events, then a moment more to see whether there are others."""
    consumer = ck.Consumer(
        {
            "bootstrap.servers": address, "group.id": f"g-{uuid.uuid4()}", "auto.offset.reset": "earliest",
            "isolation.level": isolation, "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0,
        }
    )  # fmt: skip
    consumer.assign([ck.TopicPartition(topic, 0, 0)])
    found: list[bytes | None] = []
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        message = consumer.poll(0.1)
        if message is None:
            continue
        if message.error() is not None:
            assert message.error().code() == ck.KafkaError._PARTITION_EOF, message.error()
            if len(found) >= count:
                break
        else:
            found.append(message.value())
    consumer.close()
    return found


def test_confluent_commits_and_aborts(address: str, topic: str) -> None:
    producer = ck_producer(address, "p")
    for number in range(6):
        producer.begin_transaction()
        for part in range(3):
            producer.produce(topic, b"%d.%d" % (number, part))
        if number % 2:
            producer.flush(DEADLINE_S)
            producer.abort_transaction(DEADLINE_S)
        else:
            producer.commit_transaction(DEADLINE_S)
    assert ck_read(address, topic, 9) == [b"%d.%d" % (n, part) for n in (0, 2, 4) for part in range(3)]
    assert len(ck_read(address, topic, 18, "read_uncommitted")) == 18


def test_confluent_open_transaction_holds_committed_readers(address: str, topic: str) -> None:
    producer = ck_producer(address, "p")
    producer.begin_transaction()
    producer.produce(topic, b"open")
    assert producer.flush(DEADLINE_S) == 0
    assert ck_read(address, topic, 0) == []
    assert ck_read(address, topic, 1, "read_uncommitted") == [b"open"]
    consumer = ck.Consumer({"bootstrap.servers": address, "group.id": "g", "isolation.level": "read_committed"})
    assert consumer.get_watermark_offsets(ck.TopicPartition(topic, 0), timeout=DEADLINE_S)[1] in (0, 1)
    consumer.close()
    producer.commit_transaction(DEADLINE_S)
    assert ck_read(address, topic, 1) == [b"open"]


def test_confluent_zombie_is_fenced(address: str, topic: str) -> None:
    zombie = ck_producer(address, "p")
    zombie.begin_transaction()
    zombie.produce(topic, b"zombie")
    assert zombie.flush(DEADLINE_S) == 0
    fresh = ck_producer(address, "p")
    with pytest.raises(ck.KafkaException) as caught:
        zombie.commit_transaction(DEADLINE_S)
    assert caught.value.args[0].code() in (ck.KafkaError._FENCED, ck.KafkaError.INVALID_PRODUCER_EPOCH)
    fresh.begin_transaction()
    fresh.produce(topic, b"fresh")
    fresh.commit_transaction(DEADLINE_S)
    assert ck_read(address, topic, 1) == [b"fresh"]


def test_confluent_consume_transform_produce(address: str, topic: str) -> None:
    target = make_topic(address)
    source = ck.Producer({"bootstrap.servers": address})
    for number in range(30):
        source.produce(topic, b"%d" % number)
    source.flush(DEADLINE_S)
    group = "copy"
    consumer = ck.Consumer(
        {
            "bootstrap.servers": address, "group.id": group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "isolation.level": "read_committed", "log_level": 0,
        }
    )  # fmt: skip
    consumer.subscribe([topic])
    producer = ck_producer(address, "copy")
    copied = 0
    aborted = False
    while copied < 30:
        messages = consumer.consume(10, 1.0)
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            producer.produce(target, message.value())
        positions = consumer.position(consumer.assignment())
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), DEADLINE_S)
        if not aborted:
            aborted = True
            producer.abort_transaction(DEADLINE_S)
            [place] = consumer.committed([ck.TopicPartition(topic, 0)], DEADLINE_S)
            assert place.offset == ck.OFFSET_INVALID, "an aborted position must not be seen"
            consumer.seek(ck.TopicPartition(topic, 0, 0))
            continue
        producer.commit_transaction(DEADLINE_S)
        copied += len(messages)
    [place] = consumer.committed([ck.TopicPartition(topic, 0)], DEADLINE_S)
    assert place.offset == 30
    consumer.close()
    assert ck_read(address, target, 30) == [b"%d" % number for number in range(30)]


def test_aiokafka_transactions(address: str, topic: str) -> None:
    async def main() -> None:
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=address, transactional_id="a") as producer:
            async with producer.transaction():
                await producer.send_and_wait(topic, b"kept")
                place = aiokafka.TopicPartition(topic, 0)
                await producer.send_offsets_to_transaction({place: 1}, "aio-group")
            with pytest.raises(ZeroDivisionError):
                async with producer.transaction():
                    await producer.send_and_wait(topic, b"lost")
                    raise ZeroDivisionError
            async with producer.transaction():
                await producer.send_and_wait(topic, b"kept too")
        consumer = aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=address, isolation_level="read_committed", auto_offset_reset="earliest",
            group_id="aio-group", enable_auto_commit=False,
        )  # fmt: skip
        async with consumer:
            assert await consumer.committed(aiokafka.TopicPartition(topic, 0)) == 1
            message = await asyncio.wait_for(consumer.getone(), DEADLINE_S)
            assert message.value == b"kept too"

    asyncio.run(main())


def test_kafka_python_transactions(address: str, topic: str) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=address, transactional_id="k")
    producer.init_transactions()
    for number in range(4):
        producer.begin_transaction()
        producer.send(topic, b"%d" % number)
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    assert ck_read(address, topic, 2) == [b"0", b"2"]
    consumer = kafka.KafkaConsumer(
        topic, bootstrap_servers=address, isolation_level="read_committed", auto_offset_reset="earliest",
        consumer_timeout_ms=3000,
    )  # fmt: skip
    assert [message.value for message in consumer] == [b"0", b"2"]
    consumer.close()
