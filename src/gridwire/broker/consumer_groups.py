"""Who is in which new consumer group: the shell around `gridwire.groups.consumer`, with one timer for all groups.

Not durable, as classic groups are not: positions are kept by the broker, and a member that the hub does not know after
a restart is told so by its next heartbeat and joins again.
"""

from __future__ import annotations

from collections.abc import Iterator

from gridwire.broker.deadlines import Deadlines
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
        self._due = Deadlines(clock, self._expire)

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
        self._due.forget(name)

    def tick(self) -> None:
        """Do what is due at the clock's time."""
        self._due.tick()

    def close(self) -> None:
        """Stop the timer."""
        self._due.close()

    def _expire(self, name: str) -> None:
        self._step(name, Expire(), None)

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
        only = after.members.get(command.member_id) if isinstance(command, Beat) and name in self._due else None
        deadline_s = (
            consumer.deadline_s(after, self.limits)
            if only is None
            else min(only.seen_s + self.limits.session_timeout_s, only.revoke_deadline_s)
        )
        self._due.file(name, deadline_s)
        return result
