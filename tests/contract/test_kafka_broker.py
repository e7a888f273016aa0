"""What holds on a Kafka cluster besides the contract: names, sign-in, several gateways, other clients' things."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from brokers import KafkaStore
from gridwire.broker import kafka_append
from gridwire.broker.identities import Identities
from gridwire.broker.kafka import KafkaBroker
from gridwire.broker.kafka_address import CONTROL_TOPIC, KafkaAddress
from gridwire.broker.kafka_wire import Disconnected
from gridwire.broker.port import Position
from gridwire.core.batch import Event, decode, encode, iter_headers
from gridwire.core.clock import SystemClock
from gridwire.core.errors import (
    FencedEpoch,
    GridwireError,
    InvalidName,
    InvalidSetting,
    NotAuthenticated,
    Unavailable,
    UnknownHub,
)
from gridwire.heads.http import reading
from kafka_cluster import PASSWORD, USER, KafkaCluster

NOW_MS = int(time.time() * 1000)


def batch(*values: bytes) -> bytearray:
    return encode([Event(value, timestamp=NOW_MS) for value in values])


async def values(broker: KafkaBroker, hub: str, partition: int = 0) -> list[bytes | None]:
    found: list[bytes | None] = []
    offset, end = 0, (await broker.bounds(hub, partition)).end
    while offset < end:
        read = await broker.read(hub, partition, offset, 1 << 20)
        for position, header in iter_headers(read.data):
            found += [event.value for event in decode(read.data, position)]
            offset = header.next_offset
    return found


async def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    """Wait for a condition; the test fails when it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()) or (asyncio.iscoroutine(found) and not await found):
        assert time.monotonic() < deadline_s, "it did not happen"
        await asyncio.sleep(0.02)


@pytest.fixture
def kafka_store(kafka: KafkaCluster) -> KafkaStore:
    return KafkaStore(kafka.bootstrap)


def opened(store: KafkaStore, **options: Any) -> Any:
    return store.opened(**options)


# -- names and sign-in ----------------------------------------------------------------------------------------------


def test_a_prefix_keeps_everybody_elses_things_apart(kafka: KafkaCluster, kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        other = KafkaStore(kafka.bootstrap)
        async with opened(kafka_store) as ours, opened(other) as theirs:
            await ours.create_hub("a", 1)
            await theirs.create_hub("a", 3)
            assert (ours.hub("a").partitions, theirs.hub("a").partitions) == (1, 3)
            await ours.commit("g", {("a", 0): Position(0)})
            assert await theirs.group_names() == []
            await ours.change({"x": b"1"})
            assert dict(theirs.kept("")).keys() == {f"hub/{theirs.hub('a').id}"}
            topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=30).topics
            prefix = kafka_store.address.prefix
            assert {name for name in topics if name.startswith(prefix)} == {prefix + "a", prefix + CONTROL_TOPIC}

    asyncio.run(scenario())


