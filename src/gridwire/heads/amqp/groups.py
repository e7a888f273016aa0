"""Who reads what: owner levels of partition receivers, and the sharing of partitions among receivers of whole hubs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridwire.heads.amqp.context import NON_EPOCH_READERS_MAX, Counters
from gridwire.wire.amqp.errors import LIMIT, LINK_STOLEN, LinkError

if TYPE_CHECKING:
    from gridwire.heads.amqp.receivers import Receiver

PartitionKey = tuple[str, str, int]
"""(hub, group, partition)."""


class Readers:
    """See the module. One for the whole head."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._partitions: dict[PartitionKey, list[tuple[int | None, Receiver]]] = {}
        self._hubs: dict[tuple[str, str], list[Receiver]] = {}

    def enter_partition(self, key: PartitionKey, epoch: int | None, receiver: Receiver) -> None:
        """Let a receiver in; those it outranks are detached. Raises LinkError when it is outranked itself.

        A higher or equal owner level takes over. One without a level is refused while somebody has one.
        """
        present = self._partitions.setdefault(key, [])
        highest = max((level for level, _ in present if level is not None), default=None)
        if highest is not None and (epoch is None or epoch < highest):
            mine = "no epoch" if epoch is None else f"epoch {epoch}"
            raise LinkError(LINK_STOLEN, f"a receiver with epoch {highest} reads this partition; this one has {mine}")
        if epoch is None:
            if len(present) >= NON_EPOCH_READERS_MAX:
                raise LinkError(LIMIT, f"{NON_EPOCH_READERS_MAX} receivers read this partition in group {key[1]!r}")
        else:
            for _, other in list(present):
                self._counters.links_stolen += 1
                other.end(LINK_STOLEN, f"a receiver with epoch {epoch} took over")
        self._partitions.setdefault(key, []).append((epoch, receiver))

    def leave_partition(self, key: PartitionKey, receiver: Receiver) -> None:
        """Forget a receiver."""
        left = [each for each in self._partitions.get(key, ()) if each[1] is not receiver]
        if left:
            self._partitions[key] = left
        else:
            self._partitions.pop(key, None)

    def enter_hub(self, hub: str, group: str, receiver: Receiver) -> None:
        """One more receiver of a whole hub: partitions are dealt anew."""
        self._hubs.setdefault((hub, group), []).append(receiver)
        self._deal(hub, group)

    def leave_hub(self, hub: str, group: str, receiver: Receiver) -> None:
        """One less."""
        members = self._hubs.get((hub, group), [])
        if receiver in members:
            members.remove(receiver)
        if members:
            self._deal(hub, group)
        else:
            self._hubs.pop((hub, group), None)

    def _deal(self, hub: str, group: str) -> None:
        members = self._hubs[hub, group]
        for index, member in enumerate(members):
            member.take_share(index, len(members))
