"""A worker's source over both brokers: columns, commits with outputs, membership, fencing, restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from event_hubs import SESSION_S, EmbeddedHubs, KafkaHubs
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_source import KafkaSource
from gridwire.broker.local import LocalSource
from gridwire.broker.port import EventSource, Output, Position
from gridwire.core import compression
from gridwire.core.batch import Event, assemble
from gridwire.core.errors import Corruption, FencedEpoch, NotAuthenticated, Rebalanced, Unavailable, UnknownHub
from kafka_cluster import PASSWORD, USER

Hubs = EmbeddedHubs | KafkaHubs

WAIT_S = 60.0


@pytest.fixture(params=["embedded", "kafka"])
def hubs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hubs]:
    """Either broker, with the hubs `in` and `out` of two partitions."""
    embedded = request.param == "embedded"
    made: Hubs = EmbeddedHubs(tmp_path) if embedded else KafkaHubs(request.getfixturevalue("kafka").url)
    made.create("in")
    made.create("out")
    yield made
    made.close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[EmbeddedHubs]:
    made = EmbeddedHubs(tmp_path)
    made.create("in")
    yield made
    made.close()


@pytest.fixture
def kafka_hubs(kafka: Any) -> Iterator[KafkaHubs]:
    made = KafkaHubs(kafka.url)
    made.create("in")
    made.create("out")
    yield made
    made.close()


def until(source: EventSource, condition: Callable[[], bool]) -> None:
    """Poll until something is so."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{source.assigned()}"
        source.poll(0.1)


def settled(source: EventSource, places: int = 2) -> EventSource:
    until(source, lambda: len(source.assigned()) == places)
    return source


def read(source: EventSource, count: int) -> list[tuple[int, int, bytes | None]]:
    found: list[tuple[int, int, bytes | None]] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < deadline:
        for batch in source.poll(1.0):
            found += [(batch.partition, event.offset, event.value) for event in batch.columns.events()]
    assert len(found) >= count, found
    return found


def test_events_arrive_as_columns_and_positions_are_kept(hubs: Hubs) -> None:
    hubs.append("in", 0, b"a", b"b")
    hubs.append("in", 1, b"c")
    source = hubs.open("w", ["in"])
    assert sorted(read(source, 3)) == [(0, 0, b"a"), (0, 1, b"b"), (1, 0, b"c")]
    assert source.positions() == {("in", 0): 2, ("in", 1): 1}
    assert source.committed() == {}
    assert not any(source.lag().values())
    source.commit({("in", 0): 1}, note="half")
    assert source.committed() == {("in", 0): Position(1, "half")}
    source.close()
    again = settled(hubs.open("w", ["in"]))
    assert {place: (at.offset, at.metadata) for place, at in again.committed().items()} == {("in", 0): (1, "half")}
    assert again.positions() == {("in", 0): 1, ("in", 1): 0}
    assert sorted(read(again, 2)) == [(0, 1, b"b"), (1, 0, b"c")]
    again.seek(("in", 0), 0)
    assert read(again, 2) == [(0, 0, b"a"), (0, 1, b"b")]
    again.close()


def test_a_time_is_found_without_reading(hubs: Hubs) -> None:
    hubs.append("in", 0, b"a", b"b")
    source = settled(hubs.open("w", ["in"]))
    begun = source.offsets_at(None)
    assert begun == {("in", 0): 0, ("in", 1): 0}
    assert source.offsets_at(0) == begun
    later = int(time.time() * 1000) + 3_600_000
    assert source.offsets_at(later) == {("in", 0): 2, ("in", 1): 0}, "the end where there is nothing"
    assert source.positions() == begun
    source.close()


def test_a_poll_is_woken_by_an_append(hubs: Hubs) -> None:
    source = settled(hubs.open("w", ["in"]))
    timer = threading.Timer(0.05, hubs.append, ("in", 1, b"late"))
    timer.start()
    assert read(source, 1) == [(1, 0, b"late")]
    timer.join()
    source.close()


