"""Protocol Buffers, as much as a decoder of hostile messages needs: the fields of a message, one after the other.

Source: the Protocol Buffers encoding guide (wire types 0, 1, 2 and 5; groups are refused).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from gridwire.grid.formats.base import Unusable

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX: Final = 10

Field = tuple[int, int | bytes]
"""(field number, value): varints as unsigned integers, everything else as its bytes, little end first."""


def fields(data: bytes) -> Iterator[Field]:
    """The fields of a message in their order. Raises Unusable when it is none."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise Unusable("field number 0")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise Unusable(f"wire type {kind} is not served")
        if size > len(data) - at:
            raise Unusable("message ends early")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends)."""
    number = 0
    for place in range(_VARINT_BYTES_MAX):
        if at + place >= len(data):
            raise Unusable("message ends early")
        byte = data[at + place]
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number & 0xFFFFFFFFFFFFFFFF, at + place + 1
    raise Unusable("a number of more than ten bytes")


def encoded(message: Iterable[Field]) -> bytes:
    """The bytes of a message of varints and texts, messages or other bytes of a length."""
    out = bytearray()
    for number, value in message:
        out += _number(number << 3 | (_VARINT if isinstance(value, int) else _BYTES))
        out += _number(value) if isinstance(value, int) else _number(len(value)) + value
    return bytes(out)


def _number(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
