"""What a power cut may leave of a Delta table on a local disk, and how it is put right.

The Delta library writes files without syncing them. So the writer syncs each commit before anybody relies on it:

    data files -> commit file -> both directories -> only then may the position be reported or old files be removed

A commit that was not yet synced when the power went may be there with its data torn or missing. It is always the
newest one, nobody has been told of it, and its events are still in the log. `repair` therefore removes such a tail,
and only that: more damage than a power cut can do raises `Corruption`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from gridwire.core.errors import Corruption, Unavailable

LOG_DIRECTORY: Final = "_delta_log"
LAST_CHECKPOINT: Final = "_last_checkpoint"
IDENTITY_FILE: Final = ".gridwire-lake"
TORN_COMMITS_MAX: Final = 2
"""Commits are synced one by one, only the two of a vacuum together; more torn ones are not a power cut's work."""


def commit_file(table: Path, version: int) -> Path:
    """Where the commit of a version lies."""
    return table / LOG_DIRECTORY / f"{version:020d}.json"


def lock(table: Path) -> int:
    """Take the lock beside the table; the operating system lets go of it when the process dies."""
    descriptor = os.open(table.with_name(f"{table.name}@lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Unavailable(f"lake table {table.name!r} is being written by another process") from None
    return descriptor


def identity(lake: Path) -> str:
    """Which lake this is, whatever machine it is reached from; a lake without one is given one, once."""
    name = lake / IDENTITY_FILE
    lake.mkdir(parents=True, exist_ok=True)
    if not name.exists():
        fresh = uuid.uuid4().hex
        draft = lake / f"{IDENTITY_FILE}.{fresh}.tmp"
        draft.write_text(fresh)
        sync_path(draft)
        with contextlib.suppress(FileExistsError):  # another worker was faster: that is the identity
            os.link(draft, name)
        draft.unlink()
        sync_path(lake)
    return name.read_text()


def sync_path(path: Path) -> None:
    """Flush one file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_commits(table: Path, versions: Iterable[int]) -> None:
    """Flush the data files and the commit files of `versions`, then the directories that name them."""
    for version in versions:
        path = commit_file(table, version)
        for add in _adds(_actions(path)):
            sync_path(table / unquote(add["path"]))
        sync_path(path)
    sync_path(table)
    sync_path(table / LOG_DIRECTORY)


def sync_checkpoint(table: Path, version: int) -> None:
    """Flush the checkpoint of a version; only then may the commits below it be removed."""
    log = table / LOG_DIRECTORY
    for path in log.glob(f"{version:020d}.checkpoint*.parquet"):
        sync_path(path)
    sync_path(log / LAST_CHECKPOINT)
    sync_path(log)


def repair(table: Path) -> list[str]:
    """Remove a torn tail of the table's log: the newest commits and the newest checkpoint, if they are not whole.

    Returns:
        What was removed, for the log; usually nothing.

    Raises:
        Corruption: more commits are damaged than a power cut can damage.
    """
    log = table / LOG_DIRECTORY
    if not log.is_dir():
        return []
    torn = []
    for path in sorted(log.glob("[0-9]*.json"), reverse=True):
        if _whole(table, path):
            break
        torn.append(path)
        if len(torn) > TORN_COMMITS_MAX:
            raise Corruption("several commits of a lake table are damaged", segment=path.name, hub=table.name)
    removed = [*_torn_checkpoint(log), *torn]
    for path in removed:
        path.unlink()
    if removed:
        sync_path(log)
    return [path.name for path in removed]


def _actions(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]


def _adds(actions: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (action["add"] for action in actions if "add" in action)


def _whole(table: Path, path: Path) -> bool:
    """Whether a commit parses and every file it adds is there in full."""
    try:
        actions = _actions(path)
    except ValueError:
        return False
    return bool(actions) and all(_sound(table / unquote(add["path"]), add["size"]) for add in _adds(actions))


def _sound(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes and _readable(path)


def _readable(path: Path) -> bool:
    try:
        pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _torn_checkpoint(log: Path) -> list[Path]:
    """Files of a checkpoint that is not whole, with the pointer to it; the commits it sums up are still there."""
    pointer = log / LAST_CHECKPOINT
    torn = [path for path in log.glob("*.checkpoint*.parquet") if not _readable(path)]
    if pointer.exists() and (torn or not _points_somewhere(log, pointer)):
        torn.append(pointer)
    return torn


def _points_somewhere(log: Path, pointer: Path) -> bool:
    try:
        version = int(json.loads(pointer.read_bytes())["version"])
    except (ValueError, KeyError, TypeError):
        return False
    return any(log.glob(f"{version:020d}.checkpoint*.parquet"))
