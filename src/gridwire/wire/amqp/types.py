"""Values of the AMQP 1.0 type system: bytes <-> Python, with every bound checked.

    constructor:uint8  data          0x00 descriptor value: a described value
    0x4. no data   0x5. 1 byte   0x6. 2   0x7. 4   0x8. 8   0x9. 16
    0xa. size:uint8 bytes        0xb. size:uint32 bytes
    0xc. size:uint8 count:uint8 items      0xd. size:uint32 count:uint32 items
    0xe. 0xf. arrays: as 0xc. 0xd., with one constructor for all items

Encoders return bytes, so that values whose type matters are written by the function of that name.

Source: OASIS AMQP 1.0, part 1 (types).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from uuid import UUID

from gridwire.wire.amqp.errors import DECODE_ERROR, AmqpError

Buffer = bytes | bytearray | memoryview

DEPTH_MAX: Final = 32
"""Values nested deeper are refused: real messages nest a handful deep, and Python's stack is finite."""

ITEMS_MAX: Final = 65_536
"""Items of one list, map or array. Items may take no bytes at all (an array of nulls), so size alone is no bound."""

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_I16: Final = struct.Struct(">h")
_I32: Final = struct.Struct(">i")
_I64: Final = struct.Struct(">q")
_F32: Final = struct.Struct(">f")
_F64: Final = struct.Struct(">d")


class Symbol(str):
    """A symbol: ASCII text of a constrained domain. Equal to the string of the same text."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since 1970-01-01T00:00Z."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor that says what it is."""

    descriptor: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Opaque:
    """A value Python has no type for (decimals), as it was encoded."""

    encoded: bytes


def _bad(text: str) -> NoReturn:
    raise AmqpError(DECODE_ERROR, text)


def _need(position: int, size: int, end: int) -> None:
    if size > end - position:
        _bad("a value runs past its end")


_FIXED: Final[dict[int, tuple[int, Any]]] = {
    0x50: (1, None), 0x51: (1, struct.Struct(">b")), 0x52: (1, None), 0x53: (1, None),
    0x54: (1, struct.Struct(">b")), 0x55: (1, struct.Struct(">b")),
    0x60: (2, _U16), 0x61: (2, _I16), 0x70: (4, _U32), 0x71: (4, _I32), 0x72: (4, _F32),
    0x80: (8, _U64), 0x81: (8, _I64), 0x82: (8, _F64),
}  # fmt: skip
_CONSTANT: Final[dict[int, Any]] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}


def decode(buffer: Buffer, position: int = 0, end: int | None = None, depth: int = 0) -> tuple[Any, int]:
    """(value, position after it). Raises AmqpError."""
    end = len(buffer) if end is None else end
    if position >= end:
        _bad("a value is missing")
    code = buffer[position]
    if code == 0:
        return _described(buffer, position + 1, end, depth)
    return _plain(code, buffer, position + 1, end, depth)


def _described(buffer: Buffer, position: int, end: int, depth: int) -> tuple[Described, int]:
    if depth >= DEPTH_MAX:
        _bad(f"values nested more than {DEPTH_MAX} deep")
    descriptor, position = decode(buffer, position, end, depth + 1)
    value, position = decode(buffer, position, end, depth + 1)
    return Described(descriptor, value), position


def _plain(code: int, buffer: Buffer, position: int, end: int, depth: int) -> tuple[Any, int]:
    if code in _CONSTANT:
        return _CONSTANT[code], position
    fixed = _FIXED.get(code)
    if fixed is not None:
        size, form = fixed
        _need(position, size, end)
        return (buffer[position] if form is None else form.unpack_from(buffer, position)[0]), position + size
    if code == 0x45:
        return [], position
    kind = code >> 4
    if kind in (0xA, 0xB):
        return _variable(code, buffer, position, end)
    if kind in (0xC, 0xD, 0xE, 0xF):
        return _compound(code, buffer, position, end, depth)
    return _rare(code, buffer, position, end)


def _rare(code: int, buffer: Buffer, position: int, end: int) -> tuple[Any, int]:
    size = {0x56: 1, 0x73: 4, 0x74: 4, 0x83: 8, 0x84: 8, 0x94: 16, 0x98: 16}.get(code)
    if size is None:
        _bad(f"there is no type with constructor 0x{code:02x}")
    _need(position, size, end)
    data = bytes(buffer[position : position + size])
    position += size
    if code == 0x56:
        if data[0] > 1:
            _bad("a boolean is 0 or 1")
        return data == b"\1", position
    if code == 0x83:
        return Timestamp(_I64.unpack(data)[0]), position
    if code == 0x98:
        return UUID(bytes=data), position
    if code == 0x73:
        point = _U32.unpack(data)[0]
        if point > 0x10FFFF or 0xD800 <= point < 0xE000:
            _bad("a char is no Unicode scalar value")
        return chr(point), position
    return Opaque(bytes((code,)) + data), position


