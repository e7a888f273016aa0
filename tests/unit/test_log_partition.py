"""One partition: appending, reading, finding by time, recovery, retention, and a disk that refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gridwire.core.batch import Event, check_produced, decode, encode, iter_headers
from gridwire.core.errors import (
    Corruption,
    DiskFull,
    DuplicateSequence,
    FencedEpoch,
    OffsetOutOfRange,
    OutOfOrderSequence,
    StorageFailed,
)
from gridwire.core.settings import HubSettings
from gridwire.log import disk, partition
from gridwire.log.partition import PartitionLog, Stored

NOW = 1_700_000_000_000


def open_log(directory: Path, **settings: int) -> PartitionLog:
    chosen = HubSettings(**settings)  # type: ignore[arg-type]
    return PartitionLog(directory, "hub", 3, chosen, sync=True, now_ms=NOW)


def request(*values: bytes, timestamp: int = NOW, **producer: int) -> tuple[memoryview, list]:  # type: ignore[type-arg]
    data = encode([Event(value, timestamp=timestamp + n) for n, value in enumerate(values)], **producer)
    return memoryview(data), check_produced(data)


def append(log: PartitionLog, *requests: tuple[memoryview, list]) -> list:  # type: ignore[type-arg]
    results = log.append_group(requests, NOW)
    log.publish()
    return results


def values(log: PartitionLog, offset: int = 0) -> list[bytes | None]:
    found = []
    while offset < log.end_offset:
        data = log.read(offset, 200)
        for position, header in iter_headers(data):
            found += [event.value for event in decode(data, position) if event.offset >= offset]
            offset = header.next_offset
    return found


def test_offsets_count_up_over_batches_and_reopening(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    assert append(log, request(b"a", b"b"), request(b"c")) == [Stored(0), Stored(2)]
    log.close()
    log = open_log(tmp_path)
    assert append(log, request(b"d")) == [Stored(3)]
    assert values(log) == [b"a", b"b", b"c", b"d"]
    assert values(log, 1) == [b"b", b"c", b"d"]


def test_readers_see_only_what_was_published(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append_group([request(b"a")], NOW)
    assert log.end_offset == 0
    assert log.read(0, 100) == b""
    log.publish()
    assert values(log) == [b"a"]


def test_an_offset_outside_says_what_there_is(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    append(log, request(b"a"))
    with pytest.raises(OffsetOutOfRange) as caught:
        log.read(5, 100)
    assert (caught.value.start, caught.value.end) == (0, 1)


def test_at_least_one_batch_comes_whatever_the_limit(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    append(log, request(b"x" * 5000), request(b"y"))
    assert [h.base_offset for _, h in iter_headers(log.read(0, 10))] == [0]
    assert [h.base_offset for _, h in iter_headers(log.read(0, 10_000))] == [0, 1]


def test_segments_roll_and_are_read_across(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=64 * 1024)
    for number in range(40):
        append(log, request(b"%04d" % number + b"x" * 8000))
    assert len(list(tmp_path.glob("*.log"))) > 3
    assert [value[:4] for value in values(log) if value] == [b"%04d" % n for n in range(40)]
    spans = log.spans(0, 10_000_000)
    assert len(spans) == len(list(tmp_path.glob("*.log")))
    log.close()
    assert len(values(open_log(tmp_path, segment_bytes=64 * 1024))) == 40


def test_spans_hold_the_batch_asked_for_however_large_its_neighbours(tmp_path: Path) -> None:
    """A small batch in front of a large one: the index has an entry for the first only."""
    log = open_log(tmp_path)
    append(log, request(b"small"), request(b"x" * 3_000_000), request(b"small"))
    for offset in range(3):
        [span] = log.spans(offset, 1_000_000)
        data = Path(span.path).read_bytes()[span.start : span.end]
        assert next(h.base_offset for _, h in iter_headers(data)) == offset


def test_one_group_may_span_segments(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=64 * 1024)
    append(log, *(request(b"%04d" % n + b"x" * 8000) for n in range(40)))
    assert len(values(log)) == 40


def test_time_is_looked_up_inside_the_batch(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=64 * 1024)
    for number in range(60):
        append(log, request(b"x" * 3000, b"y" * 3000, timestamp=NOW + number * 10))
    assert log.offset_at(NOW) == (0, NOW)
    assert log.offset_at(NOW + 301) == (61, NOW + 301)
    assert log.offset_at(NOW + 295) == (60, NOW + 300)
    assert log.offset_at(NOW + 10_000) is None
    assert log.newest() == (119, NOW + 591)


def test_a_repeated_batch_is_stored_once_also_after_a_restart(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    first = {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0}
    assert append(log, request(b"a", b"b", **first)) == [Stored(0)]
    assert append(log, request(b"a", b"b", **first)) == [Stored(0, duplicate=True)]
    log = open_log(tmp_path)  # as after SIGKILL: nothing was saved
    assert append(log, request(b"a", b"b", **first)) == [Stored(0, duplicate=True)]
    assert append(log, request(b"c", **{**first, "base_sequence": 2})) == [Stored(2)]
    log.close()
    log = open_log(tmp_path)  # from the saved table
    assert append(log, request(b"c", **{**first, "base_sequence": 2})) == [Stored(2, duplicate=True)]
    assert values(log) == [b"a", b"b", b"c"]


def test_a_gap_an_old_epoch_and_a_forgotten_batch_are_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for sequence in range(8):
        append(log, request(b"x", producer_id=1, producer_epoch=3, base_sequence=sequence))
    [gap] = append(log, request(b"x", producer_id=1, producer_epoch=3, base_sequence=10))
    [old] = append(log, request(b"x", producer_id=1, producer_epoch=2, base_sequence=0))
    [forgotten] = append(log, request(b"x", producer_id=1, producer_epoch=3, base_sequence=1))
    [newer] = append(log, request(b"x", producer_id=1, producer_epoch=4, base_sequence=0))
    assert isinstance(gap, OutOfOrderSequence)
    assert isinstance(old, FencedEpoch)
    assert isinstance(forgotten, DuplicateSequence)
    assert newer == Stored(8)


@pytest.mark.parametrize("cut", range(1, 140))
def test_a_torn_tail_is_cut_and_nothing_else(tmp_path: Path, cut: int) -> None:
    log = open_log(tmp_path)
    append(log, request(b"a"), request(b"b"), request(b"c"))
    [path] = tmp_path.glob("*.log")
    size = path.stat().st_size
    os.truncate(path, size - cut)
    log = open_log(tmp_path)
    kept = (size - cut) // (size // 3)
    assert values(log) == [b"a", b"b", b"c"][:kept]
    assert log.recovery.truncated_bytes == (size - cut) % (size // 3)
    assert append(log, request(b"d")) == [Stored(kept)]


@pytest.mark.parametrize("byte", [0, 7, 8, 16, 17, 30, 65])
def test_damage_in_the_middle_stays_and_only_it_is_refused(tmp_path: Path, byte: int) -> None:
    log = open_log(tmp_path)
    for value in (b"a", b"b", b"c"):  # a write each: whoever wrote c was told that b is on the disk
        append(log, request(value))
    [path] = tmp_path.glob("*.log")
    size = path.stat().st_size // 3
    data = bytearray(path.read_bytes())
    data[size + byte] ^= 1
    path.write_bytes(data)
    log = open_log(tmp_path)
    assert log.recovery.truncated_bytes == 0
    assert [(d.start, d.end) for d in log.recovery.damage] == [(size, 2 * size)]
    assert log.end_offset == 3
    assert [h.base_offset for _, h in iter_headers(log.read(0, 10_000))] == [0]
    assert [h.base_offset for _, h in iter_headers(log.read(2, 10_000))] == [2]
    with pytest.raises(Corruption, match=f"hub 'hub' partition 3, segment .*, position {size}"):
        log.read(1, 10_000)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_write_that_came_to_the_disk_in_part_is_cut_from_its_first_gap(tmp_path: Path, lost: int) -> None:
    """Sectors of one write arrive in any order: a later batch may be whole where an earlier one is not."""
    log = open_log(tmp_path)
    append(log, request(b"before"))
    [path] = tmp_path.glob("*.log")
    start = path.stat().st_size
    append(log, request(b"a", producer_id=7, producer_epoch=0, base_sequence=0), request(b"b"), request(b"c"))
    [_, *written] = iter_headers(path.read_bytes())
    data = bytearray(path.read_bytes())
    position, header = written[lost]
    data[position + 61 : position + header.size] = bytes(header.size - 61)  # its records never came
    path.write_bytes(data)
    log = open_log(tmp_path)
    assert log.recovery.damage == ()
    assert log.recovery.truncated_bytes == len(data) - position
    kept = [b"before", b"a"][: lost + 1]
    assert values(log) == kept
    assert path.stat().st_size == position >= start
    again = append(log, request(b"a", producer_id=7, producer_epoch=0, base_sequence=0), request(b"d"))
    assert again == ([Stored(1, duplicate=True), Stored(2)] if lost else [Stored(1), Stored(2)])


def test_after_a_later_write_a_damaged_batch_stays_with_its_neighbours(tmp_path: Path) -> None:
    """Negative control: what was followed by another write had been acknowledged, so nothing of it may go."""
    log = open_log(tmp_path)
    append(log, request(b"a"), request(b"b"), request(b"c"))
    append(log, request(b"d"), request(b"e"))
    [path] = tmp_path.glob("*.log")
    data = bytearray(path.read_bytes())
    [(position, header), *_] = iter_headers(bytes(data))
    data[position + header.size - 1] ^= 1
    path.write_bytes(data)
    log = open_log(tmp_path)
    assert log.recovery.truncated_bytes == 0
    assert [(d.start, d.end) for d in log.recovery.damage] == [(position, position + header.size)]
    assert values(log, 1) == [b"b", b"c", b"d", b"e"]


def test_after_a_kill_only_what_follows_the_last_checkpoint_is_scanned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "CHECKPOINT_BATCHES", 10)
    log = open_log(tmp_path)
    for number in range(25):
        append(log, request(b"%d" % number, producer_id=7, producer_epoch=0, base_sequence=number))
        log.sync()
        log.checkpoint()
    starts: list[int] = []
    walk = partition.scan

    def watched(descriptor: int, start: int, next_offset: int) -> object:
        starts.append(next_offset)
        return walk(descriptor, start, next_offset)

    monkeypatch.setattr(partition, "scan", watched)
    log = open_log(tmp_path)
    assert starts == [20]
    assert values(log) == [b"%d" % number for number in range(25)]
    for number in (3, 24):  # both sides of the checkpoint know the producer
        again = append(log, request(b"%d" % number, producer_id=7, producer_epoch=0, base_sequence=number))
        assert isinstance(again[0], DuplicateSequence) or again == [Stored(24, duplicate=True)]
    assert append(log, request(b"new")) == [Stored(25)]


@pytest.mark.parametrize("too_early", [False, True])
def test_a_checkpoint_waits_for_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, too_early: bool) -> None:
    """A power cut may keep a file's new size and lose what was written. Too early a sidecar is the control."""
    monkeypatch.setattr(partition, "CHECKPOINT_BATCHES", 2)
    log = open_log(tmp_path)
    append(log, request(b"a"), request(b"b"))
    log.sync()
    log.checkpoint()
    [path] = tmp_path.glob("*.log")
    synced = path.stat().st_size
    log.append_group([request(b"c"), request(b"d")], NOW)
    if too_early:
        log.checkpoint()
    size = path.stat().st_size
    os.truncate(path, synced)
    os.truncate(path, size)
    log = open_log(tmp_path)
    if too_early:
        with pytest.raises(Corruption):
            values(log)
    else:
        assert values(log) == [b"a", b"b"]
        assert append(log, request(b"e")) == [Stored(2)]


