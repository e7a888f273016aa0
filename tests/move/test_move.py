"""`gridwire.move` between a real embedded hub and a real Apache Kafka, in both directions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import confluent_kafka as ck
import pytest
from confluent_kafka import admin as ck_admin

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.core.errors import FencedEpoch, GridwireError
from gridwire.move import copy as copy_module
from gridwire.move.mover import Mover
from gridwire.move.side import Side
from gridwire.move.verify import ChecksumMismatch
from kafka_cluster import KafkaCluster

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.timeout(300)]
DEADLINE_S = 120

Record = tuple[bytes | None, bytes | None, int, tuple[tuple[str, bytes | None], ...]]


class Place:
    """One side as a user's clients see it."""

    def __init__(self, address: KafkaAddress) -> None:
        self.address = address
        self.side = Side(address)
        self.admin = ck_admin.AdminClient(address.confluent() | {"log_level": 0})

    def make(self, hub: str, partitions: int = 1, **config: str) -> None:
        named = {key.replace("_", "."): value for key, value in config.items()}
        topic = ck_admin.NewTopic(self.address.topic(hub), partitions, config=named)
        self.admin.create_topics([topic])[self.address.topic(hub)].result(DEADLINE_S)

    def send(self, hub: str, records: Sequence[Record], partition: int = 0) -> None:
        producer = ck.Producer(self.address.confluent() | {"log_level": 0})
        self._produce(producer, hub, records, partition)
        assert producer.flush(DEADLINE_S) == 0

    def _produce(self, producer: Any, hub: str, records: Sequence[Record], partition: int) -> None:
        for key, value, time_ms, headers in records:
            producer.produce(self.address.topic(hub), value, key, partition, timestamp=time_ms, headers=list(headers))
            producer.poll(0)

    def undecided(self, hub: str, records: Sequence[Record], partition: int = 0) -> Any:
        """A producer whose transaction is open; the records lie in the log."""
        name = f"t-{uuid.uuid4().hex}"
        producer = ck.Producer(self.address.confluent() | {"log_level": 0, "transactional.id": name})
        producer.init_transactions(DEADLINE_S)
        producer.begin_transaction()
        self._produce(producer, hub, records, partition)
        assert producer.flush(DEADLINE_S) == 0
        return producer

    def transaction(self, hub: str, records: Sequence[Record], partition: int = 0, commit: bool = True) -> None:
        producer = self.undecided(hub, records, partition)
        producer.commit_transaction(DEADLINE_S) if commit else producer.abort_transaction(DEADLINE_S)

    def read(self, hub: str, partition: int = 0, offset: int = 0) -> list[tuple[int, Record]]:
        """(offset, record) of every committed event from an offset to the end."""
        consumer = self.side.consumer()
        consumer.assign([ck.TopicPartition(self.address.topic(hub), partition, offset)])
        found: list[tuple[int, Record]] = []
        try:
            while True:
                message = consumer.poll(DEADLINE_S)
                assert message is not None
                if message.error() is not None:
                    if message.error().code() == ck.KafkaError.MSG_SIZE_TOO_LARGE:  # only empty batches, and it goes on
                        continue
                    assert message.error().code() == ck.KafkaError._PARTITION_EOF, message.error()
                    return found
                headers = tuple(message.headers() or ())
                found.append(
                    (message.offset(), (message.key(), message.value(), max(message.timestamp()[1], 0), headers))
                )
        finally:
            consumer.close()

    def records(self, hub: str, partition: int = 0) -> list[Record]:
        return [record for _, record in self.read(hub, partition)]

    def commit(self, group: str, hub: str, offset: int, partition: int = 0, note: str = "") -> None:
        row = ck.TopicPartition(self.address.topic(hub), partition, offset, note)
        wanted = ck.ConsumerGroupTopicPartitions(self.address.group(group), [row])
        done = self.admin.alter_consumer_group_offsets([wanted])[wanted.group_id].result(DEADLINE_S)
        assert done.topic_partitions[0].error is None

    def position(self, group: str, hub: str, partition: int = 0) -> int:
        return self.side.positions(group)[hub, partition].offset

    def forget_before(self, hub: str, offset: int, partition: int = 0) -> None:
        row = ck.TopicPartition(self.address.topic(hub), partition, offset)
        self.admin.delete_records([row])[row].result(DEADLINE_S)

    def configs(self, hub: str) -> dict[str, str]:
        return self.side.configs([hub])[hub]


