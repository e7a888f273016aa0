"""Every transition of the classic group, one command at a time, on a clock of our own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridwire.core.errors import LocalProtocolError
from gridwire.groups import classic
from gridwire.groups.model import (
    Abandon,
    CheckCommit,
    Delete,
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
from gridwire.groups.states import COMMIT_ANSWERS, HEARTBEAT_ANSWERS, MOVES, Cause
from gridwire.groups.turn import Turn

E = GroupError
RANGE = (("range", b"r"),)


class Bench:
    """One group, its answers by ticket, and short ways to say commands."""

    def __init__(self, limits: GroupLimits | None = None) -> None:
        self.group = Group("g")
        self.limits = limits or GroupLimits()
        self.now_s = 100.0
        self.answers: dict[int, object] = {}
        self.tickets = 0

    def step(self, command):
        self.group, replies = classic.step(self.group, command, self.now_s, self.limits)
        for reply in replies:
            assert reply.ticket not in self.answers, "answered twice"
            self.answers[reply.ticket] = reply.result

    def ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    def join(self, member_id="", *, new="", instance=None, protocols=RANGE, required=False, **changes) -> int:
        ticket = self.ticket()
        command = Join(
            ticket=ticket,
            member_id=member_id,
            new_member_id=new or f"m{ticket}",
            instance=instance,
            client_id="client",
            host="/127.0.0.1",
            session_timeout_ms=10_000,
            rebalance_timeout_ms=60_000,
            protocol_type="consumer",
            protocols=protocols,
            require_known_member=required,
        )
        self.step(replace(command, **changes))
        return ticket

    def sync(
        self, member_id, assignments=(), *, generation=None, instance=None, kind="consumer", protocol="range"
    ) -> int:
        ticket = self.ticket()
        generation = self.group.generation if generation is None else generation
        self.step(
            Sync(
                ticket=ticket,
                generation=generation,
                member_id=member_id,
                instance=instance,
                protocol_type=kind,
                protocol=protocol,
                assignments=tuple(assignments),
            )
        )
        return ticket

    def now(self, kind, **fields):
        ticket = self.ticket()
        self.step(kind(ticket=ticket, **fields))
        return self.answers[ticket]

    def heartbeat(self, member_id, generation=None, instance=None):
        generation = self.group.generation if generation is None else generation
        return self.now(Heartbeat, member_id=member_id, generation=generation, instance=instance)

    def commit(self, member_id, generation=None, instance=None):
        generation = self.group.generation if generation is None else generation
        return self.now(CheckCommit, member_id=member_id, generation=generation, instance=instance)

    def leave(self, *leavers):
        return self.now(Leave, leavers=leavers)

    def after(self, seconds: float) -> None:
        self.now_s += seconds
        self.step(Tick())

    def stable(self, *names: str, **changes) -> Bench:
        """Bring `names` into one stable generation; the first leads."""
        first = self.join(new=names[0], **changes)
        for name in names[1:]:
            self.join(new=name, **changes)
        if len(names) > 1:
            self.join(names[0], **changes)
        assert self.answers[first]
        for name in names[1:]:
            self.sync(name)
        self.sync(names[0], [(name, f"part of {name}".encode()) for name in names])
        assert self.group.state is GroupState.STABLE
        assert self.group.leader == names[0]
        return self


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_first_member_leads_generation_one_at_once(bench):
    ticket = bench.join(new="a")
    assert bench.answers[ticket] == JoinResult(E.NONE, 1, "consumer", "range", "a", "a", [("a", None, b"r")])
    assert bench.group.state is GroupState.COMPLETING


def test_sync_of_the_leader_makes_the_group_stable(bench):
    bench.join(new="a")
    ticket = bench.sync("a", [("a", b"all"), ("stranger", b"x")])
    assert bench.answers[ticket] == SyncResult(E.NONE, "consumer", "range", b"all")
    assert bench.group.state is GroupState.STABLE
    assert "stranger" not in bench.group.members


def test_a_second_member_waits_until_the_first_joins_again(bench):
    bench.stable("a")
    second = bench.join(new="b")
    assert bench.group.state is GroupState.PREPARING
    assert second not in bench.answers
    assert bench.heartbeat("a") is E.REBALANCE_IN_PROGRESS
    first = bench.join("a")
    assert bench.answers[first].generation == bench.answers[second].generation == 2
    assert bench.answers[first].leader == bench.answers[second].leader == "a"
    assert [member for member, _, _ in bench.answers[first].members] == ["a", "b"]
    assert bench.answers[second].members == []


def test_followers_wait_for_the_leaders_sync(bench):
    bench.stable("a")
    bench.join(new="b")
    bench.join("a")
    follower = bench.sync("b")
    assert follower not in bench.answers
    bench.sync("a", [("a", b"1"), ("b", b"2")])
    assert bench.answers[follower].assignment == b"2"


def test_a_member_the_leader_forgets_gets_nothing(bench):
    bench.stable("a", "b")
    bench.join("a")
    bench.join("b")
    follower = bench.sync("b")
    bench.sync("a", [("a", b"1")])
    assert bench.answers[follower] == SyncResult(E.NONE, "consumer", "range", b"")


def test_a_sync_after_stable_is_answered_at_once(bench):
    bench.stable("a", "b")
    ticket = bench.sync("b")
    assert bench.answers[ticket].assignment == b"part of b"


def test_sync_while_preparing_says_rebalance(bench):
    bench.stable("a")
    bench.join(new="b")
    ticket = bench.sync("a")
    assert bench.answers[ticket].error is E.REBALANCE_IN_PROGRESS


def test_a_change_while_completing_sends_waiting_syncs_back(bench):
    bench.stable("a", "b")
    bench.join("a")
    bench.join("b")
    waiting = bench.sync("b")
    bench.join(new="c")
    assert bench.answers[waiting].error is E.REBALANCE_IN_PROGRESS
    assert bench.group.state is GroupState.PREPARING


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"member_id": "ghost"}, E.UNKNOWN_MEMBER_ID),
        ({"generation": 7}, E.ILLEGAL_GENERATION),
        ({"instance": "i"}, E.UNKNOWN_MEMBER_ID),
        ({"kind": "connect"}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol": "sticky"}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"assignments": [("a", b"x" * 101)]}, E.GROUP_MAX_SIZE_REACHED),
        ({"kind": None, "protocol": None}, E.NONE),
    ],
)
def test_what_can_be_wrong_with_a_sync(fields, error):
    bench = Bench(GroupLimits(metadata_bytes_max=100)).stable("a")
    ticket = bench.sync(**{"member_id": "a"} | fields)
    assert bench.answers[ticket].error is error


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"member_id": "ghost"}, E.UNKNOWN_MEMBER_ID),
        ({"member_id": "a", "instance": "i"}, E.UNKNOWN_MEMBER_ID),
        ({"session_timeout_ms": 999}, E.INVALID_SESSION_TIMEOUT),
        ({"session_timeout_ms": 1_800_001}, E.INVALID_SESSION_TIMEOUT),
        ({"protocols": ()}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": ""}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": "connect"}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": (("sticky", b""),)}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": (("range", b"x" * 96),)}, E.GROUP_MAX_SIZE_REACHED),
    ],
)
def test_what_can_be_wrong_with_a_join(fields, error):
    bench = Bench(GroupLimits(metadata_bytes_max=100)).stable("a")
    before = bench.group
    ticket = bench.join(**fields)
    assert bench.answers[ticket].error is error
    assert bench.group == before


def test_a_lone_member_may_change_its_protocols(bench):
    bench.stable("a")
    ticket = bench.join("a", protocols=(("sticky", b"s"),))
    assert bench.answers[ticket].protocol == "sticky"


def test_members_above_the_limit_are_refused_and_members_inside_may_rejoin():
    bench = Bench(GroupLimits(members_max=2)).stable("a", "b")
    assert bench.answers[bench.join(new="c")].error is E.GROUP_MAX_SIZE_REACHED
    bench.join("a")
    assert bench.answers[bench.join("b")].error is E.NONE


def test_pending_members_count_against_the_limit():
    bench = Bench(GroupLimits(members_max=1))
    assert bench.answers[bench.join(new="a", required=True)].error is E.MEMBER_ID_REQUIRED
    assert bench.answers[bench.join(new="b", required=True)].error is E.GROUP_MAX_SIZE_REACHED
    assert bench.answers[bench.join("a", required=True)].error is E.NONE


def test_the_protocol_most_members_prefer_wins_among_those_all_support(bench):
    bench.join(new="a", protocols=(("only-a", b""), ("range", b"a"), ("sticky", b"")))
    bench.join(new="b", protocols=(("sticky", b""), ("range", b"b")))
    bench.join(new="c", protocols=(("sticky", b""), ("range", b"c")))
    ticket = bench.join("a", protocols=(("only-a", b""), ("range", b"a"), ("sticky", b"s")))
    assert bench.answers[ticket].protocol == "sticky"
    assert ("a", None, b"s") in bench.answers[ticket].members


def test_the_leaders_order_breaks_a_tie(bench):
    bench.join(new="a", protocols=(("range", b""), ("sticky", b"")))
    bench.join(new="b", protocols=(("sticky", b""), ("range", b"")))
    ticket = bench.join("a", protocols=(("range", b""), ("sticky", b"")))
    assert bench.answers[ticket].protocol == "range"


def test_member_id_required_gives_an_id_to_join_with(bench):
    ticket = bench.join(new="a", required=True)
    assert bench.answers[ticket] == JoinResult(E.MEMBER_ID_REQUIRED, member_id="a")
    assert bench.group.state is GroupState.EMPTY
    assert bench.answers[bench.join("a", required=True)].generation == 1
    assert not bench.group.pending


def test_a_pending_member_expires(bench):
    bench.join(new="a", required=True)
    assert bench.group.deadline_s == bench.now_s + 10
    bench.after(10)
    assert bench.group.unused
    assert bench.answers[bench.join("a", required=True)].error is E.UNKNOWN_MEMBER_ID


def test_a_rebalance_waits_for_a_pending_member_until_it_expires(bench):
    bench.join(new="p", required=True, session_timeout_ms=3000)
    ticket = bench.join(new="a")
    assert ticket not in bench.answers
    bench.after(3)
    assert bench.answers[ticket].generation == 1


def test_a_pending_member_may_leave_and_the_rebalance_goes_on(bench):
    bench.join(new="p", required=True)
    ticket = bench.join(new="a")
    assert bench.leave(("p", None)) == (E.NONE,)
    assert bench.answers[ticket].generation == 1


def test_a_static_member_is_not_asked_for_a_member_id(bench):
    assert bench.answers[bench.join(new="a", instance="i", required=True)].error is E.NONE


def test_a_silent_member_loses_its_session_and_the_rest_rebalances(bench):
    bench.stable("a", "b")
    bench.now_s += 5
    assert bench.heartbeat("a") is E.NONE
    bench.after(5)
    assert list(bench.group.members) == ["a"]
    assert bench.heartbeat("a") is E.REBALANCE_IN_PROGRESS
    assert bench.heartbeat("b") is E.UNKNOWN_MEMBER_ID


def test_a_heartbeat_keeps_the_session(bench):
    bench.stable("a")
    for _ in range(5):
        bench.after(9)
        assert bench.heartbeat("a") is E.NONE


def test_the_last_member_to_expire_empties_the_group(bench):
    bench.stable("a")
    generation = bench.group.generation
    bench.after(10)
    assert bench.group.state is GroupState.EMPTY
    assert bench.group.unused
    assert bench.group.generation > generation
    assert bench.group.emptied_s == bench.now_s
    assert bench.answers[bench.join(new="b")].generation > generation + 1


def test_a_member_waiting_for_its_join_needs_no_heartbeat(bench):
    bench.stable("a", session_timeout_ms=30_000)
    ticket = bench.join(new="b", session_timeout_ms=1000)
    bench.after(20)
    assert ticket not in bench.answers
    bench.join("a", session_timeout_ms=30_000)
    assert bench.answers[ticket].error is E.NONE


def test_the_rebalance_goes_on_without_who_did_not_join_in_time(bench):
    bench.stable("a", "b", rebalance_timeout_ms=4000)
    ticket = bench.join("a", rebalance_timeout_ms=4000)
    assert bench.group.deadline_s == bench.now_s + 4
    bench.after(3.9)
    assert ticket not in bench.answers
    bench.after(0.1)
    assert bench.answers[ticket].generation == 3
    assert list(bench.group.members) == ["a"]


def test_a_leader_that_stays_away_loses_the_lead(bench):
    bench.stable("a", "b", rebalance_timeout_ms=4000)
    ticket = bench.join("b", protocols=(("range", b"new"),), rebalance_timeout_ms=4000)
    bench.after(4)
    assert bench.answers[ticket].leader == "b"


def test_the_leader_keeps_the_lead_wherever_it_joins_in_the_row(bench):
    bench.stable("a", "b", "c")
    bench.join("c", protocols=(("range", b"new"),))
    bench.join("b")
    ticket = bench.join("a")
    assert bench.answers[ticket].leader == "a"
    assert len(bench.answers[ticket].members) == 3


def test_who_never_syncs_is_removed(bench):
    bench.stable("a", rebalance_timeout_ms=20_000)
    bench.join(new="b", rebalance_timeout_ms=20_000)
    bench.join("a", rebalance_timeout_ms=20_000)
    bench.sync("a", [("a", b"1"), ("b", b"2")])
    for _ in range(2):
        bench.now_s += 9
        assert bench.heartbeat("a") is bench.heartbeat("b") is E.NONE
    bench.after(2)
    assert list(bench.group.members) == ["a"]
    assert bench.group.state is GroupState.PREPARING


def test_a_leader_that_never_assigns_is_removed(bench):
    bench.stable("a", "b", rebalance_timeout_ms=5000)
    bench.join("a", rebalance_timeout_ms=5000)
    bench.join("b", rebalance_timeout_ms=5000)
    waiting = bench.sync("b")
    bench.after(5)
    assert bench.answers[waiting].error is E.REBALANCE_IN_PROGRESS
    assert list(bench.group.members) == ["b"]


def test_a_follower_that_rejoins_unchanged_gets_the_present_generation(bench):
    bench.stable("a", "b")
    ticket = bench.join("b")
    assert bench.answers[ticket].generation == bench.group.generation
    assert bench.answers[ticket].members == []
    assert bench.group.state is GroupState.STABLE


def test_a_follower_that_rejoins_with_other_metadata_rebalances(bench):
    bench.stable("a", "b")
    bench.join("b", protocols=(("range", b"other"),))
    assert bench.group.state is GroupState.PREPARING


def test_a_leader_that_rejoins_rebalances(bench):
    bench.stable("a", "b")
    bench.join("a")
    assert bench.group.state is GroupState.PREPARING


def test_rejoin_unchanged_while_completing_repeats_the_answer(bench):
    first = bench.join(new="a")
    again = bench.join("a")
    assert bench.answers[again] == bench.answers[first]
    assert bench.group.state is GroupState.COMPLETING


def test_rejoin_changed_while_completing_starts_over(bench):
    bench.join(new="a")
    ticket = bench.join("a", protocols=(("range", b"other"),))
    assert bench.answers[ticket].generation == 2


def test_a_join_sent_twice_answers_both(bench):
    bench.stable("a", "b")
    first = bench.join("a")
    second = bench.join("a")
    assert bench.answers[first].error is E.REBALANCE_IN_PROGRESS
    assert second not in bench.answers
    bench.join("b")
    assert bench.answers[second].error is E.NONE


def test_a_sync_sent_twice_answers_both(bench):
    bench.stable("a", "b")
    bench.join("a")
    bench.join("b")
    first = bench.sync("b")
    second = bench.sync("b")
    assert bench.answers[first].error is E.REBALANCE_IN_PROGRESS
    bench.sync("a", [("b", b"2")])
    assert bench.answers[second].assignment == b"2"


def test_leaving_rebalances_the_rest_and_answers_what_the_leaver_waits_for(bench):
    bench.stable("a", "b", "c")
    waiting = bench.join("b", protocols=(("range", b"new"),))
    assert bench.leave(("b", None), ("ghost", None)) == (E.NONE, E.UNKNOWN_MEMBER_ID)
    assert bench.answers[waiting].error is E.UNKNOWN_MEMBER_ID
    bench.join("a")
    assert bench.answers[bench.join("c")].error is E.NONE


def test_all_leaving_at_once_empties_the_group(bench):
    bench.stable("a", "b")
    assert bench.leave(("a", None), ("b", None)) == (E.NONE, E.NONE)
    assert bench.group.state is GroupState.EMPTY
    assert bench.group.leader == bench.group.protocol == ""


def test_a_static_member_may_be_removed_by_its_instance_alone(bench):
    bench.stable("a", instance="i")
    assert bench.leave(("old", "i")) == (E.FENCED_INSTANCE_ID,)
    assert bench.leave(("", "j")) == (E.UNKNOWN_MEMBER_ID,)
    assert bench.leave(("", "i")) == (E.NONE,)


def static_pair(bench: Bench) -> None:
    """Two static members, `a` leading, in generation 2."""
    bench.join(new="a", instance="ia")
    bench.join(new="b", instance="ib")
    bench.join("a", instance="ia")
    bench.sync("b", instance="ib")
    bench.sync("a", [("a", b"1"), ("b", b"2")], instance="ia")
    assert bench.group.state is GroupState.STABLE


def test_a_static_follower_comes_back_without_a_rebalance_and_fences_its_past(bench):
    static_pair(bench)
    ticket = bench.join(new="b2", instance="ib")
    assert bench.answers[ticket] == JoinResult(E.NONE, 2, "consumer", "range", "a", "b2")
    assert bench.group.state is GroupState.STABLE
    assert bench.answers[bench.sync("b2", instance="ib")].assignment == b"2"
    assert bench.heartbeat("b", instance="ib") is E.FENCED_INSTANCE_ID
    assert bench.commit("b", instance="ib") is E.FENCED_INSTANCE_ID
    assert bench.answers[bench.sync("b", instance="ib")].error is E.FENCED_INSTANCE_ID
    assert bench.answers[bench.join("b", instance="ib")].error is E.FENCED_INSTANCE_ID
    assert bench.heartbeat("b2", instance="ib") is E.NONE


def test_a_static_leader_comes_back_and_skips_the_assignment_if_it_can(bench):
    static_pair(bench)
    answer = bench.answers[bench.join(new="a2", instance="ia", supports_skipping=True)]
    assert (answer.leader, answer.skip_assignment, len(answer.members)) == ("a2", True, 2)
    assert bench.group.leader == "a2"


def test_a_static_leader_that_cannot_skip_is_told_another_leads(bench):
    static_pair(bench)
    answer = bench.answers[bench.join(new="a2", instance="ia")]
    assert (answer.leader, answer.skip_assignment, answer.members) == ("a", False, [])
    assert bench.group.leader == "a2"
    bench.join("a2", instance="ia")
    assert bench.group.state is GroupState.PREPARING


def test_a_static_member_back_with_another_wish_rebalances(bench):
    static_pair(bench)
    bench.join(new="b2", instance="ib", protocols=(("range", b"other"),))
    assert bench.group.state is GroupState.PREPARING


def test_replacing_a_static_member_answers_what_the_old_process_waits_for(bench):
    static_pair(bench)
    old_join = bench.join("a", instance="ia")
    bench.join(new="a2", instance="ia")
    assert bench.answers[old_join].error is E.FENCED_INSTANCE_ID
    bench.join("b", instance="ib")
    old_sync = bench.sync("b", instance="ib")
    bench.join(new="b2", instance="ib")
    assert bench.answers[old_sync].error is E.FENCED_INSTANCE_ID
    assert bench.group.state is GroupState.PREPARING


def test_a_static_member_away_keeps_its_place_until_its_session_ends(bench):
    bench.join(new="a", instance="ia", rebalance_timeout_ms=2000)
    bench.sync("a", [("a", b"1")], instance="ia")
    ticket = bench.join(new="b", rebalance_timeout_ms=2000)
    bench.after(2)
    assert [member for member, _, _ in bench.answers[ticket].members] == ["a", "b"]
    assert bench.answers[ticket].leader == "b"
    bench.sync("b", [("a", b"1"), ("b", b"2")])
    assert bench.heartbeat("a", generation=1, instance="ia") is E.ILLEGAL_GENERATION
    bench.now_s += 7
    assert bench.heartbeat("b") is E.NONE
    bench.after(1)
    assert list(bench.group.members) == ["b"]


def test_with_only_absent_static_members_the_rebalance_waits_on(bench):
    static_pair(bench)
    bench.join(new="c", rebalance_timeout_ms=3000)
    bench.leave(("c", None))
    generation = bench.group.generation
    bench.now_s += 9.5
    assert bench.heartbeat("a", instance="ia") is bench.heartbeat("b", instance="ib") is E.REBALANCE_IN_PROGRESS
    bench.group = replace(bench.group, rebalance_deadline_s=bench.now_s)
    bench.after(0)
    assert bench.group.state is GroupState.PREPARING
    assert bench.group.generation == generation
    assert bench.group.deadline_s > bench.now_s


def test_the_initial_delay_gathers_members_into_the_first_generation():
    bench = Bench(GroupLimits(initial_rebalance_delay_ms=3000))
    first = bench.join(new="a")
    bench.after(2)
    second = bench.join(new="b")
    bench.after(2)
    assert first not in bench.answers, "each newcomer extends the wait"
    bench.after(1)
    assert bench.answers[first].generation == bench.answers[second].generation == 1


def test_the_initial_delay_never_outlasts_the_rebalance_timeout():
    bench = Bench(GroupLimits(initial_rebalance_delay_ms=3000))
    first = bench.join(new="a", rebalance_timeout_ms=4000)
    bench.after(2)
    bench.join(new="b", rebalance_timeout_ms=4000)
    bench.after(2)
    assert first in bench.answers


def test_the_initial_delay_is_for_the_first_generation_only():
    bench = Bench(GroupLimits(initial_rebalance_delay_ms=3000))
    bench.join(new="a")
    bench.after(3)
    bench.sync("a")
    bench.join(new="b")
    assert bench.answers[bench.join("a")].generation == 2


@pytest.mark.parametrize("generation", [-1, 0, 5])
def test_commits_to_an_empty_group(bench, generation):
    expected = E.NONE if generation < 0 else E.UNKNOWN_MEMBER_ID
    assert bench.commit("", generation) is expected


def test_commits_of_members_follow_the_table(bench):
    bench.join(new="a")
    assert bench.commit("a") is E.REBALANCE_IN_PROGRESS
    bench.sync("a", [("a", b"")])
    assert bench.commit("a") is E.NONE
    assert bench.commit("a", 0) is E.ILLEGAL_GENERATION
    assert bench.commit("", -1) is E.UNKNOWN_MEMBER_ID
    bench.join(new="b")
    assert bench.commit("a") is E.NONE, "what was read under the old generation"
    assert bench.commit("a", 2) is E.ILLEGAL_GENERATION


def test_a_commit_counts_as_a_heartbeat(bench):
    bench.stable("a")
    bench.now_s += 9
    bench.commit("a")
    bench.after(9)
    assert "a" in bench.group.members


def test_heartbeats_follow_the_table(bench):
    bench.join(new="a")
    assert bench.heartbeat("a") is E.NONE
    bench.sync("a")
    assert bench.heartbeat("a") is E.NONE
    assert bench.heartbeat("a", 9) is E.ILLEGAL_GENERATION
    bench.join(new="b")
    assert bench.heartbeat("a", 1) is E.REBALANCE_IN_PROGRESS
    assert set(HEARTBEAT_ANSWERS) == set(COMMIT_ANSWERS)


def test_an_abandoned_join_nobody_knows_of_leaves_no_ghost(bench):
    bench.stable("a")
    lost = bench.join(new="b")
    bench.step(Abandon(waiting=lost))
    assert list(bench.group.members) == ["a"]
    assert bench.answers[bench.join("a")].generation == 2
    assert lost not in bench.answers


def test_an_abandoned_join_of_a_known_member_keeps_its_place_for_a_session(bench):
    bench.stable("a", "b")
    lost = bench.join("b", protocols=(("range", b"new"),))
    bench.now_s += 3
    bench.step(Abandon(waiting=lost))
    waiting = bench.join("a")
    bench.after(9.9)
    assert waiting not in bench.answers
    bench.after(0.1)
    assert bench.answers[waiting].error is E.NONE
    assert lost not in bench.answers


def test_an_abandoned_sync_can_be_asked_again(bench):
    bench.stable("a", "b")
    bench.join("a")
    bench.join("b")
    lost = bench.sync("b")
    bench.step(Abandon(waiting=lost))
    bench.sync("a", [("b", b"2")])
    assert lost not in bench.answers
    assert bench.answers[bench.sync("b")].assignment == b"2"


def test_abandoning_what_was_answered_changes_nothing(bench):
    bench.stable("a")
    before = bench.group
    bench.step(Abandon(waiting=1))
    assert bench.group == before


def test_delete_needs_an_empty_group_and_is_final(bench):
    bench.stable("a")
    assert bench.now(Delete) is E.NON_EMPTY_GROUP
    bench.leave(("a", None))
    assert bench.now(Delete) is E.NONE
    assert bench.group.state is GroupState.DEAD
    dead = bench.group
    error = E.COORDINATOR_NOT_AVAILABLE
    assert bench.answers[bench.join("a")].error is bench.answers[bench.sync("a")].error is error
    assert bench.heartbeat("a") is bench.commit("a") is bench.now(Delete) is error
    assert bench.leave(("a", None), ("b", None)) == (error, error)
    bench.step(Tick())
    bench.step(Abandon(waiting=1))
    assert bench.group == dead


def test_a_step_never_changes_its_input(bench):
    bench.stable("a", "b")
    before = bench.group
    copy = replace(before, members=dict(before.members), pending=dict(before.pending))
    bench.join(new="c")
    bench.leave(("a", None))
    assert (before.state, dict(before.members)) == (copy.state, copy.members)
    with pytest.raises(TypeError):
        before.members["x"] = None


def test_moves_outside_the_table_are_our_bug():
    for state in GroupState:
        for cause in Cause:
            turn = Turn(Group("g", state), 0.0, GroupLimits())
            if (state, cause) in MOVES:
                turn.move(cause)
                assert turn.state is MOVES[state, cause]
            else:
                with pytest.raises(LocalProtocolError):
                    turn.move(cause)


def test_view_shows_the_chosen_protocols_metadata(bench):
    bench.stable("a")
    shown = classic.view(bench.group)
    assert (shown.state, shown.protocol, shown.leader) == ("Stable", "range", "a")
    (member,) = shown.members
    assert (member.client_id, member.host) == ("client", "/127.0.0.1")
    assert (member.metadata, member.assignment) == (b"r", b"part of a")
