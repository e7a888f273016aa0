"""The checksum of a partition's events: the same for the same events in the same order, wherever they lie.

A chain, so that it can be kept with a position and gone on with:

    sum = BLAKE2b-128(sum before, time, key, value, headers)

Every field goes in with its length, so that no two different events look alike. Offsets are left out: they differ
between the two sides.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

SUM_BYTES: Final = 16
EMPTY: Final = b""
"""The checksum of no events."""

_TIME = struct.Struct(">q")
_LENGTH = struct.Struct(">i")
_NULL: Final = _LENGTH.pack(-1)

Headers = Sequence[tuple[str, bytes | None]]


def chained(before: bytes, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Headers | None) -> bytes:
    """The checksum after one more event."""
    parts = [before, _TIME.pack(timestamp_ms), _field(key), _field(value)]
    for name, content in headers or ():
        parts += (_field(name.encode()), _field(content))
    return blake2b(b"".join(parts), digest_size=SUM_BYTES).digest()


def _field(data: bytes | None) -> bytes:
    return _NULL if data is None else _LENGTH.pack(len(data)) + data
