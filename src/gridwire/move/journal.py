"""How far a move is, kept at the destination: in a hub of its own, in the transactions that write the events.

    step/<source>/<hub>/<partition>      Step: what one transaction copied, and the sums up to it
    checked/<source>/<hub>/<partition>   Checked: up to where the destination was read back and found the same
    hub/<source>/<hub>                   Started: which hub of that name it is, here and there; what stands before it
                                         in the journal is of hubs that are gone
    group/<source>/<group>/<hub>/<part>  Placed: a position that was given to a group

A transaction holds events and their step, so both are there or neither: a mover that was killed goes on where the
journal ends. The steps are also the map from old offsets to new ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from gridwire.broker.port import Place
from gridwire.core.errors import Unavailable
from gridwire.core.limits import MIB
from gridwire.move.checksum import EMPTY
from gridwire.move.side import ANSWER_S, JOURNAL, Side, arrived

CONFIGS: Final = {"retention.ms": "-1", "cleanup.policy": "delete", "max.message.bytes": str(8 * MIB)}

Run = tuple[int, int, int]
"""(offset at the source, offset at the destination, events): both count up one by one within a run."""


class Step(msgspec.Struct, frozen=True, array_like=True):
    """What one transaction copied of a partition.

    Args:
        following: source offset to go on at. events, sum: of everything copied so far, see `checksum`.
        runs: where the events of this transaction lie, in order.
    """

    following: int
    events: int = 0
    sum: bytes = EMPTY
    runs: list[Run] = []


class Checked(msgspec.Struct, frozen=True, array_like=True):
    """Events of a partition read back from the destination, and their sum."""

    events: int = 0
    sum: bytes = EMPTY


class Started(msgspec.Struct, frozen=True):
    """A hub that is moved, by its ids at the source and at the destination."""

    id: str
    target: str


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """A position given to a group."""

    offset: int


NOTHING: Final = Step(-1)
"""Of a partition that nothing was copied of."""


class Journal:
    """The journal of moves from one source, read whole when it is opened.

    Only the end of each partition is kept in memory; `steps` reads the hub again.
    """

    def __init__(self, target: Side, source: str) -> None:
        self._target = target
        self._source = source
        self.topic = target.address.topic(JOURNAL)
        if target.shape(JOURNAL) is None:
            target.create(JOURNAL, 1, CONFIGS)
        self.ends: dict[Place, Step] = {}
        self.checked: dict[Place, Checked] = {}
        self.hubs: dict[str, Started] = {}
        self.placed: dict[tuple[str, Place], set[int]] = {}
        for kind, name, value in self._records():
            self._take(kind, name, value)

    def _take(self, kind: str, name: str, value: bytes) -> None:
        if kind == "hub":
            self.hubs[name] = msgspec.msgpack.decode(value, type=Started)
            for known in (self.ends, self.checked):
                for place in [place for place in known if place[0] == name]:
                    del known[place]
        elif kind == "step":
            step = msgspec.msgpack.decode(value, type=Step)
            self.ends[_place(name)] = Step(step.following, step.events, step.sum)
        elif kind == "checked":
            self.checked[_place(name)] = msgspec.msgpack.decode(value, type=Checked)
        elif kind == "group":
            group, place = _group(name)
            self.placed.setdefault((group, place), set()).add(msgspec.msgpack.decode(value, type=Placed).offset)

    def steps(self, hubs: Collection[str]) -> Iterator[tuple[Place, Step]]:
        """Every step of some hubs there is now, in order."""
        present: set[str] = set()
        for kind, name, value in self._records():
            if kind == "hub" and name in hubs and msgspec.msgpack.decode(value, type=Started) == self.hubs[name]:
                present.add(name)
            elif kind == "step" and (place := _place(name))[0] in present:
                yield place, msgspec.msgpack.decode(value, type=Step)

    def _records(self) -> Iterator[tuple[str, str, bytes]]:
        """(kind, rest of the key, value) of this source's records, to the end as it is now."""
        from confluent_kafka import KafkaError

        place = (JOURNAL, 0)
        bounds = self._target.bounds([place])[place]
        consumer = self._target.consumer()
        try:
            consumer.assign([self._target.partition(place, bounds.start)])
            offset = bounds.start
            while offset < bounds.end:
                found = arrived(consumer, 500, ANSWER_S)
                if not found:
                    raise Unavailable(f"the journal of the move cannot be read at {self._target}")
                for message in found:
                    problem = message.error()
                    if problem is not None and problem.code() != KafkaError._PARTITION_EOF:
                        raise Unavailable(f"the journal of the move at {self._target}: {problem.str()}")
                    if problem is not None:  # the end, beyond markers of transactions
                        offset = message.offset()
                        continue
                    offset = message.offset() + 1
                    kind, _, rest = message.key().decode().partition("/")
                    source, _, name = rest.partition("/")
                    if source == self._source:
                        yield kind, name, message.value()
        finally:
            consumer.close()

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, producer: Any, kind: str, name: str, record: msgspec.Struct) -> None:
        """Add a record to the open transaction of a producer."""
        value = msgspec.msgpack.encode(record)
        producer.produce(self.topic, value, f"{kind}/{self._source}/{name}".encode(), partition=0)

    def applied(self, kind: str, name: str, record: msgspec.Struct) -> None:
        """Take a record whose transaction was committed."""
        self._take(kind, name, msgspec.msgpack.encode(record))

    def end(self, place: Place) -> Step:
        """The last step of a partition; `NOTHING` when there is none."""
        return self.ends.get(place, NOTHING)


def place_name(place: Place) -> str:
    """A place in a key."""
    return f"{place[0]}/{place[1]}"


def group_name(group: str, place: Place) -> str:
    """A group's position in a key. Group names may hold anything; hub names hold no slash."""
    return f"{group}/{place[0]}/{place[1]}"


def _place(name: str) -> Place:
    hub, _, partition = name.rpartition("/")
    return hub, int(partition)


def _group(name: str) -> tuple[str, Place]:
    group, hub, partition = name.rsplit("/", 2)
    return group, (hub, int(partition))
