"""A function by itself, without a hub: over a failing batch that a running app saved, or over events given by hand.

    from gridwire.functions.saved import run
    assert not run("app", "testdata/f-readings-0-4711.batch").error

A saved file is a magic and the body of a BATCH frame (see `frames`): what the worker was given, byte for byte.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import structlog

from gridwire.columnar.columns import EventColumns
from gridwire.core.errors import InvalidSetting
from gridwire.functions.batches import ROW_BYTES, pack
from gridwire.functions.frames import BATCH, SIZES, Events, padded, read_events
from gridwire.functions.model import STREAMS, App, Call, Function, Result
from gridwire.functions.pool import Pool
from gridwire.functions.settings import AppSettings, Invalid

MAGIC: Final = b"gwbatch1"
"""Eight bytes, so that the columns behind stay aligned."""

FILES_MAX: Final = 100
"""Saved batches a directory takes: a function that always fails must not fill the disk."""

log = structlog.get_logger("gridwire.functions")


def save(directory: Path, call: Call, parts: Sequence[EventColumns]) -> Path | None:
    """Write a batch, unless there are `FILES_MAX`. What cannot be written is logged: it must not stop the function."""
    path = directory / f"{call.function}-{call.hub}-{call.partition}-{int(parts[0].offsets[0])}.batch"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists() and sum(1 for _ in directory.glob("*.batch")) >= FILES_MAX:
            return None
        unfinished = path.with_suffix(".tmp")
        with unfinished.open("wb") as file:
            file.writelines([MAGIC, *pack(call, parts)])
        unfinished.replace(path)
    except OSError as error:
        log.warning("failing batch not saved", path=str(path), reason=error.strerror or str(error))
        return None
    return path


def read(path: Path) -> bytes:
    """The body of a frame. Raises InvalidSetting."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidSetting(f"cannot read {path}: {error.strerror}") from None
    body = data[len(MAGIC) :]
    try:
        whole = data.startswith(MAGIC) and _is_whole(read_events(memoryview(body)))
    except (struct.error, TypeError, ValueError, msgspec.MsgspecError):
        whole = False
    if not whole:
        raise InvalidSetting(f"{path} is not a saved batch")
    return body


def _is_whole(events: Events) -> bool:
    """Whether the columns have as many rows as they say and lie within the bytes that are there."""
    if not events.count or any(len(column) != events.count for column in (events.header_counts, events.value_lengths)):
        return False
    ends = [
        start + max(size, 0)
        for starts, sizes in ((events.key_starts, events.key_lengths), (events.value_starts, events.value_lengths))
        for start, size in zip(starts, sizes, strict=True)
    ]
    return min(*events.key_starts, *events.value_starts) >= 0 and max(ends) <= len(events.data)


def run(directory: Path | str, path: Path | str, function: str = "", *, output: Any = None) -> Result:
    """Give a saved batch to its function, or to another one of the app, in a worker process. Nothing is published.

    Args:
        directory: of the app. output: where its log goes, as for `subprocess`.

    Returns:
        What the function handed out, or its error and traceback.

    Raises:
        InvalidSetting: the file is no saved batch, the app does not load or has no such function.
    """
    body = read(Path(path))
    saved = read_events(memoryview(body)).call
    call = msgspec.structs.replace(saved, function=function or saved.function, failure="")
    with _apart(directory, call.function, output) as (found, pool):
        return _ask(pool, found, with_call(call, body))


def invoke(
    directory: Path | str, function: str, values: Sequence[bytes], key: bytes | None = None, *, output: Any = None
) -> Result:
    """Give events to a function that reads a hub, without a hub. Nothing is published.

    Args:
        values: at least one; they become offsets 0, 1, ... of partition 0, of the present time. key: of each.

    Raises:
        InvalidSetting: there are no events, the app does not load or has no such function.
    """
    if not values:
        raise InvalidSetting("give at least one event")
    with _apart(directory, function, output) as (found, pool):
        call = Call(function, uuid.uuid4().hex, found.hub)
        return _ask(pool, found, pack(call, [_columns(values, key)]))


def _columns(values: Sequence[bytes], key: bytes | None) -> EventColumns:
    count, first = len(values), len(key or b"")
    sizes = np.fromiter(map(len, values), np.int32, count)
    ends = first + np.cumsum(sizes, dtype=np.int64)
    return EventColumns(
        data=np.frombuffer((key or b"") + b"".join(values), np.uint8),
        offsets=np.arange(count, dtype=np.int64),
        timestamps=np.full(count, time.time_ns() // 1_000_000, np.int64),
        key_starts=np.zeros(count, np.int64),
        key_lengths=np.full(count, -1 if key is None else first, np.int32),
        value_starts=ends - sizes,
        value_lengths=sizes,
        header_starts=ends,
        header_counts=np.zeros(count, np.int32),
    )


@contextmanager
def _apart(directory: Path | str, function: str, output: Any) -> Iterator[tuple[Function, Pool]]:
    """A function of an app in a worker whose blobs are thrown away."""
    root = Path(directory).absolute()
    with tempfile.TemporaryDirectory() as blobs, opened(root, Path(blobs), output) as (app, pool):
        yield stream_of(app, function), pool


def with_call(call: Call, body: bytes) -> list[bytes]:
    """A frame's body with another head."""
    head, n, size = SIZES.unpack_from(body)
    columns = SIZES.size + padded(head) + n * ROW_BYTES
    encoded = msgspec.msgpack.encode(call)
    first = SIZES.pack(len(encoded), n, size) + encoded + bytes(padded(len(encoded)) - len(encoded))
    rows = body[SIZES.size + padded(head) : columns]
    return [first, rows, bytes(padded(len(first) + len(rows)) - len(first) - len(rows)), body[padded(columns) :]]


@contextmanager
def opened(
    directory: Path, blobs: Path, output: Any = None, *, beneath: Path | None = None
) -> Iterator[tuple[App, Pool]]:
    """An app loaded in a worker, without a host. Raises InvalidSetting with every problem of the app.

    Args:
        blobs: where its blobs are written. beneath: where one is read that is not there.
    """
    try:
        environment = {**os.environ, **AppSettings(directory).missing_from(os.environ)}
    except Invalid as error:
        raise InvalidSetting(str(error)) from None
    pool = Pool(directory, blobs, beneath=beneath, environment=environment, output=output)
    try:
        app = pool.learn()
        if app.problems:
            raise InvalidSetting("\n  ".join([f"the app in {directory} cannot run:", *app.problems]))
        yield app, pool
    except TimeoutError as error:
        raise InvalidSetting(f"{directory}: {error}") from None
    finally:
        pool.close(kill=True)


def stream_of(app: App, name: str) -> Function:
    """A function that reads a hub, by name. Raises InvalidSetting."""
    names = [function.name for function in app.functions if function.trigger in STREAMS]
    if name not in names:
        raise InvalidSetting(f"no function {name!r} reads a hub: there are {', '.join(names) or 'none'}")
    return next(function for function in app.functions if function.name == name)


def _ask(pool: Pool, function: Function, parts: Sequence[bytes | memoryview]) -> Result:
    answered: Future[Result] = Future()
    pool.submit(BATCH, list(parts), function.timeout_s, lambda fate, result: answered.set_result(result))
    return answered.result()
