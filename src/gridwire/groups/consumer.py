"""The new consumer group (KIP-848): the hub decides who reads what, members follow one by one. No I/O.

Theory of operation. The group has an epoch, which goes up whenever a member comes, leaves, changes its wish, or the
hubs change. With it goes a target: who should have what. Members are never stopped together. Each has an epoch of its
own and walks to the target by its heartbeats:

    has what it should not   -> is told to let go (its epoch stays), until it says it did, or is removed
    should have what it has not, and nobody holds it -> gets it
    has all it can have      -> is at the group's epoch; if others still hold a part of its target, it waits for that

One rule makes this safe: a place is given to a member only while no other member holds it (`held`: what it was
assigned and what it has not confirmed to have let go). Members that say nothing are removed after the session
timeout, those that do not let go after their rebalance timeout; both learn it by an error and start over with epoch 0.

A heartbeat of an older epoch is refused (fenced) with one exception: the epoch just before, with nothing owned beyond
what is assigned, for then only our answer was lost.

A static member (with an instance) may leave for now: it keeps its places until its session is over, and a process
that comes with the same instance takes them over without anybody else noticing.

Source: KIP-848; Apache Kafka protocol guide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType

from gridwire.groups.assignors import ASSIGNORS, UNIFORM, Place, Subscriber
from gridwire.groups.consumer_model import (
    JOINS,
    LEAVES,
    LEAVES_FOR_NOW,
    NOTHING,
    Beat,
    BeatResult,
    ConsumerCommand,
    ConsumerGroup,
    ConsumerLimits,
    ConsumerMember,
    Expire,
    Remove,
    Subscription,
    Topology,
)
from gridwire.groups.model import GroupError
from gridwire.groups.pattern import InvalidPattern, Pattern

Result = BeatResult | tuple[GroupError, ...] | None
"""`Beat` is answered with a BeatResult, `Remove` with one error a leaver, `Expire` with nothing."""


def step(
    group: ConsumerGroup, command: ConsumerCommand, topology: Topology | None, now_s: float, limits: ConsumerLimits
) -> tuple[ConsumerGroup, Result]:
    """Apply one command at the time `now_s`.

    Args:
        topology: the hubs there are now; None when they are not known to have changed.
    """
    turn = _Turn(group, topology or group.topology, now_s, limits)
    result: Result = None
    match command:
        case Beat():
            result = _beat(turn, command)
        case Remove():
            result = tuple(_remove(turn, member_id, instance) for member_id, instance in command.leavers)
        case Expire():
            _expire(turn)
    return turn.finish(), result


def check_position(group: ConsumerGroup, member_id: str, epoch: int) -> GroupError:
    """Whether a member may commit or fetch positions; somebody without an epoch may while the group is empty."""
    if epoch < 0 and not group.members:
        return GroupError.NONE
    member = group.members.get(member_id)
    if member is None:
        return GroupError.UNKNOWN_MEMBER_ID
    return GroupError.NONE if member.epoch == epoch else GroupError.STALE_MEMBER_EPOCH


def deadline_s(group: ConsumerGroup, limits: ConsumerLimits) -> float:
    """When the next `Expire` has something to do, unless something is heard before."""
    members = group.members.values()
    return min((min(m.seen_s + limits.session_timeout_s, m.revoke_deadline_s) for m in members), default=math.inf)


class _Turn:
    """The working copy of one step."""

    def __init__(self, group: ConsumerGroup, topology: Topology, now_s: float, limits: ConsumerLimits) -> None:
        self.before = group
        self.topology = topology
        self.now_s = now_s
        self.limits = limits
        self.members = dict(group.members)
        self.epoch = group.epoch
        self.assignor = group.assignor
        self.changed = False
        """Whether the target must be computed anew."""
        if topology is not group.topology:
            self._follow_topology(group.topology)

    def _follow_topology(self, before: Topology) -> None:
        now = self.topology.partitions
        gone = {hub for hub in before.partitions if not self.topology.same(hub, before)}
        wishes = {member.wish for member in self.members.values()}  # mostly one, and a pattern is dear
        wanted = {wish: meant(wish, now) for wish in wishes}
        for member in list(self.members.values()):
            hubs = wanted[member.wish]
            news = any(before.partitions.get(hub) != now[hub] or hub in gone for hub in hubs)
            self.changed |= news or hubs != member.hubs
            self.put(_without(replace(member, hubs=hubs), gone))

    def put(self, member: ConsumerMember) -> None:
        self.members[member.member_id] = member

    def drop(self, member: ConsumerMember) -> None:
        del self.members[member.member_id]
        self.changed = True

    def holder(self, instance: str | None) -> ConsumerMember | None:
        if instance is None:
            return None
        return next((member for member in self.members.values() if member.instance == instance), None)

    def retarget(self) -> None:
        """A new epoch with a new target, if anything changed that decides it."""
        if not self.changed:
            return
        self.changed = False
        self.epoch += 1
        self.assignor = self._elected()
        listed = [Subscriber(m.member_id, m.instance or m.member_id, m.hubs, m.target) for m in self.members.values()]
        targets = ASSIGNORS[self.assignor](listed, self.topology.partitions)
        for member in list(self.members.values()):
            self.put(replace(member, target=targets[member.member_id]))

    def _elected(self) -> str:
        """The assignor most members ask for; `uniform` if nobody asks."""
        votes: dict[str, int] = {}
        for member in self.members.values():
            if member.wish.assignor:
                votes[member.wish.assignor] = votes.get(member.wish.assignor, 0) + 1
        return max(sorted(votes), key=lambda name: votes[name], default=UNIFORM)

    def held_by_others(self, member_id: str, places: frozenset[Place]) -> frozenset[Place]:
        """Those of `places` that somebody else has not let go."""
        others = [places & each.held for each in self.members.values() if each.member_id != member_id]
        return NOTHING.union(*others)

    def finish(self) -> ConsumerGroup:
        self.retarget()
        emptied = self.before.members and not self.members
        return ConsumerGroup(
            self.before.name,
            self.epoch,
            self.assignor,
            MappingProxyType(self.members),
            self.topology,
            self.now_s if emptied else self.before.emptied_s,
        )


def _without(member: ConsumerMember, gone: set[str]) -> ConsumerMember:
    """Places of hubs that are no more are nobody's: a hub that comes with the name of one is another."""
    if not any(hub in gone for hub, _ in member.held | member.target):
        return member
    assigned, revoking, target = (
        frozenset(place for place in places if place[0] not in gone)
        for places in (member.assigned, member.revoking, member.target)
    )
    until_s = member.revoke_deadline_s if revoking else math.inf
    return replace(member, assigned=assigned, revoking=revoking, target=target, untold=True, revoke_deadline_s=until_s)


