"""Who is in which transaction: the coordinator of Kafka's transactions, as a state machine in the control journal.

                     add                        end                       markers written
    empty --------------------------> ongoing ---------> commit | abort ------------------> committed | aborted
    committed, aborted --- add -----> ongoing

The step to `commit` is the decision: the same change set of the journal moves the group positions of the transaction,
so both happen or neither does. Then a marker goes to every partition, and the record is settled. A start finishes what
is between `commit` or `abort` and the end; writing a marker twice changes nothing. An ongoing transaction survives a
restart and is aborted when its time is up.

Every change of one transactional id happens under its lock, so whoever asks meanwhile waits instead of being told to
come back. A batch is only appended if its producer is at the present epoch and its partition is part of the ongoing
transaction: a late batch cannot open one that nobody will end. Whoever begins anew, or is too slow, raises the epoch;
the marker carries it to the partitions.

With Kafka's second transaction protocol (KIP-890) each end raises the epoch too, so not even a repeated end or a late
batch of the same producer can reach its next transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from gridwire.broker.control import Changes, PositionRecord, pack
from gridwire.core.clock import Clock
from gridwire.core.errors import (
    FencedEpoch,
    GridwireError,
    InvalidSetting,
    InvalidTransaction,
    UnknownHub,
    UnknownPartition,
    UnknownProducer,
)
from gridwire.log.transactions import marker

PREFIX: Final = "transaction/"
TIMEOUT_MS_MAX: Final = 15 * 60 * 1000
"""Kafka's `transaction.max.timeout.ms`: how long one producer may hold up the readers of committed data."""

EPOCH_MAX: Final = 32_000
"""After it a producer gets a new id; epochs are int16 on the wire."""

EMPTY: Final = "empty"
ONGOING: Final = "ongoing"
COMMIT: Final = "commit"
ABORT: Final = "abort"
COMMITTED: Final = "committed"
ABORTED: Final = "aborted"
_SETTLED: Final = {COMMIT: COMMITTED, ABORT: ABORTED}

Where = tuple[str, int]
"""(hub id, partition): survives that a hub is deleted and made anew."""

log = structlog.get_logger("gridwire.transactions")


class PendingPosition(msgspec.Struct, frozen=True, array_like=True):
    """A group's position that is committed with the transaction."""

    group: str
    hub_id: str
    partition: int
    offset: int
    metadata: str


class TransactionRecord(msgspec.Struct, frozen=True, array_like=True):
    """What the journal keeps of a transactional id. `last_epoch`: the one that was raised; its holder may ask again."""

    producer_id: int
    epoch: int
    state: str
    timeout_ms: int
    last_epoch: int = -1
    partitions: tuple[Where, ...] = ()
    groups: tuple[str, ...] = ()
    positions: tuple[PendingPosition, ...] = ()


@dataclass(frozen=True, slots=True)
class Services:
    """What the coordinator needs of its broker."""

    change: Callable[[Changes], Awaitable[None]]
    new_producer_id: Callable[[], Awaitable[tuple[int, int]]]
    append_marker: Callable[[Where, bytearray], Awaitable[object]]
    position_key: Callable[[str, Where], str]
    key: Callable[[str], str]


