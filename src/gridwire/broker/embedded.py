"""The broker in this process tree: the log, its writer thread, the control journal, and who waits for what.

Everything here runs on the hub's event loop except the writer thread, which reports back through the loop.

Commit of a worker (position and outputs together):

    1. one change set in the journal: new positions + the outputs themselves (outbox), durable and atomic;
    2. the outputs are appended to their hubs, idempotently (producer id, epoch, sequence of the owner);
    3. the next commit's change set removes the outbox entries of this one.

A crash after 1 repeats 2 on start, and the log's duplicate check makes it happen once.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec
import structlog

from gridwire.broker.control import (
    JOURNAL,
    Changes,
    ControlState,
    HubRecord,
    OutboxRecord,
    OwnerRecord,
    PositionRecord,
    change_batch,
    pack,
)
from gridwire.broker.identity import cluster_id
from gridwire.broker.port import Appended, Bounds, HubInfo, Place, Position, Read
from gridwire.broker.transactions import PREFIX, Services, Transactions, Where
from gridwire.core import compression
from gridwire.core.batch import HEADER_BYTES, BatchHeader, check_acceptable, check_produced, set_append_time
from gridwire.core.clock import AgeClock, Clock, SystemClock
from gridwire.core.errors import (
    Corruption,
    DuplicateSequence,
    FencedEpoch,
    GridwireError,
    HubExists,
    InvalidRecord,
    InvalidSetting,
    InvalidTransaction,
    OffsetOutOfRange,
    StorageFailed,
    UnknownHub,
    UnknownPartition,
)
from gridwire.core.limits import PARTITIONS_PER_HUB_MAX, check_name
from gridwire.core.settings import UNLIMITED, HubSettings, with_changes
from gridwire.log import compaction, disk
from gridwire.log.partition import PartitionLog, Span, Stored
from gridwire.log.transactions import marker
from gridwire.log.writer import Durability, LogWriter, Outcome, Request

MAINTENANCE_S: Final = 15.0
SWEEP_S: Final = 1.0
"""How often transactions that take too long are looked for."""

PRODUCER_ID_BLOCK: Final = 1000
"""Producer ids reserved by one journal entry; a crash skips the rest of a block."""

_JOURNAL_SETTINGS = HubSettings(retention_ms=UNLIMITED, segment_bytes=16 * 1024 * 1024)

log = structlog.get_logger("gridwire.broker")


quote = partial(urllib.parse.quote, safe="")
unquote = urllib.parse.unquote


@dataclass(slots=True)
class _Hub:
    info: HubInfo
    logs: list[PartitionLog] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Owner:
    """What a worker holds after claiming a group."""

    producer_id: int
    epoch: int


class EmbeddedBroker:
    """`Broker` over a data directory. Create with `open`."""

    def __init__(self, directory: Path, durability: Durability, clock: Clock, default_partitions: int) -> None:
        self.directory = directory
        self.durability = str(durability)
        self.default_partitions = default_partitions
        self.clock = clock
        self._age = AgeClock(clock)
        self.cluster_id = ""
        self.appended_events = 0
        self.appended_bytes = 0
        self._durability = durability
        self._hubs: dict[str, _Hub] = {}
        self._control = ControlState()
        self._waiters: dict[Place, set[asyncio.Future[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._admin = asyncio.Lock()
        self._producer_ids = range(0)
        self._pending_outputs: dict[str, list[tuple[str, OutboxRecord]]] = {}
        self._group_locks: dict[str, asyncio.Lock] = {}
        self._applied_outbox: dict[str, list[str]] = {}
        self._outbox_number = 0
        self._maintenance: asyncio.Task[None] | None = None
        self._changing: set[asyncio.Future[Appended]] = set()
        self._updating = asyncio.Lock()
        self._compacting: asyncio.Future[None] | None = None
        self._templates: Mapping[str, Mapping[str, Any]] = {}
        self._single_partition: frozenset[str] = frozenset()
        self.generation = 0
        self.transactions = Transactions(
            clock,
            Services(self._change, self.new_producer_id, self._append_marker, self._transaction_position, quote),
        )
        self._joining: Counter[tuple[str, str, int]] = Counter()
        self._sweeper: asyncio.Task[None] | None = None
        self._lock: disk.DirectoryLock | None = None
        self.on_hubs_changed: Callable[[], None] = lambda: None
        self._listeners: list[Callable[[Changes], None]] = []

    # -- life ---------------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        directory: Path | str,
        durability: str = "fsync",
        *,
        clock: Clock | None = None,
        default_partitions: int = 4,
        templates: Mapping[str, Mapping[str, Any]] | None = None,
        single_partition: frozenset[str] = frozenset(),
    ) -> EmbeddedBroker:
        """Open or create a data directory and recover what is in it.

        Args:
            templates: settings of hubs with a meaning of their own. single_partition: those with one partition.

        Raises:
            GridwireError: the directory is in use, unreadable, or of a newer format. InvalidSetting: durability.
        """
        broker = cls(Path(directory), Durability.parse(durability), clock or SystemClock(), default_partitions)
        broker._templates = templates or {}
        broker._single_partition = single_partition
        try:
            broker._prepare_directory()
            broker._start()
            await broker._lower_starts()
            await broker._end_hanging()
            await broker.transactions.sweep()
            await broker._finish_outputs()
        except OSError as error:
            broker._let_go()
            where = error.filename or directory
            raise GridwireError(f"{where} cannot be opened: {error.strerror}; check its owner and mode") from None
        except BaseException:
            broker._let_go()
            raise
        broker._maintenance = asyncio.create_task(broker._maintain())
        broker._sweeper = asyncio.create_task(broker._sweep())
        return broker

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _prepare_directory(self) -> None:
        try:
            for name in ("hubs", "control"):
                (self.directory / name).mkdir(parents=True, exist_ok=True)
            self._lock = disk.DirectoryLock(self.directory)
            self.cluster_id = cluster_id(self.directory)
            if self._durability.interval_ms is not None:
                disk.sync_directory(self.directory)
                with contextlib.suppress(PermissionError):
                    disk.sync_directory(self.directory.absolute().parent)
        except OSError as error:
            raise GridwireError(
                f"data directory {self.directory} cannot be used: {error.strerror or error}. "
                "Check its owner and mode, or choose another with --data"
            ) from None

    def _start(self) -> None:
        now_ms = self.clock.now_ms()
        self._journal = PartitionLog(
            self.directory / "control",
            JOURNAL,
            0,
            _JOURNAL_SETTINGS,
            sync=self._durability.interval_ms is not None,
            now_ms=now_ms,
        )
        self._report_recovery(self._journal)
        self._replay_journal()
        self._journal_segment = self._journal.active_base
        self.transactions.replay((unquote(name), value) for name, value in self._control.under(PREFIX))
        for name, value in self._control.under("hub/"):
            record = msgspec.msgpack.decode(value, type=HubRecord)
            self._hubs[name] = self._open_hub(name, record)
        self._drop_orphans()
        self._writer = LogWriter(self._durability, self.clock, self._on_group, _check_compressed)

    def _replay_journal(self) -> None:
        try:
            for place in self._journal.recovery.damage:
                raise Corruption("damaged batch", hub=JOURNAL, partition=0, segment="control", position=place.start)
            self._control.replay(self._journal)
        except Corruption as error:
            raise GridwireError(
                f"the control journal is damaged: {error}. Restore the directory `control` from a backup, or go on "
                "with "
                f"what is whole of it: `gridwire salvage --data {self.directory}`"
            ) from None

    def _open_hub(self, name: str, record: HubRecord) -> _Hub:
        info = HubInfo(name, UUID(record.id), record.partitions, record.settings, record.internal, record.created_ms)
        return _Hub(info, self._open_partitions(info, range(record.partitions)))

    def _open_partitions(self, info: HubInfo, numbers: Sequence[int]) -> list[PartitionLog]:
        """Open or create partitions; their names are durable."""
        directory = self.directory / "hubs" / info.id.hex
        logs = [self._open_partition(info, number) for number in numbers]
        if self._durability.interval_ms is not None:
            disk.sync_directory(directory)
            disk.sync_directory(directory.parent)
        return logs

    def _open_partition(self, info: HubInfo, number: int) -> PartitionLog:
        partition = PartitionLog(
            self.directory / "hubs" / info.id.hex / str(number), info.name, number, info.settings,
            sync=self._durability.interval_ms is not None, now_ms=self.clock.now_ms(),
            log_start=self._saved_start(info, number),
        )  # fmt: skip
        self._report_recovery(partition)
        return partition

    def _saved_start(self, info: HubInfo, number: int) -> int:
        return int.from_bytes(self._control.entries.get(f"start/{info.id}/{number}", b"\0"), "big")

    async def _lower_starts(self) -> None:
        """Without syncs a power cut can take more of a log than of the journal: no start may lie beyond the end."""
        changes: dict[str, bytes | None] = {
            f"start/{hub.info.id}/{partition.partition}": partition.end_offset.to_bytes(8, "big")
            for hub in self._hubs.values()
            for partition in hub.logs
            if self._saved_start(hub.info, partition.partition) > partition.end_offset
        }
        if changes:
            await self._change(changes)

    def _report_recovery(self, partition: PartitionLog) -> None:
        found = partition.recovery
        if found.truncated_bytes:
            log.warning(
                "torn tail cut off", hub=partition.hub, partition=partition.partition, bytes=found.truncated_bytes
            )
        for damage in found.damage:
            log.error(
                "damaged batch kept in place",
                hub=partition.hub,
                partition=partition.partition,
                start=damage.start,
                end=damage.end,
            )

    def _drop_orphans(self) -> None:
        """Directories of hubs whose creation or deletion was cut short by a crash.

        Events that an empty journal knows nothing of are no such thing: the journal is missing.
        """
        known = {hub.info.id.hex for hub in self._hubs.values()}
        orphans = [path for path in (self.directory / "hubs").iterdir() if path.name not in known and path.is_dir()]
        if not self._journal.end_offset and any(file.stat().st_size for p in orphans for file in p.glob("*/*.log")):
            raise GridwireError(
                f"{self.directory / 'hubs'} has events but the control journal is empty: "
                "restore `control` from a backup, "
                f"or take the events over with `gridwire salvage --data {self.directory}`"
            )
        for path in orphans:
            shutil.rmtree(path, ignore_errors=True)

    async def close(self) -> None:
        """Write and sync what is queued, save indexes, release the directory."""
        for task in (self._maintenance, self._sweeper):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await asyncio.to_thread(self._writer.stop)
        await asyncio.sleep(0)
        for waiting in list(self._waiters.values()):
            for future in list(waiting):
                if not future.done():
                    future.set_result(None)
        await asyncio.to_thread(self._close_files)
        self._let_go()

    def _close_files(self) -> None:
        for hub in self._hubs.values():
            for partition in hub.logs:
                with contextlib.suppress(OSError):
                    partition.close()
        with contextlib.suppress(OSError):
            self._journal.close()

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Nothing: it lives and dies with this process."""
        return None

    def durable(self, hub: str) -> bool:
        """Whether what is acknowledged survives a power cut: the same for every hub."""
        return self._durability.before_ack

    def describe(self) -> Mapping[str, Any]:
        """What `/v1/status` says of it."""
        return {"kind": "embedded", "cluster_id": self.cluster_id, "trouble": None}

    def counters(self) -> Mapping[str, int]:
        """Running totals since the start."""
        return {
            "appended_events": self.appended_events,
            "appended_bytes": self.appended_bytes,
            "groups": self._writer.groups,
            "syncs": self._writer.syncs,
        }

    # -- hubs ---------------------------------------------------------------------------------------------------

    def hubs(self) -> Sequence[HubInfo]:
        """All hubs by name."""
        return [self._hubs[name].info for name in sorted(self._hubs)]

    def hub(self, name: str) -> HubInfo:
        """Raises UnknownHub."""
        return self._find(name).info

    def _find(self, name: str) -> _Hub:
        hub = self._hubs.get(name)
        if hub is None:
            raise UnknownHub(f"no hub {name!r}: create it with `gridwire hub create {name[:80]}`")
        return hub

    def partition(self, name: str, number: int) -> PartitionLog:
        """The partition's log. Raises UnknownHub, UnknownPartition."""
        hub = self._find(name)
        if not 0 <= number < len(hub.logs):
            raise UnknownPartition(f"hub {name!r} has partitions 0 to {len(hub.logs) - 1}, not {number}")
        return hub.logs[number]

    async def create_hub(
        self, name: str, partitions: int | None = None, settings: Mapping[str, Any] | None = None
    ) -> HubInfo:
        """Durable when it returns. Raises HubExists, InvalidName, InvalidSetting."""
        check_name(name)
        usual = 1 if name in self._single_partition else self.default_partitions
        count = _partition_count(usual if partitions is None else partitions)
        wanted = with_changes(HubSettings(), {**self._templates.get(name, {}), **(settings or {})})
        async with self._admin:
            if name in self._hubs:
                raise HubExists(f"hub {name!r} exists already")
            record = HubRecord(str(uuid4()), count, wanted, name.startswith("__"), self.clock.now_ms())
            hub = await asyncio.to_thread(self._make_hub, name, record)
            await self._change({f"hub/{name}": pack(record)})
            self._hubs[name] = hub
        log.info("hub created", hub=name, partitions=count)
        self._hubs_changed()
        return hub.info

    def _make_hub(self, name: str, record: HubRecord) -> _Hub:
        try:
            hub = self._open_hub(name, record)
        except OSError as error:
            raise disk.storage_error(error, f"creating hub {name}") from None
        return hub

    async def delete_hub(self, name: str) -> None:
        """Forget the hub, its positions and its data. Raises UnknownHub."""
        async with self._admin:
            hub = self._find(name)
            changes: dict[str, bytes | None] = {f"hub/{name}": None}
            for rest, _ in self._control.under("position/"):
                if f"/{hub.info.id}/" in f"/{rest}":
                    changes[f"position/{rest}"] = None
            for rest, _ in self._control.under(f"start/{hub.info.id}/"):
                changes[f"start/{hub.info.id}/{rest}"] = None
            await self._change(changes)
            del self._hubs[name]
        for number in range(len(hub.logs)):
            self._wake((name, number))
        await asyncio.to_thread(self._remove_files, hub)
        log.info("hub deleted", hub=name)
        self._hubs_changed()

    def _remove_files(self, hub: _Hub) -> None:
        for partition in hub.logs:
            with contextlib.suppress(OSError):
                partition.delete()
        shutil.rmtree(self.directory / "hubs" / hub.info.id.hex, ignore_errors=True)

    async def add_partitions(self, name: str, total: int) -> HubInfo:
        """Grow to `total` partitions. Raises UnknownHub, InvalidSetting."""
        async with self._admin:
            hub = self._find(name)
            if _partition_count(total) <= hub.info.partitions:
                raise InvalidSetting(f"hub {name!r} has {hub.info.partitions} partitions; they can only become more")
            return await self._replace(name, hub, msgspec.structs.replace(self._record(hub), partitions=total))

    async def alter_hub(self, name: str, settings: Mapping[str, Any]) -> HubInfo:
        """Change settings live. Raises UnknownHub, InvalidSetting."""
        async with self._admin:
            hub = self._find(name)
            wanted = with_changes(hub.info.settings, settings)
            return await self._replace(name, hub, msgspec.structs.replace(self._record(hub), settings=wanted))

    def _record(self, hub: _Hub) -> HubRecord:
        info = hub.info
        return HubRecord(str(info.id), info.partitions, info.settings, info.internal, info.created_ms)

    async def _replace(self, name: str, hub: _Hub, record: HubRecord) -> HubInfo:
        info = HubInfo(name, hub.info.id, record.partitions, record.settings, record.internal, record.created_ms)
        fresh = await asyncio.to_thread(self._open_partitions, info, range(len(hub.logs), record.partitions))
        await self._change({f"hub/{name}": pack(record)})
        hub.logs += fresh
        hub.info = info
        for partition in hub.logs:
            partition.settings = record.settings
        self._hubs_changed()
        return info

    def _hubs_changed(self) -> None:
        self.generation += 1
        self.on_hubs_changed()

    # -- events -------------------------------------------------------------------------------------------------

    def append(self, hub: str, partition: int, batches: bytearray | memoryview) -> asyncio.Future[Appended]:
        """Append whole v2 batches; see `Broker.append`."""
        future: asyncio.Future[Appended] = self._loop.create_future()
        try:
            target = self.partition(hub, partition)
            headers = check_produced(batches)
            check_acceptable(headers, target.hub, target.settings.message_bytes_max)
            self._submit(target, memoryview(batches), headers, future)
        except GridwireError as error:
            future.set_exception(error)
        return future

    def append_transactional(
        self, hub: str, partition: int, batches: bytearray | memoryview, transactional_id: str, *, add: bool
    ) -> asyncio.Future[Appended]:
        """Append batches of an ongoing transaction; see `Broker.append_transactional`."""
        future: asyncio.Future[Appended] = self._loop.create_future()
        try:
            target = self.partition(hub, partition)
            headers = check_produced(batches)
            check_acceptable(headers, target.hub, target.settings.message_bytes_max, transactional=True)
            hub_id = str(self._hubs[hub].info.id)
            place = (transactional_id, hub_id, partition)
            first = headers[0]
            who = (transactional_id, first.producer_id, first.producer_epoch)
            part_of_it = self.transactions.check_produce(*who, (hub_id, partition))
            if part_of_it and not self._joining[place]:
                self._submit(target, memoryview(batches), headers, future)
            elif add:
                return asyncio.ensure_future(self._join_and_append(target, batches, headers, place))
            else:
                raise InvalidTransaction(f"{hub}/{partition} is not part of the transaction of {transactional_id!r}")
        except GridwireError as error:
            future.set_exception(error)
        return future

    async def _join_and_append(
        self,
        target: PartitionLog,
        batches: bytearray | memoryview,
        headers: list[BatchHeader],
        place: tuple[str, str, int],
    ) -> Appended:
        """Make the partition part of the transaction, then append; those who come meanwhile stay behind us."""
        first = headers[0]
        future: asyncio.Future[Appended] = self._loop.create_future()
        self._joining[place] += 1
        try:
            await self.transactions.add(place[0], first.producer_id, first.producer_epoch, [place[1:]])
            self._submit(target, memoryview(batches), headers, future)
        finally:
            self._joining[place] -= 1
            if not self._joining[place]:
                del self._joining[place]
        return await future

    async def _append_marker(self, where: Where, batch: bytearray) -> Appended:
        """Put the end of a transaction into a partition. Raises UnknownHub, StorageFailed."""
        name = next((name for name, hub in self._hubs.items() if str(hub.info.id) == where[0]), None)
        if name is None:
            raise UnknownHub("the hub was deleted during the transaction")
        target = self.partition(name, where[1])
        future: asyncio.Future[Appended] = self._loop.create_future()
        self._submit(target, memoryview(batch), check_produced(batch), future)
        return await future

    def _transaction_position(self, group: str, where: Where) -> str:
        """Journal key of a position that a transaction moves; empty when its hub is gone."""
        known = any(str(hub.info.id) == where[0] for hub in self._hubs.values())
        return f"position/{quote(group)}/{where[0]}/{where[1]}" if known else ""

    async def _end_hanging(self) -> None:
        """Abort transactions in the log of which the journal knows nothing (a power cut without syncs took it)."""
        for hub in self._hubs.values():
            for partition in hub.logs:
                where = (str(hub.info.id), partition.partition)
                opened = partition.open_transactions()
                known = self.transactions.undecided(where) if opened else set()
                for producer_id, epoch in opened.items():
                    if producer_id not in known:
                        end = marker(producer_id, epoch, commit=False, timestamp_ms=self.clock.now_ms())
                        await self._append_marker(where, end)
                        log.warning("hanging transaction aborted", hub=partition.hub, partition=partition.partition)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.transactions.sweep()

    def _submit(
        self, target: PartitionLog, buffer: memoryview, headers: list[BatchHeader], future: asyncio.Future[Appended]
    ) -> None:
        if target.settings.timestamp_type == "append":
            headers = _stamp_append_time(buffer, headers, self.clock.now_ms())
        self._writer.submit(Request(target, buffer, headers, future))

    def _on_group(self, results: Sequence[tuple[Request, Outcome]]) -> None:
        """Called by the writer thread."""
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody is left to tell
            self._loop.call_soon_threadsafe(self._complete, results)

    def _complete(self, results: Sequence[tuple[Request, Outcome]]) -> None:
        touched: set[Place] = set()
        for request, outcome in results:
            future = request.token
            if isinstance(outcome, Stored) and request.headers:
                touched.add((request.partition.hub, request.partition.partition))
                if not outcome.duplicate:
                    self.appended_bytes += len(request.buffer)
                    self.appended_events += sum(header.record_count for header in request.headers)
            if not isinstance(future, asyncio.Future) or future.done():
                continue
            if isinstance(outcome, Stored):
                future.set_result(self._appended(request, outcome))
            else:
                future.set_exception(outcome)
        for place in touched:
            self._wake(place)

    def _appended(self, request: Request, stored: Stored) -> Appended:
        appends = request.partition.settings.timestamp_type == "append"
        time_ms = request.headers[-1].max_timestamp if appends and request.headers else -1
        return Appended(stored.base_offset, time_ms, request.partition.start_offset, stored.duplicate)

    def _wake(self, place: Place) -> None:
        for future in self._waiters.pop(place, ()):
            if not future.done():
                future.set_result(None)

    async def bounds(self, hub: str, partition: int) -> Bounds:
        """Raises UnknownHub, UnknownPartition."""
        target = self.partition(hub, partition)
        return Bounds(target.start_offset, target.end_offset, target.stable_offset)

    async def bounds_of(self, places: Iterable[Place]) -> Mapping[Place, Bounds]:
        """Bounds of many places; those that are not there are left out."""
        found = {}
        for place in places:
            with contextlib.suppress(UnknownHub, UnknownPartition):
                found[place] = await self.bounds(*place)
        return found

    async def delete_records(self, hub: str, partition: int, before: int | None) -> int:
        """Forget the events below an offset, or all there are; returns the start of what is kept.

        Durable when it returns: not even a restart brings them back.

        Raises:
            OffsetOutOfRange: beyond the end. UnknownHub, UnknownPartition, StorageFailed.
        """
        target = self.partition(hub, partition)
        offset = target.end_offset if before is None else before
        if not 0 <= offset <= target.end_offset:
            raise OffsetOutOfRange(
                f"cannot delete below {offset}: {hub}/{partition} ends at {target.end_offset}",
                target.start_offset,
                target.end_offset,
            )
        if offset > target.start_offset:
            key = f"start/{self._find(hub).info.id}/{partition}"
            await self._change({key: offset.to_bytes(8, "big")})
            if offset == target.next_offset > target.active_base:
                await self._seal(target)
            freed = await asyncio.to_thread(target.advance_start, offset)
            log.info("records deleted", hub=hub, partition=partition, before=offset, freed_bytes=freed)
        return target.start_offset

    async def _seal(self, target: PartitionLog) -> None:
        """Start a new segment, so that the present one can be deleted."""
        future: asyncio.Future[Appended] = self._loop.create_future()
        self._writer.submit(Request(target, memoryview(b""), (), future))
        await future

    async def sizes(self, hub: str) -> Sequence[int]:
        """Bytes kept, per partition. Raises UnknownHub."""
        return [partition.size_bytes for partition in self._find(hub).logs]

    async def read(self, hub: str, partition: int, offset: int, bytes_max: int, *, committed: bool = False) -> Read:
        """Whole batches that are there now. Raises OffsetOutOfRange, UnknownHub, Corruption."""
        target = self.partition(hub, partition)
        end, stable = target.end_offset, target.stable_offset
        data = target.read(offset, bytes_max, committed=committed)
        aborted = target.aborted(offset, stable) if committed and len(data) else ()
        return Read(data, target.start_offset, end, stable, aborted)

    def spans(self, hub: str, partition: int, offset: int, bytes_max: int) -> list[Span]:
        """Where a worker on this machine finds the bytes itself. Raises OffsetOutOfRange, UnknownHub."""
        return self.partition(hub, partition).spans(offset, bytes_max)

    async def wait(self, positions: Mapping[Place, int], timeout_s: float, *, committed: bool = False) -> None:
        """Return when an event at or after one of the offsets is readable, or the time is up."""
        if any(self._readable_to(place, committed) > offset for place, offset in positions.items()):
            return
        future: asyncio.Future[None] = self._loop.create_future()
        for place in positions:
            self._waiters.setdefault(place, set()).add(future)
        handle = self._loop.call_later(timeout_s, _resolve, future)
        try:
            await future
        finally:
            handle.cancel()
            for place in positions:
                waiting = self._waiters.get(place)
                if waiting is not None:
                    waiting.discard(future)
                    if not waiting:
                        del self._waiters[place]

    def _readable_to(self, place: Place, committed: bool) -> int:
        target = self.partition(*place)
        return target.stable_offset if committed else target.end_offset

    async def offset_at(self, hub: str, partition: int, timestamp_ms: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the first event at or after a time."""
        return await asyncio.to_thread(self.partition(hub, partition).offset_at, timestamp_ms)

    async def newest(self, hub: str, partition: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the event with the largest timestamp."""
        return await asyncio.to_thread(self.partition(hub, partition).newest)

    def header_at(self, hub: str, partition: int, offset: int) -> BatchHeader | None:
        """Header of the batch that holds `offset`; None at the end."""
        return self.partition(hub, partition).header_at(offset)

    async def new_producer_id(self) -> tuple[int, int]:
        """A (producer id, epoch) nobody else has."""
        async with self._admin:
            if not self._producer_ids:
                first = int.from_bytes(self._control.entries.get("producer", b"\0"), "big")
                await self._change({"producer": (first + PRODUCER_ID_BLOCK).to_bytes(8, "big")})
                self._producer_ids = range(first, first + PRODUCER_ID_BLOCK)
            producer_id, self._producer_ids = self._producer_ids[0], self._producer_ids[1:]
            return producer_id, 0

    # -- positions ----------------------------------------------------------------------------------------------

    async def commit(self, group: str, positions: Mapping[Place, Position]) -> None:
        """Durable when it returns. Raises UnknownHub, UnknownPartition, StorageFailed."""
        if positions:
            await self._change(self._position_changes(group, positions))

    def _position_changes(self, group: str, positions: Mapping[Place, Position]) -> dict[str, bytes | None]:
        now_ms = self.clock.now_ms()
        changes: dict[str, bytes | None] = {}
        for (name, number), position in positions.items():
            self.partition(name, number)
            key = f"position/{quote(group)}/{self._hubs[name].info.id}/{number}"
            changes[key] = pack(PositionRecord(position.offset, position.metadata, now_ms))
        return changes

    async def positions(self, group: str) -> Mapping[Place, Position]:
        """Committed positions of a group."""
        names = {str(hub.info.id): name for name, hub in self._hubs.items()}
        found: dict[Place, Position] = {}
        for rest, value in self._control.under(f"position/{quote(group)}/"):
            hub_id, _, number = rest.partition("/")
            if hub_id in names:
                record = msgspec.msgpack.decode(value, type=PositionRecord)
                found[names[hub_id], int(number)] = Position(record.offset, record.metadata, record.committed_ms)
        return found

    async def group_names(self) -> Sequence[str]:
        """Groups with committed positions."""
        return sorted({unquote(rest.split("/", 1)[0]) for rest, _ in self._control.under("position/")})

    async def delete_group(self, group: str) -> None:
        """Forget the group's positions."""
        changes: dict[str, bytes | None] = {
            f"position/{quote(group)}/{rest}": None for rest, _ in self._control.under(f"position/{quote(group)}/")
        }
        if changes:
            await self._change(changes)

    async def forget_positions(self, group: str, places: Sequence[Place]) -> None:
        """Forget single positions of a group."""
        changes: dict[str, bytes | None] = {
            f"position/{quote(group)}/{self._find(name).info.id}/{number}": None for name, number in places
        }
        if changes:
            await self._change(changes)

    # -- worker groups: one owner, position and outputs together ---------------------------------------------------

    async def claim(self, group: str) -> Owner:
        """Become the owner of a worker group; whoever owned it before is fenced. Its outputs are all in their hubs."""
        check_name(group, "group")
        async with self._group_lock(group):
            await self._apply_outputs(group)
            known = self._owner(group)
            if known is None:
                producer_id, _ = await self.new_producer_id()
                known = OwnerRecord(producer_id, -1)
            record = OwnerRecord(known.producer_id, known.epoch + 1)
            if record.epoch > 32_000:  # int16 on the wire
                record = OwnerRecord((await self.new_producer_id())[0], 0)
            await self._change({f"owner/{group}": pack(record)})
        return Owner(record.producer_id, record.epoch)

    def _owner(self, group: str) -> OwnerRecord | None:
        value = self._control.entries.get(f"owner/{group}")
        return None if value is None else msgspec.msgpack.decode(value, type=OwnerRecord)

    async def commit_outputs(
        self, group: str, owner: Owner, positions: Mapping[Place, Position], outputs: Sequence[tuple[Place, bytes]]
    ) -> None:
        """Make positions and outputs durable together, then put the outputs into their hubs.

        Args:
            outputs: batches stamped with the owner's producer id, epoch and its running sequence per place.

        Raises:
            FencedEpoch: a newer owner took over. StorageFailed: nothing happened, or (after the journal has it) the
            outputs follow before anybody can commit for this group again.
        """
        async with self._group_lock(group):
            known = self._owner(group)
            if known is None or (known.producer_id, known.epoch) != (owner.producer_id, owner.epoch):
                raise FencedEpoch(f"group {group!r} has a newer owner")
            await self._apply_outputs(group)
            changes = self._position_changes(group, positions)
            changes.update(dict.fromkeys(self._applied_outbox.pop(group, ())))
            pending = []
            for (name, number), batch in outputs:
                check_produced(batch)
                self.partition(name, number)
                record = OutboxRecord(str(self._hubs[name].info.id), number, batch)
                self._outbox_number += 1
                key = f"outbox/{group}/{self._outbox_number:016d}"
                changes[key] = pack(record)
                pending.append((key, record))
            await self._change(changes)
            self._pending_outputs.setdefault(group, []).extend(pending)
            await self._apply_outputs(group)

    async def _apply_outputs(self, group: str) -> None:
        """Append committed outputs to their hubs, in order; repeating it changes nothing."""
        pending = self._pending_outputs.get(group, [])
        names = {str(hub.info.id): name for name, hub in self._hubs.items()}
        appends = []
        for _, record in pending:
            if record.hub_id in names:  # a hub deleted meanwhile takes its outputs along
                future: asyncio.Future[Appended] = self._loop.create_future()
                batch = bytearray(record.batch)
                target = self.partition(names[record.hub_id], record.partition)
                self._submit(target, memoryview(batch), check_produced(batch), future)
                appends.append(future)
        for outcome in await asyncio.gather(*appends, return_exceptions=True):
            if isinstance(outcome, StorageFailed):
                raise outcome
            if isinstance(outcome, BaseException) and not isinstance(outcome, DuplicateSequence):
                log.error("output refused", group=group, reason=str(outcome))
        self._applied_outbox.setdefault(group, []).extend(key for key, _ in pending)
        pending.clear()

    async def _finish_outputs(self) -> None:
        """After a start: outputs that were committed but perhaps not yet appended."""
        for rest, value in sorted(self._control.under("outbox/")):
            group, _, number = rest.rpartition("/")
            record = msgspec.msgpack.decode(value, type=OutboxRecord)
            self._outbox_number = max(self._outbox_number, int(number))
            self._pending_outputs.setdefault(group, []).append((f"outbox/{rest}", record))
        for group in list(self._pending_outputs):
            try:
                await self._apply_outputs(group)
            except StorageFailed as error:
                log.warning("outputs wait for the disk", group=group, reason=str(error))

    def _group_lock(self, group: str) -> asyncio.Lock:
        return self._group_locks.setdefault(group, asyncio.Lock())

    # -- journal ------------------------------------------------------------------------------------------------

    async def change(self, changes: Changes) -> None:
        """Write keyed changes to the control journal; durable when it returns. For parts with records of their own."""
        await self._change(changes)

    async def update(self, decide: Callable[[], Changes]) -> bool:
        """Write what `decide` makes of what is kept, as one step; see `Journal.update`."""
        return await asyncio.shield(self._update(decide))  # who gives up must not let the next one in half-way

    async def _update(self, decide: Callable[[], Changes]) -> bool:
        async with self._updating:
            changes = decide()
            if changes:
                await self._change(changes)
            return bool(changes)

    def kept(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Journal entries below a prefix, the rest of the key first."""
        return self._control.under(prefix)

    async def catch_up(self) -> None:
        """Nothing to do: every change is made here."""

    def on_change(self, listener: Callable[[Changes], None]) -> None:
        """Call `listener` with every change set from now on."""
        self._listeners.append(listener)

    async def _change(self, changes: Changes) -> None:
        """Append a change set to the journal; apply it once it is durable. Survives being cancelled half-way."""
        while self._compacting is not None:
            await asyncio.shield(self._compacting)
        future = self._append_journal(change_batch(changes.items(), self.clock.now_ms()))
        self._changing.add(future)
        future.add_done_callback(lambda done: self._changed(done, changes))
        await asyncio.shield(future)

    def _append_journal(self, batch: bytearray) -> asyncio.Future[Appended]:
        future: asyncio.Future[Appended] = self._loop.create_future()
        self._writer.submit(Request(self._journal, memoryview(batch), check_produced(batch), future))
        return future

    def _changed(self, done: asyncio.Future[Appended], changes: Changes) -> None:
        self._changing.discard(done)
        if not done.cancelled() and done.exception() is None:
            self._control.apply(changes)
            for listener in self._listeners:
                listener(changes)

    async def _compact_journal(self) -> None:
        """Write the live entries into the journal's newest segment and delete the older ones.

        Changes wait meanwhile: an old value must not follow a newer one.
        """
        base = self._journal.active_base
        if base == self._journal_segment:
            return
        self._compacting = self._loop.create_future()
        try:
            if self._changing:
                await asyncio.wait(self._changing)
            for batch in self._control.snapshot(self.clock.now_ms()):
                await self._append_journal(batch)
            await asyncio.to_thread(self._journal.drop_before, base)
            self._journal_segment = base
        finally:
            self._compacting.set_result(None)
            self._compacting = None

    # -- housekeeping -------------------------------------------------------------------------------------------

    async def _maintain(self) -> None:
        while True:
            await asyncio.sleep(MAINTENANCE_S)
            try:
                await self.maintain()
            except GridwireError as error:
                log.error("maintenance failed", reason=str(error))

    async def maintain(self) -> None:
        """Retention, journal compaction, idle files: once."""
        now_ms = self._age_ms()
        for hub in list(self._hubs.values()):
            for partition in hub.logs:
                if partition.wants_roll(now_ms):
                    self._writer.submit(Request(partition, memoryview(b""), (), None))
                freed = await asyncio.to_thread(partition.expire, now_ms)
                if freed:
                    log.info("retention", hub=partition.hub, partition=partition.partition, freed_bytes=freed)
                if "compact" in partition.settings.cleanup:
                    await self._compact(partition, now_ms)
        await self._compact_journal()

    def _age_ms(self) -> int:
        """Now, for what is deleted by its age; says once that the wall clock jumped."""
        before = self._age.ahead_ms
        now_ms = self._age.now_ms()
        if self._age.ahead_ms and not before:
            log.warning("wall clock jumped forward: nothing is deleted by it for a day", ms=self._age.ahead_ms)
        return now_ms

    async def _compact(self, partition: PartitionLog, now_ms: int) -> None:
        """One pass of compaction; what stops it is reported and tried again next time."""
        try:
            done = await asyncio.to_thread(compaction.compact, partition, now_ms)
        except GridwireError as error:
            log.error("compaction stopped", hub=partition.hub, partition=partition.partition, reason=str(error))
            return
        if done is not None:
            log.info(
                "compacted",
                hub=partition.hub,
                partition=partition.partition,
                events_removed=done.events_removed,
                bytes_before=done.bytes_before,
                bytes_after=done.bytes_after,
            )


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _partition_count(count: int) -> int:
    if not 1 <= count <= PARTITIONS_PER_HUB_MAX:
        raise InvalidSetting(f"a hub has 1 to {PARTITIONS_PER_HUB_MAX} partitions, not {count}")
    return count


def _check_compressed(request: Request) -> GridwireError | None:
    """Refuse batches that do not decompress, or to more than any reader would take. Runs in the writer thread.

    A hub that keeps the last event of every key takes only events with one.
    """
    at = 0
    keyed = "compact" in request.partition.settings.cleanup
    for header in request.headers:
        if keyed:
            try:
                if compaction.keyless(header, request.buffer, at):
                    return InvalidRecord(f"hub {request.partition.hub!r} keeps the last event of every key: send keys")
            except GridwireError as error:
                return error
        elif header.codec:
            try:
                compression.decompress(header.codec, request.buffer[at + HEADER_BYTES : at + header.size])
            except GridwireError as error:
                return error
        at += header.size
    return None


def _stamp_append_time(buffer: memoryview, headers: list[BatchHeader], now_ms: int) -> list[BatchHeader]:
    at = 0
    for header in headers:
        set_append_time(buffer, now_ms, at)
        at += header.size
    return check_produced(buffer)
