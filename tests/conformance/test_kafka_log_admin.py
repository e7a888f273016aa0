"""Administration of logs by unmodified clients: delete records and positions, log directories, legacy configs."""

from __future__ import annotations

import uuid
import warnings
from typing import Any

import confluent_kafka as ck
import pytest
from confluent_kafka import admin as ck_admin

with warnings.catch_warnings():  # kafka-python reads its schemas with a deprecated call
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka
    import kafka.admin

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the clients' own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def address(start_hub: Any) -> str:
    return str(start_hub("--durability", "os", http_port="off").kafka)


@pytest.fixture
def topic(address: str) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    admin = ck_admin.AdminClient({"bootstrap.servers": address})
    admin.create_topics([ck_admin.NewTopic(name, 2, 1)])[name].result(10)
    producer = ck.Producer({"bootstrap.servers": address})
    for number in range(20):
        producer.produce(name, b"%d" % number, partition=0)
    assert producer.flush(10) == 0
    return name


def test_confluent_deletes_records(address: str, topic: str) -> None:
    admin = ck_admin.AdminClient({"bootstrap.servers": address})
    place = ck.TopicPartition(topic, 0, 7)
    [deleted] = [each.result(10) for each in admin.delete_records([place]).values()]
    assert deleted.low_watermark == 7
    consumer = ck.Consumer(
        {"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "error", "enable.auto.commit": False}
    )
    assert consumer.get_watermark_offsets(ck.TopicPartition(topic, 0), timeout=10) == (7, 20)
    consumer.assign([ck.TopicPartition(topic, 0, 7)])
    first = consumer.poll(10)
    assert first is not None
    assert first.value() == b"7"
    consumer.assign([ck.TopicPartition(topic, 0, 3)])
    gone = consumer.poll(10)
    assert gone is not None
    assert gone.error() is not None, "reading what was deleted must be an error"
    consumer.close()
    with pytest.raises(ck.KafkaException, match="range"):
        next(iter(admin.delete_records([ck.TopicPartition(topic, 0, 100)]).values())).result(10)


def test_kafka_python_administration(address: str, topic: str) -> None:
    client = kafka.KafkaAdminClient(bootstrap_servers=address)
    place = kafka.TopicPartition(topic, 0)
    consumer = kafka.KafkaConsumer(bootstrap_servers=address, group_id=f"g-{topic}", enable_auto_commit=False)
    consumer.assign([place])
    consumer.commit({place: kafka.structs.OffsetAndMetadata(4, "", -1)})
    consumer.close()
    dirs = client.describe_log_dirs()
    assert topic in str(dirs)
    deleted = client.delete_records({place: 5})
    assert "5" in str(deleted)
    client.close()


def test_confluent_replaces_configs_the_old_way(address: str, topic: str) -> None:
    admin = ck_admin.AdminClient({"bootstrap.servers": address})

    def alter(**configs: str) -> dict[str, Any]:
        resource = ck_admin.ConfigResource(
            ck_admin.ConfigResource.Type.TOPIC,
            topic,
            {name.replace("_", "."): value for name, value in configs.items()},
        )
        for future in admin.alter_configs([resource]).values():
            future.result(10)
        shown = admin.describe_configs([ck_admin.ConfigResource(ck_admin.ConfigResource.Type.TOPIC, topic)])
        return {name: entry.value for future in shown.values() for name, entry in future.result(10).items()}

    assert alter(retention_ms="5000", segment_ms="2000")["retention.ms"] == "5000"
    after = alter(segment_ms="3000")
    assert after["segment.ms"] == "3000"
    assert after["retention.ms"] == "604800000", "what is not named returns to its default"
