"""The classic consumer group as a pure function: `step`. The theory and the tables are in `states`.

`step` copies the group into a `Turn`, lets one command change that, and freezes it again.
"""

from __future__ import annotations

from dataclasses import replace

from gridwire.groups.consumer_protocol import same_subscription
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
    Member,
    MemberView,
    Reply,
    Sync,
    SyncResult,
    Tick,
)
from gridwire.groups.states import COMMIT_ANSWERS, HEARTBEAT_ANSWERS, Cause
from gridwire.groups.turn import Turn


def step(group: Group, command: Command, now_s: float, limits: GroupLimits) -> tuple[Group, tuple[Reply, ...]]:
    """Apply one command at the time `now_s`.

    Returns:
        The group's next state and the answers that became possible, in order.
    """
    turn = Turn(group, now_s, limits)
    if group.state is GroupState.DEAD:
        _refuse_dead(turn, command)
        return group, tuple(turn.replies)
    match command:
        case Join():
            _join(turn, command)
        case Sync():
            _sync(turn, command)
        case Heartbeat():
            turn.reply(command.ticket, _heartbeat(turn, command))
        case Leave():
            _leave(turn, command)
        case CheckCommit():
            turn.reply(command.ticket, _check_commit(turn, command))
        case Delete():
            turn.reply(command.ticket, _delete(turn))
        case Abandon():
            _abandon(turn, command)
        case Tick():
            _tick(turn)
    # Heartbeats only move deadlines back, so the old one is early but safe, and they stay cheap.
    keeps_deadline = isinstance(command, Heartbeat | CheckCommit)
    return turn.finish(group.deadline_s if keeps_deadline else None), tuple(turn.replies)


def view(group: Group) -> GroupView:
    """The group as status pages and DescribeGroups show it."""
    members = tuple(
        MemberView(m.member_id, m.instance, m.client_id, m.host, m.metadata(group.protocol), m.assignment)
        for m in group.members.values()
    )
    return GroupView(
        group.name, group.state, group.generation, group.protocol_type, group.protocol, group.leader, members
    )


def _refuse_dead(turn: Turn, command: Command) -> None:
    """A deleted group knows nobody; its name may come to life again as a new group."""
    error = GroupError.COORDINATOR_NOT_AVAILABLE
    match command:
        case Join():
            turn.reply(command.ticket, JoinResult(error, member_id=command.member_id))
        case Sync():
            turn.reply(command.ticket, SyncResult(error))
        case Leave():
            turn.reply(command.ticket, (error,) * len(command.leavers))
        case Heartbeat() | CheckCommit() | Delete():
            turn.reply(command.ticket, error)
        case Abandon() | Tick():
            pass


def _join(turn: Turn, command: Join) -> None:
    error = _join_error(turn, command)
    if error is not GroupError.NONE:
        turn.reply(command.ticket, JoinResult(error, member_id=command.member_id))
    elif command.member_id in turn.members:
        _rejoin(turn, command, turn.members[command.member_id])
    elif command.member_id:
        del turn.pending[command.member_id]
        _admit(turn, command, command.member_id)
    else:
        _join_first(turn, command)


def _join_error(turn: Turn, command: Join) -> GroupError:
    """Everything that can be wrong with a join; identity before the rest, so that a replaced process learns it."""
    limits = turn.limits
    replaced = turn.holder(command.instance)
    full = len(turn.members) + len(turn.pending) >= limits.members_max
    if command.member_id and command.member_id not in turn.pending:
        error = turn.identify(command.member_id, command.instance)
        if error is not GroupError.NONE:
            return error
    elif not command.member_id and replaced is None and full:
        return GroupError.GROUP_MAX_SIZE_REACHED
    if not limits.session_timeout_ms_least <= command.session_timeout_ms <= limits.session_timeout_ms_most:
        return GroupError.INVALID_SESSION_TIMEOUT
    if sum(len(name) + len(metadata) for name, metadata in command.protocols) > limits.metadata_bytes_max:
        return GroupError.GROUP_MAX_SIZE_REACHED
    instead_of = replaced.member_id if replaced else command.member_id
    named = command.protocol_type and command.protocols
    if not named or not turn.can_speak(command.protocol_type, command.protocols, instead_of=instead_of):
        return GroupError.INCONSISTENT_GROUP_PROTOCOL
    return GroupError.NONE


