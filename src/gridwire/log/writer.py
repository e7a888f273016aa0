"""The writer thread of one disk: takes whatever is waiting as one group, writes it, syncs once, then tells everybody.

While a sync runs, requests pile up; the next group takes them all. So the number of syncs adapts to the disk, and a
busy log pays one sync for hundreds of acknowledgements.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec

from gridwire.core.batch import BatchHeader
from gridwire.core.clock import Clock
from gridwire.core.errors import GridwireError, InvalidSetting, StorageFailed, Unavailable
from gridwire.log.partition import PartitionLog, Stored

GROUP_BYTES_MAX: Final = 64 * 1024 * 1024
"""One group's bytes: bounds the time its first request waits for its last."""

PARALLEL_SYNCS: Final = 4
"""Files of one group synced at the same time; the file system joins them into one journal commit."""


@dataclass(frozen=True, slots=True)
class Durability:
    """What an acknowledgement means. `interval_ms` 0: synced before it; None: never synced by us."""

    interval_ms: int | None

    @classmethod
    def parse(cls, text: str) -> Durability:
        """Read `fsync`, `interval:MS` or `os`.

        Raises:
            InvalidSetting.
        """
        if text == "fsync":
            return cls(0)
        if text == "os":
            return cls(None)
        name, _, number = text.partition(":")
        if name == "interval" and number.isdigit() and int(number) > 0:
            return cls(int(number))
        raise InvalidSetting(f"durability must be fsync, interval:MS or os, not {text!r}")

    @property
    def before_ack(self) -> bool:
        """Whether data is on disk before the peer is told."""
        return self.interval_ms == 0

    def __str__(self) -> str:
        return (
            "os" if self.interval_ms is None else "fsync" if self.interval_ms == 0 else f"interval:{self.interval_ms}"
        )


Outcome = Stored | GridwireError
Check = Callable[["Request"], GridwireError | None]
Notify = Callable[[Sequence[tuple["Request", Outcome]]], None]


class Request(msgspec.Struct, frozen=True, eq=False):
    """Batches for one partition; `token` is the caller's. Without batches: seal the active segment."""

    partition: PartitionLog
    buffer: memoryview
    headers: Sequence[BatchHeader]
    token: object


class LogWriter:
    """Owns all writing to the partitions of one disk.

    Args:
        notify: called from the writer thread with a group's results once they are as durable as promised.
        check: asked in the writer thread before a request is written; an error refuses the request.
    """

    def __init__(self, durability: Durability, clock: Clock, notify: Notify, check: Check = lambda _: None) -> None:
        self._durability = durability
        self._clock = clock
        self._notify = notify
        self._check = check
        self._queue: deque[Request] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._dirty: dict[PartitionLog, None] = {}
        self._sync_pool = ThreadPoolExecutor(PARALLEL_SYNCS, "gridwire-sync")
        self.groups = 0
        self.syncs = 0
        self._next_sync = 0.0
        self._thread = threading.Thread(target=self._run, name="gridwire-writer", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request; order is kept."""
        if self._stopping:
            raise Unavailable("the hub is stopping")
        with self._wake:
            self._queue.append(request)
            self._wake.notify()

    def stop(self) -> None:
        """Write what is queued, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
        self._sync_pool.shutdown()

    def _run(self) -> None:
        while True:
            group = self._take()
            if group:
                self.groups += 1
                results = self._write(group)
                self._notify(results)
                if self._durability.before_ack:
                    self._checkpoint({request.partition for request, _ in results})
            elif self._stopping:
                self._sync(list(self._dirty))
                return
            self._sync_on_time()

    def _take(self) -> list[Request]:
        with self._wake:
            if not self._queue and not self._stopping:
                self._wake.wait(self._patience())
            group: list[Request] = []
            size = 0
            while self._queue and size < GROUP_BYTES_MAX:
                request = self._queue.popleft()
                group.append(request)
                size += len(request.buffer)
            return group

    def _patience(self) -> float | None:
        """How long to wait for work: for ever, or until unsynced data is due."""
        if not self._dirty or not self._durability.interval_ms:
            return None
        return max(0.0, self._next_sync - self._clock.monotonic())

    def _write(self, group: list[Request]) -> list[tuple[Request, Outcome]]:
        by_partition: dict[PartitionLog, list[Request]] = {}
        results: list[tuple[Request, Outcome]] = []
        for request in group:
            refusal = self._check(request)
            if refusal is None:
                by_partition.setdefault(request.partition, []).append(request)
            else:
                results.append((request, refusal))
        now_ms = self._clock.now_ms()
        for partition, requests in by_partition.items():
            outcomes = partition.append_group([(r.buffer, r.headers) for r in requests], now_ms)
            results += zip(requests, outcomes, strict=True)
        failures = self._settle(list(by_partition))
        for partition in by_partition:
            if partition not in failures:
                partition.publish()
        if failures:
            results = [(request, failures.get(request.partition, outcome)) for request, outcome in results]
        return results

    def _settle(self, partitions: list[PartitionLog]) -> dict[PartitionLog, StorageFailed]:
        if self._durability.before_ack:
            return self._sync(partitions)
        if self._durability.interval_ms is not None:
            if not self._dirty:
                self._next_sync = self._clock.monotonic() + self._durability.interval_ms / 1000
            self._dirty.update(dict.fromkeys(partitions))
        return {}

    def _sync_on_time(self) -> None:
        if self._dirty and self._durability.interval_ms and self._clock.monotonic() >= self._next_sync:
            self._sync(list(self._dirty))
            self._checkpoint(self._dirty)
            self._dirty.clear()

    def _checkpoint(self, synced: Iterable[PartitionLog]) -> None:
        """After everybody was told: nobody waits for it."""
        for partition in synced:
            partition.checkpoint()

    def _sync(self, partitions: list[PartitionLog]) -> dict[PartitionLog, StorageFailed]:
        self.syncs += len(partitions)
        if len(partitions) == 1:
            errors = [_sync_one(partitions[0])]
        else:
            errors = list(self._sync_pool.map(_sync_one, partitions))
        return {partition: error for partition, error in zip(partitions, errors, strict=True) if error is not None}


def _sync_one(partition: PartitionLog) -> StorageFailed | None:
    try:
        partition.sync()
    except StorageFailed as error:
        return error
    return None
