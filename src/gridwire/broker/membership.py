"""Who is in which consumer group: the asyncio shell around the group state machine.

It gives out member ids and tickets, turns replies into resolved futures, and keeps one timer for the earliest
deadline of all groups. Everything else is in `gridwire.groups.classic`.

Deadlines lie in a heap. A heartbeat moves its group's true deadline back but not its entry: the timer then finds
nothing due and files the group anew, so that heartbeats cost no heap work at all.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from gridwire.broker.consumer_groups import ConsumerGroups
from gridwire.broker.deadlines import Deadlines
from gridwire.core.clock import Clock
from gridwire.core.limits import NAME_MAX
from gridwire.groups import classic, consumer
from gridwire.groups.consumer_model import Beat, BeatResult, ConsumerGroup, ConsumerGroupState, ConsumerLimits, Topology
from gridwire.groups.consumer_protocol import CONSUMER, assignment_bytes
from gridwire.groups.model import (
    Abandon,
    CheckCommit,
    Command,
    Delete,
    Group,
    GroupError,
    GroupLimits,
    GroupState,
    GroupView,
    Heartbeat,
    Join,
    JoinResult,
    Leave,
    MemberView,
    Reply,
    Result,
    Sync,
    SyncResult,
    Tick,
)

__all__ = [
    "GroupError",
    "GroupLimits",
    "GroupState",
    "GroupView",
    "JoinResult",
    "MemberView",
    "Membership",
    "SyncResult",
]

Listing = list[tuple[str, str, GroupState | ConsumerGroupState]]
Leavers = list[tuple[str, str | None, str | None]]
LeaveAnswer = tuple[GroupError, list[GroupError]]


def _name_error(group: str) -> GroupError:
    return GroupError.NONE if 0 < len(group) <= NAME_MAX else GroupError.INVALID_GROUP_ID


def _consumer_view(group: ConsumerGroup) -> GroupView:
    members = tuple(
        MemberView(m.member_id, m.instance, m.client_id, m.host, b"", assignment_bytes(m.assigned))
        for m in group.members.values()
    )
    return GroupView(group.name, group.state, group.epoch, CONSUMER, group.assignor, "", members)


class Membership:
    """All consumer groups of this hub. Not durable: after a restart members join again, positions are kept elsewhere.

    Every answer is a value with a `GroupError`; nothing here raises for what a peer does.
    """

    def __init__(
        self, clock: Clock, limits: GroupLimits | None = None, consumer_limits: ConsumerLimits | None = None
    ) -> None:
        self._clock = clock
        self.consumers = ConsumerGroups(clock, consumer_limits)
        """The groups of the new protocol; a name belongs to one kind of group, and may change it while nobody is in."""
        self._limits = limits or GroupLimits()
        self._groups: dict[str, Group] = {}
        self._tickets = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Result], Result]] = {}
        self._due = Deadlines(clock, lambda name: self._deliver(self._step(name, Tick())))
        self._closed = False

    async def join(
        self,
        group: str,
        member_id: str,
        group_instance_id: str | None,
        client_id: str,
        host: str,
        session_timeout_ms: int,
        rebalance_timeout_ms: int,
        protocol_type: str,
        protocols: Sequence[tuple[str, bytes]],
        *,
        require_known_member: bool,
        supports_skipping: bool = False,
    ) -> JoinResult:
        """Become a member or rejoin; returns when the next generation is complete.

        Args:
            require_known_member: answer a first join with MEMBER_ID_REQUIRED and an id (JoinGroup v4 and later).
            supports_skipping: whether the client understands `skip_assignment` (JoinGroup v9 and later).
        """
        error = self._refuse(group, creates=True)
        if error is not GroupError.NONE:
            return JoinResult(error, member_id=member_id)
        if not self._leave_consumers(group):
            return JoinResult(GroupError.INCONSISTENT_GROUP_PROTOCOL, member_id=member_id)
        ticket = next(self._tickets)
        command = Join(
            ticket=ticket,
            member_id=member_id,
            new_member_id=f"{group_instance_id or client_id or 'member'}-{uuid.uuid4()}",
            instance=group_instance_id,
            client_id=client_id,
            host=host,
            session_timeout_ms=session_timeout_ms,
            rebalance_timeout_ms=rebalance_timeout_ms,
            protocol_type=protocol_type,
            protocols=tuple(protocols),
            require_known_member=require_known_member,
            supports_skipping=supports_skipping,
        )
        closed = JoinResult(GroupError.COORDINATOR_NOT_AVAILABLE, member_id=member_id)
        return cast(JoinResult, await self._ask(group, command, closed))

    async def sync(
        self,
        group: str,
        generation: int,
        member_id: str,
        instance: str | None,
        protocol_type: str | None,
        protocol: str | None,
        assignments: Sequence[tuple[str, bytes]],
    ) -> SyncResult:
        """This member's assignment; returns when the leader has brought it."""
        error = self._refuse(group)
        if error is not GroupError.NONE:
            return SyncResult(error)
        ticket = next(self._tickets)
        command = Sync(
            ticket=ticket,
            generation=generation,
            member_id=member_id,
            instance=instance,
            protocol_type=protocol_type,
            protocol=protocol,
            assignments=tuple(assignments),
        )
        return cast(SyncResult, await self._ask(group, command, SyncResult(GroupError.COORDINATOR_NOT_AVAILABLE)))

    def beat(self, group: str, beat: Beat, topology: Topology) -> BeatResult:
        """The heartbeat of the new protocol, which also joins and leaves."""
        error = GroupError.COORDINATOR_NOT_AVAILABLE if self._closed else _name_error(group)
        if error is not GroupError.NONE:
            return BeatResult(error)
        known = self._groups.get(group)
        if known is not None and beat.epoch == 0:
            if not known.unused:
                return BeatResult(GroupError.GROUP_ID_NOT_FOUND, f"group {group!r} has members of the classic protocol")
            self._forget(group)
        return self.consumers.beat(group, beat, topology)

    def check_position(self, group: str, member_id: str | None, epoch: int) -> GroupError:
        """Whether positions may be fetched: a member of a new group must be at its epoch; anybody else may."""
        found = self.consumers.get(group)
        if found is None or not member_id or epoch < 0:
            return GroupError.NONE
        return consumer.check_position(found, member_id, epoch)

    def _leave_consumers(self, group: str) -> bool:
        """Whether the name may be used by a classic group: it is, or nobody is in the new one."""
        found = self.consumers.get(group)
        if found is not None and not found.members:
            self.consumers.forget(group)
            found = None
        return found is None

    def heartbeat(self, group: str, generation: int, member_id: str, instance: str | None) -> GroupError:
        """Keep the session alive; REBALANCE_IN_PROGRESS tells the member to join again."""
        error = self._refuse(group)
        if error is not GroupError.NONE:
            return error
        ticket = next(self._tickets)
        command = Heartbeat(ticket=ticket, generation=generation, member_id=member_id, instance=instance)
        return cast(GroupError, self._ask_now(group, command))

    def leave(self, group: str, leavers: Leavers) -> LeaveAnswer:
        """Remove members at once: (member id, instance, reason) each. Returns the group's error and one a leaver."""
        error = self._refuse(group)
        if error is GroupError.UNKNOWN_MEMBER_ID and self.consumers.get(group) is not None:
            return GroupError.NONE, [*self.consumers.remove(group, tuple((who, where) for who, where, _ in leavers))]
        if error is GroupError.UNKNOWN_MEMBER_ID:
            return GroupError.NONE, [error] * len(leavers)
        if error is not GroupError.NONE:
            return error, [error] * len(leavers)
        ticket = next(self._tickets)
        command = Leave(ticket=ticket, leavers=tuple((member_id, instance) for member_id, instance, _ in leavers))
        errors = cast("tuple[GroupError, ...]", self._ask_now(group, command))
        return GroupError.NONE, [*errors]

    def check_commit(self, group: str, generation: int, member_id: str, instance: str | None) -> GroupError:
        """Whether positions may be committed; a simple consumer (generation -1, no id) may while the group is empty."""
        error = self._refuse(group)
        found = self.consumers.get(group)
        if error is GroupError.UNKNOWN_MEMBER_ID and found is not None:
            return consumer.check_position(found, member_id, generation)
        if error is GroupError.UNKNOWN_MEMBER_ID:
            simple = generation < 0 and not member_id and instance is None
            return GroupError.NONE if simple else error
        if error is not GroupError.NONE:
            return error
        ticket = next(self._tickets)
        command = CheckCommit(ticket=ticket, generation=generation, member_id=member_id, instance=instance)
        return cast(GroupError, self._ask_now(group, command))

    def describe(self, group: str) -> GroupView | None:
        """The group and its members; None when no member ever came since the start of this hub."""
        found = self._groups.get(group)
        other = self.consumers.get(group)
        if other is not None:
            return _consumer_view(other)
        return None if found is None else classic.view(found)

    async def view(self, group: str) -> GroupView | None:
        """As `describe`: see `GroupDirectory`."""
        return self.describe(group)

    async def views(self) -> Mapping[str, GroupView]:
        """All groups by name: see `GroupDirectory`."""
        found = ((name, self.describe(name)) for name, _, _ in self.list())
        return {name: view for name, view in found if view is not None}

    def delete(self, group: str) -> GroupError:
        """Forget a group without members. GROUP_ID_NOT_FOUND is no reason not to delete its positions."""
        error = self._refuse(group)
        if error is GroupError.UNKNOWN_MEMBER_ID and self.consumers.get(group) is not None:
            return GroupError.NONE if self._leave_consumers(group) else GroupError.NON_EMPTY_GROUP
        if error is GroupError.UNKNOWN_MEMBER_ID:
            return GroupError.GROUP_ID_NOT_FOUND
        if error is not GroupError.NONE:
            return error
        ticket = next(self._tickets)
        return cast(GroupError, self._ask_now(group, Delete(ticket=ticket)))

    def list(self) -> Listing:
        """(group, protocol type, state) of every group with or once with members, by name."""
        listing: Listing = [(name, group.protocol_type, group.state) for name, group in self._groups.items()]
        listing += [(group.name, CONSUMER, group.state) for group in self.consumers]
        return sorted(listing)

    def tick(self) -> None:
        """Do what is due at the clock's time. The timer calls this; a test with a clock of its own may."""
        self._due.tick()

    async def close(self) -> None:
        """Answer everybody who waits with COORDINATOR_NOT_AVAILABLE and take no more commands."""
        self._closed = True
        self.consumers.close()
        self._due.close()
        waiting, self._waiting = self._waiting, {}
        for future, closed in waiting.values():
            if not future.done():
                future.set_result(closed)

    def _refuse(self, group: str, *, creates: bool = False) -> GroupError:
        """What can be answered without the state machine; makes room for a new group when `creates`."""
        if self._closed:
            return GroupError.COORDINATOR_NOT_AVAILABLE
        error = _name_error(group)
        if error is not GroupError.NONE or group in self._groups:
            return error
        if not creates:
            return GroupError.UNKNOWN_MEMBER_ID
        if len(self._groups) >= self._limits.groups_max and not self._drop_longest_empty():
            return GroupError.COORDINATOR_NOT_AVAILABLE
        return GroupError.NONE

    def _drop_longest_empty(self) -> bool:
        unused = [group for group in self._groups.values() if group.unused]
        if not unused:
            return False
        self._forget(min(unused, key=lambda group: group.emptied_s).name)
        return True

    def _forget(self, name: str) -> None:
        self._groups.pop(name, None)
        self._due.forget(name)

    async def _ask(self, group: str, command: Join | Sync, closed: Result) -> Result:
        """Run a command and wait for its answer; when the waiting is cancelled the group is told."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[command.ticket] = (future, closed)
        self._deliver(self._step(group, command))
        try:
            return await future
        finally:
            if self._waiting.pop(command.ticket, None) is not None:
                self._deliver(self._step(group, Abandon(waiting=command.ticket)))

    def _ask_now(self, group: str, command: Heartbeat | Leave | CheckCommit | Delete) -> Result:
        """Run a command that is always answered at once; the rest of its effects go to those who wait."""
        replies = self._step(group, command)
        self._deliver(reply for reply in replies if reply.ticket != command.ticket)
        return next(reply.result for reply in replies if reply.ticket == command.ticket)

    def _deliver(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            waiter = self._waiting.pop(reply.ticket, None)
            if waiter is not None and not waiter[0].done():
                waiter[0].set_result(reply.result)

    def _step(self, name: str, command: Command) -> Sequence[Reply]:
        """Let the state machine make the next state, keep it, and file its deadline."""
        before = self._groups.get(name)
        after, replies = classic.step(before or Group(name), command, self._clock.monotonic(), self._limits)
        if after.state is GroupState.DEAD or (before is None and after.unused):
            self._forget(name)
            return replies
        self._groups[name] = after
        self._due.file(name, after.deadline_s)
        return replies
