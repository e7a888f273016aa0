"""What every broker promises; run against each implementation of the port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.port import Place, Position
from gridwire.core.batch import CONTROL, TRANSACTIONAL, Event, assemble, decode, encode, iter_headers
from gridwire.core.clock import ManualClock
from gridwire.core.errors import (
    DuplicateSequence,
    FencedEpoch,
    GridwireError,
    HubExists,
    InvalidBatch,
    InvalidName,
    InvalidSetting,
    MessageTooLarge,
    OffsetOutOfRange,
    OutOfOrderSequence,
    UnknownHub,
    UnknownPartition,
)


@asynccontextmanager
async def opened(directory: Path, durability: str = "fsync") -> AsyncIterator[EmbeddedBroker]:
    broker = await EmbeddedBroker.open(directory, durability, clock=ManualClock(), default_partitions=2)
    try:
        yield broker
    finally:
        await broker.close()


def batch(*values: bytes, **producer: int) -> bytearray:
    return encode([Event(value, timestamp=1000 + n) for n, value in enumerate(values)], **producer)


async def values(broker: EmbeddedBroker, hub: str, partition: int, offset: int = 0) -> list[bytes | None]:
    found: list[bytes | None] = []
    end = (await broker.bounds(hub, partition)).end
    while offset < end:
        read = await broker.read(hub, partition, offset, 1000)
        for position, header in iter_headers(read.data):
            found += [event.value for event in decode(read.data, position) if event.offset >= offset]
            offset = header.next_offset
    return found


def run(scenario: object) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


def test_hubs_are_created_listed_changed_and_deleted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            made = await broker.create_hub("b", settings={"retention_ms": 1000})
            await broker.create_hub("a", 3)
            assert [hub.name for hub in broker.hubs()] == ["a", "b"]
            assert (made.partitions, made.settings.retention_ms) == (2, 1000)
            with pytest.raises(HubExists):
                await broker.create_hub("a")
            assert (await broker.add_partitions("a", 5)).partitions == 5
            with pytest.raises(InvalidSetting):
                await broker.add_partitions("a", 4)
            await broker.append("a", 4, batch(b"x"))
            assert (await broker.alter_hub("a", {"retention_bytes": "77"})).settings.retention_bytes == 77
            await broker.delete_hub("b")
        async with opened(tmp_path) as broker:
            assert [hub.name for hub in broker.hubs()] == ["a"]
            assert broker.hub("a").partitions == 5
            assert broker.hub("a").settings.retention_bytes == 77
            assert await values(broker, "a", 4) == [b"x"]
            again = await broker.create_hub("b")
            assert again.id != made.id
            assert await broker.bounds("b", 0) == await broker.bounds("b", 1)

    run(scenario())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\0b", "x" * 250, "nül", "a b"])
def test_names_that_could_leave_their_place_are_refused(tmp_path: Path, name: str) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            with pytest.raises(InvalidName):
                await broker.create_hub(name)

    run(scenario())


@pytest.mark.parametrize("wrong", [{"retention_ms": "soon"}, {"retention_ms": -2}, {"cleanup": "burn"}, {"no": 1}])
def test_wrong_settings_are_refused_with_the_choices(tmp_path: Path, wrong: dict[str, object]) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            with pytest.raises(InvalidSetting):
                await broker.create_hub("a", settings=wrong)
            for count in (0, 100_000):
                with pytest.raises(InvalidSetting):
                    await broker.create_hub("a", count)
            assert list(broker.hubs()) == []

    run(scenario())


def test_appends_keep_the_order_they_were_called_in(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("a")
            futures = [broker.append("a", 0, batch(b"%d" % n)) for n in range(500)]
            results = await asyncio.gather(*futures)
            assert [result.base_offset for result in results] == list(range(500))
            assert await values(broker, "a", 0) == [b"%d" % n for n in range(500)]

    run(scenario())


def test_what_is_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("a")
            await broker.append("a", 1, batch(b"x", b"y"))
            await broker.commit("g", {("a", 1): Position(1, "note")})
        async with opened(tmp_path) as broker:
            assert await values(broker, "a", 1) == [b"x", b"y"]
            position = (await broker.positions("g"))["a", 1]
            assert (position.offset, position.metadata) == (1, "note")
            assert await broker.group_names() == ["g"]
            await broker.delete_group("g")
            assert await broker.positions("g") == {}

    run(scenario())


@pytest.mark.parametrize("durability", ["os", "interval:5", "fsync"])
def test_every_durability_serves_and_is_named(tmp_path: Path, durability: str) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, durability) as broker:
            assert broker.durability == durability
            await broker.create_hub("a")
            await broker.append("a", 0, batch(b"x"))
        async with opened(tmp_path) as broker:
            assert await values(broker, "a", 0) == [b"x"]

    run(scenario())


def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        for wrong in ("never", "interval:", "interval:0", "interval:x"):
            with pytest.raises(InvalidSetting, match="fsync, interval:MS or os"):
                await EmbeddedBroker.open(tmp_path, wrong)

    run(scenario())


def test_bad_appends_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
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


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_decompression_bomb_is_refused_and_leaves_nothing(tmp_path: Path, codec: int) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
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
            assert (await broker.append("a", 0, encode([Event(b"after")], codec=codec))).base_offset == 1
            assert await values(broker, "a", 0) == [b"before", b"after"]

    run(scenario())


def test_idempotent_producers_are_deduplicated(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("a")
            producer, epoch = await broker.new_producer_id()
            who = {"producer_id": producer, "producer_epoch": epoch}
            first = await broker.append("a", 0, batch(b"x", b"y", base_sequence=0, **who))
            again = await broker.append("a", 0, batch(b"x", b"y", base_sequence=0, **who))
            assert (first.base_offset, first.duplicate) == (0, False)
            assert (again.base_offset, again.duplicate) == (0, True)
            with pytest.raises(OutOfOrderSequence):
                await broker.append("a", 0, batch(b"z", base_sequence=5, **who))
            for sequence in range(2, 9):
                await broker.append("a", 0, batch(b"z", base_sequence=sequence, **who))
            with pytest.raises(DuplicateSequence):
                await broker.append("a", 0, batch(b"x", b"y", base_sequence=0, **who))
            assert (await broker.new_producer_id())[0] != producer
        async with opened(tmp_path) as broker:
            assert (await broker.new_producer_id())[0] > producer + 1

    run(scenario())


def test_waiting_ends_with_an_event_or_the_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("a")
            places: dict[Place, int] = {("a", 0): 0, ("a", 1): 0}
            waiting = asyncio.create_task(broker.wait(places, 60))
            await asyncio.sleep(0)
            await broker.append("a", 1, batch(b"x"))
            await asyncio.wait_for(waiting, 5)
            await asyncio.wait_for(broker.wait(places, 60), 5)
            await asyncio.wait_for(broker.wait({("a", 1): 1}, 0.01), 5)
            cancelled = asyncio.create_task(broker.wait({("a", 1): 1}, 60))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert broker._waiters == {}

    run(scenario())


def test_offsets_by_time_and_out_of_range(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("a")
            await broker.append("a", 0, batch(b"x", b"y", b"z"))
            assert await broker.offset_at("a", 0, 1001) == (1, 1001)
            assert await broker.offset_at("a", 0, 2000) is None
            with pytest.raises(OffsetOutOfRange):
                await broker.read("a", 0, 4, 100)

    run(scenario())


def test_append_time_is_the_brokers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("a", settings={"timestamp_type": "append"})
            done = await broker.append("a", 0, batch(b"x"))
            assert done.append_time_ms == broker.clock.now_ms()
            read = await broker.read("a", 0, 0, 1000)
            assert next(iter(decode(read.data))).timestamp == broker.clock.now_ms()

    run(scenario())


def outputs(producer: int, epoch: int, sequence: int, *found: bytes) -> list[tuple[Place, bytes]]:
    stamped = batch(*found, producer_id=producer, producer_epoch=epoch, base_sequence=sequence)
    return [(("out", 0), bytes(stamped))]


def test_position_and_outputs_are_committed_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("in")
            await broker.create_hub("out")
            first = await broker.claim("worker")
            await broker.commit_outputs(
                "worker", first, {("in", 0): Position(10)}, outputs(first.producer_id, first.epoch, 0, b"a", b"b")
            )
            second = await broker.claim("worker")
            with pytest.raises(FencedEpoch):
                await broker.commit_outputs(
                    "worker", first, {("in", 0): Position(20)}, outputs(first.producer_id, first.epoch, 2, b"c")
                )
            assert (await broker.positions("worker"))["in", 0].offset == 10
            await broker.commit_outputs(
                "worker", second, {("in", 0): Position(20)}, outputs(second.producer_id, second.epoch, 0, b"c")
            )
            assert await values(broker, "out", 0) == [b"a", b"b", b"c"]
        async with opened(tmp_path) as broker:
            assert (await broker.positions("worker"))["in", 0].offset == 20
            assert await values(broker, "out", 0) == [b"a", b"b", b"c"]

    run(scenario())


@pytest.mark.parametrize("applied", [False, True])
def test_a_crash_between_journal_and_outputs_is_finished_on_start(tmp_path: Path, applied: bool) -> None:
    """The commit is in the journal; the process dies before, or after, the outputs reach their hub."""

    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("in")
            await broker.create_hub("out")
            owner = await broker.claim("worker")
            if not applied:
                broker._apply_outputs = _nothing  # type: ignore[method-assign,assignment]
            await broker.commit_outputs(
                "worker", owner, {("in", 0): Position(5)}, outputs(owner.producer_id, owner.epoch, 0, b"a")
            )
            assert await values(broker, "out", 0) == ([b"a"] if applied else [])
        for _ in range(2):
            async with opened(tmp_path) as broker:
                assert (await broker.positions("worker"))["in", 0].offset == 5
                assert await values(broker, "out", 0) == [b"a"]

    run(scenario())


async def _nothing(_group: str) -> None:
    return None


def test_the_journal_is_compacted_without_losing_anything(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("a")
            await broker.create_hub("gone")
            await broker.delete_hub("gone")
            for number in range(60):
                await broker.commit("g", {("a", 0): Position(number, "m" * 500_000)})
                if number % 20 == 0:
                    await broker.maintain()
            await broker.maintain()
            size = sum(path.stat().st_size for path in (tmp_path / "control").glob("*.log"))
            assert size < 20 * 1024 * 1024
        async with opened(tmp_path) as broker:
            assert [hub.name for hub in broker.hubs()] == ["a"]
            assert (await broker.positions("g"))["a", 0].offset == 59

    run(scenario())


def test_groups_with_odd_names_do_not_mix(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("a")
            for number, group in enumerate(("x", "x/y", "x%2Fy", "ü /..")):
                await broker.commit(group, {("a", 0): Position(number)})
            assert list(await broker.group_names()) == sorted(["x", "x/y", "x%2Fy", "ü /.."])
            await broker.delete_group("x")
            assert (await broker.positions("x/y"))["a", 0].offset == 1
            assert await broker.positions("x") == {}

    run(scenario())


def test_a_second_hub_on_the_same_directory_is_told_who_has_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path):
            with pytest.raises(GridwireError, match="in use by another hub"):
                await EmbeddedBroker.open(tmp_path)

    run(scenario())


def test_a_data_directory_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(GridwireError, match="cannot be used"):
            await EmbeddedBroker.open(tmp_path / "file")
        (tmp_path / "newer").mkdir()
        (tmp_path / "newer" / "gridwire.json").write_text('{"format": 99, "cluster_id": "x"}')
        with pytest.raises(GridwireError, match="format 99"):
            await EmbeddedBroker.open(tmp_path / "newer")
        (tmp_path / "newer" / "gridwire.json").write_text("rubbish")
        with pytest.raises(GridwireError, match="damaged"):
            await EmbeddedBroker.open(tmp_path / "newer")

    run(scenario())
