"""Columns to Arrow."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from gridwire.columnar.arrow import BINARY_BYTES_MAX, EVENTS, binary, to_arrow, to_arrow_batches
from gridwire.columnar.columns import EventColumns
from gridwire.columnar.decode import decode
from gridwire.core import batch


def columns_of(events):
    data = batch.encode(events)
    return decode(data, 0, len(data), from_offset=0).columns[0]


EVENTS_OF_ALL_KINDS = [
    batch.Event(b"v0", b"k0", (), 1),
    batch.Event(None, b"", (("a", b"1"), ("a", None), ("ü", b"")), 2),
    batch.Event(b"", None, (("b", b"x" * 200),), 1_700_000_000_123),
    batch.Event(b"x" * 1_000, b"y" * 129, (), -5),
]


def test_events_of_all_kinds_come_out_in_the_published_schema():
    rows = to_arrow(columns_of(EVENTS_OF_ALL_KINDS))
    rows.validate(full=True)
    assert rows.schema == EVENTS
    assert rows.column("offset").to_pylist() == [0, 1, 2, 3]
    assert rows.column("timestamp").cast(pa.int64()).to_pylist() == [1, 2, 1_700_000_000_123, -5]
    assert rows.column("key").to_pylist() == [event.key for event in EVENTS_OF_ALL_KINDS]
    assert rows.column("value").to_pylist() == [event.value for event in EVENTS_OF_ALL_KINDS]
    assert rows.column("headers").to_pylist() == [
        [{"key": name, "value": value} for name, value in event.headers] for event in EVENTS_OF_ALL_KINDS
    ]


def test_events_without_nulls_have_no_null_bitmap():
    value = to_arrow(columns_of([batch.Event(b"v")] * 9)).column("value")
    assert value.null_count == 0
    assert value.buffers()[0] is None


def test_header_names_that_are_not_text_get_replacement_characters():
    data = bytearray(batch.encode([batch.Event(b"v", headers=(("ab", b"1"),))]))
    data[data.index(b"ab")] = 0xFF
    columns = decode(data, 0, len(data), from_offset=0).columns[0]
    assert columns.headers(0) == (("\ufffdb", b"1"),)
    assert to_arrow(columns).column("headers").to_pylist() == [[{"key": "\ufffdb", "value": b"1"}]]


def test_duckdb_reads_it_with_repeated_header_names():
    table = pa.Table.from_batches([to_arrow(columns_of(EVENTS_OF_ALL_KINDS))])
    with duckdb.connect() as connection:
        connection.register("events", table)
        found = connection.execute('select "offset", len(headers), headers[1].key from events order by 1').fetchall()
    assert found == [(0, 0, None), (1, 3, "a"), (2, 1, "b"), (3, 0, None)]


def test_more_than_fits_is_split_and_one_large_event_stands_alone():
    columns = columns_of([batch.Event(b"x" * size, b"k") for size in (10, 10, 10, 500, 10)])
    parts = to_arrow_batches(columns, bytes_max=25)
    assert [value for part in parts for value in part.column("value").to_pylist()] == [
        columns.value(row) for row in range(5)
    ]
    assert max(part.column("value").nbytes for part in parts if part.num_rows > 1) < 60
    assert [part.num_rows for part in parts if b"x" * 500 in part.column("value").to_pylist()] == [1]
    assert to_arrow_batches(columns.slice(0, 0)) == []


def test_spans_above_two_gibibytes_are_refused_not_wrapped():
    n = 40
    size = BINARY_BYTES_MAX // n + 1
    data = np.zeros(size, np.uint8)  # every span is the same bytes: the columns are large, the memory is not
    zeros, counts = np.zeros(n, np.int64), np.zeros(n, np.int32)
    columns = EventColumns(
        data, np.arange(n), zeros, zeros, np.full(n, -1, np.int32), zeros, np.full(n, size, np.int32), zeros, counts
    )
    with pytest.raises(ValueError, match="to_arrow_batches"):
        to_arrow(columns)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (5, 1), (0, 6), (2**62, 2**30), (4, 2)])
def test_spans_outside_of_their_data_are_refused(start, length):
    with pytest.raises(ValueError, match="outside"):
        binary(np.zeros(5, np.uint8), np.array([start]), np.array([length], np.int32))


def test_picked_rows_that_are_not_contiguous_convert_too():
    columns = columns_of([batch.Event(b"v%d" % n, headers=(("n", b"%d" % n),)) for n in range(20)])
    picked = to_arrow(columns.slice(1, 20).take(np.arange(0, 19, 3)))
    assert picked.column("value").to_pylist() == [b"v%d" % n for n in range(1, 20, 3)]
    assert [row[0]["value"] for row in picked.column("headers").to_pylist()] == [b"%d" % n for n in range(1, 20, 3)]
