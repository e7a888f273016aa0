"""The contract's second half, on each broker: what readers see of retention, compaction, transactions, groups and hubs
that go while they read; and what every method raises. See `test_broker_contract`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from brokers import EmbeddedStore, KafkaSide, OpenBroker, Store
from gridwire.broker.kafka_append import WAITING_BYTES_MAX
from gridwire.broker.port import Bounds, Position
from gridwire.core.batch import CONTROL, Event, encode, iter_headers
from gridwire.core.errors import (
    GridwireError,
    OffsetOutOfRange,
    Unavailable,
    UnknownHub,
    UnknownPartition,
)
from gridwire.groups.consumer_protocol import assigned_partitions
from gridwire.heads.http import reading

NOW_MS = int(time.time() * 1000)
DAY_MS = 24 * 3600 * 1000
HOUR_MS = 3600 * 1000
WAIT_S = 60.0


def batch(*values: bytes, at_ms: int = NOW_MS) -> bytearray:
    return encode([Event(value, timestamp=at_ms) for value in values])


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    deadline_s = time.monotonic() + WAIT_S
    while not (found := await condition()):
        assert time.monotonic() < deadline_s, "it did not happen"
        await asyncio.sleep(0.02)
    return found


async def events(broker: OpenBroker, hub: str, offset: int = 0, *, committed: bool = False) -> list[Event]:
    """Everything from an offset on, as a head reads it."""
    found: list[Event] = []
    bounds = await broker.bounds(hub, 0)
    while offset < (bounds.stable if committed else bounds.end):
        stretch = await reading.read(broker, hub, 0, offset)
        for block in stretch.blocks:
            found += block.events
            offset = block.next_offset
    return found


def run(scenario: Any) -> None:
    asyncio.run(scenario)


# -- retention --------------------------------------------------------------------------------------------------------


async def start_moved(store: Store, broker: OpenBroker, least: int) -> Bounds:
    async def moved() -> Bounds | None:
        await store.keep_house(broker)
        bounds = await broker.bounds("a", 0)
        return bounds if bounds.start >= least else None

    found: Bounds = await until(moved)
    return found


def test_retention_by_age_moves_the_start_and_readers_are_told(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a", 1, {"retention_ms": HOUR_MS})
            await broker.append("a", 0, batch(b"old", b"old", at_ms=NOW_MS - DAY_MS))
            assert await start_moved(store, broker, 2) == Bounds(2, 2, 2)
            with pytest.raises(OffsetOutOfRange) as error:
                await broker.read("a", 0, 0, 1000)
            assert (error.value.start, error.value.end) == (2, 2)
            waiting = asyncio.create_task(broker.wait({("a", 0): 2}, WAIT_S))
            assert (await broker.append("a", 0, batch(b"new"))).base_offset == 2
            await asyncio.wait_for(waiting, WAIT_S)
            await asyncio.wait_for(broker.wait({("a", 0): 0}, WAIT_S), WAIT_S / 2)  # there is something behind it
            assert [each.value for each in await events(broker, "a", 2)] == [b"new"]
            await store.keep_house(broker)
            assert (await broker.bounds("a", 0)).start == 2, "what is young enough stays"

    run(scenario())


def test_retention_by_size_keeps_as_much_as_it_says(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a", 1, {"segment_bytes": 1 << 20, "retention_bytes": 1 << 20})
            for _ in range(6):
                await broker.append("a", 0, batch(b"x" * 700_000))
            bounds = await start_moved(store, broker, 3)
            assert bounds.end == 6
            assert bounds.start < 5, "more was deleted than had to be"
            assert sum(await broker.sizes("a")) >= 1 << 20
            assert (await broker.read("a", 0, bounds.start, 1000)).start == bounds.start
            await asyncio.wait_for(broker.wait({("a", 0): 0}, WAIT_S), WAIT_S / 2)
            await broker.alter_hub("a", {"retention_bytes": -1})
            await broker.append("a", 0, batch(b"x" * 700_000))
            await broker.append("a", 0, batch(b"x" * 700_000))
            await store.keep_house(broker)
            assert (await broker.bounds("a", 0)).start == bounds.start

    run(scenario())


# -- compaction -------------------------------------------------------------------------------------------------------


def test_compaction_keeps_the_last_event_of_every_key_where_it_was(store: Store) -> None:
    def keyed(key: bytes, value: bytes, at_ms: int) -> bytearray:
        return encode([Event(value, key, timestamp=at_ms)])

    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub(
                "a", 1, {"cleanup": "compact", "compact_dirty_percent": 1, "segment_ms": 1000, "segment_bytes": 1 << 20}
            )
            for n in range(12):
                await broker.append("a", 0, keyed(b"k%d" % (n % 3), b"%d" % n, NOW_MS - DAY_MS))
            await broker.append("a", 0, keyed(b"other", b"12", NOW_MS))  # so late that it begins a segment

            async def compacted() -> list[Event] | None:
                await store.keep_house(broker)
                found = await events(broker, "a")
                return found if len(found) <= 5 else None

            found = await until(compacted)
            kept = [(each.offset, each.key, each.value) for each in found]
            assert kept[-4:] == [(9, b"k0", b"9"), (10, b"k1", b"10"), (11, b"k2", b"11"), (12, b"other", b"12")]
            assert await broker.bounds("a", 0) == Bounds(0, 13, 13), "offsets are what they were"
            assert (await events(broker, "a", 4))[0].offset >= 4, "reading at an offset that went goes on behind it"

    run(scenario())


# -- transactions -----------------------------------------------------------------------------------------------------


class Transactions:
    """Transactions of an unmodified client."""

    def __init__(self, side: KafkaSide, name: str = "t") -> None:
        self._topic = side.prefix + "a"
        self.producer = Producer(side.client(**{"transactional.id": side.prefix + name}))

    async def begin(self, *values: bytes) -> None:
        def send() -> None:
            self.producer.begin_transaction()
            for value in values:
                self.producer.produce(self._topic, value, partition=0)
            self.producer.flush(WAIT_S)

        await asyncio.to_thread(send)

    async def start(self) -> None:
        await asyncio.to_thread(self.producer.init_transactions, WAIT_S)

    async def end(self, *, commit: bool) -> None:
        ending = self.producer.commit_transaction if commit else self.producer.abort_transaction
        await asyncio.to_thread(ending, WAIT_S)


async def all_decided(broker: OpenBroker) -> None:
    """A cluster answers the end of a transaction before its partitions know of it."""

    async def decided() -> bool:
        bounds = await broker.bounds("a", 0)
        return bounds.stable == bounds.end

    await until(decided)


def test_readers_of_committed_data_see_what_was_decided(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker, store.kafka_side(broker) as side:
            await broker.create_hub("a", 1)
            client = Transactions(side)
            await client.start()
            for value, commit in ((b"no", False), (b"yes", True), (b"nor", False)):
                await client.begin(value)
                await client.end(commit=commit)
            await all_decided(broker)
            assert [each.value for each in await events(broker, "a", committed=True)] == [b"yes"]
            await client.begin(b"undecided", b"still")
            await broker.append("a", 0, batch(b"behind it"))
            bounds = await broker.bounds("a", 0)
            assert (bounds.stable, bounds.end) == (6, 9)
            read = await broker.read("a", 0, 6, 1000)
            assert (read.stable, read.end) == (6, 9)
            assert [h.record_count for _, h in iter_headers(read.data) if not h.attributes & CONTROL][-1:] == [1]
            assert not len((await broker.read("a", 0, 6, 1000, committed=True)).data), "nothing undecided is read"
            await asyncio.wait_for(broker.wait({("a", 0): 6}, WAIT_S), WAIT_S / 2)
            waiting = asyncio.create_task(broker.wait({("a", 0): 6}, WAIT_S, committed=True))
            await broker.wait({("a", 0): 6}, 0.05, committed=True)
            assert not waiting.done(), "woken by what is not decided"
            await client.end(commit=True)
            await asyncio.wait_for(waiting, WAIT_S)
            await all_decided(broker)
            found = [each.value for each in await events(broker, "a", 6, committed=True)]
            assert found == [b"undecided", b"still", b"behind it"]
            assert (await broker.bounds("a", 0)).stable == 10

    run(scenario())


def test_aborted_transactions_between_others_are_named(store: Store) -> None:
    """Two at once, one of them aborted: what a committed read tells is enough to drop just its events."""

    async def scenario() -> None:
        async with store.opened() as broker, store.kafka_side(broker) as side:
            await broker.create_hub("a", 1)
            good, bad = Transactions(side, "good"), Transactions(side, "bad")
            await good.start()
            await bad.start()
            await bad.begin(b"b1")
            await good.begin(b"g1", b"g2")
            await bad.end(commit=False)
            await bad.begin(b"b2")
            await good.end(commit=True)
            await bad.end(commit=False)
            await good.begin(b"g3")
            await good.end(commit=True)
            await all_decided(broker)
            read = await broker.read("a", 0, 0, 1 << 20, committed=True)
            assert len(read.aborted) == 2
            assert [each.value for each in await events(broker, "a", committed=True)] == [b"g1", b"g2", b"g3"]

    run(scenario())


def test_a_newer_producer_of_the_same_transactional_id_fences_the_older_one(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker, store.kafka_side(broker) as side:
            await broker.create_hub("a", 1)
            older, newer = Transactions(side), Transactions(side)
            await older.start()
            await older.begin(b"zombie")
            await newer.start()  # aborts it
            with pytest.raises(KafkaException):
                await older.end(commit=True)
            await newer.begin(b"yes")
            await newer.end(commit=True)
            await all_decided(broker)
            assert [each.value for each in await events(broker, "a", committed=True)] == [b"yes"]

    run(scenario())


# -- groups -----------------------------------------------------------------------------------------------------------


class Member:
    """An unmodified client in a group; what it does runs in a thread."""

    def __init__(self, side: KafkaSide, protocol: str) -> None:
        more = {} if protocol == "consumer" else {"session.timeout.ms": 20_000, "heartbeat.interval.ms": 300}
        self._topic = side.prefix + "a"
        self._consumer = Consumer(
            side.client(
                **{
                    "group.id": side.prefix + "g", "auto.offset.reset": "earliest", "enable.auto.commit": False,
                    "group.protocol": protocol, **more,
                }
            )
        )  # fmt: skip
        self._consumer.subscribe([self._topic])
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self.seen = 0

    async def _run(self) -> None:
        while not self._over.is_set():
            message = await asyncio.to_thread(self._consumer.poll, 0.05)
            if message is not None and message.error() is None:
                self.seen += 1

    async def commit(self, offset: int) -> None:
        places = [TopicPartition(self._topic, 0, offset, "note")]
        await asyncio.to_thread(lambda: self._consumer.commit(offsets=places, asynchronous=False))

    async def leave(self) -> None:
        self._over.set()
        await self._task
        await asyncio.to_thread(self._consumer.close)


def shares(view: Any) -> list[list[int]]:
    """Partitions of each member."""
    return sorted(assigned_partitions(each.assignment).get("a", []) for each in view.members)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_come_and_go_and_positions_are_one_truth(store: Store, protocol: str) -> None:
    async def scenario() -> None:
        async with store.opened() as broker, store.kafka_side(broker) as side:
            await broker.create_hub("a", 2)
            await broker.append("a", 0, batch(b"0", b"1", b"2"))
            await broker.commit("g", {("a", 0): Position(1, "ours")})
            assert await side.groups.view("nobody") is None

            async def shared(wanted: list[list[int]]) -> bool:
                view = (await side.groups.views()).get("g")
                return view is not None and str(view.state).lower() == "stable" and shares(view) == wanted

            one = Member(side, protocol)
            await until(lambda: shared([[0, 1]]))

            async def read() -> bool:
                return one.seen == 2

            await until(read)  # from where our commit said
            view = await side.groups.view("g")
            assert view is not None
            assert view.protocol_type == "consumer"
            two = Member(side, protocol)
            await until(lambda: shared([[0], [1]]))
            await one.leave()
            await until(lambda: shared([[0, 1]]))
            await two.commit(3)
            assert (await broker.positions("g"))["a", 0].offset == 3
            assert (await broker.positions("g"))["a", 0].metadata.rstrip("\0") == "note"  # the client ends it so
            await two.leave()

            async def empty() -> bool:
                view = await side.groups.view("g")
                return view is None or not view.members

            await until(empty)
            await broker.commit("g", {("a", 0): Position(2)})
            three = Member(side, protocol)

            async def read_again() -> bool:
                return three.seen == 1

            await until(read_again)
            await three.leave()
            assert list(await broker.group_names()) == ["g"]
            await until(empty)
            await broker.delete_group("g")
            assert await broker.positions("g") == {}

    run(scenario())


# -- hubs that go while somebody reads --------------------------------------------------------------------------------


def test_a_hub_that_is_deleted_and_made_again_is_another_one_for_its_readers(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            first = await broker.create_hub("a", 1)
            await broker.append("a", 0, batch(b"0", b"1", b"2"))
            await broker.commit("g", {("a", 0): Position(2)})
            waiting = asyncio.create_task(broker.wait({("a", 0): 3}, 2 * WAIT_S))
            await asyncio.sleep(0)
            await broker.delete_hub("a")
            with contextlib.suppress(UnknownHub):
                await asyncio.wait_for(waiting, WAIT_S)
            with pytest.raises(UnknownHub):
                await broker.read("a", 0, 0, 1000)
            with pytest.raises(UnknownHub):
                await broker.append("a", 0, batch(b"x"))
            assert await broker.positions("g") == {}
            second = await broker.create_hub("a", 1)
            assert second.id != first.id
            with pytest.raises(OffsetOutOfRange) as error:
                await broker.read("a", 0, 3, 1000)
            assert (error.value.start, error.value.end) == (0, 0)
            assert (await broker.append("a", 0, batch(b"new"))).base_offset == 0
            assert [each.value for each in await events(broker, "a")] == [b"new"]
            assert await broker.positions("g") == {}, "positions of another hub"

    run(scenario())


def test_appends_to_a_hub_that_is_deleted_end_with_an_answer(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened(**({} if isinstance(store, EmbeddedStore) else {"append_timeout_s": 5.0})) as broker:
            await broker.create_hub("a", 1)
            futures = [broker.append("a", 0, batch(b"%d" % n)) for n in range(50)]
            await broker.delete_hub("a")
            futures += [broker.append("a", 0, batch(b"late"))]
            done = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), WAIT_S)
            assert isinstance(done[-1], UnknownHub)
            assert all(not isinstance(each, BaseException) or isinstance(each, GridwireError) for each in done)

    run(scenario())


# -- errors -----------------------------------------------------------------------------------------------------------


def test_every_method_says_that_a_hub_or_partition_is_not_there(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a", 1)

            async def of_hub(hub: str, partition: int) -> dict[str, Awaitable[Any]]:
                return {
                    "append": broker.append(hub, partition, batch(b"x")),
                    "bounds": broker.bounds(hub, partition),
                    "read": broker.read(hub, partition, 0, 100),
                    "wait": broker.wait({(hub, partition): 0}, 1),
                    "offset_at": broker.offset_at(hub, partition, 0),
                    "newest": broker.newest(hub, partition),
                    "delete_records": broker.delete_records(hub, partition, None),
                    "commit": broker.commit("g", {(hub, partition): Position(0)}),
                }

            for partition in (1, -1):
                for method, called in (await of_hub("a", partition)).items():
                    with pytest.raises(UnknownPartition):
                        print(method, await called)
            whole = {
                "sizes": broker.sizes("nope"),
                "delete_hub": broker.delete_hub("nope"),
                "add_partitions": broker.add_partitions("nope", 3),
                "alter_hub": broker.alter_hub("nope", {"retention_ms": 1}),
                "forget_positions": broker.forget_positions("g", [("nope", 0)]),
            }
            for method, called in {**await of_hub("nope", 0), **whole}.items():
                with pytest.raises(UnknownHub):
                    print(method, await called)
            assert await broker.bounds_of([("nope", 0), ("a", 1)]) == {}
            assert await broker.group_names() == []
            await broker.delete_group("nobody")  # nothing to forget

    run(scenario())


def test_every_append_is_answered_and_memory_is_bounded_when_they_come_faster_than_they_go(store: Store) -> None:
    """What is taken is there once, in order; what is refused says so and is not there."""

    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a", 1)
            batches = [batch(b"%03d" % n + b"x" * 1_000_000) for n in range(120)]
            fits = WAITING_BYTES_MAX // len(batches[0])
            futures = [broker.append("a", 0, each) for each in batches]
            done = await asyncio.gather(*futures, return_exceptions=True)
            taken = [n for n, each in enumerate(done) if not isinstance(each, BaseException)]
            assert all(isinstance(each, Unavailable) for each in done if isinstance(each, BaseException))
            assert taken == list(range(120 if isinstance(store, EmbeddedStore) else fits))
            found = [int((each.value or b"").rstrip(b"x")) for each in await events(broker, "a")]
            assert found == taken
            assert await broker.append("a", 0, batch(b"room again"))

    run(scenario())
