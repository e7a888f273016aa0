"""Record batches to columns: what is delivered, what is left out, and how damage is named."""

import struct

import numpy as np
import pytest
from fastcrc import crc32

from gridwire.columnar import decode as decoding
from gridwire.columnar.decode import decode
from gridwire.core import batch, compression
from gridwire.core.errors import Corruption

PLACE = {"hub": "readings", "partition": 3, "segment": "00000000000000000000.log"}


def make(first, count, **options):
    events = [
        batch.Event(b"value %d" % n, b"key %d" % n, (("h", b"x"),) if n % 4 == 0 else (), 1_000 + n)
        for n in range(first, first + count)
    ]
    return bytes(batch.encode(events, base_offset=first, **options))


def oracle(data, from_offset=0):
    return [
        event
        for position, header in batch.iter_headers(data)
        if not header.attributes & batch.CONTROL
        for event in batch.decode(data, position)
        if event.offset >= from_offset
    ]


def events(decoded):
    return [event for columns in decoded.columns for event in columns.events()]


def resealed(data, **fields):
    """A single batch with header fields rewritten and its CRC made right again."""
    out = bytearray(data)
    for place, form, value in fields.values():
        struct.pack_into(form, out, place, value)
    struct.pack_into(">I", out, 17, crc32.iscsi(bytes(out[21:])))
    return bytes(out)


def test_plain_batches_share_one_column_set_over_the_data_itself():
    data = np.frombuffer(make(0, 10) + make(10, 10), np.uint8)
    decoded = decode(data, 0, len(data), from_offset=0)
    assert len(decoded.columns) == 1
    assert np.shares_memory(decoded.columns[0].data, data)
    assert events(decoded) == oracle(data.tobytes())
    assert (decoded.next_offset, decoded.next_position) == (20, len(data))


@pytest.mark.parametrize("codec", range(5), ids=compression.NAMES)
def test_every_codec_gives_the_events_of_the_slow_decoder(codec):
    data = make(0, 50, codec=codec) + make(50, 50, codec=codec) + make(100, 5)
    decoded = decode(data, 0, len(data), from_offset=0, check_crc=True)
    assert events(decoded) == oracle(data)
    assert decoded.events == 105


def test_compressed_neighbours_share_an_arena_until_it_is_large(monkeypatch):
    data = b"".join(make(first, 10, codec=compression.LZ4) for first in range(0, 100, 10))
    assert len(decode(data, 0, len(data), from_offset=0).columns) == 1
    monkeypatch.setattr(decoding, "ARENA_BYTES", 1)
    split = decode(data, 0, len(data), from_offset=0)
    assert len(split.columns) == 10
    assert events(split) == oracle(data)


@pytest.mark.parametrize("from_offset", [0, 1, 9, 10, 11, 25, 29, 30, 99])
def test_events_before_the_offset_are_left_out(from_offset):
    data = make(0, 10) + make(10, 10, codec=compression.ZSTD) + make(20, 10)
    decoded = decode(data, 0, len(data), from_offset=from_offset)
    assert events(decoded) == oracle(data, from_offset)
    assert decoded.next_offset == max(30, from_offset)
    assert all(len(columns) for columns in decoded.columns)


def test_control_batches_are_passed_over():
    data = make(0, 3) + make(3, 1, attributes=batch.CONTROL | batch.TRANSACTIONAL) + make(4, 3)
    decoded = decode(data, 0, len(data), from_offset=0)
    assert [event.offset for event in events(decoded)] == [0, 1, 2, 4, 5, 6]
    assert decoded.next_offset == 7


def test_append_time_replaces_the_events_own():
    stamped = bytearray(make(0, 3))
    batch.set_append_time(stamped, 77_000)
    data = bytes(stamped) + make(3, 1)
    decoded = decode(data, 0, len(data), from_offset=0, check_crc=True)
    assert [event.timestamp for event in events(decoded)] == [77_000, 77_000, 77_000, 1_003]


def test_a_compacted_batch_keeps_its_gaps():
    whole = make(0, 5)
    records = [batch._record(batch.Event(b"v%d" % delta, timestamp=5), delta, 0) for delta in (1, 4, 6)]
    data = batch.assemble(b"".join(records), record_count=3, base_timestamp=5, max_timestamp=5, base_offset=5)
    data = resealed(data, last_delta=(23, ">i", 9))
    following = make(15, 1)
    decoded = decode(whole + data + following, 0, len(whole + data + following), from_offset=9, check_crc=True)
    assert [event.offset for event in events(decoded)] == [9, 11, 15]
    assert decoded.next_offset == 16


