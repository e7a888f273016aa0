"""Any batches: the columns hold what the slow decoder yields, and Arrow holds what the columns do."""

import struct

import numpy as np
from fastcrc import crc32
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.columnar.arrow import to_arrow
from gridwire.columnar.decode import decode
from gridwire.columnar.encode import encode_batch
from gridwire.core import batch

SMALL = st.binary(max_size=40)
FIELD = st.one_of(st.none(), SMALL, st.binary(min_size=100, max_size=400))
HEADERS = st.lists(st.tuples(st.text(max_size=6), st.one_of(st.none(), SMALL)), max_size=3).map(tuple)
TIMES = st.one_of(st.integers(0, 2**42), st.integers(-(2**61), 2**61))


@st.composite
def batches(draw):
    """(bytes, events): batches of all codecs back to back, some with gaps, as compaction leaves them."""
    data, events, offset = b"", [], draw(st.integers(0, 2**40))
    for _ in range(draw(st.integers(1, 4))):
        rows = draw(st.lists(st.tuples(FIELD, FIELD, HEADERS, TIMES, st.integers(1, 300)), min_size=1, max_size=8))
        codec = draw(st.sampled_from(range(5)))
        attributes = draw(st.sampled_from([0, 0, 0, batch.CONTROL, batch.LOG_APPEND_TIME]))
        made = [batch.Event(v, k, h, t) for v, k, h, t, _ in rows]
        gaps = draw(st.booleans())
        whole, deltas = _assemble(made, [gap if gaps else 1 for *_, gap in rows], offset, codec, attributes)
        top = max(event.timestamp for event in made)
        for event, delta in zip(made, deltas, strict=True):
            if not attributes & batch.CONTROL:
                stamped = top if attributes & batch.LOG_APPEND_TIME else event.timestamp
                events.append(batch.Event(event.value, event.key, event.headers, stamped, offset + delta))
        offset += deltas[-1] + 1
        data += whole
    return data, events


def _assemble(events, gaps, offset, codec, attributes):
    deltas = [sum(gaps[: n + 1]) - 1 for n in range(len(gaps))]
    base = events[0].timestamp
    records = b"".join(
        batch._record(event, delta, event.timestamp - base) for event, delta in zip(events, deltas, strict=True)
    )
    whole = batch.assemble(
        batch.compression.compress(codec, records),
        record_count=len(events), base_timestamp=base, max_timestamp=max(event.timestamp for event in events),
        base_offset=offset, attributes=codec | attributes,
    )  # fmt: skip
    struct.pack_into(">i", whole, 23, deltas[-1])
    struct.pack_into(">I", whole, 17, crc32.iscsi(bytes(whole[21:])))
    return bytes(whole), deltas


@settings(max_examples=150, deadline=None)
@given(batches(), st.data())
def test_columns_hold_what_the_slow_decoder_yields(made, data):
    raw, events = made
    first = events[0].offset if events else 0
    from_offset = data.draw(st.one_of(st.just(0), st.integers(first, first + 1500)))
    limit = data.draw(st.one_of(st.none(), st.integers(1, 10)))
    seen, position, offset = [], 0, from_offset
    while position < len(raw):
        decoded = decode(raw, position, len(raw), from_offset=offset, check_crc=True, events_max=limit)
        assert decoded.next_position > position
        seen += [event for columns in decoded.columns for event in columns.events()]
        position, offset = decoded.next_position, decoded.next_offset
    assert seen == [event for event in events if event.offset >= from_offset]


@settings(max_examples=60, deadline=None)
@given(batches())
def test_arrow_holds_what_the_columns_do(made):
    raw, events = made
    rows = []
    for columns in decode(raw, 0, len(raw), from_offset=0).columns:
        table = to_arrow(columns)
        table.validate(full=True)
        times = np.asarray(columns.timestamps).tolist()
        rows += [(r["offset"], t, r["key"], r["value"], r["headers"]) for r, t in zip(_rows(table), times, strict=True)]
    assert rows == [
        (e.offset, e.timestamp, e.key, e.value, [{"key": name, "value": value} for name, value in e.headers])
        for e in events
    ]


def _rows(table):
    return table.drop_columns(["timestamp"]).to_pylist()  # datetime ends at the year 9999, Arrow does not


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD, TIMES), min_size=1, max_size=30), st.sampled_from(range(5)))
def test_the_fast_encoder_makes_the_bytes_of_the_slow_one(rows, codec):
    values, keys, times = zip(*rows, strict=True)
    wanted = batch.encode([batch.Event(v, k, (), t) for v, k, t in rows], codec=codec)
    assert encode_batch(values, keys, times, codec=codec) == wanted
