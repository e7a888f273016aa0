"""Random lives of a group against what must always hold, and proof that each of these properties can fail.

The model knows only what clients see: the commands it sent, the answers it got, and when. It looks into the group
for one thing: who is waited for, to prove that no answer was lost.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gridwire.groups import classic
from gridwire.groups.model import (
    Abandon,
    CheckCommit,
    Group,
    GroupError,
    GroupLimits,
    GroupState,
    Heartbeat,
    Join,
    JoinResult,
    Leave,
    Sync,
    SyncResult,
    Tick,
)
from gridwire.groups.turn import Turn

SESSION_S = 10.0
REBALANCE_S = 25.0
IN_A_GENERATION = (GroupState.COMPLETING, GroupState.STABLE)
WISHES = [
    (("range", b"1"), ("sticky", b"1")),
    (("range", b"2"), ("sticky", b"1")),
    (("sticky", b"3"), ("range", b"3")),
    (("range", b"4"),),
]


@dataclass
class Client:
    """One process: what it believes after the answers it got."""

    member_id: str
    instance: str | None
    wish: int
    generation: int = -1
    leads: bool = False
    listed: tuple[str, ...] = ()


class GroupLife(RuleBasedStateMachine):
    """Clients come, go, hang and time out in any order."""

    limits = GroupLimits(members_max=6, initial_rebalance_delay_ms=0)

    def __init__(self) -> None:
        super().__init__()
        self.group = Group("g")
        self.now_s = 0.0
        self.tickets = 0
        self.open: dict[int, tuple[Client, object]] = {}
        self.clients: list[Client] = []
        self.heard: dict[str, float] = {}
        self.generation = 0
        self.leaders: dict[int, str] = {}
        self.words: dict[int, str] = {}

    # What clients send

    def send(self, client: Client | None, command) -> object:
        """Apply a command; answers go to their clients. Returns the answer to this command if there is one yet."""
        ticket = getattr(command, "ticket", None)
        if ticket is not None:
            self.open[ticket] = (client, command)
        self.group, replies = classic.step(self.group, command, self.now_s, self.limits)
        mine = None
        for reply in replies:
            assert reply.ticket in self.open, f"ticket {reply.ticket} was answered twice or never given out"
            asker, asked = self.open.pop(reply.ticket)
            self.receive(asker, asked, reply.result)
            if reply.ticket == ticket:
                mine = reply.result
        return mine

    def receive(self, client: Client | None, asked, result) -> None:
        if getattr(result, "error", None) is GroupError.REBALANCE_IN_PROGRESS:
            self.heard[asked.member_id] = self.now_s
        if isinstance(result, JoinResult):
            self.receive_join(client, result)
        elif isinstance(result, SyncResult) and result.error is GroupError.NONE:
            word = result.assignment.decode().split("/")
            if result.assignment:
                assert word[0] == str(asked.generation), "an assignment of another generation"
                assert word[2] == asked.member_id, "somebody else's assignment"
                assert self.words.setdefault(asked.generation, word[1]) == word[1], "two assignments in a generation"
            self.heard[asked.member_id] = self.now_s
            assert asked.generation == self.group.generation

    def receive_join(self, client: Client, result: JoinResult) -> None:
        if result.error is GroupError.NONE:
            assert result.generation >= self.generation, "a generation that was over"
            client.member_id, client.generation = result.member_id, result.generation
            client.leads = bool(result.members) and not result.skip_assignment
            client.listed = tuple(member for member, _, _ in result.members)
            if client.leads:
                leader = self.leaders.setdefault(result.generation, client.member_id)
                assert leader == client.member_id, "two leaders in one generation"
                assert client.member_id in client.listed
            self.heard[client.member_id] = self.now_s
        elif result.error is GroupError.MEMBER_ID_REQUIRED:
            client.member_id = result.member_id
        elif result.error in (GroupError.UNKNOWN_MEMBER_ID, GroupError.FENCED_INSTANCE_ID):
            client.member_id = ""

    def ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    def join(self, client: Client, *, required: bool = False, skips: bool = False) -> object:
        ticket = self.ticket()
        return self.send(
            client,
            Join(
                ticket=ticket,
                member_id=client.member_id,
                new_member_id=f"m{ticket}",
                instance=client.instance,
                client_id="c",
                host="h",
                session_timeout_ms=int(SESSION_S * 1000),
                rebalance_timeout_ms=int(REBALANCE_S * 1000),
                protocol_type="consumer",
                protocols=WISHES[client.wish],
                require_known_member=required,
                supports_skipping=skips,
            ),
        )

    def pick(self, data) -> Client:
        return data.draw(st.sampled_from(self.clients))

    @rule(wish=st.integers(0, 3), required=st.booleans(), instance=st.sampled_from([None, None, None, "i", "j"]))
    def newcomer(self, wish, required, instance):
        client = Client("", instance, wish)
        self.clients = [*self.clients[-7:], client]
        self.join(client, required=required)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), wish=st.none() | st.integers(0, 3), skips=st.booleans())
    def joins_again(self, data, wish, skips):
        client = self.pick(data)
        client.wish = client.wish if wish is None else wish
        self.join(client, skips=skips)

    @initialize(wishes=st.lists(st.integers(0, 2), max_size=4))
    def first_members(self, wishes):
        for wish in wishes:
            self.newcomer(wish, False, None)
        self.everybody_joins()
        self.everybody_syncs()

    @precondition(lambda self: self.group.state is GroupState.PREPARING)
    @rule()
    def everybody_joins(self):
        for client in list(self.clients):
            if client.member_id in self.group.members or client.member_id in self.group.pending:
                self.join(client)

    def sync(self, client: Client) -> None:
        ticket = self.ticket()
        parts = [(member, f"{client.generation}/{ticket}/{member}".encode()) for member in client.listed]
        self.send(
            client,
            Sync(
                ticket=ticket,
                generation=client.generation,
                member_id=client.member_id,
                instance=client.instance,
                protocol_type="consumer",
                protocol=None,
                assignments=tuple(parts) if client.leads else (),
            ),
        )

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def syncs(self, data):
        self.sync(self.pick(data))

    @precondition(lambda self: self.group.state is GroupState.COMPLETING)
    @rule()
    def everybody_syncs(self):
        for client in list(self.clients):
            self.sync(client)

    @precondition(lambda self: self.clients)
    @rule(commits=st.booleans())
    def everybody_beats(self, commits):
        for client in self.clients:
            self.beat(client, commits)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), commits=st.booleans())
    def beats(self, data, commits):
        self.beat(self.pick(data), commits)

    def beat(self, client: Client, commits: bool) -> None:
        kind = CheckCommit if commits else Heartbeat
        ticket = self.ticket()
        fields = {"generation": client.generation, "member_id": client.member_id, "instance": client.instance}
        answer = self.send(client, kind(ticket=ticket, **fields))
        assert answer is not None
        if answer in (GroupError.NONE, GroupError.REBALANCE_IN_PROGRESS) and client.generation >= 0:
            assert client.generation == self.group.generation, "an old generation was let in"
            assert client.member_id in self.group.members
            self.heard[client.member_id] = self.now_s

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leaves(self, data):
        client = self.pick(data)
        answer = self.send(client, Leave(ticket=self.ticket(), leavers=((client.member_id, client.instance),)))
        if answer == (GroupError.NONE,):
            assert client.member_id not in self.group.members
            client.member_id = ""

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def connection_breaks(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.open)))
        client, command = self.open.pop(ticket)
        self.send(client, Abandon(waiting=ticket))
        self.heard[command.member_id] = self.now_s

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, 4.0, 5.0, 9.0, 10.0, 26.0]))
    def time_passes(self, seconds):
        self.now_s += seconds
        self.send(None, Tick())
        waiting = {command.member_id for _, command in self.open.values()}
        for member in self.group.members.values():
            if member.join_ticket is None and member.sync_ticket is None:
                assert member.member_id not in waiting
                heard_s = self.heard.get(member.member_id, member.seen_s)
                assert self.now_s - heard_s < SESSION_S, f"{member.member_id} outlived its session"
        assert self.group.deadline_s > self.now_s, "a tick left something undone"

    # What always holds

    @invariant()
    def no_answer_is_lost(self):
        members = self.group.members.values()
        waited = [ticket for m in members for ticket in (m.join_ticket, m.sync_ticket) if ticket is not None]
        assert sorted(waited) == sorted(self.open), "a ticket is neither answered nor waited for"

    @invariant()
    def generations_only_grow(self):
        assert self.group.generation >= self.generation, "the generation went back"
        self.generation = self.group.generation

    @invariant()
    def a_generation_has_one_leader_and_one_protocol_all_support(self):
        if self.group.state in IN_A_GENERATION:
            assert self.group.leader in self.group.members
            for member in self.group.members.values():
                assert self.group.protocol in [name for name, _ in member.protocols]

    @invariant()
    def who_is_not_in_a_generation_waits_for_one(self):
        if self.group.state is GroupState.EMPTY:
            assert not self.group.members
        elif self.group.state is not GroupState.PREPARING:
            assert all(member.join_ticket is None for member in self.group.members.values())
        if self.group.state is GroupState.STABLE:
            assert all(member.sync_ticket is None for member in self.group.members.values())

    @invariant()
    def limits_hold(self):
        assert len(self.group.members) + len(self.group.pending) <= self.limits.members_max

    def teardown(self):
        """Silence ends everything: all tickets are answered, all members are gone."""
        if sys.exc_info()[0] is not None:
            return  # the first failure is the one to show
        for _ in range(20):
            if self.group.unused:
                break
            self.now_s = max(self.now_s, min(self.group.deadline_s, self.now_s + REBALANCE_S))
            self.send(None, Tick())
        assert not self.open, "a ticket is neither answered nor waited for"
        assert self.group.unused, f"{list(self.group.members)} outlived their sessions"
        assert self.group.state is GroupState.EMPTY


class DelayedGroupLife(GroupLife):
    """The same with an initial rebalance delay."""

    limits = GroupLimits(members_max=6, initial_rebalance_delay_ms=3000)


SETTINGS = settings(max_examples=120, stateful_step_count=40, deadline=None)
GroupLife.TestCase.settings = SETTINGS
DelayedGroupLife.TestCase.settings = settings(SETTINGS, max_examples=40)
TestGroupLife = GroupLife.TestCase
TestDelayedGroupLife = DelayedGroupLife.TestCase


def immortal(original):
    """A tick that removes nobody."""

    def tick(turn):
        members = dict(turn.members)
        original(turn)
        for member in members.values():
            turn.members.setdefault(member.member_id, member)

    return classic, "_tick", tick


def same_number(original):
    """A new generation with the old number."""

    def begin(turn):
        original(turn)
        turn.generation = 1

    return Turn, "_begin_generation", begin


def no_answer_on_change(original):
    """Waiting syncs are dropped when the group starts over."""

    def prepare(turn):
        for member in list(turn.members.values()):
            turn.put(replace(member, sync_ticket=None))
        original(turn)

    return Turn, "_prepare", prepare


def everybody_leads(original):
    """Every join is answered as the leader's."""

    def current(turn, member, *, as_leader):
        return original(turn, member, as_leader=True)

    return Turn, "current", current