def test_a_failed_partition_saves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "CHECKPOINT_BATCHES", 1)
    log = open_log(tmp_path)
    append(log, request(b"a"))
    log.failed = StorageFailed("the disk is gone")
    log.checkpoint()
    assert not list(tmp_path.glob("*.meta"))
    log.failed = None  # the control
    log.checkpoint()
    assert list(tmp_path.glob("*.meta"))


def test_a_damaged_index_is_rebuilt(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    append(log, request(b"a"), request(b"b"))
    log.close()
    [meta] = tmp_path.glob("*.meta")
    content = bytearray(meta.read_bytes())
    content[-1] ^= 0xFF
    meta.write_bytes(content)
    assert values(open_log(tmp_path)) == [b"a", b"b"]
    meta.unlink(missing_ok=True)
    assert values(open_log(tmp_path)) == [b"a", b"b"]


def test_retention_by_size_and_time_drops_whole_sealed_segments(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=64 * 1024, retention_bytes=100_000)
    for number in range(40):
        append(log, request(b"%04d" % number + b"x" * 8000))
    assert log.expire(NOW) > 0
    assert 0 < log.start_offset < 40
    assert log.size_bytes >= 100_000
    assert values(log, log.start_offset)[0][:4] == b"%04d" % log.start_offset  # type: ignore[index]
    with pytest.raises(OffsetOutOfRange):
        log.read(0, 100)
    log.settings = HubSettings(retention_ms=1000)
    assert log.wants_roll(NOW + 10**9)
    append(log, (memoryview(b""), []))
    log.expire(NOW + 10**9)
    assert log.start_offset == log.end_offset == 40


def test_a_full_disk_leaves_nothing_behind_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path)
    append(log, request(b"a"))
    [path] = tmp_path.glob("*.log")
    before = path.read_bytes()
    write = disk.write_all

    def half(descriptor: int, buffers: list[memoryview], position: int) -> int:
        write(descriptor, [bytes(buffers[0])[:20]], position)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "write_all", half)
    first = {"producer_id": 1, "producer_epoch": 0, "base_sequence": 0}
    results = append(log, request(b"b", **first), request(b"c"))
    assert [type(result) for result in results] == [DiskFull, DiskFull]
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert append(log, request(b"b", **first)) == [Stored(1)]
    assert values(log) == [b"a", b"b"]


