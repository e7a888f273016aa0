"""The working copy a step changes, with the moves that several commands share."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType

from gridwire.core.errors import LocalProtocolError
from gridwire.groups.model import (
    Group,
    GroupError,
    GroupLimits,
    GroupState,
    JoinResult,
    Member,
    Protocols,
    Reply,
    Result,
    SyncResult,
)
from gridwire.groups.states import MOVES, Cause


class Turn:
    """The working copy of one step, with the moves that several commands share."""

    def __init__(self, group: Group, now_s: float, limits: GroupLimits) -> None:
        self.before = group
        self.now_s = now_s
        self.limits = limits
        self.replies: list[Reply] = []
        self.state = group.state
        self.generation = group.generation
        self.protocol_type = group.protocol_type
        self.protocol = group.protocol
        self.leader = group.leader
        self.members = dict(group.members)
        self.pending = dict(group.pending)
        self.settle_s = group.settle_s
        self.rebalance_deadline_s = group.rebalance_deadline_s
        self.sync_deadline_s = group.sync_deadline_s

    def finish(self, deadline_s: float | None) -> Group:
        """Freeze; compute the deadline unless the caller knows one that will do."""
        unused = not self.members and not self.pending
        return Group(
            self.before.name,
            self.state,
            self.generation,
            self.protocol_type,
            self.protocol,
            self.leader,
            MappingProxyType(self.members),
            MappingProxyType(self.pending),
            self.settle_s,
            self.rebalance_deadline_s,
            self.sync_deadline_s,
            self._deadline_s() if deadline_s is None else deadline_s,
            self.now_s if unused and not self.before.unused else self.before.emptied_s,
        )

    def _deadline_s(self) -> float:
        times = [member.expires_s for member in self.members.values()]
        times += self.pending.values()
        if self.state is GroupState.PREPARING:
            times.append(self.rebalance_deadline_s)
            if self.settle_s > self.now_s:
                times.append(self.settle_s)
        elif any(member.owes_sync for member in self.members.values()):
            times.append(self.sync_deadline_s)
        return min(times, default=math.inf)

    def reply(self, ticket: int | None, result: Result) -> None:
        """Answer a ticket, if there is one."""
        if ticket is not None:
            self.replies.append(Reply(ticket, result))

    def move(self, cause: Cause) -> None:
        """Change the state by the table."""
        after = MOVES.get((self.state, cause))
        if after is None:
            raise LocalProtocolError(f"group {self.before.name!r} cannot leave {self.state} by {cause.name}")
        self.state = after

    def put(self, member: Member) -> None:
        """Add or change a member."""
        self.members[member.member_id] = member

    def dismiss(self, member: Member, error: GroupError) -> None:
        """Remove a member and answer whatever it waits for."""
        del self.members[member.member_id]
        self.reply(member.join_ticket, JoinResult(error, member_id=member.member_id))
        self.reply(member.sync_ticket, SyncResult(error))

    def holder(self, instance: str | None) -> Member | None:
        """The static member of that instance."""
        if instance is None:
            return None
        return next((member for member in self.members.values() if member.instance == instance), None)

    def identify(self, member_id: str, instance: str | None) -> GroupError:
        """Whether this is a member, and not a process that was replaced."""
        if instance is None:
            return GroupError.NONE if member_id in self.members else GroupError.UNKNOWN_MEMBER_ID
        holder = self.holder(instance)
        if holder is None:
            return GroupError.UNKNOWN_MEMBER_ID
        return GroupError.NONE if holder.member_id == member_id else GroupError.FENCED_INSTANCE_ID

    def check(self, member_id: str, instance: str | None, generation: int) -> GroupError:
        """Identity first, then the generation."""
        error = self.identify(member_id, instance)
        if error is GroupError.NONE and generation != self.generation:
            return GroupError.ILLEGAL_GENERATION
        return error

    def hear(self, member_id: str) -> None:
        """Start the member's session timeout anew."""
        self.put(replace(self.members[member_id], seen_s=self.now_s))

    def can_speak(self, protocol_type: str, protocols: Protocols, *, instead_of: str) -> bool:
        """Whether one of the protocols is supported by all members but the one who is replaced."""
        others = [member for member in self.members.values() if member.member_id != instead_of]
        if not others:
            return True
        shared = {name for name, _ in protocols}.intersection(*({name for name, _ in m.protocols} for m in others))
        return protocol_type == self.protocol_type and bool(shared)

    def vote(self) -> str:
        """The protocol most members prefer among those all support; the leader's order breaks a tie."""
        members = list(self.members.values())
        shared = set.intersection(*({name for name, _ in member.protocols} for member in members))
        votes = dict.fromkeys((name for name, _ in self.members[self.leader].protocols if name in shared), 0)
        for member in members:
            votes[next(name for name, _ in member.protocols if name in shared)] += 1
        return max(votes, key=lambda name: votes[name])

    def current(self, member: Member, *, as_leader: bool) -> JoinResult:
        """The answer to a join into the present generation."""
        listed = self.members.values() if as_leader else ()
        everybody = [(m.member_id, m.instance, m.metadata(self.protocol)) for m in listed]
        return JoinResult(
            GroupError.NONE,
            self.generation,
            self.protocol_type,
            self.protocol,
            self.leader,
            member.member_id,
            everybody,
        )

    def rebalance_timeout_s(self) -> float:
        """The longest any member wants to be waited for."""
        return max((member.rebalance_timeout_s for member in self.members.values()), default=0.0)

    def rebalance(self) -> None:
        """The membership changed: collect everybody, and go on at once if everybody is there already."""
        if self.state is not GroupState.PREPARING:
            self._prepare()
        self.collect()

    def _prepare(self) -> None:
        first = self.state is GroupState.EMPTY
        self.move(Cause.MEMBER_CAME if first else Cause.CHANGED)
        for member in list(self.members.values()):
            self.reply(member.sync_ticket, SyncResult(GroupError.REBALANCE_IN_PROGRESS))
            seen_s = member.seen_s if member.sync_ticket is None else self.now_s
            self.put(replace(member, sync_ticket=None, owes_sync=False, seen_s=seen_s))
        self.rebalance_deadline_s = self.now_s + self.rebalance_timeout_s()
        self.settle_s = self.now_s if first else -math.inf
        self.settle()

    def settle(self) -> None:
        """A first rebalance waits a little for more members, and a little more for each that comes."""
        if self.settle_s >= self.now_s:
            delay_s = self.limits.initial_rebalance_delay_ms / 1000
            self.settle_s = min(self.now_s + delay_s, self.rebalance_deadline_s)

    def collect(self) -> None:
        """Begin the next generation if all are in, or the time is up, or nobody is left to wait for."""
        if self.state is not GroupState.PREPARING:
            return
        waiting = all(member.join_ticket is not None for member in self.members.values())
        complete = waiting and not self.pending and self.now_s >= self.settle_s
        if complete or not self.members or self.now_s >= self.rebalance_deadline_s:
            self._begin_generation()

    def _begin_generation(self) -> None:
        for member in list(self.members.values()):
            if member.join_ticket is None and member.instance is None:
                del self.members[member.member_id]
        joined = [member for member in self.members.values() if member.join_ticket is not None]
        if self.members and not joined:
            # Only static members, none of them here: they may be restarting, and their sessions still run.
            self.rebalance_deadline_s = self.now_s + self.rebalance_timeout_s()
            return
        self.generation += 1
        self.settle_s, self.rebalance_deadline_s = -math.inf, math.inf
        if not joined:
            self.move(Cause.NOBODY_LEFT)
            self.protocol = self.leader = ""
            return
        self.move(Cause.COLLECTED)
        if self.leader not in {member.member_id for member in joined}:
            self.leader = joined[0].member_id
        self.protocol = self.vote()
        self.sync_deadline_s = self.now_s + self.rebalance_timeout_s()
        self._answer_joins()

    def _answer_joins(self) -> None:
        for member in list(self.members.values()):
            fresh = replace(member, assignment=b"")
            if member.join_ticket is not None:
                self.reply(member.join_ticket, self.current(member, as_leader=member.member_id == self.leader))
                fresh = replace(fresh, join_ticket=None, told=True, seen_s=self.now_s, owes_sync=True)
            self.put(fresh)
