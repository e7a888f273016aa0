"""Alert rules: what opens and closes a finding, what is kept, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from gridwire.broker import alert_rules
from gridwire.broker.alert_rules import OPEN_MAX, AlertRule, Held, RuleState, SqlRule, ThresholdRule, check
from gridwire.columnar.columns import EventColumns
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.core.errors import GridwireError
from gridwire.grid.rules.question import Answer, Question
from gridwire.grid.rules.subjects import CLOSED_MAX, Subjects
from gridwire.grid.rules.threshold import Threshold

T0_MS = 1_767_225_600_000
NOW_MS = T0_MS + 10_000_000


def columns(events: Sequence[Event]) -> EventColumns:
    data = bytes(batch.encode(list(events)))
    (found,) = decode(data, 0, len(data), from_offset=0).columns
    return found


def at(second: float, **value: Any) -> Event:
    return Event(json.dumps(value).encode(), b"k", (("h", b"x"),), T0_MS + round(second * 1000))


def threshold(**more: Any) -> Threshold:
    rule = ThresholdRule(**{"name": "low", "hub": "readings", "field": "v", "op": "<", "value": 210.0, "subject": "up",
                            **more})  # fmt: skip
    check(rule)
    return Threshold(rule, Subjects.fresh(rule, 1))


def question(**more: Any) -> Question:
    rule = SqlRule(name="many", query="select 1", every_s=60, **more)
    check(rule)
    return Question(rule, Subjects.fresh(rule, 1))


def told(part: Threshold | Question) -> list[tuple[str, str, int]]:
    """Subject, state and version of what is new."""
    found = (each.finding for each in part.subjects.take_told())
    return [(f"{each.subject_kind}/{each.subject}", each.state.value, each.version) for each in found]


def take(rule: Threshold, *events: Event, partition: int = 0) -> list[tuple[str, str, int]]:
    rule.take(partition, columns(events), NOW_MS)
    return told(rule)


def test_a_value_beyond_the_limit_opens_and_one_within_closes() -> None:
    rule = threshold(text="look at the fuse", severity="critical")
    rule.take(0, columns([at(0, up="a", v=215), at(1, up="a", v=209.5), at(2, up="a", v=200)]), NOW_MS)
    (first,) = rule.subjects.take_told()
    finding = json.loads(first.finding.to_event(1).value or b"")
    assert finding == {
        "id": "rule.low/up/a/2026-01-01T00:00:01Z", "state": "opened", "kind": "rule.low", "subject_kind": "up",
        "subject": "a", "started": "2026-01-01T00:00:01Z", "severity": "critical", "confidence": 1.0,
        "evidence": {"hub": "readings", "field": "v", "value": 209.5, "op": "<", "limit": 210.0, "worst": 209.5,
                     "text": "look at the fuse"},
        "detector": "rules", "version": 0,
    }  # fmt: skip
    assert rule.subjects.state.open == 1
    rule.take(0, columns([at(3, up="b", v=215), at(4, up="a", v=210)]), NOW_MS)
    (closed,) = rule.subjects.take_told()
    assert closed.finding.id == finding["id"] and closed.finding.version == 1
    assert closed.finding.ended_us == (T0_MS + 4000) * 1000
    assert closed.finding.evidence["worst"] == 200 and closed.finding.evidence["closed_by"] == 210
    assert rule.subjects.state.open == 0 and not rule.subjects.active


def test_hysteresis() -> None:
    rule = threshold(op=">", value=100.0, closes_at=90.0)
    assert take(rule, at(0, up="a", v=101), at(1, up="a", v=95)) == [("up/a", "opened", 0)]
    assert take(rule, at(2, up="a", v=90.5), at(3, up="a", v=90)) == [("up/a", "closed", 1)]
    assert take(rule, at(4, up="a", v=95)) == []


def test_so_many_in_a_row() -> None:
    rule = threshold(for_count=3)
    bad, good = {"up": "a", "v": 200}, {"up": "a", "v": 220}
    assert take(rule, at(0, **bad), at(1, **bad), at(2, **good), at(3, **bad), at(4, **bad)) == []
    assert take(rule, at(5, up="b", v=200), at(6, **bad)) == [("up/a", "opened", 0)]
    held = rule.subjects.held["a"]
    assert held.started_us == (T0_MS + 3000) * 1000 and held.evidence["in_a_row"] == 3


def test_who_is_quiet_is_closed_at_that_time_however_late_it_is_noticed() -> None:
    for noticed in ("time", "event"):
        rule = threshold(quiet_s=60)
        assert take(rule, at(0, up="a", v=200), at(30, up="a", v=200)) == [("up/a", "opened", 0)]
        rule.pass_time((T0_MS + 89_999) * 1000)
        assert told(rule) == []
        if noticed == "time":
            rule.pass_time((T0_MS + 500_000) * 1000)
        else:
            rule.take(0, columns([at(500, up="a", v=200)]), NOW_MS)
        closed = next(rule.subjects.take_told()).finding
        assert closed.ended_us == (T0_MS + 90_000) * 1000 and closed.evidence["quiet_s"] == 60


def test_a_row_is_broken_by_silence() -> None:
    rule = threshold(quiet_s=60, for_count=2)
    assert take(rule, at(0, up="a", v=200), at(60, up="a", v=200)) == []
    assert take(rule, at(61, up="a", v=200)) == [("up/a", "opened", 0)]


def test_a_filter_and_fields_as_in_filters() -> None:
    rule = threshold(where="type = voltage and header.h = x", field="value.m.0.v", subject="key", subject_kind="meter")
    assert take(rule, at(0, type="energy", m=[{"v": 1}]), at(1, type="voltage", m=[{"v": 1}])) == [
        ("meter/k", "opened", 0)
    ]
    assert rule.subjects.state.skipped == 0


def test_a_text_and_the_whole_hub() -> None:
    rule = threshold(field="state", op="!=", value="ok", subject="")
    assert take(rule, at(0, state="ok"), at(1, state="broken"), at(2, state=5)) == [("rule/low", "opened", 0)]
    assert take(rule, at(3), at(4, state="ok")) == [("rule/low", "closed", 1)]
    assert rule.subjects.state.skipped == 1


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[1]", b'"x"', b"null", b'{"up":"a"}', b'{"v":200}', b'{"up":"","v":200}',
              b'{"up":{},"v":200}', b'{"up":"a","v":"x"}', b'{"up":"a","v":true}', b'{"up":"a","v":null}',
              b'{"up":"a","v":[200]}', b'{"up":"' + b"a" * 201 + b'","v":200}', b"\xff\xfe"],
)  # fmt: skip
def test_what_has_no_number_or_no_subject_is_skipped_and_counted(value: bytes) -> None:
    rule = threshold()
    event = Event(value, b"k", (), T0_MS)
    assert take(rule, event, at(1, up="c", v=1)) == [("up/c", "opened", 0)]
    assert rule.subjects.state.skipped == 1 and rule.subjects.state.events == 2


def test_numbers_in_texts_and_subjects_that_are_numbers_count() -> None:
    rule = threshold()
    assert take(rule, at(0, up=17, v="200.5")) == [("up/17", "opened", 0)]
    assert take(rule, at(1, up=17, v="2.2e2")) == [("up/17", "closed", 1)]


def test_events_of_one_millisecond_make_one_finding_of_rising_versions() -> None:
    rule = threshold()
    bad, good = at(0, up="a", v=200), at(0, up="a", v=220)
    assert take(rule, bad, good, bad, good) == [
        ("up/a", "opened", 0), ("up/a", "closed", 1), ("up/a", "changed", 2), ("up/a", "closed", 3)
    ]  # fmt: skip
    rule = threshold(for_count=2)
    assert [row[1:] for row in take(rule, bad, bad, good, bad, good, bad, bad)] == [
        ("opened", 0), ("closed", 1), ("changed", 2)
    ]  # fmt: skip


def test_no_event_is_later_than_now_and_none_needs_a_time() -> None:
    rule = threshold()
    take(rule, Event(b'{"up":"a","v":1}', None, (), NOW_MS + 10**9), Event(b'{"up":"b","v":1}', None, (), 0))
    assert rule.subjects.held["a"].started_us == NOW_MS * 1000
    assert rule.subjects.held["b"].started_us == 0


def test_more_subjects_than_may_be_are_refused_and_that_is_a_finding() -> None:
    rule = threshold()
    events = [at(0, up=f"u{number}", v=1) for number in range(OPEN_MAX + 3)]
    found = take(rule, *events)
    assert len(found) == OPEN_MAX + 1 and found[-1] == ("rule/low", "opened", 0)
    assert rule.subjects.state.refused == 3 and len(rule.subjects.held) == OPEN_MAX
    assert take(rule, at(1, up="later", v=1)) == []
    rule.subjects.make_room(1)
    assert told(rule) == []
    closed = take(rule, *(at(2, up=f"u{number}", v=220) for number in range(OPEN_MAX)))
    assert len(closed) == OPEN_MAX
    rule.subjects.make_room((T0_MS + 9000) * 1000)
    assert told(rule) == [("rule/low", "closed", 1)]
    assert len(rule.subjects.held) <= CLOSED_MAX


def test_subjects_on_their_way_have_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwire.grid.rules.subjects.ROW_MAX", 5)
    rule = threshold(for_count=2)
    take(rule, *(at(0, up=f"u{number}", v=1) for number in range(9)))
    assert len(rule.subjects.active) == 5 and rule.subjects.state.refused == 4


# -- questions


def answer(names: Sequence[str], *rows: Sequence[Any], truncated: bool = False) -> Answer:
    return Answer([{"name": name, "type": "x"} for name in names], [list(row) for row in rows], truncated, 12.4)


def test_rows_are_subjects_that_come_change_and_go() -> None:
    rule = question(subject_kind="transformer")
    rule.take(answer(["subject", "kw"], ["T1", 5.0], ["T2", 6], ["T1", 7], [None, 1]), T0_MS)
    assert told(rule) == [("transformer/T1", "opened", 0), ("transformer/T2", "opened", 0)]
    assert rule.subjects.state.skipped == 1 and rule.subjects.state.took_ms == 12
    rule.take(answer(["subject", "kw"], ["T1", 5.0], ["T2", 7]), T0_MS + 60_000)
    assert told(rule) == [("transformer/T2", "changed", 1)]
    rule.take(answer(["subject", "kw"], ["T1", 5.0]), T0_MS + 120_000)
    (closed,) = rule.subjects.take_told()
    assert closed.finding.version == 2 and closed.finding.evidence == {"kw": 7}
    assert closed.finding.ended_us == (T0_MS + 120_000) * 1000


def test_without_a_subject_the_rule_is_it() -> None:
    rule = question(text="call the lake")
    rule.take(answer(["n"], [3], [4]), T0_MS)
    (opened,) = rule.subjects.take_told()
    assert (opened.finding.subject_kind, opened.finding.subject) == ("rule", "many")
    assert opened.finding.evidence == {"n": 3, "text": "call the lake", "rows": 2}
    rule.take(answer(["n"]), T0_MS + 1)
    assert told(rule) == [("rule/many", "closed", 1)]


def test_a_question_that_fails_is_a_finding_and_closes_nothing() -> None:
    rule = question()
    rule.take(answer(["subject"], ["T1"]), T0_MS)
    told(rule)
    rule.failed("no table", T0_MS + 1)
    rule.failed("no table", T0_MS + 2)
    (opened,) = rule.subjects.take_told()
    assert (opened.finding.kind, opened.finding.subject_kind, opened.finding.subject) == ("rule.failed", "rule", "many")
    assert opened.finding.evidence == {"error": "no table"} and rule.subjects.state.error == "no table"
    rule.failed("too slow", T0_MS + 3)
    assert told(rule) == [("rule/many", "changed", 1)]
    rule.take(answer(["subject"], ["T1"]), T0_MS + 4)
    assert told(rule) == [("rule/many", "closed", 2)] and rule.subjects.state.error == ""


def test_an_answer_that_was_cut_closes_nothing() -> None:
    rule = question()
    rule.take(answer(["subject"], ["T1"]), T0_MS)
    told(rule)
    rule.take(answer(["subject"], ["T2"], truncated=True), T0_MS + 1)
    assert told(rule) == [("subject/T2", "opened", 0), ("rule/many", "opened", 0)]


def test_when_a_question_is_due() -> None:
    rule = question()
    assert rule.due(T0_MS)
    rule.failed("x", T0_MS)
    assert not rule.due(T0_MS + 59_999)
    assert rule.due(T0_MS + 60_000)
    assert rule.due(T0_MS - 1)  # a clock that was set back


def test_evidence_is_short_and_plain() -> None:
    rule = question()
    names = ["subject", *(f"c{number}" for number in range(30))]
    rule.take(answer(names, [5, "x" * 1000, {"a": 1}, [1], None, True, *range(25)]), T0_MS)
    (opened,) = rule.subjects.take_told()
    evidence = opened.finding.evidence
    assert opened.finding.subject == "5" and len(evidence) == 20
    assert evidence["c0"] == "x" * 200 and evidence["c1"] == "{'a': 1}" and evidence["c4"] is True


# -- what is kept


def test_what_is_kept_is_all_there_is_to_know() -> None:
    rule = threshold(for_count=2, quiet_s=600)
    events = [at(second, up=f"u{second % 7}", v=200 if second % 5 else 220) for second in range(100)]
    split = threshold(for_count=2, quiet_s=600)
    expected = [row for event in events for row in take(rule, event)]
    found = []
    kept: dict[str, bytes] = {}
    for event in events:
        found += take(split, event)
        for subject, held in split.subjects.take_changed():
            kept.pop(subject, None)
            if held is not None:
                kept[subject] = msgspec.json.encode(held)
        state = msgspec.json.decode(msgspec.json.encode(split.subjects.state), type=RuleState)
        again = {subject: msgspec.json.decode(value, type=Held) for subject, value in kept.items()}
        split = Threshold(split.rule, Subjects("low", state, again))
    assert found == expected and any(state == "closed" for _, state, _ in found)
    assert {s: msgspec.json.encode(h) for s, h in split.subjects.held.items()} == {
        s: msgspec.json.encode(h) for s, h in rule.subjects.held.items()
    }


def test_a_rule_that_is_no_more_closes_everything_and_keeps_nothing() -> None:
    rule = threshold(for_count=2)
    take(rule, at(0, up="a", v=1), at(1, up="a", v=1), at(2, up="b", v=1))
    rule.subjects.fail("x", 1)
    told(rule)
    rule.subjects.retire(NOW_MS * 1000, "removed")
    found = list(rule.subjects.take_told())
    assert [each.finding.state.value for each in found] == ["closed", "closed"]
    assert found[0].finding.evidence["closed_because"] == "removed"
    assert not rule.subjects.held and {subject for subject, _ in rule.subjects.take_changed()} == {"a", "b"}


# -- rules that make no sense


def hostile() -> Iterator[AlertRule]:
    good = {"name": "r", "hub": "readings", "field": "v", "op": ">", "value": 1.0}
    for more in (
        {"name": ""}, {"name": "a" * 49}, {"name": "A"}, {"name": "a/b"}, {"name": "a.b"}, {"name": "failed"},
        {"name": "full"}, {"name": "try"}, {"name": "a\n"}, {"text": "x" * 1001}, {"field": ""}, {"field": "a b"},
        {"field": "f" * 201}, {"subject": "s" * 201}, {"subject": "a\tb"}, {"subject_kind": "a/b"},
        {"subject_kind": "x" * 41}, {"where": "nonsense"}, {"where": "a = 1 and " * 200}, {"for_count": 0},
        {"for_count": 1001}, {"quiet_s": 0}, {"quiet_s": 10**9}, {"closes_at": 2.0}, {"op": "<", "closes_at": 0.0},
        {"op": "=", "closes_at": 1.0}, {"value": "text"}, {"op": "=", "value": "x" * 201},
        {"op": "=", "value": "x", "closes_at": 1.0}, {"value": float("nan")}, {"value": float("inf")},
        {"hub": "grid.alerts"}, {"hub": "grid.rule-states"}, {"hub": "grid.alert-notes"},
    ):  # fmt: skip
        yield ThresholdRule(**{**good, **more})
    for more in ({"query": " "}, {"query": "x" * 10_001}, {"every_s": 9}, {"every_s": 86_401}, {"subject_kind": "A"}):
        yield SqlRule(**{"name": "r", "query": "select 1", **more})


@pytest.mark.parametrize("rule", list(hostile()), ids=lambda rule: str(rule)[:80])
def test_rules_that_make_no_sense_are_refused(rule: AlertRule) -> None:
    with pytest.raises(GridwireError):
        check(rule)


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"type":"other","name":"a"}', b'{"type":"sql","name":"a"}',
             b'{"type":"sql","name":"a","query":"q","extra":1}',
             b'{"type":"threshold","name":"a","hub":"h","field":"f","op":"~","value":1}',
             b'{"type":"threshold","name":"a","hub":"h","field":"f","op":">","value":null}'],
)  # fmt: skip
def test_bodies_that_are_no_rules(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(body, type=alert_rules.AlertRule)
