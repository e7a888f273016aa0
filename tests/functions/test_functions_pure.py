"""Settings, schedules, routes, retries, scaling, lanes and frames: everything that needs no process."""

from __future__ import annotations

import io
import json
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core.batch import Event, encode
from gridwire.functions import avro, cron
from gridwire.functions.batches import Buffer, Piece, pack
from gridwire.functions.frames import read_events
from gridwire.functions.keys import Keys, UnknownKey
from gridwire.functions.lanes import Lane
from gridwire.functions.letters import letter
from gridwire.functions.model import FROM_END, Batching, Call, Function, Published, Retry
from gridwire.functions.outputs import blob_path
from gridwire.functions.retry import LOSSES_MAX, decide, delay_s
from gridwire.functions.routes import table
from gridwire.functions.scale import DOWN_S, UP_S, Controller, Load
from gridwire.functions.settings import AppSettings, Invalid, seconds
from gridwire.functions.stream import spread
from gridwire.functions.timers import Status, Timer, fit

START = datetime(2026, 2, 27, 23, 59, 58, tzinfo=UTC)

# -- settings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def app_settings(tmp_path: Path):
    def make(host=None, values=None, environment=None):
        (tmp_path / "host.json").write_text(host if isinstance(host, str) else json.dumps(host or {}))
        (tmp_path / "local.settings.json").write_text(json.dumps({"Values": values or {}}))
        return AppSettings(tmp_path, environment or {})

    return make


def test_time_spans():
    assert seconds("00:00:10", "x") == 10
    assert seconds("1.02:03:04.5", "x") == 93784.5
    assert seconds("-1", "x") == float("inf")
    with pytest.raises(Invalid, match="delay must be a time span"):
        seconds("10s", "delay")


def test_host_json_with_comments_in_both_shapes(app_settings):
    text = """{// a comment
        "url": "http://x",
        "extensions": {"eventHubs": {"maxEventBatchSize": 64, /* two */ "minEventBatchSize": 8,
                                     "maxWaitTime": "00:00:05"}}}"""
    batching = app_settings(text).batching(False, {})
    assert (batching.events_max, batching.events_min, batching.wait_s) == (64, 8, 5)
    old = app_settings({"extensions": {"eventHubs": {"eventProcessorOptions": {"maxBatchSize": 32}}}})
    assert old.batching(False, {}).events_max == 32
    assert old.batching(True, {}).events_max == 1000
    assert old.batching(False, {"maxBatchSize": 5}).events_max == 5
    with pytest.raises(Invalid, match="268,435,456 bytes at most"):
        old.batching(False, {"maxBatchBytes": 300_000_000})
    with pytest.raises(Invalid, match="above the largest"):
        old.batching(False, {"minBatchSize": 33})
    with pytest.raises(Invalid, match="largest batch must be"):
        old.batching(False, {"maxBatchSize": "many"})


def test_where_functions_begin(app_settings):
    def hubs(**options):
        return app_settings({"extensions": {"eventHubs": {"initialOffsetOptions": options}}}).start_ms

    assert hubs() is None
    assert hubs(type="FromStart", enqueuedTimeUtc="2026-01-01") is None
    assert hubs(type="fromEnd") == FROM_END
    assert hubs(type="fromEnqueuedTime", enqueuedTimeUtc="1970-01-01T01:00:01.5+01:00") == 1500
    assert hubs(type="fromEnqueuedTime", enqueuedTimeUtc="1970-01-01T00:00:02") == 2000, "without a zone it is UTC"
    with pytest.raises(Invalid, match=r"enqueuedTimeUtc must be a time like .*, not ''"):
        hubs(type="fromEnqueuedTime")
    with pytest.raises(Invalid, match=r"initialOffsetOptions\.type 'middle' is none of fromStart, fromEnd, from"):
        hubs(type="middle")
    assert app_settings({}).kafka_start_ms is None
    assert app_settings({"extensions": {"kafka": {"AutoOffsetReset": "Latest"}}}).kafka_start_ms == FROM_END
    with pytest.raises(Invalid, match=r"autoOffsetReset 'error' is none of earliest, latest"):
        _ = app_settings({"extensions": {"kafka": {"autoOffsetReset": "error"}}}).kafka_start_ms


def test_names_in_percent_signs_and_entity_paths(app_settings):
    settings = app_settings(values={"HUB": "a", "C": "Endpoint=sb://x/;EntityPath=real"}, environment={"HUB": "b"})
    assert settings.resolve("x-%HUB%") == "x-b"
    assert settings.hub_of("C", "ignored") == "real"
    assert settings.hub_of("NONE", "%HUB%") == "b"
    with pytest.raises(Invalid, match="'NOPE'"):
        settings.resolve("%NOPE%")


