"""`gridwire.json`: the format of a data directory, and the cluster id that clients see. Sealed by a CRC-32C."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from uuid import uuid4

import msgspec
from fastcrc import crc32

from gridwire.core.errors import GridwireError
from gridwire.log import disk

FORMAT_VERSION: Final = 1


class _Identity(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    cluster_id: str
    crc: int | None = None


def _crc(format_version: int, cluster_id: str) -> int:
    return int(crc32.iscsi(f"{format_version}/{cluster_id}".encode()))


def cluster_id(directory: Path) -> str:
    """The cluster id of a data directory; a directory without one gets one.

    Raises:
        GridwireError: the file is damaged, or of a newer format. OSError.
    """
    path = directory / "gridwire.json"
    if not path.exists():
        fresh = uuid4().hex[:22]
        disk.write_atomic(path, msgspec.json.encode(_Identity(FORMAT_VERSION, fresh, _crc(FORMAT_VERSION, fresh))))
    try:
        known = msgspec.json.decode(path.read_bytes(), type=_Identity)
    except (msgspec.DecodeError, UnicodeDecodeError):
        known = None
    if known is None or known.crc not in (None, _crc(known.format, known.cluster_id)):
        raise GridwireError(
            f"{path} is damaged: restore it from a backup of the data directory, or remove it (the hub then takes a "
            "new cluster id; events and positions stay)"
        )
    if known.format > FORMAT_VERSION:
        raise GridwireError(
            f"data directory has format {known.format}, this gridwire knows {FORMAT_VERSION}: use a newer one"
        )
    return known.cluster_id
