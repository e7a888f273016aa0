"""The log of an app that the hub runs: files of bounded size that the app's host writes and the hub reads.

    log/000000000000.log    named by the position of its first byte in all that was ever logged
    log/000004194311.log    the one that is written

A position in that endless text is what a reader goes on from, whichever files there are by then. Whatever the host and
its workers print, user code's prints included, goes through one pipe; each line gets the time at which it came.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gridwire.core.limits import KIB, MIB

FILE_BYTES: Final = 4 * MIB
"""When the next file is begun; the one before stays, older ones go."""

READ_BYTES_MAX: Final = 256 * KIB
"""What one look at the log gives."""

LINE_BYTES_MAX: Final = 16 * KIB
"""A longer line is cut into several."""

SUFFIX: Final = ".log"


@dataclass(frozen=True, slots=True)
class Tail:
    """Whole lines of a log. `next`: where to go on. `skipped`: bytes that were asked for and are gone."""

    lines: list[str]
    next: int
    skipped: int = 0


class LogFiles:
    """Appends to the files. One writer at a time, which the lock on the app sees to."""

    def __init__(self, directory: Path, file_bytes: int = FILE_BYTES) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._file_bytes = directory, file_bytes
        found = _files(directory)
        self._first, path = found[-1] if found else (0, _path(directory, 0))
        self._file = path.open("ab")
        self._size = self._file.tell()

    def write(self, data: bytes) -> None:
        """Append whole lines; what the disk does not take is lost: a full disk must not stop the app."""
        try:
            if self._size >= self._file_bytes:
                self._next_file()
            self._file.write(data)
            self._file.flush()
            self._size += len(data)
        except OSError:
            return

    def _next_file(self) -> None:
        self._file.close()
        self._first += self._size
        self._file, self._size = _path(self._directory, self._first).open("ab"), 0
        for _, path in _files(self._directory)[:-2]:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def capture(directory: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Callable[[], None]:
    """From now on what this process and its children print goes to the log. Returns what ends that, nothing lost."""
    reading, writing = os.pipe()
    for standard in (1, 2):
        os.dup2(writing, standard, inheritable=True)
    os.close(writing)
    files = LogFiles(directory)
    thread = threading.Thread(target=_pump, args=(reading, files, now), name="log", daemon=True)
    thread.start()

    def end() -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for standard in (1, 2):
            os.dup2(nowhere, standard)
        thread.join(5)

    return end


def _pump(reading: int, files: LogFiles, now: Callable[[], datetime]) -> None:
    rest = b""
    while chunk := os.read(reading, 64 * KIB):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            lines, rest = [*lines, rest], b""
        files.write(stamped(lines, now()))
    files.write(stamped([rest] if rest else [], now()))
    files.close()


def stamped(lines: list[bytes], at: datetime) -> bytes:
    """Lines with the time before each, long ones cut."""
    head = at.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode() + b" "
    cut = [line[at : at + LINE_BYTES_MAX] for line in lines for at in range(0, max(1, len(line)), LINE_BYTES_MAX)]
    return b"".join(head + part.rstrip(b"\r") + b"\n" for part in cut)


def read(directory: Path, after: int | None, lines_max: int) -> Tail:
    """The last lines, or those after a position that was told before. Bounded; partial lines wait."""
    files = _files(directory)
    if not files:
        return Tail([], 0)
    first, newest = files[0][0], files[-1]
    end = newest[0] + newest[1].stat().st_size
    begin = max(first, end - READ_BYTES_MAX) if after is None else min(max(after, first), end)
    data = _bytes(files, begin, READ_BYTES_MAX)
    whole = data[: data.rfind(b"\n") + 1]
    found = whole.split(b"\n")[:-1]
    if after is None:
        if begin > first and found:
            found = found[1:]  # it began in the middle of a line
        found = found[len(found) - min(len(found), lines_max) :]
        return Tail(_texts(found), begin + len(whole))
    taken = found[:lines_max]
    return Tail(_texts(taken), begin + sum(len(line) + 1 for line in taken), max(0, first - after))


def _bytes(files: list[tuple[int, Path]], begin: int, size: int) -> bytes:
    data = b""
    for first, path in files:
        with path.open("rb") as file:
            file.seek(max(0, begin + len(data) - first))
            if begin + len(data) >= first:
                data += file.read(size - len(data))
    return data


def _texts(lines: list[bytes]) -> list[str]:
    return [line.decode("utf-8", "backslashreplace") for line in lines]


def _files(directory: Path) -> list[tuple[int, Path]]:
    """First position and path of each file, the newest last."""
    return sorted((int(path.stem), path) for path in directory.glob(f"*{SUFFIX}") if path.stem.isdigit())


def _path(directory: Path, first: int) -> Path:
    return directory / f"{first:012}{SUFFIX}"
