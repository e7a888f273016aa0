"""The new consumer group protocol (KIP-848) as confluent-kafka speaks it; the Java client's part is in its own file."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import confluent_kafka as ck
import pytest
from confluent_kafka import admin as ck_admin

DEADLINE_S = 40.0
_QUIET = {"log_level": 0}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Any]:
    running = hub_process(tmp_path_factory.mktemp("consumer-protocol") / "data")
    yield running
    running.stop()


def ask(address: str, question: Callable[[ck_admin.AdminClient], Any]) -> Any:
    """The result of an admin call; the client lives until it is there."""
    client = ck_admin.AdminClient({"bootstrap.servers": address, **_QUIET})
    future = question(client)
    if isinstance(future, dict):
        (future,) = future.values()
    return future.result(DEADLINE_S)


def create(address: str, partitions: int) -> str:
    topic = f"new-{next(_numbers)}"
    ask(address, lambda client: client.create_topics([ck_admin.NewTopic(topic, partitions, 1)]))
    return topic


def produce(address: str, topic: str, values: list[str]) -> None:
    producer = ck.Producer({"bootstrap.servers": address, **_QUIET})
    for number, value in enumerate(values):
        producer.produce(topic, value, partition=number % 6)
    assert producer.flush(DEADLINE_S) == 0


@contextlib.contextmanager
def member(address: str, group: str, **config: Any) -> Iterator[ck.Consumer]:
    consumer = ck.Consumer(
        {
            "bootstrap.servers": address, "group.id": group, "group.protocol": "consumer",
            "auto.offset.reset": "earliest", "enable.auto.commit": False,
            "topic.metadata.refresh.interval.ms": 500, **_QUIET, **config,
        }
    )  # fmt: skip
    try:
        yield consumer
    finally:
        consumer.close()


def until(what: str, condition: Callable[[], Any]) -> Any:
    end_s = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end_s, f"did not happen in time: {what}"
    return found


def take(members: list[ck.Consumer], seen: dict[str, int]) -> None:
    for each in members:
        for message in each.consume(100, 0.05):
            if message.error() is None:
                seen[message.value().decode()] = seen.get(message.value().decode(), 0) + 1


def shares(members: list[ck.Consumer]) -> list[int]:
    return sorted(len(each.assignment()) for each in members)


def commit(members: list[ck.Consumer]) -> None:
    for each in members:
        try:
            each.commit(asynchronous=False)
        except ck.KafkaException as problem:
            assert problem.args[0].code() == ck.KafkaError._NO_OFFSET, problem  # it has read nothing


@pytest.mark.parametrize("assignor", ["uniform", "range"])
def test_three_members_come_and_go(shared_hub: Any, assignor: str) -> None:
    address = shared_hub.kafka
    topic = create(address, 6)
    group, seen, config = f"group-{topic}", {}, {"group.remote.assignor": assignor}
    produce(address, topic, [f"v{number}" for number in range(60)])
    with contextlib.ExitStack() as stack:
        members: list[ck.Consumer] = []
        for expected in ([6], [3, 3], [2, 2, 2]):
            members.append(stack.enter_context(member(address, group, **config)))
            members[-1].subscribe([topic])

            def settled(expected: list[int] = expected) -> bool:
                take(members, seen)
                return len(seen) == 60 and shares(members) == expected

            until(f"shares {expected}", settled)
            commit(members)
        described = ask(address, lambda client: client.describe_consumer_groups([group]))
        assert described.state == ck.ConsumerGroupState.STABLE
        assert described.type == ck.ConsumerGroupType.CONSUMER
        assert described.partition_assignor == assignor
        assert sum(len(each.assignment.topic_partitions) for each in described.members) == 6
        listed = ask(address, lambda client: client.list_consumer_groups(types={ck.ConsumerGroupType.CONSUMER}))
        assert group in {each.group_id for each in listed.valid}
        produce(address, topic, [f"w{number}" for number in range(60)])
        until("the rest", lambda: take(members, seen) or len(seen) == 120)
        assert set(seen.values()) == {1}, "something was read again although it was committed"
        members[0].unsubscribe()
        until("two share", lambda: take(members, seen) or shares(members[1:]) == [3, 3])


def test_the_group_is_there_again_after_a_kill(start_hub: Any) -> None:
    hub = start_hub()
    topic = create(hub.kafka, 6)
    group, seen = f"group-{topic}", {}
    produce(hub.kafka, topic, [f"v{number}" for number in range(60)])
    with member(hub.kafka, group) as one, member(hub.kafka, group) as two:
        members = [one, two]
        one.subscribe([topic])
        two.subscribe([topic])
        until("all read", lambda: take(members, seen) or (len(seen) == 60 and shares(members) == [3, 3]))
        commit(members)
        port = hub.kafka.rpartition(":")[2]
        hub.kill()
        again = start_hub(data=hub.data, kafka_port=port)
        produce(again.kafka, topic, [f"w{number}" for number in range(60)])
        until("all read again", lambda: take(members, seen) or (len(seen) == 120 and shares(members) == [3, 3]))
        places = [ck.TopicPartition(topic, number) for number in range(6)]

        def committed() -> bool:
            """A partition that changed hands before its reader committed is read again by its new one."""
            take(members, seen)
            commit(members)
            return [each.offset for each in one.committed(places, DEADLINE_S)] == [20] * 6

        until("all committed", committed)


def test_an_empty_group_changes_its_protocol_and_keeps_its_positions(shared_hub: Any) -> None:
    address = shared_hub.kafka
    topic = create(address, 6)
    group = f"group-{topic}"
    for turn, protocol in enumerate(("classic", "consumer", "classic")):
        seen: dict[str, int] = {}
        produce(address, topic, [f"{turn}-{number}" for number in range(12)])
        with member(address, group, **{"group.protocol": protocol}) as one:
            one.subscribe([topic])
            until(f"read by {protocol}", lambda: take([one], seen) or len(seen) == 12)  # noqa: B023
            one.commit(asynchronous=False)
        assert {value.partition("-")[0] for value in seen} == {str(turn)}


def test_a_group_with_members_does_not_change_its_protocol(shared_hub: Any) -> None:
    address = shared_hub.kafka
    topic = create(address, 1)
    group = f"group-{topic}"
    with member(address, group) as one, member(address, group, **{"group.protocol": "classic"}) as two:
        one.subscribe([topic])
        until("the first has it", lambda: one.poll(0.1) is None and shares([one]) == [1])
        two.subscribe([topic])
        error = until("the second is told", lambda: two.poll(0.2))
        assert error.error().code() == ck.KafkaError.INCONSISTENT_GROUP_PROTOCOL
        assert shares([one]) == [1]


def test_a_pattern_finds_topics_that_come_later(shared_hub: Any) -> None:
    address = shared_hub.kafka
    first = create(address, 2)
    with member(address, f"pattern-{first}") as one:
        one.subscribe([f"^{first}.*"])
        until("the first topic", lambda: one.poll(0.1) is None and shares([one]) == [2])
        ask(address, lambda client: client.create_topics([ck_admin.NewTopic(f"{first}-more", 3, 1)]))
        until("both topics", lambda: one.poll(0.1) is None and shares([one]) == [5])
        described = ask(address, lambda client: client.describe_consumer_groups([f"pattern-{first}"]))
        assert sum(len(each.assignment.topic_partitions) for each in described.members) == 5