def meant(wish: Subscription, partitions: Iterable[str]) -> frozenset[str]:
    """The hubs there are that a subscription means."""
    named = wish.names.intersection(partitions)
    if not wish.regex:
        return named
    pattern = Pattern(wish.regex)
    return named.union(hub for hub in partitions if not hub.startswith("__") and pattern.matches(hub))


# -- heartbeats


def _beat(turn: _Turn, beat: Beat) -> BeatResult:
    problem = _invalid(turn, beat)
    if problem is not None:
        return problem
    if beat.epoch in (LEAVES, LEAVES_FOR_NOW):
        return _leave(turn, beat)
    found = _join(turn, beat) if beat.epoch == JOINS else _known(turn, beat)
    if isinstance(found, BeatResult):
        return found
    before = turn.members.get(found.member_id)
    member = _said(turn, found, beat)
    turn.put(member)
    turn.retarget()
    after = _reconcile(turn, turn.members[member.member_id], beat)
    tell = before is None or beat.epoch == JOINS or beat.owned is not None or before.assigned != after.assigned
    tell |= after.untold
    after = replace(after, untold=False)
    turn.put(after)
    unsettled = after.waits or after.revoking
    return BeatResult(
        GroupError.NONE,
        member_id=after.member_id,
        epoch=after.epoch,
        interval_ms=turn.limits.reconciling_interval_ms if unsettled else turn.limits.heartbeat_interval_ms,
        assigned=after.assigned if tell else None,
    )


