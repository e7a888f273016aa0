"""Alert rules over HTTP: what `gridwire alert rule` talks to.

Reading takes Listen on `grid.alerts`; making, changing and removing Manage on it, and Listen on what a rule reads: its
hub, or for a question the namespace, as asking the lake does.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import msgspec

from gridwire.broker.alert_rules import AlertRule, AlertRules, RuleRecord, RuleState, SqlRule, ThresholdRule, check
from gridwire.broker.port import Broker
from gridwire.core import batch
from gridwire.core.clock import Clock
from gridwire.core.errors import Unavailable, UnknownHub
from gridwire.core.limits import MIB
from gridwire.heads.http import reading
from gridwire.heads.http.files import through
from gridwire.heads.http.request import parse_json
from gridwire.heads.http.rule_states import RuleStates
from gridwire.wire.http.problems import HttpError

HOURS_DEFAULT: Final = 24.0
HOURS_MAX: Final = 24.0 * 366
EVENTS_DEFAULT: Final = 100_000
EVENTS_MAX: Final = 1_000_000
"""Events of one trial over all partitions, the newest of the time asked for: some seconds of work."""

ANSWER_BYTES_MAX: Final = 4 * MIB
TRIALS_MAX: Final = 2
"""Trials at a time: each is a process."""

TRIAL_S: Final = 90.0
_FRAME: Final = struct.Struct(">II")


class TryRule(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/alert-rules/try: a rule, and how far back it is to look at its hub."""

    rule: AlertRule
    hours: float = HOURS_DEFAULT
    events: int = EVENTS_DEFAULT


class Rules:
    """What the addresses do; results are plain values for JSON. `who`: whoever asked, empty where nobody signs in.

    Args:
        trial: command that tries a rule; empty where there is no worker to run it.
    """

    def __init__(
        self, rules: AlertRules, states: RuleStates, broker: Broker, clock: Clock, trial: tuple[str, ...]
    ) -> None:
        self._rules, self._states, self._broker, self._clock, self._trial = rules, states, broker, clock, trial
        self._trying = 0

    async def list(self) -> dict[str, Any]:
        """Every rule with how it is."""
        states = await self._states.all()
        return {"rules": [_shown(record, states) for record in self._rules.all().values()]}

    async def show(self, name: str) -> dict[str, Any]:
        """One of them. Raises UnknownRule."""
        record = self._rules.get(name)
        return _shown(record, await self._states.all())

    def known(self, name: str) -> AlertRule:
        """A rule as it was made. Raises UnknownRule."""
        return self._rules.get(name).rule

    async def put(self, rule: AlertRule, who: str, *, replace: bool) -> dict[str, Any]:
        """Make or change a rule. Raises InvalidName, InvalidSetting, RuleExists, UnknownHub, UnknownRule."""
        record = await self._rules.put(rule, who, replace=replace)
        return _shown(record, await self._states.all())

    async def remove(self, name: str) -> None:
        """Remove a rule. Raises UnknownRule."""
        await self._rules.remove(name)

    async def trial(self, wanted: TryRule) -> dict[str, Any]:
        """What a rule would find. Raises HttpError, InvalidName, InvalidSetting, UnknownHub, Unavailable."""
        check(wanted.rule)
        if not 0 < wanted.hours <= HOURS_MAX or not 1 <= wanted.events <= EVENTS_MAX:
            raise HttpError(400, f"hours is up to {HOURS_MAX:.0f}, events up to {EVENTS_MAX:,}")
        if not self._trial:
            raise HttpError(404, "rules cannot be tried here: ask a hub that runs workers")
        if self._trying >= TRIALS_MAX:
            raise Unavailable("others are trying rules: try again in a moment")
        self._trying += 1
        try:
            async with asyncio.timeout(TRIAL_S):
                told = await self._tried(wanted)
        except TimeoutError:
            raise HttpError(400, "the trial took too long: ask for fewer hours or events") from None
        finally:
            self._trying -= 1
        found: dict[str, Any] = msgspec.json.decode(told)
        return found

    async def _tried(self, wanted: TryRule) -> bytes:
        told = b""
        async with aclosing(through(self._trial, self._given(wanted))) as parts:
            async for part in parts:
                told += part
                if len(told) > ANSWER_BYTES_MAX:
                    raise HttpError(400, "the rule finds more than can be shown: narrow it with `where`")
        return told

    async def _given(self, wanted: TryRule) -> AsyncGenerator[bytes, None]:
        rule, now_ms = wanted.rule, self._clock.now_ms()
        yield msgspec.json.encode({"rule": rule, "now_ms": now_ms}) + b"\n"
        if isinstance(rule, SqlRule):
            return
        info = self._broker.hub(rule.hub)
        if info.internal:
            raise UnknownHub(f"no hub {rule.hub!r}")
        since_ms = now_ms - int(wanted.hours * 3_600_000)
        share = max(1, wanted.events // info.partitions)
        for partition in range(info.partitions):
            bounds = await self._broker.bounds(rule.hub, partition)
            first = await self._broker.offset_at(rule.hub, partition, since_ms)
            begin = bounds.end if first is None else first[0]
            async for part in self._events(rule.hub, partition, max(begin, bounds.end - share), bounds.end):
                yield part

    async def _events(self, hub: str, partition: int, at: int, end: int) -> AsyncGenerator[bytes, None]:
        while at < end:
            stretch = await reading.read(self._broker, hub, partition, at)
            before = at
            for block in stretch.blocks:
                at = block.next_offset
                if block.events:
                    data = batch.encode(block.events, base_offset=block.events[0].offset)
                    yield _FRAME.pack(len(data), partition) + data
            if at <= before:
                return


def parse_rule(body: bytes, name: str = "") -> AlertRule:
    """A rule as a body has it. Raises BadBody, HttpError 400: it has another name than the address."""
    rule: AlertRule = parse_json(body, AlertRule)  # type: ignore[arg-type]
    if name and rule.name != name:
        raise HttpError(400, f"the address says {name[:60]!r} and the rule {rule.name[:60]!r}")
    return rule


def hub_of(rule: AlertRule) -> str | None:
    """The hub a rule reads; None for the lake."""
    return rule.hub if isinstance(rule, ThresholdRule) else None


def _shown(record: RuleRecord, states: Mapping[str, RuleState]) -> dict[str, Any]:
    """A rule with how it is; nothing is known of a revision that its worker has not taken up yet."""
    state = states.get(record.rule.name)
    status: dict[str, Any] = {"state": "starting", "open": 0, "events": 0, "skipped": 0, "refused": 0, "last_ms": 0,
                              "took_ms": 0, "error": ""}  # fmt: skip
    if state is not None and state.revision == record.revision:
        status |= {name: getattr(state, name) for name in status if name != "state"}
        status["state"] = "failing" if state.error else "full" if state.full is not None else "running"
    rule: dict[str, Any] = msgspec.to_builtins(record.rule)
    made = {"revision": record.revision, "changed_ms": record.changed_ms, "changed_by": record.changed_by}
    return {**rule, **made, "status": status}
