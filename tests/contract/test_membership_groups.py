"""The asyncio shell around groups: waiting, cancelling, one timer, limits. On a clock of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gridwire.broker.membership import GroupError, GroupLimits, GroupState, JoinResult, Membership
from gridwire.core.clock import ManualClock, SystemClock

E = GroupError


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario; a hang is a failure, not a wait."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


async def settle() -> None:
    """Let every ready task run."""
    for _ in range(5):
        await asyncio.sleep(0)


def join(membership: Membership, member_id: str = "", group: str = "g", **changes) -> Awaitable[JoinResult]:
    wanted = {
        "group_instance_id": None,
        "client_id": "c",
        "host": "/127.0.0.1",
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 30_000,
        "protocol_type": "consumer",
        "protocols": [("range", b"meta")],
        "require_known_member": False,
    } | changes
    return membership.join(group, member_id, **wanted)


async def pair(membership: Membership) -> tuple[str, str]:
    """Two members in a stable generation 2; the first leads."""
    first = (await join(membership)).member_id
    second = asyncio.ensure_future(join(membership))
    await settle()
    assert (await join(membership, first)).generation == 2
    other = (await second).member_id
    waiting = asyncio.ensure_future(membership.sync("g", 2, other, None, "consumer", "range", []))
    await settle()
    assert not waiting.done()
    mine = await membership.sync("g", 2, first, None, "consumer", "range", [(first, b"1"), (other, b"2")])
    assert (mine.error, mine.assignment) == (E.NONE, b"1")
    assert (await waiting).assignment == b"2"
    return first, other


def test_two_members_share_a_generation(clock):
    async def scenario():
        membership = Membership(clock)
        first, second = await pair(membership)
        assert first != second
        assert first.startswith("c-")
        assert membership.heartbeat("g", 2, first, None) is E.NONE
        assert membership.check_commit("g", 2, second, None) is E.NONE
        assert membership.list() == [("g", "consumer", "Stable")]
        view = membership.describe("g")
        assert [(m.member_id, m.metadata, m.assignment) for m in view.members] == [
            (first, b"meta", b"1"),
            (second, b"meta", b"2"),
        ]
        await membership.close()

    run(scenario)


def test_member_id_required_then_join(clock):
    async def scenario():
        membership = Membership(clock)
        answer = await join(membership, require_known_member=True)
        assert answer.error is E.MEMBER_ID_REQUIRED
        assert (await join(membership, answer.member_id, require_known_member=True)).leader == answer.member_id
        await membership.close()

    run(scenario)


def test_a_session_ends_when_the_clock_says_so(clock):
    async def scenario():
        membership = Membership(clock)
        first, second = await pair(membership)
        clock.advance(6)
        assert membership.heartbeat("g", 2, first, None) is E.NONE
        clock.advance(6)
        membership.tick()
        assert membership.heartbeat("g", 2, first, None) is E.REBALANCE_IN_PROGRESS
        assert membership.heartbeat("g", 2, second, None) is E.UNKNOWN_MEMBER_ID
        await membership.close()

    run(scenario)


def test_the_timer_fires_by_itself_on_the_systems_clock():
    async def scenario():
        membership = Membership(SystemClock(), GroupLimits(session_timeout_ms_least=1))
        await join(membership, session_timeout_ms=30)
        while membership.describe("g").members:
            await asyncio.sleep(0.005)
        assert membership.list() == [("g", "consumer", GroupState.EMPTY)]
        await membership.close()

    run(scenario)


def test_there_is_one_timer_for_all_groups_and_none_after_close(clock):
    async def scenario():
        loop = asyncio.get_running_loop()
        handles = []
        call_later = loop.call_later
        loop.call_later = lambda *arguments: handles.append(call_later(*arguments)) or handles[-1]
        membership = Membership(clock)
        for number in range(50):
            await join(membership, group=f"g{number}", session_timeout_ms=60_000 - 1000 * number)
        for _ in range(100):
            membership.heartbeat("g0", 1, membership.describe("g0").members[0].member_id, None)
        assert len([handle for handle in handles if not handle.cancelled()]) == 1
        assert len(handles) <= 50, "heartbeats must not touch the timer"
        await membership.close()
        assert all(handle.cancelled() for handle in handles)

    run(scenario)


def test_heartbeats_keep_their_group_filed_once(clock):
    async def scenario():
        membership = Membership(clock)
        member = (await join(membership)).member_id
        await membership.sync("g", 1, member, None, None, None, [])
        for _ in range(1000):
            clock.advance(1)
            assert membership.heartbeat("g", 1, member, None) is E.NONE
            membership.tick()
        assert len(membership._due) <= 2
        await membership.close()

    run(scenario)


def test_a_cancelled_first_join_leaves_nobody_behind(clock):
    async def scenario():
        membership = Membership(clock)
        first = (await join(membership)).member_id
        gone = asyncio.ensure_future(join(membership))
        await settle()
        assert len(membership.describe("g").members) == 2
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert [member.member_id for member in membership.describe("g").members] == [first]
        assert not membership._waiting
        assert (await join(membership, first)).generation == 2, "the rest is not held up"
        await membership.close()

    run(scenario)


def test_a_cancelled_sync_leaves_no_ticket_and_can_be_repeated(clock):
    async def scenario():
        membership = Membership(clock)
        first, second = await pair(membership)
        again = asyncio.ensure_future(join(membership, first))
        await settle()
        assert (await join(membership, second)).generation == (await again).generation == 3
        gone = asyncio.ensure_future(membership.sync("g", 3, second, None, None, None, []))
        await settle()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert not membership._waiting
        await membership.sync("g", 3, first, None, None, None, [(second, b"x")])
        assert (await membership.sync("g", 3, second, None, None, None, [])).assignment == b"x"
        await membership.close()

    run(scenario)


def test_leaving_lets_the_others_go_on(clock):
    async def scenario():
        membership = Membership(clock)
        first, second = await pair(membership)
        waiting = asyncio.ensure_future(join(membership, first))
        await settle()
        assert membership.leave("g", [(second, None, "done"), ("ghost", None, None)]) == (
            E.NONE,
            [E.NONE, E.UNKNOWN_MEMBER_ID],
        )
        assert (await waiting).generation == 3
        await membership.close()

    run(scenario)


def test_a_static_member_is_replaced_and_fenced(clock):
    async def scenario():
        membership = Membership(clock)
        old = await join(membership, group_instance_id="i")
        await membership.sync("g", 1, old.member_id, "i", None, None, [(old.member_id, b"mine")])
        new = await join(membership, group_instance_id="i", supports_skipping=True)
        assert (new.generation, new.skip_assignment) == (1, True)
        assert (await membership.sync("g", 1, new.member_id, "i", None, None, [])).assignment == b"mine"
        assert membership.heartbeat("g", 1, old.member_id, "i") is E.FENCED_INSTANCE_ID
        await membership.close()

    run(scenario)


def test_unknown_groups_have_their_own_answers(clock):
    async def scenario():
        membership = Membership(clock)
        assert membership.heartbeat("g", 1, "m", None) is E.UNKNOWN_MEMBER_ID
        assert membership.leave("g", [("m", None, None)]) == (E.NONE, [E.UNKNOWN_MEMBER_ID])
        assert membership.check_commit("g", -1, "", None) is E.NONE
        assert membership.check_commit("g", 1, "m", None) is E.UNKNOWN_MEMBER_ID
        assert (await membership.sync("g", 1, "m", None, None, None, [])).error is E.UNKNOWN_MEMBER_ID
        assert (await join(membership, "m")).error is E.UNKNOWN_MEMBER_ID
        assert membership.delete("g") is E.GROUP_ID_NOT_FOUND
        assert membership.describe("g") is None
        assert membership.list() == []
        await membership.close()

    run(scenario)


@pytest.mark.parametrize("name", ["", "x" * 250])
def test_impossible_group_names(clock, name):
    async def scenario():
        membership = Membership(clock)
        assert (await join(membership, group=name)).error is E.INVALID_GROUP_ID
        assert membership.check_commit(name, -1, "", None) is E.INVALID_GROUP_ID
        assert (await join(membership, group="$Default")).error is E.NONE
        await membership.close()

    run(scenario)


def test_delete_forgets_an_empty_group_only(clock):
    async def scenario():
        membership = Membership(clock)
        member = (await join(membership)).member_id
        assert membership.delete("g") is E.NON_EMPTY_GROUP
        membership.leave("g", [(member, None, None)])
        assert membership.delete("g") is E.NONE
        assert membership.describe("g") is None
        assert (await join(membership)).generation == 1
        await membership.close()

    run(scenario)


def test_above_the_limit_the_longest_empty_group_is_forgotten(clock):
    async def scenario():
        membership = Membership(clock, GroupLimits(groups_max=3))
        for group in ("b", "a", "c"):
            member = (await join(membership, group=group)).member_id
            if group != "c":
                membership.leave(group, [(member, None, None)])
            clock.advance(1)
        assert (await join(membership, group="d")).error is E.NONE
        assert [group for group, _, _ in membership.list()] == ["a", "c", "d"]
        assert (await join(membership, group="e")).error is E.NONE
        assert (await join(membership, group="f")).error is E.COORDINATOR_NOT_AVAILABLE
        await membership.close()

    run(scenario)


def test_a_refused_first_join_leaves_no_group(clock):
    async def scenario():
        membership = Membership(clock)
        assert (await join(membership, session_timeout_ms=1)).error is E.INVALID_SESSION_TIMEOUT
        assert (await join(membership, protocols=[])).error is E.INCONSISTENT_GROUP_PROTOCOL
        assert membership.list() == []
        await membership.close()

    run(scenario)


def test_close_answers_everybody_who_waits(clock):
    async def scenario():
        membership = Membership(clock)
        first, second = await pair(membership)
        joining = asyncio.ensure_future(join(membership, first))
        await settle()
        assert not joining.done()
        await membership.close()
        assert (await joining).error is E.COORDINATOR_NOT_AVAILABLE
        assert (await join(membership)).error is E.COORDINATOR_NOT_AVAILABLE
        assert membership.heartbeat("g", 2, second, None) is E.COORDINATOR_NOT_AVAILABLE
        assert membership.leave("g", [(second, None, None)])[0] is E.COORDINATOR_NOT_AVAILABLE

    run(scenario)
