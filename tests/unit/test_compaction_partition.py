"""Compaction of one partition: what stays, what goes, what a crash leaves, and who reads meanwhile."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gridwire.columnar.reader import SegmentReader, SegmentSpan
from gridwire.core import compression
from gridwire.core.batch import Event, check_produced, decode, encode, iter_headers
from gridwire.core.errors import Corruption, InvalidRecord
from gridwire.core.settings import HubSettings
from gridwire.log import compaction, disk
from gridwire.log.partition import PartitionLog, Stored

NOW = 1_700_000_000_000
RETENTION = 60_000

Pairs = list[tuple[bytes, bytes | None]]


def open_log(directory: Path, **settings: object) -> PartitionLog:
    chosen: dict[str, object] = {"cleanup": "compact", "compact_dirty_percent": 1, "tombstone_retention_ms": RETENTION}
    return PartitionLog(directory, "hub", 0, HubSettings(**{**chosen, **settings}), sync=True, now_ms=NOW)  # type: ignore[arg-type]


def put(log: PartitionLog, *pairs: tuple[bytes, bytes | None], codec: int = 0, **producer: int) -> Stored:
    events = [Event(value, key, timestamp=NOW + log.next_offset + n) for n, (key, value) in enumerate(pairs)]
    data = encode(events, codec=codec, **producer)
    [stored] = log.append_group([(memoryview(data), check_produced(data))], NOW)
    log.publish()
    assert isinstance(stored, Stored), stored
    return stored


def seal(log: PartitionLog) -> None:
    log.append_group([(memoryview(b""), ())], NOW)
    log.publish()


def events(log: PartitionLog, offset: int | None = None, bytes_max: int = 300) -> list[Event]:
    found = []
    offset = log.start_offset if offset is None else offset
    while offset < log.end_offset:
        data = log.read(offset, bytes_max)
        for position, header in iter_headers(data):
            found += [event for event in decode(data, position) if event.offset >= offset]
            offset = header.next_offset
    return found


def latest(found: list[Event]) -> dict[bytes | None, bytes]:
    state: dict[bytes | None, bytes] = {}
    for event in found:
        state.pop(event.key, None)
        if event.value is not None:
            state[event.key] = event.value
    return state


@pytest.mark.parametrize("codec", range(5))
def test_the_last_event_of_every_key_stays_where_it_was(tmp_path: Path, codec: int) -> None:
    log = open_log(tmp_path)
    put(log, (b"a", b"1"), (b"b", b"1"), (b"a", b"2"), codec=codec)
    put(log, (b"b", b"2"), codec=codec)
    put(log, (b"c", b"1"), (b"c", b"2"), codec=codec)
    seal(log)
    put(log, (b"a", b"active"))
    done = compaction.compact(log, NOW)
    assert done is not None
    assert done.events_removed == 3
    assert [(e.offset, e.key, e.value, e.timestamp) for e in events(log)] == [
        (2, b"a", b"2", NOW + 2), (3, b"b", b"2", NOW + 3), (5, b"c", b"2", NOW + 5), (6, b"a", b"active", NOW + 6),
    ]  # fmt: skip
    data = log.read(0, 100_000)
    first = next(iter_headers(data))[1]
    assert first.codec == codec, "compression is kept"
    assert log.offset_at(NOW) == (2, NOW + 2)
    log.close()
    again = open_log(tmp_path)
    assert [event.offset for event in events(again)] == [2, 3, 5, 6]
    assert again.recovery.damage == ()


def test_offsets_stay_dense_where_whole_batches_are_gone(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(50):
        put(log, (b"k", b"%d" % number))
    put(log, (b"other", b"1"))
    seal(log)
    compaction.compact(log, NOW)
    headers = [header for _, header in iter_headers(log.read(0, 100_000))]
    expected = 0
    for header in headers:
        assert header.base_offset == expected
        expected = header.next_offset
    assert expected == 51
    assert len(headers) == 3
    for meta in tmp_path.glob("*.meta"):
        meta.unlink()
    log.close()
    for meta in tmp_path.glob("*.meta"):
        meta.unlink()
    again = open_log(tmp_path)  # scanned batch by batch
    assert again.recovery.damage == ()
    assert [event.offset for event in events(again)] == [49, 50]


def test_small_segments_become_one_and_nothing_changes_when_all_is_clean(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(5):
        put(log, (b"%d" % number, b"x"))
        seal(log)
    assert len(list(tmp_path.glob("*.log"))) == 6
    assert compaction.compact(log, NOW) is not None
    assert len(list(tmp_path.glob("*.log"))) == 2
    assert compaction.compact(log, NOW) is None
    assert len(events(log)) == 5


def test_tombstones_outlive_a_reader_for_their_retention(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    put(log, (b"a", b"1"), (b"b", b"1"))
    put(log, (b"a", None))
    seal(log)
    assert compaction.compact(log, NOW) is not None
    assert [(e.key, e.value) for e in events(log)] == [(b"b", b"1"), (b"a", None)]
    assert compaction.compact(log, NOW + RETENTION - 1) is None, "not yet"
    assert compaction.compact(log, NOW + RETENTION) is not None
    assert [(e.key, e.value) for e in events(log)] == [(b"b", b"1")]
    assert compaction.compact(log, NOW + 10 * RETENTION) is None


def test_a_lost_state_file_makes_tombstones_wait_again(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    put(log, (b"a", b"1"), (b"a", None))
    seal(log)
    compaction.compact(log, NOW)
    path = tmp_path / compaction.STATE_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    compaction.compact(log, NOW + RETENTION)
    assert [(e.key, e.value) for e in events(log)] == [(b"a", None)]
    compaction.compact(log, NOW + 2 * RETENTION)
    assert events(log) == []
    assert log.end_offset == 2


def test_a_producer_is_known_after_all_its_events_are_gone(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    first = {"producer_id": 9, "producer_epoch": 1}
    put(log, (b"a", b"1"), **first, base_sequence=0)
    put(log, (b"a", b"2"), (b"b", b"2"), **first, base_sequence=1)
    put(log, (b"a", b"3"), (b"b", b"3"))
    seal(log)
    compaction.compact(log, NOW)
    assert [e.offset for e in events(log)] == [3, 4]
    log.close()
    for meta in tmp_path.glob("*.meta"):
        meta.unlink()
    log = open_log(tmp_path)
    repeated = put(log, (b"a", b"2"), (b"b", b"2"), **first, base_sequence=1)
    assert repeated == Stored(1, duplicate=True)
    assert put(log, (b"a", b"4"), **first, base_sequence=3) == Stored(5)


def test_young_events_and_little_dirt_are_left_alone(tmp_path: Path) -> None:
    log = open_log(tmp_path, compact_lag_ms=1000)
    put(log, (b"a", b"1"), (b"a", b"2"))
    seal(log)
    assert compaction.compact(log, NOW + 500) is None
    assert compaction.compact(log, NOW + 2000) is not None
    log.settings = HubSettings(cleanup="compact", compact_dirty_percent=90)
    put(log, (b"a", b"3"))
    seal(log)
    assert compaction.compact(log, NOW + 9000) is None
    log.settings = HubSettings(cleanup="compact", compact_dirty_percent=10)
    assert compaction.compact(log, NOW + 9000) is not None


def test_events_without_a_key_from_before_stay(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    data = encode([Event(b"no key", timestamp=NOW), Event(b"1", b"a", timestamp=NOW), Event(b"2", b"a", timestamp=NOW)])
    log.append_group([(memoryview(data), check_produced(data))], NOW)
    log.publish()
    seal(log)
    compaction.compact(log, NOW)
    assert [event.value for event in events(log)] == [b"no key", b"2"]


def test_keys_beyond_the_map_wait_for_the_next_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "KEYS_MAX", 3)
    log = open_log(tmp_path)
    for _ in range(3):
        for number in range(10):
            put(log, (b"%d" % number * 40, b"x"))
    seal(log)
    while compaction.compact(log, NOW) is not None:
        pass
    found = events(log)
    assert sorted(event.offset for event in found) == list(range(20, 30))


def test_readers_who_hold_old_segments_read_on(tmp_path: Path) -> None:
    """A worker maps what it was told of before; a reader in the middle of a segment keeps its file."""
    log = open_log(tmp_path)
    for number in range(30):
        put(log, (b"k%d" % (number % 3), b"%d" % number))
    seal(log)
    put(log, (b"z", b"z"))
    reader = SegmentReader(check_crc=True)
    [first, second] = log.spans(0, 1_000_000)
    mapped = reader.read(SegmentSpan(first.path, first.base_offset, first.start, first.end), from_offset=0)
    held = log._segments[0]
    for segment in log._segments[:-1]:
        segment.close()
    compaction.compact(log, NOW)
    assert not Path(first.path).exists()
    assert mapped.columns[0].value(7) == b"7"
    assert len(disk.read_at(held.descriptor, held.size, 0)) == held.size
    again = reader.read_all(
        [SegmentSpan(s.path, s.base_offset, s.start, s.end) for s in log.spans(4, 1_000_000)], from_offset=4
    )
    assert again.next_offset == 31
    assert again.events == 4
    assert second.path == log.spans(30, 1000)[0].path


def test_a_position_in_a_gap_moves_on(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(200):
        put(log, (b"k", b"x" * 2000 + b"%d" % number))
    seal(log)
    compaction.compact(log, NOW)
    reader = SegmentReader(check_crc=True)
    for offset in range(200):
        spans = [SegmentSpan(s.path, s.base_offset, s.start, s.end) for s in log.spans(offset, 1000)]
        read = reader.read_all(spans, from_offset=offset)
        assert read.next_offset > offset, "a worker must not stand still in a gap"


@pytest.mark.parametrize("point", ["written", "renamed", "meta", "replaced", "state"])
def test_a_crash_at_any_point_keeps_every_last_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    log = open_log(tmp_path / "log")
    for number in range(40):
        put(log, (b"%d" % (number % 7), b"%d" % number if number % 5 else None))
        if number % 10 == 9:
            seal(log)
    want = latest(events(log))
    calls = {
        "written": (os, "fsync"),
        "renamed": (disk, "sync_directory"),
        "meta": (compaction.Segment, "save_meta"),
        "replaced": (PartitionLog, "_drop"),
        "state": (compaction, "save_state"),
    }

    def crash(*_: object, **__: object) -> None:
        shutil.copytree(tmp_path / "log", tmp_path / "killed")
        raise KeyboardInterrupt

    owner, name = calls[point]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(KeyboardInterrupt):
            compaction.compact(log, NOW)
    killed = open_log(tmp_path / "killed")
    assert latest(events(killed)) == want
    assert killed.end_offset == 40
    assert killed.recovery.damage == ()
    assert compaction.compact(killed, NOW) is not None
    assert latest(events(killed)) == want
    assert not list((tmp_path / "killed").glob("*.cleaning"))
    starts = [segment.base_offset for segment in killed._segments]
    assert len(starts) == len(set(starts))


def test_damage_stops_compaction_in_front_of_it_and_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    put(log, (b"a", b"1"), (b"a", b"2"))
    seal(log)
    put(log, (b"a", b"3"), (b"b", b"1"))
    seal(log)
    log.close()
    path = sorted(tmp_path.glob("*.log"))[1]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    damaged = bytes(data)
    log = open_log(tmp_path)
    with pytest.raises(Corruption):
        compaction.compact(log, NOW)
    assert compaction.compact(log, NOW) is not None
    kept = log.read(0, 100_000)
    assert [event.offset for position, _ in iter_headers(kept) for event in decode(kept, position)] == [1]
    assert path.read_bytes() == damaged, "damaged bytes are left for people to look at"
    with pytest.raises(Corruption):
        log.read(2, 100)


def test_retention_leaves_compacted_hubs_alone_unless_told(tmp_path: Path) -> None:
    log = open_log(tmp_path, retention_ms=1000)
    put(log, (b"a", b"1"))
    seal(log)
    assert log.expire(NOW + 10_000) == 0
    log.settings = HubSettings(cleanup="compact,delete", retention_ms=1000)
    assert log.expire(NOW + 10_000) > 0


def test_a_compacted_hub_takes_only_keys(tmp_path: Path) -> None:
    import asyncio

    from gridwire.broker.embedded import EmbeddedBroker

    async def main() -> None:
        broker = await EmbeddedBroker.open(tmp_path / "data", "os")
        await broker.create_hub("h", 1, {"cleanup": "compact"})
        for codec in (compression.NONE, compression.LZ4):
            with pytest.raises(InvalidRecord):
                await broker.append("h", 0, encode([Event(b"x", b"k"), Event(b"x")], codec=codec))
        assert (await broker.append("h", 0, encode([Event(b"x", b"k")]))).base_offset == 0
        await broker.close()

    asyncio.run(main())
