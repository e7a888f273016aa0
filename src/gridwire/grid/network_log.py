"""The network model in effect: the newest valid event of the hub `grid.network`."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from gridwire.broker.port import ColumnBatch, Place
from gridwire.grid.network import InvalidNetwork, Network, from_json, to_json
from gridwire.grid.state import DAY_S

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CurrentNetwork:
    """A model and its place in the history of models.

    Args:
        text: the model in one spelling, to compare it with another.
        ordinal: events of the hub before the first one of the unbroken run of this same model. It only ever rises when
            the model changes, and sending the same model again does not change it.
    """

    network: Network
    text: bytes
    ordinal: int


class NetworkLog:
    """Follows the hub `grid.network`; feed it every batch from the hub's start on, in order."""

    def __init__(self) -> None:
        self.current: CurrentNetwork | None = None
        self.invalid = 0
        self._read: dict[Place, int] = {}
        self._last_value: bytes | None = None

    @property
    def events_read(self) -> int:
        """Events of the hub up to where it has been read, those that retention removed included."""
        return sum(self._read.values())

    def position(self, place: Place) -> int:
        """Offset of the next model of a partition."""
        return self._read.get(place, 0)

    def feed(self, batch: ColumnBatch) -> None:
        """Take every event of a batch; an invalid model is told and passed over."""
        place = (batch.hub, batch.partition)
        for row, offset in enumerate(batch.columns.offsets.tolist()):
            if offset < self._read.get(place, 0):
                continue
            self._read[place] = offset
            value = batch.columns.value(row)
            if value is not None and value != self._last_value:
                self._take(value, f"{batch.hub}/{batch.partition}@{offset}")
            self._read[place] = offset + 1
        self._read[place] = max(self._read.get(place, 0), batch.next_offset)

    def _take(self, value: bytes, source: str) -> None:
        try:
            network = from_json(value)
            if DAY_S % network.interval_s:
                raise InvalidNetwork(f"interval_s must divide a day of {DAY_S} s, {network.interval_s} does not")
        except InvalidNetwork as error:
            self.invalid += 1
            log.warning("network model refused", source=source, reason=str(error))
            return
        self._last_value = value
        text = to_json(network)
        if self.current is None or text != self.current.text:
            self.current = CurrentNetwork(network, text, self.events_read)
