"""Hubs, groups, browsing, status, metrics and the page over a real broker."""

import asyncio
import struct

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gridwire.broker.port import Position
from gridwire.core import batch, compression
from gridwire.core.batch import Event
from gridwire.core.clock import ManualClock
from gridwire.core.errors import Corruption
from gridwire.heads.http import reading
from gridwire.heads.http.metrics import METRICS


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def hub(http_hub, clock):
    return http_hub(clock=clock, counters={"kafka": lambda: {"requests": 7}})


@pytest.fixture
def client(hub):
    with httpx.Client(base_url=hub.url) as client:
        yield client


def append(hub, name, partition, events, **options):
    async def add():
        return await hub.broker.append(name, partition, batch.encode(events, **options))

    return hub.run(add())


def problem(response, status, reason):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert reason in response.json()["detail"]


def test_hub_life(client):
    made = client.post("/v1/hubs", json={"name": "r", "partitions": 2, "settings": {"retention_ms": 1000}})
    assert made.status_code == 201
    shown = made.json()
    assert (shown["name"], shown["partitions"], shown["internal"], shown["events"]) == ("r", 2, False, 0)
    assert shown["settings"]["retention_ms"] == 1000
    assert shown["bounds"] == [{"partition": n, "start": 0, "end": 0, "bytes": 0} for n in range(2)]
    assert client.get("/v1/hubs/r").json() == shown
    assert shown in client.get("/v1/hubs").json()["hubs"]
    grown = client.patch("/v1/hubs/r", json={"partitions": 3, "settings": {"retention_ms": "2000"}}).json()
    assert (grown["partitions"], grown["settings"]["retention_ms"], grown["id"]) == (3, 2000, shown["id"])
    assert client.patch("/v1/hubs/r", json={"partitions": 3}).status_code == 200
    gone = client.delete("/v1/hubs/r")
    assert (gone.status_code, gone.content) == (204, b"")
    problem(client.get("/v1/hubs/r"), 404, "'r'")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"name": "r"}, 409, "exists"),
        ({"name": "a b"}, 400, "not allowed"),
        ({"name": ""}, 400, "not allowed"),
        ({"name": "__x"}, 403, "platform's own"),
        ({"name": "n", "partitions": 0}, 400, "1 to 1024"),
        ({"name": "n", "partitions": 1025}, 400, "1 to 1024"),
        ({"name": "n", "partitions": "2"}, 400, "partitions"),
        ({"name": "n", "settings": {"nope": 1}}, 400, "nope"),
        ({"name": "n", "settings": {"retention_ms": -2}}, 400, "retention_ms"),
        ({"name": "n", "parts": 2}, 400, "parts"),
        ({}, 400, "name"),
        ([], 400, "object"),
    ],
)
def test_create_refused(client, body, status, reason):
    client.post("/v1/hubs", json={"name": "r"})
    problem(client.post("/v1/hubs", json=body), status, reason)


def test_alter_and_delete_refused(client):
    client.post("/v1/hubs", json={"name": "r", "partitions": 2})
    problem(client.patch("/v1/hubs/r", json={"partitions": 1}), 400, "only become more")
    problem(client.patch("/v1/hubs/r", json={"settings": {"cleanup": "x"}}), 400, "cleanup")
    problem(client.patch("/v1/hubs/r", content=b"{"), 400, "body")
    problem(client.patch("/v1/hubs/r", content=b"x" * (2**20 + 1)), 413, "limit")
    problem(client.patch("/v1/hubs/none", json={}), 404, "none")
    problem(client.delete("/v1/hubs/none"), 404, "none")
    problem(client.delete("/v1/hubs/__control"), 403, "platform's own")
    problem(client.patch("/v1/hubs/__control", json={}), 403, "platform's own")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/hubs/r/events", "POST, GET"),
        ("POST", "/v1/status", "GET"),
        ("DELETE", "/v1/groups/g", "GET"),
        ("HEAD", "/v1/live", "GET"),
        ("POST", "/", "GET, HEAD"),
    ],
)
def test_wrong_methods_say_which_are_right(client, method, path, allowed):
    client.post("/v1/hubs", json={"name": "r"})
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_options_and_head(client):
    answer = client.options("/v1/hubs")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, POST")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.head("/v1/hubs").status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nope", "/v1/hubs/r/nope", "/v1/hubs/r/events/x", "/nope", "/v1x"])
