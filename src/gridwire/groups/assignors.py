"""Who reads what, decided by the hub: the assignors `uniform` and `range` of the new consumer group protocol.

Both are functions of the members' subscriptions, the partitions there are, and (uniform) who had what before.
Source: KIP-848.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Place = tuple[str, int]
"""(hub, partition)."""

Assignment = dict[str, frozenset[Place]]
"""{member id: its places}; every member has an entry."""


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A member as an assignor sees it. `order` sorts members; a static one keeps its place when its id changes."""

    member_id: str
    order: str
    hubs: frozenset[str]
    before: frozenset[Place]


def uniform(members: Sequence[Subscriber], partitions: Mapping[str, int]) -> Assignment:
    """As even as the subscriptions allow, and as much as possible stays where it is."""
    by_id = {member.member_id: member for member in sorted(members, key=lambda each: each.order)}
    shares: dict[str, set[Place]] = {member_id: set() for member_id in by_id}
    readers = _readers(by_id.values(), partitions)
    places = [(hub, number) for hub in sorted(readers) for number in range(partitions[hub])]
    owners = {place: member.member_id for member in by_id.values() for place in member.before}
    free = []
    for place in places:
        owner = owners.get(place)
        if owner is not None and owner in readers[place[0]]:
            shares[owner].add(place)
        else:
            free.append(place)
    for place in sorted(free, key=lambda each: len(readers[each[0]])):
        shares[min(readers[place[0]], key=lambda member_id: len(shares[member_id]))].add(place)
    _level(shares, readers)
    return {member_id: frozenset(share) for member_id, share in shares.items()}


def _readers(members: Iterable[Subscriber], partitions: Mapping[str, int]) -> dict[str, list[str]]:
    """{hub: ids of its subscribers, in order}, for the hubs there are and somebody wants."""
    readers: dict[str, list[str]] = {}
    for member in members:
        for hub in member.hubs:
            if hub in partitions:
                readers.setdefault(hub, []).append(member.member_id)
    return readers


def _level(shares: dict[str, set[Place]], readers: Mapping[str, Sequence[str]]) -> None:
    """Move single places from the fullest member to one that may have them and has at least two less."""
    while True:
        for owner in sorted(shares, key=lambda member_id: -len(shares[member_id])):
            found = _move(owner, shares, readers)
            if found is not None:
                break
        else:
            return
        place, taker = found
        shares[owner].remove(place)
        shares[taker].add(place)


def _move(
    owner: str, shares: Mapping[str, set[Place]], readers: Mapping[str, Sequence[str]]
) -> tuple[Place, str] | None:
    """A place `owner` should give away, and the least loaded member that may take it."""
    best: tuple[int, Place, str] | None = None
    least: dict[str, str] = {}
    for place in sorted(shares[owner], reverse=True):
        hub = place[0]
        if hub not in least:
            least[hub] = min(readers[hub], key=lambda member_id: len(shares[member_id]))
            load = len(shares[least[hub]])
            if load + 1 < len(shares[owner]) and (best is None or load < best[0]):
                best = (load, place, least[hub])
    return None if best is None else best[1:]


def ranges(members: Sequence[Subscriber], partitions: Mapping[str, int]) -> Assignment:
    """Each hub cut into consecutive ranges, in the order of the members: equal hubs are cut equally."""
    ordered = sorted(members, key=lambda each: each.order)
    shares: dict[str, set[Place]] = {member.member_id: set() for member in ordered}
    for hub, readers in _readers(ordered, partitions).items():
        size, more = divmod(partitions[hub], len(readers))
        start = 0
        for index, member_id in enumerate(readers):
            end = start + size + (index < more)
            shares[member_id].update((hub, number) for number in range(start, end))
            start = end
    return {member_id: frozenset(share) for member_id, share in shares.items()}


Assignor = Callable[[Sequence[Subscriber], Mapping[str, int]], Assignment]

UNIFORM: Final = "uniform"
ASSIGNORS: Final[dict[str, Assignor]] = {UNIFORM: uniform, "range": ranges}
"""By the name clients ask for."""
