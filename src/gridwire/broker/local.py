"""A worker's side of the embedded broker: columns straight from the mapped segments, commits through the hub.

The worker asks the hub only where bytes lie and to be woken when there are more; the bytes themselves never pass
through the hub. One worker process holds one source; it is not shared between threads.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from gridwire.broker import frames
from gridwire.broker.alert_routes import RouteRecord
from gridwire.broker.port import ColumnBatch, Output, Place, Position
from gridwire.columnar.encode import encode_batch
from gridwire.columnar.reader import SegmentReader, SegmentSpan
from gridwire.core import errors
from gridwire.core.batch import Event, encode
from gridwire.core.errors import GridwireError, Unavailable

CONNECT_S: Final = 10.0
REQUEST_S: Final = 60.0
OUTPUT_BATCH_BYTES: Final = 1024 * 1024
"""Outputs are cut into batches of about this size; hubs refuse larger ones by setting."""

log = structlog.get_logger("gridwire.source")

_ERRORS: Final[dict[str, type[GridwireError]]] = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, GridwireError)
}


def _revived(failure: frames.Failure) -> GridwireError:
    """The hub's error, its message as it is."""
    kind = _ERRORS.get(failure.kind, GridwireError)
    error = kind.__new__(kind)
    error.args = (failure.message,)
    return error


class _Connection:
    """Requests and replies over one socket, one at a time."""

    def __init__(self, directory: Path) -> None:
        try:
            endpoint = msgspec.json.decode((directory / frames.ENDPOINT_FILE).read_bytes(), type=frames.Endpoint)
            self._socket = socket.create_connection(("127.0.0.1", endpoint.port), CONNECT_S)
        except (OSError, msgspec.MsgspecError) as error:
            raise Unavailable(f"no hub serves {directory}: start one with `gridwire up` ({error})") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._next_id = 0
        self.call("hello", secret=endpoint.secret)

    def call(self, operation: str, patience_s: float = REQUEST_S, **arguments: Any) -> Any:
        """Ask and wait for the answer. Raises what the hub raised, or Unavailable."""
        self._next_id += 1
        try:
            self._socket.settimeout(patience_s)
            self._socket.sendall(frames.pack(frames.Request(self._next_id, operation, arguments)))
            (size,) = frames.LENGTH.unpack(self._receive(frames.LENGTH.size))
            reply = msgspec.msgpack.decode(self._receive(size), type=frames.Reply)
        except (OSError, msgspec.MsgspecError) as error:
            self.close()
            raise Unavailable(f"the hub does not answer ({error}): is it running?") from None
        if reply.failure is not None:
            raise _revived(reply.failure)
        return reply.result

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        frames.receive_into(self._socket, memoryview(data))
        return bytes(data)

    def close(self) -> None:
        self._socket.close()


