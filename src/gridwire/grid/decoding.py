"""Frames of meters to events, in processes of their own: decoders in Python are what limits a stream of frames.

A frame that kills the process that decodes it, however it does so, goes to quarantine like any that cannot be read; the
frames that were with it are decoded again.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from msgspec import structs

from gridwire.core.batch import Event
from gridwire.core.limits import MIB
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BadFrame, Context
from gridwire.grid.ingest import (
    happened_events,
    quarantine_event,
    reading_events,
    usage_point_of_meter,
    weather_events,
)

FRAMES_A_TASK: Final = 500
"""Frames a process is given at once: below it, passing them on costs more than decoding."""

BYTES_A_TASK: Final = MIB
"""The same in bytes; a frame may be longer."""

DIED: Final = "the process that decoded it died"
"""Reason of a frame that no process survived."""


class Frame(NamedTuple):
    """The value of one event of a hub of frames.

    Args:
        source: hub, partition and offset, kept with what comes out of it. meter: "" when the frame names it.
    """

    data: bytes
    source: str
    meter: str
    received_at_us: int


@dataclass(slots=True)
class Found:
    """What frames gave: readings, meter events, weather, and what could not be read; in the order of the frames."""

    readings: list[Event] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    weather: list[Event] = field(default_factory=list)
    bad: list[Event] = field(default_factory=list)
    frames: int = 0

    def stamp(self, now_ms: int) -> None:
        """Give events without a time this one."""
        for events in (self.readings, self.events, self.weather, self.bad):
            for place in range(len(events) - 1, -1, -1):
                if events[place].timestamp:
                    break
                events[place] = structs.replace(events[place], timestamp=now_ms)

    def add(self, other: Found) -> None:
        """Append what later frames gave."""
        self.readings += other.readings
        self.events += other.events
        self.weather += other.weather
        self.bad += other.bad
        self.frames += other.frames


def decode(format: str, context: Context, frames: Iterable[Frame]) -> Found:
    """Decode frames one by one. Readings are keyed by usage point.

    Raises:
        Unsupported: no such format.
    """
    decoder, usage_point, found = registry.get(format), usage_point_of_meter(), Found()
    for frame in frames:
        own = replace(
            context, source=frame.source, meter=frame.meter or context.meter, received_at_us=frame.received_at_us
        )
        for item in decoder.decode(frame.data, frame.source, own):
            if isinstance(item, BadFrame):
                found.bad.append(quarantine_event(item, format, frame.source, own))
            else:
                found.readings += reading_events(item, usage_point)
                found.events += happened_events(item, usage_point)
                found.weather += weather_events(item)
        found.frames += 1
        found.stamp(frame.received_at_us // 1000)
    return found


Work = Callable[[str, Context, Sequence[Frame]], Found]
"""What a process does with a task; see `decode`."""


class DecoderPool:
    """Processes that decode. They end with the process that made them, however it ends.

    Args:
        processes: how many; one a core unless said.
    """

    def __init__(self, processes: int | None = None, work: Work = decode) -> None:
        self._work = work
        self._processes = processes or max(os.cpu_count() or 1, 1)
        self._pool: ProcessPoolExecutor | None = None
        self.died = 0

    def decode(self, format: str, context: Context, frames: Sequence[Frame]) -> Found:
        """Decode frames, several tasks at a time. Raises Unsupported."""
        found = Found()
        tasks = list(_tasks(frames))
        waiting: list[Future[Found] | None] = [self._submit(format, context, task) for task in tasks]
        for task, future in zip(tasks, waiting, strict=True):
            found.add(self._result(format, context, task, future))
        return found

    def _submit(self, format: str, context: Context, task: Sequence[Frame]) -> Future[Found] | None:
        """None when the processes have just died."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._processes, multiprocessing.get_context("spawn"), initializer=_end_with_parent
            )
        try:
            return self._pool.submit(self._work, format, context, task)
        except BrokenProcessPool:
            return None

    def _result(self, format: str, context: Context, task: Sequence[Frame], future: Future[Found] | None) -> Found:
        try:
            if future is not None:
                return future.result()
        except BrokenProcessPool:
            pass
        self.close()
        return self._alone(format, context, task)

    def _alone(self, format: str, context: Context, task: Sequence[Frame]) -> Found:
        """Frames of which one may have killed its process: halves, until it is alone."""
        found = Found()
        for part in [task] if len(task) == 1 else [task[: len(task) // 2], task[len(task) // 2 :]]:
            future = self._submit(format, context, part)
            assert future is not None  # the processes are new
            try:
                found.add(future.result())
            except BrokenProcessPool:
                self.close()
                found.add(
                    self._alone(format, context, part) if len(part) > 1 else self._buried(format, context, part[0])
                )
        return found

    def _buried(self, format: str, context: Context, frame: Frame) -> Found:
        self.died += 1
        bad = BadFrame(frame.data, DIED, 0)
        own = replace(context, meter=frame.meter or context.meter, received_at_us=frame.received_at_us)
        return Found(bad=[quarantine_event(bad, format, frame.source, own)], frames=1)

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _tasks(frames: Sequence[Frame]) -> Iterable[Sequence[Frame]]:
    start, size = 0, 0
    for place, frame in enumerate(frames):
        if place > start and (place - start >= FRAMES_A_TASK or size + len(frame.data) > BYTES_A_TASK):
            yield frames[start:place]
            start, size = place, 0
        size += len(frame.data)
    if start < len(frames):
        yield frames[start:]


def _end_with_parent() -> None:
    """A parent that was killed closes nothing: watch it."""
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
