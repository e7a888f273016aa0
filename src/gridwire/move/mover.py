"""Moves hubs, their settings and the positions of groups from one side to the other while both serve.

1. Hubs are made at the destination, with settings under which nothing is deleted or compacted before it was checked.
2. Events are copied (`copy`), in transactions that also say how far they came (`journal`).
3. Positions of groups are read, then events up to the ends as they are after that: every position has its event.
4. What came to lie at the destination is read back and compared (`verify`).
5. The hubs get their real settings, the groups their positions (`positions`).

A second run copies what came since and does 3 to 5 again. A mover that was killed anywhere goes on with the next run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from gridwire.broker.port import Bounds, Place, Position
from gridwire.core.errors import GridwireError, InvalidSetting, UnknownHub
from gridwire.core.limits import MIB
from gridwire.core.settings import HUB_SETTINGS
from gridwire.move.copy import Copier
from gridwire.move.journal import Journal, Placed, Started, group_name
from gridwire.move.positions import by_place, translated
from gridwire.move.side import JOURNAL, OURS, Shape, Side
from gridwire.move.verify import verify
from gridwire.move.writer import Writer

PAUSE_S: Final = 0.5
"""Between two looks at a source that has nothing new."""

WHILE_MOVING: Final = {
    "retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete", "message.timestamp.type": "CreateTime",
}  # fmt: skip
"""Settings of a hub at the destination until its events are checked: what was copied stays as it was copied."""

OLD_AND_NEW: Final = "message.timestamp.after.max.ms"
"""Kafka refuses events from the future; those that the source has were accepted there."""


KAFKA_BOUNDS: Final = {"segment.bytes": (MIB, 2**31 - 1)}
"""What Apache Kafka takes (4.0 and later); ours is wider here."""

OUR_BOUNDS: Final = {
    row.kafka: (row.least, row.most) for row in HUB_SETTINGS if not row.choices and row.name != "compact_dirty_percent"
}
"""What an embedded hub takes of whole numbers."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a mover tells while it works. `phase`: copy, follow, verify. Events of this run; `of` is what is known."""

    phase: str
    events: int
    of: int
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class MovedPartition:
    """A partition that is the same on both sides: `events` of them, all with this checksum."""

    hub: str
    partition: int
    events: int
    checksum: str


@dataclass(frozen=True, slots=True)
class MovedPosition:
    """A position of a group. `state`: moved, kept (the group went on by itself there), members (it is in use there)."""

    group: str
    hub: str
    partition: int
    source: int
    target: int
    state: str


@dataclass(frozen=True, slots=True)
class Result:
    """What is the same now. `ours`: settings of hubs that only a gateway of the destination can take."""

    partitions: Sequence[MovedPartition]
    positions: Sequence[MovedPosition]
    ours: Mapping[str, Mapping[str, str]]