def anybody_assigns(original):
    """A sync of any member that brings an assignment changes the group's."""

    def sync(turn, command):
        if turn.state is GroupState.STABLE and command.member_id in turn.members and command.assignments:
            classic._answer_syncs(turn)
            for name, part in command.assignments:
                if name in turn.members:
                    turn.put(replace(turn.members[name], assignment=part))
        original(turn, command)

    return classic, "_sync", sync


LOST = "neither answered nor waited for"
WEAKENED = [
    (classic, "_tick", immortal, "outlived"),
    (Turn, "_begin_generation", same_number, "two leaders|went back|assignment"),
    (Turn, "_prepare", no_answer_on_change, LOST),
    (Turn, "current", everybody_leads, "two leaders"),
    (classic, "_sync", anybody_assigns, "two assignments"),
]


@pytest.mark.parametrize(("owner", "name", "weaken", "notice"), WEAKENED, ids=[row[2].__name__ for row in WEAKENED])
def test_a_weakened_rule_is_noticed(monkeypatch, owner, name, weaken, notice):
    place, attribute, replacement = weaken(getattr(owner, name))
    monkeypatch.setattr(place, attribute, replacement)
    quick = settings(
        SETTINGS, max_examples=300, database=None, phases=[Phase.generate], derandomize=True, report_multiple_bugs=False
    )
    with pytest.raises(AssertionError, match=notice):
        run_state_machine_as_test(GroupLife, settings=quick)