def test_retry_policies(app_settings):
    settings = app_settings({"retry": {"strategy": "fixedDelay", "maxRetryCount": 2, "delayInterval": "00:00:03"}})
    assert settings.retry(None) == Retry(2, 3, 3)
    own = {"strategy": "exponential_backoff", "max_retry_count": "-1", "minimum_interval": "00:00:01"}
    assert settings.retry(own) == Retry(-1, 1, 3600, exponential=True)
    assert [delay_s(Retry(9, 1, 5, exponential=True), n) for n in (1, 2, 3, 4, 500)] == [1, 2, 4, 5, 5]
    with pytest.raises(Invalid, match="24"):
        settings.retry({"strategy": "fixed_delay", "max_retry_count": "1", "delay_interval": "24h"})


# -- schedules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("* * * * * *", "2026-02-27 23:59:59"),
        ("0 */5 * * * *", "2026-02-28 00:00:00"),
        ("*/5 * * * *", "2026-02-28 00:00:00"),
        ("0 30 9 * * MON-FRI", "2026-03-02 09:30:00"),
        ("0 0 0 29 2 *", "2028-02-29 00:00:00"),
        ("0 0 6,18 1 JAN,JUL *", "2026-07-01 06:00:00"),
        ("15-20/5 1 0 * * 0", "2026-03-01 00:01:15"),
        ("0 0 0 * * 7", "2026-03-01 00:00:00"),
        ("0 0 3/8 * * *", "2026-02-28 03:00:00"),
        ("00:00:30", "2026-02-28 00:00:28"),
    ],
)
def test_when_a_schedule_fires(text, expected):
    assert cron.parse(text).after(START) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_schedules_that_make_no_sense():
    for text in (
        "",
        "* * *",
        "60 * * * * *",
        "* * * 0 * *",
        "5-1 * * * * *",
        "*/0 * * * * *",
        "x * * * * *",
        "00:00:00",
    ):
        with pytest.raises(Invalid, match="schedule"):
            cron.parse(text)
    assert cron.parse("0 0 0 30 2 *").after(START) is None


@settings(deadline=None)
@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)), st.integers(1, 59), st.integers(0, 23))
def test_the_next_time_is_later_and_fits(moment, step, hour):
    schedule = cron.parse(f"*/{step} * {hour} * * *")
    following = schedule.after(moment)
    assert following > moment
    assert following.hour == hour
    assert following.second % step == 0
    assert following - moment <= timedelta(days=1)


def test_a_timer_that_was_missed_is_past_due_once():
    now = START
    function = Function("t", "timerTrigger", "t", schedule="0 0 0 * * *")
    status = Status()
    first = Timer(function, status, lambda: now)
    assert first.wait_s() == 2
    now = START + timedelta(hours=5)
    status = Status(status.note())
    again = Timer(function, status, lambda: now)
    assert again.wait_s() == 0
    assert again.arguments()["IsPastDue"] is True
    assert again.arguments()["ScheduleStatus"]["Next"].startswith("2026-02-28T00:00:00")
    again.fired()
    assert again.arguments()["IsPastDue"] is False
    assert again.next == datetime(2026, 3, 1, tzinfo=UTC)
    third = Timer(function, Status(status.note()), lambda: now, ZoneInfo("Asia/Tokyo"))
    assert third.next == datetime(2026, 2, 28, 15, tzinfo=UTC)


def test_startup_is_when_a_host_begins_and_not_when_the_lease_comes_back():
    function = Function("t", "timerTrigger", "t", schedule="0 0 0 * * *", run_on_startup=True)
    assert Timer(function, Status(), lambda: START).wait_s() == 0
    assert Timer(function, Status(), lambda: START, begun=False).wait_s() == 2


@pytest.mark.parametrize("note", ["", "nonsense", "[]", '{"t":5}', '{"t":["x"]}'])
def test_a_note_that_is_not_ours_is_a_first_start(note):
    assert Status(note).next("t") is None
    assert not Status(note).get("t")


def test_more_timers_than_can_be_remembered_are_refused():
    assert fit([f"timer_{n}" for n in range(50)])
    assert not fit([f"timer_{n}" for n in range(500)])


# -- routes, keys, blobs ------------------------------------------------------------------------------------------


