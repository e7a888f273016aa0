"""What every broker promises, run against each: the log in this process, and a real Apache Kafka.

Where the two differ, the test says what holds on each; docs/reference/brokers.md has the same rows for people.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from brokers import EmbeddedStore, OpenBroker, Store
from gridwire.broker.port import Bounds, Place, Position
from gridwire.core.batch import CONTROL, TRANSACTIONAL, Event, assemble, decode, encode, iter_headers
from gridwire.core.clock import ManualClock
from gridwire.core.errors import (
    DuplicateSequence,
    FencedEpoch,
    GridwireError,
    HubExists,
    InvalidBatch,
    InvalidName,
    InvalidRecord,
    InvalidSetting,
    MessageTooLarge,
    OffsetOutOfRange,
    OutOfOrderSequence,
    UnknownHub,
    UnknownPartition,
)

NOW_MS = int(time.time() * 1000)
"""Kafka counts retention from the time of the events, and takes none from the future."""


def batch(*values: bytes, **producer: int) -> bytearray:
    return encode([Event(value, timestamp=NOW_MS + n) for n, value in enumerate(values)], **producer)


async def values(broker: OpenBroker, hub: str, partition: int, offset: int = 0) -> list[bytes | None]:
    found: list[bytes | None] = []
    end = (await broker.bounds(hub, partition)).end
    while offset < end:
        read = await broker.read(hub, partition, offset, 1000)
        for position, header in iter_headers(read.data):
            if not header.attributes & CONTROL:
                found += [event.value for event in decode(read.data, position) if event.offset >= offset]
            offset = header.next_offset
    return found


def run(scenario: object) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


# -- hubs -----------------------------------------------------------------------------------------------------------


def test_hubs_are_created_listed_changed_and_deleted(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            told: list[int] = []
            broker.on_hubs_changed = lambda: told.append(len(broker.hubs()))
            made = await broker.create_hub("b", settings={"retention_ms": 100_000, "capture": "events"})
            await broker.create_hub("a", 3)
            assert [hub.name for hub in broker.hubs()] == ["a", "b"]
            assert (made.partitions, made.settings.retention_ms, made.settings.capture) == (2, 100_000, "events")
            assert made.created_ms > 0 or isinstance(store, EmbeddedStore)
            with pytest.raises(HubExists):
                await broker.create_hub("a")
            assert (await broker.add_partitions("a", 5)).partitions == 5
            with pytest.raises(InvalidSetting):
                await broker.add_partitions("a", 4)
            await broker.append("a", 4, batch(b"x"))
            assert (await broker.alter_hub("a", {"retention_bytes": "77"})).settings.retention_bytes == 77
            altered = await broker.alter_hub("a", {"capture": "events", "capture_avro": "on"})
            assert (altered.settings.capture, altered.settings.capture_avro) == ("events", "on")
            await broker.delete_hub("b")
            with pytest.raises(UnknownHub):
                broker.hub("b")
            assert set(told) == {1, 2}
        async with store.opened() as broker:
            assert [hub.name for hub in broker.hubs()] == ["a"]
            assert broker.hub("a").partitions == 5
            assert broker.hub("a").settings.retention_bytes == 77
            assert await values(broker, "a", 4) == [b"x"]
            again = await broker.create_hub("b")
            assert again.id != made.id
            assert await broker.bounds("b", 0) == await broker.bounds("b", 1) == Bounds(0, 0, 0)

    run(scenario())


def test_names_that_could_leave_their_place_are_refused(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            for name in ["", ".", "..", "a/b", "../x", "a\0b", "x" * 250, "nül", "a b"]:
                with pytest.raises(InvalidName):
                    await broker.create_hub(name)

    run(scenario())


def test_wrong_settings_are_refused_with_the_choices(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            wrong: list[Mapping[str, object]] = [
                {"retention_ms": "soon"}, {"retention_ms": -2}, {"cleanup": "burn"}, {"no": 1},
            ]  # fmt: skip
            for settings in wrong:
                with pytest.raises(InvalidSetting):
                    await broker.create_hub("a", settings=settings)
            for count in (0, 100_000):
                with pytest.raises(InvalidSetting):
                    await broker.create_hub("a", count)
            assert list(broker.hubs()) == []

    run(scenario())


def test_templates_and_single_partitions_hold_unless_somebody_says_otherwise(store: Store) -> None:
    async def scenario() -> None:
        templates = {"t": {"retention_ms": 5_000_000, "timestamp_type": "append"}}
        async with store.opened(templates=templates, single_partition=frozenset({"t"})) as broker:
            made = await broker.create_hub("t", settings={"retention_ms": 7_000_000})
            assert (made.partitions, made.settings.retention_ms) == (1, 7_000_000)
            assert made.settings.timestamp_type == "append"

    run(scenario())


# -- append ---------------------------------------------------------------------------------------------------------


def test_appends_keep_the_order_they_were_called_in(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a")
            futures = [broker.append("a", 0, batch(b"%d" % n)) for n in range(500)]
            results = await asyncio.gather(*futures)
            assert [result.base_offset for result in results] == list(range(500))
            assert await values(broker, "a", 0) == [b"%d" % n for n in range(500)]
            counters = broker.counters()
            assert counters["appended_events"] >= 500

    run(scenario())


def test_several_batches_of_one_append_lie_side_by_side(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a")
            first = broker.append(
                "a", 0, batch(b"0", b"1") + encode([Event(b"2", timestamp=NOW_MS)], codec=3) + batch(b"3")
            )
            second = broker.append("a", 0, batch(b"4"))
            assert ((await first).base_offset, (await second).base_offset) == (0, 4)
            assert await values(broker, "a", 0) == [b"0", b"1", b"2", b"3", b"4"]

    run(scenario())


def test_batches_pass_verbatim(store: Store) -> None:
    """Keys, headers, times, compression and the producer's own numbers; only offsets and epoch are the broker's."""

    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a")
            producer, epoch = await broker.new_producer_id()
            event = Event(b"v", b"k", (("h", b"1"), ("h", None)), NOW_MS)
            sent = encode([event], codec=4, producer_id=producer, producer_epoch=epoch, base_sequence=0)
            kept = bytes(sent)
            await broker.append("a", 0, sent)
            read = await broker.read("a", 0, 0, 1000)
            assert bytes(read.data[16:]) == kept[16:]

    run(scenario())


def test_what_is_acknowledged_is_there_after_a_restart(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a")
            await broker.append("a", 1, batch(b"x", b"y"))
            await broker.commit("g", {("a", 1): Position(1, "note")})
        async with store.opened() as broker:
            assert await values(broker, "a", 1) == [b"x", b"y"]
            position = (await broker.positions("g"))["a", 1]
            assert (position.offset, position.metadata) == (1, "note")
            assert await broker.group_names() == ["g"]
            await broker.delete_group("g")
            assert await broker.positions("g") == {}
            assert await broker.positions("nobody") == {}

    run(scenario())


def test_bad_appends_are_refused_and_leave_nothing(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a", settings={"message_bytes_max": 2000})
            broken = batch(b"x")
            broken[-1] ^= 1
            cases: list[tuple[str, int, bytearray, type[GridwireError]]] = [
                ("nope", 0, batch(b"x"), UnknownHub),
                ("a", 9, batch(b"x"), UnknownPartition),
                ("a", -1, batch(b"x"), UnknownPartition),
                ("a", 0, broken, InvalidBatch),
                ("a", 0, bytearray(), InvalidBatch),
                ("a", 0, batch(b"x")[:-1], InvalidBatch),
                ("a", 0, batch(b"x" * 3000), MessageTooLarge),
                ("a", 0, encode([Event(b"x")], attributes=CONTROL), InvalidBatch),
                ("a", 0, encode([Event(b"x")], attributes=TRANSACTIONAL), InvalidBatch),
            ]
            for hub, partition, data, expected in cases:
                with pytest.raises(expected):
                    await broker.append(hub, partition, data)
            assert (await broker.bounds("a", 0)).end == 0

    run(scenario())


def test_a_refused_batch_does_not_take_its_neighbours_along(store: Store) -> None:
    """A hub that keeps the last event of every key takes only events with one; the others arrive, in order."""

    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a", settings={"cleanup": "compact"})
            keyed = [encode([Event(b"%d" % n, b"k%d" % n, timestamp=NOW_MS)]) for n in range(6)]
            futures = [broker.append("a", 0, each) for each in keyed[:3]]
            refused = broker.append("a", 0, encode([Event(b"no key", timestamp=NOW_MS)]))
            futures += [broker.append("a", 0, each) for each in keyed[3:]]
            with pytest.raises(InvalidRecord):
                await refused
            assert [(await each).base_offset for each in futures] == list(range(6))
            assert await values(broker, "a", 0) == [b"%d" % n for n in range(6)]

    run(scenario())


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_decompression_bomb_is_refused_and_leaves_nothing(store: Store, codec: int) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a")
            bomb = encode([Event(b"\0" * (70 * 1024 * 1024))], codec=codec)
            broken = encode([Event(b"x" * 1000)], codec=codec)
            rubbish = assemble(bytes(broken[70:]), record_count=1, base_timestamp=0, max_timestamp=0, attributes=codec)
            good = broker.append("a", 0, batch(b"before"))
            with pytest.raises(MessageTooLarge):
                await broker.append("a", 0, bomb)
            with pytest.raises(InvalidBatch):
                await broker.append("a", 0, rubbish)
            assert (await good).base_offset == 0
            assert (
                await broker.append("a", 0, encode([Event(b"after", timestamp=NOW_MS)], codec=codec))
            ).base_offset == 1
            assert await values(broker, "a", 0) == [b"before", b"after"]

    run(scenario())


def test_idempotent_producers_are_deduplicated_and_fenced(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a")
            producer, epoch = await broker.new_producer_id()
            who = {"producer_id": producer, "producer_epoch": epoch}
            first = await broker.append("a", 0, batch(b"x", b"y", base_sequence=0, **who))
            again = await broker.append("a", 0, batch(b"x", b"y", base_sequence=0, **who))
            assert (first.base_offset, again.base_offset) == (0, 0)
            assert again.duplicate == isinstance(store, EmbeddedStore)  # Kafka does not tell
            with pytest.raises(OutOfOrderSequence):
                await broker.append("a", 0, batch(b"z", base_sequence=5, **who))
            for sequence in range(2, 9):
                await broker.append("a", 0, batch(b"z", base_sequence=sequence, **who))
            # Kafka says of a duplicate that it no longer remembers that it is out of order.
            old = DuplicateSequence if isinstance(store, EmbeddedStore) else OutOfOrderSequence
            with pytest.raises(old):
                await broker.append("a", 0, batch(b"x", b"y", base_sequence=0, **who))
            newer = {"producer_id": producer, "producer_epoch": epoch + 1}
            await broker.append("a", 0, batch(b"n", base_sequence=0, **newer))
            with pytest.raises(FencedEpoch):
                await broker.append("a", 0, batch(b"o", base_sequence=9, **who))
            assert (await broker.new_producer_id())[0] != producer
            assert await values(broker, "a", 0) == [b"x", b"y", *[b"z"] * 7, b"n"]
        async with store.opened() as broker:
            assert (await broker.new_producer_id())[0] > producer + 1

    run(scenario())


def test_append_time_is_the_brokers(store: Store) -> None:
    async def scenario() -> None:
        if isinstance(store, EmbeddedStore):
            store.clock = ManualClock()
        async with store.opened() as broker:
            await broker.create_hub("a", settings={"timestamp_type": "append"})
            done = await broker.append("a", 0, batch(b"x"))
            read = await broker.read("a", 0, 0, 1000)
            assert next(iter(decode(read.data))).timestamp == done.append_time_ms
            assert done.append_time_ms > 0
            if isinstance(store, EmbeddedStore):
                assert store.clock is not None
                assert done.append_time_ms == store.clock.now_ms()

    run(scenario())


# -- read -----------------------------------------------------------------------------------------------------------


def test_waiting_ends_with_an_event_or_the_time(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a")
            places: dict[Place, int] = {("a", 0): 0, ("a", 1): 0}
            waiting = asyncio.create_task(broker.wait(places, 60))
            await asyncio.sleep(0)
            await broker.append("a", 1, batch(b"x"))
            await asyncio.wait_for(waiting, 20)
            await asyncio.wait_for(broker.wait(places, 60), 20)
            await asyncio.wait_for(broker.wait({("a", 1): 1}, 0.01), 20)
            cancelled = asyncio.create_task(broker.wait({("a", 1): 1}, 60))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            with pytest.raises(UnknownHub):
                await broker.wait({("nope", 0): 0}, 60)

    run(scenario())


def test_many_wait_at_once_and_all_are_woken(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a", 1)
            waiting = [asyncio.create_task(broker.wait({("a", 0): 0}, 60)) for _ in range(40)]
            await asyncio.sleep(0)
            await broker.append("a", 0, batch(b"x"))
            await asyncio.wait_for(asyncio.gather(*waiting), 30)

    run(scenario())


def test_offsets_by_time_and_out_of_range(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a", 1)
            assert await broker.offset_at("a", 0, 0) is None
            assert await broker.newest("a", 0) is None
            await broker.append("a", 0, batch(b"x", b"y", b"z"))
            assert await broker.offset_at("a", 0, NOW_MS + 1) == (1, NOW_MS + 1)
            assert await broker.offset_at("a", 0, NOW_MS + 1000) is None
            assert await broker.newest("a", 0) == (2, NOW_MS + 2)
            with pytest.raises(OffsetOutOfRange) as error:
                await broker.read("a", 0, 4, 100)
            assert (error.value.start, error.value.end) == (0, 3)
            assert len((await broker.read("a", 0, 3, 100)).data) == 0
            assert await broker.bounds_of([("a", 0), ("a", 7), ("nope", 0)]) == {("a", 0): Bounds(0, 3, 3)}
            sizes = await broker.sizes("a")
            assert len(sizes) == 1
            assert sizes[0] > 0

    run(scenario())


def test_deleted_records_stay_deleted(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a", 1)
            for n in range(4):
                await broker.append("a", 0, batch(b"%d" % n))
            assert await broker.delete_records("a", 0, 2) == 2
            for wrong in (5, -3):
                with pytest.raises(OffsetOutOfRange):
                    await broker.delete_records("a", 0, wrong)
            assert await values(broker, "a", 0, 2) == [b"2", b"3"]
            with pytest.raises(OffsetOutOfRange) as error:
                await broker.read("a", 0, 1, 100)
            assert (error.value.start, error.value.end) == (2, 4)
            await asyncio.wait_for(broker.wait({("a", 0): 0}, 60), 20)  # there is something behind it
        async with store.opened() as broker:
            assert (await broker.bounds("a", 0)).start == 2
            assert await broker.delete_records("a", 0, None) == 4
            assert await broker.bounds("a", 0) == Bounds(4, 4, 4)

    run(scenario())


# -- positions --------------------------------------------------------------------------------------------------------


def test_groups_with_odd_names_do_not_mix(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a")
            for number, group in enumerate(("x", "x/y", "x%2Fy", "ü /..")):
                await broker.commit(group, {("a", 0): Position(number)})
            assert list(await broker.group_names()) == sorted(["x", "x/y", "x%2Fy", "ü /.."])
            await broker.delete_group("x")
            assert (await broker.positions("x/y"))["a", 0].offset == 1
            assert await broker.positions("x") == {}

    run(scenario())


def test_positions_of_places_are_kept_and_forgotten_by_themselves(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            await broker.create_hub("a")
            await broker.create_hub("b")
            await broker.commit("g", {("a", 0): Position(1), ("a", 1): Position(2), ("b", 0): Position(3)})
            await broker.commit("g", {("a", 0): Position(5)})
            await broker.forget_positions("g", [("a", 1)])
            found = {place: each.offset for place, each in (await broker.positions("g")).items()}
            assert found == {("a", 0): 5, ("b", 0): 3}
            with pytest.raises(UnknownHub):
                await broker.commit("g", {("nope", 0): Position(1)})
            with pytest.raises(UnknownPartition):
                await broker.commit("g", {("a", 9): Position(1)})
            await broker.delete_hub("b")
            assert set(await broker.positions("g")) == {("a", 0)}

    run(scenario())


# -- control state ----------------------------------------------------------------------------------------------------


def test_control_state_is_changed_whole_told_and_kept(store: Store) -> None:
    async def scenario() -> None:
        async with store.opened() as broker:
            told: list[Mapping[str, bytes | None]] = []
            broker.on_change(told.append)
            await broker.change({"thing/a": b"1", "thing/b": b"2", "other/c": b"3"})
            assert dict(broker.kept("thing/")) == {"a": b"1", "b": b"2"}
            await asyncio.gather(*(broker.change({"thing/a": b"%d" % n, f"many/{n}": b""}) for n in range(20)))
            await broker.change({"thing/b": None})
            assert set(dict(broker.kept("thing/"))) == {"a"}
            replayed: dict[str, bytes | None] = {}
            for changes in told:
                replayed |= changes
            assert {key: value for key, value in replayed.items() if value is not None} == dict(broker.kept(""))
            kept = dict(broker.kept(""))
        async with store.opened() as broker:
            assert dict(broker.kept("")) == kept
            assert len(dict(broker.kept("many/"))) == 20

    run(scenario())