def test_a_batch_emptied_by_compaction_moves_the_offset():
    empty = bytearray(batch.assemble(b"", record_count=0, base_timestamp=0, max_timestamp=0, base_offset=4))
    data = resealed(empty, last_delta=(23, ">i", 5))
    decoded = decode(data, 0, len(data), from_offset=0)
    assert (decoded.columns, decoded.next_offset, decoded.next_position) == ([], 10, len(data))


def test_a_cut_off_last_batch_ends_the_walk():
    first, second = make(0, 4), make(4, 4)
    for cut in range(len(second)):
        decoded = decode(first + second[:cut], 0, len(first) + cut, from_offset=0, **PLACE)
        assert (decoded.next_offset, decoded.next_position) == (4, len(first))
        assert events(decoded) == oracle(first)


def test_nothing_after_the_end_is_looked_at():
    data = make(0, 4) + b"\xff" * 200
    end = len(data) - 200
    assert decode(data, 0, end, from_offset=0).next_position == end


def test_an_event_limit_stops_between_batches_and_the_walk_goes_on_from_there():
    data = b"".join(make(first, 10, codec=first // 10 % 2 * compression.GZIP) for first in range(0, 100, 10))
    seen, position, offset, rounds = [], 0, 0, 0
    while position < len(data):
        decoded = decode(data, position, len(data), from_offset=offset, events_max=25)
        assert 0 < decoded.events <= 25
        seen += events(decoded)
        position, offset, rounds = decoded.next_position, decoded.next_offset, rounds + 1
    assert seen == oracle(data)
    assert rounds == 5


def test_a_first_batch_above_the_limit_is_delivered_whole():
    data = make(0, 10) + make(10, 1)
    assert decode(data, 0, len(data), from_offset=0, events_max=3).events == 10


def test_many_small_batches_take_several_tables(monkeypatch):
    monkeypatch.setattr(decoding, "TABLE_ROWS_MAX", 4)
    data = b"".join(make(first, 1) for first in range(11))
    decoded = decode(data, 0, len(data), from_offset=2)
    assert [len(columns) for columns in decoded.columns] == [4, 4, 1]
    assert events(decoded) == oracle(data, 2)
    assert decoded.next_position == len(data)


def test_decompressed_bytes_of_one_call_are_bounded(monkeypatch):
    monkeypatch.setattr(decoding, "ARENA_BYTES", 1)
    monkeypatch.setattr(decoding, "DECOMPRESSED_BYTES_MAX", 600)
    data = b"".join(make(first, 10, codec=compression.ZSTD) for first in range(0, 100, 10))
    seen, position, offset, rounds = [], 0, 0, 0
    while position < len(data):
        decoded = decode(data, position, len(data), from_offset=offset)
        seen += events(decoded)
        position, offset, rounds = decoded.next_position, decoded.next_offset, rounds + 1
    assert seen == oracle(data)
    assert rounds > 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("length", (8, ">i", 30)), "length is impossible"),
        (("length", (8, ">i", -1)), "length is impossible"),
        (("length", (8, ">i", 2**31 - 1)), "length is impossible"),
        (("magic", (16, ">b", 1)), "not of format v2"),
        (("count", (57, ">i", -1)), "more records"),
        (("count", (57, ">i", 2**31 - 1)), "more records"),
        (("delta", (23, ">i", -1)), "more records"),
        (("offset", (0, ">q", -1)), "offset is negative"),
        (("offset", (0, ">q", 3)), "before the end of the batch in front"),
        (("codec", (21, ">h", 5)), "unknown compression codec"),
        (("record", (61, ">B", 0x7F)), "malformed"),
    ],
)
def test_damage_is_named_once_nothing_is_in_front_of_it(change, reason):
    name, field = change
    good, bad = make(0, 4), resealed(make(4, 4), **{name: field})
    data = good + bad
    first = decode(data, 0, len(data), from_offset=0, **PLACE)
    assert events(first) == oracle(good)
    assert (first.next_offset, first.next_position) == (4, len(good))
    start = 0 if name == "offset" else first.next_position
    with pytest.raises(Corruption, match=reason) as caught:
        decode(data, start, len(data), from_offset=4, **PLACE)
    error = caught.value
    assert (error.hub, error.partition, error.segment, error.position) == (*PLACE.values(), len(good))


