"""Who is in which new consumer group: the shell around `gridwire.groups.consumer`, with one timer for all groups.

Not durable, as classic groups are not: positions are kept by the broker, and a member that the hub does not know after
a restart is told so by its next heartbeat and joins again.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Iterator

from gridwire.core.clock import Clock
from gridwire.groups import consumer
from gridwire.groups.consumer_model import (
    Beat,
    BeatResult,
    ConsumerCommand,
    ConsumerGroup,
    ConsumerLimits,
    Expire,
    Remove,
    Topology,
)
from gridwire.groups.model import GroupError


class ConsumerGroups:
    """All new consumer groups of this hub. Every answer is a value with a `GroupError`."""

    def __init__(self, clock: Clock, limits: ConsumerLimits | None = None) -> None:
        self.limits = limits or ConsumerLimits()
        self._clock = clock
        self._groups: dict[str, ConsumerGroup] = {}
        self._due: list[tuple[float, str]] = []
        self._filed: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def __iter__(self) -> Iterator[ConsumerGroup]:
        return iter(list(self._groups.values()))

    def get(self, name: str) -> ConsumerGroup | None:
        """The group of that name, if members ever came since the start of this hub."""
        return self._groups.get(name)

    def beat(self, name: str, beat: Beat, topology: Topology) -> BeatResult:
        """Answer a heartbeat; one that joins makes the group if it must."""
        if name not in self._groups:
            if beat.epoch != 0:
                return BeatResult(GroupError.UNKNOWN_MEMBER_ID, "not a member of this group: join with epoch 0")
            if len(self._groups) >= self.limits.groups_max and not self._drop_longest_empty():
                return BeatResult(GroupError.COORDINATOR_NOT_AVAILABLE, "too many groups")
        result = self._step(name, beat, topology)
        assert isinstance(result, BeatResult)
        return result

    def remove(self, name: str, leavers: tuple[tuple[str, str | None], ...]) -> tuple[GroupError, ...]:
        """Take members out of a group there is."""
        result = self._step(name, Remove(leavers), None)
        assert isinstance(result, tuple)
        return result

    def forget(self, name: str) -> None:
        """Forget a group without members."""
        self._groups.pop(name, None)
        self._filed.pop(name, None)

    def tick(self) -> None:
        """Do what is due at the clock's time."""
        now_s = self._clock.monotonic()
        while self._due and self._due[0][0] <= now_s:
            deadline_s, name = heapq.heappop(self._due)
            if self._filed.get(name) == deadline_s:
                del self._filed[name]
                self._step(name, Expire(), None)
        self._arm()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop_longest_empty(self) -> bool:
        unused = [group for group in self._groups.values() if not group.members]
        if not unused:
            return False
        self.forget(min(unused, key=lambda group: group.emptied_s).name)
        return True

    def _step(self, name: str, command: ConsumerCommand, topology: Topology | None) -> consumer.Result:
        before = self._groups.get(name)
        now_s = self._clock.monotonic()
        after, result = consumer.step(before or ConsumerGroup(name), command, topology, now_s, self.limits)
        if before is None and not after.members:
            return result
        self._groups[name] = after
        # The others are filed already. Who is heard has its own moved back, but one to let go may be near.
        only = after.members.get(command.member_id) if isinstance(command, Beat) and name in self._filed else None
        deadline_s = (
            consumer.deadline_s(after, self.limits)
            if only is None
            else min(only.seen_s + self.limits.session_timeout_s, only.revoke_deadline_s)
        )
        if deadline_s < self._filed.get(name, math.inf):
            self._filed[name] = deadline_s
            heapq.heappush(self._due, (deadline_s, name))
            self._arm()
        return result

    def _arm(self) -> None:
        if not self._due or (self._timer is not None and self._due[0][0] >= self._timer_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = self._due[0][0]
        delay_s = max(0.0, self._timer_s - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.tick()
