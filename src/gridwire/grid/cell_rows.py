"""Cells of readings, a row an interval, of which only those in use need memory.

Two days of five million meters are 7.7 GB, and all but the newest intervals are looked at only when something late
arrives. Large ones therefore lie in a file without a name, mapped into memory: rows at rest are the system's to keep or
to write out. Its space on the disk is taken beforehand, for a full disk must not end the process. Where the system
cannot do that, or the disk is too small, they are in memory all the same.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from gridwire.core.limits import MIB

log = structlog.get_logger(__name__)

IN_MEMORY_BYTES: Final = 512 * MIB
"""Up to this much is kept in memory."""

FREE_TIMES: Final = 2
"""A file is made where so many times its size is free: the log comes first."""

_ABLE: Final = hasattr(os, "posix_fallocate") and hasattr(mmap, "MADV_DONTNEED")


class CellRows:
    """`array[rows, channels, points]` of zeros. `directory`: for the file; None: always in memory."""

    def __init__(self, shape: tuple[int, int, int], directory: Path | None = None) -> None:
        self._file = _mapped(shape, directory)
        self._in_use: set[int] = set()
        self.array: NDArray[np.int64] = (
            np.zeros(shape, np.int64) if self._file is None else np.frombuffer(self._file, np.int64).reshape(shape)
        )

    @property
    def is_in_file(self) -> bool:
        """Whether rows can rest."""
        return self._file is not None

    @property
    def is_large(self) -> bool:
        """Whether it is better not to write all of it at once."""
        return self.array.nbytes > IN_MEMORY_BYTES

    def use(self, rows: Collection[int]) -> None:
        """These rows are in use, and others at rest from now on."""
        if self._file is None:
            return
        row_bytes = self.array[0].nbytes
        for row in self._in_use.difference(rows):
            begin = -(-row * row_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
            end = (row + 1) * row_bytes // mmap.PAGESIZE * mmap.PAGESIZE
            if end > begin:
                self._file.madvise(mmap.MADV_DONTNEED, begin, end - begin)  # of a file: its pages stay what they are
        self._in_use = set(rows)


def _mapped(shape: tuple[int, int, int], directory: Path | None) -> mmap.mmap | None:
    size_bytes = int(np.prod(shape, dtype=np.int64)) * 8
    if directory is None or not _ABLE or size_bytes <= IN_MEMORY_BYTES:
        return None
    try:
        free_bytes = shutil.disk_usage(directory).free
        if free_bytes < FREE_TIMES * size_bytes:
            raise OSError(errno.ENOSPC, f"{free_bytes:,} bytes are free, and others want to write as well")
        with tempfile.TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return mmap.mmap(file.fileno(), size_bytes)
    except OSError as error:
        log.warning("cells are kept in memory", size_bytes=size_bytes, directory=str(directory), reason=str(error))
        return None
