"""From text to small numbers, millions a second: which usage point, which reading type.

An open-addressing hash table of 8-byte entries: id + 1 in the low half, half of the hash in the high one, 0 is free.
Texts lie back to back in one buffer in order of their ids. The hash is seeded by the operating system, so nobody can
choose texts that collide; should a run of entries grow all the same, the table is rebuilt under another seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.decode import Bytes, as_bytes
from gridwire.columnar.gather import bounded
from gridwire.columnar.machine import as_int, copy, folded_multiply, kernel, load8, load64, pointer, prefetch

PROBES_MAX: Final = 128
"""Entries looked at before a table is rebuilt; at half full a seeded hash stays below 40."""

UNKNOWN: Final = -1
_GIVEN_TWICE: Final = "a text is given twice"
CHUNK_ROWS: Final = 65_536
BLOCK_ROWS: Final = 64
"""Rows whose table entries are asked for before the first of them is looked at."""

FILLED, CROWDED, TWICE = range(3)
"""How entering all texts into a table ended."""

_PAD: Final = 8
"""Bytes behind the texts, so that a word may be read at the last of them."""

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]


@kernel
def tail_word(data: Any, position: int, count: int, limit: int) -> Any:
    """The next `count` < 8 bytes as a word, zeros above them."""
    if position + 8 <= limit:
        return load64(data, position) & ((np.uint64(1) << np.uint64(8 * count)) - np.uint64(1))
    word = np.uint64(0)
    for byte in range(count):
        word |= np.uint64(load8(data, position + byte)) << np.uint64(8 * byte)
    return word


@kernel
def hash_text(data: Any, position: int, size: int, limit: int, seed: Any, factor: Any) -> Any:
    """64-bit hash of `size` bytes under two secret words."""
    value = seed ^ np.uint64(size)
    end = position + size
    while position + 8 <= end:
        value = folded_multiply(value ^ load64(data, position), factor)
        position += 8
    if position < end:
        value = folded_multiply(value ^ tail_word(data, position, end - position, limit), factor)
    return folded_multiply(value ^ factor, seed | np.uint64(1))


@kernel
def same_bytes(a: Any, at: int, a_limit: int, b: Any, place: int, b_limit: int, size: int) -> bool:
    """Whether `size` bytes are equal."""
    end = at + size
    while at + 8 <= end:
        if load64(a, at) != load64(b, place):
            return False
        at += 8
        place += 8
    return at == end or tail_word(a, at, end - at, a_limit) == tail_word(b, place, end - at, b_limit)


@kernel
def probe(
    data: Any, start: int, size: int, limit: int, hashed: Any, table: Any, mask: int, texts: Any, bounds: Any, room: int
) -> tuple[int, int, int]:
    """(id or -1, slot where it is or would go, entries looked at). `table`, `texts` and `bounds` are byte pointers."""
    slot = as_int(hashed >> np.uint64(1)) & mask
    upper = hashed & np.uint64(0xFFFFFFFF00000000)
    probes = 1
    while True:
        entry = load64(table, slot * 8)
        if entry == 0:
            return UNKNOWN, slot, probes
        if (entry & np.uint64(0xFFFFFFFF00000000)) == upper:
            known = as_int(entry & np.uint64(0xFFFFFFFF)) - 1
            place = as_int(load64(bounds, known * 8))
            if as_int(load64(bounds, known * 8 + 8)) - place == size and same_bytes(
                data, start, limit, texts, place, room, size
            ):
                return known, slot, probes
        slot = (slot + 1) & mask
        probes += 1


@kernel
def find_texts(
    array: Any, starts: Any, lengths: Any, table_bytes: Any, text_bytes: Any, bound_bytes: Any, seed: Any, factor: Any,
    hashes: Any, ids: Any,
) -> None:  # fmt: skip
    """Ids of spans that lie inside `array`, -1 for unknown ones and nulls; `hashes` is room for a block."""
    data, table = pointer(array), pointer(table_bytes)
    texts, bounds = pointer(text_bytes), pointer(bound_bytes)
    limit, room = len(array), len(text_bytes)
    mask = len(table_bytes) // 8 - 1
    for first in range(0, len(starts), BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, len(starts))
        for row in range(first, last):
            if lengths[row] >= 0:
                hashed = hash_text(data, starts[row], as_int(lengths[row]), limit, seed, factor)
                hashes[row - first] = hashed
                prefetch(table, (as_int(hashed >> np.uint64(1)) & mask) * 8)
        for row in range(first, last):
            found = UNKNOWN
            if lengths[row] >= 0:
                found, _, _ = probe(
                    data, starts[row], as_int(lengths[row]), limit, hashes[row - first],
                    table, mask, texts, bounds, room,
                )  # fmt: skip
            ids[row] = found


@kernel
def add_texts(
    array: Any, starts: Any, lengths: Any, first: int, table: Any, table_bytes: Any, text_bytes: Any, bounds: Any,
    bound_bytes: Any, seed: Any, factor: Any, count: int, ids: Any,
) -> tuple[int, int]:  # fmt: skip
    """Find or add spans from row `first`; there is room for all of them.

    Returns:
        (texts known now, row it ended at: all of them, or the one that probed too long and is not added).
    """
    data, entries = pointer(array), pointer(table_bytes)
    texts, places = pointer(text_bytes), pointer(bound_bytes)
    mask = len(table) - 1
    for row in range(first, len(starts)):
        ids[row] = UNKNOWN
        if lengths[row] < 0:
            continue
        size = as_int(lengths[row])
        hashed = hash_text(data, starts[row], size, len(array), seed, factor)
        found, slot, probes = probe(
            data, starts[row], size, len(array), hashed, entries, mask, texts, places, len(text_bytes)
        )
        if found < 0:
            if probes > PROBES_MAX:
                return count, row
            copy(texts, bounds[count], data, starts[row], size)
            bounds[count + 1] = bounds[count] + size
            found = count
            count += 1
            table[slot] = (hashed & np.uint64(0xFFFFFFFF00000000)) | np.uint64(count)
        ids[row] = found
    return count, len(starts)


@kernel
def fill_table(
    table: Any, table_bytes: Any, text_bytes: Any, bounds: Any, bound_bytes: Any, count: int, seed: Any, factor: Any
) -> int:
    """Enter texts [0, count) into an empty table: FILLED, CROWDED when one probes too long, or TWICE."""
    texts, entries, places = pointer(text_bytes), pointer(table_bytes), pointer(bound_bytes)
    mask, room = len(table) - 1, len(text_bytes)
    for number in range(count):
        size = as_int(bounds[number + 1] - bounds[number])
        hashed = hash_text(texts, bounds[number], size, room, seed, factor)
        known, slot, probes = probe(texts, bounds[number], size, room, hashed, entries, mask, texts, places, room)
        if known >= 0:
            return TWICE
        if probes > PROBES_MAX:
            return CROWDED
        table[slot] = (hashed & np.uint64(0xFFFFFFFF00000000)) | np.uint64(number + 1)
    return FILLED


class TextIndex:
    """Texts numbered 0, 1, 2, ... in the order they were given.

    Args:
        texts: the first ones.

    Raises:
        ValueError: a text is given twice; its number would not be its place.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._count = 0
        self._texts = np.zeros(1024, np.uint8)
        self._bounds = np.zeros(65, np.int64)
        self._rebuild(128)
        left, given = iter(texts), 0
        while chunk := list(islice(left, CHUNK_ROWS)):
            self.add_all(chunk)
            given += len(chunk)
        if self._count != given:
            raise ValueError(_GIVEN_TWICE)

    @classmethod
    def over(cls, texts: bytearray, bounds: Longs) -> TextIndex:
        """An index of texts that lie back to back already; they are not copied and must not change.

        Args:
            bounds: `[n + 1]`, where each begins and the last one ends.

        Raises:
            ValueError: a text is given twice, or a bound lies outside.
        """
        index = cls.__new__(cls)
        index._texts, index._bounds = np.frombuffer(texts, np.uint8), np.ascontiguousarray(bounds, np.int64)
        index._count = len(bounds) - 1
        if bounds[0] < 0 or bounds[-1] > len(index._texts) or (np.diff(index._bounds) < 0).any():
            raise ValueError("texts lie outside of their buffer")
        index._rebuild(max(128, 1 << (2 * index._count).bit_length()))
        return index

    def __len__(self) -> int:
        return self._count

    def lookup(self, data: Bytes, starts: Longs, lengths: Ints) -> Ints:
        """Ids of spans; -1 is unknown or null.

        Raises:
            ValueError: a span lies outside of `data`.
        """
        data, starts, lengths = _checked(data, starts, lengths)
        ids = np.empty(len(starts), np.int32)
        find_texts(
            data, starts, lengths, self._table.view(np.uint8), self._texts, self._bounds.view(np.uint8),
            self._seed, self._factor, np.empty(BLOCK_ROWS, np.uint64), ids,
        )  # fmt: skip
        return ids

    def lookup_or_add(self, data: Bytes, starts: Longs, lengths: Ints) -> Ints:
        """Ids of spans; unknown ones are added. -1 is null. Raises ValueError as `lookup` does."""
        data, starts, lengths = _checked(data, starts, lengths)
        ids = np.empty(len(starts), np.int32)
        for first in range(0, len(starts), CHUNK_ROWS):
            part = slice(first, first + CHUNK_ROWS)
            self._add_chunk(data, starts[part], lengths[part], ids[part])
        return ids

    def add(self, text: str) -> int:
        """Id of a text, added if it is new."""
        return int(self.add_all([text])[0])

    def add_all(self, texts: Sequence[str]) -> Ints:
        """Ids of texts, added if they are new."""
        encoded = [text.encode() for text in texts]
        lengths = np.array([len(text) for text in encoded], np.int32)
        return self.lookup_or_add(as_bytes(b"".join(encoded)), np.cumsum(lengths, dtype=np.int64) - lengths, lengths)

    def find(self, text: str) -> int:
        """Id of one text, or -1."""
        data = as_bytes(text.encode())
        return int(self.lookup(data, np.zeros(1, np.int64), np.array([len(data)], np.int32))[0])

    def text(self, number: int) -> str:
        """Text of an id.

        Raises:
            IndexError: there is no such id.
        """
        if not 0 <= number < self._count:
            raise IndexError(f"no text {number} among {self._count}")
        return self._texts[self._bounds[number] : self._bounds[number + 1]].tobytes().decode("utf-8", "replace")

    def texts(self) -> list[str]:
        """All texts in order of their ids."""
        return [self.text(number) for number in range(self._count)]

    def _add_chunk(self, data: Bytes, starts: Longs, lengths: Ints, ids: Ints) -> None:
        self._make_room(len(starts), int(np.maximum(lengths, 0).sum(dtype=np.int64)))
        row = 0
        while row < len(starts):
            self._count, row = add_texts(
                data, starts, lengths, row, self._table, self._table.view(np.uint8), self._texts, self._bounds,
                self._bounds.view(np.uint8), self._seed, self._factor, self._count, ids,
            )  # fmt: skip
            if row < len(starts):
                self._rebuild(len(self._table))

    def _make_room(self, rows: int, size: int) -> None:
        """Room for so many more texts and bytes; the table stays at most half full."""
        needed = int(self._bounds[self._count]) + size + _PAD
        if needed > len(self._texts):
            self._texts = _grown(self._texts, max(needed, 2 * len(self._texts)))
        if self._count + rows + 1 > len(self._bounds):
            self._bounds = _grown(self._bounds, max(self._count + rows + 1, 2 * len(self._bounds)))
        if 2 * (self._count + rows) > len(self._table):
            self._rebuild(1 << (2 * (self._count + rows) - 1).bit_length())

    def _rebuild(self, slots: int) -> None:
        """Enter all texts into a new table under a new seed."""
        while True:
            self._seed, self._factor = (np.uint64(int.from_bytes(os.urandom(8), "little") | 1) for _ in range(2))
            self._table = np.zeros(slots, np.uint64)
            ended = fill_table(
                self._table, self._table.view(np.uint8), self._texts, self._bounds, self._bounds.view(np.uint8),
                self._count, self._seed, self._factor,
            )  # fmt: skip
            if ended == FILLED:
                return
            if ended == TWICE:
                raise ValueError(_GIVEN_TWICE)
            slots *= 2


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    larger = np.zeros(size, array.dtype)
    larger[: len(array)] = array
    return larger


def _checked(data: Bytes, starts: Longs, lengths: Ints) -> tuple[Bytes, Longs, Ints]:
    starts = np.ascontiguousarray(starts, np.int64)
    lengths = np.ascontiguousarray(lengths, np.int32)
    if len(starts) != len(lengths) or not bounded(starts, lengths, len(data)):
        raise ValueError("spans lie outside of their data")
    return as_bytes(data), starts, lengths