def _refused(error: GroupError, message: str) -> BeatResult:
    return BeatResult(error, message)


def _invalid(turn: _Turn, beat: Beat) -> BeatResult | None:
    """What is wrong with a heartbeat whoever sends it."""
    if beat.epoch < LEAVES_FOR_NOW or not beat.member_id:
        return _refused(GroupError.INVALID_REQUEST, "a member id and an epoch of -2 or above are needed")
    if beat.epoch == LEAVES_FOR_NOW and not beat.instance:
        return _refused(GroupError.INVALID_REQUEST, "only a member with an instance id can leave for now")
    if beat.instance == "":
        return _refused(GroupError.INVALID_REQUEST, "an instance id is not empty")
    if beat.epoch == JOINS:
        if beat.rebalance_timeout_ms < 0 or beat.owned is None or beat.owned:
            return _refused(GroupError.INVALID_REQUEST, "who joins says its rebalance timeout and owns nothing")
        if beat.names is None and beat.regex is None:
            return _refused(GroupError.INVALID_REQUEST, "who joins says what it subscribes to")
    if beat.names is not None and len(beat.names) > turn.limits.subscription_max:
        return _refused(GroupError.INVALID_REQUEST, f"more than {turn.limits.subscription_max} topics")
    if beat.assignor and beat.assignor not in ASSIGNORS:
        return _refused(GroupError.UNSUPPORTED_ASSIGNOR, f"the assignors are {', '.join(ASSIGNORS)}")
    try:
        Pattern(beat.regex or "")
    except InvalidPattern as error:
        return _refused(GroupError.INVALID_REGULAR_EXPRESSION, f"{beat.regex!r}: {error}")
    return None


def _join(turn: _Turn, beat: Beat) -> ConsumerMember | BeatResult:
    """A member that owns nothing: new, back after it was fenced, or in place of a static one that left for now."""
    known = turn.members.get(beat.member_id)
    holder = turn.holder(beat.instance)
    if known is not None and known.instance != beat.instance:
        return _refused(GroupError.INVALID_REQUEST, "a member id belongs to one instance")
    if holder is not None and holder.member_id != beat.member_id:
        if holder.epoch != LEAVES_FOR_NOW:
            return _refused(GroupError.UNRELEASED_INSTANCE_ID, f"instance {beat.instance!r} is still in the group")
        del turn.members[holder.member_id]
        known = replace(holder, member_id=beat.member_id)
    if known is None:
        if len(turn.members) >= turn.limits.members_max:
            return _refused(GroupError.GROUP_MAX_SIZE_REACHED, f"the group has {turn.limits.members_max} members")
        turn.changed = True
        known = ConsumerMember(
            beat.member_id, beat.instance, beat.rack, "", "", 0.0, Subscription(), frozenset(), turn.now_s
        )
    return replace(
        known, epoch=0, previous_epoch=0, assigned=NOTHING, revoking=NOTHING, waits=False, revoke_deadline_s=math.inf
    )


def _known(turn: _Turn, beat: Beat) -> ConsumerMember | BeatResult:
    """The member that sends a heartbeat, if it is one and at an epoch that counts."""
    holder = turn.holder(beat.instance)
    member = turn.members.get(beat.member_id)
    if holder is not None and holder.member_id != beat.member_id:
        return _refused(GroupError.FENCED_INSTANCE_ID, f"instance {beat.instance!r} was taken over")
    if member is None or (beat.instance is not None and holder is None):
        return _refused(GroupError.UNKNOWN_MEMBER_ID, "not a member of this group: join with epoch 0")
    lost_answer = beat.epoch == member.previous_epoch and beat.owned is not None and beat.owned <= member.assigned
    if beat.epoch != member.epoch and not (beat.epoch < member.epoch and lost_answer):
        return _refused(GroupError.FENCED_MEMBER_EPOCH, f"the epoch of this member is {member.epoch}")
    return member


