"""What only the embedded broker promises: its directory, its durabilities, its journal, commits of local workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.port import Place, Position
from gridwire.core.batch import Event, decode, encode, iter_headers
from gridwire.core.clock import ManualClock
from gridwire.core.errors import (
    FencedEpoch,
    GridwireError,
    InvalidSetting,
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
