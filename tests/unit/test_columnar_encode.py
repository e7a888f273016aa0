"""Columns to records sections: the very bytes the slow encoder makes."""

import numpy as np
import pytest

from gridwire.columnar import encode as encoding
from gridwire.columnar.decode import as_bytes, decode
from gridwire.columnar.encode import encode_batch, encode_values
from gridwire.core import batch, compression

VALUES = [b"v" * (n * 7 % 300) if n % 5 else None for n in range(200)]
KEYS = [b"k%d" % n if n % 3 else None for n in range(200)]
TIMES = [1_700_000_000_000 + n * 7919 % 100_000 - 50_000 for n in range(200)]
WANTED = [batch.Event(v, k, (), t) for v, k, t in zip(VALUES, KEYS, TIMES, strict=True)]


@pytest.mark.parametrize("codec", range(5), ids=compression.NAMES)
def test_the_batch_is_the_one_the_slow_encoder_makes(codec):
    made = encode_batch(
        VALUES, KEYS, TIMES, codec=codec, base_offset=9, producer_id=4, producer_epoch=2, base_sequence=8
    )
    assert made == batch.encode(WANTED, codec=codec, base_offset=9, producer_id=4, producer_epoch=2, base_sequence=8)


def test_spans_make_the_same_bytes_as_sequences():
    whole = batch.encode(WANTED)
    columns = decode(whole, 0, len(whole), from_offset=0).columns[0]
    values = (columns.data, columns.value_starts, columns.value_lengths)
    keys = (columns.data, columns.key_starts, columns.key_lengths)
    assert encode_batch(values, keys, columns.timestamps) == whole
    assert encode_values(values, keys, columns.timestamps) == encode_values(VALUES, KEYS, TIMES)


def test_one_timestamp_for_all_and_no_keys():
    made = encode_batch([b"a", b"b"], timestamps=77)
    assert [(e.value, e.key, e.timestamp) for e in batch.decode(made)] == [(b"a", None, 77), (b"b", None, 77)]


def test_no_events():
    assert encode_values([]) == b""
    with pytest.raises(ValueError, match="at least one"):
        encode_batch([])


@pytest.mark.parametrize("delta", [0, -1, 63, 64, -64, -65, 2**31, -(2**40), 2**62])
def test_timestamps_of_every_size(delta):
    assert encode_batch([b"a", b"b"], timestamps=[0, delta]) == batch.encode(
        [batch.Event(b"a", timestamp=0), batch.Event(b"b", timestamp=delta)]
    )


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        encode_values([b"a", b"b"], [b"k"])
    with pytest.raises(ValueError, match="do not fit"):
        encode_values([b"a", b"b"], timestamps=[1])


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (3, 4), (6, 1)])
def test_spans_outside_of_their_data_are_refused(start, length):
    with pytest.raises(ValueError, match="outside"):
        encode_values((as_bytes(b"12345"), np.array([start]), np.array([length], np.int32)))


def test_more_than_one_batch_holds_is_refused(monkeypatch):
    monkeypatch.setattr(encoding, "BATCH_BYTES_MAX", 200)
    assert encode_values([b"x" * 100])
    with pytest.raises(ValueError, match="do not fit one batch"):
        encode_values([b"x" * 100] * 2)
