"""Findings of one route on their way, by place and by finding. No I/O, no clock.

    read -> waiting -> under way -> delivered, or given up
               ^          |
               '- again --'

Tellings of one finding go out in order, one after the other; findings do not wait for each other. The position of a
place is its first telling that is neither delivered nor given up; what is done beyond it is remembered, and goes into
the note of the commit (`beyond`), so that whoever starts there repeats little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from gridwire.broker.port import Place
from gridwire.core.batch import Event
from gridwire.core.limits import MIB

WAITING_MAX: Final = 500
"""Tellings a route holds: some kilobytes each. The rest stays in its hub until there is room."""

WAITING_BYTES_MAX: Final = 8 * MIB
"""Their values, however large somebody made them; one more may come on top."""

BEYOND_MAX: Final = 200
"""Of those, how many a note names; Kafka keeps 4 KB of it."""


@dataclass(slots=True, eq=False)
class Item:
    """One telling of a finding. `finding`: its id. due_s: not before, on the monotonic clock."""

    place: Place
    offset: int
    finding: str
    event: Event
    tries: int = 0
    due_s: float = 0.0
    under_way: bool = False
    reason: str = ""


@dataclass(slots=True)
class _Lane:
    """One place: how far it was read, and what of that is not done, in order of offsets."""

    next: int
    open: dict[int, Item] = field(default_factory=dict)

    @property
    def position(self) -> int:
        return next(iter(self.open), self.next)


class Backlog:
    """See the module."""

    def __init__(self, waiting_max: int = WAITING_MAX) -> None:
        self.waiting_max = waiting_max
        self._lanes: dict[Place, _Lane] = {}
        self._skips: dict[Place, tuple[int, frozenset[int]]] = {}
        self._lines: dict[str, deque[Item]] = {}
        self._total = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._total

    @property
    def room(self) -> int:
        """How many more tellings may be taken."""
        return max(0, self.waiting_max - self._total) if self._bytes < WAITING_BYTES_MAX else 0

    @property
    def places(self) -> Iterable[Place]:
        """Places that are worked on."""
        return self._lanes.keys()

    def begin(self, place: Place, position: int, beyond: Iterable[int] = ()) -> None:
        """Work on a place from its committed position on. `beyond`: as a note has it, see `RouteNote`."""
        self.drop(place)
        self._lanes[place] = _Lane(position)
        told = list(beyond)
        if told:
            self._skips[place] = (position + told[0], frozenset(position + distance for distance in told[1:]))

    def drop(self, place: Place) -> None:
        """Work on a place no longer: it is somebody else's, or another hub's."""
        lane = self._lanes.pop(place, None)
        self._skips.pop(place, None)
        for item in [] if lane is None else list(lane.open.values()):
            self._leave(item)

    def is_done(self, place: Place, offset: int) -> bool:
        """Whether a telling was dealt with before the position was committed that we began at."""
        until, still_open = self._skips.get(place, (0, frozenset[int]()))
        return offset < until and offset not in still_open

    def add(self, item: Item) -> None:
        """Take a telling that is to be delivered; offsets of a place come in order."""
        lane = self._lanes[item.place]
        lane.open[item.offset] = item
        lane.next = max(lane.next, item.offset + 1)
        self._lines.setdefault(item.finding, deque()).append(item)
        self._total += 1
        self._bytes += len(item.event.value or b"")

    def read(self, place: Place, following: int) -> None:
        """Everything of a place below an offset was looked at."""
        lane = self._lanes.get(place)
        if lane is not None:
            lane.next = max(lane.next, following)
            if self._skips.get(place, (0,))[0] <= lane.next:
                self._skips.pop(place, None)

    def ready(self, now_s: float) -> Item | None:
        """The next telling to deliver: first of its finding, not under way, its wait over."""
        return next((item for item in self._heads() if not item.under_way and item.due_s <= now_s), None)

    def next_due_s(self) -> float | None:
        """When the next telling may go that is not under way; None when there is none."""
        return min((item.due_s for item in self._heads() if not item.under_way), default=None)

    def heads(self) -> list[Item]:
        """The first telling of each finding that is not under way."""
        return [item for item in self._heads() if not item.under_way]

    def _heads(self) -> Iterator[Item]:
        return (line[0] for line in self._lines.values())

    def again(self, item: Item, due_s: float, reason: str) -> None:
        """A try failed; the next one is due then."""
        item.under_way, item.due_s, item.reason = False, due_s, reason
        item.tries += 1

    def done(self, item: Item) -> bool:
        """Delivered or given up; False when it is not ours any more."""
        lane = self._lanes.get(item.place)
        if lane is None or lane.open.get(item.offset) is not item:
            return False
        del lane.open[item.offset]
        self._leave(item)
        return True

    def _leave(self, item: Item) -> None:
        line = self._lines[item.finding]
        line.remove(item)
        if not line:
            del self._lines[item.finding]
        self._total -= 1
        self._bytes -= len(item.event.value or b"")

    def wake(self) -> None:
        """Let everything that waits go at once: the receiver is back."""
        for item in self._heads():
            item.due_s = 0.0

    def positions(self) -> dict[Place, int]:
        """Where whoever goes on begins."""
        return {place: lane.position for place, lane in self._lanes.items()}

    def beyond(self) -> dict[str, list[int]]:
        """What a note says of the tellings beyond the positions, those that wait by name, cut to what fits."""
        left, told = BEYOND_MAX, dict[str, list[int]]()
        for (hub, partition), lane in sorted(self._lanes.items()):
            if not lane.open or left == 0:
                continue
            named = list(lane.open)[:left]
            until = lane.next if len(named) == len(lane.open) else named[-1] + 1
            told[f"{hub}/{partition}"] = [until - lane.position, *(offset - lane.position for offset in named)]
            left -= len(named)
        return told