def test_unknown_addresses(client, path):
    problem(client.get(path), 404, "nothing is at")


def offsets(answer):
    return [event["offset"] for event in answer.json()["events"]]


def test_browse(hub, client):
    client.post("/v1/hubs", json={"name": "r", "partitions": 2})
    for start in range(0, 1000, 100):
        append(hub, "r", 1, [Event(b"%d" % number, timestamp=number) for number in range(start, start + 100)])
    path = "/v1/hubs/r/events?partition=1"
    first = client.get(path)
    assert offsets(first) == list(range(100))
    assert {key: first.json()[key] for key in ("next", "start", "end")} == {"next": 100, "start": 0, "end": 1000}
    assert first.json()["events"][7] == {
        "partition": 1,
        "offset": 7,
        "timestamp": 7,
        "key": None,
        "value": 7,
        "format": "json",
        "headers": {},
    }
    assert offsets(client.get(path + "&offset=950&limit=7")) == list(range(950, 957))
    assert offsets(client.get(path + "&offset=-3")) == [997, 998, 999]
    assert offsets(client.get(path + "&offset=-5000&limit=2")) == [0, 1]
    assert client.get(path + "&offset=latest").json() == {"events": [], "next": 1000, "start": 0, "end": 1000}
    assert client.get(path + "&offset=5000").json()["next"] == 1000
    assert offsets(client.get(path + "&limit=10000")) == list(range(1000))
    assert offsets(client.get("/v1/hubs/r/events")) == []
    seen, following = [], 0
    while following < 1000:
        page = client.get(f"{path}&offset={following}&limit=333").json()
        seen += [event["offset"] for event in page["events"]]
        following = page["next"]
    assert seen == list(range(1000))


def test_browse_by_time_and_with_a_filter(hub, client, monkeypatch):
    client.post("/v1/hubs", json={"name": "r", "partitions": 1})
    start = 1_700_000_000_000
    for n in range(0, 1000, 100):  # batches: a filter is searched for block by block
        append(hub, "r", 0, [Event(b'{"n":%d}' % m, timestamp=start + m * 1000) for m in range(n, n + 100)])
    at = "2023-11-14T22:13:27Z"  # seven seconds after the first
    assert offsets(client.get("/v1/hubs/r/events", params={"offset": at, "limit": 2})) == [7, 8]
    assert offsets(client.get("/v1/hubs/r/events", params={"offset": "2030-01-01T00:00:00Z"})) == []
    found = client.get("/v1/hubs/r/events", params={"where": "n >= 500 and n < 503"})
    assert offsets(found) == [500, 501, 502]
    assert found.json()["next"] == 1000
    monkeypatch.setattr("gridwire.heads.http.admin.SEARCH_EVENTS_MAX", 200)
    monkeypatch.setattr("gridwire.heads.http.reading.READ_BYTES", 1_000)
    bounded = client.get("/v1/hubs/r/events", params={"where": "n = 999"}).json()
    assert (bounded["events"], bounded["next"] < 1000) == ([], True)
    problem(client.get("/v1/hubs/r/events", params={"where": "n is 5"}), 400, "")
    problem(client.get("/v1/hubs/r/events", params={"offset": "yesterday"}), 400, "")


