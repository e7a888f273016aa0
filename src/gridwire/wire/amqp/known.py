"""What was found out about byte strings, so that it need not be found out again with every event."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


class Known(dict[bytes, Value]):
    """`known[data]` is `make(data)`, remembered.

    A dictionary and not an `lru_cache`: what comes only once (a message-id in it) costs half as much here. When it is
    full it begins anew, and long keys are not kept, so its memory is bounded by the product of both limits.

    Args:
        make: what to do with bytes seen for the first time; it may raise.
        entries_max: how many are remembered. bytes_max: of what length at most.
    """

    __slots__ = ("_bytes_max", "_entries_max", "_make")

    def __init__(self, make: Callable[[bytes], Value], entries_max: int, bytes_max: int) -> None:
        super().__init__()
        self._make = make
        self._entries_max = entries_max
        self._bytes_max = bytes_max

    def __missing__(self, data: bytes) -> Value:
        value = self._make(data)
        if len(data) <= self._bytes_max:
            if len(self) >= self._entries_max:
                self.clear()
            self[data] = value
        return value
