"""The decode worker: hubs of meter frames -> `readings`, `meter.events`, `weather` and `quarantine`, as they arrive.

    poll -> processes decode (any order) -> one commit: positions + what came out, in the order of the frames

A head-end or concentrator publishes what its meters sent, byte for byte, to a hub whose setting `decode` names the
format; a frame an event. The event's header `meter` names the meter where the frame does not, its timestamp is the time
of receipt. Positions and outputs are one commit, so every frame has its effect once, wherever a process dies.

Readings are keyed by the transformer of their usage point where the network model knows it, so that a transformer's
meters share a partition, else by the usage point.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from gridwire.broker.port import ColumnBatch, EventSource, Output
from gridwire.core.batch import Event
from gridwire.core.clock import SystemClock
from gridwire.core.errors import Rebalanced, StorageFailed, Unavailable, UnknownHub
from gridwire.core.limits import MIB
from gridwire.grid.decoding import DecoderPool, Found, Frame
from gridwire.grid.formats.base import Context
from gridwire.grid.meter_event import METER_EVENTS_HUB
from gridwire.grid.network import NETWORK_HUB
from gridwire.grid.network_log import NetworkLog
from gridwire.grid.reading import QUARANTINE_HUB, READINGS_HUB
from gridwire.grid.weather import WEATHER_HUB
from gridwire.wire.http.partitioner import partition_of

POLL_S: Final = 0.5
"""Longest wait for frames, so that a stop is noticed."""

POLL_BYTES: Final = 8 * MIB
"""Frames of one commit: a decoded frame is some ten times its size in events."""

RETRY_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts to reach the hub; the last one repeats."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Feed:
    """A hub of frames. `context`: what its frames leave out."""

    hub: str
    format: str
    context: Context


def run(
    open_source: Callable[[list[str], list[str]], EventSource],
    feeds: Iterable[Feed],
    stop: threading.Event,
    *,
    processes: int | None = None,
    metrics: dict[str, int] | None = None,
) -> None:
    """Decode until `stop` is set.

    Args:
        open_source: (hubs to read, hubs to follow) to a source.
        processes: that decode; one a core unless said.
        metrics: filled with what was done.

    Raises:
        FencedEpoch: another decode worker took over. Unsupported: no such format.
    """
    pool = DecoderPool(processes)
    try:
        _Worker(open_source, {feed.hub: feed for feed in feeds}, stop, pool, {} if metrics is None else metrics).run()
    finally:
        pool.close()


class _Worker:
    def __init__(
        self,
        open_source: Callable[[list[str], list[str]], EventSource],
        feeds: Mapping[str, Feed],
        stop: threading.Event,
        pool: DecoderPool,
        metrics: dict[str, int],
    ) -> None:
        self._open, self._feeds, self._stop, self._pool, self._metrics = open_source, feeds, stop, pool, metrics
        self._counts: Counter[str] = Counter()
        self._networks = NetworkLog()
        self._clock, self._stamp = SystemClock(), self._networks.stamp(0)
        self._transformer_of: dict[bytes, bytes] = {}

    def run(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            before = self._counts["commits"]
            try:
                self._session()
            except (Unavailable, UnknownHub, StorageFailed) as error:
                attempt = 0 if self._counts["commits"] > before else attempt + 1
                pause_s = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                log.warning("hub unavailable", reason=str(error), retry_s=pause_s)
                self._stop.wait(pause_s)

    def _session(self) -> None:
        source = self._open(list(self._feeds), [NETWORK_HUB])
        try:
            self._networks = NetworkLog()
            self._stamp = self._networks.stamp(0)
            for place in source.positions():
                if place[0] == NETWORK_HUB:
                    source.seek(place, 0)
            for hub in (READINGS_HUB, METER_EVENTS_HUB, WEATHER_HUB, QUARANTINE_HUB):
                source.create_hub(hub)
            while not self._stop.is_set():
                self._turn(source)
        finally:
            source.close()

    def _turn(self, source: EventSource) -> None:
        """One poll, and the one commit of what it brought."""
        batches = source.poll(POLL_S, POLL_BYTES)
        for batch in batches:
            if batch.hub == NETWORK_HUB:
                self._networks.feed(batch)
        self._follow_network()
        frames = [batch for batch in batches if batch.hub in self._feeds]
        if not frames:
            return
        outputs = self._decoded(source, frames)
        positions = {(batch.hub, batch.partition): batch.next_offset for batch in frames}
        try:
            source.commit(positions, outputs)
        except Rebalanced as reason:
            log.info("commit refused while places move between workers", reason=str(reason))
            assigned = source.assigned()
            for batch in reversed(frames):  # those that are still ours are read again
                if (batch.hub, batch.partition) in assigned:
                    source.seek((batch.hub, batch.partition), batch.first_offset)
            return
        self._counts["commits"] += 1
        self._metrics.update(self._counts)
        self._metrics["lag_events"] = sum(lag for (hub, _), lag in source.lag().items() if hub in self._feeds)

    def _follow_network(self) -> None:
        """Key readings as the model that holds now does."""
        now_ms = self._clock.now_ms()
        stamp = self._networks.stamp(now_ms)
        if stamp == self._stamp:
            return
        current, self._stamp = self._networks.now(now_ms), stamp
        points = current.network.usage_points if current is not None else ()
        self._transformer_of = {point.id.encode(): point.transformer.encode() for point in points}

    # -- decoding -----------------------------------------------------------------------------------------------

    def _decoded(self, source: EventSource, batches: Sequence[ColumnBatch]) -> list[Output]:
        found = Found()
        for batch in batches:
            feed = self._feeds[batch.hub]
            found.add(self._pool.decode(feed.format, feed.context, list(_frames(batch))))
        self._counts["frames"] += found.frames
        self._counts["readings"] += len(found.readings)
        self._counts["events"] += len(found.events)
        self._counts["weather"] += len(found.weather)
        self._counts["quarantined"] += len(found.bad)
        self._counts["processes_died"] = self._pool.died
        readings = (self._keyed(event) for event in found.readings)
        return [
            *_placed(source, READINGS_HUB, readings),
            *_placed(source, METER_EVENTS_HUB, found.events),
            *_placed(source, WEATHER_HUB, found.weather),
            *_placed(source, QUARANTINE_HUB, found.bad),
        ]

    def _keyed(self, event: Event) -> Event:
        transformer = self._transformer_of.get(event.key or b"")
        return event if transformer is None else msgspec.structs.replace(event, key=transformer)


def _frames(batch: ColumnBatch) -> Iterable[Frame]:
    columns = batch.columns
    for row, offset in enumerate(columns.offsets.tolist()):
        meter = next((value for name, value in columns.headers(row) if name == "meter" and value), b"")
        yield Frame(
            columns.value(row) or b"",
            f"{batch.hub}/{batch.partition}@{offset}",
            meter.decode("utf-8", "replace")[:200],
            int(columns.timestamps[row]) * 1000,
        )


def _placed(source: EventSource, hub: str, events: Iterable[Event]) -> list[Output]:
    """Events on the partitions of their keys."""
    places: dict[int, list[Event]] = {}
    partitions = 0
    for event in events:
        partitions = partitions or source.partitions(hub)
        places.setdefault(partition_of(event.key or b"", partitions), []).append(event)
    return [Output(hub, partition, found) for partition, found in sorted(places.items())]
