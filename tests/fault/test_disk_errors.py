"""The disk answers with errors: a partition stops rather than acknowledge what may be gone, everything else goes on.

Errors are put in at `gridwire.log.disk`, the one home of such calls. Every test names the file that fails, so that its
neighbours show what goes on. Negative control: a hub that takes a second sync for an answer acknowledges what the
kernel has dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import socket
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.port import Position
from gridwire.core.batch import Event, decode, encode, iter_headers
from gridwire.core.errors import DiskFull, StorageFailed
from gridwire.log import disk
from gridwire.log.partition import PartitionLog

KEEP = {"segment_bytes": 64 * 1024}


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[EmbeddedBroker]:
    broker = await EmbeddedBroker.open(directory, "fsync", default_partitions=2)
    try:
        yield broker
    finally:
        await broker.close()


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


async def put(broker: EmbeddedBroker, partition: int, value: bytes, sequence: int | None = None) -> int:
    producer = {} if sequence is None else {"producer_id": 5, "producer_epoch": 0, "base_sequence": sequence}
    return (await broker.append("hub", partition, encode([Event(value)], **producer))).base_offset


async def values(broker: EmbeddedBroker, partition: int) -> list[bytes | None]:
    found: list[bytes | None] = []
    end = (await broker.bounds("hub", partition)).end
    offset = 0
    while offset < end:
        data = (await broker.read("hub", partition, offset, 1 << 20)).data
        for at, header in iter_headers(data):
            found += [event.value for event in decode(data, at)]
            offset = header.next_offset
    return found


class Faults:
    """Makes calls on chosen files fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._sync, self._write = disk.sync_data, disk._write_some
        self._create, self._directory = disk.open_file, disk.sync_directory

    def sync(self, where: str, code: int = errno.EIO, times: int = 1) -> None:
        """The next syncs of files whose path has `where` in it fail."""
        left = [times]

        def broken(descriptor: int) -> None:
            if where in path_of(descriptor) and left[0]:
                left[0] -= 1
                raise OSError(code, os.strerror(code))
            self._sync(descriptor)

        self._patch.setattr(disk, "sync_data", broken)

    def write(self, where: str, code: int, keep: int = 0) -> None:
        """The next write fails after `keep` bytes."""
        left = [1]

        def broken(descriptor: int, buffers: Any, position: int) -> int:
            if where in path_of(descriptor) and left[0]:
                left[0] -= 1
                if keep:
                    self._write(descriptor, [bytes(buffers[0])[:keep]], position)
                raise OSError(code, os.strerror(code))
            return self._write(descriptor, buffers, position)

        self._patch.setattr(disk, "_write_some", broken)

    def short_writes(self) -> None:
        """Every write takes seven bytes at most."""
        self._patch.setattr(disk, "_write_some", lambda fd, buffers, at: self._write(fd, [bytes(buffers[0])[:7]], at))

    def create(self, code: int, times: int) -> None:
        """Creating files fails."""
        left = [times]

        def broken(path: Path) -> int:
            if left[0]:
                left[0] -= 1
                raise OSError(code, os.strerror(code))
            return self._create(path)

        self._patch.setattr(disk, "open_file", broken)

    def directory(self, where: str) -> None:
        """Syncing a directory fails."""

        def broken(path: Path) -> None:
            if where in str(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._directory(path)

        self._patch.setattr(disk, "sync_directory", broken)

    def over(self) -> None:
        self._patch.undo()


def path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to tell which file is meant")
    return Faults(monkeypatch)


def test_after_a_failed_sync_one_partition_stops_and_everything_else_goes_on(tmp_path: Path, faults: Faults) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("hub", 2)
            assert await put(broker, 0, b"before") == 0
            faults.sync(f"{broker.hub('hub').id.hex}/0/")
            for _ in range(3):  # the second sync would succeed: it must not be believed
                with pytest.raises(StorageFailed, match="read-only until the hub restarts"):
                    await put(broker, 0, b"gone?")
            assert (await broker.bounds("hub", 0)).end == 1
            assert await values(broker, 0) == [b"before"]
            assert await put(broker, 1, b"elsewhere") == 0
            await broker.commit("group", {("hub", 0): Position(1)})
            await broker.maintain()
        faults.over()
        async with opened(tmp_path) as broker:
            kept = await values(broker, 0)
            assert kept[0] == b"before"
            assert await put(broker, 0, b"after") == len(kept)
            assert (await broker.positions("group"))["hub", 0].offset == 1

    run(scenario())


def test_control_a_hub_that_asks_twice_acknowledges_what_was_dropped(
    tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgiving(log: PartitionLog) -> None:
        for _ in range(2):
            with contextlib.suppress(OSError):
                disk.sync_data(log._active.descriptor)

    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("hub", 1)
            monkeypatch.setattr(PartitionLog, "sync", forgiving)
            faults.sync(f"{broker.hub('hub').id.hex}/0/")
            assert await put(broker, 0, b"dropped") == 0

    run(scenario())


def test_a_failed_sync_while_a_segment_is_sealed_stops_the_partition(tmp_path: Path, faults: Faults) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("hub", 1, KEEP)
            await put(broker, 0, b"x" * 60_000)
            faults.sync(f"{broker.hub('hub').id.hex}/0/")
            for _ in range(2):
                with pytest.raises(StorageFailed):
                    await put(broker, 0, b"y" * 60_000)
            assert (await broker.bounds("hub", 0)).end == 1
        faults.over()
        async with opened(tmp_path) as broker:
            assert await put(broker, 0, b"after") == 1

    run(scenario())


@pytest.mark.parametrize("how", ["create", "directory"])
def test_a_segment_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, faults: Faults, how: str) -> None:
    """Out of descriptors while rolling: the events fail, the next ones work, and a crash afterwards finds no trace."""

    async def scenario() -> None:
        broker = await EmbeddedBroker.open(tmp_path, "fsync")
        await broker.create_hub("hub", 1, KEEP)
        place = broker.hub("hub").id.hex
        assert await put(broker, 0, b"x" * 60_000, 0) == 0
        if how == "create":
            faults.create(errno.EMFILE, 2)
        else:
            faults.directory(place)
        for _ in range(2):
            with pytest.raises(StorageFailed):
                await put(broker, 0, b"y" * 60_000, 1)
        assert await put(broker, 0, b"small", 1) == 1
        faults.over()
        assert await put(broker, 0, b"small", 1) == 1
        assert await put(broker, 0, b"z" * 60_000, 2) == 2
        expected = [b"x" * 60_000, b"small", b"z" * 60_000]
        assert await values(broker, 0) == expected
        assert len(list((tmp_path / "hubs" / place / "0").glob("*.log"))) == 2
        broker._let_go()  # as after a kill: nothing is closed or saved
        async with opened(tmp_path) as again:
            assert await values(again, 0) == expected
            assert await put(again, 0, b"z" * 60_000, 2) == 2
        await asyncio.to_thread(broker._writer.stop)
        for task in (broker._maintenance, broker._sweeper):
            if task is not None:
                task.cancel()

    run(scenario())


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("keep", [0, 30])
def test_a_failed_write_is_undone_and_the_next_one_works(tmp_path: Path, faults: Faults, code: int, keep: int) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("hub", 1)
            assert await put(broker, 0, b"before", 0) == 0
            faults.write(f"{broker.hub('hub').id.hex}/0/", code, keep)
            with pytest.raises(DiskFull if code == errno.ENOSPC else StorageFailed):
                await put(broker, 0, b"again", 1)
            assert await put(broker, 0, b"again", 1) == 1
            assert await values(broker, 0) == [b"before", b"again"]
        async with opened(tmp_path) as broker:
            assert await values(broker, 0) == [b"before", b"again"]

    run(scenario())


def test_short_writes_are_continued(tmp_path: Path, faults: Faults) -> None:
    async def scenario() -> None:
        faults.short_writes()
        async with opened(tmp_path) as broker:
            await broker.create_hub("hub", 1)
            for number in range(20):
                assert await put(broker, 0, b"%d" % number * 50) == number
        faults.over()
        async with opened(tmp_path) as broker:
            assert await values(broker, 0) == [b"%d" % number * 50 for number in range(20)]

    run(scenario())


def test_after_a_failed_sync_of_the_journal_nothing_is_promised_and_events_go_on(
    tmp_path: Path, faults: Faults
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as broker:
            await broker.create_hub("hub", 1)
            await broker.commit("group", {("hub", 0): Position(0)})
            faults.sync("/control/")
            attempts: list[Callable[[], Awaitable[Any]]] = [
                lambda: broker.create_hub("other"),
                lambda: broker.commit("group", {("hub", 0): Position(1)}),
                lambda: broker.alter_hub("hub", {"retention_ms": 5000}),
                lambda: broker.delete_hub("hub"),
            ]
            for attempt in attempts:
                with pytest.raises(StorageFailed):
                    await attempt()
            assert [hub.name for hub in broker.hubs()] == ["hub"]
            assert (await broker.positions("group"))["hub", 0].offset == 0
            assert await put(broker, 0, b"event") == 0
        faults.over()
        async with opened(tmp_path) as broker:
            assert await values(broker, 0) == [b"event"]
            await broker.create_hub("third")

    run(scenario())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prlimit")
def test_a_hub_out_of_descriptors_serves_again_when_connections_go(start_hub: Any) -> None:
    hub = start_hub("--no-workers")
    host, _, port = hub.kafka.rpartition(":")
    used = len(os.listdir(f"/proc/{hub.process.pid}/fd"))
    resource.prlimit(hub.process.pid, resource.RLIMIT_NOFILE, (used + 20, used + 20))
    connections = [socket.create_connection((host, int(port)), 5) for _ in range(60)]
    deadline = time.monotonic() + 10
    while len(os.listdir(f"/proc/{hub.process.pid}/fd")) < used + 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert hub.process.poll() is None
    for connection in connections:
        connection.close()
    answer = {}
    while "offset" not in answer:
        assert time.monotonic() < deadline + 20
        with contextlib.suppress(OSError):
            request = urllib.request.Request(f"{hub.http}/v1/hubs/after/events?partition=0", b"{}", method="POST")
            request.add_header("content-type", "application/json")
            with urllib.request.urlopen(request, timeout=2) as reply:
                answer = json.load(reply)
    assert answer["offset"] == 0