def test_outputs_come_with_the_position_in_order(hubs: Hubs) -> None:
    hubs.append("in", 0, b"a")
    source = settled(hubs.open("w", ["in"]))
    source.commit({("in", 0): 1}, [Output("out", 1, [Event(b"x"), Event(b"y")]), Output("out", 0, [Event(b"z")])])
    source.commit({("in", 0): 1}, [Output("out", 1, [Event(b"w", b"k", (("h", b"v"),))])])
    source.close()
    assert hubs.values("out", 1) == [b"x", b"y", b"w"]
    assert hubs.values("out", 0) == [b"z"]


def lose(hubs: Hubs) -> tuple[EventSource, EventSource]:
    """A member that does not know yet that another one has its places, and that one."""
    short = {"work_s_max": SESSION_S} if isinstance(hubs, KafkaHubs) else {}
    first = settled(hubs.open("w", ["in"], **short))
    second = hubs.open("w", ["in"])
    settled(second)  # the first does not poll: it is taken for stuck
    return first, second


def test_a_member_that_lost_its_places_commits_nothing(hubs: Hubs) -> None:
    hubs.append("in", 0, b"a")
    first, second = lose(hubs)
    with pytest.raises((FencedEpoch, Rebalanced)):
        first.commit({("in", 0): 0}, [Output("out", 1, [Event(b"never")])])
    second.commit({("in", 0): 1}, [Output("out", 1, [Event(b"v")])])
    with pytest.raises((FencedEpoch, Rebalanced)):
        first.commit({("in", 0): 0}, [Output("out", 1, [Event(b"never")])])
    assert hubs.values("out", 1) == [b"v"]
    assert second.committed()["in", 0].offset == 1
    first.close()
    second.close()


