"""The shell around new consumer groups, and how both kinds of groups share their names. On a clock of our own."""

from __future__ import annotations

import asyncio
from typing import Any

from gridwire.broker.membership import GroupError, Membership
from gridwire.core.clock import ManualClock, SystemClock
from gridwire.groups.consumer_model import NOTHING, Beat, BeatResult, ConsumerLimits, Topology
from gridwire.groups.consumer_protocol import assigned_partitions

E = GroupError
TOPOLOGY = Topology({"a": 2})


def beat(membership: Membership, member_id: str, epoch: int = 0, group: str = "g", **more: Any) -> BeatResult:
    joins: dict[str, Any] = {"names": frozenset("a"), "rebalance_timeout_ms": 1000, "owned": NOTHING}
    return membership.beat(
        group, Beat(member_id=member_id, epoch=epoch, **((joins if epoch == 0 else {}) | more)), TOPOLOGY
    )


async def classic(membership: Membership) -> GroupError:
    """Join as a classic member; it is the only one, so it is answered at once."""
    result = await membership.join(
        "g", "", None, "c", "/", 10_000, 30_000, "consumer", [("range", b"")], require_known_member=False
    )
    return result.error


def test_the_timer_removes_who_is_silent() -> None:
    async def main() -> None:
        membership = Membership(SystemClock(), consumer_limits=ConsumerLimits(session_timeout_s=0.05))
        assert beat(membership, "m").epoch == 1
        async with asyncio.timeout(10):
            while membership.consumers.get("g").members:  # type: ignore[union-attr]
                await asyncio.sleep(0.005)
        assert beat(membership, "m", 1).error is E.UNKNOWN_MEMBER_ID
        await membership.close()
        assert beat(membership, "m").error is E.COORDINATOR_NOT_AVAILABLE

    asyncio.run(main())


def test_heartbeats_keep_a_member_and_a_revocation_has_its_own_deadline() -> None:
    async def main() -> None:
        clock = ManualClock()
        membership = Membership(clock)
        beat(membership, "one")
        for _ in range(10):
            clock.advance(40)
            membership.tick()
            membership.consumers.tick()
            assert beat(membership, "one", 1).error is E.NONE
        beat(membership, "two")
        beat(membership, "one", 1)
        clock.advance(1.0)
        membership.consumers.tick()
        assert beat(membership, "one", 1).error is E.UNKNOWN_MEMBER_ID
        assert beat(membership, "two", 2).error is E.NONE
        await membership.close()

    asyncio.run(main())


def test_a_name_belongs_to_one_kind_of_group_while_somebody_is_in() -> None:
    async def main() -> None:
        membership = Membership(ManualClock())
        beat(membership, "new")
        assert await classic(membership) is E.INCONSISTENT_GROUP_PROTOCOL
        beat(membership, "new", -1)
        assert await classic(membership) is E.NONE
        assert beat(membership, "new").error is E.GROUP_ID_NOT_FOUND
        view = membership.describe("g")
        assert view is not None
        membership.leave("g", [(view.members[0].member_id, None, None)])
        assert beat(membership, "new").error is E.NONE
        await membership.close()

    asyncio.run(main())


def test_views_commits_leaving_and_deleting() -> None:
    async def main() -> None:
        membership = Membership(ManualClock())
        assert beat(membership, "m", group="").error is E.INVALID_GROUP_ID
        assert beat(membership, "m", 3).error is E.UNKNOWN_MEMBER_ID
        beat(membership, "m")
        view = membership.describe("g")
        assert view is not None
        assert assigned_partitions(view.members[0].assignment) == {"a": [0, 1]}
        assert membership.list() == [("g", "consumer", "Stable")]
        assert membership.check_commit("g", 1, "m", None) is E.NONE
        assert membership.check_commit("g", 0, "m", None) is E.STALE_MEMBER_EPOCH
        assert membership.check_commit("g", -1, "", None) is E.UNKNOWN_MEMBER_ID
        assert membership.check_position("g", None, -1) is E.NONE
        assert membership.check_position("g", "m", 2) is E.STALE_MEMBER_EPOCH
        assert membership.delete("g") is E.NON_EMPTY_GROUP
        assert membership.leave("g", [("m", None, None), ("x", None, None)]) == (E.NONE, [E.NONE, E.UNKNOWN_MEMBER_ID])
        assert membership.check_commit("g", -1, "", None) is E.NONE
        assert membership.delete("g") is E.NONE
        assert membership.describe("g") is None
        await membership.close()

    asyncio.run(main())


def test_groups_are_limited_and_the_longest_empty_one_goes() -> None:
    async def main() -> None:
        clock = ManualClock()
        membership = Membership(clock, consumer_limits=ConsumerLimits(groups_max=2))
        for name in ("old", "young"):
            beat(membership, "m", group=name)
        assert beat(membership, "m", group="third").error is E.COORDINATOR_NOT_AVAILABLE
        for name in ("old", "young"):
            clock.advance(1)
            beat(membership, "m", -1, group=name)
        assert beat(membership, "m", group="third").error is E.NONE
        assert [name for name, _, _ in membership.list()] == ["third", "young"]
        await membership.close()

    asyncio.run(main())
