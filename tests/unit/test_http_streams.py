"""Tails and the live view: nothing missed on resume, nothing queued for the slow, everything ended on stop."""

import asyncio
import contextlib
import json
import re
import socket
import time

import httpx
import pytest

from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.core.clock import ManualClock
from gridwire.heads.http.live import Live, Sample, rates
from gridwire.heads.http.options import HttpLimits
from gridwire.heads.http.overview import Overview


@pytest.fixture
def hub(http_hub):
    return http_hub()


def append(hub, name, partition, values):
    async def add():
        return await hub.broker.append(name, partition, batch.encode([Event(value) for value in values]))

    return hub.run(add())


def create(hub, name="r", partitions=2):
    hub.run(hub.broker.create_hub(name, partitions))


class Feed:
    """Server-sent events as a browser reads them."""

    def __init__(self, response):
        self.lines = response.iter_lines()
        self.last_id = None
        self.comments = 0

    def next(self):
        """The next event as (name, data), remembering ids as EventSource does."""
        name, data = "message", None
        for line in self.lines:
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
            elif not line and data is not None:
                return name, data
        return None

    def places(self, count):
        found = []
        for _ in range(count):
            name, data = self.next()
            assert name == "message", data
            found.append((data["partition"], data["offset"]))
        return found


@contextlib.contextmanager
def feed(hub, path, **headers):
    with httpx.stream("GET", hub.url + path, headers=headers, timeout=20) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        yield Feed(response)