def commit(source: EventSource, positions: dict[Any, int]) -> None:
    """Commit, again after a poll while places move between members."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            source.commit(positions)
            return
        except Rebalanced:
            assert time.monotonic() < deadline
            source.poll(0.1)


def share(hubs: KafkaHubs) -> tuple[Any, Any]:
    """Two members with a place each."""
    first, second = settled(hubs.open("w", ["in"])), hubs.open("w", ["in"])
    deadline = time.monotonic() + WAIT_S
    while not (len(first.assigned()) == len(second.assigned()) == 1):
        assert time.monotonic() < deadline
        first.poll(0.05)
        second.poll(0.05)
    return first, second


def test_negative_control_the_cluster_does_not_ask_whose_place_it_is(kafka_hubs: KafkaHubs) -> None:
    first, second = share(kafka_hubs)
    [kept], [lost] = first.assigned(), second.assigned()
    commit(first, {kept: 0})
    first._assigned[lost] = 1  # as if it had not noticed, under a membership that is good
    first.commit({lost: 0}, [Output("out", 1, [Event(b"doubled")])])
    assert kafka_hubs.values("out", 1) == [b"doubled"]
    first.close()
    second.close()


def test_members_share_and_a_leaver_is_replaced(kafka_hubs: KafkaHubs) -> None:
    kafka_hubs.append("in", 0, b"a")
    kafka_hubs.append("in", 1, b"b")
    first = settled(kafka_hubs.open("w", ["in"]))
    number = first.assigned()
    second = kafka_hubs.open("w", ["in"])
    deadline = time.monotonic() + WAIT_S
    while not (len(first.assigned()) == len(second.assigned()) == 1):
        assert time.monotonic() < deadline
        first.poll(0.05)
        second.poll(0.05)
    assert first.assigned().keys() | second.assigned().keys() == {("in", 0), ("in", 1)}
    [(kept, still)] = first.assigned().items()
    assert number[kept] == still, "what a member keeps is not assigned anew"
    [lost] = second.assigned()
    with pytest.raises(Rebalanced):
        first.commit({lost: 1})
    commit(first, {kept: 1})
    commit(second, {lost: 1})
    second.close()
    settled(first)
    assert first.assigned()[lost] > number[lost]
    assert {place: at.offset for place, at in first.committed().items()} == {("in", 0): 1, ("in", 1): 1}
    first.close()


def test_whole_hubs_go_to_one_member_and_then_to_the_next(kafka_hubs: KafkaHubs) -> None:
    kafka_hubs.append("in", 1, b"a")
    members = [kafka_hubs.open("w", ["in"], whole_hubs=True) for _ in range(2)]
    deadline = time.monotonic() + WAIT_S
    while (
        sorted(len(each.assigned()) for each in members) != [0, 2]
        or len(
            [each for each in members if each._granted]  # both are in the group
        )
        != 2
    ):
        assert time.monotonic() < deadline
        for each in members:
            each.poll(0.05)
    owner = next(each for each in members if each.assigned())
    other = next(each for each in members if each is not owner)
    assert other.poll(0.2) == []
    assert read(owner, 1) == [(1, 0, b"a")] or owner.positions()["in", 1] == 1
    commit(owner, {("in", 0): 0, ("in", 1): 1})
    owner.close()
    settled(other)
    assert other.positions() == {("in", 0): 0, ("in", 1): 1}
    other.close()


def test_all_hubs_go_to_one_member_together(kafka_hubs: KafkaHubs) -> None:
    """However the group spreads the partitions: who has the first one of the first hub has all."""
    places = {(hub, number) for hub in ("in", "out") for number in range(2)}
    members = [kafka_hubs.open("w", ["in", "out"], together=True) for _ in range(2)]
    deadline = time.monotonic() + WAIT_S
    while (
        sorted(len(each.assigned()) for each in members) != [0, 4]
        or not all(each._granted for each in members)  # both are in the group
    ):
        assert time.monotonic() < deadline
        for each in members:
            each.poll(0.05)
    owner = next(each for each in members if each.assigned())
    other = next(each for each in members if each is not owner)
    assert owner.assigned().keys() == places and owner.whole_hubs
    commit(owner, dict.fromkeys(places, 0))
    owner.close()
    settled(other, 4)
    assert other.assigned().keys() == places
    other.close()


def test_aborted_events_are_passed_over(kafka_hubs: KafkaHubs) -> None:
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": kafka_hubs.address.bootstrap, "transactional.id": kafka_hubs.address.prefix + "x"}
    )
    producer.init_transactions(WAIT_S)
    topic = kafka_hubs.address.topic("in")
    kafka_hubs.append("in", 0, b"before")
    for value, commit in ((b"no", False), (b"yes", True), (b"never", False)):
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.flush(WAIT_S)
        kafka_hubs.append("in", 0, b"beside " + value)
        (producer.commit_transaction if commit else producer.abort_transaction)(WAIT_S)
    source = kafka_hubs.open("w", ["in"])
    assert [value for _, _, value in read(source, 5)] == [
        b"before", b"beside no", b"yes", b"beside yes", b"beside never",
    ]  # fmt: skip
    until(source, lambda: not any(source.lag().values()))
    source.close()


def test_a_source_that_follows_reads_all_and_takes_nothing(hubs: Hubs) -> None:
    hubs.append("out", 0, b"a", b"b")
    owner = settled(hubs.open("w", ["in"], follow=["out"]))
    owner.seek(("out", 0), 0)
    assert sorted(read(owner, 2)) == [(0, 0, b"a"), (0, 1, b"b")]
    onlooker = hubs.open("w", [], follow=["out"])
    assert sorted(read(onlooker, 2)) == [(0, 0, b"a"), (0, 1, b"b")]
    assert onlooker.assigned() == {}
    onlooker.close()
    commit(owner, {("in", 0): 0})
    owner.close()


def test_what_retention_took_is_jumped_over_and_told(hubs: Hubs) -> None:
    hubs.append("in", 0, b"a", b"b", b"c")
    source = settled(hubs.open("w", ["in"]))
    hubs.forget_before("in", 0, 2)
    source.seek(("in", 0), 0)
    found: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while not found and time.monotonic() < deadline:
        found = source.poll(0.2)
    assert [(event.value, batch.first_offset) for batch in found for event in batch.columns.events()] == [(b"c", 2)]
    source.close()


def test_large_outputs_are_cut_into_batches_a_hub_takes(hubs: Hubs) -> None:
    source = settled(hubs.open("w", ["in"]))
    values = [b"%05d" % n + b"x" * 100_000 for n in range(100)]
    source.commit({("in", 0): 0}, [Output("out", 0, [Event(value) for value in values])])
    assert [value[:5] for value in hubs.values("out", 0) if value] == [b"%05d" % n for n in range(100)]
    source.close()


def test_hubs_that_appear_grow_vanish_and_return_are_followed(hubs: Hubs) -> None:
    source = hubs.open("w", ["in", "later"])
    hubs.create("later", 1)
    hubs.append("later", 0, b"first")
    assert read(source, 1) == [(0, 0, b"first")]
    hubs.grow("later", 2)
    hubs.append("later", 1, b"second")
    assert read(source, 1) == [(1, 0, b"second")]
    old, number = source.hub_id("later"), source.assigned()["later", 0]
    hubs.delete("later")
    hubs.create("later", 1)
    hubs.append("later", 0, b"reborn")
    assert read(source, 1) == [(0, 0, b"reborn")]
    assert source.hub_id("later") != old
    assert source.assigned()["later", 0] != number
    with pytest.raises(UnknownHub):
        source.hub_id("never")
    with pytest.raises(UnknownHub):
        source.partitions("never")
    assert source.partitions("out") == 2
    source.close()


def test_a_batch_of_nonsense_does_not_stop_a_worker(hub: EmbeddedHubs) -> None:
    async def append(data: bytearray) -> None:
        await hub.broker.append("in", 0, data)

    hub.append("in", 0, b"before")
    hub.call(append(assemble(b"\xff" * 40, record_count=3, base_timestamp=0, max_timestamp=0)))
    packed = compression.compress(compression.ZSTD, b"\xff" * 40)
    attributes = compression.ZSTD
    hub.call(append(assemble(packed, record_count=2, base_timestamp=0, max_timestamp=0, attributes=attributes)))
    hub.append("in", 0, b"after")
    source = LocalSource(hub.directory, "w", ["in"])
    assert read(source, 2) == [(0, 0, b"before"), (0, 6, b"after")]
    assert source.malformed_batches == 2
    assert source.positions()["in", 0] == 7
    hub.call(append(assemble(b"\xff" * 40, record_count=3, base_timestamp=0, max_timestamp=0)))
    assert source.poll(1.0) == []
    assert source.positions()["in", 0] == 10
    source.close()


def test_damage_of_the_disk_does_stop_a_worker(hub: EmbeddedHubs) -> None:
    hub.append("in", 0, b"a")
    [path] = [p for p in hub.directory.glob("hubs/*/0/*.log") if p.stat().st_size]
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    source = LocalSource(hub.directory, "w", ["in"])
    with pytest.raises(Corruption, match=r"hub 'in' partition 0, segment .*, position 0"):
        source.poll(1.0)
    source.close()


def test_a_hub_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="gridwire up"):
        LocalSource(tmp_path, "w", ["in"])


def test_a_wrong_secret_is_shown_the_door(hub: EmbeddedHubs) -> None:
    endpoint = hub.directory / "run" / "local.json"
    endpoint.write_text(endpoint.read_text().replace('"secret":"', '"secret":"0'))
    with pytest.raises(Unavailable):
        LocalSource(hub.directory, "w", ["in"])


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_cluster_behind_tls_and_sign_in(kafka: Any, kafka_hubs: KafkaHubs, mechanism: str) -> None:
    signed = {"sasl": mechanism, "user": USER, "ca": str(kafka.ca), "prefix": kafka_hubs.address.prefix}
    address = KafkaAddress.parse(f"kafka://{kafka.secure}", password=PASSWORD, **signed)
    kafka_hubs.append("in", 0, *[b"%05d" % n + bytes(10_000) for n in range(100)])
    source = KafkaSource(address, "w", ["in"], session_s=SESSION_S)
    assert [value[:5] for _, _, value in read(source, 100) if value] == [b"%05d" % n for n in range(100)]
    commit(source, {("in", 0): 100})
    source.close()
    with pytest.raises(NotAuthenticated):
        KafkaSource(KafkaAddress.parse(f"kafka://{kafka.secure}", password="wrong", **signed), "w", ["in"])


def test_a_worker_creates_the_hub_it_needs_once(hubs: Hubs) -> None:
    source = hubs.open("w", ["in"])
    source.create_hub("grid.feeder-parts", 3)
    source.create_hub("grid.feeder-parts", 5)
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            assert source.partitions("grid.feeder-parts") == 3
            break
        except UnknownHub:  # not every broker has heard of it
            assert time.monotonic() < deadline
            time.sleep(0.05)
    source.close()