def test_routes_take_the_most_specific_function():
    routes = table(
        "api",
        [
            Function("all", "httpTrigger", "r", route="{*rest}"),
            Function("one", "httpTrigger", "r", route="products/{id:int}"),
            Function("any", "httpTrigger", "r", route="products/{name}"),
            Function("special", "httpTrigger", "r", route="products/special"),
            Function("maybe", "httpTrigger", "r", route="list/{kind:alpha}/{page:int?}"),
        ],
    )

    def found(path):
        return next((r.function.name, r.match(path)) for r in routes if r.match(path) is not None)

    assert found("/api/products/special") == ("special", {})
    assert found("/api/products/17") == ("one", {"id": "17"})
    assert found("/API/products/a%20b") == ("any", {"name": "a b"})
    assert found("/api/list/x") == ("maybe", {"kind": "x"})
    assert found("/api/list/x/2") == ("maybe", {"kind": "x", "page": "2"})
    assert found("/api/a/b/c") == ("all", {"rest": "a/b/c"})
    assert found("/api") == ("all", {})
    with pytest.raises(Invalid, match="constraint 'odd'"):
        table("", [Function("x", "httpTrigger", "r", route="{a:odd}")])


def test_keys_open_what_they_are_for(tmp_path):
    functions = [Function("f", "httpTrigger", "r"), Function("g", "httpTrigger", "r")]
    keys = Keys(tmp_path / "state" / "keys.json", functions)
    assert (tmp_path / "state" / "keys.json").stat().st_mode & 0o077 == 0
    again = Keys(tmp_path / "state" / "keys.json", functions)
    own = keys.functions["f"]["default"]
    assert own == again.functions["f"]["default"]
    assert again.allow("", "ANONYMOUS", "f")
    assert again.allow(own, "FUNCTION", "f")
    assert not again.allow(own, "FUNCTION", "g")
    assert not again.allow("", "FUNCTION", "f")
    assert again.allow(keys.host["default"], "FUNCTION", "g")
    assert not again.allow(keys.host["default"], "ADMIN", "g")
    assert again.allow(keys.master, "ADMIN", None)
    assert again.allow(keys.system, "SYSTEM", None)
    assert not again.allow(keys.system, "FUNCTION", "f")


def test_a_key_that_is_made_anew_opens_at_once_and_the_one_before_nothing(tmp_path):
    path = tmp_path / "keys.json"
    running = Keys(path, [Function("f", "httpTrigger", "r")])
    own, host, master = running.functions["f"]["default"], running.host["default"], running.master
    others = Keys(path)
    for scope, name, function in (
        ("function", "default", "f"), ("function", "partner", "f"), ("host", "default", ""), ("master", "", ""),
    ):  # fmt: skip
        others.renew(scope, name, function)
    assert not any(running.allow(key, "FUNCTION", "f") for key in (own, host, master))
    for key in (*others.functions["f"].values(), *others.host.values(), others.master):
        assert running.allow(key, "FUNCTION", "f")
    assert set(others.functions["f"]) == {"default", "partner"}
    assert path.stat().st_mode & 0o077 == 0
    written = path.stat().st_ino
    assert Keys(path).as_dict() == others.as_dict()
    assert path.stat().st_ino == written, "looking writes nothing"
    for scope, name, function in (("function", "default", "g"), ("host", "", "")):
        with pytest.raises(UnknownKey):
            others.renew(scope, name, function)


def test_blobs_stay_in_their_directory(tmp_path):
    assert blob_path(tmp_path, "out/{meter}.json", {"meter": "m1"}) == tmp_path / "out/m1.json"
    assert blob_path(tmp_path, "out/{a.b}-{rand-guid}", {"a": {"b": 1}}).name.startswith("1-")
    for names in ({"meter": "../../etc"}, {}):
        with pytest.raises(ValueError, match="blob path"):
            blob_path(tmp_path, "out/{meter}", names)


# -- retries and scaling ------------------------------------------------------------------------------------------


def test_retry_then_halves_then_the_event_alone_then_dead():
    policy = Retry(2, 1, 1)
    assert [decide(policy, 8, n, 0, whole=True, lost=False).action for n in (1, 2, 3)] == ["again", "again", "halves"]
    assert decide(policy, 4, 1, 0, whole=False, lost=False).action == "halves"
    assert [decide(policy, 1, n, 0, whole=False, lost=False).action for n in (1, 2, 3)] == ["again", "again", "dead"]
    assert decide(Retry(), 1, 1, 0, whole=True, lost=False).action == "dead"
    assert decide(Retry(-1), 8, 10**9, 0, whole=True, lost=False).action == "again"


def test_events_alone_when_workers_die_get_some_tries_whatever_the_policy():
    actions = [decide(Retry(), 1, n, n, whole=False, lost=True).action for n in range(1, LOSSES_MAX + 1)]
    assert actions == ["again"] * (LOSSES_MAX - 1) + ["dead"]


