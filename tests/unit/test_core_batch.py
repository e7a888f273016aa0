"""The batch format: encoding, checking, stamping, and refusing what is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridwire.core import compression
from gridwire.core.batch import (
    Event,
    check_produced,
    crc_matches,
    decode,
    empty,
    empty_until,
    encode,
    iter_headers,
    read_header,
    set_append_time,
    stamp,
    whole_size,
)
from gridwire.core.errors import GridwireError, InvalidBatch, MessageTooLarge

EVENTS = st.lists(
    st.builds(
        Event,
        value=st.none() | st.binary(max_size=40),
        key=st.none() | st.binary(max_size=10),
        headers=st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3).map(tuple),
        timestamp=st.integers(0, 2**41),
    ),
    min_size=1,
    max_size=20,
)


@given(events=EVENTS, codec=st.integers(0, 4), base=st.integers(0, 2**40))
def test_what_is_encoded_is_decoded(events: list[Event], codec: int, base: int) -> None:
    data = encode(events, codec=codec, base_offset=base)
    found = list(decode(data))
    assert [(e.value, e.key, e.headers, e.timestamp) for e in found] == [
        (e.value, e.key, e.headers, e.timestamp) for e in events
    ]
    assert [e.offset for e in found] == list(range(base, base + len(events)))
    assert check_produced(data)[0].max_timestamp == max(e.timestamp for e in events)


def test_lz4_blocks_do_not_refer_to_each_other() -> None:
    """Frame descriptor: bits 7-6 the version, 01; bit 5 independent blocks. Java's reader refuses all else."""
    data = b"0123456789" * 30_000
    frame = compression.compress(compression.LZ4, data)
    assert frame[:4] == bytes.fromhex("04224d18")
    assert frame[4] & 0b1110_0000 == 0b0110_0000
    assert bytes(compression.decompress(compression.LZ4, frame)) == data


def test_empty_batches_are_gone_through_up_to_the_first_event() -> None:
    gone = bytes(empty(5, 10) + empty(15, 1))
    event = bytes(encode([Event(b"a")], base_offset=16))
    assert empty_until(gone) == 16
    assert empty_until(memoryview(gone)[61:]) == 16
    assert empty_until(b"") is None
    assert empty_until(event) is None
    assert empty_until(gone + event) is None


def test_stamping_leaves_the_crc_alone() -> None:
    data = encode([Event(b"a"), Event(b"b")])
    stamp(data, 77)
    header = read_header(data)
    assert header.base_offset == 77
    assert crc_matches(data, header)


def test_append_time_rewrites_the_crc() -> None:
    data = encode([Event(b"a", timestamp=5)])
    set_append_time(data, 99)
    assert crc_matches(data, read_header(data))
    assert next(iter(decode(data))).timestamp == 99


def test_every_flipped_bit_after_the_crc_field_is_noticed() -> None:
    data = encode([Event(b"hello", b"k", (("h", b"v"),), 1)])
    for position in range(21, len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[position] ^= 1 << bit
            with pytest.raises(GridwireError):
                check_produced(broken)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        for header in check_produced(data):
            assert header.size <= len(data)
    except (InvalidBatch, MessageTooLarge):
        pass


def test_old_formats_are_told_what_to_do() -> None:
    data = bytearray(encode([Event(b"a")]))
    data[16] = 1
    with pytest.raises(InvalidBatch, match="v2"):
        check_produced(data)


def test_a_length_above_the_limit_is_refused_before_anything_is_read() -> None:
    with pytest.raises(MessageTooLarge):
        whole_size(b"\0" * 8 + b"\x7f\xff\xff\xff")


def test_iteration_stops_at_a_cut_off_batch() -> None:
    data = encode([Event(b"a")]) + encode([Event(b"b")], base_offset=1)
    assert [h.base_offset for _, h in iter_headers(data)] == [0, 1]
    assert [h.base_offset for _, h in iter_headers(data[:-1])] == [0]


@pytest.mark.parametrize("codec", [compression.GZIP, compression.SNAPPY, compression.LZ4, compression.ZSTD])
def test_a_decompression_bomb_is_refused(codec: int) -> None:
    bomb = compression.compress(codec, b"\0" * (40 * 1024 * 1024))
    with pytest.raises(MessageTooLarge):
        compression.decompress(codec, bomb, 20 * 1024 * 1024)


@pytest.mark.parametrize("codec", [compression.GZIP, compression.SNAPPY, compression.LZ4, compression.ZSTD])
@given(data=st.binary(max_size=64))
def test_rubbish_does_not_decompress(codec: int, data: bytes) -> None:
    try:
        compression.decompress(codec, data)
    except (InvalidBatch, MessageTooLarge):
        pass


def test_xerial_snappy_blocks_are_joined() -> None:
    blocks = [compression.compress(compression.SNAPPY, part) for part in (b"a" * 100, b"b" * 50)]
    framed = b"\x82SNAPPY\x00" + b"\0\0\0\1\0\0\0\1" + b"".join(len(b).to_bytes(4, "big") + b for b in blocks)
    assert bytes(compression.decompress(compression.SNAPPY, framed)) == b"a" * 100 + b"b" * 50
    with pytest.raises(InvalidBatch):
        compression.decompress(compression.SNAPPY, framed[:-3])
