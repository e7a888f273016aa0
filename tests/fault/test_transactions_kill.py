"""Events moved from one hub to two others in transactions while the hub is killed again and again."""

from __future__ import annotations

import random
import socket
import threading
import time
import uuid
from typing import Any

import confluent_kafka as ck
import pytest
from confluent_kafka import admin as ck_admin

EVENTS = 1500
BATCH = 15
KILLS = 6
DEADLINE_S = 120.0
TARGETS = ("left", "right")

RECOVERY = {"metadata.recovery.strategy": "none"}
"""librdkafka's default, `rebootstrap`, forgets its brokers when none answers. A transactional producer may then wait
for ever for the forgotten one, whatever its time limit and whatever server it talks to (librdkafka issue 5511).
"""


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


class Mover(threading.Thread):
    """Consume, produce to both targets, commit the position: one transaction each. A broken producer is made anew."""

    def __init__(self, address: str) -> None:
        super().__init__(name="mover", daemon=True)
        self.address = address
        self.moved = 0
        self.aborted = 0
        self.failures = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set() and self.moved < EVENTS:
            try:
                self._session()
            except ck.KafkaException:
                self.failures += 1
                time.sleep(0.05)

    def _session(self) -> None:
        consumer = ck.Consumer(
            {
                "bootstrap.servers": self.address, "group.id": "mover", "auto.offset.reset": "earliest",
                "enable.auto.commit": False, "isolation.level": "read_committed", "log_level": 0,
                "reconnect.backoff.max.ms": 200, **RECOVERY,
            }
        )  # fmt: skip
        producer = ck.Producer(
            {
                "bootstrap.servers": self.address, "transactional.id": "mover", "transaction.timeout.ms": 20_000,
                "log_level": 0, "reconnect.backoff.max.ms": 200, "linger.ms": 0, **RECOVERY,
            }
        )  # fmt: skip
        try:
            producer.init_transactions(20)
            [place] = consumer.committed([ck.TopicPartition("source", 0)], 20)
            offset = max(place.offset, 0)
            consumer.assign([ck.TopicPartition("source", 0, offset)])
            while not self.stop.is_set() and offset < EVENTS:
                offset = self._move(consumer, producer, offset)
                self.moved = offset
        finally:
            consumer.close()

    def _move(self, consumer: ck.Consumer, producer: ck.Producer, offset: int) -> int:
        messages = [each for each in consumer.consume(BATCH, 0.5) if each.error() is None]
        if not messages:
            return offset
        assert messages[0].offset() == offset
        after = offset + len(messages)
        producer.begin_transaction()
        for message in messages:
            for target in TARGETS:
                producer.produce(target, message.value(), partition=0)
        place = ck.TopicPartition("source", 0, after)
        producer.send_offsets_to_transaction([place], consumer.consumer_group_metadata(), 20)
        if self.aborted < 3:  # the negative control: readers of everything must see these twice
            self.aborted += 1
            producer.flush(20)
            producer.abort_transaction(20)
            consumer.seek(ck.TopicPartition("source", 0, offset))
            return offset
        self._commit(producer)
        return after

    def _commit(self, producer: ck.Producer) -> None:
        for _ in range(20):
            try:
                producer.commit_transaction(20)
                return
            except ck.KafkaException as error:
                if not error.args[0].retriable():
                    raise
        raise ck.KafkaException(ck.KafkaError(ck.KafkaError._FAIL))


def read(address: str, hub: str, isolation: str) -> list[int]:
    consumer = ck.Consumer(
        {
            "bootstrap.servers": address, "group.id": str(uuid.uuid4()), "isolation.level": isolation,
            "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0,
        }
    )  # fmt: skip
    consumer.assign([ck.TopicPartition(hub, 0, 0)])
    found: list[int] = []
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error() is not None:
            assert message.error().code() == ck.KafkaError._PARTITION_EOF, message.error()
            break
        found.append(int(message.value()))
    consumer.close()
    return found


@pytest.mark.timeout(300)
def test_every_event_is_moved_once_to_both_however_often_the_hub_dies(start_hub: Any) -> None:
    port = free_port()
    hub = start_hub(kafka_port=port, http_port="off")
    admin = ck_admin.AdminClient({"bootstrap.servers": hub.kafka, "log_level": 0})
    for future in admin.create_topics([ck_admin.NewTopic(name, 1, 1) for name in ("source", *TARGETS)]).values():
        future.result(20)
    source = ck.Producer({"bootstrap.servers": hub.kafka, "log_level": 0})
    for number in range(EVENTS):
        source.produce("source", b"%d" % number, partition=0)
    assert source.flush(20) == 0
    mover = Mover(hub.kafka)
    rng = random.Random(7)
    mover.start()
    killed_while_moving = 0
    try:
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.3, 1.0))
            killed_while_moving += mover.is_alive()
            hub.kill()
            hub = start_hub(kafka_port=port, http_port="off", data=hub.data)
        mover.join(DEADLINE_S)
        assert not mover.is_alive(), f"moved {mover.moved} of {EVENTS}"
    finally:
        mover.stop.set()
        mover.join(60)
    assert killed_while_moving >= KILLS // 2, "the hub must die while events are moved"
    want = list(range(EVENTS))
    for target in TARGETS:
        assert read(hub.kafka, target, "read_committed") == want
        everything = read(hub.kafka, target, "read_uncommitted")
        assert len(everything) > EVENTS, "aborted events are in the log: a reader of everything sees them"
        assert sorted(set(everything)) == want