def test_scaling_follows_lag_with_hysteresis():
    controller = Controller(most=4, idle_s=30)
    behind = Load(lag_s=9, starved_s=UP_S, idle_s=0, partitions=3)
    assert [controller.decide(behind, n, 0.0) for n in (1, 2, 3)] == [2, 3, 3], "never more than partitions"
    young = Load(lag_s=0.1, starved_s=9, idle_s=0, partitions=9)
    assert controller.decide(young, 1, 1.0) == 1, "events wait, but not for long"
    ample = Load(lag_s=0, starved_s=0, idle_s=0, partitions=9)
    assert controller.decide(ample, 3, 10.0) == 3
    assert controller.decide(ample, 3, 10.0 + DOWN_S - 1) == 3
    assert controller.decide(behind, 3, 10.0 + DOWN_S - 0.5) == 3
    assert controller.decide(ample, 3, 10.0 + DOWN_S) == 3, "a moment of need begins the wait anew"
    assert controller.decide(ample, 3, 10.0 + 2 * DOWN_S) == 2
    assert controller.decide(ample, 1, 100.0) == 1
    assert controller.decide(Load(0, 0, 30, 9), 1, 200.0) == 0
    assert Controller(most=4, least=1, idle_s=30).decide(Load(0, 0, 99, 9), 1, 0.0) == 1


# -- batches ------------------------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.builds(
        Event,
        st.none() | st.binary(max_size=20),
        st.none() | st.binary(max_size=5),
        st.lists(st.tuples(st.sampled_from(["a", "trace"]), st.none() | st.binary(max_size=4)), max_size=2).map(tuple),
        st.integers(0, 2**40),
    ),
    min_size=1,
    max_size=30,
)


def columns_of(events, base=0):
    data = encode(events)
    data[:8] = base.to_bytes(8, "big")
    return decode(bytes(data), 0, len(data), from_offset=0, hub="h", partition=0).columns


@settings(deadline=None)
@given(EVENTS, EVENTS)
def test_a_worker_sees_the_events_that_were_packed(first, second):
    parts = [*columns_of(first, 5), *columns_of(second, 1000)]
    body = b"".join(bytes(part) for part in pack(Call("f", hub="h", partition=3), parts))
    seen = read_events(memoryview(bytearray(body)))
    assert (seen.call.function, seen.call.partition, seen.count) == ("f", 3, len(first) + len(second))
    for row, event in enumerate([*first, *second]):
        start, size = seen.value_starts[row], seen.value_lengths[row]
        assert (None if size < 0 else bytes(seen.data[start : start + size])) == event.value
        assert seen.key(row) == event.key
        assert seen.headers(row) == event.headers
        assert seen.timestamps[row] == event.timestamp
    assert list(seen.offsets) == [*range(5, 5 + len(first)), *range(1000, 1000 + len(second))]


@settings(deadline=None)
@given(EVENTS, st.integers(1, 40), st.integers(1, 100))
def test_pieces_of_a_buffer_are_the_events_in_order(events, events_max, bytes_max):
    buffer = Buffer()
    for base in (0, 100):
        [columns] = columns_of(events, base)
        buffer.add(ColumnBatch("h", 0, columns, base + len(events) + 7))
    seen, ends = [], []
    while buffer.events:
        piece = buffer.take(events_max, bytes_max)
        assert 1 <= len(piece) <= events_max
        seen += [event.offset for event in piece.events()]
        ends.append(piece.next_offset)
        assert ends[-1] > seen[-1]
    assert buffer.size_bytes == 0
    assert seen == [*range(len(events)), *range(100, 100 + len(events))]
    assert ends[-1] == 107 + len(events), "gaps behind the last event are behind the position too"


def lane_of(events, **function):
    lane = Lane(("h", 0), Function("f", "eventHubTrigger", "e", **function), 0, 0)
    [columns] = columns_of(events)
    lane.add(ColumnBatch("h", 0, columns, len(events)), 10.0)
    return lane


def test_a_lane_waits_for_small_batches_and_says_why_it_did_not():
    lane = lane_of([Event(b"x")] * 3, batching=Batching(events_max=10, events_min=5, wait_s=2.0))
    assert lane.next(11.0) is None
    assert lane.next_due(11.0) == 12.0
    group, piece = lane.next(12.0)
    assert len(piece) == 3
    assert lane.flushed == {"wait": 1}
    assert lane.next(13.0) is None, "one batch at a time"
    assert lane.done(group, []) == []
    assert (lane.position, lane.idle) == (3, True)


