"""Decoders and encoders of the protocol's primitive types, classic and compact.

A decoder takes (buffer, position) and returns (value, next position); an encoder appends to a bytearray. Every length
is checked against what is left before anything is allocated. Reading past the end surfaces as `struct.error` or
`IndexError`, which `gridwire.wire.kafka.codec` turns into `RemoteProtocolError` in one place.

    classic:  string int16 length, bytes and array int32 length; -1 is null
    compact:  unsigned varint length + 1; 0 is null
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from gridwire.core.errors import LocalProtocolError, RemoteProtocolError

Buffer = bytes | bytearray | memoryview
Decoder = Callable[[Buffer, int], tuple[Any, int]]
Encoder = Callable[[bytearray, Any], None]

FIXED: Final[dict[str, str]] = {"bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "float64": "d"}
"""Types of fixed width and their `struct` codes; runs of them are read and written in one go."""

INT16: Final = struct.Struct(">h")
INT32: Final = struct.Struct(">i")


def read_uvarint(buffer: Buffer, position: int) -> tuple[int, int]:
    """Read an unsigned varint of at most 32 bits.

    Raises:
        RemoteProtocolError: it is longer. IndexError: the buffer ends first.
    """
    byte = buffer[position]
    if byte < 0x80:
        return byte, position + 1
    value, shift = byte & 0x7F, 7
    while True:
        position += 1
        byte = buffer[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 28:
            raise RemoteProtocolError("varint is longer than five bytes")
    if value > 0xFFFFFFFF:
        raise RemoteProtocolError("varint is larger than 32 bits")
    return value, position + 1


def write_uvarint(out: bytearray, value: int) -> None:
    """Append an unsigned varint."""
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)


def read_length16(buffer: Buffer, position: int) -> tuple[int, int]:
    """Length of a classic string; -1 is null."""
    return INT16.unpack_from(buffer, position)[0], position + 2


def read_length32(buffer: Buffer, position: int) -> tuple[int, int]:
    """Length of classic bytes or a classic array; -1 is null."""
    return INT32.unpack_from(buffer, position)[0], position + 4


def read_compact_length(buffer: Buffer, position: int) -> tuple[int, int]:
    """Length of anything compact; -1 is null."""
    value, position = read_uvarint(buffer, position)
    return value - 1, position


def write_length16(out: bytearray, size: int) -> None:
    """Append the length of a classic string."""
    out += INT16.pack(size)


def write_length32(out: bytearray, size: int) -> None:
    """Append the length of classic bytes or a classic array."""
    out += INT32.pack(size)


def write_compact_length(out: bytearray, size: int) -> None:
    """Append the length of anything compact."""
    write_uvarint(out, size + 1)


LengthReader = Callable[[Buffer, int], tuple[int, int]]
LengthWriter = Callable[[bytearray, int], None]


def check_length(size: int, buffer: Buffer, position: int, least: int = 1) -> None:
    """Refuse a length below -1 or above what is left, counting `least` bytes an element.

    Raises:
        RemoteProtocolError: with the reason.
    """
    if size < -1:
        raise RemoteProtocolError(f"negative length {size}")
    if size * least > len(buffer) - position:
        raise RemoteProtocolError(f"length {size} runs past the end of the frame")


def string_decoder(read_length: LengthReader, nullable: bool) -> Decoder:
    """Decoder of a UTF-8 string."""

    def decode(buffer: Buffer, position: int) -> tuple[str | None, int]:
        size, position = read_length(buffer, position)
        if size < 0:
            _check_null(size, nullable, "string")
            return None, position
        end = position + size
        if end > len(buffer):
            raise RemoteProtocolError(f"string of {size} bytes runs past the end of the frame")
        return str(buffer[position:end], "utf-8"), end

    return decode


def bytes_decoder(read_length: LengthReader, nullable: bool) -> Decoder:
    """Decoder of a byte string, copied out of the frame."""

    def decode(buffer: Buffer, position: int) -> tuple[bytes | None, int]:
        size, position = read_length(buffer, position)
        if size < 0:
            _check_null(size, nullable, "bytes")
            return None, position
        end = position + size
        if end > len(buffer):
            raise RemoteProtocolError(f"{size} bytes run past the end of the frame")
        return bytes(buffer[position:end]), end

    return decode


def _check_null(size: int, nullable: bool, what: str) -> None:
    if size < -1 or not nullable:
        raise RemoteProtocolError(f"{what} of length {size}")


def uuid_decoder(buffer: Buffer, position: int) -> tuple[UUID, int]:
    """Decode 16 bytes."""
    end = position + 16
    if end > len(buffer):
        raise RemoteProtocolError("uuid runs past the end of the frame")
    return UUID(bytes=bytes(buffer[position:end])), end


def uuid_encoder(out: bytearray, value: UUID) -> None:
    """Append 16 bytes."""
    out += value.bytes


def string_encoder(write_length: LengthWriter, nullable: bool) -> Encoder:
    """Encoder of a UTF-8 string."""

    def encode(out: bytearray, value: str | None) -> None:
        if value is None:
            _write_null(out, write_length, nullable)
        else:
            data = value.encode()
            write_length(out, len(data))
            out += data

    return encode


def bytes_encoder(write_length: LengthWriter, nullable: bool) -> Encoder:
    """Encoder of a byte string."""

    def encode(out: bytearray, value: Buffer | None) -> None:
        if value is None:
            _write_null(out, write_length, nullable)
        else:
            write_length(out, len(value))
            out += value

    return encode


def _write_null(out: bytearray, write_length: LengthWriter, nullable: bool) -> None:
    if not nullable:
        raise LocalProtocolError("null where the protocol forbids it")
    write_length(out, -1)


def skip_tags(buffer: Buffer, position: int) -> int:
    """Position after a tagged-fields section whose contents nobody wants."""
    count, position = read_uvarint(buffer, position)
    for _ in range(count):
        _, position = read_uvarint(buffer, position)
        size, position = read_uvarint(buffer, position)
        position += size
        if position > len(buffer):
            raise RemoteProtocolError("tagged field runs past the end of the frame")
    return position
