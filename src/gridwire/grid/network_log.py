"""Network models in time: which one holds when, out of the events of the hub `grid.network`.

Each valid model is a version that holds from its `valid_from` on, or from the time of its event; see
`gridwire.core.timeline`. Of all versions only their times and digests are kept, and the models of those that may hold
now: the newest, those that were sent ahead of their time, and the one before them. Of the others there is, where it is
wanted, only what hangs where (`gridwire.grid.placements`).
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from gridwire.broker.port import ColumnBatch, EventSource, Place
from gridwire.core.timeline import holding, in_effect
from gridwire.grid.network import InvalidNetwork, Network, valid_from_us
from gridwire.grid.network import digest as digest_of
from gridwire.grid.network_parts import Assembly
from gridwire.grid.placements import FIRST_SLOT, Era, Numbering, Placement, Timeline, first_slot
from gridwire.grid.state import DAY_S

log = structlog.get_logger(__name__)

AHEAD_MAX: Final = 4
"""Models kept that were sent ahead of their time; of more, the first ones are taken for the one after them."""

ERAS_MAX: Final = 1_000
"""Versions in effect whose places are kept, the newest ones: three years of a model a day."""

REPLACED_MAX: Final = 32
"""Versions published last whose places are kept though others replaced them: facts may have been told under them."""


@dataclass(frozen=True, slots=True)
class CurrentNetwork:
    """A model and its place in the history of models.

    Args:
        digest: of the model in one spelling, to compare it with another.
        ordinal: events of the hub before the first one of the unbroken run of this same model. It only ever rises when
            the model changes, and sending the same model again does not change it.
        timeline: this model and those before and after it that have its interval, where they are followed.
    """

    network: Network
    digest: bytes
    ordinal: int
    timeline: Timeline | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """The same for the same model, or for the same models in time."""
        return (self.digest, self.ordinal, None if self.timeline is None else self.timeline.key)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A valid model. Within a partition versions sort as in the log, between partitions by time.

    Args:
        published_ms: time of its event, or of an earlier one of its partition that was later.
        offset: of its last event.
        before: events of its own partition before this one.
        ahead: it was published before the time from which it holds.
    """

    published_ms: int
    partition: int
    offset: int
    digest: bytes
    valid_from_us: int
    before: int
    ahead: bool