def test_a_lane_reads_on_until_the_largest_batch_is_there():
    events = [Event(b"x" * 1_000_000)] * 10
    lane = lane_of(events, batching=Batching(events_min=100, wait_s=60.0, bytes_max=20_000_000))
    assert not lane.full
    assert lane.next(11.0) is None
    lane.add(ColumnBatch("h", 0, columns_of(events)[0], 20), 11.0)
    assert lane.full
    assert len(lane.next(11.0)[1]) == 20
    assert lane.flushed == {"bytes": 1}


def test_pieces_taken_apart_come_in_order_and_move_the_position():
    lane = lane_of([Event(b"%d" % n) for n in range(4)])
    group, piece = lane.next(10.0)
    lane.replace(group, *piece.split(1))
    group, first = lane.next(10.0)
    assert [event.value for event in first.events()] == [b"0"]
    assert lane.done(group, [Published("o", [b"a"])]) == [Published("o", [b"a"])]
    assert lane.position == 1
    group, _ = lane.next(10.0)
    lane.again(group, 50.0)
    assert lane.next(49.0) is None
    assert len(lane.next(50.0)[1]) == 3


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b", b"c", None]), min_size=1, max_size=40), st.randoms())
def test_parallel_groups_keep_the_order_of_a_key_and_a_contiguous_position(keys, random):
    events = [Event(b"%d" % n, key) for n, key in enumerate(keys)]
    lane = lane_of(events, parallel=3, batching=Batching(events_max=4))
    running, seen, outputs = [], [], []
    while lane.position < len(events):
        while (taken := lane.next(10.0)) is not None:
            running.append(taken)
        group, piece = running.pop(random.randrange(len(running)))
        told = [event.value for event in piece.events()]
        seen += piece.events()
        released = lane.done(group, [Published("o", told)])
        if released is None:
            continue
        outputs += [value for published in released for value in published.values]
        assert sorted(map(int, outputs)) == list(range(lane.position)), "outputs and position go together"
    for key in set(keys):
        mine = [int(event.value) for event in seen if event.key == key]
        assert mine == sorted(mine)


def test_outputs_are_spread_by_key_or_follow_their_input():
    found = spread(Published("o", [b"1", b"2", b"3"], [b"k", None, b"k"], []), 5, 4)
    assert {place[1] for place, events in found.items() if events[0].key is None} == {1}
    [keyed] = [events for events in found.values() if events[0].key]
    assert [event.value for event in keyed] == [b"1", b"3"]


def test_a_dead_letter_says_why_and_keeps_where_it_came_from():
    event = Event(b"v", b"k", (("a", b"1"),), 7, 42)
    first = letter(event, ("readings", 3), "f", "boom", "trace", 2)
    told = dict(first.headers)
    assert (first.value, first.key, told["a"]) == (b"v", b"k", b"1")
    assert (told["dlq-hub"], told["dlq-partition"], told["dlq-offset"]) == (b"readings", b"3", b"42")
    assert (told["dlq-reason"], told["dlq-traceback"], told["dlq-tries"]) == (b"boom", b"trace", b"2")
    back = Event(first.value, first.key, first.headers, 9, 0)
    again = dict(letter(back, ("again.app.f", 0), "f", "worse", "", 1).headers)
    assert (again["dlq-hub"], again["dlq-offset"], again["dlq-reason"]) == (b"readings", b"42", b"worse")
    assert len(letter(back, ("x", 0), "f", "", "", 1).headers) < len(first.headers) + 1


def test_a_piece_may_be_given_out_of_order_rows():
    [columns] = columns_of([Event(b"%d" % n) for n in range(5)])
    piece = Piece([columns.take(np.array([0, 2, 4]))], 5)
    first, rest = piece.split(2)
    assert [event.value for event in rest.events()] == [b"4"]
    assert first.next_offset == 4
    assert deque([first])[0].whole is False


# -- Avro values of Kafka triggers ----------------------------------------------------------------------------------

PAYMENT = """{"type": "record", "name": "Payment", "fields": [
    {"name": "id", "type": "string"}, {"name": "amount", "type": "double"}]}"""


def test_framed_avro_records_are_json():
    data = io.BytesIO()
    fastavro.schemaless_writer(data, json.loads(PAYMENT), {"id": "a", "amount": 1.5})
    assert json.loads(avro.to_json(PAYMENT, b"\0\0\0\0\7" + data.getvalue())) == {"id": "a", "amount": 1.5}
    for wrong in (b"", b"\0\0", data.getvalue(), b"\0\0\0\0\7", b"\0\0\0\0\7\xff\xff"):
        with pytest.raises(ValueError, match="Avro"):
            avro.to_json(PAYMENT, wrong)
