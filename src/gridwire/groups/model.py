"""Values of group coordination: errors, states, limits, what goes into the state machine and what comes out.

Times are seconds on a monotonic clock unless the name says milliseconds.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from gridwire.core.limits import MIB

NO_GENERATION: Final = -1
"""The generation of who is in none: a simple consumer, or a join that failed."""

Protocols = tuple[tuple[str, bytes], ...]
"""(name, metadata) of every assignment protocol a member supports, most wanted first."""


class GroupError(enum.Enum):
    """What a group command can be answered with; heads map these to their protocol's codes."""

    NONE = enum.auto()
    UNKNOWN_MEMBER_ID = enum.auto()
    ILLEGAL_GENERATION = enum.auto()
    REBALANCE_IN_PROGRESS = enum.auto()
    INCONSISTENT_GROUP_PROTOCOL = enum.auto()
    MEMBER_ID_REQUIRED = enum.auto()
    FENCED_INSTANCE_ID = enum.auto()
    GROUP_MAX_SIZE_REACHED = enum.auto()
    INVALID_SESSION_TIMEOUT = enum.auto()
    INVALID_GROUP_ID = enum.auto()
    NON_EMPTY_GROUP = enum.auto()
    GROUP_ID_NOT_FOUND = enum.auto()
    COORDINATOR_NOT_AVAILABLE = enum.auto()
    INVALID_REQUEST = enum.auto()
    FENCED_MEMBER_EPOCH = enum.auto()
    UNRELEASED_INSTANCE_ID = enum.auto()
    UNSUPPORTED_ASSIGNOR = enum.auto()
    STALE_MEMBER_EPOCH = enum.auto()
    INVALID_REGULAR_EXPRESSION = enum.auto()


class GroupState(enum.StrEnum):
    """State of a group, spelled as Kafka's DescribeGroups spells it."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """What a group may grow to, and how long it may wait."""

    members_max: int = 1000
    """Members and pending members of one group; a leader's answer carries the metadata of them all."""

    metadata_bytes_max: int = MIB
    """Metadata of one member, over all its protocols, and one assignment: they are held in memory."""

    groups_max: int = 10_000
    """Groups remembered; above it the longest empty one is forgotten."""

    session_timeout_ms_least: int = 1000
    """Below it a busy client would lose its session between two heartbeats."""

    session_timeout_ms_most: int = 30 * 60 * 1000
    """Above it a dead member would hold its partitions for longer than anybody waits."""

    rebalance_timeout_ms_most: int = 24 * 3600 * 1000
    """Above it a stuck member would stop its group for ever; a longer wish is cut to this."""

    initial_rebalance_delay_ms: int = 0
    """How long the first rebalance of an empty group waits for more members."""


@dataclass(frozen=True, slots=True)
class JoinResult:
    """The answer to a join. `members` is (member id, instance, metadata) of all, for the leader only."""

    error: GroupError
    generation: int = NO_GENERATION
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    member_id: str = ""
    members: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    skip_assignment: bool = False
    """A leader that came back with nothing changed: it keeps watching, and must not assign anew."""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """The answer to a sync: this member's part of the leader's assignment."""

    error: GroupError
    protocol_type: str = ""
    protocol: str = ""
    assignment: bytes = b""


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member as status pages and DescribeGroups show it."""

    member_id: str
    instance: str | None
    client_id: str
    host: str
    metadata: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group as status pages and DescribeGroups show it."""

    group: str
    state: enum.StrEnum
    """Of this kind of group."""
    generation: int
    protocol_type: str
    protocol: str
    leader: str
    members: tuple[MemberView, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """One member. It is awaited while a ticket of its own is unanswered, and then needs no heartbeat."""

    member_id: str
    instance: str | None
    client_id: str
    host: str
    session_timeout_s: float
    rebalance_timeout_s: float
    protocols: Protocols
    seen_s: float
    told: bool
    """Whether the client can know this member id; one it cannot know is of no use without its join."""
    join_ticket: int | None = None
    sync_ticket: int | None = None
    owes_sync: bool = False
    """It joined this generation and has not fetched its assignment yet."""
    assignment: bytes = b""

    def metadata(self, protocol: str) -> bytes:
        """Metadata for `protocol`, empty if this member does not speak it."""
        return next((data for name, data in self.protocols if name == protocol), b"")

    @property
    def expires_s(self) -> float:
        """When the session ends unless something is heard; never while the member waits for an answer of ours."""
        if self.join_ticket is not None or self.sync_ticket is not None:
            return math.inf
        return self.seen_s + self.session_timeout_s


@dataclass(frozen=True, slots=True)
class Group:
    """The whole state of one group. Two of them are never merged: a step makes the next one out of the last."""

    name: str
    state: GroupState = GroupState.EMPTY
    generation: int = 0
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    members: Mapping[str, Member] = field(default_factory=lambda: MappingProxyType({}))
    pending: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Member ids given out and not yet joined with, and when each is forgotten."""
    settle_s: float = -math.inf
    """A first rebalance does not complete before this."""
    rebalance_deadline_s: float = math.inf
    """Preparing: when the rebalance goes on without those who did not join."""
    sync_deadline_s: float = math.inf
    """Completing and Stable: when members that did not sync are removed."""
    deadline_s: float = math.inf
    """No tick is needed before this. It may be too early after a heartbeat, never too late."""
    emptied_s: float = 0.0
    """Since when nobody has been here; the longest empty group is forgotten first."""

    @property
    def unused(self) -> bool:
        """Whether there is nobody in it and nobody on the way."""
        return not self.members and not self.pending


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Become a member, or take part in the next generation. `new_member_id` is used when an id must be given."""

    ticket: int
    member_id: str
    new_member_id: str
    instance: str | None
    client_id: str
    host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: Protocols
    require_known_member: bool
    supports_skipping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """Ask for this member's assignment; the leader brings everybody's. None and "" match any protocol."""

    ticket: int
    generation: int
    member_id: str
    instance: str | None
    protocol_type: str | None
    protocol: str | None
    assignments: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Say that this member lives."""

    ticket: int
    generation: int
    member_id: str
    instance: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Remove members: (member id, instance) each; the id may be empty when the instance is given."""

    ticket: int
    leavers: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckCommit:
    """Ask whether this member may commit positions now; a yes counts as a heartbeat."""

    ticket: int
    generation: int
    member_id: str
    instance: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Forget the group, if nobody is in it."""

    ticket: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandon:
    """Whoever waited for the answer of `waiting` has gone; nothing answers it any more."""

    waiting: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Command = Join | Sync | Heartbeat | Leave | CheckCommit | Delete | Abandon | Tick
"""What can happen to a group."""

Result = JoinResult | SyncResult | GroupError | tuple[GroupError, ...]
"""What a command is answered with; `Leave` gets one error a leaver."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The one effect: answer a ticket. Every ticket is answered once, at once or later, unless abandoned."""

    ticket: int
    result: Result