class NetworkLog:
    """Follows the hub `grid.network`; feed it every batch from the hub's start on, in the order of each partition.

    Args:
        placed: keep where usage points hang in every version, for those who need models of other times than now.
        digest: of what matters of a model; another model with the same one is the same.
    """

    def __init__(self, placed: bool = False, digest: Callable[[Network], bytes] = digest_of) -> None:
        self._digest_of = digest
        self.versions: list[Version] = []
        """Those in effect, oldest first."""
        self._published: list[Version] = []
        self._networks: dict[bytes, Network] = {}
        self._assemblies: dict[Place, Assembly] = {}
        self._read: dict[Place, int] = {}
        self._starts: dict[Place, int] = {}
        self._times: dict[int, array[int]] = {}
        self._numbering = Numbering() if placed else None
        self._placements: dict[bytes, Placement] = {}

    @property
    def current(self) -> CurrentNetwork | None:
        """The newest valid model, whenever it holds; None while there is none."""
        return self._model(self.versions[-1]) if self.versions else None

    def at(self, time_us: int) -> Version | None:
        """The version that holds at a time; the first one also before its own. None while there is none."""
        return holding(self.versions, time_us)

    def now(self, now_ms: int) -> CurrentNetwork | None:
        """The model that holds now; None while there is none. One without a `valid_from` holds whatever the clocks."""
        version = self._now(now_ms)
        return None if version is None else self._model(version)

    def stamp(self, now_ms: int) -> tuple[Version | None, int]:
        """As long as this is the same, so is what `now` gives."""
        return self._now(now_ms), len(self._published)

    def _now(self, now_ms: int) -> Version | None:
        kept = [version for version in self.versions[-AHEAD_MAX - 1 :] if version.digest in self._networks]
        for version in reversed(kept):
            if not version.ahead or version.valid_from_us <= now_ms * 1000:
                return version
        return kept[0] if kept else None

    def read_all(self, source: EventSource, stop: threading.Event, poll_s: float) -> bool:
        """Feed on what follows the hub until there is a model and nothing is left. False when stopped first."""
        while not stop.is_set():
            for batch in source.poll(poll_s):
                self.feed(batch)
            if self.current is not None and not any(source.lag().values()):
                return True
        return False

    def position(self, place: Place) -> int:
        """Offset of the next model of a partition."""
        return self._read.get(place, 0)

    def feed(self, batch: ColumnBatch) -> None:
        """Take every event of a batch; an invalid model is told and passed over."""
        place = (batch.hub, batch.partition)
        columns = batch.columns
        times = self._times.setdefault(batch.partition, array("q"))
        for row, offset in enumerate(columns.offsets.tolist()):
            if offset < self.position(place):
                continue
            self._starts.setdefault(place, offset)
            # A clock that was set back must not put an event before an earlier one of its partition.
            published_ms = max(int(columns.timestamps[row]), times[-1] if times else 0)
            network = self._read_model(place, columns.value(row) or b"", f"{batch.hub}/{batch.partition}@{offset}")
            if network is not None:
                self._publish(network, published_ms, batch.partition, offset)
            times.append(published_ms)
            self._read[place] = offset + 1
        self._read[place] = max(self.position(place), batch.next_offset)

    def _read_model(self, place: Place, value: bytes, source: str) -> Network | None:
        """A model; None when it is none, or a part of one of which more is to come."""
        try:
            network = self._assemblies.setdefault(place, Assembly()).take(value)
            if network is not None and DAY_S % network.interval_s:
                raise InvalidNetwork(f"interval_s must divide a day of {DAY_S} s, {network.interval_s} does not")
        except InvalidNetwork as error:
            log.warning("network model refused", source=source, reason=str(error))
            return None
        return network

    def _publish(self, network: Network, published_ms: int, partition: int, offset: int) -> None:
        told_us, published_us = valid_from_us(network), published_ms * 1000
        version = Version(
            published_ms,
            partition,
            offset,
            digest=self._digest_of(network),
            valid_from_us=published_us if told_us is None else told_us,
            before=len(self._times[partition]),
            ahead=told_us is not None and told_us > published_us,
        )
        if self._numbering is not None and version.digest not in self._placements:
            self._placements[version.digest] = self._numbering.place(network, version.digest)
        insort(self._published, version)
        self._networks[version.digest] = network
        self.versions = in_effect(self._published)
        self._networks = {digest: self._networks[digest] for digest in self._kept() if digest in self._networks}
        if self._numbering is not None:
            placed = {each.digest for each in (*self.versions[-ERAS_MAX:], *self._published[-REPLACED_MAX:])}
            self._placements = {digest: place for digest, place in self._placements.items() if digest in placed}

    def _kept(self) -> list[bytes]:
        """Digests of the models that may hold now, newest first."""
        kept: list[bytes] = []
        for version in reversed(self.versions[-AHEAD_MAX - 1 :]):
            kept.append(version.digest)
            if not version.ahead:
                break
        return kept

    def _model(self, version: Version) -> CurrentNetwork:
        network = self._networks[version.digest]
        return CurrentNetwork(network, version.digest, self.ordinal(version), self._timeline(version))

    def _timeline(self, version: Version) -> Timeline | None:
        if self._numbering is None:
            return None
        return Timeline(self._numbering, tuple(self._eras(self.versions, version)))

    def _eras(self, versions: list[Version], version: Version) -> list[Era]:
        """The versions around one that have its interval: others are of another grid of times."""
        versions = [each for each in versions if each.digest in self._placements]
        at = versions.index(version)
        interval_s = self._placements[version.digest].interval_s
        alike = [self._placements[each.digest].interval_s == interval_s for each in versions]
        begin = max((number + 1 for number in range(at) if not alike[number]), default=0)
        end = next((number for number in range(at, len(alike)) if not alike[number]), len(alike))
        firsts = [FIRST_SLOT, *(first_slot(each.valid_from_us, interval_s) for each in versions[begin + 1 : end])]
        return [
            Era(self._placements[each.digest], self.ordinal(each), first, each.digest)
            for each, first in zip(versions[begin:end], firsts, strict=True)
        ]

    def timeline_of(self, ordinal: int) -> Timeline | None:
        """The models in time when the version of this ordinal was the newest; None when there is no such version."""
        if self._numbering is None:
            return None
        for number, version in enumerate(self._published):
            if version.digest in self._placements and self.ordinal(version) == ordinal:
                versions = in_effect(self._published[: number + 1])
                return Timeline(self._numbering, tuple(self._eras(versions, versions[-1])))
        return None

    def ordinal(self, version: Version) -> int:
        """Events of the hub before this version's."""
        before = sum(self._starts.values()) + version.before
        for partition, times in self._times.items():
            if partition != version.partition:
                # Of the same time the lower partition comes first.
                bisect = bisect_right if partition < version.partition else bisect_left
                before += bisect(times, version.published_ms)
        return before