@pytest.mark.parametrize("codec", [compression.NONE, compression.ZSTD, compression.GZIP])
def test_browse_into_a_large_batch(hub, client, codec):
    client.post("/v1/hubs", json={"name": "r", "partitions": 1})
    events = [Event(b"%d" % number, b"k", (("h", b"v"),), 1000 + number) for number in range(5000)]
    append(hub, "r", 0, events, codec=codec)
    page = client.get("/v1/hubs/r/events?offset=4990&limit=5").json()
    assert [(event["offset"], event["value"], event["timestamp"]) for event in page["events"]] == [
        (number, number, 1000 + number) for number in range(4990, 4995)
    ]
    assert page["events"][0]["headers"] == {"h": "v"}


@pytest.mark.parametrize("offset", [0, 1, 255, 256, 257, 258, 511, 512, 900, 999])
def test_blocks_start_anywhere(offset):
    first = batch.encode([Event(b"%d" % number) for number in range(600)], base_offset=0)
    second = batch.encode([Event(b"%d" % number) for number in range(600, 1000)], base_offset=600)
    found = list(reading.blocks(bytes(first + second), offset))
    assert [int(event.value) for block in found for event in block.events] == list(range(offset, 1000))
    assert [event.offset for block in found for event in block.events] == list(range(offset, 1000))
    assert found[-1].next_offset == 1000
    assert all(len(block.events) <= reading.BLOCK_EVENTS for block in found)


def test_blocks_skip_control_batches():
    control = batch.encode([Event(b"\0\0\0\0")], base_offset=0, attributes=batch.CONTROL)
    data = batch.encode([Event(b"1")], base_offset=1)
    found = list(reading.blocks(bytes(control + data), 0))
    assert [event.value for block in found for event in block.events] == [b"1"]
    assert [block.next_offset for block in found] == [1, 2, 2]


@pytest.mark.parametrize("offset", [0, 400])
def test_damaged_records_are_corruption(offset):
    data = batch.encode([Event(b"x" * 10) for _ in range(500)])
    data[batch.HEADER_BYTES : batch.HEADER_BYTES + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(Corruption, match="hub 'r' partition 3"):
        list(reading.blocks(bytes(data), offset, "r", 3))


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("partition=2", 404),
        ("partition=-1", 400),
        ("partition=x", 400),
        ("limit=0", 400),
        ("limit=10001", 400),
        ("offset=x", 400),
        ("offset=--1", 400),
        ("offset=", 400),
        ("offset=" + "9" * 30, 400),
        ("offset=٣", 400),
    ],
)
def test_browse_refused(client, query, status):
    client.post("/v1/hubs", json={"name": "r", "partitions": 2})
    problem(client.get("/v1/hubs/r/events?" + query), status, "")
    problem(client.get("/v1/hubs/none/events"), 404, "none")


def test_browse_answers_are_bounded_in_bytes(hub, client, monkeypatch):
    monkeypatch.setattr("gridwire.heads.http.admin.BROWSE_BYTES_MAX", 1000)
    client.post("/v1/hubs", json={"name": "r", "partitions": 1})
    append(hub, "r", 0, [Event(b'"%s"' % (b"x" * size)) for size in (5000, 10, 10)])
    assert client.get("/v1/hubs/r/events").json()["next"] == 1
    assert offsets(client.get("/v1/hubs/r/events?offset=1")) == [1, 2]


def commit(hub, group, positions):
    hub.run(hub.broker.commit(group, {place: Position(offset) for place, offset in positions.items()}))


def test_groups_and_their_lag(hub, client, clock):
    assert client.get("/v1/groups").json() == {"groups": []}
    client.post("/v1/hubs", json={"name": "r", "partitions": 2})
    now = clock.now_ms()
    append(hub, "r", 0, [Event(b"1", timestamp=now - 60_000)])
    append(hub, "r", 0, [Event(b"2", timestamp=now - 30_000), Event(b"3", timestamp=now)])
    append(hub, "r", 1, [Event(b"4", timestamp=now - 5_000)])
    commit(hub, "g/1 ä", {("r", 0): 1, ("r", 1): 1})
    [row] = client.get("/v1/groups").json()["groups"]
    assert row == {"group": "g/1 ä", "state": "Empty", "members": 0, "lag_events": 2, "lag_seconds": 30.0}
    detail = client.get("/v1/groups/g%2F1%20%C3%A4").json()
    assert detail["partitions"] == [
        {"hub": "r", "partition": 0, "position": 1, "end": 3, "lag_events": 2, "lag_seconds": 30.0},
        {"hub": "r", "partition": 1, "position": 1, "end": 1, "lag_events": 0, "lag_seconds": 0.0},
    ]
    assert detail["members"] == []
    clock.advance(2)
    assert client.get("/v1/groups").json()["groups"][0]["lag_seconds"] == 32.0
    problem(client.get("/v1/groups/none"), 404, "none")


