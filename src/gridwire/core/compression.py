"""The four codecs of a record batch, with output capped before anything is allocated for it.

Framing facts that differ from the codecs' defaults: Kafka's snappy is either raw or the xerial stream
(`\\x82SNAPPY\\0`, two int32 versions, then int32-length blocks); lz4 is the LZ4 frame format with
independent blocks, the only one that Java's Kafka clients and brokers read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cramjam

from gridwire.core.errors import InvalidBatch, MessageTooLarge
from gridwire.core.limits import DECOMPRESSED_BYTES_MAX, DECOMPRESSION_FLOOR_BYTES, DECOMPRESSION_RATIO_MAX

NONE: Final = 0
GZIP: Final = 1
SNAPPY: Final = 2
LZ4: Final = 3
ZSTD: Final = 4
NAMES: Final = ("none", "gzip", "snappy", "lz4", "zstd")

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


def _independent_lz4(data: bytes) -> bytes:
    """An LZ4 frame of independent blocks: Java's Kafka clients and brokers read no other."""
    compressor = cramjam.lz4.Compressor(block_linked=False)
    compressor.compress(data)
    return bytes(compressor.finish())


_COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    NONE: lambda data: data,
    GZIP: lambda data: bytes(cramjam.gzip.compress(data)),
    SNAPPY: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    LZ4: _independent_lz4,
    ZSTD: lambda data: bytes(cramjam.zstd.compress(data)),
}
_DECOMPRESS_INTO = {
    GZIP: cramjam.gzip.decompress_into,
    LZ4: cramjam.lz4.decompress_into,
    ZSTD: cramjam.zstd.decompress_into,
}


def compress(codec: int, data: bytes) -> bytes:
    """Compress with the codec's wire framing.

    Raises:
        InvalidBatch: no such codec.
    """
    if codec not in _COMPRESS:
        raise InvalidBatch(f"unknown compression codec {codec}")
    return _COMPRESS[codec](data)


def decompress(codec: int, data: bytes | memoryview, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> bytes | memoryview:
    """Decompress a batch's records section; what comes back is never larger than the cap.

    Raises:
        InvalidBatch: not the codec's format.
        MessageTooLarge: the output would exceed `bytes_max`, or an honest ratio.
    """
    if codec == NONE:
        return data
    cap = min(bytes_max, max(len(data) * DECOMPRESSION_RATIO_MAX, DECOMPRESSION_FLOOR_BYTES))
    if codec == SNAPPY:
        return _snappy(data, cap)
    if codec in _DECOMPRESS_INTO:
        return _grow(codec, bytes(data), cap)
    raise InvalidBatch(f"unknown compression codec {codec}")


def _too_large(cap: int) -> MessageTooLarge:
    return MessageTooLarge(f"batch decompresses to more than {cap} bytes: refused as a decompression bomb")


def _grow(codec: int, data: bytes, cap: int) -> memoryview:
    """Decompress into a buffer of guessed size, a four times larger one when it was too small, up to the cap."""
    room = min(cap, max(len(data) * 8, 4096))
    while True:
        out = bytearray(room)
        try:
            size = _DECOMPRESS_INTO[codec](data, out)
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise InvalidBatch(f"{NAMES[codec]} data cannot be decompressed: {error}") from None
            if room >= cap:
                raise _too_large(cap) from None
            room = min(cap, room * 4)
        else:
            return memoryview(out)[:size]


def _snappy_length(data: bytes) -> int:
    value = shift = 0
    for byte in data[:5]:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    raise InvalidBatch("snappy data has no length")


def _snappy_block(block: bytes, room: int, cap: int) -> bytes:
    if _snappy_length(block) > room:
        raise _too_large(cap)
    try:
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError as error:
        raise InvalidBatch(f"snappy data cannot be decompressed: {error}") from None


def _snappy(view: bytes | memoryview, cap: int) -> bytes:
    data = bytes(view)
    if data[:8] != _XERIAL_MAGIC:
        return _snappy_block(data, cap, cap)
    out = bytearray()
    position = _XERIAL_HEADER_BYTES
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        position += 4
        if size > len(data) - position:
            raise InvalidBatch("snappy block runs past the end of the batch")
        out += _snappy_block(data[position : position + size], cap - len(out), cap)
        position += size
    return bytes(out)
