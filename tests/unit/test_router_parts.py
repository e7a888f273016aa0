"""Routes of alerts, the parts without I/O: filters, what becomes of an answer, who waits for whom, how it is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from gridwire.alerts import Alert, alert_of
from gridwire.broker.alert_routes import (
    NAME_CHARS_MAX,
    RouteNote,
    RouteRecord,
    check_header,
    check_route,
    newest_note,
    parse_note,
)
from gridwire.broker.port import Position
from gridwire.core.batch import Event
from gridwire.core.errors import InvalidName, InvalidSetting
from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.router.backlog import BEYOND_MAX, WAITING_BYTES_MAX, Backlog, Item
from gridwire.router.message import request_of, sample, text_of
from gridwire.router.verdict import JITTER, ROUTE_WAIT_S_MAX, WAITS_S, Verdict, judge, route_wait_s, wait_s
from gridwire.wire.http.cloudevents import from_headers, from_structured

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
PLACE = ("grid.alerts", 0)
OTHER = ("grid.alerts", 1)


def found(**more: Any) -> Finding:
    told = {"kind": "voltage.high", "subject_kind": "transformer", "subject": "T1", "started_us": NOW_MS * 1000,
            "severity": Severity.WARNING, "confidence": 0.9, "detector": "voltage", **more}  # fmt: skip
    return Finding(**told)


def alert(**more: Any) -> Alert:
    told = alert_of(found(**more).to_event(NOW_MS).value)
    assert told is not None
    return told


def record(**more: Any) -> RouteRecord:
    return RouteRecord(**{"id": "a", "url": "https://example.com/hook", **more})


# -- filters


@pytest.mark.parametrize(
    ("route", "finding", "silenced", "goes"),
    [
        ({}, {}, False, True),
        ({"kind": "voltage.*"}, {}, False, True),
        ({"kind": "outage"}, {}, False, False),
        ({"kind": "voltage"}, {}, False, False),
        ({"subject": "transformer/T*"}, {}, False, True),
        ({"subject": "T1"}, {}, False, False),
        ({"severity": "warning"}, {}, False, True),
        ({"severity": "critical"}, {}, False, False),
        ({"severity": "critical"}, {"severity": Severity.CRITICAL}, False, True),
        ({"severity": "critical"}, {"severity": "a word of another day"}, False, True),
        ({"states": ["opened"]}, {}, False, True),
        ({"states": ["opened"]}, {"state": FindingState.CLOSED}, False, False),
        ({"states": ["opened", "closed"]}, {"state": FindingState.CHANGED}, False, False),
        ({}, {}, True, False),
        ({"silenced": True}, {}, True, True),
    ],
)
def test_a_route_takes_what_its_filters_say(
    route: dict[str, Any], finding: dict[str, Any], silenced: bool, goes: bool
) -> None:
    assert record(**route).takes(alert(**finding), silenced=silenced) is goes


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://example.com/"}, {"url": "https://"}, {"url": "https:///path"}, {"url": "/hook"},
        {"url": "https://user:word@example.com/"}, {"url": "https://example.com/#part"}, {"url": "https://[::1/"},
        {"url": "https://example.com:99999/"}, {"url": "https://exa mple.com/"}, {"url": "https://x.com/\r\nx: y"},
        {"url": "https://example.com/" + "x" * 2000}, {"url": "https://exämple.com/"}, {"severity": "worst"},
        {"states": []}, {"states": ["gone"]}, {"mode": "xml"}, {"time_limit_s": 0}, {"time_limit_s": 10**9},
        {"kind": ""}, {"subject": "x" * 1001},
    ],
)  # fmt: skip
def test_what_is_no_route_is_refused(wrong: dict[str, Any]) -> None:
    check_route("ops", record())
    with pytest.raises(InvalidSetting):
        check_route("ops", record(**wrong))


def test_names_of_routes_are_names_of_hubs() -> None:
    with pytest.raises(InvalidName):
        check_route("a/b", record())
    with pytest.raises(InvalidSetting):
        check_route("x" * (NAME_CHARS_MAX + 1), record())


def test_a_header_is_one_line_and_none_of_ours() -> None:
    assert check_header("Authorization: Bearer x:y ") == ("Authorization", "Bearer x:y")
    for wrong in ("", "Authorization", "Authorization:", "A b: c", "A: b\r\nC: d", "Host: example.com", "ce-id: 1",
                  "Content-Length: 3", "A: ü", "A: " + "x" * 4001):  # fmt: skip
        with pytest.raises(InvalidSetting):
            check_header(wrong)


# -- answers


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (200, "done"), (201, "done"), (202, "done"), (204, "done"), (299, "done"), (410, "stop"), (400, "dead"),
        (401, "dead"), (403, "dead"), (413, "dead"), (429, "again"), (404, "again"), (408, "again"), (415, "again"),
        (500, "again"), (503, "again"), (301, "again"), (302, "again"), (199, "again"), (600, "again"),
    ],
)  # fmt: skip
def test_what_becomes_of_an_answer(status: int, action: str) -> None:
    assert judge(status, "", NOW).action == action


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7), ("0", 0), ("", 0), ("soon", 0), ("-5", 0), ("1e9", 0), ("99999999", 3600), ("٣", 0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30), ("Wed, 31 Dec 2025 00:00:00 GMT", 0),
        ("Fri, 01 Jan 2199 0:0:0 GMT", 3600),
        ("x" * 10_000, 0),
    ],
)  # fmt: skip
def test_a_receiver_may_ask_for_time(said: str, seconds: float) -> None:
    for status in (429, 503):
        assert judge(status, said, NOW) == Verdict("again", f"the receiver answered {status}", seconds)


def test_waits_grow_up_to_an_hour_and_differ_a_little() -> None:
    middle = [wait_s(failures, 0.5) for failures in range(1, 40)]
    assert middle[: len(WAITS_S)] == pytest.approx(WAITS_S)
    assert all(before <= after for before, after in pairwise(middle))
    assert middle[-1] == WAITS_S[-1]
    assert wait_s(1, 0.0) == pytest.approx(1 - JITTER)
    assert wait_s(1, 1.0) == pytest.approx(1 + JITTER)
    assert route_wait_s(100, 1.0) == ROUTE_WAIT_S_MAX


# -- the backlog


def item(offset: int, finding: str = "", place: tuple[str, int] = PLACE, size: int = 10) -> Item:
    return Item(place, offset, finding or f"f{offset}", Event(b"x" * size, offset=offset))


def backlog(*items: Item, at: int = 0) -> Backlog:
    made = Backlog()
    for place in {PLACE} | {each.place for each in items}:
        made.begin(place, at)
    for each in items:
        made.add(each)
    return made


def begun(waiting: Backlog, now_s: float = 0.0) -> Item | None:
    one = waiting.ready(now_s)
    if one is not None:
        one.under_way = True
    return one


def test_tellings_of_a_finding_go_in_order_and_findings_do_not_wait_for_each_other() -> None:
    first, second, other = item(0, "a"), item(1, "a"), item(2, "b")
    waiting = backlog(first, second, other)
    assert [begun(waiting), begun(waiting), begun(waiting)] == [first, other, None]
    waiting.again(first, 10.0, "no")
    assert begun(waiting, 9.0) is None
    assert waiting.next_due_s() == 10.0
    assert begun(waiting, 10.0) is first
    assert waiting.done(first)
    assert begun(waiting) is second


def test_the_position_is_the_first_telling_that_is_not_done() -> None:
    items = [item(offset) for offset in (3, 5, 6)]
    waiting = backlog(*items, at=3)
    waiting.read(PLACE, 9)
    assert waiting.positions() == {PLACE: 3}
    waiting.done(items[1])
    assert waiting.positions() == {PLACE: 3}
    assert waiting.beyond() == {"grid.alerts/0": [6, 0, 3]}
    waiting.done(items[0])
    assert waiting.positions() == {PLACE: 6}
    waiting.done(items[2])
    assert waiting.positions() == {PLACE: 9}
    assert waiting.beyond() == {}


def test_who_goes_on_delivers_what_was_not_done_and_nothing_else() -> None:
    items = [item(offset) for offset in range(10)]
    before = backlog(*items)
    before.read(PLACE, 10)
    for each in items[1:5] + items[6:]:
        before.done(each)
    after = Backlog()
    after.begin(PLACE, before.positions()[PLACE], before.beyond()["grid.alerts/0"])
    assert [offset for offset in range(12) if not after.is_done(PLACE, offset)] == [0, 5, 10, 11]
    after.read(PLACE, 10)
    assert not after.is_done(PLACE, 3), "what is read later was not done before"


def test_a_note_fits_whatever_waits() -> None:
    items = [item(offset * 1_000_000, place=("grid.alerts", offset % 8)) for offset in range(500)]
    waiting = backlog(*items)
    named = waiting.beyond()
    assert sum(len(each) - 1 for each in named.values()) == BEYOND_MAX
    note = RouteNote(10**12, 10**12, 10**12, 10**13, "x" * 300, 10**13, named)
    import msgspec

    assert len(msgspec.json.encode(note)) < 4096
    for (hub, partition), position in waiting.positions().items():
        if f"{hub}/{partition}" in named:  # what was cut off begins again, nothing is left out
            again = Backlog()
            again.begin((hub, partition), position, named[f"{hub}/{partition}"])
            mine = [each.offset for each in items if each.place == (hub, partition)]
            assert not any(again.is_done((hub, partition), offset) for offset in mine)


def test_what_may_wait_is_bounded_in_number_and_in_bytes() -> None:
    many = Backlog(3)
    many.begin(PLACE, 0)
    for offset in range(3):
        many.add(item(offset))
    assert many.room == 0
    large = backlog(item(0, size=WAITING_BYTES_MAX))
    assert large.room == 0
    large.done(large.heads()[0])
    assert large.room == large.waiting_max


def test_a_place_that_went_away_takes_its_tellings_along() -> None:
    mine, theirs = item(0, "a"), item(0, "b", OTHER)
    waiting = backlog(mine, theirs)
    assert begun(waiting) is mine
    waiting.drop(PLACE)
    assert not waiting.done(mine)
    assert len(waiting) == 1
    assert begun(waiting) is theirs
    assert waiting.positions() == {OTHER: 0}


def test_a_receiver_that_is_back_gets_everything_at_once() -> None:
    first, second = item(0, "a"), item(1, "b")
    waiting = backlog(first, second)
    for each in (first, second):
        waiting.again(each, 1000.0, "down")
    assert waiting.ready(1.0) is None
    waiting.wake()
    assert waiting.ready(1.0) is first


def test_notes_of_others_are_no_notes() -> None:
    assert parse_note('{"failed":2}\0').failed == 2, "as a transaction of librdkafka leaves it"
    for text in ("", "x", "[]", "{", '{"delivered":"many"}', "\ud800"):
        assert parse_note(text) == RouteNote()
    old, new = Position(1, '{"delivered":3}', 10), Position(2, '{"delivered":2}', 20)
    assert newest_note({PLACE: old, OTHER: new}).delivered == 2
    assert newest_note({}) == RouteNote()


# -- how it is said


def test_an_event_is_the_same_in_both_modes_of_cloudevents() -> None:
    event = found(subject='Tür "1" 100%', evidence={"volts": 253.1}).to_event(NOW_MS)
    headers, body = request_of(event, "structured")
    assert headers == {"content-type": "application/cloudevents+json; charset=utf-8"}
    told = from_structured(body, NOW_MS)
    raw, data = request_of(event, "binary")
    assert all(value.isascii() and value.isprintable() for value in raw.values())
    named = [(name.encode(), value.encode()) for name, value in raw.items()]
    heard = from_headers(named, raw["content-type"], data, NOW_MS)
    assert told.value == heard.value == event.value
    assert dict(told.headers) == dict(heard.headers) == dict(event.headers)


def test_hostile_events_are_no_findings_and_make_no_odd_headers() -> None:
    deep = b'{"evidence":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
    assert alert_of(deep) is None
    headers = (("ce_id", b"1\r\nx: y"), ("ce_\u00fc", b"1"), ("ce_a b", b"1"), ("content-type", b"a/b\r\nx: y"))
    event = Event(deep, None, headers)
    sent, _ = request_of(event, "binary")
    assert sent == {"content-type": "application/json", "ce-id": "1%0D%0Ax:%20y"}
    assert "data_base64" in json.loads(request_of(event, "structured")[1])


def test_what_is_no_json_goes_as_base64_and_chats_get_a_line() -> None:
    odd = Event(b"\xff", None, (("ce_id", b"1"), ("content-type", b"application/json")))
    assert json.loads(request_of(odd, "structured")[1])["data_base64"] == "/w=="
    ended = found(state=FindingState.CLOSED, ended_us=int((NOW + timedelta(hours=1)).timestamp() * 1e6))
    headers, body = request_of(ended.to_event(NOW_MS), "text")
    assert headers == {"content-type": "application/json"}
    line = "warning voltage.high closed: transformer T1, since 2026-01-01T00:00:00Z until 2026-01-01T01:00:00Z"
    assert json.loads(body) == {"text": line}
    assert text_of(sample("ops", NOW_MS)).startswith("info test opened: network ops")
