"""A worker's source over the embedded broker: columns, commits with outputs, fencing, restarts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.local import LocalSource
from gridwire.broker.local_server import LocalServer
from gridwire.broker.port import Output
from gridwire.core import compression
from gridwire.core.batch import Event, assemble, decode, encode, iter_headers
from gridwire.core.errors import Corruption, FencedEpoch, Unavailable, UnknownHub


class HubThread:
    """A broker with its local server on a loop in a thread, so that synchronous workers can be tested against it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.call(self._open())

    async def _open(self) -> None:
        self.broker = await EmbeddedBroker.open(self.directory, default_partitions=2)
        self.server = LocalServer(self.broker)
        await self.server.start()

    async def _close(self) -> None:
        await self.server.stop()
        await self.broker.close()

    def call(self, coroutine: object) -> object:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)  # type: ignore[arg-type]

    def append(self, hub: str, partition: int, *values: bytes) -> None:
        async def scenario() -> None:
            data = encode([Event(value, b"k", (("h", b"v"),), 1000) for value in values])
            await self.broker.append(hub, partition, data)

        self.call(scenario())

    def values(self, hub: str, partition: int) -> list[bytes | None]:
        async def scenario() -> list[bytes | None]:
            read = await self.broker.read(hub, partition, 0, 20_000_000)
            return [event.value for position, _ in iter_headers(read.data) for event in decode(read.data, position)]

        return self.call(scenario())  # type: ignore[return-value]

    def close(self) -> None:
        self.call(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubThread]:
    running = HubThread(tmp_path)
    running.call(running.broker.create_hub("in"))
    running.call(running.broker.create_hub("out"))
    yield running
    running.close()


def read(source: LocalSource, count: int) -> list[tuple[int, int, bytes | None]]:
    found: list[tuple[int, int, bytes | None]] = []
    for _ in range(50):
        for batch in source.poll(1.0):
            found += [(batch.partition, event.offset, event.value) for event in batch.columns.events()]
        if len(found) >= count:
            return found
    raise AssertionError(f"only {found}")


def test_events_arrive_as_columns_and_positions_are_kept(hub: HubThread) -> None:
    hub.append("in", 0, b"a", b"b")
    hub.append("in", 1, b"c")
    source = LocalSource(hub.directory, "w", ["in"])
    assert sorted(read(source, 3)) == [(0, 0, b"a"), (0, 1, b"b"), (1, 0, b"c")]
    assert source.positions() == {("in", 0): 2, ("in", 1): 1}
    source.commit({("in", 0): 1})
    source.close()
    again = LocalSource(hub.directory, "w", ["in"])
    assert again.positions() == {("in", 0): 1, ("in", 1): 0}
    assert sorted(read(again, 2)) == [(0, 1, b"b"), (1, 0, b"c")]
    again.close()


def test_a_poll_is_woken_by_an_append(hub: HubThread) -> None:
    source = LocalSource(hub.directory, "w", ["in"])
    timer = threading.Timer(0.05, hub.append, ("in", 1, b"late"))
    timer.start()
    assert read(source, 1) == [(1, 0, b"late")]
    timer.join()
    source.close()


def test_outputs_come_with_the_position_and_only_from_the_owner(hub: HubThread) -> None:
    hub.append("in", 0, b"a")
    first = LocalSource(hub.directory, "w", ["in"])
    first.commit({("in", 0): 1}, [Output("out", 1, [Event(b"x"), Event(b"y")]), Output("out", 0, [Event(b"z")])])
    first.commit({("in", 0): 1}, [Output("out", 1, [Event(b"w")])])
    second = LocalSource(hub.directory, "w", ["in"])
    with pytest.raises(FencedEpoch):
        first.commit({("in", 0): 0}, [Output("out", 1, [Event(b"never")])])
    second.commit({("in", 0): 1}, [Output("out", 1, [Event(b"v")])])
    assert hub.values("out", 1) == [b"x", b"y", b"w", b"v"]
    assert hub.values("out", 0) == [b"z"]
    first.close()
    second.close()


def test_large_outputs_are_cut_into_batches_a_hub_takes(hub: HubThread) -> None:
    source = LocalSource(hub.directory, "w", ["in"])
    values = [b"%05d" % n + b"x" * 100_000 for n in range(100)]
    source.commit({}, [Output("out", 0, [Event(value) for value in values])])
    assert [value[:5] for value in hub.values("out", 0) if value] == [b"%05d" % n for n in range(100)]
    source.close()


def test_hubs_that_appear_grow_vanish_and_return_are_followed(hub: HubThread) -> None:
    source = LocalSource(hub.directory, "w", ["in", "later"])
    hub.call(hub.broker.create_hub("later", 1))
    hub.append("later", 0, b"first")
    assert read(source, 1) == [(0, 0, b"first")]
    hub.call(hub.broker.add_partitions("later", 2))
    hub.append("later", 1, b"second")
    assert read(source, 1) == [(1, 0, b"second")]
    old = source.hub_id("later")
    hub.call(hub.broker.delete_hub("later"))
    hub.call(hub.broker.create_hub("later", 1))
    hub.append("later", 0, b"reborn")
    assert read(source, 1) == [(0, 0, b"reborn")]
    assert source.hub_id("later") != old
    with pytest.raises(UnknownHub):
        source.hub_id("never")
    source.close()


def test_a_batch_of_nonsense_does_not_stop_a_worker(hub: HubThread) -> None:
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


def test_damage_of_the_disk_does_stop_a_worker(hub: HubThread) -> None:
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


def test_a_wrong_secret_is_shown_the_door(hub: HubThread) -> None:
    endpoint = hub.directory / "run" / "local.json"
    endpoint.write_text(endpoint.read_text().replace('"secret":"', '"secret":"0'))
    with pytest.raises(Unavailable):
        LocalSource(hub.directory, "w", ["in"])