ASSIGNMENT = struct.pack(">hih1sii", 0, 1, 1, b"r", 1, 1) + struct.pack(">i", -1)


async def join(membership):
    joined = await membership.join(
        "live", "", None, "my-client", "/127.0.0.1", 10_000, 10_000, "consumer", [("range", b"")],
        require_known_member=False,
    )  # fmt: skip
    await membership.sync(
        "live", joined.generation, joined.member_id, None, "consumer", "range", [(joined.member_id, ASSIGNMENT)]
    )
    return joined.member_id


def test_group_members(hub, client):
    member = hub.run(join(hub.membership))
    detail = client.get("/v1/groups/live").json()
    assert (detail["state"], detail["lag_events"]) == ("Stable", 0)
    assert detail["members"] == [
        {"id": member, "client_id": "my-client", "host": "/127.0.0.1", "partitions": [{"hub": "r", "partitions": [1]}]}
    ]
    client.post("/v1/hubs", json={"name": "r"})
    problem(client.post("/v1/groups/live/reset", json={"hub": "r", "to": "latest"}), 409, "1 members")


def test_workers_are_members_of_their_group(hub, client):
    client.post("/v1/hubs", json={"name": "r", "partitions": 1})
    commit(hub, "grid.sums", {("r", 0): 0})
    hub.status["workers"] = [{"name": "sums", "pid": 1, "state": "running", "restarts": 2, "group": "grid.sums"}]
    [row] = client.get("/v1/groups").json()["groups"]
    assert (row["state"], row["members"]) == ("Stable", 1)
    problem(client.post("/v1/groups/grid.sums/reset", json={"hub": "r", "to": "latest"}), 409, "worker")


@pytest.mark.parametrize(
    ("to", "expected"),
    [("earliest", 0), ("latest", 3), (2, 2), ("1970-01-01T00:00:02Z", 1), ("2099-01-01T00:00:00Z", 3)],
)
def test_reset(hub, client, to, expected):
    client.post("/v1/hubs", json={"name": "r", "partitions": 1})
    append(hub, "r", 0, [Event(b"x", timestamp=at) for at in (1000, 2000, 3000)])
    commit(hub, "g", {("r", 0): 1})
    answer = client.post("/v1/groups/g/reset", json={"hub": "r", "to": to})
    assert answer.status_code == 200
    assert answer.json()["partitions"][0]["position"] == expected
    assert hub.run(hub.broker.positions("g"))["r", 0].offset == expected


def test_reset_of_one_partition(hub, client):
    client.post("/v1/hubs", json={"name": "r", "partitions": 2})
    commit(hub, "g", {("r", 0): 0, ("r", 1): 0})
    append(hub, "r", 0, [Event(b"x")])
    append(hub, "r", 1, [Event(b"x")])
    rows = client.post("/v1/groups/g/reset", json={"hub": "r", "to": "latest", "partition": 1}).json()["partitions"]
    assert [row["position"] for row in rows] == [0, 1]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"hub": "none", "to": "latest"}, 404),
        ({"hub": "r", "to": 1}, 400),
        ({"hub": "r", "to": -1}, 400),
        ({"hub": "r", "to": "now"}, 400),
        ({"hub": "r", "to": None}, 400),
        ({"hub": "r", "to": "latest", "partition": 9}, 404),
        ({"hub": "r"}, 400),
    ],
)
def test_reset_refused(client, body, status):
    client.post("/v1/hubs", json={"name": "r", "partitions": 1})
    problem(client.post("/v1/groups/g/reset", json=body), status, "")