def _variable(code: int, buffer: Buffer, position: int, end: int) -> tuple[Any, int]:
    if code & 0xF0 == 0xA0:
        _need(position, 1, end)
        size = buffer[position]
        position += 1
    else:
        _need(position, 4, end)
        size = _U32.unpack_from(buffer, position)[0]
        position += 4
    _need(position, size, end)
    data = bytes(buffer[position : position + size])
    position += size
    low = code & 0xF
    try:
        if low == 0:
            return data, position
        if low == 1:
            return data.decode(), position
        if low == 3:
            return Symbol(data.decode("ascii")), position
    except UnicodeDecodeError:
        _bad("a string is no UTF-8, or a symbol no ASCII")
    _bad(f"there is no type with constructor 0x{code:02x}")


def compound_head(code: int, buffer: Buffer, position: int, end: int) -> tuple[int, int, int]:
    """(items, position of the first, position after the last) of a list, map or array. `position`: of the size."""
    wide = code & 0x10
    _need(position, 8 if wide else 2, end)
    if wide:
        size, count = _U32.unpack_from(buffer, position)[0], _U32.unpack_from(buffer, position + 4)[0]
        start, stop, least = position + 8, position + 4 + size, 4
    else:
        size, count = buffer[position], buffer[position + 1]
        start, stop, least = position + 2, position + 1 + size, 1
    if size < least or stop > end:
        _bad("a compound value runs past its end")
    if count > ITEMS_MAX:
        _bad(f"a compound value of {count} items; {ITEMS_MAX} are taken")
    return count, start, stop


def _compound(code: int, buffer: Buffer, position: int, end: int, depth: int) -> tuple[Any, int]:
    if depth >= DEPTH_MAX:
        _bad(f"values nested more than {DEPTH_MAX} deep")
    count, position, stop = compound_head(code, buffer, position, end)
    if code in (0xE0, 0xF0):
        return _array(count, buffer, position, stop, depth), stop
    if code not in (0xC0, 0xC1, 0xD0, 0xD1):
        _bad(f"there is no type with constructor 0x{code:02x}")
    if count > stop - position:
        _bad("a compound value claims more items than it has bytes")
    items = []
    for _ in range(count):
        value, position = decode(buffer, position, stop, depth + 1)
        items.append(value)
    if position != stop:
        _bad("a compound value is longer than its items")
    return (items if code in (0xC0, 0xD0) else _mapped(items)), stop