def test_a_malformed_record_is_named_by_batch_and_place_inside():
    records = batch._record(batch.Event(b"good"), 0, 0) + b"\x10" + b"\xff" * 8
    for codec, inside in ((compression.NONE, batch.HEADER_BYTES + 13), (compression.LZ4, 13)):
        data = batch.assemble(
            compression.compress(codec, records),
            record_count=2, base_timestamp=0, max_timestamp=0, attributes=codec,
        )  # fmt: skip
        with pytest.raises(Corruption, match=f"record at byte {len(records) - 9 + inside - 13} of its") as caught:
            decode(data, 0, len(data), from_offset=0)
        assert caught.value.position == 0


@pytest.mark.parametrize("deltas", [(1, 0), (0, 0), (0, 2), (-1, 0)], ids=str)
def test_offsets_that_do_not_ascend_inside_their_batch_are_damage(deltas):
    records = b"".join(batch._record(batch.Event(b"v"), delta, 0) for delta in deltas)
    data = batch.assemble(records, record_count=2, base_timestamp=0, max_timestamp=0)
    with pytest.raises(Corruption, match="malformed"):
        decode(data, 0, len(data), from_offset=0)


def test_a_timestamp_beyond_64_bits_is_damage():
    records = batch._record(batch.Event(b"v"), 0, 2**62)
    data = batch.assemble(records, record_count=1, base_timestamp=2**62, max_timestamp=0)
    with pytest.raises(Corruption, match="malformed"):
        decode(data, 0, len(data), from_offset=0)


@pytest.mark.parametrize("codec", [compression.NONE, compression.ZSTD])
def test_a_crc_that_does_not_match_is_found_only_when_asked(codec):
    good, bad = make(0, 4), bytearray(make(4, 4, codec=codec))
    bad[17] ^= 1
    data = good + bytes(bad) + make(8, 1)
    assert decode(data, 0, len(data), from_offset=0).events == 9
    assert decode(data, 0, len(data), from_offset=0, check_crc=True).next_offset == 4
    with pytest.raises(Corruption, match="CRC-32C") as caught:
        decode(data, len(good), len(data), from_offset=4, check_crc=True, **PLACE)
    assert caught.value.position == len(good)


@pytest.mark.parametrize("codec", [compression.NONE, compression.SNAPPY])
def test_damaged_batches_can_be_left_out_and_are_reported(codec):
    bad = bytearray(make(4, 4, codec=codec))
    bad[70] ^= 0xFF
    data = make(0, 4) + bytes(bad) + make(8, 4, codec=codec)
    decoded = decode(data, 0, len(data), from_offset=0, check_crc=True, skip_damaged=True, **PLACE)
    assert [event.offset for event in events(decoded)] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert [error.position for error in decoded.damaged] == [len(make(0, 4))]
    assert (decoded.next_offset, decoded.next_position) == (12, len(data))


def test_a_decompression_bomb_is_damage():
    bomb = compression.compress(compression.ZSTD, bytes(20 * 1024 * 1024))
    data = batch.assemble(bomb, record_count=1, base_timestamp=0, max_timestamp=0, attributes=compression.ZSTD)
    with pytest.raises(Corruption, match="bomb"):
        decode(data, 0, len(data), from_offset=0)


def test_a_compressed_batch_cannot_claim_more_records_than_it_has_room_for():
    data = batch.assemble(
        compression.compress(compression.LZ4, b"\0" * 20),
        record_count=10_000_000, base_timestamp=0, max_timestamp=0, attributes=compression.LZ4,
    )  # fmt: skip
    with pytest.raises(Corruption, match="claims more records"):
        decode(data, 0, len(data), from_offset=0)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (0, 10**9), (6, 5)])
def test_a_range_outside_of_the_data_is_refused(start, end):
    with pytest.raises(ValueError, match="outside"):
        decode(b"0123456789", start, end, from_offset=0)


def test_columns_can_be_cut_and_picked():
    data = make(0, 10)
    columns = decode(data, 0, len(data), from_offset=0).columns[0]
    every = list(columns.events())
    assert list(columns.slice(2, 5).events()) == every[2:5]
    assert list(columns.take(np.array([7, 1])).events()) == [every[7], every[1]]
    assert list(columns.take(columns.offsets % 2 == 1).events()) == every[1::2]


def test_nulls_empties_and_long_headers_come_out_as_they_went_in():
    wanted = [
        batch.Event(None, None),
        batch.Event(b"", b""),
        batch.Event(b"x" * 70_000, b"k" * 300, (("naïve", None), ("", b""), ("a" * 200, b"b" * 20_000))),
    ]
    data = batch.encode(wanted)
    found = list(decode(data, 0, len(data), from_offset=0).columns[0].events())
    assert [(event.value, event.key, event.headers) for event in found] == [
        (event.value, event.key, event.headers) for event in wanted
    ]