@pytest.fixture
def box(start_hub: Any) -> Place:
    """An embedded hub."""
    hub = start_hub("--durability", "os", "--no-workers", http_port="off")
    return Place(KafkaAddress.parse(f"kafka://{hub.kafka}"))


@pytest.fixture
def cluster(kafka: KafkaCluster) -> Place:
    """A namespace of its own in the cluster."""
    return Place(KafkaAddress.parse(kafka.url, prefix=f"{uuid.uuid4().hex[:8]}."))


def records(count: int, start: int = 0, tag: bytes = b"") -> list[Record]:
    now_ms = time.time_ns() // 1_000_000
    return [
        (
            None if i % 7 == 3 else b"key-%d" % (i % 50),
            None if i % 11 == 5 else tag + b"value %d" % i,
            now_ms - 1000 + i % 500,
            (("n", b"%d" % i), ("n", None), ("", b"")) if i % 3 == 0 else (),
        )
        for i in range(start, start + count)
    ]


def settled(check: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not check():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_there_and_back(box: Place, cluster: Place, start_hub: Any, tmp_path: Any) -> None:
    box.make("readings", 2, retention_ms="86400000", max_message_bytes="2000000")
    box.make("empty", 3)
    box.send("readings", records(900))
    box.send("readings", [(b"old", b"1970", 0, ()), *records(300, 900)], partition=1)
    box.commit("billing", "readings", 450, note="half way")
    box.commit("billing", "readings", 301, partition=1)
    result = Mover(box.side, cluster.side).run()
    assert {(row.hub, row.partition): row.events for row in result.partitions} == {
        ("readings", 0): 900, ("readings", 1): 301, ("empty", 0): 0, ("empty", 1): 0, ("empty", 2): 0,
    }  # fmt: skip
    for partition in (0, 1):
        assert cluster.records("readings", partition) == box.records("readings", partition)
    assert cluster.configs("readings")["retention.ms"] == "86400000"
    assert cluster.configs("readings")["max.message.bytes"] == "2000000"
    first = cluster.read("readings", 0, cluster.position("billing", "readings"))
    assert first[0][1] == box.records("readings")[450]
    assert cluster.side.positions("billing")["readings", 0].metadata == "half way"
    assert not cluster.read("readings", 1, cluster.position("billing", "readings", 1))

    # And back, to a box that knows nothing yet.
    fresh = start_hub("--durability", "os", "--no-workers", data=tmp_path / "fresh", http_port="off")
    back = Place(KafkaAddress.parse(f"kafka://{fresh.kafka}"))
    again = Mover(cluster.side, back.side).run()
    sums = {(row.hub, row.partition): (row.events, row.checksum) for row in result.partitions}
    assert sums == {(row.hub, row.partition): (row.events, row.checksum) for row in again.partitions}
    assert back.records("readings") == box.records("readings")
    assert back.read("readings", 0, back.position("billing", "readings"))[0][1] == box.records("readings")[450]
    assert back.configs("readings")["retention.ms"] == "86400000"


def compacted(start_hub: Any, tmp_path: Any) -> Place:
    """An embedded hub of which compaction took nine events out of ten, in the middle of batches too."""
    data = tmp_path / "compacted"
    hub = start_hub("--durability", "os", "--no-workers", data=data, http_port="off")
    place = Place(KafkaAddress.parse(f"kafka://{hub.kafka}"))
    place.make("state", cleanup_policy="compact", segment_bytes="65536", min_cleanable_dirty_ratio="0.01")
    now_ms = time.time_ns() // 1_000_000
    for start in range(0, 3000, 100):  # a batch each
        events = range(start, start + 100)
        place.send("state", [(b"key-%d" % (i * 7 % 300), b"x" * 200 + b"%d" % i, now_ms, ()) for i in events])
    hub.stop()

    async def compact() -> None:
        broker = await EmbeddedBroker.open(data, "os")
        try:
            await broker.maintain()
        finally:
            await broker.close()

    asyncio.run(compact())
    hub = start_hub("--durability", "os", "--no-workers", data=data, http_port="off")
    return Place(KafkaAddress.parse(f"kafka://{hub.kafka}"))


def test_positions_across_gaps(start_hub: Any, tmp_path: Any, cluster: Place) -> None:
    """Compaction, retention and transactions: offsets differ, every group goes on at the very next event."""
    box = compacted(start_hub, tmp_path)
    box.make("young")
    box.send("young", records(200))
    box.forget_before("young", 120)
    box.make("undecided")
    box.transaction("undecided", records(5))
    box.transaction("undecided", records(7, 5, b"aborted "), commit=False)
    box.send("undecided", records(6, 12))
    box.transaction("undecided", records(3, 18))
    for hub in ("state", "young", "undecided"):
        for offset in range(box.side.bounds([(hub, 0)])[hub, 0].end + 1)[:: 97 if hub == "state" else 5]:
            box.commit(f"at-{offset}", hub, offset)
    result = Mover(box.side, cluster.side).run()
    assert cluster.configs("state")["cleanup.policy"] == "compact"
    there = {hub: cluster.read(hub) for hub in ("state", "young", "undecided")}
    here = {hub: box.read(hub) for hub in there}
    assert 300 <= len(here["state"]) < 3000 and here["young"][0][0] == 120 and len(here["undecided"]) == 14
    for hub, events in here.items():
        assert [record for _, record in there[hub]] == [record for _, record in events]
    assert len(result.positions) > 60
    for row in result.positions:
        following = [record for offset, record in here[row.hub] if offset >= row.source]
        assert cluster.position(row.group, row.hub) == row.target and row.state == "moved"
        assert [record for offset, record in there[row.hub] if offset >= row.target] == following


def test_a_second_run_brings_what_came_since(box: Place, cluster: Place) -> None:
    box.make("readings", retention_ms="123456789")
    box.send("readings", records(100))
    for group in ("steady", "gone on", "in use"):
        box.commit(group, "readings", 50)
    Mover(box.side, cluster.side).run()
    cluster.commit("gone on", "readings", 80)
    member = ck.Consumer(cluster.address.confluent() | {"group.id": cluster.address.group("in use"), "log_level": 0})
    member.subscribe([cluster.address.topic("readings")])
    settled(lambda: bool(member.poll(0.1) is not None or member.assignment()))
    cluster.send("readings", [(b"foreign", b"written there", 1_700_000_000_000, ())])  # somebody who is early
    box.send("readings", records(60, 100))
    for group in ("steady", "gone on", "in use"):
        box.commit(group, "readings", 120)
    try:
        result = Mover(box.side, cluster.side).run()
    finally:
        member.close()
    assert {row.group: row.state for row in result.positions} == {
        "steady": "moved", "gone on": "kept", "in use": "members",
    }  # fmt: skip
    ours = [record for record in cluster.records("readings") if record[0] != b"foreign"]
    assert ours == box.records("readings") and len(ours) == 160
    following = cluster.read("readings", 0, cluster.position("steady", "readings"))
    assert following[0][1] == box.records("readings")[120]
    assert cluster.position("gone on", "readings") == 80
    assert cluster.configs("readings")["retention.ms"] == "123456789"


def test_what_is_in_the_way_is_named(box: Place, cluster: Place) -> None:
    for place in (box, cluster):
        place.make("readings")
        place.send("readings", records(3))
    with pytest.raises(GridwireError, match="'readings' at the destination has events that no move"):
        Mover(box.side, cluster.side).run()
    assert len(cluster.records("readings")) == 3
    with pytest.raises(GridwireError, match="no hub 'nowhere'"):
        Mover(box.side, cluster.side, ["nowhere"]).run()
    with pytest.raises(GridwireError, match="the same"):
        Mover(box.side, box.side)


def test_a_hub_made_anew_is_not_taken_for_the_old_one(box: Place, cluster: Place) -> None:
    box.make("readings")
    box.send("readings", records(3))
    Mover(box.side, cluster.side).run()
    topic = box.address.topic("readings")
    box.admin.delete_topics([topic])[topic].result(DEADLINE_S)
    box.make("readings")
    box.send("readings", records(5))
    with pytest.raises(GridwireError, match="made again since its move began"):
        Mover(box.side, cluster.side).run()
    theirs = cluster.address.topic("readings")
    cluster.admin.delete_topics([theirs])[theirs].result(DEADLINE_S)
    settled(lambda: cluster.side.shape("readings") is None)
    result = Mover(box.side, cluster.side).run()
    assert result.partitions[0].events == 5 and cluster.records("readings") == box.records("readings")


def test_a_later_mover_fences_the_earlier(box: Place, cluster: Place) -> None:
    box.make("readings")
    box.send("readings", records(10))
    earlier = Mover(box.side, cluster.side)
    later = Mover(box.side, cluster.side)
    with pytest.raises(FencedEpoch):
        earlier.run()
    later.run()
    assert cluster.records("readings") == box.records("readings")


def test_damage_at_the_destination_is_noticed(box: Place, cluster: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event altered, one left out, two that changed places; the same events unharmed are the negative control."""
    honest = copy_module._Load._send

    def harmed(how: str) -> Callable[..., None]:
        held: list[Any] = []

        def send(self: Any, place: Any, key: Any, value: Any, headers: Any, time_ms: int) -> None:
            number = int((value or b"x -1").split()[-1])
            if number == 70 and how == "key":
                key = b"another"
            if number == 70 and how == "value":
                value = b"another"
            if number == 70 and how == "time":
                time_ms += 1
            if number == 70 and how == "headers":
                headers = [("more", b"")]
            if number == 70 and how == "order":
                held.append((self, place, key, value, headers, time_ms))
                return
            honest(self, place, key, value, headers, time_ms)
            while held:
                honest(*held.pop())

        return send

    for how in ("key", "value", "time", "headers", "order"):
        box.make(how)
        box.send(how, records(150))
        monkeypatch.setattr(copy_module._Load, "_send", harmed(how))
        with pytest.raises(ChecksumMismatch, match="partition 0 of hub"):
            Mover(box.side, cluster.side, [how]).run()
    monkeypatch.setattr(copy_module._Load, "_send", harmed("nothing"))
    box.make("unharmed")
    box.send("unharmed", records(150))
    mover = Mover(box.side, cluster.side, ["unharmed"])
    mover.copy()
    cluster.forget_before("unharmed", 10)  # between copy and check
    with pytest.raises(ChecksumMismatch):
        mover.verify(["unharmed"])
    box.make("whole")
    box.send("whole", records(150))
    assert Mover(box.side, cluster.side, ["whole"]).run().partitions[0].events == 150


def test_a_commit_that_is_on_its_way_is_waited_for(cluster: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster answers a commit before its partitions know of it, and until then readers come to an early end."""
    cluster.make("readings")
    producer = cluster.undecided("readings", records(5))
    place = ("readings", 0)
    assert cluster.side.bounds([place])[place].end == 0
    waits = []

    def decide(_: float) -> None:
        waits.append(cluster.side.bounds([place])[place].end)
        if len(waits) == 2:
            producer.commit_transaction(DEADLINE_S)

    monkeypatch.setattr("gridwire.move.side.time.sleep", decide)
    cluster.side.wait_decided({place: 5})
    assert waits[:2] == [0, 0]
    assert cluster.side.bounds([place])[place].end >= 5
    cluster.side.wait_decided({place: 100})  # nobody wrote so far: the comparison says what is missing
