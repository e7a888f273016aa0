"""The worker of alert rules dies at every step: what it tells is what it would have told, each thing once."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from gridwire.alerts import moment, note_event, silence
from gridwire.broker.alert_rules import RuleRecord, SqlRule, ThresholdRule
from gridwire.core.batch import Event
from gridwire.core.clock import ManualClock
from gridwire.core.errors import FencedEpoch, Unavailable
from gridwire.grid.rules.engine import Kept
from gridwire.grid.rules.question import Answer, QuestionFailed
from gridwire.grid.rules.worker import RulesWorker
from worker_hub import Crash, Hub, Source

T0_MS = 1_767_225_600_000
OUT, STATES, GROUP = "grid.alerts", "grid.rule-states", "grid.rules"
CALM = 6
"""Polls in which nothing moves once what was kept is loaded: then everything has been done."""

LOW = ThresholdRule(name="low", hub="volts", field="v", op="<", value=210.0, subject="up", closes_at=215.0)
ROW = ThresholdRule(name="row", hub="volts", field="v", op=">", value=250.0, subject="up", for_count=2, quiet_s=60)


def record(rule: Any, revision: int = 1, **starts: Any) -> RuleRecord:
    return RuleRecord(rule, revision, hub_id=str(UUID(int=0)), **starts)


def new_hub() -> Hub:
    hub = Hub({"volts": 2, OUT: 2, STATES: 1, "grid.alert-notes": 1})
    hub.poll_events_max = 3
    return hub


def fill(hub: Hub, count: int = 40) -> None:
    for number in range(count):
        value = {"up": f"u{number % 5}", "v": (200, 220, 255, 255, 212, 230, 260)[number % 7]}
        hub.append("volts", json.dumps(value).encode(), partition=number % 5 % 2, timestamp=T0_MS + number * 10_000)


def no_lake(query: str) -> Answer:
    raise QuestionFailed("no lake")


class Runner:
    """One worker over a hub until it has nothing to do, or dies. Polls move the clock."""

    def __init__(self, hub: Hub, records: Sequence[RuleRecord], clock: ManualClock, ask: Any = no_lake) -> None:
        self.hub, self.clock, self.stop = hub, clock, threading.Event()
        self.steps = 0
        self.die_at = -1
        self.lose_at = -1
        self._calm, self._seen = 0, tuple[Any, ...]()
        self.worker = RulesWorker(self._open, records, ask, self.stop, clock, {})

    def _open(self, hubs: list[str], follow: list[str]) -> Source:
        return self.hub.open(GROUP, hubs, follow)

    def _step(self, name: str) -> None:
        self.steps += 1
        if self.steps == self.die_at:
            raise Crash
        if self.steps == self.lose_at:
            raise Unavailable("gone")
        if name == "poll":
            self.clock.advance(0.1)
            seen = tuple(len(log) for log in self.hub.log.values()), tuple(self.hub.committed.items())
            loaded = self.worker._engine is not None
            self._calm = self._calm + 1 if seen == self._seen and loaded else 0
            self._seen = seen
            asked = self.worker._asked
            if asked is not None:
                assert asked.done.wait(10)
            elif self._calm >= CALM:
                self.stop.set()

    def run(self) -> None:
        self.hub.step = self._step
        try:
            self.worker.run()
        finally:
            self.hub.step = lambda name: None


def told(hub: Hub) -> list[tuple[str, int, str, str | None]]:
    return sorted((each["id"], each["version"], each["state"], each.get("ended")) for each in hub.values(OUT))


def late_clock() -> ManualClock:
    return ManualClock(T0_MS + 3_600_000)


def undisturbed(records: Sequence[RuleRecord]) -> tuple[list[Any], int]:
    hub = new_hub()
    fill(hub)
    runner = Runner(hub, records, late_clock())
    runner.run()
    return told(hub), runner.steps


@pytest.mark.parametrize("pending_max", [5_000, 2])
@pytest.mark.parametrize("how", ["die", "lose"])
def test_whenever_it_dies_nothing_is_told_twice_or_left_out(
    how: str, pending_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwire.grid.rules.engine.PENDING_MAX", pending_max)
    records = [record(LOW), record(ROW)]
    expected, steps = undisturbed(records)
    assert len(expected) > 10 and {state for _, _, state, _ in expected} >= {"opened", "closed"}
    for step in range(1, steps + 1):
        hub = new_hub()
        fill(hub)
        runner = Runner(hub, records, late_clock())
        if how == "die":
            runner.die_at = step
        else:
            runner.lose_at = step
        try:
            runner.run()
        except Crash:
            Runner(hub, records, late_clock()).run()
        assert told(hub) == expected, step
    # The negative control: a hub that forgets what was kept tells other things.
    hub = new_hub()
    fill(hub)
    runner = Runner(hub, records, late_clock())
    runner.die_at = steps // 2
    with pytest.raises(Crash):
        runner.run()
    hub.log[STATES, 0].clear()
    hub.notes.clear()
    Runner(hub, [record(LOW, 2), record(ROW, 2)], late_clock()).run()
    assert told(hub) != expected


def test_what_is_open_survives_and_closes_by_the_next_worker() -> None:
    hub, records = new_hub(), [record(LOW)]
    hub.append("volts", b'{"up":"a","v":200}', timestamp=T0_MS)
    Runner(hub, records, late_clock()).run()
    hub.append("volts", b'{"up":"a","v":212}', timestamp=T0_MS + 1000)
    hub.append("volts", b'{"up":"a","v":215}', timestamp=T0_MS + 2000)
    Runner(hub, records, late_clock()).run()
    assert [row[1:3] for row in told(hub)] == [(0, "opened"), (1, "closed")]


def test_silence_is_noticed_when_everything_has_been_read() -> None:
    hub = new_hub()
    for second in (0, 1):
        hub.append("volts", b'{"up":"a","v":300}', timestamp=T0_MS + second * 1000)
    clock = ManualClock(T0_MS + 2000)
    Runner(hub, [record(ROW)], clock).run()
    assert [row[2] for row in told(hub)] == ["opened"]
    clock.advance(120)
    Runner(hub, [record(ROW)], clock).run()
    assert [row[2:] for row in told(hub)] == [("opened", None), ("closed", "2026-01-01T00:01:01Z")]


def test_a_new_rule_looks_from_where_the_hub_ended_when_it_was_made() -> None:
    hub = new_hub()
    hub.append("volts", b'{"up":"a","v":200}', timestamp=T0_MS)
    Runner(hub, [record(LOW)], late_clock()).run()
    hub.append("volts", b'{"up":"b","v":200}', timestamp=T0_MS + 1000)
    Runner(hub, [record(LOW)], late_clock()).run()  # reads beyond the new rule's start before it knows of it
    other = ThresholdRule(name="other", hub="volts", field="v", op="<", value=205.0, subject="up")
    Runner(hub, [record(LOW), record(other, starts={0: 1, 1: 0})], late_clock()).run()
    found = [(each["kind"], each["subject"]) for each in hub.values(OUT)]
    assert sorted(found) == [("rule.low", "a"), ("rule.low", "b"), ("rule.other", "b")]


def test_what_a_changed_or_removed_rule_had_open_is_closed() -> None:
    hub = new_hub()
    hub.append("volts", b'{"up":"a","v":200}', timestamp=T0_MS)
    Runner(hub, [record(LOW)], late_clock()).run()
    Runner(hub, [record(LOW, 2, starts={0: 1})], late_clock()).run()
    assert [row[2] for row in told(hub)] == ["opened", "closed"]
    hub.append("volts", b'{"up":"a","v":201}', timestamp=T0_MS + 1000)
    Runner(hub, [record(LOW, 2, starts={0: 1})], late_clock()).run()
    Runner(hub, [], late_clock()).run()
    assert [row[2] for row in told(hub)] == ["opened", "closed", "opened", "closed"]
    assert hub.values(OUT)[-1]["evidence"]["closed_because"] == "the rule was removed"
    kept = Kept()
    for event in hub.events(STATES):
        kept.take(event.key, event.value)
    assert not kept.states and not any(kept.held.values())


def test_rules_that_are_gone_are_closed_in_pieces_whenever_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwire.grid.rules.engine.PENDING_MAX", 2)
    limits = {
        name: ThresholdRule(name=name, hub="volts", field="v", op="<", value=210.0, subject="up") for name in "abc"
    }
    before = [record(rule) for rule in limits.values()]
    after = [record(limits["a"], 2, starts={0: 4}), record(limits["c"])]

    def opened() -> Hub:
        hub = new_hub()
        for number in range(4):
            hub.append("volts", json.dumps({"up": f"u{number}", "v": 1}).encode(), timestamp=T0_MS)
        Runner(hub, before, late_clock()).run()
        assert len(told(hub)) == 12
        hub.append("volts", b'{"up":"u0","v":220}', timestamp=T0_MS + 1000)
        hub.append("volts", b'{"up":"u9","v":1}', timestamp=T0_MS + 1000)
        return hub

    hub = opened()
    whole = Runner(hub, after, late_clock())
    whole.run()
    expected = [row[:3] for row in told(hub)]
    assert sum(state == "closed" for _, _, state in expected) == 9 and len(expected) == 12 + 9 + 2
    for step in range(1, whole.steps + 1):
        hub = opened()
        runner = Runner(hub, after, late_clock())
        runner.die_at = step
        try:
            runner.run()
        except Crash:
            Runner(hub, after, late_clock()).run()
        assert [row[:3] for row in told(hub)] == expected, step


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"low", b'{"revision":1,"severity":"fatal"}'), (b"gone", b'{"revision":1,"severity":7}'), (b"low", b"[]"),
     (b"low/a", b'{"started_us":99999999999999999999,"open":true}'), (b"gone/a", b'{"started_us":-5,"open":true}'),
     (b"low/a", b'{"open":true}'), (b"#commit", b'"x"'), (b"\xff/\xfe", b"{"), (None, None), (b"", b"{}")],
)  # fmt: skip
def test_nonsense_among_what_was_kept_is_passed_over(key: bytes | None, value: bytes | None) -> None:
    hub = new_hub()
    hub.log[STATES, 0].append(Event(value, key, (), 0, 0))
    hub.append("volts", b'{"up":"a","v":200}', timestamp=T0_MS)
    Runner(hub, [record(LOW)], late_clock()).run()
    assert [row[1:3] for row in told(hub)] == [(0, "opened")]


def test_questions_are_asked_when_they_are_due() -> None:
    hub, clock = new_hub(), late_clock()
    asked: list[int] = []
    answers = [Answer([{"name": "subject"}], [["T1"]]), None, Answer([{"name": "subject"}], [])]

    def ask(query: str) -> Answer:
        asked.append(clock.now_ms())
        answer = answers[min(len(asked), 3) - 1]
        if answer is None:
            raise QuestionFailed("no table")
        return answer

    records = [record(SqlRule(name="many", query="select", every_s=60))]
    for _ in range(3):
        Runner(hub, records, clock, ask).run()
        clock.advance(60)
    assert len(asked) == 3 and asked[1] - asked[0] >= 60_000
    assert sorted((each["kind"], each["state"], each["version"]) for each in hub.values(OUT)) == [
        ("rule.failed", "closed", 1), ("rule.failed", "opened", 0), ("rule.many", "closed", 1),
        ("rule.many", "opened", 0),
    ]  # fmt: skip


def test_findings_under_a_silence_are_marked() -> None:
    hub = new_hub()
    at = moment(T0_MS)
    note = silence("rule.low", "up/a", "mia", "works", at, moment(T0_MS + 3_600_000))
    hub.append("grid.alert-notes", note_event(note).value or b"")
    for subject in ("a", "b"):
        hub.append("volts", json.dumps({"up": subject, "v": 1}).encode(), timestamp=T0_MS)
    Runner(hub, [record(LOW)], late_clock()).run()
    marks = {dict(event.headers)["ce_subject"]: dict(event.headers).get("ce_silenced") for event in hub.events(OUT)}
    assert marks == {b"up/a": note.name.encode(), b"up/b": None}


def test_a_second_worker_fences_the_first() -> None:
    hub = new_hub()
    fill(hub)
    runner = Runner(hub, [record(LOW)], late_clock())
    step = runner._step

    def take_over(name: str) -> None:
        step(name)
        if name == "before commit":
            hub.epochs[GROUP] += 1

    runner._step = take_over  # type: ignore[method-assign]
    with pytest.raises(FencedEpoch):
        runner.run()
    assert not hub.values(OUT)