def test_health_and_status(hub, client):
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").json() == {"ready": True}
    assert client.get("/v1/status").json() == hub.status
    hub.status["ready"] = False
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_metrics(hub, client):
    client.post("/v1/hubs/r/events?partition=0", content=b"[1,2]", headers={"content-type": "application/json"})
    commit(hub, "g", {("r", 0): 1})
    hub.status["workers"] = [{"name": "w", "pid": 1, "state": "running", "restarts": 2, "group": "x"}]
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    for row in METRICS:
        assert row.name.removesuffix("_total") in families, row.name
        assert not row.unit or row.unit in row.name
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        for sample in family.samples
    }
    place = (("hub", "r"), ("partition", "0"))
    assert samples["gridwire_hub_end_offset", place] == 2
    assert samples["gridwire_hub_size_bytes", place] > 0
    assert samples["gridwire_group_lag_events", (("group", "g"), *place)] == 1
    assert samples["gridwire_http_events_received_total", ()] == 2
    assert samples["gridwire_http_requests_total", (("route", "events"), ("status", "200"))] == 1
    assert samples["gridwire_http_append_seconds_count", ()] == 1
    assert samples["gridwire_worker_restarts_total", (("worker", "w"),)] == 2
    assert samples["gridwire_part_count", (("name", "requests"), ("part", "kafka"))] == 7
    assert samples["gridwire_build_info", (("durability", "os"), ("version", "0.0.0"))] == 1


def test_an_error_of_ours_is_a_500_that_tells_nothing(hub, client, monkeypatch):
    monkeypatch.setattr(hub.broker, "hubs", lambda: 1 / 0)
    answer = client.get("/v1/hubs")
    problem(answer, 500, "its log has the reason")
    assert "division" not in answer.text


def test_page(http_hub, tmp_path):
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html>")
    (static / "assets" / "index-BxY12z_9.js").write_text("1")
    (static / "assets" / "map.mjs").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    (static / ".hidden").write_text("secret")
    with httpx.Client(base_url=http_hub(static_dir=static).url) as client:
        page = client.get("/")
        assert page.text == "<!doctype html>"
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-cache"
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        script = client.get("/assets/index-BxY12z_9.js")
        assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert script.headers["content-type"].startswith("text/javascript")
        module = client.get("/assets/map.mjs")
        assert module.headers["cache-control"] == "no-cache"
        assert module.headers["content-type"].startswith("text/javascript")
        again = client.get("/assets/map.mjs", headers={"if-none-match": module.headers["etag"]})
        assert again.status_code in (200, 304)
        for path in (
            "/.hidden",
            "/assets",
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/assets/..%2f..%2fsecret.txt",
        ):
            assert client.get(path).status_code == 404, path


def test_without_a_page_there_is_a_hint(client, hub):
    answer = client.get("/")
    assert answer.status_code == 200
    assert f"{hub.url}/v1/status" in answer.text


def test_busy_port_is_an_error_for_the_caller(http_hub):
    first = http_hub()
    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{first.head.port}"):
        http_hub(port=first.head.port)
    assert httpx.get(first.url + "/healthz").status_code == 200


def test_signal_handlers_stay_as_they_are(http_hub):
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    http_hub()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_stop_twice_and_stop_before_start(tmp_path):
    from gridwire.broker.embedded import EmbeddedBroker
    from gridwire.broker.membership import Membership
    from gridwire.heads.http.server import HttpHead

    async def go():
        broker = await EmbeddedBroker.open(tmp_path / "d", "os")
        membership = Membership(ManualClock())
        head = HttpHead(broker, membership, port=0, status=dict)
        await head.stop()
        await head.start()
        await head.stop()
        await head.stop()
        await membership.close()
        await broker.close()

    asyncio.run(go())
