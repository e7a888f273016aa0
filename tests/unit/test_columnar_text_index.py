"""Texts to numbers."""

import numpy as np
import pytest

from gridwire.columnar import text_index
from gridwire.columnar.decode import as_bytes
from gridwire.columnar.text_index import TextIndex


def spans(*texts):
    encoded = [None if text is None else text.encode() for text in texts]
    lengths = np.array([-1 if text is None else len(text) for text in encoded], np.int32)
    sizes = np.maximum(lengths, 0)
    return as_bytes(b"".join(text or b"" for text in encoded)), np.cumsum(sizes, dtype=np.int64) - sizes, lengths


def test_ids_are_places_and_unknown_is_minus_one():
    index = TextIndex(["b", "a", "", "ü" * 20, "12345678", "123456789"])
    found = index.lookup(*spans("a", "b", "c", None, "", "ü" * 20, "12345678", "1234567", "123456789"))
    assert found.tolist() == [1, 0, -1, -1, 2, 3, 4, -1, 5]
    assert found.dtype == np.int32
    assert index.texts() == ["b", "a", "", "ü" * 20, "12345678", "123456789"]


def test_texts_can_be_added_one_by_one_and_in_bulk():
    index = TextIndex()
    assert [index.add("x"), index.add("y"), index.add("x")] == [0, 1, 0]
    assert index.lookup_or_add(*spans("z", None, "x", "z", "w")).tolist() == [2, -1, 0, 2, 3]
    assert (len(index), index.find("w"), index.find("q"), index.text(2)) == (4, 3, -1, "z")
    for number in (-1, 4):
        with pytest.raises(IndexError):
            index.text(number)


def test_a_text_given_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        TextIndex(["a", "b", "a"])


def test_a_hundred_thousand_texts_of_all_lengths():
    texts = [f"{n}" + "." * (n % 40) for n in range(100_000)]
    index = TextIndex(texts[:100])
    index.add_all(texts)
    assert index.lookup(*spans(*texts)).tolist() == list(range(100_000))
    assert (index.lookup(*spans(*(text + "!" for text in texts[:1000]))) == -1).all()


def test_texts_that_collide_get_another_seed(monkeypatch):
    """Under the seed 1, 1 the hash is the text itself, so eight bytes that start alike share their place."""
    draws = iter([bytes(8)] * 2)
    real = text_index.os.urandom
    monkeypatch.setattr(text_index.os, "urandom", lambda size: next(draws, None) or real(size))
    index = TextIndex()
    texts = [f"AAAA{n:04}" for n in range(1_000)]
    index.add_all(texts[: text_index.PROBES_MAX // 2])
    assert (int(index._seed), int(index._factor)) == (1, 1)
    index.add_all(texts)
    assert (int(index._seed), int(index._factor)) != (1, 1)
    assert index.lookup(*spans(*texts)).tolist() == list(range(1_000))


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 4), (3, 1)])
def test_spans_outside_of_their_data_are_refused(start, length):
    with pytest.raises(ValueError, match="outside"):
        TextIndex().lookup(as_bytes(b"abc"), np.array([start]), np.array([length], np.int32))


def over(texts: list[str]) -> TextIndex:
    encoded = [text.encode() for text in texts]
    return TextIndex.over(bytearray(b"".join(encoded)), np.cumsum([0, *map(len, encoded)]))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 5000])
def test_an_index_over_texts_finds_them_in_their_own_buffer(count):
    texts = [f"LV{n % 7}.{n}" + "x" * (n % 19) for n in range(count)]
    index = over(texts)
    assert len(index) == count
    assert [index.find(text) for text in texts] == list(range(count))
    assert index.texts() == texts
    assert index.find("LV0") == -1


def test_an_index_over_texts_can_grow_without_touching_them():
    given = bytearray(b"abcd")
    index = TextIndex.over(given, np.array([0, 1, 4]))
    assert index.add("e" * 300) == 2
    assert [index.find(text) for text in ("a", "bcd", "e" * 300)] == [0, 1, 2]
    assert given == b"abcd"


def test_an_index_over_texts_refuses_one_that_is_there_twice():
    with pytest.raises(ValueError, match="twice"):
        over(["a", "b", "a"])


@pytest.mark.parametrize("bounds", [[0, 9], [-1, 2], [2, 1, 3]])
def test_texts_outside_of_their_buffer_are_refused(bounds):
    with pytest.raises(ValueError, match="outside"):
        TextIndex.over(bytearray(b"abc"), np.array(bounds))
