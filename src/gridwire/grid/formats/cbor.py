"""CBOR items (RFC 8949), enough for SenML: bounded, and numbers with all their digits.

Decimal fractions (tag 4) and floats come out as Decimal; a float has the digits of its own width.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any, Final

from gridwire.grid.formats.base import Unusable

DEPTH_MAX: Final = 16
"""SenML nests two deep."""

_FLOATS: Final = {25: (">e", 2, 4), 26: (">f", 4, 7), 27: (">d", 8, 16)}
_SIMPLE: Final = {20: False, 21: True, 22: None, 23: None}
_BREAK: Final = object()


class Reader:
    """Reads items off the front of some bytes. Raises Unusable."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def item(self, depth: int = 0) -> Any:
        """The next item."""
        found = self._item(depth)
        if found is _BREAK:
            raise Unusable("a break where none belongs")
        return found

    def _item(self, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise Unusable("items are nested too deeply")
        first = self._take(1)[0]
        major, short = first >> 5, first & 31
        if major == 7:
            return self._simple(short)
        if short == 31:
            return self._endless(major, depth)
        count = self._argument(short)
        match major:
            case 0:
                return count
            case 1:
                return -1 - count
            case 2:
                return self._take(count)
            case 3:
                return self._text(self._take(count))
            case 4:
                return [self.item(depth + 1) for _ in range(self._bounded(count))]
            case 5:
                return dict(self._pair(depth) for _ in range(self._bounded(count)))
        return self._tagged(count, self.item(depth + 1))

    def _pair(self, depth: int) -> tuple[Any, Any]:
        key = self.item(depth + 1)
        if not isinstance(key, int | str):
            raise Unusable("a map key that is neither number nor text")
        return key, self.item(depth + 1)

    def _endless(self, major: int, depth: int) -> Any:
        if major in (2, 3):
            parts = list(iter(lambda: self._item(depth + 1), _BREAK))
            if not all(isinstance(part, bytes if major == 2 else str) for part in parts):
                raise Unusable("a string of parts that are none")
            return (b"" if major == 2 else "").join(parts)
        if major == 4:
            return list(iter(lambda: self._item(depth + 1), _BREAK))
        if major != 5:
            raise Unusable("an indefinite length where none belongs")
        found = {}
        while (key := self._item(depth + 1)) is not _BREAK:
            if not isinstance(key, int | str):
                raise Unusable("a map key that is neither number nor text")
            found[key] = self.item(depth + 1)
        return found

    def _simple(self, short: int) -> Any:
        if short == 31:
            return _BREAK
        if short in _FLOATS:
            layout, size, digits = _FLOATS[short]
            return Decimal(format(struct.unpack(layout, self._take(size))[0], f".{digits}g"))
        if short not in _SIMPLE:
            raise Unusable(f"simple value {short} is not supported")
        return _SIMPLE[short]

    def _tagged(self, tag: int, value: Any) -> Any:
        if tag == 4:
            if isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value):
                exponent, mantissa = value
                if abs(exponent) < 128 and abs(mantissa) < 2**63:
                    return Decimal(mantissa).scaleb(exponent)
            raise Unusable("a decimal fraction that is none")
        if tag in (2, 3) and isinstance(value, bytes) and len(value) <= 8:
            number = int.from_bytes(value, "big")
            return number if tag == 2 else -1 - number
        return value

    def _argument(self, short: int) -> int:
        if short < 24:
            return short
        if short > 27:
            raise Unusable("a reserved length")
        return int.from_bytes(self._take(1 << short - 24), "big")

    def _bounded(self, count: int) -> int:
        if count > len(self._data) - self.position:  # every item has at least one byte
            raise Unusable("data ends in the middle of an array or map")
        return count

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise Unusable("data ends in the middle of an item")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    @staticmethod
    def _text(raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Unusable("a text that is not UTF-8") from None