def _join_first(turn: Turn, command: Join) -> None:
    """Somebody without a member id."""
    replaced = turn.holder(command.instance)
    if replaced is not None:
        _replace_static(turn, command, replaced)
    elif command.instance is None and command.require_known_member:
        turn.pending[command.new_member_id] = turn.now_s + command.session_timeout_ms / 1000
        error = GroupError.MEMBER_ID_REQUIRED
        turn.reply(command.ticket, JoinResult(error, member_id=command.new_member_id))
    else:
        _admit(turn, command, command.new_member_id)


def _member(turn: Turn, command: Join, member_id: str) -> Member:
    """The member a join describes, waiting for the answer to it."""
    wanted_ms = command.rebalance_timeout_ms if command.rebalance_timeout_ms > 0 else command.session_timeout_ms
    return Member(
        member_id,
        command.instance,
        command.client_id,
        command.host,
        command.session_timeout_ms / 1000,
        min(wanted_ms, turn.limits.rebalance_timeout_ms_most) / 1000,
        command.protocols,
        turn.now_s,
        told=bool(command.member_id) or command.instance is not None,
        join_ticket=command.ticket,
    )


def _admit(turn: Turn, command: Join, member_id: str) -> None:
    if not turn.members:
        turn.protocol_type = command.protocol_type
    turn.put(_member(turn, command, member_id))
    turn.settle()
    turn.rebalance()


def _rejoin(turn: Turn, command: Join, member: Member) -> None:
    """A member joins again: with nothing new to say it just gets the present generation, unless it leads.

    The leader of a stable group rejoins because it wants to assign anew.
    """
    turn.reply(member.join_ticket, JoinResult(GroupError.REBALANCE_IN_PROGRESS, member_id=member.member_id))
    leads = member.member_id == turn.leader
    updated = replace(
        _member(turn, command, member.member_id),
        instance=member.instance,
        sync_ticket=member.sync_ticket,
        owes_sync=member.owes_sync,
        assignment=member.assignment,
    )
    unchanged = member.protocols == command.protocols
    completing = turn.state is GroupState.COMPLETING
    if unchanged and (completing or (turn.state is GroupState.STABLE and not leads)):
        turn.put(replace(updated, join_ticket=None))
        turn.reply(command.ticket, turn.current(updated, as_leader=leads))
        return
    turn.put(updated)
    turn.rebalance()


def _replace_static(turn: Turn, command: Join, old: Member) -> None:
    """A new process took an instance over. If it asks for what the old one did, nobody else notices."""
    turn.dismiss(old, GroupError.FENCED_INSTANCE_ID)
    new = replace(_member(turn, command, command.new_member_id), owes_sync=old.owes_sync, assignment=old.assignment)
    turn.put(new)
    led = turn.leader == old.member_id
    if led:
        turn.leader = new.member_id
    if len(turn.members) == 1:
        turn.protocol_type = command.protocol_type
    if turn.state is not GroupState.STABLE or not _asks_the_same(turn, old, new):
        turn.rebalance()
        return
    turn.put(replace(new, join_ticket=None))
    answer = turn.current(new, as_leader=led and command.supports_skipping)
    if led:
        # A leader would assign anew. One that cannot be told to skip that is told the old leader's id instead.
        skips = command.supports_skipping
        answer = replace(answer, skip_assignment=skips, leader=new.member_id if skips else old.member_id)
    turn.reply(command.ticket, answer)


def _asks_the_same(turn: Turn, old: Member, new: Member) -> bool:
    names = [name for name, _ in new.protocols]
    if names != [name for name, _ in old.protocols]:
        return False
    return all(same_subscription(turn.protocol_type, old.metadata(name), new.metadata(name)) for name in names)


def _sync(turn: Turn, command: Sync) -> None:
    error = _sync_error(turn, command)
    if error is not GroupError.NONE:
        turn.reply(command.ticket, SyncResult(error))
        return
    member = turn.members[command.member_id]
    turn.reply(member.sync_ticket, SyncResult(GroupError.REBALANCE_IN_PROGRESS))
    turn.put(replace(member, sync_ticket=command.ticket, seen_s=turn.now_s))
    if turn.state is GroupState.COMPLETING and member.member_id == turn.leader:
        _assign(turn, dict(command.assignments))
    if turn.state is GroupState.STABLE:
        _answer_syncs(turn)