def _mapped(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        _bad("a map has a key without a value")
    try:
        return dict(zip(items[::2], items[1::2], strict=True))
    except TypeError:
        _bad("a list or a map as key of a map")


def _array(count: int, buffer: Buffer, position: int, stop: int, depth: int) -> list[Any]:
    _need(position, 1, stop)
    code, descriptor = buffer[position], None
    position += 1
    if code == 0:
        descriptor, position = decode(buffer, position, stop, depth + 1)
        _need(position, 1, stop)
        code = buffer[position]
        position += 1
        if code == 0:
            _bad("an array of doubly described values")
    items = []
    for _ in range(count):
        value, position = _plain(code, buffer, position, stop, depth + 1)
        items.append(value if descriptor is None else Described(descriptor, value))
    if position != stop:
        _bad("an array is longer than its items")
    return items


def skip(buffer: Buffer, position: int, end: int) -> int:
    """Position after the value at `position`, which is not looked into. Raises AmqpError."""
    for _ in range(DEPTH_MAX):
        if position >= end:
            _bad("a value is missing")
        code = buffer[position]
        position += 1
        if code:
            break
        position = skip_descriptor(buffer, position, end)
    else:
        _bad(f"values described more than {DEPTH_MAX} times")
    kind = code >> 4
    if kind in (0xA, 0xC, 0xE):
        _need(position, 1, end)
        position += 1 + buffer[position]
    elif kind in (0xB, 0xD, 0xF):
        _need(position, 4, end)
        position += 4 + int.from_bytes(buffer[position : position + 4], "big")
    elif 4 <= kind <= 9:
        position += (0, 1, 2, 4, 8, 16)[kind - 4]
    else:
        _bad(f"there is no type with constructor 0x{code:02x}")
    if position > end:
        _bad("a value runs past its end")
    return position


def skip_descriptor(buffer: Buffer, position: int, end: int) -> int:
    """Position after a descriptor, which is itself not described."""
    if position < end and buffer[position] == 0:
        _bad("a described descriptor")
    return skip(buffer, position, end)


# -- encoding ---------------------------------------------------------------------------------------------------

NULL: Final = b"\x40"
TRUE: Final = b"\x41"
FALSE: Final = b"\x42"
LIST0: Final = b"\x45"


def boolean(value: bool) -> bytes:
    """A boolean."""
    return TRUE if value else FALSE


def ubyte(value: int) -> bytes:
    """8 bits, unsigned."""
    return bytes((0x50, value))


def ushort(value: int) -> bytes:
    """16 bits, unsigned."""
    return b"\x60" + _U16.pack(value)


def uint(value: int) -> bytes:
    """32 bits, unsigned."""
    if value < 256:
        return bytes((0x52, value)) if value else b"\x43"
    return b"\x70" + _U32.pack(value)


def ulong(value: int) -> bytes:
    """64 bits, unsigned."""
    if value < 256:
        return bytes((0x53, value)) if value else b"\x44"
    return b"\x80" + _U64.pack(value)


def int_(value: int) -> bytes:
    """32 bits, signed."""
    return b"\x54" + value.to_bytes(1, "big", signed=True) if -128 <= value < 128 else b"\x71" + _I32.pack(value)


def long(value: int) -> bytes:
    """64 bits, signed."""
    return b"\x55" + value.to_bytes(1, "big", signed=True) if -128 <= value < 128 else b"\x81" + _I64.pack(value)


def double(value: float) -> bytes:
    """64-bit floating point."""
    return b"\x82" + _F64.pack(value)


def timestamp(milliseconds: int) -> bytes:
    """Milliseconds since the epoch."""
    return b"\x83" + _I64.pack(milliseconds)


def uuid(value: UUID) -> bytes:
    """A UUID."""
    return b"\x98" + value.bytes


def _sized(code: int, data: bytes) -> bytes:
    size = len(data)
    return bytes((code, size)) + data if size < 256 else bytes((code | 0x10,)) + _U32.pack(size) + data


def binary(value: bytes) -> bytes:
    """Bytes."""
    return _sized(0xA0, bytes(value))


def string(value: str) -> bytes:
    """Text."""
    return _sized(0xA1, value.encode())


def symbol(value: str) -> bytes:
    """A symbol."""
    return _sized(0xA3, value.encode("ascii", "replace"))


def list_(items: Sequence[bytes]) -> bytes:
    """A list of encoded values; never the empty form, which SDKs do not read where a performative is expected."""
    body = b"".join(items)
    if len(body) < 255 and len(items) < 256:
        return bytes((0xC0, len(body) + 1, len(items))) + body
    return b"\xd0" + _U32.pack(len(body) + 4) + _U32.pack(len(items)) + body


def map_(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A map of encoded keys and values."""
    return map_items([each for pair in pairs for each in pair])


def map_items(items: Sequence[bytes]) -> bytes:
    """A map of encoded keys and values that take turns."""
    body = b"".join(items)
    if len(body) < 255 and len(items) < 256:
        return bytes((0xC1, len(body) + 1, len(items))) + body
    return b"\xd1" + _U32.pack(len(body) + 4) + _U32.pack(len(items)) + body


def _array_of(code: int, values: Sequence[str], encoding: str) -> bytes:
    items = [text.encode(encoding) for text in values]
    body = bytes((code,)) + b"".join(_U32.pack(len(item)) + item for item in items)
    return b"\xf0" + _U32.pack(len(body) + 4) + _U32.pack(len(items)) + body


def symbols(values: Sequence[str]) -> bytes:
    """An array of symbols."""
    return _array_of(0xB3, values, "ascii")


def strings(values: Sequence[str]) -> bytes:
    """An array of strings."""
    return _array_of(0xB1, values, "utf-8")


def described(code: int, value: bytes) -> bytes:
    """A value described by one of the specification's small codes."""
    return bytes((0x00, 0x53, code)) + value


def encode(value: Any) -> bytes:
    """Any decoded value again. Integers become longs, Python's text strings; `Opaque` goes as it came.

    Raises:
        TypeError: it has no AMQP type.
    """
    for kind, form in _FORMS:
        if isinstance(value, kind):
            encoded: bytes = form(value)
            return encoded
    raise TypeError(f"{type(value).__name__} has no AMQP type")


def _any_map(value: Mapping[Any, Any]) -> bytes:
    return map_((encode(key), encode(each)) for key, each in value.items())


_FORMS: Final[tuple[tuple[Any, Any], ...]] = (
    (type(None), lambda _: NULL),
    (bool, boolean),
    (Timestamp, timestamp),
    (int, lambda value: long(value) if -(2**63) <= value < 2**63 else ulong(value)),
    (float, double),
    (Symbol, symbol),
    (str, string),
    (bytes | bytearray | memoryview, binary),
    (UUID, uuid),
    (Opaque, lambda value: value.encoded),
    (Described, lambda value: b"\0" + encode_descriptor(value.descriptor) + encode(value.value)),
    (dict, _any_map),
    (list | tuple, lambda value: list_([encode(each) for each in value])),
)


def encode_descriptor(value: Any) -> bytes:
    """A descriptor: a ulong or a symbol."""
    return ulong(value) if isinstance(value, int) else symbol(str(value))