def test_after_a_failed_sync_the_partition_takes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path)
    append(log, request(b"a"))

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk, "sync_data", broken)
    with pytest.raises(StorageFailed, match="read-only"):
        log.sync()
    monkeypatch.undo()
    [refused] = append(log, request(b"b"))
    assert isinstance(refused, StorageFailed)
    assert values(log) == [b"a"]


def test_a_raised_start_hides_events_deletes_whole_segments_and_survives(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=64 * 1024)
    for number in range(40):
        append(log, request(b"%04d" % number + b"x" * 8000, timestamp=NOW + number))
    bases = sorted(int(path.stem) for path in tmp_path.glob("*.log"))
    assert log.advance_start(bases[2] + 1) > 0
    assert sorted(int(path.stem) for path in tmp_path.glob("*.log")) == bases[2:]
    assert log.start_offset == bases[2] + 1
    with pytest.raises(OffsetOutOfRange):
        log.read(bases[2], 100)
    assert values(log, log.start_offset)[0][:4] == b"%04d" % log.start_offset  # type: ignore[index]
    assert log.offset_at(0) == (log.start_offset, NOW + log.start_offset)
    log.advance_start(0)
    assert log.start_offset == bases[2] + 1, "a start never goes back"
    log.close()
    chosen = HubSettings(segment_bytes=64 * 1024)
    log = PartitionLog(tmp_path, "hub", 3, chosen, sync=True, now_ms=NOW, log_start=bases[2] + 1)
    assert log.start_offset == bases[2] + 1


def test_the_newest_event_is_one_that_is_kept(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    append(log, request(b"late", timestamp=NOW + 500), request(b"a", b"b", timestamp=NOW), request(b"c", timestamp=NOW))
    assert log.newest() == (0, NOW + 500)
    log.advance_start(1)
    assert log.newest() == (2, NOW + 1)
    log.advance_start(4)
    assert log.newest() is None


def test_a_reader_keeps_a_segment_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=64 * 1024)
    for number in range(20):
        append(log, request(b"%04d" % number + b"x" * 8000))
    for segment in log._segments[:-1]:
        segment.close()
    held = log._segments[0]
    log.advance_start(15)
    assert not held.path.exists()
    assert disk.read_at(held.descriptor, 8, 0) == bytes(8)
    assert not held.path.exists(), "reading must not bring the file back"