def _sync_error(turn: Turn, command: Sync) -> GroupError:
    error = turn.check(command.member_id, command.instance, command.generation)
    if error is not GroupError.NONE:
        return error
    if command.protocol_type and command.protocol_type != turn.protocol_type:
        return GroupError.INCONSISTENT_GROUP_PROTOCOL
    if turn.state is GroupState.PREPARING:
        return GroupError.REBALANCE_IN_PROGRESS
    if command.protocol and command.protocol != turn.protocol:
        return GroupError.INCONSISTENT_GROUP_PROTOCOL
    if any(len(part) > turn.limits.metadata_bytes_max for _, part in command.assignments):
        return GroupError.GROUP_MAX_SIZE_REACHED
    return GroupError.NONE


def _assign(turn: Turn, assignments: dict[str, bytes]) -> None:
    """Keep the leader's word; a member it does not mention gets nothing."""
    turn.move(Cause.ASSIGNED)
    for member in list(turn.members.values()):
        turn.put(replace(member, assignment=assignments.get(member.member_id, b"")))


def _answer_syncs(turn: Turn) -> None:
    for member in list(turn.members.values()):
        if member.sync_ticket is None:
            continue
        answer = SyncResult(GroupError.NONE, turn.protocol_type, turn.protocol, member.assignment)
        turn.reply(member.sync_ticket, answer)
        turn.put(replace(member, sync_ticket=None, owes_sync=False, seen_s=turn.now_s))


def _heartbeat(turn: Turn, command: Heartbeat) -> GroupError:
    error = turn.check(command.member_id, command.instance, command.generation)
    if error is not GroupError.NONE:
        return error
    turn.hear(command.member_id)
    return HEARTBEAT_ANSWERS[turn.state]


def _check_commit(turn: Turn, command: CheckCommit) -> GroupError:
    if command.generation < 0 and not turn.members:
        return GroupError.NONE
    error = turn.check(command.member_id, command.instance, command.generation)
    if error is not GroupError.NONE:
        return error
    turn.hear(command.member_id)
    return COMMIT_ANSWERS[turn.state]


def _leave(turn: Turn, command: Leave) -> None:
    errors = tuple(_leave_one(turn, member_id, instance) for member_id, instance in command.leavers)
    turn.reply(command.ticket, errors)
    if GroupError.NONE in errors:
        _somebody_left(turn)


def _leave_one(turn: Turn, member_id: str, instance: str | None) -> GroupError:
    if instance is None and turn.pending.pop(member_id, None) is not None:
        return GroupError.NONE
    holder = turn.holder(instance)
    leaver_id = holder.member_id if holder is not None and not member_id else member_id
    error = turn.identify(leaver_id, instance)
    if error is GroupError.NONE:
        turn.dismiss(turn.members[leaver_id], GroupError.UNKNOWN_MEMBER_ID)
    return error


def _somebody_left(turn: Turn) -> None:
    """A member that was in a generation leaves a hole in it; a pending one was only waited for."""
    if len(turn.members) < len(turn.before.members) and turn.state is not GroupState.EMPTY:
        turn.rebalance()
    else:
        turn.collect()


def _delete(turn: Turn) -> GroupError:
    if turn.state is not GroupState.EMPTY:
        return GroupError.NON_EMPTY_GROUP
    turn.pending.clear()
    turn.move(Cause.DELETED)
    return GroupError.NONE


def _abandon(turn: Turn, command: Abandon) -> None:
    """A connection went away under a waiting join or sync; its member may come back within its session timeout.

    Not so one that was never told its id: nobody could ever speak for it.
    """
    for member in turn.members.values():
        if command.waiting in (member.join_ticket, member.sync_ticket):
            break
    else:
        return
    if member.join_ticket == command.waiting and not member.told:
        del turn.members[member.member_id]
        _somebody_left(turn)
        return
    join_ticket = None if member.join_ticket == command.waiting else member.join_ticket
    sync_ticket = None if member.sync_ticket == command.waiting else member.sync_ticket
    turn.put(replace(member, join_ticket=join_ticket, sync_ticket=sync_ticket, seen_s=turn.now_s))


def _tick(turn: Turn) -> None:
    """Remove who is silent, and go on with a rebalance that waited long enough."""
    for member_id, until_s in list(turn.pending.items()):
        if until_s <= turn.now_s:
            del turn.pending[member_id]
    sync_over = turn.state is not GroupState.PREPARING and turn.sync_deadline_s <= turn.now_s
    for member in list(turn.members.values()):
        never_synced = sync_over and member.owes_sync and member.sync_ticket is None
        if never_synced or member.expires_s <= turn.now_s:
            turn.dismiss(member, GroupError.UNKNOWN_MEMBER_ID)
    _somebody_left(turn)
