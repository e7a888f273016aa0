"""What a disk has, and what it would have after a power cut. Used by power_cut_disk.py and the simulation, not a test.

Every file and directory is kept twice: as programs see it, and as it would be found after a cut. A sync of a file
brings its bytes over, a sync of a directory its names; nothing else does. A file whose name is durable and whose bytes
are not is found empty.
"""

from __future__ import annotations

import random
import stat
import time
from dataclasses import dataclass, field

SECTOR = 512


@dataclass(eq=False)
class File:
    """Bytes as seen, bytes as durable, and the writes between them."""

    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)
    mode: int = stat.S_IFREG | 0o640
    changed: int = 0

    def write(self, data: bytes, offset: int) -> None:
        apply_write(self.seen, offset, data)
        self.unsynced.append((offset, data))
        self.changed = time.time_ns()

    def cut_to(self, size: int) -> None:
        apply_write(self.seen, size, None)
        self.unsynced.append((size, None))
        self.changed = time.time_ns()

    def sync(self) -> None:
        for offset, data in self.unsynced:
            apply_write(self.durable, offset, data)
        self.unsynced.clear()


@dataclass(eq=False)
class Directory:
    """Names as seen, names as durable, and the changes between them; a rename is one change of two names."""

    seen: dict[str, File | Directory] = field(default_factory=dict)
    durable: dict[str, File | Directory] = field(default_factory=dict)
    unsynced: list[dict[str, File | Directory | None]] = field(default_factory=list)
    mode: int = stat.S_IFDIR | 0o750
    changed: int = 0

    def change(self, names: dict[str, File | Directory | None]) -> None:
        apply_names(self.seen, names)
        self.unsynced.append(names)
        self.changed = time.time_ns()

    def sync(self) -> None:
        for names in self.unsynced:
            apply_names(self.durable, names)
        self.unsynced.clear()


def apply_write(content: bytearray, offset: int, data: bytes | None) -> None:
    """A write, or (without data) a cut or an extension to `offset` bytes."""
    if data is None:
        del content[offset:]
    content.extend(bytes(max(0, offset - len(content))))
    if data is not None:
        content[offset : offset + len(data)] = data


def apply_names(content: dict[str, File | Directory], names: dict[str, File | Directory | None]) -> None:
    for name, node in names.items():
        if node is None:
            content.pop(name, None)
        else:
            content[name] = node


class Loss:
    """What a cut leaves, and how much it took."""

    def __init__(self, seed: int, keep: float) -> None:
        self.dice = random.Random(seed)
        self.keep = keep
        self.bytes = self.names = 0

    def cut(self, node: File | Directory) -> None:
        """Turn a node and what lies below into what is found afterwards."""
        if isinstance(node, File):
            self._cut_file(node)
            return
        for names in node.unsynced:
            if self.dice.random() < self.keep:
                apply_names(node.durable, names)
            else:
                self.names += 1
        node.unsynced.clear()
        node.seen = dict(node.durable)
        for child in node.seen.values():
            self.cut(child)

    def _cut_file(self, file: File) -> None:
        for offset, data in file.unsynced:
            if self.dice.random() >= self.keep:
                self.bytes += len(data or b"")
            elif data is None:
                apply_write(file.durable, offset, None)
            else:
                self._keep_sectors(file, offset, data)
        file.unsynced.clear()
        file.seen = bytearray(file.durable)

    def _keep_sectors(self, file: File, offset: int, data: bytes) -> None:
        """A write may arrive in part: sector by sector, in any order; what is missing reads as zeros."""
        if self.dice.random() < 0.5:
            apply_write(file.durable, offset, data)
            return
        for start in range(0, len(data), SECTOR):
            if self.dice.random() < 0.5:
                apply_write(file.durable, offset + start, data[start : start + SECTOR])
            else:
                self.bytes += SECTOR