def until(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_tail_from_earliest_then_live(hub):
    create(hub)
    append(hub, "r", 0, [b'{"a":\n1}', b"text"])
    append(hub, "r", 1, [b"1"])
    with feed(hub, "/v1/hubs/r/tail?from=earliest") as tail:
        name, first = tail.next()
        assert (name, first["value"], first["format"], first["offset"]) == ("message", {"a": 1}, "json", 0)
        assert sorted(tail.places(2)) == [(0, 1), (1, 0)]
        append(hub, "r", 1, [b"2", b"3"])
        assert tail.places(2) == [(1, 1), (1, 2)]


def test_tail_from_latest_misses_nothing_after_the_headers(hub):
    create(hub)
    append(hub, "r", 0, [b"old"])
    with feed(hub, "/v1/hubs/r/tail") as tail:
        append(hub, "r", 0, [b"new"])
        assert tail.places(1) == [(0, 1)]


@pytest.mark.parametrize(("since", "first"), [("-2", 3), ("3", 3), ("earliest", 0), ("99", 5), ("-99", 0)])
def test_where_a_tail_starts(hub, since, first):
    create(hub)
    append(hub, "r", 1, [b"x"] * 5)
    with feed(hub, f"/v1/hubs/r/tail?partition=1&from={since}") as tail:
        append(hub, "r", 0, [b"other partition"])
        append(hub, "r", 1, [b"x"])
        assert tail.places(6 - first) == [(1, offset) for offset in range(first, 6)]


def test_a_tail_with_a_filter(hub):
    create(hub)
    append(hub, "r", 0, [b'{"kw":1}', b'{"kw":9}', b"text", b'{"kw":7}'])
    with feed(hub, "/v1/hubs/r/tail?from=earliest&where=kw+%3E+5") as tail:
        append(hub, "r", 1, [b'{"kw":2}', b'{"kw":6}'])
        assert sorted(tail.places(3)) == [(0, 1), (0, 3), (1, 1)]


def test_resume_misses_nothing_of_any_partition(hub):
    create(hub, partitions=3)
    append(hub, "r", 0, [b"x"] * 3)
    append(hub, "r", 2, [b"x"])
    with feed(hub, "/v1/hubs/r/tail?from=1") as tail:
        assert tail.places(2) == [(0, 1), (0, 2)]
        last_id = tail.last_id
    assert re.fullmatch(r"0:2(,[12]:-?\d)+", last_id)
    for number in range(3):  # partition 1 has sent nothing yet, and must not be lost
        append(hub, "r", number, [b"y"])
    with feed(hub, "/v1/hubs/r/tail?from=1", **{"last-event-id": last_id}) as tail:
        assert sorted(tail.places(3)) == [(0, 3), (1, 0), (2, 1)]


def test_a_client_that_got_nothing_yet_can_resume_too(hub):
    create(hub)
    append(hub, "r", 1, [b"old"])
    with feed(hub, "/v1/hubs/r/tail") as tail:
        for line in tail.lines:
            if line.startswith("id: "):
                last_id = line[4:]
                break
    append(hub, "r", 1, [b"missed"])
    with feed(hub, "/v1/hubs/r/tail", **{"last-event-id": last_id}) as tail:
        assert tail.places(1) == [(1, 1)]


def test_a_foreign_last_event_id_is_ignored(hub):
    create(hub)
    append(hub, "r", 0, [b"x"])
    with feed(hub, "/v1/hubs/r/tail?from=earliest", **{"last-event-id": "tweet-7"}) as tail:
        assert tail.places(1) == [(0, 0)]


def test_partitions_added_meanwhile_are_read(hub):
    create(hub)
    with feed(hub, "/v1/hubs/r/tail") as tail:
        hub.run(hub.broker.add_partitions("r", 3))
        append(hub, "r", 2, [b"x"])
        append(hub, "r", 0, [b"wake up"])
        assert sorted(tail.places(2)) == [(0, 0), (2, 0)]


def test_partitions_added_under_load_are_read_too(hub):
    """A stream that never runs dry must look at the hub all the same."""
    create(hub, partitions=1)
    append(hub, "r", 0, [b"x"])

    async def pour():
        while True:
            await hub.broker.append("r", 0, batch.encode([Event(b"x")]))

    async def start():
        return asyncio.create_task(pour())

    task = hub.run(start())
    try:
        with feed(hub, "/v1/hubs/r/tail?from=earliest") as tail:
            hub.run(hub.broker.add_partitions("r", 2))
            append(hub, "r", 1, [b"x"])
            while tail.places(1) != [(1, 0)]:
                pass
    finally:
        hub.loop.call_soon_threadsafe(task.cancel)


def test_a_deleted_hub_ends_its_tails_with_the_reason(hub):
    create(hub)
    with feed(hub, "/v1/hubs/r/tail") as tail:
        hub.run(hub.broker.delete_hub("r"))
        name, problem = tail.next()
        assert (name, problem["status"]) == ("error", 404)
        assert tail.next() is None


def test_heartbeats(http_hub):
    hub = http_hub(limits=HttpLimits(heartbeat_s=0.05))
    create(hub)
    with feed(hub, "/v1/hubs/r/tail") as tail:
        for line in tail.lines:
            if line.startswith(":"):
                break
        append(hub, "r", 0, [b"x"])
        assert tail.places(1) == [(0, 0)]


def test_max_rate_sends_the_newest_and_says_what_it_left_out(hub):
    create(hub, partitions=1)
    append(hub, "r", 0, [b"%d" % number for number in range(1000)])
    with feed(hub, "/v1/hubs/r/tail?from=earliest&max_rate=20") as tail:
        assert tail.next() == ("skipped", {"partition": 0, "count": 995})
        assert tail.places(5) == [(0, offset) for offset in range(995, 1000)]
        append(hub, "r", 0, [b"x"])
        assert tail.places(1) == [(0, 1000)]
    assert hub.head.counters.events_skipped == 995


def test_events_lost_to_retention_are_told(hub, monkeypatch):
    create(hub, partitions=1)
    append(hub, "r", 0, [b"x"] * 10)
    bounds = hub.broker.bounds

    async def moved(name, partition):
        found = await bounds(name, partition)
        return type(found)(4, found.end, found.stable)

    monkeypatch.setattr(hub.broker, "bounds", moved)
    with feed(hub, "/v1/hubs/r/tail", **{"last-event-id": "0:0"}) as tail:
        assert tail.next() == ("skipped", {"partition": 0, "count": 3})
        assert tail.places(1) == [(0, 4)]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("from=x", 400),
        ("where=x", 400),
        ("partition=2", 404),
        ("partition=x", 400),
        ("max_rate=0", 400),
        ("max_rate=10001", 400),
    ],
)
def test_tail_refused(hub, query, status):
    create(hub)
    answer = httpx.get(hub.url + "/v1/hubs/r/tail?" + query)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert httpx.get(hub.url + "/v1/hubs/none/tail").status_code == 404