class LocalSource:
    """`EventSource` on the machine of the hub. Opening one takes the group over from whoever had it.

    Args:
        directory: the hub's data directory. hubs: read from where the group has committed, else from their start.
        follow: hubs read from their start, whatever the group has committed. A source that only follows takes no group.

    Raises:
        Unavailable: no hub serves the directory.
    """

    whole_hubs = True
    """One owner has everything."""

    def __init__(
        self,
        directory: Path | str,
        group: str,
        hubs: Sequence[str],
        *,
        follow: Sequence[str] = (),
    ) -> None:
        self.group = group
        self.malformed_batches = 0
        self._hub_names = list(hubs)
        self._followed = list(follow)
        self._connection = _Connection(Path(directory))
        self._producer_id = self._epoch = -1
        if hubs:
            owner = self._connection.call("claim", group=group)
            self._producer_id, self._epoch = owner["producer_id"], owner["epoch"]
        self._sequences: dict[Place, int] = {}
        self._reader = SegmentReader(check_crc=True)
        self._positions: dict[Place, int] = {}
        self._assigned: dict[Place, int] = {}
        self._committed: dict[Place, Position] = {}
        self._ends: dict[Place, int] = {}
        self._ids: dict[str, str] = {}
        self._generation = -1
        self._refresh()

    def _refresh(self) -> None:
        """Learn which hubs and partitions there are; hubs that appear later join, deleted ones leave."""
        told = self._connection.call("describe", group=self.group, hubs=[*self._hub_names, *self._followed])
        self._generation = told["generation"]
        positions: dict[Place, int] = {}
        assigned: dict[Place, int] = {}
        for name, hub in told["hubs"].items():
            reborn = self._ids.get(name) not in (None, hub["id"])
            self._ids[name] = hub["id"]
            followed = name in self._followed
            for number, (start, end, committed, note) in enumerate(hub["partitions"]):
                place = (name, number)
                self._committed.pop(place, None)
                fresh = start
                if committed >= 0 and not followed:
                    fresh = committed
                    self._committed[place] = Position(committed, note)
                positions[place] = fresh if reborn else self._positions.get(place, fresh)
                self._ends[place] = end
                if not followed:
                    assigned[place] = self._generation if reborn else self._assigned.get(place, self._generation)
        self._positions, self._assigned = positions, assigned

    def partitions(self, hub: str) -> int:
        """Number of partitions. Raises UnknownHub."""
        told = self._connection.call("describe", group=self.group, hubs=[hub])["hubs"]
        if hub not in told:
            raise errors.UnknownHub(f"no hub {hub!r}")
        return len(told[hub]["partitions"])

    def hub_id(self, hub: str) -> UUID:
        """The id of a subscribed hub; another one after it was deleted and created again. Raises UnknownHub."""
        if hub not in self._ids:
            raise errors.UnknownHub(f"no hub {hub!r}")
        return UUID(self._ids[hub])

    def create_hub(self, hub: str, partitions: int | None = None) -> None:
        """Create a hub unless it exists."""
        try:
            self._connection.call("create", hub=hub, partitions=partitions)
        except errors.HubExists:
            return

    def positions(self) -> dict[Place, int]:
        """Where the next poll reads."""
        return dict(self._positions)

    def assigned(self) -> dict[Place, int]:
        """Every place of the subscription, and which generation of hubs it came with."""
        return dict(self._assigned)

    def committed(self) -> dict[Place, Position]:
        """Committed positions when the source was opened or last committed, where there are any."""
        return dict(self._committed)

    def seek(self, place: Place, offset: int) -> None:
        """Read from elsewhere; does not change the committed position."""
        if place in self._positions:
            self._positions[place] = offset

    def offsets_at(self, timestamp_ms: int | None) -> dict[Place, int]:
        """First offset of that time or later, by place; the hub looks into its time index."""
        told = self._connection.call("offsets_at", places=list(self._assigned), timestamp_ms=timestamp_ms)
        return {(hub, number): offset for hub, number, offset in told}

    def poll(self, timeout_s: float, bytes_max: int = 32 * 1024 * 1024) -> list[ColumnBatch]:
        """Columns that arrived, woken by the hub; empty when the time is up.

        Raises:
            Corruption: damaged bytes, named. Unavailable: the hub went away.
        """
        told = self._connection.call(
            "poll",
            timeout_s + REQUEST_S,
            places=[(hub, number, offset) for (hub, number), offset in self._positions.items()],
            bytes_max=bytes_max,
            timeout_s=timeout_s,
            generation=self._generation,
        )
        if told["generation"] != self._generation:
            self._refresh()
            return []
        batches: list[ColumnBatch] = []
        for hub, number, start, end, spans in told["places"]:
            self._ends[hub, number] = end
            if spans is None:
                self._jump((hub, number), start, end)
            else:
                batches += self._columns((hub, number), [SegmentSpan(*span) for span in spans])
        return batches

    def _jump(self, place: Place, start: int, end: int) -> None:
        """Retention was faster than we: go on at the first event kept, and say how many are gone."""
        position = self._positions[place]
        target = start if position < start else end
        hub, number = place
        log.warning("the position is not in the log any more", hub=hub, partition=number, position=position, now=target)
        self._positions[place] = target

    def _columns(self, place: Place, spans: list[SegmentSpan]) -> list[ColumnBatch]:
        hub, number = place
        first = self._positions[place]
        try:
            read = self._reader.read_all(spans, from_offset=first, hub=hub, partition=number, skip_malformed=True)
        except errors.OffsetOutOfRange:  # retention or compaction removed a file meanwhile: the hub knows what is there
            return []
        self._positions[place] = read.next_offset
        for damage in read.damaged:
            # Its checksum is right: a producer wrote it so. Stopping here would let any producer stop every worker.
            self.malformed_batches += 1
            log.error("malformed batch skipped, its bytes stay in the hub", reason=str(damage))
        if not read.columns:
            return []
        found = []
        for columns in read.columns:
            last = columns is read.columns[-1]
            following = read.next_offset if last else int(columns.offsets[-1]) + 1
            found.append(ColumnBatch(hub, number, columns, following, first))
            first = following
        return found

    def commit(self, positions: Mapping[Place, int], outputs: Sequence[Output] = (), note: str = "") -> None:
        """Positions and outputs become durable together or not at all. Raises FencedEpoch, Rebalanced, Unavailable."""
        lost = [place for place in positions if place not in self._assigned]
        if lost:
            raise errors.Rebalanced(f"{sorted(lost)[:3]} of group {self.group!r} are not there any more")
        batches = [batch for output in outputs for batch in self._batches(output)]
        self._connection.call(
            "commit",
            group=self.group,
            producer_id=self._producer_id,
            epoch=self._epoch,
            positions=[(hub, number, offset) for (hub, number), offset in positions.items()],
            outputs=batches,
            note=note,
        )
        self._committed |= {place: Position(offset, note) for place, offset in positions.items()}

    def _batches(self, output: Output) -> list[tuple[str, int, bytes]]:
        """Outputs as batches stamped with our producer id, epoch and running sequence."""
        place = (output.hub, output.partition)
        stamped = []
        for events in _cut(output.events):
            sequence = self._sequences.get(place, 0)
            batch = _encode(events, self._producer_id, self._epoch, sequence)
            self._sequences[place] = (sequence + len(events)) & 0x7FFFFFFF
            stamped.append((output.hub, output.partition, bytes(batch)))
        return stamped

    def lag(self) -> dict[Place, int]:
        """Events between the reading position and the end, as last told by the hub."""
        return {place: max(0, self._ends.get(place, 0) - offset) for place, offset in self._positions.items()}

    def close(self) -> None:
        """Let go of the hub."""
        self._connection.close()
        self._reader.close()


