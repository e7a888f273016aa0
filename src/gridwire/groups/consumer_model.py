"""Values of the new consumer group: limits, members, commands, answers. Times are seconds on a monotonic clock."""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from gridwire.groups.assignors import UNIFORM, Place
from gridwire.groups.model import GroupError

JOINS: Final = 0
LEAVES: Final = -1
LEAVES_FOR_NOW: Final = -2
"""Member epochs with a meaning of their own; the last one is for static members, which keep what they had."""

NOTHING: Final[frozenset[Place]] = frozenset()


class ConsumerGroupState(enum.StrEnum):
    """State of a new consumer group, spelled as Kafka spells it."""

    EMPTY = "Empty"
    RECONCILING = "Reconciling"
    STABLE = "Stable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLimits:
    """What a group may grow to, and how often and how long its members are heard."""

    members_max: int = 1000
    groups_max: int = 10_000
    session_timeout_s: float = 45.0
    heartbeat_interval_ms: int = 2000
    """How soon a change reaches a member that has nothing to do."""
    reconciling_interval_ms: int = 500
    """As above, for a member that waits for partitions others have to let go first."""
    rebalance_timeout_ms_most: int = 24 * 3600 * 1000
    subscription_max: int = 10_000
    """Hubs one member may name."""


@dataclass(frozen=True, slots=True)
class Topology:
    """{hub: partitions}. Whether it changed is told by its identity: whoever makes it keeps it until it does."""

    partitions: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    ids: Mapping[str, Hashable] = field(default_factory=lambda: MappingProxyType({}))
    """{hub: what tells it from an earlier one of that name}."""

    def same(self, hub: str, before: Topology) -> bool:
        """Whether it is the hub it was before."""
        there = hub in self.partitions and hub in before.partitions
        return there and self.ids.get(hub) == before.ids.get(hub)


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a member asks for."""

    names: frozenset[str] = frozenset()
    regex: str = ""
    assignor: str = ""


@dataclass(frozen=True, slots=True)
class ConsumerMember:
    """One member. It may read `assigned`; `revoking` it was told to let go and has not said that it did."""

    member_id: str
    instance: str | None
    rack: str | None
    client_id: str
    host: str
    rebalance_timeout_s: float
    wish: Subscription
    hubs: frozenset[str]
    """Hubs there are that the wish means."""
    seen_s: float
    epoch: int = 0
    previous_epoch: int = 0
    assigned: frozenset[Place] = NOTHING
    revoking: frozenset[Place] = NOTHING
    target: frozenset[Place] = NOTHING
    waits: bool = False
    """Some of its target is still held by others."""
    revoke_deadline_s: float = math.inf
    untold: bool = False
    """A hub it reads is gone or is another one now: the next answer must say what it has."""

    @property
    def held(self) -> frozenset[Place]:
        """What nobody else may be given yet."""
        return self.assigned | self.revoking if self.revoking else self.assigned


@dataclass(frozen=True, slots=True)
class ConsumerGroup:
    """The whole state of one group; a step makes the next one out of the last."""

    name: str
    epoch: int = 0
    """Of the group and of its target, which is computed at once."""
    assignor: str = UNIFORM
    members: Mapping[str, ConsumerMember] = field(default_factory=lambda: MappingProxyType({}))
    topology: Topology = field(default_factory=Topology)
    emptied_s: float = 0.0

    @property
    def state(self) -> ConsumerGroupState:
        """Stable when everybody has its target."""
        if not self.members:
            return ConsumerGroupState.EMPTY
        settled = all(m.epoch == self.epoch and not m.waits for m in self.members.values() if m.epoch >= 0)
        return ConsumerGroupState.STABLE if settled else ConsumerGroupState.RECONCILING


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """ConsumerGroupHeartbeat. None: as said before. `owned` is what the member holds, by its own word."""

    member_id: str
    epoch: int
    instance: str | None = None
    rack: str | None = None
    client_id: str = ""
    host: str = ""
    rebalance_timeout_ms: int = -1
    names: frozenset[str] | None = None
    regex: str | None = None
    assignor: str | None = None
    owned: frozenset[Place] | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """Take members out, by (member id, instance): an administrator's wish."""

    leavers: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Expire:
    """Time has passed."""


ConsumerCommand = Beat | Remove | Expire


@dataclass(frozen=True, slots=True)
class BeatResult:
    """The answer to a beat. `assigned` is None when nothing new is to be said."""

    error: GroupError
    message: str | None = None
    member_id: str = ""
    epoch: int = 0
    interval_ms: int = 0
    assigned: frozenset[Place] | None = None