class Mover:
    """One move from a source to a destination. Opening one takes over from a mover that still runs.

    Args:
        hubs: only these. report: called with progress.

    Raises:
        GridwireError: a hub is in the way at the destination; says which and what to do.
    """

    def __init__(
        self, source: Side, target: Side, hubs: Sequence[str] = (), report: Callable[[Progress], None] = lambda _: None
    ) -> None:
        if source.id == target.id and source.address.prefix == target.address.prefix:
            raise InvalidSetting("source and destination are the same")
        self._source = source
        self._target = target
        self._only = frozenset(hubs)
        self._report = report
        name = source.id + (f":{source.address.prefix}" if source.address.prefix else "")
        self._writer = Writer(target, f"{JOURNAL}.{name}")
        self.journal = Journal(target, name)
        self._target_is_ours = bool(OURS.keys() & target.configs([JOURNAL])[JOURNAL].keys())
        self._copier = Copier(source, target, self.journal, self._writer, self._tell)
        self._prepared: dict[str, Shape] = {}
        self._phase = "copy"
        self._began = self._copied()
        self._goal = 0

    def run(self, follow: bool = False, stop: threading.Event | None = None) -> Result:
        """Copy, check, and hand the groups over.

        Args:
            follow: go on copying what comes in until `stop` is set, then do the rest.
        """
        stop = threading.Event() if stop is None else stop
        while follow and not stop.is_set():
            before = self._copied()
            self.copy(stop.is_set)
            self._phase = "follow"
            if self._copied() == before:
                stop.wait(PAUSE_S)
        self._phase = "copy"
        positions = {group: self._source.positions(group) for group in self._source.groups()}
        hubs = self.copy()
        self.verify(hubs)
        ours = self.settle(hubs)
        return Result(self._partitions(hubs), self.place(positions, hubs), ours)

    def _copied(self) -> int:
        return sum(step.events for step in self.journal.ends.values())

    # -- hubs -----------------------------------------------------------------------------------------------------

    def plan(self) -> dict[str, Shape]:
        """Hubs to move, made ready at the destination. Raises UnknownHub, GridwireError."""
        found = self._source.hubs()
        missing = self._only - found.keys()
        if missing:
            raise UnknownHub(f"no hub {sorted(missing)[0]!r} at {self._source}")
        hubs = {name: shape for name, shape in found.items() if not self._only or name in self._only}
        for name, shape in hubs.items():
            if self._prepared.get(name) != shape:
                self._prepare(name, shape)
                self._prepared[name] = shape
        return hubs

    def _prepare(self, hub: str, shape: Shape) -> None:
        known = self.journal.hubs.get(hub)
        there = self._target.shape(hub)
        extra = {} if self._target_is_ours else {OLD_AND_NEW: str(2**63 - 1)}
        ours = known is not None and there is not None and there.id == known.target
        if ours and known is not None and known.id != shape.id:
            raise GridwireError(
                f"hub {hub!r} was deleted at the source and made again since its move began: "
                "delete it at the destination and start again"
            )
        if not ours:
            self._check_free(hub, shape, there)
        if there is None:
            configs = self._final(hub) | WHILE_MOVING | extra
            self._target.create(hub, shape.partitions, configs)
            there = self._target.shape(hub)
        else:
            if there.partitions < shape.partitions:
                self._target.grow(hub, shape.partitions)
            self._target.set_configs(hub, WHILE_MOVING | extra)
        if not ours and there is not None:
            self._note("hub", hub, Started(shape.id, there.id))

    def _check_free(self, hub: str, shape: Shape, there: Shape | None) -> None:
        if there is None:
            return
        places = [(hub, number) for number in range(there.partitions)]
        if any(each.end > 0 for each in self._target.bounds(places).values()):
            raise GridwireError(
                f"hub {hub!r} at the destination has events that no move from here brought: delete it there, "
                "or name the hubs to move with --hub"
            )
        if there.partitions > shape.partitions:
            raise GridwireError(
                f"hub {hub!r} has {there.partitions} partitions at the destination and {shape.partitions} here: "
                "keys would change their partition; delete it there"
            )

    def _final(self, hub: str) -> dict[str, str]:
        """Topic configs a hub has in the end: the source's, as near as the destination takes them."""
        configs = self._source.configs([hub])[hub]
        known = {name: value for name, value in configs.items() if name not in OURS or self._target_is_ours}
        for name, (least, most) in (OUR_BOUNDS if self._target_is_ours else KAFKA_BOUNDS).items():
            if name in known:
                known[name] = str(min(max(int(known[name]), least), most))
        return known

    def _note(self, kind: str, name: str, record: msgspec.Struct) -> None:
        with self._writer.transaction() as producer:
            self.journal.write(producer, kind, name, record)
        self.journal.applied(kind, name, record)

    # -- events ---------------------------------------------------------------------------------------------------

    def copy(self, stop: Callable[[], bool] = lambda: False) -> dict[str, Shape]:
        """Copy up to the ends as they are now."""
        hubs = self.plan()
        bounds = self._source.bounds(places_of(hubs))
        self._check_source(bounds)
        left = sum(max(0, each.end - self._copier.position(place, each)) for place, each in bounds.items())
        self._goal = self._copied() - self._began + left
        self._copier.copy(bounds, stop)
        return hubs

    def _check_source(self, bounds: Mapping[Place, Bounds]) -> None:
        for place, each in bounds.items():
            if self.journal.end(place).following > each.end:
                raise GridwireError(
                    f"partition {place[1]} of hub {place[0]!r} ends at {each.end} at the source, before events that "
                    "were moved already: it is not what it was, restore it or delete the hub at the destination"
                )

    def _tell(self) -> None:
        self._report(Progress(self._phase, self._copied() - self._began, self._goal))

    def verify(self, hubs: Collection[str]) -> None:
        """Read back what was copied. Raises ChecksumMismatch."""
        before = self._checked(hubs)
        goal = sum(step.events for (hub, _), step in self.journal.ends.items() if hub in hubs) - before

        def tell(events: int) -> None:
            self._report(Progress("verify", self._checked(hubs) - before + events, goal))

        verify(self._target, self.journal, self._writer, hubs, tell)

    def _checked(self, hubs: Collection[str]) -> int:
        return sum(each.events for (hub, _), each in self.journal.checked.items() if hub in hubs)

    def _partitions(self, hubs: Mapping[str, Shape]) -> list[MovedPartition]:
        rows = []
        for place in places_of(hubs):
            step, checked = self.journal.end(place), self.journal.checked.get(place)
            assert checked is None or (checked.events, checked.sum) == (step.events, step.sum)
            rows.append(MovedPartition(*place, step.events, step.sum.hex()))
        return rows

    # -- settings and positions -----------------------------------------------------------------------------------

    def settle(self, hubs: Mapping[str, Shape]) -> dict[str, dict[str, str]]:
        """Give the hubs the settings of the source; returns those that the destination has no topic config for."""
        for hub in hubs:
            extra: dict[str, str | None] = {} if self._target_is_ours else {OLD_AND_NEW: None}
            self._target.set_configs(hub, {**self._final(hub), **extra})
            self._prepared.pop(hub, None)
        if self._target_is_ours:
            return {}
        found = {}
        for hub, configs in self._source.configs(hubs).items():
            ours = {OURS[name]: value for name, value in configs.items() if name in OURS and value != "off"}
            if ours:
                found[hub] = ours
        return found

    def place(
        self, positions: Mapping[str, Mapping[Place, Position]], hubs: Mapping[str, Shape]
    ) -> list[MovedPosition]:
        """Give groups their positions at the destination, unless they went on there by themselves."""
        moved = {
            group: {place: each for place, each in rows.items() if place[0] in hubs}
            for group, rows in positions.items()
        }
        wanted = by_place((place, each.offset) for rows in moved.values() for place, each in rows.items())
        found = translated(self.journal.steps(hubs), wanted, self._target.bounds(wanted))
        rows: list[MovedPosition] = []
        for group, old in sorted(moved.items()):
            new = {place: Position(found[place, each.offset], each.metadata) for place, each in old.items()}
            states = self._placed(group, new) if new else {}
            rows += [
                MovedPosition(group, *place, old[place].offset, new[place].offset, states[place])
                for place in sorted(new)
            ]
        return rows

    def _placed(self, group: str, new: Mapping[Place, Position]) -> dict[Place, str]:
        there = self._target.positions(group)
        states = {}
        wanted: dict[Place, Position] = {}
        for place, position in new.items():
            ours = self.journal.placed.get((group, place), set())
            if place in there and there[place].offset not in ours | {position.offset}:
                states[place] = "kept"
            else:
                wanted[place] = position
        if not wanted:
            return states
        with self._writer.transaction() as producer:
            for place, position in wanted.items():
                self.journal.write(producer, "group", group_name(group, place), Placed(position.offset))
        for place, position in wanted.items():
            self.journal.applied("group", group_name(group, place), Placed(position.offset))
        done = self._target.commit(group, wanted)
        return states | dict.fromkeys(wanted, "moved" if done else "members")


def places_of(hubs: Mapping[str, Shape]) -> list[Place]:
    """Every partition."""
    return [(name, number) for name, shape in sorted(hubs.items()) for number in range(shape.partitions)]
