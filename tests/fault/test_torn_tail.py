"""A segment ends anywhere inside its last batches, or its last sectors are zeros or rubbish: whole batches stay.

Every length between the end and the start of the last three batches is tried, as the hub finds it after a kill and
after a clean stop; so is every loss of single sectors of them. What is served is always a run of whole batches from
the beginning, and the next event goes right behind it.

Negative control: a recovery that believes lengths without looking at the CRC serves what was never written.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from gridwire.core.batch import Event, check_produced, crc_matches, decode, encode, iter_headers
from gridwire.core.errors import Corruption
from gridwire.core.settings import HubSettings
from gridwire.log import scan
from gridwire.log.partition import PartitionLog, Stored

SEED = int(os.environ.get("GRIDWIRE_TEST_SEED", "20160101"))
NOW = 1_700_000_000_000
SECTOR = 512


def open_log(directory: Path, segment_bytes: int = 128 * 1024 * 1024) -> PartitionLog:
    return PartitionLog(directory, "hub", 0, HubSettings(segment_bytes=segment_bytes), sync=False, now_ms=NOW)


def append(log: PartitionLog, data: bytearray) -> object:
    [outcome] = log.append_group([(memoryview(data), check_produced(data))], NOW)
    log.publish()
    return outcome


def batch(number: int, size: int = 60) -> bytearray:
    dice = random.Random(SEED + number)
    events = [Event(b"%d/%d|" % (number, row) + dice.randbytes(size)) for row in range(3)]
    return encode(events, codec=number % 5)


def values(log: PartitionLog) -> list[bytes | None]:
    found: list[bytes | None] = []
    offset = log.start_offset
    while offset < log.end_offset:
        data = log.read(offset, 1 << 20)
        for position, header in iter_headers(data):
            assert crc_matches(data, header, position)
            found += [event.value for event in decode(data, position)]
            offset = header.next_offset
    return found


class Tail:
    """A log of eight batches; the last three are damaged again and again."""

    def __init__(self, directory: Path, *, clean: bool, size: int = 60) -> None:
        self.directory = directory
        log = open_log(directory)
        self.expected: list[list[bytes | None]] = []
        for number in range(8):
            data = batch(number, size)
            append(log, data)
            self.expected.append([event.value for event in decode(data)])
        if clean:
            log.close()
        for segment in log._segments:
            segment.close()
        [self.path] = directory.glob("*.log")
        self.content = self.path.read_bytes()
        self.ends = [position + header.size for position, header in iter_headers(self.content)]
        self.files = {path.name: path.read_bytes() for path in directory.iterdir()}

    def check(self, content: bytes, whole: int) -> None:
        """Open it with this content; `whole` batches must be left, and the next event must follow them."""
        for name, data in self.files.items():
            (self.directory / name).write_bytes(data)
        self.path.write_bytes(content)
        log = open_log(self.directory)
        kept = [value for each in self.expected[:whole] for value in each]
        assert values(log) == kept
        assert log.recovery.truncated_bytes == len(content) - ([0, *self.ends][whole])
        assert append(log, batch(99)) == Stored(len(kept))
        assert values(log)[: len(kept)] == kept
        for segment in log._segments:
            segment.close()


@pytest.mark.parametrize("clean", [False, True], ids=["killed", "stopped"])
def test_every_length_of_the_last_three_batches(tmp_path: Path, clean: bool) -> None:
    tail = Tail(tmp_path / "0", clean=clean)
    for size in range(tail.ends[4], len(tail.content)):
        tail.check(tail.content[:size], sum(end <= size for end in tail.ends))


@pytest.mark.parametrize("rubbish", [False, True], ids=["zeros", "rubbish"])
def test_every_length_with_sectors_of_something_else_behind(tmp_path: Path, rubbish: bool) -> None:
    tail = Tail(tmp_path / "0", clean=False)
    dice = random.Random(SEED)
    for size in range(tail.ends[4], len(tail.content), 3):
        rest = len(tail.content) - size
        content = tail.content[:size] + (dice.randbytes(rest) if rubbish else bytes(rest))
        tail.check(content, sum(tail.content.startswith(content[:end]) for end in tail.ends))


def test_lost_sectors_of_the_last_batches_never_show(tmp_path: Path) -> None:
    """Sectors of an unsynced write reach a disk in any order. A batch behind a hole is kept, the hole is refused."""
    tail = Tail(tmp_path / "0", clean=False, size=1500)
    dice = random.Random(SEED)
    for _ in range(300):
        content = bytearray(tail.content)
        for start in range(tail.ends[4], len(content), SECTOR):
            if dice.random() < 0.2:
                content[start : start + SECTOR] = bytes(len(content[start : start + SECTOR]))
        tail.path.write_bytes(content)
        log = open_log(tail.directory)
        good = [
            row
            for row, (start, end) in enumerate(zip([0, *tail.ends], tail.ends, strict=False))
            if content[start:end] == tail.content[start:end]
        ]
        for row, each in enumerate(tail.expected):
            if row in good:
                assert [e.value for e in decode(log.read(3 * row, 1))] == each
            elif 3 * row < log.end_offset:
                with pytest.raises(Corruption):
                    log.read(3 * row, 1)
        assert log.end_offset == 3 * (max(good) + 1)
        for segment in log._segments:
            segment.close()


def test_a_sealed_segment_without_its_end_is_refused_not_skipped(tmp_path: Path) -> None:
    written = tmp_path / "written"
    log = open_log(written, 64 * 1024)
    count = 0
    while len(list(written.glob("*.log"))) < 3:
        append(log, batch(count, 4000))
        count += 1
    log.close()
    [_, middle, last] = sorted(written.glob("*.log"))
    *_, (position, header) = iter_headers(middle.read_bytes())
    for number, cut in enumerate((1, header.size - 1, header.size)):
        copy = Path(shutil.copytree(written, tmp_path / str(number)))
        os.truncate(copy / middle.name, position + header.size - cut)
        log = open_log(copy, 64 * 1024)
        assert len(log.recovery.damage) == 1
        assert log.recovery.truncated_bytes == 0
        assert log.read(header.base_offset - 3, 1)
        for offset in range(header.base_offset, header.next_offset):
            with pytest.raises(Corruption):
                log.read(offset, 1)
        assert next(e.offset for e in decode(log.read(int(last.stem), 1))) == int(last.stem)


def test_an_event_that_carries_a_batch_is_not_mistaken_for_one(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    append(log, batch(0))
    inner = bytes(encode([Event(b"never written as such")], base_offset=4))
    append(log, encode([Event(b"x"), Event(inner)]))
    append(log, batch(2))
    for segment in log._segments:
        segment.close()
    [path] = tmp_path.glob("*.log")
    content = bytearray(path.read_bytes())
    [_, (position, header), _] = iter_headers(bytes(content))
    content[position + header.size - 1] ^= 1
    path.write_bytes(content)
    log = open_log(tmp_path)
    assert [(d.start, d.end) for d in log.recovery.damage] == [(position, position + header.size)]
    with pytest.raises(Corruption):
        log.read(4, 1)
    assert log.end_offset == 8


def test_control_lengths_alone_are_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "crc_matches", lambda data, header: len(data) >= 61)
    tail = Tail(tmp_path / "0", clean=False)
    with pytest.raises((AssertionError, Corruption)):
        for size in range(tail.ends[4], len(tail.content)):
            tail.check(tail.content[:size] + bytes(len(tail.content) - size), sum(end <= size for end in tail.ends))
