"""Everything has a named limit with its reason."""

from __future__ import annotations

import re
from typing import Final

from gridwire.core.errors import InvalidName

KIB: Final = 1024
MIB: Final = 1024 * 1024

REQUEST_BYTES_MAX: Final = 100 * MIB
"""One Kafka frame; the default of `socket.request.max.bytes`, refused before anything is allocated."""

BATCH_BYTES_MAX: Final = 64 * MIB
"""One record batch. Clients default to 1 MiB; large batches are what makes the log fast."""

HTTP_BODY_BYTES_MAX: Final = 32 * MIB
"""One HTTP request body; the ingest path holds it in memory while it is encoded."""

EVENT_BYTES_MAX: Final = 8 * MIB
"""One event on the HTTP head."""

DECOMPRESSED_BYTES_MAX: Final = 64 * MIB
"""What one compressed batch may grow to; above it the batch is a decompression bomb."""

DECOMPRESSION_RATIO_MAX: Final = 1100
"""Largest honest ratio of a large batch; deflate's own limit is 1,032."""

DECOMPRESSION_FLOOR_BYTES: Final = 16 * MIB
"""What any batch may grow to whatever its ratio: a load test's constant payload compresses past every ratio."""

RECORDS_PER_BATCH_MAX: Final = 16 * 1024 * 1024
"""Records one batch may claim; checked against its size before the count is believed."""

PARTITIONS_PER_HUB_MAX: Final = 1024
"""Each partition costs two files and some kilobytes of memory."""

CONNECTIONS_MAX: Final = 10_000
"""Connections one head accepts; above it a new one is closed at once."""

FETCH_BYTES_MAX: Final = 64 * MIB
"""What one fetch answers at most, whatever the client asked for."""

NAME_MAX: Final = 249
"""Kafka's own limit on topic names."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")


def check_name(name: str, what: str = "hub") -> str:
    """Return `name` if it is a legal hub or group name.

    Raises:
        InvalidName: it has other characters, is too long, or is `.` or `..`.
    """
    if not _NAME.match(name) or name in (".", ".."):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise InvalidName(
            f"{what} name {shown!r} is not allowed: use 1 to {NAME_MAX} letters, digits, '.', '_' and '-'"
        )
    return name