class Transactions:
    """All transactional ids of this hub."""

    def __init__(self, clock: Clock, services: Services) -> None:
        self._clock = clock
        self._services = services
        self._records: dict[str, TransactionRecord] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._deadlines_s: dict[str, float] = {}

    def replay(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Take over what the journal holds."""
        for name, value in entries:
            record = msgspec.msgpack.decode(value, type=TransactionRecord)
            self._records[name] = record
            if record.state == ONGOING:
                self._deadlines_s[name] = self._clock.monotonic() + record.timeout_ms / 1000

    def undecided(self, where: Where) -> set[int]:
        """Producers with an unsettled transaction in a partition."""
        return {
            record.producer_id
            for record in self._records.values()
            if record.state in (ONGOING, COMMIT, ABORT) and where in record.partitions
        }

    def pending_positions(self, group: str) -> set[Where]:
        """Places of a group whose position an unsettled transaction may still move."""
        return {
            (each.hub_id, each.partition)
            for record in self._records.values()
            if record.state in (ONGOING, COMMIT, ABORT)
            for each in record.positions
            if each.group == group
        }

    def record(self, name: str) -> TransactionRecord | None:
        """What is known of a transactional id."""
        return self._records.get(name)

    # -- what producers ask ---------------------------------------------------------------------------------------

    async def begin_producer(
        self, name: str, timeout_ms: int, producer_id: int = -1, epoch: int = -1
    ) -> tuple[int, int]:
        """(producer id, epoch) for whoever takes over a transactional id; what his predecessor left open is aborted.

        Args:
            producer_id, epoch: what a producer has that wants to go on after an error.

        Raises:
            InvalidSetting: the timeout is out of range. FencedEpoch: somebody else took over. UnknownProducer,
            StorageFailed.
        """
        if not 0 < timeout_ms <= TIMEOUT_MS_MAX:
            raise InvalidSetting(f"a transaction may take 1 to {TIMEOUT_MS_MAX} ms, not {timeout_ms}")
        async with self._lock(name):
            record = self._records.get(name)
            if record is None:
                if producer_id >= 0:
                    raise UnknownProducer(f"transactional id {name!r} is not known")
                fresh, _ = await self._services.new_producer_id()
                return await self._save_producer(name, TransactionRecord(fresh, 0, EMPTY, timeout_ms))
            if producer_id >= 0 and (producer_id, epoch) != (record.producer_id, record.epoch):
                if producer_id == record.producer_id and epoch == record.last_epoch and record.state == EMPTY:
                    return record.producer_id, record.epoch  # the answer to this very question was lost
                raise FencedEpoch(f"transactional id {name!r} belongs to a newer producer")
            record = await self._settle(name, record)
            last = record.epoch if producer_id >= 0 else -1
            return await self._save_producer(name, await self._raised(record, EMPTY, timeout_ms, last))

    async def add(self, name: str, producer_id: int, epoch: int, places: Sequence[Where]) -> None:
        """Make partitions part of the transaction, beginning it if need be. Durable when it returns.

        Raises:
            FencedEpoch, UnknownProducer, StorageFailed.
        """
        async with self._lock(name):
            record = await self._opened(name, producer_id, epoch)
            if not set(places) <= set(record.partitions) or record.state != ONGOING:
                fresh = tuple(place for place in dict.fromkeys(places) if place not in record.partitions)
                await self._go_on(name, record, partitions=record.partitions + fresh)

    async def add_group(self, name: str, producer_id: int, epoch: int, group: str) -> None:
        """Announce that positions of a group will be part of the transaction. Raises as `add`."""
        async with self._lock(name):
            record = await self._opened(name, producer_id, epoch)
            if group not in record.groups or record.state != ONGOING:
                await self._go_on(name, record, groups=(*record.groups, group))

    async def add_positions(
        self,
        name: str,
        producer_id: int,
        epoch: int,
        group: str,
        positions: Mapping[Where, tuple[int, str]],
        *,
        announce: bool,
    ) -> None:
        """Keep a group's positions until the transaction ends; they move if it commits.

        Args:
            announce: as if `add_group` had been called.

        Raises:
            InvalidTransaction: the group is not part of the ongoing transaction. And as `add`.
        """
        async with self._lock(name):
            record = await self._opened(name, producer_id, epoch)
            if not announce and (record.state != ONGOING or group not in record.groups):
                raise InvalidTransaction(f"group {group!r} is not part of the transaction of {name!r}")
            kept = tuple(
                each
                for each in record.positions
                if each.group != group or (each.hub_id, each.partition) not in positions
            )
            fresh = tuple(
                PendingPosition(group, hub_id, number, offset, metadata)
                for (hub_id, number), (offset, metadata) in positions.items()
            )
            groups = record.groups if group in record.groups else (*record.groups, group)
            await self._go_on(name, record, groups=groups, positions=kept + fresh)

    async def end(
        self, name: str, producer_id: int, epoch: int, *, commit: bool, raise_epoch: bool = False
    ) -> tuple[int, int]:
        """Commit or abort; (producer id, epoch) to go on with. All of it is durable and readable when it returns.

        Args:
            raise_epoch: the second protocol, in which every transaction has an epoch of its own.

        Raises:
            InvalidTransaction: there is none, or it was ended the other way. And as `add`.
        """
        decision = COMMIT if commit else ABORT
        async with self._lock(name):
            if raise_epoch:
                repeated = self._ended_before(name, producer_id, epoch, _SETTLED[decision])
                if repeated is not None:
                    return repeated
            record = self._current(name, producer_id, epoch)
            if record.state == ONGOING:
                record = await self._decide(name, record, decision, raise_epoch=raise_epoch)
            elif raise_epoch and not commit and record.state in (EMPTY, COMMITTED, ABORTED):
                raised = await self._raised(record, ABORTED, record.timeout_ms, record.epoch)
                return await self._save_producer(name, raised)
            elif record.state not in (decision, _SETTLED[decision]):
                raise InvalidTransaction(f"{name!r} has no transaction to {decision}: it is {record.state}")
            record = await self._finish(name, record)
            return record.producer_id, record.epoch

    def _ended_before(self, name: str, producer_id: int, epoch: int, state: str) -> tuple[int, int] | None:
        """The answer to a repeated end, whose first answer was lost."""
        record = self._records.get(name)
        if record is None or (record.last_epoch, record.state) != (epoch, state):
            return None
        same = record.producer_id == producer_id or record.epoch == 0
        return (record.producer_id, record.epoch) if same else None

    def check_produce(self, name: str, producer_id: int, epoch: int, where: Where) -> bool:
        """Whether a batch may go to a partition now; False when the partition would have to be added first.

        Raises:
            FencedEpoch, UnknownProducer.
        """
        record = self._current(name, producer_id, epoch)
        return record.state == ONGOING and where in record.partitions

    # -- time and restarts ----------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Abort what takes too long, and finish what a full disk interrupted."""
        now_s = self._clock.monotonic()
        for name, record in list(self._records.items()):
            late = record.state == ONGOING and self._deadlines_s.get(name, now_s) <= now_s
            if not late and record.state not in (COMMIT, ABORT):
                continue
            try:
                async with self._lock(name):
                    if self._records[name] is record:
                        await self._settle(name, record)
            except GridwireError as error:
                log.warning("transaction waits", transactional_id=name, reason=str(error))
            else:
                if late:
                    log.info("transaction took too long", transactional_id=name, timeout_ms=record.timeout_ms)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _current(self, name: str, producer_id: int, epoch: int) -> TransactionRecord:
        record = self._records.get(name)
        if record is None or record.producer_id != producer_id:
            raise UnknownProducer(f"producer {producer_id} does not hold transactional id {name!r}")
        if record.epoch != epoch:
            raise FencedEpoch(f"producer {producer_id} epoch {epoch} was replaced by {record.epoch}")
        return record

    async def _opened(self, name: str, producer_id: int, epoch: int) -> TransactionRecord:
        """The record ready to take part: without what an earlier transaction left."""
        record = self._current(name, producer_id, epoch)
        if record.state in (COMMIT, ABORT):
            record = await self._finish(name, record)
        return record

    async def _go_on(
        self,
        name: str,
        record: TransactionRecord,
        *,
        partitions: tuple[Where, ...] | None = None,
        groups: tuple[str, ...] | None = None,
        positions: tuple[PendingPosition, ...] | None = None,
    ) -> None:
        changed = msgspec.structs.replace(
            record,
            state=ONGOING,
            partitions=record.partitions if partitions is None else partitions,
            groups=record.groups if groups is None else groups,
            positions=record.positions if positions is None else positions,
        )
        await self._save(name, changed, {})
        if record.state != ONGOING:
            self._deadlines_s[name] = self._clock.monotonic() + record.timeout_ms / 1000

    async def _settle(self, name: str, record: TransactionRecord) -> TransactionRecord:
        """End whatever is open, with an epoch that fences whoever opened it."""
        if record.state == ONGOING:
            record = await self._decide(name, record, ABORT, raise_epoch=True)
        if record.state in (COMMIT, ABORT):
            record = await self._finish(name, record)
        return record

    async def _decide(
        self, name: str, record: TransactionRecord, decision: str, *, raise_epoch: bool
    ) -> TransactionRecord:
        epoch = record.epoch + 1 if raise_epoch else record.epoch
        last = record.epoch if raise_epoch else record.last_epoch
        decided = msgspec.structs.replace(record, state=decision, epoch=epoch, last_epoch=last)
        now_ms = self._clock.now_ms()
        moved: dict[str, bytes | None] = {}
        if decision == COMMIT:
            for each in record.positions:
                key = self._services.position_key(each.group, (each.hub_id, each.partition))
                if key:
                    moved[key] = pack(PositionRecord(each.offset, each.metadata, now_ms))
        await self._save(name, decided, moved)
        return decided

    async def _finish(self, name: str, record: TransactionRecord) -> TransactionRecord:
        """Write the markers of a decided transaction, then settle it."""
        if record.state not in (COMMIT, ABORT):
            return record
        now_ms = self._clock.now_ms()
        writes = [
            self._services.append_marker(
                where,
                marker(record.producer_id, record.epoch, commit=record.state == COMMIT, timestamp_ms=now_ms),
            )
            for where in record.partitions
        ]
        for outcome in await asyncio.gather(*writes, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, UnknownHub | UnknownPartition):
                raise outcome
        settled = msgspec.structs.replace(record, state=_SETTLED[record.state], partitions=(), groups=(), positions=())
        if settled.epoch >= EPOCH_MAX and settled.last_epoch >= 0:
            fresh, _ = await self._services.new_producer_id()
            settled = msgspec.structs.replace(settled, producer_id=fresh, epoch=0)
        await self._save(name, settled, {})
        self._deadlines_s.pop(name, None)
        return settled

    async def _raised(
        self, record: TransactionRecord, state: str, timeout_ms: int, last_epoch: int
    ) -> TransactionRecord:
        """The record with the next epoch, or with a new producer id when epochs run out."""
        if record.epoch >= EPOCH_MAX:
            fresh, _ = await self._services.new_producer_id()
            return TransactionRecord(fresh, 0, state, timeout_ms, last_epoch)
        return TransactionRecord(record.producer_id, record.epoch + 1, state, timeout_ms, last_epoch)

    async def _save_producer(self, name: str, record: TransactionRecord) -> tuple[int, int]:
        await self._save(name, record, {})
        return record.producer_id, record.epoch

    async def _save(self, name: str, record: TransactionRecord, others: Changes) -> None:
        await self._services.change({PREFIX + self._services.key(name): pack(record), **others})
        self._records[name] = record
