"""Rows of JSON from columns: a fixed text of each unit, a text common to all rows, a decimal and a closing text.

{"usage_point":"U1","ts_end":"   2026-01-01T00:15:00Z","interval_s":900,...,"value":   0.213   }
heads[unit]                      middle                                                amount  closing
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.encode import Spans
from gridwire.columnar.machine import kernel

AMOUNT_CHARACTERS_MAX: Final = 21
"""Of an int64 with its sign and a decimal point."""


@kernel
def _copy_text(out: Any, position: int, text: Any, start: int, end: int) -> int:
    for at in range(start, end):
        out[position] = text[at]
        position += 1
    return position


@kernel
def _put_amount(out: Any, position: int, amount: int, digits: int) -> int:
    """`amount / 10**digits` with just so many digits behind the point."""
    if amount < 0:
        out[position] = 45
        position += 1
        amount = -amount
    size = 1
    rest = amount // 10
    while rest > 0 or size <= digits:
        rest //= 10
        size += 1
    at = position + size - 1 + (1 if digits > 0 else 0)
    end = at + 1
    for place in range(size):
        if place == digits and digits > 0:
            out[at] = 46
            at -= 1
        out[at] = 48 + amount % 10
        amount //= 10
        at -= 1
    return end


@kernel
def _render(
    heads: Any, head_starts: Any, middle: Any, closing: Any, units: Any, amounts: Any, digits: int, out: Any,
    starts: Any, lengths: Any,
) -> int:  # fmt: skip
    position = 0
    for row in range(len(units)):
        starts[row] = position
        unit = units[row]
        position = _copy_text(out, position, heads, head_starts[unit], head_starts[unit + 1])
        position = _copy_text(out, position, middle, 0, len(middle))
        position = _put_amount(out, position, amounts[row], digits)
        position = _copy_text(out, position, closing, 0, len(closing))
        lengths[row] = position - starts[row]
    return position


class Rows:
    """Renders rows of units whose texts are known beforehand.

    Args:
        heads: the first text of each unit.
    """

    def __init__(self, heads: list[bytes]) -> None:
        self._heads = np.frombuffer(b"".join(heads) or b"\0", np.uint8)
        self._starts = np.zeros(len(heads) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, heads), np.int64, len(heads)), out=self._starts[1:])

    def render(
        self, units: NDArray[np.int64], middle: bytes, amounts: NDArray[np.int64], closing: bytes, digits: int
    ) -> Spans:
        """Rows as spans of bytes.

        Args:
            units: positions in `heads`. amounts: written as `amounts / 10**digits`. **Shape**: both `[n]`.
        """
        sizes = self._starts[units + 1] - self._starts[units]
        room = int(sizes.sum()) + len(units) * (len(middle) + len(closing) + AMOUNT_CHARACTERS_MAX + digits)
        out = np.empty(room + 16, np.uint8)
        starts, lengths = np.empty(len(units), np.int64), np.empty(len(units), np.int32)
        amounts = np.ascontiguousarray(amounts, np.int64)
        texts = (np.frombuffer(middle, np.uint8), np.frombuffer(closing, np.uint8))
        _render(self._heads, self._starts, *texts, units, amounts, digits, out, starts, lengths)
        return out, starts, lengths