def test_durable_is_what_the_loss_of_a_broker_leaves(kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with kafka_store.opened() as broker:
            await broker.create_hub("a")
            assert not broker.durable("a")  # one broker has it: its disk is the only one
            assert broker.durability == "acks=all, replication 1, min.insync 1"

    asyncio.run(scenario())


def test_the_control_topic_is_no_hub(kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            with pytest.raises(InvalidName, match="own state"):
                await broker.create_hub(CONTROL_TOPIC)
            with pytest.raises(UnknownHub):
                broker.hub(CONTROL_TOPIC)

    asyncio.run(scenario())


def test_topics_of_kafkas_own_tools_are_hubs_and_come_and_go(kafka: KafkaCluster, kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        topic = kafka_store.address.prefix + "theirs"
        async with opened(kafka_store) as broker:
            config = {"retention.ms": "123456789", "segment.ms": "500", "max.message.bytes": "1000012"}
            await asyncio.to_thread(
                lambda: admin.create_topics([NewTopic(topic, 3, 1, config=config)])[topic].result(30)
            )
            broker.client.doubt()
            await until(lambda: [hub.name for hub in broker.hubs()] == ["theirs"])
            info = broker.hub("theirs")
            assert (info.partitions, info.settings.retention_ms, info.created_ms) == (3, 123456789, 0)
            assert info.settings.segment_ms == 500  # outside our own bounds, and true nevertheless
            await broker.append("theirs", 2, batch(b"x"))
            await asyncio.to_thread(lambda: admin.delete_topics([topic])[topic].result(30))
            broker.client.doubt()
            await until(lambda: not broker.hubs())

    asyncio.run(scenario())


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sign_in_over_tls(kafka: KafkaCluster, mechanism: str) -> None:
    async def scenario() -> None:
        safe = {"sasl": mechanism, "user": USER, "ca": str(kafka.ca)}
        store = KafkaStore(kafka.secure, password=PASSWORD, **safe)
        async with opened(store) as broker:
            await broker.create_hub("a", 1)
            await broker.append("a", 0, batch(b"x"))
            assert await values(broker, "a") == [b"x"]
        with pytest.raises(NotAuthenticated, match="broker-password-file"):
            await KafkaStore(kafka.secure, password="wrong", **safe).open()
        with pytest.raises(Unavailable, match=r"certificate|reached"):
            await KafkaStore(kafka.secure, sasl=mechanism, user=USER, password=PASSWORD, tls=True).open()
        with pytest.raises(Unavailable, match="TLS"):
            await KafkaStore(kafka.secure).open()

    asyncio.run(scenario())


def test_nobody_there_is_one_sentence() -> None:
    async def scenario() -> None:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await KafkaStore("127.0.0.1:1,127.0.0.1:2").open()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        ("http://x", {}, "kafka://host"),
        ("kafka://", {}, "host:port"),
        ("kafka://a:b", {}, "host:port"),
        ("kafka://me:secret@a:1", {}, "settings of their own"),
        ("kafka://a", {"sasl": "GSSAPI", "user": "x"}, "not supported"),
        ("kafka://a", {"sasl": "PLAIN"}, "go together"),
        ("kafka://a", {"sasl": "PLAIN", "user": "x"}, "needs a password"),
        ("kafka://a", {"cert": "x"}, "go together"),
        ("kafka://a", {"ca": "/nowhere"}, "is no file"),
        ("kafka://a", {"prefix": "a/b"}, "not allowed"),
        ("kafka://a", {"prefix": "x" * 65}, "at most 64"),
        ("kafka://a", {"replication": 1, "min_insync": 2}, "nothing could be written"),
    ],
)
def test_wrong_addresses_say_what_to_do(url: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(GridwireError, match=message):
        KafkaAddress.parse(url, **settings)


def test_an_address_gives_names_and_configurations() -> None:
    address = KafkaAddress.parse("kafka://a,b:1,[::1]:2/", prefix="p.", sasl="PLAIN", user="u", password="s", tls=True)
    assert address.servers == ("a:9092", "b:1", "[::1]:2")
    assert (address.topic("x"), address.hub("p.x"), address.hub("q.x"), address.group("g")) == ("p.x", "x", None, "p.g")
    assert address.confluent()["security.protocol"] == "sasl_ssl"
    assert "s" not in str(address).replace("kafka://", "").replace("KafkaAddress", "")
    with pytest.raises(InvalidName):
        address.topic("x" * 249)


# -- several gateways -----------------------------------------------------------------------------------------------


def test_gateways_know_at_once_what_happens_at_another(kafka_store: KafkaStore, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(kafka_store) as one, opened(kafka_store) as two:
            made = await one.create_hub("a", 1, {"capture": "events"})
            await until(lambda: [hub.name for hub in two.hubs()] == ["a"])
            assert two.hub("a") == made
            await two.alter_hub("a", {"retention_ms": 5_000_000, "capture": "off"})
            await until(lambda: one.hub("a").settings == two.hub("a").settings)
            await one.add_partitions("a", 4)
            await until(lambda: two.hub("a").partitions == 4)
            await one.delete_hub("a")
            await until(lambda: not two.hubs())
            for path in (tmp_path / "one", tmp_path / "two"):
                path.mkdir()
                (path / "secret.key").write_bytes(b"k" * 32)
            first, second = (
                Identities(one, tmp_path / "one", SystemClock()), Identities(two, tmp_path / "two", SystemClock()),
            )  # fmt: skip
            roots = await asyncio.gather(first.open(), second.open())  # at the same moment: one makes the root policy
            assert [each is None for each in roots].count(True) == 1
            policy = await second.create_policy("root", "sensors", ["Send"])
            await until(lambda: any(each["name"] == "sensors" for each in first.policies()))
            before = first.generation
            await second.rotate("root", "sensors", "primary")
            await second.users.set("root", "ann", "a long password", ["sensors"])
            await until(lambda: first.users.get("ann") is not None)
            assert first.generation > before
            await first.delete_policy("root", policy["name"])
            await until(lambda: not any(each["name"] == "sensors" for each in second.policies()))

    asyncio.run(scenario())


def test_a_gateway_with_another_key_is_told_so(kafka_store: KafkaStore, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            await Identities(broker, tmp_path, SystemClock()).open()
            (tmp_path / "other").mkdir()
            with pytest.raises(GridwireError, match="copy it from another gateway"):
                await Identities(broker, tmp_path / "other", SystemClock()).open()

    asyncio.run(scenario())


# -- groups and transactions of Kafka's own clients -----------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_groups_of_kafka_clients_are_shown_and_protected(
    kafka: KafkaCluster, kafka_store: KafkaStore, protocol: str
) -> None:
    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            await broker.create_hub("a", 2)
            await broker.append("a", 0, batch(b"x"))
            prefix = kafka_store.address.prefix
            more = {} if protocol == "consumer" else {"session.timeout.ms": 20_000}
            consumer = Consumer(
                {"bootstrap.servers": kafka.bootstrap, "group.id": prefix + "g", "auto.offset.reset": "earliest",
                 "enable.auto.commit": False, "group.protocol": protocol, **more}
            )  # fmt: skip
            consumer.subscribe([prefix + "a"])

            def read() -> None:
                deadline_s = time.monotonic() + 60
                while (message := consumer.poll(0.2)) is None or message.error():
                    assert time.monotonic() < deadline_s
                consumer.commit(message, asynchronous=False)

            await asyncio.to_thread(read)
            assert await broker.group_names() == ["g"]
            views = await broker.groups.views()
            view = await broker.groups.view("g")
            assert view is not None
            assert views["g"].members == view.members
            (member,) = view.members
            from gridwire.groups.consumer_protocol import assigned_partitions

            assert assigned_partitions(member.assignment) == {"a": [0, 1]}
            assert (await broker.positions("g"))["a", 0].offset == 1
            with pytest.raises(FencedEpoch, match="members"):
                await broker.commit("g", {("a", 0): Position(0)})
            with pytest.raises(FencedEpoch, match="members"):
                await broker.delete_group("g")
            await asyncio.to_thread(consumer.close)

            async def gone() -> bool:
                found = await broker.groups.view("g")
                return found is None or not found.members

            await until(gone)
            await broker.commit("g", {("a", 0): Position(0)})
            assert (await broker.positions("g"))["a", 0].offset == 0
            await broker.delete_group("g")
            assert await broker.group_names() == []

    asyncio.run(scenario())


def test_readers_of_committed_data_pass_over_aborted_transactions(kafka: KafkaCluster, kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            await broker.create_hub("a", 1)
            topic = kafka_store.address.topic("a")
            producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
            producer.init_transactions(30)
            for value, commit in ((b"no", False), (b"yes", True), (b"nor", False)):
                producer.begin_transaction()
                producer.produce(topic, value)
                producer.flush(30)
                (producer.commit_transaction if commit else producer.abort_transaction)(30)
            producer.begin_transaction()
            producer.produce(topic, b"undecided")
            producer.flush(30)
            bounds = await broker.bounds("a", 0)
            assert (bounds.stable, bounds.end) == (6, 7)
            found: list[bytes | None] = []
            offset = 0
            while offset < bounds.stable:
                stretch = await reading.read(broker, "a", 0, offset)
                for block in stretch.blocks:
                    found += [event.value for event in block.events]
                    offset = block.next_offset
            assert found == [b"yes"]
            waiting = asyncio.create_task(broker.wait({("a", 0): offset}, 60, committed=True))
            await asyncio.to_thread(producer.commit_transaction, 30)
            await asyncio.wait_for(waiting, 30)
            assert (await broker.bounds("a", 0)).stable == 8

    asyncio.run(scenario())


# -- appends --------------------------------------------------------------------------------------------------------


def losing_answers(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Every so many batches the connection ends after the broker has the batch and before it says so."""
    carry = kafka_append._Courier.carry
    count = 0

    async def losing(self: Any, place: Any, sent: memoryview) -> Any:
        nonlocal count
        told = await carry(self, place, sent)
        count += 1
        if count % every == 0:
            raise Disconnected("the answer is lost")
        return told

    monkeypatch.setattr(kafka_append._Courier, "carry", losing)


@pytest.mark.parametrize("stamped", [True, False])
def test_a_lost_acknowledgement_makes_no_duplicate(
    kafka_store: KafkaStore, monkeypatch: pytest.MonkeyPatch, stamped: bool
) -> None:
    """Negative control: without producer id and sequence there are duplicates."""

    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            await broker.create_hub("a", 1)
            losing_answers(monkeypatch, 2)
            if not stamped:
                monkeypatch.setattr(kafka_append, "set_producer", lambda *_: None)
            sent = [b"%d" % n for n in range(60)]
            for start in range(0, 60, 6):  # several turns, some of merged batches
                results = await asyncio.gather(
                    *(broker.append("a", 0, batch(each)) for each in sent[start : start + 6])
                )
                if stamped:
                    assert [result.base_offset for result in results] == list(range(start, start + 6))
            found = await values(broker, "a")
            if stamped:
                assert found == sent
            else:
                assert len(found) > len(sent)

    asyncio.run(scenario())


def test_a_forgotten_producer_starts_over(kafka_store: KafkaStore) -> None:
    """The cluster knows another sequence than the lane: what was certainly not appended is sent under a new id."""

    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            await broker.create_hub("a", 1)
            await broker.append("a", 0, batch(b"0"))
            lane = broker._appender._lanes[kafka_store.address.topic("a"), 0]
            before, lane.sequence = lane.producer, 77
            assert (await broker.append("a", 0, batch(b"1"))).base_offset == 1
            assert lane.producer != before
            assert await values(broker, "a") == [b"0", b"1"]

    asyncio.run(scenario())


def test_what_waits_is_bounded(kafka_store: KafkaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-pressure: above the bound appends are refused, those below it arrive, and then there is room again."""

    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            await broker.create_hub("a", 1)
            broker._appender._waiting_bytes_max = 10_000
            futures = [broker.append("a", 0, batch(b"x" * 1000)) for _ in range(30)]
            results = await asyncio.gather(*futures, return_exceptions=True)
            refused = [each for each in results if isinstance(each, Unavailable)]
            assert 15 < len(refused) < 25
            assert "send slower" in str(refused[0])
            assert (await broker.bounds("a", 0)).end == 30 - len(refused)
            assert broker._appender._waiting_bytes == 0
            await broker.append("a", 0, batch(b"x" * 1000))

    asyncio.run(scenario())


def test_events_from_the_future_are_refused_with_the_reason(kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            await broker.create_hub("a", 1)
            with pytest.raises(GridwireError, match=r"[Tt]imestamp"):
                await broker.append("a", 0, encode([Event(b"x", timestamp=NOW_MS + 10 * 24 * 3600 * 1000)]))
            await broker.append("a", 0, batch(b"now"))

    asyncio.run(scenario())


def test_settings_kafka_does_not_take_are_refused_with_its_words(kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            with pytest.raises(InvalidSetting, match=r"segment\.bytes"):
                await broker.create_hub("a", 1, {"segment_bytes": 64 * 1024})
            assert not broker.hubs()

    asyncio.run(scenario())


def test_readers_of_a_group_start_at_the_position_of_a_reset(kafka: KafkaCluster, kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with opened(kafka_store) as broker:
            await broker.create_hub("a", 1)
            await broker.append("a", 0, batch(b"0", b"1", b"2"))
            await broker.commit("g", {("a", 0): Position(2)})
            address = kafka_store.address
            consumer = Consumer({**address.confluent(), "group.id": address.group("g")})
            try:
                (found,) = await asyncio.to_thread(consumer.committed, [TopicPartition(address.topic("a"), 0)], 30)
                assert found.offset == 2
            finally:
                await asyncio.to_thread(consumer.close)

    asyncio.run(scenario())
