"""What does it cost to bring small appends to many files to the disk, one sync a file or one for the file system?

    python bench/sync_files.py [--directory DIR]

Appends 200 B to each of so many files, then times fdatasync of each, one after the other and with four and sixteen
threads, and syncfs once, in turn. This is what docs/decisions/0017 rests on; `make bench` leaves it out. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import support
from support import Spread, spread_text

COUNTS: Final = (1, 5, 20, 100, 1000)
APPEND: Final = b"x" * 200
SYSTEM: Final = ctypes.CDLL(None, use_errno=True)


def one_by_one(files: Sequence[int]) -> None:
    for descriptor in files:
        os.fdatasync(descriptor)


def in_threads(files: Sequence[int], pool: ThreadPoolExecutor) -> None:
    list(pool.map(os.fdatasync, files))


def file_system(files: Sequence[int]) -> None:
    if SYSTEM.syncfs(files[0]):
        raise OSError(ctypes.get_errno(), "syncfs failed")


def timed(files: Sequence[int], sync: Callable[[Sequence[int]], None]) -> float:
    """Milliseconds of the sync alone."""
    for descriptor in files:
        os.write(descriptor, APPEND)
    begun_s = time.perf_counter()
    sync(files)
    return (time.perf_counter() - begun_s) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="on the disk in question [default: the temporary directory]")
    options = parser.parse_args()
    support.heading("sync_files")
    rows = []
    with (
        support.scratch("sync", options.directory) as directory,
        ThreadPoolExecutor(4) as four,
        ThreadPoolExecutor(16) as many,
    ):
        ways = {
            "fdatasync": one_by_one,
            "4 threads": partial(in_threads, pool=four),
            "16 threads": partial(in_threads, pool=many),
            "syncfs": file_system,
        }
        for count in COUNTS:
            files = [os.open(directory / str(number), os.O_RDWR | os.O_CREAT | os.O_APPEND) for number in range(count)]
            rounds = max(5, 200 // count)
            found = support.interleave({name: partial(timed, files, way) for name, way in ways.items()}, rounds)
            rows.append([str(count), *(spread_text(Spread.of(each)) for each in found.values())])
            for descriptor in files:
                os.close(descriptor)
    print(support.table(["files", *(f"{name}, ms" for name in ways)], rows))


if __name__ == "__main__":
    main()
