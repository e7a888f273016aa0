"""Kernels that copy spans into the contiguous buffers Arrow wants."""

from __future__ import annotations

from typing import Any

from gridwire.columnar.kernel import varint
from gridwire.columnar.machine import copy, copy16, kernel, pointer


@kernel
def measure(lengths: Any, offsets: Any, validity: Any) -> tuple[int, int]:
    """Arrow offsets and validity bitmap of spans.

    Args:
        lengths: int32[n], -1 is null. offsets: int32[n + 1] to fill. validity: uint8[ceil(n / 8)], zeroed.

    Returns:
        (bytes in total, nulls). The offsets are meaningless when the total is above 2^31 - 1.
    """
    total = nulls = 0
    for row in range(len(lengths)):
        offsets[row] = total
        length = lengths[row]
        if length < 0:
            nulls += 1
        else:
            total += length
            validity[row >> 3] |= 1 << (row & 7)
    offsets[len(lengths)] = total
    return total, nulls


@kernel
def gather(array: Any, starts: Any, lengths: Any, offsets: Any, target: Any) -> None:
    """Copy spans back to back.

    Spans lie inside `array`, and `target` has room for all of them. Short ones are moved 16 bytes at a time where both
    sides have that much room; what is written past the end of one is overwritten by the next.
    """
    data, out = pointer(array), pointer(target)
    readable, writable = len(array) - 16, len(target) - 16
    for row in range(len(starts)):
        start, length, place = starts[row], lengths[row], offsets[row]
        if length <= 0:
            continue
        if length <= 128 and start + length <= readable and place + length <= writable:
            moved = 0
            while moved < length:
                copy16(out, place + moved, data, start + moved)
                moved += 16
        else:
            copy(out, place, data, start, length)


@kernel
def bounded(starts: Any, lengths: Any, size: int) -> bool:
    """Whether every span lies inside a buffer of `size` bytes."""
    for row in range(len(starts)):
        start = starts[row]
        if lengths[row] > 0 and (start < 0 or start > size or lengths[row] > size - start):
            return False
    return True


@kernel
def header_spans(array: Any, starts: Any, counts: Any, spans: Any, lengths: Any) -> bool:
    """Spans of all header names and values, one row a header.

    Args:
        starts, counts: of the header lists. spans: int64[2, headers] to fill with starts of names and of values.
        lengths: int32[2, headers] to fill; -1 is a null value.

    Returns:
        False when a list is damaged, which a batch that was decoded never is.
    """
    data, end = pointer(array), len(array)
    header = 0
    for row in range(len(starts)):
        position = starts[row]
        for _ in range(counts[row]):
            size, position = varint(data, position, end)
            if size < 0 or size > end - position:
                return False
            spans[0, header], lengths[0, header] = position, size
            size, position = varint(data, position + size, end)
            if size > end - position:
                return False
            spans[1, header], lengths[1, header] = position, max(size, -1)
            position += max(size, 0)
            header += 1
    return True
