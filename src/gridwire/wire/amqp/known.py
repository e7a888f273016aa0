"""What was found out about byte strings, so that it need not be found out again with every event."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Final, TypeVar

Value = TypeVar("Value")

_SEEN: Final = 4096
"""Byte strings that came once are remembered by a number; so many at most."""


class Known(dict[bytes, Value]):
    """`known[data]` is `make(data)`, remembered once it has come twice.

    What comes only once (it holds a message-id) costs little more than `make`: that is why this is no `lru_cache`. When
    it is full it begins anew, and long keys are not kept, so its memory is bounded by the product of both limits.

    Args:
        make: what to do with bytes that are not known; it may raise.
        entries_max: how many are remembered. bytes_max: of what length at most.
    """

    __slots__ = ("_bytes_max", "_entries_max", "_make", "_seen")

    def __init__(self, make: Callable[[bytes], Value], entries_max: int, bytes_max: int) -> None:
        super().__init__()
        self._make = make
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._seen = array("q", bytes(8 * _SEEN))

    def __missing__(self, data: bytes) -> Value:
        value = self._make(data)
        number = hash(data)
        place = number % _SEEN
        if self._seen[place] != number:
            self._seen[place] = number
        elif len(data) <= self._bytes_max:
            if len(self) >= self._entries_max:
                self.clear()
            self[data] = value
        return value
