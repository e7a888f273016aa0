"""Logs as compaction leaves them, for the clients of every language."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.core import compression
from gridwire.core.batch import Event, decode, encode, iter_headers
from gridwire.log import compaction
from gridwire.log.partition import PartitionLog

SEGMENT_BYTES = 64 * 1024
STRETCH = 24
"""Segments in a row of which nothing is left: librdkafka takes ten answers without records and complains of more."""

Expected = dict[str, tuple[list[tuple[int, str]], int]]
"""Of each hub: (offset, value) of every event that is left, and the end."""


@pytest.fixture(scope="session")
def write_compacted() -> Callable[[Path], Expected]:
    """Write a data directory with three compacted hubs of one partition; call it before a hub starts there.

    `gap`: events behind a long stretch of empty batches, twice. `emptied`: nothing but empty batches.
    `lz4`: a batch of several LZ4 blocks that compaction wrote anew, without every seventh event.
    """
    return lambda data: asyncio.run(_write(data))


async def _write(data: Path) -> Expected:
    broker = await EmbeddedBroker.open(data, "os")
    writers = {"gap": _gap, "emptied": _emptied, "lz4": _lz4}
    found: Expected = {}
    for name, write in writers.items():
        settings = {"cleanup": "compact", "segment_bytes": SEGMENT_BYTES, "compact_dirty_percent": 1}
        await broker.create_hub(name, 1, settings)
        await write(broker, name)
        found[name] = _left(broker.partition(name, 0))
    await broker.close()
    return found


async def _put(broker: EmbeddedBroker, hub: str, *events: tuple[bytes, bytes | None], codec: int = 0) -> None:
    now_ms = 1_700_000_000_000
    batch = encode([Event(value, key, timestamp=now_ms) for key, value in events], codec=codec)
    await broker.append(hub, 0, batch)


async def _compact(broker: EmbeddedBroker, hub: str, now_ms: int) -> None:
    log = broker.partition(hub, 0)
    log.append_group([(memoryview(b""), ())], now_ms)  # the active segment is sealed
    log.publish()
    assert await asyncio.to_thread(compaction.compact, log, now_ms) is not None


async def _replaced(broker: EmbeddedBroker, hub: str) -> None:
    """Segments of one event each, all of the same key."""
    for number in range(STRETCH):
        await _put(broker, hub, (b"k", b"%d" % number + b"." * SEGMENT_BYTES))


async def _gap(broker: EmbeddedBroker, hub: str) -> None:
    await _put(broker, hub, (b"first", b"1"))
    await _replaced(broker, hub)
    await _put(broker, hub, (b"middle", b"2"))
    await _replaced(broker, hub)
    await _put(broker, hub, (b"k", b"last"))
    await _compact(broker, hub, 0)


async def _emptied(broker: EmbeddedBroker, hub: str) -> None:
    await _replaced(broker, hub)
    await _put(broker, hub, (b"k", None))
    await _compact(broker, hub, 0)
    await _compact(broker, hub, 2 * broker.hub(hub).settings.tombstone_retention_ms)


async def _lz4(broker: EmbeddedBroker, hub: str) -> None:
    events = [(b"%d" % number, b"%d." % number * 250) for number in range(600)]
    await _put(broker, hub, *events, codec=compression.LZ4)
    again = [(key, b"again") for key, _ in events[::7]]
    await _put(broker, hub, *again, codec=compression.LZ4)
    await _compact(broker, hub, 0)


def _left(log: PartitionLog) -> tuple[list[tuple[int, str]], int]:
    found, offset = [], log.start_offset
    while offset < log.end_offset:
        data = log.read(offset, SEGMENT_BYTES)
        for position, header in iter_headers(data):
            found += [(event.offset, (event.value or b"").decode()) for event in decode(data, position)]
            offset = header.next_offset
    return found, log.end_offset