def report(directory: Path, group: str, counters: Mapping[str, int]) -> None:
    """Tell the hub what a worker counts, for its metrics. Raises Unavailable."""
    _tell(directory, "report", group=group, counters=dict(counters))


def report_app(directory: Path, told: Any) -> None:
    """Tell the hub how a host of functions is: an `AppReport` as builtins. Raises Unavailable."""
    _tell(directory, "report_app", told=told)


class LocalRoutes:
    """Routes of alerts, as the hub of a directory keeps them. Every method raises Unavailable when it is gone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._connection: _Connection | None = None
        self._one = asyncio.Lock()

    async def routes(self) -> dict[str, RouteRecord]:
        """Every route by name."""
        return msgspec.convert(await self._ask("routes"), dict[str, RouteRecord])

    async def stop(self, name: str, id: str, reason: str) -> None:
        """The receiver wants no more."""
        await self._ask("stop_route", name=name, id=id, reason=reason)

    async def forget(self, name: str, id: str) -> None:
        """Nobody works for the removed route any more."""
        await self._ask("forget_route", name=name, id=id)

    async def _ask(self, operation: str, **arguments: Any) -> Any:
        async with self._one:
            return await asyncio.to_thread(self._call, operation, arguments)

    def _call(self, operation: str, arguments: dict[str, Any]) -> Any:
        connection = self._connection or _Connection(self._directory)
        self._connection = None  # one that fails is not asked again
        told = connection.call(operation, **arguments)
        self._connection = connection
        return told


def _tell(directory: Path, operation: str, **arguments: Any) -> None:
    connection = _Connection(directory)
    try:
        connection.call(operation, **arguments)
    finally:
        connection.close()


def _encode(events: list[Event], producer_id: int, epoch: int, sequence: int) -> bytearray:
    """One batch; through the kernel when no event has headers, which is four times as fast."""
    if any(event.headers or event.value is None for event in events):
        return encode(events, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)
    return encode_batch(
        [event.value for event in events],
        [event.key for event in events],
        [event.timestamp for event in events],
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
    )


def _cut(events: Sequence[Event]) -> list[list[Event]]:
    """Split into runs of about `OUTPUT_BATCH_BYTES`; events without a timestamp get the present time."""
    now_ms = time.time_ns() // 1_000_000
    runs: list[list[Event]] = []
    size = OUTPUT_BATCH_BYTES
    for event in events:
        if size >= OUTPUT_BATCH_BYTES:
            runs.append([])
            size = 0
        stamped = event if event.timestamp else Event(event.value, event.key, event.headers, now_ms)
        runs[-1].append(stamped)
        size += 32 + len(event.value or b"") + len(event.key or b"")
    return runs
