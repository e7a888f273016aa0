"""Which partition a key belongs to: murmur2 as Kafka's Java client computes it, so that every client agrees.

Source: Apache Kafka, `Utils.murmur2` and `BuiltInPartitioner.partitionForKey`; the hash is Austin Appleby's
MurmurHash2 with the seed 0x9747b28c.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF

KEYS_CACHED: Final = 16_384
"""Keys whose hash is remembered: meters repeat for ever, and hashing in Python costs microseconds."""

KEY_BYTES_CACHED: Final = 128
"""Longer keys are hashed anew, so that the cache stays within a few megabytes."""


def murmur2(data: bytes) -> int:
    """Unsigned 32-bit MurmurHash2 of `data`."""
    size = len(data)
    h = _SEED ^ size
    whole = size & ~3
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = (k * _M) & _MASK
        k ^= k >> 24
        h = ((h * _M) & _MASK) ^ ((k * _M) & _MASK)
    if size > whole:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


_cached = lru_cache(KEYS_CACHED)(murmur2)


def partition_of(key: bytes, partitions: int) -> int:
    """Partition of `key` in a hub of that many partitions: the hash without its sign bit, modulo."""
    hashed = _cached(key) if len(key) <= KEY_BYTES_CACHED else murmur2(key)
    return (hashed & 0x7FFFFFFF) % partitions
