"""Unmodified Kafka clients against the head: confluent-kafka (librdkafka), aiokafka, kafka-python and kcat."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiokafka
import aiokafka.admin
import confluent_kafka as ck
import pytest
import uvloop
from confluent_kafka import admin as ck_admin

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.membership import Membership
from gridwire.core.clock import SystemClock
from gridwire.heads.kafka import KafkaHead

with warnings.catch_warnings():  # kafka-python reads its schemas with a deprecated call
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka
    import kafka.admin

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the clients' own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
DEADLINE_S = 30.0
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
_QUIET = {"log_level": 0}
"""librdkafka reports a server's orderly stop on stderr until its clients are collected."""
_numbers = itertools.count()


class Hub:
    """A head over an embedded broker, in a thread of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.head: KafkaHead
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hub")

    def _run(self) -> None:
        uvloop.run(self._main())

    async def _main(self) -> None:
        broker = await EmbeddedBroker.open(self.directory, "fsync", default_partitions=2)
        membership = Membership(SystemClock())
        self.head = KafkaHead(
            broker, membership, host="127.0.0.1", port=0, cluster_id=broker.cluster_id, default_partitions=2
        )
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self.head.start()
        self._ready.set()
        await self._stop.wait()
        closing = membership.close()
        if asyncio.iscoroutine(closing):
            await closing
        await self.head.stop()
        await broker.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.head.port}"

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        self.admin = ck_admin.AdminClient({"bootstrap.servers": self.address, **_QUIET})

    def stop(self) -> None:
        del self.admin
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    served = Hub(tmp_path_factory.mktemp("kafka-clients"))
    served.start()
    yield served
    served.stop()


@pytest.fixture
def topic(hub: Hub) -> str:
    name = f"topic-{next(_numbers)}"
    hub.admin.create_topics([ck_admin.NewTopic(name, 2, 1)])[name].result(DEADLINE_S)
    return name


def until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    end_s = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end_s, "nothing happened in time"
    return found


# -- confluent-kafka (librdkafka)


def ck_produce(hub: Hub, topic: str, values: list[str], **config: Any) -> list[ck.Message]:
    partition = config.pop("partition", -1)
    done: list[tuple[ck.KafkaError | None, ck.Message]] = []
    producer = ck.Producer({"bootstrap.servers": hub.address, "linger.ms": 5, **_QUIET, **config})
    for value in values:
        options = {"partition": partition} if partition >= 0 else {"key": value}
        producer.produce(topic, value=value, headers=[("h", b"1")], on_delivery=lambda *a: done.append(a), **options)
    assert producer.flush(DEADLINE_S) == 0
    assert [error for error, _ in done if error is not None] == []
    return [message for _, message in done]


@contextlib.contextmanager
def ck_consumer(hub: Hub, group: str, **config: Any) -> Iterator[ck.Consumer]:
    consumer = ck.Consumer(
        {
            "bootstrap.servers": hub.address, "group.id": group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "session.timeout.ms": 6000, "heartbeat.interval.ms": 300, **_QUIET, **config,
        }
    )  # fmt: skip
    try:
        yield consumer
    finally:
        consumer.close()


def ck_take(consumer: ck.Consumer, count: int) -> list[ck.Message]:
    taken: list[ck.Message] = []

    def enough() -> bool:
        for message in consumer.consume(count, 0.2):
            assert message.error() is None, message.error()
            taken.append(message)
        return len(taken) >= count

    until(enough)
    return taken


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_confluent_acks(hub: Hub, topic: str, acks: str) -> None:
    values = [f"{acks}-{number}" for number in range(500)]
    messages = ck_produce(hub, topic, values, acks=acks)
    if acks != "0":
        for partition in (0, 1):
            offsets = [message.offset() for message in messages if message.partition() == partition]
            assert offsets == list(range(len(offsets)))
    with ck_consumer(hub, f"g-{topic}") as consumer:
        consumer.subscribe([topic])
        taken = ck_take(consumer, len(values))
        assert sorted(message.value().decode() for message in taken) == sorted(values)
        assert {tuple(message.headers()) for message in taken} == {(("h", b"1"),)}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("idempotent", [False, True])
def test_confluent_compression_and_idempotence(hub: Hub, topic: str, codec: str, idempotent: bool) -> None:
    values = [f"value {number} {'x' * 200}" for number in range(3000)]
    ck_produce(hub, topic, values, partition=0, **{"compression.type": codec, "enable.idempotence": idempotent})
    with ck_consumer(hub, "unused", **{"check.crcs": True}) as consumer:
        consumer.assign([ck.TopicPartition(topic, 0, ck.OFFSET_BEGINNING)])
        assert [message.value().decode() for message in ck_take(consumer, len(values))] == values


def test_confluent_starts_at_earliest_latest_offset_and_time(hub: Hub, topic: str) -> None:
    producer = ck.Producer({"bootstrap.servers": hub.address, **_QUIET})
    for number in range(10):
        producer.produce(topic, value=str(number), partition=0, timestamp=1_700_000_000_000 + number * 1000)
    assert producer.flush(DEADLINE_S) == 0
    with ck_consumer(hub, "unused") as consumer:
        assert consumer.get_watermark_offsets(ck.TopicPartition(topic, 0), DEADLINE_S) == (0, 10)
        asked = [ck.TopicPartition(topic, 0, 1_700_000_000_000 + ms) for ms in (0, 4001, 9001)]
        found = [consumer.offsets_for_times([each], DEADLINE_S)[0].offset for each in asked]
        assert found == [0, 5, ck.OFFSET_END]
        consumer.assign([ck.TopicPartition(topic, 0, 7)])
        assert [message.value() for message in ck_take(consumer, 3)] == [b"7", b"8", b"9"]
        consumer.assign([ck.TopicPartition(topic, 0, ck.OFFSET_END)])
        # When the client asks for the end is its own affair: events follow until it has.
        message = until(lambda: ck_produce(hub, topic, ["new"], partition=0) and consumer.poll(0.3))
        assert message.value() == b"new"


def test_confluent_offset_out_of_range_is_reset(hub: Hub, topic: str) -> None:
    ck_produce(hub, topic, ["a", "b"], partition=0)
    with ck_consumer(hub, "unused") as consumer:
        consumer.assign([ck.TopicPartition(topic, 0, 1000)])
        assert [message.value() for message in ck_take(consumer, 2)] == [b"a", b"b"]


def test_confluent_commits_survive_the_consumer(hub: Hub, topic: str) -> None:
    ck_produce(hub, topic, [str(number) for number in range(10)], partition=0)
    group = f"g-{topic}"
    with ck_consumer(hub, group) as consumer:
        consumer.subscribe([topic])
        taken = ck_take(consumer, 10)
        consumer.commit(message=taken[3], asynchronous=False)
    with ck_consumer(hub, group) as consumer:
        consumer.subscribe([topic])
        assert [message.value() for message in ck_take(consumer, 6)] == [b"4", b"5", b"6", b"7", b"8", b"9"]
        committed = consumer.committed([ck.TopicPartition(topic, 0), ck.TopicPartition(topic, 1)], DEADLINE_S)
        assert [each.offset for each in committed] == [4, ck.OFFSET_INVALID]


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_confluent_group_rebalances_over_three_members(hub: Hub, strategy: str) -> None:
    topic, group = f"topic-{next(_numbers)}", f"group-{next(_numbers)}"
    hub.admin.create_topics([ck_admin.NewTopic(topic, 6, 1)])[topic].result(DEADLINE_S)
    config = {"partition.assignment.strategy": strategy, "topic.metadata.refresh.interval.ms": 500}
    with contextlib.ExitStack() as stack:
        members = [stack.enter_context(ck_consumer(hub, group, **config)) for _ in range(3)]

        def shares(active: list[ck.Consumer]) -> list[int]:
            for member in active:
                message = member.poll(0.05)
                assert message is None or message.error() is None
            return sorted(len(member.assignment()) for member in active)

        for count, expected in ((1, [6]), (2, [3, 3]), (3, [2, 2, 2])):
            members[count - 1].subscribe([topic])
            until(lambda n=count, e=expected: shares(members[:n]) == e)  # type: ignore[misc]
        described = hub.admin.describe_consumer_groups([group])[group].result(DEADLINE_S)
        assert described.state == ck.ConsumerGroupState.STABLE
        assert len(described.members) == 3
        assert sum(len(member.assignment.topic_partitions) for member in described.members) == 6
        members[0].unsubscribe()  # it gives its partitions back first, for which it has to be polled as well
        until(lambda: shares(members) == [0, 3, 3])


def test_confluent_static_member_comes_back_without_a_rebalance(hub: Hub, topic: str) -> None:
    group, events = f"group-{next(_numbers)}", []
    config = {"group.instance.id": "meter-reader-1"}
    for _ in range(2):
        with ck_consumer(hub, group, **config) as consumer:
            consumer.subscribe([topic], on_assign=lambda _, parts: events.append(len(parts)))
            before = len(events)
            until(lambda c=consumer, n=before: c.poll(0.1) is None and len(events) > n)  # type: ignore[misc]
    assert events == [2, 2]


def test_confluent_administration(hub: Hub) -> None:
    client, name = hub.admin, f"admin-{next(_numbers)}"
    config = {"retention.ms": "60000", "min.insync.replicas": "1"}
    created = client.create_topics([ck_admin.NewTopic(name, 2, 1, config=config)])
    created[name].result(DEADLINE_S)
    with pytest.raises(ck.KafkaException) as caught:
        client.create_topics([ck_admin.NewTopic(name, 2, 1)])[name].result(DEADLINE_S)
    assert caught.value.args[0].code() == ck.KafkaError.TOPIC_ALREADY_EXISTS

    resource = ck_admin.ConfigResource(ck_admin.ConfigResource.Type.TOPIC, name)
    shown = client.describe_configs([resource])[resource].result(DEADLINE_S)
    assert shown["retention.ms"].value == "60000"
    change = ck_admin.ConfigEntry("retention.ms", "90000", incremental_operation=ck_admin.AlterConfigOpType.SET)
    altered = ck_admin.ConfigResource(ck_admin.ConfigResource.Type.TOPIC, name, incremental_configs=[change])
    client.incremental_alter_configs([altered])[altered].result(DEADLINE_S)
    assert client.describe_configs([resource])[resource].result(DEADLINE_S)["retention.ms"].value == "90000"

    client.create_partitions([ck_admin.NewPartitions(name, 5)])[name].result(DEADLINE_S)
    assert len(client.list_topics(name, DEADLINE_S).topics[name].partitions) == 5

    ck_produce(hub, name, ["a", "b", "c"], partition=4)
    part = ck.TopicPartition(name, 4)
    latest = client.list_offsets({part: ck_admin.OffsetSpec.latest()})[part].result(DEADLINE_S)
    assert latest.offset == 3
    largest = client.list_offsets({part: ck_admin.OffsetSpec.max_timestamp()})[part].result(DEADLINE_S)
    assert largest.timestamp > 0

    cluster = client.describe_cluster().result(DEADLINE_S)
    assert [node.id for node in cluster.nodes] == [1]
    assert cluster.controller.id == 1

    client.delete_topics([name])[name].result(DEADLINE_S)
    assert name not in client.list_topics(timeout=DEADLINE_S).topics


def test_confluent_group_administration(hub: Hub, topic: str) -> None:
    client, group = hub.admin, f"admin-group-{next(_numbers)}"
    ck_produce(hub, topic, ["a"], partition=0)
    with ck_consumer(hub, group) as consumer:
        consumer.subscribe([topic])
        consumer.commit(message=ck_take(consumer, 1)[0], asynchronous=False)
        with pytest.raises(ck.KafkaException) as caught:
            client.delete_consumer_groups([group])[group].result(DEADLINE_S)
        assert caught.value.args[0].code() == ck.KafkaError.NON_EMPTY_GROUP
    listed = client.list_consumer_groups().result(DEADLINE_S)
    assert group in {each.group_id for each in listed.valid}
    asked = ck.ConsumerGroupTopicPartitions(group)
    found = client.list_consumer_group_offsets([asked])[group].result(DEADLINE_S)
    assert [(each.topic, each.partition, each.offset) for each in found.topic_partitions] == [(topic, 0, 1)]
    moved = ck.ConsumerGroupTopicPartitions(group, [ck.TopicPartition(topic, 0, 0)])
    client.alter_consumer_group_offsets([moved])[group].result(DEADLINE_S)
    found = client.list_consumer_group_offsets([asked])[group].result(DEADLINE_S)
    assert found.topic_partitions[0].offset == 0
    client.delete_consumer_groups([group])[group].result(DEADLINE_S)
    listed = client.list_consumer_groups().result(DEADLINE_S)
    assert group not in {each.group_id for each in listed.valid}


def test_confluent_creates_topics_by_using_them(hub: Hub) -> None:
    name = f"auto-{next(_numbers)}"
    ck_produce(hub, name, ["a"], partition=1)
    assert len(hub.admin.list_topics(name, DEADLINE_S).topics[name].partitions) == 2


# -- aiokafka


def test_aiokafka(hub: Hub, topic: str) -> None:
    async def main() -> None:
        for codec in (None, "gzip", "snappy", "lz4", "zstd"):
            async with aiokafka.AIOKafkaProducer(
                bootstrap_servers=hub.address, acks="all", compression_type=codec, enable_idempotence=True
            ) as producer:
                sent = [await producer.send(topic, f"{codec}-{n}".encode(), partition=0) for n in range(50)]
                assert [(await each).partition for each in sent] == [0] * 50
        group = f"g-{topic}"
        async with aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=hub.address, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
        ) as consumer:
            values = [(await asyncio.wait_for(consumer.getone(), DEADLINE_S)).value for _ in range(250)]
            assert values[0] == b"None-0"
            assert values[-1] == b"zstd-49"
            part = aiokafka.TopicPartition(topic, 0)
            await consumer.commit({part: 100})
            assert await consumer.committed(part) == 100
            assert await consumer.end_offsets([part]) == {part: 250}
            assert await consumer.beginning_offsets([part]) == {part: 0}
            late = await consumer.offsets_for_times({part: 2**62})
            assert late[part] is None
        async with aiokafka.AIOKafkaConsumer(topic, bootstrap_servers=hub.address, group_id=group) as consumer:
            assert (await asyncio.wait_for(consumer.getone(), DEADLINE_S)).offset == 100

    asyncio.run(main())


def test_aiokafka_two_members_share(hub: Hub, topic: str) -> None:
    async def main() -> None:
        def member() -> aiokafka.AIOKafkaConsumer:
            return aiokafka.AIOKafkaConsumer(
                topic, bootstrap_servers=hub.address, group_id=f"g-{topic}", heartbeat_interval_ms=300
            )

        async with member() as first:
            async with member() as second, asyncio.timeout(DEADLINE_S):
                while (len(first.assignment()), len(second.assignment())) != (1, 1):
                    await asyncio.sleep(0.05)
            async with asyncio.timeout(DEADLINE_S):
                while len(first.assignment()) != 2:
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_aiokafka_administration(hub: Hub) -> None:
    async def main() -> None:
        client = aiokafka.admin.AIOKafkaAdminClient(bootstrap_servers=hub.address)
        await client.start()
        try:
            name = f"aio-{next(_numbers)}"
            await client.create_topics([aiokafka.admin.NewTopic(name, 2, 1)])
            await client.create_partitions({name: aiokafka.admin.NewPartitions(3)})
            described = await client.describe_topics([name])
            assert len(described[0]["partitions"]) == 3
            assert isinstance(await client.list_consumer_groups(), list)
            await client.delete_topics([name])
            assert name not in await client.list_topics()
        finally:
            await client.close()

    asyncio.run(main())


# -- kafka-python


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_kafka_python(hub: Hub, topic: str, codec: str | None) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=hub.address, compression_type=codec, acks="all")
    sent = [producer.send(topic, f"{number}".encode(), partition=1) for number in range(200)]
    assert [each.get(DEADLINE_S).offset for each in sent] == list(range(200))
    producer.close()
    consumer = kafka.KafkaConsumer(
        topic, bootstrap_servers=hub.address, group_id=f"g-{topic}", auto_offset_reset="earliest",
        enable_auto_commit=False, consumer_timeout_ms=int(DEADLINE_S * 1000),
    )  # fmt: skip
    values = [message.value for message in itertools.islice(consumer, 200)]
    assert values == [f"{number}".encode() for number in range(200)]
    part = kafka.TopicPartition(topic, 1)
    consumer.commit()
    assert consumer.committed(part) == 200
    assert consumer.end_offsets([part]) == {part: 200}
    assert consumer.offsets_for_times({part: 0})[part].offset == 0
    consumer.seek(part, 150)
    assert next(consumer).value == b"150"
    consumer.close()


def test_kafka_python_administration(hub: Hub) -> None:
    client = kafka.KafkaAdminClient(bootstrap_servers=hub.address)
    name = f"kp-{next(_numbers)}"
    client.create_topics([kafka.admin.NewTopic(name, 2, 1)])
    assert name in client.list_topics()
    client.create_partitions({name: kafka.admin.NewPartitions(3)})
    assert len(client.describe_topics([name])[0]["partitions"]) == 3
    assert client.describe_cluster()["controller_id"] == 1
    client.delete_topics([name])
    assert name not in client.list_topics()
    client.close()


# -- kcat


@pytest.fixture
def kcat(hub: Hub) -> Callable[..., str]:
    program = shutil.which("kcat")
    if program is None:
        pytest.skip("kcat is not installed: apt-get install kcat")

    def run(*arguments: str, text: str | None = None) -> str:
        done = subprocess.run(
            [program, "-b", hub.address, *arguments], input=text, capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_kcat_lists_produces_and_consumes(topic: str, kcat: Callable[..., str]) -> None:
    assert f'topic "{topic}" with 2 partitions' in kcat("-L")
    for codec in CODECS:
        kcat("-P", "-t", topic, "-p", "0", "-K", ":", "-z", codec, text=f"k:{codec}\n")
    shown = kcat("-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-q", "-f", "%o %k %s\n")
    assert shown.splitlines() == [f"{offset} k {codec}" for offset, codec in enumerate(CODECS)]
    assert kcat("-C", "-t", topic, "-p", "0", "-o", "-2", "-e", "-q").splitlines() == CODECS[-2:]
    assert kcat("-Q", "-t", f"{topic}:0:-1").strip() == f"{topic} [0] offset 5"
    grouped = kcat("-G", f"g-{topic}", "-c", "5", "-q", "-X", "auto.offset.reset=earliest", topic)
    assert sorted(grouped.splitlines()) == sorted(CODECS)
