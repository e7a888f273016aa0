"""Random lives of a new consumer group against what must always hold, and proof that each property can fail.

The model is a set of processes as clients see the protocol: answers get lost, processes hang, let go late, die.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gridwire.groups import consumer
from gridwire.groups.assignors import ASSIGNORS
from gridwire.groups.consumer_model import (
    LEAVES_FOR_NOW,
    NOTHING,
    Beat,
    BeatResult,
    ConsumerGroup,
    ConsumerGroupState,
    ConsumerLimits,
    ConsumerMember,
    Expire,
    Topology,
)
from gridwire.groups.model import GroupError

SESSION_S = 45.0
REBALANCE_S = 20.0
FENCED = (GroupError.FENCED_MEMBER_EPOCH, GroupError.UNKNOWN_MEMBER_ID, GroupError.FENCED_INSTANCE_ID)
WISHES = [frozenset("a"), frozenset("ab"), frozenset("b")]


@dataclass
class Client:
    """One process: what it believes and what it really reads."""

    member_id: str
    instance: str | None
    names: frozenset[str]
    epoch: int = 0
    owned: frozenset = NOTHING
    wanted: frozenset = NOTHING
    says: bool = True
    alive: bool = True
    fresh: set = field(default_factory=set)

    def let_go(self) -> None:
        if self.owned != self.wanted:
            self.owned, self.says = self.wanted, True


class ConsumerLife(RuleBasedStateMachine):
    """Processes come, go, hang, lose answers and die, while hubs grow."""

    limits = ConsumerLimits(members_max=6, session_timeout_s=SESSION_S)

    def __init__(self) -> None:
        super().__init__()
        self.group = ConsumerGroup("g")
        self.topology = Topology({"a": 3, "b": 2})
        self.clients: list[Client] = []
        self.now_s = 0.0
        self.numbers = 0
        self.epoch = 0

    def live(self) -> list[Client]:
        return [client for client in self.clients if client.alive]

    def step(self, command) -> object:
        self.group, result = consumer.step(self.group, command, self.topology, self.now_s, self.limits)
        assert self.group.epoch >= self.epoch, "the group's epoch went back"
        self.epoch = self.group.epoch
        return result

    def beat(self, client: Client, *, lost: bool = False) -> BeatResult:
        joins = client.epoch == 0
        result = self.step(
            Beat(
                member_id=client.member_id,
                epoch=client.epoch,
                instance=client.instance,
                rebalance_timeout_ms=int(REBALANCE_S * 1000),
                names=client.names,
                owned=NOTHING if joins else client.owned if client.says else None,
            )
        )
        client.says = lost
        if not lost:
            self.receive(client, result)
        return result

    def receive(self, client: Client, result: BeatResult) -> None:
        if result.error in FENCED:
            client.epoch, client.owned, client.wanted = 0, NOTHING, NOTHING
        elif result.error is GroupError.NONE:
            assert client.epoch == 0 or result.epoch >= client.epoch, "an epoch that was over"
            client.epoch = result.epoch
            if result.assigned is not None:
                client.wanted = result.assigned
                if client.wanted >= client.owned:
                    client.let_go()
        else:
            client.alive = False

    @rule(wish=st.sampled_from(WISHES), static=st.booleans())
    def comes(self, wish: frozenset[str], static: bool) -> None:
        if len(self.clients) < 12:
            self.numbers += 1
            client = Client(f"m{self.numbers}", f"i{self.numbers % 3}" if static else None, wish)
            self.clients.append(client)
            self.beat(client)

    @precondition(lambda self: self.live())
    @rule(data=st.data(), lost=st.booleans(), lets_go=st.booleans())
    def beats(self, data: st.DataObject, lost: bool, lets_go: bool) -> None:
        client = data.draw(st.sampled_from(self.live()))
        if lets_go:
            client.let_go()
        self.beat(client, lost=lost)

    @precondition(lambda self: self.live())
    @rule(data=st.data(), wish=st.sampled_from(WISHES))
    def wishes(self, data: st.DataObject, wish: frozenset[str]) -> None:
        client = data.draw(st.sampled_from(self.live()))
        client.names = wish
        self.beat(client)

    @precondition(lambda self: self.live())
    @rule(data=st.data(), for_now=st.booleans())
    def leaves(self, data: st.DataObject, for_now: bool) -> None:
        client = data.draw(st.sampled_from(self.live()))
        epoch = LEAVES_FOR_NOW if for_now and client.instance else -1
        client.alive, client.owned = False, NOTHING
        self.step(Beat(member_id=client.member_id, epoch=epoch, instance=client.instance))

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.live()))
        client.alive, client.owned = False, NOTHING

    @rule(seconds=st.sampled_from([1.0, 19.0, 21.0, 46.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.step(Expire())

    @rule(hub=st.sampled_from("abc"))
    def hub_grows(self, hub: str) -> None:
        partitions = dict(self.topology.partitions)
        if partitions.get(hub, 0) < 6:
            self.topology = Topology(partitions | {hub: partitions.get(hub, 0) + 1})

    @rule()
    def settles(self) -> None:
        """Who lives and keeps sending heartbeats gets everything there is to get."""
        for _ in range(12):
            self.now_s += 5.0
            for client in self.live():
                client.let_go()
                self.beat(client)
            self.step(Expire())
        members = [client for client in self.live() if client.epoch > 0]
        assert set(self.group.members) == {client.member_id for client in members}, "the dead are still there"
        if not members:
            return
        assert self.group.state is ConsumerGroupState.STABLE, "nobody gets on"
        wanted = {hub for client in members for hub in client.names}
        partitions = self.topology.partitions
        places = {(hub, number) for hub in wanted if hub in partitions for number in range(partitions[hub])}
        assert set().union(*(client.owned for client in members)) == places, "somewhere nobody reads"
        if len({client.names for client in members}) == 1:
            loads = [len(client.owned) for client in members]
            assert max(loads) - min(loads) <= 1, "uneven"

    @invariant()
    def nobody_shares_a_place(self) -> None:
        readers: set = set()
        for client in self.clients:
            if client.member_id in self.group.members:
                assert not readers & client.owned, "two members read one place"
                readers |= client.owned

    @invariant()
    def only_who_is_up_to_date_commits(self) -> None:
        for client in self.clients:
            member = self.group.members.get(client.member_id)
            answer = consumer.check_position(self.group, client.member_id, client.epoch)
            current = member is not None and member.epoch == client.epoch
            assert (answer is GroupError.NONE) == current, "a stale member may commit"

    @invariant()
    def epochs_are_in_order(self) -> None:
        assert all(member.epoch <= self.group.epoch for member in self.group.members.values())

    @invariant()
    def deadline_is_ahead(self) -> None:
        for member in self.group.members.values():
            assert consumer.deadline_s(self.group, self.limits) <= member.seen_s + SESSION_S


def live(examples: int, **more) -> None:
    run_state_machine_as_test(
        ConsumerLife,
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, database=None, **more),
    )


def test_properties_hold() -> None:
    live(150)


def weaken_held_by_others(patch: pytest.MonkeyPatch) -> str:
    """A place is given away whoever holds it."""
    patch.setattr(consumer._Turn, "held_by_others", lambda *_: NOTHING)
    return "two members read one place"


def weaken_confirmation(patch: pytest.MonkeyPatch) -> str:
    """What a member was told to let go counts as let go."""
    patch.setattr(ConsumerMember, "held", property(lambda self: self.assigned))
    return "two members read one place"


def weaken_expiry(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(consumer, "_expire", lambda turn: None)
    return "the dead are still there"


def weaken_target(patch: pytest.MonkeyPatch) -> str:
    """Half of the partitions are forgotten."""
    whole = ASSIGNORS["uniform"]
    patch.setitem(ASSIGNORS, "uniform", lambda m, p: whole(m, {hub: max(1, count // 2) for hub, count in p.items()}))
    return "somewhere nobody reads"


def weaken_balance(patch: pytest.MonkeyPatch) -> str:
    patch.setattr("gridwire.groups.assignors._level", lambda shares, readers: None)
    return "uneven"


def weaken_commit(patch: pytest.MonkeyPatch) -> str:
    def lax(group: ConsumerGroup, member_id: str, epoch: int) -> GroupError:
        return GroupError.NONE if member_id in group.members else GroupError.UNKNOWN_MEMBER_ID

    patch.setattr(consumer, "check_position", lax)
    return "a stale member may commit"


@pytest.mark.parametrize(
    "weaken",
    [weaken_held_by_others, weaken_confirmation, weaken_expiry, weaken_target, weaken_balance, weaken_commit],
    ids=lambda weaken: weaken.__name__,
)
def test_each_property_can_fail(weaken, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weaken(monkeypatch)
    with pytest.raises(AssertionError, match=expected):
        live(400, phases=(Phase.generate,), report_multiple_bugs=False)
