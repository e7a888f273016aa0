"""A file system in memory that forgets like a disk at a power cut. Started by test_power_cut.py, not a test.

What is durable and what is not is kept by forgetting.py. At a cut each change that was not synced is dropped, or
survives by chance: that is the choice of whoever cuts, as is the seed.

Commands on standard input, one a line, each answered by one line of JSON:

    cut SEED KEEP   from now on every call fails; changes that were not synced survive with probability KEEP
    on              the disk is back, with what survived
    deaf            from now on a sync says yes and does nothing: a disk that lies, for negative controls
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import threading
import time
from pathlib import PurePosixPath
from typing import Any

import mfusepy
from forgetting import Directory, File, Loss


class ForgetfulDisk(mfusepy.Operations):  # type: ignore[misc]
    """The file system. Calls come from one thread, commands from another."""

    use_ns = True

    def __init__(self) -> None:
        self._root = Directory(changed=time.time_ns())
        self._open: dict[int, File] = {}
        self._next = 1
        self._mutex = threading.RLock()
        self._dead = self._deaf = False
        self.syncs = 0

    # commands

    def command(self, line: str) -> dict[str, Any]:
        word, *rest = line.split()
        with self._mutex:
            if word == "cut":
                loss = Loss(int(rest[0]), float(rest[1]))
                self._dead = True
                loss.cut(self._root)
                return {"lost_bytes": loss.bytes, "lost_names": loss.names, "syncs": self.syncs}
            if word == "deaf":
                self._deaf = True
            if word == "on":
                self._dead = False
                self._open.clear()
            return {}

    # calls

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        """No cache of the kernel's: a cut must not leave anything there."""
        config = config_3.contents if hasattr(config_3, "contents") else config_3
        config.direct_io = config.hard_remove = 1
        config.entry_timeout = config.attr_timeout = config.negative_timeout = 0.0

    def _node(self, path: str) -> File | Directory:
        if self._dead:
            raise mfusepy.FuseOSError(errno.EIO)
        node: File | Directory = self._root
        for name in PurePosixPath(path).parts[1:]:
            if not isinstance(node, Directory) or name not in node.seen:
                raise mfusepy.FuseOSError(errno.ENOENT)
            node = node.seen[name]
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        where = PurePosixPath(path)
        parent = self._node(str(where.parent))
        if not isinstance(parent, Directory):
            raise mfusepy.FuseOSError(errno.ENOTDIR)
        return parent, where.name

    def _file(self, path: str, handle: int | None) -> File:
        if self._dead:
            raise mfusepy.FuseOSError(errno.EIO)
        if handle in self._open:
            return self._open[handle]
        node = self._node(path)
        if not isinstance(node, File):
            raise mfusepy.FuseOSError(errno.EISDIR)
        return node

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        with self._mutex:
            node = self._open.get(fh) if fh else None
            node = node or self._node(path)
            size = len(node.seen) if isinstance(node, File) else 4096
            times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), node.changed)
            owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
            return {"st_mode": node.mode, "st_size": size, "st_nlink": 1, "st_blocks": size // 512 + 1} | times | owner

    def readdir(self, path: str, fh: int) -> Any:
        with self._mutex:
            node = self._node(path)
            return [".", "..", *(node.seen if isinstance(node, Directory) else ())]

    def _opened(self, file: File) -> int:
        handle, self._next = self._next, self._next + 1
        self._open[handle] = file
        return handle

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        with self._mutex:
            parent, name = self._parent(path)
            file = File(mode=stat.S_IFREG | (mode & 0o777), changed=time.time_ns())
            parent.change({name: file})
            return self._opened(file)

    def open(self, path: str, flags: int) -> int:
        with self._mutex:
            file = self._file(path, None)
            if flags & os.O_TRUNC:
                file.cut_to(0)
            return self._opened(file)

    def release(self, path: str, fh: int) -> int:
        with self._mutex:
            self._open.pop(fh, None)
            return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        with self._mutex:
            return bytes(self._file(path, fh).seen[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with self._mutex:
            self._file(path, fh).write(bytes(data), offset)
            return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        with self._mutex:
            self._file(path, fh).cut_to(length)
            return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        with self._mutex:
            self.syncs += 1
            file = self._file(path, fh)
            if not self._deaf:
                file.sync()
            return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        with self._mutex:
            self.syncs += 1
            node = self._node(path)
            if not self._deaf and isinstance(node, Directory):
                node.sync()
            return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        with self._mutex:
            parent, name = self._parent(path)
            if name in parent.seen:
                raise mfusepy.FuseOSError(errno.EEXIST)
            parent.change({name: Directory(mode=stat.S_IFDIR | (mode & 0o777), changed=time.time_ns())})
            return 0

    def unlink(self, path: str) -> int:
        with self._mutex:
            self._node(path)
            parent, name = self._parent(path)
            parent.change({name: None})
            return 0

    def rmdir(self, path: str) -> int:
        with self._mutex:
            node = self._node(path)
            if isinstance(node, Directory) and node.seen:
                raise mfusepy.FuseOSError(errno.ENOTEMPTY)
            parent, name = self._parent(path)
            parent.change({name: None})
            return 0

    def rename(self, old: str, new: str) -> int:
        with self._mutex:
            node = self._node(old)
            parent, name = self._parent(old)
            target, target_name = self._parent(new)
            if parent is not target:
                raise mfusepy.FuseOSError(errno.EXDEV)
            parent.change({name: None, target_name: node})
            return 0

    def chmod(self, path: str, mode: int) -> int:
        with self._mutex:
            node = self._node(path)
            node.mode = (node.mode & ~0o777) | (mode & 0o777)
            return 0

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 1 << 24, "f_bfree": 1 << 23, "f_bavail": 1 << 23}

    def utimens(self, path: str, times: Any = None) -> int:
        return 0

    def lock(self, path: str, fh: int, cmd: int, lock: Any) -> int:
        return 0

    def flock(self, path: str, fh: int, op: int) -> int:
        return 0


def listen(disk: ForgetfulDisk) -> None:
    for line in sys.stdin:
        print(json.dumps(disk.command(line)), flush=True)


def main() -> None:
    disk = ForgetfulDisk()
    threading.Thread(target=listen, args=(disk,), daemon=True).start()
    mfusepy.FUSE(disk, sys.argv[1], foreground=True, nothreads=True, fsname="forgetful", default_permissions=False)


if __name__ == "__main__":
    main()
