"""What the worker of alert rules tells of them, out of the hub `grid.rule-states`."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from gridwire.broker.alert_rules import RuleState
from gridwire.broker.port import Broker
from gridwire.core.errors import UnknownHub
from gridwire.core.hubs import RULE_STATES
from gridwire.heads.http import reading


class RuleStates:
    """The newest state of each rule; each question reads what came since the last one."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._states: dict[str, RuleState] = {}
        self._id: Any = None
        self._at = 0
        self._lock = asyncio.Lock()

    async def all(self) -> dict[str, RuleState]:
        """States by rule; of a removed one until it has closed what it had open."""
        async with self._lock:
            try:
                info = self._broker.hub(RULE_STATES)
            except UnknownHub:
                return {}
            if info.id != self._id:  # made anew under the same name
                self._id, self._at, self._states = info.id, 0, {}
            await self._read_on()
            return dict(self._states)

    async def _read_on(self) -> None:
        bounds = await self._broker.bounds(RULE_STATES, 0)
        at = min(max(self._at, bounds.start), bounds.end)
        while at < bounds.end:
            stretch = await reading.read(self._broker, RULE_STATES, 0, at)
            before = at
            for block in stretch.blocks:
                for event in block.events:
                    self._take((event.key or b"").decode("utf-8", "replace"), event.value)
                at = block.next_offset
                await asyncio.sleep(0)
            if at <= before:
                break
        self._at = at

    def _take(self, key: str, value: bytes | None) -> None:
        """Subjects, and numbers of commits, are for the worker."""
        if "/" in key or key.startswith("#"):
            return
        if value is None:
            self._states.pop(key, None)
            return
        try:
            self._states[key] = msgspec.json.decode(value, type=RuleState)
        except msgspec.MsgspecError:
            return
