"""Mapped segments: growth, deletion, replacement, and never a byte past the durable end."""

import gc

import pytest

from gridwire.columnar.reader import SegmentReader, SegmentSpan
from gridwire.core import batch
from gridwire.core.errors import Corruption, OffsetOutOfRange


def make(first, count=5, size=20):
    return bytes(batch.encode([batch.Event(b"%d" % n + b"." * size) for n in range(count)], base_offset=first))


def offsets(decoded):
    return [int(offset) for columns in decoded.columns for offset in columns.offsets]


def span(path, start, end):
    return SegmentSpan(str(path), 0, start, end)


@pytest.fixture
def segment(tmp_path):
    path = tmp_path / "00000000000000000000.log"
    path.write_bytes(make(0))
    return path


def test_a_growing_segment_is_mapped_again(segment):
    reader = SegmentReader()
    size = segment.stat().st_size
    assert offsets(reader.read(span(segment, 0, size), from_offset=0)) == [0, 1, 2, 3, 4]
    with segment.open("ab") as file:
        file.write(make(5))
    grown = segment.stat().st_size
    assert offsets(reader.read(span(segment, size, grown), from_offset=5)) == [5, 6, 7, 8, 9]
    assert reader.mapped == 1


def test_bytes_after_the_durable_end_are_not_read(segment):
    durable = segment.stat().st_size
    with segment.open("ab") as file:
        file.write(make(5))
    decoded = SegmentReader().read(span(segment, 0, durable), from_offset=0)
    assert offsets(decoded) == [0, 1, 2, 3, 4]
    assert decoded.next_position == durable


def test_a_preallocated_segment_is_mapped_once(segment):
    first = segment.stat().st_size
    more = make(5)
    with segment.open("r+b") as file:
        file.truncate(1 << 20)
    reader = SegmentReader()
    before = reader.read(span(segment, 0, first), from_offset=0)
    with segment.open("r+b") as file:
        file.seek(first)
        file.write(more)
    after = reader.read(span(segment, first, first + len(more)), from_offset=5)
    assert offsets(after) == [5, 6, 7, 8, 9]
    assert before.columns[0].data.base is not None
    assert len(before.columns[0].data) == 1 << 20


def test_columns_outlive_deletion_eviction_and_the_reader(segment):
    reader = SegmentReader()
    size = segment.stat().st_size
    columns = reader.read(span(segment, 0, size), from_offset=0).columns[0]
    segment.unlink()
    assert offsets(reader.read(span(segment, 0, size), from_offset=2)) == [2, 3, 4]
    reader.close()
    del reader
    gc.collect()
    assert columns.value(4) == b"4" + b"." * 20


def test_a_segment_deleted_before_it_was_mapped_is_out_of_range(tmp_path):
    with pytest.raises(OffsetOutOfRange, match="retention"):
        SegmentReader().read(span(tmp_path / "gone.log", 0, 10), from_offset=0, hub="h", partition=1)


def test_a_file_of_the_same_name_is_another_file(segment):
    reader = SegmentReader()
    size = segment.stat().st_size
    reader.read(span(segment, 0, size), from_offset=0)
    replacement = segment.with_suffix(".new")
    replacement.write_bytes(make(100))
    replacement.replace(segment)
    assert offsets(reader.read(span(segment, 0, size), from_offset=0)) == [100, 101, 102, 103, 104]


@pytest.mark.parametrize("mapped_before", [False, True])
def test_a_file_shorter_than_what_was_durable_is_corrupt(segment, mapped_before):
    reader = SegmentReader()
    size = segment.stat().st_size
    if mapped_before:
        reader.read(span(segment, 0, size), from_offset=0)
        with segment.open("r+b") as file:
            file.truncate(size - 1)
    end = size if mapped_before else size + 1
    with pytest.raises(Corruption, match="shorter") as caught:
        reader.read(span(segment, 0, end), from_offset=0, hub="h", partition=2)
    assert (caught.value.hub, caught.value.partition, caught.value.segment) == ("h", 2, segment.name)


def test_an_empty_file_has_no_events(tmp_path):
    path = tmp_path / "0.log"
    path.touch()
    assert SegmentReader().read(span(path, 0, 0), from_offset=7).next_offset == 7


def test_maps_are_bounded_and_the_oldest_goes_first(tmp_path):
    reader = SegmentReader(maps_max=2)
    paths = [tmp_path / f"{number}.log" for number in range(3)]
    for path in paths:
        path.write_bytes(make(0))
    for path in (*paths, paths[1]):
        assert len(offsets(reader.read(span(path, 0, path.stat().st_size), from_offset=0))) == 5
    assert reader.mapped == 2
    reader.keep({str(paths[1])})
    assert reader.mapped == 1


def test_consecutive_spans_read_as_one(tmp_path):
    spans = []
    for first in (0, 5, 10):
        path = tmp_path / f"{first}.log"
        path.write_bytes(make(first))
        spans.append(span(path, 0, path.stat().st_size))
    reader = SegmentReader(check_crc=True)
    decoded = reader.read_all(spans, from_offset=3)
    assert offsets(decoded) == list(range(3, 15))
    assert decoded.next_offset == 15
    assert offsets(reader.read_all(spans, from_offset=3, events_max=2)) == [3, 4]
    assert reader.read_all([], from_offset=3).next_offset == 3


def test_damage_in_a_later_span_is_raised_once_it_is_first(tmp_path):
    spans = []
    for first in (0, 5):
        path = tmp_path / f"{first}.log"
        path.write_bytes(make(first))
        spans.append(span(path, 0, path.stat().st_size))
    (tmp_path / "5.log").write_bytes(b"\xff" * spans[1].end)
    reader = SegmentReader()
    decoded = reader.read_all(spans, from_offset=0)
    assert (offsets(decoded), decoded.next_offset) == ([0, 1, 2, 3, 4], 5)
    with pytest.raises(Corruption):
        reader.read_all(spans, from_offset=5)


def test_the_crc_is_checked_when_asked(segment):
    damaged = bytearray(segment.read_bytes())
    damaged[-3] ^= 1
    segment.write_bytes(damaged)
    whole = span(segment, 0, len(damaged))
    assert len(offsets(SegmentReader().read(whole, from_offset=0))) == 5
    with pytest.raises(Corruption, match="CRC"):
        SegmentReader(check_crc=True).read(whole, from_offset=0)
