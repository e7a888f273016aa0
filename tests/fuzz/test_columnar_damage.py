"""Damaged segments and rows against an unreadable page: an answer or Corruption, and not one byte read outside.

The data ends exactly where a page begins that must not be touched; a kernel that reads past it takes the process down.
"""

import ctypes
import mmap
import random
import sys

import numpy as np
import pytest

from gridwire.columnar.arrow import to_arrow
from gridwire.columnar.decode import decode
from gridwire.columnar.encode import encode_values
from gridwire.columnar.json_columns import JsonDecoder, JsonField
from gridwire.columnar.text_index import TextIndex
from gridwire.core import batch, compression
from gridwire.core.errors import Corruption

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mprotect")

PAGE = mmap.PAGESIZE


class Fence:
    """Memory with an unreadable page behind it."""

    def __init__(self, room=4 * PAGE):
        self.room = room
        self.map = mmap.mmap(-1, room + PAGE)
        self.bytes = np.frombuffer(self.map, np.uint8)[:room]
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        assert protect(self.bytes.ctypes.data + room, PAGE, 0) == 0

    def hold(self, data):
        """`data` as an array that ends at the fence."""
        held = self.bytes[self.room - len(data) :]
        held[:] = np.frombuffer(bytes(data), np.uint8)
        return held


@pytest.fixture(scope="module")
def fence():
    return Fence()


def make(first, codec=compression.NONE, headers=True):
    return bytes(
        batch.encode(
            [
                batch.Event(
                    b'{"value":%d.5}' % n, b"k%d" % n if n % 2 else None, (("n", b"v"),) if headers else (), 10**12 + n
                )
                for n in range(4)
            ],
            base_offset=first,
            codec=codec,
        )
    )


def walk(data):
    """Decode to the end as a reader would; (events, damaged)."""
    events, position, offset = [], 0, 0
    while True:
        try:
            decoded = decode(data, position, len(data), from_offset=offset)
        except Corruption as error:
            assert 0 <= error.position < len(data)
            return events, True
        for columns in decoded.columns:
            to_arrow(columns)
            events += columns.events()
        if decoded.next_position == position or not decoded.columns:
            return events, False
        position, offset = decoded.next_position, decoded.next_offset


def test_the_fence_is_real():
    """Negative control: reading one byte past it is a crash, so the other tests mean something."""
    import subprocess

    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import importlib.util as u\n"
        "spec = u.spec_from_file_location('fenced', sys.argv[2])\n"
        "m = u.module_from_spec(spec); spec.loader.exec_module(m)\n"
        "import ctypes; held = m.Fence().hold(b'abc'); ctypes.string_at(held.ctypes.data, 4)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, "", __file__], capture_output=True, check=False, timeout=60)
    assert done.returncode < 0


@pytest.mark.parametrize("codec", range(5), ids=compression.NAMES)
def test_every_truncation_is_a_clean_end(fence, codec):
    data = make(0, codec) + make(4, codec)
    whole, _ = walk(fence.hold(data))
    assert len(whole) == 8
    for size in range(len(data)):
        events, damaged = walk(fence.hold(data[:size]))
        assert not damaged
        assert events == whole[: 4 if size >= len(data) - len(make(4, codec)) else 0]


def test_every_flip_of_a_bit_is_caught_by_the_crc_or_outside_of_it(fence):
    data = make(0)
    whole, _ = walk(data)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        held = fence.hold(flipped)
        walk(held)
        try:
            decoded = decode(held, 0, len(held), from_offset=0, check_crc=True)
        except Corruption:
            continue
        events = [event for columns in decoded.columns for event in columns.events()]
        # The base offset and the leader epoch lie outside of the CRC; a longer length looks like a cut-off batch.
        if bit // 8 < 8:
            assert [event.value for event in events] == [event.value for event in whole]
        elif bit // 8 < 12:
            assert events == []
        else:
            assert 12 <= bit // 8 < 16
            assert events == whole


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_never_reads_outside(fence, seed):
    rng = random.Random(seed)
    for _ in range(400):
        data = bytearray(b"".join(make(first, rng.choice([0, 0, 0, 1, 2, 3, 4])) for first in (0, 4, 8)))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data))
            data[place] = rng.choice([0, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        walk(fence.hold(data))


@pytest.mark.parametrize("seed", range(4))
def test_random_records_never_read_outside(fence, seed):
    """Records of random varints behind a sound header: the deepest part of the kernel, without luck."""
    rng = random.Random(seed)
    for _ in range(1500):
        section = bytes(rng.choice([0, 1, 2, 3, 12, 14, 16, 0x7F, 0x80, 0xFF]) for _ in range(rng.randint(7, 60)))
        data = batch.assemble(
            section, record_count=rng.randint(1, len(section) // 7), base_timestamp=0, max_timestamp=0
        )
        walk(fence.hold(data))


def test_random_bytes(fence):
    rng = random.Random(1)
    for size in range(300):
        walk(fence.hold(rng.randbytes(size)))


FIELDS = [
    JsonField("usage_point", "text"),
    JsonField("ts_end", "timestamp_us"),
    JsonField("value", "decimal"),
    JsonField("ok", "bool"),
]
ROW = (
    '{"usage_point":"LV1.101 Käse","ts_end":"2016-01-01T00:15:00Z",'
    '"value":-12.5e-1,"ok":true,"x":[{"a":"\\u00e4\\n"},null]}'
).encode()


def one(decoder, held, start=0):
    return decoder.decode_spans(held, np.array([start]), np.array([len(held) - start], np.int32))


def test_rows_that_end_anywhere_are_not_read_past(fence):
    decoder = JsonDecoder(FIELDS)
    assert one(decoder, fence.hold(ROW)).status.tolist() == [0]
    for size in range(len(ROW)):
        assert one(decoder, fence.hold(ROW[:size])).status.tolist() == [2]
        assert one(decoder, fence.hold(ROW)).status.tolist() == [0]
    for start in range(1, len(ROW)):
        one(decoder, fence.hold(ROW), start)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_rows_are_not_read_past(fence, seed):
    rng = random.Random(seed)
    decoder = JsonDecoder(FIELDS)
    for _ in range(3000):
        row = bytearray(ROW[: rng.randint(1, len(ROW))])
        for _ in range(rng.randint(0, 3)):
            row[rng.randrange(len(row))] = rng.choice(b'"\\{}[],:0-.eE \x00\x80\xc3\xe2\xf0\xfftnf')
        one(decoder, fence.hold(row))


def test_short_texts_at_the_very_end(fence):
    index = TextIndex(["x" * size for size in range(40)])
    for size in range(40):
        held = fence.hold(b"x" * size)
        assert index.lookup(held, np.zeros(1, np.int64), np.array([size], np.int32)).tolist() == [size]
        spans = (held, np.zeros(1, np.int64), np.array([size], np.int32))
        assert encode_values(spans) == encode_values([b"x" * size])