def _said(turn: _Turn, member: ConsumerMember, beat: Beat) -> ConsumerMember:
    """The member with what the heartbeat says of itself; a new wish asks for a new target."""
    wish = Subscription(
        member.wish.names if beat.names is None else beat.names,
        member.wish.regex if beat.regex is None else beat.regex,
        member.wish.assignor if beat.assignor is None else beat.assignor,
    )
    hubs = member.hubs if wish == member.wish else meant(wish, turn.topology.partitions)
    turn.changed |= hubs != member.hubs or wish.assignor != member.wish.assignor
    wanted_ms = min(beat.rebalance_timeout_ms, turn.limits.rebalance_timeout_ms_most)
    return replace(
        member,
        wish=wish,
        hubs=hubs,
        rack=beat.rack or member.rack,
        client_id=beat.client_id,
        host=beat.host,
        seen_s=turn.now_s,
        rebalance_timeout_s=wanted_ms / 1000 if wanted_ms >= 0 else member.rebalance_timeout_s,
    )


def _reconcile(turn: _Turn, member: ConsumerMember, beat: Beat) -> ConsumerMember:
    """One step of a member towards its target."""
    if member.revoking:
        if beat.owned is None or beat.owned & member.revoking:
            return member
        member = replace(member, revoking=NOTHING, revoke_deadline_s=math.inf)
    elif member.epoch == turn.epoch and not member.waits:
        return member
    keep = member.assigned & member.target
    excess = member.assigned - keep
    if excess:
        until_s = turn.now_s + member.rebalance_timeout_s
        return replace(member, assigned=keep, revoking=excess, revoke_deadline_s=until_s, waits=False)
    missing = member.target - keep
    taken = turn.held_by_others(member.member_id, missing)
    previous = member.epoch if member.epoch != turn.epoch else member.previous_epoch
    return replace(
        member, epoch=turn.epoch, previous_epoch=previous, assigned=keep | (missing - taken), waits=bool(taken)
    )


# -- leaving


def _leave(turn: _Turn, beat: Beat) -> BeatResult:
    member = turn.members.get(beat.member_id)
    holder = turn.holder(beat.instance)
    if holder is not None and holder.member_id != beat.member_id:
        return _refused(GroupError.FENCED_INSTANCE_ID, f"instance {beat.instance!r} was taken over")
    if member is None or member.instance != beat.instance:
        return _refused(GroupError.UNKNOWN_MEMBER_ID, "not a member of this group")
    if beat.epoch == LEAVES_FOR_NOW:
        keeps = replace(member, epoch=LEAVES_FOR_NOW, revoking=NOTHING, waits=False, revoke_deadline_s=math.inf)
        turn.put(replace(keeps, seen_s=turn.now_s))
    else:
        turn.drop(member)
    return BeatResult(GroupError.NONE, member_id=member.member_id, epoch=beat.epoch)


def _remove(turn: _Turn, member_id: str, instance: str | None) -> GroupError:
    member = turn.holder(instance) if instance is not None else turn.members.get(member_id)
    if member is None:
        return GroupError.UNKNOWN_MEMBER_ID
    if member_id and member.member_id != member_id:
        return GroupError.FENCED_INSTANCE_ID
    turn.drop(member)
    return GroupError.NONE


def _expire(turn: _Turn) -> None:
    """Remove who is silent, and who does not let go."""
    for member in list(turn.members.values()):
        silent = member.seen_s + turn.limits.session_timeout_s <= turn.now_s
        if silent or member.revoke_deadline_s <= turn.now_s:
            turn.drop(member)


__all__ = ["Expire", "Result", "check_position", "deadline_s", "meant", "step"]
