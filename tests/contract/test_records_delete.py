"""Deleting records by request: what is gone stays gone."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.port import Position
from gridwire.core.batch import Event, encode
from gridwire.core.errors import OffsetOutOfRange


async def _fill(broker: EmbeddedBroker, count: int, size: int = 10_000) -> None:
    for number in range(count):
        await broker.append("h", 0, encode([Event(b"%05d" % number + b"x" * size, timestamp=1000 + number)]))


def test_deleted_records_stay_deleted_after_a_kill(tmp_path: Path) -> None:
    async def main() -> None:
        broker = await EmbeddedBroker.open(tmp_path / "data", "fsync")
        await broker.create_hub("h", 2, {"segment_bytes": 64 * 1024})
        await _fill(broker, 30)
        before = (await broker.sizes("h"))[0]
        assert await broker.delete_records("h", 0, 20) == 20
        assert (await broker.sizes("h"))[0] < before / 2
        with pytest.raises(OffsetOutOfRange):
            await broker.read("h", 0, 19, 100)
        with pytest.raises(OffsetOutOfRange):
            await broker.delete_records("h", 0, 31)
        assert await broker.delete_records("h", 0, 5) == 20
        shutil.copytree(tmp_path / "data", tmp_path / "killed")  # as after SIGKILL: nothing was closed
        await broker.close()

        again = await EmbeddedBroker.open(tmp_path / "killed", "fsync")
        bounds = await again.bounds("h", 0)
        assert (bounds.start, bounds.end) == (20, 30)
        assert await again.delete_records("h", 0, None) == 30
        assert (await again.sizes("h"))[0] == 0
        assert (await again.bounds("h", 0)).end == 30
        done = await again.append("h", 0, encode([Event(b"next", timestamp=1)]))
        assert done.base_offset == 30
        await again.close()

    asyncio.run(main())


def test_a_new_hub_of_the_same_name_starts_at_zero(tmp_path: Path) -> None:
    async def main() -> None:
        broker = await EmbeddedBroker.open(tmp_path / "data", "os")
        await broker.create_hub("h", 1)
        await _fill(broker, 3, 10)
        await broker.delete_records("h", 0, 2)
        await broker.delete_hub("h")
        await broker.create_hub("h", 1)
        assert (await broker.bounds("h", 0)).start == 0
        assert not [key for key in broker._control.entries if key.startswith("start/")]
        await broker.close()

    asyncio.run(main())


def test_a_start_beyond_a_log_that_lost_its_tail_is_lowered(tmp_path: Path) -> None:
    async def main() -> None:
        broker = await EmbeddedBroker.open(tmp_path / "data", "os")
        info = await broker.create_hub("h", 1)
        await _fill(broker, 3, 10)
        await broker.delete_records("h", 0, None)
        await broker.close()
        for path in (tmp_path / "data" / "hubs" / info.id.hex / "0").iterdir():
            path.unlink()
        broker = await EmbeddedBroker.open(tmp_path / "data", "os")
        await _fill(broker, 1, 10)
        await broker.close()
        broker = await EmbeddedBroker.open(tmp_path / "data", "os")
        bounds = await broker.bounds("h", 0)
        assert (bounds.start, bounds.end) == (0, 1)
        await broker.close()

    asyncio.run(main())


def test_single_positions_are_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        broker = await EmbeddedBroker.open(tmp_path / "data", "os")
        await broker.create_hub("h", 2)
        await broker.commit("g", {("h", 0): Position(1), ("h", 1): Position(2)})
        await broker.forget_positions("g", [("h", 0)])
        assert set(await broker.positions("g")) == {("h", 1)}
        await broker.close()

    asyncio.run(main())