def test_large_backlog_arrives_whole_and_in_order(hub):
    create(hub, partitions=1)
    for start in range(0, 6000, 2000):
        append(hub, "r", 0, [b'{"n":%d}' % number for number in range(start, start + 2000)])
    with feed(hub, "/v1/hubs/r/tail?from=earliest") as tail:
        assert tail.places(6000) == [(0, offset) for offset in range(6000)]


def request(hub, path):
    peer = socket.create_connection(("127.0.0.1", hub.head.port), 10)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    return peer


def test_a_client_that_stops_reading_is_dropped_and_holds_no_memory(http_hub):
    hub = http_hub(limits=HttpLimits(write_stall_s=0.5))
    create(hub, partitions=1)
    for _ in range(8):
        append(hub, "r", 0, [b'"%s"' % (b"x" * 500_000)] * 8)
    peer = request(hub, "/v1/hubs/r/tail?from=earliest")
    until(lambda: hub.head.counters.streams == 1)
    until(lambda: hub.head.counters.streams == 0)
    assert hub.head.counters.bytes_sent < 16_000_000  # of 32 MB: what the kernel took, not what there is
    peer.close()


def test_a_client_that_hangs_up_is_noticed(hub):
    create(hub)
    peer = request(hub, "/v1/hubs/r/tail")
    until(lambda: hub.head.counters.streams == 1)
    peer.close()
    until(lambda: hub.head.counters.streams == 0)
    until(lambda: hub.head.counters.connections == 0)


def test_streams_are_bounded(http_hub):
    hub = http_hub(limits=HttpLimits(streams_max=1))
    create(hub)
    with feed(hub, "/v1/hubs/r/tail"):
        until(lambda: hub.head.counters.streams == 1)
        answer = httpx.get(hub.url + "/v1/live")
        assert answer.status_code == 503
        assert "1 event streams" in answer.json()["detail"]


def test_stop_ends_open_streams_properly_and_soon(http_hub):
    hub = http_hub()
    create(hub)
    with feed(hub, "/v1/hubs/r/tail") as tail, feed(hub, "/v1/live") as live:
        assert live.next()[0] == "message"
        started = time.monotonic()
        hub.stop()
        assert time.monotonic() - started < 4
        assert tail.next() is None  # a whole chunked answer: a cut one would raise
        while live.next() is not None:
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(hub.url + "/healthz")


def test_stop_lets_a_running_request_finish(http_hub, monkeypatch):
    hub = http_hub()
    create(hub)
    real = hub.broker.append
    begun = []

    def slow(*args):
        begun.append(1)
        future = hub.loop.create_future()
        hub.loop.call_later(0.3, lambda: real(*args).add_done_callback(lambda done: future.set_result(done.result())))
        return future

    monkeypatch.setattr(hub.broker, "append", slow)

    async def post_and_stop():
        async with httpx.AsyncClient(base_url=hub.url) as client:
            posting = asyncio.create_task(client.post("/v1/hubs/r/events", content=b"x"))
            while not begun:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(hub.stop)
            return await posting

    answer = asyncio.run(post_and_stop())
    assert answer.status_code == 200
    assert answer.json()["offset"] == 0


