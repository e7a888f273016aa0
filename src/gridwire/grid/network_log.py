"""The network model in effect: the newest valid event of the hub `grid.network`."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from gridwire.broker.port import ColumnBatch, Place
from gridwire.grid.network import InvalidNetwork, Network
from gridwire.grid.network import digest as digest_of
from gridwire.grid.network_parts import Assembly
from gridwire.grid.state import DAY_S

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CurrentNetwork:
    """A model and its place in the history of models.

    Args:
        digest: of the model in one spelling, to compare it with another.
        ordinal: events of the hub before the first one of the unbroken run of this same model. It only ever rises when
            the model changes, and sending the same model again does not change it.
    """

    network: Network
    digest: bytes
    ordinal: int


@dataclass(frozen=True, slots=True, order=True)
class _Entry:
    """One event. Within a partition entries sort as in the log, between partitions by time."""

    timestamp: int
    partition: int
    offset: int
    digest: bytes


class NetworkLog:
    """Follows the hub `grid.network`; feed it every batch from the hub's start on, in the order of each partition."""

    def __init__(self) -> None:
        self.current: CurrentNetwork | None = None
        self._entries: list[_Entry] = []
        self._networks: dict[bytes, Network] = {}
        self._assemblies: dict[Place, Assembly] = {}
        self._read: dict[Place, int] = {}
        self._starts: dict[Place, int] = {}
        self._newest_ms: dict[Place, int] = {}

    def position(self, place: Place) -> int:
        """Offset of the next model of a partition."""
        return self._read.get(place, 0)

    def feed(self, batch: ColumnBatch) -> None:
        """Take every event of a batch; an invalid model is told and passed over."""
        place = (batch.hub, batch.partition)
        columns = batch.columns
        for row, offset in enumerate(columns.offsets.tolist()):
            if offset < self.position(place):
                continue
            self._starts.setdefault(place, offset)
            # A clock that was set back must not put an event before an earlier one of its partition.
            newest_ms = max(int(columns.timestamps[row]), self._newest_ms.get(place, 0))
            self._newest_ms[place] = newest_ms
            digest = self._read_model(place, columns.value(row) or b"", f"{batch.hub}/{batch.partition}@{offset}")
            self._entries.append(_Entry(newest_ms, batch.partition, offset, digest))
            self._read[place] = offset + 1
        self._read[place] = max(self.position(place), batch.next_offset)
        self._choose()

    def _read_model(self, place: Place, value: bytes, source: str) -> bytes:
        """Digest of a model, empty when it is none, or a part of one of which more is to come."""
        try:
            network = self._assemblies.setdefault(place, Assembly()).take(value)
            if network is None:
                return b""
            if DAY_S % network.interval_s:
                raise InvalidNetwork(f"interval_s must divide a day of {DAY_S} s, {network.interval_s} does not")
        except InvalidNetwork as error:
            log.warning("network model refused", source=source, reason=str(error))
            return b""
        digest = digest_of(network)
        self._networks[digest] = network
        return digest

    def _choose(self) -> None:
        """The last valid model, and where its run begins; invalid ones in between do not break a run."""
        self._entries.sort()
        run: _Entry | None = None
        for entry in reversed(self._entries):
            if entry.digest and run is not None and entry.digest != run.digest:
                break
            run = entry if entry.digest else run
        if run is None:
            return
        ordinal = sum(self._starts.values()) + self._entries.index(run)
        if self.current is None or (run.digest, ordinal) != (self.current.digest, self.current.ordinal):
            self.current = CurrentNetwork(self._networks[run.digest], run.digest, ordinal)
        self._networks = {run.digest: self._networks[run.digest]}
