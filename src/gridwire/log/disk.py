"""The one home of calls that differ between operating systems, with a fallback for each."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gridwire.core.errors import DiskFull, GridwireError, StorageFailed

_IOV_MAX = 1024
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def open_file(path: Path) -> int:
    """Open for reading and writing, creating the file; returns a descriptor."""
    return os.open(path, _OPEN_FLAGS, 0o640)


def open_existing(path: Path) -> int:
    """Open for reading and writing a file that must be there; returns a descriptor."""
    return os.open(path, _OPEN_FLAGS & ~os.O_CREAT)


def open_read(path: Path) -> int:
    """Open for reading; returns a descriptor."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))


if hasattr(os, "pwritev"):

    def _write_some(descriptor: int, buffers: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        return os.pwritev(descriptor, buffers[:_IOV_MAX], position)

else:

    def _write_some(descriptor: int, buffers: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.write(descriptor, buffers[0])


def write_all(descriptor: int, buffers: Sequence[bytes | bytearray | memoryview], position: int) -> int:
    """Write all buffers back to back from `position` on; short writes are continued. Returns the bytes written."""
    pending = list(buffers)
    start = position
    while pending:
        written = _write_some(descriptor, pending, position)
        position += written
        done = 0
        while done < len(pending) and written >= len(pending[done]):
            written -= len(pending[done])
            done += 1
        del pending[:done]
        if written:
            pending[0] = memoryview(pending[0])[written:]
    return position - start


if hasattr(os, "pread"):

    def read_at(descriptor: int, size: int, position: int) -> bytes:
        """Read up to `size` bytes at `position` without moving anybody's file position."""
        return os.pread(descriptor, size, position)

else:
    import threading

    _seek_lock = threading.Lock()

    def read_at(descriptor: int, size: int, position: int) -> bytes:
        """Read up to `size` bytes at `position`; seek and read under one lock."""
        with _seek_lock:
            os.lseek(descriptor, position, os.SEEK_SET)
            return os.read(descriptor, size)


if hasattr(os, "fdatasync"):
    sync_data = os.fdatasync
elif sys.platform == "darwin":
    import fcntl

    def sync_data(descriptor: int, /) -> None:
        """On macOS only F_FULLFSYNC asks the drive itself to flush."""
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)

else:
    sync_data = os.fsync


def sync_directory(path: Path) -> None:
    """Make names created in or removed from a directory durable. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace a small file so that readers and crashes see the old or the new content, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, _OPEN_FLAGS | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, [data], 0)
        if sync:
            sync_data(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    if sync:
        sync_directory(path.parent)


def storage_error(error: OSError, what: str) -> StorageFailed:
    """Our error for the operating system's."""
    if error.errno in _FULL:
        return DiskFull(f"disk full while {what}: free space on the data directory's disk, appends then resume")
    return StorageFailed(f"disk error while {what}: {error.strerror or error}")


def free_bytes(path: Path) -> int:
    """Bytes an ordinary user can still write on the disk that holds `path`."""
    import shutil

    return shutil.disk_usage(path).free


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a path lies: type of file system, device, mount options, and the device's write cache, if known."""

    kind: str
    device: str
    options: frozenset[str]
    write_cache: str = ""


def mount_of(path: Path, table: Path = Path("/proc/self/mountinfo")) -> Mount | None:
    """What the file system of a path is; None where the system does not say. **Source**: proc(5), mountinfo."""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return None
    place, best = path.resolve(), (-1, "")
    for line in lines:
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if place.is_relative_to(point) and len(point.parts) >= best[0]:
            best = len(point.parts), line
    left, _, right = best[1].partition(" - ")
    if not right:
        return None
    fields, (kind, device, *more) = left.split(), right.split()
    options = frozenset(",".join((fields[5], *more)).split(","))
    return Mount(kind, device, options, _write_cache(fields[2]))


def _write_cache(number: str) -> str:
    """What the kernel thinks of a device's cache: `write back` is flushed by a sync, `write through` needs none."""
    device = Path("/sys/dev/block") / number
    for queue in (device / "queue", device / "../queue"):  # a partition's queue is its disk's
        with contextlib.suppress(OSError):
            return (queue / "write_cache").read_text().strip()
    return ""


class DirectoryLock:
    """Keeps a second hub away from a data directory, for as long as this process lives."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "LOCK"
        self._descriptor = os.open(self._path, _OPEN_FLAGS, 0o600)
        try:
            _lock(self._descriptor)
        except OSError:
            owner = self._owner()
            os.close(self._descriptor)
            raise GridwireError(
                f"data directory {directory} is in use by another hub{owner}: stop that one, or choose another --data"
            ) from None
        os.ftruncate(self._descriptor, 0)
        write_all(self._descriptor, [str(os.getpid()).encode()], 0)

    def _owner(self) -> str:
        with contextlib.suppress(OSError):
            pid = self._path.read_text().strip()
            return f" (process {pid})" if pid else ""
        return ""

    def release(self) -> None:
        """Let the next hub in."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


if os.name == "nt":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]

else:
    import fcntl as _fcntl

    def _lock(descriptor: int) -> None:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def raise_open_files() -> None:
    """Allow this process as many open files as the system lets it; segments and connections need them."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
