"""Transactions in the broker: states, fencing, time, what a crash leaves, and who reads what."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from gridwire.broker import transactions as states
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.core.batch import CONTROL, TRANSACTIONAL, Event, decode, encode, iter_headers
from gridwire.core.clock import ManualClock
from gridwire.core.errors import (
    DiskFull,
    FencedEpoch,
    InvalidBatch,
    InvalidSetting,
    InvalidTransaction,
    OutOfOrderSequence,
    UnknownProducer,
)
from gridwire.heads.http import reading
from gridwire.log.transactions import is_aborted


class Producer:
    """A transactional producer that speaks to the broker itself."""

    def __init__(self, broker: EmbeddedBroker, name: str = "t") -> None:
        self.broker, self.name = broker, name
        self.sequences: dict[tuple[str, int], int] = {}

    async def init(self, timeout_ms: int = 60_000) -> Producer:
        self.id, self.epoch = await self.broker.transactions.begin_producer(self.name, timeout_ms)
        self.sequences.clear()
        return self

    def where(self, hub: str, partition: int) -> tuple[str, int]:
        return str(self.broker.hub(hub).id), partition

    async def add(self, hub: str = "h", partition: int = 0) -> None:
        await self.broker.transactions.add(self.name, self.id, self.epoch, [self.where(hub, partition)])

    async def send(self, *values: bytes, hub: str = "h", partition: int = 0, add: bool = False) -> int:
        sequence = self.sequences.get((hub, partition), 0)
        data = encode(
            [Event(value, b"k", timestamp=1) for value in values],
            producer_id=self.id, producer_epoch=self.epoch, base_sequence=sequence, attributes=TRANSACTIONAL,
        )  # fmt: skip
        done = await self.broker.append_transactional(hub, partition, data, self.name, add=add)
        self.sequences[hub, partition] = sequence + len(values)
        return done.base_offset

    async def end(self, commit: bool, *, raise_epoch: bool = False) -> None:
        before = self.epoch
        self.id, self.epoch = await self.broker.transactions.end(
            self.name, self.id, self.epoch, commit=commit, raise_epoch=raise_epoch
        )
        if self.epoch != before:
            self.sequences.clear()


async def committed(broker: EmbeddedBroker, hub: str = "h", partition: int = 0) -> list[bytes | None]:
    """As a Kafka client in read_committed reads."""
    found, offset = [], 0
    while offset < (await broker.bounds(hub, partition)).stable:
        read = await broker.read(hub, partition, offset, 100, committed=True)
        for position, header in iter_headers(read.data):
            if not header.attributes & CONTROL and not is_aborted(header, list(read.aborted)):
                found += [event.value for event in decode(read.data, position) if event.offset >= offset]
            offset = header.next_offset
    return found


async def over_http(broker: EmbeddedBroker) -> list[bytes | None]:
    stretch = await reading.read(broker, "h", 0, 0)
    return [event.value for block in stretch.blocks for event in block.events]


def by_worker(broker: EmbeddedBroker) -> list[bytes | None]:
    from gridwire.columnar.reader import SegmentReader, SegmentSpan

    reader, offset, found = SegmentReader(check_crc=True), 0, []
    stable = broker.partition("h", 0).stable_offset
    while offset < stable:
        spans = [SegmentSpan(s.path, s.base_offset, s.start, s.end) for s in broker.spans("h", 0, offset, 150)]
        read = reader.read_all(spans, from_offset=offset)
        assert read.next_offset > offset, "a worker must move on"
        found += [columns.value(row) for columns in read.columns for row in range(len(columns))]
        offset = read.next_offset
    return found


def run(tmp_path: Path, main: Any, **options: Any) -> None:
    async def whole() -> None:
        broker = await EmbeddedBroker.open(tmp_path / "data", "os", **options)
        await broker.create_hub("h", 2)
        await broker.create_hub("other", 1)
        try:
            await main(broker)
        finally:
            await broker.close()

    asyncio.run(asyncio.wait_for(whole(), 60))


def test_readers_see_all_or_nothing(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        await broker.append("h", 0, encode([Event(b"plain", timestamp=1)]))
        await producer.add()
        await producer.send(b"a", b"b")
        await broker.append("h", 0, encode([Event(b"plain 2", timestamp=1)]))
        bounds = await broker.bounds("h", 0)
        assert (bounds.end, bounds.stable) == (4, 1)
        assert await committed(broker) == await over_http(broker) == by_worker(broker) == [b"plain"]
        await producer.end(True)
        want = [b"plain", b"a", b"b", b"plain 2"]
        assert await committed(broker) == await over_http(broker) == by_worker(broker) == want
        await producer.add()
        await producer.send(b"lost", b"lost")
        await producer.send(b"lost too")
        await broker.append("h", 0, encode([Event(b"plain 3", timestamp=1)]))
        await producer.end(False)
        want.append(b"plain 3")
        assert await committed(broker) == await over_http(broker) == by_worker(broker) == want
        await producer.add()
        await producer.send(b"again")
        await producer.end(True)
        assert await committed(broker) == by_worker(broker) == [*want, b"again"]

    run(tmp_path, main)


def test_readers_wait_for_the_end_of_a_transaction(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        await producer.add()
        waiting = asyncio.ensure_future(broker.wait({("h", 0): 0}, 20, committed=True))
        await producer.send(b"a")
        await asyncio.sleep(0)
        await broker.wait({("h", 0): 0}, 20)
        await producer.end(True)
        await waiting
        assert (await broker.bounds("h", 0)).stable == 2

    run(tmp_path, main)


def test_a_batch_outside_a_transaction_is_refused(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        with pytest.raises(InvalidTransaction):
            await producer.send(b"nobody began")
        await producer.add("h", 0)
        with pytest.raises(InvalidTransaction):
            await producer.send(b"other partition", partition=1)
        await producer.send(b"ok")
        await producer.end(True)
        with pytest.raises(InvalidTransaction):
            await producer.send(b"late: the transaction is over")
        stranger = Producer(broker, "stranger")
        stranger.id, stranger.epoch = producer.id, producer.epoch
        with pytest.raises(UnknownProducer):
            await stranger.send(b"x")
        plain = encode([Event(b"x")], attributes=TRANSACTIONAL, producer_id=1, producer_epoch=0, base_sequence=0)
        with pytest.raises(InvalidBatch):
            await broker.append("h", 0, plain)
        with pytest.raises(InvalidSetting):
            await broker.transactions.begin_producer("t", states.TIMEOUT_MS_MAX + 1)

    run(tmp_path, main)


def test_whoever_takes_over_fences_and_aborts(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        zombie = await Producer(broker).init()
        await zombie.add()
        await zombie.send(b"zombie")
        fresh = await Producer(broker).init()
        assert fresh.id == zombie.id
        assert fresh.epoch > zombie.epoch
        for attempt in (zombie.send(b"x"), zombie.add(), zombie.end(True), zombie.end(False)):
            with pytest.raises(FencedEpoch):
                await attempt
        await fresh.add()
        await fresh.send(b"fresh")
        await fresh.end(True)
        assert await committed(broker) == [b"fresh"]

    run(tmp_path, main)


def test_ends_can_be_repeated_but_not_reversed(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        with pytest.raises(InvalidTransaction):
            await producer.end(True)
        await producer.add()
        await producer.end(True)
        await producer.end(True)
        with pytest.raises(InvalidTransaction):
            await producer.end(False)

    run(tmp_path, main)


def test_the_second_protocol_gives_every_transaction_an_epoch(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        await asyncio.gather(*[producer.send(b"%d" % n, partition=n, add=True) for n in range(2)])
        late = Producer(broker)
        late.id, late.epoch, late.sequences = producer.id, producer.epoch, {("h", 0): 1}
        await producer.end(True, raise_epoch=True)
        assert producer.epoch == late.epoch + 1
        for attempt in (late.send(b"late", add=True), late.add()):
            with pytest.raises(FencedEpoch):
                await attempt
        repeated = await broker.transactions.end("t", late.id, late.epoch, commit=True, raise_epoch=True)
        assert repeated == (producer.id, producer.epoch), "a lost answer can be asked for again"
        with pytest.raises(FencedEpoch):
            await broker.transactions.end("t", late.id, late.epoch, commit=False, raise_epoch=True)
        await producer.send(b"next", add=True)
        with pytest.raises(FencedEpoch):
            await broker.transactions.end("t", late.id, late.epoch, commit=True, raise_epoch=True)
        await producer.end(False, raise_epoch=True)
        before = producer.epoch
        await producer.end(False, raise_epoch=True)
        assert producer.epoch == before + 1, "an abort of nothing raises the epoch too"
        assert await committed(broker) == [b"0"]

    run(tmp_path, main)


def test_pipelined_batches_that_join_keep_their_order(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        sends = []
        for number in range(200):
            data = encode(
                [Event(b"%d" % number, timestamp=1)], producer_id=producer.id, producer_epoch=0,
                base_sequence=number, attributes=TRANSACTIONAL,
            )  # fmt: skip
            sends.append(broker.append_transactional("h", 0, data, "t", add=True))
            if number % 7 == 0:
                await asyncio.sleep(0)
        assert [(await each).base_offset for each in sends] == list(range(200))

    run(tmp_path, main)


def test_positions_move_with_the_commit_only(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        where = producer.where("h", 1)

        async def keep(offset: int, announce: bool = False) -> None:
            await broker.transactions.add_positions(
                "t", producer.id, producer.epoch, "g", {where: (offset, "m")}, announce=announce
            )

        with pytest.raises(InvalidTransaction):
            await keep(3)
        await broker.transactions.add_group("t", producer.id, producer.epoch, "g")
        await keep(3)
        await keep(5)
        assert await broker.positions("g") == {}
        assert broker.transactions.pending_positions("g") == {where}
        await producer.end(False)
        assert await broker.positions("g") == {}
        assert broker.transactions.pending_positions("g") == set()
        await keep(7, announce=True)
        await producer.end(True)
        assert (await broker.positions("g"))["h", 1].offset == 7

    run(tmp_path, main)


def test_what_takes_too_long_is_aborted_and_fenced(tmp_path: Path) -> None:
    clock = ManualClock()

    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init(timeout_ms=5000)
        await producer.add()
        await producer.send(b"slow")
        clock.advance(4.9)
        await broker.transactions.sweep()
        assert (await broker.bounds("h", 0)).stable == 0
        clock.advance(0.2)
        await broker.transactions.sweep()
        assert (await broker.bounds("h", 0)).stable == 2
        assert await committed(broker) == []
        with pytest.raises(FencedEpoch):
            await producer.end(True)

    run(tmp_path, main, clock=clock)


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("point", ["ongoing", "decided", "one marker", "all markers", "settled"])
def test_a_crash_at_any_point_keeps_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, commit: bool
) -> None:
    async def crash(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        await producer.add("h", 0)
        await producer.add("other", 0)
        await producer.send(b"a")
        await producer.send(b"b", hub="other")
        await broker.transactions.add_positions(
            "t", producer.id, producer.epoch, "g", {producer.where("h", 0): (42, "")}, announce=True
        )
        seen = 0
        one_at_a_time = asyncio.Lock()
        real_marker, real_save = broker.transactions._services.append_marker, broker.transactions._save

        async def marker(where: Any, batch: bytearray) -> object:
            nonlocal seen
            async with one_at_a_time:
                if (point, seen) in (("decided", 0), ("one marker", 1)):
                    shutil.copytree(tmp_path / "data", tmp_path / "killed")
                seen += 1
                return await real_marker(where, batch)

        async def save(name: str, record: Any, others: Any) -> None:
            if point == "all markers" and record.state in (states.COMMITTED, states.ABORTED):
                shutil.copytree(tmp_path / "data", tmp_path / "killed")
            await real_save(name, record, others)

        import dataclasses

        broker.transactions._services = dataclasses.replace(broker.transactions._services, append_marker=marker)
        monkeypatch.setattr(broker.transactions, "_save", save)
        if point == "ongoing":
            shutil.copytree(tmp_path / "data", tmp_path / "killed")
        await producer.end(commit)
        if point == "settled":
            shutil.copytree(tmp_path / "data", tmp_path / "killed")

    run(tmp_path, crash)

    async def check() -> None:
        broker = await EmbeddedBroker.open(tmp_path / "killed", "os")
        if point == "ongoing":
            assert await committed(broker) == await committed(broker, "other") == []
            assert (await broker.bounds("h", 0)).stable == 0
            fresh = await Producer(broker).init()
            assert fresh.epoch == 2, "one for the abort, one for the new producer"
        kept = commit and point != "ongoing"
        assert await committed(broker) == ([b"a"] if kept else [])
        assert await committed(broker, "other") == ([b"b"] if kept else [])
        assert [each.offset for each in (await broker.positions("g")).values()] == ([42] if kept else [])
        for hub in ("h", "other"):
            bounds = await broker.bounds(hub, 0)
            assert bounds.stable == bounds.end
        await broker.close()

    asyncio.run(check())


def test_a_transaction_only_the_log_knows_is_aborted_at_start(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        await producer.add()
        await producer.send(b"a")
        await broker._change({key: None for key in broker._control.entries if key.startswith(states.PREFIX)})

    run(tmp_path, main)

    async def check() -> None:
        broker = await EmbeddedBroker.open(tmp_path / "data", "os")
        bounds = await broker.bounds("h", 0)
        assert bounds.stable == bounds.end == 2
        assert await committed(broker) == []
        await broker.close()

    asyncio.run(check())


def test_a_full_disk_during_the_end_is_made_up_for(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        await producer.add()
        await producer.send(b"a")
        services = broker.transactions._services

        async def full(where: Any, batch: bytearray) -> Coroutine[Any, Any, None]:
            raise DiskFull("disk full")

        import dataclasses

        broker.transactions._services = dataclasses.replace(services, append_marker=full)
        with pytest.raises(DiskFull):
            await producer.end(True)
        with pytest.raises(InvalidTransaction):
            await producer.end(False)
        broker.transactions._services = services
        await broker.transactions.sweep()
        assert await committed(broker) == [b"a"]
        await producer.end(True)

    run(tmp_path, main)


def test_sequences_start_at_zero_behind_a_marker_with_a_newer_epoch(tmp_path: Path) -> None:
    async def main(broker: EmbeddedBroker) -> None:
        producer = await Producer(broker).init()
        await producer.add()
        await producer.send(b"a")
        await producer.end(True, raise_epoch=True)
        producer.sequences = {("h", 0): 4}
        with pytest.raises(OutOfOrderSequence):
            await producer.send(b"b", add=True)

    run(tmp_path, main)


def test_epochs_run_out_into_a_new_producer_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "EPOCH_MAX", 3)

    async def main(broker: EmbeddedBroker) -> None:
        seen = set()
        for _ in range(6):
            producer = await Producer(broker).init()
            seen.add((producer.id, producer.epoch))
        assert len(seen) == 6
        assert len({each for each, _ in seen}) == 2
        for number in range(8):
            await producer.send(b"%d" % number, add=True)
            await producer.end(True, raise_epoch=True)
            assert producer.epoch <= 4
        assert await committed(broker) == [b"%d" % number for number in range(8)]

    run(tmp_path, main)