def test_live_frames(hub):
    create(hub)
    hub.status["workers"] = [{"name": "w", "pid": 1, "state": "running", "restarts": 0, "group": "g"}]
    with feed(hub, "/v1/live") as live:
        _, first = live.next()
        append(hub, "r", 1, [b"x"] * 10)
        _, second = live.next()
        while not second["rates"]["in_events_s"]:
            _, second = live.next()
    assert first["rates"] == {"in_events_s": 0, "in_bytes_s": 0, "out_events_s": 0, "out_bytes_s": 0}
    assert set(first) == {"t", "rates", "hubs", "groups", "workers", "functions", "status"}
    assert [one["name"] for one in first["hubs"]] == ["r"]
    assert first["status"] == {"durability": "os", "ready": True, "memory_bytes": 1, "disk_free_bytes": 1}
    assert first["workers"] == hub.status["workers"]
    [row] = second["hubs"]
    assert row["events"] == 10
    assert row["in_events_s"] == second["rates"]["in_events_s"] > 0
    assert second["rates"]["in_bytes_s"] > 0


def test_one_sampler_for_all_and_none_for_nobody(hub):
    live = hub.head._app._live
    with feed(hub, "/v1/live") as first, feed(hub, "/v1/live") as second:
        for _ in range(2):
            assert first.next()
            assert second.next()
        assert live.samples <= 4
    until(lambda: hub.head.counters.streams == 0)
    assert live._task is None
    with feed(hub, "/v1/live") as third:
        assert third.next()


def test_one_failed_sample_does_not_blind_the_page(hub, monkeypatch):
    real, calls = hub.broker.group_names, []

    async def once():
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return await real()

    monkeypatch.setattr(hub.broker, "group_names", once)
    with feed(hub, "/v1/live") as live:
        assert live.next()[0] == "message"
    assert len(calls) >= 2


def test_rates():
    before = Sample(
        10.0, {("r", 0): 100, ("r", 1): 5, ("s", 0): 7}, {("r", 0): 1000, ("r", 1): 900}, {("g", ("r", 0)): 50}
    )
    now = Sample(
        12.0,
        {("r", 0): 300, ("r", 1): 5, ("new", 0): 99},
        {("r", 0): 3000, ("r", 1): 100},
        {("g", ("r", 0)): 250, ("h", ("r", 0)): 9},
        {"r": 10.0},
    )
    moved = rates(before, now)
    assert moved.in_events_s == 100
    assert moved.in_bytes_s == 1000  # partition 1 shrank by retention, which is no negative rate
    assert moved.out_events_s == 100
    assert moved.out_bytes_s == 1000
    assert moved.hubs == {"r": 100}


@pytest.mark.parametrize("at_s", [10.0, 9.0, 16.0])
def test_no_rates_without_a_recent_sample(at_s):
    before = Sample(10.0, {("r", 0): 0})
    assert rates(before, Sample(at_s, {("r", 0): 100})).in_events_s == 0
    assert rates(None, Sample(at_s, {("r", 0): 100})).in_events_s == 0


def test_group_progress_is_what_goes_out(hub):
    from gridwire.broker.port import Position

    create(hub, partitions=1)
    append(hub, "r", 0, [b"x"] * 100)
    clock = ManualClock()

    async def go():
        overview = Overview(hub.broker, hub.membership, lambda: hub.status, clock)
        live = Live(hub.broker, overview, clock)
        await hub.broker.commit("g", {("r", 0): Position(0)})
        await live.tick()
        await hub.broker.commit("g", {("r", 0): Position(60)})
        clock.advance(2)
        return await live.tick()

    tick = hub.run(go())
    assert tick["rates"]["out_events_s"] == 30
    assert tick["rates"]["out_bytes_s"] > 0
    assert tick["groups"][0]["lag_events"] == 40


def test_stop_cuts_off_a_request_that_never_ends(http_hub):
    hub = http_hub(limits=HttpLimits(drain_s=0.2))
    with socket.create_connection(("127.0.0.1", hub.head.port), 10) as peer:
        peer.sendall(b"POST /v1/hubs/r/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nabc")
        until(lambda: hub.head.counters.connections == 1)
        started = time.monotonic()
        hub.stop()
        assert time.monotonic() - started < 3
